# SPDX-License-Identifier: MIT
"""Scenarios: what an auditor asks: who has which lease, a lease anew, and what among the recipients is suspect."""

import math

from smarthost.mail.lease import Lease
from smarthost.mail.settlement import State
from smarthost.queue.audit import Bounds, Suspect
from smarthost.queue.leases import Wish
from smarthost.queue.store import Filter
from smarthost.testing.stores.trial import HOUR, NOW, Scenario, Trial, refused

NOTHING = Bounds(NOW, -math.inf, math.inf, -math.inf, -math.inf)  # suspects nobody
LATE = Bounds(NOW, NOW - 300, NOW + 40 * 24 * HOUR, NOW - 6 * 24 * HOUR, NOW - HOUR)


def _leased(trial: Trial) -> list[tuple[str, int]]:
    return sorted(trial.store.leased())


async def _suspects(trial: Trial, bounds: Bounds, n: int = 1000) -> tuple[list[Suspect], int]:
    """Give all suspects, a page of `n` at a time, and how many recipients were looked at."""
    found: list[Suspect] = []
    checked = 0
    cursor: str | None = None
    while True:
        page = await trial.store.suspects(bounds, cursor, n)
        found += page.suspects
        checked += page.checked
        assert page.checked <= n
        if (cursor := page.cursor) is None:
            return found, checked


async def every_lease_is_known_until_it_ends(trial: Trial) -> None:
    """Leased by add, by domain or by a sweep, and ended by a settlement, a return or a close."""
    message, (lease,) = await trial.add_leased("a@dest.example", "b@dest.example")
    other = await trial.add("c@dest.example")
    assert _leased(trial) == [(message.id, 0), (message.id, 1)]

    (found,) = await trial.store.lease(["dest.example"], NOW, 10)
    assert _leased(trial) == sorted([(message.id, 0), (message.id, 1), (other.id, 0)])
    assert list(trial.store.in_hand()) == []

    trial.store.give_back(found)
    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW + HOUR, only={1})])
    assert _leased(trial) == [(message.id, 0)]

    (swept,) = await trial.store.sweep(NOW + HOUR, 1)
    assert [each.n for each in swept.recipients] == [1]
    assert _leased(trial) == [(message.id, 0), (message.id, 1)]

    await trial.restart()
    assert _leased(trial) == []


async def what_is_being_committed_is_in_the_stores_hand(trial: Trial) -> None:
    """From the moment a settlement is enqueued to the moment it is durable; an operator's verb is one, too."""
    message, (lease,) = await trial.add_leased("a@dest.example", "b@dest.example")
    settling = trial.store.settle([trial.settlement(lease, State.RELAYED, only={0})])
    is_done = _leased(trial) == [(message.id, 1)]  # a store without delay
    assert list(trial.store.in_hand()) == ([] if is_done else [(message.id, 0)])
    await settling
    assert list(trial.store.in_hand()) == []
    assert _leased(trial) == [(message.id, 1)]

    trial.store.give_back(lease)
    await trial.store.change(Filter(), Wish("retry", NOW), None, 10)
    assert _leased(trial) == list(trial.store.in_hand()) == []


async def recalled_lease_is_the_recipient_as_it_is(trial: Trial) -> None:
    """Whoever takes a lost lease back can settle it as if it had never been given."""
    message, (lease,) = await trial.add_leased("a@dest.example", "b@dest.example")
    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW + HOUR, awaits=True, only={1})])
    (swept,) = await trial.store.sweep_delayed(NOW + 1, 10)
    assert [each.n for each in swept.recipients] == [1]

    recalled = await trial.store.recall(message.id, 1)

    assert recalled == swept
    assert recalled.recipients[0].due == NOW + HOUR
    assert recalled.recipients[0].awaits_host
    assert _leased(trial) == [(message.id, 0), (message.id, 1)]


async def nothing_is_recalled_of_what_is_not_deferred(trial: Trial) -> None:
    """Gone, finished and not reported yet, or never there: no lease."""
    message, (lease,) = await trial.add_leased("a@dest.example", "b@dest.example")
    await trial.store.settle(
        [
            trial.settlement(lease, State.BOUNCED, owed=True, only={0}),
            trial.settlement(lease, State.RELAYED, only={1}),
        ]
    )
    assert [await trial.store.recall(message.id, n) for n in (0, 1, 2)] == [None] * 3
    assert await trial.store.recall(trial.message("x@dest.example").id, 0) is None


