# SPDX-License-Identifier: MIT
"""The client machine against hosts that say anything at all, in any order, cut anywhere."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from smarthost.mail.envelope import Body, DsnRequest, Notify
from smarthost.mail.errors import LocalProtocolError, RemoteProtocolError
from smarthost.mail.hop import Credentials
from smarthost.smtp.client import SmtpClient, Transaction
from smarthost.smtp.wire import (
    AuthAnswered,
    BannerReceived,
    ClientEvent,
    ContentWanted,
    HelloAnswered,
    StarttlsAnswered,
    TransactionEnded,
)

RECIPIENTS = ("r1@d", "r2@d")
TRANSACTION = Transaction("a@b", RECIPIENTS, 5, Body.EIGHT_BIT_MIME, False)
BINARY = Transaction("a@b", RECIPIENTS, 5, Body.BINARY_MIME, False)


@dataclass
class Driver:
    """A driver that always knows something to ask, and notes all that happens."""

    client: SmtpClient = field(default_factory=SmtpClient)
    prefers_chunks: bool = False
    seen: list[object] = field(default_factory=list)
    written: bytes = b""
    dots: int = 0
    pieces: list[bytes] = field(default_factory=list)

    def receive(self, chunk: bytes) -> None:
        self.client.receive(chunk)
        try:
            while (event := self.client.next_event()) is not None:
                self.seen.append(event)
                self.answer(event)
        except RemoteProtocolError as error:
            self.seen.append(str(error))
        self.written += self.client.take_output()

    def answer(self, event: ClientEvent) -> None:
        client = self.client
        match event:
            case _ if client.is_closed:
                pass
            case BannerReceived():
                client.hello("relay.example")
            case StarttlsAnswered(reply) if reply.code == 220:
                self.end_of_clear_text()
            case HelloAnswered() if client.extensions and client.extensions.starttls:
                client.starttls()
            case HelloAnswered() if client.extensions and client.extensions.offers_usable_auth:
                client.auth_plain(Credentials("user", "secret"))
            case HelloAnswered() | StarttlsAnswered() | AuthAnswered() | TransactionEnded() if client.extensions:
                is_chunked = self.prefers_chunks and client.extensions.takes_binary
                self.pieces = [b".\r\nx", b"\0"] if is_chunked else [b".\r\nx"]
                client.begin(BINARY if is_chunked else TRANSACTION)
            case ContentWanted():
                while self.pieces and client.takes_content:
                    self.written += b"".join(client.content([self.pieces.pop(0)]))
                if not self.pieces and client.takes_content:
                    client.content_end()
                    self.dots += 1
            case _:
                client.quit()

    def end_of_clear_text(self) -> None:
        """Secure the session unless something is buffered, as the real driver must."""
        if not self.client.has_buffered:
            self.client.secured()
            self.client.hello("relay.example")


LINES = st.sampled_from(
    [
        "220 hi", "250 ok", "250-mx", "250-PIPELINING", "250 PIPELINING", "250-STARTTLS", "250 AUTH PLAIN LOGIN",
        "250 AUTH LOGIN", "250-CHUNKING", "250 BINARYMIME",
        "250 SIZE 100000", "250", "251 ok", "354 go", "334 VXNlcg==", "235 2.7.0 ok", "421 bye",
        "450 4.2.0 later", "452 4.5.3 many", "550 5.1.1 no", "552", "554 no valid recipients", "503 bad", "250-",
        "999 x", "garbage", "250 \x1b[31m", "221 bye",
    ]
)  # fmt: skip
SPOKEN = st.lists(LINES, max_size=30).map(lambda lines: "".join(f"{line}\r\n" for line in lines).encode())
ANYTHING = st.one_of(SPOKEN, st.binary(max_size=200), st.tuples(SPOKEN, st.binary(max_size=20)).map(b"".join))
GREETED = [b"220 hi\r\n", b"250-mx\r\n250-CHUNKING\r\n250-BINARYMIME\r\n250 PIPELINING\r\n"]
LANGUAGES = st.sampled_from([(is_lmtp, is_chunked) for is_lmtp in (False, True) for is_chunked in (False, True)])
SMTP_DATA = (False, False)


def run(pieces: list[bytes], language: tuple[bool, bool] = SMTP_DATA) -> Driver:
    driver = Driver(SmtpClient(is_lmtp=language[0]), language[1])
    for piece in pieces:
        driver.receive(piece)
    return driver


@given(ANYTHING, LANGUAGES, st.booleans())
def test_any_octets_give_events_or_a_protocol_error(
    octets: bytes, language: tuple[bool, bool], is_greeted: bool
) -> None:
    """Nothing a host says raises anything else, neither in the machine nor by making its driver break the order."""
    greeting = GREETED if is_greeted else []
    run([*greeting, octets], language)
    run([*greeting, *[octets[n : n + 1] for n in range(len(octets))]], language)


@settings(max_examples=300)
@given(st.lists(LINES.map(lambda line: line.encode() + b"\r\n"), max_size=25), LANGUAGES)
def test_each_line_in_its_own_time(lines: list[bytes], language: tuple[bool, bool]) -> None:
    """Replies that come one by one, in any order, keep the machine in order."""
    driver = run([*GREETED, *lines], language)
    is_lmtp, is_chunked = language

    for event in driver.seen:
        if isinstance(event, TransactionEnded):
            assert len(event.recipients) == len(RECIPIENTS)
            assert len(event.finals) in (0, len(RECIPIENTS) if is_lmtp else 0)
            assert event.final is None or not is_lmtp
            for reply, final in zip(event.recipients, event.finals, strict=False):
                assert final is None or (reply is not None and reply.code // 100 == 2)
            if event.final is not None or event.finals:
                assert is_chunked or event.data is not None
                assert event.data is None or event.data.code // 100 == 3
                assert any(reply is not None and reply.code // 100 == 2 for reply in event.recipients)
                assert event.mail.code // 100 == 2
    ends = [event for event in driver.seen if isinstance(event, TransactionEnded)]
    assert sum(end.final is not None or end.finals != () for end in ends) <= driver.dots


def scripted(n_recipients: int) -> st.SearchStrategy[list[str]]:
    """Give replies to MAIL, each RCPT, DATA and whatever dot follows, of any class."""
    code = st.sampled_from(["250", "451", "550", "421", "354"])
    return st.lists(code, min_size=n_recipients + 3, max_size=n_recipients + 3)


@given(scripted(2), st.lists(st.integers(0, 40), max_size=5), LANGUAGES)
def test_cuts_within_what_a_host_may_say_at_once_do_not_matter(
    codes: list[str], cuts: list[int], language: tuple[bool, bool]
) -> None:
    """The replies to one group give the same events and commands byte by byte, at once, or cut anywhere."""
    is_chunked = language[1]
    if is_chunked:
        codes = codes[:3] + codes[4:]  # there is no DATA
    group = "".join(f"{code} text\r\n" for code in codes[:-1]).encode()
    places = [0, *sorted(cuts), len(group)]
    ways = [
        [group],
        [group[n : n + 1] for n in range(len(group))],
        [group[a:b] for a, b in pairwise(places)],
    ]
    last = f"{codes[-1]} text\r\n".encode()

    outcomes = [run([*GREETED, *way, last], language) for way in ways]

    # A reply beyond the group is an error in any case, but which one depends on whether our next command was out.
    def without_detail(driver: Driver) -> list[object]:
        return ["error" if isinstance(event, str) else event for event in driver.seen]

    assert without_detail(outcomes[0]) == without_detail(outcomes[1]) == without_detail(outcomes[2])


@given(scripted(2))
def test_relayed_only_when_the_host_said_so_to_the_content(codes: list[str]) -> None:
    """A final 2xx is reported only when MAIL, a recipient, DATA and the content each got their proper reply."""
    driver = run([*GREETED, *[f"{code} text\r\n".encode() for code in codes]])
    ends = [event for event in driver.seen if isinstance(event, TransactionEnded)]

    delivered = [end for end in ends if end.final is not None and end.final.code == 250]
    proper = codes[0] == "250" and "250" in codes[1:3] and codes[3:] == ["354", "250"]
    if proper and not {"421", "354"} & set(codes[1:3]):
        assert len(delivered) == 1
    else:
        assert delivered == []


@given(st.lists(st.sampled_from(["good", "mail", "rcpt", "data", "dot"]), max_size=8))
def test_a_session_survives_any_series_of_refusals(series: list[str]) -> None:
    """Against a host that keeps the rules, one message's refusal never reaches another (44)."""
    host = StrictHost()
    client = SmtpClient()
    ends = []

    client.receive(b"220 hi\r\n")
    client.next_event()
    client.hello("relay.example")
    client.take_output()
    client.receive(b"250-mx\r\n250 PIPELINING\r\n")
    client.next_event()
    for fate in series:
        host.fate = fate
        client.begin(TRANSACTION)
        client.receive(host.answers(client.take_output()))
        while (event := client.next_event()) is not None:
            if isinstance(event, ContentWanted):
                client.content_end()
            if isinstance(event, TransactionEnded):
                ends.append(event)
            client.receive(host.answers(client.take_output()))

    assert [end.mail.code for end in ends] == [550 if fate == "mail" else 250 for fate in series]
    assert [end.final is not None and end.final.code == 250 for end in ends] == [fate == "good" for fate in series]
    assert all("out of sequence" not in str(reply) for end in ends for reply in (end.mail, end.final) if reply)


