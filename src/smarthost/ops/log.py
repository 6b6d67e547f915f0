# SPDX-License-Identifier: MIT
"""JSON lines on stderr that never hold up the mail: one for each record, one for each note.

A line is encoded at once (2 us) and written some milliseconds later, many in one go, by the loop itself: a writing
thread would fight a busy loop for the GIL. A reader that does not read costs at most `KEPT_OCTETS`; the oldest lines
go first, and a line says how many. A crash loses what was not yet written, 50 ms at most; records are in the store.
"""

import os
import re
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Struct

from smarthost.mail.record import TROUBLES, Kind, Record

FLUSH_S = 0.05
FLUSH_OCTETS = 64 << 10
KEPT_OCTETS = 4 << 20
# pipe(7): a pipe that polls as writable takes PIPE_BUF octets at once without blocking. Setting O_NONBLOCK instead
# would change the terminal or pipe for everybody who shares it.
WRITE_OCTETS: Final = select.PIPE_BUF

_RANKS = {"debug": 0, "info": 1, "warning": 2, "error": 3}
_RECORD_LEVELS = {kind: "warning" if kind in TROUBLES else "info" for kind in Kind}
_HIDDEN = re.compile("[\u007f-\u009f\u2028\u2029]")  # what JSON leaves as it is, and terminals or viewers obey
_MILLISECONDS = [f".{number:03d}Z" for number in range(1000)]
_STAMPS = 4096  # distinct seconds remembered: now, and the times of next attempts


class RecordLine(Struct, omit_defaults=True, gc=False):
    """A record as a line; docs/commands.md has the fields."""

    at: str
    level: str
    what: str
    id: str = ""
    recipient: str = ""
    reverse_path: str = ""
    attempt: int = 0
    status: str = ""
    reply: str = ""
    why: str = ""
    host: str = ""
    address: str = ""
    lane: str = ""
    tls: str = ""
    ambiguous: bool = False
    octets: int = 0
    client: str = ""
    next_attempt_at: str = ""
    queued_s: float = 0.0
    connect_s: float = 0.0
    handshake_s: float = 0.0
    transfer_s: float = 0.0
    walk: tuple[str, ...] = ()
    service: str = ""
    user: str = ""


def _describe(thing: object) -> str:
    return str(thing)


def _rounded(seconds: float) -> float:
    return round(seconds, 6) if seconds else 0.0


_encode = msgspec.json.Encoder(enc_hook=_describe).encode


