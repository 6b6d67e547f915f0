# SPDX-License-Identifier: MIT
"""What operators suspended: to look at, to add to, to end."""

from urllib.parse import urlencode

import msgspec
from msgspec import Struct
from starlette.responses import Response

from smarthost.ops.http.desk import Desk
from smarthost.ops.http.page.visits import Visit
from smarthost.ops.http.page.wording import counted
from smarthost.ops.http.problems import Problem
from smarthost.ops.http.queue import QueueFilter, to_filter

COUNTED = 50  # suspensions whose mail is counted on one page
MESSAGES = 1000  # of each


async def show(visit: Visit) -> Response:
    """Draw them."""
    found = visit.desk.relay.suspensions()
    kept = {each.what: await count_kept(visit.desk, each.what) for each in found[:COUNTED]}
    return visit.draw("suspensions.html", suspensions=found, kept=kept, what=visit.asked("what"))


class Kept(Struct, frozen=True):
    """How many recipients a suspension keeps back, or at least so many; and where they are listed."""

    recipients: int
    is_all: bool
    path: str


async def count_kept(desk: Desk, what: str) -> Kept:
    """Count what a suspension keeps back. Raises: StoreError."""
    name = "sender" if what.startswith(("user:", "@")) else "from" if "@" in what else "destination"
    written = {name: what.removeprefix("user:")}
    which = to_filter(msgspec.convert(written, QueueFilter), desk.clock.wall())
    page = await desk.relay.find(which, None, MESSAGES)
    recipients = sum([len(message.recipients) for message in page.messages])
    return Kept(recipients, page.cursor is None, f"/queue?{urlencode(written)}")


async def begin(visit: Visit) -> Response:
    """Suspend a destination or a sender."""
    what, reason = visit.form.get("what", "").strip(), visit.form.get("reason", "").strip()
    if not what or not reason:
        raise Problem("unusable", "say what to suspend, and why")
    made = await visit.desk.relay.suspend(what, reason, f"{visit.token.name} (page)")
    visit.desk.remembered.forget()
    kept = await count_kept(visit.desk, made.what)
    count = f"{counted(kept.recipients, 'recipient')}{'' if kept.is_all else ' or more'}"
    return visit.go_to("/suspensions", f"{made.what} is suspended: {count} of the queue, and what comes.")


async def end(visit: Visit) -> Response:
    """End a suspension."""
    ended = await visit.desk.relay.end_suspension(visit.form.get("what", ""), f"{visit.token.name} (page)")
    visit.desk.remembered.forget()
    return visit.go_back("/suspensions", f"{ended.what} goes on again.")
