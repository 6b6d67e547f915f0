# SPDX-License-Identifier: MIT
"""Damage to the files of a queue: what is damaged is isolated and told, the rest is delivered, nothing is altered.

A queue of some 300 messages, all of them deferred, content in the database and in files, is kept three times: as a
daemon left it that was killed, that was stopped, and that was killed again later. Each round damages a copy
(crash/mutations.py), starts a daemon on it, asks it to try everything, and compares: every recipient that was promised
either got exactly what was sent, or is held, or is named in the log or the records. Where the end of the log itself is
gone, nothing can be named: then the log must say so, and how much that was is told as `unnamed`. Where nothing can be
saved at all, a daemon may refuse to start and say why; that is told as `refused`.
"""

import json
import os
import re
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from bench.children import Scratch
from bench.failure import RunFailed
from msgspec import Struct

from crash.figures import Figure
from crash.ledger import Promise, promises, token_of
from crash.mutations import damage
from crash.options import Options
from crash.relay import Books, Relay

ROUNDS = (10, 200)  # quick, long
# Content beyond 128 KiB is kept in a file.
LOADS = (
    ("--sessions", "8", "--octets", "5120", "--messages", "270", "--kinds", "later=1"),
    ("--sessions", "2", "--octets", "300000", "--messages", "30", "--kinds", "later=1"),
)
LATER = '\n[retry]\nfirst = "12h"\nlongest = "12h"\n'  # than any run
NOW = '\n[retry]\nfirst = "1s"\nlongest = "1s"\njitter = 0\n'
LOADED_S = 120.0
DRAIN_S = 30.0
QUIET_S = 1.0  # nothing has arrived for so long
_ID = re.compile(r"\b[0-9a-hjkmnp-tv-z]{16}\b")
_UNNAMED = "has no name"  # what the daemon says of the end of a log, or of the database
_KNOWN = 13  # of the characters of an id, when its message is gone


class Verdict(Struct):
    """What became of the recipients of one round."""

    delivered: int = 0
    held: int = 0
    named: int = 0
    unnamed: int = 0
    refused: int = 0
    altered: int = 0
    vanished: int = 0
    left: int = 0
    duplicates: int = 0
    why: str = ""

    @property
    def failures(self) -> int:
        return self.altered + self.vanished + self.left


class Queue:
    """The queue that is damaged again and again, and what was promised of it."""

    def __init__(self, scratch: Scratch, seed: int) -> None:
        self._scratch = scratch
        self.books = Books(scratch, "damage", tries=1)
        self.states: list[Path] = []
        self._fill(seed)
        self.promises: dict[str, Promise] = promises(self.books.ledger())
        self.tokens = {
            found[0]: line["token"]
            for line in self.books.ledger()
            if line["event"] == "acknowledged" and (found := _ID.search(line["reply"]))
        }
        if len(self.tokens) != len(self.promises):
            raise RunFailed("an acknowledgement without an id")

    def _fill(self, seed: int) -> None:
        state = self._scratch.directory("damage-state")
        relay = Relay(self._scratch, state, self.books.sink_port, config=LATER)
        relay.start()
        for number, words in enumerate(LOADS):
            load = self.books.load(relay.port, seed + number, *words)
            if load.wait(LOADED_S) != 0:
                raise RunFailed(f"the load did not end well: {load.complaint()}")
        _await_deferred(relay)
        relay.kill()
        self._keep(state, "killed")
        relay.start()
        if relay.stop() != 0:
            raise RunFailed(f"the daemon did not stop: {relay.complaint()}")
        self._keep(state, "stopped")
        relay.start()
        relay.command("queue", "retry", "--destination", "nowhere.crash.test")
        load = self.books.load(relay.port, seed + len(LOADS), "--messages", "40", "--kinds", "later=1")
        if load.wait(LOADED_S) != 0:
            raise RunFailed(f"the load did not end well: {load.complaint()}")
        _await_deferred(relay)
        relay.kill()
        self._keep(state, "killed-again")

    def _keep(self, state: Path, name: str) -> None:
        kept = self._scratch.path / f"damage-{name}"
        shutil.copytree(state, kept, ignore=shutil.ignore_patterns("control*", "ballast", "lock"))
        self.states.append(kept)

    def round(self, number: int, seed: int) -> Verdict:
        """Damage a copy, start a daemon on it, and judge. Raises: RunFailed."""
        state = self._scratch.path / f"damage-round-{number}"
        shutil.copytree(self.states[number % len(self.states)], state)
        promised = self._promised(state)
        done = damage(state, seed)
        before = len(self.books.arrived())
        relay = Relay(self._scratch, state, self.books.sink_port, config=NOW)
        try:
            verdict = self._judge(relay, promised, before)
        finally:
            shutil.rmtree(state)
        if verdict.failures:
            verdict.why = (
                f"round {number} ({self.states[number % len(self.states)].name}): {'; '.join(done)}: {verdict.why}"
            )
        return verdict

    def _promised(self, state: Path) -> set[str]:
        """Give the tokens of the messages in a state directory: the first two know nothing of the last load."""
        with closing(sqlite3.connect(state / "queue.db")) as db:  # the copy's own log is recovered here as anywhere
            count = db.execute("SELECT count(*) FROM message").fetchone()[0]
        return {token for token, _ in zip(self.promises, range(count), strict=False)}

    def _judge(self, relay: Relay, promised: set[str], before: int) -> Verdict:
        try:
            relay.start()
        except RunFailed as failed:
            relay.kill()
            if any(text in str(failed) for text in ("damaged", "not a database", "written by a newer smarthost")):
                return Verdict(refused=1)
            return Verdict(vanished=len(promised), why=str(failed))
        self._retry_all(relay)
        queued = self._await_quiet(relay, before)
        relay.stop()
        return self._compare(relay, promised, before, queued)

    def _retry_all(self, relay: Relay) -> None:
        """Make everything due, again while the daemon says 75, not now: what it reads first may begin a salvage."""
        deadline = time.monotonic() + DRAIN_S
        while relay.command("queue", "retry", "--all").returncode == os.EX_TEMPFAIL and time.monotonic() < deadline:
            time.sleep(0.2)

    def _await_quiet(self, relay: Relay, before: int) -> list[dict[str, Any]]:
        """Wait until nothing more arrives, and give what is queued then."""
        deadline = time.monotonic() + DRAIN_S
        seen, quiet_at = -1, 0.0
        while time.monotonic() < deadline:
            if (now := len(self.books.arrived())) != seen:
                seen, quiet_at = now, time.monotonic() + QUIET_S
            elif time.monotonic() > quiet_at:
                queued = relay.queued()
                if all(each["state"] == "held" for message in queued for each in message["recipients"]):
                    return queued
                quiet_at = time.monotonic() + QUIET_S
            time.sleep(0.1)
        return relay.queued()

    def _compare(self, relay: Relay, promised: set[str], before: int, queued: list[dict[str, Any]]) -> Verdict:
        verdict = Verdict()
        arrived: dict[str, int] = {}
        for line in self.books.arrived()[before:]:
            for address in line["to"]:
                promise = self.promises.get(line.get("token", ""))
                if promise is None or _is_altered(line, address, promise):
                    verdict.altered += 1
                    verdict.why = verdict.why or f"{address} got what was not sent to it"
                arrived[address] = arrived.get(address, 0) + 1
        verdict.duplicates = sum(n - 1 for n in arrived.values())
        ids = {token: id for id, token in self.tokens.items()}
        states = {message["id"]: [each["state"] for each in message["recipients"]] for message in queued}
        told = _names(relay)
        is_unnamed = any(_UNNAMED in str(line.get("why", "")) for line in relay.log())
        for token in promised:
            id = ids[token]
            for address in self.promises[token].recipients:
                if arrived.get(address):
                    verdict.delivered += 1
                elif states.get(id):
                    verdict.held += "held" in states[id]
                    verdict.left += "held" not in states[id]
                elif id in told or id[:_KNOWN] in told:
                    verdict.named += 1
                elif is_unnamed:
                    verdict.unnamed += 1
                else:
                    verdict.vanished += 1
                    verdict.why = verdict.why or f"{address} of {id} vanished"
        if verdict.left:
            verdict.why = verdict.why or "something is neither delivered nor held"
        return verdict


