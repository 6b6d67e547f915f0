# SPDX-License-Identifier: MIT
"""Scenarios: mail that comes from another node's queue goes on as it was, and a queue can be leased as a whole."""

from collections.abc import Sequence

from msgspec.structs import replace

from smarthost.mail.address import Address, Domain
from smarthost.mail.envelope import DsnRequest, Envelope, Notify
from smarthost.mail.lease import Lease
from smarthost.mail.message import Message
from smarthost.mail.progress import Progress
from smarthost.mail.record import TERMINAL_KINDS
from smarthost.mail.settlement import State
from smarthost.testing.stores.trial import EVERYTHING, HOUR, NOW, Trial, numbers

WAITING = Progress(
    State.DEFERRED, NOW + HOUR, 3, "4.2.0", "450 4.2.0 Greylisted", "refused for now", "mx.dest.example", True
)
HELD = Progress(State.HELD, NOW + 48 * HOUR, 1, "4.7.0", "", "held by the operator", "", False)
DUE = Progress(State.DEFERRED, NOW - 1.0)


def _moved(trial: Trial, *progress: Progress, requests: Sequence[DsnRequest] = ()) -> Message:
    """Make a message of another node, five hours old, with a recipient for each progress."""
    recipients = tuple([Address(f"r{n}@dest.example", Domain("dest.example")) for n in range(len(progress))])
    message = trial.message("x@dest.example", received_at=NOW - 5 * HOUR)
    envelope = Envelope("sender@origin.example", recipients, requests=tuple(requests))
    return replace(message, envelope=envelope, progress=progress)


async def _lease_everything(trial: Trial, n: int = 100) -> list[Lease]:
    found: list[Lease] = []
    cursor: str | None = None
    while True:
        leases, cursor = await trial.store.lease_all(cursor, n)
        assert len(leases) <= n
        found += leases
        if cursor is None:
            return found


async def recipients_begin_where_they_were(trial: Trial) -> None:
    """State, due time, attempts and what was last said are those of the node that had the message before."""
    requests = (DsnRequest(Notify.FAILURE, "rfc822;old@dest.example"), DsnRequest(), DsnRequest())
    message = _moved(trial, WAITING, HELD, DUE, requests=requests)
    assert await trial.store.add(message, ["dest.example"]) == ()

    for _ in range(2):
        page = await trial.store.find(EVERYTHING, None, 10)
        (found,) = page.messages
        assert found.received_at == NOW - 5 * HOUR
        assert [
            (each.state, each.due, each.attempts, each.status, each.last_reply, each.why) for each in found.recipients
        ] == [
            (each.state.value, each.due, each.attempts, each.status, each.last_reply, each.why)
            for each in message.progress
        ]
        await trial.crash()
    (lease,) = await trial.store.lease(["dest.example"], NOW + 2 * HOUR, 10)
    assert [(each.n, each.attempts, each.is_delay_told) for each in lease.recipients] == [(0, 3, True), (2, 0, False)]
    assert (lease.recipients[0].notify, lease.recipients[0].orcpt) == (Notify.FAILURE, "rfc822;old@dest.example")
    assert await trial.store.count() == (1, 3)


async def only_what_is_due_is_leased_of_moved_mail(trial: Trial) -> None:
    """A recipient that comes with a schedule is not tried before its time."""
    await trial.store.add(_moved(trial, WAITING, DUE), ())

    due = await trial.store.due(NOW, 10)
    (lease,) = await trial.store.lease(["dest.example"], NOW, 10)

    assert [each.domain for each in due.domains] == ["dest.example"]
    assert due.next_at == NOW + HOUR
    assert [each.n for each in lease.recipients] == [1]


async def moved_mail_is_settled_like_any_other(trial: Trial) -> None:
    """Its next attempt counts from where it was, and it ends once."""
    await trial.store.add(_moved(trial, WAITING), ())
    (lease,) = await trial.store.lease(["dest.example"], NOW + HOUR, 10)
    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW + 2 * HOUR)])

    (again,) = await trial.store.lease(["dest.example"], NOW + 2 * HOUR, 10)
    assert again.recipients[0].attempts == 4
    await trial.store.settle(trial.relayed([again]))

    assert await trial.store.count() == (0, 0)
    assert len([kind for kind in await trial.kinds() if kind in TERMINAL_KINDS]) == 1


async def age_counts_from_the_first_node(trial: Trial) -> None:
    """Expiry and the warning of delay go by when the first node took a message, also behind a sweep that has passed."""
    before = NOW - 4 * HOUR
    assert await trial.store.sweep_delayed(before, 10) == ()
    told = replace(DUE, due=NOW + HOUR, is_delay_told=True)
    await trial.store.add(_moved(trial, replace(DUE, due=NOW + HOUR), told), ())

    (untold,) = await trial.store.sweep_delayed(before, 10)
    assert [each.n for each in untold.recipients] == [0]
    trial.store.give_back(untold)
    (old,) = await trial.store.sweep(before, 10)
    assert [each.n for each in old.recipients] == [0, 1]


