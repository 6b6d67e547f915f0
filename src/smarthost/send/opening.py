# SPDX-License-Identifier: MIT
"""Opens sessions: asks HostGate, dials, sets up, falls back to clear where TLS breaks, tells HostGate what came of it.

A host has less time while another one is at hand (`hurry`): mail must not wait 300 s for a banner that never comes.
Then a host known as broken is probed aside, in a task of its own, and mail goes to the other one meanwhile; what a good
probe leaves is an open session in the pool. Judges no mail. A crash leaves nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable

from msgspec import Struct
from msgspec.structs import replace

from smarthost.mail.content import Content
from smarthost.mail.errors import ConnectFailed, ConnectionLost, DeadlinePassed
from smarthost.mail.hop import Host, SessionPolicy, TlsFacts, TlsLevel
from smarthost.ports import Clock, Deadline, Dialer, HostGate, Permit, Refused, Sink
from smarthost.send.egress import EgressWatch
from smarthost.send.gates import demand_key, find_refusal, service_key
from smarthost.send.pool import Pool
from smarthost.send.session import Session, SessionKey, SetupFailed
from smarthost.send.transcript import Transcript
from smarthost.smtp import limits
from smarthost.smtp.steps import Step

# From dial to ready, while another host is at hand. Deviation: RFC 5321 4.5.3.2.1 asks for 300 s for the banner; who is
# in no hurry gives them. Above the 6 s that Postfix's postscreen keeps newcomers waiting.
PATIENCE_S = 8.0
PROBE_PATIENCE_S = 60.0  # aside: nobody waits for it, but a host that is back must not hide behind a stuck probe
SLOW_FACTOR = 3.0  # a host that once took long may take so many times as long
PROBES_ASIDE = 200  # a descriptor each
CLEAR_MEMORY_S = 3600.0  # how long a host whose opportunistic handshake failed is spoken to in clear
REMEMBERED_HOSTS = 10_000
_SAID_CHARACTERS = 500  # of what went wrong at one stop of a walk: a reply may have 64 KiB
_HOST_STEPS = (Step.CONNECT, Step.BANNER, Step.EHLO, Step.HELO)


class AttemptTerms(Struct, frozen=True):
    """What attempts share: the world they act on, and the operator's choices."""

    dialer: Dialer
    gate: HostGate
    pool: Pool
    clock: Clock
    sink: Sink
    read_content: Callable[[str], Awaitable[Content]]
    soft_bounce: bool = False
    connect_timeout_s: float = limits.CONNECT_S
    patience_s: float = PATIENCE_S


class Effort:
    """What it cost to open sessions in one attempt, and what happened on the way."""

    __slots__ = ("connect_s", "dials", "handshake_s", "lines", "tls", "transcript")

    def __init__(self) -> None:
        self.transcript: tuple[str, ...] = ()  # of the last session that failed
        self.dials = 0
        self.connect_s = self.handshake_s = 0.0
        self.lines: list[str] = []
        self.tls: TlsFacts | None = None  # of the last session that could not be set up

    def tried(self, host: str, address: str, what: str) -> None:
        """Note one stop of the walk for the record. `what` may be a host's or a TLS library's own words."""
        if len(what) > _SAID_CHARACTERS:
            what = f"{what[:_SAID_CHARACTERS]}..."
        if not what.isprintable():
            what = "".join([c if c.isprintable() else "?" for c in what])
        self.lines.append(f"{host} [{address}]: {what}")


