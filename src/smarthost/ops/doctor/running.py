# SPDX-License-Identifier: MIT
"""Check `daemon`: does one run for this state directory, does it answer, and is it this release? None is no fault."""

import asyncio
from importlib.metadata import version
from pathlib import Path

from smarthost.ops import exits
from smarthost.ops.client import NoDaemon, ask
from smarthost.ops.doctor.findings import Findings
from smarthost.ops.doctor.world import Daemon, World, aside
from smarthost.ops.verbs import Ping, Pong

ANSWER_S = 3.0  # a busy one answers within milliseconds


async def find_daemon(state_dir: Path) -> Daemon | None:
    """Ask the control socket; None: nobody listens there."""
    try:
        async with asyncio.timeout(ANSWER_S):
            return await aside(lambda: _ask(state_dir))
    except TimeoutError:
        return Daemon(why_unknown=f"it has not answered for {ANSWER_S:g} s")


def _ask(state_dir: Path) -> Daemon | None:
    try:
        for answer in ask(state_dir, Ping()):
            if isinstance(answer, Pong):
                return Daemon(answer.pid, answer.version, answer.listen)
    except NoDaemon:
        return None
    except exits.CommandFailed as error:
        return Daemon(why_unknown=str(error))
    return Daemon(why_unknown="it gave no answer")


async def check_daemon(world: World, told: Findings) -> None:
    """Say what was found out before the other checks, which need it."""
    daemon = world.daemon
    if daemon is None:
        told.skip(f"no daemon runs for {world.state_dir}", "smarthost serve, or --state-dir names another directory")
    elif daemon.why_unknown:
        told.fail(
            f"a daemon's socket is in {world.state_dir}, but {daemon.why_unknown}",
            "run this as the user whose daemon it is; if it hangs, its log says why, and a restart loses nothing",
        )
    else:
        where = ", ".join(f"{host}:{port}" for host, port in daemon.listen)
        told.ok(f"runs as process {daemon.pid}, release {daemon.version}, listens on {where or 'no address'}")
        installed = version("smarthost")
        if daemon.version != installed:
            told.warn(f"release {daemon.version} runs, but {installed} is installed", "restart it; no mail is lost")
