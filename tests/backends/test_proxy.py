# SPDX-License-Identifier: MIT
"""The PROXY protocol's headers, as octets."""

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smarthost.backends.proxy import (
    HEADER_OCTETS,
    LINE_OCTETS,
    ProxyHeader,
    ProxyRefused,
    compile_networks,
    read_header,
)
from smarthost.mail.errors import ConfigError

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V4 = bytes([192, 0, 2, 7, 198, 51, 100, 1]) + struct.pack("!HH", 40000, 25)
V6 = bytes.fromhex("20010db8000000000000000000000007" + "20010db8000000000000000000000001") + struct.pack(
    "!HH", 40000, 25
)
MAPPED = bytes.fromhex("00000000000000000000ffffc0000207" * 2) + struct.pack("!HH", 1, 2)
ENDS4 = (("192.0.2.7", 40000), ("198.51.100.1", 25))
ENDS6 = (("2001:db8::7", 40000), ("2001:db8::1", 25))


def binary(command: int = 0x21, family: int = 0x11, block: bytes = V4, length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(block) if length is None else length) + block


GOOD = [
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\r\n", ENDS4),
    (b"PROXY TCP6 2001:db8::7 2001:DB8:0::1 40000 25\r\n", ENDS6),
    (b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:c633:6401 40000 25\r\n", ENDS4),
    (b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", (("0.0.0.0", 0), ("255.255.255.255", 65535))),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
    (b"PROXY UNKNOWN " + b"x" * (LINE_OCTETS - 16) + b"\r\n", None),
    (binary(), ENDS4),
    (binary(family=0x21, block=V6), ENDS6),
    (binary(family=0x21, block=MAPPED), (("192.0.2.7", 1), ("192.0.2.7", 2))),
    (binary(block=V4 + b"\x03\x00\x04\xde\xad\xbe\xef" + b"\x04\x00\x10" + bytes(16)), ENDS4),
    (binary(block=V4 + bytes(HEADER_OCTETS - 16 - len(V4))), ENDS4),
    (binary(0x20, 0x00, b""), None),
    (binary(0x20, 0x11, V4), None),
    (binary(0x20, 0xFF, b"anything"), None),
    (binary(0x21, 0x00, b"\x03\x00\x04abcd"), None),
]
BAD = [
    b"EHLO relay.example\r\n",
    b"\x16\x03\x01\x02\x00\x01",
    b"proxy TCP4 192.0.2.7 198.51.100.1 40000 25\r\n",
    b"PROXY\r\n",
    b"PROXYTCP4 192.0.2.7 198.51.100.1 40000 25\r\n",
    b"PROXY  TCP4 192.0.2.7 198.51.100.1 40000 25\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 25 \r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 40000\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 65536\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 040 25\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 25\r\n",
    b"PROXY TCP4 192.0.2.07 198.51.100.1 40000 25\r\n",
    b"PROXY TCP4 192.0.2 198.51.100.1 40000 25\r\n",
    b"PROXY TCP4 2001:db8::7 2001:db8::1 40000 25\r\n",
    b"PROXY TCP6 192.0.2.7 198.51.100.1 40000 25\r\n",
    b"PROXY TCP6 fe80::1%eth0 2001:db8::1 40000 25\r\n",
    b"PROXY TCP6 2001:db8::7::1 2001:db8::1 40000 25\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\nQUIT\r\n",
    b"PROXY TCP5 192.0.2.7 198.51.100.1 40000 25\r\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY TCP4 \xd9\xa1.0.2.7 198.51.100.1 40000 25\r\n",
    b"PROXY UNKNOWN " + b"x" * (LINE_OCTETS - 15) + b"\r\n",
    b"PROXY " + b"x" * LINE_OCTETS,
    binary(0x11),
    binary(0x31),
    binary(0x22),
    binary(family=0x12),
    binary(family=0x31, block=bytes(216)),
    binary(family=0x01),
    binary(block=V4[:-1]),
    binary(family=0x21, block=V4),
    binary(length=HEADER_OCTETS - 15),
    binary(0x20, 0x00, b"", length=65535),
    SIGNATURE[:-1] + b"\r",
]


@pytest.mark.parametrize(("header", "ends"), GOOD, ids=lambda value: None)
@pytest.mark.parametrize("rest", [b"", b"EHLO relay.example\r\n", b"\x16\x03\x01", SIGNATURE])
def test_good_headers(header: bytes, ends: object, rest: bytes) -> None:
    """What the specification allows names the client; what comes behind it is not ours."""
    assert read_header(header + rest) == ProxyHeader(len(header), ends)  # type: ignore[arg-type]
    assert all(read_header(header[:length]) is None for length in range(len(header)))


@pytest.mark.parametrize("octets", BAD, ids=lambda octets: repr(octets[:30]))
def test_bad_headers(octets: bytes) -> None:
    """One wrong octet, and nobody is taken for anybody."""
    assert isinstance(read_header(octets), ProxyRefused)


def test_no_end_of_waiting_is_bounded() -> None:
    """Whoever goes on sending gets an answer after what the longest header may have."""
    for start in (b"PROXY TCP4 ", b"PROXY UNKNOWN ", SIGNATURE + b"\x21\x11\x02\x08"):
        assert read_header(start + b"1" * HEADER_OCTETS) is not None


PIECES = st.lists(
    st.sampled_from(
        [b"PROXY", b" ", b"TCP4", b"192.0.2.7", b"25", b"\r\n", b"UNKNOWN", SIGNATURE, b"\x21\x11\x00\x0c", V4]
    )
)
STREAMS = st.one_of(
    st.binary(max_size=600),
    PIECES.map(b"".join),
    st.sampled_from([*[header for header, _ in GOOD], *BAD]).flatmap(
        lambda each: st.binary(max_size=40).map(each.__add__)
    ),
    st.binary(max_size=60).map(SIGNATURE.__add__),
    st.binary(max_size=120).map(b"PROXY ".__add__),
)


@given(stream=STREAMS)
@example(stream=SIGNATURE)
def test_any_octets_and_any_cut(stream: bytes) -> None:
    """Any octets give a header, a refusal or a wish for more; what was answered once stays so."""
    whole = read_header(stream)

    assert whole is None or isinstance(whole, ProxyHeader | ProxyRefused)
    answers = [found for length in range(len(stream) + 1) if (found := read_header(stream[:length])) is not None]
    assert {type(each) for each in answers} <= {type(whole)}
    if isinstance(whole, ProxyHeader):
        assert set(map(repr, answers)) == {repr(whole)}
    if whole is None:
        assert len(stream) < HEADER_OCTETS


def test_networks() -> None:
    """Only who is within one of the networks is a balancer; what is no network is a mistake of the configuration."""
    is_proxy = compile_networks(["10.0.0.0/8", "2001:db8::/64"])

    assert [is_proxy(each) for each in ("10.9.8.7", "2001:db8::9", "11.0.0.1", "2001:db8:1::", "")] == [True] * 2 + [
        False
    ] * 3
    with pytest.raises(ConfigError, match=r"'10\.0\.0\.1/8' is not a network"):
        compile_networks(["10.0.0.1/8"])


def test_networks_of_mapped_addresses_are_those_of_ipv4() -> None:
    """Peers are shown as IPv4, however the network was written."""
    assert compile_networks(["::ffff:192.0.2.0/120"])("192.0.2.7")
    assert not compile_networks(["::ffff:192.0.2.0/120"])("192.0.3.7")
