# SPDX-License-Identifier: MIT
"""The planner: destination -> Plan or NoPlan. Drives the pure machines, asks the Resolver, remembers what it found.

Decides nothing itself but how long an answer stands. What the resolver cannot tell is temporary; an exception that gets
out of here (a bug) is for the caller to defer, it is never a bounce. Equals are drawn anew for each plan, remembered
or not. Nothing survives a restart. `smarthost plan` shows what this very code decides.
"""

import asyncio
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from smarthost.mail.errors import SmarthostError
from smarthost.mail.hop import Host
from smarthost.mail.plan import NoPlan, Plan
from smarthost.ports import Answer, AnswerStatus, Clock, Random, Resolver
from smarthost.route.hop import find_hop
from smarthost.route.mx import Exchangers, MxTerms, Ourselves, Unroutable, find_hosts
from smarthost.route.questions import Asking, Question
from smarthost.route.source import Speaker, Speakers
from smarthost.route.table import NextHop, Refuse, Route, RouteTable
from smarthost.route.tls_policy import policy_for

PLANS_REMEMBERED = 20_000  # about 1 KiB each
SHORTEST_S = 5.0  # a TTL of 0 must not make every message ask
LONGEST_S = 3600.0  # absurd TTLs exist; a moved exchanger is noticed within the hour
LONGEST_NEGATIVE_S = 300.0  # a bounce is final: a repaired domain must not keep bouncing
TEMPORARY_S = 5.0  # protects the resolver, not the message: its schedule is longer
PARTIAL_S = 60.0  # some exchanger's answer is missing; asking for it may take the resolver's whole time
PLANNING_S = 60.0  # no further round of questions after this; each round ends within the resolver's 30 s


class PlanTerms(Struct, frozen=True, gc=False):
    """The operator's choices: who speaks, who we are, and where test networks differ from the world."""

    speaker: Speaker
    listening: frozenset[tuple[str, int]] = frozenset()
    mx_port: int = 25
    allow_private: bool = False


class Planner:
    """Plans for one event loop. `hop_resolver`, if given, resolves configured next hops (hosts file, search list)."""

    def __init__(
        self,
        table: RouteTable,
        resolver: Resolver,
        clock: Clock,
        random: Random,
        terms: PlanTerms,
        hop_resolver: Resolver | None = None,
    ) -> None:
        self._table = table
        self._resolver = resolver
        self._hop_resolver = hop_resolver if hop_resolver is not None else resolver
        self._clock = clock
        self._random = random
        self._terms = terms
        self._speakers = Speakers(terms.speaker)
        self._ourselves = Ourselves(terms.speaker.helo.lower().removesuffix("."), terms.listening)
        self._remembered: dict[str, _Remembered] = {}  # longest unused first
        self._under_way: dict[str, asyncio.Event] = {}

    def listen_at(self, addresses: frozenset[tuple[str, int]]) -> None:
        """Learn the addresses and ports we listen on, which are not known before they are bound; forgets all plans."""
        self._ourselves = replace(self._ourselves, listening=addresses)
        self.forget()

    def forget(self) -> None:
        """Forget all plans, so that DNS is asked again."""
        self._remembered.clear()

    async def plan(self, destination: str) -> Plan | NoPlan:
        """Plan for a destination (RouteTable.destination_of, or a recipient domain). Safe to cancel."""
        while True:
            remembered = self._remembered.get(destination)
            if remembered is not None and remembered.until > self._clock.monotonic():
                del self._remembered[destination]
                self._remembered[destination] = remembered
                return remembered.draw(self._random)
            under_way = self._under_way.get(destination)
            if under_way is None:
                return (await self._plan_anew(destination)).draw(self._random)
            await (
                under_way.wait()
            )  # whoever asks now will have remembered the plan, or have failed: then it is our turn

    async def _plan_anew(self, destination: str) -> "_Remembered":
        self._under_way[destination] = asked = asyncio.Event()
        try:
            remembered = await self._find(destination)
            self._remembered.pop(destination, None)
            if len(self._remembered) >= PLANS_REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[destination] = remembered
            return remembered
        finally:
            del self._under_way[destination]
            asked.set()

    async def _find(self, destination: str) -> "_Remembered":
        route = self._table.route_of(destination)
        if isinstance(route, Refuse):
            no = NoPlan(destination, permanent=True, status="5.7.1", why=route.why, evidence=(f"route: {route.rule}",))
            return _Remembered(no, self._clock.monotonic() + LONGEST_S)
        if isinstance(route, NextHop):
            found = await self._drive(find_hop(route, self._ourselves), self._hop_resolver)
        else:
            terms = MxTerms(self._ourselves, self._terms.mx_port, self._terms.allow_private, route.families)
            found = await self._drive(find_hosts(destination, terms, self._random), self._resolver)
        until = self._clock.monotonic() + _stands_s(found)
        if isinstance(found, Unroutable):
            no = NoPlan(destination, found.is_permanent, found.status, found.why, evidence=found.evidence)
            return _Remembered(no, until)
        return _Remembered(self._compose(destination, route, found), until, found if found.varies else None)

    def _compose(self, destination: str, route: Route, found: Exchangers) -> Plan:
        assert not isinstance(route, Refuse), "a refused destination has no hosts"
        policy = policy_for(route, self._speakers.speaker_of(destination), self._terms.mx_port)
        lane = destination if isinstance(route, NextHop) else lane_of(found.hosts, policy.port)
        return Plan(destination, lane, found.hosts, policy, route.rule, found.evidence)

    # -- asking --------------------------------------------------------------------------------------------------------

    async def _drive(self, machine: Asking[Exchangers | Unroutable], resolver: Resolver) -> Exchangers | Unroutable:
        last_round = self._clock.monotonic() + PLANNING_S
        found: Exchangers | Unroutable
        try:
            questions = next(machine)
            while self._clock.monotonic() < last_round:
                questions = machine.send(await _ask_all(resolver, questions))
        except StopIteration as end:
            found = end.value
            return found
        why = f"DNS took more than {PLANNING_S:.0f} s, {questions[0].rdtype} {questions[0].name} was not asked any more"
        return Unroutable("4.4.3", why, 0, (why,))


