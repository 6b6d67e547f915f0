# SPDX-License-Identifier: MIT
"""The MX machine against scripted zones: each outcome of DNS by name."""

import asyncio
import random
from collections import Counter
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from smarthost.mail.hop import Host
from smarthost.ports import Answer, AnswerStatus, MxRecord
from smarthost.route.mx import (
    ADDRESSES_USED,
    EXCHANGERS_ASKED,
    HOSTS_USED,
    Exchangers,
    Listed,
    MxTerms,
    Ourselves,
    Unroutable,
    find_hosts,
    interleave,
    list_exchangers,
    literal_address,
)
from smarthost.route.questions import Asking, Evidence, why_no_name
from smarthost.route.table import Families
from smarthost.testing.dns import Fault, ScriptedResolver, Zone

US = Ourselves("relay.example.net", frozenset({("1.0.0.25", 25), ("0.0.0.0", 2525)}))
TERMS = MxTerms(US)
A, B, C = "1.0.0.1", "1.0.0.2", "1.0.0.3"
A6, B6 = "2a00::1", "2a00::2"

_Found = TypeVar("_Found")


def find(
    zone: Zone,
    domain: str = "example.org",
    terms: MxTerms = TERMS,
    seed: int = 1,
    asked: Counter[str] | None = None,
    resolver: ScriptedResolver | None = None,
) -> Exchangers | Unroutable:
    """Drive the machine with what the zone says."""
    return driven(find_hosts(domain, terms, random.Random(seed)), resolver or ScriptedResolver(zone), asked)


def driven(machine: Asking[_Found], resolver: ScriptedResolver, asked: Counter[str] | None = None) -> _Found:
    async def drive() -> _Found:
        found: _Found
        try:
            questions = next(machine)
            while True:
                if asked is not None:
                    asked.update(f"{question.rdtype} {question.name}" for question in questions)
                questions = machine.send(tuple([await resolver.ask(each.name, each.rdtype) for each in questions]))
        except StopIteration as end:
            found = end.value
        return found

    return asyncio.run(drive())


def hosts(found: Exchangers | Unroutable) -> list[str]:
    assert isinstance(found, Exchangers), found
    return [host.name for host in found.hosts]


def verdict(found: Exchangers | Unroutable) -> Unroutable:
    assert isinstance(found, Unroutable), found
    return found


def zone_of(*mx: str, faults: dict[str | tuple[str, str], Fault] | None = None, **addresses: str) -> Zone:
    """A zone for example.org with these MX records, and hosts "mx1" .. in example.net with these addresses."""
    records: dict[str, list[str]] = {"example.org": [f"MX {record}" for record in mx]}
    for name, text in addresses.items():
        records[f"{name}.example.net"] = [f"{'AAAA' if ':' in each else 'A'} {each}" for each in text.split()]
    return Zone(records, faults=faults)


# ordinary mail


def test_exchangers_come_in_order_of_preference() -> None:
    """The lowest preference number is tried first, whatever the order of the records."""
    zone = zone_of("30 c.example.net", "10 a.example.net", "20 b.example.net", a=A, b=B, c=C)

    found = find(zone)

    assert isinstance(found, Exchangers)
    assert found.hosts == (
        Host("a.example.net", (A,), 10),
        Host("b.example.net", (B,), 20),
        Host("c.example.net", (C,), 30),
    )
    assert not found.is_partial


def test_all_addresses_are_asked_for_in_one_round() -> None:
    """Two rounds of questions suffice: exchangers, then all their addresses at once."""
    zone = zone_of("10 a.example.net", "20 b.example.net", a=A, b=B)
    asked: Counter[str] = Counter()

    find(zone, asked=asked)

    assert asked == Counter(
        ["MX example.org", "A a.example.net", "AAAA a.example.net", "A b.example.net", "AAAA b.example.net"]
    )


def test_first_draw_is_random_too() -> None:
    """Which of many equals are looked up at all is left to chance, not to the order of the answer."""
    records = [f"10 m{n}.example.net" for n in range(50)]
    zone = zone_of(*records)
    for n in range(50):
        zone.set(f"m{n}.example.net", f"A {A}")

    picked = {name for seed in range(40) for name in hosts(find(zone, seed=seed))}

    assert len(picked) > 45


def test_families_are_interleaved_host_by_host() -> None:
    """Broken IPv6 costs every other dial at most."""
    zone = zone_of("10 a.example.net", a=f"{A6} {B6} {A} {B} {C}")

    found = find(zone)

    assert isinstance(found, Exchangers)
    assert found.hosts[0].addresses == (A, A6, B, B6, C)


@pytest.mark.parametrize(("families", "addresses"), [(Families.IPV4, (A,)), (Families.IPV6, (A6,))])
def test_route_may_be_limited_to_a_family(families: Families, addresses: tuple[str, ...]) -> None:
    """`families` of a route keeps the other family out, without asking for it."""
    asked: Counter[str] = Counter()

    found = find(zone_of("10 a.example.net", a=f"{A} {A6}"), terms=MxTerms(US, families=families), asked=asked)

    assert isinstance(found, Exchangers)
    assert found.hosts[0].addresses == addresses
    assert asked.total() == 2


