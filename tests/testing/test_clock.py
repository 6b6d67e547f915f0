# SPDX-License-Identifier: MIT
"""The clock a test moves by hand."""

import asyncio

import pytest

from smarthost.testing.clock import START, FakeClock


def test_time_stands_still_unless_advanced() -> None:
    """Nothing passes by itself, so a test reads the same time each run."""
    clock = FakeClock()

    assert clock.wall() == clock.wall() == START
    clock.advance(90.5)

    assert clock.wall() == START + 90.5
    assert clock.monotonic() == FakeClock().monotonic() + 90.5


def test_stepped_wall_clock_expires_nothing() -> None:
    """A test can play the operator who sets the clock: only the wall clock moves."""
    clock = FakeClock()
    fired: list[str] = []
    clock.deadline(10, lambda: fired.append("fired"))
    before = clock.monotonic()

    clock.step_wall(3 * 86_400)

    assert clock.wall() == START + 3 * 86_400
    assert clock.monotonic() == before
    assert not fired


def test_deadlines_fire_at_their_own_time_and_in_its_order() -> None:
    """A callback that looks at the clock sees the moment it was due; equal moments keep the order of their making."""
    clock = FakeClock()
    fired: list[tuple[str, float]] = []

    for name, seconds in (("c", 3), ("a", 1), ("b", 1)):
        clock.deadline(seconds, lambda name=name: fired.append((name, clock.wall() - START)))  # type: ignore[misc]
    clock.advance(10)

    assert fired == [("a", 1), ("b", 1), ("c", 3)]


def test_deadline_set_by_a_callback_fires_in_the_same_advance() -> None:
    """A chain of retries unrolls within one advance."""
    clock = FakeClock()
    fired: list[float] = []

    def again() -> None:
        fired.append(clock.wall() - START)
        deadline.restart(2)

    deadline = clock.deadline(2, again)
    clock.advance(7)

    assert fired == [2, 4, 6]
    assert clock.next_due_s == 1


def test_moved_deadline_fires_once() -> None:
    """Moving to and fro leaves one expiry, at the last moment named."""
    clock = FakeClock()
    fired: list[float] = []
    deadline = clock.deadline(5, lambda: fired.append(clock.wall() - START))

    for seconds in (9, 2, 5, 4):
        deadline.restart(seconds)
    clock.advance(100)

    assert fired == [4]


def test_bug_in_a_callback_reaches_the_test() -> None:
    """What a real clock would report, the fake one raises."""
    clock = FakeClock()
    clock.deadline(1, lambda: 1 / 0)  # type: ignore[arg-type]

    with pytest.raises(ZeroDivisionError):
        clock.advance(2)


@pytest.mark.asyncio
async def test_cancelled_sleeper_leaves_nothing_on_the_agenda() -> None:
    """A task that is cancelled in its sleep is forgotten."""
    clock = FakeClock()
    sleeper = asyncio.ensure_future(clock.sleep(60))
    await asyncio.sleep(0)
    assert clock.next_due_s == 60

    sleeper.cancel()
    await asyncio.wait([sleeper])

    assert clock.next_due_s is None
