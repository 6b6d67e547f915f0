# SPDX-License-Identifier: MIT
"""Random kill -9 while mail comes in, goes out, is deferred and bounces: what was acknowledged arrives all the same.

Every experiment is one state directory, one sink, and a load that goes on while the daemon is killed and started again;
every 25 rounds, and at the end, the load pauses, the queue drains and the books are compared. `all`: all processes die
at one moment. `parent`: the store's process finishes its batch, every third time so slowly that the next start has to
wait for its lock. `child`: only the store's process dies, and the daemon goes on. `start`: then one to three starts are
killed as well. For Postfix, `all` alone: it has no other. What was in flight is found out by crash.window.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import psutil
from bench.children import Child, Scratch
from bench.failure import RunFailed

from crash.figures import Figure
from crash.ledger import Comparison
from crash.options import Options
from crash.postfix import Postfix, missing_for_postfix
from crash.relay import Books, Relay, await_drained
from crash.window import Crash, Windows, find_windows, read_unfinished

SESSIONS = 20  # with one next hop (the default of both): each has at most one message between its dot and its 250
BATCH = 512  # smarthost's BATCH_ITEMS: what one commit may hold, of which each may be a settlement that was heard
# What may come twice after one crash. While the child lives on, no verdict that was heard is forgotten.
BOUNDS = {"all": SESSIONS + BATCH, "parent": SESSIONS + BATCH, "child": 0, "start": SESSIONS + BATCH}
ROUNDS = {"all": (2, 100), "parent": (2, 100), "child": (1, 20), "start": (1, 30)}  # quick, long
POSTFIX_ROUNDS = (2, 50)
ROUNDS_A_DRAIN = 25
KILL_WITHIN_S = 2.0  # after it greets; in the quick form half of it
QUICK_WITHIN_S = 1.0
# The second load's messages are beyond 64 KiB, more than smarthost keeps in its database: they are files.
LOADS = (
    ("--sessions", "14", "--octets", "5120", "--pause", "0.02"),
    ("--sessions", "2", "--octets", "150000", "--pause", "0.05"),
)
SINK_DELAY_S = 0.01  # between dot and reply, so that crashes fall there
BEGIN_S = 30.0
DRAIN_S = 120.0
POSTFIX_DRAIN_S = 15.0  # it is only told of, and what it has not sent by then it sends when its own time has come
ENDING_S = 30.0  # for the store's process to end by itself; it has one batch in hand


class System(Protocol):
    """What crash.relay.Relay and crash.postfix.Postfix have in common."""

    port: int
    state: Path

    def start(self, *, is_awaited: bool = True) -> None:
        """Start."""

    def kill(self) -> None:
        """Kill all its processes."""

    def stop(self, timeout_s: float = 60.0) -> int | None:
        """End it in good order."""

    def complaint(self) -> str:
        """Give its last words."""

    def family(self) -> list[psutil.Process]:
        """Give its processes."""

    @property
    def exit_code(self) -> int | None:
        """Give how it ended."""


class Trial:
    """One system through many crashes on one state directory, with its books."""

    def __init__(self, scratch: Scratch, name: str, seed: int, make: Callable[[int], System], looks: bool) -> None:
        self.scratch = scratch
        self.name = name
        self.chance = random.Random(f"{name}.{seed}")
        self.books = Books(scratch, name, delay_s=SINK_DELAY_S)
        self.system = make(self.books.sink_port)
        self.crashes: list[Crash] = []
        self.kills = 0
        self.boot_s = 1.0
        self._looks = looks  # into the store, after each crash
        self._seed = seed
        self._loads: list[Child] = []

    def run(self, rounds: int, within_s: float, crash: "Callable[[Trial], None]") -> None:
        """Crash so often, each time within so many seconds, and drain now and then. Raises: RunFailed."""
        self.system.start()
        for first in range(0, rounds, ROUNDS_A_DRAIN):
            self._begin_load(first)
            for _ in range(first, min(first + ROUNDS_A_DRAIN, rounds)):
                self.wait(within_s)
                self._must_run()
                crash(self)
            self.wait(within_s / 2)
            self._end_load()
            patience_s = DRAIN_S if self._looks else POSTFIX_DRAIN_S
            found = await_drained(self.books, patience_s, lambda: self.system.exit_code is None)
            print(f"{self.name}: {self.kills} kills, {_sum_up(found)}", file=sys.stderr, flush=True)
            self._must_run()
            if found.failures and self._looks:
                return  # of Postfix it is only told

    def _begin_load(self, number: int) -> None:
        before = self.books.acknowledged()
        self._loads = [
            self.books.load(self.system.port, self._seed + number + 1000 * n, *words) for n, words in enumerate(LOADS)
        ]
        deadline = time.monotonic() + BEGIN_S
        while self.books.acknowledged() == before:
            if time.monotonic() > deadline:
                raise RunFailed(f"nothing was acknowledged within {BEGIN_S:.0f} s: {self.system.complaint()}")
            time.sleep(0.05)

    def _end_load(self) -> None:
        for load in self._loads:
            if (code := load.stop(60)) != 0:
                raise RunFailed(f"the load ended with {code}: {load.complaint()}")

    def _must_run(self) -> None:
        code = self.system.exit_code
        if code is not None:
            raise RunFailed(f"it ended by itself with {code}: {self.system.complaint()}")

    def wait(self, most_s: float) -> None:
        """Let some time go by, at most so much."""
        time.sleep(self.chance.uniform(0.0, most_s))

    def start_again(self, *, is_awaited: bool = True) -> None:
        """Note what the crash left, and start."""
        unfinished = None
        if self._looks:
            unfinished = read_unfinished(self.system.state, self.scratch.path / f"{self.name}-copy")
        _let_read(self.books.sink_port)
        self.crashes.append(Crash(time.time(), unfinished))
        begun = time.monotonic()
        self.system.start(is_awaited=is_awaited)
        if is_awaited:
            self.boot_s = time.monotonic() - begun

    def windows(self) -> Windows:
        """Say what was in flight and what came twice."""
        return find_windows(self.books.arrived(), self.crashes)


def kill_all(trial: Trial) -> None:
    """End all processes within microseconds, in any order, and start again."""
    pids = [process.pid for process in trial.system.family()]
    trial.chance.shuffle(pids)
    _kill(trial, *pids)
    trial.system.kill()
    trial.start_again()


def kill_group(trial: Trial) -> None:
    """End all of Postfix, which is one process group, and start again."""
    trial.kills += 1
    trial.system.kill()
    trial.start_again()


def kill_parent(trial: Trial) -> None:
    """End the daemon alone: what it has handed to the store's process may still become durable."""
    daemon, *store = [process.pid for process in trial.system.family()]
    is_slow = trial.kills % 3 == 1
    slowed = [_freeze(pid, trial.chance.uniform(0.5, 1.5)) for pid in store] if is_slow else []
    _kill(trial, daemon)
    trial.system.kill()
    if not is_slow:
        _await_gone(store)
    trial.start_again()
    for shell in slowed:
        shell.wait(10)
    _await_gone(store)


