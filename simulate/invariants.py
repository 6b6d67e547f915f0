# SPDX-License-Identifier: MIT
"""The promises, as claims about a history: each function gives the text of a failure, or None.

Pure. Their names are what a failing seed prints. `history.now` is virtual; what concerns the relay's own clock says so.
"""

from collections.abc import Container, Iterable, Mapping, Sequence

from msgspec import Struct

from simulate.history import Copy, History, Pair
from simulate.scenario import is_bad
from smarthost.mail.record import Kind, Record
from smarthost.queue.audit import Claim, Finding, audit

SAME_TIME_S = 0.001
UNSEEN_STEPS_S = 600.0  # backends.sqlite.steps: of a clock, less than so much is taken for time that passed
PROBE_S = 120.0  # route.health: a probe not heard of for so long has failed


class Gate(Struct, kw_only=True):
    """What the relay said of a host: nobody dials before `until` (its wall clock), then one probe at a time does."""

    until: float
    probed_until: float = 0.0  # a probe is under way
    dials: int = 0  # of this probe


# -- what clients hear ----------------------------------------------------------------------------------------------


def a_failure_of_ours_is_never_permanent(reply: str) -> str | None:
    """Clients send well-formed mail that they may send: whatever happens here, they are told to come again."""
    return f"a client heard {reply!r}" if reply.startswith("5") else None


def an_acknowledged_message_is_durable(pair: Pair, is_stored: bool, history: History) -> str | None:
    """Who hears 250 may forget: the disk has it."""
    if is_stored or pair in history.ends:
        return None
    return f"{pair[1]} of {pair[0]} was acknowledged and is not on disk"


# -- what arrives ---------------------------------------------------------------------------------------------------


def only_what_was_sent_arrives(reverse_path: str, content: bytes, copies: list[Copy], history: History) -> str | None:
    """Each copy is a client's message as it was written, for one of its recipients, or a report that was filed."""
    id, whom = copies[0].id, [copy.recipient for copy in copies]
    if content.startswith(b"From: Mail Delivery System"):
        if reverse_path or len(whom) != 1:
            return f"the report {id} came from <{reverse_path}> for {whom}"
        return None if (id, whom[0]) in history.reports else f"the report {id} for {whom[0]} was never filed"
    start = content.find(b"Subject: ")
    mail = history.mails.get(content[start + 9 :].split(b" ", 1)[0].decode("ascii", "replace")) if start >= 0 else None
    if mail is None:
        return f"{id} for {whom} is nobody's message"
    if content[start:] != mail.content:
        return f"the content of {mail.token} arrived as {id} with {len(content) - start} octets, not as it was sent"
    if reverse_path != mail.reverse_path or not set(whom) <= set(mail.recipients):
        return f"{mail.token} arrived as {id} from <{reverse_path}> for {whom}, which is not its envelope"
    ids = history.ids.setdefault(mail.token, {})
    ids[id] = None
    tries = sum(tried.ended_content for tried in mail.tries)
    if len(ids) > tries:
        return f"{mail.token} was sent whole {tries} times and arrived under {len(ids)} ids"
    return None


def a_second_copy_has_an_excuse(copy: Copy, history: History) -> str | None:
    """A crash between a host's 250 and its record, or a connection that died before the relay had read it."""
    for earlier in history.copies.get((copy.id, copy.recipient), ()):
        if earlier.was_heard() and not history.forgot_between(earlier.at, copy.at):
            return (
                f"{copy.recipient} of {copy.id} was taken by {earlier.address} at {earlier.at:.3f} and by"
                f" {copy.address} at {copy.at:.3f}, though the first 250 was heard and nothing was killed between"
            )
    if (copy.id, copy.recipient) in history.ends:
        return f"{copy.recipient} of {copy.id} was sent again after its end"
    return None


# -- hosts ----------------------------------------------------------------------------------------------------------


def sessions_stay_within_the_limit(address: str, count: int, limit: int) -> str | None:
    """Never more sessions to a site than its lanes allow."""
    return f"{count} sessions with {address}, of which there may be {limit}" if count > limit else None


def no_host_is_dialled_before_its_pause_is_over(address: str, gate: Gate | None, wall: float) -> str | None:
    """A host known as broken is left alone, and then asked by one probe."""
    if gate is None:
        return None
    if wall < gate.until - SAME_TIME_S:
        return f"{address} is dialled {gate.until - wall:.3f} s before its pause is over"
    if wall < gate.probed_until and gate.dials > 1:
        return f"{address} is dialled {gate.dials} times while one probe is under way"
    return None


# -- records --------------------------------------------------------------------------------------------------------


def a_recipient_ends_once(record: Record, history: History) -> str | None:
    """Exactly one terminal record for each recipient."""
    ends = history.ends[record.id, record.recipient]
    return None if len(ends) == 1 else f"{record.recipient} of {record.id} ended {[end.kind.value for end in ends]}"


