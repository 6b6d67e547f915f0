# SPDX-License-Identifier: MIT
"""What was in flight at a crash, seen from outside, and whether each mail that came twice was among it.

In flight was what the sink had taken and the store, as the crash left it, still has to do: that comes again. Whatever
else comes twice is a fault. The store is read in a copy of its files, so that the start after the crash finds what the
crash left. Knows the tables' names; starts and kills nothing.
"""

import contextlib
import shutil
import sqlite3
import statistics
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

_FILES = ("queue.db", "queue.db-wal")  # the -shm is made from the -wal
_UNFINISHED = "SELECT address FROM recipient WHERE state IN ('deferred', 'held')"


class Crash(Struct, frozen=True):
    """One crash. `until`: wall seconds when the next life began; what the sink took until then is of lives before.

    `unfinished`: addresses of the recipients that the store still has to do; None: nobody looked.
    """

    until: float
    unfinished: frozenset[str] | None


class Windows(Struct, frozen=True, kw_only=True):
    """What all crashes together left in flight and what came twice. An address is a recipient of mail, or of a report.

    `in_flight`: of each crash, what was taken in the life that it ended and not finished: it must come again, and
    nothing else may. `again`: of each crash, what came again. `strays`: what came twice and was not in flight.
    """

    in_flight: tuple[int, ...]
    again: tuple[int, ...]
    strays: tuple[str, ...]

    @property
    def most(self) -> int:
        """Give the most that came again after one crash."""
        return max(self.again, default=0)

    @property
    def median(self) -> float:
        """Give the median of what came again."""
        return statistics.median(self.again) if self.again else 0.0


def read_unfinished(state: Path, copy: Path) -> frozenset[str]:
    """Give the addresses of unfinished recipients in a dead store, read in a copy of it made in the directory `copy`.

    A store that was killed before it had tables holds nothing. Raises: sqlite3.DatabaseError: it is damaged.
    """
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for name in _FILES:
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(state / name, copy / name)
    with contextlib.closing(sqlite3.connect(copy / _FILES[0])) as db:
        tables = db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'recipient'").fetchone()[0]
        found = frozenset(address for (address,) in db.execute(_UNFINISHED)) if tables else frozenset()
    shutil.rmtree(copy)
    return found


def find_windows(log: Iterable[dict[str, Any]], crashes: Sequence[Crash]) -> Windows:
    """Attribute what came twice to the crash that ended the life in which it came before.

    `log`: of the sink, in its order. `crashes`: in order of time.
    """
    ends = [crash.until for crash in crashes]
    last: dict[str, int] = {}  # address -> the life it came in last
    in_flight = [0] * len(crashes)
    again = [0] * len(crashes)
    strays: list[str] = []
    before: list[set[str]] = [set() for _ in crashes]  # what came in the life that each crash ended
    for line in log:
        life = bisect_left(ends, line["at"])
        for address in line["to"]:
            known = last.get(address)
            if known is not None:
                if known < life and _is_unfinished(crashes[known], address):
                    again[known] += 1
                else:
                    strays.append(address)
            last[address] = life
            if life < len(crashes):
                before[life].add(address)
    for n, crash in enumerate(crashes):
        if crash.unfinished is not None:
            in_flight[n] = len(before[n] & crash.unfinished)
    return Windows(in_flight=tuple(in_flight), again=tuple(again), strays=tuple(strays))


def _is_unfinished(crash: Crash, address: str) -> bool:
    return crash.unfinished is None or address in crash.unfinished
