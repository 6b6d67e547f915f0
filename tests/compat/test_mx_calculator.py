# SPDX-License-Identifier: MIT
"""The classic calculator over the relay's core: each promise of its API by name, with scripted and with real DNS."""

import io
import pickle
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Collection
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, fail, inlineCallbacks, succeed
from twisted.internet.error import CannotListenError, DNSLookupError
from twisted.internet.task import Clock
from twisted.mail import relaymanager as original
from twisted.names import client, dns, server
from twisted.names.common import ResolverBase
from twisted.names.dns import Record_A, Record_AAAA, Record_CNAME, Record_HINFO, Record_MX, RRHeader
from twisted.names.error import (
    DNSNameError,
    DNSNotImplementedError,
    DNSQueryRefusedError,
    DNSQueryTimeoutError,
    DNSServerError,
)
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from smarthost.compat.calculator import CanonicalNameChainTooLong, CanonicalNameLoop, MXCalculator
from smarthost.mail import errors

DOMAIN = "example.org"
A, B, C = "a.example.net", "b.example.net", "c.example.net"
HOUR_S = 3600


def header(owner: str | bytes, payload: Any, rdtype: int = dns.MX) -> RRHeader:
    return RRHeader(name=owner, type=getattr(payload, "TYPE", rdtype), payload=payload)


def mx(preference: int, host: str | bytes, owner: str = DOMAIN) -> RRHeader:
    return header(owner, Record_MX(preference, host))


def cname(owner: str | bytes, target: str | bytes) -> RRHeader:
    return header(owner, Record_CNAME(target))


def address(owner: str, text: str) -> RRHeader:
    return header(owner, Record_AAAA(text) if ":" in text else Record_A(text))


class Script:
    """A resolver that says what it was told to, at once; a name it was told nothing of does not exist."""

    def __init__(self, said: dict[str, Any] | None = None, hosts: dict[str, Any] | None = None) -> None:
        self.said = said or {}
        self.hosts = hosts or {}
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def lookupMailExchange(self, *names: Any, **options: Any) -> Any:
        self.asked.append(("MX", names, options))
        return self._answer(self.said.get(names[0], DNSNameError(names[0])))

    def getHostByName(self, *names: Any, **options: Any) -> Any:
        self.asked.append(("host", names, options))
        found = self.hosts.get(names[0], DNSLookupError(names[0]))
        if isinstance(found, Deferred):
            return found
        return fail(found) if isinstance(found, Exception) else succeed(found)

    def names(self, kind: str = "MX") -> list[str]:
        return [names[0] for asked, names, _ in self.asked if asked == kind]

    def _answer(self, said: Any) -> Any:
        if isinstance(said, Exception):
            return fail(said)
        return succeed((said, [], [])) if isinstance(said, list) else said


class ScriptWithAddresses(Script):
    """One that can be asked for addresses by type, too."""

    def __init__(self, *said: Any, addresses: dict[tuple[str, str], Any]) -> None:
        super().__init__(*said)
        self.addresses = addresses

    def lookupAddress(self, *names: Any, **options: Any) -> Any:
        self.asked.append(("A", names, options))
        return self._answer(self.addresses.get(("A", names[0]), DNSNameError(names[0])))

    def lookupIPV6Address(self, *names: Any, **options: Any) -> Any:
        self.asked.append(("AAAA", names, options))
        return self._answer(self.addresses.get(("AAAA", names[0]), DNSNameError(names[0])))


def calculator_of(resolver: Any, seed: int = 7) -> MXCalculator:
    calculator = MXCalculator(resolver, Clock())
    calculator.random = random.Random(seed)
    return calculator


def of_records(*records: RRHeader) -> MXCalculator:
    """A calculator to which DNS gives these records for DOMAIN."""
    return calculator_of(Script({DOMAIN: list(records)}))


def outcome(found: Any) -> Any:
    """What a Deferred has fired with; a failure's exception is raised."""
    ends: list[Any] = []
    if not isinstance(found, Deferred):
        found = succeed(found)
    found.addBoth(ends.append)
    assert ends, "nothing has happened yet"
    if isinstance(ends[0], Failure):
        ends[0].raiseException()
    return ends[0]


def first(calculator: MXCalculator, domain: Any = DOMAIN) -> str:
    return str(outcome(calculator.getMX(domain)).name)


def failure_of(calculator: MXCalculator, domain: Any = DOMAIN, *further: int) -> Any:
    ends: list[Any] = []
    calculator.getMX(domain, *further).addBoth(ends.append)
    assert isinstance(ends[0], Failure), ends
    return ends[0]


# -- as it is made -----------------------------------------------------------------------------------------------------


def test_the_default_clock_is_the_reactor() -> None:
    """A program that gives no clock lives by the reactor's."""
    assert MXCalculator(Script()).clock is reactor


