# SPDX-License-Identifier: MIT
"""How values of ours look in JSON: as they are, but for times, which are ISO 8601 in UTC, or null where there is none.

One rule for values and for their schemas, so that the two cannot differ. Pure.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from smarthost.ops.words import iso_or_null

_TIMES = frozenset({"at", "since", "until", "suspended_until", "received_before"})
TEMPLATE = "#/components/schemas/{name}"


def is_time(name: str) -> bool:
    """Does a field of this name hold wall seconds? It is `at`, `since`, `until`, or ends in `_at`."""
    return name in _TIMES or name.endswith("_at")


def to_wire(value: object) -> Any:  # noqa: ANN401 - JSON
    """Give what the JSON encoder is to write for a value of ours."""
    return _with_times(msgspec.to_builtins(value))


def _with_times(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {
            key: iso_or_null(each) if isinstance(each, float | int) and is_time(key) else _with_times(each)
            for key, each in value.items()
        }
    return [_with_times(each) for each in value] if isinstance(value, list | tuple) else value


def schemas(types: Iterable[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Give the JSON schemas of types of ours, and the components that they refer to."""
    found, components = msgspec.json.schema_components(list(types), ref_template=TEMPLATE)
    for component in components.values():
        for name, schema in component.get("properties", {}).items():
            if is_time(name) and schema.get("type") == "number":
                component["properties"][name] = {"type": ["string", "null"], "format": "date-time"}
    return list(found), components
