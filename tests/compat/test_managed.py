# SPDX-License-Identifier: MIT
"""Managed relayers and their factories: each message's fate is told once, as the host meant it, and always the end.

Transcripts over a wire without a network; at the end of the file the same over loopback sockets, with TLS.
"""

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from tests.compat.sessions import (
    ACCEPTED,
    GREETING,
    AllEars,
    Ears,
    Session,
    Wire,
    open_files,
    watch_log,
    write_message,
)
from twisted.internet import reactor as _reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.mail import smtp
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer  # type: ignore[import-untyped]

from smarthost.compat.managed import (
    ESMTPManagedRelayer,
    ESMTPManagedRelayerFactory,
    ManagedRelayerMixin,
    SMTPManagedRelayer,
    SMTPManagedRelayerFactory,
)
from smarthost.mail.result import Outcome

reactor: Any = _reactor  # a module to a type checker
PEER: Any = IPv4Address("TCP", "192.0.2.1", 25)
IDENTITY = "relay.example.org"
SECRET = b"correct horse"


@pytest.fixture(autouse=True)
def log_lines() -> Iterator[list[str]]:
    """What Twisted's log says meanwhile; an error in it fails the test."""
    with watch_log() as lines:
        yield lines


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Three messages."""
    return [write_message(tmp_path / f"m{n}", f"s{n}@example.org", f"r{n}@example.net") for n in range(3)]


def connect(paths: list[str], ears: Ears | None = None) -> tuple[Session, Any]:
    """Give a session of an SMTP relayer as its factory makes it, and what is told."""
    told = AllEars() if ears is None else ears
    factory = SMTPManagedRelayerFactory(paths, told, IDENTITY)
    return Session(factory.buildProtocol(PEER)), told


def bare(names: list[Any], ears: Ears) -> Any:
    """Give the mixin alone, as Twisted's own tests have it."""
    relayer: Any = ManagedRelayerMixin(ears)
    relayer.messages = names[:]
    relayer.names = names[:]
    relayer.factory = object()
    return relayer


# -- the mixin alone


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (250, "success"),
        (251, "success"),
        (550, "failure"),
        (554, "failure"),
        (450, ""),
        (421, ""),
        (503, ""),
        (530, ""),
        (535, ""),
    ],
)
def test_the_mixin_alone_tells_what_a_reply_means(code: int, told: str) -> None:
    """2xx success, 5xx failure; 4xx, and a 5xx that is about our session, are the end of no message."""
    ears = Ears()
    relayer = bare([0, 2], ears)

    relayer.sentMail(code, None, None, None, None)

    assert ears.told == ([(told, 0)] if told else [])
    assert relayer.names == relayer.messages == [2]


def test_the_mixin_alone_tells_the_end() -> None:
    """Once, whatever the reason."""
    ears = Ears()
    relayer = bare([0], ears)

    relayer.connectionLost(Failure(Exception()))
    relayer.connectionLost(Failure(Exception()))

    assert ears.told == [("done",)]


def test_552_to_a_recipient_is_no_failure_and_to_the_content_it_is() -> None:
    """Old hosts say 552 for too many recipients."""
    ears = AllEars()
    relayer = bare(["a", "b"], ears)

    relayer.sentMail(552, b"full", 0, [("r@x", 552, b"full")], None)
    relayer.isContentSent = True
    relayer.sentMail(552, b"full", 1, [("r@x", 250, b"ok")], None)

    assert ears.told == [("verdict", "a"), ("verdict", "b"), ("failure", "b")]


@pytest.mark.parametrize(
    "resp",
    [
        b"5.7.1 \r\n\x00\x1b[2J\xff\xe2\x80\xae evil",
        b"x" * 65_536,
        b"\n".join([b"5.1.1 line"] * 100),
        b"\n".join([b"\xff" * 4000] * 1000),
        "text with \u2028 and \n é",
        b"",
        None,
    ],
)
def test_hostile_text_in_a_reply_gives_a_clean_bounded_verdict(resp: Any) -> None:
    """Whatever a host says with its 5xx, the message still fails, and reports and logs stay clean."""
    ears = AllEars()
    relayer = bare(["a"], ears)

    relayer.sentMail(550, resp, 0, [("r@x", 550, resp)], None)

    assert ears.told == [("verdict", "a"), ("failure", "a")]
    [verdict] = ears.verdicts["a"]
    assert verdict.reply.code == 550
    assert all(line.isprintable() or not line for line in verdict.reply.lines)
    assert sum(map(len, verdict.reply.lines)) <= 65_536
    assert verdict.why.isprintable()


@pytest.mark.parametrize("code", [-1, 0, 100, 199, 354, 600, 999])
def test_a_code_that_is_none_leaves_the_message_waiting(code: int) -> None:
    """What a program's own client makes up is temporary."""
    ears = AllEars()

    bare(["a"], ears).sentMail(code, b"hm", 0, [("r@x", code, b"hm")], None)

    assert ears.told == [("verdict", "a")]
    assert ears.verdicts["a"][0].outcome is Outcome.DEFERRED


# -- sessions


