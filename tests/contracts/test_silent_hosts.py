# SPDX-License-Identifier: MIT
"""A host that falls silent for ever is given up, whatever the step; the bound of each step is here.

Each bound is at most that of RFC 5321 4.5.3.2 (smtp.limits) and is met exactly, on virtual time.
"""

from collections.abc import Callable

import pytest
from msgspec import Struct
from msgspec.structs import replace
from tests.send.rig import BEST, SendRig, outcomes
from tests.send.stage import (
    BANNER,
    CONTENT,
    DATA,
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
)

from smarthost.mail.content import Content
from smarthost.mail.envelope import Body
from smarthost.mail.errors import DeadlinePassed
from smarthost.mail.hop import Credentials, TlsLevel
from smarthost.ports import Connection
from smarthost.send.session import ENVELOPE_S, FINALS_S, Session, SetupFailed, TransactionLost
from smarthost.smtp import limits
from smarthost.smtp.client import Transaction
from smarthost.smtp.steps import Step
from smarthost.testing.network import Faults, TlsConduct
from smarthost.testing.peers import ScriptedPeer, ScriptedSession
from smarthost.testing.simulation import Simulation, run_simulation

HELO_ONLY = (b"EHLO relay.example.org\r\n", b"500 what\r\n")
CHUNKING = (b"EHLO relay.example.org\r\n", b"250-mx\r\n250-CHUNKING\r\n250 BINARYMIME\r\n")
LHLO = (b"LHLO relay.example.org\r\n", b"250 store\r\n")
PIPELINING = (b"EHLO relay.example.org\r\n", b"250-mx\r\n250 PIPELINING\r\n")
GROUP = (MAIL[0] + RCPT[0] + DATA[0], b"250 ok\r\n550 no\r\n354 go\r\n")
WHOLE = (b"Subject: x\r\n\r\nhello\r\n.\r\n", b"")
BINARY = replace(LETTER, body=Body.BINARY_MIME)
BINARY_MAIL = (b"MAIL FROM:<ann@example.org> BODY=BINARYMIME\r\n", b"250 ok\r\n")
REFUSED = (RCPT[0], b"550 no\r\n")
PASSWORD = Credentials("user", "secret")


class Silence(Struct, frozen=True):
    """What a host says before it says nothing more, and how long we then wait, all in all.

    `letter`: what is sent once the session is ready; None: the set-up does not get that far. `again`: the silence is in
    a second transaction. `policy`: of the session.
    """

    steps: Steps
    bound_s: float
    letter: Transaction | None = LETTER
    content: Content = CONTENT
    again: bool = False
    policy: dict[str, object] = {}
    faults: Faults = Faults()
    reads_content: bool = True


class DeafPeer(ScriptedPeer):
    """Reads nothing behind DATA."""

    def accept(self, connection: Connection) -> ScriptedSession:
        session = super().accept(connection)
        received = session.received

        def hear(chunk: bytes) -> None:
            received(chunk)
            if b"DATA\r\n" in session.octets:
                connection.pause()

        session.received = hear  # type: ignore[method-assign]
        return session


