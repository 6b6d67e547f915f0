# SPDX-License-Identifier: MIT
"""BDAT: content that comes in counted octets, and commands that no octet of it can ever become (RFC 3030)."""

import pytest
from tests.smtp.server_session import ADDRESSED, HELLO, OPEN, SETTINGS, Session, codes

from smarthost.mail.envelope import Body
from smarthost.mail.reply import reply
from smarthost.smtp.limits import CONTENT_PIECE_OCTETS, JUNK_COMMANDS, REFUSED_CHUNK_OCTETS
from smarthost.smtp.wire import (
    BdatReceived,
    ChunkEnded,
    ContentEnded,
    ContentReceived,
    HangUp,
    MailReceived,
    ResetReceived,
)

BINARY = (HELLO, "MAIL FROM:<a@b.example> BODY=BINARYMIME", "RCPT TO:<c@d.example>")


def addressed(lines: tuple[str, ...] = ADDRESSED) -> Session:
    session = Session()
    session.say(*lines)
    session.events.clear()
    return session


def bdat(octets: bytes, *, last: bool = False) -> bytes:
    return b"BDAT %d%b\r\n%b" % (len(octets), b" LAST" if last else b"", octets)


def test_message_in_two_chunks_is_one_message() -> None:
    """Each chunk has its answer, the content is told in one piece, the message is filed once."""
    session = addressed()

    said = [session.send(bdat(b"Subject: x\r\n\r\n..a")), session.send(bdat(b"\r\n.\r\nb", last=True))]

    assert codes(said) == ["250 2.0.0", "250 2.0.0"]
    assert session.events == [
        BdatReceived(),
        ChunkEnded(17),
        ContentReceived(b"Subject: x\r\n\r\n..a\r\n.\r\nb"),
        ContentEnded(None),
    ]
    assert not session.machine.in_transaction


def test_pipelined_chunks_are_answered_in_one_output() -> None:
    """RFC 2920 and 3030 4.2: a whole session in one packet, the next transaction behind the last chunk."""
    session = Session()

    said = session.send(
        b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"
        + bdat(b"x: y\r\n")
        + bdat(b"\r\nNOOP\r\n", last=True)
        + b"MAIL FROM:<>\r\nRCPT TO:<c@d>\r\nBDAT 0 last\r\nQUIT\r\n"
    )

    expected = ["250 2.1.0", "250 2.1.5", "250 2.0.0", "250 2.0.0", "250 2.1.0", "250 2.1.5", "250 2.0.0", "221 2.0.0"]
    assert codes([said])[-8:] == expected
    assert session.content == b"x: y\r\n\r\nNOOP\r\n"


def test_empty_last_chunk_ends_the_message() -> None:
    """RFC 3030 2: BDAT 0 LAST, for who learns late that there is no more."""
    session = addressed()

    session.send(bdat(b"x\r\n"))

    assert codes([session.send(b"BDAT 0 LAST\r\n")]) == ["250 2.0.0"]
    assert session.events[-2:] == [ContentReceived(b"x\r\n"), ContentEnded(None)]


@pytest.mark.parametrize("way", [(), (HELLO,), OPEN, (*OPEN, "RCPT TO:<no@d>")])
def test_octets_of_a_refused_chunk_are_never_commands(way: tuple[str, ...]) -> None:
    """RFC 3030 2: accept and discard, then say why; otherwise content could speak SMTP to us."""
    session = addressed(way)
    inner = b"RSET\r\nMAIL FROM:<evil@b>\r\nRCPT TO:<c@d>\r\n"

    said = session.send(bdat(inner, last=True) + b"NOOP\r\n")

    assert codes([said]) == ["554 5.5.1" if len(way) == 3 else "503 5.5.1", "250 2.0.0"]
    assert session.events == []


def test_refused_chunk_is_answered_when_it_has_come() -> None:
    """Whoever waits for the answer before sending waits in vain; whoever sends is told at its end."""
    session = addressed((HELLO,))

    assert session.send(b"BDAT 5 LAST\r\n") == ""
    assert session.send(b"QUIT") == ""
    assert codes([session.send(b"\nNOOP\r\n")]) == ["503 5.5.1", "250 2.0.0"]


