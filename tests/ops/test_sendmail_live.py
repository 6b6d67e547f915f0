# SPDX-License-Identifier: MIT
"""sendmail with the real daemon: what a local program leaves arrives, once, whatever is done to the daemon."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.live.rig import Daemon, eventually, serving
from tests.live.sink import Sink

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[2] / "src"
SENDMAIL = "import sys; sys.path.insert(0, sys.argv.pop(1)); from smarthost.ops.sendmail import main; main()"
SYSTEM_PYTHON = shutil.which("python3", path="/usr/bin:/bin:/usr/local/bin")
NOBODY = 65534
MAIL = b"Subject: hi\n\nhello\n"


class Machine:
    """A directory that every user may reach, with a daemon's configuration in it."""

    def __init__(self, home: Path, sink_port: int) -> None:
        self.home = home
        self.state = home / "state"
        self.spool = home / "spool/maildrop"
        self.code = home / "code"
        shutil.copytree(
            SOURCE / "smarthost/ops", self.code / "smarthost/ops", ignore=lambda *_: ["demo", "__pycache__"]
        )
        shutil.copy(SOURCE / "smarthost/__init__.py", self.code / "smarthost")
        for each in self.code.rglob("*"):
            each.chmod(0o755)
        self.config = (
            f'hostname = "relay.example.org"\nstate_dir = "{self.state}"\n[maildrop]\ndirectory = "{self.spool}"\n'
            f'[next_hop]\nhost = "127.0.0.1"\nport = {sink_port}\n'
        )
        self.file = home / "state.toml"  # where tests.live.rig writes it
        self.file.write_text(self.config)

    def send(self, *words: str, content: bytes = MAIL, uid: int | None = None) -> "subprocess.CompletedProcess[bytes]":
        python = sys.executable if uid is None else str(SYSTEM_PYTHON)
        return subprocess.run(
            [python, "-I", "-B", "-c", SENDMAIL, str(self.code), "-C", str(self.file), *words],
            input=content,
            capture_output=True,
            timeout=30,
            check=False,
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
            env={},
        )

    def left(self) -> list[str]:
        return [each.name for each in self.spool.iterdir() if each.name != "corrupt"]


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


@pytest.fixture
def machine(sink: Sink) -> Iterator[Machine]:
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o755)
        yield Machine(Path(home), sink.port)


@pytest.mark.skipif(os.geteuid() != 0 or SYSTEM_PYTHON is None, reason="runs programs as another user")
def test_what_any_user_sends_arrives_and_says_who_sent_it(machine: Machine, sink: Sink) -> None:
    """Bcc stays blind, what is missing is there, and Received names the user of the system."""
    with serving(machine.state, config=machine.config):
        ended = machine.send("-t", "-i", content=b"To: a@x.example\nBcc: b@y.example\n\nhi\n", uid=NOBODY)
        eventually(lambda: sink.arrived, "the message")

    assert (ended.returncode, ended.stderr) == (0, b"")
    [arrived] = sink.arrived
    assert arrived.addresses == ("a@x.example", "b@y.example")
    assert b"(uid 65534 nobody)" in arrived.content
    assert b"From: nobody <nobody@relay.example.org>\r\n" in arrived.content
    assert b"b@y.example" not in arrived.content
    assert machine.left() == []


def test_a_daemon_killed_between_drop_and_pick_up_loses_nothing_and_sends_once(machine: Machine, sink: Sink) -> None:
    """kill -9 while ten messages wait in the directory: the next start takes each of them once."""
    with Daemon(machine.state, config=machine.config) as daemon:
        daemon.process.send_signal(signal.SIGSTOP)
        before = machine.state / "control"
        before.rename(machine.state / "aside")  # or root's would wait for an answer of the stopped one
        ended = [machine.send(f"u{n}@x.example").returncode for n in range(10)]
        daemon.kill()
    assert ended == [0] * 10
    assert len(machine.left()) == 10

    with serving(machine.state, config=machine.config):
        eventually(lambda: len(sink.arrived) >= 10 and not machine.left(), "ten messages")

    assert sorted(each.addresses[0] for each in sink.arrived) == sorted(f"u{n}@x.example" for n in range(10))


def test_the_queue_is_listed_and_flushed(machine: Machine, sink: Sink) -> None:
    """mailq shows what waits and why; -q sends it."""
    sink.answers[b"RCPT"] = lambda _: b"451 4.3.0 Not now"
    with serving(machine.state, config=machine.config, quick=False) as daemon:
        sent = machine.send("-v", "a@x.example")
        daemon.line("deferred", recipient="a@x.example")
        listed = machine.send("-bp").stdout.decode()
        del sink.answers[b"RCPT"]
        flushed = machine.send("-q")
        eventually(lambda: sink.arrived, "the message")
        eventually(lambda: machine.send("-bp").stdout == b"Mail queue is empty\n", "an empty queue")

    found = re.fullmatch(r"queued as ([0-9a-z]{16})\n", sent.stdout.decode())
    assert found is not None
    assert found[1] in listed
    assert "451 4.3.0 Not now)\n" in listed
    assert listed.endswith("-- 1 Kbytes in 1 Request.\n")
    assert flushed.stdout == b"1 recipient due now\n"


def test_bs_hands_mail_in_by_smtp(machine: Machine, sink: Sink) -> None:
    """A program that speaks SMTP to a pipe gets the daemon's own answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    machine.config = f'listen = ["127.0.0.1:{port}"]\n{machine.config}'
    said = b"EHLO me.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\n"
    said += b"Subject: x\r\n\r\nhi\r\n.\r\nQUIT\r\n"
    with serving(machine.state, config=machine.config, listen=[f"127.0.0.1:{port}"]):
        ended = machine.send("-bs", content=said)
        eventually(lambda: sink.arrived, "the message")

    assert ended.returncode == 0
    assert ended.stdout.startswith(b"220 relay.example.org")
    assert ended.stdout.rstrip().splitlines()[-1].startswith(b"221 ")
