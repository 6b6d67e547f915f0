# SPDX-License-Identifier: MIT
"""One request of a browser: who asks, what the form brought, and how the answer is drawn."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from smarthost.ops.http.bodies import read_body
from smarthost.ops.http.desk import Desk
from smarthost.ops.http.page import files, wording
from smarthost.ops.http.page.sessions import Session, is_same
from smarthost.ops.http.problems import Problem
from smarthost.ops.http.tokens import Scope, Token

FORM_OCTETS = 64 * 1024
FORM_FIELDS = 100
FORM_TYPE = "application/x-www-form-urlencoded"


class Visit(Struct, frozen=True):
    """A request of somebody who is logged in."""

    desk: Desk
    request: Request
    session: Session
    token: Token
    form: Mapping[str, str] = {}

    def asked(self, name: str) -> str:
        """Give a parameter of the query, or ""."""
        return self.request.query_params.get(name, "")

    def demand(self, scope: Scope) -> None:
        """Raises: Problem: the token may not."""
        if not self.token.may(scope):
            raise Problem("forbidden", f"your token, {self.token.name}, lacks the scope {scope.value}")

    def draw(self, template: str, status: int = 200, **values: Any) -> Response:  # noqa: ANN401
        """Draw a page."""
        relay = self.desk.relay
        return draw(
            template,
            status,
            hostname=self.desk.config.hostname,
            version=self.desk.version,
            user=self.token.name,
            may_operate=self.token.may(Scope.OPERATE),
            csrf=self.session.csrf,
            told=self.session.take_told(),
            is_paused=relay.paused,
            now=self.desk.clock.wall(),
            here=self.request.url.path,
            **values,
        )

    def go_back(self, path: str, told: str) -> Response:
        """Send the browser to the message that the form came from, or else to `path`."""
        id = self.form.get("id", "")
        return self.go_to(f"/message/{id}" if id.isascii() and id.isalnum() else path, told)

    def go_to(self, path: str, told: str = "") -> Response:
        """Send the browser to a page of ours, which says `told` once."""
        if told:
            self.session.told = told
        return RedirectResponse(path, status_code=303)


def draw(template: str, status: int = 200, **values: Any) -> Response:  # noqa: ANN401
    """Draw a template of ours."""
    text = _ENVIRONMENT.get_template(template).render(values)
    return Response(text, status, media_type="text/html; charset=utf-8")


async def read_form(request: Request) -> dict[str, str]:
    """Read the fields of a form. Raises: Problem: it is none, or too large."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM_TYPE:
        raise Problem("media-type", "expected a form")
    body = await read_body(request, FORM_OCTETS)
    try:
        text = body.octets.decode("ascii")
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=FORM_FIELDS, errors="strict"))
    except ValueError as error:
        raise Problem("invalid", f"the form is not understood: {error}") from error


def check_origin(request: Request, public_url: str) -> None:
    """Raises: Problem: a browser says that the form is another site's."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Problem("forbidden", "the form came from another site")
    origin = request.headers.get("origin")
    own = f"{request.url.scheme}://{request.url.netloc}"
    # "null" is what our own Referrer-Policy makes of it; the secret of the form and the cookie's SameSite hold anyway
    if origin not in (None, "null", own, public_url or own):
        raise Problem("forbidden", "the form came from another site (behind a proxy, set http.public_url)")


def check_secret(form: Mapping[str, str], secret: str) -> None:
    """Raises: Problem: the form does not bring back what was put into it."""
    if not is_same(form.get("csrf", ""), secret):
        raise Problem("forbidden", "the form is stale: go back, reload the page and send it again")


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("smarthost.ops.http", "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(wording.FILTERS)
    environment.globals.update(
        ago=wording.ago, age=wording.age, verbs=wording.VERBS, style=files.STYLE, script=files.SCRIPT, mark=files.MARK
    )
    return environment


_ENVIRONMENT = _environment()
