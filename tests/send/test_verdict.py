# SPDX-License-Identifier: MIT
"""The failure policy as tables: what each answer of a host means for each recipient."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smarthost.mail.errors import (
    ConnectFailed,
    ConnectionLost,
    DeadlinePassed,
    LocalProtocolError,
    RemoteProtocolError,
    SmarthostError,
    StoreError,
    TlsFailed,
)
from smarthost.mail.plan import NoPlan
from smarthost.mail.reply import Reply, reply
from smarthost.mail.result import Outcome, Verdict
from smarthost.ports import Refused
from smarthost.send.verdict import (
    RecipientVerdict,
    after_lost_transaction,
    after_session_failure,
    after_transaction,
    combine,
    for_no_plan,
    for_oversize,
    for_refused_host,
    for_smtputf8_missing,
)
from smarthost.smtp.steps import Step
from smarthost.smtp.wire import TransactionEnded

OK = reply(250, "2.1.0", "Ok")
GO = reply(354, "", "Go")
QUEUED = reply(250, "2.0.0", "queued as 1")
HOST, ADDRESS = "mx1.example", "192.0.2.1"


def no(code: int, enhanced: str = "") -> Reply:
    return Reply(code, enhanced, ("no",))


def judge(ended: TransactionEnded, n: int = 1, *, soft_bounce: bool = False) -> tuple[RecipientVerdict, ...]:
    return after_transaction(ended, n, HOST, ADDRESS, soft_bounce)


def show(judged: RecipientVerdict) -> str:
    """Write a verdict in one line: outcome, status, and whether the next host is tried."""
    verdict = judged.verdict
    marks = ["next" if judged.try_next_host else "stay"]
    marks += ["alarm"] * judged.alarm + ["ambiguous"] * verdict.ambiguous
    return f"{verdict.outcome.value} {verdict.status} {' '.join(marks)}"


def test_relayed() -> None:
    """Only a 2xx after the content means that the host has taken over."""
    (judged,) = judge(TransactionEnded(OK, (OK,), GO, QUEUED))

    assert show(judged) == "relayed 2.0.0 stay"
    assert judged.verdict.reply is QUEUED
    assert (judged.verdict.host, judged.verdict.address) == (HOST, ADDRESS)


MAIL = [
    (no(550), "bounced 5.0.0 stay"),
    (no(550, "5.7.1"), "bounced 5.7.1 stay"),
    (no(552, "5.3.4"), "bounced 5.3.4 stay"),
    (no(555), "bounced 5.0.0 stay"),
    (no(599), "bounced 5.0.0 stay"),
    (no(451), "deferred 4.0.0 next"),
    (no(452, "4.3.1"), "deferred 4.3.1 next"),
    (no(450, "4.7.1"), "deferred 4.7.1 next"),
    (no(421, "4.3.2"), "deferred 4.3.2 next"),
    (no(499), "deferred 4.0.0 next"),
    (no(503, "5.5.1"), "deferred 4.5.1 next alarm"),
    (no(530, "5.7.0"), "deferred 4.7.0 next alarm"),
    (no(535), "deferred 4.7.0 next alarm"),
]


@pytest.mark.parametrize(("mail", "expected"), MAIL, ids=lambda value: str(value))
def test_mail_refused(mail: Reply, expected: str) -> None:
    """A "no" to MAIL is the message's, for all recipients alike, unless it is about how our session was set up."""
    judged = judge(TransactionEnded(mail, (None, no(503)), no(503), None), 2)

    assert [show(each) for each in judged] == [expected, expected]
    assert judged[0].verdict.reply is mail


RCPT = [
    (no(550, "5.1.1"), "bounced 5.1.1 stay"),
    (no(551), "bounced 5.0.0 stay"),
    (no(556, "5.1.10"), "bounced 5.1.10 stay"),
    (no(552), "deferred 4.5.3 stay"),
    (no(552, "5.2.2"), "deferred 4.2.2 stay"),
    (no(452), "deferred 4.0.0 stay"),
    (no(452, "4.5.3"), "deferred 4.5.3 stay"),
    (no(452, "4.3.1"), "deferred 4.3.1 next"),
    (no(450), "deferred 4.0.0 stay"),
    (no(450, "4.2.0"), "deferred 4.2.0 stay"),
    (no(450, "4.7.1"), "deferred 4.7.1 stay"),
    (no(451), "deferred 4.0.0 next"),
    (no(451, "4.7.1"), "deferred 4.7.1 stay"),
    (no(451, "4.3.0"), "deferred 4.3.0 next"),
    (no(450, "4.4.3"), "deferred 4.4.3 next"),
    (no(421), "deferred 4.0.0 next"),
    (no(503), "deferred 4.7.0 next alarm"),
]


