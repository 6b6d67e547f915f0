# SPDX-License-Identifier: MIT
"""Records reach a receiver in order and at least once, whatever becomes of it, of us, and of the store."""

import pytest
from tests.ops.outbox.rig import Carrying, FakeReceiver, FakeRecords, record

from smarthost.mail.errors import StoreError
from smarthost.mail.record import Kind
from smarthost.ops.outbox.carrier import LONGEST_PAUSE_S, PAGE, Undelivered

pytestmark = pytest.mark.asyncio


async def test_a_new_receiver_begins_at_now() -> None:
    """Who is configured today does not get the whole of last week."""
    source, receiver = FakeRecords(record(1), record(2)), FakeReceiver()

    async with Carrying(source, receiver) as carrying:
        source.happen(record(3), record(4))
        await carrying.turn(1.0)

    assert [3, 4] == receiver.got


async def test_a_restart_goes_on_where_it_was() -> None:
    """What happened while the daemon was down is delivered after its start, and nothing twice."""
    source, receiver = FakeRecords(), FakeReceiver()
    async with Carrying(source, receiver) as carrying:
        source.happen(record(1))
        await carrying.turn(1.0)
    source.happen(record(2), record(3))

    async with Carrying(source, receiver) as carrying:
        await carrying.turn(1.0)

    assert [1, 2, 3] == receiver.got


async def test_a_crash_before_the_cursor_is_saved_delivers_again() -> None:
    """Delivered and not yet noted is the one window of repetition; nothing is ever left out."""
    source, receiver = FakeRecords(), FakeReceiver()
    async with Carrying(source, receiver) as carrying:
        source.happen(record(1))
        await carrying.turn(1.0)
        before = dict(source.notes)
        source.happen(record(2))
        await carrying.turn(1.0)
    source.notes = before  # as if the crash had come between

    async with Carrying(source, receiver) as carrying:
        await carrying.turn(1.0)

    assert [1, 2, 2] == receiver.got


async def test_what_fails_is_tried_again_more_and_more_seldom() -> None:
    """A dead receiver is asked after 1 s, 2 s, 4 s and in the end every five minutes, and loses nothing."""
    source, receiver = FakeRecords(), FakeReceiver()
    receiver.failures = [Undelivered("connection refused")] * 20
    async with Carrying(source, receiver) as carrying:
        source.happen(record(1), record(2))
        await carrying.turn(10.0)

        assert 3 <= receiver.tries <= 5
        report = carrying.carrier.report()
        assert "connection refused" == report.last_error
        assert report.behind_s > 5
        assert 0 < report.next_try_at - carrying.clock.wall() <= 1.2 * 8
        await carrying.until(lambda: receiver.got == [1, 2], 20 * LONGEST_PAUSE_S, 60.0)

    assert [1, 2] == receiver.got
    assert 21 == receiver.tries
    assert 0.0 == carrying.carrier.behind_s
    assert "" == carrying.carrier.report().last_error


async def test_trouble_is_told_once_an_hour_and_its_end_once() -> None:
    """A receiver that is dead for a night does not fill the log."""
    source, receiver = FakeRecords(), FakeReceiver()
    receiver.failures = [Undelivered("HTTP 500")] * 30
    async with Carrying(source, receiver) as carrying:
        source.happen(record(1))
        await carrying.until(lambda: receiver.got == [1], 3 * 3600, 60.0)

    told = [what for _, what, _ in carrying.told]
    assert 2 <= told.count("outbox does not deliver") <= 3
    assert 1 == told.count("outbox delivers again")


async def test_a_receiver_that_says_when_is_asked_then() -> None:
    """Retry-After is heeded."""
    source, receiver = FakeRecords(), FakeReceiver()
    receiver.failures = [Undelivered("HTTP 503", retry_after_s=60.0)]
    async with Carrying(source, receiver) as carrying:
        source.happen(record(1))
        await carrying.turn(55.0)
        assert 1 == receiver.tries
        await carrying.turn(10.0)

    assert [1] == receiver.got


async def test_a_receiver_that_is_gone_for_good_is_left_alone() -> None:
    """410 stops it with an alarm; the next start tries once more, from where it was."""
    source, receiver = FakeRecords(), FakeReceiver()
    receiver.failures = [Undelivered("HTTP 410", is_gone=True)]
    async with Carrying(source, receiver) as carrying:
        source.happen(record(1))
        await carrying.turn(3600.0)
        assert 1 == receiver.tries
        assert carrying.carrier.report().is_stopped
        assert ("error", "outbox stopped") in [(level, what) for level, what, _ in carrying.told]

    async with Carrying(source, receiver) as carrying:
        await carrying.turn(1.0)

    assert [1] == receiver.got


