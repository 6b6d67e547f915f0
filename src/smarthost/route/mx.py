# SPDX-License-Identifier: MIT
"""The MX machine: from a recipient domain to its hosts in order of preference, or a verdict why there are none.

RFC 5321 5.1, RFC 7505, RFC 2181 10.3. A generator that yields questions and takes answers (route.questions); it asks
nobody itself and keeps nothing. Only hosts with an address mail may go to are in its result, none of them ourselves.
"Cannot tell" (SERVFAIL, timeout, alias loops) is temporary, whatever else was found, unless some host is usable.
A stale answer (past its TTL, since DNS is silent: RFC 8767), or one of which only a part was read, is good enough to
deliver by, never to bounce by.
Of its own 4.4.6 is a loop of aliases, 4.4.4 too long a chain, and nothing else is: they become final at expiry.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from itertools import zip_longest
from typing import TypeVar

from msgspec import Struct

from smarthost.mail.hop import Host
from smarthost.ports import Answer, AnswerStatus, MxRecord, Random
from smarthost.route.forbidden import why_forbidden
from smarthost.route.questions import FURTHER_LOOKUPS, Asking, Evidence, Question, ask, is_failure, is_loop, why_no_name
from smarthost.route.table import Families

HOSTS_USED = 10  # an attempt dials at most 5 addresses; RFC 5321 5.1 asks for at least two
ADDRESSES_USED = 20
EXCHANGERS_ASKED = 30  # three rounds: hosts whose names are dead do not hide the ones behind them
_NO_CEILING = 1 << 16  # preferences have 16 bits
_LOCALHOST = "it is every machine's own name (RFC 6761 6.3)"  # .local is asked: many sites have it in their own DNS
_ADDRESS = {Families.BOTH: "address", Families.IPV4: "IPv4 address", Families.IPV6: "IPv6 address"}

_T = TypeVar("_T")


class Ourselves(Struct, frozen=True, gc=False):
    """How we recognise ourselves: by name (nobody by the name ""), or by an address and port we listen on.

    For a listener on all addresses give ("0.0.0.0", port) or ("::", port), which stands for loopback, and each address
    of the machine.
    """

    hostname: str
    listening: frozenset[tuple[str, int]] = frozenset()

    def is_called(self, name: str) -> bool:
        """Tell whether this name in an answer is ours; where it has none, it is nobody's."""
        return name == self.hostname != ""

    def includes(self, address: str, port: int) -> bool:
        """Tell whether a connection to this address and port would come back to us."""
        if ":" in address:
            address = _without_mapping(address)
        if (address, port) in self.listening:
            return True
        if address.startswith("127.") or address == "::1":
            return ("0.0.0.0", port) in self.listening or ("::", port) in self.listening  # noqa: S104
        return False


class MxTerms(Struct, frozen=True, gc=False):
    """What the machine must know besides DNS. `implicit_mx`: a domain without MX record is its own exchanger."""

    ourselves: Ourselves
    port: int = 25
    allow_private: bool = False
    families: Families = Families.BOTH
    further_lookups: int = FURTHER_LOOKUPS
    implicit_mx: bool = True


class Exchangers(Struct, frozen=True, gc=False):
    """Usable hosts, best first, equals in any order (route.site draws it). `ttl_s`: how long DNS lets this stand."""

    hosts: tuple[Host, ...]
    ttl_s: int
    evidence: tuple[str, ...]
    is_partial: bool = False  # some exchanger's answer is missing, or a part of one: ask again soon
    caveat: str = ""  # rests on stale answers: why, in one line


class Unroutable(Struct, frozen=True, gc=False):
    """No usable host: an enhanced status code (5.x.x is final) and one sentence."""

    status: str
    why: str
    ttl_s: int
    evidence: tuple[str, ...]

    @property
    def is_permanent(self) -> bool:
        return self.status.startswith("5")


