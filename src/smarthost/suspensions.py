# SPDX-License-Identifier: MIT
"""What operators keep back as a whole: all mail to a destination, or all mail of a sender.

A suspended destination keeps its mail where it is, and nothing is tried; of a suspended sender all mail is held, what
waits and what comes. Suspensions, and what was suspended lately, are notes in the store: they survive restarts, and
stories tell of them. A crash leaves one that is there, or is not; saying it again finds the mail that is left.
"""

from collections.abc import Callable, Collection, Coroutine
from typing import Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from smarthost.mail.address import recipient_domain, to_domain
from smarthost.mail.errors import StoreError
from smarthost.mail.message import Message
from smarthost.mail.progress import Progress
from smarthost.mail.record import Kind, Record
from smarthost.mail.settlement import State
from smarthost.mail.story import Suspension
from smarthost.operations import CHUNK, one_line
from smarthost.ports import Clock, Sink
from smarthost.queue.store import Changed, Filter, Store
from smarthost.queue.verbs import HOLD_S, fold

NOTES = "suspended/"  # prefix of the store's notes
DEEDS = "suspensions"  # the note of what was done lately
DEEDS_KEPT = 500
SUSPENSIONS = 1_000  # at a time; each is looked at for each new message
_USER = "user:"


class Change(Protocol):
    """Applies a verb to a portion of the queue; Operations.change."""

    def __call__(
        self, which: Filter, verb: str, cursor: str | None, n: int, *, by: str, reason: str
    ) -> Coroutine[None, None, Changed]: ...


class SuspensionsTerms(Struct, frozen=True):
    """The parts that are joined here. `stop`: try nothing for these destinations. `look_again`: something is due."""

    store: Store
    clock: Clock
    sink: Sink
    next_seq: Callable[[], int]
    change: Change
    stop: Callable[[frozenset[str]], None]
    look_again: Callable[[], None]


class Deed(Struct, frozen=True, array_like=True):
    """That something was suspended, or goes on, as it was recorded."""

    what: str
    record: Record


