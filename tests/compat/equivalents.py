# SPDX-License-Identifier: MIT
"""Equivalents of those tests of Twisted whose own text is not Python 3: the same scenario, only that defect mended.

Run by `tests.compat.twisted_suite`, in a child process, after the modules under test were swapped in: what is imported
here as twisted.mail.relaymanager and twisted.mail.relay is ours or the original, as the child was told. Never collected
by pytest. `NOT_PYTHON_3` names each test that is replaced, why, and what stands in its place.
"""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.cred.checkers import AllowAnonymousAccess
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.internet.testing import LineSendingProtocol
from twisted.mail import relay, relaymanager
from twisted.mail.mail import MailService
from twisted.mail.maildir import MaildirDirdbmDomain
from twisted.mail.test import test_mail
from twisted.trial.unittest import TestCase

reactor: Any = _reactor  # a module to a type checker

_STR_ZONE = "TestAuthority is filled with str names, and the DNS server asks it for bytes: no name is ever found"

NOT_PYTHON_3 = {
    "MXTests.testSimpleSuccess": (_STR_ZONE, "MXEquivalents.test_simple_success"),
    "MXTests.testManyRecords": (_STR_ZONE, "MXEquivalents.test_many_records"),
    "RelayerTests.testMailData": (
        "it reads the content as str; ours gives octets, on purpose: a file in text mode changes or refuses them",
        "RelayerEquivalents.test_mail_data",
    ),
    "LiveFireExerciseTests.testRelayDelivery": (
        "MaildirDirdbmDomain.addUser with str (DirDBM keys must be bytes) before anything is relayed, then domains and "
        "the session's lines as str; with bytes, MaildirDirdbmDomain cannot store: it joins bytes and str to a path",
        "RelayDeliveryEquivalent.test_relay_delivery",
    ),
}


class MXEquivalents(TestCase):
    """MX lookups through a real resolver, asking a real DNS server on loopback."""

    def setUp(self) -> None:
        """Start Twisted's own test server, whose zone is then filled with bytes."""
        test_mail.setUpDNS(self)
        self.zone: dict[bytes, list[str]] = self.auth.addresses  # type: ignore[attr-defined]  # setUpDNS made it
        self.mx: Any = relaymanager.MXCalculator(self.resolver)  # type: ignore[attr-defined]

    def tearDown(self) -> Any:
        """Stop the server."""
        return test_mail.tearDownDNS(self)

    async def test_simple_success(self) -> None:
        """A domain with one MX record gives that record."""
        self.zone[b"test.domain"] = ["the.email.test.domain"]

        record = await self.mx.getMX("test.domain")

        self.assertEqual(str(record.name), "the.email.test.domain")
        self.assertEqual(record.preference, 0)

    async def test_many_records(self) -> None:
        """Of three hosts each is found when the others are bad, and one that is good again is found again."""
        hosts = {f"mx{n}.test.domain" for n in (1, 2, 3)}
        self.zone[b"test.domain"] = sorted(hosts)

        drawn = []
        for _ in hosts:
            drawn.append(str((await self.mx.getMX("test.domain")).name))
            self.mx.markBad(drawn[-1])
        self.mx.markGood(drawn[1])
        again = await self.mx.getMX("test.domain")

        self.assertEqual(set(drawn), hosts)
        self.assertEqual(str(again.name), drawn[1])


class RelayerEquivalents(TestCase):
    """What a relayer reads from the queue."""

    def test_mail_data(self) -> None:
        """Each message's content is read as the octets of its file, in order, and None comes after the last."""
        directory = Path(self.mktemp())
        directory.mkdir()
        paths = [str(directory / f"body-{n}") for n in range(10)]
        for path in paths:
            Path(path + "-H").write_bytes(pickle.dumps(["from", "to"]))
            Path(path + "-D").write_bytes(path.encode())
        relayer: Any = relay.RelayerMixin()
        relayer.loadMessages(paths)

        for path in paths:
            self.assertEqual(relayer.getMailData().read(), path.encode())
            relayer.sentMail(250, None, None, None, None)
        self.assertIs(relayer.getMailData(), None)


