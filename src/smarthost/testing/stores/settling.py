# SPDX-License-Identifier: MIT
"""Scenarios: what an attempt found out is recorded once and wins over nothing it must not win over."""

from msgspec.structs import replace

from smarthost.mail.record import TERMINAL_KINDS, Kind
from smarthost.mail.settlement import Settlement, State
from smarthost.queue.leases import Wish
from smarthost.queue.store import DueScan, Filter
from smarthost.testing.stores.trial import EVERYTHING, HOUR, NOW, Trial, content_of, numbers


async def relayed_message_is_gone(trial: Trial) -> None:
    """With its last recipient a message goes, and only its record stays, whatever happens afterwards."""
    message, leases = await trial.add_leased("a@dest.example")
    (settlement,) = trial.relayed(leases)
    await trial.store.settle([settlement])

    await trial.crash()

    assert await trial.store.count() == (0, 0)
    assert await trial.all_records() == list(settlement.records)
    assert (await trial.store.find(Filter(id=message.id), None, 10)).messages == ()


async def deferred_recipient_comes_back(trial: Trial) -> None:
    """A deferral says when the next attempt is, and the next lease what is known from the last."""
    message, (lease,) = await trial.add_leased("a@dest.example")
    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW + HOUR)])

    await trial.crash()

    assert await trial.store.due(NOW, 10) == DueScan((), NOW + HOUR)
    (again,) = await trial.store.lease(["dest.example"], NOW + HOUR, 10)
    assert numbers([again]) == [(message.id, 0)]
    (recipient,) = again.recipients
    assert (recipient.attempts, recipient.last_reply, recipient.last_status) == (1, "450 so be it", "4.4.1")
    assert await trial.kinds() == [Kind.DEFERRED]


async def settling_twice_is_harmless(trial: Trial) -> None:
    """After an error nobody knows whether a settlement was committed: it may be repeated."""
    _, (lease,) = await trial.add_leased("a@dest.example", "b@dest.example", "c@dest.example")
    settlements = [
        trial.settlement(lease, State.RELAYED, only={0}),
        trial.settlement(lease, State.DEFERRED, due=NOW + 10, only={1}),
        trial.settlement(lease, State.BOUNCED, owed=True, only={2}),
    ]

    for _ in range(2):
        await trial.store.settle(settlements)
        assert await trial.states() == {"b@dest.example": "deferred", "c@dest.example": "bounced"}
        assert await trial.kinds() == [Kind.RELAYED, Kind.DEFERRED, Kind.BOUNCED]
    await trial.crash()
    await trial.store.settle(settlements)
    assert len(await trial.all_records()) == 3


async def outdated_settlement_is_passed_over(trial: Trial) -> None:
    """A settlement of an attempt that is not the one awaited changes nothing and leaves no record."""
    _, (lease,) = await trial.add_leased("a@dest.example")
    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW)])
    (again,) = await trial.store.lease(["dest.example"], NOW, 10)
    await trial.store.settle([trial.settlement(again, State.DEFERRED, due=NOW + 20)])

    await trial.store.settle([trial.settlement(lease, State.RELAYED)])

    assert await trial.states() == {"a@dest.example": "deferred"}
    assert await trial.kinds() == [Kind.DEFERRED, Kind.DEFERRED]


async def settlement_of_nobody_is_passed_over(trial: Trial) -> None:
    """A settlement of a message or recipient that is not there changes nothing and leaves no record."""
    message, (lease,) = await trial.add_leased("a@dest.example")
    stranger = replace(lease, id=trial.message("x@y.example").id)
    await trial.store.settle([trial.settlement(stranger, State.BOUNCED)])
    ghost = replace(lease, recipients=(replace(lease.recipients[0], n=7),))
    await trial.store.settle([trial.settlement(ghost, State.BOUNCED)])
    await trial.store.settle([])

    assert await trial.store.count() == (1, 1)
    assert await trial.all_records() == []
    assert message.id == lease.id


