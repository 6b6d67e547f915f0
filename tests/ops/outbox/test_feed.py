# SPDX-License-Identifier: MIT
"""No record is missed by who reads by cursor, however they come: with a real store, and many things at once."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from smarthost import Relay
from smarthost.backends.clock import SystemClock
from smarthost.backends.files import INLINE_OCTETS
from smarthost.backends.sqlite.store import SqliteStore
from smarthost.mail.address import Address, to_domain
from smarthost.mail.content import Content
from smarthost.mail.envelope import Envelope
from smarthost.mail.identity import IdSource
from smarthost.mail.message import Message
from smarthost.mail.record import Kind, Record
from smarthost.ops.outbox.carrier import Carrier
from smarthost.ports import Refused
from smarthost.queue.memory import MemoryStore
from smarthost.settle.record import record_acceptance
from smarthost.testing.clock import FakeClock
from smarthost.testing.stores.trial import NOW

pytestmark = [pytest.mark.asyncio, pytest.mark.slow]
MESSAGES = 150


class Collecting:
    """A receiver that keeps the numbers it gets."""

    def __init__(self) -> None:
        self.got: list[int] = []

    async def deliver(self, records: Sequence[Record]) -> int:
        self.got += [each.seq for each in records]
        return len(records)

    async def close(self) -> None:
        pass


async def test_who_follows_by_cursor_gets_every_record_once_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of hosts are saved a second after they were numbered, large content is synced first: none is missed."""
    large = b"Subject: large\r\n\r\n" + b"x" * 76 * 2000 + b"\r\n"
    assert len(large) > INLINE_OCTETS
    receiver = Collecting()
    at_once = SqliteStore.save_notes

    async def save_late(store: SqliteStore, notes: Mapping[str, bytes], records: Sequence[Record] = ()) -> None:
        if records:  # of hosts: overtaken by all that is committed meanwhile
            await asyncio.sleep(0.7)
        await at_once(store, notes, records)

    monkeypatch.setattr(SqliteStore, "save_notes", save_late)
    async with Relay(state_dir=tmp_path / "state", next_hop="127.0.0.1:1", hostname="relay.example.org") as relay:
        carrier = Carrier(
            "file", "file", "", receiver, relay, lambda: relay.store, lambda *_, **__: None, clock=SystemClock()
        )
        following = asyncio.ensure_future(carrier.carry_for_ever())
        while not await relay.store.load_notes("outbox/"):  # it begins at now
            await asyncio.sleep(0.01)

        async def hand_in(n: int) -> None:
            content = large if n % 10 == 0 else b"Subject: small\r\n\r\nx\r\n"
            await relay.submit(content, "ann@example.org", [f"r{n}@example.net", f"s{n}@example.net"])

        await asyncio.gather(*[hand_in(n) for n in range(MESSAGES)])
        with suppress(TimeoutError):  # what came by then is compared
            async with asyncio.timeout(30):
                while not await _is_at_rest(relay, receiver):
                    await asyncio.sleep(0.05)
        following.cancel()
        kept = await relay.store.records(0, 10_000)

    assert [each.seq for each in kept] == receiver.got
    kinds = {each.kind for each in kept}
    assert {Kind.ACCEPTED, Kind.HOST_OPEN} <= kinds


async def _is_at_rest(relay: Relay, receiver: Collecting) -> bool:
    """Is every message told of, and nothing on its way?"""
    kept = await relay.store.records(0, 10_000)
    accepted = sum(each.kind is Kind.ACCEPTED for each in kept)
    figures = relay.figures()
    quiet = accepted == MESSAGES and not figures["unsettled"] and not figures["attempts"]
    return quiet and any(each.kind is Kind.HOST_OPEN for each in kept) and len(receiver.got) >= len(kept)


async def test_the_horizon_stands_before_what_nobody_has_handed_over_yet(tmp_path: Path) -> None:
    """A host's record has its number before the store hears of it: until it is durable, nothing behind it is read."""
    async with Relay(state_dir=tmp_path / "state", next_hop="127.0.0.1:1", hostname="relay.example.org") as relay:
        delivery = relay._parts.delivery
        permit = delivery.health.admit("", "192.0.2.1")
        assert not isinstance(permit, Refused)
        permit.failed("connect", "connection refused")
        drawn = delivery._seqs.last

        assert drawn - 1 == relay.record_horizon
        while relay.record_horizon < drawn:
            await asyncio.sleep(0.01)
        assert [drawn] == [each.seq for each in await relay.records(0, 10)]


async def test_what_is_handed_over_and_not_durable_is_pending(tmp_path: Path) -> None:
    """A note's record, and the acceptance of large content, are in the store's hands until they are committed."""
    store = SqliteStore(tmp_path / "state")
    await store.open()
    try:
        assert store.lowest_pending() is None

        saving = store.save_notes({}, [Record(7, Kind.HOST_OPEN, NOW), Record(9, Kind.HOST_CLOSED, NOW)])
        assert 7 == store.lowest_pending()
        await saving
        assert store.lowest_pending() is None

        draft = store.draft()
        draft.write(b"x" * 3 * INLINE_OCTETS)
        content = draft.finish()
        message = _message(content)
        adding = store.add(message, (), record_acceptance(message, 11))
        assert 11 == store.lowest_pending(), "its file is being made durable"
        await adding
        assert store.lowest_pending() is None
        assert [7, 9, 11] == [each.seq for each in await store.records(0, 10)]
    finally:
        await store.close()


def _message(content: Content) -> Message:
    id = IdSource(lambda: NOW, 1).next()
    return Message(
        id=id,
        envelope=Envelope("ann@example.org", (Address("bob@example.net", to_domain("example.net")),)),
        prefix=b"",
        content=content,
        received_at=NOW,
        client="192.0.2.1",
        sender="ann@example.org",
    )


async def test_the_reference_store_says_the_same() -> None:
    """What takes a second to be committed is pending for a second."""
    clock = FakeClock()
    store = MemoryStore(clock, 1.0)
    await store.open()

    saving = store.save_notes({}, [Record(5, Kind.HOST_OPEN, NOW)])
    before = store.lowest_pending()
    clock.advance(1.5)
    await saving

    assert (5, None) == (before, store.lowest_pending())
