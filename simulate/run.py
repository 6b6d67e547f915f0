# SPDX-License-Identifier: MIT
"""One seed: builds the world of its scenario, lets it live, and says what came of it. Same seed, same trace.

After the scenario's end all troubles cease; then everything must have come to its end within TAIL_S.
"""

import asyncio
import gc
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Coroutine

from msgspec import Struct
from msgspec.structs import replace

from simulate.draw import draw
from simulate.history import History
from simulate.hosts import Host
from simulate.scenario import Posting, Scenario, Site, host_name
from simulate.senders import NoAnswer, Senders
from simulate.troubles import Keeper, SlowResolver, Weather
from simulate.watch import MINUTE_S, Broken, Watch, WatchedWorld
from smarthost.testing.simulation import Simulation, SimulationDeadlock, SimulationOverran, run_simulation

# The longest retry (4,400 s), an hour's pause of a host, an hour's postponement, and attempts that were under way.
TAIL_S = 4 * 3600.0
REST_S = 900.0
TRACE_SHOWN = 30


class Outcome(Struct, frozen=True, kw_only=True):
    """What came of a seed. `invariant`: which was broken, "" for none; `trace`: its last lines then."""

    seed: int
    hours: float
    digest: str
    lines: int
    virtual_s: float
    cpu_s: float
    messages: int
    recipients: int
    ends: dict[str, int]
    copies: int
    excused_copies: int
    faults: dict[str, int]
    invariant: str = ""
    text: str = ""
    trace: tuple[str, ...] = ()
    plant: str = ""


def live(seed: int, hours: float, plant: str = "", *, is_traced: bool = False) -> Outcome:
    """Let one seed live; an error of the simulation itself, or of the relay's loop, is a failure as well.

    `plant` is told in the outcome; `is_traced`: give the whole trace.
    """
    scenario = draw(seed, hours)
    run = _Run(scenario)
    began = time.process_time()
    is_collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # what dies when must not depend on what ran before: lanes live as long as somebody holds them
    try:
        run_simulation(run.live, seed=seed, until_s=scenario.ends + 2 * TAIL_S)
    except Broken as broken:
        run.broken = broken
    except (SimulationDeadlock, SimulationOverran, RuntimeError, NoAnswer) as failure:
        cause = "" if failure.__cause__ is None else f": {failure.__cause__!r}"
        run.broken = run.broken or Broken(type(failure).__name__, f"{failure}{cause}", run.history.now)
    finally:
        if is_collecting:
            gc.enable()
    outcome = run.outcome(time.process_time() - began, plant)
    return replace(outcome, trace=tuple(run.trace)) if is_traced else outcome


class _Run:
    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.history = History()
        self.counts: Counter[str] = Counter()
        self.broken: Broken | None = None
        self.trace: list[str] = []
        self._tasks: dict[asyncio.Task[None], None] = {}

    async def live(self, simulation: Simulation) -> None:
        """Everything, from the first start to the last look."""
        scenario = self.scenario
        self.trace = simulation.trace
        world = WatchedWorld(simulation, scenario)
        self._watch = watch = Watch(world, scenario, self.history)
        hosts = self._furnish(world, simulation)
        keeper = Keeper(simulation, world, watch, self._spawn, self.counts)
        weather = Weather(world, watch, hosts, self.counts)
        senders = Senders(world.network, world.clock, self.history, simulation.note, watch.said, watch.acknowledged)
        await world.start()
        posted = [self._spawn(self._post(world, senders, posting)) for posting in scenario.postings]
        for work in (
            *map(keeper.kill, scenario.deaths),
            *map(keeper.stop, scenario.stops),
            *map(weather.host, scenario.hosts),
            *map(weather.name, scenario.names),
            *map(weather.disk, scenario.disks),
            *map(weather.clock, scenario.clock),
            *map(weather.order, scenario.orders),
        ):
            self._spawn(work)
        await self._pass_minutes(world, scenario.ends, lambda: False)
        keeper.over()
        await weather.clear_up()
        simulation.note("all is well from now on")
        ends = scenario.ends + TAIL_S
        await self._pass_minutes(
            world, ends, lambda: world.is_up and all(task.done() for task in posted) and world.count() == (0, 0)
        )
        watch.finish()
        self._raise()
        await world.clock.sleep(REST_S)
        watch.rest()
        self._raise()
        await world.stop()

    def _furnish(self, world: WatchedWorld, simulation: Simulation) -> dict[str, Host]:
        """Let there be names and hosts."""
        scenario = self.scenario
        world.resolver = SlowResolver(world.zone, world.clock, scenario.seed)
        for site in scenario.sites:
            world.zone.set(site.domain, *_mx_records(site))
        for name in scenario.null:
            world.zone.set(name, "MX 0 .")
        hosts = {}
        for address in scenario.addresses:
            world.zone.set(host_name(address), f"A {address}")
            hosts[address] = host = Host(
                address, scenario.seed, world.network, self.history, simulation.note, self._watch.took
            )
            world.network.bind(address, 25, host.accept)
        return hosts

    async def _post(self, world: WatchedWorld, senders: Senders, posting: Posting) -> None:
        await world.clock.sleep(posting.at)
        await senders.send(posting)

    async def _pass_minutes(self, world: WatchedWorld, until: float, is_done: Callable[[], bool]) -> None:
        while world.clock.monotonic() < until and not is_done():
            await world.clock.sleep(min(MINUTE_S, until - world.clock.monotonic()))
            self._watch.check()
            self._raise()

    def _raise(self) -> None:
        if self._watch.broken is not None:
            raise self._watch.broken
        if self.broken is not None:
            raise self.broken

    def _spawn(self, work: Coroutine[object, object, None]) -> "asyncio.Task[None]":
        task = asyncio.ensure_future(work)
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        del self._tasks[task]
        if not task.cancelled() and (failure := task.exception()) is not None and self.broken is None:
            name = "each_client_gets_an_answer" if isinstance(failure, NoAnswer) else "the_simulation_works"
            self.broken = Broken(name, repr(failure), self.history.now)

    def outcome(self, cpu_s: float, plant: str) -> Outcome:
        """Sum up."""
        history, broken = self.history, self.broken
        copies = [len(copies) for copies in history.copies.values()]
        return Outcome(
            seed=self.scenario.seed,
            hours=self.scenario.hours,
            digest=hashlib.sha256("\n".join(self.trace).encode()).hexdigest(),
            lines=len(self.trace),
            virtual_s=history.now,
            cpu_s=cpu_s,
            messages=len({id for id, _ in history.acknowledged}),
            recipients=len(history.acknowledged),
            ends=dict(Counter(end.kind.value for ends in history.ends.values() for end in ends)),
            copies=sum(copies),
            excused_copies=sum(copies) - len(copies),
            faults=dict(sorted(self.counts.items())),
            invariant="" if broken is None else broken.invariant,
            text="" if broken is None else broken.text,
            trace=() if broken is None else tuple(self.trace[-TRACE_SHOWN:]),
            plant=plant,
        )


def _mx_records(site: Site) -> list[str]:
    return [f"MX {10 if site.is_equal else 10 * n} {host_name(address)}" for n, address in enumerate(site.addresses, 1)]