async def finished_recipient_is_not_settled_again(trial: Trial) -> None:
    """What has bounced and waits for its report is not relayed or deferred by a late word about the same attempt."""
    _, (lease,) = await trial.add_leased("a@dest.example")
    await trial.store.settle([trial.settlement(lease, State.BOUNCED, owed=True)])

    await trial.store.settle([trial.settlement(lease, State.RELAYED)])
    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW)])

    assert await trial.states() == {"a@dest.example": "bounced"}
    assert await trial.kinds() == [Kind.BOUNCED]


async def postponing_counts_no_attempt(trial: Trial) -> None:
    """When nothing was tried the recipient waits, and its attempts stay as they were."""
    _, (lease,) = await trial.add_leased("a@dest.example")
    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW + 60, counted=False)])

    assert await trial.store.due(NOW, 10) == DueScan((), NOW + 60)
    (again,) = await trial.store.lease(["dest.example"], NOW + 60, 10)
    assert again.recipients[0].attempts == 0


async def settlements_of_one_call_are_all_committed(trial: Trial) -> None:
    """Settlements of several messages may come together."""
    pairs = [await trial.add_leased("a@dest.example", "b@other.example") for _ in range(10)]
    leases = [lease for _, each in pairs for lease in each]
    await trial.store.settle(trial.relayed(leases[:9]))

    await trial.crash()

    assert await trial.store.count() == (1, 2)
    assert len(await trial.all_records()) == 18


async def settled_lease_has_ended(trial: Trial) -> None:
    """After a deferral the recipient may be leased again when it is due, and not before it is committed."""
    message, (lease,) = await trial.add_leased("a@dest.example")
    settling = trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW)])
    early = await trial.store.lease(["dest.example"], NOW, 10)
    await settling
    late = await trial.store.lease(["dest.example"], NOW, 10)

    assert numbers([*early, *late]) == [(message.id, 0)]
    assert [each.attempts for lease in (*early, *late) for each in lease.recipients] == [1]


async def message_stays_until_its_last_recipient_is_settled(trial: Trial) -> None:
    """A partly relayed message is still whole for the rest."""
    message, (lease,) = await trial.add_leased("a@dest.example", "b@dest.example", "c@dest.example")
    await trial.store.settle([trial.settlement(lease, State.RELAYED, only={0})])
    await trial.store.settle([trial.settlement(lease, State.BOUNCED, only={1})])

    assert await trial.states() == {"c@dest.example": "leased"}
    assert content_of(await trial.store.content(message.id)) == content_of(message.content)
    await trial.store.settle([trial.settlement(lease, State.EXPIRED, only={2})])
    assert await trial.store.count() == (0, 0)
    assert await trial.kinds() == [Kind.RELAYED, Kind.BOUNCED, Kind.EXPIRED]


async def held_recipients_are_not_worked_on(trial: Trial) -> None:
    """What is held is neither due nor leased nor swept, but it is in the queue."""
    _, (lease,) = await trial.add_leased("a@dest.example")
    await trial.store.settle([trial.settlement(lease, State.HELD, due=NOW + 10)])

    assert await trial.store.due(NOW + HOUR, 10) == DueScan((), None)
    assert await trial.store.lease(["dest.example"], NOW + HOUR, 10) == ()
    assert await trial.store.sweep(NOW + HOUR, 10) == ()
    assert await trial.store.count() == (1, 1)
    assert await trial.states() == {"a@dest.example": "held"}


async def cancel_during_an_attempt_is_applied_to_a_deferral(trial: Trial) -> None:
    """Cancelling what is being worked on takes effect when that attempt brings no decision."""
    message, (lease,) = await trial.add_leased("a@dest.example", "b@dest.example")
    changed = await trial.store.change(Filter(recipient="a@dest.example"), Wish("cancel", NOW), None, 10)
    assert changed.recipients == ()
    assert changed.wished == ((message.id, 0),)
    assert (await trial.states())["a@dest.example"] == "leased"

    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW + HOUR)])

    assert await trial.states() == {"b@dest.example": "deferred"}
    records = await trial.all_records()
    assert sorted([(each.recipient, each.kind) for each in records], key=lambda pair: pair[0]) == [
        ("a@dest.example", Kind.CANCELLED),
        ("b@dest.example", Kind.DEFERRED),
    ]


