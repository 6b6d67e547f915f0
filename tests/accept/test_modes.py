# SPDX-License-Identifier: MIT
"""What each kind of listener lets whom do, as a client sees it on the wire."""

from base64 import b64encode

import pytest
from tests.accept.desk import ALICE, STRANGER, TLS, Certificate, Desk, Users

from smarthost.accept.listeners import Mode
from smarthost.mail.errors import StoreError
from smarthost.mail.hop import TlsFacts
from smarthost.mail.user import User

EHLO = b"EHLO c.example\r\n"
MAIL = b"MAIL FROM:<alice@example.org>\r\n"
RCPT = b"RCPT TO:<b@example.net>\r\n"
CONTENT = b"Subject: x\r\n\r\nbody\r\n.\r\n"


def plain(user: str = "alice", password: str = "secret") -> bytes:
    return b"AUTH PLAIN " + b64encode(f"\0{user}\0{password}".encode()) + b"\r\n"


def submission(client: str = STRANGER, **terms: object) -> Desk:
    return Desk(
        client=client,
        local="198.51.100.1",
        mode=Mode.SUBMISSION,
        tls=Certificate(),
        requires_tls=True,
        users=Users(ALICE, User("bob", ("*",))),
        **terms,  # type: ignore[arg-type]
    )


def secured(desk: Desk, facts: TlsFacts = TLS) -> Desk:
    desk.say(EHLO)
    assert desk.say(b"STARTTLS\r\n").startswith(b"220")
    desk.shake(facts)
    desk.say(EHLO)
    return desk


# -- submission ------------------------------------------------------------------------------------------------------


def test_a_user_submits_from_anywhere() -> None:
    """STARTTLS, AUTH, a message: the envelope is his, the trace says how it came, but not who he is."""
    desk = secured(submission())

    assert desk.say(plain()).startswith(b"235 2.7.0")
    desk.say(MAIL + RCPT + b"DATA\r\n")
    desk.say(CONTENT)
    message = desk.adding[0][0]

    assert desk.commit().startswith(b"250")
    assert "alice" == message.sender
    assert message.signs == ("alice@example.org", "@lists.example.org")
    assert STRANGER == message.client
    assert b" (using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384)\r\n by relay.example.org with ESMTPSA id" in (
        message.prefix
    )
    assert b"alice" not in message.prefix


def test_what_a_submission_lacks_is_added_in_front_of_it() -> None:
    """Date and Message-ID stand in the prefix; the content is as it came."""
    desk = secured(submission())
    desk.say(plain() + MAIL + RCPT + b"DATA\r\n")
    desk.say(CONTENT)

    message = desk.adding[0][0]

    assert b"Subject: x\r\n\r\nbody\r\n" == b"".join(message.content.chunks())
    assert message.prefix.endswith(
        f"\r\nDate: Fri, 15 Jan 2027 08:00:00 +0000\r\nMessage-ID: <{message.id}@relay.example.org>\r\n".encode()
    )


def test_a_relay_adds_nothing_but_its_trace() -> None:
    """On port 25 a message without Date stays one (RFC 6409 8)."""
    desk = Desk()
    desk.say(EHLO + MAIL + RCPT + b"DATA\r\n")
    desk.say(CONTENT)

    prefix = desk.adding[0][0].prefix

    assert prefix.startswith(b"Received:")
    assert b"\r\nDate:" not in prefix
    assert b"Message-ID" not in prefix


def test_mail_before_tls_is_told_to_begin_tls() -> None:
    """530 5.7.0, as RFC 3207 4 has it; neither AUTH nor mail is there before."""
    desk = submission()
    offered = desk.say(EHLO)

    assert b"STARTTLS" in offered
    assert b"AUTH" not in offered
    assert desk.say(MAIL) == b"530 5.7.0 Must issue a STARTTLS command first\r\n"
    assert desk.say(plain()).startswith(b"538 5.7.11")
    assert desk.say(RCPT).startswith(b"503")


