# SPDX-License-Identifier: MIT
"""The client side of SMTP as a sans-IO machine: replies in, commands and wire events out (RFC 5321, 2920, 3207, 4954).

`send.session` drives it: octets to `receive`, then `next_event` until None, then `take_output` to the connection. Each
command that is written appends its Step to the replies that are due; _TAKERS says who takes each. A host's "no" is a
Reply inside an event; what SMTP does not allow raises RemoteProtocolError and closes the machine. It decides nothing
about mail (send.verdict does), and trusts no reply that was there before its command.
"""

from collections import deque
from collections.abc import Callable, Iterable

from smarthost.mail.errors import LocalProtocolError, RemoteProtocolError
from smarthost.mail.hop import Credentials
from smarthost.mail.reply import Reply
from smarthost.smtp.auth import login_responses, plain_response
from smarthost.smtp.dots import Stuffer
from smarthost.smtp.exchange import Exchange, check_name, compose, encode_command
from smarthost.smtp.exchange import Transaction as Transaction  # the driver's word for it comes from here
from smarthost.smtp.extensions import Extensions, parse_extensions
from smarthost.smtp.replies import ReplyParser
from smarthost.smtp.steps import Step
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

_STARTTLS = encode_command("STARTTLS")
_RSET = encode_command("RSET")
_QUIT = encode_command("QUIT")
_CONTENT_WANTED = ContentWanted()
_NONE_OFFERED = Extensions()


