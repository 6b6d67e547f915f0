# SPDX-License-Identifier: MIT
"""STARTTLS and XCLIENT: what a session forgets, what it keeps, and who may say so."""

from base64 import b64encode

import pytest
from tests.accept.desk import STRANGER, TLS, Certificate, Desk, Users, Wire

from smarthost.accept.clients import ClientTerms, NetworkTerms
from smarthost.accept.listeners import Mode
from smarthost.mail.errors import TlsFailed
from smarthost.smtp.limits import TLS_HANDSHAKE_S

EHLO = b"EHLO c.example\r\n"
MAIL = b"MAIL FROM:<alice@example.org>\r\n"
RCPT = b"RCPT TO:<b@example.net>\r\n"
LOGIN = b"AUTH PLAIN " + b64encode(b"\0alice\0secret") + b"\r\n"
PROXY = "10.0.0.9"


def begun(**terms: object) -> Desk:
    """A session in the middle of its handshake."""
    desk = Desk(tls=Certificate(), **terms)  # type: ignore[arg-type]
    desk.say(b"EHLO before.example\r\n")
    assert desk.say(b"STARTTLS\r\n") == b"220 2.0.0 Start TLS\r\n"
    return desk


# -- STARTTLS --------------------------------------------------------------------------------------------------------


def test_starttls_upgrades_after_the_220_was_written() -> None:
    """The last octets in clear are the 220; then the handshake, with the listener's certificate."""
    desk = begun()

    assert isinstance(desk.wire.upgraded_with, Certificate)
    assert b"" == desk.shake()  # the client speaks first (RFC 3207 4.2)
    assert desk.say(MAIL).startswith(b"503")  # EHLO was forgotten
    offered = desk.say(EHLO)
    assert b"STARTTLS" not in offered
    assert b"REQUIRETLS" in offered


def test_starttls_forgets_the_name_of_the_client() -> None:
    """The trace has the name said inside TLS only."""
    desk = begun()
    desk.shake()
    desk.say(b"EHLO after.example\r\n" + MAIL + RCPT + b"DATA\r\n")
    desk.say(b"x\r\n.\r\n")

    assert b"after.example" in desk.adding[0][0].prefix
    assert b"before.example" not in desk.adding[0][0].prefix
    assert b" with ESMTPS id " in desk.adding[0][0].prefix


def test_commands_behind_starttls_end_the_session() -> None:
    """Whatever was injected in clear is never obeyed inside TLS (CVE-2011-0411)."""
    desk = Desk(tls=Certificate())
    desk.say(EHLO)

    answer = desk.say(b"STARTTLS\r\n" + MAIL)

    assert answer.startswith(b"421")
    assert desk.wire.is_closed
    assert desk.wire.upgraded_with is None


def test_a_certificate_that_is_gone_is_a_temporary_no() -> None:
    """454 (RFC 3207 4), and the session goes on in clear where that is allowed."""
    certificate = Certificate()
    desk = Desk(tls=certificate)
    desk.say(EHLO)
    certificate.can_serve = False

    assert desk.say(b"STARTTLS\r\n").startswith(b"454 4.7.0")
    assert b"STARTTLS" not in desk.say(EHLO)
    assert desk.say(MAIL).startswith(b"250")


def test_a_handshake_that_fails_ends_the_session_and_is_told_seldom() -> None:
    """No fallback to clear text; one note a minute for one network, whatever a certificate has in its name."""
    desk = begun()
    for _ in range(5):
        desk.reception.lost(TlsFailed("bad name \r\n\x1b[31m evil", step="tls"))
        desk.connect()
        desk.say(EHLO)
        desk.say(b"STARTTLS\r\n")

    assert ["TLS handshake failed"] == desk.notes
    assert "bad name ???[31m evil" == desk.facts[0]["why"]
    assert 1 == len(desk.receptions)


