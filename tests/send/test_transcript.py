# SPDX-License-Identifier: MIT
"""Transcripts are short, readable, and never show a password."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smarthost.send.transcript import LINE_CHARACTERS, MOST_CHARACTERS, MOST_LINES, Transcript


def test_both_sides_and_notes_in_order() -> None:
    """A session reads as it went."""
    transcript = Transcript()
    transcript.heard(b"220 mx.example\r\n")
    transcript.sent(b"EHLO relay\r\n")
    transcript.heard(b"250-mx.example\r\n250 PIPELINING\r\n")
    transcript.note("content, 5120 octets")

    assert transcript.lines() == (
        "< 220 mx.example",
        "> EHLO relay",
        "< 250-mx.example",
        "< 250 PIPELINING",
        "* content, 5120 octets",
    )


def test_unfinished_line_is_shown() -> None:
    """What a host was saying when it fell silent is evidence."""
    transcript = Transcript()
    transcript.heard(b"220 mx.exa")

    assert transcript.lines() == ("< 220 mx.exa",)
    transcript.heard(b"mple\r\n")
    assert transcript.lines() == ("< 220 mx.example",)


@pytest.mark.parametrize(
    ("octets", "shown"),
    [
        (b"220 \x1b[31mred\r\n", "< 220 \\x1b[31mred"),
        (b"220 a\x00b\tc\r\n", "< 220 a\\x00b\\tc"),
        (b"220 a\rb\r\n", "< 220 a\\rb"),
        (b"220 \xff\r\n", "< 220 \\xff"),
        ("220 größe\r\n".encode(), "< 220 größe"),
        ("220 a\u2028\u202eb\r\n".encode(), "< 220 a\\u2028\\u202eb"),
        (b"220 a\nforged\r\n", "< 220 a"),
    ],
)
def test_control_characters_are_escaped(octets: bytes, shown: str) -> None:
    """Nothing a host says can forge a line or move a cursor where a transcript is read."""
    transcript = Transcript()
    transcript.heard(octets)

    assert transcript.lines()[0] == shown


def test_auth_plain_shows_its_mechanism_only() -> None:
    """The operator sees that and how we authenticated, never with what."""
    transcript = Transcript()
    transcript.sent(b"AUTH PLAIN AHVzZXIAc2VjcmV0\r\n")
    transcript.heard(b"235 2.7.0 ok\r\n")
    transcript.sent(b"MAIL FROM:<a@b>\r\n")

    assert transcript.lines() == ("> AUTH PLAIN ***", "< 235 2.7.0 ok", "> MAIL FROM:<a@b>")


def test_auth_login_shows_no_answer() -> None:
    """The answers to the host's questions are hidden until it has decided."""
    transcript = Transcript()
    transcript.sent(b"auth login\r\n")
    transcript.heard(b"334 VXNlcm5hbWU6\r\n")
    transcript.sent(b"dXNlcg==\r\n")
    transcript.heard(b"334 UGFzc3dvcmQ6\r\n")
    transcript.sent(b"c2VjcmV0\r\n")
    transcript.heard(b"535 5.7.8 no\r\n")
    transcript.sent(b"QUIT\r\n")

    assert transcript.lines() == (
        "> auth login ***",
        "< 334 VXNlcm5hbWU6",
        "> ***",
        "< 334 UGFzc3dvcmQ6",
        "> ***",
        "< 535 5.7.8 no",
        "> QUIT",
    )


SECRET_SESSION = [
    (">", b"EHLO relay\r\n"),
    ("<", b"250 AUTH LOGIN PLAIN\r\n"),
    (">", b"AUTH LOGIN\r\n"),
    ("<", b"334 VXNlcm5hbWU6\r\n"),
    (">", b"U0VDUkVUMQ==\r\n"),
    ("<", b"334 UGFzc3dvcmQ6\r\n"),
    (">", b"U0VDUkVUMg==\r\n"),
    ("<", b"535 no\r\n"),
    (">", b"AUTH PLAIN U0VDUkVUMw==\r\n"),
    ("<", b"235 ok\r\n"),
    (">", b"MAIL FROM:<a@b>\r\n"),
]


