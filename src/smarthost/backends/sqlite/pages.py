# SPDX-License-Identifier: MIT
"""The pages of a damaged database as its file and its write-ahead log hold them, and the rows on them.

Reads the file format itself (https://www.sqlite.org/fileformat2.html), because SQLite stops at the first page that is
wrong: here each page stands for itself, no tree is followed, and a wrong frame of the log does not end it. Believes
nothing, checks nothing against anything, changes nothing. OSError (a disk that fails to read) passes through.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TABLE_LEAF, INDEX_LEAF, INDEX_INTERIOR = 0x0D, 0x0A, 0x02
_INTERIOR_OF_TABLE = 0x05
_DEFAULT_PAGE_OCTETS = 4096
_WAL_MAGICS = {0x377F0682: "<", 0x377F0683: ">"}  # the order of octets in its checksums
MAGIC = b"SQLite format 3\0"
_HEAD = 100  # octets of page 1 before its rows
_WAL_HEADER, _FRAME_HEADER = 32, 24
_ROW_OCTETS = 64 * 1024 * 1024  # no row of ours is longer
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}  # octets by serial type

Value = None | int | float | str | bytes


class Row(NamedTuple):
    """One row as it lies on a page: `rowid` is None for those of indices and of tables without one."""

    rowid: int | None
    values: list[Value]


class Tail(NamedTuple):
    """What a log holds behind the `valid` frames that SQLite takes: is there a commit that was finished once?"""

    frames: int
    is_lost: bool


class Log:
    """The frames of a write-ahead log that belong to its newest generation."""

    def __init__(self, path: Path) -> None:
        """`path`: the database's."""
        self._path = Path(f"{path}-wal")
        self.salts = b""
        self.page_octets = _page_octets(path)
        self._order = "<"
        self._seed = (0, 0)
        self.frames: list[tuple[int, int, int]] = []  # number (from 1), page, size of the database at a commit or 0
        try:
            with self._path.open("rb") as file:
                self._read(file.fileno(), os.fstat(file.fileno()).st_size)
        except FileNotFoundError:
            return

    def _read(self, fd: int, octets: int) -> None:
        head = os.pread(fd, _WAL_HEADER, 0)
        if len(head) < _WAL_HEADER:
            return
        magic, _, page_octets, _ = struct.unpack(">IIII", head[:16])
        first = os.pread(fd, _FRAME_HEADER, _WAL_HEADER)
        self.salts = first[8:16]
        if magic in _WAL_MAGICS:
            self._order = _WAL_MAGICS[magic]
            self._seed = checksum(head[:24], (0, 0), self._order)
            if head[24:32] == struct.pack(">II", *self._seed):
                self.salts, self.page_octets = head[16:24], page_octets
        size = _FRAME_HEADER + self.page_octets
        for number in range(1, (octets - _WAL_HEADER) // size + 1):
            page, committed, salts = struct.unpack(">II8s", os.pread(fd, 16, _WAL_HEADER + (number - 1) * size))
            if salts == self.salts and any(salts):
                self.frames.append((number, page, committed))

    def frame(self, fd: int, number: int) -> bytes:
        """Give a frame with its header."""
        size = _FRAME_HEADER + self.page_octets
        return os.pread(fd, size, _WAL_HEADER + (number - 1) * size)

    def tail(self, valid: int, promised: int) -> Tail:
        """Look behind the frames that SQLite takes; `promised`: how many were durable once, as far as is known.

        One unfinished commit at the end is what a crash leaves; a finished one, or one with others behind it, is not.
        """
        beyond = [(number, committed) for number, _, committed in self.frames if number > valid]
        commits = [number for number, committed in beyond if committed]
        is_lost = bool(commits) and (beyond[-1][0] > commits[0] or len(commits) > 1)
        return Tail(len(beyond), is_lost or promised > valid)

    def pages(self, promised: int) -> dict[int, int]:
        """Give the newest frame of each page, of all commits that were finished, whatever lies between them."""
        last = max(promised, self._finished())
        return {page: number for number, page, _ in self.frames if number <= last and page}

    def _finished(self) -> int:
        """Give the last commit that is whole, each of its frames judged by its predecessor; or that others followed.

        A frame's checksum continues that of the frame before: so a wrong one says nothing of those behind it.
        """
        finished, before, is_whole = 0, 0, True
        stored = struct.pack(">II", *self._seed)
        if not self.frames:
            return 0
        with self._path.open("rb") as file:
            for number, _, committed in self.frames:
                frame = self.frame(file.fileno(), number)
                seed = struct.unpack(">II", stored)
                expected = checksum(frame[24:], checksum(frame[:8], seed, self._order), self._order)
                stored = frame[16:24]
                is_whole = is_whole and number == before + 1 and stored == struct.pack(">II", *expected)
                before = number
                if committed:
                    if is_whole or number < self.frames[-1][0]:
                        finished = number
                    is_whole = True
        return finished


def checksum(octets: bytes, seed: tuple[int, int], order: str) -> tuple[int, int]:
    """Give the checksum of a log's header or frame, continued from that of the frame before."""
    one, two = seed
    words = struct.unpack(f"{order}{len(octets) // 4}I", octets)
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = one + first + two & 0xFFFFFFFF
        two = two + second + one & 0xFFFFFFFF
    return one, two


class Promise(NamedTuple):
    """What the index of a log (the "-shm" file) says of it: its generation, and how many frames were durable."""

    salts: bytes
    frames: int


def promise(path: Path) -> Promise:
    """Read how far the log of a database was durable when it was last used; nothing is known: (b"", 0)."""
    try:
        with Path(f"{path}-shm").open("rb") as file:
            head = file.read(96)
    except FileNotFoundError:
        return Promise(b"", 0)
    if len(head) < 96 or head[:48] != head[48:] or not head[12]:
        return Promise(b"", 0)
    if struct.pack("=II", *checksum(head[:40], (0, 0), "=")) != head[40:48]:
        return Promise(b"", 0)
    return Promise(head[32:40], struct.unpack_from("=I", head, 16)[0])


class Image:
    """The pages of one database, the log's before the file's. Owns descriptors: `close` it.

    `known`: what was promised of the log before SQLite looked at it: it writes that anew.
    """

    def __init__(self, path: Path, known: Promise) -> None:
        self._log = log = Log(path)
        self.page_octets = log.page_octets
        promised = known.frames if known.salts == log.salts else 0
        self.lost_frames = max(0, promised - (log.frames[-1][0] if log.frames else 0))
        self._newest = log.pages(promised)
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._wal = -1
        self.continued: set[int] = set()  # pages that rows found so far go on upon
        try:
            if log.frames:
                self._wal = os.open(f"{path}-wal", os.O_RDONLY | os.O_CLOEXEC)
            self._measure()
        except OSError:
            self.close()
            raise

    def _measure(self) -> None:
        octets = os.fstat(self._file).st_size
        self.count = max([-(-octets // self.page_octets), *[page for page in self._newest if page < 1 << 28]])
        self._head = self.page(1)[:_HEAD]
        if not self._head.startswith(MAGIC):  # it may have changed places
            heads = (self.page(number) for number in range(2, self.count + 1))
            self._head = next((page[:_HEAD] for page in heads if page.startswith(MAGIC)), self._head)
        self.usable = self.page_octets - (self._head[20] if self._head[20] < 32 else 0)
        (self.application_id,) = struct.unpack_from(">I", self._head, 68)
        changes, pages, counted_at = (struct.unpack_from(">I", self._head, at)[0] for at in (24, 28, 92))
        is_known = self._head.startswith(MAGIC) and changes == counted_at  # else the number of pages is an old one
        self.lost_pages = max(0, pages - self.count) if is_known else 0

    def close(self) -> None:
        os.close(self._file)
        if self._wal >= 0:
            os.close(self._wal)

    def page(self, number: int) -> bytes:
        """Give a page; what the file lacks is zero. Raises: OSError."""
        frame = self._newest.get(number)
        if frame is not None:
            found = self._log.frame(self._wal, frame)[_FRAME_HEADER:]
        else:
            found = os.pread(self._file, self.page_octets, (number - 1) * self.page_octets)
        return found.ljust(self.page_octets, b"\0")

    def free_pages(self) -> tuple[set[int], bool]:
        """Give the pages that hold nothing any more, as far as their list can be read; and if that was all of it."""
        trunk, count = struct.unpack_from(">II", self._head, 32)
        trunks: set[int] = set()
        found: set[int] = set()
        while 1 < trunk <= self.count and trunk not in trunks:
            trunks.add(trunk)
            page = self.page(trunk)
            after, leaves = struct.unpack_from(">II", page)
            if leaves > self.usable // 4 - 2:
                break
            found.update([each for each in struct.unpack_from(f">{leaves}I", page, 8) if 1 < each <= self.count])
            trunk = after
        found |= trunks
        return found, self._head.startswith(MAGIC) and len(found) == count

    def rows(self, number: int, kind: int | None = None) -> Iterator[Row]:
        """Give what can be read of a page's rows, as if it were of this kind; None: of the kind it says it is."""
        page = self.page(number)
        for start in (_HEAD,) if page.startswith(MAGIC) else (0, _HEAD) if number == 1 else (0,):
            yield from self._rows(page, start, page[start] if kind is None else kind)

    def _rows(self, page: bytes, start: int, kind: int) -> Iterator[Row]:
        if kind not in (TABLE_LEAF, INDEX_LEAF, INDEX_INTERIOR):
            return
        head = start + (12 if kind == INDEX_INTERIOR else 8)
        cells = min(struct.unpack_from(">H", page, start + 3)[0], (self.usable - head) // 2)
        for at in struct.unpack_from(f">{cells}H", page, head):
            if head <= at < self.usable:
                row = self._row(page, at, kind)
                if row is not None:
                    yield row

    def kind(self, number: int) -> int:
        """Give what a page says it is; 0: nothing that holds rows or leads to them."""
        found = self.page(number)[_HEAD if number == 1 else 0]
        return found if found in (TABLE_LEAF, INDEX_LEAF, INDEX_INTERIOR, _INTERIOR_OF_TABLE) else 0

    def _row(self, page: bytes, at: int, kind: int) -> Row | None:
        try:
            if kind == INDEX_INTERIOR:
                at += 4
            octets, at = _varint(page, at)
            rowid = None
            if kind == TABLE_LEAF:
                rowid, at = _varint(page, at)
                rowid = rowid - (1 << 64) if rowid >= 1 << 63 else rowid
            if octets > _ROW_OCTETS:
                return None
            return Row(rowid, read_record(self._payload(page, at, octets, kind)))
        except (IndexError, ValueError, struct.error):
            return None

    def _payload(self, page: bytes, at: int, octets: int, kind: int) -> bytes:
        usable = self.usable
        most = usable - 35 if kind == TABLE_LEAF else (usable - 12) * 64 // 255 - 23
        local = octets
        if octets > most:
            least = (usable - 12) * 32 // 255 - 23
            local = least + (octets - least) % (usable - 4)
            local = least if local > most else local
        if at + local > usable:
            raise ValueError("a row leaves its page")
        parts = [page[at : at + local]]
        if octets > local:
            parts += self._overflow(page[at + local : at + local + 4], octets - local)
        return b"".join(parts)

    def _overflow(self, pointer: bytes, octets: int) -> Iterator[bytes]:
        while octets:
            number = int.from_bytes(pointer, "big")
            if not 1 < number <= self.count:
                raise ValueError("a row leads out of the file")
            self.continued.add(number)
            page = self.page(number)
            part = page[4 : min(self.usable, 4 + octets)]
            octets -= len(part)
            pointer = page[:4]
            yield part


def read_record(octets: bytes) -> list[Value]:
    """Read the columns of a row. Texts that are no UTF-8 are mended. Raises: ValueError, IndexError, struct.error."""
    head, at = _varint(octets, 0)
    if head > len(octets):
        raise ValueError("a row shorter than its own head")
    types = []
    while at < head:
        found = octets[at]
        if found < 0x80:
            at += 1
        else:
            found, at = _varint(octets, at)
        types.append(found)
    at = head
    values: list[Value] = []
    for each in types:
        value, at = _value(octets, at, each)
        values.append(value)
    return values


def _value(octets: bytes, at: int, kind: int) -> tuple[Value, int]:
    if kind == 0:
        return None, at
    if kind in (8, 9):
        return kind - 8, at
    if kind == 7:
        return float(struct.unpack_from(">d", octets, at)[0]), at + 8
    if kind in (10, 11):
        raise ValueError("a type that no row has")
    length = _INTEGERS[kind] if kind < 7 else (kind - 12) // 2
    value = octets[at : at + length]
    if len(value) < length:
        raise ValueError("a value leaves its row")
    if kind < 7:
        return int.from_bytes(value, "big", signed=True), at + length
    return (value if kind % 2 == 0 else str(value, "utf-8", "replace")), at + length


def _varint(octets: bytes, at: int) -> tuple[int, int]:
    first = octets[at]
    if first < 0x80:
        return first, at + 1
    value = first & 0x7F
    for index in range(1, 9):
        octet = octets[at + index]
        if index == 8:
            return value << 8 | octet, at + 9
        value = value << 7 | octet & 0x7F
        if octet < 0x80:
            return value, at + index + 1
    raise AssertionError("a varint has nine octets at most")


def _page_octets(path: Path) -> int:
    with path.open("rb") as file:
        found = int.from_bytes(file.read(18)[16:], "big")
    found = 65536 if found == 1 else found
    return found if _is_page_size(found) else _DEFAULT_PAGE_OCTETS


def _is_page_size(octets: int) -> bool:
    return 512 <= octets <= 65536 and octets & octets - 1 == 0
