# SPDX-License-Identifier: MIT
"""Servers that do not do their work, servers of another age, and servers that change while we run."""

import asyncio

import dns.message
import dns.rcode
import pytest
from tests.backends.dns.rig import FOUND, MIXED, NODATA, SERVFAIL, TIMEOUT, Rig, on_both_loops

from smarthost.backends.dns import DnsResolver
from smarthost.backends.dns.resolver import Patience
from smarthost.backends.dns.servers import LOOK_S, PLAIN_S, Servers
from smarthost.testing.clock import FakeClock
from smarthost.testing.dns import Fault, ScriptedDns, Zone


def zone() -> Zone:
    return Zone({"a.example": "A 192.0.2.1", "b.example": "A 192.0.2.2"})


# lame servers


@pytest.mark.parametrize("fault", [Fault.LAME, Fault.REFUSED])
def test_lame_server_makes_the_next_one_answer(fault: Fault) -> None:
    """A server that refers us to others, or refuses us, says nothing about the name; it is not asked first again."""

    @on_both_loops(zone)
    async def scenario(rig: Rig) -> None:
        async with ScriptedDns(Zone(faults={"a.example": fault})) as lame:
            resolver = DnsResolver(rig.clock, [lame.address, rig.dns.address])

            answer = await resolver.ask("a.example", "A")
            await resolver.ask("b.example", "A")
            resolver.close()

        assert (answer.status, answer.addresses) == (FOUND, ("192.0.2.1",))
        assert lame.asked.total() == 1

    scenario(asyncio.run)


@pytest.mark.parametrize(("fault", "how"), [(Fault.LAME, "a referral"), (Fault.REFUSED, "REFUSED")])
def test_when_all_servers_are_lame_the_answer_is_servfail_and_names_them(fault: Fault, how: str) -> None:
    """No mail bounces because a resolver that does not recurse was configured."""

    @on_both_loops(lambda: Zone(faults={"a.example": fault}))
    async def scenario(rig: Rig) -> None:
        async with ScriptedDns(Zone(faults={"a.example": fault})) as other:
            resolver = DnsResolver(rig.clock, [rig.dns.address, other.address])

            host, port = other.address

            answer = await resolver.ask("a.example", "A")
            resolver.close()

        assert answer.status is SERVFAIL
        assert answer.detail == f"lame: {how} from {rig.where}; lame: {how} from {host}:{port}"
        assert (rig.dns.asked.total(), other.asked.total()) == (1, 1)

    scenario(asyncio.run)


@on_both_loops(zone)
async def test_no_data_without_soa_is_still_no_data(rig: Rig) -> None:
    """Some servers leave the authority section empty; that is an answer (RFC 2308 2.2.1)."""

    def answer(message: bytes, *, over_tcp: bool) -> bytes:
        return dns.message.make_response(dns.message.from_wire(message), recursion_available=True).to_wire()

    rig.dns.answer = answer  # type: ignore[method-assign]

    assert (await rig.ask("a.example")).status is NODATA


@on_both_loops(lambda: Zone(faults={"a.example": Fault.SERVFAIL}), MIXED)
async def test_failures_of_all_servers_are_told(rig: Rig) -> None:
    """A word about the name counts more than silence, and the record still tells of both."""
    async with ScriptedDns(Zone(faults={"a.example": Fault.TIMEOUT})) as silent:
        resolver = DnsResolver(rig.clock, [silent.address, rig.dns.address], MIXED)
        host, port = silent.address

        answer = await resolver.ask("a.example", "A")
        resolver.close()

    assert answer.status is SERVFAIL
    assert answer.detail == f"no answer from {host}:{port} within 0.1 s; SERVFAIL from {rig.where}"


