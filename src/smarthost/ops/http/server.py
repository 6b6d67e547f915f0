# SPDX-License-Identifier: MIT
"""Sockets to an ASGI application in our own loop: uvicorn's HTTP/1.1 protocol, with the deadlines that it lacks.

Not uvicorn.Server: it takes the process's signals and wakes ten times a second. A client has `HEADER_S` for a request's
head, `STUCK_S` to read what is sent to it, and a handshake of its own time; there are `CONNECTIONS` at a time, and
`PER_CLIENT` of one address. What is not kept is cut, without a word in the log: it may be an attack.
"""

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from smarthost.backends.sockets import bind
from smarthost.mail.errors import ConfigError

HEADER_S = 10.0
HANDSHAKE_S = 10.0
IDLE_S = 30.0
STUCK_S = 30.0
CONNECTIONS = 256
PER_CLIENT = 96  # behind a proxy all clients have one address
HEAD_OCTETS = 64 * 1024
CLOSING_S = 2.0  # what is being answered may end


class _Protocol(H11Protocol):
    """One connection."""

    _cut_at: asyncio.TimerHandle | None = None
    _stuck_at: asyncio.TimerHandle | None = None
    _is_counted = False
    clients: Counter[str]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        self.clients[address] += 1
        self._is_counted = True
        if len(self.connections) > CONNECTIONS or self.clients[address] > PER_CLIENT:
            transport.abort()
            return
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_awaiting()
        elif self._cut_at is None:
            self._await_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self.loop.call_later(STUCK_S, self.transport.abort)  # whoever does not read does not keep it open

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck_at = self.loop.call_later(STUCK_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck_at is not None:
            self._stuck_at.cancel()
            self._stuck_at = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_counted:
            address = self.client[0] if self.client else ""
            self.clients[address] -= 1
            if not self.clients[address]:
                del self.clients[address]
        self._stop_awaiting()
        if self._stuck_at is not None:
            self._stuck_at.cancel()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._cut_at = self.loop.call_later(HEADER_S, self._cut)

    def _stop_awaiting(self) -> None:
        if self._cut_at is not None:
            self._cut_at.cancel()
            self._cut_at = None

    def _cut(self) -> None:
        self._cut_at = None
        if self.conn.their_state is h11.IDLE and self.cycle is not None and not self.conn.trailing_data[0]:
            return  # it is idle between two requests: the keep-alive timer has it
        self.transport.abort()


class HttpServer:
    """Listens and serves `app`; owned by the service. `tls`: gives the context for a new handshake, or None."""

    def __init__(self, app: Callable[..., Any], tls: ssl.SSLContext | None) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)  # standard error has JSON, and the edge notes
        logging.getLogger("uvicorn.access").disabled = True
        self._config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,  # the application says it
            timeout_keep_alive=int(IDLE_S),
            h11_max_incomplete_event_size=HEAD_OCTETS,
        )
        self._config.load()
        self._tls = tls
        self._state = ServerState()
        self._servers: list[asyncio.Server] = []
        self._protocol = type("_Counting", (_Protocol,), {"clients": Counter()})

    async def listen(self, addresses: Sequence[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
        """Listen on all addresses; gives those that were bound. Raises: ConfigError: names the address and the cure."""
        bound = []
        loop = asyncio.get_running_loop()
        try:
            for host, port in addresses:
                opened = _bind(host, port)
                try:
                    server = await loop.create_server(
                        self._make_protocol,
                        sock=opened,
                        ssl=self._tls,
                        backlog=128,
                        ssl_handshake_timeout=HANDSHAKE_S if self._tls is not None else None,
                    )
                except BaseException:
                    opened.close()
                    raise
                self._servers.append(server)
                bound.append((host, int(opened.getsockname()[1])))
        except BaseException:
            await self.close()
            raise
        return tuple(bound)

    def _make_protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self._protocol(config=self._config, server_state=self._state, app_state={})
        return made

    async def close(self) -> None:
        """Stop listening, let what is being answered end within `CLOSING_S`, cut the rest; harmless when repeated."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for connection in list(self._state.connections):
            connection.shutdown()
        if tasks := set(self._state.tasks):
            await asyncio.wait(tasks, timeout=CLOSING_S)
        for task in self._state.tasks:
            task.cancel()
        await asyncio.gather(*self._state.tasks, return_exceptions=True)
        for connection in list(self._state.connections):
            connection.transport.abort()


def _bind(host: str, port: int) -> socket.socket:
    try:
        return bind(host, port)
    except ConfigError as error:
        raise ConfigError(error.detail, key="http.listen") from error
