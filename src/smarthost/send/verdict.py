# SPDX-License-Identifier: MIT
"""The failure policy: what a reply or a failure means for each recipient, and whether the next host may be tried.

Pure and total: every input gives one verdict a recipient, and what is unknown is temporary. send.attempt calls it.
Next host, by reason (421 anywhere is the session's end: yes; 5xx is the message's or the recipient's end: no):
    connect .. AUTH, any failure      yes: this host has judged no mail. An alarm when it said 5xx, which never bounces
    lost or garbled before the dot    yes: the host cannot have the message
    lost or garbled after the dot     no: it may have it; another host would make a duplicate certain to go unseen
    MAIL, DATA 4xx                    yes: load, disk, rate: the host's state; no content was spent on it
    RCPT, content 4xx                 only if the reply blames the host (RFC 3463 x.3.z, x.4.z; bare 451): greylisting,
                                      full mailboxes, too many recipients and policy are the same at every host
    503, 530, 534, 535, 538;          yes, deferred, with an alarm: about our session, not the mail (Deviation: 5xx)
    500, 501, 502, 504 to DATA or BDAT
    an extension is not offered       yes: SMTPUTF8, REQUIRETLS, 8-bit content that cannot be converted; a bounce if
                                      none of the hosts offers it. SIZE too small: no
A chunk (BDAT) that is refused counts as DATA, the last as the content. In LMTP each recipient has its own last word.
"""

from msgspec import Struct
from msgspec.structs import replace

from smarthost.mail.errors import (
    ConnectFailed,
    ConnectionLost,
    DeadlinePassed,
    RemoteProtocolError,
    SmarthostError,
    TlsFailed,
    TransportError,
)
from smarthost.mail.plan import NoPlan
from smarthost.mail.reply import Reply
from smarthost.mail.result import DsnDuty, Outcome, Verdict
from smarthost.ports import Refused
from smarthost.smtp.steps import Step
from smarthost.smtp.wire import TransactionEnded


class RecipientVerdict(Struct, frozen=True, gc=False):
    """What one host's word means for one recipient. `alarm`: the operator should hear of it now."""

    verdict: Verdict
    try_next_host: bool
    alarm: bool = False


class HostVerdict(Struct, frozen=True, gc=False):
    """What a failed session means for everyone whose mail was to go through it; never a bounce."""

    verdict: Verdict
    try_next_host: bool
    alarm: bool = False


# RFC 5321 bad sequence; RFC 3207 and RFC 4954: STARTTLS or AUTH is needed, too weak, or failed. A host that says so
# to MAIL or RCPT speaks of how the session was set up: a rotated password must not bounce the queue.
_SESSION_CODES = frozenset({503, 530, 534, 535, 538})
# RFC 5321 unknown or not implemented: who offers CHUNKING and does not know BDAT (or DATA) has not judged the mail.
_UNKNOWN_COMMAND = frozenset({500, 501, 502, 504})
# Default status where the host gave no enhanced code (RFC 3463, RFC 5248).
_STEP_STATUS = {
    Step.CONNECT: "4.4.1",
    Step.BANNER: "4.3.2",  # system not accepting network messages
    Step.EHLO: "4.3.2",
    Step.HELO: "4.3.2",
    Step.STARTTLS: "4.7.5",  # cryptographic failure
    Step.TLS: "4.7.5",
    Step.AUTH: "4.7.8",  # authentication credentials invalid, as a temporary condition: ours to repair
}
_ERROR_STATUS: tuple[tuple[type[SmarthostError], str], ...] = (
    (ConnectFailed, "4.4.1"),  # no answer from host
    (TlsFailed, "4.7.5"),
    (ConnectionLost, "4.4.2"),  # bad connection
    (DeadlinePassed, "4.4.2"),
    (TransportError, "4.4.0"),
    (RemoteProtocolError, "4.5.0"),  # undefined protocol status
)
_UNREACHABLE = "4.4.1"  # no answer from host
_LOCAL_STATUS = "4.3.0"  # other or undefined mail system status: ours


def after_transaction(
    ended: TransactionEnded,
    n_recipients: int,
    host: str,
    address: str,
    soft_bounce: bool,
    dsn: DsnDuty = DsnDuty.RELAYED,
) -> tuple[RecipientVerdict, ...]:
    """Judge a transaction that ended with the host's word: one verdict for each recipient, in order.

    `dsn`: who tells of a success there.
    """
    unheard = _unheard(ended, host, address)
    return _judge_all(ended, unheard, n_recipients, host, address, soft_bounce, dsn)


