# SPDX-License-Identifier: MIT
"""The mail for hostile domains: a first backlog for each, then a steady trickle, on one session, by a thread."""

import socket
import threading
import time
from itertools import cycle

from bench.hostile_ways import WAYS, Way

BACKLOG = 5  # messages for each domain at once
_HEADER = b"From: <a@bench.test>\r\nSubject: to a hostile host\r\n\r\n"
_LINE = b"X" * 78 + b"\r\n"


class Trickle(threading.Thread):
    """Sends `rate` messages a second to each domain in turn until stopped. `failed` says why it ended before."""

    def __init__(self, port: int, rate: float, octets: int) -> None:
        super().__init__(daemon=True)
        self.sent = 0
        self.failed: str | None = None
        self._pause_s = 1.0 / (rate * len(WAYS))
        self._octets = octets
        self._over = threading.Event()
        self._socket = socket.create_connection(("127.0.0.1", port), 30)
        self._heard = self._socket.makefile("rb")
        self._expect(b"220")
        self._ask(b"EHLO trickle.bench.test\r\n", b"250")
        for _ in range(BACKLOG):
            for way in WAYS:
                self._send(way, max(octets, way.octets))

    def run(self) -> None:
        """Send; what one message takes longer the next comes sooner."""
        due = time.monotonic()
        try:
            for way in cycle(WAYS):
                due += self._pause_s
                if self._over.wait(max(0.0, due - time.monotonic())):
                    break
                self._send(way, self._octets)
        except OSError as failed:
            self.failed = f"{type(failed).__name__}: {failed}"

    def stop(self) -> None:
        """End it; harmless when repeated."""
        self._over.set()
        if self.is_alive():
            self.join(10)
        self._heard.close()
        self._socket.close()

    def _send(self, way: Way, octets: int) -> None:
        body = f" BODY={way.body}" if way.body else ""
        lines = [f"MAIL FROM:<>{body}", *(f"RCPT TO:<{local}@{way.domain}>" for local in way.recipients)]
        content = _HEADER + _LINE * (octets // len(_LINE))
        if way.body == "BINARYMIME":
            self._group(lines)
            self._ask(b"BDAT %d LAST\r\n%b" % (len(content), content), b"250")
        else:
            self._group([*lines, "DATA"])
            self._ask(content + b".\r\n", b"250")
        self.sent += 1

    def _group(self, lines: list[str]) -> None:
        """Send a group of commands and read its replies."""
        self._socket.sendall("".join(f"{line}\r\n" for line in lines).encode())
        for line in lines:
            self._expect(b"354" if line == "DATA" else b"250")

    def _ask(self, octets: bytes, code: bytes) -> None:
        self._socket.sendall(octets)
        self._expect(code)

    def _expect(self, code: bytes) -> None:
        """Raises: OSError: the relay said something else."""
        while True:
            line = self._heard.readline()
            if not line.startswith(code):
                raise ConnectionRefusedError(f"the relay said {line!r}")
            if line[3:4] != b"-":
                return
