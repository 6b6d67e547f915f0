# SPDX-License-Identifier: MIT
"""What a running relay takes over from a new Config: whole, or not at all.

First all is opened that can fail (files, addresses, what side services need), then all is put to use in one turn of the
loop. Sessions and attempts under way end by the terms they began with; mail that waits is planned for anew at once.
Part of assemble.py, which builds it; one reload at a time. A crash leaves the file, which the next start reads.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from smarthost.backends.tcp import TcpDialer
from smarthost.backends.tls import TlsContexts
from smarthost.config import Config, terms
from smarthost.config.changes import find_changes
from smarthost.delivery import Delivery, DeliveryTerms
from smarthost.entrance import Entrance, ReopeningListener, find_bad_files
from smarthost.mail.change import Change
from smarthost.mail.errors import ConfigError, StoreError
from smarthost.mail.record import Record
from smarthost.ports import Clock, Resolver, Sink
from smarthost.route.plan import Planner
from smarthost.route.table import RouteTable

# Fields of Config that are taken over here. What is neither here nor a follower's is taken at a start only.
FOLLOWED = frozenset(
    {
        "hostname", "listen", "relay_from", "transfer_from", "postmaster", "soft_bounce", "next_hops", "routes",
        "listeners", "networks", "dkim", "tls", "auth", "dns", "mx", "hosts", "retry", "limits",
    }
)  # fmt: skip
FILES_S = 60.0  # for all certificates, keys and users; a disk that takes longer hangs
CHANGES_TOLD = 100  # in a log line
_DEMANDS = frozenset({"next_hops", "routes", "mx", "hostname"})


class Step(Protocol):
    """A side service's part of a reload: `apply` cannot fail, `give_up` undoes what was opened for it."""

    def apply(self) -> None: ...
    async def give_up(self) -> None: ...


class Follower(Protocol):
    """A side service that takes over its own sections of a new Config (their fields there) while it runs."""

    @property
    def sections(self) -> frozenset[str]: ...

    async def prepare(self, config: Config) -> Step:
        """Open what can fail. Raises: ConfigError: names the key; nothing has changed."""


class ReloadParts(Struct, frozen=True):
    """What is changed. `resolve` gives (resolver, that of configured next hops, what closes them).

    `own_addresses` gives those at which mail would come back to us, of the addresses that are bound.
    """

    clock: Clock
    sink: Sink
    delivery: Delivery
    entrance: Entrance
    listener: ReopeningListener
    table: RouteTable
    planner: Planner
    dialer: TcpDialer
    resolve: Callable[[Config], tuple[Resolver, Resolver, Callable[[], None]]]
    own_addresses: Callable[[Sequence[tuple[str, int]]], frozenset[tuple[str, int]]]


def with_choices(delivery: DeliveryTerms, config: Config) -> DeliveryTerms:
    """Give the terms of a delivery with what an operator chose: one place, for a start and for a reload."""
    return replace(
        delivery,
        hostname=config.hostname,
        schedule=terms.schedule(config),
        health=terms.health_terms(config),
        patience_s=config.hosts.patience_s,
        idle_session_s=config.limits.idle_session_s,
        messages_per_session=config.limits.messages_per_session,
        sessions_per_lane=config.limits.sessions_per_lane,
        soft_bounce=config.soft_bounce,
    )


