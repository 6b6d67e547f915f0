# SPDX-License-Identifier: MIT
"""The names of `twisted.mail.relaymanager`: relays the messages of a queue directory to their exchangers.

The managers here choose what is sent next and to whom: at most `maxConnections` at a time, one domain and at most
`maxMessagesPerConnection` messages each, oldest first. A host that cannot be connected to is passed over in the same
attempt, and feeds the calculator. Nothing is removed here (compat.attempt does); a crash leaves all messages waiting.
"""

import random as chance
from pickle import UnpicklingError
from time import time
from typing import Any

from twisted.application.internet import TimerService
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.python import log
from twisted.python.failure import Failure

from smarthost.compat.addresses import read_addresses, read_recipient, why_no_sender
from smarthost.compat.attempt import _AttemptManager
from smarthost.compat.calculator import CanonicalNameChainTooLong, CanonicalNameLoop, MXCalculator
from smarthost.compat.managed import (
    ESMTPManagedRelayer,
    ESMTPManagedRelayerFactory,
    ManagedRelayerMixin,
    SMTPManagedRelayer,
    SMTPManagedRelayerFactory,
)
from smarthost.compat.settling import Waits
from smarthost.compat.spool import Queue
from smarthost.mail.address import Address
from smarthost.mail.errors import ResolutionError
from smarthost.mail.result import Outcome, Verdict
from smarthost.queue.schedule import RetrySchedule

__all__ = [
    "CanonicalNameChainTooLong",
    "CanonicalNameLoop",
    "ESMTPManagedRelayer",
    "ESMTPManagedRelayerFactory",
    "MXCalculator",
    "ManagedRelayerMixin",
    "Queue",
    "RelayStateHelper",
    "SMTPManagedRelayer",
    "SMTPManagedRelayerFactory",
    "SmartHostESMTPRelayingManager",
    "SmartHostSMTPRelayingManager",
    "_AttemptManager",
    "_checkState",
]

LOOKUP_S = 120.0  # a resolver's own time limit is a minute; one that never answers must not keep a connection's place
HOSTS_TRIED = 5  # in one attempt, as in the relay
ENVELOPES_READ = 500  # in one checkState: 100,000 at once would hold the reactor up for seconds
SUSPECTS = 10_000  # domains; without a bound a crowd of dead ones would stay for ever
_VOLATILE = ("managed", "waits", "_attempts", "_domains", "_tried", "_suspects", "_ownCalculator")


