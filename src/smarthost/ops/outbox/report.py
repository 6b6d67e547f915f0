# SPDX-License-Identifier: MIT
"""How far an outbox is. Values only: the daemon tells them, commands and pages show them."""

from msgspec import Struct


class OutboxReport(Struct, frozen=True):
    """One outbox as an operator sees it; times are wall seconds, 0.0: none. `target`: without what may be secret."""

    name: str
    kind: str
    target: str
    cursor: str
    last_at: float
    delivered: int
    failures: int
    behind_s: float
    last_error: str
    failing_since: float
    next_try_at: float
    is_stopped: bool
    losses: int
    last_loss: str
