# SPDX-License-Identifier: MIT
"""Scenarios: operators see what is there and change it, in portions."""

from msgspec.structs import replace

from smarthost.mail.address import Address, Domain, scope_domain
from smarthost.mail.record import Kind
from smarthost.mail.settlement import State
from smarthost.queue.leases import Wish
from smarthost.queue.store import DueDomain, Filter, StoredMessage
from smarthost.testing.stores.trial import EVERYTHING, HOUR, NOW, Trial, refused


async def _found(trial: Trial, which: Filter) -> list[tuple[str, int]]:
    """Give (id, recipient number) of what a filter finds."""
    page = await trial.store.find(which, None, 100)
    return [(message.id, each.n) for message in page.messages for each in message.recipients]


async def found_message_tells_its_story(trial: Trial) -> None:
    """An operator sees who sent what to whom, and why it is where it is."""
    message, (lease,) = await trial.add_leased("a@dest.example", "b@dest.example", "c@dest.example", "d@dest.example")
    await trial.store.settle(
        [
            trial.settlement(lease, State.DEFERRED, due=NOW + 10, only={0}),
            trial.settlement(lease, State.BOUNCED, owed=True, only={1}),
            trial.settlement(lease, State.RELAYED, only={2}),
        ]
    )

    (found,) = (await trial.store.find(EVERYTHING, None, 10)).messages

    assert isinstance(found, StoredMessage)
    assert (found.id, found.received_at) == (message.id, NOW)
    assert (found.reverse_path, found.client, found.sender) == ("sender@origin.example", "192.0.2.7", message.sender)
    assert found.octets == message.content.octets
    assert [(each.n, each.address, each.state) for each in found.recipients] == [
        (0, "a@dest.example", "deferred"),
        (1, "b@dest.example", "bounced"),
        (3, "d@dest.example", "leased"),
    ]
    first = found.recipients[0]
    assert (first.domain, first.due, first.attempts) == ("dest.example", NOW + 10, 1)
    assert (first.last_reply, first.status, first.why) == ("450 so be it", "4.4.1", "it was deferred")


async def filters_restrict_by_each_field(trial: Trial) -> None:
    """Messages are found by id, sender, recipient and domain, and by all of them together."""
    one = await trial.add("A.Person@dest.example", "b@other.example")
    two = trial.message("b@other.example", reverse_path="Someone@Else.example")
    await trial.store.add(two, ())

    assert await _found(trial, Filter(id=one.id)) == [(one.id, 0), (one.id, 1)]
    assert await _found(trial, Filter(id=two.id.upper())) == [(two.id, 0)]
    assert await _found(trial, Filter(reverse_path="someone@else.EXAMPLE")) == [(two.id, 0)]
    assert await _found(trial, Filter(recipient="a.person@DEST.example")) == [(one.id, 0)]
    assert await _found(trial, Filter(domain="Other.example")) == [(one.id, 1), (two.id, 0)]
    assert await _found(trial, Filter(domain="other.example", id=one.id)) == [(one.id, 1)]
    assert await _found(trial, Filter(recipient="b@other.example", reverse_path="sender@origin.example")) == [
        (one.id, 1)
    ]
    assert await _found(trial, Filter(domain="nowhere.example")) == []
    assert await _found(trial, Filter(id="not an id")) == []
    assert await _found(trial, Filter(id=trial.message("x@y.example").id)) == []


async def domain_means_what_is_filed_under_it(trial: Trial) -> None:
    """Who asks for a domain finds and changes its mail whoever it is from, and no other domain's."""
    domain, sender = Domain("dest.example"), "@corp.example"
    apart = scope_domain(domain, sender)
    likes = (
        "est.example",
        "dest.example.org",
        "dest.exampl_",
        "dest.example\tfrom x",
        "dest.example from",
        "dest.examplf",
        "dest.example to x",
    )
    addresses = [Address(f"a@{n}", Domain(text)) for n, text in enumerate((domain, apart, *likes))]
    message = trial.message("a@dest.example")
    message = replace(message, envelope=replace(message.envelope, recipients=tuple(addresses)))
    await trial.store.add(message, ())

    assert await _found(trial, Filter(domain="Dest.Example")) == [(message.id, 0), (message.id, 1)]
    assert await _found(trial, Filter(domain=apart.upper())) == [(message.id, 1)]
    assert await _found(trial, Filter(domain="dest.example from")) == [(message.id, 6)]
    assert await _found(trial, Filter(domain="dest.exam")) == []
    changed = await trial.store.change(Filter(domain="dest.example"), Wish("cancel", NOW), None, 10)
    assert changed.recipients == ((message.id, 0), (message.id, 1))
    assert len(await _found(trial, EVERYTHING)) == len(likes)


