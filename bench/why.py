# SPDX-License-Identifier: MIT
"""`python -m bench.why`: how long a story takes on a queue of 100,000, and what asking costs whoever delivers.

A relay in this process, paused, its store on a real disk; no network. A story is asked for by recipient, by Message-ID
and by an address nobody knows. CPU is of this process and of the store's child, for each story.
"""

import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from bench.store import child_seconds
from smarthost.assemble import Relay

MESSAGES = 100_000
STORIES = 500
MOST_MS = 100.0
ADDERS = 100


async def fill(relay: Relay, count: int) -> None:
    """Hand in so many messages, from 50 senders to 1,000 domains."""

    async def put(numbers: range) -> None:
        for n in numbers:
            content = b"Message-ID: <m%d@origin.example>\r\nSubject: x\r\n\r\nhello\r\n" % n
            await relay.submit(content, f"s{n % 50}@origin.example", [f"u{n}@d{n % 1000}.example"])

    await asyncio.gather(*[put(range(start, count, ADDERS)) for start in range(ADDERS)])


async def _ask(relay: Relay, texts: list[str], found: int) -> list[float]:
    """Give how long each took, in milliseconds."""
    took = []
    for text in texts:
        began = time.perf_counter()
        stories = await relay.why(text)
        took.append((time.perf_counter() - began) * 1e3)
        assert len(stories) == found, text
    return sorted(took)


async def measure(directory: Path) -> bool:
    """Print the table; gives whether every story came in time."""
    chance = random.Random(1)
    async with Relay(
        state_dir=directory / "state", next_hop="127.0.0.1:9", hostname="relay.bench.test", paused=True
    ) as relay:
        await fill(relay, MESSAGES)
        numbers = [chance.randrange(MESSAGES) for _ in range(STORIES)]
        worst = 0.0
        for name, texts, found in (
            ("recipient", [f"u{n}@d{n % 1000}.example" for n in numbers], 1),
            ("message-id", [f"<m{n}@origin.example>" for n in numbers], 1),
            ("unknown", [f"nobody{n}@nowhere.example" for n in numbers], 0),
        ):
            child = relay.store.child_pid  # type: ignore[attr-defined]
            cpu_s = time.process_time() + child_seconds(child)
            took = await _ask(relay, texts, found)
            cpu_s = time.process_time() + child_seconds(child) - cpu_s
            worst = max(worst, took[-1])
            middle, late = took[STORIES // 2], took[STORIES * 99 // 100]
            print(
                f"why by {name:10} of {MESSAGES:,}: p50 {middle:6.2f} ms  p99 {late:6.2f} ms  max {took[-1]:6.2f} ms"
                f"  cpu {cpu_s / STORIES * 1e3:5.2f} ms a story"
            )
        began = time.perf_counter()
        summary = await relay.summary()
        print(f"queue summary of {summary.recipients:,}: {(time.perf_counter() - began) * 1e3:.0f} ms")
    return worst <= MOST_MS


def main() -> int:
    """Run on a disk, and give the exit code: 1 if a story took longer than it may."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="smarthost-why-") as directory:
        is_fast = asyncio.run(measure(Path(directory)))
    print(f"{'pass' if is_fast else 'FAIL'}  every story within {MOST_MS:.0f} ms")
    return 0 if is_fast else 1


if __name__ == "__main__":
    sys.exit(main())
