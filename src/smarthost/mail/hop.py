# SPDX-License-Identifier: MIT
"""Where mail can be handed on: hosts, their addresses, how a session there must be protected and who we say we are."""

from enum import Enum

from msgspec import Struct


class Host(Struct, frozen=True, gc=False):
    """A name (or address literal without brackets) with the addresses to try, in order, and its MX preference.

    `addresses` are IP address texts; a Plan's hosts have at least one each.
    """

    name: str
    addresses: tuple[str, ...]
    preference: int = 0


class TlsLevel(Enum):
    """How much protection a session must have."""

    NONE = "none"  # never STARTTLS
    OPPORTUNISTIC = "opportunistic"  # STARTTLS when offered, unverified; clear text when it fails
    REQUIRED = "required"  # TLS or no session, unverified
    VERIFIED = "verified"  # TLS with a certificate that is valid for the host's name, or no session


class Credentials(Struct, frozen=True, gc=False):
    """User and password for AUTH at a next hop; its repr shows no password."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, password=***)"


class SessionPolicy(Struct, frozen=True, gc=False):
    """What a session must be like before mail may pass: equal policies may share a session.

    `implicit_tls`: TLS from the first octet (port 465) instead of STARTTLS. `helo`: the name we give in EHLO.
    `source`: local address to bind, or "".
    """

    helo: str
    port: int = 25
    tls: TlsLevel = TlsLevel.OPPORTUNISTIC
    implicit_tls: bool = False
    credentials: Credentials | None = None
    source: str = ""


class TlsFacts(Struct, frozen=True, gc=False):
    """What TLS a session ended up with, for records."""

    version: str
    cipher: str
    verified: bool