async def domains_with_a_sender_are_names_like_others(trial: Trial) -> None:
    """Mail that is kept apart by its sender is due, leased and released by the name it is filed under."""
    apart = scope_domain(Domain("dest.example"), "@corp.example")
    message = trial.message("a@dest.example")
    message = replace(message, envelope=replace(message.envelope, recipients=(Address("a@dest.example", apart),)))
    await trial.store.add(message, ())
    await trial.add("b@dest.example")

    assert {due.domain for due in (await trial.store.due(NOW, 10)).domains} == {"dest.example", apart}
    (lease,) = await trial.store.lease([apart], NOW, 10)
    assert [(lease.id, each.domain) for each in lease.recipients] == [(message.id, apart)]
    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW + HOUR, awaits=True)])
    assert await trial.store.awaiting(NOW, 10) == (apart,)
    assert await trial.store.release(["dest.example"], NOW) == 0
    assert await trial.store.release([apart], NOW) == 1


async def pages_follow_one_another(trial: Trial) -> None:
    """A queue of any length is read page by page, oldest first, each message once."""
    messages = [await trial.add("a@dest.example", "b@dest.example") for _ in range(25)]

    seen: list[str] = []
    cursor = None
    while True:
        page = await trial.store.find(EVERYTHING, cursor, 10)
        assert len(page.messages) <= 10
        seen += [message.id for message in page.messages]
        cursor = page.cursor
        if cursor is None:
            break

    assert seen == [message.id for message in messages]


async def damaged_cursor_is_refused(trial: Trial) -> None:
    """A cursor that nobody gave is an error, not a page."""
    for cursor in ("", "x", "1.2.3", "-1.0", "zz.1", "1", "ffffffffffffffffff.0"):
        await refused(trial.store.find(EVERYTHING, cursor, 10), ValueError)
        await refused(trial.store.change(EVERYTHING, Wish("retry", NOW), cursor, 10), ValueError)


async def unknown_verb_is_refused(trial: Trial) -> None:
    """A verb that is not one changes nothing."""
    await trial.add("a@dest.example")

    await refused(trial.store.change(EVERYTHING, Wish("delete", NOW), None, 10), ValueError)

    assert await trial.states() == {"a@dest.example": "deferred"}


async def retry_makes_due_now(trial: Trial) -> None:
    """What was told to wait is due at once, keeps what is known of it, and a record says who wanted it."""
    message, (lease,) = await trial.add_leased("a@dest.example", "b@dest.example")
    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW + HOUR)])

    changed = await trial.store.change(Filter(recipient="a@dest.example"), Wish("retry", NOW + 1), None, 10)
    await trial.crash()

    assert (changed.recipients, changed.wished, changed.cursor) == (((message.id, 0),), (), None)
    assert (await trial.store.due(NOW + 1, 10)).domains == (DueDomain("dest.example", NOW + 1),)
    (again,) = await trial.store.lease(["dest.example"], NOW + 1, 10)
    assert [(each.n, each.attempts, each.last_reply) for each in again.recipients] == [(0, 1, "450 so be it")]
    record = (await trial.all_records())[-1]
    assert (record.kind, record.recipient, record.at) == (Kind.CHANGED, "a@dest.example", NOW + 1)
    assert (record.id, record.reverse_path) == (message.id, "sender@origin.example")
    assert record.next_attempt_at == NOW + 1


