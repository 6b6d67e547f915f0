# SPDX-License-Identifier: MIT
"""What clients send: the server machine, grammar, the readers of lines, content and chunks, SASL, XCLIENT, xtext."""

import re
from random import Random

from tests.fuzz.inputs import Target, cut

from smarthost.mail.address import Address
from smarthost.mail.envelope import Body
from smarthost.mail.reply import Reply, reply
from smarthost.smtp.chunks import Chunk, ChunkReader, parse_chunk
from smarthost.smtp.exchange import Transaction, compose
from smarthost.smtp.extensions import Extensions
from smarthost.smtp.grammar import parse_hello, parse_mail, parse_rcpt
from smarthost.smtp.limits import CONTENT_PIECE_OCTETS, DISCARD_OCTETS
from smarthost.smtp.lines import ContentReader, Fault, InputBuffer
from smarthost.smtp.offer import Offer, ServerSettings
from smarthost.smtp.sasl import Challenge, SaslExchange
from smarthost.smtp.server import SmtpServer
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
from smarthost.smtp.xclient import parse_xclient
from smarthost.smtp.xtext import decode_xtext, is_xtext

_ALL = Offer(starttls=True, auth=("PLAIN", "LOGIN"), requiretls=True, xclient=True)
_BANNER = reply(220, "", "mx.example")
_NOES = (reply(550, "5.7.1", "No"), reply(450, "4.7.1", "Later"), reply(421, "4.3.2", "Bye"))
_REPLY_LINE = re.compile(rb"[2-5][0-9][0-9][ -][ -~]{0,506}\r\n")
_HARMFUL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_EVERYTHING = Extensions(
    pipelining=True, size=0, eight_bit_mime=True, smtputf8=True, chunking=True, binarymime=True, dsn=True,
    requiretls=True,
)  # fmt: skip


class _Session:
    """A driver that says yes, or now and then no."""

    def __init__(self, settings: ServerSettings, offer: Offer, moods: list[int]) -> None:
        self.machine = SmtpServer(settings, offer)
        self.machine.greet(_BANNER)
        self.output = b""
        self._moods = iter(moods)
        self._most = settings.max_octets
        self._content = 0

    def take(self, chunk: bytes) -> None:
        machine = self.machine
        machine.receive(chunk)
        while (event := machine.next_event()) is not None:
            self._answer(event)
        self.output += machine.take_output()
        assert machine.buffered <= max(CONTENT_PIECE_OCTETS, DISCARD_OCTETS), "octets pile up"
        assert machine.is_closed or not machine.is_waiting, "an event was answered and is still due"

    def _answer(self, event: ServerEvent) -> None:
        machine = self.machine
        if isinstance(event, ContentReceived):
            self._content += len(event.octets)
            assert self._content <= self._most, "more content than is accepted here"
        if isinstance(event, (ResetReceived, QuitReceived, HangUp, ContentReceived, BdatReceived)):
            assert not machine.is_waiting
            return
        mood = next(self._moods, 0)
        match event:
            case _ if mood:
                machine.reply(_NOES[mood - 1])
            case HelloReceived(_, name):
                assert _HARMFUL.search(name) is None
                machine.accept_hello()
            case DataReceived():
                machine.accept_data()
            case StarttlsReceived():
                machine.accept_starttls()
            case MailReceived():
                self._content = 0
                _check_mail(event)
                machine.reply(reply(250, "2.1.0", "Ok"))
            case RcptReceived():
                _check_address(event.recipient)
                machine.reply(reply(250, "2.1.5", "Ok"))
            case AuthReceived(_, username, password):
                assert username, "a claim has a name"
                assert _HARMFUL.search(username + password) is None
                machine.reply(reply(235, "2.7.0", "Welcome"))
            case XclientReceived():
                machine.reply(_BANNER)
            case ContentEnded(defect):
                machine.reply(defect or reply(250, "2.0.0", "Queued"))
            case ChunkEnded(octets):
                machine.reply(reply(250, "2.0.0", f"{octets} octets"))
            case _:
                raise AssertionError(f"{event} is known to nobody")


