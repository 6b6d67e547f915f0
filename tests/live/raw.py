# SPDX-License-Identifier: MIT
"""The near side of a test, octet by octet: a client on a plain socket that sends exactly what it is told to."""

import re
import socket
from types import TracebackType
from typing import Self

from tests.live.rig import WAIT_S


class RawClient:
    """A connection to the daemon. Use as a context manager; the greeting is read on entering."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection((host, port), WAIT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._heard = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        self.greeting = self.reply()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Go without a word."""
        self._heard.close()
        self.socket.close()

    def reply(self) -> str:
        """Read one reply; lines after the first are joined with spaces; "" when the daemon has hung up."""
        lines: list[str] = []
        while line := self._heard.readline():
            lines.append(line.decode().rstrip("\r\n"))
            if line[3:4] != b"-":
                return " ".join(lines)
        assert not lines, f"the connection ended within a reply: {lines}"
        return ""

    def say(self, octets: bytes) -> str:
        """Send octets, as they are, and read one reply."""
        self.socket.sendall(octets)
        return self.reply()

    def command(self, line: str, expect: str = "") -> str:
        """Send a line and read the reply, which must begin with `expect`."""
        answer = self.say(line.encode() + b"\r\n")
        assert answer.startswith(expect), f"{line!r} was answered with {answer!r}, not {expect}"
        return answer

    def begin(self, *recipients: str, sender: str = "alice@example.org", parameters: str = "") -> None:
        """Go up to 354."""
        self.command("EHLO client.example.org", "250")
        self.command(f"MAIL FROM:<{sender}>{parameters}", "250 2.1.0")
        for recipient in recipients:
            self.command(f"RCPT TO:<{recipient}>", "250 2.1.5")
        self.command("DATA", "354")

    def send(self, content: bytes, *recipients: str, sender: str = "alice@example.org", parameters: str = "") -> str:
        """Send a message and give its id. Content must end in CRLF, or be empty."""
        self.begin(*recipients, sender=sender, parameters=parameters)
        answer = self.say(stuffed(content) + b".\r\n")
        assert answer.startswith("250 2.0.0"), answer
        return answer.split()[-1]

    def is_closed(self) -> bool:
        """Has the daemon hung up? Waits for it."""
        try:
            return self._heard.read(1) == b""
        except ConnectionResetError:
            return True


def stuffed(content: bytes) -> bytes:
    """Double each dot that begins a line (RFC 5321 4.5.2)."""
    return re.sub(rb"(\A|\r\n)\.", rb"\1..", content)