def test_mail_before_auth_is_told_to_log_in() -> None:
    """Inside TLS a stranger is still a stranger (RFC 6409 4.3)."""
    desk = secured(submission())

    assert desk.say(MAIL) == b"530 5.7.0 Authentication required\r\n"
    assert desk.say(RCPT).startswith(b"503")


def test_our_own_networks_have_to_log_in_to_submit() -> None:
    """The networks of relay_from mean nothing where users submit: they may neither send nor relay."""
    desk = secured(submission("127.0.0.1"))

    assert desk.say(MAIL).startswith(b"530 5.7.0")
    assert not desk.reception._standing.may_relay


@pytest.mark.parametrize(
    ("client", "local", "requires_tls", "is_offered"),
    [
        ("127.0.0.1", "127.0.0.1", False, True),
        ("::1", "::1", False, True),
        ("127.0.0.1", "127.0.0.1", True, False),
        ("127.0.0.1", "198.51.100.1", False, False),  # a balancer's word for loopback is no loopback
        (STRANGER, "127.0.0.1", False, False),
    ],
)
@pytest.mark.parametrize("mode", [Mode.RELAY, Mode.SUBMISSION])
def test_passwords_travel_in_clear_from_and_to_loopback_only(
    client: str, local: str, requires_tls: bool, is_offered: bool, mode: Mode
) -> None:
    """AUTH is not even offered elsewhere, and said all the same it is refused without being looked at."""
    users = Users()
    desk = Desk(client=client, local=local, mode=mode, requires_tls=requires_tls, users=users)

    assert (b"AUTH PLAIN LOGIN" in desk.say(EHLO)) is is_offered
    assert desk.say(plain()).startswith(b"235" if is_offered else b"502")
    assert (users.asked == ["alice"]) is is_offered


@pytest.mark.parametrize(
    ("user", "sender", "reply"),
    [
        ("alice", b"alice@example.org", b"250"),
        ("alice", b"Alice@Example.ORG", b"250"),
        ("alice", b"news@lists.example.org", b"250"),
        ("alice", b"bob@example.org", b"550 5.7.1"),
        ("alice", b"x@sub.lists.example.org", b"550 5.7.1"),
        ("alice", b"", b"550 5.7.1"),
        ("bob", b"anybody@anywhere.example", b"250"),
        ("bob", b"", b"250"),
    ],
)
def test_a_user_sends_as_himself_only(user: str, sender: bytes, reply: bytes) -> None:
    """RFC 6409 6.1: other reverse-paths are refused, the null path too; the reply names what would allow it."""
    desk = secured(submission())
    desk.say(plain(user))

    answer = desk.say(b"MAIL FROM:<" + sender + b">\r\n")

    assert answer.startswith(reply)
    if not answer.startswith(b"250"):
        assert b"senders" in answer
        assert "sender refused" in desk.notes
        assert desk.facts[desk.notes.index("sender refused")]["user"] == user


def test_a_user_without_senders_sends_nothing() -> None:
    """Nothing is allowed that nobody allowed."""
    desk = Desk(mode=Mode.SUBMISSION, users=Users(User("carol")))
    desk.say(EHLO + plain("carol"))

    assert desk.say(MAIL).startswith(b"550 5.7.1")


def test_auth_parameter_of_mail_is_evidence_of_nothing() -> None:
    """AUTH=<somebody> does not stand for AUTH, and changes nothing for who did log in."""
    desk = secured(submission())
    stranger = desk.say(b"MAIL FROM:<bob@example.org> AUTH=bob@example.org\r\n")
    desk.say(plain())
    alice = desk.say(b"MAIL FROM:<bob@example.org> AUTH=bob@example.org\r\n")

    assert stranger.startswith(b"530 5.7.0")
    assert alice.startswith(b"550 5.7.1")


