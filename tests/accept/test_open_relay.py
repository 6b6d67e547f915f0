# SPDX-License-Identifier: MIT
"""No way in for anybody: every known open-relay probe, in every mode, however a stranger comes along.

The table is that of nmap's smtp-open-relay, the reedmedia list, and our own. T is a third party, L our name, IP our
address. An authorised client's addresses, on the other hand, are never rewritten.
"""

from base64 import b64encode

import pytest
from tests.accept.desk import STRANGER, TLS, Certificate, Desk, Users

from smarthost.accept.listeners import Mode
from smarthost.mail.hop import TlsFacts
from smarthost.smtp.limits import Limits

T, L, IP = "third.example", "relay.example.org", "198.51.100.1"

FROM = ("", f"x@{T}", f"x@{L}", "x@localhost", f"x@[{IP}]", f'"x@{T}"@{L}')
TO = (
    f"u@{T}",
    f"u%{T}@{L}",
    f"u%{T}@[{IP}]",
    f'"u@{T}"',
    f'"u%{T}"',
    f"u@{T}@{L}",
    f"u@{T}@[{IP}]",
    f'"u@{T}"@[{IP}]',
    f'"u@{T}"@{L}',
    f"@{L}:u@{T}",
    f"@[{IP}]:u@{T}",
    f"@a.example,@b.example:u@{T}",
    f"{T}!u",
    f"{T}!u@{L}",
    f"{T}!u@[{IP}]",
    f"u@{T}.",
    "u@[192.0.2.9]",
    f"u@{T}".upper(),
    f"u%{T}%{L}@{L}",
    "u@xn--bcher-kva.example",
    f"postmaster@{T}",
    f"postmaster@{L}",
    "u@localhost",
    f"u@[{IP}]",
    "u",
    "u@[IPv6:2001:db8::1]",
    f"<u@{T}>",
    f"u@{T} NOTIFY=NEVER",
    f"u@{T},v@{T}",
    f'"u\\@{T}"@{L}',
)  # fmt: skip

# What may stand before a stranger's MAIL, and is worth nothing
LOGIN = b"AUTH PLAIN " + b64encode(b"\0alice\0wrong") + b"\r\n"
CLAIMS = {
    "nothing": b"",
    "a failed AUTH": LOGIN,
    "RSET": b"MAIL FROM:<x@third.example>\r\nRSET\r\n",
    "EHLO with our name": b"EHLO relay.example.org\r\n",
    "EHLO with our address": b"EHLO [198.51.100.1]\r\n",
    "XCLIENT": b"XCLIENT ADDR=127.0.0.1 LOGIN=alice\r\n",
    "PROXY": b"PROXY TCP4 127.0.0.1 127.0.0.1 1 25\r\n",
    "XFORWARD": b"XFORWARD ADDR=127.0.0.1\r\n",
}


def stranger(mode: Mode, *, is_secured: bool, facts: TlsFacts = TLS) -> Desk:
    desk = Desk(
        client=STRANGER,
        local=IP,
        mode=mode,
        tls=Certificate(),
        users=Users(),
        xclient_from=("10.0.0.9/32",),
        postmaster="ops@example.org",
        limits=Limits(errors=1_000),
    )
    if mode is Mode.SUBMISSIONS:
        desk.shake(facts)
    desk.say(hello(mode))
    if is_secured and mode is not Mode.SUBMISSIONS:
        assert desk.say(b"STARTTLS\r\n").startswith(b"220")
        desk.shake(facts)
        desk.say(hello(mode))
    return desk


def hello(mode: Mode) -> bytes:
    return b"LHLO probe.example\r\n" if mode is Mode.LMTP else b"EHLO probe.example\r\n"


def rcpt(recipient: str) -> bytes:
    """Write RCPT; what follows a space is a parameter."""
    address, space, parameters = recipient.partition(" ")
    return f"RCPT TO:<{address}>{space}{parameters}\r\n".encode()


