# SPDX-License-Identifier: MIT
"""A queue that would go with its container, or with the power: told loudly, or refused."""

from pathlib import Path

import pytest
from tests.ops.rig import CollectingSink

from smarthost.backends.volume import Volume
from smarthost.mail.errors import ConfigError
from smarthost.ops.volatile import NO_CONTAINER, VARIABLE, warn_if_volatile

DISK = Volume(mount_point="/var/lib/smarthost", fs_type="ext4", source="/dev/sda1")
LAYER = Volume(mount_point="/", fs_type="overlay", source="overlay", is_container_layer=True, is_container=True)
LOOKS_LIKE_ONE = Volume(mount_point="/", fs_type="ext4", source="/dev/vda", is_container_layer=True)
MEMORY = Volume(mount_point="/var/lib/smarthost", fs_type="tmpfs", source="tmpfs", is_memory=True)
STATE = Path("/var/lib/smarthost")


def look(volume: Volume | None, **environ: str) -> CollectingSink:
    sink = CollectingSink()
    warn_if_volatile(STATE, environ, sink, lambda _: volume)
    return sink


@pytest.mark.parametrize("volume", [DISK, None])
@pytest.mark.parametrize("environ", [{}, {VARIABLE: "1"}])
def test_a_disk_and_what_is_not_known_are_no_trouble(volume: Volume | None, environ: dict[str, str]) -> None:
    """Nothing is said of an ordinary disk, and nothing is guessed."""
    assert look(volume, **environ).notes == []


@pytest.mark.parametrize(("volume", "goes_with"), [(LAYER, "goes with the container"), (MEMORY, "goes with the power")])
def test_a_place_that_goes_is_an_error_in_the_log(volume: Volume, goes_with: str) -> None:
    """It is told at each start what is lost when, and what to do."""
    ((level, what, facts),) = look(volume).notes

    assert (level, what) == ("error", "mail can be lost")
    assert goes_with in str(facts["why"])
    assert "put it on a volume" in str(facts["cure"])


def test_what_only_looks_like_a_container_is_a_warning_in_the_words_of_doctor() -> None:
    """A virtual machine made of an image carries a container's marks: whose disk it is nobody here knows."""
    ((level, what, facts),) = look(LOOKS_LIKE_ONE).notes

    assert (level, what) == ("warning", "mail can be lost")
    assert str(facts["why"]).startswith("seems to lie in a container's own layer")
    assert NO_CONTAINER in str(facts["cure"])


@pytest.mark.parametrize("volume", [LAYER, LOOKS_LIKE_ONE, MEMORY])
def test_an_image_that_demands_a_volume_does_not_start_without(volume: Volume) -> None:
    """No mail is taken that would be lost: the error names directory, reason, cure and the way round."""
    with pytest.raises(
        ConfigError, match=f"state_dir: {STATE} (lies|seems to lie) in .*put it on a volume.*{VARIABLE}=0"
    ):
        look(volume, **{VARIABLE: "1"})


def test_who_knows_what_he_does_is_left_alone() -> None:
    """A laboratory, or a pipeline, says so once and hears nothing more."""
    assert look(LAYER, **{VARIABLE: "0"}).notes == []


def test_another_value_is_an_error() -> None:
    """`yes` would look as if it had been understood."""
    with pytest.raises(ConfigError, match=r"expected 1 .*or 0, got 'yes'"):
        look(DISK, **{VARIABLE: "yes"})
