# SPDX-License-Identifier: MIT
"""Reception: what a client sees on the wire, and what reaches the store."""

from typing import get_args

import pytest
from tests.accept.desk import ENVELOPE, Desk, Wire

from smarthost.accept import reception
from smarthost.mail.errors import StoreError, StoreFull
from smarthost.smtp.limits import Limits
from smarthost.smtp.wire import ServerEvent
from smarthost.testing.clock import FakeClock


def test_250_is_said_only_after_the_store_committed() -> None:
    """The final dot is answered by silence until the message is durable, then by 250 with its id."""
    desk = Desk()
    desk.say(ENVELOPE)

    at_dot = desk.say(b"Subject: x\r\n\r\nbody\r\n.\r\n")
    message = desk.adding[0][0]
    after_commit = desk.commit()

    assert b"" == at_dot
    assert b"250 2.0.0 Ok: queued as " + message.id.encode() + b"\r\n" == after_commit


def test_content_is_kept_as_received_and_received_is_kept_apart() -> None:
    """What we add stands in the prefix; the content has its dots unstuffed and is otherwise untouched."""
    desk = Desk()
    desk.say(ENVELOPE)
    desk.say(b"Subject: x\r\n\r\n..dot\r\nno end .\r\n.\r\n")

    message = desk.adding[0][0]

    assert b"Subject: x\r\n\r\n.dot\r\nno end .\r\n" == b"".join(message.content.chunks())
    assert message.prefix.startswith(
        b"Received: from client.example ([127.0.0.1])\r\n by relay.example.org with ESMTP id "
    )
    assert message.id.encode() in message.prefix
    assert b"for <b@example.net>" in message.prefix


def test_replies_to_a_pipelined_group_leave_in_one_write() -> None:
    """RFC 2920 3.2: four commands in one segment are answered in one segment."""
    desk = Desk()
    before = len(desk.wire.written)

    desk.say(ENVELOPE)

    assert 1 == len(desk.wire.written) - before


@pytest.mark.parametrize(
    ("failure", "reply"),
    [
        (StoreError("fsync failed"), b"451 4.3.0"),
        (StoreFull("no space"), b"452 4.3.1"),
        (ValueError("a bug"), b"451 4.3.0"),
    ],
)
def test_a_local_failure_is_temporary_to_the_client(failure: Exception, reply: bytes) -> None:
    """Whatever breaks on our side after the dot, the client keeps the message and tries again."""
    desk = Desk()
    desk.say(ENVELOPE)
    desk.say(b"x\r\n.\r\n")

    answer = desk.commit(failure)

    assert answer.startswith(reply)
    assert not desk.wire.is_closed


def test_a_store_that_cannot_take_mail_says_so_in_the_banner() -> None:
    """While the store is broken new clients are sent away at once, with 421."""
    desk = Desk()
    desk.refusal = StoreError("broken")

    wire = Wire()
    desk.accept(wire)

    assert wire.written[0].startswith(b"421 4.3.0")
    assert wire.is_closed


def test_a_full_disk_greets_and_refuses_mail() -> None:
    """The reply that means a full disk, 452 4.3.1, belongs to MAIL: a banner can only send everybody away."""
    desk = Desk()
    desk.refusal = StoreFull("full")

    wire = Wire()
    desk.accept(wire)

    assert wire.written[0].startswith(b"220 ")


def test_a_store_that_breaks_during_a_session_refuses_mail_at_once() -> None:
    """MAIL is answered 451 before any content travels."""
    desk = Desk()
    desk.say(b"EHLO c\r\n")
    desk.refusal = StoreFull("full")

    assert desk.say(b"MAIL FROM:<a@example.org>\r\n").startswith(b"452 4.3.1")


@pytest.mark.parametrize(
    "recipient",
    ["u@third.example", '"u@third.example"', "u%third.example@relay.example.org", "third!u@relay.example.org"],
)
def test_a_stranger_may_not_relay_however_the_address_looks(recipient: str) -> None:
    """Whoever is in no configured network hears 550 5.7.1 with his address and the setting that would allow him."""
    desk = Desk(client="203.0.113.7")
    desk.say(b"EHLO c\r\nMAIL FROM:<a@relay.example.org>\r\n")

    answer = desk.say(f"RCPT TO:<{recipient}>\r\n".encode())

    assert answer.startswith((b"550 5.7.1 ", b"501 "))
    if answer.startswith(b"550"):
        assert b"203.0.113.7" in answer
        assert b"relay_from" in answer
    assert desk.say(b"DATA\r\n").startswith((b"503", b"554"))


