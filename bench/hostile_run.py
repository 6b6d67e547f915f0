# SPDX-License-Identifier: MIT
"""One run among hostile ones: a good sink, the hostile hosts, a fresh relay by MX, a good load, a probe, the attack.

Nothing waits for the queue to drain: with silent hosts it does not. The good load knows only the good host.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench import hostile_clients
from bench.certificate import Certificate, make_certificate
from bench.children import Child, Scratch
from bench.failure import RunFailed
from bench.hostile_figures import CLIENTS, HOSTS, HostileRun
from bench.hostile_options import LEARNING_S, HostileOptions
from bench.hostile_trickle import Trickle
from bench.hostile_ways import GOOD_ADDRESS, WAYS
from bench.latency import RunningProbe, summarize
from bench.load import Load, RunningLoad
from bench.modes import USER
from bench.network import free_port
from bench.sink import MessageSink
from bench.smarthost import Smarthost, hash_password
from bench.tree import MemorySampler, cpu_seconds

_OUR_NAME = "relay.bench.test"
_READY_S = 30.0
_ENDLESS = 100_000_000
_PROBES = 4
_STOPPED_S = 40.0  # must exceed the relay's grace of 30 s
_CONFIG = """
[tls]
certificate_file = "{certificate}"
key_file = "{key}"

[auth]
users_file = "{users}"

