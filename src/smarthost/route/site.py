# SPDX-License-Identifier: MIT
"""A site: the hosts of a plan as one text, which is how plans are remembered, and how hosts are drawn from it.

Plans are kept by the hundred thousand and read seldom: a host of one address takes 100 octets so, as objects 290, and
sites that are the same are the same text. One line a host, best first, then by name: "10 mx.example 192.0.2.1,192.0.2.2
2001:db8::1" with a space where a family has none. What a host is called has no blank in it (route.mx, route.table).
Knows nothing of DNS; route.plan calls it.
"""

from collections.abc import Iterable
from functools import lru_cache
from operator import attrgetter
from typing import TypeAlias

from smarthost.mail.hop import Host
from smarthost.ports import Random
from smarthost.route.mx import interleave

_Line: TypeAlias = tuple[int, str, tuple[tuple[str, ...], ...]]  # preference, name, the addresses of each family


def pack(hosts: Iterable[Host]) -> str:
    """Give the text of these hosts, whatever their order and that of their addresses."""
    return "\n".join([_line(host) for host in sorted(hosts, key=lambda host: (host.preference, host.name))])


def _line(host: Host) -> str:
    v4 = sorted(each for each in host.addresses if ":" not in each)
    v6 = sorted(each for each in host.addresses if ":" in each)
    return f"{host.preference} {host.name} {','.join(v4)} {','.join(v6)}"


def draw(site: str, random: Random) -> tuple[Host, ...]:
    """Give the hosts best first: equals in an order of chance, and of each host's families any address first.

    RFC 5321 5.1 wants equals spread, and leaves the order of addresses to the resolver; from memory it would always be
    the same one.
    """
    lines = _parse(site)
    if len(lines) == 1:
        return (_draw_host(lines[0], random.getrandbits(32) if "," in site else 0),)
    chance = random.getrandbits(64)  # once, since it is a system call; the two halves decide two things
    hosts = [_draw_host(line, chance & 0xFFFFFFFF) for line in lines]
    _shuffle(hosts, chance >> 32)
    hosts.sort(key=_preference)
    return tuple(hosts)


@lru_cache(maxsize=256)  # of the sites that are busy; three hosts of three addresses cost three times as much without
def _parse(site: str) -> tuple[_Line, ...]:
    lines = []
    for line in site.split("\n"):
        preference, name, v4, v6 = line.split(" ")
        families = tuple([tuple(family.split(",")) for family in (v4, v6) if family])
        lines.append((int(preference), name, families))
    return tuple(lines)


def _draw_host(line: _Line, turn: int) -> Host:
    preference, name, families = line
    if len(families) > 1:
        return Host(name, interleave([_rotated(family, turn) for family in families]), preference)
    return Host(name, _rotated(families[0], turn), preference)


def _rotated(family: tuple[str, ...], turn: int) -> tuple[str, ...]:
    if len(family) == 1:
        return family
    start = turn % len(family)
    return family[start:] + family[:start]


def _shuffle(hosts: list[Host], chance: int) -> None:
    """Fisher and Yates, from one number: 32 bits for the 3.6 million orders of ten hosts (route.mx.HOSTS_USED)."""
    for last in range(len(hosts) - 1, 0, -1):
        chance, other = divmod(chance, last + 1)
        hosts[last], hosts[other] = hosts[other], hosts[last]


_preference = attrgetter("preference")


def each_once(hosts: tuple[Host, ...]) -> tuple[Host, ...]:
    """Leave each address to the first host that has it: behind two names it is one machine, to be dialled once."""
    if len(hosts) == 1:
        return hosts
    addresses = [address for host in hosts for address in host.addresses]
    met = set(addresses)
    if len(met) == len(addresses):
        return hosts
    left = []
    for host in hosts:
        own = tuple([address for address in host.addresses if address in met])
        met.difference_update(own)
        if own:
            left.append(Host(host.name, own, host.preference))
    return tuple(left)
