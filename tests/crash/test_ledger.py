# SPDX-License-Identifier: MIT
"""The books of the crash suite: what counts as lost, altered, foreign, doubled."""

from typing import Any

from crash.ledger import Comparison, compare

Line = dict[str, Any]


def acknowledged(token: str, *kinds: str) -> Line:
    recipients = [f"{kind}.{token}.{n}@crash.test" for n, kind in enumerate(kinds)]
    sender = f"sender.{token}@crash.test"
    return {
        "token": token,
        "event": "acknowledged",
        "sender": sender,
        "recipients": recipients,
        "octets": 9,
        "sha256": "s",
    }


def arrived(token: str, *recipients: str, sha: str = "s") -> Line:
    return {"token": token, "from": f"sender.{token}@crash.test", "to": list(recipients), "octets": 9, "sha256": sha}


def report(id: str, *recipients: str) -> Line:
    return {"from": "", "to": ["sender"], "id": id, "report": list(recipients)}


def failures_of(found: Comparison) -> tuple[tuple[str, ...], ...]:
    return found.lost, found.altered, found.foreign, found.doubled_reports


def test_a_message_that_arrived_as_sent_is_well() -> None:
    found = compare([acknowledged("a", "ok")], [arrived("a", "ok.a.0@crash.test")])

    assert failures_of(found) == ((), (), (), ())
    assert (found.acknowledged, found.arrived, found.duplicates) == (1, 1, 0)


def test_an_acknowledged_recipient_without_arrival_is_lost() -> None:
    found = compare([acknowledged("a", "ok", "later")], [arrived("a", "ok.a.0@crash.test")])

    assert found.lost == ("later.a.1@crash.test",)


def test_a_refused_recipient_must_be_reported() -> None:
    assert compare([acknowledged("a", "no")], []).lost == ("no.a.0@crash.test",)
    assert compare([acknowledged("a", "no")], [report("<1>", "no.a.0@crash.test")]).lost == ()


def test_two_reports_of_one_failure_are_doubled_but_one_report_twice_is_a_duplicate() -> None:
    ledger = [acknowledged("a", "no")]
    other = compare(ledger, [report("<1>", "no.a.0@crash.test"), report("<2>", "no.a.0@crash.test")])
    same = compare(ledger, [report("<1>", "no.a.0@crash.test"), report("<1>", "no.a.0@crash.test")])

    assert other.doubled_reports == ("no.a.0@crash.test",)
    assert (same.doubled_reports, same.duplicates) == ((), 1)


def test_what_arrived_twice_is_counted_and_is_no_failure() -> None:
    found = compare([acknowledged("a", "ok")], [arrived("a", "ok.a.0@crash.test")] * 3)

    assert (found.duplicates, found.doubled, found.failures) == (2, ("ok.a.0@crash.test",), 0)


def test_a_changed_octet_is_altered() -> None:
    assert compare([acknowledged("a", "ok")], [arrived("a", "ok.a.0@crash.test", sha="other")]).altered == ("a",)


def test_what_was_never_sent_or_goes_to_another_is_foreign() -> None:
    log = [arrived("b", "ok.b.0@crash.test"), arrived("a", "ok.c.0@crash.test")]

    assert compare([acknowledged("a", "never")], log).foreign == ("ok.b.0@crash.test", "ok.c.0@crash.test")


def test_what_was_sent_and_not_acknowledged_may_arrive_or_not() -> None:
    ledger = [{"token": "a", "event": "sent"}, {"token": "a", "event": "unknown"}]

    assert compare(ledger, []).failures == 0
    assert compare(ledger, [arrived("a", "ok.a.0@crash.test")]).failures == 0
