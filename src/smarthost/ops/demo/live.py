# SPDX-License-Identifier: MIT
"""The demo on a terminal: events scroll by, below them a bar for each kind of destination; then table, bounce, advice.

Needs rich (the extra `rich`). Only `ops.demo` imports it, and only for a terminal.
"""

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from smarthost.mail.record import Kind
from smarthost.ops import words
from smarthost.ops.demo.judge import Outcome
from smarthost.ops.demo.ledger import News, Tally
from smarthost.ops.demo.view import (
    EXPECTED,
    HEADINGS,
    KINDS,
    NEXT_STEPS,
    bounce_text,
    next_steps,
    row_cells,
    verdict_lines,
)

_BAR = range(10, 31)  # cells; what else stands in its line needs 70
_BESIDE_BAR = 70
_JUSTIFIED: tuple[JustifyMethod, ...] = ("left", "left", "right", "left")
_NO_TALLY = Tally()
_COLOURS = (("relayed", "green"), ("bounced", "magenta"), ("waiting", "yellow"))
_SIGNS: Mapping[Kind | None, tuple[str, str]] = {
    Kind.RELAYED: ("✓", "green"),
    Kind.DEFERRED: ("↻", "yellow"),
    Kind.POSTPONED: ("↻", "yellow"),
    Kind.BOUNCED: ("✗", "magenta"),
}


class LiveView:
    """A View for a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._live: Live | None = None

    def begin(self, lines: Sequence[str]) -> None:
        title, *rest = lines
        self._console.print(Text(title, "bold"))
        for line in rest:
            self._console.print(Text(line, "dim"))
        self._console.print()
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()

    def tell(self, news: News) -> None:
        sign, colour = _SIGNS.get(news.kind, ("·", "dim"))
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_row(Text(f"{news.at_s:6.2f} s", "dim"), Text(sign, colour), Text(words.printable(news.sentence)))
        self._console.print(line)

    def progress(self, at_s: float, tallies: Mapping[str, Tally], now: float) -> None:
        if self._live is not None:
            cells = max(_BAR[0], min(self._console.width - _BESIDE_BAR, _BAR[-1]))
            self._live.update(_progress(at_s, tallies, now, cells), refresh=True)

    def end(self, outcome: Outcome) -> None:
        self.close()
        console = self._console
        console.print(_table(outcome))
        if outcome.bounce is not None:
            title = f"one of the bounces, as {outcome.bounce.recipient.strip('<>')} reads it"
            console.print(Panel(Text(bounce_text(outcome.bounce)), title=title, title_align="left", border_style="dim"))
        for line in verdict_lines(outcome):
            console.print(Text(line, "bold green" if outcome.is_well else "red"))
        console.print(Text(f"\n{NEXT_STEPS}", "bold"))
        for command, why in next_steps():
            console.print(Text.assemble("  ", (command, "cyan"), (f"  # {why}" if why else "", "dim")), soft_wrap=True)

    def close(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()


def _progress(at_s: float, tallies: Mapping[str, Tally], now: float, cells: int) -> RenderableType:
    """Draw a bar of so many cells for each kind: what is relayed, bounced, waiting, and still to come."""
    grid = Table.grid(padding=(0, 1))
    for justify in _JUSTIFIED:
        grid.add_column(justify=justify, no_wrap=True)
    for domain, kind in KINDS.items():
        tally = tallies.get(domain, _NO_TALLY)
        expected = EXPECTED[domain]
        grid.add_row(f"  {kind}", _bar(tally, expected, cells), f"{tally.ended}/{expected}", _now(tally, now))
    return Group(Text(), grid, Text(f"\n  {at_s:.1f} s", "dim"))


def _bar(tally: Tally, expected: int, cells: int) -> Text:
    bar = Text()
    counted = 0
    for name, colour in _COLOURS:
        counted += getattr(tally, name)
        bar.append("━" * (min(cells, counted * cells // expected) - len(bar)), colour)
    return bar.append("━" * (cells - len(bar)), "bright_black")


def _now(tally: Tally, now: float) -> Text:
    """Say how the recipients of one kind stand."""
    text = Text()
    for name, colour in _COLOURS:
        if number := getattr(tally, name):
            text.append(", " if text else "")
            text.append(f"{number} {'deferred' if name == 'waiting' else name}", colour)
    if tally.waiting:
        wait_s = tally.next_at - now
        text.append(f", next attempt in {wait_s:.1f} s" if wait_s > 0 else ", being tried now", "dim")
    elif tally.accepted > tally.ended:
        text.append(f"{', ' if text else ''}{tally.accepted - tally.ended} accepted", "dim")
    return text


def _table(outcome: Outcome) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for heading in HEADINGS:
        is_number = heading in ("MESSAGES", "ATTEMPTS", "TIME")
        table.add_column(heading.lower(), justify="right" if is_number else "left", no_wrap=heading == "KIND")
    for row in outcome.rows:
        *cells, verdict = row_cells(row)
        table.add_row(*cells, Text(verdict, "green" if row.as_expected else "bold red"))
    return table