def after_lost_transaction(
    step: str,
    error: SmarthostError,
    heard: TransactionEnded | None,
    n_recipients: int,
    host: str,
    address: str,
    soft_bounce: bool,
    dsn: DsnDuty = DsnDuty.RELAYED,
) -> tuple[RecipientVerdict, ...]:
    """Judge a transaction that ended without the host's word. `step` and `heard` are SmtpClient's at that moment.

    What the host had said to a recipient counts, unless it broke the protocol: then no reply is sure to be for whom it
    seems.
    """
    if step == Step.FINAL:
        why = f"{_place(host, address)} may or may not have the message: after the final dot {_cause(error)}"
        verdict = Verdict(Outcome.DEFERRED, _error_status(error), why, None, host, address, ambiguous=True)
        unheard = RecipientVerdict(verdict, try_next_host=False)
    else:
        unheard = _failed(step, error, host, address)
    if heard is None or isinstance(error, RemoteProtocolError):
        return (unheard,) * n_recipients
    return _judge_all(heard, unheard, n_recipients, host, address, soft_bounce, dsn)


def after_session_failure(step: str, failure: Reply | SmarthostError, host: str, address: str) -> HostVerdict:
    """Judge a session that failed before any transaction: at connect, banner, EHLO, STARTTLS, TLS or AUTH."""
    if not isinstance(failure, Reply):
        judged = _failed(step, failure, host, address)
        awaiting = replace(judged.verdict, awaits_host=judged.try_next_host)  # what is ours to mend awaits no host
        return HostVerdict(awaiting, judged.try_next_host, judged.alarm or _is_demand_unmet(step, failure))
    status = _soften(failure.enhanced) or _step_status(step)
    why = f"{_place(host, address)} answered {step} with {failure}"
    verdict = Verdict(Outcome.DEFERRED, status, why, failure, host, address, awaits_host=True)
    return HostVerdict(verdict, try_next_host=True, alarm=failure.is_permanent)


def _is_demand_unmet(step: str, error: SmarthostError) -> bool:
    """Does the host not do what our TLS policy or password asks of it? A retry changes nothing, the operator may.

    What fails for want of opportunistic TLS is not judged: it is tried again in clear.
    """
    in_the_way = isinstance(error, RemoteProtocolError) and step in (Step.STARTTLS, Step.TLS, Step.AUTH)
    return in_the_way or isinstance(error, TlsFailed)


def for_refused_host(refused: Refused, host: str, address: str) -> HostVerdict:
    """Judge a host that HostGate does not let us dial: nothing was tried there, so nothing counts as an attempt."""
    why = f"{_place(host, address)} is not dialled: {refused.why}"
    status = _UNREACHABLE if refused.is_unreachable else "4.3.2"
    verdict = Verdict(Outcome.POSTPONED, status, why, None, host, address, until=refused.until, awaits_host=True)
    return HostVerdict(verdict, try_next_host=True)


def for_no_plan(no_plan: NoPlan, soft_bounce: bool = False) -> Verdict:
    """Judge a destination that has no host to hand mail to."""
    if no_plan.permanent and not soft_bounce:
        status = no_plan.status if no_plan.status.startswith("5.") else "5.4.4"
        return Verdict(Outcome.BOUNCED, status, no_plan.why)
    status = _soften(no_plan.status) or "4.4.3"
    return Verdict(Outcome.DEFERRED, status, no_plan.why, until=no_plan.until)


def for_oversize(octets: int, limit: int, host: str, address: str, soft_bounce: bool) -> RecipientVerdict:
    """Judge a message larger than what the host announced to take; nothing was sent (RFC 1870 6.1)."""
    why = f"the message has {octets} octets, {_place(host, address)} takes at most {limit}"
    return _permanent("5.3.4", why, None, host, address, soft_bounce)


def for_smtputf8_missing(
    reverse_path: str, recipient: str, host: str, address: str, soft_bounce: bool, header_needs: bool = False
) -> RecipientVerdict | None:
    """Judge a recipient whose mail needs SMTPUTF8 at a host without it; None: it does not need it.

    `header_needs`: the header section is beyond ASCII. The next host may be tried: it may offer what this one does not
    (RFC 6531 3.2).
    """
    if not header_needs and reverse_path.isascii() and recipient.isascii():
        return None
    needs = recipient if not recipient.isascii() else reverse_path if not reverse_path.isascii() else "the header"
    why = f"{_place(host, address)} does not offer SMTPUTF8, which {needs} needs"
    return _not_offered("5.6.7", why, host, address, soft_bounce)


def for_requiretls_missing(why: str, host: str, address: str, soft_bounce: bool) -> RecipientVerdict:
    """Judge a message whose sender demands REQUIRETLS at a host that cannot give it (RFC 8689 4.2.1, 5).

    `why` says what the host lacks, after its name: "does not offer STARTTLS".
    """
    why = f"{_place(host, address)} {why}; the sender demands TLS on all hops (REQUIRETLS)"
    return _not_offered("5.7.30", why, host, address, soft_bounce)


