# SPDX-License-Identifier: MIT
"""Scenarios: what waits for a host to work again is found and let go; what is known about hosts is kept whole."""

import asyncio

from smarthost.mail.record import Kind, Record
from smarthost.mail.settlement import State
from smarthost.queue.leases import Wish
from smarthost.queue.store import DueDomain, DueScan
from smarthost.testing.stores.trial import EVERYTHING, HOUR, NOW, Trial, numbers

DAY = 24 * HOUR
LATER = NOW + HOUR


async def _defer(trial: Trial, address: str, *, due: float = LATER, awaits: bool = True) -> str:
    """Have a new message deferred, by default because no host could be asked; gives its id."""
    message, (lease,) = await trial.add_leased(address)
    settlement = trial.settlement(lease, State.DEFERRED, due=due, counted=not awaits, awaits=awaits)
    await trial.store.settle([settlement])
    return message.id


def _of_host(trial: Trial, kind: Kind = Kind.HOST_OPEN, at: float = NOW) -> Record:
    """Give the next record, which is about a host."""
    return Record(trial.next_seq(), kind, at, host="mx.dest.example", why="it refused", next_attempt_at=at + 60)


async def domains_that_await_a_host_are_named(trial: Trial) -> None:
    """Only what is waiting for a host, and for longer than now, is named; its domain once; at most as many as asked."""
    for name in ("one", "two", "two", "three"):
        await _defer(trial, f"a@{name}.example")
    await _defer(trial, "a@greylisted.example", awaits=False)
    await _defer(trial, "a@due.example", due=NOW)
    await trial.add("a@new.example")

    for _ in range(2):
        named = await trial.store.awaiting(NOW, 10)
        assert sorted(named) == ["one.example", "three.example", "two.example"]
        few = await trial.store.awaiting(NOW, 2)
        assert len(set(few)) == 2
        assert set(few) < set(named)
        assert await trial.store.awaiting(LATER, 10) == ()
        await trial.crash()


async def operator_sees_what_awaits_a_host(trial: Trial) -> None:
    """Whoever looks at the queue sees which mail goes sooner than its time says; mail being tried awaits nothing."""
    await _defer(trial, "waiting@dest.example")
    await _defer(trial, "greylisted@dest.example", awaits=False)
    await trial.add("new@dest.example")
    _, (lease,) = await trial.add_leased("held@dest.example")
    await trial.store.settle([trial.settlement(lease, State.HELD, due=LATER, awaits=True)])

    assert await _seen_awaiting(trial) == ["waiting@dest.example"]
    await trial.crash()
    assert await _seen_awaiting(trial) == ["waiting@dest.example"]
    leases = await trial.store.sweep(NOW + DAY, 10)
    assert await _seen_awaiting(trial) == []
    for lease in leases:
        trial.store.give_back(lease)
    assert await _seen_awaiting(trial) == ["waiting@dest.example"]
    await trial.store.release(["dest.example"], NOW)
    assert await _seen_awaiting(trial) == []


async def _seen_awaiting(trial: Trial) -> list[str]:
    """Give the addresses that `find` tells to await a host."""
    page = await trial.store.find(EVERYTHING, None, 100)
    return [each.address for message in page.messages for each in message.recipients if each.awaits_host]


async def what_has_ended_or_is_held_awaits_no_host(trial: Trial) -> None:
    """Mail that is held, or that only owes a report, is not waiting for a host."""
    _, (lease,) = await trial.add_leased("a@dest.example", "b@dest.example")
    await trial.store.settle(
        [
            trial.settlement(lease, State.HELD, due=LATER, awaits=True, only={0}),
            trial.settlement(lease, State.EXPIRED, due=LATER, awaits=True, owed=True, only={1}),
        ]
    )

    assert await trial.store.awaiting(NOW, 10) == ()
    assert await trial.store.release(["dest.example"], NOW) == 0
    assert await trial.states() == {"a@dest.example": "held", "b@dest.example": "expired"}


async def release_wakes_only_what_awaits_a_host(trial: Trial) -> None:
    """When a host works again, what waited for it is due at once; what its hosts asked to wait, and others, wait on."""
    waiting = await _defer(trial, "waiting@dest.example")
    await _defer(trial, "greylisted@dest.example", awaits=False)
    await _defer(trial, "waiting@other.example")

    released = await trial.store.release(["dest.example"], NOW + 1)

    assert released == 1
    assert await trial.store.due(NOW + 1, 10) == DueScan((DueDomain("dest.example", NOW + 1),), LATER)
    await trial.crash()
    assert await trial.store.due(NOW + 1, 10) == DueScan((DueDomain("dest.example", NOW + 1),), LATER)
    assert await trial.store.awaiting(NOW + 1, 10) == ("other.example",)
    leases = await trial.store.lease(["dest.example", "other.example"], NOW + 1, 10)
    assert numbers(leases) == [(waiting, 0)]
    assert [each.attempts for lease in leases for each in lease.recipients] == [0]
    assert await trial.kinds() == [Kind.DEFERRED] * 3, "releasing leaves no record of its own"


