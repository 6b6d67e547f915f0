# SPDX-License-Identifier: MIT
"""Who speaks: the name we give in EHLO and the local address a session is bound to.

One speaker for all, and what a route or a next hop chooses otherwise.
"""

from msgspec import Struct


class Speaker(Struct, frozen=True, gc=False):
    """`helo`: our fully qualified name (RFC 5321 4.1.1.1). `source`: a local address, or "" for the system's choice.

    Of a route's speaker "" stands for what holds everywhere.
    """

    helo: str = ""
    source: str = ""

    def with_default(self, default: "Speaker") -> "Speaker":
        """Give who speaks where this is chosen, and `default` for what is not."""
        return Speaker(self.helo or default.helo, self.source or default.source)
