# SPDX-License-Identifier: MIT
"""Which domains get the next connections, so that mail that can be delivered does not wait for mail that cannot.

A manager has few places, and a silent host holds one for minutes. A domain whose last attempt got no answer is left
alone for a while, then tried over one connection; domains that failed take half of the places at most, and with those
that were never heard of not all, once others have answered. Among equals it is the turn of who has the fewest
connections, then of who had none for longest. Knows neither messages nor hosts; compat.relaymanager asks and tells.
Memory only: after a restart nobody is known.
"""

from collections.abc import Callable, Iterable

REMEMBERED = 10_000  # domains, or hosts; more would stay for ever

_Candidate = tuple[int, int, int, str, bool]  # connections, last turn, place in the order given, domain, does it fail?


class Pauses:
    """What is left alone for a while, because it failed.

    `seconds`: a clock. `lengths`: how long after the first failure, doubled each time, and how long at most.
    """

    def __init__(self, seconds: Callable[[], float], lengths: Callable[[], tuple[float, float]]) -> None:
        self._seconds = seconds
        self._lengths = lengths
        self._failing: dict[str, tuple[int, float]] = {}  # failures, and when it may be tried again

    def __len__(self) -> int:
        return len(self._failing)

    def __contains__(self, key: str) -> bool:
        """Has it failed, and not answered since?"""
        return key in self._failing

    def left_s(self, key: str) -> float:
        """Give for how many seconds it is still left alone, 0.0 when it may be tried."""
        return max(0.0, self._failing.get(key, (0, 0.0))[1] - self._seconds())

    def failed(self, key: str) -> None:
        """It failed: leave it alone for longer than the last time."""
        failures = self._failing.pop(key, (0, 0.0))[0]
        if len(self._failing) >= REMEMBERED:
            del self._failing[next(iter(self._failing))]
        first, longest = self._lengths()
        pause = min(first * 2.0 ** min(failures, 32), longest)
        self._failing[key] = (failures + 1, self._seconds() + pause)

    def answered(self, key: str) -> bool:
        """It works; True: it did not before."""
        return self._failing.pop(key, None) is not None


class Turns:
    """The standing of each domain. `pauses`: of domains."""

    def __init__(self, pauses: Pauses) -> None:
        self._pauses = pauses
        self._active: dict[str, int] = {}  # connections
        self._last_turns: dict[str, int] = {}
        self._proven: dict[str, None] = {}  # those whose last attempt was answered
        self._turn = 0

    def may_have(self, domain: str) -> bool:
        """May a connection be made for it now, if one is free?"""
        return domain not in self._pauses or (domain not in self._active and not self._pauses.left_s(domain))

    def choose(self, domains: Iterable[str], free: int, places: int) -> list[str]:
        """Give at most `free` of these domains, which all may have one. `places`: how many connections there may be."""
        proven: list[_Candidate] = []
        others: list[_Candidate] = []
        for order, domain in enumerate(domains):
            standing = (self._active.get(domain, 0), self._last_turns.get(domain, -1), order)
            (proven if domain in self._proven else others).append((*standing, domain, domain in self._pauses))
        proven.sort(reverse=True)
        others.sort(reverse=True)
        held = sum(self._active[domain] for domain in self._active if domain in self._proven)
        tried = sum(self._active.values()) - held
        failing = sum(self._active[domain] for domain in self._active if domain in self._pauses)
        most = max(2, places - max(1, places // 4)) if self._proven else places
        chosen: list[str] = []
        while len(chosen) < free and (proven or others):
            if proven and (not others or (held, proven[-1][1]) <= (tried, others[-1][1])):
                chosen.append(proven.pop()[3])
                held += 1
                continue
            *_, domain, fails = others.pop(self._next(others, len(chosen)))
            if tried < most and not (fails and failing >= max(1, places // 2)):
                chosen.append(domain)
                tried += 1
                failing += fails
        return chosen

    def _next(self, others: list[_Candidate], chosen: int) -> int:
        """Say who of the others is next: of equals the first in order; once some have failed, by turns the last.

        After a restart nobody is known: what came last does not wait behind a crowd of the dead.
        """
        if not self._pauses or (self._turn + chosen) % 2 == 0:
            return -1
        return next(n for n, each in enumerate(others) if each[:2] == others[-1][:2])

    def answered(self, domain: str) -> None:
        """A host of it works: it need not be left alone any longer."""
        self._pauses.answered(domain)

    def began(self, domain: str) -> None:
        """A connection is being made for it."""
        self._active[domain] = self._active.get(domain, 0) + 1
        self._last_turns.pop(domain, None)
        _bound(self._last_turns)
        self._last_turns[domain] = self._turn
        self._turn += 1

    def ended(self, domain: str, was_answered: bool | None) -> bool:
        """The attempt is over; None: it says nothing about the domain's hosts. Gives True if they answer again."""
        left = self._active.pop(domain) - 1
        if left:
            self._active[domain] = left
        if was_answered is None:
            return False
        self._proven.pop(domain, None)
        if not was_answered:
            self._pauses.failed(domain)
            return False
        _bound(self._proven)
        self._proven[domain] = None
        return self._pauses.answered(domain)


def _bound(remembered: dict[str, int] | dict[str, None]) -> None:
    """Make room for one more: the one that was put there first goes."""
    if len(remembered) >= REMEMBERED:
        del remembered[next(iter(remembered))]
