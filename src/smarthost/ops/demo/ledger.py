# SPDX-License-Identifier: MIT
"""What is seen of the relay while the demo runs: a Sink that keeps the records, counts, and tells what is notable.

Times are seconds since the demo began, as this process saw them. Judges nothing.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping

from msgspec import Struct

from smarthost.mail.record import TERMINAL_KINDS, Kind, Record
from smarthost.ops.demo.scenery import HOME


class Fate(Struct):
    """One recipient of one message: every record of it, when it was accepted and when it ended (None: not yet)."""

    recipient: str
    accepted_s: float
    records: list[Record]
    ended_s: float | None = None

    @property
    def last(self) -> Record:
        return self.records[-1]


class Tally(Struct):
    """How the recipients of one domain stand; `next_at` is when the earliest of those that wait is tried (wall)."""

    accepted: int = 0
    relayed: int = 0
    waiting: int = 0
    bounced: int = 0
    next_at: float = 0.0

    @property
    def ended(self) -> int:
        return self.relayed + self.bounced


class News(Struct, frozen=True):
    """Something notable, in a sentence; `kind`: of the record that shows it, if its end is what is told."""

    at_s: float
    sentence: str
    kind: Kind | None = None


class Ledger:
    """A ports.Sink. `elapsed` gives the seconds since the beginning.

    `news` waits to be taken: whoever prints may wait or fail, which a Sink may not.
    """

    def __init__(self, elapsed: Callable[[], float]) -> None:
        self._elapsed = elapsed
        self._told: set[object] = set()
        self.fates: dict[tuple[str, str], Fate] = {}  # by id and recipient
        self.reported: Counter[tuple[str, str]] = Counter()
        self.troubles: list[str] = []
        self.news: deque[News] = deque()

    def record(self, record: Record) -> None:
        """See ports.Sink; what befalls hosts is told by what befalls their mail."""
        if not record.id:
            return
        for recipient in record.recipients or (record.recipient,):  # an acceptance is one record for all
            self._befall(record, recipient)

    def _befall(self, record: Record, recipient: str) -> None:
        key = (record.id, recipient)
        if record.kind is Kind.REPORTED:
            self.reported[key] += 1
            return
        fate = self.fates.get(key)
        if fate is None:  # its first record says how old it is
            age_s = record.queued_s + record.connect_s + record.handshake_s + record.transfer_s
            fate = self.fates[key] = Fate(recipient, self._elapsed() - age_s, [])
        fate.records.append(record)
        if record.kind in TERMINAL_KINDS:
            fate.ended_s = self._elapsed()
        self._tell_first(fate, record)

    def note(self, level: str, what: str, **facts: object) -> None:
        """See ports.Sink; the demo's world gives the relay no reason to complain."""
        if level != "info":
            self.troubles.append(f"the relay notes: {what} {facts or ''}".rstrip())

    def of(self, domain: str) -> list[Fate]:
        """Give the recipients in a domain, in the order of their first records."""
        return [fate for fate in self.fates.values() if fate.recipient.endswith(f"@{domain}")]

    def tallies(self) -> Mapping[str, Tally]:
        """Count how the recipients of each domain stand now."""
        tallies: dict[str, Tally] = {}
        for fate in self.fates.values():
            tally = tallies.setdefault(_domain(fate.recipient), Tally())
            tally.accepted += 1
            match fate.last.kind:
                case Kind.RELAYED:
                    tally.relayed += 1
                case Kind.DEFERRED | Kind.POSTPONED:
                    tally.waiting += 1
                    tally.next_at = min(tally.next_at or fate.last.next_attempt_at, fate.last.next_attempt_at)
                case Kind.BOUNCED | Kind.EXPIRED | Kind.CANCELLED:
                    tally.bounced += 1
                case _:
                    pass
        return tallies

    def is_over(self, recipients: int) -> bool:
        """Have at least so many recipients been accepted, and have all that are known ended?"""
        return len(self.fates) >= recipients and all(fate.ended_s is not None for fate in self.fates.values())

    def tell(self, sentence: str, kind: Kind | None = None) -> None:
        """Add to the news."""
        self.news.append(News(self._elapsed(), sentence, kind))

    # What is worth telling: the first of each sort

    def _tell_first(self, fate: Fate, record: Record) -> None:
        for key, sentence in _sentences(fate, record):
            if key not in self._told:
                self._told.add(key)
                self.tell(sentence, record.kind if record.kind in key else None)


def _sentences(fate: Fate, record: Record) -> Iterator[tuple[tuple[object, ...], str]]:
    """Say in a sentence each what a record shows, with a key that is the same for events of a sort."""
    domain = _domain(record.recipient)
    for line in record.walk:
        place, _, why = line.partition(": ")
        if "not dialled" in why:
            yield ("spared", place), f"{place} is remembered as broken: no longer dialled"
        else:
            yield ("dead", place), f"{place}: {why.rpartition(': ')[2]}; {record.host or 'nobody'} takes the mail"
    match record.kind:
        case Kind.DEFERRED | Kind.POSTPONED:
            said = f'{record.host} says "{record.reply}"' if record.reply else record.why
            wait_s = max(0.0, record.next_attempt_at - record.at)
            yield (record.kind, domain, record.attempt), f"{said}: next attempt in {wait_s:.1f} s"
        case Kind.RELAYED if domain == HOME:
            yield (record.kind, domain), f"{record.host} has the first bounce, for {record.recipient}"
        case Kind.RELAYED if record.attempt > 1:
            yield (record.kind, domain), f"{record.host} takes its first message, at attempt {record.attempt}"
        case Kind.RELAYED if not record.walk:
            took_ms = ((fate.ended_s or 0.0) - fate.accepted_s) * 1000
            yield (record.kind, domain), f"{record.host} has its first message, {took_ms:.0f} ms after our 250"
        case Kind.BOUNCED if record.reply:
            yield (record.kind, domain), f'{record.host} refuses {record.recipient}: "{record.reply}"'
        case Kind.BOUNCED:
            yield (record.kind, domain), f"{record.why}: bounced{'' if record.host else ', nobody dialled'}"
        case _:
            pass


def _domain(recipient: str) -> str:
    return recipient.rpartition("@")[2]
