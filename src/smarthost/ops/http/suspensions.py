# SPDX-License-Identifier: MIT
"""/api/v1/suspensions: destinations and senders whose mail an operator keeps back."""

from msgspec import Struct

from smarthost.mail.story import Suspension
from smarthost.ops.http.asking import JSON, Answer, Ask, Endpoint, Parameter
from smarthost.ops.http.desk import Desk
from smarthost.ops.http.problems import Problem
from smarthost.ops.http.tokens import Scope


class Suspensions(Struct, frozen=True):
    """All that is suspended."""

    suspensions: tuple[Suspension, ...]


class Suspend(Struct, forbid_unknown_fields=True, frozen=True):
    """What to suspend: a destination ("example.org") or a sender ("ann@example.org", "user:ann"), and why."""

    what: str
    reason: str


async def list_suspensions(desk: Desk, _: Ask) -> Answer:
    """Give what is suspended."""
    return Answer(Suspensions(desk.relay.suspensions()))


async def suspend(desk: Desk, ask: Ask) -> Answer:
    """Suspend a destination or a sender."""
    asked: Suspend = ask.value
    if not asked.what or len(asked.what) > 320 or len(asked.reason) > 500:
        raise Problem("unusable", "what: a destination or a sender; reason: at most 500 characters")
    if not (asked.what + asked.reason).isprintable():
        raise Problem("unusable", "what, reason: no control characters")
    await desk.relay.suspend(asked.what, asked.reason, f"{ask.token.name} (API)")
    desk.remembered.forget()
    return Answer(Suspensions(desk.relay.suspensions()), 201)


async def end_suspension(desk: Desk, ask: Ask) -> Answer:
    """End a suspension: what it kept back is due now."""
    try:
        await desk.relay.end_suspension(ask.text("what"), f"{ask.token.name} (API)")
    except ValueError as error:
        raise Problem("not-found", str(error)) from error
    desk.remembered.forget()
    return Answer(Suspensions(desk.relay.suspensions()))


ENDPOINTS = (
    Endpoint(
        name="listSuspensions",
        method="GET",
        path="/suspensions",
        scope=Scope.READ,
        about="The destinations and senders whose mail is kept back.",
        serve=list_suspensions,
        answer=Suspensions,
    ),
    Endpoint(
        name="suspend",
        method="POST",
        path="/suspensions",
        scope=Scope.OPERATE,
        about="Keep back the mail of a destination or a sender; new mail is still taken. Survives restarts.",
        serve=suspend,
        answer=Suspensions,
        status=201,
        body=Suspend,
        bodies=(JSON,),
        problems=("unusable", "media-type"),
    ),
    Endpoint(
        name="endSuspension",
        method="DELETE",
        path="/suspensions",
        scope=Scope.OPERATE,
        about="End a suspension; what it kept back is due now.",
        serve=end_suspension,
        answer=Suspensions,
        parameters=(Parameter("what", "As it was suspended", required=True),),
        problems=("not-found",),
    ),
)
