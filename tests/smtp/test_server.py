# SPDX-License-Identifier: MIT
"""Whole conversations with the server machine: what a client says, what it hears, and what the driver is told."""

import pytest
from tests.smtp.server_session import ADDRESSED, BANNER, HELLO, MAIL, OPEN, RECIPIENT, SETTINGS, Session, codes

from smarthost.mail.envelope import Body
from smarthost.mail.errors import LocalProtocolError
from smarthost.mail.reply import reply
from smarthost.smtp.limits import CONTENT_PIECE_OCTETS, DISCARD_OCTETS, JUNK_COMMANDS
from smarthost.smtp.server import ServerSettings, SmtpServer
from smarthost.smtp.states import LMTP_MOVES, MOVES, State
from smarthost.smtp.wire import (
    ContentEnded,
    ContentReceived,
    DataReceived,
    HangUp,
    HelloReceived,
    MailReceived,
    QuitReceived,
    RcptReceived,
    ResetReceived,
)


def test_ordinary_session_from_banner_to_quit() -> None:
    """EHLO, a message, QUIT: each line is answered, each fact is told once."""
    session = Session()

    said = session.say(*ADDRESSED, "DATA", "Subject: x\r\n\r\n..hello\r\n.", "QUIT")

    assert session.banner == b"220 mx.example.org ESMTP\r\n"
    assert said == [
        "250-mx.example.org | 250-PIPELINING | 250-SIZE 100000 | 250-8BITMIME | 250-SMTPUTF8 | 250-ENHANCEDSTATUSCODES"
        " | 250-CHUNKING | 250-BINARYMIME | 250-DSN | 250 LIMITS RCPTMAX=100",
        "250 2.1.0 Ok",
        "250 2.1.5 Ok",
        "354 End data with <CR><LF>.<CR><LF>",
        "250 2.0.0 Queued",
        "221 2.0.0 mx.example.org closes",
    ]
    assert session.events == [
        HelloReceived(True, "client.example"),
        MAIL,
        RcptReceived(RECIPIENT),
        DataReceived(),
        ContentReceived(b"Subject: x\r\n\r\n.hello\r\n"),
        ContentEnded(None),
        QuitReceived(),
    ]
    assert session.machine.is_closed


def test_helo_is_answered_in_one_line_without_extensions() -> None:
    """An old client hears nothing it could not understand."""
    session = Session()

    assert session.say("helo old.example") == ["250 mx.example.org"]
    assert session.events == [HelloReceived(False, "old.example")]


def test_further_extensions_are_offered_as_the_listener_says() -> None:
    """A listener may add lines to the EHLO answer."""
    settings = ServerSettings("mx.example.org", 1, 100, 5, ("ETRN", "HELP"))

    assert Session(settings).say(HELLO)[0].endswith(" | 250-ETRN | 250 HELP")


def test_pipelined_group_is_answered_in_one_output() -> None:
    """RFC 2920: replies in order, none lost, one write; content may follow in the next packet or in the same."""
    session = Session()
    session.say(HELLO)

    group = session.send(
        b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<no@d.example>\r\nRCPT TO:<later@d.example>\r\n"
        b"DATA\r\n"
    )
    rest = session.send(b"x\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n.\r\nQUIT\r\nNOOP\r\n")

    assert codes([group]) == ["250 2.1.0", "250 2.1.5", "550 5.7.1", "450 4.7.1", "354 End"]
    assert codes([rest]) == ["250 2.0.0", "250 2.1.0", "250 2.1.5", "354 End", "250 2.0.0", "221 2.0.0"]
    assert session.events[-5:] == [
        MailReceived(None, None, Body.SEVEN_BIT, False),
        RcptReceived(RECIPIENT),
        DataReceived(),
        ContentEnded(None),
        QuitReceived(),
    ]


