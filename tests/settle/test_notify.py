# SPDX-License-Identifier: MIT
"""settle.notify: who is owed a report."""

import pytest

from smarthost.mail.settlement import State
from smarthost.settle.notify import is_report_owed


@pytest.mark.parametrize("state", State)
def test_null_reverse_path_is_never_owed_a_report(state: State) -> None:
    """A report about a report would go round for ever."""
    assert not is_report_owed("", state)


@pytest.mark.parametrize(
    ("state", "owed"),
    [
        (State.DEFERRED, False),
        (State.HELD, False),
        (State.RELAYED, False),
        (State.BOUNCED, True),
        (State.EXPIRED, True),
        (State.CANCELLED, False),
    ],
)
def test_only_failures_are_reported(state: State, owed: bool) -> None:
    """The sender hears of what failed; not of what was relayed, waits, or was dropped by an operator."""
    assert is_report_owed("alice@example.org", state) is owed


def test_every_state_is_decided() -> None:
    """No state is left undecided when one is added."""
    assert len(State) == 6
