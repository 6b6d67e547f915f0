# SPDX-License-Identifier: MIT
"""Names and errors of sockets, in words a postmaster can act on; and the binding of a listening socket.

Nothing here resolves a name. Used by backends.tcp and backends.connection only.
"""

import errno
import os
import socket

from smarthost.mail.errors import ConfigError

BACKLOG = 1024  # the kernel caps it at net.core.somaxconn (4096 since Linux 5.4)

SocketAddress = tuple[str, int]
NOWHERE: SocketAddress = ("", 0)

_TEXTS = {
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network unreachable",
    errno.ETIMEDOUT: "timed out: the kernel gave up",
    errno.ECONNRESET: "connection reset by peer",
    errno.EPIPE: "connection closed by peer while we wrote",
    errno.EADDRNOTAVAIL: "the source address is not on this machine, or has no free port",
    errno.EMFILE: "this process has too many open files",
    errno.ENFILE: "this machine has too many open files",
}


def to_address(name: tuple[object, ...] | None) -> SocketAddress:
    """Give address and port of a socket name, IPv4-mapped addresses as IPv4 (RFC 4291 2.5.5.2)."""
    if not name:
        return NOWHERE
    host, port = name[:2]
    assert isinstance(host, str), "the name of an internet socket"
    assert isinstance(port, int), "the name of an internet socket"
    return host.removeprefix("::ffff:") if "." in host else host, port


def to_family(address: str) -> socket.AddressFamily | None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.inet_pton(family, address.partition("%")[0])
    except (OSError, ValueError):
        return None
    return family


def name_cause(error: Exception) -> str:
    code = getattr(error, "errno", None)
    return _TEXTS.get(code or 0) or (os.strerror(code).lower() if code else str(error) or type(error).__name__)


def bind(host: str, port: int) -> socket.socket:
    """Give a listening socket.

    Raises: ConfigError: with host, port and the cure.
    """
    everywhere = host in ("", "*")
    family = socket.AF_INET6 if everywhere and socket.has_dualstack_ipv6() else socket.AF_INET
    if not everywhere:
        known = to_family(host)
        if known is None:
            raise ConfigError(f"cannot listen on {host}:{port}: give an IP address, or * for all", key="listen")
        family = known
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY only if it says TCP
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart must not wait for TIME_WAIT
        if family is socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not everywhere)
        sock.setblocking(False)
        sock.bind(("" if everywhere else host, port))
        sock.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        sock.close()
        shown = f"[{host}]" if ":" in host else host or "*"
        raise ConfigError(f"cannot listen on {shown}:{port}: {_cure(error)}", key="listen") from error
    return sock


def _cure(error: Exception) -> str:
    match getattr(error, "errno", None):
        case errno.EADDRINUSE:
            return "another program listens there; stop it, or choose another port"
        case errno.EACCES | errno.EPERM:
            return "not permitted; ports below 1024 need root or CAP_NET_BIND_SERVICE, or choose a higher one"
        case errno.EADDRNOTAVAIL:
            return "this machine does not have that address; choose one of its own, or 0.0.0.0 (IPv6: [::]) for all"
        case _:
            return name_cause(error)
