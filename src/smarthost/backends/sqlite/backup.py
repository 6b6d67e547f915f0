# SPDX-License-Identifier: MIT
"""Copies a whole state directory, live or not, into a directory that is a state directory itself.

The database by SQLite's online backup from one snapshot, content files by hard link or else octet by octet; what is
deleted meanwhile stays until the end. `Backups` does it in the child, on a connection and a thread of its own, so that
neither commits nor reads wait. The database gets its name last: whatever ends a backup early, a crash too, leaves
nothing that a start would take for a queue; only a crash leaves anything at all.
"""

import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import apsw
import msgspec

from smarthost.backends.sqlite import database, kept, wire
from smarthost.backends.sqlite.judged import Unreadable
from smarthost.backends.sqlite.reads import COUNTS
from smarthost.mail.backup import NOTE, Backup, BackupNote
from smarthost.mail.identity import encode_id

DATABASE = "queue.db"
CHUNK_OCTETS = 1 << 20
FAILED_MOST = 100  # content files that could not be deleted, and are tried again
FILES_A_LOOK = 100  # content files between two looks whether anybody still wants the backup
# What link(2) says where there are no hard links, or none from there to here
_UNLINKABLE = frozenset({errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})


class NotBackedUp(Exception):
    """There is no backup; the text says why and what to do."""


class Deletions:
    """Deletes content files, but none while a backup may still want it. Used by several threads."""

    def __init__(self, content: Path) -> None:
        self._content = content
        self._lock = threading.Lock()
        self._waiting: list[str] | None = None
        self._failed: list[str] = []  # come again with the next, or are swept by the next start

    def drop(self, names: Sequence[str]) -> None:
        """Delete files now or, while they are held, later; and those that could not be before. Raises: OSError."""
        with self._lock:
            if self._waiting is not None:
                self._waiting += names
                return
            failed, self._failed = self._failed, []
        failure: OSError | None = None
        for name in (*failed, *names):
            try:
                (self._content / name).unlink(missing_ok=True)
            except OSError as error:
                failure = error
                with self._lock:
                    self._failed = [*self._failed, name][-FAILED_MOST:]
        if failure is not None:
            raise failure

    @contextmanager
    def held(self) -> Iterator[None]:
        """Delete nothing before the block ends."""
        with self._lock:
            self._waiting = []
        try:
            yield
        finally:
            with self._lock:
                waiting, self._waiting = self._waiting, None
            with suppress(OSError):
                self.drop(waiting)


def back_up(
    state_dir: Path,
    target: Path,
    note: BackupNote,
    deletions: Deletions,
    stepped: Callable[[int, int], None] = lambda done, total: None,
) -> Backup:
    """Copy the queue in `state_dir` into `target`, which must not exist or be empty; `note` says when and by whom.

    The owner of the lock calls it; others may write meanwhile, but content is deleted by `deletions` alone. `stepped`
    is told pages done and all from time to time; what it raises ends the backup. Raises: NotBackedUp.
    """
    source = state_dir / DATABASE
    with ExitStack() as undo:
        try:
            _make_directory(target, undo)
            with deletions.held():
                found = _copy_all(source, target, note, stepped, undo)
            kept.sync_directory(target / "content")
            part = target / (DATABASE + kept.PART)
            octets = found.octets + part.stat().st_size
            part.rename(target / DATABASE)
            undo.callback((target / DATABASE).unlink, missing_ok=True)
            kept.sync_directory(target)
            kept.sync_directory(target.parent)
        except database.Unusable as error:
            raise NotBackedUp(str(error)) from error
        except (OSError, apsw.Error) as error:
            raise NotBackedUp(f"{source} cannot be copied to {target}: {error}") from error
        undo.pop_all()
    return msgspec.structs.replace(found, octets=octets)


def _make_directory(target: Path, undo: ExitStack) -> None:
    try:
        target.mkdir(mode=0o700)
        undo.callback(_forget, target.rmdir)
    except FileExistsError:
        if not target.is_dir() or any(target.iterdir()):
            text = f"{target} is not empty: name a directory that is, or that does not exist yet"
            if (target / (DATABASE + kept.PART)).exists():
                text = f"{target} has a backup that was interrupted: remove it, or name another directory"
            raise NotBackedUp(text) from None
        target.chmod(0o700)


def _make_content(target: Path, undo: ExitStack) -> Path:
    content = target / "content"
    content.mkdir(mode=0o700)

    def remove() -> None:
        for file in content.iterdir():
            file.unlink()
        content.rmdir()

    undo.callback(_forget, remove)
    return content


def _forget(remove: Callable[[], None]) -> None:
    with suppress(OSError):
        remove()


