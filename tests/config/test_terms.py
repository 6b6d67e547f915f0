# SPDX-License-Identifier: MIT
"""What an operator chose arrives at the stages that must heed it."""

from pathlib import Path

import pytest

from smarthost.config import Config, parse_config, terms
from smarthost.config.keys import SECTION_KEYS
from smarthost.mail.errors import ConfigError
from smarthost.mail.hop import TlsLevel
from smarthost.route.table import DirectMx, Families, NextHops, Refuse

FLAGS = {"hostname": "relay.example.org", "state_dir": "/nowhere"}


def chosen(text: str) -> Config:
    return parse_config(text, FLAGS)


def test_routes_take_their_families_from_where_they_are_said() -> None:
    """`[mx] families` holds for all mail by MX, unless a route says otherwise; a next hop has its own."""
    table = terms.route_table(
        chosen("""
            [mx]
            families = "ipv4"
            [[route]]
            domains = ["six.example"]
            families = "ipv6"
            [[route]]
            domains = ["plain.example"]
            [[route]]
            domains = ["hop.example"]
            next_hop = { host = "hop.example.net", families = "ipv6" }
            [[route]]
            domains = ["closed.example"]
            refuse = "closed"
        """)
    )

    found = {name: table.route_of(table.destination_of(f"{name}.example")) for name in ("six", "plain", "hop", "x")}

    assert isinstance(table.route_of("closed.example"), Refuse)
    assert isinstance(found["hop"], NextHops)
    assert Families.IPV6 is found["hop"].hops[0].families
    by_mx = {name: route.families for name, route in found.items() if isinstance(route, DirectMx)}
    assert by_mx == {"six": Families.IPV6, "plain": Families.IPV4, "x": Families.IPV4}


def test_a_default_next_hop_has_its_families() -> None:
    """Everything goes to one host, over IPv4 only."""
    table = terms.route_table(chosen('[next_hop]\nhost = "hop.example.net"\nfamilies = "ipv4"'))

    route = table.route_of(table.destination_of("any.example"))

    assert isinstance(route, NextHops)
    assert Families.IPV4 is route.hops[0].families


def test_routes_by_sender_and_protection_by_destination() -> None:
    """A customer's mail goes through its own upstreams, in order; one domain's sessions must be verified."""
    table = terms.route_table(
        chosen("""
            [mx]
            tls = "required"
            [[route]]
            senders = ["@customer.example", "user:ann"]
            next_hop = ["a.example:26", { host = "b.example", hostname = "me.example", source = "192.0.2.9" }]
            [[route]]
            domains = ["bank.example"]
            tls = "verified"
        """)
    )

    def route(sender: str, user: str, domain: str) -> object:
        return table.route_of(table.destination_of(table.scope(sender, user, domain)))

    theirs = route("x@customer.example", "", "any.example")
    assert isinstance(theirs, NextHops)
    assert [(hop.host, hop.port, hop.speaker.helo, hop.speaker.source) for hop in theirs.hops] == [
        ("a.example", 26, "", ""),
        ("b.example", 25, "me.example", "192.0.2.9"),
    ]
    assert route("y@other.example", "ann", "any.example") == theirs
    bank, other = route("", "", "bank.example"), route("", "", "any.example")
    assert isinstance(bank, DirectMx)
    assert isinstance(other, DirectMx)
    assert (bank.tls, other.tls) == (TlsLevel.VERIFIED, TlsLevel.REQUIRED)


def test_one_scope_has_one_route() -> None:
    """Two routes for the same sender and domain contradict each other; the error names the second."""
    twice = '[[route]]\nsenders = ["@a.example"]\ndomains = ["b.example"]\nrefuse = "x"\n' * 2

    with pytest.raises(ConfigError, match=r"route\[2\].domains: b.example from @a.example has a route already"):
        terms.route_table(chosen(twice))


def test_what_a_network_does_not_say_is_as_for_all_others() -> None:
    """0 lifts a limit; what is left out is that of `[limits]`."""
    clients = terms.client_terms(
        chosen("""
            [limits]
            connections_per_client = 7
            messages_per_minute = 100
            [[network]]
            networks = ["10.0.0.0/8"]
            messages_per_minute = 0
            senders = ["@example.org"]
        """)
    )

    assert clients.others is not None
    assert (clients.others.connections, clients.others.messages_per_minute) == (7, 100)
    assert clients.others.errors_per_minute is None
    (network,) = clients.networks
    assert (network.networks, network.senders) == (("10.0.0.0/8",), ("@example.org",))
    assert (network.connections, network.messages_per_minute) == (7, None)


def test_the_terms_of_host_health_are_the_operators() -> None:
    """`[hosts]` is heeded; evidence lives at least as long as the pause it causes."""
    health = terms.health_terms(
        chosen('[hosts]\nfirst_pause = "1s"\nlongest_pause = "2h"\nforget_after = "1h"\npatience = "3s"')
    )

    assert (health.first_pause_s, health.longest_pause_s, health.forget_after_s) == (1.0, 7200.0, 7200.0)


def test_alias_lookups_reach_the_planner() -> None:
    """`[dns] alias_lookups` bounds how many aliases are followed."""
    assert 3 == terms.plan_terms(chosen("")).further_lookups
    assert 5 == terms.plan_terms(chosen("[dns]\nalias_lookups = 5")).further_lookups


def test_two_certificate_files_are_refused_by_name(tmp_path: Path) -> None:
    """One file of certificates serves all next hops."""
    files = [tmp_path / name for name in ("a.pem", "b.pem")]
    for file in files:
        file.write_text("certificates")
    config = chosen(f"""
        [next_hop]
        host = "a.example.net"
        ca_file = "{files[0]}"
        [[route]]
        domains = ["b.example"]
        next_hop = {{ host = "b.example.net", ca_file = "{files[1]}" }}
    """)

    with pytest.raises(ConfigError, match="one ca_file"):
        terms.ca_file(config)


def test_every_key_of_retry_reaches_the_schedule() -> None:
    """None of them is read and forgotten: each schedule differs from the usual one."""
    usual = terms.schedule(chosen(""))
    keys = {"first": '"90s"', "longest": '"2h"', "jitter": "0.2", "delay_warning": '"1h"', "expire_after": '"3d"'}

    assert set(keys) == set(SECTION_KEYS["retry"][1])
    for key, value in keys.items():
        assert terms.schedule(chosen(f"[retry]\n{key} = {value}")) != usual, key
