# SPDX-License-Identifier: MIT
"""Where a message ends: at CRLF.CRLF or by BDAT's count, nowhere else; nothing leaves us that others may read as one.

The list is the union of what the known scanners for SMTP smuggling try (SEC Consult, smtpsmug, USENIX Security 2025).
"""

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from tests.acceptance.client import Client
from tests.acceptance.daemon import Daemon
from tests.acceptance.sink import CHUNKING, Sink

ILLEGAL = (
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r.\n",
    b"\n.\r",
    b"\r.\r\n",
    b"\r\n.\rX",
    b"\r\n.\r\r\n",
    b"\r\r\n.\r\r\n",
    b"\n\n.\r\n",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\r\n\0.\n",
    b"\r\n\0.\r",
)
LEGAL = (
    b"\r\n .\r\n",
    b"\r\n. \r\n",
    b"\r\n..\r\n",
    b"\v.\v",
    b"\f.\f",
    b"\x1c.\x1c",
    b"\x85.\x85",
    "\u2028.\u2028".encode(),
)
HEAD = b"Subject: end of data\r\n\r\nbefore"
SECOND = (
    b"MAIL FROM:<evil@attacker.example>\r\nRCPT TO:<victim@plain.example>\r\nDATA\r\nSubject: smuggled\r\n\r\nsmuggled"
)
BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")
STUFFED = re.compile(rb"(\A|\r\n)\.")
fresh = (b"m%d" % n for n in itertools.count())


class Place(NamedTuple):
    """The daemon, a sink without CHUNKING, one with it and BINARYMIME."""

    daemon: Daemon
    plain: Sink
    chunking: Sink


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with Sink() as plain, Sink(CHUNKING) as chunking:
        config = f"""
[[listener]]
listen = ["127.0.0.1:0"]
[[listener]]
listen = ["127.0.0.1:0"]
bare_newline = "normalise"
[limits]
errors = 1000
[[route]]
domains = ["plain.example"]
next_hop = "127.0.0.1:{plain.port}"
[[route]]
domains = ["chunking.example"]
next_hop = "127.0.0.1:{chunking.port}"
"""
        with Daemon(tmp_path_factory.mktemp("end-of-data"), config) as daemon:
            yield Place(daemon, plain, chunking)


def offer(
    place: Place, end: bytes, to: bytes, *, normalising: bool = False, by_bdat: bool = False
) -> tuple[int, bytes]:
    """Hand in content that has `end` and a second transaction in it; give the code, and the content that was meant.

    Exactly one reply comes to the content, and the session goes on as if nothing had been.
    """
    text = HEAD + end + SECOND
    with Client(place.daemon.ports[normalising]) as client:
        client.hello()
        assert client.code(b"MAIL FROM:<a@example.org>") == 250
        assert client.code(b"RCPT TO:<%b>" % to) == 250
        if by_bdat:
            reply = client.bdat(text + b"\r\n")
            meant = text + b"\r\n"
        else:
            assert client.code(b"DATA") == 354
            client.send(text + b"\r\n.\r\n")
            reply = client.reply()
            meant = STUFFED.sub(rb"\1", text + b"\r\n")
        assert client.code(b"NOOP") == 250
        assert client.code(b"QUIT") == 221
        assert client.is_closed()
    return reply.code, meant


def check_sink(sink: Sink) -> None:
    """No command of the second transaction was ever one; in DATA no octet left us that is not in a CRLF line."""
    assert not [command for command in sink.commands if b"attacker" in command or b"victim" in command]
    assert not [each for each in sink.messages if not each.is_chunked and BARE.search(each.wire)]
    assert not [each for each in sink.messages if not each.is_chunked and re.search(rb"(\A|\r\n)\.\r\n", each.wire)]


def test_neither_list_lost_an_entry() -> None:
    assert (len(set(ILLEGAL)), len(set(LEGAL))) == (15, 8)


@pytest.mark.parametrize("end", ILLEGAL, ids=repr)
@pytest.mark.parametrize("domain", [b"plain.example", b"chunking.example"], ids=bytes.decode)
@pytest.mark.parametrize("by_bdat", [False, True], ids=["DATA", "BDAT"])
def test_an_illegal_end_is_refused_with_one_reply_and_ends_nothing(
    place: Place, end: bytes, domain: bytes, by_bdat: bool
) -> None:
    to = next(fresh) + b"@" + domain

    code, _ = offer(place, end, to, by_bdat=by_bdat)

    assert code == 550
    assert not [each for each in place.plain.messages + place.chunking.messages if to in b"".join(each.recipients)]
    check_sink(place.plain)
    check_sink(place.chunking)


