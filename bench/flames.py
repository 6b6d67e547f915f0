# SPDX-License-Identifier: MIT
"""py-spy beside a run of smarthost: a flame graph and the raw stacks.

Such a run's figures do not count: py-spy slows what it watches.
"""

import signal
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from bench.programs import find_py_spy
from bench.system import System

_HZ = "250"


class Profiler:
    """Starts py-spy when the timed load has begun and ends it when asked; writes `stem`.raw.txt and `stem`.svg."""

    def __init__(self, stem: Path) -> None:
        self._stem = stem
        self._spies: list[subprocess.Popen[bytes]] = []

    def attach(self, system: System) -> None:
        """Begin to watch the system's process and its children."""
        assert system.root_pid is not None, "only a process can be profiled"
        py_spy = find_py_spy()
        assert py_spy is not None, "missing_programs looks for py-spy first"
        for form, suffix in (("raw", ".raw.txt"), ("flamegraph", ".svg")):
            out = str(self._stem) + suffix
            command = [
                py_spy,
                "record",
                "--subprocesses",
                "--nonblocking",
                "-r",
                _HZ,
                "-d",
                "3600",
                "-f",
                form,
                "-o",
                out,
            ]
            self._spies.append(
                subprocess.Popen(
                    [*command, "--pid", str(system.root_pid)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )

    def detach(self) -> None:
        """End py-spy, which then writes its files."""
        for spy in self._spies:
            if spy.poll() is None:
                spy.send_signal(signal.SIGINT)
        for spy in self._spies:
            try:
                spy.wait(30)
            except subprocess.TimeoutExpired:
                spy.kill()
                spy.wait()
        self._spies.clear()


def top_functions(stacks: Iterable[str], n: int) -> list[tuple[float, str]]:
    """Give the n functions with the most samples of their own, each with its share, from py-spy's raw stacks."""
    own: Counter[str] = Counter()
    for line in stacks:
        stack, _, count = line.rstrip("\n").rpartition(" ")
        if stack and count.isdigit():
            own[stack.rpartition(";")[2]] += int(count)
    total = own.total() or 1
    return [(count / total, name) for name, count in own.most_common(n)]
