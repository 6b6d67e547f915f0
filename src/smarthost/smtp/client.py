# SPDX-License-Identifier: MIT
"""The client side of SMTP as a sans-IO machine: replies in, commands and wire events out (RFC 5321, 2920, 3207, 4954).

`send.session` drives it: octets to `receive`, then `next_event` until None, then `take_output` to the connection. Each
command that is written appends its Step to the replies that are due; _TAKERS says who takes each. A host's "no" is a
Reply inside an event; what SMTP does not allow raises RemoteProtocolError and closes the machine. It decides nothing
about mail: send.verdict does. No command leaves except through `encode_command`, so no envelope can smuggle one in.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable
from enum import StrEnum

from msgspec import Struct

from smarthost.mail.envelope import Body
from smarthost.mail.errors import LocalProtocolError, RemoteProtocolError
from smarthost.mail.hop import Credentials
from smarthost.mail.reply import Reply
from smarthost.smtp.auth import login_responses, plain_response
from smarthost.smtp.dots import Stuffer
from smarthost.smtp.extensions import Extensions, parse_extensions
from smarthost.smtp.replies import ReplyParser
from smarthost.smtp.wire import (
    AuthAnswered,
    BannerReceived,
    ClientEvent,
    ClosingReceived,
    ContentWanted,
    HelloAnswered,
    StarttlsAnswered,
    TransactionEnded,
)

GROUP_RECIPIENTS = (
    100  # RCPTs written before their replies are read: bounds what either side must buffer (RFC 2920 3.1)
)


class Step(StrEnum):
    """Where a session stands: the reply that is due, or, at rest, what the machine waits for from its driver."""

    CONNECT = "connect"  # before there is a machine; here so that a failure can be named with the same word
    BANNER = "banner"
    EHLO = "ehlo"
    HELO = "helo"
    STARTTLS = "starttls"
    TLS = "tls"  # at rest: 220 came, secured() must follow
    AUTH = "auth"
    IDLE = "idle"  # at rest
    RSET = "rset"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    EMPTY = "empty"  # the reply to a lone dot, which ends a DATA that came to nothing
    CONTENT = "content"  # at rest: 354 came, content() and content_end() must follow
    FINAL = "final"  # the final dot was queued: from here on the host may have the message
    QUIT = "quit"


class Transaction(Struct, frozen=True, gc=False):
    """What to send: an envelope, and how many octets its content has with its prefix, before dot-stuffing."""

    reverse_path: str
    recipients: tuple[str, ...]
    octets: int
    body: Body
    smtputf8: bool


# What no command may hold: C0 and C1 controls, DEL, and the separators that some hosts take for a line's end.
_search_control = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]").search
# A path between its angle brackets: characters that cannot end it, and quoted strings, in which anything may stand
# (RFC 5321 4.1.2: quoted-string = DQUOTE *QcontentSMTP DQUOTE). Looser than Mailbox on purpose: "opaque" is the rule.
_match_path = re.compile(r'(?:[^ <>"\\]++|"(?:[^"\\]++|\\.)*+")*+').fullmatch


def encode_command(line: str, utf8: bool = False) -> bytes:
    """Give the octets of one command with its CRLF. Every command that leaves smarthost comes from here.

    Raises: LocalProtocolError: anything but printable ASCII, or, with `utf8`, printable text (RFC 6531 3.3).
    """
    if line.isascii() and line.isprintable():
        return line.encode("ascii") + b"\r\n"
    if not utf8 or _search_control(line) is not None:
        raise LocalProtocolError(f"not to be sent in a command: {line[:200]!r}")
    try:
        return line.encode("utf-8") + b"\r\n"
    except UnicodeEncodeError:
        raise LocalProtocolError(f"not to be sent in a command: {line[:200]!r}") from None


def _check_path(path: str) -> str:
    # Control characters and UTF-8 are encode_command's; here is what could end the path early or begin a parameter.
    if _match_path(path) is None:
        raise LocalProtocolError(f"a path that would not stay between its brackets: {path[:200]!r}")
    return path


_DATA = encode_command("DATA")
_RSET = encode_command("RSET")
_STARTTLS = encode_command("STARTTLS")
_QUIT = encode_command("QUIT")
_CONTENT_WANTED = ContentWanted()
_NONE_OFFERED = Extensions()


class SmtpClient:
    """One session. Any octets in give events or RemoteProtocolError; after that, and after 421, it is closed."""

    __slots__ = (
        "_accepted",
        "_closed",
        "_commands",
        "_credentials_left",
        "_data",
        "_due",
        "_heard",
        "_in_transaction",
        "_mail",
        "_name",
        "_output",
        "_premature",
        "_replies",
        "_reset_owed",
        "_rest",
        "_sent",
        "_steps",
        "_stuffer",
        "extensions",
    )

    def __init__(self) -> None:
        self.extensions: Extensions | None = None
        self._replies = ReplyParser()
        self._output = b""
        self._due: deque[Step] = deque((Step.BANNER,))  # the replies we wait for, in order
        self._rest = Step.IDLE  # what it is when no reply is due: IDLE, TLS or CONTENT
        self._closed = False
        self._premature = False  # the next reply was there before its command
        self._name = ""
        self._credentials_left: list[str] = []  # what the host may still ask for in AUTH, last one first
        self._reset_owed = False  # the host may hold a transaction open that is over for us
        self._stuffer = Stuffer()
        self._in_transaction = False
        self._commands: list[bytes] = []  # MAIL, RCPT..., DATA
        self._steps: list[Step] = []  # their steps
        self._sent = 0  # how many of them are written
        self._mail: Reply | None = None
        self._heard: list[Reply] = []  # replies to RCPT
        self._accepted = False  # at least one RCPT, and MAIL
        self._data: Reply | None = None

    # What the driver may ask

    @property
    def step(self) -> Step:
        """Where the session stands; after an error, where it stood then."""
        return self._due[0] if self._due else self._rest

    @property
    def has_buffered(self) -> bool:
        """Are there octets from the host that no event accounts for?"""
        return self._replies.has_buffered

    @property
    def is_idle(self) -> bool:
        """Is the host waiting for a command of ours?"""
        return not self._due and self._rest is Step.IDLE and not self._closed

    @property
    def is_closed(self) -> bool:
        """Is the session over (421, QUIT answered, or an error)?"""
        return self._closed

    @property
    def heard(self) -> TransactionEnded | None:
        """What the host has said so far about the open transaction; None when there is none, or nothing was said."""
        if not self._in_transaction or self._mail is None:
            return None
        return self._summary(self._mail, None)

    def take_output(self) -> bytes:
        """Give the octets to write, and forget them."""
        output, self._output = self._output, b""
        return output

    # What the driver tells

    def receive(self, chunk: bytes) -> None:
        """Take octets from the host; call next_event until it gives None. Ignored once closed."""
        if not self._closed:
            self._replies.feed(chunk)

    def next_event(self) -> ClientEvent | None:
        """Give the next event, or None when more octets are needed.

        Raises: RemoteProtocolError: the host said what SMTP does not allow here. The machine is closed then.
        """
        if self._closed:
            return None
        if self._rest is Step.TLS and self._replies.has_buffered:
            self._closed = True  # RFC 3207 6 and "NO STARTTLS": a reply injected before the handshake
            raise RemoteProtocolError("octets in clear text after the answer to STARTTLS")
        try:
            while (reply := self._replies.next_reply()) is not None:
                event = self._take(reply)
                if event is not None:
                    return event
        except RemoteProtocolError:
            self._closed = True
            raise
        return None

    def hello(self, name: str) -> None:
        """Say EHLO, and HELO if that is refused (RFC 5321 3.2). `name` is a domain or an address literal."""
        self._require_idle("hello")
        _check_path(name)
        if not name:
            raise LocalProtocolError("EHLO needs a name")
        self._name = name
        self.extensions = None
        self._write(encode_command(f"EHLO {name}"), Step.EHLO)

    def starttls(self) -> None:
        """Ask for TLS. On 220 the driver must see that `has_buffered` is False, upgrade, and call `secured`."""
        self._require_greeted("starttls")
        self._write(_STARTTLS, Step.STARTTLS)

    def secured(self) -> None:
        """Forget what was learned in clear text (RFC 3207 4.2); hello() must follow.

        Raises: RemoteProtocolError: the host said more than its 220 before the handshake.
        """
        if self._rest is not Step.TLS or self._closed:
            raise LocalProtocolError("secured() without a 220 to STARTTLS")
        if self._replies.has_buffered:
            self._closed = True
            raise RemoteProtocolError("octets in clear text after the answer to STARTTLS")
        self._rest = Step.IDLE
        self.extensions = None

    def auth_plain(self, credentials: Credentials) -> None:
        """Authenticate by PLAIN, or by LOGIN when only that is offered.

        Raises: LocalProtocolError: neither was offered (see Extensions.offers_usable_auth), or a NUL in the credentials.
        """
        extensions = self._require_greeted("auth_plain")
        if "PLAIN" in extensions.auth:
            left: list[str] = []
            command = f"AUTH PLAIN {plain_response(credentials)}"
        elif "LOGIN" in extensions.auth:
            username, password = login_responses(credentials)
            left = [password, username]
            command = "AUTH LOGIN"
        else:
            raise LocalProtocolError("the host offers neither AUTH PLAIN nor AUTH LOGIN")
        self._credentials_left = left
        self._write(encode_command(command), Step.AUTH)

    def begin(self, transaction: Transaction) -> None:
        """Begin a transaction: in one write where the host offers PIPELINING, else one command a reply.

        Raises: LocalProtocolError: an address that cannot be sent here, no recipient, or more octets than the host
        announced to take; nothing was written then.
        """
        extensions = self._require_greeted("begin")
        self._commands = _compose(transaction, extensions)  # may raise: nothing has changed yet
        self._steps = [Step.MAIL] + [Step.RCPT] * len(transaction.recipients) + [Step.DATA]
        self._in_transaction = True
        self._sent = 0
        self._mail = self._data = None
        self._heard = []
        self._accepted = False
        if self._reset_owed:
            self._reset_owed = False
            self._write(_RSET, Step.RSET)
            if not extensions.pipelining:
                return
        self._write_next(extensions)

    def content(self, chunks: Iterable[bytes]) -> list[bytes]:
        """Give the buffers to write for these pieces of content, dot-stuffed; may be called again for more."""
        if self._rest is not Step.CONTENT or self._closed:
            raise LocalProtocolError("content() before ContentWanted")
        stuff = self._stuffer.stuff
        return [stuff(chunk) for chunk in chunks]

    def content_end(self) -> None:
        """Queue the final dot. From here on a lost connection leaves open whether the host has the message."""
        if self._rest is not Step.CONTENT or self._closed:
            raise LocalProtocolError("content_end() before ContentWanted")
        self._rest = Step.IDLE
        self._write(self._stuffer.end(), Step.FINAL)

    def quit(self) -> None:
        """Say goodbye; ClosingReceived follows, or the host just closes."""
        self._require_idle("quit")
        self._write(_QUIT, Step.QUIT)

    # Writing

    def _write(self, octets: bytes, step: Step) -> None:
        if not self._due:
            self._premature = self._replies.has_buffered
        self._output += octets
        self._due.append(step)

    def _write_next(self, extensions: Extensions) -> None:
        """Write the next commands of the transaction: a group, or one where the host does not pipeline."""
        sent, commands = self._sent, self._commands
        upto = sent + 1
        if extensions.pipelining:
            # MAIL and DATA ride along; DATA is last in its group (RFC 2920 3.1)
            upto = len(commands) if len(commands) - sent <= GROUP_RECIPIENTS + 2 else sent + GROUP_RECIPIENTS
        if not self._due:
            self._premature = self._replies.has_buffered
        self._output += b"".join(commands[sent:upto])
        self._due.extend(self._steps[sent:upto])
        self._sent = upto

    def _require_idle(self, verb: str) -> None:
        if self._due or self._rest is not Step.IDLE or self._closed:
            raise LocalProtocolError(f"{verb}() while the session is {'closed' if self._closed else self.step}")

    def _require_greeted(self, verb: str) -> Extensions:
        self._require_idle(verb)
        if self.extensions is None:
            raise LocalProtocolError(f"{verb}() before a positive answer to hello()")
        return self.extensions

    # Hearing

    def _take(self, reply: Reply) -> ClientEvent | None:
        if not self._due:
            return self._take_unasked(reply)
        step = self._due.popleft()
        try:
            if self._premature:
                self._check_premature(step, reply)
            if reply.code == 421:  # RFC 5321 3.8: at any time, and the host closes
                return self._take_closing(step, reply)
            return _TAKERS[step](self, reply)
        except RemoteProtocolError:
            self._due.appendleft(step)
            raise

    def _check_premature(self, step: Step, reply: Reply) -> None:
        # A reply that was there before its command answers something else. It must not be believed: a 250 sent along
        # with the 354 would make us drop a message that the host never judged. A "no" to the content is believed.
        self._premature = False
        if reply.code != 421 and not (step is Step.FINAL and reply.code >= 400):
            raise RemoteProtocolError(f"the host answered before it was asked: {reply}")

    def _take_unasked(self, reply: Reply) -> ClientEvent:
        if self._rest is Step.CONTENT and reply.code >= 400:
            # The host refuses content it has not seen the end of; it may go on to read the rest as commands.
            self._closed = True
            return self._end(final=reply)
        if reply.code == 421:
            self._closed = True
            return ClosingReceived(reply)
        raise RemoteProtocolError(f"a reply that nobody asked for: {reply}")

    def _take_closing(self, step: Step, reply: Reply) -> ClientEvent | None:
        self._closed = True
        self._due.clear()
        if not self._in_transaction:
            return _TAKERS[step](self, reply)
        if step is Step.RCPT:
            self._heard.append(reply)
        elif step is Step.DATA:
            self._data = reply
        elif step is Step.MAIL or step is Step.RSET:
            self._mail = reply
        return self._end(final=reply if step is Step.FINAL else None)

    def _take_banner(self, reply: Reply) -> ClientEvent:
        _refuse_intermediate(Step.BANNER, reply)
        return BannerReceived(reply)

    def _take_ehlo(self, reply: Reply) -> ClientEvent | None:
        _refuse_intermediate(Step.EHLO, reply)
        if reply.is_permanent:
            self._write(encode_command(f"HELO {self._name}"), Step.HELO)
            return None
        if reply.is_positive:
            self.extensions = parse_extensions(reply)
        return HelloAnswered(reply)

    def _take_helo(self, reply: Reply) -> ClientEvent:
        _refuse_intermediate(Step.HELO, reply)
        if reply.is_positive:
            self.extensions = _NONE_OFFERED
        return HelloAnswered(reply)

    def _take_starttls(self, reply: Reply) -> ClientEvent:
        _refuse_intermediate(Step.STARTTLS, reply)
        if reply.code == 220:  # RFC 3207 4: no other code is a go-ahead
            self._rest = Step.TLS
        return StarttlsAnswered(reply)

    def _take_auth(self, reply: Reply) -> ClientEvent | None:
        if reply.code >= 400 or reply.code < 300:
            self._credentials_left = []
            return AuthAnswered(reply)
        if not self._credentials_left:
            raise RemoteProtocolError(f"the host asks for more than AUTH has: {reply}")
        self._write(encode_command(self._credentials_left.pop()), Step.AUTH)
        return None

    def _take_rset(self, reply: Reply) -> ClientEvent | None:
        if reply.code >= 300:
            # Not the coming message's fault: its MAIL might be refused only because the last one is still open.
            raise RemoteProtocolError(f"the host refuses RSET: {reply}")
        return None if self._due else self._advance()

    def _take_mail(self, reply: Reply) -> ClientEvent | None:
        _refuse_intermediate(Step.MAIL, reply)
        self._mail = reply
        return None if self._due else self._advance()

    def _take_rcpt(self, reply: Reply) -> ClientEvent | None:
        _refuse_intermediate(Step.RCPT, reply)
        self._heard.append(reply)
        if reply.code < 300 and self._mail is not None and self._mail.code < 300:
            self._accepted = True
        return None if self._due else self._advance()

    def _advance(self) -> ClientEvent | None:
        """Go on when all that was written is answered and DATA was not among it."""
        if self._mail is not None and self._mail.code >= 400:
            return self._end(final=None)
        if self._sent == len(self._commands) - 1 and not self._accepted:
            return self._end(final=None)
        self._write_next(self.extensions or _NONE_OFFERED)
        return None

    def _take_data(self, reply: Reply) -> ClientEvent | None:
        if reply.code < 300:
            raise RemoteProtocolError(f"the host takes DATA for complete: {reply}")
        self._data = reply
        if reply.code >= 400:
            return self._end(final=None)
        if not self._accepted:
            # RFC 2920 3.1: "the client SHOULD send a single dot" when all recipients were refused and 354 came
            self._write(b".\r\n", Step.EMPTY)
            return None
        self._stuffer = Stuffer()
        self._rest = Step.CONTENT
        return _CONTENT_WANTED

    def _take_empty(self, reply: Reply) -> ClientEvent:
        _refuse_intermediate(Step.EMPTY, reply)
        return self._end(final=None)

    def _take_final(self, reply: Reply) -> ClientEvent:
        _refuse_intermediate(Step.FINAL, reply)
        return self._end(final=reply)

    def _take_quit(self, reply: Reply) -> ClientEvent:
        self._closed = True
        return ClosingReceived(reply)

    def _end(self, final: Reply | None) -> TransactionEnded:
        mail = self._mail
        assert mail is not None, "a transaction ends after MAIL was answered"
        self._in_transaction = False
        self._rest = Step.IDLE
        # After a dot the host has nothing open (RFC 5321 4.1.1.4); without one, whatever it took still stands.
        dotted = self._data is not None and self._data.code < 400
        self._reset_owed = not dotted and (mail.code < 300 or any(reply.code < 300 for reply in self._heard))
        return self._summary(mail, final)

    def _summary(self, mail: Reply, final: Reply | None) -> TransactionEnded:
        unheard = len(self._commands) - 2 - len(self._heard)
        recipients = (*self._heard, *[None] * unheard) if unheard else tuple(self._heard)
        return TransactionEnded(mail, recipients, self._data, final)


def _compose(transaction: Transaction, extensions: Extensions) -> list[bytes]:
    if not transaction.recipients:
        raise LocalProtocolError("a transaction needs a recipient")
    if extensions.refuses_size(transaction.octets):
        raise LocalProtocolError(f"{transaction.octets} octets for a host that takes {extensions.size}")
    utf8 = transaction.smtputf8 and extensions.smtputf8
    mail = f"MAIL FROM:<{_check_path(transaction.reverse_path)}>"
    if extensions.size is not None:
        mail += f" SIZE={transaction.octets}"
    if extensions.eight_bit_mime and transaction.body is Body.EIGHT_BIT_MIME:
        mail += " BODY=8BITMIME"
    if utf8:
        mail += " SMTPUTF8"
    commands = [encode_command(mail, utf8)]
    commands += [encode_command(f"RCPT TO:<{_check_path(path)}>", utf8) for path in transaction.recipients]
    commands.append(_DATA)
    return commands


def _refuse_intermediate(step: Step, reply: Reply) -> None:
    if 300 <= reply.code < 400:
        raise RemoteProtocolError(f"an intermediate reply where none belongs ({step}): {reply}")


_TAKERS: dict[Step, Callable[[SmtpClient, Reply], ClientEvent | None]] = {
    Step.BANNER: SmtpClient._take_banner,
    Step.EHLO: SmtpClient._take_ehlo,
    Step.HELO: SmtpClient._take_helo,
    Step.STARTTLS: SmtpClient._take_starttls,
    Step.AUTH: SmtpClient._take_auth,
    Step.RSET: SmtpClient._take_rset,
    Step.MAIL: SmtpClient._take_mail,
    Step.RCPT: SmtpClient._take_rcpt,
    Step.DATA: SmtpClient._take_data,
    Step.EMPTY: SmtpClient._take_empty,
    Step.FINAL: SmtpClient._take_final,
    Step.QUIT: SmtpClient._take_quit,
}
