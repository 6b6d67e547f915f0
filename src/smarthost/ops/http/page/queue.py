# SPDX-License-Identifier: MIT
"""The queue with its filters, and the verbs: first what would change, then the reason, then the deed."""

from collections.abc import Mapping
from urllib.parse import urlencode

import msgspec
from msgspec.structs import replace
from starlette.responses import Response

from smarthost.ops.http.page.visits import Visit
from smarthost.ops.http.page.wording import VERBS
from smarthost.ops.http.problems import Problem
from smarthost.ops.http.queue import Acted, Action, QueueFilter, carry_out, find_page

MESSAGES = 40
EXAMPLES = 8  # of what a verb would change
FIELDS = ("id", "from", "to", "destination", "sender", "reply", "state", "older_than")
AGES = ((0, "any age"), (600, "10 minutes"), (3600, "1 hour"), (4 * 3600, "4 hours"), (86_400, "1 day"))


async def show(visit: Visit) -> Response:
    """Draw a page of the queue."""
    written = {name: visit.asked(name).strip() for name in FIELDS if visit.asked(name).strip()}
    asked = read_filter(written)
    page = await find_page(visit.desk, asked, visit.asked("cursor") or None, MESSAGES)
    return visit.draw(
        "queue.html",
        page=page,
        written=written,
        ages=AGES,
        is_filtered=bool(written),
        is_first=not visit.asked("cursor"),
        first=f"/queue?{urlencode(written)}",
        next=f"/queue?{urlencode({**written, 'cursor': page.cursor})}" if page.cursor else "",
    )


def read_filter(written: Mapping[str, str]) -> QueueFilter:
    """Raises: Problem: an age that is none."""
    older = written.get("older_than", "") or "0"
    if not (older.isascii() and older.isdecimal() and len(older) < 10):
        raise Problem("unusable", "older_than: expected seconds")
    fields = {name: written[name].strip() for name in FIELDS if written.get(name) and name != "older_than"}
    return msgspec.convert({**fields, "older_than": int(older)}, QueueFilter)


async def preview(visit: Visit) -> Response:
    """Say what a verb would change, and ask why it is wanted."""
    action = _read_action(visit, is_dry_run=True)
    acted = await carry_out(visit.desk, action, f"{visit.token.name} (page)")
    named = [
        message
        for id in acted.named[:EXAMPLES]
        for message in (await find_page(visit.desk, replace(action.filter, id=id), None, 1)).messages
    ]
    return visit.draw(
        "preview.html", action=action, acted=acted, named=named, written=_written(visit), back=_back(visit)
    )


async def act(visit: Visit) -> Response:
    """Do it, and say what was done."""
    action = _read_action(visit, is_dry_run=False)
    if not action.reason.strip():
        raise Problem("unusable", "say why: the reason stays with what you do, for whoever looks at it later")
    acted = await carry_out(visit.desk, action, f"{visit.token.name} (page)")
    return visit.go_to(_back(visit), tell(acted))


def tell(acted: Acted) -> str:
    """Say what was done in a sentence."""
    said = f"{acted.verb}: {acted.changed:,} recipients of {acted.messages:,} messages changed"
    if acted.wished:
        said += f"; {acted.wished:,} are being tried now and follow after their attempt"
    return said + (". There is more: do it again." if acted.cursor else ".")


def _read_action(visit: Visit, *, is_dry_run: bool) -> Action:
    form = visit.form
    if form.get("verb") not in dict(VERBS):
        raise Problem("unusable", "choose what to do")
    asked = read_filter(_written(visit))
    fields = {
        "verb": form["verb"],
        "reason": form.get("reason", "").strip(),
        "via": form.get("via", "").strip(),
        "dry_run": is_dry_run,
        "everything": form.get("everything") == "yes",
    }
    action = msgspec.convert(fields, Action)
    return replace(action, filter=asked)


def _written(visit: Visit) -> dict[str, str]:
    return {name: visit.form[name] for name in FIELDS if visit.form.get(name)}


def _back(visit: Visit) -> str:
    """Give where the verb came from: a message's page, or the queue with its filter."""
    written = _written(visit)
    id = written.get("id", "")
    if visit.form.get("from_message") == "yes" and id.isascii() and id.isalnum():
        return f"/message/{id}"
    return f"/queue?{urlencode(written)}" if written else "/queue"
