# SPDX-License-Identifier: MIT
"""What a directory lies on: which file system, and whether that outlives the machine's power or the container.

Reads /proc/self/mountinfo (proc(5)) and the marks that containers carry; where there is no such file nothing is known
(None). Writes nothing, measures nothing, judges nothing. Asked at a start and by `doctor`, never while mail moves.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

MOUNTINFO = Path("/proc/self/mountinfo")
_CONTAINER_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))  # Docker's; Podman's
_MEMORY = frozenset({"tmpfs", "ramfs", "rootfs", "devtmpfs", "hugetlbfs"})
_LAYERS = frozenset({"overlay", "aufs", "fuse.fuse-overlayfs"})
_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "ceph", "glusterfs", "lustre", "afs", "ocfs2", "gfs2"}
)
_NETWORK_FUSE = (
    "fuse.sshfs",
    "fuse.glusterfs",
    "fuse.ceph",
    "fuse.s3fs",
    "fuse.rclone",
    "fuse.gcsfuse",
    "fuse.juicefs",
)
_ESCAPE = re.compile(r"\\([0-7]{3})")  # of space, tab, newline and backslash (proc(5))


class Volume(Struct, frozen=True, kw_only=True):
    """What a path lies on. `fs_type` and `source` as the kernel names them.

    `is_memory`: gone with the power. `is_container_layer`: gone with the container, or so it looks: the root of a live
    system does, and of a virtual machine that was made of an image. `is_container`: there is no doubt. `is_network`:
    another machine's disk, whose locks and fsync are only as good as its settings.
    """

    mount_point: str
    fs_type: str
    source: str
    is_read_only: bool = False
    is_memory: bool = False
    is_container_layer: bool = False
    is_container: bool = False
    is_network: bool = False


class _Mount(Struct, frozen=True):
    id: int
    parent: int
    point: str
    fs_type: str
    source: str
    options: tuple[str, ...]

    def holds(self, path: str) -> bool:
        return self.point == "/" or path == self.point or path.startswith(self.point + "/")


def describe_volume(path: Path, mountinfo: Path = MOUNTINFO, marks: Iterable[Path] = _CONTAINER_MARKS) -> Volume | None:
    """Say what `path` lies on (or would, if it were made); None where the machine does not tell."""
    try:
        text = mountinfo.read_text("utf-8", "replace")
        is_container = any(mark.exists() for mark in marks)
        return volume_of(os.path.realpath(path), text, is_container=is_container)
    except OSError:
        return None


def volume_of(path: str, mountinfo: str, *, is_container: bool = False) -> Volume | None:
    """Find `path` (absolute, without links) in the text of a mountinfo; None if it holds no mount for it. Pure."""
    mount = _find(path, [each for line in mountinfo.splitlines() if (each := _read(line)) is not None])
    if mount is None:
        return None
    is_memory = mount.fs_type in _MEMORY
    is_overlaid = mount.fs_type in _LAYERS
    is_layer = is_overlaid or (is_container and mount.point == "/")
    return Volume(
        mount_point=mount.point,
        fs_type=mount.fs_type,
        source=mount.source,
        is_read_only="ro" in mount.options,
        is_memory=is_memory,
        is_container_layer=is_layer and not is_memory,
        is_container=is_overlaid and is_container,
        is_network=mount.fs_type in _NETWORK or mount.fs_type.startswith(_NETWORK_FUSE),
    )


def _read(line: str) -> _Mount | None:
    """Read `ID PARENT DEV ROOT POINT OPTIONS [TAGS] - TYPE SOURCE SUPER`; None for a line that is something else."""
    before, dash, after = line.partition(" - ")
    left, right = before.split(" "), after.split(" ")
    if not dash or len(left) < 6 or len(right) < 2 or not (left[0].isdecimal() and left[1].isdecimal()):
        return None
    options = (*left[5].split(","), *(right[2].split(",") if len(right) > 2 else ()))
    return _Mount(int(left[0]), int(left[1]), _unescaped(left[4]), right[0], _unescaped(right[1]), options)


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)


def _find(path: str, mounts: list[_Mount]) -> _Mount | None:
    """Walk from the root mount down, as the kernel does: a later mount may hide an earlier, deeper one."""
    left = [mount for mount in mounts if mount.holds(path)]
    ids = {mount.id for mount in mounts}
    roots = [mount for mount in left if mount.parent not in ids or mount.parent == mount.id]
    here = max(roots, key=lambda mount: len(mount.point), default=None)
    while here is not None:
        left.remove(here)
        below = [mount for mount in left if mount.parent == here.id]
        if not below:
            break
        here = min(below, key=lambda mount: len(mount.point))
    return here
