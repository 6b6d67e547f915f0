# SPDX-License-Identifier: MIT
"""What an operator wants of mail that is being tried right now is done as soon as that attempt has ended."""

from tests.journeys.rig import SlowExchanger, in_world, times_of

from smarthost.testing.world import SimulatedWorld


@in_world()
async def test_a_retry_said_during_an_attempt_is_made_when_it_ends(world: SimulatedWorld) -> None:
    """Not by the schedule, five minutes later, nor by the next look at the whole queue."""
    world.domain("slow.example", "192.0.2.1")
    slow = world.place(SlowExchanger(replies={"dot": "451 4.3.0 come again"}), "192.0.2.1")
    slow.delay_s = 16.0
    await world.submit("ann@example.org", "bob@slow.example")
    await world.clock.sleep(30.0)  # within the attempt
    assert [] == times_of(world, "deferred")

    changed = await world.change("retry")
    await world.clock.sleep(150.0)

    assert 1 == len(changed.wished)
    first, second = times_of(world, "deferred")[:2]
    assert second - first < 40.0, "in the open session an attempt takes 32 s"
    await world.stop(grace_s=0.0)
