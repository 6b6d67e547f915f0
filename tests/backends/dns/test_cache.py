# SPDX-License-Identifier: MIT
"""What is kept of DNS: by TTL within bounds, stale when nobody answers, and never more than memory has room for."""

import asyncio
import tracemalloc

import pytest
from tests.backends.dns.rig import FOUND, MIXED, NODATA, NXDOMAIN, SERVFAIL, TIMEOUT, Rig, closed_port, on_both_loops

from smarthost.backends.dns import cache as cache_module
from smarthost.backends.dns.cache import Cache
from smarthost.ports import Answer, MxRecord
from smarthost.testing.dns import Fault, Zone


def zone() -> Zone:
    return Zone({"mx1.example.org": ("120 A 192.0.2.1", "120 A 192.0.2.2"), "example.org": "MX 0 ."}, negative_ttl_s=40)


@on_both_loops(zone)
async def test_answers_are_kept_for_their_ttl(rig: Rig) -> None:
    """A kept answer's TTL runs down; when it is over DNS is asked again."""
    await rig.ask("mx1.example.org")
    rig.clock.advance(100)
    assert (await rig.ask("mx1.example.org")).ttl_s == 20
    assert rig.dns.asked["mx1.example.org", "A"] == 1

    rig.clock.advance(20)

    assert (await rig.ask("mx1.example.org")).ttl_s == 120
    assert rig.dns.asked["mx1.example.org", "A"] == 2


@pytest.mark.parametrize(
    ("records", "negative_ttl_s", "kept_s"),
    [
        (("0 A 192.0.2.1",), 0, 5),
        (("2000000000 A 192.0.2.1",), 0, 3600),
        (("2147483648 A 192.0.2.1",), 0, 5),
        (("40 CNAME b.example",), 100, 40),
        ((), 0, 5),
        ((), 40, 40),
        ((), 100_000, 300),
    ],
)
def test_ttls_are_bounded(records: tuple[str, ...], negative_ttl_s: int, kept_s: int) -> None:
    """Positive answers are kept from 5 s to an hour, negative ones to five minutes."""

    @on_both_loops(lambda: Zone({"a.example": records}, negative_ttl_s=negative_ttl_s))
    async def scenario(rig: Rig) -> None:
        await rig.ask("a.example")
        rig.clock.advance(kept_s - 0.5)
        await rig.ask("a.example")
        assert rig.dns.asked["a.example", "A"] == 1
        rig.clock.advance(0.5)
        await rig.ask("a.example")
        assert rig.dns.asked["a.example", "A"] == 2

    scenario(asyncio.run)


@on_both_loops(lambda: Zone(faults={"a.example": Fault.SERVFAIL}), MIXED)
async def test_failures_are_kept_for_seconds(rig: Rig) -> None:
    """A broken domain does not cost its time for every message (RFC 9520)."""
    for _ in range(5):
        assert (await rig.ask("a.example")).status is SERVFAIL
    assert rig.dns.asked["a.example", "A"] == 1

    rig.clock.advance(5)
    await rig.ask("a.example")

    assert rig.dns.asked["a.example", "A"] == 2


# nobody answers


@on_both_loops(zone, MIXED)
async def test_stale_answer_is_served_when_nobody_answers(rig: Rig) -> None:
    """While the resolver is down mail goes on by what it said before, for a day, and the answer says so."""
    await rig.ask("mx1.example.org")
    rig.zone.faults["mx1.example.org"] = Fault.TIMEOUT
    rig.clock.advance(121)

    stale = await rig.ask("mx1.example.org")

    assert (stale.status, stale.stale, stale.addresses[0], stale.ttl_s) == (FOUND, True, "192.0.2.1", 30)
    assert (await rig.ask("mx1.example.org")).stale
    assert rig.dns.asked["mx1.example.org", "A"] == 2
    rig.clock.advance(86_398)
    assert (await rig.ask("mx1.example.org")).stale
    rig.clock.advance(30)
    assert (await rig.ask("mx1.example.org")).status is TIMEOUT


@pytest.mark.parametrize(
    ("past_s", "words"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (3 * 3600 + 60, "3 h")]
)
def test_stale_answer_says_how_long_past_its_ttl_it_is_and_why(past_s: float, words: str) -> None:
    """One line that can stand in the record of a delivery."""

    @on_both_loops(zone, MIXED)
    async def scenario(rig: Rig) -> None:
        await rig.ask("mx1.example.org")
        rig.zone.faults["mx1.example.org"] = Fault.TIMEOUT
        rig.clock.advance(120 + past_s)

        stale = await rig.ask("mx1.example.org")

        assert stale.detail == f"{words} past its TTL: no answer from {rig.where} within 0.1 s"

    scenario(asyncio.run)


@on_both_loops(zone, MIXED)
async def test_stale_answer_stays_stale_and_its_age_goes_on(rig: Rig) -> None:
    """Each half minute the servers are tried again; the age counts from the answer's own TTL, not from the last try."""
    await rig.ask("mx1.example.org")
    rig.zone.faults["mx1.example.org"] = Fault.TIMEOUT
    rig.clock.advance(120 + 20)
    await rig.ask("mx1.example.org")
    rig.clock.advance(30)

    stale = await rig.ask("mx1.example.org")

    assert stale.detail.startswith("50 s past its TTL")
    assert rig.dns.asked["mx1.example.org", "A"] == 3