class Opener:
    """Opens sessions for attempts. Remembers which hosts break TLS, and which are slow to greet; nothing else."""

    def __init__(self, terms: AttemptTerms) -> None:
        self._terms = terms
        self._clear_until: dict[tuple[str, int], float] = {}  # by address and port, as the next
        self._greets_in: dict[tuple[str, int], float] = {}  # seconds from dial to ready, of hosts that are slow
        self._lines: dict[tuple[str, str], tuple[Refused, str]] = {}
        self._egress = EgressWatch(terms.sink)
        self._probes: dict[asyncio.Task[None], None] = {}  # not a set: its order is reproducible

    def adopt(self, terms: AttemptTerms) -> None:
        """Open sessions by other terms from now on."""
        self._terms = terms

    async def close(self) -> None:
        """End the probes under way."""
        for probe in self._probes:
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)

    def key_for(self, host: Host, address: str, policy: SessionPolicy) -> SessionKey:
        """Give the key of the session that is wanted with this host, in clear where TLS is known to break."""
        if self._clear_until and policy.tls is TlsLevel.OPPORTUNISTIC and policy.credentials is None:
            until = self._clear_until.get((address, policy.port))
            if until is not None and until > self._terms.clock.monotonic():
                policy = replace(policy, tls=TlsLevel.NONE)
        return (host.name, address, policy)

    def refusal(self, policy: SessionPolicy, address: str) -> Refused | None:
        """Give why HostGate would not let us dial there now, or None."""
        return find_refusal(self._terms.gate, policy, address)

    def refusal_line(self, host: str, address: str, refused: Refused) -> str:
        """Give the line for the record; a busy site's half of the mail has the same one."""
        known = self._lines.get((host, address))
        if known is None or known[0] is not refused:
            if len(self._lines) >= REMEMBERED_HOSTS:
                self._lines.clear()
            known = self._lines[host, address] = (refused, f"{host} [{address}]: not dialled, {refused.why}")
        return known[1]

    async def open(self, key: SessionKey, effort: Effort, *, hurry: bool) -> Session | SetupFailed | Refused:
        """Open a session; `hurry`: another host is at hand. Safe to cancel."""
        _, address, policy = key
        permits = self._admit(address, policy)
        if isinstance(permits, Refused):
            return permits
        if hurry and permits.is_probe and len(self._probes) < PROBES_ASIDE:
            return self._probe_aside(key, permits)
        patience_s = max(self._terms.patience_s, self._greets_in.get(_service(key), 0.0)) if hurry else None
        return await self._open_with(key, effort, permits, patience_s)

    def _admit(self, address: str, policy: SessionPolicy) -> "_Permits | Refused":
        demand = demand_key(policy)
        if demand is not None and (refused := self._terms.gate.usable(demand, address)) is not None:
            return refused  # before the other permit: one that is taken and given back is a probe that was not made
        permit = self._terms.gate.admit(service_key(policy), address)
        if isinstance(permit, Refused):
            return permit
        strict = None if demand is None else self._terms.gate.admit(demand, address)
        if isinstance(strict, Refused):
            permit.withdrawn()
            return strict
        return _Permits(permit, strict)

    async def _open_with(
        self, key: SessionKey, effort: Effort, permits: "_Permits", patience_s: float | None
    ) -> Session | SetupFailed:
        alarm = self._watch(key, permits) if patience_s is None else None
        try:
            opened = await self._open_or_fall_back(key, effort, patience_s)
        except BaseException:  # cancelled, or a bug of ours: nothing was learned, and a probe must not stay open
            permits.withdraw()
            raise
        finally:
            if alarm is not None:
                alarm.cancel()
        permits.close(opened, key[0])
        return opened

    def _watch(self, key: SessionKey, permits: "_Permits") -> Deadline:
        """A host alone has the RFC's times; nobody else need hang on it meanwhile, and an operator should see it."""
        name = key[0]
        soon_s = self._terms.patience_s
        if self._greets_in:  # of all hosts few are slow
            soon_s = max(soon_s, self._greets_in.get(_service(key), 0.0))
        return self._terms.clock.deadline(soon_s, lambda: permits.stall(f"no answer within {soon_s:.0f} s", name))

    # Probes aside

    def probe(self, host: Host, address: str, policy: SessionPolicy) -> bool:
        """Probe a broken host for mail that awaits it; False: it is not its turn, or it is not known as broken."""
        if len(self._probes) >= PROBES_ASIDE:
            return False
        permits = self._admit(address, policy)
        if isinstance(permits, Refused):
            return False
        if not permits.is_probe:
            permits.withdraw()
            return False
        self._probe_aside(self.key_for(host, address, policy), permits)
        return True

    def _probe_aside(self, key: SessionKey, permits: "_Permits") -> Refused:
        task = asyncio.ensure_future(self._probe(key, permits))
        self._probes[task] = None
        task.add_done_callback(self._probe_ended)
        _, address, policy = key
        return self.refusal(policy, address) or Refused(self._terms.clock.wall(), "a probe is under way")

    async def _probe(self, key: SessionKey, permits: "_Permits") -> None:
        patience_s = max(PROBE_PATIENCE_S, self._greets_in.get(_service(key), 0.0))
        opened = await self._open_with(key, Effort(), permits, patience_s)
        if isinstance(opened, Session):
            self._terms.pool.keep(opened)

    def _probe_ended(self, task: asyncio.Task[None]) -> None:
        del self._probes[task]
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._terms.sink.note("error", "a probe failed", why=repr(failure))

    # Dialling

    async def _open_or_fall_back(
        self, key: SessionKey, effort: Effort, patience_s: float | None
    ) -> Session | SetupFailed:
        """A failed opportunistic handshake is tried again in clear on a new connection.

        One that stalls may be a dead host as well: in clear only where no other host is at hand.
        """
        name, address, policy = key
        opened = await self._open(key, effort, patience_s)
        if not isinstance(opened, SetupFailed) or opened.step is not Step.TLS:
            return opened
        is_stalled = isinstance(opened.said, DeadlinePassed) and patience_s is not None
        if policy.tls is not TlsLevel.OPPORTUNISTIC or policy.implicit_tls or is_stalled:
            return opened
        if policy.credentials is not None:  # whoever breaks the handshake would be given the password in clear
            return opened
        effort.tried(name, address, f"TLS failed ({opened.said}), again in clear")
        self._remember_clear(key)
        return await self._open((name, address, replace(policy, tls=TlsLevel.NONE)), effort, patience_s)

    async def _open(self, key: SessionKey, effort: Effort, patience_s: float | None) -> Session | SetupFailed:
        _, address, policy = key
        terms, clock = self._terms, self._terms.clock
        started = clock.monotonic()
        timeout_s = terms.connect_timeout_s if patience_s is None else min(terms.connect_timeout_s, patience_s)
        effort.dials += 1
        effort.tls = None
        try:
            connection = await terms.dialer.dial(address, policy.port, source=policy.source, timeout_s=timeout_s)
        except ConnectFailed as error:
            self._egress.connect_failed(address, policy.port, str(error))
            return SetupFailed(Step.CONNECT, error)
        finally:
            connected = clock.monotonic()
            effort.connect_s += connected - started
        self._egress.connected(policy.port)
        session = Session(connection, clock, key, Transcript())
        failure = await session.set_up(None if patience_s is None else patience_s - (connected - started))
        ready = clock.monotonic()
        effort.handshake_s += ready - connected
        if failure is not None:
            effort.transcript, effort.tls = session.transcript, session.tls
            return failure
        self._remember_pace(key, ready - started)
        return session

    def _remember_clear(self, key: SessionKey) -> None:
        if len(self._clear_until) >= REMEMBERED_HOSTS:
            self._clear_until.clear()
        self._clear_until[_service(key)] = self._terms.clock.monotonic() + CLEAR_MEMORY_S

    def _remember_pace(self, key: SessionKey, took_s: float) -> None:
        """Learn who is slow, but alive: it has its time the next time, and is not taken for dead again."""
        if took_s * SLOW_FACTOR <= self._terms.patience_s:
            return
        if len(self._greets_in) >= REMEMBERED_HOSTS:
            self._greets_in.clear()
        self._greets_in[_service(key)] = min(took_s * SLOW_FACTOR, limits.BANNER_S)


