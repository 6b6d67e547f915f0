# SPDX-License-Identifier: MIT
"""The planner: destination -> Plan or NoPlan. Drives the pure machines, asks the Resolver, remembers what it found.

Decides nothing itself but how long an answer stands. What the resolver cannot tell is temporary; an exception that gets
out of here (a bug) is for the caller to defer, it is never a bounce. Equals are drawn anew for each plan, remembered
or not. Nothing survives a restart. `smarthost plan` shows what this very code decides: `plan_anew`, with its evidence.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from smarthost.mail.errors import SmarthostError
from smarthost.mail.hop import Host, SessionPolicy
from smarthost.mail.plan import NoPlan, Plan
from smarthost.ports import Answer, AnswerStatus, Clock, Random, Resolver
from smarthost.route.hop import find_hop
from smarthost.route.mx import Exchangers, MxTerms, Ourselves, Unroutable, find_hosts
from smarthost.route.questions import FURTHER_LOOKUPS, Asking, Question
from smarthost.route.site import draw, each_once, pack
from smarthost.route.source import Speaker, Speakers
from smarthost.route.table import DirectMx, NextHop, Refuse, RouteTable
from smarthost.route.tls_policy import policy_for

PLANS_REMEMBERED = 100_000  # python -m bench.routes prints what each takes
OCTETS_REMEMBERED = 64 << 20  # of these plans, as they count themselves: with 370 octets of text each it is as many
PLAN_OCTETS = 300  # what one takes besides its texts (python -m bench.routes: 340 with 56 octets of text)
SITES_SHARED = 1024  # of which a new plan may use the text; who has more than a thousandth of all domains is among them
SHORTEST_S = 5.0  # a TTL of 0 must not make every message ask
LONGEST_S = 3600.0  # absurd TTLs exist; a moved exchanger is noticed within the hour
LONGEST_NEGATIVE_S = 300.0  # a bounce is final: a repaired domain must not keep bouncing
TEMPORARY_S = 5.0  # protects the resolver, not the message: its schedule is longer
STALE_S = 30.0  # as RFC 8767 4 wants for stale answers themselves
PARTIAL_S = 60.0  # some exchanger's answer is missing; asking for it may take the resolver's whole time
PLANNING_S = 60.0  # no further round of questions after this; each round ends within the resolver's 30 s


class PlanTerms(Struct, frozen=True, gc=False):
    """The operator's choices: who speaks, who we are, where test networks differ; others as in route.mx.MxTerms."""

    speaker: Speaker
    listening: frozenset[tuple[str, int]] = frozenset()
    mx_port: int = 25
    allow_private: bool = False
    further_lookups: int = FURTHER_LOOKUPS
    implicit_mx: bool = True


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
        self._remembered = _Memory()
        self._sites: OrderedDict[str, str] = OrderedDict()  # longest unused first
        self._policies: dict[SessionPolicy, SessionPolicy] = {}  # each once; there are as many as kinds of route
        self._under_way: dict[str, asyncio.Event] = {}

    def listen_at(self, addresses: frozenset[tuple[str, int]]) -> None:
        """Learn the addresses and ports we listen on, which are not known before they are bound; forgets all plans."""
        self._ourselves = replace(self._ourselves, listening=addresses)
        self.forget()

    def forget(self) -> None:
        """Forget all plans, also those under way, so that DNS is asked again."""
        self._remembered = _Memory()

    async def plan(self, destination: str) -> Plan | NoPlan:
        """Plan for a destination (RouteTable.destination_of, or a recipient domain). No evidence. Safe to cancel."""
        while True:
            remembered = self._remembered.get(destination)
            if remembered is not None and remembered.until > self._clock.monotonic():
                self._remembered.move_to_end(destination)
                return remembered.draw(self._random)
            under_way = self._under_way.get(destination)
            if under_way is None:
                return await self._plan_for_all(destination)
            await under_way.wait()  # then it is remembered; or who asked has failed, and it is our turn

    def recall(self, destination: str) -> Plan | NoPlan | None:
        """Give the last plan if it is remembered, its time over or not: to know where mail would go, not to send it."""
        remembered = self._remembered.get(destination)
        return None if remembered is None else remembered.draw(self._random)

    async def plan_anew(self, destination: str) -> Plan | NoPlan:
        """Plan as `plan` does, but ask the resolver whatever is remembered, and tell with what evidence.

        Replaces what is remembered. Safe to cancel.
        """
        remembered, evidence = await self._find(destination)
        return replace(remembered.draw(self._random), evidence=evidence)

    async def _plan_for_all(self, destination: str) -> Plan | NoPlan:
        self._under_way[destination] = asked = asyncio.Event()
        try:
            remembered, _ = await self._find(destination)
            return remembered.draw(self._random)
        finally:
            del self._under_way[destination]
            asked.set()

    async def _find(self, destination: str) -> "tuple[_Remembered, tuple[str, ...]]":
        """Work out a plan, remember it, and give it with its evidence."""
        memory = self._remembered  # if it is another one by the end, what we found is from before `forget`
        route = self._table.route_of(destination)
        if isinstance(route, Refuse):
            no = NoPlan(destination, permanent=True, status="5.7.1", why=route.why, rule=route.rule)
            remembered: _Remembered = _NoPlanRemembered(no, self._clock.monotonic() + LONGEST_S)
            evidence: tuple[str, ...] = (f"route: {route.rule}",)
        else:
            found = await self._drive(destination, route)
            remembered, evidence = self._conclude(destination, route, found), found.evidence
        memory.keep(destination, remembered)
        return remembered, evidence

    def _conclude(self, destination: str, route: DirectMx | NextHop, found: Exchangers | Unroutable) -> "_Remembered":
        until = self._clock.monotonic() + _stands_s(found)
        if isinstance(found, Unroutable):
            no = NoPlan(destination, found.is_permanent, found.status, found.why, rule=route.rule)
            return _NoPlanRemembered(no, until)
        policy = policy_for(route, self._speakers.speaker_of(destination), self._terms.mx_port)
        policy = self._policies.setdefault(policy, policy)
        return _PlanRemembered(destination, until, self._shared(pack(found.hosts)), policy, route, found.caveat)

    def _shared(self, site: str) -> str:
        """Give the text of an equal site, so that domains at one provider have one."""
        site = self._sites.setdefault(site, site)
        self._sites.move_to_end(site)
        if len(self._sites) > SITES_SHARED:
            self._sites.popitem(last=False)
        return site

    # -- asking --------------------------------------------------------------------------------------------------------

    def _machine(self, destination: str, route: DirectMx | NextHop) -> tuple[Asking[Exchangers | Unroutable], Resolver]:
        ours, terms = self._ourselves, self._terms
        if isinstance(route, NextHop):
            return find_hop(route, ours, terms.further_lookups), self._hop_resolver
        mx_terms = MxTerms(
            ours,
            terms.mx_port,
            terms.allow_private,
            route.families,
            terms.further_lookups,
            terms.implicit_mx,
        )
        return find_hosts(destination, mx_terms, self._random), self._resolver

    async def _drive(self, destination: str, route: DirectMx | NextHop) -> Exchangers | Unroutable:
        machine, resolver = self._machine(destination, route)
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
    if isinstance(found, Unroutable):
        longest = LONGEST_NEGATIVE_S if found.is_permanent else TEMPORARY_S
    elif found.caveat:
        longest = STALE_S
    elif found.is_partial:
        return PARTIAL_S
    else:
        longest = LONGEST_S
    return max(SHORTEST_S, min(found.ttl_s, longest))


