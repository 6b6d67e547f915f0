# SPDX-License-Identifier: MIT
"""Records: what happened, kept: to a recipient of a message, or to a host. The field names are stable."""

from enum import Enum

import msgspec
from msgspec import Struct


class Kind(Enum):
    """The kinds of record.

    Of RELAYED, BOUNCED, EXPIRED, CANCELLED and MOVED exactly one is written for each recipient.
    """

    ACCEPTED = "accepted"
    DEFERRED = "deferred"
    POSTPONED = "postponed"
    CHANGED = "changed"
    REPORTED = "reported"
    RELAYED = "relayed"
    BOUNCED = "bounced"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    MOVED = "moved"  # another node took it over, by an operator's wish; it goes on there
    DAMAGED = "damaged"  # its entry was found damaged: it is held, or lost, as `why` says
    REPAIRED = "repaired"  # the auditor took a lease back that nobody had: it is due as before
    SUSPENDED = "suspended"  # an operator suspended a destination or a sender: `why` says which (no message's)
    RESUMED = "resumed"  # ... and ended that
    HOST_OPEN = "host-open"  # a host broke, or a probe found it still broken: nobody dials before `next_attempt_at`
    HOST_HALF_OPEN = "host-half-open"  # its pause is over and a probe is under way
    HOST_CLOSED = "host-closed"  # it works again, or an operator forgot what was known against it


TERMINAL_KINDS = frozenset({Kind.RELAYED, Kind.BOUNCED, Kind.EXPIRED, Kind.CANCELLED, Kind.MOVED})
TROUBLES = frozenset({Kind.BOUNCED, Kind.EXPIRED, Kind.HOST_OPEN, Kind.REPAIRED, Kind.DAMAGED})  # told as warnings


class Record(Struct, frozen=True, gc=False, omit_defaults=True):
    """What happened to one recipient, or (HOST_...: without id and recipient) to one host, at one time.

    `at`: wall seconds. `seq` rises, is unique within a store, and makes committing a record twice harmless.
    `queued_s` .. `transfer_s`: where the time went. `next_attempt_at`: for a deferral, when it is tried again; for a
    broken host, when it is probed. `service`: which of a host's services (send.gates), "" for the usual one.
    `user`: of an acceptance, who logged in; of what an operator did, who that was. `recipients`, `message_id`: of an
    acceptance, which is one record for the whole message. `transcript`: what was said in a session that failed, cut to
    its end, without secrets.
    """

    seq: int
    kind: Kind
    at: float
    id: str = ""
    recipient: str = ""
    reverse_path: str = ""
    attempt: int = 0
    status: str = ""
    reply: str = ""
    why: str = ""
    host: str = ""
    address: str = ""
    lane: str = ""
    tls: str = ""
    ambiguous: bool = False
    octets: int = 0
    client: str = ""
    next_attempt_at: float = 0.0
    queued_s: float = 0.0
    connect_s: float = 0.0
    handshake_s: float = 0.0
    transfer_s: float = 0.0
    walk: tuple[str, ...] = ()
    service: str = ""
    user: str = ""
    recipients: tuple[str, ...] = ()
    message_id: str = ""
    transcript: tuple[str, ...] = ()


_encoder = msgspec.json.Encoder(decimal_format="number")


def to_json(value: object) -> bytes:
    """Encode a record (or any Struct of ours) as one line of JSON without a newline."""
    return _encoder.encode(value)
