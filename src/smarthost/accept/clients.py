# SPDX-License-Identifier: MIT
"""How much one client network may ask of us, and which reverse-paths it may use.

A client network is an IPv4 address or an IPv6 /64, unless the operator says otherwise; its terms are those of the
narrowest configured network that holds it. Rates are kept as one number each (a leaky bucket that takes a minute's
worth at once and then drips), so nothing needs a timer. Memory is bounded: of more than TABLE client networks the one
unseen for longest is forgotten, but for its open connections. Knows no session; accept.receptions and accept.reception
ask. Nothing survives a restart.
"""

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache

from msgspec import Struct

from smarthost.accept.policy import Network, parse_address, parse_network
from smarthost.accept.recent import Recent
from smarthost.accept.senders import Senders
from smarthost.mail.errors import ConfigError
from smarthost.mail.user import User

TABLE = 10_000  # client networks, and users, whose rates are remembered: some 5 MB
WINDOW_S = 60.0
_ROUNDING_S = 1e-6


class NetworkTerms(Struct, frozen=True, kw_only=True):
    """What each client network within `networks` (CIDR) may do. None: no limit. No `senders`: any reverse-path.

    `errors_per_minute` counts 5xx replies. `senders` are addresses, domains as "@example.org", or "*".
    """

    networks: tuple[str, ...] = ()
    senders: tuple[str, ...] = ()
    connections: int | None = None
    connections_per_minute: int | None = None
    messages_per_minute: int | None = None
    recipients_per_minute: int | None = None
    errors_per_minute: int | None = None


class ClientTerms(Struct, frozen=True, kw_only=True):
    """The terms of all clients. `others`: of who is in none of `networks` (its own `networks`
    are not looked at); None: `Limits.connections_per_client` connections, and nothing else is limited."""

    networks: tuple[NetworkTerms, ...] = ()
    others: NetworkTerms | None = None
    ipv4_prefix: int = 32
    ipv6_prefix: int = 64


class Rate:
    """So many a minute, at most that many at once (a leaky bucket, told by when it will be empty)."""

    __slots__ = ("_empty_at", "_step_s")

    def __init__(self, per_minute: int) -> None:
        self._step_s = WINDOW_S / per_minute if per_minute > 0 else float("inf")
        self._empty_at = 0.0

    def take(self, now: float, count: int = 1) -> bool:
        """Take `count`; False if that is too many, and then nothing is taken."""
        empty_at = max(now, self._empty_at) + count * self._step_s
        if empty_at > now + WINDOW_S + _ROUNDING_S:
            return False
        self._empty_at = empty_at
        return True


class Allowance:
    """What is left to a client network, or to a user, of messages and recipients."""

    __slots__ = ("messages", "recipients")

    def __init__(self, messages_per_minute: int | None, recipients_per_minute: int | None) -> None:
        self.messages = _rate(messages_per_minute)
        self.recipients = _rate(recipients_per_minute)

    def take_message(self, now: float) -> bool:
        return self.messages is None or self.messages.take(now)

    def take_recipient(self, now: float) -> bool:
        return self.recipients is None or self.recipients.take(now)


class NetworkAllowance(Allowance):
    """What is left to a client network, of connections and errors too."""

    __slots__ = ("_banned_until", "_connections", "_errors")

    def __init__(self, terms: NetworkTerms) -> None:
        super().__init__(terms.messages_per_minute, terms.recipients_per_minute)
        self._connections = _rate(terms.connections_per_minute)
        self._errors = _rate(terms.errors_per_minute)
        self._banned_until = 0.0

    def is_banned(self, now: float) -> bool:
        """Were there too many errors less than a minute ago?"""
        return now < self._banned_until

    def take_connection(self, now: float) -> bool:
        return not self.is_banned(now) and (self._connections is None or self._connections.take(now))

    def take_errors(self, now: float, count: int) -> bool:
        """Count errors; False: too many, and no new connection is welcome for a minute."""
        if self._errors is None or self._errors.take(now, count):
            return True
        self._banned_until = now + WINDOW_S
        return False


class Client(Struct, frozen=True):
    """What the terms say about one client address. `network`: the client network it counts for, as text.

    `is_rated`: something of what it asks in a minute is limited.
    """

    network: str
    terms: NetworkTerms
    senders: Senders | None
    is_rated: bool


