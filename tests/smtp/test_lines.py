# SPDX-License-Identifier: MIT
"""Where a line ends and where content ends, however the octets arrive and whatever they try."""

import sys
import time
import tracemalloc
from itertools import accumulate, pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smarthost.smtp.limits import COMMAND_LINE_OCTETS, CONTENT_PIECE_OCTETS, DISCARD_OCTETS
from smarthost.smtp.lines import BARE_NEWLINE, NUL_OCTET, TOO_LARGE, ContentReader, Fault, InputBuffer

END = b"\r\n.\r\n"
PLENTY = 1 << 30


def lines(*chunks: bytes) -> list[bytes | Fault]:
    """Give all lines and faults, taking whatever is there after each chunk."""
    buffer = InputBuffer()
    taken: list[bytes | Fault] = []
    for chunk in chunks:
        buffer.append(chunk)
        while (line := buffer.take_line()) is not None:
            taken.append(line)
            if line is Fault.ENDLESS or line is Fault.TLS:  # the session ends here
                return taken
    return taken


def singly(octets: bytes) -> list[bytes]:
    return [octets[index : index + 1] for index in range(len(octets))]


class Read:
    """What came of reading chunks as content: the pieces, the defect, and the octets behind the end (None: no end)."""

    def __init__(self, *chunks: bytes, max_octets: int = PLENTY) -> None:
        reader = ContentReader(max_octets)
        self.pieces: list[bytes] = []
        self.rest: bytes | None = None
        self.most_held = 0
        for index, chunk in enumerate(chunks):
            end = reader.read(chunk, 0)
            piece = reader.take_piece() if end < 0 else reader.take_rest()
            if piece:
                self.pieces.append(piece)
            self.most_held = max(self.most_held, reader.held)
            if end >= 0:
                self.rest = chunk[end:] + b"".join(chunks[index + 1 :])
                break
        self.defect = reader.defect
        self.content = b"".join(self.pieces)


def test_only_crlf_ends_a_line() -> None:
    """Two CRLFs, two lines; an empty line is a line; what has no CRLF yet is none."""
    assert lines(b"NOOP\r\n\r\nQUI") == [b"NOOP", b""]
    assert lines(b"A\rB\r\n") == [b"A\rB"]
    assert lines(b"A\x0bB\x0cC\x1cD\x85E\xe2\x80\xa8F\r\n") == [b"A\x0bB\x0cC\x1cD\x85E\xe2\x80\xa8F"]


def test_crlf_split_over_chunks_ends_a_line() -> None:
    """TCP may cut anywhere."""
    assert lines(b"NOOP\r", b"\nNO", b"OP\r\n") == [b"NOOP", b"NOOP"]


@pytest.mark.parametrize(
    "text", [b"NOOP\nMAIL FROM:<a@b>\r\n", b"\n\r\n", b"A\n\n\nB\r\n", b"\nQUIT\r\n", b"A\n\r\r\n"]
)
def test_nothing_after_a_bare_lf_is_a_line(text: bytes) -> None:
    """The whole line is one fault, so that no command hides behind a newline that others may honour."""
    assert lines(text + b"NOOP\r\n") == [Fault.BARE_LF, b"NOOP"]
    assert lines(*singly(text + b"NOOP\r\n")) == [Fault.BARE_LF, b"NOOP"]


def test_bare_lf_is_told_before_the_line_ends() -> None:
    """Whoever types LF at us learns it at once and not at the timeout."""
    assert lines(b"EHLO me\n") == [Fault.BARE_LF]
    assert lines(b"EHLO me\n", b"QUIT\n", b"QUIT\n") == [Fault.BARE_LF]


def test_longest_line_is_taken_and_one_octet_more_is_not() -> None:
    """The limit counts the CRLF."""
    longest = b"x" * (COMMAND_LINE_OCTETS - 2)

    for cut in (list, singly):
        assert lines(*cut_up(longest + b"\r\nNOOP\r\n", cut)) == [longest, b"NOOP"]
        assert lines(*cut_up(longest + b"x\r\nNOOP\r\n", cut)) == [Fault.OVERLONG, b"NOOP"]


