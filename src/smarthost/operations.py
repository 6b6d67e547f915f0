# SPDX-License-Identifier: MIT
"""What operators see of the queue and do to it: find, change, count, suspend. Each deed is a record: who, and why.

Works in portions, so that a million recipients fill no memory. A suspended destination keeps its mail where it is, and
nothing is tried; of a suspended sender all mail is held, what waits and what comes. Suspensions are notes in the store
and survive restarts. A crash leaves a portion wholly changed or not at all; saying it again finds the rest.
"""

from collections.abc import Awaitable, Callable, Iterable

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from smarthost.mail.address import recipient_domain, to_domain
from smarthost.mail.errors import StoreError
from smarthost.mail.message import Message
from smarthost.mail.plan import NoPlan, Plan
from smarthost.mail.progress import Progress
from smarthost.mail.record import Kind, Record
from smarthost.mail.settlement import State
from smarthost.mail.story import Count, Summary, Suspension
from smarthost.ports import Clock, Sink
from smarthost.queue.leases import Wish
from smarthost.queue.store import Changed, Filter, Page, Store, StoredMessage, StoredRecipient, Tallied
from smarthost.queue.tallies import add_up
from smarthost.queue.verbs import HOLD_S, check_verb, fold

NOTES = "suspended/"  # prefix of the store's notes
SUSPENSIONS = 1_000  # at a time; each is looked at for each new message
CHUNK = 1_000
REASON_LENGTH = 500
_USER = "user:"


class OperationsTerms(Struct, frozen=True):
    """The parts that are joined here; the last ones are the journey's.

    `let_go`: give back what is at hand and nobody works on. `expect`: these messages have wishes. `asleep` gives
    (until, why) when all hosts of a recipient domain are known as broken. `stop`: try nothing for these destinations.
    `check_way` raises ValueError for a way that "reroute" cannot take. `plan_of` a recipient domain.
    """

    store: Store
    clock: Clock
    sink: Sink
    next_seq: Callable[[], int]
    let_go: Callable[[], None]
    look_again: Callable[[], None]
    expect: Callable[[Iterable[str]], None]
    asleep: Callable[[str], tuple[float, str] | None]
    stop: Callable[[frozenset[str]], None]
    check_way: Callable[[str], None]
    plan_of: Callable[[str], Awaitable[Plan | NoPlan]]


