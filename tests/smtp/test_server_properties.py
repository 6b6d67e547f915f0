# SPDX-License-Identifier: MIT
"""What holds for any client: the server machine never fails, never depends on packets, never obeys out of turn."""

from base64 import b64encode

from hypothesis import example, given, settings
from hypothesis import strategies as st

from smarthost.mail.reply import Reply, reply
from smarthost.smtp.limits import CONTENT_PIECE_OCTETS, DISCARD_OCTETS
from smarthost.smtp.server import Offer, ServerSettings, SmtpServer
from smarthost.smtp.wire import (
    AuthReceived,
    BdatReceived,
    ChunkEnded,
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
    StarttlsReceived,
    XclientReceived,
)

SETTINGS = ServerSettings(hostname="mx.example.org", max_octets=90_000, max_recipients=3, max_errors=8)
LMTP = ServerSettings(hostname="mx.example.org", max_octets=90_000, max_recipients=3, max_errors=8, is_lmtp=True)
ALL = Offer(starttls=True, auth=("PLAIN", "LOGIN"), requiretls=True, xclient=True)
NONE = Offer()
OFFERS = st.builds(
    Offer,
    starttls=st.booleans(),
    auth=st.sampled_from([(), ("PLAIN",), ("PLAIN", "LOGIN")]),
    requiretls=st.booleans(),
    xclient=st.booleans(),
)
# A number for each answer a driver gives, and 0 for ever after: yes, no, later, or the end.
MOODS = st.lists(st.sampled_from([0, 0, 0, 0, 1, 2, 3]), max_size=20)
SECURED = b"(TLS)"  # between two flights: the handshake that follows STARTTLS


def judge(event: ServerEvent, mood: int = 0) -> Reply:
    """Decide by the event and the mood alone, so that a policy is the same however the octets came."""
    if mood:
        return [reply(550, "5.7.1", "No"), reply(450, "4.7.1", "Later"), reply(421, "4.3.2", "Bye")][mood - 1]
    match event:
        case ContentEnded(defect):
            return defect or reply(250, "2.0.0", "Queued")
        case AuthReceived():
            return reply(235, "2.7.0", "Welcome")
        case XclientReceived():
            return reply(220, "", "mx")
        case MailReceived(reverse_path) if reverse_path is not None and reverse_path.text.startswith("no"):
            return reply(550, "5.7.1", "No")
        case RcptReceived(recipient) if recipient.text.startswith("no"):
            return reply(450, "4.7.1", "Later")
        case _:
            return reply(250, "2.1.0", "Ok")


class Driver:
    """All output and all events of one session."""

    def __init__(self, terms: ServerSettings = SETTINGS, offer: Offer = NONE, moods: list[int] | None = None) -> None:
        self.machine = SmtpServer(terms, offer)
        self.machine.greet(reply(220, "", "mx"))
        self.output = b""
        self.events: list[ServerEvent] = []
        self._moods = list(moods or ())

    def take(self, chunk: bytes) -> None:
        machine = self.machine
        machine.receive(chunk)
        while (event := machine.next_event()) is not None:
            self._answer(event)
            assert not isinstance(event, ContentReceived) or event.octets
            self.events.append(event)
        self.output += machine.take_output()
        assert machine.buffered <= max(CONTENT_PIECE_OCTETS, DISCARD_OCTETS)
        assert machine.is_closed or not machine.is_waiting

    def secure(self) -> None:
        """The handshake, if one is due."""
        if repr(self.machine) == "<SmtpServer SECURING>":
            self.machine.secured()

    def _answer(self, event: ServerEvent) -> None:
        machine = self.machine
        match event:
            case ResetReceived() | QuitReceived() | HangUp() | ContentReceived() | BdatReceived():
                assert not machine.is_waiting
                return
            case _:
                assert machine.is_waiting
        mood = self._moods.pop(0) if self._moods else 0
        match event:
            case HelloReceived() if not mood:
                machine.accept_hello()
            case DataReceived() if not mood:
                machine.accept_data()
            case StarttlsReceived() if not mood:
                machine.accept_starttls()
            case _:
                machine.reply(judge(event, mood))


def run(
    chunks: list[bytes],
    terms: ServerSettings = SETTINGS,
    offer: Offer = NONE,
    moods: list[int] | None = None,
) -> tuple[bytes, list[ServerEvent], SmtpServer]:
    driver = Driver(terms, offer, moods)
    for chunk in chunks:
        driver.take(chunk)
    return driver.output, join_content(driver.events), driver.machine