@pytest.mark.parametrize(("families", "other"), [(Families.IPV4, A6), (Families.IPV6, A)])
def test_exchanger_without_an_address_of_the_routes_family_bounces_and_says_so(families: Families, other: str) -> None:
    """The operator who chose a family reads that it was the family that was missing."""
    found = verdict(find(zone_of("10 a.example.net", a=other), terms=MxTerms(US, families=families)))

    assert (found.status, f"IPv{families.value[-1]} address" in found.why) == ("5.4.4", True)


def test_repeated_addresses_count_once() -> None:
    """An answer that repeats an address does not make us dial it again."""
    found = find(zone_of("10 a.example.net", a=f"{A} {A6} {A} {B} {A6}"))

    assert isinstance(found, Exchangers)
    assert found.hosts[0].addresses == (A, A6, B)


@pytest.mark.parametrize("domain", ["d0.example", "direct.example", "f0.example"])
@pytest.mark.parametrize(("further_lookups", "is_found"), [(0, False), (1, False), (2, True), (16, True)])
def test_how_far_aliases_are_followed_is_a_setting(domain: str, further_lookups: int, is_found: bool) -> None:
    """Two questions further and not one: at the domain and at the exchanger, or at one of them."""
    links = {f"{kind}{n}.example": f"CNAME {kind}{n + 1}.example" for kind in "def" for n in range(3)}
    ends = {"d3.example": "MX 10 e0.example", "direct.example": "MX 10 e0.example", "e3.example": f"A {A}"}
    ends["f3.example"] = "MX 10 e3.example"
    zone = Zone(links | ends, faults=dict.fromkeys(links, Fault.HALF_ALIAS))

    found = find(zone, domain, MxTerms(US, families=Families.IPV4, further_lookups=further_lookups))

    assert is_found == isinstance(found, Exchangers)
    if isinstance(found, Unroutable):
        assert found.status == "4.4.4"


def test_domain_without_mx_is_its_own_exchanger() -> None:
    """RFC 5321 5.1: NODATA for MX means the implicit MX."""
    found = find(Zone({"example.org": f"A {A}"}))

    assert hosts(found) == ["example.org"]
    assert any("no MX record" in line for line in found.evidence)


def test_without_implicit_mx_a_domain_without_mx_has_no_exchanger() -> None:
    """Who wants no guesses gets a verdict, with its evidence, and the domain's address is not even asked for."""
    asked: Counter[str] = Counter()

    found = verdict(find(Zone({"example.org": f"A {A}"}), terms=MxTerms(US, implicit_mx=False), asked=asked))

    why = "example.org has no MX record, and its own address does not count here"
    assert (found.status, found.why) == ("5.4.4", why)
    assert found.evidence == ("MX example.org: NODATA", f"5.4.4: {why}")
    assert set(asked) == {"MX example.org"}


@pytest.mark.parametrize("faults", [{}, {"example.org": Fault.HALF_ALIAS}])
def test_without_implicit_mx_an_alias_still_leads_to_exchangers(faults: dict[str | tuple[str, str], Fault]) -> None:
    """What counts is whether the name at the end of the alias has an MX record, however slowly it is given."""
    zone = Zone({"example.org": "CNAME b.example", "b.example": f"A {A}", "a.example": f"A {A}"}, faults=faults)

    without = verdict(find(zone, terms=MxTerms(US, implicit_mx=False)))
    zone.set("b.example", "MX 10 a.example")

    assert without.status == "5.4.4"
    assert hosts(find(zone, terms=MxTerms(US, implicit_mx=False))) == ["a.example"]


def test_alias_at_the_domain_is_followed() -> None:
    """A domain that is an alias gets the exchangers of the name it stands for."""
    zone = Zone({"example.org": "CNAME real.example", "real.example": "MX 10 a.example", "a.example": f"A {A}"})

    assert hosts(find(zone)) == ["a.example"]


def test_alias_at_a_domain_without_mx_leads_to_the_canonical_address() -> None:
    """The implicit exchanger of an alias is the name at its end."""
    zone = Zone({"example.org": "CNAME real.example", "real.example": f"A {A}"})

    assert hosts(find(zone)) == ["real.example"]


def test_alias_at_an_exchanger_is_tolerated() -> None:
    """RFC 2181 10.3 forbids it, the world does it."""
    zone = Zone({"example.org": "MX 10 a.example", "a.example": "CNAME b.example", "b.example": f"A {A}"})

    assert hosts(find(zone)) == ["a.example"]


def test_alias_the_server_does_not_follow_is_followed_here() -> None:
    """A lame server that gives only the alias costs further questions, not the mail."""
    zone = Zone(
        {"example.org": "CNAME real.example", "real.example": "MX 10 a.example", "a.example": f"A {A}"},
        faults={"example.org": Fault.HALF_ALIAS},
    )

    assert hosts(find(zone)) == ["a.example"]


def test_least_ttl_bounds_how_long_it_stands() -> None:
    """The plan is as fresh as its shortest-lived record."""
    zone = Zone({"example.org": "900 MX 10 a.example", "a.example": (f"77 A {A}", f"500 AAAA {A6}")})

    assert find(zone).ttl_s == 77


def test_same_exchanger_twice_counts_once_at_its_best() -> None:
    """A repeated exchanger is not tried twice."""
    found = find(zone_of("20 a.example.net", "10 a.example.net", "15 b.example.net", a=A, b=B))

    assert isinstance(found, Exchangers)
    assert found.hosts == (Host("a.example.net", (A,), 10), Host("b.example.net", (B,), 15))


# no for good


