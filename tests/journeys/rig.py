# SPDX-License-Identifier: MIT
"""What the journeys share: a world that is started and stopped, slow and counting exchangers, and the final account."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from smarthost.mail.explanation import Explanation
from smarthost.mail.hop import TlsFacts
from smarthost.ports import Connection, Receiver, TlsRequest, TlsService
from smarthost.testing.peers import ExchangerSession, ScriptedExchanger
from smarthost.testing.simulation import Simulation, run_simulation
from smarthost.testing.world import SimulatedWorld, WorldTerms

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S

Scenario = Callable[[SimulatedWorld], Coroutine[Any, Any, None]]


def in_world(**terms: Any) -> Callable[[Scenario], Callable[[], None]]:
    """Make a test of a coroutine that gets a started world on virtual time; `terms` are WorldTerms'."""

    def decorate(scenario: Scenario) -> Callable[[], None]:
        def test() -> None:
            async def main(simulation: Simulation) -> None:
                world = SimulatedWorld(simulation, WorldTerms(**terms))
                await world.start()
                await scenario(world)
                if world.is_up:
                    await world.stop()

            run_simulation(main, seed=1, until_s=60 * DAY_S)

        test.__name__ = scenario.__name__
        test.__doc__ = scenario.__doc__
        test.__module__ = scenario.__module__
        return test

    return decorate


def assert_accounted(world: SimulatedWorld) -> None:
    """The promise: each recipient that a client heard 250 for has exactly one end, and relayed ones have arrived."""
    endings, deliveries = world.endings(), world.deliveries()
    for message in world.acknowledged:
        for recipient in message.recipients:
            assert 1 == len(endings.get((message.id, recipient), [])), f"{recipient} of {message.id}"
    for pair, kinds in endings.items():
        assert 1 == len(kinds), f"{pair} ended {kinds}"
        if kinds == ["relayed"]:
            assert deliveries[pair] >= 1, f"{pair} never arrived"
    for pair, times in deliveries.items():
        assert times <= 1 + world.in_doubt[pair], f"{pair} arrived {times} times"


def ends(world: SimulatedWorld) -> dict[str, str]:
    """Give how each address ended; for scenarios in which none has two messages."""
    return {recipient: kinds[0] for (_, recipient), kinds in world.endings().items()}


def taken(exchanger: ScriptedExchanger) -> Counter[str]:
    """Count what arrived by recipient."""
    return Counter(recipient for message in exchanger.messages for recipient in message.recipients)


def reports(exchanger: ScriptedExchanger) -> list[str]:
    """Give the DSNs that arrived, as text."""
    return [
        message.content.decode() for message in exchanger.messages if message.recipients and message.reverse_path == ""
    ]


def failed_in(report: str) -> list[str]:
    """Give the recipients that a DSN says have failed."""
    start = "Final-Recipient: rfc822; "
    return [line.removeprefix(start) for line in report.split("\r\n") if line.startswith(start)]


def noted(world: SimulatedWorld, what: str) -> list[dict[str, object]]:
    return [facts for said, facts in world.notes if said == what]


def times_of(world: SimulatedWorld, kind: str, recipient: str = "") -> list[float]:
    """Give when such records were told, in virtual seconds since the start."""
    return [
        float(line.split(" ", 1)[0])
        for line in world.trace
        if f'"kind":"{kind}"' in line and (not recipient or f'"recipient":"{recipient}"' in line)
    ]


class CountingExchanger(ScriptedExchanger):
    """Knows how many sessions were open at once, at most."""

    most = 0

    def accept(self, connection: Connection) -> ExchangerSession:
        session = super().accept(connection)
        self.most = max(self.most, sum(not each.lost_why for each in self.sessions))
        return session


class SlowExchanger(CountingExchanger):
    """Takes `delay_s` for each answer."""

    delay_s = 1.0

    def accept(self, connection: Connection) -> ExchangerSession:
        return super().accept(_Late(connection, self.delay_s))


class _Late:
    """A Connection whose writes leave late."""

    def __init__(self, inner: Connection, delay_s: float) -> None:
        self._inner = inner
        self._delay_s = delay_s

    @property
    def peer(self) -> tuple[str, int]:
        return self._inner.peer

    @property
    def local(self) -> tuple[str, int]:
        return self._inner.local

    def attach(self, receiver: Receiver) -> None:
        self._inner.attach(receiver)

    def write(self, buffers: Sequence[bytes]) -> bool:
        asyncio.get_running_loop().call_later(self._delay_s, self._inner.write, tuple(buffers))
        return True

    def pause(self) -> None:
        self._inner.pause()

    def resume(self) -> None:
        self._inner.resume()

    def upgrade(self, tls: TlsRequest | TlsService) -> None:
        self._inner.upgrade(tls)

    def close(self) -> None:
        asyncio.get_running_loop().call_later(self._delay_s, self._inner.close)

    def abort(self) -> None:
        self._inner.abort()

    def secured(self, facts: TlsFacts) -> None: ...


async def explain(world: SimulatedWorld, address: str, *, probe: bool = False) -> Explanation:
    """What `smarthost plan` would say now."""
    return await world.delivery.explainer.explain(address, probe=probe)
