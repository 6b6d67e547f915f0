# SPDX-License-Identifier: MIT
"""Crash suite 2: kills, fails and delays every k-th persistence call of a life of the relay, one life for each.

First the calls of a life are listed (crash.strace), then each is a point at which another life is ended, or hurt. The
short form takes some, evenly spread; the long form all, in an order of its own, until its time is up. What a life must
come to is in crash.life, what an error may do in crash.faults. `python -m crash.calls POINT` repeats one life, with the
words that a failure prints: kill:whole:work:store:pwrite64::17.
"""

import os
import queue
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path

from bench.children import Scratch
from bench.ending import measure_in_scratch
from bench.failure import RunFailed
from bench.programs import find_program

from crash import beside, faults
from crash.figures import Figure
from crash.killing import ENDS, Verdict, kill_at, list_points
from crash.life import PHASES
from crash.options import Options
from crash.postfix import missing_for_postfix
from crash.relay import Books
from crash.strace import Point, to_point

QUICK = {"kill": 14, "postfix": 3, "eio": 4, "enospc": 3, "slow": 1}  # lives; 60 s on two busy cores
QUICK_S = {"kill": 18.0, "postfix": 5.0, "eio": 7.0, "enospc": 5.0, "slow": 5.0}  # no life is begun later
LONG_S = {"kill": 3600.0, "postfix": 1800.0, "eio": 3600.0, "enospc": 2700.0, "slow": 120.0}
# No life is like another, so some have fewer calls than the one that was listed, one in ten here; most must have them.
LIVES_JUDGED = 10
MISSED_MOST = 0.5

Live = Callable[[Books, str], Verdict]


def missing(options: Options) -> list[str]:
    """Say what is needed and not there."""
    lines = [] if find_program("strace") else ["strace is not installed: run tools/system-packages"]
    return lines + (missing_for_postfix() if options.with_postfix else [])


def spread(points: Sequence[str], n: int, seed: int) -> list[str]:
    """Give `n` of the points, evenly, beginning somewhere; all of them if there are no more. The order is kept."""
    if n >= len(points):
        return list(points)
    start = random.Random(seed).random()
    return [points[int((start + each) * len(points) / n) % len(points)] for each in range(n)]


class Lanes:
    """Some lives at a time, each lane with a sink of its own. `close` ends what was started."""

    def __init__(self, scratch: Scratch, seed: int) -> None:
        self.scratch = scratch
        self.seed = seed
        self._books: queue.SimpleQueue[Books] = queue.SimpleQueue()
        self.width = (os.cpu_count() or 2) + 2  # they wait more than they work
        for number in range(self.width):
            self._books.put(Books(scratch, f"lane-{number}"))
        self._pool = ThreadPoolExecutor(self.width)
        self._is_closing = threading.Event()
        self._lives = count()

    def list_calls(self) -> tuple[list[Point], list[Point]]:
        """List the calls of all phases: killing.list_points. Raises: RunFailed: a life without trouble had some."""

        def one(phase: str) -> tuple[list[Point], list[Point]]:
            books = self._books.get()
            try:
                return list_points(self.scratch, books, phase)
            finally:
                self._books.put(books)

        listed = list(self._pool.map(one, PHASES))
        return [point for found, _ in listed for point in found], [point for _, found in listed for point in found]

    def list_calls_of_postfix(self) -> list[Point]:
        """List the calls of Postfix's programs: beside.list_points. Raises: RunFailed."""
        books = self._books.get()
        try:
            return beside.list_points(self.scratch, books)
        finally:
            self._books.put(books)

    def live(self, words: Sequence[str], stop_at: float) -> Iterator[tuple[str, Verdict]]:
        """Live a life for each; give what became of it, in any order. Those not begun at `stop_at` are left out."""
        done: queue.SimpleQueue[tuple[str, Verdict] | None] = queue.SimpleQueue()

        def one(text: str) -> None:
            if self._is_closing.is_set() or time.monotonic() > stop_at:
                done.put(None)
                return
            books = self._books.get()
            name = f"v{next(self._lives):x}t"
            try:
                done.put((text, live(self.scratch, books, name, text, self.seed)))
            except Exception as error:  # noqa: BLE001 - a life that could not be lived is a failure with this reason
                done.put((text, Verdict(wrong=(f"{type(error).__name__}: {error}",))))
            finally:
                self._books.put(books)

        for text in words:
            self._pool.submit(one, text)
        for _ in words:
            found = done.get()
            if found is not None:
                yield found

    def close(self) -> None:
        """Begin no further life and end those that go on."""
        self._is_closing.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.scratch.kill_children()
        self._pool.shutdown(wait=True)


def live(scratch: Scratch, books: Books, name: str, text: str, seed: int) -> Verdict:
    """Live the life that the words name. Raises: RunFailed: it could not begin. ValueError: what words are these?"""
    log = scratch.path / f"{name}.strace"
    what, _, rest = text.partition(":")
    if what == "kill":
        end, _, point = rest.partition(":")
        return kill_at(scratch, books, name, to_point(point), end, seed, log)
    if what == "postfix":
        end, _, point = rest.partition(":")
        return beside.kill_at(scratch, books, name, to_point(point), end, seed, log)
    if what in ("EIO", "ENOSPC"):
        way, _, point = rest.partition(":")
        return faults.fail_at(scratch, books, name, to_point(point), what, way, seed, log)
    if what == "slow":
        return faults.slow_disk(scratch, books, name, float(rest), seed, log)
    if what == "log":
        return faults.deaf_log(scratch, books, name, rest, seed, log)
    raise ValueError(f"{text}: begins with none of kill, postfix, EIO, ENOSPC, slow, log")


