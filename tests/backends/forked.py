# SPDX-License-Identifier: MIT
"""A process that is killed, or fails, at the k-th step of what it does: each SQL statement, each call that lasts.

A fork, since a start would take a hundred times longer and there are many steps. Steps are counted from 1.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

SYNCS = ("fdatasync", "fsync", "link")


def interrupted_at(step: int, work: Callable[[], object], failure: Exception | None = None) -> bool:
    """Fork and do the work there; before its `step`-th step kill -9 it, or raise `failure` from that step.

    False: it had fewer steps, and came to its end.
    """
    pid = os.fork()
    if not pid:
        left = step

        def count() -> None:
            nonlocal left
            left -= 1
            if not left and failure is not None:
                raise failure
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            counted(count)
            work()
        except BaseException as error:
            if left > 0:
                print(f"in the fork: {error!r}", file=sys.stderr)
            os._exit(2 if left > 0 else 1)
        os._exit(0 if left > 0 else 1)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) < 2, "it failed by itself"
    return os.WEXITSTATUS(status) == 1


def counted(count: Callable[[], None]) -> None:
    """Have `count` called from now on before each SQL statement, each sync, link, rename, unlink and mkdir."""

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted_call(*arguments: Any, **named: Any) -> Any:
            count()
            return call(*arguments, **named)

        return counted_call

    def trace(cursor: apsw.Cursor, sql: str, bindings: Any) -> bool:
        count()
        return True

    def hook(db: apsw.Connection) -> None:
        db.exec_trace = trace

    for name in SYNCS:
        setattr(os, name, counting(getattr(os, name)))
    for name in ("rename", "unlink", "mkdir"):
        setattr(Path, name, counting(getattr(Path, name)))
    apsw.connection_hooks.append(hook)
