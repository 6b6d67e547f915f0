# SPDX-License-Identifier: MIT
"""Runs a target over its inputs: what raises, and what takes too long, is a finding with all that repeats it."""

import time
import traceback
from collections.abc import Iterator
from random import Random

from msgspec import Struct
from tests.fuzz.inputs import Target, make_input

SLOW_S = 0.25  # of process time for one input of at most 64 KiB; a client that costs more holds up everybody
_AGAIN = 3  # an input is slow if it is slow each time: another process must not make it so


class Finding(Struct, frozen=True):
    """An input that broke something; `--seed`, `--only` and `--number` make it again."""

    target: str
    seed: int
    number: int
    octets: bytes
    what: str

    def __str__(self) -> str:
        again = f"--only {self.target} --seed {self.seed} --number {self.number}"
        return f"{self.target}: {self.what}\n  again: python -m tests.fuzz {again}\n  input: {self.octets!r}"


class Outcome(Struct):
    """What became of a target."""

    target: str
    inputs: int = 0
    slowest_s: float = 0.0
    slowest: int = 0
    findings: list[Finding] = []


def run(target: Target, seed: int, numbers: Iterator[int] | range, most_findings: int = 5) -> Outcome:
    """Feed the inputs of these numbers, and stop when enough was found."""
    outcome = Outcome(target.name)
    for number in numbers:
        took_s, what = _feed(target, seed, number)
        outcome.inputs += 1
        if took_s > outcome.slowest_s:
            outcome.slowest_s, outcome.slowest = took_s, number
        if what:
            octets, _ = make_input(target, seed, number)
            outcome.findings.append(Finding(target.name, seed, number, octets, what))
            if len(outcome.findings) >= most_findings:
                break
    return outcome


def _feed(target: Target, seed: int, number: int) -> tuple[float, str]:
    """Give process seconds, and what went wrong or ""."""
    took_s = 0.0
    for _ in range(_AGAIN):
        octets, random = make_input(target, seed, number)
        began = time.process_time()
        what = _check(target, octets, random)
        took_s = time.process_time() - began
        if what or took_s <= SLOW_S:
            return took_s, what
    return took_s, f"took {took_s:.2f} s"


def _check(target: Target, octets: bytes, random: Random) -> str:
    try:
        target.check(octets, random)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"
    return ""
