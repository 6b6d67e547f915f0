# SPDX-License-Identifier: MIT
"""Attacks by clients: each ends within its budget of time and memory, and harms no other session.

Time is virtual, so an hour of dripping takes a moment; memory is what the session holds of the attacker's octets, and
what it has written that nobody reads.
"""

from collections.abc import Callable, Iterator

import pytest
from tests.accept.desk import Certificate, Desk, Users

from smarthost.accept.listeners import Mode
from smarthost.accept.receptions import TURNED_AWAY
from smarthost.accept.session import BUFFERED_OCTETS
from smarthost.smtp.limits import CONTENT_BLOCK_S, SERVER_COMMAND_S, TLS_HANDSHAKE_S, Limits

EHLO = b"EHLO c.example\r\n"
ENVELOPE = EHLO + b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\n"
KIBIBYTE = 1024
HOUR_S = 3600.0


def drip(desk: Desk, octets: Iterator[bytes], every_s: float, at_most_s: float) -> float:
    """Send a piece every so many seconds until the session ends; give how long that took."""
    begun = desk.clock.monotonic()
    while not desk.wire.is_closed and desk.clock.monotonic() - begun <= at_most_s:
        desk.clock.advance(every_s)
        if not desk.wire.is_closed and (piece := next(octets)):
            desk.say(piece)
    return desk.clock.monotonic() - begun


def always(octets: bytes) -> Iterator[bytes]:
    while True:
        yield octets


def held(desk: Desk) -> int:
    """Tell how many octets of the client's the session keeps."""
    return desk.reception._machine.buffered


def plain_session(preamble: bytes) -> Callable[[], Desk]:
    def begin() -> Desk:
        desk = Desk(tls=Certificate(), users=Users())
        desk.say(preamble)
        return desk

    return begin


def shaking() -> Desk:
    return Desk(tls=Certificate(), mode=Mode.SUBMISSIONS, users=Users())


def shaking_after_starttls() -> Desk:
    desk = Desk(tls=Certificate())
    desk.say(EHLO)
    desk.say(b"STARTTLS\r\n")
    return desk


SLOW = {
    # what: (how it begins, what drips, how often, when it must be over)
    "silence from the start": (plain_session(b""), b"", 60.0, SERVER_COMMAND_S),
    "silence after EHLO": (plain_session(EHLO), b"", 60.0, SERVER_COMMAND_S),
    "silence after MAIL": (plain_session(EHLO + b"MAIL FROM:<>\r\n"), b"", 60.0, SERVER_COMMAND_S),
    "silence after DATA": (plain_session(ENVELOPE + b"DATA\r\n"), b"", 60.0, CONTENT_BLOCK_S),
    "silence after BDAT": (plain_session(ENVELOPE + b"BDAT 40000000\r\n"), b"", 60.0, CONTENT_BLOCK_S),
    "silence between chunks": (plain_session(ENVELOPE + b"BDAT 1\r\nx"), b"", 60.0, SERVER_COMMAND_S),
    "silence in AUTH": (plain_session(EHLO + b"AUTH LOGIN\r\n"), b"", 60.0, SERVER_COMMAND_S),
    "a command by octets": (plain_session(EHLO), b"N", 1.0, SERVER_COMMAND_S),
    "a greeting by octets": (plain_session(b""), b"E", 1.0, SERVER_COMMAND_S),
    "a password by octets": (plain_session(EHLO + b"AUTH LOGIN\r\n"), b"Q", 1.0, SERVER_COMMAND_S),
    "content by octets": (plain_session(ENVELOPE + b"DATA\r\n"), b"x", 10.0, HOUR_S),
    "content by lines": (plain_session(ENVELOPE + b"DATA\r\n"), b"x\r\n", 10.0, HOUR_S),
    "a chunk by octets": (plain_session(ENVELOPE + b"BDAT 40000000\r\n"), b"x", 10.0, HOUR_S),
    "chunks of one octet": (plain_session(ENVELOPE), b"BDAT 1\r\nx", 10.0, HOUR_S),
    "a refused chunk by octets": (plain_session(EHLO + b"BDAT 40000000\r\n"), b"x", 1.0, SERVER_COMMAND_S),
    "a handshake never begun": (shaking, b"", 10.0, TLS_HANDSHAKE_S),
    "a handshake never begun after STARTTLS": (shaking_after_starttls, b"", 10.0, TLS_HANDSHAKE_S),
    "a NOOP a minute": (plain_session(EHLO), b"NOOP\r\n", 60.0, 102 * 60.0),
}


