# SPDX-License-Identifier: MIT
"""Crash suite 3: the power goes, on ext4 and on XFS; whatever smarthost said 250 to arrives afterwards all the same.

The file system's own shutdown ioctl drops everything that no sync made durable, names included. Series of cuts on one
image, each beginning empty, each compared in full. `-without-sync` is the negative control: the same with syncs that do
nothing, which must lose mail, or the rest proves nothing. Postfix goes through the same and is only told beside.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from bench.children import Scratch
from bench.failure import RunFailed
from bench.programs import find_program

from crash.cuts import DRAIN_S, Moment, Result, Series, System
from crash.figures import Figure
from crash.image import KINDS, NO_LOG_FLUSH, missing_for_images, private_mounts
from crash.options import Options
from crash.postfix import Postfix, missing_for_postfix
from crash.relay import Relay, await_drained

ROUNDS_QUICK, ROUNDS_LONG = 3, 50
POSTFIX_QUICK = 2
CONTROLS_QUICK, CONTROLS_LONG = 3, 5
# Each begins on an empty image, so that the first start ever, and the first 250 ever, have their turns too.
SERIES = (
    (Moment.FIRST, Moment.START, Moment.COPY, Moment.GAP, Moment.LOAD),
    (Moment.START, Moment.FIRST, Moment.START, Moment.LOAD, Moment.COPY),
)
BURST = 200  # acknowledgements before the cut of a control
# strace skips the calls and says they succeeded; nothing else is touched, and no compiler or library is needed.
SYNCS = "fsync,fdatasync,sync_file_range,msync,sync,syncfs"
WITHOUT_SYNC = (
    "strace",
    "-f",
    "-qq",
    "--seccomp-bpf",
    "-o",
    "/dev/null",
    f"--trace={SYNCS}",
    f"--inject={SYNCS}:retval=0",
)


def missing(options: Options) -> list[str]:
    """Say in one line each what it needs and does not find."""
    lines = missing_for_images(options.scratch)
    if find_program("strace") is None:
        lines.append("strace is not installed: run tools/system-packages")
    return lines + (missing_for_postfix() if options.with_postfix else [])


def run(scratch: Scratch, options: Options) -> Iterator[Figure]:
    """Cut the power, on both file systems; then without syncs; then under Postfix."""
    for kind in KINDS:
        rounds = options.rounds_of(ROUNDS_QUICK, ROUNDS_LONG)
        yield cut_rounds(scratch, options, kind, rounds, "smarthost", partial(Relay, scratch))
    for kind in KINDS:
        yield control(scratch, options, kind)
    for kind in KINDS if options.with_postfix else ():
        rounds = options.rounds_of(POSTFIX_QUICK, ROUNDS_LONG)
        yield cut_rounds(scratch, options, kind, rounds, "postfix", partial(Postfix, scratch))


def cut_rounds(
    scratch: Scratch, options: Options, kind: str, rounds: int, system: str, make: Callable[[Path, int], System]
) -> Figure:
    """Cut `rounds` times, and compare after each series; ends with smarthost's first series that is no success."""
    began = time.monotonic()
    results: list[Result] = []
    failures, why = 0, ""
    while (left := rounds - sum(len(result.cuts) for result in results)) > 0:
        number = len(results)
        moments = SERIES[number % len(SERIES)][:left]
        with private_mounts():
            result = _cut_series(scratch, f"{system}-{kind}-{number}", kind, options.seed + number, moments, make)
        results.append(result)
        failures += result.failures
        if failures and not why:
            why = f"series {number}: {_first_failure(result)}"
        if result.is_cut_short or (failures and system == "smarthost"):
            break
    return Figure(
        suite="power",
        what=kind,
        system=system,
        n=sum(len(result.cuts) for result in results),
        failures=failures,
        seconds=round(time.monotonic() - began, 1),
        seed=options.seed,
        facts=_sum_up(results),
        why=why,
    )


