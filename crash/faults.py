# SPDX-License-Identifier: MIT
"""One life in which one call fails (EIO, ENOSPC), once or from then on, or in which every fsync takes its time.

While it fails: every reply is a 250 that holds or a 4xx (452 for no space, where it was writing that failed), nobody
waits without bound, the daemon does not end. Then it ends one of two ways: `crash`, a kill -9 while the error lasts and
a start without it, or `over`, the error ends and the relay must come back by itself. Judges by crash.life.
"""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from bench.children import Scratch

from crash import strace
from crash.killing import TROUBLE, TROUBLES, Verdict, go_on, prepare
from crash.life import DRAINED_S, MAIL, Life
from crash.relay import Books
from crash.strace import Point, Tracer

WAYS = ("once-crash", "once-over", "on-crash", "on-over")
CALLS = ("fsync", "fdatasync", "pwrite64", "write", "ftruncate", "fallocate", "rename", "openat", "mkdir", "unlink")
# Where no space must be 452: what SQLite says of a full WAL, and content files. The rest of SQLite's files give it no
# way to say so, and fsync has no such answer; that is a failed store, 451.
_FULL = (("pwrite64", "queue.db-wal"), ("write", "content/"), ("openat", "content/"), ("rename", "content/"))
HURT_S = 1.2  # how long mail is sent into an error that lasts
# Settlements kept during the trouble do not say when they are durable: what follows from them, a retry or a report, is
# found by the scans of each minute at the latest.
CAUGHT_UP_S = 90.0
TOLD_S = 2.0  # from an error to the line about it
BACK_S = 25.0  # pauses between starts of the store's process grow to 10 s
ANSWERED_S = 15.0


def can_fail(point: Point) -> bool:
    """Is this a write, a sync or a change of names in the state directory?"""
    is_ours = point.file not in ("", ".", "control", "lock") or (point.thread == "files" and point.call == "unlink")
    return point.call in CALLS and is_ours


def fail_at(
    scratch: Scratch, books: Books, name: str, point: Point, error: str, way: str, seed: int, log: Path
) -> Verdict:
    """Live one life with an error at the point. Raises: RunFailed: it did not start without trouble."""
    life = Life(scratch, books, name, seed)
    tracer: Tracer | None = None
    once, _, end = way.partition("-")
    inject = f"error={error}:when={point.k}{'+' if once == 'on' else ''}"
    relay = life.relay
    try:
        prepare(life, point.phase)
        if point.phase == "work":
            threads = strace.find_threads(relay.pid)
            ids = [threads["daemon"], threads["store"]] if once == "on" else [threads[point.thread]]
            tracer = Tracer(
                ids,
                log,
                sorted({point.call, "close"}),
                f"{point.call}:{inject}",
                file=relay.state / point.file if point.file else None,
                follow=once == "on",
            )
            _send_into(life, point, error)
            if relay.exit_code is not None:
                life.wrong.append(f"it ended with {relay.exit_code}: {relay.complaint()}")
                return _verdict(life, "")
        else:
            relay.wrapper = tuple(strace.wrapper(log, point, inject, relay.state))
            relay.start(is_awaited=False)
            if not life.await_(lambda: relay.is_ready() or relay.exit_code is not None, DRAINED_S):
                life.wrong.append(f"it neither served nor ended within {DRAINED_S:.0f} s")
            elif relay.exit_code is None:
                go_on(life, "again", lambda: False)
            elif not relay.complaint():
                life.wrong.append(f"it ended with {relay.exit_code} and said nothing")
        seen = strace.read_trace(log, relay.state)
        hit = [each for each in seen if "(INJECTED)" in each.outcome]
        life.wrong += [f"fsync of {file} failed and was believed the next time" for file in strace.believed_again(seen)]
        must_tell = hit and "sync" in point.call and error == "EIO" and relay.exit_code is None
        if must_tell and not life.await_(lambda: bool(relay.lines(TROUBLE)), TOLD_S):
            life.wrong.append("a sync failed and no line said so")
        if (troubles := len(relay.lines(TROUBLE))) > TROUBLES:
            life.wrong.append(f"{troubles} lines about one error")
        if end == "crash" or point.phase != "work":
            life.kill()
            if tracer is not None:
                tracer.detach()
            life.finish()
        else:
            assert tracer is not None, "attached in this phase"
            tracer.detach()
            _await_back(life)
            life.drain(CAUGHT_UP_S)
        return _verdict(life, point.call if hit else "")
    finally:
        if tracer is not None:
            tracer.detach()
        life.close()


