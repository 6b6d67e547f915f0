# SPDX-License-Identifier: MIT
"""DNS over UDP, and TCP where an answer is truncated: one server, one exchange at a time for the caller.

Keeps a few connected sockets per server: the kernel drops what others send, ICMP errors arrive, and an endpoint per
question (60 us) is saved. Ids are random, and each socket (source port) is given up after a while, so that both must be
guessed. Answers that do not belong to a question are ignored: the question goes on waiting.
"""

import asyncio
import secrets
from collections.abc import Callable, Collection
from typing import cast

from smarthost.backends.dns.codec import belongs_to, encode_query, is_truncated
from smarthost.backends.dns.servers import Server

SOCKETS = 4  # per server: each question's source port is one of four
QUESTIONS_PER_SOCKET = 500  # then another port takes its place
SOCKET_S = 60.0  # and then, too: who asks little must not keep one port for days


class Transport:
    """Exchanges messages with DNS servers, on one event loop; `monotonic` tells how old sockets are."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._sockets: dict[Server, list[_Socket]] = {}
        self._servers: Collection[Server] | None = None  # if not None: to others a socket serves one question
        self._is_closed = False

    async def exchange(self, server: Server, question: bytes, *, with_edns: bool = True) -> bytes:
        """Ask a server and give its answer, over TCP if it must be. Waits for ever: the caller sets a limit.

        Raises: OSError: nobody listens there, or no socket is to be had. Safe to cancel.
        """
        if self._is_closed:
            raise OSError("the resolver is closed")
        socket = await self._socket(server)
        id, waiting = socket.ask(encode_query(0, question, with_edns=with_edns), question)
        try:
            message = await waiting
        except BaseException:
            socket.spend()
            raise
        finally:
            socket.forget(id)
        return await _exchange_over_tcp(server, question, with_edns) if is_truncated(message) else message

    def keep_only(self, servers: Collection[Server]) -> None:
        """Give up the sockets of all other servers; questions under way go on."""
        self._servers = servers
        for server in [each for each in self._sockets if each not in servers]:
            for socket in self._sockets.pop(server):
                socket.retire()

    async def _socket(self, server: Server) -> "_Socket":
        is_kept = self._servers is None or server in self._servers
        sockets = self._sockets.setdefault(server, []) if is_kept else []
        at = secrets.randbelow(SOCKETS)
        if at < len(sockets):
            socket = sockets[at]
            if not socket.is_spent and self._monotonic() < socket.until:
                return socket
            sockets.remove(socket)
            socket.retire()
        host, port = server
        loop = asyncio.get_running_loop()
        until = self._monotonic() + SOCKET_S
        _, socket = await loop.create_datagram_endpoint(lambda: _Socket(until), remote_addr=(host, port))
        if self._is_closed:
            socket.close()
            raise OSError("the resolver is closed")
        if len(sockets) < SOCKETS and self._sockets.get(server) is sockets:
            sockets.append(socket)
        else:  # others were faster, or the server was given up meanwhile: it serves this question only
            socket.retire()
        return socket

    def close(self) -> None:
        """Close all sockets; questions under way end with OSError."""
        self._is_closed = True
        for sockets in self._sockets.values():
            for socket in sockets:
                socket.close()
        self._sockets.clear()


class _Socket(asyncio.DatagramProtocol):
    """One connected UDP socket and the questions that wait on it; no more are to be asked after `until`."""

    def __init__(self, until: float) -> None:
        self.until = until
        self._transport: asyncio.DatagramTransport | None = None
        self._waiting: dict[int, tuple[bytes, asyncio.Future[bytes]]] = {}
        self._asked = 0
        self._is_retired = False

    @property
    def is_spent(self) -> bool:
        return self._asked >= QUESTIONS_PER_SOCKET or self._transport is None or self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)  # neither loop's own class derives from it

    def ask(self, query: bytes, question: bytes) -> tuple[int, asyncio.Future[bytes]]:
        """Send a query under an id of its own; `forget` that afterwards, whatever came of it."""
        assert self._transport is not None, "asked before it was connected"
        id = secrets.randbits(16)
        while id in self._waiting:
            id = secrets.randbits(16)
        waiting: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[id] = (question, waiting)
        self._asked += 1
        self._transport.sendto(id.to_bytes(2, "big") + query[2:])
        return id, waiting

    def forget(self, id: int) -> None:
        self._waiting.pop(id, None)
        if self._is_retired and not self._waiting:
            self.close()

    def spend(self) -> None:
        """Let another take its place: it may be bound to an address that this machine has lost (a laptop)."""
        self._asked = max(self._asked, QUESTIONS_PER_SOCKET)

    def retire(self) -> None:
        """Take no more questions; close when the last one is answered or forgotten."""
        self._is_retired = True
        if self._asked and not self._waiting:
            self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()  # connection_lost follows, and fails what waits

    def datagram_received(self, data: bytes, addr: tuple[object, ...]) -> None:
        question, waiting = self._waiting.get(int.from_bytes(data[:2], "big"), (b"", None))
        if waiting is not None and not waiting.done() and belongs_to(data, question):
            waiting.set_result(data)

    def error_received(self, exc: Exception) -> None:
        self._fail(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc if exc is not None else OSError("socket closed"))

    def _fail(self, why: Exception) -> None:
        for _, waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(why)


async def _exchange_over_tcp(server: Server, question: bytes, with_edns: bool) -> bytes:
    """RFC 7766: two octets of length before each message. One connection per question: truncation is rare."""
    reader, writer = await asyncio.open_connection(*server)
    try:
        id = secrets.randbits(16)
        query = encode_query(id, question, with_edns=with_edns)
        writer.write(len(query).to_bytes(2, "big") + query)
        length = int.from_bytes(await reader.readexactly(2), "big")
        message = await reader.readexactly(length)
    except asyncio.IncompleteReadError as error:
        raise OSError("the server closed the TCP connection early") from error
    finally:
        writer.close()
    if message[:2] != id.to_bytes(2, "big") or not belongs_to(message, question):
        raise OSError("the TCP answer belongs to another question")
    return message