def test_each_message_of_a_session_is_told_in_order(tmp_path: Path, paths: list[str]) -> None:
    """Accepted, refused for now, refused for good: each is told as soon as it is known, the end last."""
    session, ears = connect(paths)
    session.hear(*GREETING)

    session.deliver()
    session.hear(b"250 ok", b"450 4.2.0 later", b"250 reset")
    session.hear(b"550 5.1.0 not you", b"250 reset", b"221 bye")
    session.lose()

    assert ears.told == [
        ("greeted", IDENTITY),
        ("success", paths[0]),
        ("verdict", paths[1]),
        ("verdict", paths[2]),
        ("failure", paths[2]),
        ("done",),
    ]
    [waits], [bounced] = ears.verdicts[paths[1]], ears.verdicts[paths[2]]
    assert (waits.outcome, waits.status, waits.host) == (Outcome.DEFERRED, "4.2.0", "mx.example.org")
    assert (bounced.outcome, bounced.status, bounced.reply.code) == (Outcome.BOUNCED, "5.1.0", 550)
    assert "answered MAIL" in bounced.why
    assert len(list(tmp_path.iterdir())) == 6  # files are the manager's business


def test_an_attempt_manager_of_old_hears_its_three_words_only(paths: list[str]) -> None:
    """A plain object with the classic notifications serves as it did."""
    session, ears = connect(paths, Ears())
    session.hear(*GREETING)

    session.deliver()
    session.hear(b"451 later", b"250 reset", b"550 no", b"250 reset", b"221 bye")
    session.lose()

    assert ears.told == [("success", paths[0]), ("failure", paths[2]), ("done",)]


def test_the_content_is_closed_as_soon_as_its_message_is_done_with(tmp_path: Path, paths: list[str]) -> None:
    """No descriptor waits for the next message or for the end of the connection."""
    session, _ = connect(paths[:1])
    session.hear(*GREETING, *ACCEPTED)
    session.pump()
    assert open_files(tmp_path) == ["m0-D"]

    session.hear(b"250 queued")

    assert open_files(tmp_path) == []
    session.lose()


@pytest.mark.parametrize(
    ("position", "reply", "told"),
    [
        (2, b"503 hm", "waits"),
        (2, b"530 5.7.0 log in first", "waits"),
        (2, b"535 5.7.8 no", "waits"),
        (2, b"550 no", "fails"),
        (3, b"552 too many", "waits"),
        (3, b"530 log in first", "waits"),
        (3, b"550 no", "fails"),
        (3, b"354 hm", "waits"),
        (4, b"554 no", "fails"),
        (4, b"503 hm", "waits"),
        (4, b"451 later", "waits"),
        (5, b"552 too large", "fails"),
        (5, b"503 hm", "fails"),
        (5, b"354 hm", "waits"),
        (5, b"450 later", "waits"),
    ],
)
def test_a_refusal_means_the_same_as_in_the_relay(position: int, reply: bytes, told: str, paths: list[str]) -> None:
    """Where a reply comes decides what it means; the failure policy is one for both."""
    session, ears = connect(paths[:1])
    session.hear(*[*GREETING, *ACCEPTED][:position])
    session.pump()

    assert session.hear(reply) == b"RSET\r\n"

    session.lose()
    failed = [("failure", paths[0])] if told == "fails" else []
    assert ears.told == [("greeted", IDENTITY), ("verdict", paths[0]), *failed, ("done",)]


def test_our_own_refusal_of_an_address_is_not_put_into_the_hosts_mouth(tmp_path: Path) -> None:
    """The report says that the address cannot be sent, not that a host refused it; the next message goes."""
    paths = [write_message(tmp_path / "a", "s@x", "a b@x"), write_message(tmp_path / "b", "s@x", "r@x")]
    session, ears = connect(paths)
    session.hear(*GREETING, b"250 ok", b"250 reset")

    session.deliver()
    session.lose()

    [verdict] = ears.verdicts[paths[0]]
    assert (verdict.outcome, verdict.status, verdict.reply) == (Outcome.BOUNCED, "5.1.3", None)
    assert "answered" not in verdict.why
    assert ears.told[1:] == [("verdict", paths[0]), ("failure", paths[0]), ("success", paths[1]), ("done",)]


def test_content_that_cannot_be_opened_waits_and_the_next_message_goes(paths: list[str]) -> None:
    """A disk's trouble is nobody's refusal."""
    Path(paths[0] + "-D").unlink()
    session, ears = connect(paths[:2])
    session.hear(*GREETING, *ACCEPTED[:2], b"250 reset")

    session.deliver()
    session.lose()

    [verdict] = ears.verdicts[paths[0]]
    assert (verdict.outcome, verdict.status, verdict.reply, verdict.ambiguous) == (
        Outcome.DEFERRED,
        "4.3.0",
        None,
        False,
    )
    assert ears.told[1:] == [("verdict", paths[0]), ("success", paths[1]), ("done",)]


# -- the end of the connection


@pytest.mark.parametrize(
    "heard", [[], [b"220 mx"], [b"554 go away"], [b"garbage"], [b"220 mx", b"550 no"], [b"220-mx"]]
)
def test_a_connection_lost_before_the_greeting_was_none(heard: list[bytes], paths: list[str]) -> None:
    """No connection, then done, each once; no message is judged."""
    session, ears = connect(paths)
    session.hear(*heard)

    session.lose(ConnectionLost())

    assert ears.told == [("no connection",), ("done",)]
    assert session.client.factory.whyNotConnected


def test_a_connection_lost_in_a_transaction_defers_its_message_only(paths: list[str]) -> None:
    """Whatever was said before: the present message waits by its schedule, the others as they did."""
    for heard in range(2, 5):
        session, ears = connect(paths)
        session.hear(*[*GREETING, *ACCEPTED][:heard])

        session.lose(ConnectionLost())

        assert ears.told == [("greeted", IDENTITY), ("verdict", paths[0]), ("done",)]
        [verdict] = ears.verdicts[paths[0]]
        assert (verdict.outcome, verdict.ambiguous) == (Outcome.DEFERRED, False)


