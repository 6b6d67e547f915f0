# SPDX-License-Identifier: MIT
"""Hosts that do not work: passed over, remembered, probed, and not trampled when they come back."""

from tests.journeys.rig import (
    HOUR_S,
    CountingExchanger,
    SlowExchanger,
    assert_accounted,
    ends,
    in_world,
    noted,
    taken,
    times_of,
)

from smarthost.testing.network import Faults
from smarthost.testing.peers import ScriptedExchanger
from smarthost.testing.world import SimulatedWorld


@in_world()
async def test_a_dead_first_exchanger_is_passed_over_and_remembered(world: SimulatedWorld) -> None:
    """The second message goes to the second exchanger at once, without knocking at the dead one again."""
    world.domain("example.net", "192.0.2.1", "192.0.2.2")
    second = world.place(ScriptedExchanger(), "192.0.2.2")

    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(1)
    await world.submit("ann@example.org", "cid@example.net")
    await world.clock.sleep(1)

    assert {"bob@example.net": 1, "cid@example.net": 1} == taken(second)
    assert [("192.0.2.1", 25), ("192.0.2.2", 25)] == [dial for dial in world.network.dialled if dial[1] == 25]
    assert {"accepted": 2, "relayed": 2} == world.kinds()
    assert_accounted(world)


@in_world()
async def test_a_dead_exchanger_is_tried_again_after_its_pause(world: SimulatedWorld) -> None:
    """The best exchanger gets its mail again once a probe aside has found it well; no mail waited for that probe."""
    world.domain("example.net", "192.0.2.1", "192.0.2.2")
    second = world.place(ScriptedExchanger(), "192.0.2.2")
    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(60)
    first = world.place(ScriptedExchanger(), "192.0.2.1")

    await world.submit("ann@example.org", "cid@example.net")
    await world.clock.sleep(1)
    await world.submit("ann@example.org", "dan@example.net")
    await world.clock.sleep(1)

    assert {"bob@example.net": 1, "cid@example.net": 1} == taken(second)
    assert {"dan@example.net": 1} == taken(first)


@in_world()
async def test_when_all_hosts_are_dead_waiting_counts_no_attempts(world: SimulatedWorld) -> None:
    """Only probes are attempts: ten messages for a dead host are not dialled ten times at each turn."""
    world.domain("example.net", "192.0.2.1")
    for n in range(10):
        await world.submit("ann@example.org", f"u{n}@example.net")
    await world.clock.sleep(HOUR_S)
    dials = world.network.dialled.count(("192.0.2.1", 25))
    exchanger = world.place(CountingExchanger(), "192.0.2.1")
    await world.until_empty()

    kinds = world.kinds()
    assert 10 == len(exchanger.messages)
    assert kinds["relayed"] == 10
    assert kinds["deferred"] <= dials  # most dials are probes aside, which count as nobody's attempt
    assert dials < 20
    assert kinds.get("postponed", 0) < 60, "a backlog is not rewritten at every pause"
    assert_accounted(world)


@in_world(sessions_per_lane=3)
async def test_a_backlog_goes_out_through_the_window_when_its_host_is_back(world: SimulatedWorld) -> None:
    """Two hundred messages that waited are sent over three sessions, not two hundred."""
    world.domain("example.net", "192.0.2.1")
    client = await world.client()
    for n in range(200):
        await client.send("ann@example.org", (f"u{n}@example.net",))
    await world.clock.sleep(HOUR_S)

    exchanger = world.place(SlowExchanger(), "192.0.2.1")
    await world.until_empty()

    assert 200 == len(taken(exchanger))
    assert 3 == exchanger.most
    assert world.kinds()["relayed"] == 200
    assert_accounted(world)


@in_world(sessions_per_lane=3)
async def test_domains_of_one_provider_share_its_window(world: SimulatedWorld) -> None:
    """Fifty domains with the same exchanger open three sessions to it in all."""
    for n in range(50):
        world.zone.set(f"d{n}.example", "MX 10 mx.example.net")
    world.zone.set("mx.example.net", "A 192.0.2.1")
    exchanger = world.place(SlowExchanger(), "192.0.2.1")

    await world.submit("ann@example.org", *(f"u@d{n}.example" for n in range(50)))
    await world.until_empty()

    assert 3 == exchanger.most
    assert 50 == len(taken(exchanger))


