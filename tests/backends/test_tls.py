# SPDX-License-Identifier: MIT
"""TLS: the stream by itself, and upgrades of real connections to a server made with the ssl module's own sockets."""

import asyncio
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from smarthost.backends.clock import SystemClock
from smarthost.backends.connection import TcpConnection
from smarthost.backends.tcp import TcpDialer, TcpListener
from smarthost.backends.tls import ServerTls, TlsContexts, TlsStream
from smarthost.mail.errors import ConnectionLost, LocalProtocolError, TlsFailed
from smarthost.mail.hop import TlsFacts
from smarthost.ports import Connection, TlsRequest
from smarthost.testing.checks import Ear

Run = Callable[[Coroutine[Any, Any, None]], None]
Serve = Callable[[socket.socket], None]
HOME = "127.0.0.1"
NAME = "mx.example"
EVERY_LOOP = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])

AUTHORITY = trustme.CA(key_type=trustme.KeyType.ECDSA)
CONTEXTS = TlsContexts(ca_text=AUTHORITY.cert_pem.bytes().decode())
VERIFIED = TlsRequest(NAME, verified=True)
UNVERIFIED = TlsRequest(NAME, verified=False)


def make_server_context(*names: str, authority: trustme.CA = AUTHORITY) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, key_type=trustme.KeyType.ECDSA).configure_cert(context)
    return context


SERVER_CONTEXT = make_server_context(NAME, HOME)


def make_server_stream(context: ssl.SSLContext = SERVER_CONTEXT) -> TlsStream:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    return TlsStream(context.wrap_bio(incoming, outgoing, server_side=True), incoming, outgoing)


# -- the stream --------------------------------------------------------------------------------------------------------


class Side:
    """One side of a session, joined to the other by octets in any pieces."""

    def __init__(self, stream: TlsStream) -> None:
        self.stream = stream
        self.heard = bytearray()

    def feed(self, octets: bytes) -> None:
        self.stream.feed(octets)
        if self.stream.facts is None:
            self.stream.shake()
        if self.stream.facts is not None:
            self.heard += self.stream.read()


def exchange(left: Side, right: Side, piece: int = 1 << 20) -> None:
    """Carry octets in pieces until neither side has any."""
    quiet = 0
    while quiet < 2:
        octets = left.stream.take_outgoing()
        for start in range(0, len(octets), piece):
            right.feed(octets[start : start + piece])
        quiet = 0 if octets else quiet + 1
        left, right = right, left


def make_pair(request: TlsRequest = VERIFIED, piece: int = 1 << 20) -> tuple[Side, Side]:
    client, server = Side(CONTEXTS.client(request)), Side(make_server_stream())
    client.stream.shake()
    exchange(client, server, piece)
    return client, server


@settings(deadline=None, max_examples=20)
@given(piece=st.integers(1, 3000), words=st.lists(st.binary(max_size=40_000), min_size=1, max_size=4))
def test_octets_come_through_in_any_pieces(piece: int, words: list[bytes]) -> None:
    """A ClientHello or a record that is split anywhere changes nothing."""
    client, server = make_pair(piece=piece)

    client.stream.encrypt(words)
    server.stream.encrypt([b"220 ok\r\n"])
    exchange(client, server, piece)

    assert server.heard == b"".join(words)
    assert client.heard == b"220 ok\r\n"


def test_facts_say_what_was_agreed() -> None:
    """Records can say which version and cipher protected a session, and whether the certificate was verified."""
    facts = {request.verified: make_pair(request)[0].stream.facts for request in (VERIFIED, UNVERIFIED)}

    for verified, fact in facts.items():
        assert fact == TlsFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", verified)


def test_small_buffers_share_one_record() -> None:
    """A pipelined group of commands does not cost a record each."""
    client, _ = make_pair()
    client.stream.encrypt([b"MAIL FROM:<>\r\nRCPT TO:<a@example>\r\n"])
    one = len(client.stream.take_outgoing())

    client.stream.encrypt([b"MAIL FROM:<>\r\n", b"", b"RCPT TO:<a@example>\r\n"])

    assert len(client.stream.take_outgoing()) == one