class Listed(Struct, frozen=True, gc=False):
    """The MX records of a domain that exists, best first; none where it has none. `canonical`: after its aliases."""

    records: tuple[MxRecord, ...]
    canonical: str


def find_hosts(domain: str, terms: MxTerms, random: Random) -> Asking[Exchangers | Unroutable]:
    """Work out the hosts of a recipient domain (an A-label name, or an address literal in brackets)."""
    evidence = Evidence()
    if domain.startswith("["):
        return _find_literal(domain, terms, evidence)
    defect = why_no_name(domain)
    if defect:
        return no_way("5.1.3", f"{domain[:80]!r} is no domain name: {defect}", evidence)
    if _is_localhost(domain):
        return no_way("5.4.4", f"mail for {domain} has nowhere to go: {_LOCALHOST}", evidence)
    listed = yield from list_exchangers(domain, evidence, random, terms.further_lookups)
    if isinstance(listed, Unroutable):
        return listed
    if not listed.records and not terms.implicit_mx:
        return no_way("5.4.4", f"{domain} has no MX record, and its own address does not count here", evidence)
    if not listed.records:
        evidence.note(f"{domain} has no MX record: its own address is its exchanger (RFC 5321 5.1)")
    records = listed.records or (MxRecord(0, listed.canonical),)
    return (yield from _Search(domain, terms, evidence).run(records))


def list_exchangers(
    domain: str, evidence: Evidence, random: Random, further_lookups: int = FURTHER_LOOKUPS
) -> Asking[Listed | Unroutable]:
    """Work out who the exchangers of a domain name are, whatever their own names lead to: equals in any order."""
    (answer,) = yield from ask((Question(domain, "MX"),), evidence, further_lookups)
    if is_failure(answer) or (answer.is_cut and answer.status is AnswerStatus.NODATA):
        # what was not read may be its exchangers: its own address is no way around them
        return _unknown(f"the exchangers of {domain} cannot be looked up", (answer,), evidence)
    if answer.status is AnswerStatus.NXDOMAIN:
        return no_way("5.1.2", f"the domain {answer.canonical or domain} does not exist", evidence)
    records = [record for record in answer.mx if record.exchange]
    if answer.mx and not records:
        return no_way("5.1.10", f"the domain {domain} accepts no mail (null MX, RFC 7505)", evidence)
    if len(records) < len(answer.mx):
        evidence.note("null MX beside other records: ignored (RFC 7505 3)")
    random.shuffle(records)  # equal preference: spread the load (RFC 5321 5.1)
    records.sort(key=lambda record: record.preference)
    return Listed(tuple(records), answer.canonical or domain)


def _find_literal(domain: str, terms: MxTerms, evidence: Evidence) -> Exchangers | Unroutable:
    """Judge "[192.0.2.1]" or "[ipv6:2001:db8::1]" (RFC 5321 4.1.3)."""
    try:
        address = literal_address(domain)
    except ValueError:
        return no_way("5.1.3", f"{domain[:80]!r} is no address literal", evidence)
    if terms.ourselves.includes(address, terms.port):
        return no_way("5.4.6", f"{domain} is an address of this relay itself", evidence)
    why = why_forbidden(address, allow_private=terms.allow_private)
    if why is not None:
        return no_way("5.4.4", f"mail must not go to the address {domain} ({why})", evidence)
    if ("AAAA" if ":" in address else "A") not in terms.families.rdtypes:
        return no_way("5.4.4", f"{domain} is no {_ADDRESS[terms.families]}, and its route uses nothing else", evidence)
    evidence.note(f"{domain} is an address literal: nothing to ask")
    return Exchangers((Host(address, (address,)),), evidence.ttl_s, tuple(evidence.lines))


