# SPDX-License-Identifier: MIT
"""`smarthost queue check`: does every recipient have one owner and one next event? Exit 65 if anything is wrong.

A running daemon is asked, which knows what is under way and repairs what it can. A stopped one's state directory is
opened for reading, the only case in which a command opens the database. JSON Lines: a finding is fault, id, recipient,
why, repaired; the last line is sound, online, and counts.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from smarthost.ops import exits, options, words

if TYPE_CHECKING:
    from smarthost.backends.sqlite.inspect import Inspection
    from smarthost.ops.verbs import Checked


@click.command()
@options.place
@options.json_lines
def check(state_dir: str | None, file: Path | None, *, as_json: bool) -> int:
    """Check that no recipient is stuck or damaged; exit 65 if one is.

    With a running daemon, all that is under way and all that waits is looked at, and a lease that nobody has is taken
    back. Without one, its state directory is looked at and not changed: the database's integrity, contents that are
    missing, recipients that nobody would ever touch.
    """
    from smarthost.config import find_state_dir
    from smarthost.ops.client import NoDaemon

    where = find_state_dir(state_dir, file)
    try:
        return _check_online(where, as_json)
    except NoDaemon:
        return _check_offline(where, as_json)


def _check_online(where: Path, as_json: bool) -> int:
    from smarthost.ops.client import ask
    from smarthost.ops.verbs import Checked, QueueCheck, Violation

    findings = 0
    checked: Checked | None = None
    for answer in ask(where, QueueCheck()):
        if isinstance(answer, Violation):
            found = answer.finding
            findings += 1
            whom = found.recipient or f"recipient {found.n}"
            _tell(as_json, found.fault.value, found.id, whom, found.why, found.is_repaired)
        elif isinstance(answer, Checked):
            checked = answer
    if checked is None:
        raise exits.CommandFailed("the daemon stopped before it had told everything", exits.TEMPORARY)
    _sum_up_online(checked, findings, as_json)
    return exits.BAD_INPUT if findings else exits.OK


def _sum_up_online(checked: "Checked", findings: int, as_json: bool) -> None:
    figures = checked.figures
    if as_json:
        click.echo(
            words.json_line(
                {
                    "sound": not findings,
                    "online": True,
                    "messages": checked.messages,
                    "unfinished": checked.recipients,
                    "findings": findings,
                    "since_start": {
                        "looks": figures.looks,
                        "recipients_checked": figures.recipients,
                        "rounds": figures.rounds,
                        "last_round_at": words.iso_or_null(figures.ended_at),
                        "findings": figures.findings,
                        "repaired": figures.repaired,
                    },
                }
            )
        )
        return
    click.echo(f"{_counts(checked.messages, checked.recipients)}: {_verdict(findings)}")
    seen = ", ".join([f"{number} {fault}" for fault, number in figures.findings.items()]) or "none"
    click.echo(
        f"since the daemon's start: {words.count(figures.rounds, 'round')}, {words.count(figures.looks, 'look')} at"
        f" leases, findings: {seen}, repaired: {figures.repaired}"
    )


def _check_offline(where: Path, as_json: bool) -> int:
    inspection = _inspect(where)
    for damage in inspection.damages:
        _tell(as_json, damage.fault, damage.id, damage.recipient, damage.why, is_repaired=False)
    found = len(inspection.damages)
    if as_json:
        click.echo(
            words.json_line(
                {
                    "sound": not found,
                    "online": False,
                    "schema": inspection.schema,
                    "messages": inspection.messages,
                    "unfinished": inspection.unfinished,
                    "due": inspection.due,
                    "reports_owed": inspection.reports_owed,
                    "findings": found,
                    "notes": inspection.notes,
                }
            )
        )
    else:
        for note in inspection.notes:
            click.echo(f"note: {words.printable(note)}")
        owed = words.count(inspection.reports_owed, "report")
        click.echo(
            f"no daemon runs on {where}; {_counts(inspection.messages, inspection.unfinished)}"
            f" ({inspection.due:,} due now), {owed} owed: {_verdict(found)}"
        )
    return exits.BAD_INPUT if found else exits.OK


def _inspect(where: Path) -> "Inspection":
    """Take the directory, so that no daemon starts meanwhile, and look at it. Raises: CommandFailed, StoreError."""
    import asyncio
    import os
    import time

    from smarthost.backends.clock import SystemClock
    from smarthost.backends.sqlite.directory import take
    from smarthost.backends.sqlite.inspect import NoQueue, TooNew, find_queue, inspect
    from smarthost.mail.errors import StoreLocked

    try:
        find_queue(where)
        lock = asyncio.run(take(where, SystemClock()))
        try:
            return inspect(where, time.time())
        finally:
            os.close(lock)
    except NoQueue as error:
        raise exits.CommandFailed(str(error), exits.NO_INPUT) from error
    except TooNew as error:
        raise exits.CommandFailed(str(error), exits.UNAVAILABLE) from error
    except StoreLocked as error:
        raise exits.CommandFailed(f"no daemon answers, but {error}", exits.TEMPORARY) from error


def _tell(as_json: bool, fault: str, id: str, recipient: str, why: str, is_repaired: bool) -> None:
    if as_json:
        fields: dict[str, Any] = {"fault": fault, "id": id, "recipient": recipient, "why": why, "repaired": is_repaired}
        click.echo(words.json_line(fields))
        return
    whose = " ".join(filter(None, (id, recipient)))
    repaired = " (repaired)" if is_repaired else ""
    click.echo(words.printable(f"{whose + ': ' if whose else ''}{fault}: {why}{repaired}"))


def _counts(messages: int, unfinished: int) -> str:
    return f"{words.count(messages, 'message')}, {words.count(unfinished, 'unfinished recipient')}"


def _verdict(findings: int) -> str:
    return words.count(findings, "finding") if findings else "sound"
