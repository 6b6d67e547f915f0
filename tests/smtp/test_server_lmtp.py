# SPDX-License-Identifier: MIT
"""LMTP: LHLO, and an answer for each recipient after the content (RFC 2033)."""

import pytest
from tests.smtp.server_session import Session, codes

from smarthost.mail.reply import reply
from smarthost.smtp.server import ServerSettings, SmtpServer
from smarthost.smtp.wire import ContentEnded, HelloReceived

LMTP = ServerSettings(hostname="mx.example.org", max_octets=100_000, max_recipients=100, max_errors=5, is_lmtp=True)
HELLO = "LHLO client.example"
OPEN = (HELLO, "MAIL FROM:<a@b.example>")
THREE = (*OPEN, "RCPT TO:<c@d.example>", "RCPT TO:<no@d.example>", "RCPT TO:<c@d.example>", "RCPT TO:<e@d.example>")


def addressed(lines: tuple[str, ...] = THREE) -> Session:
    session = Session(LMTP)
    session.say(*lines)
    return session


def test_hello_of_lmtp_is_lhlo() -> None:
    """RFC 2033 4.1: EHLO and HELO are 500 there, as LHLO is elsewhere."""
    session = Session(LMTP)

    said = session.say("EHLO c", "HELO c", "MAIL FROM:<a@b>", "lhlo c", "MAIL FROM:<a@b>", "EHLO c", "RCPT TO:<c@d>")

    assert codes(said[:3]) == ["500 5.5.1", "500 5.5.1", "503 5.5.1"]
    assert said[2].endswith("Say LHLO first")
    assert "250-CHUNKING" in said[3]
    assert codes(said[4:]) == ["250 2.1.0", "500 5.5.1", "250 2.1.5"]
    assert session.events[0] == HelloReceived(True, "c")
    assert codes(Session().say("LHLO c")) == ["500 5.5.2"]


def test_content_is_answered_once_for_each_accepted_recipient() -> None:
    """RFC 2033 4.2: three of four were accepted, one of them twice; the driver answers once."""
    session = addressed()

    assert codes(session.say("DATA", "x\r\n.")) == ["354 End"] + ["250 2.0.0"] * 3
    assert sum(isinstance(event, ContentEnded) for event in session.events) == 1
    assert codes(session.say("NOOP")) == ["250 2.0.0"]


def test_last_chunk_is_answered_once_for_each_accepted_recipient() -> None:
    """The same with BDAT LAST; a chunk before it has one answer."""
    session = addressed()

    said = [session.send(b"BDAT 3\r\nabc"), session.send(b"BDAT 3 LAST\r\ndef")]

    assert codes(said[:1]) == ["250 2.0.0"]
    assert codes(said[1:]) == ["250 2.0.0"] * 3


@pytest.mark.parametrize("sent", [b"DATA\r\na\nb\r\n.\r\n", b"BDAT 3 LAST\r\na\nb"])
def test_refused_content_is_refused_for_each_recipient_and_is_one_error(sent: bytes) -> None:
    """One mistake, however many must hear of it."""
    session = addressed()
    before = session.machine.errors

    assert codes([session.send(sent)])[-3:] == ["550 5.6.11"] * 3
    assert session.machine.errors == before + 1


def test_chunk_refused_before_the_last_has_one_answer() -> None:
    """No delivery was tried, so there is nothing to say for each."""
    session = addressed()

    said = [session.send(b"BDAT 3\r\na\nb"), session.send(b"BDAT 1 LAST\r\nc")]

    assert codes(said) == ["550 5.6.11", "503 5.5.1"]


def test_next_transaction_counts_its_own_recipients() -> None:
    """Three, then one, then a refused one."""
    session = addressed()
    session.say("DATA", ".")

    assert codes(session.say(OPEN[1], "RCPT TO:<c@d>", "DATA", ".")[3:]) == ["250 2.0.0"]


@pytest.mark.parametrize("command", ["DATA", "BDAT 0 LAST"])
def test_without_a_recipient_content_is_503(command: str) -> None:
    """RFC 2033 4.2 says so, where SMTP says 554."""
    assert codes(addressed((*OPEN, "RCPT TO:<no@d>")).say(command)) == ["503 5.5.1"]


def test_421_after_content_is_said_for_each_and_ends_the_session() -> None:
    """No recipient is left without an answer."""
    machine = addressed().machine
    assert isinstance(machine, SmtpServer)
    machine.receive(b"DATA\r\n")
    machine.next_event()
    machine.accept_data()
    machine.take_output()
    machine.receive(b".\r\n")
    machine.next_event()
    machine.reply(reply(421, "4.3.2", "Shutting down"))

    assert machine.take_output() == b"421 4.3.2 Shutting down\r\n" * 3
    assert machine.is_closed
