# SPDX-License-Identifier: MIT
"""A lease: the exclusive right to work on one message and at most 100 of its due recipients for one destination."""

from msgspec import Struct

from smarthost.mail.content import Content
from smarthost.mail.envelope import Body, Notify, SenderTls

LEASE_RECIPIENTS = 100  # RFC 5321 4.5.3.1.8: every host takes at least 100 recipients a transaction


class LeasedRecipient(Struct, frozen=True, gc=False):
    """A recipient under lease; `n` is its number within the message, `attempts` those already counted.

    `notify`, `orcpt`: what the sender asked for it. `is_delay_told`: the matter of a delay report is settled for it.
    `due`, `awaits_host`, `why`, `host`: as it was last settled. Store.sweep_delayed gives them, so that who only says
    something about a recipient can settle it as it was; and Store.lease_all does; no other lease needs them. `is_held`:
    it is HELD, which only Store.lease_all leases.
    """

    n: int
    address: str
    domain: str
    attempts: int = 0
    last_reply: str = ""
    last_status: str = ""
    notify: Notify = Notify.UNSET
    orcpt: str = ""
    is_delay_told: bool = False
    due: float = 0.0
    awaits_host: bool = False
    why: str = ""
    host: str = ""
    is_held: bool = False


class Lease(Struct, frozen=True, gc=False):
    """One message's due recipients for one destination; `content` is None when it must be read back from the store."""

    id: str
    received_at: float
    reverse_path: str
    body: Body
    smtputf8: bool
    client: str
    sender: str
    prefix: bytes
    octets: int  # of the content, without the prefix
    content: Content | None
    recipients: tuple[LeasedRecipient, ...]
    ret: str = ""
    envid: str = ""
    tls: SenderTls = SenderTls.DEFAULT
