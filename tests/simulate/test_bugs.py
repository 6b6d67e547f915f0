# SPDX-License-Identifier: MIT
"""Bugs that other relays had are found within a few seeds, and what finds them is silent without them."""

import pytest
from simulate.bugs import OURS, PEERS, PLANTS
from simulate.campaign import Task, run_task

HOURS = 24.0
SEEDS = 8

# Where each was found when this was written, and so first looked for; another seed will do as well.
FIRST = {
    "expiry-on-one-path": 5,
    "slot-leaked-by-an-error": 8,
    "lease-never-released": 5,
    "settled-before-the-reply": 5,
    "reply-dropped-on-cancellation": 6,
}


def seeds(first: int) -> list[int]:
    return [first, *(seed for seed in range(1, SEEDS + 1) if seed != first)]


@pytest.mark.slow
@pytest.mark.parametrize("plant", FIRST)
def test_a_bug_that_others_had_is_found(plant: str) -> None:
    """Expiry on one path, a leaked slot, a lost lease, a state before its effect, a reply that is dropped."""
    found = next(
        (outcome for seed in seeds(FIRST[plant]) if (outcome := run_task(Task(seed, HOURS, plant))).invariant), None
    )

    assert found is not None, f"{plant} was not found in {SEEDS} seeds"


@pytest.mark.slow
@pytest.mark.parametrize("seed", sorted(set(FIRST.values())))
def test_without_the_bug_the_same_seed_is_clean(seed: int) -> None:
    """What was found above was the bug."""
    outcome = run_task(Task(seed, HOURS))

    assert ("", "") == (outcome.invariant, outcome.text)


@pytest.mark.parametrize(
    ("plant", "invariant"),
    [
        ("envelopes-rewritten", "only_what_was_sent_arrives"),
        ("report-filed-twice", "a_failure_is_told_once"),
        ("bad-reads-lose-mail", "nothing_is_lost"),
        ("pauses-ignored", "no_host_is_dialled_before_its_pause_is_over"),
    ],
)
def test_each_bug_breaks_the_promise_it_should(plant: str, invariant: str) -> None:
    """An invariant proves something only if something breaks it."""
    broken = {run_task(Task(seed, 12.0, plant)).invariant for seed in (1, 2)}

    assert invariant in broken


def test_all_plants_have_a_name_of_their_own() -> None:
    """So that `--plant` means one of them."""
    assert len(PLANTS) == len(PEERS) + len(OURS)
    assert set(FIRST) == {plant.__name__.replace("_", "-") for plant in PEERS}