@on_both_loops(zone)
async def test_empty_answer_of_a_server_that_does_not_recurse_makes_the_next_one_answer(rig: Rig) -> None:
    """An authoritative server in resolv.conf that knows nothing of a name does not make its mail bounce."""

    class Empty(ScriptedDns):
        def answer(self, message: bytes, *, over_tcp: bool) -> bytes | None:
            return dns.message.make_response(dns.message.from_wire(message)).to_wire()

    async with Empty(Zone()) as lame:
        resolver = DnsResolver(rig.clock, [lame.address, rig.dns.address])
        alone = DnsResolver(rig.clock, [lame.address])
        host, port = lame.address

        answer, failure = await resolver.ask("a.example", "A"), await alone.ask("a.example", "A")
        resolver.close()
        alone.close()

    assert (answer.status, answer.addresses) == (FOUND, ("192.0.2.1",))
    assert (failure.status, failure.detail) == (SERVFAIL, f"lame: no recursion from {host}:{port}")


@on_both_loops(zone)
async def test_answer_that_contradicts_itself_makes_the_next_server_answer(rig: Rig) -> None:
    """NXDOMAIN with the records asked for: neither is believed."""

    class Torn(ScriptedDns):
        def answer(self, message: bytes, *, over_tcp: bool) -> bytes | None:
            made = super().answer(message, over_tcp=over_tcp)
            return made[:3] + bytes([made[3] | 3]) + made[4:] if made is not None else None

    async with Torn(zone()) as torn:
        resolver = DnsResolver(rig.clock, [torn.address, rig.dns.address])
        alone = DnsResolver(rig.clock, [torn.address])
        host, port = torn.address

        answer, failure = await resolver.ask("a.example", "A"), await alone.ask("a.example", "A")
        resolver.close()
        alone.close()

    assert (answer.status, answer.addresses) == (FOUND, ("192.0.2.1",))
    assert (failure.status, failure.detail) == (SERVFAIL, f"NXDOMAIN with records from {host}:{port}")


@on_both_loops(zone)
async def test_second_server_is_asked_however_short_the_patience_is(rig: Rig) -> None:
    """A whole time of less than a try's leaves each server its share of it."""
    async with ScriptedDns(Zone(faults={"a.example": Fault.TIMEOUT})) as silent:
        resolver = DnsResolver(rig.clock, [silent.address, rig.dns.address], Patience(total_s=0.6))

        answer = await resolver.ask("a.example", "A")
        resolver.close()

    assert (answer.status, answer.addresses) == (FOUND, ("192.0.2.1",))


# servers without EDNS


@on_both_loops(
    lambda: Zone({"a.example": "A 192.0.2.1", "b.example": "A 192.0.2.2"}, faults={"a.example": Fault.NO_EDNS})
)
async def test_server_without_edns_is_asked_again_without_it(rig: Rig) -> None:
    """RFC 6891 7: FORMERR to a query with OPT; the next questions come without OPT at once, for a while."""
    rig.zone.faults = {"a.example": Fault.NO_EDNS, "b.example": Fault.NO_EDNS}

    first = await rig.ask("a.example")
    second = await rig.ask("b.example")

    assert (first.addresses, second.addresses) == (("192.0.2.1",), ("192.0.2.2",))
    assert rig.dns.asked == {("a.example", "A"): 2, ("b.example", "A"): 1}

    rig.clock.advance(PLAIN_S)
    await rig.ask("b.example")

    assert rig.dns.asked["b.example", "A"] == 3


@pytest.mark.parametrize("rcode", [dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.BADVERS])
@pytest.mark.parametrize("is_bare", [False, True])
def test_every_way_to_say_no_to_edns_is_understood(rcode: dns.rcode.Rcode, is_bare: bool) -> None:
    """Three response codes, with the question or without, since a server that understood nothing can repeat nothing."""

    class Old(ScriptedDns):
        def answer(self, message: bytes, *, over_tcp: bool) -> bytes | None:
            query = dns.message.from_wire(message)
            if query.edns < 0:
                return super().answer(message, over_tcp=over_tcp)
            made = dns.message.make_response(query)
            made.set_rcode(rcode)
            if rcode < 16:
                made.use_edns(False)
            return message[:2] + bytes([0x81, 0x80 | rcode]) + bytes(8) if is_bare and rcode < 16 else made.to_wire()

    @on_both_loops(zone, server=Old)
    async def scenario(rig: Rig) -> None:
        assert (await rig.ask("a.example")).addresses == ("192.0.2.1",)

    scenario(asyncio.run)