async def relayed_and_bounced_win_over_cancel(trial: Trial) -> None:
    """Cancelling what is being worked on changes nothing once a host has decided."""
    _, (lease,) = await trial.add_leased("a@dest.example", "b@dest.example")
    changed = await trial.store.change(EVERYTHING, Wish("cancel", NOW), None, 10)
    assert len(changed.wished) == 2

    await trial.store.settle(
        [
            trial.settlement(lease, State.RELAYED, only={0}),
            trial.settlement(lease, State.BOUNCED, owed=True, only={1}),
        ]
    )

    assert await trial.kinds() == [Kind.RELAYED, Kind.BOUNCED]
    assert await trial.states() == {"b@dest.example": "bounced"}


async def cancel_is_applied_when_the_lease_is_given_back(trial: Trial) -> None:
    """Cancelling what somebody had at hand takes effect when they give it back untouched."""
    _, (lease,) = await trial.add_leased("a@dest.example")
    await trial.store.change(EVERYTHING, Wish("cancel", NOW), None, 10)

    trial.store.give_back(lease)
    await trial.store.save_notes({"after": b"x"})  # it was enqueued behind the cancellation

    assert await trial.store.count() == (0, 0)
    assert await trial.kinds() == [Kind.CANCELLED]


async def cancel_during_a_commit_is_not_lost(trial: Trial) -> None:
    """Cancelling in the moment in which a deferral is being committed takes effect after it, exactly once."""
    _, (lease,) = await trial.add_leased("a@dest.example")
    settling = trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW + HOUR)])
    await trial.store.change(EVERYTHING, Wish("cancel", NOW), None, 10)
    await settling
    await trial.store.save_notes({"after": b"x"})

    assert await trial.store.count() == (0, 0)
    kinds = await trial.kinds()
    assert [kind for kind in kinds if kind in TERMINAL_KINDS] == [Kind.CANCELLED]


async def retry_during_an_attempt_shortens_a_deferral(trial: Trial) -> None:
    """Asking for a retry of what is being tried means: again at once, should it be deferred."""
    _, (lease,) = await trial.add_leased("a@dest.example")
    await trial.store.change(EVERYTHING, Wish("retry", NOW + 5), None, 10)

    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW + HOUR)])

    assert (await trial.store.due(NOW + 5, 10)).domains[0].due == NOW + 5
    (record,) = await trial.all_records()
    assert (record.kind, record.next_attempt_at) == (Kind.DEFERRED, NOW + 5)


async def settlement_without_a_lease_counts(trial: Trial) -> None:
    """A settlement that outlives a crash of the store is as good as before."""
    _, leases = await trial.add_leased("a@dest.example")

    await trial.crash()
    await trial.store.settle(trial.relayed(leases))

    assert await trial.store.count() == (0, 0)
    assert await trial.kinds() == [Kind.RELAYED]


async def one_settlement_may_hold_different_states(trial: Trial) -> None:
    """Each recipient of a transaction has its own outcome."""
    _, (lease,) = await trial.add_leased("a@dest.example", "b@dest.example")
    relayed = trial.settlement(lease, State.RELAYED, only={0})
    deferred = trial.settlement(lease, State.DEFERRED, due=NOW + 10, only={1})
    mixed = Settlement(lease.id, relayed.recipients + deferred.recipients, relayed.records + deferred.records)

    await trial.store.settle([mixed])

    assert await trial.states() == {"b@dest.example": "deferred"}
    assert await trial.kinds() == [Kind.RELAYED, Kind.DEFERRED]


SCENARIOS = (
    relayed_message_is_gone,
    deferred_recipient_comes_back,
    settling_twice_is_harmless,
    outdated_settlement_is_passed_over,
    settlement_of_nobody_is_passed_over,
    finished_recipient_is_not_settled_again,
    postponing_counts_no_attempt,
    settlements_of_one_call_are_all_committed,
    settled_lease_has_ended,
    message_stays_until_its_last_recipient_is_settled,
    held_recipients_are_not_worked_on,
    cancel_during_an_attempt_is_applied_to_a_deferral,
    relayed_and_bounced_win_over_cancel,
    cancel_is_applied_when_the_lease_is_given_back,
    cancel_during_a_commit_is_not_lost,
    retry_during_an_attempt_shortens_a_deferral,
    settlement_without_a_lease_counts,
    one_settlement_may_hold_different_states,
)
