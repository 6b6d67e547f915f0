# SPDX-License-Identifier: MIT
"""Content on its way in BDAT and to LMTP hosts: pieces, deadlines, and what a loss means."""

import asyncio
from collections.abc import Iterator

import pytest
from tests.send.stage import (
    BANNER,
    CONTENT,
    DATA,
    DOT,
    LETTER,
    MAIL,
    RCPT,
    STARTTLS,
    Stage,
    Steps,
    Stream,
    on_stage,
)

from smarthost.mail.content import Content, InlineContent
from smarthost.mail.envelope import Body
from smarthost.mail.errors import ConnectionLost, DeadlinePassed, LocalProtocolError, RemoteProtocolError, StoreError
from smarthost.mail.hop import TlsLevel
from smarthost.send.outgoing import CHUNK_OCTETS
from smarthost.send.pool import Pool
from smarthost.send.session import FINALS_S, Session, TransactionLost
from smarthost.smtp import limits
from smarthost.smtp.client import CHUNK_WINDOW, Transaction
from smarthost.smtp.steps import Step
from smarthost.smtp.wire import TransactionEnded
from smarthost.testing.peers import Act

HELLO = b"EHLO relay.example.org\r\n"
TAKES_CHUNKS = (HELLO, b"250-mx\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 BINARYMIME\r\n")
ONE_BY_ONE = (HELLO, b"250-mx\r\n250-CHUNKING\r\n250 BINARYMIME\r\n")
BINARY = Transaction("ann@example.org", ("bob@example.net",), 12, Body.BINARY_MIME, False)
BINARY_MAIL = b"MAIL FROM:<ann@example.org> BODY=BINARYMIME\r\n"
GROUP = (BINARY_MAIL + RCPT[0], b"250 ok\r\n250 ok\r\n")
OCTETS = b"\0binary\r.\n.\r\n"
CHUNK = (b"BDAT 21\r\nTrace: x" + OCTETS, b"250 21 octets\r\n")
LAST = (b"BDAT 0 LAST\r\n", b"250 2.0.0 taken\r\n")

LMTP = (b"LHLO relay.example.org\r\n", b"250-store\r\n250 PIPELINING\r\n")
TWO = Transaction("ann@example.org", ("bob@example.net", "eve@example.net"), 12, Body.SEVEN_BIT, False)
TWO_GROUP = (
    b"MAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.net>\r\nRCPT TO:<eve@example.net>\r\nDATA\r\n",
    b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n",
)


async def ready(stage: Stage, *steps: tuple[bytes, bytes | Act], **policy: object) -> Session:
    session = await stage.dial((BANNER, *steps), **policy)
    assert await session.set_up() is None
    return session


# BDAT


@on_stage
async def test_binary_content_leaves_in_chunks(stage: Stage) -> None:
    """Prefix and content in one chunk, octet for octet: nothing is stuffed, nothing is added at its end."""
    session = await ready(stage, TAKES_CHUNKS, GROUP, CHUNK, LAST, GROUP)

    ended = await session.transact(BINARY, InlineContent(OCTETS), b"Trace: x")

    assert isinstance(ended, TransactionEnded)
    assert ended.final is not None
    assert 250 == ended.final.code
    assert b"" == stage.peer.sessions[0].surprise
    assert session.is_reusable


@on_stage
async def test_without_pipelining_each_chunk_waits(stage: Stage) -> None:
    """A file of two pieces, one answer each before the next leaves."""
    piece = next(Stream(1).chunks())
    session = await ready(
        stage,
        ONE_BY_ONE,
        (BINARY_MAIL, b"250 ok\r\n"),
        RCPT,
        (b"BDAT 65539\r\nx\r\n" + piece, b"250 ok\r\n"),
        (b"BDAT 65536\r\n" + piece, b"250 ok\r\n"),
        LAST,
    )

    ended = await session.transact(BINARY, Stream(2), b"x\r\n")

    assert isinstance(ended, TransactionEnded)
    assert ended.final is not None


@on_stage
async def test_large_content_is_cut_and_so_many_chunks_are_under_way(stage: Stage) -> None:
    """A megabyte and a half in memory: pieces of 256 KiB, no more of them unanswered than the window has."""
    session = await ready(stage, TAKES_CHUNKS, GROUP)
    content = InlineContent(b"x" * (CHUNK_OCTETS * 6 - 1))

    sending = asyncio.ensure_future(session.transact(BINARY, content, b""))
    while not stage.peer.sessions[0].octets.endswith(b"x" * 100):
        await stage.clock.sleep(0.01)
    await stage.clock.sleep(1)
    assert stage.octets.count(b"BDAT 262144\r\n") == CHUNK_WINDOW
    for _ in range(6):
        stage.peer.sessions[0].connection.write([b"250 ok\r\n"])
        await stage.clock.sleep(1)
    assert stage.octets.endswith(b"BDAT 0 LAST\r\n")
    stage.peer.sessions[0].connection.write([b"250 ok\r\n"])

    ended = await sending
    assert isinstance(ended, TransactionEnded)
    assert stage.octets.count(b"BDAT 262144\r\n") == 5
    assert stage.octets.count(b"BDAT 262143\r\n") == 1
    assert stage.octets.count(b"x") == len(content.body) + stage.octets.count(b"example")


