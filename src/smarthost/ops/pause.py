# SPDX-License-Identifier: MIT
"""`smarthost pause` and `smarthost resume`: hold back all deliveries of a daemon, and let them go on.

With --json a line with paused (bool), messages and recipients (unfinished).
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smarthost.ops import exits, options, words

if TYPE_CHECKING:
    from smarthost.ops.verbs import Pause, Resume

PAUSED = "paused: mail is taken and kept, nothing is delivered before `smarthost resume`"


@click.command()
@options.place
@options.json_lines
def pause(state_dir: str | None, file: Path | None, *, as_json: bool) -> None:
    """Take mail, but deliver none, expire none and report none until `smarthost resume`.

    What is being tried at this moment ends as usual. A restart does not end the pause.
    """
    from smarthost.ops.verbs import Pause

    _, messages, recipients = _say(state_dir, file, Pause())
    if as_json:
        click.echo(words.json_line({"paused": True, "messages": messages, "recipients": recipients}))
    else:
        click.echo(f"{PAUSED} ({_counted(messages, recipients)})")


@click.command()
@click.argument("what", required=False)
@options.place
@options.json_lines
def resume(what: str | None, state_dir: str | None, file: Path | None, *, as_json: bool) -> None:
    """Let deliveries go on after `smarthost pause`, `serve --paused` or a restored backup.

    With WHAT, a destination or sender as in `smarthost suspend`, end that suspension instead.
    """
    from smarthost.ops.verbs import Resume

    if what is not None:
        _end_suspension(what, state_dir, file, as_json=as_json)
        return
    was_paused, messages, recipients = _say(state_dir, file, Resume())
    if as_json:
        click.echo(words.json_line({"paused": False, "messages": messages, "recipients": recipients}))
    elif was_paused:
        click.echo(f"resumed: {_counted(messages, recipients)} go on")
    else:
        click.echo(f"it was not paused ({_counted(messages, recipients)})")


def _end_suspension(what: str, state_dir: str | None, file: Path | None, *, as_json: bool) -> None:
    from smarthost.ops.suspend import count_waiting, fields_of, tell, waiting_words
    from smarthost.ops.verbs import EndSuspension

    waiting = count_waiting(what, state_dir, file)  # before it goes
    for suspension in tell(state_dir, file, EndSuspension(what, os.environ.get("SUDO_USER", ""))):
        if as_json:
            click.echo(words.json_line({**fields_of(suspension), "ended": True, "waiting": waiting}))
        else:
            click.echo(f"{words.printable(suspension.what)} goes on ({waiting_words(waiting)})")


def _counted(messages: int, recipients: int) -> str:
    return f"{words.count(messages, 'message')}, {words.count(recipients, 'recipient')}"


def _say(state_dir: str | None, file: Path | None, request: "Pause | Resume") -> tuple[bool, int, int]:
    """Give if it was paused before, and how much is in the queue."""
    from smarthost.config import find_state_dir
    from smarthost.ops.client import ask
    from smarthost.ops.verbs import PauseChanged

    for answer in ask(find_state_dir(state_dir, file), request):
        if isinstance(answer, PauseChanged):
            return answer.was_paused, answer.messages, answer.recipients
    raise exits.CommandFailed("the daemon did not say what it did", exits.SOFTWARE)