class Clients:
    """All client networks: who is connected how often, and what they have left.

    Raises: ConfigError: names `networks` or `senders`.
    """

    def __init__(self, terms: ClientTerms, monotonic: Callable[[], float]) -> None:
        self._terms = terms
        self.monotonic = monotonic
        self._by_network = _narrowest_first(terms.networks)
        self._others = _describe(terms.others or NetworkTerms())
        self._open: dict[str, int] = {}  # bounded by the connections there may be in all
        self._allowances: Recent[NetworkAllowance] = Recent(TABLE)
        self._users: Recent[Allowance] = Recent(TABLE)
        self.find: Callable[[str], Client] = lru_cache(maxsize=1024)(self._find)  # 0.1 us instead of 5

    def adopt(self, terms: ClientTerms, connected: Iterable[str]) -> None:
        """Go by other terms, under which what each may do begins anew; `connected`: the clients, once a connection.

        Raises: ConfigError: as the constructor, and nothing has changed.
        """
        if terms == self._terms:
            return
        by_network, others = _narrowest_first(terms.networks), _describe(terms.others or NetworkTerms())
        self._terms, self._by_network, self._others = terms, by_network, others
        self._allowances = Recent(TABLE)
        self.find = lru_cache(maxsize=1024)(self._find)
        self._open = dict(Counter([self.find(client).network for client in connected]))

    def _find(self, client: str) -> Client:
        """Give what is said about a client address; what is no address is a network of its own."""
        address = parse_address(client)
        if address is None:
            return Client(client, *self._others)
        prefix = self._terms.ipv4_prefix if address.version == 4 else self._terms.ipv6_prefix
        described = self._others
        for candidate, terms in self._by_network:
            if address.version == candidate.version and address in candidate:
                prefix = max(prefix, candidate.prefixlen)  # a host with its own terms does not share its neighbours'
                described = terms
                break
        return Client(str(ipaddress.ip_network((address, prefix), strict=False)), *described)

    def enter(self, client: str) -> bool:
        """Count a new connection, which `leave` must end; False: it is one too many, at once or in this minute."""
        found = self.find(client)
        count = self._open[found.network] = self._open.get(found.network, 0) + 1
        limit = found.terms.connections
        if limit is not None and count > limit:
            return False
        return not found.is_rated or self.allowance_of(found).take_connection(self.monotonic())

    def is_banned(self, client: str) -> bool:
        """Is it for its errors that a client is not welcome?"""
        found = self.find(client)
        return found.is_rated and self.allowance_of(found).is_banned(self.monotonic())

    def leave(self, client: str) -> None:
        """A connection that was entered is over."""
        network = self.find(client).network
        left = self._open.get(network, 0) - 1
        if left > 0:
            self._open[network] = left
        else:
            self._open.pop(network, None)

    def allowance_of(self, client: Client) -> NetworkAllowance:
        """Give what is left to a client's network, which is rated."""
        return self._allowances.find_or_make(client.network, lambda: NetworkAllowance(client.terms))

    def allowance_of_user(self, user: User) -> Allowance | None:
        """Give what is left to this user; None: nothing is limited. A changed limit begins anew."""
        messages, recipients = user.messages_per_minute, user.recipients_per_minute
        if messages is None and recipients is None:
            return None
        return self._users.find_or_make(f"{messages} {recipients} {user.name}", lambda: Allowance(messages, recipients))

    def __len__(self) -> int:
        """Tell how many client networks and users are remembered."""
        return len(self._allowances) + len(self._users)


def _rate(per_minute: int | None) -> Rate | None:
    return None if per_minute is None else Rate(per_minute)


_Described = tuple[NetworkTerms, Senders | None, bool]


def _describe(terms: NetworkTerms) -> _Described:
    rates = (
        terms.connections_per_minute,
        terms.messages_per_minute,
        terms.recipients_per_minute,
        terms.errors_per_minute,
    )
    senders = Senders(terms.senders) if terms.senders else None
    return terms, senders, any(rate is not None for rate in rates)


def _narrowest_first(terms: tuple[NetworkTerms, ...]) -> list[tuple[Network, _Described]]:
    found: list[tuple[Network, _Described]] = []
    for each in terms:
        described = _describe(each)
        found += [(parse_network(text, "networks"), described) for text in each.networks]
    if len({network for network, _ in found}) < len(found):
        raise ConfigError("a network is described twice", key="networks")
    found.sort(key=lambda pair: -pair[0].prefixlen)
    return found
