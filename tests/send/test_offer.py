# SPDX-License-Identifier: MIT
"""What a message needs of a host: TLS its sender wants, limits, 8-bit and UTF-8 content, DSN, LMTP."""

from collections.abc import Iterator

import pytest
from msgspec import Struct
from msgspec.structs import replace
from tests.send.rig import BEST, CONTENT, PREFIX, WORSE, SendRig, in_simulation, outcomes, plan_for, verbs

from smarthost.mail.envelope import Body, Notify, SenderTls
from smarthost.mail.errors import StoreError
from smarthost.mail.hop import Credentials, Host, SessionPolicy, TlsLevel
from smarthost.mail.lease import Lease, LeasedRecipient
from smarthost.mail.plan import Plan
from smarthost.mail.result import AttemptResult, DsnDuty
from smarthost.send.convert import to_seven_bit
from smarthost.send.offer import Allowance, share_out
from smarthost.smtp.extensions import Extensions
from smarthost.testing.network import Faults, TlsConduct
from smarthost.testing.peers import ScriptedExchanger, ScriptedPeer
from smarthost.testing.simulation import Simulation, run_simulation

STARTTLS = {"starttls": "220 go"}
SECURE = ("PIPELINING", "STARTTLS", "REQUIRETLS")
UMLAUTS = "Subject: x\r\n\r\nGrüße\r\n".encode()
UTF8_HEADER = "Subject: Grüße\r\n\r\nplain\r\n".encode()


class FileLike(Struct):
    """Content in pieces, as from a file; counts how often it is read."""

    pieces: tuple[bytes, ...]
    reads: int = 0

    @property
    def octets(self) -> int:
        return sum(map(len, self.pieces))

    def chunks(self) -> Iterator[bytes]:
        self.reads += 1
        return iter(self.pieces)


def secure(*extensions: str, **knobs: object) -> ScriptedExchanger:
    return ScriptedExchanger(extensions=(*SECURE, *extensions), replies=STARTTLS, **knobs)  # type: ignore[arg-type]


def plain(*extensions: str, **knobs: object) -> ScriptedExchanger:
    return ScriptedExchanger(extensions=("PIPELINING", *extensions), **knobs)  # type: ignore[arg-type]


def commands(exchanger: ScriptedExchanger, verb: bytes, session: int = 0) -> list[bytes]:
    return [line for line in exchanger.sessions[session].commands if line.startswith(verb)]


def said(result: AttemptResult) -> str:
    """Write verdicts in one line: outcome and status of each."""
    return ", ".join(f"{verdict.outcome.value} {verdict.status}" for verdict in result.verdicts)


# -- hosts with their own policy --


def hops(*hops: tuple[str, int]) -> Plan:
    hosts = tuple(
        Host(f"hop{n}.example.net", (address,), n, SessionPolicy("relay.example.org", port))
        for n, (address, port) in enumerate(hops)
    )
    return replace(plan_for(BEST), hosts=hosts, is_chosen=True)


@in_simulation
async def test_several_next_hops_at_one_address_are_several(simulation: Simulation) -> None:
    """Nothing listens at the first port; the next hop at the other port of the same machine takes the mail."""
    rig = SendRig(simulation)
    taker = ScriptedExchanger()
    await rig.network.listener().listen(BEST, 2526, taker.accept)

    result = await rig.attempt(plan=hops((BEST, 2525), (BEST, 2526)))

    assert "relayed 2.0.0" == said(result)
    assert [(BEST, 2525), (BEST, 2526)] == rig.network.dialled
    assert 1 == len(taker.messages)


@in_simulation
async def test_two_names_of_one_service_are_one_stop(simulation: Simulation) -> None:
    """Address and policy alike: it is not dialled twice."""
    rig = SendRig(simulation)

    await rig.attempt(plan=hops((BEST, 2525), (BEST, 2525)))

    assert [(BEST, 2525)] == rig.network.dialled


@in_simulation
async def test_each_next_hop_gets_its_own_password(simulation: Simulation) -> None:
    """The second next hop is spoken to as its own policy says, not as the first one's."""
    rig = SendRig(simulation)
    replies = {"auth": "235 2.7.0 welcome"}
    first = await rig.listen(plain("AUTH PLAIN", replies={**replies, "mail": "451 4.3.0 full"}))
    second = await rig.listen(plain("AUTH PLAIN", replies=replies), WORSE)
    policies = [SessionPolicy("relay.example.org", 25, TlsLevel.NONE, credentials=Credentials(u, "p")) for u in "ab"]
    hosts = (Host("a", (BEST,), 0, policies[0]), Host("b", (WORSE,), 1, policies[1]))

    result = await rig.attempt(plan=replace(plan_for(BEST), hosts=hosts))

    assert "relayed 2.0.0" == said(result)
    assert [b"AUTH PLAIN AGEAcA=="] == commands(first, b"AUTH")
    assert [b"AUTH PLAIN AGIAcA=="] == commands(second, b"AUTH")