def _verdict(life: Life, hit: str) -> Verdict:
    found = life.compare()
    return Verdict(
        wrong=tuple(life.wrong),
        died=hit,
        acknowledged=found.acknowledged,
        duplicates=found.duplicates,
        codes=tuple(life.codes),
    )


def _send_into(life: Life, point: Point, error: str) -> None:
    """Send the mail, and more until HURT_S is over; judge each reply and how long it took."""
    began = time.monotonic()
    mail = [*MAIL, (("ok",), 1_000)]
    number = 0
    while number < len(mail) or time.monotonic() - began < HURT_S:
        kinds, octets = mail[number] if number < len(mail) else (("ok",), 200_000 if number % 3 == 0 else 1_000)
        number += 1
        asked = time.monotonic()
        reply = life.send(kinds, octets)
        took = time.monotonic() - asked
        if took > ANSWERED_S:
            life.wrong.append(f"the reply {reply!r} took {took:.0f} s")
        if not reply and life.relay.exit_code is None:
            life.wrong.append("a connection was lost while the daemon lived")
        is_full = error == "ENOSPC" and any(point.call == call and point.file.startswith(file) for call, file in _FULL)
        if is_full and reply[:1] != "2" and not reply.startswith(("452 4.3.1", "421 4.3.1")):  # 421: at the greeting
            life.wrong.append(f"no space left was answered with {reply}")
        if life.relay.exit_code is not None:
            return
        time.sleep(0.05)


def _await_back(life: Life) -> None:
    """The error is over: it must take mail again by itself."""
    # Large: with its content, files are deleted too that could not be.
    if not life.await_(lambda: life.send(("ok",), 200_000).startswith("250"), BACK_S):
        life.wrong.append(f"no mail was taken within {BACK_S:.0f} s of the error's end: {life.relay.complaint()}")


def slow_disk(scratch: Scratch, books: Books, name: str, delay_s: float, seed: int, log: Path) -> Verdict:
    """Live one life whose every fsync takes so long: mail waits, all get a right answer, settlements catch up.

    Beyond ten seconds, when a commit counts as stalled, new mail is refused meanwhile; what waits is not.
    """
    life = Life(scratch, books, name, seed)
    relay = life.relay
    tracer: Tracer | None = None
    try:
        relay.start()
        life.send(("ok",), 1_000)  # the first of a day makes its table of records: a commit more
        store = strace.find_threads(relay.pid)["store"]
        inject = f"fsync,fdatasync:delay_enter={int(delay_s * 1e6)}"
        tracer = Tracer([store], log, ("fsync", "fdatasync"), inject, follow=True)
        replies: list[str] = []
        senders = [
            threading.Thread(target=lambda mail=mail: replies.append(life.send(*mail)))
            for mail in ((("ok",), 2_000), (("ok", "no"), 2_000))
        ]
        for sender in senders:
            sender.start()
        if delay_s > 10:
            time.sleep(10.5)
            refused = life.send(("ok",), 1_000)
            if not refused.startswith(("421 4.3", "451 4.3")):
                life.wrong.append(f"mail that comes while a commit is stalled hears {refused!r}")
        for sender in senders:
            sender.join()
        if [reply[:3] for reply in replies] != ["250", "250"]:
            life.wrong.append(f"mail on a slow disk heard {replies}")
        tracer.detach()
        life.drain()
        return _verdict(life, "fsync")
    finally:
        if tracer is not None:
            tracer.detach()
        life.close()


def deaf_log(scratch: Scratch, books: Books, name: str, error: str, seed: int, log: Path) -> Verdict:
    """Live one life in which every line of the daemon's log fails to be written: no mail may notice."""
    life = Life(scratch, books, name, seed)
    relay = life.relay
    tracer: Tracer | None = None
    try:
        relay.start()
        tracer = Tracer([relay.pid], log, ("write",), f"write:error={error}", file=scratch.path / f"{relay.name}.err")
        life.work(lambda: relay.exit_code is not None)
        hit = any("(INJECTED)" in each.outcome for each in strace.read_trace(log, relay.state))
        if set(life.codes) != {"250 2.0.0"}:
            life.wrong.append(f"mail beside a log that cannot be written heard {dict(life.codes)}")
        tracer.detach()
        life.drain()
        return _verdict(life, "write" if hit else "")
    finally:
        if tracer is not None:
            tracer.detach()
        life.close()


def replies_of(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Count the replies that were heard, by code."""
    found: dict[str, int] = {}
    for verdict in verdicts:
        for code in verdict.codes:
            if code:
                found[code] = found.get(code, 0) + 1
    return found
