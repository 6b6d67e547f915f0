# SPDX-License-Identifier: MIT
"""The public MX calculator: order, marks, options, errors, what it costs DNS. Its manual and example are run here."""

import asyncio
import gc
import inspect
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import smarthost.calculator
from smarthost import Exchanger, MXCalculator, ResolutionError, SmarthostError
from smarthost.backends.clock import SystemClock
from smarthost.backends.dns import DnsResolver
from smarthost.mail.errors import (
    CanonicalNameChainTooLong,
    CanonicalNameLoop,
    DomainNotFound,
    NotADomain,
    NoUsableExchanger,
    NullMX,
    RelayLoop,
    ResolutionFailed,
)
from smarthost.ports import Answer, AnswerStatus, Clock
from smarthost.route.mx import EXCHANGERS_ASKED
from smarthost.route.table import Families
from smarthost.testing.clock import FakeClock
from smarthost.testing.dns import Fault, ScriptedDns, ScriptedResolver, Zone

ROOT = Path(__file__).parents[1]
MANUAL = (ROOT / "docs/mx-calculator.md").read_text()
OURS = "relay.example.net"
HOUR_S = 3600.0
A, B, C = "a.example.net", "b.example.net", "c.example.net"


def three_hosts() -> Zone:
    """a is best, b and c are equal backups; c has two addresses."""
    return Zone(
        {
            "example.org": (f"MX 20 {C}", f"MX 10 {A}", f"MX 20 {B}"),
            A: "A 1.0.0.1",
            B: "A 1.0.0.2",
            C: ("A 1.0.0.3", "AAAA 2600::3"),
        }
    )


class Rig:
    """A calculator over a scripted zone, with a clock that the test moves."""

    def __init__(self, zone: Zone | None = None, **options: Any) -> None:
        self.clock = FakeClock()
        self.resolver = ScriptedResolver(zone if zone is not None else three_hosts())
        own: dict[str, Any] = {"resolver": self.resolver, "clock": self.clock, "random": random.Random(7)}
        self.calculator = MXCalculator(**{**own, "hostname": OURS, **options})
        self.mark_bad, self.mark_good = self.calculator.mark_bad, self.calculator.mark_good

    async def names(self, domain: str = "example.org") -> list[str]:
        return [exchanger.name for exchanger in await self.calculator.get_mxs(domain)]

    async def first(self, domain: str = "example.org") -> Exchanger:
        return await self.calculator.get_mx(domain)

    async def error(self, domain: str) -> ResolutionError:
        with pytest.raises(ResolutionError) as raised:
            await self.calculator.get_mxs(domain)
        return raised.value


# -- order -------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_best_exchanger_comes_first_with_preference_and_addresses() -> None:
    """A program learns whom to dial, and at which addresses."""
    exchangers = await Rig().calculator.get_mxs("example.org")

    assert exchangers[0] == Exchanger(A, 10, ("1.0.0.1",))
    assert set(exchangers[1:]) == {Exchanger(B, 20, ("1.0.0.2",)), Exchanger(C, 20, ("1.0.0.3", "2600::3"))}


@pytest.mark.asyncio
async def test_get_mx_gives_the_first_of_get_mxs() -> None:
    """Who wants one host gets the best one."""
    assert (await Rig().first()).name == A


@pytest.mark.asyncio
async def test_equals_are_drawn_uniformly_although_dns_was_asked_once() -> None:
    """Load is spread over hosts of equal preference, each time anew (RFC 5321 5.1)."""
    hosts = {f"h{n}.example.net": f"A 1.0.0.{n}" for n in range(4)}
    rig = Rig(Zone({"example.org": [f"MX 5 {host}" for host in hosts], **hosts}))

    draws = [await rig.names() for _ in range(2_000)]

    for place in range(4):
        drawn = Counter([names[place] for names in draws])
        assert set(drawn) == set(hosts)
        assert all(400 < times < 600 for times in drawn.values()), drawn  # five standard deviations
    assert rig.resolver.asked["example.org", "MX"] == 1


