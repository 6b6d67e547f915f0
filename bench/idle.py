# SPDX-License-Identifier: MIT
"""`make bench-idle`: what clients that say nothing cost: memory for each, and a good client's 250 beside all of them.

A good client is timed with nobody else there, on a kept session and with a session a message; then so many others
connect, from a hundred each of 127.0.0.0/8, read the banner, say EHLO, and are silent; and it is timed again. Then all
of it once more with STARTTLS (told, not judged). Memory is the growth of the resident set of the whole process tree
since the relay began, what the timed messages left there included.
Exit codes as in `python -m bench`; ends by itself, in some two minutes.
"""

import argparse
import resource
import socket
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from msgspec import Struct

from bench.certificate import Certificate, make_certificate
from bench.children import Scratch
from bench.ending import measure_in_scratch
from bench.failure import RunFailed
from bench.latency import Latency, RunningProbe, summarize
from bench.modes import MODES
from bench.options import Parser, at_least_one
from bench.report import write_report
from bench.sink import MessageSink
from bench.smarthost import Smarthost, write_config
from bench.statistic import median
from bench.tls_load import make_context
from bench.tree import list_tree, parse_rollup

MOST_KIB = 20.0  # for each idle connection
MOST_TIMES = 2.0  # the good client's p99 beside them, by its p99 alone
_SPARE = 100  # descriptors that are not clients'
_EACH_ADDRESS = 100
_PROBES = 400
_TRIES = 3  # of 400 messages each; the median of their p99 counts, for a p99 of 400 rests on four of them
_FIRST = 20  # messages before the memory is looked at: what all that follows leaves in the heap counts, too
_WARM_UP = 1000
_LIMITS = "\n[limits]\nconnections = {connections}\nconnections_per_client = 1000\n"


class Crowd(Struct, frozen=True, kw_only=True):
    """What one crowd of idle clients did. Spans are medians of the tries' own, in microseconds."""

    tls: bool
    connections: int
    kib_each: float
    rss_mib: float  # of the whole tree, with all of them
    opened_s: float
    alone: dict[str, tuple[float, float]]  # kept, fresh: p50 and p99 with nobody else there
    beside: dict[str, tuple[float, float]]

    def times(self, way: str) -> float:
        """How many times as long the p99 became."""
        return self.beside[way][1] / self.alone[way][1]


