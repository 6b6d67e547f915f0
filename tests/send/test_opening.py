# SPDX-License-Identifier: MIT
"""How long a host is waited for while another one is at hand, and how a broken one is probed aside."""

import asyncio
from collections.abc import Callable

import pytest
from msgspec.structs import replace
from tests.send.rig import BEST, WORSE, SendRig, in_simulation, plan_for

from smarthost.mail.hop import TlsLevel
from smarthost.mail.result import AttemptResult
from smarthost.ports import Connection, Receiver
from smarthost.route.broken import HealthState
from smarthost.route.health import HostHealth
from smarthost.send.opening import PATIENCE_S, PROBE_PATIENCE_S, PROBES_ASIDE, Effort
from smarthost.testing.network import Faults, TlsConduct
from smarthost.testing.peers import PeerSession, ScriptedExchanger
from smarthost.testing.simulation import Simulation, run_simulation

BLACK_HOLE = Faults(black_hole=True)
STALLED_TLS = Faults(tls=TlsConduct.STALLED)


class Slow(ScriptedExchanger):
    """Greets late, as hosts do that look their clients up in many lists."""

    def __init__(self, rig: SendRig, greets_after_s: float) -> None:
        super().__init__()
        self._rig = rig
        self._greets_after_s = greets_after_s

    def accept(self, connection: Connection) -> "_Late":  # type: ignore[override]
        session = _Late(connection)
        self._rig.clock.deadline(self._greets_after_s, lambda: session.begin(super(Slow, self).accept))
        return session


class _Late(PeerSession):
    """A connection to which nothing is said before `begin`."""

    def begin(self, accept: Callable[[Connection], Receiver]) -> None:
        if not self.lost_why:
            self.connection.attach(accept(self.connection))

    def received(self, chunk: bytes) -> None:
        self.octets += chunk


def rigged(simulation: Simulation) -> tuple[SendRig, HostHealth]:
    health = HostHealth(simulation.clock, simulation.random)
    return SendRig(simulation, health=health), health


async def starved(rig: SendRig, why: str) -> None:
    """Make BEST a host that is dead in one of the ways of the trade."""
    match why:
        case "syn":
            rig.network.faults[BEST, 25] = BLACK_HOLE
        case "banner":
            await rig.listen(ScriptedExchanger(silent_at="banner"))
        case "ehlo":
            await rig.listen(ScriptedExchanger(silent_at="ehlo"))
        case "tls":
            rig.network.faults[BEST, 25] = STALLED_TLS
            await rig.listen(ScriptedExchanger(extensions=("STARTTLS",), replies={"starttls": "220 go"}))


def outcome(result: AttemptResult) -> str:
    (verdict,) = result.verdicts
    return verdict.outcome.value


@pytest.mark.parametrize("why", ["syn", "banner", "ehlo", "tls"])
def test_a_dead_host_is_left_after_seconds_when_another_is_at_hand(why: str) -> None:
    """However the best exchanger is dead, its mail is at the next one within eight seconds; the dead one is known."""

    async def scenario(simulation: Simulation) -> None:
        rig, health = rigged(simulation)
        await starved(rig, why)
        taker = await rig.listen(ScriptedExchanger(), WORSE)
        started = rig.clock.monotonic()

        result = await rig.attempt(plan=plan_for(BEST, WORSE))

        assert outcome(result) == "relayed"
        assert 1 == len(taker.messages)
        assert rig.clock.monotonic() - started < PATIENCE_S + 1
        state = health.state_of("", BEST)
        assert (state.state, state.name) == (HealthState.OPEN, "mx1.example.net")
        assert state.step == {"syn": "connect"}.get(why, why)

    run_simulation(scenario, seed=1)


@pytest.mark.parametrize(("why", "longest_s"), [("syn", 10), ("banner", 300), ("ehlo", 300)])
def test_the_only_host_has_the_time_that_the_rfc_gives_it(why: str, longest_s: float) -> None:
    """Nobody else could take the mail, so RFC 5321 4.5.3.2 holds in full."""

    async def scenario(simulation: Simulation) -> None:
        rig, _ = rigged(simulation)
        await starved(rig, why)
        started = rig.clock.monotonic()

        result = await rig.attempt()

        assert outcome(result) == "deferred"
        assert longest_s == pytest.approx(rig.clock.monotonic() - started, abs=1)
        assert result.verdicts[0].awaits_host

    run_simulation(scenario, seed=1)


