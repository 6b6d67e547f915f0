# SPDX-License-Identifier: MIT
"""What the doctor found: lines, each ok, warn, fail or skip, with what was seen and the cure. Decides nothing."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from enum import Enum
from typing import Any

from msgspec import Struct

_LONGEST = 600  # characters of what was seen: a peer's own words are in it


class Level(Enum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


class Finding(Struct, frozen=True):
    """One line. `seen` and `cure` may hold what strangers said: who shows them escapes them. No cure for ok."""

    check: str
    level: Level
    seen: str
    cure: str = ""


class Findings:
    """Takes what one check says, in order."""

    def __init__(self, check: str) -> None:
        self.check = check
        self.found: list[Finding] = []

    def ok(self, seen: str) -> None:
        """It is as it should be."""
        self._add(Level.OK, seen, "")

    def warn(self, seen: str, cure: str) -> None:
        """Mail passes, but somebody should look."""
        self._add(Level.WARN, seen, cure)

    def fail(self, seen: str, cure: str) -> None:
        """Mail is refused, lost, or anybody's."""
        self._add(Level.FAIL, seen, cure)

    def skip(self, seen: str, cure: str = "") -> None:
        """It was not looked at, and why."""
        self._add(Level.SKIP, seen, cure)

    def _add(self, level: Level, seen: str, cure: str) -> None:
        seen = seen if len(seen) <= _LONGEST else f"{seen[:_LONGEST]}..."
        self.found.append(Finding(self.check, level, seen, cure))


Part = Callable[[Findings], Coroutine[Any, Any, None]]


async def side_by_side(told: Findings, parts: Sequence[Part]) -> None:
    """Run parts of a check at the same time; their findings come in the order of the parts, however far they got."""
    own = [Findings(told.check) for _ in parts]
    try:
        async with asyncio.TaskGroup() as tasks:
            for part, findings in zip(parts, own, strict=True):
                tasks.create_task(part(findings))
    finally:
        for findings in own:
            told.found.extend(findings.found)
