# SPDX-License-Identifier: MIT
"""What idle clients cost: the gate, and a small crowd against the real relay."""

from pathlib import Path

import pytest
from bench.certificate import make_certificate
from bench.children import Scratch
from bench.idle import Crowd, Idle, judge_crowd, show_crowd
from bench.programs import find_program

from bench import idle

PROGRAM = Path(__file__).parents[2] / ".venv" / "bin" / "smarthost"


def a_crowd(kib_each: float = 5.0, p99: float = 1500.0, tls: bool = False) -> Crowd:
    """Ten thousand, beside whom the p99 of 1 ms became this."""
    spans = {"kept": (500.0, 1000.0), "fresh": (500.0, 1000.0)}
    return Crowd(tls=tls, connections=10_000, kib_each=kib_each, rss_mib=99.0, opened_s=4.0, alone=spans,
                 beside=spans | {"fresh": (600.0, p99)})  # fmt: skip


@pytest.mark.parametrize(
    ("crowd", "passed"),
    [
        (a_crowd(), [True, True, True]),
        (a_crowd(kib_each=20.0), [False, True, True]),
        (a_crowd(p99=2000.0), [True, True, True]),
        (a_crowd(p99=2001.0), [True, True, False]),
        (a_crowd(kib_each=90.0, tls=True), []),
    ],
)
def test_gate_is_20_kib_and_twice_the_p99(crowd: Crowd, passed: list[bool]) -> None:
    """Each way of the good client is judged by itself; a crowd inside TLS is only told."""
    assert [one for one, _ in judge_crowd(crowd)] == passed


def test_figures_are_all_shown() -> None:
    """Memory for each and in all, and how many times as long the good client waited."""
    text = show_crowd(a_crowd())

    for part in (
        "10000 idle connections in clear: 5.0 KiB each, 99 MiB",
        "fresh 250 alone p50 0.50 p99 1.00",
        "1.50 t",
    ):
        assert part in text


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.skipif(find_program("smtp-sink") is None, reason="smtp-sink is not installed: run tools/system-packages")
@pytest.mark.skipif(not PROGRAM.exists(), reason="smarthost is not installed in .venv: run make install")
def test_small_crowd_is_measured(open_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty clients inside TLS connect and stay, and the good client's mail all arrives beside them."""
    for name, number in (("_PROBES", 5), ("_TRIES", 1), ("_WARM_UP", 5), ("_FIRST", 2)):
        monkeypatch.setattr(idle, name, number)
    with Scratch(open_directory) as scratch:
        measured = Idle(scratch, PROGRAM, 50, make_certificate(scratch.path))

        crowd = measured.measure(tls=True)

        measured.stop()
    assert crowd.connections == 50
    assert crowd.rss_mib > 10
    assert all(0 < p50 <= p99 for p50, p99 in (crowd.alone | crowd.beside).values())
