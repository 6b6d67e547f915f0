# SPDX-License-Identifier: MIT
"""A settlement: everything one attempt (or expiry, or cancellation) changes, to be committed in one transaction."""

from enum import Enum

from msgspec import Struct

from smarthost.mail.envelope import Notify, SenderTls
from smarthost.mail.record import Record
from smarthost.mail.result import DsnDuty


class State(Enum):
    """States of a recipient that a store keeps; "leased" is memory only (queue.states has the legal moves)."""

    DEFERRED = "deferred"
    HELD = "held"
    RELAYED = "relayed"
    BOUNCED = "bounced"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self not in (State.DEFERRED, State.HELD)


class SettledRecipient(Struct, frozen=True, gc=False):
    """One recipient's new state.

    `due`: wall seconds of the next attempt (DEFERRED) or end of the hold (HELD), else 0.0. `attempts` is the new count.
    `last_reply`: one line; `status`: enhanced code; `why`: one sentence. `report_owed`: a DSN is due for it: of failure
    (BOUNCED, EXPIRED), of delay (DEFERRED) or of success (RELAYED; `dsn` says of what kind).
    `awaits_host`: DEFERRED because no host could be asked; Store.release makes it due when one works again.
    `is_delay_told`: a delay report was owed for it, or nobody wants one: Store.sweep_delayed passes it over from then
    on, and no settlement takes that back. Nor does report_owed=False take back a debt of a recipient that goes on.
    `is_rerouted`: an operator sends it another way: `domain` is new.
    """

    n: int
    address: str
    domain: str
    state: State
    due: float
    attempts: int
    status: str
    last_reply: str
    why: str
    report_owed: bool = False
    host: str = ""
    awaits_host: bool = False
    dsn: DsnDuty = DsnDuty.RELAYED
    notify: Notify = Notify.UNSET
    orcpt: str = ""
    is_delay_told: bool = False
    is_rerouted: bool = False


class Settlement(Struct, frozen=True, gc=False):
    """One message's settled recipients with their records (same order, one each)."""

    id: str
    recipients: tuple[SettledRecipient, ...]
    records: tuple[Record, ...]


class OwedReport(Struct, frozen=True, gc=False):
    """A message for which a DSN is due, leased to who writes it: the envelope, and the recipients to be reported.

    `recipients`: those with a report owed, whatever their state. Filing clears the debt of each only while it is still
    in the state told here: one that bounced meanwhile owes that. `octets`: of the whole content. `tls`: the envelope's.
    """

    id: str
    received_at: float
    reverse_path: str
    smtputf8: bool
    prefix: bytes
    header: bytes  # first octets of the content, at most 64 KiB: the header section is cut out of it
    recipients: tuple[SettledRecipient, ...]
    octets: int = 0
    ret: str = ""
    envid: str = ""
    tls: SenderTls = SenderTls.DEFAULT