def test_null_mx_bounces() -> None:
    """RFC 7505: the domain says it takes no mail; its address is not even looked up."""
    asked: Counter[str] = Counter()

    found = verdict(find(zone_of("0 ."), asked=asked))

    assert (found.status, found.is_permanent) == ("5.1.10", True)
    assert "example.org" in found.why
    assert asked.total() == 1


def test_null_mx_beside_others_is_ignored() -> None:
    """RFC 7505 3 forbids the mixture; the usable records count."""
    found = find(zone_of("0 .", "10 a.example.net", a=A))

    assert hosts(found) == ["a.example.net"]
    assert any("null MX beside other records" in line for line in found.evidence)


def test_missing_domain_bounces() -> None:
    """NXDOMAIN for the recipient domain."""
    found = verdict(find(Zone()))

    assert (found.status, found.why) == ("5.1.2", "the domain example.org does not exist")


def test_alias_to_a_missing_domain_bounces_and_names_it() -> None:
    """A dangling alias is a domain that does not exist."""
    found = verdict(find(Zone({"example.org": "CNAME gone.example"})))

    assert (found.status, found.why) == ("5.1.2", "the domain gone.example does not exist")


@pytest.mark.parametrize("fault", [Fault.NXDOMAIN, Fault.NODATA])
def test_exchangers_without_address_bounce_and_do_not_fall_back(fault: Fault) -> None:
    """MX records that lead nowhere are an error: the domain's own address is not used (RFC 5321 5.1)."""
    zone = zone_of("10 a.example.net", "20 b.example.net", faults={"a.example.net": fault, "b.example.net": fault})
    zone.set("example.org", "MX 10 a.example.net", "MX 20 b.example.net", f"A {C}")

    found = verdict(find(zone))

    assert found.status == "5.4.4"
    assert "a.example.net, b.example.net" in found.why


def test_domain_without_mx_and_address_bounces() -> None:
    """The domain exists, but there is nowhere to go."""
    assert verdict(find(Zone({"example.org": "TXT hello"}))).status == "5.4.4"


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "::1", "::ffff:8.8.8.8", "64:ff9b::a00:1", "0.0.0.0"])
def test_only_forbidden_addresses_bounce_and_are_named(address: str) -> None:
    """A stranger's MX does not make us dial into our own network."""
    found = verdict(find(zone_of("10 a.example.net", a=address)))

    assert found.status == "5.4.4"
    assert f"a.example.net [{address}]" in found.why


def test_forbidden_address_beside_a_public_one_is_left_out() -> None:
    """The public addresses of a host stay usable: a stray record does not block mail."""
    found = find(zone_of("10 a.example.net", "20 b.example.net", a=f"10.0.0.1 {A}", b="192.168.0.1"))

    assert isinstance(found, Exchangers)
    assert found.hosts == (Host("a.example.net", (A,), 10),)
    assert any("10.0.0.1" in line for line in found.evidence)


def test_test_network_may_use_private_addresses() -> None:
    """--allow-private."""
    found = find(zone_of("10 a.example.net", a="127.0.0.1"), terms=MxTerms(US, allow_private=True))

    assert hosts(found) == ["a.example.net"]


@pytest.mark.parametrize(
    "exchange",
    ["localhost", "a.localhost", "192.0.2.1", "1.0.0.1", "a\\032b.example", "a..example", "x" * 64 + ".example", "a/b"],
)
def test_impossible_exchanger_is_skipped_with_evidence(exchange: str) -> None:
    """Names no host can have are not asked for; the others are used."""
    asked: Counter[str] = Counter()
    zone = zone_of(f"10 {exchange}", "20 a.example.net", a=A)

    found = find(zone, asked=asked)

    assert hosts(found) == ["a.example.net"]
    assert not any(exchange in question for question in asked)
    assert any("skipped" in line for line in found.evidence)


def test_only_impossible_exchangers_bounce() -> None:
    """An MX that names an address or localhost is no way to deliver, and no reason to retry."""
    found = verdict(find(zone_of("10 192.0.2.1", "10 localhost")))

    assert found.status == "5.4.4"
    assert "localhost" in found.why


# cannot tell


@pytest.mark.parametrize("fault", [Fault.SERVFAIL, Fault.TIMEOUT, Fault.REFUSED])
def test_unanswered_mx_question_defers(fault: Fault) -> None:
    """What DNS does not say is no reason to bounce."""
    found = verdict(find(Zone({"example.org": f"A {A}"}, faults={"example.org": fault})))

    assert (found.status, found.is_permanent) == ("4.4.3", False)


@pytest.mark.parametrize("fault", [Fault.SERVFAIL, Fault.TIMEOUT])
@pytest.mark.parametrize("rdtype", ["A", "AAAA"])
def test_unanswered_address_question_defers_when_nothing_is_usable(fault: Fault, rdtype: str) -> None:
    """One exchanger is dead for sure, of the other we cannot tell: wait."""
    zone = zone_of("10 a.example.net", "20 b.example.net", b="10.0.0.1", faults={("a.example.net", rdtype): fault})
    zone.set("a.example.net", "TXT hello")

    found = verdict(find(zone))

    assert found.status == "4.4.3"
    assert f"{rdtype} a.example.net" in found.why


