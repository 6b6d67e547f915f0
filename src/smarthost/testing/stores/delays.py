# SPDX-License-Identifier: MIT
"""Scenarios: of what waits for too long the sender is told once, and never what is not true any more."""

import asyncio

from smarthost.mail.lease import Lease
from smarthost.mail.message import Message
from smarthost.mail.record import Kind, Record
from smarthost.mail.settlement import OwedReport, State
from smarthost.queue.leases import Wish
from smarthost.testing.stores.trial import EVERYTHING, HOUR, NOW, Trial, numbers

DAY = 24 * HOUR


async def _waiting(trial: Trial, *addresses: str, received_at: float = NOW) -> Message:
    """Add a message that was tried once and waits."""
    message = trial.message(*addresses, received_at=received_at)
    leases = await trial.store.add(message, {each.domain for each in message.envelope.recipients})
    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW + DAY) for lease in leases])
    return message


async def _tell(trial: Trial, *leases: Lease, owed: bool = False) -> None:
    """Settle what a sweep found as it was, but told."""
    await trial.store.settle(
        [
            trial.settlement(lease, State.DEFERRED, due=lease.recipients[0].due, counted=False, owed=owed, told=True)
            for lease in leases
        ]
    )


async def _delayed(trial: Trial, *addresses: str) -> tuple[Lease, ...]:
    """Have a message wait that owes a report of that, and lease its recipients again, one lease a recipient."""
    _, (lease,) = await trial.add_leased(*addresses)
    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW, owed=True, told=True)])
    return tuple([(await trial.store.lease([address.partition("@")[2]], NOW, 1))[0] for address in addresses])


async def _owed(trial: Trial) -> OwedReport:
    """Lease the report that is owed, late enough not to wait for leases."""
    owed = await trial.store.lease_report(NOW + HOUR)
    assert owed is not None
    return owed


async def _file(trial: Trial, owed: OwedReport) -> Message:
    """File a report of its own about what is owed."""
    report = trial.message(owed.reverse_path, reverse_path="", content=b"Subject: late\r\n\r\n")
    records = [Record(trial.next_seq(), Kind.REPORTED, NOW, owed.id, each.address) for each in owed.recipients]
    await trial.store.file_report(owed, report, records)
    return report


async def untold_delays_are_found_by_age(trial: Trial) -> None:
    """What is old and was not told is found, oldest first, whatever its due time, attempted or not."""
    younger = await _waiting(trial, "a@dest.example", received_at=NOW - 100)
    oldest = await trial.add("b@dest.example", "c@other.example", received_at=NOW - 300)
    young = await trial.add("d@dest.example", received_at=NOW)

    assert await trial.store.sweep_delayed(NOW - 300, 10) == ()
    first = await trial.store.sweep_delayed(NOW, 1)
    assert numbers(first) == [(oldest.id, 0), (oldest.id, 1)]
    assert numbers(await trial.store.sweep_delayed(NOW, 10)) == [(younger.id, 0)]
    assert await trial.store.sweep_delayed(NOW, 10) == ()
    left = await trial.store.lease(["dest.example", "other.example"], NOW + DAY, 10)
    assert numbers(left) == [(young.id, 0)]


async def swept_recipient_can_be_settled_as_it_was(trial: Trial) -> None:
    """Who only tells something about a recipient knows all about it that its settlement must repeat."""
    _, (lease,) = await trial.add_leased("a@dest.example")
    settlement = trial.settlement(lease, State.DEFERRED, due=NOW + DAY, owed=True, awaits=True)
    await trial.store.settle([settlement])
    (settled,) = settlement.recipients

    ((found,),) = [each.recipients for each in await trial.store.sweep_delayed(NOW + 1, 10)]

    assert (found.attempts, found.last_reply, found.last_status) == (1, settled.last_reply, settled.status)
    assert (found.due, found.awaits_host) == (NOW + DAY, True)
    assert (found.why, found.host) == (settled.why, "mx.dest.example")


