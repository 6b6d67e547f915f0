# SPDX-License-Identifier: MIT
"""What the probe measured, summed up."""

import json

import pytest
from bench.failure import RunFailed
from bench.latency import Latency, read_replies, summarize


def test_replies_outside_the_span_do_not_count() -> None:
    """What was answered after the load had ended says nothing about a loaded relay."""
    replies = [(0.5, 1.0), (1.0, 10.0), (1.5, 20.0), (2.0, 30.0), (2.1, 999.0)]

    assert summarize(replies, 1.0, 2.0) == Latency(samples=3, p50_us=20.0, p99_us=30.0, max_us=30.0)


def test_no_reply_is_no_figure() -> None:
    """Nothing measured is told as nothing."""
    assert summarize([(5.0, 1.0)], 1.0, 2.0) is None


def test_replies_are_read_from_what_the_probe_prints() -> None:
    """The first line says that it was connected, the second what it found."""
    printed = b"connected\n" + json.dumps({"replies": [[1.5, 250], [1.6, 300.5]], "error": None}).encode()

    assert read_replies(printed) == [(1.5, 250.0), (1.6, 300.5)]


def test_refused_probe_fails_the_run() -> None:
    """A relay that refused the probe has no latency."""
    printed = b"connected\n" + json.dumps({"replies": [[1.5, 250]], "error": "Refusal: 451 no"}).encode()

    with pytest.raises(RunFailed, match="451 no"):
        read_replies(printed)
