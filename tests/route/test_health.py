# SPDX-License-Identifier: MIT
"""Host health: closed, open, half-open; how long, on what evidence, and one probe at a time."""

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from smarthost.mail.errors import LocalProtocolError
from smarthost.ports import HostGate, Permit, Refused
from smarthost.route.broken import HealthState, HostState
from smarthost.route.health import HealthTerms, HostHealth
from smarthost.testing.clock import FakeClock

MX = "192.0.2.1"
OTHER = "192.0.2.2"


class NoChance:
    """A Random without chance: no jitter, nothing shuffled."""

    def random(self) -> float:
        return 0.0

    def shuffle(self, x: list[object], /) -> None:
        return None

    def getrandbits(self, k: int, /) -> int:
        return 0


class AllChance(NoChance):
    def random(self) -> float:
        return 0.999999


def permitted(gate: HostGate, address: str = MX, source: str = "") -> Permit:
    permit = gate.admit(source, address)
    assert not isinstance(permit, Refused), permit
    return permit


def refused(gate: HostGate, address: str = MX, source: str = "") -> Refused:
    answer = gate.admit(source, address)
    assert isinstance(answer, Refused)
    return answer


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def health(clock: FakeClock) -> HostHealth:
    return HostHealth(clock, NoChance())


def test_unknown_host_may_be_dialled_by_many_at_once(health: HostHealth) -> None:
    """Nothing is held against a host that has not failed."""
    permits = [permitted(health) for _ in range(20)]

    assert health.usable("", MX) is None
    assert health.state_of("", MX) == HostState("", MX, HealthState.CLOSED)
    for permit in permits:
        permit.succeeded()
    assert list(health.states()) == []


def test_first_failure_closes_the_door_for_five_seconds(health: HostHealth, clock: FakeClock) -> None:
    """One failure of the only next hop keeps mail waiting for seconds, not minutes."""
    permitted(health).failed("connect", "refused")

    answer = refused(health)

    assert answer.until == clock.wall() + 5.0
    assert answer.why == "connect failed once: refused"
    assert health.usable("", MX) == answer
    clock.advance(4.9)
    refused(health)
    clock.advance(0.1)
    permitted(health)


def test_other_hosts_and_other_sources_are_not_affected(health: HostHealth) -> None:
    """Health is per source address and host address."""
    permitted(health).failed("connect", "refused")

    permitted(health, OTHER)
    permitted(health, MX, "192.0.2.99")
    refused(health)


def test_after_the_pause_exactly_one_probe_dials(health: HostHealth, clock: FakeClock) -> None:
    """N attempts that wait do not all pay for one dead host."""
    permitted(health).failed("connect", "timed out")
    clock.advance(5)

    probe = permitted(health)

    assert health.state_of("", MX).state is HealthState.HALF_OPEN
    for _ in range(3):
        answer = refused(health)
        assert answer.until == clock.wall() + 120
        assert "a probe is under way" in answer.why
    probe.succeeded()
    permitted(health)


def test_failed_probe_doubles_the_pause_up_to_an_hour(health: HostHealth, clock: FakeClock) -> None:
    """A dead host is asked less and less often, but at least once an hour."""
    permitted(health).failed("connect", "timed out")
    pauses = [refused(health).until - clock.wall()]

    for _ in range(12):
        clock.advance(pauses[-1])
        permitted(health).failed("connect", "timed out")
        pauses.append(refused(health).until - clock.wall())

    assert pauses == [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600, 3600]


def test_a_refused_login_is_not_repeated_within_a_minute(health: HostHealth, clock: FakeClock) -> None:
    """Providers lock accounts that try too often; mail waits longer for a login than for a host that may be back."""
    permitted(health).failed("auth", "535 5.7.8 no")
    pauses = [refused(health).until - clock.wall()]
    for _ in range(3):
        clock.advance(pauses[-1])
        permitted(health).failed("auth", "535 5.7.8 no")
        pauses.append(refused(health).until - clock.wall())

    assert pauses == [60, 120, 240, 480]


