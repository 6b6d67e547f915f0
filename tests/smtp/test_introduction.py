# SPDX-License-Identifier: MIT
"""Who a client is: EHLO's offers, STARTTLS, AUTH, XCLIENT; and that nothing said before them counts after them."""

from base64 import b64encode

import pytest
from tests.smtp.server_session import ADDRESSED, ALL, BANNER, HELLO, OPEN, SETTINGS, Session, codes

from smarthost.mail.errors import LocalProtocolError
from smarthost.mail.reply import reply
from smarthost.smtp.limits import JUNK_COMMANDS, SASL_LINE_OCTETS
from smarthost.smtp.offer import NOTHING, Offer
from smarthost.smtp.server import ServerSettings, SmtpServer
from smarthost.smtp.states import MOVES
from smarthost.smtp.wire import (
    AuthReceived,
    HangUp,
    HelloReceived,
    MailReceived,
    StarttlsReceived,
    XclientReceived,
)

PATIENT = ServerSettings(hostname="mx.example.org", max_octets=100_000, max_recipients=100, max_errors=1000)
TLS_ONLY = Offer(starttls=True)
AUTH_ONLY = Offer(auth=("PLAIN", "LOGIN"))
XCLIENT_ONLY = Offer(xclient=True)
SECRET = "päss word"


def base64(text: str | bytes) -> str:
    return b64encode(text.encode() if isinstance(text, str) else text).decode()


PLAIN = base64(f"\0jürgen\0{SECRET}")


def greeted(offer: Offer, *lines: str) -> Session:
    session = Session(PATIENT, offer=offer)
    session.say(HELLO, *lines)
    session.events.clear()
    return session


# EHLO


def test_hello_lists_what_is_offered_now() -> None:
    """The driver changes the offer; the next EHLO says so."""
    session = Session(offer=ALL)

    said = session.say(HELLO)[0].split(" | ")
    assert said[-4:] == [
        "250-STARTTLS",
        "250-AUTH PLAIN LOGIN",
        "250-REQUIRETLS",
        "250 XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT",
    ]
    session.machine.offer = NOTHING

    assert session.say(HELLO)[0].endswith("250 LIMITS RCPTMAX=100")
    assert codes(session.say("STARTTLS", "AUTH PLAIN", "XCLIENT NAME=a")) == ["502 5.5.1", "502 5.5.1", "500 5.5.2"]


def test_helo_is_offered_nothing() -> None:
    """An old client could not read the list."""
    assert Session(offer=ALL).say("HELO old.example") == ["250 mx.example.org"]


# STARTTLS


def secured(*before: str, offer: Offer = ALL) -> Session:
    session = greeted(offer, *before)
    assert codes(session.say("STARTTLS")) == ["220 2.0.0"]
    session.machine.secured()
    session.events.clear()
    return session


def test_starttls_forgets_what_was_said_before_it() -> None:
    """RFC 3207 4.2: EHLO again, AUTH again, and STARTTLS is neither offered nor taken."""
    session = secured(f"AUTH PLAIN {PLAIN}")

    assert not session.machine.is_authenticated
    assert codes(session.say("MAIL FROM:<a@b>", "AUTH PLAIN", "STARTTLS")) == ["503 5.5.1"] * 3
    hello = session.say(HELLO)[0]
    assert "STARTTLS" not in hello
    assert "AUTH PLAIN LOGIN" in hello
    assert codes(session.say("STARTTLS", "MAIL FROM:<a@b>")) == ["503 5.5.1", "250 2.1.0"]


def test_starttls_keeps_the_count_of_errors() -> None:
    """A new layer is no new patience."""
    session = greeted(TLS_ONLY, "FOO", "FOO")
    session.say("STARTTLS")
    session.machine.secured()

    assert session.machine.errors == 2


def test_refusals_before_starttls_excuse_nothing_after_it() -> None:
    """RCPT without MAIL inside TLS is the client's own error."""
    session = secured("MAIL FROM:<no@b>")

    session.say(HELLO, "RCPT TO:<c@d>")
    assert session.machine.errors == 2


