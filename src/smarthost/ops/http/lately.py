# SPDX-License-Identifier: MIT
"""What happened lately, for the page: counts of ten seconds each for half an hour, and the last troubles.

Stands before the log as a Sink and hands everything on; 0.3 us a record, bounded memory, forgotten at the end.
"""

from collections import deque
from collections.abc import Callable

from msgspec import Struct

from smarthost.mail.record import TROUBLES, Kind, Record
from smarthost.ports import Sink

SLOT_S = 10
SLOTS = 180  # half an hour
TROUBLES_KEPT = 50
_COUNTED = (Kind.ACCEPTED, Kind.RELAYED, Kind.DEFERRED, Kind.BOUNCED, Kind.EXPIRED)
_PLACES = {kind: place for place, kind in enumerate(_COUNTED)}


class Trouble(Struct, frozen=True):
    """Something that is told as a warning: a record, or a note with its facts as text."""

    at: float
    what: str
    why: str
    id: str = ""
    recipient: str = ""


class Lately:
    """Counts what passes; `wall` gives wall seconds."""

    def __init__(self, sink: Sink, wall: Callable[[], float]) -> None:
        self._sink = sink
        self._wall = wall
        self._slots: deque[tuple[int, list[int]]] = deque(maxlen=SLOTS)
        self._ends_at = 0.0  # of the slot that is open, wall seconds
        self._counts = [0] * len(_COUNTED)
        self.troubles: deque[Trouble] = deque(maxlen=TROUBLES_KEPT)

    def record(self, record: Record) -> None:
        """Count a record and hand it on."""
        kind = record.kind
        # Compared one by one: the hash of an Enum is Python, and costs more than all the rest.
        if kind is Kind.RELAYED:
            place = 1
        elif kind is Kind.ACCEPTED:
            place = 0
        elif kind is Kind.DEFERRED:
            place = 2
        else:
            place = _PLACES.get(kind, -1)
            if kind in TROUBLES:
                self._keep(record)
        if place >= 0:
            if record.at >= self._ends_at:
                self._open(int(record.at) // SLOT_S)
            self._counts[place] += 1
        self._sink.record(record)

    def note(self, level: str, what: str, **facts: object) -> None:
        """Keep what is worse than news, and hand it on."""
        if level in ("warning", "error"):
            why = "; ".join(f"{name} {fact}" for name, fact in facts.items() if name != "trace")
            self.troubles.append(Trouble(self._wall(), what, why[:300]))
        self._sink.note(level, what, **facts)

    def series(self, kind: Kind, now: float) -> list[int]:
        """Give the counts of the last `SLOTS` times ten seconds, oldest first; the newest is not over yet."""
        newest = int(now) // SLOT_S
        place = _PLACES[kind]
        counted = {slot: counts[place] for slot, counts in self._slots}
        return [counted.get(slot, 0) for slot in range(newest - SLOTS + 1, newest + 1)]

    def _open(self, slot: int) -> None:
        self._ends_at = float((slot + 1) * SLOT_S)
        self._counts = [0] * len(_COUNTED)
        self._slots.append((slot, self._counts))

    def _keep(self, record: Record) -> None:
        why = record.reply or record.why or record.address
        what = record.kind.value
        about = record.recipient or record.host or record.address
        self.troubles.append(Trouble(record.at, what, why[:300], record.id, about[:300]))