def cut_up(octets: bytes, how: object) -> list[bytes]:
    return singly(octets) if how is singly else [octets]


def test_overlong_line_may_be_as_long_as_what_is_thrown_away() -> None:
    """Beyond that the session ends, whether a CRLF comes or not."""
    room = b"x" * (DISCARD_OCTETS - 2)

    assert lines(room + b"\r\nNOOP\r\n") == [Fault.OVERLONG, b"NOOP"]
    assert lines(*[b"x" * 1000] * 65, b"x" * (DISCARD_OCTETS - 65_002), b"\r", b"\nNOOP\r\n") == [
        Fault.OVERLONG,
        b"NOOP",
    ]
    assert lines(room + b"x\r\nNOOP\r\n") == [Fault.OVERLONG, Fault.ENDLESS]
    assert lines(*[b"x" * 1000] * 70) == [Fault.OVERLONG, Fault.ENDLESS]
    assert lines(*[b"\n" * 1000] * 70) == [Fault.BARE_LF, Fault.ENDLESS]


def test_second_overlong_line_has_the_same_room_as_the_first() -> None:
    """What was thrown away of one line does not count against the next."""
    long = b"x" * (DISCARD_OCTETS - 2) + b"\r\n"

    assert lines(long, long, b"NOOP\r\n") == [Fault.OVERLONG, Fault.OVERLONG, b"NOOP"]
    assert lines(*[b"x" * 60_000, b"\r\n"] * 3) == [Fault.OVERLONG] * 3


def test_endless_line_keeps_no_more_than_was_given_at_once() -> None:
    """A megabyte without CRLF, read in small pieces, never piles up."""
    buffer = InputBuffer()
    most = 0

    for _ in range(1000):
        buffer.append(b"x" * 1000)
        if buffer.take_line() is Fault.ENDLESS:
            break
        most = max(most, len(buffer))

    assert most <= COMMAND_LINE_OCTETS + 1000


def test_tls_on_a_clear_text_port_is_noticed_at_its_second_octet() -> None:
    """A client that expects TLS from the start would otherwise wait for minutes."""
    assert lines(b"\x16\x03\x01\x02\x00\x01\x00") == [Fault.TLS]
    assert lines(b"\x16") == []


def test_octets_that_wait_are_counted() -> None:
    """The driver stops reading when too many wait."""
    buffer = InputBuffer()

    buffer.append(b"NOOP\r\nNO")
    buffer.append(b"OP\r\n")
    assert len(buffer) == 12
    assert buffer.take_line() == b"NOOP"
    assert len(buffer) == 6
    buffer.append(b"x")
    assert buffer.take_line() == b"NOOP"
    assert len(buffer) == 1
    buffer.clear()
    assert len(buffer) == 0
    assert buffer.take_line() is None


def test_idle_session_keeps_no_chunk_alive() -> None:
    """What was read is forgotten at once, not when the next octets come."""
    chunk = b"NOOP\r\n" * 1000
    before = sys.getrefcount(chunk)
    buffer = InputBuffer()

    buffer.append(chunk)
    while buffer.take_line() is not None:
        pass
    assert sys.getrefcount(chunk) == before
    buffer.append(chunk)
    octets, _ = buffer.unread()
    buffer.consume(len(octets))
    del octets
    assert sys.getrefcount(chunk) == before


LINE_OCTETS = st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b"NOOP", b"x" * 700, b"\x00", b" ", b"\x16\x03"]), max_size=40
).map(b"".join)


@given(LINE_OCTETS, st.lists(st.integers(1, 900), max_size=20))
def test_lines_do_not_depend_on_how_octets_are_cut(octets: bytes, sizes: list[int]) -> None:
    """Whatever TCP does, the same lines and the same faults come out in the same order."""
    at_once = lines(octets)
    chunks, at = [], 0
    for size in sizes:
        chunks.append(octets[at : at + size])
        at += size
    chunks.append(octets[at:])

    in_pieces = lines(*[chunk for chunk in chunks if chunk])

    if Fault.TLS not in at_once and Fault.TLS not in in_pieces:  # it ends the session, nothing after it counts
        assert in_pieces == at_once