@pytest.mark.parametrize(
    ("way", "line", "expected"),
    [
        ((), "STARTTLS", "503 5.5.1"),
        ((HELLO,), "STARTTLS now", "501 5.5.4"),
        ((HELLO,), "STARTTLS \t", "220 2.0.0"),
        ((HELLO,), "starttls", "220 2.0.0"),
        (OPEN, "STARTTLS", "503 5.5.1"),
        (ADDRESSED, "STARTTLS", "503 5.5.1"),
    ],
)
def test_starttls_is_taken_between_transactions_only(way: tuple[str, ...], line: str, expected: str) -> None:
    """It would forget the transaction without a word; and it has no argument."""
    session = Session(offer=TLS_ONLY)
    session.say(*way)

    assert codes(session.say(line)) == [expected]


def test_command_behind_starttls_ends_the_session_without_220() -> None:
    """Command injection: what came in clear text would be obeyed as if it had come inside TLS."""
    for tail in (b"MAIL FROM:<evil@b>\r\n", b"N", b"\r\n", b"\x16\x03\x01"):
        session = greeted(TLS_ONLY)
        assert codes([session.send(b"STARTTLS\r\n" + tail)]) == ["421 4.7.0"]
        assert session.events == [HangUp("octets in clear text behind STARTTLS")]
        assert session.machine.is_closed


def test_command_that_comes_before_220_ends_the_session() -> None:
    """The same while the driver thinks about it."""
    session = greeted(TLS_ONLY)
    machine = session.machine
    machine.receive(b"STARTTLS\r\n")
    assert machine.next_event() == StarttlsReceived()
    machine.receive(b"N")
    machine.accept_starttls()

    assert machine.next_event() == HangUp("octets in clear text behind STARTTLS")
    assert not machine.take_output().startswith(b"220")


@pytest.mark.parametrize("asks_first", [True, False])
def test_command_that_comes_before_the_handshake_is_done_ends_the_session(asks_first: bool) -> None:
    """The tail of an injection in a later packet: the session closes, in silence."""
    session = greeted(TLS_ONLY)
    session.say("STARTTLS")
    machine = session.machine
    machine.receive(b"MAIL FROM:<evil@b>\r\n")
    if asks_first:
        assert machine.next_event() == HangUp("octets in clear text behind STARTTLS")
        machine.secured()
        assert machine.next_event() is None
    else:
        machine.secured()
        assert machine.next_event() == HangUp("octets in clear text behind STARTTLS")

    assert machine.is_closed
    assert machine.take_output() == b""


def test_starttls_that_the_driver_refuses_changes_nothing() -> None:
    """454: the client may go on in clear text, or ask again, but not for ever."""
    session = greeted(TLS_ONLY)
    machine = session.machine
    said = b""
    for _ in range(JUNK_COMMANDS + 1):
        machine.receive(b"STARTTLS\r\n")
        if machine.next_event() == StarttlsReceived():
            machine.reply(reply(454, "4.7.0", "Not now"))
        said = machine.take_output()

    assert said.startswith(b"421")
    assert machine.is_closed
    session = greeted(TLS_ONLY)
    session.machine.receive(b"STARTTLS\r\n")
    session.machine.next_event()
    session.machine.reply(reply(454, "4.7.0", "Not now"))
    assert codes([session.go_on(), *session.say("MAIL FROM:<a@b>")]) == ["454 4.7.0", "250 2.1.0"]


def test_tls_from_the_first_octet_is_told_before_the_banner() -> None:
    """Port 465 (RFC 8314): STARTTLS is neither offered nor taken."""
    machine = SmtpServer(SETTINGS, ALL)
    machine.secured()
    machine.greet(BANNER)
    machine.receive(b"EHLO c\r\nSTARTTLS\r\n")
    assert isinstance(machine.next_event(), HelloReceived)
    machine.accept_hello()

    assert machine.next_event() is None
    said = machine.take_output()
    assert b"STARTTLS" not in said
    assert said.endswith(b"503 5.5.1 TLS is in use already\r\n")


def test_driver_that_secures_out_of_turn_is_told_so() -> None:
    """Bugs of ours, and loud; a session that is over already is not one."""
    session = greeted(TLS_ONLY)
    for wrong in (session.machine.secured, session.machine.accept_starttls):
        with pytest.raises(LocalProtocolError):
            wrong()
    session.say("QUIT")

    session.machine.secured()
    assert session.machine.is_closed


# AUTH


