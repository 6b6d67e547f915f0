# SPDX-License-Identifier: MIT
"""What a service manager is told, and when: on a clock of our own, and by the real daemon."""

import asyncio
import signal
import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Never

import pytest
from tests.ops.rig import CollectingSink
from tests.ops.service_manager import SERVE, managed

from smarthost.backends.systemd import Notifier
from smarthost.mail.errors import StoreError, StoreFull
from smarthost.ops.readiness import SILENCE_S, Readiness, Watched, readiness_of
from smarthost.testing.clock import FakeClock

WATCHDOG_S = 60.0


class Trial:
    """A Readiness on a FakeClock, its manager's socket, and a store that does what the test says."""

    def __init__(self, manager: socket.socket, address: str, watchdog_s: float = WATCHDOG_S) -> None:
        self.clock = FakeClock()
        self.sink = CollectingSink()
        self.manager = manager
        self.readiness = Readiness(Notifier(address), self.clock, self.sink, watchdog_s)
        self.trouble: Exception | None = None
        self.refusal: Exception | None = None
        self.hangs = asyncio.Event()
        self.hangs.set()
        self.is_paused = False
        self._texts: list[str] = []
        self.saved: list[Mapping[str, bytes]] = []
        self.watched = Watched(self._count, self._save, lambda: self.refusal, lambda: self.is_paused)

    async def _count(self) -> tuple[int, int]:
        await self._answer()
        return 2, 1204

    async def _save(self, notes: Mapping[str, bytes]) -> None:
        await self._answer()
        self.saved.append(notes)

    async def _answer(self) -> None:
        await self.hangs.wait()
        if self.trouble is not None:
            raise self.trouble

    async def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / 5)):
            await turn()
            self.clock.advance(5)
            await turn()
            self._listen()

    def heard(self) -> str:
        """Give what was said since the last time; what was not taken in time is lost: a socket holds ten datagrams."""
        self._listen()
        texts, self._texts = self._texts, []
        return "\n".join(texts)

    def _listen(self) -> None:
        with suppress(BlockingIOError):
            while True:
                self._texts.append(self.manager.recv(65536).decode())


