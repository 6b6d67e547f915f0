# SPDX-License-Identifier: MIT
"""Real and fake ports pass the same checks."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop

from smarthost.backends.clock import SystemClock
from smarthost.backends.tcp import TcpDialer, TcpListener
from smarthost.backends.tls import ServerTls, TlsContexts
from smarthost.ports import TlsRequest
from smarthost.testing.checks import check_clock, check_connections
from smarthost.testing.clock import FakeClock
from smarthost.testing.network import Chunking, MemoryNetwork, PretendedTls
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


PRETENDED = (TlsRequest("mx.example", verified=True), PretendedTls())


@LOOPS
@pytest.mark.parametrize("asks_client", [False, True], ids=["", "client certificates"])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_tcp_conforms(run: Callable[[Main], None], address: str, asks_client: bool, tmp_path: Path) -> None:
    """TCP connections keep the promises of the port on both loops and both families, with either library for TLS."""
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    issued = authority.issue_cert("mx.example", key_type=trustme.KeyType.ECDSA)
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")

    async def main() -> None:
        clock = SystemClock()
        contexts = TlsContexts(ca_text=authority.cert_pem.bytes().decode())
        service = ServerTls(str(tmp_path / "both.pem"), asks_client=asks_client, clock=clock, note=print)
        tls = TlsRequest("mx.example", verified=True), service
        await check_connections(TcpDialer(clock, contexts), TcpListener(clock), address, tls)

    run(main())


@pytest.mark.parametrize("chunking", [Chunking.WHOLE, Chunking.RANDOM])
def test_memory_network_conforms(chunking: Chunking) -> None:
    """Connections in memory keep the same promises as TCP, on an ordinary loop without latency."""

    async def main() -> None:
        network = MemoryNetwork(FakeClock(), random.Random(1), chunking=chunking)
        await check_connections(network, network.listener(), "192.0.2.1", PRETENDED)

    asyncio.run(main())


def test_memory_network_conforms_in_simulation() -> None:
    """Connections in memory keep the same promises in virtual time, with latency."""

    async def main(simulation: Simulation) -> None:
        network = MemoryNetwork(simulation.clock, simulation.random, latency_s=0.01)
        await check_connections(network, network.listener(), "192.0.2.1", PRETENDED)

    run_simulation(main, seed=1)
