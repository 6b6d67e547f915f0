# SPDX-License-Identifier: MIT
"""Whose turn it is within a lane, and how many sessions a lane may have.

Decides only; opens nothing and knows no mail. `relay.Journey` is the one caller. Windows are fixed and turns go round
robin among the destinations of a lane; adaptive windows and deficit round robin fit behind the same five methods.
A crash leaves nothing: lanes are rebuilt from what is due.
"""

from collections import OrderedDict


class Lane:
    """One set of MX hosts: at most `window` slots are active, and the destinations with work take turns."""

    def __init__(self, name: str, window: int) -> None:
        self.name = name
        self.window = window
        self.active = 0
        self._turns: OrderedDict[str, None] = OrderedDict()  # leaving is O(1): a provider may have 100,000 domains

    def __repr__(self) -> str:
        return f"<Lane {self.name}: {self.active} of {self.window} slots, {len(self._turns)} destinations>"

    @property
    def is_idle(self) -> bool:
        return self.active == 0 and not self._turns

    def want(self, destination: str) -> None:
        """Put a destination among those that take turns; harmless when it is there."""
        self._turns.setdefault(destination)

    def leave(self, destination: str) -> None:
        """Take a destination out: it has no work, or must wait."""
        self._turns.pop(destination, None)

    def start(self) -> bool:
        """Take a slot if one is free and somebody wants a turn."""
        if self.active >= self.window or not self._turns:
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
