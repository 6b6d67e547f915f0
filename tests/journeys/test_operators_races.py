# SPDX-License-Identifier: MIT
"""What operators say while mail moves: during an attempt, during a commit, twice over, and with a store in trouble."""

import asyncio
from collections.abc import Iterator
from unittest.mock import patch

from tests.journeys.rig import DAY_S, HOUR_S, SlowExchanger, ends, in_world
from tests.journeys.test_why import BUSY, waiting_of

from smarthost.mail.errors import StoreError
from smarthost.mail.hop import Credentials, TlsLevel
from smarthost.mail.story import Cause
from smarthost.queue.audit import Claim
from smarthost.queue.store import Filter
from smarthost.route.table import NextHop, NextHops, RouteTable
from smarthost.testing.mortal import MortalStore
from smarthost.testing.world import SimulatedWorld


async def being_tried(world: SimulatedWorld) -> SlowExchanger:
    """Have one message in the middle of an attempt that will defer it."""
    world.domain("slow.example", "192.0.2.1")
    slow = SlowExchanger(replies=dict(BUSY))
    world.place(slow, "192.0.2.1")
    slow.delay_s = 16.0
    await world.submit("ann@example.org", "bob@slow.example")
    await world.clock.sleep(10)
    return slow


@in_world()
async def test_a_suspension_that_ended_during_an_attempt_holds_nothing(world: SimulatedWorld) -> None:
    """Begun and ended while a host takes its time: the mail goes on by its schedule."""
    slow = await being_tried(world)
    suspensions = world.delivery.suspensions
    await suspensions.suspend("ann@example.org", "stolen?", "cid")
    await suspensions.end("ann@example.org", "cid")
    await world.clock.sleep(400)
    slow.replies.clear()
    await world.clock.sleep(2 * DAY_S)

    assert {"bob@slow.example": "relayed"} == ends(world)


@in_world()
async def test_what_two_suspensions_cover_is_held_until_both_have_ended(world: SimulatedWorld) -> None:
    """The end of the narrower one lets go nothing that the wider one holds."""
    world.site("example.net", "192.0.2.1")
    suspensions = world.delivery.suspensions
    await suspensions.suspend("@example.org", "domain broken into", "cid")
    await suspensions.suspend("ann@example.org", "her too", "cid")
    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(5)
    await suspensions.end("ann@example.org", "cid")
    await world.clock.sleep(60)
    assert {} == ends(world)

    await suspensions.end("@example.org", "cid")
    await world.clock.sleep(60)
    assert {"bob@example.net": "relayed"} == ends(world)


@in_world(commit_delay_s=0.5)
async def test_mail_that_is_being_filed_does_not_slip_through_a_suspension(world: SimulatedWorld) -> None:
    """Neither of a destination nor of a sender, however long a commit takes."""
    world.site("example.net", "192.0.2.1")
    world.site("other.example", "192.0.2.2")
    suspensions = world.delivery.suspensions
    filed = asyncio.ensure_future(world.submit("dot@example.org", "early@other.example"))
    await world.clock.sleep(0.2)
    suspended = [
        asyncio.ensure_future(suspensions.suspend(what, "", "cid")) for what in ("example.net", "dot@example.org")
    ]
    await world.clock.sleep(0.1)
    await asyncio.gather(filed, *suspended, world.submit("ann@example.org", "bob@example.net"))
    await world.submit("dot@example.org", "late@other.example")
    await world.clock.sleep(60)

    assert {} == {address: end for address, end in ends(world).items() if address != "early@other.example"}
    assert Cause.SUSPENSION is (await waiting_of(world, "late@other.example")).cause


