# SPDX-License-Identifier: MIT
"""XTRANSFER: what one node writes another reads, nothing else is read, and only who is offered it may say it."""

from base64 import urlsafe_b64encode
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.smtp.server_session import SETTINGS, Session

from smarthost.mail.envelope import Body, DsnRequest, Notify
from smarthost.mail.errors import LocalProtocolError
from smarthost.mail.progress import Origin, Progress
from smarthost.mail.reply import reply
from smarthost.mail.settlement import State
from smarthost.smtp.exchange import Transaction, compose
from smarthost.smtp.extensions import Extensions, parse_extensions
from smarthost.smtp.limits import COMMAND_LINE_OCTETS, TRANSFER_LINE_OCTETS
from smarthost.smtp.offer import Offer
from smarthost.smtp.transfer import read_origin, read_progress, write_origin, write_progress
from smarthost.smtp.wire import MailReceived, RcptReceived

ORIGIN = Origin(1_800_000_000.25, "192.0.2.7", "alice", "alice")
WAITING = Progress(State.DEFERRED, 1_800_003_600.5, 3, "4.2.0", "450 4.2.0 Später", "grey", "mx.example.net", True)
HELD = Progress(State.HELD, 1_800_100_000.0)
NODE = Offer(transfer=True)
HELLO = "EHLO node.example"
MAIL = f"MAIL FROM:<a@b.example> XTRANSFER={write_origin(ORIGIN)}"
RCPT = f"RCPT TO:<c@d.example> XTRANSFER={write_progress(WAITING)}"
_TIMES = st.floats(0, 253_402_300_799, allow_nan=False)


def value(fields: object) -> bytes:
    """Write JSON as a parameter's value."""
    return urlsafe_b64encode(fields if isinstance(fields, bytes) else msgspec.json.encode(fields)).rstrip(b"=")


@pytest.mark.parametrize("progress", [WAITING, HELD], ids=["waiting", "held"])
def test_what_is_written_is_read(progress: Progress) -> None:
    """Every field comes back, times to the last bit."""
    assert read_progress(write_progress(progress).encode()) == progress
    assert read_origin(write_origin(ORIGIN).encode()) == ORIGIN


@given(_TIMES, st.integers(0, 2**31 - 1), st.text(), st.text(), st.text(), st.text())
def test_whatever_is_stored_can_travel(due: float, attempts: int, status: str, said: str, why: str, host: str) -> None:
    """No text that a store may hold keeps a message from being moved: it arrives, cleaned and cut if need be."""
    written = write_progress(Progress(State.DEFERRED, due, attempts, status, said, why, host)).encode()

    read = read_progress(written)
    assert read is not None
    assert (read.due, read.attempts) == (due, attempts)
    assert len(written) <= TRANSFER_LINE_OCTETS - 900
    if said.isprintable() and len(said.encode()) <= 4000:
        assert read.last_reply == said


def test_the_longest_of_all_commands_fits_the_line() -> None:
    """A recipient of whom a host said the most, in characters that cost the most, with all parameters there are."""
    worst = '"' * 9000
    progress = write_progress(
        Progress(State.DEFERRED, 253_402_300_799.987, 2**31 - 1, worst, worst, worst, worst, True)
    )
    transaction = Transaction(
        "a@b.example",
        (f"{'x' * 64}@{'y' * 63}.{'z' * 63}.{'w' * 60}",),
        10**18,
        Body.SEVEN_BIT,
        False,
        requests=(DsnRequest(Notify.SUCCESS | Notify.FAILURE | Notify.DELAY, f"rfc822;{'o' * 490}"),),
        origin=write_origin(Origin(253_402_300_799.987, worst, worst, worst)),
        progress=(progress,),
    )

    commands = compose(transaction, Extensions(dsn=True, transfer=True))

    assert max(map(len, commands)) <= TRANSFER_LINE_OCTETS
    session = Session(offer=NODE)
    session.send(f"{HELLO}\r\n".encode())
    assert [session.send(command)[:3] for command in commands] == ["250", "250", "354"]


GOOD_ORIGIN: dict[str, Any] = {"received_at": 1.0, "client": "192.0.2.7", "sender": "a@b"}
GOOD_PROGRESS: dict[str, Any] = {"state": "deferred", "due": 1.0}


