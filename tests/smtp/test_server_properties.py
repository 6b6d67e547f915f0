# SPDX-License-Identifier: MIT
"""What holds for any client: the server machine never fails, never depends on packets, never obeys out of turn."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from smarthost.mail.reply import Reply, reply
from smarthost.smtp.limits import CONTENT_PIECE_OCTETS, DISCARD_OCTETS
from smarthost.smtp.server import ServerSettings, SmtpServer
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
    ServerEvent,
)

SETTINGS = ServerSettings(hostname="mx.example.org", max_octets=90_000, max_recipients=3, max_errors=8)


def judge(event: ServerEvent) -> Reply:
    """Decide by the event alone, so that a policy is the same however the octets came."""
    match event:
        case ContentEnded(defect):
            return defect or reply(250, "2.0.0", "Queued")
        case MailReceived(reverse_path) if reverse_path is not None and reverse_path.text.startswith("no"):
            return reply(550, "5.7.1", "No")
        case RcptReceived(recipient) if recipient.text.startswith("no"):
            return reply(450, "4.7.1", "Later")
        case _:
            return reply(250, "2.1.0", "Ok")


def run(chunks: list[bytes], terms: ServerSettings = SETTINGS) -> tuple[bytes, list[ServerEvent], SmtpServer]:
    """Give all output and all events, pieces of one content joined."""
    machine = SmtpServer(terms)
    machine.greet(reply(220, "", "mx"))
    output = b""
    events: list[ServerEvent] = []
    for chunk in chunks:
        machine.receive(chunk)
        while (event := machine.next_event()) is not None:
            match event:
                case HelloReceived():
                    machine.accept_hello()
                case DataReceived():
                    machine.accept_data()
                case MailReceived() | RcptReceived() | ContentEnded():
                    assert machine.is_waiting
                    machine.reply(judge(event))
                case ResetReceived() | QuitReceived() | HangUp() | ContentReceived():
                    assert not machine.is_waiting
            if isinstance(event, ContentReceived):
                assert event.octets
                if events and isinstance(events[-1], ContentReceived):
                    event = ContentReceived(events.pop().octets + event.octets)  # type: ignore[union-attr]
            events.append(event)
        output += machine.take_output()
        assert machine.buffered <= max(CONTENT_PIECE_OCTETS, DISCARD_OCTETS)
        assert machine.is_closed or not machine.is_waiting
    return output, events, machine


def cut(octets: bytes, sizes: list[int]) -> list[bytes]:
    chunks, at = [], 0
    for size in sizes:
        chunks.append(octets[at : at + size])
        at += size
    return [chunk for chunk in (*chunks, octets[at:]) if chunk]


COMMANDS = st.sampled_from(
    [
        b"EHLO a", b"HELO b", b"MAIL FROM:<a@b>", b"MAIL FROM:<> SIZE=9 BODY=8BITMIME", b"MAIL FROM:<no@b>",
        "MAIL FROM:<ü@b> SMTPUTF8".encode(), "RCPT TO:<ü@b>".encode(), b"RCPT TO:<c@d>", b"RCPT TO:<no@d>",
        b"RCPT TO:<postmaster>", b"RCPT TO:<x", b"DATA", b"RSET", b"NOOP", b"VRFY x", b"HELP", b"QUIT", b"FOO",
        b"STARTTLS", b"BDAT 5 LAST", b"GET / HTTP/1.1", b"", b".", b"NO\rOP", b"NO\nOP", b"x" * 3000, b"\x00",
    ]
)  # fmt: skip
CONTENTS = st.lists(
    st.sampled_from([b"a", b"\r\n", b"\r\n..", b"\r\n.b", b"\r", b"\n", b"\0", b"\x80", b"x" * 30_000]), max_size=6
).map(b"".join)
MESSAGES = st.tuples(st.lists(COMMANDS, max_size=2), CONTENTS).map(
    lambda parts: b"\r\n".join(
        [b"EHLO a", b"MAIL FROM:<a@b>", b"RCPT TO:<c@d>", *parts[0], b"DATA", parts[1].lstrip(b".\r\n") + b"\r\n."]
    )
)
SCRIPTS = st.lists(COMMANDS | MESSAGES, max_size=12).map(lambda lines: b"".join(line + b"\r\n" for line in lines))


@given(SCRIPTS, st.lists(st.integers(1, 8) | st.integers(1, 40_000), max_size=40))
@settings(max_examples=200)
def test_conversation_does_not_depend_on_packets(script: bytes, sizes: list[int]) -> None:
    """However a script is cut, the client hears the same octets and the driver is told the same facts."""
    output, events, _ = run([script] if script else [])

    assert run(cut(script, sizes))[:2] == (output, events)


@given(st.lists(COMMANDS, max_size=12).map(lambda lines: b"".join(line + b"\r\n" for line in lines)))
@example(b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nhello\r\n..\r\n.\r\nQUIT\r\n")
@example(b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\nMAIL FROM:<>\r\n\r\n")
def test_octet_by_octet_equals_all_at_once(script: bytes) -> None:
    """The slowest possible client is a client like any other."""
    assert run([script[at : at + 1] for at in range(len(script))])[:2] == run([script] if script else [])[:2]


@given(st.lists(st.binary(max_size=300), max_size=12))
@example([b"\x16\x03\x01"])
@example([b"\r\n" * 100])
@example([b"EHLO a\r\n", b"MAIL FROM:<\xff@b> SMTPUTF8\r\n"])
def test_any_octets_give_events_or_replies_and_never_an_exception(chunks: list[bytes]) -> None:
    """Noise costs the client its session, not us ours."""
    output, _, machine = run([chunk for chunk in chunks if chunk])

    assert output.startswith(b"220 mx\r\n") or not output
    assert machine.is_closed or machine.next_event() is None


@given(st.lists(st.binary(max_size=60), max_size=10), st.integers(0, 3))
def test_any_octets_within_a_transaction_give_events_or_replies(lines: list[bytes], depth: int) -> None:
    """The same after EHLO, MAIL, RCPT and DATA."""
    way = [b"EHLO a\r\n", b"MAIL FROM:<a@b>\r\n", b"RCPT TO:<c@d>\r\n", b"DATA\r\n"][: depth + 1]

    output, events, _ = run([*way, *[line + b"\r\n" for line in lines]])

    assert output.endswith(b"\r\n")
    assert len(events) >= depth


@given(SCRIPTS)
def test_events_come_in_the_order_a_driver_may_rely_on(script: bytes) -> None:
    """Recipients only after MAIL, content only within DATA, one ContentEnded for each DATA, nothing after the end."""
    _, events, _ = run([script] if script else [])

    is_open = has_recipient = in_data = False
    for index, event in enumerate(events):
        match event:
            case HelloReceived():
                assert not is_open
            case MailReceived():
                assert not is_open
                is_open, has_recipient = judge(event).is_positive, False
            case RcptReceived():
                assert is_open
                has_recipient |= judge(event).is_positive
            case DataReceived():
                assert has_recipient
                in_data = True
            case ContentReceived():
                assert in_data
            case ContentEnded():
                assert in_data
                is_open = in_data = False
            case ResetReceived():
                assert is_open
                is_open = False
            case QuitReceived() | HangUp():
                assert index == len(events) - 1


@given(st.lists(COMMANDS.filter(lambda line: not line.startswith((b"DATA", b"QUIT", b"GET"))), max_size=30))
def test_every_command_gets_exactly_one_reply(lines: list[bytes]) -> None:
    """A client that counts replies, as all that pipeline do, never loses step."""
    terms = ServerSettings(hostname="mx", max_octets=90_000, max_recipients=3, max_errors=1000)

    output, _, _ = run([line + b"\r\n" for line in lines], terms)
    pipelined, _, _ = run([b"".join(line + b"\r\n" for line in lines)] if lines else [], terms)

    assert sum(line[3:4] == b" " for line in output.splitlines()) == len(lines) + bool(lines)
    assert pipelined == output
