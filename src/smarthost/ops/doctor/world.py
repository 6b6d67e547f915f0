# SPDX-License-Identifier: MIT
"""All that the doctor's checks ask of the world, as one value, so that a test can hand in another world.

`examination.open_world` makes the real one. A callable here may block (it reads files): checks call it by `aside`.
"""

import asyncio
import threading
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from smarthost.backends.volume import Volume
from smarthost.config import Config, RouteSection
from smarthost.ports import AnswerStatus, Clock, Dialer, Resolver
from smarthost.route.table import Families

T = TypeVar("T")
Server = tuple[str, int]

# Root name servers: routable, and a UDP socket "connected" there sends nothing; it tells which address we speak from.
FAR_IPV4, FAR_IPV6 = "198.41.0.4", "2001:503:ba3e::2:30"

PROBE_DOMAINS = ("gmail.com", "outlook.com", "yahoo.com")
BLOCKLIST = "zen.spamhaus.org"


class TimeState(Struct, frozen=True):
    """What the kernel says of its clock: is somebody keeping it right, and how wrong it may be at most."""

    is_synchronised: bool
    max_error_s: float


class Daemon(Struct, frozen=True):
    """The daemon of this state directory. `why_unknown`: it may run, but did not tell; then the rest is empty."""

    pid: int = 0
    version: str = ""
    listen: tuple[tuple[str, int], ...] = ()
    why_unknown: str = ""


class Wishes(Struct, frozen=True, kw_only=True):
    """What the operator asked for on the command line."""

    domains: tuple[str, ...] = ()
    probe_domains: tuple[str, ...] = PROBE_DOMAINS
    public_addresses: tuple[str, ...] = ()
    blocklist: str = BLOCKLIST
    login: bool = False


class Machine(Struct, frozen=True, kw_only=True):
    """What is asked of the machine; each callable may block.

    `sync_times`: seconds of each of some fsyncs in a directory. `route_to`: the local address that packets to an
    address leave from, or "". `open_files`: the soft and hard limit of a process (0: our own). `memory_octets`: what
    a process (0: our own) may use at most, and how much of it is free; 0 where unknown.
    """

    addresses: Callable[[], tuple[str, ...]]
    route_to: Callable[[str], str]
    volume: Callable[[Path], Volume | None]
    sync_times: Callable[[Path], list[float]]
    time_state: Callable[[], TimeState | None]
    open_files: Callable[[int], tuple[int, int]]
    memory_octets: Callable[[int], tuple[int, int]]
    user_id: Callable[[], int]


class World(Struct, frozen=True, kw_only=True):
    """What the checks look at. Where the configuration does not load, `config` holds defaults and `errors` says why."""

    config: Config
    errors: tuple[str, ...]
    state_dir: Path
    clock: Clock
    wishes: Wishes
    machine: Machine
    resolver: Resolver  # strangers' names, as mail has them resolved
    names: Resolver  # names from the configuration: the hosts file and the search list count
    servers: tuple[Server, ...]
    resolver_at: Callable[[Server], Resolver]  # one server alone, believed about DNSSEC, nothing remembered
    dialer: Dialer
    daemon: Daemon | None


async def aside(work: Callable[[], T]) -> T:
    """Do what may block in a thread of its own: a dead network disk holds up neither the other checks nor the end."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if not done.done():
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        try:
            result, error = work(), None
        except BaseException as caught:  # noqa: BLE001 - handed on to who waits
            result, error = None, caught
        try:
            loop.call_soon_threadsafe(tell, result, error)
        except RuntimeError:  # nobody waits any more: the loop is closed
            return

    threading.Thread(target=run, daemon=True).start()
    return await done


# -- who we are outside ------------------------------------------------------------------------------------------------


class Speaker(Struct, frozen=True):
    """Under which name, and from which address, mail leaves directly to exchangers. `source`: "" lets the system."""

    hostname: str
    source: str
    families: Families


class Outgoing(Struct, frozen=True):
    """An address that exchangers see mail come from. `how`: "own", "given", "assumed" (our name's), or "" (unknown)."""

    speaker: Speaker
    local: str
    address: str
    how: str

    @property
    def version(self) -> int:
        return ip_address(self.local).version


def is_direct(route: RouteSection) -> bool:
    return not route.next_hops and not route.refuse


def speakers(config: Config) -> tuple[Speaker, ...]:
    """Give all names and sources that mail to exchangers has; none: everything goes through smart hosts."""
    by_mx = [] if config.next_hops else [Speaker(config.hostname, "", config.mx.families)]
    for route in config.routes:
        if is_direct(route):
            families = route.families or config.mx.families
            by_mx.append(Speaker(route.hostname or config.hostname, route.source, families))
    return tuple(dict.fromkeys(by_mx))


async def outgoing(world: World) -> tuple[Outgoing, ...]:
    """Find the addresses that exchangers see, both families."""
    found: dict[Outgoing, None] = {}
    for speaker in speakers(world.config):
        for rdtype, far in (("A", FAR_IPV4), ("AAAA", FAR_IPV6)):
            if rdtype not in speaker.families.rdtypes:
                continue
            local = await _local_address(world, speaker, far)
            if local:
                found[await _seen_from_outside(world, speaker, local, rdtype)] = None
    return tuple(found)


async def _local_address(world: World, speaker: Speaker, far: str) -> str:
    if speaker.source:
        return speaker.source if (":" in speaker.source) == (":" in far) else ""
    return await aside(lambda: world.machine.route_to(far))


async def _seen_from_outside(world: World, speaker: Speaker, local: str, rdtype: str) -> Outgoing:
    given = [each for each in world.wishes.public_addresses if (":" in each) == (":" in local)]
    if given:
        return Outgoing(speaker, local, given[0], "given")
    if ip_address(local).is_global:
        return Outgoing(speaker, local, local, "own")
    answer = await world.resolver.ask(speaker.hostname, rdtype)
    if answer.status is AnswerStatus.FOUND and answer.addresses:
        public = [each for each in answer.addresses if ip_address(each).is_global]
        if public:
            return Outgoing(speaker, local, public[0], "assumed")
    return Outgoing(speaker, local, "", "")
