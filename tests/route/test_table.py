# SPDX-License-Identifier: MIT
"""The route table: which rule takes a domain, and what its destination is called."""

import pytest

from smarthost.mail.address import recipient_domain, scope_domain
from smarthost.mail.errors import ConfigError
from smarthost.mail.hop import Credentials, TlsLevel
from smarthost.route.source import Speaker
from smarthost.route.table import HOPS, KNOWN_DOMAINS, DirectMx, Families, NextHop, NextHops, Refuse, Route, RouteTable

RELAY = NextHop("relay.example.net", 587)
HOP = NextHops((RELAY,))


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
    assert table.route_of("hop:relay.example.net:587") == NextHops((RELAY,), "default")


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
        (RELAY, NextHop("relay.example.net", 587, tls=TlsLevel.VERIFIED)),
        (
            NextHop("relay.example.net", 587, credentials=Credentials("a", "x")),
            NextHop("relay.example.net", 587, credentials=Credentials("b", "y")),
        ),
    ],
)
def test_hops_that_differ_never_share_a_destination(first: NextHop, second: NextHop) -> None:
    """Two routes to one host and port with other users or other TLS demands stay apart."""
    table = RouteTable(routes={"a.example": NextHops((first,)), "b.example": NextHops((second,))})

    keys = [table.destination_of(domain) for domain in ("a.example", "b.example")]

    assert len(set(keys)) == 2
    assert [table.route_of(key).rule for key in keys] == ['routes."a.example"', 'routes."b.example"']


def test_ipv6_next_hop_is_named_in_brackets() -> None:
    """The destination of an IPv6 hop can be read."""
    assert RouteTable(NextHops((NextHop("::1", 25),))).destination_of("example.org") == "hop:[::1]:25"


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
        ({"example.org": NextHops((NextHop("", 25),))}, 'routes."example.org"'),
        ({"example.org": NextHops((NextHop("[::1]", 25),))}, 'routes."example.org"'),
        ({"example.org": NextHops((NextHop("a b", 25),))}, 'routes."example.org"'),
        ({"example.org": NextHops((NextHop("fe80::1%a,b", 25),))}, 'routes."example.org"'),
        ({"example.org": NextHops((NextHop("fe80::1%a\x7f", 25),))}, 'routes."example.org"'),
        ({"example.org": NextHops((NextHop("fe80::1%a\u2028b", 25),))}, 'routes."example.org"'),
        ({"example.org": NextHops((NextHop("fe80::1%a\u00a0b", 25),))}, 'routes."example.org"'),
        ({"example.org": NextHops((NextHop("a", 25, verified_name="b,c"),))}, 'routes."example.org"'),
        ({"example.org": NextHops((NextHop("a", 0),))}, 'routes."example.org"'),
        ({"example.org": NextHops((NextHop("a", 65536),))}, 'routes."example.org"'),
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


# -- several next hops -------------------------------------------------------------------------------------------------

A, B, C = NextHop("a.example.net"), NextHop("b.example.net", 587), NextHop("c.example.net")


def test_several_next_hops_are_one_destination_that_says_how_many() -> None:
    """The queue shows the first one, and that it is not alone."""
    table = RouteTable(NextHops((A, B, C)))

    destination = table.destination_of("example.org")

    assert destination == "hop:a.example.net:25+2"
    assert table.route_of(destination) == NextHops((A, B, C), "default")


@pytest.mark.parametrize(
    "other",
    [
        (A, C),
        (A, NextHop("b.example.net", 588)),
        (A, NextHop("b.example.net", 587, is_lmtp=True)),
        (A, NextHop("b.example.net", 587, speaker=Speaker(source="192.0.2.9"))),
        (A, NextHop("b.example.net", 587, credentials=Credentials("u", "p"))),
    ],
)
def test_routes_that_differ_in_any_hop_never_share_a_destination(other: tuple[NextHop, ...]) -> None:
    """The first hop names the destination, but the second one counts as well."""
    routes: dict[str, Route] = {"a.example": NextHops((A, B), "same"), "b.example": NextHops(other, "same")}
    table = RouteTable(routes=routes)

    destinations = [table.destination_of(domain) for domain in routes]

    assert len(set(destinations)) == 2
    assert [table.route_of(each) for each in destinations] == list(routes.values())


