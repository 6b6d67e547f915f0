# SPDX-License-Identifier: MIT
"""Scenarios: what is due is found, and nobody works on a recipient that somebody else works on."""

import asyncio

from smarthost.mail.content import InlineContent
from smarthost.mail.message import Message
from smarthost.mail.settlement import State
from smarthost.queue.store import DueDomain, DueScan
from smarthost.testing.stores.trial import HOUR, NOW, Trial, numbers


async def _defer(trial: Trial, address: str, due: float) -> Message:
    """Have one recipient wait until `due`."""
    message, (lease,) = await trial.add_leased(address)
    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=due)])
    return message


async def fresh_mail_is_leased_to_its_adder(trial: Trial) -> None:
    """Who adds a message may work on it at once, with its content at hand; nobody else sees it."""
    message = trial.message("a@dest.example", "b@other.example")
    (lease,) = await trial.store.add(message, ["dest.example"])

    assert [(each.n, each.address) for each in lease.recipients] == [(0, "a@dest.example")]
    assert isinstance(lease.content, InlineContent)
    assert lease.content == message.content
    assert (lease.prefix, lease.octets, lease.received_at) == (message.prefix, message.content.octets, NOW)
    assert await trial.store.due(NOW, 10) == DueScan((DueDomain("other.example", NOW),), None)
    assert numbers(await trial.store.lease(["dest.example", "other.example"], NOW, 10)) == [(message.id, 1)]


async def fresh_leases_have_at_most_a_hundred_recipients(trial: Trial) -> None:
    """Leases of a new message are cut at a hundred recipients, across domains."""
    texts = [f"user{n}@d{n % 3}.example" for n in range(250)]
    message, leases = await trial.add_leased(*texts)

    assert [len(lease.recipients) for lease in leases] == [100, 100, 50]
    assert numbers(leases) == [(message.id, n) for n in range(250)]


async def unleased_mail_is_due_when_it_arrives(trial: Trial) -> None:
    """A message without leases waits for whoever asks what is due."""
    await trial.add("a@dest.example")

    assert await trial.store.due(NOW - 1, 10) == DueScan((), NOW)
    assert await trial.store.due(NOW, 10) == DueScan((DueDomain("dest.example", NOW),), None)


async def two_leases_never_share_a_recipient(trial: Trial) -> None:
    """However many ask at the same time, each recipient is worked on once, nobody goes short, and all are served."""
    for _ in range(20):
        await trial.add("a@dest.example", "b@dest.example")
    adds = [trial.store.add(trial.message("c@dest.example"), ["dest.example"]) for _ in range(5)]
    asked = [trial.store.lease(["dest.example"], NOW, 3) for _ in range(6)]
    found = await asyncio.gather(*asked)
    fresh = [lease for adding in adds for lease in await adding]
    late = await trial.store.lease(["dest.example"], NOW, 3)

    assert [len(leases) for leases in found] == [3] * 6
    taken = numbers([*[lease for leases in found for lease in leases], *late, *fresh])
    assert len(taken) == len(set(taken)) == 45
    assert await trial.store.due(NOW, 10) == DueScan((), None)


async def earliest_due_comes_first(trial: Trial) -> None:
    """What waited longest is leased first, whatever its domain."""
    first = await _defer(trial, "a@one.example", NOW + 10)
    third = await _defer(trial, "b@one.example", NOW + 30)
    second = await _defer(trial, "c@two.example", NOW + 20)

    leases = await trial.store.lease(["two.example", "one.example"], NOW + HOUR, 2)
    assert [lease.id for lease in leases] == [first.id, second.id]
    leases = await trial.store.lease(["two.example", "one.example"], NOW + HOUR, 2)
    assert [lease.id for lease in leases] == [third.id]


