# SPDX-License-Identifier: MIT
"""tests.compat.live.program as a child process: started, and killed with SIGKILL.

Children are forked by a server that has done most of the imports (multiprocessing's "forkserver"), not by pytest.
Everything they say goes to a file, so that a test that fails can show it. No child outlives its block.
"""

import multiprocessing
import signal
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.compat.live.relaying import Terms
from tests.live.rig import WAIT_S


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.compat.live.preload"])
    return context


def _run(terms: Terms, said: str, accepts: bool, relays: bool, ready: Connection) -> None:
    from tests.compat.live.program import run  # here and not above: it has a reactor, which pytest's process has too

    run(terms, said, accepts, relays, ready)


class Child:
    """One life of the program; `port`: where it takes mail. Leaving the block kills it, if nobody has."""

    def __init__(self, terms: Terms, said: Path, *, accepts: bool = False, relays: bool = True) -> None:
        self.port = 0
        self._said = said
        self._ready, ready = _context().Pipe(duplex=False)
        arguments = (terms, str(said), accepts, relays, ready)
        self._process = _context().Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        ready.close()

    def __enter__(self) -> Self:
        try:
            assert self._ready.poll(WAIT_S), f"the program did not become ready: {self.told()}"
            self.port = self._ready.recv()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = self._process.exitcode
        self.kill()
        self._ready.close()
        assert kind or ended in (None, -signal.SIGKILL), f"the program ended by itself, with {ended}: {self.told()}"

    def kill(self) -> None:
        """SIGKILL, and wait until it has worked."""
        self._process.kill()
        self._process.join(WAIT_S)
        assert self._process.exitcode is not None, "SIGKILL works"

    def told(self) -> str:
        """Give the end of what it said."""
        return self._said.read_text(errors="replace")[-3000:] if self._said.exists() else "nothing"
