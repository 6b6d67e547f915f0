# SPDX-License-Identifier: MIT
"""A message from another node's queue, as its operator moves it here (smtp.transfer): what is refused, what it becomes.

Pure. Who may hand over a queue is decided by accept.standing. The message goes on as it was: received when and from
whom the first node says, each recipient with its schedule; no rate counts it, nothing of it is signed or added to but
the Received field of this hop. Times are believed within bounds, for they decide when mail is given up.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from smarthost.accept import replies
from smarthost.mail.address import Address
from smarthost.mail.message import Message
from smarthost.mail.progress import Origin, Progress
from smarthost.mail.reply import Reply, reply

_DAY_S = 86_400.0
RECEIVED_AHEAD_S = _DAY_S  # two clocks may differ; by more, one of them is wrong, and mail would outlive its time
DUE_AHEAD_S = 366 * _DAY_S  # a hold lasts 30 days, an operator may choose longer ones; beyond a year it is an error

FROM_THE_FUTURE = reply(550, "5.5.4", "The message was received in the future: look at the clocks of both nodes")
DUE_TOO_LATE = reply(550, "5.5.4", "A recipient is due in more than a year: look at the clocks of both nodes")


def refuse_origin(origin: Origin, now: float) -> Reply | None:
    """Refuse a message for what it says of itself, or give None; `now`: wall seconds."""
    return FROM_THE_FUTURE if origin.received_at > now + RECEIVED_AHEAD_S else None


def refuse_progress(recipient: Address, progress: Progress, now: float) -> Reply | None:
    """Refuse a recipient, or give None."""
    if not recipient.domain:
        return replies.NO_DOMAIN
    return DUE_TOO_LATE if progress.due > now + DUE_AHEAD_S else None


def carry_on(message: Message, origin: Origin, progress: Sequence[Progress]) -> Message:
    """Give the message as it goes on here; `message` has everything of this hop: id, Received field, content."""
    return replace(
        message,
        received_at=origin.received_at,
        client=origin.client,
        sender=origin.sender,
        user=origin.user,
        signs=(),
        progress=tuple(progress),
    )