@in_simulation
async def test_the_only_host_with_stalled_tls_gets_the_mail_in_clear(simulation: Simulation) -> None:
    """A path that swallows large packets stalls each handshake; opportunistic mail must pass all the same."""
    rig, _ = rigged(simulation)
    await starved(rig, "tls")

    result = await rig.attempt()

    assert outcome(result) == "relayed"
    assert result.tls is None


@in_simulation
async def test_a_slow_host_is_not_taken_for_dead_twice(simulation: Simulation) -> None:
    """Who greets after 20 s loses the first message to the next host; a probe learns its pace, then it is used."""
    rig, health = rigged(simulation)
    slow = await rig.listen(Slow(rig, 20))
    other = await rig.listen(ScriptedExchanger(), WORSE)
    plan = plan_for(BEST, WORSE)

    await rig.attempt(plan=plan)
    await rig.clock.sleep(6)
    await rig.attempt(plan=plan)  # starts the probe aside
    await rig.clock.sleep(60)
    result = await rig.attempt(plan=plan)

    assert outcome(result) == "relayed"
    assert (1, 2) == (len(slow.messages), len(other.messages))
    assert health.state_of("", BEST).state is HealthState.CLOSED


@in_simulation
async def test_a_broken_host_is_probed_aside(simulation: Simulation) -> None:
    """Its pause over, one probe goes to it while mail goes elsewhere at once; its session takes the next message."""
    rig, health = rigged(simulation)
    plan = plan_for(BEST, WORSE)
    other = await rig.listen(ScriptedExchanger(), WORSE)
    await rig.attempt(plan=plan)
    back = await rig.listen(ScriptedExchanger())
    await rig.clock.sleep(5)
    started = rig.clock.monotonic()

    await asyncio.gather(*[rig.attempt(plan=plan) for _ in range(5)])

    assert rig.clock.monotonic() - started < 1
    assert (6, 0, 1) == (len(other.messages), len(back.messages), len(back.sessions))
    await rig.clock.sleep(0.5)
    assert health.state_of("", BEST).state is HealthState.CLOSED
    result = await rig.attempt(plan=plan)
    assert (1, 1) == (len(back.messages), len(back.sessions))
    assert result.timings.connect_s == 0.0


@in_simulation
async def test_a_probe_aside_is_bounded(simulation: Simulation) -> None:
    """A host that keeps silent holds its probe for a minute, no longer; then its pause grows."""
    rig, health = rigged(simulation)
    await starved(rig, "banner")
    await rig.listen(ScriptedExchanger(), WORSE)
    plan = plan_for(BEST, WORSE)
    await rig.attempt(plan=plan)
    await rig.clock.sleep(6)

    await rig.attempt(plan=plan)
    assert health.state_of("", BEST).state is HealthState.HALF_OPEN
    await rig.clock.sleep(PROBE_PATIENCE_S + 1)

    assert health.state_of("", BEST).state is HealthState.OPEN
    assert 2 == health.state_of("", BEST).failures


@in_simulation
async def test_when_all_hosts_are_broken_the_mail_is_the_probe(simulation: Simulation) -> None:
    """Two dead exchangers, both pauses over: the better is probed aside, the mail itself probes the last, in full."""
    rig, health = rigged(simulation)
    plan = plan_for(BEST, WORSE)
    await rig.attempt(plan=plan)
    back = await rig.listen(ScriptedExchanger(), WORSE)
    await rig.clock.sleep(6)

    result = await rig.attempt(plan=plan)

    assert outcome(result) == "relayed"
    assert 1 == len(back.messages)
    assert health.state_of("", WORSE).state is HealthState.CLOSED