@in_world()
async def test_a_black_hole_holds_up_nobody_else(world: SimulatedWorld) -> None:
    """While dials to one host time out, mail for another goes its way in less than a second."""
    world.domain("hole.example", "192.0.2.1")
    world.network.faults["192.0.2.1", 25] = Faults(black_hole=True)
    other = world.site("example.net", "192.0.2.2")
    client = await world.client()
    for n in range(100):
        await client.send("ann@example.org", (f"u{n}@hole.example",))

    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(1)

    assert {"bob@example.net": 1} == taken(other)


@in_world(sessions_per_lane=2)
async def test_a_slow_host_holds_up_nobody_else(world: SimulatedWorld) -> None:
    """A host that takes minutes for a message has its own sessions; the others are served meanwhile."""
    world.domain("slow.example", "192.0.2.1")
    slow = SlowExchanger()
    slow.delay_s = 60.0
    world.place(slow, "192.0.2.1")
    other = world.site("example.net", "192.0.2.2")
    client = await world.client()
    for n in range(20):
        await client.send("ann@example.org", (f"u{n}@slow.example",))
    started = world.clock.monotonic()

    for n in range(20):
        await client.send("ann@example.org", (f"u{n}@example.net",))
    await world.clock.sleep(1)

    assert 20 == len(taken(other))
    assert max(times_of(world, "relayed")) - started < 3
    await world.until_empty()
    assert {"bob": 20}["bob"] == len(taken(slow))
    assert_accounted(world)


@in_world()
async def test_mail_that_arrives_while_its_host_is_shunned_is_not_forgotten(world: SimulatedWorld) -> None:
    """A message for a host that has just been refused goes out when the host works again, within its pause."""
    world.domain("example.net", "192.0.2.1")
    client = await world.client()
    await client.send("ann@example.org", ("first@example.net",))
    await world.clock.sleep(0.5)
    for n in range(5):
        await client.send("ann@example.org", (f"u{n}@example.net",))
        await world.clock.sleep(0.3)
    exchanger = world.place(ScriptedExchanger(), "192.0.2.1")

    await world.clock.sleep(30)

    assert {f"u{n}@example.net" for n in range(5)} <= set(taken(exchanger))


@in_world()
async def test_blocked_port_25_is_noted_once(world: SimulatedWorld) -> None:
    """Whose network drops outgoing port 25 is told so once, with the cure, not at every timeout."""
    for n in range(1, 9):
        world.domain(f"d{n}.example", f"192.0.2.{n}")
        world.network.faults[f"192.0.2.{n}", 25] = Faults(black_hole=True)

    await world.submit("ann@example.org", *(f"u@d{n}.example" for n in range(1, 9)))
    await world.clock.sleep(2 * HOUR_S)

    (note,) = noted(world, "outbound port 25 seems blocked")
    assert "587" in str(note["cure"])
    assert {} == ends(world)


@in_world(sessions=40)
async def test_a_crowd_of_dead_sites_leaves_slots_to_a_living_one(world: SimulatedWorld) -> None:
    """A hundred black holes, each with mail, and forty sessions in all: a site that is known to work waits for none."""
    living = world.site("example.net", "192.0.2.250")
    await world.submit("ann@example.org", "first@example.net")
    await world.clock.sleep(10)
    for n in range(1, 101):
        world.domain(f"d{n}.example", f"192.0.2.{n}")
        world.network.faults[f"192.0.2.{n}", 25] = Faults(black_hole=True)
    await world.submit("ann@example.org", *(f"u@d{n}.example" for n in range(1, 101)))
    await world.clock.sleep(1)

    for n in range(5):
        await world.submit("ann@example.org", f"u{n}@example.net")
    await world.clock.sleep(0.5)

    assert 6 == len(taken(living))
