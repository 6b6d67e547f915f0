# SPDX-License-Identifier: MIT
"""How a command ends: sysexits, and which of our errors means which. Every command of ops ends through here."""

from smarthost.mail.errors import ConfigError, SmarthostError, StoreError, StoreLocked, SubmissionRefused
from smarthost.mail.reply import Reply

OK = 0
USAGE = 64
BAD_INPUT = 65
NO_INPUT = 66
UNAVAILABLE = 69
SOFTWARE = 70
CANNOT_CREATE = 73
IO_ERROR = 74
TEMPORARY = 75
NO_PERMISSION = 77
CONFIG = 78

_ADDRESS_CODES = frozenset({501, 553, 555})  # what was said is malformed (RFC 5321 4.2.3)


class CommandFailed(Exception):
    """A command cannot go on: one line for the operator, and the exit code. Caught by cli alone."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class NotReloaded(Exception):
    """Another configuration cannot hold, and nothing has changed; the text has a line for each error."""


def code_for_reply(reply: Reply) -> int:
    """Give the exit code of a submission that was refused with `reply`."""
    if reply.is_temporary:
        return TEMPORARY
    is_malformed = reply.code in _ADDRESS_CODES or reply.enhanced.startswith(("5.1.", "5.5.", "5.6."))
    return BAD_INPUT if is_malformed else UNAVAILABLE


def code_for(error: SmarthostError) -> int:
    """Give the exit code of one of our errors."""
    match error:
        case ConfigError():
            return CONFIG
        case StoreLocked():
            return CANNOT_CREATE
        case StoreError():
            return IO_ERROR
        case SubmissionRefused():
            return code_for_reply(error.reply)
    return SOFTWARE
