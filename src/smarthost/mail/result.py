# SPDX-License-Identifier: MIT
"""What an attempt found out: one verdict for each recipient of a lease, and the walk that led there."""

from enum import Enum

from msgspec import Struct

from smarthost.mail.hop import TlsFacts
from smarthost.mail.lease import Lease
from smarthost.mail.reply import Reply


class Outcome(Enum):
    """What a verdict asks for."""

    RELAYED = "relayed"
    DEFERRED = "deferred"  # counts as an attempt, follows the schedule
    BOUNCED = "bounced"
    POSTPONED = "postponed"  # nothing was tried (all hosts refused by HostGate, or given back): no attempt is counted


class DsnDuty(Enum):
    """Who tells of a success that the sender wanted to hear of (RFC 3461 5.2)."""

    RELAYED = "relayed"  # we do: the host does not offer DSN, so nobody behind it will
    DELIVERED = "delivered"  # we do: the host was spoken to in LMTP, so it was the last
    PASSED_ON = "passed on"  # the host does: it took the parameters


class Verdict(Struct, frozen=True, gc=False):
    """One recipient's outcome with its evidence.

    `status` is an enhanced code; `why` one sentence; `reply` what the host said, if it was the host's word. `host` and
    `address` name where, or are "". `ambiguous`: the connection was lost after the final dot, the host may have the
    mail. `until`: for POSTPONED, when to try again (wall seconds). `awaits_host`: no host could be asked (connecting or
    the handshake failed, or HostGate refused), so it is due at once when one works again. `dsn`: for RELAYED, who
    reports success if the sender asked for it.
    """

    outcome: Outcome
    status: str
    why: str
    reply: Reply | None = None
    host: str = ""
    address: str = ""
    ambiguous: bool = False
    until: float | None = None
    awaits_host: bool = False
    dsn: DsnDuty = DsnDuty.RELAYED


class Timings(Struct, frozen=True, gc=False):
    """Where the time went, in seconds: in the queue, on connecting, on the session's set-up, on the transaction."""

    queued_s: float = 0.0
    connect_s: float = 0.0
    handshake_s: float = 0.0
    transfer_s: float = 0.0


class AttemptResult(Struct, frozen=True, gc=False):
    """The verdicts of one attempt, in the order of `lease.recipients`; `at`: when it ended (wall seconds).

    `tls`: of the last session. `tls_of`: of each verdict where more than one session was used, in order; else ().
    """

    lease: Lease
    at: float
    verdicts: tuple[Verdict, ...]
    timings: Timings = Timings()
    tls: TlsFacts | None = None
    lane: str = ""
    walk: tuple[str, ...] = ()  # one line for each host tried before the last word: "mx1.example [192.0.2.1]: refused"
    tls_of: tuple[TlsFacts | None, ...] = ()
    transcript: tuple[str, ...] = ()  # of the last session that failed, if it is kept