@pytest.mark.parametrize(("rcpt", "expected"), RCPT, ids=lambda value: str(value))
def test_recipient_refused(rcpt: Reply, expected: str) -> None:
    """A "no" to RCPT is that recipient's; whether the next host is asked depends on whom the reply blames."""
    judged = judge(TransactionEnded(OK, (OK, rcpt), GO, QUEUED), 2)

    assert [show(each) for each in judged] == ["relayed 2.0.0 stay", expected]


DATA = [
    (no(554, "5.7.1"), "bounced 5.7.1 stay"),
    (no(451), "deferred 4.0.0 next"),
    (no(450, "4.7.1"), "deferred 4.7.1 next"),
    (no(421), "deferred 4.0.0 next"),
    (no(503), "deferred 4.7.0 next alarm"),
]


@pytest.mark.parametrize(("data", "expected"), DATA, ids=lambda value: str(value))
def test_data_refused(data: Reply, expected: str) -> None:
    """A "no" to DATA is for those whose RCPT was accepted; the others keep their own."""
    judged = judge(TransactionEnded(OK, (OK, no(550, "5.1.1")), data, None), 2)

    assert [show(each) for each in judged] == [expected, "bounced 5.1.1 stay"]


FINAL = [
    (no(554, "5.7.1"), "bounced 5.7.1 stay"),
    (no(552, "5.3.4"), "bounced 5.3.4 stay"),
    (no(552), "bounced 5.0.0 stay"),
    (no(503), "bounced 5.0.0 stay"),
    (no(450, "4.7.1"), "deferred 4.7.1 stay"),
    (no(451), "deferred 4.0.0 next"),
    (no(452), "deferred 4.0.0 next"),
    (no(452, "4.3.1"), "deferred 4.3.1 next"),
    (no(450), "deferred 4.0.0 stay"),
    (no(421, "4.3.2"), "deferred 4.3.2 next"),
]


@pytest.mark.parametrize(("final", "expected"), FINAL, ids=lambda value: str(value))
def test_content_refused(final: Reply, expected: str) -> None:
    """A "no" to the content is for those whose RCPT was accepted, and never ambiguous: the host has said so."""
    judged = judge(TransactionEnded(OK, (OK, no(450), OK), GO, final), 3)

    assert [show(each) for each in judged] == [expected, "deferred 4.0.0 stay", expected]


def test_421_in_the_middle_defers_those_who_were_not_heard() -> None:
    """Who was refused before the host closed stays refused; the rest may try the next host."""
    closing = no(421, "4.3.2")

    judged = judge(TransactionEnded(OK, (OK, no(550, "5.1.1"), closing, None), None, None), 4)

    assert [show(each) for each in judged] == [
        "deferred 4.3.2 next",
        "bounced 5.1.1 stay",
        "deferred 4.3.2 next",
        "deferred 4.3.2 next",
    ]
    assert judged[3].verdict.reply is closing


@pytest.mark.parametrize(
    "ended",
    [
        TransactionEnded(OK, (OK,), GO, None),
        TransactionEnded(OK, (OK,), None, None),
        TransactionEnded(OK, (None,), None, None),
        TransactionEnded(OK, (), GO, QUEUED),
    ],
)
def test_what_cannot_happen_is_ambiguous_not_lost(ended: TransactionEnded) -> None:
    """An end that the machine never gives is taken for the worst that is still safe: deferred, no other host."""
    assert [show(each) for each in judge(ended)] == ["deferred 4.5.0 stay ambiguous"]


