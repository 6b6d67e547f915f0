# SPDX-License-Identifier: MIT
"""Message ids: 16 characters, time-ordered, never reused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smarthost.mail.identity import ID_LENGTH, IdSource, decode_id, encode_id

NUMBERS = st.integers(0, (1 << 63) - 1)
TAGS = st.integers(0, (1 << 15) - 1)


@given(NUMBERS, TAGS)
def test_an_id_tells_its_number_and_tag(number: int, tag: int) -> None:
    """What was encoded is decoded, in 16 characters, also when typed in capitals."""
    text = encode_id(number, tag)

    assert len(text) == ID_LENGTH
    assert (number, tag) == decode_id(text)
    assert (number, tag) == decode_id(text.upper())


@given(NUMBERS, NUMBERS, TAGS, TAGS)
def test_ids_sort_as_their_numbers_do(first: int, second: int, tag: int, other: int) -> None:
    """Sorting ids as text sorts messages by arrival."""
    if first < second:
        assert encode_id(first, tag) < encode_id(second, other)


def test_ids_rise_when_the_clock_steps_back() -> None:
    """A clock set back an hour does not bring an old id again."""
    times = iter([5000.0, 5000.0, 1400.0, 5000.001])
    source = IdSource(lambda: next(times), tag=7)

    ids = [source.next() for _ in range(4)]

    assert ids == sorted(set(ids))


def test_ids_start_above_what_the_store_holds() -> None:
    """After a restart with a slow clock, ids go on above the last committed one."""
    last, _ = decode_id(IdSource(lambda: 9000.0, tag=1).next())
    source = IdSource(lambda: 1.0, tag=2, last_number=last)

    number, tag = decode_id(source.next())

    assert (last + 1, 2) == (number, tag)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0" * 15,
        "0" * 17,
        "u" * 16,
        "0" * 15 + "!",
        "z" * 16,
        "0" * 15 + "é",
        "0" * 15 + "_",
        "0" * 15 + " ",
        "+" + "0" * 15,
        "0" * 15 + "i",
        "٣" * 16,
    ],
)
def test_what_is_no_id_is_refused(text: str) -> None:
    """Wrong length, characters that are not ours, or numbers beyond 63 bits are a ValueError."""
    with pytest.raises(ValueError, match="message id"):
        decode_id(text)
