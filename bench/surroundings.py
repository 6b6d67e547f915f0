# SPDX-License-Identifier: MIT
"""Notes where a benchmark ran, so that its figures can be judged later."""

import os
import platform
import statistics
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil

from bench.figures import Surroundings
from bench.programs import postfix_version

_SYNCS = 100
_FAST_SYNC_US = 20.0  # no disk that keeps its promise flushes in this time
_BUSY = 0.5


def look_around(scratch: Path) -> Surroundings:
    """Note the machine, the programs and the disk under `scratch`."""
    return Surroundings(
        at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        commit=_commit(),
        python=platform.python_version(),
        postfix=postfix_version(),
        kernel=platform.release(),
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        load_average=os.getloadavg()[0],
        file_system=file_system(scratch, [(p.mountpoint, p.fstype) for p in psutil.disk_partitions(all=True)]),
        fdatasync_us=fdatasync_us(scratch),
    )


def warnings(found: Surroundings) -> list[str]:
    """Say what about the surroundings spoils the figures."""
    lines = []
    if found.file_system in ("tmpfs", "ramfs"):
        lines.append(
            f"the scratch directory is on {found.file_system}: nothing is durable there; choose --scratch on a disk"
        )
    if found.fdatasync_us < _FAST_SYNC_US:
        lines.append(f"fdatasync takes {found.fdatasync_us:.0f} us: this disk does not flush; all rates are flattered")
    if found.load_average > _BUSY:
        lines.append(f"the load average is {found.load_average:.2f} before the first run: others use this machine")
    return lines


def file_system(path: Path, mounts: list[tuple[str, str]]) -> str:
    """Give the type of the file system that holds `path`, among (mount point, type); the longest match wins."""
    whole = str(path.resolve())
    inside = [(len(at), kind) for at, kind in mounts if whole == at or whole.startswith(at.rstrip("/") + "/")]
    return max(inside)[1] if inside else "unknown"


def fdatasync_us(scratch: Path) -> float:
    """Time a 5 KiB append with its fdatasync: the median, in microseconds."""
    path = scratch / "fdatasync"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    spans = []
    try:
        for _ in range(_SYNCS):
            os.write(descriptor, b"x" * 5120)
            began = time.perf_counter()
            os.fdatasync(descriptor)
            spans.append((time.perf_counter() - began) * 1e6)
    finally:
        os.close(descriptor)
        path.unlink()
    return statistics.median(spans)


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    except OSError:
        return "unknown"
    return answer.stdout.strip() or "unknown"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
