# SPDX-License-Identifier: MIT
"""Questions to octets and octets to Answers. Pure: no socket is opened here, no clock is asked.

An answer is read as far as it concerns the question: its alias chain and the records at its end. What is no DNS message
is a ValueError; a server that cannot tell is Unable, which is its failure and says nothing about the name.
"""

import struct
from socket import AF_INET, AF_INET6, inet_ntop

from msgspec import Struct

from smarthost.backends.dns import wire
from smarthost.backends.dns.wire import HEADER_OCTETS, RECORDS_READ, Message, Name, Record, name_text, read_last_name
from smarthost.ports import Answer, AnswerStatus, MxRecord

UDP_OCTETS = 1232  # what passes without fragments (DNS flag day 2020, RFC 9715)
ALIASES = 16  # in one answer, as other resolvers have it

_RDTYPES = {"MX": wire.MX, "A": wire.A, "AAAA": wire.AAAA}
_QUERY = struct.Struct("!HHHHHH")
_RD, _AD = 0x0100, 0x0020  # AD in a query: tell us whether it was validated (RFC 6840 5.7)
_OPT = b"\0" + struct.pack("!HHIH", wire.OPT, UDP_OCTETS, 0, 0)  # RFC 6891 6.1.2
_TRUNCATED = 0x02  # TC, in the third octet
_RESPONSE, _KIND = 0x80, 0xF8  # QR, and QR with the opcode, there too
_TC = 0x0200

_SHORTEST_SOA = 22  # two names of at least an octet, five numbers of four

_NOERROR, _FORMERR, _SERVFAIL, _NXDOMAIN, _NOTIMP, _REFUSED, _BADVERS = 0, 1, 2, 3, 4, 5, 16
_RCODES = {
    _FORMERR: "FORMERR",
    _SERVFAIL: "SERVFAIL",
    _NOTIMP: "NOTIMP",
    _REFUSED: "lame: REFUSED",
    9: "NOTAUTH",
    _BADVERS: "BADVERS",
}


class Unable(Struct, frozen=True, gc=False):
    """A server that does not do its work: `why` in a few words; `may_lack_edns`: it might without EDNS."""

    why: str
    may_lack_edns: bool = False


def encode_question(name: str, rdtype: str) -> bytes:
    """Give the question section (RFC 1035 4.1.2).

    Raises: ValueError: a name that DNS cannot hold, or a type that is not asked here.
    """
    try:
        labels = [bytes([len(label)]) + label for label in wire.name_of(name)]
        return b"".join(labels) + b"\0" + struct.pack("!HH", _RDTYPES[rdtype], wire.IN)
    except (ValueError, KeyError) as error:
        raise ValueError(f"no question for DNS: {rdtype} {name[:80]!r}") from error


def encode_query(id: int, question: bytes, *, with_edns: bool = True) -> bytes:
    """Give a whole query for a question section."""
    query = _QUERY.pack(id, _RD | _AD, 1, 0, 0, with_edns) + question
    return query + _OPT if with_edns else query


def belongs_to(message: bytes, question: bytes) -> bool:
    """Tell whether a message with the right id is an answer to this question; else it is a lie or a stray.

    An error may come without the question (RFC 1035 4.1.1 lets a server that understood nothing say just that).
    """
    if len(message) < HEADER_OCTETS or message[2] & _KIND != _RESPONSE:
        return False
    if message[4:6] == b"\0\0":
        return bool(message[3] & 0x0F)
    echoed = message[HEADER_OCTETS : HEADER_OCTETS + len(question)]
    return message[4:6] == b"\0\1" and echoed.lower() == question.lower()


def is_truncated(message: bytes) -> bool:
    """Tell whether the whole answer is to be had over TCP only."""
    return bool(message[2] & _TRUNCATED)


def decode_answer(name: str, rdtype: str, message: bytes, *, trust_ad: bool) -> Answer | Unable:
    """Give the Answer that a message to this question holds.

    Raises: ValueError: octets that are no DNS message.
    """
    try:
        parsed = wire.read_message(message)
        if parsed.rcode in (_NOERROR, _NXDOMAIN):
            return _Chain(parsed, name, rdtype).answer(is_secure=trust_ad and bool(parsed.flags & _AD))
    except (IndexError, struct.error) as error:
        raise ValueError("no DNS message: it ends too early") from error
    except ValueError as error:
        raise ValueError(f"no DNS message: {error}") from error
    why = ", ".join([_RCODES.get(parsed.rcode, f"RCODE {parsed.rcode}"), *wire.extended_errors(parsed)])[:200]
    if parsed.rcode == _SERVFAIL:
        return Answer(name, rdtype, AnswerStatus.SERVFAIL, canonical=name, detail=why)
    return Unable(why, may_lack_edns=parsed.rcode in (_FORMERR, _NOTIMP, _BADVERS))


