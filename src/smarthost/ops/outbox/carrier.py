# SPDX-License-Identifier: MIT
"""Carries records from the store to one receiver, in order and at least once, from a cursor that survives a crash.

The cursor is saved after a delivery, never before: a crash between the two delivers again what came after the last
save, a failure is repeated for ever, more and more seldom. Holds one page of records in memory, however far behind it
is, and never makes mail wait. What was forgotten by age before it was delivered is told and counted. Why none is
missed: `Relay.records` gives none that another may yet come before.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import msgspec
from msgspec import Struct

from smarthost.mail.errors import StoreError
from smarthost.mail.record import Record
from smarthost.ops import words
from smarthost.ops.outbox.lines import cursor_of
from smarthost.ops.outbox.report import OutboxReport
from smarthost.ports import Clock

NOTES = "outbox/"  # where the store keeps the cursors
POLL_S = 0.25  # memory is asked so often if there is something new; the store only if there is, and no more often
PAGE = 500  # records in memory; each a few hundred octets, with a transcript or a walk up to some KiB
RETRY_STORE_S = 1.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 300.0
JITTER = 0.2
TOLD_S = 3600.0  # a failure that lasts is told once an hour
SKIPPED = 10_000  # records that a receiver does not want, after which the cursor is saved all the same
ERROR_CHARACTERS = 300


class Undelivered(Exception):
    """A receiver did not take what it was given; one line. `is_gone`: it will never; `retry_after_s`: it said when."""

    def __init__(self, text: str, *, is_gone: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(words.printable(text)[:ERROR_CHARACTERS])
        self.is_gone = is_gone
        self.retry_after_s = retry_after_s


class Receiver(Protocol):
    """Whoever gets records."""

    async def deliver(self, records: Sequence[Record]) -> int:
        """Hand over the first of these records, at least one, and give how many. Within a deadline of its own.

        Raises: Undelivered: nobody knows how many, if any, have arrived.
        """

    async def close(self) -> None:
        """Let go of what is open."""


class Source(Protocol):
    """Where records come from; assemble.Relay answers."""

    @property
    def record_horizon(self) -> int: ...
    async def records(self, after: int, n: int) -> tuple[Record, ...]: ...


class Notes(Protocol):
    """Where cursors are kept; a Store answers."""

    async def load_notes(self, prefix: str) -> dict[str, bytes]: ...
    def save_notes(self, notes: Mapping[str, bytes]) -> Awaitable[None]: ...


class Place(Struct, frozen=True):
    """Where a carrier stands: behind the record `seq`, which happened at `at`; 0.0: behind no record in particular."""

    seq: int
    at: float = 0.0
    delivered: int = 0
    saved_at: float = 0.0


class Carrier:
    """One receiver and how far it is. Runs as one task; ends only by cancellation."""

    def __init__(
        self,
        name: str,
        kind: str,
        target: str,
        receiver: Receiver,
        source: Source,
        store: Callable[[], Notes],
        note: Callable[..., None],
        *,
        kinds: Sequence[str] = (),
        clock: Clock,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self.name = name
        self._kind = kind
        self._target = target
        self._receiver = receiver
        self._source = source
        self._store = store
        self._note = note
        self._kinds = frozenset(kinds)
        self._clock = clock
        self._first_pause_s = first_pause_s
        self._place = Place(0)
        self._saved = Place(-1)
        self._is_loaded = False
        self._is_whole = False  # nothing was left to deliver when it was looked at last
        self._looked_until = -1
        self._oldest_at = 0.0  # of what is not delivered
        self._last_error = ""
        self._failing_since = self._told_at = self._next_try_at = 0.0
        self._last_loss = ""
        self.delivered = self.failures = self.losses = 0
        self.is_stopped = False

    @property
    def behind_s(self) -> float:
        """How old the oldest record is that is not delivered; 0.0: there is none."""
        return max(0.0, self._clock.wall() - self._oldest_at) if self._oldest_at else 0.0

    def report(self) -> OutboxReport:
        """Give how far it is."""
        return OutboxReport(
            self.name,
            self._kind,
            self._target,
            cursor_of(self._place.seq),
            self._place.at,
            self.delivered,
            self.failures,
            self.behind_s,
            self._last_error,
            self._failing_since,
            self._next_try_at,
            self.is_stopped,
            self.losses,
            self._last_loss,
        )

    async def carry_for_ever(self) -> None:
        """Deliver what there is and what comes, until the receiver is gone for good."""
        while not self.is_stopped:
            try:
                if not self._is_loaded:
                    await self._load()
                page = await self._next_page()
                await self._deliver(page)
                if len(page) < PAGE and not self.is_stopped:  # or each record would cost a request and a commit
                    await self._clock.sleep(POLL_S)
            except StoreError:  # the store says so itself, and comes back
                await self._clock.sleep(RETRY_STORE_S)

    async def close(self) -> None:
        """Save where it stands, and let go of the receiver."""
        if self._is_loaded and self._is_whole:  # so that years of silence after this are no loss
            self._place = Place(max(self._looked_until, self._place.seq), 0.0, self._place.delivered)
        if self._is_loaded:
            with contextlib.suppress(StoreError, TimeoutError):
                async with asyncio.timeout(RETRY_STORE_S):
                    await self._save()
        await self._receiver.close()

    # -- reading ------------------------------------------------------------------------------------------------------

    async def _load(self) -> None:
        """Take up where it was; who has never been anywhere begins at now."""
        name = NOTES + self.name
        kept = (await self._store().load_notes(name)).get(name)
        try:
            self._place = msgspec.json.decode(kept, type=Place) if kept is not None else Place(-1)
        except msgspec.MsgspecError:
            self._note("error", "outbox begins anew: its cursor is damaged", outbox=self.name)
            self._place = Place(-1)
        if self._place.seq < 0:
            self._place = Place(self._source.record_horizon)
            self._is_whole = True
            await self._save()
        self._is_loaded = True

    async def _next_page(self) -> tuple[Record, ...]:
        while True:
            horizon = self._source.record_horizon
            if horizon > self._looked_until:
                page = await self._read()
                if page:
                    return page
                self._looked_until, self._is_whole = horizon, True
            await self._clock.sleep(POLL_S)

    async def _read(self) -> tuple[Record, ...]:
        """Read a page, and see whether it follows upon what was delivered last.

        Records are forgotten oldest first. As long as the last one delivered is there, all that came after it is.
        """
        place = self._place
        if self._is_whole or not place.at:
            page = await self._source.records(place.seq, PAGE)
        else:
            page = await self._source.records(place.seq - 1, PAGE + 1)
            if page and page[0].seq == place.seq:
                page = page[1:]
            elif page:
                self._tell_loss(place, page[0])
        if page:
            self._is_whole = False
            self._oldest_at = self._oldest_at or page[0].at
        else:
            self._oldest_at = 0.0
        return page

    def _tell_loss(self, place: Place, first: Record) -> None:
        self.losses += 1
        after, before = words.iso_utc(place.at), words.iso_utc(first.at)
        self._last_loss = f"records after {after} and before {before} were forgotten before they were delivered"
        self._note(
            "error", "outbox lost records", outbox=self.name, after=after, before=before,
            cure="the receiver was away for longer than records.keep; raise that, or mend the receiver",
        )  # fmt: skip

    # -- delivering ---------------------------------------------------------------------------------------------------

    async def _deliver(self, page: tuple[Record, ...]) -> None:
        left = [each for each in page if not self._kinds or each.kind.value in self._kinds]
        pause_s = self._first_pause_s
        while left:
            self._oldest_at = left[0].at
            try:
                count = await self._receiver.deliver(left)
            except Undelivered as failure:
                self._failed(failure, pause_s)
                if self.is_stopped:
                    return
                await self._clock.sleep(self._next_try_at - self._clock.wall())
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            pause_s = self._first_pause_s
            self._succeeded(left[count - 1], count)
            left = left[count:]
            if left:
                await self._save()
        last = page[-1]
        self._place = Place(last.seq, last.at, self._place.delivered)
        self._oldest_at = 0.0
        if self._place.delivered != self._saved.delivered or self._place.seq > self._saved.seq + SKIPPED:
            await self._save()

    def _succeeded(self, last: Record, count: int) -> None:
        self.delivered += count
        self._place = Place(last.seq, last.at, self._place.delivered + count)
        if self._failing_since:
            since = words.iso_utc(self._failing_since)
            self._note("info", "outbox delivers again", outbox=self.name, failed_since=since)
        self._failing_since = self._told_at = self._next_try_at = 0.0
        self._last_error = ""

    def _failed(self, failure: Undelivered, pause_s: float) -> None:
        now = self._clock.wall()
        self.failures += 1
        self._last_error = str(failure)
        self._failing_since = self._failing_since or now
        if failure.is_gone:
            self.is_stopped = True
            self._next_try_at = 0.0
            self._note(
                "error", "outbox stopped", outbox=self.name, why=self._last_error,
                cure="take the receiver out of the configuration, or restart smarthost when it is back",
            )  # fmt: skip
            return
        jitter = 1.0 + JITTER * random.random()  # noqa: S311 - spreads load, guards nothing
        self._next_try_at = now + min(max(pause_s * jitter, failure.retry_after_s), LONGEST_PAUSE_S)
        if now - self._told_at >= TOLD_S:
            self._told_at = now
            self._note("warning", "outbox does not deliver", outbox=self.name, why=self._last_error)

    async def _save(self) -> None:
        place = msgspec.structs.replace(self._place, saved_at=self._clock.wall())
        await self._store().save_notes({NOTES + self.name: msgspec.json.encode(place)})
        self._saved = place
