# SPDX-License-Identifier: MIT
"""Runs both sides, prints the table, and exits 0 only if every test of Twisted passes for ours.

Itself, or by its equivalent if its own text is not Python 3. What the original scores never changes the exit code.
`--relaymanager` and `--relay` name other modules to test in place of ours: that is how the tests of this program hand
in broken ones. Exit 1: a test did not pass, or a side could not be tested.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.compat.twisted_suite.outcomes import Side, faults, read_side
from tests.compat.twisted_suite.table import record, show, totals

ROOT = Path(__file__).resolve().parents[3]
LIMIT_S = 240.0  # a side takes two seconds; more than every test hanging until trial ends it, so that each is named
_LAST_WORDS_LINES = 5


def run_side(relaymanager: str, relay: str, limit_s: float = LIMIT_S) -> Side:
    """Run all tests against two modules in an interpreter of its own; trouble is in what is returned."""
    with tempfile.TemporaryDirectory(prefix="twisted-suite-") as directory:
        file = Path(directory) / "outcomes.json"
        command = (sys.executable, "-P", "-m", "tests.compat.twisted_suite.child", relaymanager, relay, str(file))
        try:
            ended = subprocess.run(
                command,
                cwd=directory,
                env=_surroundings(),
                capture_output=True,
                text=True,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Side(trouble=f"{relaymanager}: not ready after {limit_s:g} s")
        if ended.returncode != 0 or not file.exists():
            last_words = " | ".join((ended.stderr or ended.stdout).splitlines()[-_LAST_WORDS_LINES:])
            return Side(trouble=f"{relaymanager}: exit {ended.returncode}: {last_words or 'no word'}")
        return read_side(file.read_text(encoding="utf-8"))


def _surroundings() -> dict[str, str]:
    """Return the environment, in which the tests and what was importable here can be imported from elsewhere."""
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *(str(Path(each).resolve()) for each in given)])}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.compat.twisted_suite", description=__doc__.splitlines()[0])
    parser.add_argument("--relaymanager", metavar="MODULE", default="smarthost.compat.relaymanager")
    parser.add_argument("--relay", metavar="MODULE", default="smarthost.compat.relay")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every outcome there as well")
    options = parser.parse_args(arguments)
    ours = run_side(options.relaymanager, options.relay)
    original = run_side("twisted.mail.relaymanager", "twisted.mail.relay")
    print("\n".join(show(ours, original, options.relaymanager.rpartition(".")[0] or options.relaymanager)))
    if options.json:
        options.json.write_text(record(ours, original), encoding="utf-8")
    print(json.dumps(totals(ours, original)))
    return 1 if faults(ours) else 0


if __name__ == "__main__":
    sys.exit(main())
