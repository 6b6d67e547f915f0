# SPDX-License-Identifier: MIT
"""One life of a simulated relay: the real parts, joined in the order in which assemble joins them, until it dies.

Used by testing.world alone, whose network, names, chance and disk it takes; its ports fall silent when it ends
(testing.mortal). Its wall clock is read at its start, as that of a process: a step later on is not seen.
"""

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from smarthost.accept.listeners import ListenerTerms, ReceptionTerms
from smarthost.accept.policy import LOOPBACK, RelayPolicy
from smarthost.accept.reception import Reception
from smarthost.accept.receptions import Receptions
from smarthost.delivery import Delivery, DeliveryTerms
from smarthost.mail.address import to_domain
from smarthost.ports import Clock, Connection, Random, Resolver, Sink
from smarthost.queue.memory import MemoryStore
from smarthost.queue.schedule import RetrySchedule
from smarthost.route.health import HealthTerms
from smarthost.route.plan import Planner, PlanTerms
from smarthost.route.source import Speaker
from smarthost.route.table import Route, RouteTable
from smarthost.smtp.limits import Limits
from smarthost.smtp.offer import ServerSettings
from smarthost.testing.mortal import (
    Disk,
    Life,
    MortalClock,
    MortalConnection,
    MortalDialer,
    MortalSink,
    MortalStore,
)
from smarthost.testing.network import MemoryNetwork
from smarthost.testing.simulation import SimulatedClock

DOOR = ("127.0.0.1", 2525)  # where the relay listens; clients dial from loopback


class WorldTerms(Struct, frozen=True, kw_only=True):
    """What a scenario may vary; the rest is as in production."""

    hostname: str = "relay.example.org"
    default_route: Route | None = None
    routes: dict[str, Route] = {}
    sender_routes: dict[tuple[str, str], Route] = {}
    commit_delay_s: float = 0.002
    latency_s: float = 0.01
    sessions_per_lane: int = 20
    sessions: int = 2_000
    messages_per_session: int = 100
    soft_bounce: bool = False
    schedule: RetrySchedule = RetrySchedule()
    health: HealthTerms = HealthTerms()
    limits: Limits = Limits()
    idle_session_s: float = 5.0
    reads_take_s: tuple[float, float] = (0.0, 0.0)  # from and to; drawn for each read of the store


class Surroundings(Sink, Protocol):
    """What a life finds: the world, as far as it is asked."""

    terms: WorldTerms
    disk: Disk

    @property
    def clock(self) -> SimulatedClock: ...
    @property
    def random(self) -> Random: ...
    @property
    def network(self) -> MemoryNetwork: ...
    @property
    def resolver(self) -> Resolver: ...
    @property
    def machine_wall(self) -> float: ...
    def heard(self) -> None: ...


class Running:
    """What runs from a start to its end: `open` before use; `close` in good order, or `die`."""

    def __init__(self, world: Surroundings, memory: MemoryStore) -> None:
        self._world = world
        self._life = life = Life(world.heard)
        clock = world.clock.set_to(world.machine_wall)
        self.wall = clock.wall
        self._clock: Clock = MortalClock(life, clock)
        self._sink = MortalSink(life, world)
        self.store = MortalStore(life, memory, world.disk, _draw_from(world.terms.reads_take_s, world.random))
        self.delivery: Delivery
        self._receptions: Receptions
        self._door: Callable[[Connection], Reception | None]

    async def open(self) -> None:
        await self.store.open()
        self.delivery = self._make_delivery()
        self._receptions = self._make_receptions()
        self._door = self._make_door()
        await self.delivery.start()
        self._world.network.bind(*DOOR, self._accept)

    def _make_delivery(self) -> Delivery:
        world, terms = self._world, self._world.terms
        table = RouteTable(terms.default_route, terms.routes, terms.sender_routes)
        plan_terms = PlanTerms(Speaker(terms.hostname), frozenset((DOOR,)), allow_private=True)
        return Delivery(
            DeliveryTerms(
                store=self.store,
                clock=self._clock,
                random=world.random,
                sink=self._sink,
                dialer=MortalDialer(self._life, world.network),
                table=table,
                planner=Planner(table, world.resolver, self._clock, world.random, plan_terms),
                read_recipient=lambda text: to_domain(text.rpartition("@")[2]),
                hostname=terms.hostname,
                schedule=terms.schedule,
                health=terms.health,
                idle_session_s=terms.idle_session_s,
                messages_per_session=terms.messages_per_session,
                sessions_per_lane=terms.sessions_per_lane,
                sessions=terms.sessions,
                soft_bounce=terms.soft_bounce,
            )
        )

    def _make_receptions(self) -> Receptions:
        terms, store = self._world.terms, self.store
        return Receptions(
            ReceptionTerms(
                limits=terms.limits,
                clock=self._clock,
                sink=self._sink,
                next_id=self.delivery.next_id,
                add=self.delivery.journey.add,
                draft=store.draft,
                refusal=lambda: store.refusal,
            )
        )

    def _make_door(self) -> Callable[[Connection], Reception | None]:
        terms = self._world.terms
        settings = ServerSettings(
            hostname=terms.hostname,
            max_octets=terms.limits.message_octets,
            max_recipients=terms.limits.recipients,
            max_errors=terms.limits.errors,
        )
        return self._receptions.door(ListenerTerms(settings=settings, policy=RelayPolicy(LOOPBACK)))

    def _accept(self, connection: Connection) -> MortalConnection | None:
        if self._life.is_over:  # it died between the handshake and the accept: the kernel resets the connection
            return None
        mortal = MortalConnection(self._life, connection)
        return None if self._door(mortal) is None else mortal

    async def close(self, grace_s: float) -> None:
        """As assemble does."""
        until = self._clock.monotonic() + grace_s
        self.delivery.journey.wind_down()
        self._world.network.unbind(DOOR)
        await self._receptions.drain(grace_s)
        await self.delivery.stop(max(0.0, until - self._clock.monotonic()))
        await self.store.close()

    def die(self) -> None:
        self._world.network.unbind(DOOR)
        self._life.end()


def _draw_from(span_s: tuple[float, float], random: Random) -> Callable[[], float] | None:
    first_s, last_s = span_s
    return (lambda: first_s + (last_s - first_s) * random.random()) if last_s else None
