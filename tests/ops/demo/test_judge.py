# SPDX-License-Identifier: MIT
"""The demo's verdict: what went well is called well, and nothing else is."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace
from tests.ops.demo.rig import DEAD, RECEIVED, World, row, write_report

from smarthost.mail.record import Kind, Record
from smarthost.ops.demo.scenery import HOME
from smarthost.testing.peers import TakenMessage


def test_a_demo_that_went_well_is_called_well() -> None:
    """When all is as it should be, no kind has a problem."""
    outcome = World().judge()

    assert outcome.is_well
    assert [problem for each in outcome.rows for problem in each.problems] == []
    assert [(each.kind, each.messages, each.relayed, each.bounced, each.deferrals) for each in outcome.rows] == [
        ("healthy host", 45, 45, 0, 0),
        ("greylisting host", 15, 15, 0, 30),
        ("dead MX first", 15, 15, 0, 0),
        ("refused recipient", 15, 15, 15, 0),
        ("null MX", 5, 0, 5, 0),
        ("no such domain", 5, 0, 5, 0),
        ("bounces", 25, 25, 0, 0),
    ]


def test_rows_say_what_was_seen() -> None:
    """Each kind has its story in a few words, how many attempts it took, and how long."""
    outcome = World().judge()

    assert [each.what for each in outcome.rows] == [
        "45 relayed",
        "15 relayed after 30 deferrals (450)",
        "15 relayed; dead MX tried 1x in 15",
        "15 relayed, 15 bounced (550 5.1.1)",
        "5 bounced (5.1.10), nobody dialled",
        "5 bounced (5.1.2), nobody dialled",
        "25 relayed",
    ]
    greylisting = row(outcome, "greylisting host")
    assert (greylisting.attempts, greylisting.median_s) == (3, 2.002)
    assert row(outcome, "healthy host").attempts == 1


def test_the_bounce_shown_quotes_a_host() -> None:
    """The bounce that newcomers read is one in which a host refused a recipient."""
    bounce = World().judge().bounce

    assert bounce is not None
    assert bounce.text == "<nobody@picky.example> takes no mail."
    assert bounce.subject == "Your message could not be delivered"
    assert bounce.recipient.strip("<>").endswith(f"@{HOME}")


def test_trouble_of_no_kind_is_not_well() -> None:
    """A relay that complains has not done well, even if all mail arrived."""
    assert not World().judge("the relay notes: store in trouble").is_well


def swallow(world: World) -> None:
    letter = world.letter("healthy.example")
    del world.taken["healthy.example"][world.arrived(letter)]


def deliver_twice(world: World) -> None:
    world.taken["healthy.example"].append(world.taken["healthy.example"][0])


def change_arrived(change: Callable[[TakenMessage], TakenMessage]) -> Callable[[World], None]:
    def spoil(world: World) -> None:
        taken = world.taken["healthy.example"]
        taken[0] = change(taken[0])

    return spoil


def deliver_a_stranger(world: World) -> None:
    world.taken["picky.example"].append(TakenMessage("", ("reader1@picky.example",), b"Subject: spam\r\n\r\n"))


def deliver_for_the_refused(world: World) -> None:
    letter = world.letter("picky.example")
    taken = world.taken["picky.example"]
    taken[world.arrived(letter)] = replace(taken[world.arrived(letter)], recipients=letter.recipients)


def refuse_at_the_door(world: World) -> None:
    world.answers[world.letter("nomail.example").number] = "451 4.3.0 Try again"


def lose_a_bounce(world: World) -> None:
    del world.taken[HOME][3]


def bounce_twice(world: World) -> None:
    world.taken[HOME].append(world.taken[HOME][3])


def bounce_to_a_stranger(world: World) -> None:
    letter = world.letter("nowhere.example")
    other = replace(letter, reverse_path=f"mallory@{HOME}")
    world.taken[HOME] = [
        replace(taken, content=write_report(other, letter.recipients[0]))
        if letter.message_id.encode() in taken.content
        else taken
        for taken in world.taken[HOME]
    ]


def bounce_what_was_relayed(world: World) -> None:
    letter = world.letter("healthy.example")
    world.taken[HOME].append(TakenMessage("", (letter.reverse_path,), write_report(letter, letter.recipients[0])))


def bounce_with_a_reverse_path(world: World) -> None:
    world.taken[HOME][0] = replace(world.taken[HOME][0], reverse_path="MAILER-DAEMON@relay.example")


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (swallow, "healthy host: letter {n} did not arrive"),
        (deliver_twice, "healthy host: letter {n} arrived 2 times"),
        (
            change_arrived(lambda m: replace(m, content=m.content[:-3] + b"?\r\n")),
            "is not octet for octet what was sent",
        ),
        (change_arrived(lambda m: replace(m, content=m.content + b"\r\n")), "is not octet for octet what was sent"),
        (
            change_arrived(lambda m: replace(m, content=b"X-Spam: no\r\n" + m.content)),
            "arrived with more than a Received field before it",
        ),
        (
            change_arrived(lambda m: replace(m, content=m.content.replace(RECEIVED, RECEIVED + b"X-Spam: no\r\n"))),
            "arrived with more than a Received field before it",
        ),
        (
            change_arrived(lambda m: replace(m, content=m.content.removeprefix(RECEIVED))),
            "arrived with more than a Received field before it",
        ),
        (change_arrived(lambda m: replace(m, reverse_path="eve@home.example")), "arrived with another envelope"),
        (deliver_a_stranger, "refused recipient: an unknown message arrived: without Message-ID"),
        (deliver_for_the_refused, "arrived with another envelope"),
        (refuse_at_the_door, "was not accepted: 451 4.3.0 Try again"),
        (lose_a_bounce, "was told never that letter"),
        (bounce_twice, "was told 2 times that letter"),
        (bounce_to_a_stranger, "is not addressed to"),
        (bounce_what_was_relayed, "that nobody is owed"),
        (bounce_with_a_reverse_path, "bounces: a bounce has the reverse-path <MAILER-DAEMON@relay.example>"),
    ],
)
def test_what_hosts_have_is_believed_over_what_the_relay_says(spoil: Callable[[World], None], problem: str) -> None:
    """Mail that was lost, doubled, damaged or sent astray is named, though the relay called it relayed."""
    world = World()
    first = world.letter("healthy.example").number

    spoil(world)

    problems = world.problems()
    assert len(problems) == 1, problems
    assert problem.format(n=first) in problems[0]
    assert not world.judge().is_well


Change = Callable[[Record], Record | None]


def drop(record: Record) -> None:
    return None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (drop, " is unfinished: accepted"),
        (
            lambda record: replace(record, kind=Kind.BOUNCED, why="550 no"),
            " was bounced, not relayed: 550 no",
        ),
        (lambda record: replace(record, attempt=2), " took 2 attempts, not 1"),
    ],
)
def test_a_letter_that_ended_otherwise_is_named(change: Change, problem: str) -> None:
    """Who did not end as expected is named, with what happened instead."""
    reader = World().letter("healthy.example").recipients[0]

    def changed(record: Record) -> Record | None:
        return change(record) if record.kind is Kind.RELAYED and record.recipient == reader else record

    assert World(changed).problems() == [f"healthy host: {reader}{problem}"]


def every(domain: str, kind: Kind, change: Change) -> Change:
    def changed(record: Record) -> Record | None:
        return change(record) if record.kind is kind and record.recipient.endswith(f"@{domain}") else record

    return changed


@pytest.mark.parametrize(
    ("domain", "kind", "change", "problem"),
    [
        ("nomail.example", Kind.BOUNCED, lambda record: replace(record, status="5.4.4"), "5.4.4, not 5.1.10"),
        ("nomail.example", Kind.BOUNCED, lambda record: replace(record, host="mx.x"), "only after mx.x was asked"),
        ("picky.example", Kind.BOUNCED, lambda record: replace(record, kind=Kind.RELAYED), "was relayed, not bounced"),
        ("greylist.example", Kind.RELAYED, lambda record: replace(record, attempt=1), "took 1 attempts, not 3"),
        ("deadmx.example", Kind.RELAYED, lambda record: replace(record, walk=()), "was never tried"),
        (
            "deadmx.example",
            Kind.RELAYED,
            lambda record: replace(record, walk=(f"{DEAD}: connection refused",)),
            "that it is broken was not remembered",
        ),
        (HOME, Kind.RELAYED, lambda record: replace(record, kind=Kind.DEFERRED), "is unfinished"),
    ],
)
def test_each_kind_has_its_own_expectations(domain: str, kind: Kind, change: Change, problem: str) -> None:
    """Every kind of destination is there to show something, and the demo fails if it does not."""
    outcome = World(every(domain, kind, change)).judge()

    spoiled = [each for each in outcome.rows if not each.as_expected]
    assert [each.domain for each in spoiled] == [domain]
    assert any(problem in told for told in spoiled[0].problems), spoiled[0].problems


def test_nothing_at_all_is_not_well() -> None:
    """A relay that takes nothing fails the demo for every kind."""
    world = World(drop)
    world.answers.clear()
    world.taken.clear()

    outcome = world.judge()

    assert [each.as_expected for each in outcome.rows] == [False] * 7
    assert row(outcome, "healthy host").what == "nothing"
    assert outcome.bounce is None
