# SPDX-License-Identifier: MIT
"""Watches a world from outside: fills the history from what happens, and asks the invariants at each event and minute.

The first failure is kept, and the run ends there. Reads the store's tables as an auditor of the disk would, never what
the relay says of itself, but for the records of hosts (when is a pause over?) and its claims.
"""

from collections import Counter
from collections.abc import Callable, Iterator, KeysView

from simulate import invariants
from simulate.history import Copy, History, Life
from simulate.invariants import Gate
from simulate.scenario import Scenario
from smarthost.auditor import find_lease_faults
from smarthost.mail.message import Message
from smarthost.mail.record import TERMINAL_KINDS, Kind, Record
from smarthost.mail.settlement import SettledRecipient, State
from smarthost.queue.audit import Claim
from smarthost.testing.life import Running
from smarthost.testing.mortal import Moment
from smarthost.testing.network import MemoryConnection
from smarthost.testing.peers import TakenMessage
from smarthost.testing.simulation import Simulation
from smarthost.testing.world import FOLLOWED_STEP_S, SimulatedWorld

MINUTE_S = 60.0
# A host that says nothing after the final dot holds a slot for ten minutes: a queue of a hundred waits for its turn,
# and where there are but a few slots (NARROW), until it expires.
PATIENCE_S = 3 * 3600.0
NARROW = 5
LEASE_S = 6 * 3600.0
PAUSE_S = 3600.0  # route.health: the longest
FORGET_S = 4 * 3600.0


class Broken(AssertionError):
    """A promise was broken."""

    def __init__(self, invariant: str, text: str, at: float) -> None:
        super().__init__(f"{invariant.replace('_', ' ')}: {text}")
        self.invariant = invariant
        self.text = text
        self.at = at


class WatchedWorld(SimulatedWorld):
    """A world that tells the watch of records and moments."""

    def __init__(self, simulation: Simulation, scenario: Scenario) -> None:
        self.told_record: Callable[[Record], None] = lambda record: None
        self.passed: Callable[[Moment], None] = lambda moment: None
        self.told_start: Callable[[], None] = lambda: None
        super().__init__(simulation, scenario.terms)

    def record(self, record: Record) -> None:
        super().record(record)
        self.told_record(record)

    def _restart(self) -> "Running":
        running = super()._restart()
        self.told_start()
        return running

    def heard(self) -> None:
        self.passed(Moment.BEFORE_CHUNK)

    def _enqueued(self, number: int) -> None:
        self.passed(Moment.BEFORE_COMMIT)

    def _committed(self, number: int) -> None:
        self.passed(Moment.AFTER_COMMIT)