@in_simulation
async def test_a_next_hop_that_says_no_to_the_mail_is_obeyed(simulation: Simulation) -> None:
    """A 5xx is the message's end; the backup is not asked to overrule it."""
    rig = SendRig(simulation)
    await rig.listen(plain(replies={"rcpt": "550 5.1.1 unknown"}))
    second = await rig.listen(plain(), WORSE)

    result = await rig.attempt(plan=hops((BEST, 25), (WORSE, 25)))

    assert "bounced 5.1.1" == said(result)
    assert [] == second.sessions


# -- the sender's wishes for TLS (RFC 8689) --


def requiring(rig: SendRig, **fields: object) -> Lease:
    return replace(rig.lease(), tls=SenderTls.REQUIRED, **fields)


@in_simulation
async def test_requiretls_goes_to_a_verified_host_that_passes_it_on(simulation: Simulation) -> None:
    """MAIL says REQUIRETLS, inside TLS with a valid certificate."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(secure())

    result = await rig.attempt(requiring(rig))

    assert "relayed 2.0.0" == said(result)
    assert result.tls is not None
    assert result.tls.verified
    assert [b"MAIL FROM:<alice@example.org> REQUIRETLS"] == commands(exchanger, b"MAIL")


@in_simulation
async def test_a_session_opened_for_other_mail_does_not_serve_requiretls(simulation: Simulation) -> None:
    """An unverified session that is open already is left to mail that does not care."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(secure())
    await rig.attempt()

    await rig.attempt(requiring(rig))

    assert 2 == len(exchanger.sessions)
    assert [] == commands(exchanger, b"MAIL FROM:<alice@example.org> REQUIRETLS", 0)


@pytest.mark.parametrize("lacking", [plain(), plain("STARTTLS", replies=STARTTLS), plain("REQUIRETLS")])
def test_requiretls_that_no_host_offers_bounces(lacking: ScriptedExchanger) -> None:
    """Without STARTTLS, or without REQUIRETLS inside it, not one command about the mail is sent (RFC 8689 4.2.1)."""

    async def scenario(simulation: Simulation) -> None:
        rig = SendRig(simulation)
        lacking.sessions.clear()
        await rig.listen(lacking)

        result = await rig.attempt(requiring(rig))

        assert "bounced 5.7.30" == said(result)
        assert "MAIL" not in verbs(lacking)
        assert [] == rig.sink.notes  # nothing an operator could mend

    run_simulation(scenario, seed=1)


@in_simulation
async def test_requiretls_tries_the_next_host(simulation: Simulation) -> None:
    """The best host has no STARTTLS, the next one no REQUIRETLS, the third both."""
    rig = SendRig(simulation)
    await rig.listen(plain())
    await rig.listen(plain("STARTTLS", replies=STARTTLS), WORSE)
    third = await rig.listen(secure(), "192.0.2.3")

    result = await rig.attempt(requiring(rig), plan_for(BEST, WORSE, "192.0.2.3"))

    assert "relayed 2.0.0" == said(result)
    assert 1 == len(third.messages)


@pytest.mark.parametrize("trouble", ["certificate", "dead"])
def test_trouble_elsewhere_defers_requiretls(trouble: str) -> None:
    """One host cannot; the other could, if it were well: the mail waits."""

    async def scenario(simulation: Simulation) -> None:
        rig = SendRig(simulation)
        await rig.listen(plain())
        rig.network.faults[WORSE, 25] = Faults(refuse=True) if trouble == "dead" else Faults(tls=TlsConduct.UNTRUSTED)
        await rig.listen(secure(), WORSE)

        result = await rig.attempt(requiring(rig), plan_for(BEST, WORSE))

        assert ["deferred"] == outcomes(result)
        assert [] == rig.sink.notes  # the operator demands nothing of these hosts

    run_simulation(scenario, seed=1)


@in_simulation
async def test_requiretls_is_never_sent_in_clear_where_tls_breaks(simulation: Simulation) -> None:
    """No fallback, even if the host is remembered as one that breaks TLS."""
    rig = SendRig(simulation)
    rig.network.faults[BEST, 25] = Faults(tls=TlsConduct.BROKEN)
    exchanger = await rig.listen(secure())
    await rig.attempt()

    result = await rig.attempt(requiring(rig))

    assert "deferred 4.7.5" == said(result)
    assert 1 == len(exchanger.messages)