async def what_was_told_stays_told(trial: Trial) -> None:
    """Nobody is told twice: no attempt, no restart and no crash makes it be forgotten."""
    await _waiting(trial, "a@dest.example", received_at=NOW - DAY)
    await _tell(trial, *await trial.store.sweep_delayed(NOW, 10))
    assert await trial.store.sweep_delayed(NOW, 10) == ()
    (lease,) = await trial.store.lease(["dest.example"], NOW + DAY, 10)
    assert lease.recipients[0].is_delay_told
    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW, owed=True)])

    for begin_again in (trial.restart, trial.crash):
        assert await trial.store.sweep_delayed(NOW, 10) == ()
        await begin_again()
    assert await trial.store.sweep_delayed(NOW, 10) == ()
    (lease,) = await trial.store.lease(["dest.example"], NOW, 10)
    assert lease.recipients[0].is_delay_told
    assert lease.recipients[0].attempts == 2


async def each_recipient_is_told_of_by_itself(trial: Trial) -> None:
    """Of a message some recipients may be told, by an attempt or the sweep, and others not yet."""
    message, (lease,) = await trial.add_leased("a@dest.example", "b@dest.example", "c@dest.example", "d@dest.example")
    await trial.store.settle(
        [
            trial.settlement(lease, State.DEFERRED, due=NOW, told=True, only={0}),
            trial.settlement(lease, State.DEFERRED, due=NOW, only={1}),
            trial.settlement(lease, State.HELD, due=NOW + DAY, only={2}),
        ]
    )

    (found,) = await trial.store.sweep_delayed(NOW + 1, 10)

    assert numbers([found]) == [(message.id, 1)]
    await _tell(trial, found)
    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW, only={3})])
    assert numbers(await trial.store.sweep_delayed(NOW + 1, 10)) == [(message.id, 3)]


async def outdated_settlement_tells_nothing(trial: Trial) -> None:
    """What is passed over does not count as told."""
    _, (lease,) = await trial.add_leased("a@dest.example")
    late = trial.settlement(lease, State.DEFERRED, due=NOW, told=True)
    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW)])
    (again,) = await trial.store.lease(["dest.example"], NOW, 10)
    await trial.store.settle([trial.settlement(again, State.DEFERRED, due=NOW)])

    await trial.store.settle([late])

    assert len(await trial.store.sweep_delayed(NOW + 1, 10)) == 1


async def sweep_that_came_to_nothing_is_repeated(trial: Trial) -> None:
    """Whoever gives a swept lease back, or settles it without telling, leaves it to the next sweep."""
    await _waiting(trial, "a@dest.example", received_at=NOW - DAY)
    given, untold = await _waiting(trial, "b@dest.example"), await _waiting(trial, "c@dest.example")
    first, second, third = await trial.store.sweep_delayed(NOW + 1, 10)
    await _tell(trial, first)
    trial.store.give_back(second)
    await trial.store.settle([trial.settlement(third, State.DEFERRED, due=NOW + DAY, counted=False)])

    for _ in range(2):
        found = await trial.store.sweep_delayed(NOW + 2, 10)
        assert [lease.id for lease in found] == [given.id, untold.id]
        for lease in found:
            trial.store.give_back(lease)
    assert [lease.id for lease in await trial.store.sweep_delayed(NOW + 2, 1)] == [given.id]


async def what_is_under_way_is_told_of_afterwards(trial: Trial) -> None:
    """Mail that is being tried when the sweep comes by is found by a later one, if it still waits then."""
    relayed, (lease,) = await trial.add_leased("a@dest.example", "b@dest.example")
    back, (other,) = await trial.add_leased("c@dest.example")
    assert await trial.store.sweep_delayed(NOW + 1, 10) == ()

    settling = trial.store.settle([trial.settlement(lease, State.RELAYED, only={0})])
    deferring = trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW + DAY, only={1})])
    trial.store.give_back(other)
    await settling
    await deferring

    found = await trial.store.sweep_delayed(NOW + 1, 10)
    assert sorted(numbers(found)) == [(relayed.id, 1), (back.id, 0)]


async def mail_filed_behind_the_sweep_is_found(trial: Trial) -> None:
    """However long a message took to be filed, the sweep finds it when it is too old."""
    await _waiting(trial, "a@dest.example")
    await _tell(trial, *await trial.store.sweep_delayed(NOW + 10, 10))
    adding = trial.store.add(trial.message("b@dest.example", received_at=NOW - 10), ())
    during = await trial.store.sweep_delayed(NOW + 20, 10)
    await adding
    await trial.add("c@dest.example", received_at=NOW - 5)

    found = [*during, *await trial.store.sweep_delayed(NOW + 20, 10)]

    assert [lease.recipients[0].address for lease in found] == ["b@dest.example", "c@dest.example"]