def _copy_all(
    source: Path, target: Path, note: BackupNote, stepped: Callable[[int, int], None], undo: ExitStack
) -> Backup:
    """Copy the database to its provisional name, and the content it speaks of; the latter's octets alone count."""
    part = target / (DATABASE + kept.PART)
    database.check_header(source)
    reader = database.open_reader(source)
    try:
        database.schema_of(reader, source)
        _look_for_room(reader, source, target)
        for suffix in ("", "-journal", "-wal", "-shm"):
            undo.callback(part.with_name(part.name + suffix).unlink, missing_ok=True)
        kept.copy_database(reader, part, stepped)
    finally:
        reader.close()
    copy = apsw.Connection(str(part))
    try:
        messages, deferred, held = [_number(copy, count) for count in COUNTS]
        recipients = deferred + held
        noted = msgspec.structs.replace(note, messages=messages, recipients=recipients)
        copy.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", (NOTE, msgspec.json.encode(noted)))
        names: list[Any] = copy.execute("SELECT key, tag FROM message WHERE in_file ORDER BY key").fetchall()
        pages = copy.pragma("page_count")
    finally:
        copy.close()
    kept.sync_file(part)
    content = _make_content(target, undo)
    octets = missing = 0
    for number, (key, tag) in enumerate(names):
        if number % FILES_A_LOOK == 0:
            stepped(pages, pages)
        name = encode_id(key, tag)
        try:
            octets += _link(source.parent / "content" / name, content / name)
        except FileNotFoundError:  # the queue is damaged; the rest of it is worth the more
            missing += 1
    return Backup(str(target), messages, recipients, octets, missing)


def _look_for_room(reader: apsw.Connection, source: Path, target: Path) -> None:
    """Leave the disk as much room as a migration would: a backup must not be what fills it."""
    needed = kept.ROOM_OCTETS + reader.pragma("page_count") * reader.pragma("page_size")
    if source.stat().st_dev != target.stat().st_dev:
        needed += _number(reader, "SELECT coalesce(sum(octets), 0) FROM message WHERE in_file")
    if kept.free_octets(target) < needed:
        raise kept.no_room(target, needed)


def _number(db: apsw.Connection, sql: str) -> int:
    rows: list[Any] = db.execute(sql).fetchall()
    return int(rows[0][0])


def _link(file: Path, link: Path) -> int:
    """Give a content file another name there, which is enough since none is ever changed; gives its octets."""
    try:
        os.link(file, link)
    except OSError as error:
        if error.errno not in _UNLINKABLE:
            raise
        _copy(file, link)
    return link.stat().st_size


def _copy(file: Path, copy: Path) -> None:
    with file.open("rb") as octets, copy.open("xb") as written:
        copy.chmod(0o600)
        while chunk := octets.read(CHUNK_OCTETS):
            written.write(chunk)
        written.flush()
        os.fsync(written.fileno())


class Backups:
    """At most one backup at a time, on a thread of its own. Answers at once; used by one thread."""

    def __init__(self, state_dir: Path, deletions: Deletions) -> None:
        self._state_dir = state_dir
        self._deletions = deletions
        self._thread: threading.Thread | None = None
        self._is_unwanted = threading.Event()
        self._target = ""
        self._pages = (0, 0)
        self._backup: Backup | None = None
        self._trouble = ""

    def answer(self, ask: wire.BackupQuestion) -> wire.BackupState:
        """Begin a backup, tell how far it is, or give it up. Raises: Unreadable: one is under way already."""
        match ask:
            case wire.StartBackup():
                self._start(ask)
            case wire.StopBackup():
                self._is_unwanted.set()
            case wire.AskBackup():
                pass
        is_running = self._thread is not None and self._thread.is_alive()
        done, total = self._pages
        return wire.BackupState(is_running, self._trouble, done, total, None if is_running else self._backup)

    def _start(self, ask: wire.StartBackup) -> None:
        if self._thread is not None and self._thread.is_alive():
            raise Unreadable(f"a backup to {self._target} is under way: wait for its end")
        self._is_unwanted.clear()
        self._target, self._pages, self._backup, self._trouble = ask.directory, (0, 0), None, ""
        note = BackupNote(ask.at, ask.version)
        self._thread = threading.Thread(target=self._run, args=(Path(ask.directory), note), daemon=True)
        self._thread.start()

    def _run(self, target: Path, note: BackupNote) -> None:
        try:
            self._backup = back_up(self._state_dir, target, note, self._deletions, self._stepped)
        except NotBackedUp as error:
            self._trouble = str(error)

    def _stepped(self, done: int, total: int) -> None:
        if self._is_unwanted.is_set():
            raise NotBackedUp("the backup was given up")
        self._pages = (done, total)
