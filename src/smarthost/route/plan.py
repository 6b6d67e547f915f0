# SPDX-License-Identifier: MIT
"""The planner: destination -> Plan or NoPlan. Drives the pure machines, asks the Resolver, remembers what it found.

Decides nothing itself but how long an answer stands. What the resolver cannot tell is temporary; an exception that gets
out of here (a bug) is for the caller to defer, it is never a bounce. Equals are drawn anew for each plan, remembered
or not. Nothing survives a restart. `smarthost plan` shows what this very code decides: `plan_anew`, with its evidence.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from smarthost.mail.address import recipient_domain
from smarthost.mail.errors import SmarthostError
from smarthost.mail.hop import SessionPolicy
from smarthost.mail.plan import NoPlan, Plan
from smarthost.ports import Answer, AnswerStatus, Clock, Deadline, Random, Resolver
from smarthost.route.hop import find_hop
from smarthost.route.mx import Exchangers, MxTerms, Ourselves, Unroutable, find_hosts
from smarthost.route.questions import FURTHER_LOOKUPS, Asking, Question, shorten
from smarthost.route.remembered import HopsPlan, Memory, MxPlan, NoPlanRemembered, Remembered
from smarthost.route.site import pack
from smarthost.route.source import Speaker
from smarthost.route.table import DirectMx, NextHop, NextHops, Refuse, RouteTable
from smarthost.route.tls_policy import policy_for

SITES_SHARED = 1024  # of which a new plan may use the text; who has more than a thousandth of all domains is among them
SHORTEST_S = 5.0  # a TTL of 0 must not make every message ask
LONGEST_S = 3600.0  # absurd TTLs exist; a moved exchanger is noticed within the hour
LONGEST_NEGATIVE_S = 300.0  # a bounce is final: a repaired domain must not keep bouncing
TEMPORARY_S = 5.0  # protects the resolver, not the message: its schedule is longer
STALE_S = 30.0  # as RFC 8767 4 wants for stale answers themselves
PARTIAL_S = 60.0  # some exchanger's answer is missing; asking for it may take the resolver's whole time
OTHERS_S = 8.0  # for a route's other next hops, once one is at hand; as a host has (send.opening.PATIENCE_S)
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
        self._ourselves = Ourselves(terms.speaker.helo.lower().removesuffix("."), terms.listening)
        self._remembered = Memory()
        self._sites: OrderedDict[str, str] = OrderedDict()  # longest unused first
        self._policies: dict[SessionPolicy, SessionPolicy] = {}  # each once; there are as many as kinds of route
        self._under_way: dict[str, asyncio.Event] = {}

    def listen_at(self, addresses: frozenset[tuple[str, int]]) -> None:
        """Learn the addresses and ports we listen on, which are not known before they are bound; forgets all plans."""
        self._ourselves = replace(self._ourselves, listening=addresses)
        self.forget()

    def forget(self) -> None:
        """Forget all plans, also those under way, so that DNS is asked again."""
        self._remembered = Memory()

    @property
    def resolvers(self) -> tuple[Resolver, Resolver]:
        """Who is asked, and who is asked about configured next hops."""
        return self._resolver, self._hop_resolver

    def adopt(self, terms: PlanTerms, resolver: Resolver, hop_resolver: Resolver | None = None) -> None:
        """Plan by other terms from now on, for the table as it is by now; forgets all plans, as `forget` does."""
        self._terms = terms
        self._resolver = resolver
        self._hop_resolver = hop_resolver if hop_resolver is not None else resolver
        self._ourselves = Ourselves(terms.speaker.helo.lower().removesuffix("."), self._ourselves.listening)
        self._policies.clear()
        self.forget()

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

    async def plan_hop(self, hop: NextHop) -> Plan | NoPlan:
        """Plan for a host that an operator names, whatever the routes say; nothing of it is remembered."""
        route = NextHops((hop,), "named by an operator")
        remembered, _ = self._conclude_hops(str(hop), route, await self._look_up_all(route.hops))
        return remembered.draw(self._random)

    async def _plan_for_all(self, destination: str) -> Plan | NoPlan:
        self._under_way[destination] = asked = asyncio.Event()
        try:
            remembered, _ = await self._find(destination)
            return remembered.draw(self._random)
        finally:
            del self._under_way[destination]
            asked.set()

    async def _find(self, destination: str) -> tuple[Remembered, tuple[str, ...]]:
        """Work out a plan, remember it, and give it with its evidence."""
        memory = self._remembered  # if it is another one by the end, what we found is from before `forget`
        route = self._table.route_of(destination)
        if isinstance(route, Refuse):
            no = NoPlan(destination, permanent=True, status="5.7.1", why=route.why, rule=route.rule)
            remembered: Remembered = NoPlanRemembered(no, self._clock.monotonic() + LONGEST_S)
            evidence: tuple[str, ...] = (f"route: {route.rule}",)
        elif isinstance(route, NextHops):
            remembered, evidence = self._conclude_hops(destination, route, await self._look_up_all(route.hops))
        else:
            remembered, evidence = await self._find_by_mx(destination, route)
        memory.keep(destination, remembered)
        return remembered, evidence

    async def _find_by_mx(self, destination: str, route: DirectMx) -> tuple[Remembered, tuple[str, ...]]:
        policy = self._policy_for(route)
        terms = self._terms
        mx_terms = MxTerms(
            self._ourselves,
            terms.mx_port,
            terms.allow_private,
            route.families.reached_from(policy.source),
            terms.further_lookups,
            terms.implicit_mx,
        )
        found = await self._drive(find_hosts(recipient_domain(destination), mx_terms, self._random), self._resolver)
        until = self._clock.monotonic() + _stands_s(found)
        if isinstance(found, Unroutable):
            no = NoPlan(destination, found.is_permanent, found.status, found.why, rule=route.rule)
            return NoPlanRemembered(no, until), found.evidence
        site = self._shared(pack(found.hosts))
        return MxPlan(destination, until, site, policy, route.rule, found.caveat), found.evidence

    def _conclude_hops(
        self, destination: str, route: NextHops, founds: Sequence[Exchangers | Unroutable]
    ) -> tuple[Remembered, tuple[str, ...]]:
        """Plan with the hops that can be used; what is against the others is told with each attempt, and asked soon."""
        lost = [found for found in founds if isinstance(found, Unroutable)]
        usable = [(hop, found) for hop, found in zip(route.hops, founds, strict=True) if isinstance(found, Exchangers)]
        evidence = tuple([line for found in founds for line in found.evidence])
        now = self._clock.monotonic()
        if not usable:
            why = "; ".join([found.why for found in lost])
            no = NoPlan(destination, permanent=False, status=lost[0].status, why=why, rule=route.rule)
            return NoPlanRemembered(no, now + TEMPORARY_S), evidence
        stands_s = min([*[_stands_s(found) for _, found in usable], *[PARTIAL_S for _ in lost]])
        caveats = [*[found.caveat for _, found in usable if found.caveat], *[shorten(found.why) for found in lost]]
        stops = tuple([(pack(found.hosts), self._policy_for(hop)) for hop, found in usable])
        return HopsPlan(destination, now + stands_s, stops, route.rule, "; ".join(caveats)), evidence

    def _policy_for(self, route: DirectMx | NextHop) -> SessionPolicy:
        policy = policy_for(route, self._terms.speaker, self._terms.mx_port)
        return self._policies.setdefault(policy, policy)

    def _shared(self, site: str) -> str:
        """Give the text of an equal site, so that domains at one provider have one."""
        site = self._sites.setdefault(site, site)
        self._sites.move_to_end(site)
        if len(self._sites) > SITES_SHARED:
            self._sites.popitem(last=False)
        return site

    # -- asking --------------------------------------------------------------------------------------------------------

    async def _look_up_all(self, hops: Sequence[NextHop]) -> list[Exchangers | Unroutable]:
        """Look up each hop, all at once; where one can be used the others have little time: DNS may be silent for one.

        Raises: ExceptionGroup: a bug.
        """
        if len(hops) == 1:
            return [await self._look_up(hops[0])]
        founds: dict[NextHop, Exchangers | Unroutable] = {}
        is_enough = asyncio.Event()
        patience: list[Deadline] = []

        async def look_up(hop: NextHop) -> None:
            founds[hop] = found = await self._look_up(hop)
            if len(founds) == len(hops):
                is_enough.set()
            elif isinstance(found, Exchangers) and not patience:
                patience.append(self._clock.deadline(OTHERS_S, is_enough.set))

        try:
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(look_up(hop)) for hop in hops]
                await is_enough.wait()
                for each in asked:
                    each.cancel()
        finally:
            for deadline in patience:
                deadline.cancel()
        return [founds.get(hop) or _late(hop) for hop in hops]

    async def _look_up(self, hop: NextHop) -> Exchangers | Unroutable:
        source = hop.speaker.with_default(self._terms.speaker).source
        machine = find_hop(hop, self._ourselves, self._terms.further_lookups, source)
        return await self._drive(machine, self._hop_resolver)

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


def _late(hop: NextHop) -> Unroutable:
    why = f"the next hop {hop.host} was not looked up within {OTHERS_S:.0f} s of another"
    return Unroutable("4.4.3", why, 0, (why,))