async def sweep_for_an_earlier_time_gives_nothing_younger(trial: Trial) -> None:
    """When an operator lengthens the delay, what was not yet told of waits for the longer one."""
    message = await _waiting(trial, "a@dest.example", received_at=NOW - 50)
    (lease,) = await trial.store.sweep_delayed(NOW, 10)
    trial.store.give_back(lease)

    assert await trial.store.sweep_delayed(NOW - 50, 10) == ()
    assert numbers(await trial.store.sweep_delayed(NOW - 49, 10)) == [(message.id, 0)]


async def delays_are_told_in_portions(trial: Trial) -> None:
    """A backlog is told of portion by portion, each recipient once, in leases of at most a hundred."""
    await trial.add(*[f"user{n}@dest.example" for n in range(250)], received_at=NOW - DAY)
    for n in range(20):
        await trial.add("a@dest.example", "b@other.example", received_at=NOW - n % 5)

    found: list[Lease] = []
    while leases := await trial.store.sweep_delayed(NOW + 1, 3 if found else 1):
        assert len({lease.id for lease in leases}) <= 3
        assert found or [len(lease.recipients) for lease in leases] == [100, 100, 50]
        found += leases
        await _tell(trial, *leases)

    assert len(numbers(found)) == len(set(numbers(found))) == 290
    assert [lease.received_at for lease in found] == sorted([lease.received_at for lease in found])


async def two_sweeps_never_share_a_recipient(trial: Trial) -> None:
    """However many ask at the same time, and whatever is leased meanwhile, each recipient is leased once."""
    for _ in range(20):
        await trial.add("a@dest.example", "b@other.example")

    found = await asyncio.gather(
        *[trial.store.sweep_delayed(NOW + 1, 7) for _ in range(4)],
        trial.store.lease(["other.example"], NOW, 10),
        trial.store.sweep(NOW + 1, 5),
    )
    late = await trial.store.sweep_delayed(NOW + 1, 100)

    taken = numbers([*[lease for leases in found for lease in leases], *late])
    assert len(taken) == len(set(taken)) == 40


async def telling_is_not_begun_again_while_it_is_committed(trial: Trial) -> None:
    """Between the settlement and its commit nobody sees the recipient as untold."""
    await _waiting(trial, "a@dest.example")
    (lease,) = await trial.store.sweep_delayed(NOW + 1, 10)
    settling = trial.store.settle(
        [trial.settlement(lease, State.DEFERRED, due=NOW + DAY, counted=False, owed=True, told=True)]
    )

    assert await trial.store.sweep_delayed(NOW + 1, 10) == ()
    await settling
    assert await trial.store.sweep_delayed(NOW + 1, 10) == ()


async def told_delay_is_a_debt_until_it_is_reported(trial: Trial) -> None:
    """A report of the delay is owed, also after a crash; filing it leaves the recipient waiting as it was."""
    message = await _waiting(trial, "a@dest.example")
    await _tell(trial, *await trial.store.sweep_delayed(NOW + 1, 10), owed=True)
    await trial.crash()
    owed = await _owed(trial)
    (told,) = owed.recipients
    assert (owed.id, told.state, told.report_owed, told.is_delay_told) == (message.id, State.DEFERRED, True, True)

    report = await _file(trial, owed)

    assert await trial.store.lease_report(NOW + DAY) is None
    assert await trial.states() == {"a@dest.example": "deferred", "sender@origin.example": "deferred"}
    assert (await trial.store.due(NOW, 10)).next_at == NOW + DAY
    assert [lease.id for lease in await trial.store.sweep_delayed(NOW + DAY, 10)] == [report.id]


async def delivery_takes_the_debt_of_a_delay_away(trial: Trial) -> None:
    """What was delivered, or cancelled, before its delay was reported is not reported as late."""
    relayed, cancelled = await _delayed(trial, "a@one.example", "b@two.example")
    await trial.store.settle(trial.relayed([relayed]))
    trial.store.give_back(cancelled)
    await trial.store.change(EVERYTHING, Wish("cancel", NOW), None, 10)

    assert await trial.store.lease_report(NOW + HOUR) is None
    assert await trial.store.count() == (0, 0)


