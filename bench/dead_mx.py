# SPDX-License-Identifier: MIT
"""`make bench-dead-mx`: what dead mail exchangers cost smarthost, with Postfix beside it.

Runs in a network namespace of its own (dead_network.py), leaves only a JSON. Exit codes: 0 all well; 1 a run failed or
the gate was missed; 64 a bad command line; 69 a program is missing or namespaces are not permitted; 130 interrupted.
"""

import sys
from collections.abc import Sequence
from functools import partial

from bench.children import Scratch
from bench.dead_figures import DeadReport, DeadRun
from bench.dead_network import furnish, start_anew_inside, why_no_namespaces
from bench.dead_options import LEARNING_S, DeadOptions, read_dead_options
from bench.dead_report import show_dead_report, show_dead_run
from bench.dead_run import DeadBench
from bench.dead_scenarios import with_references
from bench.dead_summary import find_dead_failures, judge_dead, summarize_dead_runs
from bench.dead_world import StartByMx, smarthost_by_mx, start_postfix_by_mx
from bench.ending import measure_in_scratch
from bench.programs import missing_programs
from bench.report import write_report
from bench.surroundings import look_around, warnings

_OVERHEAD_S = 2.5  # of a run: starting, killing, removing a backlog


def _say(line: str) -> None:
    print(line, flush=True)


def _starters(options: DeadOptions) -> dict[str, StartByMx]:
    every: dict[str, StartByMx] = {
        "smarthost": smarthost_by_mx(options.smarthost, options.smarthost_args),
        "postfix": start_postfix_by_mx,
    }
    return {name: every[name] for name in options.systems}


def _run_rounds(bench: DeadBench, options: DeadOptions) -> tuple[DeadRun, ...]:
    """Interleave, every other round backwards: what disturbs the box for a while disturbs all alike."""
    starters = _starters(options)
    order = [(scenario, name) for scenario in with_references(options.ways) for name in starters]
    minutes = len(order) * options.rounds * (LEARNING_S + options.window_s + _OVERHEAD_S) / 60
    _say(f"{len(order)} runs in each of {options.rounds} rounds: about {minutes:.0f} minutes")
    runs: list[DeadRun] = []
    for round_ in range(1, options.rounds + 1):
        for scenario, name in order if round_ % 2 else reversed(order):
            runs.append(bench.run(name, starters[name], scenario, round_))
            _say(show_dead_run(runs[-1]))
    return tuple(runs)


def _measure(options: DeadOptions, scratch: Scratch) -> int:
    furnish(options.outside, scratch.path)
    found = look_around(scratch.path)
    for line in warnings(found):
        _say(f"WARNING: {line}")
    bench = DeadBench(scratch, options)
    ceiling_rate = bench.ceiling()
    runs = _run_rounds(bench, options)
    summaries = summarize_dead_runs(runs)
    report = DeadReport(
        surroundings=found,
        learning_s=LEARNING_S,
        window_s=options.window_s,
        octets=options.octets,
        sessions=options.sessions,
        ceiling_rate=ceiling_rate,
        summaries=summaries,
        runs=runs,
        verdicts=(
            *find_dead_failures(runs, is_compared=options.gate),
            *(judge_dead(summaries) if options.gate else ()),
        ),
    )
    path = options.out / f"dead-mx-{found.at.replace(':', '').replace('-', '')}.json"
    write_report(report, path)
    _say("\n" + show_dead_report(report))
    _say(f"wrote {path}")
    return 0 if all(verdict.passed for verdict in report.verdicts) else 1


def _cannot_run(options: DeadOptions) -> list[str]:
    missing = missing_programs(options.plain())
    why = None if options.outside else why_no_namespaces()
    return missing if why is None else [*missing, why]


def main(argv: Sequence[str]) -> int:
    """Run the benchmark and give the exit code."""
    options = read_dead_options(argv)
    missing = _cannot_run(options)
    if missing:
        print("\n".join(f"CANNOT RUN: {line}" for line in missing), file=sys.stderr)
        return 69
    if not options.outside:
        start_anew_inside("bench.dead_mx", argv)
    return measure_in_scratch(options.scratch, partial(_measure, options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
