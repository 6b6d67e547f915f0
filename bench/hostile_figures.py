# SPDX-License-Identifier: MIT
"""What was measured among hostile hosts and clients, as frozen values; and the sums and verdicts of them. Pure."""

from collections.abc import Sequence

from msgspec import Struct

from bench.figures import Surroundings, Verdict
from bench.latency import Latency
from bench.statistic import median, paired_ratios

CALM = "calm"
HOSTS = "hosts"
CLIENTS = "clients"
WORLDS = (CALM, HOSTS, CLIENTS)  # also the order within a round
LEAST = 0.9  # of the rate without them


class HostileRun(Struct, frozen=True, kw_only=True):
    """One world, one round. With `failed` nothing else counts, and no figure is given."""

    world: str
    round: int  # from 1
    failed: str | None = None
    rate: float | None = None  # good messages/s that arrived in the window
    accept_rate: float | None = None  # good messages/s answered 250 in it
    latency: Latency | None = None  # of the probe's 250 in it
    cores: float | None = None  # CPU time of the relay's tree per second
    steal: float | None = None  # ... of who plays the hostile ones
    memory_mib: float | None = None  # resident, of the relay's tree, at most in the window
    waiting: int = 0  # hostile domains with mail in the queue at the end
    trickled: float = 0.0  # messages/s to hostile domains
    seen: dict[str, int] = {}  # connections by hostile host, or attacks by kind
    stop_s: float | None = None  # from SIGTERM to exit 0, where it was looked at
    load_average: float | None = None  # just before


class HostileSummary(Struct, frozen=True, kw_only=True):
    """Medians over the rounds of one world; shares are medians of the rounds' own ratios to the calm."""

    world: str
    rounds: int
    rate: float | None
    accept_rate: float | None
    p50_us: float | None
    p99_us: float | None
    memory_mib: float | None
    share: float | None
    accept_share: float | None


class HostileReport(Struct, frozen=True, kw_only=True):
    """Everything of one benchmark; the JSON file."""

    surroundings: Surroundings
    learning_s: float
    window_s: float
    octets: int
    sessions: int
    trickle: float
    summaries: tuple[HostileSummary, ...]
    runs: tuple[HostileRun, ...]
    verdicts: tuple[Verdict, ...]


def summarize(runs: Sequence[HostileRun]) -> tuple[HostileSummary, ...]:
    """Sum up each world that was measured."""
    return tuple(_summarize(runs, world) for world in WORLDS if any(run.world == world for run in runs))


def _summarize(runs: Sequence[HostileRun], world: str) -> HostileSummary:
    good = [run for run in runs if run.world == world and run.failed is None]
    calm = [run for run in runs if run.world == CALM and run.failed is None]
    is_calm = world == CALM
    return HostileSummary(
        world=world,
        rounds=len(good),
        rate=median(run.rate for run in good),
        accept_rate=median(run.accept_rate for run in good),
        p50_us=median(None if run.latency is None else run.latency.p50_us for run in good),
        p99_us=median(None if run.latency is None else run.latency.p99_us for run in good),
        memory_mib=median(run.memory_mib for run in good),
        share=None if is_calm else median(paired_ratios(_by_round(good, "rate"), _by_round(calm, "rate"))),
        accept_share=None
        if is_calm
        else median(paired_ratios(_by_round(good, "accept_rate"), _by_round(calm, "accept_rate"))),
    )


def _by_round(runs: Sequence[HostileRun], what: str) -> dict[int, float]:
    return {run.round: value for run in runs if (value := getattr(run, what)) is not None}


def judge(summaries: Sequence[HostileSummary]) -> tuple[Verdict, ...]:
    """Hold the median rates against those of the calm; what could not be measured is no pass."""
    calm = next((each.rate for each in summaries if each.world == CALM), None)
    return tuple(_judge(each, calm) for each in summaries if each.world != CALM)


def _judge(summary: HostileSummary, calm: float | None) -> Verdict:
    if summary.rate is None or not calm:
        return Verdict(what=f"{summary.world}: no figure", passed=False)
    share = summary.rate / calm
    text = f"{summary.world}: {share:.1%} of the calm's rate, medians (at least {LEAST:.0%})"
    return Verdict(what=text, passed=share >= LEAST)


def find_failures(runs: Sequence[HostileRun]) -> tuple[Verdict, ...]:
    """One verdict per run that failed."""
    return tuple(
        Verdict(what=f"{run.world}, round {run.round}: {run.failed}", passed=False) for run in runs if run.failed
    )


def show_run(run: HostileRun) -> str:
    """Compose one line on one run."""
    head = f"{run.world:<9}round {run.round}: "
    if run.failed is not None:
        return f"{head}FAILED: {run.failed}"
    parts = [f"{run.rate or 0:.0f}/s arrive, {run.accept_rate or 0:.0f}/s accepted"]
    if run.latency is not None:
        parts.append(f"250 after {run.latency.p50_us / 1000:.1f} ms, p99 {run.latency.p99_us / 1000:.1f} ms")
    parts.append(f"{run.memory_mib or 0:.0f} MiB")
    if run.world == HOSTS:
        parts.append(f"{run.trickled:.0f}/s to hostile domains, mail waits for {run.waiting}")
    if run.stop_s is not None:
        parts.append(f"SIGTERM to exit 0: {run.stop_s:.1f} s")
    box = f"relay {run.cores or 0:.2f} cores, hostile {run.steal or 0:.2f}, load {run.load_average or 0:.1f} before"
    return f"{head}{'; '.join(parts)} [{box}]"


def show_report(report: HostileReport) -> str:
    """Compose the table and the verdicts."""
    found = report.surroundings
    head = [
        f"messages of {report.octets} octets, {report.sessions} kept sessions without pause and a probe on four more; "
        f"counted where they arrive, from {report.learning_s:.0f} to {report.learning_s + report.window_s:.0f} s",
        f"{found.at}, commit {found.commit}",
        f"{found.cores} x {found.cpu}, Linux {found.kernel}, Python {found.python}, "
        f"load average {found.load_average:.2f} at first",
    ]
    table = [
        f"{'world':<9}{'rounds':>7}{'arrive/s':>10}{'accept/s':>10}{'p50 ms':>8}{'p99 ms':>8}{'MiB':>6}"
        f"{'of calm':>9}{'accepted':>10}",
        *map(_line, report.summaries),
    ]
    verdicts = [f"{'pass' if verdict.passed else 'FAIL'}  {verdict.what}" for verdict in report.verdicts]
    return "\n\n".join("\n".join(part) for part in (head, table, verdicts) if part) + "\n"


def _line(each: HostileSummary) -> str:
    latency = "".join("       -" if us is None else f"{us / 1000:>8.1f}" for us in (each.p50_us, each.p99_us))
    shares = f"{_share(each.share):>9}{_share(each.accept_share):>10}"
    rates = f"{each.rate or 0:>10.0f}{each.accept_rate or 0:>10.0f}"
    return f"{each.world:<9}{each.rounds:>7}{rates}{latency}{each.memory_mib or 0:>6.0f}{shares}"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
