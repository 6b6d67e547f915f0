# SPDX-License-Identifier: MIT
"""Every store holds every sentence of queue.store: the reference, the reference with slow commits, and SQLite."""

import asyncio
from pathlib import Path

import pytest
import uvloop

from smarthost.backends.sqlite.store import SqliteStore
from smarthost.queue.memory import MemoryStore
from smarthost.queue.store import Store
from smarthost.testing.simulation import SimulatedClock, SimulationLoop
from smarthost.testing.stores import SCENARIOS, Scenario, StoreMaker, check_store, keeping, run_scenario

PATIENCE_S = 20  # a store that hangs fails its test


class MemoryMaker:
    """Makes reference stores; with a delay, on the simulated clock of the loop that runs."""

    def __init__(self, commit_delay_s: float) -> None:
        self._delay_s = commit_delay_s

    async def make(self) -> Store:
        loop = asyncio.get_running_loop()
        clock = SimulatedClock(loop) if isinstance(loop, SimulationLoop) else None
        store = MemoryStore(clock, self._delay_s)
        await store.open()
        return store

    async def crash(self, store: Store) -> Store:
        assert isinstance(store, MemoryStore)
        found = store.crash()
        await found.open()
        return found

    async def restart(self, store: Store) -> Store:
        await store.close()
        await store.open()
        return store

    def set_full(self, store: Store, is_full: bool) -> None:
        assert isinstance(store, MemoryStore)
        store.capacity_octets = 0 if is_full else float("inf")


class SqliteMaker:
    """Makes SQLite stores in a directory; a crash kills the child and forgets the parent's side."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def make(self) -> Store:
        store = SqliteStore(self._directory)
        await store.open()
        return store

    async def crash(self, store: Store) -> Store:
        assert isinstance(store, SqliteStore)
        store.kill()
        return await self.make()

    async def restart(self, store: Store) -> Store:
        await store.close()
        return await self.make()

    def set_full(self, store: Store, is_full: bool) -> None:
        assert isinstance(store, SqliteStore)
        store.set_reserve(1 << 60 if is_full else 0)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_reference_store_holds(scenario: Scenario) -> None:
    """The reference store does what the contract says."""
    with asyncio.Runner() as runner:
        runner.run(run_scenario(scenario, MemoryMaker(0.0)))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_reference_store_with_slow_commits_holds(scenario: Scenario) -> None:
    """The reference store does what the contract says when a commit takes 50 ms of virtual time."""
    with asyncio.Runner(loop_factory=SimulationLoop) as runner:
        runner.run(run_scenario(scenario, MemoryMaker(0.05)))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_sqlite_store_holds(scenario: Scenario, tmp_path: Path) -> None:
    """The store on SQLite does what the contract says, on the event loop that serves."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(run_scenario(scenario, SqliteMaker(tmp_path / "state")), PATIENCE_S))


@pytest.mark.parametrize("scenario", keeping.SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_sqlite_store_holds_on_the_standard_loop(scenario: Scenario, tmp_path: Path) -> None:
    """The store on SQLite keeps mail on the standard library's event loop as well."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(asyncio.wait_for(run_scenario(scenario, SqliteMaker(tmp_path / "state")), PATIENCE_S))


def test_whole_suite_runs_as_one_check() -> None:
    """Whoever writes a store of their own checks it with one call."""
    maker: StoreMaker = MemoryMaker(0.0)

    asyncio.run(check_store(maker))
