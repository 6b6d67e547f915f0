# SPDX-License-Identifier: MIT
"""What became of a message, recipient by recipient: what `smarthost why`, the API and the page tell. Values only.

Built by `stories.py` from what the store, the feed, the lanes and the hosts say of themselves: nothing is guessed a
second time. Times are wall seconds, 0.0 where there is none. All texts may hold what strangers wrote.
"""

from enum import Enum

from msgspec import Struct

from smarthost.mail.record import Record


class Cause(Enum):
    """What an unfinished recipient waits for."""

    ATTEMPT = "attempt"  # it is being tried now
    TURN = "turn"  # it is due, and waits for a slot or for its turn among others of its destination
    LANE = "lane"  # it is due, and its lane has no free session
    RETRY_TIME = "retry time"  # a deferral: its next attempt is scheduled
    HOST_HEALTH = "host health"  # its hosts are known as broken; it goes when one works, or at its time
    ROUTING = "routing"  # its destination could not be planned
    SUSPENSION = "suspension"  # an operator suspended its destination or sender
    HOLD = "hold"  # an operator holds it
    DAMAGE = "damage"  # it was found damaged
    PAUSE = "pause"  # all delivery is paused
    DRAIN = "drain"  # the queue is being moved to another node
    STORE = "store"  # the disk is in trouble, or what happened is not yet durable


class Waiting(Struct, frozen=True):
    """Why a recipient is where it is.

    `why`: one sentence; `evidence`: the last reply or error, `set_by`: who or what set it (a lane, an operator, the
    schedule), `since`: since when. `next_step`: what happens next, in words; `next_at`: when at the latest.
    `unblocked_by`: the commands that would let it go sooner.
    """

    cause: Cause
    why: str
    next_step: str
    next_at: float = 0.0
    evidence: str = ""
    set_by: str = ""
    since: float = 0.0
    unblocked_by: tuple[str, ...] = ()


class RecipientStory(Struct, frozen=True):
    """One recipient: `waiting` while it is unfinished, `ended` (its terminal record) afterwards.

    Both None: it has ended, and its last record is forgotten already.
    """

    address: str
    state: str  # deferred, held, leased; relayed, bounced, expired, cancelled, moved; "forgotten"
    attempts: int = 0
    destination: str = ""
    lane: str = ""
    waiting: Waiting | None = None
    ended: Record | None = None


class Story(Struct, frozen=True):
    """One message. `timeline`: its records, oldest first, cut to the newest if `is_cut`.

    `is_queued`: something of it is still in the queue. What is no more known of a message that has gone is "" or 0.
    """

    id: str
    received_at: float
    reverse_path: str
    octets: int
    client: str
    is_queued: bool
    recipients: tuple[RecipientStory, ...]
    timeline: tuple[Record, ...]
    user: str = ""
    message_id: str = ""  # of its header section, with angle brackets
    is_cut: bool = False


class Count(Struct, frozen=True):
    """How many recipients are waiting under one name, and since when the oldest (received_at)."""

    name: str
    recipients: int
    oldest_at: float
    oldest_id: str
    due: int = 0  # of them: their time has come
    held: int = 0


class Summary(Struct, frozen=True):
    """The queue in figures; each list most recipients first, at most `n` names. `is_whole`: nothing was left out."""

    messages: int
    recipients: int
    oldest_at: float
    by_destination: tuple[Count, ...]
    by_sender: tuple[Count, ...]
    by_reason: tuple[Count, ...]
    is_whole: bool = True


class Suspension(Struct, frozen=True):
    """What an operator suspended: a destination ("example.org") or a sender ("ann@example.org", "user:ann")."""

    what: str
    by: str
    reason: str
    since: float