@pytest.mark.parametrize(
    "lines",
    [
        (f"AUTH PLAIN {PLAIN}",),
        ("AUTH PLAIN", PLAIN),
        ("auth plain", PLAIN),
        ("AUTH PLAIN \t", PLAIN),
        (f"AUTH PLAIN {base64(f'jürgen{chr(0)}jürgen{chr(0)}{SECRET}')}",),
        ("AUTH LOGIN", base64("jürgen"), base64(SECRET)),
        (f"AUTH LOGIN {base64('jürgen')}", base64(SECRET)),
    ],
)
def test_user_authenticates(lines: tuple[str, ...]) -> None:
    """RFC 4954: with an initial response or without; the driver is told once, and judges."""
    session = greeted(AUTH_ONLY)
    mechanism = lines[0].split(" ")[1].upper()

    said = session.say(*lines)

    assert codes(said[-1:]) == ["235 2.7.0"]
    assert all(line.startswith("334 ") for line in said[:-1])
    assert session.events == [AuthReceived(mechanism, "jürgen", SECRET)]
    assert session.machine.is_authenticated
    assert codes(session.say("AUTH PLAIN", "MAIL FROM:<a@b>")) == ["503 5.5.1", "250 2.1.0"]


def test_challenges_of_login_are_those_that_clients_compare() -> None:
    """No RFC has LOGIN; all servers ask in these words."""
    session = greeted(AUTH_ONLY)

    assert session.say("AUTH LOGIN", base64("x")) == ["334 " + base64("Username:"), "334 " + base64("Password:")]
    assert greeted(AUTH_ONLY).say("AUTH PLAIN") == ["334 "]


def test_wrong_password_leaves_the_session_unauthenticated() -> None:
    """535 is an error like any other; the next attempt may be right."""
    session = greeted(AUTH_ONLY)

    assert codes(session.say(f"AUTH PLAIN {base64(chr(0) + 'jürgen' + chr(0) + 'x')}")) == ["535 5.7.8"]
    assert not session.machine.is_authenticated
    assert session.machine.errors == 1
    assert codes(session.say(f"AUTH PLAIN {PLAIN}")) == ["235 2.7.0"]


@pytest.mark.parametrize("code", [250, 334, 454, 535])
def test_only_235_authenticates(code: int) -> None:
    """Whatever else a driver says, nobody is anybody by it."""
    session = greeted(AUTH_ONLY)
    session.machine.receive(f"AUTH PLAIN {PLAIN}\r\n".encode())
    session.machine.next_event()
    session.machine.reply(reply(code, "", "Hm"))

    assert not session.machine.is_authenticated
    assert codes(session.say("NOOP"))[-1] == "250 2.0.0"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("AUTH",), "501 5.5.4"),
        (("AUTH ",), "501 5.5.4"),
        (("AUTH CRAM-MD5",), "504 5.5.4"),
        (("AUTH \u00fc",), "504 5.5.4"),
        (("AUTH PLAIN\x00",), "501 5.5.4"),
        (("AUTH PLAIN x",), "501 5.5.2"),
        (("AUTH PLAIN " + PLAIN + "=",), "501 5.5.2"),
        (("AUTH PLAIN " + PLAIN[:-1],), "501 5.5.2"),
        (("AUTH PLAIN  " + PLAIN,), "501 5.5.2"),
        (("AUTH PLAIN " + PLAIN + " x",), "501 5.5.2"),
        (("AUTH PLAIN =",), "501 5.5.2"),
        (("AUTH PLAIN", ""), "501 5.5.2"),
        (("AUTH PLAIN", "*"), "501 5.7.0"),
        (("AUTH LOGIN", "*"), "501 5.7.0"),
        (("AUTH LOGIN", base64("jürgen"), "*"), "501 5.7.0"),
        (("AUTH LOGIN", "MAIL FROM:<a@b>"), "501 5.5.2"),
        (("AUTH LOGIN", "\u00fc"), "501 5.5.2"),
        (("AUTH LOGIN", "eA==\neA=="), "500 5.5.2"),
        (("AUTH PLAIN", base64("a\0b")), "501 5.5.2"),
        (("AUTH PLAIN", base64("a\0b\0c\0d")), "501 5.5.2"),
        (("AUTH PLAIN", base64("\0jürgen\0x\0")), "501 5.5.2"),
        (("AUTH PLAIN", base64(f"root\0jürgen\0{SECRET}")), "535 5.7.8"),
        (("AUTH PLAIN", base64(b"\0j\xfcrgen\0x")), "535 5.7.8"),
        (("AUTH PLAIN", base64(b"\0a\0\xff")), "535 5.7.8"),
        (("AUTH PLAIN", base64("\0\0x")), "535 5.7.8"),
        (("AUTH PLAIN", base64("\0a\0")), "535 5.7.8"),
        (("AUTH PLAIN", base64("\0a\nb\0x")), "535 5.7.8"),
        (("AUTH PLAIN", base64("\0a\x85b\0x")), "535 5.7.8"),
        (("AUTH PLAIN", base64("\0a\u2028b\0x")), "535 5.7.8"),
        (("AUTH PLAIN", base64("\0a\0x\x1b[2J")), "535 5.7.8"),
        (("AUTH PLAIN", base64("\0" + "a" * 256 + "\0x")), "535 5.7.8"),
        (("AUTH LOGIN", base64("a\r"), base64("x")), "535 5.7.8"),
        (("AUTH LOGIN =", base64("x")), "535 5.7.8"),
        (("AUTH LOGIN", base64("a\0b"), base64("x")), "535 5.7.8"),
        (("AUTH PLAIN", "x" * (SASL_LINE_OCTETS + 1)), "500 5.5.6"),
    ],
)
def test_bad_exchange_is_refused_and_says_nothing_of_what_was_sent(lines: tuple[str, ...], expected: str) -> None:
    """The driver never hears of it, the session goes on, and no answer repeats a secret."""
    session = greeted(AUTH_ONLY)

    said = session.say(*lines)

    assert codes(said[-1:]) == [expected]
    assert session.events == []
    assert session.machine.errors == 1
    assert not session.machine.is_authenticated
    assert not any(word in said[-1] for line in lines[1:] for word in line.split() if len(word) > 3)
    assert codes(session.say("NOOP", f"AUTH PLAIN {PLAIN}")) == ["250 2.0.0", "235 2.7.0"]