def _check_session(octets: bytes, random: Random, *, is_lmtp: bool) -> None:
    settings = ServerSettings(
        "mx.example", random.choice((2_000, 90_000)), 3, 8, is_lmtp=is_lmtp, normalises_newlines=random.random() < 0.3
    )
    offer = _ALL if random.random() < 0.7 else Offer()
    moods = [random.choice((0, 0, 0, 0, 0, 1, 2, 3)) for _ in range(20)] if random.random() < 0.4 else []
    session = _Session(settings, offer, moods)
    chunks = cut(octets, random)
    for chunk in chunks:
        session.take(chunk)
        if repr(session.machine).endswith("SECURING>"):
            session.machine.secured()
    lines = session.output.splitlines(keepends=True)
    assert all(_REPLY_LINE.fullmatch(line) for line in lines), "a line that is no reply"
    assert len(session.output) <= 2_000 + 600 * (octets.count(b"\n") + 1), "more is said than was asked"
    if octets and b"starttls" not in octets.lower():  # what stands behind it depends on packets, and must
        whole = _Session(settings, offer, moods)
        whole.take(octets)
        assert whole.output == session.output, "the conversation depends on packets"


def _check_smtp(octets: bytes, random: Random) -> None:
    _check_session(octets, random, is_lmtp=False)


def _check_lmtp(octets: bytes, random: Random) -> None:
    _check_session(octets, random, is_lmtp=True)


def _check_address(address: Address | None) -> None:
    if address is not None:
        assert _HARMFUL.search(address.text) is None
        assert len(address.text.encode()) <= 254


def _check_mail(mail: MailReceived) -> None:
    """What was taken can be said to another host without breaking a command."""
    _check_address(mail.reverse_path)
    path = "" if mail.reverse_path is None else mail.reverse_path.text
    compose(Transaction(path, ("a@b",), 1, mail.body, True, mail.ret, mail.envid, mail.requires_tls), _EVERYTHING)
    assert _HARMFUL.search(mail.auth) is None


def _check_paths(octets: bytes, random: Random) -> None:
    mail = parse_mail(octets, 100_000, random.choice((_ALL, Offer())))
    if isinstance(mail, MailReceived):
        _check_mail(mail)
    rcpt = parse_rcpt(octets, random.random() < 0.5)
    if isinstance(rcpt, RcptReceived):
        _check_address(rcpt.recipient)
        if rcpt.request is not None:
            path = rcpt.recipient.text
            compose(Transaction("", (path,), 1, Body.SEVEN_BIT, True, requests=(rcpt.request,)), _EVERYTHING)
    name = parse_hello(octets)
    assert isinstance(name, Reply) or (name.isascii() and name.isprintable() and 0 < len(name) <= 255)


def _check_xtext(octets: bytes, random: Random) -> None:
    text = decode_xtext(octets)
    assert (text is not None) is is_xtext(octets)
    assert text is None or (text.isascii() and text.isprintable())


def _read_lines(chunks: list[bytes], limit: int) -> list[bytes | Fault]:
    buffer, found = InputBuffer(), []
    for chunk in chunks:
        buffer.append(chunk)
        while (line := buffer.take_line(limit)) is not None:
            found.append(line)
            if line is Fault.ENDLESS or line is Fault.TLS:
                return found
            assert isinstance(line, Fault) or (len(line) < limit and b"\n" not in line)
        assert len(buffer) <= DISCARD_OCTETS
    return found


def _check_lines(octets: bytes, random: Random) -> None:
    limit = random.choice((20, 2048))
    assert _read_lines(cut(octets, random), limit) == _read_lines([octets], limit)


def _read_content(chunks: list[bytes], normalises: bool) -> tuple[bytes, bool, int]:
    """Give content, whether it is refused, and how many octets follow the end; -1: it has none."""
    reader, content, read = ContentReader(50_000, normalises), b"", 0
    for chunk in chunks:
        end = reader.read(chunk, 0)
        read += len(chunk)
        if end >= 0:
            content += reader.take_rest()
            is_refused = reader.defect is not None
            return (b"" if is_refused else content), is_refused, sum(map(len, chunks)) - read + len(chunk) - end
        content += reader.take_piece()
        assert reader.held <= CONTENT_PIECE_OCTETS
    return b"", False, -1


