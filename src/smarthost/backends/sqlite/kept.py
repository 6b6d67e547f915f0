# SPDX-License-Identifier: MIT
"""Copies of a database: consistent while others write it, durable, and whole under their names or not there at all.

What database.py keeps before a migration, and the first half of a backup (backup.py). Imported by the child: small. A
crash leaves a file whose name ends in ".part", which no start takes for a queue and the next copy sweeps away.
"""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import apsw

KEPT = 2  # copies from before migrations: the last one, and one in case that was made of something broken already
STEP_PAGES = 256  # 1 MiB: between two steps others have their turn, and what was written is synced
ROOM_OCTETS = 16 * 1024 * 1024  # beside the copy, for what a migration writes; its indices: a tenth of the database
PART = ".part"


class Unusable(Exception):
    """The database cannot be used; the text says why and what to do."""


def keep_old(db: apsw.Connection, path: Path, version: int) -> Path:
    """Copy a database that is about to be migrated to PATH.schemaN-STAMP, keep the newest two such; gives the path.

    Raises: Unusable: there is no room, or the copy cannot be written. apsw.Error: the database cannot be read.
    """
    for left in path.parent.glob(f"{path.name}.schema*{PART}*"):  # and its journal
        left.unlink()
    octets: int = db.pragma("page_count") * db.pragma("page_size")
    needed = octets + octets // 10 + ROOM_OCTETS
    free = free_octets(path.parent)
    why = f"{path} is of an older release (schema {version}) and is copied before it is brought to ours: that needs"
    if free < needed:
        raise Unusable(f"{why} {_mib(needed)} in {path.parent}, and {_mib(free)} are free: make room there")
    copy = path.with_name(f"{path.name}.schema{version}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    part = copy.with_name(copy.name + PART)
    try:
        copy_database(db, part)
        part.rename(copy)
        sync_directory(path.parent)
    except (OSError, apsw.FullError, apsw.IOError, apsw.CantOpenError) as error:
        with suppress(OSError):
            part.unlink()
        raise Unusable(f"{why} {_mib(needed)} in {path.parent}, and it failed: {error}") from error
    for old in sorted(path.parent.glob(f"{path.name}.schema*-*Z"), key=_stamp_of)[:-KEPT]:
        old.unlink()
    return copy


def copy_database(
    source: apsw.Connection,
    target: Path,
    stepped: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Copy the database as it is at this moment, whoever writes meanwhile, to a file of its own, 0600, and sync it.

    `source` is used for nothing else meanwhile. `stepped` is told the pages done and all after each step; what it
    raises ends the copy. Raises: apsw.Error, OSError; the file may be there.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    fd = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    copy = apsw.Connection(str(target))
    try:
        copy.pragma("synchronous", 0)  # synced below, in steps
        source.execute("BEGIN")
        try:
            # The first read takes the snapshot; as long as we hold it, no commit of others begins the copy anew.
            source.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            with copy.backup("main", source, "main") as copying:
                while not copying.done:
                    copying.step(STEP_PAGES)
                    os.fdatasync(fd)  # little by little: gigabytes at the end would hold up the fsyncs of others
                    stepped(copying.page_count - copying.remaining, copying.page_count)
        finally:
            source.execute("COMMIT")
        copy.pragma("journal_mode", "delete")  # one file, whoever opens it first
    finally:
        copy.close()
        os.close(fd)
    sync_file(target)


def free_octets(directory: Path) -> int:
    """Give how much room there is for us."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def sync_file(path: Path) -> None:
    """Make the octets of a file durable."""
    _sync(path, os.O_RDONLY)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def no_room(directory: Path, needed: int) -> OSError:
    """Give the error for a directory that lacks this much room."""
    text = f"{_mib(needed)} are needed there, and {_mib(free_octets(directory))} are free"
    return OSError(errno.ENOSPC, text, str(directory))


def _mib(octets: int) -> str:
    return f"{-(-octets >> 20)} MiB"


def _stamp_of(copy: Path) -> str:
    return copy.name.rpartition("-")[2]
