# SPDX-License-Identifier: MIT
"""Many destinations, slow DNS, bugs and full tables around broken hosts: nothing is missed, nothing storms."""

import asyncio

from msgspec.structs import replace
from tests.journeys.rig import HOUR_S, assert_accounted, ends, in_world, taken

from smarthost.mail.errors import ConnectFailed
from smarthost.mail.plan import NoPlan, Plan
from smarthost.ports import Answer, Connection
from smarthost.queue.schedule import RetrySchedule
from smarthost.testing.dns import Fault
from smarthost.testing.network import Faults
from smarthost.testing.peers import ScriptedExchanger
from smarthost.testing.world import SimulatedWorld

MX1, MX2 = "192.0.2.1", "192.0.2.2"
BLACK_HOLE = Faults(black_hole=True)
RARELY = RetrySchedule(first_s=4 * HOUR_S, longest_s=4 * HOUR_S, jitter=0.0)


@in_world(schedule=RARELY)
async def test_who_started_a_probe_learns_of_its_success(world: SimulatedWorld) -> None:
    """The first exchanger is back and probed aside, the second dead: the message goes back to the first."""
    world.domain("example.net", MX1, MX2)
    world.network.faults[MX2, 25] = BLACK_HOLE
    for address in (MX1, MX2):
        world.delivery.health.report_failure("", address, "connect", "timed out")
    await world.clock.sleep(5.1)
    world.place(ScriptedExchanger(), MX1)

    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(30)

    assert {"bob@example.net": "relayed"} == ends(world)


@in_world(schedule=RARELY)
async def test_mail_that_failed_just_before_its_host_was_found_well_is_released_too(world: SimulatedWorld) -> None:
    """An attempt that was on its walk when the host closed comes home deferred; a second look frees it."""
    world.domain("example.net", MX1, MX2)
    world.network.faults[MX2, 25] = BLACK_HOLE
    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(1)  # MX1 refused; now it waits for MX2
    world.place(ScriptedExchanger(), MX1)
    world.delivery.health.report_success("", MX1)

    await world.clock.sleep(120)

    assert {"bob@example.net": "relayed"} == ends(world)


@in_world(schedule=RARELY)
async def test_the_second_look_comes_after_each_outage(world: SimulatedWorld) -> None:
    """A host that breaks and works a second time frees the mail that was on its walk just as the first time."""
    world.domain("example.net", MX1, MX2)
    world.network.faults[MX2, 25] = BLACK_HOLE
    for name in ("first", "second"):
        world.network.faults[MX1, 25] = Faults(refuse=True)
        await world.clock.sleep(5 * HOUR_S)  # what was known is forgotten
        await world.submit("ann@example.org", f"{name}@example.net")
        await world.clock.sleep(1)
        del world.network.faults[MX1, 25]
        if name == "first":
            world.place(ScriptedExchanger(), MX1)
        world.delivery.health.report_success("", MX1)
        await world.clock.sleep(120)

    assert {"first@example.net": "relayed", "second@example.net": "relayed"} == ends(world)


@in_world(schedule=RARELY)
async def test_a_record_says_half_open_only_when_somebody_dials(world: SimulatedWorld) -> None:
    """Three hundred black holes with mail for ten minutes: no more probes are recorded than were made."""
    client = await world.client()
    for n in range(300):
        address = f"198.51.{100 + n // 250}.{n % 250 + 1}"
        world.domain(f"d{n}.example", address)
        world.network.faults[address, 25] = BLACK_HOLE
        await client.send("ann@example.org", (f"u@d{n}.example",))
    await world.clock.sleep(600)

    kinds = [record.kind.value for record in world.host_records()]

    assert kinds.count("host-half-open") <= len(world.network.dialled)


@in_world(schedule=RARELY)
async def test_a_probe_we_cannot_make_is_not_tried_all_the_time(world: SimulatedWorld) -> None:
    """Without a free descriptor a broken host is left alone for a minute at a time."""
    world.domain("example.net", MX1)
    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(3)
    dial = world.network.dial

    async def out_of_descriptors(address: str, port: int, *, source: str, timeout_s: float) -> Connection:
        if address == MX1:
            raise ConnectFailed("too many open files", step="local")
        return await dial(address, port, source=source, timeout_s=timeout_s)

    world.network.dial = out_of_descriptors  # type: ignore[method-assign,assignment]
    await world.clock.sleep(3600)

    assert len(world.host_records()) < 100


