# SPDX-License-Identifier: MIT
"""File systems in a file, and the cut of their power: mkfs, a loop device, mount, the shutdown ioctl, umount.

All mounts live in a mount namespace of their own (`private_mounts`): only this process and what it starts are in it, so
that the kernel takes back mounts and loop devices (mount sets their autoclear) with the last of them, kill -9 included;
the scratch directory is removed from outside, where nothing is mounted. Knows nothing of mail. Needs root.
"""

import ctypes
import fcntl
import os
import random
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.children import Scratch
from bench.failure import RunFailed
from bench.interrupts import uninterrupted
from bench.programs import find_program, require_program

KINDS = ("ext4", "xfs")
OCTETS = 512 * 1024 * 1024  # sparse; mkfs.xfs wants 300 MiB, and smarthost keeps 64 MiB free
LOG_FLUSH = 1  # the journal is written first, as its timer may have done a moment before the power went; data is not
NO_LOG_FLUSH = 2  # whatever no sync has made durable is gone, names too
SCATTERED = 8  # files, of which some pages are written before a cut
_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32): EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN
_MKFS = {  # whole at once: no thread of the kernel goes on writing tables after the mount
    "ext4": ("-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"),
    "xfs": ("-q", "-f", "-K"),
}
_PACKAGES = {"ext4": "e2fsprogs", "xfs": "xfsprogs"}
_BUSY_S = 10.0
_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def private_mounts() -> Iterator[None]:
    """Mount where nobody else sees it, and what is started inside does. Raises: OSError: no right to."""
    place = Path.cwd()
    outside = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _must(_libc.unshare(_CLONE_NEWNS), "unshare")
        try:
            # Else what is mounted here would be mounted outside too.
            _must(_libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), "mount --make-rprivate /")
            yield
        finally:
            with uninterrupted():
                _must(_libc.setns(outside, _CLONE_NEWNS), "setns")
                os.chdir(place)  # setns goes to the root
    finally:
        os.close(outside)


def _must(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


class Image:
    """One file system in `scratch`, made at once, mounted at `path` by `mount`; inside of `private_mounts` alone."""

    def __init__(self, scratch: Scratch, name: str, kind: str) -> None:
        self.kind = kind
        self.path = scratch.directory(f"{name}-mounted")
        self._file = scratch.path / f"{name}.image"
        self.make()

    def make(self) -> None:
        """Make it anew and empty; it is not mounted. Raises: RunFailed."""
        with self._file.open("wb") as file:
            file.truncate(OCTETS)
        _run(f"mkfs.{self.kind}", *_MKFS[self.kind], str(self._file))

    def mount(self) -> None:
        """Mount it; after a cut this replays the journal. Raises: RunFailed."""
        _run("mount", "-t", self.kind, "-o", "loop", str(self._file), str(self.path))

    def cut(self, flag: int = NO_LOG_FLUSH) -> None:
        """Cut the power: nothing more reaches the disk, and each further call that should make it do so fails."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", flag))
        finally:
            os.close(fd)

    def scatter(self, directory: Path, chance: random.Random) -> None:
        """Have the kernel write some pages of some files there, in no order, as its flusher does in its own time."""
        files = [path for path in directory.rglob("*") if path.is_file()]
        for path in chance.sample(files, min(len(files), SCATTERED)):
            with suppress(FileNotFoundError), path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                offset = chance.randrange(size + 1)
                # Of pages that are dirty it begins the writing, and does not wait for it.
                os.posix_fadvise(file.fileno(), offset, chance.randrange(size + 1), os.POSIX_FADV_DONTNEED)

    def unmount(self) -> None:
        """Unmount it once nobody uses it any more. Raises: RunFailed: somebody does, for too long."""
        deadline = time.monotonic() + _BUSY_S
        while True:
            try:
                _run("umount", str(self.path))
            except RunFailed:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return


def _run(program: str, *words: str) -> None:
    answer = subprocess.run([require_program(program), *words], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise RunFailed(f"{program} {' '.join(words)}: {answer.stderr.strip() or answer.returncode}")


def missing_for_images(directory: Path, kinds: tuple[str, ...] = KINDS) -> list[str]:
    """Say in one line each what is missing to make, mount and shut down images there; tries it, as only that tells."""
    lines = [
        f"mkfs.{kind} is not installed (package {_PACKAGES[kind]}): run tools/system-packages"
        for kind in kinds
        if find_program(f"mkfs.{kind}") is None
    ]
    lines += [f"{each} is not installed (package mount)" for each in ("mount", "umount") if find_program(each) is None]
    if lines:
        return lines
    if os.geteuid() != 0:
        return ["only root may mount images: run as root"]
    for kind in kinds:
        try:
            with Scratch(directory) as scratch, private_mounts():
                image = Image(scratch, "trial", kind)
                image.mount()
                image.cut()
                image.unmount()
        except (OSError, RunFailed) as error:
            lines.append(f"an image of {kind} cannot be made, mounted and shut down here: {error}")
    return lines