async def second_release_finds_nothing(trial: Trial) -> None:
    """Releasing again is harmless; so is releasing nobody."""
    await _defer(trial, "a@dest.example")

    assert await trial.store.release(["dest.example", "other.example", "dest.example"], NOW) == 1
    assert await trial.store.release(["dest.example"], NOW) == 0
    assert await trial.store.release(["nowhere.example"], NOW) == 0
    assert await trial.store.release([], NOW) == 0
    assert (await trial.store.due(NOW, 10)).domains == (DueDomain("dest.example", NOW),)


async def release_delays_nothing(trial: Trial) -> None:
    """What is due already keeps its place."""
    await _defer(trial, "a@dest.example", due=NOW - 5)

    assert await trial.store.release(["dest.example"], NOW) == 0
    assert (await trial.store.due(NOW, 10)).domains == (DueDomain("dest.example", NOW - 5),)


async def next_deferral_says_anew_what_is_awaited(trial: Trial) -> None:
    """Who was asked at last and told us to wait awaits no host any more; who finds none again awaits one again."""
    await _defer(trial, "a@dest.example")
    for awaits in (False, True):
        (lease,) = await trial.store.lease(["dest.example"], LATER, 10)
        await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=LATER + awaits, awaits=awaits)])

        assert await trial.store.awaiting(NOW, 10) == (("dest.example",) if awaits else ())
    assert await trial.store.release(["dest.example"], NOW) == 1


async def release_during_an_attempt_is_overruled_by_its_outcome(trial: Trial) -> None:
    """What is being worked on when its host comes back is settled as its attempt ended."""
    await _defer(trial, "a@dest.example")
    await _defer(trial, "b@dest.example")
    first, second = await trial.store.sweep(NOW + DAY, 10)
    assert await trial.store.awaiting(NOW, 10) == ("dest.example",)

    await trial.store.release(["dest.example"], NOW)
    await trial.store.settle([trial.settlement(first, State.DEFERRED, due=LATER), *trial.relayed([second])])

    assert await trial.store.due(NOW, 10) == DueScan((), LATER)
    assert (await trial.kinds())[2:] == [Kind.DEFERRED, Kind.RELAYED]


async def retry_does_not_end_the_waiting_for_a_host(trial: Trial) -> None:
    """An operator who moves a retry changes its time and nothing else."""
    await _defer(trial, "a@dest.example")
    await trial.store.change(EVERYTHING, Wish("retry", NOW + 60), None, 10)

    assert await trial.store.awaiting(NOW, 10) == ("dest.example",)
    assert await trial.store.release(["dest.example"], NOW + 1) == 1


async def long_queue_is_released_whole(trial: Trial) -> None:
    """However many wait for a host, each is counted and released once, whoever asks at the same time."""
    addresses = [f"user{n}@dest.example" for n in range(500)]
    settlements = []
    for _ in range(9):
        _, leases = await trial.add_leased(*addresses)
        settlements += [trial.settlement(lease, State.DEFERRED, due=LATER, awaits=True) for lease in leases]
    await trial.store.settle(settlements)

    released = await asyncio.gather(*[trial.store.release(["dest.example"], NOW) for _ in range(2)])

    assert sum(released) == 4500
    assert await trial.store.awaiting(NOW, 10) == ()
    assert await trial.store.due(NOW, 10) == DueScan((DueDomain("dest.example", NOW),), None)


async def report_tells_what_its_recipients_await(trial: Trial) -> None:
    """A report about mail that is only late says that of its recipients which was settled."""
    _, (lease,) = await trial.add_leased("a@dest.example")
    settlement = trial.settlement(lease, State.DEFERRED, due=LATER, owed=True, awaits=True)
    await trial.store.settle([settlement])

    owed = await trial.store.lease_report(NOW)

    assert owed is not None
    assert owed.recipients == settlement.recipients


async def notes_are_kept(trial: Trial) -> None:
    """Small named values survive, the last one written counts, and an empty one removes the name."""
    await trial.store.save_notes({"health": b"\x00first\xff", "gone": b"x", "other": b"1"})
    trial.store.save_notes({"gone": b""})
    trial.store.save_notes({"health": b""})
    await trial.store.save_notes({"health": b"second\x00", "never there": b""})

    for _ in range(2):
        assert await trial.store.load_notes("health") == {"health": b"second\x00"}
        assert await trial.store.load_notes("gone") == {}
        assert await trial.store.load_notes("never") == {}
        await trial.crash()


