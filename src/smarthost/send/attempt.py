# SPDX-License-Identifier: MIT
"""One attempt: walks the hosts of a Plan, in order and bounded, until each recipient of a lease has a verdict.

Takes sessions from the pool or opens them, asking HostGate at each dial, and lets verdict judge what came of it.
Raises only what is not the hosts' doing (content that cannot be read): the caller defers the lease then.
A crash in the middle leaves the recipients deferred in the store; at worst a host that said 250 gets them again.
"""

from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from smarthost.mail.content import Content
from smarthost.mail.errors import ConnectFailed, ConnectionLost, DeadlinePassed
from smarthost.mail.hop import Host, TlsFacts, TlsLevel
from smarthost.mail.lease import Lease
from smarthost.mail.plan import Plan
from smarthost.mail.result import AttemptResult, Outcome, Timings, Verdict
from smarthost.ports import Clock, Dialer, HostGate, Permit, Refused, Sink
from smarthost.send import verdict
from smarthost.send.egress import EgressWatch
from smarthost.send.gates import demand_key, service_key
from smarthost.send.pool import Pool
from smarthost.send.session import Session, SessionKey, SetupFailed, TransactionLost
from smarthost.smtp import limits
from smarthost.smtp.client import Transaction
from smarthost.smtp.steps import Step
from smarthost.smtp.wire import TransactionEnded

DIALS_PER_ATTEMPT = 5  # Postfix's smtp_mx_address_limit; at 10 s each a dead site costs a slot 50 s at most
CLEAR_MEMORY_S = 3600.0  # how long a host whose opportunistic handshake failed is spoken to in clear
CLEAR_MEMORY_HOSTS = 10_000
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


class Sender:
    """Makes attempts. Remembers for an hour which hosts break the opportunistic handshake; nothing else."""

    def __init__(self, terms: AttemptTerms) -> None:
        self._terms = terms
        self._clear_until: dict[str, float] = {}
        self._egress = EgressWatch(terms.sink)

    async def attempt(self, lease: Lease, plan: Plan) -> AttemptResult:
        """Give every recipient of the lease a verdict.

        Raises: StoreError: the content cannot be read.
        """
        content = lease.content
        if content is None:
            content = await self._terms.read_content(lease.id)
        walk = _Walk(self, lease, plan, content)
        for host in plan.hosts:
            for address in host.addresses:
                if not walk.pending or walk.dials >= DIALS_PER_ATTEMPT:
                    return walk.result()
                await walk.visit(host, address)
        return walk.result()

    # Opening sessions

    async def open(self, key: SessionKey, walk: "_Walk") -> Session | SetupFailed | Refused:
        """Dial and set up; a failed opportunistic handshake is tried again in clear on a new connection."""
        _, address, policy = key
        permit = self._terms.gate.admit(service_key(policy), address)
        if isinstance(permit, Refused):
            return permit
        demand = demand_key(policy)
        strict = None if demand is None else self._terms.gate.admit(demand, address)
        if isinstance(strict, Refused):
            permit.withdrawn()
            return strict
        try:
            opened = await self._open_or_fall_back(key, walk)
        except BaseException:  # cancelled, or a bug of ours: nothing was learned, and a probe must not stay open
            _withdraw(permit, strict)
            raise
        _close_permits(permit, strict, opened)
        return opened

    async def _open_or_fall_back(self, key: SessionKey, walk: "_Walk") -> Session | SetupFailed:
        name, address, policy = key
        opened = await self._open(key, walk)
        if (
            not isinstance(opened, SetupFailed)
            or opened.step is not Step.TLS
            or policy.tls is not TlsLevel.OPPORTUNISTIC
            or policy.implicit_tls
        ):
            return opened
        walk.tried(name, address, f"TLS failed ({opened.said}), again in clear")
        self._remember_clear(address)
        return await self._open((name, address, replace(policy, tls=TlsLevel.NONE)), walk)

    async def _open(self, key: SessionKey, walk: "_Walk") -> Session | SetupFailed:
        _, address, policy = key
        terms, clock = self._terms, self._terms.clock
        started = clock.monotonic()
        walk.dials += 1
        try:
            connection = await terms.dialer.dial(
                address, policy.port, source=policy.source, timeout_s=terms.connect_timeout_s
            )
        except ConnectFailed as error:
            self._egress.connect_failed(address, policy.port, str(error))
            return SetupFailed(Step.CONNECT, error)
        finally:
            walk.connect_s += clock.monotonic() - started
        self._egress.connected(policy.port)
        started = clock.monotonic()
        session = Session(connection, clock, key)
        failure = await session.set_up()
        walk.handshake_s += clock.monotonic() - started
        return session if failure is None else failure

    def _remember_clear(self, address: str) -> None:
        if len(self._clear_until) >= CLEAR_MEMORY_HOSTS:
            self._clear_until.clear()
        self._clear_until[address] = self._terms.clock.monotonic() + CLEAR_MEMORY_S

    def key_for(self, host: Host, address: str, plan: Plan) -> SessionKey:
        """Give the key of the session this plan wants with this host, in clear where TLS is known to break."""
        policy = plan.policy
        if self._clear_until and policy.tls is TlsLevel.OPPORTUNISTIC:
            until = self._clear_until.get(address)
            if until is not None and until > self._terms.clock.monotonic():
                policy = replace(policy, tls=TlsLevel.NONE)
        return (host.name, address, policy)

    @property
    def terms(self) -> AttemptTerms:
        return self._terms


