# SPDX-License-Identifier: MIT
"""One attempt: walks the hosts of a Plan, in order and bounded, until each recipient of a lease has a verdict.

Takes sessions from the pool or has them opened (send.opening), and lets verdict judge what came of it.
Raises only what is not the hosts' doing (content that cannot be read): the caller defers the lease then.
A crash in the middle leaves the recipients deferred in the store; at worst a host that said 250 gets them again.
"""

from collections.abc import Sequence
from typing import TypeAlias

from smarthost.mail.content import Content
from smarthost.mail.hop import Host, TlsFacts
from smarthost.mail.lease import Lease
from smarthost.mail.plan import Plan
from smarthost.mail.result import AttemptResult, Outcome, Timings, Verdict
from smarthost.ports import Refused
from smarthost.send import verdict
from smarthost.send.opening import AttemptTerms, Effort, Opener
from smarthost.send.session import Session, SetupFailed, TransactionLost
from smarthost.smtp.client import Transaction
from smarthost.smtp.wire import TransactionEnded

DIALS_PER_ATTEMPT = 5  # Postfix's smtp_mx_address_limit; at 10 s each a dead site costs a slot 50 s at most

Stop: TypeAlias = tuple[Host, str]  # of the walk: a host and one of its addresses


class Sender:
    """Makes attempts."""

    def __init__(self, terms: AttemptTerms) -> None:
        self.terms = terms
        self.opener = Opener(terms)

    async def close(self) -> None:
        """End what goes on aside."""
        await self.opener.close()

    async def attempt(self, lease: Lease, plan: Plan) -> AttemptResult:
        """Give every recipient of the lease a verdict.

        Raises: StoreError: the content cannot be read.
        """
        content = lease.content
        if content is None:
            content = await self.terms.read_content(lease.id)
        walk = _Walk(self, lease, plan, content)
        stops = _stops(plan)
        for index, (host, address) in enumerate(stops):
            if not walk.pending or walk.effort.dials >= DIALS_PER_ATTEMPT:
                break
            await walk.visit(host, address, stops[index + 1 :])
        await walk.visit_anew()
        return walk.result()


def _stops(plan: Plan) -> list[Stop]:
    """Give all addresses in the order of the plan, each once: two names may lead to the same machine."""
    hosts = plan.hosts
    if len(hosts) == 1 and len(hosts[0].addresses) == 1:
        return [(hosts[0], hosts[0].addresses[0])]
    found: dict[str, Stop] = {}
    for host in hosts:
        for address in host.addresses:
            found.setdefault(address, (host, address))
    return list(found.values())


class _Walk:
    """One attempt's way along the hosts; it knows who still needs a verdict."""

    __slots__ = (
        "_content",
        "_lease",
        "_plan",
        "_queued_s",
        "_refused",
        "_sender",
        "_tls",
        "_transfer_s",
        "_uncounted",
        "_verdicts",
        "effort",
        "pending",
    )

    def __init__(self, sender: Sender, lease: Lease, plan: Plan, content: Content) -> None:
        self._sender = sender
        self._lease = lease
        self._plan = plan
        self._content = content
        self._queued_s = sender.terms.clock.wall() - lease.received_at
        self._verdicts: list[Verdict | None] = [None] * len(lease.recipients)
        self._tls: TlsFacts | None = None
        self._transfer_s = 0.0
        self._refused: list[Stop] = []
        self._uncounted: list[tuple[Refused, str, str]] = []
        self.pending = list(range(len(lease.recipients)))
        self.effort = Effort()
        if plan.caveat:
            self.effort.lines.append(plan.caveat)

    async def visit(self, host: Host, address: str, ahead: Sequence[Stop]) -> None:
        """Try one address of one host for the recipients that still need a verdict; `ahead` is what would follow."""
        key = self._sender.opener.key_for(host, address, self._plan.policy)
        if key[2].tls is not self._plan.policy.tls:
            self.effort.tried(host.name, address, "in clear, because TLS broke there within the last hour")
        session = self._sender.terms.pool.take(key)
        if session is not None and await self._use(session, host.name, address, is_stale_tolerable=True):
            return
        opener = self._sender.opener
        opened = opener.refusal(self._plan.policy, address) or await opener.open(
            key, self.effort, hurry=self._has_other(ahead)
        )
        if isinstance(opened, Refused):
            self._refuse(opened, host, address)
        elif isinstance(opened, SetupFailed):
            self._judge_setup(opened, host.name, address)
        else:
            await self._use(opened, host.name, address, is_stale_tolerable=False)

    async def visit_anew(self) -> None:
        """Go back to hosts that were refused and work now: a probe may have found that while this walk went on."""
        for host, address in tuple(self._refused):
            if not self.pending or self.effort.dials >= DIALS_PER_ATTEMPT:
                return
            if self._sender.opener.refusal(self._plan.policy, address) is None:
                await self.visit(host, address, ())

    def _has_other(self, ahead: Sequence[Stop]) -> bool:
        """Is another host at hand, so that nobody need wait long for this one?"""
        if self.effort.dials + 1 >= DIALS_PER_ATTEMPT:
            return False
        opener, policy = self._sender.opener, self._plan.policy
        return any(opener.refusal(policy, address) is None for _, address in ahead)

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
            self._transfer_s += clock.monotonic() - started

    # Judging

    def _refuse(self, refused: Refused, host: Host, address: str) -> None:
        """Pass a host over. What that means is worked out only for mail that no other host takes."""
        self._refused.append((host, address))
        self._uncounted.append((refused, host.name, address))
        self.effort.lines.append(self._sender.opener.refusal_line(host.name, address, refused))

    def _count_refusals(self) -> None:
        """Nobody asked these hosts, so their verdicts are still open: a worse host's 5xx does not settle them."""
        for refused, host, address in self._uncounted:
            postponed = verdict.for_refused_host(refused, host, address).verdict
            for index in self.pending:
                self._verdicts[index] = verdict.combine(self._verdicts[index], postponed)
        self._uncounted.clear()

    def _judge_setup(self, failed: SetupFailed, host: str, address: str) -> None:
        self._count_refusals()
        judged = verdict.after_session_failure(failed.step, failed.said, host, address)
        self.effort.tried(host, address, f"at {failed.step}: {failed.said}")
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
            self.effort.tried(host, address, f"lost at {ended.step}: {ended.error}")
        else:
            judged = verdict.after_transaction(ended, len(asked), host, address, soft_bounce)
        self._take_verdicts(asked, judged)

    def _take_verdicts(self, indices: list[int], judged: Sequence[verdict.RecipientVerdict]) -> None:
        """Join what this host said with what better hosts said; who may not go on leaves the walk."""
        if self._uncounted and any(each.verdict.outcome is not Outcome.RELAYED for each in judged):
            self._count_refusals()
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
        if self._uncounted and self.pending:
            self._count_refusals()
        verdicts = tuple([each if each is not None else _NO_HOST for each in self._verdicts])
        return AttemptResult(
            lease=self._lease,
            at=self._sender.terms.clock.wall(),
            verdicts=verdicts,
            timings=Timings(self._queued_s, self.effort.connect_s, self.effort.handshake_s, self._transfer_s),
            tls=self._tls,
            lane=self._plan.lane,
            walk=tuple(self.effort.lines),
        )


_NO_HOST = Verdict(Outcome.DEFERRED, "4.4.1", "no host was left to try")
