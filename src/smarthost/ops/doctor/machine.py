# SPDX-License-Identifier: MIT
"""This machine, as the doctor's checks ask about it: limits, memory, clock, routes. Reads /proc and asks the kernel.

What a system does not tell is unknown, never guessed. Everything here may block for a moment; nothing is changed.
"""

import ctypes
import os
import resource
import socket
import struct
import time
from functools import partial
from pathlib import Path

from smarthost.backends.interfaces import local_addresses
from smarthost.backends.volume import describe_volume
from smarthost.ops.doctor.disk import measure_syncs
from smarthost.ops.doctor.world import Machine, TimeState

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_TIMESYNC = Path("/run/systemd/timesync/synchronized")
_DISCARD = 9  # any port: nothing is sent
# struct timex begins: modes, offset, freq, maxerror (us), esterror, status (adjtimex(2))
_TIMEX = struct.Struct("@Illlli")
_TIMEX_OCTETS = 512  # 208 on x86-64
_STA_UNSYNC, _TIME_ERROR = 0x40, 5


def this_machine() -> Machine:
    """Give the machine that we run on."""
    return Machine(
        addresses=local_addresses,
        route_to=route_to,
        volume=describe_volume,
        sync_times=partial(measure_syncs, monotonic=time.monotonic),
        time_state=read_time_state,
        open_files=open_files,
        memory_octets=memory_octets,
        user_id=os.geteuid,
    )


def route_to(address: str) -> str:
    """Give the local address that packets to an address leave from, or "" where there is no route; sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, _DISCARD))
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def read_time_state(synchronised: Path = _TIMESYNC) -> TimeState | None:
    """Ask the kernel about its clock; None where it does not tell (a container without leave, another system)."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return None
    buffer = ctypes.create_string_buffer(_TIMEX_OCTETS)
    state = adjtimex(buffer)
    if state < 0:
        return None
    _, _, _, max_error_us, _, status = _TIMEX.unpack_from(buffer)
    is_kept = (state != _TIME_ERROR and not status & _STA_UNSYNC) or synchronised.exists()
    return TimeState(is_kept, max_error_us / 1e6)


def open_files(pid: int) -> tuple[int, int]:
    """Give the soft and the hard limit of open files of a process (0: our own). Raises: OSError."""
    if pid == 0:
        return resource.getrlimit(resource.RLIMIT_NOFILE)
    for line in (_PROC / str(pid) / "limits").read_text().splitlines():
        if line.startswith("Max open files"):
            soft, hard = line.split()[3:5]
            return _number(soft), _number(hard)
    raise OSError(f"process {pid} has no such limit")


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 1 << 30  # "unlimited"


def memory_octets(pid: int) -> tuple[int, int]:
    """Give how much memory a process (0: our own) may use, its control group's limit included, and what is free."""
    try:
        lines = (_PROC / "meminfo").read_text().splitlines()
        facts = {words[0].rstrip(":"): int(words[1]) << 10 for line in lines if len(words := line.split()) > 1}
        most, free = facts["MemTotal"], facts["MemAvailable"]
    except (OSError, KeyError, ValueError):
        return 0, 0
    for group in _groups(pid):
        limit = _read_number(group / "memory.max")
        if limit is not None:
            used = _read_number(group / "memory.current") or 0
            most, free = min(most, limit), min(free, limit - used + _inactive(group))
    return most, max(0, free)


def _groups(pid: int) -> list[Path]:
    """Give the control group (version 2) of a process and those above it."""
    try:
        lines = (_PROC / (str(pid) if pid else "self") / "cgroup").read_text().splitlines()
    except OSError:
        return []
    own = next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")
    below = _CGROUPS / own
    return [below, *(each for each in below.parents if each == _CGROUPS or _CGROUPS in each.parents)]


def _read_number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None


def _inactive(group: Path) -> int:
    """What the kernel would give up first: cached files count as used there."""
    try:
        lines = (group / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
