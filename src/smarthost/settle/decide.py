# SPDX-License-Identifier: MIT
"""What an attempt's result changes: a Settlement, with one recipient and one record for each recipient of the lease.

Pure and total: every verdict at every time gives a state with a next event, or an end. Never decides what a reply means
(send.verdict did) nor when to retry (`retry_at` does). Called by relay.py; what it returns is one transaction of the
store, so a crash before the commit leaves the recipients deferred as they were.
"""

from collections.abc import Callable

from msgspec.structs import replace

from smarthost.mail.errors import LocalProtocolError
from smarthost.mail.lease import Lease, LeasedRecipient
from smarthost.mail.result import AttemptResult, Outcome, Verdict
from smarthost.mail.settlement import SettledRecipient, Settlement, State
from smarthost.settle.notify import is_report_owed
from smarthost.settle.record import describe_tls, record_delay, record_expiry, record_verdict

# RFC 3463 3.5: X.4.7 "delivery time expired", and class 4 is the one that "sending in the future may be successful"
# (2.3.4 of RFC 3464 allows it with action failed). Postfix repeats the last reply's status instead: that hides why we
# gave up; the last reply itself is kept beside it.
EXPIRED_STATUS = "4.4.7"
# A loop of aliases or a chain without end may be an accident for a while (route.mx defers); after days it is a fact.
_ALIAS_TROUBLE = {"4.4.6": "5.4.6", "4.4.4": "5.4.4"}
EXPIRED_STATUSES = (EXPIRED_STATUS, *_ALIAS_TROUBLE.values())

POSTPONED_LEAST_S = 1.0  # a time already past must not make a recipient spin
POSTPONED_MOST_S = 3600.0  # the schedule's own ceiling is about as long; queue.schedule.sweep_before must exceed it

_FAILURES = (Outcome.DEFERRED, Outcome.BOUNCED)

RetryAt = Callable[[int, float], float | None]  # (attempts, received_at) -> next attempt, or None: expired


def decide(
    result: AttemptResult, *, now: float, retry_at: RetryAt, next_seq: Callable[[], int], delay_warning_s: float = 0.0
) -> Settlement:
    """Turn the verdicts of an attempt into a settlement, recipients and records in the lease's order.

    What is deferred at an age of `delay_warning_s` (0.0: never) owes a report of that, once.

    Raises: LocalProtocolError: not as many verdicts as recipients; nobody can say whose is missing.
    """
    lease, verdicts = result.lease, result.verdicts
    if len(verdicts) != len(lease.recipients):
        raise LocalProtocolError(f"{len(verdicts)} verdicts for {len(lease.recipients)} recipients of {lease.id}")
    each_tls = tuple(map(describe_tls, result.tls_of)) or (describe_tls(result.tls),) * len(verdicts)
    recipients = []
    records = []
    transcript = result.transcript
    for recipient, verdict, tls in zip(lease.recipients, verdicts, each_tls, strict=True):
        said = "" if verdict.reply is None else str(verdict.reply)
        if verdict.outcome is Outcome.RELAYED:
            settled = _relay(recipient, verdict, said)
            if recipient.notify:
                settled = _with_success_owed(settled, recipient, verdict, lease)
        elif verdict.outcome is Outcome.BOUNCED:
            settled = _bounce(recipient, verdict, said, lease)
        else:
            settled = _defer(recipient, verdict, said, lease, now, retry_at)
            if (
                delay_warning_s
                and not recipient.is_delay_told
                and settled.state is State.DEFERRED
                and now - lease.received_at >= delay_warning_s
            ):
                settled = _with_delay_told(settled, recipient, lease)
        recipients.append(settled)
        record = record_verdict(result, verdict, settled, said=said, tls=tls, seq=next_seq())
        if transcript and verdict.outcome in _FAILURES:
            record, transcript = replace(record, transcript=transcript), ()  # once is enough for all of them
        records.append(record)
    return Settlement(lease.id, tuple(recipients), tuple(records))


def expire(lease: Lease, *, now: float, next_seq: Callable[[], int]) -> Settlement:
    """Give up on every recipient of a lease that the sweep found too old, also if it was never attempted."""
    recipients = []
    records = []
    for recipient in lease.recipients:
        last = recipient.last_reply or recipient.last_status
        if not last:
            last = "a failure without a reply" if recipient.attempts else "never attempted"
        status = _final_status("" if recipient.last_reply else recipient.last_status)
        settled = _expire(recipient, lease, now, recipient.attempts, last, recipient.last_reply, "", status)
        recipients.append(settled)
        records.append(record_expiry(lease, settled, at=now, seq=next_seq()))
    return Settlement(lease.id, tuple(recipients), tuple(records))


