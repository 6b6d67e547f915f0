# SPDX-License-Identifier: MIT
"""`smarthost why ID|ADDRESS|MESSAGE-ID`: where mail is, why, what happened to it, and what comes next.

With --json a line for each message: id, received_at, reverse_path, octets, client, user, message_id, is_queued,
recipients, timeline. A recipient: address, state, attempts, destination, lane, waiting (cause, why, evidence, set_by,
since, next_step, next_at, unblocked_by) or null. The timeline's entries are records, as in the log. Times are ISO 8601
in UTC or null.
"""

import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from smarthost.ops import exits, options, words
from smarthost.ops.completion import complete_id

if TYPE_CHECKING:
    from smarthost.mail.record import Record
    from smarthost.mail.story import RecipientStory, Story, Waiting

_INDENT = "      "
_SET_BY_SOMEBODY = ("suspension", "pause", "drain")  # of the others the reason says it already
_TIMES = ("at", "next_attempt_at")
_SHOWN_RECIPIENTS = 50
_RESET = "smarthost hosts reset "
# How the evidence against a host begins that refuses a login for good: "mx.example [192.0.2.1]: auth failed once: 535"
_REFUSED_LOGIN = re.compile(r"(\S+) \[\S+\]: auth failed [^:]*: 5")


@click.command()
@click.argument("what", shell_complete=complete_id)
@click.option("-n", "most", type=click.IntRange(1, 50), default=10, help="The newest N messages of an address [10].")
@click.option("--transcript", "with_transcript", is_flag=True, help="Also what was said in sessions that failed.")
@options.place
@options.json_lines
def why(
    what: str, most: int, state_dir: str | None, file: Path | None, *, with_transcript: bool, as_json: bool
) -> None:
    """Tell why mail is where it is: by its ID, a recipient's ADDRESS, or its MESSAGE-ID.

    For each recipient what holds it, what happens next and when, and what would let it go sooner; then all that has
    happened. It works for mail that has gone, too, as long as records are kept (records.keep, a week).
    """
    stories = _ask(state_dir, file, what, most)
    if not stories:
        raise exits.CommandFailed(
            f"nothing is known of {words.printable(what[:200])}: neither the queue nor the records have it",
            exits.NO_INPUT,
        )
    now = time.time()
    for number, story in enumerate(stories):
        if as_json:
            click.echo(words.json_line(fields_of(story)))
            continue
        if number:
            click.echo()
        click.echo("\n".join(_lines(story, now, with_transcript, _place_words(state_dir, file))))


def _place_words(state_dir: str | None, file: Path | None) -> str:
    """Give what a command needs, behind the others of its words, to reach the daemon that we asked."""
    said = (("--config", file), ("--state-dir", state_dir))
    return "".join([f" {option} {shlex.quote(str(value))}" for option, value in said if value])


def _ask(state_dir: str | None, file: Path | None, what: str, most: int) -> "list[Story]":
    from smarthost.config import find_state_dir
    from smarthost.ops.client import ask
    from smarthost.ops.verbs import StoryTold, Why

    answers = ask(find_state_dir(state_dir, file), Why(what, most))
    return [answer.story for answer in answers if isinstance(answer, StoryTold)]


def fields_of(story: "Story") -> dict[str, object]:
    """Give a story under the names that are stable."""
    return {
        "id": story.id,
        "received_at": words.iso_or_null(story.received_at),
        "reverse_path": story.reverse_path,
        "octets": story.octets,
        "client": story.client,
        "user": story.user,
        "message_id": story.message_id,
        "is_queued": story.is_queued,
        "recipients": [_recipient_fields(each) for each in story.recipients],
        "timeline": [_record_fields(each) for each in story.timeline],
        "is_cut": story.is_cut,
    }


def _recipient_fields(recipient: "RecipientStory") -> dict[str, object]:
    waiting = recipient.waiting
    return {
        "address": recipient.address,
        "state": recipient.state,
        "attempts": recipient.attempts,
        "destination": recipient.destination,
        "lane": recipient.lane,
        "waiting": None if waiting is None else {
            "cause": waiting.cause.value,
            "why": waiting.why,
            "evidence": waiting.evidence,
            "set_by": waiting.set_by,
            "since": words.iso_or_null(waiting.since),
            "next_step": waiting.next_step,
            "next_at": words.iso_or_null(waiting.next_at),
            "unblocked_by": waiting.unblocked_by,
        },
    }  # fmt: skip


def _record_fields(record: "Record") -> dict[str, Any]:
    import msgspec

    fields: dict[str, Any] = msgspec.to_builtins(record)
    return {name: words.iso_or_null(value) if name in _TIMES else value for name, value in fields.items()}


def _lines(story: "Story", now: float, with_transcript: bool, place: str) -> Iterator[str]:
    size = f"  {words.size_words(story.octets)}" if story.octets else ""
    yield f"{story.id}{size} from {words.path_words(story.reverse_path)}"
    if story.received_at:
        user = f" as {words.printable(story.user)}" if story.user else ""
        yield f"accepted {words.when(story.received_at, now)} from {words.printable(story.client)}{user}"
    if story.message_id:
        yield f"Message-ID {words.printable(story.message_id)}"
    for recipient in story.recipients[:_SHOWN_RECIPIENTS]:
        yield ""
        yield from _recipient_lines(recipient, now, place)
    if len(story.recipients) > _SHOWN_RECIPIENTS:
        yield f"  and {words.count(len(story.recipients) - _SHOWN_RECIPIENTS, 'other recipient')} (--json has all)"
    yield ""
    yield "  what happened" + (" (the latest of it)" if story.is_cut else "")
    if not story.timeline:
        yield "    no record is kept of it any more"
    for record in story.timeline:
        yield from _record_lines(record, with_transcript)
    if with_transcript and not any(record.transcript for record in story.timeline):
        yield ""
        yield "  no transcript is kept: it had no session of its own that failed" + _see_hosts(story, place)