async def turn() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@contextmanager
def trial(directory: Path, watchdog_s: float = WATCHDOG_S) -> Iterator[Trial]:
    address = str(directory / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.setblocking(False)
        manager.bind(address)
        made = Trial(manager, address, watchdog_s)
        yield made
        made.readiness.close()


@pytest.mark.asyncio
async def test_ready_is_said_after_a_commit(tmp_path: Path) -> None:
    """Whoever starts after us may hand in mail: something has been made durable, and is gone again."""
    with trial(tmp_path) as it:
        it.hangs.clear()
        async with it.readiness.serving(it.watched):
            await turn()
            assert "READY" not in it.heard()
            it.hangs.set()
            await turn()
            heard = it.heard()

    assert heard.startswith("READY=1\nSTATUS=delivering; 2 messages for 1,204 recipients in the queue")
    assert it.saved[:2] == [{"readiness": b"1"}, {"readiness": b""}]


@pytest.mark.asyncio
async def test_a_full_disk_delays_ready_and_kills_nobody(tmp_path: Path) -> None:
    """A start on a full disk delivers and makes room: it says why it is not ready and asks for time, then is ready."""
    with trial(tmp_path) as it:
        it.refusal = StoreFull("no space left for the queue")
        async with it.readiness.living(), it.readiness.serving(it.watched):
            await it.pass_time(3600)
            heard = it.heard()
            it.refusal = None
            await it.pass_time(5)
            after = it.heard()

    assert "READY" not in heard
    assert "STATUS=not ready, mail cannot be kept: no space left for the queue" in heard
    assert "EXTEND_TIMEOUT_USEC=30000000" in heard
    assert "WATCHDOG=1" in heard
    assert "READY=1" in after


@pytest.mark.asyncio
async def test_a_commit_that_fails_delays_ready(tmp_path: Path) -> None:
    """A store that says it is well, but commits nothing, is not ready."""
    with trial(tmp_path) as it:
        it.trouble = StoreError("disk I/O error")
        async with it.readiness.serving(it.watched):
            await it.pass_time(60)
            assert "READY" not in it.heard()
            it.trouble = None
            await it.pass_time(5)
            assert "READY=1" in it.heard()


@pytest.mark.asyncio
async def test_trouble_that_is_known_is_told_and_is_no_reason_to_be_killed(tmp_path: Path) -> None:
    """A store that answers with an error is alive: killing the daemon mends no disk and ends its deliveries."""
    with trial(tmp_path) as it:
        async with it.readiness.living(), it.readiness.serving(it.watched):
            await turn()
            it.heard()
            it.trouble = it.refusal = StoreError("the queue's database failed")
            await it.pass_time(2 * SILENCE_S)
            heard = it.heard()

    assert "STATUS=takes no new mail: the queue's database failed" in heard
    assert heard.count("WATCHDOG=1") >= 2 * SILENCE_S / WATCHDOG_S


@pytest.mark.asyncio
async def test_a_store_that_hangs_ends_the_signs_of_life(tmp_path: Path) -> None:
    """A store that answers nothing at all for minutes is for the manager to end; the log and the status say why."""
    with trial(tmp_path) as it:
        async with it.readiness.living(), it.readiness.serving(it.watched):
            await turn()
            it.hangs.clear()
            await it.pass_time(SILENCE_S - WATCHDOG_S)
            assert "WATCHDOG=1" in it.heard()
            await it.pass_time(2 * WATCHDOG_S)
            it.heard()
            await it.pass_time(4 * WATCHDOG_S)
            heard = it.heard()
            assert "WATCHDOG" not in heard
            assert "STATUS=the store has not answered for" in heard
            it.hangs.set()
            await it.pass_time(WATCHDOG_S)
            assert "WATCHDOG=1" in it.heard()

    assert [note[:2] for note in it.sink.notes] == [("error", "store hangs")]


@pytest.mark.asyncio
async def test_life_is_told_twice_in_the_watchdogs_time_from_the_start_to_the_stop(tmp_path: Path) -> None:
    """systemd asks for a sign at half of the time; opening and closing a store do not hinder it."""
    with trial(tmp_path) as it:
        async with it.readiness.living():
            await it.pass_time(300)
            before = it.heard()
            async with it.readiness.serving(it.watched):
                await it.pass_time(300)
            it.heard()
            await it.pass_time(300)
            after = it.heard()

    assert 9 <= before.count("WATCHDOG=1") <= 11
    assert 9 <= after.count("WATCHDOG=1") <= 11


@pytest.mark.asyncio
async def test_a_long_start_asks_for_more_time(tmp_path: Path) -> None:
    """A migration of minutes is not cut off by the manager's limit for a start; it ends with the start."""
    with trial(tmp_path) as it:
        async with it.readiness.starting():
            await it.pass_time(120)
            during = it.heard()
        await it.pass_time(120)

        assert during.count("EXTEND_TIMEOUT_USEC=30000000") >= 20
        assert "STATUS=starting: opening the queue" in during
        assert it.heard() == ""


@pytest.mark.asyncio
async def test_a_pause_is_seen_in_the_status(tmp_path: Path) -> None:
    """`systemctl status` answers the first question of whoever wonders why nothing goes out."""
    with trial(tmp_path) as it:
        it.is_paused = True
        async with it.readiness.serving(it.watched):
            await turn()
            assert "STATUS=paused: mail is taken, nothing is delivered; 2 messages" in it.heard()


@pytest.mark.asyncio
async def test_an_unchanged_status_is_not_repeated(tmp_path: Path) -> None:
    """An idle relay does not wake its manager."""
    with trial(tmp_path, watchdog_s=0) as it:
        async with it.readiness.living(), it.readiness.serving(it.watched):
            await turn()
            it.heard()
            await it.pass_time(600)
            assert it.heard() == ""


@pytest.mark.asyncio
async def test_what_the_manager_did_not_take_is_said_again(tmp_path: Path) -> None:
    """READY is not lost because the manager's queue was full for a moment."""
    with trial(tmp_path) as it:
        notifier = Notifier(str(tmp_path / "notify"))
        while notifier.tell(WATCHDOG=1):
            pass
        async with it.readiness.living(), it.readiness.serving(it.watched):
            await turn()
            it.heard()
            await it.pass_time(WATCHDOG_S)
            assert "READY=1" in it.heard()
        notifier.close()


def test_a_reload_is_told_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    """`systemctl reload` of a notify-reload unit waits for the end; the time tells one reload from the last."""
    with trial(tmp_path) as it:
        with pytest.raises(StoreError, match="wrong"), it.readiness.reloading():
            raise StoreError("the new file is wrong")
        during, ready = it.heard().split("\nREADY")

    first, at, status = during.split("\n")
    assert first == "RELOADING=1"
    assert at.removeprefix("MONOTONIC_USEC=").isdecimal()
    assert status == "STATUS=reading the configuration anew"
    assert ready == "=1"


def test_stopping_is_told(tmp_path: Path) -> None:
    """The manager knows that the end is meant, and how long it may take."""
    with trial(tmp_path) as it:
        it.readiness.stopping(30)
        assert it.heard() == "STOPPING=1\nSTATUS=stopping: what is under way has 30 s to end"


@pytest.mark.asyncio
async def test_without_a_manager_nothing_is_asked_or_said() -> None:
    """In a shell the store is left in peace."""

    async def never(*_: object) -> Never:
        raise AssertionError("nobody wants to know")

    readiness = readiness_of({}, 1, FakeClock(), CollectingSink())
    watched = Watched(never, never, lambda: None, lambda: False)
    async with readiness.living(), readiness.starting(), readiness.serving(watched):
        with readiness.reloading():
            await turn()
        readiness.stopping(1)
    readiness.close()


@pytest.mark.asyncio
async def test_a_bug_in_telling_is_told_and_does_not_get_the_daemon_killed(tmp_path: Path) -> None:
    """What fails while the queue is looked at is a line of the log; signs of life go on."""
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(str(context["exception"])))
    with trial(tmp_path) as it:
        it.trouble = ZeroDivisionError("a bug")
        async with it.readiness.living(), it.readiness.serving(it.watched):
            await it.pass_time(3 * SILENCE_S)
            assert told == ["a bug"]
            it.heard()
            await it.pass_time(WATCHDOG_S)
            assert "WATCHDOG=1" in it.heard()


