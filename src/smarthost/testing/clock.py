# SPDX-License-Identifier: MIT
"""FakeClock: a Clock that a test moves by hand. Nothing passes unless `advance` says so.

What comes due fires inside `advance`, in the order of its time and then of its making; a callback that raises ends
`advance` with its exception, since a test wants to know. Passes testing.checks.check_clock, as the real clock does.
"""

import asyncio
import functools
import heapq
from collections.abc import Callable

START = 1_800_000_000.0  # wall seconds at which a FakeClock starts: 2027-01-15, a Friday, 08:00 UTC
_NEVER = float("inf")


class FakeClock:
    """Starts at wall time `wall` and monotonic time 1,000."""

    def __init__(self, wall: float = START) -> None:
        self._monotonic = 1_000.0
        self._ahead = wall - self._monotonic  # of the wall clock
        self._agenda: list[tuple[float, int, FakeDeadline]] = []
        self._made = 0

    def wall(self) -> float:
        return self._monotonic + self._ahead

    def monotonic(self) -> float:
        return self._monotonic

    def deadline(self, seconds: float, expired: Callable[[], None]) -> "FakeDeadline":
        deadline = FakeDeadline(self, expired)
        deadline.restart(seconds)
        return deadline

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        deadline = self.deadline(seconds, functools.partial(_wake, woken))
        try:
            await woken
        finally:
            deadline.cancel()

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass; who sleeps wakes when the event loop next runs."""
        end = self._monotonic + seconds
        while self._agenda and self._agenda[0][0] <= end:
            due, _, deadline = heapq.heappop(self._agenda)
            if deadline.due == due:  # else it was moved or cancelled meanwhile
                self._monotonic = max(self._monotonic, due)
                deadline.due = _NEVER
                deadline.expired()
        self._monotonic = end

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock forward or, as no real Clock does, back; monotonic time does not move."""
        self._ahead += seconds

    @property
    def next_due_s(self) -> float | None:
        """Seconds until the next deadline or sleeper, None if there is none."""
        while self._agenda and self._agenda[0][2].due != self._agenda[0][0]:
            heapq.heappop(self._agenda)
        return self._agenda[0][0] - self._monotonic if self._agenda else None

    def enter(self, deadline: "FakeDeadline") -> None:
        """Put a deadline on the agenda at its `due`."""
        self._made += 1
        heapq.heappush(self._agenda, (deadline.due, self._made, deadline))


class FakeDeadline:
    """A deadline of a FakeClock."""

    def __init__(self, clock: FakeClock, expired: Callable[[], None]) -> None:
        self._clock = clock
        self.expired = expired
        self.due = _NEVER

    def restart(self, seconds: float) -> None:
        self.due = self._clock.monotonic() + seconds
        self._clock.enter(self)

    def cancel(self) -> None:
        self.due = _NEVER


def _wake(sleeper: "asyncio.Future[None]") -> None:
    if not sleeper.done():
        sleeper.set_result(None)
