# SPDX-License-Identifier: MIT
"""`smarthost suspend`, `suspensions`: hold back a destination or a sender; `smarthost resume WHAT` ends it.

With --json a line for each: what, by, reason, since.
"""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smarthost.ops import options, words

if TYPE_CHECKING:
    from smarthost.mail.story import Suspension
    from smarthost.ops.verbs import Request


@click.command()
@click.argument("what")
@options.reason
@options.place
@options.json_lines
def suspend(what: str, reason: str, state_dir: str | None, file: Path | None, *, as_json: bool) -> None:
    """Try nothing for a destination (example.org), or hold all mail of a sender, until `smarthost resume WHAT`.

    A sender is a reverse-path (ann@example.org), a domain of reverse-paths (@example.org), or who logs in (user:ann).
    Mail is taken as before, survives restarts, and expires in its time.
    """
    from smarthost.ops.verbs import Suspend

    for suspension in tell(state_dir, file, Suspend(what, reason, os.environ.get("SUDO_USER", ""))):
        if as_json:
            click.echo(words.json_line(fields_of(suspension)))
        else:
            held = "all its mail is held" if "@" in suspension.what or ":" in suspension.what else "nothing is tried"
            click.echo(f"{words.printable(suspension.what)} is suspended: {held}")


@click.command()
@options.place
@options.json_lines
def suspensions(state_dir: str | None, file: Path | None, *, as_json: bool) -> None:
    """List what is suspended, longest first."""
    from smarthost.ops.verbs import SuspensionsFind

    found = tell(state_dir, file, SuspensionsFind())
    for suspension in found:
        if as_json:
            click.echo(words.json_line(fields_of(suspension)))
            continue
        why = f": {suspension.reason}" if suspension.reason else ""
        line = f"{suspension.what}  by {suspension.by or 'an operator'}{why}"
        click.echo(f"{words.printable(line)}  ({words.relative(suspension.since, time.time())})")
    if not found and not as_json:
        click.echo("nothing is suspended")


def tell(state_dir: str | None, file: Path | None, request: "Request") -> "list[Suspension]":
    """Ask the daemon about suspensions. Raises: CommandFailed."""
    from smarthost.config import find_state_dir
    from smarthost.ops.client import ask
    from smarthost.ops.verbs import SuspensionFound

    answers = ask(find_state_dir(state_dir, file), request)
    return [answer.suspension for answer in answers if isinstance(answer, SuspensionFound)]


def fields_of(suspension: "Suspension") -> dict[str, object]:
    """Give a suspension under the names that are stable."""
    return {
        "what": suspension.what,
        "by": suspension.by,
        "reason": suspension.reason,
        "since": words.iso_utc(suspension.since),
    }
