# SPDX-License-Identifier: MIT
"""The route table: recipient domain, and sender where routes ask for it -> direct MX, next hops in order, or refuse.

The most specific route wins: of the sender and the domain, of the domain, of the sender, the default (route.scopes).
Also gives each domain its destination (route key), which is computed, never stored: after a change of configuration
the old mail goes by the new table. Asks nobody anything; who calls it: reception (`scope`, once a
recipient), the feed (hot) and the planner.
"""

from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from ipaddress import ip_address
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from smarthost.mail.address import Domain, recipient_domain, scope_domain, send_via, split_domain, split_via
from smarthost.mail.errors import ConfigError
from smarthost.mail.hop import Credentials, TlsLevel
from smarthost.route.scopes import ByDomain, BySender
from smarthost.route.source import Speaker

KNOWN_DOMAINS = 65_536  # remembered domain -> destination pairs, about 10 MiB; then all are forgotten at once
HOPS = 10  # of a route; an attempt dials at most 5 addresses
_SMTP_PORT = 25
DIRECT = "mx"  # the way to a domain's own exchangers
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

    def reached_from(self, source: str) -> "Families":
        """Give those that a session bound to this local address can reach: one family; all from ""."""
        if not source:
            return self
        return Families.IPV6 if ":" in source else Families.IPV4


class DirectMx(Struct, frozen=True, gc=False):
    """Deliver to the domain's own exchangers. `speaker`: who speaks there, where that is not who speaks to all.

    `tls` VERIFIED wants a certificate for the exchanger's name as DNS gives it: as good as that DNS is.
    """

    rule: str = ""
    families: Families = Families.BOTH
    tls: TlsLevel = TlsLevel.OPPORTUNISTIC
    speaker: Speaker = Speaker()


class NextHop(Struct, frozen=True, gc=False):
    """One host which the operator chose: any name (no MX look-up) or address literal.

    `verified_name`: the name its certificate must hold, where that is not `host`. `is_lmtp`: it speaks LMTP (RFC 2033).
    """

    host: str
    port: int = _SMTP_PORT
    tls: TlsLevel = TlsLevel.OPPORTUNISTIC
    implicit_tls: bool = False
    credentials: Credentials | None = None
    verified_name: str = ""
    families: Families = Families.BOTH
    is_lmtp: bool = False
    speaker: Speaker = Speaker()

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class NextHops(Struct, frozen=True, gc=False):
    """Hand everything to the first of these hosts that takes it: in this order, whatever DNS says."""

    hops: tuple[NextHop, ...]
    rule: str = ""


class Refuse(Struct, frozen=True, gc=False):
    """Bounce mail for these domains; `why` is what the sender reads."""

    why: str = "mail for this domain is not relayed"
    rule: str = ""


Route: TypeAlias = DirectMx | NextHops | Refuse


