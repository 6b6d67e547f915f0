# SPDX-License-Identifier: MIT
"""From runs to medians, ratios and verdicts; pure."""

from collections.abc import Callable, Sequence

from bench.figures import Run, Storm, Summary, Verdict
from bench.modes import MODES
from bench.statistic import median, paired_ratios

POSTFIX = "postfix"
MOST_MIB = 120.0  # peak memory of the process tree


def _rates(runs: Sequence[Run], system: str, mode: str) -> dict[int, float]:
    chosen = (run for run in runs if run.system == system and run.mode == mode and run.failed is None)
    return {run.round: run.end_to_end_rate for run in chosen if run.end_to_end_rate is not None}


def summarize_runs(runs: Sequence[Run]) -> tuple[Summary, ...]:
    """Sum up each system and mode, in the order in which they first ran, modes together."""
    keys = sorted({(run.mode, run.system) for run in runs}, key=lambda key: _first(runs, key))
    return tuple(_summarize(runs, system, mode) for mode, system in keys)


def _first(runs: Sequence[Run], key: tuple[str, str]) -> tuple[int, int]:
    modes = [run.mode for run in runs]
    return modes.index(key[0]), [(run.mode, run.system) for run in runs].index(key)


def _summarize(runs: Sequence[Run], system: str, mode: str) -> Summary:
    good = [run for run in runs if (run.system, run.mode) == (system, mode) and run.failed is None]

    def mid(figure: Callable[[Run], float | None]) -> float | None:
        return median(map(figure, good))

    ours = _rates(runs, system, mode)
    return Summary(
        system=system,
        mode=mode,
        rounds=len(good),
        accept_rate=mid(lambda run: run.accept_rate),
        end_to_end_rate=mid(lambda run: run.end_to_end_rate),
        idle_p50_us=mid(lambda run: run.idle.p50_us if run.idle else None),
        idle_p99_us=mid(lambda run: run.idle.p99_us if run.idle else None),
        saturated_p50_us=mid(lambda run: run.saturated.p50_us if run.saturated else None),
        saturated_p99_us=mid(lambda run: run.saturated.p99_us if run.saturated else None),
        peak_rss_mib=max((run.memory.rss_mib for run in good if run.memory), default=None),
        peak_pss_mib=max((run.memory.pss_mib for run in good if run.memory), default=None),
        cpu_us_per_message=mid(lambda run: run.cpu_us_per_message),
        to_postfix=None if system == POSTFIX else median(paired_ratios(ours, _rates(runs, POSTFIX, mode))),
        to_ceiling=None if system == "ceiling" else median(paired_ratios(ours, _rates(runs, "ceiling", mode))),
    )


def find_failures(
    runs: Sequence[Run], audits: Sequence[str] = (), storms: Sequence[Storm] = (), *, is_compared: bool = True
) -> tuple[Verdict, ...]:
    """One verdict per run or audit that failed, or a single good one.

    Postfix's failures count where it is compared with, and its storms never: to succumb to one is what was measured.
    """
    failed = [f"{run.system}, {run.mode}, round {run.round}: {run.failed}" for run in runs if run.failed]
    failed += [audit for audit in audits if ": FAILED: " in audit]
    if not is_compared:
        failed = [what for what in failed if not what.startswith(POSTFIX)]
    failed += [f"{s.system}, storm, round {s.round}: {s.failed}" for s in storms if s.failed and s.system != POSTFIX]
    if failed:
        return tuple(Verdict(what=text, passed=False) for text in failed)
    good = sum(not run.failed for run in runs) + sum(not storm.failed for storm in storms)
    return (Verdict(what=f"the sink had every message exactly once in {good} runs", passed=True),)


def judge(summaries: Sequence[Summary]) -> tuple[Verdict, ...]:
    """Hold smarthost's figures against the gate; what was not measured is not judged."""
    verdicts: list[Verdict] = []
    for summary in summaries:
        if summary.system != "smarthost":
            continue
        least = MODES[summary.mode].least_ratio
        if summary.to_postfix is not None and least is not None:
            text = f"{summary.mode}: {summary.to_postfix:.2f} times Postfix (at least {least})"
            verdicts.append(Verdict(what=text, passed=summary.to_postfix >= least))
        if summary.peak_rss_mib is not None and not MODES[summary.mode].auth:  # argon2 takes 64 MiB for each log-in
            text = f"{summary.mode}: peak memory {summary.peak_rss_mib:.1f} MiB (below {MOST_MIB:.0f})"
            verdicts.append(Verdict(what=text, passed=summary.peak_rss_mib < MOST_MIB))
    return tuple(verdicts)
