# SPDX-License-Identifier: MIT
"""queue.schedule: when a recipient is tried again, and when no more."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smarthost.mail.errors import ConfigError
from smarthost.queue.schedule import RetrySchedule

DAY = 86400.0


class Chance:
    """Random that always says the same."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value

    def shuffle(self, x: list[Any], /) -> None:
        raise AssertionError("the schedule shuffles nothing")

    def getrandbits(self, k: int, /) -> int:
        raise AssertionError("the schedule wants no bits")


MIDDLE = Chance(0.5)


def test_delays_double_from_first_to_longest() -> None:
    """300 s, 600 s, 1200 s, 2400 s, then 4000 s for ever."""
    schedule = RetrySchedule()

    delays = [schedule.next_attempt(n, 1000.0, 0.0, MIDDLE) - 1000.0 for n in range(1, 8)]

    assert delays == [300.0, 600.0, 1200.0, 2400.0, 4000.0, 4000.0, 4000.0]


@pytest.mark.parametrize("attempts", [-1, 0, 1])
def test_before_the_second_attempt_the_first_delay_holds(attempts: int) -> None:
    """Whoever asks with no attempt counted yet gets the first delay, not half of it."""
    assert RetrySchedule().next_attempt(attempts, 0.0, 0.0, MIDDLE) == 300.0


@pytest.mark.parametrize(("chance", "delay"), [(0.0, 270.0), (0.5, 300.0), (1.0, 330.0)])
def test_jitter_is_ten_percent_either_way(chance: float, delay: float) -> None:
    """Chance moves a delay by at most a tenth, up or down."""
    assert RetrySchedule().next_attempt(1, 0.0, 0.0, Chance(chance)) == pytest.approx(delay)


def test_jitter_applies_beyond_the_longest_delay() -> None:
    """A queue that has waited long does not come due in one heap."""
    assert RetrySchedule().next_attempt(9, 0.0, 0.0, Chance(1.0)) == pytest.approx(4400.0)


def test_last_attempt_is_placed_at_expiry_not_after_it() -> None:
    """Mail gets its last try at the very end of its five days."""
    schedule = RetrySchedule()

    at = schedule.next_attempt(9, 5 * DAY - 100.0, 0.0, MIDDLE)

    assert at == 5 * DAY == schedule.expires_at(0.0)
    assert schedule.is_expired(0.0, at)


def test_expired_exactly_at_expiry_and_not_before() -> None:
    """A failure at the expiry time is final, one just before it is not."""
    schedule = RetrySchedule(expire_after_s=1000.0)

    assert not schedule.is_expired(50.0, 1049.9)
    assert schedule.is_expired(50.0, 1050.0)


def test_sweep_leaves_the_last_attempt_its_chance() -> None:
    """The sweep takes nothing whose last attempt, placed at expiry, may still be under way."""
    schedule = RetrySchedule()
    received_at = 1000.0
    expiry = schedule.expires_at(received_at)

    assert schedule.sweep_before(expiry + 3600.0) < received_at
    assert schedule.sweep_before(expiry + 4001.0) > received_at


def test_sweep_grace_covers_a_postponement_when_delays_are_short() -> None:
    """With short delays the sweep still waits for the hour a recipient may be postponed."""
    schedule = RetrySchedule(first_s=1.0, longest_s=2.0, expire_after_s=60.0)

    assert schedule.sweep_before(10_000.0) == 10_000.0 - 60.0 - 3600.0


@settings(deadline=None)
@given(
    attempts=st.integers(-5, 10**9),
    now=st.floats(0, 4e9),
    age=st.floats(-1e6, 1e7),
    seed=st.integers(0, 1000),
    first=st.floats(0.1, 5000),
    factor=st.floats(1, 100),
)
def test_next_attempt_is_always_later_and_never_beyond_both_bounds(
    attempts: int, now: float, age: float, seed: int, first: float, factor: float
) -> None:
    """Whatever the count and the times, the next attempt lies ahead, within the longest delay, and not after expiry."""
    schedule = RetrySchedule(first_s=first, longest_s=first * factor, expire_after_s=5 * DAY)
    received_at = now - age

    at = schedule.next_attempt(attempts, now, received_at, random.Random(seed))

    assert now < at <= now + first * factor * 1.1 + 1e-3
    if not schedule.is_expired(received_at, now):
        assert at <= schedule.expires_at(received_at)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"first_s": 0.0}, "retry.first_s"),
        ({"first_s": float("nan")}, "retry.first_s"),
        ({"longest_s": float("inf")}, "retry.longest_s"),
        ({"longest_s": 299.0}, "retry.longest_s"),
        ({"jitter": 1.0}, "retry.jitter"),
        ({"jitter": -0.1}, "retry.jitter"),
        ({"jitter": float("nan")}, "retry.jitter"),
        ({"expire_after_s": -1.0}, "retry.expire_after_s"),
        ({"expire_after_s": 10.0}, "retry.expire_after_s"),
        ({"hold_s": 0.0}, "retry.hold_s"),
        ({"delay_warning_s": -1.0}, "retry.delay_warning_s"),
        ({"delay_warning_s": float("inf")}, "retry.delay_warning_s"),
    ],
)
def test_senseless_schedule_is_refused_by_key(settings: dict[str, float], key: str) -> None:
    """A schedule that could not work is refused, and the message names the setting."""
    with pytest.raises(ConfigError, match=key) as caught:
        RetrySchedule(**settings)

    assert caught.value.key == key
