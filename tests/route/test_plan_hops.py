# SPDX-License-Identifier: MIT
"""Plans of several next hops, and of routes by sender: who is tried, in which order, how, and what is left out."""

import asyncio
import random
from collections import Counter

import pytest

from smarthost.mail.hop import Credentials, Host, SessionPolicy, TlsLevel
from smarthost.mail.plan import NoPlan, Plan
from smarthost.ports import Answer
from smarthost.route.plan import OTHERS_S, PARTIAL_S, TEMPORARY_S, Planner, PlanTerms
from smarthost.route.source import Speaker
from smarthost.route.table import DirectMx, NextHop, NextHops, Refuse, Route, RouteTable
from smarthost.testing.clock import FakeClock
from smarthost.testing.dns import Fault, ScriptedResolver, Zone

HELO = "relay.example.net"
ZONE_TTL_S = 600
FIRST = NextHop("first.example", 587, TlsLevel.VERIFIED, credentials=Credentials("us", "secret1"))
SECOND = NextHop("second.example", 465, TlsLevel.REQUIRED, implicit_tls=True, credentials=Credentials("we", "secret2"))
THIRD = NextHop("10.0.0.3", 24, is_lmtp=True, speaker=Speaker("lmtp.example.net", "10.0.0.9"))
FIRST_POLICY = SessionPolicy(HELO, 587, TlsLevel.VERIFIED, credentials=FIRST.credentials)
SECOND_POLICY = SessionPolicy(HELO, 465, TlsLevel.REQUIRED, implicit_tls=True, credentials=SECOND.credentials)
THIRD_POLICY = SessionPolicy("lmtp.example.net", 24, source="10.0.0.9", is_lmtp=True)


class Rig:
    """A planner for one route of next hops, or for a whole table."""

    def __init__(self, *hops: NextHop, table: RouteTable | None = None) -> None:
        self.zone = Zone(
            {
                "first.example": f"{ZONE_TTL_S} A 10.0.0.1",
                "second.example": f"{ZONE_TTL_S} A 10.0.0.2",
                "example.org": f"{ZONE_TTL_S} MX 10 mx.example.org",
                "mx.example.org": (f"{ZONE_TTL_S} A 1.0.0.1", f"{ZONE_TTL_S} AAAA 2600::1"),
            },
            negative_ttl_s=ZONE_TTL_S,
        )
        self.table = table or RouteTable(NextHops(hops))
        self.clock = FakeClock()
        self.resolver = ScriptedResolver(self.zone)
        self.planner = Planner(
            self.table, self.resolver, self.clock, random.Random(5), PlanTerms(Speaker(HELO), further_lookups=2)
        )

    async def find(self, domain: str = "example.org", reverse_path: str = "") -> Plan | NoPlan:
        return await self.planner.plan(self.table.destination_of(self.table.scope(reverse_path, "", domain)))

    async def plan(self, domain: str = "example.org", reverse_path: str = "") -> Plan:
        found = await self.find(domain, reverse_path)
        assert isinstance(found, Plan), found
        return found


def names(plan: Plan) -> list[str]:
    return [host.name for host in plan.hosts]


@pytest.mark.asyncio
async def test_all_hops_are_planned_in_the_order_given_each_with_its_policy() -> None:
    """Port, TLS, password, protocol, name and source of each host are its own."""
    plan = await Rig(FIRST, SECOND, THIRD).plan()

    assert plan.hosts == (
        Host("first.example", ("10.0.0.1",), 0),
        Host("second.example", ("10.0.0.2",), 1, SECOND_POLICY),
        Host("10.0.0.3", ("10.0.0.3",), 2, THIRD_POLICY),
    )
    assert [plan.policy_of(host) for host in plan.hosts] == [FIRST_POLICY, SECOND_POLICY, THIRD_POLICY]
    assert plan.policy == FIRST_POLICY
    assert (plan.is_chosen, plan.caveat) == (True, "")
    assert plan.destination == plan.lane == "hop:first.example:587+2"
    assert "secret" not in repr(plan)


@pytest.mark.asyncio
async def test_order_holds_for_every_message_while_addresses_take_turns() -> None:
    """The second hop is for when the first fails; behind one name the load is spread."""
    rig = Rig(FIRST, SECOND)
    rig.zone.set("first.example", *(f"{ZONE_TTL_S} A 10.0.1.{n}" for n in range(4)))

    plans = [await rig.plan() for _ in range(400)]
    firsts = Counter(plan.hosts[0].addresses[0] for plan in plans)

    assert {tuple(names(plan)) for plan in plans} == {("first.example", "second.example")}
    assert set(firsts) == {f"10.0.1.{n}" for n in range(4)}
    assert min(firsts.values()) > 60
    assert rig.resolver.asked.total() == 4, "remembered"


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", [Fault.SERVFAIL, Fault.TIMEOUT, None])
async def test_a_hop_that_does_not_resolve_leaves_the_others_in_use(fault: Fault | None) -> None:
    """DNS is silent for one, or knows no such name: mail flows, each record says so, and it is asked again soon."""
    rig = Rig(FIRST, SECOND)
    rig.zone.set("first.example")
    if fault is not None:
        rig.zone.faults["first.example"] = fault

    plan = await rig.plan()
    rig.zone.faults.clear()
    rig.zone.set("first.example", "A 10.0.0.1")
    rig.clock.advance(PARTIAL_S - 1)
    before = await rig.plan()
    rig.clock.advance(1)
    after = await rig.plan()

    assert names(plan) == names(before) == ["second.example"]
    assert (plan.policy, plan.hosts[0].policy) == (SECOND_POLICY, None)
    assert plan.caveat.startswith("the next hop first.example has no address: A ")
    assert (names(after), after.caveat) == (["first.example", "second.example"], "")


