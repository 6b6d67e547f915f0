# SPDX-License-Identifier: MIT
"""auditor: what nobody has is taken back, what nobody looks for is looked for, and ordinary lives are left alone."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.backends.test_sqlite_store import kill_child, opened
from tests.ops.rig import CollectingSink
from tests.test_relay import DEFERRED, RELAYED, Bench, Door, plan_for

from smarthost.auditor import LOOK_S, NOTES, ROUND_S, Auditor, AuditorTerms, check_all, find_lease_faults
from smarthost.backends.clock import SystemClock
from smarthost.backends.sqlite import wire
from smarthost.mail.errors import StoreError
from smarthost.mail.identity import SequenceSource
from smarthost.mail.lease import Lease
from smarthost.mail.plan import Plan
from smarthost.mail.record import Kind, Record
from smarthost.mail.result import AttemptResult, Verdict
from smarthost.mail.settlement import State
from smarthost.queue.audit import Bounds, Claim, Fault, Finding, SuspectPage
from smarthost.queue.schedule import RetrySchedule
from smarthost.queue.store import Filter
from smarthost.relay import Journey, JourneyTerms
from smarthost.testing.simulation import Simulation, run_simulation
from smarthost.testing.stores.trial import NOW, Trial

HOUR_S = 3600.0
Scenario = Callable[["Watched"], Awaitable[None]]


class Watched(Bench):
    """A journey with its auditor."""

    def __init__(self, simulation: Simulation, **options: float) -> None:
        super().__init__(simulation, **options)  # type: ignore[arg-type]
        next_seq = SequenceSource(self.clock.wall() + HOUR_S).next
        self.auditor = Auditor(AuditorTerms(self.store, self.journey, self.clock, self, next_seq))

    async def start(self) -> None:
        await super().start()
        for loop in self.auditor.loops:
            self.journey.keep_running(loop)

    def violations(self) -> list[dict[str, object]]:
        return [facts for what, facts in self.notes if what == "progress invariant violated"]

    def repairs(self) -> list[Record]:
        return [record for record in self.told if record.kind is Kind.REPAIRED]

    async def check(self) -> list[Finding]:
        return [finding async for finding in self.auditor.check() if finding is not None]


def watched(**options: float) -> Callable[[Scenario], Callable[[], None]]:
    """Make a test of a coroutine that gets a started journey with its auditor."""

    def decorate(scenario: Scenario) -> Callable[[], None]:
        def test() -> None:
            async def main(simulation: Simulation) -> None:
                bench = Watched(simulation, **options)
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


def dies_once(bench: Bench, then: Verdict = RELAYED) -> None:
    """Let the first attempt end without a word and without a settlement."""
    verdicts: list[Verdict | None] = [None]

    def verdict(lease: Lease) -> Verdict:
        if verdicts:
            verdicts.pop()
            raise asyncio.CancelledError
        return then

    bench.verdict = verdict


# Leases that nobody has


@watched()
async def test_a_lease_whose_attempt_died_is_taken_back_within_two_minutes(bench: Watched) -> None:
    """The task of an attempt ends without settling: its recipient is due again, with one record of why."""
    dies_once(bench)
    message = await bench.add("bob@example.net")
    await bench.clock.sleep(1)
    stuck = await bench.kinds()
    await bench.clock.sleep(2 * LOOK_S)

    assert {} == stuck
    assert {"repaired": 1, "relayed": 1} == await bench.kinds()
    assert (0, 0) == await bench.store.count()
    (record,) = bench.repairs()
    assert (message.id, "bob@example.net", "ann@example.org") == (record.id, record.recipient, record.reverse_path)
    assert "nobody will ever touch" in record.why
    (violation,) = bench.violations()
    assert (message.id, "bob@example.net", "no owner", True) == (
        violation["id"], violation["recipient"], violation["fault"], violation["repaired"],
    )  # fmt: skip
    assert ({"no owner": 1}, 1) == (bench.auditor.figures.findings, bench.auditor.figures.repaired)


@pytest.mark.slow
@watched()
async def test_without_the_auditor_it_would_lie_there_for_ever(bench: Watched) -> None:
    """The fault is real: even the sweep at the end of its time passes over what is leased."""
    bench.auditor._look = lambda doubted: _nothing()  # type: ignore[method-assign]
    dies_once(bench)
    await bench.add("bob@example.net")
    await bench.clock.sleep(5.5 * 24 * HOUR_S)

    assert {} == await bench.kinds()
    assert (1, 1) == await bench.store.count()


async def _nothing() -> list[Finding]:
    return []


@watched()
async def test_an_attempt_that_forgets_one_recipient_loses_only_a_minute(bench: Watched) -> None:
    """What a settlement leaves out is found, and only that."""
    journey = bench.journey
    decide = journey._decide
    forgotten: list[str] = []

    def forgetful(result: object) -> object:
        settlement = decide(result)  # type: ignore[arg-type]
        if forgotten:
            return settlement
        forgotten.append(settlement.recipients[-1].address)
        return type(settlement)(settlement.id, settlement.recipients[:-1], settlement.records[:-1])

    journey._decide = forgetful  # type: ignore[assignment, method-assign]
    await bench.add("bob@example.net", "carol@example.net")
    await bench.clock.sleep(2 * LOOK_S + 1)

    assert {"repaired": 1, "relayed": 2} == await bench.kinds()
    assert forgotten == [record.recipient for record in bench.repairs()]


@watched()
async def test_leases_that_a_sweep_dropped_go_back_to_their_schedule(bench: Watched) -> None:
    """A bug between the sweep and its settlement: the next attempt comes when it was to come, and counts the same."""
    bench.verdict = lambda lease: DEFERRED
    await bench.add("bob@example.net")
    await bench.clock.sleep(1)
    due = (await bench.store.find(Filter(), None, 10)).messages[0].recipients[0].due
    assert await bench.store.sweep_delayed(bench.clock.wall() + 1, 10)
    await bench.clock.sleep(2 * LOOK_S)

    (recipient,) = (await bench.store.find(Filter(), None, 10)).messages[0].recipients
    assert (due, 1, "deferred") == (recipient.due, recipient.attempts, recipient.state)
    await bench.clock.sleep(300)
    assert {"deferred": 2, "repaired": 1} == await bench.kinds()


@watched()
async def test_an_operators_word_upon_an_orphan_counts(bench: Watched) -> None:
    """Who cancels what nobody has sees it cancelled, with the one terminal record that is due."""
    dies_once(bench)
    await bench.add("bob@example.net")
    await bench.clock.sleep(1)
    changed = await bench.operations.change(Filter(), "cancel", None, 100)
    await bench.clock.sleep(2 * LOOK_S)

    assert 1 == len(changed.wished)
    assert {"cancelled": 1} == await bench.kinds()
    assert (0, 0) == await bench.store.count()


@watched()
async def test_a_lease_of_what_is_gone_is_forgotten(bench: Watched) -> None:
    """A lease without a recipient delivers nothing; it goes without a record."""
    message = await bench.add("bob@example.net")
    await bench.clock.sleep(1)
    bench.store._leases.take(message.id, 1, 0, "example.net")
    await bench.clock.sleep(2 * LOOK_S)

    assert [] == list(bench.store.leased())
    assert {"relayed": 1} == await bench.kinds()
    assert [True] == [violation["repaired"] for violation in bench.violations()]


@watched()
async def test_a_flood_of_faults_is_counted_and_not_told_one_by_one(bench: Watched) -> None:
    """A hundred lost leases are a hundred repairs, and a few lines of log."""
    for n in range(100):
        await bench.store.add(bench.message(f"user{n}@example.net"), ("example.net",))
    await bench.clock.sleep(3 * LOOK_S)

    assert {"repaired": 100, "relayed": 100} == await bench.kinds()
    assert NOTES + 1 == len(bench.violations())
    assert 100 - NOTES == bench.violations()[-1]["more"]
    assert 100 == bench.auditor.figures.repaired


# Too many owners, and owners that never end


@watched()
async def test_two_who_work_on_one_recipient_are_told_of(bench: Watched) -> None:
    """A lease that was given back while its attempt goes on is leased again: nobody's is taken, everybody hears."""
    leases: list[Lease] = []

    def takes_s(lease: Lease) -> float:
        leases.append(lease)
        return 600.0

    bench.takes_s = takes_s
    await bench.add("bob@example.net")
    await bench.clock.sleep(1)
    bench.store.give_back(leases[0])
    bench.journey.look_again()
    await bench.clock.sleep(3 * LOOK_S)

    assert 2 == len(leases)
    assert [("many owners", False)] == [(each["fault"], each["repaired"]) for each in bench.violations()]
    assert "an attempt and an attempt" in str(bench.violations()[0]["why"])


