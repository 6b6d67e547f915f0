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
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from importlib.metadata import version
from typing import Any

from smarthost.assemble import Relay
from smarthost.backends.clock import SystemClock
from smarthost.backends.systemd import take_sockets
from smarthost.config import Config
from smarthost.ops.config_file import ConfigFile, LogFollower, Reread
from smarthost.ops.control import ControlServer
from smarthost.ops.door import Door
from smarthost.ops.http.lately import Lately
from smarthost.ops.log import JsonLog
from smarthost.ops.maildrop import pick_up
from smarthost.ops.metrics_counts import Counts
from smarthost.ops.observing import Observers, observing
from smarthost.ops.readable import warn_of_open_passwords
from smarthost.ops.readiness import Readiness, Watched, readiness_of
from smarthost.ops.volatile import warn_if_volatile

GRACE_S = 30.0  # below the 90 s of systemd's TimeoutStopSec, above what a transaction under way usually needs
SPARE_DESCRIPTORS = 256  # for the store, DNS, the log, and sessions with hosts
_STDERR = 2


def run(config: Config, *, paused: bool = False, reread: Reread | None = None) -> int:
    """Serve until a signal says to stop; gives the exit code. `paused`: take mail, deliver none before `resume`.

    `reread` reads the configuration anew, for a reload. Raises: ConfigError, StoreError: the start failed.
    """
    os.umask(0o077)
    descriptors = raise_descriptor_limit()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_serve(config, descriptors, paused, reread))


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


async def _serve(config: Config, descriptors: int, paused: bool, reread: Reread | None) -> int:
    loop = asyncio.get_running_loop()
    log = JsonLog(_STDERR, loop.call_later, level=config.log.level, accepted=config.log.accepted)
    loop.set_exception_handler(lambda _, context: _tell_failure(log, context))
    stop = asyncio.Event()
    for which in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(which, _ask_to_stop, stop)
    hangup = asyncio.Event()  # SIGHUP: the configuration is to be read anew, also if it comes before we are ready
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    try:
        _warn(config, descriptors, log)
        readiness = readiness_of(os.environ, os.getpid(), SystemClock(), log)
        counts = Counts(log)
        lately = Lately(counts, SystemClock().wall)
        relay = Relay.from_config(config, lately if config.http.listen else counts, paused=paused)
        async with readiness.living():
            async with readiness.starting():
                warn_if_volatile(config.state_dir, os.environ, log)
                warn_of_open_passwords(config, log)
                if sockets := take_sockets(os.environ, os.getpid()):
                    relay.adopt(sockets)
                is_started = await _start(relay, log, stop)
            if is_started:
                try:
                    async with observing(config, relay, counts, log) as observers:
                        followers = (LogFollower(log.adopt), observers.outboxes)
                        file = ConfigFile(reread, relay, log, followers, readiness.reloading)
                        await _serve_operators(config, relay, log, stop, readiness, observers, lately, file, hangup)
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


async def _serve_operators(
    config: Config,
    relay: Relay,
    log: JsonLog,
    stop: asyncio.Event,
    readiness: Readiness,
    observers: Observers,
    lately: Lately,
    file: ConfigFile,
    hangup: asyncio.Event,
) -> None:
    door = _door(config, relay, observers, file)
    control = ControlServer(config.state_dir, door, log)
    beside = AsyncExitStack()  # what runs beside the relay: opened in order, closed in the reverse one
    await control.start()
    try:
        await beside.enter_async_context(pick_up(config, relay, SystemClock(), log))
        if config.http.listen:
            await beside.enter_async_context(_http(config, relay, observers, lately))
        file.taken = lambda config: _taken(config, relay, control, log)
        await beside.enter_async_context(file.following(hangup))
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
        async with readiness.serving(_watched(relay)):
            await stop.wait()
        readiness.stopping(GRACE_S)
        log.announce("info", "stopping", grace_s=GRACE_S)
        log.flush()
    finally:
        await beside.aclose()
        await control.close()


def _door(config: Config, relay: Relay, observers: Observers, file: ConfigFile) -> Door:
    """Say what the control socket may ask of the relay."""
    return Door(
        submit=relay.submit,
        find=relay.find,
        change=relay.change,
        count=relay.store.count,
        message_octets=config.limits.message_octets,
        pause=relay.pause,
        resume=relay.resume,
        back_up=relay.back_up,
        is_paused=lambda: relay.paused,
        refusal=lambda: relay.refusal,
        drain=relay.drain,
        cancel_drain=relay.cancel_drain,
        check=relay.check,
        why=relay.why,
        summary=relay.summary,
        domains_of_lane=relay.domains_of_lane,
        suspend=relay.suspend,
        end_suspension=relay.end_suspension,
        suspensions=relay.suspensions,
        watch=lambda: (time.time(), relay.figures(), observers.metrics.totals()),
        figures=lambda: relay.audit_figures,
        version=version("smarthost"),
        listen=relay.bound,
        hosts=relay.report_hosts,
        reset_hosts=relay.reset_hosts,
        find_standstill=relay.find_standstill,
        explain=lambda address, probe, sender: relay.explain(address, probe=probe, sender=sender),
        records=relay.records,
        record_horizon=lambda: relay.record_horizon,
        outboxes=observers.outboxes.report,
        reload=file.reload,
        compare=file.compare,
    )


def _http(
    config: Config, relay: Relay, observers: Observers, lately: Lately
) -> AbstractAsyncContextManager[tuple[tuple[str, int], ...]]:
    from smarthost.ops.http.desk import Probes
    from smarthost.ops.http.service import open_http

    health = observers.health
    probes = Probes(observers.metrics.render_metrics, health.live, health.ready)
    return open_http(config, relay, lately, probes)


def _taken(config: Config, relay: Relay, control: ControlServer, log: JsonLog) -> None:
    control.adopt(listen=relay.bound, message_octets=config.limits.message_octets)
    _warn(config, raise_descriptor_limit(), log)


def _watched(relay: Relay) -> Watched:
    return Watched(
        count=lambda: relay.store.count(),
        save=lambda notes: relay.store.save_notes(notes),
        refusal=lambda: relay.refusal,
        is_paused=lambda: relay.paused,
    )


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
