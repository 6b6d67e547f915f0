# SPDX-License-Identifier: MIT
"""The progress invariant: every unfinished recipient has exactly one owner and one next event with a deadline.

Pure: claims and rows in, findings out. Who has a lease claims it, and `audit` compares that with what is leased; what
lies in the store is judged by `judge_stored`, row by row, so that a million of them need no memory. It repairs nothing
and looks nowhere: auditor.py does.
"""

import math
from collections.abc import Callable, Iterable
from enum import Enum

from msgspec import Struct

from smarthost.mail.settlement import State
from smarthost.queue.schedule import RetrySchedule

LATE_S = 300.0  # must exceed the sweep's period (60 s), a deadline's slack and a commit under load
HORIZON_S = 31 * 24 * 3600.0  # must exceed the longest wait there is by default: a hold, 30 days
_DAY_S = 24 * 3600.0
UNSWEPT_S = 3600.0  # must exceed what the sweep of a whole queue takes: 100 messages a turn, each turn a commit
OWED_S = 3600.0  # must exceed the patience of a report (60 s) and the lease of one that was not written (300 s)

Standing = tuple[str, float]  # who looks after the due recipients of a domain, and when at the latest (wall seconds)


class Fault(Enum):
    """How a recipient can violate the invariant."""

    NO_OWNER = "no owner"
    MANY_OWNERS = "many owners"
    NO_NEXT_EVENT = "no next event"
    OVERDUE = "overdue"
    TOO_FAR = "too far"
    FINISHED = "finished"
    UNKNOWN_STATE = "unknown state"


class Claim(Struct, frozen=True, gc=False):
    """An owner says: recipient `n` of message `id` is mine, and `next_at` (wall seconds) is the latest I touch it."""

    id: str
    n: int
    owner: str
    next_at: float | None


class Finding(Struct, frozen=True, gc=False):
    """One violation, with one sentence for an operator. `recipient`: its address, where it is known."""

    id: str
    n: int
    fault: Fault
    why: str
    recipient: str = ""
    is_repaired: bool = False


class AuditFigures(Struct, frozen=True, gc=False):
    """What an auditor has seen since it began. `findings`: each violation once, by fault; `repaired`: of these.

    `recipients`: rows looked at in the store, by all rounds; `ended_at`: of the last whole round, wall seconds or 0.0.
    """

    looks: int = 0
    recipients: int = 0
    rounds: int = 0
    ended_at: float = 0.0
    findings: dict[str, int] = {}
    repaired: int = 0


class Bounds(Struct, frozen=True, gc=False):
    """Times (wall seconds) beyond which a recipient in the store is suspect."""

    now: float
    due_before: float  # DEFERRED or HELD: it should have been touched
    due_after: float  # DEFERRED or HELD: nobody waits that long
    received_before: float  # DEFERRED: it should have expired
    owed_before: float  # its report should have been filed


class Suspect(Struct, frozen=True, gc=False):
    """A recipient as it lies in the store, with what makes it suspect. `received_at`: None if it has no message."""

    id: str
    n: int
    address: str
    domain: str
    state: str
    due: float
    received_at: float | None
    owed_at: float | None
    is_leased: bool


class SuspectPage(Struct, frozen=True, gc=False):
    """What is suspect among the next `checked` recipients; `cursor` is None after the last."""

    suspects: tuple[Suspect, ...]
    checked: int
    cursor: str | None


def bounds_at(now: float, schedule: RetrySchedule, awake_s: float = math.inf) -> Bounds:
    """Give the bounds that hold at `now`; nobody is late who could act only for `awake_s`."""
    longest = max(HORIZON_S, schedule.hold_s + _DAY_S, schedule.expire_after_s + _DAY_S, schedule.longest_s + _DAY_S)
    return Bounds(
        now,
        now - LATE_S if awake_s > LATE_S else -math.inf,
        now + longest,
        schedule.sweep_before(now) - UNSWEPT_S if awake_s > UNSWEPT_S else -math.inf,
        now - OWED_S if awake_s > OWED_S else -math.inf,
    )


def is_suspect(state: str, due: float, received_at: float | None, owed_at: float | None, bounds: Bounds) -> bool:
    """Must this row be looked at? What a Store answers `suspects` by; for an innocent one this is all that is done."""
    if received_at is None or (owed_at is not None and owed_at < bounds.owed_before):
        return True
    if state == State.DEFERRED.value:
        return not bounds.due_before <= due <= bounds.due_after or received_at < bounds.received_before
    if state == State.HELD.value:
        return not bounds.due_before <= due <= bounds.due_after
    return state not in _KNOWN or owed_at is None  # it is finished and owes nothing: why is it there?


