# SPDX-License-Identifier: MIT
"""Times the stages of the journey one by one, in this process, without sockets: where the microseconds go.

CPU time, not wall time; the best of several batches, since every disturbance only adds. A stage whose module is not
there, or does not fit any more, is named as skipped with the reason. What no stage covers (event loop, sockets, tasks)
is shown as the rest: the CPU measured per message in a run with kept connections, less the stages.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.figures import Stage

_BATCH = 500
_BATCHES = 7

Make = Callable[[Path], Callable[[], object] | list[Stage]]
"""Prepare a stage: give what one message costs, to be called often, or finished figures."""


def time_stages(scratch: Path) -> tuple[Stage, ...]:
    """Time every stage; temporary files go below `scratch`. About 10 s."""
    from bench import stages

    every: tuple[tuple[str, Make], ...] = (
        ("receive: SMTP server machine, one transaction", stages.serve_transaction),
        ("receive: banner, EHLO, QUIT (fresh connections only)", stages.serve_session),
        ("accept: policy, id, Received, message", stages.accept_message),
        ("queue: add and settle", stages.store_message),
        ("send: SMTP client machine, one transaction, pipelined", stages.send_transaction),
        ("settle: verdict, decide, record", stages.settle_result),
        ("log: two lines, accepted and relayed", stages.log_lines),
    )
    return tuple(stage for name, make in every for stage in time_stage(name, make, scratch))


def time_stage(name: str, make: Make, scratch: Path) -> list[Stage]:
    """Time one stage, or say why not."""
    try:
        with tempfile.TemporaryDirectory(dir=scratch) as directory:
            made = make(Path(directory))
            if isinstance(made, list):
                return made
            return [Stage(name=name, us=_best_us(made))]
    except ImportError as missing:
        return [Stage(name=name, us=None, note=f"not there yet: {missing}")]
    except (AttributeError, TypeError, ValueError, AssertionError, OSError) as misfit:
        return [Stage(name=name, us=None, note=f"bench/stages.py does not fit any more: {misfit!r}")]


def _best_us(once: Callable[[], object]) -> float:
    once()
    return min(_batch_us(once) for _ in range(_BATCHES))


def _batch_us(once: Callable[[], object]) -> float:
    began = time.process_time_ns()
    for _ in range(_BATCH):
        once()
    return (time.process_time_ns() - began) / _BATCH / 1000


def rest_of_budget(stages: tuple[Stage, ...], measured_us: float | None) -> Stage:
    """Give what the stages leave of the CPU measured per message with kept connections."""
    name = "rest: event loop, sockets, tasks, what no stage covers (measured with kept connections, less the above)"
    if measured_us is None:
        return Stage(name=name, us=None, note="no run with kept connections")
    known = sum(stage.us for stage in stages if stage.us is not None and "fresh connections only" not in stage.name)
    return Stage(name=name, us=max(0.0, measured_us - known))
