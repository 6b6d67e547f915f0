# SPDX-License-Identifier: MIT
"""What should have become of each letter, held against what the relay said and what the hosts have. Pure.

Believes nobody alone: a letter that the relay calls relayed must be at its host, once, octet for octet behind our
Received field; a bounce must be at its sender's host and name the recipient and the letter.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from email import message_from_bytes, policy
from email.message import EmailMessage
from statistics import median

from msgspec import Struct

from smarthost.mail.record import Kind, Record
from smarthost.ops.demo.ledger import Fate, Ledger
from smarthost.ops.demo.scenery import DESTINATIONS, HOME, Destination, Letter
from smarthost.testing.peers import TakenMessage

_NOTHING: tuple[TakenMessage, ...] = ()


class Row(Struct, frozen=True):
    """What happened to one kind of destination; the field names are those of `--json`. Times run from the 250."""

    kind: str
    domain: str
    messages: int
    recipients: int
    relayed: int
    bounced: int
    deferrals: int
    attempts: int
    median_s: float
    longest_s: float
    what: str
    as_expected: bool
    problems: tuple[str, ...]


class Bounce(Struct, frozen=True):
    """A bounce as its reader sees it."""

    sender: str
    recipient: str
    subject: str
    text: str


class Evidence(Struct, frozen=True):
    """All there is to judge by: what was sent, the answer to each letter by number, the ledger, what each host has."""

    letters: Sequence[Letter]
    answers: Mapping[int, str]
    ledger: Ledger
    taken: Mapping[str, Sequence[TakenMessage]]


class Outcome(Struct, frozen=True):
    """How the demo ended. `troubles` are those of no destination in particular."""

    rows: tuple[Row, ...]
    bounce: Bounce | None
    troubles: tuple[str, ...]
    elapsed_s: float

    @property
    def is_well(self) -> bool:
        return not self.troubles and all(row.as_expected for row in self.rows)


def judge(evidence: Evidence, troubles: Sequence[str], elapsed_s: float) -> Outcome:
    """Give the outcome: a row for each kind of destination, and one for the bounces."""
    reports = [_parse(taken) for taken in evidence.taken.get(HOME, _NOTHING)]
    rows = [_judge_destination(destination, evidence) for destination in DESTINATIONS]
    rows.append(_judge_bounces(evidence, reports))
    return Outcome(tuple(rows), _show_bounce(evidence, reports), tuple(troubles), elapsed_s)


# The letters


def _judge_destination(destination: Destination, evidence: Evidence) -> Row:
    letters = [letter for letter in evidence.letters if letter.destination == destination]
    fates = evidence.ledger.of(destination.domain)
    taken = evidence.taken.get(destination.domain, _NOTHING)
    problems = [
        *_unaccepted(letters, evidence.answers),
        *(problem for fate in fates for problem in _wrong_end(destination, fate)),
        *_wrong_content(letters if destination.takes_mail else [], taken, evidence.answers),
        *_wrong_walk(destination, fates),
    ]
    return _row(destination.kind, destination.domain, len(letters), fates, problems)


def _unaccepted(letters: Sequence[Letter], answers: Mapping[int, str]) -> Iterator[str]:
    for letter in letters:
        answer = answers.get(letter.number, "never sent")
        if not answer.startswith("250"):
            yield f"letter {letter.number} was not accepted: {answer}"


def _wrong_end(destination: Destination, fate: Fate) -> Iterator[str]:
    last = fate.last
    must_bounce = not destination.takes_mail or fate.recipient.startswith(f"{destination.refused}@")
    expected = Kind.BOUNCED if must_bounce else Kind.RELAYED
    if fate.ended_s is None:
        yield f"{fate.recipient} is unfinished: {last.kind.value} {last.why}".rstrip()
    elif last.kind is not expected:
        yield f"{fate.recipient} was {last.kind.value}, not {expected.value}: {last.why}"
    elif must_bounce and last.status != destination.status:
        yield f"{fate.recipient} bounced with {last.status}, not {destination.status}: {last.why}"
    elif must_bounce and not destination.takes_mail and last.host:
        yield f"{fate.recipient} bounced only after {last.host} was asked"
    elif last.attempt != destination.attempts:
        yield f"{fate.recipient} took {last.attempt} attempts, not {destination.attempts}"


def _wrong_content(
    letters: Sequence[Letter], taken: Sequence[TakenMessage], answers: Mapping[int, str]
) -> Iterator[str]:
    """Hold what a host has against what was sent to it."""
    arrived: dict[str, list[TakenMessage]] = {}
    for message in taken:
        arrived.setdefault(_message_id(message), []).append(message)
    for letter in letters:
        copies = arrived.pop(letter.message_id, [])
        if not copies and answers.get(letter.number, "").startswith("250"):
            yield f"letter {letter.number} did not arrive"
        if len(copies) > 1:
            yield f"letter {letter.number} arrived {len(copies)} times"
        for copy in copies:
            yield from _damage(letter, copy)
    yield from (f"an unknown message arrived: {message_id or 'without Message-ID'}" for message_id in arrived)


def _damage(letter: Letter, copy: TakenMessage) -> Iterator[str]:
    wanted = letter.recipients[:1]
    if copy.reverse_path != letter.reverse_path or copy.recipients != wanted:
        yield f"letter {letter.number} arrived with another envelope: {copy.reverse_path} to {copy.recipients}"
    ours, content = copy.content[: -len(letter.content)], copy.content[-len(letter.content) :]
    if content != letter.content:
        yield f"letter {letter.number} arrived damaged: it is not octet for octet what was sent"
    elif not (ours.startswith(b"Received: ") and ours.endswith(b"\r\n") and ours.count(b"\r\n") == _fold_count(ours)):
        yield f"letter {letter.number} arrived with more than a Received field before it"


def _fold_count(field: bytes) -> int:
    """Count the lines of the first header field: one, and each that begins with a blank (RFC 5322 2.2.3)."""
    return 1 + field.count(b"\r\n ") + field.count(b"\r\n\t")


def _wrong_walk(destination: Destination, fates: Sequence[Fate]) -> Iterator[str]:
    dead = destination.dead_host
    if dead:
        dialled, spared = _walked(fates)
        if not dialled:
            yield f"{dead} was never tried"
        if not spared:
            yield f"{dead} was dialled for each message: that it is broken was not remembered"


def _walked(fates: Sequence[Fate]) -> tuple[int, int]:
    """Count how often a host failed before the one that took the mail, and how often one was passed over undialled."""
    lines = [line for fate in fates for record in fate.records for line in record.walk]
    spared = sum("not dialled" in line for line in lines)
    return len(lines) - spared, spared


# The bounces


def _judge_bounces(evidence: Evidence, reports: Sequence[EmailMessage]) -> Row:
    owed = {
        (letter.message_id, recipient): letter
        for letter in evidence.letters
        for recipient in letter.recipients
        if not letter.destination.takes_mail or recipient.startswith(f"{letter.destination.refused}@")
    }
    arrived = Counter((str(report["References"]), recipient) for report in reports for recipient in _failed(report))
    told_to = {(str(report["References"]), str(report["To"]).strip("<>")) for report in reports}
    problems: list[str] = []
    for key, letter in owed.items():
        if arrived[key] != 1:
            often = f"{arrived[key]} times" if arrived[key] else "never"
            problems.append(f"{letter.reverse_path} was told {often} that letter {letter.number} failed for {key[1]}")
        elif (letter.message_id, letter.reverse_path) not in told_to:
            problems.append(f"the bounce of letter {letter.number} is not addressed to {letter.reverse_path}")
    problems += [f"a bounce about {key[1]} and {key[0]} that nobody is owed" for key in arrived if key not in owed]
    problems += [
        f"a bounce has the reverse-path <{taken.reverse_path}>, not the null one"
        for taken in evidence.taken.get(HOME, _NOTHING)
        if taken.reverse_path
    ]
    fates = evidence.ledger.of(HOME)
    problems += [f"the bounce to {fate.recipient} is unfinished" for fate in fates if fate.ended_s is None]
    return _row("bounces", HOME, len(fates), fates, problems)


def _parse(taken: TakenMessage) -> EmailMessage:
    message = message_from_bytes(taken.content, policy=policy.default)
    assert isinstance(message, EmailMessage), "what that policy makes"
    return message


def _failed(report: EmailMessage) -> list[str]:
    """Give the recipients that a report says have failed (RFC 3464 2.3)."""
    return [
        str(block["Final-Recipient"]).partition(";")[2].strip()
        for part in report.walk()
        if part.get_content_type() == "message/delivery-status"
        for block in part.get_payload()
        if isinstance(block, EmailMessage) and block["Final-Recipient"] and block["Action"] == "failed"
    ]


def _show_bounce(evidence: Evidence, reports: Sequence[EmailMessage]) -> Bounce | None:
    """Choose the bounce to show: one in which a host's own words are quoted, if there is one."""
    talkative = {letter.message_id for letter in evidence.letters if letter.destination.refused}
    for report in sorted(reports, key=lambda report: str(report["References"]) not in talkative):
        text = report.get_body(("plain",))
        failed = _failed(report)
        if text is not None and failed:
            return Bounce(
                str(report["From"]), str(report["To"]), str(report["Subject"]), str(text.get_content()).strip()
            )
    return None


