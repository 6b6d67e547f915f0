# SPDX-License-Identifier: MIT
"""A storm of handshakes: it storms, it ends, and it is told."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.certificate import make_certificate
from bench.children import Scratch
from bench.failure import RunFailed
from bench.figures import Storm
from bench.latency import Latency
from bench.report import show_storm
from bench.sink import TlsSink
from bench.storm import RunningStorm
from bench.summary import find_failures

SPAN = Latency(samples=90, p50_us=1500.0, p99_us=9000.0, max_us=9100.0)


@pytest.fixture
def scratch(open_directory: Path) -> Iterator[Scratch]:
    """A run's directory, gone afterwards."""
    with Scratch(open_directory) as made:
        yield made


@pytest.mark.slow
def test_storm_shakes_hands_until_it_is_ended(scratch: Scratch, tmp_path: Path) -> None:
    """Every client gets through its handshake again and again; none is refused."""
    sink = TlsSink(scratch, make_certificate(tmp_path))
    storm = RunningStorm(scratch, sink.port, clients=3)

    handshakes, refused = storm.end()

    assert handshakes > 0
    assert refused == 0
    assert sink.total() == 0
    sink.stop()


@pytest.mark.slow
def test_storm_that_cannot_connect_is_a_failure(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that ends at once is told, not waited for."""
    from bench import tls_storm

    monkeypatch.setattr(tls_storm, "__file__", str(Path(__file__).parent / "no_such_program.py"))

    with pytest.raises(RunFailed, match="does not break loose"):
        RunningStorm(scratch, 1, clients=1)


def test_storm_is_shown_with_both_latencies() -> None:
    """Calm and amid, the load beside it, and how many shook hands."""
    storm = Storm(system="smarthost", round=1, clients=200, handshake_rate=512.4, calm=SPAN, amid=SPAN,
                  calm_accept_rate=2000.0, amid_accept_rate=900.0)  # fmt: skip

    text = show_storm(storm)

    assert text.count("250 p50 1.50 p99 9.00 ms (n=90)") == 2
    assert "load 900/s" in text
    assert "200 clients, 512 handshakes/s, 0 refused" in text


def test_failed_storm_fails_the_benchmark() -> None:
    """A message lost in a storm is a message lost."""
    (verdict,) = find_failures((), (), (Storm(system="smarthost", round=2, failed="1 missing"),))

    assert not verdict.passed
    assert verdict.what == "smarthost, storm, round 2: 1 missing"
    assert "FAILED: 1 missing" in show_storm(Storm(system="smarthost", round=2, failed="1 missing"))


def test_storm_that_postfix_succumbs_to_is_a_figure() -> None:
    """It is shown as what it is; the benchmark goes on, and its verdict is on ours."""
    storms = (Storm(system="postfix", round=1, failed="smtp-source did not end within 104 s"),)

    (verdict,) = find_failures((), (), storms)

    assert verdict.passed
    assert "FAILED: smtp-source did not end" in show_storm(storms[0])
