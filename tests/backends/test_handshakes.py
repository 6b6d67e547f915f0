# SPDX-License-Identifier: MIT
"""Steps of handshakes take turns."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
import uvloop

from smarthost.backends.handshakes import HandshakeTurns

Run = Callable[[Coroutine[Any, Any, None]], None]


def note(seen: list[str], what: str) -> bool:
    seen.append(what)
    return True


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_one_step_a_turn_in_order(run: Run) -> None:
    """However many wait, everybody else is served between two of them."""
    seen: list[str] = []

    async def main() -> None:
        turns = HandshakeTurns()
        for n in range(5):
            turns.enqueue(partial(note, seen, f"step {n}"))
        assert not seen, "never at once"
        for _ in range(5):
            asyncio.get_running_loop().call_soon(seen.append, "other")
            await asyncio.sleep(0)

    run(main())
    steps = [each for each in seen if each != "other"]
    assert steps == [f"step {n}" for n in range(5)]
    assert all(not (a.startswith("step") and b.startswith("step")) for a, b in itertools.pairwise(seen))


def test_those_who_left_cost_no_turn() -> None:
    """A step of a connection that is gone does not hold up the next one, and one that comes later is taken."""
    seen: list[str] = []

    async def main() -> None:
        turns = HandshakeTurns()
        for n in range(4):
            turns.enqueue(partial(note, seen, "alive") if n == 3 else lambda: False)
        await asyncio.sleep(0)
        assert seen == ["alive"]
        turns.enqueue(partial(note, seen, "later"))
        await asyncio.sleep(0)
        assert seen == ["alive", "later"]

    asyncio.run(main())


def test_step_that_enqueues_another_is_not_overtaken_by_it() -> None:
    """A handshake's second step goes to the end of the queue."""
    seen: list[str] = []

    async def main() -> None:
        turns = HandshakeTurns()

        def first() -> bool:
            seen.append("first")
            turns.enqueue(partial(note, seen, "again"))
            return True

        turns.enqueue(first)
        turns.enqueue(partial(note, seen, "second"))
        for _ in range(4):
            await asyncio.sleep(0)

    asyncio.run(main())
    assert seen == ["first", "second", "again"]


def test_bug_in_a_step_stops_nobody_else() -> None:
    """Whatever goes wrong in one handshake, the next one has its turn."""
    seen: list[str] = []
    reports: list[object] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report["exception"]))
        turns = HandshakeTurns()
        turns.enqueue(lambda: bool(1 // 0))
        turns.enqueue(partial(note, seen, "next"))
        for _ in range(3):
            await asyncio.sleep(0)

    asyncio.run(main())
    assert seen == ["next"]
    assert [type(report) for report in reports] == [ZeroDivisionError]
