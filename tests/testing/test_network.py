# SPDX-License-Identifier: MIT
"""The network in memory: what it can do to a connection that TCP only does on a bad day."""

import asyncio
import random
from collections.abc import Sequence

import pytest

from smarthost.mail.errors import ConnectFailed, ConnectionLost, LocalProtocolError, TlsFailed
from smarthost.mail.hop import TlsFacts
from smarthost.ports import Connection, TlsRequest
from smarthost.testing.checks import Ear
from smarthost.testing.clients import ScriptedClient
from smarthost.testing.clock import FakeClock
from smarthost.testing.network import (
    FINGERPRINT,
    Chunking,
    Faults,
    MemoryConnection,
    MemoryNetwork,
    PretendedTls,
    TlsConduct,
)
from smarthost.testing.simulation import Simulation, run_simulation

MX = ("192.0.2.25", 25)


class ChunkEar(Ear):
    """Remembers where the chunks began and ended."""

    def __init__(self) -> None:
        super().__init__()
        self.chunks: list[bytes] = []

    def received(self, chunk: bytes) -> None:
        self.chunks.append(chunk)
        super().received(chunk)


async def meet(network: MemoryNetwork) -> tuple[MemoryConnection, ChunkEar, Connection, ChunkEar]:
    """Listen at MX, dial it, and give both ends with their ears."""
    accepted: asyncio.Queue[tuple[Connection, ChunkEar]] = asyncio.Queue()
    listener = network.listener()

    def accept(connection: Connection) -> ChunkEar:
        ear = ChunkEar()
        accepted.put_nowait((connection, ear))
        return ear

    await listener.listen(*MX, accept)
    near = await network.dial(*MX, source="", timeout_s=10)
    near_ear = ChunkEar()
    near.attach(near_ear)
    far, far_ear = await accepted.get()
    return near, near_ear, far, far_ear


def make_network(chunking: Chunking = Chunking.WHOLE, faults: Faults | None = None) -> MemoryNetwork:
    network = MemoryNetwork(FakeClock(), random.Random(5), chunking=chunking)
    network.faults[MX] = faults or Faults()
    return network


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_nobody_listens_or_refusal_is_refused() -> None:
    """A dead host and one that a test declares dead look the same."""
    network = make_network()
    with pytest.raises(ConnectFailed, match="connection refused"):
        await network.dial("192.0.2.99", 25, source="", timeout_s=10)

    await network.listener().listen(*MX, lambda connection: Ear())
    network.faults[MX] = Faults(refuse=True)
    with pytest.raises(ConnectFailed, match="connection refused"):
        await network.dial(*MX, source="", timeout_s=10)

    assert network.dialled == [("192.0.2.99", 25), MX]


def test_black_hole_costs_exactly_the_timeout() -> None:
    """A host that swallows packets is given up after the connect timeout."""

    async def main(simulation: Simulation) -> float:
        network = MemoryNetwork(simulation.clock, simulation.random)
        network.faults[MX] = Faults(black_hole=True)
        before = simulation.clock.monotonic()
        with pytest.raises(ConnectFailed, match="timed out after 10 s"):
            await network.dial(*MX, source="", timeout_s=10)
        return simulation.clock.monotonic() - before

    assert run_simulation(main, seed=1) == pytest.approx(10)


@pytest.mark.parametrize(
    ("chunking", "count"), [(Chunking.WHOLE, {1}), (Chunking.OCTETS, {30}), (Chunking.RANDOM, set(range(2, 30)))]
)
@pytest.mark.asyncio
async def test_chunking_cuts_but_changes_nothing(chunking: Chunking, count: set[int]) -> None:
    """The same octets arrive whole, one by one, or in pieces of any size."""
    near, _, _, far_ear = await meet(make_network(chunking))

    near.write([b"MAIL FROM:<>\r\n", b"RCPT TO:"])
    near.write([b"<a@b.c>\r"])
    near.close()
    await far_ear.until_lost()

    assert b"".join(far_ear.chunks) == b"MAIL FROM:<>\r\nRCPT TO:<a@b.c>\r"
    assert len(far_ear.chunks) in count


def test_latency_is_paid_each_way() -> None:
    """A round trip takes twice the latency, and so does the dial."""

    async def main(simulation: Simulation) -> list[float]:
        network = MemoryNetwork(simulation.clock, simulation.random, latency_s=0.05)
        near, near_ear, far, far_ear = await meet(network)
        dialled = simulation.clock.monotonic()
        near.write([b"ping"])
        await far_ear.until(lambda: bool(far_ear.octets))
        far.write([b"pong"])
        await near_ear.until(lambda: bool(near_ear.octets))
        return [dialled, simulation.clock.monotonic() - dialled]

    assert run_simulation(main, seed=1) == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize("limit", range(1, 9))
@pytest.mark.asyncio
async def test_reset_after_so_many_octets_in_both_directions(limit: int) -> None:
    """A connection can be cut at each octet of a dialogue; both sides notice, neither hears more."""
    near, near_ear, far, far_ear = await meet(make_network(faults=Faults(reset_after=limit)))

    near.write([b"ping"])
    await settle()
    far.write([b"pong"])
    await near_ear.until_lost()
    await far_ear.until_lost()

    assert far_ear.octets + near_ear.octets == b"pingpong"[:limit]
    for ear in (near_ear, far_ear):
        assert [str(why) for why in ear.ends] == ["connection reset by peer"]
        assert isinstance(ear.ends[0], ConnectionLost)


