# SPDX-License-Identifier: MIT
"""Feeds every parser with mutated inputs: python -m tests.fuzz [--inputs N] [--seed S] [--only NAME] [--number N].

Exits 1 if an input raised what is not documented, was answered wrongly, or took too long.
"""

import sys
from argparse import ArgumentParser

from tests.fuzz.running import run
from tests.fuzz.targets import TARGETS


def main(arguments: list[str]) -> int:
    """Run as the arguments say, and give the exit code."""
    parser = ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, help="of each parser (by default as many as suit its speed)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=sorted(TARGETS))
    parser.add_argument("--number", type=int, help="one input alone, as a finding names it")
    terms = parser.parse_args(arguments)
    names = [terms.only] if terms.only else list(TARGETS)
    total = findings = 0
    for name in names:
        target = TARGETS[name]
        count = terms.inputs if terms.inputs is not None else target.inputs
        numbers = range(count) if terms.number is None else range(terms.number, terms.number + 1)
        outcome = run(target, terms.seed, numbers)
        total += outcome.inputs
        findings += len(outcome.findings)
        slowest = f"slowest {outcome.slowest_s * 1000:.1f} ms (number {outcome.slowest})"
        print(f"{name:12} {outcome.inputs:7,} inputs  {len(outcome.findings)} findings  {slowest}", flush=True)
        for finding in outcome.findings:
            print(finding, flush=True)
    print(f"{total:,} inputs of {len(names)} parsers, seed {terms.seed}: {findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
