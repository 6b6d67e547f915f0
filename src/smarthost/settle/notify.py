# SPDX-License-Identifier: MIT
"""Who is owed which report (RFC 3461 4.1, 5.2).

Pure; asked by settle.decide for each recipient that failed, waits for too long, or was relayed with NOTIFY given; and
again by settle.dsn when the report is written, since a recipient may have gone on meanwhile. Without NOTIFY: failure
and delay, never success. When a wait is too long is the caller's to know.
"""

from smarthost.mail.envelope import NULL_REVERSE_PATH, Notify
from smarthost.mail.result import DsnDuty
from smarthost.mail.settlement import State

_FAILURES = (State.BOUNCED, State.EXPIRED)
_WAITING = (State.DEFERRED, State.HELD)


def is_report_owed(
    reverse_path: str, state: State, notify: Notify = Notify.UNSET, dsn: DsnDuty = DsnDuty.RELAYED
) -> bool:
    """Is a DSN due to `reverse_path` for a recipient in this state: of failure, of success, or that it waits?

    Never for the null reverse-path: a report about a report could go round for ever (RFC 5321 4.5.5, 6.1). A cancelled
    recipient is silent: the operator decided, and sees the record. Success is ours to report only if the host that took
    the mail does not do it (`dsn`; RFC 3461 5.2.1, 5.2.2).
    """
    if reverse_path == NULL_REVERSE_PATH:
        return False
    if state in _FAILURES:
        return not notify or Notify.FAILURE in notify
    if state in _WAITING:
        return not notify or Notify.DELAY in notify
    return state is State.RELAYED and Notify.SUCCESS in notify and dsn is not DsnDuty.PASSED_ON
