# SPDX-License-Identifier: MIT
"""smtp-sink's work with STARTTLS: takes all mail, keeps none, and writes one octet to stdout at each final dot.

Run as a program of its own (`python bench/tls_sink.py --port N --certificate FILE --key FILE`); imports only the
standard library. A few processes share the listening socket, a thread a connection. It offers PIPELINING, 8BITMIME and
STARTTLS, as hosts of today do, and refuses mail in clear: what was counted came inside TLS. The octet is written before
the 250, as smtp-sink counts before it answers; so the size of the file is the count. Whoever starts it ends its group.
"""

import argparse
import os
import socket
import ssl
import threading

_PROCESSES = 4
_BACKLOG = 1024
_OFFER = b"250-sink.bench.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n"
_REPLIES = {b"EHLO": _OFFER + b"250 STARTTLS\r\n", b"HELO": b"250 sink.bench.test\r\n", b"DATA": b"354 go on\r\n",
            b"QUIT": b"221 bye\r\n", b"STAR": b"220 go on\r\n", b"AUTH": b"235 you are\r\n"}  # fmt: skip
_SECURED = _OFFER + b"250 AUTH PLAIN\r\n"
_IN_CLEAR = (b"EHLO", b"HELO", b"QUIT")
_DOT = b"\r\n.\r\n"


class Connection:
    """One connection, served until it ends."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._socket = sock
        self._context = context
        self._buffer = b""
        self._is_secured = False

    def serve(self) -> None:
        """Answer until QUIT or the end of the stream."""
        self._socket.sendall(b"220 sink.bench.test ESMTP\r\n")
        while self._serve_group():
            pass

    def _serve_group(self) -> bool:
        """Answer the lines at hand in one write; False: it is over."""
        if not self._fill():
            return False
        out: list[bytes] = []
        while (end := self._buffer.find(b"\n")) >= 0:
            line, self._buffer = self._buffer[: end + 1], self._buffer[end + 1 :]
            verb = line[:4].upper()
            if verb == b"STAR":
                self._socket.sendall(b"".join(out) + _REPLIES[verb])
                self._socket = self._context.wrap_socket(self._socket, server_side=True)
                self._buffer, self._is_secured = b"", True
                return True
            out.append(self._reply(verb))
            if verb == b"QUIT":
                self._socket.sendall(b"".join(out))
                return False
            if verb == b"DATA" and self._is_secured:
                self._socket.sendall(b"".join(out))
                out.clear()
                if not self._take_content():
                    return False
                out.append(b"250 taken\r\n")
        if out:
            self._socket.sendall(b"".join(out))
        return True

    def _reply(self, verb: bytes) -> bytes:
        if self._is_secured:
            return _SECURED if verb == b"EHLO" else _REPLIES.get(verb, b"250 ok\r\n")
        return _REPLIES[verb] if verb in _IN_CLEAR else b"530 5.7.0 STARTTLS first\r\n"

    def _take_content(self) -> bool:
        """Read up to the final dot and count; False: it never came."""
        tail = b"\r\n"
        while True:
            tail += self._buffer
            end = tail.find(_DOT)
            if end >= 0:
                self._buffer = tail[end + len(_DOT) :]
                os.write(1, b".")
                return True
            tail = tail[-len(_DOT) :]
            self._buffer = b""
            if not self._fill():
                return False

    def _fill(self) -> bool:
        chunk = self._socket.recv(65536)
        self._buffer += chunk
        return bool(chunk)

    def close(self) -> None:
        """Close without a word."""
        self._socket.close()


def _serve(sock: socket.socket, context: ssl.SSLContext) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection = Connection(sock, context)
    try:
        connection.serve()
    except OSError:  # SSLError is one: the relay's trouble, and the count tells what is missing
        pass
    finally:
        connection.close()


def _accept_on(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_serve, args=(sock, context), daemon=True).start()


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    asked = parser.parse_args()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(asked.certificate, asked.key)
    listener = socket.create_server(("127.0.0.1", asked.port), backlog=_BACKLOG)
    for _ in range(_PROCESSES - 1):
        if not os.fork():
            break
    _accept_on(listener, context)


if __name__ == "__main__":
    main()
