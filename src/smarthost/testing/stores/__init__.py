# SPDX-License-Identifier: MIT
"""The conformance suite of queue.store.Store: what every store must hold, as scenarios that assert.

Whoever writes a store gives a StoreMaker for it and runs `check_store`, or each of SCENARIOS as a test of its own, as
tests/conformance/test_stores.py does. A scenario ends within its own store; none needs the network or waits.
"""

from smarthost.testing.stores import (
    asking,
    auditing,
    delays,
    hosts,
    keeping,
    leasing,
    moving,
    operating,
    ordering,
    remembering,
    reporting,
    settling,
)
from smarthost.testing.stores.trial import Scenario, StoreMaker, Trial, run_scenario

SCENARIOS: tuple[Scenario, ...] = (
    *keeping.SCENARIOS,
    *leasing.SCENARIOS,
    *settling.SCENARIOS,
    *reporting.SCENARIOS,
    *operating.SCENARIOS,
    *ordering.SCENARIOS,
    *remembering.SCENARIOS,
    *hosts.SCENARIOS,
    *asking.SCENARIOS,
    *delays.SCENARIOS,
    *auditing.SCENARIOS,
    *moving.SCENARIOS,
)


async def check_store(maker: StoreMaker) -> None:
    """Run every scenario, each on a store of its own; raises AssertionError at the first that fails."""
    for scenario in SCENARIOS:
        await run_scenario(scenario, maker)


__all__ = ["SCENARIOS", "Scenario", "StoreMaker", "Trial", "check_store", "run_scenario"]
