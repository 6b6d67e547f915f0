# SPDX-License-Identifier: MIT
"""MXCalculator: whom the mail for a domain goes to, under the names, signatures and errors it has in Twisted.

Drives the machine of route.mx with Deferreds and keeps marks in route.health, as the relay does; of its own it decides
only what they leave open: that a domain without MX record stands for its address, and which bad host is passed over.
Never asks for the addresses of exchangers: who connects does. Used by relaymanager, and alone by Twisted programs.
Nothing survives a restart but what is pickled.
"""

import random as chance
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, MutableMapping, Sequence
from functools import cached_property, partial
from ipaddress import ip_address
from math import inf
from typing import Any, ClassVar, cast

from twisted.internet.defer import Deferred, fail, inlineCallbacks, maybeDeferred, succeed
from twisted.internet.error import DNSLookupError
from twisted.names import dns
from twisted.names.error import DNSNameError, DNSNotImplementedError, DNSQueryRefusedError
from twisted.python.failure import Failure

from smarthost.compat.answers import Chain, Dialogue, host_key
from smarthost.mail import errors
from smarthost.mail.address import to_domain
from smarthost.ports import Random
from smarthost.route.health import HealthTerms, HostHealth
from smarthost.route.mx import Unroutable, literal_address
from smarthost.route.questions import why_no_name

_SHOWN = 80  # characters of a stranger's name in an error
_MADE = frozenset({"random", "_health", "_bad", "_defaults"})  # in no pickle
_Choose = Callable[[Sequence[Any]], Any]  # of usable exchangers, best first, the one to be given

_SOURCE = ""  # of route.health's keys: a mark counts for whoever connects

# By type, what the resolver calls the question. Asked when getHostByName found nothing: it asks for ANY, to which many
# servers say HINFO and nothing else (RFC 8482), or that they do not answer it.
_ADDRESSES = ((dns.A, "lookupAddress"), (dns.AAAA, "lookupIPV6Address"))
_NO_WORD_ON_ANY = (DNSNotImplementedError, DNSQueryRefusedError)


class _AliasTrouble(errors.ResolutionError):
    """Carries the Record_CNAME at which it was given up as `args[0]`, as in Twisted; the text is our own."""

    code: ClassVar[str]

    def __init__(self, *args: object, detail: str = "", domain: str = "", evidence: tuple[str, ...] = ()) -> None:
        super().__init__(detail, domain=domain, status=self.code, evidence=evidence)
        self.args = args
        self._detail = detail

    def __str__(self) -> str:
        return self._detail or type(self).__name__  # not the record's own: str of a stranger's name may raise


class CanonicalNameLoop(_AliasTrouble, errors.CanonicalNameLoop):
    """The aliases of a domain come back to a name they have passed; `args[0]` is the CNAME record that does."""

    code = "4.4.6"


class CanonicalNameChainTooLong(_AliasTrouble, errors.CanonicalNameChainTooLong):
    """Its aliases need more further lookups than allowed; `args[0]` is the CNAME record that was not followed."""

    code = "4.4.4"


class NotADomain(errors.NotADomain, DNSLookupError):
    """What was asked for is no domain name, and no address literal in brackets."""


class DomainNotFound(errors.DomainNotFound, DNSLookupError):
    """The domain does not exist."""


class NoExchanger(errors.NoUsableExchanger, DNSLookupError):
    """The domain exists, and has no exchanger that can be asked for: no MX record of use, or none and no address."""


class NoMXRecord(errors.NoUsableExchanger, OSError):
    """The domain has no MX record, and nothing else counts: `fallbackToDomain` is False."""


class _NothingListed(DNSNameError):
    """What `_cbMX` ends in where the answer has no MX record. To `_ebMX` it says: but the domain exists."""