READY = (BANNER, PLAIN)
# CONNECT, IDLE and QUIT are tests of their own below.
SILENCES: dict[Step, dict[str, Silence]] = {
    Step.BANNER: {
        "nothing": Silence((), limits.BANNER_S, None),
        "half a line": Silence(((b"", b"220-mx\r\n22"),), limits.BANNER_S, None),
    },
    Step.EHLO: {
        "nothing": Silence((BANNER,), limits.HELLO_S, None),
        "HELO": Silence((BANNER, HELO_ONLY), limits.HELLO_S, None),
    },
    Step.HELO: {"HELO": Silence((BANNER, HELO_ONLY), limits.HELLO_S, None)},
    Step.STARTTLS: {"nothing": Silence((BANNER, WITH_TLS), limits.STARTTLS_S, None)},
    Step.TLS: {
        "STARTTLS": Silence(
            (BANNER, WITH_TLS, STARTTLS), limits.TLS_HANDSHAKE_S, None, faults=Faults(tls=TlsConduct.STALLED)
        ),
        "implicit": Silence(
            (), limits.TLS_HANDSHAKE_S, None, policy={"implicit_tls": True}, faults=Faults(tls=TlsConduct.STALLED)
        ),
    },
    Step.AUTH: {
        "PLAIN": Silence(
            (BANNER, WITH_AUTH), limits.AUTH_S, None, policy={"credentials": PASSWORD, "tls": TlsLevel.NONE}
        ),
        "LOGIN": Silence(
            (BANNER, (WITH_AUTH[0], b"250-mx\r\n250 AUTH LOGIN\r\n"), (b"AUTH LOGIN\r\n", b"334 VXNlcm5hbWU6\r\n")),
            limits.AUTH_S, None, policy={"credentials": PASSWORD, "tls": TlsLevel.NONE},
        ),
    },
    Step.RSET: {"RSET": Silence((*READY, MAIL, REFUSED), limits.MAIL_S, again=True)},
    Step.MAIL: {"MAIL": Silence(READY, limits.MAIL_S)},
    Step.RCPT: {"RCPT": Silence((*READY, MAIL), limits.RCPT_S)},
    Step.DATA: {"DATA": Silence((*READY, MAIL, RCPT), limits.RCPT_S)},
    Step.EMPTY: {"lone dot": Silence((BANNER, PIPELINING, GROUP), limits.RCPT_S)},
    Step.CONTENT: {
        "blocked": Silence((*READY, MAIL, RCPT, DATA), limits.CONTENT_BLOCK_S, content=Stream(8), reads_content=False)
    },
    Step.CHUNK: {
        "chunk": Silence((BANNER, CHUNKING, BINARY_MAIL, RCPT), limits.CONTENT_BLOCK_S, BINARY, Stream(8)),
        "all chunks sent": Silence((BANNER, CHUNKING, BINARY_MAIL, RCPT), limits.CONTENT_BLOCK_S, BINARY),
    },
    Step.FINAL: {
        "dot": Silence((*READY, MAIL, RCPT, DATA, WHOLE), limits.FINAL_DOT_S),
        "LMTP": Silence((BANNER, LHLO, MAIL, RCPT, DATA, WHOLE), limits.FINAL_DOT_S, policy={"is_lmtp": True}),
    },
}  # fmt: skip
CASES = [
    pytest.param(step, each, id=f"{step.value}-{name}") for step, all in SILENCES.items() for name, each in all.items()
]


async def waited(stage: Stage, silence: Silence) -> tuple[float, SetupFailed | TransactionLost]:
    """Give how long the silence was borne, and what came of it."""
    peer = (ScriptedPeer if silence.reads_content else DeafPeer)(silence.steps)
    stage.network.faults = dict.fromkeys([("192.0.2.1", port) for port in range(40_000, 40_010)], silence.faults)
    session = await stage.dial_to(peer.accept, **silence.policy)
    began_s = stage.clock.monotonic()
    ended: object = await session.set_up()
    if silence.letter is not None:
        assert ended is None
        if silence.again:
            await session.transact(silence.letter, silence.content, b"")
        began_s = stage.clock.monotonic()
        ended = await session.transact(silence.letter, silence.content, b"")
    assert isinstance(ended, SetupFailed | TransactionLost)
    took_s = stage.clock.monotonic() - began_s
    await stage.clock.sleep(1.0)
    assert peer.sessions[0].lost_why or not silence.reads_content, "the connection is closed"
    return took_s, ended


def on_virtual_time(scenario: Callable[[Simulation], object]) -> None:
    async def main(simulation: Simulation) -> None:
        await scenario(simulation)  # type: ignore[misc]

    run_simulation(main, seed=1)


def test_the_table_has_every_step_of_the_client_machine() -> None:
    """A new step without a row here has no bound that anybody has seen."""
    assert set(Step) == {*SILENCES, Step.CONNECT, Step.IDLE, Step.QUIT}


@pytest.mark.parametrize(("step", "silence"), CASES)
def test_silence_ends_within_the_bound_of_its_step(step: Step, silence: Silence) -> None:
    """The failure is a deadline's, names the step, and comes when its time is up: neither before nor after."""

    async def scenario(simulation: Simulation) -> None:
        stage = Stage(simulation)
        took_s, ended = await waited(stage, silence)

        error = ended.said if isinstance(ended, SetupFailed) else ended.error
        assert isinstance(error, DeadlinePassed)
        assert silence.bound_s == pytest.approx(took_s, abs=1.0)

    on_virtual_time(scenario)


