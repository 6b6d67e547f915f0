# SPDX-License-Identifier: MIT
"""`make crash`: runs the suites one after the other; each figure is a line of JSON on standard output, as it is found.

Exit codes: 0 all well; 1 something was lost, doubled beyond the window, altered, or a run failed; 64 a bad command
line; 69 a program or a right is missing that a suite asked for needs; 130 interrupted. Progress goes to stderr.
"""

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from bench.children import Scratch
from bench.ending import measure_in_scratch
from bench.options import Parser, at_least_one

from crash.figures import Figure, to_line
from crash.options import Options

# Name -> module; each has `missing(options) -> list[str]` and `run(scratch, options) -> Iterator[Figure]`.
SUITES = {
    "kill": "crash.kill",
    "calls": "crash.calls",
    "power": "crash.power",
    "limits": "crash.limits",
    "damage": "crash.damage",
}


class Suite(Protocol):
    """What a suite's module offers."""

    def missing(self, options: Options) -> list[str]:
        """Say in one line each what it needs and does not find."""

    def run(self, scratch: Scratch, options: Options) -> Iterator[Figure]:
        """Run, and give each figure as soon as it is known. Raises: RunFailed."""


def read_options(argv: Sequence[str]) -> Options:
    """Read the command line. Raises: SystemExit: 0 after --help, 64 for what makes no sense."""
    parser = Parser(
        prog="python -m crash", description="What smarthost has said 250 to arrives, whatever is done to it."
    )
    say = parser.add_argument
    say("--quick", action="store_true", help="the short form, for CI")
    say("--only", action="append", choices=tuple(SUITES), help="run this suite alone (repeatable)")
    say("--seed", type=int, default=1, help="repeats a run (1)")
    say("--rounds", type=at_least_one, help="of each experiment, instead of its own number")
    say("--no-postfix", action="store_true", help="leave Postfix out")
    say("--scratch", type=Path, default=Path("/var/tmp"), help="where queues live; a real disk (/var/tmp)")
    asked: argparse.Namespace = parser.parse_args(argv)
    return Options(
        is_quick=asked.quick,
        suites=tuple(name for name in SUITES if not asked.only or name in asked.only),
        seed=asked.seed,
        rounds=asked.rounds,
        with_postfix=not asked.no_postfix,
        scratch=asked.scratch,
    )


def _load(name: str) -> Suite:
    suite: Suite = importlib.import_module(SUITES[name])
    return suite


def _crash(options: Options, scratch: Scratch) -> int:
    failures = 0
    for name in options.suites:
        for figure in _load(name).run(scratch, options):
            print(to_line(figure), flush=True)
            failures += figure.failures if figure.system == "smarthost" else 0
    return 1 if failures else 0


def main(argv: Sequence[str]) -> int:
    """Run the suites and give the exit code."""
    options = read_options(argv)
    missing = [line for name in options.suites for line in _load(name).missing(options)]
    if missing:
        print("\n".join(f"CANNOT RUN: {line}" for line in dict.fromkeys(missing)), file=sys.stderr)
        return 69
    return measure_in_scratch(options.scratch, partial(_crash, options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
