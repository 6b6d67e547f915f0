# SPDX-License-Identifier: MIT
"""Hostile and broken hosts before a session: each ends in the right class, in bounded time and memory.

Numbers are those of the list of hostile hosts that the relay must survive; what a machine alone can show is in
tests/smtp.
"""

import asyncio
from collections.abc import Callable

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
    on_stage,
    why,
)

from smarthost.mail.errors import ConnectionLost, DeadlinePassed, RemoteProtocolError
from smarthost.mail.hop import Credentials, TlsLevel
from smarthost.mail.reply import Reply
from smarthost.ports import Connection
from smarthost.send.session import ENVELOPE_S, SetupFailed, TransactionLost
from smarthost.smtp import limits
from smarthost.smtp.replies import REPLY_OCTETS
from smarthost.smtp.steps import Step
from smarthost.smtp.wire import TransactionEnded
from smarthost.testing.network import Faults, TlsConduct
from smarthost.testing.peers import Act, PeerSession, ScriptedSession

HELLO = PLAIN[0]
JOURNEY = (BANNER, PLAIN, MAIL, RCPT, DATA, DOT)
PIPELINING = (HELLO, b"250-mx\r\n250 PIPELINING\r\n")
GROUP = MAIL[0] + RCPT[0] + DATA[0]


async def outcome(stage: Stage, steps: Steps, **policy: object) -> SetupFailed | TransactionEnded | TransactionLost:
    """Set a session up and send one letter; give whatever ended that."""
    session = await stage.dial(steps, **policy)
    return await session.set_up() or await session.transact(LETTER, CONTENT, b"")


def step_of(ended: SetupFailed | TransactionEnded | TransactionLost) -> Step:
    assert not isinstance(ended, TransactionEnded)
    return ended.step


@pytest.mark.parametrize("act", list(Act))
@pytest.mark.parametrize(
    ("place", "step"), list(enumerate([Step.BANNER, Step.EHLO, Step.MAIL, Step.RCPT, Step.DATA, Step.FINAL]))
)
def test_1_to_8_a_host_that_hangs_up_at_a_stage(place: int, step: Step, act: Act) -> None:
    """Closed or reset: the stage is named, at once, and only after the dot may the host have the mail."""

    @on_stage
    async def scenario(stage: Stage) -> None:
        ended = await outcome(stage, (*JOURNEY[:place], (JOURNEY[place][0], act)))

        assert step_of(ended) == step
        assert stage.clock.monotonic() < 1

    scenario()


@pytest.mark.parametrize(("place", "step"), [(2, Step.MAIL), (3, Step.RCPT), (4, Step.DATA)])
def test_9_to_16_a_host_that_falls_silent_at_a_stage(place: int, step: Step) -> None:
    """No answer: the RFC's patience and no more; the envelope was not completed, so nothing is ambiguous."""

    @on_stage
    async def scenario(stage: Stage) -> None:
        ended = await outcome(stage, JOURNEY[:place])

        assert isinstance(ended, TransactionLost)
        assert isinstance(ended.error, DeadlinePassed)
        assert ended.step == step
        assert stage.clock.monotonic() < limits.MAIL_S + 1

    scenario()


@pytest.mark.parametrize(
    ("place", "said", "step", "is_reply"),
    [
        (0, "220", None, True),
        (0, "521 5.3.2 no mail here", Step.BANNER, True),
        (0, "354 go", Step.BANNER, False),
        (1, "250", None, True),
        (1, "221 bye", None, True),
        (1, "354 go", Step.EHLO, False),
        (1, "421 4.3.2 busy", Step.EHLO, True),
        (1, "451 4.3.0 later", Step.EHLO, True),
        (2, "354 go", Step.MAIL, False),
        (4, "250 taken", Step.DATA, False),
        (5, "354 more", Step.FINAL, False),
        (5, "\x00\xff", Step.FINAL, False),
        (2, "250-a\r\n550 b", Step.MAIL, False),
    ],
)
def test_17_to_25_what_a_host_may_say_instead(place: int, said: str, step: Step | None, is_reply: bool) -> None:
    """Odd codes, codes alone, two minds, no reply at all: a word where it is one, else the end of the session."""

    @on_stage
    async def scenario(stage: Stage) -> None:
        odd = (JOURNEY[place][0], said.encode("latin-1") + b"\r\n")
        ended = await outcome(stage, (*JOURNEY[:place], odd, *JOURNEY[place + 1 :]))

        if step is None:
            assert isinstance(ended, TransactionEnded)
            return
        assert step_of(ended) == step
        if isinstance(ended, SetupFailed):
            assert isinstance(ended.said, Reply if is_reply else RemoteProtocolError)
        else:
            assert isinstance(ended, TransactionLost)
            assert isinstance(ended.error, RemoteProtocolError)
        assert await stage.is_hung_up()

    scenario()