@in_simulation
async def test_tls_required_no_waives_what_routing_demands(simulation: Simulation) -> None:
    """The sender prefers delivery to TLS: a certificate that is not valid does not stop it, and the record says so."""
    rig = SendRig(simulation)
    rig.network.faults[BEST, 25] = Faults(tls=TlsConduct.UNTRUSTED)
    exchanger = await rig.listen(secure())
    lease = replace(rig.lease(), tls=SenderTls.OPTIONAL)

    result = await rig.attempt(lease, plan_for(BEST, tls=TlsLevel.VERIFIED))

    assert "relayed 2.0.0" == said(result)
    assert "STARTTLS" in verbs(exchanger)
    assert any("TLS-Required: No" in line for line in result.walk)


@pytest.mark.parametrize("why", ["chosen", "password"])
def test_tls_required_no_does_not_waive_what_the_operator_demands(why: str) -> None:
    """The operator's own next hop, or one that is sent a password, is spoken to as configured."""

    async def scenario(simulation: Simulation) -> None:
        rig = SendRig(simulation)
        rig.network.faults[BEST, 25] = Faults(tls=TlsConduct.UNTRUSTED)
        await rig.listen(secure("AUTH PLAIN"))
        plan = plan_for(BEST, tls=TlsLevel.VERIFIED)
        if why == "chosen":
            plan = replace(plan, is_chosen=True)
        else:
            plan = replace(plan, policy=replace(plan.policy, credentials=Credentials("user", "secret")))

        result = await rig.attempt(replace(rig.lease(), tls=SenderTls.OPTIONAL), plan)

        assert "deferred 4.7.5" == said(result)
        assert not any("TLS-Required" in line for line in result.walk)

    run_simulation(scenario, seed=1)


# -- limits (RFC 9422) --

NAMES = tuple(f"u{n}@example.net" for n in range(5))


@in_simulation
async def test_no_transaction_has_more_recipients_than_the_host_allows(simulation: Simulation) -> None:
    """Five recipients at RCPTMAX=2 are three transactions of one session; verdicts stay in the lease's order."""
    rig = SendRig(simulation)
    answers = {"u3@example.net": "550 5.1.1 unknown"}
    exchanger = await rig.listen(plain("LIMITS RCPTMAX=2", replies={"rcpt": answers}))

    result = await rig.attempt(rig.lease(*NAMES))

    assert ["relayed", "relayed", "relayed", "bounced", "relayed"] == outcomes(result)
    assert [NAMES[:2], NAMES[2:3], NAMES[4:]] == [message.recipients for message in exchanger.messages]
    assert 1 == len(exchanger.sessions)


@in_simulation
async def test_mailmax_takes_further_sessions_and_no_dial_counts_as_wasted(simulation: Simulation) -> None:
    """One recipient a transaction, one transaction a session: fourteen recipients are through in one attempt."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(plain("LIMITS RCPTMAX=1 MAILMAX=1"))
    names = tuple(f"u{n}@example.net" for n in range(14))

    result = await rig.attempt(rig.lease(*names))

    assert {"relayed"} == set(outcomes(result))
    assert [(name,) for name in names] == [message.recipients for message in exchanger.messages]
    assert {1} == {verbs(exchanger, n).count("MAIL") for n in range(14)}


@in_simulation
async def test_a_host_that_takes_little_at_a_time_does_not_use_up_the_walk(simulation: Simulation) -> None:
    """Seven sessions in which the best host has no room for anybody: the next host is asked all the same."""
    rig = SendRig(simulation)
    await rig.listen(plain("LIMITS RCPTMAX=1 MAILMAX=1", replies={"rcpt": "451 4.3.0 disk"}))
    second = await rig.listen(plain(), WORSE)
    names = tuple(f"u{n}@example.net" for n in range(7))

    result = await rig.attempt(rig.lease(*names), plan_for(BEST, WORSE))

    assert {"relayed"} == set(outcomes(result))
    assert [names] == [message.recipients for message in second.messages]


@in_simulation
async def test_a_refused_mail_is_refused_for_all_transactions_it_would_take(simulation: Simulation) -> None:
    """A "no" to the sender is not asked for again."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(plain("LIMITS RCPTMAX=1", replies={"mail": "550 5.7.1 not you"}))

    result = await rig.attempt(rig.lease(*NAMES))

    assert {"bounced"} == set(outcomes(result))
    assert 1 == verbs(exchanger).count("MAIL")


@pytest.mark.parametrize("ending", ["421", "lost"])
def test_who_was_not_asked_when_the_host_ends_the_session_goes_to_the_next(ending: str) -> None:
    """The first is through, the host ends it, the rest are at the next host in the same attempt."""

    async def scenario(simulation: Simulation) -> None:
        rig = SendRig(simulation)
        seen: list[str] = []

        def rcpt(address: str) -> str:
            seen.append(address)
            return "421 4.3.2 going down" if len(seen) > 1 else ""

        first = plain("LIMITS RCPTMAX=1", replies={"rcpt": rcpt})
        if ending == "lost":
            first.replies["rcpt"] = ""
            first.replies["mail"] = lambda _: "garbage" if first.messages else ""
        await rig.listen(first)
        second = await rig.listen(plain(), WORSE)

        result = await rig.attempt(rig.lease(*NAMES), plan_for(BEST, WORSE))

        assert {"relayed"} == set(outcomes(result))
        assert [NAMES[1:]] == [message.recipients for message in second.messages]
        assert 1 == len(first.sessions)

    run_simulation(scenario, seed=1)


