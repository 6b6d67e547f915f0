# SPDX-License-Identifier: MIT
"""What travels with a message from the client's commands to the store: DSN, body, TLS, and who signs it."""

from collections.abc import Callable

import pytest
from tests.accept.desk import ENVELOPE, STRANGER, Desk

from smarthost.mail.content import InlineContent
from smarthost.mail.envelope import Body, DsnRequest, Notify, SenderTls
from smarthost.mail.errors import StoreError
from smarthost.mail.message import Message

EHLO = b"EHLO c.example\r\n"


def submitted(*commands: bytes, content: bytes = b"Subject: x\r\n\r\nbody\r\n") -> Message:
    """Give the message that these commands and the content make."""
    desk = Desk()
    heard = desk.say(EHLO + b"".join(command + b"\r\n" for command in commands) + b"DATA\r\n")
    assert b"\r\n5" not in heard
    desk.say(content + b".\r\n")
    return desk.adding[0][0]


def test_dsn_parameters_travel_with_the_envelope() -> None:
    """RET, ENVID, NOTIFY and ORCPT as written (RFC 3461); who asked for nothing has an empty request."""
    envelope = submitted(
        b"MAIL FROM:<a@example.org> RET=HDRS ENVID=QQ+2B1",
        b"RCPT TO:<b@example.net>",
        b"RCPT TO:<c@example.net> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;C+40example.net",
        b"RCPT TO:<d@example.net> NOTIFY=NEVER",
        b"RCPT TO:<e@example.net>",
    ).envelope

    assert ("HDRS", "QQ+2B1") == (envelope.ret, envelope.envid)
    assert envelope.requests == (
        DsnRequest(),
        DsnRequest(Notify.SUCCESS | Notify.DELAY, "rfc822;C+40example.net"),
        DsnRequest(Notify.NEVER),
        DsnRequest(),
    )


def test_an_envelope_without_requests_has_none() -> None:
    """The usual message carries nothing it was not given."""
    envelope = submitted(b"MAIL FROM:<a@example.org>", b"RCPT TO:<b@example.net>").envelope

    assert ((), "", "", SenderTls.DEFAULT) == (envelope.requests, envelope.ret, envelope.envid, envelope.tls)


