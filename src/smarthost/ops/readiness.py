# SPDX-License-Identifier: MIT
"""What the daemon tells the service manager that runs it: starting, ready, reloading, stopping, and that it is alive.

Ready means that a commit has gone through, so that mail can be kept. Alive means that the event loop turns and that the
store answers, were it by an error: a full disk, a damaged database or dead hosts are no reason to be killed.
Nobody is waited for: what is not taken is said again at the next look. Where no manager listens nothing happens.
"""

import asyncio
import contextlib
import faulthandler
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, MutableMapping

from msgspec import Struct

from smarthost.backends.systemd import Notifier
from smarthost.mail.errors import ConfigError, SmarthostError
from smarthost.ops.words import count
from smarthost.ports import Clock, Sink

LOOK_S = 10.0  # how often the queue is looked at, at the least; with a watchdog at half its time, if that is less
EXTEND_EVERY_S = 5.0
EXTENSION_S = 30.0  # a start that is heard of within it goes on; the store bounds how long opening may take
SILENCE_S = 300.0  # accept.intake.FILING_S: by then each client that waits for a commit that hangs was told 451
READY_AGAIN_S = 1.0
_NEVER = float("inf")
NOTE = "readiness"  # a small named value in the store, there only while the first commit is tried


class Watched(Struct, frozen=True):
    """What is looked at, as a store and a relay offer it; `refusal`: why new mail is not taken now, or None."""

    count: Callable[[], Awaitable[tuple[int, int]]]
    save: Callable[[Mapping[str, bytes]], Awaitable[None]]
    refusal: Callable[[], Exception | None]
    is_paused: Callable[[], bool]


