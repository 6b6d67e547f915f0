# SPDX-License-Identifier: MIT
"""The program of tests.compat.live.program as a child process: started, and killed with SIGKILL.

Everything it says goes to a file, so that a test that fails can show it. No child outlives its block.
"""

import json
import select
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.compat.live.relaying import Terms
from tests.live.rig import WAIT_S


class Child:
    """One life of the program; `port`: where it takes mail. Leaving the block kills it, if nobody has."""

    def __init__(self, terms: Terms, log: Path, *, accepts: bool = False, relays: bool = True) -> None:
        self.port = 0
        self._log = log
        orders = {**asdict(terms), "accepts": accepts, "relays": relays}
        with log.open("ab") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.compat.live.program", json.dumps(orders)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
            )

    def __enter__(self) -> Self:
        try:
            self.port = int(self._line())
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = self._process.poll()
        self.kill()
        assert kind is not None or ended in (None, -9), f"the program ended by itself, with {ended}: {self.told()}"

    def kill(self) -> None:
        """SIGKILL, and wait until it has worked."""
        self._process.kill()
        self._process.wait(WAIT_S)
        assert self._process.stdout is not None, "started with a pipe"
        self._process.stdout.close()

    def told(self) -> str:
        """Give the end of what it said."""
        return self._log.read_text(errors="replace")[-3000:]

    def _line(self) -> bytes:
        assert self._process.stdout is not None, "started with a pipe"
        readable, _, _ = select.select([self._process.stdout], [], [], WAIT_S)
        line = self._process.stdout.readline() if readable else b""
        assert line, f"the program did not become ready: {self.told()}"
        return line
