# SPDX-License-Identifier: MIT
"""TCP for real: TcpDialer and TcpListener; the TcpConnection both make is in backends.connection.

Foreign errors are translated here, once. Nothing is resolved: addresses are IP address texts. Runs alike on uvloop and
on asyncio's own loop.
"""

import asyncio
import errno
from collections.abc import Callable

from smarthost.backends.connection import TcpConnection
from smarthost.backends.sockets import BACKLOG, SocketAddress, bind, name_cause, to_address, to_family
from smarthost.backends.tls import TlsContexts
from smarthost.mail.errors import ConnectFailed
from smarthost.ports import Clock, Connection, Receiver

# A dial that fails so says nothing about the host: ConnectFailed.step is "local" then, and "connect" otherwise.
_OURS = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM}
)


class TcpDialer:
    """A Dialer over TCP."""

    def __init__(self, clock: Clock, contexts: TlsContexts | None = None) -> None:
        self._clock = clock
        self._contexts = contexts or TlsContexts()

    async def dial(self, address: str, port: int, *, source: str, timeout_s: float) -> TcpConnection:
        """See ports.Dialer. ConnectFailed.step is "local" when the cause is ours and says nothing about the host."""
        family = to_family(address)
        if family is None:
            raise ConnectFailed(f"{address!r} is not an IP address", step="local")
        if source and to_family(source) != family:
            raise ConnectFailed(f"source address {source} cannot reach {address}: not the same family", step="local")
        loop = asyncio.get_running_loop()
        local = (source, 0) if source else None
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await loop.create_connection(
                    lambda: TcpConnection(self._clock, self._contexts), address, port, local_addr=local
                )
        except OSError as error:  # TimeoutError is one; that of asyncio.timeout has no errno
            if error.errno is None and isinstance(error, TimeoutError):
                raise ConnectFailed(f"timed out after {timeout_s:g} s", step="connect") from error
            step = "local" if error.errno in _OURS else "connect"
            raise ConnectFailed(name_cause(error), step=step) from error
        return connection


class TcpListener:
    """A Listener over TCP.

    Out of file descriptors, asyncio's loop stops accepting for a second and tries again, uvloop drops the newest
    connection; both go on by themselves.
    """

    def __init__(self, clock: Clock, contexts: TlsContexts | None = None) -> None:
        self._clock = clock
        self._contexts = contexts or TlsContexts()
        self._servers: list[asyncio.Server] = []

    async def listen(self, host: str, port: int, accepted: Callable[[Connection], Receiver | None]) -> SocketAddress:
        """See ports.Listener; `host` is an IP address text, or "" or "*" for all addresses of both families."""
        sock = bind(host, port)
        bound = to_address(sock.getsockname())
        server = await asyncio.get_running_loop().create_server(
            lambda: TcpConnection(self._clock, self._contexts, accepted), sock=sock, backlog=BACKLOG
        )
        self._servers.append(server)
        return bound

    def pause(self) -> None:
        """Close the listening sockets, so that clients are refused and turn elsewhere; `listen` again to go on.

        Left open they would take connections into the backlog, where clients wait for a greeting that does not come.
        """
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def close(self) -> None:
        self.pause()
        await asyncio.sleep(0)  # the loops let go of the sockets in their next round
