# SPDX-License-Identifier: MIT
"""A real resolver between us and the world: what unbound makes of DNS, DnsResolver and the Planner understand."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from tests.interop.unbound import Unbound, unbound
from tests.live.dns import Names, serving_names

from smarthost.backends.dns import DnsResolver
from smarthost.mail.plan import NoPlan, Plan
from smarthost.ports import Answer, AnswerStatus, MxRecord
from smarthost.route.plan import Planner, PlanTerms
from smarthost.route.source import Speaker
from smarthost.route.table import DirectMx, RouteTable
from smarthost.testing.clock import FakeClock
from smarthost.testing.dns import Fault, Records, Zone

pytestmark = [pytest.mark.slow, pytest.mark.interop]

FOUND, NODATA, NXDOMAIN = AnswerStatus.FOUND, AnswerStatus.NODATA, AnswerStatus.NXDOMAIN
SERVFAIL, TIMEOUT = AnswerStatus.SERVFAIL, AnswerStatus.TIMEOUT

LOCAL_DATA = (
    "local.example. 300 IN MX 10 mx.local.example.",
    "mx.local.example. 300 IN A 127.0.0.2",
    "mx.local.example. 300 IN AAAA ::1",
    "null.example. 300 IN MX 0 .",
)
SIGNED = """\
@ 300 IN MX 10 mx
mx 300 IN A 192.0.2.10
alias 300 IN CNAME mx
bogus 300 IN A 192.0.2.66
"""
RECORDS: dict[str, Records] = {
    "direct.example": ["MX 10 mx1.direct.example", "MX 20 mx2.direct.example"],
    "mx1.direct.example": ["200 A 127.0.0.2", "100 AAAA ::1"],
    "mx2.direct.example": "A 127.0.0.3",
    "a.chain.example": "50 CNAME b.chain.example",
    "b.chain.example": "400 CNAME c.chain.example",
    "c.chain.example": "400 A 192.0.2.3",
    "dangling.chain.example": "CNAME gone.chain.example",
    "empty.chain.example": "CNAME direct.example",
    "mail.chain.example": "CNAME direct.example",
    "loop1.chain.example": "CNAME loop2.chain.example",
    "loop2.chain.example": "CNAME loop1.chain.example",
    "zero.example": "0 A 192.0.2.4",
    "ages.example": "300 A 192.0.2.5",
    "large.example": [f"MX {n} mx{n}.a-rather-long-name.large.example" for n in range(90)],
    "huge.example": [f"MX {n} mx{n}.huge.example" for n in range(300)],
    "odd.example": ["MX 1 a\\032b.odd.example", "MX 2 \\000.odd.example", "MX 3 localhost", "MX 4 192.0.2.1"],
}
FAULTS: dict[str | tuple[str, str], Fault] = {
    "broken.example": Fault.SERVFAIL,
    "refused.example": Fault.REFUSED,
}
SIGNED_ZONE = "signed.example.net"


@pytest.fixture(scope="module")
def world() -> Iterator[Names]:
    with serving_names(Zone(RECORDS, faults=FAULTS, negative_ttl_s=45)) as names:
        yield names


def upstream_of(world: Names) -> tuple[str, int]:
    host, _, port = world.at.rpartition(":")
    return host, int(port)


@pytest.fixture(scope="module")
def server(world: Names) -> Iterator[Unbound]:
    with unbound(upstream_of(world), LOCAL_DATA, SIGNED_ZONE, SIGNED) as running:
        yield running


def run(
    server: Unbound, scenario: Callable[[DnsResolver], Coroutine[Any, Any, Any]], clock: FakeClock | None = None
) -> Any:
    """Let a new resolver, which knows nothing yet, ask this server."""

    async def main() -> Any:
        resolver = DnsResolver(clock or FakeClock(), [server.at])
        try:
            return await scenario(resolver)
        finally:
            resolver.close()
            await asyncio.sleep(0)

    return asyncio.run(main())


def ask(server: Unbound, name: str, rdtype: str = "A") -> Answer:
    answer: Answer = run(server, lambda resolver: resolver.ask(name, rdtype))
    return answer


def test_mx_and_addresses_through_a_real_resolver(server: Unbound) -> None:
    """The plainest case; unbound gives a set in any order, and a name in capitals is the same name."""
    mx = ask(server, "direct.example", "MX")
    a, aaaa = ask(server, "MX1.direct.EXAMPLE"), ask(server, "mx1.direct.example", "AAAA")

    assert (mx.status, set(mx.mx)) == (FOUND, {MxRecord(10, "mx1.direct.example"), MxRecord(20, "mx2.direct.example")})
    assert (a.addresses, a.ttl_s <= 200) == (("127.0.0.2",), True)
    assert (aaaa.addresses, aaaa.ttl_s <= 100) == (("::1",), True)


def test_records_of_the_resolvers_own(server: Unbound) -> None:
    """What an operator puts into unbound's local-data: a next hop in an inner network, a domain that takes no mail."""
    assert ask(server, "local.example", "MX").mx == (MxRecord(10, "mx.local.example"),)
    assert ask(server, "mx.local.example").addresses == ("127.0.0.2",)
    assert ask(server, "mx.local.example", "AAAA").addresses == ("::1",)
    assert ask(server, "null.example", "MX").mx == (MxRecord(0, ""),)
    assert ask(server, "null.example").status is NODATA


