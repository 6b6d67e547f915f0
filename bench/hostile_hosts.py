# SPDX-License-Identifier: MIT
"""Plays every way of hostile_ways.py at an address of its own, and the name server that knows them; one process.

Run as `python -m bench.hostile_hosts PORT OUR_NAME CERTIFICATE KEY` (PEM). Says `{"dns": PORT}` on stdout when all
listen, plays until stdin ends, and then says for each way how often it was connected to and what it took, as JSON.
"""

import asyncio
import json
import socket
import ssl
import struct
import sys
from collections import Counter
from collections.abc import Mapping
from typing import ClassVar, cast

import uvloop

from bench.dead_hosts import LostSyn
from bench.dead_zone import QuickDns
from bench.hostile_ways import GOOD, GOOD_ADDRESS, WAYS, Act, Deed, Flood, Turn, Way
from smarthost.testing.dns import Zone

_END = b"\r\n.\r\n"
_NARROW_OCTETS = 4096
_LINGER_NONE = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST
_USUAL = {
    "HELO": b"250 mx\r\n",
    "MAIL": b"250 2.1.0 ok\r\n",
    "RCPT": b"250 2.1.5 ok\r\n",
    "DATA": b"354 go\r\n",
    "STARTTLS": b"220 2.0.0 go\r\n",
    "BDAT": b"250 2.0.0 ok\r\n",
    "RSET": b"250 2.0.0 ok\r\n",
}


def compose_zone(our_name: str, ways: tuple[Way, ...] = WAYS) -> Zone:
    """Give each way a domain with one exchanger; one of them has our own name. One domain is good."""
    zone = Zone()
    zone.set(GOOD, f"MX 10 mx.{GOOD}")
    zone.set(f"mx.{GOOD}", f"A {GOOD_ADDRESS}")
    zone.set(our_name, "A 127.0.43.1")
    for way in ways:
        name = our_name if way.is_us else f"mx.{way.domain}"
        zone.set(way.domain, f"MX 10 {name}")
        if not way.is_us:
            zone.set(name, f"A {way.address}")
    return zone


class Tally:
    """What one host has seen."""

    def __init__(self) -> None:
        self.connections = 0
        self.taken = 0
        self.reached: Counter[str] = Counter()