def for_unfit_content(lacks: str, host: str, address: str, soft_bounce: bool) -> RecipientVerdict:
    """Judge content that the host cannot take as it is, and that cannot be converted (RFC 6152 3, RFC 3030 3).

    `lacks` names the extension that it would need: "8BITMIME".
    """
    why = f"{_place(host, address)} does not offer {lacks}, and the content cannot be converted to 7-bit"
    return _not_offered("5.6.3", why, host, address, soft_bounce)


def for_crowded_conversion(host: str, address: str, until: float) -> RecipientVerdict:
    """Judge content that would have to be converted while too much is being converted: nothing was tried."""
    why = f"{_place(host, address)} needs it converted to 7-bit, and as much as memory allows is being converted"
    verdict = Verdict(Outcome.POSTPONED, "4.3.1", why, None, host, address, until=until)
    return RecipientVerdict(verdict, try_next_host=True)


def _not_offered(status: str, why: str, host: str, address: str, soft_bounce: bool) -> RecipientVerdict:
    judged = _permanent(status, why, None, host, address, soft_bounce)
    return RecipientVerdict(judged.verdict, try_next_host=True)


def combine(better: Verdict | None, worse: Verdict) -> Verdict:
    """Join one recipient's verdicts at two hosts, the better (tried first) and the worse: hope outlives despair.

    Relayed wins; then a deferral, so that a worse host's 5xx does not override a better host's temporary failure; of
    two deferrals the ambiguous one, else one with a host's reply, else the better host's.
    """
    if better is None or better.outcome is Outcome.RELAYED or worse.outcome is Outcome.RELAYED:
        return better if better is not None and better.outcome is Outcome.RELAYED else worse
    if better.outcome is worse.outcome:
        return _clearer(better, worse)
    for verdict in (better, worse):
        if verdict.outcome is Outcome.DEFERRED:
            return verdict
    # One bounced, one was not tried (HostGate): tried it was, and hope there is.
    bounced = better if better.outcome is Outcome.BOUNCED else worse
    return _defer(bounced, f"{bounced.why}; another host could not be tried")


def _clearer(better: Verdict, worse: Verdict) -> Verdict:
    if better.outcome is Outcome.POSTPONED:
        sooner, later = sorted((better, worse), key=lambda each: each.until or 0.0)
        if sooner.status == _UNREACHABLE != later.status:  # what a host said tells more than that another is not there
            return replace(later, until=sooner.until)
        return sooner
    if better.ambiguous != worse.ambiguous:
        return better if better.ambiguous else worse
    return worse if better.reply is None and worse.reply is not None else better


# -- one transaction --


def _judge_all(
    ended: TransactionEnded,
    unheard: RecipientVerdict | None,
    n_recipients: int,
    host: str,
    address: str,
    soft: bool,
    dsn: DsnDuty,
) -> tuple[RecipientVerdict, ...]:
    if ended.mail.code >= 300 or ended.mail.code < 200:
        return (_judge(Step.MAIL, ended.mail, host, address, soft),) * n_recipients
    accepted = _judge_accepted(ended, ended.final, unheard, host, address, soft, dsn)
    replies, finals = ended.recipients, ended.finals
    if n_recipients == 1 and len(replies) == 1 and not finals:
        only = replies[0]
        if only is not None and 200 <= only.code < 300:
            return (accepted,)
    verdicts = []
    for n in range(n_recipients):
        reply = replies[n] if n < len(replies) else None
        if reply is None:
            verdicts.append(unheard or _unknown(host, address))
        elif not 200 <= reply.code < 300:
            verdicts.append(_judge(Step.RCPT, reply, host, address, soft))
        elif n < len(finals):  # LMTP
            verdicts.append(_judge_accepted(ended, finals[n], unheard, host, address, soft, dsn))
        else:
            verdicts.append(accepted)
    return tuple(verdicts)


def _judge_accepted(
    ended: TransactionEnded,
    final: Reply | None,
    unheard: RecipientVerdict | None,
    host: str,
    address: str,
    soft: bool,
    dsn: DsnDuty,
) -> RecipientVerdict:
    """Judge the recipients whose RCPT was accepted: the last word on the content is theirs."""
    if final is not None:
        if 200 <= final.code < 300:
            status = final.enhanced if final.enhanced.startswith("2.") else "2.0.0"
            verdict = Verdict(_RELAYED, status, _RELAYED_WHY, final, host, address, dsn=dsn)
            return RecipientVerdict(verdict, try_next_host=False)
        return _judge(Step.FINAL, final, host, address, soft)
    if ended.data is not None and ended.data.code >= 400:
        return _judge(Step.DATA, ended.data, host, address, soft)
    return unheard or _unknown(host, address)