@pytest.mark.asyncio
async def test_the_families_option_leaves_the_others_addresses_out() -> None:
    """A machine without IPv6 asks for no IPv6 address."""
    for families in ("ipv4", Families.IPV4):
        rig = Rig(families=families)

        addresses = [address for each in await rig.calculator.get_mxs("example.org") for address in each.addresses]

        assert sorted(addresses) == ["1.0.0.1", "1.0.0.2", "1.0.0.3"]
        assert rig.resolver.asked[C, "AAAA"] == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("domain", ["example.org.", "EXAMPLE.Org"])
async def test_a_domain_may_be_written_as_people_write_it(domain: str) -> None:
    """Case and a trailing dot make no difference."""
    assert (await Rig().first(domain)).name == A


@pytest.mark.asyncio
async def test_an_internationalised_domain_is_looked_up_as_a_labels() -> None:
    """münchen.example is xn--mnchen-3ya.example in DNS."""
    rig = Rig(Zone({"xn--mnchen-3ya.example": "A 1.0.0.1"}))

    assert (await rig.first("München.example")).name == "xn--mnchen-3ya.example"


@pytest.mark.asyncio
async def test_an_address_literal_is_its_own_exchanger() -> None:
    """user@[1.0.0.1] needs no DNS."""
    rig = Rig()

    assert await rig.calculator.get_mxs("[1.0.0.1]") == (Exchanger("1.0.0.1", 0, ("1.0.0.1",)),)
    assert not rig.resolver.asked


# -- bad hosts ---------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_bad_host_is_passed_over_and_comes_last() -> None:
    """Mail goes to the next best host while the best one is known as bad, and the result says why."""
    rig = Rig()

    rig.mark_bad(A, "connection refused")
    exchangers = await rig.calculator.get_mxs("example.org")

    assert (await rig.first()).name in (B, C)
    bad_until = rig.clock.wall() + HOUR_S
    assert exchangers[-1] == Exchanger(A, 10, ("1.0.0.1",), is_bad=True, bad_until=bad_until, why="connection refused")
    assert [each.is_bad for each in exchangers] == [False, False, True]


@pytest.mark.asyncio
async def test_when_all_are_bad_the_one_whose_time_is_over_first_is_given() -> None:
    """Mail is never refused on memory alone."""
    rig = Rig()
    for name in (C, A, B):
        rig.mark_bad(name)
        rig.clock.advance(60)

    assert await rig.names() == [C, A, B]
    assert (await rig.first()).is_bad


@pytest.mark.asyncio
async def test_an_hour_later_a_bad_host_is_good_again() -> None:
    """The classic constant: one hour, to the second, without a probe."""
    rig = Rig()
    rig.mark_bad(A)

    rig.clock.advance(HOUR_S - 1)
    before = await rig.first()
    rig.clock.advance(1)
    after = [await rig.first() for _ in range(3)]

    assert before.name != A
    assert after == [Exchanger(A, 10, ("1.0.0.1",))] * 3


@pytest.mark.asyncio
async def test_how_long_a_host_is_bad_is_an_option_and_never_grows() -> None:
    """Each mark lasts as long as the first."""
    rig = Rig(bad_host_s=86_400.0)
    for _ in range(5):
        rig.mark_bad(A)
        rig.clock.advance(86_399)
        assert (await rig.first()).name != A
        rig.clock.advance(1)
        assert (await rig.first()).name == A


@pytest.mark.asyncio
async def test_marking_a_bad_host_again_starts_its_hour_anew() -> None:
    """The newest evidence counts."""
    rig = Rig()
    rig.mark_bad(A, "first")
    rig.clock.advance(HOUR_S / 2)

    rig.mark_bad(A, "second")
    rig.clock.advance(HOUR_S - 1)
    marked = (await rig.calculator.get_mxs("example.org"))[-1]
    rig.clock.advance(1)

    assert (marked.name, marked.why) == (A, "second")
    assert (await rig.first()).name == A


