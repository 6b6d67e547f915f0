# SPDX-License-Identifier: MIT
"""settle.record: what happened, field by field."""

import msgspec
import pytest

from smarthost.mail.address import Address, Domain
from smarthost.mail.content import InlineContent
from smarthost.mail.envelope import Body, Envelope
from smarthost.mail.hop import TlsFacts
from smarthost.mail.lease import Lease, LeasedRecipient
from smarthost.mail.message import Message
from smarthost.mail.record import Kind, Record, to_json
from smarthost.mail.reply import reply
from smarthost.mail.result import AttemptResult, Outcome, Timings, Verdict
from smarthost.mail.settlement import SettledRecipient, State
from smarthost.settle.record import describe_tls, record_acceptance, record_expiry, record_verdict

LEASE = Lease(
    "0123456789abcdef",
    1000.0,
    "alice@example.org",
    Body.SEVEN_BIT,
    False,
    "192.0.2.1",
    "alice@example.org",
    b"",
    5000,
    None,
    (LeasedRecipient(3, "bob@example.net", "example.net", 2),),
)
VERDICT = Verdict(
    Outcome.DEFERRED,
    "4.2.0",
    "bob is busy",
    reply(450, "4.2.0", "busy"),
    "mx.example.net",
    "192.0.2.9",
    ambiguous=True,
)
RESULT = AttemptResult(
    LEASE,
    1500.0,
    (VERDICT,),
    Timings(1.0, 2.0, 3.0, 4.0),
    TlsFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", True),
    "lane-1",
    ("mx1.example.net [192.0.2.8]: refused",),
)


def settled(state: State = State.DEFERRED, due: float = 1800.0) -> SettledRecipient:
    return SettledRecipient(3, "bob@example.net", "example.net", state, due, 3, "4.2.0", "450 x", "bob is busy")


def test_every_field_of_a_record_is_filled_from_its_place() -> None:
    """A record says who, what, where, how long and what next."""
    record = record_verdict(RESULT, VERDICT, settled(), said="450 4.2.0 busy", tls="TLSv1.3 x verified", seq=77)

    assert msgspec.structs.asdict(record) == {
        "seq": 77,
        "kind": Kind.DEFERRED,
        "at": 1500.0,
        "id": "0123456789abcdef",
        "recipient": "bob@example.net",
        "reverse_path": "alice@example.org",
        "attempt": 3,
        "status": "4.2.0",
        "reply": "450 4.2.0 busy",
        "why": "bob is busy",
        "host": "mx.example.net",
        "address": "192.0.2.9",
        "lane": "lane-1",
        "tls": "TLSv1.3 x verified",
        "ambiguous": True,
        "octets": 5000,
        "client": "192.0.2.1",
        "next_attempt_at": 1800.0,
        "queued_s": 1.0,
        "connect_s": 2.0,
        "handshake_s": 3.0,
        "transfer_s": 4.0,
        "walk": ("mx1.example.net [192.0.2.8]: refused",),
        "service": "",
        "user": "",
        "recipients": (),
        "message_id": "",
        "transcript": (),
    }


@pytest.mark.parametrize(
    ("state", "outcome", "kind"),
    [
        (State.RELAYED, Outcome.RELAYED, Kind.RELAYED),
        (State.DEFERRED, Outcome.DEFERRED, Kind.DEFERRED),
        (State.DEFERRED, Outcome.POSTPONED, Kind.POSTPONED),
        (State.BOUNCED, Outcome.BOUNCED, Kind.BOUNCED),
        (State.EXPIRED, Outcome.DEFERRED, Kind.EXPIRED),
        (State.EXPIRED, Outcome.POSTPONED, Kind.EXPIRED),
    ],
)
def test_kind_follows_the_state_reached(state: State, outcome: Outcome, kind: Kind) -> None:
    """The record's kind is what became of the recipient, not what the verdict hoped for."""
    verdict = msgspec.structs.replace(VERDICT, outcome=outcome)

    assert record_verdict(RESULT, verdict, settled(state), said="", tls="", seq=1).kind is kind


def test_expiry_by_the_sweep_says_how_long_it_waited() -> None:
    """A recipient that was given up without an attempt leaves a record with its age."""
    record = record_expiry(LEASE, settled(State.EXPIRED, 0.0), at=433_000.0, seq=5)

    assert record == Record(
        5,
        Kind.EXPIRED,
        433_000.0,
        "0123456789abcdef",
        "bob@example.net",
        "alice@example.org",
        3,
        "4.2.0",
        why="bob is busy",
        octets=5000,
        client="192.0.2.1",
        queued_s=432_000.0,
    )


def test_clock_that_ran_backwards_gives_no_negative_wait() -> None:
    """Times in records are never negative."""
    assert record_expiry(LEASE, settled(State.EXPIRED), at=1.0, seq=5).queued_s == 0.0


def test_record_becomes_one_json_line_without_empty_fields() -> None:
    """A record is one line for whoever reads the log."""
    line = to_json(record_expiry(LEASE, settled(State.EXPIRED), at=2000.0, seq=5))

    assert b"\n" not in line
    assert b'"kind":"expired"' in line
    assert b"walk" not in line


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (None, ""),
        (TlsFacts("TLSv1.3", "X", True), "TLSv1.3 X verified"),
        (TlsFacts("TLSv1.2", "Y", False), "TLSv1.2 Y unverified"),
    ],
)
def test_tls_is_told_in_one_line(facts: TlsFacts | None, text: str) -> None:
    """Whether the session was protected, and how well, can be read at a glance."""
    assert describe_tls(facts) == text


def test_the_log_says_who_logged_in() -> None:
    """An acceptance names the user, and nothing where nobody logged in."""
    recipient = Address("bob@example.net", Domain("example.net"))
    envelope = Envelope("alice@example.org", (recipient,), Body.SEVEN_BIT)
    content = InlineContent(b"x")
    named = record_acceptance(Message("id", 1.0, envelope, b"", content, "192.0.2.1", "alice", user="alice"), 7)
    nameless = record_acceptance(Message("id", 1.0, envelope, b"", content, "192.0.2.1", "alice"), 8)

    assert (7, "bob@example.net", ()) == (named.seq, named.recipient, named.recipients)
    assert "alice" == named.user
    assert b"user" not in to_json(nameless)


def test_an_acceptance_of_many_recipients_is_one_record_that_names_them_all() -> None:
    """A message to a thousand people makes one record, by which each of them can be asked for."""
    recipients = tuple(Address(f"r{n}@example.net", Domain("example.net")) for n in range(3))
    envelope = Envelope("alice@example.org", recipients, Body.SEVEN_BIT)
    message = Message("id", 1.0, envelope, b"", InlineContent(b"x"), "192.0.2.1", "alice", message_id="<m@example.org>")

    record = record_acceptance(message, 7)

    assert ("", ("r0@example.net", "r1@example.net", "r2@example.net")) == (record.recipient, record.recipients)
    assert "<m@example.org>" == record.message_id
