# SPDX-License-Identifier: MIT
"""The journey by itself: stages in the hands of the test, so that each can fail, dawdle or change its mind."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence

import pytest
from msgspec.structs import replace

from smarthost import sweeps
from smarthost.mail.address import Address, to_domain
from smarthost.mail.content import InlineContent
from smarthost.mail.envelope import Envelope
from smarthost.mail.errors import StoreError
from smarthost.mail.hop import Host, SessionPolicy
from smarthost.mail.identity import IdSource, SequenceSource
from smarthost.mail.lease import Lease
from smarthost.mail.message import Message
from smarthost.mail.plan import NoPlan, Plan
from smarthost.mail.record import Kind, Record
from smarthost.mail.result import AttemptResult, Outcome, Verdict
from smarthost.mail.settlement import OwedReport, Settlement
from smarthost.operations import Operations, OperationsTerms
from smarthost.ports import Permit, Refused
from smarthost.queue.fairness import UNPROVEN_WINDOW
from smarthost.queue.memory import MemoryStore
from smarthost.queue.schedule import RetrySchedule
from smarthost.queue.store import Filter
from smarthost.relay import Journey, JourneyTerms
from smarthost.suspensions import Suspensions, SuspensionsTerms
from smarthost.testing.simulation import Simulation, run_simulation

RELAYED = Verdict(Outcome.RELAYED, "2.0.0", "taken")
DEFERRED = Verdict(Outcome.DEFERRED, "4.0.0", "not now")
BOUNCED = Verdict(Outcome.BOUNCED, "5.1.1", "never")


class Door:
    """A HostGate that refuses whoever is in `refused` (address -> until)."""

    def __init__(self) -> None:
        self.refused: dict[str, float] = {}

    def usable(self, source: str, address: str) -> Refused | None:
        until = self.refused.get(address)
        return None if until is None else Refused(until, f"{address} is shut")

    def admit(self, source: str, address: str) -> Permit | Refused:
        raise AssertionError("attempts are the test's here")


class FragileStore(MemoryStore):
    """Can fail what the journey's loops ask."""

    failure: StoreError | None = None
    reads_take_s = 0.0

    async def lease(self, domains: Collection[str], now: float, n: int) -> tuple[Lease, ...]:
        found = await super().lease(domains, now, n)
        assert self._clock is not None
        await self._clock.sleep(self.reads_take_s)
        return found

    def settle(self, settlements: Sequence[Settlement]) -> Awaitable[None]:
        return self._fail() if self.failure is not None else super().settle(settlements)

    async def lease_report(self, now: float) -> OwedReport | None:
        if self.failure is not None:
            raise self.failure
        return await super().lease_report(now)

    async def sweep(self, received_before: float, n: int) -> tuple[Lease, ...]:
        if self.failure is not None:
            raise self.failure
        return await super().sweep(received_before, n)

    async def _fail(self) -> None:
        assert self.failure is not None
        raise self.failure


