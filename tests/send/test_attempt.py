# SPDX-License-Identifier: MIT
"""Attempts: hosts are walked in order until each recipient has a verdict."""

from collections.abc import Iterator

import pytest
from msgspec.structs import replace
from tests.send.rig import BEST, CONTENT, PREFIX, WORSE, SendRig, in_simulation, outcomes, plan_for, verbs

from smarthost.mail.errors import StoreError
from smarthost.mail.hop import Credentials, TlsLevel
from smarthost.mail.result import AttemptResult
from smarthost.settle.decide import decide
from smarthost.testing.network import Faults, TlsConduct
from smarthost.testing.peers import Answer, ScriptedExchanger
from smarthost.testing.simulation import Simulation, run_simulation


@in_simulation
async def test_a_message_arrives_octet_by_octet(simulation: Simulation) -> None:
    """The far side gets our Received field and then the content as it was received, dots and all."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(ScriptedExchanger())

    result = await rig.attempt()

    assert ["relayed"] == outcomes(result)
    (message,) = exchanger.messages
    assert ("alice@example.org", ("bob@example.net",)) == (message.reverse_path, message.recipients)
    assert PREFIX + CONTENT == message.content
    assert result.verdicts[0].host == "mx1.example.net"
    assert result.timings.queued_s == pytest.approx(2)
    assert result.timings.connect_s > 0


@in_simulation
async def test_a_session_is_reused_for_the_next_message(simulation: Simulation) -> None:
    """Two messages to one host travel over one connection, without a second EHLO."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(ScriptedExchanger())

    await rig.attempt()
    await rig.attempt()

    assert 2 == len(exchanger.messages)
    assert ["EHLO", "MAIL", "RCPT", "DATA", "MAIL", "RCPT", "DATA"] == verbs(exchanger)


@in_simulation
async def test_a_session_says_quit_after_its_share(simulation: Simulation) -> None:
    """With two messages a session, three messages need a second connection and the first one ends politely."""
    rig = SendRig(simulation, transactions=2)
    exchanger = await rig.listen(ScriptedExchanger())

    for _ in range(3):
        await rig.attempt()
    await rig.clock.sleep(1)

    assert 2 == len(exchanger.sessions)
    assert "QUIT" == verbs(exchanger)[-1]


@in_simulation
async def test_an_idle_session_is_closed_after_five_seconds(simulation: Simulation) -> None:
    """A session without work does not hold the host's connection for ever."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(ScriptedExchanger())

    await rig.attempt()
    await rig.clock.sleep(6)

    assert "QUIT" == verbs(exchanger)[-1]
    assert [None] == exchanger.sessions[0].lost_why


@in_simulation
async def test_a_session_that_died_while_idle_costs_nobody_an_attempt(simulation: Simulation) -> None:
    """The host closed the kept session just as we write: the message goes over a new connection in the same attempt."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(ScriptedExchanger())
    await rig.attempt()
    exchanger.sessions[0].connection.abort()

    result = await rig.attempt()

    assert ["relayed"] == outcomes(result)
    assert 2 == len(exchanger.messages)


