# SPDX-License-Identifier: MIT
"""Adds mail to a store until it is killed; ends by itself after 20 s.

Prints its child's pid, then the id of each message once it was acknowledged.
"""

import asyncio
import sys
import time
from pathlib import Path

from smarthost.backends.sqlite.store import SqliteStore
from smarthost.mail.address import Address, Domain
from smarthost.mail.content import InlineContent
from smarthost.mail.envelope import Envelope
from smarthost.mail.identity import IdSource
from smarthost.mail.message import Message

NOW = 1_800_000_000.0
SIZES = (10, 3_000, 50_000, 200_000)  # the last in a file


async def main() -> None:
    store = SqliteStore(Path(sys.argv[1]))
    await store.open()
    print(store.child_pid, flush=True)
    next_id = IdSource(lambda: NOW, 7, store.last_number).next
    envelope = Envelope("a@b.example", (Address("x@dest.example", Domain("dest.example")),))
    end = time.monotonic() + 20

    async def add(size: int) -> None:
        while time.monotonic() < end:
            id = next_id()
            content = InlineContent(id.encode() + b"x" * size)
            await store.add(Message(id, NOW, envelope, b"P: 1\r\n", content, "", ""), ())
            print(id, flush=True)

    await asyncio.gather(*[add(size) for size in SIZES for _ in range(4)])


if __name__ == "__main__":
    asyncio.run(main())