def test_nothing_to_write_writes_nothing() -> None:
    """Empty buffers make no empty record."""
    client, _ = make_pair()

    client.stream.encrypt([b"", b""])

    assert client.stream.take_outgoing() == b""


def test_goodbye_is_noticed() -> None:
    """close_notify tells the peer that nothing was cut off."""
    client, server = make_pair()

    client.stream.encrypt([b"QUIT\r\n"])
    client.stream.say_goodbye()
    exchange(client, server)

    assert server.heard == b"QUIT\r\n"
    assert server.stream.ended
    assert not client.stream.ended


def test_tampering_is_noticed() -> None:
    """An octet changed on the way ends the session."""
    client, server = make_pair()
    client.stream.encrypt([b"RCPT TO:<a@example>\r\n"])
    octets = bytearray(client.stream.take_outgoing())
    octets[-1] ^= 1

    with pytest.raises(ConnectionLost, match="TLS failed: decryption failed or bad record mac"):
        server.feed(bytes(octets))


@pytest.mark.parametrize("request_", [VERIFIED, UNVERIFIED], ids=["verified", "unverified"])
def test_old_versions_are_not_offered(request_: TlsRequest) -> None:
    """TLS 1.0 and 1.1 are never spoken (RFC 8996)."""
    context = CONTEXTS.client(request_)._session.context

    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_contexts_are_built_once() -> None:
    """Loading the CA store takes 20 ms, which no session may cost."""
    contexts = [CONTEXTS.client(VERIFIED)._session.context for _ in range(2)]

    assert contexts[0] is contexts[1]


@pytest.mark.parametrize("name", ["", ".example", "a" * 64 + ".example", "mx..example"])
def test_name_no_certificate_can_have(name: str) -> None:
    """A host without a proper name can be spoken to over TLS, but not verified."""
    with pytest.raises(TlsFailed, match="no certificate can be valid for"):
        TlsContexts(ca_text=AUTHORITY.cert_pem.bytes().decode()).client(TlsRequest(name, verified=True))

    client, _ = make_pair(TlsRequest(name, verified=False))
    assert client.stream.facts is not None


def test_unreadable_ca_file_fails_the_session() -> None:
    """A CA file that is gone makes verified sessions fail with the reason; it does not make them unverified."""
    with pytest.raises(TlsFailed, match=r"the CA certificates cannot be loaded: .*No such file"):
        TlsContexts(ca_file="/nonexistent/ca.pem").client(VERIFIED)


# -- upgrades of real connections --------------------------------------------------------------------------------------


@contextmanager
def serving(serve: Serve) -> Iterator[tuple[str, int]]:
    """Serve one connection in a thread with blocking sockets: nothing of ours takes part on that side."""
    with socket.create_server((HOME, 0)) as listening:

        def run() -> None:
            far, _ = listening.accept()
            far.settimeout(10)
            with far, suppress(OSError):
                serve(far)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield listening.getsockname()
        finally:
            thread.join(15)
            assert not thread.is_alive()


def speak_starttls(context: ssl.SSLContext, names: list[str] | None = None) -> Serve:
    """Give a server: clear greeting, 220 to the first line, then TLS with an echo of one line and a clean end."""

    def serve(far: socket.socket) -> None:
        far.sendall(b"220 mx.example\r\n")
        assert far.recv(100) == b"STARTTLS\r\n"
        far.sendall(b"220 go\r\n")
        if names is not None:
            context.sni_callback = lambda _, name, __: names.append(name)
        with context.wrap_socket(far, server_side=True) as secure:
            secure.sendall(b"echo " + secure.recv(1 << 20))
            assert secure.recv(100) == b"", "close_notify"

    return serve


