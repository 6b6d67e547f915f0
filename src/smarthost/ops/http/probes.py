# SPDX-License-Identifier: MIT
"""/metrics, /healthz and /readyz: for machines that look every few seconds. What they say is made elsewhere.

Health needs no token: it says yes or no, and why not. Metrics need the scope read, or come from this machine itself: a
loopback address, asked for by a loopback name, and not through a proxy, whose clients all seem to be on loopback.
"""

from collections.abc import Callable, Iterable
from functools import partial
from ipaddress import ip_address

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from smarthost.ops.health import Health
from smarthost.ops.http.desk import Desk
from smarthost.ops.http.edge import Edge, client_of
from smarthost.ops.http.problems import Problem
from smarthost.ops.http.tokens import Scope

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus' exposition format
_PROXIED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


def probe_routes(desk: Desk, edge: Edge) -> Iterable[BaseRoute]:
    """Give the routes of those that are offered."""

    async def metrics(request: Request) -> Response:
        return await edge.guarded(request, partial(_give_metrics, desk, edge))

    async def healthz(request: Request) -> Response:
        return await edge.guarded(request, partial(_give_health, desk.probes.live))

    async def readyz(request: Request) -> Response:
        return await edge.guarded(request, partial(_give_health, desk.probes.ready))

    yield Route("/metrics", metrics)
    yield Route("/healthz", healthz)
    yield Route("/readyz", readyz)


async def _give_metrics(desk: Desk, edge: Edge, request: Request) -> Response:
    if desk.probes.metrics is None:
        raise Problem("not-found", "no metrics are offered")
    if not is_of_this_machine(request):
        await edge.authorize(request, Scope.READ)
    return Response(desk.probes.metrics(), media_type=METRICS_TYPE)


async def _give_health(look: Callable[[], Health] | None, _: Request) -> Response:
    if look is None:
        raise Problem("not-found", "no health is offered")
    health = look()
    return Response(msgspec.json.encode(health), 200 if health.ok else 503, media_type="application/json")


def is_of_this_machine(request: Request) -> bool:
    """Does a program of this machine ask, by itself? A browser that was lied to about a name asks by that name."""
    if any(name in request.headers for name in _PROXIED):
        return False
    return _is_loopback(client_of(request)) and _is_loopback(request.url.hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
