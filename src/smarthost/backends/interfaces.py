# SPDX-License-Identifier: MIT
"""Which addresses this machine has, as Linux tells in /proc; elsewhere none are known, and loops show by hop count.

Asked once, when a listener is bound to all addresses, so that an exchanger that is ourselves is noticed.
"""

from ipaddress import IPv6Address
from pathlib import Path

_IPV4_ROUTES = Path("/proc/net/fib_trie")
_IPV6_ADDRESSES = Path("/proc/net/if_inet6")


def local_addresses() -> tuple[str, ...]:
    """Give the texts of all addresses, both families, each once."""
    return tuple(dict.fromkeys((*_ipv4(_read(_IPV4_ROUTES)), *_ipv6(_read(_IPV6_ADDRESSES)))))


def _read(path: Path) -> list[str]:
    try:
        return path.read_text("ascii", "replace").splitlines()
    except OSError:
        return []


def _ipv4(lines: list[str]) -> list[str]:
    """A leaf `|-- 192.0.2.1` followed by `/32 host LOCAL` is an address of ours."""
    addresses = []
    leaf = ""
    for line in lines:
        words = line.split()
        if words[:1] == ["|--"] and len(words) > 1:
            leaf = words[1]
        elif words[:3] == ["/32", "host", "LOCAL"] and leaf:
            addresses.append(leaf)
    return addresses


def _ipv6(lines: list[str]) -> list[str]:
    return [str(IPv6Address(int(line.split()[0], 16))) for line in lines if line.strip()]
