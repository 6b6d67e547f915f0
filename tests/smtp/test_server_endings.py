# SPDX-License-Identifier: MIT
"""Where content ends: at CRLF "." CRLF, or where BDAT's count says; at nothing that anybody ever took for it."""

import pytest
from tests.smtp.server_session import ADDRESSED, SETTINGS, Session, codes

from smarthost.smtp.limits import CONTENT_PIECE_OCTETS
from smarthost.smtp.server import ServerSettings
from smarthost.smtp.wire import ContentEnded, MailReceived

NORMALISING = ServerSettings(hostname="mx.example.org", max_octets=1_000_000, max_recipients=100, max_errors=5,
                             normalises_newlines=True)  # fmt: skip
LARGE = ServerSettings(hostname="mx.example.org", max_octets=1_000_000, max_recipients=100, max_errors=5)
SMUGGLED = b"MAIL FROM:<admin@d>\r\nRCPT TO:<c@d>\r\nDATA\r\nevil\r\n"

# Each may stand where the data could end; what scanners for SMTP smuggling send, and what str.splitlines() splits at.
REFUSED = [
    b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\n", b"\n.\r", b"\r.\r\n", b"\r\n.\rX", b"\r\n.\r\r\n",
    b"\r\r\n.\r\r\n", b"\n\n.\r\n", b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\r\n\0.\n", b"\r\n\0.\r",
]  # fmt: skip
LEGAL = [
    b"\r\n .\r\n", b"\r\n. \r\n", b"\r\n..\r\n", b"\v.\v", b"\f.\f", b"\x1c.\x1c", "\x85.\x85".encode(),
    "\u2028.\u2028".encode(),
]  # fmt: skip
VARIANTS = REFUSED + LEGAL


def begin(settings: ServerSettings = LARGE) -> Session:
    session = Session(settings)
    session.say(*ADDRESSED)
    session.events.clear()
    return session


def check_is_one_message(session: Session, said: list[str], variant: bytes) -> None:
    answers = codes([line for line in said if line])
    assert answers == ["550 5.6.11" if variant in REFUSED else "250 2.0.0"]
    assert sum(isinstance(event, ContentEnded) for event in session.events) == 1
    assert not any(isinstance(event, MailReceived) for event in session.events)


def test_table_has_all_variants() -> None:
    """Nine of one scanner, ten of another, eleven of a third, and more: twenty-three in all."""
    assert len(set(VARIANTS)) == 23


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_variant_ends_data_early(variant: bytes) -> None:
    """In one packet or octet by octet, the commands behind it are content: refused with it, or taken as text."""
    stream = b"x" + variant + SMUGGLED + b".\r\n"

    for chunks in ([stream], [stream[at : at + 1] for at in range(len(stream))]):
        session = begin()
        session.say("DATA")
        check_is_one_message(session, [session.send(chunk) for chunk in chunks], variant)
        if variant in LEGAL:
            assert session.content == b"x" + variant.replace(b"\r\n.", b"\r\n") + SMUGGLED


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_variant_ends_data_early_where_a_packet_ends_within_it(variant: bytes) -> None:
    """Every cut of every variant."""
    stream = b"x" + variant + SMUGGLED + b".\r\n"

    for cut in range(1, len(variant) + 6):
        session = begin()
        session.say("DATA")
        check_is_one_message(session, [session.send(stream[:cut]), session.send(stream[cut:])], variant)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_variant_ends_data_early_where_a_piece_ends_within_it(variant: bytes) -> None:
    """The limit of what is kept in memory falls on each of its octets, in packets as a socket gives them."""
    for shift in range(len(variant) + 2):
        stream = b"x" * (CONTENT_PIECE_OCTETS + 1 - shift) + variant + SMUGGLED + b".\r\n"
        for size in (CONTENT_PIECE_OCTETS, CONTENT_PIECE_OCTETS + 1, 4096):
            session = begin()
            session.say("DATA")
            said = [session.send(stream[at : at + size]) for at in range(0, len(stream), size)]
            check_is_one_message(session, said, variant)


def test_line_longer_than_a_read_cannot_end_data_at_the_next_one() -> None:
    """A buffer that begins with dot CRLF is not a line that does."""
    session = begin()
    session.say("DATA")

    said = [session.send(b"x" * 200_000), session.send(b".\r\n" + SMUGGLED), session.send(b".\r\n")]

    check_is_one_message(session, said, LEGAL[0])
    assert session.content == b"x" * 200_000 + b".\r\n" + SMUGGLED


