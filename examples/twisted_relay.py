# SPDX-License-Identifier: MIT
"""A relay of one file, as a Twisted program: python examples/twisted_relay.py DIRECTORY PORT [SMARTHOST:PORT]

Takes mail on 127.0.0.1:PORT from programs on this machine, keeps it in DIRECTORY, and relays it to the exchangers of
its recipients, or all of it to one smart host. Written for twisted.mail, moved over by changing two imports.
"""

import sys
from pathlib import Path

from twisted.internet import defer, reactor
from twisted.mail import smtp
from twisted.names.dns import Record_MX
from twisted.python import log
from zope.interface import implementer

from smarthost.compat import relay, relaymanager  # was: from twisted.mail import relay, relaymanager


class SmartHostOnly(relaymanager.MXCalculator):
    """Sends everything to one host, whatever DNS says."""

    def __init__(self, host: str) -> None:
        super().__init__(resolver=object())  # never asked
        self.host = host

    def getMX(self, domain, maximumCanonicalChainLength=3):
        return defer.succeed(Record_MX(0, self.host))


@implementer(smtp.IMessageDelivery)
class FromHere:
    """Any sender; recipients anywhere, for programs of this machine: DomainQueuer looks where they come from."""

    def __init__(self, queuer: relay.DomainQueuer) -> None:
        self.queuer = queuer

    def receivedHeader(self, helo, origin, recipients):
        return b"Received: from %s by %s; %s" % (helo[0] or b"unknown", smtp.DNSNAME, smtp.rfc822date())

    def validateFrom(self, helo, origin):
        return origin

    def validateTo(self, user):
        return self.queuer.exists(user)


class Service:
    """What DomainQueuer wants of a mail service: a queue."""

    def __init__(self, directory: str) -> None:
        self.queue = relaymanager.Queue(directory)


class Accepting(smtp.SMTPFactory):
    """Makes the server side of each connection."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self.service = service

    def buildProtocol(self, addr):
        server = smtp.ESMTP()
        server.factory = self
        server.delivery = FromHere(relay.DomainQueuer(self.service))
        return server


def main(directory: str, port: str, smart_host: str = "") -> None:
    """Accept and relay until somebody ends it."""
    log.startLogging(sys.stdout, setStdout=False)
    Path(directory).mkdir(parents=True, exist_ok=True)
    service = Service(directory)

    manager = relaymanager.SmartHostSMTPRelayingManager(service.queue, maxConnections=10, maxMessagesPerConnection=50)
    manager.fArgs += (smtp.DNSNAME,)  # our name in EHLO
    if smart_host:
        host, _, manager_port = smart_host.rpartition(":")
        manager.mxcalc = SmartHostOnly(host)
        manager.PORT = int(manager_port)
    relaymanager.RelayStateHelper(manager, 1).startService()

    listening = reactor.listenTCP(int(port), Accepting(service), interface="127.0.0.1")
    print(f"listening on 127.0.0.1:{listening.getHost().port}", flush=True)
    reactor.run()


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or not all(part.rpartition(":")[2].isdigit() for part in sys.argv[2:]):
        sys.exit(__doc__)
    main(*sys.argv[1:])
