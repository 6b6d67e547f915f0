# SPDX-License-Identifier: MIT
"""DnsResolver against a scripted server on loopback, on both event loops."""

import asyncio
from typing import Any

import pytest
import uvloop
from tests.backends.dns.rig import (
    BOTH_LOOPS,
    FOUND,
    MIXED,
    NODATA,
    NXDOMAIN,
    SERVFAIL,
    SHORT,
    TIMEOUT,
    Rig,
    Runner,
    closed_port,
    on_both_loops,
)

from smarthost.backends.dns import DnsResolver
from smarthost.backends.dns.resolver import Patience
from smarthost.backends.dns.transport import QUESTIONS_PER_SOCKET, SOCKET_S, SOCKETS
from smarthost.ports import Answer, MxRecord
from smarthost.testing.dns import Fault, ScriptedDns, Zone


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


@on_both_loops(lambda: Zone(faults={"a.example": Fault.SERVFAIL}))
async def test_refusal_to_answer_is_servfail_with_a_detail(rig: Rig) -> None:
    """A server that says no is asked once, and named."""
    answer = await rig.ask("a.example")

    assert (answer.status, answer.detail) == (SERVFAIL, f"SERVFAIL from {rig.where}")
    assert rig.dns.asked["a.example", "A"] == 1


@pytest.mark.parametrize("fault", [Fault.TIMEOUT, Fault.WRONG_ID, Fault.WRONG_QUESTION])
@BOTH_LOOPS
def test_silence_and_lies_time_out(fault: Fault, run: Runner) -> None:
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
    assert (len(answer.mx), answer.is_cut) == (100, True)
    assert answer.detail == "first 100 of 600 records"


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
    """Nothing is raised and nothing is sent; that DNS cannot hold a name is not its word that there is none."""
    for name in ("", "a..b", "x" * 64, "a." * 128 + "b", "bücher.example"):
        answer = await rig.ask(name)
        assert (answer.status, answer.detail[:20]) == (SERVFAIL, "no question for DNS:")

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


def test_resolver_goes_on_in_a_second_event_loop() -> None:
    """Where the first loop is over sockets are made anew; where it still runs the answer says what is wrong."""
    at_home: list[DnsResolver] = []

    @on_both_loops(zone)
    async def scenario(rig: Rig) -> None:
        resolver = at_home[0] if at_home else DnsResolver(rig.clock, [rig.dns.address])
        at_home.append(resolver)
        resolver._servers.in_order = (rig.dns.address,)
        answers = await asyncio.gather(*[resolver.ask(f"{len(at_home)}-{n}.example.org", "A") for n in range(300)])
        elsewhere = await asyncio.to_thread(asyncio.run, resolver.ask(f"{len(at_home)}.example.org", "A"))
        for sockets in resolver._transport._sockets.values():
            for each in sockets:
                each.close()
        await asyncio.sleep(0)

        assert {answer.status for answer in answers} == {NXDOMAIN}
        assert (elsewhere.status, elsewhere.detail) == (SERVFAIL, "this resolver serves another event loop")

    scenario(asyncio.run)
    scenario(uvloop.run)
    scenario(asyncio.run)


# what is shared


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


@on_both_loops(lambda: Zone({"example": "A 192.0.2.1"}))
async def test_sockets_do_not_grow_old(rig: Rig) -> None:
    """A relay that asks little does not ask from one port for days."""
    for n in range(40):
        await rig.ask(f"{n}.example")
    before = set(rig.resolver._transport._sockets[rig.dns.address])
    rig.clock.advance(SOCKET_S)

    for n in range(40, 120):
        await rig.ask(f"{n}.example")

    assert not before & set(rig.resolver._transport._sockets[rig.dns.address])
    assert all(each._transport is None or each._transport.is_closing() for each in before)


@pytest.mark.parametrize("what", ["given up", "closed"])
@BOTH_LOOPS
def test_socket_that_is_made_while_its_server_is_given_up_is_closed(what: str, run: Runner) -> None:
    """Nobody would ever close it else."""

    @on_both_loops(zone)
    async def scenario(rig: Rig) -> None:
        transport, loop = rig.resolver._transport, asyncio.get_running_loop()
        made: list[asyncio.BaseTransport] = []
        make = loop.create_datagram_endpoint

        async def meanwhile(*args: Any, **kwargs: Any) -> Any:
            both: Any = await make(*args, **kwargs)
            made.append(both[0])
            transport.keep_only([]) if what == "given up" else transport.close()
            return both

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "create_datagram_endpoint", meanwhile)
            answers = [await rig.ask("mx1.example.org"), await rig.ask("example.org")]
        await asyncio.sleep(0)

        assert answers[0].status is (FOUND if what == "given up" else TIMEOUT)
        assert made
        assert all(each.is_closing() for each in made)
        assert not any(transport._sockets.values())

    scenario(run)


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
