# SPDX-License-Identifier: MIT
"""Lives at random: the same seed lives the same life, and in none is a promise broken."""

import pytest
from simulate.draw import draw
from simulate.run import live
from simulate.scenario import HOUR_S


def test_a_scenario_is_drawn_from_its_seed_alone() -> None:
    """The weather does not depend on the relay."""
    assert draw(5, 48.0) == draw(5, 48.0)
    assert draw(5, 48.0) != draw(6, 48.0)


def test_no_trouble_outlasts_the_scenario() -> None:
    """So that the end can be judged: from then on all is well."""
    for seed in range(30):
        scenario = draw(seed, 24.0)
        assert all(trouble.ends <= 24 * HOUR_S for trouble in scenario.hosts)
        assert all(trouble.ends <= 24 * HOUR_S for trouble in scenario.names)
        assert all(trouble.ends <= 24 * HOUR_S for trouble in scenario.disks)


def test_the_same_seed_gives_the_same_trace() -> None:
    """Byte for byte: what went wrong once can be looked at again."""
    first, second = live(11, 4.0, is_traced=True), live(11, 4.0, is_traced=True)

    assert first.trace == second.trace
    assert first.digest == second.digest
    assert live(12, 4.0).digest != first.digest


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 104))
def test_no_promise_is_broken_in_a_few_short_lives(seed: int) -> None:
    """The long run is `python -m simulate --seeds 1..1000`."""
    outcome = live(seed, 6.0)

    assert ("", "") == (outcome.invariant, outcome.text)
    assert sum(outcome.ends.values()) >= outcome.recipients
