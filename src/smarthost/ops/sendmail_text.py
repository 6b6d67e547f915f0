# SPDX-License-Identifier: MIT
"""Makes a message of what a program writes to sendmail: line ends, header section, what is missing. Pure.

Every line end becomes CRLF, NUL goes, a header section that just stops gets its empty line. Date, Message-ID and From
are added where they are missing (RFC 6409 8), a domain where an address has none ("From: root"), Bcc is taken out;
nothing else changes. Standard library only.
"""

import re
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import BinaryIO, NamedTuple

from smarthost.ops.sendmail_addresses import Mailbox, complete_addresses, read_addresses
from smarthost.ops.sendmail_options import BAD_INPUT, UNAVAILABLE, Complaint

_PIECE = 1 << 16
# PHP's mail() on old releases writes CR CR LF; a CR alone is a line end of old machines. Linear in any input.
_line_end = re.compile(rb"\r+\n?|\n")
_is_field = re.compile(rb"[!-9;-~]+[ \t]*:").match  # field-name = 1*ftext (RFC 5322 2.2), obs-optional white space
_is_mbox_line = re.compile(rb">*From ").match
_SECRET = frozenset({b"bcc", b"resent-bcc"})
_ADDRESSED = frozenset({b"from", b"sender", b"reply-to", b"to", b"cc"})
_RECIPIENTS = frozenset({b"to", b"cc", b"bcc"})
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Field(NamedTuple):
    """A header field: its name in lower case, and its lines with their CRLFs."""

    name: bytes
    lines: bytes

    @property
    def value(self) -> str:
        """Give what is behind the colon; octets that are no UTF-8 survive as surrogates."""
        return self.lines.partition(b":")[2].decode("utf-8", "surrogateescape").strip()


class Text(NamedTuple):
    """A message taken apart; the empty line between is in neither part."""

    fields: tuple[Field, ...]
    body: bytes


def read_input(stream: BinaryIO, limit: int, *, ignores_dots: bool) -> bytes:
    """Read to the end, or to a line with a single dot. Raises: Complaint: more than `limit` octets."""
    pieces: list[bytes] = []
    octets = 0
    while piece := stream.read(_PIECE) if ignores_dots else stream.readline(_PIECE):
        is_line = not pieces or pieces[-1].endswith(b"\n")
        if not ignores_dots and is_line and piece.rstrip(b"\r\n") == b".":
            break
        pieces.append(piece)
        octets += len(piece)
        if octets > limit:
            raise Complaint(f"the message has more than {limit} octets (limits.message_size)", UNAVAILABLE)
    return b"".join(pieces)


def take_apart(written: bytes) -> Text:
    """Split what was written into fields and body."""
    octets = _line_end.sub(b"\r\n", written.replace(b"\0", b""))
    if octets and not octets.endswith(b"\r\n"):
        octets += b"\r\n"
    at = 0
    while _is_mbox_line(octets, at):
        at = octets.index(b"\n", at) + 1
    starts: list[int] = []
    while at < len(octets):
        end = octets.index(b"\n", at) + 1
        if not (starts and octets[at : at + 1] in (b" ", b"\t")):
            if not _is_field(octets, at, end):
                break
            starts.append(at)
        at = end
    lines = [octets[start:end] for start, end in pairwise((*starts, at))]
    fields = tuple([Field(each.partition(b":")[0].strip().lower(), each) for each in lines])
    return Text(fields, octets[at:].removeprefix(b"\r\n") if octets.startswith(b"\r\n", at) else octets[at:])


def recipients_of(text: Text) -> list[Mailbox]:
    """Give whom a message is for (-t): To, Cc and Bcc, or those of its Resent- fields if it has any (RFC 5322 3.6.6).

    Raises: Complaint: names the field that cannot be read.
    """
    resent = [each for each in text.fields if each.name.removeprefix(b"resent-") in _RECIPIENTS and b"-" in each.name]
    found: list[Mailbox] = []
    for field in resent or [each for each in text.fields if each.name in _RECIPIENTS]:
        try:
            found += read_addresses(field.value)
        except ValueError as error:
            raise Complaint(f"{field.name.decode()}: {error}", BAD_INPUT) from None
    return found


def complete(text: Text, *, author: bytes, now: float, token: str, host: str) -> bytes:
    """Give the content. `author`: what From: is to say where there is none; `token`: makes the Message-ID unique."""
    kept = [_with_domains(each, host) for each in text.fields if each.name not in _SECRET]
    return b"".join([*_added(text, author, now, token, host), *kept, b"\r\n", text.body])


def _with_domains(field: Field, host: str) -> bytes:
    if field.name.removeprefix(b"resent-") not in _ADDRESSED:
        return field.lines
    name, _, written = field.lines.partition(b":")
    value = complete_addresses(written.decode("utf-8", "surrogateescape"), host)
    return name + b":" + value.encode("utf-8", "surrogateescape")


def _added(text: Text, author: bytes, now: float, token: str, host: str) -> Iterator[bytes]:
    names = {each.name for each in text.fields}
    if b"date" not in names:
        yield f"Date: {date_of(time.localtime(now))}\r\n".encode()
    if b"message-id" not in names:
        stamp = time.strftime("%Y%m%d%H%M%S", time.gmtime(now))
        yield f"Message-ID: <{stamp}.{token}@{host}>\r\n".encode()
    if b"from" not in names:
        yield b"From: " + author + b"\r\n"


def date_of(at: time.struct_time) -> str:
    """Write a date as RFC 5322 3.3 has it, whatever the locale."""
    minutes = (at.tm_gmtoff or 0) // 60
    zone = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}{abs(minutes) % 60:02}"
    day, month = _DAYS[at.tm_wday], _MONTHS[at.tm_mon - 1]
    return f"{day}, {at.tm_mday:02} {month} {at.tm_year} {at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} {zone}"


def author_of(full_name: str, address: str) -> bytes:
    """Write the value of a From: field; nothing in a name can end it. "<>" as address is the caller's to avoid."""
    name = "".join(" " if ord(each) < 32 or ord(each) == 127 else each for each in full_name).strip()
    if not name:
        return address.encode("utf-8", "surrogateescape")
    return b"%s <%s>" % (_phrase(name), address.encode("utf-8", "surrogateescape"))


def _phrase(name: str) -> bytes:
    if not name.isascii():
        import binascii

        pieces = _pieces(name.encode("utf-8", "replace").decode())
        return b"\r\n ".join(b"=?utf-8?B?%s?=" % binascii.b2a_base64(each, newline=False) for each in pieces)
    if re.fullmatch(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]+", name):
        return name.encode()
    return b'"%s"' % re.sub(r'(["\\])', r"\\\1", name).encode()


def _pieces(name: str) -> Iterable[bytes]:
    """Cut a name so that each encoded word has at most 75 characters (RFC 2047 2) and whole characters (5)."""
    for at in range(0, min(len(name), 200), 10):
        yield name[at : at + 10].encode()