def test_long_response_is_taken() -> None:
    """RFC 4954 4.5: 12,288 octets with the CRLF, which no command could have."""
    session = greeted(AUTH_ONLY)
    password = "x" * 9_190
    line = base64(f"\0jürgen\0{password}")
    assert 12_250 < len(line) <= SASL_LINE_OCTETS - 2

    session.say("AUTH PLAIN", line)

    assert session.events == [AuthReceived("PLAIN", "jürgen", password)]


@pytest.mark.parametrize(
    ("offer", "way", "expected"),
    [
        (AUTH_ONLY, (), "503 5.5.1"),
        (AUTH_ONLY, OPEN, "503 5.5.1"),
        (AUTH_ONLY, ADDRESSED, "503 5.5.1"),
        (NOTHING, (HELLO,), "502 5.5.1"),
        (TLS_ONLY, (HELLO,), "538 5.7.11"),
        (TLS_ONLY, (), "538 5.7.11"),
        (TLS_ONLY, OPEN, "538 5.7.11"),
        (Offer(auth=("LOGIN",)), (HELLO,), "504 5.5.4"),
    ],
)
def test_auth_has_its_place_and_its_conditions(offer: Offer, way: tuple[str, ...], expected: str) -> None:
    """RFC 4954 4: after EHLO, outside a transaction, inside TLS where there is TLS."""
    session = Session(offer=offer)
    session.say(*way)
    session.events.clear()

    assert codes(session.say(f"AUTH PLAIN {PLAIN}")) == [expected]
    assert session.events == []


def test_authentication_survives_rset_ehlo_and_messages() -> None:
    """It is the session's, not the transaction's."""
    session = greeted(AUTH_ONLY, f"AUTH PLAIN {PLAIN}")

    session.say("RSET", HELLO, *ADDRESSED[1:], "DATA", ".")

    assert session.machine.is_authenticated


def test_auth_that_is_put_off_does_not_go_on_for_ever() -> None:
    """454 is no error, but a hundred are enough."""
    session = greeted(AUTH_ONLY)
    machine = session.machine
    for _ in range(JUNK_COMMANDS + 1):
        machine.receive(f"AUTH PLAIN {PLAIN}\r\n".encode())
        if isinstance(machine.next_event(), AuthReceived):
            machine.reply(reply(454, "4.7.0", "Later"))

    assert machine.is_closed


