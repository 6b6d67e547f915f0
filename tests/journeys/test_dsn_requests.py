# SPDX-License-Identifier: MIT
"""What a sender asked of reports (RFC 3461), from the envelope to the report that arrives."""

import asyncio
import re
from collections.abc import Sequence

import pytest
from msgspec.structs import replace
from tests.journeys.rig import DAY_S, HOUR_S, ends, in_world, reports
from tests.test_relay import BOUNCED, RELAYED, Bench, on_bench

from smarthost.mail.address import Address, to_domain
from smarthost.mail.content import InlineContent
from smarthost.mail.envelope import DsnRequest, Envelope, Notify, SenderTls
from smarthost.mail.lease import Lease
from smarthost.mail.message import Message
from smarthost.mail.record import Kind
from smarthost.mail.result import DsnDuty, Verdict
from smarthost.queue.schedule import RetrySchedule
from smarthost.queue.store import Filter
from smarthost.testing.world import SimulatedWorld

CONTENT = b"From: ann@example.org\r\nSubject: lunch\r\n\r\nThe secret body\r\n"
BUSY = {"rcpt": "450 4.2.1 mailbox busy"}


def envelope(
    requests: Sequence[tuple[str, DsnRequest]],
    *,
    ret: str = "",
    envid: str = "",
    tls: SenderTls = SenderTls.DEFAULT,
    reverse_path: str = "ann@example.org",
) -> Envelope:
    addresses = tuple([Address(text, to_domain(text.partition("@")[2])) for text, _ in requests])
    wishes = tuple([request for _, request in requests])
    return Envelope(reverse_path, addresses, ret=ret, envid=envid, tls=tls, requests=wishes)


async def submit(world: SimulatedWorld, sent: Envelope) -> None:
    """File a message as if a client had said all this."""
    durable: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    id = world.delivery.next_id()
    message = Message(id, world.clock.wall(), sent, b"", InlineContent(CONTENT), "local", "local")
    world.journey.add(message, durable.set_result)
    assert (await durable) is None


def actions(report: str) -> list[str]:
    return re.findall(r"^Action: (\w+)\r$", report, re.MULTILINE)


def wish(notify: Notify, orcpt: str = "") -> DsnRequest:
    return DsnRequest(notify, orcpt)


@in_world()
async def test_success_at_a_host_without_dsn_is_reported_as_relayed(world: SimulatedWorld) -> None:
    """Nobody behind that host would tell: we say that it went there, and what the sender called it."""
    home = world.site("example.org", "192.0.2.1")
    away = world.site("example.net", "192.0.2.2")

    await submit(
        world,
        envelope([("bob@example.net", wish(Notify.SUCCESS, "rfc822;robert+2Bx@example.net"))], envid="QQ+2B1"),
    )
    await world.until_empty()

    assert 1 == len(away.messages)
    (report,) = reports(home)
    assert ["relayed"] == actions(report)
    assert "Original-Envelope-Id: QQ+1\r\n" in report
    assert "Original-Recipient: rfc822; robert+x@example.net\r\nFinal-Recipient: rfc822; bob@example.net\r\n" in report
    assert "Status: 2." in report
    assert {"accepted": 2, "relayed": 2, "reported": 1} == world.kinds()


@in_world()
async def test_success_that_nobody_asked_for_is_not_reported(world: SimulatedWorld) -> None:
    """Of two recipients only one wished to be heard of."""
    home = world.site("example.org", "192.0.2.1")
    world.site("example.net", "192.0.2.2")

    wishes = [("bob@example.net", wish(Notify.UNSET, "rfc822;b@x.example")), ("eve@example.net", wish(Notify.SUCCESS))]
    await submit(world, envelope(wishes))
    await world.until_empty()

    (report,) = reports(home)
    assert ["relayed"] == actions(report)
    assert "eve@example.net" in report
    assert "bob@example.net" not in report


