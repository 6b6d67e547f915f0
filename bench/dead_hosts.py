# SPDX-License-Identifier: MIT
"""Exchangers that are dead or nearly so, one per process; run as `python dead_hosts.py WAY ADDRESS PORT`.

`syn`: SYNs are lost. `banner`: accepts and says nothing. `tls`: offers STARTTLS, says 220 to it, and then nothing; in
clear it takes mail, as a host behind a broken TLS layer does. `tarpit`: greets, and answers each line correctly, 20 s
after the answer before. (`refused` needs nobody.) Says `ready` on stdout, then counts messages as smtp-sink does.
Imports nothing of the benchmark.
"""

import asyncio
import select
import socket
import sys
from collections import deque
from collections.abc import Callable

import uvloop

TARPIT_S = 20.0
_FILL_PATIENCE_S = 0.3  # loopback answers a SYN within microseconds
_FILL_MOST = 64
_COUNT_S = 0.05  # how often the count is written
_END = b"\r\n.\r\n"


class LostSyn:
    """A listening socket whose queue of connections is full and stays so: the kernel drops every further SYN."""

    def __init__(self, address: str, port: int, patience_s: float = _FILL_PATIENCE_S) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((address, port))
        self._listener.listen(0)
        self.address: tuple[str, int] = self._listener.getsockname()
        self._fillers: list[socket.socket] = []
        while _connects(filler := socket.socket(), self.address, patience_s):
            self._fillers.append(filler)
            if len(self._fillers) > _FILL_MOST:
                raise OSError("the queue of a listening socket does not fill: this kernel ignores its backlog")
        filler.close()

    def close(self) -> None:
        """Give everything back."""
        for each in (*self._fillers, self._listener):
            each.close()


def _connects(filler: socket.socket, address: tuple[str, int], patience_s: float) -> bool:
    filler.setblocking(False)
    filler.connect_ex(address)
    _, writable, _ = select.select([], [filler], [], patience_s)
    return bool(writable)


class Tally:
    """Messages taken by all connections of this process."""

    messages = 0


class Exchanger(asyncio.Protocol):
    """A small SMTP server that takes everything; `drip_s` is the pause before each reply."""

    def __init__(self, tally: Tally, *, has_tls: bool = False, drip_s: float = 0.0) -> None:
        self._tally = tally
        self._has_tls = has_tls
        self._drip_s = drip_s
        self._unread = bytearray()
        self._in_content = self._is_silent = self._has_quit = False
        self._replies: deque[bytes] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        assert isinstance(transport, asyncio.Transport), "a TCP connection"
        self._transport = transport
        transport.write(b"220 exchanger ESMTP\r\n")

    def data_received(self, chunk: bytes) -> None:
        """Answer what is whole by now."""
        self._unread += chunk
        replies: list[bytes] = []
        while not self._is_silent and (one := self._next_reply()) is not None:
            replies.append(one)
        if self._drip_s:
            self._drip(replies)
        else:
            self._say(b"".join(replies))

    def _next_reply(self) -> bytes | None:
        """Give the reply to the next whole line or content; None: nothing is whole, b"": nothing is to be said."""
        mark = _END if self._in_content else b"\n"
        end = self._unread.find(mark)
        if end < 0:
            return None
        line = bytes(self._unread[:end]).rstrip()
        del self._unread[: end + len(mark)]
        if self._in_content:
            self._in_content = False
            self._tally.messages += 1
            return b"250 2.0.0 taken\r\n"
        return self._answer(line.upper())

    def _answer(self, line: bytes) -> bytes:
        verb = line.partition(b" ")[0]
        if verb == b"EHLO":
            return b"250-exchanger\r\n250-PIPELINING\r\n" + b"250-STARTTLS\r\n" * self._has_tls + b"250 8BITMIME\r\n"
        if verb == b"STARTTLS" and self._has_tls:
            self._is_silent = True
            return b"220 2.0.0 go ahead\r\n"
        if verb == b"DATA":
            self._in_content = True
            self._unread[:0] = b"\r\n"  # so that content of nothing but the final dot ends too
            return b"354 go ahead\r\n"
        if verb == b"QUIT":
            self._has_quit = True
            return b"221 2.0.0 bye\r\n"
        return b"250 2.0.0 ok\r\n"

    def _say(self, octets: bytes) -> None:
        self._transport.write(octets)
        if self._has_quit and not self._replies:
            self._transport.close()

    def _drip(self, replies: list[bytes]) -> None:
        was_waiting = bool(self._replies)
        self._replies.extend(replies)
        if self._replies and not was_waiting:
            asyncio.get_running_loop().call_later(self._drip_s, self._drop)

    def _drop(self) -> None:
        if self._transport.is_closing():
            return
        self._say(self._replies.popleft())
        if self._replies:
            asyncio.get_running_loop().call_later(self._drip_s, self._drop)


class Silent(asyncio.Protocol):
    """Accepts, and never says anything."""


def exchanger(way: str, tally: Tally) -> Callable[[], asyncio.Protocol]:
    """Give what makes one connection of an exchanger. Raises: KeyError: there is no such way."""
    makers: dict[str, Callable[[], asyncio.Protocol]] = {
        "banner": Silent,
        "tls": lambda: Exchanger(tally, has_tls=True),
        "tarpit": lambda: Exchanger(tally, drip_s=TARPIT_S),
    }
    return makers[way]


async def _serve(way: str, address: str, port: int) -> None:
    tally = Tally()
    server = await asyncio.get_running_loop().create_server(exchanger(way, tally), address, port, backlog=1024)
    print("ready", flush=True)
    told = 0
    async with server:
        while True:
            await asyncio.sleep(_COUNT_S)
            if tally.messages != told:
                told = tally.messages
                print(f"mesg={told}", end="\r", flush=True)


def main(way: str, address: str, port: int) -> None:
    """Be dead in this way until killed."""
    if way != "syn":
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(way, address, port))
    lost = LostSyn(address, port)
    print("ready", flush=True)
    try:
        select.select([], [], [])
    finally:
        lost.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
