# SPDX-License-Identifier: MIT
"""The work of a salvage: rows from pages into a new database, each judged; what is lost, named; records of all that.

Pages that the old database counts as free hold old rows too, of mail that was delivered long ago. They are looked at
only for what is known to be missing, and believed only with a checksum. A recipient that ended has a record of that, in
the same transaction: who has one is not missed. Nothing here touches the old files.
"""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any
from zlib import crc32

import apsw

from smarthost.backends.sqlite import checksums, database, flaws, shapes
from smarthost.backends.sqlite.pages import INDEX_LEAF, TABLE_LEAF, Image
from smarthost.backends.sqlite.soundness import FAR
from smarthost.mail.identity import ID_LENGTH, decode_id, encode_id

ROWS = 2_000  # inserted at a time
HELD_S = 30 * 86_400.0  # an operator has so long to look
NAMES = 20  # in the report; the records have all
AHEAD_S = 10 * 366 * 86_400.0  # a number that far in the future was never given out
TAG_BITS = 15  # mail.identity
_UNKNOWN_TAG = "???"
_TERMINAL = ("relayed", "bounced", "expired", "cancelled", "moved")  # mail.record.TERMINAL_KINDS
_TEMPORARY = """
CREATE TEMP TABLE crc (key INTEGER PRIMARY KEY, number INTEGER NOT NULL);
CREATE TEMP TABLE flawed (key INTEGER PRIMARY KEY, why TEXT NOT NULL);
CREATE TEMP TABLE flaw (key INTEGER, n INTEGER, why TEXT NOT NULL, PRIMARY KEY (key, n)) WITHOUT ROWID;
CREATE TEMP TABLE named (key INTEGER, n INTEGER, domain TEXT, PRIMARY KEY (key, n)) WITHOUT ROWID;
CREATE TEMP TABLE missing (key INTEGER PRIMARY KEY);
"""
_INSERT = "INSERT OR {} INTO {} ({}) VALUES ({})"
_MESSAGE, _SOUND_MESSAGE, _RECIPIENT = [
    _INSERT.format(conflict, table, ", ".join(columns), ", ".join("?" * len(columns)))
    for conflict, table, columns in (
        ("IGNORE", "message", flaws.MESSAGE),
        ("REPLACE", "message", flaws.MESSAGE),
        ("IGNORE", "recipient", flaws.RECIPIENT),
    )
]
_SUSPECT = """
SELECT r.message, r.n, r.address, r.state, coalesce(f.why, m.why, '') FROM recipient AS r
LEFT JOIN flawed AS m ON m.key = r.message LEFT JOIN flaw AS f ON f.key = r.message AND f.n = r.n
WHERE m.why IS NOT NULL OR f.why IS NOT NULL ORDER BY r.message, r.n"""
_LACKING = """
SELECT key FROM message AS m WHERE NOT EXISTS (SELECT 1 FROM recipient WHERE message = key)
    OR recipients > (SELECT count(*) FROM recipient WHERE message = key)
UNION SELECT message FROM recipient WHERE NOT EXISTS (SELECT 1 FROM message WHERE key = message)
UNION SELECT key FROM named WHERE n >= 0
    AND NOT EXISTS (SELECT 1 FROM recipient AS r WHERE r.message = named.key AND r.n = named.n)
UNION SELECT key FROM named WHERE n = -1 AND NOT EXISTS (SELECT 1 FROM message AS m WHERE m.key = named.key)
UNION SELECT key FROM content WHERE NOT EXISTS (SELECT 1 FROM message AS m WHERE m.key = content.key)"""


