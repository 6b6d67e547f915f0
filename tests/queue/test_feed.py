# SPDX-License-Identifier: MIT
"""The feed: what is at hand, what is on disk, who sleeps, and that nothing is forgotten between them."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any

import pytest

from smarthost.mail.address import Address, to_domain
from smarthost.mail.content import InlineContent
from smarthost.mail.envelope import Envelope
from smarthost.mail.errors import StoreError
from smarthost.mail.identity import IdSource
from smarthost.mail.lease import Lease
from smarthost.mail.message import Message
from smarthost.mail.record import Kind, Record
from smarthost.mail.settlement import SettledRecipient, Settlement, State
from smarthost.queue import feed
from smarthost.queue.feed import Feed
from smarthost.queue.memory import MemoryStore
from smarthost.queue.store import DueScan
from smarthost.testing.clock import FakeClock


class StubbornStore(MemoryStore):
    """Counts reads; can fail them, and can hold them up until `gate` is set."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.reads = self.scans = 0
        self.failure: StoreError | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def lease(self, domains: Collection[str], now: float, n: int) -> tuple[Lease, ...]:
        self.reads += 1
        leases = () if self.failure else await super().lease(domains, now, n)
        await self._held_up()
        return leases

    async def due(self, now: float, n: int) -> DueScan:
        self.scans += 1
        scan = DueScan((), None) if self.failure else await super().due(now, n)
        await self._held_up()
        return scan

    async def _held_up(self) -> None:
        await self.gate.wait()
        if self.failure:
            raise self.failure