@in_simulation
async def test_a_dead_first_host_is_passed_over_in_the_same_attempt(simulation: Simulation) -> None:
    """The best exchanger refuses connections; the next one takes the mail at once, and only the dead one is blamed."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(ScriptedExchanger(), WORSE)

    result = await rig.attempt(plan=plan_for(BEST, WORSE))

    assert ["relayed"] == outcomes(result)
    assert 1 == len(exchanger.messages)
    assert [("", BEST, "failed at connect"), ("", WORSE, "succeeded")] == rig.gate.closed
    assert "mx1.example.net [192.0.2.1]" in result.walk[0]


@in_simulation
async def test_the_walk_is_bounded(simulation: Simulation) -> None:
    """Of a hundred dead addresses five are dialled in one attempt, then the recipient waits for its next turn."""
    rig = SendRig(simulation)

    result = await rig.attempt(plan=plan_for(*(f"192.0.2.{n}" for n in range(1, 101))))

    assert ["deferred"] == outcomes(result)
    assert "4.4.1" == result.verdicts[0].status
    assert 5 == len(rig.network.dialled)


@in_simulation
async def test_who_meets_only_refused_hosts_is_postponed_without_an_attempt(simulation: Simulation) -> None:
    """When the gate refuses every host, nothing is dialled, and the recipient waits for the earliest probe."""
    rig = SendRig(simulation)
    now = rig.clock.wall()
    rig.gate.refused = {BEST: now + 60, WORSE: now + 20}

    result = await rig.attempt(plan=plan_for(BEST, WORSE))

    assert ["postponed"] == outcomes(result)
    assert now + 20 == result.verdicts[0].until
    assert [] == rig.network.dialled


@in_simulation
async def test_each_recipient_has_its_own_verdict(simulation: Simulation) -> None:
    """One is taken, one does not exist, one is greylisted: relayed, bounced, deferred."""
    rig = SendRig(simulation)
    answers = {"gone@example.net": "550 5.1.1 no such user", "grey@example.net": "450 4.2.0 come again"}
    exchanger = await rig.listen(ScriptedExchanger(replies={"rcpt": answers}))

    result = await rig.attempt(rig.lease("bob@example.net", "gone@example.net", "grey@example.net"))

    assert ["relayed", "bounced", "deferred"] == outcomes(result)
    assert ("bob@example.net",) == exchanger.messages[0].recipients
    assert "550 5.1.1 no such user" == str(result.verdicts[1].reply)


@in_simulation
async def test_a_lost_connection_after_the_final_dot_is_not_tried_elsewhere(simulation: Simulation) -> None:
    """The host may have the message: a second host would make a duplicate certain."""
    rig = SendRig(simulation)
    await rig.listen(ScriptedExchanger(close_at="dot"))
    second = await rig.listen(ScriptedExchanger(), WORSE)

    result = await rig.attempt(plan=plan_for(BEST, WORSE))

    assert ["deferred"] == outcomes(result)
    assert result.verdicts[0].ambiguous
    assert [] == second.sessions


@in_simulation
async def test_a_lost_connection_before_the_final_dot_is_tried_elsewhere(simulation: Simulation) -> None:
    """A host that hangs up at DATA cannot have the message; the next host gets it."""
    rig = SendRig(simulation)
    await rig.listen(ScriptedExchanger(close_at="data", extensions=()))
    second = await rig.listen(ScriptedExchanger(), WORSE)

    result = await rig.attempt(plan=plan_for(BEST, WORSE))

    assert ["relayed"] == outcomes(result)
    assert 1 == len(second.messages)


@in_simulation
async def test_a_worse_hosts_no_does_not_override_a_better_hosts_not_now(simulation: Simulation) -> None:
    """The best host is down, the backup knows nobody: the recipient waits for the best host."""
    rig = SendRig(simulation)
    rig.network.faults[(BEST, 25)] = Faults(refuse=True)
    await rig.listen(ScriptedExchanger(replies={"rcpt": "550 5.1.1 unknown"}), WORSE)

    result = await rig.attempt(plan=plan_for(BEST, WORSE))

    assert ["deferred"] == outcomes(result)


@pytest.mark.parametrize("step", ["banner", "ehlo", "mail", "rcpt", "data", "dot"])
def test_a_silent_host_costs_a_bounded_time(step: str) -> None:
    """Whatever the step at which a host falls silent, the attempt ends by the RFC's timeouts, and the mail is kept."""

    async def scenario(simulation: Simulation) -> None:
        rig = SendRig(simulation)
        await rig.listen(ScriptedExchanger(silent_at=step, extensions=()))
        started = rig.clock.monotonic()

        result = await rig.attempt()

        assert ["deferred"] == outcomes(result)
        assert rig.clock.monotonic() - started <= 610

    run_simulation(scenario, seed=1)


@pytest.mark.parametrize(
    ("step", "text"),
    [("banner", "554 5.3.2 no SMTP here"), ("ehlo", "550 5.7.1 go away"), ("banner", "421 4.3.2 busy")],
)
def test_a_no_at_session_level_never_bounces(step: str, text: str) -> None:
    """A listed address or a broken host must not bounce the queue: deferred, and the host is held to account."""

    async def scenario(simulation: Simulation) -> None:
        rig = SendRig(simulation)
        await rig.listen(ScriptedExchanger(replies={step: text, "helo": text}))

        result = await rig.attempt()

        assert ["deferred"] == outcomes(result)
        assert rig.gate.closed[0][2].startswith("failed at")

    run_simulation(scenario, seed=1)


