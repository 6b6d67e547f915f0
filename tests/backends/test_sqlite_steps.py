# SPDX-License-Identifier: MIT
"""A wall clock that was stepped while no daemon ran: mail neither grows old by it nor lies still."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from smarthost.backends.sqlite import database
from smarthost.backends.sqlite.steps import follow_clock

NOW = 1_800_000_000.0
HOUR = 3_600.0
DAY = 86_400.0


@pytest.fixture
def db(tmp_path: Path) -> Iterator[apsw.Connection]:
    """A queue with one message, received at NOW, due five minutes later, with a report owed."""
    db = database.open_writer(tmp_path / "queue.db")
    db.execute("UPDATE highest SET number = ?", (int(NOW * 1000) << 21,))
    db.execute(
        "INSERT INTO message (key, tag, received_at, reverse_path, body, smtputf8, client, sender, octets, in_file,"
        " prefix) VALUES (1, 0, ?, '', '7BIT', 0, '', '', 0, 0, x'')",
        (NOW,),
    )
    db.execute(
        "INSERT INTO recipient (message, n, address, domain, due, owed_at) VALUES (1, 0, 'a@b', 'b', ?, ?)",
        (NOW + 300, NOW),
    )
    yield db
    db.close()


def times(db: apsw.Connection) -> tuple[float, ...]:
    rows: list[Any] = db.execute(
        "SELECT received_at, due, owed_at FROM message JOIN recipient ON message = key"
    ).fetchall()
    return tuple(rows[0])


def start(db: apsw.Connection, boot: str, *, wall: float, since_boot_s: float) -> float:
    return follow_clock(db, boot, wall - since_boot_s, wall)


@pytest.mark.parametrize("step_s", [6 * DAY, -2 * HOUR, 1_000 * DAY])
def test_a_step_within_one_boot_moves_all_times(db: apsw.Connection, step_s: float) -> None:
    """Ten minutes passed, whatever the wall clock says: the message is ten minutes old."""
    start(db, "boot", wall=NOW, since_boot_s=5_000)

    found = start(db, "boot", wall=NOW + 600 + step_s, since_boot_s=5_600)

    assert found == pytest.approx(step_s)
    assert times(db) == pytest.approx((NOW + step_s, NOW + 300 + step_s, NOW + step_s))


def test_a_step_counts_once(db: apsw.Connection) -> None:
    """The next start goes on from there."""
    start(db, "boot", wall=NOW, since_boot_s=5_000)
    start(db, "boot", wall=NOW + DAY, since_boot_s=5_000)

    assert start(db, "boot", wall=NOW + DAY + 60, since_boot_s=5_060) == 0.0
    assert times(db)[0] == NOW + DAY


def test_time_that_passed_is_no_step(db: apsw.Connection) -> None:
    """A daemon that was down for six days finds mail that is six days older; so does one after another boot."""
    start(db, "boot", wall=NOW, since_boot_s=5_000)

    assert start(db, "boot", wall=NOW + 6 * DAY, since_boot_s=5_000 + 6 * DAY) == 0.0
    assert start(db, "another", wall=NOW + 12 * DAY, since_boot_s=100) == 0.0
    assert times(db)[0] == NOW


def test_small_corrections_are_no_step(db: apsw.Connection) -> None:
    """Drift that a time server has corrected meanwhile."""
    start(db, "boot", wall=NOW, since_boot_s=5_000)

    assert start(db, "boot", wall=NOW + 60 + 599, since_boot_s=5_060) == 0.0


def test_a_machine_that_boots_in_the_past_takes_the_mail_with_it(db: apsw.Connection) -> None:
    """Else it would lie still until the clock is where it was."""
    start(db, "boot", wall=NOW, since_boot_s=5_000)

    found = start(db, "another", wall=NOW - DAY, since_boot_s=10)

    assert found == pytest.approx(-DAY)
    assert times(db)[1] == pytest.approx(NOW + 300 - DAY)
    assert start(db, "another", wall=NOW + 20, since_boot_s=30) == pytest.approx(DAY), "the clock was set right"
    assert times(db)[1] == pytest.approx(NOW + 300)


def test_a_crash_amid_the_moving_leaves_it_undone(db: apsw.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """All times and the note move in one transaction."""
    start(db, "boot", wall=NOW, since_boot_s=5_000)
    db.execute("CREATE TEMP TRIGGER fault BEFORE INSERT ON note BEGIN SELECT RAISE(ABORT, 'power cut'); END")

    with pytest.raises(apsw.ConstraintError):
        start(db, "boot", wall=NOW + DAY, since_boot_s=5_000)

    assert times(db)[0] == NOW
