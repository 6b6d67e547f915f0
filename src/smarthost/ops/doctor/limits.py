# SPDX-License-Identifier: MIT
"""Check `limits`: may the daemon open as many files, and use as much memory, as the configuration may ask of it?

With a daemon running its own limits are read; otherwise those that one started from here would have.
"""

from smarthost.ops import words
from smarthost.ops.doctor.findings import Findings
from smarthost.ops.doctor.world import World, aside

SESSIONS_OUT = 2000 + 1000  # ARCHITECTURE.md, bounds: with hosts, and idle ones
_OTHERS = 200  # the store, DNS, keys, operators
_MEMORY_LEAST = 256 << 20
_FREE_LEAST = 64 << 20


async def check_limits(world: World, told: Findings) -> None:
    """Compare what may be asked with what there is."""
    daemon = world.daemon
    pid = daemon.pid if daemon is not None else 0
    whose = f"the daemon (process {pid})" if pid else "a daemon started from here"
    try:
        soft, hard = await aside(lambda: world.machine.open_files(pid))
    except OSError as error:
        told.skip(f"limits of {whose} cannot be read: {error.strerror}", "run this as the user whose daemon it is")
    else:
        _judge_files(whose, soft if pid else hard, world.config.limits.connections, told)  # a start raises soft to hard
    await _judge_memory(world, pid, told)


def _judge_files(whose: str, files: int, connections: int, told: Findings) -> None:
    wanted = connections + SESSIONS_OUT + _OTHERS
    cure = f"LimitNOFILE={max(wanted, 65536)} in its unit, --ulimit nofile= in a container, or limits.conf"
    if files < connections + _OTHERS:
        told.fail(f"{whose}: {files} open files; {connections} clients alone may want more", cure)
    elif files < wanted:
        told.warn(f"{whose}: {files} open files; {wanted} may be wanted when all is busy", cure)
    else:
        told.ok(f"{whose}: {files} open files, {wanted} at most are wanted")


async def _judge_memory(world: World, pid: int, told: Findings) -> None:
    most, free = await aside(lambda: world.machine.memory_octets(pid))
    if not most:
        told.skip("this system does not tell how much memory there is")
        return
    seen = f"memory: {words.size_words(most)} in all, {words.size_words(free)} of it free"
    if most < _MEMORY_LEAST:
        least = words.size_words(_MEMORY_LEAST)
        told.warn(seen, f"give it {least} at least: a daemon killed for memory loses no mail, but sends some twice")
    elif free < _FREE_LEAST:
        told.warn(seen, "find out what takes it: the kernel kills when there is none left")
    else:
        told.ok(seen)
