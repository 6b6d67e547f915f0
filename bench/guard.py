# SPDX-License-Identifier: MIT
"""A watchman in a process of its own: if the benchmark dies, it ends what that started and removes its directory.

Reads lines on stdin: `group PGID`, `gone PGID`, `tree PATH`. At end of file (the benchmark is gone, kill -9 included)
it kills each group still named and removes the tree. Never touches a group that it was not told of. Imports only the
standard library; run as `python guard.py`.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable


def read_orders(lines: Iterable[str]) -> tuple[set[int], set[str]]:
    """Give the groups and the trees that are left when the orders end."""
    groups: set[int] = set()
    trees: set[str] = set()
    for line in lines:
        verb, _, rest = line.rstrip("\n").partition(" ")
        if verb == "group":
            groups.add(int(rest))
        elif verb == "gone":
            groups.discard(int(rest))
        elif verb == "tree":
            trees.add(rest)
    return groups, trees


def _kill(groups: Iterable[int]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for group in groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, sign)
        time.sleep(0.5)


def main() -> None:
    """Wait for the benchmark to end, however it ends, and clean up what it left."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    groups, trees = read_orders(sys.stdin)
    if groups:
        _kill(groups)
    for tree in trees:
        shutil.rmtree(tree, ignore_errors=True)


if __name__ == "__main__":
    main()
