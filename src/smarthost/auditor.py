# SPDX-License-Identifier: MIT
"""The auditor: checks the progress invariant of queue.audit all the time, and repairs what is safe to repair.

Two halves. Once a minute the leases, all in memory: what the store has given out and nobody claims in two looks is
taken back by a settlement that changes nothing but says so. And page by page, slowly, what lies in the store. Joins
journey and store; decides nothing about mail. Its memory is bounded, and a crash leaves nothing of it behind.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine

from msgspec import Struct
from msgspec.structs import replace

from smarthost.mail.envelope import Body
from smarthost.mail.errors import StoreError
from smarthost.mail.lease import Lease, LeasedRecipient
from smarthost.mail.record import Kind, Record
from smarthost.mail.settlement import SettledRecipient, Settlement, State
from smarthost.ports import Clock, Sink
from smarthost.queue.audit import AuditFigures, Bounds, Fault, Finding, Suspect, audit, judge_stored
from smarthost.queue.store import Store
from smarthost.relay import Journey

LOOK_S = 60.0
PAGE = 1_000  # recipients read at a time
PAGE_PAUSE_S = 1.0
PAGE_REST = 100.0  # times what a page took: below 1 % of a core, whatever it costs
ROUND_S = 300.0  # a small queue is not read again and again
AGAIN_S = 5.0  # what looks wrong is looked at again; must exceed any change of hands, which takes no time at all
NOTES = 20  # told one by one in a minute, of both halves together; of the others only how many there are
REPAIRS = 1_000  # in a look; each is a read and a commit
TOLD_S = 3600.0  # a violation that lasts is told, and counted, once an hour
REMEMBERED = 10_000  # violations told already, 200 octets each
_Key = tuple[str, int, Fault]


class AuditorTerms(Struct, frozen=True):
    """What the auditor compares, and whom it tells. `next_seq` numbers its records."""

    store: Store
    journey: Journey
    clock: Clock
    sink: Sink
    next_seq: Callable[[], int]


async def check_all(store: Store, journey: Journey) -> tuple[Finding, ...]:
    """Check everything once, as it is now; for small queues, and where nothing may change meanwhile.

    A finding may be a change of hands: who wants to be sure asks again. Raises: StoreError.
    """
    found = list(find_lease_faults(store, journey))
    cursor: str | None = None
    while True:
        bounds = journey.bounds()
        page = await store.suspects(bounds, cursor, PAGE)
        found += find_stored_faults(page.suspects, bounds, journey).values()
        if (cursor := page.cursor) is None:
            return tuple(found)


def find_lease_faults(store: Store, journey: Journey) -> tuple[Finding, ...]:
    """Compare what is leased with who has it, at this moment."""
    return audit(store.leased(), journey.claims(), now=journey.clock.wall())


def find_stored_faults(suspects: Collection[Suspect], bounds: Bounds, journey: Journey) -> dict[Suspect, Finding]:
    """Judge what a page found suspect, by what the journey knows at this moment."""
    found = {}
    for suspect in suspects:
        judged = judge_stored(suspect, bounds, journey.standing)
        if judged is not None:
            found[suspect] = Finding(suspect.id, suspect.n, *judged, suspect.address)
    return found


class Auditor:
    """Both halves, and what they have seen. One event loop; stands beside a journey that runs."""

    def __init__(self, terms: AuditorTerms) -> None:
        self._terms = terms
        self._doubted: frozenset[_Key] = frozenset()  # leases that the last look found wanting
        self._told: dict[_Key, float] = {}  # when, monotonic
        self._nudged: set[_Key] = set()  # the feed was told to look, in this round or the one before
        self._minute_began = terms.clock.monotonic()
        self._notes = self._untold = 0
        self._figures = AuditFigures()
        self._faults: Counter[str] = Counter()

    @property
    def loops(self) -> tuple[Callable[[], Coroutine[None, None, None]], ...]:
        """What is to be run as long as mail moves."""
        return (self.watch_leases, self.walk_store)

    @property
    def figures(self) -> AuditFigures:
        """What was seen so far."""
        return replace(self._figures, findings=dict(sorted(self._faults.items())))

    async def watch_leases(self) -> None:
        """Look at the leases once a minute; ends only by cancellation."""
        while True:
            await self._terms.clock.sleep(LOOK_S)
            self._end_minute()
            try:
                await self._look(self._doubted)
            except StoreError as failure:
                self._complain(failure)

    async def walk_store(self) -> None:
        """Read the whole store again and again, slowly; ends only by cancellation."""
        clock = self._terms.clock
        while True:
            began = clock.monotonic()
            await clock.sleep(PAGE_PAUSE_S)
            try:
                async for _ in self._walk(PAGE_PAUSE_S, PAGE_REST):
                    pass
            except StoreError as failure:
                self._complain(failure)
            await clock.sleep(max(ROUND_S - (clock.monotonic() - began), 0.0))

    async def check(self) -> AsyncGenerator[Finding | None, None]:
        """Check both halves now and give each finding; None from time to time, while there is none.

        Raises: StoreError: the store does not answer.
        """
        doubted = _keys(find_lease_faults(self._terms.store, self._terms.journey))
        if doubted:
            yield None
            await self._terms.clock.sleep(AGAIN_S)
        for finding in await self._look(doubted):
            yield finding
        async for finding_or_none in self._walk(0.0, 1.0):
            yield finding_or_none

    # Leases

    async def _look(self, doubted: frozenset[_Key]) -> list[Finding]:
        """Compare what is leased with who has it; what was doubted and still is so is certain."""
        terms = self._terms
        faults = find_lease_faults(terms.store, terms.journey)
        self._doubted = _keys(faults)
        self._figures = replace(self._figures, looks=self._figures.looks + 1)
        certain = [each for each in faults if (each.id, each.n, each.fault) in doubted]
        return [await self._conclude(each) for each in certain[:REPAIRS]]

    async def _conclude(self, finding: Finding) -> Finding:
        lease = await self._terms.store.recall(finding.id, finding.n)
        if lease is not None:
            finding = replace(finding, recipient=lease.recipients[0].address)
        if finding.fault is Fault.NO_OWNER and self._is_orphan(finding):
            finding = replace(finding, is_repaired=True)
            self._take_back(finding, lease)
        self._tell(finding)
        return finding

    def _is_orphan(self, finding: Finding) -> bool:
        """Look once more at the moment of acting: who takes a lease from its owner delivers twice."""
        faults = find_lease_faults(self._terms.store, self._terms.journey)
        return any((each.id, each.n, each.fault) == (finding.id, finding.n, finding.fault) for each in faults)

    def _take_back(self, finding: Finding, lease: Lease | None) -> None:
        if lease is not None:
            now = self._terms.clock.wall()
            self._terms.journey.commits.commit(_as_it_was(lease, finding.why, now, self._terms.next_seq))
        else:  # nothing that could be due: the lease alone is left
            self._terms.store.give_back(_empty_lease(finding))

    # The store

    async def _walk(self, pause_s: float, rest: float) -> AsyncGenerator[Finding | None, None]:
        """Look at all pages; after each rest for `rest` times what it took, and at least `pause_s`."""
        terms, clock = self._terms, self._terms.clock
        nudged: set[_Key] = set()
        cursor: str | None = None
        while True:
            started = clock.monotonic()
            bounds = terms.journey.bounds()
            page = await terms.store.suspects(bounds, cursor, PAGE)
            faults = find_stored_faults(page.suspects, bounds, terms.journey)
            took_s = clock.monotonic() - started
            self._figures = replace(self._figures, recipients=self._figures.recipients + page.checked)
            if faults:
                for finding in await self._look_again(cursor, faults, nudged):
                    yield finding
            else:
                yield None
            cursor = page.cursor
            if cursor is None:
                break
            await clock.sleep(max(pause_s, rest * took_s))
        self._nudged = nudged
        figures = self._figures
        self._figures = replace(figures, rounds=figures.rounds + 1, ended_at=clock.wall())

    async def _look_again(self, cursor: str | None, faults: dict[Suspect, Finding], nudged: set[_Key]) -> list[Finding]:
        """Read the page once more: what has changed meanwhile is in somebody's hands. Give what has not."""
        terms = self._terms
        await terms.clock.sleep(AGAIN_S)
        bounds = terms.journey.bounds()
        page = await terms.store.suspects(bounds, cursor, PAGE)
        still = find_stored_faults([each for each in page.suspects if each in faults], bounds, terms.journey)
        found = []
        for suspect, finding in still.items():
            key = finding.id, finding.n, finding.fault
            if _is_overlooked(suspect, bounds):
                nudged.add(key)
            found.append(replace(finding, is_repaired=key in nudged and key not in self._nudged))
            self._tell(found[-1])
        if nudged:
            terms.journey.nudge()
        return found

    # Telling

    def _tell(self, finding: Finding) -> None:
        now, key = self._terms.clock.monotonic(), (finding.id, finding.n, finding.fault)
        told_at = self._told.get(key)
        if told_at is not None and now - told_at < TOLD_S and not finding.is_repaired:
            return
        if len(self._told) >= REMEMBERED:
            self._told.clear()
        self._told[key] = now
        self._faults[finding.fault.value] += 1
        if finding.is_repaired:
            self._figures = replace(self._figures, repaired=self._figures.repaired + 1)
        self._end_minute()
        if self._notes >= NOTES:
            self._untold += 1
            return
        self._notes += 1
        self._terms.sink.note(
            "error",
            "progress invariant violated",
            id=finding.id,
            recipient=finding.recipient or finding.n,
            fault=finding.fault.value,
            why=finding.why,
            repaired=finding.is_repaired,
        )

    def _end_minute(self) -> None:
        now = self._terms.clock.monotonic()
        if now - self._minute_began < LOOK_S:
            return
        if self._untold:
            self._terms.sink.note("error", "progress invariant violated", more=self._untold)
        self._minute_began = now
        self._notes = self._untold = 0

    def _complain(self, failure: StoreError) -> None:
        self._terms.sink.note("error", "store does not say what it holds", why=str(failure))


