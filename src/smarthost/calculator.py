# SPDX-License-Identifier: MIT
"""The public MX calculator: where the mail for a domain goes, and which of those hosts were found bad.

Usable alone in any asyncio program. Decides nothing itself: the planner and the machines of route/ work out the hosts,
route.health remembers the bad ones, as in the relay. One event loop, safe to cancel. It opens no file but resolv.conf,
and that only where no resolver is handed in; nothing survives a restart.
"""

import random as chance  # noqa: TID251 - SystemRandom is the real ports.Random
from math import inf
from types import TracebackType
from typing import Self

from msgspec import Struct

from smarthost.backends.clock import SystemClock
from smarthost.backends.dns import DnsResolver, SystemServers
from smarthost.mail.address import DOMAIN_OCTETS, Domain, to_domain
from smarthost.mail.errors import (
    CanonicalNameChainTooLong,
    CanonicalNameLoop,
    DomainNotFound,
    NotADomain,
    NoUsableExchanger,
    NullMX,
    RelayLoop,
    ResolutionError,
    ResolutionFailed,
)
from smarthost.mail.hop import Host
from smarthost.mail.plan import NoPlan
from smarthost.ports import Answer, Clock, Random, Resolver
from smarthost.route.health import HealthTerms, HostHealth
from smarthost.route.mx import literal_address
from smarthost.route.plan import Planner, PlanTerms
from smarthost.route.questions import FURTHER_LOOKUPS, why_no_name
from smarthost.route.source import Speaker
from smarthost.route.table import DirectMx, Families, RouteTable

BAD_HOST_S = 3600.0  # the classic hour
_SHOWN = 80  # characters of a stranger's name in an error

# By enhanced code, as route.mx gives it. Any other final code is NoUsableExchanger, any other temporary one
# ResolutionFailed: so is all that rests on stale answers, which must not be taken for the domain's word.
_ERRORS: dict[str, type[ResolutionError]] = {
    "5.1.2": DomainNotFound,
    "5.1.3": NotADomain,
    "5.1.10": NullMX,
    "5.4.6": RelayLoop,
    "4.4.0": NoUsableExchanger,  # none of the best ones has an address, and there are more
    "4.4.4": CanonicalNameChainTooLong,
    "4.4.6": CanonicalNameLoop,
}


class Exchanger(Struct, frozen=True, gc=False):
    """A host that takes mail for a domain: its name, MX preference, and addresses in the order to try them.

    `is_bad`: it was marked, and its time is not over. Then `bad_until` says when that is (wall seconds; else 0.0), and
    `why` what it was marked with.
    """

    name: str
    preference: int
    addresses: tuple[str, ...]
    is_bad: bool = False
    bad_until: float = 0.0
    why: str = ""