def _is_altered(line: dict[str, Any], address: str, promise: Promise) -> bool:
    return (
        (line["sha256"], line["octets"], line["from"]) != (promise.sha256, promise.octets, promise.sender)
        or address not in promise.recipients
        or token_of(address) != promise.token
    )


def _names(relay: Relay) -> set[str]:
    """Give the ids (of those gone, their first characters) that the log or the records say are damaged."""
    texts = [str(line.get("why", "")) for line in relay.lines("store in trouble")]
    with closing(sqlite3.connect(relay.state / "queue.db")) as db:
        tables = db.execute("SELECT name FROM sqlite_master WHERE name GLOB 'record_[0-9]*'").fetchall()
        for (table,) in tables:
            for (body,) in db.execute(f"SELECT body FROM {table} WHERE body LIKE '%\"damaged\"%'"):
                texts.append(json.loads(body)["id"])
    words = {word for text in texts for word in re.findall(r"[0-9a-hjkmnp-tv-z]{13,16}", text)}
    return words | {word[:_KNOWN] for word in words if len(word) < 16}


def _await_deferred(relay: Relay) -> None:
    """Wait until everything was tried once. Raises: RunFailed."""
    deadline = time.monotonic() + LOADED_S
    while any(
        each["state"] != "deferred" or not each["attempts"]
        for message in relay.queued()
        for each in message["recipients"]
    ):
        if time.monotonic() > deadline:
            raise RunFailed("the queue was not deferred in time")
        time.sleep(0.2)


def missing(options: Options) -> list[str]:
    """Say in one line each what it needs and does not find: nothing."""
    return []


def run(scratch: Scratch, options: Options) -> Iterator[Figure]:
    """Run all rounds."""
    queue = Queue(scratch, options.seed)
    began = time.monotonic()
    total = Verdict()
    rounds = options.rounds_of(*ROUNDS)
    hit = 0
    for number in range(rounds):
        verdict = queue.round(number, options.seed * 1_000_003 + number)
        for field in ("delivered", "held", "named", "unnamed", "refused", "altered", "vanished", "left", "duplicates"):
            setattr(total, field, getattr(total, field) + getattr(verdict, field))
        hit += bool(verdict.held or verdict.named or verdict.unnamed or verdict.refused)
        total.why = total.why or verdict.why
        if verdict.why:
            print(verdict.why, file=sys.stderr)
    queue.books.close()
    yield Figure(
        suite="damage",
        what="mutations",
        n=rounds,
        failures=total.failures,
        seconds=round(time.monotonic() - began, 1),
        seed=options.seed,
        facts={
            "messages": len(queue.promises),
            "rounds_with_damaged_entries": hit,
            "delivered": total.delivered,
            "held": total.held,
            "lost_and_named": total.named,
            "lost_unnamed_with_the_end_of_the_log": total.unnamed,
            "refused_to_start": total.refused,
            "altered": total.altered,
            "vanished": total.vanished,
            "duplicates": total.duplicates,
        },
        why=total.why,
    )


if __name__ == "__main__":
    from crash.__main__ import main

    sys.exit(main(["--only", "damage", *sys.argv[1:]]))
