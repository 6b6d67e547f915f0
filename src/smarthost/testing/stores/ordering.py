# SPDX-License-Identifier: MIT
"""Scenarios: every verb an operator has, said to what waits, to what is held, to what is being tried."""

from smarthost.mail.address import send_via
from smarthost.mail.record import Kind
from smarthost.mail.settlement import State
from smarthost.queue.leases import Wish
from smarthost.queue.store import Filter, StoredRecipient
from smarthost.queue.verbs import HOLD_S, VERBS
from smarthost.testing.stores.trial import EVERYTHING, HOUR, NOW, Trial


def _wish(verb: str, via: str = "") -> Wish:
    return Wish(verb, NOW, "ann", "a bad mailing", via)


async def _only(trial: Trial) -> StoredRecipient:
    ((recipient,),) = [message.recipients for message in (await trial.store.find(EVERYTHING, None, 10)).messages]
    return recipient


async def hold_keeps_it_and_release_lets_it_go(trial: Trial) -> None:
    """Held mail says by whom and why, is due to nobody, and goes at once when it is released."""
    await trial.add("a@dest.example")

    await trial.store.change(EVERYTHING, _wish("hold"), None, 10)
    held = await _only(trial)
    assert (held.state, held.due) == ("held", NOW + HOLD_S)
    assert held.why == "held by ann: a bad mailing"
    assert (await trial.store.due(NOW + HOUR, 10)).domains == ()
    assert (await trial.store.change(EVERYTHING, _wish("retry"), None, 10)).recipients == ()

    await trial.restart()
    await trial.store.change(EVERYTHING, _wish("release"), None, 10)
    assert [each.domain for each in (await trial.store.due(NOW, 10)).domains] == ["dest.example"]
    records = await trial.store.records(-1, 10)
    assert [(each.kind, each.user) for each in records] == [(Kind.CHANGED, "ann"), (Kind.CHANGED, "ann")]


async def release_changes_only_what_is_held(trial: Trial) -> None:
    """What waits for its time is not hastened by a release."""
    _, (lease,) = await trial.add_leased("a@dest.example")
    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW + HOUR)])

    assert (await trial.store.change(EVERYTHING, _wish("release"), None, 10)).recipients == ()
    assert (await _only(trial)).due == NOW + HOUR


async def bounce_and_expire_end_it_with_a_report(trial: Trial) -> None:
    """The sender is told of what an operator returns or gives up, held or not; each has one terminal record."""
    for verb, state in (("bounce", State.BOUNCED), ("expire", State.EXPIRED)):
        await trial.add(f"{verb}@dest.example")
        await trial.add(f"held-{verb}@dest.example")
        await trial.store.change(Filter(recipient=f"held-{verb}@dest.example"), _wish("hold"), None, 10)
        changed = await trial.store.change(EVERYTHING, _wish(verb), None, 10)

        assert len(changed.recipients) == 2
        for _ in range(2):
            owed = await trial.store.lease_report(NOW)
            assert owed is not None
            assert [each.state for each in owed.recipients] == [state]
            assert "ann: a bad mailing" in owed.recipients[0].why
            await trial.store.file_report(owed, None, ())
    assert await trial.store.count() == (0, 0)
    kinds = [record.kind for record in await trial.store.records(-1, 100)]
    assert (kinds.count(Kind.BOUNCED), kinds.count(Kind.EXPIRED)) == (2, 2)


async def reroute_files_it_another_way(trial: Trial) -> None:
    """What is sent another way is due at once under that way, is still found under its domain, and can go back."""
    message, (lease,) = await trial.add_leased("a@dest.example", "b@other.example")
    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW + HOUR)])
    via = send_via("dest.example", "smtp.example:587")

    await trial.store.change(Filter(domain="dest.example"), _wish("reroute", "smtp.example:587"), None, 10)
    await trial.restart()

    assert [each.domain for each in (await trial.store.due(NOW, 10)).domains] == [via]
    assert len((await trial.store.find(Filter(domain="dest.example"), None, 10)).messages) == 1
    (lease,) = await trial.store.lease([via], NOW, 10)
    assert (lease.id, [each.domain for each in lease.recipients]) == (message.id, [via])
    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW + HOUR)])
    await trial.store.change(Filter(domain="dest.example"), _wish("reroute"), None, 10)
    assert [each.domain for each in (await trial.store.due(NOW, 10)).domains] == ["dest.example"]


