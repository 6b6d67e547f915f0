# SPDX-License-Identifier: MIT
"""Questions and answers within routing: machines are generators that yield questions, take answers, and end in a value.

Several questions may be asked at once; the answers come in the same order. Aliases that an answer leaves open are
followed here, bounded. Every answer leaves a line of evidence. Nothing here asks DNS itself: plan drives the machines.
"""

from collections.abc import Generator, Sequence
from typing import TypeAlias, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from smarthost.ports import Answer, AnswerStatus

FURTHER_LOOKUPS = 3  # by default, after an answer that ended in an alias; most chains are followed within one answer
ALIASES_READ = 16  # of one answer (backends.dns.codec.ALIASES): a resolver's failure with more was cut off there
EVIDENCE_LINES = 40  # 10 hosts with two answers each, and what was decided about them
NAME_OCTETS = 253  # 255 on the wire (RFC 1035 2.3.4)
LABEL_OCTETS = 63
_LABEL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")  # Deviation: RFC 1123 2.1 has no "_"; exchangers have
_SHOWN = 10  # records of one answer in its line of evidence
LONGEST_TTL_S = 1 << 31  # RFC 2181 8
CAVEAT_CHARACTERS = 200  # in each record of an attempt

_T = TypeVar("_T")


class Question(Struct, frozen=True, gc=False):
    """What DNS is asked: an A-label name without trailing dot, and "MX", "A" or "AAAA"."""

    name: str
    rdtype: str


Asking: TypeAlias = Generator[tuple[Question, ...], tuple[Answer, ...], _T]


class Evidence:
    """What a machine has learned: bounded lines, and the least TTL of the answers that counted.

    `caveat`: one line when an answer that counted was stale, else ""; `cut`: the same when one was cut, so that what is
    not in it may exist all the same. Nothing that rests on either is final.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.ttl_s = LONGEST_TTL_S
        self.caveat = ""
        self.cut = ""

    @property
    def doubt(self) -> str:
        """Say in one line why nothing that rests on these answers is final, or ""."""
        return "; ".join(filter(None, (self.caveat, self.cut)))

    def note(self, line: str) -> None:
        """Keep a line, up to the bound."""
        if len(self.lines) < EVIDENCE_LINES:
            self.lines.append(line)
        elif len(self.lines) == EVIDENCE_LINES:
            self.lines.append("...")

    def count(self, answer: Answer) -> None:
        """Let an answer bound how long the conclusion holds, and note it."""
        if not is_failure(answer):  # how long a failure is remembered is the planner's choice
            self.ttl_s = min(self.ttl_s, answer.ttl_s)
        if answer.stale and not self.caveat:
            self.caveat = _caveat(answer)
        if answer.is_cut and not self.cut:
            self.cut = f"{answer.rdtype} {answer.name} was cut: there was more than was read"
        self.note(describe(answer))


def is_failure(answer: Answer) -> bool:
    """Tell whether DNS did not say."""
    return answer.status in (AnswerStatus.SERVFAIL, AnswerStatus.TIMEOUT)


def is_loop(answer: Answer) -> bool:
    """Tell whether the aliases come back to a name they have passed."""
    return answer.canonical in answer.aliases


def describe(answer: Answer) -> str:
    """Say what was asked and what came, in one line."""
    parts = [f"{answer.rdtype} {answer.name}: "]
    if answer.aliases or answer.canonical not in ("", answer.name):
        way = [*answer.aliases[1:], answer.canonical]
        parts.append(f"alias of {' -> '.join(way[:_SHOWN])}, ")
    records = [f"{record.preference} {record.exchange or '.'}" for record in answer.mx[:_SHOWN]]
    records += answer.addresses[:_SHOWN]
    more = len(answer.mx) + len(answer.addresses) - len(records)
    parts.append(", ".join(records) or answer.status.name)
    if more:
        parts.append(f" and {more} more")
    if answer.detail:
        parts.append(f" ({answer.detail})")
    if answer.stale:
        parts.append(" (stale)" if answer.detail else " (stale: the resolver does not answer)")
    if answer.is_cut:
        parts.append(" (cut: there was more)")
    if answer.secure:
        parts.append(" (secure)")
    return "".join(parts)


def _caveat(answer: Answer) -> str:
    return shorten(f"DNS does not answer: {answer.rdtype} {answer.name} is stale ({answer.detail or 'past its TTL'})")


def shorten(line: str) -> str:
    """Keep of a line as much as a caveat may have."""
    return line if len(line) <= CAVEAT_CHARACTERS else line[: CAVEAT_CHARACTERS - 3] + "..."


def why_no_name(name: str) -> str:
    """Say why DNS could not hold this as a host's name, or "" when it could."""
    if not name or len(name) > NAME_OCTETS:
        return f"a name has 1 to {NAME_OCTETS} octets"
    labels = name.split(".")
    if not all(0 < len(label) <= LABEL_OCTETS for label in labels):
        return f"a label has 1 to {LABEL_OCTETS} octets"
    if not all(_LABEL.issuperset(label) for label in labels):
        return "it has characters no host's name has"
    return "it is an address" if labels[-1].isdigit() else ""  # RFC 1123 2.1: a top-level label is never all digits