class Bench:
    """A journey with everything around it in the hands of the test."""

    def __init__(
        self, simulation: Simulation, *, window: int = 20, delay_s: float = 0.002, first_s: float = 300.0
    ) -> None:
        self.clock = clock = simulation.clock
        self.store = FragileStore(clock, delay_s)
        self.gate = Door()
        self.notes: list[tuple[str, dict[str, object]]] = []
        self.told: list[Record] = []
        self.plans: dict[str, Plan | NoPlan | Exception] = {}
        self.planned: list[str] = []
        self.attempts: list[tuple[float, str, str]] = []  # when, first recipient, lane
        self.verdict: Callable[[Lease], Verdict] = lambda lease: RELAYED
        self.takes_s: Callable[[Lease], float] = lambda lease: 0.0
        self.active: dict[str, int] = {}
        self.most: dict[str, int] = {}
        next_seq = SequenceSource(clock.wall()).next
        self.store.draw_numbers_from(next_seq)
        self._next_id = IdSource(clock.wall, 1).next
        self.journey = Journey(
            JourneyTerms(
                store=self.store,
                clock=clock,
                random=simulation.random,
                sink=self,
                gate=self.gate,
                destination_of=lambda domain: domain,
                plan=self._plan,
                attempt=self._attempt,
                next_id=self._next_id,
                next_seq=next_seq,
                hostname="relay.example.org",
                schedule=RetrySchedule(first_s=first_s, jitter=0.0),
                sessions_per_lane=window,
                admit=lambda message: self.suspensions.hold_if_suspended(message),
            )
        )
        self.operations = Operations(
            OperationsTerms(
                store=self.store,
                clock=clock,
                sink=self,
                let_go=self.journey.let_go,
                look_again=self.journey.look_again,
                expect=self.journey.expect_wishes,
                asleep=self.journey.suspension,
                stopped=lambda domain: "",
                check_way=lambda way: None,
                plan_of=self._plan,
            )
        )
        self.suspensions = Suspensions(
            SuspensionsTerms(
                store=self.store,
                clock=clock,
                sink=self,
                next_seq=next_seq,
                change=self.operations.change,
                stop=self.journey.stop_destinations,
                look_again=self.journey.look_again,
            )
        )

    def record(self, record: Record) -> None:
        self.told.append(record)

    def note(self, level: str, what: str, **facts: object) -> None:
        self.notes.append((what, facts))

    async def _plan(self, destination: str) -> Plan | NoPlan:
        self.planned.append(destination)
        plan = self.plans.get(destination) or plan_for(destination)
        if isinstance(plan, Exception):
            raise plan
        return plan

    async def _attempt(self, lease: Lease, plan: Plan) -> AttemptResult:
        self.attempts.append((self.clock.monotonic(), lease.recipients[0].address, plan.lane))
        self.active[plan.lane] = self.active.get(plan.lane, 0) + 1
        self.most[plan.lane] = max(self.most.get(plan.lane, 0), self.active[plan.lane])
        try:
            await self.clock.sleep(self.takes_s(lease))
        finally:
            self.active[plan.lane] -= 1
        return AttemptResult(lease, self.clock.wall(), (self.verdict(lease),) * len(lease.recipients))

    async def start(self) -> None:
        await self.store.open()
        await self.journey.start()

    def message(self, *recipients: str) -> Message:
        addresses = tuple(Address(text, to_domain(text.partition("@")[2])) for text in recipients)
        envelope = Envelope("ann@example.org", addresses)
        return Message(self._next_id(), self.clock.wall(), envelope, b"", InlineContent(b"x\r\n"), "local", "local")

    async def add(self, *recipients: str) -> Message:
        """File a message and wait until it is durable. Raises: what `filed` was told."""
        message = self.message(*recipients)
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.journey.add(
            message, lambda failure: durable.set_exception(failure) if failure else durable.set_result(None)
        )
        await durable
        return message

    def who(self) -> list[str]:
        return [recipient for _, recipient, _ in self.attempts]

    async def kinds(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for record in await self.store.records(-1, 1 << 40):
            if record.kind is Kind.ACCEPTED:
                continue
            found[record.kind.value] = found.get(record.kind.value, 0) + 1
        return found


def plan_for(destination: str, lane: str = "", address: str = "192.0.2.1") -> Plan:
    hosts = (Host(f"mx.{destination}", (address,)),)
    return Plan(destination, lane or destination, hosts, SessionPolicy("relay.example.org"), "direct MX")


def on_bench(**options: float) -> Callable[[Callable[[Bench], Awaitable[None]]], Callable[[], None]]:
    """Make a test of a coroutine that gets a started journey; it is stopped at the end."""

    def decorate(scenario: Callable[[Bench], Awaitable[None]]) -> Callable[[], None]:
        def test() -> None:
            async def main(simulation: Simulation) -> None:
                bench = Bench(simulation, **options)  # type: ignore[arg-type]
                await bench.start()
                await scenario(bench)
                await bench.journey.stop(0.0)
                await bench.store.close()

            run_simulation(main, seed=1, until_s=1e6)

        test.__name__ = scenario.__name__
        test.__doc__ = scenario.__doc__
        test.__module__ = scenario.__module__
        return test

    return decorate


# Failures of ours


@on_bench()
async def test_a_failed_attempt_defers_and_never_bounces(bench: Bench) -> None:
    """An exception in the middle of an attempt is ours: logged once, 4.3.0, tried again on schedule."""

    def broken(lease: Lease) -> Verdict:
        raise ZeroDivisionError("a bug")

    bench.verdict = broken
    await bench.add("bob@example.net")
    await bench.clock.sleep(1)
    bench.verdict = lambda lease: RELAYED
    await bench.clock.sleep(301)

    assert ["attempt failed"] == [what for what, _ in bench.notes]
    assert ["", "4.3.0", "2.0.0"] == [record.status for record in bench.told]  # accepted, deferred, relayed
    assert {"deferred": 1, "relayed": 1} == await bench.kinds()


@on_bench()
async def test_failed_planning_suspends_the_destination_and_is_tried_again(bench: Bench) -> None:
    """A bug in planning costs its destination a minute, touches no recipient, and is noted once a minute."""
    bench.plans["example.net"] = ZeroDivisionError("a bug")
    await bench.add("bob@example.net")
    await bench.clock.sleep(30)
    page = await bench.operations.find(Filter(), None, 10)
    del bench.plans["example.net"]
    await bench.clock.sleep(31)

    assert "planning failed" in page.messages[0].recipients[0].why
    assert ["planning failed"] == [what for what, _ in bench.notes]
    assert {"relayed": 1} == await bench.kinds()


@on_bench()
async def test_a_client_that_cannot_be_answered_does_not_cost_the_message(bench: Bench) -> None:
    """Whoever is told that the message is durable may fail: it is on its way all the same."""

    def filed(failure: Exception | None) -> None:
        raise ZeroDivisionError("a bug in reception")

    loop = asyncio.get_running_loop()
    reports: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, report: reports.append(report))
    bench.journey.add(bench.message("bob@example.net"), filed)
    await bench.clock.sleep(1)

    assert 1 == len(reports)
    assert {"relayed": 1} == await bench.kinds()


