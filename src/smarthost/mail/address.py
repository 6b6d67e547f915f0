# SPDX-License-Identifier: MIT
"""Addresses: text exactly as received, plus a derived Domain for routing (lower case, A-label).

`%`, `!` and everything else in a local part are opaque. Nothing here accepts or refuses mail: smtp.grammar parses
paths, accept.policy decides.
"""

from typing import NewType

import idna
from msgspec import Struct

Domain = NewType("Domain", str)  # lower-case A-labels without a trailing dot, or an address literal in brackets

DOMAIN_OCTETS = 255  # RFC 5321 4.5.3.1.2
# What is before the first one is a domain: those that mail is accepted for have no blanks (RFC 5321 4.1.2).
_FROM = " from "
_VIA = " via "


class Address(Struct, frozen=True, gc=False):
    """A mailbox: `text` as received (valid UTF-8), `domain` derived; domain is "" only for a bare `postmaster`."""

    text: str
    domain: Domain

    def __str__(self) -> str:
        return self.text


def to_domain(text: str) -> Domain:
    """Derive the Domain of a domain name or address literal as written in a mailbox.

    Raises: ValueError: not a name DNS could hold (RFC 5321 4.5.3.1.2, RFC 5891); too long is checked before IDNA runs.
    """
    if text.startswith("["):
        return Domain(text.lower())
    lowered = text.lower() if text.isascii() else text
    if len(lowered) > DOMAIN_OCTETS + 1:
        raise ValueError(f"a domain has 1 to {DOMAIN_OCTETS} octets")
    if lowered.isascii():
        return _checked(lowered)
    try:
        return _checked(idna.encode(lowered, uts46=True, transitional=False).decode("ascii"))
    except idna.IDNAError as error:
        raise ValueError(f"not an internationalised domain name: {error}") from error


def _checked(text: str) -> Domain:
    """Take off the final dot, which may have been written as any of four (RFC 3490 3.1), and judge what is left."""
    name = text.removesuffix(".")
    if not name or len(name) > DOMAIN_OCTETS:
        raise ValueError(f"a domain has 1 to {DOMAIN_OCTETS} octets")
    labels = name.split(".")
    if "" in labels:
        raise ValueError("a domain has no empty label: a label has 1 to 63 octets")
    if any(len(label) > 63 for label in labels):
        raise ValueError("a label has at most 63 octets")
    return Domain(name)


def scope_domain(domain: str, sender: str) -> Domain:
    """Give a recipient domain as mail of this sender is filed under: "example.org from @corp.example".

    Mail that a route by sender may take is kept apart so, since all else that is kept of a recipient for routing is its
    domain. Sender "" is any: the domain itself.
    """
    return Domain(f"{domain}{_FROM}{sender}" if sender else domain)


def split_domain(text: str) -> tuple[Domain, str]:
    """Take apart what `scope_domain` gave: the recipient domain, and the sender or ""."""
    domain, _, sender = text.partition(_VIA)[0].partition(_FROM)
    return Domain(domain), sender


def send_via(text: str, next_hop: str) -> Domain:
    """Give what a recipient is filed under when an operator sends it another way; "" is the way of the routes again."""
    base = text.partition(_VIA)[0]
    return Domain(f"{base}{_VIA}{next_hop}" if next_hop else base)


def split_via(text: str) -> tuple[str, str]:
    """Take apart what `send_via` gave: what it was filed under before, and the way or ""."""
    base, _, next_hop = text.partition(_VIA)
    return base, next_hop


def recipient_domain(text: str) -> Domain:
    """Give the recipient domain of what a recipient is filed under, as people and DNS know it."""
    return split_domain(text)[0]
