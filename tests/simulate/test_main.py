# SPDX-License-Identifier: MIT
"""The command: what it prints, how it ends, and that a failing seed can be lived again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from simulate.__main__ import main
from simulate.campaign import Task, replay_command, run_task

ROOT = Path(__file__).parents[2]


def run(*arguments: str, hash_seed: str = "7") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "simulate", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_a_seed_is_the_same_in_every_process() -> None:
    """Whatever the hash seed of whoever calls, alone or among others in a child: one trace."""
    alone = run("--seed", "3", "--hours", "2", "--json", hash_seed="7")
    among = run("--seeds", "3..3", "--hours", "2", "--json", "--jobs", "2", hash_seed="8")

    assert 0 == alone.returncode == among.returncode
    assert json.loads(alone.stdout)["digest"] == json.loads(among.stdout)["digest"]


@pytest.mark.slow
def test_a_campaign_ends_with_one_line_of_json() -> None:
    """A machine reads how much was lived, and what went wrong."""
    ended = run("--seeds", "1..2", "--hours", "1", "--json", "--jobs", "2")

    (line,) = ended.stdout.splitlines()
    summary = json.loads(line)
    assert 2 == summary["seeds"]
    assert [] == summary["failed"]
    assert {"virtual_hours", "messages", "recipients", "crashes", "faults", "real_seconds"} <= set(summary)


def test_a_broken_promise_is_told_with_its_trace_and_the_way_back(capsys: pytest.CaptureFixture[str]) -> None:
    """Which promise, when, the last lines, and the command that lives it again."""
    code = main(["--seed", "1", "--hours", "2", "--jobs", "1", "--plant", "envelopes-rewritten"])

    told = capsys.readouterr().out
    assert 1 == code
    assert "BROKEN: only what was sent arrives" in told
    assert "again: python -m simulate --seed 1 --hours 2 --plant envelopes-rewritten" in told
    assert 2 < sum(line.startswith("    ") for line in told.splitlines()) <= 30


def test_what_is_replayed_breaks_again_at_the_same_point() -> None:
    """The same plant in the same seed: the same failure, to the octet."""
    task = Task(1, 2.0, "envelopes-rewritten")

    first, second = run_task(task), run_task(task)

    assert first.trace == second.trace
    assert (first.digest, first.text, first.virtual_s) == (second.digest, second.text, second.virtual_s)
    assert replay_command(first).endswith("--seed 1 --hours 2 --plant envelopes-rewritten")


@pytest.mark.parametrize("arguments", [[], ["--seed", "x"], ["--seeds", "1.5"], ["--seed", "1", "--hours", "-1"]])
def test_a_bad_command_line_is_64(arguments: list[str]) -> None:
    """And says what is wrong."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert 64 == ended.value.code
