# SPDX-License-Identifier: MIT
"""`smarthost queue list|show|retry|cancel`: what waits, why, and what to do about it.

JSON Lines have stable names: a message is id, reverse_path, received_at, octets, recipients; a recipient is address,
state, attempts, next_attempt_at, last_reply, why, awaits_host. Times are ISO 8601 in UTC, next_attempt_at may be null.
"""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smarthost.ops import exits, options, words
from smarthost.ops.check import check

if TYPE_CHECKING:
    from smarthost.ops.verbs import ChangedSome
    from smarthost.queue.store import Filter, StoredMessage, StoredRecipient

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
    found = _find(state_dir, file, _filters(ids, filters))
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
    asked = _filters(ids, filters, everything=False)
    found = _find(state_dir, file, asked)
    shown = _print_json(found) if as_json else _print_whole(found, time.time())
    if not shown:
        raise exits.CommandFailed("no message in the queue matches", exits.NO_INPUT)


@queue.command()
@options.which
@click.option("--all", "everything", is_flag=True, help="All that is in the queue.")
@options.place
@options.json_lines
def retry(
    ids: tuple[str, ...], everything: bool, state_dir: str | None, file: Path | None, *, as_json: bool, **filters: str
) -> None:
    """Try recipients now instead of when their time comes.

    Hosts in their way that are remembered as broken are probed at once, one probe each; the others wait for its result.
    """
    asked = _filters(ids, filters, everything=everything)
    changed, wished = _change(state_dir, file, "retry", asked, as_json=as_json)
    if not as_json:
        being_tried = f", {words.count(wished, 'other')} being tried at this moment" if wished else ""
        click.echo(f"{words.count(changed, 'recipient')} due now{being_tried}")


@queue.command()
@options.which
@click.option("--all", "everything", is_flag=True, help="All that is in the queue.")
@options.place
@options.json_lines
def cancel(
    ids: tuple[str, ...], everything: bool, state_dir: str | None, file: Path | None, *, as_json: bool, **filters: str
) -> None:
    """Give recipients up; nobody is told, nothing is sent."""
    asked = _filters(ids, filters, everything=everything)
    changed, wished = _change(state_dir, file, "cancel", asked, as_json=as_json)
    if not as_json:
        being_tried = f"; {words.count(wished, 'other')} being tried at this moment: cancelled if that fails"
        click.echo(f"{words.count(changed, 'recipient')} cancelled{being_tried if wished else ''}")


queue.add_command(check)


def _filters(ids: tuple[str, ...], filters: dict[str, str], *, everything: bool | None = None) -> "list[Filter]":
    """Give one Filter for each id, or one in all. `everything` is what --all says; None: no need to say it.

    Raises: UsageError: nothing restricts and all was not meant, or something restricts and all was.
    """
    from smarthost.queue.store import Filter

    given = {name: value for name, value in filters.items() if value}
    named = list(dict.fromkeys((*ids, *filter(None, [given.pop("id", "")]))))
    if everything and (named or given):
        raise click.UsageError("--all is the whole queue: leave it out, or the IDs and filters")
    if everything is False and not named and not given:
        raise click.UsageError("say which: an ID, --from, --to or --destination (or --all, where it is offered)")
    reverse_path = given.get("reverse_path", "")
    plain = Filter(
        reverse_path=reverse_path if reverse_path == "<>" else _bare(reverse_path),
        recipient=_bare(given.get("recipient", "")),
        domain=given.get("destination", "").lower().rstrip("."),
    )
    if not named:
        return [plain]
    return [
        Filter(id=id.lower(), reverse_path=plain.reverse_path, recipient=plain.recipient, domain=plain.domain)
        for id in named
    ]


def _bare(written: str) -> str:
    return written[1:-1] if written.startswith("<") and written.endswith(">") else written


def _find(state_dir: str | None, file: Path | None, asked: "Iterable[Filter]") -> "Iterator[StoredMessage]":
    from smarthost.config import find_state_dir
    from smarthost.ops.client import ask
    from smarthost.ops.verbs import Found, QueueFind

    where = find_state_dir(state_dir, file)
    for which in asked:
        for answer in ask(where, QueueFind(which)):
            if isinstance(answer, Found):
                yield answer.message


def _is_paused(state_dir: str | None, file: Path | None) -> bool:
    from smarthost.config import find_state_dir
    from smarthost.ops.client import ask
    from smarthost.ops.verbs import Ping, Pong

    answers = ask(find_state_dir(state_dir, file), Ping())
    return any(answer.paused for answer in answers if isinstance(answer, Pong))


def _change(
    state_dir: str | None, file: Path | None, change: str, asked: "Iterable[Filter]", *, as_json: bool
) -> tuple[int, int]:
    from smarthost.config import find_state_dir
    from smarthost.ops.client import ask
    from smarthost.ops.verbs import ChangedSome, QueueChange

    where = find_state_dir(state_dir, file)
    changed = wished = 0
    for which in asked:
        for answer in ask(where, QueueChange("retry" if change == "retry" else "cancel", which)):
            if isinstance(answer, ChangedSome):
                changed += len(answer.recipients)
                wished += len(answer.wished)
                if as_json:
                    _print_changes(answer, change)
    if not changed and not wished:
        raise exits.CommandFailed("no recipient in the queue matches", exits.NO_INPUT)
    return changed, wished


def _print_changes(some: "ChangedSome", change: str) -> None:
    """Print a line for each message; `changed` and `wished` count its recipients."""
    counts: dict[str, list[int]] = {}
    for column, pairs in enumerate((some.recipients, some.wished)):
        for id, _ in pairs:
            counts.setdefault(id, [0, 0])[column] += 1
    for id, (changed, wished) in counts.items():
        line = {"id": id, "change": change, "changed": changed, "wished": wished}
        click.echo(words.json_line(line))


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
