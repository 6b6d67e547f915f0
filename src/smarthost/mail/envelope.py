# SPDX-License-Identifier: MIT
"""The envelope: RFC 5321 transaction facts that travel with a message from 250 to its end."""

from enum import Enum

from msgspec import Struct

from smarthost.mail.address import Address

NULL_REVERSE_PATH = ""


class Body(Enum):
    """What the client declared the content to be (RFC 6152)."""

    SEVEN_BIT = "7BIT"
    EIGHT_BIT_MIME = "8BITMIME"


class Envelope(Struct, frozen=True, gc=False):
    """Reverse-path ("" is the null path `<>`), recipients in the order given, and the parameters that must be kept."""

    reverse_path: str
    recipients: tuple[Address, ...]
    body: Body = Body.SEVEN_BIT
    smtputf8: bool = False
