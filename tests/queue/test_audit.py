# SPDX-License-Identifier: MIT
"""queue.audit: who violates "exactly one owner and one next event with a deadline"."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smarthost.mail.settlement import State
from smarthost.queue.audit import (
    HORIZON_S,
    LATE_S,
    OWED_S,
    UNSWEPT_S,
    Bounds,
    Claim,
    Fault,
    Standing,
    Suspect,
    audit,
    bounds_at,
    is_suspect,
    judge_stored,
)
from smarthost.queue.schedule import RetrySchedule

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


# What lies in a store

DAY_S = 86_400.0
BOUNDS = bounds_at(NOW, RetrySchedule())
EXPIRY_S = RetrySchedule().expire_after_s


def stored(state: str = "deferred", due: float = NOW, **facts: object) -> Suspect:
    plain: dict[str, object] = {"received_at": NOW - 60, "owed_at": None, "is_leased": False}
    return Suspect("m1", 0, "a@x.example", "x.example", state, due, **{**plain, **facts})  # type: ignore[arg-type]


def fault_of(suspect: Suspect, standing: Standing | None = None, bounds: Bounds = BOUNDS) -> Fault | None:
    found = judge_stored(suspect, bounds, lambda domain: standing if domain == "x.example" else None)
    return None if found is None else found[0]


@pytest.mark.parametrize(
    ("suspect", "fault"),
    [
        (stored(due=NOW - LATE_S - 1), Fault.OVERDUE),
        (stored(due=NOW - LATE_S + 1), None),
        (stored(due=NOW + DAY_S), None),
        (stored(due=NOW + 32 * DAY_S), Fault.TOO_FAR),
        (stored(due=float("inf")), Fault.NO_NEXT_EVENT),
        (stored(due=float("-inf")), Fault.NO_NEXT_EVENT),
        (stored(due=NOW - DAY_S, is_leased=True), None),
        (stored(due=NOW + 32 * DAY_S, is_leased=True), Fault.TOO_FAR),
        (stored("held", NOW - LATE_S - 1), Fault.OVERDUE),
        (stored("held", NOW + 29 * DAY_S), None),
        (stored("held", NOW + 32 * DAY_S), Fault.TOO_FAR),
        (stored(due=NOW + 60, received_at=NOW - EXPIRY_S - 4000 - UNSWEPT_S - 1), Fault.OVERDUE),
        (stored(due=NOW + 60, received_at=NOW - EXPIRY_S - 4000), None),
        (stored("held", NOW + 60, received_at=NOW - 20 * DAY_S), None),
        (stored("bounced", 0.0, owed_at=NOW - OWED_S + 1), None),
        (stored("bounced", 0.0, owed_at=NOW - OWED_S - 1), Fault.OVERDUE),
        (stored(due=NOW + 60, owed_at=NOW - OWED_S - 1), Fault.OVERDUE),
        (stored("relayed", 0.0), Fault.FINISHED),
        (stored("lost"), Fault.UNKNOWN_STATE),
        (stored(received_at=None), Fault.NO_OWNER),
    ],
)
def test_a_stored_recipient_is_judged_by_its_row(suspect: Suspect, fault: Fault | None) -> None:
    """Each way to lie in the store for ever has its name; what waits in order has none, and is not even suspect."""
    assert fault_of(suspect) is fault
    if fault is not None:
        assert is_suspect(suspect.state, suspect.due, suspect.received_at, suspect.owed_at, BOUNDS)


@pytest.mark.parametrize(
    ("standing", "fault"),
    [
        (("a suspension", NOW + 3600), None),
        (("the scan", NOW - LATE_S + 1), None),
        (("the scan", NOW - LATE_S - 1), Fault.OVERDUE),
        (("a suspension", NOW + 32 * DAY_S), Fault.TOO_FAR),
    ],
)
def test_what_is_overdue_may_be_waited_for(standing: Standing, fault: Fault | None) -> None:
    """A destination that sleeps or is being served is in order, unless whoever sees to it is late himself."""
    assert fault_of(stored(due=NOW - DAY_S), standing) is fault


def test_nobody_is_late_who_has_just_begun() -> None:
    """After a start, or a pause of days, what waited for that is given time."""
    waited = [
        stored(due=NOW - DAY_S),
        stored(due=NOW + 60, received_at=NOW - 30 * DAY_S),
        stored("bounced", 0.0, owed_at=NOW - DAY_S),
    ]

    assert [fault_of(each, bounds=bounds_at(NOW, RetrySchedule(), 0.0)) for each in waited] == [None] * 3
    late = bounds_at(NOW, RetrySchedule(), LATE_S + 1)
    assert [fault_of(each, bounds=late) for each in waited] == [Fault.OVERDUE, None, None]
    assert [fault_of(each) for each in waited] == [Fault.OVERDUE] * 3


def test_what_the_operator_configured_is_not_too_far() -> None:
    """Who holds mail for half a year may."""
    patient = bounds_at(NOW, RetrySchedule(hold_s=180 * DAY_S))

    assert fault_of(stored("held", NOW + 180 * DAY_S), bounds=patient) is None


@settings(deadline=None)
@given(
    st.sampled_from([*[state.value for state in State], "lost"]),
    st.floats(allow_nan=False),
    st.none() | st.floats(allow_nan=False),
    st.none() | st.floats(allow_nan=False),
    st.booleans(),
)
def test_whatever_is_wrong_is_suspect(
    state: str, due: float, received_at: float | None, owed_at: float | None, is_leased: bool
) -> None:
    """A store that answers by is_suspect hides no fault."""
    suspect = stored(state, due, received_at=received_at, owed_at=owed_at, is_leased=is_leased)

    if fault_of(suspect) is not None:
        assert is_suspect(state, due, received_at, owed_at, BOUNDS)
