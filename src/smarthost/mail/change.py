# SPDX-License-Identifier: MIT
"""What another configuration would change: settings, and the ways of mail in the queue. Values only; no secrets."""

from msgspec import Struct

NOT_SHOWN = "not shown"


class Change(Struct, frozen=True):
    """A setting that differs. `key` is where it stands in the new file (what is gone: in the old), `of` whose it is.

    `field`: the field of Config that it belongs to. Of a secret that is another one `before` and `after` are NOT_SHOWN.
    """

    key: str
    field: str
    before: str
    after: str
    of: str = ""

    def __str__(self) -> str:
        whose = f" ({self.of})" if self.of else ""
        if self.after == NOT_SHOWN:
            return f"{self.key}{whose}: changed ({NOT_SHOWN})"
        return f"{self.key}{whose}: {self.before} -> {self.after}"


class OtherWay(Struct, frozen=True):
    """So many unfinished recipients that would go another way."""

    before: str
    after: str
    recipients: int


class Effects(Struct, frozen=True):
    """How many of the unfinished `recipients` in the queue would go another way, by other limits, with other TLS.

    `ways`: the most frequent first, not all of them.
    """

    recipients: int = 0
    other_route: int = 0
    other_limit: int = 0
    other_tls: int = 0
    ways: tuple[OtherWay, ...] = ()
