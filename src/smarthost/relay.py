# SPDX-License-Identifier: MIT
"""The journey of a message on one screen: accept, queue, route, send, settle; and the reports that follow.

Joins the stages, which do not know each other. Everything it does is started by an event (mail came in, a due time
came, a host works again) and ends in a settlement. What raises up to `decide` defers the lease and is logged once.
A crash at any point leaves the store as it was before the step or after it (queue.store's crash contract).
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from smarthost.commits import Commits
from smarthost.mail.errors import StoreError
from smarthost.mail.lease import Lease
from smarthost.mail.message import Message
from smarthost.mail.plan import NoPlan, Plan
from smarthost.mail.result import AttemptResult, Outcome, Verdict
from smarthost.mail.settlement import Settlement, State
from smarthost.ports import Clock, HostGate, Random, Refused, Sink
from smarthost.queue.audit import Bounds, Claim, Standing, bounds_at
from smarthost.queue.fairness import Lane, LaneState, Slots
from smarthost.queue.feed import RETRY_STORE_S, Feed
from smarthost.queue.schedule import RetrySchedule
from smarthost.queue.store import Store
from smarthost.reports import REPORTS_PER_HOUR, Reports, ReportTerms
from smarthost.send.gates import find_refusal, least_demand
from smarthost.send.verdict import for_no_plan
from smarthost.settle import decide
from smarthost.settle.record import record_acceptance
from smarthost.sweeps import Sweeps, SweepTerms

PLAN_AGE_S = 5.0  # a slot asks for a new plan then; the planner's own cache makes one cost 20 us ...
PLAN_LEASES = 50  # ... and each draws anew among hosts of equal preference (RFC 5321 5.1)
PAUSE_S = 60.0  # after a failure of ours that should not be repeated at once
WISHED = 10_000  # ids; of those forgotten the wish is found by the feed's scan, within a minute
ATTEMPT_S = 24 * 3600.0  # above any attempt there is: five hosts of all patience, then 50 MiB at one block in 90 s


def _as_it_is(message: Message) -> Message:
    return message


async def _not_held(message: Message) -> None: ...


class JourneyTerms(Struct, frozen=True):
    """The parts that the journey joins, and the operator's choices.

    `admit` gives a new message as it is to be filed, `hold` holds one that was filed otherwise.
    """

    store: Store
    clock: Clock
    random: Random
    sink: Sink
    gate: HostGate
    destination_of: Callable[[str], str]
    plan: Callable[[str], Awaitable[Plan | NoPlan]]
    attempt: Callable[[Lease, Plan], Awaitable[AttemptResult]]
    next_id: Callable[[], str]
    next_seq: Callable[[], int]
    hostname: str
    schedule: RetrySchedule
    sessions_per_lane: int = 20
    sessions: int = 2_000
    soft_bounce: bool = False
    admit: Callable[[Message], Message] = _as_it_is
    hold: Callable[[Message], Coroutine[None, None, None]] = _not_held
    reports_per_hour: int = REPORTS_PER_HOUR


class _Route:
    """A plan in use: on which lane, and for how long."""

    __slots__ = ("lane", "leases_left", "plan", "turn", "valid_until")

    def __init__(self, plan: Plan, lane: Lane, valid_until: float, turn: int) -> None:
        self.plan = plan
        self.turn = turn  # of the routes by which it was planned
        self.lane = lane
        self.valid_until = valid_until
        self.leases_left = PLAN_LEASES


class Journey:
    """Moves every message from 250 to its end. One event loop; `start` before, `stop` after use."""

    def __init__(self, terms: JourneyTerms) -> None:
        self._terms = terms
        self._store = terms.store
        self._clock = terms.clock
        self._sink = terms.sink
        self._feed = Feed(terms.store, terms.clock, terms.sink, terms.destination_of, self._wake)
        self._routes: OrderedDict[str, _Route] = OrderedDict()  # oldest first
        self._planning: set[str] = set()
        self._turn = 0  # how often the routes were replaced: what was planned before holds no more
        self._slots = Slots(terms.sessions, terms.sessions_per_lane)
        self._commits = Commits(terms.store, terms.clock, terms.sink, self._durable)
        self._tasks: dict[asyncio.Task[None], None] = {}  # not a set: its order is reproducible
        self._reports = Reports(
            ReportTerms(
                store=terms.store,
                clock=terms.clock,
                sink=terms.sink,
                next_id=terms.next_id,
                next_seq=terms.next_seq,
                hostname=terms.hostname,
                left_behind=self._feed.left_behind,
                expires_at=terms.schedule.expires_at,
                per_hour=terms.reports_per_hour,
                until_wanted=self._going_on_again,
            )
        )
        self._sweeps = Sweeps(
            SweepTerms(
                store=terms.store,
                clock=terms.clock,
                sink=terms.sink,
                schedule=terms.schedule,
                next_seq=terms.next_seq,
                commit=self._commits.commit,
                until_settled=self._until_wanted,
                suspension=self._feed.suspension,
            )
        )
        self._filing: dict[str, tuple[Message, tuple[str, ...]]] = {}  # on its way into the store, by id
        self._under_way: dict[int, tuple[Lease, float]] = {}  # by identity: taken from the feed, and when (monotonic)
        self._claimants: list[Callable[[], Iterable[Claim]]] = []
        self._awake_since = terms.clock.monotonic()
        self._going_on = asyncio.Event()  # set unless paused
        self._going_on.set()
        self._wished: set[str] = set()  # ids of messages that an operator wants otherwise once their leases end
        self._is_drained = False  # attempts wait, while the queue is moved to another node
        self._is_stopping = False

    async def start(self) -> None:
        """Begin to deliver what the store holds."""
        for loop in (self._feed.run, *self._sweeps.loops, self._reports.file_for_ever):
            self.keep_running(loop)

    def keep_running(self, loop: Callable[[], Coroutine[None, None, None]]) -> None:
        """Run a loop as long as mail moves."""
        self._spawn(self._for_ever(loop))

    def adopt(self, *, hostname: str, schedule: RetrySchedule, sessions_per_lane: int, soft_bounce: bool) -> None:
        """Go on by other terms, and by the routes as they are by now; attempts under way end as they began.

        What is at hand is given back, and all that waits for a destination is planned for anew.
        """
        self._terms = replace(
            self._terms,
            hostname=hostname,
            schedule=schedule,
            sessions_per_lane=sessions_per_lane,
            soft_bounce=soft_bounce,
        )
        self._reports.adopt(hostname=hostname, expires_at=schedule.expires_at)
        for loop in self._sweeps.adopt(schedule):
            self.keep_running(loop)
        self._turn += 1
        self._routes.clear()
        self._slots.adopt(sessions_per_lane)
        self._feed.reroute()

    def wind_down(self) -> None:
        """Take up no new work; mail is still taken. Before `stop`, while clients end what they are at."""
        self._is_stopping = True
        self._commits.wind_down()
        self._feed.drain()

    async def stop(self, grace_s: float) -> None:
        """Take up no new work, let attempts under way end within `grace_s`, then give up on them."""
        self.wind_down()
        deadline = self._clock.monotonic() + grace_s
        while not self._slots.is_idle and self._clock.monotonic() < deadline:
            await self._clock.sleep(0.02)
        self._commits.stop()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._sink.note("error", "a task failed", why=repr(failure))

    async def _for_ever(self, loop: Callable[[], Coroutine[None, None, None]]) -> None:
        """Begin a loop again that a bug has ended: without it mail would lie still until a restart."""
        while True:
            try:
                await loop()
            except Exception as failure:  # noqa: BLE001 - around all loops: whatever it was, the mail goes on
                self._sink.note("error", "a loop failed", why=repr(failure))
                await self._clock.sleep(PAUSE_S)

    # 1 accept, 2 queue

    def add(self, message: Message, filed: Callable[[Exception | None], None]) -> None:
        """Make a message durable, tell `filed`, and start on its way what of it may skip the disk."""
        message = self._terms.admit(message)
        record = record_acceptance(message, self._terms.next_seq())
        leasable = () if self._is_stopping or message.progress else self._feed.leasable(message)
        adding = asyncio.ensure_future(self._store.add(message, leasable, record))
        if leasable:
            self._filing[message.id] = message, leasable

        def added(adding: asyncio.Future[tuple[Lease, ...]]) -> None:
            self._filing.pop(message.id, None)
            failure = StoreError("the store was closed") if adding.cancelled() else adding.exception()
            if failure is None:
                try:
                    filed(None)
                finally:  # whatever became of the client, the message is ours
                    if not message.progress and self._terms.admit(message) is not message:
                        self._spawn(self._terms.hold(message))  # its sender was suspended while it was being filed
                    if message.progress:
                        self._wait_for(message)
                    else:
                        self._feed.arrived(message, leasable, adding.result())
                self._sink.record(record)
            else:
                filed(failure if isinstance(failure, Exception) else StoreError(repr(failure)))
                self._look_when_store_is_back()

        adding.add_done_callback(added)

    def _wait_for(self, message: Message) -> None:
        """Take up mail from another node, which has its schedule, when that says."""
        now = self._clock.wall()
        for recipient, progress in zip(message.envelope.recipients, message.progress, strict=True):
            if progress.state is State.DEFERRED and progress.due > now:
                self._feed.due_at(progress.due)
            elif progress.state is State.DEFERRED:
                self._feed.left_behind(recipient.domain)

    # 3 route

    def _wake(self, destination: str) -> None:
        """This destination has work: put it on its lane, and start a slot if one is free."""
        if self._is_stopping or self._feed.is_paused:
            return
        route = self._routes.get(destination)
        if route is not None and self._is_good(route):
            route.lane.want(destination)
            self._start_slot(route.lane)
        elif destination not in self._planning:
            self._planning.add(destination)
            self._spawn(self._plan(destination))

    def _is_good(self, route: _Route) -> bool:
        return route.leases_left > 0 and route.valid_until > self._clock.monotonic()

    async def _plan(self, destination: str) -> None:
        turn = self._turn
        try:
            plan = await self._terms.plan(destination)
        except Exception as failure:  # noqa: BLE001 - around an attempt, of which planning is the first part
            self._sink.note("error", "planning failed", destination=destination, why=repr(failure))
            self._feed.suspend(destination, self._clock.wall() + PAUSE_S, f"planning failed: {failure!r}")
            return
        finally:
            self._planning.discard(destination)
        if turn != self._turn:
            if self._feed.has_more(destination):
                self._wake(destination)
        elif isinstance(plan, NoPlan):
            await self._settle_unroutable(destination, plan)
        elif not self._must_sleep(destination, plan):
            self._take_route(destination, plan)
            self._wake(destination)

    def _take_route(self, destination: str, plan: Plan) -> None:
        self._forget_old_routes()
        self._routes.pop(destination, None)  # so that the new one stands at the end
        self._routes[destination] = _Route(
            plan, self._slots.lane(plan.lane), self._clock.monotonic() + PLAN_AGE_S, self._turn
        )

    def _forget_old_routes(self) -> None:
        """Keep no route beyond its age, and of a destination without work nothing: there may be a million of them."""
        now = self._clock.monotonic()
        while self._routes:
            destination, route = next(iter(self._routes.items()))
            if route.valid_until > now:
                return
            del self._routes[destination]
            self._feed.forget(destination)

    def _must_sleep(self, destination: str, plan: Plan) -> bool:
        """Suspend a destination while none of its hosts may be dialled; its recipients stay as they are."""
        refusals: list[tuple[Refused, str]] = []
        for host in plan.hosts:
            for address in host.addresses:
                refused = find_refusal(self._terms.gate, least_demand(plan, host), address)
                if refused is None:
                    return False
                refusals.append((refused, f"{host.name} [{address}]"))
        assert refusals, "a plan has hosts, and they have addresses"
        until = min([refused.until for refused, _ in refusals])
        telling, where = min(refusals, key=lambda each: (each[0].is_unreachable, each[0].until))
        self._feed.suspend(destination, until, f"{where}: {telling.why}")
        return True

    async def _settle_unroutable(self, destination: str, no_plan: NoPlan) -> None:
        verdict = for_no_plan(no_plan, self._terms.soft_bounce)
        turn = self._turn
        while (lease := await self._next_lease(destination)) is not None:
            if turn != self._turn:
                self._take_back(lease)
                return
            self._commits.commit(self._decide(self._same_verdict(lease, verdict)))
        self._feed.forget(destination)

    # 4 send

    def _start_slot(self, lane: Lane) -> None:
        if self._slots.take(lane):
            self._spawn(self._slot(lane))

    async def _slot(self, lane: Lane) -> None:
        """Serve the destinations of a lane in turn until none has work."""
        try:
            while (destination := lane.turn()) is not None:
                route = self._routes.get(destination)
                if route is None or route.lane is not lane or not self._is_good(route):
                    lane.leave(destination)
                    self._wake(destination)  # plans anew, perhaps for another lane
                    continue
                if not lane.is_proven and self._must_sleep(destination, route.plan):
                    lane.leave(destination)  # as a whole: its mail is not rewritten because its hosts are broken
                    continue
                lease = await self._next_lease(destination)
                if lease is None:
                    lane.leave(destination)
                    continue
                if route.turn != self._turn:
                    self._take_back(lease)
                    continue
                self._under_way[id(lease)] = lease, self._clock.monotonic()
                try:
                    if self._feed.has_more(destination):
                        self._start_slot(lane)
                    route.leases_left -= 1
                    await self._deliver(lease, destination, route)
                finally:  # settled, or else nobody's
                    del self._under_way[id(lease)]
                if self._slots.must_yield(lane):
                    return
        finally:
            self._slots.give_back(lane)
            while not self._is_stopping and (waiting := self._slots.next_waiting()) is not None:
                self._start_slot(waiting)

    def _take_back(self, lease: Lease) -> None:
        """The routes were replaced while it was read: another plan is to be made for it."""
        self._store.give_back(lease)
        self._feed.nudge()

    async def _next_lease(self, destination: str) -> Lease | None:
        await self._commits.until_settled()
        if self._is_stopping:
            return None
        lease = self._feed.take(destination)
        if lease is None and self._feed.has_more(destination):
            await self._feed.refill(destination)
            lease = None if self._is_stopping else self._feed.take(destination)
        return lease

    async def _deliver(self, lease: Lease, destination: str, route: _Route) -> None:
        try:
            result = await self._terms.attempt(lease, route.plan)
            settlement = self._decide(result)
        except Exception as failure:  # noqa: BLE001 - unknown means temporary: logged once, deferred, never bounced
            self._sink.note("error", "attempt failed", id=lease.id, destination=destination, why=repr(failure))
            result = self._same_verdict(lease, Verdict(Outcome.DEFERRED, "4.3.0", f"local failure: {failure!r}"))
            settlement = self._decide(result)
        self._commits.commit(settlement)
        if any(verdict.outcome is Outcome.POSTPONED for verdict in result.verdicts):
            if route.turn == self._turn and self._must_sleep(destination, route.plan):
                self._slots.doubt(route.lane)
        elif not route.lane.is_proven and any(map(_is_answer, result.verdicts)):
            self._slots.prove(route.lane)

    def _same_verdict(self, lease: Lease, verdict: Verdict) -> AttemptResult:
        return AttemptResult(lease=lease, at=self._clock.wall(), verdicts=(verdict,) * len(lease.recipients))

    # 5 settle

    def _decide(self, result: AttemptResult) -> Settlement:
        return decide.decide(
            result,
            now=self._clock.wall(),
            retry_at=self._retry_at,
            next_seq=self._terms.next_seq,
            delay_warning_s=self._terms.schedule.delay_warning_s,
        )

    def _retry_at(self, attempts: int, received_at: float) -> float | None:
        terms, now = self._terms, self._clock.wall()
        if terms.schedule.is_expired(received_at, now):
            return None
        return terms.schedule.next_attempt(attempts, now, received_at, terms.random)

    def _durable(self, settlement: Settlement) -> None:
        """Wake whoever goes on from here; only now, because both read the store and would not find it there before."""
        if settlement.id in self._wished:  # the store has applied it: what is to be retried is due now
            self._wished.discard(settlement.id)
            self.look_again()
        for recipient in settlement.recipients:
            if recipient.state is State.DEFERRED:
                self._feed.due_at(recipient.due)
            if recipient.report_owed:
                self._reports.owe(settlement.id)
        self._reports.settled(settlement.id)

    def _look_when_store_is_back(self) -> None:
        """Scan in a second, and on until the store answers: what failed may be committed all the same, and be due."""
        self._feed.due_at(self._clock.wall() + RETRY_STORE_S)
        self._reports.look_again()  # they ask, and on until the store answers

    # What an auditor asks and does

    @property
    def clock(self) -> Clock:
        return self._clock

    @property
    def commits(self) -> Commits:
        """Where a settlement goes that was decided elsewhere: whoever goes on from there is woken."""
        return self._commits

    def bounds(self) -> Bounds:
        """Give what is beyond doubt now: what waited for our own start, or the end of a pause, is not late at once."""
        awake_s = 0.0 if self._feed.is_paused else self._clock.monotonic() - self._awake_since
        return bounds_at(self._clock.wall(), self._terms.schedule, awake_s)

    def claims(self, of: str = "") -> Iterator[Claim]:
        """Say who has what is leased, all at this one moment: ask to the end without waiting in between.

        `of`: at least what there is of this message, and little else.
        """
        now, wall = self._clock.monotonic(), self._clock.wall()
        for message, domains in self._filing.values():
            for n, recipient in enumerate(message.envelope.recipients):
                if recipient.domain in domains:
                    yield Claim(message.id, n, "who files it", wall)
        yield from self._feed.claims(of)
        for lease, since in self._under_way.values():
            if of and lease.id != of:
                continue
            for leased in lease.recipients:
                yield Claim(lease.id, leased.n, "an attempt", wall + since + ATTEMPT_S - now)
        for id, n in self._store.in_hand():
            yield Claim(id, n, "the store", wall)
        for claimant in self._claimants:
            yield from claimant()

    def add_claimant(self, claims: Callable[[], Iterable[Claim]]) -> None:
        """Ask these claims too: whoever else leases across an await has to say so, or its leases are taken back."""
        self._claimants.append(claims)

    def standing(self, domain: str) -> Standing | None:
        """Say who looks after what is due for this recipient domain, and when at the latest; None: nobody knows."""
        return self._feed.standing(domain)

    def nudge(self) -> None:
        """Look for what is due now, whatever is known: a wake-up may have been lost."""
        self._feed.nudge()

    # Pauses

    @property
    def is_paused(self) -> bool:
        """Is nothing new begun: no attempt, no expiry, no report?"""
        return not self._going_on.is_set()

    def pause(self) -> None:
        """Begin nothing new before `end_pause`; mail is taken, and what is under way ends as usual."""
        self._going_on.clear()
        self._feed.pause()

    def end_pause(self) -> None:
        """Go on: what has become due meanwhile is due at once."""
        if self.is_paused:
            self._going_on.set()
            if not self._is_drained:
                self._awaken()

    def _awaken(self) -> None:
        self._awake_since = self._clock.monotonic()
        self._feed.end_pause()

    def begin_drain(self) -> None:
        """Begin no attempt before `end_drain`: the queue is moved elsewhere. Reports are filed, and moved as well."""
        self._is_drained = True
        self._feed.pause()
        self._reports.look_again()

    def end_drain(self) -> None:
        """Go on with what is left, unless there is a pause."""
        self._is_drained = False
        if not self.is_paused:
            self._awaken()

    @property
    def is_quiet(self) -> bool:
        """Is no attempt under way, and everything settled, or kept by a store in trouble?"""
        return self._slots.is_idle and self._commits.is_answered

    async def _going_on_again(self) -> None:
        """Wait out a pause."""
        await self._going_on.wait()

    async def _until_wanted(self) -> None:
        """Wait out a pause, and a disk that hangs."""
        await self._commits.until_settled()
        await self._going_on_again()

    def figures(self) -> dict[str, float]:
        """Give how much is under way at this moment, by name."""
        slots, lanes = self._slots.count()
        return {
            "attempts": slots,
            "lanes": lanes,
            "leases": len(tuple(self._store.leased())),
            "unsettled": self._commits.unsettled,
            "destinations_asleep": len(self._feed.asleep()),
        }

    # Suspended destinations

    def suspended(self) -> tuple[str, ...]:
        """Name the destinations that sleep because all their hosts are refused."""
        return self._feed.asleep()

    def suspension(self, domain: str) -> tuple[float, str] | None:
        """Give (until, why) when the destination of this recipient domain sleeps."""
        return self._feed.suspension(domain)

    def resume(self, destination: str) -> None:
        """A host of this destination works again: what waits for it is due at once."""
        self._feed.resume(destination)

    def look_again(self) -> None:
        """Something on disk was made due."""
        self._feed.due_at(self._clock.wall())

    # What operators change (operations.py)

    def let_go(self) -> None:
        """Give back what is at hand and nobody works on, so that the store alone decides about it."""
        self._feed.let_go_all()

    def expect_wishes(self, ids: Iterable[str]) -> None:
        """An operator wants these messages otherwise once their leases end."""
        if len(self._wished) >= WISHED:
            self._wished.clear()
        self._wished.update(ids)

    def stop_destinations(self, domains: frozenset[str]) -> None:
        """Try nothing for these recipient domains, and go on with those that were stopped before."""
        self._feed.stop(domains)

    # What a story asks (stories.py)

    def owners_of(self, id: str) -> dict[int, Claim]:
        """Say who has the recipients of a message that are leased, by number."""
        return {claim.n: claim for claim in self.claims(id) if claim.id == id}

    def lane_of(self, destination: str) -> LaneState | None:
        """Say how busy the lane of a destination is, if it has one now."""
        route = self._routes.get(destination)
        return None if route is None else self._slots.describe(route.lane)

    def is_planning(self, destination: str) -> bool:
        """Is its plan being made?"""
        return destination in self._planning

    @property
    def is_drained(self) -> bool:
        """Is the queue being moved to another node?"""
        return self._is_drained


def _is_answer(verdict: Verdict) -> bool:
    return verdict.outcome is Outcome.RELAYED or verdict.reply is not None