@on_stage
async def test_a_host_that_accepts_nobody_gets_no_chunk(stage: Stage) -> None:
    """Every recipient refused: not one octet of content is spent on it, and the session goes on."""
    session = await ready(stage, TAKES_CHUNKS, (GROUP[0], b"250 ok\r\n550 no\r\n"))

    ended = await session.transact(BINARY, InlineContent(OCTETS), b"")

    assert isinstance(ended, TransactionEnded)
    assert (ended.data, ended.final) == (None, None)
    assert b"BDAT" not in stage.octets
    assert session.is_reusable


@on_stage
async def test_a_refused_chunk_is_the_hosts_word_and_the_next_message_begins_with_rset(stage: Stage) -> None:
    """452 to a chunk: no LAST; the session is fit for the next message, which pays the RSET."""
    session = await ready(
        stage,
        TAKES_CHUNKS,
        GROUP,
        (CHUNK[0], b"452 4.3.1 full\r\n"),
        (b"RSET\r\n" + GROUP[0], b"250 reset\r\n" + GROUP[1]),
        CHUNK,
        LAST,
    )

    refused = await session.transact(BINARY, InlineContent(OCTETS), b"Trace: x")
    taken = await session.transact(BINARY, InlineContent(OCTETS), b"Trace: x")

    assert isinstance(refused, TransactionEnded)
    assert refused.data is not None
    assert (452, None) == (refused.data.code, refused.final)
    assert isinstance(taken, TransactionEnded)
    assert taken.final is not None


@on_stage
async def test_37_a_host_that_offers_chunking_but_does_not_know_bdat_is_left(stage: Stage) -> None:
    """It takes the content for commands and answers each; the transaction ends with its first word, and so does
    the session."""
    answers = b"502 5.5.1 what?\r\n500 what?\r\n250 ok\r\n"
    session = await ready(stage, TAKES_CHUNKS, GROUP, (CHUNK[0], answers))

    ended = await session.transact(BINARY, InlineContent(OCTETS), b"Trace: x")
    Pool(stage.clock, idle_s=5.0, transactions=100).keep(session)

    assert isinstance(ended, TransactionEnded)
    assert ended.data is not None
    assert 502 == ended.data.code
    assert not session.is_reusable
    assert await stage.is_hung_up()


@pytest.mark.parametrize(
    ("steps", "step", "seconds"),
    [
        ([GROUP], Step.CHUNK, limits.CONTENT_BLOCK_S),
        ([GROUP, CHUNK], Step.FINAL, limits.FINAL_DOT_S),
    ],
    ids=["chunk", "last"],
)
def test_every_answer_to_a_chunk_has_its_deadline(steps: Steps, step: Step, seconds: float) -> None:
    """Silence after a chunk ends it in time, and only after LAST it is open whether the host has the mail."""

    @on_stage
    async def scenario(stage: Stage) -> None:
        session = await ready(stage, TAKES_CHUNKS, *steps)
        started = stage.clock.monotonic()

        lost = await session.transact(BINARY, InlineContent(OCTETS), b"Trace: x")

        assert isinstance(lost, TransactionLost)
        assert step == lost.step
        assert isinstance(lost.error, DeadlinePassed)
        assert stage.clock.monotonic() - started == pytest.approx(seconds, abs=0.2)

    scenario()


@pytest.mark.parametrize(("lost_at", "step"), [(CHUNK[0], Step.CHUNK), (LAST[0], Step.FINAL)])
def test_where_the_host_hangs_up_decides_whether_it_may_have_the_mail(lost_at: bytes, step: Step) -> None:
    """Gone at a chunk: it cannot. Gone at LAST: it may."""

    @on_stage
    async def scenario(stage: Stage) -> None:
        steps = [CHUNK, LAST]
        script = [(expect, Act.CLOSE if expect == lost_at else answer) for expect, answer in steps]
        session = await ready(stage, TAKES_CHUNKS, GROUP, *script)

        lost = await session.transact(BINARY, InlineContent(OCTETS), b"Trace: x")

        assert isinstance(lost, TransactionLost)
        assert step == lost.step
        assert isinstance(lost.error, ConnectionLost)
        assert lost.heard is not None

    scenario()


