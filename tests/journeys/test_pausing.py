# SPDX-License-Identifier: MIT
"""Pauses: mail is taken and kept, nothing is delivered, expired, reported or probed until somebody ends the pause."""

import msgspec
from tests.journeys.rig import DAY_S, HOUR_S, SlowExchanger, assert_accounted, ends, in_world, noted, reports, taken

from smarthost.auditor import check_all
from smarthost.mail.backup import NOTE, BackupNote
from smarthost.pausing import PAUSE
from smarthost.queue.schedule import RetrySchedule
from smarthost.testing.world import SimulatedWorld


@in_world()
async def test_paused_relay_takes_mail_and_delivers_it_after_the_pause(world: SimulatedWorld) -> None:
    """Clients notice nothing of a pause; hosts see nothing but silence until it ends."""
    site = world.site("example.net", "192.0.2.1")
    await world.delivery.pausing.pause()

    for n in range(20):
        assert (await world.submit("ann@example.org", f"u{n}@example.net")).startswith("250")
    await world.clock.sleep(DAY_S)
    during, counted = len(site.sessions), world.count()
    resumed = await world.delivery.pausing.resume()
    await world.until_empty(within_s=60)

    assert during == 0
    assert counted == resumed == (20, 20)
    assert [1] * 20 == list(taken(site).values())
    assert_accounted(world)


@in_world(sessions_per_lane=1)
async def test_attempt_under_way_ends_and_no_other_begins(world: SimulatedWorld) -> None:
    """Of three messages for a slow host the one that is being sent is recorded as sent; the others wait for the end."""
    world.domain("slow.example", "192.0.2.1")
    slow = world.place(SlowExchanger(), "192.0.2.1")
    client = await world.client()
    for n in range(3):
        await client.send("ann@example.org", (f"u{n}@slow.example",))
    await world.clock.sleep(1)

    await world.delivery.pausing.pause()
    await world.clock.sleep(HOUR_S)

    assert list(taken(slow)) == ["u0@slow.example"]
    assert world.count() == (2, 2)
    assert world.store.leased() == ()
    await world.delivery.pausing.resume()
    await world.until_empty()
    assert [1, 1, 1] == list(taken(slow).values())
    assert_accounted(world)


@in_world()
async def test_message_that_is_being_committed_when_the_pause_begins_waits(world: SimulatedWorld) -> None:
    """It was to skip the disk: its lease is given back, and a scan finds it after the pause."""
    site = world.site("example.net", "192.0.2.1")
    client = await world.client()
    await client.begin("ann@example.org", ("bob@example.net",))
    world.disk.enqueued = lambda number: world.journey.pause()

    assert (await client.say(b"Subject: x\r\n\r\nbody\r\n.\r\n")).startswith("250")
    world.disk.enqueued = lambda number: None
    await world.clock.sleep(1)
    leased_soon = world.store.leased()  # later the auditor would have taken back what is nobody's
    await world.clock.sleep(HOUR_S)

    assert not site.sessions
    assert leased_soon == ()
    world.journey.end_pause()
    await world.until_empty(within_s=60)
    assert_accounted(world)


@in_world(schedule=RetrySchedule(expire_after_s=2 * DAY_S))
async def test_nothing_expires_or_is_reported_in_a_pause_and_all_of_it_after(world: SimulatedWorld) -> None:
    """Mail that grew too old in a pause is tried once more by its host's grace or expires, and its sender is told."""
    home = world.site("example.org", "192.0.2.9")
    world.domain("dead.example", "192.0.2.1")
    await world.submit("ann@example.org", "bob@dead.example")
    await world.clock.sleep(HOUR_S)
    await world.delivery.pausing.pause()
    await world.submit("ann@example.org", "eve@dead.example")

    await world.clock.sleep(5 * DAY_S)

    assert world.count() == (2, 2)
    assert reports(home) == []
    assert ends(world) == {}
    await world.delivery.pausing.resume()
    await world.until_empty(within_s=DAY_S)
    assert {ends(world)[f"{name}@dead.example"] for name in ("bob", "eve")} == {"expired"}
    assert len(reports(home)) == 2
    assert_accounted(world)


@in_world()
async def test_no_report_is_filed_in_a_pause(world: SimulatedWorld) -> None:
    """What was owed when the pause began is told after it."""
    home = world.site("example.org", "192.0.2.9")
    world.site("example.net", "192.0.2.1", replies={"rcpt": "550 5.1.1 No"})
    client = await world.client()
    await client.begin("ann@example.org", ("bob@example.net",))
    await client.say(b"Subject: x\r\n\r\nbody\r\n.\r\n")
    while not noted_bounce(world):
        await world.clock.sleep(0.001)
    await world.delivery.pausing.pause()

    await world.clock.sleep(HOUR_S)

    assert "reported" not in world.kinds(), "it is not even written"
    await world.delivery.pausing.resume()
    await world.until_empty(within_s=HOUR_S)
    assert len(reports(home)) == 1


