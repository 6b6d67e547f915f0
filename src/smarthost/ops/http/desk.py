# SPDX-License-Identifier: MIT
"""What all resources work with: the relay as it may be asked, the tokens, and what is remembered between requests."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from smarthost.accept.inject import Receipt
from smarthost.config import Config
from smarthost.mail.content import Content
from smarthost.mail.explanation import Explanation, HostReport
from smarthost.mail.record import Record
from smarthost.mail.story import Story, Summary, Suspension
from smarthost.ops.health import Health
from smarthost.ops.http.keys import KeptKeys
from smarthost.ops.http.lately import Lately
from smarthost.ops.http.rates import Rates
from smarthost.ops.http.remembered import Remembered
from smarthost.ops.http.tokens import Tokens
from smarthost.ports import Clock, Sink
from smarthost.queue.audit import AuditFigures
from smarthost.queue.store import Changed, Filter, Page


class KeepsMail(Protocol):
    """What is asked of the store itself."""

    async def content(self, id: str) -> Content: ...
    async def count(self) -> tuple[int, int]: ...
    async def load_notes(self, prefix: str) -> dict[str, bytes]: ...
    def save_notes(self, notes: Mapping[str, bytes], records: Sequence[Record] = ()) -> Awaitable[None]: ...


class Operated(Protocol):
    """What is asked of the relay: assemble.Relay has it all."""

    @property
    def store(self) -> KeepsMail: ...
    @property
    def paused(self) -> bool: ...
    @property
    def refusal(self) -> Exception | None: ...
    @property
    def audit_figures(self) -> AuditFigures: ...

    async def submit(
        self,
        content: bytes,
        reverse_path: str,
        recipients: Sequence[str],
        *,
        client: str = "local",
        user: str = "",
        drawn: Callable[[str], Awaitable[None]] | None = None,
    ) -> Receipt: ...
    async def find(self, which: Filter = ..., cursor: str | None = None, n: int = 100) -> Page: ...
    async def change(
        self,
        which: Filter,
        verb: str,
        cursor: str | None = None,
        n: int = 1000,
        *,
        by: str = "",
        reason: str = "",
        via: str = "",
        dry_run: bool = False,
    ) -> Changed: ...
    async def why(self, text: str, n: int = 10) -> tuple[Story, ...]: ...
    async def summary(self, n: int = 20) -> Summary: ...
    async def suspend(self, what: str, reason: str, by: str) -> Suspension: ...
    async def end_suspension(self, what: str, by: str) -> Suspension: ...
    def suspensions(self) -> tuple[Suspension, ...]: ...
    async def records(self, after: int, n: int) -> tuple[Record, ...]: ...
    async def pause(self) -> None: ...
    async def resume(self) -> tuple[int, int]: ...
    async def report_hosts(self, text: str = "") -> tuple[HostReport, ...]: ...
    async def reset_hosts(self, text: str = "") -> tuple[HostReport, ...]: ...
    async def find_standstill(self) -> tuple[HostReport, ...]: ...
    async def explain(self, address: str, *, probe: bool = False, sender: str = "") -> Explanation: ...


class Probes(Struct, frozen=True):
    """What /metrics, /healthz and /readyz answer. None: not offered here."""

    metrics: Callable[[], bytes] | None = None
    live: Callable[[], Health] | None = None
    ready: Callable[[], Health] | None = None


class Desk(Struct, frozen=True):
    """All of it; made by `service.open_http`."""

    relay: Operated
    config: Config
    clock: Clock
    sink: Sink
    tokens: Tokens | None
    keys: KeptKeys
    rates: Rates
    lately: Lately
    remembered: Remembered
    probes: Probes
    version: str
    started_at: float
