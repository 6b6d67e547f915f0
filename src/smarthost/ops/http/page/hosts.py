# SPDX-License-Identifier: MIT
"""Hosts that are known as broken, with the evidence, and the button that says that they work."""

from starlette.responses import Response

from smarthost.ops.http.page.visits import Visit
from smarthost.ops.http.problems import Problem
from smarthost.ops.standstill import count_names

HOSTS = 100


async def show(visit: Visit) -> Response:
    """Draw them, longest broken first."""
    text = visit.asked("name").strip()
    found = await visit.desk.relay.report_hosts(text)
    return visit.draw("hosts.html", hosts=found[:HOSTS], count=len(found), names=count_names(found), name=text)


async def reset(visit: Visit) -> Response:
    """Forget what is known against one of them, or all."""
    name, everything = visit.form.get("name", ""), visit.form.get("everything") == "yes"
    if everything == bool(name):
        raise Problem("unusable", "say which host")
    found = await visit.desk.relay.reset_hosts(name)
    visit.desk.remembered.forget()
    by = f"{visit.token.name} (page)"
    visit.desk.sink.note("info", "hosts reset", by=by, host=name or "all", hosts=len(found))
    some = "1 host counts" if len(found) == 1 else f"{len(found):,} hosts count"
    return visit.go_back("/hosts", f"{some} as working again; mail that waited for that is due now.")
