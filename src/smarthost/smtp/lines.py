# SPDX-License-Identifier: MIT
"""Cuts what a client sends into command lines and content. Only CRLF ends a line, only CRLF "." CRLF ends content.

Bare CR and bare LF end nothing (SMTP smuggling, CVE-2023-51764): a line with a bare LF is refused whole, content with
either is read to its real end and refused there. Memory is bounded: a line by its limit, content by one piece.
Called by smtp.server only. All searches are bytes.find and bytes.replace; nothing loops over lines or octets.
"""

import re
from enum import Enum

from smarthost.mail.reply import Reply, reply
from smarthost.smtp.limits import COMMAND_LINE_OCTETS, CONTENT_PIECE_OCTETS, DISCARD_OCTETS

BARE_NEWLINE = reply(550, "5.6.11", "The content has a CR or LF that is not part of a CRLF")
NUL_OCTET = reply(550, "5.6.11", "The content has a NUL octet")
TOO_LARGE = reply(552, "5.3.4", "The message is larger than what is accepted here")

_END = b"\r\n.\r\n"
_TLS = b"\x16\x03"  # record type handshake, TLS (RFC 8446 5.1)
# Chunks that wait before they are joined: each costs some 40 octets more, which is much if a client sends two at once.
PARTS = 256
# A dot that begins a line, where all LFs are known to end one. 5 KiB: re 2.0 us, `b"\r\n." in` 3.3.
_search_line_dot = re.compile(rb"\n\.").search


class Fault(Enum):
    """Why there is no line where one should be."""

    BARE_LF = "bare LF"  # told once; what follows up to the next CRLF is not read
    OVERLONG = "line too long"  # likewise
    ENDLESS = "endless line"  # the CRLF did not come within DISCARD_OCTETS either
    TLS = "TLS handshake"  # on a port that speaks clear text first


class InputBuffer:
    """Octets received and not yet consumed, and where the next line begins."""

    __slots__ = ("_at", "_discarded", "_is_discarding", "_later", "_octets")

    def __init__(self) -> None:
        self._octets = b""
        self._at = 0
        self._later = bytearray()  # what came while `_octets` was not used up; joined when needed, so never quadratic
        self._is_discarding = False
        self._discarded = 0

    def __len__(self) -> int:
        return len(self._octets) - self._at + len(self._later)

    def append(self, chunk: bytes) -> None:
        if self._later or self._at < len(self._octets):
            self._later += chunk
        else:
            self._octets = chunk
            self._at = 0

    def clear(self) -> None:
        self._let_go()
        self._later.clear()

    def take_line(self, limit: int = COMMAND_LINE_OCTETS) -> bytes | Fault | None:
        """Give the next line, of at most `limit` octets, without its CRLF and free of LF; None: not complete yet."""
        at = self._at
        if not self._is_discarding:
            end = self._octets.find(b"\r\n", at, at + limit)
            if end >= 0:
                self._at = end + 2
                line = self._octets[at:end]
                return line if b"\n" not in line and not line.startswith(_TLS) else _name_fault(line)
            if at == len(self._octets) and not self._later:
                self._let_go()
                return None  # all was read: the usual state between two commands
        self._join()
        return self._discard(limit) if self._is_discarding else self._take_slowly(limit)

    def unread(self) -> tuple[bytes, int]:
        """Give octets and the index from which they are unread; `consume` says how far they were used."""
        self._join()
        return self._octets, self._at

    def consume(self, end: int) -> None:
        """Forget everything before index `end` of the octets that `unread` gave."""
        self._at = end
        if end == len(self._octets):
            self._let_go()

    def _let_go(self) -> None:
        """Keep no used-up chunk alive in a session that idles: 1,000 of them may hold 256 KiB each."""
        self._octets = b""
        self._at = 0

    def _join(self) -> None:
        if self._later:
            self._octets = self._octets[self._at :] + self._later
            self._at = 0
            self._later = bytearray()

    def _take_slowly(self, limit: int) -> bytes | Fault | None:
        """Take the line if the octets just joined complete it, else see whether it can still become one."""
        octets, at = self._octets, self._at
        window = at + limit
        end = octets.find(b"\r\n", at, window)
        if end >= 0:
            self._at = end + 2
            line = octets[at:end]
            return line if b"\n" not in line and not line.startswith(_TLS) else _name_fault(line)
        if octets.startswith(_TLS, at):
            return Fault.TLS
        if octets.find(b"\n", at, window) >= 0:
            self._is_discarding = True
            return Fault.BARE_LF  # at once: who types LF at us would wait for an answer until the timeout
        if len(octets) >= window:
            self._is_discarding = True
            return Fault.OVERLONG
        return None

    def _discard(self, limit: int) -> bytes | Fault | None:
        octets, at = self._octets, self._at
        window = at + DISCARD_OCTETS - self._discarded
        end = octets.find(b"\r\n", at, window)
        if end >= 0:
            self._at = end + 2
            self._is_discarding = False
            self._discarded = 0
            return self.take_line(limit)
        if len(octets) >= window:
            return Fault.ENDLESS
        end = len(octets) - octets.endswith(b"\r")  # the CR may be half of the CRLF
        if end > at:
            self._discarded += end - at
            self._at = end
        return None