async def reroute_leaves_a_hold_alone(trial: Trial) -> None:
    """Held mail stays held, and goes the new way when it is released."""
    await trial.add("a@dest.example")
    await trial.store.change(EVERYTHING, _wish("hold"), None, 10)

    await trial.store.change(EVERYTHING, _wish("reroute", "mx"), None, 10)

    held = await _only(trial)
    assert (held.state, held.domain) == ("held", send_via("dest.example", "mx"))


async def wishes_are_fulfilled_when_the_attempt_defers(trial: Trial) -> None:
    """What is said to mail that is being tried holds if the attempt does not end it."""
    for verb in VERBS:
        message, (lease,) = await trial.add_leased(f"{verb}@dest.example")
        changed = await trial.store.change(Filter(id=message.id), _wish(verb, "mx"), None, 10)
        assert (changed.recipients, changed.wished) == ((), ((message.id, 0),))
        await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW + HOUR)])

    states = await trial.states()
    assert states == {
        "retry@dest.example": "deferred",
        "hold@dest.example": "held",
        "release@dest.example": "deferred",
        "bounce@dest.example": "bounced",
        "expire@dest.example": "expired",
        "reroute@dest.example": "deferred",
    }
    found = (await trial.store.find(Filter(recipient="reroute@dest.example"), None, 10)).messages
    assert found[0].recipients[0].domain == send_via("dest.example", "mx")
    assert {each.domain for each in (await trial.store.due(NOW, 10)).domains} == {
        "dest.example",
        send_via("dest.example", "mx"),
    }


async def delivery_wins_over_any_wish(trial: Trial) -> None:
    """What the host took is relayed, whatever was said meanwhile."""
    for verb in VERBS:
        message, (lease,) = await trial.add_leased(f"{verb}@dest.example")
        await trial.store.change(Filter(id=message.id), _wish(verb, "mx"), None, 10)
        await trial.store.settle(trial.relayed([lease]))

    assert await trial.store.count() == (0, 0)
    assert [each.kind for each in await trial.store.records(-1, 100)] == [Kind.RELAYED] * len(VERBS)


async def dry_run_changes_nothing(trial: Trial) -> None:
    """It gives what the same word would change, and what is being tried, and leaves all as it is."""
    one = await trial.add("a@dest.example")
    two, _ = await trial.add_leased("b@dest.example")
    for verb in VERBS:
        foreseen = await trial.store.change(EVERYTHING, _wish(verb, "mx"), None, 10, is_dry_run=True)
        assert foreseen.recipients == (() if verb == "release" else ((one.id, 0),))
        assert foreseen.wished == ((two.id, 0),)

    assert await trial.states() == {"a@dest.example": "deferred", "b@dest.example": "leased"}
    assert await trial.store.records(-1, 10) == ()
    assert [each.domain for each in (await trial.store.due(NOW, 10)).domains] == ["dest.example"]


async def filters_by_age_reply_state_and_sender(trial: Trial) -> None:
    """What an operator looks for is found by what is known of it."""
    old = trial.message("old@dest.example", received_at=NOW - HOUR)
    await trial.store.add(old, ())
    _, (lease,) = await trial.add_leased("busy@dest.example")
    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW + HOUR)])
    await trial.store.add(trial.message("c@x_y.example", reverse_path="Bob@Corp.example"), ())
    await trial.add("held@dest.example")
    await trial.store.change(Filter(recipient="held@dest.example"), _wish("hold"), None, 10)

    async def found(which: Filter) -> set[str]:
        page = await trial.store.find(which, None, 100)
        return {each.address for message in page.messages for each in message.recipients}

    assert await found(Filter(received_before=NOW)) == {"old@dest.example"}
    assert await found(Filter(reply="SO BE IT")) == {"busy@dest.example"}
    assert await found(Filter(reply="A Bad Mailing")) == {"held@dest.example"}
    assert await found(Filter(state="held")) == {"held@dest.example"}
    assert await found(Filter(sender_domain="corp.EXAMPLE")) == {"c@x_y.example"}
    assert await found(Filter(sender_domain="c%")) == set()
    assert await found(Filter(sender="bob@corp.example")) == {"c@x_y.example"}
    assert await found(Filter(domains=("x_y.example", "nowhere.example"))) == {"c@x_y.example"}
    assert len((await trial.store.change(Filter(reply="so be it"), _wish("hold"), None, 10)).recipients) == 1


SCENARIOS = (
    hold_keeps_it_and_release_lets_it_go,
    release_changes_only_what_is_held,
    bounce_and_expire_end_it_with_a_report,
    reroute_files_it_another_way,
    reroute_leaves_a_hold_alone,
    wishes_are_fulfilled_when_the_attempt_defers,
    delivery_wins_over_any_wish,
    dry_run_changes_nothing,
    filters_by_age_reply_state_and_sender,
)