class Yard:
    """A feed with a store, a clock moved by hand, and a list of whom it woke. All *.hop share one destination."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = StubbornStore(self.clock)
        self.woken: list[str] = []
        self.notes: list[str] = []
        self.feed = Feed(self.store, self.clock, self, self._destination_of, self.woken.append)
        self._next_id = IdSource(self.clock.wall, 1).next
        self._running: asyncio.Task[None] | None = None

    @staticmethod
    def _destination_of(domain: str) -> str:
        return "hop:relay:25" if domain.endswith(".hop") else domain

    def record(self, record: Record) -> None: ...

    def note(self, level: str, what: str, **facts: object) -> None:
        self.notes.append(what)

    async def __aenter__(self) -> "Yard":
        await self.store.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def run(self) -> None:
        """Let the feed scan, and let the first scan end."""
        self._running = asyncio.ensure_future(self.feed.run())
        await settle()
        self.woken.clear()

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await settle()

    def message(self, *recipients: str, octets: int = 10) -> Message:
        addresses = tuple(Address(text, to_domain(text.partition("@")[2])) for text in recipients)
        envelope = Envelope("ann@example.org", addresses)
        return Message(
            self._next_id(), self.clock.wall(), envelope, b"", InlineContent(b"x" * octets), "local", "local"
        )

    async def add(self, *recipients: str, octets: int = 10) -> Message:
        """File a message as the journey does."""
        message = self.message(*recipients, octets=octets)
        leasable = self.feed.leasable(message)
        self.feed.arrived(message, leasable, await self.store.add(message, leasable))
        return message

    async def add_to_disk(self, *recipients: str) -> Message:
        """File a message that the feed is not told of."""
        message = self.message(*recipients)
        await self.store.add(message, ())
        return message

    async def defer(self, lease: Lease, seconds: float) -> None:
        """Settle a lease as deferred by so many seconds."""
        due = self.clock.wall() + seconds
        settled = [
            SettledRecipient(each.n, each.address, each.domain, State.DEFERRED, due, each.attempts + 1, "4.0.0", "", "")
            for each in lease.recipients
        ]
        records = [Record(self.store.last_number + 1, Kind.DEFERRED, 0.0, lease.id, each.address) for each in settled]
        await self.store.settle([Settlement(lease.id, tuple(settled), tuple(records))])
        self.feed.due_at(due)

    def take(self, destination: str) -> str | None:
        lease = self.feed.take(destination)
        return None if lease is None else lease.recipients[0].address

    async def take_all(self, destination: str) -> list[str]:
        """Take as a slot does until there is nothing more."""
        taken: list[str] = []
        while self.feed.has_more(destination):
            await self.feed.refill(destination)
            address = self.take(destination)
            if address is None:
                return taken
            taken.append(address)
        return taken

    async def is_leased(self) -> list[str]:
        page = await self.store.find(feed_filter(), None, 1000)
        return [each.address for message in page.messages for each in message.recipients if each.state == "leased"]


def feed_filter() -> Any:
    from smarthost.queue.store import Filter

    return Filter()


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def in_yard(scenario: Callable[[Yard], Coroutine[Any, Any, None]]) -> Callable[[], Awaitable[None]]:
    async def test() -> None:
        async with Yard() as yard:
            await scenario(yard)

    test.__name__ = scenario.__name__
    test.__doc__ = scenario.__doc__
    return pytest.mark.asyncio(test)


# Fresh mail


@in_yard
async def test_fresh_mail_skips_the_disk(yard: Yard) -> None:
    """A message for a destination without backlog is at hand at once, content and all, and somebody is woken."""
    await yard.add("bob@example.net")

    lease = yard.feed.take("example.net")

    assert ["example.net"] == yard.woken
    assert lease is not None
    assert lease.content is not None
    assert 0 == yard.store.reads


@in_yard
async def test_fresh_mail_waits_behind_older_mail_on_disk(yard: Yard) -> None:
    """What came first goes first: while something older is on disk nothing passes it in memory."""
    await yard.add_to_disk("old@example.net")
    yard.feed.left_behind("example.net")

    await yard.add("new@example.net")

    assert () == yard.feed.leasable(yard.message("newer@example.net"))
    assert ["old@example.net", "new@example.net"] == await yard.take_all("example.net")


@in_yard
async def test_one_destination_cannot_fill_the_memory(yard: Yard) -> None:
    """Beyond its share a destination's mail stays on disk, in order; another destination still has room."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "LEASES_HELD_PER_DESTINATION", 3)
        for n in range(8):
            await yard.add(f"u{n}@example.net")

        held = await yard.is_leased()
        assert ("example.com",) == yard.feed.leasable(yard.message("a@example.com"))
        assert [f"u{n}@example.net" for n in range(3)] == held
        assert [f"u{n}@example.net" for n in range(8)] == await yard.take_all("example.net")


@in_yard
async def test_the_memory_is_bounded_in_all(yard: Yard) -> None:
    """When the feed is full nothing more skips the disk, and what is read back is one lease for a slot that asks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "LEASES_HELD", 4)
        for n in range(10):
            await yard.add(f"u@d{n}.example")
        assert 4 == len(await yard.is_leased())
        for n in range(10):
            await yard.add_to_disk(f"v{n}@big.example")
        yard.feed.left_behind("big.example")

        await yard.feed.refill("big.example")

        assert 5 == len(await yard.is_leased())


@in_yard
async def test_content_beyond_its_bound_is_read_back(yard: Yard) -> None:
    """Large contents do not pile up in memory: the lease stays, its content is fetched when it is its turn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "CONTENT_OCTETS_HELD", 1000)
        for n in range(3):
            await yard.add(f"u{n}@example.net", octets=400)

        leases = [yard.feed.take("example.net") for _ in range(3)]
        await yard.add("again@example.net", octets=900)
        again = yard.feed.take("example.net")

        assert [True, True, False] == [lease is not None and lease.content is not None for lease in leases]
        assert again is not None
        assert again.content is not None, "what was taken makes room"