def test_a_connection_lost_in_the_content_says_why_it_was_lost(paths: list[str]) -> None:
    """Not that a producer was stopped."""
    session, ears = connect(paths)
    session.hear(*GREETING, *ACCEPTED)

    session.lose(ConnectionLost("the cable"))

    [verdict] = ears.verdicts[paths[0]]
    assert "the cable" in verdict.why
    assert not verdict.ambiguous


def test_a_connection_lost_after_the_final_dot_is_ambiguous(paths: list[str]) -> None:
    """The host may have the message."""
    session, ears = connect(paths)
    session.hear(*GREETING, *ACCEPTED)
    session.pump()

    session.lose(ConnectionLost())

    [verdict] = ears.verdicts[paths[0]]
    assert (verdict.outcome, verdict.ambiguous) == (Outcome.DEFERRED, True)
    assert ears.told[-1] == ("done",)


def test_a_connection_lost_between_two_messages_judges_none(paths: list[str]) -> None:
    """The accepted one is done with, the others were not tried."""
    session, ears = connect(paths)
    session.hear(*GREETING, *ACCEPTED)
    session.pump()
    session.hear(b"250 queued")

    session.lose(ConnectionLost())

    assert ears.told == [("greeted", IDENTITY), ("success", paths[0]), ("done",)]


def test_a_refusal_before_the_contents_end_judges_its_message_only(paths: list[str]) -> None:
    """The next message was not tried, and is told nothing about."""
    session, ears = connect(paths)
    session.hear(*GREETING, *ACCEPTED)

    session.hear(b"552 5.3.4 too large")
    session.lose()

    assert ears.told == [("greeted", IDENTITY), ("verdict", paths[0]), ("failure", paths[0]), ("done",)]


@pytest.mark.parametrize("reply", [b"251 hm", b"garbage"])
def test_a_host_out_of_step_has_delivered_nothing(reply: bytes, paths: list[str]) -> None:
    """The message waits; none is told as success or failure."""
    session, ears = connect(paths)
    session.hear(*GREETING, reply)

    session.lose()

    assert ears.told == [("greeted", IDENTITY), ("verdict", paths[0]), ("done",)]


@pytest.mark.parametrize(
    ("heard", "told", "limit"),
    [(0, "no connection", 60), (1, "no connection", 60), (2, "verdict", 600), (5, "verdict", 600)],
)
def test_a_silent_host_is_given_up_and_the_attempt_hears_of_it(
    heard: int, told: str, limit: int, paths: list[str]
) -> None:
    """After ten minutes, or one before mail was spoken of; the reason is told, and no deadline is left."""
    session, ears = connect(paths)
    session.hear(*[*GREETING, *ACCEPTED][:heard])
    session.pump()

    session.clock.advance(limit + 1)
    assert session.is_aborted
    session.lose(ConnectionDone())

    assert told in [word[0] for word in ears.told]
    assert ears.told[-1] == ("done",)
    whys = [session.client.factory.whyNotConnected, *[verdict.why for verdict in ears.verdicts.get(paths[0], [])]]
    assert any(f"nothing heard for {limit}.0 s" in why for why in whys)


def test_a_manager_that_raises_is_told_the_end_all_the_same(paths: list[str], log_lines: list[str]) -> None:
    """A disk that is full when a success is noted ends the session; the place of the connection is free again."""

    class Raising(AllEars):
        def notifySuccess(self, relay: Any, message: Any) -> None:
            raise OSError(28, "No space left on device")

    session, ears = connect(paths, Raising())
    session.hear(*GREETING)

    session.deliver()
    session.lose()

    assert ears.told == [("greeted", IDENTITY), ("done",)]  # no verdict about the next message either
    assert any("No space left" in line for line in log_lines)


def test_a_manager_that_raises_at_the_end_is_told_the_end_all_the_same(paths: list[str]) -> None:
    """Its own trouble with one notification does not keep the other from it."""

    class Raising(AllEars):
        def notifyNoConnection(self, relay: Any) -> None:
            raise RuntimeError("bug")

    session, ears = connect(paths, Raising())

    with pytest.raises(RuntimeError, match="bug"):
        session.client.connectionLost(connectionDone)

    assert ears.told == [("done",)]
    assert session.clock.getDelayedCalls() == []


def test_a_program_that_chooses_its_own_sender_is_greeted_all_the_same(paths: list[str]) -> None:
    """A subclass that overrides getMailFrom without calling ours has a connection, not none."""

    class Rewriting(SMTPManagedRelayer):
        def getMailFrom(self) -> str | None:
            return "bounces@example.org" if self.messages else None

    ears = AllEars()
    factory = SMTPManagedRelayerFactory(paths[:1], ears, IDENTITY)
    factory.protocol = Rewriting
    session = Session(factory.buildProtocol(PEER))

    assert session.hear(*GREETING).endswith(b"MAIL FROM:<bounces@example.org>\r\n")
    session.deliver()
    session.lose()

    assert ears.told == [("greeted", IDENTITY), ("success", paths[0]), ("done",)]


REPLIES = [
    *GREETING,
    *ACCEPTED,
    b"250-mx\r\n250-AUTH LOGIN\r\n250 STARTTLS",
    b"221 bye",
    b"235 in",
    b"334 VXNlcm5hbWU6",
    b"421 busy",
    b"450 later",
    b"503 hm",
    b"550 no",
    b"250-",
    b"garbage",
    b"250 a\r\n250 b\r\n354 c\r\n250 d",
]


