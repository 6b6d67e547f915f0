# SPDX-License-Identifier: MIT
"""The memory for broken exchangers: what waited goes at once, a restart forgets nothing, everything is recorded."""

import pytest
from tests.journeys.rig import (
    HOUR_S,
    CountingExchanger,
    assert_accounted,
    ends,
    explain,
    in_world,
    noted,
    taken,
    times_of,
)

from smarthost.queue.schedule import RetrySchedule
from smarthost.queue.store import Filter
from smarthost.testing.dns import Fault
from smarthost.testing.network import Faults
from smarthost.testing.peers import ScriptedExchanger
from smarthost.testing.world import SimulatedWorld

MX1, MX2 = "192.0.2.1", "192.0.2.2"
BLACK_HOLE = Faults(black_hole=True)
RARELY = RetrySchedule(first_s=4 * HOUR_S, longest_s=4 * HOUR_S, jitter=0.0)


# -- what waited is due at once ----------------------------------------------------------------------------------------


@in_world(schedule=RARELY)
async def test_what_awaited_a_host_goes_as_soon_as_one_probe_succeeds(world: SimulatedWorld) -> None:
    """Mail whose next attempt is hours away goes within a second of the moment another message finds the host well."""
    world.domain("example.net", MX1)
    for n in range(10):
        await world.submit("ann@example.org", f"u{n}@example.net")
    await world.clock.sleep(60)
    exchanger = world.place(CountingExchanger(), MX1)

    await world.submit("ann@example.org", "probe@example.net")
    await world.clock.sleep(60)

    assert 11 == len(taken(exchanger))
    times = times_of(world, "relayed")
    assert max(times) - min(times) < 1
    assert world.count() == (0, 0)
    (note,) = noted(world, "waiting mail released")
    assert note["addresses"] == [MX1]
    assert_accounted(world)


@in_world(schedule=RARELY)
async def test_another_domain_at_the_same_host_is_released_too(world: SimulatedWorld) -> None:
    """Health is the host's: whoever finds it well frees the mail of all domains there, and of no other host."""
    for domain in ("a.example", "b.example"):
        world.zone.set(domain, "MX 10 mx.provider.example")
    world.zone.set("mx.provider.example", f"A {MX1}")
    world.domain("dead.example", MX2)
    await world.submit("ann@example.org", "x@a.example", "y@dead.example")
    await world.clock.sleep(60)
    world.place(ScriptedExchanger(), MX1)

    await world.submit("ann@example.org", "z@b.example")
    await world.clock.sleep(60)

    assert {"x@a.example": "relayed", "z@b.example": "relayed"} == ends(world)
    first, second = times_of(world, "relayed")
    assert second - first < 1


@in_world(schedule=RARELY)
async def test_mail_that_a_host_answered_keeps_its_time(world: SimulatedWorld) -> None:
    """A greylisted recipient is not tried again because a host came back: it did not wait for the host."""
    world.domain("example.net", MX1)
    greylisting = {"rcpt": {"grey@example.net": "450 4.7.1 come back later"}}
    exchanger = world.place(ScriptedExchanger(replies=greylisting), MX1)
    await world.submit("ann@example.org", "grey@example.net")
    await world.clock.sleep(1)
    world.network.faults[MX1, 25] = Faults(refuse=True)
    await world.clock.sleep(10)
    await world.submit("ann@example.org", "waits@example.net")
    await world.clock.sleep(10)
    del world.network.faults[MX1, 25]

    await world.submit("ann@example.org", "probe@example.net")
    await world.clock.sleep(20)

    assert {"waits@example.net": "relayed", "probe@example.net": "relayed"} == ends(world)
    assert 1 == b"".join(session.octets for session in exchanger.sessions).count(b"grey@example.net")


@in_world(schedule=RARELY, sessions_per_lane=2)
async def test_a_released_backlog_passes_the_window(world: SimulatedWorld) -> None:
    """A hundred messages that are due at once meet the host two at a time."""
    world.domain("example.net", MX1)
    client = await world.client()
    for n in range(100):
        await client.send("ann@example.org", (f"u{n}@example.net",))
    await world.clock.sleep(60)
    exchanger = world.place(CountingExchanger(), MX1)

    await world.submit("ann@example.org", "probe@example.net")
    await world.clock.sleep(90)

    assert 101 == len(taken(exchanger))
    assert exchanger.most <= 2


