# SPDX-License-Identifier: MIT
"""One attempt: walks the hosts of a Plan, in order and bounded, until each recipient of a lease has a verdict.

Takes sessions from the pool or has them opened (send.opening), and lets verdict judge what came of it.
Raises only what is not the hosts' doing (content that cannot be read): the caller defers the lease then.
A crash in the middle leaves the recipients deferred in the store; at worst a host that said 250 gets them again.
"""

from collections.abc import Sequence
from typing import TypeAlias

from msgspec.structs import replace

from smarthost.mail.content import Content
from smarthost.mail.envelope import DsnRequest, SenderTls
from smarthost.mail.errors import ConnectionLost, SmarthostError, TlsFailed
from smarthost.mail.hop import Host, SessionPolicy, TlsFacts, TlsLevel
from smarthost.mail.lease import Lease
from smarthost.mail.plan import Plan
from smarthost.mail.reply import Reply
from smarthost.mail.result import AttemptResult, Outcome, Timings, Verdict
from smarthost.ports import Refused
from smarthost.send import verdict
from smarthost.send.keeping import TRANSCRIPT_LINES, Keeping
from smarthost.send.offer import Allowance, Needs, Rendition, Unfit, demanded_policy, dsn_duty, plain_form, share_out
from smarthost.send.opening import AttemptTerms, Effort, Opener
from smarthost.send.session import Session, SetupFailed, TransactionLost
from smarthost.smtp.client import Transaction
from smarthost.smtp.extensions import Extensions
from smarthost.smtp.steps import Step
from smarthost.smtp.wire import TransactionEnded

DIALS_PER_ATTEMPT = 5  # Postfix's smtp_mx_address_limit; at 10 s each a dead site costs a slot 50 s at most
CROWDED_S = 30.0  # until content that had no room to be converted is tried again: a large message takes about as long

_NO_WISH, _REQUIRED, _OPTIONAL = SenderTls.DEFAULT, SenderTls.REQUIRED, SenderTls.OPTIONAL  # cheaper to ask for
_NO_REQUESTS: tuple[DsnRequest, ...] = ()

Stop: TypeAlias = tuple[Host, str]  # of the walk: a host and one of its addresses


class Sender:
    """Makes attempts."""

    def __init__(self, terms: AttemptTerms) -> None:
        self.terms = terms
        self.opener = Opener(terms)
        self.allowance = Allowance()
        self.keeping = Keeping(terms.clock)

    def adopt(self, terms: AttemptTerms) -> None:
        """Make attempts by other terms; what was learned of hosts stays."""
        self.terms = terms
        self.opener.adopt(terms)

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
        try:
            for index, (host, address) in enumerate(stops):
                if not walk.pending or walk.effort.dials >= DIALS_PER_ATTEMPT:
                    break
                await walk.visit(host, address, stops[index + 1 :])
            if walk.refused:
                await walk.visit_anew()
        except BaseException as failure:  # a cancellation, too: the relay stops
            if not walk.has_relayed:
                raise
            walk.break_off(failure)  # what a host took is not sent again because the rest cannot go on
        finally:
            walk.close()
        return walk.result()


def _stops(plan: Plan) -> list[Stop]:
    """Give all addresses in the order of the plan, each once: two names may lead to the same machine.

    Another port, or another password, makes it another stop.
    """
    hosts = plan.hosts
    if len(hosts) == 1 and len(hosts[0].addresses) == 1:
        return [(hosts[0], hosts[0].addresses[0])]
    found: dict[tuple[str, SessionPolicy], Stop] = {}
    for host in hosts:
        policy = plan.policy_of(host)
        for address in host.addresses:
            found.setdefault((address, policy), (host, address))
    return list(found.values())


_REQUIRETLS_ASKED = "the sender demands REQUIRETLS: a verified certificate and the extension at each hop"


