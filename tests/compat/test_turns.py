# SPDX-License-Identifier: MIT
"""Whose turn it is: pauses grow and end, places are shared, and nothing is counted twice."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from smarthost.compat.turns import Pauses, Turns


def make(clock: Clock) -> Turns:
    return Turns(Pauses(clock.seconds, lambda: (5.0, 600.0)))


def answer(turns: Turns, domain: str, was_answered: bool | None = True) -> bool:
    turns.began(domain)
    return turns.ended(domain, was_answered)


def test_a_pause_doubles_up_to_the_longest_and_ends_with_an_answer() -> None:
    """5 s, 10 s ... 10 minutes; whoever answers is asked again at once."""
    clock = Clock()
    pauses = Pauses(clock.seconds, lambda: (5.0, 600.0))
    lengths = []
    for _ in range(9):
        pauses.failed("a")
        lengths.append(pauses.left_s("a"))
        clock.advance(lengths[-1])
        assert pauses.left_s("a") == 0.0
        assert "a" in pauses

    assert lengths == [5, 10, 20, 40, 80, 160, 320, 600, 600]
    assert (pauses.answered("a"), pauses.answered("a")) == (True, False)
    pauses.failed("a")
    assert pauses.left_s("a") == 5.0


def test_who_answers_takes_turns() -> None:
    """Of two with mail at any time, none has two turns running."""
    turns = make(Clock())
    for domain in ("a", "b"):
        answer(turns, domain)

    served = []
    for _ in range(6):
        (chosen,) = turns.choose(["a", "b"], 1, 1)
        served.append(chosen)
        answer(turns, chosen)

    assert served == ["a", "b"] * 3


def test_who_has_fewer_connections_comes_first() -> None:
    """A domain gets its second one after everybody had one."""
    turns = make(Clock())
    for domain in ("a", "b"):
        answer(turns, domain)
    turns.began("a")

    assert turns.choose(["a", "b"], 1, 4) == ["b"]


def test_only_who_failed_before_has_recovered() -> None:
    """What awaited a host is released once, not with each session."""
    turns = make(Clock())

    assert answer(turns, "a") is False
    assert answer(turns, "a", was_answered=False) is False
    assert answer(turns, "a", was_answered=None) is False
    assert answer(turns, "a") is True
    assert answer(turns, "a") is False


def test_a_domain_whose_host_works_is_left_alone_no_longer() -> None:
    """Somebody else's session with it tells."""
    turns = make(Clock())
    answer(turns, "a", was_answered=False)
    assert not turns.may_have("a")

    turns.answered("a")

    assert turns.may_have("a")


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from([True, False, None])), max_size=40), st.data())
def test_choices_are_few_different_and_allowed(past: list[tuple[str, bool | None]], drawn: st.DataObject) -> None:
    """Whatever happened, no more than are free are chosen, each once; and one is, if any may have one."""
    clock = Clock()
    turns = make(clock)
    for domain, was_answered in past:
        clock.advance(1)
        answer(turns, domain, was_answered)
    places = drawn.draw(st.integers(1, 8))
    free = drawn.draw(st.integers(0, places))
    able = [domain for domain in "abcdefgh" if turns.may_have(domain)]

    chosen = turns.choose(able, free, places)

    assert len(chosen) == len(set(chosen)) <= free
    assert set(chosen) <= set(able)
    assert chosen or not (able and free)