_RELAYED = Outcome.RELAYED  # by way of the class a member costs 0.2 us (Python 3.11)
_RELAYED_WHY = "the host took responsibility for it"


def _judge(step: Step, reply: Reply, host: str, address: str, soft: bool) -> RecipientVerdict:
    """Judge a reply that is not 2xx, for whomever it concerns."""
    why = f"{_place(host, address)} answered {_WHAT[step]} with {reply}"
    if step is not Step.FINAL and (
        reply.code in _SESSION_CODES or (step is Step.DATA and reply.code in _UNKNOWN_COMMAND)
    ):
        verdict = Verdict(Outcome.DEFERRED, _soften(reply.enhanced) or "4.7.0", why, reply, host, address)
        return RecipientVerdict(verdict, try_next_host=True, alarm=True)
    if reply.code == 552 and step is Step.RCPT:
        # RFC 5321 4.5.3.1.10: 552 to RCPT is what old hosts say for "452 too many recipients"
        verdict = Verdict(Outcome.DEFERRED, _soften(reply.enhanced) or "4.5.3", why, reply, host, address)
        return RecipientVerdict(verdict, try_next_host=False)
    if reply.is_permanent:
        status = reply.enhanced if reply.enhanced.startswith("5.") else "5.0.0"
        return _permanent(status, why, reply, host, address, soft)
    status = _soften(reply.enhanced) or "4.0.0"
    verdict = Verdict(Outcome.DEFERRED, status, why, reply, host, address)
    return RecipientVerdict(verdict, _blames_host(step, reply))


_WHAT = {Step.MAIL: "MAIL", Step.RCPT: "RCPT", Step.DATA: "DATA or BDAT", Step.FINAL: "the content"}


def _blames_host(step: Step, reply: Reply) -> bool:
    """Is a temporary "no" about this host, so that another may say yes?"""
    if reply.code == 421 or step is Step.MAIL or step is Step.DATA:
        return True
    if reply.enhanced:
        return reply.enhanced.startswith(("4.3.", "4.4."))
    # 451: "local error in processing"; 452 to the content: "insufficient system storage" (to RCPT: too many)
    return reply.code == 451 or (reply.code == 452 and step is Step.FINAL)


def _unheard(ended: TransactionEnded, host: str, address: str) -> RecipientVerdict | None:
    """Give what holds for those the host said nothing about: the 421 that ended the session, if that was it."""
    if None not in ended.recipients and (ended.data is not None or ended.final is not None):
        return None  # the common case: no recipient can need it
    for reply in reversed(ended.recipients):
        if reply is not None:
            return _judge(Step.RCPT, reply, host, address, soft=True) if reply.code == 421 else None
    return None


def _unknown(host: str, address: str) -> RecipientVerdict:
    # The machine never ends a transaction so. If it ever does, the dot may have been sent: ambiguous is the safe word.
    why = f"{_place(host, address)} never said what became of it"
    return RecipientVerdict(Verdict(Outcome.DEFERRED, "4.5.0", why, None, host, address, ambiguous=True), False)


# -- building blocks --


def _failed(step: str, error: SmarthostError, host: str, address: str) -> RecipientVerdict:
    theirs = isinstance(error, TransportError | RemoteProtocolError)
    why = f"{_place(host, address)}, at {step}: {_cause(error)}"
    verdict = Verdict(Outcome.DEFERRED, _error_status(error), why, None, host, address)
    return RecipientVerdict(verdict, try_next_host=theirs, alarm=not theirs)  # ours would fail at every host


def _permanent(
    status: str, why: str, reply: Reply | None, host: str, address: str, soft_bounce: bool
) -> RecipientVerdict:
    verdict = Verdict(Outcome.BOUNCED, status, why, reply, host, address)
    return RecipientVerdict(_defer(verdict, f"{why} (soft_bounce is on)") if soft_bounce else verdict, False)


def _defer(bounced: Verdict, why: str) -> Verdict:
    status = _soften(bounced.status)
    return Verdict(Outcome.DEFERRED, status, why, bounced.reply, bounced.host, bounced.address)


def _soften(status: str) -> str:
    """Give the enhanced code in the class of temporary failures; "" stays ""."""
    return f"4{status[1:]}" if status else ""


def _step_status(step: str) -> str:
    return next((status for known, status in _STEP_STATUS.items() if known == step), "4.0.0")


def _error_status(error: SmarthostError) -> str:
    return next((status for kind, status in _ERROR_STATUS if isinstance(error, kind)), _LOCAL_STATUS)


def _cause(error: SmarthostError) -> str:
    return str(error) or type(error).__name__


def _place(host: str, address: str) -> str:
    return f"{host} [{address}]" if address else host or "the host"