@in_simulation
async def test_a_5xx_to_one_message_leaves_the_session_usable(simulation: Simulation) -> None:
    """One refused message does not fail the next one on the same session."""
    rig = SendRig(simulation)
    answers = {"bad@example.org": "550 5.7.1 not you"}
    exchanger = await rig.listen(ScriptedExchanger(replies={"mail": answers}))

    first = await rig.attempt(rig.lease(reverse_path="bad@example.org"))
    second = await rig.attempt()

    assert ["bounced"] == outcomes(first)
    assert ["relayed"] == outcomes(second)
    assert 1 == len(exchanger.sessions)


@in_simulation
async def test_soft_bounce_turns_every_no_into_not_now(simulation: Simulation) -> None:
    """While an operator tests his configuration, nothing bounces."""
    rig = SendRig(simulation, soft_bounce=True)
    await rig.listen(ScriptedExchanger(replies={"rcpt": "550 5.1.1 unknown"}))

    result = await rig.attempt()

    assert ["deferred"] == outcomes(result)


@in_simulation
async def test_a_message_too_large_for_the_host_bounces_unsent(simulation: Simulation) -> None:
    """A host that announces SIZE 65536 is not sent a larger message (RFC 1870 6.1)."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(ScriptedExchanger(extensions=("SIZE 65536",)))

    result = await rig.attempt(rig.lease(content=b"x" * 65_530 + b"\r\n"))

    assert ["bounced"] == outcomes(result)
    assert "5.3.4" == result.verdicts[0].status
    assert ["EHLO"] == verbs(exchanger)


@in_simulation
async def test_opportunistic_tls_is_used_when_offered(simulation: Simulation) -> None:
    """STARTTLS is taken where it is offered, whoever signed the certificate, and the record says so."""
    rig = SendRig(simulation)
    rig.network.faults[(BEST, 25)] = Faults(tls=TlsConduct.UNTRUSTED)
    exchanger = await rig.listen(ScriptedExchanger(extensions=("STARTTLS",), replies={"starttls": "220 go"}))

    result = await rig.attempt()

    assert ["relayed"] == outcomes(result)
    assert result.tls is not None
    assert ["EHLO", "STARTTLS", "EHLO", "MAIL", "RCPT", "DATA"] == verbs(exchanger)


@in_simulation
async def test_a_broken_opportunistic_handshake_falls_back_to_clear_and_is_remembered(simulation: Simulation) -> None:
    """The mail goes in clear over a new connection; for the next hour the host is spoken to in clear at once."""
    rig = SendRig(simulation)
    rig.network.faults[(BEST, 25)] = Faults(tls=TlsConduct.BROKEN)
    exchanger = await rig.listen(ScriptedExchanger(extensions=("STARTTLS",), replies={"starttls": "220 go"}))

    first = await rig.attempt()
    second = await rig.attempt()

    assert ["relayed"] == outcomes(first) == outcomes(second)
    assert first.tls is None
    assert ["EHLO", "MAIL", "RCPT", "DATA", "MAIL", "RCPT", "DATA"] == verbs(exchanger, 1)


@pytest.mark.parametrize("is_first_in_tls", [True, False])
def test_each_recipient_is_recorded_with_the_tls_it_went_by(is_first_in_tls: bool) -> None:
    """One goes to a host in TLS, the other to one in clear: neither record takes the other's word for its own."""

    async def scenario(simulation: Simulation) -> None:
        rig = SendRig(simulation)
        answers: dict[str, Answer] = {"starttls": "220 go", "rcpt": {"two@example.net": "451 4.3.0 try another"}}
        secure, clear = ("STARTTLS", "8BITMIME"), ("8BITMIME",)
        await rig.listen(ScriptedExchanger(extensions=secure if is_first_in_tls else clear, replies=answers))
        rest = ScriptedExchanger(extensions=clear if is_first_in_tls else secure, replies={"starttls": "220 go"})
        await rig.listen(rest, WORSE)

        result = await rig.attempt(rig.lease("one@example.net", "two@example.net"), plan_for(BEST, WORSE))
        settlement = decide(result, now=0.0, retry_at=lambda attempts, at: 9.0, next_seq=lambda: 1)

        assert ["relayed", "relayed"] == outcomes(result)
        assert [is_first_in_tls, not is_first_in_tls] == [bool(record.tls) for record in settlement.records]

    run_simulation(scenario, seed=1)


