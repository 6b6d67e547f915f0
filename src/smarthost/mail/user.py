# SPDX-License-Identifier: MIT
"""A user who may submit mail, as the users file describes him."""

from msgspec import Struct


class User(Struct, frozen=True, gc=False):
    """Somebody who proved who he is, by a password or a certificate.

    `senders`: the reverse-paths he may use: addresses ("alice@example.org"), domains ("@example.org"), or "*" for any.
    The null path is for "*" alone. `messages_per_minute`, `recipients_per_minute`: None means no limit of his own.
    """

    name: str
    senders: tuple[str, ...] = ()
    messages_per_minute: int | None = None
    recipients_per_minute: int | None = None