class _Chain:
    """Follows the aliases of one answer."""

    def __init__(self, parsed: Message, name: str, rdtype: str) -> None:
        self._parsed = parsed
        self._name = name
        self._rdtype = rdtype
        self._wanted: dict[Name, list[Record]] = {}
        self._aliases: dict[Name, Record] = {}
        wanted = _RDTYPES[rdtype]
        for record in parsed.answer:
            if record.rdclass == wire.IN and record.rdtype in (wanted, wire.CNAME):
                owner, _ = wire.read_name(parsed.octets, record.owner_at)
                if record.rdtype == wanted:
                    self._wanted.setdefault(owner, []).append(record)
                else:
                    self._aliases.setdefault(owner, record)

    def answer(self, *, is_secure: bool) -> Answer | Unable:
        here = tuple([label.lower() for label in wire.name_of(self._name)])
        passed: list[Name] = []
        ttls: list[int] = []
        while (alias := self._aliases.get(here)) is not None and here not in self._wanted:
            passed.append(here)
            ttls.append(alias.ttl_s)
            here = read_last_name(self._parsed.octets, alias.start, alias.end)
            if here in passed or len(passed) > ALIASES:
                what = "alias loop" if here in passed else "alias chain too long"
                return self._failed(here, passed, f"{what} at {name_text(here)}")
        is_nxdomain = self._parsed.rcode == _NXDOMAIN
        records = [] if is_nxdomain else self._wanted.get(here, [])
        if not records and not is_nxdomain:
            if self._parsed.flags & _TC:  # over TCP, or TCP would have been asked; what is left proves nothing
                return Unable("an answer too large for DNS")
            if not passed and self._is_referral():
                return Unable("lame: a referral")
        ttls += [record.ttl_s for record in records] or [self._negative_ttl()]
        count = self._parsed.answer_count
        return Answer(
            self._name,
            self._rdtype,
            AnswerStatus.FOUND if records else AnswerStatus.NXDOMAIN if is_nxdomain else AnswerStatus.NODATA,
            mx=self._exchanges(records) if self._rdtype == "MX" else (),
            addresses=self._addresses(records) if self._rdtype != "MX" else (),
            canonical=name_text(here) if passed else self._name,
            aliases=tuple(map(name_text, passed)),
            ttl_s=min(ttls),
            secure=is_secure,
            detail=f"first {RECORDS_READ} of {count} records" if count > RECORDS_READ else "",
        )

    def _failed(self, here: Name, passed: list[Name], detail: str) -> Answer:
        aliases = tuple(map(name_text, passed))
        return Answer(
            self._name, self._rdtype, AnswerStatus.SERVFAIL, canonical=name_text(here), aliases=aliases, detail=detail
        )

    def _is_referral(self) -> bool:
        """RFC 2308 2.2: name servers without SOA are no answer, they say who else might have one."""
        rdtypes = {record.rdtype for record in self._parsed.authority}
        return wire.NS in rdtypes and wire.SOA not in rdtypes

    def _negative_ttl(self) -> int:
        """RFC 2308 5: the lesser of the SOA's own TTL and its minimum; without SOA it must not be kept (0)."""
        for record in self._parsed.authority:
            if record.rdtype == wire.SOA:
                if record.end - record.start < _SHORTEST_SOA:
                    raise ValueError("an SOA without a minimum")
                minimum = int.from_bytes(self._parsed.octets[record.end - 4 : record.end], "big")
                return min(record.ttl_s, wire.ttl_s(minimum))
        return 0

    def _exchanges(self, records: list[Record]) -> tuple[MxRecord, ...]:
        octets = self._parsed.octets
        exchanges: dict[MxRecord, None] = {}
        for record in records:
            preference = int.from_bytes(octets[record.start : record.start + 2], "big")
            exchanges[MxRecord(preference, name_text(read_last_name(octets, record.start + 2, record.end)))] = None
        return tuple(exchanges)

    def _addresses(self, records: list[Record]) -> tuple[str, ...]:
        family = AF_INET if self._rdtype == "A" else AF_INET6
        octets = self._parsed.octets
        return tuple(dict.fromkeys([inet_ntop(family, octets[record.start : record.end]) for record in records]))
