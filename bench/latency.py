# SPDX-License-Identifier: MIT
"""Starts probe.py beside a run and reads what it measured."""

import contextlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from bench import probe
from bench.children import Child, Scratch
from bench.failure import RunFailed
from bench.statistic import percentile


class Latency(Struct, frozen=True, kw_only=True):
    """Microseconds from the first octet of content to its 250, over `samples` messages."""

    samples: int
    p50_us: float
    p99_us: float
    max_us: float


def summarize(replies: Sequence[tuple[float, float]], since: float, until: float) -> Latency | None:
    """Sum up the replies of a time span (monotonic seconds); None if there are none."""
    spans = [microseconds for ended, microseconds in replies if since <= ended <= until]
    if not spans:
        return None
    return Latency(samples=len(spans), p50_us=percentile(spans, 50), p99_us=percentile(spans, 99), max_us=max(spans))


class RunningProbe:
    """A probe that is connected and waits for `go`."""

    def __init__(
        self,
        scratch: Scratch,
        port: int,
        sessions: int,
        octets: int,
        count: int = 0,
        *,
        tls: bool = False,
        auth: str = "",
        fresh: bool = False,
    ) -> None:
        self._scratch = scratch
        self._output = scratch.path / "probe.out"
        numbers = {"--port": port, "--sessions": sessions, "--octets": octets, "--count": count}
        flags = [text for name, number in numbers.items() for text in (name, str(number))]
        flags += [*(["--fresh"] if fresh else []), *(["--tls"] if tls else []), *(["--auth", auth] if auth else [])]
        with self._output.open("wb") as out:
            command: list[str | Path] = [sys.executable, Path(probe.__file__), *flags]
            self._child: Child = scratch.start("probe", command, stdout=out, stdin=True)
        self._await_connected()

    def _await_connected(self) -> None:
        deadline = time.monotonic() + 40
        while not self._output.read_bytes().startswith(b"connected\n"):
            if self._child.exit_code() is not None:
                raise RunFailed(f"the probe could not connect: {self._scratch.complaint('probe')}")
            if time.monotonic() > deadline:
                raise RunFailed("the probe was not greeted within 40 s")
            time.sleep(0.01)

    def go(self) -> None:
        """Begin to send."""
        with contextlib.suppress(BrokenPipeError):
            self._child.write_input(b"go\n")

    def end(self, timeout_s: float = 40.0) -> list[tuple[float, float]]:
        """Let it finish the messages it is at and give the replies. Raises: RunFailed: the relay refused one."""
        self._child.end_input()
        return self.await_end(timeout_s)

    def await_end(self, timeout_s: float) -> list[tuple[float, float]]:
        """Wait until it has sent its count. Raises: RunFailed."""
        code = self._child.wait(timeout_s)
        self._child.kill_group()
        if code != 0:
            raise RunFailed(f"the probe ended with {code}: {self._scratch.complaint('probe')}")
        return read_replies(self._output.read_bytes())


def read_replies(output: bytes) -> list[tuple[float, float]]:
    """Read what probe.py printed. Raises: RunFailed: it met an error."""
    outcome = json.loads(output.partition(b"\n")[2])
    if outcome["error"]:
        raise RunFailed(f"the probe met {outcome['error']}")
    return [(float(ended), float(microseconds)) for ended, microseconds in outcome["replies"]]
