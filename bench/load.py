# SPDX-License-Identifier: MIT
"""Postfix's smtp-source as load, or, inside TLS, tls_load.py: a fresh connection per message or kept ones."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from bench import tls_load
from bench.children import Child, Scratch
from bench.failure import RunFailed
from bench.programs import require_program
from bench.sink import CounterFile


class Load(Struct, frozen=True, kw_only=True):
    """How to push.

    `kept`: -d, sessions stay open. `numbered`: -N, each recipient differs. `counted`: -c, it tells what was accepted.
    `tls`: STARTTLS, and then AUTH PLAIN as `auth`, NAME:PASSWORD, if that is not empty; neither numbered nor counted.
    """

    messages: int
    sessions: int
    octets: int
    kept: bool
    numbered: bool = False
    recipient: str = "to@sink.test"
    counted: bool = False
    tls: bool = False
    auth: str = ""


def source_command(load: Load, port: int, program: str) -> list[str]:
    """Compose smtp-source's command line; -4 and fixed addresses so that nothing is looked up."""
    flags = [*(["-d"] if load.kept else []), *(["-N"] if load.numbered else []), *(["-c"] if load.counted else [])]
    sizes = ["-s", str(load.sessions), "-m", str(load.messages), "-l", str(load.octets)]
    addresses = ["-M", "source.bench.test", "-f", "from@bench.test", "-t", load.recipient]
    return [program, "-4", *flags, *sizes, *addresses, f"127.0.0.1:{port}"]


def tls_command(load: Load, port: int) -> list[str]:
    """Compose the command line of tls_load.py."""
    assert not load.numbered, "tls_load.py cannot"
    assert not load.counted, "tls_load.py cannot"
    numbers = {"--port": port, "--sessions": load.sessions, "--messages": load.messages, "--octets": load.octets}
    flags = [text for name, number in numbers.items() for text in (name, str(number))]
    flags += [*(["--kept"] if load.kept else []), *(["--auth", load.auth] if load.auth else [])]
    return [sys.executable, str(Path(tls_load.__file__)), *flags]


def _command(load: Load, port: int) -> Sequence[str]:
    return tls_command(load, port) if load.tls else source_command(load, port, require_program("smtp-source"))


class RunningLoad:
    """A load at work; `started` is monotonic."""

    def __init__(self, scratch: Scratch, load: Load, port: int, name: str = "source") -> None:
        self._scratch = scratch
        self.load = load
        self._program = "tls_load.py" if load.tls else "smtp-source"
        command = _command(load, port)
        self.started = time.monotonic()
        self._output = scratch.path / f"{name}.out"
        with self._output.open("wb") as out:
            self.child: Child = scratch.start(name, command, stdout=out)

    def await_end(self, timeout_s: float) -> float:
        """Wait until every message was answered 250 and give the monotonic time of that.

        Raises: RunFailed: it was refused, or did not end in time; the load gives up at the first bad reply.
        """
        code = self.child.wait(timeout_s)
        ended = time.monotonic()
        if code is None:
            self.child.kill_group()
            raise RunFailed(f"{self._program} did not end within {timeout_s:.0f} s")
        self.child.kill_group()
        if code != 0:
            raise RunFailed(f"{self._program} ended with {code}: {self.child.complaint()}")
        return ended

    def accepted(self) -> int:
        """Give how many messages were answered 250 so far, if it was told to count."""
        counter = CounterFile(self._output)
        try:
            return counter.read()
        finally:
            counter.close()

    def running(self) -> bool:
        """Is it still pushing?"""
        return self.child.exit_code() is None
