# SPDX-License-Identifier: MIT
"""Records: what happened, kept. Each names a message and a recipient; the field names are stable (docs/records.md)."""

from enum import Enum

import msgspec
from msgspec import Struct


class Kind(Enum):
    """The kinds of record. Of the last five exactly one is written for each recipient: they end it."""

    ACCEPTED = "accepted"
    DEFERRED = "deferred"
    POSTPONED = "postponed"
    CHANGED = "changed"
    REPORTED = "reported"
    RELAYED = "relayed"
    BOUNCED = "bounced"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


TERMINAL_KINDS = frozenset({Kind.RELAYED, Kind.BOUNCED, Kind.EXPIRED, Kind.CANCELLED})


class Record(Struct, frozen=True, gc=False, omit_defaults=True):
    """What happened to one recipient at one time.

    `at`: wall seconds. `seq` rises, is unique within a store, and makes committing a record twice harmless.
    `queued_s` .. `transfer_s`: where the time went. `next_attempt_at`: for a deferral, when it is tried again.
    """

    seq: int
    kind: Kind
    at: float
    id: str
    recipient: str
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


_encoder = msgspec.json.Encoder(decimal_format="number")


def to_json(value: object) -> bytes:
    """Encode a record (or any Struct of ours) as one line of JSON without a newline."""
    return _encoder.encode(value)
