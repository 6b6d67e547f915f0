# SPDX-License-Identifier: MIT
"""The pool: which idle session is reused, and when one leaves."""

import asyncio
from collections.abc import Callable
from unittest.mock import patch

import pytest

from smarthost.mail.content import InlineContent
from smarthost.mail.envelope import Body
from smarthost.mail.errors import DeadlinePassed
from smarthost.mail.hop import SessionPolicy
from smarthost.send import pool
from smarthost.send.pool import Pool
from smarthost.send.session import Session, SessionKey, TransactionLost
from smarthost.smtp.client import Transaction
from smarthost.testing.network import MemoryNetwork
from smarthost.testing.peers import ScriptedExchanger
from smarthost.testing.simulation import Simulation, run_simulation

ADDRESS = "192.0.2.1"
POLICY = SessionPolicy("relay.example.org")
LETTER = Transaction("ann@example.org", ("bob@example.net",), 20, Body.SEVEN_BIT, False)
CONTENT = InlineContent(b"Subject: x\r\n\r\nhello\r\n")
KEY: SessionKey = ("mx.example.net", ADDRESS, POLICY)


class Basin:
    """A pool, and a host to open sessions to."""

    def __init__(self, simulation: Simulation) -> None:
        self.clock = simulation.clock
        self.network = MemoryNetwork(simulation.clock, simulation.random, latency_s=0.01)
        self.host = ScriptedExchanger()
        self.pool = Pool(simulation.clock, idle_s=5.0, transactions=3)
        self.network.bind(ADDRESS, 25, self.host.accept)

    async def open(self, key: SessionKey = KEY) -> Session:
        session = Session(await self.network.dial(ADDRESS, 25, source="", timeout_s=10), self.clock, key)
        assert await session.set_up() is None
        return session

    def ended(self) -> list[bool]:
        return [bool(session.lost_why) for session in self.host.sessions]

    def last_words(self, session: int) -> bytes:
        return self.host.sessions[session].commands[-1]


def in_basin(scenario: Callable[[Basin], object]) -> Callable[[], None]:
    def test() -> None:
        async def main(simulation: Simulation) -> None:
            await scenario(Basin(simulation))  # type: ignore[misc]

        run_simulation(main, seed=1)

    test.__name__ = scenario.__name__
    test.__doc__ = scenario.__doc__
    return test


@in_basin
async def test_a_kept_session_is_given_once(basin: Basin) -> None:
    """Whoever takes a session has it alone."""
    session = await basin.open()
    basin.pool.keep(session)

    assert basin.pool.take(KEY) is session
    assert basin.pool.take(KEY) is None


@in_basin
async def test_sessions_with_other_terms_are_not_mixed_up(basin: Basin) -> None:
    """Another host name, address, source or TLS policy is another session."""
    basin.pool.keep(await basin.open())

    assert basin.pool.take(("mx2.example.net", ADDRESS, POLICY)) is None
    assert basin.pool.take(("mx.example.net", "192.0.2.2", POLICY)) is None
    assert basin.pool.take(("mx.example.net", ADDRESS, SessionPolicy("relay.example.org", source="10.0.0.1"))) is None


@in_basin
async def test_the_newest_is_taken_so_that_spare_ones_grow_old(basin: Basin) -> None:
    """After a peak the sessions too many close by themselves, though one is in use all the time."""
    old, new = await basin.open(), await basin.open()
    basin.pool.keep(old)
    basin.pool.keep(new)

    for _ in range(4):
        await basin.clock.sleep(2)
        assert basin.pool.take(KEY) is new
        basin.pool.keep(new)

    assert [True, False] == basin.ended()
    assert b"QUIT" == basin.last_words(0)


@in_basin
async def test_an_idle_session_says_goodbye_in_time(basin: Basin) -> None:
    """After five seconds without work: QUIT, and it cannot be taken any more."""
    basin.pool.keep(await basin.open())

    await basin.clock.sleep(4.9)
    early = basin.ended()
    await basin.clock.sleep(0.2)

    assert [False] == early
    assert b"QUIT" == basin.last_words(0)
    assert basin.pool.take(KEY) is None


@in_basin
async def test_a_session_that_did_its_share_is_not_kept(basin: Basin) -> None:
    """After its number of messages a session ends politely, so that hosts behind one name get their turns."""
    session = await basin.open()
    session.transactions = 3

    basin.pool.keep(session)
    await basin.clock.sleep(0.1)

    assert b"QUIT" == basin.last_words(0)
    assert basin.pool.take(KEY) is None


