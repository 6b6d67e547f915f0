# SPDX-License-Identifier: MIT
"""Converts MIME content to 7-bit lines for hosts that take nothing else (RFC 2045, RFC 2046, RFC 6152 3, RFC 3030 3).

Pure; octets in, octets out. A part that is fit already stays as it is, octet by octet; text becomes quoted-printable,
all else base64, and the fields that say so are mended. What must not or cannot be changed without guessing (signed
parts, 8-bit header fields, an encoding that is no encoding, two boundaries) is not converted. Time is linear in the
content, and goes by in steps of a few milliseconds. Whether a conversion is needed at all, send.offer decides.
"""

import re
from binascii import b2a_base64, b2a_qp
from collections.abc import Iterator

from msgspec import Struct

MOST_OCTETS = 64 * 1024 * 1024  # must exceed what reception takes by default (limits.Limits.message_octets)
_MOST_PARTS = 1_000
_MOST_DEPTH = 20
_LINE_OCTETS = 998  # RFC 5321 4.5.3.1.6, without the CRLF
_ENCODED_OCTETS = 76  # RFC 2045 6.7, 6.8
_BLOCK_OCTETS = 57 * 1024  # encoded at once, in about 2 ms; 57 octets are a line of 76 characters in base64
_MOST_BOUNDARY = 200  # RFC 2046 5.1.1 says 70

