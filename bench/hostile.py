# SPDX-License-Identifier: MIT
"""`make bench-hostile`: good mail beside every hostile host at once, and beside every attack by clients at once.

All on loopback, at addresses below 127.0.0.0/8; leaves only a JSON. Exit codes: 0 all well; 1 a run failed or the gate
was missed; 64 a bad command line; 69 a program is missing; 130 interrupted.
"""

import sys
from collections.abc import Sequence
from functools import partial

from bench.children import Scratch
from bench.ending import measure_in_scratch
from bench.hostile_figures import (
    HOSTS,
    HostileReport,
    HostileRun,
    find_failures,
    judge,
    show_report,
    show_run,
    summarize,
)
from bench.hostile_options import LEARNING_S, HostileOptions, read_hostile_options
from bench.hostile_run import HostileBench
from bench.programs import missing_programs
from bench.report import write_report
from bench.surroundings import look_around, warnings


def _say(line: str) -> None:
    print(line, flush=True)


def _run_rounds(bench: HostileBench, options: HostileOptions) -> tuple[HostileRun, ...]:
    """Interleave, every other round backwards: what disturbs the box for a while disturbs all alike."""
    runs: list[HostileRun] = []
    for round_ in range(1, options.rounds + 1):
        for world in options.worlds if round_ % 2 else reversed(options.worlds):
            stops = options.stop and world == HOSTS and round_ == options.rounds
            runs.append(bench.run(world, round_, stops=stops))
            _say(show_run(runs[-1]))
    return tuple(runs)


def _measure(options: HostileOptions, scratch: Scratch) -> int:
    found = look_around(scratch.path)
    for line in warnings(found):
        _say(f"WARNING: {line}")
    runs = _run_rounds(HostileBench(scratch, options), options)
    summaries = summarize(runs)
    report = HostileReport(
        surroundings=found,
        learning_s=LEARNING_S,
        window_s=options.window_s,
        octets=options.octets,
        sessions=options.sessions,
        trickle=options.trickle,
        summaries=summaries,
        runs=runs,
        verdicts=(*find_failures(runs), *(judge(summaries) if options.gate else ())),
    )
    path = options.out / f"hostile-{found.at.replace(':', '').replace('-', '')}.json"
    write_report(report, path)
    _say("\n" + show_report(report))
    _say(f"wrote {path}")
    return 0 if all(verdict.passed for verdict in report.verdicts) else 1


def main(argv: Sequence[str]) -> int:
    """Run the benchmark and give the exit code."""
    options = read_hostile_options(argv)
    missing = missing_programs(options.plain())
    if missing:
        print("\n".join(f"CANNOT RUN: {line}" for line in missing), file=sys.stderr)
        return 69
    return measure_in_scratch(options.scratch, partial(_measure, options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
