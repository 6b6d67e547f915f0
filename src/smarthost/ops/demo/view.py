# SPDX-License-Identifier: MIT
"""How the demo is told: what a View is, plain lines for pipes and logs, JSON Lines for programs; and the shared words.

No escape codes here, and at most one progress line a second, none that says what the one before said. The view for
terminals is in `live`.
"""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import click
import msgspec

from smarthost.ops import words
from smarthost.ops.demo.judge import Bounce, Outcome, Row
from smarthost.ops.demo.ledger import News, Tally
from smarthost.ops.demo.scenery import DESTINATIONS, HOME

KINDS: Mapping[str, str] = {**{each.domain: each.kind for each in DESTINATIONS}, HOME: "bounces"}
EXPECTED: Mapping[str, int] = {
    **{each.domain: each.messages * (2 if each.refused else 1) for each in DESTINATIONS},
    HOME: sum(each.messages for each in DESTINATIONS if each.status),
}
PROGRESS_S = 1.0
PROBLEMS_TOLD = 5  # of one kind
HEADINGS = ("KIND", "MESSAGES", "WHAT HAPPENED", "ATTEMPTS", "TIME", "AS EXPECTED")
NEXT_STEPS = "What to try next (docs/commands.md knows the rest):"


class View(Protocol):
    """Whoever tells the demo; all calls come from the event loop, and none may wait."""

    def begin(self, lines: Sequence[str]) -> None:
        """Say what stands, a line each."""

    def tell(self, news: News) -> None:
        """Say that something notable happened."""

    def progress(self, at_s: float, tallies: Mapping[str, Tally], now: float) -> None:
        """Say how far it is; called several times a second. `now` is wall seconds."""

    def end(self, outcome: Outcome) -> None:
        """Tell the outcome; also called when nothing else was."""

    def close(self) -> None:
        """Leave the terminal as it was; harmless when repeated."""


class PlainView:
    """Plain lines on standard output."""

    def __init__(self) -> None:
        self._next_progress_s = PROGRESS_S
        self._progress = ""  # as it was told last

    def begin(self, lines: Sequence[str]) -> None:
        for line in (*lines, ""):
            click.echo(line)

    def tell(self, news: News) -> None:
        click.echo(f"{news.at_s:6.2f} s  {words.printable(news.sentence)}")

    def progress(self, at_s: float, tallies: Mapping[str, Tally], now: float) -> None:
        if at_s < self._next_progress_s:
            return
        self._next_progress_s = at_s + PROGRESS_S
        total = Tally()
        for tally in tallies.values():
            total.relayed += tally.relayed
            total.bounced += tally.bounced
            total.waiting += tally.waiting
        waits = [tally.next_at for tally in tallies.values() if tally.waiting]
        wait = f", next attempt in {max(0.0, min(waits) - now):.1f} s" if waits else ""
        progress = f"{total.relayed} relayed, {total.bounced} bounced, {total.waiting} deferred{wait}"
        if progress != self._progress:
            self._progress = progress
            click.echo(f"{at_s:6.2f} s  progress: {progress}")

    def end(self, outcome: Outcome) -> None:
        click.echo()
        rows = [HEADINGS, *(row_cells(row) for row in outcome.rows)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
        for line in words.aligned(rows, widths):
            click.echo(line)
        if outcome.bounce is not None:
            bounce = outcome.bounce
            click.echo(f"\nOne of the bounces, as {bounce.recipient.strip('<>')} reads it:\n")
            click.echo(textwrap.indent(bounce_text(bounce), "  | ", lambda _: True))
        click.echo()
        for line in verdict_lines(outcome):
            click.echo(line)
        click.echo(f"\n{NEXT_STEPS}")
        for command, why in next_steps():
            click.echo(f"  {command}{f'  # {why}' if why else ''}")

    def close(self) -> None: ...


class JsonView:
    """A JSON line for each row on standard output; troubles of no row on standard error."""

    def begin(self, lines: Sequence[str]) -> None: ...
    def tell(self, news: News) -> None: ...
    def progress(self, at_s: float, tallies: Mapping[str, Tally], now: float) -> None: ...

    def end(self, outcome: Outcome) -> None:
        for row in outcome.rows:
            click.echo(msgspec.json.encode(row).decode())
        for trouble in outcome.troubles:
            click.echo(f"smarthost: {words.printable(trouble)}", err=True)

    def close(self) -> None: ...


# Shared words


def row_cells(row: Row) -> tuple[str, ...]:
    """Give the cells of a row under HEADINGS."""
    return (
        row.kind,
        str(row.messages),
        words.printable(row.what),
        str(row.attempts),
        duration_words(row.median_s),
        "yes" if row.as_expected else "NO",
    )


def duration_words(seconds: float) -> str:
    """Give milliseconds below a second, else seconds with a tenth."""
    if seconds < 0.001:
        return "<1 ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.1f} s"


def bounce_text(bounce: Bounce) -> str:
    """Give the bounce as a mail program shows it; the host's words in it are made harmless for a terminal."""
    head = (f"From: {bounce.sender}", f"To: {bounce.recipient}", f"Subject: {bounce.subject}", "")
    return "\n".join(words.printable(line) for line in (*head, *bounce.text.splitlines()))


def verdict_lines(outcome: Outcome) -> Iterator[str]:
    """Say whether all went well, else what did not."""
    messages = sum(row.messages for row in outcome.rows if row.domain != HOME)
    if outcome.is_well:
        yield (
            f"Everything ended as it should in {outcome.elapsed_s:.1f} s: {messages} messages, "
            "checked octet for octet; the queue is empty."
        )
        return
    yield "NOT as it should be:"
    for trouble in outcome.troubles:
        yield f"  {words.printable(trouble)}"
    for row in outcome.rows:
        for problem in row.problems[:PROBLEMS_TOLD]:
            yield f"  {row.kind}: {words.printable(problem)}"
        if len(row.problems) > PROBLEMS_TOLD:
            yield f"  {row.kind}: and {len(row.problems) - PROBLEMS_TOLD} more"


def next_steps() -> tuple[tuple[str, str], ...]:
    """Give commands that work where the demo worked, each with what it shows."""
    name = _own_name()
    return (
        (f"{name} serve --state-dir try --next-hop localhost:26", "takes mail at 127.0.0.1:2525"),
        (f"echo Subject: hi | {name} send --state-dir try --from me@a.example --to you@b.example", ""),
        (f"{name} why you@b.example --state-dir try", "it waits, and why: nobody is at port 26"),
    )


def _own_name() -> str:
    """Give what the reader types to run us."""
    called = Path(sys.argv[0])
    if called.name != "smarthost":
        return "python -m smarthost"
    if shutil.which("smarthost") == str(called.absolute()):
        return "smarthost"
    shorter = os.path.relpath(called)
    return shorter if len(shorter) < len(str(called)) else str(called)
