# SPDX-License-Identifier: MIT
"""Sessions as a client: the order of set-up, a deadline for each step, and an end that leaves nothing behind."""

import asyncio

import pytest
from tests.send.stage import (
    ADDRESS,
    BANNER,
    CONTENT,
    DATA,
    DOT,
    LETTER,
    MAIL,
    PLAIN,
    RCPT,
    STARTTLS,
    WITH_AUTH,
    WITH_TLS,
    Stage,
    Steps,
    Stream,
    on_stage,
    why,
)

from smarthost.mail.content import Content
from smarthost.mail.envelope import Body
from smarthost.mail.errors import ConnectionLost, DeadlinePassed, RemoteProtocolError, StoreError, TlsFailed
from smarthost.mail.hop import Credentials, TlsLevel
from smarthost.mail.reply import Reply
from smarthost.ports import Connection, Receiver
from smarthost.send.session import ENVELOPE_S, SetupFailed, TransactionLost
from smarthost.smtp import limits
from smarthost.smtp.client import Transaction
from smarthost.smtp.steps import Step
from smarthost.smtp.wire import TransactionEnded
from smarthost.testing.network import Faults, TlsConduct
from smarthost.testing.peers import Act, PeerSession, ScriptedPeer, ScriptedSession

# Set-up


@on_stage
async def test_without_extensions_three_lines_are_enough(stage: Stage) -> None:
    """Banner, EHLO, ready; a host that offers no TLS gets none from an opportunistic session."""
    session = await stage.ready()

    assert session.is_reusable
    assert session.tls is None
    assert b"EHLO relay.example.org\r\n" == stage.octets


@on_stage
async def test_everything_learned_in_clear_is_forgotten_inside_tls(stage: Stage) -> None:
    """EHLO is said again after the handshake, and only that answer counts (RFC 3207 4.2)."""
    session = await stage.dial(
        (BANNER, WITH_TLS, STARTTLS, (b"EHLO relay.example.org\r\n", b"250-mx\r\n250 SIZE 99999999\r\n"))
    )

    assert await session.set_up() is None

    assert session.tls is not None
    assert session.extensions is not None
    assert 99_999_999 == session.extensions.size
    assert not session.extensions.starttls


@on_stage
async def test_octets_after_the_answer_to_starttls_end_the_session(stage: Stage) -> None:
    """A reply injected before the handshake is never taken for one said inside TLS: no handshake, hung up."""
    injected = (b"STARTTLS\r\n", b"220 go\r\n250-mx\r\n250 AUTH PLAIN\r\n")
    session = await stage.dial((BANNER, WITH_TLS, injected))

    failed = await session.set_up()

    assert isinstance(why(failed), RemoteProtocolError)
    assert session.tls is None
    assert stage.octets.endswith(b"STARTTLS\r\n")
    assert await stage.is_hung_up()


@on_stage
async def test_a_refused_starttls_is_tolerated_by_an_opportunistic_session_only(stage: Stage) -> None:
    """454 to STARTTLS: clear text where TLS is a bonus, no session where it is a demand."""
    refused = (b"STARTTLS\r\n", b"454 4.7.0 not now\r\n")

    tolerant = await (await stage.dial((BANNER, WITH_TLS, refused))).set_up()
    failed = await (await stage.dial((BANNER, WITH_TLS, refused), tls=TlsLevel.REQUIRED)).set_up()

    assert tolerant is None
    assert failed is not None
    assert Step.STARTTLS == failed.step
    assert isinstance(failed.said, Reply)


@pytest.mark.parametrize("level", [TlsLevel.REQUIRED, TlsLevel.VERIFIED])
def test_a_host_without_starttls_gets_no_mail_where_tls_is_demanded(level: TlsLevel) -> None:
    """The host does not offer what the policy demands: the session fails before a command about mail."""

    @on_stage
    async def scenario(stage: Stage) -> None:
        session = await stage.dial((BANNER, PLAIN), tls=level)

        failed = await session.set_up()

        assert failed is not None
        assert Step.STARTTLS == failed.step
        assert isinstance(failed.said, TlsFailed)
        assert await stage.is_hung_up()

    scenario()


@on_stage
async def test_a_certificate_that_does_not_hold_fails_a_verified_session(stage: Stage) -> None:
    """The policy asks for a valid certificate: an untrusted one ends the session at the handshake."""
    stage.network.faults[ADDRESS, 40_001] = Faults(tls=TlsConduct.UNTRUSTED)
    session = await stage.dial((BANNER, WITH_TLS, STARTTLS), tls=TlsLevel.VERIFIED)

    failed = await session.set_up()

    assert failed is not None
    assert Step.TLS == failed.step
    assert isinstance(failed.said, TlsFailed)