def _keys(findings: Collection[Finding]) -> frozenset[_Key]:
    return frozenset([(each.id, each.n, each.fault) for each in findings])


def _is_overlooked(suspect: Suspect, bounds: Bounds) -> bool:
    """Is it due, and would a look at the store help it?"""
    if suspect.state != State.DEFERRED.value or suspect.received_at is None or suspect.is_leased:
        return False
    return suspect.due < bounds.due_before and suspect.received_at >= bounds.received_before


def _as_it_was(lease: Lease, why: str, now: float, next_seq: Callable[[], int]) -> Settlement:
    """Settle a lease as if it had never been given, but for a record that says why."""
    recipients = []
    records = []
    for each in lease.recipients:
        recipients.append(
            SettledRecipient(
                each.n, each.address, each.domain, State.DEFERRED, each.due, each.attempts, each.last_status,
                each.last_reply, each.why, False, each.host, each.awaits_host, notify=each.notify, orcpt=each.orcpt,
                is_delay_told=each.is_delay_told,
            )
        )  # fmt: skip
        records.append(
            Record(
                next_seq(), Kind.REPAIRED, now, lease.id, each.address, lease.reverse_path, each.attempts,
                each.last_status, each.last_reply, why, next_attempt_at=each.due,
            )
        )  # fmt: skip
    return Settlement(lease.id, tuple(recipients), tuple(records))


def _empty_lease(finding: Finding) -> Lease:
    recipient = LeasedRecipient(finding.n, finding.recipient, "")
    return Lease(finding.id, 0.0, "", Body.SEVEN_BIT, False, "", "", b"", 0, None, (recipient,))
