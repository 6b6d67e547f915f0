# SPDX-License-Identifier: MIT
"""A record as others read it: one JSON object with stable names, for webhooks, file, syslog and commands alike. Pure.

docs/events.md has every field; a test holds it to `FIELDS`. What is empty is left out. Texts may hold what strangers
wrote: as JSON it is harmless for a terminal and a log. The cursor is opaque: it stands behind the record it comes with.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import astuple

from smarthost.mail.record import Record
from smarthost.ops import words
from smarthost.queue.verbs import read_cursor, write_cursor

_PLAIN = tuple([name for name in Record.__struct_fields__ if name not in ("seq", "kind", "at")])
FIELDS = ("cursor", "at", "kind", *_PLAIN)
_TEXTS = ("next_attempt_at",)  # numbers of a record that are told as text


def _describe_field(name: str) -> tuple[str, object, object]:
    """Give name, type and default of a field of an event: as in a record, but for times."""
    if name in ("cursor", "at", "kind"):
        return name, str, ""
    if name in _TEXTS:
        return name, str, ""
    default = Record.__struct_defaults__[Record.__struct_fields__.index(name) - len(Record.__struct_fields__)]
    return name, Any, default


# A Struct, because encoding one takes a tenth of what building a dict and encoding that does.
_Event = msgspec.defstruct("_Event", [_describe_field(name) for name in FIELDS], omit_defaults=True, gc=False)
_encode = msgspec.json.Encoder().encode
_SEQ, _KIND, _AT, _NEXT = map(Record.__struct_fields__.index, ("seq", "kind", "at", "next_attempt_at"))
_SPANS = slice(*(Record.__struct_fields__.index(name) + last for name, last in (("queued_s", 0), ("transfer_s", 1))))
assert Record.__struct_fields__[_SPANS] == ("queued_s", "connect_s", "handshake_s", "transfer_s")
assert Record.__struct_fields__[:3] == ("seq", "kind", "at"), "an event begins with the same, in another order"
_NO_SPANS = [0.0] * 4
_seconds: dict[int, str] = {}


def _iso(at: float) -> str:
    """Give `words.iso_utc`, of which most is the same for all records of a second."""
    second = int(at) if at >= 0.0 else int(at // 1)
    text = _seconds.get(second)
    if text is None:
        if len(_seconds) >= 64:
            _seconds.clear()
        text = _seconds[second] = words.iso_utc(float(second))[:-5]
    milliseconds = round((at - second) * 1000)
    return f"{text}.{milliseconds:03d}Z" if milliseconds < 1000 else words.iso_utc(at)


def cursor_of(seq: int) -> str:
    """Give the cursor that stands behind a record, or at the end."""
    return write_cursor(max(seq, 0))


def seq_of(cursor: str) -> int:
    """Give the number a cursor stands for. Raises: ValueError: it is none of ours."""
    try:
        return read_cursor(cursor, 1)[0]
    except ValueError:
        raise ValueError(f"not a cursor: {words.printable(cursor[:80])!r}") from None


def _describe(record: Record) -> Any:  # noqa: ANN401 - a class made here
    values = list(astuple(record))
    values[:3] = f"{values[_SEQ]:x}", _iso(values[_AT]), values[_KIND]._value_  # cursor_of, spelled out
    values[_NEXT] = _iso(values[_NEXT]) if values[_NEXT] else ""
    if values[_SPANS] != _NO_SPANS:
        values[_SPANS] = [round(each, 6) for each in values[_SPANS]]
    return _Event(*values)


def to_event(record: Record) -> dict[str, object]:
    """Give a record as JSON has it; what is empty is left out."""
    event: dict[str, object] = msgspec.to_builtins(_describe(record))
    return event


def to_line(record: Record) -> bytes:
    """Give a record as a line of JSON without a newline; nothing in it does anything to a terminal."""
    try:
        line = _encode(_describe(record))
        if line.isascii():  # then nothing in it needs more than JSON's own escapes
            return line if b"\x7f" not in line else words.json_line(to_event(record)).encode()
        return words.json_line(to_event(record)).encode()
    except (msgspec.MsgspecError, ValueError):  # a lone surrogate, which no text of ours should hold
        return words.json_line({name: _ascii(value) for name, value in to_event(record).items()}).encode()


def _ascii(value: object) -> object:
    if isinstance(value, str):
        return ascii(value)[1:-1]
    if isinstance(value, Sequence):
        return [_ascii(each) for each in value]
    return value
