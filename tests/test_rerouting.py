# SPDX-License-Identifier: MIT
"""The journey, when the routes are replaced at the worst moment: nothing is settled by what does not hold any more."""

import asyncio

from tests.test_relay import DEFERRED, RELAYED, Bench, on_bench, plan_for

from smarthost.mail.plan import NoPlan, Plan
from smarthost.queue.fairness import Slots
from smarthost.queue.schedule import RetrySchedule
from smarthost.sweeps import Sweeps, SweepTerms

REFUSED = NoPlan("example.net", permanent=True, status="5.7.1", why="refused", rule="route[1]")


def adopt(bench: Bench, *, window: int = 20, schedule: RetrySchedule | None = None) -> None:
    """Replace the routes as a reload does, after the test has changed its plans."""
    bench.journey.adopt(
        hostname="relay.example.org",
        schedule=schedule or RetrySchedule(jitter=0.0),
        sessions_per_lane=window,
        soft_bounce=False,
    )


async def add_on_disk(bench: Bench, *recipients: str) -> None:
    """File without telling the feed, as if it were from an earlier life; its scan finds it within a minute."""
    for recipient in recipients:
        await bench.store.add(bench.message(recipient), ())


@on_bench()
async def test_mail_that_was_about_to_be_refused_goes_once_it_has_a_route(bench: Bench) -> None:
    """The old route refused it, and its leases were being read: the new one takes it, and nothing bounces."""
    bench.plans["example.net"] = REFUSED
    bench.store.reads_take_s = 5.0
    await add_on_disk(bench, "bob@example.net", "eve@example.net")
    await bench.clock.sleep(62)  # the scan has found it, and a refill is under way

    del bench.plans["example.net"]
    adopt(bench)
    await bench.clock.sleep(30)

    assert await bench.kinds() == {"relayed": 2}
    assert (0, 0) == await bench.store.count()


@on_bench()
async def test_mail_that_was_about_to_go_is_refused_once_it_has_no_route(bench: Bench) -> None:
    """A lease that was read for the old hosts is not brought to them."""
    bench.store.reads_take_s = 5.0
    await add_on_disk(bench, "bob@example.net")
    await bench.clock.sleep(62)

    bench.plans["example.net"] = REFUSED
    adopt(bench)
    await bench.clock.sleep(30)

    assert "bob@example.net" not in bench.who()
    assert (await bench.kinds())["bounced"] == 1


@on_bench(window=1)
async def test_an_attempt_under_way_ends_as_it_began_and_the_next_goes_the_new_way(bench: Bench) -> None:
    """One session is in its transaction: it ends there; what was to follow in its slot goes to the new lane at once."""
    bench.takes_s = lambda lease: 10.0
    bench.plans["example.net"] = plan_for("example.net", lane="old")
    for n in range(3):
        await bench.add(f"u{n}@example.net")
    await bench.clock.sleep(1)

    bench.plans["example.net"] = plan_for("example.net", lane="new", address="192.0.2.2")
    adopt(bench, window=2)
    await bench.clock.sleep(1)
    lanes = [lane for _, _, lane in bench.attempts]
    await bench.clock.sleep(30)

    assert lanes == ["old", "new", "new"]
    assert await bench.kinds() == {"relayed": 3}


@on_bench()
async def test_a_plan_that_was_being_made_is_made_again(bench: Bench) -> None:
    """DNS was asked by the old routes; what it says then counts no more."""
    old_plan = bench._plan
    asked: list[str] = []

    async def slowly(destination: str) -> Plan | NoPlan:
        asked.append(destination)
        found = await old_plan(destination)
        await bench.clock.sleep(5.0)
        return found

    bench.journey._terms = bench.journey._terms.__class__(
        **{
            **{name: getattr(bench.journey._terms, name) for name in bench.journey._terms.__struct_fields__},
            "plan": slowly,
        }
    )
    bench.plans["example.net"] = plan_for("example.net", lane="old")
    await bench.add("bob@example.net")
    await bench.clock.sleep(1)

    bench.plans["example.net"] = plan_for("example.net", lane="new")
    adopt(bench)
    await bench.clock.sleep(30)

    assert [lane for _, _, lane in bench.attempts] == ["new"]
    assert asked == ["example.net"] * 2