@pytest.mark.asyncio
async def test_mark_good_ends_a_bad_hosts_time_at_once() -> None:
    """Who reached a host says so, and it is first again."""
    rig = Rig()
    rig.mark_bad(A)
    rig.mark_good(A)

    assert await rig.first() == Exchanger(A, 10, ("1.0.0.1",))
    rig.mark_good(A)
    rig.mark_good("never.heard.of")


@pytest.mark.asyncio
async def test_an_exchanger_may_be_marked_as_it_was_given() -> None:
    """What `get_mx` gives, `mark_bad` and `mark_good` take."""
    rig = Rig()
    best = await rig.first()

    rig.mark_bad(best)
    assert (await rig.first()).name != best.name

    rig.mark_good(best)
    assert await rig.first() == best


@pytest.mark.asyncio
@pytest.mark.parametrize("written", ["A.Example.NET.", A])
async def test_a_host_may_be_marked_as_people_write_it(written: str) -> None:
    """Case and a trailing dot make no difference."""
    rig = Rig()

    rig.mark_bad(written)

    assert (await rig.names())[-1] == A


@pytest.mark.asyncio
async def test_a_bad_address_comes_last_and_an_exchanger_of_bad_addresses_is_bad() -> None:
    """A program that dials addresses may mark these; the host is bad until the first of them is not."""
    rig = Rig(Zone({"example.org": (f"MX 1 {C}", f"MX 2 {A}"), C: ("A 1.0.0.3", "AAAA 2600::3"), A: "A 1.0.0.1"}))

    rig.mark_bad("1.0.0.3", "refused")
    one_bad = await rig.first()
    rig.clock.advance(60)
    rig.mark_bad("[IPv6:2600:0::3]", "timed out")
    all_bad = (await rig.calculator.get_mxs("example.org"))[-1]
    rig.mark_good(one_bad)

    assert one_bad == Exchanger(C, 1, ("2600::3", "1.0.0.3"))
    bad_until = rig.clock.wall() + HOUR_S - 60
    assert all_bad == Exchanger(C, 1, ("1.0.0.3", "2600::3"), is_bad=True, bad_until=bad_until, why="refused")
    assert (await rig.first()) == Exchanger(C, 1, ("1.0.0.3", "2600::3"))


@pytest.mark.asyncio
async def test_a_mark_counts_for_every_domain_of_the_host() -> None:
    """A host that is down is down for all whose mail it takes."""
    zone = three_hosts()
    zone.set("example.com", f"MX 1 {A}", f"MX 2 {B}")
    rig = Rig(zone)

    rig.mark_bad(await rig.first("example.org"))

    assert await rig.names("example.com") == [B, A]


@pytest.mark.parametrize("host", ["", "a..b", "me@example.org", "a b", "x" * 300])
def test_what_no_host_is_called_cannot_be_marked(host: str) -> None:
    """A mistake is told, instead of a mark that never counts."""
    for mark in (Rig().mark_bad, Rig().mark_good):
        with pytest.raises(NotADomain):
            mark(host)


# -- a domain without MX -----------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_domain_without_mx_is_its_own_exchanger() -> None:
    """The implicit MX of RFC 5321 5.1, with preference 0."""
    assert await Rig(Zone({"example.org": "A 1.0.0.1"})).first() == Exchanger("example.org", 0, ("1.0.0.1",))


@pytest.mark.asyncio
async def test_without_fallback_a_domain_needs_an_mx_record() -> None:
    """`fallback_to_domain=False`: what has no MX record takes no mail, and its address is not even asked for."""
    rig = Rig(Zone({"example.org": "A 1.0.0.1"}), fallback_to_domain=False)

    error = await rig.error("example.org")

    assert type(error) is NoUsableExchanger
    assert str(error) == "example.org has no MX record, and its own address does not count here"
    assert (error.status, error.domain) == ("5.4.4", "example.org")
    assert error.evidence == ("MX example.org: NODATA", f"5.4.4: {error}")
    assert set(rig.resolver.asked) == {("example.org", "MX")}