@in_world(schedule=RARELY)
async def test_a_bug_with_one_destination_is_not_that_of_all_others(world: SimulatedWorld) -> None:
    """Planning raises for one domain; the mail of the others is released all the same."""
    world.domain("example.net", MX1)
    world.domain("poison.example", MX2)
    await world.submit("ann@example.org", "bob@example.net", "x@poison.example")
    await world.clock.sleep(2)
    terms = world.delivery.hosts._terms

    async def plan(destination: str) -> Plan | NoPlan:
        if destination == "poison.example":
            raise RuntimeError("a bug")
        return await terms.plan(destination)

    world.delivery.hosts._terms = replace(terms, plan=plan, recall=lambda destination: None)
    world.place(ScriptedExchanger(), MX1)
    world.delivery.health.reset("", MX1)
    await world.clock.sleep(5)

    assert {"bob@example.net": "relayed"} == ends(world)


@in_world(schedule=RARELY)
async def test_names_with_slow_dns_do_not_hold_up_the_release_of_others(world: SimulatedWorld) -> None:
    """Two hundred waiting domains whose DNS has died; the host of another is back, and its mail goes at once."""
    world.domain("example.net", MX1)
    client = await world.client()
    for n in range(200):
        world.zone.set(f"d{n}.example", f"60 MX 10 mx.d{n}.example")
        world.zone.set(f"mx.d{n}.example", f"60 A 198.51.100.{n + 1}")
        await client.send("ann@example.org", (f"u@d{n}.example",))
    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(120)
    ask = world.resolver.ask

    async def slowly(name: str, rdtype: str) -> Answer:
        if name.endswith(".example"):
            await asyncio.sleep(30.0)
        return await ask(name, rdtype)

    world.zone.faults.update({f"d{n}.example": Fault.TIMEOUT for n in range(200)})
    world.resolver.ask = slowly  # type: ignore[method-assign]
    await world.clock.sleep(70)
    world.place(ScriptedExchanger(), MX1)

    await world.delivery.hosts.reset(MX1)
    await world.clock.sleep(5)

    assert {"bob@example.net": "relayed"} == ends(world)


@in_world()
async def test_a_crowd_behind_one_stalled_probe_sleeps_through_it(world: SimulatedWorld) -> None:
    """300 domains at one silent provider: while it is probed none is planned each second, and no mail is rewritten."""
    world.network.faults[MX1, 25] = Faults(stall_after=0)
    exchanger = world.place(ScriptedExchanger(), MX1)
    world.zone.set("mx.provider.example", f"A {MX1}")
    for _ in range(3):
        world.delivery.health.report_failure("", MX1, "banner", "silent", "mx.provider.example")
    client = await world.client()
    for n in range(300):
        world.zone.set(f"d{n}.example", "MX 10 mx.provider.example")
        await client.send("ann@example.org", (f"u@d{n}.example",))
    await world.clock.sleep(25)
    asked = world.resolver.asked.total()

    await world.clock.sleep(60)

    assert world.kinds().get("postponed", 0) < 30
    assert world.resolver.asked.total() - asked < 900
    world.network.faults.clear()
    await world.until_empty()
    assert 300 == len(taken(exchanger))
    assert_accounted(world)


@in_world()
async def test_a_silent_host_alone_is_seen_within_seconds(world: SimulatedWorld) -> None:
    """One message waits the RFC's five minutes for the banner; the others wait elsewhere, and the evidence is there."""
    world.domain("example.net", MX1)
    world.place(ScriptedExchanger(silent_at="banner"), MX1)
    for n in range(30):
        await world.submit("ann@example.org", f"u{n}@example.net")
    await world.clock.sleep(9)

    (host,) = await world.delivery.hosts.report("mx1.example.net")
    told = await world.delivery.explainer.explain("bob@example.net")

    assert (host.state, host.detail) == ("open", "no answer within 8 s, we go on waiting")
    assert "known as broken" in told.conclusion
