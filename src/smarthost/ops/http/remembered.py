# SPDX-License-Identifier: MIT
"""Answers that are good for a few seconds: however many watch the page, the queue is counted once in that time.

What takes long is good for longer: to count 100,000 recipients takes the store's child 0.5 s of CPU. `make bench-page`
has the overview, asked every five seconds, cost below 2 % of a core with `SHARE`; it says how old its figures are. Who
asks while an answer is being made waits for that one. Memory: one answer for each name, and names are few.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from smarthost.ports import Clock

SHARE = 120  # an answer is made in one part of so many of the time, at most


class Remembered:
    """Answers by name, with the time (monotonic) until which they are good."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._answers: dict[str, tuple[float, Any]] = {}
        self._made_at: dict[str, float] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def ask(self, name: str, good_s: float, make: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401
        """Give the answer of before if it is younger than `good_s` or `SHARE` times what it took, else a new one."""
        if (answer := self._fresh(name)) is not None:
            return answer[1]
        async with self._locks.setdefault(name, asyncio.Lock()):
            if (answer := self._fresh(name)) is not None:
                return answer[1]
            began = self._clock.monotonic()
            made = await make()
            ended = self._clock.monotonic()
            self._answers[name] = ended + max(good_s, SHARE * (ended - began)), made
            self._made_at[name] = ended
            return made

    def age_s(self, name: str) -> float:
        """Give how old the answer is that `ask` gave last, in seconds."""
        now = self._clock.monotonic()
        return now - self._made_at.get(name, now)

    def forget(self) -> None:
        """Something was changed by hand: whoever changed it wants to see that."""
        self._answers.clear()

    def _fresh(self, name: str) -> tuple[float, Any] | None:
        answer = self._answers.get(name)
        return answer if answer is not None and self._clock.monotonic() < answer[0] else None
