# SPDX-License-Identifier: MIT
"""Why is it still there? Each thing that can hold a recipient says so itself, and what comes next comes."""

import pytest
from tests.journeys.rig import DAY_S, HOUR_S, SlowExchanger, ends, explain, in_world, times_of

from smarthost.mail.record import Kind
from smarthost.mail.story import Cause, RecipientStory, Story, Waiting
from smarthost.queue.store import Filter
from smarthost.testing.peers import ScriptedExchanger
from smarthost.testing.world import SimulatedWorld

BUSY = {"rcpt": "451 4.2.0 busy"}


async def story_of(world: SimulatedWorld, text: str) -> Story:
    (story,) = await world.delivery.stories.tell(text, 10)
    return story


async def recipient_of(world: SimulatedWorld, address: str) -> RecipientStory:
    story = await story_of(world, address)
    return next(each for each in story.recipients if each.address == address)


async def waiting_of(world: SimulatedWorld, address: str) -> Waiting:
    waiting = (await recipient_of(world, address)).waiting
    assert waiting is not None
    return waiting


@in_world()
async def test_a_deferral_names_its_reply_and_the_time_of_the_next_attempt(world: SimulatedWorld) -> None:
    """What the host said is the evidence, and the attempt comes when the story said."""
    world.site("example.net", "192.0.2.1", replies=BUSY)
    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(5)

    waiting = await waiting_of(world, "bob@example.net")

    assert (Cause.RETRY_TIME, "451 4.2.0 busy") == (waiting.cause, waiting.evidence)
    assert "after 1 attempt" in waiting.why
    assert waiting.unblocked_by[0].startswith("smarthost queue retry ")
    await world.clock.sleep(waiting.next_at - world.clock.wall() + 5)
    assert 2 == len(times_of(world, "deferred", "bob@example.net"))
    second = [record.at for record in world.outcomes() if record.kind is Kind.DEFERRED][1]
    assert abs(second - waiting.next_at) < 3


@in_world()
async def test_a_dead_host_is_named_with_its_probe(world: SimulatedWorld) -> None:
    """Which host, what is wrong with it, when it is asked again, and the command that would ask it now."""
    world.domain("example.net", "192.0.2.1")
    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(2)

    waiting = await waiting_of(world, "bob@example.net")

    assert Cause.HOST_HEALTH == waiting.cause
    assert "192.0.2.1" in waiting.evidence
    assert "connection refused" in waiting.evidence
    assert world.clock.wall() < waiting.next_at < world.clock.wall() + 10
    assert "smarthost hosts reset 192.0.2.1" in waiting.unblocked_by
    assert 0 < waiting.since <= world.clock.wall()


@in_world()
async def test_what_a_host_said_tells_more_than_that_another_is_not_there(world: SimulatedWorld) -> None:
    """One exchanger is not there, the other refuses us: that, and since when, is what an operator must hear."""
    world.domain("example.net", "192.0.2.1", "192.0.2.2")
    world.place(ScriptedExchanger(replies={"banner": "554 5.7.1 your address is listed"}), "192.0.2.2")
    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(1)
    await world.submit("ann@example.org", "eve@example.net")
    await world.clock.sleep(1)

    waiting = await waiting_of(world, "eve@example.net")

    second = world.delivery.health.state_of("", "192.0.2.2")
    assert Cause.HOST_HEALTH == waiting.cause
    assert "your address is listed" in waiting.why
    assert waiting.evidence.startswith("mx2.example.net [192.0.2.2]: ")
    assert "; mx1.example.net [192.0.2.1]: " in waiting.evidence
    assert second.since == waiting.since
    (shown,) = (await world.delivery.operations.find(Filter(recipient="eve@example.net"), None, 1)).messages
    assert "your address is listed" in shown.recipients[0].why
    asleep = world.journey.suspension("example.net")
    assert asleep is not None
    assert "your address is listed" in asleep[1]