@pytest.mark.parametrize("line", ["MAIL FROM:<a@b>", "RCPT TO:<x@d>", "DATA"])
def test_between_chunks_only_chunks_and_rset_are_taken(line: str) -> None:
    """RFC 3030 2: 503, and the content goes on where it was."""
    session = addressed()
    session.send(bdat(b"a\r\n"))

    assert codes(session.say(line)) == ["503 5.5.1"]
    assert codes([session.send(bdat(b"b\r\n", last=True))]) == ["250 2.0.0"]
    assert session.content == b"a\r\nb\r\n"


@pytest.mark.parametrize("line", ["RSET", HELLO])
def test_rset_drops_the_chunks(line: str) -> None:
    """RFC 3030 2: nothing of them is in the next message, nor counts for its size."""
    session = addressed()
    session.send(bdat(b"x" * 60_000))

    session.say(line)
    assert ResetReceived() in session.events
    assert session.machine.buffered == 0
    session.say(*ADDRESSED[1:])
    session.events.clear()

    assert codes([session.send(bdat(b"y" * 60_000, last=True))]) == ["250 2.0.0"]
    assert session.content == b"y" * 60_000


def test_chunk_that_the_driver_refuses_voids_the_transaction_until_rset() -> None:
    """What was pipelined behind it is read and refused, counts as no error, and is not obeyed."""
    session = addressed()
    machine = session.machine
    machine.receive(bdat(b"a\r\n") + bdat(b"NOOP\r\n") + bdat(b"b\r\n", last=True) + b"MAIL FROM:<a@b>\r\nDATA\r\n")

    assert machine.next_event() == BdatReceived()
    assert machine.next_event() == ChunkEnded(3)
    machine.reply(reply(452, "4.3.1", "The disk is full"))

    assert not machine.in_transaction
    assert machine.next_event() is None
    said = machine.take_output().decode().split("\r\n")
    assert [line[:9] for line in said[:-1]] == ["452 4.3.1"] + ["503 5.5.1"] * 4
    assert machine.errors == 0
    assert codes(session.say("RSET", *ADDRESSED[1:], "BDAT 0 LAST"))[-1] == "250 2.0.0"
    assert ResetReceived() not in session.events


def test_content_that_is_not_filed_ends_the_transaction_as_with_data() -> None:
    """451 to the last chunk: the client begins anew with MAIL."""
    session = addressed()
    machine = session.machine
    machine.receive(bdat(b"", last=True))
    assert machine.next_event() == BdatReceived()
    assert machine.next_event() == ContentEnded(None)
    machine.reply(reply(451, "4.3.0", "Later"))

    assert codes([session.go_on(), *session.say(*OPEN[1:])]) == ["451 4.3.0", "250 2.1.0"]


def test_message_limit_counts_over_all_chunks() -> None:
    """552 at the end of the chunk that makes it too much, before the client sends the others."""
    session = addressed()

    said = [session.send(bdat(b"x" * 50_000)), session.send(bdat(b"x" * 50_000)), session.send(bdat(b"x"))]

    assert codes(said) == ["250 2.0.0", "250 2.0.0", "552 5.3.4"]
    assert isinstance(session.events[-1], ContentEnded)
    assert len(session.content) <= SETTINGS.max_octets
    assert codes(session.say("MAIL FROM:<a@b>", "RSET", "MAIL FROM:<a@b>")) == ["503 5.5.1", "250 2.0.0", "250 2.1.0"]


def test_too_large_last_chunk_ends_the_transaction() -> None:
    """After LAST there is nothing to reset."""
    session = addressed()

    said = session.send(bdat(b"x" * 100_001, last=True) + b"MAIL FROM:<a@b>\r\n")

    assert codes([said]) == ["552 5.3.4", "250 2.1.0"]
    assert session.content == b""


@pytest.mark.parametrize("way", [(HELLO,), ADDRESSED])
@pytest.mark.parametrize("size", [REFUSED_CHUNK_OCTETS + 1, 99_999_999_999_999_999_999])
def test_chunk_larger_than_anything_is_refused_at_once(way: tuple[str, ...], size: int) -> None:
    """Nobody waits for 20 digits of octets, and nothing is kept for them."""
    session = addressed(way)

    said = session.send(b"BDAT %d LAST\r\nMAIL FROM:<a@b>\r\n" % size)

    assert codes([said]) == ["552 5.3.4" if way is ADDRESSED else "503 5.5.1"]
    assert session.events == [HangUp("a chunk of more octets than are ever read")]
    assert session.machine.is_closed


