# SPDX-License-Identifier: MIT
"""xtext: printable ASCII in which "+" and two upper-case hexadecimal digits stand for an octet (RFC 3461 4).

Decodes strictly and gives printable ASCII or nothing, so that no control character passes. Pure.
"""

import re

#   xtext = *( xchar / hexchar )    xchar = %d33-42 / %d44-60 / %d62-126    hexchar = "+" 2(%d48-57 / %d65-70)
# Only hexchars for printable ASCII and space: RFC 3461 4.2 and 4.4 allow an address or envelope id no others.
_match_xtext = re.compile(rb"(?:[!-*,-<>-~]|\+(?:[2-6][0-9A-F]|7[0-9A-E]))*+").fullmatch
_replace_hexchars = re.compile(rb"\+(..)").sub


def is_xtext(octets: bytes) -> bool:
    """Is this xtext of printable ASCII?"""
    return _match_xtext(octets) is not None


def decode_xtext(octets: bytes) -> str | None:
    """Give what xtext stands for, printable ASCII and spaces; None: it is not xtext, or stands for something else."""
    if _match_xtext(octets) is None:
        return None
    return _replace_hexchars(lambda match: bytes.fromhex(match[1].decode("ascii")), octets).decode("ascii")