@in_world()
async def test_mail_that_is_being_tried_says_so(world: SimulatedWorld) -> None:
    """An attempt under way, and the latest moment by which it has ended."""
    world.domain("slow.example", "192.0.2.1")
    slow = world.place(SlowExchanger(), "192.0.2.1")
    slow.delay_s = 16.0
    await world.submit("ann@example.org", "bob@slow.example")
    await world.clock.sleep(10)

    waiting = await waiting_of(world, "bob@slow.example")

    assert Cause.ATTEMPT == waiting.cause
    assert waiting.next_at > world.clock.wall()
    await world.until_empty()


@in_world(sessions_per_lane=2)
async def test_a_full_lane_says_how_many_sessions_are_in_use(world: SimulatedWorld) -> None:
    """Mail behind two slow deliveries waits for the lane, and not for anything else."""
    world.domain("slow.example", "192.0.2.1")
    slow = world.place(SlowExchanger(), "192.0.2.1")
    slow.delay_s = 16.0
    for n in range(4):
        await world.submit("ann@example.org", f"u{n}@slow.example")
    await world.clock.sleep(20)

    causes = [(await waiting_of(world, f"u{n}@slow.example")).cause for n in range(4)]

    assert [Cause.ATTEMPT, Cause.ATTEMPT, Cause.LANE, Cause.LANE] == causes
    assert "2 of 2 sessions are in use" in (await waiting_of(world, "u3@slow.example")).why
    await world.until_empty()


@in_world()
async def test_a_hold_names_who_and_why_and_goes_on_when_released(world: SimulatedWorld) -> None:
    """The next on call reads what the last one did."""
    world.site("example.net", "192.0.2.1", replies=BUSY)
    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(5)
    await world.delivery.operations.change(Filter(), "hold", None, 10, by="cid", reason="looks like spam\r\nX: y")

    waiting = await waiting_of(world, "bob@example.net")

    assert (Cause.HOLD, "held by cid: looks like spam X: y") == (waiting.cause, waiting.why)
    assert abs(waiting.next_at - world.clock.wall() - 30 * DAY_S) < HOUR_S
    await world.clock.sleep(DAY_S)
    assert 1 == len(times_of(world, "deferred", "bob@example.net")), "held mail is not tried"
    await world.delivery.operations.change(Filter(), "release", None, 10, by="dot")
    await world.clock.sleep(5)
    assert 2 == len(times_of(world, "deferred", "bob@example.net"))


@in_world()
async def test_held_mail_expires_with_a_report_after_thirty_days(world: SimulatedWorld) -> None:
    """A forgotten hold ends as its story said."""
    world.site("example.org", "192.0.2.2")
    world.site("example.net", "192.0.2.1", replies=BUSY)
    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(5)
    await world.delivery.operations.change(Filter(), "hold", None, 10)
    told = (await waiting_of(world, "bob@example.net")).next_at
    await world.clock.sleep(31 * DAY_S)

    assert {"bob@example.net": "expired"} == {
        address: end for address, end in ends(world).items() if address == "bob@example.net"
    }
    (expired,) = [record for record in world.outcomes() if record.kind is Kind.EXPIRED]
    assert abs(expired.at - told) < 2 * HOUR_S
    assert Kind.REPORTED in [record.kind for record in world.outcomes()]


@in_world()
async def test_a_suspended_destination_waits_and_goes_on_at_once(world: SimulatedWorld) -> None:
    """Nothing is tried, other destinations go on, a restart changes nothing, and the end of it is felt at once."""
    world.site("example.net", "192.0.2.1")
    world.site("other.example", "192.0.2.3")
    await world.delivery.suspensions.suspend("Example.NET.", "they asked", "cid")
    await world.submit("ann@example.org", "bob@example.net", "dot@other.example")
    await world.clock.sleep(HOUR_S)
    assert {"dot@other.example": "relayed"} == ends(world)

    waiting = await waiting_of(world, "bob@example.net")
    assert (Cause.SUSPENSION, "cid") == (waiting.cause, waiting.set_by)
    assert "they asked" in waiting.why
    assert ("smarthost resume example.net",) == waiting.unblocked_by
    planned = (await explain(world, "bob@example.net")).conclusion
    assert planned.startswith(
        "nothing is tried: example.net is suspended by cid: they asked (smarthost resume example."
    )
    assert "mail goes to mx1.example.net" in planned
    assert (await explain(world, "dot@other.example")).conclusion.startswith("mail goes to ")

    await world.stop()
    await world.start()
    await world.clock.sleep(HOUR_S)
    assert {"dot@other.example": "relayed"} == ends(world)
    await world.delivery.suspensions.end("example.net", "dot")
    await world.clock.sleep(3)
    assert "relayed" == ends(world)["bob@example.net"]
    kinds = [record.kind for record in world.committed() if not record.id]
    assert [Kind.SUSPENDED, Kind.RESUMED] == [kind for kind in kinds if kind in (Kind.SUSPENDED, Kind.RESUMED)]