def test_unanswered_question_about_one_host_does_not_stop_the_others() -> None:
    """A usable host is used at once, and the missing answer is asked for again soon."""
    zone = zone_of("10 a.example.net", "20 b.example.net", b=B, faults={"a.example.net": Fault.SERVFAIL})

    found = find(zone)

    assert hosts(found) == ["b.example.net"]
    assert isinstance(found, Exchangers)
    assert found.is_partial


def test_one_family_unanswered_leaves_the_other_usable() -> None:
    """Name servers that choke on AAAA do not stop mail."""
    found = find(zone_of("10 a.example.net", a=A, faults={("a.example.net", "AAAA"): Fault.TIMEOUT}))

    assert hosts(found) == ["a.example.net"]


def test_alias_loop_defers_and_says_so() -> None:
    """A CNAME loop is an error somebody may repair: 4.4.6 until it expires."""
    found = verdict(find(Zone({"example.org": "CNAME b.example", "b.example": "CNAME example.org"})))

    assert (found.status, found.is_permanent) == ("4.4.6", False)
    assert "loop" in found.why


def test_alias_loop_across_answers_defers() -> None:
    """The same loop, given one alias at a time."""
    zone = Zone(
        {"example.org": "CNAME b.example", "b.example": "CNAME example.org"},
        faults={"example.org": Fault.HALF_ALIAS, "b.example": Fault.HALF_ALIAS},
    )

    found = verdict(find(zone))

    assert (found.status, "alias loop" in found.why) == ("4.4.6", True)


def test_endless_alias_chain_defers_after_few_questions() -> None:
    """Somebody who invents a new alias for every question is not followed for ever."""
    links: dict[str, str] = {f"c{n}.example": f"CNAME c{n + 1}.example" for n in range(50)}
    zone = Zone(links, faults=dict.fromkeys(links, Fault.HALF_ALIAS))
    asked: Counter[str] = Counter()

    found = verdict(find(zone, "c0.example", asked=asked))

    assert found.status == "4.4.4"
    assert "too long" in found.why
    assert asked.total() == 4


def test_broken_alias_at_one_exchanger_defers_if_it_is_the_only_one() -> None:
    """A loop at the exchanger counts as unknown, not as missing."""
    zone = Zone({"example.org": "MX 10 a.example", "a.example": "CNAME a.example"})

    assert verdict(find(zone)).status == "4.4.6"


@pytest.mark.parametrize("fault", [Fault.SERVFAIL, Fault.TIMEOUT])
def test_alias_to_a_name_that_fails_is_no_trouble_of_aliases(fault: Fault) -> None:
    """One alias is no chain: it is DNS that fails, and at expiry the report does not blame the alias."""
    zone = Zone(
        {"example.org": "CNAME b.example", "other.example": "MX 10 a.example", "a.example": "CNAME b.example"},
        faults={"example.org": Fault.HALF_ALIAS, "a.example": Fault.HALF_ALIAS, "b.example": fault},
    )

    at_domain, at_exchanger = verdict(find(zone)), verdict(find(zone, "other.example"))

    assert (at_domain.status, at_exchanger.status) == ("4.4.3", "4.4.3")
    assert at_domain.evidence[0].startswith(f"MX example.org: alias of b.example, {fault.name}")


def test_loop_at_one_exchanger_and_silence_at_another_is_silence() -> None:
    """The loop is not the whole reason: the other exchanger may take the mail tomorrow."""
    zone = zone_of("10 a.example.net", "20 b.example.net", faults={"b.example.net": Fault.TIMEOUT})
    zone.set("a.example.net", "CNAME a.example.net")

    assert verdict(find(zone)).status == "4.4.3"


class StaleResolver(ScriptedResolver):
    """Says of these names (all, if none is given) what it knew before DNS fell silent."""

    def __init__(self, zone: Zone, *names: str) -> None:
        super().__init__(zone)
        self._names = names

    async def ask(self, name: str, rdtype: str) -> Answer:
        answer = await super().ask(name, rdtype)
        is_stale = not self._names or name in self._names
        return replace(answer, stale=True, ttl_s=30, detail="3 h past its TTL") if is_stale else answer


@pytest.mark.parametrize(
    ("zone", "status"),
    [
        (zone_of("0 ."), "4.1.10"),
        (Zone(), "4.1.2"),
        (zone_of("10 a.example.net"), "4.4.3"),
        (zone_of("10 a.example.net", a="127.0.0.1"), "4.4.3"),
        (zone_of("10 relay.example.net"), "4.4.3"),
        (Zone({"example.org": "TXT no address"}), "4.4.3"),
    ],
    ids=["null MX", "NXDOMAIN", "no address", "forbidden address", "ourselves", "no implicit exchanger"],
)
def test_nothing_bounces_by_stale_answers(zone: Zone, status: str) -> None:
    """While DNS is silent an old "no" is not the last word: the mail waits, and the reason says why."""
    found = verdict(find(zone, resolver=StaleResolver(zone)))

    assert (found.status, found.is_permanent) == (status, False)
    assert "not final: DNS does not answer: MX example.org is stale (3 h past its TTL)" in found.why


def test_stale_answer_about_one_exchanger_keeps_the_rest_from_bouncing() -> None:
    """The exchangers are fresh, the missing address of one is not."""
    zone = zone_of("10 a.example.net", "20 b.example.net")

    found = verdict(find(zone, resolver=StaleResolver(zone, "b.example.net")))

    assert (found.status, "NXDOMAIN" in found.why or "b.example.net is stale" in found.why) == ("4.4.3", True)


