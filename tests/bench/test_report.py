# SPDX-License-Identifier: MIT
"""What a person sees, and the JSON."""

from pathlib import Path

import msgspec
from bench.budget import rest_of_budget, time_stage
from bench.figures import Report, Run, Stage, Surroundings, Verdict
from bench.flames import top_functions
from bench.latency import Latency
from bench.report import show_report, show_run, write_report
from bench.summary import summarize_runs
from bench.surroundings import file_system, warnings
from bench.tree import Memory

HERE = Surroundings(
    at="2026-11-21T04:00:00Z", commit="abc1234", python="3.11.7", postfix="3.7.11", kernel="6.1", cpu="Some CPU",
    cores=2, load_average=0.1, file_system="ext4", fdatasync_us=1234.5,
)  # fmt: skip
RUNS = (
    Run(
        system="smarthost", mode="fresh", round=1, messages=100, accept_rate=3210.4, end_to_end_rate=3200.6,
        idle=Latency(samples=400, p50_us=500.0, p99_us=1500.0, max_us=2000.0), cpu_us_per_message=287.6,
        memory=Memory(rss_mib=65.43, pss_mib=47.0, processes=2, samples=50), fdatasync_us=44.0, load_average=1.25,
    ),
    Run(system="postfix", mode="fresh", round=1, failed="the sink has 99 messages, not 100: 1 missing"),
)  # fmt: skip


def a_report() -> Report:
    """A small report with one good run, one failed run, and a skipped stage."""
    stages = (Stage(name="server", us=18.5), Stage(name="store", us=None, note="not there yet: no module"))
    verdicts = (
        Verdict(what="fresh: 4.00 times Postfix", passed=True),
        Verdict(what="postfix, fresh: 1 missing", passed=False),
    )
    return Report(
        surroundings=HERE, messages=100, octets=5120, sessions=20, audits=("smarthost: 500 numbered",),
        summaries=summarize_runs(RUNS), budget=stages, runs=RUNS, verdicts=verdicts,
    )  # fmt: skip


def test_report_shows_everything_that_was_measured() -> None:
    """Medians, raw rounds, budget, audits and verdicts, and where it was measured."""
    text = show_report(a_report())

    for part in ("abc1234", "fdatasync 1234 us", "3201", "65.4", "288", "1.50", "18.5 us  server", "500 numbered"):
        assert part in text
    assert "pass  fresh: 4.00 times Postfix" in text
    assert "FAIL  postfix, fresh: 1 missing" in text


def test_skipped_stage_is_never_silent() -> None:
    """What could not be timed is named with the reason."""
    assert "skipped  store: not there yet: no module" in show_report(a_report())
    assert "1 skipped" in show_report(a_report())


def test_failed_run_shows_no_figure() -> None:
    """Only what went wrong."""
    assert show_run(RUNS[1]) == ("fresh    postfix    round 1: FAILED: the sink has 99 messages, not 100: 1 missing")


def test_unknown_figures_are_dashes() -> None:
    """A summary of failed runs has no numbers."""
    line = next(line for line in show_report(a_report()).splitlines() if line.startswith("fresh    postfix "))

    assert line.split()[2:] == ["0", *["-"] * 11]


def test_json_reads_back_as_it_was(tmp_path: Path) -> None:
    """The file holds all of the report, raw rounds included."""
    path = tmp_path / "out" / "bench.json"

    write_report(a_report(), path)

    assert msgspec.json.decode(path.read_bytes(), type=Report) == a_report()


def test_missing_module_skips_its_stage_only(tmp_path: Path) -> None:
    """A stage not written yet is said to be so."""

    def make(directory: Path) -> list[Stage]:
        raise ModuleNotFoundError("No module named 'smarthost.sing'")

    (stage,) = time_stage("sing", make, tmp_path)

    assert stage == Stage(name="sing", us=None, note="not there yet: No module named 'smarthost.sing'")


def test_stage_that_does_nothing_is_not_fast(tmp_path: Path) -> None:
    """A stage that did not do what it should is no figure."""

    def once() -> None:
        raise AssertionError("all was settled")

    (stage,) = time_stage("store", lambda directory: once, tmp_path)

    assert stage.us is None
    assert "all was settled" in stage.note


def test_stage_is_timed(tmp_path: Path) -> None:
    """A stage costs what it costs."""
    (stage,) = time_stage("count", lambda directory: lambda: sum(range(1000)), tmp_path)

    assert stage.us is not None
    assert 1 < stage.us < 1000


def test_rest_leaves_out_what_kept_connections_do_not_pay() -> None:
    """The greeting is paid once a session; the rest is of kept connections."""
    stages = (
        Stage(name="server", us=20.0),
        Stage(name="EHLO (fresh connections only)", us=7.0),
        Stage(name="store", us=None, note="x"),
    )

    assert rest_of_budget(stages, 250.0).us == 230.0
    assert rest_of_budget(stages, None).us is None


def test_profile_names_who_used_the_time() -> None:
    """Each function with its own share and the share of all it calls, whatever the lines; recursion counts once."""
    stacks = ["main;run (a.py:1);receive (b c.py:3) 30", "main;run (a.py:2);run (a.py:9) 20", "run (a.py:7) 50", "odd"]

    assert top_functions(stacks, 2) == [(0.7, 1.0, "run (a.py)"), (0.3, 0.3, "receive (b c.py)")]


def test_memory_file_system_is_warned_of() -> None:
    """Figures on a disk that is none are flattered; a busy machine spoils them."""
    spoilt = msgspec.structs.replace(HERE, file_system="tmpfs", fdatasync_us=2.0, load_average=3.0)

    assert warnings(HERE) == []
    assert len(warnings(spoilt)) == 3


def test_file_system_is_that_of_the_nearest_mount() -> None:
    """/var/tmp on its own disk is not the root's, and /varnish is not below /var."""
    mounts = [("/", "ext4"), ("/var", "xfs"), ("/var/tmp", "tmpfs"), ("/varnish", "zfs")]

    assert file_system(Path("/var/tmp/x"), mounts) == "tmpfs"
    assert file_system(Path("/var/lib"), mounts) == "xfs"
    assert file_system(Path("/srv"), mounts) == "ext4"
    assert file_system(Path("/srv"), []) == "unknown"
