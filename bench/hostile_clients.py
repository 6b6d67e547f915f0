# SPDX-License-Identifier: MIT
"""Clients that attack a relay in every way of ATTACKS at once; one process, loopback, ended by the end of stdin.

Run as `python bench/hostile_clients.py PORT [ATTACK...]`. Each attacker has an address of its own below 127.0.0.0/8, so
that no limit for one client ends the attack; who is hung up on comes again a second later. Says `attacking` on stdout
when each has come to its point, and at the end how often each kind has, as JSON. Imports nothing of the benchmark.
"""

import asyncio
import base64
import json
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import count

import uvloop

PAUSE_S = 1.0
PATIENCE_S = 60.0  # of one attack; then it begins again
_BEGUN_S = 20.0
_EHLO = b"EHLO attacker.bench.test\r\n"
_ENVELOPE = b"MAIL FROM:<a@bench.test>\r\nRCPT TO:<to@sink.test>\r\n"
_MEGABYTE = 1 << 20
_GUESS = b"AUTH PLAIN " + base64.b64encode(b"\0nobody\0guess") + b"\r\n"
_HALF_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100)  # a ClientHello of 512 octets, cut off


class Attacker:
    """One connection, on the bare socket: what is not asked for is not read."""

    def __init__(self, loop: asyncio.AbstractEventLoop, source: str, begun: Callable[[], None]) -> None:
        self._loop = loop
        self._begun = begun
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self._socket.bind((source, 0))

    async def begin(self, port: int, octets: bytes = b"", code: bytes = b"220") -> None:
        """Connect, wait for the greeting, say something, and read until a last line with this code."""
        await self._loop.sock_connect(self._socket, ("127.0.0.1", port))
        await self.read_until(b"220 ")
        if octets:
            await self.say(octets)
            await self.read_until(code)
        self._begun()

    async def say(self, octets: bytes) -> None:
        """Send; waits while nobody reads."""
        await self._loop.sock_sendall(self._socket, octets)

    async def read_until(self, mark: bytes) -> None:
        """Read until there is a line that begins so. Raises: OSError: they hung up, or said something else."""
        heard = b""
        while True:
            chunk = await self._loop.sock_recv(self._socket, 65_536)
            if not chunk:
                raise ConnectionResetError
            heard += chunk
            if heard.startswith(mark) or b"\n" + mark in heard:
                return
            if heard[:1] in b"45":
                raise ConnectionRefusedError

    async def read_on(self) -> None:
        """Read whatever comes until they hang up."""
        while await self._loop.sock_recv(self._socket, 65_536):
            pass

    async def drip(self, octets: bytes) -> None:
        """An octet a second, for ever."""
        while True:
            for octet in octets:
                await self.say(bytes([octet]))
                await asyncio.sleep(1.0)

    def close(self) -> None:
        """Go without a word."""
        self._socket.close()


async def _silent(attacker: Attacker, port: int) -> None:
    await attacker.begin(port)
    await attacker.read_on()


async def _slow_command(attacker: Attacker, port: int) -> None:
    await attacker.begin(port, _EHLO, b"250")
    await attacker.drip(b"NOOP ")


async def _slow_data(attacker: Attacker, port: int) -> None:
    await attacker.begin(port, _EHLO + _ENVELOPE + b"DATA\r\n", b"354 ")
    await attacker.drip(b"x\r\n")


async def _slow_bdat(attacker: Attacker, port: int) -> None:
    await attacker.begin(port, _EHLO + _ENVELOPE + b"BDAT 40000000\r\n", b"250 2.1.5 ")
    await attacker.drip(b"x")


async def _slow_auth(attacker: Attacker, port: int) -> None:
    await attacker.begin(port, _EHLO + b"AUTH LOGIN\r\n", b"334")
    await attacker.drip(b"Q")


async def _deaf(attacker: Attacker, port: int) -> None:
    """Megabytes of commands, and no reply is read."""
    await attacker.begin(port)
    await attacker.say(_EHLO * (8 * _MEGABYTE // len(_EHLO)))


async def _noop_flood(attacker: Attacker, port: int) -> None:
    await attacker.begin(port, _EHLO, b"250")
    while True:
        await attacker.say(b"NOOP\r\n" * 50)
        await attacker.read_until(b"250")


async def _guess(attacker: Attacker, port: int) -> None:
    await attacker.begin(port, _EHLO, b"250")
    while True:
        await attacker.say(_GUESS)
        await attacker.read_until(b"535")


async def _endless_rcpt(attacker: Attacker, port: int) -> None:
    numbers = count()
    await attacker.begin(port, _EHLO + b"MAIL FROM:<a@bench.test>\r\n", b"250 2.1.0")
    while True:
        await attacker.say(b"".join([b"RCPT TO:<r%d@sink.test>\r\n" % next(numbers) for _ in range(100)]))
        await attacker.read_until(b"250 2.1.5")


async def _half_handshake(attacker: Attacker, port: int) -> None:
    """A handshake begun, and left a second later."""
    await attacker.begin(port, _EHLO + b"STARTTLS\r\n", b"220")
    await attacker.say(_HALF_HELLO)
    await asyncio.sleep(1.0)


ATTACKS: dict[str, tuple[int, Callable[[Attacker, int], Awaitable[None]]]] = {
    # what: (how many at a time, how)
    "silence": (500, _silent),
    "slow command": (10, _slow_command),
    "slow DATA": (10, _slow_data),
    "slow BDAT": (10, _slow_bdat),
    "slow AUTH": (10, _slow_auth),
    "unread replies": (5, _deaf),
    "NOOP flood": (10, _noop_flood),
    "guessing": (10, _guess),
    "endless RCPT": (2, _endless_rcpt),
    "half handshake": (20, _half_handshake),
}


def _sources() -> Iterator[str]:
    """An address for each attacker."""
    for number in count():
        yield f"127.0.{50 + number // 250}.{1 + number % 250}"


async def _attack(port: int, kinds: list[str]) -> None:
    loop = asyncio.get_running_loop()
    begun: Counter[str] = Counter()
    sources = _sources()

    async def keep_attacking(kind: str, how: Callable[[Attacker, int], Awaitable[None]], source: str) -> None:
        while True:
            attacker = Attacker(loop, source, partial(begun.update, (kind,)))
            with suppress(OSError):
                try:
                    async with asyncio.timeout(PATIENCE_S):
                        await how(attacker, port)
                finally:
                    attacker.close()
            await asyncio.sleep(PAUSE_S)

    tasks = [
        asyncio.create_task(keep_attacking(kind, ATTACKS[kind][1], next(sources)))
        for kind in kinds
        for _ in range(ATTACKS[kind][0])
    ]
    deadline = time.monotonic() + _BEGUN_S
    while any(begun[kind] < ATTACKS[kind][0] for kind in kinds) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    print("attacking", flush=True)
    await asyncio.to_thread(sys.stdin.buffer.read)
    for task in tasks:
        task.cancel()
    failed = [each for each in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(each, Exception)]
    print(json.dumps({"begun": begun, "failed": [repr(each) for each in failed]}), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_attack(int(sys.argv[1]), sys.argv[2:] or list(ATTACKS)))
