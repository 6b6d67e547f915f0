# SPDX-License-Identifier: MIT
"""The real daemon as a process, for tests from outside: started on port 0, read by its log, stopped and looked over.

Nothing here imports smarthost: it is what any user's script could do. All waits have an end, and say what was missing.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

SMARTHOST = (sys.executable, "-m", "smarthost")
HOSTNAME = "relay.example.org"
BUGS = ("unexpected failure", "planning failed", "report not filed")  # what no test provokes
WAIT_S = 30.0  # a start takes 0.3 s; the box may be busy with everything else
Line = dict[str, Any]


class Daemon:
    """One run of `smarthost serve`; leaving the block stops it with SIGTERM and looks whether anything is left.

    `lines` is its log so far; what was said before the ready line, or is no JSON, is in `words`.
    """

    def __init__(self, state_dir: Path, *arguments: str, config: str = "", listen: Sequence[str] = ()) -> None:
        self.state_dir = state_dir
        self.lines: list[Line] = []
        self.words: list[str] = []
        self._news = threading.Condition()
        command = [*SMARTHOST, "serve", "--state-dir", str(state_dir), "--hostname", HOSTNAME]
        for endpoint in listen or ["127.0.0.1:0"]:
            command += ["--listen", endpoint]
        if config:
            file = state_dir.with_name(f"{state_dir.name}.toml")
            file.write_text(config)
            command += ["--config", str(file)]
        self.process = subprocess.Popen(
            [*command, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None, "started with a pipe"
        for text in self.process.stderr:
            with self._news:
                try:
                    self.lines.append(json.loads(text))
                except ValueError:
                    self.words.append(text.decode(errors="replace").rstrip())
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def __enter__(self) -> Self:
        try:
            self.bound: list[list[Any]] = self.line("ready")["listen"]
        except BaseException:
            self.kill()
            raise
        return self

    @property
    def port(self) -> int:
        """Where it takes mail, on 127.0.0.1."""
        port: int = self.bound[0][1]
        return port

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None or self.process.returncode is not None:
            self.kill()
        else:
            self.stop()

    def line(self, what: str, timeout_s: float = WAIT_S, /, **facts: object) -> Line:
        """Wait for a log line of this kind with these facts and give the first."""
        return self.some_lines(1, what, timeout_s, **facts)[0]

    def some_lines(self, n: int, what: str, timeout_s: float = WAIT_S, /, **facts: object) -> list[Line]:
        """Wait until there are at least `n` log lines of this kind with these facts; give all of them."""

        def found() -> list[Line]:
            wanted = {"what": what, **facts}.items()
            return [line for line in self.lines if wanted <= line.items()]

        self.wait_until(lambda: len(found()) >= n or not self._reader.is_alive(), f"{n} x {what} {facts}", timeout_s)
        lines = found()
        if len(lines) < n:
            raise AssertionError(f"the log ended without {n} x {what} {facts}: {self.told()}")
        return lines

    def wait_until(self, is_true: Callable[[], object], what: str, timeout_s: float = WAIT_S) -> None:
        """Wait, woken by each log line. Raises: AssertionError: it did not become true."""
        with self._news:
            if not self._news.wait_for(lambda: bool(is_true()), timeout_s):
                raise AssertionError(f"not within {timeout_s} s: {what}; the log says: {self.told()}")

    def told(self) -> str:
        """Give all it said, as text; the last 4,000 characters are enough to see why a test failed."""
        return "\n".join([*self.words, *map(json.dumps, self.lines)])[-4000:]

    def everything_said(self) -> str:
        """Give all it said, after its end, for looking for what must not be there."""
        self._reader.join(WAIT_S)
        return "\n".join([*self.words, *map(json.dumps, self.lines)])

    def command(self, *words: str, content: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        """Run a command of smarthost against this daemon."""
        return smarthost(*words, "--state-dir", str(self.state_dir), content=content)

    def queue(self) -> list[Line]:
        """Give `queue list --json`."""
        return [json.loads(line) for line in self.command("queue", "list", "--json").stdout.splitlines()]

    def stop(self) -> None:
        """SIGTERM, and what an operator expects of it: exit 0, no process left, no draft, no socket, no lock."""
        family = self._family()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(40)  # its own bound is 30 s
        self._close()
        _, alive = psutil.wait_procs(family, timeout=WAIT_S)
        assert code == 0, f"ended with {code}: {self.told()}"
        assert not self.words, f"not JSON: {self.words}"
        assert not [line for line in self.lines if line["what"] in BUGS], self.told()
        assert not alive, f"still there: {alive}"
        assert not list(self.state_dir.glob("content/*.draft"))
        assert not (self.state_dir / "control").exists()
        assert_unlocked(self.state_dir)

    def kill(self) -> None:
        """SIGKILL, as the OOM killer does it; waits for the store's process, which ends by itself."""
        family = self._family()
        self.process.kill()
        self.process.wait(WAIT_S)
        self._close()
        _, alive = psutil.wait_procs(family, timeout=WAIT_S)
        assert not alive, f"the store's process outlives its parent: {alive}"

    def _family(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _close(self) -> None:
        self._reader.join(WAIT_S)
        assert self.process.stderr is not None, "started with a pipe"
        self.process.stderr.close()


def smarthost(*words: str, content: bytes = b"", timeout_s: float = WAIT_S) -> "subprocess.CompletedProcess[bytes]":
    """Run a command of smarthost to its end."""
    return subprocess.run([*SMARTHOST, *words], input=content, capture_output=True, timeout=timeout_s, check=False)


def assert_unlocked(state_dir: Path) -> None:
    """A next daemon could start here at once."""
    fd = os.open(state_dir / "lock", os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(fd)


@contextmanager
def serving(
    state_dir: Path, *arguments: str, config: str = "", listen: Sequence[str] = (), quick: bool = True
) -> Iterator[Daemon]:
    """Run a daemon for a block; `quick`: what is deferred is tried again after a second, not after five minutes."""
    if quick and "[retry]" not in config:
        config += '\n[retry]\nfirst = "1s"\nlongest = "1s"\njitter = 0\n'
    with Daemon(state_dir, *arguments, config=config, listen=listen) as daemon:
        yield daemon


def eventually(is_true: Callable[[], object], what: str, timeout_s: float = WAIT_S) -> None:
    """Look until it is true, where nothing tells of it. Raises: AssertionError: it did not become true."""
    give_up_at = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > give_up_at:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.02)
