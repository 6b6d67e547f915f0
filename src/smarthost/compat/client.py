# SPDX-License-Identifier: MIT
"""What a relayer needs beyond Twisted's SMTP clients so that no mail is lost, smuggled, or sent where it was not meant.

Extends them: content goes out as octets with every dot stuffed, whatever the chunks; only a reply
to the final dot is success; every wait has a deadline; addresses go out as they are, or not at all; a peer's endless or
garbled replies cost one connection. Decides nothing about the message: `sentMail` is told what the host said.
"""

from typing import Any, BinaryIO

from twisted.mail import smtp
from twisted.protocols.basic import FileSender
from twisted.python import log

from smarthost.mail.errors import LocalProtocolError
from smarthost.smtp.dots import Stuffer
from smarthost.smtp.exchange import check_path, encode_command

REPLY_TIMEOUT_S = 600.0  # RFC 5321 4.5.3.2.6: 10 minutes for the final dot is the longest of all
QUIT_TIMEOUT_S = 10.0  # nothing depends on the answer
REPLY_LINES = 100  # of one reply, as in smtp.replies: without a bound "250-" never ends
_SHOWN = 200


class WireContent:
    """A message file as it goes over the wire: `read` gives it with CRLF line ends and stuffed dots, `end` the rest.

    In the file lines end in LF (as Twisted's FileMessage writes them) or CRLF. A CR elsewhere becomes a space: RFC 5321
    2.3.8 forbids to send it, and some hosts take it for a line's end.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._stuffer = Stuffer()
        self._held = b""  # a CR of which the next octet is not known yet

    def read(self, octets: int) -> bytes:
        """Give the next piece, b"" only at the end. `octets`: how much of the file to read at a time."""
        while True:
            chunk = self._file.read(octets)
            content = self._held + chunk
            self._held = b"\r" if chunk and content.endswith(b"\r") else b""
            content = content[: len(content) - len(self._held)]
            if content or not chunk:
                content = content.replace(b"\r\n", b"\n").replace(b"\r", b" ").replace(b"\n", b"\r\n")
                return self._stuffer.stuff(content)

    def end(self) -> bytes:
        """Give the final dot, after a CRLF where the content has none at its end."""
        return self._stuffer.end()


class StrictClient(smtp.SMTPClient):
    """Twisted's SMTP client, held to what the module says."""

    timeout = REPLY_TIMEOUT_S  # type: ignore[assignment]
    isTransferring = False  # between 354 and the final dot
    isContentSent = False  # the final dot of the present transaction is out: the host may have the message
    isAborted = False
    whyEnded = ""  # what ended the session before its time

    # -- what the peer says

    def lineReceived(self, line: bytes) -> None:
        """Take a line of a reply; whatever goes wrong with it costs this connection only."""
        if self.isAborted:
            return  # what is still in the buffer answers nothing any more
        if len(self.resp) >= REPLY_LINES:
            self._abort(f"a reply of more than {REPLY_LINES} lines")
            return
        try:
            super().lineReceived(line)
        except Exception as error:  # noqa: BLE001 - a reply nobody foresaw, or a bug, must cost one connection only
            self._abort(f"{error!r} after {line[:_SHOWN]!r}")

    def timeoutConnection(self) -> None:
        """Give up on a peer that lets the deadline pass, at once: it may not even read."""
        self._abort(f"nothing heard for {self.timeout:g} s")

    def sendError(self, exc: Exception) -> None:
        """End the session after an error of the protocol or of its set-up."""
        self.whyEnded = self.whyEnded or describe_error(exc)
        if self.isTransferring:
            self._abort(str(exc))
        else:
            super().sendError(exc)

    def smtpTransferFailed(self, code: int, resp: bytes) -> None:
        """Judge a reply that was not expected. A 2xx that answers no final dot is not success: nothing was sent."""
        if self._from is None or 200 <= code < 300:  # to RSET; or for instance 250 to DATA
            self.sendError(smtp.SMTPProtocolError(code, f"unexpected reply {code} {resp[:_SHOWN]!r}"))
        else:
            super().smtpTransferFailed(code, resp)

    # -- what we say

    def smtpState_from(self, code: int, resp: bytes) -> None:
        """Begin the next transaction, or end the session when there is none."""
        self.isContentSent = False
        self._from = self.getMailFrom()
        self._failresponse = self.smtpTransferFailed
        if self._from is None:
            self._disconnectFromServer()
            return
        self._expected = [250]
        self._okresponse = self.smtpState_to
        self._command("MAIL FROM", self._from)

    def smtpState_toOrData(self, code: int, resp: bytes) -> None:
        """Name the next recipient; after the last one ask for DATA if any was accepted."""
        last = self.lastAddress
        if last is not None:
            self.toAddressesResult.append((last, code, resp))
            if code in smtp.SUCCESS:
                self.successAddresses.append(last)
        self.lastAddress = next(self.toAddresses, None)
        if self.lastAddress is not None:
            self._command("RCPT TO", self.lastAddress)
        elif self.successAddresses:
            self._expected = [354]
            self._okresponse = self.smtpState_data
            self.sendLine(b"DATA")
        else:
            self.smtpState_msgSent(code, resp)

    def smtpState_data(self, code: int, resp: bytes) -> None:
        """Send the content and the final dot. Only from then on is a 2xx success."""
        transport: Any = self.transport
        content = WireContent(self.getMailData())
        self._expected = list(smtp.SUCCESS)
        self._okresponse = self.smtpState_msgSent
        self.isTransferring = True
        sending = FileSender().beginFileTransfer(content, transport, self.transformChunk)

        def end(_: object) -> None:
            self.isTransferring = False
            self.isContentSent = True
            transport.write(content.end())

        sending.addCallbacks(end, lambda failure: self._abort(f"content not sent: {failure.value!r}"))

    def smtpState_msgSent(self, code: int, resp: bytes) -> None:
        """Tell `sentMail` the host's word. One that comes before the content's end leaves the session unusable."""
        if not self.isTransferring:
            super().smtpState_msgSent(code, resp)
            return
        if code not in smtp.SUCCESS:
            self.sentMail(code, resp, len(self.successAddresses), self.toAddressesResult, self.log)
        self._abort(f"{code} before the end of the content")

    def transformChunk(self, chunk: bytes) -> bytes:
        """Keep the connection's deadline moving while the peer takes content; it is stuffed already."""
        self.resetTimeout()
        return chunk

    def _command(self, verb: str, path: str) -> None:
        try:
            line = encode_command(f"{verb}:<{check_path(path)}>")
        except LocalProtocolError as error:
            log.msg(f"not sent: {error}")
            self.smtpState_msgSent(553, f"5.1.3 {error}".encode("ascii", "backslashreplace"))
            return
        self.sendLine(line.removesuffix(b"\r\n"))

    def _disconnectFromServer(self) -> None:
        super()._disconnectFromServer()
        self.setTimeout(QUIT_TIMEOUT_S)

    def _abort(self, why: str) -> None:
        """Close without another word, and without waiting for what the peer has not read."""
        self.whyEnded = self.whyEnded or why[:_SHOWN]
        self.isTransferring = False
        self.isAborted = True
        transport: Any = self.transport
        transport.abortConnection()


