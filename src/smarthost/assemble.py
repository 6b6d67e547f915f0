# SPDX-License-Identifier: MIT
"""Config -> a running relay with real backends: what `serve`, the demo and a library user open.

The only module that knows both the stages and the world. Starts in the order lock, store, journey, listeners, and stops
in the reverse order, so that nothing is accepted that could not be kept. A crash leaves what queue.store says.
"""

import random  # noqa: TID251 - SystemRandom is the real ports.Random
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from email.message import EmailMessage
from email.policy import SMTP
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec.structs import replace

from smarthost.accept.inject import Receipt
from smarthost.accept.replies import for_store_failure
from smarthost.backends.clock import SystemClock
from smarthost.backends.dns import DnsResolver, LocalNames, SystemServers, read_hosts, read_resolv_conf
from smarthost.backends.dns.resolver import Patience
from smarthost.backends.interfaces import local_addresses
from smarthost.backends.logs import LoggingSink
from smarthost.backends.sqlite.store import SqliteStore
from smarthost.backends.tcp import TcpDialer, TcpListener
from smarthost.backends.tls import TlsContexts
from smarthost.config import Config, parse_config, terms
from smarthost.delivery import Delivery, DeliveryTerms
from smarthost.entrance import Entrance
from smarthost.mail.backup import Backup
from smarthost.mail.errors import StoreError, SubmissionRefused
from smarthost.mail.explanation import Explanation, HostReport
from smarthost.mail.progress import DrainEnd, Moving, Staying
from smarthost.ports import Clock, Random, Sink
from smarthost.queue.audit import AuditFigures, Finding
from smarthost.queue.store import Changed, Filter, Page, Store
from smarthost.route.plan import Planner
from smarthost.route.table import RouteTable

_EVERYTHING = Filter()

STOP_GRACE_S = 30.0