async def starttls(bound: tuple[str, int], request: TlsRequest) -> tuple[TcpConnection, Ear]:
    """Dial, go to STARTTLS, ask for the upgrade, and wait for what comes of it."""
    near = await TcpDialer(SystemClock(), CONTEXTS).dial(*bound, source="", timeout_s=5)
    ear = Ear()
    near.attach(ear)
    await ear.until(lambda: ear.octets.endswith(b"mx.example\r\n"))
    near.write([b"STARTTLS\r\n"])
    await ear.until(lambda: ear.octets.endswith(b"go\r\n") or bool(ear.ends))
    ear.octets.clear()
    ear.quietly(near.upgrade, request)
    await ear.until(lambda: ear.facts is not None or bool(ear.ends))
    return near, ear


@EVERY_LOOP
@pytest.mark.parametrize("name", [NAME, NAME + ".", HOME])
def test_verified_upgrade(run: Run, name: str) -> None:
    """A host with a valid certificate for its name or address is spoken to in secret, and heard."""
    asked: list[str] = []

    async def main() -> None:
        with serving(speak_starttls(make_server_context(NAME, HOME), asked)) as bound:
            near, ear = await starttls(bound, TlsRequest(name, verified=True))
            near.write([b"EHLO", b" relay.example\r\n"])
            await ear.until(lambda: len(ear.octets) >= 20)
            ear.quietly(near.close)
            await ear.until_lost()

        assert ear.facts is not None
        assert ear.facts.verified
        assert ear.octets == b"echo EHLO relay.example\r\n"
        assert ear.ends == [None]

    run(main())
    assert asked == ([None] if name == HOME else [NAME])  # no SNI for an address (RFC 6066 3)


@EVERY_LOOP
@pytest.mark.parametrize(
    ("context", "text"),
    [
        (
            make_server_context("other.example"),
            "certificate not valid: Hostname mismatch, certificate is not valid for",
        ),
        (make_server_context(NAME, authority=trustme.CA()), "certificate not valid: unable to get local issuer cert"),
    ],
    ids=["wrong name", "unknown CA"],
)
def test_certificate_that_is_not_valid(run: Run, context: ssl.SSLContext, text: str) -> None:
    """Where the certificate must hold the session fails and says why; where it need not, the session is secret."""

    async def verified() -> None:
        with serving(speak_starttls(context)) as bound:
            _, ear = await starttls(bound, VERIFIED)
            await ear.until_lost()
        assert isinstance(ear.ends[0], TlsFailed)
        assert str(ear.ends[0]).startswith(text)
        assert ear.ends[0].step == "tls"
        assert "secured" not in ear.told

    async def unverified() -> None:
        with serving(speak_starttls(context)) as bound:
            near, ear = await starttls(bound, UNVERIFIED)
            near.close()
            await ear.until_lost()
        assert ear.facts is not None
        assert not ear.facts.verified

    run(verified())
    run(unverified())


def spoil(octets: bytes) -> Serve:
    """Give a server that answers the ClientHello with something else and closes."""

    def serve(far: socket.socket) -> None:
        far.sendall(b"220 mx.example\r\n")
        far.recv(100)
        far.sendall(b"220 go\r\n")
        far.recv(4096)
        if octets:
            far.sendall(octets)

    return serve


@EVERY_LOOP
@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (b"250 I know nothing of TLS\r\n", "wrong version number"),
        (bytes(range(256)), "wrong version number|record layer failure|unexpected message"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "ssl/tls alert handshake failure|sslv3 alert handshake failure"),
        (b"", "the peer closed the connection during the handshake"),
        (b"\x16\x03\x03", "the peer closed the connection during the handshake"),
    ],
    ids=["clear text", "garbage", "alert", "end", "half a record"],
)
def test_no_handshake_from_the_peer(run: Run, octets: bytes, text: str) -> None:
    """A host that offers STARTTLS and cannot do it ends in TlsFailed, never in a session."""

    async def main() -> None:
        with serving(spoil(octets)) as bound:
            _, ear = await starttls(bound, UNVERIFIED)
            await ear.until_lost()

        assert isinstance(ear.ends[0], TlsFailed)
        assert any(part in str(ear.ends[0]) for part in text.split("|")), str(ear.ends[0])
        assert not ear.octets, "nothing that came in clear is told after the upgrade began"

    run(main())