@in_simulation
async def test_probes_aside_are_few(simulation: Simulation) -> None:
    """A thousand broken hosts whose pauses end together do not open a thousand connections beside the mail."""
    rig, health = rigged(simulation)
    await rig.listen(ScriptedExchanger(), WORSE)
    dead = [f"198.51.{n >> 8}.{n & 255}" for n in range(PROBES_ASIDE + 50)]
    for address in dead:
        rig.network.faults[address, 25] = BLACK_HOLE
        health.report_failure("", address, "connect", "timed out")
    await rig.clock.sleep(6)
    before = len(rig.network.dialled)

    attempts = [asyncio.ensure_future(rig.attempt(plan=plan_for(address, WORSE))) for address in dead]
    await rig.clock.sleep(1)

    assert PROBES_ASIDE == sum(attempt.done() for attempt in attempts)
    assert len({address for address, _ in rig.network.dialled[before:]} & set(dead)) == len(dead)
    await asyncio.gather(*attempts)


@in_simulation
async def test_closing_ends_probes_under_way(simulation: Simulation) -> None:
    """A relay that stops leaves no probe behind, and none that was never closed."""
    rig, health = rigged(simulation)
    await starved(rig, "banner")
    await rig.listen(ScriptedExchanger(), WORSE)
    await rig.attempt(plan=plan_for(BEST, WORSE))
    await rig.clock.sleep(6)
    await rig.attempt(plan=plan_for(BEST, WORSE))

    await rig.sender.close()

    assert health.usable("", BEST) is not None
    await rig.clock.sleep(61)
    assert health.usable("", BEST) is None  # the probe's turn is free again


@in_simulation
async def test_what_a_policy_demands_is_not_the_hosts_fault(simulation: Simulation) -> None:
    """A host without STARTTLS is broken for mail that must have TLS, and for no other."""
    rig, health = rigged(simulation)
    await rig.listen(ScriptedExchanger())

    await rig.attempt(plan=plan_for(BEST, tls=TlsLevel.REQUIRED))

    assert health.state_of("", BEST).state is HealthState.CLOSED
    assert health.state_of("|required|", BEST).state is HealthState.OPEN


@in_simulation
async def test_one_machine_under_two_names_is_dialled_once(simulation: Simulation) -> None:
    """Two exchangers that share an address are one stop of the walk."""
    rig = SendRig(simulation)

    await rig.attempt(plan=plan_for(BEST, BEST, WORSE))

    assert [(BEST, 25), (WORSE, 25)] == rig.network.dialled


@in_simulation
async def test_a_plans_caveat_stands_in_the_record(simulation: Simulation) -> None:
    """Mail that went by stale answers says so."""
    rig, _ = rigged(simulation)
    await rig.listen(ScriptedExchanger())

    result = await rig.attempt(plan=replace(plan_for(BEST), caveat="DNS does not answer: MX example.net is 3 h old"))

    assert ("DNS does not answer: MX example.net is 3 h old",) == result.walk


def test_a_line_of_the_walk_is_clean_and_short() -> None:
    """What a certificate or a host says may hold anything, of any length; a record is one line for people."""
    effort = Effort()

    effort.tried("mx", BEST, "not valid for 'a\r\nb\x1b[31m'")
    effort.tried("mx", BEST, "x" * 70_000)

    assert "mx [192.0.2.1]: not valid for 'a??b?[31m'" == effort.lines[0]
    assert len(effort.lines[1]) < 600


@in_simulation
async def test_tls_that_breaks_at_one_port_is_not_given_up_at_another(simulation: Simulation) -> None:
    """Two programs at one address: only the one that breaks TLS is spoken to in clear."""
    rig = SendRig(simulation)
    rig.network.faults[BEST, 25] = Faults(tls=TlsConduct.BROKEN)
    hosts = [ScriptedExchanger(extensions=("STARTTLS",), replies={"starttls": "220 go"}) for _ in range(2)]
    for port, host in zip((25, 2525), hosts, strict=True):
        await rig.network.listener().listen(BEST, port, host.accept)

    broken = await rig.attempt()
    sound = await rig.attempt(plan=plan_for(BEST, port=2525))

    assert (broken.tls, sound.tls is not None) == (None, True)
    assert () == sound.walk
