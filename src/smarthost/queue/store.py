# SPDX-License-Identifier: MIT
"""The Store protocol: the one promise everything else rests on.

Crash contract, for every method that changes something: when its awaitable resolves, the change survives kill -9 and a
power cut; when it raises StoreError, the change may or may not have happened, and repeating it is harmless; a crash
before it resolves leaves the change wholly done or wholly undone. Leases are memory only: a crash gives them all back.
`testing.check_store` is the conformance suite; memory, SQLite and PostgreSQL all pass it.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from smarthost.mail.content import Content, Draft
from smarthost.mail.lease import Lease
from smarthost.mail.message import Message
from smarthost.mail.record import Record
from smarthost.mail.settlement import OwedReport, Settlement
from smarthost.queue.audit import Bounds, SuspectPage
from smarthost.queue.leases import Wish


class DueDomain(Struct, frozen=True, gc=False):
    """A recipient domain with unleased recipients; `due` is the earliest of their due times (wall seconds)."""

    domain: str
    due: float


class DueScan(Struct, frozen=True, gc=False):
    """Domains with something due now (earliest first), and when the next other thing will be, or None.

    `next_at` <= the `now` asked with means that there was more than `n`: ask again when these are served.
    """

    domains: tuple[DueDomain, ...]
    next_at: float | None


NULL_PATH = "<>"  # in a Filter: an empty text would not restrict


class Filter(Struct, frozen=True, gc=False, kw_only=True):
    """Which recipients; empty fields do not restrict, fields are joined by "and". Addresses compare without case.

    `reverse_path`: "<>" is the null path. `domain` means what is filed under it, whoever it is from
    (mail.address.scope_domain); `domains` exactly these. `sender`: the fairness key; `sender_domain`: of the
    reverse-path. `reply`: a part of the last reply, or of the reason, without case. `state`: "deferred" or "held".
    `received_before`: wall seconds, 0.0 for any.
    """

    id: str = ""
    reverse_path: str = ""
    recipient: str = ""
    domain: str = ""
    sender: str = ""
    sender_domain: str = ""
    reply: str = ""
    state: str = ""
    received_before: float = 0.0
    domains: tuple[str, ...] = ()


class StoredRecipient(Struct, frozen=True, gc=False):
    """An unfinished (or not yet reported) recipient as an operator sees it."""

    n: int
    address: str
    domain: str
    state: str  # a mail.settlement.State value, or "leased"
    due: float
    attempts: int
    last_reply: str
    status: str
    why: str
    awaits_host: bool = False  # due at once, when a host of its destination works again


class StoredMessage(Struct, frozen=True, gc=False):
    """A message in the queue as an operator sees it, with the recipients that matched."""

    id: str
    received_at: float
    reverse_path: str
    client: str
    sender: str
    octets: int
    recipients: tuple[StoredRecipient, ...]


class Page(Struct, frozen=True, gc=False):
    """One page of `find`; `cursor` is None after the last."""

    messages: tuple[StoredMessage, ...]
    cursor: str | None


class Changed(Struct, frozen=True, gc=False):
    """One chunk of `change`: what changed (message id, recipient number), which leased ones got a wish instead."""

    recipients: tuple[tuple[str, int], ...]
    wished: tuple[tuple[str, int], ...]
    cursor: str | None


class Tallied(Struct, frozen=True, gc=False):
    """What waits under one name: recipients, those of them that are due or held, and the oldest's message."""

    recipients: int
    due: int
    held: int
    oldest_at: float
    oldest_id: str


class Tally(Struct, frozen=True, gc=False):
    """A part of the queue by recipient domain, by sender (the fairness key) and by last reply or reason.

    Names are cut to 200 characters. `cursor`: None after the last part.
    """

    by_domain: dict[str, Tallied]
    by_sender: dict[str, Tallied]
    by_reason: dict[str, Tallied]
    cursor: str | None


