# SPDX-License-Identifier: MIT
"""The Store on SQLite, parent's side: what is leased is known here, what is durable is known by the child.

Writes go through commits.py (group commit), reads through keeper.py to the child's reading thread, large content
through files.py. Owned by one event loop, uvloop or asyncio's. queue.store has the crash contract; testing.stores
proves it.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from errno import EIO
from pathlib import Path

import msgspec
from msgspec.msgpack import Decoder

from smarthost.backends.clock import SystemClock, read_boot_id
from smarthost.backends.files import INLINE_OCTETS, Drafts, FileContent, FileDraft, Space, translate
from smarthost.backends.sqlite import directory, items, wire
from smarthost.backends.sqlite.checksums import about
from smarthost.backends.sqlite.commits import OPEN_S, Commits
from smarthost.backends.sqlite.isolating import Isolation
from smarthost.backends.sqlite.keeper import Keeper
from smarthost.backends.sqlite.rows import (
    amend_all,
    foresee_all,
    is_outdated,
    to_lease,
    to_owed,
    to_question,
    to_stored,
    to_suspect,
    to_tallied,
)
from smarthost.backends.sqlite.taking import DelaySweep, Taker
from smarthost.mail.backup import Backup
from smarthost.mail.content import Content, InlineContent
from smarthost.mail.errors import StoreError
from smarthost.mail.identity import decode_id, encode_id
from smarthost.mail.lease import Lease
from smarthost.mail.message import Message
from smarthost.mail.record import Record
from smarthost.mail.settlement import OwedReport, SettledRecipient, Settlement, State
from smarthost.ports import Clock
from smarthost.queue.audit import Bounds, SuspectPage
from smarthost.queue.leases import Leases, Wish, fresh_leases
from smarthost.queue.store import Changed, DueDomain, DueScan, Filter, Page, Tally
from smarthost.queue.verbs import Numbers, amend, check_verb, fulfil_all, is_about, read_cursor, write_cursor

PAGE = 1_000
RECORD_DAYS = 8  # a week, and the day that is not over
ACCEPTED = 100  # acceptances in one answer
REPORT_LEASE_S = 300.0  # a report whose writer never came back is given out again
REPORT_PATIENCE_S = 60.0  # queue.store.Store.lease_report
CLOSE_S = 10.0
FRESH = 1_000
FRESH_S = 60.0  # a file that was made durable so lately need not be read only to be checked
COPIED_A_SECOND = 10 * 1024 * 1024  # octets, by a slow disk: a database is copied before it is migrated
LOOK_S = 0.1  # between two looks how far a backup is
_ROUNDS = 100  # a read whose rows others leased meanwhile is repeated; with k askers at once the last needs k rounds
_record_of = msgspec.json.Decoder(Record).decode
_DUE = Decoder(wire.DueRows)
_FOUND = Decoder(wire.FoundRows)
_CONTENT = Decoder(wire.ContentRow)
_DEBTS = Decoder(list[tuple[int, int, float]])
_DEBT: Decoder[wire.DebtRow | None] = Decoder(wire.DebtRow | None)
_RECORDS = Decoder(list[bytes])
_REMEMBERED = Decoder(bool)
_TALLY = Decoder(wire.TallyRows)
_COUNT = Decoder(tuple[int, int])
_BACKUP = Decoder(wire.BackupState)
_RECALLED: Decoder[wire.LeaseRow | None] = Decoder(wire.LeaseRow | None)
_SUSPECTS = Decoder(wire.SuspectRows)
_DOMAINS = Decoder(tuple[str, ...])
_NOTES = Decoder(dict[str, bytes])


class SqliteStore:
    """Implements queue.store.Store in one state directory."""

    def __init__(
        self,
        path: Path,
        clock: Clock | None = None,
        *,
        inline_octets: int = INLINE_OCTETS,
        reserve_octets: int | None = None,
        record_days: int = RECORD_DAYS,
        on_trouble: Callable[[str], None] = lambda text: None,
        on_news: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._path = path
        self._record_days = record_days
        self._clock = clock = clock or SystemClock()
        self._inline_octets = inline_octets
        self._on_trouble = on_trouble
        self._on_news = on_news
        self._space = Space(path, clock.monotonic, reserve_octets)
        self._drafts = Drafts(path / "content", self._space, inline_octets)
        self._leases = Leases()
        self._numbers = Numbers()
        self._reports: dict[str, float] = {}  # leased reports, since when
        self._fresh: dict[str, float] = {}  # messages with content in files, since when they are durable
        self._keeping: dict[str, items.Add] = {}  # whose content files are being made durable, by id
        self._lock = -1
        self._loop: asyncio.AbstractEventLoop
        self._commits: Commits
        self._keeper: Keeper
        self._delays: DelaySweep
        self._taker: Taker
        self._isolation: Isolation

    # -- open and close -----------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Take the state directory and recover. Raises: StoreLocked, StoreError (with a text for an operator)."""
        self._loop = asyncio.get_running_loop()
        self._lock = await directory.take(self._path, self._clock)
        self._commits = commits = Commits(self._clock, self._on_trouble, self._space.set_spare)
        self._isolation = Isolation(self._clock, self._leases, self._numbers, commits.submit, self._on_trouble)
        self._keeper = Keeper(
            self._path, self._lock, self._greeted, commits.committed, commits.lost, commits.damaged,
            self._isolation.found,
        )  # fmt: skip
        self._keeper.times = self._times()
        self._delays = DelaySweep()
        self._taker = Taker(self._keeper, self._leases, self._delays, self.give_back)
        try:
            self._numbers.saw(
                await commits.open(self._keeper, OPEN_S + directory.database_octets(self._path) / COPIED_A_SECOND)
            )
        except BaseException:
            self.kill()
            raise

    def _greeted(self, hello: wire.Hello) -> None:
        if hello.news:
            self._on_news(hello.news)
        else:
            self._commits.greeted(hello)

    def _times(self) -> dict[str, object]:
        """Say which boot this is, so that the child can tell a step of the wall clock; a fake clock is not followed."""
        clock = self._clock
        if not isinstance(clock, SystemClock):
            return {"record_days": self._record_days}
        return {
            "record_days": self._record_days,
            "boot_id": read_boot_id(),
            "wall_at_boot": clock.wall_at_boot,
            "now": clock.wall(),
        }

    async def close(self) -> None:
        """Commit what was enqueued, give all leases back, let go of the directory. Harmless when repeated."""
        if self._lock < 0:
            return
        lock, self._lock = self._lock, -1
        try:
            await self._commits.close(CLOSE_S)
        finally:
            self._leases.clear()
            self._reports.clear()
            os.close(lock)

    def kill(self) -> None:
        """End as kill -9 would: nothing is flushed, nobody is told. For failed starts and crash tests."""
        if self._lock >= 0:
            self._commits.abandon()
            self._keeper.stop()
            self._keeper.reap(5.0)
            os.close(self._lock)
            self._lock = -1

    @property
    def refusal(self) -> Exception | None:
        """Why new mail cannot be taken now (a StoreError or StoreFull), or None."""
        if self._lock < 0:
            return StoreError("the store is not open")
        return self._commits.refusal() or self._space.shortage()

    def figures(self) -> dict[str, float]:
        """Give what its commits cost, by name; see Commits.figures. After `open`."""
        return self._commits.figures()

    @property
    def last_number(self) -> int:
        """The highest store key or record seq ever committed; for IdSource. After `open`."""
        return self._numbers.last_for_ids()

    def set_reserve(self, octets: int) -> None:
        """Keep this much room for settlements; takes effect at once."""
        self._space.set_reserve(octets)

    def draw_numbers_from(self, source: Callable[[], int]) -> None:
        """Draw the seq of our own records (`change`, wishes) from an IdSource: queue.verbs.Numbers says why."""
        self._numbers.source = source

    @property
    def child_pid(self) -> int | None:
        """The process that owns the database, for operators and tests."""
        return self._keeper.pid

    # -- new mail -----------------------------------------------------------------------------------------------------

    def add(
        self, message: Message, lease: Collection[str], record: Record | None = None
    ) -> Awaitable[tuple[Lease, ...]]:
        """File a message; its recipients in the domains of `lease` are leased to the caller at once."""
        future: asyncio.Future[tuple[Lease, ...]] = self._loop.create_future()
        refusal = self.refusal
        if refusal is not None:
            future.set_exception(refusal)
            return future
        key, tag = decode_id(message.id)
        self._numbers.saw(key)
        content = message.content
        body = content.body if isinstance(content, InlineContent) and content.octets <= self._inline_octets else None
        leased = fresh_leases(message, lease, None if body is None else content) if lease else ()
        for part in leased:
            for recipient in part.recipients:
                self._leases.take(message.id, key, recipient.n, recipient.domain)
        item = items.Add(message, key, tag, body, future, leased, self._leases, self._delays, self._forget_file, record)
        if body is not None:
            self._commits.submit(item)
        else:
            self._add_file(item)
        return future

    def _add_file(self, item: items.Add) -> None:
        """Make the file durable first: a row never speaks of a file that is not there."""
        try:
            draft = self._drafts.claim(item.message.content)
        except StoreError as error:
            item.failed(error, is_undone=True)
            return
        self._commits.hold()
        self._keeping[item.message.id] = item
        self._keeper.keep(draft.path.name, item.message.id, lambda outcome: self._kept(item, draft, outcome))

    def _kept(self, item: items.Add, draft: FileDraft, outcome: wire.FileOutcome | None) -> None:
        self._keeping.pop(item.message.id, None)
        if outcome is None:
            draft.discard()
            item.failed(StoreError("the store's process ended before the content was durable"), is_undone=False)
        elif outcome.errno:
            draft.discard()
            item.failed(translate(OSError(outcome.errno, outcome.text), draft.path), is_undone=True)
            if outcome.errno == EIO:  # a sync, perhaps: its descriptor is not believed again, another child opens anew
                self._commits.fail(f"a content file could not be made durable: {outcome.text}")
        else:
            item.content = outcome.checksum
            self._commits.submit(item)
            if item.leased:
                self._fresh[item.message.id] = self._clock.monotonic()
                if len(self._fresh) > FRESH:
                    del self._fresh[next(iter(self._fresh))]
        self._commits.release()

    def _forget_file(self, id: str) -> None:
        self._keeper.drop([id])

    def draft(self) -> FileDraft:
        """Begin large content. Raises: StoreFull, StoreError."""
        refusal = self.refusal
        if refusal is not None:
            raise refusal
        return self._drafts.begin()

    # -- leases -------------------------------------------------------------------------------------------------------

    async def due(self, now: float, n: int) -> DueScan:
        """Name at most `n` domains with unleased DEFERRED recipients due at or before `now`."""
        rows = await self._keeper.ask(wire.AskDue(now, n, self._leases.all()), _DUE)
        return DueScan(tuple([DueDomain(domain, due) for domain, due in rows.domains]), rows.next_at)

    async def lease(self, domains: Collection[str], now: float, n: int) -> tuple[Lease, ...]:
        """Lease at most `n` messages' due recipients in these domains, earliest due first; fewer: there are no more."""
        return await self._taker.lease(domains, now, n)

    async def sweep(self, received_before: float, n: int) -> tuple[Lease, ...]:
        """Lease all recipients (whatever their due time, held ones not) of at most `n` messages older than that."""
        return await self._taker.sweep(received_before, n)

    async def sweep_delayed(self, received_before: float, n: int) -> tuple[Lease, ...]:
        """Lease the DEFERRED recipients of at most `n` messages older than that whose delay was not told."""
        return await self._taker.sweep_delayed(received_before, n)

    async def sweep_held(self, now: float, n: int) -> tuple[Lease, ...]:
        """Lease the HELD recipients of at most `n` messages whose hold ends at or before `now`."""
        return await self._taker.sweep_held(now, n)

    async def lease_all(self, cursor: str | None, n: int) -> tuple[tuple[Lease, ...], str | None]:
        """Lease all DEFERRED and HELD recipients of at most `n` messages behind `cursor`, whatever their due time."""
        leases, last = await self._taker.lease_all(read_cursor(cursor, 1)[0], n)
        return leases, None if last is None else write_cursor(last)

    def give_back(self, lease: Lease) -> None:
        """End a lease without any change, except for a wish said meanwhile."""
        for recipient in lease.recipients:
            wish = self._leases.end(lease.id, recipient.n)
            if wish is not None:
                current = SettledRecipient(
                    recipient.n, recipient.address, recipient.domain,
                    State.HELD if recipient.is_held else State.DEFERRED, 0.0, recipient.attempts,
                    recipient.last_status, recipient.last_reply, recipient.why, host=recipient.host,
                    awaits_host=recipient.awaits_host,
                )  # fmt: skip
                self._follow_up(lease.id, lease.reverse_path, current, wish)

    # -- settlements --------------------------------------------------------------------------------------------------

    def settle(self, settlements: Sequence[Settlement]) -> Awaitable[None]:
        """Commit settlements with their records and end their leases; enqueues before it returns."""
        future: asyncio.Future[None] = self._loop.create_future()
        if not settlements:
            future.set_result(None)
            return future
        if self._leases.has_wishes:
            settlements = [fulfil_all(settlement, self._leases) for settlement in settlements]
        settlements = self._isolation.hold_all(settlements)
        for settlement in settlements:
            assert len(settlement.recipients) == len(settlement.records), "one record for each recipient"
            for record in settlement.records:
                self._numbers.saw(record.seq)
        self._commits.submit(items.Settle(settlements, future, self._leases, self._follow_up))
        return future

    def _follow_up(self, id: str, reverse_path: str, current: SettledRecipient, wish: Wish) -> None:
        """Do what was wished for a recipient whose lease has just ended without it."""
        amended = amend(id, reverse_path, current, wish, self._numbers)
        if amended is not None:
            self._leases.take(id, self._leases.key(id), current.n, current.domain)
            self.settle([Settlement(id, (amended[0],), (amended[1],))])

    async def content(self, id: str) -> Content:
        """Give the content of a message, without the prefix. Raises: StoreError when it cannot be read."""
        try:
            key, tag = decode_id(id)
        except ValueError as error:
            raise StoreError(str(error)) from error
        is_fresh = self._clock.monotonic() - self._fresh.pop(id, float("-inf")) < FRESH_S
        row = await self._keeper.ask(wire.AskContent(key, tag, is_fresh), _CONTENT)
        if row.body is not None:
            return InlineContent(row.body)
        return FileContent(str(self._path / "content" / encode_id(key, tag)), row.octets)

    # -- what an auditor asks -----------------------------------------------------------------------------------------

    def leased(self) -> Iterable[tuple[str, int]]:
        """Give (message id, recipient number) of every lease there is at this moment."""
        return tuple(self._leases.each())

    def lowest_pending(self) -> int | None:
        """Give the lowest seq of the records that were handed over and are not durable yet, or kept to be repeated."""
        seqs = [items.lowest_seq(item) for item in (*self._commits.items(), *self._keeping.values())]
        return min([seq for seq in seqs if seq is not None], default=None)

    def in_hand(self) -> Iterable[tuple[str, int]]:
        """Give those of them whose settlement is not durable yet, and what is about to be handed out."""
        settlements = [
            each for item in self._commits.items() if isinstance(item, items.Settle) for each in item.settlements
        ]
        return (*[(each.id, settled.n) for each in settlements for settled in each.recipients], *self._taker.in_hand())

    async def recall(self, id: str, n: int) -> Lease | None:
        """Give the lease of a DEFERRED recipient as `sweep_delayed` would, though it is leased; changes nothing."""
        key, tag = decode_id(id)
        row = await self._keeper.ask(wire.AskRecall(key, n), _RECALLED)
        return None if row is None or row.tag != tag else to_lease(row, id, row.recipients)

    async def suspects(self, bounds: Bounds, cursor: str | None, n: int) -> SuspectPage:
        """Look at the next `n` (up to 1,000) recipients, and give those that queue.audit.is_suspect means."""
        key, last = read_cursor(cursor, 2)
        with self._leases.reading() as reading:
            ask = wire.AskSuspects(
                key, last, min(n, PAGE), bounds.due_before, bounds.due_after, bounds.received_before, bounds.owed_before
            )
            rows = await self._keeper.ask(ask, _SUSPECTS)
            found = tuple([to_suspect(row, self._leases, reading) for row in rows.suspects])
        return SuspectPage(found, rows.checked, None if rows.cursor is None else write_cursor(*rows.cursor))

    # -- operators ----------------------------------------------------------------------------------------------------

    async def find(self, which: Filter, cursor: str | None, n: int) -> Page:
        """Give at most `n` messages (up to 1,000) with matching recipients, oldest first; pages may be short."""
        question = to_question(wire.AskFind, which, read_cursor(cursor, 2), min(n, PAGE))
        if question is None:
            return Page((), None)
        rows = await self._keeper.ask(question, _FOUND)
        return Page(
            tuple([to_stored(row, self._leases) for row in rows.messages]),
            None if rows.cursor is None else write_cursor(*rows.cursor),
        )

    async def change(
        self, which: Filter, wish: Wish, cursor: str | None, n: int, *, is_dry_run: bool = False
    ) -> Changed:
        """Apply a verb to at most `n` (up to 1,000) recipients after `cursor`; with records."""
        check_verb(wish.verb)
        question = to_question(wire.AskChangeable, which, read_cursor(cursor, 2), min(n, PAGE))
        if question is None:
            return Changed((), (), None)
        for _ in range(_ROUNDS):
            with self._leases.reading() as reading:
                rows = await self._keeper.ask(question, _FOUND)
                if not is_outdated(rows.messages, reading):
                    break
        following = None if rows.cursor is None else write_cursor(*rows.cursor)
        if is_dry_run:
            return Changed(*foresee_all(rows.messages, wish, self._leases), following)
        settlements, wished = amend_all(rows.messages, wish, self._leases, self._numbers)
        if settlements:
            self._isolation.forget([(each.id, settled.n) for each in settlements for settled in each.recipients])
            await self.settle(settlements)
        changed = tuple([(each.id, settled.n) for each in settlements for settled in each.recipients])
        if wish.verb == "release":  # the sweep for delays has passed what was held
            self._delays.again.update([(decode_id(each.id)[0], each.id) for each in settlements])
        return Changed(changed, wished, following)

    # -- what awaits a host -------------------------------------------------------------------------------------------

    async def awaiting(self, now: float, n: int) -> tuple[str, ...]:
        """Name at most `n` domains that have DEFERRED recipients which await a host and are due later than `now`."""
        return await self._keeper.ask(wire.AskAwaiting(now, n), _DOMAINS)

    async def release(self, domains: Collection[str], now: float) -> int:
        """Make what awaits a host in these domains due at `now`; gives how many. More than a portion: one by one."""
        total = 0
        while domains:
            portion = items.Release(domains, now, self._loop.create_future())
            self._commits.submit(portion)
            await portion.future
            total += portion.released
            if portion.released < wire.RELEASE_ROWS:
                break
        return total

    # -- reports ------------------------------------------------------------------------------------------------------

    async def lease_report(self, now: float) -> OwedReport | None:
        """Lease one owed report: no recipient of its message is leased, or the oldest debt is over 60 s old."""
        for id in [id for id, since in self._reports.items() if now - since > REPORT_LEASE_S]:
            del self._reports[id]
        exclude = [decode_id(id)[0] for id in self._reports]
        debts = await self._keeper.ask(wire.AskDebts(exclude), _DEBTS)
        for key, tag, owed_at in debts:
            id = encode_id(key, tag)
            if id in self._reports or (self._leases.is_message_leased(id) and now - owed_at <= REPORT_PATIENCE_S):
                continue
            self._reports[id] = now
            row = None
            try:
                row = await self._keeper.ask(wire.AskDebt(key), _DEBT)
            finally:
                if row is None:  # paid meanwhile, or not to be read now
                    self._end_report(id)
            if row is not None:
                return to_owed(row, id)
        return None

    def file_report(self, owed: OwedReport, report: Message | None, records: Sequence[Record]) -> Awaitable[None]:
        """File `report` as a message of its own (None: nobody is to be told) and clear the debt, in one transaction."""
        future: asyncio.Future[None] = self._loop.create_future()
        if report is not None:
            self._numbers.saw(decode_id(report.id)[0])
        for record in records:
            self._numbers.saw(record.seq)
        try:
            item = items.Report(owed, report, records, future, self._end_report)
        except StoreError as error:
            future.set_exception(error)
            return future
        self._commits.submit(item)
        return future

    def _end_report(self, id: str) -> None:
        self._reports.pop(id, None)

    # -- the rest -----------------------------------------------------------------------------------------------------

    async def records(self, after: int, n: int) -> tuple[Record, ...]:
        """Give at most `n` records with seq above `after`, in order."""
        rows = await self._keeper.ask(wire.AskRecords(after, n), _RECORDS)
        return tuple(self._read_records(rows))

    def _read_records(self, rows: Iterable[bytes]) -> list[Record]:
        found = []
        for row in rows:
            try:
                found.append(_record_of(row))
            except msgspec.MsgspecError as error:
                self._on_trouble(f"a record is damaged and passed over: {error}")
        return found

    async def history(self, id: str, n: int) -> tuple[Record, ...]:
        """Give the newest `n` records (up to 1,000) of a message, whether it is still there or not, oldest first."""
        try:
            key = decode_id(id)[0]
        except ValueError:
            return ()
        rows = await self._keeper.ask(wire.AskHistory(key, min(n, PAGE)), _RECORDS)
        return tuple([record for record in self._read_records(rows) if record.id == id.lower()])

    async def accepted_for(self, text: str, n: int) -> tuple[Record, ...]:
        """Give the newest `n` (up to 100) acceptances of messages to this address, or with this Message-ID."""
        bodies = await self._keeper.ask(wire.AskAccepted(about(text), min(n, ACCEPTED)), _RECORDS)
        return tuple([record for record in self._read_records(bodies) if is_about(record, text)])

    async def remembers_all(self) -> bool:
        """Does `accepted_for` know of all that is queued, or is some of it older than the records that are kept?"""
        return await self._keeper.ask(wire.AskRemembered(), _REMEMBERED)

    async def tally(self, cursor: str | None, now: float) -> Tally:
        """Count the unfinished recipients of the next messages by name."""
        rows = await self._keeper.ask(wire.AskTally(read_cursor(cursor, 1)[0], now), _TALLY)
        following = None if rows.last is None else write_cursor(rows.last)
        return Tally(to_tallied(rows.domains), to_tallied(rows.senders), to_tallied(rows.reasons), following)

    async def count(self) -> tuple[int, int]:
        """Give (messages, unfinished recipients) in the store."""
        return await self._keeper.ask(wire.AskCount(), _COUNT)

    async def load_notes(self, prefix: str) -> dict[str, bytes]:
        """Read the small named values (host health and the like) whose names begin with `prefix`."""
        return await self._keeper.ask(wire.AskNotes(prefix), _NOTES)

    def save_notes(self, notes: Mapping[str, bytes], records: Sequence[Record] = ()) -> Awaitable[None]:
        """Write small named values (an empty one removes the name), and records of no message, in one transaction."""
        future: asyncio.Future[None] = self._loop.create_future()
        for record in records:
            self._numbers.saw(record.seq)
        self._commits.submit(items.Notes(dict(notes), records, future))
        return future

    async def back_up(self, directory: Path, version: str) -> Backup:
        """Copy all there is now into a directory that does not exist or is empty, while everything goes on.

        The copy is a state directory; `version`: the release that made it. Safe to cancel: nothing is left then.
        Raises: StoreError: with a text for an operator.
        """
        await self._keeper.ask(wire.StartBackup(str(directory), self._clock.wall(), version), _BACKUP)
        try:
            while (state := await self._keeper.ask(wire.AskBackup(), _BACKUP)).is_running:
                await self._clock.sleep(LOOK_S)
        except BaseException:
            self._keeper.tell(wire.StopBackup())
            raise
        if state.backup is None:
            raise StoreError(state.trouble or "the store's process ended before the backup was whole")
        return state.backup
