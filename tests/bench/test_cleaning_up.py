# SPDX-License-Identifier: MIT
"""The benchmark leaves nothing behind, however it ends."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench.guard import read_orders
from bench.options import Options
from bench.programs import find_program, missing_programs

ROOT = Path(__file__).parents[2]
needs_postfix_tools = pytest.mark.skipif(
    find_program("smtp-sink") is None, reason="smtp-sink is not installed: run tools/system-packages"
)


def test_guard_forgets_what_is_gone() -> None:
    """It kills only what was started and not yet ended."""
    orders = ["tree /x/y z\n", "group 10\n", "group 11\n", "gone 10\n", "group 12\n", "\n"]

    assert read_orders(orders) == ({11, 12}, {"/x/y z"})


def wait_until_gone(path: Path, seconds: float = 15.0) -> bool:
    """Wait for a directory to become empty; the guard removes it last."""
    until = time.monotonic() + seconds
    while any(path.iterdir()) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(path.iterdir())


@needs_postfix_tools
@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_benchmark_leaves_nothing(open_directory: Path, tmp_path: Path, sign: signal.Signals) -> None:
    """Ctrl-C, TERM and even kill -9 in the middle of a load end the load and the sink and remove the directory."""
    place = ["--scratch", str(open_directory), "--out", str(tmp_path)]
    command = [sys.executable, "-m", "bench", "--only", "ceiling", "--messages", "500", "--rounds", "3", *place]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as bench:
        assert bench.stdout is not None
        while not (line := bench.stdout.readline()).startswith("ceiling: "):
            assert line, "it ended by itself"
        (directory,) = open_directory.iterdir()
        children = wait_for_children(directory)
        bench.send_signal(sign)
        _, said = bench.communicate(timeout=30)

    assert line == "ceiling: 500 numbered messages, each at the sink once\n"
    assert len(children) >= 2, "a load was under way"
    assert wait_until_gone(open_directory)
    assert not [pid for pid in children if _works_in(pid, directory)]
    assert bench.returncode == (-sign if sign is signal.SIGKILL else 130)
    assert sign is signal.SIGKILL or "interrupted" in said


def wait_for_children(directory: Path, seconds: float = 15.0) -> list[int]:
    """Give the load and the sink, once both are there (between two runs there are none)."""
    until = time.monotonic() + seconds
    while True:
        pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if _works_in(int(entry.name), directory)]
        if len(pids) >= 2 or time.monotonic() > until:
            return pids


def _works_in(pid: int, directory: Path) -> bool:
    """Does this process write into the scratch directory?"""
    try:
        return any(Path(f"/proc/{pid}/fd/{fd}").readlink().is_relative_to(directory) for fd in (1, 2))
    except OSError:
        return False


def test_missing_programs_are_named_with_their_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Postfix's programs it says which are missing and what installs them."""
    monkeypatch.setattr("bench.programs._SBIN", "/nonexistent")
    monkeypatch.setenv("PATH", "/nonexistent")

    lines = missing_programs(Options(systems=("ceiling",)))

    assert [line.split()[0] for line in lines] == ["smtp-source", "smtp-sink"]
    assert all("tools/system-packages" in line for line in lines)


def test_scratch_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A mistyped --scratch is told before anything runs."""
    lines = missing_programs(Options(systems=(), scratch=tmp_path / "none"))

    assert any(f"{tmp_path}/none cannot be written to" in line for line in lines)


@pytest.mark.slow
def test_missing_program_ends_it_with_69(tmp_path: Path) -> None:
    """Loudly, at once, and before anything was made."""
    command = [sys.executable, "-m", "bench", "--only", "smarthost", "--smarthost", "/nonexistent/smarthost"]

    ended = subprocess.run(
        [*command, "--scratch", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert ended.returncode == 69
    assert "CANNOT RUN: /nonexistent/smarthost does not exist" in ended.stderr
    assert list(tmp_path.iterdir()) == []
