# SPDX-License-Identifier: MIT
"""Too little of something: disk, descriptors, memory; and a wall clock that jumps. Nothing acknowledged may be lost.

The small file system is a tmpfs in a mount namespace that a child of ours holds, so that it goes with us whatever
happens; the memory limit is a cgroup. Both need root. Times are faked by libfaketime, the wall clock alone.
"""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.children import Child, Scratch
from bench.failure import RunFailed
from bench.programs import find_program

from crash.figures import Figure
from crash.ledger import Comparison, promises
from crash.options import Options
from crash.relay import PROGRAM, Books, Relay, await_drained

DISK_MIB = 24
CGROUPS = Path("/sys/fs/cgroup/memory")
FAKETIME = next(
    iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), Path("/usr/lib/faketime/libfaketime.so.1")
)
SPARE_MEMORY = 64 << 20
_DAY = 86_400
Facts = dict[str, int | float | str]


def missing(options: Options) -> list[str]:
    """Say what is not there."""
    lines = [f"{name} is not installed" for name in ("unshare", "nsenter", "prlimit") if find_program(name) is None]
    if os.geteuid() != 0:
        lines.append("a small file system and a memory cgroup need root")
    if not FAKETIME.exists():
        lines.append("libfaketime is not installed: run tools/system-packages")
    return lines


def run(scratch: Scratch, options: Options) -> Iterator[Figure]:
    """Run each experiment, and give its figure."""
    experiments: dict[str, Callable[[Scratch, Options, int], Facts]] = {
        "disk": _fill_disk,
        "descriptors": _exhaust_descriptors,
        "memory": _flood_memory,
        "clock": _jump_clock,
    }
    for what, experiment in experiments.items():
        rounds = options.rounds_of(1, 3)
        began, failures, why, facts = time.monotonic(), 0, "", Facts()
        for number in range(rounds):
            try:
                facts = experiment(scratch, options, options.seed + number)
            except (RunFailed, AssertionError) as failed:
                failures += 1
                why = why or f"seed {options.seed + number}: {failed}"
            finally:
                scratch.kill_children()
        yield Figure(
            suite="limits", what=what, n=rounds, failures=failures, seconds=round(time.monotonic() - began, 1),
            seed=options.seed, facts=facts, why=why,
        )  # fmt: skip


class SmallDisk:
    """A tmpfs on `path`, seen by those who come in through `wrapper`, and by us at `seen`."""

    def __init__(self, scratch: Scratch, name: str, mib: int) -> None:
        self.path = scratch.directory(name)
        script = f"mount -t tmpfs -o size={mib}m none {self.path} && echo mounted >&2 && exec sleep infinity"
        self._holder: Child = scratch.start(f"{name}-holder", ["unshare", "-m", "sh", "-c", script])
        deadline = time.monotonic() + 10
        while "mounted" not in self._holder.complaint():
            if time.monotonic() > deadline or self._holder.exit_code() is not None:
                raise RunFailed(f"no tmpfs can be mounted: {self._holder.complaint()}")
            time.sleep(0.02)
        self.seen = Path(f"/proc/{self._holder.pid}/root{self.path}")

    @property
    def wrapper(self) -> tuple[str, ...]:
        """Give the words before a command that is to see it."""
        return ("nsenter", "-t", str(self._holder.pid), "-m", "--")

    def fill(self) -> None:
        """Take all that is left."""
        with (self.seen / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(65536))
        with (self.seen / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(512))

    def take(self, mib: int) -> None:
        """Take so much, as others do who were there before."""
        (self.seen / "others").write_bytes(bytes(mib << 20))

    def clear(self) -> None:
        """Give all of it back."""
        (self.seen / "filler").unlink()
        (self.seen / "others").unlink()


