# SPDX-License-Identifier: MIT
"""Reads a DNS message (RFC 1035 4.1) as far as an Answer needs it, in bounded time whatever the octets are. Pure.

Written by hand, not with dnspython's codec: that reads all of a message before anything can be judged, and 26 KiB of
nasty names took it 490 ms of a busy loop. Octets that are no message end in ValueError, IndexError or struct.error.
"""

import struct
from typing import TypeAlias

from msgspec import Struct

HEADER_OCTETS = 12
NAME_OCTETS = 255  # RFC 1035 2.3.4, lengths and the root included
_STEPS = 160  # of a name: 127 labels of an octet, the root, and 32 compression pointers, of which few have five

IN = 1
A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, OPT = 1, 2, 5, 6, 12, 15, 16, 28, 41

_HEADER = struct.Struct("!HHHHHH")
_FIXED = struct.Struct("!HHIH")  # type, class, TTL, length of the record's own octets
_FIXED_OCTETS = _FIXED.size
_LONGEST_TTL_S = (1 << 31) - 1
_EDE = 15  # RFC 8914 2
_ERRORS_READ = 3

_PLAIN = b"abcdefghijklmnopqrstuvwxyz0123456789-_."
_ESCAPES = {octet: f"\\{octet:03}" for octet in (*range(0x21), *range(0x7F, 256))}
_ESCAPES.update({ord(each): f"\\{each}" for each in '"();\\@$'})  # as master files have it (RFC 1035 5.1)

Name: TypeAlias = tuple[bytes, ...]  # labels in lower case; the root has none


class Record(Struct, frozen=True, gc=False):
    """Where a resource record stands in its message: its owner at `owner_at`, its own octets from `start` to `end`."""

    owner_at: int
    rdtype: int
    rdclass: int
    ttl: int
    start: int
    end: int

    @property
    def ttl_s(self) -> int:
        """RFC 2181 8: a TTL with its highest bit set counts as 0."""
        return ttl_s(self.ttl)


class Message(Struct, frozen=True):
    """A message laid out, all of it: 64 KiB hold 5,957 records at most, and laying one out costs less than 1 us."""

    octets: bytes
    flags: int
    rcode: int  # with the eight bits that EDNS adds (RFC 6891 6.1.3)
    answer: list[Record]
    authority: list[Record]
    opt: Record | None


def ttl_s(ttl: int) -> int:
    """Give a TTL as it counts (RFC 2181 8)."""
    return ttl if ttl <= _LONGEST_TTL_S else 0


def read_message(octets: bytes) -> Message:
    """Lay out a message; its names and the records' own octets are not looked at yet."""
    _, flags, questions, *counts = _HEADER.unpack_from(octets)
    if questions > 1:
        raise ValueError(f"{questions} questions")
    at = _after_name(octets, HEADER_OCTETS) + 4 if questions else HEADER_OCTETS
    sections: list[list[Record]] = [[], [], []]
    for section, count in zip(sections, counts, strict=True):
        for _ in range(count):  # one that lies ends with the octets
            record = _record(octets, at)
            section.append(record)
            at = record.end
    answer, authority, additional = sections
    opt = next((record for record in additional if record.rdtype == OPT), None)
    rcode = flags & 0x0F | (opt.ttl >> 24 << 4 if opt is not None else 0)
    return Message(octets, flags, rcode, answer, authority, opt)


def _record(octets: bytes, owner_at: int) -> Record:
    at = _after_name(octets, owner_at)
    rdtype, rdclass, ttl, length = _FIXED.unpack_from(octets, at)
    start = at + _FIXED_OCTETS
    end = start + length
    if end > len(octets):
        raise ValueError("a record ends after its message")
    return Record(owner_at, rdtype, rdclass, ttl, start, end)


def ttls_s(records: list[Record]) -> list[int]:
    """Give the TTLs as they count, each once: a set may have thousands of records, and has one TTL as a rule."""
    return [ttl_s(ttl) for ttl in {record.ttl for record in records}]


def by_owner(octets: bytes, records: list[Record], rdtypes: tuple[int, ...]) -> dict[bytes, list[Record]]:
    """Give the Internet's records of these types by their owner as it is written, and no names are read for it.

    What is written alike is the same name; the same name may be written in several ways.
    """
    found: dict[bytes, list[Record]] = {}
    for record in records:
        if record.rdtype in rdtypes and record.rdclass == IN:
            owner = octets[record.owner_at : record.start - _FIXED_OCTETS]
            if owner in found:
                found[owner].append(record)
            else:
                found[owner] = [record]
    return found


