# SPDX-License-Identifier: MIT
"""A bad relay for tests of the benchmark: says 250 to everything, hands it on at once, but not always once.

Run as `python leaky_relay.py PORT SINK_PORT FAULT`: "honest", "lose" drops every 50th message, "double" sends it twice,
"late" drops only after the 200th, and "swap" loses every 50th but sends the one before it twice, so that the count is
right.
"""

import itertools
import smtplib
import socketserver
import sys

PORT, SINK_PORT, FAULT = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
number = itertools.count(1)


def copies(n: int) -> int:
    """How often the n-th message is handed on."""
    turn = n % 50
    if FAULT == "late" and n < 200:
        return 1
    if FAULT == "swap":
        return {0: 0, 49: 2}.get(turn, 1)
    return {"lose": 0, "late": 0, "double": 2}.get(FAULT, 1) if turn == 0 else 1


class Session(socketserver.StreamRequestHandler):
    """One client."""

    def handle(self) -> None:
        """Speak just enough SMTP for smtp-source and the probe."""
        self.wfile.write(b"220 leaky ESMTP\r\n")
        recipient = ""
        with smtplib.SMTP("127.0.0.1", SINK_PORT, "leaky") as sink:
            while line := self.rfile.readline().upper():
                if line.startswith(b"RCPT"):
                    recipient = line.partition(b"<")[2].partition(b">")[0].decode().lower()
                if line.startswith(b"DATA"):
                    self.wfile.write(b"354 go\r\n")
                    content = b"".join(iter(self.rfile.readline, b".\r\n"))
                    for _ in range(copies(next(number))):
                        sink.sendmail("from@bench.test", [recipient], content)
                self.wfile.write(b"221 bye\r\n" if line.startswith(b"QUIT") else b"250 ok\r\n")


class Server(socketserver.ThreadingTCPServer):
    """Many clients."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


Server(("127.0.0.1", PORT), Session).serve_forever()