def noted_bounce(world: SimulatedWorld) -> bool:
    return any(record.kind.value == "bounced" for record in world.records)


@in_world()
async def test_broken_hosts_are_not_probed_in_a_pause(world: SimulatedWorld) -> None:
    """A host that came back meanwhile learns of it when the pause is over."""
    world.domain("dead.example", "192.0.2.1")
    await world.submit("ann@example.org", "bob@dead.example")
    await world.clock.sleep(60)
    await world.delivery.pausing.pause()
    late = world.site("dead.example", "192.0.2.1")

    await world.clock.sleep(DAY_S)

    assert not late.sessions
    await world.delivery.pausing.resume()
    await world.until_empty(within_s=2 * HOUR_S)
    assert {"bob@dead.example": 1} == taken(late)


@in_world()
async def test_pause_outlasts_a_restart_and_a_crash(world: SimulatedWorld) -> None:
    """Whoever paused the relay finds it paused whatever happened to it, and is told so each hour."""
    site = world.site("example.net", "192.0.2.1")
    await world.delivery.pausing.pause()
    await world.submit("ann@example.org", "bob@example.net")

    await world.stop()
    await world.start()
    await world.clock.sleep(3 * HOUR_S + 60)
    world.crash()
    await world.start()
    await world.clock.sleep(60)

    assert not site.sessions
    assert world.journey.is_paused
    assert 1 + 1 + 3 + 1 == len(noted(world, "paused")), "at once, at each start, and each hour"
    assert noted(world, "paused")[-1]["why"] == "an operator paused it"
    await world.delivery.pausing.resume()
    await world.stop()
    await world.start()
    await world.until_empty(within_s=60)
    assert_accounted(world)


@in_world()
async def test_restored_backup_begins_with_a_pause_and_says_what_may_have_happened(world: SimulatedWorld) -> None:
    """The operator learns how many recipients may have been delivered since, drops those, and lets the rest go."""
    site = world.site("example.net", "192.0.2.1")
    await world.delivery.pausing.pause()
    await world.submit("ann@example.org", "bob@example.net", "eve@example.net")
    note = BackupNote(world.clock.wall(), "1.2.3", 1, 2)
    await world.store.save_notes({PAUSE: b"", NOTE: msgspec.json.encode(note)})
    await world.stop()

    await world.start()
    await world.clock.sleep(HOUR_S + 60)

    assert not site.sessions
    told = noted(world, "paused: restored from a backup")
    assert len(told) == 2
    assert (told[0]["version"], told[0]["messages"], told[0]["recipients"]) == ("1.2.3", 1, 2)
    assert "each may have been delivered since" in str(told[0]["why"])
    assert "smarthost resume" in str(told[0]["cure"])
    await world.delivery.pausing.resume()
    await world.until_empty(within_s=60)
    assert await world.store.load_notes("") == {}, "the next start begins without a pause"


@in_world()
async def test_store_that_cannot_be_asked_means_a_pause_until_it_can(world: SimulatedWorld) -> None:
    """While nobody knows whether it is a restored backup nothing is delivered; it goes on by itself."""
    site = world.site("example.net", "192.0.2.1")
    world.break_disk()

    await world.delivery.pausing.load()  # as a start does, once the store is open
    await world.clock.sleep(HOUR_S)
    paused = world.journey.is_paused
    await world.repair()
    await world.clock.sleep(10)
    await world.submit("ann@example.org", "bob@example.net")

    assert paused
    assert not world.journey.is_paused
    await world.until_empty(within_s=60)
    assert {"bob@example.net": 1} == taken(site)


@in_world()
async def test_paused_queue_is_not_taken_for_a_stuck_one(world: SimulatedWorld) -> None:
    """The auditor finds nothing wrong in a pause of many days, and takes nothing back."""
    world.site("example.net", "192.0.2.1")
    await world.delivery.pausing.pause()
    await world.submit("ann@example.org", "bob@example.net")

    await world.clock.sleep(20 * DAY_S)

    assert await check_all(world.store, world.journey) == ()
    assert not [facts for what, facts in world.notes if "stuck" in what or "invariant" in what]
    await world.delivery.pausing.resume()
    await world.until_empty()
