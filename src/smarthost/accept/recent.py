# SPDX-License-Identifier: MIT
"""Recent: a table of bounded size that forgets what was unused for longest; and Seldom, notes that are not repeated.

Both are for what strangers make us remember. Pure; every operation is O(1).
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from smarthost.ports import Clock, Sink

T = TypeVar("T")

KEY_CHARACTERS = 320  # of a stranger's text as a key: longer than any address (RFC 5321 4.5.3.1)
_SPOKEN = 1_000
_SILENT_S = 60.0


class Recent(Generic[T]):
    """Values by key, at most `size` of them."""

    __slots__ = ("_size", "_table")

    def __init__(self, size: int) -> None:
        self._size = size
        self._table: OrderedDict[str, T] = OrderedDict()  # a dict would search ever longer for its first key

    def __len__(self) -> int:
        return len(self._table)

    def find(self, key: str) -> T | None:
        """Give a value and count that as a use."""
        key = key[:KEY_CHARACTERS]
        value = self._table.get(key)
        if value is not None:
            self._table.move_to_end(key)
        return value

    def find_or_make(self, key: str, make: Callable[[], T]) -> T:
        """Give a value; one made now, if there is none."""
        value = self.find(key)
        if value is None:
            value = self._table[key[:KEY_CHARACTERS]] = make()
            if len(self._table) > self._size:
                self._table.popitem(last=False)
        return value


class Seldom:
    """Notes about one thing and one client network at most once a minute: strangers decide how often it happens."""

    __slots__ = ("_clock", "_sink", "_spoken")

    def __init__(self, sink: Sink, clock: Clock) -> None:
        self._sink = sink
        self._clock = clock
        self._spoken: Recent[list[float]] = Recent(_SPOKEN)  # silent until then

    def note(self, level: str, what: str, whose: str, /, **facts: object) -> None:
        """Tell the sink, unless it heard the same of the same network or name less than a minute ago."""
        silent_until = self._spoken.find_or_make(f"{what} {whose}", lambda: [0.0])
        now = self._clock.monotonic()
        if now >= silent_until[0]:
            silent_until[0] = now + _SILENT_S
            self._sink.note(level, what, **facts)
