# SPDX-License-Identifier: MIT
"""What operators do to the queue while it works: retry now, cancel, and see why something waits."""

import pytest
from tests.journeys.rig import HOUR_S, SlowExchanger, assert_accounted, ends, in_world, taken, times_of

from smarthost.queue.store import Filter
from smarthost.testing.clock import START
from smarthost.testing.world import SimulatedWorld


@in_world()
async def test_retry_now_does_not_wait_for_the_schedule(world: SimulatedWorld) -> None:
    """A greylisted message goes out as soon as the operator says so."""
    site = world.site("example.net", "192.0.2.1", greylist_first=True)
    await world.submit("ann@example.org", "bob@example.net", "cid@example.net")
    await world.clock.sleep(10)

    changed = await world.change("retry", Filter(recipient="bob@example.net"))
    await world.clock.sleep(1)

    assert 1 == len(changed.recipients)
    assert {"bob@example.net": 1} == taken(site)
    assert {"accepted": 1, "changed": 1, "deferred": 2, "relayed": 1} == world.kinds()


@in_world()
async def test_cancel_while_deferred_ends_it_silently(world: SimulatedWorld) -> None:
    """A cancelled recipient is never tried again, and nobody gets a report."""
    site = world.site("example.net", "192.0.2.1", greylist_first=True)
    home = world.site("example.org", "192.0.2.2")
    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(10)

    await world.change("cancel")
    await world.clock.sleep(HOUR_S)

    assert {"bob@example.net": "cancelled"} == ends(world)
    assert (0, 0) == world.count()
    assert {} == taken(site)
    assert [] == home.messages
    assert_accounted(world)


@in_world()
async def test_cancel_during_an_attempt_that_fails_takes_effect(world: SimulatedWorld) -> None:
    """A wish: the attempt under way is deferred by the host, so the recipient is cancelled instead."""
    world.domain("slow.example", "192.0.2.1")
    site = world.place(SlowExchanger(greylist_first=True), "192.0.2.1")
    await world.submit("ann@example.org", "bob@slow.example")
    await world.clock.sleep(1)

    changed = await world.change("cancel")
    await world.clock.sleep(HOUR_S)

    assert 1 == len(changed.wished)
    assert {"bob@slow.example": "cancelled"} == ends(world)
    assert (0, 0) == world.count()
    assert 1 == len(site.sessions)
    assert_accounted(world)


@in_world()
async def test_cancel_during_an_attempt_that_succeeds_comes_too_late(world: SimulatedWorld) -> None:
    """Mail that the host has taken is relayed, whatever was wished."""
    world.domain("slow.example", "192.0.2.1")
    site = world.place(SlowExchanger(), "192.0.2.1")
    await world.submit("ann@example.org", "bob@slow.example")
    await world.clock.sleep(1)

    await world.change("cancel")
    await world.until_empty()

    assert {"bob@slow.example": "relayed"} == ends(world)
    assert {"bob@slow.example": 1} == taken(site)
    assert_accounted(world)


@in_world()
async def test_retry_during_an_attempt_that_fails_is_tried_again_soon(world: SimulatedWorld) -> None:
    """A wish to retry outlives the attempt under way: the next one follows within a minute, not five."""
    world.domain("slow.example", "192.0.2.1")
    site = world.place(SlowExchanger(greylist_first=True), "192.0.2.1")
    await world.submit("ann@example.org", "bob@slow.example")
    await world.clock.sleep(1)

    await world.change("retry")
    await world.clock.sleep(75)

    assert {"bob@slow.example": 1} == taken(site)


@in_world(sessions_per_lane=1)
async def test_cancel_takes_what_waits_in_memory_too(world: SimulatedWorld) -> None:
    """Of ten messages for a slow host the first is under way; the other nine, held in memory, are cancelled."""
    world.domain("slow.example", "192.0.2.1")
    slow = world.place(SlowExchanger(), "192.0.2.1")
    client = await world.client()
    for n in range(10):
        await client.send("ann@example.org", (f"u{n}@slow.example",))

    changed = await world.change("cancel")
    await world.until_empty()

    assert (9, 1) == (len(changed.recipients), len(changed.wished))
    assert {"u0@slow.example": 1} == taken(slow)
    assert 9 == world.kinds()["cancelled"]
    assert_accounted(world)


@in_world()
async def test_the_queue_says_why_mail_for_a_dead_host_waits(world: SimulatedWorld) -> None:
    """A recipient that has never been tried shows its host's failure and the time of the next probe."""
    world.domain("example.net", "192.0.2.1")
    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(2)
    await world.submit("ann@example.org", "cid@example.net")
    await world.clock.sleep(1)

    page = await world.delivery.operations.find(Filter(recipient="cid@example.net"), None, 10)

    ((recipient,),) = [message.recipients for message in page.messages]
    assert "connection refused" in recipient.why
    assert world.clock.wall() < recipient.due < world.clock.wall() + 10
    assert 0 == recipient.attempts


@in_world()
async def test_a_record_says_when_the_attempt_ended_and_where_the_time_went(world: SimulatedWorld) -> None:
    """With a host that takes a second for each answer: connecting, handshake and transfer are told apart."""
    world.domain("slow.example", "192.0.2.1")
    world.place(SlowExchanger(), "192.0.2.1")
    await world.submit("ann@example.org", "bob@slow.example")
    await world.until_empty()

    (record,) = world.outcomes()

    assert record.at == pytest.approx(START + times_of(world, "relayed")[0], abs=0.001)
    assert record.queued_s == pytest.approx(0.0, abs=0.01)
    assert record.connect_s == pytest.approx(0.02, abs=0.001)
    assert record.handshake_s == pytest.approx(2.0, abs=0.1)
    assert record.transfer_s == pytest.approx(2.0, abs=0.1)
    assert ("mx1.slow.example", "192.0.2.1", "mx1.slow.example:25") == (record.host, record.address, record.lane)
