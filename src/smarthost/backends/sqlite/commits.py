# SPDX-License-Identifier: MIT
"""Group commit: while a batch is being committed, everything else collects for the next one; and what failure means.

No space: the new mail of the batch is refused, its settlements go again at once. A row that SQLite refuses: the items
of the batch go again one at a time, so that only the culprit fails. Anything else, an fsync above all, ends the child:
new mail is refused (`refusal`), settlements are kept and go first when another child has reopened the database. A
failed fsync is never repeated on the same connection.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from smarthost.backends.sqlite import wire
from smarthost.backends.sqlite.batch import Batch
from smarthost.backends.sqlite.items import Item
from smarthost.backends.sqlite.keeper import Keeper
from smarthost.backends.sqlite.pace import Pace
from smarthost.mail.errors import StoreError, StoreFull
from smarthost.mail.identity import encode_id
from smarthost.ports import Clock

BATCH_ITEMS = 512
BATCH_ROWS = 2_000
BATCH_OCTETS = 8 * 1024 * 1024
# Two would spare the child a turn of our loop between batches, and were better while no batch waited for company
# (saturated loop, 20 adders: 12,700-15,000 against 10,000 messages/s). With pace.py one is: 10,600-13,800 against
# 10,500, and 28 us of the child's CPU a message against 39, since batches are larger.
IN_FLIGHT = 1
STALLED_S = 10.0  # a commit that takes longer is a disk that hangs: do not take more mail upon ourselves
FULL_AGAIN_S = 1.0
SLOWEST_S = 60.0  # the slowest commit is that of this minute and of the one before
RESTART_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
CRASHES = 3  # an item in hand so often when the child died without a word, after the first time alone, is the culprit
# Recovering a WAL of 64 MiB takes less than 1 s, but a migration 3 to 10 s a million recipients: SQLite checks all rows
# of a STRICT table for each column it gets. Beyond five minutes the disk hangs.
OPEN_S = 300.0
_NOT_ENCODABLE = (ValueError, TypeError, OverflowError)


class _Load:
    """A batch and the items in it."""

    __slots__ = ("batch", "items", "sent_at")

    def __init__(self) -> None:
        self.batch = Batch()
        self.items: list[Item] = []
        self.sent_at = 0.0

    def takes(self, item: Item) -> bool:
        batch = self.batch
        return (
            len(self.items) < BATCH_ITEMS
            and batch.octets < BATCH_OCTETS
            and batch.rows < BATCH_ROWS
            and not batch.releases  # it has one number for what it released
            and (not item.day or not batch.day or item.day == batch.day)
        )

    def take(self, item: Item) -> None:
        item.enter(self.batch)
        if item.day:
            self.batch.day = item.day
        self.items.append(item)


class Commits:
    """The line of batches to one child. Lives on one event loop; owned by one store."""

    def __init__(
        self, clock: Clock, on_trouble: Callable[[str], None], spared: Callable[[int], None] = lambda octets: None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._on_trouble = on_trouble
        self._spared = spared
        self._waiting: deque[_Load] = deque()
        self._flying: dict[int, _Load] = {}
        self._kept: list[Item] = []
        self._number = 0
        self._is_kick_due = False
        self._pace = Pace()
        self._done = 0
        self._lasted_s = 0.0
        self._slowest_s = [0.0, 0.0]  # of the minute before, and of this one
        self._minute_ends = 0.0
        self._held = 0  # file contents on their way to become items
        self._broken: StoreError | None = StoreError("the store is not open")
        self._full: StoreFull | None = None
        self._full_until = 0.0
        self._restarts = 0
        self._damage = ""  # what the next child is to mend
        self._opened: asyncio.Future[int] = self._loop.create_future()
        self._idle: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[None] | None = None
        self.keeper: Keeper

    # -- what the store asks ------------------------------------------------------------------------------------------

    async def open(self, keeper: Keeper, patience_s: float = OPEN_S) -> int:
        """Start the child and give the highest number ever committed. Raises: StoreError."""
        self.keeper = keeper
        keeper.start(is_reopening=False)
        text = f"the database was not open after {patience_s:.0f} s: does the disk hang?"
        deadline = self._clock.deadline(patience_s, lambda: self._fail_start(StoreError(text)))
        try:
            return await self._opened
        finally:
            deadline.cancel()

    @property
    def broken(self) -> StoreError | None:
        """Why nothing can be committed now."""
        return self._broken

    def refusal(self) -> StoreError | None:
        """Why new mail should not be taken now."""
        if self._broken is not None:
            return self._broken
        if self._full is not None:
            if self._clock.monotonic() < self._full_until:
                return self._full
            self._full = None
        for load in self._flying.values():
            if self._clock.monotonic() - load.sent_at > STALLED_S:
                return StoreError(f"the disk has not finished a commit for {STALLED_S:.0f} s")
            break
        return None

    def figures(self) -> dict[str, float]:
        """Give how many commits there were, how long they lasted in all, and the slowest of the last minute or two."""
        now = self._clock.monotonic()
        self._turn_minute(now)
        flying = [now - load.sent_at for load in self._flying.values()]  # one that hangs is seen while it does
        slowest_s = max(*self._slowest_s, *flying)
        return {"commits": self._done, "commits_s": self._lasted_s, "slowest_commit_s": slowest_s}

    def _turn_minute(self, now: float) -> None:
        if now >= self._minute_ends:
            before = self._slowest_s[1] if now < self._minute_ends + SLOWEST_S else 0.0
            self._slowest_s = [before, 0.0]
            self._minute_ends = now + SLOWEST_S

    def submit(self, item: Item) -> None:
        """Enqueue an item; it is told what becomes of it."""
        if self._broken is not None:
            self._give_up(item, self._broken, is_undone=True)
            return
        if not self._waiting or not self._waiting[-1].takes(item):
            self._waiting.append(_Load())
        self._waiting[-1].take(item)
        self._kick_soon()

    def items(self) -> Iterator[Item]:
        """Give everything that is enqueued and not durable, what is kept to be entered again included."""
        for load in (*self._flying.values(), *self._waiting):
            yield from load.items
        yield from self._kept

    def hold(self) -> None:
        """Something will be submitted later: `close` waits for it."""
        self._held += 1

    def release(self) -> None:
        self._held -= 1
        self._tell_if_idle()

    async def close(self, patience_s: float) -> None:
        """Commit everything enqueued, then end the child; gives up after `patience_s`."""
        if not self._is_idle():
            self._idle = self._loop.create_future()
            await self._wait(self._idle, patience_s)
        lost = [item for load in (*self._flying.values(), *self._waiting) for item in load.items if item.is_kept]
        if lost or self._kept:
            self._on_trouble(f"closed with {len(lost) + len(self._kept)} settlements not durable: they happen again")
        self._ended = self._loop.create_future()
        self.keeper.finish()
        await self._wait(self._ended, patience_s)
        self._broken = StoreError("the store is closed")
        self._fail_all(self._broken, is_undone=False)
        self._kept.clear()
        self.keeper.stop()
        self.keeper.reap(1.0)

    async def _wait(self, future: "asyncio.Future[None]", patience_s: float) -> None:
        deadline = self._clock.deadline(patience_s, lambda: _resolve(future))
        try:
            await future
        finally:
            deadline.cancel()

    def abandon(self) -> None:
        """Forget everything, as a crash does; nothing is told to anybody any more."""
        self._broken = StoreError("the store was killed")
        self._ended = self._loop.create_future()
        self._flying.clear()
        self._waiting.clear()
        self._kept.clear()

    # -- the line -----------------------------------------------------------------------------------------------------

    def _kick_soon(self) -> None:
        """Send after the callbacks that are ready now: those of one turn of the loop share a batch."""
        if not self._is_kick_due and len(self._flying) < IN_FLIGHT:
            self._is_kick_due = True
            hold_s = self._pace.hold_s()
            if hold_s:
                self._loop.call_later(hold_s, self._kick)
            else:
                self._loop.call_soon(self._kick)

    def _kick(self) -> None:
        self._is_kick_due = False
        while self._waiting and len(self._flying) < IN_FLIGHT and self._broken is None:
            load = self._waiting.popleft()
            self._number += 1
            try:
                buffers = load.batch.encode(self._number, self._clock.wall())
            except _NOT_ENCODABLE as error:
                self._separate(load, StoreError(f"{type(error).__name__}: {error}"))
                continue
            load.sent_at = self._clock.monotonic()
            self._flying[self._number] = load
            self.keeper.commit(buffers)
        self._tell_if_idle()

    def committed(self, outcome: wire.Outcome) -> None:
        """The child says what became of a batch."""
        load = self._flying.pop(outcome.number)
        if outcome.code == wire.OK:
            self._restarts = 0
            now = self._clock.monotonic()
            self._turn_minute(now)
            self._done += 1
            self._lasted_s += now - load.sent_at
            self._slowest_s[1] = max(self._slowest_s[1], now - load.sent_at)
            self._spared(outcome.spare_octets)
            load.batch.released = outcome.released
            for item in load.items:
                item.committed()
            if outcome.gone:
                self.keeper.drop([encode_id(key, tag) for key, tag in outcome.gone])
        elif outcome.code == wire.FULL:
            self._refuse_mail(load, StoreFull(f"no space left for the queue: {outcome.text}"))
        elif outcome.code == wire.FAULTY:
            self._separate(load, StoreError(outcome.text))
        else:
            self._flying[outcome.number] = load
            self._damage = outcome.text if outcome.code == wire.DAMAGED else ""
            self._break(f"the queue's database failed: {outcome.text}")
        if self._waiting:
            self._kick_soon()
        self._tell_if_idle()

    def _refuse_mail(self, load: _Load, error: StoreFull) -> None:
        self._full = error
        self._full_until = self._clock.monotonic() + FULL_AGAIN_S
        kept = [item for item in load.items if item.is_kept]
        for item in load.items:
            if not item.is_kept:
                item.failed(error, is_undone=True)
        if len(kept) < len(load.items):
            self._put_first([kept] if kept else [])
        else:
            for item in kept:
                item.failed(error, is_undone=True)
            self._kept += kept
            self._clock.deadline(FULL_AGAIN_S, self._repeat_kept)

    def _repeat_kept(self) -> None:
        """Enter the kept items again; those that may have killed the child go alone."""
        if self._broken is None and self._kept:
            suspects = [[item] for item in self._kept if item.crashes]
            rest = [item for item in self._kept if not item.crashes]
            self._kept = []
            self._put_first([*([rest] if rest else []), *suspects])
            self._kick_soon()

    def _put_first(self, groups: Sequence[Iterable[Item]]) -> None:
        loads: list[_Load] = []
        for group in groups:
            loads.append(_Load())
            for item in group:
                if not loads[-1].takes(item):
                    loads.append(_Load())
                loads[-1].take(item)
        self._waiting.extendleft(reversed(loads))

    def _separate(self, load: _Load, error: StoreError) -> None:
        """A row in it is wrong: find out which."""
        if len(load.items) == 1 and len(parts := load.items[0].parts()) == 1:
            text = parts[0].rejected(error)
            if text is not None:
                self._on_trouble(text)
            return
        items = load.items if len(load.items) > 1 else load.items[0].parts()
        self._put_first([[item] for item in items])

    # -- failure ------------------------------------------------------------------------------------------------------

    def greeted(self, hello: wire.Hello) -> None:
        """The child is ready, or says why it is not."""
        if hello.trouble:
            self._fail_start(StoreError(hello.trouble))
            return
        if hello.salvaged:
            self._on_trouble(hello.salvaged)
        if self._opened.done():
            self._on_trouble("the store's database is open again")
        self._broken = None
        self._spared(hello.spare_octets)
        if not self._opened.done():
            self._opened.set_result(hello.last_number)
        self._repeat_kept()
        self._tell_if_idle()

    def lost(self) -> None:
        """The child has ended."""
        if self._ended is not None:
            _resolve(self._ended)
        elif not self._opened.done():
            self._fail_start(StoreError("the store's process ended before it could serve"))
        elif self._opened.exception() is not None:
            pass  # it never opened: whoever tried was told why
        elif self._broken is None:
            for load in islice(self._flying.values(), 1):  # the batch it had in hand; the others were not begun
                for item in load.items:
                    item.crashes += 1
            self._break("the store's process ended unexpectedly")
        else:
            self._restart_later()

    def damaged(self, text: str) -> None:
        """The child read something that cannot be: another one is to mend the database."""
        if self._broken is None:
            self._damage = text
            self._break(f"the queue's database is damaged: {text}")

    def _fail_start(self, error: StoreError) -> None:
        if not self._opened.done():
            self._opened.set_exception(error)
        else:
            self._broken = error
            self._on_trouble(f"the store cannot be reopened: {error}")

    def fail(self, text: str) -> None:
        """The disk failed elsewhere than in a commit: refuse, keep what is settled, have another child verify."""
        if self._broken is None:
            self._break(text)

    def _break(self, text: str) -> None:
        error = StoreError(text)
        self._on_trouble(text)
        self._broken = error
        self._fail_all(error, is_undone=False)
        self.keeper.stop()
        self._restart_later()

    def _fail_all(self, error: StoreError, is_undone: bool) -> None:
        for load in [*self._flying.values(), *self._waiting]:
            for item in load.items:
                self._give_up(item, error, is_undone)
        self._flying.clear()
        self._waiting.clear()

    def _give_up(self, item: Item, error: StoreError, is_undone: bool) -> None:
        item.failed(error, is_undone)
        if item.is_kept:
            if item.crashes >= CRASHES:
                text = item.rejected(error)
                self._on_trouble(text or str(error))
            else:
                self._kept.append(item)

    def _restart_later(self) -> None:
        delay_s = RESTART_S[min(self._restarts, len(RESTART_S) - 1)]
        self._restarts += 1
        if delay_s:
            self._clock.deadline(delay_s, self._restart)
        else:
            self._loop.call_soon(self._restart)

    def _restart(self) -> None:
        if self._ended is not None:
            return
        try:
            if self.keeper.start(is_reopening=True, damage=self._damage):
                self._damage = ""
            else:
                self._restart_later()
        except StoreError as error:
            self._fail_start(error)
            self._restart_later()

    # -- the end ------------------------------------------------------------------------------------------------------

    def _is_idle(self) -> bool:
        return not (self._flying or self._waiting or self._kept or self._held)

    def _tell_if_idle(self) -> None:
        if self._idle is not None and not self._idle.done() and self._is_idle():
            self._idle.set_result(None)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
