# SPDX-License-Identifier: MIT
"""Lets a scenario's troubles happen: to hosts, names, the disk, the clock, and to the relay's life. And operators.

Whoever kills the relay does it between two callbacks of the event loop, whichever they are; a keeper starts it again,
as an init system would. Counts what it did, for the summary.
"""

import random
from collections import Counter
from collections.abc import Callable, Coroutine

from simulate.hosts import Host
from simulate.scenario import ClockStep, Death, DiskTrouble, HostTrouble, NameTrouble, Order, Stop
from simulate.watch import Watch, WatchedWorld
from smarthost.mail.errors import StoreError
from smarthost.ports import Answer, Clock
from smarthost.queue.store import Filter
from smarthost.testing.dns import Fault, ScriptedResolver, Zone
from smarthost.testing.mortal import Moment
from smarthost.testing.simulation import Simulation

AGAIN_S = 5.0  # between two starts, when the store cannot be opened
DNS_TIMEOUT_S = 10.0

Spawn = Callable[[Coroutine[object, object, None]], object]


class SlowResolver(ScriptedResolver):
    """Answers after a moment; what times out takes its time."""

    def __init__(self, zone: Zone, clock: Clock, seed: int) -> None:
        super().__init__(zone)
        self._clock = clock
        self._random = random.Random(f"names {seed}")

    async def ask(self, name: str, rdtype: str) -> Answer:
        has_failed = self.zone.fault(name, rdtype) is Fault.TIMEOUT
        await self._clock.sleep(DNS_TIMEOUT_S if has_failed else self._random.choice((0.0, 0.002, 0.3)))
        return await super().ask(name, rdtype)


class Keeper:
    """Starts the relay, and lets it die."""

    def __init__(
        self, simulation: Simulation, world: WatchedWorld, watch: Watch, spawn: Spawn, counts: Counter[str]
    ) -> None:
        self._simulation = simulation
        self._world = world
        self._watch = watch
        self._spawn = spawn
        self._counts = counts
        self._armed: list[tuple[Moment, Callable[[], object]]] = []
        self._is_over = False
        world.passed = self._passed

    def over(self) -> None:
        """Let it live from now on."""
        self._is_over = True
        self._armed.clear()

    async def kill(self, death: Death) -> None:
        """Kill it at the n-th step after a moment."""
        await self._world.clock.sleep(death.at)
        self._arm(death.moment, lambda: self._simulation.interrupt_after(death.steps, lambda: self._die(death)))

    def _arm(self, moment: Moment | None, act: Callable[[], object]) -> None:
        """Act at the next such moment, or at once."""
        if moment is None:
            act()
        elif not self._is_over:
            self._armed.append((moment, act))

    def _passed(self, moment: Moment) -> None:
        if self._armed:
            come = [act for wanted, act in self._armed if wanted is moment]
            self._armed = [each for each in self._armed if each[0] is not moment]
            for act in come:
                act()

    def _die(self, death: Death) -> None:
        if not self._world.is_running or self._is_over:
            return
        self._counts["crashes"] += 1
        self._world.crash()
        self._watch.ended(forgot=True)
        self._spawn(self._rise(death.down_s, death.clock_step_s))

    async def stop(self, stop: Stop) -> None:
        """Stop it in good order at the n-th step after a moment, unless it is down; it may be killed meanwhile."""
        await self._world.clock.sleep(stop.at)
        self._arm(stop.moment, lambda: self._simulation.interrupt_after(stop.steps, lambda: self._begin_stop(stop)))

    def _begin_stop(self, stop: Stop) -> None:
        self._spawn(self._stop(stop))

    async def _stop(self, stop: Stop) -> None:
        world = self._world
        if not world.is_up or self._is_over:
            return
        self._counts["stops"] += 1
        crashes, was_broken = world.crashes, world.disk.failure is not None
        world.trace.append(f"{world.clock.monotonic():.6f} stop")
        await world.stop(stop.grace_s)
        if world.crashes == crashes:
            self._watch.ended(forgot=was_broken or world.disk.failure is not None)
            await self._rise(stop.down_s, stop.clock_step_s)

    async def _rise(self, down_s: float, clock_step_s: float = 0.0) -> None:
        world = self._world
        await world.clock.sleep(down_s)
        if clock_step_s:
            self._counts["clock steps while down"] += 1
            world.step_wall(clock_step_s)
        world.trace.append(f"{world.clock.monotonic():.6f} start")
        try:
            await world.start()
        except StoreError:
            world.crash()
            self._watch.ended(forgot=True)
            self._spawn(self._rise(AGAIN_S))