# -- certificates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [Mode.RELAY, Mode.SUBMISSION, Mode.LMTP])
def test_a_client_certificate_of_a_user_stands_for_his_password(mode: Mode) -> None:
    """Its fingerprint names the user; he sends at once, as himself only. The trace says TLS, not AUTH (RFC 3848)."""
    users = Users()
    users.certificates["5e88"] = ALICE
    desk = Desk(client=STRANGER, mode=mode, tls=Certificate(), requires_tls=True, users=users)
    hello = b"LHLO c.example\r\n" if mode is Mode.LMTP else EHLO
    desk.say(hello)
    desk.say(b"STARTTLS\r\n")
    desk.shake(TlsFacts("TLSv1.3", "X", False, fingerprint="5e88"))

    desk.say(hello + MAIL + RCPT + b"DATA\r\n")
    desk.say(CONTENT)

    assert "alice" == desk.adding[0][0].sender
    assert b"MTPS id" in desk.adding[0][0].prefix
    assert desk.say(b"") == b""


def test_a_certificate_of_nobody_is_nobody() -> None:
    """Any other certificate, trusted or not, is as good as none."""
    desk = secured(submission(), TlsFacts("TLSv1.3", "X", True, fingerprint="dead"))

    assert desk.say(MAIL).startswith(b"530 5.7.0")


def test_users_that_cannot_be_read_are_nobody_to_a_certificate() -> None:
    """A broken users file costs the login, not the session."""
    users = Users()

    def broken(fingerprint: str) -> User | None:
        raise StoreError("unreadable")

    users.find_certificate = broken  # type: ignore[method-assign]
    desk = Desk(client=STRANGER, mode=Mode.SUBMISSION, tls=Certificate(), users=users)
    desk.say(EHLO)
    desk.say(b"STARTTLS\r\n")
    desk.shake(TlsFacts("TLSv1.3", "X", True, fingerprint="5e88"))

    assert desk.say(EHLO + MAIL).endswith(b"530 5.7.0 Authentication required\r\n")
    assert "users cannot be read" in desk.notes


# -- submissions -----------------------------------------------------------------------------------------------------


def test_submissions_begins_with_tls_and_greets_inside() -> None:
    """Port 465 (RFC 8314): not an octet in clear; the banner comes after the handshake; no STARTTLS is offered."""
    certificate = Certificate()
    desk = Desk(client=STRANGER, mode=Mode.SUBMISSIONS, tls=certificate, requires_tls=True, users=Users())

    assert [] == desk.wire.written
    assert desk.wire.upgraded_with is certificate
    assert desk.shake().startswith(b"220 relay.example.org ESMTP")
    offered = desk.say(EHLO)
    assert b"STARTTLS" not in offered
    assert b"AUTH PLAIN LOGIN" in offered
    assert desk.say(MAIL).startswith(b"530 5.7.0")
    assert desk.say(plain()).startswith(b"235")
    assert desk.say(MAIL).startswith(b"250")


def test_submissions_without_a_certificate_drops_the_client() -> None:
    """There is nothing to say that would not be in clear; the log says why, once a minute."""
    certificate = Certificate()
    certificate.can_serve = False
    desk = Desk(client=STRANGER, mode=Mode.SUBMISSIONS, tls=certificate, users=Users())

    assert desk.accept(desk.wire) is None
    assert [] == desk.wire.written
    assert ["connection dropped"] == desk.notes
    assert 0 == len(desk.receptions)


def test_a_relay_may_begin_with_tls_too() -> None:
    """Implicit TLS is no privilege of users."""
    desk = Desk(tls=Certificate(), implicit_tls=True)

    assert desk.shake().startswith(b"220")
    assert desk.say(EHLO + MAIL + RCPT).endswith(b"250 2.1.5 Ok\r\n")


# -- relay -----------------------------------------------------------------------------------------------------------


def test_a_relay_without_users_or_certificate_offers_neither() -> None:
    """What is not there is not offered."""
    offered = Desk().say(EHLO)

    assert b"AUTH" not in offered
    assert b"STARTTLS" not in offered
    assert b"REQUIRETLS" not in offered
    assert b"XCLIENT" not in offered


