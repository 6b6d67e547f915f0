# SPDX-License-Identifier: MIT
"""The log never holds up the mail, and nothing gets into a line that does not belong there."""

import asyncio
import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from smarthost.mail.record import Kind, Record
from smarthost.ops.log import JsonLog


class Timers:
    """Remembers what is to be called later."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        self.waiting.append(call)

    def fire(self) -> None:
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            call()


class Pipe:
    """A pipe whose reader reads when told."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, 1 << 16)
        os.set_blocking(self.reading, False)

    def read(self) -> list[dict[str, object]]:
        octets = b""
        while piece := self.piece():
            octets += piece
        return [json.loads(line) for line in octets.splitlines()]

    def piece(self) -> bytes:
        try:
            return os.read(self.reading, 1 << 20)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        for fd in (self.reading, self.writing):
            with contextlib.suppress(OSError):
                os.close(fd)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def record(kind: Kind = Kind.RELAYED, **facts: object) -> Record:
    return Record(seq=1, kind=kind, at=1735732800.1239, id="0" * 16, recipient="b@example.net", **facts)  # type: ignore[arg-type]


def log_of(pipe: Pipe, timers: Timers | None = None, **settings: Any) -> JsonLog:
    return JsonLog(pipe.writing, (timers or Timers()).later, now=lambda: 1735732800.5, **settings)


def test_an_attempt_is_one_line_with_its_facts(pipe: Pipe) -> None:
    """A line says who, where, what was answered, and where the time went; what does not apply is left out."""
    log = log_of(pipe)

    log.record(
        record(
            reverse_path="a@example.org", attempt=2, status="2.0.0", reply="250 2.0.0 Ok", host="mx.example.net",
            address="192.0.2.1", tls="TLSv1.3", octets=5120, queued_s=0.0123456789, transfer_s=0.002,
        )
    )  # fmt: skip
    log.flush()

    (line,) = pipe.read()
    assert list(line)[:5] == ["at", "level", "what", "id", "recipient"]
    assert line["at"] == "2025-01-01T12:00:00.123Z"
    assert (line["level"], line["what"], line["id"], line["attempt"]) == ("info", "relayed", "0" * 16, 2)
    assert (line["host"], line["address"], line["reply"]) == ("mx.example.net", "192.0.2.1", "250 2.0.0 Ok")
    assert line["queued_s"] == 0.012346
    assert "why" not in line
    assert "next_attempt_at" not in line


def test_a_deferral_says_when_it_is_tried_again(pipe: Pipe) -> None:
    """The next attempt is a time an operator can read."""
    log = log_of(pipe)

    log.record(record(Kind.DEFERRED, next_attempt_at=1735733100.0))
    log.flush()

    assert pipe.read()[0]["next_attempt_at"] == "2025-01-01T12:05:00.000Z"


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({}, ["accepted", "relayed", "bounced", "hello", "careful", "broken"]),
        ({"accepted": False}, ["relayed", "bounced", "hello", "careful", "broken"]),
        ({"level": "warning"}, ["bounced", "careful", "broken"]),
        ({"level": "error"}, ["broken"]),
    ],
)
def test_the_level_and_accepted_choose_the_lines(pipe: Pipe, settings: dict[str, Any], shown: list[str]) -> None:
    """An operator who wants troubles only gets troubles only."""
    log = log_of(pipe, **settings)

    for kind in (Kind.ACCEPTED, Kind.RELAYED, Kind.BOUNCED):
        log.record(record(kind))
    for level, what in (("info", "hello"), ("warning", "careful"), ("error", "broken")):
        log.note(level, what)
    log.flush()

    assert [line["what"] for line in pipe.read()] == shown


def test_every_kind_of_record_has_a_level() -> None:
    """No kind of record is unknown to the log."""
    timers = Timers()
    log = JsonLog(2, timers.later)

    for kind in Kind:
        log.record(record(kind))

    assert len(log._lines) == len(Kind)


