# SPDX-License-Identifier: MIT
"""Windows, shares and the gate of the benchmark with dead exchangers."""

import pytest
from bench.dead_figures import DeadReport, DeadRun, Sample, each_second, rates
from bench.dead_report import show_dead_report, show_dead_run, too_near_ceiling
from bench.dead_scenarios import SCENARIOS, WAYS, compose_loads, with_references
from bench.dead_summary import find_dead_failures, judge_dead, summarize_dead_runs
from bench.figures import Surroundings


def a_run(system: str, way: str, round_: int, rate: float | None, failed: str | None = None) -> DeadRun:
    """One run; what it did at first is half of what it did then."""
    learning = None if rate is None else rate / 2
    return DeadRun(system=system, way=way, round=round_, rate=rate, learning_rate=learning, failed=failed)


# Windows


def test_window_begins_after_the_learning() -> None:
    """What came in the first ten seconds, however much or little, is not in the figure."""
    samples = [Sample(at / 10, (at * (1 if at < 100 else 50), at), at * 3, at / 20) for at in range(1, 251)]

    first, second, accepted, cores = rates(samples, 10.0, 25.0)

    assert (first, second, accepted, cores) == pytest.approx((500.0, 10.0, 30.0, 0.5))


def test_window_is_as_long_as_its_samples() -> None:
    """A late sample makes a longer span, not a higher rate."""
    samples = [Sample(9.9, (0,)), Sample(10.3, (100,)), Sample(12.3, (300,)), Sample(99.0, (999,))]

    assert rates(samples, 10.0, 15.0)[0] == pytest.approx(100.0)


def test_window_without_samples_gives_no_figure() -> None:
    """A run that ended too early is a mistake, not a rate of nothing."""
    with pytest.raises(ValueError, match="1 samples between 10 and 25 s"):
        rates([Sample(1.0, (1,)), Sample(11.0, (2,))], 10.0, 25.0)


def test_each_second_shows_how_long_a_relay_stood_still() -> None:
    """Three messages, one second of nothing, five more; the unfinished second is left out."""
    samples = [
        Sample(0.5, (1, 1)),
        Sample(1.0, (2, 1)),
        Sample(2.05, (2, 1)),
        Sample(3.01, (2, 6)),
        Sample(3.5, (9, 9)),
    ]

    assert each_second(samples) == (3, 0, 5)
    assert each_second([]) == ()


# Scenarios


def test_ways_are_held_against_what_they_need() -> None:
    """Asking for one way measures the living world it is compared with too, first."""
    assert [scenario.way for scenario in with_references(["tls"])] == ["alive", "tls"]
    assert [scenario.way for scenario in with_references(["site-tarpit", "syn"])] == [
        "alive", "syn", "site-alive", "site-tarpit",
    ]  # fmt: skip


def test_one_of_two_exchangers_is_dead_and_both_are_counted() -> None:
    """All load is for the one site, and what arrives at either of its exchangers counts."""
    scenario = SCENARIOS["banner"]

    assert [way for _, way in scenario.hosts] == ["banner", "alive"]
    assert scenario.counted == tuple(address for address, _ in scenario.hosts)
    assert [(load.recipient, load.sessions) for load in compose_loads(scenario, 20, 100)] == [("to@site.example", 20)]


def test_half_of_the_load_is_for_the_dead_site_and_only_the_others_count() -> None:
    """Ten sessions push into the dead site, two into each of five others, and only theirs is the figure."""
    scenario = SCENARIOS["site-tarpit"]
    loads = compose_loads(scenario, 20, 100)

    assert [load.sessions for load in loads] == [10, 2, 2, 2, 2, 2]
    assert loads[0].recipient == "to@dead.example"
    assert scenario.counted == tuple(address for address, way in scenario.hosts if way == "alive")
    assert SCENARIOS["site-alive"].counted == scenario.counted


def test_gate_is_the_issue_s() -> None:
    """95 % with one of two exchangers dead, 90 % for others beside a dead site."""
    assert {way: SCENARIOS[way].least for way in WAYS} == {
        "syn": 0.95, "refused": 0.95, "banner": 0.95, "tls": 0.95, "site-syn": 0.90, "site-tarpit": 0.90,
    }  # fmt: skip


# Summaries


def test_share_is_the_median_of_each_round_s_own() -> None:
    """Rounds of 50 %, 90 % and 100 % of their own living world give 90 %, whatever the box did between rounds."""
    runs = [
        a_run("smarthost", "alive", 1, 1000), a_run("smarthost", "syn", 1, 500),
        a_run("smarthost", "syn", 2, 1800), a_run("smarthost", "alive", 2, 2000),
        a_run("smarthost", "alive", 3, 100), a_run("smarthost", "syn", 3, 100),
    ]  # fmt: skip

    alive, syn = summarize_dead_runs(runs)

    assert (alive.way, alive.rate, alive.share) == ("alive", 1000, None)
    assert (syn.way, syn.rate, syn.share, syn.learning_rate, syn.rounds) == ("syn", 500, 0.9, 250, 3)


