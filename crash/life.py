# SPDX-License-Identifier: MIT
"""One life of a relay from an empty directory on: accept, deliver, retry, bounce, cancel, stop, start again, and judge.

The mail is the same in each life: small messages inline and a large one in a file, recipients that are taken, deferred
once, refused (so a report follows), and one that would wait for ever and is cancelled. What a crash or an error does to
it shows in the books and, after the last stop, in the database and the directory of contents. Injects nothing itself.
"""

import contextlib
import hashlib
import json
import os
import random
import select
import shutil
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.children import Scratch
from bench.failure import RunFailed

from crash.ledger import OPEN_KINDS, Comparison, compare, kind_of, read_lines
from crash.load import Ledger, Refused, Session, make_content
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
# A delivery that the sink wrote down so long before a crash was settled before it; a busy machine is slow.
WINDOW_S = 3.0
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
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


class Life:
    """A relay, its state directory and its books. `sink` is shared with other lives: tokens begin with `name`."""

    def __init__(self, scratch: Scratch, books: Books, name: str, seed: int) -> None:
        self.name = name
        self.scratch = scratch
        self.home = scratch.directory(f"life-{name}")
        self.relay = Relay(scratch, self.home / "state", books.sink_port)
        self.ledger = Ledger(str(self.home / "ledger.jsonl"))
        self.codes: Counter[str] = Counter()
        self.wrong: list[str] = []  # what must not be, in sentences
        self.cancelled = False
        self.crashes: list[float] = []
        self._chance = random.Random(seed)
        self._log = books.log_file
        self._skipped = self._log.stat().st_size if self._log.exists() else 0
        self._number = 0

    # -- mail ---------------------------------------------------------------------------------------------------------

    def send(self, kinds: tuple[str, ...], octets: int) -> str:
        """Send one message in a session of its own; give the code of the reply, "" if the connection died first."""
        token = f"{self.name}{self._number:03d}"
        self._number += 1
        content = make_content(token, octets, self._chance)
        recipients = [f"{kind}.{token}.{n}@crash.test" for n, kind in enumerate(kinds)]
        sender = f"sender.{token}@crash.test"
        reply = ""
        try:
            session = Session("127.0.0.1", self.relay.port)
            try:
                reply = session.send(token, sender, recipients, content, self.ledger)
            finally:
                session.close()
        except Refused as refused:
            reply = str(refused)
            self.ledger.write(token, "refused", reply=reply)
        except OSError as error:
            self.ledger.write(token, "unknown", why=str(error))
        else:
            facts = {"octets": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            self.ledger.write(token, "acknowledged", reply=reply, sender=sender, recipients=recipients, **facts)
        self.codes[reply[:9]] += 1
        if reply.startswith("5"):
            self.wrong.append(f"a local failure was answered with {reply}")
        return reply

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
        for each in self._promised("never"):
            answer = self.relay.command("queue", "cancel", "--to", each)
            self.cancelled = self.cancelled or (answer.returncode == 0 and b"1 recipient cancelled" in answer.stdout)

    def _promised(self, kind: str) -> list[str]:
        lines = read_lines(self.home / "ledger.jsonl")
        return [each for line in lines for each in line.get("recipients", ()) if kind_of(each) == kind]

    @staticmethod
    def await_(is_so: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until it is so, or time is up."""
        deadline = time.monotonic() + timeout_s
        while not is_so():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.03)
        return True

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

    def arrived(self) -> list[dict[str, Any]]:
        """Give what arrived at the sink in this life."""
        with self._log.open("rb") as file:
            file.seek(self._skipped)
            return [json.loads(line) for line in file.read().split(b"\n")[:-1]]

    def compare(self) -> Comparison:
        """Compare the books."""
        return compare(read_lines(self.home / "ledger.jsonl"), self.arrived())

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
        self._judge(found)
        self._inspect(is_empty=not left)
        return found

    def _judge(self, found: Comparison) -> None:
        for what, which in (
            ("lost", found.lost), ("altered", found.altered), ("foreign", found.foreign),
            ("reported twice", found.doubled_reports),
        ):  # fmt: skip
            if which:
                self.wrong.append(f"{what}: {', '.join(which)}")
        came: dict[str, list[float]] = {}
        for line in self.arrived():
            for address in line["to"]:
                came.setdefault(address, []).append(line["at"])
        for address, times in came.items():
            if len(times) - 1 > len(self.crashes):
                self.wrong.append(f"{address} came {len(times)} times for {len(self.crashes)} crashes")
            elif len(times) > 1 and not any(-1.0 < crash - times[0] < WINDOW_S for crash in self.crashes):
                self.wrong.append(f"{address} came again although its delivery was {WINDOW_S:.0f} s old at the crash")

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

    def close(self) -> None:
        """End everything and forget its files, unless something was wrong."""
        with contextlib.suppress(AssertionError):
            self.relay.kill()
        self.ledger.close()
        if not self.wrong:
            shutil.rmtree(self.home, ignore_errors=True)