def test_nothing_is_read_while_a_reply_is_due() -> None:
    """Between the final dot and its 250 the store works; the next message waits its turn."""
    session = Session()
    session.say(*ADDRESSED, "DATA")
    machine = session.machine

    machine.receive(b"x\r\n.\r\nNOOP\r\nMAIL FROM:<>\r\n")
    assert machine.next_event() == ContentReceived(b"x\r\n")
    assert not machine.is_waiting
    assert machine.next_event() == ContentEnded(None)
    assert machine.is_waiting
    machine.receive(b"NOOP\r\n")
    assert machine.next_event() is None
    assert machine.take_output() == b""
    assert machine.buffered == len(b"NOOP\r\nMAIL FROM:<>\r\nNOOP\r\n")
    assert machine.in_transaction

    machine.reply_encoded(b"250 2.0.0 Queued as X\r\n", True)
    assert not machine.in_transaction
    assert isinstance(machine.next_event(), MailReceived)
    assert machine.take_output() == b"250 2.0.0 Queued as X\r\n250 2.0.0 Ok\r\n"


COMMANDS = {
    "EHLO x": State.READY,
    "HELO x": State.READY,
    "MAIL FROM:<a@b>": State.MAIL,
    "RCPT TO:<a@b>": State.RECIPIENTS,
    "DATA": State.CONTENT,
    "RSET": State.READY,
    "NOOP": None,
    "VRFY a": None,
    "HELP": None,
    "QUIT": State.CLOSED,
    "BDAT 0": State.CHUNKED,
    "AUTH PLAIN": None,
    "STARTTLS": None,
    "XCLIENT ADDR=192.0.2.1": None,
    "EXPN a": None,
    "TURN": None,
    "ETRN a": None,
    "ATRN": None,
    "SEND FROM:<a@b>": None,
    "SOML FROM:<a@b>": None,
    "SAML FROM:<a@b>": None,
}
WAYS = {
    State.GREETED: (),
    State.VOID: (*ADDRESSED, "BDAT 3", "\n"),
    State.READY: (HELLO,),
    State.MAIL: OPEN,
    State.RECIPIENTS: ADDRESSED,
    State.CHUNKED: (*ADDRESSED, "BDAT 3", "x"),
}
# What is said in GREETED, VOID, READY, MAIL, RECIPIENTS, CHUNKED.
ANSWERS = {
    "EHLO": ("250",) * 6,
    "HELO": ("250",) * 6,
    "MAIL": ("503 5.5.1", "503 5.5.1", "250 2.1.0", "503 5.5.1", "503 5.5.1", "503 5.5.1"),
    "RCPT": ("503 5.5.1", "503 5.5.1", "503 5.5.1", "250 2.1.5", "250 2.1.5", "503 5.5.1"),
    "DATA": ("503 5.5.1", "503 5.5.1", "503 5.5.1", "503 5.5.1", "354 End", "503 5.5.1"),
    "BDAT": ("503 5.5.1", "503 5.5.1", "503 5.5.1", "503 5.5.1", "250 2.0.0", "250 2.0.0"),
    "XCLIENT": ("500 5.5.2",) * 6,
    "RSET": ("250 2.0.0",) * 6,
    "NOOP": ("250 2.0.0",) * 6,
    "VRFY": ("252 2.5.2",) * 6,
    "HELP": ("214 2.0.0",) * 6,
    "QUIT": ("221 2.0.0",) * 6,
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("state", WAYS)
def test_each_command_in_each_state_gets_its_answer_and_leads_where_the_table_says(state: State, command: str) -> None:
    """RFC 5321 4.1.4, whole: what is out of sequence changes nothing, what is not offered is 502."""
    session = Session()
    session.say(*WAYS[state])
    assert session.machine._state is state
    before, errors = len(session.events), session.machine.errors
    verb = command.split(" ")[0]
    expected = ANSWERS.get(verb, ("502 5.5.1",) * 6)[list(WAYS).index(state)]
    stays = expected.startswith("50") or COMMANDS[command] is None

    said = session.say(command.lower())[0]

    assert said.replace("250-", "250 ").startswith(expected)
    assert session.machine._state is (
        state if stays or (verb == "RSET" and state is State.GREETED) else COMMANDS[command]
    )
    was_open = state in (State.MAIL, State.RECIPIENTS, State.CHUNKED)
    assert (ResetReceived() in session.events[before:]) is (was_open and verb in ("RSET", "EHLO", "HELO"))
    # In VOID a client that pipelines cannot know better, as long as the command itself is sound.
    is_error = expected.startswith("50") and not (state is State.VOID and expected.startswith("503"))
    assert session.machine.errors - errors == is_error


def test_table_knows_every_verb_in_every_state_that_reads_commands() -> None:
    """No state forgets a command, and no other state reads any."""
    verbs = {command.split(" ")[0].encode() for command in COMMANDS}

    assert {State(number) for number, row in enumerate(MOVES) if row} == set(WAYS)
    assert all(set(MOVES[state]) == verbs for state in WAYS)
    assert all(set(LMTP_MOVES[state]) == verbs | {b"LHLO"} for state in WAYS)
    assert len(MOVES) == len(LMTP_MOVES) == len(State)


def test_hello_within_a_transaction_resets_it_first() -> None:
    """RFC 5321 4.1.4: EHLO is also a RSET, and only one answer is given."""
    session = Session()
    session.say(*ADDRESSED)

    assert session.say("HELO again.example") == ["250 mx.example.org"]
    assert session.events[-2:] == [ResetReceived(), HelloReceived(False, "again.example")]
    assert codes(session.say("RCPT TO:<c@d.example>")) == ["503 5.5.1"]


@pytest.mark.parametrize("line", ["EHLO", "EHLO ", "HELO", "EHLO a b", "EHLO \x07", "EHLO b\u00fccher"])
def test_malformed_hello_is_refused_and_resets_nothing(line: str) -> None:
    """RFC 5321 4.1.4: after a refused EHLO the server stays as it was."""
    session = Session()
    session.say(*OPEN)

    assert codes(session.say(line, "RCPT TO:<c@d.example>")) == ["501 5.5.4", "250 2.1.5"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", "500 5.5.2"),
        (" ", "500 5.5.2"),
        (" NOOP", "500 5.5.2"),
        ("FOO", "500 5.5.2"),
        ("NOOPS", "500 5.5.2"),
        ("MAILFROM:<a@b>", "500 5.5.2"),
        ("NOOP\tx", "501 5.5.4"),
        ("\x00", "501 5.5.4"),
        ("\x07NOOP", "501 5.5.4"),
        ("NOOP \x00", "501 5.5.4"),
        ("NOOP \u00fc", "501 5.5.4"),
        ("NO\u00fcOP", "500 5.5.2"),
        ("NO\rOP", "500 5.5.2"),
        ("NOOP \r", "500 5.5.2"),
        ("RSET \r", "500 5.5.2"),
        ("RCPT TO:<a@b>\r", "500 5.5.2"),  # out of sequence, but the CR is worse
        ("RCPT TO:<a@b>\t", "503 5.5.1"),
        ("MAIL FROM:<a@b>\r", "500 5.5.2"),
        ("NOOP\nNOOP", "500 5.5.2"),
        ("GET / HTTP/1.1\nNOOP", "500 5.5.2"),
        ("RSET now", "501 5.5.4"),
        ("QUIT now", "501 5.5.4"),
        ("VRFY", "501 5.5.4"),
        ("VRFY \x01", "501 5.5.4"),
        ("HELP \x7f", "501 5.5.4"),
        ("MAIL", "501 5.5.4"),
        ("MAIL FROM:<a@b> SIZE=100001", "552 5.3.4"),
        ("MAIL FROM:<a@b> RET=HALF", "501 5.5.4"),
        ("MAIL FROM:<a@b> AUTH=<>", "555 5.5.4"),
        ("MAIL FROM:<a@b> REQUIRETLS", "555 5.5.4"),
        ("MAIL FROM:<\u00fc@b>", "553 5.6.7"),
        ("NOOP anything at all", "250 2.0.0"),
        ("NOOP ", "250 2.0.0"),
        ("NOOP\t", "250 2.0.0"),
        ("noop \t ", "250 2.0.0"),
        ("RSET ", "250 2.0.0"),
        ("HELP MAIL", "214 2.0.0"),
    ],
)
def test_odd_line_gets_its_reply_and_the_session_goes_on(line: str, expected: str) -> None:
    """One line, one reply; each 5xx is an error, and the next command works."""
    session = Session()
    session.say(HELLO)

    assert codes(session.say(line)) == [expected]
    assert session.machine.errors == expected.startswith("5")
    assert codes(session.say("NOOP")) == ["250 2.0.0"]


