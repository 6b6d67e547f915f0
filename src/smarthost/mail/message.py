# SPDX-License-Identifier: MIT
"""A message as reception hands it to the store."""

from msgspec import Struct

from smarthost.mail.content import Content
from smarthost.mail.envelope import Envelope
from smarthost.mail.progress import Progress


class Message(Struct, frozen=True, gc=False):
    """One accepted message.

    `prefix` is what we put before the content (Received: and, in submission, Date and Message-ID), kept apart from the
    content, which stays as received. `client` says who handed it to us (an address literal, or "local"); `sender` is
    the key fairness counts by (authenticated user, else reverse-path, else client).
    `message_id`: of its header section (or of what we put before it), with its angle brackets, or "".
    `user`: who logged in to hand it to us, or "". `signs`: whose names DKIM may sign for: those that
    he who handed it to us may use, as addresses, "@domain", or "*" for any; () for a stranger's mail.
    `progress`: () for new mail; else another node had it before, and this is how far each recipient has come.
    """

    id: str
    received_at: float
    envelope: Envelope
    prefix: bytes
    content: Content
    client: str
    sender: str
    signs: tuple[str, ...] = ()
    user: str = ""
    progress: tuple[Progress, ...] = ()
    message_id: str = ""
