# SPDX-License-Identifier: MIT
"""Whose turn it is within a lane and among lanes, and how many sessions a lane may have.

Decides only; opens nothing and knows no mail. `relay.Journey` is the one caller. Windows are fixed and turns go round
robin among the destinations of a lane, and among lanes when there are too many. A lane is proven once a host of it has
answered: ten thousand dead sites never take the slots that living ones need. Adaptive windows and deficit round robin
fit behind the same methods. A crash leaves nothing: lanes are rebuilt from what is due.
"""

from collections import OrderedDict
from weakref import WeakValueDictionary

from msgspec import Struct

UNPROVEN_WINDOW = 5  # sessions of a lane of which nobody has heard yet: enough that one of two hosts answers at once
_PROVEN_LANES = 10_000  # whose proof is remembered while they are idle, about 200 octets each


class LaneState(Struct, frozen=True, gc=False):
    """How busy a lane is: sessions taken, how many it may have now, destinations that take turns.

    `is_crowded_out`: it may have more, but all lanes together may not.
    """

    name: str
    sessions: int
    window: int
    destinations: int
    is_proven: bool
    is_crowded_out: bool


class Lane:
    """One set of MX hosts: at most `window` slots are active, and the destinations with work take turns."""

    def __init__(self, name: str, window: int) -> None:
        self.name = name
        self.window = window
        self.active = 0
        self.is_proven = True
        self._turns: OrderedDict[str, None] = OrderedDict()  # leaving is O(1): a provider may have 100,000 domains

    def __repr__(self) -> str:
        return f"<Lane {self.name}: {self.active} of {self.window} slots, {len(self._turns)} destinations>"

    @property
    def is_idle(self) -> bool:
        return self.active == 0 and not self._turns

    @property
    def allowed(self) -> int:
        """How many slots may be active now."""
        return self.window if self.is_proven else min(self.window, UNPROVEN_WINDOW)

    @property
    def destinations(self) -> int:
        """How many destinations take turns."""
        return len(self._turns)

    def want(self, destination: str) -> None:
        """Put a destination among those that take turns; harmless when it is there."""
        self._turns.setdefault(destination)

    def leave(self, destination: str) -> None:
        """Take a destination out: it has no work, or must wait."""
        self._turns.pop(destination, None)

    def leave_all(self) -> None:
        """Take all destinations out: they may be on other lanes by now."""
        self._turns.clear()

    def start(self) -> bool:
        """Take a slot if one is free and somebody wants a turn."""
        if self.active >= self.allowed or not self._turns:
            return False
        self.active += 1
        return True

    def finish(self) -> None:
        """Give a slot back."""
        assert self.active > 0, "a slot is given back once"
        self.active -= 1

    def turn(self) -> str | None:
        """Give the destination whose turn it is and move it to the end, or None."""
        destination = next(iter(self._turns), None)
        if destination is not None:
            self._turns.move_to_end(destination)
        return destination


class Slots:
    """The slots of all lanes together: at most `most`; a quarter is kept for lanes that are proven."""

    def __init__(self, most: int, window: int) -> None:
        self._most = most
        self._most_doubtful = max(1, most - most // 4)
        self._window = window
        self._taken = 0
        self._doubtful = 0  # slots of lanes that are not proven
        self._lanes: WeakValueDictionary[str, Lane] = WeakValueDictionary()  # who uses a lane keeps it alive
        self._proven: OrderedDict[str, None] = OrderedDict()  # longest unused first
        self._waiting: tuple[OrderedDict[Lane, None], OrderedDict[Lane, None]] = (OrderedDict(), OrderedDict())
        self._next_is_proven = True

    @property
    def is_idle(self) -> bool:
        return self._taken == 0

    def count(self) -> tuple[int, int]:
        """Give how many slots are taken, and how many lanes are in use."""
        return self._taken, len(self._lanes)

    def adopt(self, window: int) -> None:
        """Give every lane another window, and take all destinations out; sessions beyond it end after their message."""
        self._window = window
        for lane in list(self._lanes.values()):
            lane.window = window
            lane.leave_all()

    def lane(self, name: str) -> Lane:
        """Give the lane of this name, which lives as long as somebody holds it."""
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = Lane(name, self._window)
            lane.is_proven = name in self._proven
        return lane

    def describe(self, lane: Lane) -> LaneState:
        """Say how busy a lane is."""
        crowded_out = not self._may_take(lane)
        return LaneState(lane.name, lane.active, lane.allowed, lane.destinations, lane.is_proven, crowded_out)

    def take(self, lane: Lane) -> bool:
        """Take a slot for a lane; when there are too many it waits for its turn, and False says so."""
        if not self._may_take(lane):
            self._waiting[lane.is_proven].setdefault(lane)
            return False
        if not lane.start():
            return False
        self._taken += 1
        self._doubtful += not lane.is_proven
        return True

    def _may_take(self, lane: Lane) -> bool:
        if self._taken >= self._most:
            return False
        return lane.is_proven or self._doubtful < self._most_doubtful

    def give_back(self, lane: Lane) -> None:
        """A slot of this lane has ended; ask `next_waiting` then."""
        lane.finish()
        self._taken -= 1
        self._doubtful -= not lane.is_proven

    def next_waiting(self) -> Lane | None:
        """Give the lane that has waited longest and may take a slot now; both kinds in turn."""
        for is_proven in (self._next_is_proven, not self._next_is_proven):
            waiting = self._waiting[is_proven]
            if waiting and self._may_take(next(iter(waiting))):
                self._next_is_proven = not is_proven
                return waiting.popitem(last=False)[0]
        return None

    def must_yield(self, lane: Lane) -> bool:
        """Should a slot of this lane end after its message, because others have waited longer? Then it waits too."""
        doubtful, proven = self._waiting
        if not proven and not (doubtful and (not lane.is_proven or self._taken >= self._most)):
            return False
        self._waiting[lane.is_proven].setdefault(lane)
        return True

    def prove(self, lane: Lane) -> None:
        """A host of this lane has answered."""
        if not lane.is_proven:
            self._doubtful -= lane.active
            lane.is_proven = True
            if self._waiting[False].pop(lane, lane) is None:
                self._waiting[True].setdefault(lane)
            if len(self._proven) >= _PROVEN_LANES:
                self._proven.popitem(last=False)
        self._proven[lane.name] = None
        self._proven.move_to_end(lane.name)

    def doubt(self, lane: Lane) -> None:
        """All hosts of this lane are known as broken."""
        if lane.is_proven:
            self._doubtful += lane.active
            lane.is_proven = False
            if self._waiting[True].pop(lane, lane) is None:
                self._waiting[False].setdefault(lane)
        self._proven.pop(lane.name, None)
