# SPDX-License-Identifier: MIT
"""A driver of the server machine with a simple policy, for tests that read like conversations."""

from collections.abc import Sequence

from smarthost.mail.address import Address, Domain
from smarthost.mail.envelope import Body
from smarthost.mail.reply import Reply, reply
from smarthost.smtp.server import Offer, ServerSettings, SmtpServer
from smarthost.smtp.wire import (
    AuthReceived,
    ChunkEnded,
    ContentEnded,
    ContentReceived,
    DataReceived,
    HelloReceived,
    MailReceived,
    RcptReceived,
    ServerEvent,
    StarttlsReceived,
    XclientReceived,
)

SETTINGS = ServerSettings(hostname="mx.example.org", max_octets=100_000, max_recipients=100, max_errors=5)
BANNER = reply(220, "", "mx.example.org ESMTP")
SENDER = Address("a@b.example", Domain("b.example"))
RECIPIENT = Address("c@d.example", Domain("d.example"))
MAIL = MailReceived(SENDER, None, Body.SEVEN_BIT, False)
HELLO = "EHLO client.example"
OPEN = (HELLO, "MAIL FROM:<a@b.example>")
ADDRESSED = (*OPEN, "RCPT TO:<c@d.example>")
ALL = Offer(starttls=True, auth=("PLAIN", "LOGIN"), requiretls=True, xclient=True)


class Session:
    """Recipients and senders whose local part begins with "no" get 550, with "later" 450; one user, one password."""

    def __init__(self, settings: ServerSettings = SETTINGS, banner: Reply = BANNER, offer: Offer | None = None) -> None:
        self.machine = SmtpServer(settings) if offer is None else SmtpServer(settings, offer)
        self.machine.greet(banner)
        self.banner = self.machine.take_output()
        self.events: list[ServerEvent] = []

    @property
    def content(self) -> bytes:
        """All content received so far."""
        return b"".join(event.octets for event in self.events if isinstance(event, ContentReceived))

    def send(self, octets: bytes) -> str:
        """Give what the machine says to these octets, with bars between the lines."""
        self.machine.receive(octets)
        return self.go_on()

    def go_on(self) -> str:
        while (event := self.machine.next_event()) is not None:
            self.events.append(event)
            self.answer(event)
        return self.machine.take_output().decode().removesuffix("\r\n").replace("\r\n", " | ")

    def say(self, *lines: str) -> list[str]:
        """Send lines one by one; give the replies."""
        return [self.send(f"{line}\r\n".encode()) for line in lines]

    def answer(self, event: ServerEvent) -> None:
        machine = self.machine
        match event:
            case HelloReceived():
                machine.accept_hello()
            case MailReceived():
                machine.reply(_judge(event.reverse_path, "2.1.0"))
            case RcptReceived(recipient):
                machine.reply(_judge(recipient, "2.1.5"))
            case DataReceived():
                machine.accept_data()
            case ContentEnded(defect):
                machine.reply(defect or reply(250, "2.0.0", "Queued"))
            case ChunkEnded(octets):
                machine.reply(reply(250, "2.0.0", f"{octets} octets"))
            case StarttlsReceived():
                machine.accept_starttls()
            case AuthReceived(_, username, password):
                is_known = (username, password) == ("jürgen", "päss word")
                machine.reply(reply(235, "2.7.0", "Welcome") if is_known else reply(535, "5.7.8", "No"))
            case XclientReceived():
                machine.reply(BANNER)
            case _:
                assert not machine.is_waiting


def _judge(address: Address | None, status: str) -> Reply:
    text = "" if address is None else address.text
    if text.startswith("no"):
        return reply(550, "5.7.1", "No")
    if text.startswith("later"):
        return reply(450, "4.7.1", "Later")
    return reply(250, status, "Ok")


def codes(replies: Sequence[str]) -> list[str]:
    """Give code and enhanced code of each reply line."""
    return [" ".join(line.split(" ")[:2]) for said in replies for line in said.split(" | ")]