def test_stale_answers_are_good_enough_to_deliver_by() -> None:
    """Mail goes on while DNS is silent, and the plan says what it rests on."""
    zone = zone_of("10 a.example.net", a=A)

    stale, fresh = find(zone, resolver=StaleResolver(zone)), find(zone)

    assert isinstance(stale, Exchangers)
    assert isinstance(fresh, Exchangers)
    assert stale.hosts == fresh.hosts
    assert (stale.caveat, fresh.caveat) == ("DNS does not answer: MX example.org is stale (3 h past its TTL)", "")


class CutResolver(ScriptedResolver):
    """Gives the beginning of what it heard, to these questions ("MX example.org"); all, if none is given."""

    def __init__(self, zone: Zone, *questions: str) -> None:
        super().__init__(zone)
        self._questions = questions

    async def ask(self, name: str, rdtype: str) -> Answer:
        answer = await super().ask(name, rdtype)
        return replace(answer, is_cut=not self._questions or f"{rdtype} {name}" in self._questions)


MX_CUT, A_CUT = "MX example.org", "A a.example.net"
CUT: dict[str, tuple[Zone, str, str]] = {
    "null MX": (zone_of("0 ."), MX_CUT, "4.1.10"),
    "NXDOMAIN": (Zone(), MX_CUT, "4.1.2"),
    "no address, MX cut": (zone_of("10 a.example.net"), MX_CUT, "4.4.3"),
    "no address, addresses cut": (zone_of("10 a.example.net"), A_CUT, "4.4.3"),
    "forbidden address, MX cut": (zone_of("10 a.example.net", a="127.0.0.1"), MX_CUT, "4.4.3"),
    "forbidden address, addresses cut": (zone_of("10 a.example.net", a="127.0.0.1"), A_CUT, "4.4.3"),
    "names no host has": (zone_of("10 localhost", "20 10.0.0.1"), MX_CUT, "4.4.3"),
    "ourselves by name": (zone_of("10 relay.example.net"), MX_CUT, "4.4.3"),
    "ourselves by address, MX cut": (zone_of("10 a.example.net", a="1.0.0.25"), MX_CUT, "4.4.3"),
    "ourselves by address, addresses cut": (zone_of("10 a.example.net", a="1.0.0.25"), A_CUT, "4.4.3"),
    "no MX read": (Zone({"example.org": "TXT no address"}), MX_CUT, "4.4.3"),
    "no MX read, but an address": (Zone({"example.org": f"A {A}"}), MX_CUT, "4.4.3"),
    "implicit exchanger without address": (Zone({"example.org": "TXT x"}), "AAAA example.org", "4.4.3"),
    "none of the best": (zone_of(*[f"{n} gone{n}.example.net" for n in range(31)]), MX_CUT, "4.4.0"),
    "alias to a missing name": (Zone({"example.org": "CNAME gone.example"}), MX_CUT, "4.1.2"),
}


@pytest.mark.parametrize(("zone", "cut", "status"), CUT.values(), ids=CUT)
def test_nothing_bounces_by_what_was_not_read_to_its_end(zone: Zone, cut: str, status: str) -> None:
    """What is missing in an answer that was cut may exist all the same: the mail waits, and the reason says why."""
    found = verdict(find(zone, resolver=CutResolver(zone, cut)))
    whole = find(zone)

    assert (found.status, found.is_permanent) == (status, False)
    assert "cut: there was more" in found.why
    assert isinstance(whole, Exchangers) or "cut" not in whole.why


def test_without_implicit_mx_a_cut_answer_is_no_verdict_either() -> None:
    """That no MX record was read does not mean that there is none."""
    zone = Zone({"example.org": f"A {A}"})

    found = verdict(find(zone, terms=MxTerms(US, implicit_mx=False), resolver=CutResolver(zone)))

    assert (found.status, found.is_permanent) == ("4.4.3", False)


def test_a_domain_whose_exchangers_were_not_read_is_not_its_own_exchanger() -> None:
    """Its address may be anything, a web server for one, while its exchangers are in the part that was not read."""
    zone, asked = Zone({"example.org": f"A {A}"}), Counter[str]()

    find(zone, asked=asked, resolver=CutResolver(zone, MX_CUT))

    assert set(asked) == {MX_CUT}


def test_what_is_final_says_nothing_of_cuts_elsewhere() -> None:
    """Stale and cut: both are told; neither: the verdict stands."""
    zone = zone_of("0 .")

    class Both(CutResolver):
        async def ask(self, name: str, rdtype: str) -> Answer:
            return replace(await super().ask(name, rdtype), stale=True)

    both, neither = verdict(find(zone, resolver=Both(zone))), verdict(find(zone))

    assert "DNS does not answer" in both.why
    assert "cut: there was more" in both.why
    assert neither.status == "5.1.10"


@pytest.mark.parametrize("cut", ["MX example.org", "A a.example.net", "AAAA a.example.net"])
def test_hosts_from_an_answer_that_was_cut_are_used_and_asked_for_again_soon(cut: str) -> None:
    """Mail goes to the exchangers that were read; a better one may be among the others."""
    zone = zone_of("10 a.example.net", a=A)

    found, whole = find(zone, resolver=CutResolver(zone, cut)), find(zone)

    assert isinstance(found, Exchangers)
    assert isinstance(whole, Exchangers)
    assert (found.hosts, found.is_partial, whole.is_partial) == (whole.hosts, True, False)
    assert any("cut: there was more" in line for line in found.evidence)


