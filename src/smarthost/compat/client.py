# SPDX-License-Identifier: MIT
"""What a relayer needs beyond Twisted's SMTP clients so that no mail is lost, smuggled, or sent where it was not meant.

Extends them: content goes out as octets with every dot stuffed, whatever the chunks; only a reply
to the final dot is success; every wait has a deadline; addresses go out as they are, or not at all; a peer's endless or
garbled replies cost one connection. Decides nothing about the message: `sentMail` is told what the host said.
"""

import re
from collections.abc import Callable
from typing import Any, BinaryIO

from twisted.internet.protocol import connectionDone
from twisted.mail import smtp
from twisted.protocols.basic import FileSender
from twisted.python import log
from twisted.python.failure import Failure

from smarthost.compat.addresses import read_path
from smarthost.compat.words import shown
from smarthost.mail.errors import LocalProtocolError
from smarthost.smtp.dots import Stuffer
from smarthost.smtp.exchange import check_path, encode_command

REPLY_TIMEOUT_S = 600.0  # RFC 5321 4.5.3.2.6: 10 minutes for the final dot is the longest of all
# Deviation: RFC 5321 4.5.3.2.1 allows 5 minutes for the greeting; a manager has two places, and a silent crowd would
# hold both.
GREETING_TIMEOUT_S = 60.0
QUIT_TIMEOUT_S = 10.0  # nothing depends on the answer
REPLY_LINES = 100  # of one reply, as in smtp.replies: without a bound "250-" never ends
CHALLENGES = 10  # of one AUTH: LOGIN has two; a host that goes on asking would never be done with
_SHOWN = 200
_FOLLOWERS = {b"\r": b"\n", b"\n": b"."}  # what is looked for behind the last octet of a piece

#   Reply-line = Reply-code [ SP / "-" textstring ]; a code alone is accepted (RFC 5321 4.2). Twisted asks int(), to
#   which "-1 ", "2_5" and "  7" are codes, and skips "0yz" for ever.
_match_reply_line = re.compile(rb"[2-5][0-9]{2}(?:[ -].*)?", re.DOTALL).fullmatch


class WireContent:
    """A message file as it goes over the wire: `read` gives what `transform` makes of it, `end` the rest.

    No piece ends between CR and LF, or between LF and a dot: `transform` may look at each one alone.
    """

    def __init__(self, file: BinaryIO, transform: Callable[[bytes], bytes]) -> None:
        self._file = file
        self._transform = transform
        self._ahead = b""  # an octet that was looked at, and belongs to the next piece
        self._tail = b"\r\n"  # the last two octets given; content begins at the start of a line
        self.failure: Exception | None = None  # why there is no more to read, if not because it has ended

    def read(self, octets: int) -> bytes:
        """Give the next piece, b"" at the end or after a failure. `octets`: how much of the file to read at a time."""
        try:
            piece = self._read(octets)
            self._tail = (self._tail + piece[-2:])[-2:]
            return piece
        except Exception as error:  # noqa: BLE001 - a reactor that calls us knows no other end: disks fail, files are closed
            self.failure = error
            return b""

    def end(self) -> bytes:
        """Give the final dot, after a CRLF where what was given has none at its end (RFC 5321 4.1.1.4)."""
        return b".\r\n" if self._tail == b"\r\n" else b"\r\n.\r\n"

    def _read(self, octets: int) -> bytes:
        while chunk := self._read_chunk(octets):
            piece = self._transform(chunk)
            if piece:  # an empty one is the end to a FileSender
                return piece
        return b""

    def _read_chunk(self, octets: int) -> bytes:
        chunk = self._ahead + self._file.read(octets)
        self._ahead = b""
        while follower := _FOLLOWERS.get(chunk[-1:]):
            self._ahead = self._file.read(1)
            if self._ahead != follower:
                break
            chunk, self._ahead = chunk + follower, b""
        return chunk