def test_the_default_resolver_is_twisteds_and_made_when_first_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A calculator that is given one before it is used never reads resolv.conf."""
    made = Script({DOMAIN: [mx(1, A)]})
    monkeypatch.setattr(client, "createResolver", lambda: made)

    replaced, used = MXCalculator(clock=Clock()), MXCalculator(clock=Clock())
    replaced.resolver = Script()

    assert first(used) == A
    assert used.resolver is made
    assert replaced.resolver is not made


@pytest.mark.slow
def test_importing_it_installs_no_reactor_and_no_resolver() -> None:
    """A program may still choose its reactor after its imports."""
    program = "import sys, smarthost.compat.calculator as c; c.MXCalculator(); print(sorted(sys.modules))"

    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert "'twisted.names.dns'" in modules
    assert "'twisted.internet.reactor'" not in modules
    assert "'twisted.names.client'" not in modules


def test_settings_are_class_attributes_with_the_classic_values() -> None:
    """Programs set them on the class, or on one calculator."""
    assert (MXCalculator.timeOutBadMX, MXCalculator.fallbackToDomain) == (HOUR_S, True)


def test_settings_count_from_when_they_are_set_on_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """A calculator that exists already heeds them."""
    calculator = calculator_of(Script({DOMAIN: []}, {DOMAIN: "192.0.2.1"}))
    monkeypatch.setattr(MXCalculator, "timeOutBadMX", 5)
    monkeypatch.setattr(MXCalculator, "fallbackToDomain", False)

    calculator.markBad(A)

    assert calculator.badMXs == {A: 5}
    with pytest.raises(OSError, match="no MX record"):
        first(calculator)


def test_resolver_clock_and_marks_may_be_replaced_at_any_time() -> None:
    """The attributes are read when they are needed."""
    calculator = of_records(mx(1, A), mx(2, B))
    calculator.markBad(B)
    clock = Clock()
    clock.advance(100)

    calculator.resolver = Script({DOMAIN: [mx(1, C), mx(2, A)]})
    calculator.clock = clock
    calculator.badMXs = {C: 101}

    assert first(calculator) == A
    clock.advance(1)
    assert first(calculator) == C


# -- which host --------------------------------------------------------------------------------------------------------


def test_the_best_exchanger_is_given_as_the_record_of_the_answer() -> None:
    """The lowest preference wins, and the program gets the very object DNS gave."""
    best = mx(1, A)
    calculator = of_records(mx(3, B), best, mx(2, C))

    assert outcome(calculator.getMX(DOMAIN)) is best.payload


def test_equal_preferences_are_drawn_at_random() -> None:
    """Load is spread over equals, each time anew; records are never compared with each other."""
    calculator = of_records(mx(5, A), mx(5, B), mx(5, C), mx(6, "worse.example.net"))

    drawn = Counter(first(calculator) for _ in range(1_200))

    assert set(drawn) == {A, B, C}
    assert all(300 < times < 500 for times in drawn.values()), drawn  # six standard deviations


def test_equals_are_drawn_among_the_bad_too() -> None:
    """When all are bad, the best are still equals."""
    calculator = of_records(mx(5, A), mx(5, B), mx(6, C))
    for host in (A, B, C):
        calculator.markBad(host)

    assert {first(calculator) for _ in range(50)} == {A, B}


@pytest.mark.parametrize("written", ["example.org", "EXAMPLE.Org", "example.org.", b"Example.ORG", b"example.org."])
def test_a_domain_may_be_written_as_people_write_it(written: str | bytes) -> None:
    """Bytes or str, any case, with or without final dot: the resolver is asked for one lower-case str."""
    calculator = of_records(mx(1, A))

    assert first(calculator, written) == A
    assert calculator.resolver.asked == [("MX", (DOMAIN,), {})]


@pytest.mark.parametrize("written", ["München.example", "MÜNCHEN.example.", "münchen.example".encode()])
def test_an_internationalised_domain_is_asked_for_as_a_labels(written: str | bytes) -> None:
    """DNS knows it as xn--mnchen-3ya.example."""
    calculator = calculator_of(Script({"xn--mnchen-3ya.example": [mx(1, A, "xn--mnchen-3ya.example")]}))

    assert first(calculator, written) == A


@pytest.mark.parametrize(
    "written",
    [
        *("", ".", "a..b", "x" * 64 + ".example", "x." * 140 + "example", "two words.example", "me@example.org"),
        *("192.0.2.1", b"\xff.example", "[192.0.2.300]", "[192.0.2.1", "[x:y]", "\ud800.example", None, 25),
    ],
)
def test_what_is_no_domain_name_fails_without_asking(written: Any) -> None:
    """The Deferred fails, for good, with an error old programs know and new ones can ask."""
    calculator = of_records(mx(1, A))

    failure = failure_of(calculator, written)

    assert failure.check(errors.NotADomain)
    assert failure.check(DNSLookupError)
    assert (failure.value.status, failure.value.is_permanent) == ("5.1.3", True)
    assert calculator.resolver.asked == []


@pytest.mark.parametrize(
    ("literal", "text"),
    [("[192.0.2.1]", "192.0.2.1"), ("[IPv6:2001:DB8::1]", "2001:db8::1"), (b"[ipv6:2001:db8:0::1]", "2001:db8::1")],
)
def test_an_address_literal_is_its_own_exchanger(literal: str | bytes, text: str) -> None:
    """user@[192.0.2.1] needs no DNS."""
    calculator = of_records(mx(1, A))

    assert outcome(calculator.getMX(literal)) == Record_MX(name=text)
    assert calculator.resolver.asked == []


def test_an_exchanger_that_is_an_address_is_given_as_it_is() -> None:
    """It should be a name, but test networks write 127.0.0.1."""
    assert first(of_records(mx(1, "127.0.0.1"))) == "127.0.0.1"


def test_names_in_the_answer_may_be_in_any_case() -> None:
    """A server may answer in a case of its own."""
    answer = [cname("EXAMPLE.org", "Real.Example"), mx(1, "A.Example.NET", "REAL.example.")]
    calculator = calculator_of(Script({DOMAIN: answer}))
    calculator.markBad(A)

    assert first(calculator) == "A.Example.NET"
    assert calculator.resolver.names() == [DOMAIN]


def test_records_of_other_names_and_types_do_not_count() -> None:
    """What stands beside the answer is none."""
    hinfo, nothing = header(DOMAIN, Record_HINFO(b"a", b"b")), header(DOMAIN, None)

    assert first(of_records(hinfo, nothing, mx(1, B, "other.example"), mx(9, A))) == A


# -- the steps of a lookup ---------------------------------------------------------------------------------------------


def test_filter_records_maps_names_to_the_payloads_of_the_answer_section() -> None:
    """The first of three sections counts, as a dict of lists."""
    best, other, alias = mx(1, A), mx(2, B), cname("alias.example", DOMAIN)

    found = MXCalculator(Script(), Clock())._filterRecords(([best, alias, other], [mx(3, C)], [mx(4, C)]))

    assert found == {DOMAIN: [best.payload, other.payload], "alias.example": [alias.payload]}


def test_cb_mx_gives_a_record_of_the_dict_and_leaves_its_lists_alone() -> None:
    """Called directly, it answers at once, and what the caller handed in is not touched."""
    records = [Record_MX(2, B), Record_MX(1, A), Record_MX(3, C)]
    alias = [Record_CNAME(DOMAIN)]
    answers: dict[str, Any] = {"Example.ORG": records[:1], "example.org": records[1:], "alias.example": alias}

    for domain in (DOMAIN, b"EXAMPLE.org.", "alias.example"):
        assert calculator_of(Script())._cbMX(answers, domain, 3) is records[1]
    assert answers == {"Example.ORG": records[:1], "example.org": records[1:], "alias.example": [Record_CNAME(DOMAIN)]}


def test_cb_mx_gives_a_failure_when_nothing_is_there_and_a_deferred_when_more_must_be_asked() -> None:
    """Its three ways to answer, and a third one asks the resolver."""
    calculator = calculator_of(Script({"real.example": [mx(1, A, "real.example")]}))

    nothing = calculator._cbMX({}, DOMAIN, 3)
    further = calculator._cbMX({DOMAIN: [Record_CNAME("real.example")]}, DOMAIN, 1)

    assert isinstance(nothing, Failure)
    assert nothing.check(DNSNameError)
    assert isinstance(further, Deferred)
    assert outcome(further) == Record_MX(1, A)


def test_eb_mx_falls_back_or_hands_on() -> None:
    """Called directly: a missing name has its address looked up, any other failure comes back as it is."""
    calculator = calculator_of(Script(hosts={DOMAIN: "192.0.2.1"}))
    trouble = Failure(DNSServerError())

    assert outcome(calculator._ebMX(Failure(DNSNameError()), b"Example.org.")) == Record_MX(name="192.0.2.1")
    assert calculator.resolver.asked == [("host", (DOMAIN,), {})]
    assert calculator._ebMX(trouble, DOMAIN) is trouble


# -- aliases -----------------------------------------------------------------------------------------------------------


def chain(*names: str) -> list[RRHeader]:
    return [cname(owner, target) for owner, target in pairwise(names)]


@pytest.mark.parametrize("order", [1, -1])
def test_aliases_within_one_answer_are_free(order: int) -> None:
    """However long the chain, and however its records are ordered: no further lookup, none allowed."""
    names = [DOMAIN, *[f"n{number}.example" for number in range(2_000)]]
    calculator = calculator_of(Script({DOMAIN: [*chain(*names), mx(1, A, names[-1])][::order]}))

    assert outcome(calculator.getMX(DOMAIN, 0)) == Record_MX(1, A)
    assert calculator.resolver.names() == [DOMAIN]


def test_an_alias_left_open_is_asked_for() -> None:
    """A server that gives only the alias costs a further lookup, of one str as ever."""
    calculator = calculator_of(
        Script({DOMAIN: chain(DOMAIN, "Real.example."), "real.example": [mx(1, A, "real.example")]})
    )

    assert first(calculator) == A
    assert calculator.resolver.asked == [("MX", (DOMAIN,), {}), ("MX", ("real.example",), {})]


@pytest.mark.parametrize("allowed", [0, 1, 3, 40])
def test_the_chain_length_counts_further_lookups(allowed: int) -> None:
    """A chain that needs as many is followed; one that needs one more fails with the record that was not followed."""
    names = [DOMAIN, *[f"n{number}.example" for number in range(1, allowed + 2)]]
    said: dict[str, Any] = {owner: chain(owner, target) for owner, target in pairwise(names)}
    short = calculator_of(Script({**said, names[-2]: [mx(1, A, names[-2])]}))
    long = calculator_of(Script(said))

    assert outcome(short.getMX(DOMAIN, allowed)) == Record_MX(1, A)
    failure = failure_of(long, DOMAIN, allowed)

    assert failure.check(CanonicalNameChainTooLong)
    assert failure.check(errors.CanonicalNameChainTooLong)
    assert failure.value.args[0] is said[names[-2]][0].payload
    assert (failure.value.status, failure.value.is_permanent) == ("4.4.4", False)
    assert len(long.resolver.names()) == allowed + 1


def test_three_further_lookups_are_allowed_by_default() -> None:
    """An endless chain costs four questions."""
    endless = calculator_of(
        Script({f"n{number}.example": chain(f"n{number}.example", f"n{number + 1}.example") for number in range(9)})
    )

    failure = failure_of(endless, "n0.example")

    assert failure.value.args == (Record_CNAME("n4.example"),)
    assert len(endless.resolver.names()) == 4


def test_a_very_long_way_of_lookups_is_no_trouble() -> None:
    """Who allows a thousand gets a thousand."""
    said: dict[str, Any] = {
        f"n{number}.example": chain(f"n{number}.example", f"n{number + 1}.example") for number in range(1_000)
    }
    calculator = calculator_of(Script({**said, "n1000.example": [mx(1, A, "n1000.example")]}))

    assert outcome(calculator.getMX("n0.example", 1_000)) == Record_MX(1, A)


def test_a_loop_within_one_answer_is_told_with_the_record_that_closes_it() -> None:
    """Aliases that come back are an error, not a lookup without end."""
    answer = chain(DOMAIN, "one.example", "TWO.example", "one.Example")
    calculator = calculator_of(Script({DOMAIN: answer}))

    failure = failure_of(calculator)

    assert failure.check(CanonicalNameLoop)
    assert failure.check(errors.CanonicalNameLoop)
    assert failure.value.args == (answer[-1].payload,)
    assert (failure.value.status, failure.value.is_permanent) == ("4.4.6", False)
    assert "one.example" in str(failure.value)


def test_a_loop_across_lookups_is_told_with_the_record_that_closes_it() -> None:
    """It makes no difference that each answer by itself looks harmless."""
    back = cname("two.example", DOMAIN)
    said = {DOMAIN: chain(DOMAIN, "one.example"), "one.example": [*chain("one.example", "two.example"), back]}
    calculator = calculator_of(Script(said))

    failure = failure_of(calculator)

    assert failure.check(CanonicalNameLoop)
    assert failure.value.args == (back.payload,)
    assert calculator.resolver.names() == [DOMAIN, "one.example"]


def test_a_name_that_is_its_own_alias_is_a_loop() -> None:
    """The shortest of them."""
    assert failure_of(of_records(cname(DOMAIN, DOMAIN))).check(CanonicalNameLoop)


@pytest.mark.parametrize("said", [DNSNameError(), []])
def test_a_further_lookup_that_finds_nothing_falls_back_for_the_name_it_was_about(said: Any) -> None:
    """The domain's address is that of the name at the end of its aliases."""
    script = Script({DOMAIN: chain(DOMAIN, "real.example"), "real.example": said}, {"real.example": "192.0.2.1"})
    calculator = calculator_of(script)

    assert outcome(calculator.getMX(DOMAIN)) == Record_MX(name="192.0.2.1")
    assert script.names("host") == ["real.example"]


