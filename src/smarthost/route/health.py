# SPDX-License-Identifier: MIT
"""Host health: which (source, address) is broken, why, and when it is probed next. The memory behind ports.HostGate.

Closed: anybody may dial. Open, after a failure: nobody may until a pause is over; it doubles with each failed probe, up
to an hour, with jitter. Half-open: exactly one probe dials, bounded in time; its success closes, its failure opens
again. Only what callers report as failed counts: connecting and the handshake, never a reply about mail.
Mutable; one event loop; everything is forgotten in a crash, and costs one failed dial per host to learn again.
"""

from collections.abc import Callable, Iterable
from enum import Enum

from msgspec import Struct

from smarthost.mail.errors import LocalProtocolError
from smarthost.ports import Clock, Permit, Random, Refused

PROBE_WAIT_S = 1.0  # how long others wait while a probe is under way; a probe of a live host takes less


class HealthState(Enum):
    """Whether a host may be dialled."""

    CLOSED = "closed"  # works, as far as we know
    OPEN = "open"  # broken: nobody dials until its pause is over
    HALF_OPEN = "half-open"  # its pause is over: one probe is allowed, or under way


class HealthTerms(Struct, frozen=True, gc=False):
    """How long broken hosts are left alone.

    `first_pause_s` is short: one lost connection of the only next hop must not keep a newcomer's mail waiting.
    `probe_s`: a probe not heard of for so long has failed; above a dial (10 s), below RFC 5321's 300 s for a banner.
    `jitter`: which part of a pause is left to chance, so that hosts that broke together are not probed together.
    `hosts`: how many broken hosts are remembered, about 1 KiB each; the one that failed longest ago goes first.
    """

    first_pause_s: float = 5.0
    longest_pause_s: float = 3600.0
    probe_s: float = 120.0
    jitter: float = 0.2
    hosts: int = 50_000


class HostState(Struct, frozen=True, gc=False):
    """The evidence about one host: consecutive `failures`, the last one's step and detail; times are wall seconds.

    `since` is the first failure of this row, `until` the next probe.
    """

    source: str
    address: str
    state: HealthState
    failures: int = 0
    since: float = 0.0
    last_at: float = 0.0
    step: str = ""
    detail: str = ""
    until: float = 0.0


