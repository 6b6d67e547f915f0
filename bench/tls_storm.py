# SPDX-License-Identifier: MIT
"""Clients that shake hands and hang up, over and over: STARTTLS, a whole handshake, gone.

Run as a program of its own (`python bench/tls_storm.py --port N --clients N`). One process on uvloop, so that it takes
one core at most. Each client has an address of its own below 127.0.0.0/8, as in a storm from the Internet: a limit for
each client does not end it. Says `storming` when the first handshake is done, storms until stdin ends, then prints one
JSON object: `handshakes` done, `refused` (anything else that came of a connection), `seconds` between.
"""

import argparse
import asyncio
import json
import ssl
import sys
import time
from collections import Counter

import uvloop

_PATIENCE_S = 10.0  # a client that hears nothing for so long gives up and comes again
_PAUSE_S = 0.05  # after a refusal


class Storm:
    """All clients and what became of their connections."""

    def __init__(self, port: int, clients: int) -> None:
        self._port = port
        self._clients = clients
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        """Storm until stdin ends."""
        tasks = [asyncio.create_task(self._keep_coming(n)) for n in range(self._clients)]
        await asyncio.to_thread(sys.stdin.buffer.read)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_coming(self, number: int) -> None:
        source = f"127.0.{1 + number // 250}.{1 + number % 250}"
        while True:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    await self._shake_hands(source)
            except (OSError, ValueError, asyncio.IncompleteReadError):  # SSLError and TimeoutError are OSErrors
                self.counts["refused"] += 1
                await asyncio.sleep(_PAUSE_S)

    async def _shake_hands(self, source: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, local_addr=(source, 0))
        try:
            await _expect(reader, b"220")
            writer.write(b"EHLO storm.bench.test\r\n")
            await _expect(reader, b"250")
            writer.write(b"STARTTLS\r\n")
            await _expect(reader, b"220")
            await writer.start_tls(self._context)
        finally:
            writer.transport.abort()
        self.counts["handshakes"] += 1
        if self.counts["handshakes"] == 1:
            print("storming", flush=True)


async def _expect(reader: asyncio.StreamReader, code: bytes) -> None:
    while True:
        line = await reader.readuntil(b"\n")
        if not line.startswith(code):
            raise ValueError(line)
        if line[3:4] != b"-":
            return


def main() -> None:
    """Storm as told on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--clients", type=int, required=True)
    asked = parser.parse_args()
    storm = Storm(asked.port, asked.clients)
    began = time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(storm.run())
    print(json.dumps({**storm.counts, "seconds": time.monotonic() - began}), flush=True)


if __name__ == "__main__":
    main()
