# SPDX-License-Identifier: MIT
"""All that can be configured, described from keys.py and meanings.toml: as text, as the manual's tables, as a schema.

Nothing is said twice: types and bounds are those of the readers, defaults those of the values, and what a key means is
in meanings.toml. Called by `smarthost config schema`, and by the test that holds docs/configuration.md to it.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from msgspec import NODEFAULT, Struct
from msgspec.structs import fields

from smarthost.config import units
from smarthost.config.forms import Form, form_of, takes
from smarthost.config.keys import NEXT_HOP_KEYS, REPEATED_KEYS, ROUTE_KEYS, SECTION_KEYS, TOP_KEYS, Setting
from smarthost.config.show import value_text
from smarthost.config.values import Config, NextHopSection, RouteSection
from smarthost.mail.record import Kind

TOP = "top"
UNSET = "unset"
REQUIRED = "required"
_STRING = {"type": "string"}
_WIDTH = 100
_COMPUTED = frozenset({("next_hop", "tls"), (TOP, "hostname"), (TOP, "state_dir")})  # whose real default is no value

for _read, _words in (
    (units.text, "text"),
    (units.host_name, "host name"),
    (units.mailbox, "address"),
    (units.network, "network (CIDR) or IP address"),
    (units.hop_host, "host name or IP address"),
    (units.local_address, "IP address"),
    (units.sender, "sender"),
    (units.allowed_sender, 'address, `"@DOMAIN"` or `"*"`'),
    (units.selector, "DKIM selector"),
    (units.route_domain, 'domain or `"*.DOMAIN"`'),
    (units.origin, "URL without a path"),
    (units.web_address, "URL"),
    (units.syslog, '`"unix:PATH"`, `"udp:HOST:PORT"` or `"HOST:PORT"`'),
    (units.path, "path"),
):
    takes(_read, _words, _STRING)
takes(units.boolean, "`true` or `false`", {"type": "boolean"})
takes(units.fraction, "0 to below 1", {"type": "number", "minimum": 0, "exclusiveMaximum": 1})
takes(units.log_level, ", ".join(f'`"{level}"`' for level in units.LEVELS), {"type": "string", "enum": [*units.LEVELS]})
takes(units.record_kind, "kind of record", {"type": "string", "enum": [kind.value for kind in Kind]})


class Key(Struct, frozen=True):
    """A key: what may be written, its default as the manual calls it, and its meaning (Markdown).

    `value`: the default as a value of TOML, None where there is none.
    """

    name: str
    form: Form
    default: str
    meaning: str
    value: Any = None


class Section(Struct, frozen=True):
    """A table, or the keys at the top. `heading` as in the manual and the file."""

    name: str
    heading: str
    keys: tuple[Key, ...]
    is_repeated: bool = False


@cache
def sections() -> tuple[Section, ...]:
    """Give all tables, the top first."""
    return tuple(_sections())


def _sections() -> Iterator[Section]:
    yield Section(TOP, "Top of the file", _keys(TOP, Config, TOP_KEYS))
    for name, (_, struct, settings) in REPEATED_KEYS.items():
        yield Section(name, f"[[{name}]]", _keys(name, struct, settings), is_repeated=True)
    yield Section("next_hop", "[next_hop]", _keys("next_hop", NextHopSection, NEXT_HOP_KEYS))
    hop = Key("next_hop", Form("a table, `HOST:PORT`, or an array of these", {}), *_texts("route", "next_hop", UNSET))
    yield Section("route", "[[route]]", (*_keys("route", RouteSection, ROUTE_KEYS), hop), is_repeated=True)
    for name, (struct, settings) in SECTION_KEYS.items():
        yield Section(name, f"[{name}]", _keys(name, struct, settings))


def _keys(name: str, struct: type[Struct], settings: Mapping[str, Setting]) -> tuple[Key, ...]:
    defaults = {field.name: field for field in fields(struct)}
    made = []
    for key, setting in settings.items():
        field = defaults.get(setting.field)
        value, default = None, UNSET
        if field is not None and field.required and name != TOP:
            default = REQUIRED
        elif field is not None and field.default is not NODEFAULT and (name, key) not in _COMPUTED:
            value, default = _default(setting.field, field.default)
        made.append(Key(key, form_of(setting.read), *_texts(name, key, default), value))
    return tuple(made)


def _default(field: str, value: object) -> tuple[Any, str]:
    if value is None or value == "":
        return None, UNSET
    written = value_text(field, value)
    return tomllib.loads(f"x = {written}")["x"], f"`{written}`"


def _texts(name: str, key: str, default: str) -> tuple[str, str]:
    """Give what the default is called, and the meaning ("": nobody has written it)."""
    found = _meanings().get(name, {}).get(key, "")
    if isinstance(found, str):
        return default, found
    return found["default"], found["meaning"]


@cache
def _meanings() -> Mapping[str, Mapping[str, Any]]:
    return tomllib.loads(files("smarthost.config").joinpath("meanings.toml").read_text("utf-8"))


def unknown_meanings() -> list[str]:
    """Name what meanings.toml explains although there is no such key."""
    known = {(section.name, key.name) for section in sections() for key in section.keys}
    return [f"{name}.{key}" for name, keys in _meanings().items() for key in keys if (name, key) not in known]


def markdown(section: Section) -> str:
    """Write a section's table as the manual has it."""
    rows = [
        f"| `{key.name}` | {key.default} | {_cell(key.form.words)} | {_cell(key.meaning)} |" for key in section.keys
    ]
    return "\n".join(["| key | default | value | meaning |", "|---|---|---|---|", *rows])


