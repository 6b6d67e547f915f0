# SPDX-License-Identifier: MIT
"""The route table: which rule takes a domain, and what its destination is called."""

import pytest

from smarthost.mail.errors import ConfigError
from smarthost.mail.hop import Credentials, TlsLevel
from smarthost.route.table import KNOWN_DOMAINS, DirectMx, Families, NextHop, Refuse, Route, RouteTable

HOP = NextHop("relay.example.net", 587)


def test_without_configuration_every_domain_is_its_own_destination() -> None:
    """Mail goes to the domain's own exchangers unless the operator says otherwise."""
    table = RouteTable()

    assert table.destination_of("example.org") == "example.org"
    assert table.route_of("example.org") == DirectMx("default")


def test_default_next_hop_takes_every_domain() -> None:
    """With a next hop all domains share one destination, which names host and port."""
    table = RouteTable(HOP)

    destinations = {table.destination_of(domain) for domain in ("example.org", "example.com", "[192.0.2.1]")}

    assert destinations == {"hop:relay.example.net:587"}
    assert table.route_of("hop:relay.example.net:587") == NextHop("relay.example.net", 587, rule="default")


@pytest.mark.parametrize(
    ("domain", "rule"),
    [
        ("example.org", 'routes."example.org"'),
        ("a.example.org", 'routes.".example.org"'),
        ("b.a.example.org", 'routes.".example.org"'),
        ("deep.example.org", 'routes."deep.example.org"'),
        ("x.deep.example.org", 'routes.".deep.example.org"'),
        ("y.x.deep.example.org", 'routes.".deep.example.org"'),
        ("notexample.org", "default"),
        ("org", "default"),
        ("[192.0.2.1]", "default"),
    ],
)
def test_exact_domain_then_longest_suffix_then_default(domain: str, rule: str) -> None:
    """The most specific rule wins; a suffix means subdomains only, and never part of a label."""
    rules = ("example.org", ".example.org", "deep.example.org", ".deep.example.org", ".1]")
    table = RouteTable(routes={key: Refuse() for key in rules[:4]})

    assert table.route_of(table.destination_of(domain)).rule == rule


def test_suffix_does_not_take_the_domain_itself() -> None:
    """ ".example.org" is a rule about subdomains."""
    table = RouteTable(routes={".example.org": HOP})

    assert table.destination_of("example.org") == "example.org"
    assert table.destination_of("a.example.org") == "hop:relay.example.net:587"


def test_route_for_one_domain_may_go_back_to_direct_mx() -> None:
    """A default next hop can have exceptions that are delivered by MX."""
    table = RouteTable(HOP, {"example.org": DirectMx(families=Families.IPV4)})

    assert table.destination_of("example.org") == "example.org"
    assert table.route_of("example.org") == DirectMx('routes."example.org"', Families.IPV4)


def test_refused_domain_keeps_its_own_destination() -> None:
    """A refused domain is planned (and refused) by itself."""
    table = RouteTable(HOP, {"example.org": Refuse("not from here")})

    assert table.destination_of("example.org") == "example.org"
    assert table.route_of("example.org") == Refuse("not from here", 'routes."example.org"')


def test_keys_are_domains_however_they_are_written() -> None:
    """Case, a trailing dot and internationalised names in the configuration do not matter."""
    table = RouteTable(routes={"EXAMPLE.org.": HOP, ".Bücher.example": HOP})

    assert table.destination_of("example.org").startswith("hop:")
    assert table.destination_of("a.xn--bcher-kva.example").startswith("hop:")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (HOP, NextHop("relay.example.net", 587, tls=TlsLevel.VERIFIED)),
        (
            NextHop("relay.example.net", 587, credentials=Credentials("a", "x")),
            NextHop("relay.example.net", 587, credentials=Credentials("b", "y")),
        ),
    ],
)
def test_hops_that_differ_never_share_a_destination(first: NextHop, second: NextHop) -> None:
    """Two routes to one host and port with other users or other TLS demands stay apart."""
    table = RouteTable(routes={"a.example": first, "b.example": second})

    keys = [table.destination_of(domain) for domain in ("a.example", "b.example")]

    assert len(set(keys)) == 2
    assert [table.route_of(key).rule for key in keys] == ['routes."a.example"', 'routes."b.example"']


def test_ipv6_next_hop_is_named_in_brackets() -> None:
    """The destination of an IPv6 hop can be read."""
    assert RouteTable(NextHop("::1", 25)).destination_of("example.org") == "hop:[::1]:25"


def test_recipient_domain_cannot_pose_as_a_next_hop() -> None:
    """A "domain" that looks like a hop's key does not reach a hop that its domain is not routed to."""
    table = RouteTable(routes={"example.org": HOP})

    destination = table.destination_of("hop:relay.example.net:587")

    assert isinstance(table.route_of(destination), DirectMx)


@pytest.mark.parametrize(
    ("routes", "key"),
    [
        ({"a..example": DirectMx()}, 'routes."a..example"'),
        ({"": DirectMx()}, 'routes.""'),
        ({"example.org": DirectMx(), "EXAMPLE.org": Refuse()}, 'routes."EXAMPLE.org"'),
        ({"example.org": NextHop("", 25)}, 'routes."example.org"'),
        ({"example.org": NextHop("[::1]", 25)}, 'routes."example.org"'),
        ({"example.org": NextHop("a b", 25)}, 'routes."example.org"'),
        ({"example.org": NextHop("fe80::1%a,b", 25)}, 'routes."example.org"'),
        ({"example.org": NextHop("fe80::1%a\x7f", 25)}, 'routes."example.org"'),
        ({"example.org": NextHop("fe80::1%a\u2028b", 25)}, 'routes."example.org"'),
        ({"example.org": NextHop("fe80::1%a\u00a0b", 25)}, 'routes."example.org"'),
        ({"example.org": NextHop("a", 25, verified_name="b,c")}, 'routes."example.org"'),
        ({"example.org": NextHop("a", 0)}, 'routes."example.org"'),
        ({"example.org": NextHop("a", 65536)}, 'routes."example.org"'),
    ],
)
def test_impossible_routes_are_refused_by_name(routes: dict[str, Route], key: str) -> None:
    """A wrong route is a ConfigError that names its key."""
    with pytest.raises(ConfigError) as refused:
        RouteTable(routes=routes)

    assert refused.value.key == key


def test_remembered_domains_are_bounded() -> None:
    """A flood of domains does not fill memory, and answers stay right."""
    table = RouteTable(routes={".a.example": HOP})

    for number in range(KNOWN_DOMAINS + 10):
        table.destination_of(f"{number}.example")

    assert len(table._known) <= KNOWN_DOMAINS
    assert table.destination_of("x.a.example") == "hop:relay.example.net:587"
    assert table.destination_of("1.example") == "1.example"