@pytest.mark.asyncio
async def test_an_operator_sees_which_hop_is_left_out_and_why() -> None:
    """`smarthost plan` shows what was asked for all hops."""
    rig = Rig(FIRST, SECOND)
    rig.zone.faults["second.example"] = Fault.TIMEOUT

    plan = await rig.planner.plan_anew(rig.table.destination_of("example.org"))

    assert "A first.example: 10.0.0.1" in plan.evidence
    assert any(line.startswith("4.4.3: the next hop second.example has no address") for line in plan.evidence)


@pytest.mark.asyncio
async def test_only_when_no_hop_resolves_mail_waits_and_hears_of_all() -> None:
    """Never a bounce; asked again within seconds."""
    rig = Rig(FIRST, SECOND)
    rig.zone.set("first.example")
    rig.zone.faults["second.example"] = Fault.SERVFAIL

    no_plan = await rig.find()
    rig.zone.faults.clear()
    rig.clock.advance(TEMPORARY_S)
    repaired = await rig.plan()

    assert isinstance(no_plan, NoPlan)
    assert (no_plan.permanent, no_plan.status, no_plan.rule) == (False, "4.4.4", "default")
    assert "first.example has no address" in no_plan.why
    assert "second.example has no address" in no_plan.why
    assert names(repaired) == ["second.example"]


@pytest.mark.asyncio
async def test_a_hop_that_is_this_relay_itself_is_skipped() -> None:
    """Mail goes to the other one, not in a circle; with no other it waits."""
    rig = Rig(NextHop("localhost", 25), SECOND)
    rig.planner.listen_at(frozenset({("127.0.0.1", 25), ("::1", 25)}))
    alone = Rig(NextHop("localhost", 25), NextHop("127.0.0.1", 25))
    alone.planner.listen_at(frozenset({("0.0.0.0", 25)}))

    plan, no_plan = await rig.plan(), await alone.find()

    assert names(plan) == ["second.example"]
    assert plan.caveat == "the next hop localhost:25 is this relay itself"
    assert isinstance(no_plan, NoPlan)
    assert (no_plan.status, no_plan.permanent) == ("4.4.6", False)


class SilentFor(ScriptedResolver):
    """Does not answer for one name until it is let go."""

    def __init__(self, zone: Zone, name: str) -> None:
        super().__init__(zone)
        self._name = name
        self.go = asyncio.Event()

    async def ask(self, name: str, rdtype: str) -> Answer:
        if name == self._name:
            await self.go.wait()
        return await super().ask(name, rdtype)


def silent_for(name: str) -> tuple[Rig, SilentFor]:
    rig = Rig(FIRST, SECOND)
    silent = SilentFor(rig.zone, name)
    rig.planner = Planner(rig.table, silent, rig.clock, random.Random(5), PlanTerms(Speaker(HELO)))
    return rig, silent


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_a_name_server_that_hangs_for_one_hop_holds_the_others_up_for_seconds_only() -> None:
    """Another hop at hand, the silent one has 8 s; without one, all the time the resolver takes."""
    rig, silent = silent_for("first.example")
    asked = asyncio.ensure_future(rig.plan())
    await turns()

    rig.clock.advance(OTHERS_S - 0.1)
    await turns()
    was_waiting = not asked.done()
    rig.clock.advance(1)
    plan = await asked
    silent.go.set()
    rig.clock.advance(PARTIAL_S)
    later = await rig.plan()

    assert was_waiting
    assert names(plan) == ["second.example"]
    assert plan.caveat == "the next hop first.example was not looked up within 8 s of another"
    assert names(later) == ["first.example", "second.example"]


@pytest.mark.asyncio
async def test_hops_are_looked_up_side_by_side_and_who_answers_in_time_is_planned() -> None:
    """A slow answer is not a missing one."""
    rig, silent = silent_for("first.example")
    asked = asyncio.ensure_future(rig.plan())
    await turns()

    rig.clock.advance(OTHERS_S - 0.1)
    silent.go.set()
    plan = await asked

    assert (names(plan), plan.caveat) == (["first.example", "second.example"], "")
    assert rig.clock.next_due_s is None, "nobody waits for the time that was given"


