# SPDX-License-Identifier: MIT
"""The real clock. Its wheel is tried in virtual time: SimulationLoop sets the timers and tells the time."""

import asyncio
import gc
import time
import weakref
from collections.abc import Callable, Coroutine

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smarthost.backends import clock as clock_module
from smarthost.backends.clock import SLOTS, TICK_S, SystemClock
from smarthost.testing.simulation import SimulationLoop

LATE_S = 0.25
Scenario = Callable[[SystemClock, SimulationLoop], Coroutine[None, None, None]]


def play(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> SimulationLoop:
    """Run a scenario on a wheel in virtual time, which starts somewhere between two ticks."""
    loop = SimulationLoop()

    async def main() -> None:
        await asyncio.sleep(1000.03)
        await scenario(SystemClock(), loop)

    with monkeypatch.context() as patch:
        patch.setattr(clock_module, "monotonic", loop.time)
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()
    return loop


def test_wall_is_now() -> None:
    """The wall clock starts at what the system says."""
    clock = SystemClock()

    assert abs(clock.wall() - time.time()) < 1
    assert abs(clock.monotonic() - time.monotonic()) < 1


def test_stepped_wall_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who sets the system's clock three days ahead does not expire the queue."""
    clock = SystemClock()
    before = clock.wall()

    monkeypatch.setattr(time, "time", lambda: before + 3 * 86_400)

    assert 0 <= clock.wall() - before < 1


def test_deadline_needs_a_running_loop() -> None:
    """A deadline made where no loop runs is an error at once, not a deadline that never comes."""
    with pytest.raises(RuntimeError, match="no running event loop"):
        SystemClock().deadline(1, lambda: None)


moves = st.lists(
    st.tuples(
        st.sampled_from(["restart", "cancel"]),
        st.integers(0, 4),  # which deadline
        st.floats(0, 400),  # to how far away; beyond a turn of the wheel too
        st.floats(0, 100),  # how long until the next move
    ),
    max_size=30,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=moves)
def test_deadlines_are_never_early_and_hardly_late(
    moves: list[tuple[str, int, float, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is moved and cancelled, each deadline fires once per time it was set, in its quarter of a second."""
    due: dict[int, float] = {}
    ages: list[float] = []

    async def scenario(clock: SystemClock, loop: SimulationLoop) -> None:
        def expire(which: int) -> None:
            ages.append(loop.time() - due.pop(which))

        deadlines = [clock.deadline(0, lambda which=which: expire(which)) for which in range(5)]  # type: ignore[misc]
        due.update(dict.fromkeys(range(5), loop.time()))
        for verb, which, seconds, pause in moves:
            if verb == "restart":
                deadlines[which].restart(seconds)
                due[which] = loop.time() + seconds
            else:
                deadlines[which].cancel()
                due.pop(which, None)
            await asyncio.sleep(pause)
            assert all(at > loop.time() - LATE_S for at in due.values()), "overdue"
        await asyncio.sleep(400 + LATE_S)

    play(scenario, monkeypatch)

    assert not due
    assert all(0 <= age <= LATE_S for age in ages)


def test_deadlines_of_one_tick_fire_in_order_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is due first fires first, even if both come up in one turn of the wheel."""
    fired: list[str] = []

    async def scenario(clock: SystemClock, loop: SimulationLoop) -> None:
        clock.deadline(0.002, lambda: fired.append("second"))
        clock.deadline(0.001, lambda: fired.append("first"))
        await asyncio.sleep(LATE_S)

    play(scenario, monkeypatch)

    assert fired == ["first", "second"]


def test_callback_may_move_and_cancel_others_of_its_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline that another callback cancels or moves at the last moment does not fire."""
    fired: list[str] = []

    async def scenario(clock: SystemClock, loop: SimulationLoop) -> None:
        def first() -> None:
            cancelled.cancel()
            moved.restart(10)
            hurried.restart(0)
            fired.append("first")

        clock.deadline(0.001, first)
        cancelled = clock.deadline(0.002, lambda: fired.append("cancelled"))
        moved = clock.deadline(0.003, lambda: fired.append("moved"))
        hurried = clock.deadline(0.004, lambda: fired.append("hurried"))
        await asyncio.sleep(LATE_S)
        assert fired == ["first", "hurried"]
        await asyncio.sleep(10)

    play(scenario, monkeypatch)

    assert fired == ["first", "hurried", "moved"]


def test_callback_that_raises_is_reported_and_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """One session's bug does not stop the deadlines of all others."""
    fired: list[str] = []

    async def scenario(clock: SystemClock, loop: SimulationLoop) -> None:
        clock.deadline(0.001, lambda: 1 / 0)  # type: ignore[arg-type]
        clock.deadline(0.002, lambda: fired.append("same turn"))
        clock.deadline(5, lambda: fired.append("later turn"))
        await asyncio.sleep(6)

    loop = play(scenario, monkeypatch)

    assert fired == ["same turn", "later turn"]
    assert [type(report["exception"]) for report in loop.reports] == [ZeroDivisionError]


def test_stalled_loop_expires_all_that_came_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the process was stopped for longer than a turn of the wheel, nothing is forgotten and order is kept."""
    fired: list[float] = []
    turn_s = SLOTS * TICK_S

    async def scenario(clock: SystemClock, loop: SimulationLoop) -> None:
        for seconds in (900, 1, turn_s + 1, turn_s - 1, 2 * turn_s + 1):
            clock.deadline(seconds, lambda seconds=seconds: fired.append(seconds))  # type: ignore[misc]
        loop._now += 2.5 * turn_s
        await asyncio.sleep(LATE_S)
        assert fired == [1, turn_s - 1, turn_s + 1, 2 * turn_s + 1]
        await asyncio.sleep(900)

    play(scenario, monkeypatch)

    assert fired[-1] == 900


def test_ten_thousand_restarts_touch_the_wheel_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy connection that moves its deadline at each read costs no timer and no filing."""
    filed: list[object] = []
    timers: list[object] = []

    async def scenario(clock: SystemClock, loop: SimulationLoop) -> None:
        deadline = clock.deadline(300, lambda: None)
        monkeypatch.setattr(clock._wheel, "file", filed.append)
        monkeypatch.setattr(loop, "call_later", lambda *given: timers.append(given))
        for _ in range(10_000):
            deadline.restart(300)
        assert not filed
        assert not timers
        monkeypatch.undo()
        deadline.cancel()

    play(scenario, monkeypatch)


def test_cancelled_deadline_keeps_nothing_alive() -> None:
    """The session of a connection that is gone is freed at once, not when its five minutes are over."""

    class Session:
        def expire(self) -> None: ...

    async def main() -> None:
        clock = SystemClock()
        session = Session()
        deadline = clock.deadline(300, session.expire)
        gone = weakref.ref(session)

        deadline.cancel()
        del deadline, session

        assert gone() is None

    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


def test_wheel_stands_still_without_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle relay is not woken eight times a second for nothing."""

    async def scenario(clock: SystemClock, loop: SimulationLoop) -> None:
        clock.deadline(1, lambda: None)
        clock.deadline(300, lambda: None).cancel()
        await asyncio.sleep(2)
        turns: list[object] = []
        monkeypatch.setattr(loop, "call_later", lambda *given: turns.append(given))
        await rest(loop)
        monkeypatch.undo()
        assert not turns

    async def rest(loop: SimulationLoop) -> None:  # asyncio.sleep would ask for a timer itself
        woken = loop.create_future()
        loop.call_at(loop.time() + 5, woken.set_result, None)
        await woken

    play(scenario, monkeypatch)


def test_wheel_serves_one_loop_after_another() -> None:
    """A clock outlives the loop it was first used on; a deadline left standing there does not stop the new one."""
    clock = SystemClock()
    fired: list[str] = []

    async def first() -> None:
        clock.deadline(300, lambda: None)

    async def second() -> None:
        clock.deadline(0.01, lambda: fired.append("fired"))
        await clock.sleep(LATE_S)

    asyncio.run(first())
    asyncio.run(second())

    assert fired == ["fired"]
