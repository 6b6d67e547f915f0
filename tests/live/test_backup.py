# SPDX-License-Identifier: MIT
"""`smarthost backup`, `pause` and `resume` against the real daemon: a copy under load, its restore, and pauses."""

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.live.content import KINDS, assert_same, large, without_our_field
from tests.live.raw import RawClient
from tests.live.rig import SMARTHOST, Daemon, eventually, serving, smarthost
from tests.live.sink import Sink

pytestmark = pytest.mark.slow


def _later(argument: bytes) -> bytes:
    return b"451 4.3.0 Later"


@contextmanager
def _traffic(daemon: Daemon) -> Iterator[list[str]]:
    """Send one message after another during the block; gives the recipients whose mail was acknowledged."""
    acknowledged: list[str] = []
    is_over = threading.Event()

    def send() -> None:
        with RawClient(daemon.port) as client:
            n = 0
            while not is_over.is_set():
                recipient = f"t{n}@example.net"
                client.send(large(300_000) if n % 5 == 0 else KINDS["short"], recipient)
                acknowledged.append(recipient)
                n += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield acknowledged
    finally:
        is_over.set()
        thread.join(30)


def test_copy_of_a_busy_queue_is_restored_without_a_loss_and_without_a_needless_duplicate(tmp_path: Path) -> None:
    """Backed up under load, delivered in part, lost: restored it waits, the delivered is dropped, the rest goes."""
    waiting = {f"r{n}@example.net": content for n, content in enumerate([*KINDS.values(), large(300_000)])}

    with Sink(answers={b"RCPT": _later}) as sink:
        hop = ("--next-hop", f"127.0.0.1:{sink.port}")
        with serving(tmp_path / "state", *hop) as daemon:
            with RawClient(daemon.port) as client:
                for recipient, content in waiting.items():
                    client.send(content, recipient)
            with _traffic(daemon) as acknowledged:
                eventually(lambda: len(acknowledged) > 20, "traffic")
                before = len(acknowledged)
                made = daemon.command("backup", str(tmp_path / "copy"))
                eventually(lambda: len(acknowledged) > before + 5, "traffic goes on after the backup")
            assert made.returncode == 0, made.stderr
            assert made.stdout.decode().startswith(f"{tmp_path / 'copy'}: ")
            sink.answers[b"RCPT"] = lambda argument: (
                None if b"<r0@" in argument or b"<t" in argument else _later(argument)
            )
            sink.wait_for_recipient("r0@example.net")
            daemon.line("relayed", recipient="r0@example.net")
            daemon.kill()
        arrived_before = len(sink.arrived)

        with serving(tmp_path / "copy", *hop) as daemon:
            warning = daemon.line("paused: restored from a backup")
            assert daemon.line("ready")["paused"] is True
            assert warning["recipients"] >= len(waiting) + before
            queued = {each["recipients"][0]["address"]: each["id"] for each in daemon.queue()}
            assert set(waiting) <= set(queued)
            assert set(acknowledged[:before]) <= set(queued)
            assert warning["messages"] == len(queued)
            listed = daemon.command("queue", "list").stdout.decode()
            assert listed.endswith("paused: mail is taken and kept, nothing is delivered before `smarthost resume`\n")
            with RawClient(daemon.port) as client:
                client.send(KINDS["short"], "new@example.net")
            assert len(sink.arrived) == arrived_before, "nothing is delivered"
            dropped = [queued[message.addresses[0]] for message in sink.arrived if message.addresses[0] in queued]
            assert 0 < len(dropped) < len(queued)
            assert daemon.command("queue", "cancel", *dropped).returncode == 0
            sink.answers.clear()
            resumed = daemon.command("resume").stdout.decode()
            assert resumed.startswith(f"resumed: {len(queued) - len(dropped) + 1} messages")
            for recipient, content in waiting.items():
                arrived = sink.wait_for_recipient(recipient)
                assert_same(content, without_our_field(arrived.content), recipient)
            sink.wait_for_recipient("new@example.net")
            eventually(lambda: daemon.queue() == [], "the queue is empty")
        with serving(tmp_path / "copy", *hop) as daemon:
            assert daemon.line("ready")["paused"] is False, "once released it stays so"
    addresses = [message.addresses[0] for message in sink.arrived]
    assert sorted(set(addresses)) == sorted(addresses), "no duplicate"