class StrictEsmtpClient(StrictClient, smtp.ESMTPClient):
    """The same with ESMTP: nothing from before TLS counts after it, no password in clear by surprise."""

    def esmtpState_starttls(self, code: int, resp: bytes) -> None:
        """Switch to TLS. Octets behind the 220 came in clear, from anybody: they end the session (RFC 3207 6)."""
        if self._buffer:
            self.clearLineBuffer()
            self._abort("octets in clear behind the reply to STARTTLS")
            return
        super().esmtpState_starttls(code, resp)

    def authenticate(self, code: int, resp: bytes, items: dict[bytes, bytes | None]) -> None:
        """Log in if there is a secret. Who gave a contextFactory meant TLS: without it the secret is not said."""
        if self.secret and self.context is not None and not self._tlsMode and items.get(b"AUTH"):
            self.esmtpTLSRequired()
            return
        super().authenticate(code, resp, items)


def describe_error(error: BaseException | None) -> str:
    """Say in one printable line what an SMTP error of Twisted's holds: code and text, without its transcript."""
    code, text = getattr(error, "code", None), getattr(error, "resp", None)
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    line = f"{code} {text}" if code is not None and code > 0 else str(text or error) or type(error).__name__
    return "".join(c if c.isprintable() else " " for c in line[:_SHOWN])
