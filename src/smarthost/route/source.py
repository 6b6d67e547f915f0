# SPDX-License-Identifier: MIT
"""Who speaks: the name we give in EHLO and the local address a session is bound to.

One speaker for all today; a choice by destination or fairness key finds its place behind `speaker_of`.
"""

from msgspec import Struct


class Speaker(Struct, frozen=True, gc=False):
    """`helo`: our fully qualified name (RFC 5321 4.1.1.1). `source`: a local address, or "" for the system's choice."""

    helo: str
    source: str = ""


class Speakers:
    """Chooses a Speaker for a destination."""

    def __init__(self, default: Speaker) -> None:
        self._default = default

    def speaker_of(self, destination: str) -> Speaker:
        """Give who speaks to this destination (a route key)."""
        return self._default
