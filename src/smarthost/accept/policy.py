# SPDX-License-Identifier: MIT
"""Who may relay. The verdict is a Reply, or None for yes.

Pure. Only clients in the configured networks may hand us mail for others; what a recipient address looks like changes
nothing (`%`, `!`, quotes and our own name in it are opaque). How much a client may ask is counted by accept.clients,
which reverse-paths it may use is in accept.senders, how long its commands may be is for smtp.server.
"""

import ipaddress
from collections.abc import Callable, Iterable
from functools import lru_cache

from smarthost.accept import replies
from smarthost.mail.address import Address, to_domain
from smarthost.mail.errors import ConfigError
from smarthost.mail.reply import Reply

LOOPBACK = ("127.0.0.0/8", "::1/128")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


class Networks:
    """A set of networks (CIDR) to ask for client addresses. Immutable. Raises: ConfigError: names `key`."""

    __slots__ = ("_networks", "holds")

    def __init__(self, networks: Iterable[str], key: str) -> None:
        self._networks = tuple(parse_network(text, key) for text in networks)
        self.holds: Callable[[str], bool] = lru_cache(maxsize=1024)(self._look_up)  # 0.1 us instead of 2

    def __contains__(self, client: str) -> bool:
        return self.holds(client)

    @property
    def are_everyone(self) -> bool:
        """Is there a network of all addresses among them?"""
        return any(network.prefixlen == 0 for network in self._networks)

    def _look_up(self, client: str) -> bool:
        address = parse_address(client)
        return address is not None and any(address in network for network in self._networks)


class RelayPolicy:
    """Which networks may relay, and where mail for a bare `postmaster` goes ("" or None: nowhere).

    Immutable; shared by all sessions. Raises: ConfigError: names `relay_from` or `postmaster`.
    """

    __slots__ = ("_networks", "_postmaster")

    def __init__(self, networks: Iterable[str] = LOOPBACK, postmaster: str | None = None) -> None:
        self._networks = Networks(networks, "relay_from")
        self._postmaster = _parse_postmaster(postmaster) if postmaster else None

    @property
    def is_open(self) -> bool:
        """May everybody relay? True for a network of all addresses: legal, but a doctor should shout about it."""
        return self._networks.are_everyone

    def may_relay(self, client: str) -> bool:
        """May this client address relay? An IPv4-mapped one is its IPv4 address; what is no address may not."""
        return self._networks.holds(client)

    def refuse_recipient(self, recipient: Address, client: str, *, may_relay: bool) -> Reply | None:
        """Refuse a recipient, or give None. `may_relay` is the answer given for this client.

        RFC 5321 4.5.1: a bare `postmaster`, in any case, is for whoever runs this host, and everyone may write to it.
        Deviation: without a configured postmaster it is refused, since there is no mailbox here that could take it.
        """
        if recipient.domain:
            return None if may_relay else _deny(client)
        if recipient.text.lower() != "postmaster":
            return replies.NO_DOMAIN if may_relay else _deny(client)
        return replies.NO_POSTMASTER if self._postmaster is None else None

    def route_recipient(self, recipient: Address) -> Address:
        """Give the address to file an accepted recipient under: itself, but for a bare `postmaster`.

        Raises: AssertionError: a recipient that refuse_recipient refused.
        """
        if recipient.domain:
            return recipient
        assert self._postmaster is not None, "a bare postmaster is accepted only when there is one"
        return self._postmaster


@lru_cache(maxsize=256)  # one client refused a thousand times builds one reply; 256 of them are 50 KiB
def _deny(client: str) -> Reply:
    return replies.relay_denied(client)


def parse_address(client: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read a client address; an IPv4-mapped one is its IPv4 address, what is no address is None."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def parse_network(text: str, key: str) -> Network:
    """Parse a CIDR; host bits must be zero, or a typing error would open more or less than was meant.

    Raises: ConfigError: names `key`.
    """
    try:
        network = ipaddress.ip_network(text.strip())
    except ValueError as error:
        raise ConfigError(f"not a network such as 10.0.0.0/8: {error}", key=key) from error
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        mapped = network.network_address.ipv4_mapped
        return ipaddress.IPv4Network((int(mapped or 0), network.prefixlen - 96))
    return network


def _parse_postmaster(text: str) -> Address:
    local_part, at, domain = text.rpartition("@")
    if not (local_part and at and domain and text.isprintable()) or " " in text:
        raise ConfigError(f"not an address with a domain: {text!r}", key="postmaster")
    try:
        return Address(text, to_domain(domain))
    except ValueError as error:
        raise ConfigError(f"{text!r}: {error}", key="postmaster") from error
