# SPDX-License-Identifier: MIT
"""settle.decide: which reports a settlement owes because of NOTIFY, and the warning of a delay."""

import pytest
from msgspec.structs import replace
from tests.settle.test_decide import BUSY, NOW, OK, UNKNOWN, lease, out_of_time, result, retry_in_300, seqs, verdict

from smarthost.mail.envelope import Notify
from smarthost.mail.lease import Lease, LeasedRecipient
from smarthost.mail.record import Kind
from smarthost.mail.result import DsnDuty, Outcome, Verdict
from smarthost.mail.settlement import SettledRecipient, State
from smarthost.settle.decide import decide, expire, warn_of_delay

HOUR = 3600.0
WARNING = 4 * HOUR
DEFERRED = verdict(Outcome.DEFERRED, BUSY)


def asked(leased: Lease, notify: Notify, *, is_delay_told: bool = False) -> Lease:
    recipients = [
        replace(each, notify=notify, orcpt="rfc822;u@x.example", is_delay_told=is_delay_told)
        for each in leased.recipients
    ]
    return replace(leased, recipients=tuple(recipients))


def settle(leased: Lease, said: Verdict, delay_warning_s: float = WARNING) -> SettledRecipient:
    retry_at = retry_in_300
    settlement = decide(
        result(leased, said), now=NOW, retry_at=retry_at, next_seq=seqs(), delay_warning_s=delay_warning_s
    )
    return settlement.recipients[0]


@pytest.mark.parametrize(
    ("notify", "dsn", "owed"),
    [
        (Notify.UNSET, DsnDuty.RELAYED, False),
        (Notify.FAILURE | Notify.DELAY, DsnDuty.RELAYED, False),
        (Notify.NEVER, DsnDuty.RELAYED, False),
        (Notify.SUCCESS, DsnDuty.RELAYED, True),
        (Notify.SUCCESS, DsnDuty.DELIVERED, True),
        (Notify.SUCCESS, DsnDuty.PASSED_ON, False),
    ],
)
def test_success_is_owed_to_who_asked_for_it(notify: Notify, dsn: DsnDuty, owed: bool) -> None:
    """Relayed mail makes a report only if that was wished, and no host behind us fulfils the wish."""
    settled = settle(asked(lease(), notify), replace(verdict(Outcome.RELAYED, OK), dsn=dsn))

    assert (State.RELAYED, owed) == (settled.state, settled.report_owed)
    if owed:
        assert (dsn, notify, "rfc822;u@x.example") == (settled.dsn, settled.notify, settled.orcpt)


def test_never_is_never_even_for_a_bounce_and_an_expiry() -> None:
    """Who wants to hear nothing hears nothing."""
    never = asked(lease(age=5 * 24 * HOUR), Notify.NEVER)
    late = decide(result(never, DEFERRED), now=NOW, retry_at=out_of_time, next_seq=seqs()).recipients[0]

    assert not settle(never, verdict(Outcome.BOUNCED, UNKNOWN)).report_owed
    assert (State.EXPIRED, False) == (late.state, late.report_owed)
    assert not expire(never, now=NOW, next_seq=seqs()).recipients[0].report_owed


@pytest.mark.parametrize("outcome", [Outcome.DEFERRED, Outcome.POSTPONED])
@pytest.mark.parametrize(("age", "owed"), [(WARNING - 1, False), (WARNING, True), (9 * HOUR, True)])
def test_a_deferral_after_four_hours_owes_a_warning(outcome: Outcome, age: float, owed: bool) -> None:
    """The attempt that fails after four hours tells the sender so, also if no host could be asked."""
    settled = settle(lease(age=age), verdict(outcome, BUSY))

    assert (State.DEFERRED, owed, owed) == (settled.state, settled.report_owed, settled.is_delay_told)


def test_the_warning_is_owed_once() -> None:
    """The next deferrals say nothing more."""
    settled = settle(asked(lease(age=9 * HOUR), Notify.UNSET, is_delay_told=True), DEFERRED)

    assert (False, True) == (settled.report_owed, settled.is_delay_told)


@pytest.mark.parametrize("notify", [Notify.NEVER, Notify.FAILURE, Notify.SUCCESS])
def test_who_wants_no_warning_is_marked_and_not_asked_about_again(notify: Notify) -> None:
    """The sweep need not find these recipients each minute."""
    settled = settle(asked(lease(age=9 * HOUR), notify), DEFERRED)

    assert (False, True) == (settled.report_owed, settled.is_delay_told)


def test_no_warning_where_the_operator_wants_none() -> None:
    """A warning time of 0 turns it off."""
    settled = settle(lease(age=9 * HOUR), DEFERRED, delay_warning_s=0.0)

    assert (False, False) == (settled.report_owed, settled.is_delay_told)


def test_what_the_sweep_warns_of_stays_as_it_was() -> None:
    """Telling about a wait neither ends it nor moves the next attempt."""
    waiting = LeasedRecipient(
        3,
        "bob@example.net",
        "example.net",
        7,
        "450 4.2.0 try later",
        "4.2.0",
        due=NOW + 700.0,
        awaits_host=True,
        why="the host deferred",
        host="mx.example.net",
    )
    old = replace(lease(age=4 * HOUR + 5), recipients=(waiting,))

    settlement = warn_of_delay(old, now=NOW, next_seq=seqs(), why_waiting=lambda domain: "")

    (settled,), (record,) = settlement.recipients, settlement.records
    assert settled == SettledRecipient(
        3,
        "bob@example.net",
        "example.net",
        State.DEFERRED,
        NOW + 700.0,
        7,
        "4.2.0",
        "450 4.2.0 try later",
        "the host deferred",
        True,
        "mx.example.net",
        True,
        is_delay_told=True,
    )
    assert (Kind.CHANGED, NOW, 7, NOW + 700.0) == (record.kind, record.at, record.attempt, record.next_attempt_at)
    assert "not delivered for 4 hours, the sender is warned: the host deferred" == record.why


def test_the_sweep_names_what_a_destination_waits_for() -> None:
    """Mail that was never attempted since its hosts are broken says so."""
    old = lease(age=5 * HOUR)

    told = warn_of_delay(old, now=NOW, next_seq=seqs(), why_waiting=lambda domain: f"all hosts of {domain} are broken")
    untold = warn_of_delay(old, now=NOW, next_seq=seqs(), why_waiting=lambda domain: "")

    assert "all hosts of example.net are broken" == told.recipients[0].why
    assert "its turn has not come yet" == untold.recipients[0].why


@pytest.mark.parametrize(("reverse_path", "notify"), [("", Notify.UNSET), ("ann@example.org", Notify.NEVER)])
def test_the_sweep_marks_those_of_whom_nobody_wants_to_hear(reverse_path: str, notify: Notify) -> None:
    """They are passed over from then on, with a record that says why nobody was written to."""
    old = asked(lease(reverse_path=reverse_path, age=5 * HOUR), notify)

    settlement = warn_of_delay(old, now=NOW, next_seq=seqs(), why_waiting=lambda domain: "")

    settled = settlement.recipients[0]
    assert (State.DEFERRED, False, True) == (settled.state, settled.report_owed, settled.is_delay_told)
    assert "nobody wants to be warned" in settlement.records[0].why
