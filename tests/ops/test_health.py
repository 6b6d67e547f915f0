# SPDX-License-Identifier: MIT
"""Alive and ready: what an orchestrator and a balancer are told, and what a flood of them costs."""

import asyncio
from pathlib import Path

import pytest

from smarthost import Relay
from smarthost.config import Config, Endpoint
from smarthost.mail.errors import StoreError, StoreFull
from smarthost.ops.health import STUCK_S, Health, HealthWatch

pytestmark = pytest.mark.asyncio


class Watched:
    """A relay of which only this is asked."""

    def __init__(self) -> None:
        self.config = Config(hostname="h.example", state_dir=Path("/nonexistent"))
        self.bound: tuple[tuple[str, int], ...] = (("127.0.0.1", 2525),)
        self.why: Exception | None = None
        self.paused = False
        self.asked = 0
        self.is_started = True

    @property
    def refusal(self) -> Exception | None:
        self.asked += 1
        if not self.is_started:
            raise StoreError("the relay is not started")
        return self.why


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_a_relay_that_takes_mail_is_ready() -> None:
    """Nothing is wrong, and nothing is said."""
    assert Health(True) == HealthWatch(Watched()).ready()


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ({"why": StoreFull("no space left for the queue")}, "no space left for the queue"),
        ({"why": StoreError("the disk has not finished a commit for 10 s")}, "not finished a commit"),
        ({"bound": ()}, "does not listen yet"),
        ({"is_started": False}, "not started"),
    ],
)
async def test_a_relay_that_would_refuse_mail_is_not_ready_and_says_why(
    trouble: dict[str, object], reason: str
) -> None:
    """A balancer sends mail elsewhere, an operator reads the reason; nobody restarts it for that."""
    watched = Watched()
    for name, value in trouble.items():
        setattr(watched, name, value)
    watch = HealthWatch(watched)

    ready = watch.ready()

    assert not ready.ok
    assert reason in ready.reasons[0]
    assert watch.live().ok


async def test_a_pause_is_no_reason() -> None:
    """Mail is taken and kept while delivery is paused; it is mentioned."""
    watched = Watched()
    watched.paused = True

    ready = HealthWatch(watched).ready()

    assert ready.ok
    assert "paused" in ready.notes[0]


async def test_a_relay_without_listeners_needs_none() -> None:
    """A library's relay, which takes mail by `submit`, is ready."""
    watched = Watched()
    watched.bound = ()
    watched.config = Config(hostname="h.example", state_dir=Path("/nonexistent"), listen=())
    assert HealthWatch(watched).ready().ok
    watched.config = Config(hostname="h.example", state_dir=Path("/nonexistent"), listen=(Endpoint("127.0.0.1", 25),))
    assert not HealthWatch(watched).ready().ok


async def test_it_is_not_ready_while_it_stops() -> None:
    """A balancer turns away before the doors close; it is not killed for stopping."""
    watch = HealthWatch(Watched())
    watch.begin()
    assert watch.ready().ok
    watch.end()

    assert ("it is stopping",) == watch.ready().reasons
    assert watch.live().ok


async def test_a_flood_of_probes_costs_one_look_a_second() -> None:
    """Ten thousand probes ask memory once; the answer is at most a second old."""
    watched, time = Watched(), Time()
    watch = HealthWatch(watched, time)
    for _ in range(10_000):
        watch.ready()
    assert 1 == watched.asked
    watched.why = StoreFull("full")
    time.now += 1.0

    assert not watch.ready().ok
    assert 2 == watched.asked


async def test_a_loop_that_has_not_turned_is_not_alive() -> None:
    """When the heart has not beaten for half a minute a restart would help; when it beats again it is well."""
    time = Time()
    watch = HealthWatch(Watched(), time)
    watch.begin()
    time.now += STUCK_S / 2
    assert watch.live().ok
    time.now += STUCK_S
    assert "has not turned for" in watch.live().reasons[0]
    watch.begin()
    time.now += 1.0

    assert watch.live().ok
    watch.end()


@pytest.mark.slow
async def test_a_real_relay_is_ready_from_start_to_stop(tmp_path: Path) -> None:
    """Before and after it is not, with a reason."""
    relay = Relay(state_dir=tmp_path / "s", next_hop="127.0.0.1:1", hostname="h.example.org", listen=["127.0.0.1:0"])
    before = HealthWatch(relay).ready()
    async with relay:
        during = HealthWatch(relay).ready()
    await asyncio.sleep(0)

    assert (False, True, False) == (before.ok, during.ok, HealthWatch(relay).ready().ok)