def raise_limit(connections: int) -> int:
    """Raise the limit of descriptors, ours and our children's; give how many connections fit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return min(connections, most - _SPARE)


def resident_octets(root: int) -> int:
    """Give the resident set of a process tree."""
    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in list_tree(root)]
    return sum(parse_rollup(text)[0] for text in rollups)


def open_idle(port: int, number: int, tls: bool) -> socket.socket:
    """Connect, hear the banner, say EHLO (again inside TLS, if wanted), and leave it at that."""
    address = number // _EACH_ADDRESS
    source = (f"127.1.{address // 250}.{1 + address % 250}", 0)
    peer = socket.create_connection(("127.0.0.1", port), 30, source)
    try:
        _hear(peer, b"220")
        _ask(peer, b"EHLO idle.bench.test\r\n", b"250")
        if tls:
            _ask(peer, b"STARTTLS\r\n", b"220")
            peer = _CONTEXT.wrap_socket(peer)
            _ask(peer, b"EHLO idle.bench.test\r\n", b"250")
    except (OSError, RunFailed):
        peer.close()
        raise
    return peer


_CONTEXT = make_context()


def _ask(peer: socket.socket, octets: bytes, code: bytes) -> None:
    peer.sendall(octets)
    _hear(peer, code)


def _hear(peer: socket.socket, code: bytes) -> None:
    reply = b""
    while not reply.endswith(b"\n") or reply[reply.rfind(b"\n", 0, -1) + 1 :][3:4] == b"-":
        chunk = peer.recv(4096)
        if not chunk:
            raise RunFailed(f"hung up on after {reply!r}")
        reply += chunk
    if not reply.startswith(code):
        raise RunFailed(f"an idle client was told {reply!r}")


class Idle:
    """One relay in a fresh directory and its sink, and what is done to them."""

    def __init__(self, scratch: Scratch, program: Path, connections: int, certificate: Certificate) -> None:
        self._scratch = scratch
        self._connections = connections
        home = scratch.directory("smarthost")
        config = write_config(home, MODES["tls"], certificate, "")
        with config.open("a") as more:
            more.write(_LIMITS.format(connections=connections + _SPARE))
        self._sink = MessageSink(scratch)
        self._relay = Smarthost(scratch, home, self._sink.port, program, (), config)

    def measure(self, tls: bool) -> Crowd:
        """Time alone, let them come, time beside them. Raises: RunFailed."""
        assert self._relay.root_pid is not None
        self._time(_FIRST, fresh=True)
        before = resident_octets(self._relay.root_pid)
        self._time(_WARM_UP, fresh=True)
        alone = self._time_all()
        began = time.monotonic()
        idle = []
        try:
            for number in range(self._connections):
                idle.append(open_idle(self._relay.port, number, tls))
            opened_s = time.monotonic() - began
            after = resident_octets(self._relay.root_pid)
            beside = self._time_all()
            _check_there(idle)
        finally:
            for peer in idle:
                peer.close()
        return Crowd(
            tls=tls,
            connections=len(idle),
            kib_each=(after - before) / len(idle) / 1024,
            rss_mib=after / 1024 / 1024,
            opened_s=opened_s,
            alone=alone,
            beside=beside,
        )

    def _time_all(self) -> dict[str, tuple[float, float]]:
        spans: dict[str, tuple[float, float]] = {}
        for way in ("kept", "fresh"):
            tries = [self._time(_PROBES, fresh=way == "fresh") for _ in range(_TRIES)]
            p50, p99 = median(each.p50_us for each in tries), median(each.p99_us for each in tries)
            assert p50 is not None, "every try has figures"
            assert p99 is not None, "every try has figures"
            spans[way] = (p50, p99)
        return spans

    def _time(self, messages: int, *, fresh: bool) -> Latency:
        self._sink.mark()
        probe = RunningProbe(self._scratch, self._relay.port, 1, 5120, messages, fresh=fresh)
        probe.go()
        replies = probe.await_end(120)
        self._sink.await_count(len(replies), 30)
        latency = summarize(replies, 0, float("inf"))
        assert latency is not None, "the probe ended well, so it was answered"
        return latency

    def stop(self) -> None:
        """End the relay in good order. Raises: RunFailed."""
        self._relay.stop()


def _check_there(idle: Sequence[socket.socket]) -> None:
    """Raises: RunFailed: someone was hung up on meanwhile."""
    for peer in (idle[0], idle[len(idle) // 2], idle[-1]):
        _ask(peer, b"NOOP\r\n", b"250")


def show_crowd(crowd: Crowd) -> str:
    """Compose the lines on one crowd."""
    kind = "inside TLS" if crowd.tls else "in clear"
    lines = [
        f"{crowd.connections} idle connections {kind}: {crowd.kib_each:.1f} KiB each, {crowd.rss_mib:.0f} MiB in all;"
        f" opened in {crowd.opened_s:.1f} s"
    ]
    for way in crowd.alone:
        (p50, p99), (p50_beside, p99_beside) = crowd.alone[way], crowd.beside[way]
        lines.append(
            f"  good client, {way:<5} 250 alone p50 {p50 / 1000:.2f} p99 {p99 / 1000:.2f} ms; beside them"
            f" p50 {p50_beside / 1000:.2f} p99 {p99_beside / 1000:.2f} ms: {crowd.times(way):.2f} times"
        )
    return "\n".join(lines)


def judge_crowd(crowd: Crowd) -> list[tuple[bool, str]]:
    """Hold a crowd in clear against the gate; one inside TLS is not judged."""
    if crowd.tls:
        return []
    verdicts = [(crowd.kib_each < MOST_KIB, f"{crowd.kib_each:.1f} KiB each (below {MOST_KIB:.0f})")]
    for way in crowd.alone:
        text = f"{way}: p99 of the 250 {crowd.times(way):.2f} times that without them (at most {MOST_TIMES:.0f})"
        verdicts.append((crowd.times(way) <= MOST_TIMES, text))
    return verdicts


def _run(asked: argparse.Namespace, scratch: Scratch) -> int:
    connections = raise_limit(asked.connections)
    if connections < asked.connections:
        print(f"WARNING: the hard limit of descriptors leaves room for {connections} connections only", flush=True)
    certificate = make_certificate(scratch.path)
    crowds: list[Crowd] = []
    for tls in (False, True) if asked.tls else (False,):
        try:
            idle = Idle(scratch, asked.smarthost, connections, certificate)
            crowds.append(idle.measure(tls))
            idle.stop()
        except (OSError, RunFailed) as failed:
            print(f"FAIL  {failed}")
            return 1
        finally:
            scratch.kill_children()
        print(show_crowd(crowds[-1]), flush=True)
    verdicts = [verdict for crowd in crowds for verdict in judge_crowd(crowd)]
    for passed, text in verdicts:
        print(f"{'pass' if passed else 'FAIL'}  {text}")
    path = asked.out / f"idle-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    write_report(Crowds(crowds=tuple(crowds)), path)
    print(f"wrote {path}")
    return 0 if asked.no_gate or all(passed for passed, _ in verdicts) else 1


class Crowds(Struct, frozen=True):
    """The JSON file."""

    crowds: tuple[Crowd, ...]


def main(argv: Sequence[str]) -> int:
    """Measure, show, judge, and give the exit code."""
    parser = Parser(prog="python -m bench.idle", description=__doc__)
    parser.add_argument("--connections", type=at_least_one, default=10_000)
    parser.add_argument("--no-tls", dest="tls", action="store_false", help="in clear only")
    parser.add_argument("--no-gate", action="store_true", help="do not judge the figures")
    parser.add_argument("--scratch", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    parser.add_argument("--smarthost", type=Path, default=Path(".venv/bin/smarthost"))
    asked = parser.parse_args(argv)
    return measure_in_scratch(asked.scratch, partial(_run, asked))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
