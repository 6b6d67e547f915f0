# SPDX-License-Identifier: MIT
"""Reports: who gets one, when, and how many."""

import pytest
from tests.journeys.rig import (
    DAY_S,
    HOUR_S,
    SlowExchanger,
    assert_accounted,
    ends,
    failed_in,
    in_world,
    reports,
    taken,
    times_of,
)

from smarthost.mail.record import Kind
from smarthost.testing.world import SimulatedWorld

UNKNOWN = {"rcpt": "550 5.1.1 unknown"}


@in_world()
async def test_a_bounce_is_reported_at_once(world: SimulatedWorld) -> None:
    """Who mistypes an address reads so within seconds, not minutes."""
    home = world.site("example.org", "192.0.2.1")
    world.site("example.net", "192.0.2.2", replies=UNKNOWN)

    await world.submit("ann@example.org", "gone@example.net")
    await world.clock.sleep(2)

    (report,) = reports(home)
    assert ["gone@example.net"] == failed_in(report)
    assert {"accepted": 2, "bounced": 1, "relayed": 1, "reported": 1} == world.kinds()
    assert_accounted(world)


@in_world()
async def test_failures_of_one_message_are_merged_in_one_report(world: SimulatedWorld) -> None:
    """Three of four recipients fail at three places: one report names the three."""
    home = world.site("example.org", "192.0.2.1")
    world.site("example.net", "192.0.2.2", replies={"rcpt": {"gone@example.net": "550 5.1.1 unknown"}})
    world.site("example.com", "192.0.2.3", replies={"dot": "554 5.7.1 no"})
    gone = ("gone@example.net", "spam@example.com", "x@tpyo.example")

    await world.submit("ann@example.org", "fine@example.net", *gone)
    await world.until_empty()

    (report,) = reports(home)
    assert sorted(gone) == sorted(failed_in(report))
    assert {"accepted": 2, "bounced": 3, "relayed": 2, "reported": 3} == world.kinds()
    assert_accounted(world)


@in_world()
async def test_a_report_waits_for_recipients_under_way(world: SimulatedWorld) -> None:
    """While another recipient of the message is being tried its outcome is waited for, then one report tells all."""
    home = world.site("example.org", "192.0.2.1")
    world.site("example.net", "192.0.2.2", replies=UNKNOWN)
    world.domain("slow.example", "192.0.2.3")
    slow = SlowExchanger(replies=UNKNOWN)
    slow.delay_s = 10.0
    world.place(slow, "192.0.2.3")

    await world.submit("ann@example.org", "gone@example.net", "gone@slow.example")
    await world.clock.sleep(25)
    early = reports(home)
    await world.until_empty()

    assert [] == early
    (report,) = reports(home)
    assert ["gone@example.net", "gone@slow.example"] == failed_in(report)
    assert times_of(world, "reported")[0] - times_of(world, "bounced", "gone@slow.example")[0] < 1
    assert_accounted(world)


@in_world()
async def test_a_report_does_not_wait_for_a_minute_long_attempt(world: SimulatedWorld) -> None:
    """After a minute the report goes out without the recipient that is still being tried."""
    home = world.site("example.org", "192.0.2.1")
    world.site("example.net", "192.0.2.2", replies=UNKNOWN)
    world.site("mute.example", "192.0.2.3", silent_at="banner")

    await world.submit("ann@example.org", "gone@example.net", "u@mute.example")
    await world.clock.sleep(125)

    (report,) = reports(home)
    assert ["gone@example.net"] == failed_in(report)


@in_world()
async def test_the_null_reverse_path_never_gets_a_report(world: SimulatedWorld) -> None:
    """A report that cannot be delivered ends there (RFC 5321 4.5.5): bounced, and nobody is told."""
    world.site("example.net", "192.0.2.2", replies=UNKNOWN)

    await world.submit("", "gone@example.net")
    await world.until_empty()

    assert {"accepted": 1, "bounced": 1} == world.kinds()
    assert 1 == len(world.network.dialled) - 1
    assert_accounted(world)


@in_world()
async def test_a_report_that_bounces_is_not_reported(world: SimulatedWorld) -> None:
    """Two hosts that refuse everything do not make us a mill: bounce, report, bounce, end."""
    world.site("example.org", "192.0.2.1", replies=UNKNOWN)
    world.site("example.net", "192.0.2.2", replies=UNKNOWN)

    await world.submit("ann@example.org", "gone@example.net")
    await world.until_empty()

    assert {"gone@example.net": "bounced", "ann@example.org": "bounced"} == ends(world)
    assert {"accepted": 2, "bounced": 2, "reported": 1} == world.kinds()


@pytest.mark.slow
@in_world()
async def test_what_cannot_be_delivered_for_five_days_expires_with_a_report(world: SimulatedWorld) -> None:
    """A host that says "not now" for ever: a warning, about 110 attempts, then expiry, and what the host said."""
    home = world.site("example.org", "192.0.2.1")
    away = world.site("example.net", "192.0.2.2", replies={"rcpt": "450 4.2.1 mailbox busy"})

    await world.submit("ann@example.org", "bob@example.net")
    await world.until_empty(within_s=6 * DAY_S, step_s=60)

    assert "expired" == ends(world)["bob@example.net"]
    assert {} == taken(away)
    (expired_at,) = times_of(world, "expired")
    assert 5 * DAY_S <= expired_at < 5 * DAY_S + 10
    warning, report = reports(home)
    assert "Action: delayed" in warning
    assert "4.4.7" in report
    assert "450 4.2.1 mailbox busy" in report.replace("\r\n ", " ")
    assert 100 < world.kinds()["deferred"] < 130
    assert_accounted(world)


@pytest.mark.slow
@in_world()
async def test_what_was_never_attempted_expires_too(world: SimulatedWorld) -> None:
    """A message that waited for its host's next probe all its life is given up like any other, and reported."""
    home = world.site("example.org", "192.0.2.1")
    world.domain("example.net", "192.0.2.2")
    client = await world.client()
    for n in range(200):
        await client.send(f"ann{n % 4}@example.org", (f"u{n}@example.net",))

    await world.until_empty(within_s=6 * DAY_S, step_s=HOUR_S)

    assert 200 == world.kinds()["expired"]
    told = reports(home)
    assert [200, 200] == [sum(f"Action: {action}" in each for each in told) for action in ("delayed", "failed")]
    never_tried = [each for each in world.committed() if each.kind is Kind.EXPIRED and each.attempt == 0]
    assert len(never_tried) > 30
    assert 5 * DAY_S < min(times_of(world, "expired"))
    assert max(times_of(world, "expired")) < 5 * DAY_S + 2 * HOUR_S
    assert_accounted(world)
