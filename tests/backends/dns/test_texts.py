# SPDX-License-Identifier: MIT
"""TXT and PTR records as texts, from a real server and from hostile octets."""

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.backends.dns.rig import FOUND, NODATA, Rig, on_both_loops

from smarthost.backends.dns import wire
from smarthost.backends.dns.codec import Unable, decode_answer, encode_question
from smarthost.testing.dns import ScriptedResolver, Zone

LONG = "v=spf1 " + " ".join(f"ip4:192.0.2.{n}" for n in range(40)) + " -all"


def zone() -> Zone:
    strings = " ".join(f'"{LONG[at : at + 255]}"' for at in range(0, len(LONG), 255))
    return Zone(
        {
            "example.org": (f"TXT {strings}", 'TXT "second"'),
            "alias.example.org": "CNAME example.org",
            "7.2.0.192.in-addr.arpa": ("PTR Host.Example.Org.", "PTR other.example."),
            "bare.example.org": "A 192.0.2.1",
        }
    )


@on_both_loops(zone)
async def test_strings_of_a_record_are_one_text(rig: Rig) -> None:
    """Long records are cut into strings of 255 octets; a reader sees none of that. Scripted answers say the same."""
    answer = await rig.ask("example.org", "TXT")

    assert (answer.status, set(answer.texts)) == (FOUND, {LONG, "second"})
    assert (await rig.ask("alias.example.org", "TXT")).texts == answer.texts
    assert (await rig.ask("bare.example.org", "TXT")).status is NODATA
    scripted = ScriptedResolver(zone())
    for name, rdtype in (("example.org", "TXT"), ("7.2.0.192.in-addr.arpa", "PTR")):
        assert set((await scripted.ask(name, rdtype)).texts) == set((await rig.ask(name, rdtype)).texts)


@on_both_loops(zone)
async def test_the_names_of_an_address_come_in_lower_case(rig: Rig) -> None:
    """Without trailing dot, as all names here."""
    answer = await rig.ask("7.2.0.192.in-addr.arpa", "PTR")

    assert set(answer.texts) == {"host.example.org", "other.example"}
    assert () == answer.addresses


def texts(rdata: bytes, rdtype: str = "TXT") -> Sequence[str]:
    """Give what a message with one such record says. Raises: ValueError: it says nothing."""
    number = {"TXT": wire.TXT, "PTR": wire.PTR}[rdtype]
    record = b"\xc0\x0c" + struct.pack("!HHIH", number, 1, 300, len(rdata)) + rdata
    message = struct.pack("!HHHHHH", 7, 0x8180, 1, 1, 0, 0) + encode_question("example.org", rdtype) + record
    answer = decode_answer("example.org", rdtype, message, trust_ad=False)
    assert not isinstance(answer, Unable)
    return answer.texts


def test_what_does_not_print_is_escaped() -> None:
    """A record cannot move a terminal, nor smuggle a line."""
    assert texts(b"\x07a\x1b[1m\r\n") == ("a\\x1b[1m\\r\\n",)
    assert texts(b"\x02\xff\xc3\x01x") == ("\\xff\\xc3x",)


@pytest.mark.parametrize("rdata", [b"\x05abc", b"\x01a\x01"])
def test_a_string_that_is_cut_off_is_no_message(rdata: bytes) -> None:
    """The server sent garbage; another one may be asked."""
    with pytest.raises(ValueError, match="no DNS message"):
        texts(rdata)


@given(st.lists(st.binary(max_size=255), max_size=5))
def test_any_strings_are_read(strings: list[bytes]) -> None:
    """Joined in their order, and printable."""
    (text,) = texts(b"".join(bytes([len(each)]) + each for each in strings))

    assert text.isprintable()
    if (joined := b"".join(strings)).isascii() and joined.decode().isprintable():
        assert text == joined.decode()
