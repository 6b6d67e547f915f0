# SPDX-License-Identifier: MIT
"""TLS as a server: certificates that change, sessions that are resumed, clients with certificates, and storms."""

import asyncio
import hashlib
import re
import socket
import ssl
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from smarthost.backends.clock import SystemClock
from smarthost.backends.connection import UNSHAKEN_OCTETS
from smarthost.backends.tcp import TcpDialer, TcpListener
from smarthost.backends.tls import SecureStream, ServerTls, TlsContexts
from smarthost.backends.watched import LOOK_S
from smarthost.mail.errors import ConfigError, ConnectionLost, LocalProtocolError, TlsFailed
from smarthost.mail.hop import TlsFacts
from smarthost.ports import Connection, TlsRequest
from smarthost.testing.checks import Ear
from smarthost.testing.clock import FakeClock
from smarthost.testing.network import PretendedTls

Run = Callable[[Coroutine[Any, Any, None]], None]
HOME = "127.0.0.1"
NAME = "mx.example"
EVERY_LOOP = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
ECDSA, RSA = trustme.KeyType.ECDSA, trustme.KeyType.RSA
AUTHORITY = trustme.CA(key_type=ECDSA)
STRANGER = trustme.CA(key_type=ECDSA)


class Desk:
    """Certificate files, the service that reads them, and what it noted."""

    def __init__(self, directory: Path, *, split: bool = True, **options: Any) -> None:
        self.directory = directory
        self.certificate = directory / "certificate.pem"
        self.key = directory / "key.pem"
        self.authority = directory / "authority.pem"
        AUTHORITY.cert_pem.write_to_path(self.authority)
        self.clock = FakeClock()
        self.notes: list[tuple[str, str, dict[str, Any]]] = []
        self.split = split
        self.install(NAME)
        self.service = ServerTls(
            str(self.certificate),
            str(self.key) if split else "",
            clock=self.clock,
            note=lambda level, what, **facts: self.notes.append((level, what, facts)),
            **options,
        )

    def install(self, name: str, kind: trustme.KeyType = ECDSA) -> None:
        issued = AUTHORITY.issue_cert(name, key_type=kind)
        if self.split:
            self.key.write_bytes(issued.private_key_pem.bytes())
            self.certificate.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        else:
            self.certificate.write_bytes(issued.private_key_and_cert_chain_pem.bytes())

    def name_shown(self) -> str:
        """Look at the certificate that a client is shown a second later."""
        self.clock.advance(LOOK_S)
        client, _ = shake(self.service.stream(), make_client())
        shown = x509.load_der_x509_certificate(client.session.getpeercert(True) or b"")
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return ",".join(names.get_values_for_type(x509.DNSName))


