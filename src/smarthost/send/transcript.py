# SPDX-License-Identifier: MIT
"""What was said in a session, for people: bounded, secrets removed, control characters escaped.

Pure. `send.session` tells it the octets of both sides as they pass, never content. Telling costs one append: lines are
made only when somebody reads, or when much has piled up, so that mail which goes through pays next to nothing.
When there is too much, the beginning and the end are kept.
"""

import re
from base64 import b64decode
from collections import deque

MOST_LINES = 200
MOST_CHARACTERS = 16_384
LINE_CHARACTERS = 512  # RFC 5321 4.5.3.1.4; the rest of a longer line is cut off
_FOLD_OCTETS = 16_384  # told octets that may wait to be made into lines
_FOLD_PIECES = 256
_PARTIAL_OCTETS = 16_384  # of a line whose end was not told yet; must exceed the longest AUTH (12,288: RFC 4954 4)
_TELLING = 4  # octets of Base64 by which a secret is known again, however the host cut it (as smtp.auth has it)
_TELLING_PLAIN = 6  # the same of what it stands for, which may have words in it; shorter ones as a whole

_match_code = re.compile(rb"(?:\d{3}(?:[- ]\d\.\d{1,3}\.\d{1,3})?)?").match


class Transcript:
    """The transcript of one session, from either end's point of view: `sent` is ours, `heard` the host's."""

    __slots__ = (
        "_awaits_secret",
        "_head",
        "_head_left",
        "_left_out",
        "_partial",
        "_pieces",
        "_secrets",
        "_set_up",
        "_size",
        "_tail",
        "_tail_size",
    )

    def __init__(self) -> None:
        self._pieces: list[tuple[str, bytes]] = []  # told, not yet made into lines
        self._size = 0
        self._set_up: tuple[str, ...] | None = None  # what was told before the first transaction
        self._partial = {">": b"", "<": b""}
        self._awaits_secret = False  # AUTH was sent, and the host has not given its final answer
        self._secrets: frozenset[bytes] = frozenset()  # what would give away what we said in it
        self._head: list[str] = []
        self._head_left = MOST_CHARACTERS // 2
        self._tail: deque[str] = deque()
        self._tail_size = 0
        self._left_out = 0

    def begin_transaction(self) -> None:
        """Forget the transactions before: who reads wants how the session began, and what went wrong now."""
        if self._set_up is None:
            self._fold()
            self._set_up = self.lines()
        self._pieces, self._size = [], 0
        self._partial = {">": b"", "<": b""}
        self._awaits_secret, self._secrets = False, frozenset()
        self._head, self._tail = [], deque()
        self._head_left = MOST_CHARACTERS // 2
        self._tail_size = self._left_out = 0

    def sent(self, octets: bytes) -> None:
        """Note what we sent: commands only, never content."""
        self._tell(">", octets)

    def heard(self, octets: bytes) -> None:
        """Note what the host sent."""
        self._tell("<", octets)

    def note(self, text: str) -> None:
        """Note something that is not said in octets ("TLS 1.3 established", "content, 5120 octets")."""
        self._tell("*", text.encode("utf-8", "replace") + b"\n")

    def lines(self) -> tuple[str, ...]:
        """Give the lines, each with its side: "> " ours, "< " the host's, "* " a note."""
        self._fold()
        unfinished = [self._display(side, rest) for side, rest in self._partial.items() if rest]
        gap = [f"* {self._left_out} lines left out"] if self._left_out else []
        return (*(self._set_up or ()), *self._head, *gap, *self._tail, *unfinished)

    def _tell(self, side: str, octets: bytes) -> None:
        self._pieces.append((side, octets))
        self._size += len(octets)
        if self._size > _FOLD_OCTETS or len(self._pieces) > _FOLD_PIECES:
            self._fold()

    def _fold(self) -> None:
        """Make lines of what was told. Secrets depend on order, so all of it passes here, kept or not."""
        pieces, self._pieces, self._size = self._pieces, [], 0
        for side, octets in pieces:
            *complete, rest = (self._partial.get(side, b"") + octets).split(b"\n")
            for line in complete:
                self._add(self._display(side, line))
                self._follow_auth(side, line)
            if side in self._partial:
                self._partial[side] = rest[:_PARTIAL_OCTETS]

    def _follow_auth(self, side: str, line: bytes) -> None:
        if side == ">" and (self._awaits_secret or line[:4].upper() == b"AUTH"):
            said = line if self._awaits_secret else b"".join(line.split()[2:3])
            self._awaits_secret = True
            self._secrets |= _tells_of(said.strip())
        elif side == "<" and line[:3] != b"334" and line[3:4] != b"-":  # RFC 4954 4: 334 asks for more
            self._awaits_secret, self._secrets = False, frozenset()

    def _display(self, side: str, line: bytes) -> str:
        if side == ">":
            line = self._without_secret(line)
        elif self._secrets and self._gives_away(line[: LINE_CHARACTERS * 4]):  # some hosts say back what they were told
            line = _match_code(line)[0] + b" ***"  # type: ignore[index]
        text = line[: LINE_CHARACTERS * 4].removesuffix(b"\r").decode("utf-8", "backslashreplace")
        if not text.isprintable():
            text = "".join([c if c.isprintable() else ascii(c)[1:-1] for c in text])
        cut = f"{text[:LINE_CHARACTERS]}..." if len(text) > LINE_CHARACTERS else text
        return f"{side} {cut}"

    def _gives_away(self, line: bytes) -> bool:
        sizes = range(_TELLING, _TELLING_PLAIN + 1)
        return any(line[at : at + size] in self._secrets for size in sizes for at in range(len(line)))

    def _without_secret(self, line: bytes) -> bytes:
        if self._awaits_secret:
            return b"***"
        if line[:4].upper() == b"AUTH":
            mechanism = b" ".join(line.split()[:2])
            return mechanism[:64] + b" ***"
        return line

    def _add(self, line: str) -> None:
        if not self._tail and len(self._head) < MOST_LINES // 2 and len(line) <= self._head_left:
            self._head.append(line)
            self._head_left -= len(line)
            return
        self._tail.append(line)
        self._tail_size += len(line)
        while len(self._tail) > MOST_LINES // 2 or self._tail_size > MOST_CHARACTERS // 2:
            self._tail_size -= len(self._tail.popleft())
            self._left_out += 1


def _tells_of(said: bytes) -> frozenset[bytes]:
    """Give the pieces that would give away an answer to AUTH: of its Base64, and of the password in it."""
    try:
        password = b64decode(said).rpartition(b"\0")[2]  # RFC 4616 2: behind the last NUL; in LOGIN there is none
    except ValueError:
        password = b""
    size = max(_TELLING, min(len(password), _TELLING_PLAIN))  # a shorter one stands in any sentence
    return frozenset((*_pieces_of(said, _TELLING), *_pieces_of(password, size)))


def _pieces_of(text: bytes, size: int) -> list[bytes]:
    return [text[at : at + size] for at in range(len(text) - size + 1)]
