# SPDX-License-Identifier: MIT
"""Scenarios: what a sender asked for with a message is known to whoever sends it on, and to whoever reports on it."""

from msgspec.structs import replace

from smarthost.mail.envelope import Body, DsnRequest, Notify, SenderTls
from smarthost.mail.lease import Lease
from smarthost.mail.message import Message
from smarthost.mail.result import DsnDuty
from smarthost.mail.settlement import State
from smarthost.queue.store import DueScan
from smarthost.testing.stores.trial import HOUR, NOW, Trial

DAY = 24 * HOUR


def _asking(trial: Trial, *requests: DsnRequest) -> Message:
    """Make a message with all that can be asked for, and one recipient for each request."""
    message = trial.message(*[f"user{n}@dest.example" for n in range(len(requests))])
    envelope = replace(
        message.envelope,
        body=Body.BINARY_MIME,
        smtputf8=True,
        ret="HDRS",
        envid="QQ+2B314159",
        tls=SenderTls.REQUIRED,
        requests=requests,
    )
    return replace(message, envelope=envelope)


def _requests(*leases: Lease) -> tuple[DsnRequest, ...]:
    """Give what is asked for the recipients of leases."""
    return tuple([DsnRequest(each.notify, each.orcpt) for lease in leases for each in lease.recipients])


EVERY_REQUEST = tuple([DsnRequest(Notify(n), f"rfc822;user{n}+2B@dest.example" if n % 3 else "") for n in range(16)])


async def what_a_sender_asks_for_comes_with_every_lease(trial: Trial) -> None:
    """Parameters of MAIL and RCPT are in the lease of a new message, and in those read back after a crash."""
    message = _asking(trial, *EVERY_REQUEST)
    fresh = await trial.store.add(message, ["dest.example"])
    await trial.crash()
    found = await trial.store.lease(["dest.example"], NOW, 10)

    for lease in (*fresh, *found):
        assert (lease.body, lease.smtputf8, lease.tls) == (Body.BINARY_MIME, True, SenderTls.REQUIRED)
        assert (lease.ret, lease.envid) == ("HDRS", "QQ+2B314159")
        assert all(isinstance(each.notify, Notify) for each in lease.recipients)
        assert _requests(lease) == EVERY_REQUEST


async def requests_belong_to_their_recipients(trial: Trial) -> None:
    """A lease of some recipients has what was asked for these, and a message's parameters are its own."""
    asked = _asking(trial, DsnRequest(Notify.NEVER), DsnRequest(Notify.DELAY, "rfc822;b"), DsnRequest())
    plain = trial.message("a@dest.example", "b@dest.example", "c@dest.example")
    optional = replace(plain, envelope=replace(plain.envelope, tls=SenderTls.OPTIONAL))
    for message in (asked, optional):
        (lease,) = await trial.store.add(message, ["dest.example"])
        await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW, only={1})])
        await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW + DAY, only={0, 2})])

    first, second = await trial.store.lease(["dest.example"], NOW, 10)
    late_first, late_second = await trial.store.lease(["dest.example"], NOW + DAY, 10)

    assert _requests(first) == (DsnRequest(Notify.DELAY, "rfc822;b"),)
    assert _requests(late_first) == (DsnRequest(Notify.NEVER), DsnRequest())
    assert _requests(second, late_second) == (DsnRequest(),) * 3
    assert (second.ret, second.envid, second.tls) == ("", "", SenderTls.OPTIONAL)


async def mail_without_requests_asks_for_nothing(trial: Trial) -> None:
    """Mail of a client that knows no DSN is as before."""
    _, fresh = await trial.add_leased("a@dest.example")
    await trial.restart()
    found = await trial.store.lease(["dest.example"], NOW, 10)

    for lease in (*fresh, *found):
        assert (lease.ret, lease.envid, lease.tls) == ("", "", SenderTls.DEFAULT)
        assert _requests(lease) == (DsnRequest(),)
        assert not lease.recipients[0].is_delay_told


async def requests_survive_attempts(trial: Trial) -> None:
    """Whatever settlements say or leave out, an attempt changes nothing about what was asked for."""
    message = _asking(trial, DsnRequest(Notify.SUCCESS, "rfc822;a"))
    (lease,) = await trial.store.add(message, ["dest.example"])
    for _ in range(2):
        await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW)])
        (lease,) = await trial.store.lease(["dest.example"], NOW, 10)
        assert _requests(lease) == (DsnRequest(Notify.SUCCESS, "rfc822;a"),)
        assert (lease.ret, lease.envid, lease.tls) == ("HDRS", "QQ+2B314159", SenderTls.REQUIRED)


