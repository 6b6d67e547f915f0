# SPDX-License-Identifier: MIT
"""Several next hops: who takes the mail when the first is broken, when it is back, and by whose route mail goes."""

from msgspec.structs import replace
from tests.journeys.rig import HOUR_S, assert_accounted, ends, in_world, taken, times_of

from smarthost.mail.address import Address, to_domain
from smarthost.mail.content import InlineContent
from smarthost.mail.envelope import Envelope
from smarthost.mail.message import Message
from smarthost.mail.record import Kind
from smarthost.route.source import Speaker
from smarthost.route.table import NextHop, NextHops, RouteTable
from smarthost.testing.dns import Fault
from smarthost.testing.network import Faults
from smarthost.testing.peers import ScriptedExchanger
from smarthost.testing.world import SimulatedWorld

FIRST, SECOND = "10.9.0.1", "10.9.0.2"
BY_NAME = NextHops((NextHop("first.example"), NextHop("second.example")))
BY_PORT = NextHops((NextHop(FIRST, 587, speaker=Speaker("one.example")), NextHop(FIRST, 2500)))


def name_hops(world: SimulatedWorld) -> None:
    world.zone.set("first.example", f"A {FIRST}")
    world.zone.set("second.example", f"A {SECOND}")


async def submit_many(world: SimulatedWorld, name: str, number: int) -> None:
    for n in range(number):
        await world.submit("ann@example.org", f"{name}{n}@example.net")


@in_world(default_route=BY_NAME)
async def test_all_mail_goes_to_the_first_hop_while_it_works(world: SimulatedWorld) -> None:
    """The second one is not for sharing the load."""
    name_hops(world)
    first = world.place(ScriptedExchanger(), FIRST)
    second = world.place(ScriptedExchanger(), SECOND)

    await submit_many(world, "u", 20)
    await world.until_empty()

    assert (20, 0) == (len(taken(first)), len(second.sessions))
    assert_accounted(world)


@in_world(default_route=BY_NAME)
async def test_a_broken_first_hop_costs_no_message_a_retry(world: SimulatedWorld) -> None:
    """The second takes over in the same attempt; later messages do not even try the first, until it is back."""
    name_hops(world)
    second = world.place(ScriptedExchanger(), SECOND)
    started = world.clock.monotonic()

    await submit_many(world, "early", 20)
    await world.clock.sleep(2)
    took_s = max(times_of(world, "relayed")) - started
    dials = world.network.dialled.count((FIRST, 25))
    first = world.place(ScriptedExchanger(), FIRST)
    await world.clock.sleep(60)
    await submit_many(world, "late", 20)
    await world.until_empty()

    assert {f"early{n}@example.net" for n in range(20)} <= set(taken(second))
    assert took_s < 3
    assert dials <= 2
    assert world.kinds().get("deferred", 0) == 0
    late = {f"late{n}@example.net" for n in range(20)}
    assert len(late & set(taken(first))) >= 19, "the first message may still prompt the probe that finds it well"
    assert {*taken(first), *taken(second)} == late | {f"early{n}@example.net" for n in range(20)}
    assert_accounted(world)


@in_world(default_route=BY_NAME)
async def test_a_first_hop_that_hangs_holds_mail_up_for_seconds_once(world: SimulatedWorld) -> None:
    """A black hole costs the messages that meet it first the short time a host has while another is at hand."""
    name_hops(world)
    world.network.faults[FIRST, 25] = Faults(black_hole=True)
    second = world.place(ScriptedExchanger(), SECOND)
    await world.submit("ann@example.org", "first@example.net")
    await world.clock.sleep(15)
    started = world.clock.monotonic()

    await submit_many(world, "u", 10)
    await world.clock.sleep(1)

    assert len(taken(second)) == 11
    assert max(times_of(world, "relayed")) - started < 2
    assert_accounted(world)


@in_world(default_route=BY_NAME)
async def test_when_both_hops_are_down_mail_waits_and_takes_the_one_that_returns(world: SimulatedWorld) -> None:
    """The second is back after an hour, the first never: nothing is lost, nothing bounces."""
    name_hops(world)
    await submit_many(world, "u", 10)
    await world.clock.sleep(HOUR_S)
    waiting = world.count()

    second = world.place(ScriptedExchanger(), SECOND)
    await world.until_empty(within_s=2 * HOUR_S)

    assert waiting == (10, 10)
    assert {f"u{n}@example.net" for n in range(10)} == set(taken(second))
    assert_accounted(world)


@in_world(default_route=BY_NAME)
async def test_a_first_hop_that_is_full_leaves_the_mail_to_the_second(world: SimulatedWorld) -> None:
    """A no that is about the host is a reason to ask the next; one about the recipient is the answer."""
    name_hops(world)
    world.place(ScriptedExchanger(replies={"rcpt": _answer}), FIRST)
    second = world.place(ScriptedExchanger(), SECOND)

    await world.submit("", "later@example.net", "gone@example.net")
    await world.until_empty()

    assert {"later@example.net"} == set(taken(second))
    assert {"later@example.net": "relayed", "gone@example.net": "bounced"} == ends(world)