@on_stage
async def test_implicit_tls_shakes_hands_before_the_banner(stage: Stage) -> None:
    """On port 465 nothing is said in clear, and STARTTLS is not asked for."""
    peer = ScriptedPeer((BANNER, WITH_TLS))

    def accept(connection: Connection) -> Receiver:
        asyncio.get_running_loop().call_later(1.0, lambda: peer.sessions[0].play())
        session = ScriptedSession(peer.steps, connection)
        peer.sessions.append(session)
        return session

    session = await stage.dial_to(accept, implicit_tls=True, tls=TlsLevel.VERIFIED)

    assert await session.set_up() is None

    assert session.tls is not None
    assert b"EHLO relay.example.org\r\n" == bytes(peer.sessions[0].octets)


@on_stage
async def test_no_password_leaves_without_tls(stage: Stage) -> None:
    """Credentials and a host that strips STARTTLS from its answer: nothing secret is written."""
    session = await stage.dial((BANNER, WITH_AUTH), credentials=Credentials("user", "secret"))

    failed = await session.set_up()

    assert failed is not None
    assert Step.AUTH == failed.step
    assert b"AUTH" not in stage.octets


@pytest.mark.parametrize(
    "said",
    [
        b"501 5.5.4 what is AUTH PLAIN AHVzZXIAc2VjcmV0\r\n",
        b"501-5.5.4 what is AUTH PLAIN AHVzZX\r\n501 5.5.4 IAc2VjcmV0\r\n",
        b"501 5.5.4 user has not the password secret\r\n",
        b"AUTH PLAIN AHVzZXIAc2VjcmV0\r\n",
        b"334 AHVzZXIAc2VjcmV0\r\n",
    ],
)
def test_a_host_that_repeats_the_password_does_not_get_it_told(said: bytes) -> None:
    """What a host says to AUTH ends up in logs, records and reports: its echo of our secret does not."""

    async def scenario(stage: Stage) -> None:
        auth = (b"AUTH PLAIN AHVzZXIAc2VjcmV0\r\n", said)
        credentials = Credentials("user", "secret")
        session = await stage.dial((BANNER, WITH_AUTH, auth), credentials=credentials, tls=TlsLevel.NONE)

        failed = await session.set_up()

        assert failed is not None
        assert Step.AUTH == failed.step
        assert "***" in str(failed.said)
        assert not any(part in str(failed.said) for part in ("secret", "AHVz", "c2Vj"))

    on_stage(scenario)()


@on_stage
async def test_a_refused_password_is_told_as_the_host_said_it(stage: Stage) -> None:
    """535 to AUTH: the session fails with the host's words, politely closed."""
    auth = (b"AUTH PLAIN AHVzZXIAc2VjcmV0\r\n", b"535 5.7.8 wrong\r\n")
    session = await stage.dial((BANNER, WITH_AUTH, auth), credentials=Credentials("user", "secret"), tls=TlsLevel.NONE)

    failed = await session.set_up()

    assert failed == SetupFailed(Step.AUTH, Reply(535, "5.7.8", ("wrong",)))
    assert await stage.is_hung_up()
    assert stage.octets.endswith(b"QUIT\r\n")


@pytest.mark.parametrize("banner", [b"554 5.3.2 no\r\n", b"421 4.3.2 busy\r\n", b"nonsense\r\n"])
def test_a_host_that_does_not_greet_gets_no_ehlo(banner: bytes) -> None:
    """Whatever else stands where 220 belongs: the session fails at the banner."""

    @on_stage
    async def scenario(stage: Stage) -> None:
        session = await stage.dial(((b"", banner),))

        failed = await session.set_up()

        assert failed is not None
        assert Step.BANNER == failed.step
        assert b"EHLO" not in stage.octets
        assert await stage.is_hung_up()

    scenario()


# Deadlines


@pytest.mark.parametrize(
    ("steps", "policy", "step", "seconds"),
    [
        ([], {}, Step.BANNER, limits.BANNER_S),
        ([BANNER], {}, Step.EHLO, limits.HELLO_S),
        ([BANNER, WITH_TLS], {}, Step.STARTTLS, limits.STARTTLS_S),
        ([BANNER, WITH_TLS, STARTTLS], {}, Step.TLS, limits.TLS_HANDSHAKE_S),
        (
            [BANNER, WITH_AUTH],
            {"credentials": Credentials("u", "p"), "tls": TlsLevel.NONE},
            Step.AUTH,
            limits.AUTH_S,
        ),
    ],
    ids=["banner", "ehlo", "starttls", "tls", "auth"],
)
def test_each_step_of_set_up_has_its_deadline(
    steps: Steps, policy: dict[str, object], step: Step, seconds: float
) -> None:
    """A host that falls silent costs what RFC 5321 4.5.3.2 allows at that step, and the failure names the step."""

    @on_stage
    async def scenario(stage: Stage) -> None:
        if step is Step.TLS:  # all that is said in clear passes, the handshake does not
            carried = sum(len(expect) + len(answer) for expect, answer in steps if isinstance(answer, bytes))
            stage.network.faults[ADDRESS, 40_001] = Faults(stall_after=carried)
        session = await stage.dial(steps, **policy)
        started = stage.clock.monotonic()

        failed = await session.set_up()

        assert failed is not None
        assert step == failed.step
        assert isinstance(failed.said, DeadlinePassed)
        assert stage.clock.monotonic() - started == pytest.approx(seconds, abs=0.2)

    scenario()


