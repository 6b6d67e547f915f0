# SPDX-License-Identifier: MIT
"""Rows and contents read back from the disk, each judged before it is given out; what is damaged is collected.

Part of the child's reading (reads.py). Decides nothing about what becomes of it: the parent isolates it (isolating.py).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import apsw

from smarthost.backends.sqlite import checksums, flaws, wire
from smarthost.mail.identity import encode_id

CHUNK_OCTETS = 256 * 1024  # of a file read at a time
HEADER_OCTETS = 64 * 1024  # mail.settlement.OwedReport
TAG_BITS = 15  # mail.identity
MESSAGE = f"SELECT {', '.join(flaws.MESSAGE)} FROM message WHERE key = ?"  # noqa: S608 - names of columns


class Unreadable(Exception):
    """There is no answer; the text says why."""


class Judged:
    """What is sound on one read-only connection; used by one thread."""

    def __init__(self, db: apsw.Connection, content: Path) -> None:
        self._db = db
        self._content = content
        self.damaged: list[wire.DamagedRow] = []  # found while answers are sought; whoever tells of it clears it

    def rows(self, sql: str, *bindings: object) -> list[Any]:
        """Give all rows of a query. Raises: apsw.Error, UnicodeDecodeError."""
        return self._db.execute(sql, bindings).fetchall()

    def to_lease(
        self, key: int, rows: Sequence[Any], is_wanted: Callable[[int, wire.LeasedRow], bool]
    ) -> wire.LeaseRow | None:
        """Give a message with those of its recipients that are wanted and sound; what is not sound is reported."""
        wanted = [(row[0], each) for row in rows if is_wanted(key, each := wire.LeasedRow(*row[1:]))]
        message = self.message(key) if wanted else None
        if message is None:
            return None
        recipients = []
        for checksum, each in wanted:
            why = flaws.of_recipient(
                each.n, each.address, each.domain, each.notify, each.orcpt, checksum, message[14]
            ) or flaws.of_progress("deferred", each.due, each.attempts)
            if why:
                self.damaged.append(wire.DamagedRow(key, message[1], each.n, each.address, each.domain, why))
            else:
                recipients.append(each)
        return wire.LeaseRow(*[*message[:9], *message[10:14], recipients]) if recipients else None

    def message(self, key: int) -> Sequence[Any] | None:
        """Give the columns of flaws.MESSAGE; None: it is gone or damaged, and all its recipients are reported."""
        rows = self.rows(MESSAGE, key)
        why = flaws.of_message(rows[0]) if rows else flaws.NO_MESSAGE
        if why:
            tag = rows[0][1] if rows else -1
            self.report(key, tag if 0 <= tag < 1 << TAG_BITS else -1, why)
            return None
        message: Sequence[Any] = rows[0]
        return message

    def report(self, key: int, tag: int, why: str) -> None:
        """Report all recipients of a message; tag -1: it is gone, or its id is damaged."""
        rows = self.rows("SELECT n, address, domain FROM recipient WHERE message = ?", key)
        self.damaged += [wire.DamagedRow(key, tag, n, address, domain, why) for n, address, domain in rows]

    def judge_file(self, key: int, tag: int, octets: int, checksum: int | None) -> str:
        """Say what is wrong with content in a file: 1 ms a MiB, here, where it holds up no loop. Raises: Unreadable."""
        path = self._content / encode_id(key, tag)
        number = 0
        try:
            with path.open("rb", buffering=0) as file:
                while octets and (chunk := file.read(min(octets, CHUNK_OCTETS))):
                    octets -= len(chunk)
                    number = crc32(chunk, number)
        except FileNotFoundError:
            return flaws.NO_CONTENT
        except OSError as error:
            raise Unreadable(f"content file {path} cannot be read: {error.strerror}") from error
        if octets:
            return "its content is cut off"
        return "" if checksum is None or checksums.is_content(checksum, number) else flaws.CONTENT

    def inline_header(self, key: int, checksum: int | None) -> bytes:
        """Give what a report quotes; b"" of a content that is gone or damaged: the report itself must not wait."""
        rows = self.rows("SELECT octets FROM content WHERE key = ?", key)
        if not rows or (checksum is not None and not checksums.is_content(checksum, crc32(rows[0][0]))):
            return b""
        header: bytes = rows[0][0][:HEADER_OCTETS]
        return header

    def file_header(self, key: int, tag: int) -> bytes:
        """As inline_header, of content in a file, which is not read whole for that. Raises: Unreadable."""
        path = self._content / encode_id(key, tag)
        try:
            with path.open("rb") as file:
                return file.read(HEADER_OCTETS)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise Unreadable(f"content file {path} cannot be read: {error.strerror}") from error
