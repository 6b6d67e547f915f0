# SPDX-License-Identifier: MIT
"""When nothing at all can be delivered, the relay says so, and which hosts are to blame; else it does not."""

from tests.journeys.rig import HOUR_S, in_world

from smarthost.mail.explanation import HostReport
from smarthost.queue.schedule import RetrySchedule
from smarthost.queue.store import Filter
from smarthost.route.table import NextHop, NextHops
from smarthost.testing.peers import ScriptedExchanger
from smarthost.testing.world import SimulatedWorld

HOP = "10.9.0.1"
BY_HOP = NextHops((NextHop("hop.example"),))
REFUSES = {"banner": "554 5.7.1 your address is listed"}


async def standing(world: SimulatedWorld) -> dict[str, int]:
    """Give the hosts that are to blame, with how many recipients wait for each."""
    found: tuple[HostReport, ...] = await world.delivery.hosts.find_standstill()
    return {host.address: host.waiting_recipients for host in found}


@in_world(default_route=BY_HOP)
async def test_the_only_next_hop_refuses_us_and_all_mail_stands(world: SimulatedWorld) -> None:
    """Mail for any domain waits for the one host; while nothing waits, nothing stands still."""
    world.zone.set("hop.example", f"A {HOP}")
    world.place(ScriptedExchanger(replies=REFUSES), HOP)
    assert {} == await standing(world)

    for domain in ("a.example", "b.example", "c.example"):
        await world.submit("ann@example.org", f"bob@{domain}")
    await world.clock.sleep(3)

    (host,) = await world.delivery.hosts.find_standstill()
    assert (HOP, "hop.example", "banner", 3) == (host.address, host.name, host.step, host.waiting_recipients)
    assert "554 5.7.1 your address is listed" in host.detail


@in_world()
async def test_one_destination_that_works_is_no_standstill(world: SimulatedWorld) -> None:
    """Mail that is merely put off by its host shows that mail goes; without it, all waits for broken hosts."""
    world.domain("down.example", "192.0.2.1", "192.0.2.2")
    world.site("busy.example", "192.0.2.9", replies={"rcpt": "451 4.2.0 busy"})
    await world.submit("ann@example.org", "x@down.example", "y@down.example")
    await world.submit("ann@example.org", "z@busy.example")
    await world.clock.sleep(3)
    assert {} == await standing(world)
    assert {2} == {host.waiting_recipients for host in await world.delivery.hosts.report()}

    await world.change("cancel", Filter(domain="busy.example"))

    assert {"192.0.2.1": 2, "192.0.2.2": 2} == await standing(world)


@in_world()
async def test_mail_that_is_held_waits_for_no_host(world: SimulatedWorld) -> None:
    """What an operator holds is neither counted nor a standstill."""
    world.domain("down.example", "192.0.2.1")
    await world.submit("ann@example.org", "x@down.example")
    await world.clock.sleep(3)
    assert {"192.0.2.1": 1} == await standing(world)

    await world.change("hold", Filter(domain="down.example"))

    assert {} == await standing(world)


@in_world(default_route=BY_HOP)
async def test_a_standstill_ends_with_the_first_delivery(world: SimulatedWorld) -> None:
    """As soon as the host takes us, nothing is said any more."""
    world.zone.set("hop.example", f"A {HOP}")
    await world.submit("ann@example.org", "x@a.example")
    await world.clock.sleep(3)
    assert {HOP: 1} == await standing(world)

    world.place(ScriptedExchanger(), HOP)
    await world.until_empty()

    assert {} == await standing(world)


@in_world(schedule=RetrySchedule(first_s=4 * HOUR_S, longest_s=4 * HOUR_S, jitter=0.0))
async def test_a_standstill_outlives_a_restart(world: SimulatedWorld) -> None:
    """Before anything is planned anew the queue itself says who waits for a host."""
    world.domain("down.example", "192.0.2.1")
    await world.submit("ann@example.org", "x@down.example")
    await world.clock.sleep(60)

    await world.stop()
    await world.start()

    assert {"192.0.2.1": 1} == await standing(world)