def test_alias_chain_is_followed_by_the_resolver(server: Unbound) -> None:
    """One answer with the whole chain, and the least TTL on the way."""
    answer = ask(server, "a.chain.example")

    assert (answer.status, answer.addresses) == (FOUND, ("192.0.2.3",))
    assert (answer.aliases, answer.canonical) == (("a.chain.example", "b.chain.example"), "c.chain.example")
    assert answer.ttl_s <= 50


@pytest.mark.parametrize(("name", "status"), [("dangling.chain.example", NXDOMAIN), ("empty.chain.example", NODATA)])
def test_alias_that_leads_to_nothing(server: Unbound, name: str, status: AnswerStatus) -> None:
    """To a name that does not exist, and to one without addresses."""
    answer = ask(server, name)

    assert (answer.status, answer.aliases) == (status, (name,))


def test_alias_loop_is_a_failure(server: Unbound) -> None:
    """Whether the resolver says SERVFAIL or hands the loop on, it is temporary and nothing runs for ever."""
    answer = ask(server, "loop1.chain.example")

    assert answer.status is SERVFAIL
    assert "SERVFAIL" in answer.detail or "alias loop" in answer.detail


def test_negative_answers_stand_as_long_as_the_soa_says(server: Unbound) -> None:
    """The name is there without such records; the name is not there."""
    nodata, nxdomain = ask(server, "mx2.direct.example", "AAAA"), ask(server, "nowhere.example")

    assert (nodata.status, nxdomain.status) == (NODATA, NXDOMAIN)
    assert 30 <= nodata.ttl_s <= 45
    assert 30 <= nxdomain.ttl_s <= 45


@pytest.mark.parametrize("name", [*FAULTS, "silent.example"])
def test_trouble_behind_the_resolver_is_servfail_with_its_own_words(server: Unbound, name: str) -> None:
    """A silent, broken or refusing server behind unbound: it says SERVFAIL, and why (RFC 8914)."""
    answer = ask(server, name)

    assert answer.status is SERVFAIL
    assert answer.detail.startswith("SERVFAIL")
    assert answer.detail.endswith("from {}:{}".format(*server.at))


def test_large_set_comes_over_tcp(server: Unbound) -> None:
    """90 exchangers do not fit into a datagram: unbound truncates, and gives all over TCP."""
    answer = ask(server, "large.example", "MX")

    assert (answer.status, answer.detail) == (FOUND, "")
    assert sorted(record.preference for record in answer.mx) == list(range(90))


def test_absurd_set_is_cut_to_a_hundred(server: Unbound) -> None:
    """300 exchangers: a hundred of them count, and the answer says so."""
    answer = ask(server, "huge.example", "MX")

    assert (len(answer.mx), answer.detail) == (100, "first 100 of 300 records")


def test_odd_exchanges_pass_through_the_resolver_as_they_are(server: Unbound) -> None:
    """Spaces and NUL stay escaped, so that they are no host's name to anybody."""
    answer = ask(server, "odd.example", "MX")

    assert sorted(answer.mx, key=lambda each: each.preference) == [
        MxRecord(1, "a\\032b.odd.example"),
        MxRecord(2, "\\000.odd.example"),
        MxRecord(3, "localhost"),
        MxRecord(4, "192.0.2.1"),
    ]


def test_ttl_counts_down_in_the_resolver(server: Unbound) -> None:
    """What unbound has kept for a while stands for that much less with us."""
    first = ask(server, "ages.example").ttl_s
    later = first
    while later == first:  # a second at most
        later = ask(server, "ages.example").ttl_s

    assert 295 <= later < first <= 300


def test_ttl_of_zero_is_kept_for_a_moment(server: Unbound, world: Names) -> None:
    """Five seconds, so that a thousand domains at one host do not ask a thousand times."""

    async def scenario(resolver: DnsResolver) -> list[Answer]:
        return [await resolver.ask("zero.example", "A") for _ in range(10)]

    answers = run(server, scenario)

    assert {answer.ttl_s for answer in answers} == {5}
    assert world.asked["zero.example", "A"] == 1


def test_validated_answers_are_secure(server: Unbound) -> None:
    """A signed zone: AD is believed from loopback, for records, aliases and what is not there; others have none."""
    for name, rdtype, status in [
        (SIGNED_ZONE, "MX", FOUND),
        (f"alias.{SIGNED_ZONE}", "A", FOUND),
        (f"mx.{SIGNED_ZONE}", "AAAA", NODATA),
        (f"gone.{SIGNED_ZONE}", "A", NXDOMAIN),
    ]:
        answer = ask(server, name, rdtype)
        assert (answer.status, answer.secure) == (status, True), name

    assert not ask(server, "mx2.direct.example").secure


