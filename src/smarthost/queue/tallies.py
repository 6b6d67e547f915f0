# SPDX-License-Identifier: MIT
"""Counts what waits, by destination, sender and reason, in bounded memory: names are written by strangers. Pure.

Stores count parts of the queue with it; operations.py adds the parts up.
"""

from collections.abc import Mapping

from smarthost.mail.settlement import State
from smarthost.queue.store import Tallied, Tally

NAMES = 10_000  # of each kind in one part, ~3 MiB; what is beyond is counted together
NAME_LENGTH = 200
OTHERS = "(others)"


class Tallies:
    """Counts recipients, one after the other."""

    def __init__(self, now: float) -> None:
        self._now = now
        self._domains: dict[str, list[float | str]] = {}
        self._senders: dict[str, list[float | str]] = {}
        self._reasons: dict[str, list[float | str]] = {}

    def count(
        self, domain: str, sender: str, reason: str, state: State, due: float, received_at: float, id: str
    ) -> None:
        """Count one unfinished recipient."""
        is_held = state is State.HELD
        is_due = not is_held and due <= self._now
        for names, name in ((self._domains, domain), (self._senders, sender), (self._reasons, reason)):
            found = _find(names, name)
            found[0] += 1  # type: ignore[operator]
            found[1] += is_due  # type: ignore[operator]
            found[2] += is_held  # type: ignore[operator]
            if received_at < found[3]:  # type: ignore[operator]
                found[3], found[4] = received_at, id

    def give(self, cursor: str | None) -> Tally:
        """Give what was counted."""
        return Tally(_tallied(self._domains), _tallied(self._senders), _tallied(self._reasons), cursor)


def _find(names: dict[str, list[float | str]], name: str) -> list[float | str]:
    name = name[:NAME_LENGTH]
    if name not in names and len(names) >= NAMES:
        name = OTHERS
    return names.setdefault(name, [0, 0, 0, float("inf"), ""])


def _tallied(names: dict[str, list[float | str]]) -> dict[str, Tallied]:
    return {name: Tallied(*found) for name, found in names.items()}  # type: ignore[arg-type]


def add_up(total: dict[str, Tallied], part: Mapping[str, Tallied]) -> None:
    """Add a part to a total, in place; the total keeps to NAMES too."""
    for name, more in part.items():
        known = name if name in total or len(total) < NAMES else OTHERS
        had = total.get(known)
        if had is None:
            total[known] = more
            continue
        oldest = min(had, more, key=lambda each: each.oldest_at)
        total[known] = Tallied(
            had.recipients + more.recipients, had.due + more.due, had.held + more.held, oldest.oldest_at,
            oldest.oldest_id,
        )  # fmt: skip
