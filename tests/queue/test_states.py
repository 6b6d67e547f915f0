# SPDX-License-Identifier: MIT
"""queue.states: the table of recipient states, driven exhaustively."""

from itertools import product
from pathlib import Path

import pytest

from smarthost.mail.errors import LocalProtocolError
from smarthost.mail.settlement import State
from smarthost.queue.states import MOVES, TERMINAL, VERBS, Cause, QueueState, move, settle_wish, to_markdown

D, H, L = QueueState.DEFERRED, QueueState.HELD, QueueState.LEASED
R, B, E, C = QueueState.RELAYED, QueueState.BOUNCED, QueueState.EXPIRED, QueueState.CANCELLED

# Written down a second time on purpose: what design section 4 says, independent of MOVES. Rows as Cause is ordered.
EXPECTED: dict[QueueState, dict[Cause, QueueState]] = {
    D: {
        Cause.LEASE: L,
        Cause.EXPIRED: E,
        Cause.DAMAGED: H,
        Cause.RETRY: D,
        Cause.HOLD: H,
        Cause.CANCEL: C,
        Cause.BOUNCE: B,
        Cause.EXPIRE: E,
        Cause.REROUTE: D,
    },
    H: {
        Cause.LEASE: L,
        Cause.EXPIRED: E,
        Cause.RETRY: D,
        Cause.HOLD: H,
        Cause.RELEASE: D,
        Cause.CANCEL: C,
        Cause.BOUNCE: B,
        Cause.EXPIRE: E,
        Cause.REROUTE: H,
    },
    L: {
        Cause.GIVE_BACK: D,
        Cause.RELAYED: R,
        Cause.DEFERRED: D,
        Cause.POSTPONED: D,
        Cause.BOUNCED: B,
        Cause.EXPIRED: E,
        Cause.RETRY: L,
        Cause.HOLD: L,
        Cause.RELEASE: L,
        Cause.CANCEL: L,
        Cause.BOUNCE: L,
        Cause.EXPIRE: L,
        Cause.REROUTE: L,
    },
    R: {},
    B: {},
    E: {},
    C: {},
}


@pytest.mark.parametrize(("state", "cause"), list(product(QueueState, Cause)))
def test_every_state_and_cause_moves_as_the_design_says_or_is_refused(state: QueueState, cause: Cause) -> None:
    """Each pair of state and cause either leads where the design says or is called our bug in a sentence."""
    target = EXPECTED[state].get(cause)

    if target is not None:
        assert move(state, cause) is target
        return
    with pytest.raises(LocalProtocolError, match=rf"a {state.value} recipient .*{cause.value}"):
        move(state, cause)


def test_no_move_is_written_twice() -> None:
    """The table has one target for each state and cause."""
    keys = [(each.source, each.cause) for each in MOVES]

    assert len(keys) == len(set(keys))


def test_terminal_states_are_those_of_the_stored_vocabulary() -> None:
    """The table and the stored states agree on what is an end, and leased is the only state that is not stored."""
    assert {each.value for each in QueueState} == {each.value for each in State} | {"leased"}
    assert {each.value for each in TERMINAL} == {each.value for each in State if each.is_terminal}
    assert [each for each in QueueState if each.is_terminal] == list(TERMINAL)


def test_every_unfinished_state_can_expire() -> None:
    """Expiry works in every state, so that nothing is stuck for ever."""
    for state in (D, H, L):
        assert move(state, Cause.EXPIRED) is E


def test_only_a_leased_recipient_can_be_relayed() -> None:
    """Nothing is called delivered without an attempt."""
    assert [each.source for each in MOVES if each.target is R] == [L]


@pytest.mark.parametrize("wish", [None, *VERBS])
@pytest.mark.parametrize("verdict", [State.RELAYED, State.BOUNCED, State.EXPIRED])
def test_a_verdict_that_ends_the_recipient_wins_over_any_wish(verdict: State, wish: Cause | None) -> None:
    """Mail that was relayed while an operator cancelled it is relayed."""
    assert settle_wish(verdict, wish) is verdict


@pytest.mark.parametrize(
    ("wish", "state"),
    [
        (None, State.DEFERRED),
        (Cause.RETRY, State.DEFERRED),
        (Cause.RELEASE, State.DEFERRED),
        (Cause.HOLD, State.HELD),
        (Cause.CANCEL, State.CANCELLED),
        (Cause.BOUNCE, State.BOUNCED),
    ],
)
def test_a_deferral_gives_way_to_the_wish(wish: Cause | None, state: State) -> None:
    """A verb said while an attempt was under way takes effect when the attempt is deferred."""
    assert settle_wish(State.DEFERRED, wish) is state


@pytest.mark.parametrize(
    ("verdict", "wish"),
    [(State.DEFERRED, Cause.LEASE), (State.DEFERRED, Cause.RELAYED), (State.HELD, None), (State.CANCELLED, None)],
)
def test_a_wish_must_be_a_verb_and_a_verdict_an_outcome(verdict: State, wish: Cause | None) -> None:
    """What is no verb cannot be wished, and no attempt ends held or cancelled."""
    with pytest.raises(LocalProtocolError):
        settle_wish(verdict, wish)


def test_markdown_has_one_row_for_each_move_and_no_broken_cell() -> None:
    """The table in the documentation shows every move once."""
    lines = to_markdown().splitlines()

    assert lines[0] == "| from | by | to | when |"
    assert len(lines) == 3 + len(MOVES)
    assert all(line.count("|") == 5 for line in lines)
    assert "| deferred | lease | leased |" in to_markdown()


def test_architecture_page_shows_the_table_as_it_is() -> None:
    """The documentation's table of states is the code's, row for row."""
    page = (Path(__file__).parents[2] / "ARCHITECTURE.md").read_text(encoding="utf-8")

    if "| from | by | to | when |" not in page:
        pytest.skip("the table stands not yet below the marker in ARCHITECTURE.md: paste queue.states.to_markdown()")
    assert to_markdown() in page
