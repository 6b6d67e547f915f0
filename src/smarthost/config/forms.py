# SPDX-License-Identifier: MIT
"""What a reader of values takes, in words and as JSON Schema: for the manual, and for editors. Pure.

A reader made by one of units' factories says it where its bounds are; the others are named in schema.py.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

Reading = TypeVar("Reading", bound=Callable[[object], Any])


class Form(NamedTuple):
    """What may be written: `words` for people, `schema` (JSON Schema, draft 7) for the TOML value."""

    words: str
    schema: Mapping[str, Any]


TEXT = Form("text", {"type": "string"})
_forms: dict[Callable[[object], Any], Form] = {}
_arrays: dict[Callable[[object], Any], tuple[Callable[[object], Any], int]] = {}


def takes(read: Reading, words: str, schema: Mapping[str, Any]) -> Reading:
    """Remember what a reader takes, and give it back."""
    _forms[read] = Form(words, schema)
    return read


def takes_several(read: Reading, item: Callable[[object], Any], at_least: int) -> Reading:
    """Remember that a reader takes an array of what another takes, and give it back."""
    _arrays[read] = item, at_least
    return read


def form_of(read: Callable[[object], Any]) -> Form:
    """Say what a reader takes; one that nobody described takes a text."""
    if read not in _arrays:
        return _forms.get(read, TEXT)
    item, at_least = _arrays[read]
    each = form_of(item)
    schema = {"type": "array", "items": each.schema, **({"minItems": at_least} if at_least else {})}
    return Form(f"array: {each.words}", schema)