class Watch:
    """Judges one run; `broken` is the first failure."""

    def __init__(self, world: WatchedWorld, scenario: Scenario, history: History) -> None:
        self.broken: Broken | None = None
        self.most_open = 0
        self._world = world
        self._scenario = scenario
        self._history = history
        self._gates: dict[str, Gate] = {}
        self._lines: dict[str, list[MemoryConnection]] = {}
        self._limits = _limits(scenario)
        self._hopeless = (*scenario.nowhere, *scenario.null)
        self._doubted: KeysView[tuple[str, int]] = {}.keys()
        self._leased_since: dict[tuple[str, int], float] = {}
        terms = scenario.terms
        is_narrow = min(terms.sessions_per_lane, terms.sessions // 2) < NARROW
        self._patience_s = PATIENCE_S + (terms.schedule.expire_after_s if is_narrow else 0.0)
        self._hastened_wall = 0.0
        self._slept_until: dict[str, float] = {}  # domains, in this life
        self._checked_at = 0.0
        self._ahead_s = world.clock.wall() - world.clock.monotonic()  # of the wall clock of the newest life
        world.told_start = self.began
        world.told_record = self.told_record
        world.network.dialling = self.dialling
        world.network.connected = self.connected

    def _judge(self, invariant: Callable[..., str | None], *facts: object) -> None:
        if self.broken is None and (text := invariant(*facts)) is not None:
            self.broken = Broken(invariant.__name__, text, self._history.now)

    def _now(self) -> float:
        self._history.now = now = self._world.clock.monotonic()
        return now

    # -- lives --------------------------------------------------------------------------------------------------------

    def began(self) -> None:
        """The relay has been started."""
        now, wall = self._now(), self._world.relay_wall
        if (set_back_s := self._ahead_s - (wall - now)) < FOLLOWED_STEP_S:  # else the times on disk were moved
            self._history.excused_s += max(0.0, set_back_s)
        self._ahead_s = wall - now
        self._history.lives.append(Life(began=now))
        self._leased_since.clear()
        self._slept_until.clear()
        self._gates.clear()
        last_at = {}
        for record in self._world.host_records():
            self._note_gate(record)
            last_at[record.address] = record.at
        for address, at in last_at.items():
            if at > wall:  # evidence from the future, by a clock that was set back since, is forgotten
                self._gates.pop(address, None)
        for gate in self._gates.values():
            gate.until = min(gate.until, wall + PAUSE_S)
            gate.probed_until = 0.0

    def ended(self, *, forgot: bool) -> None:
        """It has died, or stopped."""
        self.check()
        life = self._history.lives[-1]
        life.ended, life.forgot = self._history.now, forgot

    def excuse(self, seconds: float) -> None:
        """Mail was held back by an operator: whatever waited then may end so much later."""
        self._history.excused_s += seconds

    def cancelled(self, recipient: str) -> None:
        """An operator cancels what is for this recipient."""
        self._history.cancels.append((self._now(), recipient))

    def hastened(self) -> None:
        """An operator has ended all pauses, each for one probe."""
        self._hastened_wall = wall = self._world.relay_wall
        for gate in self._gates.values():
            gate.until = min(gate.until, wall)

    # -- events -------------------------------------------------------------------------------------------------------

    def told_record(self, record: Record) -> None:
        """The relay tells of a host."""
        if not record.id:
            self._note_gate(record)

    def _note_gate(self, record: Record) -> None:
        gate = self._gates.get(record.address)
        if record.kind is Kind.HOST_CLOSED:
            self._gates.pop(record.address, None)
        elif record.kind is Kind.HOST_OPEN:
            until = record.next_attempt_at
            was_hastened = record.at <= self._hastened_wall  # which outlasts a restart, and is no record
            self._gates[record.address] = Gate(until=min(until, self._hastened_wall) if was_hastened else until)
        elif gate is not None:
            gate.probed_until, gate.dials = record.at + invariants.PROBE_S, 0

    def dialling(self, address: str, port: int) -> None:
        """Somebody dials; port 25 is the relay."""
        gate = self._gates.get(address)
        if port != 25 or gate is None:
            return
        wall = self._world.relay_wall
        gate.dials += 1
        self._now()
        self._judge(invariants.no_host_is_dialled_before_its_pause_is_over, address, gate, wall)

    def connected(self, line: MemoryConnection) -> None:
        """Somebody has connected."""
        address, port = line.peer
        if port != 25:
            return
        lines = self._lines[address] = [each for each in self._lines.get(address, []) if not each.is_closed]
        lines.append(line)
        self.most_open = max(self.most_open, len(lines))
        self._now()
        self._judge(invariants.sessions_stay_within_the_limit, address, len(lines), self._limits[address])

    def said(self, reply: str) -> None:
        """A client heard this."""
        self._now()
        self._judge(invariants.a_failure_of_ours_is_never_permanent, reply)

    def acknowledged(self, id: str, recipient: str) -> None:
        """A client heard 250."""
        self._now()
        self.take_up()
        self._history.start((id, recipient))
        is_stored = self._world.holds(id)
        self._judge(invariants.an_acknowledged_message_is_durable, (id, recipient), is_stored, self._history)

    def took(self, message: TakenMessage, copies: list[Copy]) -> None:
        """A host has taken a message."""
        self._now()
        self.take_up()
        history = self._history
        self._judge(invariants.only_what_was_sent_arrives, message.reverse_path, message.content, copies, history)
        for copy in copies:
            self._judge(invariants.a_second_copy_has_an_excuse, copy, history)
            history.copies.setdefault((copy.id, copy.recipient), []).append(copy)

    # -- what is on disk ----------------------------------------------------------------------------------------------

    def take_up(self) -> None:
        """Look at the records that were committed since the last look."""
        history = self._history
        expire_after_s = self._scenario.terms.schedule.expire_after_s
        for record in self._world.committed_after(history.records):
            history.take_up(record)
            if record.kind is Kind.REPORTED:
                self._judge(invariants.a_failure_is_told_once, record, history)
            if record.kind not in TERMINAL_KINDS:
                continue
            self._judge(invariants.a_recipient_ends_once, record, history)
            self._judge(invariants.what_is_relayed_was_taken, record, history)
            self._judge(invariants.what_bounced_was_refused, record, history, self._hopeless)
            self._judge(invariants.nothing_expires_early, record, history, expire_after_s)
            self._judge(invariants.only_operators_cancel, record, history)

    def check(self) -> None:
        """Ask everything that can be asked at any time."""
        now = self._now()
        world, history = self._world, self._history
        if not world.is_up or world.disk.failure is not None:
            history.excused_s += now - self._checked_at
        self._checked_at = now
        self.take_up()
        rows = list(world.queue())
        stored = {(message.id, recipient.address) for message, recipient, _ in rows}
        self._judge(invariants.nothing_is_lost, history, stored)
        schedule = self._scenario.terms.schedule
        within_s = schedule.expire_after_s + max(schedule.longest_s, 3600.0) + PATIENCE_S
        self._judge(invariants.everything_ends_by_its_deadline, history, within_s)
        if world.is_up:
            unfinished = [(message.id, recipient.n) for message, recipient, _ in rows]
            claims = list(self._claims(rows))
            self._look_at_leases()
            self._judge(
                invariants.each_recipient_has_one_owner_and_one_next_event, unfinished, claims, world.relay_wall, 0.0
            )

    def _look_at_leases(self) -> None:
        """Compare leases with who has them; what is found twice is no change of hands."""
        world = self._world
        found = {(each.id, each.n): each for each in find_lease_faults(world.store, world.journey)}
        certain = [each for key, each in found.items() if key in self._doubted]
        self._doubted = found.keys()
        self._judge(invariants.each_lease_has_one_owner, certain)
        self._judge(invariants.the_auditor_finds_nothing, world.delivery.auditor.figures.findings)

    def _claims(self, rows: list[tuple[Message, SettledRecipient, bool]]) -> Iterator[Claim]:
        """Say until when somebody must have touched each recipient, by what is on disk and leased.

        While none of a domain's hosts may be dialled, or an operator suspends it, its mail waits, due or not.
        """
        world, now = self._world, self._history.now
        ahead = world.relay_wall - now
        ready = self._history.lives[-1].began + self._history.excused_s
        since, self._leased_since = self._leased_since, {}
        for message, recipient, is_leased in rows:
            key = (message.id, recipient.n)
            if is_leased:
                first = self._leased_since[key] = since.get(key, now)
                yield Claim(*key, "lease", first + LEASE_S + ahead)
            elif recipient.state is State.HELD:
                yield Claim(*key, "hold", recipient.due + self._patience_s)
            elif recipient.state is State.DEFERRED:
                suspension = world.journey.suspension(recipient.domain)
                if suspension is not None:
                    self._slept_until[recipient.domain] = suspension[0]
                elif world.delivery.suspensions.of_domain(recipient.domain) is not None:
                    self._slept_until[recipient.domain] = world.relay_wall
                slept_until = self._slept_until.get(recipient.domain, 0.0)
                yield Claim(*key, "store", max(recipient.due, slept_until, ready + ahead) + self._patience_s)

    def finish(self) -> None:
        """Ask what can be asked when all is over."""
        self.check()
        self._judge(invariants.all_has_ended, self._history)
        self._judge(invariants.all_failures_are_told, self._history)

    def rest(self) -> None:
        """Ask whether anything is held although there is no mail."""
        world = self._world
        sessions = sum(not line.is_closed for lines in self._lines.values() for line in lines)
        self._judge(
            invariants.nothing_is_held_when_all_is_done, world.count_leases(), world.journey._slots.is_idle, sessions
        )


def _limits(scenario: Scenario) -> dict[str, int]:
    """Give how many sessions there may be with each address: a window for each lane it is in, and one probe.

    A lane is the set of hosts that DNS names: where one of them cannot be resolved for a while, the rest is another.
    """
    lanes: Counter[str] = Counter()
    troubled = {trouble.name for trouble in scenario.names}
    for addresses in {frozenset(site.addresses) for site in scenario.sites}:
        for address in addresses:
            lanes[address] += 2 ** (len(addresses) - 1) if troubled else 1
    return {address: count * scenario.terms.sessions_per_lane + 1 for address, count in lanes.items()}
