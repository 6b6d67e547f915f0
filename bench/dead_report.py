# SPDX-License-Identifier: MIT
"""Shows what dead exchangers cost."""

from bench.dead_figures import DeadReport, DeadRun, DeadSummary

_TITLES = {
    "alive": "two exchangers, both alive",
    "syn": "one's SYNs are lost",
    "refused": "one refuses connections",
    "banner": "one never greets",
    "tls": "one stalls in TLS",
    "site-alive": "another site alive",
    "site-syn": "another site's SYNs are lost",
    "site-tarpit": "another site tarpits",
}
_NEAR_CEILING = 0.8


def show_dead_run(run: DeadRun) -> str:
    """Compose one line on one run."""
    head = f"{run.way:<12}{run.system:<10} round {run.round}: "
    if run.failed is not None:
        return f"{head}FAILED: {run.failed}"
    hosts = ", ".join(f"{address} {rate:.0f}" for address, rate in run.by_host.items())
    arrived = f"{_rate(run.learning_rate)}/s at first, then {_rate(run.rate)}/s ({hosts})"
    box = f"relay {run.cores or 0:.2f} cores, load {run.load_average or 0:.1f} before"
    return f"{head}{arrived}, accepted {_rate(run.accept_rate)}/s [{box}]"


def _rate(rate: float | None) -> str:
    if rate is None:
        return "-"
    return f"{rate:.1f}" if rate < 10 else f"{rate:.0f}"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def show_dead_report(report: DeadReport) -> str:
    """Compose the table and the verdicts."""
    found = report.surroundings
    head = [
        f"messages of {report.octets} octets, {report.sessions} kept sessions without pause; "
        f"counted where they arrive, from {report.learning_s:.0f} to {report.learning_s + report.window_s:.0f} s",
        f"{found.at}, commit {found.commit}",
        f"{found.cores} x {found.cpu}, Linux {found.kernel}, Python {found.python}, Postfix {found.postfix}",
        f"{found.file_system}, fdatasync {found.fdatasync_us:.0f} us, load average {found.load_average:.2f} at first",
        f"smtp-source straight into one smtp-sink: {report.ceiling_rate:.0f}/s",
    ]
    table = [
        "Medians over the rounds; site-*: what five other sites get while a sixth is dead",
        f"{'way':<12}{'':<31}{'system':<10}{'rounds':>7}{'first 10 s/s':>14}{'then/s':>9}{'of alive':>10}",
        *map(_line, report.summaries),
    ]
    verdicts = [f"{'pass' if verdict.passed else 'FAIL'}  {verdict.what}" for verdict in report.verdicts]
    parts = (head, table, too_near_ceiling(report), verdicts)
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _line(summary: DeadSummary) -> str:
    left = f"{summary.way:<12}{_TITLES[summary.way]:<31}{summary.system:<10}{summary.rounds:>7}"
    return f"{left}{_rate(summary.learning_rate):>14}{_rate(summary.rate):>9}{_share(summary.share):>10}"


def too_near_ceiling(report: DeadReport) -> list[str]:
    """Warn where load and sink, not the relay, may have been the limit."""
    limit = report.ceiling_rate * _NEAR_CEILING
    near = [f"{each.system}, {each.way}" for each in report.summaries if each.rate is not None and each.rate > limit]
    return [f"WARNING: near what load and sink can do at all: {'; '.join(near)}"] if near else []