@in_yard
async def test_a_message_for_several_destinations_is_split(yard: Yard) -> None:
    """Each destination gets its own recipients in one lease; domains behind one next hop share theirs."""
    await yard.add("a@one.example", "b@two.example", "c@x.hop", "d@one.example", "e@y.hop")

    leases = {name: yard.feed.take(name) for name in ("one.example", "two.example", "hop:relay:25")}

    found = {name: [each.address for each in lease.recipients] for name, lease in leases.items() if lease is not None}
    assert {
        "one.example": ["a@one.example", "d@one.example"],
        "two.example": ["b@two.example"],
        "hop:relay:25": ["c@x.hop", "e@y.hop"],
    } == found
    assert not any(yard.feed.has_more(name) for name in found)


@in_yard
async def test_many_recipients_are_cut_at_a_hundred_for_each_destination(yard: Yard) -> None:
    """250 recipients at two domains in turn: two leases for each, whatever the order they were named in."""
    await yard.add(*(f"u{n}@{'one' if n % 2 else 'two'}.example" for n in range(250)))

    sizes = []
    for name in ("one.example", "two.example"):
        while (lease := yard.feed.take(name)) is not None:
            sizes.append(len(lease.recipients))

    assert [100, 25, 100, 25] == sizes


@in_yard
async def test_only_what_may_skip_the_disk_does(yard: Yard) -> None:
    """Of two destinations one has older mail: its recipient stays on disk behind it, the other is at hand."""
    await yard.add_to_disk("old@busy.example")
    yard.feed.left_behind("busy.example")

    await yard.add("a@busy.example", "b@free.example")

    assert ["b@free.example"] == await yard.is_leased()
    assert ["old@busy.example", "a@busy.example"] == await yard.take_all("busy.example")


# Reading back


@in_yard
async def test_waiting_slots_share_one_read(yard: Yard) -> None:
    """Twenty slots of one destination that find nothing at hand cause one read, and each gets a lease."""
    for n in range(20):
        await yard.add_to_disk(f"u{n}@example.net")
    yard.feed.left_behind("example.net")

    await asyncio.gather(*(yard.feed.refill("example.net") for _ in range(20)))

    assert 1 == yard.store.reads
    assert 20 == len({yard.take("example.net") for _ in range(20)} - {None})
    assert not yard.feed.has_more("example.net")


@in_yard
async def test_nothing_committed_during_a_read_is_forgotten(yard: Yard) -> None:
    """A message is left behind while a read that cannot contain it is under way: it is still known to be there."""
    await yard.add_to_disk("first@example.net")
    yard.feed.left_behind("example.net")
    yard.store.gate.clear()
    reading = asyncio.ensure_future(yard.feed.refill("example.net"))
    await settle()

    await yard.add_to_disk("second@example.net")
    yard.feed.left_behind("example.net")
    yard.store.gate.set()
    await reading

    assert ["first@example.net", "second@example.net"] == await yard.take_all("example.net")
    assert not yard.feed.has_more("example.net")


@in_yard
async def test_a_read_that_fails_is_noted_and_made_again(yard: Yard) -> None:
    """The slot gets nothing and goes; a second later the scan finds the mail again."""
    await yard.run()
    await yard.add_to_disk("bob@example.net")
    yard.feed.left_behind("example.net")
    yard.store.failure = StoreError("broken")

    await yard.feed.refill("example.net")
    had_more = yard.feed.has_more("example.net")
    yard.store.failure = None
    yard.woken.clear()
    await yard.pass_time(1.01)

    assert not had_more
    assert ["store does not give leases"] == yard.notes
    assert ["example.net"] == yard.woken
    assert ["bob@example.net"] == await yard.take_all("example.net")


# Suspension


@in_yard
async def test_a_suspended_destination_gives_everything_back(yard: Yard) -> None:
    """What was at hand is the store's again, so that expiry and operators reach it; slots get nothing."""
    await yard.add("bob@example.net")
    yard.feed.suspend("example.net", yard.clock.wall() + 30, "refused")

    assert yard.feed.take("example.net") is None
    assert not yard.feed.has_more("example.net")
    assert [] == await yard.is_leased()
    assert (yard.clock.wall() + 30, "refused") == yard.feed.suspension("example.net")
    assert yard.feed.suspension("example.com") is None