@in_world()
async def test_success_at_a_host_with_dsn_is_left_to_it(world: SimulatedWorld) -> None:
    """The host takes over what was asked for, octet by octet; we report nothing."""
    home = world.site("example.org", "192.0.2.1")
    away = world.site("example.net", "192.0.2.2", extensions=("PIPELINING", "8BITMIME", "DSN"))

    wishes = [("bob@example.net", wish(Notify.SUCCESS | Notify.DELAY, "rfc822;robert+2Bx@example.net"))]
    await submit(world, envelope(wishes, ret="HDRS", envid="QQ+2B1"))
    await world.until_empty()

    assert 1 == len(away.messages)
    assert [] == reports(home)
    (spoken,) = [bytes(session.octets) for session in away.sessions]
    mail, rcpt = [line for line in spoken.split(b"\r\n") if line.startswith((b"MAIL", b"RCPT"))]
    assert {b"RET=HDRS", b"ENVID=QQ+2B1"} <= set(mail.split())
    assert {b"NOTIFY=SUCCESS,DELAY", b"ORCPT=rfc822;robert+2Bx@example.net"} <= set(rcpt.split())
    assert {"accepted": 1, "relayed": 1} == world.kinds()


@on_bench()
async def test_what_a_dsn_host_took_over_is_its_to_report(bench: Bench) -> None:
    """Passed on with its parameters: no report of ours; delivered by LMTP: one that says so."""
    duties = {"bob@example.net": DsnDuty.PASSED_ON, "eve@example.com": DsnDuty.DELIVERED}
    bench.verdict = lambda lease: replace(RELAYED, dsn=duties.get(lease.recipients[0].address, DsnDuty.RELAYED))
    sent = envelope([("bob@example.net", wish(Notify.SUCCESS)), ("eve@example.com", wish(Notify.SUCCESS))])

    bench.journey.add(replace(bench.message("x@y.example"), envelope=sent), lambda failure: None)
    await bench.clock.sleep(70)

    told = [each for each in bench.told if each.kind is Kind.REPORTED]
    assert ["eve@example.com"] == [each.recipient for each in told]
    assert told[0].why.endswith("delivered")
    assert (0, 0) == await bench.store.count()


@in_world()
async def test_never_means_never(world: SimulatedWorld) -> None:
    """A bounce with NOTIFY=NEVER is recorded and told to nobody; the other recipient's is told."""
    home = world.site("example.org", "192.0.2.1")
    world.site("example.net", "192.0.2.2", replies={"rcpt": "550 5.1.1 unknown"})

    await submit(world, envelope([("bob@example.net", wish(Notify.NEVER)), ("eve@example.net", wish(Notify.FAILURE))]))
    await submit(world, envelope([("zoe@example.net", wish(Notify.NEVER))]))
    await world.until_empty()

    (report,) = reports(home)
    assert ["failed"] == actions(report)
    assert "eve@example.net" in report
    assert "bob@example.net" not in report
    assert 3 == world.kinds()["bounced"]


@pytest.mark.slow
@in_world()
async def test_delay_gives_one_warning_after_four_hours_and_one_failure_at_the_end(world: SimulatedWorld) -> None:
    """Who asked for both hears twice in five days, and what the host said each time."""
    home = world.site("example.org", "192.0.2.1")
    world.site("example.net", "192.0.2.2", replies=BUSY)
    started = world.clock.wall()

    await submit(world, envelope([("bob@example.net", wish(Notify.DELAY | Notify.FAILURE))]))
    await world.clock.sleep(4 * HOUR_S - 1)
    early = len(reports(home))
    await world.clock.sleep(2 * HOUR_S)
    on_time = [actions(each) for each in reports(home)]
    await world.until_empty(within_s=6 * DAY_S, step_s=60)

    assert (0, [["delayed"]]) == (early, on_time)
    warning, failure = reports(home)
    assert "Subject: Your message is delayed\r\n" in warning
    assert "450 4.2.1 mailbox busy" in warning.replace("\r\n ", " ")
    assert ["failed"] == actions(failure)
    until = re.search(r"Will-Retry-Until: (.*)\r", warning)
    assert until is not None
    first = next(each.at for each in world.committed() if each.kind is Kind.REPORTED)
    assert 4 * HOUR_S <= first - started < 4 * HOUR_S + 180
    assert "expired" == ends(world)["bob@example.net"]


@in_world(schedule=RetrySchedule(expire_after_s=8 * HOUR_S))
async def test_who_wants_failures_only_is_not_warned(world: SimulatedWorld) -> None:
    """NOTIFY=FAILURE: silence until it is final."""
    home = world.site("example.org", "192.0.2.1")
    world.site("example.net", "192.0.2.2", replies=BUSY)

    await submit(world, envelope([("bob@example.net", wish(Notify.FAILURE))]))
    await world.until_empty(within_s=DAY_S, step_s=60)

    assert [["failed"]] == [actions(each) for each in reports(home)]


