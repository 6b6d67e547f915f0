# SPDX-License-Identifier: MIT
"""What the fuzzer found in the server machine, once and for all."""

import pytest
from tests.smtp.server_session import HELLO, Session

from smarthost.mail.reply import Reply
from smarthost.smtp.grammar import parse_mail, parse_rcpt

SEPARATORS = ("\x80", "\x85", "\x9f", "\u2028", "\u2029")


@pytest.mark.parametrize("separator", SEPARATORS)
def test_controls_beyond_ascii_never_get_into_an_address(separator: str) -> None:
    """NEL and its like end a line for some readers of logs, and no host would hear them from us: refused."""
    path = f"<j{separator}rgen@example.org>".encode()

    sender = parse_mail(b"FROM:" + path + b" SMTPUTF8", 1000)
    recipient = parse_rcpt(b"TO:" + path, True)

    assert isinstance(sender, Reply)
    assert isinstance(recipient, Reply)
    assert ("501 5.1.7", "501 5.1.3") == (str(sender)[:9], str(recipient)[:9])


@pytest.mark.parametrize("line", [b"\x16\x03\nNOOP\r\n", b"\x16\x03\x01\r\n"])
def test_tls_spoken_to_clear_text_is_told_however_packets_are_cut(line: bytes) -> None:
    """A handshake that happens to hold a newline is one all the same, in one packet or in many."""
    whole, slow = Session(), Session()
    for session in (whole, slow):
        session.say(HELLO)

    at_once = whole.send(line)
    one_by_one = "".join(slow.send(line[at : at + 1]) for at in range(len(line)))

    assert at_once == one_by_one
    assert whole.machine.is_closed
