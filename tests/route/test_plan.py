# SPDX-License-Identifier: MIT
"""The planner: what is asked, what is remembered and how long, what is shared, and what never bounces."""

import asyncio
import random
from collections import Counter

import pytest
from msgspec.structs import replace

from smarthost.mail.errors import CanonicalNameLoop
from smarthost.mail.hop import Credentials, Host, SessionPolicy, TlsLevel
from smarthost.mail.plan import NoPlan, Plan
from smarthost.ports import Answer, AnswerStatus, Resolver
from smarthost.route import remembered as remembered_module
from smarthost.route.plan import Planner, PlanTerms
from smarthost.route.remembered import MxPlan, lane_of
from smarthost.route.source import Speaker
from smarthost.route.table import NextHop, NextHops, Refuse, RouteTable
from smarthost.testing.clock import FakeClock
from smarthost.testing.dns import Fault, ScriptedResolver, Zone

HELO = "relay.example.net"
A, B = "1.0.0.1", "1.0.0.2"


class Rig:
    """A planner over a scripted zone."""

    def __init__(
        self,
        zone: Zone,
        table: RouteTable | None = None,
        resolver: Resolver | None = None,
        further_lookups: int = 3,
        *,
        implicit_mx: bool = True,
    ) -> None:
        self.zone = zone
        self.clock = FakeClock()
        self.resolver = ScriptedResolver(zone)
        self.hop_resolver = ScriptedResolver(zone)
        self.planner = Planner(
            table or RouteTable(),
            resolver or self.resolver,
            self.clock,
            random.Random(5),
            PlanTerms(Speaker(HELO), mx_port=25, further_lookups=further_lookups, implicit_mx=implicit_mx),
            hop_resolver=self.hop_resolver,
        )

    async def plan(self, destination: str = "example.org") -> Plan:
        plan = await self.planner.plan(destination)
        assert isinstance(plan, Plan), plan
        return plan

    async def no_plan(self, destination: str = "example.org") -> NoPlan:
        plan = await self.planner.plan(destination)
        assert isinstance(plan, NoPlan), plan
        return plan

    @property
    def questions(self) -> int:
        return self.resolver.asked.total()


def two_hosts(ttl_s: int = 300) -> Zone:
    return Zone(
        {
            "example.org": (f"{ttl_s} MX 10 b.example.net", f"{ttl_s} MX 10 a.example.net"),
            "a.example.net": f"{ttl_s} A {A}",
            "b.example.net": f"{ttl_s} A {B}",
        },
        negative_ttl_s=ttl_s,
    )


@pytest.mark.asyncio
async def test_plan_by_mx_names_hosts_lane_policy_and_rule() -> None:
    """A plan says whom to try, how, in which lane, and by which rule."""
    rig = Rig(two_hosts())

    plan = await rig.plan()

    assert set(plan.hosts) == {Host("a.example.net", (A,), 10), Host("b.example.net", (B,), 10)}
    assert (plan.destination, plan.lane) == ("example.org", "a.example.net,b.example.net:25")
    assert plan.policy == SessionPolicy(HELO, 25, TlsLevel.OPPORTUNISTIC)
    assert (plan.rule, plan.caveat) == ("default", "")


@pytest.mark.asyncio
async def test_domains_at_the_same_hosts_share_a_lane() -> None:
    """A thousand domains at one provider share its limits, whatever their preferences and order."""
    zone = two_hosts()
    zone.set("other.example", "MX 5 a.example.net", "MX 7 b.example.net")
    rig = Rig(zone)

    lanes = {(await rig.plan(domain)).lane for domain in ("example.org", "other.example")}

    assert len(lanes) == 1


def test_lane_tells_ports_apart() -> None:
    """Another port is another service."""
    hosts = (Host("b", ("1",)), Host("a", ("2",)))

    assert lane_of(hosts, 25) == "a,b:25"
    assert lane_of(hosts, 26) != lane_of(hosts, 25)


