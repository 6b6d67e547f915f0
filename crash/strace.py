# SPDX-License-Identifier: MIT
"""strace as a scalpel: lists the calls of one thread, and kills, fails or delays the k-th of them.

strace counts a call per thread, so a running relay is traced a thread at a time, which makes (thread, call, k) one
place in its life. At a start nothing can be attached in time: there strace starts the program, follows its children,
and `-P` with a file of the state directory tells the threads apart. Judges nothing.
"""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.failure import RunFailed
from msgspec import Struct

# What makes something durable, or tells somebody that it is: the store's files, content files, sockets, names.
CALLS = (
    "fsync", "fdatasync", "pwrite64", "write", "writev", "ftruncate", "fallocate", "rename", "unlink", "openat",
    "flock", "mkdir", "chmod", "bind", "sendto", "sendmsg",
)  # fmt: skip
THREADS = ("daemon", "store", "reads", "files")  # the daemon, and the threads of the store's process as it makes them
_ATTACH_S = 10.0
_LINE = re.compile(r"^(?:(\d+) +)?(\w+)\((.*)")
_ID = re.compile(r"content/[0-9a-z]{16}$")  # of a message: another one in each life


class Point(Struct, frozen=True, kw_only=True):
    """One call in a life. `phase`: of crash.life.PHASES; `thread`: "" while starting; `file`: "": whatever it is on."""

    phase: str
    thread: str
    call: str
    file: str
    k: int

    def __str__(self) -> str:
        return ":".join((self.phase, self.thread, self.call, self.file, str(self.k)))


def to_point(text: str) -> Point:
    """Read what str() of a point gives. Raises: ValueError."""
    phase, thread, call, file, k = text.split(":")
    return Point(phase=phase, thread=thread, call=call, file=file, k=int(k))


class Seen(Struct, frozen=True):
    """One call in strace's log. `file`: relative to the state directory, or "socket", or "" for anything else."""

    thread: str
    call: str
    file: str
    fd: str
    outcome: str


def read_trace(path: Path, state: Path, names: re.Pattern[str] | None = None) -> list[Seen]:
    """Read strace's log, each call once, in the order in which they began.

    `names`: finds, in a call's words, the names of files for one that works in its state directory.
    """
    marker = re.compile(rf'["<]{re.escape(str(state))}(?:/([^">]*))?[">]')
    found = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        match = _LINE.match(line)
        if match is None:
            continue  # <... resumed>, +++ exited
        words = match[3]
        named = marker.search(words) or (names.search(words) if names else None)
        file = named[1] or "." if named else "socket" if re.match(r"\d+<(socket|UNIX|TCP)", words) else ""
        fd = re.match(r"(\d+)<", words)
        outcome = re.search(r"\) += (.*)", words)
        found.append(Seen(match[1] or "", match[2], file, fd[1] if fd else "", outcome[1] if outcome else ""))
    return found


def points_of_start(seen: Iterable[Seen], phase: str) -> list[Point]:
    """Give each call on a file of the state directory, and what store and daemon say to each other, of a start."""
    counts: Counter[tuple[str, str]] = Counter()
    by_thread: Counter[tuple[str, str, str]] = Counter()
    for each in seen:
        is_named = each.file not in ("", "socket") and not _ID.search(each.file) and each.call != "bind"
        if not is_named and each.call not in ("sendto", "sendmsg", "bind"):
            continue  # Python's own files; an unlinked orphan has a neighbour that is counted
        file = each.file if is_named else ""
        by_thread[each.thread, each.call, file] += 1
        counts[each.call, file] = max(counts[each.call, file], by_thread[each.thread, each.call, file])
    return [
        Point(phase=phase, thread="", call=call, file=file, k=k)
        for (call, file), n in counts.items()
        for k in range(1, n + 1)
    ]


def points_of_thread(seen: Iterable[Seen], phase: str, thread: str) -> list[Point]:
    """Give each call of a thread that is traced alone, but what concerns neither sockets nor the state directory."""
    counts: Counter[str] = Counter()
    found = []
    for each in seen:
        counts[each.call] += 1
        if each.file:
            found.append(Point(phase=phase, thread=thread, call=each.call, file="", k=counts[each.call]))
    return found


