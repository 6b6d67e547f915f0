# SPDX-License-Identifier: MIT
"""Looks at the state directory of a stopped daemon without changing it: what is damaged, what is left over, what waits.

Opens the database for reading only, with what its WAL holds (a killed daemon leaves one), and migrates nothing. The
caller owns the directory's lock. Every check stands alone: what one cannot read is a finding, and the next goes on.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import apsw
from msgspec import Struct

from smarthost.backends.sqlite import database
from smarthost.backends.sqlite.directory import DATABASE
from smarthost.mail.errors import StoreError
from smarthost.mail.identity import decode_id, encode_id
from smarthost.mail.record import TERMINAL_KINDS
from smarthost.mail.settlement import State
from smarthost.queue.audit import HORIZON_S

FINDINGS = 100  # of one kind; the last says how many there are
CACHE_KIB = 64_000
_OPEN = tuple([state.value for state in State if not state.is_terminal])
_KNOWN = tuple([state.value for state in State])


class Damage(Struct, frozen=True, gc=False):
    """One thing that is wrong, with a sentence for an operator; `id` and `recipient` where it is one message's."""

    fault: str
    why: str
    id: str = ""
    recipient: str = ""


class Inspection(Struct, frozen=True, gc=False):
    """What a state directory holds. `notes` are leftovers that the next start sweeps, and what is good to know.

    `due`: unfinished recipients that are due now; `reports_owed`: messages of which a report is owed.
    """

    schema: int
    damages: tuple[Damage, ...]
    notes: tuple[str, ...]
    messages: int = 0
    unfinished: int = 0
    due: int = 0
    reports_owed: int = 0


class NoQueue(StoreError):
    """There is no queue of ours."""


class TooNew(StoreError):
    """A newer release wrote it, and this one cannot judge it."""


def find_queue(directory: Path) -> Path:
    """Give the path of the database in a state directory. Raises: NoQueue, StoreError: it cannot be looked at."""
    path = directory / DATABASE
    try:
        if not directory.exists():
            raise NoQueue(f"state directory {directory} does not exist: name one with --state-dir (or --config)")
        if not directory.is_dir():
            raise NoQueue(f"{directory} is no directory")
        if not path.exists():
            raise NoQueue(f"{directory} holds no queue ({DATABASE} is not there): is it a state directory?")
        if database.is_half_made(path):
            raise NoQueue(
                f"{directory} cannot be judged: its first start was cut off, and the next one takes that back"
            )
    except OSError as error:
        raise StoreError(f"cannot look at {path}: {error.strerror}") from error
    return path


def inspect(directory: Path, now: float) -> Inspection:
    """Look at everything; reads the whole database. `now`: wall seconds.

    Raises: NoQueue: a database of another program. TooNew. StoreError: it cannot be opened.
    """
    path = find_queue(directory)
    try:
        database.check_header(path)
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    except database.Unusable as error:
        return Inspection(0, (Damage("not a database", str(error)),), ())
    except (apsw.Error, OSError) as error:
        raise StoreError(f"{path} cannot be opened: {error}") from error
    try:
        return _Inspector(db, path, directory / "content", now).inspect()
    finally:
        db.close()