def test_the_ready_line_is_told_at_every_level(pipe: Pipe) -> None:
    """Whoever waits for "ready" need not know the level."""
    log = log_of(pipe, level="error")

    log.announce("info", "ready", listen=(("127.0.0.1", 25),))
    log.flush()

    assert pipe.read() == [
        {"at": "2025-01-01T12:00:00.500Z", "level": "info", "what": "ready", "listen": [["127.0.0.1", 25]]}
    ]


@given(text=some.text(), other=some.text())
def test_no_control_character_gets_into_a_line(text: str, other: str) -> None:
    """A host that answers with escape sequences or newlines cannot forge lines or drive a terminal."""
    pipe = Pipe()
    log = log_of(pipe)

    log.record(record(reply=text + "\n\x1b[2J\x7f\x85\u2028", why=other))
    log.note("warning", text, fact=other + "\r\n\x00\u009b")
    log.flush()

    octets = os.read(pipe.reading, 1 << 20)
    pipe.close()
    lines = octets.decode().split("\n")
    assert len(lines) == 3
    assert not any(
        ord(character) < 32 or 127 <= ord(character) < 160 or character in "\u2028\u2029"
        for line in lines
        for character in line
    )
    assert json.loads(lines[0])["reply"] == text + "\n\x1b[2J\x7f\x85\u2028"
    assert json.loads(lines[1])["fact"] == other + "\r\n\x00\u009b"


@pytest.mark.parametrize(
    "fact", ["\udc80", object(), {1: 2}, {object(): 1}, ValueError("x"), b"\xff", float("nan"), 1 << 80, {"\udcff"}]
)
def test_a_note_never_raises(pipe: Pipe, fact: object) -> None:
    """Whatever a note is given, there is a line, and the mail goes on."""
    log = log_of(pipe)

    log.note("error", "odd", fact=fact)
    log.flush()

    assert pipe.read()[0]["what"] in ("odd", "'odd'")


def test_a_record_that_cannot_be_written_is_told_as_such(pipe: Pipe) -> None:
    """Text that is no Unicode does not take the log down."""
    log = log_of(pipe)

    log.record(record(reply="\udc80"))
    log.flush()

    assert pipe.read()[0]["what"] == "a record could not be logged"


def test_lines_are_gathered_and_written_by_one_timer(pipe: Pipe) -> None:
    """A thousand lines cost a timer, not a thousand."""
    timers = Timers()
    log = log_of(pipe, timers)

    for _ in range(100):
        log.record(record())
    before = pipe.read()
    timers.fire()

    assert before == []
    assert len(pipe.read()) == 100
    assert timers.waiting == []


def test_a_burst_is_written_without_waiting_for_the_timer(pipe: Pipe) -> None:
    """64 KiB do not wait, and do not need a second timer."""
    timers = Timers()
    log = log_of(pipe, timers)

    for _ in range(500):
        log.record(record(why="x" * 200))

    assert len(pipe.read()) > 100
    assert len(timers.waiting) == 1


def test_a_reader_that_does_not_read_blocks_nothing_and_loses_the_oldest_lines(pipe: Pipe) -> None:
    """A full pipe costs bounded memory and no time; once it is read again, a line says how many are missing."""
    timers = Timers()
    log = log_of(pipe, timers, kept_octets=200_000)

    started = time.monotonic()
    for number in range(5000):
        log.note("info", "line", number=number)
        if number % 100 == 0:
            timers.fire()
    elapsed_s = time.monotonic() - started
    dropped = log.dropped
    lines: list[dict[str, object]] = []
    while timers.waiting:
        lines += pipe.read()
        timers.fire()
    lines += pipe.read()

    numbers = [line["number"] for line in lines if line["what"] == "line"]
    confessed = [line["count"] for line in lines if line["what"] == "log lines dropped"]
    assert elapsed_s < 1.0
    assert dropped > 500
    assert confessed == [dropped]
    assert len(numbers) == 5000 - dropped
    assert numbers == sorted(numbers)  # type: ignore[type-var]
    assert numbers[-1] == 4999


