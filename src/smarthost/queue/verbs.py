# SPDX-License-Identifier: MIT
"""What an operator's verb makes of a recipient, and the numbers and cursors of stores. Pure; every Store uses it.

A verb becomes a settlement with its record, so that it is committed the way an attempt is. Numbers that a store draws
for such records lie in the upper half of a millisecond's sequence, where an IdSource (which starts each millisecond at
zero) does not come: the two need not know each other and never collide.
"""

from collections.abc import Callable

from msgspec.structs import replace

from smarthost.mail.address import recipient_domain
from smarthost.mail.record import Kind, Record
from smarthost.mail.settlement import SettledRecipient, Settlement, State
from smarthost.queue.leases import Leases, Wish

VERBS = ("retry", "cancel")
CANCELLED_STATUS = "5.7.0"
DAMAGED = "damaged: "  # begins `why` of a recipient that a store holds because what it reads back is not what it wrote
_WHY = {"retry": "retry now, asked for by the operator", "cancel": "cancelled by the operator"}
_MILLISECOND = 1 << 21  # mail.identity: 21 bits of sequence under the milliseconds
_UPPER_HALF = 1 << 20


class Numbers:
    """The highest number a store has seen, and record numbers of its own.

    With a `source` (an IdSource's numbers) they are drawn there, and commit order is number order even within one
    millisecond; without it, a reader of records by cursor may pass over a record of the same millisecond.
    """

    def __init__(self) -> None:
        self.highest = 0
        self.source: Callable[[], int] | None = None

    def saw(self, number: int) -> None:
        """A message key or record seq was enqueued."""
        if number > self.highest:
            self.highest = number

    def draw(self, now: float) -> int:
        """Give a record number above every number seen; `now` in wall seconds."""
        if self.source is not None:
            number = self.source()
        else:
            number = max(int(now * 1000) * _MILLISECOND, self.highest) | _UPPER_HALF
            if number <= self.highest:
                number = self.highest + 1 | _UPPER_HALF
        self.saw(number)
        return number

    def last_for_ids(self) -> int:
        """Give what an IdSource must stay above: never the middle of a millisecond that we draw from."""
        return self.highest | (_MILLISECOND - 1) if self.highest & _UPPER_HALF else self.highest


def check_verb(verb: str) -> None:
    """Raises: ValueError: not a verb of `change`."""
    if verb not in VERBS:
        raise ValueError(f"unknown verb {verb!r}: one of {', '.join(VERBS)}")


def amend(
    id: str, reverse_path: str, current: SettledRecipient, wish: Wish, numbers: Numbers
) -> tuple[SettledRecipient, Record] | None:
    """Give what a verb makes of a recipient that nobody works on; None: nothing.

    A held recipient is cancelled, but not retried: it was held for a reason, and release is another verb. One that was
    found damaged is: if what is damaged was not put back meanwhile, it is found again, and held again.
    """
    is_held = current.state is State.HELD and not current.why.startswith(DAMAGED)
    if current.state.is_terminal or (wish.verb == "retry" and is_held):
        return None
    is_cancel = wish.verb == "cancel"
    settled = replace(
        current,
        state=State.CANCELLED if is_cancel else State.DEFERRED,
        due=0.0 if is_cancel else wish.now,
        status=CANCELLED_STATUS if is_cancel else current.status,
        why=_WHY["cancel"] if is_cancel else current.why,
        report_owed=False,
    )
    record = Record(
        numbers.draw(wish.now),
        Kind.CANCELLED if is_cancel else Kind.CHANGED,
        wish.now,
        id,
        current.address,
        reverse_path,
        current.attempts,
        settled.status,
        current.last_reply,
        _WHY[wish.verb],
        next_attempt_at=settled.due,
    )
    return settled, record


def fulfil(wish: Wish, settled: SettledRecipient, record: Record) -> tuple[SettledRecipient, Record]:
    """Give what a wish makes of a settlement under way; the attempt's evidence and the record's seq stay."""
    if settled.state.is_terminal:
        return settled, record
    if wish.verb == "retry":
        if settled.state is State.HELD:
            return settled, record
        return replace(settled, due=wish.now), replace(record, next_attempt_at=wish.now)
    why = f"{_WHY['cancel']} during an attempt"
    return (
        replace(settled, state=State.CANCELLED, due=0.0, status=CANCELLED_STATUS, why=why, report_owed=False),
        replace(record, kind=Kind.CANCELLED, status=CANCELLED_STATUS, why=why, next_attempt_at=0.0),
    )


def fulfil_all(settlement: Settlement, leases: Leases) -> Settlement:
    """Give a settlement with the wishes that are open for its recipients, and take these."""
    pairs = []
    for settled, record in zip(settlement.recipients, settlement.records, strict=True):
        wish = leases.open_wish(settlement.id, settled.n)
        pairs.append((settled, record) if wish is None else fulfil(wish, settled, record))
    return Settlement(settlement.id, tuple([pair[0] for pair in pairs]), tuple([pair[1] for pair in pairs]))


def fold(text: str) -> str:
    """Fold the case of ASCII letters only, as SQLite's NOCASE does: what "compare without case" means for addresses."""
    return text.encode().lower().decode() if not text.isascii() else text.lower()


def is_in_domain(domain: str, wanted: str) -> bool:
    """Does Filter.domain mean what is filed under this (mail.address.scope_domain)?"""
    return fold(wanted) in (fold(domain), fold(recipient_domain(domain)))


def write_cursor(*numbers: int) -> str:
    """Give a cursor that stands behind these numbers."""
    return ".".join([format(number, "x") for number in numbers])


def read_cursor(cursor: str | None, length: int) -> tuple[int, ...]:
    """Give the numbers of a cursor, all -1 when there is none. Raises: ValueError: damaged."""
    if cursor is None:
        return (-1,) * length
    numbers = tuple([int(part, 16) for part in cursor.split(".")])
    if len(numbers) != length or min(numbers) < 0 or max(numbers) >= 1 << 63:
        raise ValueError(f"a damaged cursor: {cursor!r}")
    return numbers
