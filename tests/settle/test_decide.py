# SPDX-License-Identifier: MIT
"""settle.decide: from verdicts to states."""

import math
from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smarthost.mail.envelope import Body
from smarthost.mail.errors import LocalProtocolError
from smarthost.mail.hop import TlsFacts
from smarthost.mail.lease import Lease, LeasedRecipient
from smarthost.mail.record import TERMINAL_KINDS, Kind
from smarthost.mail.reply import Reply, reply
from smarthost.mail.result import AttemptResult, Outcome, Timings, Verdict
from smarthost.mail.settlement import SettledRecipient, Settlement, State
from smarthost.settle.decide import decide, expire

NOW = 1_000_000.0
DAY = 86400.0
OK = reply(250, "2.0.0", "Ok: queued as X")
BUSY = reply(450, "4.2.0", "try later")
UNKNOWN = reply(550, "5.1.1", "no such user")
EARLIER = "451 4.7.1 greylisted"


def seqs() -> Callable[[], int]:
    return count(1).__next__


def retry_in_300(attempts: int, received_at: float) -> float | None:
    return NOW + 300.0


def out_of_time(attempts: int, received_at: float) -> float | None:
    return None


def lease(
    n: int = 1, reverse_path: str = "alice@example.org", age: float = 60.0, attempts: int = 0, last_reply: str = ""
) -> Lease:
    recipients = tuple(
        LeasedRecipient(i, f"user{i}@example.net", "example.net", attempts, last_reply, last_reply[4:9])
        for i in range(n)
    )
    return Lease(
        "0123456789abcdef",
        NOW - age,
        reverse_path,
        Body.SEVEN_BIT,
        False,
        "192.0.2.1",
        "alice",
        b"",
        10,
        None,
        recipients,
    )


def result(leased: Lease, *verdicts: Verdict) -> AttemptResult:
    return AttemptResult(leased, NOW - 1.0, verdicts, Timings(), None, "lane")


def verdict(outcome: Outcome, said: Reply | None = None, until: float | None = None) -> Verdict:
    return Verdict(outcome, "9.9.9", "because", said, "mx.example.net", "192.0.2.9", until=until)


def settle_one(
    given_verdict: Verdict, leased: Lease | None = None, retry_at: Callable[[int, float], float | None] = retry_in_300
) -> SettledRecipient:
    settlement = decide(result(leased or lease(), given_verdict), now=NOW, retry_at=retry_at, next_seq=seqs())
    return settlement.recipients[0]


def test_relayed_ends_without_a_report() -> None:
    """Mail the next hop took is done, and nobody is written to."""
    settled = settle_one(verdict(Outcome.RELAYED, OK), lease(attempts=2, last_reply=EARLIER))

    assert settled == SettledRecipient(
        0,
        "user0@example.net",
        "example.net",
        State.RELAYED,
        0.0,
        3,
        "9.9.9",
        "250 2.0.0 Ok: queued as X",
        "because",
        False,
        "mx.example.net",
    )


def test_bounced_ends_with_a_report_owed() -> None:
    """A permanent no is reported to the sender, with the host's own words."""
    settled = settle_one(verdict(Outcome.BOUNCED, UNKNOWN), lease(attempts=2))

    assert settled == SettledRecipient(
        0,
        "user0@example.net",
        "example.net",
        State.BOUNCED,
        0.0,
        3,
        "9.9.9",
        "550 5.1.1 no such user",
        "because",
        True,
        "mx.example.net",
    )


def test_bounce_without_a_reply_does_not_quote_an_earlier_temporary_one() -> None:
    """A bounce decided by DNS is not blamed on what a host once said."""
    settled = settle_one(verdict(Outcome.BOUNCED), lease(last_reply=EARLIER))

    assert settled.last_reply == ""


def test_deferred_counts_an_attempt_and_follows_the_schedule() -> None:
    """A temporary failure is tried again when the schedule says, asked with the new count."""
    asked: list[tuple[int, float]] = []

    def retry_at(attempts: int, received_at: float) -> float | None:
        asked.append((attempts, received_at))
        return NOW + 600.0

    settled = settle_one(verdict(Outcome.DEFERRED, BUSY), lease(attempts=1), retry_at)

    assert asked == [(2, NOW - 60.0)]
    assert (settled.state, settled.due, settled.attempts) == (State.DEFERRED, NOW + 600.0, 2)
    assert (settled.last_reply, settled.why, settled.report_owed) == ("450 4.2.0 try later", "because", False)


def test_deferred_without_a_reply_keeps_the_last_real_one() -> None:
    """That a host cannot be reached today does not wipe out what it said yesterday."""
    settled = settle_one(verdict(Outcome.DEFERRED), lease(attempts=1, last_reply=EARLIER))

    assert settled.last_reply == EARLIER
    assert settled.why == "because"


def test_postponed_counts_no_attempt() -> None:
    """Waiting for a broken host uses up no try."""
    settled = settle_one(verdict(Outcome.POSTPONED, until=NOW + 45.0), lease(attempts=4, last_reply=EARLIER))

    assert (settled.state, settled.due, settled.attempts) == (State.DEFERRED, NOW + 45.0, 4)
    assert settled.last_reply == EARLIER


