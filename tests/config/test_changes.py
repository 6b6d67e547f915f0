# SPDX-License-Identifier: MIT
"""What differs between two configurations, in words."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from smarthost.config import Config, Surroundings, parse_config
from smarthost.config.changes import find_changes

HERE = Surroundings("relay.example.org", Path("/var/lib/smarthost"))
ROUTE = '[[route]]\ndomains = ["{0}"]\nnext_hop = "{1}"\n'


def read(text: str) -> Config:
    return parse_config(text, {}, HERE)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("", "", []),
        ("", "soft_bounce = true", ["soft_bounce: false -> true"]),
        ("", 'postmaster = "pm@example.org"', ['postmaster: unset -> "pm@example.org"']),
        ("[retry]\nfirst = 60", "", ['retry.first: "1m" -> "5m"']),
        ("", "next_hop = 'h.example:26'", ["next_hop: by MX -> h.example:26"]),
        ("next_hop = 'a.example'", "next_hop = 'b.example'", ["next_hop: a.example:25 -> b.example:25"]),
        (
            "next_hop = ['a.example', 'b.example']",
            "next_hop = ['b.example', 'a.example']",
            ["next_hop: a.example:25, then b.example:25 -> b.example:25, then a.example:25"],
        ),
        (
            "next_hop = 'a.example'",
            "next_hop = { host = 'a.example', tls = 'required' }",
            ['next_hop.tls (a.example:25): "opportunistic" -> "required"'],
        ),
        (
            ROUTE.format("a.example", "h.example"),
            ROUTE.format("b.example", "i.example") + ROUTE.format("a.example", "h.example"),
            ["route[1] (b.example): unset -> i.example:25"],
        ),
        (
            ROUTE.format("a.example", "h.example"),
            '[[route]]\ndomains = ["a.example"]\nrefuse = "gone"\n',
            ['route[1].refuse (a.example): unset -> "gone"', "route[1].next_hop (a.example): h.example:25 -> by MX"],
        ),
        (ROUTE.format("a.example", "h.example"), "", ["route[1] (a.example): h.example:25 -> unset"]),
        (
            '[[network]]\nnetworks = ["10.0.0.0/8"]\n',
            '[[network]]\nnetworks = ["10.0.0.0/8"]\nconnections = 5\n',
            ["network[1].connections (10.0.0.0/8): unset -> 5"],
        ),
        (
            "",
            '[[network]]\nnetworks = ["10.0.0.0/8"]\nconnections = 5\n',
            ['network[1] (10.0.0.0/8): unset -> { networks = ["10.0.0.0/8"], connections = 5 }'],
        ),
    ],
)
def test_changes_are_told_in_the_words_of_the_file(old: str, new: str, said: list[str]) -> None:
    """A table is known by what it is for, wherever it stands; an order that counts is told."""
    assert [str(change) for change in find_changes(read(old), read(new))] == said


@settings(deadline=None, max_examples=20)
@given(some.text("abcdefgh", min_size=6, max_size=12), some.text("ijklmnop", min_size=6, max_size=12))
def test_no_password_is_ever_told(first: str, second: str) -> None:
    """A password that changes, comes or goes is told of, and never shown."""
    hop = 'host = "h.example"\nusername = "me"\npassword = "{}"\n'
    texts = [
        f"[next_hop]\n{hop.format(first)}",
        f"[next_hop]\n{hop.format(second)}",
        'next_hop = "h.example"\n',
        f'[[route]]\ndomains = ["x.example"]\nnext_hop = {{ {", ".join(hop.format(first).splitlines())} }}\n',
        f'[[route]]\ndomains = ["x.example"]\nnext_hop = {{ {", ".join(hop.format(second).splitlines())} }}\n',
    ]

    for old in texts:
        for new in texts:
            changes = find_changes(read(old), read(new))
            assert bool(changes) == (old != new)
            assert first not in str(changes)
            assert second not in str(changes)