@given(
    st.lists(st.lists(st.integers(1, 20), max_size=3), min_size=11, max_size=11),
    st.integers(0, 11),
    st.integers(0, 400),
)
def test_no_cut_and_no_flood_shows_a_secret(cuts: list[list[int]], noise_at: int, noise: int) -> None:
    """However octets are cut, and however much else was said before, answers to AUTH stay hidden."""
    transcript = Transcript()
    tell: dict[str, Callable[[bytes], None]] = {">": transcript.sent, "<": transcript.heard}
    shown = ""
    for index, (side, octets) in enumerate(SECRET_SESSION):
        if index == noise_at:
            for _ in range(noise):
                transcript.note("noise " * 20)
        places = [0, *sorted(cuts[index]), len(octets)]
        for a, b in pairwise(places):
            tell[side](octets[a:b])
            if noise % 3 == 0:
                shown += "\n".join(transcript.lines())
    shown += "\n".join(transcript.lines())

    assert "U0VD" not in shown
    assert "MAIL FROM:<a@b>" in shown


def test_long_session_keeps_its_beginning_and_its_end() -> None:
    """The greeting and the last words are what an operator needs."""
    transcript = Transcript()
    for n in range(10_000):
        transcript.heard(b"250 line %d\r\n" % n)

    lines = transcript.lines()

    assert lines[0] == "< 250 line 0"
    assert lines[-1] == "< 250 line 9999"
    assert f"* {10_000 - MOST_LINES} lines left out" in lines
    assert len(lines) == MOST_LINES + 1


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=3000)), max_size=60))
def test_bounds_hold_whatever_is_said(pieces: list[tuple[bool, bytes]]) -> None:
    """No flood makes a transcript long, or unprintable."""
    transcript = Transcript()
    for ours, octets in pieces:
        (transcript.sent if ours else transcript.heard)(octets * 10)

    lines = transcript.lines()

    assert len(lines) <= MOST_LINES + 3
    assert sum(map(len, lines)) <= MOST_CHARACTERS + 3 * (LINE_CHARACTERS + 10)
    assert all(line.isprintable() for line in lines)


def test_endless_line_takes_bounded_memory() -> None:
    """A host that never ends its line does not fill our memory."""
    transcript = Transcript()
    for _ in range(2000):
        transcript.heard(b"x" * 10_000)

    assert sum(len(octets) for _, octets in transcript._pieces) + len(transcript._partial["<"]) <= 60_000
    (line,) = transcript.lines()
    assert len(line) <= LINE_CHARACTERS + 10


def test_silent_chatter_takes_bounded_memory() -> None:
    """Many tiny pieces are not kept as such."""
    transcript = Transcript()
    for _ in range(10_000):
        transcript.heard(b"\n")

    assert len(transcript._pieces) <= 300


def test_long_lines_count_more_than_short_ones() -> None:
    """The bound on characters holds where the one on lines does not, and the order stays."""
    transcript = Transcript()
    for n in range(1000):
        transcript.heard(b"%04d " % n + b"x" * (400 if n % 3 else 0) + b"\n")

    lines = transcript.lines()

    assert sum(map(len, lines)) <= MOST_CHARACTERS + 100
    numbers = [line[2:6] for line in lines if line.startswith("<")]
    assert numbers == sorted(numbers)
    assert (numbers[0], numbers[-1]) == ("0000", "0999")


def test_order_is_kept_where_the_beginning_is_full() -> None:
    """A short line does not slip in among the first ones ahead of a long one that came before it."""
    transcript = Transcript()
    for n in range(25):
        transcript.heard(b"%04d " % n + b"x" * (400 if n != 23 else 0) + b"\n")

    assert [line[2:6] for line in transcript.lines()] == [f"{n:04}" for n in range(25)]


def test_a_transaction_is_told_with_the_set_up_and_without_those_before() -> None:
    """Of a session that served a hundred messages, how it began and what went wrong is what somebody reads."""
    transcript = Transcript()
    transcript.heard(b"220 mx\r\n")
    transcript.sent(b"EHLO relay\r\nAUTH PLAIN c2VjcmV0\r\n")
    transcript.heard(b"235 in\r\n")
    for number in range(3):
        transcript.begin_transaction()
        transcript.sent(b"MAIL FROM:<%d@x>\r\n" % number)
        transcript.heard(b"250 %d\r\n" % number)

    assert ("< 220 mx", "> EHLO relay", "> AUTH PLAIN ***", "< 235 in", "> MAIL FROM:<2@x>", "< 250 2") == (
        transcript.lines()
    )