@pytest.mark.asyncio
async def test_without_fallback_a_domain_that_names_itself_is_its_exchanger() -> None:
    """An MX record that says what the fallback would guess is no guess."""
    rig = Rig(Zone({"example.org": ("MX 0 example.org", "A 1.0.0.1")}), fallback_to_domain=False)

    assert await rig.first() == Exchanger("example.org", 0, ("1.0.0.1",))


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", [None, Fault.HALF_ALIAS])
async def test_without_fallback_an_alias_is_followed_to_its_mx(fault: Fault | None) -> None:
    """A domain that is an alias has the exchangers of what it leads to, or none."""
    zone = three_hosts()
    zone.set("alias.example", "CNAME way.example")
    zone.set("way.example", "CNAME example.org")
    zone.set("alias.of.none.example", f"CNAME {A}")
    if fault is not None:  # the answer leaves open where the second alias leads
        zone.faults.update({"alias.example": fault, "alias.of.none.example": fault})
    rig = Rig(zone, fallback_to_domain=False)

    assert (await rig.first("alias.example")).name == A
    assert type(await rig.error("alias.of.none.example")) is NoUsableExchanger


@pytest.mark.asyncio
@pytest.mark.parametrize("fallback_to_domain", [True, False])
async def test_what_rests_on_stale_answers_is_not_final(*, fallback_to_domain: bool) -> None:
    """While DNS is silent, what it said before is no reason to give up on a domain."""

    class Stale(ScriptedResolver):
        async def ask(self, name: str, rdtype: str) -> Answer:
            return replace(await super().ask(name, rdtype), stale=True)

    calculator = MXCalculator(
        resolver=Stale(Zone({"example.org": ()})), clock=FakeClock(), fallback_to_domain=fallback_to_domain
    )
    for domain in ("example.org", "nowhere.example"):
        with pytest.raises(ResolutionFailed) as raised:
            await calculator.get_mx(domain)

        assert not raised.value.is_permanent
        assert "stale" in raised.value.evidence[0]


# -- errors ------------------------------------------------------------------------------------------------------------

LONG_CHAIN = {f"c{n}.example": f"CNAME c{n + 1}.example" for n in range(12)}
TROUBLES = Zone(
    {
        "null.example": "MX 0 .",
        "loop.example": "CNAME loop.example",
        "ourselves.example": f"MX 10 {OURS}",
        "dead.example": "MX 10 gone.example",
        "private.example": "A 10.0.0.1",
        "broken.exchanger.example": "MX 10 servfail.example",
        "many.dead.example": [f"MX {n} gone{n}.example" for n in range(EXCHANGERS_ASKED + 1)],
        "alias.of.servfail.example": "CNAME servfail.example",
        **LONG_CHAIN,
    },
    faults={
        "servfail.example": Fault.SERVFAIL,
        "timeout.example": Fault.TIMEOUT,
        "alias.of.servfail.example": Fault.HALF_ALIAS,
        **dict.fromkeys(LONG_CHAIN, Fault.HALF_ALIAS),
    },
)
ERRORS: list[tuple[str, type[ResolutionError], str, str]] = [
    ("null.example", NullMX, "5.1.10", "the domain null.example accepts no mail (null MX, RFC 7505)"),
    ("nowhere.example", DomainNotFound, "5.1.2", "the domain nowhere.example does not exist"),
    ("ourselves.example", RelayLoop, "5.4.6", "the best exchanger of ourselves.example is this relay itself"),
    ("dead.example", NoUsableExchanger, "5.4.4", "no exchanger of dead.example has an address: gone.example"),
    ("private.example", NoUsableExchanger, "5.4.4", "mail for private.example must not go to private.example [10."),
    ("[10.0.0.1]", NoUsableExchanger, "5.4.4", "mail must not go to the address [10.0.0.1] (private, RFC 1918)"),
    ("many.dead.example", NoUsableExchanger, "4.4.0", "none of the best 30 exchangers of many.dead.example has an"),
    ("timeout.example", ResolutionFailed, "4.4.3", "the exchangers of timeout.example cannot be looked up: MX t"),
    ("broken.exchanger.example", ResolutionFailed, "4.4.3", "no usable exchanger of broken.exchanger.example can be"),
    ("alias.of.servfail.example", ResolutionFailed, "4.4.3", "the exchangers of alias.of.servfail.example cannot be"),
    ("loop.example", CanonicalNameLoop, "4.4.6", "the exchangers of loop.example cannot be looked up: MX loop."),
    ("c0.example", CanonicalNameChainTooLong, "4.4.4", "the exchangers of c0.example cannot be looked up: MX c0."),
    ("192.0.2.1", NotADomain, "5.1.3", "'192.0.2.1' is no domain name: it is an address"),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("domain", "kind", "status", "text"), ERRORS)