@EVERY_LOOP
def test_clear_text_sent_ahead_of_the_handshake_is_never_told(run: Run) -> None:
    """A reply slipped in behind the 220 of STARTTLS does not reach the session after it (CVE-2011-0411)."""

    def serve(far: socket.socket) -> None:
        far.sendall(b"220 mx.example\r\n")
        far.recv(100)
        far.sendall(b"220 go\r\n")
        far.sendall(b"250 injected\r\n")
        with SERVER_CONTEXT.wrap_socket(far, server_side=True) as secure:
            secure.recv(100)

    async def main() -> None:
        with serving(serve) as bound:
            near = await TcpDialer(SystemClock(), CONTEXTS).dial(*bound, source="", timeout_s=5)
            ear = Ear()
            near.attach(ear)
            await ear.until(lambda: len(ear.octets) == 16)
            near.write([b"STARTTLS\r\n"])
            near.pause()  # the injected octets are still in the kernel when the upgrade begins
            near.upgrade(VERIFIED)
            near.resume()
            await ear.until_lost()

        assert b"injected" not in ear.octets
        assert ear.facts is None
        assert isinstance(ear.ends[0], TlsFailed)

    run(main())


@EVERY_LOOP
def test_write_during_the_handshake_is_our_bug(run: Run) -> None:
    """Nothing can leave in clear once the upgrade has begun."""

    async def main() -> None:
        with serving(speak_starttls(SERVER_CONTEXT)) as bound:
            near = await TcpDialer(SystemClock(), CONTEXTS).dial(*bound, source="", timeout_s=5)
            ear = Ear()
            near.attach(ear)
            near.write([b"STARTTLS\r\n"])
            await ear.until(lambda: ear.octets.endswith(b"go\r\n"))
            near.upgrade(VERIFIED)
            with pytest.raises(LocalProtocolError):
                near.write([b"EHLO relay.example\r\n"])
            with pytest.raises(LocalProtocolError):
                near.upgrade(VERIFIED)
            near.abort()
            await ear.until_lost()

        assert ear.ends == [None]

    run(main())


@EVERY_LOOP
def test_clear_text_where_tls_is_implicit(run: Run) -> None:
    """Port 465 answered by a server that greets in clear: the greeting is no part of any session."""

    def serve(far: socket.socket) -> None:
        far.sendall(b"220 mx.example\r\n")
        SERVER_CONTEXT.wrap_socket(far, server_side=True).close()

    async def main() -> None:
        with serving(serve) as bound:
            near = await TcpDialer(SystemClock(), CONTEXTS).dial(*bound, source="", timeout_s=5)
            while not near._held:
                await asyncio.sleep(0)
            ear = Ear()
            near.attach(ear)
            near.upgrade(VERIFIED)
            await ear.until_lost()

        assert ear.told == ["lost"]
        assert "wrong version number" in str(ear.ends[0])

    run(main())


@EVERY_LOOP
@pytest.mark.parametrize(
    ("name", "ended"),
    [(NAME, "close_notify"), ("other.example", "SSLV3_ALERT_BAD_CERTIFICATE")],
    ids=["close", "alert"],
)
def test_peer_is_told_why_we_leave(run: Run, name: str, ended: str) -> None:
    """A close says goodbye, a refused certificate is refused aloud: the host's log tells its postmaster."""
    seen: list[str] = []

    def serve(far: socket.socket) -> None:
        try:
            with SERVER_CONTEXT.wrap_socket(far, server_side=True, suppress_ragged_eofs=False) as secure:
                seen.append(secure.recv(100).decode() or "close_notify")
        except ssl.SSLError as error:
            seen.append(error.reason)

    async def main() -> None:
        with serving(serve) as bound:
            near = await TcpDialer(SystemClock(), CONTEXTS).dial(*bound, source="", timeout_s=5)
            ear = Ear()
            near.attach(ear)
            near.upgrade(TlsRequest(name, verified=True))
            await ear.until(lambda: bool(ear.told))
            near.close()
            await ear.until_lost()

    run(main())
    assert seen == [ended]