class Flood(PeerSession):
    """A host that, once it has heard `trigger`, says the same for ever, as fast as it is read."""

    MOST = 64 << 20

    def __init__(self, connection: Connection, trigger: bytes, flood: bytes) -> None:
        super().__init__(connection)
        self.said = 0
        self._trigger, self._flood = trigger, flood
        if not trigger:
            self._pour()
        else:
            connection.write([BANNER[1]])

    def received(self, chunk: bytes) -> None:
        self.octets += chunk
        if chunk.startswith(self._trigger):
            self._pour()
        else:
            self.connection.write([next(answer for expect, answer in JOURNEY if chunk.startswith(expect or b"\0"))])

    def _pour(self) -> None:
        while not self.lost_why and self.said < self.MOST:
            self.said += len(self._flood)
            if not self.connection.write([self._flood]):
                return

    def writable(self) -> None:
        self._pour()


@pytest.mark.parametrize(
    "flood", [b"250-more\r\n", b"250-" + b"x" * 1000 + b"\r\n", b"2" * 1000, b"\0" * 1000, b"250 ok\r\n",
     b"\r\n" * 500],
    ids=["22-endless-reply", "22-endless-and-wide", "23-line-without-end", "24-nul", "28-replies", "24-empty-lines"],
)  # fmt: skip
@pytest.mark.parametrize("trigger", [b"", b"EHLO", b"MAIL", b"RCPT", b"Subject"])
def test_22_to_28_a_host_that_never_stops_talking(trigger: bytes, flood: bytes) -> None:
    """At any stage: hung up after what one reply may have, whatever it would have gone on to say."""

    @on_stage
    async def scenario(stage: Stage) -> None:
        hosts: list[Flood] = []

        def accept(connection: Connection) -> Flood:
            hosts.append(Flood(connection, trigger, flood))
            return hosts[-1]

        session = await stage.dial_to(accept)
        ended = await session.set_up() or await session.transact(LETTER, CONTENT, b"")
        await stage.clock.sleep(0.1)

        # What the two buffers of the connection hold comes on top of what the session read
        assert hosts[0].said < REPLY_OCTETS + (256 << 10)
        assert hosts[0].lost_why
        assert not session.is_reusable
        assert stage.clock.monotonic() < 5
        if isinstance(ended, TransactionLost) and not ended.was_stale:
            assert isinstance(ended.error, RemoteProtocolError)

    scenario()


class Drip(PeerSession):
    """A host that says one octet a second."""

    def __init__(self, connection: Connection, octets: bytes) -> None:
        super().__init__(connection)
        self._left = octets
        asyncio.get_running_loop().call_later(1, self._drop)

    def received(self, chunk: bytes) -> None:
        self.octets += chunk

    def _drop(self) -> None:
        if not self.lost_why and self._left:
            self.connection.write([self._left[:1]])
            self._left = self._left[1:]
            asyncio.get_running_loop().call_later(1, self._drop)


@on_stage
async def test_26_a_banner_that_drips_has_the_banners_time(stage: Stage) -> None:
    """An octet a second is no sign of life: five minutes, whatever drips in."""
    session = await stage.dial_to(lambda connection: Drip(connection, b"220-wait\r\n" * 90))

    failed = await session.set_up()

    assert isinstance(why(failed), DeadlinePassed)
    assert stage.clock.monotonic() == pytest.approx(limits.BANNER_S, abs=1)


@pytest.mark.parametrize("more", [b"250 ok\r\n", b"250 o", b"550 no\r\n"])
def test_28_a_host_that_speaks_before_it_is_asked(more: bytes) -> None:
    """Its answer to EHLO came with an answer to MAIL: nothing is believed, no content is sent."""

    @on_stage
    async def scenario(stage: Stage) -> None:
        ended = await outcome(stage, (BANNER, (HELLO, PLAIN[1] + more), (MAIL[0], b"k\r\n")))

        assert not isinstance(ended, TransactionEnded)
        assert b"Subject" not in stage.octets

    scenario()


