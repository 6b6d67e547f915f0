# SPDX-License-Identifier: MIT
"""The SMTP clients of compat: content whole, no false success, no endless peer, no password in clear."""

import base64
import hmac
import tracemalloc
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.compat.sessions import ACCEPTED, GREETING, EsmtpPoster, Poster, Session, watch_log
from twisted.internet.error import ConnectionLost
from twisted.mail import smtp

from smarthost.compat.client import (
    CHALLENGES,
    GREETING_TIMEOUT_S,
    REPLY_LINES,
    REPLY_TIMEOUT_S,
    WireContent,
    describe_error,
    peer_of,
)

SECRET = b"correct horse"
LETTER = ("alice@example.org", ["bob@example.net"], b"Subject: hi\n\nhello\n")
OTHER = ("", ["carol@example.net"], b"Subject: ho\n\n.\n")


@pytest.fixture(autouse=True)
def log_lines() -> Iterator[list[str]]:
    """What Twisted's log says meanwhile; an error in it fails the test."""
    with watch_log() as lines:
        yield lines


def smtp_session(*letters: Any) -> Session:
    return Session(Poster("relay.example.org").take(*(letters or (LETTER,))))


def esmtp_session(*, secret: Any = SECRET, context: Any = None, is_tls: bool = False, **attributes: Any) -> Session:
    poster = EsmtpPoster(secret, context, "relay.example.org").take(LETTER)
    for name, value in attributes.items():
        setattr(poster, name, value)
    return Session(poster, is_tls=is_tls)


def on_wire(content: bytes, octets: int = 16384) -> bytes:
    wire = WireContent(BytesIO(content), Poster("relay.example.org").transformChunk)
    pieces = list(iter(lambda: wire.read(octets), b""))
    assert wire.failure is None
    return b"".join([*pieces, wire.end()])


class Pieces(BytesIO):
    """A file that is read in small pieces."""

    def __init__(self, content: bytes, octets: int) -> None:
        super().__init__(content)
        self.octets = octets

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(self.octets, self.octets if size is None or size < 0 else size))


def unstuff(wire: bytes) -> bytes:
    """Read content as a server does (RFC 5321 4.5.2): what comes before the first lone dot, and nothing may follow."""
    lines = wire.split(b"\r\n")
    end = lines.index(b".")
    assert lines[end + 1 :] == [b""]
    return b"".join(line.removeprefix(b".") + b"\r\n" for line in lines[:end])


def canonical(content: bytes) -> bytes:
    """What a server should have: every line end as CRLF, every other CR as a space, the last line ended."""
    text = content.replace(b"\r\n", b"\n").replace(b"\r", b" ")
    if text and not text.endswith(b"\n"):
        text += b"\n"
    return text.replace(b"\n", b"\r\n")


# -- the content


@given(
    st.lists(st.sampled_from([b".", b"\r", b"\n", b"\r\n", b"a", b"\x00", b"\xff"]) | st.binary(max_size=4)).map(
        b"".join
    ),
    st.integers(1, 9) | st.just(16384),
)
@example(b"", 1)
@example(b".", 1)
@example(b"\r", 1)
@example(b"a\n.b\n", 2)
@example(b"a\n.\n", 2)
@example(b"a\r\n.\r\n", 2)
@example(b"a\r\n.\r\nMAIL FROM:<x@y>\r\n", 3)
@example(b"a\n\r\n", 2)
@example(b"a\r\r\n.\n", 3)
def test_content_arrives_as_it_is_whatever_the_pieces(content: bytes, octets: int) -> None:
    """Any octets, read in pieces of any size, reach the server unchanged but for line ends and stray CRs."""
    wire = on_wire(content, octets)

    assert unstuff(wire) == canonical(content)
    assert wire.endswith(b"\r\n.\r\n") or wire == b".\r\n"
    assert b"\r" not in wire.replace(b"\r\n", b"")
    assert b"\n" not in wire.replace(b"\r\n", b"")


