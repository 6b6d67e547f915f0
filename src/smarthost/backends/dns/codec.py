# SPDX-License-Identifier: MIT
"""Questions to octets and octets to Answers, over dnspython's codec. Pure: no socket, no clock.

An answer is read as far as it concerns the question: its alias chain and the records at its end. Foreign exceptions
become ValueError here. What a hostile answer can cost is bounded before it is parsed.
"""

import struct

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.CNAME
import dns.rdtypes.ANY.MX
import dns.rdtypes.ANY.SOA
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.rrset

from smarthost.ports import Answer, AnswerStatus, MxRecord

UDP_OCTETS = 1232  # what passes without fragments (DNS flag day 2020, RFC 9715)
RECORDS_READ = 100  # of one answer; 2,500 MX in 64 KiB took 130 ms of a busy loop. Postfix keeps 100 too
ALIASES = 16  # in one answer, as dnspython's own limit
HEADER_OCTETS = 12

_RDTYPES = {"MX": dns.rdatatype.MX, "A": dns.rdatatype.A, "AAAA": dns.rdatatype.AAAA}
_QUERY = struct.Struct("!HHHHHH")
_RD_AD = dns.flags.RD | dns.flags.AD  # AD in a query: tell us whether it was validated (RFC 6840 5.7)
_OPT = b"\0" + struct.pack("!HHIH", dns.rdatatype.OPT, UDP_OCTETS, 0, 0)  # RFC 6891 6.1.2
_TRUNCATED = dns.flags.TC >> 8
_RESPONSE = dns.flags.QR >> 8


def encode_question(name: str, rdtype: str) -> bytes:
    """Give the question section (RFC 1035 4.1.2).

    Raises: ValueError: a name that DNS cannot hold, or a type that is not asked here.
    """
    try:
        wire = _to_name(name).to_wire()
        assert wire is not None, "to_wire without a file gives octets"
        return wire + struct.pack("!HH", _RDTYPES[rdtype], dns.rdataclass.IN)
    except (dns.exception.DNSException, UnicodeEncodeError, KeyError) as error:
        raise ValueError(f"no question for DNS: {rdtype} {name[:80]!r}") from error


def _to_name(text: str) -> dns.name.Name:
    """No escapes, no IDNA, nothing relative: what DNS is asked is what stands there."""
    return dns.name.Name([*(label.encode("ascii") for label in text.split(".")), b""])


def encode_query(id: int, question: bytes) -> bytes:
    """Give a whole query for a question section."""
    return _QUERY.pack(id, _RD_AD, 1, 0, 0, 1) + question + _OPT


def belongs_to(message: bytes, question: bytes) -> bool:
    """Tell whether a message with the right id is an answer to this question; else it is a lie or a stray.

    An error may come without the question (RFC 1035 4.1.1 lets a server that understood nothing say just that).
    """
    if len(message) < HEADER_OCTETS or not message[2] & _RESPONSE:
        return False
    if message[4:6] == b"\0\0":
        return bool(message[3] & 0x0F)
    echoed = message[HEADER_OCTETS : HEADER_OCTETS + len(question)]
    return message[4:6] == b"\0\1" and echoed.lower() == question.lower()


def is_truncated(message: bytes) -> bool:
    """Tell whether the whole answer is to be had over TCP only."""
    return bool(message[2] & _TRUNCATED)


def decode_answer(name: str, rdtype: str, message: bytes, *, trust_ad: bool) -> Answer:
    """Give the Answer that a message to this question holds.

    Raises: ValueError: octets that are no DNS message.
    """
    message, records = _bounded(message)
    try:
        parsed = dns.message.from_wire(message, ignore_trailing=True, raise_on_truncation=False)
    except (dns.exception.DNSException, ValueError) as error:
        raise ValueError(f"no DNS message: {error}") from error
    rcode = parsed.rcode()
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return Answer(name, rdtype, AnswerStatus.SERVFAIL, canonical=name, detail=_failure_text(parsed, rcode))
    secure = trust_ad and bool(parsed.flags & dns.flags.AD)
    detail = f"first {RECORDS_READ} of {records} records" if records > RECORDS_READ else ""
    return _Chain(parsed, name, rdtype).answer(rcode == dns.rcode.NXDOMAIN, secure, detail)


