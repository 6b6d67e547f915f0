# SPDX-License-Identifier: MIT
"""The servers that are asked: in which order, what is known of each, and whether they are still the right ones.

Where they come from a callable (resolv.conf, which DHCP rewrites) it is asked again every few seconds, when somebody
asks DNS; an empty answer changes nothing, since a file that is being replaced may be empty. Sends nothing itself.
"""

import math
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import TypeAlias

from smarthost.ports import Clock

LOOK_S = 5.0  # between two looks at where servers come from
PLAIN_S = 900.0  # a server that knew no EDNS is asked without it for as long: it may be replaced by a better one

Server: TypeAlias = tuple[str, int]
Source: TypeAlias = Sequence[Server] | Callable[[], Sequence[Server]]


class Servers:
    """Recursive servers (address text, port), in the order of their last success.

    `trust_ad`: believe these servers when they say that an answer is validated; None: only while all are on loopback.
    """

    def __init__(self, clock: Clock, source: Source, trust_ad: bool | None = None) -> None:
        self._clock = clock
        self._source = source
        self._is_told = trust_ad
        self._given = tuple(source() if callable(source) else source)
        assert self._given, "a resolver needs a server"
        self.next_look = clock.monotonic() + LOOK_S if callable(source) else math.inf
        self._plain: dict[Server, float] = {}  # until when no EDNS
        self.in_order = self._given
        self.trust_ad = self._is_trusted()

    def look(self) -> bool:
        """Learn whether there are other servers now, if `next_look` has come; True: there are."""
        now = self._clock.monotonic()
        if not callable(self._source) or now < self.next_look:
            return False
        self.next_look = now + LOOK_S
        given = tuple(self._source())
        if not given or given == self._given:
            return False
        self._given = self.in_order = given
        self._plain = {server: until for server, until in self._plain.items() if server in given}
        self.trust_ad = self._is_trusted()
        return True

    def answered(self, server: Server) -> None:
        """Ask this one first from now on: a dead first server is waited for once, not by every question."""
        if server != self.in_order[0] and server in self.in_order:
            self.in_order = (server, *[each for each in self.in_order if each != server])

    def wants_edns(self, server: Server) -> bool:
        """Tell whether it may be asked with EDNS."""
        return self._clock.monotonic() >= self._plain.get(server, 0.0)

    def lacks_edns(self, server: Server) -> None:
        """Remember that it answered only without EDNS."""
        if server in self.in_order:
            self._plain[server] = self._clock.monotonic() + PLAIN_S

    def _is_trusted(self) -> bool:
        return all(_is_loopback(host) for host, _ in self._given) if self._is_told is None else self._is_told


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