@pytest.mark.parametrize(
    "ended",
    [
        TransactionEnded(no(550, "5.7.1"), (None,), None, None),
        TransactionEnded(OK, (no(550, "5.7.1"),), None, None),
        TransactionEnded(OK, (OK,), no(550, "5.7.1"), None),
        TransactionEnded(OK, (OK,), GO, no(550, "5.7.1")),
    ],
)
def test_soft_bounce_turns_every_bounce_into_a_deferral(ended: TransactionEnded) -> None:
    """With soft_bounce nothing is returned to anybody, and the record says why."""
    (judged,) = judge(ended, soft_bounce=True)

    assert show(judged) == "deferred 4.7.1 stay"
    assert "soft_bounce" in judged.verdict.why
    assert judged.verdict.reply == no(550, "5.7.1")


def test_why_names_host_step_and_reply() -> None:
    """One sentence says who said what to which command."""
    (judged,) = judge(TransactionEnded(OK, (Reply(550, "5.1.1", ("No such", "user")),), no(554), None))

    assert judged.verdict.why == "mx1.example [192.0.2.1] answered RCPT with 550 5.1.1 No such user"


# -- sessions --

SESSION = [
    (Step.CONNECT, ConnectFailed("refused"), "deferred 4.4.1 next"),
    (Step.BANNER, no(554), "deferred 4.3.2 next alarm"),
    (Step.BANNER, no(521, "5.3.2"), "deferred 4.3.2 next alarm"),
    (Step.BANNER, no(421, "4.7.0"), "deferred 4.7.0 next"),
    (Step.BANNER, DeadlinePassed("silence"), "deferred 4.4.2 next"),
    (Step.BANNER, RemoteProtocolError("garbage"), "deferred 4.5.0 next"),
    (Step.EHLO, no(550, "5.7.1"), "deferred 4.7.1 next alarm"),
    (Step.HELO, no(450), "deferred 4.3.2 next"),
    (Step.EHLO, ConnectionLost("reset"), "deferred 4.4.2 next"),
    (Step.STARTTLS, no(454), "deferred 4.7.5 next"),
    (Step.STARTTLS, no(502, "5.5.1"), "deferred 4.5.1 next alarm"),
    (Step.STARTTLS, TlsFailed("not offered"), "deferred 4.7.5 next alarm"),
    (Step.STARTTLS, RemoteProtocolError("injected octets"), "deferred 4.5.0 next alarm"),
    (Step.STARTTLS, ConnectionLost("reset"), "deferred 4.4.2 next"),
    (Step.TLS, TlsFailed("certificate has expired"), "deferred 4.7.5 next alarm"),
    (Step.TLS, DeadlinePassed("silence"), "deferred 4.4.2 next"),
    (Step.AUTH, no(535), "deferred 4.7.8 next alarm"),
    (Step.AUTH, no(535, "5.7.8"), "deferred 4.7.8 next alarm"),
    (Step.AUTH, no(454, "4.7.0"), "deferred 4.7.0 next"),
    (Step.AUTH, RemoteProtocolError("AUTH is not offered"), "deferred 4.5.0 next alarm"),
    (Step.AUTH, ConnectionLost("reset"), "deferred 4.4.2 next"),
    ("elsewhere", no(450), "deferred 4.0.0 next"),
    (Step.AUTH, LocalProtocolError("no mechanism"), "deferred 4.3.0 stay alarm"),
]


@pytest.mark.parametrize(("step", "failure", "expected"), SESSION)
def test_session_failure_never_bounces(step: str, failure: Reply | SmarthostError, expected: str) -> None:
    """A listed address or a rotated password defers the queue and calls the operator; it never bounces it."""
    judged = after_session_failure(step, failure, HOST, ADDRESS)

    assert show(RecipientVerdict(judged.verdict, judged.try_next_host, judged.alarm)) == expected
    assert judged.verdict.why.startswith("mx1.example [192.0.2.1]")
    assert step in judged.verdict.why


# -- lost transactions --

LOST = [
    (Step.MAIL, ConnectionLost("reset"), "deferred 4.4.2 next"),
    (Step.RCPT, DeadlinePassed("silence"), "deferred 4.4.2 next"),
    (Step.DATA, RemoteProtocolError("250 to DATA"), "deferred 4.5.0 next"),
    (Step.CONTENT, ConnectionLost("reset"), "deferred 4.4.2 next"),
    (Step.RSET, RemoteProtocolError("refuses RSET"), "deferred 4.5.0 next"),
    (Step.EMPTY, ConnectionLost("reset"), "deferred 4.4.2 next"),
    (Step.CONTENT, StoreError("cannot read"), "deferred 4.3.0 stay alarm"),
    (Step.FINAL, ConnectionLost("reset"), "deferred 4.4.2 stay ambiguous"),
    (Step.FINAL, DeadlinePassed("silence"), "deferred 4.4.2 stay ambiguous"),
    (Step.FINAL, RemoteProtocolError("354 to the dot"), "deferred 4.5.0 stay ambiguous"),
    ("final", ConnectionLost(""), "deferred 4.4.2 stay ambiguous"),
]


