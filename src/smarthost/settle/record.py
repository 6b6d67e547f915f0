# SPDX-License-Identifier: MIT
"""What happened to a recipient in an attempt, as a record.

Pure and hot: one record for each verdict. `at` is when the attempt ended, `attempt` the count after it (a postponement
counts none), `reply` what a host said in this very attempt (never an earlier one), `walk` the hosts that were tried
before the last word. The Sink encodes it (mail.record.to_json); the store keeps it with the settlement.
"""

from smarthost.mail.hop import TlsFacts
from smarthost.mail.lease import Lease
from smarthost.mail.message import Message
from smarthost.mail.record import Kind, Record
from smarthost.mail.result import AttemptResult, Outcome, Verdict
from smarthost.mail.settlement import SettledRecipient, State


def describe_tls(facts: TlsFacts | None) -> str:
    """Give the session's TLS in one line, "" for clear text: "TLSv1.3 TLS_AES_256_GCM_SHA384 verified"."""
    if facts is None:
        return ""
    return f"{facts.version} {facts.cipher} {'verified' if facts.verified else 'unverified'}"


def record_verdict(
    result: AttemptResult, verdict: Verdict, settled: SettledRecipient, *, said: str, tls: str, seq: int
) -> Record:
    """Build the record of one verdict; `said` is its reply in one line, or ""."""
    lease, timings = result.lease, result.timings
    # Positional, because keywords cost 1 us more on this path. In Record's order; the test pins each field.
    return Record(
        seq,
        _kind(settled.state, verdict.outcome),
        result.at,
        lease.id,
        settled.address,
        lease.reverse_path,
        settled.attempts,
        settled.status,
        said,
        settled.why,
        verdict.host,
        verdict.address,
        result.lane,
        tls,
        verdict.ambiguous,
        lease.octets,
        lease.client,
        settled.due,
        timings.queued_s,
        timings.connect_s,
        timings.handshake_s,
        timings.transfer_s,
        result.walk,
    )


def record_expiry(lease: Lease, settled: SettledRecipient, *, at: float, seq: int) -> Record:
    """Build the record of an expiry that no attempt led to."""
    return Record(
        seq,
        Kind.EXPIRED,
        at,
        lease.id,
        settled.address,
        lease.reverse_path,
        settled.attempts,
        settled.status,
        why=settled.why,
        octets=lease.octets,
        client=lease.client,
        queued_s=max(0.0, at - lease.received_at),
    )


def record_delay(lease: Lease, settled: SettledRecipient, *, at: float, age: str, seq: int) -> Record:
    """Build the record of a wait that the sweep for delays found too long; `age`: the message's, in words."""
    told = "the sender is warned" if settled.report_owed else "nobody wants to be warned"
    return Record(
        seq,
        Kind.CHANGED,
        at,
        lease.id,
        settled.address,
        lease.reverse_path,
        settled.attempts,
        settled.status,
        why=f"not delivered for {age}, {told}: {settled.why}",
        octets=lease.octets,
        client=lease.client,
        next_attempt_at=settled.due,
        queued_s=max(0.0, at - lease.received_at),
    )


def _kind(state: State, outcome: Outcome) -> Kind:
    if state is State.RELAYED:
        return Kind.RELAYED
    if state is State.DEFERRED:
        return Kind.POSTPONED if outcome is Outcome.POSTPONED else Kind.DEFERRED
    return Kind.BOUNCED if state is State.BOUNCED else Kind.EXPIRED


def record_acceptance(message: Message, seq: int) -> Record:
    """Tell that a message became durable: one record, however many recipients it has."""
    envelope = message.envelope
    recipients = envelope.recipients
    is_alone = len(recipients) == 1
    return Record(
        seq,
        Kind.ACCEPTED,
        message.received_at,
        message.id,
        recipients[0].text if is_alone else "",
        envelope.reverse_path,
        octets=message.content.octets,
        client=message.client,
        user=message.user,
        recipients=() if is_alone else tuple([each.text for each in recipients]),
        message_id=message.message_id,
    )