async def test_only_wanted_kinds_are_delivered() -> None:
    """A receiver of bounces hears of nothing else, and is not asked for what it does not want."""
    source, receiver = FakeRecords(), FakeReceiver()
    async with Carrying(source, receiver, kinds=("bounced",)) as carrying:
        source.happen(*[record(seq) for seq in range(1, 50)], record(50, Kind.BOUNCED), record(51))
        await carrying.turn(1.0)

    assert [50] == receiver.got
    assert 1 == receiver.tries


async def test_ten_thousand_records_arrive_in_order_and_a_page_at_a_time() -> None:
    """However far behind it is, it holds one page in memory, and receivers that take few get all."""
    source, receiver = FakeRecords(), FakeReceiver(most=70)
    async with Carrying(source, receiver) as carrying:
        source.happen(*[record(seq) for seq in range(1, 10_001)])
        await carrying.until(lambda: len(receiver.got) == 10_000)

    assert list(range(1, 10_001)) == receiver.got
    assert all(n <= PAGE + 1 for _, n in source.reads)


async def test_a_record_that_may_be_overtaken_is_waited_for() -> None:
    """What is durable out of order is delivered in order, once nothing can come before it."""
    source, receiver = FakeRecords(), FakeReceiver()
    async with Carrying(source, receiver) as carrying:
        source.happen(record(2))
        source.record_horizon = 0  # record 1 is on its way to the disk
        await carrying.turn(1.0)
        assert [] == receiver.got
        source.happen(record(1))
        source.kept.sort(key=lambda each: each.seq)
        await carrying.turn(1.0)

    assert [1, 2] == receiver.got


async def test_records_forgotten_before_they_were_delivered_are_told() -> None:
    """A receiver that was away for longer than records are kept has lost some, and the operator hears which."""
    source, receiver = FakeRecords(), FakeReceiver()
    async with Carrying(source, receiver) as carrying:
        source.happen(record(1))
        await carrying.turn(1.0)
    source.happen(*[record(seq) for seq in range(2, 10)])
    del source.kept[:5]

    async with Carrying(source, receiver) as carrying:
        await carrying.turn(1.0)

    assert [1, 6, 7, 8, 9] == receiver.got
    assert 1 == carrying.carrier.losses
    assert "2027-01-15T08:00:01.000Z" in carrying.carrier.report().last_loss
    assert "2027-01-15T08:00:06.000Z" in carrying.carrier.report().last_loss
    assert ("error", "outbox lost records") in [(level, what) for level, what, _ in carrying.told]


async def test_silence_is_no_loss() -> None:
    """A relay that had nothing to tell for longer than records are kept has lost none, restarted or not."""
    source, receiver = FakeRecords(), FakeReceiver()
    async with Carrying(source, receiver) as carrying:
        source.happen(record(1))
        await carrying.turn(1.0)
        source.kept.clear()
        source.happen(record(2))
        await carrying.turn(1.0)
        await carrying.carrier.close()
    source.kept.clear()
    source.happen(record(3))

    async with Carrying(source, receiver) as again:
        await again.turn(1.0)

    assert [1, 2, 3] == receiver.got
    assert 0 == carrying.carrier.losses + again.carrier.losses
    assert receiver.is_closed


async def test_a_store_in_trouble_delays_and_loses_nothing() -> None:
    """While nothing can be read or saved it waits; then it goes on, at worst with what it delivered last."""
    source, receiver = FakeRecords(), FakeReceiver()
    async with Carrying(source, receiver) as carrying:
        source.trouble = StoreError("the disk hangs")
        source.happen(record(1), record(2))
        await carrying.turn(5.0)
        assert [] == receiver.got
        source.trouble = None
        await carrying.turn(5.0)

    assert [1, 2] == receiver.got


async def test_a_damaged_cursor_begins_at_now_and_says_so() -> None:
    """It costs what was waiting, not the outbox."""
    source, receiver = FakeRecords(record(1)), FakeReceiver()
    source.notes["outbox/webhook:test"] = b"\xff"
    async with Carrying(source, receiver) as carrying:
        source.happen(record(2))
        await carrying.turn(1.0)

    assert [2] == receiver.got
    assert "outbox begins anew: its cursor is damaged" in [what for _, what, _ in carrying.told]


async def test_nothing_new_costs_no_question_to_the_store() -> None:
    """An idle relay's store is not asked four times a second."""
    source, receiver = FakeRecords(), FakeReceiver()
    async with Carrying(source, receiver) as carrying:
        await carrying.turn(60.0)

    assert len(source.reads) <= 1


async def test_an_error_text_of_a_receiver_cannot_obey_a_terminal() -> None:
    """What a receiver answers is hostile text: escaped, and cut."""
    failure = Undelivered("HTTP 500: \x1b[31mred\x07" + "x" * 5000)

    assert "\x1b" not in str(failure)
    assert len(str(failure)) <= 300
