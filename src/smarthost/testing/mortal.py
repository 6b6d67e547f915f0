# SPDX-License-Identifier: MIT
"""The world as seen by a process that can be killed: its ports, all of which fall silent at one moment.

The relay acts through ports only, so to kill it is to let nothing through any more: no octet, no deadline, no commit,
no line of log, in neither direction. What still runs of it waits for ever. Its connections end as a kernel ends those
of a dead process; what it had written before has left. Used by testing.world.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, NoReturn, TypeVar

from msgspec import Struct

from smarthost.mail.content import Content, Draft
from smarthost.mail.errors import StoreError
from smarthost.mail.hop import TlsFacts
from smarthost.mail.lease import Lease
from smarthost.mail.message import Message
from smarthost.mail.record import Record
from smarthost.mail.settlement import OwedReport, Settlement
from smarthost.ports import Clock, Connection, Deadline, Dialer, Receiver, Sink, TlsRequest, TlsService
from smarthost.queue.audit import Bounds, SuspectPage
from smarthost.queue.leases import Wish
from smarthost.queue.memory import MemoryStore
from smarthost.queue.store import Changed, DueScan, Filter, Page, Tally

T = TypeVar("T")


class Moment(Enum):
    """Where a crash can be put."""

    BEFORE_COMMIT = "before commit"  # it was enqueued, and is lost
    AFTER_COMMIT = "after commit"  # it is durable, and nobody was told
    BEFORE_CHUNK = "before chunk"  # octets have arrived, and are never looked at


class Crash(Struct, frozen=True):
    """A crash at the n-th such moment of the world (from 1); how long the relay is down; when it crashes once more."""

    moment: Moment
    n: int
    down_s: float = 5.0
    again_after_s: float | None = None  # after the restart


class Life:
    """One run of a process: over once `end` is called. `heard` is told before each chunk that comes in."""

    def __init__(self, heard: Callable[[], None] = lambda: None) -> None:
        self.is_over = False
        self.connections: dict[MortalConnection, None] = {}
        self.heard = heard

    def end(self) -> None:
        """Die."""
        self.is_over = True
        for connection in list(self.connections):
            connection.sever()

    async def outlast(self, work: Awaitable[T]) -> T:
        """Wait for something; who is dead by then waits for ever."""
        failure: Exception | None = None
        try:
            result = await work
        except Exception as error:  # noqa: BLE001 - the dead learn of no failure either
            failure = error
        if self.is_over:
            await asyncio.get_running_loop().create_future()
        if failure is not None:
            raise failure
        return result


class MortalClock:
    """A Clock whose deadlines do not reach the dead."""

    def __init__(self, life: Life, clock: Clock) -> None:
        self._life = life
        self._clock = clock

    def wall(self) -> float:
        return self._clock.wall()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def deadline(self, seconds: float, expired: Callable[[], None]) -> Deadline:
        return self._clock.deadline(seconds, lambda: None if self._life.is_over else expired())

    async def sleep(self, seconds: float) -> None:
        await self._life.outlast(self._clock.sleep(seconds))


class MortalSink:
    """A Sink that hears nothing from the dead."""

    def __init__(self, life: Life, sink: Sink) -> None:
        self._life = life
        self._sink = sink

    def record(self, record: Record) -> None:
        if not self._life.is_over:
            self._sink.record(record)

    def note(self, level: str, what: str, **facts: object) -> None:
        if not self._life.is_over:
            self._sink.note(level, what, **facts)


class MortalDialer:
    """A Dialer whose connections end with the life."""

    def __init__(self, life: Life, dialer: Dialer) -> None:
        self._life = life
        self._dialer = dialer

    async def dial(self, address: str, port: int, *, source: str, timeout_s: float) -> Connection:
        if self._life.is_over:
            await asyncio.get_running_loop().create_future()
        connection = await self._dialer.dial(address, port, source=source, timeout_s=timeout_s)
        if self._life.is_over:
            connection.abort()
            await asyncio.get_running_loop().create_future()
        return MortalConnection(self._life, connection)


class MortalConnection:
    """A Connection, and the Receiver of the one behind it: what it lets through ends with the life."""

    def __init__(self, life: Life, inner: Connection) -> None:
        self._life = life
        self._inner = inner
        self._receiver: Receiver
        life.connections[self] = None

    @property
    def peer(self) -> tuple[str, int]:
        return self._inner.peer

    @property
    def local(self) -> tuple[str, int]:
        return self._inner.local

    def attach(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._inner.attach(self)

    def write(self, buffers: Sequence[bytes]) -> bool:
        return self._life.is_over or self._inner.write(buffers)

    def pause(self) -> None:
        self._inner.pause()

    def resume(self) -> None:
        self._inner.resume()

    def upgrade(self, tls: TlsRequest | TlsService) -> None:
        if not self._life.is_over:
            self._inner.upgrade(tls)

    def close(self) -> None:
        if not self._life.is_over:
            self._inner.close()

    abort = close  # testing.network: what was written has left

    def sever(self) -> None:
        """End it because the process is gone."""
        self._inner.abort()

    def received(self, chunk: bytes) -> None:
        self._life.heard()
        if not self._life.is_over:
            self._receiver.received(chunk)

    def writable(self) -> None:
        if not self._life.is_over:
            self._receiver.writable()

    def secured(self, facts: TlsFacts) -> None:
        if not self._life.is_over:
            self._receiver.secured(facts)

    def ended(self) -> bool:
        return not self._life.is_over and self._receiver.ended()

    def lost(self, why: Exception | None) -> None:
        self._life.connections.pop(self, None)
        if not self._life.is_over:
            self._receiver.lost(why)


class Disk:
    """What a store stands on, whoever runs: can be made to fail, and tells of each commit.

    `enqueued` is told when the n-th change (from 1) is enqueued, `committed` when it is durable, before anybody else.
    """

    def __init__(self, enqueued: Callable[[int], None], committed: Callable[[int], None]) -> None:
        self.failure: StoreError | None = None
        self.is_unreadable = False  # contents cannot be read back; all else works
        self.commits = 0
        self.enqueued = enqueued
        self.committed = committed

    def count(self) -> int:
        self.commits += 1
        self.enqueued(self.commits)
        return self.commits


class MortalStore:
    """A Store for one life upon a MemoryStore and its disk.

    While the disk fails, everything raises its StoreError; settlements are kept and committed at `repaired`, as
    queue.store promises. What was under way when it began to fail has happened, and whoever waits is told otherwise.
    `pace` gives the seconds that a read takes before it looks.
    """

    def __init__(self, life: Life, inner: MemoryStore, disk: Disk, pace: Callable[[], float] | None = None) -> None:
        self._life = life
        self._inner = inner
        self._disk = disk
        self._pace = pace
        self._kept: list[Settlement] = []  # heard while the disk failed; in memory, so lost with this life

    async def open(self) -> None:
        if self._disk.failure is not None:
            raise self._disk.failure
        await self._inner.open()

    async def close(self) -> None:
        await self._inner.close()

    @property
    def refusal(self) -> Exception | None:
        return self._disk.failure or self._inner.refusal

    @property
    def last_number(self) -> int:
        return self._inner.last_number

    def draw_numbers_from(self, source: Callable[[], int]) -> None:
        self._inner.draw_numbers_from(source)

    def add(
        self, message: Message, lease: Collection[str], record: Record | None = None
    ) -> Awaitable[tuple[Lease, ...]]:
        if self._disk.failure is not None:
            return self._fail()
        return self._watch(self._disk.count(), self._inner.add(message, lease, record), self._give_back_all)

    def settle(self, settlements: Sequence[Settlement]) -> Awaitable[None]:
        if self._disk.failure is not None:
            self._kept += settlements
            return self._fail()
        return self._watch(self._disk.count(), self._inner.settle(settlements))

    def file_report(self, owed: OwedReport, report: Message | None, records: Sequence[Record]) -> Awaitable[None]:
        if self._disk.failure is not None:
            return self._fail()
        return self._watch(self._disk.count(), self._inner.file_report(owed, report, records))

    def save_notes(self, notes: Mapping[str, bytes], records: Sequence[Record] = ()) -> Awaitable[None]:
        if self._disk.failure is not None:
            return self._fail()
        return self._watch(self._disk.count(), self._inner.save_notes(notes, records))

    def repaired(self) -> Awaitable[None]:
        """Commit the settlements that were kept."""
        kept, self._kept = self._kept, []
        return self._inner.settle(kept)

    def draft(self) -> Draft:
        if self._disk.failure is not None:
            raise self._disk.failure
        return self._inner.draft()

    async def due(self, now: float, n: int) -> DueScan:
        return await self._read(self._inner.due(now, n))

    async def lease(self, domains: Collection[str], now: float, n: int) -> tuple[Lease, ...]:
        return await self._read(self._inner.lease(domains, now, n))

    async def sweep_held(self, now: float, n: int) -> tuple[Lease, ...]:
        return await self._read(self._inner.sweep_held(now, n))

    async def lease_all(self, cursor: str | None, n: int) -> tuple[tuple[Lease, ...], str | None]:
        return await self._read(self._inner.lease_all(cursor, n))

    def give_back(self, lease: Lease) -> None:
        if not self._life.is_over:
            self._inner.give_back(lease)

    async def content(self, id: str) -> Content:
        if self._disk.is_unreadable:
            raise StoreError(f"the content of {id} cannot be read")
        return await self._read(self._inner.content(id))

    async def sweep(self, received_before: float, n: int) -> tuple[Lease, ...]:
        return await self._read(self._inner.sweep(received_before, n))

    async def sweep_delayed(self, received_before: float, n: int) -> tuple[Lease, ...]:
        return await self._read(self._inner.sweep_delayed(received_before, n))

    async def change(
        self, which: Filter, wish: Wish, cursor: str | None, n: int, *, is_dry_run: bool = False
    ) -> Changed:
        return await self._read(self._inner.change(which, wish, cursor, n, is_dry_run=is_dry_run))

    async def history(self, id: str, n: int) -> tuple[Record, ...]:
        return await self._read(self._inner.history(id, n))

    async def accepted_for(self, text: str, n: int) -> tuple[Record, ...]:
        return await self._read(self._inner.accepted_for(text, n))

    async def remembers_all(self) -> bool:
        return await self._read(self._inner.remembers_all())

    async def tally(self, cursor: str | None, now: float) -> Tally:
        return await self._read(self._inner.tally(cursor, now))

    async def awaiting(self, now: float, n: int) -> tuple[str, ...]:
        return await self._read(self._inner.awaiting(now, n))

    async def release(self, domains: Collection[str], now: float) -> int:
        if self._disk.failure is not None:
            raise self._disk.failure
        return await self._watch(self._disk.count(), self._inner.release(domains, now))

    async def find(self, which: Filter, cursor: str | None, n: int) -> Page:
        return await self._read(self._inner.find(which, cursor, n))

    async def lease_report(self, now: float) -> OwedReport | None:
        return await self._read(self._inner.lease_report(now))

    async def records(self, after: int, n: int) -> tuple[Record, ...]:
        return await self._read(self._inner.records(after, n))

    async def count(self) -> tuple[int, int]:
        return await self._read(self._inner.count())

    async def load_notes(self, prefix: str) -> dict[str, bytes]:
        return await self._read(self._inner.load_notes(prefix))

    def leased(self) -> Iterable[tuple[str, int]]:
        return self._inner.leased()

    def lowest_pending(self) -> int | None:
        kept = [record.seq for each in self._kept for record in each.records]
        within = self._inner.lowest_pending()
        return min([*kept, *([] if within is None else [within])], default=None)

    def in_hand(self) -> Iterable[tuple[str, int]]:
        kept = [(each.id, settled.n) for each in self._kept for settled in each.recipients]
        return (*self._inner.in_hand(), *kept)

    async def recall(self, id: str, n: int) -> Lease | None:
        return await self._read(self._inner.recall(id, n))

    async def suspects(self, bounds: Bounds, cursor: str | None, n: int) -> SuspectPage:
        return await self._read(self._inner.suspects(bounds, cursor, n))

    async def _read(self, reading: Coroutine[Any, Any, T]) -> T:
        try:
            if self._pace is not None:
                await self._life.outlast(asyncio.sleep(self._pace()))
            if self._disk.failure is not None:  # before it looks: what it would have leased nobody could give back
                raise self._disk.failure
            found = await self._life.outlast(reading)
        finally:
            reading.close()
        if self._disk.failure is not None:
            raise self._disk.failure
        return found

    async def _fail(self) -> NoReturn:
        assert self._disk.failure is not None, "asked when it fails"
        raise self._disk.failure

    async def _watch(self, number: int, commit: Awaitable[T], undo: Callable[[T], None] | None = None) -> T:
        async def tell() -> T:
            result = await commit
            if self._life.is_over:
                return result
            if self._disk.failure is not None:
                if undo is not None:
                    undo(result)
                raise self._disk.failure
            self._disk.committed(number)
            return result

        return await self._life.outlast(tell())

    def _give_back_all(self, leases: Iterable[Lease]) -> None:
        """Nobody takes these: who added the message is told that it is not in the store."""
        for lease in leases:
            self._inner.give_back(lease)
