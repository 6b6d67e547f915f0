# SPDX-License-Identifier: MIT
"""`smarthost ping`, as a health check sees it."""

import asyncio
import json
import os
import socket
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.live.rig import eventually
from tests.ops.rig import FakeQueue, host, message, running

from smarthost.mail.errors import StoreError, StoreFull
from smarthost.mail.explanation import HostReport
from smarthost.ops import cli, control, exits
from smarthost.ops.door import Door
from smarthost.ops.standstill import say_standstill


class Queue(FakeQueue):
    """A queue of one message with two recipients that may refuse new mail."""

    refusal: Exception | None = None
    is_paused = False
    standing: tuple[HostReport, ...] = ()

    def door(self, **replaced: object) -> Door:
        mine = {
            "refusal": lambda: self.refusal,
            "is_paused": lambda: self.is_paused,
            "find_standstill": self.find_standstill,
            "version": "9",
        }
        return super().door(**{**mine, **replaced})

    async def find_standstill(self) -> tuple[HostReport, ...]:
        return self.standing


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
        "standstill": None,
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


def test_a_ping_waits_for_no_name_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever restarts what does not answer would restart for DNS; the next ping has what was found meanwhile."""
    monkeypatch.setattr(control, "STANDSTILL_S", 0.05)
    stuck, released = queue(), threading.Event()
    stuck.standing = (host("127.0.0.1", "localhost", step="auth", detail="535 5.7.8 wrong"),)

    async def find_slowly() -> tuple[HostReport, ...]:
        while not released.is_set():
            await asyncio.sleep(0.01)
        return stuck.standing

    stuck.find_standstill = find_slowly  # type: ignore[method-assign]
    with running(tmp_path, stuck):
        first = run(tmp_path)[1]
        released.set()
        eventually(lambda: "delivers none: localhost refuses our login" in run(tmp_path)[1], "it was found")

    assert "takes and delivers mail" in first


def test_a_daemon_that_can_deliver_nothing_says_so_and_why(tmp_path: Path) -> None:
    """It takes mail, so the exit code stays 0; a person, and a program, read why nothing goes."""
    stuck = queue()
    stuck.standing = (host("127.0.0.1", "localhost", step="auth", detail="535 5.7.8 \x1b[31mwrong"),)
    with running(tmp_path, stuck):
        code, out, _ = run(tmp_path, "--ready")
        told = json.loads(run(tmp_path, "--json")[1])["standstill"]

    assert code == 0
    assert "takes mail, delivers none: localhost refuses our login since 1970-01-01T" in out
    assert ": 535 5.7.8 \\x1b[31mwrong (1 message, 2 recipients in the queue)" in out
    assert told.startswith("localhost refuses our login since ")


def test_a_standstill_quotes_who_said_something_and_counts_names() -> None:
    """One host with two addresses is one host; that one of them is not there is not what keeps the mail back."""
    hosts = (
        host("::1", "localhost"),
        host("127.0.0.1", "localhost", step="auth", detail="535 no", since=2000.0),
        host("192.0.2.1", "b.example", step="data", detail="timed out", since=3000.0),
    )

    assert say_standstill(hosts, "at {:.0f}".format) == (
        "localhost refuses our login since at 2000 (and 1 other host): 535 no"
    )
    assert say_standstill(hosts[2:], str) == "b.example fails at data since 3000.0: timed out"
    assert say_standstill(hosts[:1], str) == "localhost cannot be reached since 1000.0: connection refused"
    assert say_standstill((), str) == ""
