# SPDX-License-Identifier: MIT
"""A world for the doctor's checks: scripted DNS, a network in memory, a machine that says what a test wants."""

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from smarthost.backends.volume import Volume
from smarthost.config import Surroundings, parse_config
from smarthost.ops.doctor.examination import examine
from smarthost.ops.doctor.findings import Finding
from smarthost.ops.doctor.world import Daemon, Machine, TimeState, Wishes, World
from smarthost.ports import Connection, Receiver
from smarthost.testing.clock import FakeClock
from smarthost.testing.dns import ScriptedResolver, Zone
from smarthost.testing.network import Faults, MemoryNetwork

OURS = "198.51.100.7"
OURS_IPV6 = "2001:db8::7"
GLOBAL, GLOBAL_IPV6 = "9.9.9.77", "2620:fe::77"  # addresses that the Internet routes; nothing is sent to them
DISK = Volume(mount_point="/var", fs_type="ext4", source="/dev/vda1")
HOSTNAME = "relay.example.org"
ELSEWHERE = Surroundings("relay.example.org", Path("/nowhere"))


def machine(**replaced: Any) -> Machine:
    """Give a healthy machine with one address, IPv4 and routed."""
    facts: dict[str, Any] = {
        "addresses": lambda: ("127.0.0.1", GLOBAL),
        "route_to": lambda far: "" if ":" in far else GLOBAL,
        "volume": lambda path: DISK,
        "sync_times": lambda path: [0.002] * 50,
        "time_state": lambda: TimeState(is_synchronised=True, max_error_s=0.01),
        "open_files": lambda pid: (65536, 65536),
        "memory_octets": lambda pid: (4 << 30, 2 << 30),
        "user_id": lambda: 0,
    }
    return Machine(**(facts | replaced))


class Rig:
    """A world and its parts; `config` is TOML."""

    def __init__(
        self,
        config: str = "",
        zone: Zone | None = None,
        *,
        state_dir: Path = Path("/nowhere"),
        wishes: Wishes | None = None,
        on: Machine | None = None,
        daemon: Daemon | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.network = MemoryNetwork(self.clock, random.Random(1))
        self.zone = zone or Zone()
        self.resolver = ScriptedResolver(self.zone)
        self.world = World(
            config=parse_config(config, surroundings=ELSEWHERE),
            errors=(),
            state_dir=state_dir,
            clock=self.clock,
            wishes=wishes or Wishes(blocklist=""),
            machine=on or machine(),
            resolver=self.resolver,
            names=self.resolver,
            servers=(("127.0.0.53", 53),),
            resolver_at=lambda server: self.resolver,
            dialer=self.network,
            daemon=daemon,
        )

    def change(self, **replaced: Any) -> None:
        self.world = replace(self.world, **replaced)

    async def listen(self, address: str, accept: Callable[[Connection], Receiver | None], port: int = 25) -> None:
        await self.network.listener().listen(address, port, accept)

    def fault(self, address: str, faults: Faults, port: int = 25) -> None:
        self.network.faults[address, port] = faults


def look(rig: Rig, name: str, before: Callable[[], Any] | None = None, timeout_s: float = 10.0) -> list[Finding]:
    """Run one check; `before` makes what must be made within the event loop."""

    async def run() -> list[Finding]:
        if before is not None:
            await before()
        return await examine(rig.world, [name], timeout_s, lambda finding: None)

    return asyncio.run(run())


def told(found: Sequence[Finding]) -> list[str]:
    """Give the lines without cures: "ok the clock says ..."; all that is not well must have a cure."""
    assert all(each.cure for each in found if each.level.value in ("warn", "fail"))
    return [f"{each.level.value} {each.seen}" for each in found]


def levels(found: Sequence[Finding]) -> list[str]:
    return [each.level.value for each in found]