def test_a_destination_never_shows_a_password() -> None:
    """Destinations are in the log, the queue and the metrics."""
    hops = [NextHop("a.example.net", credentials=Credentials("user", f"secret{n}")) for n in range(3)]
    table = RouteTable(routes={f"{n}.example": NextHops((hop,)) for n, hop in enumerate(hops)})

    shown = [table.destination_of(f"{n}.example") for n in range(3)]

    assert len(set(shown)) == 3
    assert "secret" not in "".join(shown) + repr(table.route_of(shown[0]))


@pytest.mark.parametrize(
    "route",
    [
        NextHops(()),
        NextHops((A, B, A)),
        NextHops(tuple(NextHop(f"{n}.example.net") for n in range(HOPS + 1))),
        NextHops((A, NextHop("b", 0))),
        NextHops((NextHop("a.example.net", 25, is_lmtp=True),)),
        NextHops((NextHop("a.example.net", speaker=Speaker(source="eth0")),)),
        NextHops((NextHop("a.example.net", speaker=Speaker("two words")),)),
        NextHops((NextHop("192.0.2.1", speaker=Speaker(source="2001:db8::9")),)),
        NextHops((NextHop("a.example.net", families=Families.IPV6, speaker=Speaker(source="192.0.2.9")),)),
        DirectMx(families=Families.IPV4, speaker=Speaker(source="2001:db8::9")),
        DirectMx(speaker=Speaker(source="any")),
        DirectMx(speaker=Speaker("a\r\nb")),
    ],
)
def test_routes_that_could_never_work_are_refused(route: Route) -> None:
    """The configuration is told at the start, not by deferred mail: LMTP at port 25, a source of the other family."""
    with pytest.raises(ConfigError) as refused:
        RouteTable(routes={"example.org": route})

    assert refused.value.key == 'routes."example.org"'


# -- routes by sender --------------------------------------------------------------------------------------------------

ROUTES: dict[str, Route] = {"internal.lan": NextHops((NextHop("intranet"),)), ".internal.lan": Refuse("no such site")}
SENDER_ROUTES: dict[tuple[str, str], Route] = {
    ("@corp.example", ""): NextHops((NextHop("corp-relay"),)),
    ("boss@corp.example", ""): NextHops((NextHop("boss-relay"),)),
    ("@corp.example", "partner.example"): NextHops((NextHop("partner-line"),)),
    ("@corp.example", ".partner.example"): NextHops((NextHop("partner-lines"),)),
    ("@bulk.example", ""): DirectMx(speaker=Speaker("bulk.example.net", "192.0.2.77")),
    ("@bulk.example", "internal.lan"): Refuse("no bulk mail here"),
    ("user:scanner", ""): NextHops((NextHop("scan-relay"),)),
}


@pytest.mark.parametrize(
    ("reverse_path", "user", "domain", "destination"),
    [
        # nobody's route: as without routes by sender
        ("x@other.example", "", "example.org", "example.org"),
        ("", "", "example.org", "example.org"),
        ("postmaster", "", "example.org", "example.org"),
        ("x@sub.corp.example", "", "example.org", "example.org"),
        ("x@other.example", "", "internal.lan", "hop:intranet:25"),
        # the sender's route, for all domains that have none
        ("x@corp.example", "", "example.org", "hop:corp-relay:25"),
        ("X@Corp.EXAMPLE", "", "example.org", "hop:corp-relay:25"),
        ("x@corp.example", "", "[192.0.2.1]", "hop:corp-relay:25"),
        ("boss@corp.example", "", "example.org", "hop:boss-relay:25"),
        ("Boss@corp.example", "", "example.org", "hop:boss-relay:25"),
        # a route for the domain beats it: the operator's own domains stay where they are
        ("x@corp.example", "", "internal.lan", "hop:intranet:25"),
        ("x@corp.example", "", "sub.internal.lan", "sub.internal.lan"),
        # a route for sender and domain beats all
        ("x@corp.example", "", "partner.example", "hop:partner-line:25"),
        ("boss@corp.example", "", "partner.example", "hop:partner-line:25"),
        ("x@corp.example", "", "a.partner.example", "hop:partner-lines:25"),
        ("x@bulk.example", "", "internal.lan", "internal.lan from @bulk.example"),
        # by MX: the same exchangers, another speaker
        ("x@bulk.example", "", "example.org", "example.org from @bulk.example"),
        # who logged in counts more than what he writes
        ("boss@corp.example", "scanner", "example.org", "hop:scan-relay:25"),
        ("boss@corp.example", "scanner", "partner.example", "hop:partner-line:25"),
        ("x@corp.example", "ann", "example.org", "hop:corp-relay:25"),
        ("", "scanner", "example.org", "hop:scan-relay:25"),
    ],
)
def test_mail_takes_the_route_that_an_operator_would_expect(
    reverse_path: str, user: str, domain: str, destination: str
) -> None:
    """Sender and domain, then domain, then sender, then the default."""
    table = RouteTable(routes=ROUTES, sender_routes=SENDER_ROUTES)

    assert table.destination_of(table.scope(reverse_path, user, domain)) == destination


