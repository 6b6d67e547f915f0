# SPDX-License-Identifier: MIT
"""reports: how many reports one reverse-path gets in an hour, and what becomes of those it does not get."""

from tests.test_relay import BOUNCED, DEFERRED, RELAYED, Bench, on_bench

from smarthost import reports
from smarthost.mail.errors import StoreError
from smarthost.mail.lease import Lease
from smarthost.mail.record import Kind
from smarthost.mail.result import Verdict
from smarthost.reports import Allowance
from smarthost.testing.clock import FakeClock

HOUR_S = 3600.0


def test_an_hour_allows_so_many_reports_and_the_next_as_many_again() -> None:
    """A forged reverse-path is not buried; one that made many mistakes hears of the next hour's."""
    clock = FakeClock()
    allowance = Allowance(clock, 2)

    first = [allowance.take("ann@example.org", True) for _ in range(4)]
    clock.advance(HOUR_S - 1)
    late = allowance.take("ann@example.org", True)
    clock.advance(1)

    assert [True, True, False, False, False] == [*first, late]
    assert allowance.take("ann@example.org", True)


def test_others_and_failures_are_counted_apart() -> None:
    """Warnings cost nobody the word that mail was lost, and one sender costs another nothing."""
    allowance = Allowance(FakeClock(), 1)

    assert allowance.take("ann@example.org", False)
    assert not allowance.take("ann@example.org", False)
    assert allowance.take("ann@example.org", True)
    assert allowance.take("bob@example.org", False)


def test_a_million_reverse_paths_do_not_fill_the_memory() -> None:
    """Beyond a bound all are counted anew."""
    allowance = Allowance(FakeClock(), 1)

    for n in range(reports.NAMES_COUNTED + 10):
        assert allowance.take(f"a{n}@example.org", True)

    assert len(allowance._counts) <= reports.NAMES_COUNTED


def to_victims_only(lease: Lease) -> Verdict:
    return BOUNCED if lease.reverse_path else RELAYED


@on_bench()
async def test_beyond_the_bound_a_record_says_why_nobody_was_told(bench: Bench) -> None:
    """103 bounces in an hour: 100 reports, three records instead; nothing is owed any more, and later it goes on."""
    bench.verdict = to_victims_only
    for n in range(103):
        await bench.add(f"u{n}@example.net")
    await bench.clock.sleep(120)
    untold = [each for each in bench.told if each.kind is Kind.REPORTED and "nobody is told" in each.why]
    at_first = await bench.kinds()
    await bench.clock.sleep(HOUR_S)
    await bench.add("one-more@example.net")
    await bench.clock.sleep(10)

    assert {"bounced": 103, "reported": 103, "relayed": 100} == at_first
    assert ["nobody is told: <ann@example.org> had 100 such reports in this hour"] * 3 == [each.why for each in untold]
    assert 101 == (await bench.kinds())["relayed"]
    assert (0, 0) == await bench.store.count()


@on_bench()
async def test_many_warnings_leave_room_for_the_word_of_failure(bench: Bench) -> None:
    """A backlog of delays uses up its own bound; what bounces in the same hour is reported."""
    bench.verdict = lambda lease: DEFERRED if lease.reverse_path else RELAYED
    for n in range(110):
        await bench.add(f"u{n}@example.net")
    await bench.clock.sleep(5 * HOUR_S)
    before = (await bench.kinds())["relayed"]
    bench.verdict = to_victims_only
    await bench.add("gone@example.com")
    await bench.clock.sleep(60)

    assert 100 == before
    assert any("queued" in each.why for each in bench.told if each.recipient == "gone@example.com")


@on_bench()
async def test_reports_go_on_seconds_after_the_store_does(bench: Bench) -> None:
    """The store's process was killed while a report was asked for: the sender hears now, not a minute later."""
    bench.verdict = to_victims_only
    bench.store.failure = StoreError("the store's process ended unexpectedly")
    await bench.clock.sleep(61)
    bench.store.failure = None
    await bench.clock.sleep(reports.RETRY_STORE_S)
    await bench.add("gone@example.com")
    await bench.clock.sleep(2)

    assert 1 == (await bench.kinds())["reported"]
    assert (0, 0) == await bench.store.count()