class Operations:
    """One event loop; `load` before mail moves."""

    def __init__(self, terms: OperationsTerms) -> None:
        self._terms = terms
        self._store = terms.store
        self._clock = terms.clock
        self._destinations: dict[str, Suspension] = {}
        self._senders: dict[str, Suspension] = {}

    async def load(self) -> None:
        """Take up the suspensions; one whose note is damaged holds all the same. Raises: StoreError."""
        for name, value in (await self._store.load_notes(NOTES)).items():
            what = name.removeprefix(NOTES)
            try:
                suspension = msgspec.json.decode(value, type=Suspension)
            except msgspec.MsgspecError:
                suspension = Suspension(what, "", "its note is damaged", self._clock.wall())
                self._terms.sink.note("error", "a suspension's note is damaged", subject=what)
            self._suspensions_like(what)[what] = replace(suspension, what=what)
        self._stop()

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
        if (suspension := self.suspension_of(recipient.domain)) is not None:
            return replace(recipient, why=_say(suspension))
        if (asleep := self._terms.asleep(recipient.domain)) is None:
            return recipient
        until, why = asleep
        return replace(recipient, due=until, why=why)

    async def summary(self, n: int) -> Summary:
        """Count all of the queue by destination, sender and reason; `n` names of each."""
        now = self._clock.wall()
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
        wish = Wish(verb, self._clock.wall(), _line(by), _line(reason), via)
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

    # Suspend

    def suspensions(self) -> tuple[Suspension, ...]:
        """Give what is suspended, longest first."""
        found = (*self._destinations.values(), *self._senders.values())
        return tuple(sorted(found, key=lambda each: each.since))

    async def suspend(self, what: str, reason: str, by: str) -> Suspension:
        """Try nothing for a destination, or hold all mail of a sender, until `end_suspension`; durable when it returns.

        Raises: ValueError: neither a destination nor a sender, or too many. StoreError.
        """
        what = read_subject(what)
        suspension = Suspension(what, _line(by), _line(reason), self._clock.wall())
        known = self._suspensions_like(what)
        if len(known) >= SUSPENSIONS and what not in known:
            raise ValueError(f"{SUSPENSIONS} suspensions are the most there may be")
        before = known.get(what)
        known[what] = suspension  # at once: what is being filed meanwhile must not slip through
        self._stop()
        try:
            await self._save(suspension, msgspec.json.encode(suspension), Kind.SUSPENDED)
        except StoreError:
            known.pop(what)
            if before is not None:
                known[what] = before
            self._stop()
            raise
        if is_sender(what):
            await self._say_to_all(_mail_of(what, "", "deferred"), "hold", by, _mark(what, suspension.reason))
        return suspension

    async def end_suspension(self, what: str, by: str) -> Suspension:
        """Let a suspended destination or sender go on at once.

        Raises: ValueError: it is not suspended, with what is. StoreError.
        """
        what = read_subject(what)
        known = self._suspensions_like(what)
        if what not in known:
            names = ", ".join(each.what for each in self.suspensions()[:10]) or "nothing is"
            raise ValueError(f"{what} is not suspended ({names})")
        suspension = known[what]
        await self._save(suspension, b"", Kind.RESUMED, by)
        del known[what]
        self._stop()
        if is_sender(what):
            await self._release_all(what, by)
        self._terms.look_again()
        return suspension

    async def _release_all(self, sender: str, by: str) -> None:
        """Release what a suspension held, unless another holds it too; and take back what it wished for meanwhile."""
        held = _mark(sender, "")
        for other in tuple(self._senders.values()):
            if other.what != sender:
                which = _mail_of(other.what, held, "held")
                await self._say_to_all(which, "hold", other.by, _mark(other.what, other.reason))
        reason = f"{sender} is suspended no more"
        await self._say_to_all(_mail_of(sender, held, "held"), "release", by, reason)
        await self._say_to_all(_mail_of(sender, "", "deferred"), "release", by, reason)  # of what is being tried

    async def hold_late(self, message: Message) -> None:
        """Hold a message whose sender was suspended while it was being filed."""
        suspension = self._suspension_of_sender(message)
        if suspension is not None:
            reason = _mark(suspension.what, suspension.reason)
            await self._say_to_all(Filter(id=message.id), "hold", suspension.by, reason)

    async def _say_to_all(self, which: Filter, verb: str, by: str, reason: str) -> None:
        cursor: str | None = None
        while True:
            changed = await self.change(which, verb, cursor, CHUNK, by=by, reason=reason)
            if changed.cursor is None:
                return
            cursor = changed.cursor

    async def _save(self, suspension: Suspension, note: bytes, kind: Kind, by: str = "") -> None:
        record = Record(
            self._terms.next_seq(),
            kind,
            self._clock.wall(),
            why=_say(suspension) if kind is Kind.SUSPENDED else f"{suspension.what} goes on again",
            user=by or suspension.by,
        )
        await self._store.save_notes({NOTES + suspension.what: note}, (record,))
        self._terms.sink.record(record)

    def _suspensions_like(self, what: str) -> dict[str, Suspension]:
        return self._senders if is_sender(what) else self._destinations

    def _stop(self) -> None:
        self._terms.stop(frozenset(self._destinations))

    def suspension_of(self, domain: str) -> Suspension | None:
        """Give why nothing is tried for what is filed under this domain, if an operator suspended it."""
        if not self._destinations:
            return None
        return self._destinations.get(recipient_domain(domain))

    def hold_if_suspended(self, message: Message) -> Message:
        """Give a new message as it is, or held if its sender is suspended; what another node held stays as it was."""
        if not self._senders:
            return message
        suspension = self._suspension_of_sender(message)
        if suspension is None:
            return message
        why = f"held by {suspension.by or 'the operator'}: {_mark(suspension.what, suspension.reason)}"
        if message.progress:
            if all(each.state is State.HELD for each in message.progress):
                return message
            progress = [
                each
                if each.state is State.HELD
                else replace(each, state=State.HELD, due=self._clock.wall() + HOLD_S, why=why)
                for each in message.progress
            ]
            return replace(message, progress=tuple(progress))
        held = Progress(State.HELD, message.received_at + HOLD_S, 0, "", "", why)
        return replace(message, progress=(held,) * len(message.envelope.recipients))

    def _suspension_of_sender(self, message: Message) -> Suspension | None:
        reverse_path = fold(message.envelope.reverse_path)
        names = [reverse_path, f"@{reverse_path.rpartition('@')[2]}"] if reverse_path else []
        if message.user:
            names.append(f"{_USER}{message.user}")
        return next((self._senders[name] for name in names if name in self._senders), None)


def is_sender(what: str) -> bool:
    """Is a suspension's subject a sender ("ann@example.org", "@example.org", "user:ann") and no destination?"""
    return what.startswith(_USER) or "@" in what


def read_subject(text: str) -> str:
    """Give what a suspension is about as it is kept. Raises: ValueError: neither a destination nor a sender."""
    bare = text.strip().removeprefix("<").removesuffix(">")
    if bare.startswith(_USER) and bare != _USER:
        return bare
    if "@" in bare and not bare.endswith("@") and bare.isprintable() and " " not in bare:
        return fold(bare)
    try:
        return to_domain(bare)
    except ValueError as error:
        raise ValueError(
            f"{text[:80]!r} is neither a destination (example.org) nor a sender (ann@example.org, @example.org, "
            f"user:ann): {error}"
        ) from error


def _line(text: str) -> str:
    """Give what an operator wrote as one line: it stands in records, the log and, for a bounce, in a report."""
    return " ".join("".join([each if each.isprintable() else " " for each in text]).split())[:REASON_LENGTH]


def _mail_of(sender: str, reply: str, state: str) -> Filter:
    if sender.startswith(_USER):
        return Filter(sender=sender.removeprefix(_USER), reply=reply, state=state)
    if sender.startswith("@"):
        return Filter(sender_domain=sender.removeprefix("@"), reply=reply, state=state)
    return Filter(reverse_path=sender, reply=reply, state=state)


def _mark(what: str, reason: str) -> str:
    """Give the sentence by which mail that a suspension holds is known again."""
    text = f"sender {what} is suspended"
    return f"{text}: {reason}" if reason else text


def _say(suspension: Suspension) -> str:
    by = suspension.by or "the operator"
    text = f"{suspension.what} is suspended by {by}"
    return f"{text}: {suspension.reason}" if suspension.reason else text


def _counts(tallied: dict[str, Tallied], n: int) -> tuple[Count, ...]:
    ordered = sorted(tallied.items(), key=lambda item: (-item[1].recipients, item[0]))[:n]
    return tuple(
        [Count(name, each.recipients, each.oldest_at, each.oldest_id, each.due, each.held) for name, each in ordered]
    )