def test_postmaster_without_a_domain_goes_where_the_operator_said() -> None:
    """RFC 5321 4.5.1: anybody may write to postmaster, in any case."""
    desk = Desk(client="203.0.113.7", postmaster="ops@example.org")
    desk.say(b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<PostMaster>\r\nDATA\r\n")
    desk.say(b"help\r\n.\r\n")

    assert "ops@example.org" == desk.adding[0][0].envelope.recipients[0].text


def test_a_mail_loop_is_refused() -> None:
    """Fifty Received fields are a loop: 554 5.4.6, and nothing is stored."""
    desk = Desk()
    desk.say(ENVELOPE)

    answer = desk.say(b"Received: from somewhere\r\n" * 50 + b"\r\nbody\r\n.\r\n")

    assert answer.startswith(b"554 5.4.6")
    assert [] == desk.adding


def test_many_received_fields_below_the_limit_are_fine() -> None:
    """Forty-nine hops are unusual, not a loop."""
    desk = Desk()
    desk.say(ENVELOPE)
    desk.say(b"Received: from somewhere\r\n" * 49 + b"\r\nbody\r\n.\r\n")

    assert 1 == len(desk.adding)


@pytest.mark.parametrize("content", [b"bare\nlf\r\n", b"bare\rcr\r\n", b"\n.\n", b"\r\n.\rX\r\n"])
def test_a_bare_newline_is_refused_after_the_dot(content: bytes) -> None:
    """Neither bare CR nor bare LF is forwarded or ends anything (550 5.6.11); the session goes on."""
    desk = Desk()
    desk.say(ENVELOPE)

    answer = desk.say(content + b"\r\n.\r\n")

    assert answer.startswith(b"550 5.6.11")
    assert [] == desk.adding
    assert desk.say(b"NOOP\r\n").startswith(b"250")


def test_large_content_goes_to_a_draft() -> None:
    """What does not fit in one piece is not kept in memory; the message carries the draft's content."""
    desk = Desk()
    desk.say(ENVELOPE)
    line = b"x" * 998 + b"\r\n"
    for _ in range(300):
        desk.say(line)
    desk.say(b".\r\n")

    (shelf,) = desk.shelves
    assert line * 300 == bytes(shelf.body)
    assert desk.adding[0][0].content is shelf
    assert not shelf.is_discarded


def test_a_client_that_stops_in_the_middle_leaves_nothing() -> None:
    """A connection lost during content discards the draft and files nothing."""
    desk = Desk()
    desk.say(ENVELOPE)
    for _ in range(300):
        desk.say(b"x" * 998 + b"\r\n")

    desk.reception.lost(None)

    assert desk.shelves[0].is_discarded
    assert [] == desk.adding
    assert 0 == len(desk.receptions)


def test_a_draft_that_cannot_be_written_is_a_4xx_after_the_dot() -> None:
    """A disk that fills up in the middle of a large message: 452, never 250, and the session stays in step."""
    desk = Desk()
    desk.say(ENVELOPE)
    for n in range(300):
        desk.say(b"x" * 998 + b"\r\n")
        if desk.shelves and n > 200:
            desk.shelves[0].failure = StoreFull("no space")

    answer = desk.say(b".\r\nNOOP\r\n")

    assert answer.startswith(b"452 4.3.1")
    assert answer.endswith(b"250 2.0.0 Ok\r\n") or b"\r\n250 " in answer
    assert [] == desk.adding


def test_commands_pipelined_behind_a_message_wait_for_its_reply() -> None:
    """What comes behind the final dot is answered after it, in order."""
    desk = Desk()
    desk.say(ENVELOPE)

    early = desk.say(b"x\r\n.\r\nMAIL FROM:<c@example.org>\r\nQUIT\r\n")
    late = desk.commit()

    assert b"" == early
    assert [b"250", b"250", b"221"] == [line[:3] for line in late.split(b"\r\n")[:-1]]
    assert desk.wire.is_closed


def test_a_silent_client_is_hung_up_on() -> None:
    """After five minutes without a command: 421, and the connection is closed (RFC 5321 4.5.3.2.7)."""
    desk = Desk()
    desk.say(b"EHLO c\r\n")

    desk.clock.advance(299)
    early = desk.wire.is_closed
    desk.clock.advance(2)

    assert not early
    assert desk.wire.is_closed
    assert desk.wire.written[-1].startswith(b"421 4.4.2")


def test_content_that_drips_for_ever_is_hung_up_on() -> None:
    """One line a minute keeps a session alive for an hour at most."""
    desk = Desk()
    desk.say(ENVELOPE)

    for _ in range(70):
        desk.clock.advance(60)
        if desk.wire.is_closed:
            break
        desk.say(b"drip\r\n")

    assert desk.wire.is_closed
    assert desk.clock.monotonic() <= FakeClock().monotonic() + 3700


def test_an_octet_now_and_then_does_not_keep_a_session_alive() -> None:
    """A command that drips in for ever is hung up on as silence is."""
    desk = Desk()
    desk.say(b"EHLO c\r\n")

    for _ in range(6):
        desk.clock.advance(60)
        desk.say(b"N")

    assert desk.wire.is_closed


def test_waiting_for_our_own_disk_is_no_fault_of_the_clients() -> None:
    """While the store takes its time the client's deadline does not run."""
    desk = Desk(limits=Limits(command_timeout_s=60.0))
    desk.say(ENVELOPE)
    desk.say(b"x\r\n.\r\n")

    desk.clock.advance(299)

    assert not desk.wire.is_closed
    assert desk.commit().startswith(b"250")


def test_a_commit_that_hangs_is_451_and_is_not_answered_twice() -> None:
    """After five minutes the client is told to come again; a commit that succeeds later is no news to it."""
    desk = Desk()
    desk.say(ENVELOPE)
    desk.say(b"x\r\n.\r\n")
    desk.clock.advance(301)
    late = desk.wire.written[-1]

    desk.commit()
    answer = desk.say(b"NOOP\r\n")

    assert late.startswith(b"451 4.3.0")
    assert answer.startswith(b"250 2.0.0")
    assert b"queued as" not in b"".join(desk.wire.written)


def test_connections_are_limited_for_one_client_and_in_all() -> None:
    """The hundred-and-first connection of one client hears 421; another client is still welcome."""
    desk = Desk(limits=Limits(connections=3, connections_per_client=2))
    second, third, other, too_many = Wire(), Wire(), Wire("127.0.0.2"), Wire("127.0.0.3")

    for wire in (second, third, other, too_many):
        desk.accept(wire)

    assert second.written[0].startswith(b"220")
    assert third.written[0].startswith(b"421 4.7.0")
    assert other.written[0].startswith((b"220", b"421 4.3.2"))
    assert too_many.written[0].startswith(b"421")


def test_a_connection_that_ended_makes_room() -> None:
    """Limits count open sessions, not past ones."""
    desk = Desk(limits=Limits(connections=1, connections_per_client=1))
    desk.reception.lost(None)
    wire = Wire()

    desk.accept(wire)

    assert wire.written[0].startswith(b"220")


def test_a_client_that_does_not_read_its_replies_is_not_heard() -> None:
    """When replies pile up we stop reading, and go on when the client has read."""
    desk = Desk()
    desk.wire.takes = False
    desk.say(b"EHLO c\r\n")
    paused = desk.wire.is_paused

    desk.reception.writable()

    assert paused
    assert not desk.wire.is_paused


def test_a_bug_in_policy_is_a_local_error() -> None:
    """An exception while answering is noted, 451 to the client, and the relay lives on."""
    desk = Desk()
    desk.say(b"EHLO c\r\nMAIL FROM:<a@example.org>\r\n")
    desk.reception._door = None  # type: ignore[assignment]

    answer = desk.say(b"RCPT TO:<b@example.net>\r\n")

    assert answer.startswith(b"451 4.3.0")
    assert "reception failed" in desk.notes


def test_every_event_of_the_machine_has_an_answer() -> None:
    """What a client may ask is closed: a new event without an answer would be a local error to it."""
    assert set(get_args(ServerEvent)) == set(reception._ANSWERS)


def test_after_a_bug_in_filing_the_next_message_begins_with_nothing() -> None:
    """What was taken before something broke is in no later message."""
    desk = Desk()
    stamp = desk.reception._stamp
    desk.say(ENVELOPE)
    desk.reception._stamp = None  # type: ignore[assignment]
    broken = desk.say(b"first\r\n.\r\n")
    desk.reception._stamp = stamp
    desk.say(b"MAIL FROM:<a@example.org>\r\nRCPT TO:<c@example.net>\r\nDATA\r\n")
    desk.say(b"second\r\n.\r\n")
    message = desk.adding[0][0]

    assert broken.startswith(b"451 4.3.0")
    assert ["c@example.net"] == [each.text for each in message.envelope.recipients]
    assert b"second\r\n" == b"".join(message.content.chunks())


def test_a_session_between_two_messages_keeps_nothing_of_the_first() -> None:
    """A thousand of them idle: what was filed is the store's."""
    desk = Desk()
    desk.say(ENVELOPE)
    desk.say(b"x\r\n.\r\n")
    transaction = desk.reception._transaction

    assert (None, [], b"") == (transaction._mail, transaction._recipients, transaction.intake._piece)