@in_yard
async def test_a_sleep_ends_on_time(yard: Yard) -> None:
    """The destination is woken when its hosts may be probed, not a minute later, and not before."""
    await yard.run()
    await yard.add("bob@example.net")
    yard.feed.suspend("example.net", yard.clock.wall() + 7, "refused")
    yard.woken.clear()

    await yard.pass_time(6.9)
    early = list(yard.woken)
    await yard.pass_time(0.2)

    assert [] == early
    assert ["example.net"] == yard.woken
    assert ["bob@example.net"] == await yard.take_all("example.net")


@in_yard
async def test_resume_ends_a_sleep_early(yard: Yard) -> None:
    """When a host works again its mail is due at once."""
    await yard.run()
    await yard.add("bob@example.net")
    yard.feed.suspend("example.net", yard.clock.wall() + 3000, "refused")
    yard.woken.clear()

    yard.feed.resume("example.net")
    await yard.pass_time(0.01)

    assert ["example.net"] == yard.woken
    assert ["bob@example.net"] == await yard.take_all("example.net")


@in_yard
async def test_fresh_mail_for_a_sleeping_destination_is_not_held(yard: Yard) -> None:
    """Nobody would be woken for what is held in memory: it stays on disk, where the scan finds it."""
    await yard.run()
    message = yard.message("under-way@example.net")
    leasable = yard.feed.leasable(message)
    yard.feed.suspend("example.net", yard.clock.wall() + 7, "refused")

    yard.feed.arrived(message, leasable, await yard.store.add(message, leasable))
    may_skip = yard.feed.leasable(yard.message("later@example.net"))
    held = await yard.is_leased()
    yard.woken.clear()
    await yard.pass_time(7.1)

    assert ("example.net",) == leasable
    assert () == may_skip
    assert [] == held
    assert ["example.net"] == yard.woken
    assert ["under-way@example.net"] == await yard.take_all("example.net")


@in_yard
async def test_what_is_read_while_a_destination_falls_asleep_is_given_back(yard: Yard) -> None:
    """A read under way brings leases for nobody: they are the store's again, and found when the sleep ends."""
    await yard.run()
    await yard.add_to_disk("bob@example.net")
    yard.feed.left_behind("example.net")
    yard.store.gate.clear()
    reading = asyncio.ensure_future(yard.feed.refill("example.net"))
    await settle()

    yard.feed.suspend("example.net", yard.clock.wall() + 7, "refused")
    yard.store.gate.set()
    await reading
    held = await yard.is_leased()
    yard.woken.clear()
    await yard.pass_time(7.1)

    assert [] == held
    assert ["example.net"] == yard.woken
    assert ["bob@example.net"] == await yard.take_all("example.net")


# Scanning


@in_yard
async def test_what_is_on_disk_at_the_start_is_found(yard: Yard) -> None:
    """After a restart every domain with something due is woken, each once."""
    for name in ("a@one.example", "b@two.example", "c@one.example", "d@x.hop", "e@y.hop"):
        await yard.add_to_disk(name)

    running = asyncio.ensure_future(yard.feed.run())
    await settle()
    running.cancel()

    assert sorted(["one.example", "two.example", "hop:relay:25"]) == sorted(yard.woken)
    assert ["d@x.hop", "e@y.hop"] == await yard.take_all("hop:relay:25")


@in_yard
async def test_a_deferral_is_woken_when_its_time_has_come(yard: Yard) -> None:
    """Nothing polls: nothing happens before, and nothing has to."""
    await yard.run()
    await yard.add("bob@example.net")
    lease = yard.feed.take("example.net")
    assert lease is not None
    await yard.defer(lease, 45.0)
    yard.woken.clear()
    scans = yard.store.scans

    await yard.pass_time(44.9)
    early, scanned_early = list(yard.woken), yard.store.scans - scans
    await yard.pass_time(0.2)

    assert [] == early
    assert 0 == scanned_early
    assert ["example.net"] == yard.woken


