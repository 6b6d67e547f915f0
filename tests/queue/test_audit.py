# SPDX-License-Identifier: MIT
"""queue.audit: who violates "exactly one owner and one next event with a deadline"."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smarthost.queue.audit import HORIZON_S, Claim, Fault, audit

NOW = 1_000_000.0


def claim(n: int = 0, owner: str = "store", next_at: float | None = NOW + 60) -> Claim:
    return Claim("m1", n, owner, next_at)


def faults(unfinished: list[tuple[str, int]], claims: list[Claim]) -> list[tuple[int, Fault]]:
    return [(finding.n, finding.fault) for finding in audit(unfinished, claims, now=NOW)]


def test_one_owner_with_a_time_is_sound() -> None:
    """A recipient that one owner will touch in time gives no finding."""
    assert audit([("m1", 0)], [claim()], now=NOW) == ()


def test_nothing_unfinished_and_nothing_claimed_is_sound() -> None:
    """An empty queue is in order."""
    assert audit([], [], now=NOW) == ()


@pytest.mark.parametrize(
    ("claims", "fault"),
    [
        ([], Fault.NO_OWNER),
        ([claim(owner="store"), claim(owner="feed")], Fault.MANY_OWNERS),
        ([claim(), claim()], Fault.MANY_OWNERS),
        ([claim(next_at=None)], Fault.NO_NEXT_EVENT),
        ([claim(next_at=float("inf"))], Fault.NO_NEXT_EVENT),
        ([claim(next_at=float("nan"))], Fault.NO_NEXT_EVENT),
        ([claim(next_at=NOW - 301)], Fault.OVERDUE),
        ([claim(next_at=NOW + HORIZON_S + 1)], Fault.TOO_FAR),
    ],
)
def test_each_violation_is_found_and_explained(claims: list[Claim], fault: Fault) -> None:
    """Each way to be stuck is found, with a sentence for the operator."""
    findings = audit([("m1", 0)], claims, now=NOW)

    assert [(finding.id, finding.n, finding.fault) for finding in findings] == [("m1", 0, fault)]
    assert len(findings[0].why) > 10


def test_slightly_late_is_not_overdue() -> None:
    """Work that is due now and waits for a slot is not called stuck."""
    assert faults([("m1", 0)], [claim(next_at=NOW - 299)]) == []


def test_claim_upon_a_finished_recipient_is_found() -> None:
    """An owner that keeps what is done leaks."""
    assert faults([("m1", 0)], [claim(0), claim(7)]) == [(7, Fault.FINISHED)]


def test_same_number_in_another_message_is_another_recipient() -> None:
    """A claim for one message does not cover the same recipient number of the next."""
    assert faults([("m1", 0), ("m2", 0)], [claim(0)]) == [(0, Fault.NO_OWNER)]


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 9), unique=True),
    st.lists(st.tuples(st.integers(0, 9), st.none() | st.floats()), max_size=20),
)
def test_sound_exactly_when_each_has_one_claim_with_a_near_time(
    unfinished: list[int], claimed: list[tuple[int, float | None]]
) -> None:
    """The audit is silent about a recipient if and only if the invariant holds for it."""
    keys = [("m1", n) for n in unfinished]
    claims = [claim(n, next_at=at) for n, at in claimed]
    counts = Counter(n for n, _ in claimed)
    times = dict(claimed)

    found = {finding.n for finding in audit(keys, claims, now=NOW)}

    for n in range(10):
        at = times.get(n)
        is_near = at is not None and NOW - 300 <= at <= NOW + HORIZON_S
        is_sound = counts[n] == 1 and is_near if n in unfinished else counts[n] == 0
        assert (n not in found) == is_sound
