# SPDX-License-Identifier: MIT
"""Message ids: 16 characters of base32, time-ordered, never reused; the same in the 250, Received, logs and commands.

An id is an 80-bit number: 42 bits of milliseconds since 1970 (good until 2109), 21 bits of sequence, which together
are the store's integer key, and 15 bits drawn anew at each start, so that a number which was handed out but never
committed before a crash cannot come back as the same id.
"""

from collections.abc import Callable

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's, lower case: ASCII order is numeric order
_PYTHONS = "0123456789abcdefghijklmnopqrstuv"  # the digits that int(text, 32) knows


class _Digits(dict[int, str]):
    """Our digits to Python's; whatever else is in a text, what int() would forgive included, is a digit of no base."""

    def __missing__(self, character: int) -> str:
        return "!"


_DIGITS = _Digits(
    {
        ord(ours): pythons
        for alphabet in (_ALPHABET, _ALPHABET.upper())
        for ours, pythons in zip(alphabet, _PYTHONS, strict=True)
    }
)
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]  # two characters at a time: 1.1 us an id
ID_LENGTH = 16
_SEQUENCE_BITS = 21
_TAG_BITS = 15
_TAG_MASK = (1 << _TAG_BITS) - 1


def encode_id(number: int, tag: int) -> str:
    """Give the id of a 63-bit store key and a 15-bit tag."""
    value = number << _TAG_BITS | tag
    pairs = _PAIRS
    return "".join([pairs[value >> shift & 1023] for shift in (70, 60, 50, 40, 30, 20, 10, 0)])


def decode_id(text: str) -> tuple[int, int]:
    """Give (store key, tag) of an id.

    Raises: ValueError: not 16 characters of our alphabet, or beyond 63 bits.
    """
    if len(text) != ID_LENGTH:
        raise ValueError(f"a message id has {ID_LENGTH} characters: {text!r}")
    try:
        value = int(text.translate(_DIGITS), 32)  # 0.3 us; a loop over the characters takes 2
    except ValueError:
        raise ValueError(f"not the characters of a message id: {text!r}") from None
    number = value >> _TAG_BITS
    if number >= 1 << 63:
        raise ValueError(f"beyond the range of message ids: {text!r}")
    return number, value & _TAG_MASK


class IdSource:
    """Gives ids that only ever rise, whatever the wall clock does."""

    def __init__(self, now: Callable[[], float], tag: int, last_number: int = 0) -> None:
        self._now = now
        self._tag = tag & _TAG_MASK
        self._last = last_number

    def next(self) -> str:
        """Give the next id: above every earlier one, and above `last_number`."""
        number = int(self._now() * 1000) << _SEQUENCE_BITS
        if number <= self._last:
            number = self._last + 1
        self._last = number
        return encode_id(number, self._tag)


class SequenceSource:
    """Gives record numbers that rise, also across restarts: from the clock at start, then one by one."""

    def __init__(self, now: float, last_number: int = 0) -> None:
        self._last = max(last_number, int(now * 1000) << _SEQUENCE_BITS)

    @property
    def last(self) -> int:
        """The number that was given last."""
        return self._last

    def next(self) -> int:
        """Give the next number."""
        self._last += 1
        return self._last
