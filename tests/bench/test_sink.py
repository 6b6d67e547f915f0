# SPDX-License-Identifier: MIT
"""Counting at the sink: what smtp-sink prints, read from its end."""

import pytest
from bench.sink import read_counter


@pytest.mark.parametrize(
    ("tail", "count"),
    [
        (b"", 0),
        (b"sess=1 quit=0 mesg=0\r", 0),
        (b"sess=1 quit=0 mesg=1\rsess=1 quit=0 mesg=2\r", 2),
        (b"19 mesg=10000\rsess=5020 quit=5020 mesg=10001\r", 10001),
    ],
)
def test_last_counter_counts(tail: bytes, count: int) -> None:
    """The number of messages is the last one that smtp-sink printed."""
    assert read_counter(tail) == count


@pytest.mark.parametrize("cut", range(1, 22))
def test_half_written_counter_is_not_believed(cut: int) -> None:
    """A counter caught in the middle of its writing (mesg=1 of mesg=10000) never counts."""
    whole = b"sess=9 quit=9 mesg=10000\r"

    assert read_counter(b"sess=9 quit=9 mesg=9999\r" + whole[:-cut]) == 9999


def test_counter_cut_at_its_beginning_still_counts() -> None:
    """Reading starts anywhere in the output; what matters is the end."""
    assert read_counter(b"uit=9 mesg=41\rsess=9 quit=9 mesg=42\r") == 42
