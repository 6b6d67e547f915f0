# SPDX-License-Identifier: MIT
"""Real and fake ports pass the same checks."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from smarthost.backends.clock import SystemClock
from smarthost.backends.tcp import TcpDialer, TcpListener
from smarthost.testing.checks import check_clock, check_connections
from smarthost.testing.clock import FakeClock
from smarthost.testing.network import Chunking, MemoryNetwork
from smarthost.testing.simulation import Simulation, run_simulation

Main = Coroutine[Any, Any, None]
LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


@pytest.mark.slow
@LOOPS
def test_system_clock_conforms(run: Callable[[Main], None]) -> None:
    """The real clock and its wheel keep the promises of the port on both loops."""
    clock = SystemClock()

    async def main() -> None:
        await check_clock(clock, asyncio.sleep)

    run(main())


def test_fake_clock_conforms() -> None:
    """The clock moved by hand keeps the same promises as the real one."""
    clock = FakeClock()

    async def let_pass(seconds: float) -> None:
        clock.advance(seconds)
        await asyncio.sleep(0)

    asyncio.run(check_clock(clock, let_pass))


def test_simulated_clock_conforms() -> None:
    """The clock of the simulation keeps the same promises as the real one."""

    async def main(simulation: Simulation) -> None:
        await check_clock(simulation.clock, asyncio.sleep)

    run_simulation(main, seed=1)


@LOOPS
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_tcp_conforms(run: Callable[[Main], None], address: str) -> None:
    """TCP connections keep the promises of the port on both loops and both families."""

    async def main() -> None:
        clock = SystemClock()
        await check_connections(TcpDialer(clock), TcpListener(clock), address)

    run(main())


@pytest.mark.parametrize("chunking", [Chunking.WHOLE, Chunking.RANDOM])
def test_memory_network_conforms(chunking: Chunking) -> None:
    """Connections in memory keep the same promises as TCP, on an ordinary loop without latency."""

    async def main() -> None:
        network = MemoryNetwork(FakeClock(), random.Random(1), chunking=chunking)
        await check_connections(network, network.listener(), "192.0.2.1")

    asyncio.run(main())


def test_memory_network_conforms_in_simulation() -> None:
    """Connections in memory keep the same promises in virtual time, with latency."""

    async def main(simulation: Simulation) -> None:
        network = MemoryNetwork(simulation.clock, simulation.random, latency_s=0.01)
        await check_connections(network, network.listener(), "192.0.2.1")

    run_simulation(main, seed=1)
