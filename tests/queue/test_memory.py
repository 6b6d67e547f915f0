# SPDX-License-Identifier: MIT
"""The reference store with slow commits, and what a crash makes of it. Its contract is proven in tests/conformance."""

import asyncio

import pytest

from smarthost.mail.errors import StoreError, StoreFull
from smarthost.mail.settlement import State
from smarthost.queue.leases import Wish
from smarthost.queue.memory import MemoryStore
from smarthost.queue.store import Filter
from smarthost.testing.clock import FakeClock
from smarthost.testing.stores.trial import NOW, StoreMaker, Trial, refused

pytestmark = pytest.mark.asyncio


class Slow(Trial):
    """A trial of a store whose commits take a second of a clock that the test moves."""

    store: MemoryStore

    def __init__(self, store: MemoryStore, clock: FakeClock) -> None:
        super().__init__(_NO_MAKER, store)
        self.clock = clock

    @classmethod
    async def begin(cls) -> "Slow":
        clock = FakeClock()
        store = MemoryStore(clock, 1.0)
        await store.open()
        return cls(store, clock)

    async def pass_time(self, seconds: float) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        self.clock.advance(seconds)
        for _ in range(5):
            await asyncio.sleep(0)


class _NoMaker:
    make = crash = restart = set_full = None


_NO_MAKER: StoreMaker = _NoMaker()  # type: ignore[assignment]


async def test_change_happens_when_its_delay_is_over() -> None:
    """Neither the change nor its acknowledgement comes before the commit."""
    slow = await Slow.begin()
    adding = asyncio.ensure_future(slow.store.add(slow.message("a@dest.example"), ()))

    await slow.pass_time(0.9)
    assert not adding.done()
    assert await slow.store.count() == (0, 0)
    await slow.pass_time(0.2)

    assert adding.done()
    assert await slow.store.count() == (1, 1)


async def test_change_happens_without_anybody_waiting() -> None:
    """Who stops waiting withdraws nothing."""
    slow = await Slow.begin()
    slow.store.add(slow.message("a@dest.example"), ())
    waiting = asyncio.ensure_future(slow.store.add(slow.message("b@dest.example"), ()))
    await slow.pass_time(0.5)
    waiting.cancel()

    await slow.pass_time(0.5)

    assert await slow.store.count() == (2, 2)


async def test_changes_happen_in_order() -> None:
    """Each change has its own second, counted from when it was enqueued."""
    slow = await Slow.begin()
    for name in ("a", "b", "c"):
        slow.store.add(slow.message(f"{name}@dest.example"), ())
        await slow.pass_time(0.4)
    counts = []
    for _ in range(3):
        counts.append((await slow.store.count())[0])
        await slow.pass_time(0.4)

    assert counts == [1, 2, 3]


async def test_crash_forgets_what_was_not_committed() -> None:
    """A restart finds what was acknowledged, and nothing that was not."""
    slow = await Slow.begin()
    slow.store.add(slow.message("a@dest.example"), ["dest.example"])
    await slow.pass_time(1.0)
    slow.store.add(slow.message("b@dest.example"), ())
    await slow.pass_time(0.5)

    found = slow.store.crash()
    await found.open()

    assert await found.count() == (1, 1)
    assert [lease.recipients[0].address for lease in await found.lease(["dest.example"], NOW, 9)] == ["a@dest.example"]


async def test_crash_keeps_who_waits_waiting() -> None:
    """After the power is gone nobody gets an answer any more, good or bad."""
    slow = await Slow.begin()
    adding = asyncio.ensure_future(slow.store.add(slow.message("a@dest.example"), ()))
    await slow.pass_time(0.5)
    found = slow.store.crash()
    later = asyncio.ensure_future(slow.store.save_notes({"x": b"x"}))

    for _ in range(3):
        await slow.pass_time(100_000.0)

    assert not adding.done()
    assert not later.done()
    await found.open()
    assert await found.count() == (0, 0)
    for waiting in (adding, later):
        waiting.cancel()
    await asyncio.gather(adding, later, return_exceptions=True)


async def test_crashed_store_shares_nothing_with_its_successor() -> None:
    """What the old process still does changes nothing for the new one."""
    store = MemoryStore()
    await store.open()
    trial = Trial(_NO_MAKER, store)
    _, (lease,) = await trial.add_leased("a@dest.example", "b@dest.example")

    found = store.crash()
    await found.open()
    await refused(store.settle([trial.settlement(lease, State.RELAYED)]), StoreError)
    await refused(store.open(), StoreError)
    await found.settle([trial.settlement(lease, State.RELAYED, only={0})])

    assert await found.count() == (1, 1)
    assert (await found.records(0, 10))[0].recipient == "a@dest.example"


async def test_crash_remembers_only_numbers_that_were_committed() -> None:
    """Numbers handed out and never committed may be used again; the tag of an id tells the two apart."""
    slow = await Slow.begin()
    slow.store.add(slow.message("a@dest.example"), ())
    await slow.pass_time(1.0)
    committed = slow.store.last_number
    slow.store.add(slow.message("b@dest.example"), ())
    assert slow.store.last_number > committed

    assert slow.store.crash().last_number == committed


async def test_close_commits_at_once() -> None:
    """Closing does not wait for the clock, and what was there is there after the next open."""
    slow = await Slow.begin()
    adding = slow.store.add(slow.message("a@dest.example"), ())
    await slow.store.close()

    await adding
    await slow.store.open()

    assert await slow.store.count() == (1, 1)


async def test_acknowledgement_may_be_read_again() -> None:
    """Awaiting twice gives the same answer, as with a future."""
    store = MemoryStore()
    await store.open()
    adding = store.add(Trial(_NO_MAKER, store).message("a@dest.example"), ["dest.example"])

    assert await adding == await adding


async def test_capacity_is_counted_in_octets_of_content() -> None:
    """The reference store is full when the test says so."""
    store = MemoryStore()
    await store.open()
    trial = Trial(_NO_MAKER, store)
    store.capacity_octets = 30

    await store.add(trial.message("a@dest.example", content=b"x" * 30), ())
    await refused(store.add(trial.message("b@dest.example", content=b"x"), ()), StoreFull)
    assert isinstance(store.refusal, StoreFull)
    await store.change(trial_filter(), Wish("cancel", NOW), None, 10)

    assert store.refusal is None


def trial_filter() -> Filter:
    return Filter(recipient="a@dest.example")
