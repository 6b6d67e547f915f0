# SPDX-License-Identifier: MIT
"""Isolates damaged entries: holds them, with a record each, so that they are not sent and everything else goes on.

The child's reading thread finds them (reads.py); here they become a transaction. Part of one store, on its event loop.
What is being tried meanwhile keeps its lease: its settlement holds it too, unless it went well. Memory only: after a
start an entry is held already, or found again. An operator is told once.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from smarthost.backends.sqlite import wire
from smarthost.backends.sqlite.items import Isolate, Item
from smarthost.mail.identity import ID_LENGTH, encode_id
from smarthost.mail.record import Kind, Record
from smarthost.mail.settlement import SettledRecipient, Settlement, State
from smarthost.ports import Clock
from smarthost.queue.leases import Leases
from smarthost.queue.verbs import DAMAGED, HOLD_S, Numbers

KNOWN = 10_000  # entries remembered; of more, an operator may be told twice
_UNKNOWN_TAG = "???"


class Isolation:
    """The damaged entries of one store."""

    def __init__(
        self,
        clock: Clock,
        leases: Leases,
        numbers: Numbers,
        submit: Callable[[Item], None],
        on_trouble: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._leases = leases
        self._numbers = numbers
        self._submit = submit
        self._on_trouble = on_trouble
        self._known: dict[tuple[str, int], str] = {}
        self._told: set[tuple[str, int]] = set()

    def found(self, rows: Iterable[wire.DamagedRow]) -> None:
        """Hold these recipients; those of a message that is gone are left out."""
        messages: dict[int, list[wire.DamagedRow]] = {}
        for row in rows:
            if (_id(row), row.n) not in self._known:
                self._known[_id(row), row.n] = DAMAGED + row.why
                messages.setdefault(row.key, []).append(row)
        for each in messages.values():
            self._isolate(each)

    def _isolate(self, rows: Sequence[wire.DamagedRow]) -> None:
        now = self._clock.wall()
        id = _id(rows[0])
        new = [row for row in rows if (id, row.n) not in self._told]
        records = [
            Record(self._numbers.draw(now), Kind.DAMAGED, now, _shown(row), row.address, why=DAMAGED + row.why)
            for row in new
        ]
        taken = [row for row in rows if not self._leases.is_leased(id, row.n)]
        for row in taken:  # so that nobody else is given it until it is held
            self._leases.take(id, row.key, row.n, row.domain)
        future: asyncio.Future[None] = self._loop.create_future()
        future.add_done_callback(lambda done: self._ended(done, id, rows, taken))
        if new:
            self._told.update([(id, row.n) for row in new])
            fate = "held" if rows[0].tag >= 0 else "left out"
            self._on_trouble(f"message {_shown(rows[0])} is damaged: {rows[0].why}; {len(rows)} recipients are {fate}")
        self._submit(Isolate(rows, now + HOLD_S, records, future))
        while len(self._told) > KNOWN:
            self._told.pop()

    def _ended(
        self, done: "asyncio.Future[None]", id: str, rows: Iterable[wire.DamagedRow], taken: Iterable[wire.DamagedRow]
    ) -> None:
        for row in taken:
            self._leases.end(id, row.n)
        if done.cancelled() or done.exception() is not None:
            for row in rows:
                self._known.pop((id, row.n), None)  # to be found again
        while len(self._known) > KNOWN:
            del self._known[next(iter(self._known))]

    def forget(self, pairs: Iterable[tuple[str, int]]) -> None:
        """An operator has it tried again, perhaps after putting something back: it is judged anew."""
        for pair in pairs:
            self._known.pop(pair, None)
            self._told.discard(pair)

    def hold_all(self, settlements: Sequence[Settlement]) -> Sequence[Settlement]:
        """Give the settlements with what is damaged held, where it would be tried again."""
        return [self._hold(each) for each in settlements] if self._known else settlements

    def _hold(self, settlement: Settlement) -> Settlement:
        pairs = [
            self._hold_one(settlement.id, settled, record)
            for settled, record in zip(settlement.recipients, settlement.records, strict=True)
        ]
        return Settlement(settlement.id, tuple([each for each, _ in pairs]), tuple([record for _, record in pairs]))

    def _hold_one(self, id: str, settled: SettledRecipient, record: Record) -> tuple[SettledRecipient, Record]:
        why = self._known.get((id, settled.n))
        if why is None or settled.state is not State.DEFERRED:
            return settled, record
        until = record.at + HOLD_S
        return (
            replace(settled, state=State.HELD, due=until, why=why, report_owed=False, awaits_host=False),
            replace(record, kind=Kind.CHANGED, why=why, next_attempt_at=until),
        )


def _id(row: wire.DamagedRow) -> str:
    """Give the id by which leases know it; without its message the last part of it is not known."""
    return encode_id(row.key, max(row.tag, 0))


def _shown(row: wire.DamagedRow) -> str:
    return _id(row) if row.tag >= 0 else _id(row)[: ID_LENGTH - len(_UNKNOWN_TAG)] + _UNKNOWN_TAG
