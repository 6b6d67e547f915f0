# SPDX-License-Identifier: MIT
"""The programmatic door: library callers, `smarthost send` and DSNs hand mail in as code, without an SMTP session.

The same duties as reception: durable before a receipt, Received: prepended, loops refused. Who may call it is decided by
whoever holds the door (the control socket checks peer credentials). A crash before the commit leaves nothing.
"""

import asyncio
from collections.abc import Callable, Sequence

from msgspec import Struct

from smarthost.accept import replies, trace
from smarthost.mail.content import InlineContent
from smarthost.mail.envelope import NULL_REVERSE_PATH, Body, Envelope
from smarthost.mail.errors import RemoteProtocolError, SubmissionRefused
from smarthost.mail.message import Message
from smarthost.mail.reply import reply
from smarthost.ports import Clock
from smarthost.smtp import grammar
from smarthost.smtp.limits import Limits
"""TODO"""


class Receipt(Struct, frozen=True):
    """Proof that a message is durable: its id."""

    id: str