def accepted(desk: Desk, reverse_path: str, recipient: str, parameters: str = "") -> bool:
    """Try one probe; True: mail would be relayed."""
    desk.say(f"MAIL FROM:<{reverse_path}>{parameters}\r\n".encode())
    heard = desk.say(rcpt(recipient))
    desk.say(b"RSET\r\n")
    return heard.startswith(b"2")


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("is_secured", [False, True])
@pytest.mark.parametrize("claim", CLAIMS)
def test_a_stranger_relays_nothing(mode: Mode, is_secured: bool, claim: str) -> None:
    """0 of 30 recipients for each of the senders, in every mode, in clear and inside TLS, whatever is claimed."""
    taken = []
    for reverse_path in FROM:
        desk = stranger(mode, is_secured=is_secured)
        desk.say(CLAIMS[claim])
        desk.wait(3)
        for recipient in TO:
            if accepted(desk, reverse_path, recipient):
                taken.append((reverse_path, recipient))
            assert [] == desk.adding
        assert not desk.wire.is_closed
        assert not desk.say(b"DATA\r\n").startswith(b"354")

    assert 30 == len(TO)
    assert [] == taken


@pytest.mark.parametrize("mode", [Mode.RELAY, Mode.SUBMISSION])
@pytest.mark.parametrize("parameters", [" AUTH=<>", " AUTH=alice@example.org", " AUTH=root@relay.example.org"])
def test_auth_parameter_makes_nobody_a_user(mode: Mode, parameters: str) -> None:
    """RFC 4954 5: what AUTH= says is only as good as who says it."""
    desk = stranger(mode, is_secured=True)

    assert not accepted(desk, "alice@example.org", f"u@{T}", parameters)


@pytest.mark.parametrize("mode", [Mode.RELAY, Mode.SUBMISSION, Mode.SUBMISSIONS, Mode.LMTP])
def test_a_certificate_of_somebody_else_opens_nothing(mode: Mode) -> None:
    """Even one that a CA of ours vouches for."""
    desk = stranger(mode, is_secured=True, facts=TlsFacts("TLSv1.3", "X", True, fingerprint="dead", resumed=True))

    assert not any(accepted(desk, f"x@{L}", recipient) for recipient in TO[:5])


@pytest.mark.parametrize("mode", [Mode.RELAY, Mode.SUBMISSION])
def test_starttls_takes_back_an_auth_in_clear(mode: Mode) -> None:
    """On loopback AUTH may come before TLS; after TLS it must come again."""
    users = Users()
    desk = Desk(relay_from=(), mode=mode, tls=Certificate(), users=users)
    desk.say(hello(mode) + b"AUTH PLAIN " + b64encode(b"\0alice\0secret") + b"\r\n")
    before = accepted(desk, "alice@example.org", f"u@{T}")
    desk.say(b"STARTTLS\r\n")
    desk.shake()
    desk.say(hello(mode))

    assert before
    assert not accepted(desk, "alice@example.org", f"u@{T}")


def test_an_authorised_clients_addresses_are_not_rewritten() -> None:
    """%, ! and quotes are opaque: each valid address is filed octet for octet, or refused as no address at all."""
    filed = []
    for recipient in TO:
        desk = Desk(postmaster="ops@example.org")
        desk.say(b"EHLO c\r\nMAIL FROM:<a@example.org>\r\n")
        answer = desk.say(rcpt(recipient))
        if not answer.startswith(b"250"):
            assert answer.startswith((b"501", b"553"))
            continue
        desk.say(b"DATA\r\n")
        desk.say(b"x\r\n.\r\n")
        (address,) = desk.adding[0][0].envelope.recipients
        filed.append(address.text)

    assert [each.partition(" ")[0] for each in TO if each.partition(" ")[0] in filed] == filed
    assert {f"u%{T}@{L}", f"{T}!u@{L}", f'"u@{T}"@{L}', f"U@{T}".upper(), f'"u\\@{T}"@{L}'} <= set(filed)
