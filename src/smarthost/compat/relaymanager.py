# SPDX-License-Identifier: MIT
"""The names of `twisted.mail.relaymanager`: relays the messages of a queue directory to their exchangers.

The managers here choose what is sent next and to whom: at most `maxConnections` at a time, one domain and at most
`maxMessagesPerConnection` messages each, oldest first. A host that cannot be connected to is passed over in the same
attempt, and feeds the calculator. Nothing is removed here (compat.attempt does); a crash leaves all messages waiting.
"""

import random as chance
from itertools import islice
from pickle import UnpicklingError
from time import time
from typing import Any

from twisted.application.internet import TimerService
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.python import log
from twisted.python.failure import Failure

from smarthost.compat.addresses import addresses_of, read_recipient, why_not_said
from smarthost.compat.answers import host_key
from smarthost.compat.attempt import _AttemptManager
from smarthost.compat.calculator import CanonicalNameChainTooLong, CanonicalNameLoop, MXCalculator
from smarthost.compat.lookups import bounded, describe_lookup, name_of
from smarthost.compat.managed import (
    ESMTPManagedRelayer,
    ESMTPManagedRelayerFactory,
    ManagedRelayerMixin,
    SMTPManagedRelayer,
    SMTPManagedRelayerFactory,
)
from smarthost.compat.settling import Waits
from smarthost.compat.spool import Queue
from smarthost.compat.turns import Pauses, Turns
from smarthost.compat.words import shown
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
RETURNED = 20  # messages, in one checkState: each report is fsynced
_OVERDUE = Verdict(Outcome.DEFERRED, "4.4.1", "no host of its domain could be asked in all this time")
_VOLATILE = frozenset(
    {
        "managed",
        "waits",
        "reactor",
        "_attempts",
        "_domains",
        "_illegal",
        "_turns",
        "_hosts",
        "_trouble",
        "_ownCalculator",
    }
)


