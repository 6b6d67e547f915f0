# SPDX-License-Identifier: MIT
"""What remembering routes costs, in small; `python -m bench.routes` has the whole."""

import asyncio
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.routes import fill_planner, grown, make_planner, traced_octets

from smarthost.mail.plan import Plan

DESTINATIONS = 5_000
PLAN_OCTETS = 450  # 370 with its own domain, exchanger and address; a Plan with its hosts as they are used takes 750


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_a_remembered_plan_takes_less_than_half_a_kibibyte() -> None:
    """A relay that knows a hundred thousand destinations holds tens of MiB for them, not hundreds."""
    planner = make_planner()
    with asyncio.Runner() as runner:
        runner.run(fill_planner(make_planner(), 10))  # whatever is made once is made now

        octets = grown(traced_octets, lambda: runner.run(fill_planner(planner, DESTINATIONS)))
        plan = runner.run(planner.plan("1x1-004999.example"))

    assert octets / DESTINATIONS < PLAN_OCTETS
    assert isinstance(plan, Plan)
    assert [(host.name, host.addresses) for host in plan.hosts] == [("mx0.1x1-004999.example", ("11.1.56.112",))]


@pytest.mark.slow
def test_the_benchmark_runs_to_its_end_and_says_what_holds() -> None:
    """In small, and whatever it measures on a busy machine: each promise gets its PASS or FAIL."""
    command = [sys.executable, "-m", "bench.routes", "--count", "200", "--calls", "50"]

    ran = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=False
    )

    verdicts = [line for line in ran.stdout.splitlines() if line.startswith(("PASS: ", "FAIL: "))]
    assert len(verdicts) == 2, ran.stdout + ran.stderr
    assert "100 MiB" in verdicts[0]
    assert "20 us" in verdicts[1]
    assert ran.returncode == any(verdict.startswith("FAIL") for verdict in verdicts)
    assert ran.stderr == ""