class _PlanRemembered(Struct, frozen=True, gc=False):
    """A plan in little memory, and until when it stands (monotonic seconds): all but `site` is shared or short."""

    destination: str
    until: float
    site: str
    policy: SessionPolicy
    route: DirectMx | NextHop
    caveat: str

    @property
    def octets(self) -> int:
        """About what it takes; a site counts in full although domains at one provider share its text."""
        return PLAN_OCTETS + len(self.destination) + len(self.site) + len(self.caveat)

    def draw(self, random: Random) -> Plan:
        """Give the plan with its equals drawn anew."""
        hosts, destination, policy, route = draw(self.site, random), self.destination, self.policy, self.route
        lane = destination if isinstance(route, NextHop) else lane_of(hosts, policy.port)
        return Plan(destination, lane, each_once(hosts), policy, route.rule, caveat=self.caveat)


class _NoPlanRemembered(Struct, frozen=True, gc=False):
    """That there is no plan, and until when."""

    no_plan: NoPlan
    until: float

    @property
    def octets(self) -> int:
        """About what it takes."""
        return PLAN_OCTETS + len(self.no_plan.destination) + len(self.no_plan.why)

    def draw(self, random: Random) -> NoPlan:
        return self.no_plan


_Remembered: TypeAlias = _PlanRemembered | _NoPlanRemembered


class _Memory(OrderedDict[str, _Remembered]):
    """What is remembered, longest unused first, bounded by number and octets; only `keep` and `move_to_end` change it.

    Both bounds, because a stranger's DNS says how long names are: ten exchangers of 200 octets each take 3 KB a plan.
    """

    def __init__(self) -> None:
        super().__init__()
        self.octets = 0

    def keep(self, destination: str, remembered: _Remembered) -> None:
        """Remember this, in place of what was, and forget what was not used longest as far as there is no room."""
        old = self.pop(destination, None)
        self.octets += remembered.octets - (old.octets if old is not None else 0)
        self[destination] = remembered
        while len(self) > PLANS_REMEMBERED or (self.octets > OCTETS_REMEMBERED and len(self) > 1):
            _, forgotten = self.popitem(last=False)
            self.octets -= forgotten.octets
