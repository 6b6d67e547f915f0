# SPDX-License-Identifier: MIT
"""The library door for programs without an event loop: a Relay on a thread of its own.

Every call runs on that thread's loop and returns, or raises, where it was called. Leaving the block ends the thread and
leaves no caller waiting. A crash leaves what Relay leaves.
"""

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import CancelledError
from email.message import EmailMessage
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from smarthost.accept.inject import Receipt
from smarthost.assemble import Relay
from smarthost.mail.backup import Backup
from smarthost.mail.errors import StoreError
from smarthost.mail.explanation import Explanation, HostReport
from smarthost.mail.record import Record
from smarthost.mail.story import Story, Summary, Suspension
from smarthost.queue.store import Changed, Filter, Page

Returned = TypeVar("Returned")

_EVERYTHING = Filter()


class BlockingRelay:
    """The same door for programs without an event loop: a relay on a thread of its own.

    `with BlockingRelay(state_dir=..., next_hop=...) as relay: relay.submit(...)`; safe to call from any thread.
    """

    def __init__(self, **arguments: object) -> None:
        """Takes what Relay takes; nothing is checked or opened before the block begins."""
        self._arguments = arguments
        self._relay: Relay
        self._loop: asyncio.AbstractEventLoop | None = None
        self._door = threading.Lock()  # between a thread that comes in and the one that closes

    def __enter__(self) -> Self:
        self._relay = Relay(**self._arguments)  # type: ignore[arg-type]
        self._loop = loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name="smarthost", daemon=True)
        self._thread.start()
        try:
            self._run(self._relay.start())
        except BaseException:
            self._end(loop)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None, "entered"
        loop = self._loop
        try:
            self._run(self._relay.stop())
        finally:
            self._end(loop)

    def submit(self, content: bytes | EmailMessage, reverse_path: str, recipients: Sequence[str]) -> Receipt:
        """See Relay.submit."""
        return self._run(self._relay_now.submit(content, reverse_path, recipients))

    def find(self, which: Filter = _EVERYTHING, cursor: str | None = None, n: int = 100) -> Page:
        """See Relay.find."""
        return self._run(self._relay_now.find(which, cursor, n))

    def change(
        self,
        which: Filter,
        verb: str,
        cursor: str | None = None,
        n: int = 1000,
        *,
        by: str = "",
        reason: str = "",
        via: str = "",
        dry_run: bool = False,
    ) -> Changed:
        """See Relay.change."""
        relay = self._relay_now
        return self._run(relay.change(which, verb, cursor, n, by=by, reason=reason, via=via, dry_run=dry_run))

    def why(self, text: str, n: int = 10) -> tuple[Story, ...]:
        """See Relay.why."""
        return self._run(self._relay_now.why(text, n))

    def summary(self, n: int = 20) -> Summary:
        """See Relay.summary."""
        return self._run(self._relay_now.summary(n))

    def domains_of_lane(self, lane: str) -> tuple[str, ...]:
        """See Relay.domains_of_lane."""
        return self._run(self._relay_now.domains_of_lane(lane))

    def suspend(self, what: str, reason: str = "", by: str = "") -> Suspension:
        """See Relay.suspend."""
        return self._run(self._relay_now.suspend(what, reason, by))

    def end_suspension(self, what: str, by: str = "") -> Suspension:
        """See Relay.end_suspension."""
        return self._run(self._relay_now.end_suspension(what, by))

    def suspensions(self) -> tuple[Suspension, ...]:
        """See Relay.suspensions."""
        return self._run(_suspensions(self._relay_now))

    def records(self, after: int, n: int) -> tuple[Record, ...]:
        """See Relay.records."""
        return self._run(self._relay_now.records(after, n))

    def explain(self, address: str, *, probe: bool = False, sender: str = "") -> Explanation:
        """See Relay.explain."""
        return self._run(self._relay_now.explain(address, probe=probe, sender=sender))

    def report_hosts(self, text: str = "") -> tuple[HostReport, ...]:
        """See Relay.report_hosts."""
        return self._run(self._relay_now.report_hosts(text))

    def find_standstill(self) -> tuple[HostReport, ...]:
        """See Relay.find_standstill."""
        return self._run(self._relay_now.find_standstill())

    def reset_hosts(self, text: str = "") -> tuple[HostReport, ...]:
        """See Relay.reset_hosts."""
        return self._run(self._relay_now.reset_hosts(text))

    @property
    def paused(self) -> bool:
        """See Relay.paused."""
        return self._relay_now.paused

    def pause(self) -> None:
        """See Relay.pause."""
        self._run(self._relay_now.pause())

    def resume(self) -> tuple[int, int]:
        """See Relay.resume."""
        return self._run(self._relay_now.resume())

    def back_up(self, directory: str | Path) -> Backup:
        """See Relay.back_up."""
        return self._run(self._relay_now.back_up(directory))

    @property
    def _relay_now(self) -> Relay:
        if self._loop is None:
            raise StoreError("the relay is not started")
        return self._relay

    def _run(self, work: Coroutine[None, None, Returned]) -> Returned:
        with self._door:
            if self._loop is None:
                work.close()
                raise StoreError("the relay is not started")
            calling = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return calling.result()
        except CancelledError as error:  # the block ended before the answer came
            raise StoreError("the relay was stopped") from error

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let nobody in, tell those who still wait, then end the loop."""
        with self._door:
            self._loop = None
        asyncio.run_coroutine_threadsafe(_cancel_others(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()


async def _suspensions(relay: Relay) -> tuple[Suspension, ...]:
    return relay.suspensions()  # on the thread that changes them


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
