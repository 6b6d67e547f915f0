# SPDX-License-Identifier: MIT
"""/api/v1/records: what happened, in order, from a cursor on; whoever goes on from the last cursor misses none.

A long poll looks twice a second and costs nothing between; `WAITING` may wait, the rest are answered at once.
"""

from msgspec import Struct

from smarthost.mail.record import Kind, Record
from smarthost.ops.http.asking import Answer, Ask, Endpoint, Parameter
from smarthost.ops.http.desk import Desk
from smarthost.ops.http.problems import Problem
from smarthost.ops.http.tokens import Scope

LONGEST_S = 30
LOOK_S = 0.5
WAITING = 32
PAGE = 1000
_SEQ_DIGITS = 19  # below 2**63


class Records(Struct, frozen=True):
    """Records in order. `cursor`: ask with after=CURSOR for those behind; it moves on over kinds not asked for, too."""

    records: tuple[Record, ...]
    cursor: str


class Waiters:
    """How many long polls are open: one number for the process, bounded by `WAITING`."""

    def __init__(self) -> None:
        self.open = 0


WAITERS = Waiters()


async def list_records(desk: Desk, ask: Ask) -> Answer:
    """Give records behind a cursor; with wait, some time later if there are none yet."""
    after = read_cursor(ask.text("after"))
    n = ask.whole("limit", 100, 1, PAGE)
    wait_s = ask.whole("wait", 0, 0, LONGEST_S)
    kinds = read_kinds(ask.several.get("kind", ()))
    ends_at = desk.clock.monotonic() + wait_s
    if WAITERS.open >= WAITING:
        ends_at = 0.0
    WAITERS.open += 1
    try:
        while True:
            found = await desk.relay.records(after, n)
            wanted = tuple([each for each in found if not kinds or each.kind in kinds])
            after = found[-1].seq if found else after
            if wanted or (not found and desk.clock.monotonic() >= ends_at):
                return Answer(Records(wanted, str(after)))
            if not found:
                await desk.clock.sleep(LOOK_S)
            elif desk.clock.monotonic() >= ends_at:
                return Answer(Records((), str(after)))
    finally:
        WAITERS.open -= 1


def read_cursor(text: str) -> int:
    """Raises: Problem: not a cursor of ours."""
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) <= _SEQ_DIGITS and int(text) < 1 << 63):
        raise Problem("unusable", "after: not a cursor of this API")
    return int(text)


def read_kinds(texts: tuple[str, ...]) -> frozenset[Kind]:
    """Raises: Problem: none of the kinds."""
    known = {kind.value: kind for kind in Kind}
    for text in texts:
        if text not in known:
            raise Problem("unusable", f"kind: expected some of {', '.join(known)}")
    return frozenset(known[text] for text in texts)


ENDPOINTS = (
    Endpoint(
        name="listRecords",
        method="GET",
        path="/records",
        scope=Scope.READ,
        about="What happened, in order: acceptances, deliveries, deferrals, bounces, broken hosts, what operators did.",
        serve=list_records,
        answer=Records,
        parameters=(
            Parameter("after", "The cursor of the answer before; leave it out to begin with the oldest that is kept"),
            Parameter("limit", "At most so many", "integer", least=1, most=PAGE),
            Parameter("wait", "Wait so many seconds for one, if there is none yet", "integer", least=0, most=LONGEST_S),
            Parameter("kind", "Only of this kind; repeat it", "array", choices=tuple(kind.value for kind in Kind)),
        ),
        problems=("unusable",),
        deadline_s=LONGEST_S + 30,
    ),
)
