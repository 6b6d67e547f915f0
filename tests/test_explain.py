# SPDX-License-Identifier: MIT
"""What is explained of a destination with several next hops, and for whom it is asked; else see tests/ops/test_plan."""

import random

import msgspec
import pytest

from smarthost.explain import Explainer, ExplainTerms
from smarthost.mail.address import to_domain
from smarthost.mail.explanation import ExplainedPolicy, Explanation, Probed
from smarthost.mail.hop import Credentials, Host, SessionPolicy, TlsLevel
from smarthost.ports import Refused
from smarthost.route.health import HostHealth
from smarthost.route.plan import Planner, PlanTerms
from smarthost.route.source import Speaker
from smarthost.route.table import DirectMx, NextHop, NextHops, RouteTable
from smarthost.send.gates import gate_keys
from smarthost.testing.clock import FakeClock
from smarthost.testing.dns import ScriptedResolver, Zone

HOPS = NextHops(
    (
        NextHop("first.example", 587, TlsLevel.VERIFIED, credentials=Credentials("us", "secret")),
        NextHop("10.0.0.2", 24, is_lmtp=True, speaker=Speaker("lmtp.example.net", "10.0.0.9")),
        NextHop("third.example", 587, TlsLevel.VERIFIED, credentials=Credentials("us", "secret")),
    ),
    "route[1]",
)
BULK = DirectMx("route[2]", speaker=Speaker("bulk.example.net"))


class Rig:
    """An Explainer over the parts that decide for mail."""

    def __init__(self) -> None:
        zone = Zone(
            {
                "first.example": "A 10.0.0.1",
                "third.example": "A 10.0.0.3",
                "example.org": "MX 10 mx.example.org",
                "mx.example.org": "A 1.0.0.1",
            }
        )
        self.clock, chance = FakeClock(), random.Random(5)
        self.table = RouteTable(routes={"hops.example": HOPS}, sender_routes={("@bulk.example", ""): BULK})
        self.health = HostHealth(self.clock, chance)
        self.asleep: dict[str, tuple[float, str]] = {}
        self.probed: list[tuple[str, str, SessionPolicy]] = []
        terms = PlanTerms(Speaker("relay.example.net"))
        planner = Planner(self.table, ScriptedResolver(zone), self.clock, chance, terms)
        self.explainer = Explainer(
            ExplainTerms(
                read_recipient=lambda text: to_domain(text.rpartition("@")[2]),
                destination_of=self.table.destination_of,
                scope=self.table.scope,
                plan_anew=planner.plan_anew,
                state_of=self.health.state_of,
                suspension=self.asleep.get,
                probe=self._probe,
                now=self.clock.wall,
            )
        )

    async def _probe(self, host: Host, address: str, policy: SessionPolicy) -> Probed:
        self.probed.append((host.name, address, policy))
        return Probed(host.name, address, ok=True, step="ready", why="", took_s=0.1)

    async def explain(self, address: str, sender: str = "", *, probe: bool = False) -> Explanation:
        return await self.explainer.explain(address, sender=sender, probe=probe)


@pytest.mark.asyncio
async def test_each_hop_is_told_with_what_its_sessions_must_be_like_where_that_differs() -> None:
    """Port, protocol, source and name of each; the password of none."""
    found = await Rig().explain("bob@hops.example")

    assert found.policy == ExplainedPolicy(587, "verified", False, "relay.example.net", username="us")
    assert [(host.name, host.preference, host.policy) for host in found.hosts] == [
        ("first.example", 0, None),
        ("10.0.0.2", 1, ExplainedPolicy(24, "opportunistic", False, "lmtp.example.net", "10.0.0.9", "", "lmtp")),
        ("third.example", 2, None),
    ]
    assert (found.destination, found.rule) == ("hop:first.example:587+2", "route[1]")
    assert b"secret" not in msgspec.json.encode(found)


@pytest.mark.asyncio
async def test_a_broken_first_hop_is_told_and_the_second_takes_the_mail() -> None:
    """Health is that of each hop's own service, under its own policy."""
    rig = Rig()
    policy = SessionPolicy("relay.example.net", 587, TlsLevel.VERIFIED, credentials=Credentials("us", "secret"))
    permit = rig.health.admit(gate_keys(policy)[0], "10.0.0.1")
    assert not isinstance(permit, Refused)
    permit.failed("connect", "refused", "first.example")

    found = await rig.explain("bob@hops.example")

    assert found.conclusion == "mail goes to 10.0.0.2 [10.0.0.2] now; 1 better address is known as broken"
    assert [host.addresses[0].state for host in found.hosts] == ["open", "closed", "closed"]


@pytest.mark.asyncio
async def test_every_hop_is_probed_with_its_own_policy() -> None:
    """A probe at the second hop knocks at the second hop's port."""
    rig = Rig()

    await rig.explain("bob@hops.example", probe=True)

    assert [(name, policy.port, policy.is_lmtp) for name, _, policy in rig.probed] == [
        ("first.example", 587, False),
        ("10.0.0.2", 24, True),
        ("third.example", 587, False),
    ]


@pytest.mark.asyncio
@pytest.mark.parametrize("sender", ["news@bulk.example", "<news@bulk.example>", "@bulk.example"])
async def test_asked_for_a_sender_his_route_is_told(sender: str) -> None:
    """The same recipient goes another way for him; his domain is still the recipient's."""
    rig = Rig()
    rig.asleep["example.org from @bulk.example"] = (5.0, "all hosts are broken")

    anybody, bulk = await rig.explain("bob@example.org"), await rig.explain("bob@example.org", sender)

    assert (anybody.rule, anybody.destination, anybody.suspended_why) == ("default", "example.org", "")
    assert (bulk.rule, bulk.destination) == ("route[2]", "example.org from @bulk.example")
    assert (bulk.domain, bulk.sender, bulk.suspended_why) == ("example.org", sender, "all hosts are broken")
    assert bulk.policy is not None
    assert bulk.policy.helo == "bulk.example.net"


@pytest.mark.asyncio
async def test_a_verdict_says_for_whom_it_was_asked() -> None:
    """Where mail would bounce as well."""
    found = await Rig().explain("bob@nowhere.example", "news@bulk.example")

    assert found.no_host is not None
    assert (found.sender, found.destination) == ("news@bulk.example", "nowhere.example from @bulk.example")
    assert "from" not in found.no_host.why


@pytest.mark.asyncio
async def test_what_is_no_sender_is_refused() -> None:
    """A name without @ is a typing error: of users "user:" tells."""
    rig = Rig()

    with pytest.raises(ValueError, match="is no sender such as"):
        await rig.explain("bob@example.org", "bulk.example")
    assert (await rig.explain("bob@example.org", "user:ann")).rule == "default"
    assert (await rig.explain("bob@example.org", "<>")).rule == "default"
