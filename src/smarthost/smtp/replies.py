# SPDX-License-Identifier: MIT
"""Parses what a peer says (RFC 5321 4.2, RFC 2034) from octets, however they are cut, into clean Reply values.

Sans-IO, called by smtp.client only. Any octets give replies or RemoteProtocolError, in bounded time and memory. The
text of a Reply is printable: what a host says ends up in logs, records, reports and terminals.

Lines may end in a bare LF: a few old hosts do that. It opens nothing: all octets here are the one peer's own, so it
could as well have sent a CRLF; and octets after a 220 to STARTTLS end the session however they are terminated.
"""

from functools import lru_cache

from smarthost.mail.errors import LocalProtocolError, RemoteProtocolError
from smarthost.mail.reply import Reply

LINE_OCTETS = 4096  # RFC 5321 4.5.3.1.5 says 512; hosts that explain themselves at length exceed it
REPLY_LINES = 100  # an EHLO answer of 40 lines is the longest known; without a bound "250-" never ends
REPLY_OCTETS = 65_536  # must exceed LINE_OCTETS
UNREAD_OCTETS = 1 << 20  # more than this unread means that nobody calls next_reply; exceeds any single read

_CODES = {b"%d" % code: code for code in range(200, 600)}  # RFC 5321 4.2: 1yz does not exist in SMTP


class ReplyParser:
    """Octets in, replies out. After an error it must not be used again."""

    __slots__ = ("_buffer", "_code", "_enhanced", "_lines", "_octets", "_start")

    def __init__(self) -> None:
        self._buffer = b""
        self._start = 0  # of what is unread in the buffer
        self._code = 0  # of the multi-line reply that has begun, else 0
        self._enhanced = ""
        self._lines: list[str] = []
        self._octets = 0

    @property
    def has_buffered(self) -> bool:
        """Is there anything that next_reply has not given out yet?"""
        return self._start < len(self._buffer) or self._code != 0

    def feed(self, chunk: bytes) -> None:
        """Add octets.

        Raises: LocalProtocolError: next_reply is never called, and memory must stay bounded.
        """
        unread = len(self._buffer) - self._start
        if unread > UNREAD_OCTETS:
            raise LocalProtocolError("replies are fed but not taken")
        self._buffer = self._buffer[self._start :] + chunk if unread else chunk
        self._start = 0

    def next_reply(self) -> Reply | None:
        """Give the next complete reply, or None.

        Raises: RemoteProtocolError: not a reply, too long, or codes within one reply differ.
        """
        while (line := self._next_line()) is not None:
            if self._code == 0 and line[3:4] != b"-":
                return _parse_single(line)
            reply = self._add_line(line)
            if reply is not None:
                return reply
        return None

    def _next_line(self) -> bytes | None:
        buffer, start = self._buffer, self._start
        end = buffer.find(b"\n", start)
        if end < 0:
            if len(buffer) - start > LINE_OCTETS:
                raise RemoteProtocolError(f"a reply line of more than {LINE_OCTETS} octets")
            return None
        self._start = end + 1
        if end > start and buffer[end - 1] == 0x0D:
            end -= 1
        if end - start > LINE_OCTETS:
            raise RemoteProtocolError(f"a reply line of more than {LINE_OCTETS} octets")
        return buffer[start:end]

    def _add_line(self, line: bytes) -> Reply | None:
        code = _read_code(line)
        enhanced, text = _read_text(line, code)
        if self._code == 0:
            self._code, self._enhanced = code, enhanced
        elif code != self._code:
            raise RemoteProtocolError(f"a reply that is both {self._code} and {code}")
        elif enhanced != self._enhanced:
            text = f"{enhanced} {text}" if enhanced else text  # evidence: only the common code is taken off
        self._lines.append(text)
        self._octets += len(line)
        if len(self._lines) > REPLY_LINES or self._octets > REPLY_OCTETS:
            raise RemoteProtocolError(f"a reply of more than {REPLY_LINES} lines or {REPLY_OCTETS} octets")
        if line[3:4] == b"-":
            return None
        reply = Reply(code, self._enhanced, tuple(self._lines))
        self._code, self._enhanced, self._octets = 0, "", 0
        self._lines = []
        return reply


# Hosts say the same few lines ("250 2.1.0 Ok") all day, and a Reply is frozen: 0.1 us instead of 1.2. Bounded by
# 256 lines of LINE_OCTETS; a hostile host can only push others out of it.
@lru_cache(maxsize=256)
def _parse_single(line: bytes) -> Reply:
    code = _read_code(line)
    enhanced, text = _read_text(line, code)
    return Reply(code, enhanced, (text,))


def _read_code(line: bytes) -> int:
    # Reply-line = Reply-code [ SP / "-" textstring ]; a code alone is accepted as RFC 5321 4.2 asks of clients
    code = _CODES.get(line[:3])
    if code is None or line[3:4] not in (b" ", b"-", b""):
        raise RemoteProtocolError(f"not a reply: {line[:80]!r}")
    return code


def _read_text(line: bytes, code: int) -> tuple[str, str]:
    """Give (enhanced code or "", clean text)."""
    text = line[4:].decode("utf-8", "replace")
    if not text.isprintable():
        # Controls, line separators, direction overrides: whatever could forge a line or move a cursor
        text = "".join([c if c.isprintable() else " " if c == "\t" else "\ufffd" for c in text])
    if text[1:2] != ".":
        return "", text
    enhanced, _, rest = text.partition(" ")
    if len(enhanced) <= 9 and _is_enhanced(enhanced, code // 100):
        return enhanced, rest
    return "", text


@lru_cache(maxsize=256)  # the same dozen codes all day
def _is_enhanced(token: str, digit: int) -> bool:
    # RFC 2034 4, RFC 3463 2: class "." subject "." detail, the class being the reply's first digit
    parts = token.split(".")
    return parts[0] == str(digit) and digit != 3 and len(parts) == 3 and all(map(_is_short_number, parts[1:]))


def _is_short_number(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) <= 3 and (part[0] != "0" or part == "0")