def test_requests_of_one_message_do_not_reach_the_next() -> None:
    """A session's second message begins with nothing."""
    desk = Desk()
    desk.say(EHLO + b"MAIL FROM:<a@example.org> RET=FULL\r\nRCPT TO:<b@example.net> NOTIFY=NEVER\r\nDATA\r\n")
    desk.say(b"TLS-Required: No\r\n\r\nx\r\n.\r\n")
    desk.commit()
    desk.say(b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n")
    desk.say(b"x\r\n.\r\n")

    envelope = desk.adding[0][0].envelope

    assert ((), "", SenderTls.DEFAULT) == (envelope.requests, envelope.ret, envelope.tls)


def test_refused_recipients_leave_no_request_behind() -> None:
    """Requests and recipients stay in step."""
    desk = Desk(client=STRANGER, postmaster="ops@example.org")
    desk.say(EHLO + b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net> NOTIFY=NEVER\r\n")
    desk.say(b"RCPT TO:<postmaster> NOTIFY=SUCCESS\r\nDATA\r\n")
    desk.say(b"x\r\n.\r\n")

    envelope = desk.adding[0][0].envelope

    assert ["ops@example.org"] == [each.text for each in envelope.recipients]
    assert (DsnRequest(Notify.SUCCESS),) == envelope.requests


def test_tls_required_no_makes_tls_optional() -> None:
    """RFC 8689 5: the sender would rather have it delivered than protected."""
    message = submitted(
        b"MAIL FROM:<a@example.org>",
        b"RCPT TO:<b@example.net>",
        content=b"Subject: x\r\nTLS-Required: No\r\n\r\nbody\r\n",
    )

    assert SenderTls.OPTIONAL is message.envelope.tls


def test_chunks_make_one_message() -> None:
    """BDAT: each chunk is answered, the last one by the store (RFC 3030); octets stay as they are."""
    desk = Desk()
    desk.say(EHLO + b"MAIL FROM:<a@example.org> BODY=BINARYMIME\r\nRCPT TO:<b@example.net>\r\n")
    first = desk.say(b"BDAT 14\r\nSubject: x\r\n\r\n")
    last = desk.say(b"BDAT 5 LAST\r\n\x00\n.\r\n")
    message = desk.adding[0][0]

    assert first == b"250 2.0.0 14 octets received\r\n"
    assert last == b""
    assert desk.commit().startswith(b"250 2.0.0 Ok: queued as ")
    assert Body.BINARY_MIME is message.envelope.body
    assert b"Subject: x\r\n\r\n\x00\n.\r\n" == b"".join(message.content.chunks())


def test_a_loop_does_not_hide_in_small_chunks() -> None:
    """However a header section is cut, its hops are counted."""
    desk = Desk()
    desk.say(EHLO + b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\n")
    for _ in range(60):
        desk.say(b"BDAT 13\r\nReceived: x\r\n")

    assert desk.say(b"BDAT 2 LAST\r\n\r\n").startswith(b"554 5.4.6")
    assert [] == desk.adding


def test_a_store_that_breaks_between_chunks_says_so_at_the_next() -> None:
    """Who sends a gigabyte in chunks hears early that it is for nothing; the rest is read and forgotten."""
    desk = Desk()
    desk.say(EHLO + b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nBDAT 3\r\nx\r\n")
    desk.refusal = StoreError("broken")

    assert desk.say(b"BDAT 3\r\nx\r\n").startswith(b"451 4.3.0")
    assert desk.say(b"BDAT 3 LAST\r\nx\r\n").startswith(b"503")
    assert [] == desk.adding


def test_a_large_message_in_chunks_goes_to_a_draft() -> None:
    """What does not fit in memory is written out; a disk that fills up is told at the end of that chunk."""
    desk = Desk()
    desk.say(EHLO + b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\n")
    line = b"x" * 998 + b"\r\n"
    for _ in range(3):
        desk.say(b"BDAT 100000\r\n" + line * 100)
    desk.shelves[0].failure = StoreError("disk full")

    assert desk.say(b"BDAT 100000\r\n" + line * 100).startswith(b"451 4.3.0")
    assert desk.shelves[0].is_discarded


# -- signing ---------------------------------------------------------------------------------------------------------


class Signer:
    """Signs when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[Message, Callable[[Message], None]]] = []

    def sign(self, message: Message, signed: Callable[[Message], None]) -> None:
        self.asked.append((message, signed))

    def finish(self) -> None:
        message, signed = self.asked.pop(0)
        signed(
            Message(
                message.id,
                message.received_at,
                message.envelope,
                b"DKIM-Signature: x\r\n" + message.prefix,
                message.content,
                message.client,
                message.sender,
                message.signs,
            )
        )


def test_what_our_clients_send_is_signed_before_it_is_filed() -> None:
    """The signer may take its time; the 250 comes after the commit of the signed message."""
    signer = Signer()
    desk = Desk(sign=signer.sign)
    desk.say(ENVELOPE)
    at_dot = desk.say(b"x\r\n.\r\n")
    before = len(desk.adding)
    signer.finish()
    message = desk.adding[0][0]

    assert (b"", 0) == (at_dot, before)
    assert message.prefix.startswith(b"DKIM-Signature: x\r\nReceived: ")
    assert desk.commit() == f"250 2.0.0 Ok: queued as {message.id}\r\n".encode()


def test_a_signer_that_answers_at_once_is_fine() -> None:
    """Where no key fits there is nothing to wait for."""
    desk = Desk(sign=lambda message, signed: signed(message))
    desk.say(ENVELOPE)
    desk.say(b"x\r\n.\r\n")

    assert desk.commit().startswith(b"250 2.0.0")


def test_strangers_mail_is_not_given_to_the_signer() -> None:
    """Mail to postmaster from outside is filed as it is."""
    signer = Signer()
    desk = Desk(client=STRANGER, postmaster="ops@example.org", sign=signer.sign)
    desk.say(EHLO + b"MAIL FROM:<a@example.org>\r\nRCPT TO:<postmaster>\r\nDATA\r\n")
    desk.say(b"x\r\n.\r\n")

    assert [] == signer.asked
    assert 1 == len(desk.adding)


def test_a_signer_that_hangs_is_451_after_the_filing_deadline() -> None:
    """The client is not kept for ever; what is signed later is filed, at worst a duplicate, never a loss."""
    signer = Signer()
    desk = Desk(sign=signer.sign)
    desk.say(ENVELOPE)
    desk.say(b"x\r\n.\r\n")

    late = desk.wait(301)
    signer.finish()

    assert late.startswith(b"451 4.3.0")
    assert desk.commit() == b""


def test_a_signer_that_breaks_is_a_local_error() -> None:
    """A bug there is temporary to the client."""

    def broken(message: Message, signed: Callable[[Message], None]) -> None:
        raise ValueError("a bug")

    desk = Desk(sign=broken)
    desk.say(ENVELOPE)

    assert desk.say(b"x\r\n.\r\n").startswith(b"451 4.3.0")
    assert "reception failed" in desk.notes


@pytest.mark.parametrize("content", [b"x\r\n", b"Subject: x\r\n\r\n" + b"y" * 300 + b"\r\n"])
def test_content_in_one_piece_stays_in_memory(content: bytes) -> None:
    """Nothing is written out for a small message."""
    message = submitted(b"MAIL FROM:<>", b"RCPT TO:<b@example.net>", content=content)

    assert isinstance(message.content, InlineContent)
    assert content == message.content.body


def test_an_empty_message_inherits_nothing() -> None:
    """Content without an octet has no header section, whatever the message before it had."""
    desk = Desk()
    desk.say(ENVELOPE)
    desk.say(b"TLS-Required: No\r\n\r\nx\r\n.\r\n")
    desk.reception._transaction.intake.take(b"TLS-Required: No\r\n\r\n")
    desk.commit()
    desk.say(ENVELOPE)
    desk.say(b".\r\n")

    assert SenderTls.DEFAULT is desk.adding[0][0].envelope.tls