@pytest.mark.parametrize(
    ("until", "due"),
    [
        (NOW - 9.0, NOW + 1.0),
        (NOW, NOW + 1.0),
        (NOW + 1e9, NOW + 3600.0),
        (math.inf, NOW + 3600.0),
        (-math.inf, NOW + 1.0),
        (math.nan, NOW + 1.0),
        (None, NOW + 300.0),
    ],
)
def test_postponement_is_bounded_both_ways(until: float | None, due: float) -> None:
    """A postponed recipient neither spins nor sleeps for more than an hour."""
    assert settle_one(verdict(Outcome.POSTPONED, until=until)).due == due


def test_deferral_past_its_time_expires_with_a_report_and_the_reply() -> None:
    """The last temporary failure ends the message: status 4.4.7, and the host's words are kept."""
    settled = settle_one(verdict(Outcome.DEFERRED, BUSY), lease(age=5 * DAY + 1, attempts=90), out_of_time)

    assert settled == SettledRecipient(
        0,
        "user0@example.net",
        "example.net",
        State.EXPIRED,
        0.0,
        91,
        "4.4.7",
        "450 4.2.0 try later",
        "not delivered within 5 days; last: 450 4.2.0 try later",
        True,
        "mx.example.net",
    )


def test_expiry_after_a_silent_failure_tells_it_and_keeps_the_earlier_reply() -> None:
    """If the last try met silence, the report says so; an earlier reply is kept, but not put into this host's mouth."""
    settled = settle_one(verdict(Outcome.DEFERRED), lease(age=5 * DAY, attempts=9, last_reply=EARLIER), out_of_time)

    assert settled.why == "not delivered within 5 days; last: because"
    assert settled.last_reply == EARLIER
    assert settled.host == ""


def test_postponement_past_its_time_expires_without_counting() -> None:
    """Expiry works also while all hosts are known to be broken."""
    settled = settle_one(
        verdict(Outcome.POSTPONED, until=NOW + 9), lease(age=6 * DAY, attempts=7, last_reply=EARLIER), out_of_time
    )

    assert (settled.state, settled.attempts, settled.report_owed) == (State.EXPIRED, 7, True)
    assert settled.why == f"not delivered within 6 days; last: {EARLIER}"


@pytest.mark.parametrize(
    ("age", "words"),
    [
        (-5.0, "a second"),
        (0.5, "a second"),
        (1.0, "1 second"),
        (59.0, "59 seconds"),
        (60.0, "1 minute"),
        (7200.0, "2 hours"),
        (DAY, "1 day"),
        (5 * DAY + 3700.0, "5 days"),
    ],
)
def test_age_is_told_in_its_largest_unit(age: float, words: str) -> None:
    """A person reads how long we tried."""
    settled = settle_one(verdict(Outcome.DEFERRED, BUSY), lease(age=age), out_of_time)

    assert settled.why.startswith(f"not delivered within {words}; last:")


@pytest.mark.parametrize("outcome", [Outcome.BOUNCED, Outcome.DEFERRED, Outcome.POSTPONED])
def test_null_reverse_path_is_owed_nothing(outcome: Outcome) -> None:
    """A report that cannot be delivered ends silently."""
    assert not settle_one(verdict(outcome), lease(reverse_path=""), out_of_time).report_owed


def test_recipients_of_one_lease_get_each_its_own_state_in_order() -> None:
    """One refused recipient takes no other with it."""
    verdicts = [
        verdict(Outcome.RELAYED, OK),
        verdict(Outcome.BOUNCED, UNKNOWN),
        verdict(Outcome.DEFERRED, BUSY),
        verdict(Outcome.POSTPONED, until=NOW + 5),
    ]

    settlement = decide(result(lease(4), *verdicts), now=NOW, retry_at=retry_in_300, next_seq=seqs())

    assert [each.state for each in settlement.recipients] == [
        State.RELAYED,
        State.BOUNCED,
        State.DEFERRED,
        State.DEFERRED,
    ]
    assert [each.kind for each in settlement.records] == [Kind.RELAYED, Kind.BOUNCED, Kind.DEFERRED, Kind.POSTPONED]
    assert [each.seq for each in settlement.records] == [1, 2, 3, 4]
    assert [each.next_attempt_at for each in settlement.records] == [0.0, 0.0, NOW + 300, NOW + 5]


def test_record_tells_the_attempt_as_it_was() -> None:
    """The record has this attempt's time, reply, TLS and host, not an earlier one's."""
    leased = lease(attempts=1, last_reply=EARLIER)
    attempt = AttemptResult(
        leased,
        NOW - 1.0,
        (Verdict(Outcome.DEFERRED, "4.4.1", "timed out", None, "mx", "192.0.2.9", ambiguous=True),),
        tls=TlsFacts("TLSv1.3", "X", False),
        walk=("mx1: refused",),
    )

    record = decide(attempt, now=NOW, retry_at=retry_in_300, next_seq=seqs()).records[0]

    assert (record.at, record.attempt, record.reply, record.ambiguous) == (NOW - 1.0, 2, "", True)
    assert (record.tls, record.walk, record.host) == ("TLSv1.3 X unverified", ("mx1: refused",), "mx")


