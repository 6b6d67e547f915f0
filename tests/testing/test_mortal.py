# SPDX-License-Identifier: MIT
"""A process that is killed: from that moment on nothing of it reaches the world, nor the world it."""

import asyncio
from collections.abc import Awaitable, Callable

from smarthost.mail.address import Address, Domain
from smarthost.mail.content import InlineContent
from smarthost.mail.envelope import Envelope
from smarthost.mail.errors import StoreError
from smarthost.mail.identity import IdSource
from smarthost.mail.message import Message
from smarthost.mail.record import Record
from smarthost.queue.memory import MemoryStore
from smarthost.testing.checks import Ear
from smarthost.testing.mortal import Disk, Life, MortalClock, MortalDialer, MortalSink, MortalStore
from smarthost.testing.network import MemoryNetwork
from smarthost.testing.simulation import Simulation, run_simulation


def simulated(scenario: Callable[[Simulation], Awaitable[None]]) -> Callable[[], None]:
    def test() -> None:
        async def main(simulation: Simulation) -> None:
            await scenario(simulation)

        run_simulation(main, seed=1)

    test.__name__ = scenario.__name__
    test.__doc__ = scenario.__doc__
    return test


def message(simulation: Simulation) -> Message:
    envelope = Envelope("ann@example.org", (Address("bob@example.net", Domain("example.net")),))
    id = IdSource(simulation.clock.wall, 1).next()
    return Message(id, simulation.clock.wall(), envelope, b"", InlineContent(b"x"), "local", "local")


@simulated
async def test_what_was_written_before_death_arrives_and_then_the_end(simulation: Simulation) -> None:
    """The kernel sends what it has and closes; a dead process writes nothing more, and hears nothing."""
    network = MemoryNetwork(simulation.clock, simulation.random, latency_s=0.01)
    life, far, near = Life(), Ear(), Ear()
    network.bind("192.0.2.1", 25, lambda connection: far)
    connection = await MortalDialer(life, network).dial("192.0.2.1", 25, source="", timeout_s=1)
    connection.attach(near)

    connection.write([b"last words"])
    life.end()
    connection.write([b"from the grave"])
    await simulation.clock.sleep(1)

    assert b"last words" == far.octets
    assert ["received", "lost"] == far.told
    assert [] == near.told


@simulated
async def test_a_dial_that_ends_after_death_leaves_no_connection(simulation: Simulation) -> None:
    """A connection made for nobody is closed; whoever dialled waits for ever."""
    network = MemoryNetwork(simulation.clock, simulation.random, latency_s=0.5)
    life, far = Life(), Ear()
    network.bind("192.0.2.1", 25, lambda connection: far)
    dialling = asyncio.ensure_future(MortalDialer(life, network).dial("192.0.2.1", 25, source="", timeout_s=9))
    await simulation.clock.sleep(0.1)

    life.end()
    await simulation.clock.sleep(5)

    assert not dialling.done()
    assert far.told == ["lost"]


@simulated
async def test_no_deadline_wakes_the_dead(simulation: Simulation) -> None:
    """Timers set in life do not fire, sleepers do not wake, and no line is logged."""
    life, fired = Life(), []
    clock = MortalClock(life, simulation.clock)
    sleeping = asyncio.ensure_future(clock.sleep(5))

    class Log:
        def record(self, record: Record) -> None: ...

        def note(self, level: str, what: str, **facts: object) -> None:
            fired.append(what)

    sink = MortalSink(life, Log())
    clock.deadline(5, lambda: fired.append("deadline"))
    sink.note("info", "alive")
    await simulation.clock.sleep(1)

    life.end()
    sink.note("info", "dead")
    await simulation.clock.sleep(10)

    assert ["alive"] == fired
    assert not sleeping.done()


@simulated
async def test_the_dead_do_not_learn_what_became_durable(simulation: Simulation) -> None:
    """Killed between the commit and its telling: the change is there, nobody was told."""
    life = Life()
    disk = Disk(lambda n: None, lambda n: life.end())
    memory = MemoryStore(simulation.clock, 0.5)
    store = MortalStore(life, memory, disk)
    await store.open()

    adding = asyncio.ensure_future(store.add(message(simulation), ()))
    await simulation.clock.sleep(5)
    found = memory.crash()
    await found.open()

    assert not adding.done()
    assert (1, 1) == await found.count()


@simulated
async def test_a_broken_disk_keeps_what_was_settled_until_it_is_repaired(simulation: Simulation) -> None:
    """Everything fails with the disk's own error, commits are counted only where there are any."""
    disk = Disk(lambda n: None, lambda n: None)
    store = MortalStore(Life(), MemoryStore(simulation.clock, 0.5), disk)
    await store.open()
    await store.add(message(simulation), ())
    disk.failure = StoreError("broken")

    failures = []
    for asked in (store.add(message(simulation), ()), store.settle(()), store.due(0.0, 1), store.count()):
        try:
            await asked
        except StoreError as error:
            failures.append(str(error))
    refusal = store.refusal
    disk.failure = None
    await store.repaired()

    assert ["broken"] * 4 == failures
    assert refusal is not None
    assert store.refusal is None
    assert 1 == disk.commits
