# SPDX-License-Identifier: MIT
"""Every rule of DNS, from a client's RCPT to the exchanger that takes the mail, the report, or the wait.

Names are texts: "bob.example MX 10 a.example | a.example A 192.0.2.1". The world is a test network on port 25; what it
cannot vary (the ports we listen on, forbidden addresses, how far aliases are followed) is asked of the planner itself.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypeAlias

import pytest
from msgspec import Struct
from msgspec.structs import replace
from tests.journeys.rig import DAY_S, HOUR_S, assert_accounted, ends, in_world, reports, taken

from smarthost.mail.hop import Host
from smarthost.mail.plan import NoPlan, Plan
from smarthost.mail.record import Kind
from smarthost.ports import Answer
from smarthost.queue.schedule import RetrySchedule
from smarthost.route.plan import Planner, PlanTerms
from smarthost.route.source import Speaker
from smarthost.route.table import DirectMx, Families, RouteTable
from smarthost.testing.clock import FakeClock
from smarthost.testing.dns import Fault, FaultKey, ScriptedResolver, Zone
from smarthost.testing.peers import ScriptedExchanger
from smarthost.testing.simulation import Simulation, run_simulation
from smarthost.testing.world import SimulatedWorld, WorldTerms

Faults: TypeAlias = Mapping[FaultKey, Fault]
Cases: TypeAlias = Mapping[str, tuple[str, Faults, object]]  # what it is: names, what is wrong with some, what comes
NONE: Faults = {}
SERVFAIL, TIMEOUT, REFUSED, HALF = Fault.SERVFAIL, Fault.TIMEOUT, Fault.REFUSED, Fault.HALF_ALIAS


def set_names(zone: Zone, names: str) -> None:
    """Let these names exist."""
    records: dict[str, list[str]] = {}
    for each in names.split(" | ") if names else ():
        name, _, record = each.partition(" ")
        records.setdefault(name, []).append(record)
    for name, of_it in records.items():
        zone.set(name, *of_it)


def tabled(cases: Cases) -> object:
    """Make a test of each case, called what the case is."""
    return pytest.mark.parametrize(("names", "faults", "expected"), list(cases.values()), ids=list(cases))


class Seen(Struct):
    """How one message fared within an hour: its record, who was dialled at port 25, what DNS was asked."""

    kind: str
    status: str
    dialled: list[str]
    asked: set[tuple[str, str]]


def send(
    names: str,
    faults: Faults = NONE,
    recipient: str = "bob@bob.example",
    here: Sequence[str] = (),
    families: Families = Families.BOTH,
) -> Seen:
    """Send one message in a world of these names, in which exchangers listen at the addresses `here`."""
    seen: list[Seen] = []

    async def main(simulation: Simulation) -> None:
        world = SimulatedWorld(simulation, WorldTerms(default_route=DirectMx(families=families)))
        set_names(world.zone, names)
        world.zone.faults.update(faults)
        world.place(ScriptedExchanger(), *here)
        await world.start()
        heard = await world.submit("", recipient)
        assert heard.startswith("250"), heard
        await world.clock.sleep(HOUR_S)
        record = next(each for each in world.outcomes() if each.recipient == recipient)
        dialled = [address for address, port in world.network.dialled if port == 25]
        seen.append(Seen(record.kind.value, record.status, dialled, set(world.resolver.asked)))
        assert all(len(kinds) == 1 for kinds in world.endings().values())
        await world.stop()

    run_simulation(main, seed=1, until_s=DAY_S)
    return seen[0]


# -- no for good: a report at once, and no connection -----------------------------------------------------------------

OWN = "bob.example A 192.0.2.9"  # the domain's own address, which must not be used where it has MX records
BOUNCES: Cases = {
    "null MX alone": (f"bob.example MX 0 . | {OWN}", NONE, "5.1.10"),
    "unknown domain": ("", NONE, "5.1.2"),
    "alias of an unknown domain": ("bob.example CNAME gone.example", NONE, "5.1.2"),
    "neither MX nor address": ("bob.example TXT x", NONE, "5.4.4"),
    "MX unknown: no fall back": (f"bob.example MX 10 a.example | bob.example MX 20 b.example | {OWN}", NONE, "5.4.4"),
    "MX without address: no fall back": (f"bob.example MX 10 a.example | a.example TXT x | {OWN}", NONE, "5.4.4"),
    "MX is an address": (f"bob.example MX 10 192.0.2.1 | {OWN}", NONE, "5.4.4"),
    "MX is localhost": (f"bob.example MX 10 localhost | bob.example MX 10 mx.localhost | {OWN}", NONE, "5.4.4"),
    "MX is localhost, which DNS knows": (
        "bob.example MX 10 localhost | bob.example MX 10 mx.localhost"
        " | localhost A 192.0.2.9 | mx.localhost A 192.0.2.9",
        NONE,
        "5.4.4",
    ),
    "MX no host can be": (
        f"bob.example MX 1 a..b | bob.example MX 2 {'x' * 64}.c | bob.example MX 3 a/b",
        NONE,
        "5.4.4",
    ),
    "unspecified address": ("bob.example MX 1 a.example | a.example A 0.0.0.0 | a.example AAAA ::", NONE, "5.4.4"),
    "multicast, broadcast": ("bob.example A 224.0.0.1 | bob.example A 255.255.255.255", NONE, "5.4.4"),
    "we are the best": (f"bob.example MX 10 relay.example.org | bob.example MX 20 bob.example | {OWN}", NONE, "5.4.6"),
    "we are equal": (f"bob.example MX 10 bob.example | bob.example MX 10 Relay.EXAMPLE.org. | {OWN}", NONE, "5.4.6"),
    "alias of ours": ("bob.example CNAME relay.example.org | relay.example.org A 192.0.2.9", NONE, "5.4.6"),
    "MX alias of ours": ("bob.example MX 5 a.example | a.example CNAME relay.example.org", NONE, "5.4.6"),
}


@tabled(BOUNCES)  # type: ignore[operator]
def test_what_dns_rules_out_bounces_without_connecting(names: str, faults: Faults, expected: str) -> None:
    """Where DNS says for sure that there is no way, the mail comes back at once, and nobody is dialled."""
    seen = send(names, faults, here=("192.0.2.9",))

    assert (seen.kind, seen.status, seen.dialled) == ("bounced", expected, [])


# -- cannot tell: the mail waits --------------------------------------------------------------------------------------

LOOP = "bob.example CNAME a.example | a.example CNAME bob.example"
LINKS = ("bob.example", *(f"c{n}.example" for n in range(10)))
CHAIN = " | ".join(f"{link} CNAME {target}" for link, target in pairwise(LINKS))
SLOWLY: Faults = dict.fromkeys(LINKS, HALF)  # the name servers give one alias at a time
TWO = f"bob.example MX 10 a.example | bob.example MX 20 b.example | a.example A 192.0.2.1 | {OWN}"
BACKUP = "bob.example MX 10 a.example | bob.example MX 20 relay.example.org | bob.example MX 30 b.example"
WAITS: Cases = {
    "SERVFAIL": (TWO, {"bob.example": SERVFAIL}, "4.4.3"),
    "refused": (TWO, {"bob.example": REFUSED}, "4.4.3"),
    "timeout": (TWO, {"bob.example": TIMEOUT}, "4.4.3"),
    "garbage": (TWO, {"bob.example": Fault.GARBAGE}, "4.4.3"),
    "SERVFAIL of one MX, the other unknown": (TWO, {"a.example": SERVFAIL}, "4.4.3"),
    "SERVFAIL of one MX, the other forbidden": (f"{TWO} | b.example A 0.0.0.0", {"a.example": SERVFAIL}, "4.4.3"),
    "timeout of one MX, the other is us": (BACKUP, {"a.example": TIMEOUT}, "4.4.3"),
    "timeout of one family, the other empty": ("bob.example TXT x", {("bob.example", "AAAA"): TIMEOUT}, "4.4.3"),
    "alias loop": (LOOP, NONE, "4.4.6"),
    "alias loop, given slowly": (LOOP, {"bob.example": HALF, "a.example": HALF}, "4.4.6"),
    "alias of itself at the MX": ("bob.example MX 1 a.example | a.example CNAME a.example", NONE, "4.4.6"),
    "alias chain beyond three further questions": (CHAIN, SLOWLY, "4.4.4"),
}


@tabled(WAITS)  # type: ignore[operator]
def test_what_dns_does_not_tell_defers(names: str, faults: Faults, expected: str) -> None:
    """Where somebody may still mend DNS the mail waits; the domain's own address is no way around."""
    seen = send(names, faults, here=("192.0.2.1", "192.0.2.9"))

    assert (seen.kind, seen.status, seen.dialled) == ("deferred", expected, [])