async def test_each_trouble_has_its_error(domain: str, kind: type[ResolutionError], status: str, text: str) -> None:
    """A program catches what it can deal with, and can tell its user what DNS said."""
    error = await Rig(TROUBLES).error(domain)

    assert type(error) is kind
    assert isinstance(error, SmarthostError)
    assert error.status == status
    assert error.is_permanent is status.startswith("5")
    assert error.domain == domain
    assert str(error).startswith(text)
    assert str(error) in error.evidence[-1]


@pytest.mark.asyncio
async def test_further_lookups_says_how_far_an_alias_is_followed() -> None:
    """A chain that is too long for the default may be followed further, or less far."""
    zone = Zone({"x.example": "CNAME y.example", "y.example": "A 1.0.0.1"}, faults={"x.example": Fault.HALF_ALIAS})

    assert (await Rig(zone, further_lookups=1).first("x.example")).name == "y.example"
    assert type(await Rig(zone, further_lookups=0).error("x.example")) is CanonicalNameChainTooLong


@pytest.mark.asyncio
async def test_who_asks_again_learns_as_much_without_asking_dns() -> None:
    """What DNS said is asked of the resolver's memory, also for a task that asked meanwhile, or asks later."""
    async with ScriptedDns(TROUBLES) as dns:
        resolver = DnsResolver(SystemClock(), [dns.address])
        rig = Rig(resolver=resolver)
        at_once = await asyncio.gather(rig.error("dead.example"), rig.error("dead.example"))
        later = await rig.error("dead.example")
        resolver.close()

    conclusion = "5.4.4: no exchanger of dead.example has an address: gone.example"
    said = ("MX dead.example: 10 gone.example", "A gone.example: NXDOMAIN", "AAAA gone.example: NXDOMAIN", conclusion)
    assert [error.evidence for error in (*at_once, later)] == [said] * 3
    assert dns.asked.total() == 3


@pytest.mark.asyncio
async def test_what_works_when_asked_for_evidence_is_no_error() -> None:
    """A failure that is over by the time its reason is asked for is not raised."""

    class FailsOnce(ScriptedResolver):
        async def ask(self, name: str, rdtype: str) -> Answer:
            answer = await super().ask(name, rdtype)
            is_first = self.asked.total() == 1
            return Answer(name, rdtype, AnswerStatus.TIMEOUT, canonical=name) if is_first else answer

    resolver = FailsOnce(three_hosts())
    rig = Rig(resolver=resolver)

    assert [(await rig.first()).name for _ in range(2)] == [A, A]
    assert resolver.asked["example.org", "MX"] == 2