def join_content(events: list[ServerEvent]) -> list[ServerEvent]:
    """Give the events with each content in one piece before its end, and none where it is void.

    Where pieces fall, and how much of what is void was given out before that was known, is the packets' choice.
    """
    told: list[ServerEvent] = []
    content = b""
    for event in events:
        if isinstance(event, ContentReceived):
            content += event.octets
            continue
        if not isinstance(event, ChunkEnded):
            if isinstance(event, ContentEnded) and event.defect is None and content:
                told.append(ContentReceived(content))
            content = b""
        told.append(event)
    return told


def cut(octets: bytes, sizes: list[int]) -> list[bytes]:
    chunks, at = [], 0
    for size in sizes:
        chunks.append(octets[at : at + size])
        at += size
    return [chunk for chunk in (*chunks, octets[at:]) if chunk]


PLAIN = b64encode(b"\0user\0secret")
COMMANDS = st.sampled_from(
    [
        b"EHLO a", b"HELO b", b"LHLO a", b"MAIL FROM:<a@b>", b"MAIL FROM:<> SIZE=9 BODY=8BITMIME", b"MAIL FROM:<no@b>",
        "MAIL FROM:<ü@b> SMTPUTF8".encode(), "RCPT TO:<ü@b>".encode(), b"RCPT TO:<c@d>", b"RCPT TO:<no@d>",
        b"RCPT TO:<postmaster>", b"RCPT TO:<x", b"DATA", b"RSET", b"NOOP", b"VRFY x", b"HELP", b"QUIT", b"FOO",
        b"GET / HTTP/1.1", b"", b".", b"NO\rOP", b"NO\nOP", b"x" * 3000, b"\x00", b"*",
        b"MAIL FROM:<a@b> BODY=BINARYMIME", b"MAIL FROM:<a@b> RET=HDRS ENVID=a+2Bb AUTH=<> REQUIRETLS",
        b"RCPT TO:<c@d> NOTIFY=DELAY,FAILURE ORCPT=rfc822;c@d", b"RCPT TO:<c@d> ORCPT=rfc822;+0A",
        b"AUTH PLAIN", b"AUTH PLAIN " + PLAIN, b"AUTH LOGIN", b"AUTH FOO", b"AUTH LOGIN dXNlcg==", PLAIN, b"c2VjcmV0",
        b"XCLIENT ADDR=192.0.2.1", b"XCLIENT FOO", b"x" * 13_000,
    ]
)  # fmt: skip
PIECES = st.lists(
    st.sampled_from([b"a", b"\r\n", b"\r\n\r\n", b"\r\n..", b"\r\n.b", b"\r", b"\n", b"\0", b"\x80", b"x" * 30_000]),
    max_size=6,
)
CONTENTS = PIECES.map(b"".join)
CHUNKS = st.builds(
    lambda octets, end: b"BDAT %d%b\r\n%b" % (len(octets), end, octets),
    CONTENTS,
    st.sampled_from([b"", b"", b" LAST"]),
)
MESSAGES = st.tuples(st.lists(COMMANDS, max_size=2), CONTENTS).map(
    lambda parts: b"\r\n".join(
        [b"EHLO a", b"MAIL FROM:<a@b>", b"RCPT TO:<c@d>", *parts[0], b"DATA", parts[1].lstrip(b".\r\n") + b"\r\n.\r\n"]
    )
)
CHUNKED = st.builds(
    lambda hello, body, chunks: hello + b"\r\nMAIL FROM:<a@b>" + body + b"\r\nRCPT TO:<c@d>\r\n" + b"".join(chunks),
    st.sampled_from([b"EHLO a", b"LHLO a"]),
    st.sampled_from([b"", b" BODY=BINARYMIME"]),
    st.lists(CHUNKS | st.sampled_from([b"RSET\r\n", b"NOOP\r\n", b"BDAT 0 LAST\r\n"]), max_size=5),
)
LINES = COMMANDS.map(lambda line: line + b"\r\n")
SCRIPTS = st.lists(LINES | MESSAGES | CHUNKS | CHUNKED, max_size=12).map(b"".join)
TERMS = st.sampled_from([SETTINGS, LMTP])