ODD = ["foo\\032bar.example", "a/b.example", "192.0.2.1", "x" * 64 + ".example", "a..example"]


class OddAlias(ScriptedResolver):
    """Gives of these names an alias only, which leads to what is no name."""

    def __init__(self, zone: Zone, odd: str, *names: str) -> None:
        super().__init__(zone)
        self._odd, self._names = odd, names

    async def ask(self, name: str, rdtype: str) -> Answer:
        answer = await super().ask(name, rdtype)
        if name not in self._names:
            return answer
        return Answer(name, rdtype, AnswerStatus.NODATA, canonical=self._odd, aliases=(name,))


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("where", ["example.org", "a.example.net"])
def test_alias_to_what_is_no_name_defers_and_is_not_asked_for(where: str, odd: str) -> None:
    """Written as text it would be another name: what is said of that one is no reason to bounce."""
    zone, asked = zone_of("10 a.example.net"), Counter[str]()

    found = verdict(find(zone, asked=asked, resolver=OddAlias(zone, odd, where)))

    assert (found.status, "cannot be followed" in found.why) == ("4.4.3", True)
    assert not any(odd in question for question in asked)


# ourselves


def test_ourselves_by_name_and_all_that_is_worse_is_dropped() -> None:
    """As a backup exchanger we hand on to better ones only (RFC 5321 5.1)."""
    zone = zone_of("10 a.example.net", "20 relay.example.net", "20 b.example.net", "30 c.example.net", a=A, b=B, c=C)
    asked: Counter[str] = Counter()

    found = find(zone, asked=asked)

    assert hosts(found) == ["a.example.net"]
    assert not any("b.example.net" in question or "relay" in question for question in asked)
    assert any("is this relay itself" in line for line in found.evidence)


def test_ourselves_by_address_and_port() -> None:
    """Another name for us is us."""
    zone = zone_of("10 a.example.net", "20 b.example.net", "30 c.example.net", a=A, b=f"{B} 1.0.0.25", c=C)

    assert hosts(find(zone)) == ["a.example.net"]
    assert hosts(find(zone, terms=MxTerms(US, port=26))) == ["a.example.net", "b.example.net", "c.example.net"]


@pytest.mark.parametrize("seed", range(6))
def test_equals_of_ourselves_are_dropped_whatever_their_order(seed: int) -> None:
    """A host as good as we are is no way forward either, also when it was looked at before us."""
    zone = zone_of("10 a.example.net", "10 b.example.net", "10 c.example.net", a=A, b="1.0.0.25", c=C)

    assert verdict(find(zone, seed=seed)).status == "5.4.6"


def test_ourselves_by_alias() -> None:
    """An exchanger that is an alias of our name is us."""
    zone = zone_of("10 a.example.net", "20 b.example.net", a=A)
    zone.set("b.example.net", "CNAME relay.example.net")
    zone.set("relay.example.net", f"A {B}")

    assert hosts(find(zone)) == ["a.example.net"]


def test_who_has_no_name_is_met_by_address_only() -> None:
    """An answer that does not say where its aliases end is not taken for one that says it is us."""

    class Terse(ScriptedResolver):
        async def ask(self, name: str, rdtype: str) -> Answer:
            return replace(await super().ask(name, rdtype), canonical="")

    zone = zone_of("10 a.example.net", "20 b.example.net", a=A, b="1.0.0.25")
    nameless = Ourselves("", US.listening)

    assert hosts(find(zone, terms=MxTerms(nameless), resolver=Terse(zone))) == ["a.example.net"]
    assert not nameless.is_called("")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1"])
def test_listener_on_all_addresses_is_ourselves_at_loopback(address: str) -> None:
    """In a test network a wildcard listener is recognised at any loopback address, on its own port only."""
    zone = zone_of("10 a.example.net", a=address)

    assert verdict(find(zone, terms=MxTerms(US, 2525, allow_private=True))).status == "5.4.6"
    assert hosts(find(zone, terms=MxTerms(US, 2526, allow_private=True))) == ["a.example.net"]


@pytest.mark.parametrize("address", ["::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:1.0.0.25"])
def test_ourselves_behind_a_mapped_address(address: str) -> None:
    """An IPv4-mapped address leads to the IPv4 address inside it, so also to us."""
    terms = MxTerms(
        Ourselves("relay.example.net", frozenset({("127.0.0.1", 25), ("1.0.0.25", 25)})), allow_private=True
    )

    assert verdict(find(zone_of("10 a.example.net", a=address), terms=terms)).status == "5.4.6"


@pytest.mark.parametrize("exchange", ["relay.example.net", "b.example.net"])
def test_only_ourselves_is_a_loop(exchange: str) -> None:
    """Mail for a domain whose best exchanger we are, and which we do not know, bounces with 5.4.6."""
    found = verdict(find(zone_of(f"10 {exchange}", "20 a.example.net", a=A, b="1.0.0.25")))

    assert found.status == "5.4.6"


def test_implicit_exchanger_that_is_ourselves_is_a_loop() -> None:
    """A domain without MX whose address is ours."""
    assert verdict(find(Zone({"example.org": "A 1.0.0.25"}))).status == "5.4.6"


def test_dead_better_exchanger_is_named_rather_than_ourselves() -> None:
    """As backup for an exchanger that is gone the reason is the missing exchanger."""
    found = verdict(find(zone_of("10 gone.example.net", "20 relay.example.net")))

    assert (found.status, "gone.example.net" in found.why) == ("5.4.4", True)