def test_each_error_has_its_row_in_the_manual() -> None:
    """Who reads the manual can tell what an `except` will catch, and what is worth another try."""
    rows = re.findall(r"^\| `(\w+)` \| ([\d., ]+) \|", MANUAL, re.MULTILINE)

    documented = {(name, status) for name, statuses in rows for status in statuses.split(", ")}

    assert {(kind.__name__, status) for _, kind, status, _ in ERRORS} <= documented


HOSTILE: list[tuple[str, str]] = [
    ("me@example.org", "'me@example.org' is an address: give what stands behind its @"),
    ("x" * 300, "a domain has 1 to 255 octets"),
    ("[" + "1" * 100_000, "no address literal"),
    ("ü" * 10_000, "a domain has 1 to 255 octets"),
    ("", "a domain has 1 to 255 octets"),
    (".", "a domain has 1 to 255 octets"),
    ("a..b", "no empty label"),
    ("example.org..", "a label has 1 to 63 octets"),
    ("x" * 64 + ".example", "at most 63 octets"),
    ("a b.example", "characters no host's name has"),
    ("a.example\r\nRCPT TO", "characters no host's name has"),
    ("\0", "characters no host's name has"),
    ("\ud800.example", "not an internationalised domain name"),
    ("hop:relay:25", "characters no host's name has"),
    ("[", "no address literal"),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("domain", "text"), HOSTILE, ids=[domain[:15] for domain, _ in HOSTILE])
async def test_what_is_no_domain_is_told_without_asking_dns(domain: str, text: str) -> None:
    """Whatever text a stranger supplies, the error is short, printable and a ValueError."""
    rig = Rig()

    error = await rig.error(domain)

    assert type(error) is NotADomain
    assert isinstance(error, ValueError)
    assert text in str(error)
    assert len(str(error)) < 500
    assert str(error).isprintable()
    assert error.status == "5.1.3"
    assert domain.lower().startswith(error.domain.lower())
    assert len(error.domain) <= 255  # or strangers' texts would fill the memory
    assert not rig.resolver.asked


@pytest.mark.asyncio
@pytest.mark.parametrize("domain", [b"example.org", None, 7])
async def test_what_is_no_text_is_a_type_error(domain: Any) -> None:
    """Bytes are not guessed at."""
    with pytest.raises(TypeError, match=f"a domain is text, not {type(domain).__name__}"):
        await Rig().calculator.get_mx(domain)
    with pytest.raises(TypeError):
        Rig().mark_bad(domain)


@pytest.mark.parametrize(
    "option",
    [
        {"bad_host_s": 0.0},
        {"bad_host_s": -1.0},
        {"bad_host_s": float("inf")},
        {"bad_host_s": float("nan")},
        {"families": "ipv5"},
        {"further_lookups": -1},
        {"further_lookups": 1.5},
        {"hostname": "no name"},
        {"hostname": "192.0.2.1"},
        {"hostname": "me@example.org"},
    ],
)
def test_an_option_that_cannot_be_is_named(option: dict[str, Any]) -> None:
    """A mistake shows when the calculator is made, not at the first mail."""
    with pytest.raises(ValueError, match=next(iter(option))):
        MXCalculator(**option)


# -- ourselves, test networks ------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_exchangers_no_better_than_ourselves_are_left_out() -> None:
    """A backup exchanger passes mail on only to better ones: else it would run in a circle."""
    zone = three_hosts()
    zone.set("example.org", f"MX 10 {A}", f"MX 20 {OURS}", f"MX 20 {B}", f"MX 30 {C}")

    assert await Rig(zone).names() == [A]


@pytest.mark.asyncio
async def test_without_a_hostname_nobody_is_ourselves() -> None:
    """A resolver that leaves `canonical` empty is not taken for one that says it is us."""

    class Terse(ScriptedResolver):
        async def ask(self, name: str, rdtype: str) -> Answer:
            answer = await super().ask(name, rdtype)
            return Answer(name, rdtype, answer.status, answer.mx, answer.addresses, ttl_s=answer.ttl_s)

    calculator = MXCalculator(resolver=Terse(three_hosts()), clock=FakeClock())

    assert (await calculator.get_mx("example.org")).name == A