@pytest.mark.parametrize("end", LEGAL, ids=repr)
@pytest.mark.parametrize("domain", [b"plain.example", b"chunking.example"], ids=bytes.decode)
@pytest.mark.parametrize("by_bdat", [False, True], ids=["DATA", "BDAT"])
@pytest.mark.parametrize("normalising", [False, True], ids=["reject", "normalise"])
def test_legal_content_that_looks_like_an_end_arrives_octet_for_octet(
    place: Place, end: bytes, domain: bytes, by_bdat: bool, normalising: bool
) -> None:
    to = next(fresh) + b"@" + domain
    sink = place.plain if domain == b"plain.example" else place.chunking

    code, meant = offer(place, end, to, by_bdat=by_bdat, normalising=normalising)

    assert code == 250
    assert sink.message(to).content.endswith(b"\r\n" + meant)
    check_sink(sink)


@pytest.mark.parametrize("end", ILLEGAL, ids=repr)
@pytest.mark.parametrize("by_bdat", [False, True], ids=["DATA", "BDAT"])
def test_where_bare_newlines_are_normalised_none_leaves_us_and_none_ends_the_message(
    place: Place, end: bytes, by_bdat: bool
) -> None:
    to = next(fresh) + b"@plain.example"

    code, _ = offer(place, end, to, normalising=True, by_bdat=by_bdat)

    if b"\0" in end or by_bdat:  # a chunk's octets are counted: they are refused, not changed
        assert code == 550
    else:
        assert code == 250
        message = place.plain.message(to)
        assert b"smuggled" in message.content
        assert not BARE.search(message.content)
    check_sink(place.plain)


@pytest.mark.parametrize("by_bdat", [False, True], ids=["DATA", "BDAT"])
def test_a_dot_alone_inside_a_chunk_is_content_and_leaves_us_stuffed(place: Place, by_bdat: bool) -> None:
    to = next(fresh) + b"@plain.example"

    with Client(place.daemon.ports[0]) as client:
        client.hello()
        client.say(b"MAIL FROM:<a@example.org>")
        client.say(b"RCPT TO:<%b>" % to)
        if by_bdat:
            assert client.bdat(HEAD + b"\r\n.\r\n" + SECOND + b"\r\n.\r\n").code == 250
        else:
            client.say(b"DATA")
            client.send(HEAD + b"\r\n..\r\n" + SECOND + b"\r\n..\r\n.\r\n")
            assert client.reply().code == 250
        assert client.code(b"NOOP") == 250

    message = place.plain.message(to)
    assert message.content.endswith(HEAD + b"\r\n.\r\n" + SECOND + b"\r\n.\r\n")
    assert b"\r\n..\r\n" + SECOND in message.wire
    check_sink(place.plain)


@pytest.mark.parametrize("end", ILLEGAL[:8], ids=repr)
def test_binary_content_reaches_a_host_without_binarymime_in_no_octet_that_could_end_it(
    place: Place, end: bytes
) -> None:
    """BDAT with BODY=BINARYMIME in, DATA out: converted or bounced (RFC 3030 3), never as it is."""
    to = next(fresh) + b"@plain.example"
    content = b"MIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\n"
    content += b"Content-Transfer-Encoding: binary\r\n\r\nbefore" + end + SECOND

    with Client(place.daemon.ports[0]) as client:
        client.hello()
        assert client.code(b"MAIL FROM:<> BODY=BINARYMIME") == 250
        assert client.code(b"RCPT TO:<%b>" % to) == 250
        assert client.bdat(content).code == 250

    fate = place.daemon.fate(to.decode())
    assert fate["what"] in ("relayed", "bounced"), fate
    if fate["what"] == "relayed":
        assert b"base64" in place.plain.message(to).content
    else:
        assert fate["status"] == "5.6.3"
    check_sink(place.plain)


