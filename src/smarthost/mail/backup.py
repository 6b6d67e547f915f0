# SPDX-License-Identifier: MIT
"""What a copy of a queue knows about itself: that it is one. The store that keeps it starts paused. Values only."""

from msgspec import Struct

NOTE = "backup"  # the name under which the store of a copy keeps it


class BackupNote(Struct, frozen=True, gc=False):
    """When a copy was taken (wall seconds), by which release, and what was unfinished then."""

    at: float
    version: str = ""
    messages: int = 0
    recipients: int = 0


class Backup(Struct, frozen=True, gc=False):
    """A copy that is whole and durable; `octets` of all its files, `missing`: messages whose content was not there."""

    directory: str
    messages: int
    recipients: int
    octets: int
    missing: int = 0
