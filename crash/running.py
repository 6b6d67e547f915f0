# SPDX-License-Identifier: MIT
"""What all systems under test have in common while they run: their first process, its family, how it ended.

How they are started, and how they are killed, is their own.
"""

import signal
from collections.abc import Sequence
from pathlib import Path

import psutil
from bench.children import Child, Scratch
from bench.network import free_port


class Running:
    """A system on one port; `_child` is the process of the life that goes on, once it was started."""

    def __init__(self, scratch: Scratch, kind: str) -> None:
        self._kind = kind
        self.port = free_port()
        self.starts = 0
        self._scratch = scratch
        self._child: Child | None = None
        self._before: list[Child] = []  # of earlier lives, not known to be gone

    def begin(self, command: Sequence[str | Path]) -> Child:
        """Start a life's first process; what is left of the life before goes on beside it, as after a crash."""
        if self._child is not None:
            self._before.append(self._child)
        self._child = self._scratch.start(self.name, command)
        return self._child

    @property
    def name(self) -> str:
        """Name the files of the life that goes on."""
        return f"{self._kind}-{self.port}-{self.starts}"

    @property
    def child(self) -> Child:
        """Give the first process (a wrapper, if there is one)."""
        assert self._child is not None, "started"
        return self._child

    @property
    def pid(self) -> int:
        """Give the number of the first process."""
        return self.child.pid

    @property
    def exit_code(self) -> int | None:
        """Give how it ended, None while it runs (negative: the signal)."""
        return self.child.exit_code()

    def family(self) -> list[psutil.Process]:
        """Give all its processes, the first it started first."""
        try:
            root = psutil.Process(self.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def stop(self, timeout_s: float = 60.0) -> int | None:
        """SIGTERM to the first process, which ends the others; give the exit code, None if it had to be killed."""
        family = self.family()
        code = self.child.stop(timeout_s, signal.SIGTERM)
        psutil.wait_procs(family, timeout=30)
        self._forget_before()
        return code

    def kill_group(self) -> None:
        """SIGKILL to the process group of the first process, and to those of earlier lives; they are gone then."""
        self.child.kill_group()
        self._forget_before()

    def _forget_before(self) -> None:
        """End earlier lives while their numbers are still theirs: at the end of a long run they are others'."""
        for child in self._before:
            child.kill_group()
        self._before.clear()
