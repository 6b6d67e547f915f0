# SPDX-License-Identifier: MIT
"""Lanes: windows and turns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smarthost.queue.fairness import UNPROVEN_WINDOW, Lane, Slots


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


def wanting(slots: Slots, name: str) -> Lane:
    lane = slots.lane(name)
    lane.want(f"destination of {name}")
    return lane


def test_lanes_nobody_has_heard_of_leave_a_quarter_to_those_that_work() -> None:
    """A thousand dead sites take what they may; a site known to work has its slots at once."""
    slots = Slots(8, 20)
    known = wanting(slots, "known")
    slots.prove(known)
    dead = [wanting(slots, f"dead {n}") for n in range(20)]

    started = [slots.take(lane) for lane in dead]

    assert 6 == sum(started)
    assert slots.take(known)
    assert slots.take(known)
    assert not slots.take(known), "eight are eight"


def test_a_lane_nobody_has_heard_of_begins_with_few_sessions() -> None:
    """Five sessions find out whether anybody is there; then all twenty."""
    slots = Slots(100, 20)
    lane = wanting(slots, "new")

    before = sum(slots.take(lane) for _ in range(30))
    slots.prove(lane)
    after = sum(slots.take(lane) for _ in range(30))

    assert (UNPROVEN_WINDOW, 20 - UNPROVEN_WINDOW) == (before, after)


def test_both_kinds_of_lanes_have_their_turns() -> None:
    """Neither those that work nor the unknown wait for ever while all slots are taken."""
    slots = Slots(2, 2)
    busy = wanting(slots, "busy")
    slots.prove(busy)
    assert slots.take(busy)
    assert slots.take(busy)
    waiting = {name: wanting(slots, name) for name in ("new", "known", "new 2")}
    slots.prove(waiting["known"])
    for lane in waiting.values():
        slots.take(lane)

    turns = []
    for _ in range(3):
        assert slots.must_yield(busy)
        slots.give_back(busy)
        turn = slots.next_waiting()
        assert turn is not None
        turns.append(turn.name)
        assert slots.take(busy)

    assert {"new", "known"} <= set(turns)


def test_a_lane_whose_hosts_are_all_broken_is_doubted_again() -> None:
    """What a site once proved does not count while all its hosts are broken; its slots are counted anew."""
    slots = Slots(4, 4)
    lane = wanting(slots, "was good")
    slots.prove(lane)
    for _ in range(4):
        assert slots.take(lane)

    slots.doubt(lane)
    for _ in range(2):
        slots.give_back(lane)

    assert slots.take(lane)
    assert not slots.take(lane), "three of four are doubtful now"
    while lane.active:
        slots.give_back(lane)
    assert slots.is_idle


def test_a_lane_that_breaks_while_it_waits_stops_nobody() -> None:
    """A lane that waits among the proven and is doubted then waits among the doubtful; the proven behind it go on."""
    slots = Slots(8, 20)
    breaks, goes_on = wanting(slots, "breaks"), wanting(slots, "goes on")
    for lane in (breaks, goes_on):
        slots.prove(lane)
        assert slots.take(lane)
    for n in range(6):
        assert slots.take(wanting(slots, f"dead {n}"))
    assert not slots.take(breaks)

    slots.doubt(breaks)
    assert slots.must_yield(goes_on)
    slots.give_back(goes_on)

    assert slots.next_waiting() is goes_on


def test_a_proof_outlives_the_lane() -> None:
    """A site that writes once an hour is known the next time; of ten thousand the oldest are forgotten."""
    slots = Slots(4, 4)
    slots.prove(slots.lane("known"))

    assert slots.lane("known").is_proven
    for n in range(10_000):
        slots.prove(slots.lane(f"other {n}"))
    assert not slots.lane("known").is_proven


@given(st.lists(st.tuples(st.sampled_from(["take", "end", "prove", "doubt"]), st.integers(0, 4)), max_size=60))
def test_slots_are_counted_right_whatever_happens(steps: list[tuple[str, int]]) -> None:
    """Never more than there are, and none is left when all have ended."""
    slots = Slots(6, 3)
    lanes = [wanting(slots, str(n)) for n in range(5)]
    for what, n in steps:
        lane = lanes[n]
        if what == "take":
            slots.take(lane)
        elif what == "end" and lane.active:
            slots.give_back(lane)
        elif what == "prove":
            slots.prove(lane)
        elif what == "doubt":
            slots.doubt(lane)
        assert sum(each.active for each in lanes) <= 6

    for lane in lanes:
        while lane.active:
            slots.give_back(lane)
    assert slots.is_idle
    assert 0 == slots._doubtful
