# SPDX-License-Identifier: MIT
"""Delays and debts where this store differs from the reference: what shares a batch, and what a sweep remembers."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from smarthost.backends.sqlite import reads, taking
from smarthost.backends.sqlite.store import SqliteStore
from smarthost.mail.lease import Lease
from smarthost.mail.record import Kind
from smarthost.mail.settlement import OwedReport, State
from smarthost.testing.stores.trial import HOUR, NOW, StoreMaker, Trial, numbers

pytestmark = pytest.mark.asyncio


class NoMaker:
    """These tests open by themselves."""

    make = crash = restart = set_full = None


class Delays(Trial):
    """A trial of the store on SQLite."""

    store: SqliteStore

    async def delayed(self, *addresses: str) -> tuple[Lease, OwedReport]:
        """Have a message wait that owes a report of that; lease it, and the report."""
        _, (lease,) = await self.add_leased(*addresses)
        await self.store.settle([self.settlement(lease, State.DEFERRED, due=NOW, owed=True, told=True)])
        (again,) = await self.store.lease(["dest.example"], NOW, 10)
        owed = await self.store.lease_report(NOW + HOUR)
        assert owed is not None
        return again, owed


@pytest_asyncio.fixture
async def trial(tmp_path: Path) -> AsyncIterator[Delays]:
    store = SqliteStore(tmp_path / "state")
    await store.open()
    maker: StoreMaker = NoMaker()  # type: ignore[assignment]
    yield Delays(maker, store)
    await store.close()


@pytest.mark.parametrize("is_report_first", [True, False])
async def test_bounce_in_the_batch_of_a_delay_report_is_still_owed(trial: Delays, is_report_first: bool) -> None:
    """Whichever of the two is enqueued first, the delay is reported before the bounce, and the bounce after it."""
    lease, owed = await trial.delayed("a@dest.example")
    bounce = [trial.settlement(lease, State.BOUNCED, owed=True)]
    report = trial.message(owed.reverse_path, reverse_path="")
    records = [trial.record(lease, owed.recipients[0], NOW)]
    await trial.store.add(trial.message("x@dest.example"), ())

    def file() -> None:
        enqueued.append(trial.store.file_report(owed, report, records))

    def settle() -> None:
        enqueued.append(trial.store.settle(bounce))

    enqueued: list[object] = []
    for enqueue in (file, settle) if is_report_first else (settle, file):
        enqueue()
    await asyncio.gather(*enqueued)  # type: ignore[call-overload]

    assert (await trial.states())["sender@origin.example"] == "deferred"
    debt = await trial.store.lease_report(NOW + HOUR)
    assert debt is not None
    assert [each.state for each in debt.recipients] == [State.BOUNCED]
    assert sorted(await trial.kinds(), key=lambda kind: kind.value) == [Kind.BOUNCED, Kind.DEFERRED, Kind.DEFERRED]


async def test_two_reports_in_a_batch_pay_their_own_debts(trial: Delays) -> None:
    """A report that is not true any more does not keep the other from being filed, nor is it filed with it."""
    _, first = await trial.delayed("a@dest.example")
    lease, second = await trial.delayed("b@dest.example", "c@dest.example")
    await trial.store.settle([trial.settlement(lease, State.RELAYED, only={1})])
    reports = [trial.message(f"{n}@origin.example", reverse_path="") for n in range(2)]

    await asyncio.gather(
        trial.store.file_report(second, reports[1], [trial.record(lease, second.recipients[0], NOW)]),
        trial.store.file_report(first, reports[0], ()),
    )

    assert set(await trial.states()) == {"a@dest.example", "b@dest.example", "0@origin.example"}
    owed = await trial.store.lease_report(NOW + HOUR)
    assert owed is not None
    assert (owed.id, [each.n for each in owed.recipients]) == (second.id, [0])
    assert await trial.store.lease_report(NOW + HOUR) is None


async def test_message_that_only_owed_a_report_goes_with_its_content(trial: Delays) -> None:
    """When the last debt is paid the message is gone, its content too, also where that is a file."""
    content = b"x" * 3_000_000
    message = trial.message("a@dest.example", content=content)
    (lease,) = await trial.store.add(message, ["dest.example"])
    await trial.store.settle([trial.settlement(lease, State.RELAYED, owed=True)])
    files = trial.store._path / "content"
    assert [path.name for path in files.iterdir()] == [message.id]
    owed = await trial.store.lease_report(NOW)
    assert owed is not None

    await trial.store.file_report(owed, None, ())
    await trial.store.close()

    assert list(files.iterdir()) == []


@pytest.mark.parametrize(("scan", "keys"), [(1, 1), (3, 2), (5_000, 500)])
async def test_sweep_finds_everything_whatever_its_portions(
    trial: Delays, monkeypatch: pytest.MonkeyPatch, scan: int, keys: int
) -> None:
    """However little is read at a time, all of it is found; what came to nothing is found again, and no more."""
    monkeypatch.setattr(taking, "_KEYS", keys)
    monkeypatch.setattr(reads, "SCAN_DELAYED", scan)
    messages = [await trial.add("a@dest.example") for _ in range(12)]
    (busy,) = await trial.store.lease(["dest.example"], NOW, 1)
    expected = [(message.id, 0) for message in messages[1:]]

    for _ in range(2):
        found = [*await trial.store.sweep_delayed(NOW + 1, 7), *await trial.store.sweep_delayed(NOW + 1, 7)]
        assert numbers(found) == expected
        assert await trial.store.sweep_delayed(NOW + 1, 7) == ()
        for lease in found:
            trial.store.give_back(lease)
    trial.store.give_back(busy)
    assert sorted(numbers(await trial.store.sweep_delayed(NOW + 1, 20))) == [(message.id, 0) for message in messages]


async def test_sweep_remembers_only_what_it_must_look_at_again(trial: Delays) -> None:
    """What was told, or is gone, is forgotten: memory does not grow with the mail that comes by."""
    for _ in range(5):
        await trial.add("a@dest.example")
    told, relayed, back, *others = await trial.store.sweep_delayed(NOW + 1, 10)
    await trial.store.settle([trial.settlement(told, State.DEFERRED, counted=False, told=True)])
    await trial.store.settle(trial.relayed([relayed]))
    trial.store.give_back(back)
    assert len(trial.store._delays.again) == 5

    (found,) = await trial.store.sweep_delayed(NOW + 1, 10)

    assert found.id == back.id
    assert len(trial.store._delays.again) == 1 + len(others)


async def test_cancelled_sweep_leases_nothing(trial: Delays) -> None:
    """Who stops waiting for a sweep leaves nothing leased, and the next one finds all of it."""
    for _ in range(3):
        await trial.add("a@dest.example")
    (lease,) = await trial.store.sweep_delayed(NOW + 1, 1)
    trial.store.give_back(lease)
    sweeping = asyncio.ensure_future(trial.store.sweep_delayed(NOW + 1, 10))
    while not trial.store._leases.all() and not sweeping.done():
        await asyncio.sleep(0)
    sweeping.cancel()
    await asyncio.gather(sweeping, return_exceptions=True)

    assert sweeping.cancelled()
    assert len(await trial.store.sweep_delayed(NOW + 1, 10)) == 3


async def test_message_of_an_unknown_commit_is_looked_for(trial: Delays) -> None:
    """When the child dies nobody knows if a message was filed: the sweep looks for it though it has passed its time."""
    assert await trial.store.sweep_delayed(NOW + 1, 10) == ()
    adding = asyncio.ensure_future(trial.store.add(trial.message("a@dest.example"), ()))
    await asyncio.sleep(0)
    trial.store._commits.lost()
    await asyncio.gather(adding, return_exceptions=True)

    assert len(trial.store._delays.again) == 1
