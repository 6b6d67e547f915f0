# SPDX-License-Identifier: MIT
"""Runs the relay as a process: loop, signals, limits, log, control socket; from start to the last settled attempt.

Foreground only, never setuid. The first SIGTERM or SIGINT drains within `GRACE_S`; from then on the kernel's own
default holds, so a second one ends the process at once, even when the loop is stuck: a crash loses nothing.
"""

import asyncio
import gc
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from smarthost.assemble import Relay
from smarthost.config import Config
from smarthost.ops.control import ControlServer, Door
from smarthost.ops.log import JsonLog

GRACE_S = 30.0  # below the 90 s of systemd's TimeoutStopSec, above what a transaction under way usually needs
SPARE_DESCRIPTORS = 256  # for the store, DNS, the log, and sessions with hosts
_STDERR = 2


def run(config: Config, *, paused: bool = False) -> int:
    """Serve until a signal says to stop; gives the exit code. `paused`: take mail, deliver none before `resume`.

    Raises: ConfigError, StoreError: the start failed.
    """
    os.umask(0o077)
    descriptors = raise_descriptor_limit()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_serve(config, descriptors, paused))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Give uvloop's where it installs, else None for asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; gives the limit that holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # an infinite hard limit above the kernel's nr_open
        return soft
    return hard


async def _serve(config: Config, descriptors: int, paused: bool) -> int:
    loop = asyncio.get_running_loop()
    log = JsonLog(_STDERR, loop.call_later, level=config.log.level, accepted=config.log.accepted)
    loop.set_exception_handler(lambda _, context: _tell_failure(log, context))
    stop = asyncio.Event()
    for which in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(which, _ask_to_stop, stop)
    try:
        _warn(config, descriptors, log)
        relay = Relay.from_config(config, log, paused=paused)
        if await _start(relay, log, stop):
            try:
                await _serve_operators(config, relay, log, stop)
            finally:
                await relay.stop(GRACE_S)
        log.announce("info", "stopped")
    finally:
        log.close()
    return 0


async def _start(relay: Relay, log: JsonLog, stop: asyncio.Event) -> bool:
    """Start the relay; False: we were asked to stop before it was ready, and it is as if it had never begun.

    A migration that is cut off leaves the old version; whatever took a moment too long is not worth waiting for.
    """
    starting, stopping = asyncio.ensure_future(relay.start()), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            return True
        log.announce("info", "stopping", grace_s=0.0)
        return False
    finally:
        for task in (starting, stopping):
            task.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)


async def _serve_operators(config: Config, relay: Relay, log: JsonLog, stop: asyncio.Event) -> None:
    door = Door(
        submit=relay.submit,
        find=relay.find,
        change=relay.change,
        count=relay.store.count,
        message_octets=config.limits.message_octets,
        pause=relay.pause,
        resume=relay.resume,
        back_up=relay.back_up,
        is_paused=lambda: relay.paused,
        drain=relay.drain,
        cancel_drain=relay.cancel_drain,
        check=relay.check,
        figures=lambda: relay.audit_figures,
        version=version("smarthost"),
        listen=relay.bound,
        hosts=relay.report_hosts,
        reset_hosts=relay.reset_hosts,
        explain=lambda address, probe, sender: relay.explain(address, probe=probe, sender=sender),
    )
    control = ControlServer(config.state_dir, door, log)
    await control.start()
    try:
        gc.freeze()  # what start-up made lives as long as we do: no collection need look at it again
        log.announce(
            "info",
            "ready",
            listen=relay.bound,
            state_dir=str(config.state_dir),
            paused=relay.paused,
            pid=os.getpid(),
            version=door.version,
            hostname=config.hostname,
            config=config.file or None,
        )
        log.flush()
        await stop.wait()
        log.announce("info", "stopping", grace_s=GRACE_S)
        log.flush()
    finally:
        await control.close()


def _ask_to_stop(stop: asyncio.Event) -> None:
    stop.set()
    loop = asyncio.get_running_loop()
    for which in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(which)
        signal.signal(which, signal.SIG_DFL)


def _tell_failure(log: JsonLog, context: dict[str, Any]) -> None:
    """Tell what escaped into the event loop: a bug of ours, of which one connection or one deadline is the victim."""
    error = context.get("exception")
    log.note(
        "error",
        "unexpected failure",
        where=str(context.get("message", "")),
        why=repr(error),
        trace=[] if error is None else "".join(traceback.format_exception(error)).splitlines(),
    )


def _warn(config: Config, descriptors: int, log: JsonLog) -> None:
    if config.relays_for_everyone:
        log.note(
            "warning",
            "open relay: everyone may send mail through this host",
            relay_from=[str(network) for network in config.relay_from],
            cure="set relay_from (--relay-from) to the networks of your own machines",
        )
    if config.limits.connections + SPARE_DESCRIPTORS > descriptors:
        log.note(
            "warning",
            "fewer open files allowed than limits.connections needs",
            allowed=descriptors,
            cure=f"raise LimitNOFILE (ulimit -n) to {config.limits.connections + SPARE_DESCRIPTORS} or more",
        )
    if sys.flags.optimize:
        log.note("warning", "assertions are off (python -O): smarthost relies on them")
