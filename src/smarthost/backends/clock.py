# SPDX-License-Identifier: MIT
"""The real Clock: two clocks, and one wheel on which all deadlines of an event loop turn.

Moving a live deadline is an attribute write: it keeps its place on the wheel and is filed again when that place comes
up. Cancelling takes it off the wheel at once, so that a closed session is not kept alive by its deadlines. The wheel
turns (one loop timer, eight times a second) only while a deadline stands. Callers never see an exception of another
deadline's callback: it is reported to the loop's exception handler. Nothing here survives a restart.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from time import monotonic

TICK_S = 0.125  # a power of two, so that tick * TICK_S is exact; the port allows a quarter of a second
SLOTS = 1024  # one turn is 128 s; a deadline further away is filed again once a turn
_TIMER_SLACK_S = 0.001  # uvloop's timers have milliseconds: aim past the edge of the tick, not before it
_NEVER = float("inf")

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # CLOCK_MONOTONIC stands still in suspend


class SystemClock:
    """The clocks of this machine. A step of the wall clock is not seen until the next start (sqlite.steps follows it).

    `wall_at_boot`: wall seconds less the seconds since this boot of the machine.
    """

    def __init__(self) -> None:
        self.wall_at_boot = time.time() - time.clock_gettime(_BOOTTIME)
        self._wheel = _Wheel()

    def wall(self) -> float:
        return self.wall_at_boot + time.clock_gettime(_BOOTTIME)

    def monotonic(self) -> float:
        return monotonic()

    def deadline(self, seconds: float, expired: Callable[[], None]) -> "WheelDeadline":
        """See ports.Clock; needs a running event loop, and all deadlines that stand at a time need the same one."""
        deadline = WheelDeadline(self._wheel, expired)
        deadline.restart(seconds)
        return deadline

    async def sleep(self, seconds: float) -> None:
        until = monotonic() + seconds
        await asyncio.sleep(seconds)
        if (left := until - monotonic()) > 0:  # uvloop rounds to milliseconds and may wake early
            await asyncio.sleep(left + _TIMER_SLACK_S)


def read_boot_id() -> str:
    """Name this boot of the machine; "" where the kernel does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class WheelDeadline:
    """A deadline on a wheel. Only the wheel writes `filed` and `up_at` (when its place comes up; never if unfiled)."""

    __slots__ = ("_wheel", "due", "expired", "filed", "up_at")

    def __init__(self, wheel: "_Wheel", expired: Callable[[], None]) -> None:
        self._wheel = wheel
        self.expired = expired
        self.due = _NEVER
        self.up_at = _NEVER
        self.filed = -1

    def restart(self, seconds: float) -> None:
        due = self.due = monotonic() + seconds
        if due < self.up_at:  # not on the wheel, or its place comes up too late
            self._wheel.file(self)

    def cancel(self) -> None:
        self.due = _NEVER
        if self.filed >= 0:
            self._wheel.remove(self)


class _Wheel:
    """SLOTS slots of TICK_S each; a slot is a dict used as an ordered set, so that removal is O(1)."""

    def __init__(self) -> None:
        self._slots: list[dict[WheelDeadline, None]] = [{} for _ in range(SLOTS)]
        self._standing = 0
        self._swept = 0  # the last tick whose slot was swept
        self._loop: asyncio.AbstractEventLoop | None = None  # while it turns

    def file(self, deadline: WheelDeadline) -> None:
        """Give it the place that comes up at most one tick after it is due."""
        if deadline.filed >= 0:
            self.remove(deadline)
        if self._loop is None or self._loop.is_closed():
            self._start()
        tick = int(deadline.due / TICK_S) + 1
        tick = max(self._swept + 1, min(tick, self._swept + SLOTS - 1))
        self._slots[tick % SLOTS][deadline] = None
        self._standing += 1
        deadline.filed = tick
        deadline.up_at = tick * TICK_S

    def remove(self, deadline: WheelDeadline) -> None:
        del self._slots[deadline.filed % SLOTS][deadline]
        self._standing -= 1
        deadline.filed = -1
        deadline.up_at = _NEVER

    def _start(self) -> None:
        loop = self._loop = asyncio.get_running_loop()
        if not self._standing:  # else a loop was closed with deadlines standing: they move over to this one
            self._swept = int(monotonic() / TICK_S)
        self._arm(loop)

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(TICK_S - monotonic() % TICK_S + _TIMER_SLACK_S, self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        now = monotonic()
        up = self._take_up(int(now / TICK_S))
        late: list[WheelDeadline] = []
        for deadline in up:
            if deadline.due <= now:
                late.append(deadline)
            else:
                self.file(deadline)
        late.sort(key=_due)
        for deadline in late:
            if deadline.due <= now:  # else another callback has moved or cancelled it meanwhile
                self._expire(deadline, loop)
        if self._standing:
            self._arm(loop)
        else:
            self._loop = None

    def _take_up(self, tick: int) -> list[WheelDeadline]:
        """Take off the wheel what has come up; after a long stall each slot is looked at once."""
        up: list[WheelDeadline] = []
        for passed in range(max(self._swept + 1, tick - SLOTS + 1), tick + 1):
            slot = self._slots[passed % SLOTS]
            if slot:
                up.extend(slot)
                slot.clear()
        self._swept = max(tick, self._swept)
        self._standing -= len(up)
        for deadline in up:
            deadline.filed = -1
            deadline.up_at = _NEVER
        return up

    def _expire(self, deadline: WheelDeadline, loop: asyncio.AbstractEventLoop) -> None:
        if deadline.filed >= 0:  # restarted with no time to go by another callback
            self.remove(deadline)
        deadline.due = _NEVER
        try:
            deadline.expired()
        except Exception as error:  # noqa: BLE001 - one session's bug must not stop the deadlines of all others
            loop.call_exception_handler({"message": "a deadline's callback raised", "exception": error})


def _due(deadline: WheelDeadline) -> float:
    return deadline.due
