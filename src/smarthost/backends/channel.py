# SPDX-License-Identifier: MIT
"""The parent's end of a socketpair to the child: whole frames out and in, never blocking the event loop.

Reports the end of the other side once, from the event loop, whichever way it is noticed.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from smarthost.backends.boot import LENGTH

# A buffer that stays: recv() of as much would map, shrink and unmap memory for each answer of 30 octets.
_RECEIVE_OCTETS = 256 * 1024
_BUFFERS_A_WRITE = 1_000  # IOV_MAX is 1,024
_SOCKET_OCTETS = 4 * 1024 * 1024  # the kernel gives what net.core.wmem_max allows; 212,992 by default


class Channel:
    """One end of a socketpair on one event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        received: Callable[[bytes], None],
        lost: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._received = received
        self._lost = lost
        self._unsent: deque[bytes | memoryview] = deque()
        self._unread = bytearray()
        self._space = memoryview(bytearray(_RECEIVE_OCTETS))
        self._is_open = True
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_OCTETS)
        loop.add_reader(sock.fileno(), self._readable)

    def send(self, buffers: Sequence[bytes]) -> None:
        """Send the buffers as one frame; nothing is copied but by the kernel, nor sent once the other end is gone."""
        is_blocked = bool(self._unsent)
        self._unsent.append(LENGTH.pack(sum([len(buffer) for buffer in buffers])))
        self._unsent.extend(buffers)
        if not is_blocked:
            self._flush()

    def _flush(self) -> None:
        unsent = self._unsent
        while unsent and self._is_open:
            try:
                sent = self._sock.sendmsg(list(islice(unsent, _BUFFERS_A_WRITE)))
            except BlockingIOError:
                self._loop.add_writer(self._sock.fileno(), self._writable)
                return
            except OSError:
                unsent.clear()  # reading will see the end, and tell
                return
            while unsent and sent >= len(unsent[0]):
                sent -= len(unsent.popleft())
            if sent:
                unsent[0] = memoryview(unsent[0])[sent:]

    def _writable(self) -> None:
        self._loop.remove_writer(self._sock.fileno())
        self._flush()

    def _readable(self) -> None:
        try:
            received = self._sock.recv_into(self._space)
        except BlockingIOError:
            return
        except OSError:
            received = 0
        if not received:
            self.close()
            self._lost()
            return
        self._unread += self._space[:received]
        unread = self._unread
        start = 0
        while len(unread) - start >= LENGTH.size:
            (length,) = LENGTH.unpack_from(unread, start)
            end = start + LENGTH.size + length
            if len(unread) < end:
                break
            self._received(bytes(unread[start + LENGTH.size : end]))
            start = end
        del unread[:start]

    def shut(self) -> None:
        """Say that nothing more comes; what the other end still says is heard."""
        if self._is_open:
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Let go of the socket; harmless when repeated. `lost` is not called."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
            self._unsent.clear()