def test_the_environment_is_read_once_and_for_this_process_only(tmp_path: Path) -> None:
    """A child must not speak for us; a watchdog for another process is not ours to feed."""
    environ = {"NOTIFY_SOCKET": str(tmp_path), "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8", "HOME": "/"}
    sink = CollectingSink()

    readiness = readiness_of(environ, 7, FakeClock(), sink)

    assert environ == {"HOME": "/"}
    assert readiness._watchdog_s == 0
    assert sink.notes == []
    readiness.close()


def test_an_address_that_is_not_understood_is_a_line_of_the_log() -> None:
    """Mail goes on without a manager that cannot be reached."""
    sink = CollectingSink()

    readiness_of({"NOTIFY_SOCKET": "vsock:2:1"}, 7, FakeClock(), sink).stopping(1)

    assert [note[:2] for note in sink.notes] == [("warning", "service manager not told")]


# The real daemon.


def serve(directory: Path, *arguments: str) -> list[str]:
    place = ("--state-dir", str(directory / "state"), "--hostname", "relay.example.org", "--next-hop", "127.0.0.1:9")
    return [*SERVE, *place, *arguments]


def send(state_dir: Path) -> None:
    command = [sys.executable, "-m", "smarthost", "send", "--state-dir", str(state_dir)]
    addresses = ["--from", "a@example.org", "--to", "b@example.net", "--to", "c@example.net"]
    subprocess.run([*command, *addresses], input=b"Subject: x\n\ny\n", check=True, timeout=30, capture_output=True)


@pytest.mark.slow
def test_the_daemon_tells_its_manager_how_it_is(tmp_path: Path) -> None:
    """Ready, alive twice a second, what is queued, and the end: all that systemd needs to look after it."""
    with managed(tmp_path, serve(tmp_path, "--listen", "127.0.0.1:0"), WATCHDOG_USEC="1000000") as service:
        service.wait_for("READY=1")
        service.wait_for("WATCHDOG=1", times=3)
        send(tmp_path / "state")
        service.wait_for("STATUS=delivering; 1 message for 2 recipients in the queue")
        code, log = service.stop()

    assert code == 0, log
    assert "EXTEND_TIMEOUT_USEC" in "\n".join(service.heard[: service.heard.index(service.wait_for("READY=1"))])
    assert any("STOPPING=1" in each for each in service.heard)
    assert not any("MAINPID" in each for each in service.heard)


