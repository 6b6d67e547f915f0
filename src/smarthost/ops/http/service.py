# SPDX-License-Identifier: MIT
"""Config and relay to a running HTTP door: what the daemon opens after the relay, and closes before it.

All third-party imports of the extra `http` are made below this module, when it is wanted: without `[http] listen`
nothing of it is loaded. A crash leaves nothing: what must last is in the store.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from importlib.metadata import version
from typing import Any

from smarthost.backends.clock import SystemClock
from smarthost.backends.watched import WatchedFiles
from smarthost.config import Config
from smarthost.mail.errors import ConfigError
from smarthost.ops.http.desk import Desk, Operated, Probes
from smarthost.ops.http.keys import KeptKeys
from smarthost.ops.http.lately import Lately
from smarthost.ops.http.rates import Rates
from smarthost.ops.http.remembered import Remembered
from smarthost.ops.http.tokens import Tokens
from smarthost.ports import Clock, Sink

_EXTRA = ("starlette", "uvicorn", "jinja2", "h11")
CSP = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]


@asynccontextmanager
async def open_http(
    config: Config, relay: Operated, lately: Lately, probes: Probes | None = None
) -> AsyncIterator[tuple[tuple[str, int], ...]]:
    """Serve the API and the page while it is open; gives the addresses. Does nothing without `[http] listen`.

    Raises: ConfigError: the extra is missing, an address cannot be had, a file cannot be used.
    """
    if not config.http.listen:
        yield ()
        return
    require_extra()
    from smarthost.ops.http.server import HttpServer

    clock = SystemClock()
    desk = make_desk(config, relay, lately, probes or Probes(), clock)
    tls = _open_tls(config, clock, lately)
    server = HttpServer(make_app(desk), None if tls is None else tls.context)
    bound = await server.listen([(each.host, each.port) for each in config.http.listen])
    tasks = [asyncio.ensure_future(desk.keys.sweep_for_ever())]
    if tls is not None:
        tasks.append(asyncio.ensure_future(tls.follow_for_ever()))
    try:
        lately.note("info", "http ready", listen=bound, tls=tls is not None, tokens=desk.tokens is not None)
        yield bound
    finally:
        for task in tasks:
            task.cancel()
        await server.close()
        await asyncio.gather(*tasks, return_exceptions=True)


def require_extra() -> None:
    """Raises: ConfigError: the libraries of the extra `http` are not installed."""
    from importlib.util import find_spec

    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the API and the page need {', '.join(missing)}: pip install smarthost[http]", key="http.listen"
        )


def make_desk(config: Config, relay: Operated, lately: Lately, probes: Probes, clock: Clock) -> Desk:
    """Build what the resources work with. Raises: ConfigError: the tokens file."""

    async def is_known(id: str) -> bool:
        return bool(await relay.why(id, 1))

    file = config.http.tokens_file
    return Desk(
        relay,
        config,
        clock,
        lately,
        None if file is None else Tokens(file, clock, lately.note),
        KeptKeys(lambda: relay.store, is_known, clock),
        Rates(clock, lately.note),
        lately,
        Remembered(clock),
        probes,
        version("smarthost"),
        clock.wall(),
    )


def make_app(desk: Desk) -> _App:
    """Build the ASGI application: the API, the probes, the page; each answer with the headers that all have."""
    from starlette.routing import Router

    from smarthost.ops.http.edge import Edge
    from smarthost.ops.http.page.site import page_routes
    from smarthost.ops.http.probes import probe_routes

    edge = Edge(desk)
    router = Router([*edge.routes(), *probe_routes(desk, edge), *page_routes(desk)], redirect_slashes=False)

    async def app(scope: _Message, receive: _Receive, send: _Send) -> None:
        async def send_safely(message: _Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*_with_usual(message["headers"], desk.clock.wall())]
            await send(message)

        await router(scope, receive, send_safely)

    return app


def _with_usual(headers: list[tuple[bytes, bytes]], now: float) -> list[tuple[bytes, bytes]]:
    names = {name for name, _ in headers}
    cached = [] if b"cache-control" in names else [(b"cache-control", b"no-store")]
    return [(b"date", formatdate(now, usegmt=True).encode()), *headers, *cached, *_HEADERS]


class _Tls:
    """The context of our certificate, which is renewed in place when its files change."""

    def __init__(self, certificate_file: str, key_file: str, clock: Clock, sink: Sink) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996
        self.context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        self.context.set_alpn_protocols(["http/1.1"])
        self._files = certificate_file, key_file or certificate_file
        self._clock = clock
        paths = tuple(dict.fromkeys(self._files))
        self._watched = WatchedFiles(paths, self._load, clock, sink.note, complaint="certificate not taken")

    def _load(self) -> bool:
        certificate, key = self._files
        trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # a pair that does not fit must not spoil the one in use
        for context in (trial, self.context):
            try:
                context.load_cert_chain(certificate, key, password="")
            except (OSError, ssl.SSLError) as error:
                why = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
                raise ConfigError(f"{certificate} with {key}: {why}", key="http.certificate_file") from error
        return True

    async def follow_for_ever(self) -> None:
        """Look at the files every second; never ends."""
        while True:
            await self._clock.sleep(1.0)
            _ = self._watched.value


def _open_tls(config: Config, clock: Clock, sink: Sink) -> _Tls | None:
    http = config.http
    if http.certificate_file is None:
        return None
    return _Tls(str(http.certificate_file), str(http.key_file or ""), clock, sink)