@pytest.mark.parametrize("n", [0, 1, 3])
def test_missing_or_surplus_verdicts_are_our_bug(n: int) -> None:
    """Nobody guesses which recipient a verdict is for."""
    with pytest.raises(LocalProtocolError, match="verdicts for 2 recipients"):
        decide(result(lease(2), *[verdict(Outcome.RELAYED)] * n), now=NOW, retry_at=retry_in_300, next_seq=seqs())


@pytest.mark.parametrize(
    ("attempts", "last_reply", "last_status", "told"),
    [
        (0, "", "", "never attempted"),
        (3, EARLIER, "4.7.1", EARLIER),
        (3, "", "4.4.1", "4.4.1"),
        (3, "", "", "a failure without a reply"),
    ],
)
def test_sweep_expires_whatever_was_or_was_not_tried(
    attempts: int, last_reply: str, last_status: str, told: str
) -> None:
    """Mail that is too old ends, also if no attempt was ever made, and says so."""
    old = lease(age=5 * DAY + 4000)
    recipient = LeasedRecipient(0, "user0@example.net", "example.net", attempts, last_reply, last_status)
    old = Lease(
        old.id,
        old.received_at,
        old.reverse_path,
        old.body,
        False,
        old.client,
        old.sender,
        b"",
        10,
        None,
        (recipient,),
    )

    settlement = expire(old, now=NOW, next_seq=seqs())

    settled, record = settlement.recipients[0], settlement.records[0]
    assert (settled.state, settled.attempts, settled.status) == (State.EXPIRED, attempts, "4.4.7")
    assert settled.why == record.why == f"not delivered within 5 days; last: {told}"
    assert (settled.last_reply, settled.report_owed, settled.host) == (last_reply, True, "")
    assert (record.kind, record.at, record.attempt) == (Kind.EXPIRED, NOW, attempts)


def test_sweep_owes_no_report_to_the_null_reverse_path() -> None:
    """An old report just ends."""
    assert not expire(lease(reverse_path=""), now=NOW, next_seq=seqs()).recipients[0].report_owed


def check_invariants(settlement: Settlement, leased: Lease) -> None:
    """One state and one record for each recipient, in order; unfinished ones have a next event, finished ones none."""
    assert settlement.id == leased.id
    assert len(settlement.recipients) == len(settlement.records) == len(leased.recipients)
    for recipient, settled, record in zip(leased.recipients, settlement.recipients, settlement.records, strict=True):
        assert (settled.n, settled.address, settled.domain) == (recipient.n, recipient.address, recipient.domain)
        assert record.recipient == recipient.address
        assert settled.attempts - recipient.attempts in (0, 1)
        assert (record.kind in TERMINAL_KINDS) == settled.state.is_terminal
        assert record.attempt == settled.attempts
        if settled.state.is_terminal:
            assert settled.due == 0.0
        else:
            assert settled.due > NOW
            assert not settled.report_owed
        if not leased.reverse_path:
            assert not settled.report_owed
    assert len({record.seq for record in settlement.records}) == len(settlement.records)


some_reply = st.none() | st.builds(Reply, st.integers(200, 599), st.just(""), st.tuples(st.text(max_size=20)))
some_verdict = st.builds(
    Verdict,
    st.sampled_from(Outcome),
    st.text(max_size=9),
    st.text(max_size=20),
    some_reply,
    st.text(max_size=9),
    st.text(max_size=9),
    st.booleans(),
    st.none() | st.floats(),
)


@settings(deadline=None)
@given(
    verdicts=st.lists(some_verdict, max_size=5),
    reverse_path=st.sampled_from(["", "alice@example.org"]),
    attempts=st.integers(0, 1000),
    age=st.floats(-1e6, 1e9),
    has_time=st.booleans(),
    last_reply=st.sampled_from(["", EARLIER]),
)
def test_any_verdicts_give_a_sound_settlement(
    verdicts: list[Verdict], reverse_path: str, attempts: int, age: float, has_time: bool, last_reply: str
) -> None:
    """Whatever an attempt found, every recipient ends or has a next event, and leaves one record."""
    leased = lease(len(verdicts), reverse_path, age, attempts, last_reply)

    settlement = decide(
        result(leased, *verdicts),
        now=NOW,
        retry_at=retry_in_300 if has_time else out_of_time,
        next_seq=seqs(),
    )

    check_invariants(settlement, leased)
    check_invariants(expire(leased, now=NOW, next_seq=seqs()), leased)
    for recipient, given_verdict in zip(settlement.recipients, verdicts, strict=True):
        if given_verdict.outcome in (Outcome.RELAYED, Outcome.BOUNCED):
            assert recipient.state.value == given_verdict.outcome.value
        else:
            assert recipient.state is (State.DEFERRED if has_time else State.EXPIRED)
