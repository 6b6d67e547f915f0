# SPDX-License-Identifier: MIT
"""What operators see of the queue and do to it: find, count, change. Each deed is a record: who, and why.

Works in portions, so that a million recipients fill no memory. A crash leaves a portion wholly changed or not at all;
saying it again finds the rest. What is done to all mail of a destination or sender is suspensions.py.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from smarthost.mail.plan import NoPlan, Plan
from smarthost.mail.settlement import State
from smarthost.mail.story import Count, Summary
from smarthost.ports import Clock, Sink
from smarthost.queue.leases import Wish
from smarthost.queue.store import Changed, Filter, Page, Store, StoredMessage, StoredRecipient, Tallied
from smarthost.queue.tallies import add_up
from smarthost.queue.verbs import check_verb

CHUNK = 1_000
TALLY_REST = 150.0  # times what it took, a count is good enough: 100,000 take 0.5 s. Above the page's SHARE
REASON_LENGTH = 500


class OperationsTerms(Struct, frozen=True):
    """The parts that are joined here; the last ones are the journey's.

    `let_go`: give back what is at hand and nobody works on. `expect`: these messages have wishes. `asleep` gives
    (until, why) when all hosts of a recipient domain are known as broken, `stopped` why an operator stopped it, or "".
    `check_way` raises ValueError for a way that "reroute" cannot take. `plan_of` a recipient domain.
    """

    store: Store
    clock: Clock
    sink: Sink
    let_go: Callable[[], None]
    look_again: Callable[[], None]
    expect: Callable[[Iterable[str]], None]
    asleep: Callable[[str], tuple[float, str] | None]
    stopped: Callable[[str], str]
    check_way: Callable[[str], None]
    plan_of: Callable[[str], Awaitable[Plan | NoPlan]]


class Operations:
    """One event loop."""

    def __init__(self, terms: OperationsTerms) -> None:
        self._terms = terms
        self._store = terms.store
        self._clock = terms.clock
        self._tallied: tuple[float, dict[str, Tallied]] = 0.0, {}  # good until (monotonic), by recipient domain

    # Look

    async def find(self, which: Filter, cursor: str | None, n: int) -> Page:
        """Give a page of the queue; what waits for something else than its time says so."""
        page = await self._store.find(which, cursor, n)
        return Page(tuple(map(self._shown, page.messages)), page.cursor)

    def _shown(self, message: StoredMessage) -> StoredMessage:
        now = self._clock.wall()
        return replace(message, recipients=tuple([self._shown_recipient(each, now) for each in message.recipients]))

    def _shown_recipient(self, recipient: StoredRecipient, now: float) -> StoredRecipient:
        if recipient.state != State.DEFERRED.value or recipient.due > now:
            return recipient
        if stopped := self._terms.stopped(recipient.domain):
            return replace(recipient, why=stopped)
        if (asleep := self._terms.asleep(recipient.domain)) is None:
            return recipient
        until, why = asleep
        return replace(recipient, due=until, why=why)

    async def tallied(self) -> Mapping[str, Tallied]:
        """Give what waits by recipient domain; counted anew when the last count, whoever asked for it, is too old."""
        if self._clock.monotonic() >= self._tallied[0]:
            await self._tally()
        return self._tallied[1]

    async def _tally(self) -> tuple[dict[str, Tallied], dict[str, Tallied], dict[str, Tallied]]:
        """Count all of the queue by recipient domain, by sender, and by reason."""
        began, now = self._clock.monotonic(), self._clock.wall()
        domains: dict[str, Tallied] = {}
        senders: dict[str, Tallied] = {}
        reasons: dict[str, Tallied] = {}
        cursor: str | None = None
        while True:
            part = await self._store.tally(cursor, now)
            for total, more in ((domains, part.by_domain), (senders, part.by_sender), (reasons, part.by_reason)):
                add_up(total, more)
            cursor = part.cursor
            if cursor is None:
                break
        ended = self._clock.monotonic()
        self._tallied = ended + TALLY_REST * (ended - began), domains
        return domains, senders, reasons

    async def summary(self, n: int) -> Summary:
        """Count all of the queue by destination, sender and reason; `n` names of each."""
        domains, senders, reasons = await self._tally()
        messages, _ = await self._store.count()
        oldest = min([each.oldest_at for each in domains.values()], default=0.0)
        return Summary(
            messages=messages,
            recipients=sum(each.recipients for each in domains.values()),
            oldest_at=oldest,
            by_destination=_counts(domains, n),
            by_sender=_counts(senders, n),
            by_reason=_counts(reasons, n),
            is_whole=max(len(domains), len(senders), len(reasons)) <= n,
        )

    async def domains_of_lane(self, lane: str) -> tuple[str, ...]:
        """Give under what the mail is filed that a lane would carry now; of at most 10,000 names the queue has.

        What is not planned by now is planned. Raises: StoreError.
        """
        domains: dict[str, Tallied] = {}
        cursor: str | None = None
        while True:
            part = await self._store.tally(cursor, self._clock.wall())
            add_up(domains, part.by_domain)
            if (cursor := part.cursor) is None:
                break
        found = []
        for domain in domains:
            plan = await self._terms.plan_of(domain)
            if isinstance(plan, Plan) and plan.lane == lane:
                found.append(domain)
        return tuple(found)

    # Change

    async def change(
        self,
        which: Filter,
        verb: str,
        cursor: str | None,
        n: int,
        *,
        by: str = "",
        reason: str = "",
        via: str = "",
        is_dry_run: bool = False,
    ) -> Changed:
        """Apply a verb to one portion of matching recipients; leases nobody works on are given back first.

        Raises: ValueError: an unknown verb, a way that cannot be taken, a damaged cursor. StoreError.
        """
        wish = Wish(verb, self._clock.wall(), one_line(by), one_line(reason), via)
        check_verb(verb)
        if verb == "reroute":
            self._terms.check_way(via)
        if is_dry_run:
            return await self._store.change(which, wish, cursor, n, is_dry_run=True)
        self._terms.let_go()
        try:
            changed = await self._store.change(which, wish, cursor, n)
        finally:
            self._terms.look_again()
        self._terms.expect([id for id, _ in changed.wished])
        if changed.recipients or changed.wished:
            ids = sorted({id for id, _ in (*changed.recipients, *changed.wished)})
            self._terms.sink.note(
                "info", "queue changed", verb=verb, by=wish.by, why=wish.reason,
                recipients=len(changed.recipients), wished=len(changed.wished), ids=ids,
            )  # fmt: skip
        return changed


def one_line(text: str) -> str:
    """Give what an operator wrote as one line: it stands in records, the log and, for a bounce, in a report."""
    return " ".join("".join([each if each.isprintable() else " " for each in text]).split())[:REASON_LENGTH]


def _counts(tallied: dict[str, Tallied], n: int) -> tuple[Count, ...]:
    ordered = sorted(tallied.items(), key=lambda item: (-item[1].recipients, item[0]))[:n]
    return tuple(
        [Count(name, each.recipients, each.oldest_at, each.oldest_id, each.due, each.held) for name, each in ordered]
    )
