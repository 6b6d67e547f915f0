# SPDX-License-Identifier: MIT
"""The process that owns the database: `python -c ... child.main()` with three inherited sockets, started by keeper.py.

Main thread: batches, one SQL statement each, so that it never competes for an interpreter with anything. A second
thread answers reads, a third makes content files durable, so that neither delays a commit. It ends when its parent is
gone, after the batch in hand, and holds the directory's lock until then. It ignores SIGINT and SIGTERM: its parent
decides. A crash leaves what SQLite's WAL promises, and content files without a row, which the next start sweeps.
"""

import contextlib
import errno
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import apsw
import msgspec

from smarthost.backends.sqlite import database, pages, salvage, soundness, wire
from smarthost.backends.sqlite.backup import Backups, Deletions
from smarthost.backends.sqlite.ballast import Ballast
from smarthost.backends.sqlite.checksums import of_recipient
from smarthost.backends.sqlite.judged import Unreadable
from smarthost.backends.sqlite.reads import Contradiction, Reads
from smarthost.backends.sqlite.steps import follow_clock
from smarthost.mail.identity import decode_id

# Checkpoints cost the p99 of a commit: every 1,000 pages 4.1 ms, every 4,000 pages 2.6 ms (batches of 32, 5 KiB).
CHECKPOINT_PAGES = 4_000
CHECKPOINT_SHARE = 16  # of a small file system the WAL takes so much at most
BALLAST_AGAIN_S = 10.0
CHUNK_OCTETS = 256 * 1024  # of a file read at a time
FORGET_ROWS = 500  # of outdated records at a time, ~1 ms, only while nothing waits
SWITCH_S = 0.0005  # the reading thread gives way to the committing one after half a millisecond
_NO_OCTETS = memoryview(b"\0")
_BATCH_SQL = (Path(__file__).parent / "batch.sql").read_text()
# What is wrong with the statement or a value in it, as opposed to the disk or the database.
_FAULTY = (apsw.ConstraintError, apsw.MismatchError, apsw.TooBigError, apsw.RangeError, apsw.SQLError)


class Start(msgspec.Struct):
    """What the parent says at the start."""

    directory: str
    batches: int
    reads: int
    files: int
    is_reopening: bool
    record_days: int
    boot_id: str = ""  # "": nobody follows the wall clock
    wall_at_boot: float = 0.0
    now: float = 0.0
    damage: str = ""  # what is known to be wrong with the database