class StrictClient(smtp.SMTPClient):
    """Twisted's SMTP client, held to what the module says."""

    timeout = REPLY_TIMEOUT_S  # type: ignore[assignment]
    greetingTimeout: float | None = GREETING_TIMEOUT_S  # of each wait before the first MAIL; never more than `timeout`
    isTransferring = False  # between 354 and the final dot
    isContentSent = False  # the final dot of the present transaction is out: the host may have the message
    isOwnWord = False  # what `sentMail` is told is our refusal, not the host's
    isOver = False  # nothing is said or heard any more
    whyEnded = ""  # what ended the session before its time
    _isAborted = False
    _isMailBegun = False
    _content_to_send: WireContent | None = None
    _stuffer: Stuffer | None = None

    def connectionMade(self) -> None:
        """Wait for the greeting, not as long as for what comes later."""
        super().connectionMade()
        if self.timeout is not None and self.greetingTimeout is not None:
            self.setTimeout(min(self.timeout, self.greetingTimeout))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Hear nothing more of what was received; no deadline is left behind."""
        self.isOver = True
        super().connectionLost(reason)

    # -- what the peer says

    def lineReceived(self, line: bytes) -> None:
        """Take a line of a reply; whatever goes wrong with it costs this connection only."""
        if self.isOver:
            return  # what is still in the buffer answers nothing any more
        defect = self._find_defect(line)
        if defect:
            self._break_off(smtp.SMTPProtocolError(-1, defect, self.log.str()))
            return
        try:
            super().lineReceived(line)
        except Exception as error:  # noqa: BLE001 - a reply nobody foresaw, or a bug, must cost one connection only
            self._abort(f"{error!r} after {line[:_SHOWN]!r}")

    def lineLengthExceeded(self, line: bytes) -> None:
        """End the session with a peer whose line does not end."""
        if not self.isOver:
            self._break_off(smtp.SMTPProtocolError(-1, f"a line of more than {self.MAX_LENGTH} octets", self.log.str()))

    def resetTimeout(self) -> None:
        """Move the deadline, but not for a further line of one reply: 100 of them could take 16 hours."""
        if not self.resp:
            super().resetTimeout()

    def timeoutConnection(self) -> None:
        """Give up on a peer that lets the deadline pass, at once: it may not even read."""
        self._break_off(smtp.SMTPTimeoutError(-1, f"nothing heard for {self.timeOut} s", self.log.str()))

    def sendError(self, exc: Exception) -> None:
        """End the session after an error of the protocol or of its set-up."""
        self.whyEnded = self.whyEnded or describe_error(exc)
        if self.isTransferring:
            self._abort(self.whyEnded)
        else:
            super().sendError(exc)

    def smtpTransferFailed(self, code: int, resp: bytes) -> None:
        """Judge a reply that was not expected. A 2xx that answers no final dot is not success: nothing was sent."""
        if self._from is None or 200 <= code < 300:  # to RSET; or for instance 250 to DATA
            self.sendError(smtp.SMTPProtocolError(code, f"unexpected reply {code} {resp[:_SHOWN]!r}"))
        else:
            super().smtpTransferFailed(code, resp)

    def smtpState_disconnect(self, code: int, resp: bytes | None) -> None:
        """Close, and hear nothing more: under STARTTLS a closing transport does not say so, and lines go on coming."""
        if not self.isOver:
            self.setTimeout(QUIT_TIMEOUT_S)  # for what is still unsent, and TLS's farewell
            self._hear_no_more()
        super().smtpState_disconnect(code, resp)

    # -- what we say

    def smtpState_helo(self, code: int, resp: bytes) -> None:
        """Say HELO, also where EHLO was refused; when that is refused, too, the session ends."""
        self._failresponse = self.smtpConnectionFailed
        if code == 421:
            self.smtpConnectionFailed(code, resp)
        else:
            super().smtpState_helo(code, resp)

    def smtpState_from(self, code: int, resp: bytes) -> None:
        """Begin the next transaction, or end the session when there is none."""
        self.isContentSent = self.isOwnWord = False
        self.toAddressesResult = []
        self.successAddresses = []
        self._failresponse = self.smtpTransferFailed
        if not self._isMailBegun:
            self._isMailBegun = True
            self.setTimeout(self.timeout)
        try:
            self._from = self.getMailFrom()
        except Exception as error:  # a program's own method: what it raises is about one message
            if not getattr(self, "names", None):
                raise
            log.msg(f"{type(self).__name__}.getMailFrom: {shown(repr(error))}")
            self._from = ""  # that message has its turn now, and loses it
            self._refuse(451, f"4.3.0 getMailFrom: {_to_line(repr(error))}")
            return
        if self._from is None:
            self._disconnectFromServer()
            return
        self._expected = [250]
        self._okresponse = self.smtpState_to
        why = self._command("MAIL FROM", self._from)
        if why:
            self._refuse(553, f"5.1.7 {why}")

    def smtpState_toOrData(self, code: int, resp: bytes) -> None:
        """Name the next recipient; after the last one ask for DATA if any was accepted."""
        self.isOwnWord = False
        if self.lastAddress is not None:
            self.toAddressesResult.append((self.lastAddress, code, resp))
            if code in smtp.SUCCESS:
                self.successAddresses.append(self.lastAddress)
        for address in self.toAddresses:
            self.lastAddress = address
            why = self._command("RCPT TO", address)
            if not why:
                return
            code, resp, self.isOwnWord = 553, _encode(f"5.1.3 {why}"), True
            self.toAddressesResult.append((address, code, resp))
        if self.successAddresses:
            self._ask_for_data()
        else:
            self.smtpState_msgSent(code, resp)

    def smtpState_data(self, code: int, resp: bytes) -> None:
        """Send the content and the final dot. Only from then on is a 2xx success."""
        content, self._content_to_send = self._content_to_send, None
        self._expected = list(smtp.SUCCESS)
        self._okresponse = self.smtpState_msgSent
        self._stuffer = None
        self.isTransferring = True
        sending = FileSender().beginFileTransfer(content, self.transport)
        # It fails when the connection is lost, and connectionLost knows why.
        sending.addCallbacks(self._end_content, lambda _: None, callbackArgs=(content,))

    def smtpState_msgSent(self, code: int, resp: bytes) -> None:
        """Tell `sentMail` the host's word. One that comes before the content's end leaves the session unusable."""
        was_early = self.isTransferring
        sender = self._from
        if sender is not None and not (was_early and code in smtp.SUCCESS):
            self._from = None  # first: whatever `sentMail` raises, the message was spoken of
            self._tell_sent(code, resp, len(self.successAddresses), self.toAddressesResult, self.log)
        if was_early:
            self._abort(f"{code} before the end of the content")
            return
        self._expected = list(smtp.SUCCESS)
        self._okresponse = self.smtpState_from
        self.sendLine(b"RSET")

    def transformChunk(self, chunk: bytes) -> bytes:
        """Give a piece of the content as it goes out, CRLF line ends and stuffed dots, and move the deadline.

        In the file lines end in LF (as Twisted's FileMessage writes them) or CRLF. A CR elsewhere becomes a space:
        RFC 5321 2.3.8 forbids to send it, and some hosts take it for a line's end.
        """
        self.resetTimeout()
        if self._stuffer is None:
            self._stuffer = Stuffer()
        content = chunk.replace(b"\r\n", b"\n").replace(b"\r", b" ").replace(b"\n", b"\r\n")
        return self._stuffer.stuff(content)

    def _tell_sent(self, *told: Any) -> None:
        self.sentMail(*told)

    def _find_defect(self, line: bytes) -> str:
        if not _match_reply_line(line):
            return f"not a reply: {line[:_SHOWN]!r}"
        if self.resp and line[:3] != b"%d" % self.code:
            return f"a reply that is both {self.code} and {line[:3]!r}"
        return f"a reply of more than {REPLY_LINES} lines" if len(self.resp) >= REPLY_LINES else ""

    def _command(self, verb: str, address: Any) -> str:
        """Say MAIL or RCPT; or give the reason why this cannot be said."""
        try:
            path = read_path(bytes(address) if isinstance(address, smtp.Address) else address)
            if not path and verb == "RCPT TO":
                raise LocalProtocolError("a recipient is never the null path")
            line = encode_command(f"{verb}:<{check_path(path)}>")
        except (LocalProtocolError, TypeError) as error:
            log.msg(f"not sent: {error}")
            return str(error)
        self.sendLine(line.removesuffix(b"\r\n"))
        return ""

    def _refuse(self, code: int, why: str) -> None:
        """End the transaction with our own word; the session goes on."""
        self.isOwnWord = True
        self.smtpState_msgSent(code, _encode(why))

    def _ask_for_data(self) -> None:
        self.isOwnWord = False
        try:
            self._content_to_send = WireContent(self.getMailData(), self.transformChunk)
        except OSError as error:  # before DATA, after which there would be no way back
            log.msg(f"not sent, its content cannot be opened: {shown(str(error))}")
            self._refuse(451, f"4.3.0 the content cannot be opened: {error.strerror or type(error).__name__}")
            return
        self._expected = [354]
        self._okresponse = self.smtpState_data
        self.sendLine(b"DATA")

    def _end_content(self, _: object, content: WireContent) -> None:
        if self.isOver:
            return
        if content.failure is not None:
            self._abort(f"the content cannot be read: {content.failure!r}")
        else:
            self.isTransferring = False
            self.isContentSent = True
            transport: Any = self.transport
            transport.write(content.end())

    def _disconnectFromServer(self) -> None:
        super()._disconnectFromServer()
        if not self.isOver:
            self.setTimeout(QUIT_TIMEOUT_S)

    def _break_off(self, error: smtp.SMTPClientError) -> None:
        """End the session at once after an error of the peer's; a program's own sendError hears of it first."""
        try:
            if not self.isOver:
                self.sendError(error)
        except Exception as raised:  # noqa: BLE001 - the connection must end whatever a program's class does
            log.msg(f"{type(self).__name__}.sendError: {raised!r}")
        self._abort(describe_error(error))

    def _abort(self, why: str) -> None:
        """Close without another word, and without waiting for what the peer has not read."""
        transport: Any = self.transport
        if not self._isAborted:
            self._isAborted = True
            self.whyEnded = self.whyEnded or _to_line(why)
            log.msg(f"session with {peer_of(transport) or 'a host'} broken off: {self.whyEnded}")
        self._hear_no_more()
        transport.abortConnection()

    def _hear_no_more(self) -> None:
        self.isOver = True
        self.isTransferring = False
        self.clearLineBuffer()  # to split 64 KiB of it into lines nobody hears takes a while


class StrictEsmtpClient(StrictClient, smtp.ESMTPClient):
    """The same with ESMTP: nothing from before TLS counts after it, no password in clear by surprise."""

    _challenges = 0

    def esmtpState_serverConfig(self, code: int, resp: bytes) -> None:
        """Read what the host offers, keywords in any case (RFC 5321 2.4); an empty line offers nothing."""
        items: dict[bytes, bytes | None] = {}
        for words in [line.split(None, 1) for line in resp.splitlines()]:
            if words:
                items[words[0].upper()] = words[1] if len(words) > 1 else None
        self.tryTLS(code, resp, items)

    def esmtpState_starttls(self, code: int, resp: bytes) -> None:
        """Switch to TLS. Octets behind the 220 came in clear, from anybody: they end the session (RFC 3207 6)."""
        transport: Any = self.transport
        if self._buffer:
            self._abort("octets in clear behind the reply to STARTTLS")
            return
        transport.startTLS(self.context)  # whatever it raises ends the session: nothing more goes in clear
        self._tlsMode = True
        self.esmtpState_ehlo(code, resp)

    def authenticate(self, code: int, resp: bytes, items: dict[bytes, bytes | None]) -> None:
        """Log in if there is a secret. Who gave a contextFactory meant TLS: without it the secret is not said."""
        if self.secret and self.context is not None and not self._tlsMode and items.get(b"AUTH"):
            self.esmtpTLSRequired()
            return
        super().authenticate(code, resp, items)

    def smtpState_maybeAuthenticated(self, code: int, resp: bytes) -> None:
        """Begin with the mail, or answer the next challenge."""
        self._challenges += 1
        if self._challenges > CHALLENGES:
            self._break_off(smtp.SMTPProtocolError(-1, f"more than {CHALLENGES} challenges", self.log.str()))
            return
        super().smtpState_maybeAuthenticated(code, resp)


def describe_error(error: BaseException | None) -> str:
    """Say in one printable line what an SMTP error of Twisted's holds: code and text, without its transcript."""
    code, text = getattr(error, "code", None), getattr(error, "resp", None)
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    if isinstance(code, int) and code > 0:
        return _to_line(f"{code} {text}")
    return _to_line(str(error if text is None else text) or type(error).__name__)


def peer_of(transport: Any) -> str:
    """Give the address of the peer, "" where it has none."""
    return str(getattr(transport.getPeer(), "host", "")) if transport is not None else ""


def _to_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:_SHOWN])


def _encode(text: str) -> bytes:
    return text.encode("ascii", "backslashreplace")