@in_yard
async def test_a_time_named_during_a_scan_is_kept(yard: Yard) -> None:
    """Something falls due in five seconds, said while a scan that does not see it is under way: it is not a minute."""
    await yard.run()
    yard.store.gate.clear()
    yard.feed.due_at(yard.clock.wall())
    await yard.pass_time(0.01)

    yard.feed.due_at(yard.clock.wall() + 5)
    yard.store.gate.set()
    await settle()
    scans = yard.store.scans
    await yard.pass_time(5.1)

    assert 1 == yard.store.scans - scans


@in_yard
async def test_a_lost_wake_up_costs_a_minute_at_most(yard: Yard) -> None:
    """Mail that nobody spoke of is found by the scan that nobody asked for."""
    await yard.run()
    await yard.add_to_disk("bob@example.net")

    await yard.pass_time(61)

    assert ["example.net"] == yard.woken


@in_yard
async def test_a_scan_that_fails_is_made_again_in_a_second(yard: Yard) -> None:
    """A store in trouble is asked again soon, with a note, for as long as it takes."""
    yard.store.failure = StoreError("broken")
    await yard.run()
    await yard.add_to_disk("bob@example.net")
    await yard.pass_time(1.01)
    yard.store.failure = None
    await yard.pass_time(1.01)

    assert ["store does not say what is due"] * 2 == yard.notes
    assert ["example.net"] == yard.woken


@in_yard
async def test_sleeping_domains_do_not_hide_what_else_is_due(yard: Yard) -> None:
    """Fifty domains wait for dead hosts, older than all else: the fifty-first is found in the same scan."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "SCAN_DOMAINS", 3)
        await yard.run()
        for n in range(50):
            await yard.add_to_disk(f"u@d{n}.example")
            yard.feed.suspend(f"d{n}.example", yard.clock.wall() + 3000, "dead")
        yard.clock.advance(1)
        await yard.add_to_disk("bob@example.net")
        yard.woken.clear()

        yard.feed.due_at(yard.clock.wall())
        await yard.pass_time(0.01)

        assert ["example.net"] == yard.woken


@in_yard
async def test_domains_that_are_known_do_not_hide_what_else_is_due(yard: Yard) -> None:
    """A crowd of slow destinations whose backlog is known is no reason not to see another one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "SCAN_DOMAINS", 3)
        for n in range(30):
            await yard.add_to_disk(f"u@d{n}.example")
            yard.feed.left_behind(f"d{n}.example")
        yard.clock.advance(1)
        await yard.add_to_disk("bob@example.net")
        yard.woken.clear()

        await yard.run()

        assert yard.feed.has_more("example.net")


@in_yard
async def test_more_domains_than_a_scan_names_follow_soon(yard: Yard) -> None:
    """Ten domains are due and a scan names three: all ten are known within seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "SCAN_DOMAINS", 3)
        for n in range(10):
            await yard.add_to_disk(f"u@d{n}.example")
        await yard.run()
        for _ in range(4):
            await yard.pass_time(1.01)

        assert all(yard.feed.has_more(f"d{n}.example") for n in range(10))


# Letting go


@in_yard
async def test_letting_go_leaves_the_decision_to_the_store(yard: Yard) -> None:
    """Before an operator's verb nothing is held in memory; afterwards the scan finds what is still due."""
    await yard.run()
    for n in range(3):
        await yard.add(f"u{n}@example.net")

    yard.feed.let_go_all()
    held = await yard.is_leased()
    yard.woken.clear()
    yard.feed.due_at(yard.clock.wall())
    await yard.pass_time(0.01)

    assert [] == held
    assert ["example.net"] == yard.woken
    assert 3 == len(await yard.take_all("example.net"))