class HostHealth:
    """Implements ports.HostGate. `changed` is told each new state of a host, at once; it must not raise."""

    def __init__(
        self,
        clock: Clock,
        random: Random,
        terms: HealthTerms | None = None,
        changed: Callable[[HostState], None] | None = None,
    ) -> None:
        self._clock = clock
        self._random = random
        self._terms = terms if terms is not None else HealthTerms()
        self._changed = changed
        self._broken: dict[tuple[str, str], _Broken] = {}  # longest since its last failure first

    def admit(self, source: str, address: str) -> Permit | Refused:
        """May (source address or "", host address) be dialled now? A permit must be closed, exactly once."""
        key = (source, address)
        broken = self._broken.get(key)
        if broken is None:
            return _Permit(self, key)
        now = self._clock.wall()
        if broken.probe is not None and now >= broken.probe_until:
            self._probe_overdue(key, broken, now)
        refused = self._refuse(broken, now)
        if refused is not None:
            return refused
        broken.probe = permit = _Permit(self, key)
        broken.probe_until = now + self._terms.probe_s
        self._tell(key, broken, HealthState.HALF_OPEN)
        return permit

    def usable(self, source: str, address: str) -> Refused | None:
        """Would `admit` refuse? Takes no permit and changes nothing."""
        broken = self._broken.get((source, address))
        return None if broken is None else self._refuse(broken, self._clock.wall())

    def earliest(self, keys: Iterable[tuple[str, str]]) -> float | None:
        """When may the first of these (source, address) be dialled: wall seconds, or None for one that may be now."""
        earliest: float | None = None
        for source, address in keys:
            refused = self.usable(source, address)
            if refused is None:
                return None
            earliest = refused.until if earliest is None else min(earliest, refused.until)
        return earliest

    def state_of(self, source: str, address: str) -> HostState:
        """Give the state of one host and the evidence for it."""
        key = (source, address)
        broken = self._broken.get(key)
        return HostState(source, address, HealthState.CLOSED) if broken is None else self._state(key, broken)

    def states(self) -> tuple[HostState, ...]:
        """Give all hosts that are not closed."""
        return tuple(self._state(key, broken) for key, broken in self._broken.items())

    def reset(self, source: str, address: str) -> None:
        """Close a host whatever is known of it: the operator's word."""
        self._close((source, address))

    # -- what permits report -------------------------------------------------------------------------------------------

    def permit_succeeded(self, permit: "_Permit") -> None:
        """The newest evidence wins, whoever brings it: a host that greets us is not broken."""
        self._close(permit.key)

    def permit_failed(self, permit: "_Permit", step: str, detail: str) -> None:
        """Open a closed host; open a probed one for longer; from anybody else it is evidence of what is known."""
        key, now = permit.key, self._clock.wall()
        broken = self._broken.pop(key, None)
        is_news = broken is None or broken.probe is permit
        if broken is None:
            broken = _Broken(now)
            if len(self._broken) >= self._terms.hosts:
                del self._broken[next(iter(self._broken))]
        self._broken[key] = broken  # at the end: it failed last
        broken.fail(now, step, detail)
        if is_news:
            self._open(key, broken, now)

    def permit_withdrawn(self, permit: "_Permit") -> None:
        """A probe that was not made leaves its turn to the next."""
        broken = self._broken.get(permit.key)
        if broken is not None and broken.probe is permit:
            broken.probe = None

    # -- moves ---------------------------------------------------------------------------------------------------------

    def _open(self, key: tuple[str, str], broken: "_Broken", now: float) -> None:
        terms = self._terms
        pause = min(terms.first_pause_s * 2.0**broken.pauses, terms.longest_pause_s)
        if pause < terms.longest_pause_s:
            broken.pauses += 1
        broken.probe = None
        broken.until = now + pause * (1.0 - terms.jitter * self._random.random())
        broken.refused = Refused(broken.until, broken.evidence())
        self._tell(key, broken, HealthState.OPEN)

    def _close(self, key: tuple[str, str]) -> None:
        broken = self._broken.pop(key, None)
        if broken is not None:
            self._tell(key, broken, HealthState.CLOSED)

    def _probe_overdue(self, key: tuple[str, str], broken: "_Broken", now: float) -> None:
        broken.fail(now, "probe", f"not heard of for {self._terms.probe_s:.0f} s")
        self._open(key, broken, now)

    def _refuse(self, broken: "_Broken", now: float) -> Refused | None:
        if broken.probe is not None and now < broken.probe_until:
            return Refused(min(now + PROBE_WAIT_S, broken.probe_until), f"a probe is under way, {broken.evidence()}")
        return broken.refused if now < broken.until else None

    def _state(self, key: tuple[str, str], broken: "_Broken") -> HostState:
        is_open = broken.probe is None and self._clock.wall() < broken.until
        return broken.told(key, HealthState.OPEN if is_open else HealthState.HALF_OPEN)

    def _tell(self, key: tuple[str, str], broken: "_Broken", state: HealthState) -> None:
        if self._changed is not None:
            self._changed(broken.told(key, state))


class _Broken:
    """What is known about a host that is not closed."""

    __slots__ = (
        "detail",
        "failures",
        "last_at",
        "pauses",
        "probe",
        "probe_until",
        "refused",
        "since",
        "step",
        "until",
    )

    def __init__(self, now: float) -> None:
        self.since = self.last_at = self.until = now
        self.failures = self.pauses = 0
        self.step = self.detail = ""
        self.probe: _Permit | None = None
        self.probe_until = 0.0
        self.refused: Refused | None = None  # kept, because a busy lane asks often

    def fail(self, now: float, step: str, detail: str) -> None:
        self.failures += 1
        self.last_at, self.step, self.detail = now, step, detail

    def evidence(self) -> str:
        often = f"{self.failures} times in {self.last_at - self.since:.0f} s" if self.failures > 1 else "once"
        return f"{self.step} failed {often}: {self.detail}"

    def told(self, key: tuple[str, str], state: HealthState) -> HostState:
        return HostState(*key, state, self.failures, self.since, self.last_at, self.step, self.detail, until=self.until)


class _Permit:
    """Implements ports.Permit."""

    __slots__ = ("_health", "_is_closed", "key")

    def __init__(self, health: HostHealth, key: tuple[str, str]) -> None:
        self._health = health
        self._is_closed = False
        self.key = key

    def succeeded(self) -> None:
        self._close_once()
        self._health.permit_succeeded(self)

    def failed(self, step: str, detail: str) -> None:
        self._close_once()
        self._health.permit_failed(self, step, detail)

    def withdrawn(self) -> None:
        self._close_once()
        self._health.permit_withdrawn(self)

    def _close_once(self) -> None:
        if self._is_closed:
            raise LocalProtocolError(f"the permit for {self.key[1]} was closed already")
        self._is_closed = True
