# SPDX-License-Identifier: MIT
"""The request edge: routes, tokens, parameters, bodies and answers of the API; whatever goes wrong becomes a problem.

The only place of the API that knows starlette. Each request has a deadline, and what it raises ends that request: a bug
costs one answer 500 and a note in the log.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from smarthost.ops.http import shapes
from smarthost.ops.http.asking import JSON, MESSAGE, Answer, Ask, Endpoint
from smarthost.ops.http.bodies import Body, Room, announced_octets, read_body
from smarthost.ops.http.desk import Desk
from smarthost.ops.http.openapi import PREFIX, endpoints
from smarthost.ops.http.problems import MEDIA_TYPE, Problem, translate
from smarthost.ops.http.tokens import Scope, Token

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
FIELDS = 10_000  # of a query: more than a message may have recipients is for JSON
JSON_OCTETS = 16 << 20  # decoding it holds up the loop: 40 ms. Larger messages come as message/rfc822
_NOBODY = Token("", frozenset())
_SLASHED = ("text", "address")  # path parameters that may hold a slash
_REALM = 'Bearer realm="smarthost"'


class Edge:
    """Carries out requests of the API."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._room = Room()

    def routes(self) -> Iterable[BaseRoute]:
        """Give the routes of the API."""
        by_path: dict[str, dict[str, Endpoint]] = {}
        for endpoint in endpoints():
            by_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint
        for path, offered in by_path.items():
            for name in _SLASHED:
                path = path.replace(f"{{{name}}}", f"{{{name}:path}}")
            yield Route(PREFIX + path, partial(self._dispatch, offered), methods=METHODS)
        yield Route(f"{PREFIX}/{{rest:path}}", partial(self._dispatch, {}), methods=METHODS)

    async def _dispatch(self, offered: Mapping[str, Endpoint], request: Request) -> Response:
        endpoint = offered.get("GET" if request.method == "HEAD" else request.method)
        if endpoint is not None:
            return await self.guarded(request, partial(self._carry_out, endpoint))
        if not offered:
            return _respond_problem(Problem("not-found", "no such resource: see /api/v1/openapi.json"), request)
        return _respond_problem(Problem("method", headers={"allow": ", ".join(sorted(offered))}), request)

    async def guarded(self, request: Request, carry_out: Callable[[Request], Awaitable[Response]]) -> Response:
        """Carry out a request; the edge, so whatever it raises becomes an answer."""
        try:
            return await carry_out(request)
        except ConnectionError:
            return Response(status_code=400)  # nobody reads it
        except Exception as error:  # noqa: BLE001 - the request edge of ops
            problem = translate(error)
            if problem is None:
                self._desk.sink.note("error", "HTTP request failed", path=request.url.path[:200], why=repr(error))
                problem = Problem("failed")
            return _respond_problem(problem, request)

    async def _carry_out(self, endpoint: Endpoint, request: Request) -> Response:
        token = _NOBODY if endpoint.scope is None else await self.authorize(request, endpoint.scope)
        async with asyncio.timeout(endpoint.deadline_s):
            async with self._room.of(request):
                ask = await self._read(endpoint, token, request)
                return respond(await endpoint.serve(self._desk, ask))

    async def authorize(self, request: Request, scope: Scope) -> Token:
        """Give whose token came with the request. Raises: Problem."""
        desk = self._desk
        if desk.tokens is None:
            raise _unauthorized("there are no tokens: set http.tokens_file, then smarthost tokens add NAME")
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        if not secret or scheme.lower() != "bearer":
            raise _unauthorized("send Authorization: Bearer TOKEN")
        token = desk.tokens.find(secret.strip())
        if token is None:
            await desk.rates.slow_down(client_of(request))
            raise _unauthorized("there is no such token", ', error="invalid_token"')
        desk.rates.count(token)
        if not token.may(scope):
            raise Problem("forbidden", f"token {token.name} lacks the scope {scope.value}")
        return token

    async def _read(self, endpoint: Endpoint, token: Token, request: Request) -> Ask:
        given, several = read_parameters(endpoint, request)
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        body, value = Body(), None
        if endpoint.bodies:
            if media not in endpoint.bodies:
                raise Problem("media-type", f"send {' or '.join(endpoint.bodies)}")
            body = await read_body(request, self._limit(endpoint, media))
            if media == JSON:
                value = decode(body.octets, endpoint.body)
        headers = {name: request.headers[name] for name in ("idempotency-key",) if name in request.headers}
        return Ask(token, client_of(request), given, several, headers, media, body.octets, body.digest, value)

    def _limit(self, endpoint: Endpoint, media: str) -> int:
        if endpoint.body_octets is not None:
            return endpoint.body_octets
        largest = self._desk.config.limits.message_octets
        return largest if media == MESSAGE else min(JSON_OCTETS, largest * 3 // 2 + 65_536)


def read_parameters(endpoint: Endpoint, request: Request) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Give the parameters by name: those that stand once, and those that may be repeated. Raises: Problem."""
    given = {name: str(value) for name, value in request.path_params.items()}
    several: dict[str, tuple[str, ...]] = {}
    kinds = {each.name: each for each in endpoint.parameters if each.place == "query"}
    try:
        pairs = parse_qsl(
            request.scope["query_string"].decode("ascii"),
            keep_blank_values=True,
            max_num_fields=FIELDS,
            errors="strict",
        )
    except ValueError as error:
        raise Problem("invalid", f"the query is not understood: {error}") from error
    for name, value in pairs:
        if name not in kinds:
            raise Problem("invalid", f"{name[:80]!a}: no such parameter here; there are {', '.join(kinds) or 'none'}")
        if kinds[name].kind == "array":
            several[name] = (*several.get(name, ()), value) if name in several else (value,)
        elif name in given:
            raise Problem("invalid", f"{name}: stands there twice")
        else:
            given[name] = value
    for name, parameter in kinds.items():
        if parameter.required and name not in given:
            raise Problem("invalid", f"{name}: missing")
    return given, several


def decode(octets: bytes, kind: object) -> object:
    """Decode JSON. Raises: Problem: names the field."""
    try:
        return msgspec.json.decode(octets, type=kind)
    except msgspec.ValidationError as error:
        raise Problem("unusable", str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem("invalid", f"not JSON: {error}") from error


def client_of(request: Request) -> str:
    """Give the address of whoever is connected: behind a proxy, the proxy's."""
    return request.client.host.removeprefix("::ffff:") if request.client is not None else "unknown"


def respond(answer: Answer) -> Response:
    """Give the response of an answer."""
    headers = dict(answer.headers)
    if answer.pieces is not None:
        return StreamingResponse(answer.pieces, answer.status, headers, answer.media)
    octets = answer.octets if answer.value is None else msgspec.json.encode(shapes.to_wire(answer.value))
    return Response(octets, answer.status, headers, answer.media)


def _respond_problem(problem: Problem, request: Request) -> Response:
    headers = dict(problem.headers)
    if announced_octets(request):
        headers["connection"] = "close"  # of its body something may be unread: it is not waited for
    octets = msgspec.json.encode(problem.body)
    return Response(octets, problem.body.status, headers, MEDIA_TYPE)


def _unauthorized(detail: str, more: str = "") -> Problem:
    return Problem("unauthorized", detail, headers={"www-authenticate": _REALM + more})
