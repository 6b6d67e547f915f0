# SPDX-License-Identifier: MIT
"""The configuration file of a running daemon, read again for SIGHUP and `smarthost reload`, and compared with others.

It is read from the same path with the same options as at the start. All of it holds then, or none: what was wrong is in
the log and in the command's answer, and the configuration of before goes on. Decides nothing about mail.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, aclosing, asynccontextmanager, nullcontext
from typing import Protocol

from smarthost.comparing import count_effects
from smarthost.config import Config, Reading
from smarthost.config.changes import find_changes
from smarthost.mail.change import Change, Effects
from smarthost.mail.errors import ConfigError
from smarthost.ops.exits import NotReloaded
from smarthost.ops.reload import tell_errors
from smarthost.ports import Sink
from smarthost.queue.store import Filter, Page
from smarthost.reloading import Follower, Step

FILES_S = 60.0  # all files of a configuration; a disk that takes longer hangs
Reread = Callable[[str | None, str], Reading]  # (text, name): None: the file of the start


class ReloadingRelay(Protocol):
    """What is asked of assemble.Relay."""

    @property
    def config(self) -> Config: ...

    async def reload(self, config: Config, followers: Sequence[Follower] = ()) -> tuple[Change, ...]: ...
    async def find(self, which: Filter = ..., cursor: str | None = None, n: int = 100) -> Page: ...


class ConfigFile:
    """The configuration file of a daemon, to be read anew. `taken` is told what was taken over, after each reload.

    `reread`: None where there is no file, as in a program that is no command.
    """

    def __init__(
        self,
        reread: Reread | None,
        relay: ReloadingRelay,
        sink: Sink,
        followers: Sequence[Follower] = (),
        reloading: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.taken: Callable[[Config], None] = lambda _: None
        self._reread = reread or _read_nothing
        self._relay = relay
        self._sink = sink
        self._followers = tuple(followers)
        self._reloading = reloading

    @asynccontextmanager
    async def following(self, asked: asyncio.Event) -> AsyncIterator[None]:
        """Reload each time somebody asked, as long as the block lasts."""
        follows = asyncio.ensure_future(self._follow(asked))
        try:
            yield
        finally:
            follows.cancel()
            await asyncio.gather(follows, return_exceptions=True)

    async def _follow(self, asked: asyncio.Event) -> None:
        while True:
            await asked.wait()
            asked.clear()
            try:
                await self.reload("SIGHUP")
            except NotReloaded:
                pass  # the log has it
            except Exception as failure:  # noqa: BLE001 - the edge of ops: a bug here must not end the daemon
                self._sink.note("error", "configuration not reloaded", by="SIGHUP", why=repr(failure))

    async def reload(self, by: str) -> tuple[str, tuple[Change, ...]]:
        """Read the file and have it taken over; gives its name and what is different now. Raises: NotReloaded."""
        with self._reloading():
            reading = await self._read(None, "")
            if reading.config is None:
                raise self._refuse(by, reading, reading.errors)
            try:
                changes = await self._relay.reload(reading.config, self._followers)
            except ConfigError as error:
                raise self._refuse(by, reading, [error]) from error
        self.taken(self._relay.config)
        return reading.file, changes

    def _refuse(self, by: str, reading: Reading, errors: Sequence[ConfigError]) -> NotReloaded:
        lines = tell_errors(reading, errors)
        self._sink.note("error", "configuration not reloaded", by=by, file=reading.file or None, errors=lines)
        return NotReloaded("\n".join([*lines, "nothing was changed: the configuration of before is in force"]))

    async def compare(
        self, text: str, name: str, old_text: str | None, old_name: str
    ) -> AsyncGenerator[tuple[tuple[Change, ...], Effects | None] | None, None]:
        """Give what another text would change, and for how much of the queue; None: still counting.

        Raises: NotReloaded: a text is wrong. StoreError.
        """
        new = await self._parse(text, name)
        old = self._relay.config if old_text is None else await self._parse(old_text, old_name)
        changes = find_changes(old, new)
        if not changes:
            yield changes, None
            return
        async with aclosing(count_effects(old, new, self._relay.find)) as counted:
            async for effects in counted:
                yield None if effects is None else (changes, effects)

    async def _parse(self, text: str, name: str) -> Config:
        reading = await self._read(text, name)
        if reading.config is None:
            raise NotReloaded("\n".join(tell_errors(reading, reading.errors)))
        return reading.config

    async def _read(self, text: str | None, name: str) -> Reading:
        """Read aside, since disks may be slow, or hang."""
        try:
            async with asyncio.timeout(FILES_S):
                return await asyncio.to_thread(self._reread, text, name)
        except TimeoutError:
            why = f"not read within {FILES_S:.0f} s: does a disk hang?"
            return Reading(None, (ConfigError(why),), name or self._relay.config.file)


def _read_nothing(text: str | None, name: str) -> Reading:
    return Reading(None, (ConfigError("this relay was not started from a configuration file: restart it instead"),))


class LogFollower:
    """Takes `[log]` over: a Follower."""

    sections = frozenset({"log"})

    def __init__(self, adopt: Callable[[str, bool], None]) -> None:
        self._adopt = adopt

    async def prepare(self, config: Config) -> Step:
        return _LogStep(self._adopt, config.log.level, config.log.accepted)


class _LogStep:
    def __init__(self, adopt: Callable[[str, bool], None], level: str, accepted: bool) -> None:
        self._adopt = adopt
        self._level = level
        self._accepted = accepted

    def apply(self) -> None:
        self._adopt(self._level, self._accepted)

    async def give_up(self) -> None:
        """Nothing was opened."""