async def everything_unfinished_can_be_leased(trial: Trial) -> None:
    """Whatever is due, waits or is held is given once, message by message in order, with all there is to know of it."""
    first = _moved(trial, WAITING, HELD, requests=(DsnRequest(Notify.DELAY, "rfc822;a@b"), DsnRequest()))
    await trial.store.add(first, ())
    others = [await trial.add("a@one.example", "b@two.example") for _ in range(4)]

    leases = await _lease_everything(trial, n=2)

    assert [lease.id for lease in leases] == [first.id, *[other.id for other in others]]
    waiting, held = leases[0].recipients
    assert (waiting.due, waiting.attempts, waiting.last_reply, waiting.last_status, waiting.why, waiting.host) == (
        WAITING.due, 3, WAITING.last_reply, "4.2.0", "refused for now", "mx.dest.example",
    )  # fmt: skip
    assert (waiting.notify, waiting.orcpt, waiting.is_delay_told, waiting.is_held) == (
        Notify.DELAY, "rfc822;a@b", True, False,
    )  # fmt: skip
    assert (held.due, held.attempts, held.why, held.is_held) == (HELD.due, 1, "held by the operator", True)
    assert await _lease_everything(trial) == []
    assert await trial.store.lease(["one.example", "dest.example"], NOW + 2 * HOUR, 10) == ()


async def a_whole_message_is_one_lease(trial: Trial) -> None:
    """However many recipients it has: another node takes it as one message."""
    addresses = [f"r{n}@dest{n % 7}.example" for n in range(250)]
    message = await trial.add(*addresses)

    (lease,) = await _lease_everything(trial)

    assert numbers([lease]) == [(message.id, n) for n in range(250)]


async def what_is_leased_or_owes_a_report_is_passed_over(trial: Trial) -> None:
    """An attempt under way is not disturbed, and no debt is lost with a recipient that leaves."""
    message, (lease,) = await trial.add_leased("a@one.example", "b@two.example", "c@three.example")
    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW + HOUR, owed=True, told=True, only=[1])])

    assert await _lease_everything(trial) == []
    trial.store.give_back(lease)
    leases = await _lease_everything(trial)
    assert numbers(leases) == [(message.id, 0), (message.id, 2)]
    for each in leases:
        trial.store.give_back(each)

    owed = await trial.store.lease_report(NOW + HOUR)
    assert owed is not None
    await trial.store.file_report(owed, None, ())
    assert numbers(await _lease_everything(trial)) == [(message.id, 0), (message.id, 1), (message.id, 2)]


async def held_mail_that_is_given_back_is_held_still(trial: Trial) -> None:
    """What could not be moved stays as it was."""
    await trial.store.add(_moved(trial, HELD, WAITING), ())
    for lease in await _lease_everything(trial):
        trial.store.give_back(lease)

    assert await trial.states() == {"r0@dest.example": "held", "r1@dest.example": "deferred"}
    (lease,) = await _lease_everything(trial)
    assert [each.is_held for each in lease.recipients] == [True, False]


async def a_hold_that_is_over_is_swept(trial: Trial) -> None:
    """Held mail has a deadline of its own: what is held beyond it is leased to expire, alone of its message, once."""
    message = _moved(trial, HELD, WAITING)
    await trial.store.add(message, ())

    assert await trial.store.sweep_held(HELD.due - 1, 10) == ()
    (lease,) = await trial.store.sweep_held(HELD.due, 10)
    assert numbers([lease]) == [(message.id, 0)]
    assert await trial.store.sweep_held(HELD.due, 10) == ()
    await trial.store.settle([trial.settlement(lease, State.EXPIRED, counted=False)])

    assert await trial.states() == {"r1@dest.example": "deferred"}
    assert await trial.store.sweep_held(HELD.due, 10) == ()


async def held_mail_can_end(trial: Trial) -> None:
    """A held recipient that another node took over is gone here, with its message."""
    await trial.store.add(_moved(trial, HELD), ())
    (lease,) = await _lease_everything(trial)
    await trial.store.settle([trial.settlement(lease, State.RELAYED, counted=False)])

    assert await trial.store.count() == (0, 0)
    await trial.crash()
    assert await trial.store.count() == (0, 0)


SCENARIOS = (
    recipients_begin_where_they_were,
    only_what_is_due_is_leased_of_moved_mail,
    moved_mail_is_settled_like_any_other,
    age_counts_from_the_first_node,
    everything_unfinished_can_be_leased,
    a_whole_message_is_one_lease,
    what_is_leased_or_owes_a_report_is_passed_over,
    held_mail_that_is_given_back_is_held_still,
    a_hold_that_is_over_is_swept,
    held_mail_can_end,
)
