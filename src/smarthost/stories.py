# SPDX-License-Identifier: MIT
"""Tells why a recipient is where it is, what happened to it, and what comes next: promise 3.

Asks whoever decides it: the store, the feed, the lanes, the operator's suspensions, the health of hosts. Changes
nothing, plans nothing, guesses nothing. Records tell the rest, for as long as they are kept, also of what has gone.
Asked by `smarthost why`, the API and the page.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress

from msgspec import Struct
from msgspec.structs import replace

from smarthost.mail.address import recipient_domain
from smarthost.mail.hop import Host
from smarthost.mail.identity import decode_id
from smarthost.mail.plan import NoPlan, Plan
from smarthost.mail.record import TERMINAL_KINDS, Kind, Record
from smarthost.mail.settlement import State
from smarthost.mail.story import Cause, RecipientStory, Story, Suspension, Waiting
from smarthost.ports import Clock
from smarthost.queue.audit import Claim, Standing
from smarthost.queue.fairness import LaneState
from smarthost.queue.store import Filter, Store, StoredMessage, StoredRecipient
from smarthost.queue.verbs import DAMAGED
from smarthost.route.broken import HealthState, HostState
from smarthost.route.health import CONNECT
from smarthost.send.gates import gate_keys
from smarthost.suspensions import mark

RECORDS = 500  # of one message
STORIES = 50
PAGES = 20  # of the store's find, at 20,000 recipients each, for mail older than the records
LEASED = "leased"
FORGOTTEN = "forgotten"


class StoriesTerms(Struct, frozen=True):
    """Whom to ask; most of these are the journey's.

    By an operator: `suspension_of` a domain, `suspension_of_sender` (reverse-path, user), and what was
    `suspended_during` a span of these domains. `asleep`: (until, why) when all hosts of a domain are known as broken.
    `lane_of` gives how busy the lane of a destination is, `owners_of` who has a message's leased recipients,
    `standing` who looks after what is due.
    """

    store: Store
    clock: Clock
    is_paused: Callable[[], bool]
    is_drained: Callable[[], bool]
    suspension_of: Callable[[str], Suspension | None]
    suspension_of_sender: Callable[[str, str], Suspension | None]
    suspended_during: Callable[[Collection[str], float, float], tuple[Record, ...]]
    asleep: Callable[[str], tuple[float, str] | None]
    destination_of: Callable[[str], str]
    recall: Callable[[str], Plan | NoPlan | None]
    state_of: Callable[[str, str], HostState]
    owners_of: Callable[[str], Mapping[int, Claim]]
    lane_of: Callable[[str], LaneState | None]
    is_planning: Callable[[str], bool]
    standing: Callable[[str], Standing | None]
    expires_at: Callable[[float], float]


class Stories:
    """Tells; changes nothing."""

    def __init__(self, terms: StoriesTerms) -> None:
        self._terms = terms
        self._store = terms.store

    async def tell(self, text: str, n: int) -> tuple[Story, ...]:
        """Give the story of the message with this id or Message-ID, or of the newest `n` (up to 50) to this address.

        An address without anything to tell gives (). Raises: StoreError.
        """
        text = text.strip()
        with suppress(ValueError):
            decode_id(text)
            story = await self._tell_one(text.lower())
            return () if story is None else (story,)
        ids = await self._ids_of(text, min(n, STORIES))
        stories = [await self._tell_one(id) for id in ids]
        return tuple([story for story in stories if story is not None])

    async def _ids_of(self, text: str, n: int) -> list[str]:
        names = [text] if text.startswith("<") else [text, f"<{text}>"]
        if text.startswith("<") and text.endswith(">"):
            names.append(text[1:-1])
        found: dict[str, float] = {}
        for name in names:
            found.update({record.id: record.at for record in await self._store.accepted_for(name, n)})
        if not found and not await self._store.remembers_all():
            found = await self._scan_for(text.removeprefix("<").removesuffix(">"), n)
        return sorted(found, key=lambda id: (found[id], id), reverse=True)[:n]

    async def _scan_for(self, address: str, n: int) -> dict[str, float]:
        """Look through the queue itself: what waits there may be older than all records."""
        found: dict[str, float] = {}
        cursor: str | None = None
        for _ in range(PAGES):
            page = await self._store.find(Filter(recipient=address), cursor, n)
            found.update({message.id: message.received_at for message in page.messages})
            cursor = page.cursor
            if cursor is None or len(found) >= n:
                break
        return found

    async def _tell_one(self, id: str) -> Story | None:
        page = await self._store.find(Filter(id=id), None, 1)
        timeline = await self._store.history(id, RECORDS)
        if page.messages:
            return self._tell_queued(page.messages[0], timeline)
        return self._tell_gone(id, timeline) if timeline else None

    def _tell_queued(self, message: StoredMessage, timeline: tuple[Record, ...]) -> Story:
        accepted = _acceptance_in(timeline)
        owners = self._terms.owners_of(message.id)
        user = accepted.user if accepted else ""
        queued = [self._tell_recipient(message, user, each, owners.get(each.n)) for each in message.recipients]
        known = {each.address for each in queued}
        gone = [each for each in _tell_ended(timeline) if each.address not in known]
        domains = {recipient_domain(each.domain) for each in message.recipients}
        return Story(
            id=message.id,
            received_at=message.received_at,
            reverse_path=message.reverse_path,
            octets=message.octets,
            client=message.client,
            is_queued=True,
            recipients=(*queued, *gone),
            timeline=self._with_suspensions(timeline, domains, message.received_at, self._terms.clock.wall()),
            user=user,
            message_id=accepted.message_id if accepted else "",
            is_cut=len(timeline) >= RECORDS,
        )

    def _tell_gone(self, id: str, timeline: tuple[Record, ...]) -> Story:
        accepted = _acceptance_in(timeline)
        known = accepted or timeline[0]
        ended = _tell_ended(timeline)
        domains = {recipient_domain(each.address.rpartition("@")[2].lower()) for each in ended}
        return Story(
            id=id,
            received_at=known.at if accepted else 0.0,
            reverse_path=known.reverse_path,
            octets=known.octets,
            client=known.client,
            is_queued=False,
            recipients=tuple(ended),
            timeline=self._with_suspensions(timeline, domains, timeline[0].at, timeline[-1].at),
            user=accepted.user if accepted else "",
            message_id=accepted.message_id if accepted else "",
            is_cut=len(timeline) >= RECORDS,
        )

    def _with_suspensions(
        self, timeline: tuple[Record, ...], domains: Collection[str], since: float, until: float
    ) -> tuple[Record, ...]:
        """Put in what kept its destinations back: nothing was tried then, so no record of the message tells of it."""
        suspended = self._terms.suspended_during(domains, since, until)
        return tuple(sorted((*timeline, *suspended), key=lambda record: record.at)) if suspended else timeline

    def _tell_recipient(
        self, message: StoredMessage, user: str, recipient: StoredRecipient, claim: Claim | None
    ) -> RecipientStory:
        destination = self._terms.destination_of(recipient.domain)
        plan = self._terms.recall(destination)
        story = RecipientStory(
            address=recipient.address,
            state=recipient.state,
            attempts=recipient.attempts,
            destination=destination,
            lane=plan.lane if isinstance(plan, Plan) else "",
        )
        if recipient.state not in (State.DEFERRED.value, State.HELD.value, LEASED):
            waiting = Waiting(
                Cause.TURN, f"it is {recipient.state}; the report about it is not written yet",
                "the report is written", self._terms.clock.wall() + 60.0, recipient.last_reply or recipient.why,
            )  # fmt: skip
            return replace(story, waiting=waiting)
        if recipient.state == LEASED:
            return replace(story, waiting=self._explain_leased(recipient, destination, claim))
        if recipient.state == State.HELD.value:
            suspension = self._terms.suspension_of_sender(message.reverse_path, user)
            return replace(story, waiting=_explain_held(message, recipient, suspension))
        return replace(story, waiting=self._explain(message, recipient, destination, plan))

    def _explain(
        self, message: StoredMessage, recipient: StoredRecipient, destination: str, plan: Plan | NoPlan | None
    ) -> Waiting:
        if (stopped := self._explain_stopped(message, recipient)) is not None:
            return stopped
        now = self._terms.clock.wall()
        if recipient.awaits_host and recipient.due > now:
            return self._explain_hosts(message, recipient, plan, recipient.due, recipient.why)
        if recipient.due > now:
            return self._explain_schedule(message, recipient)
        if (asleep := self._terms.asleep(recipient.domain)) is not None:
            return self._explain_hosts(message, recipient, plan, *asleep)
        return self._explain_due(recipient, destination)

    def _explain_leased(self, recipient: StoredRecipient, destination: str, claim: Claim | None) -> Waiting:
        owner = "nobody" if claim is None else claim.owner
        next_at = 0.0 if claim is None or claim.next_at is None else claim.next_at
        evidence = recipient.last_reply or recipient.why
        if owner == "an attempt":
            return Waiting(Cause.ATTEMPT, "it is being tried now", "the attempt ends", next_at, evidence, owner)
        if owner == "the feed":
            return self._explain_turn(destination, next_at, evidence)
        if owner == "the store":
            why = "its last attempt has ended; what came of it is being made durable"
            return Waiting(Cause.STORE, why, "the store commits", next_at, evidence, owner)
        if owner == "nobody":  # between two owners at this very moment, or the auditor's business
            return Waiting(Cause.TURN, "it is changing hands at this moment", "ask again", next_at, evidence)
        return Waiting(Cause.TURN, f"{owner} has it", "that ends", next_at, evidence, owner)

    def _explain_turn(self, destination: str, next_at: float, evidence: str) -> Waiting:
        lane = self._terms.lane_of(destination)
        if lane is None:
            return Waiting(Cause.ROUTING, "its destination is being planned", "a session takes it", next_at, evidence)
        where = f"lane {lane.name}"
        if lane.is_crowded_out:
            why = f"{where} waits for others: all sessions of this relay are in use"
            return Waiting(Cause.LANE, why, "a session ends", next_at, evidence, where)
        if lane.sessions >= lane.window:
            doubt = "" if lane.is_proven else ", so few because none of its hosts has answered yet"
            why = f"{where} is full: {lane.sessions} of {lane.window} sessions are in use{doubt}"
            return Waiting(Cause.LANE, why, "a session of the lane takes it", next_at, evidence, where)
        others = f" among {lane.destinations} destinations" if lane.destinations > 1 else ""
        why = f"it waits for its turn{others} on {where}"
        return Waiting(Cause.TURN, why, "a session of the lane takes it", next_at, evidence, where)

    def _explain_stopped(self, message: StoredMessage, recipient: StoredRecipient) -> Waiting | None:
        """Say what keeps all mail of its kind, whatever its time."""
        terms, evidence = self._terms, recipient.last_reply or recipient.why
        if terms.is_paused():
            return Waiting(
                Cause.PAUSE, "all delivery is paused", "it goes when the pause ends", 0.0, evidence, "an operator",
                unblocked_by=("smarthost resume",),
            )  # fmt: skip
        if terms.is_drained():
            return Waiting(
                Cause.DRAIN, "the queue is being moved to another node", "it is moved", 0.0, evidence, "an operator",
                unblocked_by=("smarthost drain --cancel",),
            )  # fmt: skip
        suspension = terms.suspension_of(recipient.domain)
        if suspension is None:
            return None
        reason = f": {suspension.reason}" if suspension.reason else ""
        return Waiting(
            Cause.SUSPENSION,
            f"mail to {suspension.what} is suspended{reason}",
            "it expires, unless the suspension ends",
            terms.expires_at(message.received_at),
            evidence,
            suspension.by or "an operator",
            suspension.since,
            (f"smarthost resume {suspension.what}",),
        )

    def _explain_schedule(self, message: StoredMessage, recipient: StoredRecipient) -> Waiting:
        tried = (
            f"after {recipient.attempts} attempt{'' if recipient.attempts == 1 else 's'}" if recipient.attempts else ""
        )
        return Waiting(
            Cause.RETRY_TIME,
            f"deferred {tried}: {recipient.why or recipient.last_reply}".replace("  ", " ").replace(" :", ":"),
            self._say_next(message, recipient),
            recipient.due,
            recipient.last_reply,
            "the retry schedule",
            unblocked_by=(f"smarthost queue retry {message.id}",),
        )

    def _say_next(self, message: StoredMessage, recipient: StoredRecipient) -> str:
        expires_at = self._terms.expires_at(message.received_at)
        return "it expires, and its sender is told" if recipient.due >= expires_at else "it is tried again"

    def _explain_hosts(
        self, message: StoredMessage, recipient: StoredRecipient, plan: Plan | NoPlan | None, until: float, why: str
    ) -> Waiting:
        # what a host has said tells more than that another, or its other address, cannot be reached
        broken = sorted(self._broken(plan), key=lambda each: (each[1].step == CONNECT, each[1].since))
        return Waiting(
            Cause.HOST_HEALTH,
            f"no host of its destination can be asked: {why}",
            "one of its hosts is probed; if it works, this goes at once",
            min([state.until for _, state in broken if state.until], default=until),
            "; ".join([f"{host.name} [{state.address}]: {state.evidence}" for host, state in broken[:3]]) or why,
            "the health of its hosts",
            broken[0][1].since if broken else 0.0,
            (
                *dict.fromkeys([f"smarthost hosts reset {state.address}" for _, state in broken[:3]]),
                f"smarthost queue retry {message.id}",
            ),
        )

    def _broken(self, plan: Plan | NoPlan | None) -> Iterable[tuple[Host, HostState]]:
        if not isinstance(plan, Plan):
            return
        for host in plan.hosts:
            for address in host.addresses:
                for key in gate_keys(plan.policy_of(host)):
                    state = self._terms.state_of(key, address)
                    if state.state is not HealthState.CLOSED:
                        yield host, state

    def _explain_due(self, recipient: StoredRecipient, destination: str) -> Waiting:
        """Its time has come, it is on disk, and nobody has it."""
        terms, evidence = self._terms, recipient.last_reply or recipient.why
        if (refusal := terms.store.refusal) is not None:
            why = f"the store is in trouble: {refusal}"
            return Waiting(Cause.STORE, why, "the store serves again", 0.0, evidence, "the store")
        if terms.is_planning(destination):
            return Waiting(Cause.ROUTING, "its destination is being planned", "a session takes it", 0.0, evidence)
        standing = terms.standing(recipient.domain)
        lane = terms.lane_of(destination)
        if lane is not None and (lane.sessions >= lane.window or lane.is_crowded_out):
            return self._explain_turn(destination, 0.0 if standing is None else standing[1], evidence)
        owner, next_at = ("the next scan for what is due", 0.0) if standing is None else standing
        return Waiting(
            Cause.TURN, "it is due, and behind others of its destination", f"{owner} finds it", next_at, evidence, owner
        )


def _explain_held(message: StoredMessage, recipient: StoredRecipient, suspension: Suspension | None) -> Waiting:
    is_damaged = recipient.why.startswith(DAMAGED)
    release = f"smarthost queue {'retry' if is_damaged else 'release'} {message.id}"
    if suspension is not None and mark(suspension.what, "") in recipient.why:
        return Waiting(
            Cause.SUSPENSION, recipient.why, "it expires, and its sender is told", recipient.due, recipient.last_reply,
            suspension.by or "an operator", suspension.since,
            (f"smarthost resume {suspension.what}", release, f"smarthost queue cancel {message.id}"),
        )  # fmt: skip
    return Waiting(
        Cause.DAMAGE if is_damaged else Cause.HOLD,
        recipient.why or "it is held",
        "it expires, and its sender is told",
        recipient.due,
        recipient.last_reply,
        "the store" if is_damaged else "an operator",
        unblocked_by=(release, f"smarthost queue cancel {message.id}"),
    )


def _acceptance_in(timeline: Iterable[Record]) -> Record | None:
    return next((record for record in timeline if record.kind is Kind.ACCEPTED), None)


def _tell_ended(timeline: tuple[Record, ...]) -> list[RecipientStory]:
    """Give the recipients that the records know, as far as those tell."""
    last: dict[str, Record] = {}
    ended: dict[str, Record] = {}
    for record in timeline:
        for address in (record.recipient, *record.recipients):
            if not address:
                continue
            last.setdefault(address, record)
            if record.kind in TERMINAL_KINDS:
                ended[address] = record
    return [
        RecipientStory(
            address, ended[address].kind.value if address in ended else FORGOTTEN,
            ended[address].attempt if address in ended else 0,
            recipient_domain(address.rpartition("@")[2].lower()),
            ended[address].lane if address in ended else "", None, ended.get(address),
        )
        for address in last
    ]  # fmt: skip
