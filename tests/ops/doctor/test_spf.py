# SPDX-License-Identifier: MIT
"""SPF as receivers evaluate it (RFC 7208), for an address of ours."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smarthost.ops.doctor.spf import SpfResult, evaluate_spf
from smarthost.testing.dns import Fault, ScriptedResolver, Zone

OURS, OURS_IPV6 = "192.0.2.7", "2001:db8::7"
PLAIN = {
    "example.org": ("A 192.0.2.7", "AAAA 2001:db8::7", "MX 10 mx.example.org"),
    "mx.example.org": "A 192.0.2.25",
    "pass.example": "TXT v=spf1 ip4:192.0.2.0/24 -all",
    "fail.example": "TXT v=spf1 -all",
    "soft.example": "TXT v=spf1 ~all",
    "empty.example": "TXT v=spf1",
    "nothing.example": "TXT some other text",
    "7.2.0.192.in-addr.arpa": "PTR host.mail.example.",
    "host.mail.example": "A 192.0.2.7",
    "192.0.2.7.ok.example": "A 127.0.0.2",
    "7.2.0.192.rev.example": "A 127.0.0.2",
    "postmaster.test.example.by.example": "A 127.0.0.2",
}


def judge(record: str, address: str = OURS, more: dict[str, str | tuple[str, ...]] | None = None) -> SpfResult:
    zone = Zone({**PLAIN, "test.example": f'TXT "{record}"', **(more or {})})
    return asyncio.run(evaluate_spf(ScriptedResolver(zone), "test.example", address, "relay.example.org"))


@pytest.mark.parametrize(
    ("record", "result", "why"),
    [
        ("v=spf1 ip4:192.0.2.7 -all", "pass", "ip4:192.0.2.7"),
        ("v=spf1 ip4:192.0.2.0/24 -all", "pass", "ip4:192.0.2.0/24"),
        ("V=SPF1 IP4:192.0.2.7 -ALL", "pass", "IP4:192.0.2.7"),
        ("v=spf1 ip4:192.0.2.8 -all", "fail", "-all"),
        ("v=spf1 ip4:192.0.2.8 ~all", "softfail", "~all"),
        ("v=spf1 ip4:192.0.2.8 ?all", "neutral", "?all"),
        ("v=spf1 ip4:192.0.2.8", "neutral", "no term of the record is about it"),
        ("v=spf1", "neutral", "no term of the record is about it"),
        ("v=spf1 -ip4:192.0.2.7 +all", "fail", "-ip4:192.0.2.7"),
        ("v=spf1 a:example.org -all", "pass", "a:example.org"),
        ("v=spf1 a:mx.example.org/24 -all", "pass", "a:mx.example.org/24"),
        ("v=spf1 a:mx.example.org/24//64 -all", "pass", "a:mx.example.org/24//64"),
        ("v=spf1 a:mx.example.org -all", "fail", "-all"),
        ("v=spf1 mx:example.org/24 -all", "pass", "mx:example.org/24"),
        ("v=spf1 mx:example.org -all", "fail", "-all"),
        ("v=spf1 include:pass.example -all", "pass", "include:pass.example"),
        ("v=spf1 include:fail.example ~all", "softfail", "~all"),
        ("v=spf1 include:soft.example include:empty.example -all", "fail", "-all"),
        ("v=spf1 redirect=pass.example", "pass", "redirect=pass.example: ip4:192.0.2.0/24"),
        ("v=spf1 redirect=fail.example", "fail", "redirect=fail.example: -all"),
        ("v=spf1 redirect=pass.example -all", "fail", "-all"),
        ("v=spf1 ptr:mail.example -all", "pass", "ptr:mail.example"),
        ("v=spf1 ptr:other.example -all", "fail", "-all"),
        ("v=spf1 exists:%{i}.ok.example -all", "pass", "exists:%{i}.ok.example"),
        ("v=spf1 exists:%{ir}.rev.example -all", "pass", "exists:%{ir}.rev.example"),
        ("v=spf1 exists:%{l}.%{o}.by.example -all", "pass", "exists:%{l}.%{o}.by.example"),
        ("v=spf1 exists:%{d1}.none.example -all", "fail", "-all"),
        ("v=spf1 a:example.org exp=why.example unknown=x -all", "pass", "a:example.org"),
    ],
)
def test_a_record_means_what_receivers_take_it_for(record: str, result: str, why: str) -> None:
    """The first term that is about the address decides."""
    judged = judge(record)

    assert (judged.result, judged.why) == (result, why)


def test_an_ipv6_address_is_judged_by_its_own_terms() -> None:
    """IPv4 terms say nothing about it, and a name counts with its AAAA records."""
    record = "v=spf1 ip4:0.0.0.0/0 ip6:2001:db8::/32 -all"

    assert "ip6:2001:db8::/32" == judge(record, OURS_IPV6).why
    assert "pass" == judge("v=spf1 a:example.org -all", OURS_IPV6).result
    assert "pass" == judge("v=spf1 a:example.org//32 -all", "2001:db8:ffff::1").result
    assert "fail" == judge("v=spf1 a:example.org/8 -all", "2001:db8:ffff::1").result


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ("v=spf1 ipv4:192.0.2.7 -all", "mechanism"),
        ("v=spf1 ip4:192.0.2.7/33 -all", "not a network"),
        ("v=spf1 ip4:2001:db8::1 -all", "other family"),
        ("v=spf1 include: -all", "without its name"),
        ("v=spf1 include -all", "without its name"),
        ("v=spf1 all:example.org", "without its name"),
        ("v=spf1 all/8", "wrong prefix"),
        ("v=spf1 a/33 -all", "wrong prefix"),
        ("v=spf1 ip4:192.0.2.7 & -all", "a term that is none"),
        ("v=spf1 include:nothing.example -all", "there is no SPF record"),
        ("v=spf1 redirect=nothing.example", "there is no SPF record"),
        ("v=spf1 redirect=pass.example redirect=fail.example", "stands there twice"),
        ("v=spf1 exists:%{x}.example -all", "macro"),
        ("v=spf1 exists:%y.example -all", "macro"),
        ("v=spf1 include:test.example -all", "more than 10 terms"),
        ("v=spf1 redirect=test.example", "more than 10 terms"),
        ("v=spf1 a:x.no a:y.no a:z.no -all", "do not exist"),
    ],
)
def test_a_wrong_record_is_a_permanent_error(record: str, why: str) -> None:
    """One wrong term makes the whole record wrong; a record that includes itself ends."""
    judged = judge(record)

    assert "permerror" == judged.result
    assert why in judged.why


def test_two_records_are_none() -> None:
    """RFC 7208 4.5: receivers take neither."""
    judged = judge("v=spf1 +all", more={"test.example": ('TXT "v=spf1 +all"', 'TXT "v=spf1 -all"')})

    assert ("permerror", "test.example has 2 SPF records; only one is allowed") == (judged.result, judged.why)


def test_ten_lookups_are_allowed_and_eleven_are_not() -> None:
    """The limit is the RFC's, to the term; those of included records count."""
    names = [f"n{number}.example" for number in range(10)]
    zone = dict.fromkeys(names, "A 203.0.113.1")
    ten = "v=spf1 " + " ".join(f"a:{name}" for name in names) + " -all"

    assert ("fail", 10) == ((judged := judge(ten, more=dict(zone))).result, judged.lookups)
    assert "permerror" == judge(ten.replace("-all", "a:example.org -all"), more=dict(zone)).result


