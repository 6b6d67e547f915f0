# SPDX-License-Identifier: MIT
"""A socket address for every state directory."""

from pathlib import Path

import pytest

from smarthost.mail.errors import ConfigError
from smarthost.ops import place


def test_short_paths_are_used_as_they_are(tmp_path: Path) -> None:
    """`ss -x` shows the path an operator knows."""
    with place.socket_address(Path("/s")) as address:
        assert address == "/s/control"


def test_long_paths_become_short_ones_to_the_same_place(tmp_path: Path) -> None:
    """A path that a socket address cannot hold is reached by way of an open directory, which is closed again."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    open_before = len(list(Path("/proc/self/fd").iterdir()))

    with place.socket_address(deep) as address:
        assert len(address) <= 107
        Path(address).touch()

    assert (deep / "control").exists()
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


@pytest.mark.parametrize(("spare", "is_direct"), [(0, True), (1, False)])
def test_the_limit_is_107_octets(tmp_path: Path, spare: int, is_direct: bool) -> None:
    """The path that just fits is used, one octet more is not."""
    name = "d" * (107 - len(str(tmp_path)) - len("//control") + spare)
    (tmp_path / name).mkdir()

    with place.socket_address(tmp_path / name) as address:
        assert (address == str(tmp_path / name / "control")) is is_direct


def test_without_proc_a_long_path_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the way round does not exist, the error names the setting."""
    monkeypatch.setattr(place, "_OWN_DESCRIPTORS", tmp_path / "missing")

    with pytest.raises(ConfigError, match="state_dir: the path of its control socket has more than 107 octets"):  # noqa: SIM117
        with place.socket_address(tmp_path / ("d" * 100)):
            pass
