# SPDX-License-Identifier: MIT
"""All that moves mail once it is ours, joined: the journey, those who send, the memory of hosts, who explains.

assemble.py builds it on real backends, the simulation on fakes: in both it is the same relay. Decides nothing. Opens
and closes in the one order that loses nothing: no attempt before what is known of hosts is loaded, and that saved last.
"""

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from smarthost.auditor import Auditor, AuditorTerms
from smarthost.drain import Drain, DrainTerms
from smarthost.explain import Explainer, ExplainTerms
from smarthost.hosts import Hosts, HostsTerms
from smarthost.mail.address import Domain
from smarthost.mail.identity import IdSource, SequenceSource
from smarthost.operations import Operations, OperationsTerms
from smarthost.pausing import Pausing, PausingTerms
from smarthost.ports import Clock, Dialer, Random, Sink
from smarthost.queue.schedule import RetrySchedule
from smarthost.queue.store import Store
from smarthost.relay import Journey, JourneyTerms
from smarthost.route.health import HealthTerms, HostHealth
from smarthost.route.plan import Planner
from smarthost.route.table import NextHop, RouteTable
from smarthost.send.attempt import Sender
from smarthost.send.opening import PATIENCE_S, AttemptTerms
from smarthost.send.pool import Pool
from smarthost.send.probe import Prober, ProbeTerms
from smarthost.stories import Stories, StoriesTerms
from smarthost.suspensions import Suspensions, SuspensionsTerms, say


class DeliveryTerms(Struct, frozen=True, kw_only=True):
    """The world that mail moves in, and the operator's choices. The store is open; `read_recipient` as in explain."""

    store: Store
    clock: Clock
    random: Random
    sink: Sink
    dialer: Dialer
    table: RouteTable
    planner: Planner
    read_recipient: Callable[[str], Domain]
    hostname: str
    schedule: RetrySchedule
    health: HealthTerms = HealthTerms()
    patience_s: float = PATIENCE_S
    idle_session_s: float = 5.0
    messages_per_session: int = 100
    sessions_per_lane: int = 20
    sessions: int = 2_000
    soft_bounce: bool = False


