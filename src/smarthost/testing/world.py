# SPDX-License-Identifier: MIT
"""SimulatedWorld: a whole relay on virtual time, among scripted names, exchangers and clients; it can crash.

The relay is the real one (Receptions, Journey, Sender, Planner, HostHealth) on a MemoryStore, in the order in which
assemble joins it. The trace has every record, note and reply a client heard: same seed, same trace. A crash drops all
but what the store had committed; the world's own ledgers (`acknowledged`, what exchangers took) know better.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Coroutine, Iterator
from itertools import islice
from typing import TypeVar

from msgspec.structs import replace

from smarthost.delivery import Delivery
from smarthost.mail.errors import ConnectFailed, StoreError
from smarthost.mail.identity import decode_id
from smarthost.mail.message import Message
from smarthost.mail.record import TERMINAL_KINDS, Kind, Record, to_json
from smarthost.mail.settlement import SettledRecipient
from smarthost.queue.memory import MemoryStore
from smarthost.queue.store import Changed, Filter
from smarthost.relay import Journey
from smarthost.testing.clients import CONTENT, Acknowledged, ScriptedClient
from smarthost.testing.dns import ScriptedResolver, Zone
from smarthost.testing.life import DOOR, Running, WorldTerms
from smarthost.testing.mortal import Crash, Disk, Moment, MortalStore
from smarthost.testing.network import MemoryNetwork
from smarthost.testing.peers import ScriptedExchanger
from smarthost.testing.simulation import Simulation

__all__ = ["DOOR", "SimulatedWorld", "WorldTerms"]

FOLLOWED_STEP_S = 600.0  # backends.sqlite.steps.STEP_S
_FOR_ALL = 1 << 62
# Our id in what an exchanger took: in our Received field, or in the Message-ID of a report (which has none)
_OUR_ID = re.compile(rb"(?:\bid |^Message-ID: <)([0-9a-z]{16})\b", re.MULTILINE)

T = TypeVar("T")
Exchanger = TypeVar("Exchanger", bound=ScriptedExchanger)


class SimulatedWorld:
    """One relay and all around it. `start` before use; what a scenario changes between crash and restart holds then."""

    def __init__(self, simulation: Simulation, terms: WorldTerms | None = None, crash: Crash | None = None) -> None:
        self.terms = terms = terms if terms is not None else WorldTerms()
        self.clock = simulation.clock
        self.random = simulation.random
        self.trace = simulation.trace
        self.zone = Zone()
        self.resolver = ScriptedResolver(self.zone)
        self.network = MemoryNetwork(simulation.clock, simulation.random, latency_s=terms.latency_s)
        self.records: list[Record] = []  # as the sink was told, not yet durable then
        self.notes: list[tuple[str, dict[str, object]]] = []
        self.clients: list[ScriptedClient] = []
        self.exchangers: list[ScriptedExchanger] = []
        self.crashes = 0
        self.in_doubt: Counter[tuple[str, str]] = Counter()  # had arrived when the relay came back, not recorded
        self.moments: Counter[Moment] = Counter()
        self.disk = Disk(self._enqueued, self._committed)
        self._crash = crash
        self._note = simulation.note
        self._memory = MemoryStore(simulation.clock, terms.commit_delay_s)
        self._running: Running | None = None
        self._stopping: Running | None = None
        self._ahead_s = 0.0  # of this machine's wall clock
        self._followed_s = 0.0  # of that, when a relay started last

    # -- the world around it ------------------------------------------------------------------------------------------

    def domain(self, name: str, *addresses: str) -> None:
        """Give a domain one exchanger for each address, best first: mx1.NAME at preference 10, mx2.NAME at 20 ..."""
        hosts = [(f"mx{n}.{name}", address) for n, address in enumerate(addresses, 1)]
        self.zone.set(name, *(f"MX {10 * n} {host}" for n, (host, _) in enumerate(hosts, 1)))
        for host, address in hosts:
            self.zone.set(host, f"A {address}")

    def place(self, exchanger: Exchanger, *addresses: str) -> Exchanger:
        """Let an exchanger listen at these addresses."""
        self.exchangers.append(exchanger)
        for address in addresses:
            self.network.bind(address, 25, exchanger.accept)
        return exchanger

    def site(self, name: str, address: str, **knobs: object) -> ScriptedExchanger:
        """Give a domain one exchanger, at this address; knobs are ScriptedExchanger's."""
        self.domain(name, address)
        return self.place(ScriptedExchanger(name=f"mx1.{name}", **knobs), address)  # type: ignore[arg-type]

    # -- life and death -----------------------------------------------------------------------------------------------

    @property
    def journey(self) -> Journey:
        return self.delivery.journey

    @property
    def delivery(self) -> Delivery:
        """All that moves mail in the life that goes on."""
        return self._life.delivery

    @property
    def store(self) -> MortalStore:
        """The store of the life that goes on."""
        return self._life.store

    @property
    def _life(self) -> Running:
        assert self._running is not None, "the relay runs"
        return self._running

    @property
    def is_up(self) -> bool:
        return self._running is not None

    @property
    def is_running(self) -> bool:
        """Is there a process, be it one that is about to stop?"""
        return self.is_up or self._stopping is not None

    async def start(self) -> None:
        """Start the relay on what the store holds."""
        assert self._running is None, "one relay at a time"
        await self._restart().open()

    async def stop(self, grace_s: float = 30.0) -> None:
        """Stop the relay in good order."""
        running, self._running = self._running, None
        assert running is not None, "the relay runs"
        self._stopping = running
        await running.close(grace_s)
        if self._stopping is running:  # else it was killed meanwhile
            self._stopping = None
            running.die()  # the process exits

    def stop_soon(self, grace_s: float = 30.0) -> "asyncio.Future[None]":
        """Begin to stop, for scenarios that go on meanwhile."""
        return asyncio.ensure_future(self.stop(grace_s))

    def crash(self) -> None:
        """End the relay as kill -9 and a power cut would; also while it stops in good order."""
        running, self._running, self._stopping = self._running or self._stopping, None, None
        assert running is not None, "the relay runs"
        self._note("crash")
        self.crashes += 1
        running.die()
        self._memory = self._memory.crash()

    def _restart(self) -> Running:
        if self.crashes:  # octets that were under way at the crash have arrived by now
            recorded = {(record.id, record.recipient) for record in self.committed() if record.kind is Kind.RELAYED}
            self.in_doubt.update(pair for pair in self.deliveries() if pair not in recorded)
        self._follow_clock()
        self._running = running = Running(self, self._memory)
        return running

    async def repair(self) -> None:
        """Let the disk work again; what was kept meanwhile is committed."""
        self.disk.failure = None
        if self._running is not None:
            await self._running.store.repaired()

    def break_disk(self) -> None:
        """Let everything that needs the disk fail until `repair`."""
        self.disk.failure = StoreError("the disk is broken")

    def fill_disk(self) -> None:
        """Let there be no room for new contents until `free_disk`; all else can be written."""
        self._memory.capacity_octets = 0

    def free_disk(self) -> None:
        """Let there be room again."""
        self._memory.capacity_octets = float("inf")

    # -- time ---------------------------------------------------------------------------------------------------------

    def step_wall(self, seconds: float) -> None:
        """Step the machine's wall clock forward or back: who runs does not see it, who starts later does."""
        self._ahead_s += seconds

    @property
    def machine_wall(self) -> float:
        """What the machine's wall clock shows; what the relay reads is `relay_wall`."""
        return self.clock.wall() + self._ahead_s

    @property
    def relay_wall(self) -> float:
        """The wall clock of the life that goes on."""
        return self._life.wall()

    def _follow_clock(self) -> None:
        """Move the times on disk by the step since the last start, as backends.sqlite.steps does."""
        step_s, self._followed_s = self._ahead_s - self._followed_s, self._ahead_s
        if abs(step_s) < FOLLOWED_STEP_S:
            return
        self._note(f"the clock was stepped by {step_s:g} s")
        for stored in self._memory._tables.messages.values():
            stored.message = replace(stored.message, received_at=stored.message.received_at + step_s)
            for n, recipient in stored.recipients.items():
                stored.recipients[n] = replace(recipient, due=recipient.due + step_s)
            for n in stored.owed:
                stored.owed[n] += step_s

    def _enqueued(self, number: int) -> None:
        crash = self._crash
        if crash is not None and crash.moment is Moment.BEFORE_COMMIT and crash.n == number:
            self.clock.deadline(self.terms.commit_delay_s * 0.99, self._crash_now)

    def _committed(self, number: int) -> None:
        self._pass(Moment.AFTER_COMMIT)

    def _pass(self, moment: Moment) -> None:
        self.moments[moment] += 1
        crash = self._crash
        if crash is not None and crash.moment is moment and crash.n == self.moments[moment] and self.is_up:
            self._crash_now()

    def heard(self) -> None:
        """A chunk has arrived at the relay."""
        self._pass(Moment.BEFORE_CHUNK)

    def _crash_now(self) -> None:
        crash = self._crash
        if crash is not None and self.is_up:
            self.crash()
            self.clock.deadline(crash.down_s, self._rise)
            if crash.again_after_s is not None and self.crashes == 1:
                self.clock.deadline(crash.down_s + crash.again_after_s, self._crash_now)

    def _rise(self) -> None:
        _at_once(self._restart().open())  # from outside of any task: a MemoryStore and a journey open without waiting

    # -- what everybody saw -------------------------------------------------------------------------------------------

    def record(self, record: Record) -> None:
        """Take a record: this is the Sink of every life."""
        self.records.append(record)
        self._note(f"record {to_json(record).decode()}")

    def note(self, level: str, what: str, **facts: object) -> None:
        """Take a note: this is the Sink of every life."""
        self.notes.append((what, facts))
        self._note(f"{level} {what} {facts}")

    def committed(self) -> tuple[Record, ...]:
        """Give all records the store has committed, also while the relay is down."""
        _at_once(self._memory.open())
        return _at_once(self._memory.records(-1, _FOR_ALL))

    def committed_after(self, count: int) -> list[Record]:
        """Give the records that were committed after the first `count` of them, in that order; cheap to ask often."""
        records = self._memory._tables.records
        return list(islice(reversed(records.values()), len(records) - count))[::-1]

    def queue(self) -> Iterator[tuple[Message, SettledRecipient, bool]]:
        """Give each unfinished recipient in the store with its message, and whether it is leased; cheap, as above."""
        leases = self._memory._leases
        for stored in self._memory._tables.messages.values():
            for recipient in stored.recipients.values():
                if not recipient.state.is_terminal:
                    yield stored.message, recipient, leases.is_leased(stored.message.id, recipient.n)

    def count_leases(self) -> int:
        """Count the recipients that are leased."""
        return len(self._memory._leases.all())

    def holds(self, id: str) -> bool:
        """Is this message in the store, perhaps only because it owes a report?"""
        return decode_id(id)[0] in self._memory._tables.messages

    def kinds(self) -> dict[str, int]:
        """Count the committed records about messages by kind."""
        return dict(sorted(Counter(record.kind.value for record in self.committed() if record.id).items()))

    def outcomes(self) -> list[Record]:
        """Give the committed records about recipients, without the acceptances of messages."""
        return [record for record in self.committed() if record.id and record.kind is not Kind.ACCEPTED]

    def host_records(self, address: str = "") -> list[Record]:
        """Give the committed records of hosts, of one address or of all."""
        return [each for each in self.committed() if not each.id and address in ("", each.address)]

    def endings(self) -> dict[tuple[str, str], list[str]]:
        """Give for each (id, recipient) its committed terminal records: exactly one each when all is over."""
        ends: dict[tuple[str, str], list[str]] = {}
        for record in self.committed():
            if record.kind in TERMINAL_KINDS:
                ends.setdefault((record.id, record.recipient), []).append(record.kind.value)
        return ends

    @property
    def acknowledged(self) -> list[Acknowledged]:
        """All messages for which a client heard 250."""
        return [each for client in self.clients for each in client.acknowledged]

    def deliveries(self) -> Counter[tuple[str, str]]:
        """Count how often each (id, recipient) was taken by exchangers."""
        taken: Counter[tuple[str, str]] = Counter()
        for exchanger in self.exchangers:
            for message in exchanger.messages:
                found = _OUR_ID.search(message.content)
                assert found is not None or not message.recipients, "every message of ours names its id"
                taken.update((found[1].decode(), each) for each in message.recipients if found is not None)
        return taken

    def count(self) -> tuple[int, int]:
        """Give (messages, unfinished recipients) in the store; a message that owes a report counts too."""
        _at_once(self._memory.open())
        return _at_once(self._memory.count())

    async def until_empty(self, within_s: float = 86_400.0, step_s: float = 1.0) -> None:
        """Let time pass until the store is empty. Raises: AssertionError: it is not within that time."""
        ends = self.clock.monotonic() + within_s
        while not (self.is_up and self.count() == (0, 0)):
            assert self.clock.monotonic() < ends, f"not done within {within_s:g} s: {self.count()}"
            await self.clock.sleep(step_s)

    # -- clients and operators ----------------------------------------------------------------------------------------

    async def client(self) -> ScriptedClient:
        """Connect a client and say EHLO. Raises: ConnectFailed: the relay is down."""
        connection = await self.network.dial(*DOOR, source="", timeout_s=10.0)
        name = f"client {len(self.clients) + 1}"
        client = ScriptedClient(connection, lambda reply: self._note(f"{name} heard {reply}"))
        self.clients.append(client)
        await client.hear()
        await client.say(b"EHLO client.example\r\n")
        return client

    async def submit(self, reverse_path: str, *recipients: str, content: bytes = CONTENT) -> str:
        """Send one message in a session of its own and give the last reply; "" if the connection failed."""
        try:
            client = await self.client()
        except ConnectFailed:
            return ""
        reply = await client.send(reverse_path, recipients, content)
        await client.quit()
        return reply

    async def submit_until_heard(self, reverse_path: str, *recipients: str, content: bytes = CONTENT) -> str:
        """Send as an ordinary client does: again after a while, until it hears 250, but not for ever."""
        for _ in range(100):
            reply = await self.submit(reverse_path, *recipients, content=content)
            if reply.startswith("250"):
                return reply
            await self.clock.sleep(10.0)
        raise AssertionError(f"never accepted: {reply!r}")

    async def change(self, verb: str, which: Filter | None = None) -> Changed:
        """Say a verb to one chunk of the queue, as an operator."""
        delivery = self.delivery  # of this life, however it ends meanwhile
        changed = await delivery.operations.change(which or Filter(), verb, None, 1000)
        if verb == "retry":  # as assemble does
            await delivery.hosts.hasten(which or Filter())
        return changed


def _at_once(work: Coroutine[object, object, T]) -> T:
    """Run what waits for nothing, such as all reads of a MemoryStore."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it had to wait")
