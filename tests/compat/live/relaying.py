# SPDX-License-Identifier: MIT
"""A relaying manager as a Twisted program sets one up, from terms that fit in JSON; and the names it asks DNS for.

Used in the tests' own process and by the program that is killed. Its retries come after moments instead of minutes.
"""

from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IResolverSimple
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.mail import smtp
from twisted.names import dns
from twisted.names.client import Resolver
from zope.interface import implementer  # type: ignore[import-untyped]

from smarthost.compat import relaymanager
from smarthost.queue.schedule import RetrySchedule

IDENTITY = b"relay.example.org"
HOST_NAME = "mx.example.net"  # in the certificate of all hosts
LOGIN, SECRET = "relay", "open sesame"
RETRY_S = 0.05
CHECK_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What relaying depends on. `trusted`: PEM of the CA, for TLS; `secret`: for AUTH, by the mechanisms registered."""

    directory: str
    dns_at: str
    port: int
    is_esmtp: bool = False
    trusted: str = ""
    secret: str = ""
    mechanisms: tuple[str, ...] = ("PLAIN",)
    max_connections: int = 2
    max_messages: int = 10


class LoggingInRelayer(relaymanager.ESMTPManagedRelayer):
    """A relayer that can log in, as programs write it: in a subclass."""

    mechanisms: tuple[str, ...] = ("PLAIN",)

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        for mechanism in self.mechanisms:
            made = {"PLAIN": smtp.PLAINAuthenticator, "LOGIN": smtp.LOGINAuthenticator}[mechanism]
            self.registerAuthenticator(made(LOGIN.encode()))


def manager_of(terms: Terms, queue: Any) -> Any:
    """Set up a manager for these terms."""
    manager: Any
    if terms.is_esmtp:
        relayer = type("Relayer", (LoggingInRelayer,), {"mechanisms": terms.mechanisms})
        factory: Any = type("Factory", (relaymanager.ESMTPManagedRelayerFactory,), {})
        factory.protocol = relayer
        manager = relaymanager.SmartHostESMTPRelayingManager(queue, terms.max_connections, terms.max_messages)
        manager.factory = factory
        manager.fArgs = (terms.secret.encode() or None, context_of(terms.trusted), IDENTITY)
    else:
        manager = relaymanager.SmartHostSMTPRelayingManager(queue, terms.max_connections, terms.max_messages)
        manager.fArgs = (IDENTITY,)
    manager.PORT = terms.port
    manager.mxcalc = relaymanager.MXCalculator(resolver_of(terms))
    manager.schedule = RetrySchedule(first_s=RETRY_S, longest_s=RETRY_S, jitter=0.0)
    manager.firstPause = manager.longestPause = RETRY_S
    return manager


def context_of(trusted: str) -> Any:
    """Give a contextFactory that verifies a host's certificate, or None if nobody is trusted: there is no TLS then."""
    if not trusted:
        return None
    roots = trustRootFromCertificates([Certificate.loadPEM(trusted.encode())])
    return optionsForClientTLS(HOST_NAME, trustRoot=roots)


def resolver_of(terms: Terms) -> Resolver:
    """Give a resolver that asks the test's DNS server, over UDP."""
    host, _, port = terms.dns_at.rpartition(":")
    return Resolver(servers=[(host, int(port))])


@implementer(IResolverSimple)
class HostAddresses:
    """For `reactor.installResolver`: the addresses of hosts come from the test's DNS server as well."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    def getHostByName(self, name: str, timeout: Any = ()) -> "Deferred[str]":
        """See IResolverSimple."""
        looking: Deferred[Any] = self._resolver.lookupAddress(name)
        return looking.addCallback(lambda sections: _first_address(sections[0]))


def _first_address(answers: Any) -> str:
    return next(str(each.payload.dottedQuad()) for each in answers if each.type == dns.A)
