# SPDX-License-Identifier: MIT
"""Scenarios: who is owed a report gets one, once; and records tell what happened, in order."""

from smarthost.mail.message import Message
from smarthost.mail.record import Kind, Record
from smarthost.mail.settlement import OwedReport, SettledRecipient, Settlement, State
from smarthost.queue.store import DueScan
from smarthost.testing.stores.trial import HOUR, NOW, Trial, content_of

DAY = 24 * HOUR
HEADER_OCTETS = 64 * 1024


async def _bounce(
    trial: Trial, *addresses: str, content: bytes = b"Subject: x\r\n\r\nx\r\n"
) -> tuple[Message, Settlement]:
    """Have all recipients of a new message bounce, with a report owed."""
    message = trial.message(*addresses, content=content)
    (lease,) = await trial.store.add(message, {address.domain for address in message.envelope.recipients})
    settlement = trial.settlement(lease, State.BOUNCED, owed=True)
    await trial.store.settle([settlement])
    return message, settlement


def _report(trial: Trial, owed: OwedReport) -> tuple[Message, list[Record]]:
    """Write the report that is owed, and its records."""
    report = trial.message(owed.reverse_path, reverse_path="", content=b"Subject: sorry\r\n\r\n")
    records = [
        Record(trial.next_seq(), Kind.REPORTED, NOW, owed.id, failed.address, why=report.id)
        for failed in owed.recipients
    ]
    return report, records


async def owed_report_tells_all_that_is_needed(trial: Trial) -> None:
    """What bounced with a report owed stays, with all a report is written from."""
    message, settlement = await _bounce(trial, "a@dest.example", "b@dest.example")
    await trial.crash()

    assert await trial.store.count() == (1, 0)
    assert await trial.store.due(NOW + DAY, 10) == DueScan((), None)
    owed = await trial.store.lease_report(NOW)
    assert owed is not None
    assert (owed.id, owed.received_at) == (message.id, NOW)
    assert (owed.reverse_path, owed.smtputf8) == ("sender@origin.example", False)
    assert owed.prefix == message.prefix
    assert owed.header == content_of(message.content)
    assert owed.recipients == settlement.recipients
    assert (owed.recipients[0].host, owed.recipients[0].status, owed.recipients[0].why) == (
        "mx.dest.example",
        "5.1.1",
        "it was bounced",
    )


async def filing_a_report_pays_the_debt(trial: Trial) -> None:
    """A filed report is a message of its own, and the one it reports on is gone with the debt."""
    message, _ = await _bounce(trial, "a@dest.example")
    owed = await trial.store.lease_report(NOW)
    assert owed is not None
    report, records = _report(trial, owed)
    await trial.store.file_report(owed, report, records)

    await trial.crash()

    assert await trial.states() == {"sender@origin.example": "deferred"}
    assert await trial.store.lease_report(NOW + DAY) is None
    (lease,) = await trial.store.lease(["origin.example"], NOW, 10)
    assert (lease.id, lease.reverse_path) == (report.id, "")
    assert content_of(await trial.store.content(report.id)) == b"Subject: sorry\r\n\r\n"
    assert [(each.kind, each.id) for each in await trial.all_records()] == [
        (Kind.BOUNCED, message.id),
        (Kind.REPORTED, message.id),
    ]


async def debt_may_be_cleared_without_a_report(trial: Trial) -> None:
    """When nobody is to be told, the debt goes, and the record says why."""
    await _bounce(trial, "a@dest.example")
    owed = await trial.store.lease_report(NOW)
    assert owed is not None

    await trial.store.file_report(owed, None, _report(trial, owed)[1])

    assert await trial.store.count() == (0, 0)
    assert await trial.kinds() == [Kind.BOUNCED, Kind.REPORTED]


async def filing_twice_files_once(trial: Trial) -> None:
    """A report that is filed again, because nobody knew whether it was, is sent once."""
    await _bounce(trial, "a@dest.example")
    _, (lease,) = await trial.add_leased("b@dest.example", "c@dest.example")
    await trial.store.settle([trial.settlement(lease, State.BOUNCED, owed=True, only={0})])
    for _ in range(2):
        owed = await trial.store.lease_report(NOW + HOUR)
        assert owed is not None
        for _ in range(3):
            report, records = _report(trial, owed)
            await trial.store.file_report(owed, report, records)
            await trial.store.file_report(owed, report, records)

    assert await trial.store.count() == (3, 3)
    assert await trial.kinds() == [Kind.BOUNCED, Kind.BOUNCED, Kind.REPORTED, Kind.REPORTED]


async def report_waits_for_recipients_under_way(trial: Trial) -> None:
    """A report waits until no recipient of its message is being worked on, but a minute at most."""
    _, (lease,) = await trial.add_leased("a@dest.example", "b@dest.example")
    await trial.store.settle([trial.settlement(lease, State.BOUNCED, owed=True, only={0})])

    assert await trial.store.lease_report(NOW) is None
    assert await trial.store.lease_report(NOW + 60) is None
    owed = await trial.store.lease_report(NOW + 61)
    assert owed is not None
    await trial.store.file_report(owed, None, ())
    assert await trial.states() == {"b@dest.example": "leased"}
    await trial.store.settle([trial.settlement(lease, State.BOUNCED, owed=True, only={1})])
    owed = await trial.store.lease_report(NOW)
    assert owed is not None
    assert [failed.address for failed in owed.recipients] == ["b@dest.example"]