class SmtpClient:
    """One session. Any octets in give events or RemoteProtocolError; after that, and after 421, it is closed."""

    __slots__ = (
        "_closed",
        "_due",
        "_exchange",
        "_left",
        "_name",
        "_output",
        "_premature",
        "_replies",
        "_reset_owed",
        "_rest",
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
        self._premature = False  # something was there before the command whose reply is next
        self._name = ""
        self._left: list[str] = []  # what the host may still ask for in AUTH, last one first
        self._exchange: Exchange | None = None  # the open transaction
        self._reset_owed = False  # the host may hold a transaction open that is over for us
        self._stuffer = Stuffer()

    # -- what the driver may ask --

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
        """What the host has said so far about the open transaction; None when there is none or nothing was said.

        For a driver that loses the connection: an answer once heard is not dropped.
        """
        exchange = self._exchange
        return None if exchange is None or exchange.mail is None else exchange.summary(None)

    def take_output(self) -> bytes:
        """Give the octets to write, and forget them."""
        output, self._output = self._output, b""
        return output

    # -- what the driver tells --

    def receive(self, chunk: bytes) -> None:
        """Take octets from the host; call next_event until it gives None. Ignored once closed."""
        if not self._closed:
            self._replies.feed(chunk)

    def next_event(self) -> ClientEvent | None:
        """Give the next event, or None when more octets are needed.

        Raises: RemoteProtocolError: the host said what SMTP does not allow here; the machine is closed then.
        """
        if self._closed:
            return None
        try:
            if self._rest is Step.TLS:
                self._refuse_clear_text()
            while (reply := self._replies.next_reply()) is not None:
                event = self._take(reply) if self._due else self._take_unasked(reply)
                if event is not None:
                    return event
        except RemoteProtocolError:
            self._closed = True
            self._output = b""  # nothing more is said to such a host
            raise
        return None

    def hello(self, name: str) -> None:
        """Say EHLO, and HELO if that is refused (RFC 5321 3.2). `name` is a domain or an address literal."""
        self._require_idle("hello")
        self._name = check_name(name)
        self.extensions = None
        self._reset_owed = False  # EHLO resets (RFC 5321 4.1.4)
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
        self._refuse_clear_text()
        self._rest = Step.IDLE
        self.extensions = None
        self._reset_owed = False

    def auth_plain(self, credentials: Credentials) -> None:
        """Authenticate by PLAIN, or by LOGIN when only that is offered.

        Raises: LocalProtocolError: neither is offered (ask Extensions.offers_usable_auth), or unfit credentials.
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
        self._left = left
        self._write(encode_command(command), Step.AUTH)

    def begin(self, transaction: Transaction) -> None:
        """Begin a transaction: in one write where the host offers PIPELINING, else one command a reply.

        Raises: LocalProtocolError: an address that cannot be sent here, no recipient, or more octets than the host
        announced to take; nothing was written then.
        """
        extensions = self._require_greeted("begin")
        exchange = self._exchange = Exchange(compose(transaction, extensions))
        if self._reset_owed:
            # Owed since the last transaction, paid here: it costs no round trip with PIPELINING (RFC 2920 3.1)
            self._write(_RSET, Step.RSET)
            if not extensions.pipelining:
                return
        self._write_group(exchange, extensions)

    def content(self, chunks: Iterable[bytes]) -> list[bytes]:
        """Give the buffers to write for these pieces of content, dot-stuffed; may be called again for more."""
        if self._rest is not Step.CONTENT:
            raise LocalProtocolError("content() before ContentWanted")
        stuff = self._stuffer.stuff
        return [stuff(chunk) for chunk in chunks]

    def content_end(self) -> None:
        """Queue the final dot. From here on a lost connection leaves open whether the host has the message."""
        if self._rest is not Step.CONTENT:
            raise LocalProtocolError("content_end() before ContentWanted")
        self._rest = Step.IDLE
        self._write(self._stuffer.end(), Step.FINAL)

    def quit(self) -> None:
        """Say goodbye; ClosingReceived follows, or the host just closes."""
        self._require_idle("quit")
        self._write(_QUIT, Step.QUIT)

    # -- writing --

    def _write(self, octets: bytes, step: Step) -> None:
        if not self._due:
            self._premature = self._replies.has_buffered
        self._output += octets
        self._due.append(step)

    def _write_group(self, exchange: Exchange, extensions: Extensions) -> None:
        if not self._due:
            self._premature = self._replies.has_buffered
        octets, steps = exchange.take_group(extensions.pipelining)
        self._output += octets
        self._due.extend(steps)

    def _require_idle(self, verb: str) -> None:
        if self._due or self._rest is not Step.IDLE or self._closed:
            raise LocalProtocolError(f"{verb}() while the session is {'closed' if self._closed else self.step}")

    def _require_greeted(self, verb: str) -> Extensions:
        self._require_idle(verb)
        if self.extensions is None:
            raise LocalProtocolError(f"{verb}() before a positive answer to hello()")
        return self.extensions

    def _refuse_clear_text(self) -> None:
        # RFC 3207 6: what was injected before the handshake must not be taken for something said inside TLS.
        if self._replies.has_buffered:
            self._closed = True
            raise RemoteProtocolError("octets in clear text after the answer to STARTTLS")

    # -- hearing --

    def _take(self, reply: Reply) -> ClientEvent | None:
        step = self._due.popleft()
        try:
            if self._premature:
                self._check_premature(step, reply)
            if reply.code == 421:  # RFC 5321 3.8: at any time, and the host closes
                return self._take_closing(step, reply)
            if 300 <= reply.code < 400 and step not in _INTERMEDIATE:
                raise RemoteProtocolError(f"an intermediate reply where none belongs ({step}): {reply}")
            return _TAKERS[step](self, reply)
        except RemoteProtocolError:
            self._due.appendleft(step)
            raise

    def _check_premature(self, step: Step, reply: Reply) -> None:
        # A reply that was there before its command answers something else. To believe a 250 that came along with the
        # 354 would drop a message the host never judged. Only a "no" to the content is an answer that early.
        self._premature = False
        if reply.code != 421 and not (step is Step.FINAL and reply.code >= 400):
            raise RemoteProtocolError(f"the host answered before it was asked: {reply}")

    def _take_unasked(self, reply: Reply) -> ClientEvent:
        if self._rest is Step.CONTENT and self._exchange is not None and reply.code >= 400:
            # The host refuses content whose end it has not seen, and may take the rest of it for commands.
            self._closed = True
            return self._end(self._exchange, reply)
        if reply.code == 421:
            self._closed = True
            return ClosingReceived(reply)
        raise RemoteProtocolError(f"a reply that nobody asked for: {reply}")

    def _take_closing(self, step: Step, reply: Reply) -> ClientEvent | None:
        self._closed = True
        exchange = self._exchange
        if exchange is None:
            return _TAKERS[step](self, reply)
        if step is Step.RCPT:
            exchange.hear_recipient(reply)
        elif step is Step.DATA:
            exchange.data = reply
        elif step is Step.MAIL or step is Step.RSET:
            exchange.mail = reply
        return self._end(exchange, reply if step is Step.FINAL else None)

    def _take_banner(self, reply: Reply) -> ClientEvent:
        return BannerReceived(reply)

    def _take_ehlo(self, reply: Reply) -> ClientEvent | None:
        if reply.is_permanent:
            self._write(encode_command(f"HELO {self._name}"), Step.HELO)
            return None
        if reply.is_positive:
            self.extensions = parse_extensions(reply)
        return HelloAnswered(reply)

    def _take_helo(self, reply: Reply) -> ClientEvent:
        if reply.is_positive:
            self.extensions = _NONE_OFFERED
        return HelloAnswered(reply)

    def _take_starttls(self, reply: Reply) -> ClientEvent:
        if reply.code == 220:  # RFC 3207 4: no other code is a go-ahead
            self._rest = Step.TLS
        return StarttlsAnswered(reply)

    def _take_auth(self, reply: Reply) -> ClientEvent | None:
        if not 300 <= reply.code < 400:
            self._left = []
            return AuthAnswered(reply)
        if not self._left:
            raise RemoteProtocolError(f"the host asks for more than AUTH has: {reply}")
        self._write(encode_command(self._left.pop()), Step.AUTH)
        return None

    def _take_rset(self, reply: Reply) -> ClientEvent | None:
        if reply.code >= 300:
            # Not the new message's fault: its MAIL may be refused only because the last one is still open.
            raise RemoteProtocolError(f"the host refuses RSET: {reply}")
        return self._go_on()

    def _take_mail(self, reply: Reply) -> ClientEvent | None:
        self._open_exchange().mail = reply
        return self._go_on()

    def _take_rcpt(self, reply: Reply) -> ClientEvent | None:
        self._open_exchange().hear_recipient(reply)
        return self._go_on()

    def _go_on(self) -> ClientEvent | None:
        """Write the next group when all replies to the last one are in, or end what has become hopeless."""
        if self._due:
            return None
        exchange = self._open_exchange()
        if exchange.is_hopeless:
            return self._end(exchange, None)
        self._write_group(exchange, self.extensions or _NONE_OFFERED)
        return None

    def _take_data(self, reply: Reply) -> ClientEvent | None:
        if reply.code < 300:
            raise RemoteProtocolError(f"the host takes DATA for complete: {reply}")
        exchange = self._open_exchange()
        exchange.data = reply
        if reply.code >= 400:
            return self._end(exchange, None)
        if not exchange.is_accepting:
            # RFC 2920 3.1: 354 although no recipient was accepted: the client SHOULD send a single dot
            self._write(b".\r\n", Step.EMPTY)
            return None
        if self._replies.has_buffered:
            # Noticed here, before content is sent, another host may still be tried; after the dot it is ambiguous.
            raise RemoteProtocolError("the host says more than 354 before it has seen any content")
        self._stuffer = Stuffer()
        self._rest = Step.CONTENT
        return _CONTENT_WANTED

    def _take_empty(self, reply: Reply) -> ClientEvent:
        return self._end(self._open_exchange(), None)

    def _take_final(self, reply: Reply) -> ClientEvent:
        return self._end(self._open_exchange(), reply)

    def _take_quit(self, reply: Reply) -> ClientEvent:
        self._closed = True
        return ClosingReceived(reply)

    def _open_exchange(self) -> Exchange:
        if self._exchange is None:
            raise LocalProtocolError("a reply to a transaction that was never begun")
        return self._exchange

    def _end(self, exchange: Exchange, final: Reply | None) -> TransactionEnded:
        self._exchange = None
        self._rest = Step.IDLE
        self._reset_owed = exchange.leaves_open
        return exchange.summary(final)


_INTERMEDIATE = frozenset({Step.AUTH, Step.DATA, Step.QUIT})  # where 3yz may come; QUIT: whatever they say, it is over
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