class Suspensions:
    """One event loop; `load` before mail moves."""

    def __init__(self, terms: SuspensionsTerms) -> None:
        self._terms = terms
        self._destinations: dict[str, Suspension] = {}
        self._senders: dict[str, Suspension] = {}
        self._deeds: list[Deed] = []  # oldest first

    async def load(self) -> None:
        """Take up the suspensions; one whose note is damaged holds all the same. Raises: StoreError."""
        for name, value in (await self._terms.store.load_notes(NOTES)).items():
            what = name.removeprefix(NOTES)
            try:
                suspension = msgspec.json.decode(value, type=Suspension)
            except msgspec.MsgspecError:
                suspension = Suspension(what, "", "its note is damaged", self._terms.clock.wall())
                self._terms.sink.note("error", "a suspension's note is damaged", subject=what)
            self._like(what)[what] = replace(suspension, what=what)
        for value in (await self._terms.store.load_notes(DEEDS)).values():
            try:
                self._deeds = msgspec.json.decode(value, type=list[Deed])
            except msgspec.MsgspecError:  # stories tell less
                self._terms.sink.note("error", "the note of past suspensions is damaged")
        self._stop()

    # What there is

    def all(self) -> tuple[Suspension, ...]:
        """Give what is suspended, longest first."""
        found = (*self._destinations.values(), *self._senders.values())
        return tuple(sorted(found, key=lambda each: each.since))

    def of_domain(self, domain: str) -> Suspension | None:
        """Give why nothing is tried for what is filed under this domain, if an operator suspended it."""
        if not self._destinations:
            return None
        return self._destinations.get(recipient_domain(domain))

    def of_sender(self, reverse_path: str, user: str) -> Suspension | None:
        """Give why all mail of a sender is held, if an operator suspended it; `user` who logged in, or ""."""
        if not self._senders:
            return None
        path = fold(reverse_path)
        names = [path, f"@{path.rpartition('@')[2]}"] if path else []
        if user:
            names.append(f"{_USER}{user}")
        return next((self._senders[name] for name in names if name in self._senders), None)

    def stopped(self, domain: str) -> str:
        """Say that a destination is suspended, by whom and for what; "": it is not."""
        suspension = self.of_domain(domain)
        return "" if suspension is None else say(suspension)

    def during(self, domains: Collection[str], since: float, until: float) -> tuple[Record, ...]:
        """Give what was suspended, and ended, of these destinations in this span of wall time, as it was recorded."""
        found: list[Record] = []
        standing: dict[str, Record] = {}  # since before the span
        for deed in self._deeds:
            if deed.what not in domains or deed.record.at > until:
                continue
            if deed.record.at >= since:
                found.append(deed.record)
            elif deed.record.kind is Kind.SUSPENDED:
                standing[deed.what] = deed.record
            else:
                standing.pop(deed.what, None)
        return (*standing.values(), *found)

    # What operators do

    async def suspend(self, what: str, reason: str, by: str) -> Suspension:
        """Try nothing for a destination, or hold all mail of a sender, until `end`; durable when it returns.

        Raises: ValueError: neither a destination nor a sender, or too many. StoreError.
        """
        what = read_subject(what)
        suspension = Suspension(what, one_line(by), one_line(reason), self._terms.clock.wall())
        known = self._like(what)
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
            await self._say_to_all(_mail_of(what, "", "deferred"), "hold", by, mark(what, suspension.reason))
        return suspension

    async def end(self, what: str, by: str) -> Suspension:
        """Let a suspended destination or sender go on at once.

        Raises: ValueError: it is not suspended, with what is. StoreError.
        """
        what = read_subject(what)
        known = self._like(what)
        if what not in known:
            names = ", ".join(each.what for each in self.all()[:10]) or "nothing is"
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
        held = mark(sender, "")
        for other in tuple(self._senders.values()):
            if other.what != sender:
                which = _mail_of(other.what, held, "held")
                await self._say_to_all(which, "hold", other.by, mark(other.what, other.reason))
        reason = f"{sender} is suspended no more"
        await self._say_to_all(_mail_of(sender, held, "held"), "release", by, reason)
        await self._say_to_all(_mail_of(sender, "", "deferred"), "release", by, reason)  # of what is being tried

    async def _say_to_all(self, which: Filter, verb: str, by: str, reason: str) -> None:
        cursor: str | None = None
        while True:
            changed = await self._terms.change(which, verb, cursor, CHUNK, by=by, reason=reason)
            if changed.cursor is None:
                return
            cursor = changed.cursor

    async def _save(self, suspension: Suspension, note: bytes, kind: Kind, by: str = "") -> None:
        record = Record(
            self._terms.next_seq(),
            kind,
            self._terms.clock.wall(),
            why=say(suspension) if kind is Kind.SUSPENDED else f"{suspension.what} goes on again",
            user=by or suspension.by,
        )
        deed = Deed(suspension.what, record)
        self._deeds = [*self._deeds[1 - DEEDS_KEPT :], deed]
        notes = {NOTES + suspension.what: note, DEEDS: msgspec.json.encode(self._deeds)}
        try:
            await self._terms.store.save_notes(notes, (record,))
        except StoreError:
            self._deeds = [each for each in self._deeds if each is not deed]
            raise
        self._terms.sink.record(record)

    def _like(self, what: str) -> dict[str, Suspension]:
        return self._senders if is_sender(what) else self._destinations

    def _stop(self) -> None:
        self._terms.stop(frozenset(self._destinations))

    # New mail

    def hold_if_suspended(self, message: Message) -> Message:
        """Give a new message as it is, or held if its sender is suspended; what another node held stays as it was."""
        suspension = self.of_sender(message.envelope.reverse_path, message.user)
        if suspension is None:
            return message
        why = f"held by {suspension.by or 'the operator'}: {mark(suspension.what, suspension.reason)}"
        if message.progress:
            if all(each.state is State.HELD for each in message.progress):
                return message
            progress = [
                each
                if each.state is State.HELD
                else replace(each, state=State.HELD, due=self._terms.clock.wall() + HOLD_S, why=why)
                for each in message.progress
            ]
            return replace(message, progress=tuple(progress))
        held = Progress(State.HELD, message.received_at + HOLD_S, 0, "", "", why)
        return replace(message, progress=(held,) * len(message.envelope.recipients))

    async def hold_late(self, message: Message) -> None:
        """Hold a message whose sender was suspended while it was being filed."""
        suspension = self.of_sender(message.envelope.reverse_path, message.user)
        if suspension is not None:
            reason = mark(suspension.what, suspension.reason)
            await self._say_to_all(Filter(id=message.id), "hold", suspension.by, reason)


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


def mark(what: str, reason: str) -> str:
    """Give the sentence by which mail that a suspension holds is known again."""
    text = f"sender {what} is suspended"
    return f"{text}: {reason}" if reason else text


def say(suspension: Suspension) -> str:
    """Say what is suspended, by whom and for what."""
    by = suspension.by or "the operator"
    text = f"{suspension.what} is suspended by {by}"
    return f"{text}: {suspension.reason}" if suspension.reason else text


def _mail_of(sender: str, reply: str, state: str) -> Filter:
    if sender.startswith(_USER):
        return Filter(sender=sender.removeprefix(_USER), reply=reply, state=state)
    if sender.startswith("@"):
        return Filter(sender_domain=sender.removeprefix("@"), reply=reply, state=state)
    return Filter(reverse_path=sender, reply=reply, state=state)