def test_a_year_of_failed_probes_changes_nothing_more(health: HostHealth, clock: FakeClock) -> None:
    """Numbers do not run away."""
    permitted(health).failed("connect", "timed out")
    for _ in range(9000):
        clock.advance(3600)
        permitted(health).failed("connect", "timed out")

    assert refused(health).until == clock.wall() + 3600
    assert health.state_of("", MX).failures == 9001


def test_jitter_shortens_a_pause_by_at_most_a_fifth(clock: FakeClock) -> None:
    """Hosts that broke together are not probed together, and the hour is never exceeded."""
    health = HostHealth(clock, AllChance())
    permitted(health).failed("connect", "refused")

    assert refused(health).until - clock.wall() == pytest.approx(4.0, abs=0.001)


def test_success_closes_and_forgets(health: HostHealth, clock: FakeClock) -> None:
    """When a probe succeeds everybody may dial again, and a later failure starts from the first pause."""
    permitted(health).failed("connect", "refused")
    clock.advance(5)
    permitted(health).failed("connect", "refused")
    clock.advance(10)

    permitted(health).succeeded()

    assert list(health.states()) == []
    permitted(health).failed("banner", "421 busy")
    assert refused(health).until == clock.wall() + 5


def test_failures_of_dials_under_way_are_evidence_of_the_same_breakdown(health: HostHealth, clock: FakeClock) -> None:
    """Twenty sessions that find a host dead at once do not make it wait for twenty failures."""
    permits = [permitted(health) for _ in range(20)]

    for permit in permits:
        clock.advance(0.1)
        permit.failed("connect", "timed out")

    state = health.state_of("", MX)
    assert state.failures == 20
    assert state.until == state.since + 5
    assert state.last_at - state.since == pytest.approx(1.9)
    assert "connect failed 20 times in 2 s" in refused(health).why


def test_success_of_an_older_dial_closes_the_host(health: HostHealth) -> None:
    """The newest evidence wins: a host that greets somebody works."""
    slow, fast = permitted(health), permitted(health)
    fast.failed("connect", "refused")

    slow.succeeded()

    permitted(health)


def test_probe_that_fails_after_the_host_closed_opens_it_anew(health: HostHealth, clock: FakeClock) -> None:
    """A late failure is news of its own, from the first pause on."""
    old = permitted(health)
    permitted(health).failed("connect", "refused")
    clock.advance(5)
    probe = permitted(health)
    old.succeeded()

    probe.failed("banner", "timed out")

    assert refused(health).until == clock.wall() + 5


def test_withdrawn_probe_leaves_its_turn_to_the_next(health: HostHealth, clock: FakeClock) -> None:
    """Who learned nothing neither closes nor blocks the host."""
    permitted(health).failed("connect", "refused")
    clock.advance(5)

    permitted(health).withdrawn()

    assert refused(health).until == clock.wall() + 60  # what prevented it (no descriptor, no route) may last
    clock.advance(60)
    permitted(health)
    refused(health)


def test_withdrawn_permit_of_a_closed_host_changes_nothing(health: HostHealth) -> None:
    """Nothing was learned."""
    permitted(health).withdrawn()

    assert list(health.states()) == []


def test_probe_that_is_never_heard_of_counts_as_failed(health: HostHealth, clock: FakeClock) -> None:
    """A host that stalls its probe (or a probe that got lost) does not block the host for ever."""
    permitted(health).failed("connect", "refused")
    clock.advance(5)
    lost = permitted(health)
    clock.advance(119)
    refused(health)
    clock.advance(1)

    assert health.usable("", MX) is None
    answer = refused(health)

    assert answer.until == clock.wall() + 10
    assert "connect failed once and probe once in 125 s: not heard of for 120 s" == answer.why
    lost.failed("banner", "timed out")
    assert refused(health).until == answer.until


