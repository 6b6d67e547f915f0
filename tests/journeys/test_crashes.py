# SPDX-License-Identifier: MIT
"""A crash at every step of one life cycle: nothing acknowledged is lost, and doubled only what could not be known.

The life cycle has everything: a delivery, a greylisted recipient, a bounce with its report, an expiry. It is run once
without a crash to count its steps, then once for each step with a crash there. The ledgers are the client's and the
exchangers', not the relay's: what was heard with 250, and what arrived.
"""

from collections import Counter

import pytest
from tests.journeys.rig import DAY_S, assert_accounted, failed_in, reports, taken

from smarthost.queue.schedule import RetrySchedule
from smarthost.testing.mortal import Crash, Moment
from smarthost.testing.simulation import Simulation, run_simulation
from smarthost.testing.world import SimulatedWorld, WorldTerms

TERMS = WorldTerms(schedule=RetrySchedule(expire_after_s=1500.0))
FIRST = ("bob@example.net", "gone@example.com", "eve@example.com", "busy@example.com")
SECOND = ("cid@example.net", "x@tpyo.example")


async def live(simulation: Simulation, crash: Crash | None) -> SimulatedWorld:
    world = SimulatedWorld(simulation, TERMS, crash)
    home = world.site("example.org", "192.0.2.1")
    answers = {"gone@example.com": "550 5.1.1 unknown", "busy@example.com": "450 4.2.1 busy"}
    away = world.site("example.net", "192.0.2.2", greylist_first=True)
    other = world.site("example.com", "192.0.2.3", replies={"rcpt": answers})
    await world.start()

    await world.submit_until_heard("ann@example.org", *FIRST)
    await world.submit_until_heard("dan@example.org", *SECOND)
    await world.until_empty(within_s=DAY_S, step_s=10)
    await world.stop()

    assert_accounted(world)
    assert_all_arrived(world, taken(away) + taken(other))
    assert_all_reported(world, [failed_in(report) for report in reports(home)])
    return world


def assert_all_arrived(world: SimulatedWorld, arrived: Counter[str]) -> None:
    """Once for each 250; another copy only where the client sent again, or the host's 250 was not yet recorded."""
    sent = Counter(recipient for message in world.acknowledged for recipient in message.recipients)
    for recipient in ("bob@example.net", "eve@example.com", "cid@example.net"):
        unheard = world.crashes  # committed, 250 not heard: the client sends again
        doubt = sum(n for (_, whom), n in world.in_doubt.items() if whom == recipient)
        assert sent[recipient] <= arrived[recipient] <= sent[recipient] + unheard + doubt


def assert_all_reported(world: SimulatedWorld, failed: list[list[str]]) -> None:
    """Each failure is told, and not twice, unless the message or the report itself was doubled as above."""
    told = Counter(recipient for recipients in failed for recipient in recipients)
    ended = Counter(
        recipient for (_, recipient), kinds in world.endings().items() if kinds[0] in ("bounced", "expired")
    )
    doubt = sum(n for (_, whom), n in world.in_doubt.items() if whom.endswith("@example.org"))
    assert set(told) == {"gone@example.com", "busy@example.com", "x@tpyo.example"}
    for recipient, times in told.items():
        assert ended[recipient] <= times <= ended[recipient] + doubt, f"{recipient} told {times} times"


def run(crash: Crash | None) -> SimulatedWorld:
    return run_simulation(lambda simulation: live(simulation, crash), seed=3, until_s=10 * DAY_S)


def test_without_a_crash_each_arrives_and_is_reported_once() -> None:
    """The life cycle itself: what it counts is what the crashes below are put into."""
    world = run(None)

    assert {
        "accepted": 5,  # two messages, three reports
        "bounced": 2,
        "deferred": 5,
        "expired": 1,
        "relayed": 6,
        "reported": 3,
    } == world.kinds()
    assert 0 == world.crashes
    assert [1] * 3 == [
        sum(n for (_, whom), n in world.deliveries().items() if whom == recipient)
        for recipient in ("bob@example.net", "eve@example.com", "cid@example.net")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("moment", Moment)
def test_a_crash_at_any_step_loses_nothing(moment: Moment) -> None:
    """Before and after each commit, and before each chunk that arrives: after the restart all ends well."""
    quiet = run(None)
    steps = quiet.disk.commits if moment is Moment.BEFORE_COMMIT else quiet.moments[moment]

    for n in range(1, steps + 1):
        world = run(Crash(moment, n))
        assert 1 == world.crashes, f"{moment} {n} did not come"

    assert steps >= 14


@pytest.mark.slow
def test_two_crashes_lose_nothing_either() -> None:
    """A machine that dies again while it recovers: the restart itself has no weak moment."""
    for n in range(1, 40):
        world = run(Crash(Moment.BEFORE_CHUNK, n, down_s=1.0, again_after_s=0.005 * n))
        assert 2 == world.crashes
