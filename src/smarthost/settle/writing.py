# SPDX-License-Identifier: MIT
"""Writes what strangers said into reports: no reply, address, name or octet of theirs ends a field, a line or a part.

Pure. Cleans text of controls, folds fields, wraps sentences, and gives a part of a multipart the plainest encoding
that carries it unharmed. Knows nothing of what a report says; dsn and its parts do.
"""

import binascii
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from email.utils import format_datetime

LINE_OCTETS = 78  # RFC 5322 2.1.1 SHOULD
HARD_OCTETS = 998  # RFC 5322 2.1.1 MUST
_WORD_OCTETS = 900  # a longer word is cut; must exceed an address (320, RFC 5321 4.5.3.1), stay below HARD_OCTETS
_CUT = 200  # ... into pieces of so many characters, 800 octets at most
REPLY_CHARACTERS = 1024  # two full lines of RFC 5321 4.5.3.1.5; 500 recipients x 64 KiB replies would be 32 MiB

# Controls, line separators and direction overrides: what could end a line here or deceive a reader there
_HARMFUL = dict.fromkeys(
    (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)), " "
)
_HOST = re.compile(r"[A-Za-z0-9_.:\[\]-]{1,255}")
_CLEAN_7BIT = bytes((0x09, 0x0A, 0x0D, *range(0x20, 0x7F)))
_CONTROLS = bytes((*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F))


def format_date(wall: float) -> str:
    """Give a date as header fields have it (RFC 5322 3.3), in UTC."""
    return format_datetime(datetime.fromtimestamp(int(wall), UTC))


def sound_host(name: str) -> str:
    """Give a host's name or address, or "" if that is not what it is."""
    return name if _HOST.fullmatch(name) else ""


def clean(text: str) -> str:
    """Give text in which nothing ends a line or turns its direction."""
    return text.translate(_HARMFUL)


def clean_word(text: str) -> str:
    """Give cleaned text without spaces."""
    return "".join(clean(text).split())


def clean_sentence(text: str) -> str:
    """Give cleaned text, cut where it becomes a burden."""
    text = clean(text[: REPLY_CHARACTERS + 1])
    return text if len(text) <= REPLY_CHARACTERS else f"{text[:REPLY_CHARACTERS]} [...]"


def escape(text: str) -> str:
    """Write what is not ASCII as RFC 6533 3 writes it in 7-bit addresses: \\x{E9}; lossless and readable."""
    return text if text.isascii() else "".join([c if c.isascii() else f"\\x{{{ord(c):X}}}" for c in text])


def write_field(name: str, *words: str) -> bytes:
    """Write one field, folded between words. A word may hold spaces, but no control character: who calls it cleans."""
    lines = wrap(words, " ", first=f"{name}:")
    return "\r\n".join(lines).encode("utf-8", "replace") + b"\r\n"


def wrap(words: Iterable[str], indent: str, *, first: str = "") -> list[str]:
    """Lay words out in lines of at most 78 octets where words allow it, of at most 998 always."""
    lines = []
    line = first
    column = len(first)
    for word, octets in _cut_words(words):
        if line and column + 1 + octets > LINE_OCTETS:
            lines.append(line)
            line = ""
        if line:
            line += f" {word}"
            column += 1 + octets
        else:
            line = indent + word
            column = len(indent) + octets
    return [*lines, line]


def _cut_words(words: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Give each word with its octets in UTF-8; one that no line could hold in pieces."""
    for word in words:
        octets = _count_octets(word)
        if octets <= _WORD_OCTETS:
            yield word, octets
            continue
        for start in range(0, len(word), _CUT):
            piece = word[start : start + _CUT]
            yield piece, _count_octets(piece)


def _count_octets(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def write_part(fields: bytes, body: bytes, is_utf8: bool) -> bytes:
    """Write a part in the plainest encoding that carries it unharmed: 7bit, 8bit where allowed, quoted-printable.

    RFC 6522 4, RFC 6533 4 and 6 name quoted-printable for header sections and global reports on 7-bit paths. RFC 3464
    2.1 wants 7bit for message/delivery-status, which is ASCII by the way it is written.
    """
    if fits_lines(body):
        if body.isascii() and not body.translate(None, _CLEAN_7BIT):
            return fields + b"Content-Transfer-Encoding: 7bit\r\n\r\n" + body
        if is_utf8 and _is_text(body):
            return fields + b"Content-Transfer-Encoding: 8bit\r\n\r\n" + body
    # Line by line and as binary, so that a stray CR or LF is quoted: every LF that comes out is a soft line break
    lines = [binascii.b2a_qp(line, istext=False).replace(b"\n", b"\r\n") for line in body.split(b"\r\n")]
    return fields + b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + b"\r\n".join(lines)


def fits_lines(body: bytes) -> bool:
    """Has it no line above 998 octets, and no CR or LF but in CRLF?"""
    ends = body.count(b"\r\n")
    if body.count(b"\r") != ends or body.count(b"\n") != ends:
        return False
    return max(map(len, body.split(b"\r\n"))) <= HARD_OCTETS


def has_controls(body: bytes) -> bool:
    """Has it control characters other than TAB, CR and LF?"""
    return len(body.translate(None, _CONTROLS)) != len(body)


def _is_text(body: bytes) -> bool:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return not has_controls(body)
