# SPDX-License-Identifier: MIT
"""settle.notify: who is owed a report."""

import pytest

from smarthost.mail.envelope import Notify
from smarthost.mail.result import DsnDuty
from smarthost.mail.settlement import State
from smarthost.settle.notify import is_report_owed

ANN = "ann@example.org"
ALL = Notify.SUCCESS | Notify.FAILURE | Notify.DELAY


@pytest.mark.parametrize("notify", [Notify.UNSET, ALL])
@pytest.mark.parametrize("state", State)
def test_null_reverse_path_is_never_owed_a_report(state: State, notify: Notify) -> None:
    """A report about a report would go round for ever."""
    assert not is_report_owed("", state, notify)


@pytest.mark.parametrize(
    ("notify", "told"),
    [
        (Notify.UNSET, {State.BOUNCED, State.EXPIRED, State.DEFERRED, State.HELD}),
        (Notify.NEVER, set()),
        (Notify.SUCCESS, {State.RELAYED}),
        (Notify.FAILURE, {State.BOUNCED, State.EXPIRED}),
        (Notify.DELAY, {State.DEFERRED, State.HELD}),
        (Notify.SUCCESS | Notify.FAILURE, {State.RELAYED, State.BOUNCED, State.EXPIRED}),
        (ALL, {State.RELAYED, State.BOUNCED, State.EXPIRED, State.DEFERRED, State.HELD}),
    ],
)
def test_who_asked_is_told_what_he_asked_for(notify: Notify, told: set[State]) -> None:
    """NOTIFY says it; without it failure and delay are reported, never success; what an operator drops is silent."""
    assert told == {state for state in State if is_report_owed(ANN, state, notify)}


@pytest.mark.parametrize(
    ("dsn", "owed"), [(DsnDuty.RELAYED, True), (DsnDuty.DELIVERED, True), (DsnDuty.PASSED_ON, False)]
)
def test_success_is_told_once_by_whoever_is_last(dsn: DsnDuty, owed: bool) -> None:
    """A host that took the wish with the mail fulfils it; else we do."""
    assert is_report_owed(ANN, State.RELAYED, Notify.SUCCESS, dsn) is owed


def test_a_failure_is_ours_to_tell_whatever_the_host_offers() -> None:
    """What a DSN host refuses it has not taken: the report is ours."""
    assert is_report_owed(ANN, State.BOUNCED, Notify.FAILURE, DsnDuty.PASSED_ON)
