# SPDX-License-Identifier: MIT
"""Whose turn it is within a lane, and how many sessions a lane may have.

Decides only; opens nothing and knows no mail. `relay.Journey` is the one caller. Windows are fixed and turns go round
robin among the destinations of a lane; adaptive windows and deficit round robin fit behind the same five methods.
A crash leaves nothing: lanes are rebuilt from what is due.
"""

from collections import deque


class Lane:
    """One set of MX hosts: at most `window` slots are active, and the destinations with work take turns."""

    def __init__(self, name: str, window: int) -> None:
        self.name = name
        self.window = window
        self.active = 0
        self._turns: deque[str] = deque()
        self._wanting: set[str] = set()

    def __repr__(self) -> str:
        return f"<Lane {self.name}: {self.active} of {self.window} slots, {len(self._turns)} destinations>"

    @property
    def is_idle(self) -> bool:
        return self.active == 0 and not self._turns

    def want(self, destination: str) -> None:
        """Put a destination among those that take turns; harmless when it is there."""
        if destination not in self._wanting:
            self._wanting.add(destination)
            self._turns.append(destination)

    def leave(self, destination: str) -> None:
        """Take a destination out: it has no work, or must wait."""
        if destination in self._wanting:
            self._wanting.remove(destination)
            self._turns.remove(destination)

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
        turns = self._turns
        if not turns:
            return None
        if len(turns) > 1:
            turns.rotate(-1)
            return turns[-1]
        return turns[0]