@in_simulation
async def test_who_was_not_asked_is_told_why(simulation: Simulation) -> None:
    """Without another host the rest waits, and the reason is the host that ended the session."""
    rig = SendRig(simulation)
    await rig.listen(plain("LIMITS RCPTMAX=1", replies={"dot": "421 4.3.2 going down"}))

    result = await rig.attempt(rig.lease(*NAMES))

    assert {"deferred"} == set(outcomes(result))
    assert "the host closed the session: 421 4.3.2 going down" in result.verdicts[4].why


@in_simulation
async def test_too_many_recipients_leaves_the_rest_for_later(simulation: Simulation) -> None:
    """A host with a limit it does not announce says 452; those it took are through."""
    rig = SendRig(simulation)
    taken: list[str] = []

    def rcpt(address: str) -> str:
        taken.append(address)
        return "" if len(taken) <= 3 else "452 4.5.3 too many recipients"

    await rig.listen(plain(replies={"rcpt": rcpt}))

    result = await rig.attempt(rig.lease(*NAMES))

    assert ["relayed"] * 3 + ["deferred"] * 2 == outcomes(result)
    assert "4.5.3" == result.verdicts[4].status


def shares(domains: str, **limits: int) -> list[list[int]]:
    recipients = tuple(LeasedRecipient(n, f"u{n}@{d}", d) for n, d in enumerate(domains))
    lease = replace(_LEASE, recipients=recipients)
    return share_out(lease, list(range(len(domains))), Extensions(**limits))  # type: ignore[arg-type]


_LEASE = Lease("0" * 16, 0.0, "", Body.SEVEN_BIT, False, "", "", b"", 0, None, ())


def test_no_transaction_has_more_domains_than_the_host_allows() -> None:
    """Recipients of one domain stay together, so that there are few transactions."""
    assert [[0, 2, 4], [1, 3]] == shares("ababa", most_recipient_domains=1)
    assert [[0, 2, 1], [3]] == shares("abac", most_recipient_domains=2)
    assert [[0, 2], [4], [1, 3]] == shares("ababa", most_recipient_domains=1, most_recipients=2)
    assert [[0, 1], [2, 3], [4]] == shares("ababa", most_recipients=2)
    assert [[0, 1, 2, 3, 4]] == shares("ababa") == shares("ababa", most_recipients=5)


def test_the_scope_of_a_sender_is_no_other_domain() -> None:
    """Mail filed apart for a route by sender goes to one domain all the same."""
    recipients = tuple(LeasedRecipient(n, "u@a", f"a{' from @x' * n}") for n in range(2))

    assert [[0, 1]] == share_out(replace(_LEASE, recipients=recipients), [0, 1], Extensions(most_recipient_domains=1))


# -- 8-bit and binary content --


def carrying(rig: SendRig, content: bytes, body: Body = Body.EIGHT_BIT_MIME, **fields: object) -> Lease:
    return replace(rig.lease(content=content), body=body, **fields)


@pytest.mark.parametrize("declared", [Body.EIGHT_BIT_MIME, Body.SEVEN_BIT])
def test_8_bit_content_goes_as_it_is_where_the_host_takes_it(declared: Body) -> None:
    """Declared or not, MAIL says BODY=8BITMIME and no octet changes."""

    async def scenario(simulation: Simulation) -> None:
        rig = SendRig(simulation)
        exchanger = await rig.listen(plain("8BITMIME"))

        result = await rig.attempt(carrying(rig, UMLAUTS, declared))

        assert "relayed 2.0.0" == said(result)
        assert [b"MAIL FROM:<alice@example.org> BODY=8BITMIME"] == commands(exchanger, b"MAIL")
        assert PREFIX + UMLAUTS == exchanger.messages[0].content
        assert () == result.walk

    run_simulation(scenario, seed=1)


@pytest.mark.parametrize("declared", [Body.EIGHT_BIT_MIME, Body.SEVEN_BIT])
@pytest.mark.parametrize("stored", ["inline", "file"])
def test_8_bit_content_is_converted_for_a_host_that_takes_7_bit_only(declared: Body, stored: str) -> None:
    """The host gets 7-bit lines that mean the same, SIZE is that of what is sent, and the record tells of it."""

    async def scenario(simulation: Simulation) -> None:
        rig = SendRig(simulation)
        exchanger = await rig.listen(plain("SIZE 100000"))
        lease = carrying(rig, UMLAUTS, declared)
        if stored == "file":
            rig.stored = FileLike((UMLAUTS[:20], UMLAUTS[20:]))
            lease = replace(lease, content=None)

        result = await rig.attempt(lease)

        (message,) = exchanger.messages
        assert "relayed 2.0.0" == said(result)
        assert to_seven_bit(PREFIX + UMLAUTS) == message.content
        assert message.content.isascii()
        assert [b"MAIL FROM:<alice@example.org> SIZE=%d" % len(message.content)] == commands(exchanger, b"MAIL")
        assert ("mx1.example.net [192.0.2.1]: converted to 7-bit for mx1.example.net",) == result.walk

    run_simulation(scenario, seed=1)


