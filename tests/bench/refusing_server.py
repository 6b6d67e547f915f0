# SPDX-License-Identifier: MIT
"""A server for tests of the benchmark that says 454 to STARTTLS. Run as `python refusing_server.py PORT`."""

import socketserver
import sys


class Session(socketserver.StreamRequestHandler):
    """One client."""

    def handle(self) -> None:
        """Greet, and refuse TLS."""
        self.wfile.write(b"220 refusing ESMTP\r\n")
        while line := self.rfile.readline():
            self.wfile.write(b"454 4.7.0 no TLS today\r\n" if line.startswith(b"STARTTLS") else b"250 ok\r\n")


class Server(socketserver.ThreadingTCPServer):
    """Many clients."""

    allow_reuse_address = True
    daemon_threads = True


Server(("127.0.0.1", int(sys.argv[1])), Session).serve_forever()