class Writer:
    """Commits batches; the only writer of the database."""

    def __init__(self, db: apsw.Connection, record_days: int, ballast: Ballast, disk_octets: int) -> None:
        self._db = db
        self._ballast = ballast
        self._ballast_at = 0.0
        self._record_days = record_days
        self._day = 0
        self._pages = 0
        self._outdated: list[str] = []
        self._page_octets: int = self._rows("PRAGMA page_size")[0][0]
        self._checkpoint_pages = min(CHECKPOINT_PAGES, disk_octets // CHECKPOINT_SHARE // self._page_octets)
        db.create_scalar_function("checksum_of_recipient", _checksum_of_recipient, 6, deterministic=True)
        db.set_wal_hook(self._committed)
        ballast.hold()

    def _committed(self, db: apsw.Connection, name: str, pages: int) -> int:
        self._pages = pages
        return apsw.SQLITE_OK

    def last_number(self) -> int:
        """Give the highest number ever committed."""
        number: int = self._rows("SELECT number FROM highest")[0][0]
        return number

    def spare_octets(self) -> int:
        """Give the room for new rows within the database's file."""
        return int(self._rows("PRAGMA freelist_count")[0][0]) * self._page_octets

    def _rows(self, sql: str, *bindings: object) -> list[Any]:
        return self._db.execute(sql, bindings).fetchall()

    def commit(self, frame: memoryview) -> wire.Outcome:
        """Commit one batch; never raises for what SQLite says."""
        head = wire.BatchHead(*wire.BATCH_HEAD.unpack_from(frame))
        parts = []
        offset = wire.BATCH_HEAD.size
        for length in head[3:]:
            parts.append(frame[offset : offset + length])
            offset += length
        messages, recipients, octets, settles, debts, parameters, extras, acceptances, abouts = parts
        if not octets:
            octets = _NO_OCTETS  # apsw would bind an empty view as NULL, of which substr makes more NULL
        try:
            if head.day != self._day:
                self._begin_day(head.day)
            self._db.execute(
                "INSERT INTO batch VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (str(messages, "utf-8"), str(recipients, "utf-8"), octets, str(settles, "utf-8"), str(debts, "utf-8"),
                 str(parameters, "utf-8"), str(extras, "utf-8"), head.highest, str(acceptances, "utf-8"),
                 str(abouts, "utf-8")),
            )  # fmt: skip
            released = self._take_released() if extras != wire.NOTHING else 0
            return wire.Outcome(head.number, wire.OK, "", self._take_gone(), self.spare_octets(), released)
        except apsw.FullError as error:
            if messages == wire.NO_ROWS and self._make_room():  # new mail is refused, and what was with it comes again
                return self.commit(frame)
            return wire.Outcome(head.number, wire.FULL, str(error), [])
        except _FAULTY as error:
            return wire.Outcome(head.number, wire.FAULTY, str(error), [])
        except (apsw.CorruptError, apsw.NotADBError) as error:
            return wire.Outcome(head.number, wire.DAMAGED, f"{type(error).__name__}: {error}", [])
        except apsw.Error as error:
            return wire.Outcome(head.number, wire.FATAL, f"{type(error).__name__}: {error}", [])

    def _make_room(self) -> bool:
        """Let the ballast go, so that what is settled can be written; False: it has gone. Raises: apsw.Error."""
        if not self._ballast.let_go():
            return False
        self._ballast_at = time.monotonic() + BALLAST_AGAIN_S
        with contextlib.suppress(apsw.FullError, apsw.BusyError):
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)  # so that the WAL begins anew
        return True

    def _begin_day(self, day: int) -> None:
        """Make the day's tables of records and of what they are found by, and the triggers that write into them."""
        table = f"record_{day:08d}"
        with self._db:
            for statement in database.record_tables(f"{day:08d}"):
                self._db.execute(statement)
        self._db.execute(_BATCH_SQL.replace("{day}", f"{day:08d}").replace("{release_rows}", str(wire.RELEASE_ROWS)))
        self._day = day
        tables = self._rows(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'record_[0-9]*' AND name < ?"
            " ORDER BY name DESC",
            table,
        )
        self._outdated = [name for (name,) in tables[self._record_days - 1 :]]
        abouts = self._rows(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'about_[0-9]*' AND name < ?"
            " ORDER BY name DESC",
            f"about_{day:08d}",
        )
        self._outdated += [name for (name,) in abouts[self._record_days - 1 :]]

    def _take_gone(self) -> list[tuple[int, int]]:
        gone: list[tuple[int, int]] = self._rows("SELECT key, tag FROM gone")
        if gone:
            self._db.execute("DELETE FROM gone")
        return gone

    def _take_released(self) -> int:
        self._db.execute("DELETE FROM released")
        return self._db.changes()

    def tidy(self, is_idle: bool) -> bool:
        """Checkpoint when the WAL is long, forget outdated records; says if more is to be done. Raises: apsw.Error."""
        if self._pages >= self._checkpoint_pages:
            with contextlib.suppress(apsw.FullError):  # the database cannot grow now; the WAL can still be read
                self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._pages = 0
        if not self._ballast.is_held and time.monotonic() >= self._ballast_at:
            self._ballast.hold()
            self._ballast_at = time.monotonic() + BALLAST_AGAIN_S
        if is_idle and self._outdated:
            table = self._outdated[-1]
            column = "seq" if table.startswith("record") else "(number, message)"
            some = f"SELECT {column.strip('()')} FROM {table} LIMIT {FORGET_ROWS}"  # noqa: S608
            self._db.execute(f"DELETE FROM {table} WHERE {column} IN ({some})")  # noqa: S608
            if not self._db.changes():
                self._db.execute(f"DROP TABLE {table}")
                self._outdated.pop()
        return bool(self._outdated)

    def close(self) -> None:
        """Leave an empty WAL, so that the queue is one file. Raises: apsw.Error."""
        self._db.set_busy_timeout(0)
        with contextlib.suppress(apsw.BusyError, apsw.FullError):  # somebody reads, or no space: the next start does it
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def _checksum_of_recipient(*values: Any) -> int | None:  # noqa: ANN401 - what SQLite hands in
    return None if values[0] is None else of_recipient(*values)