class JsonLog:
    """A Sink that writes to a file descriptor. Belongs to one loop, whose `call_later` is handed in."""

    def __init__(
        self,
        fd: int,
        call_later: Callable[[float, Callable[[], None]], object],
        *,
        level: str = "info",
        accepted: bool = True,
        now: Callable[[], float] = time.time,
        kept_octets: int = KEPT_OCTETS,
    ) -> None:
        self._fd = fd
        self._call_later = call_later
        self.adopt(level, accepted)
        self._now = now
        self._kept_octets = kept_octets
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._lines: deque[bytes] = deque()
        self._octets = 0
        self._written_of_first = 0
        self._dropped = 0
        self._is_scheduled = False
        self._is_gone = False
        self._stamps: dict[int, str] = {}

    def adopt(self, level: str, accepted: bool) -> None:
        """Tell what is of this level or above it, from now on."""
        self._rank = _RANKS[level]
        self._shown = {
            kind: (record_level, kind.value)
            for kind, record_level in _RECORD_LEVELS.items()
            if _RANKS[record_level] >= self._rank and (accepted or kind is not Kind.ACCEPTED)
        }

    @property
    def dropped(self) -> int:
        """How many lines were dropped since the last one that said so."""
        return self._dropped

    def record(self, record: Record) -> None:
        """Tell about something that happened to a recipient; never blocks, never raises."""
        shown = self._shown.get(record.kind)
        if shown is None:
            return
        line = RecordLine(
            self._stamp(record.at),
            shown[0],
            shown[1],
            record.id,
            record.recipient,
            record.reverse_path,
            record.attempt,
            record.status,
            record.reply,
            record.why,
            record.host,
            record.address,
            record.lane,
            record.tls,
            record.ambiguous,
            record.octets,
            record.client,
            self._stamp(record.next_attempt_at) if record.next_attempt_at else "",
            _rounded(record.queued_s),
            _rounded(record.connect_s),
            _rounded(record.handshake_s),
            _rounded(record.transfer_s),
            record.walk,
            record.service,
            record.user,
        )
        try:
            self._keep(_encode(line))
        except ValueError as error:  # a lone surrogate, which no text of ours should hold
            self.note("error", "a record could not be logged", id=record.id, why=ascii(str(error)))

    def note(self, level: str, what: str, **facts: object) -> None:
        """Tell about something else; never blocks, never raises."""
        if _RANKS.get(level, 3) >= self._rank:
            self.announce(level, what, **facts)

    def announce(self, level: str, what: str, **facts: object) -> None:
        """Tell whatever the level is set to, as for the ready line."""
        line: dict[str, object] = {"at": self._stamp(self._now()), "level": level, "what": what, **facts}
        try:
            self._keep(_encode(line))
        except (ValueError, TypeError):  # a lone surrogate, or a key that is no text
            self._keep(_encode({name: ascii(fact) for name, fact in line.items()}))

    def flush(self) -> None:
        """Write as much as is taken without blocking; the rest is tried again soon."""
        self._is_scheduled = False
        self._write(wait_ms=0)
        if self._lines:
            self._schedule()

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what is left, waiting at most so long for the reader at each step; the descriptor stays open."""
        self._write(wait_ms=int(timeout_s * 1000))
        self._is_gone = True

    def _keep(self, line: bytes) -> None:
        if self._is_gone:
            return
        if b"\x7f" in line or not line.isascii():
            line = _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", line.decode()).encode()
        self._lines.append(line)
        self._octets += len(line)
        if self._octets > self._kept_octets:
            self._drop()
        if not self._is_scheduled:
            self._schedule()
        elif self._octets - len(line) < FLUSH_OCTETS <= self._octets:
            self._write(wait_ms=0)

    def _schedule(self) -> None:
        self._is_scheduled = True
        self._call_later(FLUSH_S, self.flush)

    def _drop(self) -> None:
        """Let the oldest lines go; one that is half written stays, or the reader would see a broken line."""
        half = self._lines.popleft() if self._written_of_first else None
        while self._octets > self._kept_octets and len(self._lines) > 1:
            self._octets -= len(self._lines.popleft())
            self._dropped += 1
        if half is not None:
            self._lines.appendleft(half)

    def _write(self, wait_ms: int) -> None:
        while self._lines and not self._is_gone and self._poll.poll(wait_ms):
            if self._dropped and not self._written_of_first:
                self._confess()
            piece, count = self._next_piece()
            try:
                written = os.write(self._fd, piece)
            except OSError as error:
                if not isinstance(error, BlockingIOError):  # nobody can read it any more: mail goes on without a log
                    self._is_gone = True
                    self._lines.clear()
                return
            self._forget(written, count)

    def _confess(self) -> None:
        line = {"at": self._stamp(self._now()), "level": "warning", "what": "log lines dropped", "count": self._dropped}
        self._dropped = 0
        encoded = _encode(line)
        self._lines.appendleft(encoded)
        self._octets += len(encoded)

    def _next_piece(self) -> tuple[bytes, int]:
        """Give whole lines up to one write's worth, or the next part of a line that is longer; and how many lines."""
        lines = self._lines
        if self._written_of_first or len(lines[0]) >= WRITE_OCTETS:
            piece = (lines[0] + b"\n")[self._written_of_first : self._written_of_first + WRITE_OCTETS]
            return piece, 1
        chosen: list[bytes] = []
        room = WRITE_OCTETS
        for line in lines:
            room -= len(line) + 1
            if room < 0:
                break
            chosen.append(line)
        return b"\n".join(chosen) + b"\n", len(chosen)

    def _forget(self, written: int, count: int) -> None:
        for _ in range(count):
            left = len(self._lines[0]) + 1 - self._written_of_first
            if written < left:
                self._written_of_first += written
                return
            written -= left
            self._octets -= len(self._lines.popleft())
            self._written_of_first = 0

    def _stamp(self, at: float) -> str:
        second = int(at)
        text = self._stamps.get(second)
        if text is None:
            if len(self._stamps) >= _STAMPS:
                self._stamps.clear()
            text = self._stamps[second] = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return text + _MILLISECONDS[int((at - second) * 1000)]