@pytest.mark.parametrize("first", ["succeeded", "failed", "withdrawn"])
@pytest.mark.parametrize("second", ["succeeded", "failed", "withdrawn"])
def test_permit_is_closed_once(health: HostHealth, first: str, second: str) -> None:
    """Closing a permit twice is a bug of ours and is not counted twice."""

    def close(permit: Permit, how: str) -> None:
        permit.failed("connect", "refused") if how == "failed" else getattr(permit, how)()

    permit = permitted(health)
    close(permit, first)
    before = health.state_of("", MX)

    with pytest.raises(LocalProtocolError):
        close(permit, second)

    assert health.state_of("", MX) == before


def test_evidence_says_what_when_and_how_often(health: HostHealth, clock: FakeClock) -> None:
    """An operator reads which step failed, how often, since when, and when the next probe is."""
    started = clock.wall()
    permitted(health).failed("connect", "refused")
    clock.advance(5)
    permitted(health).failed("banner", "554 go away")

    (state,) = health.states()

    steps = (("banner", 1), ("connect", 1))
    assert state == HostState(
        "", MX, HealthState.OPEN, 2, started, started + 5, "banner", "554 go away", started + 15, "", steps
    )
    assert refused(health).why == "banner failed once and connect once in 5 s: 554 go away"


def test_usable_takes_no_permit(health: HostHealth, clock: FakeClock) -> None:
    """Asking is not dialling."""
    permitted(health).failed("connect", "refused")
    clock.advance(5)

    for _ in range(3):
        assert health.usable("", MX) is None

    permitted(health)


def test_operator_may_reset_a_host(health: HostHealth) -> None:
    """`smarthost hosts reset` makes a host usable at once; of an unknown one it is harmless."""
    permitted(health).failed("connect", "refused")

    health.reset("", MX)
    health.reset("", OTHER)

    permitted(health)


def test_every_change_is_told(clock: FakeClock) -> None:
    """Whoever keeps records or waits for a host learns each new state once."""
    told: list[HostState] = []
    health = HostHealth(clock, NoChance(), changed=told.append)

    first, second = permitted(health), permitted(health)
    first.failed("connect", "refused")
    second.failed("connect", "refused")
    clock.advance(5)
    refused_or_probe = permitted(health)
    refused(health)
    refused_or_probe.succeeded()
    permitted(health).succeeded()

    assert [state.state for state in told] == [HealthState.OPEN, HealthState.HALF_OPEN, HealthState.CLOSED]


def test_memory_of_broken_hosts_is_bounded(clock: FakeClock) -> None:
    """A flood of dead hosts forgets others, and never the newest."""
    health = HostHealth(clock, NoChance(), HealthTerms(hosts=3))
    permits = {address: permitted(health, address) for address in ("a", "b", "c")}
    late = permitted(health, "a")
    for address, permit in permits.items():
        permit.failed("connect", address)
    late.failed("connect", "again")

    permitted(health, "d").failed("connect", "d")

    found = [state.address for state in health.states()]
    assert len(found) == 3
    assert "d" in found


def test_a_probe_knows_that_it_is_one(health: HostHealth, clock: FakeClock) -> None:
    """Whoever dials can tell an ordinary dial from the one probe, and probe aside while another host takes the mail."""
    ordinary = permitted(health)
    ordinary.failed("connect", "refused")
    clock.advance(5)

    probe = permitted(health)

    assert not ordinary.is_probe
    assert probe.is_probe


def test_who_keeps_silent_is_left_alone_while_somebody_waits_on(health: HostHealth, clock: FakeClock) -> None:
    """A host alone has its five minutes; others are told after seconds, and its late greeting closes it again."""
    waiting = permitted(health)
    waiting.stalls("set-up", "no answer within 8 s, we go on waiting", "mx1.example.org")

    assert "no answer within 8 s" in refused(health).why
    waiting.succeeded()
    waiting.stalls("set-up", "too late to say", "mx1.example.org")
    permitted(health)