def test_real_end_is_found_wherever_packets_are_cut() -> None:
    """CRLF "." CRLF in two or three packets is the end all the same, and what follows is a command."""
    stream = b"x\r\n.\r\nNOOP\r\n"

    for first in range(1, 7):
        for second in range(first, 8):
            session = begin()
            session.say("DATA")
            said = [session.send(part) for part in (stream[:first], stream[first:second], stream[second:]) if part]
            assert codes([line for line in said if line]) == ["250 2.0.0", "250 2.0.0"]
            assert session.content == b"x\r\n"


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_variant_ends_a_chunk_early(variant: bytes) -> None:
    """BDAT counts: the same octets are content, refused where DATA refuses them, and dots stay as they are."""
    content = b"x" + variant + SMUGGLED + b".\r\n"
    stream = b"BDAT %d LAST\r\n%b" % (len(content), content)

    for chunks in ([stream], [stream[at : at + 1] for at in range(len(stream))]):
        session = begin()
        check_is_one_message(session, [session.send(chunk) for chunk in chunks], variant)
        if variant in LEGAL:
            assert session.content == content


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_variant_ends_a_chunk_early_where_a_piece_ends_within_it(variant: bytes) -> None:
    """Judged octet by octet as it comes, whatever is given out meanwhile."""
    for shift in range(len(variant) + 2):
        content = b"x" * (CONTENT_PIECE_OCTETS + 1 - shift) + variant + SMUGGLED
        session = begin()
        said = [session.send(b"BDAT %d LAST\r\n" % len(content))]
        said += [session.send(content[at : at + 4096]) for at in range(0, len(content), 4096)]
        check_is_one_message(session, said, variant)


@pytest.mark.parametrize("variant", VARIANTS)
def test_normalising_never_moves_the_end_and_leaves_no_bare_newline(variant: bytes) -> None:
    """Old appliances: their newlines become CRLF; a smuggled message stays text, and NUL is refused as ever."""
    stream = b"x" + variant + SMUGGLED + b".\r\n"

    for chunks in ([stream], [stream[at : at + 1] for at in range(len(stream))]):
        session = begin(NORMALISING)
        session.say("DATA")
        said = [session.send(chunk) for chunk in chunks]
        assert codes([line for line in said if line]) == ["550 5.6.11" if b"\0" in variant else "250 2.0.0"]
        assert not any(isinstance(event, MailReceived) for event in session.events)
        assert b"\r" not in session.content.replace(b"\r\n", b"")
        assert b"\n" not in session.content.replace(b"\r\n", b"")
        assert session.content.endswith(b"\r\nevil\r\n") or b"\0" in variant


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"a\nb\n\nc\r\n", b"a\r\nb\r\n\r\nc\r\n"),
        (b"a\rb\r\n", b"a\r\nb\r\n"),
        (b"a\r\r\n", b"a\r\n\r\n"),
        (b"a\n\rb\r\n", b"a\r\n\r\nb\r\n"),
        (b"a\n..b\r\n", b"a\r\n.b\r\n"),
        (b"\n\r\n", b"\r\n\r\n"),
    ],
)
def test_normalised_content_is_the_same_however_it_is_cut(sent: bytes, kept: bytes) -> None:
    """One newline is one newline, and a line that begins with a dot had it doubled, whichever newline came before."""
    for cut in range(len(sent) + 1):
        session = begin(NORMALISING)
        session.say("DATA")
        session.send(sent[:cut])
        session.send(sent[cut:] + b".\r\n")
        assert session.content == kept


def test_normalised_content_is_the_same_where_a_piece_ends_within_a_newline() -> None:
    """A CR at the end of a piece waits for what follows it."""
    for newline in (b"\n", b"\r", b"\r\n", b"\r\r\n", b"\n.."):
        for shift in range(5):
            start = b"x" * (CONTENT_PIECE_OCTETS + 1 - shift)
            session = begin(NORMALISING)
            session.say("DATA")
            stream = start + newline + b"y\r\n.\r\n"
            for at in range(0, len(stream), CONTENT_PIECE_OCTETS + 1):
                session.send(stream[at : at + CONTENT_PIECE_OCTETS + 1])
            lines = {b"\r\r\n": b"\r\n\r\n", b"\n..": b"\r\n."}.get(newline, b"\r\n")
            assert session.content == start + lines + b"y\r\n"


def test_content_that_outgrows_the_limit_by_normalising_is_too_large() -> None:
    """What is stored is what counts."""
    session = Session(ServerSettings("mx", SETTINGS.max_octets, 100, 5, normalises_newlines=True))
    session.say(*ADDRESSED, "DATA")

    assert codes([session.send(b"\n" * 60_000 + b"\r\n.\r\n")]) == ["552 5.3.4"]


def test_chunks_are_never_normalised() -> None:
    """No appliance that old speaks BDAT, and who counts his octets means them."""
    session = begin(NORMALISING)

    assert codes([session.send(b"BDAT 3 LAST\r\na\nb")]) == ["550 5.6.11"]
