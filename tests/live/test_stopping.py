# SPDX-License-Identifier: MIT
"""SIGTERM at the real daemon, whatever it is doing: exit 0 within the bound, and nothing in a state nobody knows."""

import fcntl
import os
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import psutil
import pytest
from tests.live.content import KINDS, large
from tests.live.raw import RawClient
from tests.live.rig import HOSTNAME, SMARTHOST, Daemon, assert_unlocked, eventually, serving
from tests.live.sink import Sink

from smarthost.backends.sqlite import database

pytestmark = pytest.mark.slow

BOUND_S = 35.0  # ops/daemon.GRACE_S, what the last commit takes, and a busy machine


@contextmanager
def _slow_host() -> Iterator[tuple[int, threading.Event]]:
    """A host that takes the final dot and says nothing before the event is set; gives its port and the event."""
    with Sink() as sink:
        may_answer = threading.Event()

        def wait(content: bytes) -> bytes | None:
            may_answer.wait(60)
            return None

        sink.answers[b"."] = wait
        try:
            yield sink.port, may_answer
        finally:
            may_answer.set()


def _rows(state: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"file:{state / 'queue.db'}?mode=ro", uri=True)) as db:
        return db.execute(sql).fetchall()


def _records(state: Path) -> list[tuple[object, object]]:
    tables = [name for (name,) in _rows(state, "SELECT name FROM sqlite_schema WHERE name GLOB 'record_[0-9]*'")]
    found = []
    for table in tables:
        select = f"SELECT body ->> 'recipient', body ->> 'kind' FROM {table}"
        found += [(row[0], row[1]) for row in _rows(state, select)]
    return found


def _stop(daemon: Daemon, which: signal.Signals = signal.SIGTERM) -> float:
    """Send the signal, and give how long the end took; nothing of the daemon may be left."""
    family = psutil.Process(daemon.process.pid).children(recursive=True)
    began = time.monotonic()
    daemon.process.send_signal(which)
    code = daemon.process.wait(BOUND_S + 20)
    took_s = time.monotonic() - began
    _, alive = psutil.wait_procs(family, timeout=10)
    assert (code, alive) == (0, []), daemon.told()
    assert not (daemon.state_dir / "control").exists()
    assert not list((daemon.state_dir / "content").glob("*.draft"))
    assert_unlocked(daemon.state_dir)
    return took_s


def test_sigterm_with_mail_in_every_state_leaves_each_recipient_known(tmp_path: Path) -> None:
    """Being received, in a slow host's hands, deferred, owed a report, just committed: each ends recorded or due."""
    config = '[retry]\nfirst = "1h"\n'
    for name in ("slow", "later", "no"):
        config += f'[[route]]\ndomains = ["{name}.example"]\nnext_hop = {{ host = "127.0.0.1", port = {{{name}}} }}\n'
    with (
        _slow_host() as (slow, may_answer),
        Sink(answers={b"RCPT": lambda argument: b"451 4.3.0 Later"}) as later,
        Sink(answers={b"RCPT": lambda argument: b"550 5.1.1 No"}) as no,
    ):
        config = config.replace("{slow}", str(slow)).replace("{later}", str(later.port)).replace("{no}", str(no.port))
        state = tmp_path / "state"
        with (
            serving(state, "--next-hop", "127.0.0.1:1", config=config, quick=False) as daemon,
            RawClient(daemon.port) as client,
            RawClient(daemon.port) as half,
            RawClient(daemon.port) as file,
            RawClient(daemon.port) as crowd,
        ):
            acknowledged = []
            for recipient in ("a@slow.example", "b@later.example", "c@refused.example"):
                client.send(KINDS["short"], recipient)
                acknowledged.append(recipient)
            daemon.line("deferred", recipient="b@later.example")
            half.begin("half@later.example")
            half.socket.sendall(b"Subject: half\r\n")
            file.begin("file@later.example")
            file.socket.sendall(large(1 << 20))
            eventually(lambda: list((state / "content").glob("*.draft")), "a draft")
            client.send(KINDS["short"], "d@no.example", sender="ann@later.example")
            for n in range(30):
                crowd.send(KINDS["short"], f"e{n}@later.example")
                acknowledged.append(f"e{n}@later.example")
            threading.Timer(2.0, may_answer.set).start()
            took_s = _stop(daemon)

    assert took_s < BOUND_S
    records = _records(state)
    left = {
        str(address): (str(kind), float(str(due)))
        for address, kind, due in _rows(state, "SELECT address, state, due FROM recipient")
    }
    assert ("a@slow.example", "relayed") in records, "an attempt under way ended"
    for recipient in acknowledged:
        if (recipient, "relayed") not in records:
            assert left[recipient][0] == "deferred", recipient
            assert left[recipient][1] > 1.6e9, "it has a due time"
    assert ("d@no.example", "bounced") in records or left["d@no.example"][0] == "deferred"
    owed = _rows(state, "SELECT address FROM recipient WHERE owed_at IS NOT NULL")
    assert owed == [("d@no.example",)] or ("d@no.example", "reported") in records or "d@no.example" in left
    assert "half@later.example" not in left, "it was never acknowledged"
    assert "file@later.example" not in left
    assert list((state / "content").iterdir()) == []


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_idle_daemon_stops_at_once(tmp_path: Path, which: signal.Signals) -> None:
    """Nobody waits for a daemon that has nothing to do, paused or not."""
    with serving(tmp_path / "state", "--next-hop", "127.0.0.1:1", "--paused") as daemon, RawClient(daemon.port) as idle:
        took_s = _stop(daemon, which)
        assert idle.reply().startswith("421 4.3.2")

    assert took_s < 10


