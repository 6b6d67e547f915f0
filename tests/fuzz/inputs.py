# SPDX-License-Identifier: MIT
"""Inputs for parsers: real ones, mutated. The same seed, name and number give the same octets on any machine.

Mutations are those that break parsers: flipped bits, cuts, repeats, splices of two seeds, and words of the language in
the wrong place. Decides nothing about what is wrong; tests.fuzz.running does.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random

from msgspec import Struct

LARGEST_OCTETS = 64 * 1024
_REPEATS = (2, 3, 10, 100, 1000)
ODD_OCTETS = (
    b"\0", b"\r", b"\n", b"\r\n", b"\r\n.\r\n", b"\n.\n", b"\r.\r", b" ", b"\t", b"\x7f", b"\x80", b"\xff", b"\xc3",
    b"\xe2\x80\xa8", b"\xc2\x85", b"\xed\xa0\x80", b"+", b"=", b"<", b">", b'"', b"\\", b"(", b")", b"%", b"-", b".",
    b":", b";", b",", b"0", b"9" * 25, b"-1", b"\xd9\xa3",
)  # fmt: skip


class Target(Struct, frozen=True):
    """A parser with what it is fed. `check` raises AssertionError, or whatever a broken parser raises.

    `inputs`: how many by default. `tokens`: words of its language.
    """

    name: str
    check: Callable[[bytes, Random], None]
    seeds: Sequence[bytes]
    tokens: Sequence[bytes] = ()
    inputs: int = 5_000


def make_input(target: Target, seed: int, number: int) -> tuple[bytes, Random]:
    """Give the input of that number, and the Random with which the check makes its own choices."""
    random = Random(f"{seed}/{target.name}/{number}")
    if number < len(target.seeds):
        return target.seeds[number], random  # as they are: a seed that is refused tests nothing
    octets = random.choice(target.seeds)
    for _ in range(random.choice((1, 1, 2, 3, 5, 12))):
        octets = random.choice(_MUTATIONS)(octets, target, random)[:LARGEST_OCTETS]
    return octets, random


def cut(octets: bytes, random: Random) -> list[bytes]:
    """Cut octets as a network might: whole, into octets, or anywhere."""
    if not octets:
        return []
    kind = random.random()
    if kind < 0.3:
        return [octets]
    if kind < 0.5 and len(octets) <= 2_000:
        return [octets[at : at + 1] for at in range(len(octets))]
    edges = sorted({0, len(octets), *(random.randrange(len(octets)) for _ in range(random.randint(1, 8)))})
    return [octets[start:end] for start, end in pairwise(edges)]


def _flip(octets: bytes, target: Target, random: Random) -> bytes:
    if not octets:
        return octets
    changed = bytearray(octets)
    for _ in range(random.choice((1, 1, 4, 16))):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _replace(octets: bytes, target: Target, random: Random) -> bytes:
    start, end = _span(octets, random)
    return octets[:start] + random.randbytes(random.choice((1, 2, 8))) + octets[end:]


def _insert(octets: bytes, target: Target, random: Random) -> bytes:
    at = random.randint(0, len(octets))
    return octets[:at] + _token(target, random) + octets[at:]


def _overwrite(octets: bytes, target: Target, random: Random) -> bytes:
    start, end = _span(octets, random)
    return octets[:start] + _token(target, random) + octets[end:]


def _drop(octets: bytes, target: Target, random: Random) -> bytes:
    start, end = _span(octets, random)
    return octets[:start] + octets[end:]


def _truncate(octets: bytes, target: Target, random: Random) -> bytes:
    return octets[: random.randint(0, len(octets))]


def _repeat(octets: bytes, target: Target, random: Random) -> bytes:
    start, end = _span(octets, random)
    return octets[:start] + octets[start:end] * random.choice(_REPEATS) + octets[end:]


def _splice(octets: bytes, target: Target, random: Random) -> bytes:
    other = random.choice(target.seeds)
    return octets[: random.randint(0, len(octets))] + other[random.randint(0, len(other)) :]


def _swap_lines(octets: bytes, target: Target, random: Random) -> bytes:
    lines = octets.split(b"\r\n")
    one, two = random.randrange(len(lines)), random.randrange(len(lines))
    lines[one], lines[two] = lines[two], lines[one]
    return b"\r\n".join(lines)


def _repeat_line(octets: bytes, target: Target, random: Random) -> bytes:
    lines = octets.split(b"\r\n")
    at = random.randrange(len(lines))
    lines[at:at] = [lines[at]] * random.choice(_REPEATS)
    return b"\r\n".join(lines)


_MUTATIONS = (
    _flip, _replace, _insert, _insert, _overwrite, _overwrite, _drop, _truncate, _repeat, _splice, _swap_lines,
    _repeat_line,
)  # fmt: skip


def _span(octets: bytes, random: Random) -> tuple[int, int]:
    start = random.randint(0, len(octets))
    return start, min(len(octets), start + random.choice((0, 1, 2, 4, 16, 64)))


def _token(target: Target, random: Random) -> bytes:
    return random.choice(target.tokens if target.tokens and random.random() < 0.6 else ODD_OCTETS)
