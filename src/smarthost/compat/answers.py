# SPDX-License-Identifier: MIT
"""What a Twisted resolver said, as answers for the machine of route.mx; and what its names are remembered by.

Pure: asks nobody and keeps nothing. Whatever octets a stranger's names are made of, nothing here raises for them.
Called by compat.calculator.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.names import dns

from smarthost.mail.address import to_domain
from smarthost.ports import Answer, AnswerStatus, MxRecord, Random
from smarthost.route.mx import Listed, Unroutable, list_exchangers
from smarthost.route.questions import Evidence

_SHOWN = 80  # characters of a stranger's name in a line of evidence


class Dialogue:
    """One run of route.mx.list_exchangers: turns what a resolver said into its Answers, and back again.

    `asked`: the name it asks about, until it has `found`. `payloads`: the records that its answers were made of.
    `last_alias`: the alias that its last question came from, or at which it gave up.
    """

    def __init__(self, name: str, random: Random, further_lookups: int) -> None:
        self.name = name
        self.found: Listed | Unroutable | None = None
        self.payloads: dict[MxRecord, dns.Record_MX] = {}
        self._evidence = Evidence()
        self._machine = list_exchangers(name, self._evidence, random, further_lookups)
        self.last_alias: dns.Record_CNAME | None = None
        (question,) = next(self._machine)
        self.asked = question.name

    @property
    def evidence(self) -> tuple[str, ...]:
        return tuple(self._evidence.lines)

    def take(self, answers: Mapping[str, Sequence[Any]]) -> None:
        """Go on with the answer to what was asked."""
        try:
            (question,) = self._machine.send((self._answer(answers),))
        except StopIteration as end:
            self.found = end.value
        else:
            self.asked = question.name

    def _answer(self, answers: Mapping[str, Sequence[Any]]) -> Answer:
        chain = Chain(answers, self.asked, dns.MX)
        if chain.aliases:
            self.last_alias = chain.last_alias
        aliases = tuple(chain.aliases)
        if chain.is_loop:
            detail = f"alias loop at {chain.end[:_SHOWN]}"
            return Answer(self.asked, "MX", AnswerStatus.SERVFAIL, canonical=chain.end, aliases=aliases, detail=detail)
        for payload in chain.payloads:
            self.payloads.setdefault(MxRecord(payload.preference, host_key(payload)), payload)
        status = AnswerStatus.FOUND if chain.payloads else AnswerStatus.NODATA
        return Answer(self.asked, "MX", status, tuple(self.payloads), canonical=chain.end, aliases=aliases)


class Chain:
    """The aliases of one answer, from a name to its `end`, and the payloads of a type that are there."""

    def __init__(self, answers: Mapping[str, Sequence[Any]], name: str, rdtype: int) -> None:
        self.aliases: dict[str, None] = {}
        self.last_alias: dns.Record_CNAME | None = None
        self.end = name
        found: dict[str, list[Any]] = {}
        for owner, payloads in answers.items():
            found.setdefault(host_key(owner), []).extend(payloads)
        self.payloads = _of_type(found, name, rdtype)
        while not self.payloads and not self.is_loop and (aliases := _of_type(found, self.end, dns.CNAME)):
            self.last_alias = aliases[0]
            self.aliases[self.end] = None
            self.end = host_key(aliases[0])
            self.payloads = _of_type(found, self.end, rdtype)

    @property
    def is_loop(self) -> bool:
        return self.end in self.aliases


def host_key(host: Any) -> str:
    """Give what a host is remembered by: its name in lower case, without the final dot, odd octets escaped.

    Takes bytes, str, a dns.Name, or a record that has one. Raises: TypeError: anything else.
    """
    name = getattr(host, "name", host)
    text = getattr(name, "name", name)
    if isinstance(text, str):
        text = _ascii(text).encode("ascii", "backslashreplace")
    if not isinstance(text, bytes):
        raise TypeError(f"a host's name is bytes or str, not {type(text).__name__}")
    return text.lower().removesuffix(b".").decode("ascii", "backslashreplace")


def _ascii(text: str) -> str:
    """Give the A-labels of what has any; what has none is no name, and stays as it is."""
    try:
        return text if text.isascii() else to_domain(text)
    except ValueError:
        return text


def _of_type(answers: Mapping[str, Sequence[Any]], name: str, rdtype: int) -> list[Any]:
    return [payload for payload in answers.get(name, ()) if getattr(payload, "TYPE", None) == rdtype]
