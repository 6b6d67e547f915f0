# SPDX-License-Identifier: MIT
"""TCP for real: TcpDialer and TcpListener; the TcpConnection both make is in backends.connection.

A connection from a balancer's network is a _ProxiedConnection until it has said for whom it is made: nobody is told of
it before. Foreign errors are translated here, once. Nothing is resolved: addresses are IP address texts. Runs alike on
uvloop and on asyncio's own loop.
"""

import asyncio
import errno
from collections.abc import Callable, Sequence
from typing import cast

from smarthost.backends.connection import TcpConnection
from smarthost.backends.handshakes import HandshakeTurns
from smarthost.backends.proxy import ProxyRefused, compile_networks, read_header
from smarthost.backends.sockets import BACKLOG, SocketAddress, bind, name_cause, to_address, to_family
from smarthost.backends.systemd import PassedSocket, find_passed
from smarthost.backends.tls import TlsContexts
from smarthost.backends.watched import Note
from smarthost.mail.errors import ConnectFailed
from smarthost.ports import Clock, Connection, Deadline, Receiver

HEADER_S = 5.0  # a balancer has its header at hand when it connects; HAProxy's specification asks for 3 s at least

# A dial that fails so says nothing about the host: ConnectFailed.step is "local" then, and "connect" otherwise.
_OURS = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM}
)


_Accepted = Callable[[Connection], Receiver | None]


def _note_nothing(*_: object, **__: object) -> None: ...


class TcpDialer:
    """A Dialer over TCP."""

    def __init__(self, clock: Clock, contexts: TlsContexts | None = None) -> None:
        self._clock = clock
        self._contexts = contexts or TlsContexts()
        self._turns = HandshakeTurns()

    def adopt(self, contexts: TlsContexts) -> None:
        """Trust other certificates, in connections from now on."""
        self._contexts = contexts

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
                    lambda: TcpConnection(self._clock, self._contexts, self._turns), address, port, local_addr=local
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

    def __init__(
        self,
        clock: Clock,
        contexts: TlsContexts | None = None,
        note: Note | None = None,
        passed: Sequence[PassedSocket] = (),
    ) -> None:
        """`passed`: listening sockets of a service manager's, used where `listen` names their addresses."""
        self._clock = clock
        self._contexts = contexts or TlsContexts()
        self._note: Note = note or _note_nothing
        self._passed = passed
        self._turns = HandshakeTurns()
        self._servers: dict[SocketAddress, asyncio.Server] = {}
        self._trusted: dict[SocketAddress, Callable[[str], bool]] = {}  # balancers, where there are any

    async def listen(self, host: str, port: int, accepted: _Accepted, proxies: Sequence[str] = ()) -> SocketAddress:
        """See ports.Listener; `host` is an IP address text, or "" or "*" for all addresses of both families."""
        is_proxy = compile_networks(proxies) if proxies else None
        sock = find_passed(self._passed, host, port) or bind(host, port)
        bound = to_address(sock.getsockname())

        def make(ends: tuple[SocketAddress, SocketAddress] | None = None) -> TcpConnection:
            return TcpConnection(self._clock, self._contexts, self._turns, accepted, ends)

        def arrive() -> asyncio.Protocol:
            is_proxy = self._trusted.get(bound)
            return _ProxiedConnection(self._clock, self._note, is_proxy, make) if is_proxy is not None else make()

        server = await asyncio.get_running_loop().create_server(arrive, sock=sock, backlog=BACKLOG)
        self._servers[bound] = server
        if is_proxy is not None:
            self._trusted[bound] = is_proxy
        return bound

    def trust(self, bound: SocketAddress, proxies: Sequence[str]) -> None:
        """Have other balancers from now on at an address that `listen` gave. Raises: ConfigError: no networks."""
        self._trusted.pop(bound, None)
        if proxies:
            self._trusted[bound] = compile_networks(proxies)

    async def leave(self, bound: SocketAddress) -> None:
        """Stop listening at an address that `listen` gave; sessions there go on. When this returns it can be bound."""
        self._trusted.pop(bound, None)
        server = self._servers.pop(bound, None)
        if server is not None:
            server.close()
            await asyncio.sleep(0)  # the loops let go of the sockets in their next round
            await asyncio.sleep(0)

    def pause(self) -> None:
        """Close the listening sockets, so that clients are refused and turn elsewhere; `listen` again to go on.

        Left open they would take connections into the backlog, where clients wait for a greeting that does not come.
        """
        for server in self._servers.values():
            server.close()
        self._servers.clear()

    async def close(self) -> None:
        self.pause()
        await asyncio.sleep(0)  # the loops let go of the sockets in their next round


class _ProxiedConnection(asyncio.Protocol):
    """What a listener with `proxies` accepts: hands its transport to a TcpConnection once it knows who the peer is."""

    _transport: asyncio.Transport

    def __init__(
        self,
        clock: Clock,
        note: Note,
        is_proxy: Callable[[str], bool],
        make: Callable[[tuple[SocketAddress, SocketAddress] | None], TcpConnection],
    ) -> None:
        self._clock = clock
        self._note = note
        self._is_proxy = is_proxy
        self._make = make
        self._unread = b""
        self._deadline: Deadline | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._is_proxy(to_address(transport.get_extra_info("peername"))[0]):
            self._deadline = self._clock.deadline(HEADER_S, self._give_up)
        else:
            self._hand_over(None)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        header = read_header(self._unread)
        if header is None:
            return
        if isinstance(header, ProxyRefused):
            self._drop(header.why)
            return
        self._stop_waiting()
        connection = self._hand_over(header.ends or self._nameless_ends())
        rest = self._unread[header.octets :]
        if rest and not self._transport.is_closing():
            connection.data_received(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()

    def _hand_over(self, ends: tuple[SocketAddress, SocketAddress] | None) -> TcpConnection:
        connection = self._make(ends)
        self._transport.set_protocol(connection)
        connection.connection_made(self._transport)
        return connection

    def _nameless_ends(self) -> tuple[SocketAddress, SocketAddress]:
        """Whoever is behind it, it is not the balancer: port 0 says so (ports.Connection.peer)."""
        balancer, here = map(self._transport.get_extra_info, ("peername", "sockname"))
        return (to_address(balancer)[0], 0), to_address(here)

    def _give_up(self) -> None:
        self._drop(f"no PROXY header within {HEADER_S:g} s")

    def _drop(self, why: str) -> None:
        self._stop_waiting()
        self._note(
            "warning", "balancer dropped", peer=to_address(self._transport.get_extra_info("peername"))[0], why=why
        )
        self._transport.abort()

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None  # which knows us: memory is freed without the collector
