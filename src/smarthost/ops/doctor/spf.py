# SPDX-License-Identifier: MIT
"""Evaluates SPF (RFC 7208) for one address of ours: would receivers take mail for a domain from it?

A small evaluator of our own, with the RFC's limits: 10 terms that ask DNS, 2 void answers, 10 exchangers. Asks the
Resolver and nothing else; any record ends in a result, in bounded time. Not done: `exp`, and `%{p}` is "unknown".
"""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from msgspec import Struct

from smarthost.ports import Answer, AnswerStatus, Resolver

LOOKUPS = 10  # RFC 7208 4.6.4, with those of included records
VOIDS = 2
EXCHANGERS = 10
_NAMES = 10  # 5.5
_RESULTS = {"+": "pass", "-": "fail", "~": "softfail", "?": "neutral"}
_MODIFIER = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*)=(.*)")  # modifier = name "=" macro-string
# directive = [ qualifier ] name [ ":" domain-spec / ip-network ] [ "/" ip4-cidr ] [ "//" ip6-cidr ]
_DIRECTIVE = re.compile(
    r"([+?~-]?)([A-Za-z][A-Za-z0-9]*)(?::((?:%\{[^}]*\}|[^/])*))?(?:/([0-9]{1,3}))?(?://([0-9]{1,3}))?"
)
_NETWORK = re.compile(r"([+?~-]?)(ip4|ip6):([0-9A-Fa-f.:]+)(?:/([0-9]{1,3}))?", re.IGNORECASE)
# macro-expand = "%{" letter *digit ["r"] *delimiter "}" / "%%" / "%_" / "%-"
_MACRO = re.compile(r"%(?:\{([A-Za-z])([0-9]{0,3})(r?)([.+,/_=-]*)\}|([%_-])|(.?))", re.IGNORECASE)
_FIXED = {"%": "%", "_": " ", "-": "%20"}
_ABSENT = (AnswerStatus.NODATA, AnswerStatus.NXDOMAIN)


class SpfResult(Struct, frozen=True):
    """`result` as RFC 7208 2.6 names it; `why`: the term that decided, or what is wrong; `record`: the domain's own."""

    result: str
    why: str
    record: str = ""
    lookups: int = 0


class _Permanent(Exception):
    """The records are wrong."""


class _Temporary(Exception):
    """DNS does not say."""


class _Term(Struct, frozen=True):
    result: str
    name: str
    value: str
    prefixes: tuple[int, int]
    text: str


async def evaluate_spf(resolver: Resolver, domain: str, address: str, helo: str) -> SpfResult:
    """Judge mail of `postmaster@domain` that comes from `address`. Never raises for what DNS says."""
    evaluation = _Evaluation(resolver, domain, ip_address(address), helo)
    try:
        record = await evaluation.find_record(domain)
    except _Temporary as error:
        return SpfResult("temperror", str(error))
    except _Permanent as error:
        return SpfResult("permerror", str(error))
    if not record:
        return SpfResult("none", "no SPF record")
    try:
        result, why = await evaluation.judge(domain, record)
    except _Temporary as error:
        result, why = "temperror", str(error)
    except _Permanent as error:
        result, why = "permerror", str(error)
    return SpfResult(result, why, record, evaluation.lookups)


