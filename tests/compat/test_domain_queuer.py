# SPDX-License-Identifier: MIT
"""DomainQueuer: whom it relays for, and what a client of Twisted's SMTP server hears when the disk will not have it."""

import errno
import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.cred.checkers import AllowAnonymousAccess
from twisted.internet.address import HostnameAddress, IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport
from twisted.mail import smtp
from twisted.mail.mail import MailService

from smarthost.compat.queuer import DomainQueuer, QueuedMessage
from smarthost.compat.spool import Queue

LOCAL = IPv4Address("TCP", "127.0.0.1", 12345)
FAR = IPv4Address("TCP", "192.0.2.1", 12345)


class Service:
    """What DomainQueuer asks of a mail service."""

    def __init__(self, root: Path) -> None:
        self.queue = Queue(root)


class Peer:
    """A server protocol and its transport, as far as willRelay looks."""

    def __init__(self, address: Any) -> None:
        self.transport = self
        self.address = address

    def getPeer(self) -> Any:
        return self.address


class Recipient:
    """A user as applications fake it: addresses as text."""

    def __init__(self, orig: Any, dest: Any, protocol: Any) -> None:
        self.orig, self.dest, self.protocol = orig, dest, protocol

    def __str__(self) -> str:
        return str(self.dest)


class Delivery:
    """Lets a server take mail for whatever a DomainQueuer lets pass."""

    def __init__(self, domain: DomainQueuer) -> None:
        self.domain = domain

    def receivedHeader(self, helo: Any, origin: Any, recipients: Any) -> bytes:
        return b"Received: from a client"

    def validateFrom(self, helo: Any, origin: Any) -> Any:
        return origin

    def validateTo(self, user: Any) -> Any:
        return self.domain.exists(user)