@pytest.mark.parametrize(("step", "error", "expected"), LOST)
def test_lost_transaction(step: str, error: SmarthostError, expected: str) -> None:
    """Before the final dot the next host may be tried; after it nobody knows, and no second host gets a copy (33)."""
    judged = after_lost_transaction(step, error, None, 2, HOST, ADDRESS, soft_bounce=False)

    assert [show(each) for each in judged] == [expected, expected]


def test_recipient_refused_before_the_connection_was_lost_stays_refused() -> None:
    """An answer once heard is not dropped."""
    heard = TransactionEnded(OK, (OK, no(550, "5.1.1"), None), GO, None)

    judged = after_lost_transaction(Step.FINAL, ConnectionLost("reset"), heard, 3, HOST, ADDRESS, soft_bounce=False)

    assert [show(each) for each in judged] == [
        "deferred 4.4.2 stay ambiguous",
        "bounced 5.1.1 stay",
        "deferred 4.4.2 stay ambiguous",
    ]


def test_message_refused_before_the_connection_was_lost_stays_refused() -> None:
    """A 550 to MAIL counts although the rest of the group was never answered."""
    heard = TransactionEnded(no(550, "5.7.1"), (None,), None, None)

    judged = after_lost_transaction(Step.RCPT, ConnectionLost("reset"), heard, 1, HOST, ADDRESS, soft_bounce=False)

    assert [show(each) for each in judged] == ["bounced 5.7.1 stay"]


def test_replies_of_a_host_that_broke_the_protocol_are_not_believed() -> None:
    """When replies are out of step, a 550 may be another message's: nobody is bounced for it."""
    heard = TransactionEnded(no(550), (OK,), None, None)

    judged = after_lost_transaction(
        Step.DATA, RemoteProtocolError("250 to DATA"), heard, 1, HOST, ADDRESS, soft_bounce=False
    )

    assert [show(each) for each in judged] == ["deferred 4.5.0 next"]


# -- before any session --


@pytest.mark.parametrize(
    ("no_plan", "soft_bounce", "outcome", "status"),
    [
        (NoPlan("d", True, "5.1.10", "null MX"), False, Outcome.BOUNCED, "5.1.10"),
        (NoPlan("d", True, "5.1.10", "null MX"), True, Outcome.DEFERRED, "4.1.10"),
        (NoPlan("d", True, "", "?"), False, Outcome.BOUNCED, "5.4.4"),
        (NoPlan("d", False, "4.4.3", "SERVFAIL", until=99.0), False, Outcome.DEFERRED, "4.4.3"),
        (NoPlan("d", False, "5.4.6", "loop"), False, Outcome.DEFERRED, "4.4.6"),
        (NoPlan("d", False, "", "?"), False, Outcome.DEFERRED, "4.4.3"),
    ],
)
def test_no_plan(no_plan: NoPlan, soft_bounce: bool, outcome: Outcome, status: str) -> None:
    """What DNS said becomes a bounce or a deferral with a status of the right class."""
    verdict = for_no_plan(no_plan, soft_bounce)

    assert (verdict.outcome, verdict.status, verdict.why, verdict.until) == (
        outcome,
        status,
        no_plan.why,
        no_plan.until,
    )


def test_oversize_bounces_without_sending() -> None:
    """A message above the host's announced limit is returned with 5.3.4, naming both sizes."""
    judged = for_oversize(200_000, 100_000, HOST, ADDRESS, soft_bounce=False)

    assert show(judged) == "bounced 5.3.4 stay"
    assert "200000" in judged.verdict.why
    assert "100000" in judged.verdict.why
    assert show(for_oversize(2, 1, HOST, ADDRESS, soft_bounce=True)) == "deferred 4.3.4 stay"