def test_chain_is_given_up_after_three_further_questions() -> None:
    """Whoever makes up an alias for every question is not followed for ever."""
    assert {(link, "MX") for link in LINKS[:4]} == send(CHAIN, SLOWLY).asked


@in_world(schedule=RetrySchedule(expire_after_s=4 * HOUR_S))
async def test_loops_and_chains_that_stay_expire_as_what_they_are(world: SimulatedWorld) -> None:
    """When their time is over the reports say 5.4.6 for a loop and 5.4.4 for a chain, not merely that it is over."""
    home = world.site("example.org", "192.0.2.1")
    set_names(world.zone, f"{CHAIN} | loop.example CNAME loop.example")
    world.zone.faults.update(SLOWLY)

    await world.submit("ann@example.org", "bob@bob.example")
    await world.submit("ann@example.org", "bob@loop.example")
    await world.until_empty(step_s=HOUR_S)

    assert {"bob@bob.example": "expired", "bob@loop.example": "expired", "ann@example.org": "relayed"} == ends(world)
    expired = {record.recipient: record.status for record in world.committed() if record.kind is Kind.EXPIRED}
    assert {"bob@bob.example": "5.4.4", "bob@loop.example": "5.4.6"} == expired
    assert 2 == sum(f"Status: {status}" in report for status in expired.values() for report in reports(home))
    assert_accounted(world)


