# SPDX-License-Identifier: MIT
"""The state directory's own names are durable before anything is kept in it."""

import asyncio
import os
from pathlib import Path

import pytest

from smarthost.backends.clock import SystemClock
from smarthost.backends.sqlite.directory import take


def test_names_of_new_directories_are_synced_and_old_ones_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut after the first 250 must not take the directory that the mail is in."""
    synced: list[Path] = []
    monkeypatch.setattr("os.fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink()))
    state = tmp_path / "spool" / "state"

    os.close(asyncio.run(take(state, SystemClock())))
    first, synced[:] = synced[:], []
    os.close(asyncio.run(take(state, SystemClock())))

    assert first == [tmp_path, tmp_path / "spool", state]
    assert synced == []
    assert (state / "content").is_dir()
    assert state.stat().st_mode & 0o777 == 0o700
