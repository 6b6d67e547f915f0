# SPDX-License-Identifier: MIT
"""How the demo is told: to a pipe, to a program, to a terminal."""

import io
import json
import shlex
import sys
from collections.abc import Callable

import pytest
from msgspec.structs import replace
from rich.console import Console
from tests.ops.demo.rig import World

from smarthost.mail.record import Kind
from smarthost.ops import cli
from smarthost.ops.demo import choose_view, view
from smarthost.ops.demo.judge import Outcome
from smarthost.ops.demo.ledger import News, Tally
from smarthost.ops.demo.live import LiveView, _bar
from smarthost.ops.demo.view import EXPECTED, JsonView, PlainView, duration_words, verdict_lines

WAITING = {"greylist.example": Tally(accepted=15, waiting=15, next_at=1001.5)}
SCENE = ["smarthost demo", "  relay at 127.0.0.1:1"]


def failed() -> Outcome:
    outcome = World().judge("a bug: \x1b[31m")
    spoiled = replace(outcome.rows[0], as_expected=False, problems=tuple(f"letter {n}" for n in range(8)))
    return replace(outcome, rows=(spoiled, *outcome.rows[1:]))


def test_plain_lines_tell_the_whole_story(capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe: what stands, what happens, the table, a bounce, what to try next."""
    plain = PlainView()

    plain.begin(SCENE)
    plain.tell(News(0.05, "something happens", Kind.RELAYED))
    plain.end(World().judge())

    out = capsys.readouterr().out
    assert out.startswith("smarthost demo\n  relay at 127.0.0.1:1\n\n  0.05 s  something happens\n")
    assert "\ngreylisting host   15        15 relayed after 30 deferrals (450)  3         2.0 s  yes\n" in out
    assert "\n  | Subject: Your message could not be delivered\n" in out
    assert "Everything ended as it should in 3.5 s: 100 messages, checked octet for octet" in out
    assert "serve --state-dir try" in out
    assert max(len(line) for line in out.splitlines()) <= 100


def test_plain_progress_is_at_most_a_line_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    """A log is not flooded, however often the demo looks."""
    plain = PlainView()

    for tenth in range(35):
        plain.progress(tenth / 10, WAITING, 999.0 + tenth / 10)

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0] == "  1.00 s  progress: 0 relayed, 0 bounced, 15 deferred, next attempt in 1.5 s"


def test_plain_progress_is_told_when_there_is_some(capsys: pytest.CaptureFixture[str]) -> None:
    """While nothing moves, nothing is said: a line that says the same twenty times hides the others."""
    plain = PlainView()

    for second in range(22):
        plain.progress(second, {"healthy.example": Tally(accepted=9, relayed=7)}, 1000.0)
    plain.progress(22, {"healthy.example": Tally(accepted=9, relayed=9)}, 1000.0)

    assert capsys.readouterr().out.splitlines() == [
        "  1.00 s  progress: 7 relayed, 0 bounced, 0 deferred",
        " 22.00 s  progress: 9 relayed, 0 bounced, 0 deferred",
    ]


def test_strangers_words_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a host says is shown, not obeyed."""
    plain = PlainView()

    plain.tell(News(0.0, 'mx says "550 \x07\r"'))
    plain.end(failed())

    out = capsys.readouterr().out
    assert '550 \\x07\\r"' in out
    assert not {"\x07", "\r", "\x1b"} & set(out)


def test_what_went_wrong_is_listed_and_bounded() -> None:
    """Troubles first, then each kind's first problems and how many more there are."""
    told = list(verdict_lines(failed()))

    assert told == [
        "NOT as it should be:",
        "  a bug: \\x1b[31m",
        *[f"  healthy host: letter {n}" for n in range(5)],
        "  healthy host: and 3 more",
    ]


def test_json_is_a_line_for_each_kind(capsys: pytest.CaptureFixture[str]) -> None:
    """Programs read the table with stable names, and troubles on standard error."""
    told = JsonView()

    told.begin(SCENE)
    told.tell(News(0.0, "something happens"))
    told.progress(5.0, WAITING, 1000.0)
    told.end(failed())
    told.close()

    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [each["domain"] for each in rows] == list(EXPECTED)
    assert list(rows[1]) == [
        "kind", "domain", "messages", "recipients", "relayed", "bounced", "deferrals", "attempts", "median_s",
        "longest_s", "what", "as_expected", "problems",
    ]  # fmt: skip
    assert (rows[0]["as_expected"], rows[1]["as_expected"], rows[1]["attempts"]) == (False, True, 3)
    assert err == "smarthost: a bug: \\x1b[31m\n"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0, "<1 ms"), (0.0009, "<1 ms"), (0.0014, "1 ms"), (0.9994, "999 ms"), (0.9996, "1.0 s"), (3.14, "3.1 s")],
)
def test_times_are_short(seconds: float, said: str) -> None:
    """Milliseconds while that is what matters, then seconds."""
    assert duration_words(seconds) == said