def test_command_behind_a_bare_lf_is_never_obeyed() -> None:
    """Commands cannot be smuggled into an argument, whichever side of a packet the newline falls on."""
    smuggled = b"NOOP\nMAIL FROM:<a@b>\nRCPT TO:<c@d>\r\n"

    for cut in range(1, len(smuggled)):
        session = Session()
        session.say(HELLO)
        said = [session.send(smuggled[:cut]), session.send(smuggled[cut:])]
        assert codes([line for line in said if line]) == ["500 5.5.2"]
        assert session.events == [HelloReceived(True, "client.example")]


def test_smtputf8_of_mail_holds_for_its_recipients_and_no_longer() -> None:
    """RFC 6531 3.4: declared once, for one transaction."""
    session = Session()

    said = session.say(
        HELLO, "MAIL FROM:<a@b> SMTPUTF8", "RCPT TO:<\u00fc@b>", "RSET", "MAIL FROM:<a@b>", "RCPT TO:<\u00fc@b>"
    )

    assert codes(said[1:]) == ["250 2.1.0", "250 2.1.5", "250 2.0.0", "250 2.1.0", "553 5.6.7"]


def test_recipients_beyond_the_limit_are_temporarily_refused_and_do_not_count_as_errors() -> None:
    """RFC 5321 4.5.3.1.10: 452, and the message goes to those accepted; refused ones take no place."""
    session = Session()
    session.say(*OPEN)

    refused = session.say("RCPT TO:<no@d>", "RCPT TO:<later@d>")
    accepted = session.say(*[f"RCPT TO:<u{number}@d>" for number in range(100)])
    beyond = session.say("RCPT TO:<one@d>", "RCPT TO:<two@d>", "RCPT TO:<bad", "DATA")

    assert codes(refused) == ["550 5.7.1", "450 4.7.1"]
    assert codes(accepted) == ["250 2.1.5"] * 100
    assert codes(beyond) == ["452 4.5.3"] * 3 + ["354 End"]
    assert session.machine.errors == 1
    assert session.say(".", *OPEN[1:], "RCPT TO:<c@d>")[-1] == "250 2.1.5 Ok"