@on_both_loops(zone, MIXED, before=(("127.0.0.1", closed_port()),))
async def test_refused_connections_are_nobody_answering(rig: Rig) -> None:
    """A resolver that was stopped is refused by the kernel: the stale answer comes at once, and names all servers."""
    await rig.ask("mx1.example.org")
    where = rig.where
    await rig.dns.__aexit__(None, None, None)
    try:
        rig.clock.advance(120 + 3 * 3600)

        async with asyncio.timeout(1):
            stale = await rig.ask("mx1.example.org")
    finally:
        await rig.dns.__aenter__()

    assert (stale.status, stale.stale) == (FOUND, True)
    assert stale.detail.startswith("3 h past its TTL: no answer from 127.0.0.1:")
    assert f"no answer from {where}: connection refused" in stale.detail


@on_both_loops(zone, MIXED)
async def test_stale_negative_answers_too(rig: Rig) -> None:
    """That a host has no IPv6 address is worth as much as the IPv4 address beside it."""
    await rig.ask("mx1.example.org", "AAAA")
    await rig.ask("gone.example")
    rig.zone.faults.update({"mx1.example.org": Fault.TIMEOUT, "gone.example": Fault.TIMEOUT})
    rig.clock.advance(100)

    nodata, nxdomain = await rig.ask("mx1.example.org", "AAAA"), await rig.ask("gone.example")

    assert (nodata.status, nodata.stale) == (NODATA, True)
    assert (nxdomain.status, nxdomain.stale) == (NXDOMAIN, True)


@pytest.mark.parametrize("fault", [Fault.LAME, Fault.REFUSED, Fault.GARBAGE])
def test_stale_answer_where_no_server_does_its_work(fault: Fault) -> None:
    """A server that does not resolve for us says nothing about the name."""

    @on_both_loops(zone, MIXED)
    async def scenario(rig: Rig) -> None:
        await rig.ask("mx1.example.org")
        rig.zone.faults["mx1.example.org"] = fault
        rig.clock.advance(180)

        stale = await rig.ask("mx1.example.org")

        assert (stale.status, stale.stale) == (FOUND, True)
        assert stale.detail.startswith("60 s past its TTL: ")
        assert rig.where in stale.detail

    scenario(asyncio.run)


@on_both_loops(zone, MIXED)
async def test_failure_is_never_served_stale(rig: Rig) -> None:
    """What was a SERVFAIL once is worth nothing later."""
    rig.zone.faults["mx1.example.org"] = Fault.SERVFAIL
    await rig.ask("mx1.example.org")
    rig.zone.faults["mx1.example.org"] = Fault.TIMEOUT
    rig.clock.advance(60)

    assert (await rig.ask("mx1.example.org")).status is TIMEOUT


@on_both_loops(zone, MIXED)
async def test_stale_answer_gives_way_to_a_fresh_one(rig: Rig) -> None:
    """As soon as the resolver answers, its word counts: also a SERVFAIL, which may mean a forged zone."""
    await rig.ask("mx1.example.org")
    rig.zone.faults["mx1.example.org"] = Fault.TIMEOUT
    rig.clock.advance(121)
    await rig.ask("mx1.example.org")
    rig.zone.faults["mx1.example.org"] = Fault.SERVFAIL
    rig.clock.advance(30)

    assert (await rig.ask("mx1.example.org")).status is SERVFAIL


@on_both_loops(zone, MIXED)
async def test_failure_does_not_erase_what_is_served_stale(rig: Rig) -> None:
    """Silent, one SERVFAIL, silent again: what was known before the SERVFAIL is still worth as much as it was."""
    await rig.ask("mx1.example.org")
    rig.clock.advance(121)
    said = []

    for fault in (Fault.TIMEOUT, Fault.SERVFAIL, Fault.SERVFAIL, Fault.TIMEOUT, Fault.TIMEOUT):
        rig.zone.faults["mx1.example.org"] = fault
        said.append(await rig.ask("mx1.example.org"))
        rig.clock.advance(31)

    assert [each.status for each in said] == [FOUND, SERVFAIL, SERVFAIL, FOUND, FOUND]
    assert [each.stale for each in said] == [True, False, False, True, True]
    assert said[3].detail.startswith("94 s past its TTL")
    rig.clock.advance(86_400)
    assert (await rig.ask("mx1.example.org")).status is TIMEOUT


# bounds