@pytest.mark.asyncio
async def test_fixed_next_hop_is_planned_as_configured() -> None:
    """Everything goes to the operator's host, private address or not, with the operator's TLS and password."""
    credentials = Credentials("u", "p")
    hop = NextHop("hop.example", 587, TlsLevel.VERIFIED, credentials=credentials)
    table = RouteTable(NextHops((hop,)))
    rig = Rig(Zone({"hop.example": "A 10.0.0.1"}), table)
    destination = table.destination_of("example.org")

    plan = await rig.plan(destination)

    assert plan.hosts == (Host("hop.example", ("10.0.0.1",)),)
    assert plan.lane == plan.destination == "hop:hop.example:587"
    assert plan.policy == SessionPolicy(HELO, 587, TlsLevel.VERIFIED, credentials=credentials)
    assert rig.questions == 0, "next hops are the hop resolver's"
    assert set(rig.hop_resolver.asked) == {("hop.example", "A"), ("hop.example", "AAAA")}


@pytest.mark.asyncio
async def test_refused_domain_bounces_with_the_operators_words() -> None:
    """A refusing route is a permanent verdict that asks nobody."""
    rig = Rig(two_hosts(), RouteTable(routes={"example.org": Refuse("we do not write to these")}))

    no_plan = await rig.no_plan()

    assert (no_plan.permanent, no_plan.status, no_plan.why) == (True, "5.7.1", "we do not write to these")
    assert no_plan.rule == 'routes."example.org"'
    assert rig.questions == 0


@pytest.mark.asyncio
async def test_plan_is_remembered_for_its_ttl() -> None:
    """DNS is not asked again while the answer stands, and is when it does not."""
    rig = Rig(two_hosts(ttl_s=100))

    await rig.plan()
    asked = rig.questions
    rig.clock.advance(99)
    await rig.plan()
    assert rig.questions == asked
    rig.clock.advance(1)
    await rig.plan()

    assert rig.questions == 2 * asked


@pytest.mark.asyncio
@pytest.mark.parametrize(("ttl_s", "stands_s"), [(0, 5), (1, 5), (2**31 - 1, 3600)])
async def test_absurd_ttls_are_bounded(ttl_s: int, stands_s: int) -> None:
    """TTL 0 does not make every message ask; a TTL of years does not pin a moved host."""
    rig = Rig(two_hosts(ttl_s=ttl_s))
    await rig.plan()
    asked = rig.questions

    rig.clock.advance(stands_s - 0.01)
    await rig.plan()
    assert rig.questions == asked
    rig.clock.advance(0.01)
    await rig.plan()

    assert rig.questions == 2 * asked


@pytest.mark.asyncio
async def test_permanent_verdict_is_remembered_for_minutes_at_most() -> None:
    """A repaired domain does not go on bouncing."""
    rig = Rig(Zone(negative_ttl_s=86400))
    assert (await rig.no_plan()).permanent
    rig.zone.set("example.org", f"A {A}")

    rig.clock.advance(299)
    assert (await rig.no_plan()).permanent
    rig.clock.advance(1)

    assert (await rig.plan()).hosts[0].addresses == (A,)


@pytest.mark.asyncio
async def test_temporary_verdict_is_remembered_for_seconds() -> None:
    """A thousand messages do not hammer a broken resolver, and a repaired one is noticed at once."""
    rig = Rig(two_hosts())
    rig.zone.faults["example.org"] = Fault.SERVFAIL
    for _ in range(10):
        assert not (await rig.no_plan()).permanent
    assert rig.questions == 1
    rig.zone.faults.clear()

    rig.clock.advance(5)

    await rig.plan()


@pytest.mark.asyncio
async def test_plan_with_a_missing_answer_is_made_again_within_a_minute() -> None:
    """While a better exchanger cannot be looked up mail goes to the others, but not for an hour."""
    rig = Rig(two_hosts(ttl_s=3600))
    rig.zone.faults["a.example.net"] = Fault.TIMEOUT
    assert [host.name for host in (await rig.plan()).hosts] == ["b.example.net"]
    rig.zone.faults.clear()

    rig.clock.advance(59)
    assert len((await rig.plan()).hosts) == 1
    rig.clock.advance(1)

    assert len((await rig.plan()).hosts) == 2