@pytest.mark.parametrize(("said", "status"), [(DNSNameError(), "5.1.2"), ([], "5.4.4")])
@pytest.mark.parametrize("falls_back", [True, False])
def test_a_further_lookup_without_any_way_out_fails_once(said: Any, status: str, falls_back: bool) -> None:
    """The name at the end is judged, and nothing is asked for the name before it."""
    script = Script({DOMAIN: chain(DOMAIN, "real.example"), "real.example": said})
    calculator = calculator_of(script)
    calculator.fallbackToDomain = falls_back

    failure = failure_of(calculator)

    assert failure.check(DNSLookupError if falls_back else OSError)
    assert (failure.value.domain, failure.value.status) == ("real.example", status)
    assert script.names("host") == ["real.example"] * falls_back


def test_trouble_with_a_further_lookup_passes_through() -> None:
    """It is the resolver's own error, unchanged."""
    trouble = DNSServerError("gone")
    calculator = calculator_of(Script({DOMAIN: chain(DOMAIN, "real.example"), "real.example": trouble}))

    assert failure_of(calculator).value is trouble


# -- falling back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [DNSNameError(), []])
@pytest.mark.parametrize("text", ["192.0.2.1", "2001:db8::1"])
def test_a_domain_without_mx_record_stands_for_its_address(said: Any, text: str) -> None:
    """RFC 5321 5.1, and the classic way to write it: a record that names the address."""
    calculator = calculator_of(Script({DOMAIN: said}, {DOMAIN: text}))

    assert outcome(calculator.getMX("Example.org.")) == Record_MX(name=text)
    assert calculator.resolver.asked == [("MX", (DOMAIN,), {}), ("host", (DOMAIN,), {})]


