# SPDX-License-Identifier: MIT
"""The ways in which clients and relays speak in a run: what a load does, and what the gate demands of its figures."""

from msgspec import Struct

USER = "bench"
PASSWORD = "a password of the benchmark"


class Mode(Struct, frozen=True, kw_only=True):
    """One way. `kept`: sessions stay open. `tls`: STARTTLS on both sides. `auth`: a submission, with AUTH PLAIN.

    `share` of the messages asked for is timed: inside TLS all of them would take a quarter of an hour. `least_ratio`:
    how many times Postfix is demanded; None: it is not compared with.
    """

    name: str
    kept: bool = False
    tls: bool = False
    auth: bool = False
    share: float = 1.0
    least_ratio: float | None = None


_MODES = (
    Mode(name="fresh", least_ratio=3.0),
    Mode(name="kept", kept=True, least_ratio=3.0),
    # Here the load and the sink alone, with no relay between them, do 2.1 times Postfix: 2 cannot be reached.
    Mode(name="tls", tls=True, share=0.25, least_ratio=1.2),
    Mode(name="tls-kept", kept=True, tls=True, share=0.25, least_ratio=2.0),
    Mode(name="auth", tls=True, auth=True, share=0.25),
)
MODES = {mode.name: mode for mode in _MODES}
