# SPDX-License-Identifier: MIT
"""smarthost's ScriptedDns on a thread of its own, for tests whose daemon is another process."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tests.live.rig import WAIT_S

from smarthost.testing.dns import ScriptedDns, Zone


class Names(NamedTuple):
    """A name server that runs: its zone, which may be changed; where it listens; what it was asked."""

    zone: Zone
    at: str
    asked: Counter[tuple[str, str]]


@contextmanager
def serving_names(zone: Zone) -> Iterator[Names]:
    """Answer from a zone for a block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = ScriptedDns(zone)
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(WAIT_S)
        try:
            host, port = server.address
            yield Names(zone, f"{host}:{port}", server.asked)
        finally:
            asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(WAIT_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT_S)
        loop.close()


def by_mx(names: Names, port: int) -> list[str]:
    """Give the arguments with which a daemon delivers by MX on loopback: to exchangers at this port."""
    return ["--dns", names.at, "--mx-port", str(port), "--allow-private"]