def _service(key: SessionKey) -> tuple[str, int]:
    """Say which service a session is with: another port at that address may be another program."""
    return key[1], key[2].port


class _Permits:
    """Leave to dial a host as such, and for what the policy demands of it; closed together."""

    __slots__ = ("_permit", "_strict")

    def __init__(self, permit: Permit, strict: Permit | None) -> None:
        self._permit = permit
        self._strict = strict

    @property
    def is_probe(self) -> bool:
        return self._permit.is_probe or (self._strict is not None and self._strict.is_probe)

    def stall(self, detail: str, name: str) -> None:
        self._permit.stalls("set-up", f"{detail}, we go on waiting", name)

    def withdraw(self) -> None:
        self._permit.withdrawn()
        if self._strict is not None:
            self._strict.withdrawn()

    def close(self, opened: Session | SetupFailed, name: str) -> None:
        """Only connect and handshake failures count against a host; its demands on us count against those demands."""
        permit, strict = self._permit, self._strict
        if not isinstance(opened, SetupFailed):
            permit.succeeded()
            if strict is not None:
                strict.succeeded()
            return
        if isinstance(opened.said, ConnectFailed) and opened.said.step == "local":  # our descriptors, our addresses
            self.withdraw()
            return
        detail = str(opened.said)
        is_hosts_fault = opened.step in _HOST_STEPS or isinstance(opened.said, ConnectionLost | DeadlinePassed)
        if is_hosts_fault or strict is None:
            permit.failed(opened.step, detail, name)
            if strict is not None:
                strict.withdrawn()
            return
        permit.succeeded()
        strict.failed(opened.step, detail, name)
