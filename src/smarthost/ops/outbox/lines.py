# SPDX-License-Identifier: MIT
"""A record as others read it: one JSON object with stable names, for webhooks, file, syslog and commands alike. Pure.

docs/events.md has every field; a test holds it to `FIELDS`. What is empty is left out. Texts may hold what strangers
wrote: as JSON it is harmless for a terminal and a log. The cursor is opaque: it stands behind the record it comes with.
"""

from collections.abc import Sequence

import msgspec

from smarthost.mail.record import Record
from smarthost.ops import words
from smarthost.queue.verbs import read_cursor, write_cursor

_TIMES = frozenset({"next_attempt_at"})
_PLAIN = tuple([name for name in Record.__struct_fields__ if name not in ("seq", "kind", "at")])
FIELDS = ("cursor", "at", "kind", *_PLAIN)


def cursor_of(seq: int) -> str:
    """Give the cursor that stands behind a record, or at the end."""
    return write_cursor(max(seq, 0))


def seq_of(cursor: str) -> int:
    """Give the number a cursor stands for. Raises: ValueError: it is none of ours."""
    try:
        return read_cursor(cursor, 1)[0]
    except ValueError:
        raise ValueError(f"not a cursor: {words.printable(cursor[:80])!r}") from None


def to_event(record: Record) -> dict[str, object]:
    """Give a record as JSON has it."""
    event: dict[str, object] = {
        "cursor": cursor_of(record.seq),
        "at": words.iso_utc(record.at),
        "kind": record.kind.value,
    }
    for name in _PLAIN:
        value = getattr(record, name)
        if not value:
            continue
        if name in _TIMES:
            value = words.iso_utc(value)
        elif isinstance(value, float):
            value = round(value, 6)
        event[name] = value
    return event


def to_line(record: Record) -> bytes:
    """Give a record as a line of JSON without a newline; nothing in it does anything to a terminal."""
    event = to_event(record)
    try:
        return words.json_line(event).encode()
    except (msgspec.MsgspecError, ValueError):  # a lone surrogate, which no text of ours should hold
        return words.json_line({name: _ascii(value) for name, value in event.items()}).encode()


def _ascii(value: object) -> object:
    if isinstance(value, str):
        return ascii(value)[1:-1]
    if isinstance(value, Sequence):
        return [_ascii(each) for each in value]
    return value
