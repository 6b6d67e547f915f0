# SPDX-License-Identifier: MIT
"""What peers say, well formed and not, becomes clean replies or one clear error."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smarthost.mail.errors import LocalProtocolError, RemoteProtocolError
from smarthost.mail.reply import Reply
from smarthost.smtp.replies import LINE_OCTETS, REPLY_LINES, REPLY_OCTETS, UNREAD_OCTETS, ReplyParser


def parse(chunks: Iterable[bytes]) -> list[Reply]:
    parser = ReplyParser()
    replies = []
    for chunk in chunks:
        parser.feed(chunk)
        while (reply := parser.next_reply()) is not None:
            replies.append(reply)
    return replies


def outcome(*chunks: bytes) -> tuple[list[Reply], str]:
    """Give the replies up to the error, and the error."""
    parser = ReplyParser()
    replies: list[Reply] = []
    try:
        for chunk in chunks:
            parser.feed(chunk)
            while (reply := parser.next_reply()) is not None:
                replies.append(reply)
    except RemoteProtocolError as error:
        return replies, str(error)
    return replies, ""


WELL_FORMED = [
    pytest.param(b"250 Ok\r\n", Reply(250, "", ("Ok",)), id="plain"),
    pytest.param(b"250\r\n", Reply(250, "", ("",)), id="code-only"),
    pytest.param(b"250 \r\n", Reply(250, "", ("",)), id="code-and-space"),
    pytest.param(b"250 Ok\n", Reply(250, "", ("Ok",)), id="bare-line-feed"),
    pytest.param(b"250 2.1.0 Ok\r\n", Reply(250, "2.1.0", ("Ok",)), id="enhanced"),
    pytest.param(b"250 2.1.0\r\n", Reply(250, "2.1.0", ("",)), id="enhanced-without-text"),
    pytest.param(b"550 5.7.509 No\r\n", Reply(550, "5.7.509", ("No",)), id="enhanced-three-digits"),
    pytest.param(b"550 4.1.1 No\r\n", Reply(550, "", ("4.1.1 No",)), id="enhanced-of-another-class"),
    pytest.param(b"354 3.0.0 Go\r\n", Reply(354, "", ("3.0.0 Go",)), id="no-enhanced-class-3"),
    pytest.param(b"250 2.01.0 Ok\r\n", Reply(250, "", ("2.01.0 Ok",)), id="leading-zero"),
    pytest.param(b"250 2.1 Ok\r\n", Reply(250, "", ("2.1 Ok",)), id="two-parts"),
    pytest.param(b"250 2.1.0.0 Ok\r\n", Reply(250, "", ("2.1.0.0 Ok",)), id="four-parts"),
    pytest.param(b"250 2.1.1000 Ok\r\n", Reply(250, "", ("2.1.1000 Ok",)), id="four-digits"),
    pytest.param("250 2.1.٣ Ok\r\n".encode(), Reply(250, "", ("2.1.٣ Ok",)), id="digits-of-another-script"),
    pytest.param(b"250-a\r\n250-\r\n250 c\r\n", Reply(250, "", ("a", "", "c")), id="multi-line"),
    pytest.param(b"250-a\r\n250\r\n", Reply(250, "", ("a", "")), id="multi-line-ended-by-code-only"),
    pytest.param(b"550-5.7.1 a\r\n550 5.7.1 b\r\n", Reply(550, "5.7.1", ("a", "b")), id="enhanced-on-each-line"),
    pytest.param(b"550-5.7.1 a\r\n550 b\r\n", Reply(550, "5.7.1", ("a", "b")), id="enhanced-on-the-first-line"),
    pytest.param(b"550-5.7.1 a\r\n550 5.1.1 b\r\n", Reply(550, "5.7.1", ("a", "5.1.1 b")), id="enhanced-that-differ"),
    pytest.param(b"599 x\r\n", Reply(599, "", ("x",)), id="unknown-code"),
]


@pytest.mark.parametrize(("octets", "expected"), WELL_FORMED)
def test_well_formed_reply_is_understood(octets: bytes, expected: Reply) -> None:
    """Every shape of reply that real hosts send is read as what it means."""
    assert parse([octets]) == [expected]


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"hello\r\n", id="no-code"),
        pytest.param(b"\r\n", id="empty-line"),
        pytest.param(b"25\r\n", id="two-digits"),
        pytest.param(b"2500 x\r\n", id="four-digits"),
        pytest.param(b"150 x\r\n", id="1yz"),
        pytest.param(b"600 x\r\n", id="6yz"),
        pytest.param(b"250+x\r\n", id="plus"),
        pytest.param(b" 250 x\r\n", id="leading-space"),
        pytest.param("٢٥٠ x\r\n".encode(), id="digits-of-another-script"),
        pytest.param(b"\x00\x01\x02\r\n", id="binary"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n", id="http"),
        pytest.param(b"250-a\r\n550 b\r\n", id="mismatched-codes"),
        pytest.param(b"250-a\r\nb\r\n", id="garbage-within"),
    ],
)
def test_malformed_reply_is_an_error(octets: bytes) -> None:
    """What is no SMTP reply ends the session with an error that shows it, escaped."""
    replies, error = outcome(octets)

    assert replies == []
    assert error
    assert error.isprintable()


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        pytest.param(b"550 a\x1b[31mb\r\n", "a\ufffd[31mb", id="ansi"),
        pytest.param(b"550 a\x00b\r\n", "a\ufffdb", id="nul"),
        pytest.param(b"550 a\rb\r\n", "a\ufffdb", id="bare-cr"),
        pytest.param(b"550 a\tb\r\n", "a b", id="tab"),
        pytest.param(b"550 a\xffb\r\n", "a\ufffdb", id="invalid-utf8"),
        pytest.param("550 a\u2028b\u202eb\x85\r\n".encode(), "a\ufffdb\ufffdb\ufffd", id="separators-and-overrides"),
        pytest.param("550 größe\r\n".encode(), "größe", id="utf8-stays"),
    ],
)
def test_text_is_made_printable(octets: bytes, text: str) -> None:
    """A host's text can move no cursor and forge no line in logs, records or reports."""
    assert parse([octets]) == [Reply(550, "", (text,))]


