# SPDX-License-Identifier: MIT
"""Shows a report to a person, and writes it as JSON."""

from pathlib import Path

import msgspec

from bench.figures import Report, Run, Stage, Storm, Summary
from bench.flames import top_functions

_PROFILE_LINES = 25
_COLUMNS = (
    ("mode", 9), ("system", 10), ("rounds", 7), ("accept/s", 9), ("end2end/s", 10), ("xPostfix", 9), ("%ceiling", 9),
    ("idle p50", 9), ("p99 ms", 8), ("busy p50", 9), ("p99 ms", 8), ("RSS MiB", 8), ("PSS MiB", 8), ("CPU us/msg", 11),
)  # fmt: skip


def show_report(report: Report) -> str:
    """Compose the tables: medians, raw rounds, budget, verdicts."""
    found = report.surroundings
    head = [
        f"{report.messages} messages of {report.octets} octets, {report.sessions} sessions",
        f"{found.at}, commit {found.commit}",
        f"{found.cores} x {found.cpu}, Linux {found.kernel}, Python {found.python}, Postfix {found.postfix}",
        f"{found.file_system}, fdatasync {found.fdatasync_us:.0f} us, load average {found.load_average:.2f} at first",
    ]
    parts = [
        head,
        _medians(report.summaries),
        _storms(report.storms),
        _raw(report.runs),
        _budget(report.budget),
        list(report.audits),
    ]
    parts.append([f"{'pass' if verdict.passed else 'FAIL'}  {verdict.what}" for verdict in report.verdicts])
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _cells(cells: list[str]) -> str:
    return "".join(cell.rjust(width) if n > 1 else cell.ljust(width) for n, (cell, (_, width)) in enumerate(
        zip(cells, _COLUMNS, strict=True)
    ))  # fmt: skip


def _number(value: float | None, digits: int = 0, scale: float = 1.0) -> str:
    return "-" if value is None else f"{value * scale:.{digits}f}"


def _medians(summaries: tuple[Summary, ...]) -> list[str]:
    lines = ["Medians over the rounds (memory: the highest)", _cells([title for title, _ in _COLUMNS])]
    for s in summaries:
        rates = [
            _number(s.accept_rate),
            _number(s.end_to_end_rate),
            _number(s.to_postfix, 2),
            _number(s.to_ceiling, 1, 100),
        ]
        spans = (s.idle_p50_us, s.idle_p99_us, s.saturated_p50_us, s.saturated_p99_us)
        costs = [_number(s.peak_rss_mib, 1), _number(s.peak_pss_mib, 1), _number(s.cpu_us_per_message)]
        lines.append(
            _cells([s.mode, s.system, str(s.rounds), *rates, *(_number(us, 2, 0.001) for us in spans), *costs])
        )
    return lines


def show_run(run: Run) -> str:
    """Compose one line on one run."""
    head = f"{run.mode:<9}{run.system:<10} round {run.round}: "
    if run.failed is not None:
        return f"{head}FAILED: {run.failed}"
    text = f"accept {_number(run.accept_rate)}/s, end to end {_number(run.end_to_end_rate)}/s"
    for name, span in (("idle", run.idle), ("busy", run.saturated)):
        if span is not None:
            text += f", {name} 250 p50 {span.p50_us / 1000:.2f} p99 {span.p99_us / 1000:.2f} ms (n={span.samples})"
    if run.memory is not None:
        text += f", {run.memory.rss_mib:.1f} MiB in {run.memory.processes} processes"
    if run.cpu_us_per_message is not None:
        text += f", {run.cpu_us_per_message:.0f} us CPU"
    text += f" [fdatasync {_number(run.fdatasync_us)} us, load {_number(run.load_average, 1)}]"
    return head + text


def _raw(runs: tuple[Run, ...]) -> list[str]:
    return ["Rounds", *map(show_run, runs)] if runs else []


def show_storm(storm: Storm) -> str:
    """Compose one line on one storm."""
    head = f"{'storm':<9}{storm.system:<10} round {storm.round}: "
    if storm.failed is not None or storm.calm is None or storm.amid is None:
        return f"{head}FAILED: {storm.failed or 'no message was answered'}"
    spans = [
        f"{name} 250 p50 {span.p50_us / 1000:.2f} p99 {span.p99_us / 1000:.2f} ms (n={span.samples}), load {rate:.0f}/s"
        for name, span, rate in (
            ("calm", storm.calm, storm.calm_accept_rate or 0.0),
            ("amid", storm.amid, storm.amid_accept_rate or 0.0),
        )
    ]
    what = f"{storm.clients} clients, {storm.handshake_rate:.0f} handshakes/s, {storm.refused} refused"
    return f"{head}{'; '.join(spans)}; {what}"


def _storms(storms: tuple[Storm, ...]) -> list[str]:
    if not storms:
        return []
    return ["A good client beside a kept load, without a storm of TLS handshakes and amid it", *map(show_storm, storms)]


def _budget(stages: tuple[Stage, ...]) -> list[str]:
    if not stages:
        return []
    lines = ["Budget per stage, in-process, 5 KiB message, one recipient"]
    for stage in stages:
        figure = "   skipped" if stage.us is None else f"{stage.us:7.1f} us"
        lines.append(f"{figure}  {stage.name}{': ' + stage.note if stage.note else ''}")
    skipped = sum(stage.us is None for stage in stages)
    return [*lines, f"{skipped} skipped: the rest holds what they would show"] if skipped else lines


def write_report(report: msgspec.Struct, path: Path) -> None:
    """Write the JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def show_profile(raw: Path) -> str:
    """Compose the top of a profile from py-spy's raw stacks."""
    if not raw.exists():
        return f"py-spy left no {raw}\n"
    top = top_functions(raw.read_text(errors="replace").splitlines(), _PROFILE_LINES)
    lines = [f"{own:6.1%} {whole:7.1%}  {name}" for own, whole, name in top]
    return "\n".join([f"Profile {raw}", "   own  w.calls  of the samples while it ran", *lines]) + "\n"