def _check_content(octets: bytes, random: Random) -> None:
    normalises = random.random() < 0.5
    content, is_refused, left = _read_content([octets] if octets else [], normalises)
    assert _read_content(cut(octets, random), normalises) == (content, is_refused, left)
    assert len(content) <= 50_000
    bare = content.replace(b"\r\n", b"")
    assert not {0, 10, 13} & set(bare), "what is forwarded holds a bare newline or NUL"
    end = (b"\r\n" + octets).find(b"\r\n.\r\n")
    assert left == (-1 if end < 0 else len(octets) - end - 3), "only CRLF.CRLF ends content"


def _check_chunks(octets: bytes, random: Random) -> None:
    is_binary = random.random() < 0.4
    told = []
    for chunks in ([octets], cut(octets, Random(random.random()))):
        reader, given = ChunkReader(50_000, is_binary=is_binary), b""
        reader.begin(Chunk(len(octets), True))
        for chunk in chunks:
            assert reader.read(chunk, 0) == len(chunk)
            given += reader.take_piece()
            assert reader.held <= CONTENT_PIECE_OCTETS
        reader.end_content()
        given += reader.take_rest()
        told.append(given if reader.defect is None else None)  # of two defects either may be told, as packets have it
    assert told[0] == told[1]
    assert told[0] in (None, octets), "octets changed on their way"
    parse_chunk(octets[:40])


def _check_sasl(octets: bytes, random: Random) -> None:
    exchange = SaslExchange(random.choice(("PLAIN", "LOGIN")))
    first, *lines = octets.split(b"\r\n")
    outcome = exchange.begin(first)
    for line in lines:
        if not isinstance(outcome, Challenge):
            break
        outcome = exchange.go_on(line)
    if isinstance(outcome, AuthReceived):
        assert 0 < len(outcome.username.encode()) <= 255
        assert outcome.password
        assert _HARMFUL.search(outcome.username + outcome.password) is None


def _check_xclient(octets: bytes, random: Random) -> None:
    event = parse_xclient(octets)
    if isinstance(event, XclientReceived):
        for _, text in event.attributes:
            assert text.isascii()
            assert text.isprintable()


_VERBS = (
    b"EHLO a.example", b"HELO a", b"LHLO a", b"MAIL FROM:<a@b.example>", b"MAIL FROM:<> SIZE=9 BODY=8BITMIME",
    "MAIL FROM:<ü@b> SMTPUTF8".encode(), b"RCPT TO:<c@d.example>", b"RCPT TO:<postmaster>", b"DATA", b"BDAT 3\r\nabc",
    b"BDAT 0 LAST", b"BDAT 5 LAST\r\nhello", b"RSET", b"NOOP", b"VRFY x", b"HELP", b"QUIT", b"STARTTLS",
    b"AUTH PLAIN AHVzZXIAc2VjcmV0", b"AUTH LOGIN\r\ndXNlcg==\r\nc2VjcmV0", b"AUTH PLAIN\r\n*", b"GET / HTTP/1.1",
    b"XCLIENT ADDR=192.0.2.1 NAME=client.example", b"MAIL FROM:<a@b> BODY=BINARYMIME RET=HDRS ENVID=x+2By REQUIRETLS",
    b"RCPT TO:<c@d> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;c@d", b".", b"\x16\x03\x01",
)  # fmt: skip
_MESSAGE = b"Received: from x\r\nSubject: hi\r\n\r\n..dot\r\nbody\r\n"
_SESSIONS = (
    b"EHLO a\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<e@d.example>\r\nDATA\r\n"
    + _MESSAGE + b".\r\nMAIL FROM:<>\r\nRCPT TO:<x@y>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n",
    b"EHLO a\r\nAUTH LOGIN\r\ndXNlcg==\r\nc2VjcmV0\r\nMAIL FROM:<a@b> AUTH=<>\r\nRSET\r\nQUIT\r\n",
    b"EHLO a\r\nMAIL FROM:<a@b> BODY=BINARYMIME\r\nRCPT TO:<c@d>\r\nBDAT 9\r\na: b\r\n\r\n\0"
    b"BDAT 3 LAST\r\n\r\n.QUIT\r\n",
    b"EHLO a\r\nSTARTTLS\r\nEHLO a\r\nAUTH PLAIN AHVzZXIAc2VjcmV0\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\n",
    b"XCLIENT ADDR=IPV6:2001:db8::1 LOGIN=ann HELO=x\r\nEHLO a\r\nNOOP\r\nVRFY a\r\nHELP\r\nRSET\r\nQUIT\r\n",
    b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n" + (b"x" * 78 + b"\r\n") * 700 + b".\r\nQUIT\r\n",
)  # fmt: skip
_PATHS = (
    b"FROM:<a@b.example> SIZE=1000 BODY=8BITMIME SMTPUTF8 RET=FULL ENVID=QQ314159 AUTH=<> REQUIRETLS",
    b"TO:<c@d.example> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;Bob+2B@d.example",
    'TO:<jürgen@müller.example> ORCPT=utf-8;j\\x{FC}rgen@example'.encode(), b'FROM:<"a b\\"c"@d>',
    b"TO:<Postmaster>", b"FROM:<>", b"TO:<a@[192.0.2.1]>", b"TO:<a@[IPv6:2001:db8::1]>", b"TO:<@a,@b:c@d>",
    b"FROM: <a@b> BODY=BINARYMIME", b"TO:<a%b!c@d_e.example>", b"client.example",
)  # fmt: skip
_WORDS = (
    b"SIZE=", b"BODY=", b"7BIT", b"BINARYMIME", b"SMTPUTF8", b"RET=", b"ENVID=", b"NOTIFY=", b"NEVER", b"SUCCESS",
    b"ORCPT=", b"rfc822;", b"utf-8;", b"+2B", b"+00", b"\\x{10FFFF}", b"\\x{D800}", b"AUTH=", b"REQUIRETLS", b"xn--",
    b"[IPv6:", b"FROM:", b"TO:", b"@", b" ", b"LAST",
)  # fmt: skip