@pytest.mark.parametrize(
    ("steps", "step", "seconds"),
    [
        ([], Step.MAIL, limits.MAIL_S),
        ([MAIL], Step.RCPT, limits.RCPT_S),
        ([MAIL, RCPT, DATA], Step.FINAL, limits.FINAL_DOT_S),
    ],
    ids=["mail", "rcpt", "final"],
)
def test_each_step_of_a_transaction_has_its_deadline(steps: Steps, step: Step, seconds: float) -> None:
    """Silence in a transaction ends it in time, and says where it stood: after the dot the host may have the mail."""

    @on_stage
    async def scenario(stage: Stage) -> None:
        session = await stage.ready(*steps)
        started = stage.clock.monotonic()

        lost = await session.transact(LETTER, CONTENT, b"")

        assert isinstance(lost, TransactionLost)
        assert step == lost.step
        assert isinstance(lost.error, DeadlinePassed)
        assert stage.clock.monotonic() - started == pytest.approx(seconds, abs=0.2)
        assert not session.is_reusable
        assert await stage.is_hung_up()

    scenario()


class Verifier(PeerSession):
    """A host without PIPELINING that takes `delay_s` for each answer, or drips an endless one."""

    def __init__(self, connection: Connection, delay_s: float, drip: bytes = b"") -> None:
        super().__init__(connection)
        self._delay_s = delay_s
        self._drip = drip
        connection.write([b"220 mx\r\n"])

    def received(self, chunk: bytes) -> None:
        self.octets += chunk
        if chunk.startswith(b"EHLO"):
            self.connection.write([b"250 mx\r\n"])
        elif self._drip:
            self._drop()
        elif chunk.startswith(b"DATA"):
            self.connection.write([b"354 go\r\n"])
        else:
            asyncio.get_running_loop().call_later(self._delay_s, self.connection.write, [b"250 ok\r\n"])

    def _drop(self) -> None:
        if not self.lost_why:
            self.connection.write([self._drip])
            asyncio.get_running_loop().call_later(self._delay_s, self._drop)


@on_stage
async def test_a_host_that_verifies_each_recipient_has_time_for_all(stage: Stage) -> None:
    """A hundred recipients at five seconds each exceed one command's deadline, and none of them its own."""
    session = await stage.dial_to(lambda connection: Verifier(connection, 5.0))
    assert await session.set_up() is None
    many = Transaction("a@b.example", tuple(f"u{n}@c.example" for n in range(100)), 12, Body.SEVEN_BIT, False)

    ended = await session.transact(many, CONTENT, b"")

    assert isinstance(ended, TransactionEnded)
    assert ended.final is not None
    assert stage.clock.monotonic() > limits.MAIL_S


@on_stage
async def test_a_host_that_drips_is_given_up(stage: Stage) -> None:
    """A line of a reply every four minutes, for ever: half an hour, and the slot is free again."""
    session = await stage.dial_to(lambda connection: Verifier(connection, 240.0, b"250-wait\r\n"))
    assert await session.set_up() is None
    started = stage.clock.monotonic()

    lost = await session.transact(LETTER, CONTENT, b"")

    assert isinstance(lost, TransactionLost)
    assert isinstance(lost.error, DeadlinePassed)
    assert stage.clock.monotonic() - started <= ENVELOPE_S + 1


@on_stage
async def test_a_host_that_stops_reading_content_has_its_deadline(stage: Stage) -> None:
    """The window is full and stays so: three minutes for a block (RFC 5321 4.5.3.2.5), and it was before the dot."""
    session = await stage.ready(MAIL, RCPT, DATA)
    content: Content = Stream(20)
    sending = asyncio.ensure_future(session.transact(LETTER, content, b""))
    while not stage.octets.endswith(b"DATA\r\n"):
        await stage.clock.sleep(0.001)
    stage.peer.sessions[0].connection.pause()
    started = stage.clock.monotonic()

    lost = await sending

    assert isinstance(lost, TransactionLost)
    assert Step.CONTENT == lost.step
    assert stage.clock.monotonic() - started == pytest.approx(limits.CONTENT_BLOCK_S, abs=1)