def test_a_handshake_that_never_ends_is_cut_off() -> None:
    """After a minute, without a word: nothing can be said in the middle of a handshake."""
    desk = begun()
    written = len(desk.wire.written)
    desk.clock.advance(TLS_HANDSHAKE_S - 1)
    early = desk.wire.is_closed
    desk.clock.advance(2)

    assert not early
    assert desk.wire.is_closed
    assert written == len(desk.wire.written)
    assert ["TLS handshake failed"] == desk.notes


def test_a_handshake_done_too_late_is_no_session() -> None:
    """What comes after the cut is ignored."""
    desk = begun()
    desk.clock.advance(TLS_HANDSHAKE_S + 1)

    assert b"" == desk.shake()
    assert b"" == desk.say(EHLO)


def test_draining_waits_for_a_handshake_and_then_says_goodbye() -> None:
    """421 is said inside TLS, not into the handshake."""
    desk = begun()
    desk.reception.leave()
    during = desk.wire.is_closed

    assert not during
    assert desk.shake().startswith(b"421 4.3.2")
    assert desk.wire.is_closed


def test_draining_greets_nobody_behind_implicit_tls() -> None:
    """A session that was shaking hands when we began to leave hears 421 as its banner."""
    desk = Desk(tls=Certificate(), implicit_tls=True)
    desk.reception.leave()

    assert desk.shake().startswith(b"421 4.3.2")


def test_a_client_that_has_not_read_its_replies_can_still_shake_hands() -> None:
    """Back-pressure does not deafen the handshake."""
    desk = Desk(tls=Certificate())
    desk.wire.takes = False
    desk.say(EHLO)
    desk.say(b"STARTTLS\r\n")  # the wire asserts that it is heard

    assert desk.wire.upgraded_with is not None


# -- REQUIRETLS ------------------------------------------------------------------------------------------------------


def test_requiretls_is_for_sessions_inside_tls() -> None:
    """RFC 8689 2: neither offered nor taken in clear; taken, it travels with the message and beats the field."""
    desk = Desk(tls=Certificate())
    desk.say(EHLO)
    in_clear = desk.say(b"MAIL FROM:<a@example.org> REQUIRETLS\r\n")
    desk.say(b"STARTTLS\r\n")
    desk.shake()
    desk.say(EHLO + b"MAIL FROM:<a@example.org> REQUIRETLS\r\n" + RCPT + b"DATA\r\n")
    desk.say(b"TLS-Required: No\r\n\r\nx\r\n.\r\n")

    assert in_clear.startswith(b"5")
    assert "required" == desk.adding[0][0].envelope.tls.value


# -- XCLIENT ---------------------------------------------------------------------------------------------------------


def proxied(*, client: str = PROXY, mode: Mode = Mode.RELAY, clients: ClientTerms | None = None) -> Desk:
    return Desk(
        client=client,
        mode=mode,
        tls=Certificate(),
        users=Users(),
        xclient_from=(PROXY + "/32",),
        postmaster="ops@example.org",
        clients=clients,
    )


def test_a_trusted_proxy_says_who_the_client_is() -> None:
    """Policy, trace and message see the client it names; the name it heard in EHLO stands in the trace."""
    desk = proxied()
    offered = desk.say(EHLO)
    answer = desk.say(b"XCLIENT ADDR=127.0.0.5 PORT=4711 NAME=[UNAVAILABLE] HELO=real.example\r\n")
    desk.say(b"EHLO proxy.example\r\n" + MAIL + RCPT + b"DATA\r\n")
    desk.say(b"x\r\n.\r\n")
    message = desk.adding[0][0]

    assert b"XCLIENT NAME ADDR" in offered
    assert answer.startswith(b"220 relay.example.org")
    assert "127.0.0.5" == message.client
    assert message.prefix.startswith(b"Received: from real.example ([127.0.0.5])\r\n")


