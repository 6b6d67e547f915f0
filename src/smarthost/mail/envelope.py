# SPDX-License-Identifier: MIT
"""The envelope: RFC 5321 transaction facts that travel with a message from 250 to its end."""

from enum import Enum, IntFlag

from msgspec import Struct

from smarthost.mail.address import Address

NULL_REVERSE_PATH = ""


class Body(Enum):
    """What the client declared the content to be (RFC 6152, RFC 3030)."""

    SEVEN_BIT = "7BIT"
    EIGHT_BIT_MIME = "8BITMIME"
    BINARY_MIME = "BINARYMIME"  # lines need not end in CRLF: such content never passes through DATA as it is


class SenderTls(Enum):
    """What the sender asks of TLS on all hops to come (RFC 8689)."""

    DEFAULT = ""
    REQUIRED = "required"  # MAIL with REQUIRETLS
    OPTIONAL = "optional"  # "TLS-Required: No" in the header section, and no REQUIRETLS


class Notify(IntFlag):
    """When the sender wants a report about a recipient (RFC 3461 4.1); UNSET: the parameter was not given."""

    UNSET = 0
    NEVER = 1
    SUCCESS = 2
    FAILURE = 4
    DELAY = 8


class DsnRequest(Struct, frozen=True, gc=False):
    """What a sender asked for one recipient: NOTIFY, and ORCPT as written, xtext and all ("rfc822;bob@example.org")."""

    notify: Notify = Notify.UNSET
    orcpt: str = ""


class Envelope(Struct, frozen=True, gc=False):
    """Reverse-path ("" is the null path `<>`), recipients in the order given, and the parameters that must be kept.

    `ret`: "FULL", "HDRS" or ""; `envid`: ENVID as written, in xtext, or "". `requests`: empty when no recipient came
    with NOTIFY or ORCPT, else one for each recipient.
    """

    reverse_path: str
    recipients: tuple[Address, ...]
    body: Body = Body.SEVEN_BIT
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    tls: SenderTls = SenderTls.DEFAULT
    requests: tuple[DsnRequest, ...] = ()
