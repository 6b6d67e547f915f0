# SPDX-License-Identifier: MIT
"""Clients that are slow, too many or rude, over real sockets; and TLS with a certificate that is renewed."""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
import psutil
import pytest
import trustme
from tests.ops.http.rig import FakeRelay, Served, served
from tests.ops.rig import message

from smarthost.mail.errors import ConfigError
from smarthost.ops.http import bodies, records, server


def connect(door: Served) -> socket.socket:
    host, _, port = door.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), 10)


def head(door: Served, token: str, line: str) -> bytes:
    """Give the beginning of a request."""
    return f"{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {door.tokens[token]}\r\n".encode()


def is_cut(sock: socket.socket) -> bool:
    """Did the server end the connection, without a word or with one?"""
    sock.settimeout(10)
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return True


def until(claim: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + 10
    while not claim():
        assert time.monotonic() < ends_at, "it never came true"
        time.sleep(0.01)


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"POST"])
def test_who_does_not_end_a_requests_head_is_cut(said: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand half-open requests do not stay open; others are served meanwhile."""
    monkeypatch.setattr(server, "HEADER_S", 0.2)
    with served(tmp_path) as door, connect(door) as slow:
        slow.sendall(said)
        with door.client() as other:
            assert 200 == other.get("/healthz").status_code
        assert is_cut(slow)


def test_who_trickles_a_second_head_is_cut_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kept connection gives no more time than a new one."""
    monkeypatch.setattr(server, "HEADER_S", 0.3)
    with served(tmp_path) as door, connect(door) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert slow.recv(65536).startswith(b"HTTP/1.1 200")
        slow.sendall(b"GET / HT")
        assert is_cut(slow)


def test_who_does_not_send_the_body_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A promised body that never comes ends as a problem, and the connection with it."""
    monkeypatch.setattr(bodies, "BODY_S", 0.2)
    with served(tmp_path) as door, connect(door) as slow:
        slow.sendall(head(door, "inject", "POST /api/v1/messages?from=a@b.example&to=c@d.example"))
        slow.sendall(b"Content-Type: message/rfc822\r\nContent-Length: 100\r\n\r\nhalf")
        slow.settimeout(10)
        answer = slow.recv(65536)
        assert answer.startswith(b"HTTP/1.1 504")
        assert is_cut(slow)
    assert [] == door.relay.sent


def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(tmp_path: Path) -> None:
    """Nobody has to send a gigabyte to learn that it is too much."""
    with served(tmp_path) as door, connect(door) as client:
        client.sendall(head(door, "inject", "POST /api/v1/messages?from=a@b.example&to=c@d.example"))
        client.sendall(b"Content-Type: message/rfc822\r\nContent-Length: 1000000000\r\n\r\n")
        client.settimeout(10)
        assert client.recv(65536).startswith(b"HTTP/1.1 413")
        assert is_cut(client)


def test_who_does_not_read_the_answer_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be sent is not kept in memory for ever."""
    monkeypatch.setattr(server, "STUCK_S", 0.3)
    relay = FakeRelay()
    relay.messages = [message("0" * 16, "a@a.example")]
    relay.store.contents = {"0" * 16: b"x" * (32 << 20)}
    with served(tmp_path, relay, http="show_content = true\n") as door, connect(door) as slow:
        slow.sendall(head(door, "content", f"GET /api/v1/messages/{'0' * 16}/content") + b"\r\n")
        ours, port = slow.getsockname()[1], slow.getpeername()[1]

        def is_let_go() -> bool:  # seen from the server, since the client reads nothing: that is the scenario
            found = psutil.Process().net_connections("tcp4")
            return not any(each.laddr[1] == port and each.raddr and each.raddr[1] == ours for each in found)

        until(is_let_go)


def test_there_are_so_many_connections_and_so_many_of_one_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One client that opens more is cut; when it lets go, it is served again."""
    monkeypatch.setattr(server, "PER_CLIENT", 3)
    with served(tmp_path) as door:
        held = [connect(door) for _ in range(3)]
        for each in held:  # each is accepted by now
            each.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert each.recv(65536)
        with connect(door) as fourth:
            assert is_cut(fourth)
        for each in held:
            each.close()

        def is_served() -> bool:
            try:
                with door.client() as client:
                    return client.get("/healthz").status_code == 200
            except httpx.HTTPError:
                return False

        until(is_served)


@pytest.mark.parametrize(
    "rubbish",
    [b"\x16\x03\x01\x02\x00\x01\x00", b"\x00" * 100_000 + b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"EHLO x\r\n"],
)
def test_what_is_not_http_is_answered_or_cut_and_not_logged(
    rubbish: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port scan fills no log, and the door stays open."""
    monkeypatch.setattr(server, "HEADER_S", 0.3)
    with served(tmp_path) as door, connect(door) as rude:
        rude.sendall(rubbish)
        assert is_cut(rude)
        with door.client() as client:
            assert 200 == client.get("/healthz").status_code
        assert ["http ready"] == [what for _, what, _ in door.sink.notes]


def test_the_head_of_a_request_has_a_largest_size(tmp_path: Path) -> None:
    """A header of a megabyte is not kept in memory."""
    with served(tmp_path) as door, connect(door) as rude:
        try:
            rude.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (1 << 20))
        except (ConnectionResetError, BrokenPipeError):
            return
        assert is_cut(rude)


