# SPDX-License-Identifier: MIT
"""What can be configured is described once, and completely."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema import Draft7Validator  # type: ignore[import-untyped]

from smarthost.config import Surroundings, config_toml, parse_config, schema
from smarthost.config.forms import form_of
from smarthost.config.keys import NEXT_HOP_KEYS, REPEATED_KEYS, ROUTE_KEYS, SECTION_KEYS, TABLES, TOP_KEYS
from smarthost.ops.cli import cli

MANUAL = Path(__file__).parents[2] / "docs/configuration.md"
HERE = Surroundings("relay.example.org", Path("/var/lib/smarthost"))
SETTINGS = [
    *TOP_KEYS.items(),
    *NEXT_HOP_KEYS.items(),
    *ROUTE_KEYS.items(),
    *[each for _, keys in SECTION_KEYS.values() for each in keys.items()],
    *[each for _, _, keys in REPEATED_KEYS.values() for each in keys.items()],
]


def run(*words: str) -> str:
    ran = CliRunner().invoke(cli, ["config", "schema", *words])
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_every_key_has_a_meaning_and_no_meaning_is_of_no_key() -> None:
    """A key that nobody explains is none that anybody can use: write it into config/meanings.toml."""
    missing = [f"{part.name}.{key.name}" for part in schema.sections() for key in part.keys if not key.meaning]

    assert missing == []
    assert schema.unknown_meanings() == []


def test_every_key_is_described() -> None:
    """All tables of keys.py are there, each with all its keys."""
    described = {part.name: {key.name for key in part.keys} for part in schema.sections()}

    assert described.pop("top") == set(TOP_KEYS)
    assert set(described) == set(TABLES)
    assert described["route"] == {*ROUTE_KEYS, "next_hop"}
    assert {name: set(keys) for name, (_, keys) in SECTION_KEYS.items()}.items() <= described.items()


def test_the_manual_is_up_to_date() -> None:
    """Its tables are those of `smarthost config schema --markdown`; mend with `python -m tests.config.test_schema`."""
    page = MANUAL.read_text()

    for part in schema.sections():
        assert f"<!-- keys: {part.name} -->" in page, f"{part.name} has no table: write its two markers"
        assert schema.markdown(part) in page, f"the table of {part.name} is old"
        assert schema.markdown(part) in run("--markdown")
    assert schema.fill_manual(page) == page


def test_the_text_for_a_terminal_has_every_key() -> None:
    """Each key stands in a line of its own, with what may be written, its default and its meaning."""
    text = run()

    assert 'message_size: size, 64KiB to 2GiB; default: "50MiB"\n    Largest message taken' in text
    assert 'families: "both", "ipv4", "ipv6"; default: "both"' in text
    assert "[[listener]]\nlisten: array: IP:PORT; default: required\n" in text
    for part in schema.sections():
        for key in part.keys:
            assert f"\n{key.name}: " in text


def validator() -> Draft7Validator:
    found = json.loads(run("--json-schema"))
    Draft7Validator.check_schema(found)
    return Draft7Validator(found)


def test_the_defaults_and_the_manuals_examples_are_valid_for_editors() -> None:
    """An editor that has the schema complains of nothing that is right."""
    import re

    valid = validator()
    texts = [config_toml(parse_config("", {}, HERE)), *re.findall(r"```toml\n(.*?)```", MANUAL.read_text(), re.DOTALL)]

    for text in texts:
        assert [error.message for error in valid.iter_errors(tomllib.loads(text))] == []


@pytest.mark.parametrize(
    "text",
    [
        "hostnam = 'x'",
        "[limits]\nrecipents = 500",
        "[limits]\nrecipients = 5",
        "[mx]\nfamilies = 'ipv5'",
        "[retry]\nfirst = '5 minutes'",
        "listen = '127.0.0.1:25'",
        "[[listener]]\nmode = 'relay'",
        "next_hop = 5",
        "[[route]]\nnext_hop = { port = 'x' }",
        "[log]\naccepted = 'no'",
    ],
)
def test_the_schema_finds_what_the_relay_would_refuse(text: str) -> None:
    """Mistakes of form are seen while they are typed."""
    assert list(validator().iter_errors(tomllib.loads(text)))


def _wrong_for(found: dict[str, Any]) -> object:
    return {} if found.get("type") != "object" else 5


@pytest.mark.parametrize(("name", "setting"), SETTINGS, ids=[name for name, _ in SETTINGS])
def test_readers_and_schema_agree(name: str, setting: Any) -> None:
    """What the schema calls wrong is refused by the reader: bounds, choices, kinds of value."""
    found = form_of(setting.read).schema
    valid = Draft7Validator(dict(found))
    for value in (-1, 0, 1, 10**12, 0.5, "", "x", "5m", "64KiB", True, [], ["x"], {}, _wrong_for(dict(found))):
        if not valid.is_valid(value):
            with pytest.raises(ValueError, match=r"\w"):
                setting.read(value)


def test_bounds_are_named_in_words() -> None:
    """The manual tells what the reader enforces."""
    words = {f"{part.name}.{key.name}": key.form.words for part in schema.sections() for key in part.keys}

    assert words["limits.recipients"] == "100 to 100,000"
    assert words["dns.timeout"] == "duration, 100ms to 30s"
    assert words["limits.message_size"] == "size, 64KiB to 2GiB"
    assert words["top.relay_from"] == "array: network (CIDR) or IP address"


if __name__ == "__main__":
    MANUAL.write_text(schema.fill_manual(MANUAL.read_text()))