@in_world(schedule=RetrySchedule(expire_after_s=8 * HOUR_S, delay_warning_s=0.0))
async def test_an_operator_can_turn_warnings_off(world: SimulatedWorld) -> None:
    """With a warning time of 0 even NOTIFY=DELAY makes none."""
    home = world.site("example.org", "192.0.2.1")
    world.site("example.net", "192.0.2.2", replies=BUSY)

    await submit(world, envelope([("bob@example.net", wish(Notify.DELAY | Notify.FAILURE))]))
    await world.until_empty(within_s=DAY_S, step_s=60)

    assert [["failed"]] == [actions(each) for each in reports(home)]


@in_world()
async def test_a_warning_survives_a_crash_and_is_not_given_twice(world: SimulatedWorld) -> None:
    """After a restart the sender is not warned again."""
    home = world.site("example.org", "192.0.2.1")
    world.site("example.net", "192.0.2.2", replies=BUSY)

    await submit(world, envelope([("bob@example.net", wish(Notify.DELAY))]))
    await world.clock.sleep(5 * HOUR_S)
    world.crash()
    await world.start()
    await world.clock.sleep(5 * HOUR_S)

    assert [["delayed"]] == [actions(each) for each in reports(home)]


@in_world()
async def test_mail_that_gets_through_at_last_was_warned_of_once(world: SimulatedWorld) -> None:
    """Delayed, then relayed to who asked for success: two reports, of one message, and no failure."""
    home = world.site("example.org", "192.0.2.1")
    away = world.site("example.net", "192.0.2.2", replies=BUSY)

    await submit(world, envelope([("bob@example.net", wish(Notify.DELAY | Notify.SUCCESS))]))
    await world.clock.sleep(6 * HOUR_S)
    away.replies.clear()
    await world.until_empty()

    assert [["delayed"], ["relayed"]] == [actions(each) for each in reports(home)]


@pytest.mark.parametrize(("ret", "is_whole"), [("FULL", True), ("HDRS", False), ("", False)])
def test_ret_decides_what_goes_back(ret: str, is_whole: bool) -> None:
    """RET=FULL returns the message with its failure; else the header section."""

    @in_world()
    async def scenario(world: SimulatedWorld) -> None:
        home = world.site("example.org", "192.0.2.1")
        world.site("example.net", "192.0.2.2", replies={"rcpt": "550 5.1.1 unknown"})

        await submit(world, envelope([("bob@example.net", wish(Notify.FAILURE))], ret=ret))
        await world.until_empty()

        (report,) = reports(home)
        assert is_whole is ("The secret body" in report)
        assert is_whole is ("Content-Type: message/rfc822\r\n" in report)
        assert "Subject: lunch" in report

    scenario()


@on_bench()
async def test_a_report_about_mail_under_requiretls_asks_for_it_too(bench: Bench) -> None:
    """RFC 8689 5: the bounce is protected like the message, has its header section only, and is not bounced itself."""
    leased: list[tuple[str, SenderTls]] = []

    def verdict(lease: Lease) -> Verdict:
        leased.append((lease.reverse_path, lease.tls))
        return BOUNCED

    bench.verdict = verdict
    sent = envelope([("bob@example.net", wish(Notify.FAILURE))], ret="FULL", tls=SenderTls.REQUIRED)
    bench.journey.add(replace(bench.message("x@y.example"), envelope=sent), lambda failure: None)
    await bench.clock.sleep(70)

    assert [("ann@example.org", SenderTls.REQUIRED), ("", SenderTls.REQUIRED)] == leased
    assert {"bounced": 2, "reported": 1} == await bench.kinds()


@in_world()
async def test_an_operator_who_cancels_what_was_warned_of_ends_it_in_silence(world: SimulatedWorld) -> None:
    """After the warning the operator drops the mail: no report says more."""
    home = world.site("example.org", "192.0.2.1")
    world.site("example.net", "192.0.2.2", replies=BUSY)

    await submit(world, envelope([("bob@example.net", wish(Notify.UNSET, "rfc822;b@x.example"))]))
    await world.clock.sleep(5 * HOUR_S)
    await world.change("cancel", Filter(recipient="bob@example.net"))
    await world.until_empty()

    assert [["delayed"]] == [actions(each) for each in reports(home)]
