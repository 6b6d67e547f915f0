# SPDX-License-Identifier: MIT
"""Medians, ratios and the gate."""

import pytest
from bench.figures import Run
from bench.latency import Latency
from bench.summary import find_failures, judge, summarize_runs
from bench.tree import Memory
from msgspec.structs import replace


def a_run(system: str, round_: int, rate: float, mode: str = "kept", rss_mib: float = 60.0) -> Run:
    """One good run whose latency and memory follow from its arguments."""
    latency = Latency(samples=100, p50_us=rate, p99_us=rate * 2, max_us=rate * 3)
    memory = Memory(rss_mib=rss_mib, pss_mib=rss_mib / 2, processes=2, samples=9)
    return Run(
        system=system,
        mode=mode,
        round=round_,
        messages=100,
        accept_rate=rate + 1,
        end_to_end_rate=rate,
        idle=latency,
        saturated=latency,
        memory=memory,
        cpu_us_per_message=rate / 10,
    )


THREE_ROUNDS = (
    a_run("ceiling", 1, 8000), a_run("postfix", 1, 500), a_run("smarthost", 1, 2000, rss_mib=50),
    a_run("ceiling", 2, 9000), a_run("postfix", 2, 1000), a_run("smarthost", 2, 3100, rss_mib=70),
    a_run("ceiling", 3, 8000), a_run("postfix", 3, 400), a_run("smarthost", 3, 2400, rss_mib=60),
)  # fmt: skip


def test_summary_has_medians_and_paired_ratios() -> None:
    """Ratios compare what ran in the same round, and their median counts: 4, 3.1 and 6 give 4."""
    ceiling, postfix, smarthost = summarize_runs(THREE_ROUNDS)

    assert [ceiling.system, postfix.system, smarthost.system] == ["ceiling", "postfix", "smarthost"]
    assert smarthost.end_to_end_rate == 2400
    assert smarthost.accept_rate == 2401
    assert smarthost.to_postfix == 4.0
    assert smarthost.to_ceiling == 0.3
    assert smarthost.idle_p99_us == 4800
    assert smarthost.rounds == 3
    assert postfix.to_postfix is None
    assert ceiling.to_ceiling is None


def test_memory_is_the_highest_of_the_rounds() -> None:
    """A peak is a peak: no median hides it."""
    assert summarize_runs(THREE_ROUNDS)[2].peak_rss_mib == 70


def test_failed_run_gives_no_figure() -> None:
    """A run with a message missing is left out of every median and ratio."""
    failed = Run(system="smarthost", mode="kept", round=2, failed="99 of 100")
    runs = tuple(failed if run.round == 2 and run.system == "smarthost" else run for run in THREE_ROUNDS)

    smarthost = summarize_runs(runs)[2]

    assert smarthost.rounds == 2
    assert smarthost.to_postfix == 5.0


def test_modes_are_kept_apart() -> None:
    """Fresh connections are compared with fresh connections."""
    runs = (a_run("postfix", 1, 100, "fresh"), a_run("postfix", 1, 400), a_run("smarthost", 1, 500, "fresh"))

    summaries = {(s.mode, s.system): s for s in summarize_runs(runs)}

    assert summaries["fresh", "smarthost"].to_postfix == 5.0


@pytest.mark.parametrize(("rate", "passed"), [(2990.0, False), (3000.0, True), (9000.0, True)])
def test_gate_is_three_times_postfix(rate: float, passed: bool) -> None:
    """2.99 times is not 3 times."""
    verdicts = judge(summarize_runs((a_run("postfix", 1, 1000), a_run("smarthost", 1, rate))))

    assert [verdict.passed for verdict in verdicts] == [passed, True]
    assert "times Postfix" in verdicts[0].what


@pytest.mark.parametrize(("rate", "passed"), [(1990.0, False), (2000.0, True)])
def test_gate_inside_kept_tls_is_twice_postfix(rate: float, passed: bool) -> None:
    """Handshakes cost both the same; submission is shown only: no Postfix is there, and argon2 takes its memory."""
    verdicts = judge(summarize_runs((a_run("postfix", 1, 1000, "tls-kept"), a_run("smarthost", 1, rate, "tls-kept"))))

    assert [verdict.passed for verdict in verdicts] == [passed, True]
    assert judge(summarize_runs((a_run("smarthost", 1, rate, "auth", rss_mib=200),))) == ()


@pytest.mark.parametrize(("rss_mib", "passed"), [(119.9, True), (120.0, False)])
def test_gate_is_below_120_mib(rss_mib: float, passed: bool) -> None:
    """120 MiB is too much."""
    verdicts = judge(summarize_runs((a_run("smarthost", 1, 5000, rss_mib=rss_mib),)))

    assert [verdict.passed for verdict in verdicts] == [passed]


def test_gate_judges_each_mode() -> None:
    """A good figure with kept connections does not excuse a bad one with fresh ones."""
    runs = (
        a_run("postfix", 1, 100), a_run("smarthost", 1, 900),
        a_run("postfix", 1, 100, "fresh"), a_run("smarthost", 1, 200, "fresh"),
    )  # fmt: skip

    failed = [verdict.what for verdict in judge(summarize_runs(runs)) if not verdict.passed]

    assert len(failed) == 1
    assert failed[0].startswith("fresh: 2.00 times")


def test_missing_message_is_a_failure() -> None:
    """Every failed run and audit is named; one is enough for exit 1."""
    runs = (a_run("postfix", 1, 100), replace(a_run("smarthost", 2, 1), failed="the sink has 99 messages"))

    verdicts = find_failures(
        runs, ("ceiling: 500 numbered messages, each at the sink once", "postfix: FAILED: 1 missing")
    )

    assert [verdict.passed for verdict in verdicts] == [False, False]
    assert verdicts[0].what == "smarthost, kept, round 2: the sink has 99 messages"


def test_postfix_on_its_knees_fails_only_a_comparison() -> None:
    """Where nothing is compared, on a busy machine in CI, a rival that does not come to its end is no fault of ours."""
    runs = (replace(a_run("postfix", 1, 1), failed="smtp-source did not end within 104 s"), a_run("smarthost", 1, 900))

    (told,) = find_failures(runs, ("postfix: FAILED: 1 missing",), is_compared=False)
    compared = find_failures(runs, ("postfix: FAILED: 1 missing",))

    assert told.passed
    assert told.what.endswith("in 1 runs")
    assert [verdict.passed for verdict in compared] == [False, False]


def test_all_there_is_said_once() -> None:
    """One line when all is well."""
    (verdict,) = find_failures(THREE_ROUNDS, ("ceiling: 500 numbered messages, each at the sink once",))

    assert verdict.passed
    assert "9 runs" in verdict.what