@on_both_loops(zone)
async def test_server_that_understands_nothing_is_asked_twice_and_not_remembered(rig: Rig) -> None:
    """FORMERR with and without EDNS is about something else."""
    asked: list[int] = []

    def answer(message: bytes, *, over_tcp: bool) -> bytes:
        query = dns.message.from_wire(message)
        asked.append(query.edns)
        made = dns.message.make_response(query)
        made.set_rcode(dns.rcode.FORMERR)
        return made.to_wire()

    rig.dns.answer = answer  # type: ignore[method-assign]

    said = await rig.ask("a.example")
    await rig.ask("b.example")

    assert (said.status, said.detail) == (SERVFAIL, f"FORMERR from {rig.where}")
    assert asked == [0, -1, 0, -1]


@on_both_loops(zone, Patience(try_s=0.2, rounds=1, total_s=5))
async def test_second_try_without_edns_is_within_the_time_of_the_first(rig: Rig) -> None:
    """A server that says no and then nothing costs one try, not two."""

    def answer(message: bytes, *, over_tcp: bool) -> bytes | None:
        query = dns.message.from_wire(message)
        return message[:2] + b"\x81\x81" + bytes(8) if query.edns == 0 else None

    rig.dns.answer = answer  # type: ignore[method-assign]
    started = asyncio.get_running_loop().time()

    said = await rig.ask("a.example")

    assert said.status is TIMEOUT
    assert asyncio.get_running_loop().time() - started < 0.4


@on_both_loops(lambda: Zone({"a.example": [f"A 192.0.2.{n}" for n in range(60)]}, faults={"a.example": Fault.NO_EDNS}))
async def test_large_answer_without_edns_comes_over_tcp(rig: Rig) -> None:
    """512 octets are few: TC and TCP, there without OPT, too."""
    answer = await rig.ask("a.example")

    assert len(answer.addresses) == 60
    assert rig.dns.asked_over_tcp["a.example", "A"] == 1


# servers that change


@on_both_loops(zone)
async def test_new_servers_are_asked_when_the_source_names_them(rig: Rig) -> None:
    """DHCP brings another resolver: from the next look on that one is asked, and for what was known before as well."""
    async with ScriptedDns(Zone({"a.example": "A 10.0.0.1"})) as other:
        given = [rig.dns.address]
        resolver = DnsResolver(rig.clock, lambda: tuple(given))
        before = await resolver.ask("a.example", "A")
        given[:] = [other.address]

        within = await resolver.ask("a.example", "A")
        rig.clock.advance(LOOK_S)
        after = await resolver.ask("a.example", "A")
        resolver.close()

    assert [each.addresses for each in (before, within, after)] == [("192.0.2.1",), ("192.0.2.1",), ("10.0.0.1",)]
    assert rig.dns.asked.total() == 1


@on_both_loops(zone, MIXED)
async def test_what_former_servers_said_is_served_stale_when_the_new_ones_do_not_answer(rig: Rig) -> None:
    """A new network whose resolver is not up yet does not stop the mail."""
    async with ScriptedDns(Zone(faults={"a.example": Fault.TIMEOUT})) as other:
        given = [rig.dns.address]
        resolver = DnsResolver(rig.clock, lambda: tuple(given), MIXED)
        await resolver.ask("a.example", "A")
        given[:] = [other.address]
        host, port = other.address
        rig.clock.advance(LOOK_S)

        stale = await resolver.ask("a.example", "A")
        resolver.close()

    assert (stale.addresses, stale.stale) == (("192.0.2.1",), True)
    assert stale.detail == f"0 s past its TTL: no answer from {host}:{port} within 0.1 s"