@pytest.mark.parametrize("hosts", [DNSNameError(), DNSLookupError(b"example.org"), "", None])
@pytest.mark.parametrize(
    ("said", "kind", "status"),
    [(DNSNameError(), errors.DomainNotFound, "5.1.2"), ([], errors.NoUsableExchanger, "5.4.4")],
)
def test_no_mx_record_and_no_address_is_a_dns_lookup_error(hosts: Any, said: Any, kind: type, status: str) -> None:
    """Old programs know it as they did; whoever relays can ask whether it is final."""
    failure = failure_of(calculator_of(Script({DOMAIN: said}, {DOMAIN: hosts})))

    assert failure.check(DNSLookupError)
    assert failure.check(kind)
    assert isinstance(failure.value, errors.ResolutionError)
    assert (failure.value.status, failure.value.is_permanent, failure.value.domain) == (status, True, DOMAIN)
    assert DOMAIN in str(failure.value)


@pytest.mark.parametrize(("said", "status"), [(DNSNameError(), "5.1.2"), ([], "5.4.4")])
def test_without_fallback_no_mx_record_is_an_io_error(said: Any, status: str) -> None:
    """The domain's address is not even asked for."""
    calculator = calculator_of(Script({DOMAIN: said}, {DOMAIN: "192.0.2.1"}))
    calculator.fallbackToDomain = False

    failure = failure_of(calculator)

    assert failure.check(IOError)
    assert failure.check(errors.NoUsableExchanger)
    assert not failure.check(DNSLookupError)
    assert (failure.value.status, failure.value.is_permanent) == (status, True)
    assert calculator.resolver.names("host") == []


@pytest.mark.parametrize(
    "trouble", [DNSServerError("a"), DNSQueryTimeoutError(7), DNSQueryRefusedError("b"), OSError(5)]
)
@pytest.mark.parametrize("falls_back", [True, False])
def test_any_other_lookup_failure_passes_through(trouble: Exception, falls_back: bool) -> None:
    """What DNS did not say is no reason to send mail to the domain's own address."""
    calculator = calculator_of(Script({DOMAIN: trouble}, {DOMAIN: "192.0.2.1"}))
    calculator.fallbackToDomain = falls_back

    assert failure_of(calculator).value is trouble
    assert calculator.resolver.names("host") == []


def test_trouble_with_the_address_passes_through() -> None:
    """A timeout at the second question is temporary, too."""
    trouble = DNSQueryTimeoutError(7)

    assert failure_of(calculator_of(Script({DOMAIN: []}, {DOMAIN: trouble}))).value is trouble


# -- servers that answer no ANY (RFC 8482) -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "any_said", [DNSLookupError(), DNSNameError(), "", DNSNotImplementedError(), DNSQueryRefusedError()]
)
@pytest.mark.parametrize(
    ("addresses", "found", "asked"),
    [
        ({("A", DOMAIN): [address(DOMAIN, "192.0.2.1")]}, "192.0.2.1", [("A", (DOMAIN,), {})]),
        (
            {("AAAA", DOMAIN): [address(DOMAIN, "2001:db8::1")]},
            "2001:db8::1",
            [("A", (DOMAIN,), {}), ("AAAA", (DOMAIN,), {})],
        ),
    ],
)
def test_an_address_that_any_did_not_give_is_asked_for_by_type(
    any_said: Any, addresses: dict[tuple[str, str], Any], found: str, asked: list[Any]
) -> None:
    """getHostByName asks for ANY, and many servers say nothing to that; each question is one str."""
    script = ScriptWithAddresses({DOMAIN: []}, {DOMAIN: any_said}, addresses=addresses)

    assert outcome(calculator_of(script).getMX(DOMAIN)) == Record_MX(name=found)
    assert script.asked[2:] == asked


def test_an_address_behind_an_alias_is_found() -> None:
    """Whatever else the answer holds."""
    answer = [
        *chain(DOMAIN, "real.example"),
        address("other.example", "192.0.2.9"),
        address("real.example", "192.0.2.1"),
    ]
    script = ScriptWithAddresses({DOMAIN: []}, addresses={("A", DOMAIN): answer})

    assert first(calculator_of(script)) == "192.0.2.1"


def test_an_address_that_was_given_is_not_asked_for_again() -> None:
    """One question is enough where it is answered."""
    script = ScriptWithAddresses({DOMAIN: []}, {DOMAIN: "192.0.2.1"}, addresses={})

    assert first(calculator_of(script)) == "192.0.2.1"
    assert script.names("A") == script.names("AAAA") == []


@pytest.mark.parametrize(("said", "status"), [(DNSNameError(), "5.1.2"), ([], "5.4.4")])
def test_a_domain_that_has_no_address_of_either_type_has_none(said: Any, status: str) -> None:
    """Only then it is final."""
    script = ScriptWithAddresses({DOMAIN: said}, addresses={("A", DOMAIN): [], ("AAAA", DOMAIN): []})

    failure = failure_of(calculator_of(script))

    assert failure.check(DNSLookupError)
    assert failure.value.status == status


@pytest.mark.parametrize("rdtype", ["A", "AAAA"])
def test_trouble_with_an_address_of_one_type_is_not_final(rdtype: str) -> None:
    """The resolver's error is handed on: it may have one."""
    trouble = DNSServerError("x")
    script = ScriptWithAddresses({DOMAIN: []}, addresses={(rdtype, DOMAIN): trouble})

    assert failure_of(calculator_of(script)).value is trouble


def test_a_refused_any_is_no_answer_where_nothing_else_can_be_asked() -> None:
    """A resolver that can only be asked so gives its own error."""
    trouble = DNSNotImplementedError()

    assert failure_of(calculator_of(Script({DOMAIN: []}, {DOMAIN: trouble}))).value is trouble


# -- what domains and strangers do -------------------------------------------------------------------------------------


def test_a_null_mx_is_an_error_and_no_host_with_an_empty_name() -> None:
    """RFC 7505: the domain takes no mail; nothing else is asked."""
    calculator = calculator_of(Script({DOMAIN: [mx(0, b".")]}, {DOMAIN: "192.0.2.1"}))

    failure = failure_of(calculator)

    assert failure.check(errors.NullMX)
    assert (failure.value.status, failure.value.is_permanent) == ("5.1.10", True)
    assert calculator.resolver.names("host") == []


def test_an_empty_exchange_beside_others_does_not_count() -> None:
    """RFC 7505 3 forbids the mixture; the others take the mail."""
    assert first(of_records(mx(0, b""), mx(9, A))) == A


def test_an_exchanger_no_host_can_be_called_is_passed_over() -> None:
    """Octets that cannot even be shown as text never reach the program."""
    calculator = of_records(mx(0, b"\xff\xfe.example"), mx(9, A), cname(b"\xc3.example", b"\x00\xff"))
    calculator.markBad(A)

    assert first(calculator) == A
    alone = failure_of(of_records(mx(0, b"\xff\xfe.example")))
    assert alone.check(errors.NoUsableExchanger)
    assert alone.value.status == "5.4.4"


