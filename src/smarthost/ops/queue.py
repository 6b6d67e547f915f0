# SPDX-License-Identifier: MIT
"""`smarthost queue list|show`: what waits, and why. The verbs upon it are in change.py.

JSON Lines have stable names: a message is id, reverse_path, received_at, octets, recipients; a recipient is address,
state, attempts, next_attempt_at, last_reply, why, awaits_host. Times are ISO 8601 in UTC, next_attempt_at may be null.
"""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smarthost.ops import exits, options, words
from smarthost.ops.change import VERBS
from smarthost.ops.check import check
from smarthost.ops.summary import summary
from smarthost.ops.wanted import Wanted

if TYPE_CHECKING:
    from smarthost.queue.store import StoredMessage, StoredRecipient

_WIDTHS = (16, 25, 9, 10)  # of an id, a local time, a size, "in 12 min"
_LEASED = "leased"  # the store's word for what is being tried now; JSON has it, people read plain words
_TOLD = 3  # recipients, or reasons, of one message in a list


@click.group()
def queue() -> None:
    """Look at mail that waits, and act on it."""


@queue.command("list")
@options.which
@options.place
@options.json_lines
def list_(ids: tuple[str, ...], state_dir: str | None, file: Path | None, *, as_json: bool, **filters: str) -> None:
    """List messages, oldest first, with who waits for what."""
    found = _find(state_dir, file, Wanted.read(ids, filters))
    if as_json:
        _print_json(found)
        return
    now = time.time()
    messages = recipients = 0
    for message in found:
        if not messages:
            click.echo("\n".join(words.aligned([("ID", "RECEIVED", "SIZE", "NEXT", "FROM, TO")], _WIDTHS)))
        messages += 1
        recipients += len(message.recipients)
        click.echo("\n".join(_row(message, now)))
    total = f"{words.count(messages, 'message')}, {words.count(recipients, 'recipient')}"
    click.echo(total if messages else "nothing matches" if ids or any(filters.values()) else "the queue is empty")
    if _is_paused(state_dir, file):
        from smarthost.ops.pause import PAUSED

        click.echo(PAUSED)


@queue.command()
@options.which
@options.place
@options.json_lines
def show(ids: tuple[str, ...], state_dir: str | None, file: Path | None, *, as_json: bool, **filters: str) -> None:
    """Show everything that is known about messages."""
    found = _find(state_dir, file, Wanted.read(ids, filters, everything=False))
    shown = _print_json(found) if as_json else _print_whole(found, time.time())
    if not shown:
        raise exits.CommandFailed("no message in the queue matches", exits.NO_INPUT)


queue.add_command(check)
queue.add_command(summary)
for _command in VERBS:
    queue.add_command(_command)


def _find(state_dir: str | None, file: Path | None, wanted: Wanted) -> "Iterator[StoredMessage]":
    from smarthost.config import find_state_dir
    from smarthost.ops.client import ask
    from smarthost.ops.verbs import Found, QueueFind

    where = find_state_dir(state_dir, file)
    for which in wanted.filters:
        for answer in ask(where, QueueFind(which, wanted.lane)):
            if isinstance(answer, Found):
                yield answer.message


def _is_paused(state_dir: str | None, file: Path | None) -> bool:
    from smarthost.config import find_state_dir
    from smarthost.ops.client import ask
    from smarthost.ops.verbs import Ping, Pong

    answers = ask(find_state_dir(state_dir, file), Ping())
    return any(answer.paused for answer in answers if isinstance(answer, Pong))


def _print_json(messages: "Iterable[StoredMessage]") -> int:
    number = 0
    for number, message in enumerate(messages, 1):  # noqa: B007 - the count is wanted
        click.echo(words.json_line(message_fields(message)))
    return number


def message_fields(message: "StoredMessage") -> dict[str, object]:
    """Give a message under the names that are stable."""
    return {
        "id": message.id,
        "reverse_path": message.reverse_path,
        "received_at": words.iso_utc(message.received_at),
        "octets": message.octets,
        "recipients": [
            {
                "address": recipient.address,
                "state": recipient.state,
                "attempts": recipient.attempts,
                "next_attempt_at": words.iso_utc(recipient.due) if recipient.state == "deferred" else None,
                "last_reply": recipient.last_reply,
                "why": recipient.why,
                "awaits_host": recipient.awaits_host,
            }
            for recipient in message.recipients
        ],
    }


def _row(message: "StoredMessage", now: float) -> Iterator[str]:
    """Give a message's line, and below it the reasons why it is still here."""
    dues = [recipient.due for recipient in message.recipients if recipient.state == "deferred"]
    if any(recipient.state == _LEASED for recipient in message.recipients):
        following = "now"
    else:
        following = "-" if not dues else "now" if min(dues) <= now else words.relative(min(dues), now)
    addresses = [words.printable(recipient.address) for recipient in message.recipients]
    more = f" (+{len(addresses) - _TOLD} more)" if len(addresses) > _TOLD else ""
    whom = f"{words.path_words(message.reverse_path)} -> {', '.join(addresses[:_TOLD])}{more}"
    received, size = words.local_time(message.received_at), words.size_words(message.octets)
    yield from words.aligned([(message.id, received, size, following, whom)], _WIDTHS)
    reasons = list(dict.fromkeys(filter(None, [_reason(each, now) for each in message.recipients])))
    for reason in reasons[:_TOLD]:
        yield f"    {words.printable(reason)}"
    if len(reasons) > _TOLD:
        yield f"    and {words.count(len(reasons) - _TOLD, 'other reason')}: smarthost queue show {message.id}"


def _reason(recipient: "StoredRecipient", now: float) -> str:
    """Say why it is still here, and what else than its time it waits for; empty when there is nothing to say."""
    reason = recipient.why or recipient.last_reply
    if reason and recipient.state == _LEASED:
        return f"last attempt: {reason}"
    if _goes_with_a_host(recipient, now):
        return f"{reason or 'no host could be asked'} (tried again at its time, or when a host works again)"
    return reason


def _goes_with_a_host(recipient: "StoredRecipient", now: float) -> bool:
    """Is it not due yet, but will be at once when a host works again?"""
    return recipient.awaits_host and recipient.state == "deferred" and recipient.due > now


def _print_whole(messages: "Iterable[StoredMessage]", now: float) -> int:
    number = 0
    for number, message in enumerate(messages, 1):
        if number > 1:
            click.echo()
        click.echo("\n".join(_whole(message, now)))
    return number


def _whole(message: "StoredMessage", now: float) -> Iterator[str]:
    yield f"{message.id}  {words.size_words(message.octets)} from {words.path_words(message.reverse_path)}"
    yield f"received {words.when(message.received_at, now)}, handed in by {words.printable(message.client)}"
    for recipient in message.recipients:
        yield ""
        yield f"  {words.printable(recipient.address)}"
        facts = _facts(recipient, now)
        yield from words.aligned([("   ", name, words.printable(fact)) for name, fact in facts if fact], (3, 12))


def _facts(recipient: "StoredRecipient", now: float) -> Iterator[tuple[str, str]]:
    is_tried = recipient.state == _LEASED
    state = "being tried now," if is_tried else recipient.state
    yield "state", f"{state} after {words.count(recipient.attempts, 'attempt')}"
    if recipient.state == "deferred":
        sooner = ", or as soon as a host works again" if _goes_with_a_host(recipient, now) else ""
        yield "next attempt", words.when(max(recipient.due, now), now) + sooner
    yield "last reply", recipient.last_reply
    yield "last attempt" if is_tried else "why", recipient.why
