# SPDX-License-Identifier: MIT
"""`smarthost drain --to HOST:PORT`: move the queue to another node with its schedule; `--cancel` takes mail again.

How far it is goes to standard error; what stays, with the reason, and how it ended to standard output. With --json a
line for each: event "moving" (moved, left, waits_for), "staying" (id, recipients, why), at last "ended" (outcome,
moved, left, why). Exit codes: 0 everything has gone; 75 something stays, or it was broken off; 69 the other node does
not take queues from this one.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from smarthost.ops import exits, options, words

if TYPE_CHECKING:
    from smarthost.mail.progress import DrainEnd, Moving, Staying
    from smarthost.ops.verbs import Answer


@click.command()
@click.option(
    "--to", "node", metavar="HOST:PORT", help="The node that takes the queue; it needs our address in transfer_from."
)
@click.option("--cancel", "is_cancel", is_flag=True, help="Take mail again, or end a drain under way.")
@options.place
@options.json_lines
def drain(node: str | None, state_dir: str | None, file: Path | None, *, is_cancel: bool, as_json: bool) -> int:
    """Move the whole queue to another node of smarthost, each message with its schedule.

    New mail is refused with 421 and 451 meanwhile, and no delivery begins. What cannot be moved is named and stays;
    then, and when this command is interrupted, this node goes on as before. When everything has gone it takes no mail
    until it is stopped, or until `smarthost drain --cancel`.
    """
    from smarthost.config import find_state_dir

    if (node is None) == (not is_cancel):
        raise click.UsageError("say either --to HOST:PORT or --cancel")
    where = find_state_dir(state_dir, file)
    return _cancel(where, as_json=as_json) if node is None else _drain(where, node, as_json=as_json)


def _drain(where: Path, node: str, *, as_json: bool) -> int:
    from smarthost.config.units import endpoint
    from smarthost.ops.client import ask
    from smarthost.ops.verbs import Drain, DrainEnded

    try:
        there = endpoint()(node)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--to") from error
    teller = _Teller(str(there), as_json=as_json)
    for answer in ask(where, Drain(there.host, there.port)):
        teller.tell(answer)
        if isinstance(answer, DrainEnded):
            return _code_for(answer.end)
    raise exits.CommandFailed("the daemon did not say how it ended", exits.SOFTWARE)


def _code_for(end: "DrainEnd") -> int:
    from smarthost.mail.progress import DrainOutcome

    if end.outcome is DrainOutcome.DRAINED:
        return exits.OK
    return exits.UNAVAILABLE if end.outcome is DrainOutcome.NOT_OFFERED else exits.TEMPORARY


class _Teller:
    """Says what the daemon tells."""

    def __init__(self, node: str, *, as_json: bool) -> None:
        self._node = node
        self._as_json = as_json
        self._said = ""

    def tell(self, answer: "Answer") -> None:
        from smarthost.ops.verbs import DrainEnded, DrainMoving, DrainStaying

        match answer:
            case DrainMoving(moving):
                self._tell_moving(moving)
            case DrainStaying(staying):
                self._tell_staying(staying)
            case DrainEnded(end):
                self._tell_end(end)

    def _tell_moving(self, moving: "Moving") -> None:
        if self._as_json:
            fields = {"moved": moving.moved, "left": moving.left, "waits_for": moving.waits_for or None}
            click.echo(words.json_line({"event": "moving", **fields}))
            return
        waits = f"; waiting for {moving.waits_for}" if moving.waits_for else ""
        said = f"{words.count(moving.moved, 'message')} moved, {moving.left:,} left when last counted{waits}"
        if said != self._said:
            self._said = said
            click.echo(said, err=True)

    def _tell_staying(self, staying: "Staying") -> None:
        if self._as_json:
            fields = {"id": staying.id, "recipients": staying.recipients, "why": staying.why}
            click.echo(words.json_line({"event": "staying", **fields}))
        else:
            recipients = ", ".join(map(words.printable, staying.recipients))
            click.echo(f"{staying.id} stays ({recipients}): {words.printable(staying.why)}")

    def _tell_end(self, end: "DrainEnd") -> None:
        from smarthost.mail.progress import DrainOutcome

        if self._as_json:
            fields = {"outcome": end.outcome.value, "moved": end.moved, "left": end.left, "why": end.why or None}
            click.echo(words.json_line({"event": "ended", **fields}))
            return
        why = f": {words.printable(end.why)}" if end.why else ""
        if end.outcome is DrainOutcome.DRAINED:
            click.echo(
                f"drained: {words.count(end.moved, 'message')} moved to {self._node}, the queue is empty;"
                " no mail is taken here until `smarthost drain --cancel`, or a restart"
            )
        else:
            moved = f"{words.count(end.moved, 'message')} moved to {self._node}, {end.left:,} left here"
            click.echo(f"{end.outcome.value}: {moved}; this node goes on as before{why}")


def _cancel(where: Path, *, as_json: bool) -> int:
    from smarthost.ops.client import ask
    from smarthost.ops.verbs import DrainCancel, DrainCancelled

    for answer in ask(where, DrainCancel()):
        if isinstance(answer, DrainCancelled):
            if as_json:
                click.echo(words.json_line({"event": "cancelled", "was_drained": answer.was_drained}))
            else:
                click.echo("mail is taken again" if answer.was_drained else "it was not drained: mail is taken")
    return exits.OK
