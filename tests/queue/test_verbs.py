# SPDX-License-Identifier: MIT
"""What a verb makes of each state, and the numbers and cursors of stores."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from smarthost.mail.address import Domain, scope_domain
from smarthost.mail.envelope import Notify
from smarthost.mail.identity import IdSource, decode_id, encode_id
from smarthost.mail.record import Kind, Record
from smarthost.mail.settlement import SettledRecipient, Settlement, State
from smarthost.queue.leases import Leases, Wish
from smarthost.queue.verbs import (
    Numbers,
    amend,
    check_verb,
    fold,
    fulfil,
    fulfil_all,
    is_in_domain,
    read_cursor,
    write_cursor,
)

NOW = 1_800_000_000.0
CANCEL, RETRY = Wish("cancel", NOW), Wish("retry", NOW)


def settled(state: State) -> SettledRecipient:
    return SettledRecipient(3, "a@b.example", "b.example", state, NOW + 99, 2, "4.4.1", "450 later", "greylisted", True)


@pytest.mark.parametrize("state", State)
def test_cancel_ends_whatever_has_not_ended(state: State) -> None:
    """Cancel ends waiting and held recipients, owes nobody a report, and writes the terminal record."""
    amended = amend("id", "s@o.example", settled(state), CANCEL, Numbers())

    if state.is_terminal:
        assert amended is None
        return
    assert amended is not None
    recipient, record = amended
    assert (recipient.state, recipient.due, recipient.report_owed, recipient.attempts) == (
        State.CANCELLED,
        0.0,
        False,
        2,
    )
    assert (record.kind, record.at, record.recipient, record.reverse_path) == (
        Kind.CANCELLED,
        NOW,
        "a@b.example",
        "s@o.example",
    )


@pytest.mark.parametrize("state", State)
def test_retry_makes_only_waiting_recipients_due(state: State) -> None:
    """Retry moves the next attempt to now and keeps what is known from the last."""
    amended = amend("id", "s@o.example", settled(state), RETRY, Numbers())

    if state is not State.DEFERRED:
        assert amended is None
        return
    assert amended is not None
    recipient, record = amended
    assert (recipient.state, recipient.due, recipient.status, recipient.why) == (
        State.DEFERRED,
        NOW,
        "4.4.1",
        "greylisted",
    )
    assert (record.kind, record.next_attempt_at) == (Kind.CHANGED, NOW)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("wish", [CANCEL, RETRY], ids=["cancel", "retry"])
def test_wish_changes_only_what_is_not_decided(state: State, wish: Wish) -> None:
    """A wish upon an attempt never changes a terminal verdict, and never takes the record's number or evidence."""
    record = Record(
        7, Kind.DEFERRED, NOW, "id", "a@b.example", reply="450 later", host="mx.example", next_attempt_at=NOW + 99
    )

    recipient, changed = fulfil(wish, settled(state), record)

    assert (changed.seq, changed.reply, changed.host) == (7, "450 later", "mx.example")
    if state.is_terminal or (state is State.HELD and wish is RETRY):
        assert (recipient, changed) == (settled(state), record)
    elif wish is CANCEL:
        assert (recipient.state, changed.kind, recipient.report_owed) == (State.CANCELLED, Kind.CANCELLED, False)
    else:
        assert (recipient.state, recipient.due, changed.next_attempt_at) == (State.DEFERRED, NOW, NOW)


def test_open_wishes_are_fulfilled_once_and_only_for_those_they_were_said_of() -> None:
    """Of a settlement for several recipients only the one an operator spoke of is changed."""
    leases, id = Leases(), encode_id(1, 5)
    recipients = tuple([replace(settled(State.DEFERRED), n=n, awaits_host=True) for n in range(2)])
    records = tuple([Record(n, Kind.DEFERRED, NOW, id, next_attempt_at=NOW + 99) for n in range(2)])
    settlement = Settlement(id, recipients, records)
    for n in range(2):
        leases.take(id, 1, n, "b.example")
    leases.wish(id, 1, RETRY)

    fulfilled = fulfil_all(settlement, leases)

    assert fulfilled.recipients == (recipients[0], replace(recipients[1], due=NOW))
    assert fulfilled.records == (records[0], replace(records[1], next_attempt_at=NOW))
    assert fulfil_all(settlement, leases) == settlement


