# SPDX-License-Identifier: MIT
"""smtp-source's work inside TLS: STARTTLS, perhaps AUTH PLAIN, messages; blocking sockets, a process a session.

Run as a program of its own (`python bench/tls_load.py --port N --sessions N --messages N --octets N [--kept] [--auth
NAME:PASSWORD]`); imports only the standard library. As smtp-source it does not pipeline and gives up at the first reply
that is not what it should be (exit 1). No certificate is verified, and no TLS session is resumed: each connection pays
its whole handshake. The messages are handed out one by one through a pipe, so that no session ends early.
"""

import argparse
import base64
import contextlib
import os
import socket
import ssl
import sys

_LINE = b"X" * 78 + b"\r\n"
_HEADER = (
    b"From: <from@bench.test>\r\nTo: <to@sink.test>\r\nDate: Sat, 21 Nov 2026 04:00:00 +0000\r\n"
    b"Message-Id: <%x.%x@source.bench.test>\r\n\r\n"
)


class Refusal(Exception):
    """The server did not say what it should."""


class Session:
    """One connection inside TLS, ready for messages. `auth`: what AUTH PLAIN says, or nothing."""

    def __init__(self, port: int, context: ssl.SSLContext, auth: bytes = b"") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._expect(b"220")
            self.ask(b"EHLO source.bench.test\r\n", b"250")
            self.ask(b"STARTTLS\r\n", b"220")
            self._socket = context.wrap_socket(self._socket)
            self.ask(b"EHLO source.bench.test\r\n", b"250")
            if auth:
                self.ask(b"AUTH PLAIN " + auth + b"\r\n", b"235")
        except (OSError, Refusal):
            self._socket.close()
            raise

    def send(self, content: bytes) -> None:
        """Send one message; `content` ends with its dot."""
        self.ask(b"MAIL FROM:<from@bench.test>\r\n", b"250")
        self.ask(b"RCPT TO:<to@sink.test>\r\n", b"250")
        self.ask(b"DATA\r\n", b"354")
        self.ask(content, b"250")

    def quit(self) -> None:
        """Say goodbye and close."""
        self.ask(b"QUIT\r\n", b"221")
        self._socket.close()

    def ask(self, octets: bytes, code: bytes) -> None:
        """Send, and read the reply. Raises: Refusal: it is another."""
        self._socket.sendall(octets)
        self._expect(code)

    def _expect(self, code: bytes) -> None:
        reply = b""
        while not _is_whole(reply):
            chunk = self._socket.recv(4096)
            if not chunk:
                raise Refusal(f"the server closed the connection after {reply!r}")
            reply += chunk
        if not reply.startswith(code):
            raise Refusal(reply.decode(errors="replace").strip())


def _is_whole(reply: bytes) -> bool:
    """Does it end with the last line of a reply? One reply at most is under way: nothing is pipelined."""
    last = reply[reply.rfind(b"\n", 0, -1) + 1 :]
    return last.endswith(b"\n") and last[3:4] != b"-"


def make_context() -> ssl.SSLContext:
    """Give a context that believes everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _push(asked: argparse.Namespace, number: int, orders: int) -> None:
    """Send a message for each octet that can be read from `orders`."""
    context = make_context()
    auth = base64.b64encode(b"\0" + asked.auth.encode().replace(b":", b"\0", 1)) if asked.auth else b""
    body = _LINE * max(1, asked.octets // len(_LINE)) + b".\r\n"
    session: Session | None = None
    sent = 0
    while os.read(orders, 1):
        session = session or Session(asked.port, context, auth)
        sent += 1
        session.send(_HEADER % (number, sent) + body)
        if not asked.kept:
            session.quit()
            session = None
    if session is not None:
        session.quit()


def _start_session(asked: argparse.Namespace, number: int, orders: int, other: int) -> int:
    """Fork a process that pushes; give its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.close(other)
        _push(asked, number, orders)
        code = 0
    except (OSError, Refusal) as failed:
        print(f"{type(failed).__name__}: {failed}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def main() -> int:
    """Push as told on the command line and give the exit code."""
    parser = argparse.ArgumentParser()
    for name in ("--port", "--sessions", "--messages", "--octets"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--kept", action="store_true")
    parser.add_argument("--auth", default="")
    asked = parser.parse_args()
    orders, giver = os.pipe()
    sessions = min(asked.sessions, asked.messages)
    pids = {_start_session(asked, number, orders, giver) for number in range(1, sessions + 1)}
    os.close(orders)
    with contextlib.suppress(BrokenPipeError):  # all have given up
        os.write(giver, b"m" * asked.messages)
    os.close(giver)
    while pids:
        pid, status = os.wait()
        pids.discard(pid)
        if status:
            return 1  # the others are of our group: whoever started us ends it
    return 0


if __name__ == "__main__":
    sys.exit(main())