@in_basin
async def test_a_session_that_dies_while_idle_leaves_by_itself(basin: Basin) -> None:
    """The host hangs up, or says 421 first: nobody is given a dead session."""
    first, second = await basin.open(), await basin.open()
    basin.pool.keep(first)
    basin.pool.keep(second)
    kept = len(basin.pool._idle[KEY])

    basin.host.sessions[0].connection.close()
    basin.host.sessions[1].connection.write([b"421 4.4.2 idle for too long\r\n"])
    await basin.clock.sleep(0.1)

    assert 2 == kept
    assert [False, False] == [first.is_reusable, second.is_reusable]
    assert {} == basin.pool._idle, "nobody had to come and look"
    assert basin.pool.take(KEY) is None


@in_basin
async def test_a_session_that_died_this_moment_is_not_given(basin: Basin) -> None:
    """Two idle sessions, the newer one closed by us a moment ago: the older one is given."""
    older, newer = await basin.open(), await basin.open()
    basin.pool.keep(older)
    basin.pool.keep(newer)

    newer.quit()

    assert basin.pool.take(KEY) is older


@in_basin
async def test_a_session_that_cannot_go_on_is_not_kept(basin: Basin) -> None:
    """What was lost in a transaction does not come back."""
    session = await basin.open()
    basin.host.sessions[0].connection.abort()
    await basin.clock.sleep(0.1)

    basin.pool.keep(session)

    assert basin.pool.take(KEY) is None


@in_basin
async def test_closing_says_goodbye_to_all_that_are_idle(basin: Basin) -> None:
    """At shutdown every host hears QUIT."""
    for _ in range(3):
        basin.pool.keep(await basin.open())

    basin.pool.close()
    await basin.clock.sleep(0.1)

    assert [True] * 3 == basin.ended()
    assert [b"QUIT"] * 3 == [basin.last_words(n) for n in range(3)]


@in_basin
async def test_nothing_is_kept_of_hosts_without_sessions(basin: Basin) -> None:
    """A million hosts that were talked to once leave no entry behind, however their sessions ended."""
    keys: list[SessionKey] = [(f"mx{n}.example.net", ADDRESS, POLICY) for n in range(3)]
    for key in keys:
        basin.pool.keep(await basin.open(key))
    taken = [basin.pool.take(key) for key in keys]
    assert all(taken)

    assert {} == basin.pool._idle
    for session in taken:
        assert session is not None
        session.quit()


@in_basin
async def test_a_reused_session_has_its_deadlines_again(basin: Basin) -> None:
    """The host falls silent in the second message: the transaction ends in time, it does not wait for ever."""
    basin.pool.keep(await basin.open())
    session = basin.pool.take(KEY)
    assert session is not None
    basin.host.silent_at = "mail"
    started = basin.clock.monotonic()

    lost = await session.transact(LETTER, CONTENT, b"")

    assert isinstance(lost, TransactionLost)
    assert isinstance(lost.error, DeadlinePassed)
    assert basin.clock.monotonic() - started == pytest.approx(300, abs=1)


@in_basin
async def test_taking_stops_the_idle_clock(basin: Basin) -> None:
    """A session that was taken just in time is not closed under the message it carries."""
    basin.pool.keep(await basin.open())
    await basin.clock.sleep(4.9)
    session = basin.pool.take(KEY)
    assert session is not None
    sending = asyncio.ensure_future(session.transact(LETTER, CONTENT, b""))
    await basin.clock.sleep(2)

    assert [False] == basin.ended()
    assert 1 == len(basin.host.messages)
    assert sending.done()


@in_basin
async def test_idle_sessions_are_bounded_whatever_their_hosts(basin: Basin) -> None:
    """A crowd of hosts costs a bounded number of descriptors; whoever is taken or dies makes room for another."""
    keys: list[SessionKey] = [(f"mx{n}.example.net", ADDRESS, POLICY) for n in range(4)]
    sessions = [await basin.open(key) for key in keys]
    with patch.object(pool, "IDLE_SESSIONS", 2):
        for session in sessions[:3]:
            basin.pool.keep(session)
        taken = [basin.pool.take(key) is not None for key in keys]
        basin.pool.keep(sessions[0])
        basin.pool.keep(sessions[3])
        await basin.clock.sleep(1)
        ended = basin.ended()
        await basin.clock.sleep(6)
        again = await basin.open()
        basin.pool.keep(again)

    assert taken == [True, True, False, False]
    assert ended == [False, False, True, False]
    assert basin.pool.take(KEY) is again
    again.quit()
