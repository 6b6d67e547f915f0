# SPDX-License-Identifier: MIT
"""What DNS says decides: null MX and unknown domains bounce, what cannot be told waits."""

from tests.journeys.rig import DAY_S, HOUR_S, assert_accounted, ends, failed_in, in_world, reports, taken

from smarthost.testing.dns import Fault
from smarthost.testing.world import SimulatedWorld


@in_world()
async def test_null_mx_bounces_without_connecting(world: SimulatedWorld) -> None:
    """A domain that takes no mail is believed at once: one report, no dial (RFC 7505)."""
    world.zone.set("nomail.example", "MX 0 .", "A 192.0.2.9")
    home = world.site("example.org", "192.0.2.1")

    await world.submit("ann@example.org", "bob@nomail.example")
    await world.until_empty()

    assert {"bob@nomail.example": "bounced", "ann@example.org": "relayed"} == ends(world)
    assert ("192.0.2.9", 25) not in world.network.dialled
    assert "5.1.10" in reports(home)[0]
    assert {"accepted": 2, "bounced": 1, "relayed": 1, "reported": 1} == world.kinds()
    assert_accounted(world)


@in_world()
async def test_an_unknown_domain_bounces(world: SimulatedWorld) -> None:
    """NXDOMAIN is final: 5.1.2, reported at once."""
    home = world.site("example.org", "192.0.2.1")

    await world.submit("ann@example.org", "bob@tpyo.example")
    await world.clock.sleep(5)

    (report,) = reports(home)
    assert ["bob@tpyo.example"] == failed_in(report)
    assert "5.1.2" in report
    assert_accounted(world)


@in_world()
async def test_a_name_server_that_fails_defers(world: SimulatedWorld) -> None:
    """SERVFAIL says nothing about the domain: the mail waits, and goes out when DNS answers again."""
    exchanger = world.site("example.net", "192.0.2.1")
    world.zone.faults["example.net"] = Fault.SERVFAIL

    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(3 * HOUR_S)
    waiting = world.kinds()
    del world.zone.faults["example.net"]
    await world.until_empty(within_s=2 * HOUR_S)

    assert {"accepted", "deferred"} == set(waiting)
    assert 2 < waiting["deferred"] < 8
    assert {"bob@example.net": 1} == taken(exchanger)
    assert_accounted(world)


@in_world()
async def test_a_large_backlog_for_an_unknown_domain_bounces_whole(world: SimulatedWorld) -> None:
    """A domain that disappears while much is queued for it leaves nothing behind."""
    world.zone.faults["gone.example"] = Fault.SERVFAIL
    client = await world.client()
    for n in range(120):
        await client.send("", (f"u{n}@gone.example",))
    await world.clock.sleep(1)
    del world.zone.faults["gone.example"]

    await world.until_empty(within_s=HOUR_S)

    assert 120 == world.kinds()["bounced"]
    assert_accounted(world)


@in_world(soft_bounce=True)
async def test_soft_bounce_defers_what_dns_refuses_too(world: SimulatedWorld) -> None:
    """With soft_bounce on nothing bounces, whoever says no: host or DNS."""
    world.zone.set("nomail.example", "MX 0 .")

    await world.submit("ann@example.org", "bob@nomail.example", "cid@tpyo.example")
    await world.clock.sleep(DAY_S)

    assert {} == ends(world)
    assert world.kinds()["deferred"] > 10