def kill_child(trial: Trial) -> None:
    """End the store's process alone; the daemon has to open its store again and go on."""
    deadline = time.monotonic() + ENDING_S
    while not (store := trial.system.family()[1:]):
        if time.monotonic() > deadline:
            raise RunFailed(f"the daemon did not start the store's process again: {trial.system.complaint()}")
        time.sleep(0.01)
    _kill(trial, *(process.pid for process in store))


def kill_start(trial: Trial) -> None:
    """End all or only the daemon, and then one to three starts as well, each at any moment until it would be ready."""
    family = [process.pid for process in trial.system.family()]
    _kill(trial, *family[: trial.chance.choice((1, len(family)))])
    trial.system.kill()
    _await_gone(family)
    for _ in range(trial.chance.randint(1, 3)):
        trial.start_again(is_awaited=False)
        trial.wait(trial.boot_s)
        family = [process.pid for process in trial.system.family()]
        _kill(trial, *family)
        trial.system.kill()
        _await_gone(_strangers(trial.system.state) or family)
    trial.start_again()


KILLS = {"all": kill_all, "parent": kill_parent, "child": kill_child, "start": kill_start}


def _kill(trial: Trial, *pids: int) -> None:
    """End these and no others; returns when they are dead, so that nobody takes their children for theirs any more."""
    trial.kills += 1
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    _await_gone(list(pids))


def _freeze(pid: int, time_s: float) -> "subprocess.Popen[bytes]":
    """Stop a process for a while; whoever does it wakes it, even when we are ended meanwhile."""
    words = f"kill -STOP {pid}; echo; sleep {time_s:.2f}; kill -CONT {pid}"
    shell = subprocess.Popen(["/bin/sh", "-c", words], stdout=subprocess.PIPE, start_new_session=True)
    assert shell.stdout is not None, "asked for"
    with shell.stdout:
        shell.stdout.readline()
    return shell


def _let_read(sink_port: int) -> None:
    """Wait until the sink has written down what a dead life sent: its loop serves all that is ready, then us."""
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", sink_port), 30) as peer:
            peer.recv(512)
            peer.sendall(b"QUIT\r\n")
            peer.recv(512)
        time.sleep(2 * SINK_DELAY_S)


