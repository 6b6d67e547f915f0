# SPDX-License-Identifier: MIT
"""What an operator's verb makes of a recipient, and the numbers and cursors of stores. Pure; every Store uses it.

A verb becomes a settlement with its record, so that it is committed the way an attempt is. Numbers that a store draws
for such records lie in the upper half of a millisecond's sequence, where an IdSource (which starts each millisecond at
zero) does not come: the two need not know each other and never collide.
"""

from collections.abc import Callable

from msgspec.structs import replace

from smarthost.mail.address import recipient_domain, send_via
from smarthost.mail.record import Kind, Record
from smarthost.mail.settlement import SettledRecipient, Settlement, State
from smarthost.queue.leases import Leases, Wish

VERBS = ("retry", "hold", "release", "cancel", "bounce", "expire", "reroute")
HOLD_S = 30 * 86_400.0  # an operator has so long to look; then it expires
DAMAGED = "damaged: "  # begins `why` of a recipient that a store holds because what it reads back is not what it wrote
_SAID = {
    "retry": "retry now, asked for by",
    "hold": "held by",
    "release": "released by",
    "cancel": "cancelled by",
    "bounce": "returned by",
    "expire": "given up by",
    "reroute": "sent another way by",
}
_STATES = {"cancel": State.CANCELLED, "bounce": State.BOUNCED, "expire": State.EXPIRED}
# RFC 3463: 5.7.0 "other or undefined security status", 5.0.0 "other undefined", 4.4.7 "delivery time expired".
_STATUSES = {"cancel": "5.7.0", "bounce": "5.0.0", "expire": "4.4.7"}
_KINDS = {"cancel": Kind.CANCELLED, "bounce": Kind.BOUNCED, "expire": Kind.EXPIRED}
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


def is_changed_by(verb: str, current: SettledRecipient) -> bool:
    """Does a verb change a recipient that nobody works on?

    A held recipient is not retried: it was held for a reason, and release is another verb. One that was found damaged
    is: if what is damaged was not put back meanwhile, it is found again, and held again.
    """
    if current.state.is_terminal:
        return False
    is_held = current.state is State.HELD
    if verb == "retry":
        return not is_held or current.why.startswith(DAMAGED)
    return is_held if verb == "release" else True


def amend(
    id: str, reverse_path: str, current: SettledRecipient, wish: Wish, numbers: Numbers
) -> tuple[SettledRecipient, Record] | None:
    """Give what a verb makes of a recipient that nobody works on; None: nothing."""
    if not is_changed_by(wish.verb, current):
        return None
    said = _say(wish)
    settled = _apply(wish, replace(current, report_owed=False), said)
    if wish.verb == "reroute" and current.state is State.HELD:
        settled = replace(settled, state=State.HELD, due=current.due, why=current.why)
    record = Record(
        numbers.draw(wish.now),
        _KINDS.get(wish.verb, Kind.CHANGED),
        wish.now,
        id,
        current.address,
        reverse_path,
        current.attempts,
        settled.status,
        current.last_reply,
        said,
        next_attempt_at=settled.due,
        user=wish.by,
    )
    return settled, record


def _apply(wish: Wish, current: SettledRecipient, said: str) -> SettledRecipient:
    """Give a recipient that goes on as the verb has it; a report of its delay stays owed."""
    verb = wish.verb
    if verb in _STATES:
        return replace(
            current,
            state=_STATES[verb],
            due=0.0,
            status=_STATUSES[verb],
            why=said,
            report_owed=verb != "cancel",
            awaits_host=False,
        )
    if verb == "hold":
        return replace(current, state=State.HELD, due=wish.now + HOLD_S, why=said, awaits_host=False)
    why = said if current.state is State.HELD else current.why
    changed = replace(current, state=State.DEFERRED, due=wish.now, why=why)
    if verb == "reroute":
        changed = replace(changed, domain=send_via(current.domain, wish.via), is_rerouted=True, awaits_host=False)
    return changed


def fulfil(wish: Wish, settled: SettledRecipient, record: Record) -> tuple[SettledRecipient, Record]:
    """Give what a wish makes of a settlement under way; the attempt's evidence and the record's seq stay."""
    if settled.state.is_terminal or (settled.state is State.HELD and wish.verb in ("retry", "release", "hold")):
        return settled, record
    said = f"{_say(wish)}, during an attempt"
    fulfilled = _apply(wish, settled, said)
    if wish.verb == "reroute" and settled.state is State.HELD:
        fulfilled = replace(fulfilled, state=State.HELD, due=settled.due, why=settled.why)
    if wish.verb in _STATES:
        told = replace(record, kind=_KINDS[wish.verb], status=fulfilled.status, why=said, next_attempt_at=0.0)
    elif wish.verb == "retry":
        told = replace(record, next_attempt_at=fulfilled.due)
    else:
        told = replace(record, why=f"{record.why}; {said}", next_attempt_at=fulfilled.due)
    return fulfilled, replace(told, user=wish.by)


def _say(wish: Wish) -> str:
    by = wish.by or "the operator"
    text = f"{_SAID[wish.verb]} {by}"
    if wish.verb == "reroute":
        text += f" via {wish.via}" if wish.via else ": by the routes again"
    return f"{text}: {wish.reason}" if wish.reason else text


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


def is_about(record: Record, text: str) -> bool:
    """Is this the acceptance of a message to this address, or with this Message-ID?"""
    if record.kind is not Kind.ACCEPTED:
        return False
    wanted = fold(text)
    return record.message_id == text or any(fold(each) == wanted for each in (record.recipient, *record.recipients))


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
