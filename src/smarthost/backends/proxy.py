# SPDX-License-Identifier: MIT
"""The PROXY protocol, versions 1 and 2: the line or header in which a balancer says for whom it connects.

Sans-IO: octets in; a header, a refusal or None for "more" out. See: HAProxy, proxy-protocol.txt, sections 2.1 and 2.2.
Strict, since whoever may say this may say who he is: one wrong octet is a refusal. What a header
may carry besides addresses (TLVs, their CRC32c too) is skipped unread: TCP has a checksum, and we act on none of it.
Who may send one, and how long it may take, is decided by backends.tcp.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from msgspec import Struct

from smarthost.backends.sockets import SocketAddress
from smarthost.mail.errors import ConfigError

LINE_OCTETS = 107  # 2.1: the longest line of version 1, with its CRLF
HEADER_OCTETS = 536  # 2.2: what fits the smallest TCP segment, and so may be expected to come in one piece

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED_OCTETS = 16
_UNKNOWN = b"PROXY UNKNOWN"
# "PROXY" SP ("TCP4" / "TCP6") SP source SP destination SP source-port SP destination-port
_LINE = re.compile(
    rb"PROXY TCP([46]) ([0-9A-Fa-f.:]{2,39}+) ([0-9A-Fa-f.:]{2,39}+) (0|[1-9]\d{0,4}+) (0|[1-9]\d{0,4}+)"
)
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_LOCAL, _PROXY = 0x20, 0x21  # version 2 with its command
_UNSPECIFIED, _TCP4, _TCP6 = 0x00, 0x11, 0x21  # family with transport
_ADDRESS_OCTETS = {_TCP4: 4, _TCP6: 16}


class ProxyHeader(Struct, frozen=True, gc=False):
    """A header of that many octets. `ends`: the client and what it connected to; None: it does not say (a health check,
    or a balancer that does not know)."""

    octets: int
    ends: tuple[SocketAddress, SocketAddress] | None = None


class ProxyRefused(Struct, frozen=True, gc=False):
    """No header; whatever comes after it cannot change that."""

    why: str


def read_header(octets: bytes) -> ProxyHeader | ProxyRefused | None:
    """Read the header at the beginning of all octets that came in so far; None: it needs more of them.

    The answer does not depend on where the stream was cut.
    """
    if octets.startswith(_SIGNATURE):
        return _read_binary(octets)
    if octets.startswith(b"PROXY"):
        return _read_line(octets)
    if _SIGNATURE.startswith(octets) or b"PROXY".startswith(octets):
        return None
    return ProxyRefused("no PROXY header")


def compile_networks(networks: Iterable[str]) -> Callable[[str], bool]:
    """Give a predicate for IP address texts: is it in one of the networks (CIDR)?

    Raises: ConfigError: names the one that is none.
    """
    known = []
    for text in networks:
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            raise ConfigError(f"{text!r} is not a network: {error}", key="proxies") from error
        if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):  # peers are shown as IPv4
            network = ipaddress.ip_network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
        known.append(network)

    @lru_cache(maxsize=1024)
    def is_within(address: str) -> bool:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in known)

    return is_within


def _read_line(octets: bytes) -> ProxyHeader | ProxyRefused | None:
    end = octets.find(b"\r\n", 0, LINE_OCTETS)
    if end < 0:
        return None if len(octets) < LINE_OCTETS else ProxyRefused("a PROXY line that does not end")
    line = octets[:end]
    if line == _UNKNOWN or line.startswith(_UNKNOWN + b" "):  # the rest must be ignored (2.1)
        return ProxyHeader(end + 2)
    match = _LINE.fullmatch(line)
    if match is None:
        return ProxyRefused("a PROXY line that is not well formed")
    version, *addresses = (part.decode("ascii") for part in match.groups())
    source, destination, *ports = addresses
    kind = ipaddress.IPv4Address if version == "4" else ipaddress.IPv6Address
    try:
        names = kind(source), kind(destination)
    except ValueError:
        return ProxyRefused("a PROXY line with an address that is none")
    source_port, destination_port = map(int, ports)
    if max(source_port, destination_port) > 65535:
        return ProxyRefused("a PROXY line with a port that is none")
    return ProxyHeader(end + 2, ((_show(names[0]), source_port), (_show(names[1]), destination_port)))


def _read_binary(octets: bytes) -> ProxyHeader | ProxyRefused | None:
    if len(octets) > 12 and octets[12] not in (_LOCAL, _PROXY):
        return ProxyRefused("a PROXY header of unknown version or command")
    if len(octets) < _FIXED_OCTETS:
        return None
    command, family = octets[12], octets[13]
    end = _FIXED_OCTETS + int.from_bytes(octets[14:16], "big")
    if end > HEADER_OCTETS:
        return ProxyRefused(f"a PROXY header of {end} octets")
    is_for_itself = command == _LOCAL or family == _UNSPECIFIED  # the balancer's health check, or it does not know
    size = 0 if is_for_itself else _ADDRESS_OCTETS.get(family)
    if size is None:
        return ProxyRefused("a PROXY header for something else than TCP")
    ports = _FIXED_OCTETS + 2 * size
    if not is_for_itself and end < ports + 4:
        return ProxyRefused("a PROXY header too short for its addresses")
    if len(octets) < end:
        return None
    if is_for_itself:
        return ProxyHeader(end)
    source = ipaddress.ip_address(octets[_FIXED_OCTETS : _FIXED_OCTETS + size])
    destination = ipaddress.ip_address(octets[_FIXED_OCTETS + size : ports])
    source_port = int.from_bytes(octets[ports : ports + 2], "big")
    destination_port = int.from_bytes(octets[ports + 2 : ports + 4], "big")
    return ProxyHeader(end, ((_show(source), source_port), (_show(destination), destination_port)))


def _show(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Show it as ports.Connection.peer does: in canonical form, IPv4-mapped as IPv4."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)
