# SPDX-License-Identifier: MIT
"""/api/v1/queue: what waits, in pages and in figures, and the verbs upon it."""

from typing import Literal

import msgspec
from msgspec import Struct

from smarthost.mail.story import Summary
from smarthost.ops.http.asking import JSON, Answer, Ask, Endpoint, Parameter
from smarthost.ops.http.desk import Desk
from smarthost.ops.http.problems import Problem
from smarthost.ops.http.tokens import Scope
from smarthost.ops.wanted import read_sender
from smarthost.queue.store import NULL_PATH, Filter, StoredMessage

PAGE = 100
RECIPIENTS = 100  # shown of one message
SUMMARY_S = 4.0
NAMES = 50  # of each kind
ACTION_S = 60.0  # then the answer has a cursor to go on with
CHUNK = 1000  # recipients; queue.store allows no more
NAMED = 20
Verb = Literal["retry", "hold", "release", "cancel", "bounce", "expire", "reroute"]
_YEARS_S = 10 * 365 * 86_400


class QueueRecipient(Struct, frozen=True):
    """An unfinished recipient. `state`: "deferred", "held", "leased" (being tried), or an end not yet reported."""

    address: str
    destination: str
    state: str
    attempts: int
    next_attempt_at: float
    status: str
    last_reply: str
    why: str
    awaits_host: bool


class QueueMessage(Struct, frozen=True):
    """A message in the queue with those of its recipients that match: the first hundred of `recipient_count`."""

    id: str
    received_at: float
    reverse_path: str
    client: str
    sender: str
    octets: int
    recipient_count: int
    recipients: tuple[QueueRecipient, ...]


class QueuePage(Struct, frozen=True):
    """A page of the queue, oldest first; `cursor` is null after the last."""

    messages: tuple[QueueMessage, ...]
    cursor: str | None


class QueueFilter(Struct, forbid_unknown_fields=True, frozen=True, rename={"reverse_path": "from", "recipient": "to"}):
    """Which recipients: fields that are set must all fit, addresses without case.

    `from` "<>" means reports. `reply`: a part of the last reply or of the reason. `older_than`: seconds.
    """

    id: str = ""
    reverse_path: str = ""
    recipient: str = ""
    destination: str = ""
    sender: str = ""
    reply: str = ""
    state: str = ""
    older_than: int = 0


class Action(Struct, forbid_unknown_fields=True, frozen=True):
    """A verb upon all recipients that match. An empty filter needs `everything`.

    `via`, of "reroute": "mx", or a host such as "smtp.example.net:587"; empty: by the routes again.

    `cursor`: to go on where an answer stopped.
    """

    verb: Verb
    filter: QueueFilter = QueueFilter()
    reason: str = ""
    via: str = ""
    dry_run: bool = False
    everything: bool = False
    cursor: str | None = None


class Acted(Struct, frozen=True):
    """How many recipients changed, and how many that are being tried now will (`wished`); of how many messages.

    `named`: some of their ids. A dry run changes nothing, and says what would change. `cursor`: there is more: repeat.
    """

    verb: str
    dry_run: bool
    changed: int
    wished: int
    messages: int
    named: tuple[str, ...]
    cursor: str | None


def to_filter(asked: QueueFilter, now: float) -> Filter:
    """Give the store's filter. Raises: Problem: a state that is none."""
    if asked.state not in ("", "deferred", "held"):
        raise Problem("unusable", "state: expected deferred or held")
    sender, sender_domain = read_sender(asked.sender)
    return Filter(
        id=asked.id,
        reverse_path=asked.reverse_path,
        recipient=asked.recipient,
        domain=asked.destination.lower(),
        sender=sender,
        sender_domain=sender_domain,
        reply=asked.reply,
        state=asked.state,
        received_before=now - asked.older_than if asked.older_than else 0.0,
    )


async def list_queue(desk: Desk, ask: Ask) -> Answer:
    """Give a page of the queue."""
    given = {parameter.name: ask.text(parameter.name) for parameter in _FILTER if parameter.kind == "string"}
    older = ask.whole("older_than", 0, 0, _YEARS_S)
    asked = msgspec.convert({**given, "older_than": older}, QueueFilter)
    return Answer(await find_page(desk, asked, ask.text("cursor") or None, ask.whole("limit", 50, 1, PAGE)))