class Store(Protocol):
    """Keeps messages, recipients, reports owed and records. One owner; safe to use from one event loop."""

    async def open(self) -> None:
        """Take the state directory and recover. Raises: StoreLocked, StoreError (with a text for an operator)."""

    async def close(self) -> None:
        """Commit what was enqueued, give all leases back, let go of the directory. Harmless when repeated."""

    @property
    def refusal(self) -> Exception | None:
        """Why new mail cannot be taken now (a StoreError or StoreFull), or None."""

    @property
    def last_number(self) -> int:
        """The highest store key (mail.identity) or record seq ever committed; for IdSource. After `open`."""

    def draw_numbers_from(self, source: Callable[[], int]) -> None:
        """Number the records of verbs from the one source that numbers all others, so that a cursor skips none."""

    def add(
        self, message: Message, lease: Collection[str], record: Record | None = None
    ) -> Awaitable[tuple[Lease, ...]]:
        """File a message; its recipients in the domains of `lease` are leased to the caller at once.

        `record`, of its acceptance, is committed with it, and makes it known to `accepted_for`.
        One with `progress` begins where that says, and nothing of it is leased. Enqueues before it returns. Leases come
        in chunks of at most 100 recipients, across domains, with the content in them unless it lives in a file.
        Raises (from the awaitable): StoreFull, StoreError.
        """

    def draft(self) -> Draft:
        """Begin large content. Raises: StoreFull, StoreError."""

    async def due(self, now: float, n: int) -> DueScan:
        """Name at most `n` domains with unleased DEFERRED recipients due at or before `now`."""

    async def lease(self, domains: Collection[str], now: float, n: int) -> tuple[Lease, ...]:
        """Lease at most `n` messages' due recipients in these domains, earliest due first, content not loaded.

        Fewer: there were no more, whatever was damaged among them.
        """

    def give_back(self, lease: Lease) -> None:
        """End a lease without any change."""

    def settle(self, settlements: Sequence[Settlement]) -> Awaitable[None]:
        """Commit settlements with their records and end their leases; enqueues before it returns.

        A recipient that is gone or whose attempts count is not one below the settled one (or equal, when no attempt was
        counted) is passed over: so repeating is harmless. A wish (cancel) upon a leased recipient is applied here to a
        DEFERRED verdict; RELAYED and BOUNCED win. Deletes the message when no recipient and no owed report is left.
        A recipient has one debt, and its newest state is what is reported: an end that owes no report takes the debt of
        an earlier delay away. What its sender asked for (notify, orcpt) is the envelope's, whatever is settled.
        After a StoreError the settlement is kept and repeated by the store itself once it has reopened.
        """

    async def content(self, id: str) -> Content:
        """Give the content of a message, without the prefix. Raises: StoreError when it cannot be read."""

    async def sweep(self, received_before: float, n: int) -> tuple[Lease, ...]:
        """Lease all recipients (whatever their due time, held ones not) of at most `n` messages older than that."""

    async def sweep_delayed(self, received_before: float, n: int) -> tuple[Lease, ...]:
        """Lease the DEFERRED recipients of at most `n` messages older than that whose delay was not told, oldest first.

        Whatever their due time; what is leased is passed over this time. Cheap to ask again and again: what was told is
        not looked through each time, except once after `open`. Fewer than `n` messages: there are no more.
        """

    async def sweep_held(self, now: float, n: int) -> tuple[Lease, ...]:
        """Lease the HELD recipients of at most `n` messages whose hold ends at or before `now` (wall seconds).

        Not those that are held because they are damaged: nothing of them can be relied upon, nor of whom to tell.
        """

    async def lease_all(self, cursor: str | None, n: int) -> tuple[tuple[Lease, ...], str | None]:
        """Lease all DEFERRED and HELD recipients of at most `n` messages behind `cursor`, whatever their due time.

        One lease for each message, with all there is to know of each recipient. Passed over are those that are leased,
        and those of which a report is owed, whom a settlement would take that debt away. None: that was the last.
        Raises: ValueError: a damaged cursor. StoreError.
        """

    async def change(
        self, which: Filter, wish: Wish, cursor: str | None, n: int, *, is_dry_run: bool = False
    ) -> Changed:
        """Apply a verb (queue.verbs) to at most `n` (up to 1,000) recipients after `cursor`; with records.

        A dry run changes nothing, and gives what would be changed or wished.
        Raises: ValueError: an unknown verb or a damaged cursor. StoreError.
        """

    async def find(self, which: Filter, cursor: str | None, n: int) -> Page:
        """Give at most `n` (up to 1,000) messages with matching recipients, oldest first.

        Raises: ValueError: a damaged cursor.
        """

    async def lease_report(self, now: float) -> OwedReport | None:
        """Lease one owed report: no recipient of its message is leased, or the oldest debt is over 60 s old."""

    def file_report(self, owed: OwedReport, report: Message | None, records: Sequence[Record]) -> Awaitable[None]:
        """File `report` as a message of its own (None: nobody is to be told) and clear the debt, in one transaction.

        Of `records` one may be of its acceptance, and makes it known to `accepted_for`.

        Nothing happens when one of its recipients has ended, or ended otherwise, since the report was leased: it would
        not be true any more. What is still owed is leased anew.
        """

    async def records(self, after: int, n: int) -> tuple[Record, ...]:
        """Give at most `n` records with seq above `after`, in order."""

    async def history(self, id: str, n: int) -> tuple[Record, ...]:
        """Give the newest `n` records (up to 1,000) of a message, whether it is still there or not, oldest first."""

    async def accepted_for(self, text: str, n: int) -> tuple[Record, ...]:
        """Give the newest `n` (up to 100) acceptances of messages to this address, or with this Message-ID.

        Newest first. Case is folded as in Filter. Costs the same however many messages there are.
        """

    async def remembers_all(self) -> bool:
        """Does `accepted_for` know of all that is queued, or is some of it older than the records that are kept?"""

    async def tally(self, cursor: str | None, now: float) -> "Tally":
        """Count the unfinished recipients of the next messages by name. Raises: ValueError: a damaged cursor."""

    async def count(self) -> tuple[int, int]:
        """Give (messages, unfinished recipients) in the store."""

    async def awaiting(self, now: float, n: int) -> tuple[str, ...]:
        """Name at most `n` domains that have DEFERRED recipients which await a host and are due later than `now`."""

    async def release(self, domains: Collection[str], now: float) -> int:
        """Make what awaits a host in these domains (at most 1,000) due at `now`; gives how many recipients.

        Only DEFERRED recipients that were settled with `awaits_host` and are due later; repeating is harmless. May be
        committed in portions, mail in between; a crash leaves some of them released, and `awaiting` names the rest.
        """

    async def load_notes(self, prefix: str) -> dict[str, bytes]:
        """Read the small named values (host health and the like) whose names begin with `prefix`, not empty."""

    def save_notes(self, notes: Mapping[str, bytes], records: Sequence[Record] = ()) -> Awaitable[None]:
        """Write small named values (an empty one removes the name), and records of no message, in one transaction.

        Enqueues before it returns.
        """

    def leased(self) -> Iterable[tuple[str, int]]:
        """Give (message id, recipient number) of every lease there is at this moment. Memory only."""

    def lowest_pending(self) -> int | None:
        """Give the lowest seq of the records that were handed over and are not durable yet, or kept to be repeated.

        None: there are none. What is not among them is durable, or will never be. Memory only.
        """

    def in_hand(self) -> Iterable[tuple[str, int]]:
        """Give those of them that the store itself has in hand at this moment. Memory only.

        They are what is settled and not durable yet, or kept to be repeated, and what is about to be handed out.
        """

    async def recall(self, id: str, n: int) -> Lease | None:
        """Give the lease of a DEFERRED recipient as `sweep_delayed` would, though it is leased; changes nothing.

        For who found that nobody has that lease. None: there is no such recipient, or it is not DEFERRED.
        """

    async def suspects(self, bounds: Bounds, cursor: str | None, n: int) -> SuspectPage:
        """Look at the next `n` (up to 1,000) recipients, and give those that queue.audit.is_suspect means.

        Raises: ValueError: a damaged cursor. StoreError.
        """
