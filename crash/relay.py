# SPDX-License-Identifier: MIT
"""The system under test, its sink and its load, as processes that can be killed, stopped, started again.

Everything runs in a Scratch (bench.children), whose guard ends it with us. Knows nothing of smarthost's inside: it
starts the command, reads its log, and speaks its commands.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
from bench.children import Child, Scratch
from bench.failure import RunFailed
from bench.network import await_banner, free_port
from bench.smarthost import find_ready_port

from crash.ledger import Comparison, compare, read_lines
from crash.running import Running

PROGRAM = (sys.executable, "-m", "smarthost")
READY_S = 60.0
_HERE = Path(__file__).parent
# What is deferred is tried again at once, so that a round takes seconds; the rest is as it comes.
CONFIG = """
hostname = "relay.crash.test"
next_hop = "127.0.0.1:{sink}"
"""
_RETRY = """
[retry]
first = "1s"
longest = "2s"
jitter = 0
"""


class Relay(Running):
    """One `smarthost serve`; `start` it again after `kill` on the same state directory and port.

    `wrapper`: words before the command (strace, prlimit, faketime); `environment`: added to ours.
    """

    def __init__(
        self,
        scratch: Scratch,
        state: Path,
        sink_port: int,
        *,
        config: str = "",
        arguments: Sequence[str] = (),
        wrapper: Sequence[str] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        super().__init__(scratch, "relay")
        self.state = state
        self._arguments = tuple(arguments)
        self.wrapper = tuple(wrapper)
        self.environment = dict(environment or {})
        self._config = scratch.path / f"{state.name}-{self.port}.toml"
        retry = "" if "[retry]" in config else _RETRY
        self._config.write_text(CONFIG.format(sink=sink_port) + retry + config)

    def start(self, *, is_awaited: bool = True) -> None:
        """Start; returns when it greets, or at once. Raises: RunFailed: it ended before, or did not greet in time."""
        self.starts += 1
        command = [
            *self.wrapper, *PROGRAM, "serve", "--config", str(self._config), "--state-dir", str(self.state),
            "--listen", f"127.0.0.1:{self.port}", *self._arguments,
        ]  # fmt: skip
        if self.environment:
            command = ["env", *(f"{name}={value}" for name, value in self.environment.items()), *command]
        child = self.begin(command)
        if is_awaited:
            await_ready(self)
            await_banner(self.port, child, READY_S)

    def log(self) -> list[dict[str, Any]]:
        """Give the log lines of this life; what is no JSON (a wrapper's words) is left out."""
        found = []
        path = self._scratch.path / f"{self.name}.err"
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def lines(self, what: str) -> list[dict[str, Any]]:
        """Give the log lines of one kind."""
        return [line for line in self.log() if isinstance(line, dict) and line.get("what") == what]

    def is_ready(self) -> bool:
        """Has this life said it is ready?"""
        path = self._scratch.path / f"{self.name}.err"
        return path.exists() and find_ready_port(path.read_bytes().splitlines()) is not None

    def complaint(self) -> str:
        """Give its last words."""
        return self._scratch.complaint(self.name)

    def kill(self) -> None:
        """SIGKILL to all its processes at once, as a power cut ends them; returns when they are gone."""
        family = self.family()
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.kill_group()
        psutil.wait_procs(family, timeout=30)

    def command(self, *words: str, timeout_s: float = 60.0) -> "subprocess.CompletedProcess[bytes]":
        """Run a command of smarthost on this state directory."""
        return subprocess.run(
            [*PROGRAM, *words, "--state-dir", str(self.state)], capture_output=True, timeout=timeout_s, check=False
        )

    def queued(self) -> list[dict[str, Any]]:
        """Give `queue list --json`. Raises: RunFailed: the command failed."""
        answer = self.command("queue", "list", "--json")
        if answer.returncode != 0:
            raise RunFailed(f"queue list ended with {answer.returncode}: {answer.stderr.decode(errors='replace')}")
        return [json.loads(line) for line in answer.stdout.splitlines()]


def await_ready(relay: Relay, timeout_s: float = READY_S) -> None:
    """Wait for the ready line. Raises: RunFailed: it ended, or took too long."""
    deadline = time.monotonic() + timeout_s
    while not relay.is_ready():
        if relay.exit_code is not None:
            raise RunFailed(f"{relay.name} ended with {relay.exit_code} before it was ready: {relay.complaint()}")
        if time.monotonic() > deadline:
            raise RunFailed(f"{relay.name} was not ready within {timeout_s:.0f} s: {relay.complaint()}")
        time.sleep(0.02)


class Books:
    """A sink with its log and the loads with their ledgers, in one directory outside of what is crashed."""

    def __init__(self, scratch: Scratch, name: str, *, delay_s: float = 0.0, tries: int = 1) -> None:
        self._scratch = scratch
        self._name = name
        self._home = scratch.directory(f"{name}-books")
        self.sink_port = free_port()
        self.log_file = self._home / "arrived.jsonl"
        self._sink = scratch.start(
            f"{name}-sink",
            [sys.executable, _HERE / "sink.py", "--port", str(self.sink_port), "--log", self.log_file,
             "--delay", str(delay_s), "--tries", str(tries)],
        )  # fmt: skip
        await_banner(self.sink_port, self._sink, 20)
        self._ledgers: list[Path] = []

    def load(self, port: int, seed: int, *further: str) -> Child:
        """Start a load; it ends when its messages are done, or with SIGTERM (Child.stop)."""
        number = len(self._ledgers)
        ledger = self._home / f"ledger-{number}.jsonl"
        self._ledgers.append(ledger)
        words = ["--port", str(port), "--ledger", str(ledger), "--seed", str(seed), "--run", f"r{number:x}t"]
        return self._scratch.start(
            f"{self._name}-load-{number}", [sys.executable, str(_HERE / "load.py"), *words, *further]
        )

    def ledger(self) -> list[dict[str, Any]]:
        """Give what all loads wrote down so far."""
        return [line for path in self._ledgers for line in read_lines(path)]

    def arrived(self) -> list[dict[str, Any]]:
        """Give what the sink wrote down so far."""
        return read_lines(self.log_file)

    def acknowledged(self) -> int:
        """Count the acknowledged messages so far."""
        return sum(line["event"] == "acknowledged" for line in self.ledger())

    def compare(self) -> Comparison:
        """Compare the books as they are."""
        return compare(self.ledger(), self.arrived())

    def close(self) -> None:
        """End the sink."""
        self._sink.stop(10)


def await_drained(books: Books, timeout_s: float, is_alive: Callable[[], bool] = lambda: True) -> Comparison:
    """Wait until nothing acknowledged is missing any more, or time is up; give the last comparison.

    After it is complete it waits a second more: what comes twice comes late.
    """
    deadline = time.monotonic() + timeout_s
    while (found := books.compare()).lost and time.monotonic() < deadline and is_alive():
        time.sleep(0.2)
    if not found.lost:
        time.sleep(1.0)
        found = books.compare()
    return found


def is_root() -> bool:
    """May loop images be mounted and memory cgroups be made?"""
    return os.geteuid() == 0
