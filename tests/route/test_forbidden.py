# SPDX-License-Identifier: MIT
"""Addresses that a stranger's DNS must not make us dial."""

from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smarthost.route.forbidden import why_forbidden

NOBODYS = [
    "200::1",
    "300:1::1",
    "1::1",
    "::1:0:0:1",
    "64:ff9a:ffff::1",
    "64:ff9b:2::1",
    "64:ff9b::1:808:808",
    "1fff:ffff::1",
    "4000::1",
    "5eff:ffff::1",
    "7fff:ffff::1",
    "8000::1",
    "bfff:ffff::1",
    "c000::1",
    "fbff:ffff::1",
    "fe00::1",
    "fe7f:ffff::1",
]
FORBIDDEN = [
    ("0.0.0.0", "unspecified"),
    ("0.255.255.255", "unspecified"),
    ("10.0.0.0", "private"),
    ("10.255.255.255", "private"),
    ("100.64.0.0", "carrier-grade"),
    ("100.127.255.255", "carrier-grade"),
    ("127.0.0.1", "loopback"),
    ("127.255.255.254", "loopback"),
    ("169.254.169.254", "link-local"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private"),
    ("192.0.0.8", "protocol"),
    ("192.0.2.1", "documentation"),
    ("192.88.99.1", "6to4 relay"),
    ("192.168.1.1", "private"),
    ("198.18.0.1", "benchmarking"),
    ("198.19.255.255", "benchmarking"),
    ("198.51.100.1", "documentation"),
    ("203.0.113.255", "documentation"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.255", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "broadcast"),
    ("::", "unspecified"),
    ("::1", "loopback"),
    ("::2", "IPv4-compatible"),
    ("::8.8.8.8", "IPv4-compatible"),
    ("::ffff:127.0.0.1", "IPv4-mapped"),
    ("::ffff:8.8.8.8", "IPv4-mapped"),
    ("::ffff:0:8.8.8.8", "IPv4-translated"),
    ("64:ff9b::127.0.0.1", "NAT64 (RFC 6052) of 127.0.0.1: loopback"),
    ("64:ff9b::10.1.2.3", "NAT64 (RFC 6052) of 10.1.2.3: private"),
    ("64:ff9b:1::8.8.8.8", "local NAT64"),
    ("64:ff9b:1:ffff::1", "local NAT64"),
    ("100::1", "discard"),
    ("100:0:0:1::1", "dummy"),
    ("2001::1", "Teredo"),
    ("2001:0:53aa:64c:0:7899:7ffe:fefe", "Teredo"),
    ("2001:2::1", "protocol"),
    ("2001:10::1", "ORCHID"),
    ("2001:2f:ffff::1", "ORCHIDv2"),
    ("2001:1ff::1", "protocol"),
    ("2001:db8::1", "documentation"),
    ("3fff::1", "documentation"),
    ("2002:7f00:1::", "6to4 (RFC 3056) of 127.0.0.1: loopback"),
    ("2002:c0a8:101::1", "6to4 (RFC 3056) of 192.168.1.1: private"),
    ("2002:e000:1::", "6to4 (RFC 3056) of 224.0.0.1: multicast"),
    ("5f00::1", "segment"),
    ("fc00::1", "unique local"),
    ("fdff:ffff::1", "unique local"),
    ("fe80::1", "link-local"),
    ("febf::1", "link-local"),
    ("fec0::1", "site-local"),
    ("ff02::1", "multicast"),
    *((address, "outside global unicast, RFC 4291 2.4") for address in NOBODYS),
]
ALLOWED = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "64:ff9b::8.8.8.8",
    "2002:808:808::1",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2a00:1450:4001::1b",
    "2606:4700::1",
    "2000::1",
    "3ffe::1",
]


@pytest.mark.parametrize(("address", "why"), FORBIDDEN)
def test_special_address_is_refused_and_named(address: str, why: str) -> None:
    """Each special-purpose network is refused, with the network's name, and embedded IPv4 is looked through."""
    found = why_forbidden(address)

    assert found is not None
    assert why in found


@pytest.mark.parametrize("address", ALLOWED)
def test_public_address_is_allowed(address: str) -> None:
    """Neighbours of special networks, DNS64 answers and 6to4 of public addresses stay usable."""
    assert why_forbidden(address) is None


@pytest.mark.parametrize("address", [address for address, _ in FORBIDDEN])
def test_test_network_lifts_all_but_what_no_host_can_have(address: str) -> None:
    """--allow-private lets a test network use any address that a host can have."""
    found = why_forbidden(address, allow_private=True)

    is_impossible = any(word in (why_forbidden(address) or "") for word in ("unspecified", "multicast", "broadcast"))
    assert (found is not None) is is_impossible


@pytest.mark.parametrize("text", ["", "localhost", "1.2.3", "127.1", "0x7f.1", "017.0.0.1", "1.2.3.4 ", "fe80::1%eth0"])
def test_text_that_is_no_address_is_refused(text: str) -> None:
    """Odd spellings that some libraries would dial are no addresses here, in test networks neither."""
    assert why_forbidden(text) == "not an IP address"
    assert why_forbidden(text, allow_private=True) == "not an IP address"


@given(st.ip_addresses(v=6))
def test_what_is_allowed_is_global_unicast_or_nat64(address: object) -> None:
    """Nothing outside 2000::/3 is dialled, but what NAT64 makes of a public IPv4 address."""
    number = int(IPv6Address(str(address)))

    is_possible = number >> 125 == 1 or number >> 32 == int(IPv6Address("64:ff9b::")) >> 32

    assert is_possible or why_forbidden(str(address)) is not None


@given(st.ip_addresses(v=4))
def test_embedded_address_is_as_forbidden_as_the_address_itself(address: object) -> None:
    """NAT64 and 6to4 open no way around the IPv4 table."""
    number = int(str(address).split(".")[0]) << 24 | int(str(address).split(".")[1]) << 16
    number |= int(str(address).split(".")[2]) << 8 | int(str(address).split(".")[3])

    plain = why_forbidden(str(address)) is not None

    assert (why_forbidden(f"64:ff9b::{address}") is not None) is plain
    assert (why_forbidden(f"2002:{number >> 16:x}:{number & 0xFFFF:x}::1") is not None) is plain