class StrictHost:
    """A host that keeps the sequence rules of RFC 5321 4.1.4 and refuses at the step that `fate` names."""

    def __init__(self) -> None:
        self.fate = "good"
        self._open = False
        self._recipients = 0

    def answers(self, commands: bytes) -> bytes:
        return b"".join(self._answer(command) for command in commands.split(b"\r\n")[:-1])

    def _answer(self, command: bytes) -> bytes:
        verbs: dict[bytes, Callable[[], bytes]] = {
            b"RSET": self._rset,
            b"MAIL": self._mail,
            b"RCPT": self._rcpt,
            b"DATA": self._data,
            b".": self._dot,
        }
        return verbs[command[:4]]()

    def _rset(self) -> bytes:
        self._open, self._recipients = False, 0
        return b"250 reset\r\n"

    def _mail(self) -> bytes:
        if self._open:
            return b"503 out of sequence: nested MAIL\r\n"
        self._open = self.fate != "mail"
        return b"250 ok\r\n" if self._open else b"550 no\r\n"

    def _rcpt(self) -> bytes:
        if not self._open:
            return b"503 need MAIL\r\n"
        if self.fate == "rcpt":
            return b"550 no such user\r\n"
        self._recipients += 1
        return b"250 ok\r\n"

    def _data(self) -> bytes:
        if not self._recipients:
            return b"503 need RCPT\r\n"
        return b"451 not now\r\n" if self.fate == "data" else b"354 go\r\n"

    def _dot(self) -> bytes:
        self._rset()
        return b"554 spam\r\n" if self.fate == "dot" else b"250 queued\r\n"