def ask(
    questions: Sequence[Question], evidence: Evidence, further_lookups: int = FURTHER_LOOKUPS
) -> Asking[tuple[Answer, ...]]:
    """Ask, and follow the aliases that answers leave open; those that cannot be followed end as SERVFAIL with a detail.

    Only a loop and an endless chain have `aliases` then; where one leads to a name that fails, or to what is no name,
    `canonical` alone says so.
    See: RFC 5321 5.1: the name at the end of an alias is processed as if it were the initial name.
    """
    answers = [_followable(_judged(answer, answer)) for answer in (yield tuple(questions))]
    opens = [index for index, answer in enumerate(answers) if _is_open(answer)]
    for _ in range(further_lookups):
        if not opens:
            break
        further = yield tuple(Question(answers[index].canonical, answers[index].rdtype) for index in opens)
        for index, answer in zip(opens, further, strict=True):
            answers[index] = _joined(answers[index], answer)
        opens = [index for index, answer in zip(opens, further, strict=True) if _is_open(answer, answers[index])]
    for index in opens:
        answers[index] = _failed(answers[index], f"alias chain too long, stopped at {answers[index].canonical}")
    for answer in answers:
        evidence.count(answer)
    return tuple(answers)


def _is_open(answer: Answer, joined: Answer | None = None) -> bool:
    """NODATA with an alias may be the whole truth, or a server that did not follow it: only asking again tells."""
    whole = joined if joined is not None else answer
    return whole.status is AnswerStatus.NODATA and bool(answer.aliases)


def _joined(first: Answer, further: Answer) -> Answer:
    """One answer to the first question from the answers along its chain."""
    joined = replace(
        further,
        name=first.name,
        aliases=first.aliases + further.aliases,
        canonical=further.canonical or ("" if further.aliases else further.name),  # "": an alias of the root
        ttl_s=min(first.ttl_s, further.ttl_s),
        secure=first.secure and further.secure,
        stale=first.stale or further.stale,
        is_cut=first.is_cut or further.is_cut,
        detail=further.detail or (first.detail if first.stale else ""),
    )
    if is_loop(joined):
        return _failed(joined, f"alias loop at {joined.canonical}")
    return _followable(_judged(joined, further))


def _followable(answer: Answer) -> Answer:
    """Fail where the alias that is left open leads to what cannot be asked for.

    Odd octets are escaped in the text of a name (RFC 1035 5.1): asked as it stands it would be another name, and what
    is said of that one is nothing about ours.
    """
    defect = why_no_name(answer.canonical) if _is_open(answer) else ""
    if not defect:
        return answer
    return replace(_failed(answer, f"alias of {answer.canonical[:80]!r} cannot be followed: {defect}"), aliases=())


def _judged(answer: Answer, last: Answer) -> Answer:
    """Take its aliases off a failure that is not theirs, as the last of the answers it was joined from tells."""
    if not is_failure(answer) or is_loop(last) or len(last.aliases) > ALIASES_READ:
        return answer
    return replace(answer, aliases=())


def _failed(answer: Answer, detail: str) -> Answer:
    return replace(answer, status=AnswerStatus.SERVFAIL, mx=(), addresses=(), detail=detail)
