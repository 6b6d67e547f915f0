# SPDX-License-Identifier: MIT
"""A Config as an operator sees it: as JSON for programs, as TOML for people; secrets are starred. Pure."""

from collections.abc import Iterator, Mapping
from enum import Enum

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from smarthost.config import units
from smarthost.config.keys import NEXT_HOP_KEYS, REPEATED_KEYS, ROUTE_KEYS, SECTION_KEYS, TOP_KEYS, Setting
from smarthost.config.values import Config, NextHopSection

_STARS = "***"
_MEANINGFUL_EMPTY = ("listen", "relay_from", "servers", "users")  # others cannot be written empty, or it says nothing


def config_json(config: Config) -> bytes:
    """Give the Config as one line of JSON, field by field, without secrets."""
    return msgspec.json.encode(_redacted(config), enc_hook=str)


def config_toml(config: Config) -> str:
    """Give the Config as TOML that `parse_config` reads back, but for passwords that are in it, which are starred."""
    lines = list(_toml_lines(config, TOP_KEYS))
    for name, (_, settings) in SECTION_KEYS.items():
        lines += ["", f"[{name}]", *_toml_lines(getattr(config, name), settings)]
    for hop in config.next_hops:
        lines += ["", "[next_hop]" if len(config.next_hops) == 1 else "[[next_hop]]", *_hop_lines(hop)]
    for name, (field, _, settings) in REPEATED_KEYS.items():
        for section in getattr(config, field):
            lines += ["", f"[[{name}]]", *_toml_lines(section, settings)]
    for route in config.routes:
        lines += ["", "[[route]]", *_toml_lines(route, ROUTE_KEYS)]
        if route.next_hops:
            hops = [f"{{ {', '.join(_hop_lines(hop))} }}" for hop in route.next_hops]
            lines.append(f"next_hop = [{', '.join(hops)}]")
    return "\n".join(lines) + "\n"


def _toml_lines(section: Struct, settings: Mapping[str, Setting]) -> Iterator[str]:
    for key, setting in settings.items():
        value = getattr(section, setting.field)
        if value not in ("", None) and (value != () or setting.field in _MEANINGFUL_EMPTY):
            yield f"{key} = {value_text(setting.field, value)}"


def _hop_lines(hop: NextHopSection) -> list[str]:
    plain = {key: setting for key, setting in NEXT_HOP_KEYS.items() if key in NextHopSection.__struct_fields__}
    lines = list(_toml_lines(hop, plain))
    if hop.credentials is not None:
        lines.append(f"username = {_quoted(hop.credentials.username)}")
        if hop.password_file is None:
            lines.append('password = "***"')
    return lines


def value_text(field: str, value: object) -> str:
    """Write a field's value as in the file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(_quoted(str(element)) for element in value)}]"
    if isinstance(value, int | float):
        if field.endswith("_s"):
            return _quoted(units.duration_text(value))
        return _quoted(units.size_text(int(value))) if field.endswith("_octets") else str(value)
    return _quoted(value.value if isinstance(value, Enum) else str(value))


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()  # a JSON string is a TOML basic string


def _redacted(config: Config) -> Config:
    def without(hops: tuple[NextHopSection, ...]) -> tuple[NextHopSection, ...]:
        return tuple(map(_without_password, hops))

    routes = tuple(replace(route, next_hops=without(route.next_hops)) for route in config.routes)
    return replace(config, next_hops=without(config.next_hops), routes=routes)


def _without_password(hop: NextHopSection) -> NextHopSection:
    if hop.credentials is None:
        return hop
    return replace(hop, credentials=replace(hop.credentials, password=_STARS))
