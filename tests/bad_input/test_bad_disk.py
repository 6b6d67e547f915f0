# SPDX-License-Identifier: MIT
"""A disk that is full, content that cannot be read: refused for now, nothing acknowledged lost, recovery by itself.

The full disk is a small tmpfs, mounted for the test; that takes root.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.live.content import KINDS, assert_same, large, without_our_field
from tests.live.raw import RawClient, stuffed
from tests.live.rig import Daemon, eventually, serving
from tests.live.sink import Sink

pytestmark = pytest.mark.slow

MEBIBYTE = 1 << 20
SIZE = 100  # MiB; 64 of them are kept for settlements


def _later(argument: bytes) -> bytes:
    return b"451 4.3.0 Later"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a small file system; loudly skipped where that is not allowed, and a failure in CI."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}m,mode=0700", "none", place], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        why = f"the full disk: no tmpfs can be mounted here ({mounted.stderr.decode().strip() or 'not root?'})"
        if os.environ.get("CI", "").lower() not in ("", "0", "false"):
            pytest.fail(f"in CI nothing may be left out: {why}")
        pytest.skip(f"NOT TRIED: {why}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def _fill(place: Path, leave_octets: int) -> Path:
    """Leave so much room (0: not an octet)."""
    filler = place / "filler"
    room = os.statvfs(place)
    wanted = room.f_bavail * room.f_frsize - leave_octets
    with filler.open("wb", buffering=0) as file, suppress(OSError):  # a short write, then ENOSPC
        for _ in range(wanted // 65536):
            file.write(bytes(65536))
        while leave_octets == 0:
            file.write(bytes(512))
    return filler


def _reply_to_mail(daemon: Daemon) -> str:
    with RawClient(daemon.port) as client:
        client.command("EHLO client.example.org", "250")
        return client.command("MAIL FROM:<a@example.org>")


def test_a_full_disk_refuses_mail_for_now_and_lets_mail_go(small_disk: Path) -> None:
    """Below the reserve new mail gets 452 4.3.1, what is queued is delivered and settled; with room, mail is taken."""
    with (
        Sink(answers={b"RCPT": _later}) as sink,
        serving(small_disk / "state", "--next-hop", f"127.0.0.1:{sink.port}") as daemon,
        RawClient(daemon.port) as early,
        RawClient(daemon.port) as middle,
    ):
        for n in range(20):
            early.send(KINDS["64 KiB"], f"before{n}@example.net")
        early.send(KINDS["300 KiB"], "before20@example.net")
        middle.begin("middle@example.net")
        middle.socket.sendall(b"Subject: half\r\n\r\n" + b"y" * 70_000 + b"\r\n")

        filler = _fill(small_disk, 8 * MEBIBYTE)
        eventually(lambda: _reply_to_mail(daemon).startswith("452 4.3.1"), "new clients are told")
        early.command("MAIL FROM:<a@example.org>", "452 4.3.1")
        assert middle.say(large(MEBIBYTE) + b".\r\n").startswith("452 4.3.1")
        middle.command("RSET", "250")
        sent = daemon.command("send", "--from", "a@example.org", "--to", "b@example.net", content=b"Subject: x\n\nx\n")
        assert sent.returncode == 75, sent.stderr

        sink.answers.clear()
        daemon.some_lines(21, "relayed")
        assert daemon.queue() == []

        filler.unlink()
        eventually(lambda: _reply_to_mail(daemon).startswith("250"), "new clients are served")
        early.send(KINDS["300 KiB"], "after@example.net")
        arrived = sink.wait_for_recipient("after@example.net")

    assert_same(KINDS["300 KiB"], without_our_field(arrived.content), "after")
    for n in range(21):
        sink.wait_for_recipient(f"before{n}@example.net")
    assert sink.messages_to("middle@example.net") == []


def test_not_an_octet_left_loses_nothing(small_disk: Path) -> None:
    """With no room at all, what was taken is still there; settlements go on, in room that was kept for them."""
    names = [f"n{n}@example.net" for n in range(30)]
    with (
        Sink(answers={b"RCPT": _later}) as sink,
        serving(small_disk / "state", "--next-hop", f"127.0.0.1:{sink.port}") as daemon,
    ):
        with RawClient(daemon.port) as client:
            for name in names:
                client.send(KINDS["multipart"], name)
        filler = _fill(small_disk, 0)
        eventually(lambda: _reply_to_mail(daemon).startswith("452 4.3.1"), "new clients are told")
        sink.answers.clear()
        for name in names:
            sink.wait_for_recipient(name)
        eventually(lambda: daemon.queue() == [], "all is settled, on a disk that is full")
        filler.unlink()
        eventually(lambda: _reply_to_mail(daemon).startswith("250"), "new clients are served")
        eventually(lambda: daemon.queue() == [], "all is settled")
        with RawClient(daemon.port) as client:
            client.send(KINDS["short"], "after@example.net")
        sink.wait_for_recipient("after@example.net")

    assert len(sink.arrived) == len(names) + 1  # each once


def test_no_room_at_the_start_is_told(small_disk: Path) -> None:
    """A daemon that cannot make its database says that the disk is full, and starts when it is not."""
    filler = _fill(small_disk, 0)
    with pytest.raises(AssertionError, match=r"smarthost: .*(space|full)"), serving(small_disk / "state", quick=False):
        pass
    filler.unlink()
    with serving(small_disk / "state", "--next-hop", "127.0.0.1:1"):
        pass


def _remove(file: Path) -> None:
    file.unlink()


def _cut(file: Path) -> None:
    os.truncate(file, 1000)


def _replace_by_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("harm", [_remove, _cut, _replace_by_directory], ids=["gone", "short", "a directory"])
def test_content_that_cannot_be_read_is_kept_and_told(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    """A damaged content file defers its message with the reason; other mail passes; the file put back, it arrives."""
    state = tmp_path / "state"
    with (
        Sink(answers={b"RCPT": _later}) as sink,
        serving(state, "--next-hop", f"127.0.0.1:{sink.port}") as daemon,
        RawClient(daemon.port) as client,
    ):
        id = client.send(KINDS["300 KiB"], "bob@example.net")
        daemon.line("deferred", recipient="bob@example.net")
        file = state / "content" / id
        good = file.read_bytes()
        harm(file)
        sink.answers.clear()
        daemon.wait_until(lambda: _local_failures(daemon), "the damage is noticed")
        client.send(KINDS["short"], "eve@example.net")
        sink.wait_for_recipient("eve@example.net")
        (message,) = daemon.queue()
        if file.is_dir():
            file.rmdir()
        file.write_bytes(good)
        daemon.command("queue", "retry", "--all")
        arrived = sink.wait_for_recipient("bob@example.net")

    assert message["id"] == id
    assert "content" in message["recipients"][0]["why"]
    assert_same(good, without_our_field(arrived.content), "restored")
    assert_same(KINDS["300 KiB"], stuffed(good), "what was kept is what was sent")


def _local_failures(daemon: Daemon) -> list[object]:
    return [line for line in daemon.lines if line["what"] == "deferred" and "content" in line["why"]]