@pytest.mark.asyncio
async def test_equals_are_drawn_anew_from_memory() -> None:
    """A remembered plan spreads the load just as a fresh one."""
    rig = Rig(two_hosts())

    firsts = Counter([(await rig.plan()).hosts[0].name for _ in range(1000)])

    assert rig.questions == 5
    assert all(430 < count < 570 for count in firsts.values())  # 4.4 standard deviations
    assert len(firsts) == 2


@pytest.mark.asyncio
async def test_plan_anew_asks_again_and_shows_its_evidence() -> None:
    """What `smarthost plan` shows is what DNS says now; afterwards mail goes by it too."""
    rig = Rig(two_hosts())
    await rig.plan()
    rig.zone.set("example.org", "MX 10 a.example.net")

    shown = await rig.planner.plan_anew("example.org")
    used = await rig.plan()

    assert isinstance(shown, Plan)
    assert shown.evidence == ("MX example.org: 10 a.example.net", f"A a.example.net: {A}", "AAAA a.example.net: NODATA")
    assert used == replace(shown, evidence=())


@pytest.mark.asyncio
async def test_plan_anew_shows_why_there_is_none() -> None:
    """A verdict comes with what led to it as well, and with its rule; what is remembered has only the reason."""
    rig = Rig(Zone({"example.org": "MX 10 gone.example"}))

    shown = await rig.planner.plan_anew("example.org")
    used = await rig.no_plan()

    assert shown.evidence[-1] == "5.4.4: no exchanger of example.org has an address: gone.example"
    assert used == replace(shown, evidence=())
    assert (used.rule, used.why) == ("default", "no exchanger of example.org has an address: gone.example")


@pytest.mark.asyncio
async def test_plan_anew_of_a_refused_domain_names_the_route() -> None:
    """Nobody is asked, and the evidence is the rule."""
    rig = Rig(Zone(), RouteTable(routes={"example.org": Refuse("closed")}))

    assert (await rig.planner.plan_anew("example.org")).evidence == ('route: routes."example.org"',)


@pytest.mark.asyncio
async def test_plan_anew_does_not_wait_for_another() -> None:
    """An operator who asks while a plan hangs gets an answer of his own."""
    slow = SlowResolver(two_hosts())
    rig = Rig(slow._inner.zone, resolver=slow)
    hanging = asyncio.ensure_future(rig.plan())
    await asyncio.sleep(0)

    asked = asyncio.ensure_future(rig.planner.plan_anew("example.org"))
    await asyncio.sleep(0)
    both = slow.asked["example.org", "MX"]
    slow.go.set()

    assert (await asked).destination == (await hanging).destination == "example.org"
    assert both == 2


class StaleResolver(ScriptedResolver):
    """Says what it knew before DNS fell silent."""

    async def ask(self, name: str, rdtype: str) -> Answer:
        return replace(await super().ask(name, rdtype), stale=True, detail="3 h past its TTL")


@pytest.mark.asyncio
async def test_plan_on_stale_answers_says_so_and_stands_half_a_minute() -> None:
    """Mail goes on while DNS is silent, each record says by what, and the plan is made anew soon."""
    rig = Rig(two_hosts(ttl_s=3600), resolver=(stale := StaleResolver(two_hosts(ttl_s=3600))))

    plan = await rig.plan()
    asked = stale.asked.total()
    rig.clock.advance(29)
    await rig.plan()
    assert stale.asked.total() == asked
    rig.clock.advance(1)
    await rig.plan()

    assert plan.caveat == "DNS does not answer: MX example.org is stale (3 h past its TTL)"
    assert stale.asked.total() == 2 * asked