def judge_stored(
    suspect: Suspect, bounds: Bounds, standing_of: Callable[[str], Standing | None]
) -> tuple[Fault, str] | None:
    """Say what is wrong with a recipient in the store, or None; who leases it is for `audit` to judge.

    `standing_of`: who looks after what is due in a recipient domain; None: nobody knows that anything is.
    """
    if suspect.received_at is None:
        return Fault.NO_OWNER, "its message is not in the store"
    if suspect.state not in _KNOWN:
        return Fault.UNKNOWN_STATE, f"it is {suspect.state!r}, which nobody knows"
    if suspect.owed_at is not None and suspect.owed_at < bounds.owed_before:
        return Fault.OVERDUE, f"a report about it has been owed for {_describe_span(bounds.now - suspect.owed_at)}"
    if suspect.state not in _OPEN:
        return None if suspect.owed_at is not None else (Fault.FINISHED, f"it is {suspect.state}, and still there")
    return _judge_open(suspect, bounds, standing_of)


def _judge_open(
    suspect: Suspect, bounds: Bounds, standing_of: Callable[[str], Standing | None]
) -> tuple[Fault, str] | None:
    if not math.isfinite(suspect.due):
        return Fault.NO_NEXT_EVENT, f"it is {suspect.state} without a time at which that ends"
    if suspect.due > bounds.due_after:
        return Fault.TOO_FAR, f"it is {suspect.state} for {_describe_span(suspect.due - bounds.now)}"
    late = _describe_span(bounds.now - suspect.due)
    if suspect.state == State.HELD.value:
        return (Fault.OVERDUE, f"its hold ended {late} ago") if suspect.due < bounds.due_before else None
    if suspect.is_leased:
        return None
    assert suspect.received_at is not None, "asked before"
    if suspect.received_at < bounds.received_before:
        return Fault.OVERDUE, f"it is {_describe_span(bounds.now - suspect.received_at)} old and should have expired"
    if suspect.due >= bounds.due_before:
        return None
    standing = standing_of(suspect.domain)
    if standing is None:
        return Fault.OVERDUE, f"it was due {late} ago, and nobody knows of it"
    owner, next_at = standing
    if next_at < bounds.due_before:
        return Fault.OVERDUE, f"{owner} should have looked at it {_describe_span(bounds.now - next_at)} ago"
    if next_at > bounds.due_after:
        return Fault.TOO_FAR, f"{owner} will look at it only in {_describe_span(next_at - bounds.now)}"
    return None


def audit(
    unfinished: Iterable[tuple[str, int]], claims: Iterable[Claim], *, now: float, late_s: float = LATE_S
) -> tuple[Finding, ...]:
    """Compare what is unfinished (message id, recipient number) with what is claimed; at most one finding a recipient.

    In the order of `unfinished`, then claims upon recipients that are finished. Take both from one moment.
    """
    claimed: dict[tuple[str, int], Claim] = {}
    contested: dict[tuple[str, int], list[Claim]] = {}
    for claim in claims:
        key = claim.id, claim.n
        if key in claimed:
            contested.setdefault(key, [claimed[key]]).append(claim)
        else:
            claimed[key] = claim
    findings = []
    for key in dict.fromkeys(unfinished):
        only = claimed.pop(key, None)
        if only is not None and key not in contested and _is_near(only.next_at, now - late_s, now + HORIZON_S):
            continue  # thousands are, in one turn of the loop
        upon = contested.get(key, [] if only is None else [only])
        findings.append(_judge(key, upon, now, late_s))
    for (id, n), left in claimed.items():
        why = f"{left.owner} still claims a recipient that is finished, or whose lease has ended"
        findings.append(Finding(id, n, Fault.FINISHED, why))
    return tuple(findings)


def _is_near(at: float | None, earliest: float, latest: float) -> bool:
    return at is not None and earliest <= at <= latest


def _judge(key: tuple[str, int], claims: list[Claim], now: float, late_s: float) -> Finding:
    """Say what is wrong with these claims upon a recipient."""
    id, n = key
    if not claims:
        return Finding(id, n, Fault.NO_OWNER, "nobody will ever touch this recipient again")
    if len(claims) > 1:
        owners = " and ".join(claim.owner for claim in claims)
        return Finding(id, n, Fault.MANY_OWNERS, f"{owners} claim it at once")
    owner, next_at = claims[0].owner, claims[0].next_at
    if next_at is None or not math.isfinite(next_at):
        return Finding(id, n, Fault.NO_NEXT_EVENT, f"{owner} has it, but no time at which something must happen")
    if next_at < now - late_s:
        return Finding(id, n, Fault.OVERDUE, f"{owner} should have touched it {_describe_span(now - next_at)} ago")
    return Finding(id, n, Fault.TOO_FAR, f"{owner} will touch it only in {_describe_span(next_at - now)}")


_KNOWN = frozenset([state.value for state in State])
_OPEN = frozenset([state.value for state in State if not state.is_terminal])


def _describe_span(seconds: float) -> str:
    for length, unit in ((_DAY_S, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