class Client:
    """A client made with the ssl module alone."""

    def __init__(self, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.session = context.wrap_bio(self.incoming, self.outgoing, server_hostname=NAME, session=session)


def make_client(authority: trustme.CA | None = None) -> ssl.SSLContext:
    """Give a context that takes any certificate, and shows one if there is an authority to issue it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if authority is not None:
        authority.issue_cert("client.example", key_type=ECDSA).configure_cert(context)
    return context


def shake(
    stream: SecureStream, context: ssl.SSLContext, session: ssl.SSLSession | None = None, piece: int = 1 << 20
) -> tuple[Client, TlsFacts]:
    """Shake hands, in pieces of that many octets, and read what the server has to say after it."""
    client = Client(context, session)
    is_done = False
    for _ in range(4):
        if not is_done:
            try:
                client.session.do_handshake()
                is_done = True
            except ssl.SSLWantReadError:
                pass
        octets = client.outgoing.read()
        for start in range(0, len(octets), piece):
            stream.feed(octets[start : start + piece])
            if stream.facts is None:
                stream.shake()
        client.incoming.write(stream.take_outgoing())
    assert stream.facts is not None
    stream.encrypt([b"220 ", b"hi\r\n"])
    client.incoming.write(stream.take_outgoing())
    assert client.session.read(100) == b"220 hi\r\n"
    return client, stream.facts


BOTH = pytest.mark.parametrize("asks", [False, True], ids=["", "client certificates"])


# -- the service -------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("split", [True, False], ids=["two files", "one file"])
@pytest.mark.parametrize("piece", [1, 100, 1 << 20])
def test_handshake_in_any_pieces(tmp_path: Path, asks: bool, split: bool, piece: int) -> None:
    """A ClientHello in any pieces makes a session, with TLS 1.3, and records can say so."""
    desk = Desk(tmp_path, split=split, asks_client=asks)

    _, facts = shake(desk.service.stream(), make_client(), piece=piece)

    assert facts == TlsFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", verified=False)
    assert desk.service.can_serve


@BOTH
def test_octets_both_ways(tmp_path: Path, asks: bool) -> None:
    """A megabyte each way arrives whole, small buffers share a record, nothing makes no record."""
    stream = Desk(tmp_path, asks_client=asks).service.stream()
    client, _ = shake(stream, make_client())
    megabyte = bytes(range(256)) * 4096

    client.session.write(megabyte)
    stream.feed(client.outgoing.read())
    assert stream.read() == megabyte
    assert stream.read() == b""
    stream.encrypt([megabyte[:9], megabyte[9:]])
    client.incoming.write(stream.take_outgoing())
    heard = b""
    while len(heard) < len(megabyte):
        heard += client.session.read(1 << 20)
    assert heard == megabyte
    stream.encrypt([b""])
    assert stream.take_outgoing() == b""


@BOTH
def test_ends_are_told_apart(tmp_path: Path, asks: bool) -> None:
    """close_notify is an end, a changed octet is a failure, each side says goodbye."""
    service = Desk(tmp_path, asks_client=asks).service
    stream = service.stream()
    client, _ = shake(stream, make_client())
    with pytest.raises(ssl.SSLWantReadError):
        client.session.unwrap()
    stream.feed(client.outgoing.read())
    assert (stream.read(), stream.ended) == (b"", True)
    stream.say_goodbye()
    client.incoming.write(stream.take_outgoing())
    client.session.unwrap()

    stream = service.stream()
    client, _ = shake(stream, make_client())
    client.session.write(b"QUIT\r\n")
    octets = bytearray(client.outgoing.read())
    octets[-1] ^= 1
    stream.feed(bytes(octets))
    with pytest.raises(ConnectionLost, match="TLS failed: decryption failed or bad record mac"):
        stream.read()
    stream.say_goodbye()


@BOTH
@pytest.mark.parametrize(
    "octets", [b"EHLO relay.example\r\n", bytes(range(100)), b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"]
)
def test_what_is_no_handshake_fails(tmp_path: Path, asks: bool, octets: bytes) -> None:
    """Clear text or garbage where TLS must be is a failure with a reason, and never a session."""
    stream = Desk(tmp_path, asks_client=asks).service.stream()
    stream.feed(octets)

    with pytest.raises(TlsFailed) as failed:
        stream.shake()

    assert failed.value.step == "tls"
    assert str(failed.value)
    assert stream.facts is None


@BOTH
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_old_versions_are_refused(tmp_path: Path, asks: bool) -> None:
    """TLS 1.1 is not spoken (RFC 8996); TLS 1.2 is, with forward secrecy only (RFC 9325 4.1)."""
    service = Desk(tmp_path, asks_client=asks).service
    old = make_client()
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(TlsFailed, match="unsupported protocol"):
        shake(service.stream(), old)

    newer = make_client()
    newer.maximum_version = ssl.TLSVersion.TLSv1_2
    _, facts = shake(service.stream(), newer)
    assert facts.version == "TLSv1.2"
    assert facts.cipher.startswith("ECDHE-")
    newer.set_ciphers("AES256-GCM-SHA384:AES128-SHA")
    with pytest.raises(TlsFailed, match="no shared cipher"):
        shake(service.stream(), newer)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_are_resumed_also_after_a_renewal(tmp_path: Path, version: ssl.TLSVersion) -> None:
    """A client that comes again saves us the signature, before and after the certificate was renewed."""
    desk = Desk(tmp_path)
    context = make_client()
    context.maximum_version = version
    client, facts = shake(desk.service.stream(), context)
    assert not facts.resumed

    again, facts = shake(desk.service.stream(), context, client.session.session)
    assert facts.resumed
    assert again.session.session_reused
    desk.install("new.example")
    assert desk.name_shown() == "new.example"
    _, facts = shake(desk.service.stream(), context, client.session.session)
    assert facts.resumed


# -- certificates that change ------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("kind", [ECDSA, RSA], ids=["same kind of key", "other kind of key"])
def test_renewed_certificate_is_shown(tmp_path: Path, asks: bool, kind: trustme.KeyType) -> None:
    """A renewal needs no restart, also when the new key is of another kind; sessions of before go on."""
    desk = Desk(tmp_path, asks_client=asks)
    stream = desk.service.stream()
    client, _ = shake(stream, make_client())

    desk.install("new.example", kind)
    assert desk.name_shown() == "new.example"

    client.session.write(b"NOOP\r\n")
    stream.feed(client.outgoing.read())
    assert stream.read() == b"NOOP\r\n"
    assert [(level, what) for level, what, _ in desk.notes] == [("info", "file read again")]


def spoil_key(desk: Desk) -> None:
    desk.key.write_bytes(AUTHORITY.issue_cert(NAME, key_type=ECDSA).private_key_pem.bytes())


def encrypt_key(desk: Desk) -> None:
    key = load_pem_private_key(desk.key.read_bytes(), None)
    desk.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))


TROUBLES: list[tuple[Callable[[Desk], object], str]] = [
    (lambda desk: desk.certificate.unlink(), r"certificate\.pem cannot be read: No such file"),
    (lambda desk: desk.key.unlink(), r"key\.pem cannot be read: No such file"),
    (lambda desk: desk.certificate.write_bytes(b"nonsense"), r"certificate\.pem does not begin with a certificate"),
    (
        lambda desk: desk.certificate.write_bytes(desk.certificate.read_bytes()[:300]),
        r"certificate\.pem does not begin",
    ),
    (lambda desk: desk.key.write_bytes(b"nonsense"), r"key\.pem has no usable key in PEM"),
    (lambda desk: desk.key.write_bytes(b""), r"key\.pem has no usable key in PEM"),
    (spoil_key, r"the key in .*key\.pem is not that of the certificate in .*certificate\.pem"),
    (encrypt_key, r"the key in .*key\.pem has a password"),
]


@BOTH
@pytest.mark.parametrize(("spoil", "complaint"), TROUBLES)
def test_bad_files_at_the_start(tmp_path: Path, asks: bool, spoil: Callable[[Desk], object], complaint: str) -> None:
    """A relay that cannot do TLS as it was told does not start, and says which file is at fault."""
    desk = Desk(tmp_path)
    spoil(desk)

    with pytest.raises(ConfigError, match=complaint):
        ServerTls(str(desk.certificate), str(desk.key), asks_client=asks, clock=FakeClock(), note=print)


@BOTH
@pytest.mark.parametrize(("spoil", "complaint"), TROUBLES)
def test_bad_files_later(tmp_path: Path, asks: bool, spoil: Callable[[Desk], object], complaint: str) -> None:
    """A renewal that went wrong costs nothing but a line in the log: the certificate of before goes on."""
    desk = Desk(tmp_path, asks_client=asks)
    spoil(desk)

    assert [desk.name_shown() for _ in range(3)] == [NAME] * 3
    ((level, what, facts),) = desk.notes
    assert (level, what) == ("error", "certificate not taken")
    assert re.search(complaint, facts["why"])
    desk.install("mended.example")
    assert desk.name_shown() == "mended.example"


def test_bad_ca_file(tmp_path: Path) -> None:
    """The file of the clients' CA is named like the others."""
    with pytest.raises(ConfigError, match=r"client_ca_file: .*nowhere\.pem has no CA certificates"):
        Desk(tmp_path, client_ca_file=str(tmp_path / "nowhere.pem"))


# -- clients with certificates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("authority", "with_file", "verified"),
    [
        (None, True, False),
        (AUTHORITY, True, True),
        (AUTHORITY, False, False),
        (STRANGER, True, False),
        (STRANGER, False, False),
    ],
)
def test_clients_certificate(
    tmp_path: Path, version: ssl.TLSVersion, authority: trustme.CA | None, with_file: bool, verified: bool
) -> None:
    """Whatever a client shows, the session stands: who it is, and whether our CA says so, is in the facts."""
    (tmp_path / "authority.pem").write_bytes(AUTHORITY.cert_pem.bytes())
    desk = Desk(tmp_path, asks_client=True, client_ca_file=str(tmp_path / "authority.pem") if with_file else "")
    context = make_client()
    context.maximum_version = version
    fingerprint = ""
    if authority is not None:
        issued = authority.issue_cert("client.example", key_type=ECDSA)
        issued.configure_cert(context)
        der = ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())
        fingerprint = hashlib.sha256(der).hexdigest()

    for _ in range(2):  # a session that is taken up again shows its certificate again
        client, facts = shake(desk.service.stream(), context)
        assert (facts.fingerprint, facts.verified, facts.resumed) == (fingerprint, verified, False)
        again, _ = shake(desk.service.stream(), context, client.session.session)
        assert not again.session.session_reused


