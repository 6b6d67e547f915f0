# SPDX-License-Identifier: MIT
"""What a run of the crash suite was asked to do; touches nothing."""

from pathlib import Path

from msgspec import Struct


class Options(Struct, frozen=True, kw_only=True):
    """`rounds`: of each experiment, None: its own number for the form (`is_quick` or long)."""

    is_quick: bool = False
    suites: tuple[str, ...] = ()
    seed: int = 1
    rounds: int | None = None
    with_postfix: bool = True
    scratch: Path = Path("/var/tmp")

    def rounds_of(self, quick: int, long: int) -> int:
        """Give how many rounds an experiment has."""
        return self.rounds if self.rounds is not None else quick if self.is_quick else long
