# SPDX-License-Identifier: MIT
"""What the durable store does alone and beside a saturated event loop: `python -m bench.store`; about 10 s, then ends.

One message: add (5 KiB, one recipient, leased to the adder) awaited, then settle as relayed, enqueued. Messages and
settlements are made beforehand, so that the CPU told is the store's. "saturated": a callback of 100 us that is called
again in each turn of the loop. Every commit is fsynced in a directory of its own under --directory.
"""

import argparse
import asyncio
import os
import resource
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from smarthost.backends.clock import SystemClock
from smarthost.backends.sqlite.store import SqliteStore
from smarthost.mail.address import Address, Domain
from smarthost.mail.content import InlineContent
from smarthost.mail.envelope import Envelope
from smarthost.mail.identity import IdSource, SequenceSource
from smarthost.mail.message import Message
from smarthost.mail.record import Kind, Record
from smarthost.mail.settlement import SettledRecipient, Settlement, State

BURN_S = 100e-6
DOMAIN = Domain("dest.example")
PREFIX = b"Received: from client.example (client.example [192.0.2.7])\r\n\tby relay.example with ESMTP id x\r\n" * 2


def make_messages(count: int, octets: int, last_number: int) -> list[tuple[Message, Settlement]]:
    """Make messages, each with the settlement that ends it."""
    next_id = IdSource(time.time, 7, last_number).next
    next_seq = SequenceSource(time.time(), last_number).next
    content = InlineContent(os.urandom(octets))
    made = []
    for n in range(count):
        id, now = next_id(), time.time()
        address = Address(f"somebody{n}@dest.example", DOMAIN)
        envelope = Envelope("sender@origin.example", (address,))
        message = Message(id, now, envelope, PREFIX, content, "192.0.2.7", "sender@origin.example")
        settled = SettledRecipient(
            0, address.text, DOMAIN, State.RELAYED, 0.0, 1, "2.0.0", "250 2.0.0 Ok: queued as 4F1234567", ""
        )
        record = Record(
            next_seq(), Kind.RELAYED, now, id, address.text, "sender@origin.example", 1, "2.0.0",
            "250 2.0.0 Ok: queued as 4F1234567", "", "mx.dest.example", "192.0.2.1", "mx.dest.example", "TLSv1.3",
            octets=octets, client="192.0.2.7", queued_s=0.001, connect_s=0.002, handshake_s=0.01, transfer_s=0.03,
        )  # fmt: skip
        made.append((message, Settlement(id, (settled,), (record,))))
    return made


class Saturator:
    """Burns the loop's time, one callback a turn."""

    def __init__(self) -> None:
        self.burnt_s = 0.0
        self.is_on = True

    def __call__(self) -> None:
        start = time.perf_counter()
        while time.perf_counter() - start < BURN_S:
            pass
        self.burnt_s += time.perf_counter() - start
        if self.is_on:
            asyncio.get_running_loop().call_soon(self)


async def run(directory: Path, count: int, octets: int, adders: int, is_saturated: bool) -> str:
    """Run one line of the table."""
    store = SqliteStore(directory, SystemClock(), on_trouble=print)
    await store.open()
    made = iter(make_messages(count, octets, store.last_number))
    waits: list[float] = []
    settling: deque[Awaitable[None]] = deque(maxlen=1)  # they are committed in order

    async def add_and_settle() -> None:
        for message, settlement in made:
            start = time.perf_counter()
            await store.add(message, (DOMAIN,))
            waits.append(time.perf_counter() - start)
            settling.append(store.settle((settlement,)))

    saturator = Saturator()
    if is_saturated:
        asyncio.get_running_loop().call_soon(saturator)
        await asyncio.sleep(0.05)
    burnt_s, cpu_s, start = saturator.burnt_s, time.process_time(), time.perf_counter()
    child_cpu_s = child_seconds(store.child_pid)
    await asyncio.gather(*[add_and_settle() for _ in range(adders)])
    elapsed_s = time.perf_counter() - start
    cpu_s = time.process_time() - cpu_s - (saturator.burnt_s - burnt_s)
    child_cpu_s = child_seconds(store.child_pid) - child_cpu_s
    saturator.is_on = False
    await settling[0]
    left, peak = await store.count(), child_peak(store.child_pid)
    await store.close()
    waits.sort()
    assert len(waits) == count, "each add was answered"
    return (
        f"{'saturated' if is_saturated else 'idle':9} {octets:7} {adders:7} {count / elapsed_s:10,.0f}"
        f" {waits[count // 2] * 1e3:8.2f} {waits[count * 99 // 100] * 1e3:8.2f} {waits[-1] * 1e3:8.2f}"
        f" {cpu_s / count * 1e6:10.1f} {child_cpu_s / count * 1e6:9.1f} {peak:10} {left[0]:5}"
    )


def child_seconds(pid: int | None) -> float:
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def child_peak(pid: int | None) -> str:
    """The most memory that a process has held."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(line for line in status.splitlines() if line.startswith("VmHWM")).split(":")[1].strip()


async def memory(directory: Path) -> str:
    """Say what a child at rest takes."""
    store = SqliteStore(directory, SystemClock())
    await store.open()
    status = Path(f"/proc/{store.child_pid}/status").read_text()
    await store.close()
    return next(line for line in status.splitlines() if line.startswith("VmRSS")).split(":")[1].strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--directory", type=Path, default=None)
    options = parser.parse_args()
    loops: list[tuple[str, Callable[[], asyncio.AbstractEventLoop]]] = [
        ("uvloop", uvloop.new_event_loop),
        ("asyncio", asyncio.new_event_loop),
    ]
    lines = [(5120, 64, False), (5120, 20, False), (5120, 1, False), (5120, 20, True), (65536, 20, False)]
    print(
        "loop    beside     octets  adders messages/s   p50 ms   p99 ms   max ms  parent us  child us child peak  left"
    )
    for name, make_loop in loops:
        for octets, adders, is_saturated in lines:
            count = options.messages if adders > 1 and octets < 65536 else options.messages // 8
            directories = tempfile.TemporaryDirectory(dir=options.directory)
            with directories as directory, asyncio.Runner(loop_factory=make_loop) as runner:
                print(f"{name:7}", runner.run(run(Path(directory), count, octets, adders, is_saturated)))
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        print("child at rest:", asyncio.run(memory(Path(directory))))
    print("peak of this process:", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "MiB")


if __name__ == "__main__":
    main()