TARGETS = (
    Target("smtp-server", _check_smtp, _SESSIONS, tuple(verb + b"\r\n" for verb in _VERBS), 8_000),
    Target(
        "lmtp-server",
        _check_lmtp,
        tuple(session.replace(b"EHLO", b"LHLO") for session in _SESSIONS),
        tuple(verb + b"\r\n" for verb in _VERBS),
        4_000,
    ),
    Target("grammar", _check_paths, _PATHS, _WORDS, 20_000),
    Target("xtext", _check_xtext, (b"Bob+2B@d.example", b"+3D+2B+7E"), (b"+2B", b"+0A", b"+7F", b"+"), 20_000),
    Target("lines", _check_lines, _SESSIONS, (b"\r\n", b"\n", b"\r", b"x" * 3000), 10_000),
    Target(
        "content",
        _check_content,
        (_MESSAGE + b".\r\nQ", b".\r\n", b"..\r\n.\r\n", b"a\r\n" * 30_000 + b".\r\n", b"x" * 70_000 + b"\r\n.\r\n"),
        (b"\r\n.\r\n", b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n..", b"x" * 65_536),
        10_000,
    ),
    Target(
        "chunks",
        _check_chunks,
        (_MESSAGE, b"\r\n\0\r\n", b"a: b\r\n\r\n\0\x80\r", b"x" * 70_000),
        (b"\r\n\r\n",),
        10_000,
    ),
    Target(
        "sasl",
        _check_sasl,
        (b"AHVzZXIAc2VjcmV0", b"\r\nAHVzZXIAc2VjcmV0", b"\r\ndXNlcg==\r\nc2VjcmV0", b"dXNlcg==\r\nc2VjcmV0", b"="),
        (b"\r\n", b"*", b"=", b"AAAA", b"dQ=="),
        20_000,
    ),
    Target(
        "xclient",
        _check_xclient,
        (b"ADDR=192.0.2.1 NAME=a.example PORT=25 PROTO=ESMTP HELO=x LOGIN=ann DESTADDR=192.0.2.2 DESTPORT=25",
         b"ADDR=IPV6:2001:db8::1 NAME=[UNAVAILABLE] HELO=[TEMPUNAVAIL] LOGIN=a+20b"),
        (b"ADDR=", b"NAME=", b"IPV6:", b"[UNAVAILABLE]", b"+0A", b"+20", b"LOGIN="),
        20_000,
    ),
)  # fmt: skip
