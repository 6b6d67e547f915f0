# SPDX-License-Identifier: MIT
"""What a hostile review found: stores that hang, bugs in loops, and a crowd of destinations at once."""

import asyncio
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

from msgspec.structs import replace
from tests.journeys.rig import HOUR_S, in_world
from tests.test_relay import BOUNCED, DEFERRED, RELAYED, Bench, on_bench

from smarthost import commits, sweeps
from smarthost.mail.errors import StoreError
from smarthost.mail.lease import Lease
from smarthost.mail.message import Message
from smarthost.mail.plan import Plan
from smarthost.mail.record import Kind, Record
from smarthost.mail.result import AttemptResult
from smarthost.mail.settlement import OwedReport, Settlement
from smarthost.queue.fairness import Slots
from smarthost.queue.memory import MemoryStore
from smarthost.queue.store import DueScan
from smarthost.settle import dsn
from smarthost.testing.world import SimulatedWorld


async def _hang(_: Sequence[Settlement]) -> None:
    """Commit nothing, ever."""
    await asyncio.get_running_loop().create_future()


@in_world(commit_delay_s=HOUR_S)
async def test_a_commit_that_hangs_is_451_within_minutes(world: SimulatedWorld) -> None:
    """The disk hangs for an hour: the client hears 451 while it still listens (RFC 5321 4.5.3.2.6)."""
    client = await world.client()
    started = world.clock.monotonic()

    reply = await client.send("ann@example.org", ("bob@example.net",))

    assert reply.startswith("451")
    assert world.clock.monotonic() - started < 600


@on_bench()
async def test_sending_waits_for_settlements_that_hang(bench: Bench) -> None:
    """What was sent and not recorded is sent again after a crash: a hanging disk bounds it, and then all goes on."""
    with patch.object(commits, "UNSETTLED", 50):
        settle, disk_works = bench.store.settle, asyncio.Event()

        async def settle_slowly(settlements: Sequence[Settlement]) -> None:
            await disk_works.wait()
            await settle(settlements)

        bench.store.settle = settle_slowly  # type: ignore[method-assign]
        bench.takes_s = lambda lease: 0.1
        for n in range(300):
            await bench.add(f"u{n}@example.net")
        await bench.clock.sleep(600)
        sent = len(bench.attempts)
        disk_works.set()
        await bench.clock.sleep(60)

    assert 50 <= sent <= 50 + 20
    assert 300 == len(bench.attempts)


@on_bench()
async def test_a_full_disk_holds_back_attempts_but_no_drain_that_may_be_cancelled(bench: Bench) -> None:
    """The store has said that it keeps what it cannot write: who only waits for an answer has one."""

    kept: list[Settlement] = []

    async def keep(settlements: Sequence[Settlement]) -> None:
        kept.extend(settlements)
        raise StoreError("no space left")

    bench.store.settle = keep  # type: ignore[method-assign]
    bench.store.in_hand = lambda: [(one.id, each.n) for one in kept for each in one.recipients]  # type: ignore[method-assign]
    with patch.object(commits, "UNSETTLED", 5):
        for n in range(10):
            await bench.add(f"u{n}@example.net")
        await bench.clock.sleep(60)
        attempt = asyncio.ensure_future(bench.journey.commits.until_settled())
        drain = asyncio.ensure_future(bench.journey.commits.until_answered(4))
        await bench.clock.sleep(60)
        waits = (attempt.done(), drain.done())
        attempt.cancel()

    assert len(kept) >= 5
    assert (False, True) == waits


@on_bench()
async def test_the_sweep_waits_for_its_settlements(bench: Bench) -> None:
    """A backlog that has expired is not read into memory whole while commits hang."""
    bench.verdict = lambda lease: DEFERRED
    for n in range(400):
        await bench.add(f"u{n}@example.net")
    await bench.clock.sleep(1)

    async def nothing_is_due(now: float, n: int) -> DueScan:
        return DueScan((), None)

    bench.store.due = nothing_is_due  # type: ignore[method-assign]
    bench.store.settle = _hang  # type: ignore[method-assign, assignment]
    told = len(bench.told)
    with patch.object(commits, "UNSETTLED", 50), patch.object(sweeps, "SWEEP_S", HOUR_S):
        await bench.clock.sleep(6 * 86_400)

    assert 100 == len(bench.told) - told