def test_auth_pipelined_with_its_responses_and_commands_keeps_the_order() -> None:
    """RFC 4954 forbids it not for the server's sake: all lines are read in turn."""
    session = greeted(AUTH_ONLY)

    said = session.send(f"AUTH LOGIN\r\n{base64('jürgen')}\r\n{base64(SECRET)}\r\nMAIL FROM:<a@b>\r\n".encode())

    assert [line[:3] for line in said.split(" | ")] == ["334", "334", "235", "250"]
    assert isinstance(session.events[-1], MailReceived)


def test_session_can_be_ended_within_the_exchange() -> None:
    """A timeout of the driver's; nothing is kept of what was said."""
    session = greeted(AUTH_ONLY)
    session.say("AUTH LOGIN", base64("jürgen"))

    session.machine.reply_unasked(reply(421, "4.4.2", "Timeout"))

    assert session.say(base64(SECRET)) == ["421 4.4.2 Timeout"]
    assert session.events == []


def test_secret_is_in_no_repr() -> None:
    """Not in the machine's, not in the event's."""
    session = greeted(AUTH_ONLY)
    session.say("AUTH LOGIN", base64("jürgen"))
    session.machine.receive(f"{base64(SECRET)}\r\n".encode())

    assert SECRET not in repr(session.machine.next_event()) + repr(session.machine)


# XCLIENT


def test_proxy_says_for_whom_it_speaks() -> None:
    """Postfix's XCLIENT: the session is then as just greeted, whoever the proxy was."""
    session = greeted(Offer(xclient=True, auth=("PLAIN",)), f"AUTH PLAIN {PLAIN}")

    said = session.say(
        "XCLIENT NAME=spike.example.org addr=192.0.2.7 PORT=1025 PROTO=esmtp HELO=x+3Dy LOGIN=a+20b"
        " DESTADDR=IPV6:2001:DB8::0:1 DESTPORT=25"
    )

    assert said == ["220 mx.example.org ESMTP"]
    assert session.events == [
        XclientReceived(
            (
                ("NAME", "spike.example.org"),
                ("ADDR", "192.0.2.7"),
                ("PORT", "1025"),
                ("PROTO", "ESMTP"),
                ("HELO", "x=y"),
                ("LOGIN", "a b"),
                ("DESTADDR", "2001:db8::1"),
                ("DESTPORT", "25"),
            )
        )
    ]
    assert not session.machine.is_authenticated
    assert codes(session.say("MAIL FROM:<a@b>", HELLO, "MAIL FROM:<a@b>"))[0] == "503 5.5.1"


def test_proxy_may_not_know() -> None:
    """[UNAVAILABLE] and [TEMPUNAVAIL] are handed on as they are."""
    session = greeted(XCLIENT_ONLY)

    assert codes(session.say("XCLIENT NAME=[unavailable] ADDR=[TEMPUNAVAIL]")) == ["220 mx.example.org"]
    assert session.events == [XclientReceived((("NAME", "[UNAVAILABLE]"), ("ADDR", "[TEMPUNAVAIL]")))]


@pytest.mark.parametrize(
    "text",
    ["", "NAME", "NAME=", "=x", "COLOUR=red", "NAME=a NAME=b", "NAME=a  ADDR=1.2.3.4", "NAME=[192.0.2.1]",
     "NAME=a+0Ab", "NAME=a+20b", "NAME=" + "a" * 256, "ADDR=1.2.3", "ADDR=01.2.3.4", "ADDR=2001:db8::1",
     "ADDR=IPV6:1.2.3.4", "ADDR=IPV6:fe80::1%25eth0", "ADDR=IPV6:", "PORT=x", "PORT=65536", "PORT=-1", "PORT=+2B1",
     "PROTO=QMTP", "HELO=a+20b", "HELO=a+0D+0Ab", "HELO=" + "a" * 256, "LOGIN=a+00", "LOGIN=a+1B",
     "LOGIN=" + "a" * 256, "LOGIN=a=b", "NAME=\u00fc", "N\u00c4ME=a", "NAME=a\tADDR=1.2.3.4", "NAME=a\x00"],
)  # fmt: skip
def test_malformed_xclient_is_refused(text: str) -> None:
    """501: what goes where the connection's own address would go is read strictly."""
    session = greeted(XCLIENT_ONLY)

    assert codes(session.say(f"XCLIENT {text}", "NOOP")) == ["501 5.5.4", "250 2.0.0"]
    assert session.events == []


