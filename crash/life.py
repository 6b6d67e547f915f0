# SPDX-License-Identifier: MIT
"""One life of a relay from an empty directory on: accept, deliver, retry, bounce, cancel, stop, start again, and judge.

The mail is the same in each life: small messages inline and a large one in a file, recipients that are taken, deferred
once, refused (so a report follows), and one that would wait for ever and is cancelled. What a crash or an error does to
it shows in the books and, after the last stop, in the database and the directory of contents. Injects nothing itself.
"""

import contextlib
import os
import select
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bench.children import Scratch
from bench.failure import RunFailed

from crash.ledger import OPEN_KINDS, Comparison, kind_of
from crash.mailing import Mailing
from crash.relay import Books, Relay

PHASES = ("start", "work", "again", "recover")  # the first start; all that follows; after a stop; after a kill -9
# What is sent in "work", in this order: kinds of recipients, octets.
MAIL = (
    (("ok",), 2_000),
    (("ok", "later", "no"), 4_000),
    (("never",), 1_000),
    (("ok",), 300_000),  # more than fits inline: a file
    (("later",), 1_500),
)
RETRIED_S = 8.0  # a deferred message is tried again after one second
DRAINED_S = 30.0
ENDED_S = 40.0  # SIGTERM drains for 30 s at most
KILL_TOLD_S = 2.0  # until strace has written down who was killed, on a busy machine


class Watch:
    """Notices at once when a process of a relay is killed; on `is_whole` the rest of the family is killed then, too.

    `is_killed`: was it a kill, and no orderly end? Asked only after `expect_end`.
    """

    def __init__(self, relay: Relay, *, is_whole: bool, is_killed: Callable[[], bool]) -> None:
        self.died_at = 0.0  # wall clock
        self.who = ""  # "daemon" or "store"
        self._is_whole = is_whole
        self._is_killed = is_killed
        self._is_end_expected = False
        self._is_done = threading.Event()
        self._daemon = relay.pid
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        alive: dict[int, tuple[int, str]] = {}  # descriptor -> pid, who
        known: set[int] = set()
        while not self._is_done.is_set() and not self.who:
            for pid, who in ((self._daemon, "daemon"), *((child, "store") for child in _children(self._daemon))):
                if pid not in known:
                    known.add(pid)
                    with contextlib.suppress(OSError):
                        alive[os.pidfd_open(pid)] = (pid, who)
            poll = select.poll()
            for fd in alive:
                poll.register(fd, select.POLLIN)
            for fd, _ in poll.poll(5):
                _, who = alive.pop(fd)
                os.close(fd)
                if self._is_done.is_set() or (self._is_end_expected and not self._was_killed()):
                    continue
                self.died_at = time.time()
                if self._is_whole:
                    for pid, _ in alive.values():
                        with contextlib.suppress(OSError):
                            os.kill(pid, signal.SIGKILL)
                self.who = who
                break
        for fd in alive:
            os.close(fd)

    def _was_killed(self) -> bool:
        deadline = time.monotonic() + KILL_TOLD_S  # strace hears of it at the same time, and writes it down then
        while not self._is_killed():
            if time.monotonic() > deadline or self._is_done.is_set():
                return self._is_killed()
            time.sleep(0.001)
        return True

    def expect_end(self) -> None:
        """Processes end in good order from now on, unless they are killed."""
        self._is_end_expected = True

    def end(self) -> None:
        """Look no longer."""
        self._is_done.set()
        self._thread.join()


def _children(pid: int) -> list[int]:
    """Give the store's process; strace has a child of ours for a moment, whose end is nobody's."""
    found = []
    with contextlib.suppress(OSError):
        for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{each}/comm").read_text().strip() != "strace":
                    found.append(int(each))
    return found


