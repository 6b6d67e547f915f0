# SPDX-License-Identifier: MIT
"""Room on the disk that is ours already, for the hour when others have filled it: then settlements go on.

A file of real blocks in the state directory. It is let go when a commit finds no space, so that what was relayed can be
recorded (else it would be sent again) and what is cancelled goes; and taken up again when there is plenty. New mail is
refused long before (backends.files.Space). Runs in the child. A crash leaves the file, or none: the next start makes it
anew. Not every file system keeps room this way (compression, copy on write): there it is no help, and no harm.
"""

import contextlib
import os
from pathlib import Path

BALLAST_OCTETS = 8 * 1024 * 1024  # some ten thousand settlements, and the WAL's way back into the database
SHARE = 16  # of a small file system, so much at most


class Ballast:
    """The file `ballast` in a state directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "ballast"
        self._directory = directory
        self.is_held = False

    def hold(self) -> None:
        """Take up the room if there is four times as much; else another time."""
        try:
            found = os.statvfs(self._directory)
            octets = min(BALLAST_OCTETS, found.f_blocks * found.f_frsize // SHARE)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        try:
            missing = octets - os.fstat(fd).st_blocks * 512
            if missing > 0 and found.f_bavail * found.f_frsize < missing + 3 * octets:
                return
            os.ftruncate(fd, octets)
            os.posix_fallocate(fd, 0, octets)
            self.is_held = True
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
        finally:
            os.close(fd)

    def let_go(self) -> bool:
        """Give the room back; False: there was none to give."""
        was_held, self.is_held = self.is_held, False
        with contextlib.suppress(OSError):
            os.truncate(self._path, 0)
        return was_held