@on_stage
async def test_28_a_group_with_one_answer_too_few_waits_and_ends(stage: Stage) -> None:
    """Two replies to three commands: no content is sent on a guess, and half an hour is the most it costs."""
    ended = await outcome(stage, (BANNER, PIPELINING, (GROUP, b"250 ok\r\n354 go\r\n")))

    assert isinstance(ended, TransactionLost)
    assert b"Subject" not in stage.octets
    assert stage.clock.monotonic() < ENVELOPE_S


@on_stage
async def test_29_data_for_nobody_is_ended_with_a_lone_dot(stage: Stage) -> None:
    """All recipients refused, 354 all the same: a dot, no content, and each refusal stands."""
    said = b"250 ok\r\n550 5.1.1 no\r\n354 go\r\n"

    ended = await outcome(stage, (BANNER, PIPELINING, (GROUP, said), (b".\r\n", b"554 5.5.1 nobody\r\n")))

    assert isinstance(ended, TransactionEnded)
    assert [550] == [reply.code for reply in ended.recipients if reply]
    assert ended.final is None


@on_stage
async def test_32_a_host_that_closes_after_250_has_the_mail(stage: Stage) -> None:
    """What was heard counts, however it ended; the session is not kept."""
    session = await stage.ready(MAIL, RCPT, DATA, (DOT[0], DOT[1]), (b"", Act.CLOSE))

    ended = await session.transact(LETTER, CONTENT, b"")
    await stage.clock.sleep(0.1)

    assert isinstance(ended, TransactionEnded)
    assert ended.final is not None
    assert not session.is_reusable


@on_stage
async def test_33_a_word_after_our_patience_is_ambiguous(stage: Stage) -> None:
    """250 eleven minutes after the dot: given up after ten, and known to be ambiguous."""
    session = await stage.ready(MAIL, RCPT, DATA, (DOT[0], b""))
    asyncio.get_running_loop().call_later(660, lambda: stage.peer.sessions[0].connection.write([b"250 at last\r\n"]))

    lost = await session.transact(LETTER, CONTENT, b"")

    assert isinstance(lost, TransactionLost)
    assert Step.FINAL == lost.step
    assert isinstance(lost.error, DeadlinePassed)


@on_stage
async def test_35_a_host_from_before_ehlo_gets_its_mail(stage: Stage) -> None:
    """502 to EHLO, 250 to HELO: plain SMTP, no parameters."""
    old = (HELLO, b"502 5.5.1 what?\r\n")

    ended = await outcome(stage, (BANNER, old, (b"HELO relay.example.org\r\n", b"250 mx\r\n"), MAIL, RCPT, DATA, DOT))

    assert isinstance(ended, TransactionEnded)
    assert ended.final is not None


@on_stage
async def test_36_absurd_offers_change_nothing(stage: Stage) -> None:
    """SIZE of nothing and of everything, limits of none, words without sense: the mail goes as to a plain host."""
    absurd = (
        b"250-mx\r\n250-SIZE 1\r\n250-LIMITS MAILMAX=0 RCPTMAX=-1 RCPTDOMAINMAX=x MAILMAX=99999999999999999999999\r\n"
        b"250-AUTH\r\n250-PIPELINING=NO\r\n250-CHUNKING-ISH\r\n250-\r\n250 \xff\xfe\r\n"
    )
    mail = (b"MAIL FROM:<ann@example.org> SIZE=12\r\n", b"250 ok\r\n")

    ended = await outcome(stage, (BANNER, (HELLO, absurd), mail, RCPT, DATA, DOT))

    assert isinstance(ended, TransactionEnded)
    assert ended.final is not None


@on_stage
async def test_38_a_host_that_drops_what_is_pipelined_is_not_sent_content(stage: Stage) -> None:
    """It reads MAIL and forgets the rest of the segment: waited for, given up, not ambiguous."""
    ended = await outcome(stage, (BANNER, PIPELINING, (GROUP, b"250 ok\r\n")))

    assert isinstance(ended, TransactionLost)
    assert Step.RCPT == ended.step
    assert ended.heard is not None
    assert 250 == ended.heard.mail.code


