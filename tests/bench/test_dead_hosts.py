# SPDX-License-Identifier: MIT
"""The dead exchangers of the benchmark are dead in the way they are named for."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from bench.children import Scratch
from bench.dead_hosts import Exchanger, LostSyn, Tally, exchanger
from bench.dead_world import DeadHost, look_at
from bench.failure import RunFailed
from bench.network import free_port

SILENCE_S = 0.05  # loopback answers within microseconds
MAIL = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n"
CONTENT = b"Subject: x\r\n\r\n..dot\r\n.\r\n"


@pytest.fixture
def lost_syn() -> Iterator[LostSyn]:
    """An exchanger that no SYN reaches."""
    lost = LostSyn("127.0.0.1", 0, patience_s=SILENCE_S)
    yield lost
    lost.close()


@asynccontextmanager
async def connected(
    make: Callable[[], asyncio.Protocol], times: int = 1
) -> AsyncIterator[list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]:
    """Serve, and give connections to it."""
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    peers = [await asyncio.open_connection(*server.sockets[0].getsockname()) for _ in range(times)]
    try:
        yield peers
    finally:
        for _, writer in peers:
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()


async def is_silent(reader: asyncio.StreamReader) -> bool:
    """Did nothing come, not even the end, for as long as we are willing to wait?"""
    try:
        await asyncio.wait_for(reader.read(1), SILENCE_S)
    except TimeoutError:
        return True
    return False


def test_lost_syn_lets_every_connection_hang(lost_syn: LostSyn) -> None:
    """Neither accepted nor refused, however often one tries."""
    assert [look_at(*lost_syn.address, patience_s=SILENCE_S) for _ in range(3)] == ["hangs"] * 3


def test_lost_syn_gives_its_place_back(lost_syn: LostSyn) -> None:
    """Once closed, the same place refuses: nothing lingers in the kernel."""
    lost_syn.close()

    assert look_at(*lost_syn.address, patience_s=SILENCE_S) == "refuses"


@pytest.mark.asyncio
async def test_banner_never_comes() -> None:
    """The connection stands, and nothing is ever said, even to a client that talks first."""
    async with connected(exchanger("banner", Tally())) as [(reader, writer)]:
        writer.write(b"EHLO client.example\r\n")

        assert await is_silent(reader)


@pytest.mark.asyncio
async def test_tls_stalls_after_220_in_every_connection() -> None:
    """It offers STARTTLS, says 220 to it, and the handshake is never answered; later connections fare no better."""
    async with connected(exchanger("tls", Tally()), times=2) as peers:
        for reader, writer in peers:
            assert (await reader.readline()).startswith(b"220 ")
            writer.write(b"EHLO client.example\r\n")
            assert b"250-STARTTLS\r\n" in await reader.readuntil(b"250 8BITMIME\r\n")
            writer.write(b"STARTTLS\r\n")
            assert (await reader.readline()).startswith(b"220 ")
            writer.write(b"\x16\x03\x01\x00\x05hello\nNOOP\r\n")

            assert await is_silent(reader)


@pytest.mark.asyncio
@pytest.mark.parametrize("step", [1, 7, 1000])
async def test_tls_host_takes_mail_in_clear_and_counts_it(step: int) -> None:
    """Whoever does without TLS is served, however the octets are cut, and what arrives is counted."""
    tally = Tally()
    async with connected(exchanger("tls", tally)) as [(reader, writer)]:
        octets = b"EHLO client.example\r\n" + (MAIL + CONTENT) * 2 + MAIL + b".\r\nQUIT\r\n"
        for start in range(0, len(octets), step):
            writer.write(octets[start : start + step])
        said = await reader.read(-1)

    codes = [line[:4] for line in said.splitlines()]
    assert codes == [b"220 ", b"250-", b"250-", b"250-", b"250 ", *[b"250 ", b"250 ", b"354 ", b"250 "] * 3, b"221 "]
    assert tally.messages == 3


@pytest.mark.asyncio
async def test_tarpit_answers_correctly_one_reply_at_a_time() -> None:
    """A pipelined group gets its replies, each as late after the one before."""
    tally = Tally()
    async with connected(lambda: Exchanger(tally, drip_s=0.01)) as [(reader, writer)]:
        await reader.readline()
        began = time.monotonic()
        writer.write(MAIL + CONTENT + b"QUIT\r\n")
        said = await reader.read(-1)

    assert [line[:3] for line in said.splitlines()] == [b"250", b"250", b"354", b"250", b"221"]
    assert time.monotonic() - began >= 5 * 0.01
    assert tally.messages == 1


def test_unknown_way_is_a_mistake() -> None:
    """A mistyped way of dying is no living host."""
    with pytest.raises(KeyError):
        exchanger("snooze", Tally())


@pytest.mark.slow
def test_host_that_is_not_dead_as_named_fails_the_run(tmp_path: Path) -> None:
    """A benchmark of a refusing host that accepts would measure nothing."""
    with Scratch(tmp_path) as scratch, socket.create_server(("127.0.0.1", 0)) as alive:
        port = alive.getsockname()[1]

        with pytest.raises(RunFailed, match="dead by refused, accepts"):
            DeadHost(scratch, "127.0.0.1", "refused", port)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["syn", "tarpit"])
def test_dead_host_as_program_comes_up_dead(tmp_path: Path, way: str) -> None:
    """The benchmark starts it, sees for itself that it is dead as named, and ends it."""
    port = free_port()
    with Scratch(tmp_path) as scratch:
        host = DeadHost(scratch, "127.0.0.1", way, port)

        assert host.total() == 0
        scratch.kill_children()
        with pytest.raises(RunFailed, match="ended"):
            host.check()
        host.close()
