# SPDX-License-Identifier: MIT
"""Each promise can fail, and holds where it should: shown on histories that are made up."""

from simulate.history import Acknowledged, Copy, History, Life, Mail, Try
from simulate.invariants import Gate

from simulate import invariants
from smarthost.mail.record import Kind, Record
from smarthost.queue.audit import Claim, Fault, Finding

ID = "38rtjejme0000dcz"
PAIR = (ID, "bob@example.net")


def copy(at: float, *, was_heard: bool = True, address: str = "192.0.2.1") -> Copy:
    return Copy(at=at, id=ID, recipient=PAIR[1], address=address, was_heard=lambda: was_heard)


def record(kind: Kind, *, at: float = 0.0, why: str = "", seq: int = 1) -> Record:
    return Record(seq, kind, at, *PAIR, "ann@example.org", why=why)


def history(*, is_owed: bool = True) -> History:
    made = History()
    made.lives.append(Life(began=0.0))
    made.acknowledged[PAIR] = Acknowledged(at=1.0, token="t1", is_owed=is_owed)
    made.start(PAIR)
    mail = Mail(
        token="t1",
        reverse_path="ann@example.org",
        recipients=(PAIR[1],),
        silent=(),
        content=b"Subject: t1 \r\n\r\nx\r\n",
    )
    mail.tries = [Try(at=0.0, ended_content=True)]
    made.mails["t1"] = mail
    return made


def test_only_temporary_failures_may_be_heard() -> None:
    """A client that is told 5xx gives up on mail that it may send."""
    heard = invariants.a_failure_of_ours_is_never_permanent

    assert heard("552 5.3.4 no") is not None
    assert heard("452 4.3.1 no") is None


def test_what_is_acknowledged_must_be_on_disk() -> None:
    """Unless it has ended already."""
    durable, made = invariants.an_acknowledged_message_is_durable, history()

    assert durable(PAIR, False, made) is not None
    assert durable(PAIR, True, made) is None
    made.take_up(record(Kind.RELAYED))
    assert durable(PAIR, False, made) is None


def test_foreign_and_altered_mail_is_noticed() -> None:
    """Nobody's message, other octets, another reverse-path, another recipient, an id too many, an unknown report."""
    sent, copies = invariants.only_what_was_sent_arrives, [copy(2.0)]
    content = b"Received: from x\r\n\tid 38rtjejme0000dcz\r\nSubject: t1 \r\n\r\nx\r\n"

    assert sent("ann@example.org", content, copies, history()) is None
    assert "nobody's" in str(sent("ann@example.org", content.replace(b"t1 ", b"t2 "), copies, history()))
    assert "not as it was sent" in str(sent("ann@example.org", content + b".", copies, history()))
    assert "not its envelope" in str(sent("eve@example.org", content, copies, history()))
    made = history()
    made.mails["t1"].recipients = ("eve@example.net",)
    assert "not its envelope" in str(sent("ann@example.org", content, copies, made))
    made = history()
    made.mails["t1"].tries = [Try(at=0.0)]
    assert "0 times and arrived under 1 ids" in str(sent("ann@example.org", content, copies, made))
    assert "never filed" in str(sent("", b"From: Mail Delivery System <x>\r\n", copies, history()))


def test_a_second_copy_needs_a_crash_or_an_unheard_reply() -> None:
    """The allowed window of duplicates, and nothing beyond it."""
    excuse = invariants.a_second_copy_has_an_excuse
    made = history()
    made.copies[PAIR] = [copy(10.0)]
    assert "nothing was killed between" in str(excuse(copy(20.0), made))

    made.copies[PAIR] = [copy(10.0, was_heard=False)]
    assert excuse(copy(20.0), made) is None

    made.copies[PAIR] = [copy(10.0)]
    made.lives[0].ended, made.lives[0].forgot = 15.0, True
    assert excuse(copy(20.0), made) is None

    made.lives[0].forgot = False  # it stopped in good order
    assert excuse(copy(20.0), made) is not None

    made = history()
    made.take_up(record(Kind.RELAYED))
    assert "after its end" in str(excuse(copy(20.0), made))


def test_sessions_and_dials_are_limited() -> None:
    """A window and a probe; no dial in a pause, one while it is half-open."""
    dialled = invariants.no_host_is_dialled_before_its_pause_is_over

    assert invariants.sessions_stay_within_the_limit("192.0.2.1", 4, 3) is not None
    assert invariants.sessions_stay_within_the_limit("192.0.2.1", 3, 3) is None
    assert "5.000 s before" in str(dialled("192.0.2.1", Gate(until=105.0), 100.0))
    assert dialled("192.0.2.1", Gate(until=100.0), 100.0) is None
    assert dialled("192.0.2.1", None, 100.0) is None
    assert dialled("192.0.2.1", Gate(until=1.0, probed_until=121.0, dials=1), 2.0) is None
    assert dialled("192.0.2.1", Gate(until=1.0, probed_until=121.0, dials=2), 122.0) is None
    assert "2 times" in str(dialled("192.0.2.1", Gate(until=1.0, probed_until=121.0, dials=2), 2.0))