@in_simulation
async def test_7_bit_content_is_not_touched_for_a_host_that_takes_7_bit_only(simulation: Simulation) -> None:
    """A client may declare 8BITMIME and send ASCII: there is nothing to convert."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(plain())

    result = await rig.attempt(carrying(rig, CONTENT))

    assert PREFIX + CONTENT == exchanger.messages[0].content
    assert () == result.walk


STUBBORN = "Content-Transfer-Encoding: base64\r\n\r\nGrüße\r\n".encode()  # cannot be converted


@in_simulation
async def test_declared_content_that_cannot_be_converted_bounces(simulation: Simulation) -> None:
    """RFC 6152 3: the 8th bit is never stripped, and the sender hears of it."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(plain())

    result = await rig.attempt(carrying(rig, STUBBORN))

    assert "bounced 5.6.3" == said(result)
    assert "8BITMIME" in result.verdicts[0].why
    assert ["EHLO"] == verbs(exchanger)


@in_simulation
async def test_declared_content_that_cannot_be_converted_goes_to_a_host_that_takes_it(simulation: Simulation) -> None:
    """Another exchanger of the same site may offer what the best one does not."""
    rig = SendRig(simulation)
    await rig.listen(plain())
    second = await rig.listen(plain("8BITMIME"), WORSE)

    result = await rig.attempt(carrying(rig, STUBBORN), plan_for(BEST, WORSE))

    assert "relayed 2.0.0" == said(result)
    assert PREFIX + STUBBORN == second.messages[0].content


@in_simulation
async def test_undeclared_content_that_cannot_be_converted_goes_as_it_came(simulation: Simulation) -> None:
    """Old mail programs send 8-bit octets and say nothing; hosts take them, and they are not ours to strip."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(plain())

    result = await rig.attempt(carrying(rig, STUBBORN, Body.SEVEN_BIT))

    assert "relayed 2.0.0" == said(result)
    assert PREFIX + STUBBORN == exchanger.messages[0].content


@in_simulation
async def test_a_report_that_cannot_be_converted_goes_as_it_is(simulation: Simulation) -> None:
    """Bounced, it would be lost in silence: nobody is told about a report."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(plain())

    result = await rig.attempt(replace(carrying(rig, STUBBORN, Body.EIGHT_BIT_MIME), reverse_path=""))

    assert "relayed 2.0.0" == said(result)
    assert PREFIX + STUBBORN == exchanger.messages[0].content


@in_simulation
async def test_large_content_is_not_read_to_find_out_what_nobody_asks(simulation: Simulation) -> None:
    """A host with 8BITMIME takes anything: content in a file is read once, to be sent."""
    rig = SendRig(simulation)
    await rig.listen(plain("8BITMIME"))
    rig.stored = stored = FileLike((CONTENT,))

    result = await rig.attempt(replace(rig.lease(), content=None))

    assert "relayed 2.0.0" == said(result)
    assert 1 == stored.reads


BINARY = b"MIME-Version: 1.0\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: binary\r\n\r\n\x00\n\r\xff"


@in_simulation
async def test_binary_content_is_converted_for_a_host_without_binarymime(simulation: Simulation) -> None:
    """RFC 3030 3: 8BITMIME is not enough for content that is not in lines."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(plain("8BITMIME", "CHUNKING"))

    result = await rig.attempt(carrying(rig, BINARY, Body.BINARY_MIME))

    assert "relayed 2.0.0" == said(result)
    assert exchanger.messages[0].content.endswith(b"Content-Transfer-Encoding: base64\r\n\r\nAAoN/w==\r\n")
    assert [b"MAIL FROM:<alice@example.org>"] == commands(exchanger, b"MAIL")


@in_simulation
async def test_binary_content_goes_in_chunks_where_the_host_takes_them(simulation: Simulation) -> None:
    """With CHUNKING and BINARYMIME not one octet changes."""
    rig = SendRig(simulation)
    whole = PREFIX + BINARY
    peer = ScriptedPeer(
        (
            (b"", b"220 mx\r\n"),
            (b"EHLO relay.example.org\r\n", b"250-mx\r\n250-CHUNKING\r\n250 BINARYMIME\r\n"),
            (b"MAIL FROM:<alice@example.org> BODY=BINARYMIME\r\n", b"250 ok\r\n"),
            (b"RCPT TO:<bob@example.net>\r\n", b"250 ok\r\n"),
            (b"BDAT %d\r\n" % len(whole) + whole, b"250 ok\r\n"),
            (b"BDAT 0 LAST\r\n", b"250 ok\r\n"),
        )
    )
    await rig.network.listener().listen(BEST, 25, peer.accept)

    result = await rig.attempt(carrying(rig, BINARY, Body.BINARY_MIME))

    assert "relayed 2.0.0" == said(result)


@in_simulation
async def test_binary_content_that_cannot_be_converted_bounces(simulation: Simulation) -> None:
    """A signed message is not to be changed, so it can go only where it may go as it is."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(plain("8BITMIME"))
    signed = BINARY.replace(b"image/png", b"multipart/signed; boundary=b")

    result = await rig.attempt(carrying(rig, signed, Body.BINARY_MIME))

    assert "bounced 5.6.3" == said(result)
    assert "BINARYMIME" in result.verdicts[0].why
    assert ["EHLO"] == verbs(exchanger)


