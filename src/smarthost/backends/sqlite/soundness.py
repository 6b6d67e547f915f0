# SPDX-License-Identifier: MIT
"""Looks for damage before a database is used: in its structure, its write-ahead log, and between its tables.

Runs in the child, on a connection that cannot write: what is damaged stays as it is found. Looks for CHECK_S at most;
what that does not reach is found when it is read (reads.py). A disk that fails, a newer schema and a database of
another program are no damage: whoever opens it for writing says what is to be said of those.
"""

import time
from pathlib import Path

import apsw

from smarthost.backends.sqlite import database, flaws, pages

CHECK_S = 2.0  # a whole check of a large queue takes minutes; mail should not wait for it
FAR = 86_400_000 << 21  # a day (mail.identity)
_TABLES = ("recipient", "message", "note", "highest", "content")
_STATES = ", ".join([f"'{state}'" for state in sorted(flaws.STATES)])
_CONTRADICTIONS = (
    ("SELECT 1 FROM (SELECT 1) WHERE NOT EXISTS (SELECT 1 FROM highest)", "the highest number is gone"),
    (f"SELECT 1 FROM recipient NOT INDEXED WHERE state NOT IN ({_STATES}) LIMIT 1", "a state that we do not know"),  # noqa: S608
    (
        "SELECT 1 FROM message WHERE NOT EXISTS (SELECT 1 FROM recipient WHERE message = key) LIMIT 1",
        "a message without recipients",
    ),
    (
        "SELECT 1 FROM recipient WHERE NOT EXISTS (SELECT 1 FROM message WHERE key = message) LIMIT 1",
        "recipients without their message",
    ),
)
DAMAGE = (apsw.CorruptError, apsw.NotADBError, UnicodeDecodeError)


def find_damage(path: Path, promised: pages.Promise, check_s: float = CHECK_S) -> str:
    """Give what is wrong with a database that nobody has open, "": nothing as far as it was looked at.

    `promised`: pages.promise, read before this.
    Raises: apsw.Error, OSError: the disk fails, or the database cannot be opened for other reasons.
    """
    if not path.exists():
        return ""
    if database.is_half_made(path):
        return ""  # the writer takes back what there is of it, which who only reads may not
    log = pages.Log(path)
    if not path.stat().st_size:
        return "its file is empty, its log is not" if log.frames else ""
    with path.open("rb") as file:
        if file.read(16) != pages.MAGIC:  # with a log SQLite would not even look at it, now
            return "its head is gone"
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        db.set_busy_timeout(5_000)
        db.pragma("cell_size_check", 1)
        return _look(db, path, log, promised, time.monotonic() + check_s)
    except DAMAGE as error:
        return str(error) or type(error).__name__
    finally:
        db.close()


def _look(db: apsw.Connection, path: Path, log: pages.Log, promised: pages.Promise, stop_at: float) -> str:
    db.execute("BEGIN")
    names = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    valid = pages.promise(path).frames
    tail = log.tail(valid, promised.frames if promised.salts == log.salts else 0)
    if tail.is_lost:
        return f"its log breaks off after {valid} frames, {tail.frames} more are behind that"
    is_ours = db.pragma("application_id") == database.APPLICATION_ID
    if not is_ours:
        return "its head is not as we wrote it" if names.issuperset(_TABLES) else ""
    if not 0 < _number(db, "PRAGMA user_version") <= database.SCHEMA_VERSION:
        return ""
    return _check(db, stop_at) if names.issuperset(_TABLES) else "tables of it are gone"


def _is_highest(db: apsw.Connection) -> bool:
    """Is the highest number not far from the others? Times are judged by it."""
    tables = db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'record_[0-9]*'").fetchall()
    newest = [_number(db, f"SELECT coalesce(max(seq), 0) FROM {table}") for (table,) in tables]  # noqa: S608
    newest.append(_number(db, "SELECT coalesce(max(key), 0) FROM message"))
    number = _number(db, "SELECT number FROM highest")
    return not any(newest) or abs(number - max(newest)) < FAR


def _number(db: apsw.Connection, sql: str) -> int:
    found = db.execute(sql).fetchall()[0][0]
    return found if isinstance(found, int) else 0


def _check(db: apsw.Connection, stop_at: float) -> str:
    db.set_progress_handler(lambda: time.monotonic() > stop_at, 10_000)
    try:
        for table in _TABLES[:2]:
            if found := _complaint(db, f"PRAGMA integrity_check({table})"):
                return found
        for sql, what in _CONTRADICTIONS:
            if db.execute(sql).fetchall():
                return what
        if not _is_highest(db):
            return "the highest number is none that was given out"
        return _complaint(db, "PRAGMA integrity_check(1)")
    except apsw.InterruptError:
        return ""  # sound as far as it went


def _complaint(db: apsw.Connection, check: str) -> str:
    """Give the first thing that SQLite finds wrong."""
    found = str(db.execute(check).fetchall()[0][0])
    return "" if found == "ok" else found.splitlines()[-1]
