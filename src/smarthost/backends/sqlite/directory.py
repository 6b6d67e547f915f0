# SPDX-License-Identifier: MIT
"""Takes the state directory: ours alone, 0700, locked while we or a child of ours may write in it.

The lock is the file's (flock), so it ends with the last process that holds it, never stale. Its pid is for people.
"""

import fcntl
import os
from pathlib import Path

from smarthost.mail.errors import StoreError, StoreLocked
from smarthost.ports import Clock

DATABASE = "queue.db"
# What may lie in a directory that has no database yet; with one, the directory is ours and anything may.
KNOWN_NAMES = frozenset({"lock", "ballast", "content", "control", "control.sock", "lost+found"})
WAIT_S = 5.0  # for the child of a daemon that was killed: it finishes its batch first
LOOK_AGAIN_S = 0.05


async def take(directory: Path, clock: Clock) -> int:
    """Make the directory fit for use and lock it; gives the lock's descriptor. Raises: StoreLocked, StoreError."""
    _prepare(directory)
    try:
        fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"cannot lock state directory {directory}: {error.strerror}") from error
    try:
        await _lock(fd, directory, clock)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        os.close(fd)
        raise StoreError(f"cannot write to state directory {directory}: {error.strerror}; make room there") from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def database_octets(directory: Path) -> int:
    """Give the size of the database, 0 when there is none."""
    try:
        return (directory / DATABASE).stat().st_size
    except OSError:
        return 0


def _prepare(directory: Path) -> None:
    try:
        if not directory.exists():
            _make(directory)
        found = directory.stat()
        names = {entry.name for entry in directory.iterdir()}
    except OSError as error:
        raise StoreError(f"cannot use state directory {directory}: {error.strerror}") from error
    if found.st_uid != os.geteuid():
        raise StoreLocked(
            f"state directory {directory} belongs to user {found.st_uid}, we are {os.geteuid()}: run as its owner, or"
            " choose another directory"
        )
    if not os.access(directory, os.W_OK | os.X_OK):
        raise StoreError(f"state directory {directory} is not writable: check its permissions and its file system")
    foreign = names - KNOWN_NAMES
    if foreign and DATABASE not in names:
        raise StoreLocked(
            f"state directory {directory} holds files that are not ours ({', '.join(sorted(foreign)[:3])}): choose an"
            " empty one"
        )
    if "content" not in names:
        _make(directory / "content")


def _make(directory: Path) -> None:
    """Make it and what is missing above it, each name durable before anything is kept inside.

    ext4 and XFS make the names above a new file durable with it; not every file system does, and SQLite syncs only the
    directory that its files are in.
    """
    for above in [each for each in directory.parents if not each.exists()][::-1]:
        above.mkdir(exist_ok=True)
        _sync(above.parent)
    directory.mkdir(mode=0o700, exist_ok=True)
    _sync(directory.parent)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


async def _lock(fd: int, directory: Path, clock: Clock) -> None:
    give_up_at = clock.monotonic() + WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            if _is_alive(owner) or clock.monotonic() >= give_up_at:
                raise StoreLocked(
                    f"state directory {directory} is in use by process {owner or 'unknown'}: stop it, or choose"
                    " another directory"
                ) from error
        await clock.sleep(LOOK_AGAIN_S)


def _is_alive(pid: str) -> bool:
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
