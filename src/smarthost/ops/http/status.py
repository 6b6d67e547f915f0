# SPDX-License-Identifier: MIT
"""/api/v1/status: how the relay is, in one look."""

from msgspec import Struct

from smarthost.ops.http.asking import Answer, Ask, Endpoint
from smarthost.ops.http.desk import Desk
from smarthost.ops.http.tokens import Scope
from smarthost.queue.audit import AuditFigures


class Status(Struct, frozen=True):
    """How it is. `refusal`: why new mail cannot be taken, or "". `broken_hosts`: how many are not closed."""

    hostname: str
    version: str
    started_at: float
    paused: bool
    refusal: str
    messages: int
    recipients: int
    broken_hosts: int
    suspensions: int
    audit: AuditFigures


async def tell_status(desk: Desk, _: Ask) -> Answer:
    """Tell how the relay is."""
    return Answer(await read_status(desk))


async def read_status(desk: Desk) -> Status:
    """Raises: StoreError."""
    relay = desk.relay
    messages, recipients = await relay.store.count()
    hosts = await desk.remembered.ask("hosts", 2.0, relay.report_hosts)
    refusal = relay.refusal
    return Status(
        desk.config.hostname,
        desk.version,
        desk.started_at,
        relay.paused,
        "" if refusal is None else str(refusal),
        messages,
        recipients,
        len(hosts),
        len(relay.suspensions()),
        relay.audit_figures,
    )


ENDPOINTS = (
    Endpoint(
        name="tellStatus",
        method="GET",
        path="/status",
        scope=Scope.READ,
        about="How the relay is: what waits, whether mail is taken and delivered, what the auditor has seen.",
        serve=tell_status,
        answer=Status,
    ),
)