def test_kept_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not asked for longest is forgotten first."""
    monkeypatch.setattr(cache_module, "ANSWERS_KEPT", 2)

    @on_both_loops(lambda: Zone({f"{name}.example": "A 192.0.2.1" for name in "abc"}))
    async def scenario(rig: Rig) -> None:
        for name in "abacac":
            await rig.ask(f"{name}.example")
        assert rig.dns.asked == {("a.example", "A"): 1, ("b.example", "A"): 1, ("c.example", "A"): 1}
        await rig.ask("b.example")
        assert rig.dns.asked["b.example", "A"] == 2

    scenario(asyncio.run)


# memory and time


def found(name: str, *exchanges: str, ttl_s: int = 3600) -> Answer:
    mx = tuple(MxRecord(10, exchange) for exchange in exchanges)
    return Answer(name, "MX", FOUND, mx=mx, canonical=name, ttl_s=ttl_s)


def test_kept_answer_is_given_without_a_copy_within_a_second() -> None:
    """A cached ask costs a look into a dict; the TTL that is left still runs down."""
    cache = Cache()
    cache.keep(found("a.example", "m.example"), 0.0)

    first, again = cache.fresh("a.example", "MX", 10.2), cache.fresh("a.example", "MX", 10.9)
    later = cache.fresh("a.example", "MX", 11.1)

    assert first is again
    assert (first.ttl_s if first else 0, later.ttl_s if later else 0) == (3589, 3588)


def test_last_second_of_an_answer_has_ttl_0() -> None:
    """Until its TTL is over, and not one moment longer."""
    cache = Cache()
    cache.keep(found("a.example", "m.example", ttl_s=60), 0.0)

    last = cache.fresh("a.example", "MX", 59.5)

    assert last is not None
    assert last.ttl_s == 0
    assert cache.fresh("a.example", "MX", 60.0) is None


def test_domains_at_one_provider_share_its_exchangers() -> None:
    """Ten thousand customers of a provider cost its five names once."""
    cache = Cache()

    first, second = (cache.keep(found(f"{n}.example", *[f"mx{m}.big.example" for m in range(5)]), 0.0) for n in "ab")

    assert first.mx is second.mx


def test_shared_exchangers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sharing is for the few that are many; the table of what is shared does not grow with the world."""
    monkeypatch.setattr(cache_module, "_SETS_SHARED", 10)
    cache = Cache()

    for n in range(100):
        cache.keep(found(f"{n}.example", f"mx.{n}.example"), 0.0)

    assert len(cache._shared) <= 10
    assert len(cache) == 100


def test_who_is_asked_for_stays_while_others_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crowd of new names does not drive out the ones in use."""
    monkeypatch.setattr(cache_module, "ANSWERS_KEPT", 300)
    cache = Cache()
    cache.keep(found("busy.example", "m.example"), 0.0)

    for n in range(3000):
        cache.keep(found(f"{n}.example", "m.example"), 0.0)
        assert cache.fresh("busy.example", "MX", 1.0) is not None
        assert len(cache) <= 300

    assert len(cache) > 290


def test_answers_of_all_types_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is for all that is kept; the type that has most gives way."""
    monkeypatch.setattr(cache_module, "ANSWERS_KEPT", 100)
    cache = Cache()
    cache.keep(found("a.example", "m.example"), 0.0)

    for n in range(500):
        cache.keep(Answer(f"{n}.example", "A", FOUND, addresses=("192.0.2.1",), ttl_s=60), 0.0)

    assert len(cache) <= 100
    assert cache.fresh("a.example", "MX", 1.0) is not None


def test_fat_answers_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty thousand answers with a hundred long names each would be a gigabyte: octets are bounded too."""
    monkeypatch.setattr(cache_module, "OCTETS_KEPT", 1 << 20)
    monkeypatch.setattr(cache_module, "_SETS_SHARED", 10)
    cache = Cache()
    tracemalloc.start()

    for n in range(120):
        cache.keep(found(f"{n}.example", *[f"{n:>04}{m:>04}.{'x' * 240}" for m in range(100)]), 0.0)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert 20 < len(cache) < 35
    assert used < 6 << 20


def test_shared_exchangers_are_bounded_by_octets_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand sets of a hundred long names would be as much as all that may be kept, and more."""
    monkeypatch.setattr(cache_module, "ANSWERS_KEPT", 2)
    cache = Cache()

    for n in range(300):
        cache.keep(found(f"{n}.example", *[f"{n:>04}{m:>04}.{'x' * 240}" for m in range(100)]), 0.0)

    assert sum(90 + len(record.exchange) for mx in cache._shared for record in mx) < 3 << 20


def test_octets_are_counted_to_nothing_when_all_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever happens to an answer while it is kept, as much is given back as was taken."""
    cache = Cache()
    for n in range(200):
        cache.keep(found(f"{n % 50}.example", *[f"m{m}.example" for m in range(n % 7)], ttl_s=5), float(n))
        cache.fresh(f"{n % 50}.example", "MX", n + 1.5)
        if n % 3 == 0:
            cache.keep(Answer(f"{n % 48}.example", "MX", SERVFAIL, canonical="", detail="why"), n + 10.0)
        cache.stale(f"{n % 49}.example", "MX", "a reason", n + 20.0)
    monkeypatch.setattr(cache_module, "ANSWERS_KEPT", 1)

    cache.keep(found("last.example"), 0.0)

    assert len(cache) == 1
    assert cache._octets == cache_module._octets(found("last.example"))