async def newest_state_is_what_is_reported(trial: Trial) -> None:
    """A delayed recipient that bounces, expires or is delivered as wished owes one report, of that."""
    first, second, third = await _delayed(trial, "a@one.example", "b@two.example", "c@three.example")
    await trial.store.settle(
        [
            trial.settlement(first, State.BOUNCED, owed=True),
            trial.settlement(second, State.RELAYED, owed=True),
            trial.settlement(third, State.EXPIRED, owed=True, counted=False),
        ]
    )

    owed = await _owed(trial)

    assert [each.state for each in owed.recipients] == [State.BOUNCED, State.RELAYED, State.EXPIRED]
    await _file(trial, owed)
    assert await trial.store.lease_report(NOW + DAY) is None
    assert await trial.states() == {"sender@origin.example": "deferred"}


async def report_that_is_not_true_any_more_is_not_filed(trial: Trial) -> None:
    """What was delivered while its delay report was written is not reported; for who still waits it is owed anew."""
    for first in (0, 1):
        leases = await _delayed(trial, "a@one.example", "b@two.example")
        done, late = leases[first], leases[1 - first]
        owed = await _owed(trial)
        assert [each.n for each in owed.recipients] == [0, 1]
        await trial.store.settle(trial.relayed([done]))
        await _file(trial, owed)
        assert await trial.states() == {late.recipients[0].address: "leased"}

        owed = await _owed(trial)
        assert [each.n for each in owed.recipients] == [1 - first]
        await trial.store.settle(trial.relayed([late]))
        await _file(trial, owed)

        assert await trial.store.lease_report(NOW + DAY) is None
        assert await trial.store.count() == (0, 0)
    assert Kind.REPORTED not in await trial.kinds()


async def bounce_is_not_paid_with_the_report_of_a_delay(trial: Trial) -> None:
    """What bounces while its delay report is written is reported as bounced: a failure is never lost so."""
    (lease,) = await _delayed(trial, "a@one.example")
    delay = await _owed(trial)
    await trial.store.settle([trial.settlement(lease, State.BOUNCED, owed=True)])
    for _ in range(2):
        await _file(trial, delay)
        assert await trial.states() == {"a@one.example": "bounced"}

    owed = await _owed(trial)

    assert [each.state for each in owed.recipients] == [State.BOUNCED]
    await _file(trial, owed)
    assert await trial.states() == {"sender@origin.example": "deferred"}
    assert (await trial.kinds())[-2:] == [Kind.BOUNCED, Kind.REPORTED]


async def another_attempt_leaves_the_report_of_a_delay_true(trial: Trial) -> None:
    """A recipient that is tried again, or held, while its delay report is written still waits: the report is filed."""
    deferred, held = await _delayed(trial, "a@one.example", "b@two.example")
    owed = await _owed(trial)
    await trial.store.settle(
        [
            trial.settlement(deferred, State.DEFERRED, due=NOW + HOUR, told=True),
            trial.settlement(held, State.HELD, due=NOW + HOUR),
        ]
    )

    await _file(trial, owed)

    assert await trial.store.lease_report(NOW + DAY) is None
    assert await trial.states() == {
        "a@one.example": "deferred",
        "b@two.example": "held",
        "sender@origin.example": "deferred",
    }


SCENARIOS = (
    untold_delays_are_found_by_age,
    swept_recipient_can_be_settled_as_it_was,
    what_was_told_stays_told,
    each_recipient_is_told_of_by_itself,
    outdated_settlement_tells_nothing,
    sweep_that_came_to_nothing_is_repeated,
    what_is_under_way_is_told_of_afterwards,
    mail_filed_behind_the_sweep_is_found,
    sweep_for_an_earlier_time_gives_nothing_younger,
    delays_are_told_in_portions,
    two_sweeps_never_share_a_recipient,
    telling_is_not_begun_again_while_it_is_committed,
    told_delay_is_a_debt_until_it_is_reported,
    delivery_takes_the_debt_of_a_delay_away,
    newest_state_is_what_is_reported,
    report_that_is_not_true_any_more_is_not_filed,
    bounce_is_not_paid_with_the_report_of_a_delay,
    another_attempt_leaves_the_report_of_a_delay_true,
)