def _command(relay: Relay, *words: str) -> str:
    """Run a command where the relay sees its state directory. Raises: RunFailed."""
    answer = subprocess.run(
        [*relay.wrapper, *PROGRAM, *words, "--state-dir", str(relay.state)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if answer.returncode != 0:
        raise RunFailed(f"{' '.join(words)} ended with {answer.returncode}: {answer.stderr.strip()}")
    return answer.stdout


def _refusals(books: Books) -> list[str]:
    return [line["reply"] for line in books.ledger() if line["event"] == "refused"]


def _await(is_true: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline:
            raise RunFailed(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(0.1)


def _must_be_clean(found: Comparison) -> None:
    if found.failures:
        raise RunFailed(
            f"lost {found.lost[:3]}, altered {found.altered[:3]}, foreign {found.foreign[:3]},"
            f" reports doubled {found.doubled_reports[:3]}"
        )


def _fill_disk(scratch: Scratch, options: Options, seed: int) -> Facts:
    """Mail that nobody takes fills the disk; then others fill the rest; then there is room again."""
    books = Books(scratch, "disk")
    disk = SmallDisk(scratch, f"small-{seed}", DISK_MIB)
    disk.take(DISK_MIB // 4)  # the relay keeps an eighth free: room is back when more than that is
    state = disk.path / "state"
    relay = Relay(scratch, state, books.sink_port, wrapper=disk.wrapper, config='\n[retry]\nfirst = "1h"\n')
    relay.start()
    load = books.load(
        relay.port, seed, "--kinds", "never=1", "--octets", "20000", "--sessions", "4", "--pause", "0.002"
    )
    _await(lambda: len(_refusals(books)) >= 20, "no mail is refused, and the disk is small")
    load.stop(20)
    refusals = _refusals(books)
    wrong = [reply for reply in refusals if not reply.startswith("452 4.3.1")]
    if wrong:
        raise RunFailed(f"a full disk was answered with {wrong[0]}")
    disk.fill()
    _settle_while_full(relay)
    cancelled = _cancel_while_full(relay, books)
    if "250" in (reply := _try_one(books, relay, seed + 1)):
        raise RunFailed(f"with a full disk it said {reply}")
    disk.clear()
    good = books.load(relay.port, seed + 2, "--kinds", "ok=1", "--octets", "3000", "--sessions", "2", "--pause", "0.05")
    _await(
        lambda: sum("ok." in to for line in books.arrived() for to in line["to"]) >= 20, "no mail after room came back"
    )
    good.stop(20)
    relay.kill()
    relay.start()
    found = await_drained(books, 30)
    _must_be_clean(found)
    _all_there(relay, books, cancelled)
    return {"acknowledged": found.acknowledged, "refused": len(refusals), "cancelled": len(cancelled)}


def _settle_while_full(relay: Relay) -> None:
    """Retries go on, and what they say is written down."""
    before = _attempts(relay)
    _command(relay, "queue", "retry", "--all")
    _await(lambda: _attempts(relay) > before, "no attempt was recorded while the disk was full")


def _attempts(relay: Relay) -> int:
    lines = _command(relay, "queue", "list", "--json").splitlines()
    return sum(each["attempts"] for line in lines for each in json.loads(line)["recipients"])


def _queued(relay: Relay) -> set[str]:
    lines = _command(relay, "queue", "list", "--json").splitlines()
    return {each["address"] for line in lines for each in json.loads(line)["recipients"]}


def _cancel_while_full(relay: Relay, books: Books) -> set[str]:
    """Cancel a third of the queue; gives whose."""
    addresses = sorted(each for made in promises(books.ledger()).values() for each in made.recipients)[::3][:30]
    for address in addresses:
        _command(relay, "queue", "cancel", "--to", address)
    _await(lambda: not _queued(relay) & set(addresses), "what was cancelled while the disk was full is still there")
    return set(addresses)


def _try_one(books: Books, relay: Relay, seed: int) -> str:
    before = len(books.ledger())
    load = books.load(relay.port, seed, "--kinds", "ok=1", "--messages", "1", "--sessions", "1")
    load.wait(30)
    last: dict[str, Any] = books.ledger()[before:][-1]
    return str(last.get("reply", last["event"]))


def _all_there(relay: Relay, books: Books, cancelled: set[str]) -> None:
    made = {each for made in promises(books.ledger()).values() for each in made.recipients if each.startswith("never.")}
    if gone := made - cancelled - _queued(relay):
        raise RunFailed(f"acknowledged, never taken by anybody, and gone: {sorted(gone)[:3]} of {len(gone)}")


def _exhaust_descriptors(scratch: Scratch, options: Options, seed: int) -> Facts:
    """More clients than there are descriptors; then it is as before."""
    books = Books(scratch, "descriptors", delay_s=0.02)
    relay = Relay(
        scratch, scratch.directory(f"descriptors-{seed}"), books.sink_port, wrapper=("prlimit", "--nofile=96:96", "--"),
        config="\n[limits]\nconnections = 1000\nconnections_per_client = 1000\n",
    )  # fmt: skip
    relay.state.chmod(0o700)
    relay.start()
    crowd = books.load(relay.port, seed, "--sessions", "200", "--octets", "90000", "--messages", "1500")
    crowd.wait(20 if options.is_quick else 60)
    crowd.stop(60)
    if relay.exit_code is not None:
        raise RunFailed(f"it ended with {relay.exit_code}: {relay.complaint()}")
    after = books.load(relay.port, seed + 1, "--kinds", "ok=1", "--messages", "50", "--sessions", "4")
    if after.wait(60) != 0:
        raise RunFailed("no mail is taken after the crowd has gone")
    found = await_drained(books, 60)
    _must_be_clean(found)
    bad = [reply for reply in _refusals(books) if not reply.startswith(("421", "451", "452"))]
    if bad:
        raise RunFailed(f"a lack of descriptors was answered with {bad[0]}")
    relay.stop()
    return {"acknowledged": found.acknowledged, "refused": len(_refusals(books)), "duplicates": found.duplicates}


def _flood_memory(scratch: Scratch, options: Options, seed: int) -> Facts:
    """Messages of 10 MiB, sixteen at a time, with 64 MiB more than the idle relay has: it is not killed."""
    cgroup = CGROUPS / f"smarthost-crash-{os.getpid()}-{seed}"
    cgroup.mkdir()
    try:
        books = Books(scratch, "memory")
        join = f'echo $$ > {cgroup}/cgroup.procs && exec "$@"'
        state = scratch.directory(f"memory-{seed}")
        state.chmod(0o700)
        relay = Relay(scratch, state, books.sink_port, wrapper=("sh", "-c", join, "sh"))
        relay.start()
        idle = sum(process.memory_info().rss for process in relay.family())
        (cgroup / "memory.limit_in_bytes").write_text(str(idle + SPARE_MEMORY))
        messages = 24 if options.is_quick else 200
        load = books.load(
            relay.port,
            seed,
            "--kinds",
            "ok=1",
            "--octets",
            str(10 << 20),
            "--sessions",
            "16",
            "--messages",
            str(messages),
        )
        if load.wait(300) != 0:
            raise RunFailed("the flood does not end")
        was_killed = relay.exit_code is not None
        if was_killed:
            relay.kill()
            relay.start()
        found = await_drained(books, 120)
        _must_be_clean(found)
        most = int((cgroup / "memory.max_usage_in_bytes").read_text())
        relay.stop()
        if was_killed:
            raise RunFailed(f"the kernel killed it for memory (nothing was lost): {most >> 20} MiB")
        if not found.acknowledged:
            raise RunFailed("not one message was taken")
        return {
            "acknowledged": found.acknowledged, "refused": len(_refusals(books)), "idle_mib": idle >> 20,
            "most_mib": most >> 20, "limit_mib": (idle + SPARE_MEMORY) >> 20,
        }  # fmt: skip
    finally:
        scratch.kill_children()
        _await(lambda: not (cgroup / "cgroup.procs").read_text().strip(), "processes stay in the cgroup")
        cgroup.rmdir()


def _jump_clock(scratch: Scratch, options: Options, seed: int) -> Facts:
    """The wall clock jumps forward by days and back by hours, while it runs and while it is down."""
    books = Books(scratch, "clock", tries=3)
    state = scratch.directory(f"clock-{seed}")
    state.chmod(0o700)
    offset = scratch.path / "offset"
    environment = {
        "LD_PRELOAD": str(FAKETIME), "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_NO_CACHE": "1",
        "FAKETIME_TIMESTAMP_FILE": str(offset),
    }  # fmt: skip
    offset.write_text("+0")
    relay = Relay(scratch, state, books.sink_port, environment=environment)
    relay.start()
    jumps = (6 * _DAY, -7_200, 30 * _DAY, 0)
    for number, jump in enumerate(jumps):
        load = books.load(relay.port, seed + number, "--kinds", "ok=2,later=2,never=1,no=1", "--messages", "60")
        load.wait(60)
        offset.write_text(f"{jump:+d}")  # while it runs, with mail waiting for its next attempt
        _must_go_on(books, relay, f"while it runs, by {jump} s")
        relay.stop()
        after = -jump if number % 2 else jump + 3 * _DAY
        offset.write_text(f"{after:+d}")  # and while it is down
        relay.start()
        load = books.load(relay.port, seed + 100 + number, "--kinds", "ok=2,later=2,no=1", "--messages", "30")
        load.wait(60)
        _must_go_on(books, relay, f"while it was down, to {after} s")
    found = books.compare()
    made = {each for made in promises(books.ledger()).values() for each in made.recipients if each.startswith("never.")}
    relay.stop()
    return {
        "acknowledged": found.acknowledged,
        "reports": found.reports,
        "still_tried": len(made),
        "jumps": 2 * len(jumps),
    }


def _must_go_on(books: Books, relay: Relay, how: str) -> None:
    """All that can be delivered is, soon; nothing has expired; what nobody takes still has a next attempt."""
    found = await_drained(books, 25)
    if found.lost:
        raise RunFailed(f"after the clock stepped {how}, {len(found.lost)} wait still: {found.lost[:3]}")
    _must_be_clean(found)
    reported = {each for line in books.arrived() for each in line.get("report", ())}
    if early := [each for each in reported if each.startswith(("never.", "later.", "ok."))]:
        raise RunFailed(f"after the clock stepped {how}, {early[0]} was given up early")
    made = {each for made in promises(books.ledger()).values() for each in made.recipients if each.startswith("never.")}
    if gone := made - _queued(relay):
        raise RunFailed(f"after the clock stepped {how}, {sorted(gone)[0]} is gone")