@pytest.mark.asyncio
async def test_permanent_verdict_on_stale_answers_is_temporary() -> None:
    """A domain that took no mail when DNS was last heard is not bounced by; its verdict stands for seconds."""
    zone = Zone({"example.org": "MX 0 ."})
    rig = Rig(zone, resolver=(stale := StaleResolver(zone)))

    no_plan = await rig.no_plan()
    rig.clock.advance(5)
    await rig.no_plan()

    assert (no_plan.permanent, no_plan.status) == (False, "4.1.10")
    assert stale.asked.total() == 2


@pytest.mark.asyncio
async def test_the_operators_terms_reach_the_machines() -> None:
    """How far aliases are followed is one setting for exchangers and for next hops."""
    links = {f"c{n}.example": f"CNAME c{n + 1}.example" for n in range(3)}
    zone = Zone(links | {"c3.example": ("MX 10 c3.example", f"A {A}")}, faults=dict.fromkeys(links, Fault.HALF_ALIAS))
    table = RouteTable(routes={"hop.example": NextHops((NextHop("c0.example"),))})
    destinations = ("c0.example", table.destination_of("hop.example"))

    found = {
        n: [type(await Rig(zone, table, further_lookups=n).planner.plan(each)) for each in destinations] for n in (1, 2)
    }

    assert found == {1: [NoPlan, NoPlan], 2: [Plan, Plan]}


@pytest.mark.asyncio
@pytest.mark.parametrize("implicit_mx", [True, False])
async def test_whether_a_domain_without_mx_is_its_own_exchanger_reaches_the_machine(*, implicit_mx: bool) -> None:
    """Who wants MX records only gets no plan for a domain that has none; others go to its address."""
    rig = Rig(Zone({"example.org": f"A {A}"}), implicit_mx=implicit_mx)

    plan = await rig.planner.plan("example.org")

    assert isinstance(plan, Plan) is implicit_mx
    assert isinstance(plan, Plan) or (plan.permanent, plan.status) == (True, "5.4.4")


@pytest.mark.asyncio
async def test_address_behind_two_exchangers_is_planned_once() -> None:
    """One machine with two names is dialled once in an attempt; its domains still share one lane."""
    zone = two_hosts()
    zone.set("b.example.net", f"A {A}")
    zone.set("other.example", "MX 5 a.example.net", "MX 7 b.example.net")
    rig = Rig(zone)

    plan, other = await rig.plan(), await rig.plan("other.example")

    assert [len(each.hosts) for each in (plan, other)] == [1, 1]
    assert plan.lane == other.lane == "a.example.net,b.example.net:25"


@pytest.mark.asyncio
async def test_plan_under_way_when_all_is_forgotten_is_not_remembered() -> None:
    """What was asked before the relay knew its own addresses does not outlive the moment it learns them."""
    slow = SlowResolver(two_hosts())
    rig = Rig(slow._inner.zone, resolver=slow)
    early = asyncio.ensure_future(rig.plan())
    await asyncio.sleep(0)

    rig.planner.listen_at(frozenset({(A, 25), (B, 25)}))
    slow.go.set()
    await asyncio.gather(early, return_exceptions=True)

    assert (await rig.no_plan()).status == "5.4.6"


@pytest.mark.asyncio
async def test_equal_sites_policies_and_names_are_kept_once() -> None:
    """A hundred thousand domains at one provider do not cost a hundred thousand copies of its hosts."""
    zone = two_hosts()
    zone.set("other.example", "MX 10 a.example.net", "MX 10 b.example.net")
    rig = Rig(zone)

    await rig.plan("".join(("example", ".org")))
    plan, other = await rig.plan("".join(("example", ".org"))), await rig.plan("other.example")

    kept = list(rig.planner._remembered.items())
    assert [key for key, _ in kept] == ["example.org", "other.example"]
    assert all(key is remembered.draw(random.Random(1)).destination for key, remembered in kept)
    assert plan.policy is other.policy
    assert plan.rule is other.rule
    assert len({id(remembered.site) for _, remembered in kept if isinstance(remembered, MxPlan)}) == 1


