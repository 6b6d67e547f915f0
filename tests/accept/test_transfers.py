# SPDX-License-Identifier: MIT
"""Another node hands us its queue: what becomes of a message, who may do so, and what is refused all the same."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from tests.accept.desk import STRANGER, Certificate, Desk, Users

from smarthost.accept.clients import ClientTerms, NetworkTerms
from smarthost.mail.envelope import DsnRequest, Notify
from smarthost.mail.errors import NoNewMail
from smarthost.mail.message import Message
from smarthost.mail.progress import Origin, Progress
from smarthost.mail.settlement import State
from smarthost.smtp.limits import Limits
from smarthost.smtp.transfer import write_origin, write_progress

HOUR = 3600.0
DAY = 24 * HOUR
NODE = "198.51.100.9"
EHLO = b"EHLO node.example\r\n"
CONTENT = b"Received: by old.example; yesterday\r\nSubject: x\r\n\r\nbody\r\n"


def at_desk(**terms: Any) -> Desk:
    return Desk(**{"client": NODE, "transfer_from": (f"{NODE}/32",), "relay_from": (), **terms})


def origin(desk: Desk, **fields: Any) -> Origin:
    """Say that the message is five hours old."""
    return replace(Origin(desk.clock.wall() - 5 * HOUR, "192.0.2.7", "alice", "alice"), **fields)


def progress(desk: Desk, **fields: Any) -> Progress:
    """Say that it is due in an hour, for the fourth time."""
    due = desk.clock.wall() + HOUR
    return replace(Progress(State.DEFERRED, due, 3, "4.2.0", "450 4.2.0 Grey", "grey", "mx", True), **fields)


def mail(origin: Origin, path: str = "a@example.org") -> bytes:
    return f"MAIL FROM:<{path}> XTRANSFER={write_origin(origin)}\r\n".encode()


def rcpt(progress: Progress, path: str = "b@example.net", more: str = "") -> bytes:
    return f"RCPT TO:<{path}> XTRANSFER={write_progress(progress)}{more}\r\n".encode()


def data(content: bytes = CONTENT) -> bytes:
    return content + b".\r\n"


def codes(answer: bytes) -> list[str]:
    return [line[:3].decode() for line in answer.splitlines()]


def test_a_message_goes_on_as_it_was() -> None:
    """Age, client, fairness, user and each recipient's schedule are the other node's; our Received field is on top."""
    desk = at_desk()
    first = progress(desk)
    held = Progress(State.HELD, desk.clock.wall() + 20 * DAY, why="held by the operator")
    desk.say(EHLO)

    desk.say(mail(origin(desk)) + rcpt(first, more=" NOTIFY=FAILURE ORCPT=rfc822;x@y") + rcpt(held, "c@example.com"))
    assert codes(desk.say(b"DATA\r\n")) == ["354"]
    desk.say(data())

    (message, _) = desk.adding[0]
    assert message.received_at == desk.clock.wall() - 5 * HOUR
    assert (message.client, message.sender, message.user) == ("192.0.2.7", "alice", "alice")
    assert message.progress == (first, held)
    assert message.envelope.requests == (DsnRequest(Notify.FAILURE, "rfc822;x@y"), DsnRequest())
    assert message.prefix.startswith(b"Received: from node.example ([198.51.100.9])\r\n by relay.example.org")
    assert message.prefix.count(b"Received:") == 1
    assert b"".join(message.content.chunks()) == CONTENT
    assert message.signs == ()
    assert desk.commit().startswith(b"250 2.0.0 Ok: queued as ")


def test_only_nodes_are_offered_it() -> None:
    """Who is not in transfer_from sees nothing of it and gets 555, also who may relay."""
    node, stranger = at_desk(), at_desk(client=STRANGER)
    own = at_desk(client="127.0.0.1", relay_from=("127.0.0.0/8",))

    assert b"XTRANSFER 1\r\n" in node.say(EHLO)
    for desk in (stranger, own, Desk()):
        assert b"XTRANSFER" not in desk.say(EHLO)
        assert desk.say(mail(origin(desk))).startswith(b"555 5.5.4")
        assert not desk.adding


def test_a_node_may_not_relay_mail_of_its_own_by_that() -> None:
    """To hand over a queue is no leave to send: a MAIL without its parameter is judged as anybody's."""
    desk = at_desk()
    desk.say(EHLO)

    assert (
        desk.say(b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\n").splitlines()[1].startswith(b"550 5.7.1")
    )


def test_no_proxys_word_makes_a_client_a_node() -> None:
    """XCLIENT may claim any address; only who comes from there itself is a node."""
    desk = at_desk(client="192.0.2.50", xclient_from=("192.0.2.50/32",))
    desk.say(EHLO)
    desk.say(f"XCLIENT ADDR={NODE}\r\n".encode())

    assert b"XTRANSFER" not in desk.say(EHLO)

    both = at_desk(xclient_from=(f"{NODE}/32",))
    both.say(EHLO)
    both.say(b"XCLIENT ADDR=203.0.113.5\r\n")
    assert b"XTRANSFER" not in both.say(EHLO)


def test_where_tls_comes_first_it_does_here_too() -> None:
    """A door that asks for TLS asks a node for it."""
    desk = at_desk(tls=Certificate(), requires_tls=True, users=Users())
    desk.say(EHLO)

    assert not desk.say(mail(origin(desk))).startswith(b"250")
    assert desk.say(b"STARTTLS\r\n").startswith(b"220")
    desk.shake()
    assert b"XTRANSFER 1\r\n" in desk.say(EHLO)
    assert desk.say(mail(origin(desk))).startswith(b"250")


def test_rates_and_allowed_senders_do_not_hold_for_a_queue() -> None:
    """What was accepted elsewhere is not counted again: no message stays behind for a rate of this node."""
    terms = NetworkTerms(
        networks=(f"{NODE}/32",), senders=("@example.org",), messages_per_minute=1, recipients_per_minute=1
    )
    desk = at_desk(clients=ClientTerms(networks=(terms,)))
    desk.say(EHLO)

    for _ in range(3):
        answer = desk.say(mail(origin(desk), "anybody@elsewhere.example") + rcpt(progress(desk)) + rcpt(progress(desk)))
        assert codes(answer) == ["250", "250", "250"]
        desk.say(b"RSET\r\n")


def test_nothing_of_it_is_signed() -> None:
    """The node that took it has signed it; a second signature would say that it began here."""
    signed: list[str] = []

    def sign(message: Message, then: Callable[[Message], None]) -> None:
        signed.append(message.id)
        then(message)

    desk = at_desk(sign=sign, relay_from=(f"{NODE}/32",))
    desk.say(EHLO)
    desk.say(mail(origin(desk)) + rcpt(progress(desk)) + b"DATA\r\n")
    desk.say(data())

    assert len(desk.adding) == 1
    assert signed == []


def test_a_message_of_many_hops_is_not_lost_between_two_nodes() -> None:
    """It was no loop where it was taken, and one hop more does not make it one."""
    many = b"Received: by somewhere.example\r\n" * 50 + CONTENT
    desk = at_desk()
    desk.say(EHLO)
    desk.say(mail(origin(desk)) + rcpt(progress(desk)) + b"DATA\r\n")
    desk.say(data(many))

    assert len(desk.adding) == 1


@pytest.mark.parametrize(
    ("received_in", "due_in", "answers"),
    [(HOUR, HOUR, ["250", "250"]), (2 * DAY, HOUR, ["550", "503"]), (-400 * DAY, 400 * DAY, ["250", "550"])],
)
def test_times_of_a_wrong_clock_are_refused(received_in: float, due_in: float, answers: list[str]) -> None:
    """A message from the future would never expire, one that is due in years would never be tried."""
    desk = at_desk()
    now = desk.clock.wall()
    desk.say(EHLO)

    said = desk.say(mail(origin(desk, received_at=now + received_in)) + rcpt(progress(desk, due=now + due_in)))

    assert codes(said) == answers
    if "550" in answers:
        assert b"look at the clocks" in said


def test_the_size_limit_holds() -> None:
    """A node that announces what it takes takes no more, from whomever."""
    desk = at_desk(limits=Limits(message_octets=65_536))
    desk.say(EHLO)
    desk.say(mail(origin(desk)) + rcpt(progress(desk)) + b"DATA\r\n")

    assert desk.say(data(CONTENT + b"x" * 70_000 + b"\r\n")).startswith(b"552 5.3.4")
    assert not desk.adding


def test_a_failed_commit_leaves_the_message_where_it_was() -> None:
    """The other node hears 451, and keeps it."""
    desk = at_desk()
    desk.say(EHLO)
    desk.say(mail(origin(desk)) + rcpt(progress(desk)) + b"DATA\r\n")
    desk.say(data())

    assert desk.commit(Exception("the disk is gone")).startswith(b"451 4.3.0")


def test_a_node_that_is_drained_takes_nobodys_mail() -> None:
    """New clients hear 421 with the reason, those that are there already 451, at MAIL and before content."""
    desk = at_desk()
    desk.say(EHLO)
    desk.say(mail(origin(desk)) + rcpt(progress(desk)))
    desk.refusal = NoNewMail("This node is being drained")

    assert desk.say(b"DATA\r\n") == b"451 4.3.2 This node is being drained\r\n"
    desk.say(b"RSET\r\n")
    assert desk.say(mail(origin(desk))) == b"451 4.3.2 This node is being drained\r\n"
    assert desk.connect() == b"421 4.3.2 This node is being drained\r\n"


def test_the_next_message_of_the_session_is_its_own() -> None:
    """Nothing of a message that was moved sticks to the one after it."""
    desk = at_desk(relay_from=(f"{NODE}/32",))
    desk.say(EHLO)
    desk.say(mail(origin(desk)) + rcpt(progress(desk)) + b"DATA\r\n")
    desk.say(data())
    desk.commit()
    desk.say(b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n")
    desk.say(data())

    (message, _) = desk.adding[0]
    assert message.progress == ()
    assert message.received_at == desk.clock.wall()
    assert (message.client, message.sender, message.user) == (NODE, "a@example.org", "")
