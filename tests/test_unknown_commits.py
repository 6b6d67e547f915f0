# SPDX-License-Identifier: MIT
"""A commit that failed may be there all the same: its mail goes on its way when the store is back, not later."""

from collections.abc import Collection

import pytest
from tests.test_relay import Bench, on_bench

from smarthost.mail.errors import StoreError
from smarthost.mail.lease import Lease
from smarthost.mail.message import Message
from smarthost.mail.record import Record


@on_bench()
async def test_mail_whose_commit_failed_after_all_was_written_is_soon_attempted(bench: Bench) -> None:
    """The client hears 451 and may send it again; what is in the queue is not left lying there until the next scan."""
    commit = bench.store.add

    async def add(message: Message, lease: Collection[str], record: Record | None = None) -> tuple[Lease, ...]:
        for part in await commit(message, lease, record):
            bench.store.give_back(part)
        raise StoreError("disk I/O error")

    bench.store.add = add  # type: ignore[method-assign]
    await bench.clock.sleep(5)
    with pytest.raises(StoreError):
        await bench.add("bob@example.net")
    await bench.clock.sleep(3)

    assert ["bob@example.net"] == bench.who()
