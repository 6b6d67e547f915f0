# SPDX-License-Identifier: MIT
"""Clients that are mistaken, hostile or gone: the right SMTP code for each, and the relay serves on.

Rows: what the client sends -> the replies. Each session ends with a message that must be accepted and delivered,
unless the row is meant to end it.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import count

import pytest
from tests.live.content import KINDS, assert_same, large, without_our_field
from tests.live.raw import RawClient, stuffed
from tests.live.rig import Daemon, eventually, serving
from tests.live.sink import Sink

pytestmark = pytest.mark.slow

LIMITS = """
[limits]
message_size = "64KiB"
recipients = 100
errors = 5
connections = 40
connections_per_client = 30
"""
EHLO, MAIL, RCPT, DATA = "EHLO c.example.org", "MAIL FROM:<a@example.org>", "RCPT TO:<b@example.net>", "DATA"
OK = {EHLO: "250", MAIL: "250 2.1.0", RCPT: "250 2.1.5", DATA: "354"}
_numbers = count()


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


@pytest.fixture(scope="module")
def daemon(sink: Sink, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    home = tmp_path_factory.mktemp("clients")
    with serving(home / "state", "--next-hop", f"127.0.0.1:{sink.port}", config=LIMITS) as daemon:
        yield daemon


def _still_serves(client: RawClient, sink: Sink) -> None:
    """This very session can still send a message, which arrives."""
    recipient = f"after{next(_numbers)}@example.net"
    client.command("RSET", "250")
    client.send(KINDS["short"], recipient)
    assert without_our_field(sink.wait_for_recipient(recipient).content) == KINDS["short"]


ADDRESSES: list[tuple[str, str]] = [
    ("MAIL FROM:a@example.org", "501 5.5.4"),
    ("MAIL FROM:<a@example.org", "501 5.5.4"),
    ("MAIL FROM:<a b@example.org>", "501 5.1.7"),
    ("MAIL FROM:<@>", "553 5.1.7"),
    ("MAIL FROM:<a@>", "501 5.1.7"),
    ("MAIL FROM:<@example.org>", "553 5.1.7"),
    ("MAIL FROM:<a@example..org>", "501 5.1.7"),
    ("MAIL FROM:<a@-example.org>", "501 5.1.7"),
    ("MAIL FROM:<a@[300.1.1.1]>", "501 5.1.7"),
    ("MAIL FROM:<a@[IPv6:fe80::1%eth0]>", "501 5.1.7"),
    ("MAIL FROM:<.a@example.org>", "501 5.1.7"),
    ("MAIL FROM:<a..b@example.org>", "501 5.1.7"),
    ('MAIL FROM:<"unclosed@example.org>', "501 5.1.7"),
    ("MAIL FROM:<" + "x" * 65 + "@example.org>", "501 5.1.7"),
    ("MAIL FROM:<a@" + "x" * 64 + ".org>", "501 5.1.7"),
    ("MAIL FROM:<a@" + "x." * 130 + "org>", "501 5.1.7"),
    ("MAIL FROM:<@a.example,@b.example:c@example.org>", "553 5.1.7"),
    ("MAIL FROM:<jürgen@example.org>", "553 5.6.7"),
    ("MAIL FROM:<a@example.org> SIZE=abc", "501 5.5.4"),
    ("MAIL FROM:<a@example.org> SIZE=-1", "501 5.5.4"),
    ("MAIL FROM:<a@example.org> SIZE=" + "9" * 21, "501 5.5.4"),
    ("MAIL FROM:<a@example.org> SIZE=99999999", "552 5.3.4"),
    ("MAIL FROM:<a@example.org> SIZE=1 SIZE=2", "501 5.5.4"),
    ("MAIL FROM:<a@example.org> BODY=9BIT", "501 5.5.4"),
    ("MAIL FROM:<a@example.org> BODY", "501 5.5.4"),
    ("MAIL FROM:<a@example.org> SMTPUTF8=yes", "501 5.5.4"),
    ("MAIL FROM:<a@example.org> RET=SOME", "501 5.5.4"),
    ("MAIL FROM:<a@example.org> REQUIRETLS", "555 5.5.4"),
    ("MAIL FROM:<a@example.org> AUTH=<>", "555 5.5.4"),
    ("MAIL FROM:<a@example.org> =", "501 5.5.4"),
    ("MAIL", "501 5.5.4"),
    ("MAIL TO:<a@example.org>", "501 5.5.4"),
    ("MAIL FROM:<a\x01@example.org>", "501 5.5.4"),
]


@pytest.mark.parametrize(("line", "code"), ADDRESSES, ids=[line[:50] for line, _ in ADDRESSES])
def test_a_bad_mail_command_is_refused(daemon: Daemon, sink: Sink, line: str, code: str) -> None:
    """Malformed addresses and parameters get a permanent code that names which, and the session goes on."""
    with RawClient(daemon.port) as client:
        client.command(EHLO, "250")
        client.command(line, code)
        _still_serves(client, sink)


RECIPIENTS: list[tuple[str, str]] = [
    ("RCPT TO:<>", "501 5.1.3"),
    ("RCPT TO:<b>", "501 5.1.3"),
    ("RCPT TO:<b@example.net> NOTIFY=NEVER,SUCCESS", "501 5.5.4"),
    ("RCPT TO:<b@example.net> ORCPT=bob@example.net", "501 5.5.4"),
    ("RCPT TO:<b@example.net> garbage", "555 5.5.4"),
    ("RCPT TO:<b@example.net>>", "501 5.5.4"),
    ("RCPT TO:b@example.net", "501 5.5.4"),
    ("RCPT TO:<@relay.example:b@example.net>", "553 5.1.3"),
    ("RCPT TO:<postmaster>", "550 5.1.1"),
    ("RCPT TO:<b@example.net\x7f>", "501 5.5.4"),
    ("RCPT TO:<\u7528\u6237@example.net>", "553 5.6.7"),
    ("RCPT", "501 5.5.4"),
]


@pytest.mark.parametrize(("line", "code"), RECIPIENTS, ids=[line[:40] for line, _ in RECIPIENTS])
def test_a_bad_rcpt_command_is_refused(daemon: Daemon, sink: Sink, line: str, code: str) -> None:
    """One bad recipient among good ones is refused alone."""
    good = f"good{next(_numbers)}@example.net"

    with RawClient(daemon.port) as client:
        client.command(EHLO, "250")
        client.command(MAIL, "250")
        client.command(line, code)
        client.command(f"RCPT TO:<{good}>", "250")
        client.command(DATA, "354")
        assert client.say(KINDS["short"] + b".\r\n").startswith("250 2.0.0")

    assert sink.wait_for_recipient(good).addresses == (good,)


OUT_OF_SEQUENCE = [
    ([MAIL], "503 5.5.1"),
    ([EHLO, RCPT], "503 5.5.1"),
    ([EHLO, DATA], "503 5.5.1"),
    ([EHLO, MAIL, DATA], "503 5.5.1"),
    ([EHLO, MAIL, MAIL], "503 5.5.1"),
    ([EHLO, MAIL, EHLO, RCPT], "503 5.5.1"),
    ([EHLO, MAIL, RCPT, "RSET", DATA], "503 5.5.1"),
    ([EHLO, "DATA now"], "503 5.5.1"),
    (["EHLO"], "501 5.5.4"),
    (["EHLO a b"], "501 5.5.4"),
    (["EHLO " + "x" * 256], "501 5.5.4"),
    ([EHLO, "STARTTLS"], "502 5.5.1"),
    ([EHLO, "AUTH PLAIN AGEAYg=="], "502 5.5.1"),
    ([EHLO, "BDAT 0 LAST"], "503 5.5.1"),
    ([EHLO, "ETRN example.org"], "502 5.5.1"),
    ([EHLO, "EXPN all"], "502 5.5.1"),
    ([EHLO, "VRFY root"], "252 2.5.2"),
    ([EHLO, "VRFY"], "501 5.5.4"),
    ([EHLO, "WIZ"], "500 5.5.2"),
    ([EHLO, ""], "500 5.5.2"),
    ([EHLO, "QUIT now"], "501 5.5.4"),
    ([EHLO, "RSET now"], "501 5.5.4"),
    ([EHLO, "NOOP \x00"], "501 5.5.4"),
    ([EHLO, "MAIL\tFROM:<a@example.org>"], "50"),
    ([EHLO, "Subject: hello"], "500 5.5.2"),
]


@pytest.mark.parametrize(("lines", "code"), OUT_OF_SEQUENCE, ids=["+".join(r[0])[-60:] for r in OUT_OF_SEQUENCE])
def test_commands_out_of_order_are_refused(daemon: Daemon, sink: Sink, lines: list[str], code: str) -> None:
    """Only what makes sense at that point is obeyed; the session survives the rest."""
    with RawClient(daemon.port) as client:
        for line in lines[:-1]:
            client.command(line, OK.get(line, "250"))
        client.command(lines[-1], code)
        client.command(EHLO, "250")
        _still_serves(client, sink)


LINES = [
    ("bare LF ends no command", b"NOOP\n\r\n", "500 5.5.2"),
    ("bare LF inside", b"MAIL FROM:<a@example.org>\nRCPT TO:<b@example.net>\r\n", "500 5.5.2"),
    ("bare CR inside", b"MAIL FROM:<a@example.org>\rX\r\n", "50"),
    ("NUL", b"MAIL FROM:<a\0@example.org>\r\n", "501 5.5.4"),
    ("not UTF-8", b"MAIL FROM:<\xff\xfe@example.org> SMTPUTF8\r\n", "501 5.1.7"),
    ("overlong UTF-8", b"MAIL FROM:<\xc0\xaf@example.org> SMTPUTF8\r\n", "501 5.1.7"),
    ("a surrogate", b"MAIL FROM:<\xed\xa0\x80@example.org> SMTPUTF8\r\n", "501 5.1.7"),
    ("a line of 3,000 octets", b"NOOP " + b"x" * 2995 + b"\r\n", "500 5.5.2"),
    ("a line of 60,000 octets", b"x" * 60_000 + b"\r\n", "500 5.5.2"),
    ("binary", bytes(range(128, 256)) * 4 + b"\r\n", "500 5.5.2"),
    ("an escape sequence", b"\x1b[2J\x1b]0;owned\x07\r\n", "501 5.5.4"),
]


@pytest.mark.parametrize(("what", "octets", "code"), LINES, ids=[row[0] for row in LINES])
def test_bad_lines_are_refused_whole(daemon: Daemon, sink: Sink, what: str, octets: bytes, code: str) -> None:
    """A line with octets that no command has is refused as one line, and is told in the log without its octets."""
    with RawClient(daemon.port) as client:
        client.command(EHLO, "250")
        answer = client.say(octets)
        assert answer.startswith(code), answer
        _still_serves(client, sink)

    assert "\x1b" not in daemon.told()


ENDED = [
    ("a line without end", b"x" * 200_000, "421 4.7.0"),
    ("HTTP", b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n", "421 4.7.0"),
    ("a TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 300, "421 4.7.0"),
    ("five errors", b"A\r\nB\r\nC\r\nD\r\nE\r\n", "421 4.7.0"),
    ("too many NOOPs", b"NOOP\r\n" * 200, "421 4.7.0"),
]


@pytest.mark.parametrize(("what", "octets", "last"), ENDED, ids=[row[0] for row in ENDED])
def test_hopeless_clients_are_hung_up_on(daemon: Daemon, what: str, octets: bytes, last: str) -> None:
    """Who does not speak SMTP, or only makes errors, is told once and cut off."""
    with RawClient(daemon.port) as client:
        sender = threading.Thread(target=_send_all, args=(client.socket, octets))
        sender.start()
        replies = []
        while answer := client.reply():
            replies.append(answer)
        sender.join(10)

    assert replies[-1].startswith(last), replies[-3:]


def _send_all(connection: socket.socket, octets: bytes) -> None:
    with suppress(OSError):  # cut off, as it should be
        connection.sendall(octets)


CONTENTS = [
    ("bare LF", b"Subject: x\r\n\r\nbare\nline\r\n", "550 5.6.11"),
    ("bare CR", b"Subject: x\r\n\r\nbare\rcarriage\r\n", "550 5.6.11"),
    ("smuggling LF.LF", b"Subject: x\r\n\r\nx\n.\nMAIL FROM:<evil@example.org>\r\n", "550 5.6.11"),
    ("smuggling LF.CRLF", b"Subject: x\r\n\r\nx\n.\r\nMAIL FROM:<evil@example.org>\r\n", "550 5.6.11"),
    ("smuggling CR.CR", b"Subject: x\r\n\r\nx\r.\rMAIL FROM:<evil@example.org>\r\n", "550 5.6.11"),
    ("smuggling CRLF.CR", b"Subject: x\r\n\r\nx\r\n.\rMAIL FROM:<evil@example.org>\r\n", "550 5.6.11"),
    ("NUL", b"Subject: x\r\n\r\nnul\0\r\n", "550 5.6.11"),
    ("NUL in a large message", b"Subject: x\r\n\r\n" + b"y" * 60_000 + b"\0\r\n", "550 5.6.11"),
    ("50 hops", b"Received: from a by b; x\r\n" * 50 + b"\r\nx\r\n", "554 5.4.6"),
    ("1,000 hops", b"Received: by a;\r\n" * 1000 + b"\r\nx\r\n", "554 5.4.6"),
    ("50 hops in capitals", b"RECEIVED: from a by b; x\r\n" * 50 + b"\r\nx\r\n", "554 5.4.6"),
    ("more than 64 KiB", large(70_000), "552 5.3.4"),
    ("1 MiB of bare LF", b"\n" * (1 << 20) + b"\r\n", "5"),
]


@pytest.mark.parametrize(("what", "content", "code"), CONTENTS, ids=[row[0] for row in CONTENTS])
def test_bad_content_is_refused_after_the_dot(daemon: Daemon, sink: Sink, what: str, content: bytes, code: str) -> None:
    """Content that must not travel on is read to its real end and refused as a whole; nothing of it is a command."""
    recipient = f"refused{next(_numbers)}@example.net"

    with RawClient(daemon.port) as client:
        client.begin(recipient)
        answer = client.say(stuffed(content) + b".\r\n" if b"\n.\r" not in content else content + b".\r\n")
        assert answer.startswith(code), answer
        _still_serves(client, sink)

    assert sink.messages_to(recipient) == []
    assert not [message for message in sink.arrived if b"evil" in message.mail]


def test_content_just_as_large_as_allowed_is_taken(daemon: Daemon, sink: Sink) -> None:
    """64 KiB may be sent where 64 KiB are announced, and one octet more may not."""
    exact = large(65_000)
    exact += b"x" * (65_536 - len(exact) - 2) + b"\r\n"

    with RawClient(daemon.port) as client:
        client.send(exact, "exact@example.net", parameters=" SIZE=65536")
        client.begin("more@example.net")
        assert client.say(stuffed(b"y" + exact) + b".\r\n").startswith("552 5.3.4")

    assert_same(exact, without_our_field(sink.wait_for_recipient("exact@example.net").content), "64 KiB")
    assert sink.messages_to("more@example.net") == []


def test_too_many_recipients(daemon: Daemon, sink: Sink) -> None:
    """The 101st recipient is put off with 452, not refused; the first hundred get the message."""
    with RawClient(daemon.port) as client:
        client.command(EHLO, "250")
        client.command(MAIL, "250")
        for n in range(100):
            client.command(f"RCPT TO:<many{n}@example.net>", "250")
        for n in range(100, 103):
            client.command(f"RCPT TO:<many{n}@example.net>", "452 4.5.3")
        client.command(DATA, "354")
        assert client.say(KINDS["short"] + b".\r\n").startswith("250")

    for n in range(100):
        sink.wait_for_recipient(f"many{n}@example.net")
    assert sink.messages_to("many100@example.net") == []


STOPS = [
    ("before a word", b""),
    ("after EHLO", b"EHLO c\r\n"),
    ("in a command", b"EHLO c\r\nMAIL FRO"),
    ("after RCPT", b"EHLO c\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<gone@example.net>\r\n"),
    ("after DATA", b"EHLO c\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<gone@example.net>\r\nDATA\r\n"),
    ("in the content", b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<gone@example.net>\r\nDATA\r\nSubject: x\r\n\r\nhalf"),
    ("in large content", b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<gone@example.net>\r\nDATA\r\n" + b"x" * 60_000),
    ("in the final dot", b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<gone@example.net>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n."),
    ("in its CRLF", b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<gone@example.net>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r"),
]


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize(("where", "octets"), STOPS, ids=[row[0] for row in STOPS])
def test_a_client_that_stops_in_the_middle(
    daemon: Daemon, sink: Sink, where: str, octets: bytes, *, reset: bool
) -> None:
    """A message whose end was not seen is forgotten: nobody was told that it was taken."""
    client = RawClient(daemon.port)
    client.reply()
    client.socket.sendall(octets)
    if reset:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()

    with RawClient(daemon.port) as other:
        other.command(EHLO, "250")
        _still_serves(other, sink)
    assert sink.messages_to("gone@example.net") == []
    assert not list((daemon.state_dir / "content").glob("*.draft"))


def test_too_many_connections_are_told_so(tmp_path_factory: pytest.TempPathFactory, sink: Sink) -> None:
    """The 31st connection from one address gets 421 and a reason; one that ends makes room."""
    home = tmp_path_factory.mktemp("connections")
    with serving(home / "state", "--next-hop", f"127.0.0.1:{sink.port}", config=LIMITS) as daemon:
        clients = [RawClient(daemon.port) for _ in range(30)]
        assert all(client.reply().startswith("220") for client in clients)
        with RawClient(daemon.port) as one_more:
            assert one_more.greeting.startswith("421 4.7.0")
            assert one_more.is_closed()
        clients.pop().close()
        eventually(lambda: _is_greeted(daemon.port), "room again")
        for client in clients:
            client.close()


def _is_greeted(port: int) -> bool:
    with RawClient(port) as client:
        return client.greeting.startswith("220")


@pytest.mark.parametrize(
    "recipient",
    ["b@example.net", "b%example.net@relay.example.org", '"b@example.net"@relay.example.org', "x!y@z.example"],
)
def test_strangers_may_not_relay(tmp_path_factory: pytest.TempPathFactory, sink: Sink, recipient: str) -> None:
    """Who is not among the networks named may send nowhere, however the address is written; the refusal says why."""
    home = tmp_path_factory.mktemp("strangers")
    arguments = ("--next-hop", f"127.0.0.1:{sink.port}", "--relay-from", "192.0.2.0/24")
    with serving(home / "state", *arguments) as daemon, RawClient(daemon.port) as client:
        client.command(EHLO, "250")
        client.command(MAIL, "250")
        answer = client.command(f"RCPT TO:<{recipient}>", "550 5.7.1")
        client.command(DATA, "554 5.5.1")

    assert "127.0.0.1" in answer
    assert "relay_from" in answer