# RFC 5322 2.2: field-name ":" unstructured, folded. Blanks before the colon: 4.5.8 (obs-optional)
_FIELD = rb"(?mi)^%s[ \t]*+:([^\r\n]*+(?:\r\n[ \t][^\r\n]*+)*+)(?:\r\n|\Z)"
_find_type = re.compile(_FIELD % b"content-type").finditer
_find_encoding = re.compile(_FIELD % b"content-transfer-encoding").finditer
_has_version = re.compile(_FIELD % b"mime-version").search
# Some readers take the first line that is no field for the body's first, and see no field that is added behind it
_has_only_fields = re.compile(rb"(?:[!-9;-~]++[ \t]*+:[^\r\n]*+\r\n(?:[ \t][^\r\n]*+\r\n)*+)*+").fullmatch
_TOKEN = rb"[!#$%&'*+.^_`{|}~0-9A-Za-z-]++"  # RFC 2045 5.1
_BLANK = rb"[ \t\r\n]*+"
_match_type = re.compile(rb"%s(%s)%s/%s(%s)%s" % (_BLANK, _TOKEN, _BLANK, _BLANK, _TOKEN, _BLANK)).match
# parameter := attribute "=" (token / quoted-string); what follows ";" may be nothing. A value that is no token though
# it has no quotes (boundary=a=b) is common: anything up to a separator
_match_parameter = re.compile(
    rb';%s(?:(%s)%s=%s(?:"((?:[^"\\\r\n]++|\\[^\r\n]|\r\n(?=[ \t]))*+)"|([^\s";()]++))%s)?'
    % (_BLANK, _TOKEN, _BLANK, _BLANK, _BLANK)
).match
_match_encoding = re.compile(rb"%s(%s)%s(?:\([^()\\]*+\)%s)?" % (_BLANK, _TOKEN, _BLANK, _BLANK)).fullmatch
_is_boundary = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]*[0-9A-Za-z'()+_,./:=?-]").fullmatch  # RFC 2046 5.1.1, bchars
_drop_escapes = re.compile(rb"\\(.)").sub
_find_lines = re.compile(rb".{1,%d}" % _ENCODED_OCTETS).findall

_IDENTITY = frozenset({b"7bit", b"8bit", b"binary"})


class _Unfit(Exception):
    """The content cannot be converted."""


class _Header(Struct, frozen=True, gc=False):
    """A part's header section: where it ends and the body begins, and what its fields say of the body."""

    end: int  # of the last field, with its CRLF
    body: int
    kind: bytes  # the type, lower case: b"text"
    subtype: bytes
    is_typed: bool  # Content-Type is there
    boundary: bytes  # b"" if there is none, or none to rely on
    encoding: bytes  # b"7bit" if the field is not there
    encoding_span: tuple[int, int] | None  # of the whole field


def to_seven_bit(content: bytes) -> bytes | None:
    """Give the content in 7-bit lines of at most 998 octets; the same object if it is so already, None if it cannot be.

    Every part of the result decodes to the octets that it had.
    """
    conversion = Conversion(content)
    for _ in conversion.steps():
        pass
    return conversion.result


class Conversion:
    """The conversion of one content, for who has other things to do meanwhile. `result`: see to_seven_bit."""

    def __init__(self, content: bytes) -> None:
        self.result: bytes | None = None
        self.is_needed = False
        self._content = content
        self._pieces: list[bytes] = []
        self._parts = 0
        self._boundaries: list[bytes] = []  # of the multiparts we are in

    def steps(self) -> Iterator[None]:
        """Convert; after the last step `result` holds."""
        content = self._content
        if _is_fit(content):
            self.result = content
            return
        self.is_needed = True
        if len(content) <= MOST_OCTETS:
            try:
                yield from self._message(0, len(content), 0)
            except _Unfit:
                return
            self.result = b"".join(self._pieces)

    def _message(self, start: int, end: int, depth: int) -> Iterator[None]:
        """Convert a message: the whole, or one that is forwarded in a part (RFC 2046 5.2.1)."""
        header = self._read_header(start, end, (b"text", b"plain"))
        added = b""
        if not _has_version(self._content, start, header.end):
            added = b"MIME-Version: 1.0\r\n"
        if not header.is_typed:
            added += b"Content-Type: text/plain; charset=unknown-8bit\r\n"  # RFC 1428 3
        yield from self._entity(start, end, header, added, depth)

    def _entity(self, start: int, end: int, header: _Header, added: bytes, depth: int) -> Iterator[None]:
        if depth > _MOST_DEPTH:
            raise _Unfit
        if header.kind == b"multipart":
            if header.subtype == b"signed":  # RFC 1847 2.1: not one octet of it
                raise _Unfit
            self._write_header(start, header, b"7bit", added)
            yield from self._multipart(header, end, depth)
        elif header.kind == b"message":
            if header.subtype != b"rfc822" or header.encoding not in _IDENTITY:
                raise _Unfit  # RFC 2046 5.2.2: a partial must be 7-bit; of others we know no structure
            self._write_header(start, header, b"7bit", added)
            yield from self._message(header.body, end, depth + 1)
        elif header.encoding not in _IDENTITY:
            raise _Unfit  # an encoding that did not make it 7-bit, or that we do not know
        else:
            yield from self._leaf(start, header, end, added)

    def _multipart(self, header: _Header, end: int, depth: int) -> Iterator[None]:
        boundary = header.boundary
        if not boundary or header.encoding not in _IDENTITY:
            raise _Unfit
        default = (b"message", b"rfc822") if header.subtype == b"digest" else (b"text", b"plain")
        self._boundaries.append(boundary)
        at = header.body
        for is_part, start, stop in self._divide(header.body, end, boundary):
            self._parts += 1
            if self._parts > _MOST_PARTS:
                raise _Unfit
            yield  # to find it took time in proportion to what there is, and so does the next level's look at it
            self._keep(at, start)
            at = max(start, stop)
            octets = self._content[start:stop]
            if _is_fit(octets):
                self._pieces.append(octets)
            elif not is_part:  # preamble, epilogue: nobody's text, no field to say how it is encoded
                raise _Unfit
            else:
                part = self._read_header(start, stop, default)
                yield from self._entity(start, stop, part, b"", depth + 1)
        self._boundaries.pop()

    def _divide(self, start: int, end: int, boundary: bytes) -> Iterator[tuple[bool, int, int]]:
        """Give preamble, parts and epilogue, in order: is it a part, from where, to where. Delimiters lie between."""
        # RFC 2046 5.1.1: delimiter := CRLF "--" boundary, transport-padding, CRLF; close-delimiter has "--" before it.
        # The CRLF before the first one may be the header section's last.
        find = re.compile(rb"\r\n--%s(--)?+[ \t]*+(?=\r\n|\Z)" % re.escape(boundary)).finditer
        begins, is_part = start, False
        for delimiter in find(self._content, start - 2, end):
            yield is_part, begins, max(begins, delimiter.start())
            begins, is_part = min(delimiter.end() + 2, end), delimiter[1] is None
            if not is_part:
                break
        yield is_part, begins, end

    def _leaf(self, start: int, header: _Header, end: int, added: bytes) -> Iterator[None]:
        body = self._content[header.body : end]
        if header.kind == b"text" and _has_only_lines(body) and _has_lines_within(body, _BLOCK_OCTETS - 2):
            before = len(self._pieces)
            self._write_header(start, header, b"quoted-printable", added)
            for encoded in _quote(body):
                self._pieces.append(encoded)
                yield
            if not self._boundaries:
                return
            # A soft break may have brought one to the beginning of a line, where it would delimit.
            quoted = b"".join(self._pieces[before:])
            if not any(b"\n--" + boundary in quoted for boundary in self._boundaries):
                return
            del self._pieces[before:]
        self._write_header(start, header, b"base64", added)
        for encoded in _encode(body):
            self._pieces.append(encoded)
            yield
        if not self._boundaries:
            self._pieces.append(b"\r\n")

    def _write_header(self, start: int, header: _Header, encoding: bytes, added: bytes) -> None:
        """Write the header section with the encoding that holds now, and the blank line."""
        field = b"Content-Transfer-Encoding: %s\r\n" % encoding
        span = header.encoding_span
        if span is not None:
            self._keep(start, span[0])
            self._pieces.append(field)
            self._keep(span[1], header.end)
        else:
            self._keep(start, header.end)
            if encoding != b"7bit":
                added += field
        self._pieces.append(added)
        self._pieces.append(b"\r\n")

    def _keep(self, start: int, end: int) -> None:
        if start < end:
            self._pieces.append(self._content[start:end])

    def _read_header(self, start: int, end: int, default: tuple[bytes, bytes]) -> _Header:
        """Read a header section. Raises: _Unfit: it is not 7-bit itself, ambiguous, or there is no body after it."""
        content = self._content
        if content.startswith(b"\r\n", start, end):
            last, body = start, start + 2
        else:
            last = content.find(b"\r\n\r\n", start, end) + 2
            if last < 2:
                raise _Unfit
            body = last + 2
        if not _is_fit(content[start:last]) or _has_only_fields(content, start, last) is None:
            raise _Unfit
        kind, subtype, boundary, is_typed = *default, b"", False
        if (field := _only(_find_type(content, start, last))) is not None:
            kind, subtype, boundary = _parse_type(field[1])
            is_typed = True
        encoding, span = b"7bit", None
        if (field := _only(_find_encoding(content, start, last))) is not None:
            named = _match_encoding(field[1])
            if named is None:
                raise _Unfit
            encoding, span = named[1].lower(), field.span()
        return _Header(last, body, kind, subtype, is_typed, boundary, encoding, span)


def _is_fit(octets: bytes) -> bool:
    return octets.isascii() and _has_only_lines(octets) and _has_lines_within(octets, _LINE_OCTETS)


def _has_only_lines(octets: bytes) -> bool:
    """Are there no CR and LF but in pairs, and no NUL?"""
    pairs = octets.count(b"\r\n")
    return pairs == octets.count(b"\n") and pairs == octets.count(b"\r") and b"\0" not in octets


def _has_lines_within(octets: bytes, most: int) -> bool:
    at, last = 0, len(octets) - most
    while at < last:  # a leap to the last line's end within reach, not a step for each line
        end = octets.rfind(b"\n", at, at + most + 2)
        if end < 0:
            return False
        at = end + 1
    return True


def _only(fields: Iterator[re.Match[bytes]]) -> re.Match[bytes] | None:
    """Give the field if it is there. Raises: _Unfit: it is there twice, and readers differ on which one counts."""
    field = next(fields, None)
    if field is not None and next(fields, None) is not None:
        raise _Unfit
    return field


def _parse_type(value: bytes) -> tuple[bytes, bytes, bytes]:
    """Read Content-Type: type, subtype and boundary, b"" if there is none to rely on. Raises: _Unfit: no media type."""
    media = _match_type(value)
    if media is None:
        raise _Unfit
    boundaries, at = [], media.end()
    while (parameter := _match_parameter(value, at)) is not None:
        at = parameter.end()
        name, quoted, plain = parameter.groups()
        if name is not None and name.lower().startswith(
            b"boundary"
        ):  # with RFC 2231's "boundary*0=", which is nobody's
            boundaries.append(_drop_escapes(rb"\1", quoted) if quoted is not None else plain)
    boundary = boundaries[0] if len(boundaries) == 1 and at == len(value) else b""
    if len(boundary) > _MOST_BOUNDARY or _is_boundary(boundary) is None:
        boundary = b""
    return media[1].lower(), media[2].lower(), boundary


def _quote(text: bytes) -> Iterator[bytes]:
    """Give text in quoted-printable, lines kept (RFC 2045 6.7); none of them may be longer than a block."""
    at, end = 0, len(text)
    while at < end:
        cut = text.rfind(b"\n", at, at + _BLOCK_OCTETS) + 1 if end - at > _BLOCK_OCTETS else end
        block = text[at:cut]
        at = cut
        # b2a_qp breaks long lines as the first line ends, and with a bare LF where there is none
        yield b2a_qp(block) if block.endswith(b"\r\n") else b2a_qp(block + b"\r\n")[:-2]


def _encode(octets: bytes) -> Iterator[bytes]:
    """Give octets in base64, in lines of 76 characters, the last without its end (RFC 2045 6.8)."""
    for start in range(0, len(octets), _BLOCK_OCTETS):
        lines = b"\r\n".join(_find_lines(b2a_base64(octets[start : start + _BLOCK_OCTETS], newline=False)))
        yield b"\r\n" + lines if start else lines