@on_bench()
async def test_a_bug_in_a_scan_does_not_end_all_scans(bench: Bench) -> None:
    """Anything but a StoreError out of the store: deferred mail is found all the same, later."""
    bench.verdict = lambda lease: DEFERRED
    await bench.add("bob@example.net")
    await bench.clock.sleep(1)
    bench.verdict = lambda lease: RELAYED

    async def buggy(now: float, n: int) -> DueScan:
        bench.store.due = lambda now, n: MemoryStore.due(bench.store, now, n)  # type: ignore[method-assign]
        raise ZeroDivisionError("a bug")

    bench.store.due = buggy  # type: ignore[method-assign]
    await bench.clock.sleep(HOUR_S)

    assert {"deferred": 1, "relayed": 1} == await bench.kinds()
    assert ["a loop failed"] == [what for what, _ in bench.notes]


@on_bench()
async def test_a_bug_in_a_sweep_does_not_end_all_sweeps(bench: Bench) -> None:
    """Anything but a StoreError out of the store: it is noted, and asked again a minute later."""
    sweeps: list[float] = []

    async def buggy(received_before: float, n: int) -> tuple[Lease, ...]:
        sweeps.append(received_before)
        raise ZeroDivisionError("a bug")

    bench.store.sweep = buggy  # type: ignore[method-assign]
    await bench.clock.sleep(601)

    assert 9 <= len(sweeps) <= 11
    assert len(sweeps) == len(bench.notes)


@on_bench(window=1)
async def test_a_slot_that_dies_strands_nothing_that_was_at_hand(bench: Bench) -> None:
    """Leases at hand are found by no scan of the store; somebody else takes them up within minutes."""
    bench.takes_s = lambda lease: 1.0
    told = bench.told

    class Buggy(list[Record]):
        def append(self, record: Record) -> None:
            if record.kind is Kind.ACCEPTED:
                return
            bench.told = told
            raise ZeroDivisionError("a bug in the sink")

    bench.told = Buggy()
    for n in range(5):
        await bench.add(f"u{n}@example.net")
    await bench.clock.sleep(300)

    assert {"relayed": 5} == await bench.kinds()
    assert ["a task failed"] == [what for what, _ in bench.notes]


@on_bench()
async def test_a_result_that_cannot_be_settled_defers_the_lease(bench: Bench) -> None:
    """As many verdicts as recipients are missing: the recipient is tried again, not leased for ever."""
    terms = bench.journey._terms

    async def short(lease: Lease, plan: Plan) -> AttemptResult:
        bench.journey._terms = terms
        return replace(await terms.attempt(lease, plan), verdicts=())

    bench.journey._terms = replace(terms, attempt=short)
    await bench.add("bob@example.net")
    await bench.clock.sleep(HOUR_S)

    assert {"deferred": 1, "relayed": 1} == await bench.kinds()


@on_bench()
async def test_a_crowd_of_destinations_shares_a_bounded_number_of_slots(bench: Bench) -> None:
    """500 unknown domains, 100 slots, a quarter kept for known ones: never more at once, and nobody is forgotten."""
    bench.journey._slots = Slots(100, 20)
    bench.takes_s = lambda lease: 1.0
    most = 0
    for n in range(500):
        await bench.add(f"bob@d{n}.example")
    for _ in range(100):
        await bench.clock.sleep(0.1)
        most = max(most, sum(bench.active.values()))

    assert 75 == most
    assert {"relayed": 500} == await bench.kinds()


@on_bench(window=4)
async def test_a_long_backlog_leaves_the_slots_to_others_in_turn(bench: Bench) -> None:
    """All slots serve one slow domain with a long queue: a newcomer waits for one attempt, not for the queue."""
    bench.journey._slots = Slots(4, 4)
    bench.takes_s = lambda lease: 1.0
    for n in range(100):
        await bench.add(f"u{n}@slow.example")

    await bench.add("bob@example.net")
    await bench.clock.sleep(3)

    assert "bob@example.net" in bench.who()
    await bench.clock.sleep(40)
    assert {"relayed": 101} == await bench.kinds()


@on_bench()
async def test_reports_that_cannot_be_written_do_not_hold_up_the_others(bench: Bench) -> None:
    """Ten debts of which no report can be made: the eleventh is filed at once."""
    bench.verdict = lambda lease: BOUNCED if lease.reverse_path else RELAYED
    good: list[str] = []
    write = dsn.report_message

    def poisoned(owed: OwedReport, **terms: Any) -> Message | None:
        if owed.id not in good:
            raise ZeroDivisionError("a bug in a DSN")
        return write(owed, **terms)

    with patch.object(dsn, "report_message", poisoned):
        for n in range(10):
            await bench.add(f"u{n}@example.net")
        await bench.clock.sleep(10)
        good.append((await bench.add("last@example.net")).id)
        await bench.clock.sleep(60)

    assert 1 == (await bench.kinds()).get("reported")