@pytest.mark.parametrize("conduct", [TlsConduct.BROKEN, TlsConduct.STALLED, TlsConduct.UNTRUSTED])
def test_39_a_handshake_that_fails_fails_the_session(conduct: TlsConduct) -> None:
    """Broken, stalled, a certificate that does not hold: no mail on this connection, and the step is TLS."""

    @on_stage
    async def scenario(stage: Stage) -> None:
        stage.network.faults[ADDRESS, 40_001] = Faults(tls=conduct)

        ended = await outcome(stage, (BANNER, WITH_TLS, STARTTLS, *JOURNEY[1:]), tls=TlsLevel.VERIFIED)

        assert isinstance(ended, SetupFailed)
        assert Step.TLS == ended.step
        assert b"MAIL" not in stage.octets
        assert stage.clock.monotonic() <= limits.TLS_HANDSHAKE_S + 1

    scenario()


@on_stage
async def test_45_a_host_with_our_own_name_gets_its_mail(stage: Stage) -> None:
    """Two machines may share a name behind one address; a loop is seen by its Received lines, not by a banner."""
    ours = (b"", b"220 relay.example.org ESMTP\r\n")

    ended = await outcome(stage, (ours, *JOURNEY[1:]))

    assert isinstance(ended, TransactionEnded)


# Set-up: what no host can get out of the order of things


def in_tls_after(said: bytes, steps: Steps) -> Callable[[Connection], ScriptedSession]:
    """Give a host that says something in clear at once, and plays its script a second later, inside TLS."""

    def accept(connection: Connection) -> ScriptedSession:
        if said:
            connection.write([said])
        session = ScriptedSession(steps, connection)
        asyncio.get_running_loop().call_later(1.0, session.play)
        return session

    return accept


@on_stage
async def test_a_password_goes_out_inside_implicit_tls(stage: Stage) -> None:
    """Port 465: TLS from the first octet is TLS, and the password is sent where it was verified."""
    hosts: list[ScriptedSession] = []
    accept = in_tls_after(b"", (BANNER, WITH_AUTH, (b"AUTH PLAIN AHVzZXIAc2VjcmV0\r\n", b"235 ok\r\n")))

    def remember(connection: Connection) -> ScriptedSession:
        hosts.append(accept(connection))
        return hosts[-1]

    session = await stage.dial_to(
        remember, implicit_tls=True, tls=TlsLevel.VERIFIED, credentials=Credentials("user", "secret")
    )

    assert await session.set_up() is None

    assert session.tls is not None
    assert b"AUTH PLAIN" in hosts[0].octets


@pytest.mark.parametrize("said", [b"220-injected", b"220 injected\r\n"])
def test_words_in_clear_before_implicit_tls_are_never_part_of_the_banner(said: bytes) -> None:
    """Somebody speaks before the handshake has begun: the session fails, no handshake, no EHLO."""

    @on_stage
    async def scenario(stage: Stage) -> None:
        accept = in_tls_after(said, (BANNER, PLAIN))
        session = await stage.dial_to(accept, implicit_tls=True, tls=TlsLevel.VERIFIED)
        await stage.clock.sleep(0.5)  # it is heard before set-up begins

        failed = await session.set_up()

        assert failed is not None
        assert session.tls is None
        assert not session.is_reusable

    scenario()


@on_stage
async def test_a_host_that_hung_up_before_set_up_fails_it(stage: Stage) -> None:
    """The connection was lost before anybody asked for the session: that is told, not waited for."""
    session = await stage.dial(((b"", Act.ABORT),))
    await stage.clock.sleep(1)

    failed = await session.set_up()

    assert isinstance(why(failed), ConnectionLost)
    assert stage.clock.monotonic() < 2


@on_stage
async def test_auth_that_never_ends_ends(stage: Stage) -> None:
    """334 again and again: after what LOGIN has to say nothing more is said."""
    login = (HELLO, b"250-mx\r\n250 AUTH LOGIN\r\n")
    more = b"334 VXNlcm5hbWU6\r\n"
    session = await stage.dial(
        (BANNER, login, (b"AUTH LOGIN\r\n", more), (b"dXNlcg==\r\n", more), (b"c2VjcmV0\r\n", more)),
        credentials=Credentials("user", "secret"),
        tls=TlsLevel.NONE,
    )

    failed = await session.set_up()

    assert isinstance(why(failed), RemoteProtocolError)
    assert "secret" not in str(why(failed))
    assert "c2VjcmV0" not in str(why(failed))
