# SPDX-License-Identifier: MIT
"""From runs with dead exchangers to medians, shares and verdicts; pure."""

from collections.abc import Sequence

from bench.dead_figures import DeadRun, DeadSummary
from bench.dead_scenarios import SCENARIOS
from bench.figures import Verdict
from bench.statistic import median, paired_ratios
from bench.summary import POSTFIX


def _rates(runs: Sequence[DeadRun], system: str, way: str) -> dict[int, float]:
    chosen = (run for run in runs if (run.system, run.way) == (system, way) and run.failed is None)
    return {run.round: run.rate for run in chosen if run.rate is not None}


def summarize_dead_runs(runs: Sequence[DeadRun]) -> tuple[DeadSummary, ...]:
    """Sum up each scenario and system, in the order of SCENARIOS."""
    systems = tuple(dict.fromkeys(run.system for run in runs))
    measured = {(run.way, run.system) for run in runs}
    return tuple(_summarize(runs, system, way) for way in SCENARIOS for system in systems if (way, system) in measured)


def _summarize(runs: Sequence[DeadRun], system: str, way: str) -> DeadSummary:
    good = [run for run in runs if (run.system, run.way) == (system, way) and run.failed is None]
    scenario = SCENARIOS[way]
    shares = paired_ratios(_rates(runs, system, way), _rates(runs, system, scenario.reference))
    return DeadSummary(
        system=system,
        way=way,
        rounds=len(good),
        learning_rate=median(run.learning_rate for run in good),
        rate=median(run.rate for run in good),
        share=None if scenario.is_reference else median(shares),
    )


def judge_dead(summaries: Sequence[DeadSummary]) -> tuple[Verdict, ...]:
    """Hold smarthost's shares against the gate; a share that could not be had is no pass."""
    return tuple(_judge(each) for each in summaries if each.system == "smarthost" and not _is_reference(each))


def _is_reference(summary: DeadSummary) -> bool:
    return SCENARIOS[summary.way].is_reference


def _judge(summary: DeadSummary) -> Verdict:
    least = SCENARIOS[summary.way].least
    what = "of all alive" if SCENARIOS[summary.way].reference == "alive" else "for the other sites"
    if summary.share is None:
        return Verdict(what=f"{summary.way}: no figure", passed=False)
    text = f"{summary.way}: {summary.share:.1%} {what} (at least {least:.0%})"
    return Verdict(what=text, passed=summary.share >= least)


def find_dead_failures(runs: Sequence[DeadRun], *, is_compared: bool = True) -> tuple[Verdict, ...]:
    """One verdict per run that failed; Postfix's count where it is compared with."""
    return tuple(
        Verdict(what=f"{run.system}, {run.way}, round {run.round}: {run.failed}", passed=False)
        for run in runs
        if run.failed and (is_compared or run.system != POSTFIX)
    )
