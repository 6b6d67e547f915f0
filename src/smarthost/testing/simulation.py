# SPDX-License-Identifier: MIT
"""Virtual time: an asyncio event loop on which an hour passes as fast as its callbacks run. Same seed, same trace.

When nothing is ready the loop jumps to the next timer. There is no file, socket, signal or thread: who asks for one
gets an error. Nothing ready and no timer is a deadlock, and raises at once naming who waits. Deterministic as long as
the code under it is: PYTHONHASHSEED must be fixed where sets of strings are iterated.
"""

import asyncio
import heapq
import random
from asyncio.base_events import BaseEventLoop
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextvars import Context
from typing import Any, NoReturn, TypeVar, TypeVarTuple

from smarthost.testing.clock import START

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
_NEVER = float("inf")
_RESOLUTION_S = 1e-9  # what is due within it is due now: covers rounding of sums


class SimulationDeadlock(RuntimeError):
    """Nothing will ever happen again, and the simulation is not done."""


class SimulationOverran(RuntimeError):
    """The simulated journey was not done within its time."""


class _Counted(deque[asyncio.Handle]):
    """What is ready, while somebody waits for so many callbacks to have run; `done` when nobody does any more."""

    def __init__(self, handles: Iterable[asyncio.Handle], done: Callable[[], None]) -> None:
        super().__init__(handles)
        self.waiting: list[tuple[int, Callable[[], None]]] = []  # handles left before each call
        self._done = done

    def popleft(self) -> asyncio.Handle:
        handle = super().popleft()
        waiting = [(left - 1, call) for left, call in self.waiting]
        self.waiting = [each for each in waiting if each[0]]
        if not self.waiting:
            self._done()
        for left, call in waiting:
            if not left:
                call()
        return handle


class SimulationLoop(BaseEventLoop):
    """An event loop whose time is virtual and starts at 0; at `until_s` it gives up with SimulationOverran."""

    _ready: "deque[asyncio.Handle]"  # BaseEventLoop's: what runs next, and whether it is to end
    _stopping: bool

    def __init__(self, until_s: float = _NEVER) -> None:
        super().__init__()
        self._now = 0.0
        self._until_s = until_s
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []  # a heap
        self._timers_made = 0
        self._tasks_made = 0
        self._pending: dict[asyncio.Task[Any], None] = {}  # in the order they were made; asyncio keeps a set
        self.reports: list[dict[str, Any]] = []  # what call_exception_handler was told
        self.set_exception_handler(lambda _, report: self.reports.append(report))

    def time(self) -> float:
        return self._now

    def _jump(self, when: float | None) -> None:
        if when is None:
            raise SimulationDeadlock("nothing is ready and no timer is set; waiting: " + self._name_waiting())
        self._now = max(self._now, when)
        if self._now > self._until_s:
            raise SimulationOverran(f"not done after {self._until_s:g} s; waiting: " + self._name_waiting())

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As BaseEventLoop's; timers of the same time fire in the order in which they were set."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers_made += 1
        heapq.heappush(self._timers, (when, self._timers_made, timer))
        return timer

    def _run_once(self) -> None:
        """As BaseEventLoop's, without a selector: a third of the time of a simulation that mostly waits."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not self._ready and not self._stopping:
            self._jump(timers[0][0] if timers else None)
        end = self._now + _RESOLUTION_S
        while timers and timers[0][0] < end:
            timer = heapq.heappop(timers)[2]
            if not timer.cancelled():
                self._ready.append(timer)
        for _ in range(len(self._ready)):
            handle = self._ready.popleft()
            if not handle.cancelled():
                handle._run()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer goes when its time comes."""

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> "asyncio.Task[T]":
        """Make a task; without a name it gets one that counts on this loop only, so that it is the same in each run."""
        self._tasks_made += 1
        task = super().create_task(coro, name=name or f"simulated-{self._tasks_made}", context=context)
        self._pending[task] = None
        task.add_done_callback(self._pending.pop)
        return task

    def cancel_pending(self) -> None:
        """Cancel all tasks in the order they were made, and let them end; they get another virtual hour."""
        self._until_s = self._now + 3600.0
        while self._pending:
            leaving = list(self._pending)
            for task in leaving:
                task.cancel()
            self.run_until_complete(asyncio.gather(*leaving, return_exceptions=True))
        self.run_until_complete(self.shutdown_asyncgens())

    def interrupt_after(self, n: int, call: Callable[[], None]) -> None:
        """Call `call` between two callbacks, when `n` more have run (at least one).

        It runs outside of any task: it may change the world, and wait for nothing.
        """
        if not isinstance(self._ready, _Counted):
            self._ready = _Counted(self._ready, self._count_no_more)
        self._ready.waiting.append((n + 1, call))

    def _count_no_more(self) -> None:
        self._ready = deque(self._ready)  # counting costs time

    def run_in_executor(self, executor: object, func: object, *args: object) -> NoReturn:
        raise RuntimeError("a simulation has no threads")

    def _name_waiting(self) -> str:
        return "; ".join(map(_describe, self._pending)) or "no task"

    def _write_to_self(self) -> None:
        """Nobody needs waking: there are no threads."""