@in_world()
async def test_no_mail_moves_while_the_store_does_not_tell_the_suspensions(world: SimulatedWorld) -> None:
    """A disk that fails once at the start ends no suspension."""
    world.site("example.net", "192.0.2.1")
    world.site("other.example", "192.0.2.2")
    await world.delivery.suspensions.suspend("example.net", "they asked", "cid")
    await world.submit("ann@example.org", "bob@example.net", "cid@other.example")
    await world.clock.sleep(5)
    await world.stop()
    load = MortalStore.load_notes
    failed: list[str] = []

    async def fail_once(store: MortalStore, prefix: str) -> dict[str, bytes]:
        if prefix == "suspended/" and not failed:
            failed.append(prefix)
            raise StoreError("the disk is slow")
        return await load(store, prefix)

    with patch.object(MortalStore, "load_notes", fail_once):
        await world.start()
        await world.submit("ann@example.org", "dot@example.net")
        await world.clock.sleep(120)

    assert failed
    assert {"cid@other.example": "relayed"} == ends(world)
    assert ["example.net"] == [each.what for each in world.delivery.suspensions.all()]


@in_world()
async def test_neither_a_retry_nor_another_way_lets_go_what_is_to_be_held(world: SimulatedWorld) -> None:
    """Said upon mail that is being tried, as upon mail that waits."""
    slow = await being_tried(world)
    operations, suspensions = world.delivery.operations, world.delivery.suspensions
    await suspensions.suspend("ann@example.org", "stolen", "cid")
    await operations.change(Filter(domain="slow.example"), "retry", None, 100, by="dot")
    await operations.change(Filter(domain="slow.example"), "reroute", None, 100, by="dot", via="mx")
    await world.clock.sleep(200)
    slow.replies.clear()
    await world.clock.sleep(HOUR_S)

    assert {} == ends(world)


@in_world()
async def test_a_retry_does_not_take_back_another_way(world: SimulatedWorld) -> None:
    """Both were said of mail that is being tried: it goes the other way, at once."""
    await being_tried(world)
    world.site("relay.example", "192.0.2.9")
    operations = world.delivery.operations
    await operations.change(Filter(), "reroute", None, 100, via="192.0.2.9")
    await operations.change(Filter(), "retry", None, 100)
    await world.clock.sleep(120)

    assert {"bob@slow.example": "relayed"} == ends(world)


@in_world()
async def test_a_message_to_a_thousand_tells_its_story_in_no_time(world: SimulatedWorld) -> None:
    """Who has what is asked once for a message, not once for each of its recipients."""
    world.domain("slow.example", "192.0.2.1")
    slow = world.place(SlowExchanger(), "192.0.2.1")
    assert isinstance(slow, SlowExchanger)
    slow.delay_s = 60.0
    await world.submit("ann@example.org", *(f"u{n}@slow.example" for n in range(1000)))
    await world.clock.sleep(5)
    asked: list[str] = []
    claims = world.journey.claims

    def count(of: str = "") -> Iterator[Claim]:
        asked.append(of)
        return claims(of)

    with patch.object(world.journey, "claims", count):
        (story,) = await world.delivery.stories.tell("u1@slow.example", 1)

    assert 1000 == len(story.recipients)
    assert [story.id] == asked


def test_a_way_that_is_configured_keeps_its_tls_and_credentials() -> None:
    """Whichever place it has among the next hops, however it is spelled; and what is no port is none."""
    hops = tuple(
        NextHop(host, 587, TlsLevel.VERIFIED, credentials=Credentials("u", "p"))
        for host in ("Relay.example", "backup.example")
    )
    table = RouteTable(NextHops(hops))

    for way, hop in (("relay.example:587", hops[0]), ("BACKUP.example:587", hops[1])):
        route = table.route_of(table.destination_of(f"x.example via {way}"))
        assert isinstance(route, NextHops)
        assert (hop,) == route.hops
    for way in ("relay.example:2_5", "relay.example: 25", "relay.example:٢٥", "::1:25", "a b", ""):
        if way:
            try:
                table.check_way(way)
            except ValueError:
                continue
            raise AssertionError(way)
