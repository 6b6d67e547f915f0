# SPDX-License-Identifier: MIT
"""Runs what may block (a write to a file, a send to a syslog) in a thread of its own, one piece at a time.

The loop waits for at most so long, and mail never: a disk that hangs costs one thread that waits for it. The thread is
a daemon's, so it holds up no stop either.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Aside:
    """One thread at a time. One event loop."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_busy = False

    @property
    def is_busy(self) -> bool:
        """Does the last piece still run?"""
        return self._is_busy

    async def run(self, work: Callable[[], T], timeout_s: float) -> T:
        """Do the work and give what it gives, or raise what it raises.

        Raises: TimeoutError: it takes longer, or an earlier piece that did has not ended yet; nothing is begun then.
        """
        if self.is_busy:
            raise TimeoutError("the last try still hangs")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def tell(result: T | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def body() -> None:
            result, error = None, None
            try:
                result = work()
            except BaseException as failure:  # noqa: BLE001 - whoever waits for it gets it
                error = failure
            self._is_busy = False  # before anybody is told: he may bring the next piece at once
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(tell, result, error)

        self._is_busy = True
        threading.Thread(target=body, name=self._name, daemon=True).start()
        async with asyncio.timeout(timeout_s):
            return await future