def test_destination_leads_to_the_route_that_gave_it() -> None:
    """The planner asks with the destination alone."""
    table = RouteTable(routes=ROUTES, sender_routes=SENDER_ROUTES)

    for (sender, _), route in SENDER_ROUTES.items():
        for domain in ("example.org", "partner.example", "a.partner.example", "internal.lan", "sub.internal.lan", ""):
            text = scope_domain(domain, sender)
            assert table.route_of(table.destination_of(text)) == table.route_of(text), (sender, domain, route)
    assert table.route_of("example.org from @bulk.example").rule == 'routes."from @bulk.example"'
    assert table.route_of("internal.lan from @bulk.example").rule == 'routes."internal.lan from @bulk.example"'


def test_without_routes_by_sender_nothing_is_kept_apart() -> None:
    """Whoever writes: one queue, one plan and one lane for a domain."""
    table = RouteTable(HOP, {"example.org": DirectMx()})

    assert table.scope("x@corp.example", "ann", "example.org") == "example.org"


def test_mail_of_a_sender_whose_route_is_gone_takes_that_of_its_domain() -> None:
    """After a change of the configuration no mail is stuck: old mail goes as new mail does."""
    before = RouteTable(sender_routes=SENDER_ROUTES)
    filed = {sender: before.scope(*sender, "example.org") for sender in (("boss@corp.example", ""), ("", "scanner"))}
    after = RouteTable(routes={"example.org": HOP})
    without_boss = RouteTable(sender_routes={("@corp.example", ""): SENDER_ROUTES["@corp.example", ""]})

    assert list(filed.values()) == ["example.org from boss@corp.example", "example.org from user:scanner"]
    assert {after.destination_of(text) for text in filed.values()} == {"hop:relay.example.net:587"}
    assert RouteTable().destination_of(filed["", "scanner"]) == "example.org"
    assert without_boss.destination_of(filed["boss@corp.example", ""]) == "hop:corp-relay:25"


def test_what_a_recipient_is_filed_under_tells_his_domain() -> None:
    """People and DNS are told the domain, whatever it is kept as."""
    table = RouteTable(sender_routes=SENDER_ROUTES)

    assert recipient_domain(table.scope("x@corp.example", "", "example.org")) == "example.org"
    assert recipient_domain("example.org") == "example.org"
    assert recipient_domain(scope_domain("example.org", 'user:"a from b"')) == "example.org"


def test_a_sender_whose_name_has_blanks_keeps_his_route() -> None:
    """A quoted local part may have any text in it; only the domain before it may not."""
    table = RouteTable(sender_routes={('"a from b"@corp.example', ""): HOP})

    scoped = table.scope('"A from b"@corp.example', "", "example.org")

    assert table.destination_of(scoped) == "hop:relay.example.net:587"
    assert recipient_domain(scoped) == "example.org"


@pytest.mark.parametrize(
    "sender_routes",
    [
        {("corp.example", ""): HOP},
        {("", ""): HOP},
        {("@", ""): HOP},
        {("ann@", ""): HOP},
        {("user:", ""): HOP},
        {("user:a\nb", ""): HOP},
        {("ann\x7f@corp.example", ""): HOP},
        {("@a..b", ""): HOP},
        {("@corp.example", "a..b"): HOP},
        {("@corp.example", ""): HOP, ("@CORP.example", ""): Refuse()},
        {("@corp.example", "example.org"): HOP, ("@corp.example", "EXAMPLE.org."): Refuse()},
        {("ann@corp.example", ""): HOP, ("Ann@corp.example", ""): Refuse()},
    ],
)
def test_impossible_senders_are_refused(sender_routes: dict[tuple[str, str], Route]) -> None:
    """A typing error in a sender is told at the start."""
    with pytest.raises(ConfigError) as refused:
        RouteTable(sender_routes=sender_routes)

    assert refused.value.key.startswith('routes."')
