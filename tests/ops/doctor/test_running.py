# SPDX-License-Identifier: MIT
"""Is there a daemon for this state directory, and does it answer?"""

import asyncio
import os
import socket
from pathlib import Path

import pytest
from tests.ops.doctor.rig import Rig, levels, look, told
from tests.ops.rig import FakeQueue, running

from smarthost.ops.doctor import running as module
from smarthost.ops.doctor.running import find_daemon
from smarthost.ops.doctor.world import Daemon
from smarthost.ops.verbs import SOCKET_NAME


def find(directory: Path) -> Daemon | None:
    return asyncio.run(find_daemon(directory))


def test_a_running_daemon_is_named(tmp_path: Path) -> None:
    """By its process, its release, and where it listens."""
    with running(tmp_path, FakeQueue()):
        daemon = find(tmp_path)

    assert daemon is not None
    assert os.getpid() == daemon.pid
    assert told(look(Rig(daemon=daemon), "daemon"))[0].startswith(f"ok runs as process {daemon.pid}, release ")


def test_no_socket_is_no_daemon(tmp_path: Path) -> None:
    """Before the first start there is not even a directory."""
    assert find(tmp_path) is None
    assert find(tmp_path / "missing") is None
    assert levels(look(Rig(daemon=None), "daemon")) == ["skip"]


def test_a_daemon_that_does_not_answer_fails_and_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs; the doctor goes on."""
    monkeypatch.setattr(module, "ANSWER_S", 0.05)
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(tmp_path / SOCKET_NAME))
        hung.listen()

        daemon = find(tmp_path)

    assert daemon is not None
    found = look(Rig(daemon=daemon), "daemon")
    assert levels(found) == ["fail"]
    assert "has not answered for 0.05 s" in found[0].seen


def test_another_release_than_the_installed_one_is_a_warning() -> None:
    """Somebody updated and did not restart."""
    found = look(Rig(daemon=Daemon(pid=7, version="0.0.1", listen=(("127.0.0.1", 2525),))), "daemon")

    assert levels(found) == ["ok", "warn"]