@pytest.mark.parametrize(
    "change",
    [
        {"received_at": -1.0},
        {"received_at": 1e12},
        {"received_at": "1"},
        {"received_at": True},
        {"received_at": None},
        {"client": 7},
        {"client": "a\nb"},
        {"client": "\x1b[2J"},
        {"client": "x" * 513},
        {"sender": "\u2028"},
        {"user": "a\x00"},
        {"surprise": 1},
        {"client": "\u202e"},
    ],
)
def test_an_origin_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    """Types, bounds, control characters and unknown fields: whatever is wrong, all of it is."""
    assert read_origin(value(GOOD_ORIGIN)) is not None
    assert read_origin(value({**GOOD_ORIGIN, **change})) is None


@pytest.mark.parametrize(
    "change",
    [
        {"state": "relayed"},
        {"state": "leased"},
        {"state": 1},
        {"due": -0.5},
        {"due": 1e300},
        {"due": "soon"},
        {"attempts": -1},
        {"attempts": 1 << 31},
        {"attempts": 1.5},
        {"attempts": True},
        {"last_reply": "250 Ok\r\nRCPT TO:<x@y>"},
        {"last_reply": "x" * 4001},
        {"why": "\x7f"},
        {"status": "4.2.0 and more of it"},
        {"host": "a\tb"},
        {"delay_told": 1},
        {"awaits_host": True},
    ],
)
def test_progress_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    """As for the origin."""
    assert read_progress(value(GOOD_PROGRESS)) is not None
    assert read_progress(value({**GOOD_PROGRESS, **change})) is None


@pytest.mark.parametrize(
    "octets",
    [
        None,
        b"",
        b"A",
        b"=",
        value(GOOD_PROGRESS) + b"=",
        value(GOOD_PROGRESS) + b"*",
        value(b'{"state":"deferred","due":1e999}'),
        value(b'{"state":"deferred","due":NaN}'),
        value(b'{"state":"deferred","due":1,"why":"\\ud800"}'),
        value(b'{"state":"deferred","due":1,"why":"\xff"}'),
        value(b'["deferred",1]'),
        value(b"[" * 100_000),
        value(b"{}"),
        value(b'{"state":"deferred"}'),
        value(b'{"state":"deferred","due":1} ' + b"x"),
    ],
)
def test_what_is_no_value_is_refused(octets: bytes | None) -> None:
    """Neither base64 nor JSON nor text: no octets get an exception out of it."""
    assert read_progress(octets) is None


@given(st.binary(max_size=200))
def test_any_octets_are_read_or_refused(octets: bytes) -> None:
    """Whatever comes, nothing is raised."""
    read_origin(octets)
    read_progress(octets)
    read_progress(value(octets))


def test_a_node_hands_over_a_message() -> None:
    """MAIL says where it came from, each RCPT how far it has come; DSN's own parameters stand beside them."""
    session = Session(offer=NODE)

    assert "XTRANSFER 1" in session.say(HELLO)[0]
    assert session.say(MAIL, f"{RCPT} NOTIFY=FAILURE ORCPT=rfc822;x@y", RCPT.replace("<c@", "<e@"), "DATA") == [
        "250 2.1.0 Ok", "250 2.1.5 Ok", "250 2.1.5 Ok", "354 End data with <CR><LF>.<CR><LF>",
    ]  # fmt: skip
    mail = next(event for event in session.events if isinstance(event, MailReceived))
    first, second = [event for event in session.events if isinstance(event, RcptReceived)]
    assert mail.origin == ORIGIN
    assert (first.progress, first.request) == (WAITING, DsnRequest(Notify.FAILURE, "rfc822;x@y"))
    assert (second.progress, second.request) == (WAITING, None)


def test_strangers_are_not_offered_it_and_cannot_use_it() -> None:
    """To who is not offered it, it is a parameter like any other that is not known here."""
    session = Session(offer=Offer(starttls=True))

    assert "XTRANSFER" not in session.say(HELLO)[0]
    assert session.say(MAIL) == ["555 5.5.4 A parameter that is not offered here"]
    assert session.say("MAIL FROM:<a@b.example>", RCPT)[1] == "555 5.5.4 A parameter that is not offered here"