def test_pause_holds_over_a_restart_until_somebody_ends_it(tmp_path: Path) -> None:
    """`serve --paused`, `pause` and `resume` do what they say, and a restart without the flag stays paused."""
    with Sink() as sink:
        hop = ("--next-hop", f"127.0.0.1:{sink.port}")
        with serving(tmp_path / "state", *hop, "--paused") as daemon:
            assert daemon.line("paused")["cure"] == "smarthost resume"
            with RawClient(daemon.port) as client:
                client.send(KINDS["short"], "first@example.net")
        with serving(tmp_path / "state", *hop) as daemon:
            assert daemon.line("ready")["paused"] is True
            assert sink.arrived == []
            paused = json.loads(daemon.command("pause", "--json").stdout)
            assert paused == {"paused": True, "messages": 1, "recipients": 1}
            assert daemon.command("resume").stdout == b"resumed: 1 message, 1 recipient go on\n"
            sink.wait_for_recipient("first@example.net")
            eventually(lambda: daemon.queue() == [], "the queue is empty")
            assert daemon.command("resume").stdout == b"it was not paused (0 messages, 0 recipients)\n"
            assert daemon.command("pause").stdout.startswith(b"paused: mail is taken and kept")
            with RawClient(daemon.port) as client:
                client.send(KINDS["short"], "second@example.net")
            assert json.loads(daemon.command("resume", "--json").stdout)["messages"] == 1
            sink.wait_for_recipient("second@example.net")


def test_stopped_queue_is_backed_up_from_its_files(tmp_path: Path) -> None:
    """Without a daemon the command takes the lock itself; a queue of a killed daemon is whole too."""
    with Sink(answers={b"RCPT": _later}) as sink:
        hop = ("--next-hop", f"127.0.0.1:{sink.port}")
        with serving(tmp_path / "state", *hop) as daemon:
            with RawClient(daemon.port) as client:
                for n, content in enumerate(KINDS.values()):
                    client.send(content, f"r{n}@example.net")
            daemon.kill()
        made = smarthost("backup", str(tmp_path / "copy"), "--state-dir", str(tmp_path / "state"), "--json")
        again = smarthost("backup", str(tmp_path / "copy"), "--state-dir", str(tmp_path / "state"))
        nowhere = smarthost("backup", str(tmp_path / "other"), "--state-dir", str(tmp_path / "missing"))
        told = json.loads(made.stdout)
        with serving(tmp_path / "copy", *hop) as daemon:
            assert len(daemon.queue()) == told["messages"] == len(KINDS)
            refused = smarthost("serve", "--state-dir", str(tmp_path / "copy"), "--next-hop", "127.0.0.1:1")

    assert made.returncode == 0
    assert again.returncode == 73
    assert b"copy is not empty: name a directory that is" in again.stderr
    assert nowhere.returncode == 69
    assert not (tmp_path / "other").exists()
    assert not (tmp_path / "missing").exists()
    assert refused.returncode == 73


def test_interrupted_command_leaves_no_backup(tmp_path: Path) -> None:
    """Ctrl-C, or a kill, of the command ends the backup in the daemon as well, and takes what there was of it away."""
    with serving(tmp_path / "state", "--next-hop", "127.0.0.1:1", "--paused") as daemon:
        with RawClient(daemon.port) as client:
            for n in range(30):
                client.send(large(120_000), f"r{n}@example.net")
        command = [*SMARTHOST, "backup", str(tmp_path / "copy"), "--state-dir", str(tmp_path / "state")]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            eventually((tmp_path / "copy").exists, "it has begun")
            process.send_signal(signal.SIGKILL)
            process.wait(30)

        def is_gone_or_whole() -> bool:
            return not (tmp_path / "copy").exists() or (tmp_path / "copy/queue.db").exists()

        eventually(is_gone_or_whole, "nothing that is half a backup")
        made = daemon.command("backup", str(tmp_path / "next"))
        assert made.returncode == 0, made.stderr
