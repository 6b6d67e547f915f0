# SPDX-License-Identifier: MIT
"""Whether mail moves: a pause lasts until somebody ends it, over restarts too, and a restored backup begins with one.

Two notes in the store say so (PAUSE, mail.backup.NOTE); while it cannot be asked, nothing moves either, since what a
backup holds may have been delivered since. Joins store and journey, decides nothing else. A crash leaves the notes as
they were before the step or after it.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

import msgspec
from msgspec import Struct

from smarthost.mail.backup import NOTE, BackupNote
from smarthost.mail.errors import StoreError
from smarthost.ports import Clock, Sink
from smarthost.queue.store import Store

PAUSE = "pause"
REMIND_S = 3600.0
LOOK_AGAIN_S = 5.0  # while the store does not say whether there is a pause
CURE = "smarthost resume"
CURE_OF_A_COPY = "smarthost queue list, smarthost queue cancel for what was delivered since, then smarthost resume"


class PauseNote(Struct, frozen=True, gc=False):
    """Since when (wall seconds) and why nothing is delivered."""

    since: float
    why: str = ""


async def _nothing_further() -> None: ...


class PausingTerms(Struct, frozen=True):
    """The parts that are joined here; three are the journey's.

    `load_further` takes up what else an operator has held back; without it nothing moves either. Raises: StoreError.
    """

    store: Store
    clock: Clock
    sink: Sink
    is_paused: Callable[[], bool]
    pause: Callable[[], None]
    end_pause: Callable[[], None]
    load_further: Callable[[], Awaitable[None]] = _nothing_further


Note = TypeVar("Note", PauseNote, BackupNote)


class Pausing:
    """`load` before mail moves, `watch_for_ever` as long as it may."""

    def __init__(self, terms: PausingTerms) -> None:
        self._terms = terms
        self._copy: BackupNote | None = None  # what this store was restored from
        self._pause: PauseNote | None = None
        self._is_unknown = False

    @property
    def is_paused(self) -> bool:
        """Is nothing delivered, expired or reported now?"""
        return self._terms.is_paused()

    async def load(self, why: str = "") -> None:
        """Begin with a pause if the last life ended in one, or the store is a restored backup, or `why` is given."""
        await self._look()
        if why and self._pause is None and not self._is_unknown:
            try:
                await self._begin(why)
            except StoreError as failure:
                self._terms.sink.note("error", "pause not saved: a restart would end it", why=str(failure))
            self._tell()

    async def pause(self, why: str = "an operator paused it") -> None:
        """Let nothing new begin from now on; when this returns, a restart changes nothing about it.

        Raises: StoreError: it is paused, but that may not survive a restart.
        """
        if self._pause is None:
            await self._begin(why)
            self._tell()

    async def resume(self) -> tuple[int, int]:
        """Let mail move again, once that is durable; gives (messages, unfinished recipients). Raises: StoreError."""
        terms = self._terms
        counts = await terms.store.count()
        await terms.store.save_notes({PAUSE: b"", NOTE: b""})
        was_paused = self.is_paused
        self._pause, self._copy, self._is_unknown = None, None, False
        terms.end_pause()
        if was_paused:
            terms.sink.note("info", "resumed", messages=counts[0], recipients=counts[1])
        return counts

    async def watch_for_ever(self) -> None:
        """Remind of a pause each hour; ask the store again while it did not answer."""
        while True:
            await self._terms.clock.sleep(LOOK_AGAIN_S if self._is_unknown else REMIND_S)
            if self._is_unknown:
                await self._look()
            elif self.is_paused:
                self._tell()

    async def _begin(self, why: str) -> None:
        terms = self._terms
        terms.pause()
        self._pause = PauseNote(terms.clock.wall(), why)
        await terms.store.save_notes({PAUSE: msgspec.json.encode(self._pause)})

    async def _look(self) -> None:
        terms = self._terms
        try:
            copy = (await terms.store.load_notes(NOTE)).get(NOTE, b"")
            pause = (await terms.store.load_notes(PAUSE)).get(PAUSE, b"")
            await terms.load_further()
        except StoreError as failure:
            self._is_unknown = True
            terms.pause()
            terms.sink.note("error", "paused until the store says whether there is a pause", why=str(failure))
            return
        self._is_unknown = False
        self._copy = _read(copy, BackupNote, BackupNote(0.0))
        self._pause = _read(pause, PauseNote, PauseNote(0.0, "its note is damaged"))
        if self._copy is None and self._pause is None:
            terms.end_pause()
        else:
            terms.pause()
            self._tell()

    def _tell(self) -> None:
        note = self._terms.sink.note
        if self._copy is not None:
            note(
                "warning",
                "paused: restored from a backup",
                taken_at=_iso(self._copy.at),
                version=self._copy.version,
                messages=self._copy.messages,
                recipients=self._copy.recipients,
                why="so many were unfinished then, and each may have been delivered since",
                cure=CURE_OF_A_COPY,
            )
        elif self._pause is not None:
            note("warning", "paused", since=_iso(self._pause.since), why=self._pause.why, cure=CURE)


def _read(value: bytes, kind: type[Note], damaged: Note) -> Note | None:
    if not value:
        return None
    try:
        return msgspec.json.decode(value, type=kind)
    except msgspec.MsgspecError:
        return damaged


def _iso(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"
