# SPDX-License-Identifier: MIT
"""xtext: what it can hide, and that nothing hidden gets through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smarthost.smtp.xtext import decode_xtext, is_xtext


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (b"abc", "abc"),
        (b"", ""),
        (b"a+2Bb", "a+b"),
        (b"a+3Db+20c", "a=b c"),
        (b"+7E+21", "~!"),
        (b"bob@example.org", "bob@example.org"),
    ],
)
def test_xtext_stands_for_printable_ascii(octets: bytes, text: str) -> None:
    """RFC 3461 4: "+" and two hexadecimal digits are an octet."""
    assert is_xtext(octets)
    assert decode_xtext(octets) == text


@pytest.mark.parametrize(
    "octets",
    [b"a+2bb", b"a+", b"a+2", b"a+GG", b"a=b", b"a b", b"a\tb", "\u00fc".encode(), b"+0A", b"+0D+0A", b"+00", b"+1B",
     b"+7F", b"+80", b"+C3+BC", b"+C2+85", b"a\n"],
)  # fmt: skip
def test_what_is_not_xtext_or_hides_a_control_character_is_nothing(octets: bytes) -> None:
    """Lower-case digits, half a hexchar, and whatever is not printable ASCII once decoded."""
    assert not is_xtext(octets)
    assert decode_xtext(octets) is None


@given(st.binary(max_size=20) | st.text("+0129ABCDEFabcdef=", max_size=12).map(str.encode))
def test_decoded_xtext_is_always_printable(octets: bytes) -> None:
    """Whatever comes in, no control character comes out."""
    text = decode_xtext(octets)

    assert (text is not None) is is_xtext(octets)
    assert text is None or (text.isascii() and text.isprintable())