def test_validated_answers_are_not_believed_when_told_so(server: Unbound) -> None:
    """As from a resolver across a network."""

    async def scenario() -> Answer:
        resolver = DnsResolver(FakeClock(), [server.at], trust_ad=False)
        try:
            return await resolver.ask(SIGNED_ZONE, "MX")
        finally:
            resolver.close()
            await asyncio.sleep(0)

    assert not asyncio.run(scenario()).secure


def test_record_changed_after_signing_is_a_failure_that_says_so(server: Unbound) -> None:
    """A forged address: SERVFAIL, and the resolver's reason (RFC 8914) in the detail."""
    answer = ask(server, f"bogus.{SIGNED_ZONE}")

    assert (answer.status, answer.addresses) == (SERVFAIL, ())
    assert "EDE 6 (DNSSEC Bogus)" in answer.detail


@pytest.fixture
def mortal(world: Names) -> Iterator[Unbound]:
    """One that a test may stop."""
    with unbound(upstream_of(world), LOCAL_DATA, SIGNED_ZONE, SIGNED) as running:
        yield running


def test_stale_answers_when_the_resolver_is_killed(mortal: Unbound) -> None:
    """unbound stops: the kernel refuses, what was known is served at once with its age, what was not is a timeout."""
    clock = FakeClock()

    async def scenario(resolver: DnsResolver) -> tuple[Answer, ...]:
        fresh = await resolver.ask("mx1.direct.example", "A")
        mortal.stop()
        clock.advance(200 + 3 * 3600)
        async with asyncio.timeout(5):
            return fresh, await resolver.ask("mx1.direct.example", "A"), await resolver.ask("mx2.direct.example", "A")

    fresh, stale, unknown = run(mortal, scenario, clock)

    refused = "no answer from {}:{}: connection refused".format(*mortal.at)
    assert (stale.addresses, stale.stale) == (fresh.addresses, True)
    assert stale.detail == f"3 h past its TTL: {refused}"
    assert (unknown.status, unknown.detail) == (TIMEOUT, refused)


# through the planner


def planner(resolver: DnsResolver, clock: FakeClock) -> Planner:
    terms = PlanTerms(Speaker("relay.example.org"), allow_private=True)
    return Planner(RouteTable(DirectMx(rule="direct MX"), {}), resolver, clock, random.Random(1), terms)


def plan(server: Unbound, domain: str) -> Plan | NoPlan:
    planned: Plan | NoPlan = run(server, lambda resolver: planner(resolver, FakeClock()).plan(domain))
    return planned


@pytest.mark.parametrize(
    ("domain", "hosts"),
    [
        ("direct.example", ["mx1.direct.example", "mx2.direct.example"]),
        ("mail.chain.example", ["mx1.direct.example", "mx2.direct.example"]),
        ("mx2.direct.example", ["mx2.direct.example"]),
        ("local.example", ["mx.local.example"]),
    ],
    ids=["MX", "alias to a domain with MX", "no MX", "local data"],
)
def test_mail_finds_its_hosts_through_a_real_resolver(server: Unbound, domain: str, hosts: list[str]) -> None:
    """From a recipient's domain to hosts with addresses, best first."""
    planned = plan(server, domain)

    assert isinstance(planned, Plan)
    assert [host.name for host in planned.hosts] == hosts
    assert all(host.addresses for host in planned.hosts)


@pytest.mark.parametrize(
    ("domain", "is_permanent", "status"),
    [
        ("null.example", True, "5.1.10"),
        ("nowhere.example", True, "5.1.2"),
        ("dangling.chain.example", True, "5.1.2"),
        ("loop1.chain.example", False, "4.4"),
        ("silent.example", False, "4.4.3"),
        ("broken.example", False, "4.4.3"),
        ("odd.example", True, "5.4.4"),
    ],
)
def test_mail_without_hosts_bounces_or_waits_as_it_should(
    server: Unbound, domain: str, is_permanent: bool, status: str
) -> None:
    """What DNS says for good bounces; what nobody knows waits."""
    planned = plan(server, domain)

    assert isinstance(planned, NoPlan)
    assert (planned.permanent, planned.status[: len(status)]) == (is_permanent, status)


def test_mail_goes_on_by_stale_answers_when_the_resolver_is_killed(mortal: Unbound) -> None:
    """The same hosts as before, and the record of the delivery says what the plan rests on; nothing bounces."""
    clock = FakeClock()

    async def scenario(resolver: DnsResolver) -> list[Plan | NoPlan]:
        plans = planner(resolver, clock)
        fresh = await plans.plan("direct.example")
        await plans.plan("nowhere.example")
        mortal.stop()
        clock.advance(12 * 3600)
        return [fresh, await plans.plan("direct.example"), await plans.plan("nowhere.example")]

    fresh, stale, nowhere = run(mortal, scenario, clock)

    assert isinstance(fresh, Plan)
    assert isinstance(stale, Plan)
    assert isinstance(nowhere, NoPlan)
    assert ([host.name for host in stale.hosts], fresh.caveat) == ([host.name for host in fresh.hosts], "")
    assert "12 h past its TTL: no answer from" in stale.caveat
    assert not nowhere.permanent