@pytest.mark.asyncio
async def test_private_addresses_are_for_test_networks() -> None:
    """`allow_private=True` is what a laboratory needs, and nobody else."""
    rig = Rig(TROUBLES, allow_private=True)

    assert (await rig.first("private.example")).addresses == ("10.0.0.1",)


# -- what it costs DNS -------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_dns_is_asked_once_within_a_ttl() -> None:
    """Asking for every mail costs DNS nothing; a host that moved is found when the TTL is over."""
    rig = Rig()
    for _ in range(50):
        await rig.names()
    asked_first = rig.resolver.asked["example.org", "MX"]

    rig.resolver.zone.set(A, "A 1.0.0.9")
    rig.clock.advance(301)
    moved = await rig.first()

    assert asked_first == 1
    assert moved.addresses == ("1.0.0.9",)


class Slow(ScriptedResolver):
    """Answers when told to."""

    def __init__(self, zone: Zone) -> None:
        super().__init__(zone)
        self.go = asyncio.Event()

    async def ask(self, name: str, rdtype: str) -> Answer:
        """See ports.Resolver."""
        answer = await super().ask(name, rdtype)
        await self.go.wait()
        return answer


@pytest.mark.asyncio
async def test_tasks_that_ask_at_once_share_the_questions() -> None:
    """A burst of mail for one domain asks DNS once."""
    resolver = Slow(three_hosts())
    calculator = MXCalculator(resolver=resolver, clock=FakeClock())

    asking = [asyncio.create_task(calculator.get_mx("example.org")) for _ in range(20)]
    await asyncio.sleep(0)
    resolver.go.set()
    found = await asyncio.gather(*asking)

    assert {each.name for each in found} == {A}
    assert set(resolver.asked.values()) == {1}


@pytest.mark.asyncio
async def test_a_task_that_is_cancelled_leaves_the_others_their_answer() -> None:
    """Who gives up harms nobody, and nothing is left behind."""
    resolver = Slow(three_hosts())
    calculator = MXCalculator(resolver=resolver, clock=FakeClock())

    asking = [asyncio.create_task(calculator.get_mx("example.org")) for _ in range(3)]
    await asyncio.sleep(0)
    asking[0].cancel()
    await asyncio.gather(asking[0], return_exceptions=True)
    resolver.go.set()
    found = await asyncio.gather(*asking[1:])

    assert asking[0].cancelled()
    assert {each.name for each in found} == {A}
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.asyncio
async def test_a_failure_is_forgotten_within_seconds() -> None:
    """When DNS works again, mail goes again."""
    zone, clock = three_hosts(), FakeClock()
    zone.faults["example.org"] = Fault.SERVFAIL
    async with ScriptedDns(zone) as dns:
        resolver = DnsResolver(clock, [dns.address])
        rig = Rig(resolver=resolver, clock=clock)
        for _ in range(3):
            await rig.error("example.org")
        asked = dns.asked["example.org", "MX"]

        zone.faults.clear()
        clock.advance(10)
        found = await rig.first()
        resolver.close()

    assert asked == 1
    assert found.name == A


# -- real DNS ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_leak() -> Iterator[None]:
    """What a calculator opened is closed: a warning about a socket would fail the test."""
    yield
    gc.collect()


