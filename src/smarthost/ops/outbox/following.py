# SPDX-License-Identifier: MIT
"""Tells a command the records behind a cursor, and, if it follows, those to come, until it goes away.

The daemon's half of `smarthost events`. Reads a page at a time, and lets others have their turn between two; a command
that does not keep up is left by whoever writes to it. Asks memory, not the store, while there is nothing new.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from smarthost.mail.record import Kind, Record
from smarthost.ops import verbs
from smarthost.ops.outbox.lines import cursor_of, seq_of, to_line

PAGE = 500
POLL_S = 0.25
WORKING_S = 10.0  # below client.ANSWER_S by far
NOW = "now"


class Say(Protocol):
    """Whoever writes answers to the command; raises when it is gone."""

    def __call__(self, *answers: verbs.Answer) -> Awaitable[None]: ...


async def tell_events(
    records: Callable[[int, int], Awaitable[tuple[Record, ...]]],
    horizon: Callable[[], int],
    request: verbs.EventsFind,
    say: Say,
) -> None:
    """Tell them. Raises: ValueError: no cursor of ours, an unknown kind; StoreError."""
    kinds = frozenset(request.kinds)
    if unknown := sorted(kinds - {kind.value for kind in Kind}):
        raise ValueError(f"unknown kind {unknown[0]!r}: one of {', '.join(kind.value for kind in Kind)}")
    after = horizon() if request.after == NOW else seq_of(request.after) if request.after else 0
    looked_until = -1
    quiet_s = 0.0
    while True:
        new_horizon = horizon()
        page = await records(after, PAGE) if new_horizon > looked_until else ()
        if page:
            after = page[-1].seq
            wanted = [each for each in page if not kinds or each.kind.value in kinds]
            await say(verbs.EventsFound(tuple([msgspec.Raw(to_line(each)) for each in wanted]), cursor_of(after)))
            quiet_s = 0.0
            await asyncio.sleep(0)
            continue
        if not request.follow:
            await say(verbs.Done())
            return
        looked_until = new_horizon
        await asyncio.sleep(POLL_S)
        quiet_s += POLL_S
        if quiet_s >= WORKING_S:
            quiet_s = 0.0
            await say(verbs.Working())
