# SPDX-License-Identifier: MIT
"""`smarthost suspend`, `suspensions`: hold back a destination or a sender; `smarthost resume WHAT` ends it.

With --json a line for each: what, by, reason, since; of `suspend` and `resume` also waiting (recipients, now).
"""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smarthost.ops import exits, options, words

if TYPE_CHECKING:
    from smarthost.mail.story import Suspension
    from smarthost.ops.verbs import Request
    from smarthost.queue.store import Filter


@click.command()
@click.argument("what")
@options.reason
@options.place
@options.json_lines
def suspend(what: str, reason: str, state_dir: str | None, file: Path | None, *, as_json: bool) -> None:
    """Try nothing for a destination (example.org), or hold all mail of a sender, until `smarthost resume WHAT`.

    A destination is exactly that domain: its subdomains go on. A sender is a reverse-path (ann@example.org), a domain
    of reverse-paths (@example.org), or who logs in (user:ann).

    Mail is taken as before and survives restarts. That for a destination expires in its time (retry.expire_after), that
    of a sender is held for 30 days.
    """
    from smarthost.ops.verbs import Suspend

    _refuse_bare_word(what, state_dir, file)
    for suspension in tell(state_dir, file, Suspend(what, reason, os.environ.get("SUDO_USER", ""))):
        waiting = count_waiting(suspension.what, state_dir, file)
        if as_json:
            click.echo(words.json_line({**fields_of(suspension), "waiting": waiting}))
        else:
            held = "all its mail is held" if "@" in suspension.what or ":" in suspension.what else "nothing is tried"
            click.echo(f"{words.printable(suspension.what)} is suspended: {held} ({waiting_words(waiting)})")


def _refuse_bare_word(what: str, state_dir: str | None, file: Path | None) -> None:
    """Take "ann" for the slip that it mostly is: `queue summary` shows so who logs in, and no domain is called so.

    Raises: CommandFailed: no mail waits for it. A destination that has none yet may be written "ann.".
    """
    if any(sign in what for sign in ".:@[<") or not what.strip() or count_waiting(what, state_dir, file):
        return
    shown = words.printable(what[:80])
    raise exits.CommandFailed(
        f"no mail waits for a destination {shown}: did you mean user:{shown}? (a destination all the same: {shown}.)",
        exits.USAGE,
    )


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


def count_waiting(what: str, state_dir: str | None, file: Path | None) -> int:
    """Count the recipients in the queue that a suspension of this is about. Raises: CommandFailed."""
    from smarthost.config import find_state_dir
    from smarthost.ops.client import ask
    from smarthost.ops.verbs import ChangedSome, QueueChange

    answers = ask(find_state_dir(state_dir, file), QueueChange("hold", _mail_of(what), dry_run=True))
    return sum(len(some.recipients) + len(some.wished) for some in answers if isinstance(some, ChangedSome))


def waiting_words(number: int) -> str:
    """Give "waiting: 2 recipients"."""
    return f"waiting: {words.count(number, 'recipient')}"


def _mail_of(what: str) -> "Filter":
    from smarthost.mail.address import to_domain
    from smarthost.queue.store import Filter

    bare = what.strip().removeprefix("<").removesuffix(">")
    if bare.startswith("user:"):
        return Filter(sender=bare.removeprefix("user:"))
    if bare.startswith("@"):
        return Filter(sender_domain=bare.removeprefix("@").lower())
    if "@" in bare:
        return Filter(reverse_path=bare)
    try:
        return Filter(domain=to_domain(bare))
    except ValueError as error:
        raise exits.CommandFailed(f"{words.printable(what[:80])} is no destination: {error}", exits.USAGE) from error


def fields_of(suspension: "Suspension") -> dict[str, object]:
    """Give a suspension under the names that are stable."""
    return {
        "what": suspension.what,
        "by": suspension.by,
        "reason": suspension.reason,
        "since": words.iso_utc(suspension.since),
    }