def _answer(recipient: str) -> str:
    return {"later@example.net": "452 4.3.1 no room left", "gone@example.net": "550 5.1.1 no such user"}.get(
        recipient, ""
    )


@in_world(default_route=BY_NAME)
async def test_a_first_hop_whose_name_is_lost_is_told_in_the_records(world: SimulatedWorld) -> None:
    """DNS is silent for one of two: mail goes on by the other, and each attempt says what was left out."""
    name_hops(world)
    world.zone.faults["first.example"] = Fault.SERVFAIL
    second = world.place(ScriptedExchanger(), SECOND)

    await world.submit("ann@example.org", "bob@example.net")
    await world.until_empty()

    (relayed,) = [record for record in world.committed() if record.kind is Kind.RELAYED]
    assert {"bob@example.net": 1} == taken(second)
    assert any("next hop first.example has no address" in line for line in relayed.walk)


@in_world(default_route=BY_PORT)
async def test_two_services_of_one_machine_have_each_its_own_port_and_health(world: SimulatedWorld) -> None:
    """The submission service is down, the one at the other port takes the mail; each hears its own name of ours."""
    other = ScriptedExchanger()
    world.exchangers.append(other)
    world.network.bind(FIRST, 2500, other.accept)

    await submit_many(world, "u", 5)
    await world.clock.sleep(2)
    at_other = set(taken(other))
    main = ScriptedExchanger()
    world.exchangers.append(main)
    world.network.bind(FIRST, 587, main.accept)
    await world.clock.sleep(60)
    await submit_many(world, "v", 5)
    await world.until_empty()

    assert {f"u{n}@example.net" for n in range(5)} == at_other
    assert len(taken(main)) >= 4
    assert b"EHLO one.example\r\n" in bytes(main.sessions[-1].octets)
    assert b"EHLO relay.example.org\r\n" in bytes(other.sessions[-1].octets)
    assert {record.service for record in world.host_records(FIRST)} == {"port 587"}
    assert_accounted(world)


# -- by sender ---------------------------------------------------------------------------------------------------------

TO_FIRST, TO_SECOND = NextHops((NextHop(FIRST),), "to first"), NextHops((NextHop(SECOND),), "to second")


def file(world: SimulatedWorld, table: RouteTable, reverse_path: str, *recipients: str) -> None:
    """Hand a message to the journey as reception does, its recipients filed under what the table says."""
    addresses = tuple(
        [Address(each, table.scope(reverse_path, "", to_domain(each.rpartition("@")[2]))) for each in recipients]
    )
    message = Message(
        world.delivery.next_id(),
        world.clock.wall(),
        Envelope(reverse_path, addresses),
        b"",
        InlineContent(b"Subject: by sender\r\n\r\n"),
        "local",
        reverse_path,
    )
    world.journey.add(message, lambda failure: None)


@in_world(
    default_route=TO_FIRST,
    routes={"internal.lan": TO_FIRST},
    sender_routes={("@corp.example", ""): TO_SECOND},
)
async def test_mail_of_a_sender_takes_his_route_but_for_domains_that_have_one(world: SimulatedWorld) -> None:
    """One message to two domains is parted, two senders to one domain go two ways."""
    table = RouteTable(world.terms.default_route, world.terms.routes, world.terms.sender_routes)
    first = world.place(ScriptedExchanger(), FIRST)
    second = world.place(ScriptedExchanger(), SECOND)

    file(world, table, "ann@corp.example", "bob@example.net", "dan@internal.lan")
    file(world, table, "eve@example.org", "bob@example.net")
    await world.clock.sleep(2)

    came = [(message.reverse_path, message.recipients) for message in first.messages]
    assert sorted(came) == [("ann@corp.example", ("dan@internal.lan",)), ("eve@example.org", ("bob@example.net",))]
    assert [(message.reverse_path, message.recipients) for message in second.messages] == [
        ("ann@corp.example", ("bob@example.net",))
    ]
    assert world.count() == (0, 0)


@in_world(default_route=TO_FIRST, sender_routes={("@corp.example", ""): TO_SECOND})
async def test_mail_whose_senders_route_was_taken_away_is_not_stuck(world: SimulatedWorld) -> None:
    """It waits for a relay that is down; the operator drops the route and restarts: it goes as all other mail."""
    table = RouteTable(world.terms.default_route, world.terms.routes, world.terms.sender_routes)
    first = world.place(ScriptedExchanger(), FIRST)
    file(world, table, "ann@corp.example", "bob@example.net")
    await world.clock.sleep(HOUR_S)
    waiting = world.count()
    await world.stop()
    world.terms = replace(world.terms, sender_routes={})

    await world.start()
    await world.until_empty(within_s=2 * HOUR_S)

    assert waiting == (1, 1)
    assert {"bob@example.net": 1} == taken(first)