class Client:
    """A client of a real server protocol, over a transport in memory."""

    def __init__(self, server: Any, address: Any = LOCAL) -> None:
        self.server = server
        self.transport = StringTransport(peerAddress=address)
        server.timeout = None  # no reactor here
        server.makeConnection(self.transport)
        self.say("HELO client.example")

    def say(self, *lines: str | bytes) -> list[str]:
        """Send lines in one segment; give the replies to all of them."""
        self.transport.clear()
        octets = [line if isinstance(line, bytes) else line.encode() for line in lines]
        self.server.dataReceived(b"".join(line + b"\r\n" for line in octets))
        return [reply.decode() for reply in self.transport.value().splitlines()]

    def codes(self, *lines: str | bytes) -> list[str]:
        return [reply[:3] for reply in self.say(*lines)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A queue directory."""
    directory = tmp_path / "queue"
    directory.mkdir()
    return directory


@pytest.fixture
def service(root: Path) -> Service:
    """A service with a queue."""
    return Service(root)


@pytest.fixture
def client(service: Service, lines: list[str]) -> Client:
    """A client on this machine, greeted; its server logs no error."""
    return Client(smtp.SMTP(Delivery(DomainQueuer(service))))


def queued(service: Service) -> list[tuple[list[str], bytes]]:
    service.queue.readDirectory()
    return [
        (service.queue.getEnvelope(name), Path(service.queue.getPath(name) + "-D").read_bytes())
        for name in service.queue.getWaiting()
    ]


def fail(
    monkeypatch: pytest.MonkeyPatch, call: str, number: int, where: Callable[[str], bool] = lambda path: True
) -> None:
    """Have a call of os fail for some files."""
    real = getattr(os, call)

    def failing(target: Any, *arguments: Any, **others: Any) -> Any:
        path = str(Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else Path(target))
        if where(path):
            raise OSError(number, os.strerror(number), path)
        return real(target, *arguments, **others)

    monkeypatch.setattr(os, call, failing)


def nth(suffix: str, number: int) -> Callable[[str], bool]:
    """Pick the nth file of a kind."""
    counted = itertools.count(1)
    return lambda path: path.endswith(suffix) and next(counted) == number


# ---- whom we relay for


@pytest.mark.parametrize(
    "peer",
    [
        UNIXAddress("/var/run/mail-relay"),
        UNIXAddress(None),
        LOCAL,
        IPv4Address("TCP", "127.9.9.9", 1),
        IPv6Address("TCP", "::1", 1),
        IPv6Address("TCP", "::ffff:127.0.0.1", 1),
    ],
    ids=str,
)
def test_clients_on_this_machine_are_relayed_for(service: Service, peer: Any) -> None:
    """UNIX sockets and the whole of loopback, of both families."""
    domain = DomainQueuer(service)

    assert domain.willRelay("b@c", Peer(peer)) is True
    assert callable(domain.exists(Recipient("user@host", "tsoh@resu", Peer(peer))))


@pytest.mark.parametrize(
    "peer",
    [
        FAR,
        IPv4Address("TCP", "1.2.3.4", 1943),
        IPv4Address("TCP", "128.0.0.1", 1),
        IPv6Address("TCP", "2001:db8::1", 1),
        IPv6Address("TCP", "fe80::1%eth0", 1),
        IPv6Address("TCP", "::ffff:192.0.2.1", 1),
        IPv4Address("TCP", "127.0.0.1.example", 1),
        IPv4Address("TCP", "", 1),
        IPv4Address("TCP", cast("str", b"\x7f\x00\x00\x01"), 1),
        HostnameAddress(b"localhost", 1),
        None,
    ],
    ids=repr,
)
def test_nobody_else_is_relayed_for_unless_authenticated(service: Service, peer: Any) -> None:
    """No open relay: other peers, and peers without an address, are refused; authenticated users are not."""
    user = Recipient("some@place", "who@cares", Peer(peer))

    assert DomainQueuer(service).willRelay("b@c", Peer(peer)) is False
    with pytest.raises(smtp.SMTPBadRcpt):
        DomainQueuer(service).exists(user)
    assert DomainQueuer(service, True).willRelay("b@c", Peer(peer)) is True
    assert callable(DomainQueuer(service, authenticated=True).exists(user))


def test_the_attributes_are_the_original_s(service: Service) -> None:
    """Programs look at service and authed."""
    domain = DomainQueuer(service, True)

    assert (domain.service, domain.authed) == (service, True)
    assert DomainQueuer(service).authed is False


@pytest.mark.parametrize(
    "dest", ["", "<>", "user", "@host", "user@", '"x@y"@', "@", "a b", "usér@host", "a\r@b", "a\n@b", "a@b\0"]
)
def test_a_recipient_needs_a_local_part_and_a_domain(service: Service, dest: str) -> None:
    """What could not be sent anywhere, or would reach into the next server's commands, is refused at RCPT."""
    with pytest.raises(smtp.SMTPBadRcpt):
        DomainQueuer(service, True).exists(Recipient("a@b", dest, None))


@pytest.mark.parametrize("orig", ["sender", "@host", "sender@", "sendér@host", "a\r\n@b"])
def test_a_sender_needs_both_parts_too(service: Service, orig: str) -> None:
    """A report to such a sender could go nowhere."""
    with pytest.raises(smtp.SMTPBadRcpt):
        DomainQueuer(service, True).exists(Recipient(orig, "c@d", None))


LONG = "x" * 1100 + "@a.example"


@pytest.mark.parametrize(
    ("orig", "dest"),
    [
        (LONG, "c@d"),
        ("a\\@b@a.example", "c@d"),
        ("a>b@a.example", "c@d"),
        ("a b@a.example", "c@d"),
        ("a@b", LONG),
        ("a@b", "c\\@d@e.example"),
        ("a@b", "c d@e.example"),
        ("a@b", "c@" + "d" * 70 + ".example"),
        ("a@b", "c@d e"),
    ],
)
def test_what_the_relaying_side_could_not_say_or_route_is_refused_here(service: Service, orig: str, dest: str) -> None:
    """Refused while its client can be told: accepted, it would be set aside for ever or come back."""
    with pytest.raises(smtp.SMTPBadRcpt):
        DomainQueuer(service, True).exists(Recipient(orig, dest, None))


@pytest.mark.parametrize("orig", [LONG, r"a\@b@a.example"])
def test_a_client_hears_550_for_a_sender_that_could_not_be_passed_on(client: Client, root: Path, orig: str) -> None:
    """Twisted's server lets it pass MAIL; nothing is acknowledged, and nothing written."""
    assert client.codes(f"MAIL FROM:<{orig}>", "RCPT TO:<c@d.example>", "DATA") == ["250", "550", "503"]
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    "dest", ["c@[192.0.2.1]", "c@[IPv6:2001:db8::1]", "c@D.Example", '"x<y>"@b.example', "a..b@c", "<c@d>", " c@d "]
)
def test_whatever_the_relaying_side_takes_is_accepted(service: Service, dest: str) -> None:
    """Literals, odd but usable local parts, and brackets of a program that left them on; the sender alike."""
    domain = DomainQueuer(service, True)

    assert callable(domain.exists(Recipient(dest, dest, None)))