@in_world()
async def test_the_story_of_mail_that_was_suspended_says_so_when_it_has_gone(world: SimulatedWorld) -> None:
    """Who kept it back and who let it go stand where they belong, after a restart, and for no other mail."""
    world.site("example.net", "192.0.2.1")
    await world.submit("ann@example.org", "early@example.net")
    await world.clock.sleep(10)
    await world.delivery.suspensions.suspend("example.net", "they asked", "cid")
    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(HOUR_S)
    (waits,) = await world.delivery.stories.tell("bob@example.net", 1)
    await world.delivery.suspensions.end("example.net", "dot")
    await world.clock.sleep(10)
    await world.submit("ann@example.org", "late@example.net")
    await world.clock.sleep(10)
    await world.stop()
    await world.start()

    told = {}
    for who in ("early", "bob", "late"):
        (story,) = await world.delivery.stories.tell(f"{who}@example.net", 1)
        told[who] = [(record.kind.value, record.user) for record in story.timeline]

    assert ["suspended", "accepted"] == [record.kind.value for record in waits.timeline]
    assert [("suspended", "cid"), ("accepted", ""), ("resumed", "dot"), ("relayed", "")] == told["bob"]
    assert [("accepted", ""), ("relayed", "")] == told["early"] == told["late"]


@in_world()
async def test_a_pause_is_the_first_thing_a_plan_says(world: SimulatedWorld) -> None:
    """Where mail would go is half of the answer while nothing goes anywhere; of a sender who is suspended likewise."""
    world.site("example.net", "192.0.2.1")
    await world.delivery.suspensions.suspend("ann@example.org", "", "cid")
    asked = await world.delivery.explainer.explain("bob@example.net", sender="ann@example.org")
    world.journey.pause()

    assert "nothing is tried: ann@example.org is suspended by cid (smarthost resume ann@ex" in asked.conclusion
    assert (
        "nothing is tried: all delivery is paused (smarthost resume);"
        in (await explain(world, "bob@example.net")).conclusion
    )


@in_world()
async def test_a_suspension_stops_what_is_at_hand_and_what_waits_expires(world: SimulatedWorld) -> None:
    """Also mail that was leased and not begun is not tried; its time runs as always."""
    world.domain("example.net", "192.0.2.1")
    slow = world.place(SlowExchanger(), "192.0.2.1")
    slow.delay_s = 16.0
    for n in range(30):
        await world.submit("ann@example.org", f"u{n}@example.net")
    await world.delivery.suspensions.suspend("example.net", "", "cid")
    await world.clock.sleep(HOUR_S)
    taken = len(ends(world))
    assert 0 < taken < 30, "what was under way has ended"

    await world.clock.sleep(6 * DAY_S)
    assert 30 - taken == sum(end == "expired" for end in ends(world).values())