def on_terminal(width: int, show: Callable[[LiveView], None]) -> list[str]:
    out = io.StringIO()
    live = LiveView(Console(file=out, force_terminal=True, width=width, height=40, color_system=None, highlight=False))
    try:
        show(live)
    finally:
        live.close()
    return out.getvalue().splitlines()


def test_a_terminal_of_40_lines_shows_the_whole_end() -> None:
    """Table, bounce, verdict and advice fit on the screen together."""
    lines = on_terminal(100, lambda live: live.end(World().judge()))

    assert len(lines) < 40
    assert max(len(line) for line in lines) <= 100
    assert "dead MX first 15 15 relayed; dead MX tried 1x in 15 1 2 ms yes" in [
        " ".join(line.split()) for line in lines
    ]
    assert any(line.startswith("╭─ one of the bounces, as ") for line in lines)
    assert any(line.startswith("Everything ended as it should in 3.5 s") for line in lines)


@pytest.mark.parametrize("width", [80, 100, 200])
def test_a_terminal_shows_a_bar_for_each_kind(width: int) -> None:
    """While it runs one sees how far each kind is and what it waits for, on any width."""
    tallies = {**WAITING, "picky.example": Tally(accepted=30, relayed=15, bounced=10)}

    def show(live: LiveView) -> None:
        live.begin(SCENE)
        live.tell(News(1.25, "something happens", Kind.BOUNCED))
        live.progress(1.3, tallies, 1000.0)

    text = "\n".join(on_terminal(width, show))

    assert "1.25 s ✗ something happens" in text
    assert "━  0/15 15 deferred, next attempt in 1.5 s" in text
    assert "━ 25/30 15 relayed, 10 bounced, 5 accepted" in text
    assert "refused recipient" in text


def test_a_bar_shows_the_share_of_each_outcome() -> None:
    """Relayed, bounced and waiting recipients have their own colours, the rest is still to come."""
    bar = _bar(Tally(relayed=4, bounced=2, waiting=1), 8, 16)

    assert bar.plain == "━" * 16
    assert [(span.end - span.start, span.style) for span in bar.spans] == [
        (8, "green"),
        (4, "magenta"),
        (2, "yellow"),
        (2, "bright_black"),
    ]


def test_a_wish_that_failed_is_red_on_a_terminal() -> None:
    """Failure is not shown in the colour of success."""
    lines = on_terminal(100, lambda live: live.end(failed()))

    assert any("45 relayed" in line and line.rstrip().endswith("NO") for line in lines)
    assert "NOT as it should be:" in lines


@pytest.mark.parametrize(
    ("live", "as_json", "term", "encoding", "chosen"),
    [
        (True, False, "xterm", "utf-8", "LiveView"),
        (False, False, "xterm", "utf-8", "PlainView"),
        (True, False, "dumb", "utf-8", "PlainView"),
        (True, False, None, "utf-8", "PlainView"),
        (True, False, "xterm", "ascii", "PlainView"),
        (True, True, "xterm", "utf-8", "JsonView"),
    ],
)
def test_the_view_fits_the_terminal(
    monkeypatch: pytest.MonkeyPatch, live: bool, as_json: bool, term: str | None, encoding: str, chosen: str
) -> None:
    """Bars only where they can be drawn."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    if term is None:
        monkeypatch.delenv("TERM", raising=False)
    else:
        monkeypatch.setenv("TERM", term)

    assert type(choose_view(live, as_json)).__name__ == chosen


def test_without_rich_there_are_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is not needed."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setitem(sys.modules, "smarthost.ops.demo.live", None)

    assert isinstance(choose_view(True, False), PlainView)


def test_the_advice_is_commands_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """What newcomers are told to type is understood by the command line."""
    monkeypatch.setattr(sys, "argv", ["/usr/bin/smarthost", "demo"])
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/smarthost")

    understood = []
    for command, _ in view.next_steps():
        words = shlex.split(command.rpartition("| ")[2])
        assert words.pop(0) == "smarthost"
        name, subcommand, rest = cli.cli.resolve_command(cli.cli.make_context("smarthost", list(words)), words)
        assert name is not None
        assert subcommand is not None
        understood.append(subcommand.make_context(name, rest).params)

    assert understood[0]["next_hop"] == "localhost:26"
    assert {params.get("state_dir", "try") for params in understood} == {"try"}


@pytest.mark.parametrize(
    ("called", "found", "name"),
    [
        ("/usr/bin/smarthost", "/usr/bin/smarthost", "smarthost"),
        ("/nowhere/bin/smarthost", "/usr/bin/smarthost", "/nowhere/bin/smarthost"),
        ("/x/smarthost/__main__.py", None, "python -m smarthost"),
    ],
)
def test_the_advice_names_us_as_we_were_called(
    monkeypatch: pytest.MonkeyPatch, called: str, found: str | None, name: str
) -> None:
    """A command copied from the screen runs the same smarthost."""
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setattr("shutil.which", lambda _: found)

    assert view.next_steps()[2][0] == f"{name} why you@b.example --state-dir try"