@pytest.mark.parametrize("target", [b"\xff.example", b"", b"two words.example", b"192.0.2.1", b"x" * 64 + b".example"])
def test_an_alias_to_what_is_no_name_is_temporary_trouble(target: bytes) -> None:
    """It cannot be asked for, and says nothing final about the domain."""
    calculator = of_records(cname(DOMAIN, target))

    failure = failure_of(calculator)

    assert failure.check(errors.ResolutionFailed)
    assert not failure.value.is_permanent
    assert calculator.resolver.names() == [DOMAIN]


def test_an_alias_error_can_be_shown_whatever_the_record_holds() -> None:
    """The text of a stranger's name may not be the end of a log line."""
    odd = failure_of(of_records(cname(DOMAIN, b"\xff.example"), cname(b"\xff.example", DOMAIN)))

    assert odd.check(CanonicalNameLoop)
    for shown in (str(odd.value), repr(odd.value), odd.getErrorMessage(), odd.getTraceback()):
        assert shown
    assert str(CanonicalNameLoop(Record_CNAME("x"))) == "CanonicalNameLoop"


# -- resolvers of all kinds --------------------------------------------------------------------------------------------


def test_a_resolver_may_answer_without_a_deferred() -> None:
    """A plain value is as good."""

    class Plain:
        def lookupMailExchange(self, name: str) -> Any:
            return ([mx(1, A)] if name == DOMAIN else [], [], [])

        def getHostByName(self, name: str) -> str:
            return "192.0.2.1"

    assert first(calculator_of(Plain())) == A
    assert first(calculator_of(Plain()), "other.example") == "192.0.2.1"


class Broken:
    def lookupMailExchange(self, name: str) -> Any:
        raise ZeroDivisionError(name)


class Garbled:
    def lookupMailExchange(self, name: str) -> Any:
        return 25


class BrokenLater(Script):
    def getHostByName(self, *names: Any, **options: Any) -> Any:
        raise ZeroDivisionError(names)


@pytest.mark.parametrize(
    ("resolver", "kind"),
    [
        (Broken(), ZeroDivisionError),
        (object(), AttributeError),
        (Garbled(), TypeError),
        (BrokenLater(), ZeroDivisionError),
    ],
)
def test_a_resolver_that_raises_fails_the_deferred(resolver: Any, kind: type[Exception]) -> None:
    """getMX itself never raises."""
    assert failure_of(calculator_of(resolver)).check(kind)


@pytest.mark.parametrize("step", ["MX", "further", "host"])
def test_a_lookup_may_be_cancelled_and_takes_the_question_with_it(step: str) -> None:
    """A program that has lost interest leaves nothing behind, and nothing else is asked for it."""
    cancelled: list[str] = []
    waiting: Deferred[Any] = Deferred(lambda _: cancelled.append(step))
    script = Script({DOMAIN: {"MX": waiting, "further": chain(DOMAIN, B), "host": []}[step], B: waiting})
    if step == "host":
        script.hosts[DOMAIN] = waiting
    calculator = calculator_of(script)
    ends: list[Any] = []
    found = calculator.getMX(DOMAIN)
    found.addBoth(ends.append)
    asked = len(script.asked)

    found.cancel()

    assert cancelled == [step]
    assert ends[0].check(CancelledError)
    assert len(script.asked) == asked


# -- bad hosts ---------------------------------------------------------------------------------------------------------


def test_a_bad_host_is_passed_over_for_the_next_best() -> None:
    """Mail goes on while the best host is down."""
    calculator = of_records(mx(1, A), mx(2, B), mx(3, C))

    calculator.markBad(A)

    assert first(calculator) == B


def test_when_all_are_bad_the_best_is_given() -> None:
    """Mail is never refused on memory alone."""
    calculator = of_records(mx(2, B), mx(1, A))
    calculator.markBad(A)
    calculator.clock.advance(60)
    calculator.markBad(B)

    assert first(calculator) == A


def test_a_mark_lasts_exactly_as_long_as_it_says_and_getting_the_host_deletes_it() -> None:
    """To the second; until then, and until the host is met, it can be read."""
    calculator = of_records(mx(1, A), mx(2, B))
    calculator.clock.advance(1_000.25)
    calculator.markBad(A)
    calculator.markBad(C)

    assert calculator.badMXs[A] == calculator.clock.seconds() + calculator.timeOutBadMX
    calculator.clock.advance(HOUR_S - 0.25)
    assert first(calculator) == B
    calculator.clock.advance(0.25)
    assert set(calculator.badMXs) == {A, C}
    assert first(calculator) == A
    assert set(calculator.badMXs) == {C}


def test_marking_again_starts_the_time_anew_and_never_grows_it() -> None:
    """Each mark lasts as long as the first, however often."""
    calculator = of_records(mx(1, A), mx(2, B))
    calculator.timeOutBadMX = 500_000  # days: nothing else ends it
    for _ in range(20):
        calculator.clock.advance(1_000)
        calculator.markBad(A)

    assert calculator.badMXs == {A: calculator.clock.seconds() + 500_000}
    calculator.clock.advance(499_999)
    assert first(calculator) == B
    calculator.clock.advance(1)
    assert first(calculator) == A


def test_a_later_mark_may_be_shorter() -> None:
    """The newest word counts."""
    calculator = of_records(mx(1, A), mx(2, B))
    calculator.markBad(A)
    calculator.timeOutBadMX = 10
    calculator.markBad(A)

    calculator.clock.advance(10)

    assert first(calculator) == A


def test_mark_good_ends_it_at_once_and_is_harmless_otherwise() -> None:
    """Who reached a host says so."""
    calculator = of_records(mx(1, A), mx(2, B))
    calculator.markBad(A)

    calculator.markGood(A)
    calculator.markGood(A)
    calculator.markGood("never.heard.of")
    calculator.markGood(None)

    assert first(calculator) == A
    assert calculator.badMXs == {}


@pytest.mark.parametrize(
    "written",
    [
        A,
        "A.Example.NET",
        "a.example.net.",
        b"A.example.net",
        b"a.example.net.",
        dns.Name(b"A.EXAMPLE.net"),
        Record_MX(7, A),
    ],
)
def test_a_host_may_be_marked_as_it_is_at_hand(written: Any) -> None:
    """Bytes, str, name or record, any case, with or without final dot: it is one lower-case str."""
    calculator = of_records(mx(1, "a.EXAMPLE.net"), mx(2, B))

    calculator.markBad(written)
    assert calculator.badMXs == {A: HOUR_S}
    assert first(calculator) == B
    calculator.markGood(written)
    assert calculator.badMXs == {}


@pytest.mark.parametrize(
    ("written", "key"), [("bücher.example", "xn--bcher-kva.example"), (b"\xffX", "\\xffx"), ("\ud800", "\\ud800")]
)
def test_any_name_can_be_marked(written: Any, key: str) -> None:
    """Whatever a stranger calls its host."""
    calculator = of_records(mx(1, A))

    calculator.markBad(written)

    assert calculator.badMXs == {key: HOUR_S}