def test_many_exchangers_are_too_many() -> None:
    """An mx term stands for ten exchangers at most."""
    more: dict[str, str | tuple[str, ...]] = {"big.example": tuple(f"MX 10 n{n}.big.example" for n in range(11))}

    assert "permerror" == judge("v=spf1 mx:big.example -all", more=more).result


def test_no_record_is_none_and_silence_is_temporary() -> None:
    """What DNS does not say now is not held against the domain."""
    zone = Zone({"bare.example": "A 192.0.2.1", "half.example": "TXT v=spf1 a:gone.example -all"})
    zone.faults.update({"silent.example": Fault.TIMEOUT, "gone.example": Fault.SERVFAIL})
    resolver = ScriptedResolver(zone)

    def result(domain: str) -> str:
        return asyncio.run(evaluate_spf(resolver, domain, OURS, "relay.example.org")).result

    assert ["none", "none", "temperror", "temperror"] == [
        result(domain) for domain in ("bare.example", "absent.example", "silent.example", "half.example")
    ]


@given(st.text("ab4:/.%{}+-~?= 019lisdrx", max_size=60), st.sampled_from([OURS, OURS_IPV6]))
def test_any_record_ends_in_a_result(record: str, address: str) -> None:
    """Whatever stands in DNS, there is a result and no exception."""
    judged = judge(f"v=spf1 {record}", address)

    assert judged.result in ("pass", "fail", "softfail", "neutral", "none", "permerror", "temperror")
