# SPDX-License-Identifier: MIT
"""ScriptedClient: the near side of a test, a simple SMTP client that says what it is told and remembers the replies.

Like testing.peers it uses none of smarthost's own SMTP code, and is simple before complete. On virtual or real time,
over any Connection. `heard` is told each reply, and "the end" when the connection is gone.
"""

import asyncio
from collections.abc import Callable, Sequence

from msgspec import Struct

from smarthost.mail.hop import TlsFacts
from smarthost.ports import Connection, TlsRequest

CONTENT = b"Subject: test\r\nMessage-ID: <1@example.org>\r\n\r\nbody\r\n"


class Acknowledged(Struct, frozen=True):
    """A message for which a client heard 250, with the recipients that were accepted."""

    id: str
    reverse_path: str
    recipients: tuple[str, ...]


class ScriptedClient:
    """Says a line, hears a reply; on a lost connection every reply is ""."""

    def __init__(self, connection: Connection, heard: Callable[[str], None] = lambda reply: None) -> None:
        self.acknowledged: list[Acknowledged] = []
        self.is_lost = False
        self.facts: TlsFacts | None = None
        self._connection = connection
        self._heard = heard
        self._replies: list[str] = []
        self._news = asyncio.Event()
        self._unread = bytearray()
        connection.attach(self)

    def received(self, chunk: bytes) -> None:
        self._unread += chunk
        while (end := self._unread.find(b"\r\n")) >= 0:
            line = self._unread[:end].decode()
            del self._unread[: end + 2]
            if line[3:4] != "-":  # of several lines the last one stands for all
                self._replies.append(line)
                self._heard(line)
        self._news.set()

    def writable(self) -> None: ...

    def secured(self, facts: TlsFacts) -> None:
        self.facts = facts
        self._news.set()

    def ended(self) -> bool:
        return False

    def lost(self, why: Exception | None) -> None:
        self.is_lost = True
        self._heard("the end")
        self._news.set()

    async def hear(self) -> str:
        """Wait for one reply."""
        while not self._replies:
            if self.is_lost:
                return ""
            self._news.clear()
            await self._news.wait()
        return self._replies.pop(0)

    def write(self, octets: bytes) -> None:
        """Write octets and wait for nothing."""
        self._connection.write((octets,))

    async def say(self, octets: bytes) -> str:
        """Write octets and wait for one reply."""
        self.write(octets)
        return await self.hear()

    async def shake_hands(self, tls: TlsRequest) -> TlsFacts | None:
        """Begin TLS, after STARTTLS or first of all; None: the connection was lost instead."""
        self._connection.upgrade(tls)
        while self.facts is None and not self.is_lost:
            self._news.clear()
            await self._news.wait()
        return self.facts

    async def begin(self, reverse_path: str, recipients: Sequence[str]) -> list[str]:
        """Say MAIL, RCPT and DATA, pipelined, and give the reply to each."""
        commands = [f"MAIL FROM:<{reverse_path}>", *(f"RCPT TO:<{each}>" for each in recipients), "DATA"]
        self.write("".join(f"{each}\r\n" for each in commands).encode())
        return [await self.hear() for _ in commands]

    async def send(self, reverse_path: str, recipients: Sequence[str], content: bytes = CONTENT) -> str:
        """Send a message; give the reply to the content, or the one that prevented it."""
        heard = await self.begin(reverse_path, recipients)
        if not heard[-1].startswith("354"):
            return next((reply for reply in heard if reply[:1] != "2"), "")
        stuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]
        reply = await self.say(stuffed + b".\r\n")
        if reply.startswith("250"):
            taken = tuple(each for each, said in zip(recipients, heard[1:-1], strict=True) if said.startswith("250"))
            self.acknowledged.append(Acknowledged(reply.rpartition(" ")[2], reverse_path, taken))
        return reply

    async def quit(self) -> None:
        """Say goodbye."""
        if not self.is_lost:
            await self.say(b"QUIT\r\n")
        self.close()

    def close(self) -> None:
        """Hang up without a word."""
        self._connection.close()
