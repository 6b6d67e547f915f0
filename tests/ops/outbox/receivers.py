# SPDX-License-Identifier: MIT
"""Real HTTP receivers on loopback that do as they are told: answer, refuse, hang, break off, send without end."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    """Give an answer with these header lines."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Posted:
    """One request."""

    def __init__(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.path = path
        self.headers = headers
        self.body = body

    @property
    def events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.body)["events"]
        return found


class HttpReceiver:
    """Answers each request with what `script` gives for its number; None: never, b"" at the end of one: hang up."""

    def __init__(self, script: Callable[[int], list[bytes | None]] = lambda number: [OK]) -> None:
        self.script = script
        self.posted: list[Posted] = []
        self.came = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "HttpReceiver":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/hook?key=hidden"

    @property
    def cursors(self) -> list[str]:
        return [event["cursor"] for post in self.posted for event in post.events]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            headers = {}
            while (header := (await reader.readline()).decode().strip()) != "":
                name, _, value = header.partition(":")
                headers[name.lower()] = value.strip()
            body = await reader.readexactly(int(headers["content-length"]))
            self.posted.append(Posted(line.decode().split()[1], headers, body))
            self.came.set()
            for piece in self.script(len(self.posted) - 1):
                if piece is None:
                    await asyncio.Event().wait()
                elif not piece:
                    return
                else:
                    writer.write(piece)
                    await writer.drain()