class Readiness:
    """Tells one service manager. Every method is harmless where there is none (`notifier` None).

    `watchdog_s`: how long the manager waits for a sign of life before it kills us; 0: for ever.
    """

    def __init__(self, notifier: Notifier | None, clock: Clock, sink: Sink, watchdog_s: float = 0.0) -> None:
        self._notifier = notifier
        self._clock = clock
        self._sink = sink
        self._watchdog_s = watchdog_s
        self._unsaid: dict[str, object] = {}
        self._status = ""
        self._answered_at = _NEVER  # monotonic; before and after `serving` only the loop has to turn
        self._is_silent = False

    @contextlib.asynccontextmanager
    async def living(self) -> AsyncIterator[None]:
        """Give signs of life within the block, from before the start until after the stop."""
        if self._notifier is None or not self._watchdog_s:
            yield
            return
        faulthandler.enable()  # killed by the watchdog's SIGABRT we say where each thread was
        async with _beside(self._live_for_ever()):
            yield

    @contextlib.asynccontextmanager
    async def starting(self) -> AsyncIterator[None]:
        """Ask for more time again and again within the block: opening a store may take minutes (migration, salvage)."""
        if self._notifier is None:
            yield
            return
        self._say(STATUS="starting: opening the queue")
        async with _beside(self._extend_for_ever()):
            try:
                yield
            except SmarthostError as error:
                self._say(STATUS=f"cannot start: {error}")
                raise

    @contextlib.asynccontextmanager
    async def serving(self, watched: Watched) -> AsyncIterator[None]:
        """Say ready as soon as a commit has gone through, and within the block how it goes."""
        if self._notifier is None:
            yield
            return
        async with _beside(self._look_for_ever(watched)):
            yield

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Say that the configuration is read anew, and at the block's end, however it ends, that we are ready again."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._say(RELOADING=1, MONOTONIC_USEC=microseconds, STATUS="reading the configuration anew")
        self._status = ""
        try:
            yield
        finally:
            self._say(READY=1)

    def stopping(self, grace_s: float) -> None:
        """Say that what is under way gets so long to end."""
        self._say(STOPPING=1, STATUS=f"stopping: what is under way has {grace_s:.0f} s to end")

    def close(self) -> None:
        if self._notifier is not None:
            self._notifier.close()

    def _say(self, **states: object) -> None:
        """Say these states, after those that were not taken; what follows replaces what was not."""
        if self._notifier is not None:
            self._unsaid.update(states)
            if self._notifier.tell(**self._unsaid):
                self._unsaid.clear()

    async def _extend_for_ever(self) -> None:
        while True:
            self._say(EXTEND_TIMEOUT_USEC=int(EXTENSION_S * 1_000_000))
            await self._clock.sleep(EXTEND_EVERY_S)

    async def _look_for_ever(self, watched: Watched) -> None:
        """Become ready; then look at the queue again and again, which is what shows that the store answers."""
        self._answered_at = self._clock.monotonic()
        try:
            while not await self._is_ready(watched):
                await self._clock.sleep(READY_AGAIN_S)
            while True:
                await self._look(watched)
                await self._clock.sleep(self._look_s())
        finally:
            self._answered_at = _NEVER  # a bug of ours here must not look like a store that hangs

    def _look_s(self) -> float:
        return min(LOOK_S, self._watchdog_s / 2) if self._watchdog_s else LOOK_S

    async def _is_ready(self, watched: Watched) -> bool:
        """Commit something, and say so; a disk that is full now delays it, and nothing is killed for that."""
        try:
            if (refusal := watched.refusal()) is not None:
                raise refusal
            await watched.save({NOTE: b"1"})
            await watched.save({NOTE: b""})
        except SmarthostError as error:
            extension = int(EXTENSION_S * 1_000_000)
            self._say(EXTEND_TIMEOUT_USEC=extension, STATUS=f"not ready, mail cannot be kept: {error}")
            return False
        finally:
            self._answered_at = self._clock.monotonic()
        self._say(READY=1)
        return True

    async def _look(self, watched: Watched) -> None:
        """Ask both who reads and who writes the store; to remove what is not there touches no disk."""
        found: tuple[int, int] | None = None
        trouble = ""
        try:
            found = await watched.count()
            await watched.save({NOTE: b""})
        except SmarthostError as error:
            trouble = str(error)
        self._answered_at = self._clock.monotonic()
        refusal = watched.refusal()
        self._tell_status(_status(found, trouble if refusal is None else str(refusal), watched.is_paused()))

    def _tell_status(self, text: str) -> None:
        if text != self._status or self._unsaid:
            self._status = text
            self._say(STATUS=text)

    async def _live_for_ever(self) -> None:
        while True:
            silence_s = self._clock.monotonic() - self._answered_at
            if silence_s < SILENCE_S:
                self._is_silent = False
                self._say(WATCHDOG=1)
            else:
                self._tell_silence(silence_s)
            await self._clock.sleep(self._watchdog_s / 2)

    def _tell_silence(self, silence_s: float) -> None:
        self._tell_status(f"the store has not answered for {silence_s:.0f} s")
        if not self._is_silent:
            self._is_silent = True
            cure = "the service manager ends and starts us; if it comes again, look at the disk below state_dir"
            self._sink.note("error", "store hangs", silent_s=round(silence_s), cure=cure)


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Let something run while the block does."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(_tell_bug)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _tell_bug(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        told = {"message": "telling the service manager", "exception": error}
        asyncio.get_running_loop().call_exception_handler(told)


def _status(found: tuple[int, int] | None, trouble: str, is_paused: bool) -> str:
    how = "paused: mail is taken, nothing is delivered" if is_paused else "delivering"
    if trouble:
        how = f"takes no new mail: {trouble}"
    if found is None:
        return how
    return f"{how}; {count(found[0], 'message')} for {count(found[1], 'recipient')} in the queue"


def readiness_of(environ: MutableMapping[str, str], pid: int, clock: Clock, sink: Sink) -> Readiness:
    """Read whom to tell, and how often, and remove it from `environ`: no child of ours speaks for us.

    What is not understood is told in the log, and nobody is told then: it is no reason not to take mail.
    """
    address = environ.pop("NOTIFY_SOCKET", "")
    interval, for_pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    try:
        notifier = Notifier(address) if address else None
    except ConfigError as error:
        sink.note("warning", "service manager not told", why=str(error))
        notifier = None
    is_ours = for_pid in ("", str(pid)) and interval.isascii() and interval.isdecimal()
    return Readiness(notifier, clock, sink, int(interval) / 1_000_000 if is_ours else 0.0)