def test_a_recipient_ends_once_and_for_a_reason() -> None:
    """Two ends, relayed without a taker, a bounce of our own, an expiry too early, a cancel by nobody."""
    made = history()
    made.take_up(record(Kind.RELAYED))
    assert invariants.a_recipient_ends_once(record(Kind.RELAYED), made) is None
    made.take_up(record(Kind.EXPIRED, seq=2))
    assert "relayed" in str(invariants.a_recipient_ends_once(record(Kind.EXPIRED), made))

    taken = invariants.what_is_relayed_was_taken
    assert "no host took it" in str(taken(record(Kind.RELAYED), made))
    made.copies[PAIR] = [copy(1.0, was_heard=False)]
    assert "not read" in str(taken(record(Kind.RELAYED), made))
    made.copies[PAIR] = [copy(1.0, was_heard=False), copy(2.0)]
    assert taken(record(Kind.RELAYED), made) is None

    refused = invariants.what_bounced_was_refused
    assert refused(record(Kind.BOUNCED), made, ()) is not None
    assert refused(record(Kind.BOUNCED), made, ("example.net",)) is None
    made.refused[PAIR] = None
    assert refused(record(Kind.BOUNCED), made, ()) is None

    early = invariants.nothing_expires_early
    made.now = 5000.0
    assert "not 7200" in str(early(record(Kind.EXPIRED, at=9e9), made, 7200.0))
    made.now = 7200.0
    assert early(record(Kind.EXPIRED), made, 7200.0) is None

    assert invariants.only_operators_cancel(record(Kind.CANCELLED), made) is not None
    made.cancels.append((0.0, PAIR[1]))
    assert invariants.only_operators_cancel(record(Kind.CANCELLED), made) is None


def test_what_is_open_must_be_on_disk_and_end_in_time() -> None:
    """The time in which the relay could do nothing does not count."""
    made = history()
    assert "not on disk" in str(invariants.nothing_is_lost(made, set()))
    assert invariants.nothing_is_lost(made, {PAIR}) is None

    made.now = 1000.0
    assert "after 1000 s" in str(invariants.everything_ends_by_its_deadline(made, 900.0))
    made.excused_s = 200.0
    assert invariants.everything_ends_by_its_deadline(made, 900.0) is None
    assert "1 recipients are left" in str(invariants.all_has_ended(made))
    made.take_up(record(Kind.RELAYED))
    assert invariants.all_has_ended(made) is None
    assert invariants.nothing_is_lost(made, set()) is None


def test_a_filed_report_is_mail_like_any_other() -> None:
    """It is on disk until it has ended, and there is one for each failure that is owed, and no other."""
    made = history()
    made.take_up(record(Kind.BOUNCED))
    assert "0 reports tell of it" in str(invariants.all_failures_are_told(made))

    told = record(Kind.REPORTED, why="report 38rtjejmf0000dcz queued for <ann@example.org>: failed", seq=2)
    made.take_up(told)
    assert invariants.all_failures_are_told(made) is None
    assert invariants.a_failure_is_told_once(told, made) is None
    assert "not on disk" in str(invariants.nothing_is_lost(made, set()))

    made.take_up(told)
    assert invariants.a_failure_is_told_once(told, made) is not None
    assert "2 reports" in str(invariants.all_failures_are_told(made))

    made = history(is_owed=False)
    made.take_up(record(Kind.BOUNCED))
    made.take_up(told)
    assert "nobody is owed" in str(invariants.all_failures_are_told(made))


def test_owners_and_auditors_are_believed() -> None:
    """No owner, an event in the past, a finding of the relay's own auditor, and what is held without mail."""
    owned = invariants.each_recipient_has_one_owner_and_one_next_event
    assert "no owner" in str(owned([(ID, 0)], [], 0.0, 0.0))
    assert "overdue" in str(owned([(ID, 0)], [Claim(ID, 0, "store", 5.0)], 6.0, 0.0))
    assert owned([(ID, 0)], [Claim(ID, 0, "store", 7.0)], 6.0, 0.0) is None

    assert invariants.each_lease_has_one_owner([Finding(ID, 0, Fault.NO_OWNER, "lost")]) is not None
    assert invariants.each_lease_has_one_owner([]) is None
    assert invariants.the_auditor_finds_nothing({"no owner": 1}) is not None
    assert invariants.the_auditor_finds_nothing({}) is None

    held = invariants.nothing_is_held_when_all_is_done
    assert held(0, True, 0) is None
    assert all(each is not None for each in (held(1, True, 0), held(0, False, 0), held(0, True, 1)))
