# SPDX-License-Identifier: MIT
"""A small Twisted mail program, for tests that kill it: takes mail into a queue directory, relays it, or both.

`run` is the whole life of a child process. It ends by itself after a while, should nobody kill it.
"""

from multiprocessing.connection import Connection
from typing import Any

from tests.compat.live.relaying import CHECK_S, HostAddresses, Terms, manager_of, resolver_of
from twisted.cred.checkers import AllowAnonymousAccess
from twisted.internet import reactor as _reactor
from twisted.mail.mail import MailService
from twisted.python import log

from smarthost.compat.relay import DomainQueuer
from smarthost.compat.relaymanager import Queue, RelayStateHelper

LIFE_S = 120.0
reactor: Any = _reactor  # a module to a type checker


def accept(queue: Queue, factory: str = "getESMTPFactory") -> Any:
    """Take mail for all domains into the queue, with Twisted's own mail service; give the port object."""
    service: Any = MailService()
    service.smtpPortal.registerChecker(AllowAnonymousAccess())
    service.setQueue(queue)
    service.domains.setDefaultDomain(DomainQueuer(service))
    return reactor.listenTCP(0, getattr(service, factory)(), interface="127.0.0.1")


def run(terms: Terms, said: str, accepts: bool, relays: bool, ready: Connection) -> None:
    """Live until killed. Sends the port on which it takes mail, or 0, when it is ready; logs to the file `said`."""
    with open(said, "a") as file:  # noqa: PTH123
        log.startLogging(file)
        queue = Queue(terms.directory)
        port = accept(queue).getHost().port if accepts else 0
        if relays:
            reactor.installResolver(HostAddresses(resolver_of(terms)))
            RelayStateHelper(manager_of(terms, queue), CHECK_S).startService()
        reactor.callWhenRunning(ready.send, port)
        reactor.callLater(LIFE_S, reactor.stop)
        reactor.run()
