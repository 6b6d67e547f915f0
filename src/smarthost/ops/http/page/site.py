# SPDX-License-Identifier: MIT
"""The routes of the page: who is not logged in sees the login; forms need the scope operate and their secret.

The edge of the page, as `edge` is that of the API: each request has a deadline, and what it raises becomes a page that
says so.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from smarthost.ops.http.desk import Desk
from smarthost.ops.http.edge import client_of
from smarthost.ops.http.page import files, hosts, overview, plan, queue, records, story, suspensions
from smarthost.ops.http.page.sessions import SESSION_S, Session, Sessions
from smarthost.ops.http.page.visits import Visit, check_origin, check_secret, draw, read_form
from smarthost.ops.http.problems import KINDS, Problem, translate
from smarthost.ops.http.tokens import Scope, Token

PAGE_S = 60.0
View = Callable[[Visit], Awaitable[Response]]
_LOGIN_COOKIE = "smarthost_login"

LOOKS: tuple[tuple[str, View], ...] = (
    ("/", overview.show),
    ("/queue", queue.show),
    ("/find", story.find),
    ("/message/{id}", story.show),
    ("/message/{id}/content", story.give_content),
    ("/hosts", hosts.show),
    ("/plan", plan.show),
    ("/records", records.show),
    ("/suspensions", suspensions.show),
)
FORMS: tuple[tuple[str, View], ...] = (
    ("/queue/preview", queue.preview),
    ("/queue/act", queue.act),
    ("/pause", overview.pause),
    ("/resume", overview.resume),
    ("/hosts/reset", hosts.reset),
    ("/suspensions/begin", suspensions.begin),
    ("/suspensions/end", suspensions.end),
)


class Site:
    """Knows who is logged in."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._sessions = Sessions(desk.tokens, desk.clock)
        self._is_secure = desk.config.http.certificate_file is not None or desk.config.http.public_url.startswith(
            "https:"
        )
        self._cookie = "__Host-smarthost" if self._is_secure else "smarthost"

    def routes(self) -> Iterable[BaseRoute]:
        """Give the routes of the page."""
        yield Route("/static/{name}", files.give_file)
        yield Route("/login", self._edge(self._show_login))
        yield Route("/login", self._edge(self._log_in), methods=["POST"])
        yield Route("/logout", self._edge(self._log_out), methods=["POST"])
        for path, view in LOOKS:
            yield Route(path, self._edge(self._looking(view)))
        for path, view in FORMS:
            yield Route(path, self._edge(self._forming(view)), methods=["POST"])
        yield Route("/{rest:path}", self._edge(self._find_nothing))

    def _edge(self, serve: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            try:
                async with asyncio.timeout(PAGE_S):
                    return await serve(request)
            except ConnectionError:
                return Response(status_code=400)  # nobody reads it
            except Exception as error:  # noqa: BLE001 - the request edge of ops
                problem = translate(error)
                if problem is None:
                    self._desk.sink.note("error", "page failed", path=request.url.path[:200], why=repr(error))
                    problem = Problem("failed")
                return self._draw_problem(request, problem)

        return guarded

    def _draw_problem(self, request: Request, problem: Problem) -> Response:
        found = self._sessions.find(request.cookies.get(self._cookie, ""))
        values = {"problem": problem.body, "cure": KINDS[problem.body.type.rpartition("/")[2]].cure}
        if found is None:
            return draw("refusal.html", problem.body.status, hostname=self._desk.config.hostname, **values)
        visit = Visit(self._desk, request, *found)
        return visit.draw("problem.html", problem.body.status, title=problem.body.title, **values)

    def _looking(self, view: View) -> Callable[[Request], Awaitable[Response]]:
        async def look(request: Request) -> Response:
            found = self._sessions.find(request.cookies.get(self._cookie, ""))
            if found is None:
                return RedirectResponse("/login", status_code=303)
            visit = self._visit(request, *found)
            visit.demand(Scope.READ)
            return await view(visit)

        return look

    def _forming(self, view: View) -> Callable[[Request], Awaitable[Response]]:
        async def take_form(request: Request) -> Response:
            check_origin(request, self._desk.config.http.public_url)
            found = self._sessions.find(request.cookies.get(self._cookie, ""))
            if found is None:
                return RedirectResponse("/login", status_code=303)
            visit = self._visit(request, *found)
            form = await read_form(request)
            check_secret(form, visit.session.csrf)
            visit.demand(Scope.OPERATE)
            return await view(replace(visit, form=form))

        return take_form

    def _visit(self, request: Request, session: Session, token: Token) -> Visit:
        self._desk.rates.count(token)
        return Visit(self._desk, request, session, token)

    async def _find_nothing(self, request: Request) -> Response:
        raise Problem("not-found", "there is no such page")

    async def _show_login(self, request: Request) -> Response:
        cookie = request.cookies.get(_LOGIN_COOKIE) or secrets.token_urlsafe(16)
        return self._draw_login(cookie, "")

    def _draw_login(self, cookie: str, complaint: str, status: int = 200) -> Response:
        response = draw(
            "login.html",
            status,
            hostname=self._desk.config.hostname,
            csrf=self._sessions.make_login_secret(cookie),
            complaint=complaint,
            has_tokens=self._desk.tokens is not None,
        )
        response.set_cookie(
            _LOGIN_COOKIE, cookie, httponly=True, samesite="strict", secure=self._is_secure, path="/login"
        )
        return response

    async def _log_in(self, request: Request) -> Response:
        check_origin(request, self._desk.config.http.public_url)
        form = await read_form(request)
        cookie = request.cookies.get(_LOGIN_COOKIE, "")
        check_secret(form, self._sessions.make_login_secret(cookie))
        token = self._desk.tokens.find(form.get("token", "").strip()) if self._desk.tokens is not None else None
        if token is None:
            await self._desk.rates.slow_down(client_of(request))
            return self._draw_login(cookie, "There is no such token.", 401)
        self._desk.rates.count(token)
        if not token.may(Scope.READ):
            return self._draw_login(cookie, f"The token {token.name} lacks the scope read.", 403)
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(
            self._cookie,
            self._sessions.open(token),
            max_age=int(SESSION_S),
            httponly=True,
            samesite="strict",
            secure=self._is_secure,
            path="/",
        )
        self._desk.sink.note("info", "logged in to the page", by=token.name, client=client_of(request))
        return response

    async def _log_out(self, request: Request) -> Response:
        check_origin(request, self._desk.config.http.public_url)
        cookie = request.cookies.get(self._cookie, "")
        if (found := self._sessions.find(cookie)) is not None:
            check_secret(await read_form(request), found[0].csrf)
            self._sessions.close(cookie)
        response = RedirectResponse("/login", status_code=303)
        response.delete_cookie(self._cookie, path="/", secure=self._is_secure, httponly=True, samesite="strict")
        return response


def page_routes(desk: Desk) -> Iterable[BaseRoute]:
    """Give the routes of the page."""
    return Site(desk).routes()