@pytest.mark.parametrize("what", ["ann@example.org", "@example.org", "ANN@Example.org"])
def test_a_suspended_sender_has_all_mail_held(what: str) -> None:
    """What waits and what comes is held, others' mail goes, and the end of it releases only what it held."""

    @in_world()
    async def scenario(world: SimulatedWorld) -> None:
        site = world.site("example.net", "192.0.2.1", replies=BUSY)
        operations = world.delivery.operations
        await world.submit("ann@example.org", "waits@example.net")
        await world.submit("ann@example.org", "held@example.net")
        await world.clock.sleep(5)
        await operations.change(Filter(recipient="held@example.net"), "hold", None, 10, by="cid", reason="by hand")
        await world.delivery.suspensions.suspend(what, "a stolen password", "cid")
        await world.submit("ann@example.org", "comes@example.net")
        await world.submit("eve@other.example", "goes@example.net")
        await world.clock.sleep(5)

        for address in ("waits@example.net", "comes@example.net"):
            waiting = await waiting_of(world, address)
            assert Cause.SUSPENSION == waiting.cause, address
            assert "a stolen password" in waiting.why
            assert f"smarthost resume {what.lower()}" == waiting.unblocked_by[0]
        assert Cause.RETRY_TIME == (await waiting_of(world, "goes@example.net")).cause

        site.replies.clear()
        await world.stop()
        await world.start()
        await world.delivery.suspensions.end(what, "dot")
        await world.clock.sleep(HOUR_S)
        assert {"waits@example.net", "comes@example.net", "goes@example.net"} == set(ends(world))
        assert "held by cid: by hand" == (await waiting_of(world, "held@example.net")).why

    scenario()


@in_world()
async def test_a_pause_is_named_before_all_else(world: SimulatedWorld) -> None:
    """While nothing is delivered, that is the answer."""
    world.site("example.net", "192.0.2.1")
    await world.delivery.pausing.pause()
    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(5)

    waiting = await waiting_of(world, "bob@example.net")
    assert (Cause.PAUSE, ("smarthost resume",)) == (waiting.cause, waiting.unblocked_by)
    await world.delivery.pausing.resume()
    await world.until_empty()


@in_world()
async def test_mail_sent_another_way_goes_there(world: SimulatedWorld) -> None:
    """A destination whose exchangers are dead is reached through a host that an operator names."""
    world.domain("example.net", "192.0.2.1")
    world.site("smart.example", "192.0.2.9")
    await world.submit("ann@example.org", "bob@example.net")
    await world.clock.sleep(2)
    with pytest.raises(ValueError, match="no way to send mail"):
        await world.delivery.operations.change(Filter(), "reroute", None, 10, via="a b")
    await world.delivery.operations.change(Filter(), "reroute", None, 10, via="192.0.2.9", by="cid", reason="dead MX")
    await world.clock.sleep(5)

    assert {"bob@example.net": "relayed"} == ends(world)
    (relayed,) = [record for record in world.outcomes() if record.kind is Kind.RELAYED]
    assert "192.0.2.9" == relayed.address
    story = await story_of(world, "bob@example.net")
    assert "sent another way by cid via 192.0.2.9: dead MX" in [record.why for record in story.timeline]


@in_world()
async def test_the_story_outlives_the_message_and_has_every_step(world: SimulatedWorld) -> None:
    """After delivery one command still tells who handed it in, each attempt, and how it ended."""
    site = world.site("example.net", "192.0.2.1", replies=BUSY)
    content = b"Message-ID: <m1@example.org>\r\nSubject: x\r\n\r\nx\r\n"
    await world.submit("ann@example.org", "bob@example.net", "bad@nowhere.example", content=content)
    await world.clock.sleep(5)
    site.replies.clear()
    await world.until_empty()

    for text in ("bob@example.net", "BOB@example.net", "<m1@example.org>", "m1@example.org", "<bob@example.net>"):
        story = await story_of(world, text)
        assert "<m1@example.org>" == story.message_id
    assert not story.is_queued
    assert ("ann@example.org", "192.0.2.100") == (story.reverse_path, story.client) or story.client
    endings = {each.address: each.state for each in story.recipients}
    assert {"bob@example.net": "relayed", "bad@nowhere.example": "bounced"} == endings
    kinds = [(record.kind, record.recipient) for record in story.timeline]
    assert (Kind.ACCEPTED, "") == kinds[0]
    assert (Kind.DEFERRED, "bob@example.net") in kinds
    assert (Kind.RELAYED, "bob@example.net") in kinds
    assert (Kind.BOUNCED, "bad@nowhere.example") in kinds
    assert (Kind.REPORTED, "bad@nowhere.example") in kinds
    assert () == await world.delivery.stories.tell("nobody@example.net", 10)
    assert () == await world.delivery.stories.tell("0" * 16, 10)


