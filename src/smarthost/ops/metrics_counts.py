# SPDX-License-Identifier: MIT
"""Counts records and notes on their way to another Sink; below 1 us a record, in memory that does not grow.

A Sink in front of a Sink. Names that strangers choose (domains, addresses, replies) never become a label: the only
labels are kinds, the first two figures of a status (RFC 3463), doors, levels and phrases of ours. A restart begins
anew: Prometheus takes that for what it is.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import repeat
from operator import attrgetter

from smarthost.mail.record import Kind, Record
from smarthost.ports import Sink

# Upper bounds in seconds. A queue is left within milliseconds, or after days; a connection is made within five minutes.
QUEUE_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 43200.0, 172800.0)
STEP_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
OTHER = "other"
NO_STATUS = "none"
# RFC 3463 2: a class (2, 4 or 5) and a subject (0 to 7); a status is a peer's word: whatever else it says is "other"
_REASONS = {f"{first}.{second}.": f"{first}.{second}" for first in "245" for second in range(8)}
ENTRIES = ("local", "user", "network")
REFUSALS = (
    "sender refused",
    "recipient refused",
    "content refused",
    "client hung up upon",
    "connection dropped",
    "too many connections",
    "too many errors",
    "TLS handshake failed",
)
LOGINS = (
    "login failed",
    "too many logins at once",
    "too many failed logins of a user",
    "too many failed logins from a network",
)
LEVELS = ("info", "warning", "error")
_DOORS = frozenset((*REFUSALS, *LOGINS))
TOGETHER = 256  # records that wait to be counted
_status, _tls, _octets, _is_ambiguous = map(attrgetter, ("status", "tls", "octets", "ambiguous"))
_queued_s, _transfer_s = attrgetter("queued_s"), attrgetter("transfer_s")
_connect_s, _handshake_s = attrgetter("connect_s"), attrgetter("handshake_s")
_TLS_TEXTS = 500  # ours and OpenSSL's words; beyond it something is wrong, and they are "other"


class Histogram:
    """How often what lasted how long: a count for each bound, one beyond, and the sum."""

    __slots__ = ("bounds", "counts", "sum_s")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum_s = 0.0

    def add(self, seconds: Iterable[float]) -> None:
        """Count some."""
        lasted = tuple(seconds)
        self.sum_s += sum(lasted)
        for place, count in Counter(map(bisect_left, repeat(self.bounds), lasted)).items():
            self.counts[place] += count


class Counts:
    """The figures of one process. One event loop; never blocks, never raises."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._next = sink.record
        self._waiting: list[Record] = []
        self.kinds: dict[str, dict[str, int]] = {kind.value: {} for kind in Kind}  # kind -> reason -> how many
        self.accepted = dict.fromkeys(ENTRIES, 0)
        self.accepted_recipients = dict.fromkeys(ENTRIES, 0)
        self.accepted_octets = 0
        self.relayed_octets = 0
        self.ambiguous = 0
        self.tls: dict[str, int] = {}  # describe_tls -> recipients relayed
        self.refusals = dict.fromkeys((*REFUSALS, *LOGINS), 0)
        self.notes = dict.fromkeys(LEVELS, 0)
        self.queue = Histogram(QUEUE_BOUNDS)
        self.connect = Histogram(STEP_BOUNDS)
        self.handshake = Histogram(STEP_BOUNDS)
        self.transfer = Histogram(STEP_BOUNDS)

    def record(self, record: Record) -> None:
        """Hand a record on; it is counted with others, in one go."""
        self._waiting.append(record)
        if len(self._waiting) >= TOGETHER:
            self.fold()
        self._next(record)

    def note(self, level: str, what: str, **facts: object) -> None:
        """Count a note and hand it on."""
        if level in self.notes:
            self.notes[level] += 1
        if what in _DOORS:
            self.refusals[what] += 1
        self._sink.note(level, what, **facts)

    def fold(self) -> None:
        """Count what is waiting; before the figures are read. Whole columns at a time, in C: half of what rows cost."""
        waiting, self._waiting = self._waiting, []
        columns: dict[Kind, list[Record]] = {}
        for record in waiting:
            try:
                columns[record.kind].append(record)
            except KeyError:
                columns[record.kind] = [record]
        for kind, records in columns.items():
            reasons = self.kinds[kind.value]
            for status, count in Counter(map(_status, records)).items():
                reason = _REASONS.get(status[:4], OTHER) if status else NO_STATUS
                reasons[reason] = reasons.get(reason, 0) + count
        self.ambiguous += sum(map(_is_ambiguous, waiting))
        if relayed := columns.get(Kind.RELAYED):
            self._relay(relayed)
        for record in columns.get(Kind.ACCEPTED, ()):
            self._accept(record)

    def _relay(self, records: Sequence[Record]) -> None:
        self.queue.add(map(_queued_s, records))
        self.transfer.add(map(_transfer_s, records))
        self.connect.add(filter(None, map(_connect_s, records)))  # a session that is used again has none
        self.handshake.add(filter(None, map(_handshake_s, records)))
        self.relayed_octets += sum(map(_octets, records))
        for said, count in Counter(map(_tls, records)).items():
            known = said if said in self.tls or len(self.tls) < _TLS_TEXTS else OTHER
            self.tls[known] = self.tls.get(known, 0) + count

    def _accept(self, record: Record) -> None:
        entry = "user" if record.user else "local" if record.client == "local" else "network"
        self.accepted[entry] += 1
        self.accepted_recipients[entry] += len(record.recipients) or 1
        self.accepted_octets += record.octets