@pytest.mark.slow
def test_what_the_watchdog_kills_says_where_it_was(tmp_path: Path) -> None:
    """The watchdog's SIGABRT leaves a trace of each thread in the journal, and a queue that the next start serves."""
    command = serve(tmp_path, "--listen", "127.0.0.1:0")
    with managed(tmp_path, command, WATCHDOG_USEC="60000000") as service:
        service.wait_for("READY=1")
        send(tmp_path / "state")
        service.process.send_signal(signal.SIGABRT)
        code, log = service.ended()
    with managed(tmp_path, command, WATCHDOG_USEC="60000000") as service:
        service.wait_for("STATUS=delivering; 1 message for 2 recipients in the queue")
        next_code, _ = service.stop()

    assert (code, next_code) == (-signal.SIGABRT, 0)
    assert "most recent call first" in log
    assert "daemon.py" in log


@pytest.mark.slow
def test_passed_sockets_serve_from_before_the_start_until_after_the_next(tmp_path: Path) -> None:
    """Clients that come while the service is down are greeted once it is up: no connection is refused at a restart."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    with listening:
        for _ in range(2):
            early = socket.create_connection(("127.0.0.1", port), timeout=30)
            with managed(tmp_path, serve(tmp_path, "--listen", f"127.0.0.1:{port}"), {"smtp": listening}) as service:
                assert early.recv(1000).startswith(b"220 relay.example.org")
                early.close()
                code, log = service.stop()
            assert code == 0, log
            assert "Traceback" not in log


@pytest.mark.slow
def test_a_reload_is_heard_of_and_keeps_passed_sockets(tmp_path: Path) -> None:
    """SIGHUP is told from its beginning to its end, and a listener that is made anew has its socket again."""
    listening = socket.create_server(("127.0.0.1", 0))
    address = listening.getsockname()
    file = tmp_path / "smarthost.toml"
    written = '[[listener]]\nlisten = ["127.0.0.1:2525"]\nrelay_from = ["{}"]\n'
    file.write_text(written.format("127.0.0.0/8"))
    with (
        listening,
        managed(tmp_path, serve(tmp_path, "--config", str(file)), {"smtp": listening}) as service,
    ):
        service.wait_for("READY=1")
        file.write_text(written.format("192.0.2.0/24").replace("127.0.0.1:2525", f"127.0.0.1:{address[1]}"))
        service.process.send_signal(signal.SIGHUP)
        service.wait_for("RELOADING=1\nMONOTONIC_USEC=")
        service.wait_for("READY=1", times=2)
        with smtplib.SMTP(address[0], address[1], timeout=30) as client:
            client.ehlo("client.example")
            client.mail("a@example.org")
            code, text = client.rcpt("b@example.net")
        _, log = service.stop()

    assert code == 550, log
    assert b"127.0.0.1" in text


@pytest.mark.slow
def test_a_socket_by_name_and_an_address_of_ones_own_go_together(tmp_path: Path) -> None:
    """A listener has the socket named smtp and binds by itself what nobody passed."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    with (
        listening,
        managed(tmp_path, serve(tmp_path, "--listen", "127.0.0.2:0"), {"smtp": listening}) as service,
    ):
        service.wait_for("READY=1")
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            assert client.recv(1000).startswith(b"220 ")
        _, log = service.stop()

    assert f'["127.0.0.1",{port}]' in log.replace(" ", "")
    assert '["127.0.0.2",' in log.replace(" ", "")


@pytest.mark.slow
def test_a_leftover_socket_ends_the_start_with_78(tmp_path: Path) -> None:
    """A socket that no listener takes is a mistake in the unit: told with the cure, and not tried again and again."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        managed(tmp_path, serve(tmp_path, "--listen", "127.0.0.2:0"), {"odd": listening}) as service,
    ):
        code, log = service.ended()

    assert code == 78
    assert 'STATUS=cannot start: LISTEN_FDS: nobody takes the passed socket "odd"' in "\n".join(service.heard)
    assert 'smarthost: LISTEN_FDS: nobody takes the passed socket "odd"' in log
    assert "put its address into `listen`" in log
