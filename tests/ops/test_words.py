# SPDX-License-Identifier: MIT
"""How people read times, sizes and strangers' text."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as some

from smarthost.ops import words


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("away", "said"),
    [
        (0, "now"), (0.4, "now"), (-0.4, "now"), (1, "in 1 s"), (119, "in 119 s"), (120, "in 2 min"),
        (-240, "4 min ago"),         (299.6, "in 5 min"), (7199, "in 120 min"),
        (7200, "in 2 h"), (-172800, "2 d ago"), (432000, "in 5 d"),
    ],
)  # fmt: skip
def test_times_are_told_from_now(away: float, said: str) -> None:
    """At three in the morning "in 4 min" is read faster than a date."""
    assert words.relative(1000.0 + away, 1000.0) == said


def test_local_times_carry_their_offset(in_berlin: None) -> None:
    """A local time cannot be taken for one of another zone, summer or winter."""
    assert words.local_time(1751371200.0) == "2025-07-01T14:00:00+02:00"
    assert words.local_time(1735732800.5) == "2025-01-01T13:00:00+01:00"
    assert words.iso_utc(1735732800.5) == "2025-01-01T12:00:00.500Z"


@pytest.mark.parametrize(
    ("octets", "said"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5120, "5.0 KiB"), (1 << 20, "1.0 MiB"), (3 << 30, "3.0 GiB")],
)
def test_sizes_are_told_in_their_unit(octets: int, said: str) -> None:
    """A size is short whatever it is."""
    assert words.size_words(octets) == said


def test_counts_agree_with_their_noun() -> None:
    """One message, two messages, 1,204 messages."""
    assert [words.count(number, "message") for number in (0, 1, 1204)] == ["0 messages", "1 message", "1,204 messages"]


@given(some.text())
def test_no_text_of_strangers_reaches_a_terminal_raw(text: str) -> None:
    """Escape sequences, newlines and text that runs backwards are shown, not obeyed."""
    assert words.printable(text).isprintable()


def test_what_terminals_obey_is_spelled_out() -> None:
    """A reply that would clear the screen is readable instead."""
    assert words.printable("a\x1b[2Jb\n\u202ec\u009b") == "a\\x1b[2Jb\\n\\u202ec\\x9b"
    assert words.printable("Grüße 邮件") == "Grüße 邮件"


@given(some.text())
def test_json_on_a_terminal_is_harmless_and_means_the_same(text: str) -> None:
    """What a terminal would obey is escaped within JSON as well; a program reads what it was."""
    line = words.json_line({"why": text})

    assert line.isprintable()
    assert json.loads(line) == {"why": text}


def test_json_keeps_readable_text_readable() -> None:
    """Only what cannot be shown is escaped, beyond the first 65,536 characters as two halves."""
    assert words.json_line("Grüße\x7f 邮件\U000e0001") == '"Grüße\\u007f 邮件\\udb40\\udc01"'


def test_a_time_in_full_says_how_far_away_it_is(in_berlin: None) -> None:
    """A date is checked against a log, a distance is understood at once; where there is no time JSON has null."""
    assert words.when(1751371200.0, 1751370960.0) == "2025-07-01T14:00:00+02:00 (in 4 min)"
    assert words.iso_or_null(1751371200.0) == "2025-07-01T12:00:00.000Z"
    assert words.iso_or_null(0.0) is None


def test_arguments_that_are_no_text_are_noticed() -> None:
    """Octets of a command line that are no UTF-8 arrive as half characters."""
    assert words.is_utf8("bücher.example")
    assert not words.is_utf8("b\udcff.example")


def test_columns_are_aligned_and_the_last_is_free() -> None:
    """Columns line up, a long cell moves only its own row, and no line ends in spaces."""
    assert words.aligned([("a", "b", "c"), ("longer", "", "")], (3, 2)) == ["a    b   c", "longer"]


def test_columns_are_as_wide_as_their_longest_cell() -> None:
    """Widths fit all rows, are never below what was wanted, and leave out the last column."""
    assert words.fitting([("a", "bbb", "last"), ("aaaaa", "b", "the very last")], (3, 2)) == (5, 3)
    assert words.fitting([], (3, 2)) == (3, 2)