@watched()
async def test_an_attempt_that_hangs_for_days_is_told_of_now_and_then(bench: Watched) -> None:
    """Its lease is not taken away: the host may have the message. But somebody should look."""
    bench.takes_s = lambda lease: 48 * HOUR_S
    await bench.add("bob@example.net")
    await bench.clock.sleep(24 * HOUR_S)
    early = len(bench.violations())
    await bench.clock.sleep(2.5 * HOUR_S)

    assert 0 == early
    assert [("overdue", False)] * 3 == [(each["fault"], each["repaired"]) for each in bench.violations()]


@watched()
async def test_work_at_hand_that_no_slot_takes_is_told_of(bench: Watched) -> None:
    """All slots of a lane are lost by a bug: what waits for a turn says so after a day."""
    bench.takes_s = lambda lease: 1e6
    for n in range(21):
        await bench.add(f"user{n}@example.net")
    await bench.clock.sleep(23 * HOUR_S)
    early = len(bench.violations())
    await bench.clock.sleep(2 * HOUR_S)

    assert 0 == early
    assert any("the feed" in str(each["why"]) for each in bench.violations())


# Ordinary lives


@watched(delay_s=200.0)
async def test_a_disk_that_hangs_for_minutes_makes_no_orphan(bench: Watched) -> None:
    """What is on its way into the store, or out of it, has an owner however long that takes."""
    filing = asyncio.ensure_future(bench.add("bob@example.net"))
    await bench.clock.sleep(700)

    assert filing.done()
    assert {"relayed": 1} == await bench.kinds()
    assert ["bob@example.net"] == bench.who()
    assert [] == bench.violations()


