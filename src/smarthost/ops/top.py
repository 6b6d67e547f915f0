# SPDX-License-Identifier: MIT
"""`smarthost top`: what the relay does right now, in a terminal, again every few seconds; ends with q or Ctrl-C.

Shows rates between two looks, the busiest destinations and reasons, and broken hosts. Asks what `queue summary` and
`hosts list` ask. Without a terminal, or with -1, it looks twice, prints once and ends.
"""

import contextlib
import select
import shutil
import sys
import termios
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smarthost.ops import exits, options, words

if TYPE_CHECKING:
    from smarthost.mail.explanation import HostReport
    from smarthost.ops.verbs import Watched

_RATES = ("accepted", "relayed", "deferred", "bounced", "expired", "cancelled")
_NAMES = 8
_CLEAR = "\x1b[H\x1b[2J"
_HIDE, _SHOW = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


@click.command()
@click.option("-d", "--delay", type=click.FloatRange(0.5, 3600), default=2.0, help="Seconds between two looks [2].")
@click.option("-1", "--once", is_flag=True, help="Print one view and end.")
@options.place
def top(delay: float, state_dir: str | None, file: Path | None, *, once: bool) -> None:
    """Watch the relay work: rates, destinations, reasons, broken hosts. Ends with q or Ctrl-C."""
    before = _look(state_dir, file)
    if once or not sys.stdout.isatty():
        time.sleep(min(delay, 2.0))
        click.echo("\n".join(_view(state_dir, file, before, _look(state_dir, file))))
        return
    with _screen(), contextlib.suppress(KeyboardInterrupt):
        while True:
            if _is_ended(delay):
                return
            now = _look(state_dir, file)
            columns, rows = shutil.get_terminal_size()
            lines = [line[:columns] for line in _view(state_dir, file, before, now)][: rows - 1]
            click.echo(_CLEAR + "\r\n".join(lines), nl=False)
            before = now


@contextlib.contextmanager
def _screen() -> Iterator[None]:
    """Take the terminal over, and give it back as it was."""
    descriptor = sys.stdin.fileno()
    saved = termios.tcgetattr(descriptor) if sys.stdin.isatty() else None
    click.echo(_HIDE, nl=False)
    try:
        if saved is not None:
            tty.setcbreak(descriptor)
        yield
    finally:
        if saved is not None:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, saved)
        click.echo(_SHOW, nl=False)


def _is_ended(delay: float) -> bool:
    """Wait, and say whether q was pressed meanwhile."""
    if not sys.stdin.isatty():
        time.sleep(delay)
        return False
    return bool(select.select([sys.stdin], [], [], delay)[0]) and sys.stdin.read(1) in ("q", "Q")


def _look(state_dir: str | None, file: Path | None) -> "Watched":
    from smarthost.config import find_state_dir
    from smarthost.ops.client import ask
    from smarthost.ops.verbs import Watch, Watched

    for answer in ask(find_state_dir(state_dir, file), Watch()):
        if isinstance(answer, Watched):
            return answer
    raise exits.CommandFailed("the daemon did not say what it does", exits.SOFTWARE)


def _hosts(state_dir: str | None, file: Path | None) -> "list[HostReport]":
    from smarthost.config import find_state_dir
    from smarthost.ops.client import ask
    from smarthost.ops.verbs import HostFound, HostsFind

    return [
        answer.host for answer in ask(find_state_dir(state_dir, file), HostsFind()) if isinstance(answer, HostFound)
    ]


def _view(state_dir: str | None, file: Path | None, before: "Watched", now: "Watched") -> Iterator[str]:
    from smarthost.ops.hosts import probe_words, waiting_words
    from smarthost.ops.summary import fetch_summary, table_of

    summary, hosts = fetch_summary(state_dir, file, _NAMES), _hosts(state_dir, file)
    yield f"smarthost  {words.local_time(now.at)}"
    yield "  ".join(_rates(before, now))
    figures = now.figures
    yield (
        f"queue {words.count(summary.messages, 'message')}, {words.count(summary.recipients, 'recipient')}"
        + (f", oldest {words.relative(summary.oldest_at, now.at)}" if summary.oldest_at else "")
    )
    yield (
        f"sessions in {figures.get('sessions_in', 0):.0f}  attempts {figures.get('attempts', 0):.0f}"
        f"  lanes {figures.get('lanes', 0):.0f}  unsettled {figures.get('unsettled', 0):.0f}"
        f"  hosts broken {len(hosts):,}"
    )
    for title, counts in (("DESTINATION", summary.by_destination), ("REASON", summary.by_reason)):
        if counts:
            yield ""
            yield from table_of(title, counts, now.at)
    if hosts:
        yield ""
        yield "BROKEN HOSTS"
        for host in hosts[:_NAMES]:
            probe = f"next probe {probe_words(host, now.at)}"
            line = f"{host.name} [{host.address}]  {probe}, {waiting_words(host, names=False)}: {host.detail}"
            yield words.printable(line)


def _rates(before: "Watched", now: "Watched") -> Iterator[str]:
    lasted_s = max(0.1, now.at - before.at)
    for name in _RATES:
        rate = max(0.0, now.counts.get(name, 0.0) - before.counts.get(name, 0.0)) / lasted_s
        yield f"{name} {rate:,.1f}/s"
