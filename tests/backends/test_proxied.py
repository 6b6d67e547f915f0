# SPDX-License-Identifier: MIT
"""Listening behind a balancer: who is believed, how long it may take, and what comes behind the header."""

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop

from smarthost.backends.tcp import HEADER_S, TcpListener
from smarthost.backends.tls import ServerTls
from smarthost.mail.errors import ConfigError
from smarthost.ports import Connection, Receiver
from smarthost.testing.checks import Ear
from smarthost.testing.clock import FakeClock

Run = Callable[[Coroutine[Any, Any, None]], None]
HOME = "127.0.0.1"
EVERY_LOOP = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
LINE = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\r\n"
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
BLOCK = struct.pack("!4s4sHH", bytes([192, 0, 2, 7]), bytes([198, 51, 100, 1]), 40000, 25)
HEADER = SIGNATURE + struct.pack("!BBH", 0x21, 0x11, len(BLOCK)) + BLOCK
ENDS = (("192.0.2.7", 40000), ("198.51.100.1", 25))


class Gate:
    """A listener, who was accepted, and what was noted."""

    def __init__(self, proxies: tuple[str, ...] = ("127.0.0.0/8",)) -> None:
        self.clock = FakeClock()
        self.notes: list[tuple[str, str, dict[str, Any]]] = []
        self.accepted: list[tuple[Connection, Ear]] = []
        self.listener = TcpListener(
            self.clock, note=lambda level, what, **facts: self.notes.append((level, what, facts))
        )
        self.proxies = proxies
        self.service: ServerTls | None = None
        self.refuses = False

    def accept(self, connection: Connection) -> Receiver | None:
        ear = Ear()
        self.accepted.append((connection, ear))
        if self.service is not None:
            connection.upgrade(self.service)
        else:
            connection.write([b"220 hi\r\n"])
        return None if self.refuses else ear

    async def open(self) -> socket.socket:
        bound = await self.listener.listen(HOME, 0, self.accept, self.proxies)
        sock = socket.create_connection(bound)
        sock.setblocking(False)
        return sock

    async def until_accepted(self) -> tuple[Connection, Ear]:
        while not self.accepted:
            await asyncio.sleep(0)
        return self.accepted[0]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def hear_all(sock: socket.socket) -> bytes:
    heard = b""
    try:
        while octets := await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 1000), 5):
            heard += octets
    except ConnectionError:
        pass
    sock.close()
    return heard


@EVERY_LOOP
@pytest.mark.parametrize("header", [LINE, HEADER], ids=["v1", "v2"])
@pytest.mark.parametrize("pieces", ["one segment", "octets", "two"])
def test_client_is_who_the_balancer_says(run: Run, header: bytes, pieces: str) -> None:
    """The client's own address decides who may relay; its first command may come in the header's segment."""

    async def main() -> None:
        gate = Gate()
        sock = await gate.open()
        sent = header + b"EHLO relay.example\r\n"
        cuts = {"one segment": [len(sent)], "octets": list(range(1, len(sent) + 1)), "two": [len(header), len(sent)]}
        for start, end in zip([0, *cuts[pieces]], cuts[pieces], strict=False):
            assert not gate.accepted or end > len(header), "nobody is told before the header is whole"
            sock.send(sent[start:end])
            await settle()
        connection, ear = await gate.until_accepted()
        await ear.until(lambda: len(ear.octets) == 20)
        assert (connection.peer, connection.local) == ENDS
        assert ear.octets == b"EHLO relay.example\r\n"
        sock.shutdown(socket.SHUT_WR)
        assert await hear_all(sock) == b"220 hi\r\n"
        await ear.until_lost()
        assert gate.clock.next_due_s is None
        await gate.listener.close()

    run(main())


@EVERY_LOOP
@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", SIGNATURE + b"\x20\x00\x00\x00"], ids=["v1", "v2"])
def test_balancer_that_speaks_for_itself(run: Run, header: bytes) -> None:
    """It is seen, for its health check; whoever is behind it has port 0, and so no rights by its address."""

    async def main() -> None:
        gate = Gate()
        sock = await gate.open()
        here = sock.getsockname()
        sock.send(header)
        connection, ear = await gate.until_accepted()
        assert (connection.peer, connection.local) == ((here[0], 0), sock.getpeername())
        sock.close()
        await ear.until_lost()
        await gate.listener.close()

    run(main())


@EVERY_LOOP
@pytest.mark.parametrize("words", [b"EHLO relay.example\r\n", b"PROXY TCP4 nonsense\r\n", b"\x16\x03\x01\x02\x00\x01"])
def test_balancer_without_a_header_is_dropped(run: Run, words: bytes) -> None:
    """A balancer that is not set up for it is noticed, not taken for a client that may relay."""

    async def main() -> None:
        gate = Gate()
        sock = await gate.open()
        sock.send(words)
        assert await hear_all(sock) == b""
        assert not gate.accepted
        ((level, what, facts),) = gate.notes
        assert (level, what, facts["peer"]) == ("warning", "balancer dropped", HOME)
        assert "PROXY" in facts["why"]
        assert gate.clock.next_due_s is None
        await gate.listener.close()

    run(main())


