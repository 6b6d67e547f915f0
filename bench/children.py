# SPDX-License-Identifier: MIT
"""The processes that a benchmark starts, each in a process group of its own, all under the watch of guard.py.

Only groups started here are ever signalled. `Scratch` is the one directory in which everything of a run lives.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from bench import guard
from bench.interrupts import uninterrupted


class Child:
    """A process of ours, leader of its group; output goes to files in the scratch directory."""

    def __init__(self, name: str, popen: "subprocess.Popen[bytes]", scratch: "Scratch") -> None:
        self.name = name
        self.pid = popen.pid
        self._popen = popen
        self._scratch = scratch

    def complaint(self) -> str:
        """Give the last lines of what it said on stderr, in one line of at most 400 characters."""
        return self._scratch.complaint(self.name)

    def exit_code(self) -> int | None:
        """Give the exit code, or None while it runs (negative: the signal that ended it)."""
        return self._popen.poll()

    def wait(self, timeout_s: float) -> int | None:
        """Wait for the end, at most `timeout_s`."""
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def write_input(self, octets: bytes) -> None:
        """Write to its stdin. Raises: BrokenPipeError: it does not listen any more."""
        assert self._popen.stdin is not None, "started without stdin"
        self._popen.stdin.write(octets)
        self._popen.stdin.flush()

    def end_input(self) -> None:
        """Close its stdin, if it has one of ours."""
        if self._popen.stdin is not None:
            with contextlib.suppress(OSError):
                self._popen.stdin.close()

    def stop(self, timeout_s: float, sign: signal.Signals = signal.SIGTERM) -> int | None:
        """Ask it to end, wait, then kill its group; None if it had to be killed."""
        if self._popen.poll() is None:
            self._popen.send_signal(sign)
        code = self.wait(timeout_s)
        self.kill_group()
        return code

    def kill_group(self) -> None:
        """Kill whatever is left of its group, and wait until that is gone; once only, as pids come again."""
        if not self._scratch.knows(self):
            return
        with uninterrupted():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._popen.wait(10)
            self.end_input()
            deadline = time.monotonic() + 5
            while _group_lives(self.pid) and time.monotonic() < deadline:
                time.sleep(0.01)
            self._scratch.forget(self)


def _group_lives(pgid: int) -> bool:
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        return False
    return True


class Scratch:
    """The directory of a run and the children that work in it; leaving it stops them all and removes it."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        with uninterrupted():
            watch = [sys.executable, guard.__file__]
            self._guard = subprocess.Popen(watch, stdin=subprocess.PIPE, start_new_session=True)
            self.path = Path(tempfile.mkdtemp(prefix="smarthost-bench-", dir=self._parent))
            self.path.chmod(0o755)  # Postfix's own user walks through it
            self._tell(f"tree {self.path}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with uninterrupted():
            self.kill_children()
            shutil.rmtree(self.path, ignore_errors=True)
            assert self._guard.stdin is not None
            self._guard.stdin.close()
            self._guard.wait(30)

    def kill_children(self) -> None:
        """Kill what is still running."""
        for child in reversed(self._children[:]):
            child.kill_group()

    def _tell(self, line: str) -> None:
        assert self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.write(line.encode() + b"\n")
            self._guard.stdin.flush()

    def directory(self, name: str) -> Path:
        """Make a fresh, empty directory."""
        path = self.path / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o755)
        return path

    def start(
        self, name: str, command: Sequence[str | Path], *, stdout: IO[bytes] | None = None, stdin: bool = False
    ) -> Child:
        """Start a program; stderr, and stdout unless given, go to `name`.err in the scratch directory."""
        with uninterrupted(), (self.path / f"{name}.err").open("wb") as err:
            popen = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=stdout or err,
                stderr=err,
                start_new_session=True,
            )
            child = Child(name, popen, self)
            self._children.append(child)
            self._tell(f"group {child.pid}")
        return child

    def complaint(self, name: str) -> str:
        """Give the last lines of what a child said on stderr, in one line of at most 400 characters."""
        path = self.path / f"{name}.err"
        lines = path.read_text(errors="replace").splitlines()[-3:] if path.exists() else []
        return " | ".join(line.strip() for line in lines)[-400:]

    def knows(self, child: Child) -> bool:
        """Was this child started here, and is it not yet forgotten?"""
        return child in self._children

    def forget(self, child: Child) -> None:
        """A child is gone with its whole group."""
        self._children.remove(child)
        self._tell(f"gone {child.pid}")
