# SPDX-License-Identifier: MIT
"""How people read it: times, sizes, counts, and text from strangers made harmless for a terminal. Pure.

`now` and times are wall seconds; shown in local time with offset.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec

_UNITS = (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))


def iso_utc(at: float) -> str:
    """Give ISO 8601 in UTC with milliseconds, as all our JSON has it."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso_or_null(at: float) -> str | None:
    """Give `iso_utc`, or None (null in JSON) where 0.0 says that there is no such time."""
    return iso_utc(at) if at else None


def local_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().isoformat(timespec="seconds")


def span(seconds: float) -> str:
    """Give a length of time in its largest fitting unit: "4 min"; below two units it is told in the smaller one."""
    for unit, length in _UNITS:
        if seconds >= 2 * length:
            return f"{round(seconds / length)} {unit}"
    return f"{int(seconds)} s"


def relative(at: float, now: float) -> str:
    """Give "in 4 min", "3 h ago" or "now"."""
    if abs(at - now) < 1:
        return "now"
    return f"in {span(at - now)}" if at > now else f"{span(now - at)} ago"


def when(at: float, now: float) -> str:
    """Give a time in full, and how far away it is: "2026-11-21T04:10:05+00:00 (in 4 min)"."""
    return f"{local_time(at)} ({relative(at, now)})"


def size_words(octets: int) -> str:
    if octets < 1024:
        return f"{octets} B"
    for unit, scale in (("KiB", 1 << 10), ("MiB", 1 << 20)):
        if octets < scale << 10:
            return f"{octets / scale:.1f} {unit}"
    return f"{octets / (1 << 30):.1f} GiB"


def count(number: int, noun: str) -> str:
    """Give "1 message" or "1,204 messages"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """Escape what a terminal would obey or hide: control characters, escapes, text that runs the other way."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def is_utf8(text: str) -> bool:
    """Is it text? An argument of the command line may hold octets that are none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def json_line(fields: object) -> str:
    """Give a line of JSON that a terminal shows as it is: what `printable` would escape is escaped as JSON has it."""
    text = msgspec.json.encode(fields).decode()
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be").hex()  # RFC 8259 7: beyond U+FFFF as two
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def path_words(reverse_path: str) -> str:
    return f"<{printable(reverse_path)}>"


def fitting(rows: Iterable[Sequence[str]], least: Sequence[int]) -> tuple[int, ...]:
    """Give the widths at which the columns of all rows line up, none below `least`."""
    lengths = [[len(cell) for cell in row[: len(least)]] for row in rows]
    return tuple(max(column) for column in zip(least, *lengths, strict=True))


def aligned(rows: Iterable[Sequence[str]], widths: Sequence[int]) -> list[str]:
    """Give lines whose columns have at least these widths; the last column is never padded."""
    return [
        "  ".join(
            [*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), *row[len(widths) :]]
        ).rstrip()
        for row in rows
    ]