def test_chunk_beyond_the_limit_is_read_without_being_kept() -> None:
    """The octets are on their way: they pass by, and memory stays small."""
    session = addressed()
    session.send(b"BDAT 1000000 LAST\r\n")

    for _ in range(99):
        assert session.send(b"x" * 10_000) == ""
        assert session.machine.buffered == 0
        assert session.machine.is_receiving_content

    assert codes([session.send(b"x" * 10_000 + b"NOOP\r\n")]) == ["552 5.3.4", "250 2.0.0"]


@pytest.mark.parametrize(
    "line",
    ["BDAT", "BDAT ", "BDAT x", "BDAT -1", "BDAT +1", "BDAT 1_0", "BDAT 0x5", "BDAT 5 FIRST", "BDAT 5 LAST NOW",
     "BDAT  5", "BDAT 5  LAST", "BDAT LAST", "BDAT 100000000000000000000", "BDAT \u0665", "BDAT\t5", "BDAT5 LAST",
     "BDAT 5\r LAST", "BDAT 5 LAST\x00"],
)  # fmt: skip
@pytest.mark.parametrize("way", [(HELLO,), ADDRESSED])
def test_malformed_bdat_ends_the_session(way: tuple[str, ...], line: str) -> None:
    """Where the next command begins nobody knows, and a guess could make commands of a message."""
    session = addressed(way)

    said = session.send(line.encode() + b"\r\nMAIL FROM:<evil@b>\r\n")

    assert codes([said])[-1] == "421 4.7.0"
    assert codes([said])[0] in ("501 5.5.4", "500 5.5.2")
    assert session.events == [HangUp("BDAT that is malformed")]


def test_sloppy_but_clear_bdat_is_taken() -> None:
    """Case, leading zeros and trailing white space leave no doubt."""
    session = addressed()

    assert codes([session.send(b"bdat 0003\r\nabc"), session.send(b"BDAT 1 Last \t\r\nd")]) == ["250 2.0.0"] * 2
    assert session.content == b"abcd"


def test_empty_chunks_for_ever_end_the_session() -> None:
    """BDAT 0 moves nothing: it is a NOOP, and counted so."""
    session = addressed()

    said = session.say(*["BDAT 0"] * (JUNK_COMMANDS + 1))

    assert codes(said[-2:]) == ["250 2.0.0", "421 4.7.0"]
    assert isinstance(session.events[-1], HangUp)


@pytest.mark.parametrize("way", [(HELLO,), OPEN])
def test_refused_chunks_for_ever_end_the_session(way: tuple[str, ...]) -> None:
    """Each is an error or junk, whether its octets come or not."""
    session = addressed(way)

    for _ in range(JUNK_COMMANDS + 1):
        session.send(bdat(b"x"))

    assert session.machine.is_closed


def test_large_chunk_is_told_in_pieces_and_small_ones_together() -> None:
    """Memory holds one piece; a driver is not called for each octet."""
    session = addressed()
    for _ in range(30):
        session.send(bdat(b"x" * 1000))
    assert session.content == b""
    assert session.machine.buffered == 30_000
    session.send(b"BDAT 70000 LAST\r\n")
    for _ in range(70):
        session.send(b"y" * 1000)
        assert session.machine.buffered <= CONTENT_PIECE_OCTETS

    assert session.content == b"x" * 30_000 + b"y" * 70_000
    assert sum(isinstance(event, ContentReceived) for event in session.events) == 2
    assert session.machine.buffered == 0


UNFIT = [b"a\nb", b"a\rb", b"a\0b", b"\r", b"\n", b"a\r", b"\n.\n", b"a\r\r\nb", b"a\n\rb"]


@pytest.mark.parametrize("content", UNFIT)
def test_bare_newline_or_nul_in_a_chunk_is_refused_wherever_chunks_and_packets_are_cut(content: bytes) -> None:
    """What comes by BDAT may leave by DATA: the same octets are refused as there, across every boundary."""
    for cut in range(len(content) + 1):
        for is_whole in (True, False):
            session = addressed()
            stream = bdat(b"x\r\n" + content[:cut]) + bdat(content[cut:] + b"y", last=True)
            said = [session.send(stream)] if is_whole else [session.send(bytes([octet])) for octet in stream]
            assert "550 5.6.11" in codes([line for line in said if line])
            assert not session.machine.in_transaction