@pytest.mark.parametrize(
    ("content", "wire"),
    [
        (b"", b".\r\n"),
        (b"no end", b"no end\r\n.\r\n"),
        (b".first\n", b"..first\r\n.\r\n"),
        (b"a\n.\nb\n", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a\r\nb\n", b"a\r\nb\r\n.\r\n"),
        (b"a\rb\n\r", b"a b\r\n \r\n.\r\n"),
        (b"\x00\xe9\n", b"\x00\xe9\r\n.\r\n"),
    ],
)
def test_content_on_the_wire(content: bytes, wire: bytes) -> None:
    """Known contents give known octets: dots doubled, NUL and 8-bit octets as they are."""
    assert on_wire(content) == wire


def test_a_file_that_cannot_be_read_is_not_mistaken_for_its_end() -> None:
    """A disk that fails in the middle ends the reading with a reason, and raises into no reactor."""

    class Failing(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    content = WireContent(Failing(), bytes)

    assert content.read(10) == b""
    assert isinstance(content.failure, OSError)


def test_the_content_is_never_ended_with_a_dot_after_a_disk_failure() -> None:
    """Half a message is not taken for a whole one: the connection is broken off instead."""

    class Failing(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise OSError(5, "Input/output error")
            return super().read(6)

    session = smtp_session()
    session.client.getMailData = lambda: Failing(b"begun and not done\n")
    session.hear(*GREETING, *ACCEPTED[:-1])
    session.receive(b"354 go on\r\n")

    assert session.pump() == b"begun "
    assert session.is_aborted
    assert "Input/output error" in session.client.whyEnded
    session.lose()
    assert session.client.sent == []


class Counting(Poster):
    """A program's client that counts what goes out."""

    counted = 0

    def transformChunk(self, chunk: bytes) -> bytes:
        octets = super().transformChunk(chunk)
        self.counted += len(octets)
        return octets


class Converting(Poster):
    """A program's client that converts as Twisted's does."""

    def transformChunk(self, chunk: bytes) -> bytes:
        self.resetTimeout()
        return chunk.replace(b"\n", b"\r\n").replace(b"\r\n.", b"\r\n..")


@pytest.mark.parametrize("kind", [Counting, Converting])
@pytest.mark.parametrize("octets", [1, 2, 3, 16384])
def test_a_program_that_overrides_transform_chunk_gets_the_file_as_it_is(kind: Any, octets: int) -> None:
    """Content is converted once, by ours or by its own, and ended rightly, wherever the pieces of the file end."""
    session = Session(kind("relay.example.org").take(LETTER))
    session.client.getMailData = lambda: Pieces(b"Subject: x\n\n.dot\n.\n..\nend\n", octets)
    session.hear(*GREETING)

    content = session.deliver()

    assert content == b"Subject: x\r\n\r\n..dot\r\n..\r\n...\r\nend\r\n.\r\n"
    assert getattr(session.client, "counted", len(content) - 3) == len(content) - 3


def test_a_dot_that_begins_a_letter_is_stuffed_whatever_the_letter_before_ended_in() -> None:
    """Each letter begins at the start of a line."""
    session = smtp_session(("a@b", ["c@d"], b"no end"), ("a@b", ["c@d"], b".\n"))
    session.hear(*GREETING)

    assert session.deliver() == b"no end\r\n.\r\n"
    assert session.deliver() == b"..\r\n.\r\n"


@pytest.mark.parametrize(
    ("given", "end"), [(b"a", b"\r\n.\r\n"), (b"a\r\n", b".\r\n"), (b"a\n", b"\r\n.\r\n"), (b"", b".\r\n")]
)
def test_the_final_dot_follows_what_was_really_sent(given: bytes, end: bytes) -> None:
    """A program's transformChunk that adds or drops the last line's end does not spoil the end of the message."""
    session = smtp_session()
    session.client.transformChunk = lambda chunk: given
    session.hear(*GREETING)

    assert session.deliver() == given + end


def test_a_program_that_drops_whole_pieces_does_not_stall_the_content() -> None:
    """A transformChunk that gives nothing for a piece is asked for the next one at once."""
    session = smtp_session()
    session.client.getMailData = lambda: Pieces(b"dropkeep", 4)
    session.client.transformChunk = lambda chunk: chunk.replace(b"drop", b"")
    session.hear(*GREETING)

    assert session.deliver() == b"keep\r\n.\r\n"


def test_a_program_whose_transform_chunk_raises_has_sent_no_message() -> None:
    """Half a message gets no final dot; the connection is broken off."""
    session = smtp_session()
    session.client.transformChunk = lambda chunk: 1 / 0
    session.hear(*GREETING, *ACCEPTED)

    assert session.pump() == b""
    assert session.is_aborted
    assert "ZeroDivisionError" in session.client.whyEnded
    session.lose()


# -- a session


def test_letters_are_sent_one_after_the_other() -> None:
    """A session of two letters, as a transcript."""
    session = smtp_session(LETTER, OTHER)

    assert session.hear(b"220 mx") == b"HELO relay.example.org\r\n"
    assert session.hear(b"250 mx") == b"MAIL FROM:<alice@example.org>\r\n"
    assert session.hear(b"250-sender", b"250 ok") == b"RCPT TO:<bob@example.net>\r\n"
    assert session.hear(b"251 forwarded") == b"DATA\r\n"
    session.receive(b"354 go on\r\n")
    assert session.pump() == b"Subject: hi\r\n\r\nhello\r\n.\r\n"
    assert session.hear(b"250-queued", b"250 as 1") == b"RSET\r\n"
    assert session.hear(b"250 ok") == b"MAIL FROM:<>\r\n"
    assert session.hear(b"250 ok") == b"RCPT TO:<carol@example.net>\r\n"
    assert session.hear(b"550 no carol") == b"RSET\r\n"
    assert session.hear(b"250 ok") == b"QUIT\r\n"
    session.hear(b"221 bye")

    assert session.is_closed
    assert not session.is_aborted
    session.lose()
    assert session.client.sent == [
        (250, b"queued\nas 1", 1, [("bob@example.net", 251, b"forwarded")]),
        (550, b"no carol", 0, [("carol@example.net", 550, b"no carol")]),
    ]


def test_a_letter_refused_at_mail_has_no_accepted_recipient_of_the_one_before() -> None:
    """What was accepted for one letter is not told of the next."""
    session = smtp_session(LETTER, OTHER)
    session.hear(*GREETING)
    session.deliver()

    session.hear(b"550 not you")

    assert session.client.sent[1] == (550, b"not you", 0, [])


@pytest.mark.parametrize(
    ("position", "reply"),
    [
        ("MAIL", b"251 hm"),
        ("MAIL", b"220 hm"),
        ("DATA", b"250 queued"),
        ("DATA", b"221 bye"),
        ("content", b"250 queued"),
        ("content", b"250-queued\r\n250 indeed"),
    ],
)
def test_a_2xx_that_answers_no_final_dot_is_never_success(position: str, reply: bytes) -> None:
    """A host out of step cannot have a letter counted as delivered."""
    session = smtp_session(LETTER, OTHER)
    before = {"MAIL": [], "DATA": ACCEPTED[:2], "content": ACCEPTED}[position]
    session.hear(*GREETING, *before)

    session.receive(reply + b"\r\n250 more\r\n250 and more\r\n354 go on\r\n250 queued\r\n")
    session.pump()
    session.lose()

    assert session.client.sent == []
    assert session.is_closed
    assert b".\r\n" not in session.said()


def test_replies_sent_ahead_deliver_nothing() -> None:
    """A host that says all its lines at once is not believed the last one."""
    session = smtp_session(LETTER, OTHER)

    session.receive(b"220 a\r\n250 b\r\n250 c\r\n250 d\r\n354 e\r\n250 queued\r\n250 reset\r\n")
    session.receive(b"250 f\r\n250 g\r\n354 h\r\n250 queued\r\n")

    assert session.is_aborted
    assert session.client.sent == []
    assert b"carol" not in session.said()


def test_a_refusal_before_the_end_of_the_content_counts_for_its_letter_and_ends_the_session() -> None:
    """A host that says no in the middle is believed; the rest of the letter is not sent, nor a final dot."""
    session = smtp_session(LETTER, OTHER)
    session.hear(*GREETING, *ACCEPTED)

    session.receive(b"552 too much\r\n250 queued\r\n")

    assert [sent[:2] for sent in session.client.sent] == [(552, b"too much")]
    assert session.is_aborted
    assert session.client._from is None
    assert session.pump() == b""
    session.lose()


def test_a_producer_that_goes_on_after_the_abort_sends_no_final_dot() -> None:
    """A transport that asks for content once more (TLS does) makes no half-sent letter whole."""
    session = smtp_session()
    session.hear(*GREETING, *ACCEPTED)
    producer: Any = session.wire.producer
    session.receive(b"250 early\r\n")
    session.said()
    session.wire.disconnected = False  # so that a dot would be seen

    producer.resumeProducing()

    assert session.said() == b""
    assert not session.client.isContentSent


@pytest.mark.parametrize("reset", [b"421 enough", b"500 what?", b"354 hm", b"what?"])
def test_a_refused_rset_ends_the_session(reset: bytes) -> None:
    """No second RSET is said, and the next letter waits."""
    session = smtp_session(LETTER, OTHER)
    session.hear(*GREETING)
    session.deliver(reset=reset)

    assert session.said() == b""
    assert session.is_closed
    assert len(session.client.sent) == 1
    session.lose()


# -- what a peer can say


GARBAGE = [
    b"garbage",
    b"",
    b"\x00\x00\x00 \x00",
    b"000 verbose",
    b"099 verbose",
    b"100 hm",
    b"199 hm",
    b"600 hm",
    b"999 hm",
    b"-1 hm",
    b"+25 hm",
    b"2_5 hm",
    b" 25 hm",
    b"25",
    b"2500 hm",
    b"250_hm",
    b"250-a\r\n550 b",
    b"\xd9\xa2\xd9\xa5\xd9\xa0 digits",
]


@pytest.mark.parametrize("position", ["banner", "HELO", "MAIL", "RCPT", "DATA", "dot", "RSET", "QUIT"])
@pytest.mark.parametrize("garbage", GARBAGE)
def test_what_is_no_reply_ends_the_connection_at_any_time(position: str, garbage: bytes) -> None:
    """Garbage is never success, never a refusal of a letter, and costs this connection only."""
    session = smtp_session()
    script = [*GREETING, *ACCEPTED, b"250 queued", b"250 reset"]
    heard = ["banner", "HELO", "MAIL", "RCPT", "DATA", "dot", "RSET", "QUIT"].index(position)
    for line in script[:heard]:
        session.hear(line)
        session.pump()

    session.receive(garbage + b"\r\n250 fine\r\n")

    assert session.is_aborted
    assert session.client.whyEnded
    assert session.said() == b""
    assert len(session.client.sent) == (heard > 5)
    session.lose()


@pytest.mark.parametrize("position", [0, 1, 2, 5])
def test_a_reply_that_never_ends_is_cut_off(position: int) -> None:
    """Endless continuation lines end the connection in bounded memory."""
    session = smtp_session()
    session.hear(*[*GREETING, *ACCEPTED][:position])
    session.pump()
    tracemalloc.start()

    for _ in range(5000):
        session.receive(b"250-" + b"x" * 10_000 + b"\r\n")
    session.client.dataReceived(b"250-more\r\n" * 10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert session.is_aborted
    assert len(session.client.resp) <= REPLY_LINES
    assert peak < 8 << 20
    assert session.client.sent == []
    session.lose()


@pytest.mark.parametrize("octets", [b"250 " + b"x" * 16_400 + b"\r\n", b"x" * 20_000, b"250 " + b"\x00" * 20_000])
def test_a_line_of_16_kib_ends_the_connection(octets: bytes) -> None:
    """A line that does not end is not waited for, and the end says why."""
    session = smtp_session()

    session.receive(octets)

    assert session.is_aborted
    assert "octets" in session.client.whyEnded
    assert isinstance(session.client.errors[0], smtp.SMTPProtocolError)
    session.lose()


def test_strange_octets_in_the_text_of_a_reply_change_nothing() -> None:
    """A letter that was accepted with a NUL in the text was accepted: sent again it would be a duplicate."""
    session = smtp_session()
    session.hear(*GREETING)

    session.deliver(final=b"250 \x00\xff\x1b[2J queued")

    assert session.client.sent[0][:2] == (250, b"\x00\xff\x1b[2J queued")


@given(
    st.lists(
        st.binary(max_size=6) | st.sampled_from([*GREETING, *ACCEPTED, b"250-", b"\r\n", b"250 ok\r\n", b"354 x\r\n"]),
        max_size=30,
    )
)
def test_no_octets_of_a_peer_raise_or_forge_success(pieces: list[bytes]) -> None:
    """Whatever comes, in whatever packets: nothing is raised, and success is told only after a final dot."""
    session = smtp_session(LETTER, OTHER)

    for piece in pieces:
        session.receive(piece)
        if session.wire.producer is not None:
            session.wire.pump()
    said = session.said()
    session.lose(ConnectionLost())

    accepted = [sent for sent in session.client.sent if sent[0] in smtp.SUCCESS]
    assert len(accepted) <= said.count(b"\r\n.\r\n")


def test_a_peer_that_keeps_a_closing_connection_open_is_given_up() -> None:
    """After the session's end it has ten seconds, whether or not the end was friendly."""
    for heard in ([b"554 no"], [*GREETING, b"251 hm"]):
        session = smtp_session()
        session.hear(*heard)
        assert session.is_closed
        assert not session.is_aborted

        session.clock.advance(10.1)

        assert session.is_aborted
        assert len(session.client.errors) == 1
        session.lose()


def test_what_comes_after_the_end_is_not_heard() -> None:
    """A transport that hands on what it still held (a wrapper may) does not make a letter delivered."""
    session = smtp_session()
    session.hear(*GREETING, *ACCEPTED)
    session.pump()
    session.lose(ConnectionLost())

    session.client.dataReceived(b"250 queued\r\n")
    session.client.dataReceived(b"x" * 20_000)

    assert session.client.sent == []
    assert session.client.whyEnded == ""


def test_what_a_program_does_wrong_costs_its_connection_only(log_lines: list[str]) -> None:
    """An error raised by a program's own method is logged, and the connection ends."""
    session = smtp_session()
    session.client.sentMail = lambda *_: 1 / 0
    session.hear(*GREETING)

    session.deliver()

    assert session.is_aborted
    assert session.client._from is None
    assert any("ZeroDivisionError" in line for line in log_lines)
    session.lose()


def test_a_client_without_message_files_whose_get_mail_from_raises_ends_its_session() -> None:
    """Which of its letters is meant is not known here: none is told as refused."""
    session = smtp_session()
    session.client.getMailFrom = lambda: 1 / 0

    session.hear(*GREETING)

    assert session.is_aborted
    assert session.client.sent == []
    session.lose()


# -- deadlines


@pytest.mark.parametrize("heard", range(8))
def test_a_silent_peer_is_given_up_after_ten_minutes_and_before_the_first_mail_after_one(heard: int) -> None:
    """From the answer to MAIL to the one to RSET 600 s of silence are endured; a host that does not greet us, 60."""
    session = smtp_session()
    for line in [*GREETING, *ACCEPTED, b"250 queued", b"250 reset"][:heard]:
        session.hear(line)
        session.pump()
    limit = {0: GREETING_TIMEOUT_S, 1: GREETING_TIMEOUT_S, 7: 10.0}.get(heard, REPLY_TIMEOUT_S)
    assert (GREETING_TIMEOUT_S, REPLY_TIMEOUT_S) == (60.0, 600.0)

    session.clock.advance(limit - 0.1)
    assert not session.is_aborted
    session.clock.advance(0.2)

    assert session.is_aborted
    assert session.client.whyEnded == f"nothing heard for {limit} s"
    assert isinstance(session.client.errors[0], smtp.SMTPTimeoutError)
    session.lose()


@pytest.mark.parametrize(
    "heard",
    [
        [b"250-mx\r\n250 STARTTLS"],
        [b"250-mx\r\n250 STARTTLS", b"220 go ahead"],
        [b"250-mx\r\n250 STARTTLS", b"220 go ahead", b"250-mx\r\n250 AUTH LOGIN"],
        [b"250-mx\r\n250 STARTTLS", b"220 go ahead", b"250-mx\r\n250 AUTH LOGIN", b"334 VXNlcm5hbWU6"],
    ],
)
def test_a_host_silent_at_starttls_or_auth_is_given_up_after_one_minute(heard: list[bytes]) -> None:
    """Each wait before the first MAIL is short, under TLS, too."""
    session = esmtp_session(context="a context")
    session.hear(b"220 mx")
    for line in heard:
        session.clock.advance(GREETING_TIMEOUT_S - 1)
        session.hear(line)

    session.clock.advance(GREETING_TIMEOUT_S - 0.1)
    assert not session.is_aborted
    session.clock.advance(0.2)

    assert session.is_aborted
    session.lose()


@pytest.mark.parametrize(
    ("timeout", "greeting", "limit"), [(5.0, 60.0, 5.0), (600.0, 7.0, 7.0), (20.0, None, 20.0), (None, 60.0, None)]
)
def test_a_greeting_is_waited_for_as_long_as_the_shorter_of_both_timeouts(
    timeout: Any, greeting: Any, limit: float | None
) -> None:
    """A program's own shorter timeout holds from the beginning, and None is none."""
    poster: Any = Poster("relay.example.org").take(LETTER)
    poster.timeout, poster.greetingTimeout = timeout, greeting
    session = Session(poster)
    assert poster.timeOut == limit

    session.hear(*GREETING)

    assert poster.timeOut == timeout
    session.lose()


def test_a_peer_that_does_not_read_the_content_is_given_up(log_lines: list[str]) -> None:
    """Ten minutes in which nothing of the content is taken end the connection; it is logged once."""
    session = smtp_session()
    session.hear(*GREETING, *ACCEPTED)

    session.clock.advance(REPLY_TIMEOUT_S + 0.1)

    assert session.is_aborted
    assert not session.client.isContentSent
    session.lose()
    assert session.client.sent == []
    assert len(log_lines) == 1
    assert "broken off" in log_lines[0]


def test_a_peer_that_takes_content_slowly_is_not_given_up() -> None:
    """Each piece that is taken moves the deadline."""
    session = smtp_session((LETTER[0], LETTER[1], b"x" * 70_000))
    session.hear(*GREETING, *ACCEPTED)

    for _ in range(4):
        session.clock.advance(REPLY_TIMEOUT_S - 1)
        producer: Any = session.wire.producer
        producer.resumeProducing()

    assert not session.is_aborted
    session.pump()
    session.hear(b"250 queued")
    assert len(session.client.sent) == 1
    session.lose()


def test_the_lines_of_one_reply_share_one_deadline() -> None:
    """A line every nine minutes does not keep a connection for sixteen hours."""
    session = smtp_session()

    for _ in range(4):
        session.receive(b"220-wait\r\n")
        session.clock.advance(540)

    assert session.is_aborted
    session.lose()


def test_a_program_that_wants_no_deadline_has_one_for_quit_all_the_same() -> None:
    """With `timeout = None` nothing is waited for in vain at the end, and nothing is raised."""
    poster = Poster("relay.example.org").take()
    poster.timeout = None
    session = Session(poster)
    session.clock.advance(10 * REPLY_TIMEOUT_S)
    session.hear(*GREETING)

    session.clock.advance(10.1)

    assert session.is_aborted
    session.lose()


def test_an_error_told_after_the_end_leaves_no_deadline_behind() -> None:
    """A program that calls sendError when the connection is gone has nothing left in its reactor."""
    session = smtp_session()
    session.lose()

    session.client.sendError(smtp.AUTHDeclinedError(535, b"no"))

    assert session.clock.getDelayedCalls() == []


def test_a_program_whose_send_error_raises_does_not_keep_the_connection(log_lines: list[str]) -> None:
    """The connection of a silent peer ends whatever a program's hook does."""
    session = smtp_session()
    session.client.sendError = lambda exc: 1 / 0

    session.clock.advance(REPLY_TIMEOUT_S + 1)

    assert session.is_aborted
    assert any("ZeroDivisionError" in line for line in log_lines)
    session.lose()


# -- addresses


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("", b""),
        ("<>", b""),
        (b"a@b", b"a@b"),
        (smtp.Address("a@b"), b"a@b"),
        ("Alice <a@b>", b"a@b"),
        ('"a b"@x', b'"a b"@x'),
        ('"x@y"@z', b'"x@y"@z'),
        ("a%b@c", b"a%b@c"),
        ("c!a@b", b"c!a@b"),
    ],
)
def test_a_sender_is_said_as_it_is(address: Any, path: bytes) -> None:
    """Str, octets, Twisted's own addresses and the form with a name: the path goes out verbatim."""
    session = smtp_session((address, ["b@c"], b""))

    assert session.hear(*GREETING).splitlines()[-1] == b"MAIL FROM:<" + path + b">"


BAD = [
    "a@b\r\nRCPT TO:<c@d>",
    "a@b\nDATA",
    "a@b\x00c",
    "a b@c",
    "a@b> SIZE=1",
    "a@b>",
    "<a@b> <c@d>",
    "é@b",
    "a@b\udce9",
    "a@\x85b",
    7,
    None,
]


@pytest.mark.parametrize("address", BAD[:-1])
def test_a_sender_that_cannot_be_said_is_refused_here(address: Any) -> None:
    """Nothing of it reaches the wire; the session goes on with the next letter."""
    session = smtp_session((address, ["b@c"], b""), LETTER)
    session.hear(b"220 mx")

    assert session.hear(b"250 mx") == b"RSET\r\n"
    assert session.hear(b"250 ok") == b"MAIL FROM:<alice@example.org>\r\n"
    [(code, resp, accepted, recipients)] = session.client.sent
    assert (code, resp[:6], accepted, recipients) == (553, b"5.1.7 ", 0, [])


@pytest.mark.parametrize("address", [*BAD, ""])
def test_a_recipient_that_cannot_be_said_is_refused_here(address: Any) -> None:
    """Nor does a bad recipient, nor the null path as one; the session goes on with the next letter."""
    session = smtp_session(("a@b", [address], b""), LETTER)
    session.hear(*GREETING)

    assert session.hear(b"250 ok") == b"RSET\r\n"
    assert session.client.isOwnWord
    assert session.hear(b"250 ok") == b"MAIL FROM:<alice@example.org>\r\n"
    assert not session.client.isOwnWord
    [(code, resp, accepted, recipients)] = session.client.sent
    assert (code, resp[:6], accepted) == (553, b"5.1.3 ", 0)
    assert [recipient[:2] for recipient in recipients] == [(address, 553)]


def test_one_bad_recipient_among_many_spoils_it_for_no_other() -> None:
    """A program's client with many recipients sends to those that can be named."""
    bad = ["a b@c"] * 3000
    session = smtp_session(("a@b", ["first@x", *bad, "last@x", *bad], b"hi\n"))
    session.hear(*GREETING)

    assert session.hear(b"250 ok") == b"RCPT TO:<first@x>\r\n"
    assert session.hear(b"250 ok") == b"RCPT TO:<last@x>\r\n"
    assert session.hear(b"250 ok") == b"DATA\r\n"
    session.receive(b"354 go on\r\n")
    session.pump()
    session.hear(b"250 queued")

    [(code, _, accepted, recipients)] = session.client.sent
    assert (code, accepted, len(recipients)) == (250, 2, 6002)


@given(st.text() | st.binary())
def test_no_address_ever_makes_two_commands(address: Any) -> None:
    """Whatever an envelope holds, what goes out is one line of printable ASCII for each command."""
    session = smtp_session((address, [address], b""))
    session.hear(b"220 mx")

    for said in (session.hear(b"250 mx"), session.hear(b"250 ok")):
        assert said.count(b"\r\n") == 1
        assert said.endswith(b"\r\n")
        assert said[:-2].decode("ascii").isprintable()


# -- ESMTP


def test_ehlo_refused_falls_back_to_helo_once() -> None:
    """A host of old is spoken to with HELO; when it refuses that, too, the session ends."""
    session = esmtp_session(secret=None)

    assert session.hear(b"220 mx") == b"EHLO relay.example.org\r\n"
    assert session.hear(b"502 what?") == b"HELO relay.example.org\r\n"
    assert session.hear(b"550 no") == b""

    assert session.is_closed
    session.lose()


def test_a_host_that_closes_at_ehlo_is_not_asked_again() -> None:
    """421 means that the connection is about to close."""
    session = esmtp_session(secret=None)

    assert session.hear(b"220 mx", b"421 busy") == b"EHLO relay.example.org\r\n"

    assert session.is_closed
    session.lose()


def test_helo_after_ehlo_carries_mail() -> None:
    """Mail goes on as with SMTP."""
    session = esmtp_session(secret=None)

    session.hear(b"220 mx", b"500 what?")

    assert session.hear(b"250 mx") == b"MAIL FROM:<alice@example.org>\r\n"


@pytest.mark.parametrize(
    "lines", [b"250-mx\r\n250-\r\n250 SIZE", b"250", b"250 ", b"250-\r\n250 ", b"250-mx\r\n250-\r\n250 "]
)
def test_empty_lines_in_the_answer_to_ehlo_offer_nothing(lines: bytes) -> None:
    """A host that has nothing to offer gets its mail."""
    session = esmtp_session()

    assert session.hear(b"220 mx", lines).endswith(b"MAIL FROM:<alice@example.org>\r\n")


@pytest.mark.parametrize("offer", [b"STARTTLS", b"starttls", b"StartTLS"])
def test_starttls_is_used_when_offered_and_nothing_heard_before_it_counts(offer: bytes) -> None:
    """After the switch EHLO is said again, and only what was offered then is used."""
    session = esmtp_session(context="a context")

    assert session.hear(b"220 mx", b"250-mx\r\n250-AUTH PLAIN\r\n250 " + offer).endswith(b"\r\nSTARTTLS\r\n")
    assert session.hear(b"220 go ahead") == b"EHLO relay.example.org\r\n"
    assert session.wire.tls == "a context"
    assert session.hear(b"250 mx") == b"MAIL FROM:<alice@example.org>\r\n"


def test_octets_in_clear_behind_the_reply_to_starttls_end_the_session() -> None:
    """What anybody on the way could have added is not taken for the host's word under TLS."""
    session = esmtp_session(context="a context")
    session.hear(b"220 mx", b"250-mx\r\n250 STARTTLS")

    session.receive(b"220 go ahead\r\n250-mx\r\n250 AUTH PLAIN\r\n")

    assert session.is_aborted
    assert session.wire.tls is None
    assert session.said() == b""
    assert "STARTTLS" in session.client.whyEnded
    session.lose()


@pytest.mark.parametrize("refusal", [b"454 not now", b"501 no", b"250 ok"])
def test_starttls_refused_ends_the_session(refusal: bytes) -> None:
    """The host offered TLS and then would not: nothing goes to it in clear."""
    session = esmtp_session(context="a context")
    session.hear(b"220 mx", b"250-mx\r\n250-AUTH PLAIN\r\n250 STARTTLS")

    said = session.hear(refusal)

    assert said == b"QUIT\r\n"
    session.hear(b"221 bye")
    assert session.is_closed
    session.lose()


def test_a_context_that_cannot_be_used_ends_the_session_with_nothing_said_in_clear() -> None:
    """A broken contextFactory costs the connection; the name is not said again without TLS."""
    session = esmtp_session(context=ValueError("no such certificate"))
    session.hear(b"220 mx", b"250-mx\r\n250 STARTTLS")

    assert session.hear(b"220 go ahead") == b""

    assert session.is_aborted
    assert "no such certificate" in session.client.whyEnded
    session.lose()


@pytest.mark.parametrize("offer", [b"AUTH PLAIN LOGIN CRAM-MD5", b"auth plain", b"AUTH LOGIN"])
def test_a_password_meant_for_tls_is_never_said_in_clear(offer: bytes) -> None:
    """Who gave a contextFactory is not logged in without TLS, and no mail goes without login."""
    session = esmtp_session(context="a context")

    said = session.hear(b"220 mx", b"250-mx\r\n250 " + offer)

    assert said == b"EHLO relay.example.org\r\nQUIT\r\n"
    assert "TLS" in session.client.whyEnded


def test_where_tls_is_required_nothing_goes_without_it() -> None:
    """requireTransportSecurity of a program's class is kept, with and without EHLO."""
    for answer in (b"250 mx", b"502 what?"):
        session = esmtp_session(secret=None, requireTransportSecurity=True)

        assert session.hear(b"220 mx", answer) == b"EHLO relay.example.org\r\nQUIT\r\n"


def test_where_login_is_required_nothing_goes_without_it() -> None:
    """requireAuthentication of a program's class is kept."""
    session = esmtp_session(requireAuthentication=True)

    assert session.hear(b"220 mx", b"250-mx\r\n250 AUTH GSSAPI").endswith(b"\r\nQUIT\r\n")


def test_without_a_secret_there_is_no_login() -> None:
    """secret None: mail goes without AUTH."""
    session = esmtp_session(secret=None)

    assert session.hear(b"220 mx", b"250-mx\r\n250 AUTH PLAIN").endswith(b"\r\nMAIL FROM:<alice@example.org>\r\n")


def test_login_with_plain() -> None:
    """AUTH PLAIN, as a transcript: Twisted's authenticator says the name twice."""
    session = esmtp_session()

    said = session.hear(b"220 mx", b"250-mx\r\n250 AUTH PLAIN")

    assert said.endswith(b"\r\nAUTH PLAIN " + base64.b64encode(b"alice\0alice\0" + SECRET) + b"\r\n")
    assert session.hear(b"235 welcome") == b"MAIL FROM:<alice@example.org>\r\n"


def test_login_with_login() -> None:
    """AUTH LOGIN, as a transcript."""
    session = esmtp_session()

    assert session.hear(b"220 mx", b"250-mx\r\n250 AUTH LOGIN").endswith(b"\r\nAUTH LOGIN\r\n")
    assert session.hear(b"334 VXNlcm5hbWU6") == base64.b64encode(b"alice") + b"\r\n"
    assert session.hear(b"334 UGFzc3dvcmQ6") == base64.b64encode(SECRET) + b"\r\n"
    assert session.hear(b"235 welcome") == b"MAIL FROM:<alice@example.org>\r\n"


def test_login_with_cram_md5_is_preferred_as_registered() -> None:
    """The first registered way that the host offers is used; the password itself is not said."""
    session = esmtp_session()

    assert session.hear(b"220 mx", b"250-mx\r\n250 AUTH PLAIN CRAM-MD5").endswith(b"\r\nAUTH CRAM-MD5\r\n")
    said = session.hear(b"334 " + base64.b64encode(b"<1@mx>"))

    digest = hmac.new(SECRET, b"<1@mx>", "md5").hexdigest().encode()
    assert base64.b64decode(said) == b"alice " + digest
    assert session.hear(b"235 welcome") == b"MAIL FROM:<alice@example.org>\r\n"


@pytest.mark.parametrize("challenge", [b"334 !", b"334 a", b"250 ok", b"535 no"])
def test_a_failed_login_refuses_no_letter(challenge: bytes, log_lines: list[str]) -> None:
    """The session ends, letters wait, and the password is in no log."""
    session = esmtp_session()
    session.hear(b"220 mx", b"250-mx\r\n250 AUTH CRAM-MD5")

    said = session.hear(challenge)
    while said and not said.endswith(b"QUIT\r\n"):
        said = session.hear(b"535 5.7.8 no")

    assert session.client.sent == []
    assert session.client.whyEnded
    session.lose()
    shown = "".join([*log_lines, session.client.whyEnded])
    assert SECRET.decode() not in shown


def test_a_plain_login_declined_twice_ends_the_session(log_lines: list[str]) -> None:
    """535 to AUTH PLAIN is no answer to any letter; the reason is kept, without the password."""
    session = esmtp_session()
    session.hear(b"220 mx", b"250-mx\r\n250 AUTH PLAIN", b"535 5.7.8 no")

    assert session.hear(b"535 5.7.8 no") == b"QUIT\r\n"

    assert session.client.whyEnded == "535 5.7.8 no"
    assert session.client.sent == []
    for said in (b"\0alice\0" + SECRET, b"alice\0alice\0" + SECRET):
        assert base64.b64encode(said).decode() not in "".join(log_lines)


def test_a_host_that_never_ends_to_challenge_is_left() -> None:
    """Endless 334 end the connection."""
    session = esmtp_session()
    session.hear(b"220 mx", b"250-mx\r\n250 AUTH LOGIN")

    for _ in range(CHALLENGES + 2):
        session.hear(b"334 VXNlcm5hbWU6")

    assert session.is_aborted
    session.lose()


# -- what is said of an error


def test_an_error_is_described_in_one_printable_line_without_the_transcript() -> None:
    """Host and octets may be hostile, and the transcript may hold a password."""
    error = smtp.AUTHDeclinedError(535, b"no\r\n\x1b[2J\xff" + b"x" * 9000, b">>> AUTH PLAIN secret")

    line = describe_error(error)

    assert line.startswith("535 no")
    assert line.isprintable()
    assert len(line) <= 200
    assert "secret" not in line
    assert describe_error(smtp.SMTPConnectError(-1, b"", b">>> AUTH PLAIN secret")) == "SMTPConnectError"
    assert describe_error(ValueError()) == "ValueError"


def test_a_session_without_a_wire_has_no_peer() -> None:
    """A relayer that was never connected can be asked."""
    assert peer_of(None) == ""
