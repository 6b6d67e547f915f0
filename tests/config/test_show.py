# SPDX-License-Identifier: MIT
"""A Config as an operator sees it."""

import json
from pathlib import Path

from smarthost.config import Surroundings, config_json, config_toml, parse_config

HERE = Surroundings("relay.example.org", Path("/var/lib/smarthost"))
TEXT = """
listen = ["127.0.0.1:25", "[::1]:25"]
postmaster = "pm\\"@example.org"
[next_hop]
host = "h.example"
username = "u"
password = "hunter2"
ca_file = "/etc/hosts"
families = "ipv4"
[hosts]
longest_pause = "30m"
[mx]
families = "ipv6"
[retry]
first = "90s"
[[route]]
domains = ["*.intern.example"]
next_hop = { host = "10.0.0.9", username = "v", password = "hunter2" }
[[route]]
domains = ["gone.example"]
refuse = "closed"
[[route]]
domains = ["direct.example"]
families = "ipv4"
[[route]]
domains = ["plain.example"]
"""


def test_what_is_shown_reads_back_as_the_same_configuration() -> None:
    """`config show` prints a file that could be used, but for the passwords."""
    config = parse_config(TEXT, {}, HERE)

    shown = config_toml(config)

    assert parse_config(shown.replace("***", "hunter2"), {}, HERE) == config


def test_the_defaults_read_back_too() -> None:
    """`config show` of the defaults is a complete file."""
    config = parse_config("", {}, HERE)

    assert parse_config(config_toml(config), {}, HERE) == config


def test_passwords_are_never_shown() -> None:
    """Neither form of `config show`, nor a Config in a traceback, has a password in it."""
    config = parse_config(TEXT, {}, HERE)

    for shown in (config_toml(config), config_json(config).decode(), repr(config)):
        assert "hunter2" not in shown


def test_json_has_numbers_with_their_unit_in_the_name() -> None:
    """A program reads seconds and octets, not texts."""
    shown = json.loads(config_json(parse_config(TEXT, {}, HERE)))

    assert shown["retry"]["first_s"] == 90
    assert shown["hosts"]["longest_pause_s"] == 1800
    assert (shown["next_hops"][0]["families"], shown["mx"]["families"]) == ("ipv4", "ipv6")
    assert [route["families"] for route in shown["routes"]] == [None, None, "ipv4", None]
    assert shown["limits"]["message_octets"] == 50 << 20
    assert shown["relay_from"] == ["127.0.0.0/8", "::1/128"]
    assert shown["next_hops"][0]["credentials"] == {"username": "u", "password": "***"}