def test_many_transactions_take_no_more_memory_than_one() -> None:
    """What is kept of a session does not grow with what it does."""
    transcript = Transcript()
    transcript.heard(b"220 mx\r\n")
    for _ in range(10_000):
        transcript.begin_transaction()
        transcript.heard(b"250 ok\r\n" * 20)

    assert 21 == len(transcript.lines())


def test_a_long_transaction_is_cut_and_forgotten_with_the_next() -> None:
    """Ten thousand replies leave room for the next message's."""
    transcript = Transcript()
    transcript.heard(b"220 mx\r\n")
    transcript.begin_transaction()
    transcript.heard(b"250 ok\r\n" * 10_000)
    transcript.begin_transaction()
    transcript.heard(b"550 no\r\n")

    assert "< 550 no" == transcript.lines()[-1]
    assert len(transcript.lines()) <= MOST_LINES + 2


@pytest.mark.parametrize(
    "said",
    [
        b"501 5.5.4 what is AUTH PLAIN AHVzZXIAc2VjcmV0\r\n",
        b"501-5.5.4 what is AUTH PLAIN AHVz\r\n501 5.5.4 c2VjcmV0\r\n",
        b"AUTH PLAIN AHVzZXIAc2VjcmV0\r\n",
        b"334 AHVzZXIAc2VjcmV0\r\n",
        b"535 5.7.8 the password is not 'secret'\r\n",
        b"535 5.7.8 the password is not 'secret",
    ],
)
def test_a_host_that_says_the_password_back_is_not_quoted(said: bytes) -> None:
    """Of such answers to AUTH the codes are kept."""
    transcript = Transcript()
    transcript.sent(b"AUTH PLAIN AHVzZXIAc2VjcmV0\r\n")
    transcript.heard(said)

    assert not any(each in line for line in transcript.lines() for each in ("AHVz", "c2Vj", "secret"))


def test_a_short_password_is_not_quoted_either() -> None:
    """Whoever logs in with four characters has them hidden all the same."""
    transcript = Transcript()
    transcript.sent(b"AUTH LOGIN\r\n")
    transcript.heard(b"334 VXNlcm5hbWU6\r\n")
    transcript.sent(b"bWU=\r\n")
    transcript.heard(b"334 UGFzc3dvcmQ6\r\n")
    transcript.sent(b"cHEzJA==\r\n")
    transcript.heard(b"535 5.7.8 pq3$ is wrong\r\n")

    assert transcript.lines()[-1] == "< 535 5.7.8 ***"


def test_why_a_login_was_refused_is_quoted_in_full() -> None:
    """What to do about it stands in the host's words, and often an address of a page."""
    transcript = Transcript()
    transcript.sent(b"AUTH PLAIN AHVzZXIAc2VjcmV0\r\n")
    transcript.heard(b"535-5.7.8 Username and Password not accepted.\r\n535 5.7.8 See https://x.example/?p=Bad\r\n")

    assert transcript.lines()[1:] == (
        "< 535-5.7.8 Username and Password not accepted.",
        "< 535 5.7.8 See https://x.example/?p=Bad",
    )


def test_a_long_set_up_hides_its_secrets_in_every_later_transaction() -> None:
    """However it was cut into pieces, and however often it is told."""
    transcript = Transcript()
    for _ in range(300):
        transcript.heard(b"220-mx\r\n")
    transcript.sent(b"AUTH LOGIN\r\n")
    transcript.heard(b"334 VXNlcm5hbWU6\r\n")
    for piece in (b"dXN", b"lcg==\r\n", b"aHVud", b"GVyMg==\r\n"):
        transcript.sent(piece)
    transcript.heard(b"235 ok\r\n")
    for _ in range(3):
        transcript.begin_transaction()
        transcript.heard(b"550 no\r\n")
        told = "".join(transcript.lines())
        assert "dXN" not in told
        assert "aHVud" not in told


def test_one_record_does_not_tell_of_another_message() -> None:
    """Of a session with three refused messages each record has its own, and the set-up once."""
    transcript = Transcript()
    transcript.heard(b"220 mx\r\n")
    for number in range(3):
        transcript.begin_transaction()
        transcript.sent(b"MAIL FROM:<%d@x>\r\n" % number)
        transcript.heard(b"550 no\r\n")
        assert ("< 220 mx", f"> MAIL FROM:<{number}@x>", "< 550 no") == transcript.lines()
