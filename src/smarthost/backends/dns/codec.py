# SPDX-License-Identifier: MIT
"""Questions to octets and octets to Answers. Pure: no socket is opened here, no clock is asked.

An answer is read as far as it concerns the question: its alias chain and the records at its end. What is no DNS message
is a ValueError; a server that cannot tell is Unable, which is its failure and says nothing about the name.
"""

import struct
from itertools import islice
from socket import AF_INET, AF_INET6, inet_ntop

from msgspec import Struct

from smarthost.backends.dns import wire
from smarthost.backends.dns.wire import HEADER_OCTETS, Message, Name, Record, name_text, read_last_name
from smarthost.ports import Answer, AnswerStatus, MxRecord

UDP_OCTETS = 1232  # what passes without fragments (DNS flag day 2020, RFC 9715)
ALIASES = 16  # in one answer, as other resolvers have it
RECORDS_READ = 100  # of a set, the best of it; Postfix keeps 100 too
OWNERS_READ = 100  # of one answer: an honest one has a name for each alias, and that of the records

_RDTYPES = {"MX": wire.MX, "A": wire.A, "AAAA": wire.AAAA, "TXT": wire.TXT, "PTR": wire.PTR}
_QUERY = struct.Struct("!HHHHHH")
_AA, _RD, _RA, _AD = 0x0400, 0x0100, 0x0080, 0x0020  # AD in a query: tell us whether it was validated (RFC 6840 5.7)
_OPT = b"\0" + struct.pack("!HHIH", wire.OPT, UDP_OCTETS, 0, 0)  # RFC 6891 6.1.2
_TRUNCATED = 0x02  # TC, in the third octet
_RESPONSE, _KIND = 0x80, 0xF8  # QR, and QR with the opcode, there too
_TC = 0x0200

_SHORTEST_SOA = 22  # two names of at least an octet, five numbers of four

_NOERROR, _FORMERR, _SERVFAIL, _NXDOMAIN, _NOTIMP, _REFUSED, _BADVERS = 0, 1, 2, 3, 4, 5, 16
_WITHOUT_QUESTION = (_FORMERR, _SERVFAIL, _NOTIMP, _REFUSED)
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

    A server that understood nothing may say just that, without the question (RFC 1035 4.1.1). What says something
    about a name must name it: else who guesses an id could tell of any name that it does not exist.
    """
    if len(message) < HEADER_OCTETS or message[2] & _KIND != _RESPONSE:
        return False
    if message[4:6] == b"\0\0":
        return message[3] & 0x0F in _WITHOUT_QUESTION
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
    """Follows the aliases of one answer. Reads few names, whatever it holds: a name may cost 160 steps."""

    def __init__(self, parsed: Message, name: str, rdtype: str) -> None:
        self._parsed = parsed
        self._name = name
        self._rdtype = rdtype
        self._wanted: dict[Name, list[Record]] = {}
        self._aliases: dict[Name, Record] = {}
        by_owner = wire.by_owner(parsed.octets, parsed.answer, (_RDTYPES[rdtype], wire.CNAME))
        self._is_cut = len(by_owner) > OWNERS_READ
        for records in islice(by_owner.values(), OWNERS_READ):
            owner, _ = wire.read_name(parsed.octets, records[0].owner_at)
            aliases = [record for record in records if record.rdtype == wire.CNAME]
            if aliases:
                self._aliases.setdefault(owner, aliases[0])
            if len(aliases) < len(records):
                wanted = [record for record in records if record.rdtype != wire.CNAME] if aliases else records
                self._wanted.setdefault(owner, []).extend(wanted)

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
        records = self._wanted.get(here, [])
        if doubt := self._doubt(is_nxdomain, bool(records), bool(passed)):
            return Unable(doubt)
        ttls += wire.ttls_s(records) or [self._negative_ttl()]
        best, detail = self._best(records)
        return Answer(
            self._name,
            self._rdtype,
            AnswerStatus.FOUND if records else AnswerStatus.NXDOMAIN if is_nxdomain else AnswerStatus.NODATA,
            mx=self._exchanges(best) if self._rdtype == "MX" else (),
            addresses=self._addresses(best) if self._rdtype in ("A", "AAAA") else (),
            canonical=name_text(here) if passed else self._name,
            aliases=tuple(map(name_text, passed)),
            ttl_s=min(ttls),
            secure=is_secure,
            is_cut=self._is_cut or bool(detail),
            detail=detail,
            texts=self._texts(best) if self._rdtype in ("TXT", "PTR") else (),
        )

    def _doubt(self, is_nxdomain: bool, is_found: bool, is_alias: bool) -> str:
        """Say why neither the records nor their absence can be believed, or "". An open alias may be asked on."""
        if is_found:
            return "NXDOMAIN with records" if is_nxdomain else ""
        if self._is_cut:
            return f"more than {OWNERS_READ} names in an answer"
        if is_nxdomain:
            return ""
        if self._parsed.flags & _TC:  # over TCP, or TCP would have been asked; what is left proves nothing
            return "an answer too large for DNS"
        rdtypes = {record.rdtype for record in self._parsed.authority}
        if is_alias or wire.SOA in rdtypes:
            return ""
        if wire.NS in rdtypes:  # RFC 2308 2.2: that is no answer, it says who else might have one
            return "lame: a referral"
        return "" if self._parsed.flags & (_RA | _AA) else "lame: no recursion"

    def _best(self, records: list[Record]) -> tuple[list[Record], str]:
        """Give the records to be read, and what to say if there are others: no names are read to choose them."""
        if len(records) <= RECORDS_READ:
            return records, ""
        octets = self._parsed.octets
        unlike = list({octets[record.start : record.end]: record for record in records}.values())
        if len(unlike) <= RECORDS_READ:
            return unlike, ""
        if self._rdtype == "MX":
            unlike.sort(key=lambda record: octets[record.start : record.start + 2])  # the preference
        return unlike[:RECORDS_READ], f"first {RECORDS_READ} of {len(unlike)} records"

    def _failed(self, here: Name, passed: list[Name], detail: str) -> Answer:
        aliases = tuple(map(name_text, passed))
        return Answer(
            self._name, self._rdtype, AnswerStatus.SERVFAIL, canonical=name_text(here), aliases=aliases, detail=detail
        )

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

    def _texts(self, records: list[Record]) -> tuple[str, ...]:
        octets, is_name = self._parsed.octets, self._rdtype == "PTR"
        return tuple(
            [
                name_text(read_last_name(octets, record.start, record.end))
                if is_name
                else wire.joined_strings(octets, record.start, record.end)
                for record in records
            ]
        )