class Session(asyncio.Protocol):
    """One connection to a hostile host."""

    open: ClassVar[set["Session"]] = set()  # the loop forgets whoever reads no more, and a collection would hang up

    def __init__(self, way: Way, tally: Tally, context: ssl.SSLContext) -> None:
        self._way, self._tally, self._context = way, tally, context
        self._unread = bytearray()
        self._extensions = way.extensions
        self._in_content = self._is_over = self._is_shaking = self._is_paused = False
        self._flood: Flood | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, or not."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self.open.add(self)
        self._tally.connections += 1
        self._act("connect", b"")
        if not self._is_over:
            self._act("banner", b"220 mx ESMTP\r\n")

    def connection_lost(self, error: Exception | None) -> None:
        """Whatever was going on has nobody to hear it."""
        self._is_over, self._flood = True, None
        self.open.discard(self)

    def data_received(self, chunk: bytes) -> None:
        """Answer what is whole."""
        if self._is_over:
            return
        if self._is_shaking:
            trick = self._way.at_starttls
            self._perform(b"" if trick is None else trick)
            return
        if self._way.drops_pipelined and not self._in_content:
            chunk = chunk[: chunk.find(b"\n") + 1]
        self._unread += chunk
        while not self._is_over and self._take_one():
            pass

    def _take_one(self) -> bool:
        if self._in_content:
            return self._take_content()
        end = self._unread.find(b"\n")
        if end < 0:
            return False
        line = bytes(self._unread[:end]).strip()
        del self._unread[: end + 1]
        self._answer(line)
        return True

    def _take_content(self) -> bool:
        if len(self._unread) > 2 and "body" in self._way.does:
            self._act("body", b"")
            return False
        end = self._unread.find(_END)
        if end < 0:
            return False
        empty = end == 0
        del self._unread[: end + len(_END)]
        self._in_content = False
        if empty:  # nothing but a dot, after recipients that were all refused
            self._perform(b"554 5.5.1 nothing for nobody\r\n")
        else:
            self._file()
        return True

    def _file(self) -> None:
        if self._act("dot", b"250 2.0.0 taken\r\n").startswith(b"2"):
            self._tally.taken += 1
            self._act("after", b"")

    def _answer(self, line: bytes) -> None:
        verb, _, argument = line.partition(b" ")
        step = verb.decode("ascii", "replace").upper()
        if step == "EHLO":
            lines = (b"mx", *self._extensions)
            self._act("ehlo", b"".join([b"250-%b\r\n" % each for each in lines[:-1]]) + b"250 %b\r\n" % lines[-1])
        elif step == "STARTTLS":
            self._begin_tls()
        elif step == "QUIT":
            self._perform(b"221 2.0.0 bye\r\n")
            self._perform(Act.CLOSE)
        else:
            local = argument.partition(b"<")[2].partition(b"@")[0]
            said = self._act(step.lower(), _USUAL.get(step, b"502 5.5.1 what\r\n"), local)
            if step == "DATA" and said.startswith(b"354"):
                self._in_content = True
                self._unread[:0] = b"\r\n"  # so that content of nothing but the final dot ends too

    def _begin_tls(self) -> None:
        self._unread.clear()
        if self._way.inside_tls is None:
            self._is_shaking = True
            self._act("starttls", _USUAL["STARTTLS"])
            return
        self._transport.pause_reading()  # the first octet of the handshake is not ours
        self._act("starttls", _USUAL["STARTTLS"])
        self._task = asyncio.ensure_future(self._shake_hands(self._way.inside_tls))

    async def _shake_hands(self, extensions: tuple[bytes, ...]) -> None:
        loop = asyncio.get_running_loop()
        try:
            secured = await loop.start_tls(self._transport, self, self._context, server_side=True)
        except OSError:
            return  # the client wanted none of it
        if secured is not None:
            self._transport, self._extensions = secured, extensions

    def _act(self, step: str, usual: bytes, local: bytes = b"") -> bytes:
        """Do what the way does at this step; give what was said."""
        number = self._tally.reached[step]
        self._tally.reached[step] += 1
        deed = self._way.does.get(step, usual)
        if isinstance(deed, Mapping):
            deed = deed.get(local, usual)
        if isinstance(deed, Turn):
            deed = deed.acts[min(number, len(deed.acts) - 1)]
        return self._perform(deed)

    def _perform(self, deed: Deed) -> bytes:
        match deed:
            case bytes():
                self._transport.write(deed)
                return deed
            case Flood():
                self._is_over, self._flood = True, deed
                asyncio.get_running_loop().call_later(deed.every_s, self._go_on)
            case Act.CLOSE:
                self._is_over = True
                self._transport.close()
            case Act.RESET:
                self._is_over = True
                self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
                self._transport.abort()
            case Act.DEAF:
                self._is_over = True
                self._transport.pause_reading()
            case _:
                self._is_over = True
        return b""

    def pause_writing(self) -> None:
        """Nobody reads as fast as we flood."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Go on."""
        self._is_paused = False
        self._go_on()

    def _go_on(self) -> None:
        flood = self._flood
        if flood is None or self._is_paused or self._transport.is_closing():
            return
        self._transport.write(flood.octets)
        asyncio.get_running_loop().call_later(flood.every_s, self._go_on)


async def _listen(way: Way, port: int, tally: Tally, context: ssl.SSLContext) -> LostSyn | asyncio.Server | None:
    connect = way.does.get("connect")
    if connect is Act.REFUSE or way.is_us:
        return None
    if connect is Act.LOST:
        return LostSyn(way.address, port)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if way.narrow:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _NARROW_OCTETS)
    listener.bind((way.address, port))
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Session(way, tally, context), sock=listener, backlog=1024)


async def _play(port: int, our_name: str, certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    tallies = {domain: Tally() for domain in WAYS_BY_DOMAIN}
    playing = [await _listen(way, port, tallies[domain], context) for domain, way in WAYS_BY_DOMAIN.items()]
    async with QuickDns(compose_zone(our_name), "127.0.0.1", 0) as dns:
        print(json.dumps({"dns": dns.address[1]}), flush=True)
        await asyncio.to_thread(sys.stdin.buffer.read)
    seen = {domain: {"connections": each.connections, "taken": each.taken} for domain, each in tallies.items()}
    print(json.dumps(seen), flush=True)
    for each in playing:
        if each is not None:
            each.close()


WAYS_BY_DOMAIN = {way.domain: way for way in WAYS}


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_play(int(sys.argv[1]), *sys.argv[2:]))