def test_a_user_may_relay_from_anywhere() -> None:
    """On a relay, who logs in is as good as the networks; before, he is a stranger."""
    desk = Desk(client=STRANGER, tls=Certificate(), users=Users())
    before = desk.say(EHLO + MAIL + RCPT + b"RSET\r\n")
    secured(desk)

    assert b"550 5.7.1 Relaying denied" in before
    assert desk.say(plain()).startswith(b"235")
    assert desk.say(MAIL + RCPT).endswith(b"250 2.1.5 Ok\r\n")


def test_a_relay_may_require_tls() -> None:
    """Where it does, our own networks hear so, too."""
    desk = Desk(tls=Certificate(), requires_tls=True)
    desk.say(EHLO)

    assert desk.say(MAIL).startswith(b"530 5.7.0 Must issue a STARTTLS")
    assert desk.say(b"STARTTLS\r\n").startswith(b"220")
    desk.shake()
    assert desk.say(EHLO + MAIL + RCPT).endswith(b"250 2.1.5 Ok\r\n")


def test_strangers_mail_to_postmaster_is_not_signed() -> None:
    """We vouch for our own clients only."""
    desk = Desk(client=STRANGER, postmaster="ops@example.org")
    desk.say(EHLO + MAIL + b"RCPT TO:<postmaster>\r\nDATA\r\n")
    desk.say(CONTENT)

    message = desk.adding[0][0]

    assert not message.signs
    assert "alice@example.org" == message.sender


# -- LMTP ------------------------------------------------------------------------------------------------------------


def test_lmtp_answers_for_each_recipient() -> None:
    """LHLO, and as many replies after the dot as recipients were accepted (RFC 2033 4.2); the trace says LMTP."""
    desk = Desk(mode=Mode.LMTP)

    assert desk.wire.written[0].startswith(b"220 relay.example.org LMTP")
    assert desk.say(EHLO).startswith(b"500")
    desk.say(b"LHLO c.example\r\n" + MAIL + RCPT + b"RCPT TO:<c@example.net>\r\nDATA\r\n")
    desk.say(CONTENT)
    message = desk.adding[0][0]

    assert b" with LMTP id " in message.prefix
    assert desk.commit() == f"250 2.0.0 Ok: queued as {message.id}\r\n".encode() * 2


def test_lmtp_fails_for_each_recipient() -> None:
    """A store that cannot commit is a 4xx for everyone, in the count the client waits for."""
    desk = Desk(mode=Mode.LMTP)
    desk.say(b"LHLO c.example\r\n" + MAIL + RCPT + b"RCPT TO:<c@example.net>\r\nDATA\r\n")
    desk.say(CONTENT)

    assert 2 == desk.commit(StoreError("no")).count(b"451 4.3.0")


def test_strangers_may_not_relay_in_lmtp() -> None:
    """LMTP goes by network as relaying does."""
    desk = Desk(mode=Mode.LMTP, client=STRANGER)

    assert desk.say(b"LHLO c\r\n" + MAIL + RCPT).endswith(b"relay_from\r\n")


# -- newlines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("client", "is_mended"), [("127.0.0.1", True), (STRANGER, False)])
def test_newlines_are_mended_for_our_own_machines_only(client: str, is_mended: bool) -> None:
    """Old appliances of our networks may be forgiven; a stranger's bare LF never is."""
    desk = Desk(client=client, normalises_newlines=True, postmaster="ops@example.org")
    desk.say(EHLO + MAIL + b"RCPT TO:<postmaster>\r\nDATA\r\n")
    answer = desk.say(b"bare\nlf\r\n.\r\n")

    if is_mended:
        assert b"bare\r\nlf\r\n" == b"".join(desk.adding[0][0].content.chunks())
    else:
        assert answer.startswith(b"550 5.6.11")
        assert [] == desk.adding
