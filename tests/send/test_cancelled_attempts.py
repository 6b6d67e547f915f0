# SPDX-License-Identifier: MIT
"""A relay that stops cancels its attempts: what a host has said until then counts, whichever step it was."""

import asyncio
from functools import partial

from tests.send.rig import SendRig, in_simulation, outcomes, plan_for

from smarthost.testing.peers import ExchangerSession, ScriptedExchanger, TakenMessage
from smarthost.testing.simulation import Simulation, run_simulation
from smarthost.testing.world import SimulatedWorld

FIRST = "192.0.2.1"


class Exhausted(ScriptedExchanger):
    """Takes one recipient at a time, and after the first nothing more."""

    def take(self, session: ExchangerSession, message: TakenMessage) -> None:
        super().take(session, message)
        self.silent_at = "mail"


@in_simulation
async def test_what_was_taken_counts_when_the_rest_is_cut_short(simulation: Simulation) -> None:
    """Bob's mail was taken; Eve's transaction is cancelled. She is deferred, and he does not get it twice."""
    rig = SendRig(simulation)
    host = Exhausted(extensions=("PIPELINING", "LIMITS RCPTMAX=1"))
    await rig.listen(host, FIRST)
    lease = rig.lease("bob@example.net", "eve@example.net")
    attempting = asyncio.ensure_future(rig.attempt(lease, plan_for(FIRST)))
    await rig.clock.sleep(1.0)
    assert not attempting.done()

    attempting.cancel()

    assert ["relayed", "deferred"] == outcomes(await attempting)


@in_simulation
async def test_an_attempt_that_nobody_answered_is_cancelled(simulation: Simulation) -> None:
    """Nothing was heard, so nothing is to be settled."""
    rig = SendRig(simulation)
    await rig.listen(ScriptedExchanger(silent_at="ehlo"), FIRST)
    attempting = asyncio.ensure_future(rig.attempt(plan=plan_for(FIRST)))
    await rig.clock.sleep(1.0)

    attempting.cancel()
    await asyncio.gather(attempting, return_exceptions=True)

    assert attempting.cancelled()


class Alarmed(ScriptedExchanger):
    """Tells when it takes a message."""

    def __init__(self, told: "asyncio.Event") -> None:
        super().__init__()
        self.told = told

    def take(self, session: ExchangerSession, message: TakenMessage) -> None:
        super().take(session, message)
        self.told.set()


def test_a_stop_at_any_step_around_a_reply_sends_nothing_again_that_was_heard() -> None:
    """Stopped without grace n callbacks after a host took the mail: a copy more only if its 250 was not read."""
    copies = [run_simulation(partial(_stop_after, n), seed=1) for n in range(1, 40)]

    assert all(times == 1 for times, was_heard in copies if was_heard), copies
    assert {True, False} == {was_heard for _, was_heard in copies}


async def _stop_after(n: int, simulation: Simulation) -> tuple[int, bool]:
    world = SimulatedWorld(simulation)
    world.domain("example.net", FIRST)
    taken, stopped = asyncio.Event(), list[asyncio.Future[None]]()
    host = world.place(Alarmed(taken), FIRST)
    await world.start()
    await world.submit("ann@example.org", "bob@example.net")
    if not taken.is_set():
        await taken.wait()
    simulation.interrupt_after(n, lambda: stopped.append(world.stop_soon(grace_s=0.0)))
    while not stopped:
        await world.clock.sleep(0.001)
    await stopped[0]
    line = host.sessions[0].connection
    was_heard = line.far.told >= line.written  # type: ignore[attr-defined]
    await world.start()
    await world.until_empty()
    await world.stop()
    return len(host.messages), was_heard
