# SPDX-License-Identifier: MIT
"""Records in a file: whole lines, whatever rotates, truncates, fills or cuts it."""

import errno
import json
import os
import stat
import threading
from pathlib import Path

import pytest
from tests.ops.outbox.rig import record

from smarthost.ops.outbox import file as module
from smarthost.ops.outbox.carrier import Undelivered
from smarthost.ops.outbox.file import RecordFile

pytestmark = pytest.mark.asyncio


def cursors(path: Path) -> list[str]:
    return [json.loads(line)["cursor"] for line in path.read_text().splitlines()]


async def test_records_are_appended_as_lines(tmp_path: Path) -> None:
    """Each record is a line; what the file held before stays; others of the group may read it, strangers not."""
    path = tmp_path / "records"
    records = RecordFile(path)

    assert 2 == await records.deliver([record(1), record(2)])
    await records.close()
    again = RecordFile(path)
    await again.deliver([record(3)])
    await again.close()

    assert ["1", "2", "3"] == cursors(path)
    assert not stat.S_IMODE(path.stat().st_mode) & 0o027


async def test_a_rotated_file_is_opened_anew_without_a_signal(tmp_path: Path) -> None:
    """logrotate may rename, remove or copy and truncate it: every line is in exactly one file."""
    path = tmp_path / "records"
    records = RecordFile(path)
    await records.deliver([record(1)])
    path.rename(tmp_path / "records.1")
    await records.deliver([record(2)])
    path.unlink()
    await records.deliver([record(3)])
    os.truncate(path, 0)
    await records.deliver([record(4)])
    await records.close()

    assert ["1"] == cursors(tmp_path / "records.1")
    assert ["4"] == cursors(path)


async def test_a_line_that_a_crash_cut_is_ended(tmp_path: Path) -> None:
    """Half a line stays half a line, and the next record begins on its own."""
    path = tmp_path / "records"
    path.write_bytes(b'{"cursor":"1"}\n{"curs')
    records = RecordFile(path)
    await records.deliver([record(2)])
    await records.close()

    lines = path.read_text().splitlines()
    assert ['{"cursor":"1"}', '{"curs'] == lines[:2]
    assert "2" == json.loads(lines[2])["cursor"]


async def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What did not fit is taken back, told, and comes again."""
    path = tmp_path / "records"
    records = RecordFile(path)
    await records.deliver([record(1)])
    real = os.write
    room = [10, 0]

    def full(fd: int, octets: bytes) -> int:
        if room:
            left = room.pop(0)
            if left:
                return real(fd, bytes(octets[:left]))
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, octets)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Undelivered, match="No space left on device"):
        await records.deliver([record(2)])
    assert ["1"] == cursors(path)
    await records.deliver([record(2)])
    await records.close()

    assert ["1", "2"] == cursors(path)


async def test_a_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    """One line with the path; when the directory is made, it goes on."""
    records = RecordFile(tmp_path / "logs" / "records")
    with pytest.raises(Undelivered, match="logs/records: No such file or directory"):
        await records.deliver([record(1)])
    (tmp_path / "logs").mkdir()

    assert 1 == await records.deliver([record(1)])
    await records.close()


async def test_a_disk_that_hangs_holds_up_neither_the_loop_nor_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that never returns costs one thread; nothing else is written beside it, and closing does not wait."""
    path = tmp_path / "records"
    hanging = threading.Event()
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, octets: hanging.wait(20) and real(fd, octets))
    monkeypatch.setattr(module, "WRITE_S", 0.05)
    records = RecordFile(path)

    with pytest.raises(Undelivered, match="the disk does not answer"):
        await records.deliver([record(1)])
    with pytest.raises(Undelivered, match="the last try still hangs"):
        await records.deliver([record(1)])
    await records.close()
    hanging.set()
    for thread in threading.enumerate():
        if thread.name == "records":
            thread.join(5)

    assert ["1"] == cursors(path)