def test_what_is_no_name_cannot_be_marked() -> None:
    """A bug of the caller is told at once."""
    with pytest.raises(TypeError, match="NoneType"):
        of_records().markBad(None)


# -- the marks as a dict -----------------------------------------------------------------------------------------------


def test_the_marks_read_like_a_dict() -> None:
    """Programs look at them, compare them and print them."""
    bad = of_records().badMXs
    assert (bad == {}, repr(bad), len(bad), bool(bad)) == (True, "{}", 0, False)

    bad[A] = 5

    assert bad == {A: 5}
    assert {A: 5} == bad
    assert bad != {A: 6}
    assert repr(bad) == repr({A: 5})
    assert (list(bad), list(bad.items()), len(bad)) == ([A], [(A, 5)], 1)
    assert A in bad
    assert b"A.example.net." in bad
    assert B not in bad
    assert 25 not in bad
    assert bad.get(B) is None
    assert bad.copy() == bad
    for missing in (B, None):
        with pytest.raises(KeyError):
            bad[missing]


def test_the_marks_are_edited_like_a_dict() -> None:
    """What a program writes there counts at once."""
    calculator = of_records(mx(1, A), mx(2, B), mx(3, C))
    bad = calculator.badMXs

    bad["A.Example.NET."] = 10
    bad.update({B: 20})
    assert first(calculator) == C
    del bad[A]
    assert first(calculator) == A
    assert bad.pop(B) == 20
    with pytest.raises(KeyError):
        del bad[B]
    bad[A] = float("inf")
    bad[C] = -1
    calculator.clock.advance(1e12)
    assert first(calculator) == B
    for host in bad:
        del bad[host]
    assert calculator.badMXs == {}


def test_marks_may_be_assigned_as_a_whole() -> None:
    """A program may bring its own, or start anew; the old ones are gone."""
    calculator = of_records(mx(1, A), mx(2, B))
    calculator.markBad(C)

    calculator.badMXs = {"A.example.net": 100.0}

    assert calculator.badMXs == {A: 100.0}
    assert first(calculator) == B
    calculator.badMXs = calculator.badMXs
    assert calculator.badMXs == {A: 100.0}


# -- the next one ------------------------------------------------------------------------------------------------------


def following(calculator: MXCalculator, tried: Collection[Any], domain: Any = DOMAIN) -> str | None:
    """Ask for the next exchanger; its name, or None."""
    found = outcome(calculator.getNextMX(domain, tried))
    return None if found is None else str(found.name)


def walk(calculator: MXCalculator, domain: Any = DOMAIN) -> list[str]:
    """All exchangers of a domain, each one asked for when those before it were tried."""
    tried: list[str] = []
    while (host := following(calculator, tried, domain)) is not None:
        assert host not in tried
        tried.append(host)
    return tried


def test_the_next_is_the_best_that_was_not_tried() -> None:
    """By preference, good hosts each once, though the same name is listed twice; the record is that of the answer."""
    best = mx(1, A)
    calculator = of_records(mx(3, C), best, mx(2, B), mx(4, A.upper()))

    assert outcome(calculator.getNextMX(DOMAIN, ())) is best.payload
    assert walk(calculator) == [A, B, C]


def test_after_the_good_come_the_bad_the_one_whose_time_is_over_first() -> None:
    """A preference does not make up for being marked, and dead hosts are all passed over in the end."""
    calculator = of_records(mx(1, A), mx(2, B), mx(3, C), mx(4, "d.example.net"))
    for host, until in ((A, 30.0), (B, 10.0), (C, 20.0)):
        calculator.badMXs[host] = until

    assert walk(calculator) == ["d.example.net", B, C, A]
    calculator.clock.advance(20)
    assert walk(calculator) == [B, C, "d.example.net", A]
    assert calculator.badMXs == {A: 30.0}


def test_bad_hosts_whose_times_end_together_go_by_preference() -> None:
    """Marked in one moment, the better one is the better guess."""
    calculator = of_records(mx(2, B), mx(1, A), mx(3, C))
    for host in (C, B, A):
        calculator.markBad(host)

    assert walk(calculator) == [A, B, C]


def test_equals_are_drawn_for_the_next_too() -> None:
    """Load is spread."""
    calculator = of_records(mx(5, A), mx(5, B), mx(5, C), mx(6, "worse.example.net"))

    assert {following(calculator, [B]) for _ in range(50)} == {A, C}


@pytest.mark.parametrize("tried", [A.upper() + ".", A.encode(), dns.Name(A.encode()), Record_MX(7, A)])
def test_what_was_tried_may_be_written_as_it_is_at_hand(tried: Any) -> None:
    """As with markBad; any collection will serve, and is left as it is."""
    calculator = of_records(mx(1, "a.EXAMPLE.net"), mx(2, B))

    for collection in ([tried], (tried,), {tried: 1}):
        assert following(calculator, collection) == B
    assert following(calculator, [tried, B]) is None


def test_what_is_no_name_cannot_have_been_tried() -> None:
    """The mistake comes as a failure, not as an exception."""
    ends: list[Any] = []
    of_records(mx(1, A)).getNextMX(DOMAIN, [None]).addErrback(ends.append)

    assert isinstance(ends[0].value, TypeError)


@pytest.mark.parametrize("said", [[], DNSNameError()])
def test_a_fallback_is_one_host(said: Any) -> None:
    """The domain's own address, once; also where an open alias led to it."""
    calculator = calculator_of(Script({DOMAIN: said, "alias.org": [cname("alias.org", DOMAIN)]}, {DOMAIN: "192.0.2.1"}))
    calculator.markBad("192.0.2.1")

    assert walk(calculator) == ["192.0.2.1"]
    assert walk(calculator, "alias.org") == ["192.0.2.1"]
    assert walk(calculator, "[192.0.2.7]") == ["192.0.2.7"]


def test_the_next_behind_an_open_alias_is_found() -> None:
    """What must be asked on is asked on, and what was tried still counts."""
    calculator = calculator_of(
        Script({DOMAIN: [cname(DOMAIN, "end.org")], "end.org": [mx(1, A, "end.org"), mx(2, B, "end.org")]})
    )

    assert walk(calculator) == [A, B]


@pytest.mark.parametrize("tried", [(), (A,)])
def test_the_next_fails_as_the_best_does(tried: tuple[str, ...]) -> None:
    """No domain, none that exists, a null MX, too many aliases, a resolver's trouble: the same errors."""
    script = Script({
        DOMAIN: [mx(0, b"")], "alias.org": [cname("alias.org", "end.org")], "late.org": DNSQueryTimeoutError(1),
    })  # fmt: skip
    calculator = calculator_of(script)

    for domain in ("a b", "missing.org", DOMAIN, "alias.org", "late.org"):
        expected = failure_of(calculator, domain, 0)
        ends: list[Any] = []
        calculator.getNextMX(domain, tried, 0).addBoth(ends.append)
        assert type(ends[0].value) is type(expected.value)
        assert str(ends[0].value) == str(expected.value)