class SimulatedClock:
    """A Clock on the virtual time of a SimulationLoop; deadlines are exact."""

    def __init__(self, loop: SimulationLoop, wall: float = START) -> None:
        self._loop = loop
        self._wall_at_start = wall

    def wall(self) -> float:
        return self._wall_at_start + self._loop.time()

    def monotonic(self) -> float:
        return self._loop.time()

    def deadline(self, seconds: float, expired: Callable[[], None]) -> "SimulatedDeadline":
        deadline = SimulatedDeadline(self._loop, expired)
        deadline.restart(seconds)
        return deadline

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def set_to(self, wall: float) -> "SimulatedClock":
        """Give the clock of a process that starts now and reads this wall time: no step of it is seen later."""
        return SimulatedClock(self._loop, wall - self._loop.time())


class SimulatedDeadline:
    """A deadline with a loop timer of its own, set anew only when it fires too early or would fire too late."""

    def __init__(self, loop: SimulationLoop, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._expired = expired
        self._due = _NEVER
        self._timer: asyncio.TimerHandle | None = None

    def restart(self, seconds: float) -> None:
        self._due = self._loop.time() + seconds
        if self._timer is None or self._timer.when() > self._due:
            self._set_timer()

    def cancel(self) -> None:
        self._due = _NEVER
        self._drop_timer()  # a timer left behind would keep a deadlock from being seen

    def _set_timer(self) -> None:
        self._drop_timer()
        self._timer = self._loop.call_at(self._due, self._come_up)

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _come_up(self) -> None:
        self._timer = None
        if self._due > self._loop.time():
            self._set_timer()
        else:
            self._due = _NEVER
            self._expired()


class Simulation:
    """What a simulated journey is given: its clock, its one source of chance, and a trace to compare."""

    def __init__(self, loop: SimulationLoop, seed: int) -> None:
        self.clock = SimulatedClock(loop)
        self.interrupt_after = loop.interrupt_after
        self.random = random.Random(seed)  # noqa: S311 - chance that can be repeated is the point
        self.trace: list[str] = []

    def note(self, what: str) -> None:
        """Add a line to the trace, with the virtual time."""
        self.trace.append(f"{self.clock.monotonic():.6f} {what}")


def run_simulation(main: Callable[[Simulation], Coroutine[Any, Any, T]], *, seed: int, until_s: float = 86_400.0) -> T:
    """Run `main` in virtual time and give its result; tasks it leaves behind are cancelled.

    Raises: SimulationDeadlock, SimulationOverran: with the names of the tasks that wait. RuntimeError: a callback
    raised, which a real loop would only have logged.
    """
    loop = SimulationLoop(until_s)
    try:
        result = loop.run_until_complete(main(Simulation(loop, seed)))
    finally:
        try:
            loop.cancel_pending()
        finally:
            loop.close()
    for report in loop.reports:
        raise RuntimeError(f"the event loop was told: {report['message']}") from report.get("exception")
    return result


def _describe(task: "asyncio.Task[Any]") -> str:
    frames = task.get_stack(limit=1)
    where = f" at {frames[-1].f_code.co_filename}:{frames[-1].f_lineno}" if frames else ""
    return f"{task.get_name()} {getattr(task.get_coro(), '__qualname__', task.get_coro())}{where}"
