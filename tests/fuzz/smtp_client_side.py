# SPDX-License-Identifier: MIT
"""What hosts say: the client machine at all its steps, the reader of replies, and that of EHLO answers."""

from collections.abc import Iterable
from random import Random

from tests.fuzz.inputs import Target, cut

from smarthost.mail.envelope import Body, DsnRequest, Notify
from smarthost.mail.errors import RemoteProtocolError
from smarthost.mail.hop import Credentials
from smarthost.mail.reply import Reply
from smarthost.smtp.client import SmtpClient, Transaction
from smarthost.smtp.extensions import parse_extensions
from smarthost.smtp.replies import REPLY_LINES, ReplyParser
from smarthost.smtp.steps import Step
from smarthost.smtp.wire import BannerReceived, ClientEvent, ContentWanted, HelloAnswered, TransactionEnded

_CREDENTIALS = Credentials("user", "secret")
_PIECES = (b"Subject: x\r\n\r\n", b".dot\r\n", b"body\r\n")
_REQUEST = DsnRequest(Notify.FAILURE, "rfc822;bob@example.org")


class _Host:
    """A driver that asks for all a session can do, in the order that send.session would."""

    def __init__(self, random: Random) -> None:
        self.machine = SmtpClient(is_lmtp=random.random() < 0.3)
        self._plan = ["hello", *(["starttls", "hello"] if random.random() < 0.4 else [])]
        self._plan += ["auth"] * (random.random() < 0.4)
        self._plan += ["begin"] * random.randint(1, 3) + ["quit"]
        self._random = random
        self._is_over = False
        self._said = 0

    def take(self, chunk: bytes) -> None:
        self.machine.receive(chunk)
        self.turn()

    def turn(self) -> None:
        machine = self.machine
        try:
            while True:
                while (event := machine.next_event()) is not None:
                    self._hear(event)
                if machine.is_closed:
                    break
                if machine.step is Step.TLS:
                    machine.secured()
                elif machine.is_idle and self._plan:
                    self._say(self._plan.pop(0))
                else:
                    break
        except RemoteProtocolError:
            assert machine.is_closed
        heard = machine.heard
        assert heard is None or isinstance(heard, TransactionEnded)
        self._said += len(machine.take_output())
        assert self._said <= 20_000, "a host cannot make us talk without end"

    def _hear(self, event: ClientEvent) -> None:
        match event:
            case ContentWanted():
                self._send_content()
            case BannerReceived(reply) | HelloAnswered(reply) if not reply.is_positive:
                self._plan.clear()
            case TransactionEnded(mail, recipients, _, _, finals):
                for each in (mail, *recipients, *finals):
                    if each is not None:
                        _check_reply(each)
                assert not finals or len(finals) == len(recipients)

    def _send_content(self) -> None:
        machine, pieces = self.machine, list(_PIECES)
        while pieces and machine.takes_content:
            self._said += sum(map(len, machine.content([pieces.pop(0)])))
        if not pieces or not machine.takes_content:
            machine.content_end()

    def _say(self, verb: str) -> None:
        machine, offered = self.machine, self.machine.extensions
        match verb:
            case "hello":
                machine.hello("relay.example")
            case "starttls" if offered is not None and offered.starttls:
                machine.starttls()
            case "auth" if offered is not None and offered.offers_usable_auth:
                machine.auth_plain(_CREDENTIALS)
            case "begin" if offered is not None and not offered.refuses_size(100):
                body = Body.BINARY_MIME if offered.takes_binary and self._random.random() < 0.5 else Body.EIGHT_BIT_MIME
                recipients = tuple(f"u{n}@d.example" for n in range(self._random.choice((1, 2, 3, 102))))
                requests = (_REQUEST,) * len(recipients) if self._random.random() < 0.5 else ()
                machine.begin(
                    Transaction("a@b", recipients, 100, body, False, "HDRS", "x", offered.requiretls, requests)
                )
            case "quit":
                machine.quit()


def _check_client(octets: bytes, random: Random) -> None:
    host = _Host(random)
    if random.random() < 0.8:  # a host that waits for its turn
        for line in octets.split(b"\n"):
            host.take(line + b"\n")
    else:
        for chunk in cut(octets, random):
            host.take(chunk)


def _check_reply(reply: Reply) -> None:
    assert 200 <= reply.code < 600
    assert 0 < len(reply.lines) <= REPLY_LINES
    assert all(line.isprintable() or not line for line in reply.lines)
    assert not reply.enhanced or reply.enhanced[0] == str(reply.code)[0]