def test_final_dot_alone_is_empty_content() -> None:
    """DATA's own CRLF begins the line on which the dot stands; no piece is given for nothing."""
    read = Read(b".\r\nQUIT\r\n")

    assert (read.pieces, read.defect, read.rest) == ([], None, b"QUIT\r\n")


@pytest.mark.parametrize(
    ("sent", "content"),
    [
        (b"a", b"a\r\n"),
        (b"a\r\n", b"a\r\n\r\n"),
        (b"", b"\r\n"),
        (b"..", b".\r\n"),
        (b"...", b"..\r\n"),
        (b".a", b"a\r\n"),
        (b". ", b" \r\n"),
        (b"a\r\n..", b"a\r\n.\r\n"),
        (b"a\r\n..\r\n..\r\n...b\r\n.c", b"a\r\n.\r\n.\r\n..b\r\nc\r\n"),
        (b"a.b\r\nc.", b"a.b\r\nc.\r\n"),
        (b"\r\n..\r\n", b"\r\n.\r\n\r\n"),
        (b"\x80\xff\x01\x7f", b"\x80\xff\x01\x7f\r\n"),
        (b"x" * 5000, b"x" * 5000 + b"\r\n"),
    ],
)
def test_dots_are_unstuffed_and_nothing_else_changes(sent: bytes, content: bytes) -> None:
    """RFC 5321 4.5.2, at once and octet by octet."""
    wire = sent + END + b"MAIL"

    for chunks in ([wire], singly(wire)):
        read = Read(*chunks)
        assert (read.pieces, read.defect, read.rest) == ([content], None, b"MAIL")