def _withdraw(permit: Permit, strict: Permit | None) -> None:
    permit.withdrawn()
    if strict is not None:
        strict.withdrawn()


def _close_permits(permit: Permit, strict: Permit | None, opened: Session | SetupFailed) -> None:
    """Only connect and handshake failures count against a host; its demands on us count against those demands."""
    if not isinstance(opened, SetupFailed):
        permit.succeeded()
        if strict is not None:
            strict.succeeded()
        return
    if isinstance(opened.said, ConnectFailed) and opened.said.step == "local":  # our descriptors, our source address
        _withdraw(permit, strict)
        return
    detail = str(opened.said)
    is_hosts_fault = opened.step in _HOST_STEPS or isinstance(opened.said, ConnectionLost | DeadlinePassed)
    if is_hosts_fault or strict is None:
        permit.failed(opened.step, detail)
        if strict is not None:
            strict.withdrawn()
        return
    permit.succeeded()
    strict.failed(opened.step, detail)


class _Walk:
    """One attempt's way along the hosts; it knows who still needs a verdict."""

    __slots__ = (
        "_content",
        "_lease",
        "_lines",
        "_plan",
        "_queued_s",
        "_sender",
        "_tls",
        "_verdicts",
        "connect_s",
        "dials",
        "handshake_s",
        "pending",
        "transfer_s",
    )

    def __init__(self, sender: Sender, lease: Lease, plan: Plan, content: Content) -> None:
        self._sender = sender
        self._lease = lease
        self._plan = plan
        self._content = content
        self._queued_s = sender.terms.clock.wall() - lease.received_at
        self._verdicts: list[Verdict | None] = [None] * len(lease.recipients)
        self._lines: list[str] = []
        self._tls: TlsFacts | None = None
        self.pending = list(range(len(lease.recipients)))
        self.dials = 0
        self.connect_s = self.handshake_s = self.transfer_s = 0.0

    def tried(self, host: str, address: str, what: str) -> None:
        """Note one stop of the walk for the record."""
        self._lines.append(f"{host} [{address}]: {what}")

    async def visit(self, host: Host, address: str) -> None:
        """Try one address of one host for the recipients that still need a verdict."""
        key = self._sender.key_for(host, address, self._plan)
        session = self._sender.terms.pool.take(key)
        if session is not None and await self._use(session, host.name, address, is_stale_tolerable=True):
            return
        opened = await self._sender.open(key, self)
        if isinstance(opened, Refused):
            self._refuse(opened, host.name, address)
        elif isinstance(opened, SetupFailed):
            self._judge_setup(opened, host.name, address)
        else:
            await self._use(opened, host.name, address, is_stale_tolerable=False)

    async def _use(self, session: Session, host: str, address: str, *, is_stale_tolerable: bool) -> bool:
        """Run the transaction in this session; False: the session had died while idle, which is nobody's attempt."""
        asked = self._judge_offer(session, host, address)
        if asked:
            ended = await self._transact(session, asked)
            if is_stale_tolerable and isinstance(ended, TransactionLost) and ended.was_stale:
                return False
            self._tls = session.tls
            self._judge_transaction(ended, asked, host, address)
        self._sender.terms.pool.keep(session)
        return True

    async def _transact(self, session: Session, asked: list[int]) -> TransactionEnded | TransactionLost:
        lease, clock = self._lease, self._sender.terms.clock
        recipients = tuple([lease.recipients[index].address for index in asked])
        transaction = Transaction(
            lease.reverse_path, recipients, lease.octets + len(lease.prefix), lease.body, lease.smtputf8
        )
        started = clock.monotonic()
        try:
            return await session.transact(transaction, self._content, lease.prefix)
        finally:
            self.transfer_s += clock.monotonic() - started

    # Judging

    def _refuse(self, refused: Refused, host: str, address: str) -> None:
        """Nobody asked this host, so its verdict is still open: a worse host's 5xx does not settle it."""
        self.tried(host, address, f"not dialled, {refused.why}")
        postponed = verdict.for_refused_host(refused, host, address).verdict
        for index in self.pending:
            self._verdicts[index] = verdict.combine(self._verdicts[index], postponed)

    def _judge_setup(self, failed: SetupFailed, host: str, address: str) -> None:
        judged = verdict.after_session_failure(failed.step, failed.said, host, address)
        self.tried(host, address, f"at {failed.step}: {failed.said}")
        if judged.alarm:
            self._sender.terms.sink.note(
                "error",
                "host refuses our sessions",
                host=host,
                address=address,
                step=failed.step,
                why=judged.verdict.why,
            )
        for index in self.pending:
            self._verdicts[index] = verdict.combine(self._verdicts[index], judged.verdict)

    def _judge_transaction(
        self, ended: TransactionEnded | TransactionLost, asked: list[int], host: str, address: str
    ) -> None:
        soft_bounce = self._sender.terms.soft_bounce
        if isinstance(ended, TransactionLost):
            judged = verdict.after_lost_transaction(
                ended.step, ended.error, ended.heard, len(asked), host, address, soft_bounce
            )
            self.tried(host, address, f"lost at {ended.step}: {ended.error}")
        else:
            judged = verdict.after_transaction(ended, len(asked), host, address, soft_bounce)
        self._take_verdicts(asked, judged)

    def _take_verdicts(self, indices: list[int], judged: Sequence[verdict.RecipientVerdict]) -> None:
        """Join what this host said with what better hosts said; who may not go on leaves the walk."""
        done = set()
        for index, each in zip(indices, judged, strict=True):
            self._verdicts[index] = verdict.combine(self._verdicts[index], each.verdict)
            if not each.try_next_host:
                done.add(index)
            if each.alarm:
                self._sender.terms.sink.note(
                    "error", "host refuses our sessions", host=each.verdict.host, why=each.verdict.why
                )
        self.pending = [index for index in self.pending if index not in done]

    def _judge_offer(self, session: Session, host: str, address: str) -> list[int]:
        """Judge what this host cannot take before anything is sent to it; give the recipients it can be asked for."""
        offered, lease = session.extensions, self._lease
        asked = self.pending
        if offered is None:  # it has ended the session; the transaction will say so
            return asked
        soft_bounce = self._sender.terms.soft_bounce
        if offered.size is not None and offered.refuses_size(octets := lease.octets + len(lease.prefix)):
            one = verdict.for_oversize(octets, offered.size, host, address, soft_bounce)
            self._take_verdicts(asked, (one,) * len(asked))
            return []
        if lease.smtputf8 and not offered.smtputf8:
            return self._judge_smtputf8(asked, host, address)
        return asked

    def _judge_smtputf8(self, asked: list[int], host: str, address: str) -> list[int]:
        lease, able = self._lease, []
        for index in asked:
            judged = verdict.for_smtputf8_missing(
                lease.reverse_path, lease.recipients[index].address, host, address, self._sender.terms.soft_bounce
            )
            if judged is None:
                able.append(index)
            else:
                self._take_verdicts([index], (judged,))
        return able

    def result(self) -> AttemptResult:
        """Give the verdicts of all recipients."""
        verdicts = tuple([each if each is not None else _NO_HOST for each in self._verdicts])
        return AttemptResult(
            lease=self._lease,
            at=self._sender.terms.clock.wall(),
            verdicts=verdicts,
            timings=Timings(self._queued_s, self.connect_s, self.handshake_s, self.transfer_s),
            tls=self._tls,
            lane=self._plan.lane,
            walk=tuple(self._lines),
        )


_NO_HOST = Verdict(Outcome.DEFERRED, "4.4.1", "no host was left to try")
