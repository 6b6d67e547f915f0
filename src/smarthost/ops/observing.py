# SPDX-License-Identifier: MIT
"""What watches a running relay, joined: metrics, health, and the outboxes that carry its records away.

`serve` opens it when the relay runs and closes it before that stops; the API asks it. Decides nothing.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import Struct

from smarthost.assemble import Relay
from smarthost.config import Config
from smarthost.ops.health import HealthWatch
from smarthost.ops.metrics import Metrics
from smarthost.ops.metrics_counts import Counts
from smarthost.ops.outbox.opening import Outboxes
from smarthost.ports import Sink


class Observers(Struct, frozen=True):
    """Who watches."""

    metrics: Metrics
    health: HealthWatch
    outboxes: Outboxes


@asynccontextmanager
async def observing(config: Config, relay: Relay, counts: Counts, sink: Sink) -> AsyncIterator[Observers]:
    """Watch a relay that runs. Raises: ConfigError: an outbox cannot be opened."""
    outboxes = Outboxes(config, relay, lambda: relay.store, sink)
    metrics = Metrics(counts, relay, outboxes=lambda: outboxes.carriers)
    health = HealthWatch(relay)
    health.begin()
    try:
        async with metrics.gathering(), outboxes.delivering():
            yield Observers(metrics, health, outboxes)
    finally:
        health.end()