@in_yard
async def test_draining_gives_back_and_asks_no_more(yard: Yard) -> None:
    """At shutdown nothing stays leased, and no scan begins."""
    await yard.run()
    await yard.add("bob@example.net")
    scans = yard.store.scans

    yard.feed.drain()
    await yard.pass_time(200)

    assert [] == await yard.is_leased()
    assert scans == yard.store.scans


@in_yard
async def test_a_destination_with_work_is_not_forgotten(yard: Yard) -> None:
    """Forgetting drops bookkeeping only: what is at hand, on disk or asleep stays."""
    await yard.add("bob@hand.example")
    yard.feed.left_behind("disk.example")
    yard.feed.suspend("asleep.example", yard.clock.wall() + 30, "refused")

    for name in ("hand.example", "disk.example", "asleep.example", "unknown.example"):
        yard.feed.forget(name)

    assert yard.feed.has_more("hand.example")
    assert yard.feed.has_more("disk.example")
    assert yard.feed.suspension("asleep.example") is not None


@in_yard
async def test_bookkeeping_does_not_grow_with_the_domains_there_ever_were(yard: Yard) -> None:
    """A thousand domains that were served or slept and have no more mail leave nothing behind."""
    await yard.run()
    for n in range(500):
        await yard.add(f"u@d{n}.example")
        assert yard.take(f"d{n}.example")
        yard.feed.forget(f"d{n}.example")
        yard.feed.suspend(f"e{n}.example", yard.clock.wall() + 1, "refused")

    await yard.pass_time(2)

    assert {} == yard.feed._supplies
    assert 0 == yard.feed._held == yard.feed._content_octets


@pytest.mark.asyncio
async def test_what_is_stopped_wakes_nobody_and_is_handed_out_by_no_read() -> None:
    """A suspended domain is left alone by scans, by reads that were under way, and by what arrives; others go on."""
    async with Yard() as yard:
        await yard.run()
        yard.feed.stop(frozenset({"stopped.hop"}))
        await settle()
        yard.woken.clear()
        await yard.add("a@stopped.hop")
        await yard.add_to_disk("b@stopped.hop")
        yard.feed.nudge()
        await settle()
        assert [] == yard.woken

        await yard.add("c@free.hop")
        assert ["c@free.hop"] == await yard.take_all("hop:relay:25")
        await yard.add("d@free.hop", "d@stopped.hop")
        assert ["d@free.hop"] == await yard.take_all("hop:relay:25")

        yard.feed.stop(frozenset())
        await settle()
        assert {"a@stopped.hop", "b@stopped.hop", "d@stopped.hop"} == set(await yard.take_all("hop:relay:25"))


@pytest.mark.asyncio
async def test_a_read_that_was_under_way_hands_out_nothing_that_is_stopped_meanwhile() -> None:
    """Whoever suspends a destination need not wait for the disk."""
    async with Yard() as yard:
        await yard.run()
        await yard.add_to_disk("a@stopped.hop")
        yard.feed.left_behind("stopped.hop")
        yard.store.gate.clear()
        reading = asyncio.ensure_future(yard.feed.refill("hop:relay:25"))
        await settle()
        yard.feed.stop(frozenset({"stopped.hop"}))
        yard.store.gate.set()
        await settle()
        reading.cancel()

        assert yard.take("hop:relay:25") is None
        assert [] == list(yard.store.leased())


@pytest.mark.asyncio
async def test_what_is_at_hand_is_given_back_when_it_is_stopped() -> None:
    """Leases that nobody works on yet do not outlive a suspension."""
    async with Yard() as yard:
        await yard.run()
        await yard.add("a@stopped.hop")
        free = await yard.add("b@free.hop")
        yard.feed.stop(frozenset({"stopped.hop"}))

        assert [(free.id, 0)] == list(yard.store.leased())
        assert ["b@free.hop"] == await yard.take_all("hop:relay:25")
        standing = yard.feed.standing("stopped.hop")
        assert standing is not None
        assert "suspension" in standing[0]