@given(st.binary(max_size=300))
def test_memory_stays_bounded(octets: bytes) -> None:
    """However long a host talks, the machine ends it instead of keeping it."""
    driver = Driver()
    for _ in range(1500):
        driver.receive(b"250-" + octets)

    assert driver.client.is_closed


@given(SPOKEN)
def test_no_password_in_errors(octets: bytes) -> None:
    """No error text carries what AUTH sent."""
    driver = run([b"220 hi\r\n", b"250-mx\r\n250 AUTH PLAIN\r\n", octets])

    assert not any("AHVzZXIAc2VjcmV0" in event for event in driver.seen if isinstance(event, str))


# Text with what would end a command, begin a parameter or be read as either, more often than chance has it.
EVIL = st.one_of(
    st.text(max_size=30),
    st.lists(
        st.sampled_from(["a", "@", "rfc822;", "utf-8;", "+41", "+0A", "+", "=", " ", "\r\n", "\n", "\r", "\0", ">", '"',
                         "\\", "é", "\u2028", "RCPT TO:<x@y>", "QUIT", "SUCCESS", ","]),
        max_size=8,
    ).map("".join),
)  # fmt: skip
REQUESTS = st.builds(DsnRequest, st.integers(0, 15).map(Notify), EVIL)


@settings(max_examples=300)
@given(
    st.builds(
        Transaction, EVIL, st.lists(EVIL, min_size=1, max_size=3).map(tuple), st.just(1), st.sampled_from(Body),
        st.booleans(), EVIL | st.sampled_from(["FULL", "HDRS"]), EVIL, st.booleans(),
        st.lists(REQUESTS, max_size=3).map(tuple),
    ),
    st.booleans(),
)  # fmt: skip
def test_any_envelope_gives_whole_commands_or_none(sent: Transaction, is_lmtp: bool) -> None:
    """However strange an envelope, exactly its commands leave, each of one line, or nothing at all."""
    client = SmtpClient(is_lmtp=is_lmtp)
    client.receive(b"220\r\n")
    client.next_event()
    client.hello("r")
    offers = ["PIPELINING", "SMTPUTF8", "DSN", "REQUIRETLS", "CHUNKING", "BINARYMIME", "8BITMIME"]
    client.receive("".join([f"250-{offer}\r\n" for offer in ("mx", *offers)]).encode() + b"250 HELP\r\n")
    client.next_event()
    client.take_output()

    try:
        client.begin(sent)
    except LocalProtocolError:
        assert client.take_output() == b""
        assert client.is_idle
        return

    written = client.take_output()
    verbs = [b"MAIL", *[b"RCPT"] * len(sent.recipients), *([] if sent.body is Body.BINARY_MIME else [b"DATA"])]
    assert [command[:4] for command in written.split(b"\r\n")] == [*verbs, b""]
    assert not any(octet < 0x20 or octet == 0x7F for octet in written.replace(b"\r\n", b""))
    written.decode("utf-8")


@given(EVIL, EVIL, EVIL, st.sampled_from(["PLAIN", "LOGIN"]))
def test_a_name_and_credentials_give_whole_commands_or_none(
    name: str, username: str, password: str, mechanism: str
) -> None:
    """Neither the name we greet with nor a password can be more than one argument of its command."""
    client = SmtpClient()
    client.receive(b"220\r\n")
    client.next_event()
    written = []
    try:
        client.hello(name)
    except LocalProtocolError:
        assert client.take_output() == b""
        client.hello("r")
    written.append(client.take_output())
    client.receive(f"250-mx\r\n250 AUTH {mechanism}\r\n".encode())
    client.next_event()

    try:
        client.auth_plain(Credentials(username, password))
    except LocalProtocolError:
        assert client.take_output() == b""
    for answer in (b"334 go\r\n", b"334 go\r\n", b"235 ok\r\n") if mechanism == "LOGIN" else (b"235 ok\r\n",):
        if output := client.take_output():
            written.append(output)
            client.receive(answer)
            client.next_event()

    for command in written:
        assert command.endswith(b"\r\n")
        assert command.count(b"\r") == command.count(b"\n") == 1
        assert b"\0" not in command
        assert command.count(b" ") <= 2
