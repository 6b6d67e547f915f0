# SPDX-License-Identifier: MIT
"""TLS policy: how much protection a session for a route must have. Mechanism is backends.tls, order is send.session.

A fixed next hop gets what its configuration says. Mail by MX is opportunistic (RFC 7435): nothing in plain DNS can be
trusted to ask for more. DANE (RFC 7672) and MTA-STS (RFC 8461) will raise it here, per recipient domain, not per lane.
"""

from smarthost.mail.hop import SessionPolicy, TlsLevel
from smarthost.route.source import Speaker
from smarthost.route.table import DirectMx, NextHop


def policy_for(route: DirectMx | NextHop, speaker: Speaker, mx_port: int) -> SessionPolicy:
    """Give the policy of a session for this route."""
    if isinstance(route, NextHop):
        return SessionPolicy(
            helo=speaker.helo,
            port=route.port,
            tls=route.tls,
            implicit_tls=route.implicit_tls,
            credentials=route.credentials,
            source=speaker.source,
        )
    return SessionPolicy(helo=speaker.helo, port=mx_port, tls=TlsLevel.OPPORTUNISTIC, source=speaker.source)
