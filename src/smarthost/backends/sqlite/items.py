# SPDX-License-Identifier: MIT
"""What can be committed: each item enters itself into a batch and is told once what became of it.

`committed`: it is durable. `failed`: it is not, or nobody knows (`is_undone` False). Items that are `kept` are entered
again after a failure, until they are committed or shown to be the culprit.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from smarthost.backends.sqlite.batch import Batch, day_of
from smarthost.backends.sqlite.taking import DelaySweep
from smarthost.backends.sqlite.wire import DamagedRow
from smarthost.mail.errors import StoreError
from smarthost.mail.identity import decode_id
from smarthost.mail.lease import Lease
from smarthost.mail.message import Message
from smarthost.mail.record import Record
from smarthost.mail.settlement import OwedReport, SettledRecipient, Settlement
from smarthost.queue.leases import Leases, Wish

FollowUp = Callable[[str, str, SettledRecipient, Wish], None]


class Item(Protocol):
    """Something to commit."""

    day: int  # of its records; 0: it has none
    is_kept: bool
    crashes: int  # how often the child died with it in hand

    def enter(self, batch: Batch) -> None:
        """Enter the rows."""

    def parts(self) -> Sequence["Item"]:
        """Give the smallest items this one can be divided into."""

    def committed(self) -> None:
        """It is durable."""

    def failed(self, error: StoreError, is_undone: bool) -> None:
        """It is not, or not certainly; kept items will be entered again."""

    def rejected(self, error: StoreError) -> str | None:
        """It alone cannot be committed, ever; gives what an operator must know."""


def lowest_seq(item: Item) -> int | None:
    """Give the lowest number of the records that come with an item, or None."""
    match item:
        case Settle():
            records: list[Record] = [each for settlement in item.settlements for each in settlement.records]
        case Report() | Isolate() | Notes():
            records = list(item.records)
        case Add():
            records = [] if item.record is None else [item.record]
        case _:
            records = []
    return min([each.seq for each in records], default=None)


class Single:
    """What items have in common that are given up after a failure."""

    __slots__ = ("crashes", "day", "future")
    is_kept = False

    def __init__(self, future: "asyncio.Future[None]", day: int = 0) -> None:
        self.future = future
        self.day = day
        self.crashes = 0

    def committed(self) -> None:
        if not self.future.done():
            self.future.set_result(None)

    def failed(self, error: StoreError, is_undone: bool) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def rejected(self, error: StoreError) -> str | None:
        self.failed(error, is_undone=True)
        return None


class Add:
    """A new message, with the leases its adder gets."""

    __slots__ = (
        "body", "content", "crashes", "delays", "future", "key", "leased", "leases", "message", "record", "tag", "undo",
    )  # fmt: skip
    is_kept = False
    day = 0

    def __init__(
        self,
        message: Message,
        key: int,
        tag: int,
        body: bytes | None,
        future: "asyncio.Future[tuple[Lease, ...]]",
        leased: tuple[Lease, ...],
        leases: Leases,
        delays: DelaySweep,
        undo: Callable[[str], None],
        record: Record | None = None,
    ) -> None:
        self.message = message
        self.key = key
        self.tag = tag
        self.body = body
        self.record = record
        self.future = future
        self.leased = leased
        self.leases = leases
        self.delays = delays
        self.undo = undo
        self.content = 0  # the CRC-32 of content in a file, once that is durable
        self.crashes = 0

    def enter(self, batch: Batch) -> None:
        batch.add(self.message, self.key, self.tag, self.body, self.content, record=self.record)

    def parts(self) -> "Sequence[Item]":
        return (self,)

    def committed(self) -> None:
        self.delays.filed(self.key, self.message.id, self.message.received_at)
        if self.future.done():
            self._give_back()  # nobody waits for them any more
        else:
            self.future.set_result(self.leased)

    def failed(self, error: StoreError, is_undone: bool) -> None:
        self._give_back()
        if not is_undone:
            self.delays.filed(self.key, self.message.id, self.message.received_at)
        elif self.body is None:
            self.undo(self.message.id)
        if not self.future.done():
            self.future.set_exception(error)

    def rejected(self, error: StoreError) -> str | None:
        self.failed(error, is_undone=True)
        return f"message {self.message.id} cannot be stored: {error}"

    def _give_back(self) -> None:
        for lease in self.leased:
            for recipient in lease.recipients:
                self.leases.end(lease.id, recipient.n)


class Settle:
    """Settlements; kept until they are durable, because the other side has already said its word."""

    __slots__ = ("crashes", "day", "follow_up", "future", "leases", "settlements", "unsettled")
    is_kept = True

    def __init__(
        self,
        settlements: Sequence[Settlement],
        future: "asyncio.Future[None]",
        leases: Leases,
        follow_up: FollowUp,
        day: int | None = None,
        unsettled: list[Settlement] | None = None,
    ) -> None:
        self.settlements = settlements
        self.future = future
        self.leases = leases
        self.follow_up = follow_up
        records = settlements[0].records
        self.day = day if day is not None else day_of(records[0].at) if records else 0
        self.unsettled = unsettled  # shared by the parts of one that was divided
        self.crashes = 0

    def enter(self, batch: Batch) -> None:
        key = self.leases.key
        for settlement in self.settlements:
            batch.settle(settlement, key(settlement.id))

    def parts(self) -> "Sequence[Item]":
        if len(self.settlements) == 1:
            return (self,)
        unsettled = list(self.settlements)
        return [
            Settle((settlement,), self.future, self.leases, self.follow_up, self.day, unsettled)
            for settlement in self.settlements
        ]

    def committed(self) -> None:
        self._end_leases(is_settled=True)
        if self._is_last() and not self.future.done():
            self.future.set_result(None)

    def _is_last(self) -> bool:
        if self.unsettled is None:
            return True
        self.unsettled.remove(self.settlements[0])
        return not self.unsettled

    def _end_leases(self, is_settled: bool) -> None:
        end = self.leases.end
        for settlement in self.settlements:
            id = settlement.id
            for position, recipient in enumerate(settlement.recipients):
                wish = end(id, recipient.n)
                if wish is not None and is_settled:  # said while this was being committed
                    self.follow_up(id, settlement.records[position].reverse_path, recipient, wish)

    def failed(self, error: StoreError, is_undone: bool) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # kept and repeated: nobody is obliged to look at it

    def rejected(self, error: StoreError) -> str | None:
        self.failed(error, is_undone=True)
        self._is_last()
        self._end_leases(is_settled=False)
        settlement = self.settlements[0]
        states = ", ".join([f"{recipient.address} {recipient.state.value}" for recipient in settlement.recipients])
        return f"settlement of {settlement.id} cannot be stored and is given up ({states!r}): {error}"


class Report(Single):
    """A report to file (or not), and the debt that is thereby cleared."""

    __slots__ = ("body", "ended", "owed", "records", "report")

    def __init__(
        self,
        owed: OwedReport,
        report: Message | None,
        records: Sequence[Record],
        future: "asyncio.Future[None]",
        ended: Callable[[str], None],
    ) -> None:
        super().__init__(future, day_of(records[0].at) if records else 0)
        self.owed = owed
        self.report = report
        self.body = b"".join(report.content.chunks()) if report is not None else b""  # a report is small
        self.records = records
        self.ended = ended

    def enter(self, batch: Batch) -> None:
        report = self.report
        own = [] if report is None else [record for record in self.records if record.id == report.id]
        number = batch.clear(self.owed, [record for record in self.records if record not in own])
        if report is not None:
            key, tag = decode_id(report.id)
            batch.add(report, key, tag, self.body, report=number, record=own[0] if own else None)

    def parts(self) -> "Sequence[Item]":
        return (self,)

    def committed(self) -> None:
        self.ended(self.owed.id)
        super().committed()

    def failed(self, error: StoreError, is_undone: bool) -> None:
        self.ended(self.owed.id)  # whoever asks next for a report owed gets this one again, if it is still owed
        super().failed(error, is_undone)

    def rejected(self, error: StoreError) -> str | None:
        """Its lease runs out by itself: given back at once it would be asked for before all younger debts."""
        super().failed(error, is_undone=True)
        return f"the report about {self.owed.id} cannot be filed: {error}"


class Isolate(Single):
    """Damaged recipients of one message, to be held until a time; without their message (tag -1) they are left out."""

    __slots__ = ("records", "rows", "until")

    def __init__(
        self, rows: Sequence[DamagedRow], until: float, records: Sequence[Record], future: "asyncio.Future[None]"
    ) -> None:
        super().__init__(future, day_of(records[0].at) if records else 0)
        self.rows = rows
        self.until = until
        self.records = records

    def enter(self, batch: Batch) -> None:
        for row in self.rows:
            batch.isolate(row.key, row.n, self.until, f"damaged: {row.why}")
        for record in self.records:
            batch.record(record)

    def parts(self) -> "Sequence[Item]":
        return (self,)


class Release(Single):
    """What awaits a host in some domains, to be due now: one portion of at most wire.RELEASE_ROWS recipients."""

    __slots__ = ("_batch", "domains", "now", "released")
    _batch: Batch

    def __init__(self, domains: Collection[str], now: float, future: "asyncio.Future[None]") -> None:
        super().__init__(future)
        self.domains = domains
        self.now = now
        self.released = 0  # known when it is committed

    def enter(self, batch: Batch) -> None:
        self._batch = batch
        batch.release(self.domains, self.now)

    def parts(self) -> "Sequence[Item]":
        return (self,)

    def committed(self) -> None:
        self.released = self._batch.released
        super().committed()


class Notes(Single):
    """Small named values, and records of no message.

    What is entered again goes before all that came later, and one batch is under way at a time (commits.IN_FLIGHT): so
    a note never undoes a later one.
    """

    __slots__ = ("notes", "records")

    def __init__(self, notes: Mapping[str, bytes], records: Sequence[Record], future: "asyncio.Future[None]") -> None:
        super().__init__(future, day_of(records[0].at) if records else 0)
        self.notes = notes
        self.records = records

    def enter(self, batch: Batch) -> None:
        for name, value in self.notes.items():
            batch.note(name, value)
        for record in self.records:
            batch.record(record)

    def parts(self) -> "Sequence[Item]":
        return (self,)
