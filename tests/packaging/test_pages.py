# SPDX-License-Identifier: MIT
"""The pages about servers and containers say what the program says, and name what is there."""

import re
import socket
from pathlib import Path

import pytest
from tests.ops.rig import CollectingSink

from smarthost.accept.replies import relay_denied
from smarthost.activation import listen_at_passed
from smarthost.backends.systemd import PassedSocket
from smarthost.backends.volume import Volume
from smarthost.config import parse_config
from smarthost.mail.errors import ConfigError
from smarthost.ops.manual import _EXITS
from smarthost.ops.volatile import VARIABLE, warn_if_volatile

ROOT = Path(__file__).parents[2]
SYSTEMD = (ROOT / "docs/systemd.md").read_text()
CONTAINER = (ROOT / "docs/container.md").read_text()


def test_the_error_of_a_leftover_socket_is_as_shown() -> None:
    """Whoever searches the page for the message finds it."""
    config = parse_config('hostname = "relay.example.org"\nstate_dir = "/nowhere"')
    with socket.socket() as sock, pytest.raises(ConfigError) as caught:
        listen_at_passed(config, [PassedSocket("submissions", ("::", 465), True, sock)])

    assert f"smarthost: {caught.value}" in SYSTEMD


def test_the_refusal_behind_a_bridge_is_as_shown() -> None:
    """The reply that people paste into a search is on the page that explains it."""
    assert str(relay_denied("172.17.0.1")) in CONTAINER


def test_the_refusal_to_start_without_a_volume_is_as_shown() -> None:
    """The message of a container without a volume is on the page."""
    layer = Volume(mount_point="/", fs_type="overlay", source="overlay", is_container_layer=True, is_container=True)
    with pytest.raises(ConfigError) as caught:
        warn_if_volatile(Path("/var/lib/smarthost"), {VARIABLE: "1"}, CollectingSink(), lambda _: layer)

    shown = next(line for line in CONTAINER.splitlines() if line.startswith("smarthost: state_dir"))
    assert f"smarthost: {caught.value}".startswith(shown.removesuffix(" ..."))


def test_files_that_are_named_are_there() -> None:
    """No page sends anybody to a file that moved."""
    for page in (SYSTEMD, CONTAINER):
        for found in re.findall(r"packaging/[\w./-]*\w", page):
            assert (ROOT / found).exists(), found


def test_the_manual_has_every_exit_code() -> None:
    """smarthost(1) and docs/commands.md name the same codes."""
    table = (ROOT / "docs/commands.md").read_text().partition("## Exit codes")[2]
    documented = set(re.findall(r"^\| (\d+) \|", table, re.MULTILINE))

    assert {code for codes, _ in _EXITS for code in codes.split(", ")} == documented