@in_world(schedule=RARELY)
async def test_the_pause_of_a_suspended_destination_ends_with_the_success(world: SimulatedWorld) -> None:
    """Mail that was suspended for an hour goes when a probe of another destination at the host succeeds."""
    for domain in ("a.example", "b.example"):
        world.zone.set(domain, "MX 10 mx.provider.example")
    world.zone.set("mx.provider.example", f"A {MX1}")
    for _ in range(12):  # the pause has grown to an hour
        world.delivery.health.report_failure("", MX1, "connect", "timed out", "mx.provider.example")
    await world.submit("ann@example.org", "x@a.example", "y@b.example")
    await world.clock.sleep(5)
    assert {"a.example", "b.example"} == set(world.journey.suspended())
    exchanger = world.place(ScriptedExchanger(), MX1)

    await world.delivery.hosts.reset(MX1)
    await world.clock.sleep(1)

    assert {"x@a.example": 1, "y@b.example": 1} == taken(exchanger)
    assert () == world.journey.suspended()


@in_world(schedule=RARELY)
async def test_an_operators_retry_does_not_wait_for_the_pause(world: SimulatedWorld) -> None:
    """`queue retry` probes the hosts in the way at once: the operator knows that they are back."""
    world.domain("example.net", MX1)
    for _ in range(12):
        world.delivery.health.report_failure("", MX1, "connect", "timed out")
    for n in range(3):
        await world.submit("ann@example.org", f"u{n}@example.net")
    await world.clock.sleep(5)
    exchanger = world.place(ScriptedExchanger(), MX1)

    await world.change("retry", Filter(domain="example.net"))
    await world.clock.sleep(2)

    assert 3 == len(taken(exchanger))


# -- over a restart ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "crash"])
def test_a_restart_remembers_which_hosts_are_broken(how: str) -> None:
    """Neither a restart nor a crash makes the relay knock at a dead host again before its time."""

    @in_world()
    async def scenario(world: SimulatedWorld) -> None:
        world.domain("example.net", MX1, MX2)
        world.place(ScriptedExchanger(), MX2)
        world.delivery.health.report_failure("", MX1, "connect", "timed out", "mx1.example.net")
        for _ in range(8):
            world.delivery.health.report_failure("", MX1, "connect", "timed out", "mx1.example.net")
        await world.clock.sleep(5)
        before = world.delivery.health.state_of("", MX1)

        if how == "stop":
            await world.stop()
        else:
            world.crash()
        await world.clock.sleep(60)
        await world.start()

        assert before == world.delivery.health.state_of("", MX1)
        await world.submit("ann@example.org", "bob@example.net")
        await world.clock.sleep(1)
        assert [] == [dial for dial in world.network.dialled if dial[0] == MX1]
        assert {"bob@example.net": "relayed"} == ends(world)

    scenario()


@in_world(schedule=RARELY)
async def test_after_a_restart_too_one_success_frees_what_waits(world: SimulatedWorld) -> None:
    """Who waits for whom is not kept in memory alone: the first success after a restart frees the old mail."""
    world.domain("example.net", MX1)
    for n in range(5):
        await world.submit("ann@example.org", f"u{n}@example.net")
    await world.clock.sleep(HOUR_S)
    await world.stop()
    await world.start()
    exchanger = world.place(ScriptedExchanger(), MX1)

    await world.submit("ann@example.org", "probe@example.net")
    await world.clock.sleep(HOUR_S)

    assert 6 == len(taken(exchanger))
    assert max(times_of(world, "relayed")) - min(times_of(world, "relayed")) < 1


@in_world(schedule=RARELY)
async def test_mail_that_waits_has_its_host_probed_without_trying_its_luck(world: SimulatedWorld) -> None:
    """A lone message whose next attempt is four hours away leaves within twice the outage: its host is probed."""
    world.domain("example.net", MX1)
    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(300)
    exchanger = world.place(ScriptedExchanger(), MX1)

    await world.clock.sleep(400)

    assert {"bob@example.net": 1} == taken(exchanger)
    assert 1 == world.kinds()["deferred"], "a probe is no attempt"
    assert b"MAIL" not in exchanger.sessions[0].octets or 1 == len(exchanger.sessions)


@in_world()
async def test_nobody_probes_a_host_that_no_mail_awaits(world: SimulatedWorld) -> None:
    """A broken host nobody writes to is left alone, and forgotten after some hours."""
    world.delivery.health.report_failure("", MX1, "connect", "timed out")

    await world.clock.sleep(5 * HOUR_S)

    assert [] == world.network.dialled
    assert () == await world.delivery.hosts.report()


@in_world()
async def test_old_health_is_not_trusted_after_a_day_without_power(world: SimulatedWorld) -> None:
    """What was broken yesterday is dialled today."""
    world.domain("example.net", MX1)
    for _ in range(12):
        world.delivery.health.report_failure("", MX1, "connect", "timed out")
    await world.clock.sleep(5)
    await world.stop()
    await world.clock.sleep(24 * HOUR_S)
    world.place(ScriptedExchanger(), MX1)
    await world.start()

    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(1)

    assert {"bob@example.net": "relayed"} == ends(world)


