# SPDX-License-Identifier: MIT
"""What a resource is asked and what it answers, and the table entry that says how: values, without any HTTP library.

From these entries come the routes, the checks of scope and parameters, and the OpenAPI document: one truth.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from smarthost.ops.http.problems import Problem
from smarthost.ops.http.tokens import Scope, Token

if TYPE_CHECKING:
    from smarthost.ops.http.desk import Desk

ANSWER_S = 30.0
JSON = "application/json"
MESSAGE = "message/rfc822"


class Parameter(Struct, frozen=True):
    """A parameter in path, query or header. `kind`: "string", "integer", "boolean" or "array" (of strings)."""

    name: str
    about: str
    kind: str = "string"
    place: str = "query"
    least: int | None = None
    most: int | None = None
    choices: tuple[str, ...] = ()
    required: bool = False


class Ask(Struct, frozen=True):
    """One request that may be carried out: parameters by name, as texts; `body` as it came, `value` decoded from JSON.

    `digest`: the SHA-256 of the body, taken as it came in, so that a large one never holds up the loop.
    """

    token: Token
    client: str
    given: Mapping[str, str] = {}
    several: Mapping[str, tuple[str, ...]] = {}
    headers: Mapping[str, str] = {}
    media: str = ""
    body: bytes = b""
    digest: bytes = b""
    value: Any = None

    def text(self, name: str) -> str:
        return self.given.get(name, "")

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        """Raises: Problem: not a whole number within these bounds."""
        written = self.given.get(name)
        if written is None:
            return default
        if not (written.isascii() and written.isdecimal() and len(written) < 20 and least <= int(written) <= most):
            raise Problem("invalid", f"{name}: expected a whole number from {least} to {most}")
        return int(written)

    def flag(self, name: str) -> bool:
        """Raises: Problem: neither true nor false."""
        written = self.given.get(name, "false").lower()
        if written not in ("true", "false", "1", "0"):
            raise Problem("invalid", f"{name}: expected true or false")
        return written in ("true", "1")


class Answer(Struct, frozen=True):
    """What is sent back: a `value` of ours as JSON, or `octets`, or `pieces` of them, of some `media` type."""

    value: Any = None
    status: int = 200
    octets: bytes = b""
    pieces: AsyncIterator[bytes] | None = None
    media: str = JSON
    headers: Mapping[str, str] = {}


class Endpoint(Struct, frozen=True, kw_only=True):
    """One operation of the API. `scope` None: anybody may. `answer`: the type of its value; None: not JSON of ours.

    `serve` may raise Problem, and whatever `problems.translate` knows. `body_octets` bounds what is read.
    """

    name: str
    method: str
    path: str
    scope: Scope | None
    about: str
    serve: "Callable[[Desk, Ask], Awaitable[Answer]]"
    answer: Any = None
    status: int = 200
    media: str = JSON
    parameters: tuple[Parameter, ...] = ()
    body: Any = None
    bodies: tuple[str, ...] = ()
    body_octets: int | None = 1 << 20  # None: a message, as limits.message_size has it
    problems: tuple[str, ...] = ()
    deadline_s: float = ANSWER_S