@in_simulation
async def test_content_that_grows_beyond_the_hosts_size_bounces(simulation: Simulation) -> None:
    """It would have fit as it was; converted it does not, and nothing is sent."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(plain("SIZE 65536"))

    result = await rig.attempt(carrying(rig, b"Subject: x\r\n\r\n" + b"\xff" * 60_000 + b"\r\n"))

    assert "bounced 5.3.4" == said(result)
    assert ["EHLO"] == verbs(exchanger)


@in_simulation
async def test_content_that_cannot_be_read_for_conversion_is_no_hosts_fault(simulation: Simulation) -> None:
    """A disk error is ours: the attempt says so, and the session stays good for other mail."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(plain())

    class Damaged:
        octets = 100

        def chunks(self) -> Iterator[bytes]:
            yield b"begin \xff"
            raise StoreError("unreadable")

    rig.stored = Damaged()
    with pytest.raises(StoreError):
        await rig.attempt(replace(carrying(rig, CONTENT), content=None))
    result = await rig.attempt()

    assert "relayed 2.0.0" == said(result)
    assert 1 == len(exchanger.sessions)


@in_simulation
async def test_what_finds_no_room_to_be_converted_waits_without_an_attempt(simulation: Simulation) -> None:
    """While other conversions hold all memory there is for them, mail that needs one is put off for half a minute."""
    rig = SendRig(simulation)
    rig.sender.allowance = Allowance(100)
    rig.sender.allowance.take(90)
    exchanger = await rig.listen(plain())

    crowded = await rig.attempt(carrying(rig, UMLAUTS))
    rig.sender.allowance.give_back(90)
    alone = [await rig.attempt(carrying(rig, UMLAUTS + b"x" * 200)) for _ in range(2)]

    assert "postponed 4.3.1" == said(crowded)
    assert rig.clock.wall() + 30 == pytest.approx(crowded.verdicts[0].until, abs=1)
    assert ["relayed 2.0.0"] * 2 == [said(result) for result in alone]
    assert 1 == len(exchanger.sessions)


# -- SMTPUTF8 (RFC 6531) --


def international(
    rig: SendRig, *recipients: str, content: bytes = CONTENT, reverse_path: str = "a@example.org"
) -> Lease:
    lease = rig.lease(*recipients, reverse_path=reverse_path, content=content)
    return replace(lease, smtputf8=True, body=Body.EIGHT_BIT_MIME)


@in_simulation
async def test_ascii_mail_that_came_with_smtputf8_goes_without_it(simulation: Simulation) -> None:
    """A client that always says SMTPUTF8 does not make its mail undeliverable."""
    rig = SendRig(simulation)
    old = await rig.listen(plain())
    new = await rig.listen(plain("SMTPUTF8", "8BITMIME"), WORSE)

    results = [await rig.attempt(international(rig), plan_for(address)) for address in (BEST, WORSE)]

    assert ["relayed 2.0.0"] * 2 == [said(result) for result in results]
    assert [b"MAIL FROM:<a@example.org>"] == commands(old, b"MAIL")
    assert [b"MAIL FROM:<a@example.org> BODY=8BITMIME"] == commands(new, b"MAIL")


