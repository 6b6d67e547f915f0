# SPDX-License-Identifier: MIT
"""py-spy beside a run of smarthost: the raw stacks of each of its processes, and who used the time.

The raw files fit speedscope.app and flamegraph.pl. Such a run's figures do not count: py-spy slows what it watches.
"""

import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from bench.programs import find_py_spy
from bench.system import System
from bench.tree import list_tree

_HZ = "250"
_LINE_NUMBER = re.compile(r":[0-9]+\)$")


class Profiler:
    """Watches each process of a system from `attach` on; writes `stem`-N.raw.txt at the end, the root's first."""

    def __init__(self, stem: Path) -> None:
        self._stem = stem
        self._spies: list[subprocess.Popen[bytes]] = []
        self.files: list[Path] = []

    def attach(self, system: System) -> None:
        """Begin to watch."""
        assert system.root_pid is not None, "only a process can be profiled"
        py_spy = find_py_spy()
        assert py_spy is not None, "missing_programs looks for py-spy first"
        for n, pid in enumerate(list_tree(system.root_pid), 1):
            out = Path(f"{self._stem}-{n}.raw.txt")
            how = ["--nonblocking", "--rate", _HZ, "--duration", "3600", "--format", "raw", "--output", str(out)]
            spy = subprocess.Popen(
                [py_spy, "record", *how, "--pid", str(pid)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._spies.append(spy)
            self.files.append(out)

    def detach(self) -> None:
        """End py-spy, which then writes its files; it ends by itself with the process that it watches."""
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


def top_functions(stacks: Iterable[str], n: int) -> list[tuple[float, float, str]]:
    """Give the n functions with the most samples of their own: (own share, share with all they call, name)."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for line in stacks:
        stack, _, count = line.rstrip("\n").rpartition(" ")
        if not stack or not count.isdigit():
            continue
        names = [_LINE_NUMBER.sub(")", frame) for frame in stack.split(";")]
        own[names[-1]] += int(count)
        for name in set(names):
            whole[name] += int(count)
    total = own.total() or 1
    return [(count / total, whole[name] / total, name) for name, count in own.most_common(n)]