@pytest.mark.asyncio
async def test_with_no_other_hop_at_hand_a_slow_answer_is_waited_for() -> None:
    """The first name does not exist: the second has all the time the resolver takes."""
    rig, silent = silent_for("second.example")
    rig.zone.set("first.example")
    asked = asyncio.ensure_future(rig.plan())
    await turns()

    rig.clock.advance(2 * OTHERS_S)
    await turns()
    was_waiting = not asked.done()
    silent.go.set()

    assert was_waiting
    assert names(await asked) == ["second.example"]


@pytest.mark.asyncio
async def test_who_gives_up_while_hops_are_looked_up_leaves_nothing_behind() -> None:
    """Safe to cancel; whoever comes next asks anew."""
    rig, silent = silent_for("first.example")
    asked = asyncio.ensure_future(rig.plan())
    await turns()

    asked.cancel()
    await turns()
    silent.go.set()

    assert asked.cancelled()
    assert names(await rig.plan()) == ["first.example", "second.example"]


@pytest.mark.asyncio
async def test_one_address_may_serve_two_hops_with_different_terms() -> None:
    """Another port or another user at the same machine is another try; the very same terms are not."""
    other_user = NextHop("first.example", 587, TlsLevel.VERIFIED, credentials=Credentials("other", "x"))
    same = NextHop("10.0.0.1", 587, TlsLevel.VERIFIED, credentials=FIRST.credentials)

    plan = await Rig(FIRST, other_user, same, NextHop("first.example", 25)).plan()

    assert [(host.name, plan.policy_of(host).port) for host in plan.hosts] == [
        ("first.example", 587),
        ("first.example", 587),
        ("first.example", 25),
    ]
    assert plan.policy_of(plan.hosts[1]).credentials == Credentials("other", "x")


@pytest.mark.asyncio
async def test_policies_of_hops_are_kept_once() -> None:
    """However often plans are made anew, equal policies are one object: sessions are looked up by them."""
    rig = Rig(FIRST, SECOND)
    plan = await rig.plan()
    rig.planner.forget()
    anew = await rig.plan()

    assert anew.policy is plan.policy
    assert anew.hosts[1].policy is plan.hosts[1].policy


# -- by MX, with terms of a route -------------------------------------------------------------------------------------

BULK = DirectMx(speaker=Speaker("bulk.example.net", "192.0.2.77"))
NAMED = DirectMx(speaker=Speaker("named.example.net"))


def by_sender(route: Route) -> Rig:
    return Rig(table=RouteTable(sender_routes={("@bulk.example", ""): route}))


@pytest.mark.asyncio
async def test_mail_of_a_sender_goes_to_the_exchangers_of_the_recipients_domain() -> None:
    """DNS is asked for the domain; name and address are the sender's, and so is the lane: another source to them."""
    rig = by_sender(BULK)

    plain, bulk = await rig.plan(), await rig.plan(reverse_path="news@bulk.example")

    assert plain.hosts[0].addresses[0] == bulk.hosts[0].addresses[0] == "1.0.0.1"
    assert bulk.hosts[0].addresses == ("1.0.0.1",), "a source of one family reaches hosts of that family"
    assert bulk.destination == "example.org from @bulk.example"
    assert (plain.lane, bulk.lane) == ("mx.example.org:25", "mx.example.org:25 from 192.0.2.77")
    assert bulk.policy == SessionPolicy("bulk.example.net", 25, source="192.0.2.77")
    assert plain.policy == SessionPolicy(HELO, 25)


@pytest.mark.asyncio
async def test_a_sender_with_another_name_but_the_same_source_shares_the_lane() -> None:
    """The exchangers see one address of ours: one limit of sessions."""
    rig = by_sender(NAMED)

    lanes = {(await rig.plan(reverse_path=path)).lane for path in ("", "news@bulk.example")}

    assert lanes == {"mx.example.org:25"}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("domain", "status", "why"),
    [("nowhere.example", "5.1.2", "the domain nowhere.example does not exist"), ("closed.example", "5.7.1", "closed")],
)
async def test_verdicts_name_the_domain_and_not_what_it_is_filed_under(domain: str, status: str, why: str) -> None:
    """What a sender reads in a report is about the address that he wrote to."""
    routes: dict[tuple[str, str], Route] = {
        ("@bulk.example", ""): BULK,
        ("@bulk.example", "closed.example"): Refuse("closed"),
    }
    rig = Rig(table=RouteTable(sender_routes=routes))

    no_plan = await rig.find(domain, "news@bulk.example")

    assert isinstance(no_plan, NoPlan)
    assert (no_plan.status, no_plan.why, no_plan.permanent) == (status, why, True)


@pytest.mark.asyncio
async def test_tls_may_be_demanded_of_the_exchangers_of_one_domain() -> None:
    """Others stay opportunistic."""
    rig = Rig(table=RouteTable(routes={"example.org": DirectMx(tls=TlsLevel.REQUIRED)}))
    rig.zone.set("other.example", "MX 10 mx.example.org")

    assert (await rig.plan()).policy.tls is TlsLevel.REQUIRED
    assert (await rig.plan("other.example")).policy.tls is TlsLevel.OPPORTUNISTIC
    assert not (await rig.plan()).is_chosen