def test_second_sigterm_ends_at_once_and_loses_nothing(tmp_path: Path) -> None:
    """An operator in a hurry ends it in the middle of the drain; the next start finds all that was acknowledged."""
    with _slow_host() as (slow, _), serving(tmp_path / "state", "--next-hop", f"127.0.0.1:{slow}") as daemon:
        with RawClient(daemon.port) as client:
            client.send(KINDS["short"], "bob@example.net")
        daemon.process.send_signal(signal.SIGTERM)
        daemon.line("stopping")
        time.sleep(0.1)  # until the default action is back; it is set before that line
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(10) == -signal.SIGTERM
    with serving(tmp_path / "state", "--next-hop", "127.0.0.1:1", "--paused") as daemon:
        assert [each["recipients"][0]["address"] for each in daemon.queue()] == ["bob@example.net"]


def _starting(state: Path, *arguments: str) -> Daemon:
    """Start a daemon without waiting until it is ready."""
    return Daemon(state, "--next-hop", "127.0.0.1:1", *arguments)


def test_sigterm_while_it_waits_for_the_lock_ends_the_start(tmp_path: Path) -> None:
    """A start that is not through yet is given up as if it had never begun."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    fd = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o600)  # of the child of a daemon that was killed
    fcntl.flock(fd, fcntl.LOCK_EX)
    daemon = _starting(state, "--relay-from", "0.0.0.0/0")
    try:
        daemon.line("open relay: everyone may send mail through this host")
        daemon.process.send_signal(signal.SIGTERM)
        code = daemon.process.wait(10)
    finally:
        os.close(fd)
        daemon.kill()

    assert code == 0
    assert [line["what"] for line in daemon.lines][-2:] == ["stopping", "stopped"]
    assert_unlocked(state)
    assert not (state / "queue.db").exists()


def test_sigterm_during_a_migration_leaves_the_old_queue_and_the_next_start_migrates(tmp_path: Path) -> None:
    """An upgrade that takes too long can be called off: the old queue is whole, nothing runs on, it may begin again."""
    state = tmp_path / "state"
    with serving(state, "--next-hop", "127.0.0.1:1", "--paused") as daemon, RawClient(daemon.port) as client:
        for n in range(5):
            client.send(KINDS["short"], f"r{n}@example.net")
    _make_old(state / "queue.db")
    before = _rows(state, "SELECT message, n, address, state, due FROM recipient ORDER BY message, n")
    daemon = _starting(state)
    try:
        daemon.line("queue changed at the start")  # the first of two: it is being copied
        family = psutil.Process(daemon.process.pid).children(recursive=True)
        daemon.process.send_signal(signal.SIGTERM)
        code = daemon.process.wait(20)
        _, alive = psutil.wait_procs(family, timeout=20)
    finally:
        daemon.kill()

    assert (code, alive) == (0, [])
    assert _rows(state, "SELECT message, n, address, state, due FROM recipient ORDER BY message, n") == before
    assert _rows(state, "PRAGMA integrity_check") == [("ok",)]
    assert_unlocked(state)
    with serving(state, "--next-hop", "127.0.0.1:1") as again:
        assert "as it was before" in again.some_lines(2, "queue changed at the start")[1]["why"]
        assert again.line("ready")["paused"] is True
        assert len(again.queue()) == 5
    assert not list(state.glob("*.part*"))
    assert 1 <= len(list(state.glob("queue.db.schema3-*Z"))) <= 2


def _make_old(path: Path) -> None:
    """Take a queue back to schema 3, and make it large enough for its copy to take a while."""
    db = apsw.Connection(str(path))
    for table, column in (("message", "checksum"), ("message", "recipients"), ("recipient", "checksum")):
        db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    db.execute("UPDATE migration SET version = 3")
    db.execute("CREATE TABLE ballast (octets BLOB)")
    with db:
        for _ in range(60):
            db.execute("INSERT INTO ballast VALUES (zeroblob(1 << 20))")
    assert db.pragma("user_version") == database.compatible_with(database.SCHEMA_VERSION) == 3
    db.close()


def test_sigterm_before_anything_is_open_leaves_nothing(tmp_path: Path) -> None:
    """Killed at any moment of its first second, a start leaves a directory that the next start takes."""
    state = tmp_path / "state"
    command = [*SMARTHOST, "serve", "--state-dir", str(state), "--hostname", HOSTNAME, "--next-hop", "127.0.0.1:1"]
    for n in range(8):
        with subprocess.Popen([*command, "--listen", "127.0.0.1:0"], stderr=subprocess.PIPE) as process:
            time.sleep(0.1 * n)
            family = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) in (0, -signal.SIGTERM)  # the latter: before it could hear of it
            _, alive = psutil.wait_procs(family, timeout=20)
            assert not alive
    with serving(state, "--next-hop", "127.0.0.1:1") as daemon:
        assert daemon.queue() == []


def test_silent_client_in_a_transaction_holds_up_no_more_than_the_bound(tmp_path: Path) -> None:
    """Who stops in the middle of a message is waited for, then dropped; its message was never acknowledged."""
    with (
        serving(tmp_path / "state", "--next-hop", "127.0.0.1:1", "--paused") as daemon,
        RawClient(daemon.port) as client,
    ):
        client.begin("half@example.net")
        client.socket.sendall(b"Subject: half\r\n")
        took_s = _stop(daemon)
        client.socket.settimeout(5)
        with pytest.raises((AssertionError, ConnectionError, socket.timeout)):
            assert client.reply().startswith("250")

    assert took_s < BOUND_S
    assert _rows(tmp_path / "state", "SELECT count(*) FROM message") == [(0,)]