@pytest.mark.parametrize("is_reached", [True, False])
def test_a_deferral_is_recorded_with_the_tls_of_the_host_that_said_so(is_reached: bool) -> None:
    """What the better host said in TLS is not said to have been in clear, whatever a worse one does afterwards."""

    async def scenario(simulation: Simulation) -> None:
        rig = SendRig(simulation)
        answers: dict[str, Answer] = {"starttls": "220 go", "rcpt": "451 4.3.0 try another"}
        await rig.listen(ScriptedExchanger(extensions=("STARTTLS",), replies=answers))
        if is_reached:
            await rig.listen(ScriptedExchanger(replies={"rcpt": "452 4.3.1 full"}), WORSE)

        result = await rig.attempt(plan=plan_for(BEST, WORSE))

        told = ["TLSv1.3 SIMULATED unverified" if each.address == BEST else "" for each in result.verdicts]
        assert told == tls_of_records(result)

    run_simulation(scenario, seed=1)


def tls_of_records(result: AttemptResult) -> list[str]:
    settlement = decide(result, now=0.0, retry_at=lambda attempts, at: 9.0, next_seq=lambda: 1)
    return [record.tls for record in settlement.records]


@in_simulation
async def test_a_password_never_follows_a_broken_handshake_into_clear(simulation: Simulation) -> None:
    """Who breaks an opportunistic handshake is not given the password for it, neither now nor the next time."""
    rig = SendRig(simulation)
    rig.network.faults[(BEST, 25)] = Faults(tls=TlsConduct.BROKEN)
    replies = {"starttls": "220 go", "auth": "235 in"}
    exchanger = await rig.listen(ScriptedExchanger(extensions=("STARTTLS", "AUTH PLAIN"), replies=replies))

    await rig.attempt()  # without a password: in clear, and that is remembered for the host
    result = await rig.attempt(plan=plan_for(BEST, credentials=Credentials("user", "secret")))

    assert ["deferred"] == outcomes(result)
    assert "AUTH" not in [verb for session in range(len(exchanger.sessions)) for verb in verbs(exchanger, session)]


@in_simulation
async def test_what_a_host_took_is_kept_when_our_disk_fails_before_the_next_host(simulation: Simulation) -> None:
    """One recipient is relayed; for the other the content cannot be read again: only that one is deferred."""

    class ReadableOnce:
        octets, reads = 21, 0

        def chunks(self) -> Iterator[bytes]:
            self.reads += 1
            if self.reads > 1:
                raise StoreError("input/output error")
            yield b"Subject: x\r\n\r\n\xe4 .\r\n"

    rig = SendRig(simulation)
    rig.stored = ReadableOnce()
    await rig.listen(ScriptedExchanger(replies={"rcpt": {"two@example.net": "451 4.3.0 try another"}}))
    await rig.listen(ScriptedExchanger(extensions=("PIPELINING",)), WORSE)  # no 8BITMIME: the content is looked at

    lease = replace(rig.lease("one@example.net", "two@example.net"), content=None)
    result = await rig.attempt(lease, plan_for(BEST, WORSE))

    assert ["relayed", "deferred"] == outcomes(result)
    assert "attempt broken off" in [what for what, _ in rig.sink.notes]


@pytest.mark.parametrize("conduct", [TlsConduct.UNTRUSTED, TlsConduct.BROKEN])
def test_verified_tls_never_falls_back(conduct: TlsConduct) -> None:
    """Where a valid certificate is demanded, a bad one defers the mail; not one octet of it is sent."""

    async def scenario(simulation: Simulation) -> None:
        rig = SendRig(simulation)
        rig.network.faults[(BEST, 25)] = Faults(tls=conduct)
        exchanger = await rig.listen(ScriptedExchanger(extensions=("STARTTLS",), replies={"starttls": "220 go"}))

        result = await rig.attempt(plan=plan_for(BEST, tls=TlsLevel.VERIFIED))

        assert ["deferred"] == outcomes(result)
        assert "4.7.5" == result.verdicts[0].status
        assert ["EHLO", "STARTTLS"] == verbs(exchanger)

    run_simulation(scenario, seed=1)


@in_simulation
async def test_required_tls_that_is_not_offered_defers(simulation: Simulation) -> None:
    """A host that hides STARTTLS gets nothing when the policy demands it, and mail without that demand still flows."""
    rig = SendRig(simulation)
    await rig.listen(ScriptedExchanger())

    demanding = await rig.attempt(plan=plan_for(BEST, tls=TlsLevel.REQUIRED))
    easy = await rig.attempt()

    assert ["deferred"] == outcomes(demanding)
    assert ["relayed"] == outcomes(easy)
    assert ("|required|", BEST, "failed at starttls") in rig.gate.closed
    assert ("", BEST, "failed at connect") not in rig.gate.closed