def warn_of_delay(
    lease: Lease, *, now: float, next_seq: Callable[[], int], why_waiting: Callable[[str], str]
) -> Settlement:
    """Settle what the sweep for delays found as it was, but with a delay report owed if anybody wants one.

    `why_waiting`: what a recipient domain waits for as a whole, or "".
    """
    recipients = []
    records = []
    for recipient in lease.recipients:
        settled = SettledRecipient(
            recipient.n,
            recipient.address,
            recipient.domain,
            State.DEFERRED,
            recipient.due,
            recipient.attempts,
            recipient.last_status,
            recipient.last_reply,
            why_waiting(recipient.domain) or recipient.why or "its turn has not come yet",
            False,
            recipient.host,
            recipient.awaits_host,
        )
        settled = _with_delay_told(settled, recipient, lease)
        recipients.append(settled)
        records.append(record_delay(lease, settled, at=now, age=_describe_age(now - lease.received_at), seq=next_seq()))
    return Settlement(lease.id, tuple(recipients), tuple(records))


def _with_delay_told(settled: SettledRecipient, recipient: LeasedRecipient, lease: Lease) -> SettledRecipient:
    """Owe a report of the delay; who wants none is not asked about again."""
    is_owed = is_report_owed(lease.reverse_path, State.DEFERRED, recipient.notify)
    return replace(settled, report_owed=is_owed, is_delay_told=True, notify=recipient.notify, orcpt=recipient.orcpt)


def _with_success_owed(
    settled: SettledRecipient, recipient: LeasedRecipient, verdict: Verdict, lease: Lease
) -> SettledRecipient:
    is_owed = is_report_owed(lease.reverse_path, State.RELAYED, recipient.notify, verdict.dsn)
    return replace(settled, report_owed=is_owed, dsn=verdict.dsn, notify=recipient.notify, orcpt=recipient.orcpt)


def _relay(recipient: LeasedRecipient, verdict: Verdict, said: str) -> SettledRecipient:
    return SettledRecipient(
        recipient.n,
        recipient.address,
        recipient.domain,
        State.RELAYED,
        0.0,
        recipient.attempts + 1,
        verdict.status,
        said,
        verdict.why,
        False,
        verdict.host,
    )


def _bounce(recipient: LeasedRecipient, verdict: Verdict, said: str, lease: Lease) -> SettledRecipient:
    """End with this verdict's words only: an earlier temporary reply is not why it bounces."""
    return SettledRecipient(
        recipient.n,
        recipient.address,
        recipient.domain,
        State.BOUNCED,
        0.0,
        recipient.attempts + 1,
        verdict.status,
        said,
        verdict.why,
        is_report_owed(lease.reverse_path, State.BOUNCED, recipient.notify),
        verdict.host,
        notify=recipient.notify,
        orcpt=recipient.orcpt,
    )


def _defer(
    recipient: LeasedRecipient, verdict: Verdict, said: str, lease: Lease, now: float, retry_at: RetryAt
) -> SettledRecipient:
    """Deferred or postponed: to be tried again, or expired if its time is over."""
    is_counted = verdict.outcome is Outcome.DEFERRED
    attempts = recipient.attempts + is_counted
    due = retry_at(attempts, lease.received_at)
    if due is None:
        last = said or (verdict.why if is_counted else recipient.last_reply or verdict.why)
        host = verdict.host if said else ""  # an earlier reply may be another host's
        status = _final_status("" if said else verdict.status)
        return _expire(recipient, lease, now, attempts, last, said or recipient.last_reply, host, status)
    if not is_counted:
        until = due if verdict.until is None else verdict.until
        due = min(now + POSTPONED_MOST_S, max(now + POSTPONED_LEAST_S, until))
    return SettledRecipient(
        recipient.n,
        recipient.address,
        recipient.domain,
        State.DEFERRED,
        due,
        attempts,
        verdict.status,
        said or recipient.last_reply,
        verdict.why,
        False,
        verdict.host,
        verdict.awaits_host,
        notify=recipient.notify,
        orcpt=recipient.orcpt,
        is_delay_told=recipient.is_delay_told,
    )


def _final_status(own: str) -> str:
    """Give the status of an expiry whose last failure had this status of our own, no host's word."""
    return _ALIAS_TROUBLE.get(own, EXPIRED_STATUS)


def _expire(
    recipient: LeasedRecipient,
    lease: Lease,
    now: float,
    attempts: int,
    last: str,
    last_reply: str,
    host: str,
    status: str,
) -> SettledRecipient:
    return SettledRecipient(
        recipient.n,
        recipient.address,
        recipient.domain,
        State.EXPIRED,
        0.0,
        attempts,
        status,
        last_reply,
        f"not delivered within {_describe_age(now - lease.received_at)}; last: {last}",
        is_report_owed(lease.reverse_path, State.EXPIRED, recipient.notify),
        host,
        notify=recipient.notify,
        orcpt=recipient.orcpt,
    )


def _describe_age(seconds: float) -> str:
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size:
            n = int(seconds // size)
            return f"{n} {unit}" if n == 1 else f"{n} {unit}s"
    return "a second"