@EVERY_LOOP
def test_end_without_goodbye_is_an_end(run: Run) -> None:
    """Many hosts close without close_notify after 221: that is no error."""

    def serve(far: socket.socket) -> None:
        secure = SERVER_CONTEXT.wrap_socket(far, server_side=True, suppress_ragged_eofs=True)
        secure.sendall(b"221 bye\r\n")
        socket.socket(fileno=secure.detach()).close()

    async def main() -> None:
        with serving(serve) as bound:
            near = await TcpDialer(SystemClock(), CONTEXTS).dial(*bound, source="", timeout_s=5)
            ear = Ear()
            near.attach(ear)
            near.upgrade(VERIFIED)  # implicit TLS: before anything was said
            await ear.until_lost()

        assert ear.octets == b"221 bye\r\n"
        assert ear.ends == [None]

    run(main())


class Cautious(Ear):
    """A receiver that pauses as soon as the handshake is done."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection

    def secured(self, facts: TlsFacts) -> None:
        super().secured(facts)
        self.connection.pause()


async def accept_tls(octets: list[bytes]) -> tuple[TcpListener, tuple[str, int], list[Ear]]:
    """Listen with our own stream as the server; each connection writes `octets` when secured, in one segment."""
    accepted: list[Ear] = []

    class Speaker(Ear):
        def __init__(self, connection: TcpConnection) -> None:
            super().__init__()
            self.connection = connection

        def secured(self, facts: TlsFacts) -> None:
            super().secured(facts)
            self.connection.write(octets)

        def received(self, chunk: bytes) -> None:
            super().received(chunk)
            if chunk == b"bye":
                self.connection.close()

    def accept(connection: Connection) -> Ear:
        assert isinstance(connection, TcpConnection)
        accepted.append(Speaker(connection))
        connection.upgrade(service)
        return accepted[-1]

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "both.pem"
        issued = AUTHORITY.issue_cert(NAME, key_type=trustme.KeyType.ECDSA)
        issued.private_key_and_cert_chain_pem.write_to_path(path)
        service = ServerTls(str(path), clock=SystemClock(), note=print)
    assert service._kept is not None
    service._kept.context.maximum_version = (
        ssl.TLSVersion.TLSv1_2
    )  # there the server has the last word of the handshake
    listener = TcpListener(SystemClock())
    return listener, await listener.listen(HOME, 0, accept), accepted


@EVERY_LOOP
def test_pause_holds_what_was_decrypted_already(run: Run) -> None:
    """A receiver that pauses is told of nothing, also of what came in the segment that ended the handshake."""

    async def main() -> None:
        listener, bound, _ = await accept_tls([b"220 hi\r\n"])
        near = await TcpDialer(SystemClock(), CONTEXTS).dial(*bound, source="", timeout_s=5)
        ear = Cautious(near)
        near.attach(ear)
        near.upgrade(VERIFIED)
        await ear.until(lambda: ear.facts is not None)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not ear.octets
        near.resume()
        await ear.until(lambda: bool(ear.octets))
        near.write([b"bye"])
        await ear.until_lost()
        await listener.close()

        assert ear.told == ["secured", "received", "lost"]
        assert ear.octets == b"220 hi\r\n"

    run(main())


@EVERY_LOOP
def test_close_flushes_what_was_encrypted(run: Run) -> None:
    """A megabyte written under TLS before close arrives whole, then the end."""
    megabyte = bytes(range(256)) * 4096

    async def main() -> None:
        listener, bound, accepted = await accept_tls([])
        near = await TcpDialer(SystemClock(), CONTEXTS).dial(*bound, source="", timeout_s=5)
        ear = Ear()
        near.attach(ear)
        near.upgrade(VERIFIED)
        await ear.until(lambda: ear.facts is not None)
        near.write([megabyte[:1000], megabyte[1000:]])
        near.close()
        await ear.until_lost()
        await accepted[0].until_lost()
        await listener.close()

        assert accepted[0].octets == megabyte
        assert accepted[0].ends == [None]
        assert ear.ends == [None]

    run(main())
