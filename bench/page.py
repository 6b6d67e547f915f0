# SPDX-License-Identifier: MIT
"""`python -m bench.page`: what the overview costs while somebody watches it, with 100,000 queued for a broken host.

A relay in this process with its HTTP door open, its store on a real disk; a client on a thread asks for the overview as
a browser does. CPU is of this process, the client's included, and of the store's child; without a watcher, then with.
"""

import asyncio
import re
import sys
import tempfile
import time
from pathlib import Path

import httpx2 as httpx

from bench.store import child_seconds
from bench.why import MESSAGES, fill
from smarthost.assemble import Relay
from smarthost.backends.logs import LoggingSink
from smarthost.config import parse_config
from smarthost.ops.http.lately import Lately
from smarthost.ops.http.service import open_http
from smarthost.ops.http.tokens import Scope, add_token

EVERY_S = 5.0
SPAN_S = 120.0
MOST_SHARE = 0.02
_CONFIG = """
state_dir = "{home}/state"
hostname = "relay.bench.test"
[next_hop]
host = "127.0.0.1"
port = 9
[http]
listen = ["127.0.0.1:0"]
tokens_file = "{home}/tokens.toml"
"""


def _watch(url: str, token: str, until: float) -> list[float]:
    """Ask for the overview every five seconds; gives how long each answer took, in seconds."""
    took = []
    with httpx.Client(base_url=url, headers={"sec-fetch-site": "same-origin"}, timeout=30.0) as client:
        secret = re.search(r'name="csrf" value="([^"]+)"', client.get("/login").text)
        assert secret is not None, "the page to log in has a form"
        assert client.post("/login", data={"csrf": secret[1], "token": token}).status_code == httpx.codes.SEE_OTHER
        while time.monotonic() < until:
            began = time.monotonic()
            assert "Why it waits" in client.get("/").text
            took.append(time.monotonic() - began)
            time.sleep(EVERY_S)
    return took


async def measure(home: Path) -> bool:
    """Print the figures; gives whether watching costs as little as it must."""
    token = add_token(home / "tokens.toml", "bench", frozenset(Scope), "2026-01-01T00:00:00Z")
    config = parse_config(_CONFIG.format(home=home))
    lately = Lately(LoggingSink(), time.time)
    relay = Relay.from_config(config, lately, paused=True)
    await relay.start()
    try:
        await fill(relay, MESSAGES)
        await relay.resume()
        await asyncio.sleep(EVERY_S)  # the next hop is known as broken
        async with open_http(config, relay, lately) as bound:
            shares, took = [], []
            for is_watched in (False, True):
                child = relay.store.child_pid  # type: ignore[attr-defined]
                began, cpu_s = time.monotonic(), time.process_time() + child_seconds(child)
                if is_watched:
                    url = f"http://{bound[0][0]}:{bound[0][1]}"
                    took = sorted(await asyncio.to_thread(_watch, url, token, began + SPAN_S))
                else:
                    await asyncio.sleep(SPAN_S)
                cpu_s = time.process_time() + child_seconds(child) - cpu_s
                shares.append(cpu_s / (time.monotonic() - began))
    finally:
        await relay.stop()
    print(
        f"overview of {MESSAGES:,}, each {EVERY_S:.0f} s: {shares[0]:.2%} of a core alone, {shares[1]:.2%} watched;"
        f" an answer p50 {took[len(took) // 2] * 1e3:.0f} ms, max {took[-1] * 1e3:.0f} ms"
    )
    return shares[1] - shares[0] <= MOST_SHARE


def main() -> int:
    """Run on a disk, and give the exit code: 1 if watching costs more than it may."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="smarthost-page-") as directory:
        is_cheap = asyncio.run(measure(Path(directory)))
    print(f"{'pass' if is_cheap else 'FAIL'}  watching costs at most {MOST_SHARE:.0%} of a core")
    return 0 if is_cheap else 1


if __name__ == "__main__":
    sys.exit(main())
