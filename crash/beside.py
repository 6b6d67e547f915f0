# SPDX-License-Identifier: MIT
"""Crash suite 2 with Postfix: kills one of its processes at its k-th persistence call, alone or all of it; told beside.

A running Postfix is traced a program at a time, on all processes of that program; each counts its own calls. What
smarthost's points of a start and of errors are has no like here: master starts the programs when they are needed.
"""

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from bench.children import Scratch
from bench.failure import RunFailed

from crash import strace
from crash.killing import Verdict
from crash.life import MAIL, RETRIED_S
from crash.mailing import Mailing
from crash.postfix import Postfix
from crash.relay import Books
from crash.strace import Point, Tracer

PROGRAMS = ("smtpd", "cleanup", "qmgr", "smtp", "bounce")
CALLS = (*strace.CALLS, "fchmod", "link", "utime", "utimensat")
PATIENCE_S = 90.0  # a program that was killed may be held back for a while
MAIN_CF = "service_throttle_time = 1s\n"
NAMES = re.compile(r'"((?:incoming|active|deferred|defer|bounce|trace|maildrop)/[^"]*)"')  # it works in its queue
_WARM_UP = (("ok", "later", "no"), 2_000)  # has every program started


class PostfixLife(Mailing):
    """A Postfix whose programs all run, its state directory and its mail."""

    def __init__(self, scratch: Scratch, books: Books, name: str, seed: int) -> None:
        super().__init__(scratch, books, name, seed)
        self.postfix = Postfix(scratch, self.home / "state", books.sink_port, main_cf=MAIN_CF)

    def begin(self) -> None:
        """Start, and have each program started. Raises: RunFailed: one does not come."""
        self.postfix.start()
        self._send(*_WARM_UP)
        self._await_arrivals(PATIENCE_S)
        missing = [program for program in PROGRAMS if not self.pids_of(program)]
        if missing:
            raise RunFailed(f"Postfix does not run {', '.join(missing)}")

    def pids_of(self, program: str) -> list[int]:
        """Give the processes of a program."""
        return [each.pid for each in self.postfix.family() if _name_of(each) == program]

    def work(self, is_over: Callable[[], bool]) -> None:
        """Send the mail, await retries; ends early if it is over."""
        for kinds, octets in MAIL:
            wanted = tuple(kind for kind in kinds if kind != "never")  # nobody cancels here
            if wanted and not is_over():
                self._send(wanted, octets)
        self.await_(lambda: is_over() or not self.compare().lost, RETRIED_S)

    def _send(self, kinds: tuple[str, ...], octets: int) -> None:
        self.send_to(self.postfix.port, kinds, octets)

    def _await_arrivals(self, patience_s: float) -> None:
        self.await_(lambda: not self.compare().lost, patience_s)

    def finish(self) -> None:
        """Drain and judge."""
        self._await_arrivals(PATIENCE_S)
        left = self.postfix.await_empty(PATIENCE_S)
        if left:
            self.wrong.append(f"{left} queue files are left")
        self.judge(self.compare())

    def end(self) -> None:
        """Kill it."""
        self.postfix.kill()


def _name_of(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def list_points(scratch: Scratch, books: Books) -> list[Point]:
    """Live one life without trouble; give the calls of each program. Raises: RunFailed: it did not start."""
    life = PostfixLife(scratch, books, "listpt", 1)
    tracers: list[tuple[str, Tracer]] = []
    try:
        life.begin()
        for program in PROGRAMS:
            for pid in life.pids_of(program):
                tracers.append((program, Tracer([pid], scratch.path / f"list-{program}-{pid}.strace", CALLS)))
        life.work(lambda: False)
        found: dict[str, Point] = {}
        for program, tracer in tracers:
            tracer.detach()
            seen = strace.read_trace(tracer.log, life.postfix.state, NAMES)
            found.update({str(point): point for point in strace.points_of_thread(seen, "work", program)})
        return list(found.values())
    finally:
        _end(life, tracers)


def kill_at(scratch: Scratch, books: Books, name: str, point: Point, end: str, seed: int, log: Path) -> Verdict:
    """Live one life and kill the program at the point. Raises: RunFailed: it did not start without trouble."""
    life = PostfixLife(scratch, books, name, seed)
    is_killed, is_done = threading.Event(), threading.Event()
    tracers: list[tuple[str, Tracer]] = []

    def watch() -> None:
        while not is_done.is_set():
            if strace.was_killed(log):
                life.crashes.append(time.time())
                if end == "whole":
                    life.postfix.kill()
                is_killed.set()
                return
            time.sleep(0.001)

    watcher = threading.Thread(target=watch, daemon=True)
    try:
        life.begin()
        inject = f"{point.call}:signal=SIGKILL:when={point.k}"
        tracers.append((point.thread, Tracer(life.pids_of(point.thread), log, [point.call], inject)))
        watcher.start()
        life.work(lambda: is_killed.is_set() and end == "whole")
        is_done.set()
        watcher.join()
        tracers[0][1].detach()
        if is_killed.is_set() and end == "whole":
            life.postfix.start()
        life.finish()
        found = life.compare()
        return Verdict(
            wrong=tuple(life.wrong),
            died=point.thread if is_killed.is_set() else "",
            acknowledged=found.acknowledged,
            duplicates=found.duplicates,
            codes=tuple(life.codes),
        )
    finally:
        is_done.set()
        _end(life, tracers)


def _end(life: PostfixLife, tracers: list[tuple[str, Tracer]]) -> None:
    for _, tracer in tracers:
        tracer.detach()
    life.close()
