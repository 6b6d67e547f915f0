# SPDX-License-Identifier: MIT
"""What the demo notices, counts and tells while it runs."""

from tests.ops.demo.rig import DEAD, Elapsed, World

from smarthost.mail.record import Kind, Record
from smarthost.ops.demo.ledger import Ledger, News


def record(kind: Kind, recipient: str = "reader1@healthy.example", **facts: object) -> Record:
    return Record(1, kind, 1000.0, "id1", recipient, **facts)  # type: ignore[arg-type]


def told(*records: Record) -> list[str]:
    ledger = Ledger(Elapsed())
    for each in records:
        ledger.record(each)
    return [news.sentence for news in ledger.news]


def test_the_first_of_each_sort_is_told_once() -> None:
    """A hundred messages make a dozen lines."""
    sentences = [news.sentence for news in World().ledger.news]

    assert sorted(sentences) == sorted(
        [
            "mx.healthy.example has its first message, 2 ms after our 250",
            'mx.greylist.example says "450 4.7.1 Greylisted": next attempt in 1.0 s',
            'mx.greylist.example says "450 4.7.1 Greylisted": next attempt in 2.0 s',
            "mx.greylist.example takes its first message, at attempt 3",
            f"{DEAD}: connection refused; mx.deadmx.example takes the mail",
            f"{DEAD} is remembered as broken: no longer dialled",
            "mx.picky.example has its first message, 2 ms after our 250",
            'mx.picky.example refuses nobody@picky.example: "550 5.1.1 No such user"',
            "because: bounced, nobody dialled",
            "because: bounced, nobody dialled",
            next(sentence for sentence in sentences if sentence.startswith("mx.home.example has the first bounce")),
        ]
    )


def test_a_bounce_that_a_host_did_not_word_says_why() -> None:
    """Without a reply there is still a reason."""
    assert told(record(Kind.BOUNCED, why="mx.x is gone", host="mx.x")) == ["mx.x is gone: bounced"]


def test_a_deferral_without_a_reply_says_why() -> None:
    """A host that cannot be reached has said nothing; the reason is told instead."""
    sentences = told(record(Kind.DEFERRED, why="mx.x: connection refused", next_attempt_at=1001.5))

    assert sentences == ["mx.x: connection refused: next attempt in 1.5 s"]


def test_tallies_count_recipients_where_they_are_now() -> None:
    """Who was deferred and then relayed is counted once, as relayed."""
    ledger = Ledger(Elapsed())
    for each in (
        record(Kind.ACCEPTED),
        record(Kind.DEFERRED, next_attempt_at=1003.0),
        record(Kind.ACCEPTED, "reader2@healthy.example"),
        record(Kind.DEFERRED, "reader2@healthy.example", next_attempt_at=1002.0),
        record(Kind.ACCEPTED, "reader3@healthy.example"),
        record(Kind.BOUNCED, "reader3@healthy.example"),
    ):
        ledger.record(each)

    waiting = ledger.tallies()["healthy.example"]
    ledger.record(record(Kind.RELAYED))
    after = ledger.tallies()["healthy.example"]

    assert (waiting.accepted, waiting.waiting, waiting.bounced, waiting.next_at) == (3, 2, 1, 1002.0)
    assert (after.accepted, after.relayed, after.waiting, after.ended) == (3, 1, 1, 2)


def test_it_is_over_when_everybody_known_has_ended() -> None:
    """Neither a recipient that waits nor one that is still to come lets the demo end."""
    ledger = Ledger(Elapsed())
    ledger.record(record(Kind.ACCEPTED))

    early = ledger.is_over(1)
    ledger.record(record(Kind.RELAYED))

    assert not early
    assert ledger.is_over(1)
    assert not ledger.is_over(2)


def test_an_acceptance_of_many_is_about_each_of_them() -> None:
    """One record tells that a message is durable; its recipients end one by one."""
    ledger = Ledger(Elapsed())
    both = ("reader1@healthy.example", "reader2@healthy.example")
    ledger.record(record(Kind.ACCEPTED, "", recipients=both))
    for each in both:
        early = ledger.is_over(2)
        ledger.record(record(Kind.RELAYED, each))

    assert not early
    assert ledger.is_over(2)
    assert [fate.recipient for fate in ledger.of("healthy.example")] == list(both)


def test_a_bounce_is_as_old_as_its_record_says() -> None:
    """Whose acceptance was not told waits as long as the record says."""
    elapsed = Elapsed()
    ledger = Ledger(elapsed)
    elapsed.seconds = 2.0

    ledger.record(record(Kind.RELAYED, "ada@home.example", queued_s=0.25, transfer_s=0.25))

    assert [(fate.accepted_s, fate.ended_s) for fate in ledger.of("home.example")] == [(1.5, 2.0)]


def test_complaints_of_the_relay_are_kept() -> None:
    """What the relay warns about is told at the end; what it merely mentions is not."""
    ledger = Ledger(Elapsed())

    ledger.note("info", "fine")
    ledger.note("error", "attempt failed", why="a bug")

    assert ledger.troubles == ["the relay notes: attempt failed {'why': 'a bug'}"]


def test_news_carry_the_kind_whose_end_they_tell() -> None:
    """A view may mark them; a dead host on the way to success is no success."""
    ledger = Ledger(Elapsed())

    ledger.record(record(Kind.RELAYED, "x@deadmx.example", walk=(f"{DEAD}: refused",), host="alive"))
    ledger.record(record(Kind.RELAYED, "x@healthy.example", host="mx"))

    assert [news.kind for news in ledger.news] == [None, Kind.RELAYED]
    assert ledger.news[0] == News(0.0, f"{DEAD}: refused; alive takes the mail", None)