class Relay:
    """A relay in this process: `async with Relay(state_dir=..., next_hop=...) as relay: await relay.submit(...)`.

    One event loop. It listens nowhere unless `listen` is given; mail is handed in by `submit`. What is in the state
    directory from an earlier run is delivered too.
    """

    def __init__(
        self,
        *,
        state_dir: str | Path,
        next_hop: str | None = None,
        hostname: str | None = None,
        listen: Sequence[str] = (),
        sink: Sink | None = None,
        settings: str = "",
        paused: bool = False,
    ) -> None:
        """`settings` is a TOML text as in docs/configuration.md; `paused`: take mail, deliver none before `resume`.

        Raises: ConfigError: names the key.
        """
        flags: dict[str, object] = {"state_dir": str(state_dir)}
        if next_hop is not None:
            flags["next_hop"] = next_hop
        if hostname is not None:
            flags["hostname"] = hostname
        if listen:
            flags["listen"] = list(listen)
        config = parse_config(settings, flags)
        self._take(config if listen or config.listeners else replace(config, listen=()), sink or LoggingSink(), paused)

    @classmethod
    def from_config(cls, config: Config, sink: Sink, *, paused: bool = False) -> Self:
        """Build from a Config as it is; nothing is opened before `start`."""
        relay = cls.__new__(cls)
        relay._take(config, sink, paused)
        return relay

    def _take(self, config: Config, sink: Sink, paused: bool) -> None:
        self.config = config
        self.bound: tuple[tuple[str, int], ...] = ()
        self._sink = sink
        self._why_paused = "it was started so" if paused else ""
        self._running: _Running | None = None

    @property
    def store(self) -> Store:
        """The open store. Raises: StoreError: not started."""
        return self._parts.store

    @property
    def _parts(self) -> "_Running":
        if self._running is None:
            raise StoreError("the relay is not started")
        return self._running

    async def start(self) -> None:
        """Open the store, deliver what it holds, listen. Raises: ConfigError, StoreLocked, StoreError."""
        running = self._running = _Running(self.config, self._sink)
        try:
            await running.open(self._why_paused)
            await running.listen()
        except BaseException:
            await self.stop(0.0)
            raise
        self.bound = tuple(running.bound)

    async def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Take no new mail, let what is under way end within `grace_s`, close the store. Harmless when repeated."""
        running, self._running = self._running, None
        if running is not None:
            await running.close(grace_s)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def submit(
        self, content: bytes | EmailMessage, reverse_path: str, recipients: Sequence[str], *, client: str = "local"
    ) -> Receipt:
        """Take responsibility for a message: when it returns, the message is durable.

        `content` is an EmailMessage, or octets with CRLF line ends; `reverse_path` may be "" (null).
        Raises: SubmissionRefused: carries the reply an SMTP client would have read. StoreError: try again later.
        """
        if (refusal := self._parts.delivery.drain.refusal) is not None:
            raise SubmissionRefused(for_store_failure(refusal))
        octets = content.as_bytes(policy=SMTP) if isinstance(content, EmailMessage) else content
        if not isinstance(octets, bytes):
            raise TypeError(f"content is bytes or an EmailMessage, not {type(octets).__name__}")
        return await self._parts.injection.submit(octets, reverse_path, recipients, client=client)

    async def find(self, which: Filter = _EVERYTHING, cursor: str | None = None, n: int = 100) -> Page:
        """Give one page of the queue. Raises: ValueError: a damaged cursor. StoreError."""
        return await self._parts.delivery.journey.find(which, cursor, n)

    async def change(self, which: Filter, verb: str, cursor: str | None = None, n: int = 1000) -> Changed:
        """Apply "retry" or "cancel" to one chunk. Raises: ValueError: an unknown verb, a damaged cursor. StoreError.

        "retry" also ends the pauses of broken hosts that are in the way of this mail, each for one probe.
        """
        parts = self._parts
        changed = await parts.delivery.journey.change(which, verb, cursor, n)
        if verb == "retry" and cursor is None:
            await parts.delivery.hosts.hasten(which)
        return changed

    @property
    def paused(self) -> bool:
        """Is nothing delivered, expired or reported until `resume`? Raises: StoreError: not started."""
        return self._parts.delivery.pausing.is_paused

    async def pause(self) -> None:
        """Go on to take mail, but begin no attempt, report or expiry; what is under way ends. Survives restarts.

        Raises: StoreError: it is paused, but a restart may end that.
        """
        await self._parts.delivery.pausing.pause()

    async def resume(self) -> tuple[int, int]:
        """End a pause, also that of a restored backup; gives (messages, unfinished recipients). Raises: StoreError."""
        return await self._parts.delivery.pausing.resume()

    async def back_up(self, directory: str | Path) -> Backup:
        """Copy the queue as it is now into a directory that is empty or does not exist, while mail goes on.

        The copy is a state directory: a relay that is started on it begins with a pause. Safe to cancel.
        Raises: StoreError: there is no backup, and nothing is left of it.
        """
        return await self._parts.store.back_up(_absolute(directory), version("smarthost"))

    def check(self) -> AsyncGenerator[Finding | None, None]:
        """Check now that every recipient has one owner and one next event, and give what has not; None: still at it.

        Repairs what the auditor may repair. Raises: StoreError.
        """
        return self._parts.delivery.auditor.check()

    @property
    def audit_figures(self) -> AuditFigures:
        """What the auditor, which checks all the time, has seen since the start. Raises: StoreError: not started."""
        return self._parts.delivery.auditor.figures

    async def drain(self, host: str, port: int, tell: Callable[[Moving | Staying], None]) -> DrainEnd:
        """Move the queue to another node, as Drain.run. Raises: StoreError, NoNewMail."""
        return await self._parts.delivery.drain.run(host, port, tell)

    def cancel_drain(self) -> bool:
        """End a drain under way, or take mail again after one; False: there was neither."""
        return self._parts.delivery.drain.cancel()

    async def report_hosts(self, text: str = "") -> tuple[HostReport, ...]:
        """Give the hosts that are not closed, of this name, address or service ("": all), longest broken first."""
        return await self._parts.delivery.hosts.report(text)

    async def reset_hosts(self, text: str = "") -> tuple[HostReport, ...]:
        """Forget what is known against these hosts, and give it; what waited for them is due at once."""
        return await self._parts.delivery.hosts.reset(text)

    async def explain(self, address: str, *, probe: bool = False, sender: str = "") -> Explanation:
        """Tell what would happen to a message for this address now; `probe`: dial its hosts as far as EHLO.

        `sender`: who writes it, where routes ask for that: a reverse-path, or "user:NAME" who logged in.
        Raises: SubmissionRefused: such a recipient is refused. ValueError: neither an address nor a domain; no sender.
        """
        return await self._parts.delivery.explainer.explain(address, probe=probe, sender=sender)


class _Running:
    """The parts of a relay that runs, built from a Config."""

    def __init__(self, config: Config, sink: Sink) -> None:
        self.bound: list[tuple[str, int]] = []
        self._config = config
        self._sink = sink
        self._opened = AsyncExitStack()  # closes in the reverse order what was opened, however far that went
        self._stop_by = 0.0  # monotonic
        self._clock = SystemClock()
        self.store = SqliteStore(
            config.state_dir,
            self._clock,
            on_trouble=lambda why: sink.note("error", "store in trouble", why=why),
            on_news=lambda why: sink.note("info", "queue changed at the start", why=why),
        )
        self._listener = TcpListener(self._clock, note=sink.note)

    async def open(self, why_paused: str) -> None:
        """Open the store and begin to deliver what it holds."""
        config, clock, sink, store = self._config, self._clock, self._sink, self.store
        self._opened.push_async_callback(store.close)
        await store.open()
        table = terms.route_table(config)
        resolver = _resolver(config, clock)
        self._opened.callback(resolver.close)
        chance = random.SystemRandom()
        self._planner = _planner(config, table, resolver, clock, chance)
        self.delivery = Delivery(
            DeliveryTerms(
                store=store,
                clock=clock,
                random=chance,
                sink=sink,
                dialer=TcpDialer(clock, TlsContexts(ca_file=terms.ca_file(config))),
                table=table,
                planner=self._planner,
                read_recipient=lambda text: self.injection.read_recipient(text).domain,
                hostname=config.hostname,
                schedule=terms.schedule(config),
                health=terms.health_terms(config),
                patience_s=config.hosts.patience_s,
                idle_session_s=config.limits.idle_session_s,
                messages_per_session=config.limits.messages_per_session,
                sessions_per_lane=config.limits.sessions_per_lane,
                soft_bounce=config.soft_bounce,
            )
        )
        self._opened.push_async_callback(self._stop_delivery)
        self._entrance = Entrance(
            config,
            clock,
            sink,
            table,
            next_id=self.delivery.next_id,
            add=self.delivery.journey.add,
            draft=store.draft,
            refusal=lambda: self.delivery.drain.refusal or store.refusal,
        )
        self._opened.callback(self._entrance.close)
        self.injection = self._entrance.injection
        await self.delivery.start(why_paused)

    async def listen(self) -> None:
        """Accept mail on the configured addresses."""
        self._opened.push_async_callback(self._drain_receptions)
        self._opened.push_async_callback(self._listener.close)
        # First of all: what begins while a slow client uses up the grace would be cut off in the middle.
        self._opened.callback(self.delivery.journey.wind_down)
        self.bound += await self._entrance.listen(self._listener)
        self._planner.listen_at(frozenset(_own_addresses(self.bound)))

    async def close(self, grace_s: float) -> None:
        """Stop in the reverse order of the start, within `grace_s` in all (and what the last commit takes)."""
        self._stop_by = self._clock.monotonic() + grace_s
        await self._opened.aclose()

    async def _drain_receptions(self) -> None:
        await self._entrance.receptions.drain(self._grace_left_s())

    async def _stop_delivery(self) -> None:
        await self.delivery.stop(self._grace_left_s())

    def _grace_left_s(self) -> float:
        return max(0.0, self._stop_by - self._clock.monotonic())


def _absolute(directory: str | Path) -> Path:
    return Path(directory).absolute()


def _resolver(config: Config, clock: Clock) -> DnsResolver:
    servers = tuple([(server.host, server.port) for server in config.dns.servers])
    return DnsResolver(clock, servers or SystemServers(), Patience(total_s=config.dns.timeout_s))


def _planner(config: Config, table: RouteTable, resolver: DnsResolver, clock: Clock, chance: Random) -> Planner:
    system = read_resolv_conf()
    names = LocalNames(resolver, read_hosts(), system.search, system.ndots)
    return Planner(table, resolver, clock, chance, terms.plan_terms(config), names)


def _own_addresses(bound: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """Give the addresses and ports at which mail would come back to us; a wildcard stands for those of this machine."""
    for host, port in bound:
        if host not in ("", "*", "::", "0.0.0.0"):  # noqa: S104 - compared, not bound
            yield host, port
            continue
        for address in local_addresses():
            yield address, port
