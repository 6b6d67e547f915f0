# SPDX-License-Identifier: MIT
"""All outboxes of a daemon: webhooks, a file, a syslog, each a task of its own beside the mail.

Opened when the relay runs and closed before it stops; a slow or dead receiver holds up neither mail nor another
outbox, and a bug in one costs that one. What happens while it is closed is delivered after the next start. A reload
ends what is gone or different, and begins what is new: the cursor of the same name goes on.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import NamedTuple

from smarthost.backends.clock import SystemClock
from smarthost.config import Config
from smarthost.ops.outbox.carrier import Carrier, Notes, Receiver, Source
from smarthost.ops.outbox.file import RecordFile
from smarthost.ops.outbox.report import OutboxReport
from smarthost.ops.outbox.syslog import Syslog
from smarthost.ops.outbox.webhooks import Webhook, name_of, target_of
from smarthost.ports import Clock, Sink

PAUSE_S = 60.0  # after a bug of ours


class _Wanted(NamedTuple):
    """One outbox of a Config. `terms`: all that its receiver goes by; another one is made when they are others."""

    name: str
    kind: str
    target: str
    kinds: tuple[str, ...]
    terms: object
    make: Callable[[], Receiver]


class Outboxes:
    """Those of one Config, and of each that is taken over later (a reloading.Follower). One event loop.

    Raises: ConfigError: a secret or the CAs cannot be read, or the extra is missing.
    """

    sections = frozenset({"webhooks", "events"})

    def __init__(
        self, config: Config, source: Source, store: Callable[[], Notes], sink: Sink, clock: Clock | None = None
    ) -> None:
        self._clock = clock or SystemClock()
        self._sink = sink
        self._source = source
        self._store = store
        self._open: dict[str, tuple[object, Carrier]] = {}  # by name, with its terms
        self._tasks: dict[Carrier, asyncio.Task[None]] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._is_delivering = False
        for wanted in _wanted(config):
            self._open[wanted.name] = wanted.terms, self._carrier(wanted)

    @property
    def carriers(self) -> tuple[Carrier, ...]:
        """Those there are now."""
        return tuple([carrier for _, carrier in self._open.values()])

    def report(self) -> tuple[OutboxReport, ...]:
        """Give how far each is."""
        return tuple([each.report() for each in self.carriers])

    @asynccontextmanager
    async def delivering(self) -> AsyncIterator[None]:
        """Deliver meanwhile."""
        self._is_delivering = True
        for carrier in self.carriers:
            self._begin(carrier)
        try:
            yield
        finally:
            self._is_delivering = False
            for carrier in self.carriers:
                self._end(carrier)
            await asyncio.gather(*self._ending.values(), return_exceptions=True)

    async def prepare(self, config: Config) -> "_Step":
        """Make what is new. Raises: ConfigError: names the key; nothing has changed."""
        wanted = _wanted(config)
        kept = {each.name for each in wanted if each.name in self._open and self._open[each.name][0] == each.terms}
        return _Step(self, wanted, {each.name: self._carrier(each) for each in wanted if each.name not in kept})

    def take_over(self, wanted: Iterable[_Wanted], new: dict[str, Carrier]) -> None:
        """End what is gone or different, begin what is new."""
        after = {
            each.name: (each.terms, new[each.name] if each.name in new else self._open[each.name][1]) for each in wanted
        }
        staying = {carrier for _, carrier in after.values()}
        for carrier in self.carriers:
            if carrier not in staying and self._is_delivering:
                self._end(carrier)
        self._open = after
        for carrier in new.values():
            if self._is_delivering:
                self._begin(carrier)

    def _carrier(self, wanted: _Wanted) -> Carrier:
        return Carrier(
            wanted.name, wanted.kind, wanted.target, wanted.make(), self._source, self._store, self._sink.note,
            kinds=wanted.kinds, clock=self._clock,
        )  # fmt: skip

    def _begin(self, carrier: Carrier) -> None:
        self._tasks[carrier] = asyncio.ensure_future(self._run(carrier, self._ending.get(carrier.name)))

    def _end(self, carrier: Carrier) -> None:
        task = self._tasks.pop(carrier)
        task.cancel()

        async def ended() -> None:
            await asyncio.gather(task, return_exceptions=True)
            await carrier.close()

        ending = self._ending[carrier.name] = asyncio.ensure_future(ended())
        ending.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _run(self, carrier: Carrier, earlier: "asyncio.Task[None] | None") -> None:
        if earlier is not None:  # its cursor is saved first
            await asyncio.wait({earlier})
        while not carrier.is_stopped:
            try:
                await carrier.carry_for_ever()
            except Exception as failure:  # noqa: BLE001 - an edge of ops: one outbox's bug is not that of all others
                self._sink.note("error", "outbox failed", outbox=carrier.name, why=repr(failure))
                await self._clock.sleep(PAUSE_S)


class _Step:
    """A reload's part: a reloading.Step."""

    def __init__(self, outboxes: Outboxes, wanted: Iterable[_Wanted], new: dict[str, Carrier]) -> None:
        self._outboxes = outboxes
        self._wanted = tuple(wanted)
        self._new = new

    def apply(self) -> None:
        self._outboxes.take_over(self._wanted, self._new)

    async def give_up(self) -> None:
        """Nothing was opened yet."""


def _wanted(config: Config) -> list[_Wanted]:
    host, release, events = config.hostname, version("smarthost"), config.events
    found = [
        _Wanted(
            name_of(section.url), "webhook", target_of(section.url), section.kinds, (section, host),
            lambda section=section: Webhook(section, hostname=host, version=release),  # type: ignore[misc]
        )
        for section in config.webhooks
    ]  # fmt: skip
    if (file := events.file) is not None:
        found.append(_Wanted("file", "file", str(file), (), file, lambda: RecordFile(file)))
    if place := events.syslog:
        found.append(_Wanted("syslog", "syslog", place, (), (place, host), lambda: Syslog(place, host)))
    return found
