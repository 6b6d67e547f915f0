# SPDX-License-Identifier: MIT
"""`python -m simulate`: lives one seed or many, and says which promise broke.

Exit codes: 0 all well; 1 a promise was broken; 64 a bad command line; 130 interrupted. Runs itself again with
PYTHONHASHSEED=0 when that is not so: a seed has one trace, byte for byte.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from simulate.bugs import PLANTS
from simulate.campaign import Task, run_campaign, show, to_line

HOURS = 48.0
EX_USAGE = 64


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EX_USAGE, f"{self.prog}: {message}\n")


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line. Raises: SystemExit."""
    parser = _Parser(prog="python -m simulate", description="Lives of a relay on virtual time, with all that can fail.")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="live this one")
    which.add_argument("--seeds", type=_span, metavar="A..B", help="live all of these, A and B included")
    parser.add_argument("--hours", type=_hours, default=HOURS, help="virtual hours until faults cease (48)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="seeds at a time (as many as CPUs)")
    parser.add_argument("--plant", choices=sorted(PLANTS), default="", help="plant this bug, which should be found")
    parser.add_argument("--json", action="store_true", help="the summary as one line of JSON")
    parser.add_argument("--quiet", action="store_true", help="tell only of seeds that broke a promise")
    parser.add_argument("--trace", action="store_true", help="tell whole traces, not only their ends")
    return parser.parse_args(arguments)


def _span(text: str) -> range:
    first, _, last = text.partition("..")
    try:
        return range(int(first), int(last) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"two numbers as in 1..50, not {text!r}") from None


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0.1 <= hours <= 1000:
        raise argparse.ArgumentTypeError(f"hours from 0.1 to 1000, not {text!r}")
    return hours


def main(arguments: Sequence[str]) -> int:
    """Do as the command line says; gives the exit code."""
    options = read_options(arguments)
    seeds = range(options.seed, options.seed + 1) if options.seeds is None else options.seeds
    if not seeds:
        print("no seeds: A..B with A above B", file=sys.stderr)
        return EX_USAGE
    tasks = [Task(seed, options.hours, options.plant, options.trace) for seed in seeds]
    summary = run_campaign(
        tasks,
        min(options.jobs, len(tasks)),
        lambda line: print(line, file=sys.stderr if options.json else sys.stdout, flush=True),
        is_quiet=options.quiet or options.json,
    )
    print(to_line(summary) if options.json else show(summary))
    return 1 if summary.failed else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "simulate", *sys.argv[1:]])
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