@pytest.mark.parametrize("make", [lambda text: text, smtp.Address], ids=["text", "Address"])
@pytest.mark.parametrize("orig", ["", "<>", "a@b", '"a b@c"@d.example'])
def test_a_null_sender_and_quoted_parts_are_accepted(service: Service, make: Callable[[str], Any], orig: str) -> None:
    """Bounces pass (the original refused them), addresses as text or as smtp.Address, and an @ may be quoted."""
    domain = DomainQueuer(service, True)
    user = Recipient(make(orig), make('"x@y"@z.example'), None)

    message = domain.exists(user)()
    message.lineReceived(b"hello")
    message.eomReceived()

    assert queued(service) == [(["" if orig == "<>" else orig, '"x@y"@z.example'], b"hello\n")]


# ---- the whole way in, with Twisted's server


def test_a_message_is_in_the_queue_when_the_client_hears_250(client: Client, service: Service) -> None:
    """MAIL to the final dot, for two recipients: two messages, each with its envelope."""
    assert client.codes("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "RCPT TO:<e@f.example>") == ["250"] * 3
    assert client.codes("DATA") == ["354"]

    assert client.codes("Subject: x", "", "..hello", ".") == ["250"]

    content = b"Received: from a client\nSubject: x\n\n.hello\n"
    assert sorted(queued(service)) == [
        (["a@b.example", "c@d.example"], content),
        (["a@b.example", "e@f.example"], content),
    ]


def test_a_bounce_is_accepted(client: Client, service: Service) -> None:
    """A null reverse-path is a sender like others (RFC 5321 section 4.5.5)."""
    client.say("MAIL FROM:<>", "RCPT TO:<c@d.example>", "DATA")

    assert client.codes("report", ".") == ["250"]
    assert queued(service)[0][0] == ["", "c@d.example"]


def test_a_stranger_hears_550(service: Service, root: Path) -> None:
    """A client from elsewhere is refused at RCPT, and nothing is written."""
    client = Client(smtp.SMTP(Delivery(DomainQueuer(service))), FAR)

    assert client.codes("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA") == ["250", "550", "503"]
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("address", [b'<"c\nDATA\n"@d.example>', b'<"c\xff"@d.example>', b'<"c\rd"@d.example>'])
def test_an_address_that_would_reach_into_commands_is_refused(client: Client, address: bytes) -> None:
    """Line feeds and 8-bit octets pass Twisted's grammar in quotes; they hear 550, and the log no error."""
    assert client.codes("MAIL FROM:<a@b.example>", b"RCPT TO:" + address) == ["250", "550"]
    client.say("RSET")
    assert client.codes(b"MAIL FROM:" + address, "RCPT TO:<c@d.example>") == ["250", "550"]


def test_a_connection_lost_in_the_middle_leaves_nothing(client: Client, root: Path) -> None:
    """Half a message is no message, and its files are gone."""
    client.say("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "RCPT TO:<e@f.example>", "DATA", "half")
    assert len(list(root.iterdir())) == 4

    client.server.connectionLost(None)

    assert list(root.iterdir()) == []


def test_the_log_has_one_line_a_message_if_it_is_wanted(client: Client, service: Service, lines: list[str]) -> None:
    """A quiet queue is quiet; long addresses are cut."""
    client.server.noisy = False
    for noisy in (True, False):
        service.queue.noisy = noisy
        client.say("MAIL FROM:<a@b.example>", f"RCPT TO:<{'c' * 500}@d.example>", "DATA", "x", ".")

    (line,) = lines
    assert re.fullmatch(rf"queueing [0-9_.]+ from 'a@b.example' to '{'c' * 100}'", line)


# ---- trouble of ours


@pytest.mark.parametrize(
    ("number", "reply"),
    [
        (errno.ENOSPC, "452 4.3.1 "),
        (errno.EDQUOT, "452 4.3.1 "),
        (errno.EIO, "451 4.3.0 "),
        (errno.EROFS, "451 4.3.0 "),
    ],
)
@pytest.mark.parametrize("suffix", ["-H", "-C"])
def test_a_disk_that_is_full_at_the_start_is_temporary(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], number: int, reply: str, suffix: str
) -> None:
    """DATA is refused for the moment, nothing is left, and the session goes on."""
    if suffix == "-H":
        fail(monkeypatch, "fsync", number, lambda path: path.endswith("-H"))
    else:
        refuse_to_open(monkeypatch, number)

    replies = client.say("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "RCPT TO:<e@f.example>", "DATA")

    assert [answer[:10] for answer in replies[:3]] == ["250 Sender", "250 Recipi", "250 Recipi"]
    assert replies[3].startswith(reply)
    assert len(replies) == 4
    assert list(root.iterdir()) == []
    assert len([line for line in lines if os.strerror(number) in line]) == 1
    monkeypatch.undo()
    assert client.codes("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA") == ["250", "250", "354"]
    assert client.codes("x", ".") == ["250"]


def refuse_to_open(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    real = Path.open

    def failing(self: Path, *arguments: Any, **others: Any) -> Any:
        if self.name.endswith("-C"):
            raise OSError(number, os.strerror(number), str(self))
        return real(self, *arguments, **others)

    monkeypatch.setattr(Path, "open", failing)


def test_the_second_recipient_failing_at_the_start_takes_the_first_along(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction is refused as a whole, so nothing of it may stay."""
    fail(monkeypatch, "fsync", errno.EIO, nth("-H", 2))

    assert client.codes("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "RCPT TO:<e@f.example>", "DATA")[3] == "451"

    assert list(root.iterdir()) == []


def fill_disk(message: Any, at: int) -> None:
    """Have the content file of a message of the queue fail from a line on, as a full disk does."""
    taken = 0
    real = message.message.fp

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def write(self, octets: bytes) -> int:
            nonlocal taken
            taken += 1
            if taken > at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return cast("int", real.write(octets))

    message.message.fp = Full()


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_disk_that_is_full_in_the_middle_is_temporary(
    client: Client, service: Service, root: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], at: int
) -> None:
    """452 at DATA or at the final dot, two recipients, nothing left, and the next transaction passes."""
    start = DomainQueuer.startMessage

    def start_small(self: DomainQueuer, user: Any) -> Any:
        message = start(self, user)
        if str(user.dest) == "e@f.example":
            fill_disk(message, at)
        return message

    monkeypatch.setattr(DomainQueuer, "startMessage", start_small)
    client.say("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "RCPT TO:<e@f.example>")

    replies = client.say("DATA")
    if at:  # the first line is Received, which the server writes before 354
        assert replies[0][:3] == "354"
        replies = client.say("one", "two", "three", "four", ".")

    assert [reply[:10] for reply in replies] == ["452 4.3.1 "]
    assert list(root.iterdir()) == []
    assert len([line for line in lines if "No space left" in line]) == 1
    client.say("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA")
    assert client.codes("x", ".") == ["250"]
    client.server.connectionLost(None)
    assert len(queued(service)) == 1


@pytest.mark.parametrize("recipients", [1, 2])
@pytest.mark.parametrize("where", ["-C", "queue"])
def test_a_disk_that_fails_at_the_end_hangs_up_with_421_once(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], recipients: int, where: str
) -> None:
    """Not 550, which would bounce: 421, once, the connection ends, nothing pipelined is answered, nothing is kept."""
    client.say("MAIL FROM:<a@b.example>", *[f"RCPT TO:<c{n}@d.example>" for n in range(recipients)], "DATA", "x")
    fail(monkeypatch, "fsync", errno.EIO, lambda path: path.endswith(where))

    replies = client.say(".", "NOOP", "MAIL FROM:<a@b.example>")

    assert [reply[:10] for reply in replies] == ["421 4.3.0 "]
    assert client.transport.disconnecting
    assert list(root.iterdir()) == []
    assert len([line for line in lines if "Input/output error" in line]) == 1


@pytest.mark.parametrize("failing", [1, 2])
def test_one_of_two_recipients_failing_at_the_end_is_never_a_loss(
    client: Client, service: Service, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """The client will come again for both: the one kept before the failure is a duplicate then, one after it is not."""
    client.say("MAIL FROM:<a@b.example>", "RCPT TO:<c1@d.example>", "RCPT TO:<c2@d.example>", "DATA", "x")
    fail(monkeypatch, "fsync", errno.EIO, nth("-C", failing))

    assert client.codes(".") == ["421"]

    assert [envelope[1] for envelope, _ in queued(service)] == (["c1@d.example"] if failing == 2 else [])


def test_two_that_fail_later_say_421_once(client: Client, lines: list[str]) -> None:
    """A queue that takes its time over the end of a message: the second failure finds the session ended, is silent."""
    ends = [Deferred[str](), Deferred[str]()]

    class Slow:
        def __init__(self, end: "Deferred[str]") -> None:
            self.eomReceived = lambda: end

    receivers = [QueuedMessage(Slow(end), client.server) for end in ends]
    client.transport.clear()
    for receiver in receivers:
        receiver.eomReceived()

    for end in ends:
        end.errback(OSError(errno.EIO, "Input/output error"))

    assert client.transport.value().count(b"421 4.3.0 ") == 1
    assert client.transport.disconnecting
    assert len([line for line in lines if "Input/output error" in line]) == 2


def test_the_server_hears_neither_success_nor_failure_of_what_could_not_be_kept(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receiver's Deferred neither fires nor fails: the server can say neither 250 nor 550."""
    said: list[Any] = []

    class Talker(Peer):
        def sendCode(self, code: int, message: bytes) -> None:
            said.append((code, message[:6]))

        def loseConnection(self) -> None:
            said.append("closed")

    message = DomainQueuer(service).startMessage(Recipient("a@b", "c@d", Talker(LOCAL)))
    fail(monkeypatch, "rename", errno.EROFS)
    fired: list[Any] = []

    message.eomReceived().addBoth(fired.append)

    assert said == [(421, b"4.3.0 "), "closed"]
    assert fired == []


def test_a_protocol_that_cannot_send_codes_gets_the_failure(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program with a protocol of its own, or none, sees the error itself."""
    message = DomainQueuer(service).startMessage(Recipient("a@b", "c@d", None))
    fail(monkeypatch, "rename", errno.EROFS)
    failed: list[Any] = []

    message.eomReceived().addErrback(failed.append)

    assert failed[0].check(OSError)


def test_the_receiver_is_what_the_server_expects(service: Service) -> None:
    """It provides IMessage, and passes the final name on."""
    message = DomainQueuer(service).startMessage(Recipient("a@b", "c@d", None))
    assert smtp.IMessage.providedBy(message)
    fired: list[str] = []

    done = message.eomReceived().addCallback(fired.append)

    assert isinstance(done, Deferred)
    assert fired[0].endswith("-D")


# ---- Twisted's mail service around it


def test_mail_reaches_the_queue_through_twisted_s_mail_service(root: Path) -> None:
    """MailService, getSMTPFactory, anonymous login and the default domain: a local client's mail is queued."""
    service = MailService()
    queue = Queue(root)
    service.setQueue(queue)
    service.domains.setDefaultDomain(DomainQueuer(service))
    service.smtpPortal.registerChecker(cast("Any", AllowAnonymousAccess()))
    factory = service.getSMTPFactory()
    client = Client(factory.buildProtocol(LOCAL))

    assert client.codes("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA") == ["250", "250", "354"]
    assert client.codes("Subject: x", "", "hello", ".") == ["250"]

    queue.readDirectory()
    assert [queue.getEnvelope(name) for name in queue.getWaiting()] == [["a@b.example", "c@d.example"]]
