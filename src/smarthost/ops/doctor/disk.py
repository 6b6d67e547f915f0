# SPDX-License-Identifier: MIT
"""Check `disk`: is the state directory on something that keeps mail: durable, closed to others, roomy, and fast enough?

Each message costs two commits, so the time of an fsync is what bounds the relay. Measured with a file of 4 KiB that is
removed again; a crash leaves it, and the next look takes it over.
"""

import os
from collections.abc import Callable
from pathlib import Path
from stat import S_IMODE

from smarthost.backends.volume import Volume
from smarthost.ops import words
from smarthost.ops.doctor.findings import Findings
from smarthost.ops.doctor.world import World, aside
from smarthost.ops.volatile import NO_CONTAINER, find_loss

TESTS = 50
TESTS_S = 6.0  # a disk that takes longer for 50 is judged by the fewer
SLOW_P50_S = 0.020  # a rotating disk takes 8 to 15 ms
SLOW_P99_S = 0.200
_NAME = ".doctor"
_WHO = "run this as the user whose daemon it is, or as root"
_LITTLE = 1 << 30
_TOO_LITTLE = 128 << 20  # twice what the store keeps for settlements: below that new mail is refused
_FEW_INODES = 1000


async def check_disk(world: World, told: Findings) -> None:
    """Look at the directory, or, before the first start, at where it will be."""
    state_dir = world.state_dir
    volume = await aside(lambda: world.machine.volume(state_dir))
    _judge_volume(state_dir, volume, told)
    try:
        there = await aside(lambda: _nearest(state_dir))
    except PermissionError:
        told.warn(f"{state_dir}: is closed to this user, and was not looked into", _WHO)
        return
    await aside(lambda: _judge_room(there, told))
    if there != state_dir:
        told.skip(f"{state_dir}: is not there yet: the first start makes it, and then its speed can be measured")
        return
    user_id = world.machine.user_id()
    if not await aside(lambda: _judge_permissions(state_dir, user_id, told)):
        return
    try:
        times = await aside(lambda: world.machine.sync_times(state_dir))
    except OSError as error:
        told.fail(
            f"{state_dir}: cannot be written: {error.strerror or error}",
            "run this as the user whose daemon it is; if you are, mend the disk or its mount",
        )
        return
    _judge_speed(state_dir, times, told)


def _nearest(directory: Path) -> Path:
    """Give the directory, or the nearest one above it that is there. Raises: PermissionError: one hides it."""
    for each in (directory, *directory.parents):
        if each.is_dir():
            return each
    return Path("/")


def _judge_volume(directory: Path, volume: Volume | None, told: Findings) -> None:
    if volume is None:
        told.skip(f"{directory}: this system does not tell what file system it is on")
        return
    where = f"{directory}: on {volume.fs_type} ({volume.source}, mounted at {volume.mount_point})"
    if volume.is_memory:
        told.fail(f"{where}: {find_loss(volume)}", "put state_dir on a disk")
    elif volume.is_container:
        told.fail(f"{where}: {find_loss(volume)}", f"mount a volume at {directory}")
    elif volume.is_container_layer:
        told.warn(f"{where}: {find_loss(volume)}", f"mount a volume at {directory}; {NO_CONTAINER}")
    elif volume.is_network:
        told.warn(
            f"{where}: a network disk: SQLite's locks and fsync are only as good as the server's",
            "use a local disk or a block device; if it must be, mount it hard, with locks, for this one machine",
        )
    else:
        told.ok(where)
    if volume.is_read_only:
        told.fail(
            f"{where}: mounted read-only", "look into the kernel's log for errors of the disk, mend it, remount it"
        )


def _judge_room(directory: Path, told: Findings) -> None:
    try:
        found = os.statvfs(directory)
    except OSError as error:
        told.fail(f"{directory}: free space is unknown: {error.strerror}", "run this as the user whose daemon it is")
        return
    free = found.f_bavail * found.f_frsize
    share = f"{words.size_words(free)} free ({100 * found.f_bavail // max(1, found.f_blocks)} %)"
    if free < _TOO_LITTLE:
        told.fail(f"{directory}: {share}: new mail is refused, or soon will be", "make room, or a larger volume")
    elif free < _LITTLE:
        told.warn(f"{directory}: {share}", "a day's mail to a host that is down may fill that: make room")
    else:
        told.ok(f"{directory}: {share}")
    if found.f_files and found.f_favail < _FEW_INODES:  # 0 files: the file system has no such limit
        told.fail(f"{directory}: {found.f_favail} inodes free", "remove small files there, or use another file system")


def _judge_permissions(directory: Path, user_id: int, told: Findings) -> bool:
    """Tell who may look in; False: not we, so there is nothing more to be seen."""
    facts = directory.stat()
    mode = S_IMODE(facts.st_mode)
    if mode & 0o077:
        told.fail(
            f"{directory}: others on this machine may look into it, mode {mode:04o}; the mail of all is in there",
            f"chmod 700 {directory}",
        )
    else:
        told.ok(f"{directory}: closed to others, mode {mode:04o}")
    if user_id not in (0, facts.st_uid):
        told.warn(
            f"{directory}: belongs to user {facts.st_uid}, and this is user {user_id}: it was not looked into",
            _WHO,
        )
        return False
    return True


def _judge_speed(directory: Path, times: list[float], told: Findings) -> None:
    in_order = sorted(times)
    p50, p99 = in_order[len(in_order) // 2], in_order[min(len(in_order) - 1, len(in_order) * 99 // 100)]
    seen = f"{directory}: fsync p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, of {len(in_order)}"
    if p50 > SLOW_P50_S or p99 > SLOW_P99_S:
        told.warn(
            seen,
            "each message waits for two of these (batches share them): use a faster disk, or one that does not share",
        )
    else:
        told.ok(seen)


def measure_syncs(directory: Path, monotonic: Callable[[], float]) -> list[float]:
    """Time some fsyncs, one after the other: 4 KiB appended before each. Blocks for `TESTS_S` and one fsync at most.

    A named file, since some file systems (btrfs) skip the work for one without a name. Raises: OSError.
    """
    path = directory / _NAME
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    times: list[float] = []
    try:
        began = monotonic()
        while len(times) < TESTS and (not times or monotonic() - began < TESTS_S):
            os.write(descriptor, bytes(4096))
            started = monotonic()
            os.fsync(descriptor)
            times.append(monotonic() - started)
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)
    return times