def test_unknown_better_exchanger_defers_rather_than_loops() -> None:
    """As backup for an exchanger DNS does not speak of we wait."""
    zone = zone_of("10 a.example.net", "20 relay.example.net", faults={"a.example.net": Fault.SERVFAIL})

    assert verdict(find(zone)).status == "4.4.3"


def test_what_is_worse_than_ourselves_does_not_count() -> None:
    """Neither the failure nor the address of a worse exchanger changes the verdict."""
    zone = zone_of("10 b.example.net", "20 a.example.net", "30 c.example.net", b="1.0.0.25", c="10.0.0.1")
    zone.faults["a.example.net"] = Fault.SERVFAIL

    assert verdict(find(zone)).status == "5.4.6"


# absurd sets


def test_five_thousand_exchangers_cost_a_few_questions() -> None:
    """Ten hosts and twenty addresses are used of however many records."""
    zone = zone_of(*[f"10 m{n}.example.net" for n in range(5000)])
    for n in range(5000):
        zone.set(f"m{n}.example.net", f"A {A}", f"A {B}", f"AAAA {A6}")
    asked: Counter[str] = Counter()

    found = find(zone, asked=asked)

    assert isinstance(found, Exchangers)
    assert len(found.hosts) == HOSTS_USED
    assert sum(len(host.addresses) for host in found.hosts) <= ADDRESSES_USED
    assert asked.total() == 1 + 2 * HOSTS_USED
    assert len(found.evidence) < 50


def test_one_host_may_use_all_twenty_addresses() -> None:
    """The bound on addresses is shared among the hosts there are."""
    found = find(zone_of("10 a.example.net", a=" ".join(f"1.0.1.{n}" for n in range(50))))

    assert isinstance(found, Exchangers)
    assert len(found.hosts[0].addresses) == ADDRESSES_USED


def test_dead_names_in_front_do_not_hide_a_live_one() -> None:
    """The best ten exchangers do not exist; the eleventh does."""
    zone = zone_of(*[f"{n} gone{n}.example.net" for n in range(10)], "50 a.example.net", a=A)

    assert hosts(find(zone)) == ["a.example.net"]


def test_endless_dead_names_defer_and_do_not_bounce() -> None:
    """Of exchangers that were not looked at we cannot say that they are dead."""
    zone = zone_of(*[f"{n} gone{n}.example.net" for n in range(100)])
    asked: Counter[str] = Counter()

    found = verdict(find(zone, asked=asked))

    assert found.status == "4.4.0"
    assert asked.total() == 1 + 2 * EXCHANGERS_ASKED
    assert found.evidence[-1] == f"4.4.0: {found.why}", "however much was said before"


def test_exactly_the_bound_of_dead_names_bounces() -> None:
    """All were looked at: the verdict is final."""
    zone = zone_of(*[f"{n} gone{n}.example.net" for n in range(EXCHANGERS_ASKED)])

    assert verdict(find(zone)).status == "5.4.4"


# literals and names


@pytest.mark.parametrize(
    ("literal", "address"), [("[1.0.0.1]", A), ("[ipv6:2a00::1]", A6), ("[ipv6:2A00:0:0::0001]", A6)]
)
def test_address_literal_is_its_own_host(literal: str, address: str) -> None:
    """user@[192.0.2.1] goes to that address, without DNS."""
    asked: Counter[str] = Counter()

    found = find(Zone(), literal, asked=asked)

    assert isinstance(found, Exchangers)
    assert found.hosts == (Host(address, (address,)),)
    assert not asked


@pytest.mark.parametrize(
    ("literal", "status"),
    [
        ("[127.0.0.1]", "5.4.4"),
        ("[ipv6:::1]", "5.4.4"),
        ("[ipv6:::ffff:8.8.8.8]", "5.4.4"),
        ("[1.0.0.25]", "5.4.6"),
        ("[1.2.3]", "5.1.3"),
        ("[]", "5.1.3"),
        ("[x400:foo]", "5.1.3"),
        ("[1.0.0.1", None),
    ],
)
def test_address_literal_is_judged_like_any_address(literal: str, status: str | None) -> None:
    """Literals open no way into our network, nor back to us."""
    found = find(Zone(), literal)

    assert (found.status if isinstance(found, Unroutable) else None) == status


@pytest.mark.parametrize(("literal", "families"), [("[1.0.0.1]", Families.IPV6), ("[ipv6:2a00::1]", Families.IPV4)])
def test_address_literal_of_a_family_the_route_does_not_use_bounces(literal: str, families: Families) -> None:
    """There is no way to it, and waiting opens none."""
    assert verdict(find(Zone(), literal, MxTerms(US, families=families))).status == "5.4.4"


@pytest.mark.parametrize("domain", ["localhost", "mail.localhost"])
def test_mail_for_localhost_goes_nowhere_and_asks_nobody(domain: str) -> None:
    """A machine's own name means somebody else to each who reads it (RFC 6761 6.3)."""
    asked: Counter[str] = Counter()

    found = verdict(find(Zone({domain: f"A {A}"}), domain, asked=asked))

    assert (found.status, "every machine's own name" in found.why) == ("5.4.4", True)
    assert not asked