class _Evaluation:
    def __init__(self, resolver: Resolver, domain: str, address: IPv4Address | IPv6Address, helo: str) -> None:
        self.lookups = 0
        self._voids = 0
        self._resolver = resolver
        self._sender_domain = domain
        self._address = address
        self._helo = helo
        self._rdtype = "A" if address.version == 4 else "AAAA"

    async def find_record(self, domain: str) -> str:
        """Give the one SPF record of a domain, or "" (RFC 7208 4.5)."""
        answer = await self._ask(domain, "TXT")
        records = [text for text in answer.texts if text.lower() == "v=spf1" or text.lower().startswith("v=spf1 ")]
        if len(records) > 1:
            raise _Permanent(f"{domain} has {len(records)} SPF records; only one is allowed")
        return records[0] if records else ""

    async def judge(self, domain: str, record: str) -> tuple[str, str]:
        """Walk the terms of a record (RFC 7208 4.6)."""
        terms, redirect = _parse(record)
        for term in terms:
            if await self._matches(term, domain):
                return term.result, term.text
        if redirect:  # an "all" would have matched (RFC 7208 6.1)
            return await self._redirected(self._expand(redirect, domain))
        return "neutral", "no term of the record is about it"

    async def _redirected(self, target: str) -> tuple[str, str]:
        self._count()
        record = await self.find_record(target)
        if not record:
            raise _Permanent(f"redirect={target}: there is no SPF record")
        result, why = await self.judge(target, record)
        return result, f"redirect={target}: {why}"

    async def _matches(self, term: _Term, domain: str) -> bool:
        target = self._expand(term.value, domain) if term.value and term.name not in ("ip4", "ip6") else domain
        match term.name:
            case "all":
                return True
            case "ip4" | "ip6":
                network = ip_network(term.value, strict=False)
                return self._address in network
        self._count()
        match term.name:
            case "a":
                return await self._has(target, term)
            case "mx":
                return await self._is_exchanger(target, term)
            case "include":
                return await self._is_included(target)
            case "exists":
                return bool((await self._ask(target, "A", counts=True)).addresses)
            case _:
                return await self._is_named(target)

    async def _is_included(self, target: str) -> bool:
        record = await self.find_record(target)
        if not record:
            raise _Permanent(f"include:{target}: there is no SPF record")
        result, _ = await self.judge(target, record)
        return result == "pass"

    async def _is_exchanger(self, target: str, term: _Term) -> bool:
        answer = await self._ask(target, "MX", counts=True)
        if len(answer.mx) > EXCHANGERS:
            raise _Permanent(f"mx:{target}: more than {EXCHANGERS} exchangers")
        for record in answer.mx:
            if record.exchange and await self._has(record.exchange, term):
                return True
        return False

    async def _has(self, name: str, term: _Term) -> bool:
        answer = await self._ask(name, self._rdtype, counts=True)
        prefix = term.prefixes[0 if self._address.version == 4 else 1]
        return any(self._address in ip_network(f"{each}/{prefix}", strict=False) for each in answer.addresses)

    async def _is_named(self, target: str) -> bool:
        """The mechanism "ptr", which RFC 7208 5.5 asks not to be used."""
        answer = await self._ask(self._address.reverse_pointer, "PTR", counts=True)
        for name in answer.texts[:_NAMES]:
            if name == target or name.endswith(f".{target}"):
                found = await self._ask(name, self._rdtype)
                if str(self._address) in found.addresses:
                    return True
        return False

    def _count(self) -> None:
        self.lookups += 1
        if self.lookups > LOOKUPS:
            raise _Permanent(f"more than {LOOKUPS} terms that ask DNS (RFC 7208 4.6.4): receivers stop there")

    async def _ask(self, name: str, rdtype: str, *, counts: bool = False) -> Answer:
        answer = await self._resolver.ask(name.removesuffix(".").lower(), rdtype)
        if answer.status not in (AnswerStatus.FOUND, *_ABSENT):
            raise _Temporary(f"{rdtype} of {name}: {answer.detail or answer.status.value}")
        if counts and answer.status in _ABSENT:
            self._voids += 1
            if self._voids > VOIDS:
                raise _Permanent(f"more than {VOIDS} of its names do not exist (RFC 7208 4.6.4): {name}")
        return answer

    # -- macros (RFC 7208 7) --

    def _expand(self, text: str, domain: str) -> str:
        if "%" not in text:
            return text

        def replaced(found: "re.Match[str]") -> str:
            letter, digits, is_reversed, delimiters, fixed, other = found.groups()
            if other is not None:
                raise _Permanent(f"a macro that is none: {text}")
            if fixed:
                return _FIXED[fixed]
            parts = re.split(f"[{re.escape(delimiters or '.')}]", self._macro(letter.lower(), domain))
            if is_reversed:
                parts.reverse()
            return ".".join(parts[-int(digits) :] if digits and int(digits) else parts)

        expanded = _MACRO.sub(replaced, text)
        while len(expanded) > 253 and "." in expanded:  # 7.3: whole labels are cut off from the left
            expanded = expanded.partition(".")[2]
        return expanded

    def _macro(self, letter: str, domain: str) -> str:
        is_4 = self._address.version == 4
        nibbles = ".".join(self._address.exploded.replace(":", ""))
        values = {
            "s": f"postmaster@{self._sender_domain}",
            "l": "postmaster",
            "o": self._sender_domain,
            "d": domain,
            "i": str(self._address) if is_4 else nibbles,
            "p": "unknown",
            "v": "in-addr" if is_4 else "ip6",
            "h": self._helo,
        }
        if letter not in values:
            raise _Permanent(f"a macro that is none: %{{{letter}}}")
        return values[letter]


# -- reading a record --------------------------------------------------------------------------------------------------


def _parse(record: str) -> tuple[list[_Term], str]:
    """Read all terms first: one that is wrong makes the whole record wrong (RFC 7208 4.6)."""
    terms: list[_Term] = []
    modifiers: dict[str, str] = {}
    for text in record.split(" ")[1:]:
        if not text:
            continue
        if (found := _MODIFIER.fullmatch(text)) is not None:
            name = found[1].lower()
            if name in modifiers and name in ("redirect", "exp"):
                raise _Permanent(f"{name}= stands there twice")
            modifiers[name] = found[2]
        else:
            terms.append(_parse_term(text))
    return terms, modifiers.get("redirect", "")


def _parse_term(text: str) -> _Term:
    if (found := _NETWORK.fullmatch(text)) is not None:
        return _parse_network(text, found)
    found = _DIRECTIVE.fullmatch(text)
    if found is None:
        raise _Permanent(f"a term that is none: {text}")
    qualifier, name, value, prefix4, prefix6 = found.groups()
    name = name.lower()
    if name not in ("all", "a", "mx", "include", "exists", "ptr"):
        raise _Permanent(f"an unknown mechanism: {text}")
    needs, takes = name in ("include", "exists"), name != "all"
    has_prefix = prefix4 is not None or prefix6 is not None
    if (needs and not value) or (value is not None and not (takes and value)):
        raise _Permanent(f"a term without its name: {text}")
    prefixes = (int(prefix4 or 32), int(prefix6 or 128))
    if (has_prefix and name not in ("a", "mx")) or prefixes[0] > 32 or prefixes[1] > 128:
        raise _Permanent(f"a term with a wrong prefix: {text}")
    return _Term(_RESULTS[qualifier or "+"], name, value or "", prefixes, text)


def _parse_network(text: str, found: "re.Match[str]") -> _Term:
    qualifier, name, address, prefix = found.groups()
    written = address if prefix is None else f"{address}/{prefix}"
    try:
        network = ip_network(written, strict=False)
    except ValueError:
        raise _Permanent(f"not a network: {text}") from None
    if network.version != (4 if name.lower() == "ip4" else 6):
        raise _Permanent(f"a network of the other family: {text}")
    return _Term(_RESULTS[qualifier or "+"], name.lower(), written, (32, 128), text)
