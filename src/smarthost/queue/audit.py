# SPDX-License-Identifier: MIT
"""The progress invariant: every unfinished recipient has exactly one owner and one next event with a deadline.

Pure: claims in, findings out. Whoever owns recipients (store, feed, lanes, suspensions, the sweep of holds) claims
them; the auditor only compares. It repairs nothing, and knows no state: a recipient that nobody moves is stuck whatever
it is called.
"""

import math
from collections.abc import Iterable
from enum import Enum

from msgspec import Struct

LATE_S = 300.0  # must exceed the sweep's period (60 s), a deadline's slack and a commit under load
HORIZON_S = 31 * 24 * 3600.0  # must exceed the longest wait there is: a hold, 30 days


class Fault(Enum):
    """How a recipient can violate the invariant."""

    NO_OWNER = "no owner"
    MANY_OWNERS = "many owners"
    NO_NEXT_EVENT = "no next event"
    OVERDUE = "overdue"
    TOO_FAR = "too far"
    FINISHED = "finished"


class Claim(Struct, frozen=True, gc=False):
    """An owner says: recipient `n` of message `id` is mine, and `next_at` (wall seconds) is the latest I touch it."""

    id: str
    n: int
    owner: str
    next_at: float | None


class Finding(Struct, frozen=True, gc=False):
    """One violation, with one sentence for an operator."""

    id: str
    n: int
    fault: Fault
    why: str


def audit(
    unfinished: Iterable[tuple[str, int]], claims: Iterable[Claim], *, now: float, late_s: float = LATE_S
) -> tuple[Finding, ...]:
    """Compare what is unfinished (message id, recipient number) with what is claimed; at most one finding a recipient.

    In the order of `unfinished`, then claims upon recipients that are finished. Take both from one moment.
    """
    claimed: dict[tuple[str, int], list[Claim]] = {}
    for claim in claims:
        claimed.setdefault((claim.id, claim.n), []).append(claim)
    findings = []
    for key in dict.fromkeys(unfinished):
        finding = _judge(key, claimed.pop(key, []), now, late_s)
        if finding is not None:
            findings.append(finding)
    for (id, n), left in claimed.items():
        why = f"{left[0].owner} still claims a recipient that is finished"
        findings.append(Finding(id, n, Fault.FINISHED, why))
    return tuple(findings)


def _judge(key: tuple[str, int], claims: list[Claim], now: float, late_s: float) -> Finding | None:
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
        return Finding(id, n, Fault.OVERDUE, f"{owner} should have touched it {now - next_at:.0f} s ago")
    if next_at > now + HORIZON_S:
        return Finding(id, n, Fault.TOO_FAR, f"{owner} will touch it only in {(next_at - now) / 86400:.0f} days")
    return None
