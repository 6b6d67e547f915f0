# SPDX-License-Identifier: MIT
"""Postfix's load tools on both sides: smtp-source sends, smtp-sink counts, and both counts agree with our log."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.interop.programs import greets, program
from tests.live.rig import WAIT_S, eventually, serving
from tests.live.sink import free_port

pytestmark = [pytest.mark.slow, pytest.mark.interop]

MESSAGES = 500


@contextmanager
def _smtp_sink(output: Path) -> Iterator[int]:
    """Run smtp-sink; it writes its counters to `output`."""
    port = free_port()
    command = [program("smtp-sink"), "-c", "-4", f"127.0.0.1:{port}", "256"]
    if os.geteuid() == 0:
        command[1:1] = ["-u", "nobody"]  # as root it does not run without
    with output.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.PIPE) as process:
        try:
            eventually(lambda: greets(port), "smtp-sink greets")
            yield port
        finally:
            process.terminate()
            process.communicate(timeout=WAIT_S)


def _count(output: Path) -> int:
    counters = re.findall(rb"mesg=([0-9]+)\r", output.read_bytes())
    return int(counters[-1]) if counters else 0


@pytest.mark.parametrize("options", ["-s 20", "-s 10 -d", "-s 5 -r 10"])
def test_what_smtp_source_sends_smtp_sink_counts(tmp_path: Path, options: str) -> None:
    """Fresh connections, kept ones, ten recipients each: not one message is missing or doubled."""
    command = f"-4 -m {MESSAGES} -l 5120 -f a@example.org -t b@example.net {options}".split()
    recipients = 10 if "-r 10" in options else 1

    with (
        _smtp_sink(tmp_path / "counters") as sink_port,
        serving(tmp_path / "state", "--next-hop", f"127.0.0.1:{sink_port}") as daemon,
    ):
        command = [program("smtp-source"), *command, f"127.0.0.1:{daemon.port}"]
        ran = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert ran.returncode == 0, ran.stderr
        relayed = daemon.some_lines(MESSAGES * recipients, "relayed")
        waiting = daemon.queue()

    assert len(relayed) == MESSAGES * recipients
    assert waiting == []
    eventually(lambda: _count(tmp_path / "counters") >= MESSAGES, "smtp-sink has counted all")
    assert _count(tmp_path / "counters") == MESSAGES
