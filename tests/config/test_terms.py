# SPDX-License-Identifier: MIT
"""What an operator chose arrives at the stages that must heed it."""

from pathlib import Path

import pytest

from smarthost.config import Config, parse_config, terms
from smarthost.mail.errors import ConfigError
from smarthost.route.table import DirectMx, Families, NextHop, Refuse

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
    assert isinstance(found["hop"], NextHop)
    assert Families.IPV6 is found["hop"].families
    by_mx = {name: route.families for name, route in found.items() if isinstance(route, DirectMx)}
    assert by_mx == {"six": Families.IPV6, "plain": Families.IPV4, "x": Families.IPV4}


def test_a_default_next_hop_has_its_families() -> None:
    """Everything goes to one host, over IPv4 only."""
    table = terms.route_table(chosen('[next_hop]\nhost = "hop.example.net"\nfamilies = "ipv4"'))

    route = table.route_of(table.destination_of("any.example"))

    assert isinstance(route, NextHop)
    assert Families.IPV4 is route.families


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
