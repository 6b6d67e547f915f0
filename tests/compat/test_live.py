# SPDX-License-Identifier: MIT
"""The relay manager over real sockets: DNS over UDP, aiosmtpd and Postfix's smtp-sink as hosts, smtplib as client.

Each scenario runs for the SMTP manager in clear and for the ESMTP manager with STARTTLS and AUTH. The manager runs on
the real reactor of the tests' process, or in a child process where it is killed.
"""

import contextlib  # trial takes a name `suppress` in a test module for its own
import email
import json
import smtplib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trustme
from tests.compat.live.children import Child
from tests.compat.live.host import Host, listening
from tests.compat.live.lives import Ledger, Lives, world
from tests.compat.live.program import accept
from tests.compat.live.relaying import IDENTITY, LOGIN, SECRET, Terms
from tests.compat.live.rig import (
    DEAD,
    HOST,
    RECORDS,
    LiveCase,
    pem,
    put,
    short,
    terms_of,
)
from tests.compat.live.smtp_sink import read_dump, smtp_sink
from tests.live.content import EMPTY, KINDS, assert_same, large
from tests.live.dns import serving_names
from tests.live.raw import RawClient, stuffed
from tests.live.rig import WAIT_S, eventually
from twisted.internet import reactor as _reactor
from twisted.internet.threads import deferToThread

from smarthost.compat import relaymanager
from smarthost.testing.dns import Zone

reactor: Any = _reactor  # a module to a type checker
pytestmark = pytest.mark.slow

SEED = 20261121
KILLS = 10


def name_of(recipient: str) -> str:
    """Give the local part."""
    return recipient.partition("@")[0]