async def _ask_all(resolver: Resolver, questions: Sequence[Question]) -> tuple[Answer, ...]:
    if len(questions) == 1:
        return (await _ask(resolver, questions[0]),)
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(_ask(resolver, question)) for question in questions]
    return tuple(each.result() for each in asked)


async def _ask(resolver: Resolver, question: Question) -> Answer:
    """A resolver's failures are values; one that raises them all the same has not answered."""
    try:
        return await resolver.ask(question.name, question.rdtype)
    except (SmarthostError, OSError) as failure:
        return Answer(question.name, question.rdtype, AnswerStatus.SERVFAIL, detail=f"the resolver failed: {failure}")


def lane_of(hosts: Sequence[Host], port: int) -> str:
    """Name the lane of a set of MX hosts, whatever their order."""
    return f"{','.join(sorted(host.name for host in hosts))}:{port}"


def _stands_s(found: Exchangers | Unroutable) -> float:
    """How long a conclusion is remembered."""
    if isinstance(found, Exchangers):
        if found.is_partial:
            return PARTIAL_S
        longest = LONGEST_S
    else:
        longest = LONGEST_NEGATIVE_S if found.is_permanent else TEMPORARY_S
    return max(SHORTEST_S, min(found.ttl_s, longest))


class _Remembered:
    """A plan as it was worked out, until when it stands (monotonic seconds), and its hosts where draws differ."""

    __slots__ = ("_exchangers", "_plan", "until")

    def __init__(self, plan: Plan | NoPlan, until: float, exchangers: Exchangers | None = None) -> None:
        self._plan = plan
        self._exchangers = exchangers
        self.until = until

    def draw(self, random: Random) -> Plan | NoPlan:
        """Give the plan with its equals drawn anew."""
        plan, exchangers = self._plan, self._exchangers
        if exchangers is None or isinstance(plan, NoPlan):
            return plan
        hosts = exchangers.draw(random)
        return Plan(plan.destination, plan.lane, hosts, plan.policy, plan.rule, plan.evidence)
