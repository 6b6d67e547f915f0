# SPDX-License-Identifier: MIT
"""Opens the database file: makes it, checks that it is ours and sound, and refuses it with a text for an operator.

Runs in the child. A crash while it is made leaves a database without tables, which the next start makes again; a crash
while an older one is brought to our version leaves that as it was.
"""

import time
from pathlib import Path

import apsw

APPLICATION_ID = 0x534D4853  # "SMHS"
SCHEMA_VERSION = 3
# By the version each leads to: what it is for, and how. schema.sql is the newest version as a whole; a test compares.
# Nothing is written anew, but SQLite checks all rows of a STRICT table for each column it gets: with a million messages
# from 2 to 3 in 8 s (a machine busy with other work). The store's opening may take no longer than commits.OPEN_S.
MIGRATIONS = {
    2: (
        "recipients that await a host",
        """
        ALTER TABLE recipient ADD COLUMN awaits_host INTEGER NOT NULL DEFAULT 0;
        CREATE INDEX recipient_awaiting ON recipient (domain, due) WHERE awaits_host = 1 AND state = 'deferred';
        """,
    ),
    3: (
        "what senders ask of reports and of TLS, and delays that were told",
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
}
# Measured here (child alone, batches of 32, 5 KiB): 4096: 23,700 messages/s, 8192: 22,000, 16384: 21,200. Contents of
# 64 KiB like 8192 better (7,400 against 5,900/s), but they are few.
PAGE_OCTETS = 4096
CACHE_KIB = 8_000  # 2,000 and 32,000 measure the same: a settle finds its pages warm
JOURNAL_OCTETS = 64 * 1024 * 1024  # what a WAL swollen by a long read is cut back to
CHECK_S = 2.0  # a whole check of a large queue takes minutes; mail should not wait for it
_HERE = Path(__file__).parent


class Unusable(Exception):
    """The database cannot be used; the text says why and what to do."""


def open_writer(path: Path) -> apsw.Connection:
    """Open for writing; makes the schema if the file is new, migrates an older one. Raises: Unusable, apsw.Error."""
    _check_header(path)
    db = apsw.Connection(str(path))
    try:
        _set_up(db, path)
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
        raise Unusable(f"{path} is damaged ({found}): stop, keep a copy, and put a backup in its place")


def _check_header(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        return
    if start and start != b"SQLite format 3\0":
        raise Unusable(
            f"{path} is not a database: damaged, or not ours. Put a backup in its place, or move it away to start with"
            " an empty queue"
        )


def _set_up(db: apsw.Connection, path: Path) -> None:
    _harden(db)
    found = db.pragma("application_id")
    version = db.pragma("user_version")
    is_new = not found and not version and not db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
    if not is_new and (found != APPLICATION_ID or version < 1):
        raise Unusable(f"{path} is a database of another program: choose another state directory")
    if version > SCHEMA_VERSION:
        raise Unusable(
            f"{path} was written by a newer smarthost (schema {version}, this one knows {SCHEMA_VERSION}): install"
            " that release again, or start with another state directory"
        )
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
            db.pragma("user_version", SCHEMA_VERSION)
    else:
        _migrate(db, version)


def _migrate(db: apsw.Connection, version: int) -> None:
    """Bring an older database to our version, all steps in one transaction."""
    with db:
        for number in range(version + 1, SCHEMA_VERSION + 1):
            what, sql = MIGRATIONS[number]
            db.execute(sql)
            db.execute("INSERT INTO migration VALUES (?, ?)", (number, what))
            db.pragma("user_version", number)


def _harden(db: apsw.Connection) -> None:
    db.set_busy_timeout(5_000)  # an operator's sqlite3 shell may hold it for a moment
    db.pragma("trusted_schema", 0)
    db.pragma("cell_size_check", 1)
    db.pragma("mmap_size", 0)
    db.pragma("temp_store", 2)
    db.pragma("cache_size", -CACHE_KIB)