[[listener]]
listen = ["127.0.0.1:0"]
"""


class Player:
    """A program that plays hostile ones; says a line when it is ready, plays until its stdin ends, tells JSON then."""

    def __init__(self, scratch: Scratch, name: str, command: list[str]) -> None:
        self._output = scratch.path / f"{name}.out"
        with self._output.open("wb") as out:
            self._child: Child = scratch.start(name, command, stdout=out, stdin=True)
        deadline = time.monotonic() + _READY_S
        while b"\n" not in self._output.read_bytes():
            if self._child.exit_code() is not None or time.monotonic() > deadline:
                raise RunFailed(f"{name} did not come up: {self._child.complaint()}")
            time.sleep(0.01)
        self.pid = self._child.pid
        self.first = self._output.read_bytes().partition(b"\n")[0]

    def end(self) -> bytes:
        """Let it end; give what it said last. Raises: RunFailed."""
        self._child.end_input()
        code = self._child.wait(20)
        self._child.kill_group()
        if code != 0:
            raise RunFailed(f"{self._child.name} ended with {code}: {self._child.complaint()}")
        return self._output.read_bytes().rstrip().rpartition(b"\n")[2]


class HostileBench:
    """Measures worlds, one after the other."""

    def __init__(self, scratch: Scratch, options: HostileOptions) -> None:
        self._scratch = scratch
        self._options = options
        self._certificate = make_certificate(scratch.path)
        self._config = _write_config(scratch.path, self._certificate, hash_password(options.smarthost.absolute()))

    def run(self, world: str, round_: int, *, stops: bool = False) -> HostileRun:
        """Measure; a failure is told in the result. `stops`: see how long the relay needs to stop, too."""
        load_average = os.getloadavg()[0]
        port = free_port()
        sink = MessageSink(self._scratch, at=(GOOD_ADDRESS, port))
        try:
            hosts = self._start_hosts(port)
            relay = self._start_relay(port, json.loads(hosts.first)["dns"])
            with self._trickling(world, relay.port) as trickle:
                return self._measure(world, round_, load_average, sink, hosts, relay, trickle, stops)
        except (RunFailed, OSError) as failed:
            return HostileRun(world=world, round=round_, failed=str(failed))
        finally:
            self._scratch.kill_children()
            sink.stop()
            self._scratch.directory("relay")  # empty it: a backlog is large

    def _start_hosts(self, port: int) -> Player:
        """They are there in every world, so that each has the same name server and nothing else differs."""
        files = [str(self._certificate.certificate), str(self._certificate.key)]
        return Player(
            self._scratch, "hosts", [sys.executable, "-m", "bench.hostile_hosts", str(port), _OUR_NAME, *files]
        )

    def _start_relay(self, port: int, dns: int) -> Smarthost:
        further = ("--dns", f"127.0.0.1:{dns}", "--mx-port", str(port), "--allow-private")
        home = self._scratch.directory("relay")
        options = self._options
        return Smarthost(
            self._scratch, home, None, options.smarthost, (*further, *options.smarthost_args), self._config
        )

    @contextmanager
    def _trickling(self, world: str, port: int) -> Iterator[Trickle | None]:
        if world != HOSTS:
            yield None
            return
        trickle = Trickle(port, self._options.trickle, self._options.octets)
        trickle.start()
        try:
            yield trickle
        finally:
            trickle.stop()

    def _measure(
        self,
        world: str,
        round_: int,
        load_average: float,
        sink: MessageSink,
        hosts: Player,
        relay: Smarthost,
        trickle: Trickle | None,
        stops: bool,
    ) -> HostileRun:
        options, scratch = self._options, self._scratch
        pid = relay.root_pid
        assert pid is not None, "it is a process"
        load = Load(messages=_ENDLESS, sessions=options.sessions, octets=options.octets, kept=True, counted=True)
        running = RunningLoad(scratch, load, relay.port)
        probe = RunningProbe(scratch, relay.port, _PROBES, options.octets)
        probe.go()
        attackers: Player | None = None
        if world == CLIENTS:
            program = [sys.executable, hostile_clients.__file__, str(relay.port), *options.attacks]
            attackers = Player(scratch, "attackers", program)
        time.sleep(LEARNING_S)
        player = hosts if attackers is None else attackers
        began = time.monotonic()
        first = (sink.total(), running.accepted(), cpu_seconds(pid), cpu_seconds(player.pid))
        sent = 0 if trickle is None else trickle.sent
        sampler = MemorySampler(pid)
        time.sleep(options.window_s)
        ended = time.monotonic()
        last = (sink.total(), running.accepted(), cpu_seconds(pid), cpu_seconds(player.pid))
        memory = sampler.stop()
        arrived, accepted, cores, steal = (
            (late - early) / (ended - began) for early, late in zip(first, last, strict=True)
        )
        trickled = 0.0 if trickle is None else (trickle.sent - sent) / (ended - began)
        if not running.running():
            raise RunFailed(f"smtp-source ended: {running.child.complaint()}")
        if trickle is not None and trickle.failed:
            raise RunFailed(f"the trickle ended: {trickle.failed}")
        replies = probe.end()
        running.child.kill_group()
        waiting = 0 if trickle is None else self._count_waiting()
        stop_s = self._stop(pid) if stops else None
        latency = summarize(replies, began, ended)
        return HostileRun(
            world=world,
            round=round_,
            rate=arrived,
            accept_rate=accepted + (0 if latency is None else latency.samples / (ended - began)),
            latency=latency,
            cores=cores,
            steal=steal,
            memory_mib=memory.rss_mib,
            waiting=waiting,
            trickled=trickled,
            seen=_read_seen(player, world, options.attacks or tuple(hostile_clients.ATTACKS)),
            stop_s=stop_s,
            load_average=load_average,
        )

    def _count_waiting(self) -> int:
        """Count the hostile domains that have mail in the queue: all whose mail is not taken or returned at once."""
        command: list[str | Path] = [self._options.smarthost, "queue", "list", "--json", "--from", "<>"]
        state = self._scratch.path / "relay" / "state"
        answer = subprocess.run([*command, "--state-dir", state], capture_output=True, check=False, timeout=60)
        messages = [json.loads(line) for line in answer.stdout.splitlines()]
        domains = {way.domain for way in WAYS}
        there = {each["address"].partition("@")[2] for message in messages for each in message["recipients"]}
        return len(there & domains)

    def _stop(self, pid: int) -> float:
        """SIGTERM, and wait for its end; silent hosts have it use its whole grace. Raises: RunFailed."""
        began = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        while time.monotonic() - began < _STOPPED_S:
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None and ended.si_status == 0:
                return time.monotonic() - began
            if ended is not None:
                raise RunFailed(f"smarthost ended with {ended.si_status}: {self._scratch.complaint('smarthost')}")
            time.sleep(0.05)
        raise RunFailed(f"smarthost did not end within {_STOPPED_S:.0f} s of SIGTERM")


def _read_seen(player: Player, world: str, kinds: Sequence[str]) -> dict[str, int]:
    """Give what was played. Raises: RunFailed: not all of it was, so that something else was measured."""
    said = json.loads(player.end())
    if world == CLIENTS:
        begun: dict[str, int] = said["begun"]
        missing = [kind for kind in kinds if not begun.get(kind)]
        if said["failed"]:
            raise RunFailed(f"attackers broke: {said['failed'][:3]}")
    else:
        begun = {domain: each["connections"] for domain, each in said.items()}
        quiet = {way.domain for way in WAYS if way.is_us or way.name in ("refuses", "black hole")}
        missing = [domain for domain, number in begun.items() if not number and domain not in quiet]
    if world in (CLIENTS, HOSTS) and missing:
        raise RunFailed(f"never seen: {', '.join(missing)}")
    return begun


def _write_config(directory: Path, certificate: Certificate, hash_: str) -> Path:
    users = directory / "users.toml"
    users.touch(mode=0o600)
    users.write_text(f'[{USER}]\npassword = "{hash_}"\nsenders = ["*"]\n')
    config = directory / "smarthost.toml"
    demands = "".join(f'\n[[route]]\ndomains = ["{way.domain}"]\ntls = "{way.tls}"\n' for way in WAYS if way.tls)
    config.write_text(_CONFIG.format(certificate=certificate.certificate, key=certificate.key, users=users) + demands)
    return config
