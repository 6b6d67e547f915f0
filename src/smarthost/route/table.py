# SPDX-License-Identifier: MIT
"""The route table: recipient domain -> direct MX, a fixed next hop, or refuse; by exact domain, suffix, then default.

Also gives each domain its destination (route key), which is computed, never stored: after a change of configuration a
restart routes the old mail by the new table. Asks nobody anything; who calls it: the feed (hot) and the planner.
"""

from collections.abc import Mapping
from enum import Enum
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from smarthost.mail.address import to_domain
from smarthost.mail.errors import ConfigError
from smarthost.mail.hop import Credentials, TlsLevel

KNOWN_DOMAINS = 65_536  # remembered domain -> destination pairs, about 10 MiB; then all are forgotten at once
_NO_DOMAIN = "?"  # before what looks like a hop's key but came as a recipient domain; no name begins with it


class Families(Enum):
    """Which kinds of address are used."""

    BOTH = "both"
    IPV4 = "ipv4"
    IPV6 = "ipv6"

    @property
    def rdtypes(self) -> tuple[str, ...]:
        """What to ask DNS for, the preferred family first.

        Deviation: RFC 6724 would put IPv6 first. Broken IPv6 and missing IPv6 PTR records (5.7.25 at large receivers)
        are the commoner fault of a new relay, and every other address tried is of the other family anyway.
        """
        return {Families.BOTH: ("A", "AAAA"), Families.IPV4: ("A",), Families.IPV6: ("AAAA",)}[self]


class DirectMx(Struct, frozen=True, gc=False):
    """Deliver to the domain's own exchangers."""

    rule: str = ""
    families: Families = Families.BOTH


class NextHop(Struct, frozen=True, gc=False):
    """Hand everything to one host, which the operator chose: any name (no MX look-up) or address literal.

    `verified_name`: the name its certificate must hold, where that is not `host`.
    """

    host: str
    port: int = 25
    tls: TlsLevel = TlsLevel.OPPORTUNISTIC
    implicit_tls: bool = False
    credentials: Credentials | None = None
    verified_name: str = ""
    rule: str = ""
    families: Families = Families.BOTH


class Refuse(Struct, frozen=True, gc=False):
    """Bounce mail for these domains; `why` is what the sender reads."""

    why: str = "mail for this domain is not relayed"
    rule: str = ""


Route: TypeAlias = DirectMx | NextHop | Refuse


class RouteTable:
    """Routes by recipient domain. `routes` are keyed by domain ("example.org") or subdomains of one (".example.org").

    Raises: ConfigError: a key that is no domain or comes twice, a port or host that cannot be.
    """

    def __init__(self, default: Route | None = None, routes: Mapping[str, Route] | None = None) -> None:
        self._default = _checked(default if default is not None else DirectMx(), "default")
        self._exact: dict[str, Route] = {}
        self._suffixes: dict[str, Route] = {}
        for key, route in (routes or {}).items():
            self._add(key, route)
        self._hops: dict[str, NextHop] = {}
        self._keys: dict[Route, str] = {}
        for each in (self._default, *self._exact.values(), *self._suffixes.values()):
            if isinstance(each, NextHop):
                self._name_hop(each)
        self._known: dict[str, str] = {}

    def _add(self, key: str, route: Route) -> None:
        place = f'routes."{key}"'
        routes = self._suffixes if key.startswith(".") else self._exact
        try:
            domain = to_domain(key.removeprefix("."))
        except ValueError as error:
            raise ConfigError(str(error), key=place) from error
        if domain in routes:
            raise ConfigError("this domain has a route already", key=place)
        routes[domain] = _checked(route, place)

    def _name_hop(self, hop: NextHop) -> None:
        """Give a hop its key. Two that differ in more than host and port (user, TLS, rule) must not share one."""
        if hop in self._keys:
            return
        host = f"[{hop.host}]" if ":" in hop.host else hop.host
        key = f"hop:{host}:{hop.port}"
        if key in self._hops:
            key = f"{key} ({hop.rule})"
        self._hops[key] = hop
        self._keys[hop] = key

    def destination_of(self, domain: str) -> str:
        """Give the route key of a recipient domain: "hop:HOST:PORT" for a fixed next hop, else the domain itself."""
        return self._known.get(domain) or self._remember(domain)

    def _remember(self, domain: str) -> str:
        destination = self._keys.get(self._find(domain))
        if destination is None:
            destination = f"{_NO_DOMAIN}{domain}" if domain.startswith("hop:") or not domain else domain
        if len(self._known) >= KNOWN_DOMAINS:
            self._known.clear()
        self._known[domain] = destination
        return destination

    def route_of(self, destination: str) -> Route:
        """Give the route that a destination (or a recipient domain) takes."""
        return self._hops.get(destination) or self._find(destination)

    def _find(self, domain: str) -> Route:
        found = self._exact.get(domain)
        if found is not None:
            return found
        if self._suffixes and not domain.startswith("["):
            _, dot, parent = domain.partition(".")
            while dot:  # the longest suffix wins
                found = self._suffixes.get(parent)
                if found is not None:
                    return found
                _, dot, parent = parent.partition(".")
        return self._default


def _checked(route: Route, place: str) -> Route:
    if isinstance(route, NextHop):
        if not route.host or any(map(_is_odd, route.host + route.verified_name)):
            why = "a next hop needs a host: a name, or an address without brackets; no blanks, no commas"
            raise ConfigError(why, key=place)
        if not 0 < route.port < 65536:
            raise ConfigError(f"no such port: {route.port}", key=place)
    return route if route.rule else replace(route, rule=place)


def _is_odd(character: str) -> bool:
    """Tell what no host has in its name: route.site parts texts by blanks and commas (a zone index could have them)."""
    return character in " []," or not character.isprintable()
