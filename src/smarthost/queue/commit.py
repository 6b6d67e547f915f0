# SPDX-License-Identifier: MIT
"""Changes of the reference Store on their way: they happen in the order enqueued, at once or a delay later.

Only a Clock is asked to wait, so this runs on any event loop and in virtual time. After `die` nothing happens any
more, and whoever waits waits for ever, as before a machine without power.
"""

from collections import deque
from collections.abc import Callable, Generator
from typing import Generic, Protocol, TypeVar

from smarthost.mail.errors import StoreError
from smarthost.ports import Clock

_SAME_TIME_S = 1e-9  # sums of floats
_FOR_EVER_S = 86_400.0

T = TypeVar("T")


class _Coming(Protocol):
    at: float

    def commit(self) -> None: ...


class Commit(Generic[T]):
    """A change on its way: await it as often as you like."""

    __slots__ = ("_apply", "_error", "_is_done", "_line", "_result", "at")

    def __init__(self, line: "CommitLine", at: float, apply: Callable[[], None], result: T) -> None:
        self._line = line
        self._apply = apply
        self._result = result
        self._error: StoreError | None = None
        self._is_done = False
        self.at = at  # monotonic

    def commit(self) -> None:
        """Let it happen."""
        self._apply()
        self._is_done = True

    def fail(self, error: StoreError) -> "Commit[T]":
        """It will not happen."""
        self._error = error
        self._is_done = True
        return self

    @property
    def is_failed(self) -> bool:
        return self._error is not None

    def __await__(self) -> Generator[object, None, T]:
        if not self._is_done:
            yield from self._wait().__await__()
        if self._error is not None:
            raise self._error
        return self._result

    async def _wait(self) -> None:
        while not self._is_done:
            await self._line.pause(self.at)


class CommitLine:
    """The changes of one store, in order."""

    def __init__(self, clock: Clock | None, delay_s: float) -> None:
        assert clock is not None or not delay_s, "only a Clock can tell when a delay is over"
        self._clock = clock
        self._delay_s = delay_s
        self._coming: deque[_Coming] = deque()
        self.is_dead = False

    def enqueue(self, apply: Callable[[], None], result: T) -> Commit[T]:
        """Let `apply` happen, and give who waits for it `result`."""
        if self._clock is None or not self._delay_s:
            commit = Commit(self, 0.0, apply, result)
            if self.is_dead:
                return commit.fail(StoreError("the store has crashed"))
            commit.commit()
            return commit
        commit = Commit(self, self._clock.monotonic() + self._delay_s, apply, result)
        if not self._coming:
            self._clock.deadline(self._delay_s, self._turn)
        self._coming.append(commit)
        return commit

    def _turn(self) -> None:
        assert self._clock is not None, "there is a delay"
        now = self._clock.monotonic()
        self._commit_until(now)
        if self._coming and not self.is_dead:
            self._clock.deadline(max(self._coming[0].at - now, 0.0), self._turn)

    def _commit_until(self, now: float) -> None:
        while self._coming and self._coming[0].at <= now + _SAME_TIME_S and not self.is_dead:
            self._coming.popleft().commit()

    async def pause(self, until: float) -> None:
        """Wait for a commit that is due at `until`; after a crash, for ever."""
        assert self._clock is not None, "without a delay nobody waits"
        if self.is_dead:
            await self._clock.sleep(_FOR_EVER_S)
            return
        await self._clock.sleep(max(until - self._clock.monotonic(), 0.0))
        self._commit_until(self._clock.monotonic())

    def flush(self) -> None:
        """Let everything happen now."""
        while self._coming and not self.is_dead:
            self._coming.popleft().commit()

    def die(self) -> None:
        """Let what is due happen, and nothing after it."""
        if self._clock is not None:
            self._commit_until(self._clock.monotonic())
        self.is_dead = True
