# SPDX-License-Identifier: MIT
"""What happened: the newest records, or those from a time on, a page at a time."""

from urllib.parse import urlencode

from starlette.responses import Response

from smarthost.mail.record import TERMINAL_KINDS, TROUBLES, Kind, Record
from smarthost.ops.http.desk import Desk
from smarthost.ops.http.page.folding import fold
from smarthost.ops.http.page.visits import Visit
from smarthost.ops.http.problems import Problem
from smarthost.ops.http.records import read_cursor

RECORDS = 100
_READ = 1000
_SPANS_S = (2.0, 10.0, 60.0, 600.0, 3600.0, 6 * 3600.0, 86_400.0, 7 * 86_400.0, 31 * 86_400.0)
_MILLISECOND = 1 << 21  # mail.identity: a record's number is its time in milliseconds, and 21 bits
GROUPS = {
    "": ("Everything", frozenset(Kind)),
    "ends": ("Ends", TERMINAL_KINDS),
    "troubles": ("Troubles", TROUBLES),
    "hosts": ("Hosts", frozenset({Kind.HOST_OPEN, Kind.HOST_HALF_OPEN, Kind.HOST_CLOSED})),
}


async def show(visit: Visit) -> Response:
    """Draw records: behind `after`, or the newest."""
    group = visit.asked("show")
    if group not in GROUPS:
        raise Problem("unusable", "show: no such group")
    kinds = GROUPS[group][1]
    after = visit.asked("after")
    if after:
        found = await visit.desk.relay.records(read_cursor(after), _READ)
        chosen = [each for each in found if each.kind in kinds]
        is_more = len(found) == _READ or len(chosen) > RECORDS
        chosen = chosen[:RECORDS]
        last = chosen[-1] if len(chosen) == RECORDS else found[-1] if found else None
    else:
        chosen = await find_newest(visit.desk, kinds)
        is_more, last = False, chosen[-1] if chosen else None
    return visit.draw(
        "records.html",
        records=fold(chosen[::-1]),
        groups=[(name, title) for name, (title, _) in GROUPS.items()],
        group=group,
        is_newest=not after,
        is_more=is_more,
        newest=f"/records?{urlencode({'show': group})}" if group else "/records",
        later=f"/records?{urlencode({'show': group, 'after': last.seq})}" if last is not None else "",
        hour=f"/records?{urlencode({'show': group, 'after': cursor_at(visit.desk.clock.wall() - 3600)})}",
    )


async def find_newest(desk: Desk, kinds: frozenset[Kind]) -> list[Record]:
    """Give the newest records of these kinds: those of the longest time that is read at once. Raises: StoreError."""
    now = desk.clock.wall()
    best: list[Record] = []
    for span_s in _SPANS_S:
        found = await desk.relay.records(cursor_at(now - span_s), _READ)
        chosen = [each for each in found if each.kind in kinds]
        if len(found) < _READ or not best:
            best = chosen
        if len(found) == _READ or len(chosen) >= RECORDS:
            break
    return best[-RECORDS:]


def cursor_at(wall: float) -> int:
    """Give the cursor behind which are the records from this time on."""
    return max(0, int(wall * 1000)) * _MILLISECOND