def _read_replies(chunks: Iterable[bytes]) -> list[Reply | str]:
    parser, found = ReplyParser(), list[Reply | str]()
    try:
        for chunk in chunks:
            parser.feed(chunk)
            while (reply := parser.next_reply()) is not None:
                _check_reply(reply)
                found.append(reply)
    except RemoteProtocolError:
        found.append("not SMTP")
    return found


def _check_replies(octets: bytes, random: Random) -> None:
    whole, pieces = _read_replies([octets]), _read_replies(cut(octets, random))
    if octets.endswith(b"\n"):  # else what may still be a line is refused when it is too long, in one piece or in many
        assert whole == pieces


def _check_extensions(octets: bytes, random: Random) -> None:
    for reply in _read_replies([octets]):
        if isinstance(reply, Reply):
            offered = parse_extensions(reply)
            assert offered.size is None or offered.size >= 0
            limits = (offered.most_recipients, offered.most_transactions, offered.most_recipient_domains)
            assert all(limit is None or limit > 0 for limit in limits)
            assert all(len(each) <= 20 and each.isascii() for each in offered.auth)


_OFFERS = (
    b"250-mx\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-ENHANCEDSTATUSCODES\r\n"
    b"250-CHUNKING\r\n250-BINARYMIME\r\n250-DSN\r\n250-REQUIRETLS\r\n250-AUTH PLAIN LOGIN\r\n"
    b"250 LIMITS RCPTMAX=100 MAILMAX=2\r\n"
)
_TLS = _OFFERS.replace(b"250 LIMITS", b"250-STARTTLS\r\n250 LIMITS")
_TRANSACTION = b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go\r\n250 2.0.0 queued\r\n"
_DIALOGUES = (
    b"220 mx ESMTP\r\n" + _OFFERS + _TRANSACTION * 3 + b"221 bye\r\n",
    b"220 mx ESMTP\r\n" + _TLS + b"220 go\r\n" + _OFFERS + b"235 2.7.0 ok\r\n" + _TRANSACTION * 2,
    b"220 mx ESMTP\r\n250-mx\r\n250 AUTH LOGIN\r\n334 VXNlcm5hbWU6\r\n334 UGFzc3dvcmQ6\r\n235 ok\r\n" + _TRANSACTION,
    b"220 mx\r\n500 what?\r\n250 mx\r\n" + b"250 ok\r\n550 5.1.1 no\r\n503 no\r\n250 reset\r\n" + _TRANSACTION,
    b"220 mx\r\n" + _OFFERS + b"250 ok\r\n" + b"250 ok\r\n" * 3 + b"250 3 octets\r\n" * 3 + b"250 done\r\n452 full\r\n",
    b"220 mx\r\n" + _OFFERS + b"250 ok\r\n450 4.2.0 later\r\n554 no\r\n421 4.3.2 bye\r\n",
    b"220 mx\r\n250 mx\r\n" + b"250 ok\r\n" * 103 + b"354 go\r\n250 ok\r\n",
    b"554 5.7.1 go away\r\n", b"521 mx does not accept mail\r\n",
)  # fmt: skip
_LINES = (
    b"250 ok\r\n", b"250-ok\r\n", b"250\r\n", b"354 go\r\n", b"220 go\r\n", b"221 bye\r\n", b"334 \r\n", b"235 ok\r\n",
    b"421 4.3.2 closing\r\n", b"450 4.2.1 later\r\n", b"452 4.2.2 full\r\n", b"500 what\r\n", b"503 no\r\n",
    b"535 5.7.8 no\r\n", b"550 5.1.1 nobody\r\n", b"552 5.3.4 large\r\n", b"199 x\r\n", b"600 x\r\n",
    b"250 5.0.0 x\r\n", b"250-STARTTLS\r\n", b"250-SIZE 99999999999999999999999\r\n", b"250-AUTH=LOGIN\r\n",
    b"250-LIMITS RCPTMAX=0\r\n",
    b"x" * 5000, b"\x1b[2J",
)  # fmt: skip

TARGETS = (
    Target("smtp-client", _check_client, _DIALOGUES, _LINES, 10_000),
    Target("replies", _check_replies, _DIALOGUES, _LINES, 15_000),
    Target("extensions", _check_extensions, (_OFFERS, _TLS), (*_LINES, b"SIZE", b"AUTH ", b"LIMITS ", b"="), 15_000),
)