@on_bench()
async def test_a_slot_that_waited_for_the_disk_does_not_go_the_old_way(bench: Bench) -> None:
    """The disk hangs, the routes are replaced, the disk is back: what the slot gets now is not for its old hosts."""
    disk = asyncio.Event()
    bench.journey._commits.until_settled = disk.wait  # type: ignore[assignment,method-assign]
    bench.plans["example.net"] = plan_for("example.net", lane="old")
    await bench.add("bob@example.net")
    await bench.clock.sleep(1)

    bench.plans["example.net"] = plan_for("example.net", lane="new")
    adopt(bench)
    await bench.clock.sleep(1)
    disk.set()
    await bench.clock.sleep(5)

    assert [lane for _, _, lane in bench.attempts] == ["new"]


@on_bench()
async def test_a_refusal_that_waited_for_the_disk_is_not_carried_out(bench: Bench) -> None:
    """Nothing bounces by a route that is gone, however late the disk is back."""
    disk = asyncio.Event()
    bench.journey._commits.until_settled = disk.wait  # type: ignore[assignment,method-assign]
    bench.plans["example.net"] = REFUSED
    await bench.add("bob@example.net")
    await bench.clock.sleep(1)

    bench.plans["example.net"] = plan_for("example.net")
    adopt(bench)
    await bench.clock.sleep(1)
    disk.set()
    await bench.clock.sleep(5)

    assert await bench.kinds() == {"relayed": 1}


def test_every_lane_has_the_new_window_and_nobody_in_its_turns() -> None:
    """A lane that is in use may have more sessions at once, or fewer; whose turn it was comes back with a new plan."""
    slots = Slots(100, 1)
    lane = slots.lane("mx.example.net")
    lane.want("example.net")
    assert [slots.take(lane), slots.take(lane)] == [True, False]

    slots.adopt(3)
    assert lane.turn() is None
    lane.want("example.net")
    assert [slots.take(lane), slots.take(lane), slots.take(lane)] == [True, True, False]
    assert slots.lane("mx.example.org").window == 3


def test_the_loop_for_warnings_is_begun_once() -> None:
    """It is begun when warnings are wanted for the first time, and rests while they are not."""
    never, soon = RetrySchedule(delay_warning_s=0.0), RetrySchedule(delay_warning_s=60.0)
    loops = Sweeps(SweepTerms(None, None, None, never, None, None, None, None))  # type: ignore[arg-type]

    assert [len(loops.adopt(each)) for each in (never, soon, never, soon)] == [0, 1, 0, 0]


@on_bench()
async def test_a_destination_that_slept_is_looked_at_again_at_once(bench: Bench) -> None:
    """All its hosts were shut for an hour; its new one is not."""
    bench.gate.refused["192.0.2.1"] = bench.clock.wall() + 3600
    await bench.add("bob@example.net")
    await bench.clock.sleep(5)
    assert bench.journey.suspended() == ("example.net",)

    bench.plans["example.net"] = plan_for("example.net", address="192.0.2.2")
    adopt(bench)
    await bench.clock.sleep(1)

    assert await bench.kinds() == {"relayed": 1}
    assert bench.journey.suspended() == ()


@on_bench()
async def test_the_new_schedule_counts_from_the_next_attempt(bench: Bench) -> None:
    """What is deferred keeps its time; the deferral after that is by the new schedule."""
    bench.verdict = lambda lease: DEFERRED
    await bench.add("bob@example.net")
    await bench.clock.sleep(1)

    adopt(bench, schedule=RetrySchedule(first_s=10.0, longest_s=10.0, jitter=0.0))
    await bench.clock.sleep(290)
    assert len(bench.attempts) == 1
    await bench.clock.sleep(15)
    bench.verdict = lambda lease: RELAYED
    await bench.clock.sleep(10)

    assert len(bench.attempts) == 3
    assert (await bench.kinds())["relayed"] == 1


@on_bench()
async def test_warnings_of_delays_begin_and_end_with_the_schedule(bench: Bench) -> None:
    """No warning was wanted; once it is, it comes, and the loop for it runs once however often that changes."""
    for seconds in (0.0, 60.0, 0.0, 60.0):
        adopt(bench, schedule=RetrySchedule(delay_warning_s=seconds))
    bench.gate.refused["192.0.2.1"] = bench.clock.wall() + 1e6
    await bench.add("bob@example.net")
    await bench.clock.sleep(600)

    assert (await bench.kinds()).get("reported") == 1


@on_bench()
async def test_a_pause_stays_a_pause(bench: Bench) -> None:
    """Other routes wake nobody while nothing may be tried."""
    bench.journey.pause()
    await bench.add("bob@example.net")
    adopt(bench)
    await bench.clock.sleep(120)
    assert bench.attempts == []

    bench.journey.end_pause()
    await bench.clock.sleep(1)
    assert len(bench.attempts) == 1
