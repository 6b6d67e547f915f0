# SPDX-License-Identifier: MIT
"""Which settings differ between two Configs, in the words of the file, without secrets. Pure.

Tables that may stand there several times are told apart by what they are for (a route by its domains, a listener by its
addresses), so that one that is put in between changes nothing but itself. Called by reload and `config diff`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from smarthost.config.keys import NEXT_HOP_KEYS, REPEATED_KEYS, ROUTE_KEYS, SECTION_KEYS, TOP_KEYS, Setting
from smarthost.config.show import value_text
from smarthost.config.values import Config, NextHopSection
from smarthost.mail.change import NOT_SHOWN, Change

UNSET = "unset"
_NAMED_BY: Mapping[str, tuple[str, ...]] = {  # what tells the tables of one name apart
    "listener": ("listen",),
    "network": ("networks",),
    "dkim": ("domains", "selector"),
    "webhook": ("url",),
    "route": ("senders", "domains"),
    "next_hop": ("host", "port"),
}


def find_changes(old: Config, new: Config) -> tuple[Change, ...]:
    """Name what differs, in the order of the manual."""
    return tuple(_find(old, new))


def _find(old: Config, new: Config) -> Iterator[Change]:
    for key, before, after in _differing(old, new, TOP_KEYS):
        yield Change(key, TOP_KEYS[key].field, before, after)
    for name, (field, _, settings) in REPEATED_KEYS.items():
        yield from _of_tables(name, field, getattr(old, field), getattr(new, field), settings)
    yield from _of_hops("next_hop", "next_hops", old.next_hops, new.next_hops)
    yield from _of_routes(old, new)
    for name, (_, settings) in SECTION_KEYS.items():
        for key, before, after in _differing(getattr(old, name), getattr(new, name), settings):
            yield Change(f"{name}.{key}", name, before, after)


def _differing(old: Struct, new: Struct, settings: Mapping[str, Setting]) -> Iterator[tuple[str, str, str]]:
    for key, setting in settings.items():
        field = setting.field
        if hasattr(old, field) and getattr(old, field) != getattr(new, field):
            yield key, _text(field, getattr(old, field)), _text(field, getattr(new, field))


def _text(field: str, value: object) -> str:
    return UNSET if value is None or value == "" else value_text(field, value)


def _of_tables(
    name: str, field: str, old: Sequence[Struct], new: Sequence[Struct], settings: Mapping[str, Setting]
) -> Iterator[Change]:
    for at, of, before, after in _paired(name, old, new):
        if before is None or after is None:
            whole = _said(before or after, settings)
            yield Change(at, field, UNSET if before is None else whole, UNSET if after is None else whole, of)
            continue
        for key, was, will in _differing(before, after, settings):
            yield Change(f"{at}.{key}", field, was, will, of)


def _of_routes(old: Config, new: Config) -> Iterator[Change]:
    for at, of, before, after in _paired("route", old.routes, new.routes):
        if before is None or after is None:
            whole = _way(before or after)
            yield Change(at, "routes", UNSET if before is None else whole, UNSET if after is None else whole, of)
            continue
        for key, was, will in _differing(before, after, ROUTE_KEYS):
            yield Change(f"{at}.{key}", "routes", was, will, of)
        yield from _of_hops(f"{at}.next_hop", "routes", before.next_hops, after.next_hops, of)


def _of_hops(
    name: str, field: str, old: Sequence[NextHopSection], new: Sequence[NextHopSection], of: str = ""
) -> Iterator[Change]:
    if [_name("next_hop", hop) for hop in old] != [_name("next_hop", hop) for hop in new]:
        yield Change(name, field, _hops(old), _hops(new), of)
    for _, hop, before, after in _paired("next_hop", old, new):
        if before is None or after is None:
            continue
        whose = f"{of}: {hop}" if of else hop
        for key, was, will in _differing(before, after, NEXT_HOP_KEYS):
            yield Change(f"{name}.{key}", field, was, will, whose)
        first, second = before.credentials, after.credentials
        if first == second:
            continue
        was, will = (UNSET if each is None else value_text("username", each.username) for each in (first, second))
        if was != will:
            yield Change(f"{name}.username", field, was, will, whose)
        if first is not None and second is not None and first.password != second.password:
            yield Change(f"{name}.password", field, NOT_SHOWN, NOT_SHOWN, whose)


def _paired(name: str, old: Sequence[Any], new: Sequence[Any]) -> Iterator[tuple[str, str, Any, Any]]:
    """Give (key, what it is for, the old one or None, the new one or None)."""
    left = list(enumerate(old, 1))
    for n, after in enumerate(new, 1):
        same = next((each for each in left if _name(name, each[1]) == _name(name, after)), None)
        if same is not None:
            left.remove(same)
        yield f"{name}[{n}]", _name(name, after), None if same is None else same[1], after
    for n, before in left:
        yield f"{name}[{n}]", _name(name, before), before, None


def _name(name: str, section: Struct) -> str:
    if isinstance(section, NextHopSection):
        return f"[{section.host}]:{section.port}" if ":" in section.host else f"{section.host}:{section.port}"
    fields = _NAMED_BY.get(name, ())
    parts = [getattr(section, field) for field in fields]
    return " ".join([", ".join(map(str, part)) if isinstance(part, tuple) else str(part) for part in parts if part])


def _said(section: Struct, settings: Mapping[str, Setting]) -> str:
    """Write a table in one line, without what is not set."""
    told = []
    for key, setting in settings.items():
        value = getattr(section, setting.field)
        if value not in (None, "", ()):
            told.append(f"{key} = {value_text(setting.field, value)}")
    return "{ " + ", ".join(told) + " }"


def _hops(hops: Sequence[NextHopSection]) -> str:
    return ", then ".join([_name("next_hop", hop) for hop in hops]) or "by MX"


def _way(route: Any) -> str:  # noqa: ANN401 - a RouteSection
    return f"refuse {value_text('refuse', route.refuse)}" if route.refuse else _hops(route.next_hops)