# -- a way is found ---------------------------------------------------------------------------------------------------

A = "a.example A 192.0.2.1"
MANY = [f"m{n}.example" for n in range(5000)]
DEAD_FIRST = " | ".join(f"bob.example MX {n} gone{n}.example" for n in range(12))
NO_HOSTS_FIRST = "bob.example MX 1 localhost | bob.example MX 2 10.0.0.1 | bob.example MX 3 a,b | localhost A 192.0.2.2"
IN_ORDER = "bob.example MX 30 a.example | bob.example MX 10 b.example | bob.example MX 20 c.example"
WAYS: Cases = {
    "implicit MX": ("bob.example A 192.0.2.1", NONE, ["192.0.2.1"]),
    "IPv6 alone": ("bob.example AAAA 2001:db8::1", NONE, ["2001:db8::1"]),
    "alias at the domain": (f"bob.example CNAME b.example | b.example MX 1 a.example | {A}", NONE, ["192.0.2.1"]),
    "alias at a domain without MX": (f"bob.example CNAME a.example | {A}", NONE, ["192.0.2.1"]),
    "alias at the MX": (f"bob.example MX 1 b.example | b.example CNAME a.example | {A}", NONE, ["192.0.2.1"]),
    "three further questions": (
        "bob.example CNAME c0.example | c0.example CNAME c1.example | c1.example CNAME c2.example"
        " | c2.example A 192.0.2.1",
        SLOWLY,
        ["192.0.2.1"],
    ),
    "null MX beside another": (f"bob.example MX 0 . | bob.example MX 10 a.example | {A}", NONE, ["192.0.2.1"]),
    "upper case, trailing dots": ("Bob.EXAMPLE. MX 1 A.Example. | a.example. A 192.0.2.1", NONE, ["192.0.2.1"]),
    "underscore": ("bob.example MX 10 mx_1.example | mx_1.example A 192.0.2.1", NONE, ["192.0.2.1"]),
    "TTL 0": ("bob.example 0 MX 10 a.example | a.example 0 A 192.0.2.1", NONE, ["192.0.2.1"]),
    "TTL of a century": (f"bob.example {2**32 - 1} MX 1 a.example | a.example {2**31} {A[10:]}", NONE, ["192.0.2.1"]),
    "SERVFAIL of one, another usable": (f"{TWO} | b.example A 192.0.2.2", {"a.example": SERVFAIL}, ["192.0.2.2"]),
    "timeout of one family": ("bob.example A 192.0.2.1", {("bob.example", "AAAA"): TIMEOUT}, ["192.0.2.1"]),
    "dead names in front": (f"{DEAD_FIRST} | bob.example MX 50 a.example | {A}", NONE, ["192.0.2.1"]),
    "names no host has in front": (f"{NO_HOSTS_FIRST} | bob.example MX 9 a.example | {A}", NONE, ["192.0.2.1"]),
    "5,000 exchangers": (
        " | ".join(f"bob.example MX 10 {name} | {name} A 192.0.2.1" for name in MANY), NONE, ["192.0.2.1"]
    ),
    "as a backup, to the better one only": (f"{BACKUP} | {A}", NONE, ["192.0.2.1"]),
    "our address at another port is not us": ("bob.example A 127.0.0.1", NONE, ["127.0.0.1"]),
    "the next where one is dead": (
        f"{IN_ORDER} | b.example A 192.0.2.7 | c.example A 192.0.2.8 | {A}",
        NONE,
        ["192.0.2.7", "192.0.2.8", "192.0.2.1"],
    ),
    "an address twice": (
        "bob.example A 192.0.2.7 | bob.example A 192.0.2.7 | bob.example AAAA 2001:db8::1",
        NONE,
        ["192.0.2.7", "2001:db8::1"],
    ),
    "an address behind two names": (
        "bob.example MX 1 a.example | bob.example MX 2 b.example"
        " | a.example A 192.0.2.7 | b.example A 192.0.2.7 | b.example A 192.0.2.2",
        NONE,
        ["192.0.2.7", "192.0.2.2"],
    ),
    "an MX twice": (f"bob.example MX 1 a.example | bob.example MX 2 A.example. | {A}", NONE, ["192.0.2.1"]),
}  # fmt: skip


