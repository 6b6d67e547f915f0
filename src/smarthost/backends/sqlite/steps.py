# SPDX-License-Identifier: MIT
"""Moves the times in the database with a wall clock that was stepped while no daemon ran.

A daemon that runs does not see steps (backends.clock). One that starts reads the wall clock anew: a step of days
forward would make all mail look old and expire it, one of hours back would let it lie until the clock is there again.
Within one boot of the machine the step can be told from time that passed: the wall clock less the time since boot is
kept in a note. After another boot it cannot; but a clock that is behind the last thing that was written was stepped.
"""

import json
from typing import Any
from zlib import crc32

import apsw

STEP_S = 600.0  # less is drift that was corrected (a month at 100 ppm is 260 s), and harms nobody
_NOTE = "clock"
_MILLISECONDS = 1000 << 21  # of a message's key (mail.identity), a second


def follow_clock(db: apsw.Connection, boot_id: str, wall_at_boot: float, now: float) -> float:
    """Move all times by the step since the last daemon, in one transaction; gives it in seconds, 0.0 if there is none.

    `boot_id`: which boot of the machine this is; `wall_at_boot`: wall seconds less seconds since then; `now`: wall
    seconds. Raises: apsw.Error.
    """
    note: list[Any] = db.execute("SELECT value FROM note WHERE name = ?", (_NOTE,)).fetchall()
    before = _read(note[0][0]) if note else {}
    if before.get("boot_id") == boot_id:
        step_s: float = wall_at_boot - before["wall_at_boot"]
    else:
        newest: list[Any] = db.execute("SELECT number FROM highest").fetchall()
        step_s = min(0.0, now - newest[0][0] / _MILLISECONDS)
    if abs(step_s) < STEP_S:
        step_s = 0.0
        if before.get("boot_id") == boot_id:
            return 0.0
    with db:
        if step_s:
            db.execute("UPDATE message SET received_at = received_at + ?", (step_s,))
            db.execute("UPDATE recipient SET due = due + ?, owed_at = owed_at + ?", (step_s, step_s))
        value = json.dumps(
            {"boot_id": boot_id, "wall_at_boot": wall_at_boot, "crc": _checksum(boot_id, wall_at_boot)}
        ).encode()
        db.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", (_NOTE, value))
    return step_s


def _read(note: bytes) -> dict[str, Any]:
    """Read what the last daemon left; a damaged note says nothing, where it could move all times by years."""
    try:
        found = json.loads(note)
        is_whole = found["crc"] == _checksum(found["boot_id"], found["wall_at_boot"])
    except (ValueError, TypeError, KeyError):
        return {}
    return found if is_whole else {}


def _checksum(boot_id: str, wall_at_boot: float) -> int:
    return crc32(f"{boot_id} {wall_at_boot!r}".encode())
