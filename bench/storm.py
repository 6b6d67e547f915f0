# SPDX-License-Identifier: MIT
"""What a storm of TLS handshakes does to a good client: its 250 beside the usual kept load, before the storm and in it.

The good client is the probe, on sessions that are open before the storm begins, in clear. The storm is tls_storm.py on
the same two cores: it takes what it gets from both systems alike. Every message must arrive here, too.
"""

import contextlib
import json
import sys
import time
from pathlib import Path

from bench import tls_storm
from bench.children import Child, Scratch
from bench.failure import RunFailed
from bench.figures import Storm
from bench.measure import Bench, end_system
from bench.options import Options
from bench.sink import MessageSink
from bench.system import StartSystem

CLIENTS = 200
_MEASURED_MESSAGES = 1000  # to learn the rate from, after the warm-up


class RunningStorm:
    """A storm that has broken loose."""

    def __init__(self, scratch: Scratch, port: int, clients: int = CLIENTS) -> None:
        self._scratch = scratch
        self._output = scratch.path / "storm.out"
        command: list[str | Path] = [sys.executable, tls_storm.__file__, "--port", str(port), "--clients", str(clients)]
        with self._output.open("wb") as out:
            self._child: Child = scratch.start("storm", command, stdout=out, stdin=True)
        deadline = time.monotonic() + 40
        while not self._output.read_bytes().startswith(b"storming\n"):
            if self._child.exit_code() is not None or time.monotonic() > deadline:
                raise RunFailed(f"the storm does not break loose: {self._child.complaint()}")
            time.sleep(0.01)

    def end(self) -> tuple[float, int]:
        """Let it die down; give handshakes/s and how many connections came to nothing."""
        with contextlib.suppress(BrokenPipeError):
            self._child.end_input()
        code = self._child.wait(20)
        self._child.kill_group()
        if code != 0:
            raise RunFailed(f"the storm ended with {code}: {self._child.complaint()}")
        said = json.loads(self._output.read_bytes().partition(b"\n")[2])
        return said.get("handshakes", 0) / said["seconds"], said.get("refused", 0)


def measure_storm(scratch: Scratch, options: Options, name: str, start: StartSystem, round_: int) -> Storm:
    """Measure one system, which `start` gives a certificate; a failure is told in the Storm."""
    sink = MessageSink(scratch)
    bench = Bench(scratch, options, "kept")
    try:
        system = start(scratch, scratch.directory(name), sink.port)
        bench.warm_up(system, sink)
        rate, _ = bench.push(system, sink, min(options.messages, _MEASURED_MESSAGES))
        calm, calm_rate = bench.probe_beside_load(system, sink, rate)
        storm = RunningStorm(scratch, system.port)
        amid, amid_rate = bench.probe_beside_load(system, sink, calm_rate / 2)
        handshakes, refused = storm.end()
        end_system(system, sink)
    except RunFailed as failed:
        return Storm(system=name, round=round_, failed=str(failed))
    finally:
        scratch.kill_children()
        sink.stop()
    return Storm(
        system=name,
        round=round_,
        clients=CLIENTS,
        handshake_rate=handshakes,
        refused=refused,
        calm=calm,
        amid=amid,
        calm_accept_rate=calm_rate,
        amid_accept_rate=amid_rate,
    )
