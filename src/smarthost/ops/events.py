# SPDX-License-Identifier: MIT
"""`smarthost events` and `smarthost events status`: what happened, record by record, and how far it was carried.

Prints JSON Lines with stable names (docs/events.md), each with a cursor to go on from: a program that keeps the last
one it has dealt with misses nothing and may see one twice. `status` is for people, with --json for programs.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smarthost.ops import exits, options, words

if TYPE_CHECKING:
    from smarthost.ops.outbox.report import OutboxReport
    from smarthost.ops.verbs import Answer, Request

_TIMES = ("last_at", "failing_since", "next_try_at")


@click.group(invoke_without_command=True)
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens from now on, until interrupted.")
@click.option(
    "--after", metavar="CURSOR", default="", help="Only what comes behind this cursor; `now`: what is to come."
)
@click.option("--kind", "kinds", metavar="KIND", multiple=True, help="Only records of this kind; repeat it.")
@options.place
@click.pass_context
def events(
    ctx: click.Context, follow: bool, after: str, kinds: tuple[str, ...], state_dir: str | None, file: Path | None
) -> None:
    """Print what happened as JSON Lines, oldest first; with --follow what happens from now on.

    With --follow and --after CURSOR both: nothing is missed between the two.
    """
    if ctx.invoked_subcommand is not None:
        ctx.obj = state_dir, file
        return
    from smarthost.ops.verbs import EventsFind, EventsFound

    request = EventsFind(after or ("now" if follow else ""), kinds, follow)
    try:
        for answer in _ask(state_dir, file, request):
            if isinstance(answer, EventsFound) and answer.events:
                click.echo(b"\n".join(map(bytes, answer.events)))  # a terminal shows them as they are (lines.to_line)
    except KeyboardInterrupt:
        if not follow:
            raise


@events.command()
@options.place
@options.json_lines
@click.pass_context
def status(ctx: click.Context, state_dir: str | None, file: Path | None, *, as_json: bool) -> None:
    """Tell how far webhooks, file and syslog are, and what keeps them from going on."""
    from smarthost.ops.verbs import OutboxesFind, OutboxFound

    above = ctx.obj or (None, None)
    found = [
        answer.outbox
        for answer in _ask(state_dir or above[0], file or above[1], OutboxesFind())
        if isinstance(answer, OutboxFound)
    ]
    now = time.time()
    if as_json:
        for outbox in found:
            click.echo(words.json_line(outbox_fields(outbox)))
    elif not found:
        click.echo("records go nowhere but into the store: set [[webhook]], events.file or events.syslog")
    else:
        click.echo("\n\n".join(["\n".join(_whole(outbox, now)) for outbox in found]))
    if any(outbox.is_stopped for outbox in found):
        raise exits.CommandFailed("an outbox has stopped: see above", exits.UNAVAILABLE)


def outbox_fields(outbox: "OutboxReport") -> dict[str, object]:
    """Give an outbox as JSON has it: times in ISO 8601, or null."""
    fields: dict[str, object] = {name: getattr(outbox, name) for name in outbox.__struct_fields__}
    return {**fields, **{name: words.iso_or_null(getattr(outbox, name)) for name in _TIMES}}


def _whole(outbox: "OutboxReport", now: float) -> Iterator[str]:
    told = f"{words.count(outbox.delivered, 'record')} since the start"
    yield f"{words.printable(outbox.name)}  {words.printable(outbox.target)}"
    if outbox.is_stopped:
        yield f"  STOPPED: {words.printable(outbox.last_error)}"
    elif outbox.failing_since:
        since, then = words.when(outbox.failing_since, now), words.relative(outbox.next_try_at, now)
        yield f"  failing since {since}: {words.printable(outbox.last_error)}"
        yield f"  next try {then}"
    else:
        yield "  delivers" if outbox.behind_s else "  up to date"
    if outbox.behind_s:
        yield f"  behind: the oldest record it has not is {words.span(outbox.behind_s)} old"
    if outbox.last_loss:
        yield f"  LOST: {outbox.last_loss}"
    yield f"  {told}{f', the last of {words.when(outbox.last_at, now)}' if outbox.last_at else ''}"
    yield f"  cursor {outbox.cursor}"


def _ask(state_dir: str | None, file: Path | None, request: "Request") -> "Iterator[Answer]":
    from smarthost.config import find_state_dir
    from smarthost.ops.client import ask

    yield from ask(find_state_dir(state_dir, file), request)
