# SPDX-License-Identifier: MIT
"""A few lines of SMTP in clear, for looking at a host: hear its banner, say a command, say goodbye. Never DATA.

For what send.session cannot do: stop after the banner, or say RCPT and no more. Each answer is waited for by the
caller's patience and within `ANSWER_S`.
"""

import asyncio

from smarthost.mail.errors import ConnectionLost, DeadlinePassed, LocalProtocolError
from smarthost.mail.hop import TlsFacts
from smarthost.mail.reply import Reply
from smarthost.ports import Connection
from smarthost.smtp.replies import ReplyParser

ANSWER_S = 6.0  # exchangers that greet late on purpose (against spam) take 5 s as a rule


class Talk:
    """One conversation over a connection; owns it from now on."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._replies = ReplyParser()
        self._told = asyncio.Event()
        self._why: Exception | None = None
        connection.attach(self)

    async def hear(self) -> Reply:
        """Wait for a reply.

        Raises: ConnectionLost, DeadlinePassed; RemoteProtocolError: what came is no SMTP.
        """
        try:
            async with asyncio.timeout(ANSWER_S):
                while (reply := self._replies.next_reply()) is None:
                    if self._why is not None:
                        raise self._why
                    self._told.clear()
                    await self._told.wait()
        except TimeoutError:
            raise DeadlinePassed(f"no answer within {ANSWER_S:g} s") from None
        return reply

    async def say(self, command: str) -> Reply:
        """Send a command of ours and wait for its reply. Raises: as `hear`."""
        assert command.isascii(), "our own words"
        assert "\r" not in command, "one line"
        assert "\n" not in command, "one line"
        self._connection.write([command.encode("ascii") + b"\r\n"])
        return await self.hear()

    def leave(self) -> None:
        """Say QUIT and close, without waiting for an answer."""
        if self._why is None:
            self._connection.write([b"QUIT\r\n"])
            self._connection.close()

    # ports.Receiver

    def received(self, chunk: bytes) -> None:
        """Take octets from the host."""
        try:
            self._replies.feed(chunk)
        except LocalProtocolError:  # a flood that nobody asked for
            self._connection.abort()
        self._told.set()

    def writable(self) -> None:
        """Nothing of ours is large enough to wait."""

    def secured(self, facts: TlsFacts) -> None:
        """Never asked for here."""

    def ended(self) -> bool:
        """Nothing is to be said to a host that has hung up."""
        return False

    def lost(self, why: Exception | None) -> None:
        """The connection is gone."""
        self._why = why if why is not None else ConnectionLost("the host closed the connection")
        self._told.set()
