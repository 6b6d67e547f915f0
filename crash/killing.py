# SPDX-License-Identifier: MIT
"""One life that is ended at one call: SIGKILL before it is done, then a start without any trouble, then the judgement.

Two ends: `alone`, only the process that makes the call dies (the daemon, or the store's); `whole`, all of the relay, as
in a power cut. Decides what a life does before the call, by its phase; crash.life judges.
"""

import signal
from collections.abc import Callable
from pathlib import Path

from bench.children import Scratch
from msgspec import Struct

from crash import strace
from crash.life import DRAINED_S, KILL_TOLD_S, Life, Watch
from crash.relay import Books
from crash.strace import Point, Tracer

ENDS = ("alone", "whole")
TROUBLE = "store in trouble"  # what the log says of it
TROUBLES = 12  # lines of that about one error; more would be a loop
_LOOP_S = 3.0
_RETRY = (("ok", "later", "no"), 3_000)  # what waits when it is started again


class Verdict(Struct, frozen=True, kw_only=True):
    """What a life came to. `died`: daemon, store, or "": the call did not come. `duplicates`: all within the window."""

    wrong: tuple[str, ...]
    died: str = ""
    acknowledged: int = 0
    duplicates: int = 0
    codes: tuple[str, ...] = ()


def prepare(life: Life, phase: str) -> None:
    """Live until the phase begins, without trouble; the relay does not run then, unless the phase is "work"."""
    if phase == "start":
        return
    life.relay.start()
    if phase == "work":
        return
    life.send(*_RETRY)
    life.send(("later",), 200_000)
    if phase == "again":
        life.stop()
        return
    life.kill()
    (life.relay.state / "content" / "9.draft").write_bytes(b"half of a message")


def go_on(life: Life, phase: str, is_over: Callable[[], bool]) -> None:
    """Live from the beginning of the phase until it is time to stop."""
    if phase in ("start", "work"):
        life.work(is_over)
    else:
        life.send(("ok",), 2_000)
        life.await_(lambda: is_over() or not life.compare().lost, 5.0)


def kill_at(scratch: Scratch, books: Books, name: str, point: Point, end: str, seed: int, log: Path) -> Verdict:
    """Live one life and end it at the point. Raises: RunFailed: it did not start without trouble."""
    life = Life(scratch, books, name, seed)
    tracer: Tracer | None = None
    inject = f"signal=SIGKILL:when={point.k}"
    try:
        prepare(life, point.phase)
        relay = life.relay
        if point.phase == "work":
            ids = [strace.find_threads(relay.pid)[point.thread]]
            tracer = Tracer(ids, log, [point.call], f"{point.call}:{inject}")
        else:
            relay.wrapper = tuple(strace.wrapper(log, point, inject, relay.state))
            relay.start(is_awaited=False)
        watch = Watch(relay, is_whole=end == "whole", is_killed=lambda: strace.was_killed(log))

        def is_over() -> bool:
            return watch.who == "daemon" or (watch.who != "" and (end == "whole" or point.phase != "work"))

        try:
            if point.phase == "work" or life.is_greeting(is_over):
                go_on(life, point.phase, is_over)
            watch.expect_end()
            if not is_over():
                code = relay.stop(DRAINED_S + 5)
                if code == -signal.SIGKILL:  # the point was in the end itself
                    life.await_(lambda: watch.who != "", KILL_TOLD_S)
                if watch.who == "" and code != 0:
                    life.wrong.append(f"SIGTERM ended it with {code}: {relay.complaint()}")
            elif watch.who == "store" and end == "alone":
                # strace does the same to each store's process that follows: the daemon may end, or begin more seldom.
                life.await_(lambda: relay.exit_code is not None, _LOOP_S)
                if relay.exit_code is None and len(relay.lines(TROUBLE)) > TROUBLES:
                    life.wrong.append(f"the store's process is started again and again: {relay.complaint()}")
                relay.kill()
            elif not life.await_(lambda: relay.exit_code is not None, DRAINED_S):
                life.wrong.append(f"it neither served nor ended within {DRAINED_S:.0f} s")
                relay.kill()
        finally:
            watch.end()
        if watch.who:
            life.crashes.append(watch.died_at)
        if tracer is not None:
            tracer.detach()
        found = life.finish()
        return Verdict(
            wrong=tuple(life.wrong),
            died=watch.who,
            acknowledged=found.acknowledged,
            duplicates=found.duplicates,
            codes=tuple(life.codes),
        )
    finally:
        if tracer is not None:
            tracer.detach()
        life.close()


def list_points(scratch: Scratch, books: Books, phase: str) -> tuple[list[Point], list[Point]]:
    """Live one life without trouble; give all calls of a phase, and those on files, counted for each file.

    Raises: RunFailed: it did not start.
    """
    life = Life(scratch, books, f"list{phase[0]}t", 1)
    tracers: dict[str, Tracer] = {}
    try:
        prepare(life, phase)
        relay = life.relay
        if phase != "work":
            log = scratch.path / f"list-{phase}.strace"
            relay.wrapper = tuple(strace.wrapper(log, None, "", relay.state))
            relay.start()
            found = strace.points_of_start(strace.read_trace(log, relay.state), phase)
            return found, [point for point in found if point.file]
        for thread, id_ in strace.find_threads(relay.pid).items():
            tracers[thread] = Tracer([id_], scratch.path / f"list-{thread}.strace", strace.CALLS)
        life.work(lambda: False)
        life.stop()
        found, on_files = [], []
        for thread, tracer in tracers.items():
            tracer.detach()
            seen = strace.read_trace(tracer.log, relay.state)
            found += strace.points_of_thread(seen, phase, thread)
            on_files += strace.points_of_files(seen, phase, thread)
        return found, on_files
    finally:
        for tracer in tracers.values():
            tracer.detach()
        life.close()