def test_retry_leaves_alone_what_is_awaited() -> None:
    """An operator's retry does not make mail forget that it waits for a host."""
    amended = amend("id", "s@o.example", replace(settled(State.DEFERRED), awaits_host=True), RETRY, Numbers())

    assert amended is not None
    assert amended[0].awaits_host


def test_unknown_verb_names_those_known() -> None:
    """An operator who mistypes a verb is told which there are."""
    with pytest.raises(ValueError, match="retry, hold, release, cancel"):
        check_verb("delete")


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 3)), max_size=60))
def test_own_numbers_rise_and_never_meet_those_of_an_id_source(steps: list[tuple[bool, float]]) -> None:
    """Records the store numbers itself rise above everything seen, and no message ever gets their number."""
    now = NOW
    numbers = Numbers()
    source = IdSource(lambda: now, 5)
    given_out: list[int] = []
    for is_own, pause in steps:
        now += pause if pause > 1 else 0.0
        if is_own:
            before = numbers.highest
            number = numbers.draw(now)
            assert number > before
        else:
            number = decode_id(source.next())[0]
            numbers.saw(number)
        given_out.append(number)

    assert len(set(given_out)) == len(given_out)
    restarted = IdSource(lambda: NOW, 6, numbers.last_for_ids())
    assert decode_id(restarted.next())[0] > max(given_out, default=0)
    assert numbers.draw(NOW) not in {decode_id(restarted.next())[0] for _ in range(5)}


def test_numbers_come_from_their_source_when_there_is_one() -> None:
    """With one source for all records, a reader by cursor misses none."""
    numbers = Numbers()
    numbers.source = iter([10, 11]).__next__

    assert [numbers.draw(NOW), numbers.draw(NOW)] == [10, 11]
    assert numbers.last_for_ids() == 11


@given(st.lists(st.integers(0, (1 << 63) - 1), min_size=2, max_size=2))
def test_cursor_comes_back(pair: list[int]) -> None:
    """A cursor says where to go on."""
    assert read_cursor(write_cursor(*pair), 2) == tuple(pair)


@given(st.text())
def test_damaged_cursor_is_a_value_error(text: str) -> None:
    """Any text is a cursor or a ValueError."""
    try:
        found = read_cursor(text, 2)
    except ValueError:
        return
    assert len(found) == 2
    assert all(0 <= number < 1 << 63 for number in found)


def test_fold_knows_ascii_only() -> None:
    """Addresses compare without case as SQLite compares them: letters beyond ASCII stay as written."""
    assert fold("A.B@C.example") == "a.b@c.example"
    assert fold("ÄB@x.example") == "Äb@x.example"


@pytest.mark.parametrize(
    ("domain", "wanted", "expected"),
    [
        ("dest.example", "dest.example", True),
        ("dest.example", "Dest.EXAMPLE", True),
        (scope_domain(Domain("dest.example"), "@corp.example"), "DEST.example", True),
        (scope_domain(Domain("dest.example"), "@corp.example"), "dest.example from @corp.example", True),
        (scope_domain(Domain("dest.example"), "@corp.example"), "dest.example from @corp", False),
        (scope_domain(Domain("dest.example"), "@corp.example"), "corp.example", False),
        ("dest.example", "dest.example from @corp.example", False),
        ("dest.example.org", "dest.example", False),
        ("a.dest.example", "dest.example", False),
    ],
)
def test_domain_means_what_is_filed_under_it(domain: str, wanted: str, expected: bool) -> None:
    """An operator names a domain as people do, and need not know how mail of some senders is kept apart."""
    assert is_in_domain(domain, wanted) is expected


@pytest.mark.parametrize("verb", [CANCEL, RETRY])
def test_verb_keeps_what_was_asked_for_and_told(verb: Wish) -> None:
    """An operator's word changes nothing about what the sender asked for, and tells nobody of a delay."""
    current = replace(settled(State.DEFERRED), notify=Notify.DELAY, orcpt="rfc822;a", is_delay_told=True)

    amended = amend("0" * 16, "s@x.example", current, verb, Numbers())

    assert amended is not None
    assert (amended[0].notify, amended[0].orcpt, amended[0].is_delay_told) == (Notify.DELAY, "rfc822;a", True)
    assert not amended[0].report_owed