@pytest.mark.parametrize(
    "line",
    [
        "RCPT TO:<c@d.example>",
        "RCPT TO:<c@d.example> NOTIFY=NEVER",
        "RCPT TO:<c@d.example> XTRANSFER",
        "RCPT TO:<c@d.example> XTRANSFER=",
        f"{RCPT} XTRANSFER={write_progress(HELD)}",
        f"RCPT TO:<c@d.example> XTRANSFER={write_origin(ORIGIN)}",
        f"RCPT TO:<postmaster> XTRANSFER={write_progress(HELD)}",
    ],
)
def test_a_recipient_of_moved_mail_without_its_progress_is_refused(line: str) -> None:
    """Where MAIL said XTRANSFER each RCPT must, once, and rightly: nobody begins anew unnoticed."""
    session = Session(offer=NODE)

    answers = session.say(HELLO, MAIL, line, RCPT)

    assert answers[2].startswith("501 5.5.4")
    assert answers[3] == "250 2.1.5 Ok"


def test_mail_after_moved_mail_is_mail_like_any_other() -> None:
    """What MAIL said holds for its transaction alone."""
    session = Session(offer=NODE)
    session.say(HELLO, MAIL, RCPT, "RSET")

    assert session.say("MAIL FROM:<a@b.example>", RCPT, "RCPT TO:<c@d.example>")[1:] == [
        "555 5.5.4 A parameter that is not offered here", "250 2.1.5 Ok",
    ]  # fmt: skip


def test_a_malformed_origin_is_refused() -> None:
    """It is a parameter that is malformed, and no transaction begins."""
    session = Session(offer=NODE)

    answers = session.say(HELLO, "MAIL FROM:<a@b.example> XTRANSFER=e30", RCPT)

    assert answers[1] == "501 5.5.4 A parameter is malformed or given twice"
    assert answers[2].startswith("503")


def test_only_a_node_may_send_long_commands() -> None:
    """The bound of RFC 5321 holds for all others, and before EHLO for a node, too."""
    long = f"NOOP {'x' * COMMAND_LINE_OCTETS}"
    session = Session(offer=NODE)

    assert session.say(long)[0].startswith("500")
    session.say(HELLO)
    assert session.say(long)[0].startswith("250")
    assert session.say(f"NOOP {'x' * TRANSFER_LINE_OCTETS}")[0].startswith("500")
    assert Session(offer=Offer(starttls=True)).say(HELLO, long)[1].startswith("500")


def test_a_long_command_is_read_however_it_comes() -> None:
    """Octet by octet, it is the same command."""
    session = Session(offer=NODE)
    session.say(HELLO)

    said = [session.send(bytes((octet,))) for octet in f"NOOP {'x' * 5000}\r\n".encode()]

    assert "".join(said).startswith("250")


def test_only_this_version_is_understood() -> None:
    """A node that speaks another version of it is told by that, and nothing is sent in this one."""
    assert parse_extensions(reply(250, "", "mx", "XTRANSFER 1")).transfer
    assert parse_extensions(reply(250, "", "mx", "xtransfer 2 1")).transfer
    for line in ("XTRANSFER", "XTRANSFER 2", "XTRANSFERS 1"):
        assert not parse_extensions(reply(250, "", "mx", line)).transfer


def test_a_host_that_does_not_offer_it_hears_nothing_of_it() -> None:
    """It is never left out in silence either: the message would begin anew there."""
    transaction = Transaction(
        "a@b", ("c@d",), 1, Body.SEVEN_BIT, False, origin=write_origin(ORIGIN), progress=(write_progress(HELD),)
    )

    with pytest.raises(LocalProtocolError, match="XTRANSFER"):
        compose(transaction, Extensions())
    with pytest.raises(LocalProtocolError, match="each recipient"):
        compose(msgspec.structs.replace(transaction, recipients=("c@d", "e@f")), Extensions(transfer=True))


def test_what_was_offered_in_clear_text_is_forgotten_inside_tls() -> None:
    """After STARTTLS the line is short again until EHLO offers it anew (RFC 3207 4.2)."""
    session = Session(SETTINGS, offer=Offer(starttls=True, transfer=True))
    session.say(HELLO, "STARTTLS")
    session.machine.secured()

    assert session.say(f"NOOP {'x' * COMMAND_LINE_OCTETS}")[0].startswith("500")