def test_recipient_limit_of_one_transaction_does_not_outlive_it() -> None:
    """RSET forgets the recipients."""
    session = Session()
    session.say(*OPEN, *[f"RCPT TO:<u{number}@d>" for number in range(100)])

    assert codes(session.say("RCPT TO:<c@d>", "RSET", OPEN[1], "RCPT TO:<c@d>"))[-1] == "250 2.1.5"


def test_data_after_only_refused_recipients_is_554_and_no_error_of_its_own() -> None:
    """A client that pipelines cannot know better (RFC 2920 3.1)."""
    session = Session()

    said = session.say(*OPEN, "RCPT TO:<later@d>", "DATA", "RSET", OPEN[1], "DATA")

    assert codes(said[2:]) == ["450 4.7.1", "554 5.5.1", "250 2.0.0", "250 2.1.0", "503 5.5.1"]
    assert session.machine.errors == 1  # the last one


def test_consequences_of_a_refused_mail_are_no_errors() -> None:
    """MAIL refused: RCPT and DATA of the same group are 503, but the client is not hung up upon for them."""
    session = Session()
    session.say(HELLO)

    for sender in ("later@b", "no@b"):
        group = b"MAIL FROM:<%b>\r\n" % sender.encode() + b"RCPT TO:<c@d>\r\n" * 10 + b"DATA\r\n"
        assert codes([session.send(group)])[1:] == ["503 5.5.1"] * 11

    assert session.machine.errors == 1


def test_consequences_of_a_malformed_path_are_no_errors_either() -> None:
    """One mistake counts once, however much was pipelined behind it."""
    session = Session()
    session.say(HELLO)

    assert codes(session.say("MAIL FROM:<bad", "RCPT TO:<c@d>", "DATA")) == ["501 5.5.4", "503 5.5.1", "503 5.5.1"]
    assert session.machine.errors == 1
    assert codes(session.say("MAIL FROM:<a@b>", "RCPT TO:<bad", "DATA")) == ["250 2.1.0", "501 5.5.4", "554 5.5.1"]
    assert session.machine.errors == 2