@pytest.fixture(scope="module")
def lasting_paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three messages for many sessions."""
    directory = tmp_path_factory.mktemp("queue")
    return [write_message(directory / f"m{n}", "s@example.org", "r@example.net") for n in range(3)]


PROPER = {b"STARTTLS": b"220 go", b"AUTH": b"334 VXNlcm5hbWU6", b"DATA": b"354 go on", b"QUIT": b"221 bye"}


def answer(said: bytes) -> bytes:
    """Give what a proper host says to the last line; most commands and the final dot are answered with 250."""
    verb = said.removesuffix(b"\r\n").rpartition(b"\n")[2].partition(b" ")[0]
    return PROPER.get(verb, b"250 ok")


# None: the proper answer
WORDS = st.none() | st.none() | st.none() | st.none() | st.sampled_from(REPLIES)


@given(st.lists(WORDS, max_size=30), st.integers(0, 12), st.sampled_from([None, "a context"]))
def test_whatever_a_host_says_each_message_ends_at_most_once_and_the_attempt_once(
    lasting_paths: list[str], words: list[bytes | None], unread: int, context: Any
) -> None:
    """Any replies at any time: no more successes than final dots, one end, no file and no deadline left."""
    ears = AllEars()
    factory = ESMTPManagedRelayerFactory(lasting_paths, ears, SECRET, context, IDENTITY)
    session = Session(factory.buildProtocol(PEER))
    session.client.registerAuthenticator(smtp.LOGINAuthenticator(b"alice"))

    said = session.hear(b"220 mx")
    for n, word in enumerate(words):
        said += session.hear(answer(said) if word is None else word)
        if n != unread:
            said += session.pump()
    session.lose(ConnectionLost())

    ended = [word[1] for word in ears.told if word[0] in ("success", "failure")]
    assert len(ended) == len(set(ended))
    assert ended == [path for path in lasting_paths if path in ended]
    assert len([word for word in ears.told if word[0] == "success"]) <= said.count(b"\r\n.\r\n")
    assert ears.told.count(("done",)) == 1
    assert ears.told[-1] == ("done",)
    assert (("no connection",) in ears.told) != (("greeted", IDENTITY) in ears.told)
    assert all(len(verdicts) == 1 for verdicts in ears.verdicts.values())
    assert not {word[1] for word in ears.told if word[0] == "success"} & ears.verdicts.keys()
    assert open_files(Path(lasting_paths[0]).parent) == []
    assert context is None or base64.b64encode(SECRET) not in said or session.wire.tls is not None


# -- factories


def test_a_factory_has_the_attributes_of_the_original(paths: list[str]) -> None:
    """messages, manager, pArgs, pKwArgs, protocol; and secret and contextFactory with ESMTP."""
    ears = Ears()
    plain = SMTPManagedRelayerFactory(paths, ears, IDENTITY, logsize=3)
    esmtp = ESMTPManagedRelayerFactory(paths, ears, SECRET, "a context", IDENTITY)

    assert (plain.messages, plain.manager, plain.pArgs, plain.pKwArgs) == (paths, ears, (IDENTITY,), {"logsize": 3})
    assert plain.protocol is SMTPManagedRelayer
    assert (esmtp.messages, esmtp.manager, esmtp.pArgs, esmtp.pKwArgs) == (paths, ears, (IDENTITY,), {})
    assert (esmtp.secret, esmtp.contextFactory, esmtp.protocol) == (SECRET, "a context", ESMTPManagedRelayer)
    assert plain.buildProtocol(PEER).factory is plain
    made = esmtp.buildProtocol(PEER)
    assert (made.factory, made.manager, made.secret, made.context) == (esmtp, ears, SECRET, "a context")
    assert made.identity == IDENTITY.encode()


@pytest.mark.parametrize(
    ("secret", "given"),
    [
        (SECRET, SECRET),
        ("correct horse", SECRET),
        (None, None),
        (lambda address: SECRET if address is PEER else None, SECRET),
        (lambda address: "correct horse", SECRET),
        (lambda address: None, None),
    ],
)
def test_a_secret_is_octets_or_a_callable_of_the_address(secret: Any, given: Any, paths: list[str]) -> None:
    """As the original documents it, and as it calls it; text is taken for its octets."""
    factory = ESMTPManagedRelayerFactory(paths, Ears(), secret, None, IDENTITY)

    assert factory.buildProtocol(PEER).secret == given


def test_a_declined_password_is_no_connection_and_fails_no_message(paths: list[str]) -> None:
    """A program's relayer that logs in: 535 leaves all messages waiting, and says why."""

    class LoggingIn(ESMTPManagedRelayer):
        def __init__(self, *args: Any, **kw: Any) -> None:
            super().__init__(*args, **kw)
            self.registerAuthenticator(smtp.CramMD5ClientAuthenticator(b"alice"))

    class LoggingInFactory(ESMTPManagedRelayerFactory):
        protocol = LoggingIn

    ears = AllEars()
    factory = LoggingInFactory(paths, ears, SECRET, None, IDENTITY)
    session = Session(factory.buildProtocol(PEER))
    session.hear(b"220 mx", b"250-mx\r\n250 AUTH CRAM-MD5", b"334 PDE+", b"535 5.7.8 no", b"221 bye")
    session.lose()

    assert ears.told == [("no connection",), ("done",)]
    assert factory.whyNotConnected == "535 5.7.8 no"


def _raising(*_: Any, **__: Any) -> Any:
    raise ValueError("no password today")


