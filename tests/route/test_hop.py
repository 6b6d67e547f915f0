# SPDX-License-Identifier: MIT
"""The next-hop machine: a configured host is resolved, never judged, never a bounce."""

import asyncio

import pytest

from smarthost.mail.hop import Host
from smarthost.ports import Answer, AnswerStatus
from smarthost.route.hop import find_hop
from smarthost.route.mx import Exchangers, Ourselves, Unroutable
from smarthost.route.table import Families, NextHop
from smarthost.testing.dns import Fault, ScriptedResolver, Zone

US = Ourselves("relay.example.net", frozenset({("127.0.0.1", 2525)}))
ZONE = Zone(
    {
        "hop.example": ("MX 10 other.example", "A 10.0.0.1", "AAAA fd00::1", "A 10.0.0.2"),
        "us.example": ("A 127.0.0.1", "A 10.0.0.1"),
        "empty.example": "TXT nothing",
        "xn--bcher-kva.example": "A 10.0.0.3",
        "mixed.example": "A 10.0.0.4",
    },
    faults={
        "broken.example": Fault.SERVFAIL,
        ("half.example", "A"): Fault.TIMEOUT,
        ("mixed.example", "AAAA"): Fault.TIMEOUT,
    },
)


def find(hop: NextHop, zone: Zone = ZONE, further_lookups: int = 3, source: str = "") -> Exchangers | Unroutable:
    async def drive() -> Exchangers | Unroutable:
        resolver, machine = ScriptedResolver(zone), find_hop(hop, US, further_lookups, source)
        found: Exchangers | Unroutable
        try:
            questions = next(machine)
            while True:
                questions = machine.send(tuple([await resolver.ask(each.name, each.rdtype) for each in questions]))
        except StopIteration as end:
            found = end.value
        return found

    return asyncio.run(drive())


@pytest.mark.parametrize(
    ("hop", "addresses"),
    [
        (NextHop("hop.example"), ("10.0.0.1", "fd00::1", "10.0.0.2")),
        (NextHop("HOP.example."), ("10.0.0.1", "fd00::1", "10.0.0.2")),
        (NextHop("hop.example", families=Families.IPV6), ("fd00::1",)),
        (NextHop("Bücher.example"), ("10.0.0.3",)),
        (NextHop("127.0.0.1", 25), ("127.0.0.1",)),
        (NextHop("::1", 2525), ("::1",)),
        (NextHop("localhost", 25), ("127.0.0.1", "::1")),
        (NextHop("LOCALHOST.", 25, families=Families.IPV4), ("127.0.0.1",)),
        (NextHop("us.example", 2525), ("10.0.0.1",)),
        (NextHop("us.example", 25), ("127.0.0.1", "10.0.0.1")),
    ],
)
def test_next_hop_is_resolved_without_mx_and_without_judgement(hop: NextHop, addresses: tuple[str, ...]) -> None:
    """The operator chose it: private and loopback addresses are fine, MX records are not looked at."""
    found = find(hop)

    assert isinstance(found, Exchangers)
    assert found.hosts == (Host(hop.host, addresses),)


def test_certificate_name_may_differ_from_the_host() -> None:
    """An address with a name its certificate must hold."""
    found = find(NextHop("127.0.0.1", 25, verified_name="mail.example.net"))

    assert isinstance(found, Exchangers)
    assert found.hosts[0].name == "mail.example.net"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("gone.example", "4.4.4"),
        ("empty.example", "4.4.4"),
        ("broken.example", "4.4.3"),
        ("half.example", "4.4.3"),
        ("a..b", "4.4.4"),
        ("under the bridge", "4.4.4"),
        ("127.0.0.1", "4.4.6"),
        ("localhost", None),
    ],
)
def test_next_hop_that_cannot_be_used_defers(host: str, status: str | None) -> None:
    """A typing error in the configuration does not bounce the queue; neither does a hop that is ourselves."""
    found = find(NextHop(host, 2525))

    assert (found.status if isinstance(found, Unroutable) else None) == status
    if isinstance(found, Unroutable):
        assert not found.is_permanent
        assert host in found.why


@pytest.mark.parametrize(("further_lookups", "is_found"), [(2, False), (3, True)])
def test_aliases_of_a_next_hop_are_followed_as_far_as_those_of_exchangers(further_lookups: int, is_found: bool) -> None:
    """The setting counts here too."""
    links = {f"c{n}.example": f"CNAME c{n + 1}.example" for n in range(4)}
    zone = Zone(links | {"c4.example": "A 10.0.0.1"}, faults=dict.fromkeys(links, Fault.HALF_ALIAS))

    found = find(NextHop("c0.example", families=Families.IPV4), zone, further_lookups)

    assert is_found == isinstance(found, Exchangers)


def test_a_next_hop_whose_answer_was_cut_is_asked_for_again_soon() -> None:
    """What was read is used; what was not may be there all the same, and the reason says so."""

    def answer(name: str, *addresses: str) -> Exchangers | Unroutable:
        machine = find_hop(NextHop(name, families=Families.IPV4), US)
        next(machine)
        status = AnswerStatus.FOUND if addresses else AnswerStatus.NODATA
        with pytest.raises(StopIteration) as end:
            machine.send((Answer(name, "A", status, addresses=addresses, canonical=name, is_cut=True),))
        found: Exchangers | Unroutable = end.value.value
        return found

    some, none = answer("hop.example", "10.0.0.1"), answer("hop.example")

    assert isinstance(some, Exchangers)
    assert some.is_partial
    assert isinstance(none, Unroutable)
    assert (none.status, "was cut" in none.why) == ("4.4.3", True)


def test_a_next_hop_with_one_family_unanswered_is_asked_for_again_soon() -> None:
    """The address that is there is used, and the one nobody could tell is not given up for an hour."""
    found = find(NextHop("mixed.example"))

    assert isinstance(found, Exchangers)
    assert (found.hosts[0].addresses, found.is_partial) == (("10.0.0.4",), True)


@pytest.mark.parametrize(
    ("host", "source", "addresses"),
    [
        ("hop.example", "192.0.2.9", ("10.0.0.1", "10.0.0.2")),
        ("hop.example", "2001:db8::9", ("fd00::1",)),
        ("localhost", "2001:db8::9", ("::1",)),
    ],
)
def test_a_source_address_reaches_hosts_of_its_own_family(host: str, source: str, addresses: tuple[str, ...]) -> None:
    """No dial is wasted on an address that cannot be reached from where the session is bound."""
    found = find(NextHop(host), source=source)

    assert isinstance(found, Exchangers)
    assert found.hosts[0].addresses == addresses