async def cancel_ends_recipients(trial: Trial) -> None:
    """What is cancelled is gone, with a record, and its message with the last recipient."""
    one = await trial.add("a@dest.example", "b@other.example")
    two = await trial.add("c@other.example")

    changed = await trial.store.change(Filter(domain="other.example"), Wish("cancel", NOW), None, 10)
    await trial.crash()

    assert sorted(changed.recipients) == [(one.id, 1), (two.id, 0)]
    assert await trial.states() == {"a@dest.example": "deferred"}
    records = await trial.all_records()
    assert [(each.kind, each.recipient) for each in records] == [
        (Kind.CANCELLED, "b@other.example"),
        (Kind.CANCELLED, "c@other.example"),
    ]
    assert all(each.why for each in records)


async def change_goes_in_portions(trial: Trial) -> None:
    """A verb upon many recipients is applied chunk by chunk, each recipient once."""
    for _ in range(5):
        await trial.add(*[f"user{n}@dest.example" for n in range(5)])

    changed: list[tuple[str, int]] = []
    cursor = None
    while True:
        chunk = await trial.store.change(EVERYTHING, Wish("retry", NOW + 1), cursor, 10)
        assert len(chunk.recipients) <= 10
        changed += chunk.recipients
        cursor = chunk.cursor
        if cursor is None:
            break

    assert len(changed) == len(set(changed)) == 25
    assert await trial.kinds() == [Kind.CHANGED] * 25


async def change_leaves_a_wish_on_what_is_leased(trial: Trial) -> None:
    """Whatever is being worked on is named apart: its settlement decides."""
    message = trial.message("a@one.example", "b@two.example")
    await trial.store.add(message, ["one.example"])

    changed = await trial.store.change(EVERYTHING, Wish("cancel", NOW), None, 10)

    assert changed.recipients == ((message.id, 1),)
    assert changed.wished == ((message.id, 0),)
    assert await trial.states() == {"a@one.example": "leased"}


async def held_mail_is_cancelled_but_not_retried(trial: Trial) -> None:
    """Retry does not undo a hold; cancel ends it."""
    _, (lease,) = await trial.add_leased("a@dest.example")
    await trial.store.settle([trial.settlement(lease, State.HELD, due=NOW + HOUR)])

    assert (await trial.store.change(EVERYTHING, Wish("retry", NOW), None, 10)).recipients == ()
    assert await trial.states() == {"a@dest.example": "held"}
    assert len((await trial.store.change(EVERYTHING, Wish("cancel", NOW), None, 10)).recipients) == 1
    assert await trial.store.count() == (0, 0)


async def finished_recipients_are_not_changed(trial: Trial) -> None:
    """What has ended and only owes a report stays as it ended."""
    _, (lease,) = await trial.add_leased("a@dest.example")
    await trial.store.settle([trial.settlement(lease, State.BOUNCED, owed=True)])

    for verb in ("retry", "cancel"):
        changed = await trial.store.change(EVERYTHING, Wish(verb, NOW), None, 10)
        assert (changed.recipients, changed.wished) == ((), ())
    assert await trial.states() == {"a@dest.example": "bounced"}


async def records_of_changes_have_their_own_numbers(trial: Trial) -> None:
    """Records that the store writes itself never take the number of another record."""
    for _ in range(3):
        _, leases = await trial.add_leased("a@dest.example")
        await trial.add("b@dest.example")
        await trial.store.change(Filter(recipient="b@dest.example"), Wish("cancel", NOW), None, 10)
        await trial.store.settle(trial.relayed(leases))

    assert sorted([kind.value for kind in await trial.kinds()]) == ["cancelled"] * 3 + ["relayed"] * 3


SCENARIOS = (
    found_message_tells_its_story,
    filters_restrict_by_each_field,
    domain_means_what_is_filed_under_it,
    domains_with_a_sender_are_names_like_others,
    pages_follow_one_another,
    damaged_cursor_is_refused,
    unknown_verb_is_refused,
    retry_makes_due_now,
    cancel_ends_recipients,
    change_goes_in_portions,
    change_leaves_a_wish_on_what_is_leased,
    held_mail_is_cancelled_but_not_retried,
    finished_recipients_are_not_changed,
    records_of_changes_have_their_own_numbers,
)
