# SPDX-License-Identifier: MIT
"""A client that falls silent for ever is hung up on, whatever the state of its session; the bound of each is here."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import Struct
from tests.accept.desk import ENVELOPE, Certificate, Desk, Users

from smarthost.accept.authentication import CHECK_S, FIRST_DELAY_S
from smarthost.accept.intake import FILING_S
from smarthost.accept.listeners import Mode
from smarthost.smtp.limits import CONTENT_BLOCK_S, SERVER_COMMAND_S, TLS_HANDSHAKE_S, Limits
from smarthost.smtp.states import State

HELLO = b"EHLO client.example\r\n"
MAIL = HELLO + b"MAIL FROM:<a@example.org>\r\n"
RCPT = MAIL + b"RCPT TO:<b@example.net>\r\n"
ALL_S = FILING_S + SERVER_COMMAND_S


class Silence(Struct, frozen=True):
    """What a client says before it says nothing more, and how long it then has. `users`: AUTH is offered."""

    said: tuple[bytes, ...]
    bound_s: float
    mode: Mode = Mode.RELAY
    users: bool = False
    before: Callable[[Desk], None] = lambda desk: None


def _wait_for_users(desk: Desk) -> None:
    users = desk.reception._door.terms.users
    assert isinstance(users, Users)
    users.waits = True


def _read_nothing(desk: Desk) -> None:
    desk.wire.takes = False


SILENCES: dict[State, dict[str, Silence]] = {
    State.CONNECTED: {"implicit TLS": Silence((), TLS_HANDSHAKE_S, Mode.SUBMISSIONS)},
    State.SECURING: {"STARTTLS": Silence((HELLO, b"STARTTLS\r\n"), TLS_HANDSHAKE_S)},
    State.GREETED: {
        "nothing": Silence((), SERVER_COMMAND_S),
        "half a command": Silence((b"EHL",), SERVER_COMMAND_S),
        "chunk that is refused": Silence((b"BDAT 1000\r\nabc",), SERVER_COMMAND_S),
    },
    State.VOID: {"refused chunk": Silence((RCPT, b"BDAT 3\r\na\nb"), SERVER_COMMAND_S)},
    State.READY: {
        "EHLO": Silence((HELLO,), SERVER_COMMAND_S),
        "replies not read": Silence((HELLO,), SERVER_COMMAND_S, before=_read_nothing),
        "AUTH challenge": Silence((HELLO, b"AUTH LOGIN\r\n"), SERVER_COMMAND_S, users=True),
        "AUTH second challenge": Silence((HELLO, b"AUTH LOGIN\r\n", b"YWxpY2U=\r\n"), SERVER_COMMAND_S, users=True),
        "AUTH not answered by us": Silence(
            (HELLO, b"AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n"), CHECK_S + SERVER_COMMAND_S, users=True,
            before=_wait_for_users,
        ),
        "AUTH refused": Silence(
            (HELLO, b"AUTH PLAIN AGFsaWNlAHdyb25n\r\n"), FIRST_DELAY_S + SERVER_COMMAND_S, users=True
        ),
    },
    State.MAIL: {"MAIL": Silence((MAIL,), SERVER_COMMAND_S)},
    State.RECIPIENTS: {"RCPT": Silence((RCPT,), SERVER_COMMAND_S)},
    State.CHUNKED: {"between chunks": Silence((RCPT, b"BDAT 5\r\na: b\r"), SERVER_COMMAND_S)},
    State.CHUNK: {"within a chunk": Silence((RCPT, b"BDAT 100\r\na: b\r\n"), CONTENT_BLOCK_S)},
    State.CONTENT: {
        "content": Silence((ENVELOPE, b"Subject: x\r\n"), CONTENT_BLOCK_S),
        "nothing after 354": Silence((ENVELOPE,), CONTENT_BLOCK_S),
    },
    State.ENDED: {"commit that hangs": Silence((ENVELOPE, b"Subject: x\r\n\r\n.\r\n"), ALL_S)},
    State.CLOSED: {"QUIT": Silence((HELLO, b"QUIT\r\n"), 0.0)},
}  # fmt: skip
CASES = [
    pytest.param(state, each, id=f"{state.name}-{name}")
    for state, all in SILENCES.items()
    for name, each in all.items()
]


def seat(silence: Silence) -> Desk:
    """Give a desk whose client has said all it will ever say."""
    terms: dict[str, Any] = {"users": Users()} if silence.users or silence.mode is not Mode.RELAY else {}
    desk = Desk(mode=silence.mode, tls=Certificate(), **terms)
    silence.before(desk)
    for octets in silence.said:
        desk.reception.received(octets)
    return desk


def test_the_table_has_every_state_of_the_server_machine() -> None:
    """A new state without a row here has no bound that anybody has seen."""
    assert set(State) == set(SILENCES)


@pytest.mark.parametrize(("state", "silence"), CASES)
def test_silence_ends_within_the_bound_of_its_state(state: State, silence: Silence) -> None:
    """The session is there until its time is up, and gone then; nothing is left that waits."""
    desk = seat(silence)
    assert state.name in repr(desk.reception._machine)

    if silence.bound_s:
        desk.clock.advance(silence.bound_s - 1.0)
        assert not desk.wire.is_closed
    desk.clock.advance(2.0)

    assert desk.wire.is_closed
    desk.reception.lost(None)
    assert 0 == len(desk.receptions)
    assert desk.clock.next_due_s is None


@pytest.mark.parametrize(
    ("state", "silence"), [case for case in CASES if case.values[0] not in (State.CLOSED, State.ENDED)]
)
def test_dripping_does_not_keep_a_session_for_ever(state: State, silence: Silence) -> None:
    """One octet a minute, of whatever kind, is no more than silence; content has its time in all."""
    desk = seat(silence)
    limits = Limits()
    most_s = max(limits.content_total_s, silence.bound_s) + SERVER_COMMAND_S

    dripped_s = 0.0
    while not desk.wire.is_closed and dripped_s < 2 * most_s:
        if desk.wire.upgraded_with is None:  # what comes in a handshake is TLS's
            desk.reception.received(b"x")
        desk.clock.advance(60.0)
        dripped_s += 60.0

    assert dripped_s <= most_s


@pytest.mark.parametrize("said", [(HELLO,), (RCPT,), (ENVELOPE,), (ENVELOPE, b"x\r\n.\r\n")])
def test_draining_ends_with_silent_clients(said: tuple[bytes, ...]) -> None:
    """Told to leave, a session goes at once or when its transaction ends; a silent one in its time."""
    desk = seat(Silence(said, ALL_S))

    desk.reception.leave()
    desk.clock.advance(ALL_S + 1.0)

    assert desk.wire.is_closed