@in_simulation
async def test_a_password_is_sent_inside_tls_only(simulation: Simulation) -> None:
    """AUTH comes after the second EHLO, and not at all when the host offers no STARTTLS."""
    rig = SendRig(simulation)
    policy = {"tls": TlsLevel.VERIFIED, "credentials": Credentials("user", "secret")}
    replies = {"starttls": "220 go", "auth": "235 2.7.0 welcome"}
    safe = await rig.listen(ScriptedExchanger(extensions=("STARTTLS", "AUTH PLAIN"), replies=replies))
    stripped = await rig.listen(ScriptedExchanger(extensions=("AUTH PLAIN",), replies=replies), WORSE)

    first = await rig.attempt(plan=plan_for(BEST, **policy))
    second = await rig.attempt(plan=plan_for(WORSE, **policy))

    assert ["relayed"] == outcomes(first)
    assert ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "DATA"] == verbs(safe)
    assert ["deferred"] == outcomes(second)
    assert "AUTH" not in verbs(stripped)


@in_simulation
async def test_a_rotated_password_defers_with_an_alarm_that_does_not_show_it(simulation: Simulation) -> None:
    """535 bounces nothing; the operator is told, and the password is in no note."""
    rig = SendRig(simulation)
    replies = {"starttls": "220 go", "auth": "535 5.7.8 no"}
    await rig.listen(ScriptedExchanger(extensions=("STARTTLS", "AUTH PLAIN"), replies=replies))

    result = await rig.attempt(plan=plan_for(BEST, tls=TlsLevel.VERIFIED, credentials=Credentials("user", "s3cr3t")))

    assert ["deferred"] == outcomes(result)
    assert "host refuses our sessions" in [what for what, _ in rig.sink.notes]
    assert "s3cr3t" not in repr(rig.sink.notes) + repr(result)
    assert ["TLSv1.3 SIMULATED verified"] == tls_of_records(result)  # nobody need fear that it was shown to others


@in_simulation
async def test_large_content_is_sent_in_pieces_as_the_host_takes_them(simulation: Simulation) -> None:
    """A message of several pieces arrives whole, dots at their edges included."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(ScriptedExchanger())
    pieces = (b"a\r\n", b".\r\n..\r\n", b"." * 300_000, b"\r\nlast line without an end")

    class Pieces:
        octets = sum(map(len, pieces))

        def chunks(self) -> Iterator[bytes]:
            return iter(pieces)

    lease = rig.lease()
    rig.stored = Pieces()
    result = await rig.attempt(replace(lease, content=None))

    assert ["relayed"] == outcomes(result)
    assert PREFIX + b"".join(pieces) + b"\r\n" == exchanger.messages[0].content


@in_simulation
async def test_content_that_cannot_be_read_is_no_hosts_fault(simulation: Simulation) -> None:
    """A disk error while sending defers the lease as our failure; no host is asked for more."""
    rig = SendRig(simulation)
    await rig.listen(ScriptedExchanger())

    class Damaged:
        octets = 10

        def chunks(self) -> Iterator[bytes]:
            yield b"begin"
            raise StoreError("unreadable")

    rig.stored = Damaged()
    result = await rig.attempt(replace(rig.lease(), content=None))

    assert ["deferred"] == outcomes(result)


@in_simulation
async def test_a_host_nobody_may_dial_is_not_overruled_by_a_worse_one(simulation: Simulation) -> None:
    """The best host waits for its probe, the backup says 550: the recipient waits for the best host."""
    rig = SendRig(simulation)
    rig.gate.refused = {BEST: rig.clock.wall() + 60}
    await rig.listen(ScriptedExchanger(replies={"rcpt": "550 5.1.1 unknown"}), WORSE)

    result = await rig.attempt(plan=plan_for(BEST, WORSE))

    assert ["deferred"] == outcomes(result)


@in_simulation
async def test_a_host_without_usable_auth_is_passed_over(simulation: Simulation) -> None:
    """A next hop that hides AUTH gets no mail where a password is configured; the mail waits."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(ScriptedExchanger(extensions=("STARTTLS",), replies={"starttls": "220 go"}))

    result = await rig.attempt(plan=plan_for(BEST, tls=TlsLevel.VERIFIED, credentials=Credentials("user", "secret")))

    assert ["deferred"] == outcomes(result)
    assert "MAIL" not in verbs(exchanger)
