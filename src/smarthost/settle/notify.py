# SPDX-License-Identifier: MIT
"""Who is owed which report.

Pure; asked by settle.decide for each recipient that failed. The default of RFC 3461 4.1 without NOTIFY: failures are
reported, success is not. The NOTIFY parameter and the delay warning will be decided here.
"""

from smarthost.mail.envelope import NULL_REVERSE_PATH
from smarthost.mail.settlement import State


def is_report_owed(reverse_path: str, state: State) -> bool:
    """Is a DSN due to `reverse_path` for a recipient that ended in `state`?

    Never for the null reverse-path: a report about a report could go round for ever (RFC 5321 4.5.5, 6.1). A cancelled
    recipient is silent: the operator decided, and sees the record.
    """
    if reverse_path == NULL_REVERSE_PATH:
        return False
    return state is State.BOUNCED or state is State.EXPIRED
