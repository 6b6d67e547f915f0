# SPDX-License-Identifier: MIT
"""What becomes of a host's change of health: a record, a saved memory, and mail that is due at once.

Joins route.health with the queue and the store, which do not know each other, as relay.py joins the stages. Decides
nothing about hosts. Saves a moment after each change, in one transaction with the records of the changes; a crash loses
that moment, at worst one failed dial for each host that broke in it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Set
from functools import partial

from msgspec import Struct

from smarthost.mail.errors import StoreError
from smarthost.mail.explanation import HostReport
from smarthost.mail.hop import Host, SessionPolicy
from smarthost.mail.plan import NoPlan, Plan
from smarthost.mail.record import Kind, Record
from smarthost.ports import Clock, Sink
from smarthost.queue.store import Filter, Store, Tallied
from smarthost.route.broken import HealthState, HostState
from smarthost.route.health import HostHealth
from smarthost.send.gates import describe_key, gate_keys, is_demand

NOTES = "hosts/"  # prefix of the store's notes that hold the health of hosts
SAVE_S = 1.0  # between two savings: hosts that break together are saved together
SAVED_OCTETS_A_SECOND = 1 << 20  # a hundred thousand broken hosts must not keep the disk busy
RELEASE_S = 0.1  # between two looks for what awaits hosts: an outage ends for many at once
PROBE_S = 5.0  # between two looks for hosts to be probed
AGAIN_S = 60.0  # an attempt that failed at a host just before it was found well has ended by then
REST = 20.0  # looks at everything that waits, and counts of it: the share of time they may take is one in so many
REPAIR_S = 60.0  # between two tries to save while the store is in trouble
RECORDS = 10_000  # of changes not yet saved; beyond it the oldest are dropped, and the log has them
DOMAINS = 100_000  # looked at in one release
DOMAINS_AT_ONCE = 50  # ... whose plans may ask DNS, after a restart
RELEASE_DOMAINS = 1000  # Store.release allows no more
MESSAGES = 1000  # that a retry looks at, to learn which hosts are in the way
WAITING_SHOWN = 100

_KINDS = {
    HealthState.OPEN: Kind.HOST_OPEN,
    HealthState.HALF_OPEN: Kind.HOST_HALF_OPEN,
    HealthState.CLOSED: Kind.HOST_CLOSED,
}
Key = tuple[str, str]  # (HostGate's source, address)
_Stop = tuple[Host, str, SessionPolicy]  # how to dial it


class HostsTerms(Struct, frozen=True):
    """The parts that are joined here.

    `recall` gives the last plan, if it is remembered. `suspended` names the destinations that sleep, `resume` wakes one
    of them. `tallied` counts what waits by recipient domain. `probe` begins a probe of a broken host; none begins
    while it `is_paused`.
    """

    health: HostHealth
    store: Store
    clock: Clock
    sink: Sink
    next_seq: Callable[[], int]
    destination_of: Callable[[str], str]
    plan: Callable[[str], Awaitable[Plan | NoPlan]]
    recall: Callable[[str], Plan | NoPlan | None]
    tallied: Callable[[], Awaitable[Mapping[str, Tallied]]]
    probe: Callable[[Host, str, SessionPolicy], bool]
    suspended: Callable[[], Collection[str]]
    resume: Callable[[str], None]
    look_again: Callable[[], None]
    is_paused: Callable[[], bool] = lambda: False


class Hosts:
    """Told each new state of a host. `load` before mail moves, `loops` run as long as it does, `save` at the end."""

    def __init__(self, terms: HostsTerms) -> None:
        self._terms = terms
        self._health = terms.health
        self._clock = terms.clock
        self._store = terms.store
        self._records: deque[Record] = deque(maxlen=RECORDS)
        self._unsaved: dict[str, bytes] = {}
        self._works: set[Key] = set()
        self._again: set[Key] = set()  # to be looked at for the second time
        self._change_bell = asyncio.Event()
        self._works_bell = asyncio.Event()
        terms.health.changed = self._changed
        self.loops = (self.save_changes, self.release_for_ever, self.probe_for_ever)

    def _changed(self, host: HostState) -> None:
        """A host's state is new: tell it, keep it, and if it works let go what awaits it."""
        record = Record(
            self._terms.next_seq(),
            _KINDS[host.state],
            self._clock.wall(),
            why=f"{host.closed_by}; before that {host.evidence}" if host.closed_by else host.evidence,
            host=host.name,
            address=host.address,
            service=describe_key(host.source),
            next_attempt_at=host.until,
        )
        self._terms.sink.record(record)
        self._records.append(record)
        self._change_bell.set()
        if host.works:
            self._works.add((host.source, host.address))
            self._works_bell.set()

    def lowest_pending(self) -> int | None:
        """Give the lowest seq of what is not handed to the store yet, or not known to be durable."""
        return self._records[0].seq if self._records else None

    # -- memory over a restart -----------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Take up what was known when the last life ended; damage is told, and costs only what it hit."""
        try:
            notes = await self._store.load_notes(NOTES)
        except StoreError as failure:
            self._terms.sink.note("error", "host health not loaded", why=str(failure))
            return
        damaged = self._health.restore({name.removeprefix(NOTES): value for name, value in notes.items()})
        if damaged:
            self._terms.sink.note("warning", "host health is damaged and forgotten", notes=list(damaged))

    async def save_changes(self) -> None:
        """Save for ever, a moment after each change."""
        while True:
            await self._change_bell.wait()
            self._change_bell.clear()
            changed = self._health.changes()
            self._unsaved.update(changed)
            octets = sum(map(len, changed.values()))
            is_saved = await self._save_taken()
            if changed or not is_saved:
                self._change_bell.set()  # there may be more
            await self._clock.sleep(max(SAVE_S, octets / SAVED_OCTETS_A_SECOND) if is_saved else REPAIR_S)

    async def save(self) -> None:
        """Save all that has changed, if the store can."""
        while changed := self._health.changes():
            self._unsaved.update(changed)
        await self._save_taken()

    async def _save_taken(self) -> bool:
        records, notes = tuple(self._records), self._unsaved
        if not notes and not records:
            return True
        try:
            await self._store.save_notes({NOTES + name: value for name, value in notes.items()}, records)
        except StoreError as failure:
            self._terms.sink.note("error", "host health not saved", why=str(failure))
            return False
        self._unsaved = {name: value for name, value in self._unsaved.items() if notes.get(name) is not value}
        while records and self._records and self._records[0].seq <= records[-1].seq:
            self._records.popleft()
        return True

    # -- mail that awaited a host --------------------------------------------------------------------------------------

    async def release_for_ever(self) -> None:
        """Release what awaits hosts, each time one works again; and once more later, for mail that was on its walk."""
        while True:
            await self._works_bell.wait()
            await self._clock.sleep(RELEASE_S)
            self._works_bell.clear()
            works, self._works = self._works, set()
            again, self._again = self._again, set()
            began = self._clock.monotonic()
            try:
                await self._release(works | again)
            except StoreError as failure:
                self._terms.sink.note("error", "waiting mail not released", why=str(failure))
            if works:
                self._clock.deadline(AGAIN_S, partial(self._release_again, works))
            await self._clock.sleep(REST * min(1.0, self._clock.monotonic() - began))

    def _release_again(self, works: Set[Key]) -> None:
        self._again |= works
        self._works_bell.set()

    async def _release(self, works: Set[Key]) -> None:
        """Wake the destinations that one of these hosts serves, and make due what awaits it on disk."""
        terms, now = self._terms, self._clock.wall()
        domains_of = await self._awaiting(now)
        woken: dict[str, None] = {}
        recipients = 0
        async for found in self._stops_of([*terms.suspended(), *domains_of]):
            served = [name for name, stops in found.items() if not works.isdisjoint(stops)]
            for destination in served:
                terms.resume(destination)
                woken[destination] = None
            domains = [domain for destination in served for domain in domains_of.get(destination, ())]
            for start in range(0, len(domains), RELEASE_DOMAINS):
                recipients += await self._store.release(domains[start : start + RELEASE_DOMAINS], now)
            if domains:
                terms.look_again()
        if woken:
            addresses = sorted({address for _, address in works})[:WAITING_SHOWN]
            terms.sink.note(
                "info",
                "waiting mail released",
                addresses=addresses,
                destinations=len(woken),
                recipients=recipients,
            )

    async def _awaiting(self, now: float) -> dict[str, list[str]]:
        """Give the destinations of what awaits hosts on disk, with the recipient domains of each."""
        domains_of: dict[str, list[str]] = {}
        for domain in await self._store.awaiting(now, DOMAINS):
            domains_of.setdefault(self._terms.destination_of(domain), []).append(domain)
        return domains_of

    async def _stops_of(self, destinations: Iterable[str]) -> AsyncIterator[dict[str, dict[Key, _Stop]]]:
        """Give for destinations the hosts of their plans, by the keys under which HostGate knows them.

        Those whose plans are remembered come first: names with slow DNS hold up only each other.
        """
        unknown: list[str] = []
        found: dict[str, dict[Key, _Stop]] = {}
        for number, name in enumerate(dict.fromkeys(destinations), 1):
            plan = self._terms.recall(name)
            if plan is None:
                unknown.append(name)
            else:
                found[name] = _stops(plan)
            if number % DOMAINS_AT_ONCE == 0:
                await self._clock.sleep(0.0)  # let others have their turn
        yield found
        for start in range(0, len(unknown), DOMAINS_AT_ONCE):
            some = unknown[start : start + DOMAINS_AT_ONCE]
            yield dict(zip(some, await asyncio.gather(*map(self._plan, some)), strict=True))

    async def _plan(self, destination: str) -> dict[Key, _Stop]:
        try:
            return _stops(await self._terms.plan(destination))
        except Exception as failure:  # noqa: BLE001 - as in relay: one destination's trouble is not that of all others
            self._terms.sink.note("error", "planning failed", destination=destination, why=repr(failure))
            return {}

    async def _waiting(self) -> tuple[dict[Key, list[str]], dict[Key, _Stop]]:
        """Give for each host which destinations wait for it, and how to reach it with the fewest demands."""
        destinations = [*self._terms.suspended(), *await self._awaiting(self._clock.wall())]
        waiting: dict[Key, list[str]] = {}
        ways: dict[Key, _Stop] = {}
        async for found in self._stops_of(destinations):
            for destination, stops in found.items():
                for key, stop in stops.items():
                    waiting.setdefault(key, []).append(destination)
                    if key not in ways or len(gate_keys(stop[2])) < len(gate_keys(ways[key][2])):
                        ways[key] = stop
        return waiting, ways

    # -- probes for mail that waits ------------------------------------------------------------------------------------

    async def probe_for_ever(self) -> None:
        """Probe the hosts that mail awaits when their pauses are over: no message need try its luck for that."""
        took_s = 0.0
        while True:
            await self._clock.sleep(max(PROBE_S, REST * min(took_s, PROBE_S)))
            began = self._clock.monotonic()
            if self._health.due_probes() and not self._terms.is_paused():
                try:
                    await self._probe()
                except StoreError as failure:  # mail that comes by its schedule probes as well
                    self._terms.sink.note("error", "hosts not probed", why=str(failure))
            took_s = self._clock.monotonic() - began

    async def _probe(self) -> None:
        _, ways = await self._waiting()
        for key in self._health.due_probes():
            way = ways.get(key)
            if way is not None:
                self._terms.probe(*way)

    async def _count(self) -> dict[str, int]:
        """Give how many recipients of each destination are unfinished and not held."""
        counted: dict[str, int] = {}
        for domain, each in (await self._terms.tallied()).items():
            destination = self._terms.destination_of(domain)
            counted[destination] = counted.get(destination, 0) + each.recipients - each.held
        return counted

    # -- what operators ask and say ------------------------------------------------------------------------------------

    async def report(self, text: str = "") -> tuple[HostReport, ...]:
        """Give the hosts that are not closed and are called so (name, address or service), longest broken first."""
        states = [state for state in self._health.states() if _is_called(state, text)]
        waiting, _ = await self._waiting() if states else ({}, {})
        counted = await self._count() if waiting else {}
        states.sort(key=lambda state: state.since)
        return tuple([_reported(state, waiting.get((state.source, state.address), []), counted) for state in states])

    async def find_standstill(self) -> tuple[HostReport, ...]:
        """Give the broken hosts for which all mail waits; () where something can be delivered, or nothing waits."""
        broken = {(state.source, state.address) for state in self._health.states()}
        waiting = [name for name, recipients in (await self._count()).items() if recipients] if broken else []
        if not waiting:
            return ()
        await self._waiting()  # plans what waits since a former life
        blamed: set[str] = set()
        for destination in waiting:
            stops = _stops(self._terms.recall(destination))
            shut = {address for _, address in broken & stops.keys()}
            if not shut or shut < {address for _, address in stops}:
                return ()
            blamed |= shut
        return tuple([each for each in await self.report() if each.address in blamed])

    async def reset(self, text: str = "") -> tuple[HostReport, ...]:
        """Close the hosts that are called so, and give what was known against them."""
        reports = await self.report(text)
        for state in [state for state in self._health.states() if _is_called(state, text)]:
            self._health.reset(state.source, state.address)
        return reports

    async def release_where(self, is_meant: Callable[[str], bool]) -> int:
        """Make due what awaits hosts for the recipient domains that are meant; gives how many recipients.

        Raises: StoreError.
        """
        now = self._clock.wall()
        domains = [domain for domain in await self._store.awaiting(now, DOMAINS) if is_meant(domain)]
        recipients = 0
        for start in range(0, len(domains), RELEASE_DOMAINS):
            recipients += await self._store.release(domains[start : start + RELEASE_DOMAINS], now)
        if domains:
            self._terms.look_again()
        return recipients

    def forget_demands(self) -> None:
        """Close what broke for a password or for TLS: these are others now."""
        for state in list(self._health.states()):
            if is_demand(state.source):
                self._health.reset(state.source, state.address)

    async def hasten(self, which: Filter) -> None:
        """An operator wants this mail tried now: end the pauses of the hosts in its way, each for one probe."""
        if not any(True for _ in self._health.states()):
            return
        page = await self._store.find(which, None, MESSAGES)
        domains = [recipient.domain for message in page.messages for recipient in message.recipients]
        destinations = dict.fromkeys(map(self._terms.destination_of, domains))
        async for found in self._stops_of(destinations):
            for destination, stops in found.items():
                for source, address in stops:
                    self._health.hasten(source, address)
                self._terms.resume(destination)
        self._terms.look_again()


def _stops(plan: Plan | NoPlan | None) -> dict[Key, _Stop]:
    if plan is None or isinstance(plan, NoPlan):
        return {}
    return {
        (key, address): (host, address, plan.policy_of(host))
        for host in plan.hosts
        for address in host.addresses
        for key in gate_keys(plan.policy_of(host))
    }


def _is_called(host: HostState, text: str) -> bool:
    return not text or text.lower() in (host.address, host.name.lower(), describe_key(host.source).lower())


def _reported(host: HostState, waiting: list[str], counted: Mapping[str, int]) -> HostReport:
    return HostReport(
        address=host.address,
        name=host.name,
        service=describe_key(host.source),
        state=host.state.value,
        failures=host.failures,
        since=host.since,
        last_failure_at=host.last_at,
        step=host.step,
        detail=host.detail,
        next_probe_at=host.until,
        steps=host.steps,
        waiting=tuple(waiting[:WAITING_SHOWN]),
        waiting_count=len(waiting),
        is_probed=host.is_probed,
        waiting_recipients=sum([counted.get(name, 0) for name in waiting]),
    )