def test_crlf_may_fall_between_two_chunks() -> None:
    """Chunks are cut anywhere; a CRLF in two halves is a CRLF."""
    session = addressed()

    assert codes([session.send(bdat(b"a\r")), session.send(bdat(b"\nb\r\n", last=True))]) == ["250 2.0.0"] * 2
    assert session.content == b"a\r\nb\r\n"


def test_defect_is_told_at_the_end_of_its_chunk() -> None:
    """The client need not send the rest; whatever it pipelined is refused."""
    session = addressed()

    said = session.send(bdat(b"a\nb") + bdat(b"c", last=True) + b"RSET\r\n")

    assert codes([said]) == ["550 5.6.11", "503 5.5.1", "250 2.0.0"]
    assert [type(event) for event in session.events] == [BdatReceived, ContentEnded]
    assert session.machine.errors == 1


@pytest.mark.parametrize(
    "body", [b"\0\1\2", b"a\nb\rc\r", b"\r", b"\n.\n", b"\r\n.\r\n", bytes(range(256)), b"\r\n\r\n\n"]
)
@pytest.mark.parametrize("header", [b"", b"x: y\r\n", b"x: y\r\nz: 1\r\n 2\r\n"])
def test_binary_body_passes_as_it_is(header: bytes, body: bytes) -> None:
    """BODY=BINARYMIME: any octets behind the header section, however they are cut."""
    content = header + b"\r\n" + body
    for cut in range(len(content) + 1):
        session = addressed(BINARY)
        said = [session.send(bdat(content[:cut])), session.send(bdat(content[cut:], last=True))]
        assert codes(said) == ["250 2.0.0"] * 2
        assert session.content == content
    session = addressed(BINARY)
    for octet in bdat(content, last=True):
        session.send(bytes([octet]))
    assert session.content == content


@pytest.mark.parametrize(
    "content", [b"x: y\n\n", b"x: y\nz: 1\r\n\r\n", b"x\0: y\r\n\r\n", b"x: y\r", b"\n", b"\r\r\n\r\n"]
)
def test_binary_header_section_must_consist_of_lines(content: bytes) -> None:
    """A header with a bare newline reads as another message to every other reader."""
    for cut in range(len(content) + 1):
        session = addressed(BINARY)
        said = [session.send(bdat(content[:cut])), session.send(bdat(content[cut:], last=True))]
        assert any(code.startswith("550") for code in codes(said))
    session = addressed(BINARY)
    said = [session.send(bytes([octet])) for octet in bdat(content, last=True)]
    assert codes(said[-1:]) == ["550 5.6.11"]


def test_binary_content_is_not_taken_by_data() -> None:
    """RFC 3030 3: 503, and BDAT still works."""
    session = addressed(BINARY)

    assert codes([*session.say("DATA"), session.send(bdat(b"", last=True))]) == ["503 5.5.1", "250 2.0.0"]


def test_binary_of_one_transaction_does_not_outlive_it() -> None:
    """The next MAIL says what its content is."""
    session = addressed(BINARY)
    session.send(bdat(b"\r\n\0", last=True))

    said = session.say("MAIL FROM:<a@b>", "RCPT TO:<c@d>")
    assert isinstance(session.events[-2], MailReceived)
    assert session.events[-2].body is Body.SEVEN_BIT
    assert codes([*said, session.send(bdat(b"\r\n\0", last=True))])[-1] == "550 5.6.11"


def test_chunks_are_limited_in_number_by_nothing_but_their_octets() -> None:
    """Small chunks are slow, not forbidden, and their memory is that of their octets."""
    session = addressed()

    for _ in range(2000):
        session.send(bdat(b"x"))

    assert session.machine.buffered == 2000
    assert codes([session.send(bdat(b"", last=True))]) == ["250 2.0.0"]
    assert session.content == b"x" * 2000


def test_421_to_a_chunk_ends_the_session() -> None:
    """Nothing of what was pipelined is read."""
    session = addressed()
    machine = session.machine
    machine.receive(bdat(b"a") + bdat(b"b", last=True))
    machine.next_event()
    machine.next_event()
    refusal = reply(421, "4.3.2", "Shutting down")
    machine.reply(refusal)

    assert machine.next_event() == HangUp("told to close")
    assert machine.take_output() == refusal.encode()
    assert machine.buffered == 0