def test_evidence_counts_each_step_and_keeps_the_name(health: HostHealth, clock: FakeClock) -> None:
    """A host that fails now at connecting, now at its banner, shows both; and under which name it was dialled."""
    for step in ("connect", "banner", "banner"):
        permit = health.admit("", MX)
        assert not isinstance(permit, Refused)
        permit.failed(step, "no", "mx1.example.org")
        clock.advance(30)

    state = health.state_of("", MX)

    assert (("banner", 2), ("connect", 1)) == state.steps
    assert state.name == "mx1.example.org"
    assert state.evidence == "banner failed 2 times and connect once in 60 s: no"


def test_what_somebody_reports_counts_at_once(health: HostHealth, clock: FakeClock) -> None:
    """A report of failure opens a host, and one that is open already for longer; a report of success closes it."""
    health.report_failure("", MX, "marked", "seen dead")
    first = refused(health).until
    health.report_failure("", MX, "marked", "seen dead")

    assert refused(health).until == first + 5
    health.report_success("", MX)
    permitted(health)


def test_a_mark_opens_a_host_until_the_time_it_names(clock: FakeClock) -> None:
    """To the second, whatever the terms say of first pauses, growth and chance; then one probe dials, as ever."""
    health = HostHealth(clock, AllChance())

    for pause_s in (7200, 60, 0.5):  # a second mark replaces the first, also a longer one
        health.mark("", MX, clock.wall() + pause_s, "seen dead")
        assert refused(health).until == clock.wall() + pause_s
    assert health.state_of("", MX).detail == "seen dead"
    assert "marked" in refused(health).why
    clock.advance(0.5)

    assert permitted(health).is_probe
    refused(health)


def test_a_mark_does_not_make_later_pauses_longer(health: HostHealth, clock: FakeClock) -> None:
    """What fails after it is paused for as if there had been none."""
    for _ in range(5):
        health.mark("", MX, clock.wall() + 1)
    clock.advance(1)

    permitted(health).failed("connect", "refused")

    assert refused(health).until == clock.wall() + 5


def test_a_mark_ends_a_probe_under_way_and_is_told(clock: FakeClock) -> None:
    """Whoever waits for the probe hears of the mark instead."""
    told: list[HostState] = []
    health = HostHealth(clock, NoChance(), changed=told.append)
    health.mark("", MX, clock.wall())
    probe = permitted(health)

    health.mark("", MX, clock.wall() + 9)

    assert refused(health).until == clock.wall() + 9
    assert (told[-1].state, told[-1].until) == (HealthState.OPEN, clock.wall() + 9)
    probe.failed("connect", "refused")
    assert refused(health).until == clock.wall() + 9


def test_a_mark_outlives_a_restart(health: HostHealth, clock: FakeClock) -> None:
    """It is evidence like any other."""
    health.mark("", MX, clock.wall() + 60, "seen dead")

    reborn = HostHealth(clock, NoChance())
    reborn.restore(saved(health))

    assert reborn.pause_end("", MX) == clock.wall() + 60


def test_the_end_of_a_pause_can_be_read_before_and_after_it(clock: FakeClock) -> None:
    """None is for what nothing is held against: never broken, closed, or too long ago."""
    health = HostHealth(clock, NoChance(), HealthTerms(forget_after_s=7200))
    assert health.pause_end("", MX) is None

    end = clock.wall() + 60
    health.mark("", MX, end)
    assert health.pause_end("", MX) == end
    assert health.pause_end("", OTHER) is None
    clock.advance(7200)
    assert health.pause_end("", MX) == end
    clock.advance(1)
    assert health.pause_end("", MX) is None

    health.mark("", MX, clock.wall() + 60)
    health.reset("", MX)
    assert health.pause_end("", MX) is None