def test_a_client_named_by_a_proxy_has_no_more_rights_than_its_address() -> None:
    """A stranger behind a trusted proxy is a stranger, and is named in the refusal."""
    desk = proxied()
    desk.say(EHLO + b"XCLIENT ADDR=203.0.113.7\r\n")

    answer = desk.say(EHLO + MAIL + RCPT)

    assert answer.endswith(b"550 5.7.1 Relaying denied: 203.0.113.7 is not among the networks of relay_from\r\n")


@pytest.mark.parametrize("address", ["[UNAVAILABLE]", "[TEMPUNAVAIL]"])
def test_a_client_whose_address_a_proxy_does_not_know_has_no_rights_of_the_proxy(address: str) -> None:
    """A proxy among our own networks may relay; whoever it cannot name may not, as in Postfix."""
    desk = Desk(xclient_from=("127.0.0.0/8",), users=Users(), postmaster="ops@example.org")
    desk.say(EHLO + b"XCLIENT ADDR=" + address.encode() + b"\r\n")
    hello = desk.say(EHLO)

    assert b"550 5.7.1 Relaying denied: unknown" in desk.say(MAIL + RCPT)
    assert b"AUTH" not in hello
    desk.say(b"RCPT TO:<postmaster>\r\nDATA\r\n")
    desk.say(b"x\r\n.\r\n")
    assert desk.adding[0][0].prefix.startswith(b"Received: from c.example (unknown)\r\n")
    desk.reception.lost(None)
    assert {} == desk.receptions._clients._open


def test_an_ipv6_client_named_by_a_proxy_is_written_as_such() -> None:
    """ADDR=IPV6:... as Postfix has it."""
    desk = proxied()
    desk.say(EHLO + b"XCLIENT ADDR=IPV6:2001:db8::1\r\n")

    assert b"2001:db8::1 is not among" in desk.say(EHLO + MAIL + RCPT)


@pytest.mark.parametrize("client", [STRANGER, "127.0.0.1", "10.0.0.8"])
def test_xclient_is_for_nobody_else(client: str) -> None:
    """Not offered, not obeyed; not even for our own networks."""
    desk = proxied(client=client)

    assert b"XCLIENT" not in desk.say(EHLO)
    assert desk.say(b"XCLIENT ADDR=127.0.0.1\r\n").startswith(b"500")
    assert (b"550 5.7.1" in desk.say(MAIL + RCPT)) is (client != "127.0.0.1")


def test_a_login_named_by_a_proxy_is_a_user() -> None:
    """The proxy checked it: the user submits, and the trace says so without his name."""
    desk = proxied(mode=Mode.SUBMISSION)
    desk.say(EHLO + b"XCLIENT ADDR=203.0.113.7 LOGIN=carol\r\n")
    desk.say(EHLO + MAIL + RCPT + b"DATA\r\n")
    desk.say(b"x\r\n.\r\n")

    assert "carol" == desk.adding[0][0].sender
    assert b"with ESMTPA id" in desk.adding[0][0].prefix
    assert b"carol" not in desk.adding[0][0].prefix


def test_a_user_named_by_a_proxy_has_the_senders_that_the_users_file_gives_him() -> None:
    """The proxy vouches for who he is; whose names he may use is written here."""
    desk = proxied(mode=Mode.SUBMISSION)

    desk.say(EHLO + b"XCLIENT ADDR=203.0.113.7 LOGIN=alice\r\n")

    assert b"250 2.1.0" in desk.say(EHLO + b"MAIL FROM:<alice@example.org>\r\n")
    assert b"550 5.7.1" in desk.say(b"RSET\r\nMAIL FROM:<eve@example.org>\r\n")


def test_a_proxy_is_believed_where_nothing_else_is_offered() -> None:
    """A relay in clear text, without users, behind a proxy: it needs no certificate to be told who the client is."""
    desk = Desk(xclient_from=("127.0.0.1",))

    assert b"250 XCLIENT NAME ADDR" in desk.say(EHLO)
    assert desk.say(b"XCLIENT ADDR=203.0.113.7\r\n").startswith(b"220")


