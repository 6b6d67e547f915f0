# SPDX-License-Identifier: MIT
"""What the kernel and Python say of this process, for the metrics page. 0 where /proc does not tell."""

import gc
import os
import resource
from pathlib import Path

_PAGE_OCTETS = os.sysconf("SC_PAGE_SIZE")


def resident_octets() -> int:
    """Give the memory in use (proc(5), statm: the second figure, in pages)."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * _PAGE_OCTETS
    except (OSError, ValueError, IndexError):
        return 0


def open_descriptors() -> int:
    """Give how many files are open."""
    try:
        return sum(1 for _ in os.scandir("/proc/self/fd"))
    except OSError:
        return 0


def most_descriptors() -> int:
    """Give how many files may be open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def collections() -> tuple[int, ...]:
    """Give how often Python collected garbage, by generation."""
    return tuple([each["collections"] for each in gc.get_stats()])