class SmartHostSMTPRelayingManager:
    """Relays what waits in `queue`, when `checkState` is called. `fArgs` and `fKwArgs` go to each `factory`.

    `reactor`: by default the one that runs. `schedule`: when a message is tried again after a temporary failure, and
    when it is given up, counted from when its file was written.
    """

    factory: Any = SMTPManagedRelayerFactory
    PORT = 25
    mxcalc: Any = None
    reactor: Any = None
    schedule = RetrySchedule(first_s=30.0, longest_s=3600.0, jitter=0.0)

    def __init__(self, queue: Any, maxConnections: int = 2, maxMessagesPerConnection: int = 10) -> None:
        self.queue = queue
        self.maxConnections = maxConnections
        self.maxMessagesPerConnection = maxMessagesPerConnection
        self.fArgs: tuple[Any, ...] = ()
        self.fKwArgs: dict[str, Any] = {}
        self._init()

    def _init(self) -> None:
        self.managed: dict[Any, list[str]] = {}  # factory -> names of its messages
        self.waits = Waits(lambda: self.schedule, lambda: self._reactor().seconds(), time, chance.SystemRandom())
        self._attempts: dict[Any, tuple[_AttemptManager, str]] = {}  # factory -> its attempt, its domain
        self._tried: dict[Any, set[str]] = {}  # factory -> hosts
        self._domains: dict[str, str] = {}  # message -> domain, of what waits
        self._suspects: set[str] = set()  # domains of which no host could be connected to: one attempt at a time

    def __getstate__(self) -> dict[str, Any]:
        state = {key: value for key, value in self.__dict__.items() if key not in _VOLATILE}
        if state.get("mxcalc") is self.__dict__.get("_ownCalculator"):
            state.pop("mxcalc", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._init()

    def checkState(self) -> Deferred[Any] | None:
        """Start relaying what waits, as far as connections are free.

        None if all are in use or nothing is due; else a Deferred that fires when all connections begun now are gone.
        """
        self.queue.readDirectory()
        if len(self.managed) >= self.maxConnections or not self.queue.hasWaiting():
            return None
        return self._checkStateMX()

    def _checkStateMX(self) -> Deferred[Any] | None:
        chosen = self._choose(self.maxConnections - len(self.managed))
        attempts = [self._start(domain, names) for domain, names in chosen.items()]
        return DeferredList(attempts) if attempts else None

    # -- which messages

    def _choose(self, free: int) -> dict[str, list[str]]:
        """Give at most `free` domains with at most `maxMessagesPerConnection` messages each, oldest first."""
        chosen: dict[str, list[str]] = {}
        waiting = self.queue.getWaiting()
        self._forget_vanished(waiting)
        busy = self._suspects.intersection(domain for _, domain in self._attempts.values())
        unread = ENVELOPES_READ
        full = 0
        for name in waiting:
            if full == free or not (unread or name in self._domains):
                break
            if not self.waits.is_due(name):
                continue
            unread -= name not in self._domains
            domain = self._domain_of(name)
            if domain is None or domain in busy or (domain not in chosen and len(chosen) == free):
                continue
            names = chosen.setdefault(domain, [])
            if len(names) < self.maxMessagesPerConnection:
                names.append(name)
                full += len(names) == self.maxMessagesPerConnection
        return chosen

    def _domain_of(self, name: str) -> str | None:
        """Give a message's domain; None: it has none, and was dealt with."""
        domain = self._domains.get(name)
        if domain is not None:
            return domain
        try:
            with self.queue.getEnvelopeFile(name) as file:
                sender, recipient = read_addresses(file, f"{name}-H")
        except (OSError, UnpicklingError) as error:
            self.queue.setAside(name, str(error))
            return None
        address = read_recipient(recipient)
        if isinstance(address, Address) and (defect := why_no_sender(sender)):
            self.queue.setAside(name, f"its sender {sender[:200]!r} cannot be sent: {defect}")
            return None
        if isinstance(address, str):
            self._bounce(name, f"illegal message destination {recipient[:200]!r}: {address}")
            return None
        self._domains[name] = address.domain
        return address.domain

    def _bounce(self, name: str, why: str) -> None:
        """Return a message that no host need be asked about."""
        log.msg(f"message {name}: {why}")
        self.queue.setRelaying(name)
        attempt = _AttemptManager(self, self.queue.noisy, self.reactor)
        self.managed[attempt] = [name]
        attempt.giveUp(attempt, Verdict(Outcome.BOUNCED, "5.1.3", why))
        attempt.finish(attempt)

    def _forget_vanished(self, waiting: list[str]) -> None:
        if len(self._domains) > len(waiting):
            left = set(waiting)
            self._domains = {name: domain for name, domain in self._domains.items() if name in left}
            self.waits.keep_only(left.union(self.queue.getRelayed()))

    # -- an attempt

    def _start(self, domain: str, names: list[str]) -> Deferred[None]:
        attempt = _AttemptManager(self, self.queue.noisy, self.reactor)
        factory = self.factory([self.queue.getPath(name) for name in names], attempt, *self.fArgs, **self.fKwArgs)
        for name in names:
            self.queue.setRelaying(name)
            self._domains.pop(name, None)
        attempt.passOver = self._pass_over
        attempt.greeted = self._greeted
        self.managed[factory] = list(names)
        self._attempts[factory] = (attempt, domain)
        self._tried[factory] = set()
        completion = attempt.getCompletionDeferred().addCallback(self._forget_attempt, factory)
        self._connect(domain, factory)
        return completion

    def _forget_attempt(self, result: None, factory: Any) -> None:
        del self._attempts[factory]
        del self._tried[factory]

    def _connect(self, domain: str, factory: Any) -> None:
        """Ask for the best exchanger of now, and connect to it."""
        if self.mxcalc is None:
            self.mxcalc = self._ownCalculator = MXCalculator()
        looking = maybeDeferred(self.mxcalc.getMX, domain)
        looking.addTimeout(LOOKUP_S, self._reactor())
        looking.addCallback(lambda mx: str(mx.name))
        looking.addCallback(self._cbExchange, self.PORT, factory)
        looking.addErrback(self._ebExchange, factory, domain)

    def _cbExchange(self, address: str, port: int, factory: Any) -> None:
        """Connect to an exchanger, unless it was tried in this attempt: then there is no other one."""
        attempt, _ = self._attempts[factory]
        tried = self._tried[factory]
        if address.lower() in tried:
            attempt.backOff(factory, getattr(factory, "whyNotConnected", ""))
            attempt.finish(factory)
            return
        tried.add(address.lower())
        attempt.exchange = address
        self._reactor().connectTCP(address, port, factory)

    def _ebExchange(self, failure: Failure, factory: Any, domain: str) -> None:
        """Return the messages of a domain that can have no exchanger; leave others alone for a while."""
        error = failure.value
        why = f"no exchanger of {domain}: {type(error).__name__}: {error}"
        log.msg(why)
        attempt, _ = self._attempts[factory]
        if isinstance(error, ResolutionError) and error.is_permanent:
            attempt.giveUp(factory, Verdict(Outcome.BOUNCED, error.status, why))
        else:
            attempt.backOff(factory, why)
        attempt.finish(factory)

    def _pass_over(self, factory: Any) -> bool:
        """A host could not be connected to: note it, and say whether another one is tried."""
        attempt, domain = self._attempts[factory]
        log.msg(
            f"{attempt.exchange}:{self.PORT} not connected, for {domain}: {getattr(factory, 'whyNotConnected', '')}"
        )
        if len(self._suspects) >= SUSPECTS:
            self._suspects.clear()
        self._suspects.add(domain)
        self._mark("markBad", attempt.exchange)
        if len(self._tried[factory]) >= HOSTS_TRIED:
            return False
        self._connect(domain, factory)
        return True

    def _greeted(self, factory: Any) -> None:
        attempt, domain = self._attempts[factory]
        self._suspects.discard(domain)
        self._mark("markGood", attempt.exchange)

    def _mark(self, verb: str, exchange: str) -> None:
        mark = getattr(self.mxcalc, verb, None)  # a program's own calculator may know nothing but getMX
        if mark is not None:
            mark(exchange)

    def _reactor(self) -> Any:
        if self.reactor is not None:
            return self.reactor
        from twisted.internet import reactor

        return reactor


class SmartHostESMTPRelayingManager(SmartHostSMTPRelayingManager):
    """The same with ESMTP: `fArgs` begins with the secret and the contextFactory, each of them or None."""

    factory = ESMTPManagedRelayerFactory


def RelayStateHelper(manager: SmartHostSMTPRelayingManager, delay: float) -> TimerService:
    """Give a service that calls `manager.checkState` at once when it starts, and then every `delay` seconds."""
    return TimerService(delay, _checkState, manager)


def _checkState(manager: SmartHostSMTPRelayingManager) -> None:
    """Prompt a manager; what goes wrong is logged, because an error would end the TimerService for ever."""
    try:
        manager.checkState()
    except Exception as error:  # noqa: BLE001 - the edge: the next call is a second away, and mail must not wait for a restart
        log.msg(f"relaying goes on after an error: {error!r}")