@given(SCRIPTS, st.lists(st.integers(1, 8) | st.integers(1, 40_000), max_size=40), TERMS, OFFERS, MOODS)
@settings(max_examples=300, deadline=None)
def test_conversation_does_not_depend_on_packets(
    script: bytes, sizes: list[int], terms: ServerSettings, offer: Offer, moods: list[int]
) -> None:
    """However a script is cut, the client hears the same octets and the driver is told the same facts."""
    output, events, _ = run([script] if script else [], terms, offer, moods)

    assert run(cut(script, sizes), terms, offer, moods)[:2] == (output, events)


SHORT = st.lists(LINES | st.sampled_from([b"BDAT 3\r\na\r\n", b"BDAT 2 LAST\r\nQU", b"BDAT 1\r\n\n"]), max_size=12)


@given(SHORT.map(b"".join), TERMS, OFFERS, MOODS)
@example(b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nhello\r\n..\r\n.\r\nQUIT\r\n", SETTINGS, NONE, [])
@example(b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\nMAIL FROM:<>\r\n\r\n", SETTINGS, NONE, [])
@example(b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 2\r\na\rBDAT 1 LAST\r\n\nQUIT\r\n", SETTINGS, NONE, [])
@example(b"EHLO a\r\nAUTH LOGIN\r\ndXNlcg==\r\nc2VjcmV0\r\nMAIL FROM:<a@b>\r\n", SETTINGS, ALL, [])
@example(b"LHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<c@d>\r\nBDAT 1 LAST\r\nxQUIT\r\n", LMTP, NONE, [])
@settings(deadline=None)
def test_octet_by_octet_equals_all_at_once(
    script: bytes, terms: ServerSettings, offer: Offer, moods: list[int]
) -> None:
    """The slowest possible client is a client like any other."""
    slow = run([script[at : at + 1] for at in range(len(script))], terms, offer, moods)

    assert slow[:2] == run([script] if script else [], terms, offer, moods)[:2]


FLIGHTS = st.lists(st.lists(LINES, max_size=4).map(b"".join), min_size=1, max_size=3)


@given(FLIGHTS, TERMS, OFFERS, MOODS)
@example([b"EHLO a\r\n", b"EHLO a\r\nAUTH PLAIN " + PLAIN + b"\r\n", b"STARTTLS\r\n"], SETTINGS, ALL, [])
@settings(deadline=None)
def test_session_with_handshakes_does_not_depend_on_packets(
    flights: list[bytes], terms: ServerSettings, offer: Offer, moods: list[int]
) -> None:
    """STARTTLS ends each flight, and the handshake follows if it was taken; where packets are cut changes nothing."""
    told = []
    for is_slow in (False, True):
        driver = Driver(terms, offer, moods)
        for flight in flights:
            octets = flight + b"STARTTLS\r\n"
            for chunk in [octets[at : at + 1] for at in range(len(octets))] if is_slow else [octets]:
                driver.take(chunk)
            driver.secure()
        told.append((driver.output, join_content(driver.events), driver.machine.is_authenticated))

    assert told[0] == told[1]


@given(st.binary(min_size=1, max_size=40), st.booleans())
def test_nothing_that_follows_starttls_in_clear_text_is_ever_obeyed(tail: bytes, is_together: bool) -> None:
    """Whatever it is, and whether it comes with STARTTLS or behind the 220."""
    driver = Driver(offer=ALL)
    driver.take(b"EHLO a\r\n")
    for chunk in [b"STARTTLS\r\n" + tail] if is_together else [b"STARTTLS\r\n", tail]:
        driver.take(chunk)
    driver.secure()

    assert driver.machine.is_closed
    assert isinstance(driver.events[-1], HangUp)
    assert (b"220 2.0.0" in driver.output) is not is_together


@given(st.lists(st.binary(max_size=300), max_size=12), TERMS, OFFERS, MOODS)
@example([b"\x16\x03\x01"], SETTINGS, NONE, [])
@example([b"\r\n" * 100], SETTINGS, NONE, [])
@example([b"EHLO a\r\n", b"MAIL FROM:<\xff@b> SMTPUTF8\r\n"], SETTINGS, NONE, [])
def test_any_octets_give_events_or_replies_and_never_an_exception(
    chunks: list[bytes], terms: ServerSettings, offer: Offer, moods: list[int]
) -> None:
    """Noise costs the client its session, not us ours."""
    output, _, machine = run([chunk for chunk in chunks if chunk], terms, offer, moods)

    assert output.startswith(b"220 mx\r\n") or not output
    assert machine.is_closed or machine.next_event() is None


WAYS = st.sampled_from(
    [
        [b"EHLO a\r\n", b"MAIL FROM:<a@b>\r\n", b"RCPT TO:<c@d>\r\n", b"DATA\r\n"],
        [b"EHLO a\r\n", b"MAIL FROM:<a@b> BODY=BINARYMIME\r\n", b"RCPT TO:<c@d>\r\n", b"BDAT 50 LAST\r\n"],
        [b"EHLO a\r\n", b"AUTH LOGIN\r\n", b"dXNlcg==\r\n"],
        [b"EHLO a\r\n", b"STARTTLS\r\n"],
    ]
)
PREFIXES = st.sampled_from([b"", b"AUTH PLAIN ", b"XCLIENT ", b"BDAT ", b"MAIL FROM:<a@b> ", b"RCPT TO:<a@b> ORCPT="])


@given(WAYS, st.lists(st.tuples(PREFIXES, st.binary(max_size=60)), max_size=10), st.integers(0, 3), MOODS)
def test_any_octets_within_a_session_give_events_or_replies(
    way: list[bytes], lines: list[tuple[bytes, bytes]], depth: int, moods: list[int]
) -> None:
    """The same after EHLO, within a transaction, content, a chunk, an exchange, and before a handshake."""
    noise = [prefix + line + b"\r\n" for prefix, line in lines]

    output, events, machine = run([*way[: depth + 1], *noise], offer=ALL, moods=moods)

    assert output.endswith(b"\r\n")
    assert events
    assert machine.is_closed or machine.next_event() is None


@given(SCRIPTS, TERMS, OFFERS, MOODS)
@settings(deadline=None)
def test_events_come_in_the_order_a_driver_may_rely_on(
    script: bytes, terms: ServerSettings, offer: Offer, moods: list[int]
) -> None:
    """Recipients after MAIL, content within DATA or BDAT, one ContentEnded for each, nothing after the end."""
    driver = Driver(terms, offer, moods)
    answered: list[int] = []
    take = driver._answer

    def answer(event: ServerEvent) -> None:
        before = len(driver._moods)
        mood = driver._moods[0] if driver._moods else 0
        take(event)
        answered.append(mood if len(driver._moods) < before else 0)

    driver._answer = answer  # type: ignore[method-assign]
    if script:
        driver.take(script)

    is_open = has_recipient = in_content = False
    for index, (event, mood) in enumerate(zip(driver.events, answered, strict=True)):
        match event:
            case HelloReceived() | AuthReceived() | XclientReceived() | StarttlsReceived():
                assert not is_open
            case MailReceived():
                assert not is_open
                is_open, has_recipient = judge(event, mood).is_positive, False
            case RcptReceived():
                assert is_open
                assert not in_content
                has_recipient |= judge(event, mood).is_positive
            case DataReceived() | BdatReceived():
                assert has_recipient
                assert not in_content
                in_content = not mood
            case ContentReceived():
                assert in_content
            case ChunkEnded():
                assert in_content
                is_open = in_content = not mood
            case ContentEnded():
                assert in_content
                is_open = in_content = False
            case ResetReceived():
                assert is_open
                is_open = in_content = False
            case QuitReceived() | HangUp():
                assert index == len(driver.events) - 1


NO_REPLY = (b"DATA", b"QUIT", b"GET", b"AUTH", b"*", PLAIN)


@given(st.lists(COMMANDS.filter(lambda line: not line.startswith(NO_REPLY)), max_size=30), TERMS, OFFERS)
def test_every_command_gets_exactly_one_reply(lines: list[bytes], settings_: ServerSettings, offer: Offer) -> None:
    """A client that counts replies, as all that pipeline do, never loses step."""
    terms = ServerSettings("mx", max_octets=90_000, max_recipients=3, max_errors=1000, is_lmtp=settings_.is_lmtp)

    output, _, _ = run([line + b"\r\n" for line in lines], terms, offer)
    pipelined, _, _ = run([b"".join(line + b"\r\n" for line in lines)] if lines else [], terms, offer)

    assert sum(line[3:4] == b" " for line in output.splitlines()) == len(lines) + bool(lines)
    assert pipelined == output