def _plan(kills: Sequence[Point], errors: Sequence[Point], options: Options) -> dict[str, list[str]]:
    """Say which lives each experiment has, all of them."""
    failing = [point for point in errors if faults.can_fail(point)]
    # An error that lasts is told apart only while the relay works: a start that fails, fails either way.
    ways = {point: faults.WAYS if point.phase == "work" else faults.WAYS[:1] for point in failing}
    return {
        "kill": [f"kill:{end}:{point}" for point in kills for end in ENDS],
        "eio": [*(f"EIO:{way}:{point}" for point in failing for way in ways[point]), "log:EIO"],
        "enospc": [*(f"ENOSPC:{way}:{point}" for point in failing for way in ways[point]), "log:ENOSPC"],
        "slow": ["slow:1", "slow:3"] if options.is_quick else ["slow:1", "slow:3", "slow:12"],
    }


def _choose(what: str, plan: Sequence[str], options: Options) -> list[str]:
    """Take what the form has time for, in the order in which it is lived."""
    quick = options.rounds if options.rounds is not None else QUICK[what]
    if options.is_quick or options.rounds is not None:
        return spread(plan, quick, options.seed)
    shuffled = list(plan)
    random.Random(options.seed).shuffle(shuffled)  # so that time that runs out leaves no part of a life untried
    return shuffled


def _figure(
    what: str, lanes: Lanes, plan: Sequence[str], options: Options, counts: dict[str, int], system: str = "smarthost"
) -> Figure:
    began = time.monotonic()
    chosen = _choose(what, plan, options)
    verdicts: list[Verdict] = []
    failed: list[str] = []
    for text, verdict in lanes.live(chosen, began + (QUICK_S if options.is_quick else LONG_S)[what]):
        verdicts.append(verdict)
        print(f"calls: {text}: {'; '.join(verdict.wrong) or 'well'}", file=sys.stderr, flush=True)
        if verdict.wrong:
            line = f"python -m crash.calls --seed {options.seed} {text}"
            failed.append(f"{line}: {'; '.join(verdict.wrong)}")
            print(f"FAILED: {failed[-1]}", file=sys.stderr, flush=True)
    missed = sum(not verdict.died for verdict in verdicts)
    if len(verdicts) >= LIVES_JUDGED and missed > MISSED_MOST * len(verdicts):
        failed.append(f"{missed} of {len(verdicts)} points were not reached: this proves nothing")
    facts: dict[str, int | float | str] = {
        "points": len(plan),
        "chosen": len(chosen),
        "acknowledged": sum(verdict.acknowledged for verdict in verdicts),
        "duplicates_in_window": sum(verdict.duplicates for verdict in verdicts),
        "not_reached": missed,
        **{f"{who}_died": n for who, n in sorted(Counter(verdict.died for verdict in verdicts).items()) if who},
        **{f"heard {code}": n for code, n in sorted(faults.replies_of(verdicts).items())},
        **counts,
    }
    return Figure(
        suite="calls",
        what="kill" if what == "postfix" else what,
        system=system,
        n=len(verdicts),
        failures=len(failed),
        seconds=round(time.monotonic() - began, 1),
        seed=options.seed,
        facts=facts,
        why=failed[0] if failed else "" if verdicts else "no life was lived",
    )


def _counts(points: Sequence[Point]) -> dict[str, int]:
    """Count the calls of a life by phase, thread and name."""
    found = Counter(":".join(filter(None, (point.phase, point.thread, point.call))) for point in points)
    return dict(sorted(found.items()))


def run(scratch: Scratch, options: Options) -> Iterator[Figure]:
    """Run the experiments. Raises: RunFailed: a life of smarthost without any trouble could not be listed."""
    lanes = Lanes(scratch, options.seed)
    try:
        kills, errors = lanes.list_calls()
        plan = _plan(kills, errors, options)
        for what, lives in plan.items():
            yield _figure(what, lanes, lives, options, _counts(kills) if what == "kill" else {})
        if options.with_postfix:
            yield _beside(lanes, options)
    finally:
        lanes.close()


def _beside(lanes: Lanes, options: Options) -> Figure:
    try:
        points = lanes.list_calls_of_postfix()
    except RunFailed as failed:
        why = str(failed)
        return Figure(
            suite="calls", what="kill", system="postfix", n=0, failures=0, seconds=0.0, seed=options.seed, why=why
        )  # fmt: skip
    plan = [f"postfix:{end}:{point}" for point in points for end in ENDS]
    return _figure("postfix", lanes, plan, options, _counts(points), "postfix")


def _repeat(seed: int, words: Sequence[str], scratch: Scratch) -> int:
    books = Books(scratch, "lane-0")
    failures = 0
    for number, text in enumerate(words):
        verdict = live(scratch, books, f"v{number:x}t", text, seed)
        print(f"{text}: {'; '.join(verdict.wrong) or 'well'} {verdict}", flush=True)
        failures += bool(verdict.wrong)
    books.close()
    return 1 if failures else 0


def main(argv: Sequence[str]) -> int:
    """Repeat the lives that the words name, `--seed N` before them."""
    seed, words = (int(argv[1]), argv[2:]) if argv[:1] == ["--seed"] else (1, argv)
    if not words:
        print(f"usage: python -m crash.calls [--seed N] POINT...\n{__doc__}", file=sys.stderr)
        return 64
    return measure_in_scratch(Path("/var/tmp"), partial(_repeat, seed, words))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ValueError, RunFailed) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        sys.exit(64)