def points_of_files(seen: Iterable[Seen], phase: str, thread: str) -> list[Point]:
    """Give each call on a file of the state directory of a thread that is traced alone, counted for each file."""
    counts: Counter[tuple[str, str]] = Counter()
    for each in seen:
        if each.file not in ("", "socket"):
            counts[each.call, "" if _ID.search(each.file) else each.file] += 1
    return [
        Point(phase=phase, thread=thread, call=call, file=file, k=k)
        for (call, file), n in counts.items()
        for k in range(1, n + 1)
    ]


def was_killed(log: Path) -> bool:
    """Did strace see that somebody was killed?"""
    return log.exists() and b"+++ killed by SIGKILL" in log.read_bytes()


def believed_again(seen: Sequence[Seen]) -> list[str]:
    """Name the files whose fsync failed and then succeeded on the same descriptor, never opened again between."""
    failed: set[tuple[str, str]] = set()
    found = []
    for each in seen:
        key = (each.thread, each.fd)
        if each.call == "close":
            failed.discard(key)
        elif each.call in ("fsync", "fdatasync"):
            if each.outcome.startswith("-1 EIO"):
                failed.add(key)
            elif key in failed and each.outcome.startswith("0"):
                found.append(each.file)
    return found


def wrapper(log: Path, point: Point | None, what: str, state: Path) -> list[str]:
    """Give the words before a command that do `what` (`signal=SIGKILL`) at a point of its start; None: only list."""
    words = ["strace", "-DD", "-f", "-q", "-y", "-o", str(log)]
    if not what.startswith("signal="):
        words.append("--seccomp-bpf")  # much faster, but no signal is injected then (strace 6.1), and nothing says so
    if point is None:
        return [*words, "-e", "trace=" + ",".join(CALLS)]
    where = ["-P", str(state if point.file == "." else state / point.file)] if point.file else []
    return [*words, *where, "-e", f"trace={point.call},close", "-e", f"inject={point.call}:{what}"]


def find_threads(daemon: int) -> dict[str, int]:
    """Give the ids of the threads of a running relay, by the names in THREADS."""
    found = {"daemon": daemon}
    children = Path(f"/proc/{daemon}/task/{daemon}/children").read_text().split()
    if children:
        tasks = sorted(int(entry) for entry in os.listdir(f"/proc/{children[0]}/task"))
        found.update(zip(THREADS[1:], tasks, strict=False))
    return found


class Tracer:
    """A strace attached to running threads; `detach` leaves them running as if nothing had been."""

    def __init__(
        self,
        ids: Sequence[int],
        log: Path,
        calls: Sequence[str],
        inject: str = "",
        *,
        file: Path | None = None,
        follow: bool = False,
    ) -> None:
        self.log = log
        command = ["strace", "-I", "2", "-q", "-y", "-o", str(log), "-e", "trace=" + ",".join(calls)]
        command += [word for each in ids for word in ("-p", str(each))]
        command += ["-f"] if follow else []
        command += ["-P", str(file)] if file else []
        command += ["-e", f"inject={inject}"] if inject else []
        words = log.with_suffix(".err")
        with words.open("wb") as err:
            self._popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=err)
        deadline = time.monotonic() + _ATTACH_S
        while any(_tracer_of(each) != self._popen.pid for each in ids):
            if self._popen.poll() is not None or time.monotonic() > deadline:
                self.detach()
                raise RunFailed(f"strace could not attach: {words.read_text(errors='replace').strip()}")
            time.sleep(0.005)

    def detach(self) -> None:
        """End strace; harmless when repeated."""
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
            try:
                self._popen.wait(5)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait(5)


def _tracer_of(thread: int) -> int:
    with contextlib.suppress(OSError):
        found = re.search(r"^TracerPid:\s*(\d+)", Path(f"/proc/{thread}/status").read_text(), re.MULTILINE)
        return int(found[1]) if found else 0
    return 0
