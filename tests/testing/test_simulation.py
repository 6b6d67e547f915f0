# SPDX-License-Identifier: MIT
"""Virtual time: fast, repeatable, and loud when nothing can happen any more."""

import asyncio
import time

import pytest

from smarthost.testing.simulation import (
    Simulation,
    SimulationDeadlock,
    SimulationLoop,
    SimulationOverran,
    run_simulation,
)


async def wander(simulation: Simulation) -> list[str]:
    """Some tasks that sleep by chance and write down when they wake."""

    async def one(name: str) -> None:
        for step in range(5):
            await simulation.clock.sleep(simulation.random.random() * 3600)
            simulation.note(f"{name} wakes {step}")

    async with asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(one(name))
    return simulation.trace


def test_same_seed_same_trace() -> None:
    """A failure found once can be looked at again."""
    first, again, other = (run_simulation(wander, seed=seed) for seed in (7, 7, 8))

    assert first == again
    assert first != other
    assert len(first) == 15


def test_a_day_takes_no_time() -> None:
    """Five days of retries are simulated while one waits."""

    async def main(simulation: Simulation) -> float:
        before = simulation.clock.wall()
        await simulation.clock.sleep(5 * 86_400)
        return simulation.clock.wall() - before

    began = time.perf_counter()
    passed = run_simulation(main, seed=1, until_s=6 * 86_400)

    assert passed == 5 * 86_400
    assert time.perf_counter() - began < 0.2


def test_deadlock_names_who_waits() -> None:
    """When nothing is ready and no timer is set the simulation says so at once, and who waits where."""

    async def stuck() -> None:
        await asyncio.Event().wait()

    async def main(simulation: Simulation) -> None:
        task = asyncio.create_task(stuck(), name="the stuck one")
        await asyncio.wait([task])

    with pytest.raises(
        SimulationDeadlock, match=r"simulated-1 .*main .*; the stuck one .*stuck .*test_simulation\.py:\d+"
    ):
        run_simulation(main, seed=1)


def test_cancelled_deadline_does_not_hide_a_deadlock() -> None:
    """A deadline that was taken back is nothing to wait for."""

    async def main(simulation: Simulation) -> None:
        simulation.clock.deadline(5, lambda: None).cancel()
        await asyncio.Event().wait()

    with pytest.raises(SimulationDeadlock):
        run_simulation(main, seed=1)


def test_journey_without_end_is_ended() -> None:
    """Two tasks that keep each other busy for ever are stopped at the time given."""

    async def main(simulation: Simulation) -> None:
        while True:
            await simulation.clock.sleep(1)

    with pytest.raises(SimulationOverran, match=r"not done after 60 s; waiting: simulated-1 .*main"):
        run_simulation(main, seed=1, until_s=60)


def test_tasks_left_behind_are_cancelled_in_order() -> None:
    """What main forgets is ended in the order it was begun, and may take its (virtual) time to clean up."""
    ended: list[str] = []

    async def linger(simulation: Simulation, name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)
            await simulation.clock.sleep(1)
            ended.append(f"{name} cleaned up")

    async def main(simulation: Simulation) -> None:
        for name in "abc":
            asyncio.create_task(linger(simulation, name))  # noqa: RUF006 - forgetting it is the point
        await asyncio.sleep(0)

    run_simulation(main, seed=1)

    assert ended == ["a", "b", "c", "a cleaned up", "b cleaned up", "c cleaned up"]


def test_bug_in_a_callback_fails_the_simulation() -> None:
    """What a real loop would only have logged is an error here."""

    async def main(simulation: Simulation) -> None:
        simulation.clock.deadline(1, lambda: 1 / 0)  # type: ignore[arg-type]
        await simulation.clock.sleep(2)

    with pytest.raises(RuntimeError, match="Exception in callback") as failed:
        run_simulation(main, seed=1)
    assert isinstance(failed.value.__cause__, ZeroDivisionError)


def test_result_and_exception_of_main_come_out() -> None:
    """A simulated journey returns and raises as if it were called."""

    async def fine(simulation: Simulation) -> int:
        return 42

    async def broken(simulation: Simulation) -> None:
        raise KeyError("lost")

    assert run_simulation(fine, seed=1) == 42
    with pytest.raises(KeyError):
        run_simulation(broken, seed=1)


@pytest.mark.parametrize("wish", ["thread", "socket", "name"])
def test_the_world_is_out_of_reach(wish: str) -> None:
    """Code that reaches past the ports cannot be simulated, and learns so."""

    async def main(simulation: Simulation) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulationLoop)
        match wish:
            case "thread":
                await asyncio.to_thread(print)
            case "socket":
                await loop.create_connection(asyncio.Protocol, "127.0.0.1", 25)
            case "name":
                await loop.getaddrinfo("mx.example", 25)

    with pytest.raises((RuntimeError, NotImplementedError)):
        run_simulation(main, seed=1)
