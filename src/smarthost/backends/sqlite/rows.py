# SPDX-License-Identifier: MIT
"""Between the child's rows and the values of mail/ and queue.store. Pure."""

from collections.abc import Sequence

from msgspec.structs import replace

from smarthost.backends.sqlite import wire
from smarthost.mail.envelope import Body, Notify, SenderTls
from smarthost.mail.identity import decode_id, encode_id
from smarthost.mail.lease import Lease, LeasedRecipient
from smarthost.mail.result import DsnDuty
from smarthost.mail.settlement import OwedReport, SettledRecipient, Settlement, State
from smarthost.queue.audit import Suspect
from smarthost.queue.leases import Leases, Reading, Wish
from smarthost.queue.store import Filter, StoredMessage, StoredRecipient, Tallied
from smarthost.queue.verbs import Numbers, amend, fold, is_changed_by

# Looked up, because calling an enum costs up to a microsecond.
_BODIES = {body.value: body for body in Body}
_TLS = {tls.value: tls for tls in SenderTls}
_NOTIFY = tuple([Notify(number) for number in range(16)])


def to_question(
    kind: type[wire.AskFind], which: Filter, after: Sequence[int], n: int
) -> wire.AskFind | wire.AskChangeable | None:
    """Give the question for a filter; None: its id can be nobody's."""
    key = tag = -1
    if which.id:
        try:
            key, tag = decode_id(which.id)
        except ValueError:
            return None
    return kind(
        key,
        tag,
        which.reverse_path,
        which.recipient,
        which.domain,
        after[0],
        after[1],
        n,
        which.sender,
        fold(which.sender_domain),
        fold(which.reply),
        which.state,
        which.received_before,
        list(which.domains),
    )


def to_lease(row: wire.LeaseRow, id: str, recipients: Sequence[wire.LeasedRow]) -> Lease:
    """Give the lease of some of a row's recipients."""
    return Lease(
        id,
        row.received_at,
        row.reverse_path,
        _BODIES[row.body],
        bool(row.smtputf8),
        row.client,
        row.sender,
        row.prefix,
        row.octets,
        None,
        tuple([_to_leased(each) for each in recipients]),
        row.ret,
        row.envid,
        _TLS[row.tls],
    )


def _to_leased(row: wire.LeasedRow) -> LeasedRecipient:
    return LeasedRecipient(
        row.n,
        row.address,
        row.domain,
        row.attempts,
        row.last_reply,
        row.status,
        _NOTIFY[row.notify],
        row.orcpt,
        bool(row.delay_told),
        row.due,
        bool(row.awaits_host),
        row.why,
        row.host,
        bool(row.is_held),
    )


def to_stored(row: wire.MessageRow, leases: Leases) -> StoredMessage:
    """Give a found message as an operator sees it."""
    id = encode_id(row.key, row.tag)
    recipients = tuple([_to_stored_recipient(found, leases.is_leased(id, found.n)) for found in row.recipients])
    return StoredMessage(id, row.received_at, row.reverse_path, row.client, row.sender, row.octets, recipients)


def _to_stored_recipient(row: wire.RecipientRow, is_leased: bool) -> StoredRecipient:
    state = "leased" if is_leased else row.state
    return StoredRecipient(
        row.n,
        row.address,
        row.domain,
        state,
        row.due,
        row.attempts,
        row.last_reply,
        row.status,
        row.why,
        bool(row.awaits_host) and state == State.DEFERRED.value,
    )


def to_suspect(row: wire.SuspectRow, leases: Leases, reading: Reading) -> Suspect:
    """Give a suspect; without its message the last part of its id is not known. What was leased meanwhile is leased."""
    id = encode_id(row.key, row.tag or 0)
    is_leased = not leases.is_free(id, row.n, reading)
    return Suspect(id, row.n, row.address, row.domain, row.state, row.due, row.received_at, row.owed_at, is_leased)


def to_settled(row: wire.RecipientRow) -> SettledRecipient:
    """Give a stored recipient as what it was last settled to."""
    return SettledRecipient(
        row.n,
        row.address,
        row.domain,
        State(row.state),
        row.due,
        row.attempts,
        row.status,
        row.last_reply,
        row.why,
        False,
        row.host,
        bool(row.awaits_host),
    )


def _to_told(row: wire.DebtorRow) -> SettledRecipient:
    return replace(
        to_settled(row),
        report_owed=True,
        dsn=DsnDuty(row.dsn) if row.dsn else DsnDuty.RELAYED,
        notify=_NOTIFY[row.notify],
        orcpt=row.orcpt,
        is_delay_told=bool(row.delay_told),
    )


def to_owed(row: wire.DebtRow, id: str) -> OwedReport:
    """Give an owed report."""
    return OwedReport(
        id,
        row.received_at,
        row.reverse_path,
        bool(row.smtputf8),
        row.prefix,
        row.header,
        tuple([_to_told(each) for each in row.recipients]),
        row.octets,
        row.ret,
        row.envid,
        _TLS[row.tls],
    )


def is_outdated(rows: list[wire.MessageRow], reading: Reading) -> bool:
    """Has a lease of these recipients ended while they were read?"""
    if not reading:
        return False
    return any((encode_id(row.key, row.tag), each.n) in reading for row in rows for each in row.recipients)


def amend_all(
    rows: list[wire.MessageRow], wish: Wish, leases: Leases, numbers: Numbers
) -> tuple[list[Settlement], tuple[tuple[str, int], ...]]:
    """Lease what is free and give the settlements a verb asks for; leave a wish for what is leased already."""
    settlements = []
    wished = []
    for row in rows:
        id = encode_id(row.key, row.tag)
        pairs = []
        for found in row.recipients:
            if leases.is_leased(id, found.n):
                leases.wish(id, found.n, wish)
                wished.append((id, found.n))
                continue
            amended = amend(id, row.reverse_path, to_settled(found), wish, numbers)
            if amended is not None:
                pairs.append(amended)
                leases.take(id, row.key, found.n, found.domain)
        if pairs:
            recipients, records = zip(*pairs, strict=True)
            settlements.append(Settlement(id, recipients, records))
    return settlements, tuple(wished)


def foresee_all(
    rows: list[wire.MessageRow], wish: Wish, leases: Leases
) -> tuple[tuple[tuple[str, int], ...], tuple[tuple[str, int], ...]]:
    """Give what a verb would change, and what it would leave a wish for; changes nothing."""
    changed, wished = [], []
    for row in rows:
        id = encode_id(row.key, row.tag)
        for found in row.recipients:
            if leases.is_leased(id, found.n):
                wished.append((id, found.n))
            elif is_changed_by(wish.verb, to_settled(found)):
                changed.append((id, found.n))
    return tuple(changed), tuple(wished)


def to_tallied(rows: dict[str, tuple[int, int, int, float, int, int]]) -> dict[str, Tallied]:
    """Give what was counted under each name."""
    return {
        name: Tallied(recipients, due, held, oldest_at, encode_id(key, tag))
        for name, (recipients, due, held, oldest_at, key, tag) in rows.items()
    }
