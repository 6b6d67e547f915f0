# SPDX-License-Identifier: MIT
"""Every parser takes mutated inputs without a surprise; and the fuzzer finds what it is there to find."""

import time
from random import Random

import pytest
from tests.fuzz.__main__ import main
from tests.fuzz.inputs import Target, make_input
from tests.fuzz.running import SLOW_S, run
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_parser_takes_any_octets(name: str) -> None:
    """Five hundred inputs of each, the short form of `make fuzz`: no exception, no wrong answer, none that is slow."""
    outcome = run(TARGETS[name], 1, range(500))

    assert [] == [str(finding) for finding in outcome.findings]
    assert 500 == outcome.inputs


def test_same_seed_gives_the_same_inputs() -> None:
    """A finding can be made again from its seed and number."""
    target = TARGETS["smtp-server"]

    assert make_input(target, 7, 99)[0] == make_input(target, 7, 99)[0]
    assert make_input(target, 7, 99)[0] != make_input(target, 8, 99)[0]
    assert make_input(target, 7, 99)[1].random() == make_input(target, 7, 99)[1].random()


def _break_on_nul(octets: bytes, random: Random) -> None:
    if b"\0" in octets:
        raise IndexError("a bug")


def _loop_on_nul(octets: bytes, random: Random) -> None:
    until = time.process_time() + (SLOW_S * 1.2 if b"\0" in octets else 0.0)
    while time.process_time() < until:
        pass


def test_a_broken_parser_is_found_with_its_input() -> None:
    """A finding names the exception, the place, and the octets."""
    found = run(Target("broken", _break_on_nul, (b"harmless", b"a\0b")), 1, range(2)).findings

    assert ["IndexError"] == [finding.what.partition(":")[0] for finding in found]
    assert "--only broken --seed 1 --number 1" in str(found[0])
    assert repr(b"a\0b") in str(found[0])


def test_a_slow_parser_is_found() -> None:
    """Who takes a quarter of a second for an input holds up everybody."""
    outcome = run(Target("slow", _loop_on_nul, (b"harmless", b"a\0b")), 1, range(2))

    assert [1] == [finding.number for finding in outcome.findings]
    assert "took" in outcome.findings[0].what


def test_findings_make_the_command_fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`make fuzz` exits 1 when there is a finding, else 0."""
    monkeypatch.setattr("tests.fuzz.__main__.TARGETS", {"broken": Target("broken", _break_on_nul, (b"\0", b"a"))})

    assert 1 == main(["--inputs", "1"])
    assert "IndexError: a bug" in capsys.readouterr().out
    assert 0 == main(["--number", "1", "--only", "broken"])