async def report_is_leased_once(trial: Trial) -> None:
    """Two writers never write the same report; after a crash it is there again."""
    first, _ = await _bounce(trial, "a@dest.example")
    second, _ = await _bounce(trial, "b@dest.example")
    found = [await trial.store.lease_report(NOW) for _ in range(3)]
    assert [owed.id if owed else None for owed in found] == [first.id, second.id, None]

    await trial.crash()

    found = [await trial.store.lease_report(NOW) for _ in range(3)]
    assert [owed.id if owed else None for owed in found] == [first.id, second.id, None]


async def unwritten_report_is_given_out_again(trial: Trial) -> None:
    """A report whose writer never came back is not owed for ever."""
    message, _ = await _bounce(trial, "a@dest.example")
    await trial.store.lease_report(NOW)
    assert await trial.store.lease_report(NOW + 60) is None

    owed = await trial.store.lease_report(NOW + HOUR)

    assert owed is not None
    assert owed.id == message.id


async def debt_that_comes_later_stays(trial: Trial) -> None:
    """What bounces while a report is being written gets a report of its own."""
    _, (lease,) = await trial.add_leased("a@dest.example", "b@dest.example")
    await trial.store.settle([trial.settlement(lease, State.BOUNCED, owed=True, only={0})])
    owed = await trial.store.lease_report(NOW + HOUR)
    assert owed is not None
    await trial.store.settle([trial.settlement(lease, State.BOUNCED, owed=True, only={1})])

    await trial.store.file_report(owed, *_report(trial, owed))

    later = await trial.store.lease_report(NOW + HOUR)
    assert later is not None
    assert [failed.n for failed in later.recipients] == [1]
    await trial.store.file_report(later, *_report(trial, later))
    assert await trial.store.lease_report(NOW + DAY) is None
    assert await trial.states() == {"sender@origin.example": "deferred"}


async def warning_leaves_its_recipient_in_the_queue(trial: Trial) -> None:
    """A report may be owed for what is only late; filing it ends the debt, not the delivery."""
    _, (lease,) = await trial.add_leased("a@dest.example")
    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW + 10, owed=True)])
    owed = await trial.store.lease_report(NOW)
    assert owed is not None
    assert owed.recipients[0].state is State.DEFERRED

    await trial.store.file_report(owed, None, ())

    assert await trial.store.lease_report(NOW + DAY) is None
    assert await trial.states() == {"a@dest.example": "deferred"}


async def debt_outlives_the_next_attempt(trial: Trial) -> None:
    """A report that is owed stays owed when its recipient is tried and deferred again meanwhile."""
    _, (lease,) = await trial.add_leased("a@dest.example")
    await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW, owed=True)])
    (again,) = await trial.store.lease(["dest.example"], NOW, 10)

    await trial.store.settle([trial.settlement(again, State.DEFERRED, due=NOW + 10)])

    owed = await trial.store.lease_report(NOW)
    assert owed is not None
    assert [(each.address, each.report_owed, each.due) for each in owed.recipients] == [
        ("a@dest.example", True, NOW + 10)
    ]


async def report_has_the_start_of_large_content(trial: Trial) -> None:
    """A report is written from the first 64 KiB, wherever the content lives."""
    content = b"Subject: large\r\n\r\n" + bytes(range(256)) * 2000
    await _bounce(trial, "a@dest.example", content=content[:100_000])
    await _bounce(trial, "b@dest.example", content=content)

    for _ in range(2):
        owed = await trial.store.lease_report(NOW)
        assert owed is not None
        assert owed.header == content[:HEADER_OCTETS]


async def records_come_in_order_by_cursor(trial: Trial) -> None:
    """A reader of records that remembers the last number sees each record once, across days."""
    settlements = []
    for day in range(4):
        _, (lease,) = await trial.add_leased("a@dest.example", "b@dest.example")
        settlements.append(trial.settlement(lease, State.RELAYED, at=NOW + day * DAY))
    for settlement in settlements:
        await trial.store.settle([settlement])
    await trial.crash()

    seen: list[Record] = []
    while found := await trial.store.records(seen[-1].seq if seen else 0, 3):
        assert len(found) <= 3
        seen += found

    assert seen == [record for settlement in settlements for record in settlement.records]


async def record_keeps_all_its_fields(trial: Trial) -> None:
    """A record comes back as it was written."""
    _, (lease,) = await trial.add_leased("a@dest.example")
    settled = SettledRecipient(0, "a@dest.example", "dest.example", State.RELAYED, 0.0, 1, "2.0.0", "250 ok", "")
    record = Record(
        trial.next_seq(), Kind.RELAYED, NOW + 0.1, lease.id, "a@dest.example", "sender@origin.example", 1, "2.0.0",
        '250 2.0.0 "ok" \\ ü\u2028', "why not", "mx.dest.example", "2001:db8::1", "mx.dest.example", "TLSv1.3", True,
        12345, "192.0.2.7", 0.0, 0.125, 0.25, 0.0625, 1 / 3, ("mx1.dest.example [192.0.2.1]: refused", "ü"),
    )  # fmt: skip

    await trial.store.settle([Settlement(lease.id, (settled,), (record,))])

    assert await trial.all_records() == [record]


SCENARIOS = (
    owed_report_tells_all_that_is_needed,
    filing_a_report_pays_the_debt,
    debt_may_be_cleared_without_a_report,
    filing_twice_files_once,
    report_waits_for_recipients_under_way,
    report_is_leased_once,
    unwritten_report_is_given_out_again,
    debt_that_comes_later_stays,
    warning_leaves_its_recipient_in_the_queue,
    debt_outlives_the_next_attempt,
    report_has_the_start_of_large_content,
    records_come_in_order_by_cursor,
    record_keeps_all_its_fields,
)
