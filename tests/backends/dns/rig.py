# SPDX-License-Identifier: MIT
"""A DnsResolver against a server on loopback, on both event loops: what the tests beside this share."""

import asyncio
import functools
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

import pytest
import uvloop

from smarthost.backends.dns import DnsResolver
from smarthost.backends.dns.resolver import Patience
from smarthost.ports import Answer, AnswerStatus
from smarthost.testing.clock import FakeClock
from smarthost.testing.dns import ScriptedDns, Zone

FOUND, NODATA, NXDOMAIN = AnswerStatus.FOUND, AnswerStatus.NODATA, AnswerStatus.NXDOMAIN
SERVFAIL, TIMEOUT = AnswerStatus.SERVFAIL, AnswerStatus.TIMEOUT
LONG = Patience()
SHORT = Patience(try_s=0.03, rounds=2, total_s=0.2)
MIXED = Patience(try_s=0.1, rounds=1, total_s=1.0)  # for scenarios in which somebody does answer, on a busy box too

BOTH_LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
Runner = Callable[[Coroutine[Any, Any, None]], None]
Scenario = Callable[["Rig"], Awaitable[None]]


class Rig:
    """A resolver, its clock, and the server it asks."""

    def __init__(self, dns: ScriptedDns, servers: list[tuple[str, int]], patience: Patience) -> None:
        self.dns = dns
        self.zone = dns.zone
        self.clock = FakeClock()
        self.resolver = DnsResolver(self.clock, servers, patience)

    @property
    def where(self) -> str:
        """The server as details name it."""
        return "{}:{}".format(*self.dns.address)

    async def ask(self, name: str, rdtype: str = "A") -> Answer:
        return await self.resolver.ask(name, rdtype)


def on_both_loops(
    zone: Callable[[], Zone],
    patience: Patience = LONG,
    before: tuple[tuple[str, int], ...] = (),
    server: type[ScriptedDns] = ScriptedDns,
) -> Callable[[Scenario], Callable[..., None]]:
    """Run a scenario against a new server with this zone; `before`: servers that are asked first."""

    def decorate(scenario: Scenario) -> Callable[..., None]:
        async def main() -> None:
            async with server(zone()) as dns:
                rig = Rig(dns, [*before, dns.address], patience)
                try:
                    await scenario(rig)
                finally:
                    rig.resolver.close()
                    await asyncio.sleep(0)

        @BOTH_LOOPS
        def test(run: Runner) -> None:
            run(main())

        functools.update_wrapper(test, scenario)
        del test.__dict__["__wrapped__"]  # pytest would look for its arguments
        return cast("Callable[..., None]", test)

    return decorate


def closed_port() -> int:
    """Give a UDP port on which nobody listens (nobody promises that it stays so)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
