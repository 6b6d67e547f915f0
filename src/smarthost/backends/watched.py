# SPDX-License-Identifier: MIT
"""Files that may change under a running daemon: certificates, keys, users.

Whoever needs what is in them asks for `value` each time; the files are looked at once a second at most, and only then.
A change is taken when it has rested for a moment (a file being written is not read half), is read whole, and `load`
likes it; else the old value stays, which is noted once for each change. Nothing here knows what the files mean.
"""

import os
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from smarthost.mail.errors import ConfigError
from smarthost.ports import Clock

T = TypeVar("T")
Note = Callable[..., None]  # ports.Sink.note

LOOK_S = 1.0  # three stats cost 5 us: a storm of handshakes must not pay them each time
REST_S = 0.25  # a change younger than this may be half of one; whoever writes slower is caught by the next change

_Look = tuple[tuple[int, int, int], ...]


class WatchedFiles(Generic[T]):
    """The value that `load` makes of some files, made again when one of them changes.

    `load` may raise ConfigError or OSError: the first time it goes to the caller, later it is noted, as an error called
    `complaint` with the facts `file` and `why`.
    """

    def __init__(
        self, paths: Sequence[str], load: Callable[[], T], clock: Clock, note: Note, complaint: str = "file not taken"
    ) -> None:
        self._paths = tuple(paths)
        self._load = load
        self._clock = clock
        self._note = note
        self._complaint = complaint
        self._seen = self._look()
        self._value = load()
        self._look_at = clock.monotonic() + LOOK_S

    @property
    def value(self) -> T:
        """Give what the files say now, or said before they became bad."""
        now = self._clock.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            self._follow()
        return self._value

    def _follow(self) -> None:
        look = self._look()
        if look == self._seen or self._is_fresh(look):
            return
        self._seen = look  # of before the reading: what changes meanwhile differs from it at the next look
        try:
            self._value = self._load()
        except (ConfigError, OSError) as error:
            self._note("error", self._complaint, file=", ".join(self._paths), why=str(error))
        else:
            self._note("info", "file read again", file=", ".join(self._paths))

    def _look(self) -> _Look:
        return tuple(_identify(path) for path in self._paths)

    def _is_fresh(self, look: _Look) -> bool:
        newest = max((modified for modified, _, _ in look), default=0) / 1e9
        return 0 <= self._clock.wall() - newest < REST_S  # a time in the future is a wrong clock's, and no hint


def _identify(path: str) -> tuple[int, int, int]:
    """Give what differs whenever the file does; zeros for one that is not there."""
    try:
        facts = os.stat(path)  # noqa: PTH116 - a third of the time of Path
    except OSError:
        return 0, 0, 0
    return facts.st_mtime_ns, facts.st_size, facts.st_ino