class Delivery:
    """One event loop; `start` before, `stop` after use."""

    def __init__(self, terms: DeliveryTerms) -> None:
        clock, store = terms.clock, terms.store
        self._terms = terms
        self.next_id = IdSource(clock.wall, terms.random.getrandbits(15), store.last_number).next
        self._seqs = SequenceSource(clock.wall(), store.last_number)
        self._next_seq = self._seqs.next
        store.draw_numbers_from(self._next_seq)
        self.health = HostHealth(clock, terms.random, terms.health)
        self._pool = Pool(clock, idle_s=terms.idle_session_s, transactions=terms.messages_per_session)
        self._sender = self._make_sender()
        self.operations = self._make_operations()
        self.suspensions = self._make_suspensions()
        self.journey = self._make_journey()
        self.auditor = Auditor(AuditorTerms(store, self.journey, clock, terms.sink, self._next_seq))
        self.hosts = self._make_hosts()
        self.pausing = self._make_pausing()
        self.explainer = self._make_explainer()
        self.drain = self._make_drain()
        self.stories = self._make_stories()

    def figures(self) -> dict[str, float]:
        """Give how much is under way at this moment, by name; hosts by their state."""
        hosts = {"hosts_open": 0.0, "hosts_half_open": 0.0}
        for host in self.health.states():
            hosts["hosts_" + host.state.value.replace("-", "_")] += 1
        return {**self.journey.figures(), **hosts}

    @property
    def record_horizon(self) -> int:
        """The seq up to which no record will appear any more: each is durable, or will never be.

        A number is drawn, and its record handed to the store, in one turn of the loop; only records about hosts wait
        meanwhile. So what is drawn and not durable is in the store's hands, or in theirs.
        """
        waiting = (self._terms.store.lowest_pending(), self.hosts.lowest_pending())
        return min([self._seqs.last, *[seq - 1 for seq in waiting if seq is not None]])

    @property
    def terms(self) -> DeliveryTerms:
        """What holds now."""
        return self._terms

    def adopt(self, terms: DeliveryTerms) -> None:
        """Go on by another operator's choices; the world, the table and the planner are the same, and changed already.

        What is under way ends as it began; all else is planned anew.
        """
        self._terms = terms
        self.health.adopt(terms.health)
        self._pool.adopt(idle_s=terms.idle_session_s, transactions=terms.messages_per_session)
        self._sender.adopt(replace(self._sender.terms, soft_bounce=terms.soft_bounce, patience_s=terms.patience_s))
        self.journey.adopt(
            hostname=terms.hostname,
            schedule=terms.schedule,
            sessions_per_lane=terms.sessions_per_lane,
            soft_bounce=terms.soft_bounce,
        )
        self.explainer = self._make_explainer()
        self.stories = self._make_stories()

    async def start(self, why_paused: str = "") -> None:
        """Begin to deliver what the store holds, unless it is paused; `why_paused`: it is, whatever the store says."""
        await self.hosts.load()
        await self.pausing.load(why_paused)
        await self.journey.start()
        for loop in (*self.hosts.loops, *self.auditor.loops, self.pausing.watch_for_ever):
            self.journey.keep_running(loop)

    async def stop(self, grace_s: float) -> None:
        """Let attempts under way end within `grace_s`, then give up on them; save what is known of hosts."""
        await self.journey.stop(grace_s)
        await self._sender.close()
        self._pool.close()
        await self.hosts.save()

    def _make_sender(self) -> Sender:
        terms = self._terms
        return Sender(
            AttemptTerms(
                dialer=terms.dialer,
                gate=self.health,
                pool=self._pool,
                clock=terms.clock,
                sink=terms.sink,
                read_content=terms.store.content,
                soft_bounce=terms.soft_bounce,
                patience_s=terms.patience_s,
            )
        )

    def _make_journey(self) -> Journey:
        terms = self._terms
        return Journey(
            JourneyTerms(
                store=terms.store,
                clock=terms.clock,
                random=terms.random,
                sink=terms.sink,
                gate=self.health,
                destination_of=terms.table.destination_of,
                plan=terms.planner.plan,
                attempt=self._sender.attempt,
                next_id=self.next_id,
                next_seq=self._next_seq,
                hostname=terms.hostname,
                schedule=terms.schedule,
                sessions_per_lane=terms.sessions_per_lane,
                sessions=terms.sessions,
                soft_bounce=terms.soft_bounce,
                admit=self.suspensions.hold_if_suspended,
                hold=self.suspensions.hold_late,
            )
        )

    def _make_operations(self) -> Operations:
        terms = self._terms
        return Operations(
            OperationsTerms(
                store=terms.store,
                clock=terms.clock,
                sink=terms.sink,
                let_go=lambda: self.journey.let_go(),
                look_again=lambda: self.journey.look_again(),
                expect=lambda ids: self.journey.expect_wishes(ids),
                asleep=lambda domain: self.journey.suspension(domain),
                stopped=lambda domain: self.suspensions.stopped(domain),
                check_way=terms.table.check_way,
                plan_of=lambda domain: terms.planner.plan(terms.table.destination_of(domain)),
            )
        )

    def _make_suspensions(self) -> Suspensions:
        terms = self._terms
        return Suspensions(
            SuspensionsTerms(
                store=terms.store,
                clock=terms.clock,
                sink=terms.sink,
                next_seq=self._next_seq,
                change=self.operations.change,
                stop=lambda domains: self.journey.stop_destinations(domains),
                look_again=lambda: self.journey.look_again(),
            )
        )

    def _make_hosts(self) -> Hosts:
        terms = self._terms
        return Hosts(
            HostsTerms(
                health=self.health,
                store=terms.store,
                clock=terms.clock,
                sink=terms.sink,
                next_seq=self._next_seq,
                destination_of=terms.table.destination_of,
                plan=terms.planner.plan,
                recall=terms.planner.recall,
                tallied=self.operations.tallied,
                probe=self._sender.opener.probe,
                suspended=self.journey.suspended,
                resume=self.journey.resume,
                look_again=self.journey.look_again,
                is_paused=lambda: self.journey.is_paused,
            )
        )

    def _make_pausing(self) -> Pausing:
        terms, journey = self._terms, self.journey
        return Pausing(
            PausingTerms(
                store=terms.store,
                clock=terms.clock,
                sink=terms.sink,
                is_paused=lambda: journey.is_paused,
                pause=journey.pause,
                end_pause=journey.end_pause,
                load_further=self.suspensions.load,
            )
        )

    def _make_drain(self) -> Drain:
        terms, journey = self._terms, self.journey
        drain = Drain(
            DrainTerms(
                store=terms.store,
                clock=terms.clock,
                sink=terms.sink,
                dialer=terms.dialer,
                next_seq=self._next_seq,
                plan_to=lambda host, port: terms.planner.plan_hop(NextHop(host, port)),
                begin_drain=journey.begin_drain,
                end_drain=journey.end_drain,
                is_quiet=lambda: journey.is_quiet,
                commits=journey.commits,
            )
        )
        journey.add_claimant(drain.claims)
        return drain

    def _make_stories(self) -> Stories:
        terms, journey = self._terms, self.journey
        return Stories(
            StoriesTerms(
                store=terms.store,
                clock=terms.clock,
                is_paused=lambda: journey.is_paused,
                is_drained=lambda: journey.is_drained,
                suspension_of=self.suspensions.of_domain,
                suspension_of_sender=self.suspensions.of_sender,
                suspended_during=self.suspensions.during,
                asleep=journey.suspension,
                destination_of=terms.table.destination_of,
                recall=terms.planner.recall,
                state_of=self.health.state_of,
                owners_of=journey.owners_of,
                lane_of=journey.lane_of,
                is_planning=journey.is_planning,
                standing=journey.standing,
                expires_at=terms.schedule.expires_at,
            )
        )

    def _make_explainer(self) -> Explainer:
        terms = self._terms
        return Explainer(
            ExplainTerms(
                read_recipient=terms.read_recipient,
                scope=terms.table.scope,
                destination_of=terms.table.destination_of,
                plan_anew=terms.planner.plan_anew,
                state_of=self.health.state_of,
                suspension=self.journey.suspension,
                kept_back=self._kept_back,
                probe=Prober(ProbeTerms(terms.dialer, terms.clock, self.health.report_success)).probe,
                now=terms.clock.wall,
                soft_bounce=terms.soft_bounce,
            )
        )

    def _kept_back(self, domain: str, reverse_path: str, user: str) -> str:
        """Say why nothing is tried for such mail now, and which command would end that; "": nothing keeps it back."""
        if self.journey.is_paused:
            return "all delivery is paused (smarthost resume)"
        if self.journey.is_drained:
            return "the queue is being moved to another node (smarthost drain --cancel)"
        suspensions = self.suspensions
        suspension = suspensions.of_domain(domain) or suspensions.of_sender(reverse_path, user)
        return "" if suspension is None else f"{say(suspension)} (smarthost resume {suspension.what})"