@pytest.mark.parametrize(
    ("reverse_path", "recipient", "expected"),
    [
        ("a@b", "c@d", None),
        ("", "postmaster", None),
        ("a@b", "ü@d", "bounced 5.6.7 next"),
        ("ä@b", "c@d", "bounced 5.6.7 next"),
    ],
)
def test_smtputf8_missing(reverse_path: str, recipient: str, expected: str | None) -> None:
    """Only an address that needs SMTPUTF8 is held against a host without it, and another host may have it."""
    judged = for_smtputf8_missing(reverse_path, recipient, HOST, ADDRESS, soft_bounce=False)

    assert (show(judged) if judged else None) == expected


def test_refused_host_is_no_attempt() -> None:
    """A host that HostGate holds back until its next probe postpones, and the next host may be tried."""
    judged = for_refused_host(Refused(77.0, "3 failures"), HOST, ADDRESS)

    assert judged.verdict.outcome is Outcome.POSTPONED
    assert judged.verdict.until == 77.0
    assert judged.try_next_host


# -- across hosts --


def verdict(
    outcome: str, why: str = "", *, said: Reply | None = None, ambiguous: bool = False, until: float = 0.0
) -> Verdict:
    status = {"relayed": "2.0.0", "bounced": "5.1.1"}.get(outcome, "4.4.1")
    return Verdict(Outcome(outcome), status, why, said, ambiguous=ambiguous, until=until or None)


@pytest.mark.parametrize(
    ("better", "worse", "expected"),
    [
        ("deferred", "bounced", "deferred better"),
        ("deferred", "relayed", "relayed worse"),
        ("deferred", "deferred", "deferred better"),
        ("deferred", "postponed", "deferred better"),
        ("postponed", "deferred", "deferred worse"),
        ("postponed", "relayed", "relayed worse"),
        ("postponed", "bounced", "deferred worse; another host could not be tried"),
        ("bounced", "postponed", "deferred better; another host could not be tried"),
        ("bounced", "deferred", "deferred worse"),
        ("bounced", "bounced", "bounced better"),
        ("bounced", "relayed", "relayed worse"),
        ("relayed", "bounced", "relayed better"),
    ],
)
def test_combination_across_hosts(better: str, worse: str, expected: str) -> None:
    """A worse host's 5xx does not override a better host's temporary failure, nor one that could not be asked."""
    combined = combine(verdict(better, "better"), verdict(worse, "worse"))

    assert f"{combined.outcome.value} {combined.why}" == expected


def test_first_host_stands_alone() -> None:
    """With nothing before it, a verdict is what it is."""
    for outcome in ("relayed", "deferred", "bounced", "postponed"):
        assert combine(None, verdict(outcome)) == verdict(outcome)


def test_the_clearer_of_two_deferrals_is_kept() -> None:
    """The ambiguous one is never forgotten; a host's own words say more than silence; else the better host's stays."""
    silent, worded = verdict("deferred", "silent"), verdict("deferred", "worded", said=no(450))
    unsure = verdict("deferred", "unsure", ambiguous=True)

    assert combine(silent, worded) is worded
    assert combine(worded, silent) is worded
    assert combine(worded, unsure) is unsure
    assert combine(unsure, worded) is unsure
    early, late = verdict("postponed", until=1.0), verdict("postponed", until=2.0)
    assert combine(early, late) is early
    assert combine(late, early) is early


# -- totality --

CODES = st.one_of(st.sampled_from([250, 251, 354, 421, 450, 451, 452, 503, 530, 550, 552, 554]), st.integers(100, 700))
REPLIES = st.builds(
    Reply, CODES, st.sampled_from(["", "2.0.0", "4.2.2", "4.3.1", "5.1.1", "5.7.1"]), st.just(("text",))
)
MAYBE = st.one_of(st.none(), REPLIES)
ENDS = st.builds(TransactionEnded, REPLIES, st.lists(MAYBE, max_size=4).map(tuple), MAYBE, MAYBE)
STEPS = st.one_of(st.sampled_from(Step), st.text(max_size=5))
ERRORS = st.sampled_from(
    [
        ConnectionLost("x"),
        DeadlinePassed("x"),
        RemoteProtocolError("x", no(550)),
        StoreError("x"),
        LocalProtocolError(""),
        TlsFailed("x"),
    ]
)
CLASS = {Outcome.RELAYED: "2.", Outcome.DEFERRED: "4.", Outcome.BOUNCED: "5.", Outcome.POSTPONED: "4."}