async def repeated_add_asks_for_the_same(trial: Trial) -> None:
    """A message that is filed again asks for what it asked for before."""
    message = _asking(trial, *EVERY_REQUEST)
    for _ in range(2):
        await trial.store.add(message, ())

    (lease,) = await trial.store.lease(["dest.example"], NOW, 10)

    assert _requests(lease) == EVERY_REQUEST
    assert await trial.store.count() == (1, 16)


async def report_knows_what_was_asked_for(trial: Trial) -> None:
    """Who writes a report finds the envelope's parameters, the recipients', and how large the content is."""
    message = _asking(trial, DsnRequest(Notify.FAILURE, "rfc822;a"), DsnRequest(), DsnRequest(Notify.NEVER))
    (lease,) = await trial.store.add(message, ["dest.example"])
    await trial.store.settle([trial.settlement(lease, State.BOUNCED, owed=True, only={0, 1})])
    await trial.crash()

    owed = await trial.store.lease_report(NOW)

    assert owed is not None
    assert (owed.ret, owed.envid, owed.tls) == ("HDRS", "QQ+2B314159", SenderTls.REQUIRED)
    assert (owed.octets, owed.smtputf8) == (message.content.octets, True)
    assert [(each.n, each.notify, each.orcpt) for each in owed.recipients] == [
        (0, Notify.FAILURE, "rfc822;a"),
        (1, Notify.UNSET, ""),
    ]


async def success_may_owe_a_report(trial: Trial) -> None:
    """What was relayed and owes a report of that is no mail to deliver any more, but there until it is reported."""
    message, (lease,) = await trial.add_leased("a@dest.example", "b@dest.example", "c@dest.example")
    settlements = [
        trial.settlement(lease, State.RELAYED, owed=True, dsn=DsnDuty.RELAYED, only={0}),
        trial.settlement(lease, State.RELAYED, owed=True, dsn=DsnDuty.DELIVERED, only={1}),
        trial.settlement(lease, State.RELAYED, only={2}),
    ]
    await trial.store.settle(settlements)
    await trial.crash()

    assert await trial.store.count() == (1, 0)
    assert await trial.store.due(NOW + DAY, 10) == DueScan((), None)
    assert await trial.store.sweep(NOW + DAY, 10) == ()
    assert await trial.states() == {"a@dest.example": "relayed", "b@dest.example": "relayed"}
    owed = await trial.store.lease_report(NOW)
    assert owed is not None
    assert owed.id == message.id
    assert owed.recipients == (*settlements[0].recipients, *settlements[1].recipients)
    assert [each.dsn for each in owed.recipients] == [DsnDuty.RELAYED, DsnDuty.DELIVERED]
    await trial.store.file_report(owed, None, ())
    assert await trial.store.count() == (0, 0)
    assert await trial.store.lease_report(NOW + DAY) is None


async def one_report_tells_of_all_that_owe(trial: Trial) -> None:
    """Whatever became of a message's recipients, one report can tell of all; only who waits is left then."""
    addresses = ("late@dest.example", "done@dest.example", "no@dest.example", "old@dest.example")
    _, (lease,) = await trial.add_leased(*addresses)
    settlements = [
        trial.settlement(lease, State.DEFERRED, due=NOW + HOUR, owed=True, told=True, only={0}),
        trial.settlement(lease, State.RELAYED, owed=True, only={1}),
        trial.settlement(lease, State.BOUNCED, owed=True, only={2}),
        trial.settlement(lease, State.EXPIRED, owed=True, only={3}),
    ]
    await trial.store.settle(settlements)

    owed = await trial.store.lease_report(NOW)

    assert owed is not None
    assert owed.recipients == tuple([each.recipients[0] for each in settlements])
    await trial.store.file_report(owed, None, ())
    assert await trial.states() == {"late@dest.example": "deferred"}
    assert await trial.store.lease_report(NOW + DAY) is None


SCENARIOS = (
    what_a_sender_asks_for_comes_with_every_lease,
    requests_belong_to_their_recipients,
    mail_without_requests_asks_for_nothing,
    requests_survive_attempts,
    repeated_add_asks_for_the_same,
    report_knows_what_was_asked_for,
    success_may_owe_a_report,
    one_report_tells_of_all_that_owe,
)
