# SPDX-License-Identifier: MIT
"""sweeps: what waits for too long is warned of, once, and whatever it waits for."""

from msgspec.structs import replace
from tests.test_relay import DEFERRED, RELAYED, Bench, on_bench, plan_for

from smarthost.mail.errors import StoreError
from smarthost.mail.lease import Lease
from smarthost.mail.record import Kind, Record
from smarthost.queue.schedule import RetrySchedule
from smarthost.queue.store import Filter
from smarthost.sweeps import Sweeps, SweepTerms

HOUR_S = 3600.0


def warned(bench: Bench) -> list[Record]:
    return [each for each in bench.told if each.kind is Kind.CHANGED]


def shut(bench: Bench) -> None:
    """Nobody may dial the host of example.net, for ever."""
    bench.plans["example.net"] = plan_for("example.net", address="192.0.2.9")
    bench.gate.refused["192.0.2.9"] = bench.clock.wall() + 1e9


@on_bench()
async def test_what_was_never_attempted_is_warned_of_once_with_its_reason(bench: Bench) -> None:
    """Mail that waits for a broken host meets no attempt that could warn: a sweep does, after four hours."""
    shut(bench)
    await bench.add("bob@example.net")
    await bench.clock.sleep(4 * HOUR_S - 1)
    early = await bench.kinds()
    await bench.clock.sleep(125)
    on_time = await bench.kinds()
    await bench.clock.sleep(30 * HOUR_S)

    assert {} == early
    assert {"changed": 1, "reported": 1, "relayed": 1} == on_time == await bench.kinds()
    assert "192.0.2.9 is shut" in warned(bench)[0].why
    assert (1, 1) == await bench.store.count()
    assert ["ann@example.org"] == bench.who()


@on_bench()
async def test_an_attempt_that_fails_late_warns_at_once(bench: Bench) -> None:
    """Who is being tried need not wait for a sweep."""
    bench.verdict = lambda lease: DEFERRED if lease.reverse_path else RELAYED
    old = replace(bench.message("bob@example.net"), received_at=bench.clock.wall() - 4 * HOUR_S)
    await bench.store.add(old, ())
    bench.journey.look_again()
    await bench.clock.sleep(10)

    assert {"deferred": 1, "reported": 1, "relayed": 1} == await bench.kinds()


@on_bench()
async def test_a_warning_moves_no_attempt(bench: Bench) -> None:
    """A backlog that waits for its time is not tried at once because its senders are written to."""
    bench.verdict = lambda lease: DEFERRED if lease.reverse_path else RELAYED
    await bench.add("bob@example.net")
    await bench.clock.sleep(4 * HOUR_S - 1)
    tried = bench.who().count("bob@example.net")
    before = (await bench.operations.find(Filter(), None, 10)).messages[0].recipients[0]
    await bench.clock.sleep(130)
    after = (await bench.operations.find(Filter(), None, 10)).messages[0].recipients[0]

    assert 1 == len(warned(bench))
    assert after == before
    assert before.due > bench.clock.wall() + 1000
    assert tried == bench.who().count("bob@example.net")


@on_bench()
async def test_a_large_backlog_is_swept_in_one_go(bench: Bench) -> None:
    """More than one batch is taken batch after batch; nobody is warned twice."""
    shut(bench)
    for n in range(250):
        await bench.add(f"u{n}@example.net")
    await bench.clock.sleep(4 * HOUR_S + 61)

    assert 250 == len(warned(bench)) == len({each.recipient for each in warned(bench)})
    assert max(each.at for each in warned(bench)) - min(each.at for each in warned(bench)) < 1


@on_bench()
async def test_nobody_is_warned_of_what_goes_after_a_long_absence(bench: Bench) -> None:
    """A relay that was down for hours sends first; who gets mail at once needs no warning."""
    old = replace(bench.message("bob@example.net"), received_at=bench.clock.wall() - 9 * HOUR_S)
    await bench.store.add(old, ())
    bench.journey.look_again()
    await bench.clock.sleep(130)

    assert {"relayed": 1} == await bench.kinds()


@on_bench()
async def test_a_store_that_fails_is_asked_again(bench: Bench) -> None:
    """An error is noted, and a minute later the sweep finds what it owes."""
    shut(bench)
    await bench.add("bob@example.net")
    sweep = bench.store.sweep_delayed

    async def broken(received_before: float, n: int) -> tuple[Lease, ...]:
        raise StoreError("the disk is broken")

    bench.store.sweep_delayed = broken  # type: ignore[method-assign]
    await bench.clock.sleep(5 * HOUR_S)
    before = len(warned(bench))
    bench.store.sweep_delayed = sweep  # type: ignore[method-assign]
    await bench.clock.sleep(61)

    assert [0, 1] == [before, len(warned(bench))]
    assert "store does not say what is old" in [what for what, _ in bench.notes]


def test_without_warnings_no_loop_runs_for_them() -> None:
    """A warning time of 0 costs nothing."""
    terms = [
        SweepTerms(None, None, None, schedule, None, None, None, None)  # type: ignore[arg-type]
        for schedule in (RetrySchedule(), RetrySchedule(delay_warning_s=0.0))
    ]

    assert [2, 1] == [len(Sweeps(each).loops) for each in terms]
