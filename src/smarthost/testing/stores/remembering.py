# SPDX-License-Identifier: MIT
"""Scenarios: what happened to a message is told by its id, its recipients and its Message-ID, also when it has gone."""

from msgspec.structs import replace

from smarthost.mail.message import Message
from smarthost.mail.record import Kind, Record
from smarthost.mail.settlement import State
from smarthost.queue.leases import Wish
from smarthost.queue.store import Filter
from smarthost.testing.stores.trial import EVERYTHING, HOUR, NOW, Trial


async def _accept(trial: Trial, *addresses: str, message_id: str = "", seq: int = 1) -> Message:
    """Add a message with the record of its acceptance."""
    message = replace(trial.message(*addresses), message_id=message_id)
    is_alone = len(addresses) == 1
    record = Record(
        seq,
        Kind.ACCEPTED,
        NOW,
        message.id,
        addresses[0] if is_alone else "",
        recipients=() if is_alone else addresses,
        message_id=message_id,
    )
    await trial.store.add(message, (), record)
    return message


async def history_outlives_its_message(trial: Trial) -> None:
    """Acceptance, attempts and end are told in order after the message has gone, and those of no other message."""
    message = await _accept(trial, "a@dest.example", seq=1)
    await _accept(trial, "b@other.example", seq=2)
    (lease,) = await trial.store.lease(["dest.example"], NOW, 10)
    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW)])
    (lease,) = await trial.store.lease(["dest.example"], NOW, 10)
    await trial.store.settle(trial.relayed([lease]))
    await trial.restart()

    kinds = [record.kind for record in await trial.store.history(message.id, 10)]
    assert kinds == [Kind.ACCEPTED, Kind.DEFERRED, Kind.RELAYED]
    assert [record.kind for record in await trial.store.history(message.id, 2)] == [Kind.DEFERRED, Kind.RELAYED]
    assert await trial.store.history("not an id", 10) == ()
    assert await trial.store.history(trial.message("x@y.example").id, 10) == ()


async def acceptance_is_found_by_recipient_and_message_id(trial: Trial) -> None:
    """Each recipient of a message finds it, whatever the case; the newest first; nobody else does."""
    one = await _accept(trial, "Ann@Dest.example", "bob@dest.example", message_id="<one@origin.example>", seq=1)
    two = await _accept(trial, "ann@dest.example", message_id="<two@origin.example>", seq=2)
    await trial.store.change(EVERYTHING, Wish("cancel", NOW), None, 10)

    async def found(text: str, n: int = 10) -> list[str]:
        return [record.id for record in await trial.store.accepted_for(text, n)]

    assert await found("ANN@dest.example") == [two.id, one.id]
    assert await found("ann@dest.example", 1) == [two.id]
    assert await found("bob@dest.example") == [one.id]
    assert await found("<one@origin.example>") == [one.id]
    assert await found("cid@dest.example") == []


async def an_acceptance_that_is_not_committed_is_not_told(trial: Trial) -> None:
    """A message that is there already is not accepted twice."""
    message = await _accept(trial, "a@dest.example", seq=1)
    await trial.store.add(message, (), Record(9, Kind.ACCEPTED, NOW, message.id, "a@dest.example"))

    assert [record.seq for record in await trial.store.history(message.id, 10)] == [1]


async def tally_counts_what_waits(trial: Trial) -> None:
    """By destination, sender and reason: how many, how many of them are due or held, and the oldest."""
    old = trial.message("a@dest.example", "b@dest.example", received_at=NOW - HOUR)
    await trial.store.add(old, ())
    _, (lease,) = await trial.add_leased("c@other.example")
    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW + HOUR)])
    _, (gone,) = await trial.add_leased("gone@other.example")
    await trial.store.settle([trial.settlement(gone, State.BOUNCED, owed=True)])
    held = trial.message("d@dest.example", reverse_path="other@origin.example")
    await trial.store.add(held, ())
    await trial.store.change(Filter(id=held.id), Wish("hold", NOW), None, 10)

    tally = await trial.store.tally(None, NOW)

    assert tally.cursor is None
    domains = {name: (each.recipients, each.due, each.held) for name, each in tally.by_domain.items()}
    assert domains == {"dest.example": (3, 2, 1), "other.example": (1, 0, 0)}
    oldest = tally.by_domain["dest.example"]
    assert (oldest.oldest_at, oldest.oldest_id) == (NOW - HOUR, old.id)
    assert {name: each.recipients for name, each in tally.by_sender.items()} == {
        "sender@origin.example": 3,
        "other@origin.example": 1,
    }
    assert {name: each.recipients for name, each in tally.by_reason.items()} == {
        "": 2,
        "450 so be it": 1,
        "held by the operator": 1,
    }


SCENARIOS = (
    history_outlives_its_message,
    acceptance_is_found_by_recipient_and_message_id,
    an_acceptance_that_is_not_committed_is_not_told,
    tally_counts_what_waits,
)