@pytest.mark.parametrize("what", ["secret", "protocol", "nothing made"])
def test_a_relayer_that_cannot_be_made_ends_the_attempt(what: str, paths: list[str], log_lines: list[str]) -> None:
    """A program's callable that raises is logged; an attempt manager of old hears of no connection."""
    ears = AllEars()
    factory = ESMTPManagedRelayerFactory(paths, ears, _raising if what == "secret" else None, None, IDENTITY)
    if what != "secret":
        factory.protocol = _raising if what == "protocol" else lambda *_: None

    assert factory.buildProtocol(PEER) is None
    assert ears.told == []
    factory.clientConnectionLost(None, Failure(ConnectionDone()))

    assert ears.told == [("no connection",), ("done",)]
    assert "while the relayer was made" in factory.whyNotConnected
    assert any("no relayer" in line for line in log_lines)


def test_a_relayer_that_cannot_be_made_is_no_fault_of_the_host(paths: list[str]) -> None:
    """An attempt manager that has a word for it hears this one only, with the reason, and no password."""

    class Understanding(AllEars):
        def notifyBroken(self, relay: Any, why: str) -> None:
            self.told.append(("broken", relay, why))

    ears = Understanding()
    factory = ESMTPManagedRelayerFactory(paths, ears, _raising, None, IDENTITY)
    assert factory.buildProtocol(PEER) is None

    factory.clientConnectionLost(None, Failure(ConnectionDone()))

    assert ears.told == [("broken", factory, "ValueError while the relayer was made")]


class Declining(SMTPManagedRelayerFactory):
    """A program's factory that wants no relayer for this address."""

    def buildProtocol(self, addr: Any) -> Any:
        return None


class ThinkingAgain(SMTPManagedRelayerFactory):
    """A program's factory that makes a relayer and then does not want it."""

    def buildProtocol(self, addr: Any) -> Any:
        super().buildProtocol(addr)
        return None


class Taciturn(SMTPManagedRelayerFactory):
    """A program's factory of protocols that tell nobody anything."""

    protocol = staticmethod(lambda *_: Protocol())


@pytest.mark.parametrize("kind", [Declining, ThinkingAgain, Taciturn])
def test_a_factory_without_a_relayer_of_ours_leaves_no_attempt_open(kind: Any, paths: list[str]) -> None:
    """The end is told for each connection, with a reason: the factory may be used for the next host, too."""
    ears = AllEars()
    factory = kind(paths, ears, IDENTITY)

    for _ in range(2):
        factory.buildProtocol(PEER)
        factory.clientConnectionLost(None, Failure(ConnectionDone()))

    assert ears.told == [("no connection",), ("done",)] * 2
    assert factory.whyNotConnected


def test_each_connection_of_a_factory_is_told_for_itself(paths: list[str]) -> None:
    """No secret, none wanted, a relayer, none wanted: for four hosts one after the other no end is missed or false."""
    secrets = iter([_raising, lambda: None])

    class Choosing(ESMTPManagedRelayerFactory):
        def buildProtocol(self, addr: Any) -> Any:
            return super().buildProtocol(addr) if addr is PEER else None

    ears = AllEars()
    factory = Choosing(paths[:1], ears, lambda _: next(secrets)(), None, IDENTITY)
    assert factory.buildProtocol(PEER) is None
    factory.clientConnectionLost(None, Failure(ConnectionDone()))
    factory.buildProtocol(None)
    factory.clientConnectionLost(None, Failure(ConnectionDone()))
    assert "no relayer of ours" in factory.whyNotConnected
    session = Session(factory.buildProtocol(PEER))
    session.hear(*GREETING)
    session.deliver()
    session.lose()
    factory.clientConnectionLost(None, Failure(ConnectionDone()))
    factory.buildProtocol(None)

    factory.clientConnectionLost(None, Failure(ConnectionDone()))

    none = [("no connection",), ("done",)]
    assert ears.told == [*none, *none, ("greeted", IDENTITY), ("success", paths[0]), ("done",), *none]


def test_a_protocol_that_told_of_messages_and_forgot_the_end_had_a_connection(paths: list[str]) -> None:
    """What was said about messages stands; the host was there."""

    class Hearing(AllEars):
        _isHeard = True

    ears = Hearing()
    factory = Taciturn(paths, ears, IDENTITY)
    factory.buildProtocol(PEER)

    factory.clientConnectionLost(None, Failure(ConnectionDone()))

    assert ears.told == [("done",)]


def test_a_relayer_that_a_programs_factory_made_itself_tells_the_end_once(paths: list[str]) -> None:
    """A buildProtocol that never asks ours, but makes a relayer of ours, is an ordinary one."""

    class Making(SMTPManagedRelayerFactory):
        def buildProtocol(self, addr: Any) -> Any:
            made = SMTPManagedRelayer(self.messages, self.manager, *self.pArgs)
            made.factory = self
            return made

    ears = AllEars()
    factory = Making(paths[:1], ears, IDENTITY)
    for _ in range(2):
        session = Session(factory.buildProtocol(PEER))
        session.hear(*GREETING)
        session.lose()
        factory.clientConnectionLost(None, Failure(ConnectionDone()))

    assert ears.told == [("greeted", IDENTITY), ("verdict", paths[0]), ("done",)] * 2


def test_deadlines_are_kept_by_the_reactor_of_the_attempt(paths: list[str]) -> None:
    """A program that runs a reactor of its own has timeouts; an attempt manager without one changes nothing."""

    class Clocked(AllEars):
        reactor: Any = None

    for clock in (Clock(), None):
        ears = Clocked()
        ears.reactor = clock
        made = SMTPManagedRelayerFactory(paths, ears, IDENTITY).buildProtocol(PEER)

        assert ("callLater" in vars(made)) == (clock is not None)
        if clock is not None:
            wire = Wire()
            made.makeConnection(wire)
            clock.advance(61)
            assert wire.disconnected