class _Walk:
    """One attempt's way along the hosts; it knows who still needs a verdict."""

    __slots__ = (
        "_content",
        "_lease",
        "_needs",
        "_plan",
        "_queued_s",
        "_sender",
        "_tls",
        "_tls_of",
        "_transfer_s",
        "_uncounted",
        "_verdicts",
        "effort",
        "pending",
        "refused",
    )

    def __init__(self, sender: Sender, lease: Lease, plan: Plan, content: Content) -> None:
        self._sender = sender
        self._lease = lease
        self._plan = plan
        self._content = content
        self._needs: Needs | None = None  # most mail needs nothing
        self._queued_s = sender.terms.clock.wall() - lease.received_at
        self._verdicts: list[Verdict | None] = [None] * len(lease.recipients)
        self._tls: TlsFacts | None = None  # of the last session, and where others follow, of what each verdict is from
        self._tls_of: dict[int, TlsFacts | None] = {}
        self._transfer_s = 0.0
        self.refused: list[Stop] = []
        self._uncounted: list[tuple[Refused, str, str]] = []
        self.pending = list(range(len(lease.recipients)))
        self.effort = Effort()
        if plan.caveat:
            self.effort.lines.append(plan.caveat)
        if lease.tls is _REQUIRED:
            self.effort.lines.append(_REQUIRETLS_ASKED)

    def close(self) -> None:
        """Give back the memory of a converted form."""
        if self._needs is not None:
            self._needs.close()

    @property
    def needs(self) -> Needs:
        """What this mail needs of a host."""
        if self._needs is None:
            self._needs = Needs(self._lease, self._content, self._sender.allowance)
        return self._needs

    def _policy_for(self, host: Host) -> SessionPolicy:
        if self._lease.tls is _NO_WISH:
            return host.policy or self._plan.policy  # Plan.policy_of, spelled out: asked for all mail
        return demanded_policy(self._lease, self._plan, host)

    async def visit(self, host: Host, address: str, ahead: Sequence[Stop]) -> None:
        """Try one address of one host for the recipients that still need a verdict; `ahead` is what would follow."""
        opener, pool = self._sender.opener, self._sender.terms.pool
        policy = self._policy_for(host)
        key = opener.key_for(host, address, policy)
        if policy.tls is not key[2].tls:
            self.effort.tried(host.name, address, "in clear, because TLS broke there within the last hour")
        if self._lease.tls is _OPTIONAL and policy.tls is not self._plan.policy_of(host).tls:
            self.effort.tried(host.name, address, "no valid TLS is demanded, as the sender wishes (TLS-Required: No)")
        left = self.pending
        session = pool.take(key)
        if session is not None:
            left = await self._use(session, host.name, address, left, is_stale_tolerable=True)
        while left:
            dials = self.effort.dials
            opened = opener.refusal(key[2], address) or await opener.open(
                key, self.effort, hurry=self._has_other(ahead)
            )
            if isinstance(opened, Refused):
                self._refuse(opened, host, address)
                return
            if isinstance(opened, SetupFailed):
                self._judge_setup(opened, host, address, left)
                return
            left = await self._use(opened, host.name, address, left, is_stale_tolerable=False)
            if left:  # it has taken as much as it takes in a session: the bound on dials is for those that take nothing
                self.effort.dials = dials

    async def visit_anew(self) -> None:
        """Go back to hosts that were refused and work now: a probe may have found that while this walk went on."""
        for host, address in tuple(self.refused):
            if not self.pending or self.effort.dials >= DIALS_PER_ATTEMPT:
                return
            if self._sender.opener.refusal(self._policy_for(host), address) is None:
                await self.visit(host, address, ())

    def _has_other(self, ahead: Sequence[Stop]) -> bool:
        """Is another host at hand, so that nobody need wait long for this one?"""
        if self.effort.dials + 1 >= DIALS_PER_ATTEMPT:
            return False
        opener = self._sender.opener
        return any(opener.refusal(self._policy_for(host), address) is None for host, address in ahead)

    async def _use(
        self, session: Session, host: str, address: str, asked: list[int], *, is_stale_tolerable: bool
    ) -> list[int]:
        """Ask for these recipients in this session; give those for whom it takes another one with the same host.

        That is all of them, if the session had died while idle, which is nobody's attempt.
        """
        try:
            offered = session.extensions
            fit = None if offered is None else plain_form(self._lease, self._content, offered)
            shares = [asked]
            if fit is None:
                asked = self._judge_offer(session, host, address, asked)
                if not asked or (fit := await self._find_fit(session, host, address, asked)) is None:
                    return []
                shares = share_out(self._lease, asked, offered)
            rest: list[int] = []
            for number, share in enumerate(shares):
                if number and not session.is_reusable:  # MAILMAX
                    return rest
                rest = [index for later in shares[number + 1 :] for index in later] if len(shares) > 1 else []
                ended = await self._transact(session, offered, share, fit)
                if isinstance(ended, TransactionLost) and ended.was_stale and (is_stale_tolerable or number):
                    return share + rest
                self._tls = session.tls
                if self._judge_transaction(ended, share, rest, session, offered, host, address):
                    break
            return []
        finally:
            self._sender.terms.pool.keep(session)

    async def _find_fit(self, session: Session, host: str, address: str, asked: list[int]) -> Rendition | None:
        """Find the form in which this host takes the mail; None: there is none, and that is judged."""
        needs, offered = self.needs, session.extensions
        fit = needs.fit(offered)
        if fit is None and await needs.convert(self._sender.terms.clock.sleep):
            fit = needs.fit(offered)
        if not isinstance(fit, Rendition) or fit.is_converted:
            return self._judge_fit(fit, session, host, address, asked)
        return fit

    async def _transact(
        self, session: Session, offered: Extensions | None, asked: list[int], rendition: Rendition
    ) -> TransactionEnded | TransactionLost:
        lease, clock = self._lease, self._sender.terms.clock
        utf8, requests = False, _NO_REQUESTS
        if not rendition.is_plain:
            recipients = [lease.recipients[index] for index in asked]
            utf8 = self.needs.needs_utf8(recipients)
            if offered is not None and offered.dsn:
                requests = self.needs.requests(recipients, utf8=utf8)
        transaction = Transaction(
            lease.reverse_path,
            tuple([lease.recipients[index].address for index in asked]),
            rendition.octets,
            rendition.body,
            utf8,
            lease.ret,
            lease.envid,
            lease.tls is _REQUIRED,
            requests,
        )
        started = clock.monotonic()
        try:
            return await session.transact(transaction, rendition.content, rendition.prefix)
        finally:
            self._transfer_s += clock.monotonic() - started

    # Judging

    def _refuse(self, refused: Refused, host: Host, address: str) -> None:
        """Pass a host over. What that means is worked out only for mail that no other host takes."""
        self.refused.append((host, address))
        self._uncounted.append((refused, host.name, address))
        self.effort.lines.append(self._sender.opener.refusal_line(host.name, address, refused))

    def _count_refusals(self) -> None:
        """Nobody asked these hosts, so their verdicts are still open: a worse host's 5xx does not settle them."""
        for refused, host, address in self._uncounted:
            postponed = verdict.for_refused_host(refused, host, address).verdict
            for index in self.pending:
                self._verdicts[index] = verdict.combine(self._verdicts[index], postponed)
        self._uncounted.clear()

    def _judge_setup(self, failed: SetupFailed, host: Host, address: str, asked: list[int]) -> None:
        self._count_refusals()
        self.effort.tried(host.name, address, f"at {failed.step}: {failed.said}")
        is_required = self._lease.tls is _REQUIRED
        if is_required and failed.step is Step.STARTTLS and isinstance(failed.said, TlsFailed):
            one = verdict.for_requiretls_missing(
                "does not offer STARTTLS", host.name, address, self._sender.terms.soft_bounce
            )
            self._take_verdicts(asked, (one,) * len(asked))
            return
        judged = verdict.after_session_failure(failed.step, failed.said, host.name, address)
        # What a sender demands of a host and it does not meet is not for the operator to mend.
        if judged.alarm and not (is_required and self._plan.policy_of(host).tls is not TlsLevel.VERIFIED):
            self._sender.terms.sink.note(
                "error",
                "host refuses our sessions",
                host=host.name,
                address=address,
                step=failed.step,
                why=judged.verdict.why,
            )
        said = judged.verdict
        if is_required:  # or an operator would look for a fault of the network
            said = replace(said, why=f"{said.why}; {_REQUIRETLS_ASKED}")
        for index in asked:
            self._verdicts[index] = joined = verdict.combine(self._verdicts[index], said)
            if joined is said:
                self._tls_of[index] = self.effort.tls

    def _judge_transaction(
        self,
        ended: TransactionEnded | TransactionLost,
        asked: list[int],
        rest: list[int],
        session: Session,
        offered: Extensions | None,
        host: str,
        address: str,
    ) -> bool:
        """Judge the recipients asked for, and the `rest` that a later transaction would ask for, where it is the same
        for them. True: this host need not be asked for them."""
        soft_bounce, dsn = self._sender.terms.soft_bounce, dsn_duty(offered, is_lmtp=session.key[2].is_lmtp)
        if isinstance(ended, TransactionLost):
            judged = verdict.after_lost_transaction(
                ended.step, ended.error, ended.heard, len(asked), host, address, soft_bounce, dsn
            )
            self.effort.tried(host, address, f"lost at {ended.step}: {ended.error}")
            self.effort.transcript = session.transcript
            self._take_verdicts(asked, judged)
            error: SmarthostError = ended.error
        else:
            if ended.mail.code >= 300:
                asked, rest = asked + rest, []
            if self._sender.keeping.wants(ended, address):
                self.effort.transcript = session.transcript
            self._take_verdicts(asked, verdict.after_transaction(ended, len(asked), host, address, soft_bounce, dsn))
            if not rest or (closing := _closing_reply(ended)) is None:
                return not rest
            error = ConnectionLost(f"the host closed the session: {closing}", step=Step.MAIL)
        if rest:
            unasked = verdict.after_lost_transaction(Step.MAIL, error, None, len(rest), host, address, soft_bounce)
            self._take_verdicts(rest, unasked)
        return True

    def _take_verdicts(self, indices: list[int], judged: Sequence[verdict.RecipientVerdict]) -> None:
        """Join what this host said with what better hosts said; who may not go on leaves the walk."""
        if self._uncounted and any(each.verdict.outcome is not Outcome.RELAYED for each in judged):
            self._count_refusals()
        done, heard = set(), []
        for index, each in zip(indices, judged, strict=True):
            better = self._verdicts[index]
            self._verdicts[index] = joined = each.verdict if better is None else verdict.combine(better, each.verdict)
            if joined is each.verdict:
                heard.append(index)
            if not each.try_next_host:
                done.add(index)
            if each.alarm:
                self._sender.terms.sink.note(
                    "error", "host refuses our sessions", host=each.verdict.host, why=each.verdict.why
                )
        self.pending = [index for index in self.pending if index not in done]
        if self.pending or self._tls_of:
            self._tls_of.update(dict.fromkeys(heard, self._tls))

    def _judge_offer(self, session: Session, host: str, address: str, asked: list[int]) -> list[int]:
        """Judge what this host cannot take before anything is sent to it; give the recipients it can be asked for."""
        offered, lease = session.extensions, self._lease
        if offered is None:  # it has ended the session; the transaction will say so
            return asked
        if lease.tls is _REQUIRED and not (offered.requiretls and session.tls is not None):
            one = verdict.for_requiretls_missing(
                "does not offer REQUIRETLS", host, address, self._sender.terms.soft_bounce
            )
            self._take_verdicts(asked, (one,) * len(asked))
            return []
        if not self._judge_size(offered, lease.octets + len(lease.prefix), host, address, asked):
            return []
        if not offered.smtputf8 and self.needs.needs_utf8([lease.recipients[index] for index in asked]):
            return self._judge_smtputf8(asked, host, address)
        return asked

    def _judge_size(self, offered: Extensions, octets: int, host: str, address: str, asked: list[int]) -> bool:
        """Say whether the host takes that many octets; if not, that is judged."""
        if not offered.refuses_size(octets):
            return True
        one = verdict.for_oversize(octets, offered.size or 0, host, address, self._sender.terms.soft_bounce)
        self._take_verdicts(asked, (one,) * len(asked))
        return False

    def _judge_smtputf8(self, asked: list[int], host: str, address: str) -> list[int]:
        lease, able, header = self._lease, [], self.needs.header_needs_utf8
        for index in asked:
            judged = verdict.for_smtputf8_missing(
                lease.reverse_path,
                lease.recipients[index].address,
                host,
                address,
                self._sender.terms.soft_bounce,
                header,
            )
            if judged is None:
                able.append(index)
            else:
                self._take_verdicts([index], (judged,))
        return able

    def _judge_fit(
        self, fit: Rendition | Unfit | None, session: Session, host: str, address: str, asked: list[int]
    ) -> Rendition | None:
        """Give the converted form; None: there is none that the host would take, and that is judged."""
        terms, offered = self._sender.terms, session.extensions
        if isinstance(fit, Rendition):
            if offered is not None and not self._judge_size(offered, fit.octets, host, address, asked):
                return None
            breaks = ", which breaks its DKIM signature" if fit.was_signed else ""
            self.effort.tried(host, address, f"converted to 7-bit for {host}{breaks}")
            return fit
        if fit is None:
            one = verdict.for_crowded_conversion(host, address, terms.clock.wall() + CROWDED_S)
        else:
            one = verdict.for_unfit_content(fit.lacks, host, address, terms.soft_bounce)
        self._take_verdicts(asked, (one,) * len(asked))
        return None

    @property
    def has_relayed(self) -> bool:
        """Has a host taken the mail for anybody?"""
        return any(each is not None and each.outcome is Outcome.RELAYED for each in self._verdicts)

    def break_off(self, failure: BaseException) -> None:
        """Defer who is left for a failure of our own, or because the relay stops."""
        self._sender.terms.sink.note("error", "attempt broken off", id=self._lease.id, why=repr(failure))
        deferred = Verdict(Outcome.DEFERRED, "4.3.0", f"local failure: {failure!r}")
        for index in self.pending:
            self._verdicts[index] = verdict.combine(self._verdicts[index], deferred)

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
            tls_of=tuple([self._tls_of.get(n) for n in range(len(verdicts))]) if self._tls_of else (),
            walk=tuple(self.effort.lines),
            transcript=self.effort.transcript[-TRANSCRIPT_LINES:],
        )


def _closing_reply(ended: TransactionEnded) -> Reply | None:
    """Give the 421 with which the host ended the session, or None."""
    replies = (ended.data, ended.final, *ended.recipients, *ended.finals)
    return next((reply for reply in replies if reply is not None and reply.code == 421), None)


_NO_HOST = Verdict(Outcome.DEFERRED, "4.4.1", "no host was left to try")
