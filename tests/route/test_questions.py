# SPDX-License-Identifier: MIT
"""Asking within routing: aliases are followed, answers are described, evidence is bounded."""

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from smarthost.backends.dns import codec
from smarthost.ports import Answer, AnswerStatus, MxRecord
from smarthost.route.questions import (
    ALIASES_READ,
    CAVEAT_CHARACTERS,
    EVIDENCE_LINES,
    LONGEST_TTL_S,
    Evidence,
    Question,
    ask,
    describe,
)

FOUND, NODATA, SERVFAIL = AnswerStatus.FOUND, AnswerStatus.NODATA, AnswerStatus.SERVFAIL


def drive(
    questions: Sequence[Question], *rounds: tuple[Answer, ...], further_lookups: int = 3
) -> tuple[tuple[Answer, ...], Evidence, list[str]]:
    """Answer each round; gives the answers, the evidence, and what was asked."""
    evidence, asked = Evidence(), list[str]()
    machine = ask(questions, evidence, further_lookups)
    put = next(machine)
    for answers in rounds:
        asked += [f"{each.rdtype} {each.name}" for each in put]
        try:
            put = machine.send(answers)
        except StopIteration as end:
            answers = end.value
            return answers, evidence, asked
    raise AssertionError("the machine asks for more")


def test_only_open_aliases_are_asked_again() -> None:
    """Of several questions those with an answer are not repeated."""
    done = Answer("a", "A", FOUND, addresses=("1.0.0.1",), canonical="a", ttl_s=50)
    half = Answer("b", "A", NODATA, canonical="c", aliases=("b",), ttl_s=20, secure=True)
    rest = Answer("c", "A", FOUND, addresses=("1.0.0.2",), canonical="d", aliases=("c",), ttl_s=30)

    answers, evidence, asked = drive([Question("a", "A"), Question("b", "A")], (done, half), (rest,))

    assert asked == ["A a", "A b", "A c"]
    assert answers[0] == done
    assert answers[1] == Answer(
        "b", "A", FOUND, addresses=("1.0.0.2",), canonical="d", aliases=("b", "c"), ttl_s=20, secure=False
    )
    assert evidence.ttl_s == 20


def test_alias_that_truly_has_nothing_ends_as_nodata() -> None:
    """NODATA at the end of an alias is believed when its own name says so."""
    half = Answer("b", "AAAA", NODATA, canonical="c", aliases=("b",))

    answers, _, asked = drive([Question("b", "AAAA")], (half,), (Answer("c", "AAAA", NODATA, canonical="c"),))

    assert (answers[0].status, answers[0].canonical) == (NODATA, "c")
    assert asked == ["AAAA b", "AAAA c"]


HALF = Answer("b", "A", NODATA, canonical="c", aliases=("b",))
LINKS = tuple(f"c{n}" for n in range(ALIASES_READ + 1))


FAILURES: dict[str, tuple[list[Answer], tuple[str, ...]]] = {
    "fails": ([HALF, Answer("c", "A", SERVFAIL, canonical="c")], ()),
    "is silent": ([HALF, Answer("c", "A", AnswerStatus.TIMEOUT)], ()),
    "fails inside an answer": ([Answer("b", "A", SERVFAIL, canonical="c", aliases=("b",))], ()),
    "alias fails": ([HALF, Answer("c", "A", SERVFAIL, canonical="d", aliases=("c",))], ()),
    "long chain fails": ([replace(HALF, aliases=LINKS), Answer("c", "A", SERVFAIL, canonical="c")], ()),
    "loop inside an answer": ([HALF, Answer("c", "A", SERVFAIL, canonical="c", aliases=("c",))], ("b", "c")),
    "loop": ([HALF, Answer("c", "A", NODATA, canonical="b", aliases=("c",))], ("b", "c")),
    "cut off inside an answer": ([Answer("b", "A", SERVFAIL, canonical="d", aliases=LINKS)], LINKS),
    "cut off later": ([HALF, Answer("c", "A", SERVFAIL, canonical="d", aliases=LINKS)], ("b", *LINKS)),
    "no end": (
        [HALF, *[Answer("c", "A", NODATA, canonical=n, aliases=(f"to.{n}",)) for n in "xy"]],
        ("b", "to.x", "to.y"),
    ),
}


@pytest.mark.parametrize(("rounds", "aliases"), FAILURES.values(), ids=FAILURES)
def test_a_failure_has_aliases_only_if_they_are_what_failed(rounds: list[Answer], aliases: tuple[str, ...]) -> None:
    """A loop and too long a chain are told from a name that merely fails, whoever followed the aliases."""
    answers, evidence, _ = drive([Question("b", "A")], *[(each,) for each in rounds], further_lookups=2)

    assert answers[0].status in (SERVFAIL, AnswerStatus.TIMEOUT)
    assert answers[0].aliases == aliases
    assert evidence.lines[0].startswith("A b: alias of "), "what is known of the alias is shown all the same"


def test_the_resolver_reads_as_many_aliases_of_an_answer_as_is_thought_here() -> None:
    """Or a chain that it cut off would not be known as one."""
    assert codec.ALIASES == ALIASES_READ


