# SPDX-License-Identifier: MIT
"""Runs the checks side by side, each within its time, and makes the world that they look at.

A check that breaks or does not end is a line among the others. Called by `command`; nothing is left behind.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from smarthost.backends.clock import SystemClock
from smarthost.backends.dns import DnsResolver, LocalNames, read_hosts, read_resolv_conf
from smarthost.backends.dns.resolver import Patience
from smarthost.backends.tcp import TcpDialer
from smarthost.backends.tls import TlsContexts
from smarthost.config import Config, terms
from smarthost.mail.errors import ConfigError
from smarthost.ops.doctor.configuration import check_configuration
from smarthost.ops.doctor.disk import check_disk
from smarthost.ops.doctor.domains import check_domains
from smarthost.ops.doctor.egress import check_egress
from smarthost.ops.doctor.findings import Finding, Findings
from smarthost.ops.doctor.limits import check_limits
from smarthost.ops.doctor.machine import this_machine
from smarthost.ops.doctor.own_name import check_name
from smarthost.ops.doctor.relaying import check_relaying
from smarthost.ops.doctor.resolving import check_resolver
from smarthost.ops.doctor.running import check_daemon, find_daemon
from smarthost.ops.doctor.timekeeping import check_clock
from smarthost.ops.doctor.world import Server, Wishes, World

Check = Callable[[World, Findings], Awaitable[None]]

CHECKS: Mapping[str, Check] = {
    "config": check_configuration,
    "daemon": check_daemon,
    "disk": check_disk,
    "clock": check_clock,
    "limits": check_limits,
    "resolver": check_resolver,
    "name": check_name,
    "egress": check_egress,
    "domains": check_domains,
    "relaying": check_relaying,
}
# What is judged by the configuration, and says nothing of use where that does not load.
_OF_THE_CONFIGURATION = frozenset({"limits", "name", "egress", "domains", "relaying"})
TIMEOUT_S = 15.0
# A doctor who waits tells nothing: a server that has not answered by then is slow enough to be named.
_PATIENCE = Patience(try_s=2.0, rounds=1, total_s=4.0)


@asynccontextmanager
async def open_world(config: Config, errors: tuple[str, ...], wishes: Wishes) -> AsyncGenerator[World, None]:
    """Make the world as it is; its sockets are closed at the end of the block."""
    clock = SystemClock()
    system = read_resolv_conf()
    servers: tuple[Server, ...] = tuple([(each.host, each.port) for each in config.dns.servers]) or system.servers
    resolver = DnsResolver(clock, servers, _PATIENCE)
    opened = [resolver]

    def resolver_at(server: Server) -> DnsResolver:
        opened.append(DnsResolver(clock, (server,), _PATIENCE, trust_ad=True))
        return opened[-1]

    world = World(
        config=config,
        errors=errors,
        state_dir=config.state_dir,
        clock=clock,
        wishes=wishes,
        machine=this_machine(),
        resolver=resolver,
        names=LocalNames(resolver, read_hosts(), system.search, system.ndots),
        servers=servers,
        resolver_at=resolver_at,
        dialer=TcpDialer(clock, TlsContexts(ca_file=_ca_file(config))),
        daemon=await find_daemon(config.state_dir),
    )
    try:
        yield world
    finally:
        for each in opened:
            each.close()
        await asyncio.sleep(0)  # the loop lets go of the sockets in its next round


def _ca_file(config: Config) -> str:
    try:
        return terms.ca_file(config)
    except ConfigError:  # the check of the configuration says so
        return ""


async def examine(
    world: World, only: Sequence[str], timeout_s: float, tell: Callable[[Finding], None]
) -> list[Finding]:
    """Run checks (none named: all) and `tell` each finding, in the order of CHECKS, as soon as it may be told."""
    names = [name for name in CHECKS if not only or name in only]
    is_told = "config" in names  # what is wrong with the configuration
    running = [
        asyncio.ensure_future(_run(name, CHECKS[name], world, timeout_s, is_configuration_told=is_told))
        for name in names
    ]
    all_found: list[Finding] = []
    try:
        for each in running:
            found = await each
            all_found += found
            for finding in found:
                tell(finding)
    finally:
        for each in running:
            each.cancel()
    return all_found


async def _run(
    name: str, check: Check, world: World, timeout_s: float, *, is_configuration_told: bool
) -> list[Finding]:
    told = Findings(name)
    if world.errors and name in _OF_THE_CONFIGURATION:
        if is_configuration_told:
            told.skip("not looked at: the configuration does not load", "mend it first")
        else:
            told.fail(
                f"not looked at: the configuration does not load: {'; '.join(world.errors)}",
                "mend it first, or say which: --config FILE",
            )
        return told.found
    try:
        async with asyncio.timeout(timeout_s) as patience:
            await check(world, told)
    except Exception as error:  # noqa: BLE001 - an edge of ops: a check that breaks is a line among the others
        if patience.expired():
            told.fail(f"not finished within {timeout_s:g} s", "--timeout gives it more; what is above is what it found")
        else:
            cause = _innermost(error)
            told.fail(
                f"the check itself broke: {type(cause).__name__}: {cause}",
                "this is a bug of smarthost: please report it",
            )
    return told.found


def _innermost(error: BaseException) -> BaseException:
    """Give what broke within side_by_side's group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
