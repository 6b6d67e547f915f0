# SPDX-License-Identifier: MIT
"""What a service manager and its service say to each other: sd_notify(3) one way, sd_listen_fds(3) the other.

Notifier sends datagrams and never waits, nor raises once it is made. `take_sockets` gives the listening sockets that
were passed to this process, once. Decides nothing: ops.readiness says what is told, `activation` who gets which socket.
Needs no library of systemd's, and does nothing where the environment names no manager.
"""

import os
import socket
from collections.abc import MutableMapping, Sequence

from msgspec import Struct

from smarthost.backends.sockets import SocketAddress, to_address
from smarthost.mail.errors import ConfigError

FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START
SOCKETS = 256  # a unit with more is a mistake
_TEXT_CHARACTERS = 500  # of one value: a datagram that is too large would be lost as a whole


class Notifier:
    """Sends states to the socket that NOTIFY_SOCKET names; an abstract one begins with "@"."""

    def __init__(self, address: str) -> None:
        """Raises: ConfigError: such an address is of no kind that we know."""
        if address[:1] not in ("/", "@") or len(address) < 2:
            raise ConfigError(f"expected a path, or @ and a name, got {address!r}", key="NOTIFY_SOCKET")
        self._address = "\0" + address[1:] if address[0] == "@" else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    def tell(self, **states: object) -> bool:
        """Send states, such as READY=1, in one datagram; False: not taken (its queue is full, or nobody is there)."""
        text = "\n".join(f"{name}={_one_line(str(value))}" for name, value in states.items())
        try:
            self._socket.sendto(text.encode("utf-8", "replace"), self._address)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go of the socket; harmless when repeated."""
        self._socket.close()


def _one_line(text: str) -> str:
    """Make one printable line: a newline would begin another state, such as MAINPID=1."""
    return "".join(character if character.isprintable() else "?" for character in text[:_TEXT_CHARACTERS])


class PassedSocket(Struct, frozen=True):
    """A listening TCP socket of the manager's: its name, and the address that getsockname gives for it.

    `is_dual`: at [::], and takes IPv4, too.
    """

    name: str
    address: SocketAddress
    is_dual: bool
    sock: socket.socket

    def __str__(self) -> str:
        host, port = self.address
        return f'"{self.name}" at {f"[{host}]" if ":" in host else host}:{port}'


def take_sockets(
    environ: MutableMapping[str, str], pid: int, first: int = FIRST_DESCRIPTOR
) -> tuple[PassedSocket, ...]:
    """Give the sockets that were passed to process `pid`, and remove what says so from `environ`.

    They are not inherited by children. Raises: ConfigError: one of them is not a listening TCP socket.
    """
    for_pid, number, names = (environ.pop(key, "") for key in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    environ.pop("LISTEN_PIDFDID", None)  # systemd 258 and later
    if not number or for_pid != str(pid):  # meant for another process, such as a shell that started us
        return ()
    if not (number.isascii() and number.isdecimal() and int(number) <= SOCKETS):
        raise ConfigError(f"expected a number from 0 to {SOCKETS}, got {number!r}", key="LISTEN_FDS")
    named = names.split(":") if names else []
    return tuple([_take(first + i, named[i] if i < len(named) else "unknown") for i in range(int(number))])


def _take(descriptor: int, name: str) -> PassedSocket:
    try:
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigError(
            f'descriptor {descriptor} ("{name}") is not a socket: {os.strerror(error.errno or 0).lower()}; '
            "pass sockets only (ListenStream=, no ListenFIFO= or OpenFile=)",
            key="LISTEN_FDS",
        ) from error
    is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM
    if not is_tcp or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise ConfigError(
            f'the socket "{name}" does not listen on TCP; set ListenStream=IP:PORT and Accept=no in the socket unit',
            key="LISTEN_FDS",
        )
    sock.setblocking(False)
    is_dual = sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    address = to_address(sock.getsockname())
    return PassedSocket(name, address, is_dual and address[0] == "::", sock)


def find_passed(passed: Sequence[PassedSocket], host: str, port: int) -> socket.socket | None:
    """Give a socket of one's own on the same listening socket as the one passed for this address, if there is one.

    The passed one stays open: who listens anew at this address, after a reload, is given it again.
    """
    for each in passed:
        if each.address == (host, port):
            return each.sock.dup()
    return None