def test_an_operator_may_hasten_the_probe(health: HostHealth, clock: FakeClock) -> None:
    """`queue retry` ends the pause for one probe; what is known against the host stays, its next pause is longer."""
    permitted(health).failed("connect", "refused")
    health.hasten("", MX)
    health.hasten("", OTHER)

    probe = permitted(health)
    refused(health)
    probe.failed("connect", "refused")

    assert refused(health).until == clock.wall() + 10
    assert health.state_of("", MX).failures == 2


def test_old_evidence_is_not_trusted(clock: FakeClock) -> None:
    """A host that nobody dialled for hours is unknown again: anybody may dial, not one probe at a time."""
    told: list[HostState] = []
    health = HostHealth(clock, NoChance(), HealthTerms(forget_after_s=7200), changed=told.append)
    permitted(health).failed("connect", "refused")

    clock.advance(7201)

    assert list(health.states()) == []
    assert health.usable("", MX) is None
    assert not permitted(health).is_probe
    assert not permitted(health).is_probe
    assert "its evidence is too old" == told[-1].closed_by
    assert not told[-1].works


def saved(*lives: HostHealth) -> dict[str, bytes]:
    """What a store holds after these lives, one after the other."""
    kept: dict[str, bytes] = {}
    for life in lives:
        kept.update(life.changes())
    return {name: value for name, value in kept.items() if value}


def test_health_outlives_a_restart(health: HostHealth, clock: FakeClock) -> None:
    """A host that was open is open after a restart, with its evidence, its next probe and its growing pause."""
    for _ in range(3):
        permitted(health).failed("connect", "refused")
        clock.advance(3600)
    permitted(health).failed("banner", "silent", "mx1.example.org")
    before = health.state_of("", MX)
    clock.advance(1)

    reborn = HostHealth(clock, NoChance())
    assert reborn.restore(saved(health)) == ()

    assert before == reborn.state_of("", MX)
    assert refused(reborn).until == before.until
    clock.advance(3600)
    permitted(reborn).failed("connect", "refused")
    assert refused(reborn).until == clock.wall() + 80  # 5, 10, 20, 40 came before


def test_a_refused_login_is_tried_once_after_a_restart(health: HostHealth, clock: FakeClock) -> None:
    """The password may be another one by now; if it is not, the pause is as long as it would have been."""
    permitted(health).failed("auth", "535 5.7.8 no")
    later = HostHealth(clock, NoChance())

    later.restore(saved(health))
    permitted(later).failed("auth", "535 5.7.8 no")

    assert refused(later).until - clock.wall() == 120


def test_only_what_changed_is_saved(health: HostHealth) -> None:
    """One host's change does not write a hundred thousand others; a closed host leaves nothing behind."""
    permitted(health, MX).failed("connect", "refused")
    permitted(health, OTHER).failed("connect", "refused")
    first = health.changes()
    permitted(health, MX).succeeded() if health.usable("", MX) is None else health.reset("", MX)

    second = health.changes()

    assert len(first) == 2
    assert [b""] == list(second.values())
    assert health.changes() == {}
    assert list(saved(health)) == []


def test_what_is_too_old_is_not_restored(health: HostHealth, clock: FakeClock) -> None:
    """After a day without power nothing of the old health is believed."""
    permitted(health).failed("connect", "refused")
    kept = saved(health)
    clock.advance(86_400)

    reborn = HostHealth(clock, NoChance())
    reborn.restore(kept)

    assert list(reborn.states()) == []


@pytest.mark.parametrize(
    "value",
    [b"", b"\x00\xff", b"[]x", b"{}", b"[[1,2,3]]", b'[["","192.0.2.1"]]', b'[["","192.0.2.1",["",1,2,3,4,"x"]]]'],
)
def test_a_damaged_table_is_named_and_costs_only_itself(health: HostHealth, clock: FakeClock, value: bytes) -> None:
    """Damage in one part is told by its name; the other parts count, nothing is raised, and the part is cleared."""
    permitted(health).failed("connect", "refused")

    reborn = HostHealth(clock, NoChance())
    damaged = reborn.restore({**saved(health), "63": value})

    assert damaged == ("63",)
    assert [MX] == [state.address for state in reborn.states()]
    assert reborn.changes()["63"] == b""


