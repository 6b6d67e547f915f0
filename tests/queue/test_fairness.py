# SPDX-License-Identifier: MIT
"""Lanes: windows and turns."""

import pytest

from smarthost.queue.fairness import Lane


def test_a_lane_opens_no_more_slots_than_its_window() -> None:
    """With a window of two, the third slot has to wait until one is given back."""
    lane = Lane("mx.example", window=2)
    lane.want("a.example")

    started = [lane.start(), lane.start(), lane.start()]
    lane.finish()

    assert [True, True, False] == started
    assert lane.start()


def test_no_slot_starts_when_nobody_wants_a_turn() -> None:
    """A lane without work opens nothing."""
    lane = Lane("mx.example", window=2)

    assert not lane.start()
    assert lane.turn() is None
    assert lane.is_idle


def test_destinations_take_turns() -> None:
    """Three domains at one provider are served one after the other, however much one of them has."""
    lane = Lane("mx.example", window=1)
    for destination in ("a.example", "b.example", "c.example", "a.example"):
        lane.want(destination)

    turns = [lane.turn() for _ in range(6)]

    assert ["a.example", "b.example", "c.example"] * 2 == turns


def test_who_leaves_gets_no_more_turns() -> None:
    """A destination without work is passed over; leaving twice is harmless."""
    lane = Lane("mx.example", window=1)
    lane.want("a.example")
    lane.want("b.example")
    lane.leave("a.example")
    lane.leave("a.example")

    assert ["b.example"] * 3 == [lane.turn() for _ in range(3)]


def test_a_slot_is_given_back_once() -> None:
    """Giving back a slot nobody took is a bug, and says so."""
    with pytest.raises(AssertionError, match="once"):
        Lane("mx.example", window=1).finish()
