# SPDX-License-Identifier: MIT
"""TLS policy: how much protection a session for a route must have. Mechanism is backends.tls, order is send.session.

A next hop gets what its configuration says, and so does a route by MX; without a word of the operator mail by MX is
opportunistic (RFC 7435): nothing in plain DNS can be trusted to ask for more. DANE (RFC 7672) and MTA-STS (RFC 8461)
will raise it here, per recipient domain, not per lane.
"""

from smarthost.mail.hop import SessionPolicy
from smarthost.route.source import Speaker
from smarthost.route.table import DirectMx, NextHop


def policy_for(route: DirectMx | NextHop, default: Speaker, mx_port: int) -> SessionPolicy:
    """Give the policy of a session by MX, or with a next hop; `default` speaks where the route does not say who."""
    speaker = route.speaker.with_default(default)
    if isinstance(route, NextHop):
        return SessionPolicy(
            helo=speaker.helo,
            port=route.port,
            tls=route.tls,
            implicit_tls=route.implicit_tls,
            credentials=route.credentials,
            source=speaker.source,
            is_lmtp=route.is_lmtp,
        )
    return SessionPolicy(helo=speaker.helo, port=mx_port, tls=route.tls, source=speaker.source)