# facts/reliability.md 2.1: what at least one mail system has taken for the end of data.
BARE = [
    b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\n", b"\n.\r", b"\r.\r\n", b"\r\n.\rX", b"\r\n.\r\r\n",
    b"\r\r\n.\r\r\n", b"\n\n.\r\n",
]  # fmt: skip
WITH_NUL = [b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\r\n\0.\n", b"\r\n\0.\r"]
LEGAL = [
    b"\r\n .\r\n", b"\r\n. \r\n", b"\r\n..\r\n", b"\v.\v", b"\f.\f", b"\x1c.\x1c", b"\x85.\x85",
    "\u2028.\u2028".encode(),
]  # fmt: skip
SMUGGLED = b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nevil"


def test_all_variants_of_the_facts_are_here() -> None:
    """23 of them."""
    assert len({*BARE, *WITH_NUL, *LEGAL}) == 23


@pytest.mark.parametrize("variant", BARE + WITH_NUL)
def test_false_end_of_data_neither_ends_content_nor_passes(variant: bytes) -> None:
    """The message is read to its real end and refused there; what hides behind the false end is part of it."""
    wire = b"a" + variant + SMUGGLED + END + b"QUIT\r\n"

    for cut in range(len(wire)):
        read = Read(*[chunk for chunk in (wire[:cut], wire[cut:]) if chunk])
        assert (read.pieces, read.rest) == ([], b"QUIT\r\n")
        assert read.defect is (NUL_OCTET if variant in WITH_NUL[:2] else BARE_NEWLINE)


@pytest.mark.parametrize("variant", LEGAL)
def test_legal_lookalike_of_end_of_data_is_content(variant: bytes) -> None:
    """It arrives octet for octet, but for the stuffed dot."""
    wire = b"a" + variant + SMUGGLED + END + b"QUIT\r\n"
    content = (b"a" + variant + SMUGGLED).replace(b"\r\n.", b"\r\n") + b"\r\n"

    for cut in range(len(wire)):
        read = Read(*[chunk for chunk in (wire[:cut], wire[cut:]) if chunk])
        assert (read.pieces, read.defect, read.rest) == ([content], None, b"QUIT\r\n")


@pytest.mark.parametrize("text", [b"", b"a", b"a\r\n..", b"..", b"x" * 200_000, b"x" * 131_070 + b"\r\n..y"])
def test_end_of_data_is_found_wherever_it_is_cut(text: bytes) -> None:
    """At each boundary within CRLF . CRLF, in two chunks and in five."""
    wire = text + END
    expected = Read(wire).content

    for cut in range(1, 6):
        assert Read(wire[:-cut], wire[-cut:] + b"QUIT").content == expected
        assert Read(wire[:-cut], wire[-cut:] + b"QUIT").rest == b"QUIT"
    tail = singly(wire[-5:])
    assert Read(*[chunk for chunk in (wire[:-5], *tail) if chunk]).content == expected


def test_read_begins_in_the_middle_of_what_was_buffered() -> None:
    """Content that was pipelined behind DATA starts at an index."""
    reader = ContentReader(PLENTY)
    wire = b"DATA\r\nhello\r\n.\r\nQUIT\r\n"

    assert reader.read(wire, 6) == 16
    assert reader.take_rest() == b"hello\r\n"


def test_content_of_a_piece_comes_whole_and_larger_content_in_pieces() -> None:
    """The driver keeps a single piece in memory and writes several to a file."""
    line = b"x" * 62 + b"\r\n"
    small = line * (CONTENT_PIECE_OCTETS // 64)
    chunks = [small[at : at + 1000] for at in range(0, len(small), 1000)]
    large = [line * 100] * 100

    whole = Read(*chunks, b".\r", b"\nQUIT")
    pieces = Read(*large, b".\r\n")

    assert whole.pieces == [small]
    assert pieces.content == line * 10_000
    assert len(pieces.pieces) == 10_000 * 64 // 70_400 + 1
    assert all(len(piece) > CONTENT_PIECE_OCTETS for piece in pieces.pieces[:-1])
    assert pieces.most_held <= CONTENT_PIECE_OCTETS


def test_large_chunk_passes_without_a_copy() -> None:
    """What needs no change is handed on as it came."""
    chunk = b"x" * 100_000

    assert Read(chunk).pieces[0] is chunk
    assert Read(b"", chunk).pieces[0] is chunk


@pytest.mark.parametrize("head", [b"a" * CONTENT_PIECE_OCTETS, b".." + b"b\r\n.c" * 20_000])
@pytest.mark.parametrize("tail", [b"\r\n..d\r\n", b"\r\n.e", b"\r\n\r\n..", b"..", b"\r\n" * 3])
def test_pieces_may_be_cut_within_line_ends_and_stuffed_dots(head: bytes, tail: bytes) -> None:
    """Each cut around a line's end gives the same content as no cut."""
    wire = head + tail + END
    expected = Read(wire)

    assert expected.defect is None
    for cut in range(len(head) - 3, len(wire)):
        for step in (1, 2, 100_000):
            chunks = [wire[:cut], *[wire[at : at + step] for at in range(cut, len(wire), step)]]
            read = Read(*chunks)
            assert (read.content, read.defect, read.rest) == (expected.content, None, b"")


@pytest.mark.parametrize("bad", [b"\r", b"\n", b"\n\r", b"\0"])
def test_defect_in_a_late_piece_is_found_and_ends_the_pieces(bad: bytes) -> None:
    """Nothing is handed out from the bad piece on, but the end is still awaited."""
    good = b"x" * 70_000 + b"\r\n"

    read = Read(good, good + bad + good, good, b"QUIT\r\n.", b"\r\nQUIT")

    assert read.content == good
    assert read.defect is (NUL_OCTET if bad == b"\0" else BARE_NEWLINE)
    assert read.rest == b"QUIT"
    assert read.most_held <= CONTENT_PIECE_OCTETS


def test_cr_and_lf_in_different_pieces_are_a_line_end_and_not_two_defects() -> None:
    """A piece never ends between CR and LF; a CR at a piece's end that no LF follows is a defect all the same."""
    body = b"x" * 70_000

    assert Read(body + b"\r", b"\n" + body, END).defect is None
    assert Read(body + b"\r", b"y" + body, END).defect is BARE_NEWLINE
    assert Read(body, b"\n" + body, END).defect is BARE_NEWLINE
    assert Read(body + b"\r\n.", b"\n" + body, END).defect is BARE_NEWLINE
    assert Read(body + b"\r\n.\r", b"x" + body, END).defect is BARE_NEWLINE


@pytest.mark.parametrize("size", [1000, 200_000])
def test_largest_message_passes_and_one_octet_more_does_not(size: int) -> None:
    """Stuffed dots and the final dot do not count (RFC 1870 4)."""
    text = b"..\r\n" * 10 + b"x" * (size - 32)

    for step in (333, 1 << 20):
        wire = text + END
        chunks = [wire[at : at + step] for at in range(0, len(wire), step)]
        fits, exceeds = Read(*chunks, max_octets=size), Read(*chunks, max_octets=size - 1)
        assert (len(fits.content), fits.defect) == (size, None)
        assert (exceeds.defect, exceeds.rest) == (TOO_LARGE, b"")
        assert len(exceeds.content) < size


def test_content_without_end_keeps_memory_bounded() -> None:
    """Ten times the limit, and an endless line, two octets at a time: what waits stays below a piece."""
    read = Read(*[b"x" * 100_000] * 30, max_octets=300_000)
    assert read.defect is TOO_LARGE
    assert len(read.content) == 300_000
    assert read.most_held <= CONTENT_PIECE_OCTETS

    reader = ContentReader(PLENTY)
    tracemalloc.start()
    for number in range(33_000):
        reader.read(b"%c%c" % (32 + number % 90, 33 + number % 89), 0)
        reader.take_piece()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 5 * CONTENT_PIECE_OCTETS


def test_content_octet_by_octet_takes_linear_time() -> None:
    """Four times the octets take about four times the time; a search that began anew each time would take sixteen."""

    def took(octets: int) -> float:
        chunks = singly((b"x" * 62 + b"\r\n") * (octets // 64) + b".\r\n")
        start = time.perf_counter()
        assert Read(*chunks).rest == b""
        return time.perf_counter() - start

    assert min(took(60_000) for _ in range(3)) < 10 * min(took(15_000) for _ in range(3))


def reference(wire: bytes) -> tuple[bytes | None, bytes]:
    """Read content slowly and plainly: None if it is unfit."""
    text, _, rest = (b"\r\n" + wire).partition(END)
    text += b"\r\n"
    unstuffed = text.replace(b"\r\n.", b"\r\n")[2:]
    stray = text.replace(b"\r\n", b"")
    return (None if b"\r" in stray or b"\n" in stray or b"\0" in stray else unstuffed), rest


@given(
    st.lists(st.sampled_from([b"\r\n", b"\r\n.", b".", b"\r", b"\n", b"a", b"\0", b"..", b"x" * 40_000]), max_size=14),
    st.lists(st.integers(1, 50_000) | st.integers(1, 4), max_size=30),
)
@example([b"..", b"x" * 40_000, b"x" * 40_000, b"\r\n.", b".", b"\r\n"], [80_000, 3, 1, 1, 1])
def test_content_does_not_depend_on_how_octets_are_cut(parts: list[bytes], sizes: list[int]) -> None:
    """Any content in any chunks is what a plain reading of RFC 5321 4.5.2 gives."""
    wire = b"".join(parts) + END + b"QUIT"
    expected, rest = reference(wire)
    chunks, at = [], 0
    for size in sizes:
        chunks.append(wire[at : at + size])
        at += size
    chunks.append(wire[at:])

    read = Read(*[chunk for chunk in chunks if chunk])

    assert read.rest == rest
    assert (read.defect is None) == (expected is not None)
    if expected is not None:
        assert read.content == expected


@given(
    st.lists(st.sampled_from([b"\r\n", b"\r\n.", b".", b"..", b"a", b"bcdefgh", b"\r", b"\n", b"\0"]), max_size=25).map(
        b"".join
    ),
    st.lists(st.integers(1, 9), max_size=60),
)
def test_content_is_the_same_wherever_its_pieces_are_cut(text: bytes, sizes: list[int]) -> None:
    """With pieces of some six octets every boundary falls everywhere."""
    wire = text + END + b"QUIT"
    expected, rest = reference(wire)
    ends = [*accumulate(sizes), len(wire)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smarthost.smtp.lines.CONTENT_PIECE_OCTETS", 6)
        read = Read(*[chunk for start, end in pairwise([0, *ends]) if (chunk := wire[start:end])])

    assert read.rest == rest
    assert (read.defect is None) == (expected is not None)
    assert expected is None or read.content == expected