@in_world()
async def test_a_damaged_health_table_costs_only_the_memory(world: SimulatedWorld) -> None:
    """The relay starts, says which part is damaged, delivers, and the next save mends the part."""
    world.domain("example.net", MX1)
    world.delivery.health.report_failure("", MX2, "connect", "timed out")
    await world.clock.sleep(5)
    (name,) = await world.store.load_notes("hosts/")
    await world.store.save_notes({name: b"\x00damaged"})
    await world.stop()
    await world.start()
    world.place(ScriptedExchanger(), MX1)

    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(1)

    (note,) = noted(world, "host health is damaged and forgotten")
    assert note["notes"] == [name.removeprefix("hosts/")]
    assert {"bob@example.net": "relayed"} == ends(world)
    await world.stop()
    await world.start()
    assert 1 == len(noted(world, "host health is damaged and forgotten"))


@in_world()
async def test_health_is_saved_once_the_disk_works_again(world: SimulatedWorld) -> None:
    """While the disk is broken the memory lives on, and neither it nor its records are lost afterwards."""
    world.break_disk()
    world.delivery.health.report_failure("", MX1, "connect", "timed out")
    await world.clock.sleep(90)
    assert [] == world.host_records()
    await world.repair()
    await world.clock.sleep(120)

    assert ["host-open"] == [record.kind.value for record in world.host_records(MX1)]
    assert await world.store.load_notes("hosts/")


# -- records and reports -----------------------------------------------------------------------------------------------


@in_world()
async def test_each_change_of_a_host_is_a_record(world: SimulatedWorld) -> None:
    """Broken, probed and found broken, probed and found well: the records tell when, why, and when it is tried next."""
    world.domain("example.net", MX1)
    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(6)
    await world.submit("ann@example.org", "cid@example.net")
    await world.clock.sleep(3)
    world.place(ScriptedExchanger(), MX1)
    await world.clock.sleep(10)
    await world.submit("ann@example.org", "dan@example.net")
    await world.clock.sleep(5)

    records = world.host_records(MX1)

    kinds = [record.kind.value for record in records]
    assert ["host-open", "host-half-open", "host-open", "host-half-open", "host-closed"] == kinds
    first, _, second, _, last = records
    assert (first.host, first.recipient) == ("mx1.example.net", "")
    assert "connect failed once: connection refused" in first.why.lower()
    assert first.at < first.next_attempt_at < second.next_attempt_at
    assert "it greeted us; before that connect failed 2 times" in last.why
    assert [record.seq for record in records] == sorted(record.seq for record in records)
    assert_accounted(world)


@in_world()
async def test_hosts_are_reported_with_who_waits(world: SimulatedWorld) -> None:
    """An operator sees what is broken, since when, how often at which step, the next probe, and whose mail waits."""
    world.domain("example.net", MX1)
    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(1)
    await world.submit("ann@example.org", "cid@example.net")
    await world.clock.sleep(1)

    (host,) = await world.delivery.hosts.report("MX1.example.net")

    assert (host.address, host.state, host.failures, host.step) == (MX1, "open", 1, "connect")
    assert host.waiting == ("example.net",)
    assert host.since < world.clock.wall() < host.next_probe_at
    assert (host,) == await world.delivery.hosts.report(MX1)
    assert () == await world.delivery.hosts.report("other.example")


@in_world()
async def test_reset_makes_waiting_mail_due(world: SimulatedWorld) -> None:
    """`hosts reset` forgets, records that an operator did it, and the mail goes at once."""
    world.domain("example.net", MX1)
    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(1)
    world.place(ScriptedExchanger(), MX1)

    gone = await world.delivery.hosts.reset("mx1.example.net")
    await world.clock.sleep(2)

    assert [MX1] == [host.address for host in gone]
    assert () == await world.delivery.hosts.report()
    assert {"bob@example.net": "relayed"} == ends(world)
    assert "an operator said so" in world.host_records(MX1)[-1].why


# -- families ----------------------------------------------------------------------------------------------------------


@in_world()
async def test_broken_ipv6_never_holds_up_ipv4(world: SimulatedWorld) -> None:
    """Hosts whose IPv6 is a black hole get all mail over IPv4, at once, from the first message on."""
    for n in range(1, 21):
        world.zone.set(f"d{n}.example", f"MX 10 mx.d{n}.example")
        world.zone.set(f"mx.d{n}.example", f"A 192.0.2.{n}", f"AAAA 2001:db8::{n:x}")
        world.network.faults[f"2001:db8::{n:x}", 25] = BLACK_HOLE
        world.place(ScriptedExchanger(), f"192.0.2.{n}")

    await world.submit("ann@example.org", *(f"u@d{n}.example" for n in range(1, 21)))
    await world.clock.sleep(1)

    assert 20 == len(ends(world))


