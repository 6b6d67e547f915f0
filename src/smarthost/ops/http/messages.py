# SPDX-License-Identifier: MIT
"""/api/v1/messages: hand mail in, ask what became of a message, read its content where that is allowed."""

import asyncio
from collections.abc import AsyncIterator

from msgspec import Struct

from smarthost.mail.story import Story
from smarthost.ops.http.asking import JSON, MESSAGE, Answer, Ask, Endpoint, Parameter
from smarthost.ops.http.compose import Composed, Submission, as_lines, compose
from smarthost.ops.http.desk import Desk
from smarthost.ops.http.keys import Drawn, Kept, digest_request
from smarthost.ops.http.problems import Problem
from smarthost.ops.http.tokens import Scope
from smarthost.queue.store import Filter

FILED_S = 330.0  # above accept.intake.FILING_S: whether a message was filed is known by then
STORIES = 100
USER = "token:"  # before a token's name, as who handed a message in: no user who logs in by SMTP has such a name
_ID = 16  # mail.identity.ID_LENGTH


class Accepted(Struct, frozen=True):
    """The message is durable. `message_id`: of the header that was written, "" where the message came whole."""

    id: str
    message_id: str
    recipients: int


class Stories(Struct, frozen=True):
    """What became of the messages that were asked for, newest first."""

    stories: tuple[Story, ...]


async def submit_message(desk: Desk, ask: Ask) -> Answer:
    """File one message; the answer comes when it is durable."""
    now = desk.clock.wall()
    composed = _read(desk, ask, now)
    if not composed.recipients:
        raise Problem("unusable", "there is no recipient: set to")
    envelope = "\0".join((composed.reverse_path, *composed.recipients)).encode("utf-8", "surrogatepass")
    asked = Kept(
        now,
        digest_request(ask.media.encode(), envelope, ask.digest),
        "",
        composed.message_id,
        len(composed.recipients),
    )

    async def file(drawn: Drawn | None) -> str:
        receipt = await desk.relay.submit(
            composed.content,
            composed.reverse_path,
            composed.recipients,
            client=ask.client,
            user=f"{USER}{ask.token.name}",
            drawn=drawn,
        )
        return receipt.id

    key = ask.headers.get("idempotency-key", "")
    kept, is_repeated = await desk.keys.file_once(ask.token.digest, key, asked, file)
    headers = {"location": f"/api/v1/messages/{kept.id}"}
    if is_repeated:
        headers["idempotency-replayed"] = "true"
    return Answer(Accepted(kept.id, kept.message_id, kept.recipients), 201, headers=headers)


def _read(desk: Desk, ask: Ask, now: float) -> Composed:
    if ask.media == JSON:
        assert isinstance(ask.value, Submission), "the edge decoded it"
        return compose(ask.value, desk.config.hostname, now)
    if not ask.body:
        raise Problem("unusable", "the body holds no message")
    senders = ask.several.get("from", ())
    if len(senders) != 1:
        raise Problem("unusable", "say from=ADDRESS once in the query (empty, or <>, for reports)")
    bare = [text[1:-1] if text.startswith("<") and text.endswith(">") else text for text in senders]
    return Composed(as_lines(ask.body), bare[0], tuple(ask.several.get("to", ())))


async def tell_why(desk: Desk, ask: Ask) -> Answer:
    """Tell what became of a message: by its id, by an address, or by its Message-ID."""
    text = ask.text("text")
    n = ask.whole("limit", 10, 1, STORIES)
    return Answer(Stories(await desk.relay.why(text, n)))


async def tell_message(desk: Desk, ask: Ask) -> Answer:
    """Tell what became of one message, by its id."""
    return Answer(await find_story(desk, ask.text("id")))


async def find_story(desk: Desk, id: str) -> Story:
    """Raises: Problem: there is none."""
    stories = await desk.relay.why(id, 1) if is_id(id) else ()
    if not stories:
        raise Problem("not-found", "no message of this id is in the queue or in the records")
    return stories[0]


def is_id(text: str) -> bool:
    """Could this be a message's id? What is none is not looked for."""
    return len(text) == _ID and text.isascii() and text.isalnum()


async def give_content(desk: Desk, ask: Ask) -> Answer:
    """Give the content of a message in the queue as it was received, without what the relay puts before it."""
    if not desk.config.http.show_content:
        raise Problem("content-hidden")
    id = ask.text("id")
    if not is_id(id) or not (await desk.relay.find(Filter(id=id), None, 1)).messages:
        raise Problem("not-found", "no message of this id is in the queue: content is deleted when all is done")
    content = await desk.relay.store.content(id)

    async def pieces() -> AsyncIterator[bytes]:
        for piece in content.chunks():
            yield piece
            await asyncio.sleep(0)  # a large one is read from its file piece by piece: others may go on between

    disposition = f'attachment; filename="{id}.eml"'  # never shown in the browser: it is a stranger's HTML
    return Answer(pieces=pieces(), media=MESSAGE, headers={"content-disposition": disposition})


_ADDRESS = Parameter("id", "The message's id", place="path")
ENDPOINTS = (
    Endpoint(
        name="submitMessage",
        method="POST",
        path="/messages",
        scope=Scope.INJECT,
        about="Hand in a message. 201 means that it is durable, not that it was delivered.",
        serve=submit_message,
        answer=Accepted,
        status=201,
        parameters=(
            Parameter("from", "With message/rfc822: the reverse-path", kind="array"),
            Parameter("to", "With message/rfc822: a recipient; repeat it", kind="array"),
            Parameter(
                "Idempotency-Key",
                "The same key with the same request files one message, for 24 hours",
                place="header",
            ),
        ),
        body=Submission,
        bodies=(JSON, MESSAGE),
        body_octets=None,
        problems=("in-progress", "key-reused", "too-large", "media-type", "refused", "unusable"),
        deadline_s=FILED_S,
    ),
    Endpoint(
        name="tellWhy",
        method="GET",
        path="/messages/{text}/why",
        scope=Scope.READ,
        about="What became of messages: by id, by an address (sender or recipient), or by Message-ID. Newest first.",
        serve=tell_why,
        answer=Stories,
        parameters=(
            Parameter("text", "An id, an address or a Message-ID, percent-encoded", place="path"),
            Parameter("limit", "At most so many", "integer", least=1, most=STORIES),
        ),
        problems=("unusable",),
    ),
    Endpoint(
        name="tellMessage",
        method="GET",
        path="/messages/{id}",
        scope=Scope.READ,
        about="What became of one message, recipient by recipient: what it waits for, and what would unblock it.",
        serve=tell_message,
        answer=Story,
        parameters=(_ADDRESS,),
        problems=("not-found",),
    ),
    Endpoint(
        name="giveContent",
        method="GET",
        path="/messages/{id}/content",
        scope=Scope.CONTENT,
        about="The content of a message in the queue; only where http.show_content allows it.",
        serve=give_content,
        media=MESSAGE,
        parameters=(_ADDRESS,),
        problems=("content-hidden", "not-found"),
    ),
)
