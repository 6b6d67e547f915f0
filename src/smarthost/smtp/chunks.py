# SPDX-License-Identifier: MIT
"""Reads content that comes in chunks (RFC 3030): counted octets, where no dot and no line ends anything.

What BDAT brings may have to leave through DATA, where a bare CR or LF is dangerous (SMTP smuggling): it is refused as
DATA refuses it, unless MAIL said BINARYMIME; then the header section alone must consist of lines. Every octet is judged
when it comes, so that a chunk's answer does not depend on packets. Memory is bounded by one piece. Used by smtp.server
only.
"""

import re

from msgspec import Struct

from smarthost.mail.reply import Reply
from smarthost.smtp.limits import CONTENT_PIECE_OCTETS
from smarthost.smtp.lines import BARE_NEWLINE, PARTS, TOO_LARGE, find_defect

#   bdat-cmd = "BDAT" SP chunk-size [ SP end-marker ] CRLF     chunk-size = 1*DIGIT     end-marker = "LAST"
# 20 digits, as SIZE has: more were never meant as a number of octets.
_match_chunk = re.compile(rb"([0-9]{1,20})(?: ((?i:LAST)))?[ \t]*").fullmatch


class Chunk(Struct, frozen=True, gc=False):
    """The argument of one BDAT."""

    octets: int
    is_last: bool


def parse_chunk(argument: bytes) -> Chunk | None:
    """Read what follows "BDAT "; None: malformed, and nobody knows how many octets follow."""
    match = _match_chunk(argument)
    return None if match is None else Chunk(int(match[1]), match[2] is not None)


class ChunkReader:
    """Reads the chunks of one transaction; `begin` each, then `read` until it says that the chunk has ended.

    `defect` is the reply that must be given, None as long as nothing is wrong. Once something is, nothing more is kept
    or given out.
    """

    # fmt: off
    __slots__ = (
        "_after_cr", "_at_line_start", "_held", "_is_header", "_is_text", "_left", "_parts", "_room", "chunk", "defect",
    )
    # fmt: on

    def __init__(self, max_octets: int, *, is_binary: bool) -> None:
        self.defect: Reply | None = None
        self.chunk = Chunk(0, False)
        self._left = 0  # octets of this chunk not yet read
        self._room = max_octets
        self._is_text = not is_binary
        self._is_header = True
        self._at_line_start = True
        self._after_cr = False  # the last octet read is a CR whose LF must follow
        self._parts: list[bytes] = []
        self._held = 0

    @property
    def held(self) -> int:
        """How many octets wait in memory."""
        return self._held

    def begin(self, chunk: Chunk) -> None:
        """Expect a chunk; one that makes the message too large is a defect before its first octet has come."""
        self.chunk = chunk
        self._left = chunk.octets
        self._room -= chunk.octets
        if self._room < 0:
            self._refuse(TOO_LARGE)

    def read(self, octets: bytes, at: int) -> int:
        """Read on from index `at`; give the index behind what belongs to the chunk."""
        end = min(len(octets), at + self._left)
        if end > at:
            self._left -= end - at
            if self.defect is None:
                self._hold(octets[at:end])
        return end

    @property
    def is_at_end(self) -> bool:
        """Has the whole chunk been read?"""
        return self._left == 0

    def end_content(self) -> None:
        """The last chunk was read: nothing can complete a line any more."""
        if self._after_cr:
            self._refuse(BARE_NEWLINE)

    def take_piece(self) -> bytes:
        """Give a piece if more than CONTENT_PIECE_OCTETS wait, else b""."""
        return self.take_rest() if self._held > CONTENT_PIECE_OCTETS else b""

    def take_rest(self) -> bytes:
        """Give all that waits."""
        parts = self._parts
        rest = parts[0] if len(parts) == 1 else b"".join(parts)
        self._drop()
        return rest

    def _hold(self, octets: bytes) -> None:
        if self._is_text or self._is_header:
            defect = self._find_defect(octets)
            if defect is not None:
                self._refuse(defect)
                return
        self._parts.append(octets)
        self._held += len(octets)
        if len(self._parts) > PARTS:
            self._parts = [b"".join(self._parts)]

    def _find_defect(self, octets: bytes) -> Reply | None:
        lines = b"\r" + octets if self._after_cr else octets
        self._after_cr = False
        if self._is_header and not self._is_text:
            end = self._find_header_end(lines)
            if end >= 0:
                self._is_header = False
                return find_defect(lines[:end])
        if lines.endswith(b"\r"):
            self._after_cr = True
            lines = lines[:-1]
        if lines:
            self._at_line_start = lines.endswith(b"\n")
        return find_defect(lines)

    def _find_header_end(self, lines: bytes) -> int:
        """Find the index behind the empty line that ends the header section (RFC 5322 2.1), or -1."""
        if self._at_line_start and lines.startswith(b"\r\n"):
            return 2
        found = lines.find(b"\r\n\r\n")
        return found + 4 if found >= 0 else -1

    def _drop(self) -> None:
        self._parts = []
        self._held = 0

    def _refuse(self, defect: Reply) -> None:
        self.defect = defect
        self._after_cr = False
        self._drop()
