# SPDX-License-Identifier: MIT
"""What the state directory is on, and how fast it is."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.ops.doctor.rig import DISK, Rig, levels, look, machine, told

from smarthost.ops.doctor.disk import measure_syncs

STEP_S = 0.001


def rig(directory: Path, **on: Any) -> Rig:
    directory.mkdir(mode=0o700, exist_ok=True)
    directory.chmod(0o700)
    return Rig(state_dir=directory, on=machine(**on))


def test_a_directory_on_a_disk_is_ok(tmp_path: Path) -> None:
    """File system, room, permissions, speed."""
    directory = tmp_path / "state"

    lines = told(look(rig(directory), "disk"))

    assert lines[0] == f"ok {directory}: on ext4 (/dev/vda1, mounted at /var)"
    assert "free (" in lines[1]
    assert lines[2] == f"ok {directory}: closed to others, mode 0700"
    assert lines[3] == f"ok {directory}: fsync p50 2.0 ms, p99 2.0 ms, of 50"


@pytest.mark.parametrize(
    ("change", "level", "seen"),
    [
        ({"is_memory": True}, "fail", "goes with the power"),
        ({"is_container_layer": True, "is_container": True}, "fail", "lies in the container's own layer"),
        ({"is_container_layer": True}, "warn", "seems to lie in a container's own layer"),
        ({"is_network": True}, "warn", "a network disk"),
    ],
)
def test_what_does_not_keep_mail_is_named(tmp_path: Path, change: dict[str, Any], level: str, seen: str) -> None:
    """Memory loses all of it, a container's layer sooner or later."""
    found = look(rig(tmp_path / "state", volume=lambda path: replace(DISK, **change)), "disk")

    assert (level, True) == (found[0].level.value, seen in found[0].seen)


def test_a_read_only_disk_fails(tmp_path: Path) -> None:
    """The kernel remounts so after errors."""
    found = look(rig(tmp_path / "state", volume=lambda path: replace(DISK, is_read_only=True)), "disk")

    assert levels(found)[:2] == ["ok", "fail"]


def test_before_the_first_start_the_place_is_judged(tmp_path: Path) -> None:
    """The directory is not made by looking."""
    directory = tmp_path / "not" / "yet"

    found = look(Rig(state_dir=directory), "disk")

    assert levels(found) == ["ok", "ok", "skip"]
    assert not directory.exists()
    assert found[1].seen.startswith(str(tmp_path))


def test_a_directory_behind_a_closed_one_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks is the wrong user, which is no fault of the disk."""

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", refuse)

    found = look(Rig(state_dir=tmp_path / "state"), "disk")

    assert levels(found) == ["ok", "warn"]
    assert "closed to this user" in found[1].seen


def test_a_directory_that_others_may_look_into_fails(tmp_path: Path) -> None:
    """All mail is in there."""
    made = rig(tmp_path / "state")
    (tmp_path / "state").chmod(0o750)

    found = look(made, "disk")

    assert found[2].level.value == "fail"
    assert found[2].cure == f"chmod 700 {tmp_path / 'state'}"


def test_somebody_elses_directory_is_not_written_to(tmp_path: Path) -> None:
    """The one at the keyboard is neither the daemon's user nor root."""
    asked: list[Path] = []
    made = rig(tmp_path / "state", user_id=lambda: os.geteuid() + 1000, sync_times=asked.append)

    assert levels(look(made, "disk")) == ["ok", "ok", "ok", "warn"]
    assert [] == asked


@pytest.mark.parametrize(
    ("times", "level"), [([0.03] * 50, "warn"), ([0.002] * 45 + [0.4] * 5, "warn"), ([0.015], "ok")]
)
def test_a_slow_disk_is_a_warning(tmp_path: Path, times: list[float], level: str) -> None:
    """By its middle, or by its worst."""
    assert levels(look(rig(tmp_path / "state", sync_times=lambda path: times), "disk"))[-1] == level


def test_a_disk_that_cannot_be_written_fails(tmp_path: Path) -> None:
    """An error of the disk is a line."""

    def fail(path: Path) -> list[float]:
        raise OSError(errno.EIO, "Input/output error")

    assert told(look(rig(tmp_path / "state", sync_times=fail), "disk"))[-1].endswith(
        "cannot be written: Input/output error"
    )


def test_little_room_warns_and_none_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New mail is refused before the disk is full."""
    made = rig(tmp_path / "state")
    real = os.statvfs(tmp_path)

    def seen(free: int, inodes: int = 10_000) -> list[str]:
        fake = os.statvfs_result((4096, 4096, 1 << 20, free >> 12, free >> 12, 1 << 20, inodes, inodes, 0, 255))
        monkeypatch.setattr(os, "statvfs", lambda path: fake)
        return levels(look(made, "disk"))[1:-2]

    assert real.f_bsize
    assert [["ok"], ["warn"], ["fail"], ["ok", "fail"]] == [
        seen(4 << 30),
        seen(512 << 20),
        seen(64 << 20),
        seen(4 << 30, 10),
    ]


def test_the_measurement_leaves_nothing_behind(tmp_path: Path) -> None:
    """Fifty times are told, and a file left by a crash is taken over."""
    (tmp_path / ".doctor").write_bytes(b"of a crash")
    ticks = iter(range(1_000_000))

    times = measure_syncs(tmp_path, lambda: next(ticks) * STEP_S)

    assert [STEP_S] * 50 == pytest.approx(times)
    assert [] == list(tmp_path.iterdir())


def test_a_very_slow_disk_is_measured_less_often(tmp_path: Path) -> None:
    """The operator waits for seconds, not minutes."""
    ticks = iter(range(1_000_000))

    assert 0 < len(measure_syncs(tmp_path, lambda: next(ticks) * 1.0)) < 5


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    """Nobody makes root overwrite a file of his choice."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    state = tmp_path / "state"
    state.mkdir()
    (state / ".doctor").symlink_to(victim)

    with pytest.raises(OSError, match="symbolic"):
        measure_syncs(state, lambda: 0.0)
    assert b"precious" == victim.read_bytes()