@pytest.mark.asyncio
@pytest.mark.usefixtures("no_leak")
async def test_it_asks_the_name_servers_of_resolv_conf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a resolver handed in it asks over UDP as this machine does, from the first question to `aclose`."""
    async with ScriptedDns(three_hosts()) as dns:
        monkeypatch.setattr(smarthost.calculator, "SystemServers", lambda: lambda: (dns.address,))
        async with MXCalculator() as calculator:
            best = await calculator.get_mx("example.org")
            with pytest.raises(DomainNotFound):
                await calculator.get_mx("nowhere.example")
        await calculator.aclose()
        with pytest.raises(DomainNotFound):
            await calculator.get_mx("elsewhere.example")
        await calculator.aclose()

    assert best == Exchanger(A, 10, ("1.0.0.1",))
    assert dns.asked["example.org", "MX"] == 1


@pytest.mark.asyncio
async def test_a_resolver_handed_in_is_not_closed() -> None:
    """What is shared with others is theirs to close."""
    async with ScriptedDns(three_hosts()) as dns:
        resolver = DnsResolver(SystemClock(), [dns.address])
        for _ in range(2):
            async with MXCalculator(resolver=resolver) as calculator:
                assert (await calculator.get_mx("example.org")).name == A
        resolver.close()

    assert dns.asked["example.org", "MX"] == 1


# -- the manual and the example ----------------------------------------------------------------------------------------

MANUAL_ZONE = Zone(
    {
        "example.org": ("MX 10 mx1.example.net", "MX 20 mx2.example.net"),
        "mx1.example.net": ("A 1.0.0.1", "AAAA 2600::1"),
        "mx2.example.net": "A 1.0.0.2",
        "example.com": "MX 0 .",
        "plain.example": "A 1.0.0.3",
        "broken.example": (),
    },
    faults={"broken.example": Fault.SERVFAIL},
)
BLOCKS = re.findall(r"```python\n(.*?)```\n(?:```text\n(.*?)```)?", MANUAL, re.DOTALL)


class ManualResolver(ScriptedResolver):
    """Stands where the manual's programs make the real one."""

    def __init__(self, clock: Clock, servers: object) -> None:
        super().__init__(MANUAL_ZONE)

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_manuals_programs_print_what_it_says(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who copies a program from docs/mx-calculator.md gets what is printed below it."""
    monkeypatch.setattr(smarthost.calculator, "DnsResolver", ManualResolver)
    program, printed = BLOCKS[number]

    exec(compile(program, f"docs/mx-calculator.md, program {number + 1}", "exec"), {"__name__": "__main__"})

    assert capsys.readouterr().out == printed


def test_the_manual_has_programs_and_every_option() -> None:
    """Nothing a program may pass is left out of the manual, and the defaults are as it says."""
    parameters = inspect.signature(MXCalculator).parameters.values()
    defaults = {each.name: each.default for each in parameters}
    section = MANUAL.partition("## Options")[2].partition("\n## ")[0]

    documented = dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \|", section, re.MULTILINE))

    assert len(BLOCKS) >= 4
    assert documented == {name: _written(default) for name, default in defaults.items()}


def _written(default: object) -> str:
    """As a program would write it."""
    written = default.value if isinstance(default, Families) else default
    return f'"{written}"' if isinstance(written, str) else repr(written)


@pytest.mark.slow
@pytest.mark.asyncio
async def test_the_example_works() -> None:
    """Who runs examples/mx_calculator.py sees the exchangers, what a mark does, and why there are none."""
    async with ScriptedDns(MANUAL_ZONE) as dns:
        program = [sys.executable, str(ROOT / "examples/mx_calculator.py"), "{}:{}".format(*dns.address)]
        ran = await asyncio.create_subprocess_exec(
            *program, "example.org", "example.com", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await ran.communicate()

    assert ran.returncode == 1, err.decode()
    assert out.decode().splitlines() == [
        "example.org:",
        "  10 mx1.example.net [1.0.0.1, 2600::1]",
        "  20 mx2.example.net [1.0.0.2]",
        "  were mx1.example.net marked bad: mx2.example.net",
        "example.com: the domain example.com accepts no mail (null MX, RFC 7505)",
        "  final, 5.1.10",
        "  MX example.com: 0 .",
    ]