def test_a_program_whose_sent_mail_raises_has_each_message_settled_once(paths: list[str], log_lines: list[str]) -> None:
    """What the host said stands: accepted is accepted, refused refused; the session goes on."""

    class Counting(SMTPManagedRelayer):
        def sentMail(self, *told: Any) -> None:
            raise RuntimeError("no statistics today")

    ears = AllEars()
    factory = SMTPManagedRelayerFactory(paths, ears, IDENTITY)
    factory.protocol = Counting
    session = Session(factory.buildProtocol(PEER))
    session.hear(*GREETING)

    session.deliver()
    session.hear(b"550 no", b"250 reset")
    session.deliver()
    session.lose()

    assert [word for word in ears.told if word[0] != "verdict"] == [
        ("greeted", IDENTITY),
        ("success", paths[0]),
        ("failure", paths[1]),
        ("success", paths[2]),
        ("done",),
    ]
    assert sum("no statistics today" in line for line in log_lines) == 3


def test_a_connection_whose_end_the_factory_never_heard_of_does_not_hide_the_next_end(paths: list[str]) -> None:
    """A program's clientConnectionLost that was skipped once leaves nothing behind."""
    ears = AllEars()
    factory = SMTPManagedRelayerFactory(paths, ears, IDENTITY)
    Session(factory.buildProtocol(PEER)).lose()
    factory.protocol = Taciturn.protocol
    factory.buildProtocol(PEER)

    factory.clientConnectionLost(None, Failure(ConnectionDone()))

    assert ears.told == [("no connection",), ("done",)] * 2


@pytest.mark.parametrize("poison", [0, 1, 2])
def test_a_program_whose_get_mail_from_raises_defers_that_message_only(
    poison: int, paths: list[str], log_lines: list[str]
) -> None:
    """It waits with a reason of ours; the others go over the same connection."""

    class Choosing(SMTPManagedRelayer):
        def getMailFrom(self) -> str | None:
            sender = super().getMailFrom()
            if sender == f"s{poison}@example.org":
                raise ValueError("no return path for this one")
            return sender

    ears = AllEars()
    factory = SMTPManagedRelayerFactory(paths, ears, IDENTITY)
    factory.protocol = Choosing
    session = Session(factory.buildProtocol(PEER))
    session.hear(*GREETING)

    for n in range(3):
        if n == poison:
            assert session.hear(b"250 reset").endswith((b"MAIL FROM:<s%d@example.org>\r\n" % (n + 1), b"QUIT\r\n"))
        else:
            session.deliver()
    session.lose()

    told = [("verdict" if n == poison else "success", path) for n, path in enumerate(paths)]
    assert [word for word in ears.told if word[1:] != (IDENTITY,)] == [*told, ("done",)]
    [verdict] = ears.verdicts[paths[poison]]
    assert (verdict.outcome, verdict.status, verdict.reply) == (Outcome.DEFERRED, "4.3.0", None)
    assert "no return path" in verdict.why
    assert any("getMailFrom" in line and "no return path" in line for line in log_lines)


def test_a_program_whose_get_mail_from_raises_without_a_message_ends_its_session(paths: list[str]) -> None:
    """There is nothing to defer, and nothing is deferred for ever."""

    class Careless(SMTPManagedRelayer):
        def getMailFrom(self) -> str | None:
            return str(self.messages[0][0])

    ears = AllEars()
    factory = SMTPManagedRelayerFactory(paths[:1], ears, IDENTITY)
    factory.protocol = Careless
    session = Session(factory.buildProtocol(PEER))
    session.hear(*GREETING)

    session.deliver()

    assert session.is_aborted
    session.lose()
    assert ears.told == [("greeted", IDENTITY), ("success", paths[0]), ("done",)]


def test_a_failed_connection_is_told_with_its_reason(paths: list[str]) -> None:
    """No connection, then done."""
    ears = AllEars()
    factory = SMTPManagedRelayerFactory(paths, ears, IDENTITY)

    factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))

    assert ears.told == [("no connection",), ("done",)]
    assert "refused" in factory.whyNotConnected


def test_a_usual_end_is_told_once(paths: list[str], log_lines: list[str]) -> None:
    """Twisted tells the relayer and then its factory; the manager hears it from one of them."""
    session, ears = connect(paths)
    session.lose()

    session.client.factory.clientConnectionLost(None, Failure(ConnectionDone()))

    assert ears.told == [("no connection",), ("done",)]
    assert log_lines == []


def test_a_program_whose_connection_lost_calls_nothing_keeps_no_place(tmp_path: Path, paths: list[str]) -> None:
    """A subclass that forgets the one it overrides: the end is told, the file closed, the deadline dropped."""

    class Forgetful(SMTPManagedRelayer):
        def connectionLost(self, reason: Failure = connectionDone) -> None:
            pass

    ears = AllEars()
    factory = SMTPManagedRelayerFactory(paths, ears, IDENTITY)
    factory.protocol = Forgetful
    session = Session(factory.buildProtocol(PEER))
    session.hear(*GREETING, *ACCEPTED)
    session.client.connectionLost(connectionDone)

    factory.clientConnectionLost(None, connectionDone)

    assert ears.told == [("greeted", IDENTITY), ("verdict", paths[0]), ("done",)]
    assert session.clock.getDelayedCalls() == []
    assert open_files(tmp_path) == []


# -- over loopback sockets


