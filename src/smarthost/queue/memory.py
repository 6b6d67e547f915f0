# SPDX-License-Identifier: MIT
"""The reference Store: the contract of queue.store in plain Python, for tests, simulation and embedding.

Nothing survives the process. With a `commit_delay_s` a change happens, and its awaitable resolves, that much later on
the Clock given, in the order enqueued; `crash` then gives what a machine would find after losing power now: a store
with what was committed, without leases, while whoever waits on the old one waits for ever. testing.stores proves it.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeVar

from msgspec.structs import replace

from smarthost.mail.content import Content, InlineContent
from smarthost.mail.errors import StoreError, StoreFull
from smarthost.mail.identity import decode_id
from smarthost.mail.lease import LEASE_RECIPIENTS, Lease, LeasedRecipient
from smarthost.mail.message import Message
from smarthost.mail.record import Record
from smarthost.mail.settlement import OwedReport, SettledRecipient, Settlement, State
from smarthost.ports import Clock
from smarthost.queue.audit import Bounds, SuspectPage
from smarthost.queue.commit import Commit, CommitLine
from smarthost.queue.leases import Leases, Wish, cut_lease, fresh_leases
from smarthost.queue.store import Changed, DueDomain, DueScan, Filter, Page, StoredMessage, Tally
from smarthost.queue.tables import OPEN_STATES, Tables
from smarthost.queue.tallies import Tallies
from smarthost.queue.verbs import (
    Numbers,
    amend,
    check_verb,
    fulfil_all,
    is_about,
    is_changed_by,
    read_cursor,
    write_cursor,
)

PAGE = 1_000
REPORT_LEASE_S = 300.0  # a report whose writer never came back is given out again
REPORT_PATIENCE_S = 60.0  # queue.store.Store.lease_report
END_OF_NUMBERS = (1 << 63) - 1

T = TypeVar("T")


class MemoryStore:
    """Implements queue.store.Store. `capacity_octets` may be changed at any time: contents beyond it are refused."""

    def __init__(self, clock: Clock | None = None, commit_delay_s: float = 0.0) -> None:
        self.capacity_octets = float("inf")
        self._clock = clock
        self._delay_s = commit_delay_s
        self._tables = Tables()
        self._leases = Leases()
        self._numbers = Numbers()
        self._reports: dict[str, float] = {}
        self._pending: list[int] = []  # the lowest seqs of what is enqueued and not committed
        self._settling: dict[int, Sequence[Settlement]] = {}  # enqueued and not committed, by identity
        self._commits = CommitLine(clock, commit_delay_s)
        self._is_open = False

    # -- open, close, crash -------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Begin; what an earlier `close` left is still there."""
        if self._commits.is_dead:
            raise StoreError("this store has crashed: open the one that crash() gave")
        self._is_open = True

    async def close(self) -> None:
        """Commit what was enqueued, give all leases back. Harmless when repeated."""
        self._commits.flush()
        self._leases.clear()
        self._reports.clear()
        self._settling.clear()
        self._is_open = False

    def crash(self) -> "MemoryStore":
        """Lose what was not committed; gives the store that a restart finds, to be opened."""
        self._commits.die()
        found = MemoryStore(self._clock, self._delay_s)
        found.capacity_octets = self.capacity_octets
        found._tables = self._tables.copy()
        found._numbers.saw(self._tables.highest)
        return found

    @property
    def refusal(self) -> Exception | None:
        """Why new mail cannot be taken now, or None."""
        if not self._is_open or self._commits.is_dead:
            return StoreError("the store is not open")
        if self._tables.octets >= self.capacity_octets:
            return StoreFull(f"{self._tables.octets} octets are stored, {self.capacity_octets} may be")
        return None

    @property
    def last_number(self) -> int:
        """The highest store key or record seq; for IdSource. After `open`."""
        return self._numbers.last_for_ids()

    def draw_numbers_from(self, source: Callable[[], int]) -> None:
        """Draw the seq of our own records (`change`, wishes) from there: queue.verbs.Numbers says why."""
        self._numbers.source = source

    def _enqueue(self, apply: Callable[[], None], result: T, records: Sequence[Record] = ()) -> Commit[T]:
        if self._is_open:
            if records:
                apply = self._numbered(apply, min([record.seq for record in records]))
            return self._commits.enqueue(apply, result)
        return Commit(self._commits, 0.0, apply, result).fail(StoreError("the store is not open"))

    def _numbered(self, apply: Callable[[], None], seq: int) -> Callable[[], None]:
        """Say what is pending until it is applied; what never is has no reader any more."""

        def applied() -> None:
            self._pending.remove(seq)
            apply()

        self._pending.append(seq)
        return applied

    def lowest_pending(self) -> int | None:
        """Give the lowest seq of the records that were handed over and are not durable yet."""
        return min(self._pending, default=None)

    # -- new mail -----------------------------------------------------------------------------------------------------

    def add(
        self, message: Message, lease: Collection[str], record: Record | None = None
    ) -> Awaitable[tuple[Lease, ...]]:
        """File a message; its recipients in the domains of `lease` are leased to the caller at once."""
        refusal = self.refusal
        if isinstance(refusal, StoreError):
            return Commit[tuple[Lease, ...]](self._commits, 0.0, _nothing, ()).fail(refusal)
        if not isinstance(message.content, InlineContent):
            message = _with_inline_content(message)
        key = decode_id(message.id)[0]
        leased = fresh_leases(message, lease, message.content)
        for part in leased:
            self._leases.take_all(part)
        self._numbers.saw(max(key, 0 if record is None else record.seq))
        return self._enqueue(
            lambda: self._tables.file(key, message, record), leased, () if record is None else (record,)
        )

    def draft(self) -> "MemoryDraft":
        """Begin large content. Raises: StoreFull, StoreError."""
        refusal = self.refusal
        if refusal is not None:
            raise refusal
        return MemoryDraft()

    # -- leases -------------------------------------------------------------------------------------------------------

    async def due(self, now: float, n: int) -> DueScan:
        """Name at most `n` domains with unleased DEFERRED recipients due at or before `now`."""
        self._check_open()
        first: dict[str, float] = {}
        later: list[float] = []
        for _, _, recipient in self._tables.free(self._leases):
            if recipient.due > now:
                later.append(recipient.due)
            else:
                first[recipient.domain] = min(recipient.due, first.get(recipient.domain, recipient.due))
        ordered = sorted(first.items(), key=lambda item: (item[1], item[0]))
        next_at = ordered[n][1] if len(ordered) > n else min(later, default=None)
        return DueScan(tuple([DueDomain(domain, due) for domain, due in ordered[:n]]), next_at)

    async def lease(self, domains: Collection[str], now: float, n: int) -> tuple[Lease, ...]:
        """Lease at most `n` messages' due recipients in these domains, earliest due first; fewer: there are no more."""
        self._check_open()
        found: dict[int, list[SettledRecipient]] = {}
        for key, _, recipient in self._tables.free(self._leases):
            if recipient.due <= now and recipient.domain in domains:
                found.setdefault(key, []).append(recipient)
        earliest = {key: min([recipient.due for recipient in recipients]) for key, recipients in found.items()}
        leases: list[Lease] = []
        for key in sorted(found, key=lambda key: (earliest[key], key)):
            leases += self._cut(self._tables.messages[key].message, found[key])[: n - len(leases)]
            if len(leases) == n:
                break
        return self._take(leases)

    async def sweep(self, received_before: float, n: int) -> tuple[Lease, ...]:
        """Lease all recipients (whatever their due time, held ones not) of at most `n` messages older than that."""
        return self._sweep(received_before, n, lambda recipient: True)

    async def sweep_delayed(self, received_before: float, n: int) -> tuple[Lease, ...]:
        """Lease the DEFERRED recipients of at most `n` messages older than that whose delay was not told."""
        return self._sweep(received_before, n, lambda recipient: not recipient.is_delay_told)

    def _sweep(
        self, received_before: float, n: int, is_wanted: Callable[[SettledRecipient], bool]
    ) -> tuple[Lease, ...]:
        self._check_open()
        found: dict[int, list[SettledRecipient]] = {}
        for key, stored, recipient in self._tables.free(self._leases):
            if stored.message.received_at < received_before and is_wanted(recipient):
                found.setdefault(key, []).append(recipient)
        oldest = sorted(found, key=lambda key: (self._tables.messages[key].message.received_at, key))[:n]
        return self._take(
            [lease for key in oldest for lease in self._cut(self._tables.messages[key].message, found[key])]
        )

    async def sweep_held(self, now: float, n: int) -> tuple[Lease, ...]:
        """Lease the HELD recipients of at most `n` messages whose hold ends at or before `now`."""
        self._check_open()
        found: list[Lease] = []
        for stored, recipients in self._tables.movable(self._leases, -1):
            over = [each for each in recipients if each.state is State.HELD and each.due <= now]
            if over and len(found) < n:
                found.append(cut_lease(stored.message, None, map(_to_leased, over)))
        return self._take(found)

    async def lease_all(self, cursor: str | None, n: int) -> tuple[tuple[Lease, ...], str | None]:
        """Lease all DEFERRED and HELD recipients of at most `n` messages behind `cursor`, whatever their due time."""
        self._check_open()
        (after,) = read_cursor(cursor, 1)
        found: list[Lease] = []
        for stored, recipients in self._tables.movable(self._leases, after):
            if len(found) == n:
                return self._take(found), write_cursor(decode_id(found[-1].id)[0])
            if recipients:
                found.append(cut_lease(stored.message, None, map(_to_leased, recipients)))
        return self._take(found), None

    def _cut(self, message: Message, recipients: Sequence[SettledRecipient]) -> list[Lease]:
        leased = list(map(_to_leased, recipients))
        return [
            cut_lease(message, None, leased[start : start + LEASE_RECIPIENTS])
            for start in range(0, len(leased), LEASE_RECIPIENTS)
        ]

    def _take(self, leases: Iterable[Lease]) -> tuple[Lease, ...]:
        taken = tuple(leases)
        for lease in taken:
            self._leases.take_all(lease)
        return taken

    def give_back(self, lease: Lease) -> None:
        """End a lease without any change, except for a wish said meanwhile."""
        for recipient in lease.recipients:
            self._end(lease.id, lease.reverse_path, recipient.n)

    def _end(self, id: str, reverse_path: str, n: int) -> None:
        wish = self._leases.end(id, n)
        stored = self._tables.messages.get(decode_id(id)[0])
        if wish is None or stored is None or n not in stored.recipients:
            return
        amended = amend(id, reverse_path, stored.recipients[n], wish, self._numbers)
        if amended is not None:
            self._leases.take(id, decode_id(id)[0], n, amended[0].domain)
            self.settle([Settlement(id, (amended[0],), (amended[1],))])

    # -- settlements --------------------------------------------------------------------------------------------------

    def settle(self, settlements: Sequence[Settlement]) -> Awaitable[None]:
        """Commit settlements with their records and end their leases; enqueues before it returns."""
        settlements = [fulfil_all(settlement, self._leases) for settlement in settlements]
        for settlement in settlements:
            for record in settlement.records:
                self._numbers.saw(record.seq)
        self._settling[id(settlements)] = settlements
        records = [record for settlement in settlements for record in settlement.records]
        committing = self._enqueue(lambda: self._settle_all(settlements), None, records)
        if committing.is_failed:
            del self._settling[id(settlements)]
        return committing

    def _settle_all(self, settlements: Sequence[Settlement]) -> None:
        del self._settling[id(settlements)]
        for settlement in settlements:
            self._tables.settle(decode_id(settlement.id)[0], settlement)
        for settlement in settlements:
            for settled, record in zip(settlement.recipients, settlement.records, strict=True):
                self._end(settlement.id, record.reverse_path, settled.n)

    # -- what an auditor asks -----------------------------------------------------------------------------------------

    def leased(self) -> Iterable[tuple[str, int]]:
        """Give (message id, recipient number) of every lease there is at this moment."""
        return tuple(self._leases.each())

    def in_hand(self) -> Iterable[tuple[str, int]]:
        """Give those of them whose settlement is on its way."""
        under_way = [each for settlements in self._settling.values() for each in settlements]
        return tuple([(each.id, settled.n) for each in under_way for settled in each.recipients])

    async def recall(self, id: str, n: int) -> Lease | None:
        """Give the lease of a DEFERRED recipient as `sweep_delayed` would, though it is leased; changes nothing."""
        self._check_open()
        stored = self._tables.messages.get(_key_or_none(id))
        recipient = stored.recipients.get(n) if stored is not None and stored.message.id == id else None
        if stored is None or recipient is None or recipient.state is not State.DEFERRED:
            return None
        return self._cut(stored.message, [recipient])[0]

    async def suspects(self, bounds: Bounds, cursor: str | None, n: int) -> SuspectPage:
        """Look at the next `n` (up to 1,000) recipients, and give those that queue.audit.is_suspect means."""
        self._check_open()
        found, checked, last = self._tables.suspects(bounds, read_cursor(cursor, 2), min(n, PAGE), self._leases)
        return SuspectPage(found, checked, None if last is None else write_cursor(*last))

    async def content(self, id: str) -> Content:
        """Give the content of a message, without the prefix. Raises: StoreError when it cannot be read."""
        self._check_open()
        stored = self._tables.messages.get(_key_or_none(id))
        if stored is None or stored.message.id != id:
            raise StoreError(f"message {id} is not in the queue")
        return stored.message.content

    # -- operators ----------------------------------------------------------------------------------------------------

    async def find(self, which: Filter, cursor: str | None, n: int) -> Page:
        """Give at most `n` messages (up to 1,000) with matching recipients, oldest first."""
        self._check_open()
        found: dict[int, list[SettledRecipient]] = {}
        for key, _, recipient in self._tables.matches(which, read_cursor(cursor, 2)):
            if key not in found and len(found) == min(n, PAGE):
                return Page(self._view(found), write_cursor(max(found), END_OF_NUMBERS))
            found.setdefault(key, []).append(recipient)
        return Page(self._view(found), None)

    def _view(self, found: dict[int, list[SettledRecipient]]) -> tuple[StoredMessage, ...]:
        return tuple([self._tables.messages[key].view(each, self._leases) for key, each in found.items()])

    async def change(
        self, which: Filter, wish: Wish, cursor: str | None, n: int, *, is_dry_run: bool = False
    ) -> Changed:
        """Apply a verb to at most `n` (up to 1,000) recipients after `cursor`; with records."""
        check_verb(wish.verb)
        self._check_open()
        settlements: list[Settlement] = []
        changeable: list[tuple[str, int]] = []
        wished: list[tuple[str, int]] = []
        last: tuple[int, int] | None = None
        matches = self._tables.matches(which, read_cursor(cursor, 2))
        unfinished = [match for match in matches if match[2].state in OPEN_STATES]
        for count, (key, stored, recipient) in enumerate(unfinished):
            if count == min(n, PAGE):
                break
            last = key, recipient.n
            id = stored.message.id
            if self._leases.is_leased(id, recipient.n):
                wished.append((id, recipient.n))
                if not is_dry_run:
                    self._leases.wish(id, recipient.n, wish)
                continue
            if is_changed_by(wish.verb, recipient):
                changeable.append((id, recipient.n))
            if is_dry_run:
                continue
            amended = amend(id, stored.message.envelope.reverse_path, recipient, wish, self._numbers)
            if amended is not None:
                settlements.append(Settlement(id, (amended[0],), (amended[1],)))
                self._leases.take(id, key, recipient.n, recipient.domain)
        else:
            last = None
        await self.settle(settlements)
        return Changed(tuple(changeable), tuple(wished), None if last is None else write_cursor(*last))

    # -- what awaits a host -------------------------------------------------------------------------------------------

    async def awaiting(self, now: float, n: int) -> tuple[str, ...]:
        """Name at most `n` domains that have DEFERRED recipients which await a host and are due later than `now`."""
        self._check_open()
        return tuple(sorted({recipient.domain for _, recipient in self._tables.awaiting(now)})[:n])

    async def release(self, domains: Collection[str], now: float) -> int:
        """Make what awaits a host in these domains (at most 1,000) due at `now`; gives how many recipients."""
        released: list[int] = []
        await self._enqueue(lambda: released.append(self._tables.release(domains, now)), None)
        return released[0]

    # -- reports ------------------------------------------------------------------------------------------------------

    async def lease_report(self, now: float) -> OwedReport | None:
        """Lease one owed report: no recipient of its message is leased, or the oldest debt is over 60 s old."""
        self._check_open()
        for owed_at, key in self._tables.debts():
            stored = self._tables.messages[key]
            id = stored.message.id
            if now - self._reports.get(id, float("-inf")) <= REPORT_LEASE_S:
                continue
            if not self._leases.is_message_leased(id) or now - owed_at > REPORT_PATIENCE_S:
                self._reports[id] = now
                return stored.to_report()
        return None

    def file_report(self, owed: OwedReport, report: Message | None, records: Sequence[Record]) -> Awaitable[None]:
        """File `report` as a message of its own (None: nobody is to be told) and clear the debt, in one transaction."""
        filed = (decode_id(report.id)[0], report) if report is not None else None
        if filed is not None:
            self._numbers.saw(filed[0])
        for record in records:
            self._numbers.saw(record.seq)
        return self._enqueue(lambda: self._pay(owed, filed, records), None, records)

    def _pay(self, owed: OwedReport, report: tuple[int, Message] | None, records: Sequence[Record]) -> None:
        self._reports.pop(owed.id, None)
        self._tables.pay(decode_id(owed.id)[0], owed, report, records)

    # -- the rest -----------------------------------------------------------------------------------------------------

    async def records(self, after: int, n: int) -> tuple[Record, ...]:
        """Give at most `n` records with seq above `after`, in order."""
        self._check_open()
        return tuple([record for seq, record in sorted(self._tables.records.items()) if seq > after][:n])

    async def history(self, id: str, n: int) -> tuple[Record, ...]:
        """Give the newest `n` records (up to 1,000) of a message, whether it is still there or not, oldest first."""
        self._check_open()
        return tuple([record for _, record in sorted(self._tables.records.items()) if record.id == id][-min(n, PAGE) :])

    async def accepted_for(self, text: str, n: int) -> tuple[Record, ...]:
        """Give the newest `n` acceptances of messages to this address, or with this Message-ID, newest first."""
        self._check_open()
        found = [record for record in self._tables.records.values() if is_about(record, text)]
        return tuple(sorted(found, key=lambda record: (record.at, record.seq), reverse=True)[:n])

    async def remembers_all(self) -> bool:
        """Does `accepted_for` know of all that is queued? Nothing is ever forgotten here."""
        self._check_open()
        return True

    async def tally(self, cursor: str | None, now: float) -> Tally:
        """Count the unfinished recipients by name, in one part."""
        self._check_open()
        tallies = Tallies(now)
        for _, stored, each in self._tables.matches(Filter(), read_cursor(cursor, 2)):
            if each.state in OPEN_STATES:
                message = stored.message
                tallies.count(
                    each.domain, message.sender, each.last_reply or each.why, each.state, each.due,
                    message.received_at, message.id,
                )  # fmt: skip
        return tallies.give(None)

    async def count(self) -> tuple[int, int]:
        """Give (messages, unfinished recipients) in the store."""
        self._check_open()
        return len(self._tables.messages), self._tables.count_unfinished()

    async def load_notes(self, prefix: str) -> dict[str, bytes]:
        """Read the small named values (host health and the like) whose names begin with `prefix`."""
        self._check_open()
        return {name: value for name, value in sorted(self._tables.notes.items()) if name.startswith(prefix)}

    def save_notes(self, notes: Mapping[str, bytes], records: Sequence[Record] = ()) -> Awaitable[None]:
        """Write small named values (an empty one removes the name), and records of no message, in one transaction."""
        notes = dict(notes)  # whoever gave them may change them before the commit
        for record in records:
            self._numbers.saw(record.seq)
        return self._enqueue(lambda: self._tables.save_notes(notes, records), None, records)

    def _check_open(self) -> None:
        if not self._is_open or self._commits.is_dead:
            raise StoreError("the store is not open")


class MemoryDraft:
    """Content being received."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, octets: bytes) -> None:
        """Append."""
        self._pieces.append(octets)

    def finish(self) -> Content:
        """End it and give the content to put into a Message."""
        return InlineContent(b"".join(self._pieces))

    def discard(self) -> None:
        """Forget it; harmless when repeated."""
        self._pieces.clear()


def _to_leased(recipient: SettledRecipient) -> LeasedRecipient:
    return LeasedRecipient(
        recipient.n,
        recipient.address,
        recipient.domain,
        recipient.attempts,
        recipient.last_reply,
        recipient.status,
        recipient.notify,
        recipient.orcpt,
        recipient.is_delay_told,
        recipient.due,
        recipient.awaits_host,
        recipient.why,
        recipient.host,
        recipient.state is State.HELD,
    )


def _with_inline_content(message: Message) -> Message:
    return replace(message, content=InlineContent(b"".join(message.content.chunks())))


def _key_or_none(id: str) -> int:
    try:
        return decode_id(id)[0]
    except ValueError:
        return -1


def _nothing() -> None:
    pass
