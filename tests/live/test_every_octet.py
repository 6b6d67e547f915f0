# SPDX-License-Identifier: MIT
"""A real daemon between a raw client and a raw sink: what arrives is, octet for octet, what was sent."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.live.content import EMPTY, KINDS, assert_same, large, without_our_field
from tests.live.raw import RawClient
from tests.live.rig import Daemon, serving
from tests.live.sink import Sink

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


@pytest.fixture(scope="module")
def daemon(sink: Sink, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    state_dir: Path = tmp_path_factory.mktemp("octets") / "state"
    with serving(state_dir, "--next-hop", f"127.0.0.1:{sink.port}") as daemon:
        yield daemon


def _address(kind: str) -> str:
    return "".join(each if each.isalnum() else "-" for each in kind) + "@example.net"


@pytest.mark.parametrize("kind", ["empty", *KINDS])
def test_content_arrives_as_it_was_sent(daemon: Daemon, sink: Sink, kind: str) -> None:
    """Whatever is in a message, only our Received: field is added to it."""
    content = KINDS.get(kind, EMPTY)

    with RawClient(daemon.port) as client:
        client.send(content, _address(kind), parameters=" BODY=8BITMIME")

    arrived = sink.wait_for_recipient(_address(kind))
    assert_same(content, without_our_field(arrived.content), kind)
    assert b"BODY=8BITMIME" in arrived.mail


def test_20_mebibytes_arrive_as_they_were_sent(daemon: Daemon, sink: Sink) -> None:
    """A large message goes through files, in pieces, unchanged."""
    content = large(20 * 1024 * 1024)

    with RawClient(daemon.port) as client:
        client.send(content, "large@example.net", parameters=f" SIZE={len(content)}")

    arrived = sink.wait_for_recipient("large@example.net")
    assert_same(content, without_our_field(arrived.content), "20 MiB")


def test_octets_sent_one_by_one_arrive_the_same(daemon: Daemon, sink: Sink) -> None:
    """However the network cuts what a client sends, the message is the same."""
    content = KINDS["lines of dots"]
    dialogue = (
        b"EHLO slow.example.org\r\nMAIL FROM:<alice@example.org>\r\nRCPT TO:<slow@example.net>\r\nDATA\r\n"
        + content.replace(b"\r\n.", b"\r\n..")
        + b".\r\n"
    )

    with RawClient(daemon.port) as client:
        for octet in dialogue:
            client.socket.send(bytes([octet]))
        replies = [client.reply()[:3] for _ in range(5)]

    assert replies == ["250", "250", "250", "354", "250"]
    assert_same(content, without_our_field(sink.wait_for_recipient("slow@example.net").content), "one by one")


def test_a_client_that_ends_its_side_still_hears_that_its_mail_was_taken(daemon: Daemon, sink: Sink) -> None:
    """Exim does so behind its last message: a reply that is dropped would be a duplicate at its next try."""
    with RawClient(daemon.port) as client:
        client.begin("ended@example.net")
        client.socket.sendall(b"Subject: x\r\n\r\nx\r\n.\r\n")
        client.socket.shutdown(socket.SHUT_WR)

        assert client.reply().startswith("250 2.0.0 Ok: queued as")
        assert client.is_closed()
    sink.wait_for_recipient("ended@example.net")


def test_a_client_that_ends_its_side_without_a_message_is_let_go(daemon: Daemon) -> None:
    """There is nothing it could wait for."""
    with RawClient(daemon.port) as client:
        client.command("EHLO client.example.org", "250")
        client.socket.shutdown(socket.SHUT_WR)

        assert client.is_closed()


def test_a_whole_session_in_one_write_is_answered_in_order(daemon: Daemon, sink: Sink) -> None:
    """A client that pipelines everything, content included, gets each reply and loses nothing (RFC 2920)."""
    one = b"MAIL FROM:<>\r\nRCPT TO:<pipe%d@example.net>\r\nDATA\r\n"
    # RFC 2920 3.1 has a client wait after DATA; what it does not wait for is content all the same
    octets = b"EHLO p.example.org\r\n" + b"".join([one % n + b"Subject: %d\r\n\r\n..\r\n.\r\n" % n for n in range(20)])

    with RawClient(daemon.port) as client:
        client.socket.sendall(octets + b"QUIT\r\n")
        replies = [client.reply()[:3] for _ in range(1 + 4 * 20 + 1)]
        is_closed = client.is_closed()

    assert replies == ["250", *["250", "250", "354", "250"] * 20, "221"]
    assert is_closed
    for n in range(20):
        arrived = sink.wait_for_recipient(f"pipe{n}@example.net")
        assert without_our_field(arrived.content) == b"Subject: %d\r\n\r\n.\r\n" % n
        assert arrived.mail.startswith(b"FROM:<>")


@pytest.mark.parametrize(
    ("sender", "recipient"),
    [
        ("δοκιμή@παράδειγμα.gr", "用户@例え.jp"),
        ("alice@example.org", "jürgen@example.net"),
        ("jürgen@example.org", "bob@example.net"),
        ("alice@example.org", "bob@bücher.example"),
        ('"quoted local"@example.org', '"a@b"@example.net'),
        ("alice+tag=x/y@example.org", "o'brien!#$%&*{}|~@example.net"),
        ("alice@example.org", "Mixed.Case@EXAMPLE.Net"),
        ("alice@[192.0.2.1]", "bob@[IPv6:2001:db8::1]"),
    ],
)
def test_addresses_arrive_as_they_were_sent(daemon: Daemon, sink: Sink, sender: str, recipient: str) -> None:
    """An envelope's addresses are nobody's to change, whatever script, case or quotes they are in."""
    is_utf8 = not (sender + recipient).isascii()
    content = KINDS["utf-8 header"]

    with RawClient(daemon.port) as client:
        client.send(content, recipient, sender=sender, parameters=" BODY=8BITMIME SMTPUTF8" if is_utf8 else "")

    arrived = sink.wait_for_recipient(recipient)
    assert arrived.mail.startswith(f"FROM:<{sender}>".encode())
    assert_same(content, without_our_field(arrived.content), recipient)
    assert (b"SMTPUTF8" in arrived.mail) == is_utf8