async def find_page(desk: Desk, asked: QueueFilter, cursor: str | None, n: int) -> QueuePage:
    """Give a page of the queue. Raises: ValueError: a damaged cursor. Problem. StoreError."""
    page = await desk.relay.find(to_filter(asked, desk.clock.wall()), cursor, n)
    return QueuePage(tuple(map(_shown, page.messages)), page.cursor)


def _shown(message: StoredMessage) -> QueueMessage:
    recipients = [
        QueueRecipient(
            each.address,
            each.domain,
            each.state,
            each.attempts,
            each.due,
            each.status,
            each.last_reply,
            each.why,
            each.awaits_host,
        )
        for each in message.recipients[:RECIPIENTS]
    ]
    return QueueMessage(
        message.id,
        message.received_at,
        message.reverse_path,
        message.client,
        message.sender,
        message.octets,
        len(message.recipients),
        tuple(recipients),
    )


async def summarize(desk: Desk, _: Ask) -> Answer:
    """Give the queue in figures."""
    return Answer(await read_summary(desk))


async def read_summary(desk: Desk) -> Summary:
    """Give the queue in figures, as it was a few seconds ago at most. Raises: StoreError."""
    found: Summary = await desk.remembered.ask("summary", SUMMARY_S, lambda: desk.relay.summary(NAMES))
    return found


async def act(desk: Desk, ask: Ask) -> Answer:
    """Apply a verb, or tell what it would change."""
    action: Action = ask.value
    return Answer(await carry_out(desk, action, f"{ask.token.name} (API)"))


async def carry_out(desk: Desk, action: Action, by: str) -> Acted:
    """Apply a verb chunk by chunk, for at most `ACTION_S`. Raises: Problem, ValueError, StoreError."""
    if action.filter == QueueFilter() and not action.everything:
        raise Problem("unusable", "filter: it is empty; say which mail, or everything: true")
    if len(action.reason) > 500 or not action.reason.isprintable() or not action.via.isprintable():
        raise Problem("unusable", "reason: at most 500 characters, and no control characters")
    which = to_filter(action.filter, desk.clock.wall())
    changed = wished = 0
    ids: set[str] = set()
    named: dict[str, None] = {}
    cursor = action.cursor
    ends_at = desk.clock.monotonic() + ACTION_S
    while True:
        chunk = await desk.relay.change(
            which,
            action.verb,
            cursor,
            CHUNK,
            by=by,
            reason=action.reason,
            via=action.via,
            dry_run=action.dry_run,
        )
        changed += len(chunk.recipients)
        wished += len(chunk.wished)
        for id, _ in (*chunk.recipients, *chunk.wished):
            ids.add(id)
            if len(named) < NAMED:
                named[id] = None
        cursor = chunk.cursor
        if cursor is None or desk.clock.monotonic() >= ends_at:
            break
    if not action.dry_run:
        desk.remembered.forget()
    return Acted(action.verb, action.dry_run, changed, wished, len(ids), tuple(named), cursor)


_FILTER = (
    Parameter("id", "Of this message"),
    Parameter("from", f"With this reverse-path; {NULL_PATH} for reports"),
    Parameter("to", "For this recipient"),
    Parameter("destination", "For recipients in this domain"),
    Parameter("sender", "Of this sender, as fairness counts: a user, a reverse-path or a client"),
    Parameter("reply", "Whose last reply or reason contains this"),
    Parameter("state", "In this state", choices=("deferred", "held")),
    Parameter("older_than", "Received at least so many seconds ago", "integer", least=0, most=_YEARS_S),
)
ENDPOINTS = (
    Endpoint(
        name="listQueue",
        method="GET",
        path="/queue",
        scope=Scope.READ,
        about="What waits, oldest first, a page at a time.",
        serve=list_queue,
        answer=QueuePage,
        parameters=(
            *_FILTER,
            Parameter("cursor", "Of the page before"),
            Parameter("limit", "At most so many messages", "integer", least=1, most=PAGE),
        ),
        problems=("unusable",),
    ),
    Endpoint(
        name="summarizeQueue",
        method="GET",
        path="/queue/summary",
        scope=Scope.READ,
        about="The queue in figures, by destination, sender and reason; counted at most every four seconds.",
        serve=summarize,
        answer=Summary,
    ),
    Endpoint(
        name="actOnQueue",
        method="POST",
        path="/queue/actions",
        scope=Scope.OPERATE,
        about="Apply a verb to all recipients that match. dry_run tells what would change, and changes nothing.",
        serve=act,
        answer=Acted,
        body=Action,
        bodies=(JSON,),
        problems=("unusable", "media-type"),
        deadline_s=ACTION_S + 60,
    ),
)
