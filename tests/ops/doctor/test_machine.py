# SPDX-License-Identifier: MIT
"""This machine's own word: the clock, open files, memory, routes; and how `clock` and `limits` judge it."""

import os
import resource
from pathlib import Path
from typing import Any

import pytest
from tests.ops.doctor.rig import Rig, levels, look, machine, told

from smarthost.ops.doctor import machine as machine_module
from smarthost.ops.doctor.machine import memory_octets, open_files, read_time_state, route_to
from smarthost.ops.doctor.world import Daemon, TimeState


def test_a_kept_clock_is_ok() -> None:
    """The date is told, so that a person sees it."""
    assert told(look(Rig(), "clock")) == [
        "ok the clock says 2027-01-15 08:00:00 UTC",
        "ok the clock is synchronised, at most 10 ms off",
    ]


@pytest.mark.parametrize(
    ("state", "level"),
    [
        (None, "skip"),
        (TimeState(is_synchronised=False, max_error_s=0.1), "warn"),
        (TimeState(is_synchronised=True, max_error_s=3.0), "warn"),
    ],
)
def test_a_clock_that_nobody_keeps_is_a_warning(state: TimeState | None, level: str) -> None:
    """Unknown is not wrong."""
    assert levels(look(Rig(on=machine(time_state=lambda: state)), "clock")) == ["ok", level]


@pytest.mark.parametrize("years", [-57, -2, 30])
def test_an_impossible_date_fails(years: int) -> None:
    """1970 after a dead battery."""
    rig = Rig()
    rig.clock.step_wall(years * 365.25 * 86400)

    assert levels(look(rig, "clock"))[0] == "fail"


@pytest.mark.parametrize(
    ("files", "level"), [((1 << 20, 1 << 20), "ok"), ((1024, 4096), "warn"), ((256, 1024), "fail")]
)
def test_open_files_are_compared_with_what_may_be_wanted(files: tuple[int, int], level: str) -> None:
    """A daemon raises the soft limit to the hard one when it starts."""
    assert levels(look(Rig(on=machine(open_files=lambda pid: files)), "limits"))[0] == level


def test_a_running_daemons_own_limits_count() -> None:
    """Not those of the shell that the doctor was called from."""
    asked: list[int] = []

    def ask(pid: int) -> tuple[int, int]:
        asked.append(pid)
        return 1024, 1 << 20

    found = look(Rig(on=machine(open_files=ask), daemon=Daemon(pid=7, version="1")), "limits")

    assert ([7], "fail") == (asked, found[0].level.value)
    assert "process 7" in found[0].seen


def test_limits_that_cannot_be_read_are_skipped() -> None:
    """Another user's daemon."""

    def refuse(pid: int) -> tuple[int, int]:
        raise PermissionError(13, "Permission denied")

    assert levels(look(Rig(on=machine(open_files=refuse), daemon=Daemon(pid=7)), "limits")) == ["skip", "ok"]


@pytest.mark.parametrize(
    ("memory", "level"), [((0, 0), "skip"), ((128 << 20, 100 << 20), "warn"), ((4 << 30, 8 << 20), "warn")]
)
def test_little_memory_is_a_warning(memory: tuple[int, int], level: str) -> None:
    """Little in all, or little left."""
    assert levels(look(Rig(on=machine(memory_octets=lambda pid: memory)), "limits"))[1] == level


# -- the real machine --------------------------------------------------------------------------------------------------


def test_our_own_limits_are_read_both_ways() -> None:
    """By the call for ourselves, from /proc for another process."""
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == open_files(0)
    assert open_files(0) == open_files(os.getpid())


def test_the_kernel_tells_about_its_clock() -> None:
    """Synchronised or not, it is a value and no error."""
    state = read_time_state()

    assert state is None or state.max_error_s >= 0


def test_a_time_service_that_says_so_is_believed(tmp_path: Path) -> None:
    """In some containers the kernel's flag is not ours to see."""
    flag = tmp_path / "synchronized"
    flag.touch()
    state = read_time_state(flag)

    assert state is None or state.is_synchronised


def test_a_route_to_loopback_leaves_from_loopback() -> None:
    """And no address at all is no route."""
    assert "127.0.0.1" == route_to("127.0.0.1")
    assert "" == route_to("not an address")


def test_memory_is_what_the_control_group_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit with MemoryMax= has less than the machine; cached files are not counted as used."""
    files: dict[str, str] = {
        "proc/meminfo": "MemTotal: 4194304 kB\nMemFree: 1 kB\nMemAvailable: 2097152 kB\n",
        "proc/7/cgroup": "0::/system.slice/smarthost.service\n",
        "cgroup/memory.max": "max\n",
        "cgroup/system.slice/smarthost.service/memory.max": str(512 << 20),
        "cgroup/system.slice/smarthost.service/memory.current": str(300 << 20),
        "cgroup/system.slice/smarthost.service/memory.stat": f"anon 5\ninactive_file {100 << 20}\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    module: Any = machine_module
    monkeypatch.setattr(module, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(module, "_CGROUPS", tmp_path / "cgroup")

    assert (512 << 20, 312 << 20) == memory_octets(7)
    assert (4 << 30, 2 << 30) == memory_octets(8)

    (tmp_path / "proc/meminfo").unlink()

    assert (0, 0) == memory_octets(7)