def test_asking_for_the_next_leaves_the_best_as_it_was() -> None:
    """Where all are bad, getMX gives the best by preference, whichever mark ends first."""
    calculator = of_records(mx(1, A), mx(2, B))
    calculator.badMXs = {A: 30.0, B: 10.0}

    assert following(calculator, ()) == B
    assert first(calculator) == A


# -- kept in a pickle --------------------------------------------------------------------------------------------------


class Fixed:
    """A clock that a pickle can hold."""

    def seconds(self) -> float:
        return 5.0


def renamed(theirs: Any, protocol: int) -> Any:
    """Load what the original pickled, with its module renamed, as a program does that changes over."""

    class Renaming(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return super().find_class(module.replace("twisted.mail.relaymanager", "smarthost.compat.calculator"), name)

    return Renaming(io.BytesIO(pickle.dumps(theirs, protocol))).load()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_calculator_that_the_original_pickled_works(protocol: int) -> None:
    """Its marks, settings, resolver and clock are there, and all methods work."""
    theirs = original.MXCalculator(Script({DOMAIN: [mx(1, A), mx(2, B), mx(3, C)]}), Fixed())
    theirs.timeOutBadMX = 100
    theirs.markBad(A)

    calculator = renamed(theirs, protocol)

    assert type(calculator) is MXCalculator
    assert calculator.badMXs == {A: 105.0}
    assert first(calculator) == B
    calculator.markBad(B)
    assert calculator.badMXs == {A: 105.0, B: 105.0}
    assert first(calculator) == C
    calculator.markGood(A)
    assert first(calculator) == A


def test_a_state_without_resolver_clock_or_marks_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs left out of their pickles what could not be pickled; it is made anew when it is needed."""
    monkeypatch.setattr(client, "createResolver", lambda: Script({DOMAIN: [mx(1, A)]}))
    calculator = MXCalculator.__new__(MXCalculator)

    calculator.__setstate__({"resolver": None, "clock": None, "fallbackToDomain": False})

    assert calculator.clock is reactor
    assert calculator.badMXs == {}
    assert calculator.fallbackToDomain is False
    assert first(calculator) == A


def test_a_pickle_holds_the_marks_and_what_the_user_set() -> None:
    """Plain values under the classic names: the original could read them."""
    calculator = MXCalculator(None, Fixed())
    calculator.resolver = script = Script({DOMAIN: [mx(1, A), mx(2, B)]})
    calculator.random = random.Random(1)
    calculator.fallbackToDomain = False
    calculator.markBad(A)

    state = calculator.__getstate__()
    again = pickle.loads(pickle.dumps(calculator))

    assert state == {
        "badMXs": {A: 5.0 + HOUR_S}, "resolver": script, "clock": calculator.clock, "fallbackToDomain": False,
    }  # fmt: skip
    assert type(state["badMXs"]) is dict
    assert again.badMXs == {A: 5.0 + HOUR_S}
    assert first(again) == B
    again.markGood(A)
    assert first(again) == A
    assert again.__getstate__()["badMXs"] == {}
    assert first(calculator) == B


def test_a_resolver_and_a_reactor_made_by_default_are_in_no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither could be pickled; the marks are, and count on."""
    monkeypatch.setattr(client, "createResolver", lambda: Script({DOMAIN: [mx(1, A), mx(2, B)]}))
    calculator = MXCalculator()
    calculator.markBad(A)
    assert first(calculator) == B

    assert list(calculator.__getstate__()) == ["badMXs"]
    assert first(pickle.loads(pickle.dumps(calculator))) == B


def test_a_calculator_nobody_used_makes_nothing_to_be_pickled() -> None:
    """Its clock would be the reactor, which a program may still want to choose."""
    calculator = MXCalculator()

    assert calculator.__getstate__() == {"badMXs": {}}
    again = pickle.loads(pickle.dumps(calculator))
    assert "clock" not in vars(calculator)
    assert "clock" not in vars(again)


# -- whatever comes ----------------------------------------------------------------------------------------------------

_hosts = st.sampled_from([A, B, C, "A.EXAMPLE.NET", "d.example.net", "127.0.0.1"])


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), _hosts), min_size=1, max_size=8),
    st.dictionaries(_hosts, st.integers(0, 20)),
    st.integers(0, 20),
    st.integers(0, 3),
)
def test_any_records_and_marks_give_the_best_good_host(
    records: list[tuple[int, str]], marks: dict[str, int], now: int, seed: int
) -> None:
    """A record of the answer, never a bad one while a good one exists, and the best of those that count."""
    headers = [mx(*record) for record in records]
    calculator = calculator_of(Script({DOMAIN: headers}), seed)
    calculator.clock.advance(now)
    for host, until in marks.items():
        calculator.badMXs[host] = until
    bad = {host for host, until in calculator.badMXs.items() if now < until}

    found = outcome(calculator.getMX(DOMAIN))

    good = [record for record in records if record[1].lower() not in bad]
    assert any(found is header.payload for header in headers)
    assert found.preference == min(good or records)[0]
    assert (str(found.name).lower() in bad) == (not good)


_octets = st.sampled_from(
    [b"", b".", b"a.example", b"A.EXAMPLE.", b"\xff", b"example.org", b"b.example", b"x y", b"x" * 70]
)
_payloads = st.one_of(
    st.builds(Record_MX, st.integers(0, 3), _octets), st.builds(Record_CNAME, _octets), st.just(Record_A()), st.none()
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    st.data(),
    st.one_of(
        st.sampled_from(["example.org", b"a.example", "[x", "x y"]), st.text(max_size=20), st.binary(max_size=20)
    ),
)
def test_whatever_dns_says_it_ends_in_a_record_or_a_failure(data: st.DataObject, domain: str | bytes) -> None:
    """Never raises, always ends, asks at most four times for exchangers, and only for names that can be asked for."""

    class Wild(Script):
        def lookupMailExchange(self, *names: Any, **options: Any) -> Any:
            self.asked.append(("MX", names, options))
            if data.draw(st.integers(0, 9)) == 0:
                return fail(data.draw(st.sampled_from([DNSNameError(), DNSServerError()])))
            drawn = data.draw(st.lists(st.tuples(_octets, _payloads), max_size=6))
            return succeed(([header(owner, payload) for owner, payload in drawn], [], []))

    calculator = calculator_of(Wild())
    ends: list[Any] = []

    calculator.getMX(domain).addBoth(ends.append)

    (end,) = ends
    assert isinstance(end, Record_MX | Failure)
    assert not isinstance(end, Failure) or end.check(errors.ResolutionError, DNSServerError), end
    if isinstance(end, Record_MX):
        assert str(end.name)
    names = calculator.resolver.names()
    assert len(names) <= 4
    assert all(name == name.lower() and name.encode("idna") for name in names)


# -- real packets ------------------------------------------------------------------------------------------------------