def test_replies_that_arrive_together_come_out_one_by_one() -> None:
    """The replies to a pipelined group are told apart."""
    assert [reply.code for reply in parse([b"250 a\r\n550-b\r\n550 c\r\n354 d\r\n"])] == [250, 550, 354]


def test_endless_multi_line_reply_is_an_error() -> None:
    """A host that never ends a reply costs bounded memory."""
    replies, error = outcome(*[b"250-x\r\n"] * (REPLY_LINES + 1))

    assert replies == []
    assert "lines" in error
    assert parse([b"250-x\r\n" * (REPLY_LINES - 1) + b"250 x\r\n"])[0].lines == ("x",) * REPLY_LINES


def test_fat_multi_line_reply_is_an_error() -> None:
    """Long lines count as well as many lines."""
    line = b"250-" + b"x" * (LINE_OCTETS - 4) + b"\r\n"

    assert outcome(line * (REPLY_OCTETS // LINE_OCTETS))[1] == ""
    assert "octets" in outcome(line * (REPLY_OCTETS // LINE_OCTETS + 1))[1]


def test_limits_count_anew_with_each_reply() -> None:
    """A session may hear any number of long replies."""
    reply = (b"250-" + b"x" * 4000 + b"\r\n") * 15 + b"250 x\r\n"

    assert [len(each.lines) for each in parse([reply] * 5)] == [16] * 5


@pytest.mark.parametrize("end", [b"", b"\r\n"])
def test_line_too_long_is_an_error(end: bytes) -> None:
    """A line without end is given up on, whether its end ever comes or not."""
    assert "line" in outcome(b"250 " + b"x" * LINE_OCTETS + end)[1]
    assert outcome(b"250 " + b"x" * (LINE_OCTETS - 4) + end)[1] == ""


def test_gigabyte_line_is_given_up_after_few_kilobytes() -> None:
    """The parser stops at the first chunk that goes beyond the limit, not at the end of the line."""
    fed = 0

    def gigabyte() -> Iterator[bytes]:
        nonlocal fed
        while fed < 1 << 30:
            fed += 1000
            yield b"x" * 1000

    with pytest.raises(RemoteProtocolError):
        parse(gigabyte())

    assert fed <= LINE_OCTETS + 1000


def test_feeding_without_taking_is_our_bug() -> None:
    """Memory is bounded even when a driver forgets to ask for replies."""
    parser = ReplyParser()

    parser.feed(b"250 x\r\n" * (UNREAD_OCTETS // 7 + 1))

    with pytest.raises(LocalProtocolError):
        parser.feed(b"2")


def test_has_buffered_sees_octets_and_half_replies() -> None:
    """Whatever the host said beyond its last reply is noticed, so that TLS does not begin on top of it."""
    parser = ReplyParser()
    seen = [parser.has_buffered]
    for chunk in (b"220 go\r\n", b"2", b"50-x\r\n", b"250 y\r\n"):
        parser.feed(chunk)
        seen.append(parser.has_buffered)
        parser.next_reply()
        seen.append(parser.has_buffered)

    assert seen == [False, True, False, True, True, True, True, True, False]


REPLYISH = st.lists(
    st.one_of(
        st.binary(max_size=30),
        st.sampled_from(
            [b"250 Ok\r\n", b"250-", b"250 ", b"\r\n", b"\n", b"\r", b"2.1.0 ", b"550", b"5.1.1", b"\x1b[2J"]
        ),
    ),
    max_size=12,
).map(b"".join)


@given(REPLYISH)
@example(b"250 2.\r\n")
@example(b"250 2..\r\n")
def test_any_octets_give_clean_replies_or_a_protocol_error(octets: bytes) -> None:
    """No octets of a host can make the parser fail in another way, or let a control character through."""
    for reply in outcome(octets)[0]:
        assert 200 <= reply.code <= 599
        assert reply.lines
        assert all(line.isprintable() for line in reply.lines)
        assert not reply.enhanced or int(reply.enhanced[0]) == reply.code // 100


@given(REPLYISH, st.lists(st.integers(0, 60), max_size=8))
def test_cuts_do_not_matter(octets: bytes, cuts: list[int]) -> None:
    """Byte by byte, all at once, or cut anywhere: the same replies, then the same error."""
    places = [0, *sorted(cuts), len(octets)]
    pieces = [octets[a:b] for a, b in pairwise(places)]

    assert outcome(*[octets[i : i + 1] for i in range(len(octets))]) == outcome(octets) == outcome(*pieces)


@given(
    st.integers(200, 599),
    st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=20), min_size=1, max_size=5),
)
def test_what_we_encode_we_read_back(code: int, lines: list[str]) -> None:
    """A reply of ours, read by our own client, says the same."""
    enhanced = f"{code // 100}.7.1" if code // 100 != 3 else ""
    reply = Reply(code, enhanced, tuple(lines))

    assert parse([reply.encode()]) == [reply]