class MXCalculator:
    """Tells whom the mail for a domain goes to, and remembers which of those hosts were found bad.

    `timeOutBadMX`: seconds for which a marked host is passed over. `fallbackToDomain`: a domain without MX record
    stands for its own address. `random`: draws among equals. All attributes may be set at any time.
    """

    timeOutBadMX: float = 60 * 60
    fallbackToDomain: bool = True

    def __init__(self, resolver: Any = None, clock: Any = None) -> None:
        """Opens nothing. `resolver`: an IResolver; `clock`: an IReactorTime. By default Twisted's, when first used."""
        self._init({"resolver": resolver, "clock": clock})

    def _init(self, given: Mapping[str, Any]) -> None:
        self._defaults: dict[str, Any] = {}  # made because nobody gave one
        self.random: Random = chance.SystemRandom()
        self.__dict__.update((name, value) for name, value in given.items() if value is not None)
        self._health = HostHealth(_Seconds(self), self.random, HealthTerms(jitter=0.0, forget_after_s=inf))
        self._bad = BadHosts(self._health)

    def __getstate__(self) -> dict[str, Any]:
        # A default clock is made for marks at the latest; one that nobody needed yet is not made for this.
        marks = self._bad.copy() if "clock" in self.__dict__ else {}
        given = {
            name: value
            for name, value in self.__dict__.items()
            if name not in _MADE and not (name in self._defaults and value is self._defaults[name])
        }
        return {"badMXs": marks, **given}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._init({name: value for name, value in state.items() if name != "badMXs"})
        self._bad.update(state.get("badMXs", {}))

    @cached_property
    def resolver(self) -> Any:
        """Whom is asked: an IResolver."""
        from twisted.names.client import createResolver

        return self._defaults.setdefault("resolver", createResolver())

    @cached_property
    def clock(self) -> Any:
        """By whose seconds a host's time passes: an IReactorTime."""
        from twisted.internet import reactor  # the one that is installed when it is needed

        return self._defaults.setdefault("clock", reactor)

    @property
    def badMXs(self) -> "BadHosts":
        """The marked hosts, and when the time of each is over: to be read and edited like a dict.

        One whose time is over stays until `getMX` meets it. What is assigned is copied.
        """
        return self._bad

    @badMXs.setter
    def badMXs(self, marks: Mapping[Any, float]) -> None:
        copied = dict(marks)
        self._bad.clear()
        self._bad.update(copied)

    def markBad(self, mx: Any) -> None:
        """Pass over a host from now on for `timeOutBadMX`: its name, as bytes or str, or the record that names it."""
        self._bad[mx] = self.clock.seconds() + self.timeOutBadMX

    def markGood(self, mx: Any) -> None:
        """Take a mark back. Harmless for a host without."""
        self._bad.pop(mx, None)

    def getMX(self, domain: Any, maximumCanonicalChainLength: int = 3) -> "Deferred[Any]":
        """Fire with the Record_MX of the best host that is not bad; where all are, of the best.

        `domain`: bytes or str, also an address literal. `maximumCanonicalChainLength`: how many further lookups may
        follow aliases that an answer leaves open. Never raises; fails with a smarthost.mail.errors.ResolutionError,
        which most often is a DNSLookupError too (IOError without `fallbackToDomain`), or with what the resolver says.
        """
        return self._find(domain, maximumCanonicalChainLength, self._cbMX)

    def getNextMX(self, domain: Any, tried: Collection[Any], maximumCanonicalChainLength: int = 3) -> "Deferred[Any]":
        """Fire with the Record_MX of the best host that is not in `tried`; None if there is none left.

        Good ones first, by preference, then bad ones, the one whose time is over first. `tried`: names as `markBad`
        takes them. A domain that stands for its own address has one host. Otherwise as `getMX`, errors included.
        """
        try:
            passed = frozenset(host_key(host) for host in tried)
        except TypeError as error:
            return fail(error)
        judge = partial(self._judge, choose=lambda usable: self._next(usable, passed))
        found = self._find(domain, maximumCanonicalChainLength, judge)
        return found.addCallback(lambda mx: None if mx is None or host_key(mx) in passed else mx)  # of an address, too

    def _best(self, usable: Sequence[Any]) -> Any:
        return next((payload for payload in usable if not self._isBad(host_key(payload))), usable[0])

    def _next(self, usable: Sequence[Any], passed: Collection[str]) -> Any:
        left = [payload for payload in usable if host_key(payload) not in passed]
        for payload in left:
            if not self._isBad(host_key(payload)):
                return payload
        return min(left, key=self._bad.__getitem__, default=None)

    def _find(self, domain: Any, further_lookups: int, judge: Callable[..., Any]) -> "Deferred[Any]":
        try:
            name = _asked_for(domain)
            if name.startswith("["):
                return succeed(dns.Record_MX(name=literal_address(name)))
        except ValueError as error:
            return fail(_no_domain(domain, error))
        found = self._lookUp(name)
        found.addCallback(judge, name, further_lookups)
        return found.addErrback(self._ebMX, name)

    def _lookUp(self, name: str) -> "Deferred[Any]":
        return maybeDeferred(lambda: self.resolver.lookupMailExchange(name)).addCallback(self._filterRecords)

    def _filterRecords(self, records: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
        """Give the payloads of the answer section by name, of a resolver's three sections."""
        found: dict[str, list[Any]] = {}
        for record in records[0]:
            found.setdefault(host_key(record.name), []).append(record.payload)
        return found

    def _cbMX(self, answers: Mapping[str, Sequence[Any]], domain: Any, cnamesLeft: int) -> Any:
        """Give the Record_MX for a domain by what was answered, a Failure, or a Deferred while more must be asked."""
        return self._judge(answers, domain, cnamesLeft, self._best)

    def _judge(self, answers: Mapping[str, Sequence[Any]], domain: Any, cnamesLeft: int, choose: _Choose) -> Any:
        dialogue = Dialogue(host_key(domain), self.random, cnamesLeft)
        dialogue.take(answers)
        return self._conclude(dialogue, choose) if dialogue.found is not None else self._askOn(dialogue, choose)

    @inlineCallbacks
    def _askOn(self, dialogue: "Dialogue", choose: _Choose) -> "Generator[Deferred[Any], Any, Any]":
        """Follow open aliases. What fails on the way falls back, for the name that was asked about."""
        while True:
            name = dialogue.asked
            answers = yield self._lookUp(name).addErrback(self._ebMX, name)
            if isinstance(answers, dns.Record_MX):
                return answers
            dialogue.take(answers)
            if dialogue.found is not None:
                return (yield maybeDeferred(self._conclude, dialogue, choose).addErrback(self._ebMX, name))

    def _conclude(self, dialogue: "Dialogue", choose: _Choose) -> Any:
        found = dialogue.found
        if isinstance(found, Unroutable):
            return Failure(_error_of(found, dialogue))
        assert found is not None, "a dialogue is concluded when its machine has ended"
        if not found.records:
            return Failure(_NothingListed(f"{found.canonical} has no MX record"))
        payloads = [dialogue.payloads[record] for record in found.records]
        usable = [payload for payload in payloads if payload.name.name.isascii()]
        if not usable:
            detail = f"no exchanger of {found.canonical} has a name a host can have"
            return Failure(NoExchanger(detail, domain=found.canonical, status="5.4.4", evidence=dialogue.evidence))
        return choose(usable)

    def _isBad(self, host: str) -> bool:
        """Tell whether a host is to be passed over; the mark of one whose time is over is deleted."""
        until = self._health.pause_end(_SOURCE, host)
        if until is not None and self.clock.seconds() >= until:
            self._health.reset(_SOURCE, host)
            return False
        return until is not None

    def _ebMX(self, failure: Failure, domain: Any) -> Any:
        """Fall back to the domain's own address where there is no MX record; any other trouble is handed on.

        Raises: NoMXRecord: without `fallbackToDomain`.
        """
        if failure.check(DNSNameError) is None:
            return failure
        name = host_key(domain)
        exists = failure.check(_NothingListed) is not None
        if not self.fallbackToDomain:
            detail = f"{name} has no MX record, and its own address does not count here" if exists else _missing(name)
            raise NoMXRecord(detail, domain=name, status="5.4.4" if exists else "5.1.2", evidence=(detail,))
        return self._findAddress(name).addCallback(self._cbAddress, name, exists)

    def _findAddress(self, name: str) -> "Deferred[Any]":
        """Fire with an address, or with what is false where there is none."""
        found = maybeDeferred(lambda: self.resolver.getHostByName(name))
        found.addErrback(self._ebHostByName)
        for rdtype, lookup in _ADDRESSES:
            found.addCallback(self._askAddress, name, rdtype, lookup)
        return found

    def _ebHostByName(self, failure: Failure) -> str | Failure:
        if failure.check(*_NO_WORD_ON_ANY) and all(hasattr(self.resolver, lookup) for _, lookup in _ADDRESSES):
            return ""
        return _nothing(failure)

    def _askAddress(self, found: Any, name: str, rdtype: int, lookup: str) -> Any:
        ask = getattr(self.resolver, lookup, None)
        if found or ask is None:
            return found
        answers = maybeDeferred(ask, name).addCallback(self._filterRecords)
        return answers.addCallback(_address_in, name, rdtype).addErrback(_nothing)

    def _cbAddress(self, address: Any, name: str, exists: bool) -> Any:
        if address:
            return dns.Record_MX(name=address)
        if exists:
            detail = f"{name} has no MX record and no address"
            return Failure(NoExchanger(detail, domain=name, status="5.4.4", evidence=(detail,)))
        return Failure(DomainNotFound(_missing(name), domain=name, status="5.1.2", evidence=(_missing(name),)))


class BadHosts(MutableMapping[Any, float]):
    """The hosts a HostHealth holds open, as a dict: lower-case names to the seconds at which their time is over.

    Keys may be written as people write them, and given as records. Edits take effect at once. In no order; of more than
    100,000 those that were marked first are dropped.
    """

    def __init__(self, health: HostHealth) -> None:
        self._health = health

    def __getitem__(self, host: Any) -> float:
        try:
            until = self._health.pause_end(_SOURCE, host_key(host))
        except TypeError:  # a dict knows nothing of it either
            until = None
        if until is None:
            raise KeyError(host)
        return until

    def __setitem__(self, host: Any, until: float) -> None:
        self._health.mark(_SOURCE, host_key(host), until)

    def __delitem__(self, host: Any) -> None:
        if host not in self:
            raise KeyError(host)
        self._health.reset(_SOURCE, host_key(host))

    def __iter__(self) -> Iterator[str]:
        return iter([state.address for state in self._health.states()])  # a copy: who iterates may edit

    def __len__(self) -> int:
        return sum(1 for _ in self._health.states())

    def __repr__(self) -> str:
        return repr(dict(self))

    def __or__(self, other: Mapping[Any, float]) -> dict[Any, float]:
        return dict(self) | dict(other)

    def __ror__(self, other: Mapping[Any, float]) -> dict[Any, float]:
        return dict(other) | dict(self)

    def copy(self) -> dict[str, float]:
        """Give a plain dict of what is marked now."""
        return dict(self)


class _Seconds:
    """Implements route.health.WallClock by whatever clock the calculator has at the moment."""

    def __init__(self, calculator: MXCalculator) -> None:
        self._calculator = calculator

    def wall(self) -> float:
        return cast("float", self._calculator.clock.seconds())


def _asked_for(domain: Any) -> str:
    """Give the name DNS is to be asked for, or a literal. Raises: ValueError: it is neither."""
    if isinstance(domain, bytes):
        domain = domain.decode("utf-8")
    if not isinstance(domain, str):
        raise ValueError(f"it is no text, but {type(domain).__name__}")
    name = to_domain(domain)
    defect = ("" if name.endswith("]") else "a literal ends in ]") if name.startswith("[") else why_no_name(name)
    if defect:
        raise ValueError(defect)
    return name


def _error_of(found: Unroutable, dialogue: Dialogue) -> errors.ResolutionError:
    """Give the error for what the machine ended in."""
    for kind in (CanonicalNameLoop, CanonicalNameChainTooLong):
        if kind.code == found.status:
            return kind(dialogue.last_alias, detail=found.why, domain=dialogue.name, evidence=found.evidence)
    plain = errors.NullMX if found.status == "5.1.10" else errors.ResolutionFailed
    return plain(found.why, domain=dialogue.name, status=found.status, evidence=found.evidence)


def _no_domain(domain: object, error: ValueError) -> NotADomain:
    shown = repr(domain[:_SHOWN] if isinstance(domain, str | bytes) else type(domain).__name__)
    detail = f"{shown} is no domain name: {error}"
    return NotADomain(detail, domain=shown, status="5.1.3", evidence=(detail,))


def _address_in(answers: Mapping[str, Sequence[Any]], name: str, rdtype: int) -> str:
    payloads = Chain(answers, name, rdtype).payloads
    return str(ip_address(payloads[0].address)) if payloads else ""


def _nothing(failure: Failure) -> str | Failure:
    """Take it for an answer that there is no address."""
    return failure if failure.check(DNSNameError, DNSLookupError) is None else ""


def _missing(name: str) -> str:
    return f"the domain {name} does not exist"
