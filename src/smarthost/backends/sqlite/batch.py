# SPDX-License-Identifier: MIT
"""A batch: what is committed together, as the rows that batch.sql reads. Built while the batch before it commits.

Only tuples are made per row; one msgspec call encodes each list, and contents are handed to the kernel where they lie.
Knows no futures and no leases: items of commits.py enter themselves.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from zlib import crc32

import msgspec

from smarthost.backends.sqlite.checksums import about, of_message, of_recipient
from smarthost.backends.sqlite.wire import BATCH_HEAD, NOTHING
from smarthost.mail.envelope import SenderTls
from smarthost.mail.identity import decode_id
from smarthost.mail.message import Message
from smarthost.mail.record import Record
from smarthost.mail.settlement import OwedReport, SettledRecipient, Settlement

_encode = msgspec.json.Encoder(decimal_format="number").encode
_SECONDS_A_DAY = 86_400
_END_OF_DAYS = 253_402_300_800.0  # the year 10000
_NO_DAY = 19700101
_days: dict[int, int] = {}
_DEFAULT_TLS = SenderTls.DEFAULT


def day_of(at: float) -> int:
    """Give the UTC day (YYYYMMDD) of a record by its time: repeated, it goes to the same table again."""
    if not 0 <= at < _END_OF_DAYS:
        return _NO_DAY  # it will be refused where its neighbours are safe, in the child
    day = int(at // _SECONDS_A_DAY)
    found = _days.get(day)
    if found is None:
        _days.clear()  # one day is asked for a million times, then the next
        date = datetime.fromtimestamp(day * _SECONDS_A_DAY, UTC)
        found = _days[day] = date.year * 10_000 + date.month * 100 + date.day
    return found


class Batch:
    """The rows of one transaction. All of its records belong to one day."""

    __slots__ = (
        "abouts",
        "acceptances",
        "buffers",
        "cleared",
        "damaged",
        "day",
        "highest",
        "messages",
        "notes",
        "octets",
        "progress",
        "recipients",
        "records",
        "refiled",
        "released",
        "releases",
        "reported",
        "reports",
        "requests",
        "rows",
        "senders",
        "settles",
        "told",
    )

    def __init__(self) -> None:
        self.messages: list[tuple[object, ...]] = []
        self.acceptances: list[tuple[object, ...]] = []
        self.abouts: list[tuple[object, ...]] = []
        self.recipients: list[tuple[object, ...]] = []
        self.settles: list[tuple[object, ...]] = []
        self.cleared: list[tuple[int, int, int, str]] = []
        self.reports = 0
        self.senders: list[tuple[object, ...]] = []  # what senders ask for their messages
        self.requests: list[tuple[object, ...]] = []  # and for recipients
        self.progress: list[tuple[object, ...]] = []  # how far those have come that another node had before
        self.told: list[tuple[object, ...]] = []
        self.reported: list[tuple[object, ...]] = []
        self.refiled: list[tuple[object, ...]] = []
        self.damaged: list[tuple[object, ...]] = []
        self.notes: dict[str, tuple[int, int]] = {}
        self.records: list[tuple[object, ...]] = []
        self.releases: list[tuple[str, float]] = []
        self.released = 0  # what came of them
        self.buffers: list[bytes] = []
        self.octets = 0
        self.day = 0
        self.highest = 0
        self.rows = 0

    def add(
        self,
        message: Message,
        key: int,
        tag: int,
        body: bytes | None,
        content: int = 0,
        report: int | None = None,
        record: Record | None = None,
    ) -> None:
        """Enter a message, with the record of its acceptance. `report`: only if that pays its debts.

        `body` is None when its content lives in a file; then `content` is the file's CRC-32.
        """
        if key > self.highest:
            self.highest = key
        envelope = message.envelope
        prefix = message.prefix
        start = self.octets
        middle = start + len(prefix)
        self.buffers.append(prefix)
        if body is None:
            octets = message.content.octets
            self.octets = middle
        else:
            octets = len(body)
            content = crc32(body)
            self.octets = middle + octets
            self.buffers.append(body)
        received_at = message.received_at
        body_type = envelope.body._value_  # `value` costs 0.1 us, a dict by enum 0.6
        smtputf8 = int(envelope.smtputf8)
        count = len(envelope.recipients)
        checksum = of_message(
            message.id, envelope.reverse_path, body_type, smtputf8, message.client, message.sender, prefix,
            envelope.ret, envelope.envid, envelope.tls._value_, count, content,
        )  # fmt: skip
        row = (
            key,
            tag,
            received_at,
            envelope.reverse_path,
            body_type,
            smtputf8,
            message.client,
            message.sender,
            octets,
            start,
            len(prefix),
            None if body is None else middle,
            checksum,
            count,
        )
        self.rows += count
        if record is not None:
            self._accept(message, key, record, report)
        self.messages.append(row if report is None else (*row, report))
        requests = envelope.requests
        for n, address in enumerate(envelope.recipients):
            notify, orcpt = (int(requests[n].notify), requests[n].orcpt) if requests else (0, "")
            own = of_recipient(checksum, n, address.text, address.domain, notify, orcpt)
            fields = (key, n, address.text, address.domain, received_at, own)
            self.recipients.append(fields if report is None else (*fields, report))
        if envelope.ret or envelope.envid or envelope.tls is not _DEFAULT_TLS:
            self.senders.append((key, envelope.ret, envelope.envid, envelope.tls.value))
        if envelope.requests:
            self.requests += [(key, n, each.notify, each.orcpt) for n, each in enumerate(envelope.requests)]

        if message.progress:
            self.progress += [
                (key, n, each.state.value, each.due, each.attempts, each.last_reply, each.status, each.why, each.host,
                 each.is_delay_told)
                for n, each in enumerate(message.progress)
            ]  # fmt: skip

    def _accept(self, message: Message, key: int, record: Record, report: int | None) -> None:
        """Enter the record of an acceptance, and by what it is found."""
        if record.seq > self.highest:
            self.highest = record.seq
        self.acceptances.append((record.seq, key, record.at, record, report))
        if message.message_id:
            self.abouts.append((about(message.message_id), key, report))
        for address in message.envelope.recipients:
            self.abouts.append((about(address.text), key, report))

    def settle(self, settlement: Settlement, key: int) -> None:
        """Enter a settlement of the message with this key."""
        rows = self.settles
        for recipient, record in zip(settlement.recipients, settlement.records, strict=True):
            seq = record.seq
            if seq > self.highest:
                self.highest = seq
            row = (
                key,
                recipient.n,
                recipient.attempts,
                recipient.state._value_,
                recipient.due,
                recipient.last_reply,
                recipient.status,
                recipient.why,
                recipient.host,
                record.at if recipient.report_owed else None,
                recipient.awaits_host,
                seq,
                record.at,
                record,
            )
            rows.append(row)
            if recipient.is_rerouted:
                self.refiled.append((key, recipient.n, recipient.domain))
            if recipient.is_delay_told or recipient.report_owed:
                self.told.append((key, recipient.n, recipient.dsn.value, recipient.is_delay_told))
        self.rows += len(settlement.records)

    def clear(self, owed: OwedReport, records: Sequence[Record]) -> int:
        """Enter that debts are paid, with the records of that; gives what `add` of the report depends on."""
        assert owed.recipients, "a report is owed for somebody"
        key = decode_id(owed.id)[0]
        report = self.reports
        self.reports += 1
        self.cleared += [(report, key, told.n, _state_told(told)) for told in owed.recipients]
        for record in records:
            self.highest = max(self.highest, record.seq)
            self.reported.append((record.seq, key, record.at, record, report))
        self.rows += len(owed.recipients) + len(records)
        return report

    def release(self, domains: Collection[str], now: float) -> None:
        """Enter that what awaits a host in these domains is due at `now`; it is the last that enters."""
        self.releases += [(domain, now) for domain in dict.fromkeys(domains)]
        self.rows += len(self.releases)

    def isolate(self, key: int, n: int, until: float, why: str) -> None:
        """Enter that a recipient is damaged: it is held, or if its message is gone, left out."""
        self.damaged.append((key, n, until, why))
        self.rows += 1

    def note(self, name: str, value: bytes) -> None:
        """Enter a note, instead of an earlier one of that name; an empty value: there is none any more."""
        self.notes[name] = (self.octets, len(value))
        self.buffers.append(value)
        self.octets += len(value)
        self.rows += 1

    def record(self, record: Record) -> None:
        """Enter a record of no message."""
        self.highest = max(self.highest, record.seq)
        self.records.append((record.seq, record.at, record))
        self.rows += 1

    def encode(self, number: int, now: float) -> list[bytes]:
        """Give the buffers of the batch's frame; `now`: wall seconds.

        Raises: ValueError, TypeError: something in it is no JSON.
        """
        messages = _encode(self.messages)
        recipients = _encode(self.recipients)
        settles = _encode(self.settles)
        debts = parameters = extras = NOTHING
        if self.cleared:
            debts = _encode({"c": self.cleared, "l": self.reported})
        if self.senders or self.requests or self.told or self.progress or self.refiled:
            parameters = _encode(
                {"m": self.senders, "r": self.requests, "s": self.told, "p": self.progress, "v": self.refiled}
            )
        if self.notes or self.records or self.releases or self.damaged:
            extras = _encode(
                {
                    "w": self.releases,
                    "n": [(name, *place) for name, place in self.notes.items()],
                    "r": self.records,
                    "d": self.damaged,
                }
            )
        acceptances, abouts = _encode(self.acceptances), _encode(self.abouts)
        head = BATCH_HEAD.pack(
            number, self.day or day_of(now), self.highest,
            len(messages), len(recipients), self.octets, len(settles), len(debts), len(parameters), len(extras),
            len(acceptances), len(abouts),
        )  # fmt: skip
        return [head, messages, recipients, *self.buffers, settles, debts, parameters, extras, acceptances, abouts]


def _state_told(told: SettledRecipient) -> str:
    """Give the state of a recipient as batch.sql compares debts: the end it came to, or ""."""
    return told.state.value if told.state.is_terminal else ""