class RelayDeliveryEquivalent(TestCase):
    """A message on its way over three real sockets: client, queueing server, relaying manager, destination."""

    SESSION = (
        b"HELO meson",
        b"MAIL FROM: <user@wherever>",
        b"RCPT TO: <user@destination.domain>",
        b"DATA",
        b"Subject: relayed",
        b"",
        b"This is the message",
        b".",
        b"QUIT",
    )
    CONTENT = b"Subject: relayed\n\nThis is the message\n"

    def setUp(self) -> None:
        """Start the DNS server that sends mail for destination.domain to loopback."""
        test_mail.setUpDNS(self)
        self.auth.addresses[b"destination.domain"] = ["127.0.0.1"]  # type: ignore[attr-defined]  # setUpDNS made it

    def tearDown(self) -> Any:
        """Stop the DNS server."""
        return test_mail.tearDownDNS(self)

    async def test_relay_delivery(self) -> None:
        """What a server took into the queue is relayed to the host that DNS names, whole, and leaves the queue."""
        service, queue_directory = self.queueing_service()
        destination, stored = self.destination_service()
        manager: Any = relaymanager.SmartHostSMTPRelayingManager(service.queue)
        manager.fArgs += ("test.identity.hostname",)
        manager.mxcalc = relaymanager.MXCalculator(self.resolver)  # type: ignore[attr-defined]
        manager.PORT = self.listen(destination.getSMTPFactory())
        # An hour: the state is checked once, at its start (there is nothing to relay yet), and then by ourselves.
        periodic: Any = relaymanager.RelayStateHelper(manager, 3600)
        periodic.startService()
        self.addCleanup(periodic.stopService)

        replies = await self.submit(self.listen(service.getSMTPFactory()))
        self.assertEqual([reply[:3] for reply in replies], [b"220", b"250", b"250", b"250", b"354", b"250", b"221"])
        self.assertEqual(sorted(file.name[-2:] for file in queue_directory.iterdir()), ["-D", "-H"])

        await manager.checkState()

        self.assertEqual(list(queue_directory.iterdir()), [])
        self.assertEqual(len(stored), 1)
        self.assertEqual(stored[0][-len(self.CONTENT) :], self.CONTENT)
        self.assertEqual(stored[0].count(b"Received: "), 2)

    def queueing_service(self) -> tuple[Any, Path]:
        """Return a mail service that queues what is not for itself, and the directory of its queue."""
        service = self.anonymous_service()
        directory = Path(self.mktemp())
        directory.mkdir()
        service.addDomain(b"insertion.domain", MaildirDirdbmDomain(service, os.fsencode(self.mktemp())))
        service.setQueue(relaymanager.Queue(str(directory)))
        service.domains.setDefaultDomain(relay.DomainQueuer(service))
        return service, directory

    def destination_service(self) -> tuple[Any, list[bytes]]:
        """Return a mail service that takes in mail for destination.domain, and the list it stores messages in."""
        service = self.anonymous_service()
        domain = service.domains[b"destination.domain"] = StoringDomain()
        return service, domain.stored

    def anonymous_service(self) -> Any:
        """Return a mail service that takes mail from anyone."""
        service: Any = MailService()
        service.smtpPortal.registerChecker(AllowAnonymousAccess())
        return service

    def listen(self, factory: Factory) -> int:
        """Serve on loopback until the test is over and return the port."""
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)

    async def submit(self, port: int) -> list[bytes]:
        """Say the session's lines to the server and return its replies once the connection is gone."""
        client: Any = LineSendingProtocol(list(self.SESSION))
        gone: Deferred[None] = Deferred()
        reactor.connectTCP("127.0.0.1", port, _Once(client, gone))
        await gone
        return list(client.response)


class StoringDomain:
    """A domain (IDomain, as far as a server asks) in which every user exists; it keeps what arrived whole."""

    def __init__(self) -> None:
        self.stored: list[bytes] = []

    def exists(self, user: object) -> Callable[[], "StoredMessage"]:
        """Take the user's mail."""
        return lambda: StoredMessage(self.stored)


class StoredMessage:
    """A message (IMessage) while it arrives."""

    def __init__(self, stored: list[bytes]) -> None:
        self.stored = stored
        self.lines: list[bytes] = []

    def lineReceived(self, line: bytes) -> None:
        """Add a line."""
        self.lines.append(line)

    def eomReceived(self) -> Deferred[None]:
        """Keep the message."""
        self.stored.append(b"".join(line + b"\n" for line in self.lines))
        return succeed(None)

    def connectionLost(self) -> None:
        """Forget what did not arrive whole."""


class _Once(ClientFactory):
    """Makes one connection with a given protocol and tells when it is gone."""

    def __init__(self, client: Protocol, gone: Deferred[None]) -> None:
        self.client = client
        self.gone = gone

    def buildProtocol(self, addr: object) -> Protocol:
        return self.client

    def clientConnectionLost(self, connector: object, reason: object) -> None:
        self.gone.callback(None)

    def clientConnectionFailed(self, connector: object, reason: Any) -> None:
        self.gone.errback(reason)
