# SPDX-License-Identifier: MIT
"""Notices that outbound port 25 seems blocked, and says so once, with the cure.

Most home and cloud networks drop outgoing port 25 silently; a newcomer sees only timeouts. Decides nothing else.
"""

from smarthost.ports import Sink

SMTP_PORT = 25
SITES = 3  # one or two silent sites are ordinary; three different ones, and never a connection, are not


class EgressWatch:
    """Counts addresses whose port 25 timed out, until the first connection anywhere on that port."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._silent: set[str] = set()
        self._is_settled = False

    def connect_failed(self, address: str, port: int, why: str) -> None:
        """A dial failed; `why` is the text of ConnectFailed."""
        if self._is_settled or port != SMTP_PORT or "timed out" not in why:
            return
        self._silent.add(address)
        if len(self._silent) >= SITES:
            self._is_settled = True
            self._sink.note(
                "warning",
                "outbound port 25 seems blocked",
                addresses=sorted(self._silent),
                cure="ask your provider to open it, or send through a submission server: "
                "[next_hop] host, port = 587, tls = 'verified', username, password_file",
            )

    def connected(self, port: int) -> None:
        """A connection was made."""
        if port == SMTP_PORT:
            self._is_settled = True