class Rescue:
    """One salvage. `now`: wall seconds."""

    def __init__(self, image: Image, db: apsw.Connection, content: Path, now: float) -> None:
        self._image = image
        self._db = db
        self._content = content
        self._now = now
        self._limit = int((now + AHEAD_S) * 1000) << 21  # mail.identity
        self._highest = 0
        self._claimed = 0  # by the row that keeps the highest number
        self._waiting: dict[str, list[tuple[Any, ...]]] = {}
        self._tables: set[str] = set()
        self._unplaced = 0  # rows that no table can take
        self._ids: dict[int, str] = {}
        self._told: list[tuple[int, str, str, bool]] = []  # key, recipient, why, is it lost
        self._files = self._content_files()
        db.execute(_TEMPORARY)

    def _content_files(self) -> dict[int, tuple[str, int]]:
        """Give names and sizes of content files by store key."""
        found = {}
        with os.scandir(self._content) as entries:
            for entry in entries:
                try:
                    key, _ = decode_id(entry.name)
                except ValueError:
                    continue
                found[key] = entry.name, entry.stat().st_size
                self._saw(key)
        return found

    def _saw(self, number: int) -> bool:
        """Remember the highest number; False: it was never given out."""
        if not 0 < number < self._limit:
            return False
        self._highest = max(self._highest, number)
        return True

    # -- what the pages hold ------------------------------------------------------------------------------------------

    def gather(self) -> None:
        """Take all rows from the pages in use; then from the others what is missing. Raises: OSError, apsw.Error."""
        image = self._image
        free, are_all = image.free_pages()
        for number in range(1, image.count + 1):
            if number not in free:
                for row in image.rows(number):
                    self._take(shapes.recognise(row))
        self._flush()
        if not are_all:
            self._leave_out_ended()
        self._check_contents()
        wanted = self._wanted()
        if any(wanted):
            for number in range(2, image.count + 1):
                if number in free or not (number in image.continued or image.kind(number)):
                    self._look_again(number, *wanted)
            self._flush()
            self._check_contents()

    def _leave_out_ended(self) -> None:
        """Without the list of free pages, what was delivered long ago was found as well: records know of that."""
        found: list[tuple[int, str]] = []
        for table in sorted(self._tables):
            for key, body in self._db.execute(f"SELECT message, body FROM {table}"):  # noqa: S608 - a name of ours
                record = json.loads(body)
                if record["kind"] in _TERMINAL:
                    found.append((key, str(record.get("recipient", ""))))
        self._db.executemany(
            "DELETE FROM recipient WHERE message = ? AND address = ? AND state IN ('deferred', 'held')", found
        )

    def _take(self, found: shapes.Shape | None) -> None:
        match found:
            case shapes.Message(values) if self._saw(values[0]):
                self._take_message(values)
            case shapes.Recipient(values) if self._saw(values[0]) and values[1] >= 0:
                self._take_recipient(values)
            case shapes.Content(key, octets) if self._saw(key):
                self._insert("INSERT OR IGNORE INTO content VALUES (?, ?)", (key, octets))
                self._insert("INSERT OR IGNORE INTO crc VALUES (?, ?)", (key, crc32(octets)))
            case shapes.Kept(seq, message, at, body) if self._saw(seq) and 0 <= message < self._limit:
                self._take_record(seq, message, at, body)
            case shapes.Note(name, value):
                self._insert("INSERT OR IGNORE INTO note VALUES (?, ?)", (name, value))
            case shapes.Highest(number):
                self._claimed = max(self._claimed, number)
            case shapes.Step(version, what) if 0 < version < 1_000:
                self._insert("INSERT OR IGNORE INTO migration VALUES (?, ?)", (version, what))
            case shapes.Named(key, n, domain) if self._saw(key) and -1 <= n < 1 << 31:
                self._insert("INSERT OR IGNORE INTO named VALUES (?, ?, ?)", (key, n, domain))
            case None:
                pass
            case _:
                self._unplaced += 1

    def _take_message(self, values: list[Any]) -> None:
        why = flaws.of_message(values)
        if not isfinite(values[2]):
            values[2] = self._now
        if why:
            self._insert("INSERT OR IGNORE INTO flawed VALUES (?, ?)", (values[0], why))
            self._insert(_MESSAGE, tuple(values))
        else:
            self._insert(_SOUND_MESSAGE, tuple(values))

    def _take_recipient(self, values: list[Any]) -> None:
        state, due, attempts = values[4:7]
        why = flaws.of_progress(state, due, attempts)
        if why:
            values[4:7] = "held", 0.0, 0
            self._insert("INSERT OR IGNORE INTO flaw VALUES (?, ?, ?)", (values[0], values[1], why))
        if values[11] is not None and not isfinite(values[11]):
            values[11] = self._now
        self._insert(_RECIPIENT, tuple(values))

    def _take_record(self, seq: int, message: int, at: float, body: str) -> None:
        try:
            record = json.loads(body)
            day = datetime.fromtimestamp(at, UTC)
            if not isinstance(record, dict) or "kind" not in record:
                raise ValueError(body)
        except (ValueError, OverflowError, OSError):
            self._unplaced += 1
            return
        self._insert(self._into_records(f"{day:%Y%m%d}"), (seq, message, at, body))
        if record["kind"] == "accepted":  # so that it is found again by whom and what it was
            into = f"INSERT OR IGNORE INTO about_{day:%Y%m%d} VALUES (?, ?)"  # noqa: S608
            for text in (record.get("recipient"), record.get("message_id"), *record.get("recipients", ())):
                if text and isinstance(text, str):
                    self._insert(into, (checksums.about(text), message))

    def _into_records(self, day: str) -> str:
        table = f"record_{day}"
        if table not in self._tables:
            self._tables.add(table)
            for statement in database.record_tables(day):
                self._db.execute(statement)
        return f"INSERT OR IGNORE INTO {table} VALUES (?, ?, ?, ?)"  # noqa: S608 - a name of ours

    def _insert(self, sql: str, row: tuple[Any, ...]) -> None:
        rows = self._waiting.setdefault(sql, [])
        rows.append(row)
        if len(rows) >= ROWS:
            self._db.executemany(sql, rows)
            rows.clear()

    def _flush(self) -> None:
        for sql, rows in self._waiting.items():
            self._db.executemany(sql, rows)
            rows.clear()

    def _rows(self, sql: str, *bindings: object) -> list[Any]:
        return self._db.execute(sql, bindings).fetchall()

    # -- what is missing ----------------------------------------------------------------------------------------------

    def _check_contents(self) -> None:
        """Find messages whose content is not what they came with."""
        self._db.execute("DELETE FROM flawed WHERE why IN (?, ?)", (flaws.CONTENT, flaws.NO_CONTENT))
        found = self._rows(
            "SELECT m.key, m.tag, m.octets, m.in_file, m.checksum, length(c.octets), crc.number FROM message AS m"
            " LEFT JOIN content AS c ON c.key = m.key LEFT JOIN crc ON crc.key = m.key"
        )
        for key, tag, octets, in_file, checksum, length, number in found:
            why = ""
            if in_file:
                name, size = self._files.get(key, ("", -1))
                why = flaws.NO_CONTENT if size < octets or name != encode_id(key, tag) else ""
            elif length is None:
                why = flaws.NO_CONTENT
            elif length != octets or (checksum is not None and not checksums.is_content(checksum, number)):
                why = flaws.CONTENT
            if why:
                self._insert("INSERT OR IGNORE INTO flawed VALUES (?, ?)", (key, why))
        self._flush()

    def _wanted(self) -> tuple[set[int], set[int], set[int]]:
        """Give the keys of messages, contents and recipients (some of them) that are missing or damaged."""
        flawed: dict[int, str] = dict(self._rows("SELECT key, why FROM flawed"))
        contents = {key for key, why in flawed.items() if why in (flaws.CONTENT, flaws.NO_CONTENT)}
        lacking = {key for (key,) in self._rows(_LACKING)}
        lacking.update([key for (key,) in self._rows("SELECT key FROM flaw")])
        return lacking | set(flawed) - contents, contents, lacking

    def _look_again(self, number: int, messages: set[int], contents: set[int], recipients: set[int]) -> None:
        """Take what is wanted from a page that holds nothing, as it says; only what a checksum proves."""
        for kind in (TABLE_LEAF, INDEX_LEAF):
            for row in self._image.rows(number, kind):
                match shapes.recognise(row):
                    case shapes.Message(values) if values[0] in messages and values[14] is not None:
                        if not flaws.of_message(values):
                            self._db.execute("DELETE FROM flawed WHERE key = ?", (values[0],))
                            self._insert(_SOUND_MESSAGE, tuple(values))
                    case shapes.Content(key, octets) if key in contents or key in messages:
                        self._replace_content(key, octets)
                    case shapes.Recipient(values) if values[0] in recipients and values[17] is not None:
                        if not flaws.of_progress(*values[4:7]) and values[4] in flaws.OPEN_STATES:
                            self._insert(_RECIPIENT, tuple(values))

    def _replace_content(self, key: int, octets: bytes) -> None:
        found = self._rows("SELECT checksum FROM message WHERE key = ?", key)
        if not found or (found[0][0] is not None and checksums.is_content(found[0][0], crc32(octets))):
            self._insert("INSERT OR REPLACE INTO content VALUES (?, ?)", (key, octets))
            self._insert("INSERT OR REPLACE INTO crc VALUES (?, ?)", (key, crc32(octets)))

    # -- judgement ----------------------------------------------------------------------------------------------------

    def judge(self) -> None:
        """Hold what is not whole, leave out what can never be sent, name what is lost. Raises: apsw.Error."""
        self._check_addresses()
        lacking = {key for (key,) in self._rows(_LACKING)}
        self._db.executemany("INSERT OR IGNORE INTO missing VALUES (?)", [(key,) for key in lacking])
        self._db.execute("INSERT OR IGNORE INTO missing SELECT key FROM flawed")
        ended = self._ended()
        self._mend_ids()
        for key in sorted(lacking):
            self._name_lost(key, ended.get(key, {}))
        for key, n, address, state, why in self._rows(_SUSPECT):
            if state in flaws.OPEN_STATES:
                self._hold(key, n, why)
            else:
                self._db.execute("DELETE FROM recipient WHERE message = ? AND n = ?", (key, n))
                why = f"{why}; it was {state}, and no report can be written"
            self._told.append((key, address, why, False))
        self._name_files()
        self._drop_empty()

    def _mend_ids(self) -> None:
        """Give messages whose envelope is damaged the ids that records and files know them by."""
        for key, tag in self._rows("SELECT key, tag FROM message WHERE key IN (SELECT key FROM flawed)"):
            known = self._ids.get(key) or self._files.get(key, ("", 0))[0]
            try:
                right = decode_id(known)[1]
            except ValueError:
                right = tag if 0 <= tag < 1 << TAG_BITS else 0
            if right != tag:
                self._db.execute("UPDATE message SET tag = ? WHERE key = ?", (right, key))

    def _hold(self, key: int, n: int, why: str) -> None:
        self._db.execute(
            "UPDATE recipient SET state = 'held', due = ?, why = ?, owed_at = NULL, awaits_host = 0"
            " WHERE message = ? AND n = ?",
            (self._now + HELD_S, f"damaged: {why}", key, n),
        )

    def _check_addresses(self) -> None:
        rows: Iterator[Any] = self._db.execute(
            "SELECT r.message, r.n, r.address, r.domain, r.notify, r.orcpt, r.checksum, m.checksum"
            " FROM recipient AS r JOIN message AS m ON m.key = r.message"
        )
        for row in rows:
            why = flaws.of_recipient(*row[1:])
            if why:
                self._insert("INSERT OR IGNORE INTO flaw VALUES (?, ?, ?)", (row[0], row[1], why))
        self._flush()

    def _ended(self) -> dict[int, dict[str, str]]:
        """Give what records say of messages that lack something: the last kind by recipient."""
        found: dict[int, dict[str, str]] = {}
        for table in sorted(self._tables):
            sql = f"SELECT message, body FROM {table} WHERE message IN (SELECT key FROM missing) ORDER BY seq"  # noqa: S608
            for key, body in self._db.execute(sql):
                record = json.loads(body)
                kinds = found.setdefault(key, {})
                addresses = [str(record.get("recipient", "")), *map(str, record.get("recipients", ()))]
                for address in filter(None, addresses):
                    if kinds.get(address) not in _TERMINAL:
                        kinds[address] = str(record["kind"])
                self._ids.setdefault(key, str(record.get("id", "")))
        return found

    def _name_lost(self, key: int, kinds: dict[str, str]) -> None:
        """Say who of a message is gone, or that it is gone itself."""
        message = self._rows("SELECT tag, recipients, in_file FROM message WHERE key = ?", key)
        present = self._rows("SELECT n, address, state FROM recipient WHERE message = ? ORDER BY n", key)
        if message:
            self._ids[key] = encode_id(key, message[0][0])
        else:
            for n, address, _ in present:
                self._told.append((key, address, flaws.NO_MESSAGE, True))
                self._db.execute("DELETE FROM recipient WHERE message = ? AND n = ?", (key, n))
        seen = {n for n, _, _ in present}
        addresses = {address for _, address, _ in present}
        gone = {address: kind for address, kind in kinds.items() if address and address not in addresses}
        ended = sum(kind in _TERMINAL for kind in gone.values())
        waiting = [address for address, kind in gone.items() if kind not in _TERMINAL]
        named = [(n, domain) for n, domain in self._rows("SELECT n, domain FROM named WHERE key = ? AND n >= 0", key)
                 if n not in seen]  # fmt: skip
        total = message[0][1] if message else None
        count = len(named) - ended if total is None else total - len(present) - ended
        if not message and not present and not gone:
            count = max(count, 1)  # something of it is there, a content or an index
        elif message and not present and total is None and not ended:
            count = max(count, 1)
        for place in range(max(count, len(waiting))):
            address = waiting[place] if place < len(waiting) else ""
            where = f" (in {named[place][1]})" if not address and place < len(named) and named[place][1] else ""
            self._told.append((key, address, f"a recipient of it is gone{where}" if message else "it is gone", True))

    def _name_files(self) -> None:
        """When the end of the log is gone, a content file may be all that is left of a message."""
        keys = set(self._files) - {key for (key,) in self._rows("SELECT key FROM message")}
        if keys and self._image.lost_frames:
            self._db.executemany("INSERT OR IGNORE INTO missing VALUES (?)", [(key,) for key in keys])
            ended = self._ended()
            told = {key for key, *_ in self._told}
            for key in sorted(keys - told - set(ended)):
                self._told.append((key, "", "its content is all that is left", True))

    def _drop_empty(self) -> None:
        """Leave out messages and contents that nobody waits for any more; files of theirs keep another name."""
        empty = self._rows("SELECT key FROM message WHERE NOT EXISTS (SELECT 1 FROM recipient WHERE message = key)")
        self._db.executemany("DELETE FROM message WHERE key = ?", empty)
        self._db.execute("DELETE FROM content WHERE key NOT IN (SELECT key FROM message)")
        lost = {key for key, _, _, is_lost in self._told if is_lost}
        for key in lost & set(self._files):
            if not self._rows("SELECT 1 FROM message WHERE key = ?", key):
                name = self._files[key][0]
                (self._content / name).rename(self._content / f"{name}.damaged")

    # -- the report ---------------------------------------------------------------------------------------------------

    def report(self) -> str:
        """Write the records and give the sentence. Raises: apsw.Error."""
        if self._claimed < max(self._highest, int(self._now * 1000) << 21) + FAR:
            self._highest = max(self._highest, self._claimed)
        table = self._into_records(f"{datetime.fromtimestamp(self._now, UTC):%Y%m%d}")
        for key, address, why, is_lost in self._told:
            self._highest += 1
            record = {
                "seq": self._highest,
                "kind": "damaged",
                "at": self._now,
                "id": self._id(key),
                "recipient": address,
                "why": f"{'lost' if is_lost else 'damaged'}: {why}",
            }
            self._insert(table, (self._highest, key, self._now, json.dumps(record, ensure_ascii=False)))
        self._flush()
        self._db.execute("UPDATE highest SET number = ?", (self._highest,))
        counts = [self._rows(f"SELECT count(*) FROM {table}")[0][0] for table in ("message", "recipient")]  # noqa: S608
        saved = f"saved {counts[0]} messages with {counts[1]} recipients"
        parts = [saved, *self._sentences(False, "held as damaged"), *self._sentences(True, "lost")]
        if self._image.lost_frames:
            parts.append(f"the end of the log is gone, {self._image.lost_frames} pages: what was on them has no name")
        if self._image.lost_pages:
            parts.append(
                f"the end of the database is gone, {self._image.lost_pages} pages: what was on them alone has no name"
            )
        if self._unplaced:
            parts.append(f"{self._unplaced} rows could not be read")
        return "; ".join(parts)

    def _sentences(self, is_lost: bool, what: str) -> Iterator[str]:
        keys = [key for key, _, _, each in self._told if each is is_lost]
        if keys:
            names = list(dict.fromkeys([self._id(key) for key in keys]))
            more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
            yield f"{what}: {len(keys)} recipients of {', '.join(names[:NAMES])}{more}"

    def _id(self, key: int) -> str:
        """Give the id of a message; of one that is gone, what its key tells."""
        found = self._ids.get(key)
        if found:
            return found
        tags = self._rows("SELECT tag FROM message WHERE key = ?", key)
        if tags:
            found = encode_id(key, tags[0][0])
        elif key in self._files:
            found = self._files[key][0]
        else:
            found = encode_id(key, 0)[: ID_LENGTH - len(_UNKNOWN_TAG)] + _UNKNOWN_TAG
        self._ids[key] = found
        return found
