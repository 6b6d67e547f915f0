# SPDX-License-Identifier: MIT
"""`smarthost queue summary`: the queue by destination, by sender and by reason, with the oldest of each.

With --json one object: messages, recipients, oldest_at, is_whole, and by_destination, by_sender, by_reason: lists of
name, recipients, due, held, oldest_at, oldest_id. Times are ISO 8601 in UTC.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smarthost.ops import exits, options, words

if TYPE_CHECKING:
    from smarthost.mail.story import Count, Summary

NAMES = 10
_NAME_LENGTH = 100
_WIDTHS = (10, 8, 8, 10)


@click.command()
@click.option("-n", "names", type=click.IntRange(1, 1000), default=NAMES, help=f"Names of each kind [{NAMES}].")
@options.place
@options.json_lines
def summary(names: int, state_dir: str | None, file: Path | None, *, as_json: bool) -> None:
    """Count what waits by destination, by sender and by reason."""
    found = fetch_summary(state_dir, file, names)
    if as_json:
        click.echo(words.json_line(_fields(found)))
    else:
        click.echo("\n".join(lines_of(found, time.time())))


def fetch_summary(state_dir: str | None, file: Path | None, names: int) -> "Summary":
    """Ask the daemon. Raises: CommandFailed."""
    from smarthost.config import find_state_dir
    from smarthost.ops.client import ask
    from smarthost.ops.verbs import QueueSummary, Summarised

    for answer in ask(find_state_dir(state_dir, file), QueueSummary(names)):
        if isinstance(answer, Summarised):
            return answer.summary
    raise exits.CommandFailed("the daemon did not say what it counted", exits.SOFTWARE)


def lines_of(found: "Summary", now: float) -> Iterator[str]:
    """Give it as people read it."""
    if not found.recipients:
        yield "the queue is empty"
        return
    yield (
        f"{words.count(found.messages, 'message')}, {words.count(found.recipients, 'recipient')}, "
        f"the oldest from {words.relative(found.oldest_at, now)}"
    )
    for title, counts in (
        ("DESTINATION", found.by_destination), ("SENDER", found.by_sender), ("REASON", found.by_reason)
    ):  # fmt: skip
        yield ""
        yield from table_of(title, counts, now)
    if not found.is_whole:
        yield ""
        yield "there are more names: -n shows more of them"


def table_of(title: str, counts: "Sequence[Count]", now: float) -> Iterator[str]:
    """Give one list as a table."""
    rows = [("RECIPIENTS", "DUE", "HELD", "OLDEST", title)]
    rows += [
        (
            f"{each.recipients:,}",
            f"{each.due:,}",
            f"{each.held:,}",
            words.span(max(0.0, now - each.oldest_at)),
            _shown(each),
        )
        for each in counts
    ]
    yield from words.aligned(rows, _WIDTHS)


def _shown(each: "Count") -> str:
    name = words.printable(each.name) or "(not tried yet)"
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 3]}..."


def _fields(found: "Summary") -> dict[str, object]:
    def listed(counts: "Sequence[Count]") -> list[dict[str, object]]:
        return [
            {
                "name": each.name, "recipients": each.recipients, "due": each.due, "held": each.held,
                "oldest_at": words.iso_or_null(each.oldest_at), "oldest_id": each.oldest_id,
            }
            for each in counts
        ]  # fmt: skip

    return {
        "messages": found.messages,
        "recipients": found.recipients,
        "oldest_at": words.iso_or_null(found.oldest_at),
        "is_whole": found.is_whole,
        "by_destination": listed(found.by_destination),
        "by_sender": listed(found.by_sender),
        "by_reason": listed(found.by_reason),
    }