def test_failure_does_not_bound_the_ttl() -> None:
    """How long a failure is remembered is not the answer's to say."""
    evidence = Evidence()
    evidence.count(Answer("a", "A", AnswerStatus.TIMEOUT))

    assert evidence.ttl_s == LONGEST_TTL_S
    assert evidence.lines == ["A a: TIMEOUT"]


def test_a_stale_answer_leaves_one_bounded_line() -> None:
    """The first stale answer of a plan is named, however many there are and however much its detail says."""
    evidence = Evidence()
    evidence.count(Answer("a.example", "MX", FOUND, stale=True, detail="x" * 1000))
    evidence.count(Answer("b.example", "A", FOUND, stale=True))

    assert len(evidence.caveat) == CAVEAT_CHARACTERS
    assert evidence.caveat.startswith("DNS does not answer: MX a.example is stale (xxx")
    assert evidence.caveat.endswith("...")


def test_staleness_goes_along_an_alias() -> None:
    """A fresh answer at the end of a stale alias is as old as the alias."""
    half = Answer("b", "A", NODATA, canonical="c", aliases=("b",), stale=True, detail="3 h past its TTL")
    rest = Answer("c", "A", FOUND, addresses=("1.0.0.2",), canonical="c")

    _, evidence, _ = drive([Question("b", "A")], (half,), (rest,))

    assert evidence.caveat == "DNS does not answer: A b is stale (3 h past its TTL)"


def test_a_cut_goes_along_an_alias() -> None:
    """What was not read at the alias is not made up for by what its end says, nor the other way round."""
    half = Answer("b", "A", NODATA, canonical="c", aliases=("b",))
    rest = Answer("c", "A", FOUND, addresses=("1.0.0.2",), canonical="c")

    early, first, _ = drive([Question("b", "A")], (replace(half, is_cut=True),), (rest,))
    late, last, _ = drive([Question("b", "A")], (half,), (replace(rest, is_cut=True),))

    assert (early[0].is_cut, late[0].is_cut) == (True, True)
    assert first.cut == last.cut == "A b was cut: there was more than was read"
    assert (first.caveat, first.doubt) == ("", first.cut)


ROOT = ""


@pytest.mark.parametrize("odd", ["foo\\032bar.example", "a b", "c..d", "192.0.2.1", ROOT])
@pytest.mark.parametrize("is_first", [True, False])
def test_open_alias_to_what_is_no_name_is_a_failure_that_is_no_loop(*, is_first: bool, odd: str) -> None:
    """It is not asked, it is not missing, and at expiry the report blames neither loop nor chain."""
    end = Answer("b" if is_first else "c", "A", NODATA, canonical=odd, aliases=("b" if is_first else "c",))

    answers, _, asked = drive([Question("b", "A")], *([(end,)] if is_first else [(HALF,), (end,)]))

    assert (answers[0].status, answers[0].aliases) == (SERVFAIL, ())
    assert "cannot be followed" in answers[0].detail
    assert asked == (["A b"] if is_first else ["A b", "A c"])


def test_without_further_lookups_an_open_alias_is_not_known() -> None:
    """What is not asked cannot be told: neither found nor missing."""
    half = Answer("b", "A", NODATA, canonical="c", aliases=("b",))
    machine = ask([Question("b", "A")], Evidence(), further_lookups=0)
    next(machine)

    with pytest.raises(StopIteration) as end:
        machine.send((half,))

    assert end.value.value[0].status is AnswerStatus.SERVFAIL


def test_evidence_is_bounded() -> None:
    """However much is noted, few lines are kept, and it shows that there was more."""
    evidence = Evidence()
    for number in range(1000):
        evidence.note(str(number))

    assert len(evidence.lines) == EVIDENCE_LINES + 1
    assert evidence.lines[-1] == "..."


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (
            Answer("o", "MX", FOUND, mx=(MxRecord(10, "a"), MxRecord(0, ""))),
            "MX o: 10 a, 0 .",
        ),
        (Answer("o", "A", NODATA), "A o: NODATA"),
        (
            Answer("o", "A", FOUND, addresses=("1.0.0.1",), canonical="p", aliases=("o",), stale=True),
            "A o: alias of p, 1.0.0.1 (stale: the resolver does not answer)",
        ),
        (Answer("o", "A", AnswerStatus.SERVFAIL, detail="REFUSED from x"), "A o: SERVFAIL (REFUSED from x)"),
        (Answer("o", "A", FOUND, addresses=("1.0.0.1",), is_cut=True), "A o: 1.0.0.1 (cut: there was more)"),
        (Answer("o", "A", FOUND, addresses=("1.0.0.1",), secure=True), "A o: 1.0.0.1 (secure)"),
        (
            Answer("o", "A", FOUND, addresses=tuple(str(n) for n in range(12))),
            "A o: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more",
        ),
    ],
)
def test_answers_are_described_in_one_line(answer: Answer, line: str) -> None:
    """`smarthost plan` and records show what DNS said."""
    assert describe(answer) == line