@pytest.mark.parametrize(
    "lines",
    [
        ("MAIL FROM:<later@b>", "RSET", "RCPT TO:<c@d>"),
        ("MAIL FROM:<later@b>", "EHLO again", "RCPT TO:<c@d>"),
        ("MAIL FROM:<later@b>", "MAIL FROM:<a@b>", "DATA"),
        ("MAIL FROM:<a@b>", "RCPT TO:<later@d>", "RCPT TO:<c@d>", "DATA", ".", "RCPT TO:<c@d>"),
    ],
)
def test_refusal_excuses_nothing_beyond_its_transaction(lines: tuple[str, ...]) -> None:
    """Once a client began anew, a command out of sequence is its own error."""
    session = Session()

    said = session.say(HELLO, *lines)

    assert codes(said)[-1] == "503 5.5.1"
    assert session.machine.errors == 1


def test_too_many_errors_end_the_session() -> None:
    """The fifth error gets its reply and a 421; what was pipelined behind it is not read."""
    session = Session()

    said = session.send(b"FOO\r\n" * 7 + b"NOOP\r\n")

    assert codes([said]) == ["500 5.5.2"] * 5 + ["421 4.7.0"]
    assert session.events == [HangUp("5 errors")]
    assert session.machine.is_closed
    assert session.send(b"NOOP\r\n") == ""


@pytest.mark.parametrize("kind", ["sender", "recipient"])
def test_policy_refusals_are_errors_too(kind: str) -> None:
    """Who tries one address after the other is stopped; a temporary refusal does not count."""
    session = Session()
    session.say(HELLO) if kind == "sender" else session.say(*OPEN)
    line = "MAIL FROM:<%s@b>" if kind == "sender" else "RCPT TO:<%s@b>"

    session.say(*[line % "later"] * 10)
    said = session.say(*[line % "no"] * 6)

    assert codes(said[:4]) == ["550 5.7.1"] * 4
    assert codes(said[4:5]) == ["550 5.7.1", "421 4.7.0"]
    assert said[5] == ""
    assert session.events[-1] == HangUp("5 errors")


def test_message_that_was_accepted_forgives_errors() -> None:
    """A kept connection may carry thousands of messages; errors count since the last success."""
    session = Session()
    session.say(HELLO)

    for _ in range(4):
        said = session.say("FOO", "FOO", *ADDRESSED[1:], "DATA", ".")
        assert codes(said)[-1] == "250 2.0.0"
        assert session.machine.errors == 0
    refused = session.say(*ADDRESSED[1:], "DATA", "a\rb\r\n.")
    assert codes(refused)[-1] == "550 5.6.11"
    assert session.machine.errors == 1


@pytest.mark.parametrize("line", ["NOOP", "RSET", "VRFY a", "HELP", HELLO])
def test_endless_commands_without_a_message_end_the_session(line: str) -> None:
    """Nobody needs a hundred NOOPs for one message."""
    session = Session()
    session.say(HELLO)

    said = session.say(*[line] * (JUNK_COMMANDS + 1))

    assert codes(said[:-1])[-1] != "421 4.7.0"
    assert codes(said[-1:])[-1] == "421 4.7.0"
    assert isinstance(session.events[-1], HangUp)


def test_message_that_was_accepted_forgives_junk() -> None:
    """RSET between messages is the habit of many clients."""
    session = Session()
    session.say(HELLO)

    for _ in range(JUNK_COMMANDS + 10):
        assert codes(session.say("RSET", *ADDRESSED[1:], "DATA", "."))[-1] == "250 2.0.0"


@pytest.mark.parametrize(
    "line", ["GET / HTTP/1.1", "POST /x HTTP/1.0", "CONNECT mx:25 HTTP/1.1", "get /", "PRI * HTTP/2.0"]
)
def test_http_is_hung_up_upon_at_once(line: str) -> None:
    """A browser must not be made to speak SMTP: nothing of its request is read."""
    session = Session()

    said = session.send(line.encode() + b"\r\nHost: x\r\n\r\nMAIL FROM:<a@b>\r\n")

    assert codes([said]) == ["421 4.7.0"]
    assert session.events == [HangUp("HTTP spoken to SMTP")]