def what_is_relayed_was_taken(record: Record, history: History) -> str | None:
    """RELAYED is said when a host's reply to the content was read, not before."""
    if record.kind is not Kind.RELAYED:
        return None
    copies = history.copies.get((record.id, record.recipient), ())
    if any(copy.was_heard() for copy in copies):
        return None
    taken = "no host took it" if not copies else "the host's 250 was not read"
    return f"{record.recipient} of {record.id} is settled as relayed, but {taken}"


def what_bounced_was_refused(record: Record, history: History, hopeless: Iterable[str]) -> str | None:
    """Only a host's 5xx about this mail, or a domain that takes none, ends it; never our own trouble."""
    if record.kind is not Kind.BOUNCED or is_bad(record.recipient):
        return None
    if (record.id, record.recipient) in history.refused or record.recipient.rpartition("@")[2] in hopeless:
        return None
    return f"{record.recipient} of {record.id} bounced, though nobody refused it: {record.status} {record.why}"


def nothing_expires_early(record: Record, history: History, expire_after_s: float) -> str | None:
    """Mail is tried until its time is over: the time that passed, whatever clocks showed."""
    pair = (record.id, record.recipient)
    if record.kind is not Kind.EXPIRED or pair not in history.acknowledged:
        return None
    age_s = history.now - history.began(pair)
    if age_s >= expire_after_s - UNSEEN_STEPS_S:
        return None
    return f"{record.recipient} of {record.id} expired at an age of {age_s:.0f} s, not {expire_after_s:.0f}"


def only_operators_cancel(record: Record, history: History) -> str | None:
    """CANCELLED is an operator's word."""
    if record.kind is not Kind.CANCELLED or any(whom == record.recipient for _, whom in history.cancels):
        return None
    return f"{record.recipient} of {record.id} was cancelled by nobody"


def a_failure_is_told_once(record: Record, history: History) -> str | None:
    """No second report about the same recipient's failure, nor about its delay."""
    for told in (history.failures_told, history.delays_told):
        if len(reports := told.get((record.id, record.recipient), [])) > 1:
            return f"{record.recipient} of {record.id} is told of in the reports {reports}"
    return None


# -- all the time ---------------------------------------------------------------------------------------------------


def nothing_is_lost(history: History, stored: Container[Pair]) -> str | None:
    """What was acknowledged, and each report that was filed, is on disk until it has ended."""
    for pair in history.open:
        if pair not in stored:
            return f"{pair[1]} of {pair[0]} has not ended, and is not on disk any more"
    return None


def each_recipient_has_one_owner_and_one_next_event(
    unfinished: Iterable[tuple[str, int]], claims: Iterable[Claim], now: float, late_s: float
) -> str | None:
    """Nothing lies where nobody will ever touch it; queue.audit says how that is judged."""
    found = audit(unfinished, claims, now=now, late_s=late_s)
    return None if not found else "; ".join(f"{each.id}/{each.n} {each.fault.value}: {each.why}" for each in found[:3])


def each_lease_has_one_owner(findings: Sequence[Finding]) -> str | None:
    """What the store has leased, somebody in the relay claims; twice a minute apart it is no change of hands."""
    return "; ".join(f"{each.id}/{each.n} {each.fault.value}: {each.why}" for each in findings[:3]) or None


def the_auditor_finds_nothing(findings: Mapping[str, int]) -> str | None:
    """What the relay's own auditor finds is a bug, even where it repairs it."""
    return f"the relay's auditor found {dict(findings)}" if findings else None


def everything_ends_by_its_deadline(history: History, within_s: float) -> str | None:
    """Expiry, its grace and some slack after the acknowledgement: the time in which nothing worked does not count."""
    for pair in history.open:
        began = history.began(pair)
        if (age_s := history.fair_age(pair)) > within_s:
            return f"{pair[1]} of {pair[0]}, here since {began:.0f}, has not ended after {age_s:.0f} s ({within_s:.0f})"
    return None


# -- at the end -----------------------------------------------------------------------------------------------------


def all_has_ended(history: History) -> str | None:
    """When faults have ceased for long enough, no recipient is left."""
    for id, recipient in history.open:
        return f"{len(history.open)} recipients are left, first {recipient} of {id}"
    return None


def all_failures_are_told(history: History) -> str | None:
    """Where a report is owed, there is one."""
    for pair, acknowledged in history.acknowledged.items():
        ends = history.ends.get(pair, [])
        has_failed = any(end.kind in (Kind.BOUNCED, Kind.EXPIRED) for end in ends)
        told = history.failures_told.get(pair, [])
        if has_failed and acknowledged.is_owed and len(told) != 1:
            return f"{pair[1]} of {pair[0]} {ends[0].kind.value}, and {len(told)} reports tell of it"
        if told and not (has_failed and acknowledged.is_owed):
            return f"{pair[1]} of {pair[0]} was reported as failed, which nobody is owed"
    return None


def nothing_is_held_when_all_is_done(leases: int, is_idle: bool, sessions: int) -> str | None:
    """No lease, no slot and no session outlives the mail."""
    if not leases and is_idle and not sessions:
        return None
    return f"{leases} leases, {sessions} sessions, slots {'free' if is_idle else 'taken'}, and no mail"