@pytest.mark.parametrize("what", SLOW)
def test_who_is_slow_is_hung_up_on(what: str) -> None:
    """Neither silence nor dripping keeps a session for longer than its budget, and nothing is filed of it."""
    begin, octets, every_s, budget_s = SLOW[what]
    desk = begin()

    took_s = drip(desk, always(octets), every_s, budget_s + 10 * every_s)

    assert desk.wire.is_closed
    assert took_s <= budget_s + 2 * every_s
    assert [] == desk.adding
    assert held(desk) == 0


ENDLESS = {
    # what: (how it begins, what comes again and again, how often at most)
    "NOOP": (EHLO, b"NOOP\r\n", 101),
    "RSET": (EHLO, b"RSET\r\n", 101),
    "VRFY": (EHLO, b"VRFY x\r\n", 101),
    "HELP": (EHLO, b"HELP\r\n", 101),
    "EHLO": (b"", EHLO, 102),
    "MAIL and RSET": (EHLO, b"MAIL FROM:<a@example.org>\r\nRSET\r\n", 101),
    "BDAT 0": (ENVELOPE, b"BDAT 0\r\n", 101),
    "bogus commands": (EHLO, b"BOGUS\r\n", 20),
    "AUTH cancelled": (EHLO, b"AUTH LOGIN\r\n*\r\n", 20),
    "AUTH with a wrong password": (EHLO, b"AUTH PLAIN AGFsaWNlAHdyb25n\r\n", 3),
    "STARTTLS with an argument": (EHLO, b"STARTTLS now\r\n", 20),
    "XCLIENT": (EHLO, b"XCLIENT ADDR=127.0.0.1\r\n", 20),
    "lines too long": (EHLO, b"x" * 5000 + b"\r\n", 20),
    "a line without end": (EHLO, b"x" * 60_000, 3),
    "mail refused after the dot": (b"", ENVELOPE + b"DATA\r\n\x00\r\n.\r\nRSET\r\n", 20),
    "relaying refused": (EHLO, b"MAIL FROM:<>\r\nRCPT TO:<bad>\r\nRSET\r\n", 20),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_who_never_comes_to_the_point_is_hung_up_on(what: str) -> None:
    """Commands that lead to no message end the session after a number of them, whatever they are."""
    preamble, again, limit = ENDLESS[what]
    desk = plain_session(preamble)()

    count = 0
    while not desk.wire.is_closed and count <= limit + 10:
        desk.say(again)
        desk.wait(31)  # refused logins are answered late
        count += 1

    assert desk.wire.is_closed
    assert count <= limit
    assert b"421" in desk.wire.written[-1]
    assert [] == desk.adding


def test_a_hundred_thousand_recipients_cost_a_thousand() -> None:
    """Beyond the limit each is 452, and nothing of it is kept."""
    desk = plain_session(ENVELOPE)()
    group = b"".join(b"RCPT TO:<u%d@example.net>\r\n" % n for n in range(1000))
    refused = sum(desk.say(group).count(b"452 4.5.3") for _ in range(100))
    desk.say(b"DATA\r\n")
    desk.say(b"x\r\n.\r\n")

    assert 100_000 - 999 == refused
    assert 1000 == len(desk.adding[0][0].envelope.recipients)


def test_a_huge_chunk_is_refused_before_it_comes() -> None:
    """BDAT with more than is ever read: told at once, hung up on, nothing allocated."""
    desk = plain_session(ENVELOPE)()

    answer = desk.say(b"BDAT 99999999999999999999 LAST\r\n")

    assert answer.startswith(b"552 5.3.4")
    assert desk.wire.is_closed
    assert [] == desk.shelves


def test_a_chunk_that_is_too_large_is_read_and_forgotten() -> None:
    """A bearable one is read to its end without being kept (RFC 3030 2)."""
    desk = plain_session(ENVELOPE)()
    octets = 60 * KIBIBYTE * KIBIBYTE
    desk.say(b"BDAT %d LAST\r\n" % octets)
    most = 0
    for _ in range(octets // (256 * KIBIBYTE) - 1):
        assert b"" == desk.say(b"x" * (256 * KIBIBYTE))
        most = max(most, held(desk))
    answer = desk.say(b"x" * (256 * KIBIBYTE))

    assert answer.startswith(b"552 5.3.4")
    assert most <= 256 * KIBIBYTE
    assert [] == desk.adding
    assert [] == desk.shelves


def test_a_gigabyte_line_costs_a_buffer() -> None:
    """Content without a line's end goes to the draft in pieces, until it is too large; then it is only read."""
    desk = plain_session(ENVELOPE + b"DATA\r\n")()
    most = 0
    for _ in range(400):
        desk.say(b"x" * (256 * KIBIBYTE))
        most = max(most, held(desk))

    assert most <= 512 * KIBIBYTE
    assert len(desk.shelves[0].body) <= 51 * KIBIBYTE * KIBIBYTE


class Deaf:
    """A client that pipelines for ever and reads nothing; the kernel takes what fits into a window."""

    def __init__(self, again: bytes, preamble: bytes = EHLO) -> None:
        self.desk = Desk()
        self.desk.say(preamble)
        self.desk.wire.takes = False
        self._chunk = again * (64 * KIBIBYTE // len(again))

    def go_on(self) -> int:
        """Send until nobody hears; give how much was written to it that it never reads."""
        before = sum(map(len, self.desk.wire.written))
        for _ in range(100):
            if self.desk.wire.is_paused or self.desk.wire.is_closed:
                break
            self.desk.say(self._chunk)
        assert self.desk.wire.is_paused or self.desk.wire.is_closed
        return sum(map(len, self.desk.wire.written)) - before


@pytest.mark.parametrize(
    "again", [b"NOOP\r\n", b"HELP\r\n", EHLO, b"BOGUS\r\n", b"RSET\r\n", b"RCPT TO:<b@example.net>\r\n", b"VRFY x\r\n"]
)
def test_who_reads_no_replies_is_not_heard(again: bytes) -> None:
    """Replies to one chunk are all that ever waits; then we stop reading, and time runs out."""
    deaf = Deaf(again, ENVELOPE)

    assert deaf.go_on() <= 256 * KIBIBYTE
    deaf.desk.clock.advance(SERVER_COMMAND_S + 1)
    assert deaf.desk.wire.is_closed


@pytest.mark.parametrize("waits_for", ["the store", "users"])
def test_who_pipelines_megabytes_while_it_waits_is_paused(waits_for: str) -> None:
    """While we owe an answer at most 256 KiB of what comes behind are kept."""
    users = Users()
    users.waits = True
    desk = Desk(users=users)
    if waits_for == "users":
        desk.say(EHLO + b"AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n")
    else:
        desk.say(ENVELOPE + b"DATA\r\n")
        desk.say(b"x\r\n.\r\n")
    for _ in range(100):
        if desk.wire.is_paused:
            break
        desk.say(b"NOOP\r\n" * 10_000)

    assert desk.wire.is_paused
    assert held(desk) <= BUFFERED_OCTETS + 60_000
    if waits_for == "users":
        users.waiting.pop()()
    else:
        desk.commit()
    assert not desk.wire.is_paused


def test_a_thousand_attackers_do_not_shut_out_another_client() -> None:
    """One address has a hundred sessions at most, however many it opens; another is greeted."""
    desk = Desk(client="203.0.113.7", limits=Limits(connections=150))
    heard = [desk.connect() for _ in range(1000)]

    assert 99 == sum(banner.startswith(b"220") for banner in heard)
    assert TURNED_AWAY == sum(banner.startswith(b"421") for banner in heard)
    assert len(desk.receptions) == 100 + TURNED_AWAY
    assert desk.connect("192.0.2.1").startswith(b"220")


def test_what_an_attacker_says_reaches_no_log_as_it_is() -> None:
    """Control characters and line ends of a stranger's stay out of notes."""
    desk = plain_session(EHLO)()
    desk.say(b"MAIL FROM:<\x1b[31m@example.org>\r\nAUTH PLAIN AHgNCmV2aWwAeA==\r\nBOGUS\x07\r\n")
    desk.wait(40)
    desk.say(b"GET / HTTP/1.1\r\n")

    assert all(str(value).isprintable() for facts in desk.facts for value in facts.values())