class SmartHostSMTPRelayingManager:
    """Relays what waits in `queue`, when `checkState` is called. `fArgs` and `fKwArgs` go to each `factory`.

    `reactor`: by default the one that runs; never pickled. `schedule`: when a message is tried again after a temporary
    failure, and when it is given up, counted from when its file was written. `firstPause`, `longestPause`: seconds for
    which a domain or host that gave no answer is left alone, doubled each time. `mxcalc`: anything with a `getMX`; one
    that was set is pickled with the rest, or pickling fails.
    """

    factory: Any = SMTPManagedRelayerFactory
    PORT = 25
    mxcalc: Any = None
    reactor: Any = None
    firstPause = 5.0
    longestPause = 600.0
    schedule = RetrySchedule(first_s=5.0, longest_s=3600.0, jitter=0.0)

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
        self._attempts: dict[Any, _AttemptManager] = {}  # by factory
        self._domains: dict[str, str] = {}  # message -> domain, of what waits
        self._illegal: dict[str, str] = {}  # message -> why no host can be asked about it, of what waits
        self._turns = Turns(self._new_pauses())  # of domains
        self._hosts = self._new_pauses()  # of those that could not be connected to, or refused us
        self._trouble = ""  # of the last poll

    def _new_pauses(self) -> Pauses:
        return Pauses(lambda: self._reactor().seconds(), lambda: (self.firstPause, self.longestPause))

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
        waiting = list(self.queue.getWaiting())
        self._forget_vanished(waiting)
        due = self.waits.due(waiting)
        self._read_domains(due)
        self._expire(due)
        most = max(1, self.maxMessagesPerConnection)
        names_of: dict[str, list[str]] = {}
        for name in due:
            domain = self._domains.get(name)
            if domain is not None and len(names := names_of.setdefault(domain, [])) < most:
                names.append(name)
        able = [domain for domain in names_of if self._turns.may_have(domain)]
        chosen = self._turns.choose(able, free, self.maxConnections)
        return {domain: names for domain in chosen if (names := self._confirm(names_of[domain], domain))}

    def _confirm(self, names: list[str], domain: str) -> list[str]:
        """Look again where these messages go: somebody may have mended an envelope while they waited."""
        for name in names:
            self._domains.pop(name, None)
            self._read_domain(name)
        return [name for name in names if self._domains.get(name) == domain]

    def _expire(self, due: list[str]) -> None:
        """Return what is so old that no attempt is worth while: mail for a dead domain seldom has its turn."""
        arrived_at = getattr(self.queue, "arrivedAt", None)
        if arrived_at is None:
            return  # a program's own queue
        for name in islice((name for name in due if name in self._domains), RETURNED):
            try:
                is_overdue = self.waits.is_overdue(arrived_at(name))
            except OSError:
                continue
            if not is_overdue:
                return  # the others came later
            self._end(name, _OVERDUE)

    def _read_domains(self, due: list[str]) -> None:
        """Find out where messages go that were not looked at yet; return those that can go nowhere.

        The newest ones too: what comes in does not wait until a backlog was read.
        """
        known = self._domains.keys() | self._illegal.keys()
        unread = [name for name in due if name not in known]
        newest = ENVELOPES_READ // 4
        if len(unread) > ENVELOPES_READ:
            unread = [*unread[: ENVELOPES_READ - newest], *unread[len(unread) - newest :]]
        for name in unread:
            self._read_domain(name)
        for name in [name for name in due if name in self._illegal][:RETURNED]:
            self._bounce(name)

    def _read_domain(self, name: str) -> None:
        """Find out to which domain a message goes, or that it can go to none, or cannot be sent or read now."""
        try:
            sender, recipient = addresses_of(self.queue.getEnvelope(name), f"{name}-H")
        except FileNotFoundError:
            return  # taken away this moment; the next look at the directory says so
        except (UnpicklingError, PermissionError) as error:
            self._set_aside(name, str(error))
            return
        except OSError as error:
            log.msg(f"the envelope of message {shown(name)} cannot be read now: {shown(str(error))}")
            self.waits.put_off(name)
            return
        address = read_recipient(recipient)
        if defect := why_not_said(sender):
            self._set_aside(name, f"its sender {shown(repr(sender))} cannot be sent: {defect}")
        elif isinstance(address, Address):
            self._domains[name] = address.domain
        elif sender and not isinstance(read_recipient(sender), Address):
            # Nobody could be told of a bounce, and it may be no mail at all.
            self._set_aside(
                name, f"neither {shown(repr(recipient))} nor {shown(repr(sender))} can be sent to: {address}"
            )
        else:
            self._illegal[name] = f"illegal message destination {shown(repr(recipient))}: {address}"

    def _set_aside(self, name: str, why: str) -> None:
        set_aside = getattr(self.queue, "setAside", None)
        if set_aside is not None:
            set_aside(name, why)
            return
        log.msg(f"message {shown(name)} cannot be used, and is left where it is: {shown(why)}")
        self.waits.put_off(name)  # a program's own queue need not know what setting aside is

    def _bounce(self, name: str) -> None:
        """Return a message that no host need be asked about."""
        why = self._illegal.pop(name)
        log.msg(f"message {shown(name)}: {shown(why)}")
        self._end(name, Verdict(Outcome.BOUNCED, "5.1.3", why))

    def _end(self, name: str, verdict: Verdict) -> None:
        """Do with a message what follows from a verdict that is ours."""
        self.queue.setRelaying(name)
        self._domains.pop(name, None)
        attempt = _AttemptManager(self, self.queue.noisy, self.reactor)
        self.managed[attempt] = [name]
        if verdict.outcome is Outcome.BOUNCED:
            attempt.giveUp(attempt, verdict)
        else:
            attempt.notifyVerdict(attempt, name, verdict)
        attempt.finish(attempt)

    def _forget_vanished(self, waiting: list[str]) -> None:
        """Keep nothing about messages that are gone: whoever took them away need not have told."""
        if len(self._domains) + len(self._illegal) > len(waiting):
            left = set(waiting)
            self._domains = {name: domain for name, domain in self._domains.items() if name in left}
            self._illegal = {name: why for name, why in self._illegal.items() if name in left}
        relayed = self.queue.getRelayed()
        if len(self.waits) > len(waiting) + len(relayed):
            self.waits.keep_only(set(waiting).union(relayed))

    # -- an attempt

    def _start(self, domain: str, names: list[str]) -> Deferred[None]:
        attempt = _AttemptManager(self, self.queue.noisy, self.reactor)
        factory = self.factory([self.queue.getPath(name) for name in names], attempt, *self.fArgs, **self.fKwArgs)
        for name in names:
            self.queue.setRelaying(name)
            self._domains.pop(name, None)
        attempt.domain = domain
        attempt.passOver = self._pass_over
        attempt.greeted = self._greeted
        self.managed[factory] = list(names)
        self._attempts[factory] = attempt
        self._turns.began(domain)
        completion = attempt.getCompletionDeferred().addCallback(self._forget_attempt, factory)
        self._connect(domain, factory)
        return completion

    def _forget_attempt(self, result: None, factory: Any) -> None:
        attempt = self._attempts.pop(factory)
        if self._turns.ended(attempt.domain, attempt.wasAnswered):
            self._release(attempt.domain)

    def _connect(self, domain: str, factory: Any) -> None:
        """Ask for the best exchanger of now, and connect to it."""
        self._look_up(domain, []).addCallbacks(
            self._cbExchange, self._ebExchange, (self.PORT, factory), {}, (factory, domain)
        )

    def _look_up(self, domain: str, tried: list[str]) -> Deferred[str]:
        """Fire with the best exchanger that was not tried, "" if there is none left."""
        asked: Deferred[Any] = maybeDeferred(self._ask, domain, tried)
        return bounded(asked, LOOKUP_S, self._reactor()).addCallback(name_of, domain)

    def _ask(self, domain: str, tried: list[str]) -> Any:
        calculator = self.mxcalc
        if calculator is None:
            calculator = self.mxcalc = self._ownCalculator = MXCalculator()
        own = all(
            getattr(getattr(calculator, name, None), "__func__", None) is getattr(MXCalculator, name)
            for name in ("getMX", "_cbMX")
        )
        if tried and own:
            return calculator.getNextMX(domain, tried)
        return calculator.getMX(domain)  # a program's own getMX may know of nobody else

    def _cbExchange(self, address: str, port: int, factory: Any) -> None:
        """Connect to an exchanger, unless it was tried in this attempt, or is "": then there is no other one."""
        if factory not in self._attempts:  # a program that began the attempt by itself
            self._reactor().connectTCP(address, port, factory)
            return
        attempt = self._attempts[factory]
        host = host_key(address)
        if not host or host in attempt.tried:
            attempt.backOff(factory)
            attempt.finish(factory)
            return
        attempt.tryHost(address)
        if left_s := self._hosts.left_s(host):
            why = f"left alone for another {left_s:.0f} s, it did not take our connections"
            attempt.skipHost(factory, why, wasAsked=False)
            attempt.notifyDone(factory)
            return
        if self.queue.noisy:
            log.msg(f"relaying {len(self.managed[factory])} messages for {attempt.domain} to {shown(address)}:{port}")
        try:
            self._reactor().connectTCP(address, port, factory)
        except Exception as error:  # noqa: BLE001 - a name that the reactor does not take must cost this host only
            attempt.skipHost(factory, shown(repr(error)))
            attempt.notifyDone(factory)

    def _ebExchange(self, failure: Failure, factory: Any, domain: str) -> None:
        """Return the messages of a domain that can have no exchanger; leave others alone for a while."""
        error = failure.value
        why = f"no exchanger of {domain}: {describe_lookup(failure)}"
        log.msg(why)
        if factory not in self._attempts:  # a program that began the attempt by itself
            attempt = _AttemptManager(self, self.queue.noisy, self.reactor)
        else:
            attempt = self._attempts[factory]
        if isinstance(error, ResolutionError) and error.is_permanent:
            attempt.giveUp(factory, Verdict(Outcome.BOUNCED, error.status, why), RETURNED)
        else:
            attempt.backOff(factory, why, error.status if isinstance(error, ResolutionError) else "4.4.3")
        attempt.finish(factory)

    def _pass_over(self, factory: Any, why: str) -> bool:
        """A host could not be connected to: note it, and say whether another one will be tried."""
        attempt = self._attempts[factory]
        domain, tried, host = attempt.domain, attempt.tried, attempt.tried[-1]
        if not self._hosts.left_s(host):  # it was asked
            log.msg(f"no session with {shown(attempt.exchange)}:{self.PORT}, for {domain}: {shown(why)}")
            if not any(each.isGreeted and each.tried[-1] == host for each in self._attempts.values()):
                # else it only has enough of us
                self._hosts.failed(host)
                self._mark("markBad", attempt.exchange)
        if len(tried) >= HOSTS_TRIED:
            return False
        found: list[str | Failure] = []
        looking = self._look_up(domain, tried).addBoth(found.append)
        if not found:
            looking.addCallback(lambda _: self._go_on(found[0], factory, domain))
            return True
        if isinstance(found[0], Failure) or not found[0] or host_key(found[0]) in tried:
            return False
        # Not at once: whoever reports this is not done with it, and a reactor may fail to connect while it is asked to.
        self._reactor().callLater(0, self._cbExchange, found[0], self.PORT, factory)
        return True

    def _go_on(self, found: str | Failure, factory: Any, domain: str) -> None:
        if isinstance(found, Failure):
            self._ebExchange(found, factory, domain)
        else:
            self._cbExchange(found, self.PORT, factory)

    def _greeted(self, factory: Any) -> None:
        if factory in self._attempts:
            attempt = self._attempts[factory]
            if self._hosts.answered(attempt.tried[-1]):
                self._release(attempt.tried[-1])
            self._mark("markGood", attempt.exchange)

    def _release(self, awaited: str) -> None:
        for domain in self.waits.release(awaited):
            self._turns.answered(domain)

    def _mark(self, verb: str, exchange: str) -> None:
        mark = getattr(self.mxcalc, verb, None)  # a program's own calculator may know nothing but getMX
        try:
            if mark is not None:
                mark(exchange)
        except Exception as error:  # noqa: BLE001 - a bug in a program's own calculator must not keep a connection's place
            log.msg(f"{verb} of {shown(exchange)} failed: {shown(repr(error))}")

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
    trouble = ""
    try:
        manager.checkState()
    except Exception as error:  # noqa: BLE001 - the edge: the next call is a second away, mail must not wait for a restart
        trouble = repr(error)
        if trouble != getattr(manager, "_trouble", ""):  # once, not each second
            log.msg(f"nothing is relayed, and the next poll tries again, because of {Failure().getTraceback()}")
    if isinstance(manager, SmartHostSMTPRelayingManager):
        manager._trouble = trouble