@pytest.mark.parametrize("hello", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x16\x03\x01 \r\nx\r\n"])
def test_tls_handshake_on_a_clear_text_port_is_hung_up_upon(hello: bytes) -> None:
    """Whoever set implicit TLS on the wrong port learns it at once, and so does our operator."""
    session = Session()

    session.send(hello)

    assert session.events == [HangUp("TLS handshake on a port that starts in clear text")]


def test_overlong_line_is_refused_once_and_an_endless_one_ends_the_session() -> None:
    """500 for too long, then silence up to the CRLF; without CRLF the connection goes."""
    session = Session()

    assert codes([session.send(b"NOOP " + b"x" * 3000)]) == ["500 5.5.2"]
    assert session.send(b"x" * 3000) == ""
    assert codes([session.send(b"MAIL FROM:<a@b>\r\nNOOP\r\n")]) == ["250 2.0.0"]
    assert codes([session.send(b"x" * (DISCARD_OCTETS + 3000))]) == ["500 5.5.2", "421 4.7.0"]
    assert session.events == [HangUp("a line without end")]


def test_content_that_is_too_large_is_consumed_and_refused() -> None:
    """552 after the dot; the session goes on."""
    session = Session()
    session.say(*ADDRESSED, "DATA")

    silent = [session.send(b"x" * 9_998 + b"\r\n") for _ in range(30)]
    said = session.send(b".\r\nNOOP\r\n")

    assert silent == [""] * 30
    assert codes([said]) == ["552 5.3.4", "250 2.0.0"]
    pieces = [event.octets for event in session.events if isinstance(event, ContentReceived)]
    assert sum(map(len, pieces)) <= SETTINGS.max_octets
    assert session.machine.buffered == 0


def test_commands_in_content_are_content() -> None:
    """Neither QUIT nor a line of HTTP ends what only the final dot ends."""
    session = Session()
    session.say(*ADDRESSED, "DATA")

    assert session.send(b"QUIT\r\nGET / HTTP/1.1\r\nRSET\r\n") == ""
    assert session.machine.is_receiving_content
    assert codes([session.send(b".\r\n")]) == ["250 2.0.0"]
    assert session.events[-2] == ContentReceived(b"QUIT\r\nGET / HTTP/1.1\r\nRSET\r\n")


@pytest.mark.parametrize("variant", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r\r\n", b"\r\n\0.\r\n"])
def test_smuggled_message_is_never_a_message_of_its_own(variant: bytes) -> None:
    """CVE-2023-51764: the commands behind a false end of data are refused together with the content before it."""
    session = Session()
    session.say(*ADDRESSED, "DATA")

    said = session.send(b"x" + variant + b"MAIL FROM:<admin@d>\r\nRCPT TO:<c@d>\r\nDATA\r\nevil\r\n.\r\n")

    assert codes([said]) == ["550 5.6.11"]
    assert sum(isinstance(event, MailReceived) for event in session.events) == 1
    assert not any(isinstance(event, ContentReceived) for event in session.events)


def test_content_is_counted_while_it_waits() -> None:
    """`buffered` covers what a slow sender has sent so far, and stays within a piece."""
    session = Session()
    session.say(*ADDRESSED, "DATA")

    session.send(b"x" * 50_000)
    assert session.machine.buffered == 50_000
    session.send(b"x" * 40_000)
    assert session.machine.buffered <= CONTENT_PIECE_OCTETS
    assert session.events[-1] == ContentReceived(b"x" * 90_000)


def test_refused_data_leaves_the_transaction_open() -> None:
    """451 to DATA: the client may try again or reset."""
    session = Session()
    session.say(*ADDRESSED)
    machine = session.machine

    machine.receive(b"DATA\r\n")
    assert machine.next_event() == DataReceived()
    machine.reply(reply(451, "4.3.0", "Not now"))

    assert machine.in_transaction
    assert codes([session.go_on()]) == ["451 4.3.0"]
    assert codes(session.say("DATA")) == ["354 End"]


def test_refused_hello_changes_nothing() -> None:
    """The client may say another name."""
    session = Session()
    machine = session.machine

    machine.receive(b"EHLO bad.example\r\n")
    machine.next_event()
    machine.reply(reply(550, "", "Not you"))

    assert codes([session.go_on(), *session.say("MAIL FROM:<a@b>")]) == ["550 Not", "503 5.5.1"]
    with pytest.raises(LocalProtocolError):
        machine.accept_hello()


def test_refused_hello_within_a_transaction_still_resets_it() -> None:
    """The driver has dropped what it had when it was told, so the machine must have too."""
    session = Session()
    machine = session.machine
    session.say(*ADDRESSED)

    machine.receive(b"EHLO bad.example\r\n")
    assert machine.next_event() == ResetReceived()
    assert machine.next_event() == HelloReceived(True, "bad.example")
    machine.reply(reply(550, "", "Not you"))

    assert not machine.in_transaction
    assert codes([session.go_on(), *session.say("DATA")]) == ["550 Not", "503 5.5.1"]
    machine.receive(b"MAIL FROM:<a@b>\r\n")
    machine.next_event()
    with pytest.raises(LocalProtocolError):
        machine.accept_hello()


@pytest.mark.parametrize("line", ["MAIL FROM:<a@b>", "EHLO x"])
def test_reply_421_ends_the_session(line: str) -> None:
    """RFC 5321 3.8: who says 421 closes; pipelined commands are not read any more."""
    session = Session()
    session.say(HELLO)
    machine = session.machine

    machine.receive(line.encode() + b"\r\nNOOP\r\n")
    machine.next_event()
    machine.reply(reply(421, "4.3.2", "Shutting down"))

    assert machine.is_closed
    assert not machine.is_waiting
    assert machine.next_event() == HangUp("told to close")
    assert machine.next_event() is None
    assert machine.take_output() == b"421 4.3.2 Shutting down\r\n"


def test_unasked_reply_ends_the_session_without_an_event() -> None:
    """A timeout or a shutdown is the driver's own doing."""
    session = Session()
    session.say(*ADDRESSED, "DATA")

    session.machine.reply_unasked(reply(421, "4.4.2", "Timeout"))

    assert session.machine.take_output() == b"421 4.4.2 Timeout\r\n"
    assert session.machine.is_closed
    assert session.machine.next_event() is None
    assert session.send(b".\r\n") == ""


@pytest.mark.parametrize("code", [554, 421])
def test_refusing_banner_ends_the_session(code: int) -> None:
    """Nothing is read after it."""
    session = Session(banner=reply(code, "", "No service"))

    assert session.banner.startswith(str(code).encode())
    assert session.machine.is_closed
    assert session.send(b"EHLO x\r\n") == ""


def test_nothing_is_read_before_the_banner() -> None:
    """A client that talks first waits for its answer."""
    machine = SmtpServer(SETTINGS)

    machine.receive(b"NOOP\r\n")
    assert machine.next_event() is None
    assert machine.take_output() == b""
    machine.greet(BANNER)

    assert machine.next_event() is None
    assert machine.take_output() == b"220 mx.example.org ESMTP\r\n250 2.0.0 Ok\r\n"


def test_driver_that_breaks_the_order_is_told_so() -> None:
    """A reply that is not due, a second banner, 354 to something else: bugs of ours, and loud."""
    session = Session()
    machine = session.machine
    session.say(HELLO)

    for wrong in (
        machine.accept_hello,
        machine.accept_data,
        lambda: machine.reply(BANNER),
        lambda: machine.greet(BANNER),
    ):
        with pytest.raises(LocalProtocolError):
            wrong()
    machine.receive(b"MAIL FROM:<a@b>\r\n")
    machine.next_event()
    for wrong in (machine.accept_hello, machine.accept_data):
        with pytest.raises(LocalProtocolError):
            wrong()

    assert machine.is_waiting
    assert repr(machine) == "<SmtpServer READY waiting>"


def test_reply_before_the_following_event_was_taken_is_a_bug() -> None:
    """ContentReceived takes no reply; the one that is due belongs to ContentEnded."""
    session = Session()
    session.say(*ADDRESSED, "DATA")
    machine = session.machine
    machine.receive(b"x\r\n.\r\n")

    assert machine.next_event() == ContentReceived(b"x\r\n")
    with pytest.raises(LocalProtocolError):
        machine.reply(BANNER)