def _bounded(message: bytes) -> tuple[bytes, int]:
    """Cut an absurd answer section down to RECORDS_READ; nothing after it is read then."""
    records = int.from_bytes(message[6:8], "big")
    if records <= RECORDS_READ:
        return message, records
    counts = struct.pack("!HHH", RECORDS_READ, 0, 0)
    return message[:6] + counts + message[HEADER_OCTETS:], records


def _failure_text(parsed: dns.message.Message, rcode: dns.rcode.Rcode) -> str:
    """Name the response code, and why if the resolver says so (RFC 8914)."""
    reasons = [option.to_text() for option in parsed.extended_errors()]
    return ", ".join([dns.rcode.to_text(rcode), *reasons])[:200]


class _Chain:
    """Follows the aliases of one answer."""

    def __init__(self, parsed: dns.message.Message, name: str, rdtype: str) -> None:
        self._parsed = parsed
        self._name = name
        self._rdtype = rdtype
        self._sets = {(each.name, each.rdtype): each for each in parsed.answer if each.rdclass == dns.rdataclass.IN}

    def answer(self, is_nxdomain: bool, secure: bool, detail: str) -> Answer:
        wanted = _RDTYPES[self._rdtype]
        here = _to_name(self._name)
        passed: list[dns.name.Name] = []
        ttls: list[int] = []
        while (alias := self._sets.get((here, dns.rdatatype.CNAME))) is not None and (here, wanted) not in self._sets:
            passed.append(here)
            ttls.append(alias.ttl)
            here = alias[0].target
            if here in passed or len(passed) > ALIASES:
                what = "alias loop" if here in passed else "alias chain too long"
                return self._failed(here, passed, f"{what} at {_text(here)}")
        found = None if is_nxdomain else self._sets.get((here, wanted))
        ttls.append(found.ttl if found is not None else self._negative_ttl())
        if found is not None:
            status = AnswerStatus.FOUND
        else:
            status = AnswerStatus.NXDOMAIN if is_nxdomain else AnswerStatus.NODATA
        return Answer(
            self._name,
            self._rdtype,
            status,
            mx=_exchanges(found) if self._rdtype == "MX" else (),
            addresses=tuple([record.address for record in found or ()]) if self._rdtype != "MX" else (),
            canonical=_text(here) if passed else self._name,
            aliases=tuple(map(_text, passed)),
            ttl_s=min(ttls),
            secure=secure,
            detail=detail,
        )

    def _failed(self, here: dns.name.Name, passed: list[dns.name.Name], detail: str) -> Answer:
        aliases = tuple(map(_text, passed))
        return Answer(
            self._name, self._rdtype, AnswerStatus.SERVFAIL, canonical=_text(here), aliases=aliases, detail=detail
        )

    def _negative_ttl(self) -> int:
        """RFC 2308 5: the lesser of the SOA's own TTL and its minimum; without SOA it must not be kept (0)."""
        for each in self._parsed.authority:
            if each.rdtype == dns.rdatatype.SOA:
                minimum: int = each[0].minimum
                return min(each.ttl, minimum)
        return 0


def _exchanges(found: dns.rrset.RRset | None) -> tuple[MxRecord, ...]:
    records = [(record.preference, _text(record.exchange)) for record in found or ()]
    return tuple([MxRecord(preference, exchange) for preference, exchange in records])


def _text(name: dns.name.Name) -> str:
    """Lower case, no trailing dot, "" for the root; odd octets stay escaped, so that no host name has them."""
    return "" if name == dns.name.root else name.to_text(omit_final_dot=True).lower()
