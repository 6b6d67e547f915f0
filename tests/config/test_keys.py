# SPDX-License-Identifier: MIT
"""The manual and the tables of keys say the same."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from smarthost.config import Surroundings, config_toml, parse_config
from smarthost.config.keys import NEXT_HOP_KEYS, REPEATED_KEYS, ROUTE_KEYS, SECTION_KEYS, TOP_KEYS

MANUAL = (Path(__file__).parents[2] / "docs/configuration.md").read_text()
HERE = Surroundings("relay.example.org", Path("/var/lib/smarthost"))


def documented() -> dict[str, dict[str, str]]:
    """Give section -> key -> default, as the manual's tables have them."""
    sections: dict[str, dict[str, str]] = {}
    for part in MANUAL.split("\n## ")[1:]:
        title = part.partition("\n")[0].strip("`[]")
        sections[title] = dict(re.findall(r"^\| `([a-z0-9_]+)` \| (.*?) \|", part, re.MULTILINE))
    return sections


def test_every_key_is_in_the_manual_and_none_is_made_up() -> None:
    """What can be set is explained, and what is explained can be set."""
    sections = documented()

    assert set(sections["Top of the file"]) == set(TOP_KEYS)
    assert set(sections["next_hop"]) == set(NEXT_HOP_KEYS)
    assert set(sections["route"]) == {*ROUTE_KEYS, "next_hop"}
    for name, (_, settings) in SECTION_KEYS.items():
        assert set(sections[name]) == set(settings)
    for name, (_, _, settings) in REPEATED_KEYS.items():
        assert set(sections[name]) == set(settings)


def test_the_manuals_defaults_are_the_real_ones() -> None:
    """A default in the manual is what `config show` prints without a file."""
    shown = tomllib.loads(config_toml(parse_config("", {}, HERE)))

    for name in SECTION_KEYS:
        for key, default in documented()[name].items():
            if default == "unset":
                assert key not in shown[name], (name, key)
                continue
            assert tomllib.loads(f"x = {default.strip('`')}")["x"] == shown[name][key], (name, key)
    for key in ("listen", "relay_from", "soft_bounce"):
        assert json.loads(documented()["Top of the file"][key].strip("`")) == shown[key]


@pytest.mark.parametrize("example", re.findall(r"```toml\n(.*?)```", MANUAL, re.DOTALL))
def test_the_manuals_examples_are_right(example: str, tmp_path: Path) -> None:
    """An example can be copied into a file as it is."""
    for name in re.findall(r"/etc/smarthost/([a-z0-9.-]+)", example):
        (tmp_path / name).write_text("x\n")

    parse_config(example.replace("/etc/smarthost", str(tmp_path)), {}, HERE)
