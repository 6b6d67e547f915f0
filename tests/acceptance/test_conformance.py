# SPDX-License-Identifier: MIT
"""RFC 5321 and RFC 2920 case by case at a plain door: order, syntax, lengths, addresses, pipelining, limits."""

import contextlib
import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from tests.acceptance.client import Client
from tests.acceptance.daemon import Daemon
from tests.acceptance.sink import Sink

fresh = (b"c%d@home.example" % n for n in itertools.count())
OPEN, LIMITED, STRANGERS = range(3)


class Place(NamedTuple):
    daemon: Daemon
    sink: Sink

    def client(self, *, said_hello: bool = True) -> Client:
        client = Client(self.daemon.ports[OPEN])
        if said_hello:
            client.hello()
        return client


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with Sink() as sink:
        config = f"""
postmaster = "boss@home.example"
[next_hop]
host = "127.0.0.1"
port = {sink.port}
[[listener]]
listen = ["127.0.0.1:0"]
[[listener]]
listen = ["127.0.0.1:0"]
proxy_from = ["127.0.0.0/8"]
relay_from = ["198.51.100.0/24"]
[limits]
errors = 5
connections_per_client = 3
"""
        with Daemon(tmp_path_factory.mktemp("conformance"), config) as daemon:
            yield Place(daemon, sink)


