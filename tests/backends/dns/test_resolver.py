# SPDX-License-Identifier: MIT
"""DnsResolver against a scripted server on loopback, on both event loops."""

import asyncio
import functools
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

import pytest
import uvloop

from smarthost.backends.dns import DnsResolver
from smarthost.backends.dns import resolver as resolver_module
from smarthost.backends.dns.resolver import Patience
from smarthost.backends.dns.transport import QUESTIONS_PER_SOCKET, SOCKETS
from smarthost.ports import Answer, AnswerStatus, MxRecord
from smarthost.testing.clock import FakeClock
from smarthost.testing.dns import Fault, ScriptedDns, Zone

FOUND, NODATA, NXDOMAIN = AnswerStatus.FOUND, AnswerStatus.NODATA, AnswerStatus.NXDOMAIN
SERVFAIL, TIMEOUT = AnswerStatus.SERVFAIL, AnswerStatus.TIMEOUT
LONG = Patience()
SHORT = Patience(try_s=0.03, rounds=2, total_s=0.2)
MIXED = Patience(try_s=0.1, rounds=1, total_s=1.0)  # for scenarios in which somebody does answer, on a busy box too

Scenario = Callable[["Rig"], Awaitable[None]]


class Rig:
    """A resolver, its clock, and the server it asks."""

    def __init__(self, dns: ScriptedDns, servers: list[tuple[str, int]], patience: Patience) -> None:
        self.dns = dns
        self.zone = dns.zone
        self.clock = FakeClock()
        self.resolver = DnsResolver(self.clock, servers, patience)

    async def ask(self, name: str, rdtype: str = "A") -> Answer:
        return await self.resolver.ask(name, rdtype)


