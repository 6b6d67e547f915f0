# SPDX-License-Identifier: MIT
"""Scripted DNS: the server and the in-memory resolver say the same about the same zone."""

import asyncio

import pytest

from smarthost.backends.dns import DnsResolver
from smarthost.backends.dns.cache import SHORTEST_S
from smarthost.backends.dns.resolver import Patience
from smarthost.ports import AnswerStatus
from smarthost.testing.clock import FakeClock
from smarthost.testing.dns import Fault, ScriptedDns, ScriptedResolver, Zone

ZONE = Zone(
    {
        "example.org": ("50 MX 10 Mx.example.org.", "MX 0 .", "TXT hello"),
        "mx.example.org": ("A 192.0.2.1", "70 AAAA 2001:db8::1"),
        "alias.example": "20 CNAME mx.example.org",
        "dangling.example": "CNAME gone.example",
        "loop.example": "CNAME loop.example",
        "half.example": "CNAME alias.example",
        "deep.below.example": "A 192.0.2.2",
        "empty.example": (),
        "old.example": "A 192.0.2.3",
    },
    faults={
        "servfail.example": Fault.SERVFAIL,
        "refused.example": Fault.REFUSED,
        "nxdomain.example": Fault.NXDOMAIN,
        ("mx.example.org", "AAAA"): Fault.NODATA,
        "timeout.example": Fault.TIMEOUT,
        "half.example": Fault.HALF_ALIAS,
        "lame.example": Fault.LAME,
        "old.example": Fault.NO_EDNS,
        ("alias.example", "A"): Fault.TRUNCATE,
    },
)
QUESTIONS = [
    ("example.org", "MX"),
    ("example.org", "A"),
    ("EXAMPLE.org", "MX"),
    ("mx.example.org", "A"),
    ("mx.example.org", "AAAA"),
    ("alias.example", "A"),
    ("alias.example", "MX"),
    ("dangling.example", "A"),
    ("loop.example", "A"),
    ("half.example", "A"),
    ("below.example", "A"),
    ("empty.example", "A"),
    ("gone.example", "A"),
    ("servfail.example", "MX"),
    ("refused.example", "A"),
    ("nxdomain.example", "A"),
    ("lame.example", "A"),
    ("old.example", "A"),
    ("timeout.example", "A"),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("name", "rdtype"), QUESTIONS)
async def test_server_and_resolver_agree(name: str, rdtype: str) -> None:
    """What a journey learns from the simulation is what it would learn from the network."""
    async with ScriptedDns(ZONE) as dns:
        real = DnsResolver(FakeClock(), [dns.address], Patience(try_s=0.1, rounds=1, total_s=1))
        over_network = await real.ask(name, rdtype)
        real.close()
    in_memory = await ScriptedResolver(ZONE).ask(name, rdtype)

    assert in_memory.status is over_network.status
    assert in_memory.mx == over_network.mx
    assert in_memory.addresses == over_network.addresses
    assert in_memory.aliases == over_network.aliases
    assert in_memory.canonical == over_network.canonical
    if in_memory.status not in (AnswerStatus.SERVFAIL, AnswerStatus.TIMEOUT):
        assert max(in_memory.ttl_s, SHORTEST_S) == over_network.ttl_s


@pytest.mark.asyncio
async def test_zone_may_change_while_the_server_runs() -> None:
    """A test repairs or breaks a name in the middle of a journey."""
    resolver = ScriptedResolver(zone := Zone())
    assert (await resolver.ask("a.example", "A")).status is AnswerStatus.NXDOMAIN

    zone.set("a.example", "A 192.0.2.1")
    assert (await resolver.ask("a.example", "A")).addresses == ("192.0.2.1",)
    zone.faults["a.example"] = Fault.SERVFAIL
    assert (await resolver.ask("a.example", "A")).status is AnswerStatus.SERVFAIL
    zone.faults.clear()
    zone.remove("a.example")

    assert (await resolver.ask("a.example", "A")).status is AnswerStatus.NXDOMAIN
    assert resolver.asked["a.example", "A"] == 4


@pytest.mark.parametrize("text", ["", "A", "60", "60 A", "MX "])
def test_record_that_is_none_is_refused(text: str) -> None:
    """A typing error in a zone is found where it is made."""
    with pytest.raises(ValueError, match="a record is"):
        Zone({"a.example": text})


@pytest.mark.asyncio
async def test_server_takes_the_port_it_is_told() -> None:
    """A server may come back at the same port, as after a restart."""
    async with ScriptedDns(ZONE) as first:
        host, port = first.address
    async with ScriptedDns(ZONE, host, port) as second:
        assert second.address == (host, port)


@pytest.mark.asyncio
async def test_port_in_use_is_an_error() -> None:
    """Two servers at one port are a mistake."""
    async with ScriptedDns(ZONE) as first:
        with pytest.raises(OSError, match="in use"):
            await ScriptedDns(ZONE, *first.address).__aenter__()


@pytest.mark.asyncio
async def test_nonsense_does_not_stop_the_server() -> None:
    """Datagrams and connections that make no sense are ignored."""
    async with ScriptedDns(ZONE) as dns:
        assert dns.answer(b"", over_tcp=False) is None
        assert dns.answer(b"\0" * 12, over_tcp=True) is None
        _, writer = await asyncio.open_connection(*dns.address)
        writer.write(b"\0\5hello")
        real = DnsResolver(FakeClock(), [dns.address])

        assert (await real.ask("mx.example.org", "A")).addresses == ("192.0.2.1",)
        real.close()
        writer.close()
        await writer.wait_closed()
