# SPDX-License-Identifier: MIT
"""Much mail: each recipient once, sessions reused, and nobody waits because of somebody else's backlog."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.journeys.rig import (
    HOUR_S,
    CountingExchanger,
    SlowExchanger,
    assert_accounted,
    in_world,
    taken,
    times_of,
)

from smarthost.queue import feed
from smarthost.testing.peers import ScriptedExchanger
from smarthost.testing.world import SimulatedWorld


@contextmanager
def little_memory() -> Iterator[None]:
    """Let a few hundred messages be far more than the feed holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "LEASES_HELD", 60)
        patch.setattr(feed, "LEASES_HELD_PER_DESTINATION", 20)
        patch.setattr(feed, "REFILL_LEASES", 7)
        patch.setattr(feed, "CONTENT_OCTETS_HELD", 1000)
        yield


@in_world()
async def test_five_hundred_recipients_get_one_copy_each(world: SimulatedWorld) -> None:
    """One message to 500 people at 50 domains: 500 copies, one transaction for each domain."""
    sites = [world.site(f"d{n}.example", f"192.0.2.{n}") for n in range(1, 51)]
    recipients = [f"u{m}@d{n}.example" for m in range(10) for n in range(1, 51)]

    await world.submit("ann@example.org", *recipients)
    await world.until_empty()

    assert [1] * 500 == [taken(sites[n]).get(f"u{m}@d{n + 1}.example") for n in range(50) for m in range(10)]
    assert [1] * 50 == [len(site.messages) for site in sites]
    assert {"accepted": 1, "relayed": 500} == world.kinds()
    assert_accounted(world)


@in_world()
async def test_more_recipients_than_a_lease_holds_are_cut(world: SimulatedWorld) -> None:
    """250 recipients at one domain go out in three transactions of at most 100."""
    site = world.site("example.net", "192.0.2.1")

    await world.submit("ann@example.org", *(f"u{n}@example.net" for n in range(250)))
    await world.until_empty()

    assert [50, 100, 100] == sorted(len(message.recipients) for message in site.messages)
    assert 250 == len(taken(site))
    assert_accounted(world)


@in_world(sessions_per_lane=1)
async def test_messages_for_one_lane_share_a_session(world: SimulatedWorld) -> None:
    """Thirty messages to one host over one connection, with one EHLO."""
    site = world.site("example.net", "192.0.2.1")
    client = await world.client()

    for n in range(30):
        await client.send("ann@example.org", (f"u{n}@example.net",))
    await world.clock.sleep(4)

    (session,) = site.sessions
    assert 30 == len(site.messages)
    assert 1 == sum(command.startswith(b"EHLO") for command in session.commands)
    assert_accounted(world)


@in_world(sessions_per_lane=4, messages_per_session=10)
async def test_a_session_ends_after_its_share_of_messages(world: SimulatedWorld) -> None:
    """With ten messages a session, a hundred need ten sessions, and never more than four at once."""
    world.domain("example.net", "192.0.2.1")
    site = world.place(CountingExchanger(), "192.0.2.1")
    client = await world.client()

    for n in range(100):
        await client.send("ann@example.org", (f"u{n}@example.net",))
    await world.until_empty()
    await world.clock.sleep(10)

    assert 100 == len(site.messages)
    assert 10 <= len(site.sessions) <= 13
    assert site.most <= 4
    assert all(session.commands[-1] == b"QUIT" for session in site.sessions)


@in_world(sessions_per_lane=2)
async def test_a_backlog_larger_than_memory_goes_out_whole_and_starves_nobody(world: SimulatedWorld) -> None:
    """Five hundred messages for a slow host: a message for another one, sent last, arrives first."""
    with little_memory():
        world.domain("slow.example", "192.0.2.1")
        slow = world.place(SlowExchanger(), "192.0.2.1")
        other = world.site("example.net", "192.0.2.2")
        client = await world.client()
        for n in range(500):
            await client.send("ann@example.org", (f"u{n}@slow.example",))
        started = world.clock.monotonic()

        await client.send("ann@example.org", ("bob@example.net",))
        await world.clock.sleep(1)
        early = taken(other)
        await world.until_empty()

        assert {"bob@example.net": 1} == early
        assert times_of(world, "relayed", "bob@example.net")[0] - started < 0.5
        assert [1] * 500 == list(taken(slow).values())
        assert {"accepted": 501, "relayed": 501} == world.kinds()
        assert_accounted(world)


@in_world(sessions_per_lane=1)
async def test_a_backlog_goes_out_in_the_order_it_came(world: SimulatedWorld) -> None:
    """One session, more mail than memory holds: what came first goes first, whether it waited on disk or not."""
    with little_memory():
        world.domain("slow.example", "192.0.2.1")
        slow = SlowExchanger()
        slow.delay_s = 0.1
        world.place(slow, "192.0.2.1")
        client = await world.client()
        for n in range(200):
            await client.send("ann@example.org", (f"u{n}@slow.example",))
        await world.until_empty()

        assert [f"u{n}@slow.example" for n in range(200)] == list(taken(slow))


@in_world()
async def test_a_crowd_of_dead_domains_does_not_hide_what_else_is_due(world: SimulatedWorld) -> None:
    """More domains wait for a dead provider than one scan names: a greylisted message elsewhere is retried in time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "SCAN_DOMAINS", 5)
        for n in range(60):
            world.zone.set(f"d{n}.example", "MX 10 mx.dead.example")
        world.zone.set("mx.dead.example", "A 192.0.2.1")
        other = world.site("example.net", "192.0.2.2", greylist_first=True)
        await world.submit("ann@example.org", *(f"u@d{n}.example" for n in range(60)))
        await world.clock.sleep(HOUR_S)

        await world.submit("ann@example.org", "bob@example.net")
        await world.clock.sleep(400)

        assert {"bob@example.net": 1} == taken(other)


@in_world()
async def test_a_restart_with_a_backlog_starts_to_deliver_at_once(world: SimulatedWorld) -> None:
    """Three hundred messages on disk, many domains: after a crash all are delivered within seconds, each once."""
    with little_memory():
        for n in range(30):
            world.domain(f"d{n}.example", f"192.0.2.{n + 1}")
        client = await world.client()
        for n in range(300):
            await client.send("ann@example.org", (f"u{n}@d{n % 30}.example",))
        world.crash()
        exchanger = world.place(ScriptedExchanger(), *(f"192.0.2.{n + 1}" for n in range(30)))

        await world.start()
        await world.until_empty(within_s=2 * HOUR_S)

        assert [1] * 300 == list(taken(exchanger).values())
        assert_accounted(world)