@on_stage
async def test_a_host_that_reads_chunks_slowly_gets_all_of_them(stage: Stage) -> None:
    """Its window is full again and again; chunks wait for room, and its answers do not make us ignore that."""
    session = await ready(stage, TAKES_CHUNKS, GROUP)
    sending = asyncio.ensure_future(session.transact(BINARY, Stream(20), b"Trace: x\r\n"))
    while b"BDAT" not in stage.octets:
        await stage.clock.sleep(0.001)
    peer = stage.peer.sessions[0].connection
    answered = 0
    for _ in range(60):
        peer.pause()
        await stage.clock.sleep(10)
        peer.resume()
        await stage.clock.sleep(0.1)
        arrived = stage.octets.count(b"BDAT ")
        for _ in range(arrived - answered):
            peer.write([b"250 ok\r\n"])
        answered = arrived
    ended = await sending

    assert isinstance(ended, TransactionEnded)
    assert ended.final is not None
    _, _, sent = stage.octets.partition(RCPT[0])
    piece = next(Stream(1).chunks())
    first = b"BDAT 65546\r\nTrace: x\r\n" + piece
    assert first + (b"BDAT 65536\r\n" + piece) * 19 + b"BDAT 0 LAST\r\n" == sent


class CountedStream(Stream):
    """Content that knows how many pieces were taken of it."""

    taken = 0

    def chunks(self) -> Iterator[bytes]:
        for piece in super().chunks():
            self.taken += 1
            yield piece


@on_stage
async def test_a_host_that_answers_chunks_it_does_not_read_fills_no_memory(stage: Stage) -> None:
    """27: its window is closed and yet it says 250 again and again: what it has no room for is not even read."""
    session = await ready(stage, TAKES_CHUNKS, GROUP)
    content = CountedStream(1000)
    sending = asyncio.ensure_future(session.transact(BINARY, content, b""))
    while b"BDAT" not in stage.octets:
        await stage.clock.sleep(0.001)
    peer = stage.peer.sessions[0].connection
    peer.pause()
    for _ in range(50):
        peer.write([b"250 ok\r\n"])
        await stage.clock.sleep(0.1)

    lost = await sending

    assert isinstance(lost, TransactionLost)
    assert isinstance(lost.error, RemoteProtocolError)
    assert content.taken <= 2 * CHUNK_WINDOW


@on_stage
async def test_chunks_that_cannot_be_read_never_look_complete(stage: Stage) -> None:
    """A disk error between chunks: the connection is cut, no LAST leaves, and it is not ambiguous."""
    session = await ready(stage, TAKES_CHUNKS, GROUP)

    lost = await session.transact(BINARY, Stream(2, breaks=True), b"")

    assert isinstance(lost, TransactionLost)
    assert isinstance(lost.error, StoreError)
    assert Step.CHUNK == lost.step
    assert await stage.is_hung_up()
    assert b"LAST" not in stage.octets


@on_stage
async def test_a_host_that_never_stops_answering_chunks_is_left(stage: Stage) -> None:
    """28: replies nobody asked for, without end: the session ends at the first of them, in bounded memory."""
    session = await ready(stage, TAKES_CHUNKS, GROUP, (CHUNK[0], b"250 ok\r\n" * 10_000))

    lost = await session.transact(BINARY, InlineContent(OCTETS), b"Trace: x")

    assert isinstance(lost, TransactionLost)
    assert not session.is_reusable


# LMTP


@on_stage
async def test_each_recipient_of_an_lmtp_host_has_its_own_word(stage: Stage) -> None:
    """LHLO, the content once, two replies after the dot; then the session is ready for the next."""
    session = await ready(stage, LMTP, TWO_GROUP, (DOT[0], b"250 kept\r\n552 5.2.2 full\r\n"), is_lmtp=True)

    ended = await session.transact(TWO, CONTENT, b"")

    assert isinstance(ended, TransactionEnded)
    assert [250, 552] == [reply.code for reply in ended.finals if reply]
    assert session.is_reusable


@on_stage
async def test_an_lmtp_host_one_word_short_is_waited_for_and_what_it_said_is_kept(stage: Stage) -> None:
    """28: the first recipient was heard, the second was not: ten minutes from the last word, then ambiguous."""
    session = await ready(stage, LMTP, TWO_GROUP, (DOT[0], b"250 kept\r\n"), is_lmtp=True)
    started = stage.clock.monotonic()

    lost = await session.transact(TWO, CONTENT, b"")

    assert isinstance(lost, TransactionLost)
    assert Step.FINAL == lost.step
    assert lost.heard is not None
    first, second = lost.heard.finals
    assert first is not None
    assert second is None
    assert stage.clock.monotonic() - started == pytest.approx(limits.FINAL_DOT_S, abs=1)