def is_sound(judged: RecipientVerdict, *, soft_bounce: bool) -> bool:
    """A verdict's status fits its outcome; only what is still open goes on to another host."""
    verdict = judged.verdict
    return (
        verdict.status.startswith(CLASS[verdict.outcome])
        and bool(verdict.why)
        and not (soft_bounce and verdict.outcome is Outcome.BOUNCED)
        and not (judged.try_next_host and (verdict.ambiguous or verdict.outcome is not Outcome.DEFERRED))
    )


@given(ENDS, st.integers(1, 5), st.booleans())
def test_every_end_gives_one_sound_verdict_each(ended: TransactionEnded, n: int, soft_bounce: bool) -> None:
    """No combination of replies leaves a recipient without a verdict, and only the right ones relay or bounce."""
    judged = judge(ended, n, soft_bounce=soft_bounce)

    assert len(judged) == n
    for index, each in enumerate(judged):
        rcpt = ended.recipients[index] if index < len(ended.recipients) else None
        assert is_sound(each, soft_bounce=soft_bounce)
        relayed = (
            ended.mail.code // 100 == 2
            and rcpt is not None
            and rcpt.code // 100 == 2
            and ended.final is not None
            and ended.final.code // 100 == 2
        )
        assert (each.verdict.outcome is Outcome.RELAYED) is relayed
        if each.verdict.outcome is Outcome.BOUNCED:
            assert each.verdict.reply is not None
            assert each.verdict.reply.code // 100 == 5


@given(STEPS, ERRORS, st.one_of(st.none(), ENDS), st.integers(1, 5), st.booleans())
def test_every_loss_gives_one_sound_verdict_each(
    step: str, error: SmarthostError, heard: TransactionEnded | None, n: int, soft_bounce: bool
) -> None:
    """However a transaction is lost, each recipient has one verdict; unknown is temporary, after the dot ambiguous."""
    judged = after_lost_transaction(step, error, heard, n, HOST, ADDRESS, soft_bounce)

    assert len(judged) == n
    for each in judged:
        assert is_sound(each, soft_bounce=soft_bounce)
        if heard is None:
            assert each.verdict.outcome is Outcome.DEFERRED
            assert each.verdict.ambiguous is (step == "final")


@given(STEPS, st.one_of(REPLIES, ERRORS))
def test_every_session_failure_is_a_deferral(step: str, failure: Reply | SmarthostError) -> None:
    """No session failure bounces, whatever the step is called and whatever was said."""
    judged = after_session_failure(step, failure, HOST, ADDRESS)

    assert judged.verdict.outcome is Outcome.DEFERRED
    assert judged.verdict.status.startswith("4.")


@given(st.lists(st.builds(verdict, st.sampled_from([outcome.value for outcome in Outcome])), min_size=1, max_size=5))
def test_walk_of_any_length_ends_in_one_verdict(walk: list[Verdict]) -> None:
    """Relayed anywhere is relayed; bounced is bounced only when every host said so."""
    combined: Verdict | None = None
    for each in walk:
        combined = combine(combined, each)

    assert combined is not None
    outcomes = {each.outcome for each in walk}
    assert (combined.outcome is Outcome.RELAYED) is (Outcome.RELAYED in outcomes)
    assert (combined.outcome is Outcome.BOUNCED) is (outcomes == {Outcome.BOUNCED})
    assert (combined.outcome is Outcome.POSTPONED) is (outcomes == {Outcome.POSTPONED})
    assert combined.status.startswith(CLASS[combined.outcome])


@pytest.mark.parametrize("is_heard_first", [True, False])
def test_of_two_hosts_that_are_not_dialled_the_one_that_spoke_is_told(is_heard_first: bool) -> None:
    """Mail goes when the first of them is probed; why it waits is what a host said, not that the other is not there."""
    heard = for_refused_host(Refused(90.0, "auth failed once: 535 no"), "a.example", "192.0.2.1").verdict
    silent = for_refused_host(Refused(30.0, "timed out", is_unreachable=True), "b.example", "192.0.2.2").verdict

    joined = combine(heard, silent) if is_heard_first else combine(silent, heard)

    assert (joined.host, joined.status, joined.until) == ("a.example", "4.3.2", 30.0)
