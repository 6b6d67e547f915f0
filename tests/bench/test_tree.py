# SPDX-License-Identifier: MIT
"""Memory and CPU time of a process tree."""

import os
import subprocess
import sys
import time

from bench.tree import MemorySampler, cpu_seconds, list_tree, parse_cpu_ticks, parse_rollup

ROLLUP = """55a4e0000000-7ffd2a1f0000 ---p 00000000 00:00 0 [rollup]
Rss:               10240 kB
Pss:                4096 kB
Pss_Dirty:          2048 kB
Shared_Clean:       6144 kB
"""


def test_cpu_ticks_are_own_and_of_ended_children() -> None:
    """A Postfix smtpd that has served its hundred clients and ended still counts."""
    stat = "42 (a (strange) name) S 1 42 42 0 -1 4194560 100 200 0 0 11 22 33 44 20 0 1 0 12345 1000 50"

    assert parse_cpu_ticks(stat + " 0" * 30) == 11 + 22 + 33 + 44


def test_ended_process_has_no_ticks_and_no_memory() -> None:
    """A process that ended between listing and looking counts nothing, and breaks nothing."""
    assert parse_cpu_ticks("") == 0
    assert parse_rollup("") == (0, 0)


def test_rollup_gives_rss_and_pss_and_not_their_likes() -> None:
    """Pss_Dirty is not Pss."""
    assert parse_rollup(ROLLUP) == (10240 * 1024, 4096 * 1024)


def test_tree_has_the_children() -> None:
    """Children and theirs belong to the tree, and their memory counts."""
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()  # the grandchild is there
        tree = list_tree(os.getpid())
        memory = MemorySampler(child.pid).stop()
        child.communicate(b"\n")

    assert child.pid in tree
    assert len(list_tree(os.getpid())) < len(tree)
    assert memory.processes == 2
    assert memory.rss_mib >= memory.pss_mib > 2


def test_used_cpu_time_shows() -> None:
    """What a process burns is seen, to 10 ms."""
    began, own = cpu_seconds(os.getpid()), time.process_time()
    while time.process_time() - own < 0.1:
        pass

    assert 0.05 < cpu_seconds(os.getpid()) - began < 1.0