@pytest.mark.parametrize(
    ("reverse_path", "recipient", "content"),
    [
        ("ä@example.org", "bob@example.net", CONTENT),
        ("a@example.org", "bö@example.net", CONTENT),
        ("a@example.org", "bob@example.net", UTF8_HEADER),
    ],
)
def test_international_mail_needs_a_host_with_smtputf8(reverse_path: str, recipient: str, content: bytes) -> None:
    """An address or a header field beyond ASCII: the next host is tried, and if none offers it the mail bounces."""

    async def scenario(simulation: Simulation) -> None:
        rig = SendRig(simulation)
        old = await rig.listen(plain("8BITMIME"))
        new = await rig.listen(plain("SMTPUTF8", "8BITMIME"), WORSE)
        lease = international(rig, recipient, content=content, reverse_path=reverse_path)

        nowhere = await rig.attempt(lease)
        somewhere = await rig.attempt(lease, plan_for(BEST, WORSE))

        assert "bounced 5.6.7" == said(nowhere)
        assert "relayed 2.0.0" == said(somewhere)
        assert "MAIL" not in verbs(old)
        assert commands(new, b"MAIL")[0].endswith(b" BODY=8BITMIME SMTPUTF8")

    run_simulation(scenario, seed=1)


@in_simulation
async def test_a_body_beyond_ascii_does_not_need_smtputf8(simulation: Simulation) -> None:
    """Only the envelope and the header section do; the body is 8BITMIME's business."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(plain("8BITMIME"))

    result = await rig.attempt(international(rig, content=UMLAUTS))

    assert "relayed 2.0.0" == said(result)
    assert [b"MAIL FROM:<a@example.org> BODY=8BITMIME"] == commands(exchanger, b"MAIL")


@in_simulation
async def test_only_recipients_that_need_smtputf8_suffer_without_it(simulation: Simulation) -> None:
    """The ASCII recipient of the same message gets it."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(plain())

    result = await rig.attempt(international(rig, "bö@example.net", "bob@example.net"))

    assert "bounced 5.6.7, relayed 2.0.0" == said(result)
    assert ("bob@example.net",) == exchanger.messages[0].recipients


@pytest.mark.parametrize("cut", [1, 9, 15, 22, 24, 26])
def test_the_header_section_is_found_however_content_is_cut(cut: int) -> None:
    """Its end may lie across two pieces; the body after it does not count."""

    async def scenario(simulation: Simulation) -> None:
        rig = SendRig(simulation)
        await rig.listen(plain("8BITMIME"))
        for content, expected in (
            (UTF8_HEADER, "bounced 5.6.7"),
            (b"Subject: x, and more\r\n\r\n\xc3\xbc\r\n", "relayed 2.0.0"),
        ):
            rig.stored = FileLike((content[:cut], content[cut:]))

            result = await rig.attempt(replace(international(rig), content=None))

            assert expected == said(result)

    run_simulation(scenario, seed=1)


# -- DSN (RFC 3461) --


def reported(rig: SendRig, *wishes: tuple[Notify, str]) -> Lease:
    recipients = tuple(
        LeasedRecipient(n, f"u{n}@example.net", "example.net", notify=notify, orcpt=orcpt)
        for n, (notify, orcpt) in enumerate(wishes)
    )
    return replace(rig.lease(), recipients=recipients, ret="HDRS", envid="QQ1")


@in_simulation
async def test_dsn_parameters_are_passed_on_to_a_host_that_takes_them(simulation: Simulation) -> None:
    """RET, ENVID, NOTIFY and ORCPT go on; who did not ask for anything gets no NOTIFY. The host reports success."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(plain("DSN"))

    result = await rig.attempt(reported(rig, (Notify.SUCCESS | Notify.DELAY, "rfc822;o@x"), (Notify.UNSET, "")))

    assert [DsnDuty.PASSED_ON] * 2 == [verdict.dsn for verdict in result.verdicts]
    assert [b"MAIL FROM:<alice@example.org> RET=HDRS ENVID=QQ1"] == commands(exchanger, b"MAIL")
    assert [
        b"RCPT TO:<u0@example.net> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;o@x",
        b"RCPT TO:<u1@example.net>",
    ] == commands(exchanger, b"RCPT")


@in_simulation
async def test_requests_stay_with_their_recipients_when_some_go_in_another_transaction(simulation: Simulation) -> None:
    """RCPTMAX=1: each transaction carries its own recipient's wish."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(plain("DSN", "LIMITS RCPTMAX=1"))

    await rig.attempt(reported(rig, (Notify.UNSET, ""), (Notify.NEVER, "")))

    assert [b"RCPT TO:<u0@example.net>", b"RCPT TO:<u1@example.net> NOTIFY=NEVER"] == commands(exchanger, b"RCPT")


@in_simulation
async def test_success_at_a_host_without_dsn_is_ours_to_tell(simulation: Simulation) -> None:
    """Nothing is said to it about reports, and the verdict says that nobody behind it will report."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(plain())

    result = await rig.attempt(reported(rig, (Notify.SUCCESS, "rfc822;o@x")))

    assert DsnDuty.RELAYED is result.verdicts[0].dsn
    assert [b"RCPT TO:<u0@example.net>"] == commands(exchanger, b"RCPT")


@in_simulation
async def test_an_international_orcpt_is_written_in_ascii_for_a_host_without_smtputf8(simulation: Simulation) -> None:
    """RFC 6533 3: bob's original address was bö; the host knows DSN, and nothing of UTF-8."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(plain("DSN"))

    result = await rig.attempt(reported(rig, (Notify.FAILURE, "utf-8;bö@x"), (Notify.FAILURE, "utf-8;" + "ö" * 400)))

    assert "relayed 2.0.0, relayed 2.0.0" == said(result)
    assert [
        rb"RCPT TO:<u0@example.net> NOTIFY=FAILURE ORCPT=utf-8;b\x{F6}@x",
        b"RCPT TO:<u1@example.net> NOTIFY=FAILURE",
    ] == commands(exchanger, b"RCPT")


