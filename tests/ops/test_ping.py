# SPDX-License-Identifier: MIT
"""`smarthost ping`, as a health check sees it."""

import json
import os
import socket
from pathlib import Path

from click.testing import CliRunner
from tests.ops.rig import FakeQueue, message, running

from smarthost.mail.errors import StoreError, StoreFull
from smarthost.ops import cli, exits
from smarthost.ops.door import Door


class Queue(FakeQueue):
    """A queue of one message with two recipients that may refuse new mail."""

    refusal: Exception | None = None
    is_paused = False

    def door(self, **replaced: object) -> Door:
        mine = {"refusal": lambda: self.refusal, "is_paused": lambda: self.is_paused, "version": "9"}
        return super().door(**{**mine, **replaced})


def run(state_dir: Path, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.cli, ["ping", "--state-dir", str(state_dir), *arguments])
    return result.exit_code, result.stdout, result.stderr


def queue(*, refusal: Exception | None = None, is_paused: bool = False) -> Queue:
    made = Queue(message("0000000000000001", "a@b.example", "c@d.example"))
    made.refusal, made.is_paused = refusal, is_paused
    return made


def test_a_daemon_that_answers_is_well(tmp_path: Path) -> None:
    """The answer is one line for a person, and exit code 0."""
    with running(tmp_path, queue()):
        assert run(tmp_path) == (
            0,
            f"smarthost 9, process {os.getpid()}: takes and delivers mail (1 message, 2 recipients in the queue)\n",
            "",
        )


def test_nobody_there_is_69(tmp_path: Path) -> None:
    """A health check fails where no daemon is."""
    code, _, said = run(tmp_path)

    assert code == exits.UNAVAILABLE
    assert "no daemon answers" in said


def test_a_full_disk_is_alive_but_not_ready(tmp_path: Path) -> None:
    """A container must not be restarted because its disk is full; a balancer may pass it by."""
    with running(tmp_path, queue(refusal=StoreFull("no space left for \x1b[31m the queue"))):
        alive = run(tmp_path)
        ready = run(tmp_path, "--ready")

    assert alive[0] == exits.OK
    assert "takes no new mail now: no space left for \\x1b[31m the queue" in alive[1]
    assert ready[0] == exits.TEMPORARY


def test_a_pause_is_no_reason_to_be_restarted(tmp_path: Path) -> None:
    """An operator's pause is healthy, and ready: mail is taken."""
    with running(tmp_path, queue(is_paused=True)):
        code, said, _ = run(tmp_path, "--ready")

    assert code == exits.OK
    assert "paused: nothing is delivered" in said


def test_json_has_every_field(tmp_path: Path) -> None:
    """A script reads the same."""
    with running(tmp_path, queue(refusal=StoreError("the disk hangs"))):
        code, said, _ = run(tmp_path, "--json")

    assert code == exits.OK
    assert json.loads(said) == {
        "pid": os.getpid(),
        "version": "9",
        "listen": [],
        "paused": False,
        "refusal": "the disk hangs",
        "messages": 1,
        "recipients": 2,
    }


def test_a_daemon_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    """A process that is there but answers nothing is told after the time that was given."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "control"))
        listening.listen()
        code, _, said = run(tmp_path, "--timeout", "0.1")

    assert code == exits.TEMPORARY
    assert "has not answered" in said
