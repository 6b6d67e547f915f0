# SPDX-License-Identifier: MIT
"""One run: a fresh sink, a fresh system, a warm-up, the idle probe, the timed load, the loaded probe, and the count.

Every message that anyone sent in a run must be at the sink, once, or the run is a failure and gives no figure.
"""

import os
import time
from collections.abc import Callable

from msgspec.structs import replace

from bench.certificate import Certificate
from bench.children import Scratch
from bench.failure import RunFailed
from bench.figures import Run
from bench.latency import Latency, RunningProbe, summarize
from bench.load import Load, RunningLoad
from bench.modes import MODES, PASSWORD, USER
from bench.options import Options
from bench.sink import MessageSink, Sink, TlsSink
from bench.surroundings import fdatasync_us
from bench.system import StartSystem, System
from bench.tree import MemorySampler, cpu_seconds

_WARM_UP = 200  # messages: Postfix forks its smtpd and smtp processes, Python specialises its bytecode
_IDLE_PROBES = 400  # messages on one session; the p99 rests on 4 of them
_SATURATED_S = 3.0  # how long the loop is kept busy for the loaded probe, by the rate of the timed load
_SATURATED_MOST = 20_000
_SETTLE_S = 0.3  # time in which a message delivered twice would show
_SLOWEST_RATE = 20.0  # messages/s; slower counts as hung


class Bench:
    """One system, one mode, one round, in its own directories.

    `during` is called when the timed load has begun. A mode with TLS needs the sink's certificate.
    """

    def __init__(
        self,
        scratch: Scratch,
        options: Options,
        mode: str,
        during: Callable[[System], None] | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        self._scratch = scratch
        self._options = options
        self._mode = MODES[mode]
        self._auth = f"{USER}:{PASSWORD}" if self._mode.auth else ""
        self._messages = max(1, round(options.messages * self._mode.share))
        self._certificate = certificate
        self._during = during

    def run(self, name: str, start: StartSystem, round_: int) -> Run:
        """Measure; a failure is told in the Run."""
        try:
            return self._measure(name, start, round_)
        except RunFailed as failed:
            return Run(system=name, mode=self._mode.name, round=round_, failed=str(failed))

    def _measure(self, name: str, start: StartSystem, round_: int) -> Run:
        disk_us, load_average = fdatasync_us(self._scratch.path), os.getloadavg()[0]
        sink = self._start_sink()
        try:
            system = start(self._scratch, self._scratch.directory(name), sink.port)
            figures = self._measure_system(system, sink, round_)
            end_system(system, sink)
            return replace(figures, fdatasync_us=disk_us, load_average=load_average)
        finally:
            self._scratch.kill_children()
            sink.stop()

    def _start_sink(self) -> Sink:
        if not self._mode.tls:
            return MessageSink(self._scratch)
        assert self._certificate is not None, "a mode with TLS needs a certificate"
        return TlsSink(self._scratch, self._certificate)

    def _measure_system(self, system: System, sink: Sink, round_: int) -> Run:
        sampler = MemorySampler(system.root_pid) if system.root_pid is not None else None
        try:
            self.warm_up(system, sink)
            idle = self._probe_idle(system, sink)
            began_cpu = cpu_seconds(system.root_pid) if system.root_pid is not None else None
            accept_rate, end_to_end_rate = self.push(system, sink, self._messages, self._during)
            cpu = None if began_cpu is None or system.root_pid is None else cpu_seconds(system.root_pid) - began_cpu
            saturated, beside = self.probe_beside_load(system, sink, accept_rate)
        finally:
            memory = sampler.stop() if sampler is not None else None
        return Run(
            system=system.name,
            mode=self._mode.name,
            round=round_,
            messages=self._messages,
            accept_rate=accept_rate,
            end_to_end_rate=end_to_end_rate,
            idle=idle,
            saturated=saturated,
            saturated_accept_rate=beside,
            memory=memory,
            cpu_us_per_message=None if cpu is None else cpu * 1e6 / self._messages,
        )

    def _load(self, messages: int) -> Load:
        options, mode = self._options, self._mode
        return Load(
            messages=messages,
            sessions=options.sessions,
            octets=options.octets,
            kept=mode.kept,
            tls=mode.tls,
            auth=self._auth,
        )

    def _probe(self, system: System, sessions: int, count: int = 0) -> RunningProbe:
        octets, mode = self._options.octets, self._mode
        return RunningProbe(self._scratch, system.port, sessions, octets, count, tls=mode.tls, auth=self._auth)

    def warm_up(self, system: System, sink: Sink) -> None:
        """Have everything forked and specialised that will be."""
        self.push(system, sink, _WARM_UP)

    def push(
        self, system: System, sink: Sink, messages: int, during: Callable[[System], None] | None = None
    ) -> tuple[float, float]:
        """Give messages/s until the last 250, and until the sink had the last one."""
        sink.mark()
        load = RunningLoad(self._scratch, self._load(messages), system.port)
        if during is not None:
            during(system)
        accepted = load.await_end(60 + messages / _SLOWEST_RATE)
        arrived = sink.await_count(messages, self._options.stall_s)
        return messages / (accepted - load.started), messages / (max(arrived, accepted) - load.started)

    def _probe_idle(self, system: System, sink: Sink) -> Latency | None:
        sink.mark()
        probe = self._probe(system, 1, _IDLE_PROBES)
        probe.go()
        replies = probe.await_end(120)
        sink.await_count(len(replies), self._options.stall_s)
        return summarize(replies, 0, float("inf"))

    def probe_beside_load(self, system: System, sink: Sink, rate: float) -> tuple[Latency | None, float]:
        """Probe for some seconds beside a load that goes at about `rate`; give the rate that it had, too."""
        messages = max(200, min(int(rate * _SATURATED_S), _SATURATED_MOST))
        sink.mark()
        probe = self._probe(system, self._options.probe_sessions)
        load = RunningLoad(self._scratch, self._load(messages), system.port)
        time.sleep(0.1)  # let all sessions of the load get going before the first probe
        probe.go()
        accepted = load.await_end(60 + messages / _SLOWEST_RATE)
        replies = probe.end()
        sink.await_count(messages + len(replies), self._options.stall_s)
        return summarize(replies, load.started, accepted), messages / (accepted - load.started)


def end_system(system: System, sink: Sink) -> None:
    """Stop the system; its queue must be empty, and nothing may arrive twice, not even while it drains."""
    at_end = sink.count()
    time.sleep(_SETTLE_S)
    deadline = time.monotonic() + 10
    while system.left_over() and time.monotonic() < deadline:
        time.sleep(0.05)
    left = system.left_over()
    if left:
        raise RunFailed(f"{left} messages are left in the queue although the sink has all")
    system.stop()
    sink.check_exactly(at_end)
