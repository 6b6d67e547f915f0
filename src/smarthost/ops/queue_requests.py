# SPDX-License-Identifier: MIT
"""What operators ask of the queue on the control socket: find, change, count, why, suspend; each gives answers.

Goes through the queue in portions, so that a million recipients fill no memory; who asked and went away ends it.
Decides nothing: `assemble.Relay` does it all.
"""

from collections.abc import AsyncIterator

from msgspec.structs import replace

from smarthost.ops import verbs
from smarthost.ops.door import Door
from smarthost.queue.store import Filter

PAGE = 50  # messages; one may have 1,000 recipients
CHUNK = 1000  # recipients; queue.store allows no more

QueueRequest = (
    verbs.QueueFind
    | verbs.QueueChange
    | verbs.QueueSummary
    | verbs.Why
    | verbs.Watch
    | verbs.Suspend
    | verbs.EndSuspension
    | verbs.SuspensionsFind
)


async def answer_about_queue(door: Door, request: QueueRequest, peer: str) -> AsyncIterator[verbs.Answer]:
    """Carry a request out for the user `peer`, and give the answers. Raises: ValueError, StoreError."""
    match request:
        case verbs.QueueFind():
            async for found in _find(door, request):
                yield found
        case verbs.QueueChange():
            async for changed in _change(door, request, _name(peer, request.by)):
                yield changed
        case verbs.QueueSummary():
            yield verbs.Summarised(await door.summary(request.n))
        case verbs.Why():
            for story in await door.why(request.text, request.n):
                yield verbs.StoryTold(story)
        case verbs.Watch():
            yield verbs.Watched(*door.watch())
        case verbs.Suspend():
            name = _name(peer, request.by)
            yield verbs.SuspensionFound(await door.suspend(request.subject, request.reason, name))
        case verbs.EndSuspension():
            yield verbs.SuspensionFound(await door.end_suspension(request.subject, _name(peer, request.by)))
        case verbs.SuspensionsFind():
            for suspension in door.suspensions():
                yield verbs.SuspensionFound(suspension)


async def _find(door: Door, request: verbs.QueueFind) -> AsyncIterator[verbs.Answer]:
    which = await _with_lane(door, request.which, request.lane)
    cursor: str | None = None
    while which is not None:
        page = await door.find(which, cursor, PAGE)
        for message in page.messages:
            yield verbs.Found(message)
        if (cursor := page.cursor) is None:
            return


async def _change(door: Door, request: verbs.QueueChange, by: str) -> AsyncIterator[verbs.Answer]:
    which = await _with_lane(door, request.which, request.lane)
    cursor: str | None = None
    while which is not None:
        changed = await door.change(
            which, request.change, cursor, CHUNK,
            by=by, reason=request.reason, via=request.via, dry_run=request.dry_run,
        )  # fmt: skip
        yield verbs.ChangedSome(changed.recipients, changed.wished)
        if (cursor := changed.cursor) is None:
            return


async def _with_lane(door: Door, which: Filter, lane: str) -> Filter | None:
    """Give the filter with the domains that a lane serves; None: it serves nobody."""
    if not lane:
        return which
    domains = await door.domains_of_lane(lane)
    return replace(which, domains=domains) if domains else None


def _name(peer: str, by: str) -> str:
    """Give who asks: the user whom the kernel names, and for whom that is, as it says."""
    return f"{peer} ({by})" if by and by != peer else peer
