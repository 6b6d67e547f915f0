# SPDX-License-Identifier: MIT
"""Config -> a running relay with real backends: what `serve`, the demo and a library user open.

The only module that knows both the stages and the world. Starts in the order lock, store, journey, listeners, and stops
in the reverse order, so that nothing is accepted that could not be kept. A crash leaves what queue.store says.
"""

import random  # noqa: TID251 - SystemRandom is the real ports.Random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from email.message import EmailMessage
from email.policy import SMTP
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec.structs import replace

from smarthost.accept.inject import Injection, Receipt
from smarthost.accept.replies import for_store_failure
from smarthost.activation import listen_at_passed
from smarthost.backends.clock import SystemClock
from smarthost.backends.dns import DnsResolver, LocalNames, SystemServers, read_hosts, read_resolv_conf
from smarthost.backends.dns.resolver import Patience
from smarthost.backends.interfaces import local_addresses
from smarthost.backends.logs import LoggingSink
from smarthost.backends.sqlite.store import SqliteStore
from smarthost.backends.systemd import PassedSocket
from smarthost.backends.tcp import TcpDialer, TcpListener
from smarthost.backends.tls import TlsContexts
from smarthost.config import Config, Mode, parse_config, terms
from smarthost.delivery import Delivery, DeliveryTerms
from smarthost.entrance import Entrance
from smarthost.mail.backup import Backup
from smarthost.mail.change import Change
from smarthost.mail.errors import StoreError, SubmissionRefused
from smarthost.mail.explanation import Explanation, HostReport
from smarthost.mail.progress import DrainEnd, Moving, Staying
from smarthost.mail.record import Record
from smarthost.mail.reply import Reply
from smarthost.mail.story import Story, Summary, Suspension
from smarthost.ports import Clock, Random, Sink
from smarthost.queue.audit import AuditFigures, Finding
from smarthost.queue.store import Changed, Filter, Page, Store
from smarthost.reloading import Follower, Reloading, ReloadParts, with_choices
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
        self._passed: tuple[PassedSocket, ...] = ()
        self._why_paused = "it was started so" if paused else ""
        self._running: _Running | None = None

    def adopt(self, sockets: Sequence[PassedSocket]) -> None:
        """Listen on sockets that a service manager passed, each in the listener it is for; before `start`.

        Raises: ConfigError: one is for no listener.
        """
        self.config = listen_at_passed(self.config, sockets)
        self._passed = tuple(sockets)

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
        running = self._running = _Running(self.config, self._sink, self._passed)
        try:
            await running.open(self._why_paused)
            await running.listen()
        except BaseException:
            await self.stop(0.0)
            raise
        self.bound = running.bound

    async def reload(self, config: Config, followers: Sequence[Follower] = ()) -> tuple[Change, ...]:
        """Take over another Config while mail goes on, whole or not at all; gives what is different now.

        Sessions and attempts under way end by the terms they began with; what waits is routed anew at once. `followers`
        are side services that take over sections of their own.
        Raises: ConfigError: names the key, and the Config of before is in force. StoreError: not started.
        """
        parts = self._parts
        try:
            return await parts.reloading.reload(listen_at_passed(config, self._passed), followers)
        finally:
            self.config, self.bound = parts.reloading.config, parts.bound

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
        self,
        content: bytes | EmailMessage,
        reverse_path: str,
        recipients: Sequence[str],
        *,
        client: str = "local",
        user: str = "",
        drawn: Callable[[str], Awaitable[None]] | None = None,
    ) -> Receipt:
        """Take responsibility for a message: when it returns, the message is durable.

        `content` is an EmailMessage, or octets with CRLF line ends; `reverse_path` may be "" (null). `user`: who proved
        to be so, for fairness, records and suspensions. `drawn`: awaited with the id before the message is filed, for
        who must know of it even when a crash comes before the receipt.
        Raises: SubmissionRefused: carries the reply an SMTP client would have read. StoreError: try again later.
        """
        if (refusal := self._parts.delivery.drain.refusal) is not None:
            raise SubmissionRefused(for_store_failure(refusal))
        octets = content.as_bytes(policy=SMTP) if isinstance(content, EmailMessage) else content
        if not isinstance(octets, bytes):
            raise TypeError(f"content is bytes or an EmailMessage, not {type(octets).__name__}")
        return await self._parts.injection.submit(
            octets, reverse_path, recipients, client=client, user=user, drawn=drawn
        )

    def refuse_recipient(self, recipient: str) -> Reply | None:
        """Say why `submit` would refuse this recipient, or None. Raises: StoreError: not started."""
        try:
            self._parts.injection.read_recipient(recipient)
        except SubmissionRefused as error:
            return error.reply
        return None

    async def find(self, which: Filter = _EVERYTHING, cursor: str | None = None, n: int = 100) -> Page:
        """Give one page of the queue. Raises: ValueError: a damaged cursor. StoreError."""
        return await self._parts.delivery.operations.find(which, cursor, n)

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
    ) -> Changed:
        """Apply retry, hold, release, cancel, bounce, expire or reroute to one portion.

        `by` whom, and for what `reason`, is in the records. "retry" also ends the pauses of broken hosts that are in
        the way of this mail, each for one probe. "reroute" sends it `via` "mx" (its domain's own exchangers) or a host
        ("smtp.example.net:587"; "" is by the routes again). A dry run changes nothing, and gives what would change.
        Raises: ValueError: an unknown verb, no such way, a damaged cursor. StoreError.
        """
        delivery = self._parts.delivery
        changed = await delivery.operations.change(
            which, verb, cursor, n, by=by, reason=reason, via=via, is_dry_run=dry_run
        )
        if verb == "retry" and cursor is None and not dry_run:
            await delivery.hosts.hasten(which)
        return changed

    async def why(self, text: str, n: int = 10) -> tuple[Story, ...]:
        """Tell the stories of the message with this id or Message-ID, or of the newest `n` to this address.

        Raises: StoreError.
        """
        return await self._parts.delivery.stories.tell(text, n)

    async def summary(self, n: int = 20) -> Summary:
        """Count what waits by destination, sender and reason; at most `n` names of each. Raises: StoreError."""
        return await self._parts.delivery.operations.summary(n)

    async def domains_of_lane(self, lane: str) -> tuple[str, ...]:
        """Give under what domains the mail is filed that a lane would carry now. Raises: StoreError."""
        return await self._parts.delivery.operations.domains_of_lane(lane)

    async def suspend(self, what: str, reason: str = "", by: str = "") -> Suspension:
        """Try nothing for a destination, or hold all mail of a sender, until `end_suspension`. Survives restarts.

        Raises: ValueError: `what` is neither. StoreError.
        """
        return await self._parts.delivery.suspensions.suspend(what, reason, by)

    async def end_suspension(self, what: str, by: str = "") -> Suspension:
        """Let it go on at once; gives what was. Raises: ValueError: it is not suspended. StoreError."""
        return await self._parts.delivery.suspensions.end(what, by)

    def suspensions(self) -> tuple[Suspension, ...]:
        """Give what operators suspended, longest first."""
        return self._parts.delivery.suspensions.all()

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

    async def find_standstill(self) -> tuple[HostReport, ...]:
        """Give the broken hosts for which all mail waits; () where something can be delivered, or nothing waits."""
        return await self._parts.delivery.hosts.find_standstill()

    async def reset_hosts(self, text: str = "") -> tuple[HostReport, ...]:
        """Forget what is known against these hosts, and give it; what waited for them is due at once."""
        return await self._parts.delivery.hosts.reset(text)

    @property
    def refusal(self) -> Exception | None:
        """Why new mail cannot be taken now, or None. Raises: StoreError: not started."""
        parts = self._parts
        return parts.delivery.drain.refusal or parts.store.refusal

    def figures(self) -> dict[str, float]:
        """Give how much is under way at this moment, by name. Raises: StoreError: not started."""
        sessions = self._parts.sessions_by_mode()
        return {
            **{f"sessions_in_{mode.value}": sessions[mode.value] for mode in Mode},
            **self._parts.delivery.figures(),
            **self._parts.store.figures(),
        }

    @property
    def record_horizon(self) -> int:
        """The number up to which no record will appear any more. Raises: StoreError: not started."""
        return self._parts.delivery.record_horizon

    async def records(self, after: int, n: int) -> tuple[Record, ...]:
        """Give at most `n` records with a number above `after`, in order, and none that another may yet come before.

        So whoever goes on from the last number misses none. Raises: StoreError.
        """
        horizon = self.record_horizon  # before the store is asked: what is durable by then is found
        return tuple([each for each in await self._parts.store.records(after, n) if each.seq <= horizon])

    async def explain(self, address: str, *, probe: bool = False, sender: str = "") -> Explanation:
        """Tell what would happen to a message for this address now; `probe`: dial its hosts as far as EHLO.

        `sender`: who writes it, where routes ask for that: a reverse-path, or "user:NAME" who logged in.
        Raises: SubmissionRefused: such a recipient is refused. ValueError: neither an address nor a domain; no sender.
        """
        return await self._parts.delivery.explainer.explain(address, probe=probe, sender=sender)