def _strangers(state: Path) -> list[int]:
    """Give who was told of this state directory: a child too young to be in the family that was killed."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(state) in word for word in process.info["cmdline"] or ()):
            found.append(process.pid)
    return found


def _await_gone(pids: list[int]) -> None:
    """Wait until they are dead; whether init has noticed does not matter. Raises: RunFailed: they live on."""
    deadline = time.monotonic() + ENDING_S
    while alive := [pid for pid in pids if _is_alive(pid)]:
        if time.monotonic() > deadline:
            raise RunFailed(f"processes {alive} still live {ENDING_S:.0f} s after their parent was killed")
        time.sleep(0.005)


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def measure(
    scratch: Scratch,
    what: str,
    rounds: int,
    seed: int,
    *,
    within_s: float = KILL_WITHIN_S,
    environment: dict[str, str] | None = None,
) -> Figure:
    """Run one experiment with smarthost (`what`: a key of KILLS); `environment` is added to the daemon's."""
    name = f"kill-{what}"
    state = scratch.path / f"{name}-state"
    begun = time.monotonic()
    trial = Trial(
        scratch, name, seed, lambda sink_port: Relay(scratch, state, sink_port, environment=environment), looks=True
    )
    bound = BOUNDS[what]
    try:
        trial.run(rounds, within_s, KILLS[what])
        left = _leftovers(trial)  # only now has come what comes twice
        found, windows = trial.books.compare(), trial.windows()
        wrong = [*_wrongs(found), *_strays(windows, bound), *left]
        facts = _facts(found, windows, bound) | {"in_flight": sum(windows.in_flight)}
    except RunFailed as failed:
        wrong, facts = [str(failed)], {}
    return _end(trial, Figure(
        suite="kill", what=what, n=trial.kills, failures=len(wrong), seconds=round(time.monotonic() - begun, 1),
        seed=seed, facts=facts, why=wrong[0] if wrong else "",
    ))  # fmt: skip


def measure_postfix(scratch: Scratch, rounds: int, seed: int, within_s: float = KILL_WITHIN_S) -> Figure:
    """Run the same with Postfix: the duplicates' bound is its processes for one next hop, and nobody looks inside."""
    begun = time.monotonic()
    home = scratch.directory("kill-postfix-home")
    trial = Trial(
        scratch, "kill-postfix", seed, lambda sink_port: Postfix(scratch, home / "state", sink_port), looks=False
    )
    postfix = trial.system
    assert isinstance(postfix, Postfix), "made so"
    try:
        trial.run(rounds, within_s, kill_group)
        left = [f"{n} queue files are left"] if (n := postfix.await_empty(POSTFIX_DRAIN_S)) else []
        found, windows = trial.books.compare(), trial.windows()
        wrong = [*_wrongs(found), *_strays(windows, SESSIONS), *left]
        facts = _facts(found, windows, SESSIONS)
    except RunFailed as failed:
        wrong, facts = [str(failed)], {}
    return _end(trial, Figure(
        suite="kill", what="all", system="postfix", n=trial.kills, failures=len(wrong),
        seconds=round(time.monotonic() - begun, 1), seed=seed, facts=facts, why=wrong[0] if wrong else "",
    ))  # fmt: skip


def _end(trial: Trial, figure: Figure) -> Figure:
    trial.scratch.kill_children()
    return figure


def _wrongs(found: Comparison) -> list[str]:
    return [
        *(f"acknowledged and lost: {each}" for each in found.lost),
        *(f"altered: {each}" for each in found.altered),
        *(f"arrived where it was not sent: {each}" for each in found.foreign),
        *(f"two different reports of {each}" for each in found.doubled_reports),
    ]


def _strays(windows: Windows, bound: int) -> list[str]:
    strays = [f"came twice though it was not in flight at a crash: {each}" for each in windows.strays]
    if windows.most > bound:
        strays.append(f"{windows.most} came twice after one crash, at most {bound} may")
    return strays


def _leftovers(trial: Trial) -> list[str]:
    """Stop the daemon, and look for what its store still has to do: all books are closed, so nothing."""
    deadline = time.monotonic() + DRAIN_S
    relay = trial.system
    assert isinstance(relay, Relay), "smarthost"
    while relay.queued() and time.monotonic() < deadline:
        time.sleep(0.2)  # what was sent and not acknowledged may be on its way still
    code = relay.stop()
    if code != 0:
        return [f"after SIGTERM it ended with {code}: {relay.complaint()}"]
    left = read_unfinished(relay.state, trial.scratch.path / "left-copy")
    return [f"still in the store after {DRAIN_S:.0f} s: {each}" for each in sorted(left)]


def _facts(found: Comparison, windows: Windows, bound: int) -> dict[str, int | float | str]:
    return {
        "acknowledged": found.acknowledged,
        "recipients": found.recipients,
        "arrived": found.arrived,
        "reports": found.reports,
        "lost": len(found.lost),
        "duplicates": found.duplicates,
        "duplicates_most_in_one_crash": windows.most,
        "duplicates_median": windows.median,
        "bound": bound,
    }


def _sum_up(found: Comparison) -> str:
    return f"{found.acknowledged} acknowledged, {len(found.lost)} lost, {found.duplicates} duplicates"


def missing(options: Options) -> list[str]:
    """Say in one line each what it needs and does not find."""
    return missing_for_postfix() if options.with_postfix else []


def run(scratch: Scratch, options: Options) -> Iterator[Figure]:
    """Run all experiments."""
    within_s = QUICK_WITHIN_S if options.is_quick else KILL_WITHIN_S
    for what, (quick, long) in ROUNDS.items():
        yield measure(scratch, what, options.rounds_of(quick, long), options.seed, within_s=within_s)
    if options.with_postfix:
        yield measure_postfix(scratch, options.rounds_of(*POSTFIX_ROUNDS), options.seed, within_s)
