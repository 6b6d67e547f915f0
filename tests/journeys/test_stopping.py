# SPDX-License-Identifier: MIT
"""Stopping in good order: attempts under way may end, the rest is given back, nothing is lost or doubled."""

from tests.journeys.rig import SlowExchanger, assert_accounted, in_world, taken

from smarthost.testing.world import SimulatedWorld


@in_world()
async def test_an_attempt_under_way_may_end(world: SimulatedWorld) -> None:
    """Within the grace the host's answer is heard and recorded: no duplicate after the restart."""
    world.domain("slow.example", "192.0.2.1")
    slow = world.place(SlowExchanger(), "192.0.2.1")
    await world.submit("ann@example.org", "bob@slow.example")
    started = world.clock.monotonic()

    await world.stop(grace_s=30)
    took = world.clock.monotonic() - started

    assert {"accepted": 1, "relayed": 1} == world.kinds()
    assert took < 10
    await world.start()
    await world.clock.sleep(600)
    assert {"bob@slow.example": 1} == taken(slow)
    assert_accounted(world)


@in_world()
async def test_without_grace_the_attempt_is_given_up_and_made_again(world: SimulatedWorld) -> None:
    """Stopped at once in the middle of a session: the host has nothing yet, and gets the mail after the restart."""
    world.domain("slow.example", "192.0.2.1")
    slow = world.place(SlowExchanger(), "192.0.2.1")
    await world.submit("ann@example.org", "bob@slow.example")
    await world.clock.sleep(1)

    await world.stop(grace_s=0)
    stopped = world.kinds()
    await world.clock.sleep(10)

    assert {"accepted": 1} == stopped
    assert all(session.lost_why for session in slow.sessions), "no connection is left behind"
    await world.start()
    await world.until_empty()
    assert {"bob@slow.example": 1} == taken(slow)
    assert_accounted(world)


@in_world(sessions_per_lane=2)
async def test_a_stop_takes_up_no_new_work(world: SimulatedWorld) -> None:
    """Of fifty messages those under way are sent, no other begins; the rest follows after the restart."""
    world.domain("slow.example", "192.0.2.1")
    slow = world.place(SlowExchanger(), "192.0.2.1")
    client = await world.client()
    for n in range(50):
        await client.send("ann@example.org", (f"u{n}@slow.example",))
    await client.quit()

    await world.stop(grace_s=60)
    stopped = len(slow.messages)

    assert stopped == 2
    await world.start()
    await world.until_empty()
    assert [1] * 50 == list(taken(slow).values())
    assert_accounted(world)


@in_world()
async def test_clients_between_transactions_are_told_to_go(world: SimulatedWorld) -> None:
    """An idle client hears 421 at once; who is in the middle of a message may finish it."""
    site = world.site("example.net", "192.0.2.1")
    idle, busy = await world.client(), await world.client()
    await busy.begin("ann@example.org", ("bob@example.net",))
    stopping = world.stop_soon(grace_s=30)
    await world.clock.sleep(0.1)

    farewell = await idle.hear()
    reply = await busy.say(b"Subject: x\r\n\r\nbody\r\n.\r\n")
    last = await busy.hear()
    await stopping

    assert farewell.startswith("421 4.3.2")
    assert reply.startswith("250")
    assert last.startswith("421 4.3.2")
    await world.start()
    await world.until_empty()
    assert {"bob@example.net": 1} == taken(site)


@in_world()
async def test_a_client_that_gives_up_its_transaction_does_not_hold_up_the_stop(world: SimulatedWorld) -> None:
    """RSET during a stop ends the last thing we waited for: 421 follows at once, not after the grace."""
    client = await world.client()
    await client.say(b"MAIL FROM:<ann@example.org>\r\n")
    stopping = world.stop_soon(grace_s=30)
    await world.clock.sleep(0.1)
    started = world.clock.monotonic()

    await client.say(b"RSET\r\n")
    farewell = await client.hear()
    await stopping

    assert farewell.startswith("421")
    assert world.clock.monotonic() - started < 1


@in_world(sessions_per_lane=1)
async def test_a_slow_client_costs_no_attempt_its_grace(world: SimulatedWorld) -> None:
    """While a client uses up the grace no new attempt begins that would be cut off, and sent again, in the end."""
    world.domain("slow.example", "192.0.2.1")
    slow = world.place(SlowExchanger(), "192.0.2.1")
    client = await world.client()
    for n in range(20):
        await client.send("ann@example.org", (f"u{n}@slow.example",))
    await client.begin("ann@example.org", ("last@slow.example",))

    await world.stop(grace_s=30)

    assert 1 == len(slow.messages)
    assert not world.in_doubt
    await world.start()
    await world.until_empty()
    assert [1] * 20 == list(taken(slow).values())
    assert_accounted(world)