# Rows


def _row(kind: str, domain: str, messages: int, fates: Sequence[Fate], problems: Sequence[str]) -> Row:
    waits = [fate.ended_s - fate.accepted_s for fate in fates if fate.ended_s is not None]
    ends = Counter(fate.last.kind for fate in fates if fate.ended_s is not None)
    return Row(
        kind=kind,
        domain=domain,
        messages=messages,
        recipients=len(fates),
        relayed=ends[Kind.RELAYED],
        bounced=ends[Kind.BOUNCED],
        deferrals=len(_deferrals(fates)),
        attempts=max((fate.last.attempt for fate in fates), default=0),
        median_s=round(median(waits), 4) if waits else 0.0,
        longest_s=round(max(waits, default=0.0), 4),
        what=_describe(fates),
        as_expected=not problems,
        problems=tuple(problems),
    )


def _deferrals(fates: Sequence[Fate]) -> list[Record]:
    return [record for fate in fates for record in fate.records if record.kind in (Kind.DEFERRED, Kind.POSTPONED)]


def _describe(fates: Sequence[Fate]) -> str:
    """Say what was seen, not what was hoped for."""
    said: list[str] = []
    for kind in (Kind.RELAYED, Kind.BOUNCED, Kind.EXPIRED, Kind.CANCELLED):
        ended = [fate.last for fate in fates if fate.last.kind is kind]
        if ended:
            said.append(f"{len(ended)} {kind.value}{_bounced_why(ended[0]) if kind is Kind.BOUNCED else ''}")
    if unfinished := sum(fate.ended_s is None for fate in fates):
        said.append(f"{unfinished} unfinished")
    told = ", ".join(said) or "nothing"
    if deferrals := _deferrals(fates):
        code = deferrals[0].reply[:3] or deferrals[0].status
        told += f" after {len(deferrals)} deferrals ({code})"
    dialled, spared = _walked(fates)
    return f"{told}; dead MX tried {dialled}x in {dialled + spared}" if dialled or spared else told


def _bounced_why(record: Record) -> str:
    """Give the code of the host that refused, or that no host was needed to know."""
    if record.host:
        return f" ({' '.join(record.reply.split()[:2]) or record.status})"
    return f" ({record.status}), nobody dialled"


def _message_id(message: TakenMessage) -> str:
    return str(_parse(message)["Message-ID"] or "")