# -- LMTP (RFC 2033) --


def lmtp(*finals: bytes, recipients: tuple[bytes, ...] = (b"250 ok", b"250 ok", b"250 ok")) -> ScriptedPeer:
    envelope = b"MAIL FROM:<alice@example.org>\r\n"
    envelope += b"".join(b"RCPT TO:<u%d@example.net>\r\n" % n for n in range(len(recipients))) + b"DATA\r\n"
    answers = b"\r\n".join((b"250 ok", *recipients, b"354 go", b""))
    return ScriptedPeer(
        (
            (b"", b"220 store LMTP\r\n"),
            (b"LHLO relay.example.org\r\n", b"250-store\r\n250 PIPELINING\r\n"),
            (envelope, answers),
            (PREFIX + CONTENT.replace(b"\r\n.dot", b"\r\n..dot") + b".\r\n", b"".join(f + b"\r\n" for f in finals)),
        )
    )


async def attempt_lmtp(simulation: Simulation, peer: ScriptedPeer, recipients: int) -> AttemptResult:
    rig = SendRig(simulation)
    await rig.network.listener().listen(BEST, 24, peer.accept)
    names = tuple(f"u{n}@example.net" for n in range(recipients))
    return await rig.attempt(rig.lease(*names), plan_for(BEST, port=24, is_lmtp=True))


@in_simulation
async def test_each_recipient_of_lmtp_has_its_own_last_word(simulation: Simulation) -> None:
    """One mailbox takes it, one is full, one is no more: and the success is a delivery."""
    peer = lmtp(b"250 2.0.0 stored", b"452 4.2.2 full", b"550 5.2.1 gone")

    result = await attempt_lmtp(simulation, peer, 3)

    assert "relayed 2.0.0, deferred 4.2.2, bounced 5.2.1" == said(result)
    assert DsnDuty.DELIVERED is result.verdicts[0].dsn


@in_simulation
async def test_last_words_of_lmtp_are_for_accepted_recipients_only(simulation: Simulation) -> None:
    """Who was refused at RCPT has no last word; the others' are not shifted."""
    peer = lmtp(b"451 4.3.0 disk", b"250 2.0.0 stored", recipients=(b"250 ok", b"550 5.1.1 who", b"250 ok"))

    result = await attempt_lmtp(simulation, peer, 3)

    assert "deferred 4.3.0, bounced 5.1.1, relayed 2.0.0" == said(result)


@in_simulation
async def test_who_was_heard_in_lmtp_before_the_connection_was_lost_is_through(simulation: Simulation) -> None:
    """The first mailbox has it; of the second nobody knows, and it is not tried elsewhere."""
    result = await attempt_lmtp(simulation, lmtp(b"250 2.0.0 stored"), 3)

    assert ["relayed", "deferred", "deferred"] == outcomes(result)
    assert [False, True, True] == [verdict.ambiguous for verdict in result.verdicts]


@in_simulation
async def test_a_conversion_that_breaks_a_signature_says_so(simulation: Simulation) -> None:
    """The recipient's host will not believe it any more, and its postmaster asks ours."""
    rig = SendRig(simulation)
    await rig.listen(plain())
    signed = b"DKIM-Signature: v=1; d=example.org\r\n" + UMLAUTS

    plainly = await rig.attempt(carrying(rig, UMLAUTS, Body.EIGHT_BIT_MIME))
    broken = await rig.attempt(carrying(rig, signed, Body.EIGHT_BIT_MIME))

    assert not any("DKIM" in line for line in plainly.walk)
    assert any("which breaks its DKIM signature" in line for line in broken.walk)


@in_simulation
async def test_who_waits_for_requiretls_says_so(simulation: Simulation) -> None:
    """Else an operator would look for a fault of the network, or of a certificate that nobody else minds."""
    rig = SendRig(simulation)
    await rig.listen(secure())
    rig.network.faults[BEST, 25] = Faults(tls=TlsConduct.UNTRUSTED)

    result = await rig.attempt(replace(rig.lease(), tls=SenderTls.REQUIRED))

    assert "deferred 4.7.5" == said(result)
    assert "the sender demands REQUIRETLS" in result.verdicts[0].why
    assert any("the sender demands REQUIRETLS" in line for line in result.walk)