def serve_batches(writer: Writer, channel: socket.socket) -> None:
    """Commit batches until the parent is gone or the database cannot go on."""
    more = False
    while True:
        if more and not select.select([channel], [], [], 0)[0]:
            more = writer.tidy(is_idle=True)
            continue
        batch = wire.read_frame(channel)
        if batch is None:
            writer.close()
            return
        outcome = writer.commit(batch)
        with contextlib.suppress(BrokenPipeError):  # the next read finds that the parent is gone
            channel.sendall(wire.frame(msgspec.msgpack.encode(outcome)))
        if outcome.code in (wire.FATAL, wire.DAMAGED):
            return
        more = writer.tidy(is_idle=False)


def serve_reads(reads: Reads, backups: Backups, channel: socket.socket) -> None:
    """Answer questions until the parent is gone."""
    decoder = msgspec.msgpack.Decoder(wire.Question)
    while (question := wire.read_frame(channel)) is not None:
        try:
            asked = decoder.decode(question)
            is_backup = isinstance(asked, wire.BackupQuestion)
            reply = wire.answer(backups.answer(asked) if is_backup else reads.answer(asked))
        except (*soundness.DAMAGE, Contradiction) as error:
            reply = wire.refuse_all(f"{type(error).__name__}: {error}")
        except (Unreadable, apsw.Error) as error:
            reply = wire.refuse(str(error))
        if reads.damaged:
            reply = wire.report(reads.damaged) + reply
            reads.damaged.clear()
        with contextlib.suppress(BrokenPipeError):
            channel.sendall(reply)


def serve_files(content: Path, deletions: Deletions, channel: socket.socket) -> None:
    """Make content files durable and delete them until the parent is gone."""
    decoder = msgspec.msgpack.Decoder(wire.FileOrder)
    directory = os.open(content, os.O_RDONLY | os.O_DIRECTORY)
    while (order := wire.read_frame(channel)) is not None:
        try:
            checksum = 0
            match decoder.decode(order):
                case wire.Keep(draft, name):
                    checksum = _keep(content, directory, draft, name)
                case wire.Drop(names):
                    deletions.drop(names)
            reply = wire.answer(wire.FileOutcome(0, "", checksum))
        except OSError as error:
            reply = wire.answer(wire.FileOutcome(error.errno or errno.EIO, str(error)))
        with contextlib.suppress(BrokenPipeError):
            channel.sendall(reply)


def _keep(content: Path, directory: int, draft: str, name: str) -> int:
    """Order matters: the octets, then the name, then the directory that holds it; only then may a row speak of it.

    Gives the CRC-32, read here where nobody waits for the octets: 0.6 ms a MiB, which our loop would not have to spare.
    """
    fd = os.open(content / draft, os.O_RDWR)
    number = 0
    try:
        while chunk := os.read(fd, CHUNK_OCTETS):
            number = crc32(chunk, number)
        os.fsync(fd)
    finally:
        os.close(fd)
    (content / draft).rename(content / name)
    os.fsync(directory)
    return number


def sweep_files(db: apsw.Connection, content: Path, keep_drafts: bool) -> None:
    """Delete drafts, and content files that no row speaks of; names that are not ours stay."""
    for entry in content.iterdir():
        if entry.suffix == ".draft":
            if not keep_drafts:
                entry.unlink()
            continue
        try:
            key, tag = decode_id(entry.name)
        except ValueError:
            continue
        query = "SELECT 1 FROM message WHERE key = ? AND tag = ? AND in_file"
        if not db.execute(query, (key, tag)).fetchall():
            entry.unlink()


