# SPDX-License-Identifier: MIT
"""Sends mail and keeps its own ledger of what was acknowledged; shares no code with what it loads.

Run as a program of its own: `python crash/load.py --port N --ledger FILE --seed N [--sessions N] [--messages N]
[--kinds ok=6,later=2,no=1,mixed=1] [--octets N] [--host H]`; imports only the standard library. A session that loses
its connection, or finds nobody listening, tries again until the messages are done or it gets SIGTERM; so the relay may
be killed and started at will. What was not acknowledged is not sent again: each message has a token of its own.

The ledger has one JSON object a line, appended and complete: {"token", "event": "sent"} before the final dot, then
"acknowledged" with what was promised (recipients, sender, octets and SHA-256 of all that was sent, Received and the
like not in it), or "refused" with the reply, or "unknown" when the connection died without one. The file is synced at
the end. Recipients are KIND.TOKEN.N@crash.test; what a kind means is up to crash/sink.py. Each sender is
sender.TOKEN@crash.test.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from types import FrameType

MARK = b"X-Crash-Token: "
MIXED = ("ok", "later", "no")
_TIMEOUT_S = 30.0
_PAUSE_S = 0.02  # before the next try to connect


class Refused(Exception):
    """The relay said something else than hoped for; the text is its reply."""


class Ledger:
    """The file; lines of several threads do not mix. Acknowledgements are counted."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._lock = threading.Lock()
        self.acknowledged = 0

    def write(self, token: str, event: str, **facts: object) -> None:
        """Append one line; what is in it was true before this returns."""
        line = json.dumps({"token": token, "event": event, "at": time.time(), **facts}) + "\n"
        with self._lock:
            os.write(self._fd, line.encode())
            self.acknowledged += event == "acknowledged"

    def close(self) -> None:
        """Make it durable."""
        os.fsync(self._fd)
        os.close(self._fd)


def make_content(token: str, octets: int, chance: random.Random) -> bytes:
    """Give a message with CRLF line ends, about so long: leading dots, empty and long lines, 8-bit octets."""
    lines = [
        MARK + token.encode(),
        b"From: <sender@crash.test>",
        b"To: undisclosed-recipients:;",
        b"Subject: crash " + token.encode(),
        b"Date: Sat, 21 Nov 2026 04:00:00 +0000",
        b"Message-ID: <" + token.encode() + b"@load.crash.test>",
        b"",
        b".leading dot",
        b"..",
        b"",
        bytes(range(0xA0, 0xF0)),
    ]
    size = sum(map(len, lines)) + 2 * len(lines)
    while size < octets:
        line = chance.randbytes(chance.randint(1, 350)).hex().encode()
        lines.append(line)
        size += len(line) + 2
    return b"\r\n".join(lines) + b"\r\n"


class Session:
    """One connection; `send` one message after another."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), _TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._heard = self._socket.makefile("rb")
        try:
            self._expect(b"220")
            self._say(b"EHLO load.crash.test\r\n", b"250")
        except BaseException:
            self.close()
            raise

    def send(self, token: str, sender: str, recipients: list[str], content: bytes, ledger: Ledger) -> str:
        """Send one message and give the last reply. Raises: Refused: at some step. OSError: the connection died."""
        self._say(f"MAIL FROM:<{sender}> BODY=8BITMIME\r\n".encode(), b"250")
        for recipient in recipients:
            self._say(f"RCPT TO:<{recipient}>\r\n".encode(), b"250")
        self._say(b"DATA\r\n", b"354")
        stuffed = content.replace(b"\r\n.", b"\r\n..")
        self._socket.sendall(stuffed)
        ledger.write(token, "sent")
        return self._say(b".\r\n", b"250")

    def reset(self) -> None:
        """Forget a transaction that was refused."""
        self._say(b"RSET\r\n", b"250")

    def close(self) -> None:
        """Hang up."""
        self._heard.close()
        self._socket.close()

    def _say(self, octets: bytes, code: bytes) -> str:
        self._socket.sendall(octets)
        return self._expect(code)

    def _expect(self, code: bytes) -> str:
        while True:
            line = self._heard.readline(4096)
            if not line.endswith(b"\n"):
                raise ConnectionResetError("the relay closed the connection")
            if line[3:4] != b"-":
                break
        text = line.decode(errors="replace").strip()
        if not line.startswith(code):
            raise Refused(text)
        return text


class Load:
    """All sessions, one thread each."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self._asked = asked
        self._ledger = Ledger(asked.ledger)
        self._numbers = iter(range(asked.messages))
        self._lock = threading.Lock()
        self.is_stopping = threading.Event()
        kinds = dict(part.split("=") for part in asked.kinds.split(","))
        self._kinds = list(kinds)
        self._weights = [float(weight) for weight in kinds.values()]

    def run(self) -> None:
        """Send everything; returns when all is sent or `is_stopping` is set."""
        threads = [threading.Thread(target=self._push, args=(n,)) for n in range(self._asked.sessions)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._ledger.close()

    def _next(self) -> int | None:
        with self._lock:
            return None if self.is_stopping.is_set() else next(self._numbers, None)

    def _push(self, lane: int) -> None:
        session: Session | None = None
        while (number := self._next()) is not None:
            chance = random.Random(f"{self._asked.seed}.{number}")
            token = f"{self._asked.run}{number:06x}"
            kind = chance.choices(self._kinds, self._weights)[0]
            kinds = MIXED if kind == "mixed" else (kind,)
            recipients = [f"{each}.{token}.{n}@crash.test" for n, each in enumerate(kinds)]
            content = make_content(token, chance.randint(600, max(600, 2 * self._asked.octets)), chance)
            session = self._deliver(session, token, recipients, content)
            if self._asked.pause:
                self.is_stopping.wait(self._asked.pause)
        if session is not None:
            session.close()

    def _deliver(self, session: Session | None, token: str, recipients: list[str], content: bytes) -> Session | None:
        """Send one message, once; give the session if it can be used again."""
        while session is None:
            try:
                session = Session(self._asked.host, self._asked.port)
            except (OSError, Refused):
                if self.is_stopping.wait(_PAUSE_S):
                    return None
        sender = f"sender.{token}@crash.test"
        try:
            reply = session.send(token, sender, recipients, content, self._ledger)
        except Refused as refused:
            self._ledger.write(token, "refused", reply=str(refused))
            return self._go_on(session)
        except OSError as error:
            self._ledger.write(token, "unknown", why=str(error))
            session.close()
            return None
        sha = hashlib.sha256(content).hexdigest()
        facts = {"sender": sender, "recipients": recipients, "octets": len(content), "sha256": sha}
        self._ledger.write(token, "acknowledged", reply=reply, **facts)
        return session

    def _go_on(self, session: Session) -> Session | None:
        try:
            session.reset()
        except (OSError, Refused):
            session.close()
            return None
        return session


def main() -> int:
    """Load as told on the command line and give the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ledger", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--run", default="t", help="begins all tokens, so that two loads never share one")
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--kinds", default="ok=6,later=2,no=1,mixed=1")
    parser.add_argument("--octets", type=int, default=5120, help="on average")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between two messages of a session")
    load = Load(parser.parse_args())

    def stop(_: int, __: FrameType | None) -> None:
        load.is_stopping.set()

    signal.signal(signal.SIGTERM, stop)
    load.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