@tabled(WAYS)  # type: ignore[operator]
def test_mail_goes_where_dns_says(names: str, faults: Faults, expected: list[str]) -> None:
    """Exchangers are dialled in the order of the rules, each address once, and the first that works takes the mail."""
    seen = send(names, faults, here=("192.0.2.1", "192.0.2.2", "2001:db8::1", "127.0.0.1"))

    assert (seen.kind, seen.dialled) == ("relayed", expected)


@pytest.mark.parametrize(("are_alive", "exchangers"), [(True, 10), (False, 30)], ids=["alive", "dead"])
def test_five_thousand_exchangers_cost_few_questions(*, are_alive: bool, exchangers: int) -> None:
    """Ten are looked up at a time, and after thirty dead ones the mail waits: nobody makes us ask for all of them."""
    names = [f"bob.example MX {n} {name}" + f" | {name} A 192.0.2.1" * are_alive for n, name in enumerate(MANY)]

    seen = send(" | ".join(names), here=("192.0.2.1",))

    looked_up = {(name, rdtype) for name in MANY[:exchangers] for rdtype in ("A", "AAAA")}
    assert (seen.kind, seen.status) == (("relayed", "2.0.0") if are_alive else ("deferred", "4.4.0"))
    assert {("bob.example", "MX"), *looked_up} == seen.asked


@in_world()
async def test_a_better_exchanger_that_dns_was_silent_about_is_used_within_a_minute(world: SimulatedWorld) -> None:
    """Meanwhile mail goes to the other; the plan that was made without the better one does not stand for its TTL."""
    others = ("192.0.2.2", "2001:db8::2")
    set_names(world.zone, "bob.example MX 10 a.example | bob.example MX 20 b.example")
    set_names(world.zone, "a.example A 192.0.2.1 | b.example A 192.0.2.2 | b.example AAAA 2001:db8::2")  # for 300 s
    world.zone.faults["a.example"] = SERVFAIL
    better, other = world.place(ScriptedExchanger(), "192.0.2.1"), world.place(ScriptedExchanger(), *others)

    await world.submit("", "early@bob.example")
    await world.clock.sleep(1)
    world.zone.faults.clear()
    await world.clock.sleep(60)
    await world.submit("", "late@bob.example")
    await world.until_empty()

    assert ({"late@bob.example": 1}, {"early@bob.example": 1}) == (taken(better), taken(other))


