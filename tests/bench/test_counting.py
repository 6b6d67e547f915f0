# SPDX-License-Identifier: MIT
"""The benchmark against relays that lose or double mail, and a sink that dies: none of these may give a figure."""

import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.audit import audit
from bench.children import Scratch
from bench.failure import RunFailed
from bench.load import Load, RunningLoad
from bench.measure import Bench
from bench.network import await_banner, free_port
from bench.options import Options
from bench.programs import find_program
from bench.sink import MessageSink
from bench.system import StartSystem, System, start_ceiling
from msgspec.structs import replace

from bench import measure

pytestmark = [
    pytest.mark.slow,
    pytest.mark.interop,
    pytest.mark.skipif(
        find_program("smtp-source") is None or find_program("smtp-sink") is None,
        reason="smtp-source or smtp-sink is not installed: run tools/system-packages",
    ),
]
OPTIONS = Options(messages=120, sessions=4, octets=500, probe_sessions=1, stall_s=1.0)


class LeakyRelay:
    """A bad relay as system under test."""

    name = "leaky"

    def __init__(self, scratch: Scratch, sink_port: int, fault: str) -> None:
        self.port = free_port()
        script = Path(__file__).parent / "leaky_relay.py"
        self._child = scratch.start("leaky", [sys.executable, script, str(self.port), str(sink_port), fault])
        self.root_pid: int | None = self._child.pid
        await_banner(self.port, self._child, 10)

    def left_over(self) -> int | None:
        return 0

    def stop(self) -> None:
        self._child.stop(5)


@pytest.fixture
def scratch(open_directory: Path) -> Iterator[Scratch]:
    """A run's directory, gone afterwards."""
    with Scratch(open_directory) as made:
        yield made
    assert list(open_directory.iterdir()) == []


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small phases: what is tested is counting."""
    for name, number in (("_WARM_UP", 5), ("_IDLE_PROBES", 5), ("_SATURATED_S", 0.5), ("_SATURATED_MOST", 1500)):
        monkeypatch.setattr(measure, name, number)


def leaky(fault: str) -> StartSystem:
    """Start a relay with this fault."""

    def start(scratch: Scratch, home: Path, sink_port: int) -> System:
        return LeakyRelay(scratch, sink_port, fault)

    return start


def test_honest_relay_gives_figures(scratch: Scratch) -> None:
    """All phases run, every message is counted, and every figure is there."""
    patient = replace(OPTIONS, messages=600, stall_s=20.0)  # /proc counts CPU in 10 ms; a busy machine stalls by itself

    run = Bench(scratch, patient, "kept").run("leaky", leaky("honest"), 1)

    assert run.failed is None
    assert run.accept_rate is not None
    assert run.end_to_end_rate is not None
    assert 0 < run.end_to_end_rate <= run.accept_rate
    assert run.idle is not None
    assert run.idle.samples == 5
    assert run.saturated is not None
    assert run.memory is not None
    assert run.memory.rss_mib > 5
    assert run.cpu_us_per_message is not None
    assert run.cpu_us_per_message > 0


@pytest.mark.parametrize(
    ("fault", "says"),
    [("lose", r"of \d+ messages and nothing came for 1 s"), ("double", r"too many \(delivered twice\)")],
)
@pytest.mark.parametrize("mode", ["fresh", "kept"])
def test_lost_or_doubled_message_is_a_failure(scratch: Scratch, fault: str, says: str, mode: str) -> None:
    """One message in fifty lost, or sent twice: no figure."""
    run = Bench(scratch, OPTIONS, mode).run("leaky", leaky(fault), 1)

    assert run.failed is not None
    assert re.search(says, run.failed)
    assert run.end_to_end_rate is None


def test_message_lost_beside_the_probe_is_a_failure(scratch: Scratch) -> None:
    """The timed load was whole, but of the load beside the second probe one in fifty is missing: no figure either."""
    run = Bench(scratch, OPTIONS, "kept").run("leaky", leaky("late"), 1)

    assert run.failed is not None
    assert "nothing came for 1 s" in run.failed


@pytest.mark.parametrize(
    ("fault", "says"),
    [("honest", "each at the sink once"), ("swap", "FAILED: 10 missing"), ("lose", "FAILED: the sink has 490 of 500")],
)
def test_audit_tells_messages_apart(scratch: Scratch, fault: str, says: str) -> None:
    """A relay that loses one message for each that it doubles has the right count, and is found out."""
    patient = replace(OPTIONS, stall_s=1.0 if fault == "lose" else 20.0)

    assert says in audit(scratch, patient, "leaky", leaky(fault))


def test_dying_sink_is_a_failure(scratch: Scratch) -> None:
    """A sink that is killed in the middle of a load is told as such, at once."""
    sink = MessageSink(scratch)
    load = RunningLoad(scratch, Load(messages=200_000, sessions=4, octets=500, kept=True), sink.port)
    while sink.count() == 0:
        assert load.running()

    sink.child.stop(5, signal.SIGKILL)

    with pytest.raises(RunFailed, match=r"smtp-source ended with"):
        load.await_end(20)
    with pytest.raises(RunFailed, match=r"the sink ended with -9 at \d+ of 200000"):
        sink.await_count(200_000, 10)
    sink.stop()


def test_ceiling_counts_from_the_mark(scratch: Scratch) -> None:
    """What came before the mark does not count, what comes after does."""
    sink = MessageSink(scratch)
    system = start_ceiling(scratch, scratch.path, sink.port)
    for messages in (30, 50):
        sink.mark()
        RunningLoad(scratch, Load(messages=messages, sessions=3, octets=500, kept=False), system.port).await_end(20)
        sink.await_count(messages, 2)

    assert (sink.count(), sink.total()) == (50, 80)
    sink.stop()