@watched()
async def test_who_leases_otherwise_says_so_and_keeps_its_leases(bench: Watched) -> None:
    """Another part of the relay that works on leases for minutes is asked, too."""
    message = bench.message("bob@example.net")
    await bench.store.add(message, ("example.net",))
    bench.journey.add_claimant(lambda: [Claim(message.id, 0, "the move", bench.clock.wall())])
    await bench.clock.sleep(5 * LOOK_S)

    assert [] == bench.violations()
    assert [(message.id, 0)] == list(bench.store.leased())


@watched()
async def test_mail_that_waits_for_a_broken_host_or_the_end_of_a_pause_is_in_order(bench: Watched) -> None:
    """Due for days, and nobody touches it: but there is a time at which somebody will."""
    bench.plans["dead.example"] = plan_for("dead.example", address="192.0.2.9")
    bench.gate.refused["192.0.2.9"] = bench.clock.wall() + 7 * HOUR_S
    await bench.add("bob@dead.example")
    await bench.clock.sleep(3 * HOUR_S)
    bench.journey.pause()
    await bench.add("carol@example.net")
    await bench.clock.sleep(8 * HOUR_S)
    bench.gate.refused.clear()
    bench.journey.end_pause()
    await bench.clock.sleep(HOUR_S)

    assert [] == bench.violations()
    assert {"relayed": 2} == await bench.kinds()


# What lies in the store


class DeafAlarm:
    """A deadline that never comes."""

    def restart(self, seconds: float) -> None: ...

    def cancel(self) -> None: ...


