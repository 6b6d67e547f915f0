# SPDX-License-Identifier: MIT
"""How every benchmark runs and ends: in a scratch directory that goes with it, whatever happens."""

import sys
from collections.abc import Callable
from pathlib import Path

from bench.children import Scratch
from bench.failure import RunFailed
from bench.interrupts import catch_interrupts


def measure_in_scratch(directory: Path, measure: Callable[[Scratch], int]) -> int:
    """Give the exit code: what `measure` says, 1 if a run could not go on, 130 if it was interrupted."""
    catch_interrupts()
    try:
        with Scratch(directory) as scratch:
            return measure(scratch)
    except RunFailed as failed:
        print(f"FAILED: {failed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: everything started was ended, the scratch directory removed", file=sys.stderr)
        return 130
