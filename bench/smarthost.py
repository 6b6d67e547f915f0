# SPDX-License-Identifier: MIT
"""smarthost as a system under test: `smarthost serve` in the foreground, found by its `ready` line."""

import json
import signal
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.children import Scratch
from bench.failure import RunFailed
from bench.network import await_banner
from bench.system import StartSystem, System

_READY_S = 30.0


def serve_command(program: Path, state: Path, sink_port: int | None, further: Sequence[str] = ()) -> list[str]:
    """Compose the command line; port 0: the `ready` line says which it became. Without a sink it delivers by MX."""
    place = ["--listen", "127.0.0.1:0", "--state-dir", str(state), "--hostname", "relay.bench.test"]
    hop = [] if sink_port is None else ["--next-hop", f"127.0.0.1:{sink_port}"]
    return [str(program), "serve", *place, *hop, *further]


def find_ready_port(lines: Iterable[bytes]) -> int | None:
    """Give the first port of the `ready` line among JSON log lines; None if it is not there yet."""
    for line in lines:
        if b'"ready"' not in line:
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("what") == "ready" and entry.get("listen"):
            return int(entry["listen"][0][1])
    return None


class Smarthost:
    """A running `smarthost serve`."""

    name = "smarthost"

    def __init__(
        self, scratch: Scratch, home: Path, sink_port: int | None, program: Path, further: Sequence[str]
    ) -> None:
        self._scratch = scratch
        state = home / "state"
        state.mkdir(mode=0o700)
        self._child = scratch.start("smarthost", serve_command(program.absolute(), state, sink_port, further))
        self.root_pid: int | None = self._child.pid
        self.port = self._await_ready()
        await_banner(self.port, self._child, _READY_S)

    def _await_ready(self) -> int:
        log = self._scratch.path / "smarthost.err"
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline:
            port = find_ready_port(log.read_bytes().splitlines())
            if port is not None:
                return port
            code = self._child.exit_code()
            if code is not None:
                raise RunFailed(f"smarthost ended with {code}: {self._scratch.complaint('smarthost')}")
            time.sleep(0.05)
        raise RunFailed(f"smarthost said no `ready` line within {_READY_S:.0f} s")

    def left_over(self) -> int | None:
        """Its queue is its own; that the sink has all, and that it drained and ended with 0, must do."""
        return None

    def stop(self) -> None:
        """SIGTERM: it drains and ends with 0."""
        code = self._child.stop(30, signal.SIGTERM)
        if code != 0:
            what = "did not end within 30 s" if code is None else f"ended with {code}"
            raise RunFailed(f"smarthost {what} after SIGTERM: {self._scratch.complaint('smarthost')}")


def smarthost_starter(program: Path, further: Sequence[str]) -> StartSystem:
    """Give what starts this program as the system under test."""

    def start(scratch: Scratch, home: Path, sink_port: int) -> System:
        return Smarthost(scratch, home, sink_port, program, further)

    return start