async def notes_are_found_by_the_start_of_their_names(trial: Trial) -> None:
    """A prefix means the very characters it has."""
    names = ("a_b", "aXb", "a%", "a", "A", "b", "a_b\U0010ffff", "ä", "host/mx.example/25", "host/MX.example", "host0")
    await trial.store.save_notes({name: name.encode() for name in names})

    for prefix in ("a_", "a", "A", "a%", "host/", "host/mx", "ä", "a_b\U0010ffff", "z", "_", "%"):
        expected = {name: name.encode() for name in names if name.startswith(prefix)}
        assert await trial.store.load_notes(prefix) == expected


async def notes_are_written_as_they_were_when_handed_in(trial: Trial) -> None:
    """Whoever goes on changing a note while it is being written does not change what is written."""
    notes = {"x": b"1"}
    saving = trial.store.save_notes(notes)
    notes["x"] = b"2"
    notes["y"] = b"2"
    await saving

    assert await trial.store.load_notes("x") == {"x": b"1"}
    assert await trial.store.load_notes("y") == {}


async def notes_come_with_their_records(trial: Trial) -> None:
    """What is known about a host, and the records of how it came about, survive together and keep every field."""
    records = [_of_host(trial), _of_host(trial, Kind.HOST_HALF_OPEN, NOW + DAY), _of_host(trial, Kind.HOST_CLOSED)]
    await trial.store.save_notes({"host": b"open"}, records)
    await trial.store.save_notes({}, [_of_host(trial)])
    await trial.store.save_notes({})

    await trial.crash()

    assert await trial.store.load_notes("h") == {"host": b"open"}
    found = await trial.all_records()
    assert found[:3] == records
    assert len(found) == 4
    assert trial.store.last_number >= found[-1].seq
    assert await trial.store.count() == (0, 0)


async def crash_never_parts_notes_from_their_records(trial: Trial) -> None:
    """Whatever of a series of changes a crash leaves, the note is the one that its last record tells of."""
    records = []
    for n in range(30):
        records.append(_of_host(trial))
        saving = trial.store.save_notes({"step": b"%d" % n, "other": b"%d" % n}, [records[-1]])
        if n == 10:
            await saving

    await trial.crash()

    notes = await trial.store.load_notes("step")
    step = int(notes["step"])
    assert step >= 10
    assert await trial.store.load_notes("other") == {"other": notes["step"]}
    assert await trial.all_records() == records[: step + 1]


async def saving_again_doubles_no_record(trial: Trial) -> None:
    """After an error nobody knows whether notes were saved: saving them again with their records is harmless."""
    records = [_of_host(trial), _of_host(trial)]
    for _ in range(3):
        await trial.store.save_notes({"host": b"open"}, records)

    assert await trial.all_records() == records
    await trial.crash()
    await trial.store.save_notes({"host": b"open"}, records)
    assert await trial.all_records() == records


async def records_of_hosts_come_in_order_among_others(trial: Trial) -> None:
    """A reader of records by cursor sees those of hosts where they happened."""
    expected = []
    for at in (NOW, NOW + 1, NOW + DAY):
        _, leases = await trial.add_leased("a@dest.example")
        (settlement,) = trial.relayed(leases)
        await trial.store.settle([settlement])
        record = _of_host(trial, at=at)
        await trial.store.save_notes({"host": b"x"}, [record])
        expected += [*settlement.records, record]

    seen: list[Record] = []
    while found := await trial.store.records(seen[-1].seq if seen else 0, 2):
        seen += found

    assert seen == expected


SCENARIOS = (
    domains_that_await_a_host_are_named,
    operator_sees_what_awaits_a_host,
    what_has_ended_or_is_held_awaits_no_host,
    release_wakes_only_what_awaits_a_host,
    second_release_finds_nothing,
    release_delays_nothing,
    next_deferral_says_anew_what_is_awaited,
    release_during_an_attempt_is_overruled_by_its_outcome,
    retry_does_not_end_the_waiting_for_a_host,
    long_queue_is_released_whole,
    report_tells_what_its_recipients_await,
    notes_are_kept,
    notes_are_found_by_the_start_of_their_names,
    notes_are_written_as_they_were_when_handed_in,
    notes_come_with_their_records,
    crash_never_parts_notes_from_their_records,
    saving_again_doubles_no_record,
    records_of_hosts_come_in_order_among_others,
)
