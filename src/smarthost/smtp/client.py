# SPDX-License-Identifier: MIT
"""The client side of SMTP and LMTP as a sans-IO machine: replies in, commands and wire events out.

RFC 5321, 2033, 2920, 3030, 3207, 4954. `send.session` drives it: octets to `receive`, then `next_event` until None,
then `take_output` to the connection. Each command that is written appends its Step to the replies that are due; _TAKERS
says who takes each. A host's "no" is a Reply inside an event; what SMTP does not allow raises RemoteProtocolError and
closes the machine. It decides nothing about mail (send.verdict does).
"""

from collections.abc import Callable, Iterable

from smarthost.mail.errors import LocalProtocolError, RemoteProtocolError
from smarthost.mail.hop import Credentials
from smarthost.mail.reply import Reply
from smarthost.smtp.auth import login_responses, plain_response
from smarthost.smtp.dialogue import Dialogue
from smarthost.smtp.dots import Stuffer
from smarthost.smtp.exchange import Exchange, check_name, compose, encode_command
from smarthost.smtp.exchange import Transaction as Transaction  # the driver's word for it comes from here
from smarthost.smtp.extensions import Extensions, parse_extensions
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

# Chunks written before their replies are read: enough to fill a long line, and little is wasted on a host that says no.
CHUNK_WINDOW = 4
_STARTTLS = encode_command("STARTTLS")
_RSET = encode_command("RSET")
_QUIT = encode_command("QUIT")
_LAST = encode_command("BDAT 0 LAST")
_IDLE, _CONTENT, _ONE_FINAL = Step.IDLE, Step.CONTENT, (Step.FINAL,)  # see smtp.dialogue
_CONTENT_WANTED = ContentWanted()
_NONE_OFFERED = Extensions()
_BDAT_UNKNOWN = frozenset(
    {500, 501, 502, 504}
)  # RFC 5321 4.2.2: not understood, so its octets may be taken for commands