def all_markdown() -> str:
    """Write all tables, each under its heading."""
    return "\n\n".join(f"## {_heading(section)}\n\n{markdown(section)}" for section in sections()) + "\n"


def fill_manual(page: str) -> str:
    """Write a page's tables anew: each stands between `<!-- keys: NAME -->` and `<!-- end of keys -->`."""
    for section in sections():
        start = f"<!-- keys: {section.name} -->\n"
        before, found, rest = page.partition(start)
        if found:
            _, end, after = rest.partition("<!-- end of keys -->")
            page = f"{before}{start}\n{markdown(section)}\n\n{end}{after}"
    return page


def _heading(section: Section) -> str:
    return section.heading if section.name == TOP else f"`{section.heading}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def text() -> str:
    """Write all keys for a terminal."""
    lines = []
    for section in sections():
        lines += ["", f"# {section.heading}" if section.name == TOP else section.heading]
        for key in section.keys:
            lines.append(f"{key.name}: {_plain(key.form.words)}; default: {_plain(key.default)}")
            lines += [f"    {line}" for line in _wrapped(_plain(key.meaning))]
    return "\n".join(lines[1:]) + "\n"


def _plain(markdown: str) -> str:
    return re.sub(r"\[([^]]*)\]\(([^)]*)\)", r"\1", markdown).replace("`", "")


def _wrapped(words: str) -> list[str]:
    import textwrap

    return textwrap.wrap(words, _WIDTH, break_long_words=False, break_on_hyphens=False)


def json_schema() -> str:
    """Write a JSON Schema (draft 7) of the file, for editors such as those that use taplo."""
    properties: dict[str, Any] = {}
    for section in sections():
        table = _table(section)
        if section.name == TOP:
            properties.update(table["properties"])
        elif section.name == "next_hop":
            properties["next_hop"] = {"$ref": "#/definitions/next_hop"}
        elif section.is_repeated:
            properties[section.name] = {"type": "array", "items": table}
        else:
            properties[section.name] = table
    hop = _table(next(section for section in sections() if section.name == "next_hop"))
    one = [{"type": "string", "description": "HOST:PORT, or HOST for port 25"}, hop]
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "smarthost.toml",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "definitions": {"next_hop": {"anyOf": [*one, {"type": "array", "items": {"anyOf": one}}]}},
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _table(section: Section) -> dict[str, Any]:
    properties = {}
    for key in section.keys:
        if key.name == "next_hop":
            properties[key.name] = {"description": _plain(key.meaning), "$ref": "#/definitions/next_hop"}
            continue
        properties[key.name] = {**key.form.schema, "description": _plain(key.meaning)}
        if key.value is not None:
            properties[key.name]["default"] = key.value
    required = [key.name for key in section.keys if key.default == REQUIRED]
    table: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**table, "required": required} if required else table