@on_both_loops(zone)
async def test_question_under_way_goes_on_to_the_new_servers(rig: Rig) -> None:
    """Who waits for a resolver that is gone is not made to wait for it twice."""
    async with ScriptedDns(Zone(faults={"a.example": Fault.TIMEOUT})) as gone:
        given = [gone.address]
        resolver = DnsResolver(rig.clock, lambda: tuple(given), Patience(try_s=0.1, rounds=2, total_s=5))
        asking = asyncio.ensure_future(resolver.ask("a.example", "A"))
        while not gone.asked:
            await asyncio.sleep(0.001)
        given[:] = [rig.dns.address]
        rig.clock.advance(LOOK_S)

        answer = await asking
        resolver.close()

    assert answer.status is FOUND
    assert gone.asked.total() == 1


@on_both_loops(zone)
async def test_sockets_to_former_servers_are_closed(rig: Rig) -> None:
    """A laptop that sees a hundred networks has sockets to one."""
    async with ScriptedDns(zone()) as other:
        given = [rig.dns.address]
        resolver = DnsResolver(rig.clock, lambda: tuple(given))
        await resolver.ask("a.example", "A")
        former = resolver._transport._sockets[rig.dns.address]
        given[:] = [other.address]
        rig.clock.advance(LOOK_S)

        await resolver.ask("b.example", "A")

        assert list(resolver._transport._sockets) == [other.address]
        assert all(each._transport is not None and each._transport.is_closing() for each in former)
        resolver.close()


def test_source_is_asked_at_most_every_five_seconds() -> None:
    """However much mail there is."""
    clock, looks = FakeClock(), [0.0]

    def source() -> list[tuple[str, int]]:
        looks.append(clock.monotonic())
        return [("127.0.0.1", 53)]

    servers = Servers(clock, source)
    for _ in range(1000):
        servers.look()
        clock.advance(0.01)

    assert looks == [0.0, 1000.0, pytest.approx(1000 + LOOK_S, abs=0.02)]


def test_validation_is_believed_only_while_all_servers_are_on_loopback() -> None:
    """A laptop that leaves its own resolver for a stranger's does not believe the stranger's AD bit."""
    clock, given = FakeClock(), [("127.0.0.1", 53), ("::1", 53)]
    servers = Servers(clock, lambda: tuple(given))
    told = Servers(clock, lambda: tuple(given), trust_ad=True)
    assert servers.trust_ad

    given.append(("192.0.2.53", 53))
    clock.advance(LOOK_S)

    assert servers.look()
    assert not servers.trust_ad
    assert told.look()
    assert told.trust_ad


def test_source_that_names_none_or_the_same_changes_nothing() -> None:
    """The order of last success is kept, and so is what is known of each."""
    clock, first, second = FakeClock(), ("192.0.2.1", 53), ("192.0.2.2", 53)
    given = [first, second]
    servers = Servers(clock, lambda: tuple(given))
    servers.answered(second)
    servers.lacks_edns(second)

    for names in ([], [first, second]):
        given[:] = names
        clock.advance(LOOK_S)
        assert not servers.look()

    assert servers.in_order == (second, first)
    assert not servers.wants_edns(second)


def test_former_servers_are_forgotten() -> None:
    """What was learned of a server that is gone does not stay for ever, and a late success does not bring it back."""
    clock, first, second = FakeClock(), ("192.0.2.1", 53), ("192.0.2.2", 53)
    given = [first]
    servers = Servers(clock, lambda: tuple(given))
    servers.lacks_edns(first)
    given[:] = [second]
    clock.advance(LOOK_S)
    servers.look()

    servers.answered(first)
    servers.lacks_edns(first)

    assert servers.in_order == (second,)
    assert servers.wants_edns(first)
