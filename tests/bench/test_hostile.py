# SPDX-License-Identifier: MIT
"""The benchmark among hostile hosts and clients: its command line, its sums and its gate."""

import pytest
from bench.figures import Verdict
from bench.hostile_figures import CALM, CLIENTS, HOSTS, HostileRun, find_failures, judge, show_run, summarize
from bench.hostile_options import LEARNING_S, HostileOptions, read_hostile_options


def _run(world: str, round_: int, rate: float) -> HostileRun:
    return HostileRun(world=world, round=round_, rate=rate, accept_rate=rate)


def test_nothing_asked_is_the_whole_benchmark() -> None:
    """make bench-hostile: both worlds beside the calm, with the gate."""
    assert read_hostile_options([]) == HostileOptions()


def test_quick_fits_a_minute_and_does_not_judge() -> None:
    """One round of three short runs; a start and an end take 5 s each."""
    options = read_hostile_options(["--quick"])

    assert (options.rounds, options.gate, options.stop) == (1, False, False)
    assert len(options.worlds) * (LEARNING_S + options.window_s + 10) < 60


@pytest.mark.parametrize("argv", [["--world", "heaven"], ["--attack", "x"], ["--trickle", "0"], ["--rounds", "0"]])
def test_nonsense_is_refused_with_64(argv: list[str]) -> None:
    """A mistyped flag is told, and nothing is run."""
    with pytest.raises(SystemExit) as ended:
        read_hostile_options(argv)
    assert ended.value.code == 64


def test_the_gate_looks_at_medians() -> None:
    """One bad round does no harm; 89 % in the middle does."""
    calm = [_run(CALM, n, 1000.0) for n in (1, 2, 3)]
    hosts = [_run(HOSTS, n, rate) for n, rate in enumerate((910.0, 300.0, 905.0), 1)]
    clients = [_run(CLIENTS, n, 890.0) for n in (1, 2, 3)]

    assert [verdict.passed for verdict in judge(summarize([*calm, *hosts, *clients]))] == [True, False]


def test_what_could_not_be_measured_is_no_pass() -> None:
    """A world whose runs all failed fails the gate, and each failure is told."""
    runs = [_run(CALM, 1, 1000.0), HostileRun(world=HOSTS, round=1, failed="it broke")]

    assert judge(summarize(runs)) == (Verdict(what="hosts: no figure", passed=False),)
    assert [verdict.what for verdict in find_failures(runs)] == ["hosts, round 1: it broke"]
    assert "FAILED: it broke" in show_run(runs[1])