def _name_fault(line: bytes) -> Fault:
    # What it is must not depend on how far the octets had come when we looked.
    return Fault.TLS if line.startswith(_TLS) else Fault.BARE_LF


class ContentReader:
    """Reads the content of one transaction: finds its end, removes the stuffed dots, notices what is wrong with it.

    `defect` is the reply that must be given at the end, None as long as nothing is wrong. Once something is, nothing
    more is kept or given out. `normalises_newlines`: a bare CR or LF becomes a CRLF instead of a defect. That is done
    to content already cut out, before its dots are unstuffed, so it can neither end the data nor hide their end.
    """

    # fmt: off
    __slots__ = (
        "_at_line_start", "_given", "_held", "_max_octets", "_normalises_newlines", "_parts", "_tail", "defect",
    )
    # fmt: on

    def __init__(self, max_octets: int, normalises_newlines: bool = False) -> None:
        self.defect: Reply | None = None
        self._max_octets = max_octets
        self._normalises_newlines = normalises_newlines
        self._parts: list[bytes | memoryview] = []  # read, dots still stuffed, not yet given out
        self._held = 0
        self._at_line_start = True  # of the first octet held
        self._tail = b"\r\n"  # the last four octets read: the end may straddle chunks. DATA's own CRLF counts
        self._given = 0

    @property
    def held(self) -> int:
        """How many octets wait in memory."""
        return self._held

    def read(self, octets: bytes, at: int) -> int:
        """Read on from index `at`; give the index behind the final dot's CRLF, or -1: all was read, more must come."""
        if at == len(octets):
            return -1
        tail = self._tail
        found = (tail + octets[at : at + 4]).find(_END)
        if found >= 0:
            found += at - len(tail)
        else:
            found = octets.find(_END, at)
            if found < 0:
                self._hold(octets[at:])
                self._tail = octets[-4:] if len(octets) - at >= 4 else (tail + octets[at:])[-4:]
                return -1
        self._hold_last(octets, at, found + 2)
        return found + 5

    def take_piece(self) -> bytes:
        """Give a piece if more than CONTENT_PIECE_OCTETS wait, else b""."""
        if self._held <= CONTENT_PIECE_OCTETS:
            return b""
        raw = b"".join(self._parts)
        # A CR stays for the LF that must follow. A line's first dot goes now: it is stuffed, or the final one.
        kept = raw.endswith(b"\r")
        end = len(raw) - kept
        self._parts = [b"\r"] if kept else []
        self._held = int(kept)
        piece = self._clean(raw[:end])
        self._at_line_start = raw.endswith(b"\n", 0, end)
        return piece

    def take_rest(self) -> bytes:
        """Give what is left when `read` has found the end; b"" if nothing is, or if the content is refused."""
        raw = b"".join(self._parts)
        self._drop()
        return self._clean(raw) if raw else raw

    def _hold(self, octets: bytes) -> None:
        if self.defect is None:
            self._parts.append(octets)
            self._held += len(octets)
            if len(self._parts) > PARTS:
                self._parts = [b"".join(self._parts)]

    def _hold_last(self, octets: bytes, at: int, end: int) -> None:
        """Hold the content up to index `end`, which lies before `at` when the end of data straddles chunks."""
        if self.defect is not None:
            return
        if end < at:
            self._parts = [b"".join(self._parts)[: end - at]]
        else:
            # A view, so that joining copies once; with a single part there is nothing to join.
            self._parts.append(memoryview(octets)[at:end] if self._parts else octets[at:end])

    def _drop(self) -> None:
        self._parts = []
        self._held = 0

    def _clean(self, raw: bytes) -> bytes:
        """Give whole lines or parts of lines with their dots unstuffed (RFC 5321 4.5.2); b"" and a defect if unfit."""
        defect = find_defect(raw)
        if defect is BARE_NEWLINE and self._normalises_newlines:
            raw = normalise_newlines(raw)
            defect = NUL_OCTET if b"\0" in raw else None
        if defect is not None:
            return self._refuse(defect)
        if self._at_line_start and raw[0] == 0x2E:
            raw = raw[1:]
        if _search_line_dot(raw) is not None:
            raw = raw.replace(b"\r\n.", b"\r\n")
        self._given += len(raw)
        return raw if self._given <= self._max_octets else self._refuse(TOO_LARGE)

    def _refuse(self, defect: Reply) -> bytes:
        self.defect = defect
        self._drop()
        return b""


def find_defect(octets: bytes) -> Reply | None:
    """Say what is wrong with octets that are to be content or whole lines of it, if anything is."""
    # All CRs out, then one before each LF: the same again only if there were CRLFs and nothing else. For 5 KiB of
    # ordinary lines this is 1.7 us, where counting CR, LF and CRLF is 8; only for lines of no octets it is slower.
    if octets.replace(b"\r", b"").replace(b"\n", b"\r\n") != octets:
        return BARE_NEWLINE
    return NUL_OCTET if b"\0" in octets else None


def normalise_newlines(octets: bytes) -> bytes:
    """Make a CRLF of each CR, LF and CRLF; `octets` do not end within one."""
    return octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