class _Inspector:
    """The checks of one database."""

    def __init__(self, db: apsw.Connection, path: Path, content: Path, now: float) -> None:
        self._db = db
        self._path = path
        self._content = content
        self._now = now
        self._damages: list[Damage] = []
        self._notes: list[str] = []

    def inspect(self) -> Inspection:
        try:
            for pragma in ("query_only = 1", "trusted_schema = 0", "cell_size_check = 1", "mmap_size = 0"):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            schema = self._read_schema()
            self._db.execute("BEGIN")  # all checks see one moment
        except apsw.Error as error:
            return Inspection(0, (Damage("not readable", f"{self._path}: {error}"),), ())
        for check in (
            self._check_integrity,
            self._check_recipients,
            self._check_messages,
            self._check_inline_contents,
            self._check_files,
            self._check_records,
        ):
            self._try(check)
        counts = self._try(self._count) or (0, 0, 0, 0)
        return Inspection(schema, tuple(self._damages), tuple(self._notes), *counts)

    def _try(self, check: Callable[[], Any]) -> Any:  # noqa: ANN401 - what the check gives
        try:
            return check()
        except (apsw.Error, OSError) as error:
            what = check.__name__.removeprefix("_check_").replace("_", " ").strip()
            self._damages.append(Damage("not readable", f"cannot check the {what}: {error}"))
            return None

    def _rows(self, sql: str, *bindings: object) -> list[Any]:
        return self._db.execute(sql, bindings).fetchall()

    def _add(self, damages: Iterator[Damage]) -> None:
        """Keep the first of one kind, and count the rest."""
        found = list(islice(damages, FINDINGS))
        self._damages += found
        more = sum(1 for _ in damages)
        if more:
            self._damages.append(Damage(found[0].fault, f"and {more} more like these"))

    # What it is

    def _read_schema(self) -> int:
        """Give the version of the schema. Raises: NoQueue, TooNew."""
        oldest: int = self._rows("PRAGMA user_version")[0][0]
        if self._rows("PRAGMA application_id")[0][0] != database.APPLICATION_ID:
            raise NoQueue(f"{self._path} is a database of another program")
        newest: int = max(oldest, self._rows("SELECT coalesce(max(version), 0) FROM migration")[0][0])
        known = database.SCHEMA_VERSION
        if oldest > known:
            raise TooNew(
                f"{self._path} was written by a newer smarthost (it needs one that knows schema {oldest}, this one"
                f" knows schema {known}): check it with that release"
            )
        if newest != known:
            text = "the next start brings it there" if newest < known else "made by a newer release, and good for this"
            self._notes.append(f"schema {newest}, this release has {known}: {text}")
        return newest

    # What is damaged

    def _check_integrity(self) -> None:
        found = [str(row[0]) for row in self._rows(f"PRAGMA integrity_check({FINDINGS})")]
        if found != ["ok"]:
            self._add(Damage("damaged database", text) for text in found)

    def _check_recipients(self) -> None:
        rows = self._db.execute(
            "SELECT r.message, m.tag, r.n, r.address, r.state, r.due, r.owed_at, m.key IS NULL"  # noqa: S608
            " FROM recipient AS r LEFT JOIN message AS m ON m.key = r.message"
            f" WHERE m.key IS NULL OR r.state NOT IN {_KNOWN} OR r.state NOT IN {_OPEN} AND r.owed_at IS NULL"
            f" OR r.state IN {_OPEN} AND r.due NOT BETWEEN 0 AND ?",
            (self._now + HORIZON_S,),
        )
        self._add(_judge(*row, now=self._now) for row in rows)

    def _check_messages(self) -> None:
        rows = self._db.execute(
            "SELECT key, tag FROM message WHERE NOT EXISTS (SELECT 1 FROM recipient WHERE message = key)"
        )
        why = "it has no recipient, so nothing will ever end it"
        self._add(Damage("message without recipients", why, encode_id(key, tag)) for key, tag in rows)

    def _check_inline_contents(self) -> None:
        rows = self._db.execute(
            "SELECT m.key, m.tag, m.octets, length(c.octets) FROM message AS m LEFT JOIN content AS c ON c.key = m.key"
            " WHERE NOT m.in_file AND length(c.octets) IS NOT m.octets"
        )
        self._add(_judge_content(encode_id(key, tag), octets, found) for key, tag, octets, found in rows)
        (left,) = self._rows("SELECT count(*) FROM content WHERE key NOT IN (SELECT key FROM message)")[0]
        if left:
            self._notes.append(f"{left} contents in the database belong to no message")

    def _check_files(self) -> None:
        rows = self._db.execute("SELECT key, tag, octets FROM message WHERE in_file")
        self._add(self._judge_files((encode_id(key, tag), octets) for key, tag, octets in rows))
        orphans = drafts = 0
        for entry in self._content.iterdir():
            drafts += entry.suffix == ".draft"
            orphans += self._is_orphan(entry.name)
        if orphans:
            self._notes.append(f"{orphans} content files belong to no message: the next start deletes them")
        if drafts:
            self._notes.append(f"{drafts} drafts of content that was never taken: the next start deletes them")

    def _judge_files(self, contents: Iterator[tuple[str, int]]) -> Iterator[Damage]:
        for id, octets in contents:
            try:
                found: int | None = (self._content / id).stat().st_size
            except FileNotFoundError:
                found = None
            if found != octets:
                yield _judge_content(id, octets, found)

    def _is_orphan(self, name: str) -> bool:
        try:
            key, tag = decode_id(name)
        except ValueError:
            return False
        return not self._rows("SELECT 1 FROM message WHERE key = ? AND tag = ? AND in_file", key, tag)

    def _check_records(self) -> None:
        """A recipient ends once. A table has no index by message: each is read once, what is terminal is sorted."""
        tables = self._rows("SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'record_[0-9]*'")
        kinds = tuple(sorted([kind.value for kind in TERMINAL_KINDS]))
        wanted = "SELECT message, body ->> 'id' AS id, body ->> 'recipient' AS address, at"
        ends = " UNION ALL ".join(
            [f"{wanted} FROM {table} WHERE message > 0 AND body ->> 'kind' IN {kinds}" for (table,) in tables]
        )
        if not ends:
            return
        twice = self._db.execute(  # two of one moment: its envelope named it twice, and both ended in one attempt
            f"SELECT id, address, count(*) FROM ({ends}) GROUP BY message, address HAVING count(DISTINCT at) > 1"  # noqa: S608
        )
        why = "its records say {} times that it ended (unless its envelope named it so often)"
        self._add(Damage("ended twice", why.format(times), id, address) for id, address, times in twice)
        still_open = self._db.execute(
            f"SELECT id, ended.address FROM ({ends}) AS ended JOIN recipient AS r"  # noqa: S608
            f" ON r.message = ended.message AND r.address = ended.address AND r.state IN {_OPEN}"
        )
        why = "a record says that it ended, and it waits (unless its envelope named it twice)"
        self._add(Damage("ended and open", why, id, address) for id, address in still_open)

    # What waits

    def _count(self) -> tuple[int, int, int, int]:
        questions = (
            "SELECT count(*) FROM message",
            f"SELECT count(*) FROM recipient WHERE state IN {_OPEN}",  # noqa: S608
            "SELECT count(*) FROM recipient WHERE state = 'deferred' AND due <= ?",
            "SELECT count(DISTINCT message) FROM recipient WHERE owed_at IS NOT NULL",
        )
        messages, unfinished, due, owed = [
            self._rows(question, *([self._now] if "?" in question else []))[0][0] for question in questions
        ]
        return messages, unfinished, due, owed


def _judge(
    key: int, tag: int | None, n: int, address: str, state: str, due: float, owed_at: float | None, is_alone: int,
    *, now: float,
) -> Damage:  # fmt: skip
    """Say what is wrong with the row of a recipient."""
    if is_alone:
        return Damage(
            "recipient without message", f"message number {key} is not there, its recipient {n} is", "", address
        )
    id = encode_id(key, tag or 0)
    if state not in _KNOWN:
        return Damage("unknown state", f"it is {state!r}, which this release does not know", id, address)
    if state not in _OPEN:
        return Damage("finished", f"it is {state} and owes no report, but it is there", id, address)
    if due > now + HORIZON_S:
        return Damage("too far", f"it is {state} until {due:.0f} s after 1970, later than anything is", id, address)
    return Damage("no next event", f"it is {state} until {due!r}, which is no time", id, address)


def _judge_content(id: str, octets: int, found: int | None) -> Damage:
    if found is None:
        return Damage("content missing", f"its content of {octets} octets is not there", id)
    return Damage("content of another length", f"its content has {found} octets instead of {octets}", id)
