# SPDX-License-Identifier: MIT
"""accept.replies: what we say must be sound SMTP, whichever reply it is."""

import pytest

from smarthost.accept import replies
from smarthost.mail.errors import StoreError, StoreFull, StoreLocked
from smarthost.mail.reply import Reply

NAMED = {name: value for name, value in vars(replies).items() if isinstance(value, Reply)}
BUILT = {
    "relay_denied": replies.relay_denied("2001:0db8:1111:2222:3333:4444:5555:6666"),
    "sender_denied_to_user": replies.sender_denied_to_user("x\r\n" + "é" * 900, "al\nice" * 90),
    "sender_denied_to_network": replies.sender_denied_to_network("\x1b[31m@example.org", "192.0.2.1"),
    "chunk_taken": replies.chunk_taken(10**18),
    "store_failed": replies.for_store_failure(StoreError("disk /dev/sda1 is on fire")),
}
EVERY = {**NAMED, **BUILT}


@pytest.mark.parametrize("name", EVERY)
def test_enhanced_class_is_the_first_digit(name: str) -> None:
    """A client that reads only the enhanced code decides as one that reads only the reply code (RFC 2034 4)."""
    said = EVERY[name]

    assert said.enhanced.split(".")[0] == str(said.code)[0]
    assert len(said.enhanced.split(".")) == 3


@pytest.mark.parametrize("name", [*EVERY, "greeting"])
def test_lines_are_printable_ascii_within_512_octets(name: str) -> None:
    """Every line fits the shortest buffer a client may have (RFC 5321 4.5.3.1.5)."""
    octets = (replies.greeting("h" * 255) if name == "greeting" else EVERY[name]).encode()

    for line in octets.removesuffix(b"\r\n").split(b"\r\n"):
        assert len(line) + 2 <= 512
        assert line.isascii()
        assert line.decode().isprintable()


def test_all_the_replies_that_others_rely_on_are_there() -> None:
    """The reason of each refusal is told apart by its code."""
    assert {name: f"{said.code} {said.enhanced}" for name, said in NAMED.items()} == {
        "MAIL_OK": "250 2.1.0",
        "RCPT_OK": "250 2.1.5",
        "TOO_BUSY": "421 4.3.2",
        "TOO_MANY_CONNECTIONS": "421 4.7.0",
        "BANNED_FOR_ERRORS": "421 4.7.0",
        "SHUTTING_DOWN": "421 4.3.2",
        "TIMED_OUT": "421 4.4.2",
        "LOCAL_ERROR": "421 4.3.0",
        "STORE_FAILED": "451 4.3.0",
        "STORE_FULL": "452 4.3.1",
        "STORE_FAILED_AT_BANNER": "421 4.3.0",
        "TLS_FIRST": "530 5.7.0",
        "TLS_UNAVAILABLE": "454 4.7.0",
        "AUTH_FIRST": "530 5.7.0",
        "AUTH_OK": "235 2.7.0",
        "AUTH_FAILED": "535 5.7.8",
        "AUTH_UNAVAILABLE": "454 4.7.0",
        "AUTH_BANNED": "454 4.7.0",
        "AUTH_BUSY": "454 4.7.0",
        "TOO_MANY_LOGINS": "421 4.7.0",
        "TOO_MANY_MESSAGES": "450 4.7.1",
        "TOO_MANY_RECIPIENTS": "452 4.7.1",
        "TOO_MANY_ERRORS": "421 4.7.0",
        "TOO_SLOW": "421 4.4.2",
        "NULL_SENDER_DENIED": "550 5.7.1",
        "MAIL_LOOP": "554 5.4.6",
        "NO_POSTMASTER": "550 5.1.1",
        "NO_DOMAIN": "553 5.1.3",
    }


def test_prepared_octets_are_those_of_the_named_replies() -> None:
    """What is said fast is what is said slowly."""
    assert replies.MAIL_OK_OCTETS == b"250 2.1.0 Ok\r\n" == replies.MAIL_OK.encode()
    assert replies.RCPT_OK_OCTETS == b"250 2.1.5 Ok\r\n" == replies.RCPT_OK.encode()


def test_queued_names_the_id() -> None:
    """The sender can quote the id under which we took the message."""
    assert replies.queued("0123456789abcdef") == b"250 2.0.0 Ok: queued as 0123456789abcdef\r\n"


def test_greeting_has_our_name_first_and_no_enhanced_code() -> None:
    """The banner is as RFC 5321 4.3.1 and RFC 2034 4 want it."""
    assert replies.greeting("relay.example").encode() == b"220 relay.example ESMTP smarthost\r\n"


def test_relay_refusal_names_the_client_and_the_setting() -> None:
    """Whoever reads the refusal knows which address to allow, and where."""
    assert "192.0.2.7" in str(replies.relay_denied("192.0.2.7"))
    assert "relay_from" in str(replies.relay_denied("192.0.2.7"))


@pytest.mark.parametrize(
    "failure", [StoreError("x"), StoreLocked("x"), StoreFull("x"), OSError(28, "x"), MemoryError()]
)
def test_no_store_failure_is_ever_permanent_or_told_in_detail(failure: Exception) -> None:
    """A trouble of ours never bounces mail, and its private detail stays in our log."""
    said = replies.for_store_failure(failure)

    assert said.is_temporary
    assert (said.enhanced == "4.3.1") == isinstance(failure, StoreFull)
    assert "x" not in " ".join(said.lines).split()
