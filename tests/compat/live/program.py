# SPDX-License-Identifier: MIT
"""A small Twisted mail program, for tests that kill it: takes mail into a queue directory, relays it, or both.

Run as `python -m tests.compat.live.program ORDERS` (JSON: the fields of Terms, `accepts`, `relays`). Prints one line
when it is ready: the port on which it takes mail, or 0. Ends by itself after a while, should nobody kill it.
"""

import json
import sys
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
    """Take mail for all domains into the queue; give the port object."""
    service: Any = MailService()
    service.smtpPortal.registerChecker(AllowAnonymousAccess())
    service.setQueue(queue)
    service.domains.setDefaultDomain(DomainQueuer(service))
    return reactor.listenTCP(0, getattr(service, factory)(), interface="127.0.0.1")


def main() -> None:
    """Follow the orders until killed."""
    orders = json.loads(sys.argv[1])
    log.startLogging(sys.stderr, setStdout=False)
    accepts, relays = orders.pop("accepts"), orders.pop("relays")
    terms = Terms(**orders)
    queue = Queue(terms.directory)
    port = accept(queue).getHost().port if accepts else 0
    if relays:
        reactor.installResolver(HostAddresses(resolver_of(terms)))
        RelayStateHelper(manager_of(terms, queue), CHECK_S).startService()
    reactor.callWhenRunning(print, port, flush=True)
    reactor.callLater(LIFE_S, reactor.stop)
    reactor.run()


if __name__ == "__main__":
    main()
