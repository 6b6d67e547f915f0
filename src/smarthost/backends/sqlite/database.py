# SPDX-License-Identifier: MIT
"""Opens the database file: makes it, checks that it is ours and sound, and refuses it with a text for an operator.

Runs in the child. An older database is copied before it is migrated (kept.py), and migrated in one transaction: a crash
leaves the old version or the new one. A crash while it is made leaves a database without tables, made anew by the next
start. `user_version` is the oldest schema whose code can read and write the file, which is all that a release looks at;
the table `migration` tells how new the file is. So the release before can be put back after an additive migration.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from smarthost.backends.sqlite import kept
from smarthost.backends.sqlite.kept import Unusable as Unusable

APPLICATION_ID = 0x534D4853  # "SMHS"
SCHEMA_VERSION = 4


class Migration(NamedTuple):
    """How a schema becomes the next. Additive: code of the schema before goes on to read and write the file rightly.

    That is so for new indices, and for columns that may be null or have a default: code names the columns it means.
    """

    what: str
    is_additive: bool
    sql: str


# By the version each leads to. schema.sql is the newest version as a whole; a test compares.
# Nothing is written anew, but SQLite checks all rows of a STRICT table for each column it gets: with a million messages
# from 2 to 3 in 8 s (a machine busy with other work). The store's opening may take no longer than commits.OPEN_S.
MIGRATIONS = {
    2: Migration(
        "recipients that await a host",
        False,  # code of schema 1 was never released beside it
        """
        ALTER TABLE recipient ADD COLUMN awaits_host INTEGER NOT NULL DEFAULT 0;
        CREATE INDEX recipient_awaiting ON recipient (domain, due) WHERE awaits_host = 1 AND state = 'deferred';
        """,
    ),
    3: Migration(
        "what senders ask of reports and of TLS, and delays that were told",
        False,  # code of schema 2 would forget what senders asked for
        """
        ALTER TABLE message ADD COLUMN ret TEXT NOT NULL DEFAULT '';
        ALTER TABLE message ADD COLUMN envid TEXT NOT NULL DEFAULT '';
        ALTER TABLE message ADD COLUMN tls TEXT NOT NULL DEFAULT '';
        ALTER TABLE recipient ADD COLUMN notify INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE recipient ADD COLUMN orcpt TEXT NOT NULL DEFAULT '';
        ALTER TABLE recipient ADD COLUMN dsn TEXT NOT NULL DEFAULT '';
        ALTER TABLE recipient ADD COLUMN delay_told INTEGER NOT NULL DEFAULT 0;
        """,
    ),
    4: Migration(
        "checksums",
        True,  # what code of schema 3 adds has none, and is not checked
        """
        ALTER TABLE message ADD COLUMN checksum INTEGER;
        ALTER TABLE message ADD COLUMN recipients INTEGER;
        ALTER TABLE recipient ADD COLUMN checksum INTEGER;
        """,
    ),
}
# Measured here (child alone, batches of 32, 5 KiB): 4096: 23,700 messages/s, 8192: 22,000, 16384: 21,200. Contents of
# 64 KiB like 8192 better (7,400 against 5,900/s), but they are few.
PAGE_OCTETS = 4096
CACHE_KIB = 8_000  # 2,000 and 32,000 measure the same: a settle finds its pages warm
JOURNAL_OCTETS = 64 * 1024 * 1024  # what a WAL swollen by a long read is cut back to
BUSY_MS = 5_000
CHECK_S = 2.0  # a whole check of a large queue takes minutes; mail should not wait for it
_HERE = Path(__file__).parent


class Damaged(Unusable):
    """It is ours and damaged: a salvage may help."""


def record_tables(day: str) -> tuple[str, ...]:
    """Give the statements that make the tables of a day (YYYYMMDD): its records, and by what they are found."""
    return (
        f"CREATE TABLE IF NOT EXISTS record_{day}"
        " (seq INTEGER PRIMARY KEY, message INTEGER NOT NULL, at REAL NOT NULL, body TEXT NOT NULL) STRICT",
        f"CREATE INDEX IF NOT EXISTS of_{day} ON record_{day} (message)",
        f"CREATE TABLE IF NOT EXISTS about_{day} (number INTEGER NOT NULL, message INTEGER NOT NULL,"
        " PRIMARY KEY (number, message)) STRICT, WITHOUT ROWID",  # checksums.about
    )


def compatible_with(version: int) -> int:
    """Give the oldest schema whose code can read and write a database of this version."""
    return next((each for each in range(version, 1, -1) if not MIGRATIONS[each].is_additive), 1)


def open_writer(path: Path, tell: Callable[[str], None] = lambda news: None) -> apsw.Connection:
    """Open for writing; makes the schema if the file is new, migrates an older one.

    `tell` is given news for an operator before anything that may take long. Raises: Unusable, apsw.Error.
    """
    check_header(path)
    db = apsw.Connection(str(path))
    try:
        _set_up(db, path, tell)
    except Unusable:  # nothing has failed: leave what a close leaves, and no files beside it
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
        db.close()
        raise
    except BaseException:
        db.close()
        raise
    return db


def open_reader(path: Path) -> apsw.Connection:
    """Open for reading only. Raises: apsw.Error."""
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    _harden(db)
    return db


def verify(db: apsw.Connection, path: Path) -> None:
    """After a failure: write everything anew that the WAL holds, then look for damage for at most CHECK_S.

    What an fsync failed on may be in the page cache, but not on the disk, and Linux forgets that it was dirty. Copying
    the whole WAL into the database and cutting it off makes nothing depend on those pages any more.
    Raises: Unusable, apsw.Error.
    """
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    stop_at = time.monotonic() + CHECK_S
    db.set_progress_handler(lambda: time.monotonic() > stop_at, 10_000)
    try:
        found = db.pragma("quick_check", 1)
    except apsw.InterruptError:
        found = "ok"  # as far as it went
    finally:
        db.set_progress_handler(None)
    if found != "ok":
        raise Damaged(f"{path} is damaged ({found}): stop, keep a copy, and put a backup in its place")


def is_half_made(path: Path) -> bool:
    """Did a crash end it while it was made? It has a rollback journal only until it first has a WAL."""
    return path.with_name(path.name + "-journal").exists()


def check_header(path: Path) -> None:
    """Look at what no database of SQLite begins with; a file that is not there is fine. Raises: Unusable."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        return
    if start and start != b"SQLite format 3\0" and not is_half_made(path):
        raise Unusable(
            f"{path} is not a database: damaged, or not ours. Put a backup in its place, or move it away to start with"
            " an empty queue"
        )


