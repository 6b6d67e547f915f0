# SPDX-License-Identifier: MIT
"""What another Config would do to the mail that is in the queue: how many recipients would go another way.

Goes through the store's pages with both route tables and changes nothing; each page is a question to the store, between
which other work runs. Memory is bounded: what was found of a domain is remembered for some of them. Asked by operators.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable

from msgspec import Struct

from smarthost.config import Config, terms
from smarthost.mail.address import recipient_domain
from smarthost.mail.change import Effects, OtherWay
from smarthost.mail.hop import TlsLevel
from smarthost.queue.store import Filter, Page
from smarthost.route.table import NextHops, Refuse, Route, RouteTable

PAGE = 200  # messages; one may have 1,000 recipients
DOMAINS_KNOWN = 20_000
WAYS_KNOWN = 10_000  # pairs of routes; a crowd of routes at once is counted, but not each named
WAYS_TOLD = 20
_ALL = Filter()
_FINISHED = frozenset({"relayed", "bounced", "expired", "cancelled", "moved"})


class _Way(Struct, frozen=True):
    """What becomes of a recipient domain: where it goes, by which limits, with which TLS; these None: it is refused."""

    to: tuple[object, ...]
    lane: tuple[object, ...] | None
    tls: tuple[object, ...] | None
    words: str


class _Ways:
    """The ways of one Config."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._table: RouteTable = terms.route_table(config)
        limits = config.limits
        self._limits = (limits.sessions_per_lane, limits.messages_per_session, limits.idle_session_s)
        self._ca_file = terms.ca_file(config)

    def of(self, domain: str) -> _Way:
        """Give the way of a recipient domain as it is filed."""
        route: Route = self._table.route_of(domain)
        config = self._config
        if isinstance(route, Refuse):
            return _Way(("refuse", route.why), None, None, f"{route.rule}: refused")
        if isinstance(route, NextHops):
            hosts = tuple([(hop.host, hop.port) for hop in route.hops])
            to = tuple([(hop.host, hop.port, hop.is_lmtp, hop.families, hop.speaker) for hop in route.hops])
            tls = self._protection({(hop.tls, hop.implicit_tls) for hop in route.hops})
            words = ", then ".join(map(str, route.hops))
            return _Way((to, config.hostname), (hosts, self._limits), tls, f"{route.rule} {words}")
        by_mx = (config.mx.port, config.mx.allow_private, route.families, route.speaker, config.hostname)
        lane = (recipient_domain(domain), config.mx.port, route.families)
        return _Way(("mx", *by_mx), (lane, self._limits), self._protection({(route.tls, False)}), route.rule)

    def _protection(self, kinds: set[tuple[TlsLevel, bool]]) -> tuple[object, ...]:
        trusted = self._ca_file if any(level is TlsLevel.VERIFIED for level, _ in kinds) else ""
        return frozenset(kinds), trusted


async def count_effects(
    old: Config, new: Config, find: Callable[[Filter, str | None, int], Awaitable[Page]]
) -> AsyncGenerator[Effects | None, None]:
    """Give None after each page, and at the end how many recipients are affected.

    Raises: ConfigError: routes that cannot be. StoreError.
    """
    before, after = _Ways(old), _Ways(new)
    known: dict[str, tuple[bool, bool, bool, tuple[str, str]]] = {}
    ways: Counter[tuple[str, str]] = Counter()
    recipients = routes = limits = levels = 0
    cursor: str | None = None
    while True:
        page = await find(_ALL, cursor, PAGE)
        for recipient in [each for message in page.messages for each in message.recipients]:
            if recipient.state in _FINISHED:
                continue
            differs = known.get(recipient.domain)
            if differs is None:
                if len(known) >= DOMAINS_KNOWN:
                    known.clear()
                differs = known[recipient.domain] = _differ(before.of(recipient.domain), after.of(recipient.domain))
            is_route, is_limit, is_tls, words = differs
            recipients += 1
            routes += is_route
            limits += is_limit
            levels += is_tls
            if is_route and (words in ways or len(ways) < WAYS_KNOWN):
                ways[words] += 1
        cursor = page.cursor
        if cursor is None:
            break
        yield None
    told = tuple([OtherWay(first, second, count) for (first, second), count in ways.most_common(WAYS_TOLD)])
    yield Effects(recipients, routes, limits, levels, told)


def _differ(before: _Way, after: _Way) -> tuple[bool, bool, bool, tuple[str, str]]:
    is_sent = before.lane is not None and after.lane is not None
    is_limit, is_tls = is_sent and before.lane != after.lane, is_sent and before.tls != after.tls
    return before.to != after.to, is_limit, is_tls, (before.words, after.words)