def write_certificate(directory: Path, name: str) -> trustme.CA:
    ca = trustme.CA()
    leaf = ca.issue_cert(name, "127.0.0.1")
    leaf.private_key_and_cert_chain_pem.write_to_path(directory / "cert.new")
    (directory / "cert.new").replace(directory / "cert.pem")
    return ca


def test_tls_is_spoken_and_a_renewed_certificate_taken_up(tmp_path: Path) -> None:
    """Cookies are Secure then; the next handshake after a renewal has the new certificate, without a restart."""
    first = write_certificate(tmp_path, "a.example")
    text = f'certificate_file = "{tmp_path}/cert.pem"\n'
    with served(tmp_path, http=text) as door:
        trusting = ssl.create_default_context()
        first.configure_trust(trusting)
        with httpx.Client(verify=trusting, base_url=door.url) as client:
            page = client.get("/login")
        assert "Secure" in page.headers["set-cookie"]

        second = write_certificate(tmp_path, "b.example")
        renewed = ssl.create_default_context()
        second.configure_trust(renewed)

        def is_renewed() -> bool:
            try:
                with httpx.Client(verify=renewed, base_url=door.url) as client:
                    return client.get("/healthz").status_code == 200
            except httpx.ConnectError:
                return False

        until(is_renewed)


def test_a_broken_certificate_is_refused_with_its_file(tmp_path: Path) -> None:
    """The start fails with one line that names the file."""
    (tmp_path / "cert.pem").write_text("x")

    with (
        pytest.raises(ConfigError, match=r"cert\.pem"),
        served(tmp_path, http=f'certificate_file = "{tmp_path}/cert.pem"\n'),
    ):
        pass


def test_an_address_in_use_is_named_with_the_key(tmp_path: Path) -> None:
    """http.listen, not a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(ConfigError, match=r"http\.listen.*another program"),
            served(tmp_path, listen=f'"127.0.0.1:{port}"'),
        ):
            pass


def test_closing_does_not_wait_for_who_polls(tmp_path: Path) -> None:
    """A long poll of half a minute does not hold up a restart."""
    with served(tmp_path) as door, connect(door) as polling:
        polling.sendall(head(door, "read", "GET /api/v1/records?wait=30") + b"\r\n")
        until(lambda: records.WAITERS.open == 1)
        began = time.monotonic()
    assert time.monotonic() - began < 5


def test_large_bodies_take_turns() -> None:
    """However many send large messages at once, few are in memory."""

    class Request:
        def __init__(self) -> None:
            self.headers = {"content-length": str(2 << 20)}

        async def receive(self) -> dict[str, object]:
            return {"type": "http.disconnect"}

    async def hold() -> int:
        room, inside, most = bodies.Room(), 0, 0

        async def one() -> None:
            nonlocal inside, most
            async with room.of(Request()):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                inside -= 1

        await asyncio.gather(*(one() for _ in range(20)))
        return most

    assert bodies.LARGE_AT_A_TIME == asyncio.run(hold())
