# SPDX-License-Identifier: MIT
"""Where mail can be handed on: hosts, their addresses, how a session there must be protected and who we say we are."""

from enum import Enum

from msgspec import Struct


class Host(Struct, frozen=True, gc=False):
    """A name (or address literal without brackets) with the addresses to try, in order, and its MX preference.

    `addresses` are IP address texts; a Plan's hosts have at least one each. `policy`: what a session with this host is
    to be like, where that is not the Plan's (one of several next hops, each with its own port and password).
    """

    name: str
    addresses: tuple[str, ...]
    preference: int = 0
    policy: "SessionPolicy | None" = None


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


class SessionPolicy(Struct, frozen=True, gc=False, cache_hash=True):
    """What a session must be like before mail may pass: equal policies may share a session.

    `implicit_tls`: TLS from the first octet (port 465) instead of STARTTLS. `helo`: the name we give in EHLO.
    `source`: local address to bind, or "". `is_lmtp`: LMTP is spoken there (RFC 2033), with a reply for each recipient.
    """

    helo: str
    port: int = 25
    tls: TlsLevel = TlsLevel.OPPORTUNISTIC
    implicit_tls: bool = False
    credentials: Credentials | None = None
    source: str = ""
    is_lmtp: bool = False


class TlsFacts(Struct, frozen=True, gc=False):
    """What TLS a session ended up with, for records.

    `fingerprint`: SHA-256 of the peer's certificate in lower-case hex, where we are the server and it showed one, else
    "". `resumed`: an earlier session was taken up again.
    """

    version: str
    cipher: str
    verified: bool
    fingerprint: str = ""
    resumed: bool = False