@in_world()
async def test_the_newest_messages_of_an_address_come_first(world: SimulatedWorld) -> None:
    """Of a thousand messages to one address the last ones are told."""
    world.site("example.net", "192.0.2.1", replies=BUSY)
    ids = []
    for _ in range(5):
        ids.append((await world.submit("ann@example.org", "bob@example.net")).split()[-1])
        await world.clock.sleep(2)

    stories = await world.delivery.stories.tell("bob@example.net", 3)

    assert ids[:1:-1] == [story.id for story in stories]


@in_world()
async def test_the_summary_adds_up(world: SimulatedWorld) -> None:
    """By destination, by sender, by reason, with the oldest of each."""
    world.site("example.net", "192.0.2.1", replies=BUSY)
    world.domain("dead.example", "192.0.2.2")
    for n in range(3):
        await world.submit("ann@example.org", f"u{n}@example.net")
    await world.submit("eve@other.example", "x@dead.example")
    await world.clock.sleep(3)

    summary = await world.delivery.operations.summary(2)

    assert (4, 4) == (summary.messages, summary.recipients)
    assert [("example.net", 3), ("dead.example", 1)] == [
        (each.name, each.recipients) for each in summary.by_destination
    ]
    assert [("ann@example.org", 3), ("eve@other.example", 1)] == [
        (each.name, each.recipients) for each in summary.by_sender
    ]
    assert "451 4.2.0 busy" == summary.by_reason[0].name


@in_world()
async def test_a_lane_is_all_domains_at_one_provider(world: SimulatedWorld) -> None:
    """Mail of two domains with the same exchangers is held by naming their lane."""
    site = world.site("one.example", "192.0.2.1", replies=BUSY)
    world.domain("two.example", "192.0.2.1")
    world.site("three.example", "192.0.2.3", replies=BUSY)
    for name in ("one", "two", "three"):
        await world.submit("ann@example.org", f"bob@{name}.example")
    await world.clock.sleep(3)
    lanes = {name: (await recipient_of(world, f"bob@{name}.example")).lane for name in ("one", "two", "three")}

    domains = await world.delivery.operations.domains_of_lane(lanes["one"])

    expected = {f"{name}.example" for name, lane in lanes.items() if lane == lanes["one"]}
    assert expected == set(domains)
    assert "three.example" not in domains
    assert site is not None


@in_world()
async def test_a_session_that_fails_is_kept_as_it_was_said(world: SimulatedWorld) -> None:
    """The record of a refusal has what both sides said, without the content; a flood has it once in a while."""
    world.site("example.net", "192.0.2.1", replies={"rcpt": "550 5.1.1 nobody\x1b[2J"})
    world.site("busy.example", "192.0.2.2", replies=BUSY)
    world.site("dead.example", "192.0.2.3", close_at="ehlo")
    for n in range(3):
        await world.submit("ann@example.org", f"u{n}@busy.example")
    await world.submit("ann@example.org", "bob@example.net", "cid@example.net", content=b"Subject: secret\r\n\r\nx\r\n")
    await world.submit("ann@example.org", "dot@dead.example")
    await world.clock.sleep(20)

    bounced = [record for record in world.outcomes() if record.kind is Kind.BOUNCED]
    (said,) = [record.transcript for record in bounced if record.transcript]
    assert any(line.startswith("> EHLO ") for line in said)
    assert "< 550 5.1.1 nobody\\x1b[2J" in said
    assert not any("secret" in line for line in said)
    deferred = [record for record in world.outcomes() if record.recipient.endswith("@busy.example")]
    assert (3, 1) == (len(deferred), sum(bool(record.transcript) for record in deferred))
    (dead,) = [record for record in world.outcomes() if record.recipient == "dot@dead.example"][:1]
    assert any(line.startswith("> EHLO ") for line in dead.transcript)
