# SPDX-License-Identifier: MIT
"""What the scenarios work with: a store to try, and the mail and outcomes to try it on."""

from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Protocol

from smarthost.mail.address import Address, Domain
from smarthost.mail.content import Content, InlineContent
from smarthost.mail.envelope import Envelope
from smarthost.mail.identity import IdSource, SequenceSource
from smarthost.mail.lease import Lease, LeasedRecipient
from smarthost.mail.message import Message
from smarthost.mail.record import Kind, Record
from smarthost.mail.result import DsnDuty
from smarthost.mail.settlement import SettledRecipient, Settlement, State
from smarthost.queue.store import Filter, Store

NOW = 1_800_000_000.25  # wall seconds; with a fraction that a float holds exactly
HOUR = 3600.0
EVERYTHING = Filter()
_KINDS = {
    State.RELAYED: Kind.RELAYED,
    State.DEFERRED: Kind.DEFERRED,
    State.BOUNCED: Kind.BOUNCED,
    State.EXPIRED: Kind.EXPIRED,
    State.CANCELLED: Kind.CANCELLED,
    State.HELD: Kind.CHANGED,
}
_STATUS = {State.RELAYED: "2.0.0", State.DEFERRED: "4.4.1", State.BOUNCED: "5.1.1"}


class StoreMaker(Protocol):
    """Makes stores of one kind."""

    async def make(self) -> Store:
        """Give a new, empty, opened store."""

    async def crash(self, store: Store) -> Store:
        """End the store as kill -9 or a power cut would, and give it as the next start opens it."""

    async def restart(self, store: Store) -> Store:
        """Close the store, and give it as the next start opens it."""

    def set_full(self, store: Store, is_full: bool) -> None:
        """Let there be no room for new mail, or room again."""


class Trial:
    """One scenario's store, with a source of ids and record numbers."""

    def __init__(self, maker: StoreMaker, store: Store) -> None:
        self._maker = maker
        self.store = store
        self._next_id = IdSource(lambda: NOW, 77, store.last_number).next
        self.next_seq = SequenceSource(NOW, store.last_number).next

    async def crash(self) -> None:
        """kill -9, and start again."""
        self.store = await self._maker.crash(self.store)

    async def restart(self) -> None:
        """Close, and start again."""
        self.store = await self._maker.restart(self.store)

    def set_full(self, is_full: bool) -> None:
        """Let there be no room for new mail, or room again."""
        self._maker.set_full(self.store, is_full)

    def message(
        self,
        *addresses: str,
        content: bytes | Content = b"Subject: hello\r\n\r\nhello\r\n",
        received_at: float = NOW,
        reverse_path: str = "sender@origin.example",
        prefix: bytes = b"Received: by relay.example\r\n",
    ) -> Message:
        """Make a message with the next id."""
        recipients = tuple([Address(text, Domain(text.rpartition("@")[2])) for text in addresses])
        held = InlineContent(content) if isinstance(content, bytes) else content
        envelope = Envelope(reverse_path, recipients)
        return Message(self._next_id(), received_at, envelope, prefix, held, "192.0.2.7", reverse_path)

    async def add(self, *addresses: str, lease: Collection[str] = (), received_at: float = NOW) -> Message:
        """Add a message to the store."""
        message = self.message(*addresses, received_at=received_at)
        await self.store.add(message, lease)
        return message

    async def add_leased(self, *addresses: str) -> tuple[Message, tuple[Lease, ...]]:
        """Add a message to the store, with all its recipients leased."""
        message = self.message(*addresses)
        return message, await self.store.add(message, {text.rpartition("@")[2] for text in addresses})

    def settled(
        self,
        recipient: LeasedRecipient,
        state: State,
        *,
        due: float = 0.0,
        counted: bool = True,
        owed: bool = False,
        awaits: bool = False,
        told: bool = False,
        dsn: DsnDuty = DsnDuty.RELAYED,
    ) -> SettledRecipient:
        """Give a recipient's new state after an attempt."""
        return SettledRecipient(
            recipient.n,
            recipient.address,
            recipient.domain,
            state,
            due,
            recipient.attempts + counted,
            _STATUS.get(state, ""),
            f"{_STATUS.get(state, '4.0.0')[0]}50 so be it",
            f"it was {state.value}",
            owed,
            "mx.dest.example" if owed else "",
            awaits,
            dsn,
            is_delay_told=told,
        )

    def record(self, lease: Lease, settled: SettledRecipient, at: float) -> Record:
        """Give the record of one recipient's attempt."""
        return Record(
            self.next_seq(),
            _KINDS[settled.state],
            at,
            lease.id,
            settled.address,
            lease.reverse_path,
            settled.attempts,
            settled.status,
            settled.last_reply,
            settled.why,
            next_attempt_at=settled.due,
        )

    def settlement(
        self,
        lease: Lease,
        state: State,
        *,
        due: float = 0.0,
        at: float = NOW,
        counted: bool = True,
        owed: bool = False,
        awaits: bool = False,
        told: bool = False,
        dsn: DsnDuty = DsnDuty.RELAYED,
        only: Collection[int] | None = None,
    ) -> Settlement:
        """Give the settlement of a lease (or `only` some of its recipients), all with the same state."""
        recipients = [
            self.settled(recipient, state, due=due, counted=counted, owed=owed, awaits=awaits, told=told, dsn=dsn)
            for recipient in lease.recipients
            if only is None or recipient.n in only
        ]
        records = [self.record(lease, each, at) for each in recipients]
        return Settlement(lease.id, tuple(recipients), tuple(records))

    def relayed(self, leases: Iterable[Lease]) -> list[Settlement]:
        """Give the settlements of leases that were relayed."""
        return [self.settlement(lease, State.RELAYED) for lease in leases]

    async def all_records(self) -> list[Record]:
        """Give every record there is."""
        return list(await self.store.records(0, 100_000))

    async def kinds(self) -> list[Kind]:
        """Give the kinds of all records, in order."""
        return [record.kind for record in await self.all_records()]

    async def states(self) -> dict[str, str]:
        """Give the state of each recipient in the store by its address."""
        page = await self.store.find(EVERYTHING, None, 1000)
        return {each.address: each.state for message in page.messages for each in message.recipients}


Scenario = Callable[[Trial], Awaitable[None]]


async def run_scenario(scenario: Scenario, maker: StoreMaker) -> None:
    """Run one scenario on a new store, and close it whatever happens."""
    trial = Trial(maker, await maker.make())
    try:
        await scenario(trial)
    finally:
        await trial.store.close()


def numbers(leases: Iterable[Lease]) -> list[tuple[str, int]]:
    """Give (message id, recipient number) of everything leased, in order."""
    return [(lease.id, recipient.n) for lease in leases for recipient in lease.recipients]


def content_of(content: Content) -> bytes:
    """Give content as one piece."""
    return b"".join(content.chunks())


async def refused(awaited: Awaitable[object], kind: type[Exception]) -> Exception:
    """Await what must raise, and give what it raised."""
    try:
        await awaited
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")
