# SPDX-License-Identifier: MIT
"""A content file that the disk does not take: the store is not believed until another child has opened it anew."""

import asyncio
from collections.abc import Callable
from errno import EIO, ENOSPC
from pathlib import Path

import pytest
from tests.backends.test_sqlite_store import files, large_message, opened, sqlite

from smarthost.backends.sqlite import database, wire
from smarthost.mail.errors import StoreError, StoreFull

pytestmark = pytest.mark.asyncio


def failing_keep(errno: int) -> Callable[..., None]:
    """Give what the keeper does when the child says that a file could not be made durable."""

    def keep(draft: str, name: str, kept: Callable[[wire.FileOutcome | None], None]) -> None:
        asyncio.get_running_loop().call_soon(kept, wire.FileOutcome(errno, "fsync failed"))

    return keep


async def test_a_failed_sync_of_content_refuses_the_message_and_opens_the_store_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client hears of it, so does the operator, the child is another one, and then mail is taken again."""
    told: list[str] = []
    async with opened(tmp_path / "s", on_trouble=told.append) as trial:
        store = sqlite(trial)
        child = store.child_pid
        with monkeypatch.context() as patch:
            patch.setattr(store._keeper, "keep", failing_keep(EIO))
            with pytest.raises(StoreError, match="content file"):
                await store.add(large_message(trial), ())
        assert isinstance(store.refusal, StoreError)
        async with asyncio.timeout(20):
            while store.refusal is not None:
                await asyncio.sleep(0.01)
        message = large_message(trial)
        await store.add(message, ())

        assert child != store.child_pid
        assert "a content file could not be made durable: fsync failed" == told[0]
        assert [message.id] == files(tmp_path / "s")


async def test_no_space_for_content_is_no_failure_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk refuses the one message; nothing is opened anew for that."""
    async with opened(tmp_path / "s") as trial:
        store = sqlite(trial)
        child = store.child_pid
        with monkeypatch.context() as patch:
            patch.setattr(store._keeper, "keep", failing_keep(ENOSPC))
            with pytest.raises(StoreFull):
                await store.add(large_message(trial), ())

        assert (child, None) == (store.child_pid, store.refusal)


async def test_who_gives_up_opening_leaves_the_log_as_it_is(tmp_path: Path) -> None:
    """After a checkpoint whose fsync failed, closing must not try again: it would succeed, and delete the log."""
    async with opened(tmp_path / "s") as trial:
        await trial.add("a@dest.example")
        sqlite(trial).kill()
        log = tmp_path / "s" / "queue.db-wal"
        before = log.read_bytes()

        for open_one in (database.open_writer, database.open_reader):
            open_one(tmp_path / "s" / "queue.db").close()

        assert len(before) > 4096
        assert before == log.read_bytes()
