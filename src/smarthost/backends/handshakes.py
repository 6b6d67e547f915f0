# SPDX-License-Identifier: MIT
"""Takes the steps of server handshakes one at a time, at most one in a turn of the event loop.

A step costs up to a millisecond of arithmetic in one piece. Were each done when its octets arrive, two hundred clients
that shake hands at once would hold up everybody for two hundred milliseconds; so they wait here in order, and between
two of them the loop serves whoever else has something. Not threads: beside a saturated loop a thread gets the GIL about
ten times a second (measured). As many can wait as there are connections.
"""

import asyncio
from collections import deque
from collections.abc import Callable


class HandshakeTurns:
    """A queue of steps; used on one event loop at a time."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], bool]] = deque()
        self._is_armed = False

    def enqueue(self, step: Callable[[], bool]) -> None:
        """Take `step` when its turn comes, never at once. It answers whether it did anything."""
        self._waiting.append(step)
        if not self._is_armed:
            self._arm()

    def _arm(self) -> None:
        self._is_armed = True
        asyncio.get_running_loop().call_soon(self._take_one)

    def _take_one(self) -> None:
        waiting = self._waiting
        try:
            while waiting and not waiting.popleft()():
                pass  # it was of a connection that is gone: costs nothing, so the next one follows
        finally:
            self._is_armed = False
            if waiting:
                self._arm()
