# SPDX-License-Identifier: MIT
"""Loopback ports: finding free ones, and waiting until something greets on them."""

import socket
import time

from bench.children import Child
from bench.failure import RunFailed


def free_port() -> int:
    """Give a loopback port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def await_banner(port: int, child: Child, timeout_s: float, host: str = "127.0.0.1") -> None:
    """Wait until host:port greets with 220. Raises: RunFailed: the child ended, or it took too long."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if child.exit_code() is not None:
            raise RunFailed(f"{child.name} ended with {child.exit_code()} before it greeted: {child.complaint()}")
        if _greets(host, port):
            return
        time.sleep(0.05)
    raise RunFailed(f"{child.name} did not greet within {timeout_s:.0f} s: {child.complaint()}")


def _greets(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), 2) as peer:
            if not peer.recv(512).startswith(b"220"):
                return False
            peer.sendall(b"QUIT\r\n")
            return bool(peer.recv(512))
    except OSError:
        return False
