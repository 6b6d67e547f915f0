# SPDX-License-Identifier: MIT
"""`sendmail -bs`: SMTP on standard input and output, spoken by the daemon: octets pass between, and nothing is read.

The daemon's first door on loopback that takes mail of machines in clear is asked, so who may send is its `relay_from`.
Where nobody answers the client reads a 421, and the exit code is 75. Standard library only.
"""

import os
import selectors
import socket
from collections.abc import Iterator, Sequence

from smarthost.ops.sendmail_options import TEMPORARY

CONNECT_S = 10.0
_PIECE = 1 << 16
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "*": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound


def run_session(listen: Sequence[str], source: int = 0, sink: int = 1) -> int:
    """Join descriptors with the daemon until it hangs up; gives the exit code."""
    for host, port in _loopback(listen):
        try:
            daemon = socket.create_connection((host, port), CONNECT_S)
        except OSError:
            continue
        with daemon:
            daemon.settimeout(None)  # who waits for whom, and how long, is the daemon's to say
            _join(daemon, source, sink)
        return 0
    _write_all(sink, b"421 4.3.2 No relay answers on this host: try again later\r\n")
    return TEMPORARY


def _loopback(listen: Sequence[str]) -> Iterator[tuple[str, int]]:
    for each in listen:
        written, _, port = each.rpartition(":")
        host = _WILDCARDS.get(written.strip("[]"), written.strip("[]"))
        if port.isdigit() and (host in ("::1", "localhost") or host.startswith("127.")):
            yield host, int(port)


def _join(daemon: socket.socket, source: int, sink: int) -> None:
    with selectors.SelectSelector() as waiting:  # epoll refuses standard input that is a file
        waiting.register(source, selectors.EVENT_READ)
        waiting.register(daemon, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.fileobj is daemon:
                    if not (said := _received(daemon)):
                        return
                    _write_all(sink, said)
                elif asked := os.read(source, _PIECE):
                    daemon.sendall(asked)
                else:
                    waiting.unregister(source)
                    daemon.shutdown(socket.SHUT_WR)


def _received(daemon: socket.socket) -> bytes:
    try:
        return daemon.recv(_PIECE)
    except ConnectionError:
        return b""


def _write_all(sink: int, octets: bytes) -> None:
    left = memoryview(octets)
    while left:
        left = left[os.write(sink, left) :]
