# SPDX-License-Identifier: MIT
"""What a state directory lies on, read from samples of /proc/self/mountinfo."""

from pathlib import Path

import pytest

from smarthost.backends.volume import Volume, describe_volume, volume_of

HOST = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda1 rw,discard
30 27 0:25 / /tmp rw,nosuid,nodev - tmpfs tmpfs rw,size=4096k
31 27 254:16 / /var rw,relatime shared:5 master:2 - xfs /dev/vdb rw
32 31 0:44 / /var/lib/smart\\040host rw,relatime shared:9 - nfs4 nas:/mail rw,vers=4.2
"""
DOCKER = """\
1034 903 0:231 / / rw,relatime master:301 - overlay overlay rw,lowerdir=/l/A:/l/B,upperdir=/u,workdir=/w
1035 1034 0:237 / /proc rw,nosuid - proc proc rw
1051 1034 254:1 /var/lib/docker/volumes/mail/_data /var/lib/smarthost rw,relatime master:1 - ext4 /dev/vda1 rw
1052 1034 0:240 / /run rw,nosuid - tmpfs tmpfs rw,size=65536k
1053 1034 0:241 / /etc/smarthost ro,relatime - ext4 /dev/vda1 rw
"""


def find(path: str, mountinfo: str = HOST, *, is_container: bool = False) -> Volume:
    volume = volume_of(path, mountinfo, is_container=is_container)
    assert volume is not None
    return volume


def test_a_directory_on_a_disk_is_durable() -> None:
    """An ordinary file system is named with its device, and nothing is held against it."""
    volume = find("/var/spool/mail")

    assert volume == Volume(mount_point="/var", fs_type="xfs", source="/dev/vdb")


def test_a_name_that_only_begins_like_a_mount_lies_elsewhere() -> None:
    """/variable is not below /var."""
    assert find("/variable/x").mount_point == "/"


def test_memory_is_told_from_a_disk() -> None:
    """A tmpfs loses all mail with the power."""
    volume = find("/tmp/smarthost")

    assert (volume.fs_type, volume.is_memory, volume.is_container_layer) == ("tmpfs", True, False)


def test_a_network_disk_is_found_under_a_name_with_a_space() -> None:
    """What the kernel escapes is read back."""
    volume = find("/var/lib/smart host/queue.db")

    assert (volume.mount_point, volume.source, volume.is_network) == ("/var/lib/smart host", "nas:/mail", True)


def test_a_containers_own_layer_is_told_from_its_volume() -> None:
    """Mail in the layer goes with the container; mail in the volume stays."""
    layer, volume = find("/var/lib/other", DOCKER), find("/var/lib/smarthost", DOCKER)

    assert (layer.is_container_layer, layer.is_container) == (True, False)
    assert find("/var/lib/other", DOCKER, is_container=True).is_container
    assert (volume.fs_type, volume.is_container_layer) == ("ext4", False)


def test_a_container_whose_layers_are_no_overlay_is_known_by_its_marks() -> None:
    """With other storage drivers the layer looks like a disk, and only the root is it; or it is a machine."""
    inside = HOST.replace(" - ext4 ", " - btrfs ")

    layer = find("/var2", inside, is_container=True)
    assert (layer.is_container_layer, layer.is_container) == (True, False)
    assert not find("/var/x", inside, is_container=True).is_container_layer
    assert not find("/var2", inside).is_container_layer


def test_a_read_only_volume_is_told() -> None:
    """Nothing can be queued there."""
    assert find("/etc/smarthost/x", DOCKER).is_read_only


def test_a_later_mount_hides_what_lay_below_it() -> None:
    """The walk is the kernel's: /a was mounted over a tree that held /a/b."""
    text = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:2 / /a/b rw - xfs /dev/b rw\n3 1 8:3 / /a rw - tmpfs t rw\n"

    assert find("/a/b/c", text).fs_type == "tmpfs"


def test_a_mount_over_the_root_counts() -> None:
    """A live system mounts its root twice."""
    text = "1 1 0:2 / / rw - rootfs rootfs rw\n28 1 0:9 / / rw - ext4 /dev/a rw\n29 28 0:3 / /run rw - tmpfs t rw\n"

    assert find("/srv", text).fs_type == "ext4"


@pytest.mark.parametrize("text", ["", "nonsense\n", "1 2 3 - x\n\n", "x y 8:1 / / rw - ext4 a rw\n"])
def test_what_is_no_mountinfo_gives_nothing(text: str) -> None:
    """A machine that does not tell is not guessed at."""
    assert volume_of("/x", text) is None


def test_a_real_path_is_followed_through_links(tmp_path: Path) -> None:
    """A link into memory is memory, and a directory that is still to be made is judged by where it would be."""
    target = tmp_path / "memory"
    target.mkdir()
    (tmp_path / "link").symlink_to(target)
    info = tmp_path / "mountinfo"
    info.write_text(f"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:9 / {target} rw - tmpfs t rw\n")

    volume = describe_volume(tmp_path / "link" / "new", info, marks=())

    assert volume is not None
    assert volume.is_memory


def test_without_proc_nothing_is_known(tmp_path: Path) -> None:
    """Another system than Linux is no error."""
    assert describe_volume(tmp_path, tmp_path / "missing") is None