def test_a_proxy_that_names_another_client_takes_the_login_back() -> None:
    """Each XCLIENT begins anew: nothing of the former client stays."""
    desk = proxied(mode=Mode.SUBMISSION)
    desk.say(EHLO + b"XCLIENT ADDR=203.0.113.7 LOGIN=carol\r\n")
    desk.say(b"XCLIENT ADDR=203.0.113.8 LOGIN=[UNAVAILABLE]\r\n")

    assert desk.say(EHLO + MAIL).endswith(b"Must issue a STARTTLS command first\r\n")


def test_a_client_behind_a_proxy_is_not_believed_to_be_another() -> None:
    """A proxy that only passes octets on from then on (nginx) does not lend its client the right to say XCLIENT."""
    desk = proxied()
    desk.say(EHLO + b"XCLIENT ADDR=203.0.113.7\r\n")

    assert b"XCLIENT" not in desk.say(EHLO)
    assert desk.say(b"XCLIENT ADDR=127.0.0.1 LOGIN=alice\r\n").startswith(b"500")
    assert b"550 5.7.1 Relaying denied: 203.0.113.7" in desk.say(MAIL + RCPT)


def test_who_comes_through_a_balancer_that_does_not_say_for_whom_has_no_rights_by_address() -> None:
    """PROXY UNKNOWN from loopback: neither relaying, nor a password in clear, nor XCLIENT."""
    desk = Desk(users=Users(), xclient_from=("127.0.0.0/8",))
    desk.wire = Wire()
    desk.wire.peer = ("127.0.0.1", 0)
    reception = desk.accept(desk.wire)
    assert reception is not None
    reception.received(EHLO + MAIL + RCPT)
    heard = b"".join(desk.wire.written)

    assert b"550 5.7.1 Relaying denied" in heard
    assert b"AUTH" not in heard
    assert b"XCLIENT" not in heard


def test_tls_forgets_a_login_named_by_a_proxy_but_not_the_address() -> None:
    """As Postfix does: the proxy still is who it is, but who logged in before TLS did not log in."""
    desk = proxied()
    desk.say(EHLO + b"XCLIENT ADDR=203.0.113.7 LOGIN=carol\r\n" + EHLO)
    desk.say(b"STARTTLS\r\n")
    desk.shake(TLS)

    assert b"550 5.7.1 Relaying denied: 203.0.113.7" in desk.say(EHLO + MAIL + RCPT)


def test_limits_count_for_the_client_a_proxy_names() -> None:
    """The proxy has many sessions; each client behind it has its own count, given back at the end."""
    terms = ClientTerms(networks=(NetworkTerms(networks=(PROXY + "/32",)),), others=NetworkTerms(connections=1))
    desk = proxied(clients=terms)
    first = desk.say(EHLO + b"XCLIENT ADDR=203.0.113.7\r\n")
    former = desk.reception
    desk.connect()
    second = desk.say(EHLO + b"XCLIENT ADDR=203.0.113.7\r\n")
    refused = desk.wire.is_closed
    desk.reception.lost(None)
    former.lost(None)
    desk.connect()
    third = desk.say(EHLO + b"XCLIENT ADDR=203.0.113.7\r\n")

    assert b"\r\n220 relay" in first
    assert b"\r\n421 4.7.0 Too many connections" in second
    assert refused
    assert b"\r\n220 relay" in third
    desk.reception.lost(None)
    assert {} == desk.receptions._clients._open


def test_passwords_do_not_travel_in_clear_behind_a_local_proxy() -> None:
    """A proxy on loopback speaks for a client that is not: AUTH needs TLS again."""
    desk = Desk(users=Users(), xclient_from=("127.0.0.0/8",))
    direct = desk.say(EHLO)
    desk.say(b"XCLIENT ADDR=203.0.113.7\r\n")

    assert b"AUTH PLAIN LOGIN" in direct
    assert b"AUTH" not in desk.say(EHLO)
    assert desk.say(LOGIN).startswith(b"502")
