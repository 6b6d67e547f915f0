# SPDX-License-Identifier: MIT
"""`make bench`: measures, shows, writes, judges, and leaves nothing behind.

Exit codes: 0 all well; 1 a message was missing or doubled, a run failed, or the gate was missed; 64 a bad command
line; 69 a program is missing; 130 interrupted.
"""

import sys
from collections.abc import Sequence
from functools import partial

from bench.audit import audit
from bench.budget import rest_of_budget, time_stages
from bench.certificate import Certificate, make_certificate
from bench.children import Scratch
from bench.ending import measure_in_scratch
from bench.figures import Report, Run, Stage, Storm, Summary, Verdict
from bench.flames import Profiler
from bench.measure import Bench
from bench.modes import MODES, Mode
from bench.options import Options, read_options
from bench.postfix import postfix_starter
from bench.programs import missing_programs
from bench.report import show_profile, show_report, show_run, show_storm, write_report
from bench.smarthost import smarthost_starter
from bench.storm import measure_storm
from bench.summary import find_failures, judge, summarize_runs
from bench.surroundings import look_around, warnings
from bench.system import StartSystem, start_ceiling


def _say(line: str) -> None:
    print(line, flush=True)


def _starters(options: Options, mode: Mode, certificate: Certificate) -> dict[str, StartSystem]:
    """Give what is measured in a mode: Postfix as Debian ships it knows no users but with further packages."""
    starters: dict[str, StartSystem] = {
        "ceiling": start_ceiling,
        "smarthost": smarthost_starter(options.smarthost, options.smarthost_args, mode, certificate),
    }
    if not mode.auth:
        starters["postfix"] = postfix_starter(certificate if mode.tls else None)
    return {name: starters[name] for name in options.systems if name in starters}


def _run_rounds(scratch: Scratch, options: Options, certificate: Certificate) -> tuple[Run, ...]:
    """Interleave: what disturbs the box for a minute disturbs all systems alike."""
    runs: list[Run] = []
    for round_ in range(1, options.rounds + 1):
        for mode in options.modes:
            for name, start in _starters(options, MODES[mode], certificate).items():
                runs.append(Bench(scratch, options, mode, certificate=certificate).run(name, start, round_))
                _say(show_run(runs[-1]))
    return tuple(runs)


def _run_storms(scratch: Scratch, options: Options, certificate: Certificate) -> tuple[Storm, ...]:
    storms: list[Storm] = []
    for round_ in range(1, options.rounds + 1) if options.storm else ():
        for name, start in _starters(options, MODES["tls-kept"], certificate).items():
            if name != "ceiling":
                storms.append(measure_storm(scratch, options, name, start, round_))
                _say(show_storm(storms[-1]))
    return tuple(storms)


def _profile(scratch: Scratch, options: Options, certificate: Certificate, stamp: str) -> list[Verdict]:
    verdicts: list[Verdict] = []
    for mode in options.modes:
        profiler = Profiler(options.out / f"profile-{stamp}-{mode}")
        start = _starters(options, MODES[mode], certificate)["smarthost"]
        try:
            run = Bench(scratch, options, mode, profiler.attach, certificate).run("smarthost", start, 0)
        finally:
            profiler.detach()
        _say(show_run(run) + "  (under py-spy, does not count)")
        for raw in profiler.files:
            _say(show_profile(raw))
        verdicts += [Verdict(what=f"profiled run, {mode}: {run.failed}", passed=False)] if run.failed else []
    return verdicts


def _bench(options: Options, scratch: Scratch) -> int:
    found = look_around(scratch.path)
    for line in warnings(found):
        _say(f"WARNING: {line}")
    certificate = make_certificate(scratch.path)
    plain = _starters(options, MODES["kept"], certificate)
    audits = tuple(audit(scratch, options, name, start) for name, start in plain.items())
    for line in audits:
        _say(line)
    runs = _run_rounds(scratch, options, certificate)
    storms = _run_storms(scratch, options, certificate)
    stamp = found.at.replace(":", "").replace("-", "")
    options.out.mkdir(parents=True, exist_ok=True)
    extra = _profile(scratch, options, certificate, stamp) if _wants_profile(options) else []
    summaries = summarize_runs(runs)
    budget = _budget(options, scratch, summaries)
    report = Report(
        surroundings=found,
        messages=options.messages,
        octets=options.octets,
        sessions=options.sessions,
        audits=audits,
        summaries=summaries,
        budget=budget,
        runs=runs,
        storms=storms,
        verdicts=(
            *find_failures(runs, audits, storms, is_compared=options.gate),
            *extra,
            *(judge(summaries) if options.gate else ()),
        ),
    )
    path = options.out / f"bench-{stamp}.json"
    write_report(report, path)
    _say("\n" + show_report(report))
    _say(f"wrote {path}")
    return 0 if all(verdict.passed for verdict in report.verdicts) else 1


def _wants_profile(options: Options) -> bool:
    return options.profile and "smarthost" in options.systems


def _budget(options: Options, scratch: Scratch, summaries: Sequence[Summary]) -> tuple[Stage, ...]:
    if not options.budget or "smarthost" not in options.systems:
        return ()
    kept = [s.cpu_us_per_message for s in summaries if (s.system, s.mode) == ("smarthost", "kept")]
    stages = time_stages(scratch.path)
    return (*stages, rest_of_budget(stages, kept[0] if kept else None))


def main(argv: Sequence[str]) -> int:
    """Run the benchmark and give the exit code."""
    options = read_options(argv)
    missing = missing_programs(options)
    if missing:
        print("\n".join(f"CANNOT RUN: {line}" for line in missing), file=sys.stderr)
        return 69
    return measure_in_scratch(options.scratch, partial(_bench, options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