def _open(start: Start, tell: Callable[[str], None]) -> tuple[Writer, Reads, str]:
    """Give what serves, and what came of a salvage if there was one."""
    path = Path(start.directory) / "queue.db"
    salvage.finish(path)
    promised = pages.promise(path)
    damage = start.damage or soundness.find_damage(path, promised)
    salvaged = salvage.salvage(path, damage, promised, tell) if damage else ""
    try:
        return (*_serve(start, path, tell), salvaged)
    except (*soundness.DAMAGE, database.Damaged) as error:  # behind what was looked at
        if damage:
            raise
        salvaged = salvage.salvage(path, str(error), promised, tell)
    return (*_serve(start, path, tell), salvaged)


def _serve(start: Start, path: Path, tell: Callable[[str], None]) -> tuple[Writer, Reads]:
    content = Path(start.directory) / "content"
    db = database.open_writer(path, tell)
    if start.is_reopening:
        database.verify(db, path)
    else:
        _begin_log(db)
    follows = bool(start.boot_id) and not start.is_reopening
    if follows and (step_s := follow_clock(db, start.boot_id, start.wall_at_boot, start.now)):
        tell(f"the wall clock was stepped by {step_s:+.0f} s since the last start: due times and ages moved with it")
    disk = os.statvfs(start.directory)
    writer = Writer(db, start.record_days, Ballast(Path(start.directory)), disk.f_blocks * disk.f_frsize)
    content.mkdir(exist_ok=True)
    sweep_files(db, content, keep_drafts=start.is_reopening)  # they are alive while the parent is
    return writer, Reads(database.open_reader(path), content)


def _begin_log(db: apsw.Connection) -> None:
    """Let the log begin anew: one that goes on behind a crash holds what is left of an unfinished transaction."""
    db.set_busy_timeout(0)
    with contextlib.suppress(apsw.BusyError, apsw.FullError):  # somebody reads it, or no space: another time
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    db.set_busy_timeout(database.BUSY_MS)


def _die(args: threading.ExceptHookArgs) -> None:
    """End the process when a thread fails: its parent starts another, where a silent channel would hang."""
    print(f"smarthost store: {args.exc_type.__name__}: {args.exc_value}", file=sys.stderr)  # noqa: T201
    os._exit(1)


def main() -> None:
    """Serve the parent named in the last argument until it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.umask(0o077)
    sys.setswitchinterval(SWITCH_S)
    start = msgspec.json.decode(sys.argv[-1], type=Start)
    batches, reads, files = (socket.socket(fileno=fd) for fd in (start.batches, start.reads, start.files))

    def tell(news: str) -> None:
        batches.sendall(wire.frame(msgspec.msgpack.encode(wire.Hello("", 0, news=news))))

    try:
        writer, reader, salvaged = _open(start, tell)
        hello = wire.Hello("", writer.last_number(), writer.spare_octets(), salvaged=salvaged)
    except database.Unusable as error:
        hello = wire.Hello(str(error), 0)
    except (apsw.Error, OSError) as error:
        where = Path(start.directory) / "queue.db"
        hello = wire.Hello(f"{where} cannot be opened: {error}. Free space, permissions, or a damaged database?", 0)
    batches.sendall(wire.frame(msgspec.msgpack.encode(hello)))
    if hello.trouble:
        return
    content = Path(start.directory) / "content"
    threading.excepthook = _die
    deletions = Deletions(content)
    backups = Backups(Path(start.directory), deletions)
    threading.Thread(target=serve_reads, args=(reader, backups, reads), daemon=True).start()
    threading.Thread(target=serve_files, args=(content, deletions, files), daemon=True).start()
    try:
        serve_batches(writer, batches)
    except (OSError, apsw.Error) as error:  # a checkpoint failed, an fsync perhaps: the parent reads it as our death
        print(f"smarthost store: {error}", file=sys.stderr)  # noqa: T201 - the parent's stderr, its only trace
    os._exit(0)  # the threads may sit in an fsync; nothing of theirs is worth waiting for