@watched()
async def test_a_lost_wake_up_is_found_and_mended(bench: Watched) -> None:
    """The timer of the next retry is lost: the mail is overdue, is found in the store, and goes on its way."""
    bench.verdict = lambda lease: DEFERRED
    message = await bench.add("bob@example.net")
    await bench.clock.sleep(1)
    bench.verdict = lambda lease: RELAYED
    bench.journey._feed._alarm.cancel()
    bench.journey._feed._alarm = DeafAlarm()
    await bench.clock.sleep(590)
    before = await bench.kinds()
    await bench.clock.sleep(2 * ROUND_S + 20)

    assert {"deferred": 1} == before
    assert {"deferred": 1, "relayed": 1} == await bench.kinds()
    (violation,) = bench.violations()
    assert (message.id, "overdue", True) == (violation["id"], violation["fault"], violation["repaired"])
    assert "nobody knows of it" in str(violation["why"])


@watched()
async def test_rounds_and_recipients_are_counted(bench: Watched) -> None:
    """An operator sees that the auditor is at work, and when it was last through."""
    bench.verdict = lambda lease: DEFERRED
    for n in range(3):
        await bench.add(f"user{n}@example.net")
    await bench.clock.sleep(3 * ROUND_S)

    figures = bench.auditor.figures
    assert (3, {}, 0) == (figures.rounds, figures.findings, figures.repaired)
    assert 3 * 3 == figures.recipients
    assert 14 <= figures.looks <= 15
    assert bench.clock.wall() - ROUND_S <= figures.ended_at <= bench.clock.wall()


@watched()
async def test_a_store_that_does_not_answer_is_asked_again(bench: Watched) -> None:
    """The auditor outlives a store in trouble, and says why it sees nothing."""
    suspects = bench.store.suspects

    async def fails(bounds: Bounds, cursor: str | None, n: int) -> SuspectPage:
        raise StoreError("the disk is away")

    bench.store.suspects = fails  # type: ignore[method-assign]
    await bench.clock.sleep(ROUND_S)
    bench.store.suspects = suspects  # type: ignore[method-assign]
    await bench.clock.sleep(ROUND_S)

    assert ["store does not say what it holds"] == [what for what, _ in bench.notes]
    assert 1 == bench.auditor.figures.rounds


# By hand


@watched()
async def test_a_check_by_hand_finds_and_repairs_at_once(bench: Watched) -> None:
    """Nobody has to wait for the next look."""
    dies_once(bench)
    await bench.add("bob@example.net")
    await bench.clock.sleep(1)
    (finding,) = await bench.check()
    await bench.clock.sleep(1)

    assert (Fault.NO_OWNER, "bob@example.net", True) == (finding.fault, finding.recipient, finding.is_repaired)
    assert {"repaired": 1, "relayed": 1} == await bench.kinds()
    assert [] == await bench.check()


@watched()
async def test_a_check_of_all_at_once_sees_both_halves(bench: Watched) -> None:
    """What a simulation asks each minute: leases that nobody has, and rows that nobody looks for."""
    bench.verdict = lambda lease: DEFERRED
    await bench.add("ann@example.net")
    await bench.clock.sleep(1)
    sound = await check_all(bench.store, bench.journey)
    dies_once(bench)
    await bench.add("bob@example.net")
    bench.journey._feed._alarm.cancel()
    bench.journey._feed._alarm = DeafAlarm()
    await bench.clock.sleep(1)
    bench.auditor._look = lambda doubted: _nothing()  # type: ignore[method-assign]
    await bench.clock.sleep(602)

    assert () == sound
    found = await check_all(bench.store, bench.journey)
    assert [Fault.NO_OWNER, Fault.OVERDUE] == [finding.fault for finding in found]


@pytest.mark.parametrize("messages", [2_500])
def test_a_check_walks_all_pages(messages: int) -> None:
    """More recipients than fit on a page: all are looked at, a bit at a time."""

    async def main(simulation: Simulation) -> None:
        bench = Watched(simulation)
        await bench.store.open()
        for n in range(messages):
            await bench.store.add(bench.message(f"user{n}@example.net"), ())

        assert [] == await bench.check()
        assert messages == bench.auditor.figures.recipients

    run_simulation(main, seed=1)


# On SQLite


