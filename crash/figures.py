# SPDX-License-Identifier: MIT
"""What a suite of crashes found: one figure, one line of JSON. Judges nothing: a figure says itself if it failed."""

import msgspec
from msgspec import Struct


class Figure(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One row of the result.

    `suite`: kill, calls, power, limits, damage; `what`: which of its experiments; `system`: smarthost or postfix. `n`:
    rounds. `failures`: 0 passes, for smarthost; of Postfix it is only told. `seed` repeats it. `facts`: whatever else
    was counted. `why`: the first failure in one sentence, or why it did not run.
    """

    suite: str
    what: str
    system: str = "smarthost"
    n: int
    failures: int
    seconds: float
    seed: int
    facts: dict[str, int | float | str] = {}
    why: str = ""


def to_line(figure: Figure) -> str:
    """Give the figure as one line of JSON."""
    return msgspec.json.encode(figure).decode()
