# SPDX-License-Identifier: MIT
"""How long a batch waits for company: not at all while the event loop sleeps now and then, a moment when it never does.

Beside a saturated loop a commit is over before the next message is complete, so that each would travel alone: 80 us of
the child's CPU a message and 286 of ours, where batches that waited a millisecond cost 66 and 258 (20 sessions, a fresh
connection for each message). Waiting costs nothing then: the loop has other work. One client that waits for each of its
replies makes the loop sleep several times a message, and never waits here.
"""

import resource
import time

HOLD_S = 0.001
WINDOW_S = 0.005
SLEEPS_A_SECOND = 1000.0  # fewer: saturated. A lone client of 4,000 messages a second makes it sleep 20,000 times


class Pace:
    """Watches how often this thread sleeps of its own will."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._sleeps = 0
        self._hold_s = 0.0

    def hold_s(self) -> float:
        """Give how long to wait for company before a batch leaves: 0.0 or HOLD_S."""
        now = time.monotonic()
        elapsed = now - self._since
        if elapsed >= WINDOW_S:
            sleeps = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
            self._hold_s = HOLD_S if sleeps - self._sleeps < SLEEPS_A_SECOND * elapsed else 0.0
            self._since, self._sleeps = now, sleeps
        return self._hold_s