class DeliveryCase(LiveCase):
    """Scenarios without trouble."""

    __test__ = False

    async def test_every_kind_of_content_arrives_octet_for_octet(self) -> None:
        """Dots, 8-bit, long lines, 200 KiB and the rest arrive as they were queued, several in each session."""
        contents = {f"k{n}@example.net": content for n, content in enumerate([*KINDS.values(), EMPTY, large(200_000)])}
        for recipient, content in contents.items():
            self.put(recipient, content)

        await self.relay(self.manager())

        self.assert_arrived_once(*contents)
        for message in self.host.arrived:
            assert_same(contents[message.recipient], message.content, message.recipient)
        self.assertEqual(len(self.host.visits), -(-len(contents) // 10))

    async def test_content_without_a_last_line_end_gets_one_and_nothing_else(self) -> None:
        """A file whose last line has no end is a message whose last line has one."""
        for name, content in {"lf": b"Subject: x\n\nend", "crlf": b"Subject: x\r\n\r\nend", "dot": b"."}.items():
            self.put(f"{name}@example.net")
            (newest,) = [each for each in self.directory.glob("*-D") if f"{name}@".encode() in each.read_bytes()]
            newest.write_bytes(content)

        await self.relay(self.manager())

        whole = b"Subject: x\r\n\r\nend\r\n"
        arrived = {message.recipient: message.content for message in self.host.arrived}
        self.assertEqual(arrived, {"lf@example.net": whole, "crlf@example.net": whole, "dot@example.net": b".\r\n"})

    async def test_envelopes_arrive_as_queued(self) -> None:
        """Sender, null sender and odd but legal addresses arrive as they are, after the login where there is one."""
        envelopes = [
            ("alice@example.org", "bob@example.net"),
            ("", "postmaster@example.net"),
            ("a+b=c@example.org", "o'hara+tag@example.net"),
            ("x" * 64 + "@example.org", "UPPER.lower@EXAMPLE.net"),
        ]
        for sender, recipient in envelopes:
            self.put(recipient, sender=sender)

        await self.relay(self.manager())

        arrived = [(message.mail_from, message.recipient) for message in self.host.arrived]
        self.assertEqual(sorted(arrived), sorted(envelopes))
        self.assertEqual({message.is_in_tls for message in self.host.arrived}, {self.is_secured})
        login = ("PLAIN", LOGIN) if self.is_secured else ("", "")
        self.assertEqual({message.login for message in self.host.arrived}, {login})

    async def test_two_domains_are_served_at_once(self) -> None:
        """While the host of one domain keeps its answer back, mail for another domain is delivered."""
        both_have_content = threading.Barrier(2, timeout=WAIT_S)

        def wait_for_the_other(verb: str, to: str) -> None:
            if verb == ".":
                both_have_content.wait()

        self.put("bob@example.net")
        self.put("alice@example.org")
        # Neither host answers the final dot before the other one has its content: one at a time would never end.
        self.host.on_step = self.senders_host.on_step = wait_for_the_other

        await self.relay(self.manager())

        self.assertEqual(self.host.counted(), {"bob@example.net": 1})
        self.assertEqual(self.senders_host.counted(), {"alice@example.org": 1})

    async def test_the_peer_sees_both_limits_kept_and_used(self) -> None:
        """Never more sessions at a time than `maxConnections`, nor more messages in one than its limit; but as many."""
        recipients = [f"m{n}@{domain}" for n in range(5) for domain in ("example.net", "example.com", "mx.example.net")]
        for recipient in recipients:
            self.put(recipient)

        await self.relay_all(self.manager(max_connections=2, max_messages=4))

        self.assert_arrived_once(*recipients)
        self.assertEqual(self.host.most_at_once, 2)
        self.assertEqual(max(visit.messages for visit in self.host.visits), 4)

    async def test_an_idle_manager_has_nothing_to_wait_for(self) -> None:
        """With all connections in use, and with nothing to send, checkState gives None."""
        manager = self.manager(max_connections=1)
        self.assertIsNone(manager.checkState())
        self.put("bob@example.net")
        self.put("bob@example.com")

        first = manager.checkState()

        self.assertIsNone(manager.checkState())
        await first.addTimeout(WAIT_S, reactor)
        self.assertTrue(self.host.is_quiet())
        await self.relay(manager)
        self.assert_arrived_once("bob@example.net", "bob@example.com")


class RetryCase(LiveCase):
    """Scenarios with temporary failures."""

    __test__ = False

    def refuse_once(self, verb: str, reply: str) -> list[str]:
        """Have the host say this the first time to each recipient; give the list of those it was said to."""
        refused: list[str] = []

        def rule(subject: str) -> str | None:
            if subject in refused:
                return None
            refused.append(subject)
            return reply

        self.host.answers[verb] = rule
        return refused

    async def test_greylisted_mail_waits_and_is_delivered_once(self) -> None:
        """What is refused with 450 at RCPT the first time is delivered the second time, and nobody is told."""
        recipients = [f"grey{n}@{domain}" for n in range(3) for domain in ("example.net", "example.com")]
        refused = self.refuse_once("RCPT", "450 4.2.0 Greylisted")
        for recipient in recipients:
            self.put(recipient)

        await self.relay_all(self.manager())

        self.assertEqual(sorted(refused), sorted(recipients))
        self.assert_arrived_once(*recipients)

    async def test_mail_refused_for_now_after_the_dot_is_delivered_once(self) -> None:
        """451 to the content is not the end either, and the next message of the session goes its way."""
        refused = self.refuse_once(".", "451 4.3.0 Try again")
        for n in range(3):
            self.put(f"dot{n}@example.net", large(5_000))

        await self.relay_all(self.manager())

        self.assertEqual(len(refused), 3)
        self.assert_arrived_once(*[f"dot{n}@example.net" for n in range(3)])
        self.assertEqual({message.content for message in self.host.arrived}, {large(5_000)})

    async def test_a_host_that_leaves_in_the_middle_gets_the_rest_later(self) -> None:
        """421 at any point of the second message, or hanging up without a word, costs that session and no mail."""
        script = {verb: ["421 4.3.2 Shutting down", ""] for verb in ("RCPT", ".")}

        def rule(verb: str) -> Callable[[str], str | None]:
            return lambda to: script[verb].pop(0) if to == "second@example.net" and script[verb] else None

        self.host.answers = {verb: rule(verb) for verb in script}
        recipients = [f"{name}@example.net" for name in ("first", "second", "third", "fourth")]
        for recipient in recipients:
            self.put(recipient)

        await self.relay_all(self.manager())

        self.assertEqual(script, {"RCPT": [], ".": []})
        self.assert_arrived_once(*recipients)
        self.assertGreaterEqual(len(self.host.visits), 5)

    async def test_mail_that_waits_is_not_tried_before_its_time(self) -> None:
        """After a 4xx the next look of the manager starts nothing: the message is there, and not due."""
        self.refuse_once("RCPT", "450 4.2.0 Greylisted")
        self.put("bob@example.net")
        manager = self.manager()
        manager.schedule = relaymanager.SmartHostSMTPRelayingManager.schedule

        await self.attempt(manager)

        self.assertIsNone(manager.checkState())
        self.assertEqual(len(self.queue.getWaiting()), 1)
        self.assertEqual(len(self.host.visits), 1)


class DeadHostCase(LiveCase):
    """Scenarios with a first MX that is of no use."""

    __test__ = False

    async def relay_past_the_dead(self, manager: Any) -> None:
        """Relay one message in one attempt, and look at what is remembered."""
        self.put("bob@dead.example")

        await self.attempt(manager)

        self.assert_arrived_once("bob@dead.example")
        self.assertEqual(list(manager.mxcalc.badMXs), ["mx1.dead.example"])
        until_s = manager.mxcalc.badMXs["mx1.dead.example"] - reactor.seconds()
        self.assertTrue(3590 < until_s <= 3600, until_s)

    async def test_a_first_mx_where_nobody_listens_is_passed_over(self) -> None:
        """The message is delivered to the second MX in the same attempt; the next one does not knock at the first."""
        manager = self.manager()
        await self.relay_past_the_dead(manager)
        tried: list[str] = []
        connect = reactor.connectTCP

        def noted(host: str, port: int, factory: Any) -> Any:
            tried.append(host)
            return connect(host, port, factory)

        self.patch(reactor, "connectTCP", noted)

        self.put("carol@dead.example")
        await self.attempt(manager)

        self.assertEqual(tried, ["mx2.dead.example"])
        self.assertEqual(self.host.counted()["carol@dead.example"], 1)

    async def test_a_first_mx_that_never_greets_is_passed_over(self) -> None:
        """A tarpit costs the relayer's own time limit, and then the second MX takes the message."""
        tarpit = self.stack.enter_context(socket.create_server((DEAD, self.host.port)))  # the kernel accepts
        manager = self.manager()
        made = manager.factory.protocol

        class Impatient(made):  # type: ignore[misc, valid-type]
            def connectionMade(self) -> None:
                if self.transport.getPeer().host == DEAD:
                    self.timeout = 0.05  # the living one has all the time it wants
                super().connectionMade()

        manager.factory = type("Factory", (manager.factory,), {"protocol": Impatient})

        await self.relay_past_the_dead(manager)

        tarpit.settimeout(WAIT_S)
        connection, _ = tarpit.accept()
        connection.close()

    async def test_a_first_mx_that_sends_everybody_away_is_passed_over(self) -> None:
        """554 instead of a greeting is a host that takes no mail: the second MX is asked in the same attempt."""
        reject = threading.Thread(target=self._send_away, daemon=True)
        self._sign = self.stack.enter_context(socket.create_server((DEAD, self.host.port)))
        self._sign.settimeout(WAIT_S)
        reject.start()

        await self.relay_past_the_dead(self.manager())

        reject.join(WAIT_S)

    def _send_away(self) -> None:
        connection, _ = self._sign.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"554 5.3.2 No mail here\r\n")
            while connection.recv(1024):
                pass


class TestLogin(LiveCase):
    """STARTTLS and AUTH: what opens a host's door, and what keeps mail and secret here."""

    __test__ = True
    is_secured = True

    async def deliver(self, **terms: Any) -> set[tuple[str, str]]:
        """Deliver two messages, and give what they were logged in by."""
        self.put("bob@example.net")
        self.put("carol@example.net")

        await self.relay(self.manager(**terms))

        self.assert_arrived_once("bob@example.net", "carol@example.net")
        self.assertEqual({message.is_in_tls for message in self.host.arrived}, {True})
        return {message.login for message in self.host.arrived}

    async def test_logs_in_by_login(self) -> None:
        """A relayer that registers LOGIN alone logs in by it."""
        self.assertEqual(await self.deliver(mechanisms=("LOGIN",)), {("LOGIN", LOGIN)})

    async def test_logs_in_by_what_both_sides_know(self) -> None:
        """Of several registered mechanisms one is taken that the host offers."""
        self.assertEqual(
            await self.deliver(mechanisms=("PLAIN", "LOGIN")) - {("PLAIN", LOGIN), ("LOGIN", LOGIN)}, set()
        )

    async def test_the_secret_may_be_a_callable_of_the_address(self) -> None:
        """It is asked for the address connected to, and what it gives is the secret."""
        asked: list[Any] = []
        manager = self.manager()
        secret, *rest = manager.fArgs

        def ask(address: Any) -> bytes:
            asked.append(address.host)
            return bytes(secret)

        manager.fArgs = (ask, *rest)
        self.put("bob@example.net")

        await self.relay(manager)

        self.assertEqual(asked, [HOST])
        self.assert_arrived_once("bob@example.net")
        self.assertEqual(self.host.arrived[0].login, ("PLAIN", LOGIN))

    async def keep(self, steps: list[str], **terms: Any) -> None:
        """Try to relay where the host is not to be had: nothing is said that should not be, and the mail waits."""
        self.put("bob@example.net")
        before = {each.name: each.read_bytes() for each in self.directory.iterdir()}
        self.addCleanup(self._forget_back_off)

        await self.relay(self.manager(**terms))

        self.assertEqual([visit.steps for visit in self.host.visits], [["CONNECT", *steps]])
        self.assertEqual(self.host.arrived + self.senders_host.arrived, [])
        self.assertEqual({each.name: each.read_bytes() for each in self.directory.iterdir()}, before)

    def _forget_back_off(self) -> None:
        for call in reactor.getDelayedCalls():  # the 30 s until which the message is not waiting again
            if call.getTime() > reactor.seconds() + 15:
                call.cancel()

    async def test_a_host_with_a_strangers_certificate_gets_neither_secret_nor_mail(self) -> None:
        """The contextFactory trusts another CA: the session ends after STARTTLS, and the message stays."""
        await self.keep(["EHLO"], trusted=pem(trustme.CA()))

    async def test_a_host_without_tls_gets_neither_secret_nor_mail(self) -> None:
        """A host that offers a login in clear and no STARTTLS is left, because the contextFactory asked for TLS."""
        (port,) = listening(HOST)
        self.host = self.stack.enter_context(Host(port, login=(LOGIN, SECRET)))

        await self.keep(["EHLO", "QUIT"])

    async def test_a_refused_login_is_no_bounce(self) -> None:
        """With a wrong secret nothing is delivered, nobody is told: the message stays. (Twisted tries PLAIN twice.)"""
        await self.keep(["EHLO", "EHLO", "AUTH", "AUTH", "QUIT"], secret="wrong")


class BounceCase(LiveCase):
    """Scenarios with permanent failures."""

    __test__ = False

    def report(self) -> Any:
        """Give the one message that arrived at the sender's own server."""
        (arrived,) = self.senders_host.arrived
        self.assertEqual((arrived.mail_from, arrived.recipient), ("", "alice@example.org"))
        return email.message_from_bytes(arrived.content)

    async def refuse(self, verb: str, reply: str) -> None:
        """Send three messages, of which the host refuses the second one for good."""
        self.host.answers[verb] = lambda to: reply if to == "nobody@example.net" else None
        for recipient in ("first@example.net", "nobody@example.net", "last@example.net"):
            self.put(recipient, b"Subject: about " + recipient.encode() + b"\r\n\r\nsecret body\r\n")

        await self.relay(self.manager())

        self.assertEqual(self.host.counted(), {"first@example.net": 1, "last@example.net": 1})
        self.assertEqual(list(self.directory.iterdir()), [])

    def assert_is_about(self, report: Any, status: str, said: str) -> None:
        """The report is one by RFC 3464, about the recipient who was refused and nobody else."""
        self.assertEqual(report.get_content_type(), "multipart/report")
        self.assertEqual(report.get_param("report-type"), "delivery-status")
        self.assertEqual(report.defects, [])
        self.assertIn("alice@example.org", report["To"])
        text, delivery_status, returned = report.get_payload()
        per_message, per_recipient = delivery_status.get_payload()
        self.assertEqual(per_message["Reporting-MTA"], f"dns; {IDENTITY.decode()}")
        self.assertEqual(per_recipient["Final-Recipient"], "rfc822; nobody@example.net")
        self.assertEqual(per_recipient["Action"], "failed")
        self.assertEqual(per_recipient["Status"], status)
        self.assertIn(said, per_recipient["Diagnostic-Code"])
        self.assertIn("mx.example.net", per_recipient["Remote-MTA"])
        self.assertIn("nobody@example.net", text.get_payload())
        self.assertIn("about nobody@example.net", returned.as_string())
        self.assertNotIn("first@", report.as_string())

    async def test_a_recipient_refused_for_good_is_reported_to_the_sender(self) -> None:
        """550 at RCPT: the others are delivered, the report arrives at the sender's server, the queue is empty."""
        await self.refuse("RCPT", "550 5.1.1 No such mailbox")

        self.assert_is_about(self.report(), "5.1.1", "No such mailbox")

    async def test_content_refused_for_good_is_reported_to_the_sender(self) -> None:
        """554 after the dot is the same, with what the host said there."""
        await self.refuse(".", "554 5.7.1 This looks like spam")

        self.assert_is_about(self.report(), "5.7.1", "This looks like spam")

    async def test_a_null_sender_is_told_nothing(self) -> None:
        """Mail from nobody that is refused for good leaves no message, no report and no file."""
        self.host.answers["RCPT"] = lambda to: "550 5.1.1 No such mailbox" if to.startswith("rcpt") else None
        self.host.answers["."] = lambda to: "554 5.7.1 No" if to.startswith("dot") else None
        for name in ("rcpt", "dot", "good"):
            self.put(f"{name}@example.net", sender="")

        await self.relay(self.manager())

        self.assert_arrived_once("good@example.net")

    async def test_a_domain_that_does_not_exist_is_reported_to_the_sender(self) -> None:
        """Nobody need be connected to: DNS says that there is no such domain."""
        self.put("nobody@nowhere.invalid")

        await self.relay(self.manager())

        per_recipient = self.report().get_payload()[1].get_payload()[1]
        self.assertEqual(per_recipient["Final-Recipient"], "rfc822; nobody@nowhere.invalid")
        self.assertEqual(per_recipient["Status"], "5.1.2")
        self.assertEqual(list(self.directory.iterdir()), [])


class WholePathCase(LiveCase):
    """smtplib to Twisted's mail service with our queuer, to the queue, to the manager, to aiosmtpd."""

    __test__ = False

    async def submit(self, factory: str) -> None:
        """Send what smtplib sends, relay it by the timer, and compare."""
        port = accept(self.queue, factory)
        self.addCleanup(port.stopListening)
        manager = self.manager()
        content = KINDS["utf-8 body"] + KINDS["lines of dots"] + b"no last line end"
        recipients = ["bob@example.net", "carol@example.com", "dave@example.net"]

        def send() -> None:
            with smtplib.SMTP("127.0.0.1", port.getHost().port, "client.example.org", timeout=WAIT_S) as client:
                self.assertEqual(client.sendmail("alice@example.org", recipients, content), {})
                client.sendmail("<>", ["postmaster@example.net"], short("a bounce"))

        await deferToThread(send)
        self.assertEqual(len(list(self.directory.glob("*-D"))), 4)
        await self.relay_all(manager)

        self.assert_arrived_once(*recipients, "postmaster@example.net")
        senders = {message.recipient: message.mail_from for message in self.host.arrived}
        self.assertEqual(senders, {**dict.fromkeys(recipients, "alice@example.org"), "postmaster@example.net": ""})
        for message in self.host.arrived:
            if message.mail_from:
                self.assertTrue(message.content.startswith(b"Received: from client.example.org"), message.content[:80])
                assert_same(content + b"\r\n", message.content[-len(content) - 2 :], message.recipient)

    async def test_from_smtplib_through_an_esmtp_service_to_aiosmtpd(self) -> None:
        """What a program submits to Twisted's ESMTP server arrives at the hosts of its recipients, octet for octet."""
        await self.submit("getESMTPFactory")

    async def test_from_smtplib_through_an_smtp_service_to_aiosmtpd(self) -> None:
        """The same by the server that knows HELO only."""
        await self.submit("getSMTPFactory")


class TestDeliveryBySmtp(DeliveryCase):
    __test__ = True
    is_secured = False


class TestDeliveryByEsmtp(DeliveryCase):
    __test__ = True
    is_secured = True


class TestRetryBySmtp(RetryCase):
    __test__ = True
    is_secured = False


class TestRetryByEsmtp(RetryCase):
    __test__ = True
    is_secured = True


class TestDeadHostBySmtp(DeadHostCase):
    __test__ = True
    is_secured = False


class TestDeadHostByEsmtp(DeadHostCase):
    __test__ = True
    is_secured = True


class TestBounceBySmtp(BounceCase):
    __test__ = True
    is_secured = False


class TestBounceByEsmtp(BounceCase):
    __test__ = True
    is_secured = True


class TestWholePathBySmtp(WholePathCase):
    __test__ = True
    is_secured = False


class TestWholePathByEsmtp(WholePathCase):
    __test__ = True
    is_secured = True


# -- killed in the middle and resumed: the program is a child process


def _queue_up(directory: Path, recipients: list[str], content: Callable[[str], bytes] = short) -> None:
    directory.mkdir()
    queue = relaymanager.Queue(str(directory))
    for recipient in recipients:
        put(queue, "alice@example.org", recipient, content(recipient))


def _live_on(
    lives: Lives, host: Host, recipients: list[str], senders_host: Host | None = None, senders: Sequence[str] = ()
) -> None:
    """Let the last life deliver what is left, and take its leave."""
    with lives.begin() as child:
        try:
            host.wait_for(lambda: host.counted().keys() >= set(recipients) and host.is_quiet(), "all arrive")
            if senders_host is not None:
                heard = senders_host
                heard.wait_for(lambda: heard.counted().keys() >= set(senders) and heard.is_quiet(), "all are told")
        except AssertionError as error:
            raise AssertionError(f"{error}: {child.told()}") from error


def _assert_nothing_lost(lives: Lives, host: Host, directory: Path, recipients: list[str]) -> None:
    counted = host.counted()
    assert set(counted) == set(recipients)
    assert {to: n for to, n in counted.items() if n > 1 + lives.in_flight[to]} == {}, lives.in_flight
    assert [each.name for each in directory.iterdir() if each.name.endswith("-D")] == []


both = pytest.mark.parametrize("is_secured", [False, True], ids=["smtp", "esmtp"])


@both
def test_killed_while_the_host_keeps_its_answer_back_the_message_is_sent_again(
    tmp_path: Path, is_secured: bool
) -> None:
    """The host has the content and has not said so when the program dies: the next life sends it again, whole."""
    recipients = [f"r{n}@example.net" for n in range(4)]
    contents = {recipient: large(50_000 + n) for n, recipient in enumerate(recipients)}
    _queue_up(tmp_path / "queue", recipients, contents.__getitem__)

    with world(is_secured) as (host, _, dns_at):
        lives = Lives(terms_of(tmp_path / "queue", dns_at, host.port, is_secured), tmp_path / "log", host)

        def kill_at_the_dot(verb: str, to: str) -> None:
            if verb == "." and to == recipients[1] and not lives.kills:
                lives.kill()

        host.on_step = kill_at_the_dot
        with lives.begin():
            lives.wait_for_death()
        _live_on(lives, host, recipients)

    _assert_nothing_lost(lives, host, tmp_path / "queue", recipients)
    assert host.counted() == {**dict.fromkeys(recipients, 1), recipients[1]: 2}
    for message in host.arrived:
        assert_same(contents[message.recipient], message.content, message.recipient)


@both
def test_killed_between_messages_nothing_is_sent_twice(tmp_path: Path, is_secured: bool) -> None:
    """What the program knew to be delivered is gone from the directory before it begins with the next message."""
    recipients = [f"r{n}@example.net" for n in range(6)]
    _queue_up(tmp_path / "queue", recipients)

    with world(is_secured) as (host, _, dns_at):
        terms = terms_of(tmp_path / "queue", dns_at, host.port, is_secured)
        lives = Lives(terms, tmp_path / "log", host)

        def kill_at_the_third(verb: str, to: str) -> None:
            if verb == "MAIL" and len(host.arrived) == 3 and not lives.kills:
                lives.kill()

        host.on_step = kill_at_the_third
        with lives.begin():
            lives.wait_for_death()
        left = sorted((tmp_path / "queue").glob("*-D"))
        _live_on(lives, host, recipients)

    assert len(left) == 3
    assert host.counted() == dict.fromkeys(recipients, 1)
    _assert_nothing_lost(lives, host, tmp_path / "queue", recipients)


@both
def test_killed_at_ten_random_points_nothing_is_lost(tmp_path: Path, is_secured: bool) -> None:
    """Whatever was being said at each kill, all mail arrives, and only what was in flight at a kill arrives again."""
    chance = Random(SEED + is_secured)
    good = [f"r{n}@{domain}" for n in range(18) for domain in ("example.net", "example.com")]
    refused = [f"nobody{n}@example.net" for n in range(9)]
    (tmp_path / "queue").mkdir()
    queue = relaymanager.Queue(str(tmp_path / "queue"))
    for n, recipient in enumerate(chance.sample([*good, *refused], len(good) + len(refused))):
        put(queue, f"about-{recipient.replace('@', '-at-')}@example.org", recipient, large(100 * n))
    points = [chance.randint(1, 30) for _ in range(KILLS)]  # counted in steps of the hosts' clients, in each life anew
    reported = [f"about-{recipient.replace('@', '-at-')}@example.org" for recipient in refused]
    died_at: list[str] = []
    left, one_at_a_time = 0, threading.Lock()

    with world(is_secured) as (host, senders_host, dns_at):
        terms = terms_of(tmp_path / "queue", dns_at, host.port, is_secured)
        lives = Lives(terms, tmp_path / "log", host, senders_host)

        def kill_at_the_point(verb: str, to: str) -> None:
            nonlocal left
            with one_at_a_time:
                left -= 1
                if left == 0:
                    died_at.append(verb)
                    lives.kill()

        host.answers["RCPT"] = lambda to: "550 5.1.1 No such mailbox" if to.startswith("nobody") else None
        host.on_step = senders_host.on_step = kill_at_the_point
        for left in points:  # noqa: B007 - counted down above
            with lives.begin():
                lives.wait_for_death()
        left = 0
        _live_on(lives, host, good, senders_host, reported)

    assert lives.kills == KILLS
    assert len(set(died_at)) > 3, died_at
    _assert_nothing_lost(lives, host, tmp_path / "queue", good)
    told = senders_host.counted()
    assert set(told) == set(reported)
    assert sum(told.values()) <= len(reported) + 2 * KILLS, "two sessions at most were about a refusal at each kill"


def test_what_a_killed_server_had_acknowledged_is_delivered(tmp_path: Path) -> None:
    """Killed at the very moment a client hears 250, three times, while it relays: nothing acknowledged is lost."""
    (tmp_path / "queue").mkdir()
    ledger = Ledger()

    with world(is_secured=True) as (host, _, dns_at):
        lives = Lives(terms_of(tmp_path / "queue", dns_at, host.port, is_secured=True), tmp_path / "log", host)
        for kill_after in (1, 5, 9):
            with lives.begin(accepts=True) as child:
                ledger.submit(child.port, kill_after, lives.kill)
                lives.wait_for_death()
        with lives.begin() as child:
            host.wait_for(
                lambda: host.counted().keys() >= set(ledger.acknowledged) and host.is_quiet(), "all that is owed"
            )
            eventually(lambda: not list((tmp_path / "queue").glob("*-D")), "the directory is empty")

    for message in host.arrived:
        assert message.content.endswith(
            b"\r\n\r\n" + ledger.content(name_of(message.recipient)).partition(b"\r\n\r\n")[2]
        )
    assert all(n <= 1 + lives.in_flight[to] for to, n in host.counted().items())


def test_a_server_killed_in_the_middle_of_a_message_leaves_none(tmp_path: Path) -> None:
    """A message whose client has not heard 250 is not delivered in part; what was acknowledged before it is."""
    (tmp_path / "queue").mkdir()

    with world(is_secured=False) as (host, _, dns_at):
        lives = Lives(terms_of(tmp_path / "queue", dns_at, host.port, is_secured=False), tmp_path / "log", host)
        with lives.begin(accepts=True, relays=False) as child, RawClient(child.port) as client:
            client.command("HELO client.example.org", "250")
            for name, content in (("whole", short("whole")), ("half", large(200_000))):
                client.command("MAIL FROM:<alice@example.org>", "250")
                client.command(f"RCPT TO:<{name}@example.net>", "250")
                client.command("DATA", "354")
                client.socket.sendall(stuffed(content))
                if name == "whole":
                    client.command(".", "250")
            eventually(lambda: [f for f in (tmp_path / "queue").glob("*-C") if f.stat().st_size], "content is written")
            lives.kill()
            lives.wait_for_death()
        _live_on(lives, host, ["whole@example.net"])

    _assert_nothing_lost(lives, host, tmp_path / "queue", ["whole@example.net"])


@both
def test_a_directory_that_the_original_filled_is_delivered(tmp_path: Path, is_secured: bool) -> None:
    """Envelopes and contents as Twisted's own Queue writes them are opened unchanged, relayed and removed."""
    (tmp_path / "queue").mkdir()
    contents = {f"k{n}@example.net": content for n, content in enumerate([KINDS["latin-1"], KINDS["lines of dots"]])}
    messages = [
        ("alice@example.org", to, content.decode("latin-1").split("\r\n")[:-1]) for to, content in contents.items()
    ]
    messages.append(("", "postmaster@example.net", ["Subject: a bounce", "", "x"]))
    command = [sys.executable, "-m", "tests.compat.live.original_queue", str(tmp_path / "queue")]
    subprocess.run(command, input=json.dumps(messages).encode(), check=True, timeout=WAIT_S)
    contents["postmaster@example.net"] = b"Subject: a bounce\r\n\r\nx\r\n"

    with world(is_secured) as (host, _, dns_at):
        lives = Lives(terms_of(tmp_path / "queue", dns_at, host.port, is_secured), tmp_path / "log", host)
        _live_on(lives, host, list(contents))

    assert host.counted() == dict.fromkeys(contents, 1)
    assert {message.recipient: message.content for message in host.arrived} == contents
    senders = {message.recipient: message.mail_from for message in host.arrived}
    assert senders == {**dict.fromkeys(contents, "alice@example.org"), "postmaster@example.net": ""}
    assert list((tmp_path / "queue").iterdir()) == []


@pytest.mark.interop
@pytest.mark.parametrize("protocol", ["SMTP", "ESMTP"])
def test_postfix_smtp_sink_has_what_was_sent(tmp_path: Path, protocol: str) -> None:
    """Postfix's own test server dumps the same envelopes and contents. (It has no STARTTLS, and says 250 to AUTH.)"""
    kinds = ("short", "utf-8 body", "lines of dots", "a lone dot", "998-octet lines", "multipart", "64 KiB")
    contents = {f"k{n}@example.net": KINDS[kind] for n, kind in enumerate(kinds)}
    contents["null@example.net"] = short("from nobody")
    (tmp_path / "queue").mkdir()
    queue = relaymanager.Queue(str(tmp_path / "queue"))
    for recipient, content in contents.items():
        put(queue, "" if recipient.startswith("null") else "alice@example.org", recipient, content)

    with smtp_sink() as (port, dumps), serving_names(Zone(RECORDS)) as names:
        terms = Terms(directory=str(tmp_path / "queue"), dns_at=names.at, port=port, is_esmtp=protocol == "ESMTP")
        with Child(terms, tmp_path / "log") as child:
            eventually(lambda: not list((tmp_path / "queue").iterdir()), f"all leaves the queue: {child.told()}", 3)
        dumped = [read_dump(each) for each in dumps.iterdir()]

    assert {each.recipient: each.content for each in dumped} == contents
    assert len(dumped) == len(contents)
    assert {each.protocol for each in dumped} == {protocol}
    assert {each.mail.partition(" ")[0] for each in dumped if each.recipient != "null@example.net"} == {
        "<alice@example.org>"
    }
    assert [each.mail for each in dumped if each.recipient == "null@example.net"] == ["<>"]
