# SPDX-License-Identifier: MIT
"""Appends records to a file of JSON Lines. One that was renamed, removed or truncated is taken as it is found.

Rotation needs no signal: before each batch it is looked whether the path still is the file that is open. Not synced:
after a power cut the newest lines may be missing, and the cursor goes on; a record is in the store in any case. Written
aside, so that a disk that hangs holds up nothing. A line is whole or not there.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from smarthost.mail.record import Record
from smarthost.ops.outbox.aside import Aside
from smarthost.ops.outbox.carrier import Undelivered
from smarthost.ops.outbox.lines import to_line

WRITE_S = 10.0
_MODE = 0o640


class RecordFile:
    """One file. One event loop; the thread of one batch at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._aside = Aside("records")
        self._fd = -1

    async def deliver(self, records: Sequence[Record]) -> int:
        """Append all of them. Raises: Undelivered."""
        lines = b"".join([to_line(record) + b"\n" for record in records])
        try:
            await self._aside.run(lambda: self._append(lines), WRITE_S)
        except TimeoutError as error:
            raise Undelivered(f"{self._path}: the disk does not answer{f': {error}' if str(error) else ''}") from None
        except OSError as error:
            raise Undelivered(f"{self._path}: {error.strerror}") from error
        return len(records)

    async def close(self) -> None:
        """Close the file, unless a thread still hangs in it."""
        if not self._aside.is_busy:
            self._close()

    def _append(self, lines: bytes) -> None:
        """Append whole lines or nothing: what a full disk cut off is taken back."""
        if not self._is_current():
            self._close()
            self._open()
        before = os.fstat(self._fd).st_size
        try:
            view = memoryview(lines)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            os.ftruncate(self._fd, before)
            raise

    def _is_current(self) -> bool:
        if self._fd < 0:
            return False
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        here = os.fstat(self._fd)
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _MODE)
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            os.write(self._fd, b"\n")  # a crash cut the last line: it ends here, and comes again whole

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
