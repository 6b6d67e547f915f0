# SPDX-License-Identifier: MIT
"""A series of power cuts under one relay and its load, on one image that begins empty; then the comparison.

The image holds the relay's state and nothing else: load, sink, their books and the relay's log lie outside. Which
moments, how many and on what is up to crash.power; what counts as lost is up to crash.ledger.
"""

import enum
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import psutil
from bench.children import Child, Scratch
from bench.failure import RunFailed
from msgspec import Struct

from crash.image import LOG_FLUSH, NO_LOG_FLUSH, Image
from crash.ledger import Comparison
from crash.relay import Books

START_S = 3.0  # at most, until a start touches its lock
COPY_S = 10.0  # at most, until the database is written to, else the cut comes all the same (Postfix has none)
SCATTER_SHARE = 0.5
LOG_FLUSH_SHARE = 0.2
GAP_S = 0.3  # at most, between the cut and the end of the processes: every sync fails in it
DRAIN_S = 60.0
# Messages that may arrive again after a cut: what 20 sessions have with the one host, and what waits for the commit in
# hand. Seen on two busy cores: 34 at most.
IN_FLIGHT = 100
STALLED_S = 60.0  # without an acknowledgement under load
# Many small messages of all kinds; some that fill the database's log, so that it is copied into the database every few
# seconds; and large ones, most of them in files of their own (beyond 128 KiB).
SMALL = ("--sessions", "8", "--pause", "0.004")
MEDIUM = ("--sessions", "2", "--pause", "0.005", "--octets", "60000")
LARGE = ("--sessions", "2", "--pause", "0.02", "--octets", "200000", "--kinds", "ok=3,later=2,no=1,mixed=2")
LOADS = (SMALL, MEDIUM, LARGE)


class System(Protocol):
    """What is crashed: crash.relay.Relay, crash.postfix.Postfix."""

    port: int

    def start(self, *, is_awaited: bool = True) -> None:
        """Start it on its state directory."""

    def kill(self) -> None:
        """SIGKILL to all its processes."""

    def family(self) -> list[psutil.Process]:
        """Give all its processes."""

    def stop(self, timeout_s: float = 60.0) -> int | None:
        """Have it end by itself."""

    def complaint(self) -> str:
        """Give its last words."""


class Moment(enum.Enum):
    """When the power is cut."""

    FIRST = "right after the first acknowledgement of a life, or ever"
    LOAD = "under load"
    START = "during a start, the first one ever or the one after a power cut"
    GAP = "under load, and the processes live on for a moment"
    COPY = "while the database's log is copied into the database"


# Seconds at most, by chance, from when the moment has come until the cut; a start goes on for about so long after it
# has locked the directory.
AT_MOST_S = {Moment.FIRST: 0.0, Moment.LOAD: 0.7, Moment.START: 0.4, Moment.GAP: 0.7, Moment.COPY: 0.03}


class Cut(Struct, frozen=True):
    """One power cut, which took from `began_at` to `at`; seconds of the wall clock."""

    moment: Moment
    began_at: float
    at: float
    killed_at: float
    flag: int


class Result(Struct, frozen=True, kw_only=True):
    """What a series came to. `trouble`: why it is no success, beside what was `found`; "" if all is well.

    `is_cut_short`: it could not go on, so that what was found as lost is only not there yet. `acknowledged_after`:
    heard between a cut and the end of the processes. `most_duplicates`: after one cut. `still_queued`: messages, if
    something is lost: it may be late or stuck instead.
    """

    cuts: tuple[Cut, ...]
    found: Comparison
    acknowledged_after: int
    most_duplicates: int
    trouble: str = ""
    is_cut_short: bool = False
    still_queued: int = 0

    @property
    def failures(self) -> int:
        """Count what must not happen."""
        return (0 if self.is_cut_short else self.found.failures) or bool(self.trouble)


class CutBooks(Books):
    """Books in which what a relay says that outlives its power (GAP) does not count.

    A sync that the ioctl ends early may return success, and did, on both file systems, to a bare loop of fsync; no real
    cut leaves anyone to believe it. What fails rightly after the cut is tried all the same.
    """

    def __init__(self, scratch: Scratch, name: str) -> None:
        super().__init__(scratch, name)
        self.cuts: list[Cut] = []

    def ledger(self) -> list[dict[str, Any]]:
        """Give what the loads wrote down, without what does not count."""
        gaps = [(cut.began_at, cut.killed_at) for cut in self.cuts if cut.moment is Moment.GAP]
        return [
            line
            for line in super().ledger()
            if line["event"] != "acknowledged" or not any(began <= line["at"] <= ended for began, ended in gaps)
        ]

    def heard_after_cuts(self) -> int:
        """Count what was acknowledged between a cut and the end of the processes, counted or not."""
        return sum(
            line["event"] == "acknowledged" and any(cut.at < line["at"] <= cut.killed_at for cut in self.cuts)
            for line in super().ledger()
        )


