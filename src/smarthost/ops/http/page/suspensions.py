# SPDX-License-Identifier: MIT
"""What operators suspended: to look at, to add to, to end."""

from starlette.responses import Response

from smarthost.ops.http.page.visits import Visit
from smarthost.ops.http.problems import Problem


async def show(visit: Visit) -> Response:
    """Draw them."""
    return visit.draw("suspensions.html", suspensions=visit.desk.relay.suspensions(), what=visit.asked("what"))


async def begin(visit: Visit) -> Response:
    """Suspend a destination or a sender."""
    what, reason = visit.form.get("what", "").strip(), visit.form.get("reason", "").strip()
    if not what or not reason:
        raise Problem("unusable", "say what to suspend, and why")
    made = await visit.desk.relay.suspend(what, reason, f"{visit.token.name} (page)")
    visit.desk.remembered.forget()
    return visit.go_to("/suspensions", f"{made.what} is suspended.")


async def end(visit: Visit) -> Response:
    """End a suspension."""
    ended = await visit.desk.relay.end_suspension(visit.form.get("what", ""), f"{visit.token.name} (page)")
    visit.desk.remembered.forget()
    return visit.go_to("/suspensions", f"{ended.what} goes on again.")