@pytest.mark.parametrize(
    ("families", "dialled"), [(Families.IPV4, ["192.0.2.1"]), (Families.IPV6, ["2001:db8::1"])], ids=["ipv4", "ipv6"]
)
def test_route_of_one_family_neither_asks_nor_dials_the_other(families: Families, dialled: list[str]) -> None:
    """An operator without IPv6 (or IPv4) can say so."""
    names = f"bob.example MX 10 a.example | {A} | a.example AAAA 2001:db8::1"

    seen = send(names, here=("192.0.2.1", "2001:db8::1"), families=families)

    assert (seen.kind, seen.dialled) == ("relayed", dialled)
    assert {rdtype for _, rdtype in seen.asked} == {"MX", *families.rdtypes}


@in_world()
async def test_equals_share_the_load_evenly(world: SimulatedWorld) -> None:
    """Three exchangers of one preference get a third each of 600 destinations; the worse one gets nothing."""
    for n, name in enumerate("abcd", 1):
        world.zone.set(f"{name}.example", f"A 192.0.2.{n}")
    for n in range(600):
        world.zone.set(f"d{n}.example", *(f"MX 10 {name}.example" for name in "abc"), "MX 20 d.example")
    exchangers = [world.place(ScriptedExchanger(), f"192.0.2.{n}") for n in range(1, 5)]

    await world.submit("", *(f"bob@d{n}.example" for n in range(600)))
    await world.until_empty()

    counts = [taken(each).total() for each in exchangers]
    assert (sum(counts), counts[3]) == (600, 0)
    assert sum((count - 200) ** 2 / 200 for count in counts[:3]) < 13.8  # chi-square, 2 degrees, p = 0.001


# -- recipients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipient", "kind", "status", "dialled"),
    [
        ("bob@[192.0.2.1]", "relayed", "2.0.0", ["192.0.2.1"]),
        ("bob@[IPv6:2001:DB8::1]", "relayed", "2.0.0", ["2001:db8::1"]),
        ("bob@[0.0.0.0]", "bounced", "5.4.4", []),
        ("bob@192.0.2.1", "bounced", "5.1.3", []),
        ("bob@localhost", "bounced", "5.4.4", []),
        ("bob@relay.example.org", "bounced", "5.4.6", []),
    ],
)
def test_recipients_at_addresses_and_at_ourselves(recipient: str, kind: str, status: str, dialled: list[str]) -> None:
    """An address literal is its own host, a bare address is no domain, and we are nobody's exchanger."""
    seen = send("relay.example.org A 192.0.2.1", recipient=recipient, here=("192.0.2.1", "2001:db8::1"))

    assert (seen.kind, seen.dialled) == (kind, dialled)
    assert seen.status == status or kind == "relayed"
    assert seen.asked <= {("relay.example.org", "MX")}, "nothing else is DNS's to say"


@in_world()
async def test_an_internationalised_domain_is_asked_for_as_its_a_label(world: SimulatedWorld) -> None:
    """bob@Bücher.example goes to the exchangers of xn--bcher-kva.example, under the name its sender wrote."""
    exchanger = world.site("xn--bcher-kva.example", "192.0.2.1")
    client = await world.client()

    said = [
        await client.say(b"MAIL FROM:<ann@example.org> SMTPUTF8\r\n"),
        await client.say("RCPT TO:<bob@Bücher.example>\r\n".encode()),
        (await client.say(b"DATA\r\n")).replace("354", "250"),
        await client.say(b"Subject: x\r\n\r\nx\r\n.\r\n"),
    ]
    await world.clock.sleep(1)

    assert all(reply.startswith("250") for reply in said), said
    assert {name for name, _ in world.resolver.asked} == {"xn--bcher-kva.example", "mx1.xn--bcher-kva.example"}
    assert {"bob@Bücher.example": 1} == taken(exchanger)