class SlowResolver:
    """Answers when it is let go."""

    def __init__(self, zone: Zone) -> None:
        self._inner = ScriptedResolver(zone)
        self.go = asyncio.Event()
        self.asked = self._inner.asked

    async def ask(self, name: str, rdtype: str) -> Answer:
        answer = await self._inner.ask(name, rdtype)
        await self.go.wait()
        return answer


@pytest.mark.asyncio
async def test_plans_under_way_are_shared() -> None:
    """A hundred messages for one domain ask DNS once."""
    slow = SlowResolver(two_hosts())
    rig = Rig(slow._inner.zone, resolver=slow)

    waiting = [asyncio.ensure_future(rig.plan()) for _ in range(100)]
    await asyncio.sleep(0)
    slow.go.set()
    plans = await asyncio.gather(*waiting)

    assert slow.asked.total() == 5
    assert {plan.lane for plan in plans} == {"a.example.net,b.example.net:25"}


@pytest.mark.asyncio
async def test_who_stops_waiting_harms_nobody() -> None:
    """When the one who asked is cancelled another takes over; when a waiter is, nothing happens."""
    slow = SlowResolver(two_hosts())
    rig = Rig(slow._inner.zone, resolver=slow)
    first, second, third = (asyncio.ensure_future(rig.plan()) for _ in range(3))
    await asyncio.sleep(0)

    first.cancel()
    third.cancel()
    await asyncio.sleep(0)
    slow.go.set()

    assert (await second).destination == "example.org"
    assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], asyncio.CancelledError)
    assert rig.planner._under_way == {}


class BrokenResolver:
    """Breaks the promise never to raise."""

    def __init__(self, failure: Exception) -> None:
        self.failure = failure

    async def ask(self, name: str, rdtype: str) -> Answer:
        raise self.failure


@pytest.mark.asyncio
@pytest.mark.parametrize("failure", [OSError("no descriptors"), TimeoutError(), CanonicalNameLoop("a")])
async def test_failing_resolver_defers(failure: Exception) -> None:
    """A local failure is temporary and says what it was."""
    rig = Rig(Zone(), resolver=BrokenResolver(failure))

    no_plan = await rig.no_plan()

    assert (no_plan.permanent, no_plan.status) == (False, "4.4.3")
    assert "the resolver failed" in no_plan.why


@pytest.mark.asyncio
async def test_bug_in_a_resolver_is_no_verdict() -> None:
    """An unexpected exception goes to whoever defers the lease; it never bounces, and planning goes on."""
    broken = BrokenResolver(KeyError("bug"))
    rig = Rig(two_hosts(), resolver=broken)

    with pytest.raises(KeyError):
        await rig.planner.plan("example.org")

    assert rig.planner._under_way == {}
    broken.failure = OSError("repaired, somewhat")
    assert not (await rig.no_plan()).permanent


@pytest.mark.asyncio
async def test_planning_ends_although_every_round_is_slow() -> None:
    """A name that costs the resolver's whole time in each round does not keep a plan under way for ever."""

    class Endless:
        async def ask(self, name: str, rdtype: str) -> Answer:
            rig.clock.advance(25)
            return Answer(name, rdtype, AnswerStatus.NODATA, canonical=f"x.{name}", aliases=(name,))

    rig = Rig(Zone(), resolver=Endless())

    no_plan = await rig.no_plan()

    assert (no_plan.permanent, no_plan.status) == (False, "4.4.3")
    assert "more than 60 s" in no_plan.why


@pytest.mark.asyncio
async def test_listening_addresses_are_learned_late() -> None:
    """Once bound we know ourselves, and what was planned before is forgotten."""
    rig = Rig(two_hosts())
    assert len((await rig.plan()).hosts) == 2

    rig.planner.listen_at(frozenset({(A, 25), (B, 25)}))

    assert (await rig.no_plan()).status == "5.4.6"