def _after_name(octets: bytes, at: int) -> int:
    while length := octets[at]:
        if length >= 0xC0:
            return at + 2
        if length >= 0x40:
            raise ValueError("a label of an unknown kind")
        at += 1 + length
    return at + 1


def read_name(octets: bytes, at: int) -> tuple[Name, int]:
    """Give the name that begins at an offset, and the offset after it (RFC 1035 4.1.4)."""
    labels: list[bytes] = []
    after = 0
    for _ in range(_STEPS):
        length = octets[at]
        if length == 0:
            break
        if length < 0x40:
            start, at = at + 1, at + 1 + length
            labels.append(octets[start:at])
        elif length >= 0xC0:
            after = after or at + 2
            target = (length & 0x3F) << 8 | octets[at + 1]
            if target >= at:
                raise ValueError("compression that leads nowhere")
            at = target
        else:
            raise ValueError("a label of an unknown kind")
    else:
        raise ValueError("a name without end")
    if sum(map(len, labels)) + len(labels) + 1 > NAME_OCTETS:
        raise ValueError("a name of more than 255 octets")
    return tuple(map(bytes.lower, labels)), after or at + 1


def read_last_name(octets: bytes, at: int, end: int) -> Name:
    """Give the name that fills a record's octets from an offset to their end."""
    name, after = read_name(octets, at)
    if after != end:
        raise ValueError("a name that does not fill its record")
    return name


def name_text(name: Name) -> str:
    """Lower case, no trailing dot, "" for the root; odd octets are escaped (RFC 1035 5.1), so that no host has them."""
    joined = b".".join(name)
    if joined.count(b".") >= max(len(name), 1):  # a label with a dot in it
        return ".".join([label.decode("latin-1").translate(_ESCAPES).replace(".", "\\.") for label in name])
    return (
        joined.decode("latin-1") if not joined.translate(None, _PLAIN) else joined.decode("latin-1").translate(_ESCAPES)
    )


def name_of(text: str) -> Name:
    """Give the labels of a text without escapes: what DNS is asked is what stands there, nothing is relative.

    Raises: ValueError: a name that DNS cannot hold.
    """
    labels = tuple(text.encode("ascii").split(b"."))
    if not all(0 < len(label) < 0x40 for label in labels) or len(text) + 2 > NAME_OCTETS:
        raise ValueError("no name that DNS can hold")
    return labels


def joined_strings(octets: bytes, at: int, end: int) -> str:
    """Give a TXT record's strings as one text (RFC 1035 3.3.14, RFC 7208 3.3); octets that do not print are escaped."""
    strings = []
    while at < end:
        after = at + 1 + octets[at]
        if after > end:
            raise ValueError("a string that ends after its record")
        strings.append(octets[at + 1 : after])
        at = after
    text = b"".join(strings).decode("ascii", "backslashreplace")
    return text if text.isprintable() else "".join([c if c.isprintable() else ascii(c)[1:-1] for c in text])


def extended_errors(message: Message) -> list[str]:
    """Say why a resolver failed, in its own words, bounded and printable (RFC 8914)."""
    if message.opt is None:
        return []
    said: list[str] = []
    at, end = message.opt.start, message.opt.end
    while at + 4 <= end and len(said) < _ERRORS_READ:
        code, length = struct.unpack_from("!HH", message.octets, at)
        at += 4 + length
        if code == _EDE and length >= 2 and at <= end:
            said.append(_extended_error(message.octets[at - length : at]))
    return said


def _extended_error(option: bytes) -> str:
    number = int.from_bytes(option[:2], "big")
    words = "".join(each for each in option[2:102].decode("utf-8", "replace") if each.isprintable())
    name = f" ({_ERRORS[number]})" if number in _ERRORS else ""
    return f"EDE {number}{name}{': ' if words else ''}{words}"


_ERRORS = {  # those that tell an operator something (RFC 8914 4)
    3: "Stale Answer",
    4: "Forged Answer",
    6: "DNSSEC Bogus",
    7: "Signature Expired",
    8: "Signature Not Yet Valid",
    9: "DNSKEY Missing",
    10: "RRSIGs Missing",
    12: "NSEC Missing",
    13: "Cached Error",
    14: "Not Ready",
    15: "Blocked",
    16: "Censored",
    17: "Filtered",
    18: "Prohibited",
    20: "Not Authoritative",
    22: "No Reachable Authority",
    23: "Network Error",
}