NO_DOMAINS = (
    b"a." * 127 + b"ab", b"x" * 256, b"x" * 64 + b".example", b"a..example", b".example", b"ex ample", b"a\x00b",
    b"\xff.example", b"-a.example", b"[1.2.3]", b"[IPv6:zz]", b"",
)  # fmt: skip


@in_world()
async def test_domains_that_dns_cannot_hold_are_refused_at_the_door(world: SimulatedWorld) -> None:
    """Too long, empty labels, odd octets: a clear refusal of that recipient, and the session goes on."""
    client = await world.client()
    await client.say(b"MAIL FROM:<ann@example.org>\r\n")

    said = [await client.say(b"RCPT TO:<bob@" + domain + b">\r\n") for domain in NO_DOMAINS]

    assert all(reply.startswith(("501 5.1.3", "501 5.5", "500 5.5", "553 5.")) for reply in said), said
    assert (await client.say(b"RCPT TO:<bob@bob.example>\r\n")).startswith("250")


# -- asked of the planner: what the world cannot vary -----------------------------------------------------------------


class Stale(ScriptedResolver):
    """Says what it knew before DNS fell silent."""

    async def ask(self, name: str, rdtype: str) -> Answer:
        return replace(await super().ask(name, rdtype), stale=True, detail="3 h past its TTL")


def plan(
    names: str,
    destination: str = "bob.example",
    faults: Faults = NONE,
    kind: type[ScriptedResolver] = ScriptedResolver,
    **terms: object,
) -> Plan | NoPlan:
    """Plan for the internet, as assemble does: addresses are judged, we listen where `terms` say."""
    zone = Zone(faults=faults)
    set_names(zone, names)
    plan_terms = PlanTerms(Speaker("relay.example.org"), **terms)  # type: ignore[arg-type]
    planner = Planner(RouteTable(), kind(zone), FakeClock(), random.Random(1), plan_terms)
    return asyncio.run(planner.plan_anew(destination))


FORBIDDEN = (
    "10.0.0.1", "172.16.0.1", "192.168.0.1", "127.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "192.0.0.8",
    "198.18.0.1", "192.0.2.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fc00::1",
    "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::7f00:1", "64:ff9b::10.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b:1::1", "64:ff9b:2::1", "200::1", "::1:0:0:1", "4000::1", "8000::1", "fe00::1",
    "2002:7f00:1::", "2002:a00:1::1", "2001::1", "100::1",
)  # fmt: skip


@pytest.mark.parametrize("address", FORBIDDEN)
def test_forbidden_addresses_are_named_and_never_dialled(address: str) -> None:
    """A stranger's DNS does not lead us into our own network, by whatever form of an address."""
    rdtype, literal = ("AAAA", f"[ipv6:{address}]") if ":" in address else ("A", f"[{address}]")
    names = f"bob.example MX 10 a.example | a.example {rdtype} {address}"

    alone, beside, asked_for = plan(names), plan(f"{names} | a.example A 8.8.8.8"), plan("", literal)

    assert isinstance(alone, NoPlan)
    assert (alone.status, f"a.example [{address}]" in alone.why) == ("5.4.4", True)
    assert isinstance(beside, Plan)
    assert beside.hosts == (Host("a.example", ("8.8.8.8",), 10),)
    assert isinstance(asked_for, NoPlan)
    assert asked_for.status == "5.4.4"


