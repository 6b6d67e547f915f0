# SPDX-License-Identifier: MIT
"""The auditor in whole lives: silent while all is in order, and the one who notices when it is not."""

import asyncio

from msgspec.structs import replace
from tests.journeys.rig import DAY_S, HOUR_S, SlowExchanger, assert_accounted, ends, in_world, noted, taken

from smarthost.auditor import LOOK_S
from smarthost.mail.lease import Lease
from smarthost.mail.plan import Plan
from smarthost.mail.result import AttemptResult
from smarthost.queue.schedule import RetrySchedule
from smarthost.testing.world import SimulatedWorld

VIOLATED = "progress invariant violated"


def assert_sound(world: SimulatedWorld, rounds: int) -> None:
    """Nothing was found, and it was looked for."""
    assert [] == noted(world, VIOLATED)
    figures = world.delivery.auditor.figures
    assert {} == figures.findings
    assert rounds <= figures.rounds


@in_world(schedule=RetrySchedule(expire_after_s=2 * DAY_S))
async def test_ordinary_days_have_no_finding(world: SimulatedWorld) -> None:
    """Mail that arrives, is greylisted, refused, waits for dead hosts or nameless domains, expires and is reported."""
    world.site("good.example", "192.0.2.1")
    world.site("grey.example", "192.0.2.2", greylist_first=True)
    world.site("full.example", "192.0.2.3", replies={"rcpt": "452 4.2.2 full"})
    world.site("no.example", "192.0.2.4", replies={"rcpt": "550 5.1.1 unknown"})
    world.site("example.org", "192.0.2.5")
    world.domain("dead.example", "192.0.2.6")
    world.domain("slow.example", "192.0.2.7")
    world.place(SlowExchanger(), "192.0.2.7")
    for n in range(3):
        domains = ("good", "grey", "full", "no", "dead", "slow", "nameless")
        await world.submit(f"ann{n}@example.org", *[f"bob{n}@{domain}.example" for domain in domains])
        await world.clock.sleep(7 * HOUR_S)
    await world.until_empty(within_s=4 * DAY_S, step_s=60.0)

    assert_sound(world, 400)
    assert_accounted(world)


@in_world()
async def test_a_disk_that_stops_for_minutes_is_no_violation(world: SimulatedWorld) -> None:
    """Verdicts heard meanwhile are kept by the store, and their recipients are nobody's orphans."""
    slow = SlowExchanger()
    world.domain("slow.example", "192.0.2.1")
    world.place(slow, "192.0.2.1")
    await world.submit("ann@example.org", "bob@slow.example", "carol@slow.example")
    world.break_disk()
    await world.clock.sleep(20 * LOOK_S)
    await world.repair()
    await world.until_empty()

    assert {"bob@slow.example": 1, "carol@slow.example": 1} == taken(slow)
    assert_sound(world, 0)
    assert_accounted(world)


@in_world()
async def test_a_released_backlog_is_in_order(world: SimulatedWorld) -> None:
    """A host comes back after hours: hundreds are due at once, and wait their turn in many turns."""
    world.domain("slow.example", "192.0.2.1")
    for n in range(300):
        await world.submit("ann@example.org", f"user{n}@slow.example")
    await world.clock.sleep(3 * HOUR_S)
    slow = world.place(SlowExchanger(), "192.0.2.1")
    slow.delay_s = 20.0
    await world.until_empty(within_s=DAY_S, step_s=60.0)

    assert 300 == len(taken(slow))
    assert_sound(world, 30)
    assert_accounted(world)


@in_world()
async def test_an_attempt_that_dies_without_a_word_costs_two_minutes(world: SimulatedWorld) -> None:
    """A bug that ends an attempt and its task: the recipient is found, recorded once, and the mail arrives once."""
    site = world.site("example.net", "192.0.2.1")
    deaths = [asyncio.CancelledError()]
    attempt = world.journey._terms.attempt

    async def dying(lease: Lease, plan: Plan) -> AttemptResult:
        if deaths:
            raise deaths.pop()
        return await attempt(lease, plan)

    world.journey._terms = replace(world.journey._terms, attempt=dying)
    await world.submit("ann@example.org", "bob@example.net")
    await world.until_empty(within_s=2 * LOOK_S + 5)

    assert {"bob@example.net": 1} == taken(site)
    assert {"accepted": 1, "relayed": 1, "repaired": 1} == world.kinds()
    assert {"bob@example.net": "relayed"} == ends(world)
    assert [True] == [violation["repaired"] for violation in noted(world, VIOLATED)]
    assert_accounted(world)
