# SPDX-License-Identifier: MIT
"""What the benchmark asks of a system under test, and the systems it knows.

A system is started fresh for each run, in an empty directory, told where the next hop is, and stopped after it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from bench.children import Scratch


class System(Protocol):
    """A mail relay at work on loopback, or what stands for one."""

    @property
    def name(self) -> str: ...

    @property
    def port(self) -> int:
        """Where it listens."""

    @property
    def root_pid(self) -> int | None:
        """The process whose whole tree is measured, or None: nothing stands between source and sink."""

    def left_over(self) -> int | None:
        """Give how many messages still are in its queue, None when it cannot say."""

    def stop(self) -> None:
        """End it in good order. Raises: RunFailed: it did not end, or not with 0."""


StartSystem = Callable[[Scratch, Path, int], System]
"""Start a system with its state in a directory and the sink's port; it greets when this returns. Raises: RunFailed."""


class Ceiling:
    """Nothing at all: the source talks straight to the sink."""

    name = "ceiling"
    root_pid: int | None = None

    def __init__(self, sink_port: int) -> None:
        self.port = sink_port

    def left_over(self) -> int | None:
        """There is no queue."""
        return 0

    def stop(self) -> None:
        """There is nothing to stop."""


def start_ceiling(scratch: Scratch, home: Path, sink_port: int) -> System:
    """Give the sink itself."""
    return Ceiling(sink_port)