def check_session(place: Place, *dialogue: tuple[bytes, int]) -> None:
    """Say each command, one at a time; the codes must be these."""
    with Client(place.daemon.ports[OPEN]) as client:
        for command, code in dialogue:
            reply = client.say(command)
            assert reply.code == code, (command, reply)
            if reply.code >= 400:
                assert re.match(rb"[45]\.\d{1,3}\.\d{1,3} ", reply.lines[0]), reply
                assert reply.lines[0][:1] == b"%d" % (reply.code // 100)


EHLO = (b"EHLO client.example.com", 250)
MAIL = (b"MAIL FROM:<a@origin.example>", 250)
RCPT = (b"RCPT TO:<b@home.example>", 250)
QUIT = (b"QUIT", 221)

SESSIONS: dict[str, tuple[tuple[bytes, int], ...]] = {
    "mail before any greeting": ((b"MAIL FROM:<a@origin.example>", 503), EHLO, MAIL, QUIT),
    "rcpt before mail": (EHLO, (b"RCPT TO:<b@home.example>", 503), QUIT),
    "rcpt before any greeting": ((b"RCPT TO:<b@home.example>", 503), QUIT),
    "data before mail": (EHLO, (b"DATA", 503), QUIT),
    "data before rcpt": (EHLO, MAIL, (b"DATA", 503), RCPT, (b"DATA", 354), (b".", 250), QUIT),
    "data before any greeting": ((b"DATA", 503), QUIT),
    "bdat before mail": (EHLO, (b"BDAT 0 LAST", 503), QUIT),
    "mail twice": (EHLO, MAIL, (b"MAIL FROM:<c@origin.example>", 503), RCPT, QUIT),
    "mail twice after rset": (EHLO, MAIL, (b"RSET", 250), MAIL, QUIT),
    "rcpt after rset": (EHLO, MAIL, (b"RSET", 250), (b"RCPT TO:<b@home.example>", 503), QUIT),
    "ehlo again drops the transaction": (EHLO, MAIL, RCPT, EHLO, (b"DATA", 503), MAIL, QUIT),
    "helo again drops the transaction": (
        EHLO,
        MAIL,
        (b"HELO again.example", 250),
        (b"RCPT TO:<b@h.example>", 503),
        QUIT,
    ),
    "quit within a transaction": (EHLO, MAIL, RCPT, QUIT),
    "quit first": (QUIT,),
    "noop first": ((b"NOOP", 250), QUIT),
    "rset first": ((b"RSET", 250), QUIT),
    "rset twice": (EHLO, (b"RSET", 250), (b"RSET", 250), QUIT),
    "vrfy within a transaction leaves it alone": (EHLO, MAIL, (b"VRFY a", 252), RCPT, QUIT),
    "noop within a transaction leaves it alone": (EHLO, MAIL, (b"NOOP", 250), RCPT, QUIT),
    "noop with arguments": (EHLO, (b"NOOP one two three", 250), QUIT),
    "rset with an argument": (EHLO, (b"RSET now", 501), QUIT),
    "data with an argument": (EHLO, MAIL, RCPT, (b"DATA now", 501), (b"DATA", 354), (b".", 250), QUIT),
    "quit with an argument": (EHLO, (b"QUIT now", 501), QUIT),
    "ehlo without a name": ((b"EHLO", 501), EHLO, QUIT),
    "helo without a name": ((b"HELO", 501), EHLO, QUIT),
    "ehlo with an address literal": ((b"EHLO [127.0.0.1]", 250), QUIT),
    "ehlo with an ipv6 literal": ((b"EHLO [IPv6:2001:db8::1]", 250), QUIT),
    "ehlo with a name without a dot": ((b"EHLO localhost", 250), QUIT),
    "ehlo with a trailing space": ((b"EHLO client.example.com ", 250), QUIT),
    "vrfy": (EHLO, (b"VRFY postmaster", 252), QUIT),
    "vrfy without an argument": (EHLO, (b"VRFY", 501), QUIT),
    "expn": (EHLO, (b"EXPN list", 502), QUIT),
    "help": (EHLO, (b"HELP", 214), (b"HELP MAIL", 214), QUIT),
    "turn": (EHLO, (b"TURN", 502), QUIT),
    "unknown command": (EHLO, (b"FROBNICATE", 500), (b"NOOP", 250), QUIT),
    "unknown command before a greeting": ((b"FROBNICATE", 500), EHLO, QUIT),
    "empty command": (EHLO, (b"", 500), (b"NOOP", 250), QUIT),
    "blank command": (EHLO, (b"   ", 500), (b"NOOP", 250), QUIT),
    "lower case": (
        (b"ehlo client.example.com", 250),
        (b"mail from:<a@o.example>", 250),
        (b"rcpt to:<b@h.example>", 250),
        QUIT,
    ),
    "mixed case": (
        (b"eHlO client.example.com", 250),
        (b"MaIl FrOm:<a@o.example>", 250),
        (b"rCpT tO:<b@h.example>", 250),
        QUIT,
    ),
    "lower case data and quit": (EHLO, MAIL, RCPT, (b"data", 354), (b".", 250), (b"quit", 221)),
    "space before the path, which many send": (EHLO, (b"MAIL FROM: <a@o.example>", 250), QUIT),
    "space after the verb's colon missing": (EHLO, (b"MAIL FROM <a@o.example>", 501), QUIT),
    "trailing space": (EHLO, (b"MAIL FROM:<a@o.example> ", 250), (b"RCPT TO:<b@h.example>  ", 250), QUIT),
    "two spaces before a parameter": (EHLO, (b"MAIL FROM:<a@o.example>  SIZE=1", 501), MAIL, QUIT),
    "mail without from": (EHLO, (b"MAIL <a@o.example>", 501), (b"MAIL", 501), (b"MAIL FROM:", 501), QUIT),
    "rcpt without to": (EHLO, MAIL, (b"RCPT <a@o.example>", 501), (b"RCPT", 501), (b"RCPT TO:", 501), QUIT),
    "mail to": (EHLO, (b"MAIL TO:<a@o.example>", 501), QUIT),
    "no brackets": (EHLO, (b"MAIL FROM:a@o.example", 501), QUIT),
    "one bracket": (EHLO, (b"MAIL FROM:<a@o.example", 501), (b"MAIL FROM:a@o.example>", 501), QUIT),
    "null sender": (EHLO, (b"MAIL FROM:<>", 250), RCPT, QUIT),
    "null recipient": (EHLO, MAIL, (b"RCPT TO:<>", 501), QUIT),
    "postmaster": (EHLO, MAIL, (b"RCPT TO:<postmaster>", 250), (b"RCPT TO:<PostMaster>", 250), QUIT),
    "quoted local part": (EHLO, (b'MAIL FROM:<"a b"@o.example>', 250), (b'RCPT TO:<"a@b"@h.example>', 250), QUIT),
    "quoted quote": (EHLO, (b'MAIL FROM:<"\\""@o.example>', 250), (b'RCPT TO:<"\\\\"@h.example>', 250), QUIT),
    "quoted bracket": (EHLO, (b'MAIL FROM:<">"@o.example>', 250), (b'RCPT TO:<"<>"@h.example>', 250), QUIT),
    "unended quote": (EHLO, (b'MAIL FROM:<"a@o.example>', 501), QUIT),
    "address literal": (EHLO, (b"MAIL FROM:<a@[192.0.2.1]>", 250), (b"RCPT TO:<b@[IPv6:2001:db8::1]>", 250), QUIT),
    "bad address literal": (EHLO, (b"MAIL FROM:<a@[999.0.2.1]>", 501), (b"MAIL FROM:<a@[192.0.2.1>", 501), QUIT),
    "source route": (
        EHLO,
        (b"MAIL FROM:<@x.example:a@o.example>", 553),
        MAIL,
        (b"RCPT TO:<@x.example:b@h.example>", 553),
        QUIT,
    ),
    "local part of 64": (EHLO, (b"MAIL FROM:<" + b"l" * 64 + b"@o.example>", 250), QUIT),
    "local part of 65": (EHLO, MAIL, (b"RCPT TO:<" + b"l" * 65 + b"@o.example>", 501), QUIT),
    "domain of 255": (
        EHLO,
        (b"MAIL FROM:<a@" + b"d" * 60 + b"." + b"e" * 63 + b"." + b"f" * 63 + b"." + b"g" * 61 + b">", 250),
        QUIT,
    ),
    "domain too long": (EHLO, (b"MAIL FROM:<a@" + b".".join([b"d" * 63] * 5) + b">", 501), QUIT),
    "label of 64": (EHLO, MAIL, (b"RCPT TO:<a@" + b"d" * 64 + b".example>", 501), QUIT),
    "two dots": (EHLO, (b"MAIL FROM:<a..b@o.example>", 501), (b"MAIL FROM:<a@o..example>", 501), QUIT),
    "leading dot": (EHLO, (b"MAIL FROM:<.a@o.example>", 501), (b"MAIL FROM:<a@.o.example>", 501), QUIT),
    "leading hyphen": (EHLO, (b"MAIL FROM:<a@-o.example>", 501), (b"MAIL FROM:<a@o-.example>", 501), QUIT),
    "port in an address": (EHLO, MAIL, (b"RCPT TO:<b@home.example:2025>", 501), QUIT),
    "junk after the path": (
        EHLO,
        (b"MAIL FROM:<a@o.example>x", 501),
        (b"MAIL FROM:<a@o.example><b@o.example>", 501),
        QUIT,
    ),
    "comment in a path": (EHLO, (b"MAIL FROM:<a(c)@o.example>", 501), QUIT),
    "duplicate recipient": (EHLO, MAIL, RCPT, RCPT, (b"DATA", 354), (b".", 250), QUIT),
}


@pytest.mark.parametrize("name", SESSIONS)
def test_a_session_of(place: Place, name: str) -> None:
    check_session(place, *SESSIONS[name])


def test_two_messages_in_one_session_stay_apart(place: Place) -> None:
    one, two = next(fresh), next(fresh)
    with place.client() as client:
        assert client.transact(b"a@origin.example", one, b"Subject: one\r\n\r\n1").code == 250
        assert client.transact(b"", two, b"Subject: two\r\n\r\n2").code == 250
    assert place.sink.message(one).content.endswith(b"Subject: one\r\n\r\n1\r\n")
    second = place.sink.message(two)
    assert second.content.endswith(b"Subject: two\r\n\r\n2\r\n")
    assert second.mail.startswith(b"MAIL FROM:<>")
    assert len(second.recipients) == 1


def test_a_recipient_named_twice_is_answered_twice_and_told_in_one_transaction(place: Place) -> None:
    to = next(fresh)
    with place.client() as client:
        client.send(b"MAIL FROM:<a@origin.example>\r\n" + b"RCPT TO:<%b>\r\n" % to * 2 + b"DATA\r\n")
        assert [client.reply().code for _ in range(4)] == [250, 250, 250, 354]
        client.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
        assert client.reply().code == 250
    assert 1 <= sum(to in path for path in place.sink.message(to).recipients) <= 2
    assert place.sink.messages.count(place.sink.message(to)) == 1


@pytest.mark.parametrize("octets", [512, 1000, 2000])
def test_a_command_line_of_some_length_is_taken(place: Place, octets: int) -> None:
    with place.client() as client:
        assert client.code(b"NOOP " + b"x" * (octets - 7)) in (250, 500)
        if octets == 512:
            assert client.code(b"NOOP " + b"x" * (octets - 7)) == 250
        assert client.code(b"NOOP") == 250


@pytest.mark.parametrize("octets", [4096, 65536, 1_000_000])
@pytest.mark.parametrize("verb", [b"NOOP ", b"MAIL FROM:<", b"X"])
def test_an_endless_command_line_is_500_once_and_the_session_goes_on_or_ends(
    place: Place, octets: int, verb: bytes
) -> None:
    with place.client() as client:
        client.send(verb + b"x" * octets + b"\r\nNOOP\r\n")
        assert client.reply().code in (421, 500, 501)
        with contextlib.suppress(EOFError, ConnectionError):
            assert client.reply().code in (250, 421)


def test_pipelined_commands_are_answered_in_order_and_none_is_lost(place: Place) -> None:
    with place.client() as client:
        client.send(
            b"MAIL FROM:<a@origin.example>\r\nRCPT TO:<b@home.example>\r\nRCPT TO:<>\r\nNOOP\r\n"
            b"RCPT TO:<c@home.example>\r\n"
            b"VRFY x\r\nRSET\r\nDATA\r\nMAIL FROM:<a@origin.example>\r\nQUIT\r\n"
        )
        came = client.what_came_until_the_end()
    codes = [line[:3] for line in came.split(b"\r\n") if line[3:4] == b" "]
    assert codes == [b"250", b"250", b"501", b"250", b"250", b"252", b"250", b"503", b"250", b"221"]


def test_a_group_that_ends_in_data_and_another_behind_the_content_are_answered_in_order(place: Place) -> None:
    one, two = next(fresh), next(fresh)
    group = b"MAIL FROM:<a@origin.example>\r\nRCPT TO:<%b>\r\nDATA\r\n"
    with place.client() as client:
        client.send(group % one)
        assert [client.reply().code for _ in range(3)] == [250, 250, 354]
        client.send(b"Subject: x\r\n\r\nx\r\n.\r\n" + group % two)
        assert [client.reply().code for _ in range(4)] == [250, 250, 250, 354]
        client.send(b"Subject: y\r\n\r\ny\r\n.\r\nQUIT\r\n")
        assert [client.reply().code for _ in range(2)] == [250, 221]
    place.sink.message(one)
    place.sink.message(two)


def test_pipelined_data_without_a_recipient_makes_the_content_no_commands_it_understands(place: Place) -> None:
    """The client must not send content then; if it does, it is bad commands, and never a message."""
    with place.client() as client:
        client.send(b"MAIL FROM:<a@origin.example>\r\nRCPT TO:<>\r\nDATA\r\n.\r\nQUIT\r\n")
        codes = [line[:3] for line in client.what_came_until_the_end().split(b"\r\n") if line]
    assert codes[:2] + codes[3:] == [b"250", b"501", b"500", b"221"]
    assert codes[2] in (b"503", b"554")  # RFC 5321 4.1.1.4 has both


def test_commands_octet_by_octet_are_commands(place: Place) -> None:
    with place.client(said_hello=False) as client:
        for octet in b"EHLO client.example.com\r\nMAIL FROM:<a@origin.example>\r\n":
            client.send(bytes([octet]))
        assert [client.reply().code for _ in range(2)] == [250, 250]


def test_the_greeting_names_us_and_what_we_speak(place: Place) -> None:
    with place.client(said_hello=False) as client:
        assert client.greeting.lines[0].startswith(b"relay.example.org ESMTP")
        reply = client.say(b"EHLO client.example.com")
        assert reply.lines[0].split()[0] == b"relay.example.org"


def test_received_is_prepended_and_nothing_else_is_changed(place: Place) -> None:
    to = next(fresh)
    content = (
        b"X-Odd:no space\r\nbcc: keep@h.example\r\nReturn-Path: <keep@h.example>\r\nno header\r\n\r\n.x\r\n\t\r\n"
        + b"z" * 2000
    )
    with place.client() as client:
        client.say(b"MAIL FROM:<a@origin.example>")
        client.say(b"RCPT TO:<%b>" % to)
        client.say(b"DATA")
        client.send(content.replace(b"\r\n.", b"\r\n..") + b"\r\n.\r\n")
        assert client.reply().code == 250
    came = place.sink.message(to).content
    assert came.endswith(b"\r\n" + content + b"\r\n")
    trace = came.removesuffix(content + b"\r\n")
    assert re.fullmatch(
        rb"Received: from client\.example\.com (?:[^\r\n]|\r\n )*;\s+[A-Z][a-z]{2}, [^\r\n]+\r\n", trace
    ), trace
    assert b"by relay.example.org" in trace
    assert b"with ESMTP" in trace


def test_mail_that_went_in_circles_is_refused_or_comes_back_with_5_4_6(place: Place) -> None:
    to = next(fresh)
    with place.client() as client:
        reply = client.transact(
            b"a@origin.example", to, b"Received: from x by y; Mon, 1 Jan 2024 00:00:00 +0000\r\n" * 101 + b"\r\nx"
        )
    assert (reply.code, reply.lines[0][:5]) == (554, b"5.4.6")


def test_after_too_many_errors_the_client_is_told_421_and_cut_off(place: Place) -> None:
    with place.client() as client:
        codes = []
        for _ in range(10):
            try:
                codes.append(client.code(b"FROBNICATE"))
            except (EOFError, ConnectionError):
                break
            if codes[-1] == 421:
                assert client.is_closed()
                break
    assert 421 in codes
    assert len(codes) <= 6


def test_a_client_with_too_many_connections_is_told_421_and_has_them_back_afterwards(place: Place) -> None:
    def connect() -> Client:
        return Client(place.daemon.ports[LIMITED], proxied_from="198.51.100.5", greeted=False)

    clients = [connect() for _ in range(3)]
    for client in clients:
        assert client.reply().code == 220
    with connect() as one_more:
        reply = one_more.reply()
        assert (reply.code, reply.lines[0][:2]) == (421, b"4.")
        assert one_more.is_closed()
    for client in clients:
        assert client.code(b"QUIT") == 221
        assert client.is_closed()
        client.sock.close()
    with connect() as again:
        assert again.reply().code == 220


def test_a_connection_that_is_cut_in_the_middle_of_content_leaves_no_message(place: Place) -> None:
    lost, kept = next(fresh), next(fresh)
    with place.client() as client:
        client.say(b"MAIL FROM:<a@origin.example>")
        client.say(b"RCPT TO:<%b>" % lost)
        client.say(b"DATA")
        client.send(b"Subject: x\r\n\r\nhalf\r\n.")
        client.sock.shutdown(1)
        client.what_came_until_the_end()
    with place.client() as client:
        assert client.transact(b"a@origin.example", kept, b"Subject: x\r\n\r\nx").code == 250
    place.sink.message(kept)
    assert not [each for each in place.sink.messages if lost in b"".join(each.recipients)]


def test_postmaster_reaches_the_one_who_is_configured(place: Place) -> None:
    with place.client() as client:
        assert client.transact(b"pm@origin.example", b"POSTMASTER", b"Subject: x\r\n\r\nx").code == 250
    message = place.sink.message(b"<boss@home.example>")
    assert b"pm@origin.example" in message.mail


def test_postmaster_may_be_written_to_by_a_stranger(place: Place) -> None:
    """RFC 5321 4.5.1: mail to the bare postmaster is always taken; nothing else of a stranger's is."""
    with Client(place.daemon.ports[LIMITED], proxied_from="203.0.113.44") as client:
        client.hello()
        client.say(b"MAIL FROM:<x@third.example>")
        assert client.code(b"RCPT TO:<postmaster>") == 250
        assert client.code(b"RCPT TO:<postmaster@third.example>") == 550