class SmtpClient(Dialogue):
    """One session. Any octets in give events or RemoteProtocolError; after that, and after 421, it is closed."""

    __slots__ = ("_exchange", "_is_lmtp", "_left", "_name", "_reset_owed", "_stuffer", "extensions")

    def __init__(self, *, is_lmtp: bool = False) -> None:
        super().__init__()
        self.extensions: Extensions | None = None
        self._is_lmtp = is_lmtp
        self._name = ""
        self._left: list[str] = []  # what the host may still ask for in AUTH, last one first
        self._exchange: Exchange | None = None  # the open transaction
        self._reset_owed = False  # the host may hold a transaction open that is over for us
        self._stuffer: Stuffer | None = None  # None: the open content leaves in chunks

    # -- what the driver may ask --

    @property
    def takes_content(self) -> bool:
        """May `content` be called now? In BDAT only for so many pieces; ContentWanted says when there is room again."""
        has_room = self._stuffer is not None or len(self._due) < self._window
        return has_room and self._rest is _CONTENT and not self._closed

    @property
    def heard(self) -> TransactionEnded | None:
        """What the host has said so far about the open transaction; None when there is none or nothing was said.

        For a driver that loses the connection: an answer once heard is not dropped.
        """
        exchange = self._exchange
        return None if exchange is None or exchange.mail is None else exchange.summary(None)

    # -- what the driver tells --

    def hello(self, name: str) -> None:
        """Say EHLO, and HELO if that is refused (RFC 5321 3.2); in LMTP LHLO only (RFC 2033 4.1).

        `name` is a domain or an address literal.
        """
        self._require_idle("hello")
        self._name = check_name(name)
        self.extensions = None
        self._reset_owed = False  # EHLO resets (RFC 5321 4.1.4)
        self._write(encode_command(f"{'LHLO' if self._is_lmtp else 'EHLO'} {name}"), (Step.EHLO,))

    def starttls(self) -> None:
        """Ask for TLS. On 220 the driver must see that `has_buffered` is False, upgrade, and call `secured`."""
        self._require_greeted("starttls")
        self._write(_STARTTLS, (Step.STARTTLS,))

    def secured(self) -> None:
        """Forget what was learned in clear text (RFC 3207 4.2); hello() must follow.

        Raises: RemoteProtocolError: the host said more than its 220 before the handshake.
        """
        if self._rest is not Step.TLS or self._closed:
            raise LocalProtocolError("secured() without a 220 to STARTTLS")
        self._refuse_clear_text()
        self._rest = _IDLE
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
        self._write(encode_command(command), (Step.AUTH,))

    def begin(self, transaction: Transaction) -> None:
        """Begin a transaction: in one write where the host offers PIPELINING, else one command a reply.

        Raises: LocalProtocolError: an address or parameter that cannot be sent here, no recipient, more octets than the
        host announced to take, or a demand that it does not offer to meet; nothing was written then.
        """
        extensions = self._require_greeted("begin")
        exchange = self._exchange = Exchange(compose(transaction, extensions), transaction.is_chunked)
        if self._reset_owed:
            # Owed since the last transaction, paid here: it costs no round trip with PIPELINING (RFC 2920 3.1)
            self._write(_RSET, (Step.RSET,))
            if not extensions.pipelining:
                return
        self._write_group(exchange, extensions)

    def content(self, chunks: Iterable[bytes]) -> list[bytes]:
        """Give the buffers to write for these pieces of content; may be called again for more.

        Dot-stuffed; or each piece that is not empty as a chunk of its own, if `takes_content` (RFC 3030 2).
        """
        if self._rest is not _CONTENT:
            raise LocalProtocolError("content() before ContentWanted")
        if self._stuffer is None:
            return self._frame(chunks)
        stuff = self._stuffer.stuff
        return [stuff(chunk) for chunk in chunks]

    def content_end(self) -> None:
        """Queue the final dot; or BDAT LAST, as soon as the host has taken all chunks.

        Once that has left, `step` is FINAL and a lost connection leaves open whether the host has the message.
        """
        if self._rest is not _CONTENT:
            raise LocalProtocolError("content_end() before ContentWanted")
        self._rest = _IDLE
        if self._stuffer is not None:
            self._write_end(self._stuffer.end())
        elif not self._due:
            self._write_end(_LAST)

    def quit(self) -> None:
        """Say goodbye; ClosingReceived follows, or the host just closes."""
        self._require_idle("quit")
        self._write(_QUIT, (Step.QUIT,))

    # -- writing --

    def _write_group(self, exchange: Exchange, extensions: Extensions) -> None:
        self._write(*exchange.take_group(extensions.pipelining))

    def _frame(self, chunks: Iterable[bytes]) -> list[bytes]:
        buffers: list[bytes] = []
        for chunk in chunks:
            if not chunk:
                continue  # "BDAT 0" without LAST says nothing, and some hosts refuse it
            if len(self._due) >= self._window:
                raise LocalProtocolError("more chunks than the host was given time to answer")
            if not self._due:
                self._premature = self._replies.has_buffered
            self._due.append(Step.CHUNK)
            buffers += encode_command(f"BDAT {len(chunk)}"), chunk
        return buffers

    def _write_end(self, octets: bytes) -> None:
        finals: tuple[Step, ...] = _ONE_FINAL
        if self._is_lmtp:
            exchange = self._open_exchange()
            exchange.finals = []
            finals *= exchange.accepted  # RFC 2033 4.2: a reply for each
        self._write(octets, finals)

    @property
    def _window(self) -> int:
        return CHUNK_WINDOW if (self.extensions or _NONE_OFFERED).pipelining else 1

    def _require_greeted(self, verb: str) -> Extensions:
        self._require_idle(verb)
        if self.extensions is None:
            raise LocalProtocolError(f"{verb}() before a positive answer to hello()")
        return self.extensions

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

    def _take_unasked(self, reply: Reply) -> ClientEvent:
        if self._rest is _CONTENT and self._exchange is not None and reply.code >= 400:
            # The host refuses content whose end it has not seen, and may take the rest of it for commands.
            self._closed = True
            if self._stuffer is not None and not self._is_lmtp:
                return self._end(self._exchange, reply)
            self._exchange.data = reply
            return self._end(self._exchange, None)
        if reply.code == 421:
            self._closed = True
            return ClosingReceived(reply)
        raise RemoteProtocolError(f"a reply that nobody asked for: {reply}")

    def _take_closing(self, step: Step, reply: Reply) -> ClientEvent | None:
        self._closed = True
        exchange = self._exchange
        if exchange is None:
            return _TAKERS[step](self, reply)
        if step is Step.FINAL:
            return self._end_heard(exchange, reply)
        if step is Step.RCPT:
            exchange.hear_recipient(reply)
        elif step is Step.DATA or step is Step.CHUNK:
            exchange.data = reply
        elif step is Step.MAIL or step is Step.RSET:
            exchange.mail = reply
        return self._end(exchange, None)

    def _take_banner(self, reply: Reply) -> ClientEvent:
        return BannerReceived(reply)

    def _take_ehlo(self, reply: Reply) -> ClientEvent | None:
        if reply.is_permanent and not self._is_lmtp:
            self._write(encode_command(f"HELO {self._name}"), (Step.HELO,))
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
        self._write(encode_command(self._left.pop()), (Step.AUTH,))
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
        if exchange.is_asked:  # there is no DATA to wait for
            self._stuffer = None
            return self._want_content("RCPT")
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
            return self._end_unwanted(exchange)
        self._stuffer = Stuffer()
        return self._want_content("354")

    def _want_content(self, after: str) -> ClientEvent:
        if self._replies.has_buffered:
            # Noticed here, before content is sent, another host may still be tried; after the dot it is ambiguous.
            raise RemoteProtocolError(f"the host says more after {after} before it has seen any content")
        self._rest = _CONTENT
        return _CONTENT_WANTED

    def _end_unwanted(self, exchange: Exchange) -> ClientEvent | None:
        """End a DATA that was accepted although no recipient was."""
        if self._is_lmtp:  # RFC 2033 4.2 forbids it, and no reply to a dot would be due: nothing to wait for
            self._closed = True
            return self._end(exchange, None)
        self._write(b".\r\n", (Step.EMPTY,))  # RFC 2920 3.1: the client SHOULD send a single dot
        return None

    def _take_empty(self, reply: Reply) -> ClientEvent:
        return self._end(self._open_exchange(), None)

    def _take_chunk(self, reply: Reply) -> ClientEvent | None:
        exchange = self._open_exchange()
        if exchange.data is None and reply.code >= 400:
            exchange.data = reply
            self._rest = _IDLE  # no more content
            if reply.code in _BDAT_UNKNOWN:
                self._closed = True
                return self._end(exchange, None)
        if exchange.data is not None:
            # RFC 3030 2: chunks under way are discarded by the host, and each has its reply
            return None if self._due else self._end(exchange, None)
        if self._rest is _CONTENT:
            return _CONTENT_WANTED
        if not self._due:
            self._write_end(_LAST)
        return None

    def _take_final(self, reply: Reply) -> ClientEvent | None:
        exchange = self._open_exchange()
        if self._due and exchange.finals is not None:
            exchange.finals.append(reply)
            return None
        return self._end_heard(exchange, reply)

    def _take_quit(self, reply: Reply) -> ClientEvent:
        self._closed = True
        return ClosingReceived(reply)

    def _open_exchange(self) -> Exchange:
        if self._exchange is None:
            raise LocalProtocolError("a reply to a transaction that was never begun")
        return self._exchange

    def _end_heard(self, exchange: Exchange, final: Reply) -> TransactionEnded:
        if exchange.finals is None:
            return self._end(exchange, final)
        exchange.finals.append(final)
        return self._end(exchange, None)

    def _end(self, exchange: Exchange, final: Reply | None) -> TransactionEnded:
        self._exchange = None
        self._rest = _IDLE
        # After a "no" to any BDAT the state is indeterminate (RFC 3030 2)
        self._reset_owed = exchange.leaves_open and (final is None or final.code >= 300)
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
    Step.CHUNK: SmtpClient._take_chunk,
    Step.FINAL: SmtpClient._take_final,
    Step.QUIT: SmtpClient._take_quit,
}