class Authority(ResolverBase):
    """Knows some records. To ANY it says HINFO (RFC 8482); an alias is given as it is, or with all that follows."""

    def __init__(self, *records: RRHeader) -> None:
        super().__init__()
        self.records = records

    def _lookup(self, name: bytes, cls: int, type: int, timeout: Any) -> "Deferred[Any]":
        if name == b"trouble.example":
            return fail(RuntimeError("the authority is out of order"))
        owned = [record for record in self.records if record.name == dns.Name(name)]
        if not owned:
            return fail(DNSNameError(name))
        if type == dns.ALL_RECORDS:
            return succeed(([header(name, Record_HINFO(b"RFC8482", b""))], [], []))
        return succeed(([record for record in owned if record.type in (type, dns.CNAME)], [], []))


class Glueing(Authority):
    """One that follows its own aliases within an answer, as most do."""

    def _lookup(self, name: bytes, cls: int, type: int, timeout: Any) -> "Deferred[Any]":
        return succeed(([record for record in self.records if record.type in (type, dns.CNAME)], [], []))


class OverRealDns(TestCase):
    """A Twisted resolver asks a Twisted name server on loopback: what is scripted above is what packets really hold."""

    def serve(self, authority: Authority) -> MXCalculator:
        factory = server.DNSServerFactory([authority])
        listens: Any = reactor
        for _ in range(50):
            tcp = listens.listenTCP(0, factory, interface="127.0.0.1")
            try:
                number = tcp.getHost().port
                udp = listens.listenUDP(number, dns.DNSDatagramProtocol(factory), interface="127.0.0.1")
            except CannotListenError:
                tcp.stopListening()
            else:
                break
        self.addCleanup(tcp.stopListening)
        self.addCleanup(udp.stopListening)
        return MXCalculator(client.Resolver(servers=[("127.0.0.1", number)]), Clock())

    def check(self, authority: Authority, *kinds: type[BaseException]) -> "Deferred[Any]":
        return self.assertFailure(self.serve(authority).getMX(DOMAIN), *kinds)

    @inlineCallbacks
    def test_the_best_of_three_and_after_marks_the_others(self) -> Any:
        """The classic walk: best, next, last, and back to the one that was marked good."""
        calculator = self.serve(Authority(mx(30, C), mx(10, A), mx(20, B)))
        for host in (A, B, C):
            found = yield calculator.getMX(DOMAIN)
            assert str(found.name) == host, found
            calculator.markBad(found)
        calculator.markGood(B)
        found = yield calculator.getMX(b"EXAMPLE.ORG.")
        assert str(found.name) == B

    @inlineCallbacks
    def test_a_domain_without_mx_is_found_although_any_gives_hinfo_only(self) -> Any:
        """RFC 8482 in the wild: the address is there for who asks for it by type."""
        for text in ("192.0.2.1", "2001:db8::1"):
            found = yield self.serve(Authority(address(DOMAIN, text))).getMX(DOMAIN)
            assert found == Record_MX(name=text), found

    @inlineCallbacks
    def test_aliases_are_followed_over_lookups_and_within_a_long_answer(self) -> Any:
        """Forty aliases do not fit into a datagram: the answer comes over TCP."""
        names = [DOMAIN, *[f"n{number}.long-enough-to-fill-it.example" for number in range(40)]]
        records = [*chain(*names), mx(1, A, names[-1])]
        found = yield self.serve(Glueing(*records)).getMX(DOMAIN, 0)
        assert str(found.name) == A
        found = yield self.serve(Authority(*records)).getMX(names[-4], 3)
        assert str(found.name) == A

    def test_too_many_lookups_are_told(self) -> "Deferred[Any]":
        """Three are allowed."""
        names = [DOMAIN, "1.example", "2.example", "3.example", "4.example"]
        found = self.check(Authority(*chain(*names)), CanonicalNameChainTooLong)
        return found.addCallback(lambda error: self.assertEqual(str(error.args[0].name), "4.example"))

    def test_a_loop_is_told(self) -> "Deferred[Any]":
        """Two names that stand for each other."""
        return self.check(Authority(*chain(DOMAIN, "one.example", DOMAIN)), CanonicalNameLoop)

    def test_a_null_mx_is_told(self) -> "Deferred[Any]":
        """The root on the wire."""
        return self.check(Authority(mx(0, b"")), errors.NullMX)

    def test_a_missing_domain_is_told(self) -> "Deferred[Any]":
        """NXDOMAIN to every question."""
        found = self.check(Authority(), errors.DomainNotFound)
        return found.addCallback(lambda error: self.assertIsInstance(error, DNSLookupError))

    def test_a_domain_that_has_neither_is_told(self) -> "Deferred[Any]":
        """It exists, that is all."""
        record = header(DOMAIN, Record_HINFO(b"a", b"b"))
        found = self.check(Authority(record), errors.NoUsableExchanger)
        return found.addCallback(lambda error: self.assertIsInstance(error, DNSLookupError))

    def test_a_server_that_fails_is_no_missing_domain(self) -> "Deferred[Any]":
        """SERVFAIL is Twisted's own error, and temporary."""
        found = self.assertFailure(self.serve(Authority()).getMX("trouble.example"), DNSServerError)
        found.addCallback(lambda error: self.assertNotIsInstance(error, errors.ResolutionError))
        return found.addCallback(lambda _: self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1))


def test_a_program_may_override_the_steps_with_the_signatures_they_have() -> None:
    """A subclass that filters records, or wraps _cbMX or _ebMX, is asked, with the arguments it knows."""
    seen: list[str] = []

    class Own(MXCalculator):
        def _filterRecords(self, records: Any) -> Any:
            seen.append("filter")
            return super()._filterRecords(records)

        def _cbMX(self, answers: Any, domain: Any, cnamesLeft: int) -> Any:
            seen.append(f"cb {domain} {cnamesLeft}")
            return super()._cbMX(answers, domain, cnamesLeft)

        def _ebMX(self, failure: Any, domain: Any) -> Any:
            seen.append(f"eb {domain}")
            return super()._ebMX(failure, domain)

    mx: Any = dns.Record_MX(10, "mx.example.org")
    record = dns.RRHeader("example.org", dns.MX, payload=mx)
    resolver = type("Resolver", (), {"lookupMailExchange": lambda self, name: succeed(([record], [], []))})()
    got: list[Any] = []

    Own(resolver, Clock()).getMX("example.org", 2).addCallback(got.append)

    assert [str(mx.name) for mx in got] == ["mx.example.org"]
    assert seen == ["filter", "cb example.org 2"]


def test_bad_marks_join_with_dicts() -> None:
    """`|` gives a plain dict, from either side."""
    calculator = MXCalculator(object(), Clock())
    calculator.badMXs["mx.example.org"] = 5.0

    assert calculator.badMXs | {"a": 1.0} == {"mx.example.org": 5.0, "a": 1.0}
    assert {"mx.example.org": 1.0} | calculator.badMXs == {"mx.example.org": 5.0}