@on_bench()
async def test_a_store_that_does_not_file_says_so(bench: Bench) -> None:
    """The client's side learns of the failure, and nothing is attempted."""
    await bench.store.close()

    with pytest.raises(StoreError, match="not open"):
        await bench.add("bob@example.net")

    assert [] == bench.attempts


@on_bench()
async def test_the_loops_outlive_a_store_in_trouble(bench: Bench) -> None:
    """Sweep and report are asked again a minute later, with a note each, and then do their work."""
    bench.verdict = lambda lease: BOUNCED if lease.reverse_path else RELAYED
    await bench.clock.sleep(1)
    await bench.add("gone@example.net")
    bench.store.failure = StoreError("broken")
    await bench.clock.sleep(180)
    bench.store.failure = None
    await bench.clock.sleep(180)

    noted = {what for what, _ in bench.notes}
    assert {"store does not say what is old", "reports wait for the store", "settlement waits for the store"} <= noted


# Lanes and plans


@on_bench(window=1)
async def test_a_lane_survives_another_one_falling_idle(bench: Bench) -> None:
    """While the only slot of a lane is busy for a minute, another lane's plans grow old: nobody is left waiting."""
    bench.takes_s = lambda lease: 60.0 if "slow" in lease.recipients[0].domain else 0.0
    await bench.add("a@slow.example")
    await bench.add("b@slow.example")
    await bench.clock.sleep(10)
    await bench.add("c@quick.example")
    await bench.clock.sleep(10)
    await bench.add("d@other.example")
    await bench.clock.sleep(120)

    assert ["a@slow.example", "c@quick.example", "d@other.example", "b@slow.example"] == bench.who()
    assert {"relayed": 4} == await bench.kinds()


@on_bench(window=2)
async def test_a_destination_that_moves_uses_the_new_lanes_window(bench: Bench) -> None:
    """When DNS moves a domain to other hosts, no slot of the old lane goes on with the new hosts."""
    bench.takes_s = lambda lease: 8.0
    for destination in ("one.example", "two.example"):
        bench.plans[destination] = plan_for(destination, lane="old")
    for n in range(6):
        await bench.add(f"a{n}@one.example")
        await bench.add(f"b{n}@two.example")
    await bench.clock.sleep(1)
    bench.plans["one.example"] = plan_for("one.example", lane="new")
    await bench.clock.sleep(6)
    await bench.add("late@one.example")  # wakes, and so plans, while the old lane's slots are busy
    await bench.clock.sleep(200)

    assert {"relayed": 13} == await bench.kinds()
    assert {"old": 2, "new": 2} == bench.most