async def innocent_recipients_are_only_counted(trial: Trial) -> None:
    """Page by page all are looked at, each once; nothing comes back."""
    for n in range(7):
        await trial.add(f"a{n}@dest.example", f"b{n}@dest.example", f"c{n}@dest.example")
    for rows in (1, 2, 5, 21, 1000):
        assert await _suspects(trial, NOTHING, rows) == ([], 21)


async def each_reason_to_suspect_is_found(trial: Trial) -> None:
    """Overdue, too far, too old, a report owed for long; and what is only due, waiting or owed is not."""
    messages = [await trial.add(f"user{n}@dest.example", received_at=NOW - 600) for n in range(4)]
    old = await trial.add("old@dest.example", received_at=NOW - 7 * 24 * HOUR)
    leases = {lease.id: lease for lease in await trial.store.lease(["dest.example"], NOW, 10)}
    late, far, waiting, held = [leases[message.id] for message in messages]
    await trial.store.settle(
        [
            trial.settlement(late, State.DEFERRED, due=NOW - 301),
            trial.settlement(far, State.DEFERRED, due=NOW + 41 * 24 * HOUR),
            trial.settlement(waiting, State.DEFERRED, due=NOW + HOUR),
            trial.settlement(held, State.HELD, due=NOW - 301),
            trial.settlement(leases[old.id], State.DEFERRED, due=NOW + HOUR),
        ]
    )
    owing, (first, second) = await trial.add("x@dest.example"), await _lease_two(trial)
    await trial.store.settle([trial.settlement(first, State.BOUNCED, owed=True, at=NOW - 2 * HOUR)])
    await trial.store.settle([trial.settlement(second, State.BOUNCED, owed=True, at=NOW)])

    found, checked = await _suspects(trial, LATE, 3)

    assert checked == 8
    assert [(each.id, each.state, each.due) for each in found if each.id != first.id] == [
        (late.id, "deferred", NOW - 301),
        (far.id, "deferred", NOW + 41 * 24 * HOUR),
        (held.id, "held", NOW - 301),
        (old.id, "deferred", NOW + HOUR),
    ]
    (owed,) = [each for each in found if each.id == first.id]
    assert (owed.state, owed.owed_at, owed.is_leased) == ("bounced", NOW - 2 * HOUR, False)
    (late_one,) = [each for each in found if each.id == late.id]
    assert (late_one.n, late_one.address, late_one.domain) == (0, "user0@dest.example", "dest.example")
    assert (late_one.received_at, late_one.owed_at) == (NOW - 600, None)
    assert owing.id not in [each.id for each in found]


async def _lease_two(trial: Trial) -> tuple[Lease, Lease]:
    _, (first,) = await trial.add_leased("y@dest.example")
    _, (second,) = await trial.add_leased("z@dest.example")
    return first, second


async def a_suspect_says_that_it_is_leased(trial: Trial) -> None:
    """What is being worked on may be long overdue in the store."""
    message = trial.message("a@dest.example", received_at=NOW - HOUR)
    await trial.store.add(message, ("dest.example",))
    free = await trial.add("b@dest.example", received_at=NOW - HOUR)

    found, _ = await _suspects(trial, LATE)

    assert [(each.id, each.is_leased) for each in found] == [(message.id, True), (free.id, False)]


async def a_damaged_cursor_of_suspects_is_refused(trial: Trial) -> None:
    """It says so instead of beginning anew."""
    await refused(trial.store.suspects(NOTHING, "nonsense", 10), ValueError)


SCENARIOS: tuple[Scenario, ...] = (
    every_lease_is_known_until_it_ends,
    what_is_being_committed_is_in_the_stores_hand,
    recalled_lease_is_the_recipient_as_it_is,
    nothing_is_recalled_of_what_is_not_deferred,
    innocent_recipients_are_only_counted,
    each_reason_to_suspect_is_found,
    a_suspect_says_that_it_is_leased,
    a_damaged_cursor_of_suspects_is_refused,
)
