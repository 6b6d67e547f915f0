# SPDX-License-Identifier: MIT
"""Memory and CPU time of a process tree, read from /proc.

CPU: utime, stime, cutime and cstime over the living tree; a child that ended is in its parent's c-times, so differences
lose nothing. Memory: the sums of RSS (shared pages count once per process) and of PSS (they count once in all). The
sampler paces itself: a tree of 60 processes costs 4 ms a look, and that must not become part of what is measured.
"""

import contextlib
import os
import threading
import time
from pathlib import Path

from msgspec import Struct

_TICK = os.sysconf("SC_CLK_TCK")
_MIB = 1024 * 1024
_INTERVAL_S = 0.05  # 20 Hz
_SHARE = 0.03  # at most this part of one core goes into looking


class Memory(Struct, frozen=True, kw_only=True):
    """Peaks over the samples, in MiB; `processes` is the most seen at once."""

    rss_mib: float
    pss_mib: float
    processes: int
    samples: int


def list_tree(root: int) -> list[int]:
    """Give the pids of a process and all its descendants."""
    pids, fresh = [root], [root]
    while fresh:
        fresh = [child for pid in fresh for child in _children(pid)]
        pids += fresh
    return pids


def _children(pid: int) -> list[int]:
    children: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            children += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return children


def cpu_seconds(root: int) -> float:
    """Give the CPU time that a tree has used so far, its ended children included; 10 ms fine per process."""
    return sum(parse_cpu_ticks(_read(f"/proc/{pid}/stat")) for pid in list_tree(root)) / _TICK


def parse_cpu_ticks(stat: str) -> int:
    """Give utime + stime + cutime + cstime of a /proc/PID/stat line; the name in it may hold spaces and brackets."""
    fields = stat.rpartition(")")[2].split()
    return sum(map(int, fields[11:15]))  # fields 14 to 17 of proc(5), two of which came before the bracket


def parse_rollup(rollup: str) -> tuple[int, int]:
    """Give (RSS, PSS) in octets of a /proc/PID/smaps_rollup."""
    sizes = {"Rss:": 0, "Pss:": 0}
    for line in rollup.splitlines():
        name, _, rest = line.partition(" ")
        if name in sizes:
            sizes[name] = int(rest.split()[0]) * 1024
    return sizes["Rss:"], sizes["Pss:"]


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:  # it ended between listing and looking
        return ""


class MemorySampler:
    """Looks at a tree in a thread until stopped."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._over = threading.Event()
        self._rss = self._pss = self._processes = self._samples = 0
        self._thread = threading.Thread(target=self._sample_on, daemon=True)
        self._thread.start()

    def _sample_on(self) -> None:
        while True:
            began = time.monotonic()
            self._look()
            cost = time.monotonic() - began
            if self._over.wait(max(_INTERVAL_S - cost, cost / _SHARE)):
                return

    def _look(self) -> None:
        pids = list_tree(self._root)
        sizes = [parse_rollup(_read(f"/proc/{pid}/smaps_rollup")) for pid in pids]
        self._rss = max(self._rss, sum(rss for rss, _ in sizes))
        self._pss = max(self._pss, sum(pss for _, pss in sizes))
        self._processes = max(self._processes, len(pids))
        self._samples += 1

    def stop(self) -> Memory:
        """End looking and give the peaks."""
        self._over.set()
        self._thread.join()
        return Memory(
            rss_mib=self._rss / _MIB, pss_mib=self._pss / _MIB, processes=self._processes, samples=self._samples
        )