def _set_up(db: apsw.Connection, path: Path, tell: Callable[[str], None]) -> None:
    _harden(db)
    is_new = not _version_of(db, path)
    if is_new:
        db.pragma("page_size", PAGE_OCTETS)
    mode = db.pragma("journal_mode", "wal")
    db.pragma("synchronous", 2)
    if mode != "wal" or db.pragma("synchronous") != 2:
        raise Unusable(f"{path} cannot be kept durable here (journal mode {mode}): is it on a network file system?")
    db.pragma("journal_size_limit", JOURNAL_OCTETS)
    db.pragma("wal_autocheckpoint", 0)  # child.py checkpoints: SQLite's own would pass over a failed fsync in silence
    if is_new:
        with db:
            db.execute((_HERE / "schema.sql").read_text())
            db.pragma("application_id", APPLICATION_ID)
            db.pragma("user_version", compatible_with(SCHEMA_VERSION))
    elif (version := schema_of(db, path)) < SCHEMA_VERSION:
        _migrate(db, path, version, tell)


def schema_of(db: apsw.Connection, path: Path) -> int:
    """Give the version of a database of ours that this release can use. Raises: Unusable."""
    oldest = _version_of(db, path)
    if not oldest:
        raise Unusable(f"{path} holds no queue")
    rows: list[Any] = db.execute("SELECT max(version) FROM migration").fetchall()
    return max(oldest, rows[0][0] or 0)


def _version_of(db: apsw.Connection, path: Path) -> int:
    """Give the oldest schema whose code can use the file, 0: the file is new. Raises: Unusable."""
    found = db.pragma("application_id")
    version: int = db.pragma("user_version")
    if not found and not version and not db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall():
        return 0
    if found != APPLICATION_ID or version < 1:
        raise Unusable(f"{path} is a database of another program: choose another state directory")
    if version > SCHEMA_VERSION:
        raise Unusable(
            f"{path} was written by a newer smarthost (it needs one that knows schema {version}, this one knows schema"
            f" {SCHEMA_VERSION}): install that release again, or stop and put a copy from before its installation in"
            " its place"
        )
    return version


def _migrate(db: apsw.Connection, path: Path, version: int, tell: Callable[[str], None]) -> None:
    """Keep a copy of an older database, then bring it to our version, all steps in one transaction."""
    tell(f"the queue is copied, then brought from schema {version} to {SCHEMA_VERSION}")
    copy = kept.keep_old(db, path, version)
    with db:
        for number in range(version + 1, SCHEMA_VERSION + 1):
            what, is_additive, sql = MIGRATIONS[number]
            db.execute(sql)
            db.execute("INSERT INTO migration VALUES (?, ?)", (number, what))
            if not is_additive:
                db.pragma("user_version", number)
    tell(f"the queue was brought from schema {version} to {SCHEMA_VERSION}; as it was before: {copy}")


def _harden(db: apsw.Connection) -> None:
    # Closing is no checkpoint: when one has failed because of an fsync, the next would succeed, and delete a WAL whose
    # pages are in no file. What has failed is done again by another process, from the WAL.
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    db.set_busy_timeout(BUSY_MS)  # an operator's sqlite3 shell may hold it for a moment
    db.pragma("trusted_schema", 0)
    db.pragma("cell_size_check", 1)
    db.pragma("mmap_size", 0)
    db.pragma("temp_store", 2)
    db.pragma("cache_size", -CACHE_KIB)
