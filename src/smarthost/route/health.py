# SPDX-License-Identifier: MIT
"""Host health: which (source, address) is broken, why, and when it is probed next. The memory behind ports.HostGate.

Closed: anybody may dial. Open, after a failure: nobody may until a pause is over; it doubles with each failed probe, up
to an hour, with jitter. Half-open: exactly one probe dials, bounded in time; its success closes, its failure opens
again. Only what callers report as failed counts: connecting and the handshake, never a reply about mail.
Mutable; one event loop. `changes` and `restore` carry it over a restart (hosts.py keeps it in the store); what a crash
loses costs one failed dial per host to learn again. Evidence is never trusted beyond `forget_after_s`.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from smarthost.mail.errors import LocalProtocolError
from smarthost.ports import Permit, Random, Refused
from smarthost.route.broken import (
    AGED,
    CROWDED,
    GREETED,
    RESET,
    SHARDS,
    Broken,
    HealthState,
    HostState,
    Key,
    Row,
    decode_rows,
    encode_rows,
    shard_of,
)

CONNECT = "connect"  # the step at which nobody answers
AUTH = "auth"  # the step at which a host looks at our login
LOGIN_PAUSE_S = 60.0  # at least, after a login that was refused: providers lock accounts that try too often
MARKED = "marked"  # the step of what nobody tried: somebody said so
WITHDRAWN_S = 60.0  # until the next probe, after one that we could not make: no descriptor, no route
SAVED_AT_ONCE = 4  # parts: 100,000 broken hosts must not hold the loop up for a third of a second
_REFUSALS = 4096  # made once and given often, because a busy lane asks often; the least that holds a large site
_DETAILS = 1024  # "timed out after 10 s" is the same text for most hosts
_DETAIL_CHARACTERS = 300


class WallClock(Protocol):
    """All that is needed of a ports.Clock."""

    def wall(self) -> float:
        """Seconds, by the clock in which pauses are told."""


class HealthTerms(Struct, frozen=True, gc=False):
    """How long broken hosts are left alone.

    `first_pause_s` is short: one lost connection of the only next hop must not keep a newcomer's mail waiting.
    `probe_s`: a probe not heard of for so long has failed; above a dial (10 s), below RFC 5321's 300 s for a banner.
    `jitter`: which part of a pause is left to chance, so that hosts that broke together are not probed together.
    `forget_after_s`: what failed so long ago, and never since, counts as unknown; must exceed `longest_pause_s`.
    `hosts`: how many broken hosts are remembered, about 400 octets each; one that failed long ago goes first.
    """

    first_pause_s: float = 5.0
    longest_pause_s: float = 3600.0
    probe_s: float = 120.0
    jitter: float = 0.2
    forget_after_s: float = 4 * 3600.0
    hosts: int = 100_000


class HostHealth:
    """Implements ports.HostGate. `changed` is told each new state of a host, at once; it must not raise."""

    def __init__(
        self,
        clock: WallClock,
        random: Random,
        terms: HealthTerms | None = None,
        changed: Callable[[HostState], None] | None = None,
    ) -> None:
        self.changed = changed
        self._clock = clock
        self._random = random
        self._terms = terms if terms is not None else HealthTerms()
        self._parts: tuple[dict[Key, Broken], ...] = tuple({} for _ in range(SHARDS))  # longest since a failure first
        self._count = 0
        self._probes: dict[Key, _Permit] = {}  # under way
        self._refusals: dict[Key, Refused] = {}
        self._details: dict[str, str] = {}
        self._unsaved: set[int] = set()
        self._damaged: list[str] = []  # names of what could not be read: to be cleared

    def adopt(self, terms: HealthTerms) -> None:
        """Go by other terms from the next failure on; pauses under way end when they were to end."""
        self._terms = terms

    def admit(self, source: str, address: str) -> Permit | Refused:
        """May (source address or "", host address) be dialled now? A permit must be closed, exactly once."""
        key = (source, address)
        broken = self._find(key)
        if broken is None:
            return _Permit(self, key)
        now = self._clock.wall()
        if self._is_forgotten(broken, now):
            self._close(key, AGED)
            return _Permit(self, key)
        probe = self._probes.get(key)
        if probe is not None and now >= probe.until:
            self._probe_overdue(key, broken, now)
        refused = self._refuse(key, broken, now)
        if refused is not None:
            return refused
        self._probes[key] = permit = _Permit(self, key, now + self._terms.probe_s)
        self._tell(key, broken, HealthState.HALF_OPEN)
        return permit

    def usable(self, source: str, address: str) -> Refused | None:
        """Would `admit` refuse? Takes no permit and changes nothing."""
        key = (source, address)
        broken = self._find(key)
        if broken is None:
            return None
        now = self._clock.wall()
        return None if self._is_forgotten(broken, now) else self._refuse(key, broken, now)

    def state_of(self, source: str, address: str) -> HostState:
        """Give the state of one host and the evidence for it."""
        key = (source, address)
        broken = self._find(key)
        if broken is None or self._is_forgotten(broken, self._clock.wall()):
            return HostState(source, address, HealthState.CLOSED)
        return self._state(key, broken)

    def states(self) -> Iterator[HostState]:
        """Give all hosts that are not closed; none may change meanwhile."""
        now = self._clock.wall()
        for part in self._parts:
            for key, broken in part.items():
                if not self._is_forgotten(broken, now):
                    yield self._state(key, broken)

    def pause_end(self, source: str, address: str) -> float | None:
        """Give the wall time at which a host's pause ends or ended; None if nothing is held against it."""
        broken = self._find((source, address))
        return None if broken is None or self._is_forgotten(broken, self._clock.wall()) else broken.until

    def due_probes(self) -> list[Key]:
        """Name the hosts whose pause is over and whom nobody probes."""
        now, probes = self._clock.wall(), self._probes
        return [
            key
            for part in self._parts
            for key, broken in part.items()
            if broken.until <= now and key not in probes and not self._is_forgotten(broken, now)
        ]

    # -- what others say -----------------------------------------------------------------------------------------------

    def report_failure(self, source: str, address: str, step: str, detail: str, name: str = "") -> None:
        """Open a host, or open it anew for longer, on somebody's word."""
        self._fail((source, address), step, detail, name, is_news=True)

    def mark(self, source: str, address: str, until: float, detail: str = "") -> None:
        """Open a host until this wall time, on somebody's word; a second mark replaces the first, whichever ends later.

        It is no part of the pauses that grow, and nothing is left to chance. `forget_after_s` ends it, if that is less.
        """
        key = (source, address)
        self._open(key, self._note(key, self._clock.wall(), MARKED, detail, ""), until)

    def report_success(self, source: str, address: str) -> None:
        """Close a host that greeted somebody, whoever it was."""
        self._close((source, address), GREETED)

    def reset(self, source: str, address: str) -> None:
        """Close a host whatever is known of it: the operator's word."""
        self._close((source, address), RESET)

    def hasten(self, source: str, address: str) -> None:
        """End a host's pause: the next who asks is its probe. What is known against it stays."""
        key = (source, address)
        broken = self._find(key)
        if broken is not None:
            broken.until = min(broken.until, self._clock.wall())
            self._refusals.pop(key, None)
            self._unsaved.add(shard_of(address))

    # -- what permits report -------------------------------------------------------------------------------------------

    def permit_succeeded(self, permit: "_Permit") -> None:
        """The newest evidence wins, whoever brings it: a host that greets us is not broken."""
        self._close(permit.key, GREETED)

    def permit_failed(self, permit: "_Permit", step: str, detail: str, name: str) -> None:
        """Open a closed host; open a probed one for longer; from anybody else it is evidence of what is known."""
        is_news = self._find(permit.key) is None or self._probes.get(permit.key) is permit
        self._fail(permit.key, step, detail, name, is_news=is_news)

    def permit_stalls(self, permit: "_Permit", step: str, detail: str, name: str) -> None:
        """Open a host of which nothing is known yet; whoever holds the permit goes on waiting for it."""
        if not permit.is_probe and self._find(permit.key) is None:
            self._fail(permit.key, step, detail, name, is_news=True)

    def permit_withdrawn(self, permit: "_Permit") -> None:
        """A probe that was not made leaves its turn to the next, a moment later: what prevented it may last."""
        if self._probes.get(permit.key) is permit:
            del self._probes[permit.key]
            broken = self._find(permit.key)
            if broken is not None:
                broken.until = self._clock.wall() + min(WITHDRAWN_S, self._terms.longest_pause_s)
                self._refusals.pop(permit.key, None)

    # -- over a restart ------------------------------------------------------------------------------------------------

    def changes(self) -> dict[str, bytes]:
        """Give what has changed as named values to keep, a few at a time until there are none; b"": nothing is left."""
        changed = dict.fromkeys(self._damaged, b"")
        self._damaged.clear()
        for shard in sorted(self._unsaved)[:SAVED_AT_ONCE]:
            self._forget_old(self._parts[shard])
            rows = [Row(*key, broken) for key, broken in self._parts[shard].items()]
            changed[f"{shard:02d}"] = encode_rows(rows) if rows else b""
            self._unsaved.discard(shard)
        return changed

    def restore(self, values: Mapping[str, bytes]) -> tuple[str, ...]:
        """Take up what `changes` gave in an earlier life; gives the names of those that are damaged, and drops them.

        A host whose evidence is too old, or cannot be true, is dropped; its pause is at most the longest. One that
        refused our login is asked again: whoever started us may have mended the password.
        """
        now = self._clock.wall()
        found: list[Row] = []
        for name, value in values.items():
            try:
                rows = decode_rows(value)
            except msgspec.MsgspecError:
                self._damaged.append(name)
                continue
            found += [row for row in rows if row.broken.is_credible(now) and not self._is_forgotten(row.broken, now)]
        found.sort(key=lambda row: row.broken.last_at)
        for row in found[-self._terms.hosts :]:
            longest_s = 0.0 if row.broken.step == AUTH else self._terms.longest_pause_s
            row.broken.until = min(row.broken.until, now + longest_s)
            self._put((row.source, row.address), row.broken)
        return tuple(self._damaged)

    # -- where they are kept -------------------------------------------------------------------------------------------

    def _find(self, key: Key) -> Broken | None:
        return self._parts[shard_of(key[1])].get(key) if self._count else None

    def _put(self, key: Key, broken: Broken) -> None:
        """Keep it behind all others: it failed last."""
        part = self._parts[shard_of(key[1])]
        self._count += key not in part
        part[key] = broken

    def _take(self, key: Key) -> Broken | None:
        broken = self._parts[shard_of(key[1])].pop(key, None)
        self._count -= broken is not None
        return broken

    def _make_room(self, key: Key) -> None:
        """Close the host of this one's part that failed longest ago; if there is none, one of another part."""
        if self._count >= self._terms.hosts:
            part = self._parts[shard_of(key[1])] or next(part for part in self._parts if part)
            self._close(next(iter(part)), CROWDED)

    # -- moves ---------------------------------------------------------------------------------------------------------

    def _fail(self, key: Key, step: str, detail: str, name: str, *, is_news: bool) -> None:
        now = self._clock.wall()
        broken = self._note(key, now, step, detail, name)
        if is_news:
            self._open(key, broken, now + self._next_pause(broken))

    def _note(self, key: Key, now: float, step: str, detail: str, name: str) -> Broken:
        """Keep the evidence, of a host that is known as broken or is from now on."""
        broken = self._take(key)
        if broken is None:
            self._make_room(key)
            broken = Broken(name, now, now, now)
        self._put(key, broken)
        broken.fail(now, step, self._shared(detail), name)
        self._unsaved.add(shard_of(key[1]))
        return broken

    def _next_pause(self, broken: Broken) -> float:
        terms = self._terms
        first_s = max(terms.first_pause_s, LOGIN_PAUSE_S) if broken.step == AUTH else terms.first_pause_s
        pause = min(first_s * 2.0**broken.pauses, terms.longest_pause_s)
        if pause < terms.longest_pause_s:
            broken.pauses += 1
        return pause * (1.0 - terms.jitter * self._random.random())

    def _open(self, key: Key, broken: Broken, until: float) -> None:
        self._probes.pop(key, None)
        self._refusals.pop(key, None)
        broken.until = until
        self._tell(key, broken, HealthState.OPEN)

    def _close(self, key: Key, closed_by: str) -> None:
        broken = self._take(key)
        if broken is not None:
            self._probes.pop(key, None)
            self._refusals.pop(key, None)
            self._unsaved.add(shard_of(key[1]))
            self._tell(key, broken, HealthState.CLOSED, closed_by)

    def _probe_overdue(self, key: Key, broken: Broken, now: float) -> None:
        detail = f"not heard of for {self._terms.probe_s:.0f} s"
        broken.fail(now, "probe", self._shared(detail), broken.name)
        self._unsaved.add(shard_of(key[1]))
        self._open(key, broken, now + self._next_pause(broken))

    def _forget_old(self, part: dict[Key, Broken]) -> None:
        now = self._clock.wall()
        for key in [key for key, broken in part.items() if self._is_forgotten(broken, now)]:
            self._close(key, AGED)

    def _is_forgotten(self, broken: Broken, now: float) -> bool:
        return now - broken.last_at > self._terms.forget_after_s

    def _refuse(self, key: Key, broken: Broken, now: float) -> Refused | None:
        probe = self._probes.get(key)
        if probe is not None and now < probe.until:
            why = f"a probe is under way, {broken.evidence()}"
            return Refused(probe.until, why, broken.step == CONNECT)  # a success wakes who waits
        if now >= broken.until:
            return None
        refused = self._refusals.get(key)
        if refused is None:
            if len(self._refusals) >= _REFUSALS:
                self._refusals.clear()
            refused = self._refusals[key] = Refused(broken.until, broken.evidence(), broken.step == CONNECT)
        return refused

    def _shared(self, detail: str) -> str:
        detail = detail[:_DETAIL_CHARACTERS]
        if len(self._details) >= _DETAILS:
            self._details.clear()
        return self._details.setdefault(detail, detail)

    def _state(self, key: Key, broken: Broken) -> HostState:
        if key in self._probes:
            return replace(broken.told(key, HealthState.HALF_OPEN), is_probed=True)
        is_open = self._clock.wall() < broken.until
        return broken.told(key, HealthState.OPEN if is_open else HealthState.HALF_OPEN)

    def _tell(self, key: Key, broken: Broken, state: HealthState, closed_by: str = "") -> None:
        if self.changed is not None:
            self.changed(broken.told(key, state, closed_by))


class _Permit:
    """Implements ports.Permit; `until` (wall) is 0.0 for one that is no probe."""

    __slots__ = ("_health", "_is_closed", "key", "until")

    def __init__(self, health: HostHealth, key: Key, until: float = 0.0) -> None:
        self._health = health
        self._is_closed = False
        self.key = key
        self.until = until

    @property
    def is_probe(self) -> bool:
        return self.until > 0.0

    def succeeded(self) -> None:
        self._close_once()
        self._health.permit_succeeded(self)

    def failed(self, step: str, detail: str, name: str = "") -> None:
        self._close_once()
        self._health.permit_failed(self, step, detail, name)

    def stalls(self, step: str, detail: str, name: str = "") -> None:
        if not self._is_closed:
            self._health.permit_stalls(self, step, detail, name)

    def withdrawn(self) -> None:
        self._close_once()
        self._health.permit_withdrawn(self)

    def _close_once(self) -> None:
        if self._is_closed:
            raise LocalProtocolError(f"the permit for {self.key[1]} was closed already")
        self._is_closed = True