@on_stage
async def test_a_host_that_reads_slowly_gets_all_of_it(stage: Stage) -> None:
    """Content waits for room and goes on where it stopped; every octet arrives, the dot last."""
    session = await stage.ready(MAIL, RCPT, DATA)
    sending = asyncio.ensure_future(session.transact(LETTER, Stream(20), b"Received: x\r\n"))
    while not stage.octets.endswith(b"DATA\r\n"):
        await stage.clock.sleep(0.001)
    peer = stage.peer.sessions[0].connection
    for _ in range(30):
        peer.pause()
        await stage.clock.sleep(10)
        peer.resume()
        await stage.clock.sleep(0.1)
    peer.write([b"250 taken\r\n"])

    ended = await sending

    assert isinstance(ended, TransactionEnded)
    _, _, sent = stage.octets.partition(b"DATA\r\n")
    assert b"Received: x\r\n" + b"".join(Stream(20).chunks()) + b".\r\n" == sent


@on_stage
async def test_content_that_cannot_be_read_never_looks_complete(stage: Stage) -> None:
    """A disk error in the middle: the connection is cut, no final dot is written, the error is ours."""
    session = await stage.ready(MAIL, RCPT, DATA)

    lost = await session.transact(LETTER, Stream(2, breaks=True), b"")

    assert isinstance(lost, TransactionLost)
    assert isinstance(lost.error, StoreError)
    assert await stage.is_hung_up()
    assert b"\r\n.\r\n" not in stage.octets


# Ends


@on_stage
async def test_a_transaction_leaves_the_session_ready_for_the_next(stage: Stage) -> None:
    """Two messages, one EHLO; quit says QUIT and closes."""
    session = await stage.ready(MAIL, RCPT, DATA, DOT, MAIL, RCPT, DATA, DOT)

    for _ in range(2):
        ended = await session.transact(LETTER, CONTENT, b"")
        assert isinstance(ended, TransactionEnded)
    session.quit()

    assert 2 == session.transactions
    assert await stage.is_hung_up()
    assert stage.octets.endswith(b"QUIT\r\n")
    assert "" == stage.peer.sessions[0].surprise.decode().removeprefix("QUIT\r\n")


@on_stage
async def test_a_session_that_died_while_idle_says_that_nothing_was_tried(stage: Stage) -> None:
    """The host hung up between two messages: the loss is stale, so that it costs nobody an attempt."""
    session = await stage.ready()
    stage.peer.sessions[0].connection.close()
    await stage.clock.sleep(0.1)

    lost = await session.transact(LETTER, CONTENT, b"")

    assert isinstance(lost, TransactionLost)
    assert lost.was_stale


@on_stage
async def test_a_host_that_hangs_up_after_a_word_is_not_stale(stage: Stage) -> None:
    """It answered MAIL and went: that was an attempt."""
    session = await stage.ready((MAIL[0], b"250 ok\r\n"), (RCPT[0], Act.CLOSE))

    lost = await session.transact(LETTER, CONTENT, b"")

    assert isinstance(lost, TransactionLost)
    assert not lost.was_stale
    assert isinstance(lost.error, ConnectionLost)
    assert lost.heard is not None
    assert 250 == lost.heard.mail.code


@on_stage
async def test_a_goodbye_in_the_middle_is_the_answer_to_what_was_asked(stage: Stage) -> None:
    """421 to RCPT is that recipient's reply, and ends the session."""
    session = await stage.ready(MAIL, (RCPT[0], b"421 4.3.2 shutting down\r\n"))

    ended = await session.transact(LETTER, CONTENT, b"")

    assert isinstance(ended, TransactionEnded)
    assert [421] == [reply.code for reply in ended.recipients if reply is not None]
    assert not session.is_reusable


@on_stage
async def test_a_cancelled_set_up_leaves_no_connection(stage: Stage) -> None:
    """Who stops waiting for a banner has hung up."""
    session = await stage.dial(())
    setting_up = asyncio.ensure_future(session.set_up())
    await stage.clock.sleep(1)

    setting_up.cancel()
    await asyncio.wait([setting_up])

    assert setting_up.cancelled()
    assert await stage.is_hung_up()


@on_stage
async def test_a_cancelled_transaction_leaves_no_connection(stage: Stage) -> None:
    """Who stops waiting for a reply has hung up, and the session is no use any more."""
    session = await stage.ready(MAIL)
    sending = asyncio.ensure_future(session.transact(LETTER, CONTENT, b""))
    await stage.clock.sleep(1)

    sending.cancel()
    await asyncio.wait([sending])

    assert sending.cancelled()
    assert await stage.is_hung_up()
    assert not session.is_reusable


@on_stage
async def test_quitting_twice_is_quitting_once(stage: Stage) -> None:
    """Goodbye is said once, also to a session that is gone."""
    session = await stage.ready()

    session.quit()
    session.quit()

    assert await stage.is_hung_up()
    assert 1 == stage.octets.count(b"QUIT")