@pytest.mark.parametrize("address", ["8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "2a00:1450::1"])
def test_addresses_of_the_internet_are_dialled(address: str) -> None:
    """Also in the forms that carry a public IPv4 address: a relay that has IPv6 only needs NAT64."""
    found = plan(f"bob.example {'AAAA' if ':' in address else 'A'} {address}")

    assert isinstance(found, Plan)
    assert found.hosts[0].addresses == (address,)


def test_an_address_that_dns_repeats_is_planned_once() -> None:
    """Whoever lists an address ten times is not dialled ten times, also where nobody knows yet that it is dead."""
    names = "bob.example A 8.8.8.8 | bob.example A 8.8.8.8 | bob.example AAAA 2a00::1 | bob.example AAAA 2a00::1"

    found, of_one_family = plan(names), plan(names.partition(" | bob.example AAAA")[0])

    assert isinstance(found, Plan)
    assert isinstance(of_one_family, Plan)
    assert found.hosts == (Host("bob.example", ("8.8.8.8", "2a00::1")),)
    assert of_one_family.hosts == (Host("bob.example", ("8.8.8.8",)),)


@pytest.mark.parametrize(("port", "status"), [(25, "5.4.6"), (26, None)])
def test_ourselves_by_address_and_port(port: int, status: str | None) -> None:
    """An exchanger at our address is us if we listen at that port, whatever its name; all that is worse is dropped."""
    hosts = "b.example A 8.8.8.8 | c.example A 8.8.4.4"
    ours = frozenset({("8.8.8.8", port)})

    best = plan(f"bob.example MX 10 b.example | bob.example MX 20 c.example | {hosts}", listening=ours)
    backup = plan(f"bob.example MX 5 c.example | bob.example MX 10 b.example | {hosts}", listening=ours)

    assert (best.status if isinstance(best, NoPlan) else None) == status
    assert isinstance(backup, Plan)
    assert [host.name for host in backup.hosts] == (["c.example"] if status else ["c.example", "b.example"])


@pytest.mark.parametrize(("further_lookups", "is_found"), [(3, False), (9, False), (10, True), (16, True)])
def test_how_far_chains_are_followed_is_a_setting(further_lookups: int, is_found: bool) -> None:
    """[dns] alias_lookups: a chain of ten aliases, given one at a time, takes as many further questions."""
    found = plan(f"{CHAIN} | c9.example A 8.8.8.8", faults=SLOWLY, further_lookups=further_lookups)

    assert is_found == isinstance(found, Plan)


NO_NAMES = (
    "",
    ".",
    "a..b",
    ".a",
    "a.",
    "x" * 256,
    "a." * 128,
    "x" * 64,
    "a b",
    "a\x00b",
    "ä.example",
    "[",
    "[]",
    "[x",
    "*",
)


@pytest.mark.parametrize("domain", NO_NAMES)
def test_no_octets_make_the_planner_fail(domain: str) -> None:
    """Whatever reaches it as a domain, the verdict is a clear 5.1.3."""
    found = plan("", domain)

    assert isinstance(found, NoPlan)
    assert (found.status, found.permanent) == ("5.1.3", True)


def test_stale_answers_deliver_and_never_bounce() -> None:
    """While DNS is silent mail goes by what was known, and says so; what had no way then waits."""
    caveat = "DNS does not answer: MX bob.example is stale (3 h past its TTL)"

    good, null, gone = [plan(names, kind=Stale) for names in ("bob.example A 8.8.8.8", "bob.example MX 0 .", "")]

    assert isinstance(good, Plan)
    assert good.caveat == caveat
    assert isinstance(null, NoPlan)
    assert isinstance(gone, NoPlan)
    assert (null.permanent, null.status, gone.permanent, gone.status) == (False, "4.1.10", False, "4.1.2")
    assert caveat in null.why
    assert caveat in gone.why


class Cut(ScriptedResolver):
    """Gives the beginning of what it heard."""

    async def ask(self, name: str, rdtype: str) -> Answer:
        return replace(await super().ask(name, rdtype), is_cut=True)


@pytest.mark.parametrize(("names", "faults", "status"), BOUNCES.values(), ids=BOUNCES)
def test_nothing_bounces_by_an_answer_that_was_cut(names: str, faults: Faults, status: str) -> None:
    """What would come back at once waits, where only a part of what DNS said was read; the reason says so."""
    found = plan(names, faults=faults, kind=Cut)

    assert isinstance(found, NoPlan)
    assert (found.permanent, found.status[0], "cut: there was more" in found.why) == (False, "4", True)