@pytest.mark.asyncio
async def test_what_a_broken_database_keeps_is_in_the_stores_hand(tmp_path: Path) -> None:
    """A verdict heard while the database is away has an owner until it is durable at last."""
    async with opened(tmp_path) as trial:
        message, (lease,) = await trial.add_leased("a@dest.example")
        kill_child(trial)
        while trial.store.refusal is None:
            await asyncio.sleep(0.001)
        with pytest.raises(StoreError):
            await trial.store.settle([trial.settlement(lease, State.RELAYED)])
        kept = list(trial.store.in_hand())
        await until_settled(trial)

        assert [(message.id, 0)] == kept
        assert (0, 0) == await trial.store.count()
        assert [] == list(trial.store.leased()) == list(trial.store.in_hand())


async def until_settled(trial: Trial) -> None:
    while list(trial.store.in_hand()):
        await asyncio.sleep(0.005)


@pytest.mark.asyncio
async def test_leases_that_a_slow_read_collects_are_in_the_stores_hand(tmp_path: Path) -> None:
    """A read in several rounds has leased already what it will hand out only at the end."""
    async with opened(tmp_path) as trial:
        messages = [await trial.add("a@dest.example") for _ in range(2)]
        keeper = trial.store._keeper  # type: ignore[attr-defined]
        ask, rounds, seen = keeper.ask, [0], []

        async def slow(question: object, answer: object) -> object:
            if isinstance(question, wire.AskLease):
                rounds[0] += 1
                if rounds[0] == 1:  # as if another had leased one of them while this was read
                    found = await ask(question, answer)
                    key = found.messages[1].key
                    trial.store._leases.take(messages[1].id, key, 0, "dest.example")  # type: ignore[attr-defined]
                    return found
                seen.append((sorted(trial.store.leased()), sorted(trial.store.in_hand())))
            return await ask(question, answer)

        keeper.ask = slow
        (lease,) = await trial.store.lease(["dest.example"], NOW, 10)

        assert messages[0].id == lease.id
        assert [([(each.id, 0) for each in messages], [(messages[0].id, 0)])] == seen
        assert [] == list(trial.store.in_hand())


@pytest.mark.asyncio
async def test_an_orphan_on_sqlite_is_taken_back_with_its_record(tmp_path: Path) -> None:
    """The whole way on the store that serves: found, settled as it was, recorded, due again."""
    async with opened(tmp_path) as trial:
        clock, told = SystemClock(), CollectingSink()
        due = clock.wall() - 10
        message = trial.message("a@dest.example", received_at=due)
        await trial.store.add(message, ("dest.example",))
        journey = Journey(journey_terms(trial, clock, told))
        auditor = Auditor(AuditorTerms(trial.store, journey, clock, told, trial.next_seq))
        faults = find_lease_faults(trial.store, journey)
        await auditor._look(frozenset([(each.id, each.n, each.fault) for each in faults]))
        await until_settled(trial)

        assert [Fault.NO_OWNER] == [each.fault for each in faults]
        assert [] == list(trial.store.leased())
        (record,) = await trial.all_records()
        assert (Kind.REPAIRED, message.id, "a@dest.example") == (record.kind, record.id, record.recipient)
        (lease,) = await trial.store.lease(["dest.example"], clock.wall(), 10)
        assert (due, 0) == (lease.recipients[0].due or due, lease.recipients[0].attempts)
        await journey.stop(0.0)


def journey_terms(trial: Trial, clock: SystemClock, sink: CollectingSink) -> JourneyTerms:
    """Give a journey that nobody starts."""

    async def nowhere(destination: str) -> Plan:
        return plan_for(destination)

    async def never(lease: Lease, plan: Plan) -> AttemptResult:
        raise AssertionError("nothing is attempted")

    return JourneyTerms(
        store=trial.store,
        clock=clock,
        random=random.Random(1),
        sink=sink,
        gate=Door(),
        destination_of=lambda domain: domain,
        plan=nowhere,
        attempt=never,
        next_id=lambda: "",
        next_seq=trial.next_seq,
        hostname="relay.example.org",
        schedule=RetrySchedule(),
    )