class Script(LineReceiver):
    """A host that answers each line with the next of its replies; None closes, a callable is called."""

    factory: "Host"
    transport: Any

    def connectionMade(self) -> None:
        self.factory.hosts.append(self)
        self.replies = list(self.factory.replies)
        self.in_content = False
        self.answer()

    def lineReceived(self, line: bytes) -> None:
        self.factory.heard.append(line)
        if self.in_content and line != b".":
            return
        self.in_content = False
        self.answer()

    def answer(self) -> None:
        if not self.replies:
            return
        reply = self.replies.pop(0)
        if callable(reply):
            reply(self)
            return
        self.in_content = reply.startswith(b"354")
        self.sendLine(reply)


class Host(Factory):
    """Listens on loopback until the test is over."""

    protocol: Any = Script

    def __init__(self, case: TestCase, *replies: Any) -> None:
        self.hosts: list[Script] = []
        self.heard: list[bytes] = []
        self.replies = replies
        port = reactor.listenTCP(0, self, interface="127.0.0.1")
        self.port = port.getHost().port
        case.addCleanup(port.stopListening)
        case.addCleanup(lambda: [host.transport.abortConnection() for host in self.hosts if host.transport])


class Attempt(AllEars):
    """Tells when it is over."""

    def __init__(self) -> None:
        super().__init__()
        self.over: Deferred[None] = Deferred()

    def notifyDone(self, relay: Any) -> None:
        super().notifyDone(relay)
        reactor.callLater(0, self.over.callback, None)  # not before the factory was told, too


@implementer(IOpenSSLContextFactory)
class TlsContext:
    """A contextFactory as programs of old have it: with getContext."""

    def __init__(self, key_and_chain: Path | None, trusted: Path | None) -> None:
        self.context = SSL.Context(SSL.TLS_METHOD)
        if key_and_chain is not None:
            self.context.use_privatekey_file(str(key_and_chain))
            self.context.use_certificate_chain_file(str(key_and_chain))
        if trusted is not None:
            self.context.load_verify_locations(str(trusted))
            self.context.set_verify(SSL.VERIFY_PEER)

    def getContext(self) -> SSL.Context:
        return self.context