def test_the_confession_stands_where_the_gap_is(pipe: Pipe) -> None:
    """A reader sees between which lines some are missing."""
    timers = Timers()
    log = log_of(pipe, timers, kept_octets=100_000)
    for number in range(5000):
        log.note("info", "line", number=number)
    timers.fire()

    lines: list[dict[str, object]] = []
    while timers.waiting:
        lines += pipe.read()
        timers.fire()

    gap = next(index for index, line in enumerate(lines) if line["what"] == "log lines dropped")
    assert int(str(lines[gap + 1]["number"])) - int(str(lines[gap - 1]["number"])) == int(str(lines[gap]["count"])) + 1


@given(
    sizes=some.lists(some.integers(min_value=0, max_value=20_000), max_size=12),
    kept=some.sampled_from([8_000, 30_000, 1 << 20]),
)
def test_lines_stay_whole_whatever_their_size(sizes: list[int], kept: int) -> None:
    """Lines longer than a pipe's buffer, written in parts, are never torn by lines that are dropped."""
    pipe, timers = Pipe(), Timers()
    fcntl.fcntl(pipe.writing, fcntl.F_SETPIPE_SZ, 4096)
    log = log_of(pipe, timers, kept_octets=kept)
    octets = b""

    for number, size in enumerate(sizes):
        log.note("info", "line", number=number, text="x" * size)
        timers.fire()
        octets += pipe.piece() if number % 2 else b""
    while timers.waiting:
        timers.fire()
        octets += pipe.piece()
    while piece := pipe.piece():
        octets += piece
    pipe.close()

    lines = [json.loads(line) for line in octets.splitlines()]
    told = [line["number"] for line in lines if line["what"] == "line"]
    missing = sum(line["count"] for line in lines if line["what"] == "log lines dropped")
    assert len(told) + missing == len(sizes)
    assert all(len(line["text"]) == sizes[line["number"]] for line in lines if line["what"] == "line")


def test_a_reader_that_is_gone_ends_the_log_and_nothing_else(pipe: Pipe) -> None:
    """A broken pipe is not an error of the mail."""
    log = log_of(pipe)
    os.close(pipe.reading)

    for _ in range(10):
        log.record(record())
        log.flush()
    log.close()

    assert log.dropped == 0


def test_closing_writes_what_is_left_within_its_time(pipe: Pipe) -> None:
    """The last lines are told, but a reader that is stuck does not hold up the end."""
    log = log_of(pipe)
    log.announce("info", "stopped")
    log.close()
    told = pipe.read()
    stuck = log_of(pipe)
    for _ in range(2000):
        stuck.record(record())

    started = time.monotonic()
    stuck.close(timeout_s=0.05)

    assert [line["what"] for line in told] == ["stopped"]
    assert time.monotonic() - started < 1.0


@pytest.mark.asyncio
async def test_a_full_pipe_never_stalls_the_loop(pipe: Pipe) -> None:
    """While nobody reads, everything else on the loop goes on as ever."""
    log = JsonLog(pipe.writing, asyncio.get_running_loop().call_later, kept_octets=100_000)
    slowest = 0.0

    for _ in range(20):
        for _ in range(200):
            log.record(record(why="x" * 100))
        before = time.monotonic()
        await asyncio.sleep(0.005)
        slowest = max(slowest, time.monotonic() - before)

    log.flush()
    assert log.dropped > 0
    assert slowest < 0.2
    while log._lines:
        pipe.read()
        log.flush()


def test_an_accepted_line_names_the_user_who_logged_in(pipe: Pipe) -> None:
    """And says nothing of one where nobody did."""
    log = log_of(pipe)

    log.record(record(Kind.ACCEPTED, user="alice"))
    log.record(record(Kind.ACCEPTED))
    log.flush()

    named, nameless = pipe.read()
    assert named["user"] == "alice"
    assert "user" not in nameless
