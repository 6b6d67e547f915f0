# SPDX-License-Identifier: MIT
"""`smarthost demo` as a newcomer runs it; and that it does not call well what is not."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from smarthost.ops import exits
from smarthost.ops.demo import scenery, story
from smarthost.ops.demo.judge import Outcome
from smarthost.ops.demo.scenery import HOME
from smarthost.ops.demo.view import JsonView
from smarthost.testing.peers import ScriptedExchanger, TakenMessage

Change = Callable[[TakenMessage], TakenMessage | None]


class SilentView(JsonView):
    """Tells nothing."""

    def end(self, outcome: Outcome) -> None: ...


def command(tmp_path: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "smarthost", "demo"],
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_the_demo_tells_the_whole_story_and_exits_0(tmp_path: Path) -> None:
    """Within seconds, a newcomer has seen good and bad hosts, the table and a bounce; nothing stays behind."""
    began = time.monotonic()

    with command(tmp_path) as demo:
        out, err = demo.communicate(timeout=30)

    assert (demo.returncode, err) == (0, "")
    assert time.monotonic() - began < 30
    assert list(tmp_path.iterdir()) == []
    assert "\x1b" not in out
    table = [line.split("  ") for line in out.splitlines() if line.endswith("  yes")]
    assert [cells[0].strip() for cells in table] == [
        "healthy host",
        "greylisting host",
        "dead MX first",
        "refused recipient",
        "null MX",
        "no such domain",
        "bounces",
    ]
    for told in (
        'mx.greylist.example says "450 4.7.1 Greylisted, please come again": next attempt in ',
        "dead.deadmx.example [127.0.0.4]: connection refused; alive.deadmx.example takes the mail",
        "dead.deadmx.example [127.0.0.4] is remembered as broken",
        'mx.picky.example refuses nobody@picky.example: "550 5.1.1 No such user"',
        "15 relayed after 30 deferrals (450)",
        "  | Subject: ",
        "  | <nobody@picky.example>",
        "Everything ended as it should in ",
        "python -m smarthost why you@b.example",
    ):
        assert told in out


@pytest.mark.slow
def test_the_demo_runs_on_the_loop_of_the_standard_library() -> None:
    """uvloop is fast, but nothing depends on it."""
    outcome = story.play(SilentView(), loops=asyncio.new_event_loop)

    assert outcome.troubles == ()
    assert [problem for row in outcome.rows for problem in row.problems] == []
    assert outcome.is_well


class Unreliable(list[TakenMessage]):
    """What a host has, if it loses or changes some of what it said 250 to."""

    def __init__(self, change: Callable[[TakenMessage, int], TakenMessage | None]) -> None:
        super().__init__()
        self._change = change
        self._taken = 0

    def append(self, message: TakenMessage) -> None:
        if message.recipients:
            self._taken += 1
        changed = self._change(message, self._taken)
        if changed is not None:
            super().append(changed)


def unreliable_hosts() -> dict[str, ScriptedExchanger]:
    hosts = scenery.exchangers()
    hosts["healthy.example"].messages = Unreliable(lambda message, n: None if n == 7 else message)
    hosts["deadmx.example"].messages = Unreliable(
        lambda message, n: replace(message, content=message.content[:-3] + b"?\r\n") if n == 3 else message
    )
    hosts[HOME].messages = Unreliable(lambda message, n: None if n == 25 else message)
    return hosts


@pytest.mark.slow
def test_mail_that_a_host_loses_or_damages_fails_the_demo() -> None:
    """The demo looks at what arrived: a swallowed letter, a damaged one and a lost bounce are each named."""
    outcome = story.play(SilentView(), hosts=unreliable_hosts())

    problems = {row.kind: row.problems for row in outcome.rows if not row.as_expected}
    assert not outcome.is_well
    assert list(problems) == ["healthy host", "dead MX first", "bounces"]
    assert [len(told) for told in problems.values()] == [1, 1, 1]
    assert problems["healthy host"][0].endswith("did not arrive")
    assert problems["dead MX first"][0].endswith("is not octet for octet what was sent")
    assert "was told never that letter" in problems["bounces"][0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("domain", "unfinished"), [("picky.example", "refused recipient"), (HOME, "bounces")], ids=["letters", "bounces"]
)
def test_a_demo_that_does_not_end_is_ended_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, domain: str, unfinished: str
) -> None:
    """A host that falls silent cannot hold the demo up: at the deadline it says what is unfinished."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    hosts = scenery.exchangers()
    hosts["greylist.example"] = ScriptedExchanger(name="mx.greylist.example")  # so that nothing else takes long
    hosts[domain] = ScriptedExchanger(name=hosts[domain].name, silent_at="dot")

    outcome = story.play(SilentView(), hosts=hosts, deadline_s=1.0)

    [trouble] = outcome.troubles
    assert trouble.startswith("not over after ")
    assert f" at {domain} not ended" in trouble
    assert outcome.elapsed_s < 1.0 + story.STOP_S + 1.0
    row = next(row for row in outcome.rows if row.kind == unfinished)
    assert not row.as_expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("which", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_demo_cleanly(tmp_path: Path, which: signal.Signals, code: int) -> None:
    """Who has seen enough leaves nothing behind."""
    with command(tmp_path) as demo:
        assert demo.stdout is not None
        while "have" not in (line := demo.stdout.readline()) and "250 to 100 messages" not in line:
            assert line, "the demo ended before it was asked to"
        demo.send_signal(which)
        _, err = demo.communicate(timeout=20)

    assert demo.returncode == code
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_the_loopback_addresses_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where 127.0.0.4 is not bound, one sentence says what is missing."""
    monkeypatch.setitem(scenery._ADDRESSES, "dead.deadmx.example", "192.0.2.1")

    with pytest.raises(exits.CommandFailed, match="the demo needs one free port at") as failure:
        story.play(SilentView())

    assert failure.value.code == exits.UNAVAILABLE
