# SPDX-License-Identifier: MIT
"""The body of a request: read whole, within a size and a time, and hashed as it comes.

Small bodies are bounded by the number of connections; of large ones `LARGE_AT_A_TIME` are in memory, from the first
octet until the request is answered, and the rest wait their turn unread.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

from msgspec import Struct

from smarthost.ops.http.problems import Problem

BODY_S = 120.0
TURN_S = 60.0
LARGE_OCTETS = 1 << 20
LARGE_AT_A_TIME = 2


class Arriving(Protocol):
    """A request as starlette has it."""

    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def receive(self) -> Callable[[], Awaitable[Mapping[str, Any]]]: ...


class Body(Struct, frozen=True):
    """All of it, and its SHA-256."""

    octets: bytes = b""
    digest: bytes = b""


class Room:
    """Room for large bodies."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(LARGE_AT_A_TIME)

    @asynccontextmanager
    async def of(self, request: Arriving) -> AsyncIterator[None]:
        """Hold room for this request's body as long as it is worked on. Raises: Problem: none became free."""
        if 0 <= announced_octets(request) <= LARGE_OCTETS:
            yield
            return
        try:
            async with asyncio.timeout(TURN_S):
                await self._turns.acquire()
        except TimeoutError:
            detail = "too many large requests at a time"
            raise Problem("unavailable", detail, headers={"retry-after": "10"}) from None
        try:
            yield
        finally:
            self._turns.release()


def announced_octets(request: Arriving) -> int:
    """Give how long the body is to be; -1: it does not say, 0: there is none."""
    if "transfer-encoding" in request.headers:
        return -1
    length = request.headers.get("content-length", "0")
    return int(length) if length.isascii() and length.isdecimal() and len(length) < 16 else -1


async def read_body(request: Arriving, limit: int) -> Body:
    """Read it. Raises: Problem: it is too large. TimeoutError: too slow. ConnectionError: the client is gone."""
    if announced_octets(request) > limit:
        raise Problem("too-large", f"at most {limit:,} octets")
    pieces: list[bytes] = []
    length = 0
    digest = hashlib.sha256()
    async with asyncio.timeout(BODY_S):
        while True:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError("the client is gone")
            piece: bytes = message.get("body", b"")
            length += len(piece)
            if length > limit:
                raise Problem("too-large", f"at most {limit:,} octets")
            pieces.append(piece)
            digest.update(piece)
            if not message.get("more_body", False):
                return Body(b"".join(pieces), digest.digest())
