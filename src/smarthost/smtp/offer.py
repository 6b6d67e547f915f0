# SPDX-License-Identifier: MIT
"""What a server offers: the terms of a listener, what holds for this client now, and the EHLO answer that says both.

Decides nothing: the driver (accept.reception) says in an Offer what this client may use at this moment, smtp.server
judges commands by it.
"""

from functools import lru_cache

from msgspec import Struct

from smarthost.mail.reply import reply
from smarthost.smtp.transfer import KEYWORD, VERSION

XCLIENT_ATTRIBUTES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT")


class ServerSettings(Struct, frozen=True, cache_hash=True):
    """What the machines of one listener share. `extensions` are further lines of the EHLO answer.

    `is_lmtp`: LHLO and a reply for each recipient (RFC 2033). `normalises_newlines`: a bare CR or LF in DATA becomes a
    CRLF, where it is otherwise refused; for old appliances only. `requires_tls`: before TLS nothing but EHLO, STARTTLS,
    NOOP and QUIT is obeyed, nor XCLIENT of those to whom it is offered.
    """

    hostname: str
    max_octets: int
    max_recipients: int
    max_errors: int
    extensions: tuple[str, ...] = ()
    is_lmtp: bool = False
    normalises_newlines: bool = False
    requires_tls: bool = False


class Offer(Struct, frozen=True, cache_hash=True):
    """What this client may use now; it changes with TLS and AUTH. `auth`: names of mechanisms, PLAIN and LOGIN.

    `starttls` may stay set inside TLS: the machine offers it only outside. `transfer`: it may hand us the queue of
    another node (smtp.transfer).
    """

    starttls: bool = False
    auth: tuple[str, ...] = ()
    requiretls: bool = False
    xclient: bool = False
    transfer: bool = False


NOTHING = Offer()


@lru_cache(maxsize=256)  # a few for each listener
def encode_hello(settings: ServerSettings, offer: Offer, *, extended: bool, is_secured: bool) -> bytes:
    """Encode the positive answer to EHLO, LHLO or HELO; it carries no enhanced code (RFC 2034 4)."""
    if not extended:
        return reply(250, "", settings.hostname).encode()
    offered = [
        "PIPELINING",
        f"SIZE {settings.max_octets}",
        "8BITMIME",
        "SMTPUTF8",
        "ENHANCEDSTATUSCODES",
        "CHUNKING",
        "BINARYMIME",
        "DSN",
        f"LIMITS RCPTMAX={settings.max_recipients}",  # RFC 9422
        *settings.extensions,
    ]
    if offer.starttls and not is_secured:  # RFC 3207 4.2
        offered.append("STARTTLS")
    if offer.auth:
        offered.append(" ".join(("AUTH", *offer.auth)))
    if offer.requiretls:
        offered.append("REQUIRETLS")
    if offer.xclient:
        offered.append(" ".join(("XCLIENT", *XCLIENT_ATTRIBUTES)))
    if offer.transfer:
        offered.append(f"{KEYWORD} {VERSION}")
    return reply(250, "", settings.hostname, *offered).encode()