def test_local_is_asked_like_any_name() -> None:
    """Many sites have .local in their own DNS; whether RFC 6762 likes that is theirs to settle."""
    assert hosts(find(Zone({"mail.local": f"A {A}"}), "mail.local")) == ["mail.local"]


@pytest.mark.parametrize(
    "domain", ["", "a..b", "x" * 64, "a." * 127 + "toolong", "ex ample.org", "1.2.3.4", "hop:a:25"]
)
def test_what_is_no_name_bounces_without_a_question(domain: str) -> None:
    """DNS is not asked for what it cannot hold."""
    asked: Counter[str] = Counter()

    assert verdict(find(Zone(), domain, asked=asked)).status == "5.1.3"
    assert not asked


@pytest.mark.parametrize(
    "name", ["example.org", "a-b.example", "_dmarc.example", "xn--bcher-kva.example", "a" * 63, "1.a"]
)
def test_ordinary_names_are_names(name: str) -> None:
    """Underscores and digits are tolerated."""
    assert why_no_name(name) == ""


def test_interleave_takes_turns() -> None:
    """The longer family goes on alone."""
    assert interleave([["a", "b", "c"], ["x"], []]) == ("a", "x", "b", "c")
    assert interleave([]) == ()


# the exchangers alone, for who looks up their addresses elsewhere


def listed(zone: Zone, domain: str = "example.org", seed: int = 1, further: int = 3) -> Listed | Unroutable:
    return driven(list_exchangers(domain, Evidence(), random.Random(seed), further), ScriptedResolver(zone))


def test_exchangers_are_listed_best_first_and_equals_are_drawn() -> None:
    """By preference, equals in any order, whatever their names lead to: they are not asked for."""
    zone = zone_of("20 b.example.net", "10 a.example.net", "20 c.example.net", "30 127.0.0.1", "0 .")
    orders = set()

    for seed in range(20):
        found = listed(zone, seed=seed)
        assert isinstance(found, Listed)
        assert found.canonical == "example.org"
        orders.add(" ".join(record.exchange for record in found.records))

    best, worst = "a.example.net", "127.0.0.1"
    assert orders == {
        f"{best} {equals} {worst}" for equals in ("b.example.net c.example.net", "c.example.net b.example.net")
    }


def test_a_domain_without_mx_lists_nobody_and_names_the_end_of_its_aliases() -> None:
    """What then counts is for the caller to decide."""
    zone = Zone({"example.org": "CNAME real.example", "real.example": f"A {A}"})

    assert listed(zone) == Listed((), "real.example")


@pytest.mark.parametrize(
    ("zone", "further", "status"),
    [
        (Zone(), 3, "5.1.2"),
        (zone_of("0 ."), 3, "5.1.10"),
        (zone_of("10 a.example.net", faults={"example.org": Fault.SERVFAIL}), 3, "4.4.3"),
        (Zone({"example.org": "CNAME example.org"}), 3, "4.4.6"),
        (Zone({"example.org": "CNAME b.example", "b.example": "A 1.0.0.1"}), 0, "4.4.4"),
    ],
)
def test_why_there_are_no_exchangers_has_its_code(zone: Zone, further: int, status: str) -> None:
    """The same verdicts as for hosts, without a question about any."""
    found = listed(zone, further=further)

    assert isinstance(found, Unroutable)
    assert found.status == status


def test_a_literal_gives_its_address_as_dns_writes_it() -> None:
    """With brackets or without."""
    assert literal_address("[ipv6:2001:db8:0::1]") == literal_address("2001:db8::1") == "2001:db8::1"
    with pytest.raises(ValueError, match="address"):
        literal_address("[example.org]")


# anything goes

_names = st.sampled_from(["a.example", "b.example", "", "localhost", "relay.example.net", "1.2.3.4", "b d"])
_addresses = st.lists(st.sampled_from([A, B, A6, "127.0.0.1", "1.0.0.25", "nonsense"]), max_size=4).map(tuple)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_answers_end_in_usable_hosts_or_a_verdict(data: st.DataObject) -> None:
    """Whatever a resolver says, the machine ends, bounded, with allowed hosts that are not ourselves, or a verdict."""
    machine = find_hosts("example.org", TERMS, random.Random(0))
    asked = 0
    try:
        questions = next(machine)
        while True:
            asked += len(questions)
            answers = []
            for each in questions:
                status = data.draw(st.sampled_from(AnswerStatus))
                is_found = status is AnswerStatus.FOUND
                mx = data.draw(st.lists(st.builds(MxRecord, st.integers(0, 3), _names), max_size=5).map(tuple))
                alias = data.draw(st.sampled_from(["", "c.example", each.name, "relay.example.net"]))
                answers.append(
                    Answer(
                        each.name,
                        each.rdtype,
                        status,
                        mx=mx if is_found and each.rdtype == "MX" else (),
                        addresses=data.draw(_addresses) if is_found and each.rdtype != "MX" else (),
                        canonical=alias or each.name,
                        aliases=(each.name,) if alias else (),
                    )
                )
            questions = machine.send(tuple(answers))
    except StopIteration as end:
        found: Exchangers | Unroutable = end.value
    assert asked <= 4 + 2 * EXCHANGERS_ASKED * 4
    if isinstance(found, Exchangers):
        addresses = {address for host in found.hosts for address in host.addresses}
        assert addresses
        assert addresses <= {A, B, A6}
    else:
        assert found.status[:2] in ("4.", "5.")
        assert found.why