@pytest.mark.parametrize("end", ILLEGAL, ids=repr)
def test_binary_content_reaches_a_host_with_binarymime_as_it_is(place: Place, end: bytes) -> None:
    to = next(fresh) + b"@chunking.example"
    content = b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: binary\r\n\r\nbefore" + end + SECOND

    with Client(place.daemon.ports[0]) as client:
        client.hello()
        assert client.code(b"MAIL FROM:<a@example.org> BODY=BINARYMIME") == 250
        assert client.code(b"RCPT TO:<%b>" % to) == 250
        assert client.bdat(content).code == 250

    message = place.chunking.message(to)
    assert message.is_chunked
    assert b"BODY=BINARYMIME" in message.mail
    assert message.content.endswith(content)
    check_sink(place.chunking)


@pytest.mark.parametrize("size", [4093, 4094, 4095, 4096, 8190, 65533, 65534, 65535, 65536, 262141, 262142, 262144])
def test_a_dot_line_that_begins_a_read_buffer_after_a_long_line_ends_the_message_there_only(
    place: Place, size: int
) -> None:
    """The long line and `.CRLF` come in two segments; a line over 998 octets is the sender's business, not an end."""
    to = next(fresh) + b"@plain.example"
    with Client(place.daemon.ports[0]) as client:
        client.hello()
        client.say(b"MAIL FROM:<a@example.org>")
        client.say(b"RCPT TO:<%b>" % to)
        client.say(b"DATA")

        client.send(b"Subject: x\r\n\r\n" + b"y" * size)
        client.send(b".\r\nMAIL FROM:<evil@attacker.example>\r\n" + b"z" * size)
        client.send(b"\r\n")
        client.send(b".\r\n")
        reply = client.reply()
        assert client.code(b"NOOP") == 250

    assert reply.code == 250, reply
    wanted = b"y" * size + b".\r\nMAIL FROM:<evil@attacker.example>\r\n" + b"z" * size + b"\r\n"
    assert place.plain.message(to).content.endswith(b"\r\n\r\n" + wanted)
    check_sink(place.plain)


@pytest.mark.parametrize("cut", range(1, 5))
@pytest.mark.parametrize("pause", [False, True], ids=["at once", "after a round trip elsewhere"])
def test_a_real_end_may_be_split_at_any_octet(place: Place, cut: int, pause: bool) -> None:
    to = next(fresh) + b"@plain.example"
    end = b"\r\n.\r\n"
    with Client(place.daemon.ports[0]) as client, Client(place.daemon.ports[0]) as other:
        client.hello()
        client.say(b"MAIL FROM:<a@example.org>")
        client.say(b"RCPT TO:<%b>" % to)
        client.say(b"DATA")

        client.send(b"Subject: x\r\n\r\nbody" + end[:cut])
        if pause:
            other.say(b"NOOP")  # the daemon has had its turn in between
        client.send(end[cut:])
        assert client.reply().code == 250
        assert client.code(b"QUIT") == 221

    assert place.plain.message(to).content.endswith(b"\r\n\r\nbody\r\n")


def test_a_real_end_octet_by_octet_is_an_end_and_the_commands_after_it_are_commands(place: Place) -> None:
    to = next(fresh) + b"@plain.example"
    with Client(place.daemon.ports[0]) as client:
        client.hello()
        client.say(b"MAIL FROM:<a@example.org>")
        client.say(b"RCPT TO:<%b>" % to)
        client.say(b"DATA")

        for octet in b"Subject: x\r\n\r\n..\r\n.\r\nNOOP\r\nQUIT\r\n":
            client.send(bytes([octet]))

        assert [client.reply().code for _ in range(3)] == [250, 250, 221]
    assert place.plain.message(to).content.endswith(b"\r\n\r\n.\r\n")


def test_an_empty_message_is_ended_by_a_dot_in_its_first_line(place: Place) -> None:
    to = next(fresh) + b"@plain.example"
    with Client(place.daemon.ports[0]) as client:
        client.hello()
        client.say(b"MAIL FROM:<a@example.org>")
        client.say(b"RCPT TO:<%b>" % to)
        client.say(b"DATA")
        assert client.code(b".") == 250
    assert place.plain.message(to).content.startswith(b"Received: ")


def test_all_that_ever_reached_the_hosts_was_one_transaction_for_each_of_ours(place: Place) -> None:
    """Last look at all octets: no MAIL FROM of the attacker's at a line's start outside content."""
    for sink in (place.plain, place.chunking):
        check_sink(sink)
        senders = {command for command in sink.commands if command[:4].upper() == b"MAIL"}
        assert {command.split()[1] for command in senders} <= {b"FROM:<a@example.org>", b"FROM:<>"}