def test_a_dial_that_nobody_answers_ends() -> None:
    """Step.CONNECT: a host that swallows our packets costs ten seconds, and the mail is deferred."""

    async def scenario(simulation: Simulation) -> None:
        rig = SendRig(simulation)
        rig.network.faults[BEST, 25] = Faults(black_hole=True)
        began_s = rig.clock.monotonic()
        result = await rig.attempt()

        assert ["deferred"] == outcomes(result)
        assert limits.CONNECT_S == pytest.approx(rig.clock.monotonic() - began_s, abs=1.0)

    on_virtual_time(scenario)


@pytest.mark.parametrize("is_pooled", [True, False])
def test_an_idle_session_ends(is_pooled: bool) -> None:
    """Step.IDLE: in the pool for as long as the operator says, elsewhere (owned and not used) for five minutes."""

    async def scenario(simulation: Simulation) -> None:
        stage = Stage(simulation)
        session = await stage.ready((b"QUIT\r\n", b""))
        retired: list[Session] = []

        def retire(old: Session) -> None:
            retired.append(old)
            old.quit()

        if is_pooled:
            session.rest(5.0, retire)
        await stage.clock.sleep((5.0 if is_pooled else limits.MAIL_S) - 1.0)
        assert session.is_reusable
        await stage.clock.sleep(2.0)

        assert not session.is_reusable
        assert [session] * is_pooled == retired
        assert await stage.is_hung_up()

    on_virtual_time(scenario)


def test_quit_waits_for_nobody() -> None:
    """Step.QUIT: the host may stay silent; the connection closes at once."""

    async def scenario(simulation: Simulation) -> None:
        stage = Stage(simulation)
        session = await stage.ready((b"QUIT\r\n", b""))
        session.quit()

        assert await stage.is_hung_up()
        assert stage.octets.endswith(b"QUIT\r\n")

    on_virtual_time(scenario)


class DrippingPeer(ScriptedPeer):
    """After its script it goes on with a word every now and then, for ever."""

    def __init__(self, steps: Steps, clock: object, word: bytes, every_s: float) -> None:
        super().__init__(steps)
        self._clock, self._word, self._every_s = clock, word, every_s

    def accept(self, connection: Connection) -> ScriptedSession:
        session = super().accept(connection)

        def drip() -> None:
            if session.lost_why:
                return
            if not session.left:
                connection.write([self._word])
            self._clock.deadline(self._every_s, drip)  # type: ignore[attr-defined]

        drip()
        return session


DRIPS = {
    "banner octet by octet": ((), b"2", limits.BANNER_S, None, {}),
    "EHLO without end": ((BANNER,), b"250", limits.HELLO_S, None, {}),
    "reply to RCPT octet by octet": ((*READY, MAIL), b"x", ENVELOPE_S, LETTER, {}),
    "final reply octet by octet": ((*READY, MAIL, RCPT, DATA, WHOLE), b"x", limits.FINAL_DOT_S, LETTER, {}),
    "final replies of LMTP": (
        (BANNER, LHLO, MAIL, RCPT, DATA, WHOLE), b"x", FINALS_S, LETTER, {"is_lmtp": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DRIPS)
def test_dripping_does_not_keep_a_session_for_ever(name: str) -> None:
    """A host that says an octet a minute is waited for no longer than for a whole envelope, or all final replies."""
    steps, word, bound_s, letter, policy = DRIPS[name]

    async def scenario(simulation: Simulation) -> None:
        stage = Stage(simulation)
        peer = DrippingPeer(steps, stage.clock, word, 60.0)
        session = await stage.dial_to(peer.accept, **policy)
        began_s = stage.clock.monotonic()
        ended: object = await session.set_up()
        if letter is not None:
            assert ended is None
            ended = await session.transact(letter, CONTENT, b"")

        assert isinstance(ended, SetupFailed | TransactionLost)
        assert stage.clock.monotonic() - began_s <= bound_s + 1.0

    on_virtual_time(scenario)


def test_the_bounds_are_at_most_the_rfcs() -> None:
    """RFC 5321 4.5.3.2 names the least a client should wait; longer than ten minutes we wait for no single reply."""
    assert all(each.bound_s <= limits.FINAL_DOT_S for all in SILENCES.values() for each in all.values())
