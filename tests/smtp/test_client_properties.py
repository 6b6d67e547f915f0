# SPDX-License-Identifier: MIT
"""The client machine against hosts that say anything at all, in any order, cut anywhere."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from smarthost.mail.envelope import Body
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


@dataclass
class Driver:
    """A driver that always knows something to ask, and notes all that happens."""

    client: SmtpClient = field(default_factory=SmtpClient)
    seen: list[object] = field(default_factory=list)
    written: bytes = b""
    dots: int = 0

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
                client.begin(TRANSACTION)
            case ContentWanted():
                self.written += b"".join(client.content([b".\r\nx"]))
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
        "250 AUTH LOGIN", "250 SIZE 100000", "250", "251 ok", "354 go", "334 VXNlcg==", "235 2.7.0 ok", "421 bye",
        "450 4.2.0 later", "452 4.5.3 many", "550 5.1.1 no", "552", "554 no valid recipients", "503 bad", "250-",
        "999 x", "garbage", "250 \x1b[31m", "221 bye",
    ]
)  # fmt: skip
SPOKEN = st.lists(LINES, max_size=30).map(lambda lines: "".join(f"{line}\r\n" for line in lines).encode())
ANYTHING = st.one_of(SPOKEN, st.binary(max_size=200), st.tuples(SPOKEN, st.binary(max_size=20)).map(b"".join))
GREETED = [b"220 hi\r\n", b"250-mx\r\n250 PIPELINING\r\n"]


def run(pieces: list[bytes]) -> Driver:
    driver = Driver()
    for piece in pieces:
        driver.receive(piece)
    return driver


@given(ANYTHING)
def test_any_octets_give_events_or_a_protocol_error(octets: bytes) -> None:
    """Nothing a host says raises anything else, neither in the machine nor by making its driver break the order."""
    run([octets])
    run([octets[n : n + 1] for n in range(len(octets))])


@settings(max_examples=300)
@given(st.lists(LINES.map(lambda line: line.encode() + b"\r\n"), max_size=25))
def test_each_line_in_its_own_time(lines: list[bytes]) -> None:
    """Replies that come one by one, in any order, keep the machine in order."""
    driver = run([*GREETED, *lines])

    for event in driver.seen:
        if isinstance(event, TransactionEnded):
            assert len(event.recipients) == len(RECIPIENTS)
            if event.final is not None:
                assert event.data is not None
                assert event.data.code // 100 == 3
                assert any(reply is not None and reply.code // 100 == 2 for reply in event.recipients)
                assert event.mail.code // 100 == 2
    assert sum(isinstance(event, TransactionEnded) and event.final is not None for event in driver.seen) <= driver.dots


def scripted(n_recipients: int) -> st.SearchStrategy[list[str]]:
    """Give replies to MAIL, each RCPT, DATA and whatever dot follows, of any class."""
    code = st.sampled_from(["250", "451", "550", "421", "354"])
    return st.lists(code, min_size=n_recipients + 3, max_size=n_recipients + 3)


@given(scripted(2), st.lists(st.integers(0, 40), max_size=5))
def test_cuts_within_what_a_host_may_say_at_once_do_not_matter(codes: list[str], cuts: list[int]) -> None:
    """The replies to one group give the same events and commands byte by byte, at once, or cut anywhere."""
    group = "".join(f"{code} text\r\n" for code in codes[:-1]).encode()
    places = [0, *sorted(cuts), len(group)]
    ways = [
        [group],
        [group[n : n + 1] for n in range(len(group))],
        [group[a:b] for a, b in pairwise(places)],
    ]
    last = f"{codes[-1]} text\r\n".encode()

    outcomes = [run([*GREETED, *way, last]) for way in ways]

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


@given(st.text(max_size=30), st.text(max_size=30), st.booleans())
def test_any_envelope_gives_whole_commands_or_none(reverse_path: str, recipient: str, smtputf8: bool) -> None:
    """However strange an address, exactly MAIL, RCPT and DATA leave, or nothing at all."""
    client = SmtpClient()
    client.receive(b"220\r\n")
    client.next_event()
    client.hello("r")
    client.receive(b"250-mx\r\n250-PIPELINING\r\n250 SMTPUTF8\r\n")
    client.next_event()
    client.take_output()

    try:
        client.begin(Transaction(reverse_path, (recipient,), 1, Body.SEVEN_BIT, smtputf8))
    except LocalProtocolError:
        assert client.take_output() == b""
        return

    assert [command[:4] for command in client.take_output().split(b"\r\n")] == [b"MAIL", b"RCPT", b"DATA", b""]