@pytest.mark.parametrize(
    "row",
    [
        ["mx", 2e9, 2e9, 2e9, 1, 0, "connect", "x"],  # from the future
        ["mx", 1e9, 1.8e9, 1.9e9, 0, 0, "connect", "x"],  # never failed
        ["mx", 1.8e9, 1.7e9, 1.9e9, 1, 0, "connect", "x"],  # failed before it began
        ["mx", 1.8e9, 1.8e9, 1.8e9, 1, 1000, "connect", "x"],  # a pause of 2^1000 seconds
        ["mx", 1.8e9, 1.8e9, 1.8e9, 1, -1, "connect", "x"],
    ],
)
def test_what_cannot_be_true_is_not_restored(health: HostHealth, row: list[object]) -> None:
    """A table that was tampered with, or written by a clock that ran wild, shuts no host out."""
    health.restore({"00": json.dumps([["", MX, row]]).encode()})

    assert list(health.states()) == []


def test_a_restored_pause_is_bounded(health: HostHealth, clock: FakeClock) -> None:
    """No table can shut a host out for longer than the longest pause."""
    now = clock.wall()
    row = ["mx", now - 9, now - 9, now + 1e9, 1, 1, "connect", "x"]

    assert health.restore({"00": json.dumps([["", MX, row]]).encode()}) == ()

    assert refused(health).until == now + 3600
    assert health.state_of("", MX).failures == 1


@given(st.binary(max_size=200))
def test_any_octets_are_a_table_or_damage(value: bytes) -> None:
    """Whatever stands in the store, the relay starts."""
    HostHealth(FakeClock(), NoChance()).restore({"07": value})


def test_a_broken_host_costs_few_octets(clock: FakeClock) -> None:
    """A hundred thousand broken hosts fit in 50 MiB: what is equal is kept once."""
    health = HostHealth(clock, NoChance())
    addresses = [f"198.51.{n >> 8}.{n & 255}" for n in range(20_000)]
    tracemalloc.start()
    for address in addresses:
        permitted(health, address).failed("connect", f"timed out after {10} s", "mx.example.org")
    octets, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert octets / len(addresses) < 500


class Gate(RuleBasedStateMachine):
    """Whatever callers do, in whatever order: one probe, bounded pauses, nobody locked out."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.health = HostHealth(self.clock, NoChance())
        self.out: list[Permit] = []
        self.probes: dict[int, float] = {}

    @rule()
    def dial(self) -> None:
        state = self.health.state_of("", MX)
        answer = self.health.admit("", MX)
        if isinstance(answer, Refused):
            assert state.state is not HealthState.CLOSED
            assert self.clock.wall() < answer.until <= self.clock.wall() + 3600
            return
        if state.state is not HealthState.CLOSED:
            assert all(self.clock.wall() - since >= 120 for since in self.probes.values()), "two probes at a time"
            self.probes[id(answer)] = self.clock.wall()
        self.out.append(answer)

    @precondition(lambda self: bool(self.out))
    @rule(which=st.integers(0, 1000), how=st.sampled_from(["succeeded", "failed", "withdrawn"]))
    def close(self, which: int, how: str) -> None:
        permit = self.out.pop(which % len(self.out))
        self.probes.pop(id(permit), None)
        if how == "failed":
            permit.failed("connect", "refused")
            assert isinstance(self.health.usable("", MX), Refused) or list(self.health.states())
        elif how == "succeeded":
            permit.succeeded()
            self.probes.clear()
            assert self.health.usable("", MX) is None
        else:
            permit.withdrawn()

    @rule(seconds=st.sampled_from([0.5, 5.0, 60.0, 4000.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def usable_agrees_with_the_evidence(self) -> None:
        if not list(self.health.states()):
            assert self.health.usable("", MX) is None


Gate.TestCase.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
TestGate = Gate.TestCase