class _Running:
    """The parts of a relay that runs, built from a Config."""

    def __init__(self, config: Config, sink: Sink, passed: Sequence[PassedSocket] = ()) -> None:
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
            record_days=terms.record_days(config),
        )
        self._listener = TcpListener(self._clock, note=sink.note, passed=passed)

    async def open(self, why_paused: str) -> None:
        """Open the store and begin to deliver what it holds."""
        config, clock, sink, store = self._config, self._clock, self._sink, self.store
        self._opened.push_async_callback(store.close)
        await store.open()
        table = terms.route_table(config)
        resolver = _resolver(config, clock)
        self._opened.callback(lambda: self.close_resolver())
        self.close_resolver: Callable[[], None] = resolver.close
        chance = random.SystemRandom()
        planner = _planner(config, table, resolver, clock, chance)
        dialer = TcpDialer(clock, TlsContexts(ca_file=terms.ca_file(config)))
        self.delivery = Delivery(
            with_choices(
                DeliveryTerms(
                    store=store,
                    clock=clock,
                    random=chance,
                    sink=sink,
                    dialer=dialer,
                    table=table,
                    planner=planner,
                    read_recipient=lambda text: self.injection.read_recipient(text).domain,
                    hostname=config.hostname,
                    schedule=terms.schedule(config),
                ),
                config,
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
        self.reloading = Reloading(
            ReloadParts(
                clock=clock,
                sink=sink,
                delivery=self.delivery,
                entrance=self._entrance,
                listener=self._listener,
                table=table,
                planner=planner,
                dialer=dialer,
                resolve=lambda config: _resolvers(config, clock),
                own_addresses=lambda bound: frozenset(_own_addresses(bound)),
            ),
            config,
            resolver.close,
        )
        self.close_resolver = self.reloading.close
        await self.delivery.start(why_paused)

    async def listen(self) -> None:
        """Accept mail on the configured addresses."""
        self._opened.push_async_callback(self._drain_receptions)
        self._opened.push_async_callback(self._listener.close)
        # First of all: what begins while a slow client uses up the grace would be cut off in the middle.
        self._opened.callback(self.delivery.journey.wind_down)
        await self._entrance.listen(self._listener)
        self.reloading.learn_addresses()

    @property
    def injection(self) -> Injection:
        """Files what comes by no listener."""
        return self._entrance.injection

    @property
    def bound(self) -> tuple[tuple[str, int], ...]:
        """The addresses where mail is taken."""
        return tuple(self._entrance.bound)

    def sessions_by_mode(self) -> Mapping[str, int]:
        """Give how many sessions with clients are open at listeners of each mode."""
        return self._entrance.receptions.count_by_mode()

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


def _resolvers(config: Config, clock: Clock) -> tuple[DnsResolver, LocalNames, Callable[[], None]]:
    resolver = _resolver(config, clock)
    return resolver, _names(resolver), resolver.close


def _names(resolver: DnsResolver) -> LocalNames:
    system = read_resolv_conf()
    return LocalNames(resolver, read_hosts(), system.search, system.ndots)


def _planner(config: Config, table: RouteTable, resolver: DnsResolver, clock: Clock, chance: Random) -> Planner:
    return Planner(table, resolver, clock, chance, terms.plan_terms(config), _names(resolver))


def _own_addresses(bound: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """Give the addresses and ports at which mail would come back to us; a wildcard stands for those of this machine."""
    for host, port in bound:
        if host not in ("", "*", "::", "0.0.0.0"):  # noqa: S104 - compared, not bound
            yield host, port
            continue
        for address in local_addresses():
            yield address, port
