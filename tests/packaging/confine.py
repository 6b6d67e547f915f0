# SPDX-License-Identifier: MIT
"""Runs a command under what a unit of systemd's forbids it by seccomp, without systemd: `confine.py UNIT COMMAND...`.

Reads SystemCallFilter=, SystemCallErrorNumber=, RestrictAddressFamilies= and MemoryDenyWriteExecute= of the unit, has
`systemd-analyze syscall-filter` say which calls a group has, and builds with libseccomp the filters that systemd builds
(src/shared/seccomp-util.c). Linux on x86-64 and arm64, where mmap and socket are calls of their own.
"""

import ctypes
import errno
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_NE, _EQ, _MASKED_EQ = 1, 4, 7
_PROT_WRITE, _PROT_EXEC, _SHM_EXEC = 2, 4, 0o100000
_PR_SET_NO_NEW_PRIVS = 38


class _Compare(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def read_unit(unit: Path) -> dict[str, list[str]]:
    """Give all values of each key of a unit file."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not key.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def calls_of(group: str) -> set[str]:
    """Give the calls of a group such as @system-service, groups within it too."""
    told = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True)
    calls: set[str] = set()
    for line in told.stdout.splitlines():
        name = line.strip()
        if line.startswith(" ") and not name.startswith("#"):
            calls |= calls_of(name) if name.startswith("@") else {name}
    return calls


def permitted(filters: Iterable[str]) -> set[str]:
    """Give the calls that the lines of SystemCallFilter= leave, the first of which is a list of what is allowed."""
    calls = calls_of("@default")
    for line in filters:
        for group in line.removeprefix("~").split():
            named = calls_of(group) if group.startswith("@") else {group}
            calls = calls - named if line.startswith("~") else calls | named
    return calls


class _Filter:
    """One libseccomp filter."""

    def __init__(self, default: int) -> None:
        self._lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._lib.seccomp_init.restype = ctypes.c_void_p
        self._lib.seccomp_init.argtypes = [ctypes.c_uint32]
        self._lib.seccomp_load.argtypes = [ctypes.c_void_p]
        self._lib.seccomp_rule_add_array.argtypes = [
            ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p,
        ]  # fmt: skip
        self._context = self._lib.seccomp_init(default)

    def rule(self, call: str, action: int, *compare: tuple[int, int, int, int]) -> None:
        number = self._lib.seccomp_syscall_resolve_name(call.encode())
        if number < 0:  # not of this architecture
            return
        array = (_Compare * len(compare))(*[_Compare(*each) for each in compare])
        failed = self._lib.seccomp_rule_add_array(self._context, action, number, len(compare), array)
        if failed:
            raise OSError(-failed, f"no rule for {call}")

    def load(self) -> None:
        if failed := self._lib.seccomp_load(self._context):
            raise OSError(-failed, "the filter could not be loaded")


def confine(unit: dict[str, list[str]]) -> None:
    """Forbid this process what the unit forbids."""
    refuse = _ERRNO | getattr(errno, unit["SystemCallErrorNumber"][0])
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if unit.get("MemoryDenyWriteExecute") == ["yes"]:
        both = _PROT_WRITE | _PROT_EXEC
        memory = _Filter(_ALLOW)
        memory.rule("mmap", _ERRNO | errno.EPERM, (2, _MASKED_EQ, both, both))
        memory.rule("mprotect", _ERRNO | errno.EPERM, (2, _MASKED_EQ, _PROT_EXEC, _PROT_EXEC))
        memory.rule("pkey_mprotect", _ERRNO | errno.EPERM, (2, _MASKED_EQ, _PROT_EXEC, _PROT_EXEC))
        memory.rule("shmat", _ERRNO | errno.EPERM, (2, _MASKED_EQ, _SHM_EXEC, _SHM_EXEC))
        memory.load()
    families = _Filter(_ALLOW)
    allowed = {int(getattr(socket, each)) for each in unit["RestrictAddressFamilies"][0].split()}
    for family in range(max(allowed) + 1, 64):
        families.rule("socket", _ERRNO | errno.EAFNOSUPPORT, (0, _EQ, family, 0))
    for family in set(range(max(allowed))) - allowed:
        families.rule("socket", _ERRNO | errno.EAFNOSUPPORT, (0, _EQ, family, 0))
    families.load()
    calls = _Filter(refuse)
    for call in sorted(permitted(unit["SystemCallFilter"]) | {"execve"}):
        calls.rule(call, _ALLOW)
    calls.load()


def bits(text: str) -> str:
    """Give what is behind a name in /proc/self/status, for who wants to see that it holds."""
    found = re.search(rf"^{text}:\s*(\S+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return found[1] if found else ""


if __name__ == "__main__":
    confine(read_unit(Path(sys.argv[1])))
    os.execv(sys.argv[2], sys.argv[2:])
