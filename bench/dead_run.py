# SPDX-License-Identifier: MIT
"""One run: exchangers, a fresh relay, an endless load; arrivals are watched, then everything is killed.

Nothing waits for the queue to drain: with dead exchangers it does not. What arrives is counted at the exchangers, four
times a second, so that it does not matter what a relay has accepted and still holds.
"""

import os
import time
from collections.abc import Sequence

from bench.children import Scratch
from bench.dead_figures import DeadRun, Sample, each_second, rates
from bench.dead_options import LEARNING_S, DeadOptions
from bench.dead_scenarios import ENDLESS, Scenario, compose_loads
from bench.dead_world import DeadHost, LivingHost, StartByMx, start_dns, start_host
from bench.failure import RunFailed
from bench.load import Load, RunningLoad
from bench.sink import MessageSink
from bench.system import System
from bench.tree import cpu_seconds

_SAMPLE_S = 0.25  # a look at Postfix's 80 processes costs 3 ms
_CEILING_S = 2.0

Hosts = Sequence[DeadHost | LivingHost]


class DeadBench:
    """Measures systems in scenarios, one after the other."""

    def __init__(self, scratch: Scratch, options: DeadOptions) -> None:
        self._scratch = scratch
        self._options = options

    def run(self, name: str, start: StartByMx, scenario: Scenario, round_: int) -> DeadRun:
        """Measure; a failure is told in the DeadRun."""
        hosts: list[DeadHost | LivingHost] = []
        load_average = os.getloadavg()[0]
        try:
            start_dns(self._scratch)
            hosts += [start_host(self._scratch, address, way) for address, way in scenario.hosts]
            system = start(self._scratch, self._scratch.directory(name))
            samples = self._watch(hosts, self._start_loads(scenario, system.port), system)
            for host in hosts:
                host.check()
            if scenario.is_reference and samples[0].arrived == samples[-1].arrived:
                raise RunFailed("nothing arrived although all are alive")
            return self._figures(name, scenario, round_, samples, load_average)
        except RunFailed as failed:
            return DeadRun(system=name, way=scenario.way, round=round_, failed=str(failed))
        finally:
            self._scratch.kill_children()
            for host in hosts:
                host.close()
            self._scratch.directory(name)  # empty it: a backlog is large

    def _start_loads(self, scenario: Scenario, port: int) -> list[RunningLoad]:
        loads = compose_loads(scenario, self._options.sessions, self._options.octets)
        return [RunningLoad(self._scratch, load, port, f"source-{n}") for n, load in enumerate(loads)]

    def _watch(self, hosts: Hosts, loads: Sequence[RunningLoad], system: System) -> list[Sample]:
        """Count until the window is over. Raises: RunFailed: a load ended before."""
        began = loads[0].started
        samples: list[Sample] = []
        while not samples or samples[-1].at_s < LEARNING_S + self._options.window_s:
            time.sleep(_SAMPLE_S)
            arrived, accepted = tuple(host.total() for host in hosts), sum(load.accepted() for load in loads)
            cpu_s = 0.0 if system.root_pid is None else cpu_seconds(system.root_pid)
            samples.append(Sample(time.monotonic() - began, arrived, accepted, cpu_s))
            for load in loads:
                if not load.running():
                    raise RunFailed(f"after {samples[-1].at_s:.1f} s smtp-source ended: {load.child.complaint()}")
        return samples

    def _figures(
        self, name: str, scenario: Scenario, round_: int, samples: Sequence[Sample], load_average: float
    ) -> DeadRun:
        addresses = [address for address, _ in scenario.hosts]
        counted = [addresses.index(address) for address in scenario.counted]
        until = samples[-1].at_s
        *by_host, accepted, cores = rates(samples, LEARNING_S, until)
        learning = rates(samples, 0.0, LEARNING_S)
        narrowed = [Sample(sample.at_s, tuple(sample.arrived[n] for n in counted)) for sample in samples]
        return DeadRun(
            system=name,
            way=scenario.way,
            round=round_,
            rate=sum(by_host[n] for n in counted),
            learning_rate=sum(learning[n] for n in counted),
            accept_rate=accepted,
            cores=cores,
            by_host=dict(zip(addresses, by_host, strict=True)),
            each_second=each_second(narrowed),
            load_average=load_average,
        )

    def ceiling(self) -> float:
        """Give what one smtp-source puts into one smtp-sink, in messages/s. Raises: RunFailed."""
        try:
            sink = MessageSink(self._scratch)
            options = self._options
            load = Load(messages=ENDLESS, sessions=options.sessions, octets=options.octets, kept=True)
            running = RunningLoad(self._scratch, load, sink.port)
            time.sleep(_CEILING_S / 4)
            sink.mark()
            began = time.monotonic()
            time.sleep(_CEILING_S)
            rate = sink.count() / (time.monotonic() - began)
            if not running.running():
                raise RunFailed(f"smtp-source ended: {running.child.complaint()}")
            sink.stop()
            return rate
        finally:
            self._scratch.kill_children()