def test_each_system_is_held_against_itself() -> None:
    """Postfix's share is of what Postfix does with both alive."""
    runs = [a_run(system, way, 1, rate) for system, way, rate in (
        ("smarthost", "alive", 1000), ("postfix", "alive", 200), ("smarthost", "tls", 1000), ("postfix", "tls", 20),
    )]  # fmt: skip

    shares = {(each.system, each.way): each.share for each in summarize_dead_runs(runs)}

    assert shares["smarthost", "tls"] == 1.0
    assert shares["postfix", "tls"] == 0.1


def test_failed_run_gives_no_share() -> None:
    """A round whose living world failed has nothing to compare with."""
    runs = [a_run("smarthost", "alive", 1, None, "the sink ended"), a_run("smarthost", "syn", 1, 900)]

    assert [each.share for each in summarize_dead_runs(runs)] == [None, None]
    assert [verdict.what for verdict in find_dead_failures(runs)] == ["smarthost, alive, round 1: the sink ended"]


@pytest.mark.parametrize(
    ("way", "rate", "passed"),
    [
        ("syn", 950, True),
        ("syn", 949, False),
        ("site-syn", 900, True),
        ("site-syn", 899, False),
        ("site-syn", 1200, True),
    ],
)
def test_gate_judges_smarthost(way: str, rate: float, passed: bool) -> None:
    """94.9 % is not 95 %; more than all alive is fine."""
    runs = [a_run("smarthost", SCENARIOS[way].reference, 1, 1000), a_run("smarthost", way, 1, rate)]

    (verdict,) = judge_dead(summarize_dead_runs(runs))

    assert verdict.passed is passed
    assert verdict.what.startswith(f"{way}: {rate / 10:.1f}%")


def test_gate_does_not_judge_postfix() -> None:
    """It is there to compare with."""
    runs = [a_run("postfix", "alive", 1, 1000), a_run("postfix", "banner", 1, 0)]

    assert judge_dead(summarize_dead_runs(runs)) == ()


def test_postfix_that_failed_fails_only_a_comparison() -> None:
    """In CI, where nothing is compared, what a rival could not do on a busy machine is no fault of ours."""
    runs = [a_run("postfix", "tls", 1, None, "it broke")]

    assert find_dead_failures(runs, is_compared=False) == ()
    assert [verdict.passed for verdict in find_dead_failures(runs)] == [False]


def test_share_that_could_not_be_had_is_no_pass() -> None:
    """A gate that was not measured is missed."""
    runs = [a_run("smarthost", "alive", 1, 1000), a_run("smarthost", "tls", 1, None, "it broke")]

    (verdict,) = judge_dead(summarize_dead_runs(runs))

    assert (verdict.what, verdict.passed) == ("tls: no figure", False)


# What is shown


def a_report(ceiling_rate: float) -> DeadReport:
    """A report on one way."""
    runs = tuple(a_run("smarthost", way, 1, rate) for way, rate in (("alive", 1000.0), ("tls", 970.0)))
    found = Surroundings(
        at="2030-01-01T00:00:00Z",
        commit="abc",
        python="3.11",
        postfix="3.7",
        kernel="6",
        cpu="cpu",
        cores=2,
        load_average=0.1,
        file_system="ext4",
        fdatasync_us=40.0,
    )
    summaries = summarize_dead_runs(runs)
    return DeadReport(
        surroundings=found,
        learning_s=10.0,
        window_s=15.0,
        octets=5120,
        sessions=20,
        ceiling_rate=ceiling_rate,
        summaries=summaries,
        runs=runs,
        verdicts=judge_dead(summaries),
    )


def test_report_shows_rate_share_and_verdict() -> None:
    """A reader sees the way in words, both rates, the share of all alive, and the gate."""
    shown = show_dead_report(a_report(9000))

    (line,) = [line for line in shown.splitlines() if line.startswith("tls ")]
    assert line.split()[-5:] == ["smarthost", "1", "485", "970", "97.0%"]
    assert "one stalls in TLS" in line
    assert "pass  tls: 97.0% of all alive (at least 95%)" in shown
    assert "from 10 to 25 s" in shown
    assert "WARNING" not in shown


def test_generator_near_its_limit_is_told() -> None:
    """When load and sink alone hardly do more, the relay may not have been what was measured."""
    assert too_near_ceiling(a_report(1100)) == [
        "WARNING: near what load and sink can do at all: smarthost, alive; smarthost, tls"
    ]


def test_failed_run_is_shown_with_its_reason() -> None:
    """No figure stands in its line."""
    assert show_dead_run(a_run("postfix", "syn", 2, None, "it broke")).endswith("postfix    round 2: FAILED: it broke")
