# SPDX-License-Identifier: MIT
"""INT, TERM and HUP become KeyboardInterrupt, but never between starting a process and noting that it was started."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_held = 0
_pending = False


def _interrupted(number: int, frame: FrameType | None) -> None:
    global _pending
    if _held:
        _pending = True
    else:
        raise KeyboardInterrupt


def catch_interrupts() -> None:
    """Install the handlers; in the main thread."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put interrupts off until the end of the block; for short work that must be whole. May be nested."""
    global _held, _pending
    _held += 1
    try:
        yield
    finally:
        _held -= 1
        if _pending and not _held:
            _pending = False
            raise KeyboardInterrupt