@pytest.mark.asyncio
async def test_forget_asks_dns_again() -> None:
    """An operator who repaired DNS need not wait."""
    rig = Rig(Zone())
    assert (await rig.no_plan()).permanent
    rig.zone.set("example.org", f"A {A}")

    rig.planner.forget()

    await rig.plan()


@pytest.mark.asyncio
async def test_remembered_plans_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not used longest is forgotten first."""
    monkeypatch.setattr(remembered_module, "PLANS_REMEMBERED", 3)
    rig = Rig(Zone({f"{name}.example": f"A {A}" for name in "abcd"}))
    for name in "abcad":
        await rig.plan(f"{name}.example")
    asked = rig.questions

    for name in "acd":
        await rig.plan(f"{name}.example")
    assert rig.questions == asked
    await rig.plan("b.example")

    assert rig.questions > asked


def long_names(*domains: str) -> Zone:
    """Domains with ten exchangers each, of 200 octets and their own."""
    zone = Zone()
    for domain in domains:
        names = [f"{n}.{'x' * 60}.{'y' * 60}.{'z' * 60}.{domain}" for n in range(10)]
        zone.set(domain, *(f"MX {10 + n} {name}" for n, name in enumerate(names)))
        for name in names:
            zone.set(name, f"A {A}")
    return zone


@pytest.mark.asyncio
async def test_remembered_plans_are_bounded_by_octets_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names ten exchangers at length takes the room of few plans, not of a hundred thousand times 3 KB."""
    monkeypatch.setattr(remembered_module, "OCTETS_REMEMBERED", 9_000)
    domains = [f"d{n}.example" for n in range(10)]
    rig = Rig(long_names(*domains))

    for domain in (*domains, domains[7], domains[0]):
        await rig.planner.plan(domain)
    memory = rig.planner._remembered

    assert list(memory) == ["d9.example", "d7.example", "d0.example"], "the one not used for longest went first"
    assert memory.octets == sum(each.octets for each in memory.values()) <= 9_000
    assert all(each.octets > 2_300 for each in memory.values())


@pytest.mark.asyncio
async def test_the_octets_of_plans_that_were_replaced_do_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A domain planned anew a thousand times takes the room of one; forgetting gives all of it back."""
    monkeypatch.setattr(remembered_module, "OCTETS_REMEMBERED", 10_000)
    rig = Rig(long_names("a.example", "b.example"))
    await rig.plan("b.example")

    for _ in range(20):
        await rig.planner.plan_anew("a.example")
    memory = rig.planner._remembered
    rig.planner.forget()

    assert list(memory) == ["b.example", "a.example"]
    assert memory.octets == sum(each.octets for each in memory.values())
    assert rig.planner._remembered.octets == 0


@pytest.mark.asyncio
async def test_a_plan_larger_than_all_the_room_is_remembered_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each of its messages would ask DNS."""
    monkeypatch.setattr(remembered_module, "OCTETS_REMEMBERED", 100)
    rig = Rig(two_hosts())

    await rig.plan()
    await rig.plan()

    assert rig.questions == 5


class CutResolver(ScriptedResolver):
    """Gives the beginning of what it heard."""

    async def ask(self, name: str, rdtype: str) -> Answer:
        return replace(await super().ask(name, rdtype), is_cut=True)


@pytest.mark.asyncio
async def test_plan_on_answers_that_were_cut_is_made_again_within_a_minute() -> None:
    """A better exchanger may be among those that were not read; a bounce is never made of them."""
    zone = two_hosts(ttl_s=3600)
    zone.set("null.example", "MX 0 .")
    rig = Rig(zone, resolver=(cut := CutResolver(zone)))

    await rig.plan()
    rig.clock.advance(59)
    await rig.plan()
    asked = cut.asked.total()
    rig.clock.advance(1)
    await rig.plan()
    null = await rig.no_plan("null.example")

    assert (asked, cut.asked.total()) == (5, 11)
    assert (null.permanent, null.status) == (False, "4.1.10")
