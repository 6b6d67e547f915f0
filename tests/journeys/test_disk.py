# SPDX-License-Identifier: MIT
"""A store that fails: nothing is accepted, nothing heard is lost, and all goes on when it works again."""

from tests.journeys.rig import SlowExchanger, assert_accounted, in_world, noted, taken

from smarthost.testing.world import SimulatedWorld


@in_world()
async def test_no_250_while_the_disk_is_broken(world: SimulatedWorld) -> None:
    """Clients hear 4xx and come again; what they send after the repair arrives once."""
    site = world.site("example.net", "192.0.2.1")
    client = await world.client()
    world.break_disk()

    at_mail = await client.send("ann@example.org", ("bob@example.net",))
    at_banner = await world.submit("ann@example.org", "bob@example.net")
    await world.repair()
    at_last = await client.send("ann@example.org", ("bob@example.net",))
    await world.until_empty()

    assert at_mail.startswith("451 4.3.0")
    assert not at_banner.startswith("250")
    assert at_last.startswith("250")
    assert {"bob@example.net": 1} == taken(site)
    assert_accounted(world)


@in_world()
async def test_a_disk_that_breaks_during_content_is_451(world: SimulatedWorld) -> None:
    """The failure comes after 354: the answer to the dot is temporary, and nothing is queued."""
    world.site("example.net", "192.0.2.1")
    client = await world.client()
    heard = await client.begin("ann@example.org", ("bob@example.net",))
    world.break_disk()

    reply = await client.say(b"Subject: x\r\n\r\nbody\r\n.\r\n")

    assert heard[-1].startswith("354")
    assert reply.startswith("451 4.3.0")
    await world.repair()
    assert (0, 0) == world.count()


@in_world()
async def test_a_verdict_heard_while_the_disk_is_broken_is_not_lost(world: SimulatedWorld) -> None:
    """The host said 250 while nothing could be written: it is recorded after the repair, and not sent again."""
    world.domain("slow.example", "192.0.2.1")
    slow = world.place(SlowExchanger(), "192.0.2.1")
    await world.submit("ann@example.org", "bob@slow.example")
    world.break_disk()
    await world.clock.sleep(60)
    before = world.kinds()

    await world.repair()
    await world.clock.sleep(3600)

    assert "relayed" not in {kind for kind in before if kind != "accepted"}
    assert {"accepted": 1, "relayed": 1} == world.kinds()
    assert {"bob@slow.example": 1} == taken(slow)
    assert noted(world, "settlement waits for the store")
    assert_accounted(world)


@in_world()
async def test_delivery_goes_on_after_the_repair_without_new_mail(world: SimulatedWorld) -> None:
    """What became due while the disk was broken is found again by itself."""
    site = world.site("example.net", "192.0.2.1", greylist_first=True)
    home = world.site("example.org", "192.0.2.2")
    world.site("example.com", "192.0.2.3", replies={"rcpt": "550 5.1.1 unknown"})
    await world.submit("ann@example.org", "bob@example.net", "gone@example.com")
    await world.clock.sleep(0.05)
    world.break_disk()
    await world.clock.sleep(1200)

    await world.repair()
    await world.until_empty(within_s=600)

    assert {"bob@example.net": 1} == taken(site)
    assert {"ann@example.org": 1} == taken(home)
    assert_accounted(world)
