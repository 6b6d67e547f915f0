# SPDX-License-Identifier: MIT
"""Keeps destinations supplied with leases, in bounded memory; woken by events and by the next due time, never polls.

Holds leases that nobody works on yet (fresh ones straight from `add`, and what was read back), and knows which
domains have more on disk. A fresh message skips the disk only if its destination has nothing older due there.
Opens no session and settles nothing; `relay.Journey` takes leases from it. A crash leaves nothing: all of it is a
view of the store.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator

from msgspec.structs import replace

from smarthost.mail.address import recipient_domain
from smarthost.mail.errors import StoreError
from smarthost.mail.lease import LEASE_RECIPIENTS, Lease, LeasedRecipient
from smarthost.mail.message import Message
from smarthost.ports import Clock, Sink
from smarthost.queue.audit import Claim, Standing
from smarthost.queue.store import DueScan, Store

LEASES_HELD = 5_000  # ~2 KiB each without content: 10 MiB
LEASES_HELD_PER_DESTINATION = 1_000  # one slow destination leaves room for the others
CONTENT_OCTETS_HELD = 16 * 1024 * 1024  # design section 5; beyond it content is read back
REFILL_LEASES = 50  # a read costs ~1 ms whatever its size; 50 keep 20 slots busy meanwhile
SCAN_DOMAINS = 1_000  # new ones that a scan looks for; what is known or asleep must not hide them
SCAN_DOMAINS_MOST = 50_000  # ~5 MiB of names
RESCAN_S = 60.0  # a scan that nothing asked for, so that a lost wake-up costs a minute and never a message
RETRY_STORE_S = 1.0
STALLED_S = 24 * 3600.0  # at hand for so long without a turn: not even a site of tarpits makes others wait like that


class _Supply:
    """What is at hand for one destination."""

    __slots__ = ("asleep_until", "behind", "first", "first_since", "leases", "refill", "why_asleep")

    def __init__(self) -> None:
        self.leases: deque[Lease] = deque()
        self.behind: dict[str, int] = {}  # domain -> mark of the newest unleased recipient known on disk
        self.refill: asyncio.Future[None] | None = None
        self.asleep_until: float = 0.0
        self.why_asleep: str = ""
        self.first: str = ""  # whose the first of `leases` was, when it was last looked at
        self.first_since: float = 0.0  # monotonic


class Feed:
    """Supplies leases by destination. Mutable state of one event loop; only Journey touches it."""

    def __init__(
        self, store: Store, clock: Clock, sink: Sink, destination_of: Callable[[str], str], wake: Callable[[str], None]
    ) -> None:
        self._store = store
        self._clock = clock
        self._sink = sink
        self._destination_of = destination_of
        self._wake = wake
        self._supplies: dict[str, _Supply] = {}
        self.is_paused = False
        self._stopped: frozenset[str] = frozenset()  # recipient domains for which nothing is tried
        self._held = 0
        self._content_octets = 0
        self._mark = 0
        self._bell = asyncio.Event()
        self._next_scan: float = 0.0  # wall
        self._scan_domains = SCAN_DOMAINS
        self._is_scan_whole = True  # did the last scan name all that was due?
        self._nudged_at: float = clock.monotonic()
        self._alarm = clock.deadline(RESCAN_S, self._bell.set)

    # Fresh mail

    def leasable(self, message: Message) -> tuple[str, ...]:
        """Give the domains of a message about to be added whose recipients may skip the disk."""
        recipients = message.envelope.recipients
        if self._held >= LEASES_HELD or self.is_paused:
            return ()
        if len(recipients) == 1:
            domain = recipients[0].domain
            return (domain,) if self._has_room(domain) else ()
        return tuple([domain for domain in _domains_of(message) if self._has_room(domain)])

    def _has_room(self, domain: str) -> bool:
        if self._stopped and self._is_stopped(domain):
            return False
        supply = self._supplies.get(self._destination_of(domain))
        return supply is None or not (
            supply.behind or supply.asleep_until or len(supply.leases) >= LEASES_HELD_PER_DESTINATION
        )

    def arrived(self, message: Message, leasable: tuple[str, ...], leases: tuple[Lease, ...]) -> None:
        """A message was committed: hold its leases, remember what of it stayed on disk, wake whoever delivers it."""
        if self.is_paused:
            for lease in leases:
                self._store.give_back(lease)
            return
        recipients = message.envelope.recipients
        if len(recipients) == 1 and leases:
            self._hold(self._destination_of(recipients[0].domain), leases[0])
            return
        for destination, lease in self._by_destination(leases):
            self._hold(destination, lease)
        for domain in _domains_of(message):
            if domain not in leasable:
                self.left_behind(domain)

    def left_behind(self, domain: str) -> None:
        """Something for this domain is due on disk now."""
        if self.is_paused or (self._stopped and self._is_stopped(domain)):
            return  # found by the scan at the end of the pause, or of the suspension
        destination = self._destination_of(domain)
        supply = self._supply(destination)
        if supply.asleep_until:
            return  # found by the scan at the end of the sleep, or by that of `resume`
        self._mark += 1
        supply.behind[domain] = self._mark
        self._wake(destination)

    def _hold(self, destination: str, lease: Lease) -> None:
        if self._stopped and not self._may_go(lease):  # given back: it was being filed when that was said
            return
        supply = self._supply(destination)
        if supply.asleep_until:
            self._store.give_back(lease)  # found by the scan at the end of the sleep; held, it would never be
            return
        if lease.content is not None:
            if self._content_octets + lease.octets > CONTENT_OCTETS_HELD:
                lease = replace(lease, content=None)
            else:
                self._content_octets += lease.octets
        self._held += 1
        supply.leases.append(lease)
        self._wake(destination)

    def _by_destination(self, leases: tuple[Lease, ...]) -> Iterator[tuple[str, Lease]]:
        """Cut one message's leases anew, for one destination each: as few transactions as its hosts can take."""
        parts: dict[str, list[LeasedRecipient]] = {}
        for lease in leases:
            for recipient in lease.recipients:
                parts.setdefault(self._destination_of(recipient.domain), []).append(recipient)
        for destination, recipients in parts.items():
            for start in range(0, len(recipients), LEASE_RECIPIENTS):
                part = tuple(recipients[start : start + LEASE_RECIPIENTS])
                yield destination, replace(leases[0], recipients=part)

    # What slots ask

    def take(self, destination: str) -> Lease | None:
        """Give the next lease at hand; the caller owns it until it settles it or gives it back."""
        supply = self._supplies.get(destination)
        if supply is None or not supply.leases or supply.asleep_until:
            return None
        lease = supply.leases.popleft()
        self._let_go(lease)
        return lease

    def _let_go(self, lease: Lease) -> None:
        self._held -= 1
        if lease.content is not None:
            self._content_octets -= lease.octets

    def has_more(self, destination: str) -> bool:
        """Is there work at hand or on disk that may be taken now?"""
        supply = self._supplies.get(destination)
        return supply is not None and not supply.asleep_until and bool(supply.leases or supply.behind)

    async def refill(self, destination: str) -> None:
        """Read leases from disk if there are any and none is at hand; one read at a time for a destination."""
        supply = self._supply(destination)
        while supply.behind and not supply.leases and not supply.asleep_until:
            if supply.refill is None:
                supply.refill = asyncio.ensure_future(self._read(destination, supply))
            await asyncio.shield(supply.refill)

    async def _read(self, destination: str, supply: _Supply) -> None:
        asked = dict(list(supply.behind.items())[:SCAN_DOMAINS])
        n = max(1, min(REFILL_LEASES, LEASES_HELD - self._held))
        try:
            leases = await self._store.lease(asked.keys(), self._clock.wall(), n)
        except StoreError as error:
            self._sink.note("error", "store does not give leases", why=str(error))
            supply.behind.clear()
            self.due_at(self._clock.wall() + RETRY_STORE_S)  # the next scan finds them again
            return
        finally:
            supply.refill = None
        n_read = len(leases)
        if self._stopped:
            leases = tuple(filter(self._may_go, leases))
        self._held += len(leases)
        supply.leases.extend(leases)
        if supply.asleep_until or self.is_paused:
            self._give_back_all(supply)
            if supply.asleep_until == math.inf:  # `reroute` has looked already, while we had these
                self.nudge()
        if n_read < n:
            for domain, mark in asked.items():
                if supply.behind.get(domain) == mark:  # nothing newer was committed while we read
                    del supply.behind[domain]

    def forget(self, destination: str) -> None:
        """Drop the bookkeeping of a destination that has nothing at hand; bounded memory for a million domains."""
        supply = self._supplies.get(destination)
        if supply is not None and not (supply.leases or supply.behind or supply.asleep_until or supply.refill):
            del self._supplies[destination]

    def _supply(self, destination: str) -> _Supply:
        supply = self._supplies.get(destination)
        if supply is None:
            supply = self._supplies[destination] = _Supply()
        return supply

    # Waiting

    def suspend(self, destination: str, until: float, why: str) -> None:
        """Hand out nothing for this destination before `until` (wall): all its hosts are refused."""
        supply = self._supply(destination)
        supply.asleep_until = until
        supply.why_asleep = why
        self._give_back_all(supply)
        supply.behind.clear()  # found again by the scan at `until`
        self.due_at(until)

    def resume(self, destination: str) -> None:
        """A host of this destination works again: what waits for it is due at once."""
        supply = self._supplies.get(destination)
        if supply is not None and supply.asleep_until:
            supply.asleep_until = 0.0
            self.forget(destination)  # the scan brings it back if anything waits for it
            self.due_at(self._clock.wall())

    def asleep(self) -> tuple[str, ...]:
        """Name the destinations that are suspended."""
        return tuple([name for name, supply in self._supplies.items() if supply.asleep_until])

    def suspension(self, domain: str) -> tuple[float, str] | None:
        """Give (until, why) when the destination of this recipient domain is suspended."""
        supply = self._supplies.get(self._destination_of(domain))
        if supply is None or not supply.asleep_until:
            return None
        return supply.asleep_until, supply.why_asleep

    def stop(self, domains: frozenset[str]) -> None:
        """Try nothing for these recipient domains, and go on with those that were stopped before and are not here."""
        self._stopped = domains
        for supply in self._supplies.values():
            stopped = [lease for lease in supply.leases if not self._may_go(lease, give_back=False)]
            for lease in stopped:
                supply.leases.remove(lease)
                self._let_go(lease)
                self._store.give_back(lease)
            for domain in [domain for domain in supply.behind if self._is_stopped(domain)]:
                del supply.behind[domain]
        self._bell.set()

    def _is_stopped(self, domain: str) -> bool:
        return recipient_domain(domain) in self._stopped

    def _may_go(self, lease: Lease, *, give_back: bool = True) -> bool:
        """May this lease be tried as a whole? If not it is given back: what else it holds is found again."""
        if not any(self._is_stopped(each.domain) for each in lease.recipients):
            return True
        if give_back:
            self._store.give_back(lease)
        return False

    def due_at(self, when: float) -> None:
        """Something will be due at `when` (wall seconds): scan then, or earlier."""
        if when < self._next_scan:
            self._next_scan = when
            self._alarm.restart(max(0.0, when - self._clock.wall()))

    async def run(self) -> None:
        """Scan for what is due, whenever something becomes due; ends only by cancellation."""
        while True:
            self._bell.clear()
            self._next_scan = self._clock.wall() + RESCAN_S
            try:
                next_at = None if self.is_paused else await self._scan()
            except StoreError as error:
                self._sink.note("error", "store does not say what is due", why=str(error))
                next_at = self._clock.wall() + RETRY_STORE_S
            if next_at is not None and next_at < self._next_scan:
                self._next_scan = next_at
            self._alarm.restart(max(0.0, self._next_scan - self._clock.wall()))
            await self._bell.wait()

    async def _scan(self) -> float | None:
        """Note which domains have something due on disk, wake their destinations; give when to look again."""
        now = self._clock.wall()
        self._end_sleeps(now)
        scan = await self._due(now)
        if self.is_paused:
            return None
        woken: dict[str, None] = {}
        for due in scan.domains:
            if self._stopped and self._is_stopped(due.domain):
                continue
            destination = self._destination_of(due.domain)
            supply = self._supply(destination)
            if not supply.asleep_until:
                self._mark += 1
                supply.behind[due.domain] = self._mark
                woken[destination] = None
        woken.update(dict.fromkeys(self._overlooked()))
        for destination in woken:
            self._wake(destination)
        asleep = [supply.asleep_until for supply in self._supplies.values() if supply.asleep_until]
        next_at = scan.next_at
        self._is_scan_whole = next_at is None or next_at > now
        if next_at is not None and next_at <= now:
            next_at = now + RETRY_STORE_S  # more domains are due than one scan names: come back soon
        return min([*asleep, *([] if next_at is None else [next_at])], default=None)

    def _overlooked(self) -> list[str]:
        """Name who has leases at hand, once in RESCAN_S: no scan finds these, should whoever took them have died."""
        now = self._clock.monotonic()
        if now - self._nudged_at < RESCAN_S:
            return []
        self._nudged_at = now
        overlooked = []
        for destination, supply in self._supplies.items():
            if supply.leases:
                overlooked.append(destination)
                if supply.first != supply.leases[0].id:
                    supply.first, supply.first_since = supply.leases[0].id, now
            else:
                supply.first = ""
        return overlooked

    # What an auditor asks

    def claims(self, of: str = "") -> Iterator[Claim]:
        """Claim what is at hand, or (`of`) what there is of one message.

        Its next event is its turn; who should take it is woken once in RESCAN_S.
        """
        now, wall = self._clock.monotonic(), self._clock.wall()
        next_scan = self._next_scan or wall  # 0.0: there was none yet
        for supply in self._supplies.values():
            if not supply.leases:
                continue
            next_at = next_scan
            if supply.first == supply.leases[0].id:
                next_at = min(next_at, wall + supply.first_since + STALLED_S - now)
            for lease in supply.leases:
                if of and lease.id != of:
                    continue
                for recipient in lease.recipients:
                    yield Claim(lease.id, recipient.n, "the feed", next_at)

    def standing(self, domain: str) -> Standing | None:
        """Say who looks after what is due for this domain on disk, and when at the latest; None: nobody knows of it."""
        supply = self._supplies.get(self._destination_of(domain))
        if supply is not None and supply.asleep_until:
            return "the suspension of its destination", supply.asleep_until
        if self._stopped and self._is_stopped(domain):
            return "the suspension of its destination", self._next_scan
        if not self._is_scan_whole or (supply is not None and domain in supply.behind):
            return "the scan for what is due", self._next_scan
        return None

    def nudge(self) -> None:
        """Scan now, whatever is known of the next scan: a wake-up may have been lost."""
        self._bell.set()

    def _end_sleeps(self, now: float) -> None:
        over = [name for name, supply in self._supplies.items() if 0.0 < supply.asleep_until <= now]
        for destination in over:
            self._supplies[destination].asleep_until = 0.0
            self.forget(destination)  # the scan brings it back if anything waits for it

    async def _due(self, now: float) -> DueScan:
        """Ask what is due until enough of it is news, or all of it has been named."""
        n = self._scan_domains
        while True:
            scan = await self._store.due(now, n)
            news = sum([self._is_news(due.domain) for due in scan.domains])
            if news >= SCAN_DOMAINS or len(scan.domains) < n or n >= SCAN_DOMAINS_MOST:
                self._scan_domains = min(SCAN_DOMAINS + len(scan.domains) - news, SCAN_DOMAINS_MOST)
                return scan
            n = min(2 * n, SCAN_DOMAINS_MOST)

    def _is_news(self, domain: str) -> bool:
        if self._stopped and self._is_stopped(domain):
            return False
        supply = self._supplies.get(self._destination_of(domain))
        return supply is None or not (supply.asleep_until or domain in supply.behind)

    def let_go_all(self) -> None:
        """Give back all leases at hand, so that the store alone decides about them."""
        for supply in self._supplies.values():
            self._give_back_all(supply)

    def _give_back_all(self, supply: _Supply) -> None:
        while supply.leases:
            lease = supply.leases.popleft()
            self._let_go(lease)
            self._store.give_back(lease)

    def reroute(self) -> None:
        """Domains may have other destinations by now: give back all leases at hand, wake who sleeps, and look anew."""
        for supply in self._supplies.values():
            self._give_back_all(supply)
            supply.behind.clear()
            supply.asleep_until = math.inf  # a read under way gives back what it brings: nobody will ask this one
        self._supplies = {}
        self.nudge()

    def pause(self) -> None:
        """Give back all leases at hand, and hand out none before `end_pause`."""
        self.is_paused = True
        for supply in self._supplies.values():
            self._give_back_all(supply)
            supply.behind.clear()  # found again by the scan at the end

    def end_pause(self) -> None:
        """Look what has become due, and hand it out again."""
        self.is_paused = False
        self._bell.set()

    def drain(self) -> None:
        """Give back all leases at hand: we are shutting down."""
        self._alarm.cancel()
        self.let_go_all()


def _domains_of(message: Message) -> dict[str, None]:
    """Give the recipient domains of a message, each once, in order."""
    return dict.fromkeys([recipient.domain for recipient in message.envelope.recipients])