class Life(Mailing):
    """A relay, its state directory and its mail."""

    def __init__(self, scratch: Scratch, books: Books, name: str, seed: int) -> None:
        super().__init__(scratch, books, name, seed)
        self.relay = Relay(scratch, self.home / "state", books.sink_port)
        self.cancelled = False

    # -- mail ---------------------------------------------------------------------------------------------------------

    def send(self, kinds: tuple[str, ...], octets: int) -> str:
        """Send one message; give the code of the reply, "" if the connection died first."""
        return self.send_to(self.relay.port, kinds, octets)

    def work(self, is_over: Callable[[], bool]) -> None:
        """Send the mail, cancel what waits for ever, await retries, leave one deferred; ends early if it is over."""
        for kinds, octets in MAIL:
            if is_over():
                return
            self.send(kinds, octets)
        if not is_over():
            self.cancel()
        self.await_(lambda: is_over() or not self.compare().lost, RETRIED_S)
        if not is_over():
            self.send(("later",), 1_000)

    def cancel(self) -> None:
        """Cancel what would wait for ever, as an operator does."""
        for each in self.promised("never"):
            answer = self.relay.command("queue", "cancel", "--to", each)
            self.cancelled = self.cancelled or (answer.returncode == 0 and b"1 recipient cancelled" in answer.stdout)

    # -- the relay ----------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """kill -9 to all of it; what was under way may come twice."""
        self.crashes.append(time.time())
        self.relay.kill()

    def stop(self) -> None:
        """Stop in good order."""
        code = self.relay.stop(ENDED_S)
        if code != 0:
            self.wrong.append(f"SIGTERM ended it with {code}: {self.relay.complaint()}")

    def is_greeting(self, is_over: Callable[[], bool]) -> bool:
        """Wait until it is ready, or it is over."""
        self.await_(lambda: is_over() or self.relay.is_ready() or self.relay.exit_code is not None, DRAINED_S)
        return self.relay.is_ready()

    # -- judgement ----------------------------------------------------------------------------------------------------

    def finish(self) -> Comparison:
        """Start once more without any trouble, drain, stop, judge; `wrong` says what must not be. Raises: RunFailed."""
        self.relay.wrapper = ()
        self.relay.start()
        return self.drain()

    def drain(self, patience_s: float | None = None) -> Comparison:
        """As `finish`, for a relay that runs."""
        patience_s = patience_s or DRAINED_S
        if not self.await_(lambda: not self.compare().lost, patience_s):
            self.wrong.append(f"not there after {patience_s:.0f} s: {', '.join(self.compare().lost)}")
        if not self.cancelled:
            self.cancel()
        left: list[str] = []

        def is_empty() -> bool:
            nonlocal left
            try:
                left = [each["address"] for message in self.relay.queued() for each in message["recipients"]]
            except RunFailed as failed:
                left = [str(failed)]
            return all(kind_of(each) in OPEN_KINDS for each in left)

        if not self.await_(is_empty, patience_s):
            self.wrong.append(f"still queued: {left}")
        if left and self.cancelled:
            self.wrong.append(f"cancelled, and queued again: {left}")
        self.stop()
        found = self.compare()
        self.judge(found)
        self._inspect(is_empty=not left)
        return found

    def _inspect(self, *, is_empty: bool) -> None:
        """Look at a copy of the database with another SQLite than the relay's."""
        copy = self.home / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.relay.state, copy, ignore=shutil.ignore_patterns("control*"))
        with contextlib.closing(sqlite3.connect(copy / "queue.db")) as db:
            for (line,) in db.execute("PRAGMA integrity_check").fetchall():
                if line != "ok":
                    self.wrong.append(f"integrity_check: {line}")
            for table in ("message", "content", "recipient"):
                n = db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                if n and is_empty:
                    self.wrong.append(f"{n} rows of {table} in an empty queue")
            files = [each.name for each in (copy / "content").iterdir()]
            if files and is_empty:
                self.wrong.append(f"contents of no message: {', '.join(files)}")

    def end(self) -> None:
        """Kill it."""
        self.relay.kill()