class RouteTable:
    """Routes by recipient domain, and by sender.

    `routes` are keyed by domain ("example.org") or subdomains of one (".example.org"), `sender_routes` by sender and
    domain, which "" stands for all of. A sender is a reverse-path ("ann@example.org"), a domain of reverse-paths
    ("@example.org"), or a user who logged in ("user:ann").
    Raises: ConfigError: a key that is no domain, no sender, or comes twice; a port, host, or source that cannot be.
    """

    def __init__(
        self,
        default: Route | None = None,
        routes: Mapping[str, Route] | None = None,
        sender_routes: Mapping[tuple[str, str], Route] | None = None,
    ) -> None:
        self._default = _checked(default if default is not None else DirectMx(), "default")
        self._domains: ByDomain[Route] = ByDomain()
        self._senders: BySender[Route] = BySender()
        self._hops: dict[str, NextHops] = {}
        self._keys: dict[NextHops, str] = {}
        self._hop_of: dict[tuple[str, int], NextHop] = {}  # each that is configured, for `_route_by`
        self._known: dict[str, str] = {}
        self._name_hops(self._default)
        for key, route in (routes or {}).items():
            place = f'routes."{key}"'
            self._domains.add(key, self._named(route, place), place)
        for (sender, key), route in (sender_routes or {}).items():
            place = f'routes."{key}{" " if key else ""}from {sender}"'
            self._senders.add(sender, key, self._named(route, place), place)

    def adopt(self, other: "RouteTable") -> None:
        """Hold another table's routes from now on: whoever asks this one gets that one's answers."""
        self._default, self._domains, self._senders = other._default, other._domains, other._senders
        self._hops, self._keys, self._known = other._hops, other._keys, other._known
        self._hop_of = other._hop_of

    def _named(self, route: Route, place: str) -> Route:
        route = _checked(route, place)
        self._name_hops(route)
        return route

    def _name_hops(self, route: Route) -> None:
        """Give next hops their key. Two routes that differ in more than hosts and ports (user, TLS) never share one."""
        if isinstance(route, NextHops):
            for hop in route.hops:
                self._hop_of.setdefault((hop.host.lower(), hop.port), hop)
        if not isinstance(route, NextHops) or route in self._keys:
            return
        first, *others = route.hops
        key = name = f"hop:{first}+{len(others)}" if others else f"hop:{first}"
        number = 1
        while key in self._hops:
            key = f"{name} ({route.rule})" if number == 1 else f"{name} ({route.rule}, {number})"
            number += 1
        self._hops[key] = route
        self._keys[route] = key

    def scope(self, reverse_path: str, user: str, domain: str) -> Domain:
        """Give what a recipient of this domain is filed under when this sender writes to it: mail.address.scope_domain.

        The domain itself, unless a route asks for this sender. `user` is who logged in, or "".
        """
        if not self._senders:
            return Domain(domain)
        return scope_domain(domain, self._senders.choose(reverse_path, user, domain))

    def destination_of(self, domain: str) -> str:
        """Give the route key of a recipient domain, scoped or not: "hop:HOST:PORT" for a next hop ("hop:HOST:PORT+2"
        with two more behind it), else the domain itself, scoped if it is the sender's route that takes it."""
        return self._known.get(domain) or self._remember(domain)

    def _remember(self, text: str) -> str:
        route, sender = self._find(text)
        destination = self._keys.get(route) if isinstance(route, NextHops) else None
        _, way = split_via(text)
        if destination is None and way:
            domain = recipient_domain(text) if isinstance(route, DirectMx) else _NO_DOMAIN
            destination = send_via(domain, way)
        if destination is None:
            domain = recipient_domain(text)
            named = f"{_NO_DOMAIN}{domain}" if domain.startswith("hop:") or not domain else domain
            destination = scope_domain(named, sender)
        if len(self._known) >= KNOWN_DOMAINS:
            self._known.clear()
        self._known[text] = destination
        return destination

    def route_of(self, destination: str) -> Route:
        """Give the route that a destination (or a recipient domain, scoped or not) takes."""
        return self._hops.get(destination) or self._find(destination)[0]

    def check_way(self, way: str) -> None:
        """Raises: ValueError: not a way that an operator can send mail: "mx", HOST or HOST:PORT, "" for the routes'."""
        if way:
            self._route_by(way)

    def _route_by(self, way: str) -> Route:
        """Give the route of a way: a configured next hop with all it has, if it is one; else that host as it is."""
        if way == DIRECT:
            return DirectMx(rule="an operator: to its exchangers")
        has_port = ":" in way.rpartition("]")[2]
        host, _, port = way.rpartition(":") if has_port else (way, "", str(_SMTP_PORT))
        try:
            if ":" in host and not host.startswith("["):
                raise ValueError("an IPv6 address stands in brackets")
            if not (port.isascii() and port.isdigit()):
                raise ValueError(f"no such port: {port[:20]!r}")
            bare = host.removeprefix("[").removesuffix("]").lower()
            hop = self._hop_of.get((bare, int(port))) or NextHop(bare, int(port))
            return _checked(NextHops((hop,), rule=f"an operator: via {way}"), "via")
        except (ValueError, ConfigError) as error:
            raise ValueError(f"{way[:80]!r} is no way to send mail (mx, HOST or HOST:PORT): {error}") from error

    def _find(self, text: str) -> tuple[Route, str]:
        """Give the route, and the sender by whom it was chosen, or ""."""
        text, way = split_via(text)
        if way:
            with suppress(ValueError):  # what no release of ours has written goes where the routes say
                return self._route_by(way), ""
        domain, sender = split_domain(text)
        if sender and (chosen := self._senders.find_for_domain(sender, domain)):
            return chosen
        route = self._domains.find(domain)
        if route is not None:
            return route, ""
        if sender and (chosen := self._senders.find_for_all(sender)):
            return chosen
        return self._default, ""


def _checked(route: Route, place: str) -> Route:
    if isinstance(route, NextHops):
        if not 0 < len(route.hops) <= HOPS or len(set(route.hops)) < len(route.hops):
            raise ConfigError(f"a route has 1 to {HOPS} next hops, each once", key=place)
        for hop in route.hops:
            _check_hop(hop, place)
    elif isinstance(route, DirectMx):
        _check_speaker(route.speaker, place)
        if not _has_reach(route.families, route.speaker.source):
            why = f"{route.families.value} hosts cannot be reached from {route.speaker.source}: not the same family"
            raise ConfigError(why, key=place)
    return route if route.rule else replace(route, rule=place)


def _check_hop(hop: NextHop, place: str) -> None:
    if not hop.host or any(map(_is_odd, hop.host + hop.verified_name)):
        why = "a next hop needs a host: a name, or an address without brackets; no blanks, no commas"
        raise ConfigError(why, key=place)
    if not 0 < hop.port < 65536:
        raise ConfigError(f"no such port: {hop.port}", key=place)
    if hop.is_lmtp and hop.port == _SMTP_PORT:
        raise ConfigError(f"LMTP is not spoken at port {_SMTP_PORT} (RFC 2033 5): name another", key=place)
    _check_speaker(hop.speaker, place)
    source = hop.speaker.source
    if not _has_reach(hop.families, source) or not _has_reach(_families_of(hop.host), source):
        raise ConfigError(f"{hop} cannot be reached from {source}: not the same family", key=place)


def _check_speaker(speaker: Speaker, place: str) -> None:
    if any(map(_is_odd, speaker.helo)):
        raise ConfigError(f"not a name to give in EHLO: {speaker.helo!r}", key=place)
    try:
        ip_address(speaker.source or "0.0.0.0")  # noqa: S104 - nobody listens there
    except ValueError as error:
        raise ConfigError(f"a source is a local IP address: {error}", key=place) from error


def _has_reach(families: Families, source: str) -> bool:
    """Can any host of these families be reached from this local address?"""
    return families in (Families.BOTH, families.reached_from(source))


def _families_of(host: str) -> Families:
    """Give the family of an address literal; what a name has only DNS knows."""
    try:
        return Families.IPV6 if ip_address(host).version == 6 else Families.IPV4
    except ValueError:
        return Families.BOTH


def _is_odd(character: str) -> bool:
    """Tell what no host has in its name: route.site parts texts by blanks and commas (a zone index could have them)."""
    return character in " []," or not character.isprintable()
