# SPDX-License-Identifier: MIT
"""/api/v1/openapi.json and /api/v1/problems: what the API says of itself, made from the entries it is served by."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import msgspec
from msgspec import Struct

from smarthost.ops.http import hosts, messages, pausing, plan, queue, records, shapes, status, suspensions
from smarthost.ops.http.asking import JSON, MESSAGE, Answer, Ask, Endpoint, Parameter
from smarthost.ops.http.desk import Desk
from smarthost.ops.http.problems import KINDS, MEDIA_TYPE, Problem, ProblemBody

PREFIX = "/api/v1"
_ALWAYS = ("invalid", "failed", "unavailable", "deadline")
_ABOUT = (
    "Hand in mail, see what waits and why, act upon it. Times are ISO 8601 in UTC, null where there is none. "
    "Texts may hold what strangers wrote: replies of hosts, addresses. Errors are RFC 9457 problems. "
    "Within v1 fields may be added."
)


class ProblemPage(Struct, frozen=True):
    """What a kind of problem means, and what to do about it."""

    type: str
    title: str
    status: int
    cure: str


async def tell_openapi(desk: Desk, _: Ask) -> Answer:
    """Give the OpenAPI 3.1 document."""
    return Answer(document(desk.version))


async def tell_problem(_: Desk, ask: Ask) -> Answer:
    """Explain a kind of problem."""
    name = ask.text("name")
    kind = KINDS.get(name)
    if kind is None:
        raise Problem("not-found")
    return Answer(ProblemPage(f"{PREFIX}/problems/{name}", kind.title, kind.status, kind.cure))


@cache
def document(version: str) -> dict[str, Any]:
    """Give the OpenAPI document of this API."""
    answers = [each.answer for each in ENDPOINTS if each.answer is not None]
    bodies = [each.body for each in ENDPOINTS if each.body is not None]
    kinds = list(dict.fromkeys([*answers, *bodies, ProblemBody]))
    found, components = shapes.schemas(kinds)
    by_type = dict(zip(kinds, found, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(PREFIX + endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, by_type)
    made = {
        "openapi": "3.1.0",
        "info": {"title": "smarthost", "version": version, "description": _ABOUT, "license": {"name": "MIT"}},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(made))  # tuples of defaults are arrays
    return plain


def _operation(endpoint: Endpoint, by_type: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": endpoint.name, "summary": endpoint.about}
    if endpoint.scope is None:
        operation["security"] = []
    else:
        operation["security"] = [{"token": []}]
        operation["x-scope"] = endpoint.scope.value
    if endpoint.parameters:
        operation["parameters"] = [_parameter(each) for each in endpoint.parameters]
    if endpoint.bodies:
        schemas = {JSON: by_type.get(endpoint.body, {}), MESSAGE: {"type": "string", "format": "binary"}}
        content = {media: {"schema": schemas[media]} for media in endpoint.bodies}
        operation["requestBody"] = {"required": True, "content": content}
    schema = by_type[endpoint.answer] if endpoint.answer is not None else {"type": "object"}
    if endpoint.media != JSON:
        schema = {"type": "string", "format": "binary"}
    good = {"description": endpoint.about, "content": {endpoint.media: {"schema": schema}}}
    operation["responses"] = {str(endpoint.status): good, **_problems(endpoint, by_type[ProblemBody])}
    return operation


def _problems(endpoint: Endpoint, schema: dict[str, Any]) -> dict[str, Any]:
    names = [*_ALWAYS, *endpoint.problems]
    if endpoint.scope is not None:
        names += ["unauthorized", "forbidden", "too-many"]
    if endpoint.bodies:
        names += ["too-large", "media-type"]
    by_status: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        by_status.setdefault(str(KINDS[name].status), []).append(KINDS[name].title)
    content = {MEDIA_TYPE: {"schema": schema}}
    return {status: {"description": "; ".join(titles), "content": content} for status, titles in by_status.items()}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": parameter.kind}
    item: dict[str, Any] = {"type": "string"} if parameter.kind == "array" else schema
    if parameter.choices:
        item["enum"] = list(parameter.choices)
    if parameter.kind == "array":
        schema["items"] = item
    if parameter.least is not None:
        schema["minimum"] = parameter.least
    if parameter.most is not None:
        schema["maximum"] = parameter.most
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.required or parameter.place == "path",
        "description": parameter.about,
        "schema": schema,
    }


def endpoints() -> Iterable[Endpoint]:
    """Give all operations of the API."""
    return ENDPOINTS


ENDPOINTS: tuple[Endpoint, ...] = (
    *messages.ENDPOINTS,
    *queue.ENDPOINTS,
    *plan.ENDPOINTS,
    *hosts.ENDPOINTS,
    *suspensions.ENDPOINTS,
    *pausing.ENDPOINTS,
    *records.ENDPOINTS,
    *status.ENDPOINTS,
    Endpoint(
        name="describeApi",
        method="GET",
        path="/openapi.json",
        scope=None,
        about="This document.",
        serve=tell_openapi,
    ),
    Endpoint(
        name="explainProblem",
        method="GET",
        path="/problems/{name}",
        scope=None,
        about="What a kind of problem means, and what to do about it.",
        serve=tell_problem,
        answer=ProblemPage,
        parameters=(Parameter("name", "The last part of a problem's type", place="path"),),
        problems=("not-found",),
    ),
)