@EVERY_LOOP
@pytest.mark.parametrize("words", [b"", b"PROXY TCP4 ", SIGNATURE])
def test_header_has_five_seconds(run: Run, words: bytes) -> None:
    """A connection on which no header comes costs five seconds, whatever trickles in."""

    async def main() -> None:
        gate = Gate()
        sock = await gate.open()
        sock.send(words)
        while gate.clock.next_due_s is None:
            await asyncio.sleep(0)
        gate.clock.advance(HEADER_S - 1)
        await settle()
        assert not gate.notes
        gate.clock.advance(1)
        assert await hear_all(sock) == b""
        assert gate.notes[0][2]["why"] == "no PROXY header within 5 s"
        assert not gate.accepted
        await gate.listener.close()

    run(main())


@EVERY_LOOP
def test_client_that_leaves_before_the_header(run: Run) -> None:
    """A port scan of the balancer leaves nothing behind, and says nothing."""

    async def main() -> None:
        gate = Gate()
        sock = await gate.open()
        while gate.clock.next_due_s is None:
            await asyncio.sleep(0)
        sock.close()
        while gate.clock.next_due_s is not None:
            await asyncio.sleep(0)
        assert not gate.accepted
        assert not gate.notes
        await gate.listener.close()

    run(main())


@EVERY_LOOP
@pytest.mark.parametrize("proxies", [("10.0.0.0/8", "2001:db8::/32"), ()])
def test_nobody_else_can_say_who_he_is(run: Run, proxies: tuple[str, ...]) -> None:
    """From everyone else a header is what it looks like: junk, told to the session under his own address."""

    async def main() -> None:
        gate = Gate(proxies)
        sock = await gate.open()
        here = sock.getsockname()
        sock.send(LINE)
        connection, ear = await gate.until_accepted()
        await ear.until(lambda: len(ear.octets) == len(LINE))
        assert connection.peer == here
        assert ear.octets == LINE
        sock.close()
        await ear.until_lost()
        await gate.listener.close()

    run(main())


@EVERY_LOOP
def test_second_header_is_junk(run: Run) -> None:
    """A client cannot add a header of his own behind the balancer's."""

    async def main() -> None:
        gate = Gate()
        sock = await gate.open()
        sock.send(HEADER + LINE.replace(b"192.0.2.7", b"127.0.0.1"))
        connection, ear = await gate.until_accepted()
        await ear.until(lambda: bool(ear.octets))
        assert connection.peer == ENDS[0]
        assert ear.octets.startswith(b"PROXY")
        sock.close()
        await ear.until_lost()
        await gate.listener.close()

    run(main())


@EVERY_LOOP
@pytest.mark.parametrize("rest", [b"", b"EHLO relay.example\r\n"])
def test_client_refused_at_the_door(run: Run, rest: bytes) -> None:
    """Who is refused when accepted is dropped, with what he had sent behind the header."""

    async def main() -> None:
        gate = Gate()
        gate.refuses = True
        sock = await gate.open()
        sock.send(HEADER + rest)
        await hear_all(sock)
        assert len(gate.accepted) == 1
        assert not gate.accepted[0][1].told
        await gate.listener.close()

    run(main())


@EVERY_LOOP
@pytest.mark.parametrize("is_one_segment", [True, False])
def test_tls_behind_the_header(run: Run, tmp_path: Path, is_one_segment: bool) -> None:
    """A ClientHello in the segment of the header goes to TLS, as one that comes later."""
    path = tmp_path / "both.pem"
    issued = trustme.CA().issue_cert("mx.example", key_type=trustme.KeyType.ECDSA)
    issued.private_key_and_cert_chain_pem.write_to_path(path)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        gate = Gate()
        gate.service = ServerTls(str(path), clock=gate.clock, note=print)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing)
        sock = await gate.open()
        if not is_one_segment:
            sock.send(HEADER)
            await gate.until_accepted()
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        sock.send((HEADER if is_one_segment else b"") + outgoing.read())
        while True:
            incoming.write(await loop.sock_recv(sock, 1 << 16))
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                pass
        client.write(b"EHLO relay.example\r\n")
        sock.send(outgoing.read())
        connection, ear = await gate.until_accepted()
        await ear.until(lambda: bool(ear.octets))
        assert connection.peer == ENDS[0]
        assert ear.told == ["secured", "received"]
        sock.close()
        await ear.until_lost()
        await gate.listener.close()

    run(main())


def test_network_that_is_none() -> None:
    """A mistake in the list of balancers is named before anything is listened on."""

    async def main() -> None:
        with pytest.raises(ConfigError, match="proxies: 'balancer' is not a network"):
            await Gate(("balancer",)).open()

    asyncio.run(main())