class Series:
    """One image, one relay, one pair of books."""

    def __init__(
        self,
        scratch: Scratch,
        name: str,
        kind: str,
        seed: int,
        make: Callable[[Path, int], System],
    ) -> None:
        """Make and mount the image; `make` gives the relay for a state directory and the sink's port."""
        self._chance = random.Random(f"{name}.{seed}")
        self._seed = seed
        self.image = Image(scratch, name, kind)
        self.image.mount()
        self.books = CutBooks(scratch, name)
        # Below a directory that is not there yet: making it is the relay's business, and so is making it durable.
        self._state = self.image.path / "spool" / "state"
        self.system = make(self._state, self.books.sink_port)
        self.cuts = self.books.cuts
        self._is_running = False
        self._loads: list[Child] = []

    def start(self, *, is_awaited: bool = True) -> None:
        """Start the relay, if it does not run. Raises: RunFailed."""
        if not self._is_running:
            self._is_running = True
            self.system.start(is_awaited=is_awaited)

    def load(self) -> None:
        """Start the loads; they go on through all cuts."""
        for number, words in enumerate(LOADS):
            self._loads.append(self.books.load(self.system.port, len(LOADS) * self._seed + number, *words))

    def cut(self, moment: Moment, *, flag: int | None = None) -> None:
        """Start the relay if need be, cut the power at the moment, end all processes, and mount again."""
        chance = self._chance
        if moment is Moment.START:
            touched = self._touches("lock", "data/master.lock")
            self.start(is_awaited=False)
            self._await_touch(touched, START_S)
        else:
            before = self.books.acknowledged()
            self.start()
            self.await_acknowledged(before + 1)
            if moment is Moment.COPY:
                self._await_touch(self._touches("queue.db"), COPY_S)
        time.sleep(chance.uniform(0, AT_MOST_S[moment]))
        if chance.random() < SCATTER_SHARE:
            self.image.scatter(self._state, chance)
        if flag is None:
            flag = LOG_FLUSH if chance.random() < LOG_FLUSH_SHARE else NO_LOG_FLUSH
        if moment is not Moment.GAP:
            self._freeze()
        began_at = time.time()
        self.image.cut(flag)
        at = time.time()
        if moment is Moment.GAP:
            time.sleep(chance.uniform(0, GAP_S))
        self.system.kill()
        self._is_running = False
        self.cuts.append(Cut(moment, began_at, at, time.time(), flag))
        self.image.unmount()
        self.image.mount()

    def _freeze(self) -> None:
        """Stop all processes as the power does: a sync that the ioctl ends early must not come back and be believed."""
        for process in self.system.family():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def _touches(self, *names: str) -> dict[Path, int]:
        """Give when these files of the state directory were last written to; 0 for what is not there."""
        return {path: _touched_at(path) for path in (self._state / name for name in names)}

    def _await_touch(self, touches: dict[Path, int], timeout_s: float) -> None:
        """Wait until one of the files is written to, or time is up."""
        deadline = time.monotonic() + timeout_s
        while all(_touched_at(path) == at for path, at in touches.items()) and time.monotonic() < deadline:
            time.sleep(0.0002)

    def await_acknowledged(self, n: int) -> None:
        """Wait until the loads have heard so many 250s. Raises: RunFailed: it takes too long."""
        deadline = time.monotonic() + STALLED_S
        while self.books.acknowledged() < n:
            if time.monotonic() > deadline:
                raise RunFailed(f"nothing was acknowledged for {STALLED_S:.0f} s: {self.system.complaint()}")
            time.sleep(0.005)

    def end_loads(self) -> None:
        """Have the loads end, each session after its message."""
        while self._loads:
            self._loads.pop().stop(40)

    def close(self) -> None:
        """End whatever runs, and unmount."""
        self.end_loads()
        if self._is_running:
            self.system.kill()
        self.books.close()
        self.image.unmount()

    def result(self, found: Comparison, cut_short: str = "", still_queued: int = 0) -> Result:
        """Sum up; `cut_short`: why it could not go on."""
        per_cut, unexplained = repeats(self.books.arrived(), self.cuts)
        most = max(per_cut, default=0)
        trouble = cut_short
        if not trouble and unexplained:
            trouble = f"{len(unexplained)} arrived twice without a cut in between, {unexplained[0]} first"
        if not trouble and most > IN_FLIGHT:
            trouble = f"{most} arrived again after one cut, more than the {IN_FLIGHT} that can be in flight"
        return Result(
            cuts=tuple(self.cuts),
            found=found,
            acknowledged_after=self.books.heard_after_cuts(),
            most_duplicates=most,
            trouble=trouble,
            is_cut_short=bool(cut_short),
            still_queued=still_queued,
        )

    def tell(self, found: Comparison) -> None:
        """Write what is known of the first losses to stderr, for whoever looks for the cause."""
        ledger = {line["token"]: line for line in self.books.ledger() if line["event"] == "acknowledged"}
        for cut in self.cuts:
            print(f"cut {cut.moment.name} at {cut.at:.3f}, killed at {cut.killed_at:.3f}", file=sys.stderr)
        for address in found.lost[:20]:
            line = ledger[address.split(".")[1]]
            print(f"lost {address} acknowledged at {line['at']:.3f}, {line['octets']} octets", file=sys.stderr)


def _touched_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def repeats(arrived: Iterable[dict[str, Any]], cuts: Sequence[Cut]) -> tuple[list[int], list[str]]:
    """Count what arrived again by the cut that lies between, and name what arrived again without one.

    An arrival is an address, or a report by its Message-ID.
    """
    last: dict[str, float] = {}
    per_cut = [0] * len(cuts)
    unexplained = []
    for line in arrived:
        at: float = line["at"]
        for name in line["to"] if "token" in line else [f"report {line['id']}"]:
            if name in last:
                between = [n for n, cut in enumerate(cuts) if last[name] <= cut.killed_at <= at]
                if between:
                    per_cut[between[0]] += 1
                else:
                    unexplained.append(name)
            last[name] = at
    return per_cut, unexplained
