# SPDX-License-Identifier: MIT
"""Large content in files: drafts being received, content read back, and whether there is room for more.

A draft stays in memory while it is small, so that reception may begin one whenever it likes. Its file becomes durable
only when a store's add has synced and renamed it; a crash leaves `*.draft` files, which the next start deletes.
"""

import os
from collections.abc import Callable, Iterator
from errno import EDQUOT, ENOSPC
from itertools import count
from pathlib import Path

from msgspec import Struct

from smarthost.mail.content import Content, InlineContent
from smarthost.mail.errors import StoreError, StoreFull

CHUNK_OCTETS = 256 * 1024  # mail.content
# In the database each octet is written twice (WAL, then table); a file costs two fsyncs of its own. Measured here, with
# an fsync of 0.02 ms: 64 KiB 130-170 us inline, 160 in a file; 128 KiB 250-300 and 170. An fsync of 1 ms, as disks
# have, moves the crossing far up, since inline contents share one.
INLINE_OCTETS = 128 * 1024
DRAFTS_OCTETS = 16 * 1024 * 1024  # of all drafts together in memory; beyond it they go to their files at once
RESERVE_SHARE = 8  # of a small file system, so much at most
RESERVE_OCTETS = 64 * 1024 * 1024  # settlements and deletions must still find room when new mail does not
LOOK_S = 0.25
LOOK_OCTETS = 8 * 1024 * 1024  # written since the last look: look again, whatever the time


def translate(error: OSError, path: str | Path) -> StoreError:
    """Give the StoreError or StoreFull for what the system said about a path."""
    if error.errno in (ENOSPC, EDQUOT):
        return StoreFull(f"no space left for {path}")
    return StoreError(f"content file {path}: {error.strerror or error}")


class FileContent(Struct, frozen=True, gc=False):
    """Content in a file."""

    path: str
    octets: int

    def chunks(self) -> Iterator[bytes]:
        """Give the octets in order, in pieces of 256 KiB. Raises: StoreError: the file is short or cannot be read."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise translate(error, self.path) from error
        try:
            offset = 0
            while offset < self.octets:
                try:
                    chunk = os.pread(fd, min(CHUNK_OCTETS, self.octets - offset), offset)
                except OSError as error:
                    raise translate(error, self.path) from error
                if not chunk:
                    raise StoreError(f"content file {self.path} ends at {offset} of {self.octets} octets")
                offset += len(chunk)
                yield chunk
        finally:
            os.close(fd)


class Space:
    """Looks, rarely, at how much room the state directory has. `reserve_octets`: None is as much as is usual."""

    def __init__(self, directory: Path, monotonic: Callable[[], float], reserve_octets: int | None = None) -> None:
        self._directory = directory
        self._monotonic = monotonic
        self.reserve_octets = reserve_octets
        self._look_at = 0.0
        self._unseen = 0
        self._shortage: StoreFull | None = None
        self._spare_octets = 0

    def set_spare(self, octets: int) -> None:
        """Count room in files that are there already: a database that was once large and is empty now is room."""
        self._spare_octets = octets

    def set_reserve(self, octets: int) -> None:
        """Keep this much room; the next question looks."""
        self.reserve_octets = octets
        self._look_at = 0.0

    def shortage(self, octets: int = 0) -> StoreFull | None:
        """Give why `octets` more should not be taken, or None."""
        self._unseen += octets
        now = self._monotonic()
        if now >= self._look_at or self._unseen > LOOK_OCTETS:
            self._look_at = now + LOOK_S
            self._unseen = 0
            self._shortage = self._look()
        return self._shortage

    def _look(self) -> StoreFull | None:
        try:
            found = os.statvfs(self._directory)
        except OSError as error:
            return StoreFull(f"cannot tell how much room {self._directory} has: {error.strerror}")
        free = found.f_bavail * found.f_frsize
        reserve = self.reserve_octets
        if reserve is None:
            reserve = min(RESERVE_OCTETS, found.f_blocks * found.f_frsize // RESERVE_SHARE)
        if free + self._spare_octets >= reserve and free >= reserve // 4:  # the rest for the WAL
            return None
        return StoreFull(f"{self._directory} has {free >> 20} MiB left, {reserve >> 20} MiB are kept for settlements")


class Drafts:
    """Begins drafts and knows the finished ones. Owned by one store."""

    def __init__(self, directory: Path, space: Space, inline_octets: int = INLINE_OCTETS) -> None:
        self.directory = directory
        self.space = space
        self.inline_octets = inline_octets
        self.in_memory = 0
        self.finished: dict[str, FileDraft] = {}
        self._names = count()

    def begin(self) -> "FileDraft":
        """Begin a draft. Raises: StoreFull."""
        shortage = self.space.shortage()
        if shortage is not None:
            raise shortage
        return FileDraft(self, self.directory / f"{next(self._names)}.draft")

    def claim(self, content: Content) -> "FileDraft":
        """Give the finished draft that has this content, copying it into one if it has none. Raises: StoreError."""
        if isinstance(content, FileContent):
            draft = self.finished.pop(content.path, None)
            if draft is not None:
                return draft
        draft = self.begin()
        try:
            for chunk in content.chunks():
                draft.write(chunk)
            draft.to_file()
            draft.finish()
        except StoreError:
            draft.discard()
            raise
        return self.finished.pop(str(draft.path))


class FileDraft:
    """Content being received: in memory while it is small, then in a file."""

    __slots__ = ("_drafts", "_fd", "_has_file", "_pieces", "octets", "path")

    def __init__(self, drafts: Drafts, path: Path) -> None:
        self._drafts = drafts
        self.path = path
        self.octets = 0
        self._pieces: list[bytes] = []
        self._fd = -1
        self._has_file = False

    def write(self, octets: bytes) -> None:
        """Append. Raises: StoreFull, StoreError."""
        drafts = self._drafts
        self.octets += len(octets)
        if self._fd >= 0:
            self._write_file(octets)
            return
        self._pieces.append(octets)
        drafts.in_memory += len(octets)
        if self.octets > drafts.inline_octets or drafts.in_memory > DRAFTS_OCTETS:
            self.to_file()

    def to_file(self) -> None:
        """Move what is in memory to the file. Raises: StoreFull, StoreError."""
        if self._fd < 0:
            try:
                self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise translate(error, self.path) from error
            self._has_file = True
        pieces = self._forget_pieces()
        self._write_file(b"".join(pieces))

    def _forget_pieces(self) -> list[bytes]:
        pieces, self._pieces = self._pieces, []
        self._drafts.in_memory -= sum([len(piece) for piece in pieces])
        return pieces

    def _write_file(self, octets: bytes) -> None:
        shortage = self._drafts.space.shortage(len(octets))
        if shortage is not None:
            raise shortage
        try:
            written = os.write(self._fd, octets)
            while written < len(octets):
                written += os.write(self._fd, memoryview(octets)[written:])
        except OSError as error:
            raise translate(error, self.path) from error

    def finish(self) -> Content:
        """End it and give the content to put into a Message."""
        if self._fd < 0:
            return InlineContent(b"".join(self._forget_pieces()))
        self._close()
        self._drafts.finished[str(self.path)] = self
        return FileContent(str(self.path), self.octets)

    def discard(self) -> None:
        """Forget it and its file; harmless when repeated."""
        self._forget_pieces()
        self._close()
        if self._has_file:
            self._has_file = False
            self._drafts.finished.pop(str(self.path), None)
            self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
