# SPDX-License-Identifier: MIT
"""What the simulation adds to the fakes: interrupts between callbacks, clocks of lives, disks that fail half-way."""

import asyncio

import pytest
from tests.testing.test_mortal import message, simulated

from smarthost.mail.errors import StoreError
from smarthost.queue.memory import MemoryStore
from smarthost.testing.checks import Ear
from smarthost.testing.clients import ScriptedClient
from smarthost.testing.mortal import Disk, Life, MortalStore
from smarthost.testing.network import MemoryNetwork
from smarthost.testing.peers import ScriptedExchanger
from smarthost.testing.simulation import Simulation
from smarthost.testing.world import DOOR, SimulatedWorld

HOUR_S = 3600.0


@simulated
async def test_an_interrupt_comes_between_two_callbacks(simulation: Simulation) -> None:
    """After exactly so many, none twice and none left out; two may wait at once."""
    loop, told = asyncio.get_running_loop(), list[str]()
    for n in range(5):
        loop.call_soon(told.append, str(n))
    simulation.interrupt_after(2, lambda: told.append("after two"))
    simulation.interrupt_after(4, lambda: told.append("after four"))

    await asyncio.sleep(0.1)

    assert ["0", "1", "after two", "2", "3", "after four", "4"] == told


@simulated
async def test_timers_of_one_moment_fire_in_the_order_they_were_set(simulation: Simulation) -> None:
    """Whatever their number: a heap alone would shuffle them."""
    loop, told = asyncio.get_running_loop(), list[int]()
    at = loop.time() + 1.0
    for n in range(50):
        loop.call_at(at, told.append, n)

    await asyncio.sleep(2.0)

    assert list(range(50)) == told


@simulated
async def test_a_clock_step_is_seen_by_the_next_life_alone(simulation: Simulation) -> None:
    """Who runs goes on by elapsed time; who starts reads the new wall clock."""
    world = SimulatedWorld(simulation)
    await world.start()
    before = world.relay_wall

    world.step_wall(5 * HOUR_S)
    assert before == world.relay_wall
    await world.stop()
    await world.start()

    assert 5 * HOUR_S <= world.relay_wall - before < 5 * HOUR_S + 60
    await world.stop()


@simulated
async def test_mail_is_as_old_as_the_time_that_passed_whatever_the_clock_shows(simulation: Simulation) -> None:
    """Days forward or hours back over a restart: it neither expires nor lies still."""
    world = SimulatedWorld(simulation)
    host = world.site("example.net", "192.0.2.1", greylist_first=True)
    await world.start()
    for hours, whom in ((150, "bob@example.net"), (-5, "eve@example.net")):
        await world.submit("ann@example.org", whom)
        await world.clock.sleep(60)

        world.crash()
        world.step_wall(hours * HOUR_S)
        await world.start()
        await world.clock.sleep(600)

    taken = [recipient for message in host.messages for recipient in message.recipients]
    assert ["bob@example.net", "eve@example.net"] == taken
    await world.stop()


@simulated
async def test_a_relay_can_be_killed_while_it_stops(simulation: Simulation) -> None:
    """The next life finds what was committed, and the old one does nothing more."""
    world = SimulatedWorld(simulation)
    await world.start()
    client = await world.client()
    await client.begin("ann@example.org", ["bob@example.net"])  # so that there is something to wait for
    stopping = world.stop_soon(grace_s=30.0)
    await world.clock.sleep(1.0)
    assert world.is_running
    assert not world.is_up

    world.crash()
    assert not world.is_running
    await world.start()
    await world.clock.sleep(120.0)

    assert not stopping.done()
    assert (await world.client()) is not None
    await world.stop()


@simulated
async def test_a_connection_that_was_never_accepted_ends_with_the_process(simulation: Simulation) -> None:
    """The kernel had made it when the relay died: the client is told, and does not wait for a banner for ever."""
    world = SimulatedWorld(simulation)
    await world.start()
    connection = await world.network.dial(*DOOR, source="", timeout_s=10.0)

    world.crash()

    client = ScriptedClient(connection)
    assert await client.hear() == ""
    assert client.is_lost


@simulated
async def test_what_was_under_way_when_the_disk_failed_is_told_as_failed(simulation: Simulation) -> None:
    """It may have happened all the same; its leases are nobody's, so the store gives them out again."""
    life, disk = Life(), Disk(lambda n: None, lambda n: None)
    memory = MemoryStore(simulation.clock, 0.5)
    store = MortalStore(life, memory, disk)
    await store.open()
    sent = message(simulation)

    adding = asyncio.ensure_future(store.add(sent, ("example.net",)))
    await simulation.clock.sleep(0.1)
    disk.failure = StoreError("the disk is broken")
    with pytest.raises(StoreError):
        await adding
    disk.failure = None

    assert (1, 1) == await store.count()
    (lease,) = await store.lease(("example.net",), simulation.clock.wall(), 10)
    assert sent.id == lease.id


@simulated
async def test_reads_take_their_time_and_fail_without_taking_leases(simulation: Simulation) -> None:
    """A read looks when its time is over; a disk that fails by then gives nothing."""
    life, disk = Life(), Disk(lambda n: None, lambda n: None)
    store = MortalStore(life, MemoryStore(simulation.clock), disk, pace=lambda: 2.0)
    await store.open()
    await store.add(message(simulation), ())
    began = simulation.clock.monotonic()

    leasing = asyncio.ensure_future(store.lease(("example.net",), simulation.clock.wall(), 10))
    await simulation.clock.sleep(1.0)
    disk.failure = StoreError("the disk is broken")
    with pytest.raises(StoreError):
        await leasing
    disk.failure = None

    assert 2.0 == pytest.approx(simulation.clock.monotonic() - began)
    assert 1 == len(await store.lease(("example.net",), simulation.clock.wall() + 10, 10))
    disk.is_unreadable = True
    with pytest.raises(StoreError, match="cannot be read"):
        await store.content("any")


@simulated
async def test_a_connection_knows_what_its_receiver_was_told(simulation: Simulation) -> None:
    """Octets that were written and those that were read: whether a reply was heard is no guess."""
    network = MemoryNetwork(simulation.clock, simulation.random, latency_s=0.01)
    host = ScriptedExchanger(name="mx.example")
    network.bind("192.0.2.1", 25, host.accept)
    made = list[object]()
    network.connected = made.append
    near = await network.dial("192.0.2.1", 25, source="", timeout_s=1)
    await simulation.clock.sleep(0.005)

    assert [near] == made
    assert len(b"220 mx.example ESMTP\r\n") == near.far.written
    assert 0 == near.told
    near.attach(Ear())
    await simulation.clock.sleep(0.1)
    assert near.far.written == near.told
    near.close()
    assert near.is_closed
