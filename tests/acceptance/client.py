# SPDX-License-Identifier: MIT
"""A raw SMTP client: sends exactly the octets it is given, reads replies strictly, waits never without an end."""

import base64
import re
import socket
import ssl
from pathlib import Path
from typing import NamedTuple, Self

DEADLINE_S = 20.0
REPLY_LINE = re.compile(rb"([2-5][0-9][0-9])([ -])([\x20-\x7e\t\x80-\xff]*)\r\n")


class Reply(NamedTuple):
    """The code, and the text of each line."""

    code: int
    lines: list[bytes]

    @property
    def text(self) -> bytes:
        """All lines, joined by a line feed."""
        return b"\n".join(self.lines)


class Client:
    """A session from 127.0.0.1, or, by a PROXY header, from wherever `proxied_from` says."""

    def __init__(
        self, port: int, *, proxied_from: str = "", greeted: bool = True, tls: ssl.SSLContext | None = None
    ) -> None:
        self.sock: socket.socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unread = b""
        if proxied_from:
            self.send(b"PROXY TCP4 %b 127.0.0.1 4711 25\r\n" % proxied_from.encode())
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
        if greeted:
            self.greeting = self.reply()
            assert self.greeting.code == 220, self.greeting

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, octets: bytes) -> None:
        self.sock.sendall(octets)

    def _line(self) -> bytes:
        while b"\n" not in self.unread:
            octets = self.sock.recv(65536)
            if not octets:
                raise EOFError(f"closed after {self.unread!r}")
            self.unread += octets
        line, _, self.unread = self.unread.partition(b"\n")
        return line + b"\n"

    def reply(self) -> Reply:
        """Read one reply. Raises: EOFError: closed. AssertionError: it is no reply by RFC 5321 4.2."""
        codes: list[bytes] = []
        lines: list[bytes] = []
        while True:
            line = self._line()
            match = REPLY_LINE.fullmatch(line)
            assert match, f"no reply line: {line!r}"
            codes.append(match[1])
            lines.append(match[3])
            if match[2] == b" ":
                assert len(set(codes)) == 1, (codes, lines)
                return Reply(int(codes[0]), lines)

    def say(self, command: bytes) -> Reply:
        self.send(command + b"\r\n")
        return self.reply()

    def code(self, command: bytes) -> int:
        return self.say(command).code

    def hello(self, name: bytes = b"client.example.com", verb: bytes = b"EHLO") -> dict[bytes, bytes]:
        """Say EHLO; give the extensions with their parameters."""
        reply = self.say(verb + b" " + name)
        assert reply.code == 250, reply
        words = (line.partition(b" ") for line in reply.lines[1:])
        return {word.upper(): rest for word, _, rest in words}

    def start_tls(self, context: ssl.SSLContext) -> None:
        assert self.code(b"STARTTLS") == 220
        assert not self.unread, "octets in clear after the reply to STARTTLS"
        self.sock = context.wrap_socket(self.sock, server_hostname="localhost")

    def is_closed(self) -> bool:
        """Wait for the end of the connection: true if nothing came before it."""
        try:
            return not self.unread and not self.sock.recv(65536)
        except ConnectionError:
            return True

    def what_came_until_the_end(self) -> bytes:
        """Read until the other side closes; a timeout is an error."""
        came = self.unread
        self.unread = b""
        try:
            while octets := self.sock.recv(65536):
                came += octets
        except (ConnectionError, ssl.SSLError):
            pass
        return came

    def transact(self, sender: bytes, recipient: bytes, content: bytes, parameters: bytes = b"") -> Reply:
        """MAIL, RCPT, DATA with `content` as it is (dots not stuffed), the end."""
        assert (reply := self.say(b"MAIL FROM:<%b>%b" % (sender, parameters))).code == 250, reply
        assert (reply := self.say(b"RCPT TO:<%b>" % recipient)).code == 250, reply
        assert (reply := self.say(b"DATA")).code == 354, reply
        self.send(content + b"\r\n.\r\n")
        return self.reply()

    def bdat(self, content: bytes, *, last: bool = True) -> Reply:
        self.send(b"BDAT %d%b\r\n" % (len(content), b" LAST" if last else b"") + content)
        return self.reply()


def plain(user: bytes, password: bytes, authorised_as: bytes = b"") -> bytes:
    """The one message of SASL PLAIN (RFC 4616), in base64."""
    return base64.b64encode(authorised_as + b"\0" + user + b"\0" + password)


def trusting(ca: Path, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """A client's TLS that trusts `ca` and nothing else, with a certificate of its own if one is given."""
    context = ssl.create_default_context(cafile=str(ca))
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context
