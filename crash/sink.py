# SPDX-License-Identifier: MIT
"""Takes mail for the crash suite and writes down what arrived, before it says 250; shares no code with what sends.

Run as a program of its own: `python crash/sink.py --port N --log FILE [--delay S] [--tries N] [--host H]`; imports only
the standard library. What it does with a recipient is in its local part: `ok.` is taken; `later.` is told 451 at its
first N tries and taken then; `no.` is told 550; `never.` is told 451 for ever; `sender.` (a report) is taken.
`cut.` is taken, but the connection ends instead of the 250. `--delay`: seconds between the final dot and the reply, for
crashes to fall into. It forgets nothing while it runs: the tries are counted for each address.

The log has one JSON object a line, appended before the reply: {"at", "from", "to", "octets", "sha256", "token"}, the
last three of what stands from the line X-Crash-Token on (what relays put before it is not part of it). A report (null
reverse-path) has "report" instead: all addresses that stand in a Final-Recipient field, and "id": its Message-ID.
"""

import argparse
import asyncio
import hashlib
import json
import os
import re
import signal
import sys
import time
from collections import Counter

_MARK = re.compile(rb"^X-Crash-Token: (\S+)\r\n", re.MULTILINE)
_FINAL = re.compile(rb"^Final-Recipient:\s*rfc822\s*;\s*<?([^\s>]+)", re.MULTILINE | re.IGNORECASE)
_MESSAGE_ID = re.compile(rb"^Message-ID:\s*(\S+)", re.MULTILINE | re.IGNORECASE)
_PATH = re.compile(rb"<([^>]*)>")
_OFFER = (
    b"sink.crash.test",
    b"PIPELINING",
    b"8BITMIME",
    b"SMTPUTF8",
    b"DSN",
    b"SIZE 104857600",
    b"ENHANCEDSTATUSCODES",
)
_EHLO = b"".join(b"250%s%s\r\n" % (b" " if word is _OFFER[-1] else b"-", word) for word in _OFFER)


class Sink:
    """What all connections share."""

    def __init__(self, log: str, delay_s: float, tries: int) -> None:
        self._fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.delay_s = delay_s
        self._tries = tries
        self._tried: Counter[bytes] = Counter()

    def judge(self, address: bytes) -> bytes:
        """Give the reply to RCPT."""
        kind = address.split(b".", 1)[0]
        if kind == b"no":
            return b"550 5.1.1 no such recipient\r\n"
        if kind == b"never":
            return b"451 4.3.0 never\r\n"
        if kind == b"later":
            self._tried[address] += 1
            if self._tried[address] <= self._tries:
                return b"451 4.2.0 come again\r\n"
        return b"250 2.1.5 ok\r\n"

    def write(self, reverse_path: bytes, recipients: list[bytes], content: bytes) -> None:
        """Write down a message that is about to be acknowledged."""
        facts: dict[str, object] = {
            "at": time.time(),
            "from": reverse_path.decode(errors="replace"),
            "to": [each.decode(errors="replace") for each in recipients],
        }
        if not reverse_path:
            found = _MESSAGE_ID.search(content)
            facts["id"] = found[1].decode(errors="replace") if found else ""
            facts["report"] = [each.decode(errors="replace") for each in _FINAL.findall(content)]
        else:
            found = _MARK.search(content)
            rest = content[found.start() :] if found else content
            facts["token"] = found[1].decode() if found else ""
            facts["octets"] = len(rest)
            facts["sha256"] = hashlib.sha256(rest).hexdigest()
        os.write(self._fd, json.dumps(facts).encode() + b"\n")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends."""
        try:
            await self._converse(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass  # the relay was killed, or cut off: what was not acknowledged was not written down
        finally:
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 sink.crash.test ESMTP\r\n")
        reverse_path, recipients = b"", list[bytes]()
        while line := await reader.readline():
            verb = line[:4].upper()
            if verb in (b"EHLO", b"HELO"):
                writer.write(_EHLO)
            elif verb == b"MAIL":
                found = _PATH.search(line)
                reverse_path, recipients = found[1] if found else b"", []
                writer.write(b"250 2.1.0 ok\r\n")
            elif verb == b"RCPT":
                found = _PATH.search(line)
                address = found[1] if found else b""
                reply = self.judge(address)
                recipients += [address] if reply.startswith(b"250") else []
                writer.write(reply)
            elif verb == b"DATA":
                if not recipients:
                    writer.write(b"554 5.5.1 no recipients\r\n")
                    continue
                writer.write(b"354 go on\r\n")
                await writer.drain()
                content = await reader.readuntil(b"\r\n.\r\n")
                content = content[:-3].replace(b"\r\n..", b"\r\n.")
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                self.write(reverse_path, recipients, content)
                if any(each.startswith(b"cut.") for each in recipients):
                    return
                writer.write(b"250 2.0.0 taken\r\n")
            elif verb == b"QUIT":
                writer.write(b"221 2.0.0 bye\r\n")
                await writer.drain()
                return
            else:
                writer.write(b"250 2.0.0 ok\r\n")
            await writer.drain()


async def _serve(asked: argparse.Namespace) -> None:
    sink = Sink(asked.log, asked.delay, asked.tries)
    server = await asyncio.start_server(sink.serve, asked.host, asked.port, limit=1 << 26, backlog=1024)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with server:
        await stopped.wait()


def main() -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--tries", type=int, default=1)
    asyncio.run(_serve(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