@in_world()
async def test_broken_ipv4_costs_one_dial_before_ipv6(world: SimulatedWorld) -> None:
    """The families are judged apart: a dead IPv4 address says nothing about the host's IPv6 address, which is next."""
    world.zone.set("example.net", "MX 10 mx.example.net")
    world.zone.set("mx.example.net", f"A {MX1}", f"A {MX2}", "AAAA 2001:db8::1")
    world.place(ScriptedExchanger(), "2001:db8::1")

    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(1)

    hosts = [address for address, port in world.network.dialled if port == 25]
    assert 2 == len(hosts)
    assert "2001:db8::1" == hosts[1]
    assert world.delivery.health.usable("", "2001:db8::1") is None


# -- explanations ------------------------------------------------------------------------------------------------------


@in_world()
async def test_the_plan_is_explained_by_the_code_that_makes_it(world: SimulatedWorld) -> None:
    """Route, exchangers in order, their health and evidence, policy, and what DNS said; nothing is sent."""
    world.domain("example.net", MX1, MX2)
    world.delivery.health.report_failure("", MX1, "connect", "timed out", "mx1.example.net")

    told = await explain(world, "bob@example.net")

    assert told.destination == "example.net"
    assert told.rule
    assert [("mx1.example.net", 10), ("mx2.example.net", 20)] == [(host.name, host.preference) for host in told.hosts]
    first, second = (host.addresses[0] for host in told.hosts)
    assert (first.address, first.state, first.why) == (MX1, "open", "connect failed once: timed out")
    assert (second.state, second.why) == ("closed", "")
    assert "mail goes to mx2.example.net [192.0.2.2] now; 1 better address is known as broken" in told.conclusion
    assert told.policy is not None
    assert (told.policy.port, told.policy.tls, told.policy.helo) == (25, "opportunistic", "relay.example.org")
    assert any(line.startswith("MX example.net: 10 mx1.example.net") for line in told.evidence)
    assert [] == world.network.dialled


@in_world()
async def test_a_verdict_is_explained_with_what_dns_said(world: SimulatedWorld) -> None:
    """A null MX bounces, a broken server defers; both say what DNS said."""
    world.zone.set("null.example", "MX 0 .")
    world.zone.faults["broken.example"] = Fault.SERVFAIL

    never, later = await explain(world, "null.example"), await explain(world, "x@broken.example")

    assert never.no_host is not None
    assert (never.no_host.permanent, never.no_host.status) == (True, "5.1.10")
    assert never.conclusion.startswith("mail bounces: 5.1.10")
    assert later.no_host is not None
    assert not later.no_host.permanent
    assert any("SERVFAIL" in line or "servfail" in line for line in later.evidence)


@in_world()
async def test_all_hosts_broken_is_explained(world: SimulatedWorld) -> None:
    """Mail waits, and the explanation says until when the destination sleeps and why."""
    world.domain("example.net", MX1)
    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(1)
    await world.submit("ann@example.org", "cid@example.net")
    await world.clock.sleep(1)

    told = await explain(world, "dan@example.net")

    assert told.conclusion.startswith("mail waits: all hosts are known as broken; mx1.example.net [192.0.2.1] is ")
    assert told.suspended_until > world.clock.wall()
    assert "connect failed" in told.suspended_why


@in_world()
async def test_a_probe_goes_as_far_as_ehlo_and_shows_what_was_said(world: SimulatedWorld) -> None:
    """`plan --probe` dials each address, says EHLO and QUIT and nothing else, and the transcript shows it."""
    world.domain("example.net", MX1, MX2)
    exchanger = world.place(ScriptedExchanger(), MX2)

    told = await explain(world, "bob@example.net", probe=True)
    await world.clock.sleep(1)

    dead, alive = told.probes
    assert (dead.address, dead.ok, dead.step) == (MX1, False, "connect")
    assert "refused" in dead.why.lower()
    assert (alive.address, alive.ok, alive.step) == (MX2, True, "ready")
    assert "PIPELINING" in alive.extensions
    assert "> EHLO relay.example.org" in alive.transcript
    assert [] == exchanger.messages
    (session,) = exchanger.sessions
    assert b"EHLO relay.example.org\r\nQUIT\r\n" == bytes(session.octets)


@in_world(schedule=RARELY)
async def test_a_good_probe_by_an_operator_frees_the_mail(world: SimulatedWorld) -> None:
    """A host that answers a person's probe works, whatever was known against it; a bad probe changes nothing."""
    world.domain("example.net", MX1)
    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(1)
    before = world.delivery.health.state_of("", MX1)
    await explain(world, "bob@example.net", probe=True)
    assert before == world.delivery.health.state_of("", MX1)
    world.place(ScriptedExchanger(), MX1)

    await explain(world, "bob@example.net", probe=True)
    await world.clock.sleep(2)

    assert {"bob@example.net": "relayed"} == ends(world)