async def what_is_not_due_is_not_leased(trial: Trial) -> None:
    """Leases hold recipients whose time has come, in the domains asked for, and no others."""
    message, (lease,) = await trial.add_leased("a@dest.example", "b@dest.example", "c@other.example")
    await trial.store.settle(
        [
            trial.settlement(lease, State.DEFERRED, due=NOW + 10, only={0, 2}),
            trial.settlement(lease, State.DEFERRED, due=NOW + 20, only={1}),
        ]
    )

    assert await trial.store.lease(["dest.example", "other.example"], NOW + 5, 10) == ()
    assert numbers(await trial.store.lease(["dest.example"], NOW + 10, 10)) == [(message.id, 0)]
    assert numbers(await trial.store.lease(["dest.example"], NOW + 20, 10)) == [(message.id, 1)]


async def domains_asked_for_together_share_a_lease(trial: Trial) -> None:
    """A message for several domains of one destination is handed over once."""
    message = await trial.add("a@one.example", "b@two.example", "c@three.example")

    leases = await trial.store.lease(["one.example", "three.example"], NOW, 10)

    assert [numbers([lease]) for lease in leases] == [[(message.id, 0), (message.id, 2)]]


async def fewer_leases_than_asked_for_means_no_more(trial: Trial) -> None:
    """Whoever gets less than they asked for need not ask again: everything due was leased."""
    for _ in range(3):
        await trial.add(*[f"user{n}@dest.example" for n in range(150)])

    counts = []
    while leases := await trial.store.lease(["dest.example"], NOW, 4):
        counts.append(len(leases))

    assert counts == [4, 2]
    assert await trial.store.due(NOW, 10) == DueScan((), None)


async def leases_end_with_a_crash(trial: Trial) -> None:
    """What somebody worked on at the crash is due again."""
    message, _ = await trial.add_leased("a@dest.example")
    other = await trial.add("b@dest.example")
    await trial.store.lease(["dest.example"], NOW, 10)

    await trial.crash()

    leases = await trial.store.lease(["dest.example"], NOW, 10)
    assert numbers(leases) == [(message.id, 0), (other.id, 0)]


async def leases_end_with_close(trial: Trial) -> None:
    """Closing the store gives all leases back."""
    message, _ = await trial.add_leased("a@dest.example")

    await trial.restart()

    assert numbers(await trial.store.lease(["dest.example"], NOW, 10)) == [(message.id, 0)]


async def given_back_lease_is_due_again(trial: Trial) -> None:
    """Giving a lease back, or a part of it, changes nothing but that others may have it."""
    message, (lease,) = await trial.add_leased("a@dest.example", "b@dest.example")
    trial.store.give_back(lease)
    trial.store.give_back(lease)

    assert (await trial.store.due(NOW, 10)).domains == (DueDomain("dest.example", NOW),)
    (again,) = await trial.store.lease(["dest.example"], NOW, 10)
    assert numbers([again]) == [(message.id, 0), (message.id, 1)]
    assert [each.attempts for each in again.recipients] == [0, 0]


async def due_names_the_earliest_domains_first(trial: Trial) -> None:
    """What is due is named in order of due time, and the next time after that is told."""
    for second, name in ((30, "c"), (10, "a"), (20, "b"), (500, "d")):
        await _defer(trial, f"x@{name}.example", NOW + second)

    scan = await trial.store.due(NOW + 100, 10)
    assert [due.domain for due in scan.domains] == ["a.example", "b.example", "c.example"]
    assert [due.due for due in scan.domains] == [NOW + 10, NOW + 20, NOW + 30]
    assert scan.next_at == NOW + 500
    scan = await trial.store.due(NOW + 100, 2)
    assert [due.domain for due in scan.domains] == ["a.example", "b.example"]
    assert scan.next_at == NOW + 30, "there is more than was asked for"


async def next_time_is_told_for_domains_that_are_due(trial: Trial) -> None:
    """A domain with something due now and something due later is not forgotten for later."""
    await _defer(trial, "x@dest.example", NOW + 10)
    await _defer(trial, "y@dest.example", NOW + 99)

    scan = await trial.store.due(NOW + 10, 10)

    assert scan == DueScan((DueDomain("dest.example", NOW + 10),), NOW + 99)


