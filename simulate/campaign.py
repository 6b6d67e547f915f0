# SPDX-License-Identifier: MIT
"""Many seeds in child processes, and what came of them in words, or in one line of JSON.

The children begin with PYTHONHASHSEED=0, as whoever runs one seed does, so that a seed is the same everywhere. When the
parent is interrupted, or dies, so do they.
"""

import hashlib
import json
import multiprocessing
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext

from msgspec import Struct

from simulate.bugs import PLANTS
from simulate.run import Outcome, live


class Task(Struct, frozen=True):
    """One seed to live, and with which bug in it, "" for none."""

    seed: int
    hours: float
    plant: str = ""
    is_traced: bool = False


class Summary(Struct, frozen=True, kw_only=True):
    """What came of a campaign; the fields are those of the JSON."""

    seeds: int
    failed: tuple[int, ...]
    virtual_hours: float
    messages: int
    recipients: int
    ends: dict[str, int]
    copies: int
    excused_copies: int
    crashes: int
    stops: int
    faults: dict[str, int]
    cpu_seconds: float
    real_seconds: float
    digest: str


def run_task(task: Task) -> Outcome:
    """Live one seed in this process."""
    with PLANTS[task.plant]() if task.plant else nullcontext():
        return live(task.seed, task.hours, task.plant, is_traced=task.is_traced)


def run_all(tasks: Iterable[Task], jobs: int) -> Iterator[Outcome]:
    """Live all seeds, `jobs` at a time; gives them as they end."""
    if jobs <= 1:
        yield from map(run_task, tasks)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, _begin_child) as pool:  # which it terminates on the way out, however that is
        yield from pool.imap_unordered(run_task, tasks)


def _begin_child() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and ends us


def replay_command(outcome: Outcome) -> str:
    """Give the command that lives this seed again, with the same trace."""
    plant = f" --plant {outcome.plant}" if outcome.plant else ""
    return f"python -m simulate --seed {outcome.seed} --hours {outcome.hours:g}{plant}"


def describe(outcome: Outcome) -> str:
    """Say what came of one seed; of a failure all that is needed to look for its cause."""
    ends = ", ".join(f"{count} {kind}" for kind, count in sorted(outcome.ends.items()))
    line = (
        f"seed {outcome.seed}: {outcome.messages} messages, {outcome.recipients} recipients ({ends}),"
        f" {outcome.virtual_s / 3600:.1f} virtual hours in {outcome.cpu_s:.1f} s of CPU; sha256 {outcome.digest}"
    )
    if not outcome.invariant:
        return "\n".join([line, *outcome.trace])
    return "\n".join(
        [
            line,
            f"BROKEN: {outcome.invariant.replace('_', ' ')}",
            f"  {outcome.text}",
            f"  at {outcome.virtual_s:.3f} virtual seconds; the trace ends with",
            *(f"    {each}" for each in outcome.trace),
            f"  again: {replay_command(outcome)}",
        ]
    )


def summarize(outcomes: Iterable[Outcome], real_s: float) -> Summary:
    """Sum up a campaign; its digest is one for all traces, in the order of the seeds."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.seed)
    faults: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    for outcome in ordered:
        faults.update(outcome.faults)
        ends.update(outcome.ends)
    return Summary(
        seeds=len(ordered),
        failed=tuple([outcome.seed for outcome in ordered if outcome.invariant]),
        virtual_hours=round(sum(outcome.virtual_s for outcome in ordered) / 3600, 1),
        messages=sum(outcome.messages for outcome in ordered),
        recipients=sum(outcome.recipients for outcome in ordered),
        ends=dict(sorted(ends.items())),
        copies=sum(outcome.copies for outcome in ordered),
        excused_copies=sum(outcome.excused_copies for outcome in ordered),
        crashes=faults.pop("crashes", 0),
        stops=faults.pop("stops", 0),
        faults=dict(sorted(faults.items())),
        cpu_seconds=round(sum(outcome.cpu_s for outcome in ordered), 1),
        real_seconds=round(real_s, 1),
        digest=hashlib.sha256("".join(outcome.digest for outcome in ordered).encode()).hexdigest(),
    )


def show(summary: Summary) -> str:
    """Say it in words."""
    faults = "\n".join(f"  {count:6d} {name}" for name, count in summary.faults.items())
    failed = f"BROKEN: seeds {', '.join(map(str, summary.failed))}" if summary.failed else "no promise was broken"
    return (
        f"{summary.seeds} seeds, {summary.virtual_hours:g} virtual hours, {summary.messages} messages,"
        f" {summary.recipients} recipients, {summary.crashes} crashes, {summary.stops} stops in order\n"
        f"ends: {', '.join(f'{count} {kind}' for kind, count in summary.ends.items())};"
        f" {summary.excused_copies} of {summary.copies} copies were second ones, each in the allowed window\n"
        f"faults:\n{faults}\n{failed}; {summary.real_seconds:g} s, {summary.cpu_seconds:g} s of CPU\n"
        f"sha256 {summary.digest}"
    )


def to_line(summary: Summary) -> str:
    """Give it as one line of JSON."""
    return json.dumps({name: getattr(summary, name) for name in summary.__struct_fields__})


def run_campaign(tasks: list[Task], jobs: int, say: Callable[[str], None], *, is_quiet: bool) -> Summary:
    """Live all seeds, tell of each as it ends (only of failures, if quiet), and sum up."""
    began = time.monotonic()
    outcomes = []
    for outcome in run_all(tasks, jobs):
        outcomes.append(outcome)
        if outcome.invariant or not is_quiet:
            say(describe(outcome))
    return summarize(outcomes, time.monotonic() - began)