def _see_hosts(story: "Story", place: str) -> str:
    """Name the commands that tell of the hosts that it waits for."""
    waiting = [each.waiting for each in story.recipients if each.waiting is not None]
    resets = dict.fromkeys(each for one in waiting for each in one.unblocked_by if each.startswith(_RESET))
    hosts = " ".join(reset.removeprefix(_RESET) for reset in resets)
    return f"; see smarthost hosts show {words.printable(hosts)}{place}" if hosts else ""


def _recipient_lines(recipient: "RecipientStory", now: float, place: str) -> Iterator[str]:
    tried = f" after {words.count(recipient.attempts, 'attempt')}" if recipient.attempts else ""
    state = "being tried now" if recipient.state == "leased" and _is_tried(recipient.waiting) else recipient.state
    state = "waiting" if state == "leased" else state
    yield f"  {words.printable(recipient.address)}: {state}{tried}"
    if recipient.waiting is not None:
        yield from words.aligned(_waiting_rows(recipient.waiting, now, place), (3, 9))
    elif recipient.ended is not None:
        ended = recipient.ended
        where = f" at {ended.host} [{ended.address}]" if ended.host else ""
        rows = [("   ", "ended", words.when(ended.at, now) + words.printable(where))]
        rows += [("   ", "reply", words.printable(ended.reply))] if ended.reply else []
        rows += [("   ", "why", words.printable(ended.why))] if ended.why and not ended.reply else []
        yield from words.aligned(rows, (3, 9))


def _is_tried(waiting: "Waiting | None") -> bool:
    return waiting is not None and waiting.cause.value == "attempt"


def _waiting_rows(waiting: "Waiting", now: float, place: str) -> Iterator[tuple[str, str, str]]:
    has_evidence = bool(waiting.evidence) and waiting.evidence not in waiting.why
    is_said_there = has_evidence and waiting.cause.value == "host health"  # by each host in turn
    reason = waiting.why.partition(": ")[0] if is_said_there else waiting.why
    by = f" (set by {waiting.set_by})" if waiting.set_by and waiting.cause.value in _SET_BY_SOMEBODY else ""
    since = f", since {words.when(waiting.since, now)}" if waiting.since else ""
    yield "   ", "because", words.printable(f"{waiting.cause.value}: {reason}{by}{since}")
    if has_evidence:
        yield "   ", "evidence", words.printable(waiting.evidence)
    when = f", {words.when(max(waiting.next_at, now), now)} at the latest" if waiting.next_at else ""
    yield "   ", "next", words.printable(waiting.next_step) + when
    if refused := _REFUSED_LOGIN.match(waiting.evidence):
        host = words.printable(refused[1])
        yield "   ", "cure", f"correct username and password_file of next hop {host}, then: smarthost reload{place}"
    for command in waiting.unblocked_by:
        yield "   ", "sooner", words.printable(command) + place


def _record_lines(record: "Record", with_transcript: bool) -> Iterator[str]:
    who = record.recipient or (words.count(len(record.recipients), "recipient") if record.recipients else "")
    yield f"    {words.local_time(record.at)}  {record.kind.value}  {words.printable(who)}".rstrip()
    facts = list(_facts(record))
    for fact in facts:
        yield f"{_INDENT}{words.printable(fact)}"
    if record.transcript and with_transcript:
        for said in record.transcript:
            yield f"{_INDENT}| {words.printable(said)}"
    elif record.transcript:
        yield f"{_INDENT}what was said is kept: --transcript shows it"


def _facts(record: "Record") -> Iterator[str]:
    for stop in record.walk:
        if not _is_last_word(stop, record):
            yield f"tried before: {stop}"
    has_spoken = bool(record.reply) and bool(record.host)
    if has_spoken:
        tls = record.tls or ("in clear" if record.kind.value == "relayed" else "")
        yield f"{record.host} [{record.address}], {f'{tls}, ' if tls else ''}said: {record.reply}"
    if record.why and not (has_spoken and record.reply in record.why):
        yield record.why
    if record.kind.value == "accepted":
        yield f"from {record.client}" + (f" as {record.user}" if record.user else "")
    elif record.user and record.user not in record.why:
        yield f"by {record.user}"
    spans = ("queued", record.queued_s), ("connect", record.connect_s), ("handshake", record.handshake_s)
    times = [f"{name} {seconds:.3f} s" for name, seconds in (*spans, ("transfer", record.transfer_s)) if seconds]
    if times:
        yield ", ".join(times)
    if record.ambiguous:
        yield "the connection died after the final dot: it may have been delivered"


def _is_last_word(stop: str, record: "Record") -> bool:
    """Is this stop of the walk what the record itself tells?"""
    if stop.replace(": not dialled, ", " is not dialled: ") in record.why:
        return True
    last = f"{record.host} [{record.address}]: "
    said = stop.removeprefix(last)
    return stop.startswith(last) and (said in record.why or (bool(record.reply) and record.reply in said))