class Reloading:
    """Holds the Config in force."""

    def __init__(self, parts: ReloadParts, config: Config, close_resolver: Callable[[], None]) -> None:
        self.config = config
        self._parts = parts
        self._close_resolver = close_resolver
        self._one_at_a_time = asyncio.Lock()

    async def reload(self, config: Config, followers: Sequence[Follower] = ()) -> tuple[Change, ...]:
        """Take over a Config, and give what is different now.

        Raises: ConfigError: names the key; the Config of before is in force, all of it.
        """
        async with self._one_at_a_time:
            changes = find_changes(self.config, config)
            _refuse_what_stays(changes, followers)
            await self._look_into_files(config)
            former = self.config
            await self._take_over(config, followers)
            self.config = config
            await self._release_rerouted(former, changes)
        shown = [str(change) for change in changes[:CHANGES_TOLD]]
        self._parts.sink.note("info", "config reloaded", file=config.file or None, changes=shown, changed=len(changes))
        return changes

    async def _look_into_files(self, config: Config) -> None:
        """Raises: ConfigError: what a start would say of files; aside, since disks may be slow."""
        warnings: list[tuple[str, str, dict[str, object]]] = []
        sink = _Kept(warnings)
        try:
            async with asyncio.timeout(FILES_S):  # noqa: TID251 - a thread: no simulation has one
                errors = await asyncio.to_thread(lambda: list(find_bad_files(config, self._parts.clock, sink)))
        except TimeoutError as error:
            raise ConfigError(f"its files were not read within {FILES_S:.0f} s: does a disk hang?") from error
        if errors:
            raise_all(errors)
        for level, what, facts in warnings:
            self._parts.sink.note(level, what, **facts)

    async def _take_over(self, config: Config, followers: Sequence[Follower]) -> None:
        parts = self._parts
        table = terms.route_table(config)
        contexts = TlsContexts(ca_file=terms.ca_file(config))
        contexts.check()
        undo: list[Callable[[], Awaitable[None]]] = []
        steps: list[Step] = []
        try:
            for follower in followers:
                step = await follower.prepare(config)
                steps.append(step)
                undo.append(step.give_up)
            change = await parts.entrance.open(config, parts.listener)
        except BaseException:
            for give_up in reversed(undo):
                await give_up()
            raise
        # From here on nothing waits and nothing fails, until all is as the new Config wants it.
        close_former: Callable[[], None] | None = None
        resolver, hop_resolver = parts.planner.resolvers
        if config.dns != self.config.dns:
            close_former = self._close_resolver
            resolver, hop_resolver, self._close_resolver = parts.resolve(config)
        parts.table.adopt(table)
        parts.planner.adopt(terms.plan_terms(config), resolver, hop_resolver)
        parts.dialer.adopt(contexts)
        parts.entrance.apply(change, parts.listener)
        self.learn_addresses()
        parts.delivery.adopt(with_choices(parts.delivery.terms, config))
        for step in steps:
            step.apply()
        if close_former is not None:
            close_former()
        await parts.entrance.leave(change, parts.listener)

    async def _release_rerouted(self, former: Config, changes: Sequence[Change]) -> None:
        """Make due what waits for a host that is not in its way any more, or that has another password now."""
        if not any(change.field in _DEMANDS for change in changes):
            return
        hosts, table, before = self._parts.delivery.hosts, self._parts.table, terms.route_table(former)
        hosts.forget_demands()
        try:
            recipients = await hosts.release_where(lambda domain: before.route_of(domain) != table.route_of(domain))
        except StoreError as failure:  # it goes by its schedule, by the new routes
            self._parts.sink.note("error", "waiting mail not released", why=str(failure))
            return
        if recipients:
            self._parts.sink.note("info", "waiting mail goes another way", recipients=recipients)

    def learn_addresses(self) -> None:
        """Tell the planner where we listen, which is known once it is bound: mail must not be sent to ourselves."""
        self._parts.planner.listen_at(self._parts.own_addresses(self._parts.entrance.bound))

    def close(self) -> None:
        """Close the resolver in use."""
        self._close_resolver()


def raise_all(errors: Sequence[ConfigError]) -> None:
    """Raise the first, with a line for each of the others."""
    first = errors[0]
    others = "".join(f"\n{error}" for error in errors[1:])
    raise ConfigError(first.detail + others, key=first.key, line=first.line)


def _refuse_what_stays(changes: Sequence[Change], followers: Sequence[Follower]) -> None:
    followed = FOLLOWED.union(*[follower.sections for follower in followers])
    stays = [change for change in changes if change.field not in followed]
    if stays:
        raise_all(
            [
                ConfigError(
                    f"changes at a start only (it is {change.before} now): restart smarthost, or put it back",
                    key=change.key,
                )
                for change in stays
            ]
        )


class _Kept:
    """A Sink that keeps notes: they were made in a thread."""

    def __init__(self, notes: list[tuple[str, str, dict[str, object]]]) -> None:
        self._notes = notes

    def record(self, record: Record) -> None:
        """Nothing happens to mail while files are looked at."""

    def note(self, level: str, what: str, **facts: Any) -> None:  # noqa: ANN401
        self._notes.append((level, what, facts))
