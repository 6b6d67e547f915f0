# SPDX-License-Identifier: MIT
"""What is known against a host that is not closed, how it is told, and how it is kept over a restart. Pure values.

route.health decides by it. What was kept is believed only as far as it can be true: a damaged or wild table shuts no
host out.
"""

from binascii import crc32
from enum import Enum
from math import isfinite

import msgspec
from msgspec import Struct

SHARDS = 64  # parts in which it is kept: one host's change must not write 100,000 others
MOST_PAUSES = 64  # that a pause can have been doubled
GREETED = "it greeted us"
RESET = "an operator said so"
AGED = "its evidence is too old"
CROWDED = "too many other hosts are broken"

Key = tuple[str, str]  # (source, address): opaque here; send.gates makes the source, which may name a service


class HealthState(Enum):
    """Whether a host may be dialled."""

    CLOSED = "closed"  # works, as far as we know
    OPEN = "open"  # broken: nobody dials until its pause is over
    HALF_OPEN = "half-open"  # its pause is over: one probe is allowed, or under way


class HostState(Struct, frozen=True, gc=False):
    """The evidence about one host: consecutive `failures`, the last one's step and detail; times are wall seconds.

    `name`: under which it was dialled last. `since` is the first failure of this row, `until` the next probe, `steps`
    how often each step failed, most often first. `closed_by`: for one that was just closed, why. `is_probed`: a
    probe is under way.
    """

    source: str
    address: str
    state: HealthState
    failures: int = 0
    since: float = 0.0
    last_at: float = 0.0
    step: str = ""
    detail: str = ""
    until: float = 0.0
    name: str = ""
    steps: tuple[tuple[str, int], ...] = ()
    closed_by: str = ""
    is_probed: bool = False

    @property
    def works(self) -> bool:
        """Was it closed because it works, not because its evidence was dropped?"""
        return self.closed_by in (GREETED, RESET)

    @property
    def evidence(self) -> str:
        """Say in one line what is known against the host."""
        return evidence_line(self.steps, self.detail, self.last_at - self.since)


class Broken(Struct, gc=False, array_like=True):
    """What is known about a host that is not closed. `steps` is empty as long as all failed at `step`."""

    name: str
    since: float
    last_at: float
    until: float
    failures: int = 0
    pauses: int = 0
    step: str = ""
    detail: str = ""
    steps: tuple[tuple[str, int], ...] = ()

    def is_credible(self, now: float) -> bool:
        """Can this be true of a host that failed before `now`?"""
        return (
            all(isfinite(time) for time in (self.since, self.last_at, self.until))
            and self.since <= self.last_at <= now
            and self.failures > 0
            and 0 <= self.pauses < MOST_PAUSES
        )

    def fail(self, now: float, step: str, detail: str, name: str) -> None:
        """Count a failure."""
        if self.steps or (self.failures and step != self.step):
            counts = dict(self.steps or ((self.step, self.failures),))
            counts[step] = counts.get(step, 0) + 1
            self.steps = tuple(sorted(counts.items(), key=lambda each: (-each[1], each[0])))
        self.failures += 1
        self.last_at, self.step, self.detail = now, step, detail
        self.name = name or self.name

    def evidence(self) -> str:
        """Say in one line what is known against the host."""
        return evidence_line(self.steps or ((self.step, self.failures),), self.detail, self.last_at - self.since)

    def told(self, key: Key, state: HealthState, closed_by: str = "") -> HostState:
        """Give it as it is told."""
        return HostState(
            *key,
            state,
            self.failures,
            self.since,
            self.last_at,
            self.step,
            self.detail,
            self.until if state is HealthState.OPEN else 0.0,
            self.name,
            self.steps or ((self.step, self.failures),),
            closed_by,
        )


class Row(Struct, gc=False, array_like=True):
    """A host as it is kept over a restart."""

    source: str
    address: str
    broken: Broken


encode_rows = msgspec.json.Encoder().encode
decode_rows = msgspec.json.Decoder(list[Row]).decode


def evidence_line(steps: tuple[tuple[str, int], ...], detail: str, span_s: float) -> str:
    """Say what failed, how often, in which time: "banner failed 5 times and probe once in 124 s: no answer"."""
    (first, times), *others = steps or (("", 0),)
    failed = " and ".join([f"{first} failed {_times(times)}", *[f"{step} {_times(n)}" for step, n in others]])
    many = sum(n for _, n in steps) > 1
    return f"{failed}{f' in {span_s:.0f} s' if span_s >= 1 else ' at once' if many else ''}: {detail}"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def shard_of(address: str) -> int:
    """Give the part in which a host is kept, the same in each life."""
    return crc32(address.encode("utf-8", "surrogateescape")) % SHARDS
