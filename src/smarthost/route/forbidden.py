# SPDX-License-Identifier: MIT
"""Addresses mail must not be sent to by DNS: our own table, because a stranger's MX record may name anything.

Decides by address only. Python's `ipaddress.is_global` changed between patch releases (CVE-2024-4032) and lets embedded
IPv4 through (6to4, NAT64), so it is not asked. A next hop that the operator configured is never judged here.
"""

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from typing import NamedTuple

_NOT_AN_ADDRESS = "not an IP address"
_NOBODYS = "outside global unicast, RFC 4291 2.4"


class _Range(NamedTuple):
    first: int
    last: int
    why: str
    always: bool  # no host can have such an address, in a test network neither


def _table(*rows: tuple[str, str, bool]) -> tuple[_Range, ...]:
    ranges = []
    for text, why, always in rows:
        network = IPv6Network(text) if ":" in text else IPv4Network(text)
        ranges.append(_Range(int(network.network_address), int(network.broadcast_address), why, always))
    return tuple(ranges)


# The first match counts. Source: the IANA special-purpose address registries (RFC 6890) as of 2026, all that they do
# not call globally reachable, and blocks where no mail host lives although they are.
_V4 = _table(
    ("0.0.0.0/8", "unspecified or this network, RFC 1122 3.2.1.3", True),
    ("10.0.0.0/8", "private, RFC 1918", False),
    ("100.64.0.0/10", "shared with carrier-grade NAT, RFC 6598", False),
    ("127.0.0.0/8", "loopback, RFC 1122 3.2.1.3", False),
    ("169.254.0.0/16", "link-local, RFC 3927", False),
    ("172.16.0.0/12", "private, RFC 1918", False),
    ("192.0.0.0/24", "protocol assignments, RFC 6890", False),
    ("192.0.2.0/24", "documentation, RFC 5737", False),
    ("192.88.99.0/24", "6to4 relay anycast, RFC 7526", False),
    ("192.168.0.0/16", "private, RFC 1918", False),
    ("198.18.0.0/15", "benchmarking, RFC 2544", False),
    ("198.51.100.0/24", "documentation, RFC 5737", False),
    ("203.0.113.0/24", "documentation, RFC 5737", False),
    ("224.0.0.0/4", "multicast, RFC 5771", True),
    ("255.255.255.255/32", "broadcast, RFC 919 7", True),
    ("240.0.0.0/4", "reserved, RFC 1112 4", False),
)
_V6 = _table(
    ("::/128", "unspecified, RFC 4291 2.5.2", True),
    ("::1/128", "loopback, RFC 4291 2.5.3", False),
    ("::/96", "IPv4-compatible, RFC 4291 2.5.5.1", False),
    ("::ffff:0:0/96", "IPv4-mapped, RFC 4291 2.5.5.2", False),  # dialled, it would reach the IPv4 address inside
    ("::ffff:0:0:0/96", "IPv4-translated, RFC 2765 2.1", False),
    ("64:ff9b:1::/48", "local NAT64, RFC 8215", False),
    ("100::/64", "discard only, RFC 6666", False),
    ("100:0:0:1::/64", "dummy prefix, RFC 9780", False),
    ("2001::/32", "Teredo, RFC 4380", False),
    ("2001:10::/28", "ORCHID, RFC 4843", False),
    ("2001:20::/28", "ORCHIDv2, RFC 7343", False),
    ("2001::/23", "protocol assignments, RFC 2928", False),
    ("2001:db8::/32", "documentation, RFC 3849", False),
    ("3fff::/20", "documentation, RFC 9637", False),
    ("5f00::/16", "segment routing, RFC 9602", False),
    ("fc00::/7", "unique local, RFC 4193", False),
    ("fe80::/10", "link-local, RFC 4291 2.5.6", False),
    ("fec0::/10", "site-local, RFC 3879", False),
    ("ff00::/8", "multicast, RFC 4291 2.7", True),
    # all that is left but 2000::/3, the only block IANA hands out to hosts
    ("::/3", _NOBODYS, False),
    ("4000::/2", _NOBODYS, False),
    ("8000::/1", _NOBODYS, False),
)
# (prefix, its length, where the IPv4 address ends, what it is). An address within is as good as the one inside it:
# NAT64's well-known prefix must stay usable, because DNS64 answers with it wherever the relay has IPv6 only.
_EMBEDDING = (
    (int(IPv6Network("64:ff9b::/96").network_address) >> 32, 32, 0, "NAT64 (RFC 6052)"),
    (int(IPv6Network("2002::/16").network_address) >> 112, 112, 80, "6to4 (RFC 3056)"),
)


def why_forbidden(address: str, *, allow_private: bool = False) -> str | None:
    """Say in a phrase why mail must not go to this IP address text, or None when it may.

    `allow_private` is for test networks: everything is allowed there but what no host can have (unspecified, multicast,
    broadcast). Text that is no address is forbidden.
    """
    found = _judge(address)
    if found is None or (allow_private and not found.always):
        return None
    return found.why


@lru_cache(maxsize=1024)  # 7 us without, 0.2 us with
def _judge(address: str) -> _Range | None:
    if "%" in address:  # a zone index has no meaning in DNS (RFC 4007 11.2)
        return _Range(0, 0, _NOT_AN_ADDRESS, always=True)
    try:
        parsed = ip_address(address)
    except ValueError:
        return _Range(0, 0, _NOT_AN_ADDRESS, always=True)
    number = int(parsed)
    return _find(_V4, number) if isinstance(parsed, IPv4Address) else _judge_v6(number)


def _judge_v6(number: int) -> _Range | None:
    for prefix, prefix_shift, inner_shift, what in _EMBEDDING:
        if number >> prefix_shift == prefix:
            inner = number >> inner_shift & 0xFFFFFFFF
            found = _find(_V4, inner)
            return found and found._replace(why=f"{what} of {IPv4Address(inner)}: {found.why}")
    return _find(_V6, number)


def _find(table: tuple[_Range, ...], number: int) -> _Range | None:
    for entry in table:
        if entry.first <= number <= entry.last:
            return entry
    return None
