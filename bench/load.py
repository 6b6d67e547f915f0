# SPDX-License-Identifier: MIT
"""Postfix's smtp-source as load: `sessions` at once, a fresh connection per message or kept ones."""

import time

from msgspec import Struct

from bench.children import Child, Scratch
from bench.failure import RunFailed
from bench.programs import require_program
from bench.sink import CounterFile


class Load(Struct, frozen=True, kw_only=True):
    """How smtp-source is to push.

    `kept`: -d, sessions stay open. `numbered`: -N, each recipient differs. `counted`: -c, it tells what was accepted.
    """

    messages: int
    sessions: int
    octets: int
    kept: bool
    numbered: bool = False
    recipient: str = "to@sink.test"
    counted: bool = False


def source_command(load: Load, port: int, program: str) -> list[str]:
    """Compose smtp-source's command line; -4 and fixed addresses so that nothing is looked up."""
    flags = [*(["-d"] if load.kept else []), *(["-N"] if load.numbered else []), *(["-c"] if load.counted else [])]
    sizes = ["-s", str(load.sessions), "-m", str(load.messages), "-l", str(load.octets)]
    addresses = ["-M", "source.bench.test", "-f", "from@bench.test", "-t", load.recipient]
    return [program, "-4", *flags, *sizes, *addresses, f"127.0.0.1:{port}"]


class RunningLoad:
    """A smtp-source at work; `started` is monotonic."""

    def __init__(self, scratch: Scratch, load: Load, port: int, name: str = "source") -> None:
        self._scratch = scratch
        self.load = load
        command = source_command(load, port, require_program("smtp-source"))
        self.started = time.monotonic()
        self._output = scratch.path / f"{name}.out"
        with self._output.open("wb") as out:
            self.child: Child = scratch.start(name, command, stdout=out)

    def await_end(self, timeout_s: float) -> float:
        """Wait until every message was answered 250 and give the monotonic time of that.

        Raises: RunFailed: it was refused, or did not end in time; smtp-source gives up at the first bad reply.
        """
        code = self.child.wait(timeout_s)
        ended = time.monotonic()
        if code is None:
            self.child.kill_group()
            raise RunFailed(f"smtp-source did not end within {timeout_s:.0f} s")
        self.child.kill_group()
        if code != 0:
            raise RunFailed(f"smtp-source ended with {code}: {self.child.complaint()}")
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