def _cut_series(
    scratch: Scratch, name: str, kind: str, seed: int, moments: tuple[Moment, ...], make: Callable[[Path, int], System]
) -> Result:
    series = Series(scratch, name, kind, seed, make)
    cut_short, still_queued = "", 0
    try:
        series.load()
        for moment in moments:
            series.cut(moment)
        series.start()
        series.end_loads()
        found = await_drained(series.books, DRAIN_S)
        if found.lost:
            series.tell(found)
            still_queued = _count_queued(series.system)
    except RunFailed as error:
        cut_short = str(error)
        found = series.books.compare()
    result = series.result(found, cut_short, still_queued)
    series.close()
    return result


def _count_queued(system: System) -> int:
    return (
        system.left_over() if isinstance(system, Postfix) else len(system.queued()) if isinstance(system, Relay) else 0
    )


def control(scratch: Scratch, options: Options, kind: str) -> Figure:
    """Cut the power with syncs that do nothing; a failure if that never loses anything."""
    began = time.monotonic()
    results: list[Result] = []
    for number in range(options.rounds_of(CONTROLS_QUICK, CONTROLS_LONG)):
        with private_mounts():
            results.append(_cut_without_sync(scratch, f"unsynced-{kind}-{number}", kind, options.seed + number))
        if options.is_quick and results[-1].found.lost:
            break
    losing = sum(1 for result in results if result.found.lost)
    return Figure(
        suite="power",
        what=f"{kind}-without-sync",
        n=len(results),
        failures=0 if losing else 1,
        seconds=round(time.monotonic() - began, 1),
        seed=options.seed,
        facts={"rounds_with_losses": losing, **_sum_up(results)},
        why="losses were found, as they must be: the suite can see them"
        if losing
        else "nothing was lost without syncs: the suite would not see a loss, and proves nothing",
    )


def _cut_without_sync(scratch: Scratch, name: str, kind: str, seed: int) -> Result:
    relays: list[Relay] = []

    def make(state: Path, sink_port: int) -> Relay:
        relays.append(Relay(scratch, state, sink_port, wrapper=WITHOUT_SYNC))
        return relays[0]

    series = Series(scratch, name, kind, seed, make)
    (relay,) = relays
    series.start()
    series.load()
    series.await_acknowledged(BURST)
    series.cut(Moment.LOAD, flag=NO_LOG_FLUSH)
    series.end_loads()
    relay.wrapper = ()
    with suppress(RunFailed):  # what is left may not even open: then all that had not arrived is lost
        series.start()
        await_drained(series.books, DRAIN_S, is_alive=lambda: _has_work(relay))
    result = series.result(series.books.compare())
    series.close()
    return result


def _has_work(relay: Relay) -> bool:
    """Is anything queued, now and a second later? A report that is owed is not a message yet."""
    if relay.queued():
        return True
    time.sleep(1.0)
    return bool(relay.queued())


def _first_failure(result: Result) -> str:
    if result.is_cut_short:
        return result.trouble
    found = result.found
    for what, names in (
        ("lost", found.lost),
        ("altered", found.altered),
        ("never sent, but arrived", found.foreign),
        ("reported more than once", found.doubled_reports),
    ):
        if names:
            queued = f" ({result.still_queued} messages are still queued)" if what == "lost" else ""
            return f"{len(names)} {what}, {names[0]} first{queued}"
    return result.trouble


def _sum_up(results: list[Result]) -> dict[str, int | float | str]:
    found = [result.found for result in results]
    return {
        "acknowledged": sum(each.acknowledged for each in found),
        "recipients": sum(each.recipients for each in found),
        "lost": sum(len(result.found.lost) for result in results if not result.is_cut_short),
        "still_queued": sum(result.still_queued for result in results),
        "altered": sum(len(each.altered) for each in found),
        "duplicates": sum(each.duplicates for each in found),
        "most_duplicates_after_a_cut": max((result.most_duplicates for result in results), default=0),
        "reports": sum(each.reports for each in found),
        "doubled_reports": sum(len(each.doubled_reports) for each in found),
        "acknowledged_after_a_cut": sum(result.acknowledged_after for result in results),
    }