class LoopbackTests(TestCase):
    """The same over real sockets; trial finds what is left in the reactor, and errors in the log."""

    timeout = 20

    @pytest.fixture(autouse=True)
    def begin(self, tmp_path: Path) -> None:
        """Have a queue directory and an attempt; trial's own mktemp would leave its directories where we stand."""
        self.directory = tmp_path
        self.attempt = Attempt()

    def message(self, name: str, content: bytes = b"Subject: hi\n\n.\n") -> str:
        return write_message(self.directory / name, "s@example.org", "r@example.net", content)

    async def relay(self, host: Host, factory: Any) -> list[tuple[Any, ...]]:
        reactor.connectTCP("127.0.0.1", host.port, factory)
        await self.attempt.over
        self.assertEqual(open_files(self.directory), [])
        return self.attempt.told

    def plain(self, *paths: str) -> SMTPManagedRelayerFactory:
        return SMTPManagedRelayerFactory(paths, self.attempt, IDENTITY)

    async def test_two_messages_go_over_one_connection(self) -> None:
        """The second content is read in many pieces."""
        big = b"".join(b".%d\n" % n for n in range(50_000))
        paths = [self.message("a"), self.message("b", big)]
        again = (b"250 reset", *ACCEPTED, b"250 queued")
        host = Host(self, *GREETING, *ACCEPTED, b"250 queued", *again, b"250 reset", b"221 bye")

        told = await self.relay(host, self.plain(*paths))

        self.assertEqual(told, [("greeted", IDENTITY), ("success", paths[0]), ("success", paths[1]), ("done",)])
        sent = [line for line in host.heard if line.startswith(b"..")]
        self.assertEqual(b"".join(line[1:] + b"\n" for line in sent), b".\n" + big)

    async def test_replies_sent_ahead_deliver_nothing(self) -> None:
        """All of a session's replies in one packet, before anything was asked."""
        path = self.message("a")
        ahead = b"\r\n".join([*GREETING, *ACCEPTED, b"250 queued", b"250 reset", b"221 bye"])

        told = await self.relay(Host(self, ahead), self.plain(path))

        self.assertEqual(told, [("greeted", IDENTITY), ("verdict", path), ("done",)])
        self.assertFalse(self.attempt.verdicts[path][0].ambiguous)

    @pytest.mark.slow
    async def test_a_host_that_reads_no_content_is_given_up(self) -> None:
        """Its window is full, and nothing moves until the deadline."""
        path = self.message("a", b"x" * (16 << 20))
        host = Host(
            self, *GREETING, *ACCEPTED[:2], lambda script: (script.sendLine(b"354 go on"), script.pauseProducing())
        )
        factory = self.plain(path)
        factory.protocol = type("Hasty", (SMTPManagedRelayer,), {"timeout": 0.5})

        told = await self.relay(host, factory)

        self.assertEqual(told, [("greeted", IDENTITY), ("verdict", path), ("done",)])
        self.assertIn("nothing heard for 0.5 s", self.attempt.verdicts[path][0].why)

    async def test_a_host_that_resets_the_connection_after_the_dot_is_ambiguous(self) -> None:
        """The message waits, and may come twice."""
        path = self.message("a")
        host = Host(self, *GREETING, *ACCEPTED, lambda script: script.transport.abortConnection())

        told = await self.relay(host, self.plain(path))

        self.assertEqual(told, [("greeted", IDENTITY), ("verdict", path), ("done",)])
        self.assertTrue(self.attempt.verdicts[path][0].ambiguous)

    async def test_nobody_listens(self) -> None:
        """A refused connection is told with its reason."""
        listener = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
        port = listener.getHost().port
        await listener.stopListening()
        factory = self.plain(self.message("a"))

        reactor.connectTCP("127.0.0.1", port, factory)
        await self.attempt.over

        self.assertEqual(self.attempt.told, [("no connection",), ("done",)])
        self.assertIn("refused", factory.whyNotConnected)

    async def test_a_secret_that_raises_ends_the_attempt(self) -> None:
        """The connection that was made is closed."""
        host = Host(self, *GREETING)

        told = await self.relay(
            host, ESMTPManagedRelayerFactory([self.message("a")], self.attempt, _raising, None, IDENTITY)
        )

        self.assertEqual(told, [("no connection",), ("done",)])

    def secured(self, *after: Any, behind: bytes = b"") -> tuple[Host, Any, Callable[[], Any]]:
        """Give a host with STARTTLS, a factory of relayers that log in there, and what makes the host's name known."""
        authority = trustme.CA()
        key_and_chain, trusted = self.directory / "host.pem", self.directory / "authority.pem"
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(key_and_chain))
        authority.cert_pem.write_to_path(str(trusted))
        theirs, ours = TlsContext(key_and_chain, None), TlsContext(None, trusted)

        def start(script: Script) -> None:
            script.transport.write(b"220 go ahead\r\n" + behind)
            if not behind:
                script.transport.startTLS(theirs)

        class LoggingIn(ESMTPManagedRelayer):
            def __init__(self, *args: Any, **kw: Any) -> None:
                super().__init__(*args, **kw)
                self.registerAuthenticator(smtp.PLAINAuthenticator(b"alice"))

        host = Host(self, b"220 mx", b"250-mx\r\n250-AUTH PLAIN\r\n250 STARTTLS", start, *after)
        return host, LoggingIn, lambda: ours

    async def test_mail_goes_under_tls_with_a_login(self) -> None:
        """STARTTLS, AUTH, one message of many pieces; the host's first answer counts no more."""
        path = self.message("a", b"line\n" * 50_000)
        host, relayer, context = self.secured(
            b"250-mx\r\n250 AUTH PLAIN", b"235 in", *ACCEPTED, b"250 queued", b"250 reset", b"221 bye"
        )
        factory = ESMTPManagedRelayerFactory([path], self.attempt, lambda address: SECRET, context(), IDENTITY)
        factory.protocol = relayer

        told = await self.relay(host, factory)

        self.assertEqual(told, [("greeted", IDENTITY), ("success", path), ("done",)])
        self.assertEqual(host.heard.count(b"line"), 50_000)
        self.assertEqual([line[:4] for line in host.heard[:4]], [b"EHLO", b"STAR", b"EHLO", b"AUTH"])

    async def test_a_refusal_in_the_middle_of_content_under_tls_ends_the_session(self) -> None:
        """The transport that asks for more content meanwhile gets none, and no final dot goes out."""
        path = self.message("a", b"line\n" * 2_000_000)

        def refuse(script: Script) -> None:
            script.sendLine(b"354 go on")
            script.sendLine(b"552 5.3.4 too large")
            script.in_content = True

        host, relayer, context = self.secured(b"250 mx", *ACCEPTED[:2], refuse)
        factory = ESMTPManagedRelayerFactory([path], self.attempt, None, context(), IDENTITY)
        factory.protocol = relayer

        told = await self.relay(host, factory)

        self.assertEqual(told, [("greeted", IDENTITY), ("verdict", path), ("failure", path), ("done",)])
        self.assertNotIn(b".", host.heard)

    async def test_a_host_that_stalls_in_the_tls_handshake_is_given_up(self) -> None:
        """It says 220 and then nothing more; the deadline of the greeting ends this, too."""
        path = self.message("a")
        host = Host(self, b"220 mx", b"250-mx\r\n250 STARTTLS", b"220 go ahead", lambda script: None)
        _, relayer, context = self.secured()
        factory = ESMTPManagedRelayerFactory([path], self.attempt, SECRET, context(), IDENTITY)
        factory.protocol = type("Hasty", (relayer,), {"greetingTimeout": 0.2})

        told = await self.relay(host, factory)

        self.assertEqual(told, [("no connection",), ("done",)])
        self.assertEqual(factory.whyNotConnected, "nothing heard for 0.2 s")

    async def test_a_factory_that_declines_ends_the_attempt(self) -> None:
        """Twisted closes the connection, and the factory hears of it."""
        factory = Declining([self.message("a")], self.attempt, IDENTITY)

        told = await self.relay(Host(self, *GREETING), factory)

        self.assertEqual(told, [("no connection",), ("done",)])

    async def test_octets_behind_the_reply_to_starttls_deliver_nothing(self) -> None:
        """They came in clear, from anybody."""
        path = self.message("a")
        host, relayer, context = self.secured(behind=b"250-mx\r\n250 AUTH PLAIN\r\n")
        factory = ESMTPManagedRelayerFactory([path], self.attempt, SECRET, context(), IDENTITY)
        factory.protocol = relayer

        told = await self.relay(host, factory)

        self.assertEqual(told, [("no connection",), ("done",)])
        self.assertEqual([line[:4] for line in host.heard], [b"EHLO", b"STAR"])

    async def test_a_host_with_a_foreign_certificate_gets_no_password(self) -> None:
        """The handshake fails, and the reason is told."""
        path = self.message("a")
        host, relayer, _ = self.secured(b"250 mx")
        _, _, other = self.secured()
        factory = ESMTPManagedRelayerFactory([path], self.attempt, SECRET, other(), IDENTITY)
        factory.protocol = relayer

        told = await self.relay(host, factory)

        self.assertEqual(told, [("no connection",), ("done",)])
        self.assertTrue(factory.whyNotConnected)
        self.assertEqual([line[:4] for line in host.heard], [b"EHLO", b"STAR"])