@pytest.mark.parametrize(
    ("offer", "way", "expected"),
    [
        (XCLIENT_ONLY, (), "220 mx.example.org"),
        (XCLIENT_ONLY, (HELLO,), "220 mx.example.org"),
        (XCLIENT_ONLY, OPEN, "503 5.5.1"),
        (XCLIENT_ONLY, ADDRESSED, "503 5.5.1"),
        (Offer(starttls=True, auth=("PLAIN",)), (HELLO,), "500 5.5.2"),
        (NOTHING, OPEN, "500 5.5.2"),
    ],
)
def test_xclient_has_its_place_and_who_is_not_trusted_never_hears_of_it(
    offer: Offer, way: tuple[str, ...], expected: str
) -> None:
    """To a stranger it is a command that does not exist."""
    session = Session(offer=offer)
    session.say(*way)

    assert codes(session.say("XCLIENT ADDR=127.0.0.1")) == [expected]


def test_xclient_that_the_driver_refuses_changes_nothing() -> None:
    """550: the proxy is still only itself."""
    session = greeted(Offer(xclient=True, auth=("PLAIN",)), f"AUTH PLAIN {PLAIN}")
    session.machine.receive(b"XCLIENT ADDR=192.0.2.1\r\n")
    session.machine.next_event()
    session.machine.reply(reply(550, "5.7.0", "No"))

    assert session.machine.is_authenticated
    assert codes([session.go_on(), *session.say("MAIL FROM:<a@b>")]) == ["550 5.7.0", "250 2.1.0"]


def test_endless_xclient_ends_the_session() -> None:
    """A proxy gone mad is a client gone mad."""
    session = greeted(XCLIENT_ONLY)

    session.say(*["XCLIENT ADDR=192.0.2.1"] * (JUNK_COMMANDS + 1))

    assert session.machine.is_closed


def test_commands_of_an_offer_are_in_the_table_of_every_state() -> None:
    """None of them is forgotten where another is refused."""
    assert all({b"STARTTLS", b"AUTH", b"XCLIENT"} <= set(row) for row in MOVES if row)


def test_before_a_demanded_handshake_everything_else_is_told_530() -> None:
    """RFC 3207 4: all but EHLO, STARTTLS, NOOP and QUIT; and then all is as anywhere."""
    settings = ServerSettings("mx.example.org", 1_000_000, 100, 50, requires_tls=True)
    machine = SmtpServer(settings, Offer(starttls=True))
    machine.greet(reply(220, "", "mx.example.org ESMTP"))
    machine.receive(b"MAIL FROM:<a@b.example>\r\nEHLO c.example\r\n")
    assert isinstance(machine.next_event(), HelloReceived)
    machine.accept_hello()
    machine.take_output()

    said = []
    for line in (
        b"MAIL FROM:<a@b.example>",
        b"RCPT TO:<a@b.example>",
        b"DATA",
        b"RSET",
        b"VRFY a",
        b"HELP",
        b"AUTH PLAIN",
    ):
        machine.receive(line + b"\r\n")
        assert machine.next_event() is None
        said.append(machine.take_output()[:9])
    machine.receive(b"BDAT 6 LAST\r\nRSET\r\nNOOP\r\n")
    assert machine.next_event() is None
    chunk = machine.take_output()
    machine.receive(b"STARTTLS\r\n")
    assert isinstance(machine.next_event(), StarttlsReceived)
    machine.accept_starttls()
    machine.secured()
    machine.receive(b"EHLO c.example\r\nMAIL FROM:<a@b.example>\r\n")
    assert isinstance(machine.next_event(), HelloReceived)
    machine.accept_hello()

    assert said == [b"530 5.7.0"] * 6 + [b"538 5.7.1"]  # RFC 4954 6 has a code of its own for AUTH
    assert chunk == b"530 5.7.0 Must issue a STARTTLS command first\r\n250 2.0.0 Ok\r\n"
    assert isinstance(machine.next_event(), MailReceived)
