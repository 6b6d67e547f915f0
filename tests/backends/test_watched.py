# SPDX-License-Identifier: MIT
"""Files that change under a running daemon."""

import os
from pathlib import Path

import pytest

from smarthost.backends.watched import LOOK_S, REST_S, WatchedFiles
from smarthost.mail.errors import ConfigError
from smarthost.testing.clock import FakeClock


class Desk:
    """A file, what is made of it, and what was noted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FakeClock()
        self.loads = 0
        self.notes: list[tuple[str, str, dict[str, object]]] = []
        path.write_text("one")
        self.watched = WatchedFiles((str(path),), self.load, self.clock, self.note)

    def load(self) -> str:
        self.loads += 1
        text = self.path.read_text()
        if text.startswith("bad"):
            raise ConfigError(f"{text} it is")
        return text

    def note(self, level: str, what: str, **facts: object) -> None:
        self.notes.append((level, what, facts))

    def look(self) -> str:
        """Ask when it is time to look again."""
        self.clock.advance(LOOK_S)
        return self.watched.value


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "users.toml")


def test_file_that_does_not_change_is_read_once(desk: Desk) -> None:
    """Asking a thousand times costs one reading."""
    assert {desk.look() for _ in range(10)} == {"one"}
    assert desk.loads == 1
    assert desk.notes == []


def test_change_is_seen_within_a_second_and_not_looked_for_more_often(desk: Desk) -> None:
    """The file is asked about once a second at most."""
    desk.path.write_text("another")

    assert desk.watched.value == "one"
    assert desk.look() == "another"
    assert [(level, what) for level, what, _ in desk.notes] == [("info", "file read again")]


def test_file_replaced_by_another_of_the_same_size_and_time_is_read(desk: Desk) -> None:
    """A renewal that renames a new file into place counts, whatever its time."""
    before = desk.path.stat()
    other = desk.path.with_suffix(".new")
    other.write_text("two")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(desk.path)

    assert desk.look() == "two"


@pytest.mark.parametrize("trouble", ["bad", "gone"])
def test_trouble_keeps_the_old_value_and_is_noted_once(desk: Desk, trouble: str) -> None:
    """A file that became bad or is gone costs one line of log, which says which file and why; mending it is enough."""
    if trouble == "gone":
        desk.path.unlink()
    else:
        desk.path.write_text(trouble)

    assert [desk.look() for _ in range(5)] == ["one"] * 5
    ((level, what, facts),) = desk.notes
    assert (level, what, facts["file"]) == ("error", "file not taken", str(desk.path))
    assert {"bad": "bad it is", "gone": "No such file"}[trouble] in str(facts["why"])

    desk.path.write_text("mended")
    assert desk.look() == "mended"


def test_first_trouble_goes_to_the_caller(tmp_path: Path) -> None:
    """At the start there is no old value to go on with."""
    (tmp_path / "users.toml").write_text("bad")
    desk = Desk.__new__(Desk)
    desk.path, desk.loads = tmp_path / "users.toml", 0

    with pytest.raises(ConfigError, match="bad it is"):
        WatchedFiles((str(desk.path),), desk.load, FakeClock(), print)


def test_file_being_written_is_left_to_rest(desk: Desk) -> None:
    """Half a users file may be a good file with half the users: what has changed just now is not read yet."""
    desk.path.write_text("hal")
    written = desk.clock.wall() + LOOK_S - REST_S / 2
    os.utime(desk.path, (written, written))

    assert desk.look() == "one"
    desk.path.write_text("whole")
    os.utime(desk.path, (written + REST_S, written + REST_S))
    assert desk.look() == "whole"


def test_file_of_the_future_is_read(desk: Desk) -> None:
    """A file whose time is ahead of our clock is not one that never rests."""
    desk.path.write_text("future")
    os.utime(desk.path, (desk.clock.wall() + 1000, desk.clock.wall() + 1000))

    assert desk.look() == "future"


def test_change_during_the_reading_is_read_next_time(desk: Desk) -> None:
    """What was written between our look and our reading is not lost."""
    honest = desk.load

    def load_late() -> str:
        text = honest()
        if text == "two":
            desk.path.write_text("three")
        return text

    desk.watched._load = load_late
    desk.path.write_text("two")

    assert desk.look() == "two"
    assert desk.look() == "three"