def on_both_loops(
    zone: Callable[[], Zone], patience: Patience = LONG, before: tuple[tuple[str, int], ...] = ()
) -> Callable[[Scenario], Callable[..., None]]:
    """Run a scenario against a new server with this zone; `before`: servers that are asked first."""

    def decorate(scenario: Scenario) -> Callable[..., None]:
        async def main() -> None:
            async with ScriptedDns(zone()) as dns:
                rig = Rig(dns, [*before, dns.address], patience)
                try:
                    await scenario(rig)
                finally:
                    rig.resolver.close()
                    await asyncio.sleep(0)

        @pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
        def test(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
            run(main())

        functools.update_wrapper(test, scenario)
        del test.__dict__["__wrapped__"]  # pytest would look for its arguments
        return cast("Callable[..., None]", test)

    return decorate


def zone() -> Zone:
    return Zone(
        {
            "example.org": ("300 MX 10 MX1.example.org", "300 MX 20 mx2.example.org."),
            "mx1.example.org": ("120 A 192.0.2.1", "120 A 192.0.2.2", "60 AAAA 2001:DB8::1"),
            "alias.example.org": "30 CNAME middle.example.org",
            "middle.example.org": "200 CNAME mx1.example.org",
            "dangling.example.org": "30 CNAME gone.example.net",
            "aliased-nodata.example.org": "CNAME example.org",
            "loop1.example.org": "CNAME loop2.example.org",
            "loop2.example.org": "CNAME loop1.example.org",
            "null.example.org": "MX 0 .",
            "odd.example.org": ("MX 10 with\\032space.example", "MX 20 a\\.b.example"),
        },
        negative_ttl_s=40,
    )


@on_both_loops(zone)
async def test_mx_records_come_as_text_in_lower_case(rig: Rig) -> None:
    """Exchangers have no trailing dot and no capitals."""
    assert await rig.ask("example.org", "MX") == Answer(
        "example.org",
        "MX",
        FOUND,
        mx=(MxRecord(10, "mx1.example.org"), MxRecord(20, "mx2.example.org")),
        canonical="example.org",
        ttl_s=300,
    )


@on_both_loops(zone)
async def test_addresses_of_both_families(rig: Rig) -> None:
    """A and AAAA, in canonical text."""
    a, aaaa = await rig.ask("mx1.example.org"), await rig.ask("mx1.example.org", "AAAA")

    assert (a.status, a.addresses, a.ttl_s) == (FOUND, ("192.0.2.1", "192.0.2.2"), 120)
    assert (aaaa.status, aaaa.addresses, aaaa.ttl_s) == (FOUND, ("2001:db8::1",), 60)


@on_both_loops(zone)
async def test_alias_chain_within_an_answer(rig: Rig) -> None:
    """The canonical name, the aliases on the way, and the least TTL of them all."""
    answer = await rig.ask("alias.example.org")

    assert answer == Answer(
        "alias.example.org",
        "A",
        FOUND,
        addresses=("192.0.2.1", "192.0.2.2"),
        canonical="mx1.example.org",
        aliases=("alias.example.org", "middle.example.org"),
        ttl_s=30,
    )


@on_both_loops(zone)
async def test_negative_answers_with_their_soa(rig: Rig) -> None:
    """A name without such records, a name that does not exist, and aliases to both."""
    nodata, nxdomain = await rig.ask("example.org", "AAAA"), await rig.ask("gone.example.net")
    dangling, empty = await rig.ask("dangling.example.org"), await rig.ask("aliased-nodata.example.org")

    assert (nodata.status, nodata.ttl_s, nodata.canonical) == (NODATA, 40, "example.org")
    assert (nxdomain.status, nxdomain.ttl_s) == (NXDOMAIN, 40)
    assert (dangling.status, dangling.canonical, dangling.ttl_s) == (NXDOMAIN, "gone.example.net", 30)
    assert (empty.status, empty.canonical, empty.aliases) == (NODATA, "example.org", ("aliased-nodata.example.org",))


@on_both_loops(zone)
async def test_null_mx_and_odd_exchangers(rig: Rig) -> None:
    """The root is the empty text; octets no host name has stay escaped, and so cannot pose as a name."""
    null, odd = await rig.ask("null.example.org", "MX"), await rig.ask("odd.example.org", "MX")

    assert null.mx == (MxRecord(0, ""),)
    assert {record.exchange for record in odd.mx} == {"with\\032space.example", "a\\.b.example"}


@on_both_loops(zone, MIXED)
async def test_alias_loop_is_a_failure_that_shows_the_loop(rig: Rig) -> None:
    """A loop within one answer is told with the names on it."""
    answer = await rig.ask("loop1.example.org")

    assert answer.status is SERVFAIL
    assert answer.canonical == "loop1.example.org"
    assert answer.aliases == ("loop1.example.org", "loop2.example.org")
    assert "alias loop" in answer.detail


@on_both_loops(zone)
async def test_validated_answers_are_believed_from_loopback(rig: Rig) -> None:
    """AD counts when the resolver is on this machine, and not when it is told not to."""
    rig.zone.secure = True
    distrusting = DnsResolver(rig.clock, [rig.dns.address], trust_ad=False)

    assert (await rig.ask("mx1.example.org")).secure
    assert not (await distrusting.ask("mx1.example.org", "A")).secure
    distrusting.close()


# what goes wrong


@pytest.mark.parametrize("fault", [Fault.SERVFAIL, Fault.REFUSED])
def test_refusal_to_answer_is_servfail_with_a_detail(fault: Fault) -> None:
    """A server that says no is asked once, and named."""

    @on_both_loops(lambda: Zone(faults={"a.example": fault}))
    async def scenario(rig: Rig) -> None:
        answer = await rig.ask("a.example")

        assert answer.status is SERVFAIL
        assert answer.detail == f"{fault.name} from 127.0.0.1:{rig.dns.address[1]}"
        assert rig.dns.asked["a.example", "A"] == 1

    scenario(asyncio.run)


@pytest.mark.parametrize("fault", [Fault.TIMEOUT, Fault.WRONG_ID, Fault.WRONG_QUESTION])
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_silence_and_lies_time_out(fault: Fault, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    """Answers with a wrong id or to another question are no answers; each server is tried twice."""

    @on_both_loops(lambda: Zone({"a.example": "A 192.0.2.1"}, faults={"a.example": fault}), SHORT)
    async def scenario(rig: Rig) -> None:
        answer = await rig.ask("a.example")

        assert (answer.status, answer.addresses) == (TIMEOUT, ())
        assert "no answer from 127.0.0.1" in answer.detail
        assert rig.dns.asked["a.example", "A"] == 2

    scenario(run)


@on_both_loops(lambda: Zone({"a.example": "A 192.0.2.1"}, faults={"a.example": Fault.GARBAGE}), SHORT)
async def test_garbage_is_a_failure(rig: Rig) -> None:
    """Octets that make no sense are named as such."""
    answer = await rig.ask("a.example")

    assert answer.status is TIMEOUT
    assert "no DNS message" in answer.detail


@on_both_loops(lambda: Zone({"a.example": "A 192.0.2.1"}, faults={"a.example": Fault.TRUNCATE}))
async def test_truncated_answer_is_fetched_over_tcp(rig: Rig) -> None:
    """TC leads to TCP on the same port."""
    answer = await rig.ask("a.example")

    assert answer.addresses == ("192.0.2.1",)
    assert rig.dns.asked_over_tcp["a.example", "A"] == 1


@on_both_loops(lambda: Zone({"big.example": [f"MX 10 m{n}.big.example" for n in range(600)]}))
async def test_absurd_answer_is_bounded(rig: Rig) -> None:
    """Of thousands of records a hundred are read, and the answer says so."""
    answer = await rig.ask("big.example", "MX")

    assert answer.status is FOUND
    assert len(answer.mx) == 100
    assert answer.detail == "first 100 of 600 records"


def closed_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@on_both_loops(zone, Patience(try_s=5, rounds=1, total_s=10), before=(("127.0.0.1", closed_port()),))
async def test_dead_server_costs_nothing_when_the_kernel_says_so(rig: Rig) -> None:
    """Where nobody listens the next server is asked at once."""
    async with asyncio.timeout(1):
        answer = await rig.ask("mx1.example.org")

    assert answer.status is FOUND


@on_both_loops(zone, MIXED)
async def test_silent_server_is_waited_for_once(rig: Rig) -> None:
    """The server that answered is asked first from then on."""
    silent = ScriptedDns(Zone(faults={"mx1.example.org": Fault.TIMEOUT}))
    async with silent:
        resolver = DnsResolver(rig.clock, [silent.address, rig.dns.address], MIXED)

        first = await resolver.ask("mx1.example.org", "A")
        second = await resolver.ask("mx1.example.org", "AAAA")
        resolver.close()

    assert (first.status, second.status) == (FOUND, FOUND)
    assert silent.asked.total() == 1


@on_both_loops(zone, MIXED)
async def test_refusing_server_makes_the_next_one_answer(rig: Rig) -> None:
    """A lame server among good ones does no harm."""
    async with ScriptedDns(Zone(faults={"mx1.example.org": Fault.REFUSED})) as lame:
        resolver = DnsResolver(rig.clock, [lame.address, rig.dns.address], MIXED)

        answer = await resolver.ask("mx1.example.org", "A")
        resolver.close()

    assert answer.status is FOUND


@on_both_loops(lambda: Zone(faults={"a.example": Fault.TIMEOUT}), Patience(try_s=0.05, rounds=100, total_s=0.12))
async def test_total_time_is_bounded(rig: Rig) -> None:
    """However many tries there would be, an answer comes within the whole patience."""
    async with asyncio.timeout(1):
        answer = await rig.ask("a.example")

    assert answer.status is TIMEOUT
    assert "in all" in answer.detail
    assert rig.dns.asked["a.example", "A"] <= 3


@on_both_loops(zone)
async def test_what_is_no_name_is_not_asked(rig: Rig) -> None:
    """Names DNS cannot hold do not exist; nothing is raised and nothing is sent."""
    for name in ("", "a..b", "x" * 64, "a." * 128 + "b", "bücher.example"):
        assert (await rig.ask(name)).status is NXDOMAIN

    assert rig.dns.asked.total() == 0


@on_both_loops(zone)
async def test_closed_resolver_says_so(rig: Rig) -> None:
    """After close nothing hangs and nothing is raised."""
    rig.resolver.close()

    answer = await rig.ask("mx1.example.org")

    assert (answer.status, "closed" in answer.detail) == (TIMEOUT, True)


@on_both_loops(lambda: Zone(faults={"a.example": Fault.TIMEOUT}))
async def test_close_ends_questions_under_way(rig: Rig) -> None:
    """Shutdown does not wait for DNS."""
    asking = asyncio.ensure_future(rig.ask("a.example"))
    while not rig.dns.asked:
        await asyncio.sleep(0.001)

    rig.resolver.close()
    async with asyncio.timeout(1):
        answer = await asking

    assert answer.status is TIMEOUT


# what is shared and kept


@on_both_loops(zone)
async def test_questions_under_way_are_shared(rig: Rig) -> None:
    """A hundred askers cost one question."""
    answers = await asyncio.gather(*[rig.ask("mx1.example.org") for _ in range(100)])

    assert len({answer.addresses for answer in answers}) == 1
    assert rig.dns.asked["mx1.example.org", "A"] == 1


@on_both_loops(zone)
async def test_cancelled_asker_does_not_take_others_along(rig: Rig) -> None:
    """When who asked first gives up, the next one asks."""
    first, second = asyncio.ensure_future(rig.ask("mx1.example.org")), asyncio.ensure_future(rig.ask("mx1.example.org"))
    await asyncio.sleep(0)

    first.cancel()

    assert (await second).status is FOUND
    assert (await asyncio.gather(first, return_exceptions=True))[0].__class__ is asyncio.CancelledError


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


@on_both_loops(zone, MIXED)
async def test_stale_answer_is_served_when_nobody_answers(rig: Rig) -> None:
    """While the resolver is down mail goes on by what it said before, for a day, and the answer says so."""
    await rig.ask("mx1.example.org")
    rig.zone.faults["mx1.example.org"] = Fault.TIMEOUT
    rig.clock.advance(121)

    stale = await rig.ask("mx1.example.org")

    assert (stale.status, stale.stale, stale.addresses[0]) == (FOUND, True, "192.0.2.1")
    assert (await rig.ask("mx1.example.org")).stale
    assert rig.dns.asked["mx1.example.org", "A"] == 2
    rig.clock.advance(86_400)
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


def test_kept_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not asked for longest is forgotten first."""
    monkeypatch.setattr(resolver_module, "ANSWERS_KEPT", 2)

    @on_both_loops(lambda: Zone({f"{name}.example": "A 192.0.2.1" for name in "abc"}))
    async def scenario(rig: Rig) -> None:
        for name in "abacac":
            await rig.ask(f"{name}.example")
        assert rig.dns.asked == {("a.example", "A"): 1, ("b.example", "A"): 1, ("c.example", "A"): 1}
        await rig.ask("b.example")
        assert rig.dns.asked["b.example", "A"] == 2

    scenario(asyncio.run)


@pytest.mark.slow
@on_both_loops(lambda: Zone({"example": "A 192.0.2.1"}))
async def test_sockets_are_few_and_do_not_last(rig: Rig) -> None:
    """Thousands of questions use a handful of sockets, and none of them for ever."""
    rounds = 2 * QUESTIONS_PER_SOCKET * SOCKETS // 100
    sockets = set()
    for n in range(rounds):
        await asyncio.gather(*[rig.ask(f"{n}-{m}.example") for m in range(100)])
        for each in rig.resolver._transport._sockets[rig.dns.address]:
            sockets.add(each)
            assert each._waiting == {}
    assert len(rig.resolver._transport._sockets[rig.dns.address]) <= SOCKETS

    assert len(sockets) > SOCKETS
    assert sum(not each._transport.is_closing() for each in sockets if each._transport is not None) <= SOCKETS
