# SPDX-License-Identifier: MIT
"""STARTTLS as a server: what is buffered at the switch closes the session, and what was said before it is forgotten."""

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.acceptance.certificates import Authority
from tests.acceptance.client import DEADLINE_S, Client, trusting
from tests.acceptance.daemon import Daemon
from tests.acceptance.sink import Sink


class Place(NamedTuple):
    daemon: Daemon
    sink: Sink
    tls: ssl.SSLContext
    ca: Path

    def client(self) -> Client:
        client = Client(self.daemon.ports[0])
        client.hello(b"before.example.com")
        return client


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("starttls")
    authority = Authority(home)
    own = authority.issue("own")
    with Sink() as sink:
        config = f"""
[next_hop]
host = "127.0.0.1"
port = {sink.port}
[tls]
certificate_file = "{own.chain}"
key_file = "{own.key}"
[[listener]]
listen = ["127.0.0.1:0"]
[[listener]]
listen = ["127.0.0.1:0"]
tls = "required"
[[listener]]
listen = ["127.0.0.1:0"]
tls = "none"
[limits]
errors = 1000
"""
        with Daemon(home, config) as daemon:
            yield Place(daemon, sink, trusting(authority.file), authority.file)


@pytest.mark.parametrize(
    "tail",
    [
        b"NOOP\r\n",
        b"EHLO injected.example\r\n",
        b"MAIL FROM:<evil@attacker.example>\r\nRCPT TO:<x@plain.example>\r\nDATA\r\n",
        b"RSET\r\n" * 1000,
        b"N",
        b"\r\n",
        b"\n",
        b"\0",
        b"\x16\x03\x01",
        b"QUIT\r\n",
    ],
    ids=repr,
)
def test_anything_in_the_same_segment_as_starttls_closes_the_session(place: Place, tail: bytes) -> None:
    with place.client() as client:
        client.send(b"STARTTLS\r\n" + tail)

        came = client.what_came_until_the_end()

    assert came.count(b"\r\n") <= 1
    assert not came.startswith(b"25"), came
    assert b"attacker" not in b"".join(place.sink.commands)


def test_no_session_inside_tls_begins_with_what_was_buffered_before_it(place: Place) -> None:
    """A man in the middle put EHLO behind STARTTLS; the client shakes hands as if nothing had been."""
    with place.client() as client:
        client.send(b"STARTTLS\r\nEHLO injected.example\r\n")
        if client.reply().code == 220:
            with contextlib.suppress(ssl.SSLError, OSError):
                client.sock = place.tls.wrap_socket(client.sock, server_hostname="localhost")
        assert b"250" not in client.what_came_until_the_end()


def test_a_command_in_clear_after_the_reply_to_starttls_is_no_command(place: Place) -> None:
    with place.client() as client:
        assert client.code(b"STARTTLS") == 220
        client.send(b"NOOP\r\n")

        came = client.what_came_until_the_end()

    assert b"250" not in came