class MXCalculator:
    """Tells where the mail for a domain goes: `await calculator.get_mx("example.org")`.

    What DNS said is remembered for its TTL, tasks that ask for the same domain at once share the questions.
    """

    def __init__(
        self,
        *,
        resolver: Resolver | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
        bad_host_s: float = BAD_HOST_S,
        fallback_to_domain: bool = True,
        hostname: str = "",
        allow_private: bool = False,
        families: Families | str = Families.BOTH,
        further_lookups: int = FURTHER_LOOKUPS,
    ) -> None:
        """Opens nothing. `resolver`: by default one that asks the servers of resolv.conf.

        `bad_host_s`: how long a marked host is passed over. `fallback_to_domain`: a domain without MX record is its own
        exchanger (RFC 5321 5.1). `hostname`: ourselves, no exchanger to send to; "" for nobody. `allow_private`: for
        test networks. `families`: "both", "ipv4" or "ipv6". `further_lookups`: how often an alias is followed that an
        answer leaves open. Raises: ValueError: names the argument.
        """
        if not 0 < bad_host_s < inf:
            raise ValueError(f"bad_host_s must be finite and above 0, not {bad_host_s!r}")
        if not isinstance(further_lookups, int) or further_lookups < 0:
            raise ValueError(f"further_lookups must be a whole number from 0, not {further_lookups!r}")
        self._clock = clock if clock is not None else SystemClock()
        self._random = random if random is not None else chance.SystemRandom()
        self._own_resolver = _SystemResolver(self._clock)
        self._planner = Planner(
            RouteTable(DirectMx(families=_families(families))),
            resolver if resolver is not None else self._own_resolver,
            self._clock,
            self._random,
            PlanTerms(
                Speaker(_hostname(hostname)),
                allow_private=allow_private,
                further_lookups=further_lookups,
                implicit_mx=fallback_to_domain,
            ),
        )
        self._health = HostHealth(
            self._clock,
            self._random,
            HealthTerms(forget_after_s=inf),  # a mark says itself how long it holds
        )
        self._bad_host_s = bad_host_s

    async def get_mx(self, domain: str) -> Exchanger:
        """Give the first of `get_mxs`: a good host if there is any, else the bad one whose time is over first.

        Raises: as `get_mxs`.
        """
        return (await self.get_mxs(domain))[0]

    async def get_mxs(self, domain: str) -> tuple[Exchanger, ...]:
        """Give the exchangers of a domain (or address literal), at least one: good ones first, then bad ones.

        Good ones by preference, equals drawn anew each time (RFC 5321 5.1); bad ones by when their time is over. No
        more than the best 10 that have addresses. Safe to cancel.
        Raises: ResolutionError: one of its kinds, says why there is none. TypeError: `domain` is no text.
        """
        hosts = await self._find(_domain_of(domain))
        return tuple(sorted(map(self._weigh, hosts), key=_bad_until))

    def mark_bad(self, host: str | Exchanger, why: str = "") -> None:
        """Pass over a host, from now on for `bad_host_s`: an Exchanger, a host's name, or one of its addresses.

        An exchanger is bad when its name is, or each of its addresses. Raises: NotADomain: no host can be called so.
        """
        name = host.name if isinstance(host, Exchanger) else _host_key(host)
        self._health.mark("", name, self._clock.wall() + self._bad_host_s, why)

    def mark_good(self, host: str | Exchanger) -> None:
        """Take a mark back at once; of an Exchanger also those of its addresses. Harmless for a host without.

        Raises: NotADomain: no host can be called so.
        """
        names = (host.name, *host.addresses) if isinstance(host, Exchanger) else (_host_key(host),)
        for name in names:
            self._health.reset("", name)

    async def aclose(self) -> None:
        """Close the sockets of the resolver that was made here, never one that was handed in. May be used again."""
        self._own_resolver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _find(self, domain: Domain) -> tuple[Host, ...]:
        plan = await self._planner.plan(domain)
        if isinstance(plan, NoPlan):  # without its evidence: the machine runs again, on what the resolver remembers
            plan = await self._planner.plan_anew(domain)
        if isinstance(plan, NoPlan):
            raise _error_of(plan)
        return plan.hosts

    def _weigh(self, host: Host) -> Exchanger:
        """Join what DNS says of a host with what is held against its name, and against all of its addresses."""
        addresses = tuple(sorted(host.addresses, key=self._bad_until))
        key = max(host.name, addresses[0], key=self._bad_until)
        bad_until = self._bad_until(key)
        if not bad_until:
            return Exchanger(host.name, host.preference, addresses)
        why = self._health.state_of("", key).detail
        return Exchanger(host.name, host.preference, addresses, is_bad=True, bad_until=bad_until, why=why)

    def _bad_until(self, key: str) -> float:
        mark = self._health.usable("", key)
        return 0.0 if mark is None else mark.until


class _SystemResolver:
    """Implements ports.Resolver: asks the name servers of this machine, from when it is first asked."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._opened: DnsResolver | None = None

    async def ask(self, name: str, rdtype: str) -> Answer:
        """See ports.Resolver."""
        if self._opened is None:
            self._opened = DnsResolver(self._clock, SystemServers())
        return await self._opened.ask(name, rdtype)

    def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()


def _bad_until(exchanger: Exchanger) -> float:
    return exchanger.bad_until


def _error_of(plan: NoPlan) -> ResolutionError:
    kind = _ERRORS.get(plan.status, NoUsableExchanger if plan.permanent else ResolutionFailed)
    return kind(plan.why, domain=plan.destination, status=plan.status, evidence=plan.evidence)


def _domain_of(text: str) -> Domain:
    """Give the Domain that is meant. Raises: TypeError, NotADomain."""
    if not isinstance(text, str):
        raise TypeError(f"a domain is text, not {type(text).__name__}")
    shown = repr(text[:_SHOWN])
    if "@" in text:
        raise _no_domain(text, f"{shown} is an address: give what stands behind its @")
    try:
        domain = to_domain(text)
    except ValueError as error:
        raise _no_domain(text, f"{shown} is no domain name: {error}") from error
    if len(domain) > DOMAIN_OCTETS:
        raise _no_domain(text, f"{shown} is no address literal")
    return domain


def _host_key(text: str) -> str:
    """Give what a host is remembered by: its address as DNS writes it, or its name. Raises: TypeError, NotADomain."""
    domain = _domain_of(text)
    try:
        return literal_address(domain)
    except ValueError:
        return _name_of(domain)


def _name_of(text: str) -> str:
    """Give a host's name as DNS writes it. Raises: TypeError, NotADomain."""
    name = _domain_of(text)
    defect = why_no_name(name)
    if defect:
        raise _no_domain(name, f"{name[:_SHOWN]!r} is no host's name: {defect}")
    return name


def _no_domain(domain: str, detail: str) -> NotADomain:
    return NotADomain(detail, domain=domain[:_SHOWN], status="5.1.3", evidence=(detail,))


def _hostname(text: str) -> str:
    if not text:
        return ""
    try:
        return _name_of(text)
    except NotADomain as error:
        raise ValueError(f"hostname: {error}") from error


def _families(families: Families | str) -> Families:
    try:
        return Families(families)
    except ValueError:
        known = ", ".join(repr(each.value) for each in Families)
        raise ValueError(f"families must be one of {known}, not {families!r}") from None
