# SPDX-License-Identifier: MIT
"""Tells by a row's shape which table it is of, for rows found on pages that nobody can say the table of. Pure.

Tables of ours differ in the number and the types of their columns, and older schemas lack only columns at the end.
"""

from typing import Any, NamedTuple

from smarthost.backends.sqlite.flaws import MESSAGE, RECIPIENT
from smarthost.backends.sqlite.pages import Row, Value

_FIRST_MESSAGE, _FIRST_RECIPIENT = 11, 12  # columns in schema 1
_END_OF_DAYS = 253_402_300_800.0  # the year 10000; all keys and numbers are above it
_MESSAGE_DEFAULTS = ("", "", "", None, None)
_RECIPIENT_DEFAULTS = (0, 0, "", "", 0, None)


class Message(NamedTuple):
    """The columns of flaws.MESSAGE."""

    values: list[Any]


class Recipient(NamedTuple):
    """The columns of flaws.RECIPIENT."""

    values: list[Any]


class Content(NamedTuple):
    key: int
    octets: bytes


class Kept(NamedTuple):
    """A record, as it was written."""

    seq: int
    message: int
    at: float
    body: str


class Note(NamedTuple):
    name: str
    value: bytes


class Highest(NamedTuple):
    number: int


class Step(NamedTuple):
    """A row of `migration`."""

    version: int
    what: str


class Named(NamedTuple):
    """An index speaks of this recipient of a message, or (n -1) of a message."""

    key: int
    n: int
    domain: str


Shape = Message | Recipient | Content | Kept | Note | Highest | Step | Named


def recognise(row: Row) -> Shape | None:
    """Give what a row is; None: nothing of ours, or too damaged to tell."""
    return _of_index(row.values) if row.rowid is None else _of_table(row.rowid, row.values)


def _of_table(rowid: int, values: list[Value]) -> Shape | None:
    match values:
        case [None, bytes(octets)]:
            return Content(rowid, octets)
        case [None, int(number)]:
            return Highest(number)
        case [None, str(what)]:
            return Step(rowid, what)
        case [None, int(message), int(at) | float(at), str(body)]:
            return Kept(rowid, message, float(at), body)
        case [None, int(), *_] if _FIRST_MESSAGE <= len(values) <= len(MESSAGE):
            return _to_message(rowid, values)
    return None


def _to_message(key: int, values: list[Value]) -> Message | None:
    whole: list[Any] = [key, *values[1:], *_MESSAGE_DEFAULTS[len(values) - _FIRST_MESSAGE :]]
    texts, numbers = (3, 4, 6, 7, 11, 12, 13), (1, 5, 8, 9)
    if not isinstance(whole[2], int | float) or not isinstance(whole[10], bytes):
        return None
    if not _are(whole, texts, str) or not _are(whole, numbers, int) or not _are_known(whole, (14, 15)):
        return None
    whole[2] = float(whole[2])
    return Message(whole)


def _of_index(values: list[Value]) -> Shape | None:
    match values:
        case [str(name), bytes(value)]:
            return Note(name, value)
        case [int() | float() as at, int(key)] if at < _END_OF_DAYS:  # the other such indexes have keys there
            return Named(key, -1, "")
        case [str(domain), int() | float(), int(key), int(n)] | [int() | float(), str(domain), int(key), int(n)]:
            return Named(key, n, domain)
        case [int() | float(), int(key), int(n)]:
            return Named(key, n, "")
        case [int(), int(), str(), str(), *_] if _FIRST_RECIPIENT <= len(values) <= len(RECIPIENT):
            return _to_recipient(values)
    return None


def _to_recipient(values: list[Value]) -> Recipient | None:
    whole: list[Any] = [*values, *_RECIPIENT_DEFAULTS[len(values) - _FIRST_RECIPIENT :]]
    texts, numbers = (2, 3, 4, 7, 8, 9, 10, 14, 15), (0, 1, 6, 12, 13, 16)
    if not isinstance(whole[5], int | float) or not (whole[11] is None or isinstance(whole[11], int | float)):
        return None
    if not _are(whole, texts, str) or not _are(whole, numbers, int) or not _are_known(whole, (17,)):
        return None
    whole[5] = float(whole[5])
    return Recipient(whole)


def _are(values: list[Any], places: tuple[int, ...], kind: type) -> bool:
    return all(isinstance(values[place], kind) for place in places)


def _are_known(values: list[Any], places: tuple[int, ...]) -> bool:
    return all(values[place] is None or isinstance(values[place], int) for place in places)