@on_bench(window=1)
async def test_a_plan_is_asked_anew_for_a_long_backlog(bench: Bench) -> None:
    """Hosts of equal preference are drawn anew: every fifty messages, and every five seconds."""
    for n in range(120):
        await bench.add(f"u{n}@example.net")
    await bench.clock.sleep(1)
    by_count = len(bench.planned)
    await bench.clock.sleep(20)
    await bench.add("late@example.net")
    await bench.clock.sleep(1)

    assert 120 + 1 == len(bench.attempts)
    assert 3 == by_count
    assert 4 == len(bench.planned)


@on_bench()
async def test_a_large_backlog_on_disk_fills_the_window_at_once(bench: Bench) -> None:
    """After a restart a destination with much mail gets all its sessions, not one after the other."""
    bench.takes_s = lambda lease: 10.0
    for n in range(60):
        await bench.store.add(bench.message(f"u{n}@example.net"), ())
    await bench.clock.sleep(61)  # the feed was not told: its own scan finds them
    assert UNPROVEN_WINDOW == bench.most["example.net"]
    await bench.clock.sleep(10)  # one of the first has been answered

    assert 20 == bench.most["example.net"]


@on_bench()
async def test_what_is_known_of_lanes_does_not_grow(bench: Bench) -> None:
    """A thousand destinations, one message each: a minute later only the latest are remembered."""
    for n in range(1000):
        await bench.add(f"u@d{n}.example")
    for n in range(10):
        bench.plans[f"no{n}.example"] = NoPlan(f"no{n}.example", True, "5.1.2", "no such domain")
        await bench.add(f"u@no{n}.example")
    await bench.clock.sleep(60)
    await bench.add("u@last.example")
    await bench.clock.sleep(1)

    assert len(bench.attempts) == 1000 + 1 + 10, "the thousand, the last one, and the reports about no*.example"
    assert len(bench.journey._slots._lanes) == len(bench.journey._routes) <= 2
    assert len(bench.journey._feed._supplies) <= 2


# Time


@on_bench(first_s=5.0)
async def test_a_deferral_is_retried_on_time(bench: Bench) -> None:
    """Five seconds later, not at the next scan that comes by itself after a minute."""
    bench.verdict = lambda lease: DEFERRED
    await bench.clock.sleep(30)
    await bench.add("bob@example.net")
    await bench.clock.sleep(6)

    assert 2 == len(bench.attempts)
    assert bench.attempts[1][0] - bench.attempts[0][0] == pytest.approx(5.0, abs=0.1)


@on_bench(delay_s=0.5, first_s=5.0)
async def test_a_deferral_is_retried_on_time_whatever_is_scanned_meanwhile(bench: Bench) -> None:
    """A scan between a settlement and its commit does not see the new due time: it is kept all the same."""
    bench.verdict = lambda lease: DEFERRED
    await bench.add("bob@example.net")
    await bench.clock.sleep(0.2)
    bench.journey._feed.due_at(bench.clock.wall())
    bench.verdict = lambda lease: RELAYED
    await bench.clock.sleep(7)

    assert 2 == len(bench.attempts), "kept"
    assert bench.attempts[1][0] - bench.attempts[0][0] == pytest.approx(5.0, abs=0.1)


@on_bench(delay_s=0.5)
async def test_a_report_is_written_as_soon_as_the_bounce_is_durable(bench: Bench) -> None:
    """However slow the disk: the report follows its commit at once, not at the next look after a minute."""
    bench.verdict = lambda lease: BOUNCED if lease.reverse_path else RELAYED
    await bench.add("gone@example.net")
    await bench.clock.sleep(3)

    assert ["gone@example.net", "ann@example.org"] == bench.who()
    assert {"bounced": 1, "relayed": 1, "reported": 1} == await bench.kinds()


@on_bench()
async def test_shut_hosts_suspend_a_destination_without_touching_its_mail(bench: Bench) -> None:
    """A hundred messages for a host that may not be dialled: no attempt, no record, until it may be."""
    opens_at = bench.clock.wall() + 500
    bench.gate.refused["192.0.2.1"] = opens_at
    for n in range(100):
        await bench.add(f"u{n}@example.net")
    await bench.clock.sleep(490)
    early = len(bench.attempts), await bench.kinds()
    bench.gate.refused.clear()
    await bench.clock.sleep(11)

    assert (0, {}) == early
    assert {"relayed": 100} == await bench.kinds()