def write_self_signed(path: Path, kind: str) -> str:
    """Write a self-signed certificate with its key; give its fingerprint."""
    key = rsa.generate_private_key(65537, 1024) if kind == "weak" else ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "client")])
    ends = datetime.now(UTC) + timedelta(days=-1 if kind == "expired" else 1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, ends - timedelta(days=9), ends)
    if kind == "server":
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=True)
    if kind == "unknown":
        strange = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"?")
        builder = builder.add_extension(strange, critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    form = Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    path.write_bytes(key.private_bytes(*form) + certificate.public_bytes(Encoding.PEM))
    return certificate.fingerprint(hashes.SHA256()).hex()


@pytest.mark.parametrize("kind", ["plain", "server", "expired", "weak", "unknown"])
def test_self_signed_certificate_of_any_kind(tmp_path: Path, kind: str) -> None:
    """A fingerprint is enough: also of a certificate that was made for servers, has expired, is weak, or strange."""
    fingerprint = write_self_signed(tmp_path / "client.pem", kind)
    context = make_client()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.load_cert_chain(tmp_path / "client.pem")

    _, facts = shake(Desk(tmp_path, asks_client=True).service.stream(), context)

    assert (facts.fingerprint, facts.verified) == (fingerprint, False)


def test_stolen_certificate_is_nobody(tmp_path: Path) -> None:
    """A certificate is public: without its key it opens nothing."""
    stream = Desk(tmp_path, asks_client=True).service.stream()
    client = Client(make_client(AUTHORITY))
    with pytest.raises(ssl.SSLWantReadError):
        client.session.do_handshake()
    stream.feed(client.outgoing.read())
    stream.shake()
    client.incoming.write(stream.take_outgoing())
    client.session.do_handshake()
    octets = bytearray(client.outgoing.read())
    octets[len(octets) // 2] ^= 1  # in the certificate or the signature: encrypted, so either way it does not hold

    stream.feed(bytes(octets))
    with pytest.raises(TlsFailed):
        stream.shake()
    assert stream.facts is None


def test_nobody_is_asked_where_nobody_is_known_by_certificate(tmp_path: Path) -> None:
    """A client with a certificate is not troubled for it."""
    _, facts = shake(Desk(tmp_path).service.stream(), make_client(AUTHORITY))

    assert facts.fingerprint == ""


# -- over TCP ----------------------------------------------------------------------------------------------------------


class Echo(Ear):
    """Says what it hears."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection

    def received(self, chunk: bytes) -> None:
        super().received(chunk)
        self.connection.write([chunk])


async def listen(service: ServerTls, ears: list[Ear], *, implicit: bool = True) -> tuple[TcpListener, tuple[str, int]]:
    def accept(connection: Connection) -> Ear:
        ears.append(Echo(connection))
        if implicit:
            connection.upgrade(service)
        return ears[-1]

    listener = TcpListener(SystemClock())
    return listener, await listener.listen(HOME, 0, accept)


@EVERY_LOOP
@BOTH
def test_first_command_in_the_segment_of_the_handshake(run: Run, tmp_path: Path, asks: bool) -> None:
    """A client that has nothing to wait for says EHLO behind its Finished: it is heard, and answered."""
    service = Desk(tmp_path, asks_client=asks).service

    async def main() -> None:
        ears: list[Ear] = []
        listener, bound = await listen(service, ears)
        client = Client(make_client())
        loop = asyncio.get_running_loop()
        with socket.create_connection(bound) as sock:
            sock.setblocking(False)
            with pytest.raises(ssl.SSLWantReadError):
                client.session.do_handshake()
            await loop.sock_sendall(sock, client.outgoing.read())
            while True:
                client.incoming.write(await loop.sock_recv(sock, 1 << 16))
                try:
                    client.session.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    pass
            client.session.write(b"EHLO relay.example\r\n")
            await loop.sock_sendall(sock, client.outgoing.read())
            await ears[0].until(lambda: bool(ears[0].octets))
        await ears[0].until_lost()
        await listener.close()
        assert ears[0].told == ["secured", "received", "lost"]
        assert ears[0].octets == b"EHLO relay.example\r\n"

    run(main())


@EVERY_LOOP
@pytest.mark.parametrize("words", [b"", b"EHLO relay.example\r\n", b"\x16\x03\x01"], ids=["silent", "clear", "half"])
def test_client_that_does_not_shake_hands(run: Run, tmp_path: Path, words: bytes) -> None:
    """Whoever leaves without a handshake was never a session: TlsFailed, and nothing was told of what he said."""
    service = Desk(tmp_path).service

    async def main() -> None:
        ears: list[Ear] = []
        listener, bound = await listen(service, ears)
        with socket.create_connection(bound) as sock:
            sock.sendall(words)
            while not ears:
                await asyncio.sleep(0)
        await ears[0].until_lost()
        await listener.close()
        assert ears[0].told == ["lost"]
        assert isinstance(ears[0].ends[0], TlsFailed)

    run(main())


@EVERY_LOOP
def test_commands_slipped_in_before_the_handshake_are_never_told(run: Run, tmp_path: Path) -> None:
    """What was sent behind STARTTLS in clear does not reach the session after it (CVE-2011-0411)."""
    service = Desk(tmp_path).service

    async def main() -> None:
        ears: list[Ear] = []
        listener, bound = await listen(service, ears, implicit=False)
        with socket.create_connection(bound) as sock:
            while not ears:
                await asyncio.sleep(0)
            far = ears[0]
            assert isinstance(far, Echo)
            far.connection.pause()
            sock.sendall(b"MAIL FROM:<evil@example.org>\r\n")
            for _ in range(20):
                await asyncio.sleep(0)
            far.connection.upgrade(service)
            far.connection.resume()
            sock.setblocking(False)
            while await asyncio.get_running_loop().sock_recv(sock, 100):
                pass
        await far.until_lost()
        await listener.close()
        assert not far.octets
        assert isinstance(far.ends[0], TlsFailed)

    run(main())


@EVERY_LOOP
def test_upgrade_demands_order(run: Run, tmp_path: Path) -> None:
    """A second upgrade, a write before the end of the handshake, and TLS of another world are bugs of ours."""
    service = Desk(tmp_path).service

    async def main() -> None:
        ears: list[Ear] = []
        listener, bound = await listen(service, ears, implicit=False)
        with socket.create_connection(bound):
            while not ears:
                await asyncio.sleep(0)
            assert isinstance(ears[0], Echo)
            connection = ears[0].connection
            with pytest.raises(LocalProtocolError, match="PretendedTls is no TLS for TCP"):
                connection.upgrade(PretendedTls())
            connection.upgrade(service)
            with pytest.raises(LocalProtocolError):
                connection.write([b"220 hi\r\n"])
            with pytest.raises(LocalProtocolError):
                connection.upgrade(service)
            connection.abort()
            await ears[0].until_lost()
        await listener.close()

    run(main())


@EVERY_LOOP
def test_storm_of_handshakes_takes_turns(run: Run, tmp_path: Path) -> None:
    """However many shake hands at once, one step at most is taken before everybody else has been served."""
    service = Desk(tmp_path).service
    steps: list[int] = []
    turn = 0

    class Counting:
        def __init__(self, inner: SecureStream) -> None:
            self.inner = inner

        def shake(self) -> TlsFacts | None:
            steps.append(turn)
            return self.inner.shake()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    make = service.stream
    service.stream = lambda: Counting(make())  # type: ignore[method-assign]

    async def main() -> None:
        nonlocal turn
        ears: list[Ear] = []
        listener, bound = await listen(service, ears)
        contexts = TlsContexts(ca_text=AUTHORITY.cert_pem.bytes().decode())
        dialer = TcpDialer(SystemClock(), contexts)
        clients = []
        for _ in range(10):
            near = await dialer.dial(*bound, source="", timeout_s=5)
            ear = Ear()
            near.attach(ear)
            clients.append((near, ear))
        while len(ears) < 10:
            await asyncio.sleep(0)
        for near, _ in clients:
            near.upgrade(TlsRequest(NAME, verified=True))
        while not all(ear.facts for ear in (*ears, *(ear for _, ear in clients))):
            turn += 1
            await asyncio.sleep(0)
        for near, ear in clients:
            near.close()
            await ear.until_lost()
        await listener.close()
        for ear in ears:
            await ear.until_lost()

    run(main())
    assert len(steps) >= 20
    assert len(set(steps)) == len(steps), "two steps in one turn"


@EVERY_LOOP
def test_flood_before_its_turn_is_bounded(run: Run, tmp_path: Path) -> None:
    """What comes in while a handshake waits its turn is held back at the sender, not collected here."""
    service = Desk(tmp_path).service

    async def main() -> None:
        ears: list[Ear] = []
        listener, bound = await listen(service, ears)
        with socket.create_connection(bound) as sock:
            while not ears:
                await asyncio.sleep(0)
            assert isinstance(ears[0], Echo)
            connection = ears[0].connection
            turns = connection._turns  # type: ignore[attr-defined]
            turns._is_armed = True  # nobody has a turn
            sock.setblocking(False)
            sent = 0
            for _ in range(300):
                with suppress(BlockingIOError):
                    sent += sock.send(bytes(1 << 16))
                await asyncio.sleep(0)
            held = connection._tls._incoming.pending  # type: ignore[attr-defined]
            assert UNSHAKEN_OCTETS < held <= UNSHAKEN_OCTETS + (1 << 18) < sent
            turns._arm()
            with suppress(ConnectionError):
                while await asyncio.get_running_loop().sock_recv(sock, 100):
                    pass
        await ears[0].until_lost()
        await listener.close()
        assert isinstance(ears[0].ends[0], TlsFailed)

    run(main())


@EVERY_LOOP
def test_large_hello_is_read_on_after_its_turn(run: Run, tmp_path: Path) -> None:
    """A handshake that is larger than what is taken in for one turn goes on with the next."""
    service = Desk(tmp_path).service
    start = b"\x01\x01\xff\xff"  # a ClientHello of 128 KiB
    records = b"".join(b"\x16\x03\x01\x40\x00" + part + bytes(16384 - len(part)) for part in (start, *[b""] * 4))

    async def main() -> None:
        ears: list[Ear] = []
        listener, bound = await listen(service, ears)
        with socket.create_connection(bound):
            while not ears:
                await asyncio.sleep(0)
            assert isinstance(ears[0], Echo)
            connection = ears[0].connection
            transport = connection._transport  # type: ignore[attr-defined]
            connection.data_received(records)  # type: ignore[attr-defined]
            assert not transport.is_reading()
            await asyncio.sleep(0)
            assert transport.is_reading()
            assert not ears[0].told
        await ears[0].until_lost()
        await listener.close()

    run(main())


@EVERY_LOOP
def test_client_that_leaves_while_it_waits_its_turn(run: Run, tmp_path: Path) -> None:
    """A handshake whose connection is gone is dropped from the queue, and the next one is taken."""
    service = Desk(tmp_path).service

    async def main() -> None:
        ears: list[Ear] = []
        listener, bound = await listen(service, ears)
        client = Client(make_client())
        with pytest.raises(ssl.SSLWantReadError):
            client.session.do_handshake()
        hello = client.outgoing.read()
        with socket.create_connection(bound) as sock:
            while not ears:
                await asyncio.sleep(0)
            assert isinstance(ears[0], Echo)
            connection = ears[0].connection
            connection.data_received(hello)  # type: ignore[attr-defined]
            connection.abort()
            assert connection._take_turn() is False, "it costs no turn"  # type: ignore[attr-defined]
            await ears[0].until_lost()
            assert ears[0].ends == [None]
            assert sock
        near = await TcpDialer(SystemClock()).dial(*bound, source="", timeout_s=5)
        ear = Ear()
        near.attach(ear)
        near.upgrade(TlsRequest(NAME, verified=False))
        await ear.until(lambda: ear.facts is not None)
        near.close()
        await ear.until_lost()
        await ears[1].until_lost()
        await listener.close()

    run(main())


def test_certificates_of_no_known_kind_are_named(tmp_path: Path) -> None:
    """A version or a kind of key that nobody knows is a mistake in the file, not a crash."""
    whole = trustme.CA().issue_cert("relay.example").cert_chain_pems[0].bytes()
    der = ssl.PEM_cert_to_DER_cert(whole.decode())
    version = der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1)
    kind = der.replace(b"\x2a\x86\x48\xce\x3d\x02\x01", b"\x2a\x86\x48\xce\x3d\x02\x63", 1)
    for changed in (version, kind):
        assert changed != der
        path = tmp_path / "odd.pem"
        path.write_text(ssl.DER_cert_to_PEM_cert(changed))
        with pytest.raises(ConfigError, match="certificate"):
            ServerTls(str(path), clock=FakeClock(), note=lambda *_, **__: None)