@pytest.mark.asyncio
async def test_stall_fills_the_window_and_is_never_told() -> None:
    """A connection that stalls looks alive, takes what the window takes, and hears nothing more."""
    near, near_ear, _, far_ear = await meet(make_network(faults=Faults(stall_after=6)))

    near.write([b"before"])
    near.write([b"after"])
    await settle()
    while near.write([bytes(10_000)]):
        pass
    await settle()

    assert far_ear.octets == b"before"
    assert not near_ear.told
    near.abort()
    await near_ear.until_lost()
    assert not far_ear.ends, "the end is stalled too"


@pytest.mark.asyncio
async def test_writable_is_not_told_after_close() -> None:
    """Whoever has closed hears of nothing but the end."""
    near, near_ear, far, _ = await meet(make_network())
    far.pause()
    while near.write([bytes(10_000)]):
        pass
    await settle()

    far.resume()
    await asyncio.sleep(0)
    near.close()
    await near_ear.until_lost()

    assert near_ear.told == ["lost"]


SHAKES: Sequence[tuple[TlsConduct, bool, str]] = [
    (TlsConduct.VALID, True, ""),
    (TlsConduct.VALID, False, ""),
    (TlsConduct.UNTRUSTED, False, ""),
    (TlsConduct.UNTRUSTED, True, "certificate not valid: self-signed certificate"),
    (TlsConduct.BROKEN, False, "handshake failure"),
]


@pytest.mark.parametrize(("conduct", "verified", "failure"), SHAKES)
@pytest.mark.asyncio
async def test_handshake_ends_as_the_endpoint_was_told(conduct: TlsConduct, verified: bool, failure: str) -> None:
    """Each policy meets each kind of certificate."""
    near, ear, _, far_ear = await meet(make_network(faults=Faults(tls=conduct)))

    ear.quietly(near.upgrade, TlsRequest("mx.example", verified))
    with pytest.raises(LocalProtocolError):
        near.write([b"EHLO relay.example\r\n"])
    await ear.until(lambda: bool(ear.told))

    if failure:
        assert isinstance(ear.ends[0], TlsFailed)
        assert str(ear.ends[0]) == failure
        await far_ear.until_lost()
    else:
        assert ear.facts == TlsFacts("TLSv1.3", "SIMULATED", verified)
        near.write([b"EHLO relay.example\r\n"])
        await far_ear.until(lambda: bool(far_ear.octets))


@pytest.mark.asyncio
async def test_octets_injected_before_the_handshake_break_it() -> None:
    """What comes in clear after the upgrade began is never told, as with real TLS."""
    near, ear, far, _ = await meet(make_network())

    far.write([b"250 injected\r\n"])
    near.upgrade(TlsRequest("mx.example", verified=False))
    await ear.until_lost()

    assert ear.told == ["lost"]
    assert isinstance(ear.ends[0], TlsFailed)


@pytest.mark.asyncio
async def test_peer_that_leaves_during_the_handshake() -> None:
    """A host that hangs up instead of shaking hands is a TLS failure."""
    near, ear, far, _ = await meet(make_network())

    near.upgrade(TlsRequest("mx.example", verified=False))
    far.close()
    await ear.until_lost()

    assert isinstance(ear.ends[0], TlsFailed)


@pytest.mark.asyncio
async def test_wildcard_listener_answers_every_address() -> None:
    """A test network can have one exchanger behind many addresses, and still a special one."""
    network = make_network()
    heard: list[str] = []
    await network.listener().listen("*", 25, lambda connection: heard.append("any"))
    await network.listener().listen(*MX, lambda connection: heard.append("special"))

    for address in ("192.0.2.1", MX[0]):
        await network.dial(address, 25, source="", timeout_s=10)
    await settle()

    assert heard == ["any", "special"]


@pytest.mark.asyncio
@pytest.mark.parametrize("fingerprint", ["", FINGERPRINT])
async def test_server_side_of_the_handshake(fingerprint: str) -> None:
    """Both sides can shake hands; the server is told the certificate that whoever dials was given."""
    network = make_network()
    network.fingerprint = fingerprint
    near, ear, far, far_ear = await meet(network)

    far_ear.quietly(far.upgrade, PretendedTls())
    near.upgrade(TlsRequest("mx.example", verified=True))
    await ear.until(lambda: ear.facts is not None)
    near.write([b"EHLO relay.example\r\n"])
    await far_ear.until(lambda: bool(far_ear.octets))

    assert ear.facts == TlsFacts("TLSv1.3", "SIMULATED", verified=True)
    assert far_ear.facts == TlsFacts("TLSv1.3", "SIMULATED", verified=False, fingerprint=fingerprint)
    assert far_ear.told == ["secured", "received"]


@pytest.mark.asyncio
async def test_client_under_script_shakes_hands() -> None:
    """A scripted client can go on under TLS, and sees it fail as a lost connection."""
    for conduct in (TlsConduct.VALID, TlsConduct.UNTRUSTED):
        network = make_network(faults=Faults(tls=conduct))
        accepted: list[Connection] = []

        def accept(connection: Connection, accepted: list[Connection] = accepted) -> Ear:
            accepted.append(connection)
            connection.upgrade(PretendedTls())
            return Ear()

        await network.listener().listen(*MX, accept)
        client = ScriptedClient(await network.dial(*MX, source="", timeout_s=10))
        facts = await client.shake_hands(TlsRequest("mx.example", verified=True))

        assert (facts is not None) == (conduct is TlsConduct.VALID)
        assert client.is_lost == (facts is None)
