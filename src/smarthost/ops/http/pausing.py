# SPDX-License-Identifier: MIT
"""/api/v1/pause and /api/v1/resume: hold back all deliveries, and let them go on."""

from msgspec import Struct

from smarthost.ops.http.asking import Answer, Ask, Endpoint
from smarthost.ops.http.desk import Desk
from smarthost.ops.http.tokens import Scope


class PauseState(Struct, frozen=True):
    """Is all delivery paused, was it before; messages and unfinished recipients that wait."""

    paused: bool
    was_paused: bool
    messages: int
    recipients: int


async def pause(desk: Desk, ask: Ask) -> Answer:
    """Take mail, deliver none, until resume; a restart does not end it."""
    return Answer(await change_pause(desk, True, f"{ask.token.name} (API)"))


async def resume(desk: Desk, ask: Ask) -> Answer:
    """Deliver again."""
    return Answer(await change_pause(desk, False, f"{ask.token.name} (API)"))


async def change_pause(desk: Desk, is_wanted: bool, by: str) -> PauseState:
    """Pause or resume, and say in the log who did. Raises: StoreError."""
    was_paused = desk.relay.paused
    if is_wanted:
        await desk.relay.pause()
        counts = await desk.relay.store.count()
    else:
        counts = await desk.relay.resume()
    if was_paused != is_wanted:
        desk.sink.note("info", "delivery paused" if is_wanted else "delivery resumed", by=by)
    desk.remembered.forget()
    return PauseState(is_wanted, was_paused, *counts)


ENDPOINTS = (
    Endpoint(
        name="pause",
        method="POST",
        path="/pause",
        scope=Scope.OPERATE,
        about="Go on to take mail, and deliver, expire and report none until resume. Survives restarts.",
        serve=pause,
        answer=PauseState,
    ),
    Endpoint(
        name="resume",
        method="POST",
        path="/resume",
        scope=Scope.OPERATE,
        about="Deliver again.",
        serve=resume,
        answer=PauseState,
    ),
)