class Weather:
    """All troubles but those of the relay's life."""

    def __init__(self, world: WatchedWorld, watch: Watch, hosts: dict[str, Host], counts: Counter[str]) -> None:
        self._world = world
        self._watch = watch
        self._hosts = hosts
        self._counts = counts
        self._is_over = False

    async def clear_up(self) -> None:
        """Let all be well from now on."""
        self._is_over = True
        for host in self._hosts.values():
            host.recover()
        self._world.zone.faults.clear()
        self._world.free_disk()
        self._world.disk.is_unreadable = False
        await self._world.repair()

    async def host(self, trouble: HostTrouble) -> None:
        """Let a host be in a mood for a while."""
        await self._world.clock.sleep(trouble.begins)
        if not self._is_over:
            self._counts[f"host {trouble.mood.value}"] += 1
            self._hosts[trouble.address].begin(trouble)
            await self._world.clock.sleep(trouble.ends - trouble.begins)
            if not self._is_over:
                self._hosts[trouble.address].end(trouble)

    async def name(self, trouble: NameTrouble) -> None:
        """Let a name not be resolved for a while."""
        faults = self._world.zone.faults
        await self._world.clock.sleep(trouble.begins)
        if not self._is_over:
            self._counts[f"names {trouble.fault}"] += 1
            faults[trouble.name] = Fault(trouble.fault)
            await self._world.clock.sleep(trouble.ends - trouble.begins)
            faults.pop(trouble.name, None)

    async def disk(self, trouble: DiskTrouble) -> None:
        """Let the disk fail or be full for a while."""
        world = self._world
        await world.clock.sleep(trouble.begins)
        if self._is_over:
            return
        self._counts[f"disk {trouble.how}"] += 1
        world.trace.append(f"{world.clock.monotonic():.6f} disk {trouble.how}")
        match trouble.how:
            case "full":
                world.fill_disk()
            case "unreadable":
                world.disk.is_unreadable = True
            case _:
                world.break_disk()
        await world.clock.sleep(trouble.ends - trouble.begins)
        match trouble.how:
            case "full":
                world.free_disk()
            case "unreadable":
                world.disk.is_unreadable = False
            case _ if not self._is_over:
                await world.repair()

    async def clock(self, step: ClockStep) -> None:
        """Step the clock while the relay is up."""
        await self._world.clock.sleep(step.at)
        if not self._is_over:
            self._counts["clock steps"] += 1
            self._world.step_wall(step.step_s)

    async def _change(self, order: Order) -> None:
        world = self._world
        if order.verb == "cancel":
            self._watch.cancelled(order.recipient)
        else:
            self._watch.hastened()
        if order.verb == "suspend":
            await world.delivery.suspensions.suspend(order.sender or order.domain, "", "an operator")
        else:
            await world.change(order.verb, Filter(recipient=order.recipient, domain=order.domain))
        if world.is_up:  # it may stop while it hears
            self._watch.hastened()
        if order.lasts_s:
            await self._end(order)

    async def _end(self, order: Order) -> None:
        """End what was held back, as soon as there is a relay that hears it; what waited may end so much later."""
        world = self._world
        began = world.clock.monotonic()
        await world.clock.sleep(order.lasts_s)
        while True:
            try:
                if world.is_up and order.verb == "suspend":
                    await world.delivery.suspensions.end(order.sender or order.domain, "an operator")
                elif world.is_up:
                    await world.change("release", Filter(recipient=order.recipient, domain=order.domain))
                if world.is_up:
                    break
            except ValueError:  # another has ended it, or the relay crashed before it was durable
                break
            except StoreError:
                self._counts["operators told no"] += 1
            await world.clock.sleep(10.0)
        self._watch.excuse(world.clock.monotonic() - began)
        self._watch.hastened()

    async def order(self, order: Order) -> None:
        """Let an operator speak."""
        world = self._world
        await world.clock.sleep(order.at)
        if self._is_over or not world.is_up:
            return
        self._counts[f"operators {order.verb}"] += 1
        world.trace.append(f"{world.clock.monotonic():.6f} operator {order.verb} {order.recipient}{order.domain}")
        try:
            if order.verb == "reset":
                await world.delivery.hosts.reset()
            else:
                await self._change(order)
        except StoreError:
            self._counts["operators told no"] += 1
