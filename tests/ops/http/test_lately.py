# SPDX-License-Identifier: MIT
"""What the overview knows of the last half hour, and answers that are kept for a moment."""

import asyncio

import pytest
from tests.ops.rig import CollectingSink

from smarthost.mail.record import Kind, Record
from smarthost.ops.http.lately import SLOTS, TROUBLES_KEPT, Lately
from smarthost.ops.http.remembered import SHARE, Remembered
from smarthost.testing.clock import FakeClock

NOW = 1_800_000_000.0


def test_counts_fall_into_ten_seconds_and_are_forgotten_after_half_an_hour() -> None:
    """The newest slot is the last of the series; what is older than it reaches back is gone, and memory is bounded."""
    lately = Lately(CollectingSink(), lambda: NOW)

    for second in range(4000):
        lately.record(Record(second, Kind.RELAYED, NOW + second))
    series = lately.series(Kind.RELAYED, NOW + 3999)

    assert [10] * SLOTS == series
    assert [0] * SLOTS == lately.series(Kind.BOUNCED, NOW + 3999)
    assert [10, 0] == lately.series(Kind.RELAYED, NOW + 4000)[-2:]


def test_everything_is_handed_on_and_the_last_troubles_are_kept() -> None:
    """The log misses nothing; of troubles there are so many, in a length that a page can show."""
    sink = CollectingSink()
    lately = Lately(sink, lambda: NOW)

    for n in range(100):
        lately.record(Record(n, Kind.BOUNCED, NOW, f"{n:016d}", "a@b.example", reply="550 " + "x" * 10_000))
    lately.note("error", "store in trouble", why="the disk hangs")
    lately.note("info", "ready")

    assert (100, 2) == (len(sink.records), len(sink.notes))
    assert TROUBLES_KEPT == len(lately.troubles)
    assert ("store in trouble", "why the disk hangs") == (lately.troubles[-1].what, lately.troubles[-1].why)
    assert all(len(each.why) <= 300 for each in lately.troubles)


@pytest.mark.asyncio
async def test_an_answer_is_made_once_for_all_who_ask_and_again_when_it_is_old() -> None:
    """A hundred screens cost one count; what takes long is counted less often; a change is seen at once."""
    clock = FakeClock()
    remembered = Remembered(clock)
    made = 0

    async def count() -> int:
        nonlocal made
        made += 1
        clock.advance(1.0)
        await asyncio.sleep(0)
        return made

    assert [1] * 100 == await asyncio.gather(*(remembered.ask("queue", 4.0, count) for _ in range(100)))
    clock.advance(SHARE - 1)
    assert 1 == await remembered.ask("queue", 4.0, count)
    assert SHARE - 1 == remembered.age_s("queue")
    clock.advance(2)
    assert 2 == await remembered.ask("queue", 4.0, count)
    remembered.forget()
    assert 3 == await remembered.ask("queue", 4.0, count)