def test_a_command_in_clear_in_the_middle_of_the_handshake_is_no_command(place: Place) -> None:
    """The ClientHello goes out whole, and a command in clear behind it, before the handshake goes on."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    shake = place.tls.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with place.client() as client:
        assert client.code(b"STARTTLS") == 220
        with pytest.raises(ssl.SSLWantReadError):
            shake.do_handshake()
        client.send(outgoing.read() + b"MAIL FROM:<evil@attacker.example>\r\n")

        came = client.what_came_until_the_end()

    assert b"\r\n250" not in came
    assert b"attacker" not in b"".join(place.sink.commands)


def test_a_client_hello_in_many_segments_is_taken(place: Place) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    shake = place.tls.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with place.client() as client:
        assert client.code(b"STARTTLS") == 220
        while True:
            try:
                shake.do_handshake()
                break
            except ssl.SSLWantReadError:
                for octet in outgoing.read():
                    client.send(bytes([octet]))
                incoming.write(client.sock.recv(65536))
        shake.write(b"NOOP\r\n")
        client.send(outgoing.read())
        said = b""
        while b"\r\n" not in said:
            try:
                said += shake.read(1000)
            except ssl.SSLWantReadError:
                incoming.write(client.sock.recv(65536))
    assert said[:3] in (b"250", b"503")


def test_the_switch_waits_for_the_transaction_and_forgets_the_greeting(place: Place) -> None:
    with place.client() as client:
        assert client.code(b"MAIL FROM:<a@example.org>") == 250
        assert client.code(b"RCPT TO:<b@plain.example>") == 250
        assert client.code(b"STARTTLS") == 503  # not within a transaction
        assert client.code(b"RSET") == 250
        client.start_tls(place.tls)

        assert client.code(b"DATA") == 503
        assert client.code(b"MAIL FROM:<a@example.org>") == 503
        client.hello(b"after.example.com")
        assert client.code(b"RCPT TO:<b@plain.example>") == 503
        assert client.code(b"DATA") == 503
        assert client.transact(b"a@example.org", b"fresh@plain.example", b"Subject: x\r\n\r\nx").code == 250

    content = place.sink.message(b"fresh@").content
    assert b"after.example.com" in content
    assert b"before.example.com" not in content
    assert b"with ESMTPS" in content


def test_inside_tls_starttls_is_neither_offered_nor_taken(place: Place) -> None:
    with place.client() as client:
        client.start_tls(place.tls)
        assert b"STARTTLS" not in client.hello()
        assert client.code(b"STARTTLS") == 503
        assert client.code(b"NOOP") == 250


@pytest.mark.parametrize("argument", [b" now", b" TLSv1.3", b" \0", b" ="], ids=repr)
def test_starttls_with_an_argument_is_a_syntax_error_and_starts_nothing(place: Place, argument: bytes) -> None:
    with place.client() as client:
        assert client.code(b"STARTTLS" + argument) in (500, 501)
        assert client.code(b"NOOP") == 250
        client.start_tls(place.tls)
        assert b"SIZE" in client.hello()


def test_a_handshake_that_fails_closes_and_never_falls_back_to_clear(place: Place) -> None:
    with place.client() as client:
        assert client.code(b"STARTTLS") == 220
        client.send(b"\x16\x03\x01\x00\x05hello")
        client.send(b"NOOP\r\n")
        came = client.what_came_until_the_end()
    assert b"250" not in came


def test_an_untrusting_client_that_breaks_off_the_handshake_harms_nobody(place: Place) -> None:
    with place.client() as client, pytest.raises(ssl.SSLError):
        client.start_tls(ssl.create_default_context())
    with place.client() as client:
        client.start_tls(place.tls)
        assert b"SIZE" in client.hello()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1], ids=["1.0", "1.1"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_tls_is_not_spoken(place: Place, version: ssl.TLSVersion) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(place.ca)
    old.minimum_version = old.maximum_version = version
    old.set_ciphers("ALL:@SECLEVEL=0")
    with place.client() as client, pytest.raises(ssl.SSLError):
        client.start_tls(old)


def test_helo_clients_may_start_tls_only_if_the_reply_says_so_and_a_transaction_does_not_survive_it(
    place: Place,
) -> None:
    with Client(place.daemon.ports[0]) as client:
        assert client.code(b"HELO client.example.com") == 250
        reply = client.say(b"STARTTLS")
        assert reply.code in (220, 503)


@pytest.mark.parametrize(
    "command",
    [
        b"MAIL FROM:<a@example.org>",
        b"AUTH PLAIN =",
        b"VRFY a",
        b"RCPT TO:<a@b.example>",
    ],
)
def test_a_door_that_requires_tls_says_530_to_all_else(place: Place, command: bytes) -> None:
    """RFC 3207 4: every command other than NOOP, EHLO, STARTTLS or QUIT is told 530."""
    with Client(place.daemon.ports[1]) as client:
        assert b"STARTTLS" in client.hello()
        reply = client.say(command)
        assert reply.code in ((530, 538) if command.startswith(b"AUTH") else (530,)), reply
        assert client.code(b"NOOP") == 250
        client.start_tls(place.tls)
        client.hello()
        assert client.code(b"MAIL FROM:<a@example.org>") == 250


def test_a_door_without_tls_neither_offers_nor_takes_starttls(place: Place) -> None:
    with Client(place.daemon.ports[2]) as client:
        assert b"STARTTLS" not in client.hello()
        assert client.code(b"STARTTLS") in (500, 502, 503, 454)
        assert client.code(b"NOOP") == 250


def test_a_client_that_half_closes_after_starttls_is_not_waited_for(place: Place) -> None:
    with place.client() as client:
        assert client.code(b"STARTTLS") == 220
        client.sock.shutdown(socket.SHUT_WR)
        client.sock.settimeout(DEADLINE_S)
        assert b"250" not in client.what_came_until_the_end()


def test_after_all_this_nothing_unexpected_is_in_the_log(place: Place) -> None:
    assert "unexpected failure" not in place.daemon.text  # "unexpected message" is what OpenSSL calls a bad record
    assert "Traceback" not in place.daemon.text