@pytest.mark.slow
@on_bench()
async def test_what_the_gate_never_let_pass_expires_with_a_report(bench: Bench) -> None:
    """Five days of waiting for a host that is never probed end like any other: warned of, expired, never attempted."""
    bench.plans["example.net"] = plan_for("example.net", address="192.0.2.9")
    bench.gate.refused["192.0.2.9"] = bench.clock.wall() + 1e9
    for n in range(25):
        await bench.add(f"u{n}@example.net")
    await bench.clock.sleep(5 * 86_400)
    early = await bench.kinds()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "SWEEP_LEASES", 10)
        await bench.clock.sleep(2 * 3600)

    assert {"changed": 25, "reported": 25, "relayed": 25} == early
    assert {"changed": 25, "expired": 25, "reported": 50, "relayed": 50} == await bench.kinds()
    assert 1 == len({round(record.at) for record in bench.told if record.kind is Kind.EXPIRED}), "in one go"
    expired = [record for record in bench.told if record.kind is Kind.EXPIRED]
    assert {0} == {record.attempt for record in expired}
    assert "never attempted" in expired[0].why
    assert (0, 0) == await bench.store.count()


# Stopping


@on_bench()
async def test_a_stop_begins_nothing_that_was_only_read(bench: Bench) -> None:
    """A slot that waits for leases from disk while we stop does not begin an attempt with them."""
    await bench.store.add(bench.message("bob@example.net"), ())
    bench.store.reads_take_s = 5.0
    await bench.clock.sleep(61)  # the feed was not told: its own scan finds it, and a slot reads

    await bench.journey.stop(30.0)

    assert [] == bench.attempts
    assert (1, 1) == await bench.store.count()


@on_bench(window=1)
async def test_a_stop_begins_nothing_that_waits(bench: Bench) -> None:
    """The attempt under way ends; what was at hand for the next turn of its slot is not begun."""
    bench.takes_s = lambda lease: 5.0
    for n in range(3):
        await bench.add(f"u{n}@example.net")
    await bench.clock.sleep(1)
    started = bench.clock.monotonic()

    await bench.journey.stop(30.0)

    assert ["u0@example.net"] == bench.who()
    assert bench.clock.monotonic() - started == pytest.approx(4, abs=0.1)
    assert {"relayed": 1} == await bench.kinds()


@on_bench()
async def test_a_stop_ends_at_its_grace(bench: Bench) -> None:
    """An attempt that takes longer than the grace is given up; its recipient is still deferred, and nobody owns it."""
    bench.takes_s = lambda lease: 500.0
    await bench.add("bob@example.net")
    await bench.clock.sleep(1)
    started = bench.clock.monotonic()

    await bench.journey.stop(10.0)

    assert 10 <= bench.clock.monotonic() - started < 10.1
    assert {} == await bench.kinds()
    assert (1, 1) == await bench.store.count()


@on_bench()
async def test_mail_taken_during_a_stop_is_kept_for_the_next_start(bench: Bench) -> None:
    """A message whose commit ends after the stop began is durable, and not attempted."""
    bench.takes_s = lambda lease: 3.0
    await bench.add("bob@example.net")
    await bench.clock.sleep(1)
    stopping = asyncio.ensure_future(bench.journey.stop(10.0))
    await bench.clock.sleep(0.01)

    await bench.add("late@example.net")
    await stopping
    await bench.clock.sleep(0.01)

    assert ["bob@example.net"] == bench.who()
    assert (1, 1) == await bench.store.count()


@on_bench()
async def test_find_shows_a_recipient_as_it_is_when_nothing_sleeps(bench: Bench) -> None:
    """Without a suspension the store's own word is shown."""
    bench.verdict = lambda lease: replace(DEFERRED, why="busy there")
    await bench.add("bob@example.net")
    await bench.clock.sleep(1)

    page = await bench.operations.find(Filter(), None, 10)

    assert "busy there" == page.messages[0].recipients[0].why