async def leased_recipients_are_not_due(trial: Trial) -> None:
    """A domain is as due as its earliest recipient that nobody works on."""
    await _defer(trial, "x@dest.example", NOW + 10)
    await _defer(trial, "y@dest.example", NOW + 20)
    await trial.store.lease(["dest.example"], NOW + 10, 10)

    assert await trial.store.due(NOW + 10, 10) == DueScan((), NOW + 20)
    assert await trial.store.due(NOW + 20, 10) == DueScan((DueDomain("dest.example", NOW + 20),), None)


async def many_domains_are_named_in_portions(trial: Trial) -> None:
    """With more domains due than asked for, serving those named brings up the others."""
    texts = [f"user@d{n}.example" for n in range(300)]
    for start in range(0, 300, 100):
        await trial.add(*texts[start : start + 100])

    seen: list[str] = []
    while (scan := await trial.store.due(NOW, 70)).domains:
        assert (scan.next_at is not None) == (len(seen) + len(scan.domains) < 300)
        seen += [due.domain for due in scan.domains]
        await trial.store.lease([due.domain for due in scan.domains], NOW, 100)

    assert sorted(seen) == sorted([f"d{n}.example" for n in range(300)])


async def bare_postmaster_has_no_domain_but_is_due(trial: Trial) -> None:
    """The one address without a domain is delivered like any other."""
    message = await trial.add("@")  # Trial derives the domain "" from it
    assert message.envelope.recipients[0].domain == ""
    await trial.add("a@dest.example")

    scan = await trial.store.due(NOW, 10)

    assert sorted([due.domain for due in scan.domains]) == ["", "dest.example"]
    assert numbers(await trial.store.lease([""], NOW, 10)) == [(message.id, 0)]


async def sweep_leases_what_is_old(trial: Trial) -> None:
    """Old mail is found whatever its due time, oldest first, but not what is held or worked on."""
    oldest = await trial.add("a@dest.example", "b@other.example", received_at=NOW - 300)
    waiting, (lease,) = await trial.add_leased("c@dest.example", "d@dest.example", "e@dest.example")
    await trial.store.settle(
        [
            trial.settlement(lease, State.DEFERRED, due=NOW + 9999, only={0}),
            trial.settlement(lease, State.HELD, due=NOW + 9999, only={1}),
        ]
    )
    await trial.add("f@dest.example", received_at=NOW + 50)

    assert numbers(await trial.store.sweep(NOW - 300, 10)) == []
    first = await trial.store.sweep(NOW + 1, 1)
    assert numbers(first) == [(oldest.id, 0), (oldest.id, 1)]
    assert numbers(await trial.store.sweep(NOW + 1, 10)) == [(waiting.id, 0)]
    assert await trial.store.sweep(NOW + 1, 10) == ()
    for each in first:
        trial.store.give_back(each)
    assert numbers(await trial.store.sweep(NOW + 1, 10)) == numbers(first)


async def sweep_counts_messages_not_leases(trial: Trial) -> None:
    """All recipients of a swept message are leased, in leases of at most a hundred."""
    await trial.add(*[f"user{n}@dest.example" for n in range(250)], received_at=NOW - 300)
    await trial.add("other@dest.example", received_at=NOW - 200)

    leases = await trial.store.sweep(NOW, 1)

    assert [len(lease.recipients) for lease in leases] == [100, 100, 50]


SCENARIOS = (
    fresh_mail_is_leased_to_its_adder,
    fresh_leases_have_at_most_a_hundred_recipients,
    unleased_mail_is_due_when_it_arrives,
    two_leases_never_share_a_recipient,
    earliest_due_comes_first,
    what_is_not_due_is_not_leased,
    domains_asked_for_together_share_a_lease,
    fewer_leases_than_asked_for_means_no_more,
    leases_end_with_a_crash,
    leases_end_with_close,
    given_back_lease_is_due_again,
    due_names_the_earliest_domains_first,
    next_time_is_told_for_domains_that_are_due,
    leased_recipients_are_not_due,
    many_domains_are_named_in_portions,
    bare_postmaster_has_no_domain_but_is_due,
    sweep_leases_what_is_old,
    sweep_counts_messages_not_leases,
)
