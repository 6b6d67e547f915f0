# SPDX-License-Identifier: MIT
"""Rare troubles of the store: no descriptors at a restart, a report that cannot be filed."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from smarthost.backends.clock import SystemClock
from smarthost.backends.sqlite.items import Report
from smarthost.backends.sqlite.store import SqliteStore
from smarthost.mail.errors import StoreError
from smarthost.mail.settlement import OwedReport


@pytest.mark.slow
@pytest.mark.asyncio
async def test_a_restart_without_descriptors_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child dies while the process is out of descriptors: the store comes back as soon as there are some."""
    store = SqliteStore(tmp_path / "state", SystemClock())
    await store.open()
    real, tries = socket.socketpair, []

    def scarce() -> tuple[socket.socket, socket.socket]:
        tries.append(1)
        if len(tries) == 1:
            raise OSError(24, "Too many open files")
        return real()

    monkeypatch.setattr(socket, "socketpair", scarce)
    child = store.child_pid
    assert child is not None
    os.kill(child, signal.SIGKILL)
    async with asyncio.timeout(10):
        while not tries or store.refusal is not None:
            await asyncio.sleep(0.02)

    assert await store.count() == (0, 0)
    await store.close()


@pytest.mark.asyncio
async def test_a_report_that_cannot_be_filed_does_not_stand_before_the_others() -> None:
    """The debt stays leased until its lease runs out; the younger ones have their turn meanwhile."""
    ended: list[str] = []
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    owed = OwedReport("0" * 16, 0.0, "a@example.org", False, b"", b"", ())
    report = Report(owed, None, (), future, ended.append)

    told = report.rejected(StoreError("a row is wrong"))

    assert isinstance(future.exception(), StoreError)
    assert told is not None
    assert owed.id in told
    assert ended == []
