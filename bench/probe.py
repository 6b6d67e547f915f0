# SPDX-License-Identifier: MIT
"""An independent small SMTP client that times the 250 after data; plain blocking sockets, a thread per session.

Run as a program of its own (`python bench/probe.py --port N --sessions N --octets N --count N [--fresh] [--tls] [--auth
NAME:PASSWORD]`), so that it shares nothing with the relay nor with the benchmark; imports only the standard library. It
says `connected` when every session is greeted, starts at a line on stdin, sends one message after another on each (or
each on a new connection: --fresh), and ends after --count messages of a session or when stdin ends. Then it prints one
JSON object: `replies` as pairs (monotonic second of the reply, microseconds from the first octet of content to 250),
and `error`, a text or null. --auth needs --tls.
"""

import argparse
import base64
import json
import socket
import ssl
import sys
import threading
import time

_LINE = b"X" * 78 + b"\r\n"


class Refusal(Exception):
    """The relay did not say what it should."""


class Session:
    """One kept connection that sends messages one after another."""

    def __init__(self, port: int, octets: int, tls: bool = False, auth: str = "") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        header = b"From: <probe@bench.test>\r\nTo: <to@sink.test>\r\nSubject: probe\r\n\r\n"
        self._content = header + _LINE * max(1, octets // len(_LINE)) + b".\r\n"
        try:
            self._expect(b"220")
            self._ask(b"EHLO probe.bench.test\r\n", b"250")
            if tls:
                self._begin_tls(auth)
        except Refusal:
            self._socket.close()
            raise

    def _begin_tls(self, auth: str) -> None:
        self._ask(b"STARTTLS\r\n", b"220")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._socket = context.wrap_socket(self._socket)
        self._ask(b"EHLO probe.bench.test\r\n", b"250")
        if auth:
            claim = b"\0" + auth.encode().replace(b":", b"\0", 1)
            self._ask(b"AUTH PLAIN " + base64.b64encode(claim) + b"\r\n", b"235")

    def send(self) -> tuple[float, float]:
        """Send one message; give the monotonic second of its 250 and the microseconds that took."""
        self._ask(b"MAIL FROM:<probe@bench.test>\r\n", b"250")
        self._ask(b"RCPT TO:<to@sink.test>\r\n", b"250")
        self._ask(b"DATA\r\n", b"354")
        began = time.monotonic()
        self._ask(self._content, b"250")
        ended = time.monotonic()
        return ended, (ended - began) * 1e6

    def quit(self) -> None:
        """Say goodbye and close."""
        self._ask(b"QUIT\r\n", b"221")
        self.close()

    def close(self) -> None:
        """Close without a word."""
        self._socket.close()

    def _ask(self, octets: bytes, code: bytes) -> None:
        self._socket.sendall(octets)
        self._expect(code)

    def _expect(self, code: bytes) -> None:
        while True:
            line, newline, rest = self._buffer.partition(b"\r\n")
            if not newline:
                chunk = self._socket.recv(4096)
                if not chunk:
                    raise Refusal("the relay closed the connection")
                self._buffer += chunk
                continue
            self._buffer = rest
            if line[3:4] == b"-":
                continue
            if not line.startswith(code):
                raise Refusal(line.decode(errors="replace"))
            return


class Probe:
    """All sessions and what they measured."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self._asked = asked
        self._sessions = [self._begin() for _ in range(asked.sessions)]
        self._over = threading.Event()
        self.replies: list[tuple[float, float]] = []
        self.error: str | None = None

    def _begin(self) -> Session:
        asked = self._asked
        return Session(asked.port, asked.octets, asked.tls, asked.auth)

    def run(self, count: int) -> None:
        """Send until `count` messages a session (0: without end) or until stdin ends."""
        threads = [threading.Thread(target=self._push, args=(s, count)) for s in self._sessions]
        threading.Thread(target=self._watch_stdin, daemon=True).start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _watch_stdin(self) -> None:
        sys.stdin.read()
        self._over.set()

    def _push(self, session: Session, count: int) -> None:
        sent = 0
        try:
            while not self._over.is_set() and (not count or sent < count):
                self.replies.append(session.send())
                sent += 1
                if self._asked.fresh:
                    session.quit()
                    session = self._begin()
            session.quit()
        except (OSError, Refusal) as failed:
            self.error = f"{type(failed).__name__}: {failed}"
            self._over.set()


def main() -> None:
    """Measure as told on the command line."""
    parser = argparse.ArgumentParser()
    for name in ("--port", "--sessions", "--octets", "--count"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--fresh", action="store_true")  # a session for each message
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--auth", default="")
    asked = parser.parse_args()
    probe = Probe(asked)
    print("connected", flush=True)
    if sys.stdin.readline():
        probe.run(asked.count)
    print(json.dumps({"replies": probe.replies, "error": probe.error}), flush=True)


if __name__ == "__main__":
    main()