@on_stage
async def test_slow_deliveries_of_an_lmtp_host_have_time_each_and_an_end_together(stage: Stage) -> None:
    """A word every nine minutes is waited for; a drip of one line that never ends is not, beyond half an hour."""
    session = await ready(stage, LMTP, is_lmtp=True)
    loop = asyncio.get_running_loop()
    sending = asyncio.ensure_future(session.transact(TWO, CONTENT, b""))
    await stage.clock.sleep(250)  # the envelope's time is not the final replies'
    stage.peer.sessions[0].connection.write([TWO_GROUP[1]])
    while not stage.octets.endswith(b"\r\n.\r\n"):
        await stage.clock.sleep(0.1)
    started = stage.clock.monotonic()
    peer = stage.peer.sessions[0].connection
    loop.call_later(540, peer.write, [b"250 kept\r\n"])
    for minutes in range(15, 60, 5):
        loop.call_later(minutes * 60, peer.write, [b"250-wait\r\n"])

    lost = await sending

    assert isinstance(lost, TransactionLost)
    assert lost.heard is not None
    assert lost.heard.finals[0] is not None
    assert stage.clock.monotonic() - started == pytest.approx(FINALS_S, abs=1)


@on_stage
async def test_an_lmtp_host_that_speaks_smtp_gets_no_mail(stage: Stage) -> None:
    """LHLO refused: the session fails there, in the host's words, and HELO is not tried."""
    session = await stage.dial((BANNER, (LMTP[0], b"500 5.5.1 what?\r\n")), is_lmtp=True)

    failed = await session.set_up()

    assert failed is not None
    assert Step.EHLO == failed.step
    assert b"HELO" not in stage.octets.replace(b"LHLO", b"")


# What a session promises whatever the content


@on_stage
async def test_a_host_that_takes_two_transactions_is_asked_for_two(stage: Stage) -> None:
    """MAILMAX=2 (RFC 9422 4): after the second the session says goodbye instead of resting in the pool."""
    hello = (HELLO, b"250-mx\r\n250 LIMITS MAILMAX=2\r\n")
    session = await ready(stage, hello, MAIL, RCPT, DATA, DOT, MAIL, (RCPT[0], b"550 no\r\n"))
    pool = Pool(stage.clock, idle_s=5.0, transactions=100)

    await session.transact(LETTER, CONTENT, b"")
    assert session.is_reusable
    pool.keep(session)
    assert pool.take(session.key) is session
    await session.transact(LETTER, CONTENT, b"")  # RFC 9422 4: refused ones count
    assert not session.is_reusable
    pool.keep(session)

    assert pool.take(session.key) is None
    assert await stage.is_hung_up()
    assert stage.octets.endswith(b"QUIT\r\n")


@on_stage
async def test_limits_and_offers_made_in_clear_are_forgotten_inside_tls(stage: Stage) -> None:
    """MAILMAX, REQUIRETLS, CHUNKING and BINARYMIME before the handshake are nobody's promise after it."""
    in_clear = (
        HELLO,
        b"250-mx\r\n250-STARTTLS\r\n250-REQUIRETLS\r\n250-CHUNKING\r\n250-BINARYMIME\r\n250 LIMITS MAILMAX=1\r\n",
    )
    session = await ready(stage, in_clear, STARTTLS, (HELLO, b"250 mx\r\n"))
    offered = session.extensions
    assert offered is not None

    assert (offered.requiretls, offered.chunking, offered.binarymime, offered.most_transactions) == (
        False, False, False, None,
    )  # fmt: skip
    with pytest.raises(LocalProtocolError):
        await session.transact(Transaction("a@b", ("c@d",), 1, Body.SEVEN_BIT, False, requires_tls=True), CONTENT, b"")


@on_stage
async def test_requiretls_is_never_said_in_clear(stage: Stage) -> None:
    """A host, or whoever is between, that offers REQUIRETLS without TLS: nothing about the mail is written."""
    session = await ready(stage, (HELLO, b"250-mx\r\n250 REQUIRETLS\r\n"), tls=TlsLevel.NONE)
    wish = Transaction("a@b", ("c@d",), 1, Body.SEVEN_BIT, False, requires_tls=True)

    with pytest.raises(LocalProtocolError):
        await session.transact(wish, CONTENT, b"")

    assert b"MAIL" not in stage.octets
    assert session.is_reusable
    assert 0 == session.transactions


@on_stage
async def test_a_transaction_that_cannot_be_sent_leaves_the_session_as_it_was(stage: Stage) -> None:
    """Binary mail for a host that cannot take it is our bug: it costs that mail, and the next goes through."""
    session = await stage.ready(MAIL, RCPT, DATA, DOT)
    content: Content = InlineContent(OCTETS)

    with pytest.raises(LocalProtocolError):
        await session.transact(BINARY, content, b"")
    ended = await session.transact(LETTER, CONTENT, b"")

    assert isinstance(ended, TransactionEnded)
    assert 1 == session.transactions
