# SPDX-License-Identifier: MIT
"""Hands settlements to the store, and follows each until it is durable: then, and only then, somebody goes on from it.

The store keeps what it could not commit and repeats it by itself, but does not say when that was: it is asked. How
many are on their way is bounded by those who take up work (`until_settled`), not here: what happened must be written.
A crash makes the attempts whose settlement was not durable again.
"""

import asyncio
from collections.abc import Callable

from smarthost.mail.settlement import Settlement
from smarthost.ports import Clock, Deadline, Sink
from smarthost.queue.feed import RETRY_STORE_S
from smarthost.queue.store import Store

UNSETTLED = 1_000  # attempts whose settlement is not durable: 3 KiB each, and a crash makes them again


class Commits:
    """`durable` is told of each settlement, once. One event loop; `wind_down` and `stop` after use."""

    def __init__(self, store: Store, clock: Clock, sink: Sink, durable: Callable[[Settlement], None]) -> None:
        self._store = store
        self._clock = clock
        self._sink = sink
        self._durable = durable
        self._asked: set[asyncio.Future[None]] = set()  # the store has not answered yet
        self._kept: list[Settlement] = []  # what it could not commit yet
        self._kept_watch: Deadline | None = None
        self._bell = asyncio.Event()
        self._is_stopping = False

    @property
    def is_answered(self) -> bool:
        """Is everything durable, or kept by the store to be repeated?"""
        return not self._asked

    @property
    def unsettled(self) -> int:
        """How many settlements are on their way to the disk, or kept to be repeated."""
        return len(self._asked) + len(self._kept)

    @property
    def _are_many(self) -> bool:
        return self.unsettled >= UNSETTLED

    def wind_down(self) -> None:
        """Hold nobody back any more."""
        self._is_stopping = True
        self._bell.set()

    def stop(self) -> None:
        """Follow nothing any more."""
        if self._kept_watch is not None:
            self._kept_watch.cancel()

    def commit(self, settlement: Settlement) -> None:
        """Hand a settlement to the store, which keeps it whatever happens; tell what happened."""
        asked = asyncio.ensure_future(self._store.settle((settlement,)))
        self._asked.add(asked)
        asked.add_done_callback(lambda asked: self._answered(settlement, asked))
        for record in settlement.records:
            self._sink.record(record)

    def _answered(self, settlement: Settlement, asked: asyncio.Future[None]) -> None:
        self._asked.discard(asked)
        if asked.cancelled():
            return
        if (failure := asked.exception()) is None:
            self._has_settled(settlement)
            return
        self._sink.note("error", "settlement waits for the store", why=str(failure))
        if not self._kept:
            self._kept_watch = self._clock.deadline(RETRY_STORE_S, self._look_at_kept)
        self._kept.append(settlement)

    def _look_at_kept(self) -> None:
        in_hand = set(self._store.in_hand())
        kept, self._kept = self._kept, []
        for settlement in kept:
            if any((settlement.id, recipient.n) in in_hand for recipient in settlement.recipients):
                self._kept.append(settlement)
            else:
                self._has_settled(settlement)
        if self._kept and self._kept_watch is not None:
            self._kept_watch.restart(RETRY_STORE_S)

    def _has_settled(self, settlement: Settlement) -> None:
        if not self._are_many:
            self._bell.set()
        self._durable(settlement)

    async def until_settled(self) -> None:
        """Take up no more while the disk hangs or is full: what is not recorded is sent again after a crash."""
        while self._are_many and not self._is_stopping:
            self._bell.clear()
            await self._bell.wait()

    async def until_answered(self, most: int = 0) -> None:
        """If more than `most` are not, wait until all so far are durable, or kept by the store to be repeated.

        A store in trouble holds nobody here for longer than it takes to say so, whatever it keeps.
        """
        if len(self._asked) > most:
            await asyncio.wait(tuple(self._asked))
