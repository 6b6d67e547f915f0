# SPDX-License-Identifier: MIT
"""What a message brings along that another node had before: where it came from, and how far its recipients had come.

Values only. smtp.transfer writes them on the wire, accept.transfers judges them, every Store files them.
"""

from enum import Enum

from msgspec import Struct

from smarthost.mail.settlement import State


class Origin(Struct, frozen=True, gc=False):
    """When (wall seconds) and from whom the first node took a message; fields as in mail.message.Message."""

    received_at: float
    client: str
    sender: str
    user: str = ""


class Progress(Struct, frozen=True, gc=False):
    """How far a recipient has come: DEFERRED or HELD; fields as in mail.settlement.SettledRecipient.

    What awaits a host elsewhere awaits none here: hosts are remembered by each node for itself.
    """

    state: State
    due: float
    attempts: int = 0
    status: str = ""
    last_reply: str = ""
    why: str = ""
    host: str = ""
    is_delay_told: bool = False


# What becomes of a queue that an operator moves to another node


class Moving(Struct, frozen=True, gc=False):
    """How far it is: messages moved; messages in the queue when they were last counted; what is waited for, or ""."""

    moved: int
    left: int
    waits_for: str = ""


class Staying(Struct, frozen=True, gc=False):
    """A message of which something stays here: which recipients, and why."""

    id: str
    recipients: tuple[str, ...]
    why: str


class DrainOutcome(Enum):
    """How it ended."""

    DRAINED = "drained"  # the queue is empty
    PARTLY = "partly"  # something stays, and was named
    BROKEN_OFF = "broken off"  # the other node does not answer, or refuses everything
    NOT_OFFERED = "not offered"  # the other node does not take queues from us; nothing was moved
    CANCELLED = "cancelled"  # an operator wanted it to end


class DrainEnd(Struct, frozen=True, gc=False):
    """What became of it: messages moved and messages left here, and one sentence where it did not go well."""

    outcome: DrainOutcome
    moved: int
    left: int
    why: str = ""