class _Search:
    """Looks up exchangers, best first, until some are usable; then judges."""

    def __init__(self, domain: str, terms: MxTerms, evidence: Evidence) -> None:
        self._domain = domain
        self._terms = terms
        self._evidence = evidence
        self._ceiling = _NO_CEILING  # the best preference at which we are an exchanger ourselves
        self._hosts: list[Host] = []
        # why others are none, each with its preference: what is as bad as ourselves or worse does not count
        self._unknown: list[tuple[int, Answer]] = []
        self._forbidden: list[tuple[int, str]] = []
        self._dead: list[tuple[int, str]] = []

    def run(self, records: Sequence[MxRecord]) -> Asking[Exchangers | Unroutable]:
        """Look up these records, which are sorted by preference."""
        candidates = self._candidates(records)
        asked = 0
        while asked < min(len(candidates), EXCHANGERS_ASKED) and not self._hosts:
            batch = [record for record in candidates[asked : asked + HOSTS_USED] if record.preference < self._ceiling]
            if not batch:
                break
            asked += HOSTS_USED
            yield from self._look_up(batch)
        if self._hosts:
            evidence = self._evidence
            is_partial = bool(self._relevant(self._unknown) or evidence.cut)
            return Exchangers(
                tuple(self._hosts), evidence.ttl_s, tuple(evidence.lines), is_partial, caveat=evidence.caveat
            )
        return self._judge(any(record.preference < self._ceiling for record in candidates[asked:]))

    def _candidates(self, records: Sequence[MxRecord]) -> list[MxRecord]:
        """Drop what need not be asked: names no host can have, repetitions, and ourselves with all that is worse."""
        for record in records:
            if self._terms.ourselves.is_called(record.exchange):
                self._meet_ourselves(record.preference, record.exchange)
                break
        best: dict[str, MxRecord] = {}
        for record in records:
            if record.preference >= self._ceiling or len(best) > EXCHANGERS_ASKED:
                break
            name = record.exchange
            defect = why_no_name(name)
            if _is_localhost(name):
                defect = _LOCALHOST
            if defect:
                self._dead.append((record.preference, name[:80]))
                self._evidence.note(f"exchange {name[:80]!r} skipped: {defect}")
            else:
                best.setdefault(name, record)
        return list(best.values())

    def _meet_ourselves(self, preference: int, how: str) -> None:
        """RFC 5321 5.1: ourselves, equals and worse are no way forward: mail would run in a circle."""
        if preference < self._ceiling:
            self._ceiling = preference
            self._evidence.note(f"{how} is this relay itself: preference {preference} and worse dropped")
            self._hosts = [host for host in self._hosts if host.preference < preference]

    def _look_up(self, batch: Sequence[MxRecord]) -> Asking[None]:
        rdtypes = self._terms.families.rdtypes
        questions = [Question(record.exchange, rdtype) for record in batch for rdtype in rdtypes]
        answers = yield from ask(questions, self._evidence, self._terms.further_lookups)
        for index, record in enumerate(batch):
            addresses = self._weigh(record, answers[index * len(rdtypes) : (index + 1) * len(rdtypes)])
            if addresses and record.preference < self._ceiling:
                self._hosts.append(Host(record.exchange, addresses[: ADDRESSES_USED // len(batch)], record.preference))

    def _weigh(self, record: MxRecord, answers: Sequence[Answer]) -> tuple[str, ...]:
        """Give the addresses of an exchanger that mail may go to, or remember why there are none."""
        name, preference, ours = record.exchange, record.preference, self._terms.ourselves
        for answer in answers:
            if ours.is_called(answer.canonical):
                self._meet_ourselves(preference, f"{name}, an alias of {answer.canonical},")
            for address in answer.addresses:
                if ours.includes(address, self._terms.port):
                    self._meet_ourselves(preference, f"{name} [{address}]")
        usable = [[address for address in answer.addresses if self._may_go(record, address)] for answer in answers]
        addresses = interleave(usable)
        self._unknown += [(preference, answer) for answer in answers if is_failure(answer)]
        if not addresses:
            self._dead.append((preference, name))
        return addresses

    def _may_go(self, record: MxRecord, address: str) -> bool:
        """Judge one address, by itself.

        Deviation: many relays refuse a host that has any forbidden address beside its public ones. Leaving that one out
        is as safe, since it is never dialled, and a stray record does not block mail.
        """
        why = why_forbidden(address, allow_private=self._terms.allow_private)
        if why is not None:
            self._forbidden.append((record.preference, f"{record.exchange} [{address}]: {why}"))
            self._evidence.note(f"{record.exchange} [{address}] must not be sent to: {why}")
        return why is None

    def _relevant(self, found: Iterable[tuple[int, _T]]) -> list[_T]:
        return [what for preference, what in found if preference < self._ceiling]

    def _judge(self, are_left: bool) -> Unroutable:
        domain, evidence = self._domain, self._evidence
        an_address = f"an {_ADDRESS[self._terms.families]}"
        unknown = self._relevant(self._unknown)
        forbidden = self._relevant(self._forbidden)
        dead = self._relevant(self._dead)
        if unknown:
            return _unknown(f"no usable exchanger of {domain} can be looked up", unknown, evidence)
        if are_left:  # X.4.0: what no other code of RFC 3463 3.5 says
            why = f"none of the best {EXCHANGERS_ASKED} exchangers of {domain} has {an_address}"
            return no_way("4.4.0", why, evidence)
        if forbidden:
            return no_way("5.4.4", f"mail for {domain} must not go to {_shown(forbidden)}", evidence)
        if not dead:
            return no_way("5.4.6", f"the best exchanger of {domain} is this relay itself", evidence)
        return no_way("5.4.4", f"no exchanger of {domain} has {an_address}: {_shown(dead)}", evidence)


def literal_address(domain: str) -> str:
    """Give the address of a literal in lower case, with its brackets or without. Raises: ValueError: it is none."""
    return str(ip_address(domain.removeprefix("[").removesuffix("]").removeprefix("ipv6:")))


def interleave(families: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Take from each family in turn, each address once: a broken family costs at most every other dial."""
    turns = zip_longest(*families, fillvalue="")
    return tuple(dict.fromkeys([each for turn in turns for each in turn if each]))


@lru_cache(maxsize=1024)
def _without_mapping(address: str) -> str:
    """Give the IPv4 address inside an IPv4-mapped one: dialled, that is where it leads."""
    try:
        mapped = IPv6Address(address).ipv4_mapped
    except ValueError:
        return address
    return address if mapped is None else str(mapped)


def _is_localhost(name: str) -> bool:
    return name == "localhost" or name.endswith(".localhost")


def _shown(items: Iterable[str], most: int = 3) -> str:
    listed = list(items)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def _unknown(what: str, answers: Sequence[Answer], evidence: Evidence) -> Unroutable:
    status = "4.4.3"
    if all(answer.aliases for answer in answers):  # `ask` leaves them to a loop, or a chain without end
        status = "4.4.6" if any(is_loop(answer) for answer in answers) else "4.4.4"
    said = _shown(f"{answer.rdtype} {answer.name} {answer.detail or answer.status.name}" for answer in answers)
    return no_way(status, f"{what}: {said}", evidence)


def no_way(status: str, why: str, evidence: Evidence) -> Unroutable:
    """Conclude that there is no host. What rests on stale or cut answers waits: a bounce is final, DNS may say more.

    It keeps what it says of the address (5.1.2 waits as 4.1.2), else it is DNS that fails (4.4.3).
    """
    if status.startswith("5") and evidence.doubt:
        status = f"4{status[1:]}" if status.startswith("5.1.") else "4.4.3"
        why = f"{why}; not final: {evidence.doubt}"
    elif evidence.cut:
        why = f"{why}; {evidence.cut}"
    return Unroutable(status, why, evidence.ttl_s, (*evidence.lines, f"{status}: {why}"))  # whatever the bound
