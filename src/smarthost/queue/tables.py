# SPDX-License-Identifier: MIT
"""What the reference Store has committed, as plain values, and the only functions that change it.

Each function that changes something is one transaction: it happens wholly, now. Knows no time, no commits on their way;
leases only as a question ("is it leased?"). memory.py calls it.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from msgspec.structs import asdict, replace

from smarthost.mail.message import Message
from smarthost.mail.record import Record
from smarthost.mail.settlement import OwedReport, SettledRecipient, Settlement, State
from smarthost.queue.audit import Bounds, Suspect, is_suspect
from smarthost.queue.leases import Leases
from smarthost.queue.store import NULL_PATH, Filter, StoredMessage, StoredRecipient
from smarthost.queue.verbs import fold, is_in_domain

HEADER_OCTETS = 64 * 1024  # mail.settlement.OwedReport
OPEN_STATES = (State.DEFERRED, State.HELD)


class Stored:
    """A message and its recipients that are not finished, or owe a report."""

    __slots__ = ("message", "owed", "recipients")

    def __init__(self, message: Message, recipients: dict[int, SettledRecipient], owed: dict[int, float]) -> None:
        self.message = message
        self.recipients = recipients
        self.owed = owed  # since when, by recipient number

    def to_report(self) -> OwedReport:
        """Give the report that is owed."""
        message = self.message
        envelope = message.envelope
        header = b"".join(message.content.chunks())[:HEADER_OCTETS]
        owed = [self.recipients[n] for n in sorted(self.owed)]
        return OwedReport(
            message.id,
            message.received_at,
            envelope.reverse_path,
            envelope.smtputf8,
            message.prefix,
            header,
            tuple([each if each.report_owed else replace(each, report_owed=True) for each in owed]),
            message.content.octets,
            envelope.ret,
            envelope.envid,
            envelope.tls,
        )

    def owes(self, told: SettledRecipient) -> bool:
        """Is the debt still the one that a report tells of?"""
        if told.n not in self.owed:
            return False
        state = self.recipients[told.n].state
        return state is told.state or (state in OPEN_STATES and told.state in OPEN_STATES)

    def view(self, recipients: Iterable[SettledRecipient], leases: Leases) -> StoredMessage:
        """Give it with some of its recipients as an operator sees it."""
        message = self.message
        viewed = [_view(each, leases.is_leased(message.id, each.n)) for each in recipients]
        return StoredMessage(
            message.id,
            message.received_at,
            message.envelope.reverse_path,
            message.client,
            message.sender,
            message.content.octets,
            tuple(viewed),
        )


def _view(recipient: SettledRecipient, is_leased: bool) -> StoredRecipient:
    return StoredRecipient(
        recipient.n,
        recipient.address,
        recipient.domain,
        "leased" if is_leased else recipient.state.value,
        recipient.due,
        recipient.attempts,
        recipient.last_reply,
        recipient.status,
        recipient.why,
        recipient.awaits_host and recipient.state is State.DEFERRED and not is_leased,
    )


def _succeed(earlier: SettledRecipient, settled: SettledRecipient) -> SettledRecipient:
    """Give what is kept of a settled recipient: what was asked for it stays, and what was told stays told."""
    return replace(
        settled,
        notify=earlier.notify,
        orcpt=earlier.orcpt,
        is_delay_told=earlier.is_delay_told or settled.is_delay_told,
    )


def _is_from(reverse_path: str, domain: str) -> bool:
    return fold(reverse_path).endswith(f"@{fold(domain)}")


def _says(recipient: SettledRecipient, which: Filter) -> bool:
    """Are its state, and what was replied, what the filter asks for?"""
    if which.state and recipient.state.value != which.state:
        return False
    return fold(which.reply) in fold(f"{recipient.last_reply}\n{recipient.why}")


Row = tuple[int, Stored, SettledRecipient]


class Tables:
    """Messages by store key, records by seq, notes by name."""

    def __init__(self) -> None:
        self.messages: dict[int, Stored] = {}
        self.records: dict[int, Record] = {}
        self.notes: dict[str, bytes] = {}
        self.octets = 0
        self.highest = 0  # key or seq ever committed

    def copy(self) -> "Tables":
        """Give what a restart finds."""
        found = Tables()
        for key, stored in self.messages.items():
            found.messages[key] = Stored(stored.message, dict(stored.recipients), dict(stored.owed))
        found.records = dict(self.records)
        found.notes = dict(self.notes)
        found.octets = self.octets
        found.highest = self.highest
        return found

    def file(self, key: int, message: Message, record: Record | None = None) -> None:
        """File a message, with the record of its acceptance; nothing if it is there already."""
        self.highest = max(self.highest, key)
        if key not in self.messages:
            if record is not None:
                self._keep(record)
            recipients = {
                n: SettledRecipient(n, each.text, each.domain, State.DEFERRED, message.received_at, 0, "", "", "")
                for n, each in enumerate(message.envelope.recipients)
            }
            for n, asked in enumerate(message.envelope.requests):
                recipients[n] = replace(recipients[n], notify=asked.notify, orcpt=asked.orcpt)
            for n, found in enumerate(message.progress):
                recipients[n] = replace(recipients[n], **asdict(found))
            self.messages[key] = Stored(message, recipients, {})
            self.octets += message.content.octets

    def settle(self, key: int, settlement: Settlement) -> None:
        """Settle what still waits for this very attempt; pass over the rest."""
        for settled, record in zip(settlement.recipients, settlement.records, strict=True):
            stored = self.messages.get(key)
            current = stored.recipients.get(settled.n) if stored is not None else None
            if stored is None or current is None or current.state not in OPEN_STATES:
                continue
            if current.attempts not in (settled.attempts, settled.attempts - 1):
                continue
            self._keep(record)
            if settled.report_owed:
                stored.owed[settled.n] = record.at
            if settled.state in OPEN_STATES or settled.report_owed:
                stored.recipients[settled.n] = _succeed(current, settled)
            else:
                self._remove(key, settled.n)

    def _keep(self, record: Record) -> None:
        self.records.setdefault(record.seq, record)
        self.highest = max(self.highest, record.seq)

    def _remove(self, key: int, n: int) -> None:
        stored = self.messages[key]
        del stored.recipients[n]
        stored.owed.pop(n, None)
        if not stored.recipients:
            del self.messages[key]
            self.octets -= stored.message.content.octets

    def pay(self, key: int, owed: OwedReport, report: tuple[int, Message] | None, records: Sequence[Record]) -> None:
        """Clear a debt and file its report; nothing if it was cleared before."""
        stored = self.messages.get(key)
        if stored is None or not all(stored.owes(each) for each in owed.recipients):
            return
        if report is not None:
            self.file(*report)
        for record in records:
            self._keep(record)
        for told in owed.recipients:
            del stored.owed[told.n]
            if stored.recipients[told.n].state not in OPEN_STATES:
                self._remove(key, told.n)

    def awaiting(self, now: float) -> Iterator[tuple[int, SettledRecipient]]:
        """Give (key, recipient) of what awaits a host and is due later than `now`, leased or not."""
        for key, stored in self.messages.items():
            for recipient in stored.recipients.values():
                if recipient.awaits_host and recipient.state is State.DEFERRED and recipient.due > now:
                    yield key, recipient

    def release(self, domains: Collection[str], now: float) -> int:
        """Make what awaits a host in these domains due at `now`: it awaits none any more. Gives how many."""
        released = [(key, recipient) for key, recipient in self.awaiting(now) if recipient.domain in domains]
        for key, recipient in released:
            self.messages[key].recipients[recipient.n] = replace(recipient, due=now, awaits_host=False)
        return len(released)

    def save_notes(self, notes: Mapping[str, bytes], records: Sequence[Record]) -> None:
        """Write notes, forget those that are empty now, and keep records of no message."""
        self.notes.update(notes)
        for name in [name for name, value in notes.items() if not value]:
            del self.notes[name]
        for record in records:
            self._keep(record)

    def free(self, leases: Leases) -> Iterator[Row]:
        """Give the unleased DEFERRED recipients, oldest message first."""
        for key in sorted(self.messages):
            stored = self.messages[key]
            for recipient in stored.recipients.values():
                if recipient.state is State.DEFERRED and not leases.is_leased(stored.message.id, recipient.n):
                    yield key, stored, recipient

    def movable(self, leases: Leases, after: int) -> Iterator[tuple[Stored, list[SettledRecipient]]]:
        """Give the messages behind a key with their unfinished recipients that are not leased and owe no report."""
        for key in sorted(self.messages):
            stored = self.messages[key]
            if key > after:
                movable = [
                    each
                    for n, each in stored.recipients.items()
                    if each.state in OPEN_STATES and n not in stored.owed and not leases.is_leased(stored.message.id, n)
                ]
                yield stored, movable

    def matches(self, which: Filter, after: tuple[int, ...]) -> Iterator[Row]:
        """Give the recipients that a filter means, behind (key, number)."""
        for key in sorted(self.messages):
            stored = self.messages[key]
            if which.id and stored.message.id != which.id.lower():
                continue
            if which.received_before and stored.message.received_at >= which.received_before:
                continue
            if which.sender and fold(stored.message.sender) != fold(which.sender):
                continue
            if which.sender_domain and not _is_from(stored.message.envelope.reverse_path, which.sender_domain):
                continue
            wanted = "" if which.reverse_path == NULL_PATH else which.reverse_path
            if which.reverse_path and fold(stored.message.envelope.reverse_path) != fold(wanted):
                continue
            for n, each in sorted(stored.recipients.items()):
                if (key, n) <= after or (which.domain and not is_in_domain(each.domain, which.domain)):
                    continue
                if (which.domains and each.domain not in which.domains) or not _says(each, which):
                    continue
                if not which.recipient or fold(each.address) == fold(which.recipient):
                    yield key, stored, each

    def suspects(
        self, bounds: Bounds, after: tuple[int, ...], n: int, leases: Leases
    ) -> tuple[tuple[Suspect, ...], int, tuple[int, int] | None]:
        """Give what is suspect of the next `n` recipients, how many these were, and the last if there are more."""
        found: list[Suspect] = []
        checked = 0
        last: tuple[int, int] | None = None
        for key, stored, each in self.matches(Filter(), after):
            if checked == n:
                return tuple(found), checked, last
            checked += 1
            last = key, each.n
            id, received_at, owed_at = stored.message.id, stored.message.received_at, stored.owed.get(each.n)
            if is_suspect(each.state.value, each.due, received_at, owed_at, bounds):
                is_leased = leases.is_leased(id, each.n)
                found.append(
                    Suspect(id, each.n, each.address, each.domain, each.state.value, each.due, received_at, owed_at,
                            is_leased)
                )  # fmt: skip
        return tuple(found), checked, None

    def debts(self) -> list[tuple[float, int]]:
        """Give (since when, key) of messages that owe a report, oldest debt first."""
        return sorted([(min(stored.owed.values()), key) for key, stored in self.messages.items() if stored.owed])

    def count_unfinished(self) -> int:
        """Count the recipients that are not finished."""
        return sum(
            [each.state in OPEN_STATES for stored in self.messages.values() for each in stored.recipients.values()]
        )
