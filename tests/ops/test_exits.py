# SPDX-License-Identifier: MIT
"""Which of our errors means which exit code."""

import os

import pytest

from smarthost.mail.errors import (
    ConfigError,
    LocalProtocolError,
    SmarthostError,
    StoreError,
    StoreFull,
    StoreLocked,
    SubmissionRefused,
)
from smarthost.mail.reply import reply
from smarthost.ops import exits


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), os.EX_CONFIG),
        (StoreLocked("x"), os.EX_CANTCREAT),
        (StoreError("x"), os.EX_IOERR),
        (StoreFull("x"), os.EX_IOERR),
        (SubmissionRefused(reply(452, "4.3.1", "Later")), os.EX_TEMPFAIL),
        (LocalProtocolError("x"), os.EX_SOFTWARE),
    ],
)
def test_errors_have_their_exit_code(error: SmarthostError, code: int) -> None:
    """A script can tell a full disk from a wrong setting."""
    assert exits.code_for(error) == code


@pytest.mark.parametrize(
    ("code", "enhanced", "expected"),
    [
        (451, "4.3.0", os.EX_TEMPFAIL),
        (421, "", os.EX_TEMPFAIL),
        (501, "5.1.3", os.EX_DATAERR),
        (501, "", os.EX_DATAERR),
        (550, "5.6.11", os.EX_DATAERR),
        (550, "5.7.1", os.EX_UNAVAILABLE),
        (552, "5.3.4", os.EX_UNAVAILABLE),
        (554, "", os.EX_UNAVAILABLE),
    ],
)
def test_refusals_say_whether_to_try_again(code: int, enhanced: str, expected: int) -> None:
    """75 means try again, 65 mend the message, 69 give up."""
    assert exits.code_for_reply(reply(code, enhanced, "No")) == expected
