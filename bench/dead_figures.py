# SPDX-License-Identifier: MIT
"""What was measured with dead exchangers, as frozen values; and the arithmetic of windows. Pure."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from msgspec import Struct

from bench.figures import Surroundings, Verdict


class Sample(Struct, frozen=True):
    """Since the load began: what arrived, by exchanger; what the relay accepted, and its CPU time since its start."""

    at_s: float
    arrived: tuple[int, ...]
    accepted: int = 0
    cpu_s: float = 0.0


class DeadRun(Struct, frozen=True, kw_only=True):
    """One system in one scenario. With `failed` nothing else counts, and no figure is given."""

    system: str
    way: str
    round: int  # from 1
    failed: str | None = None
    rate: float | None = None  # messages/s at the counted exchangers in the window
    learning_rate: float | None = None  # the same in the seconds before it
    accept_rate: float | None = None  # what the relay said 250 to in the window; what is more than `rate` waits
    cores: float | None = (
        None  # CPU time of the relay's tree, per second of the window: less elsewhere is another's doing
    )
    by_host: dict[str, float] = {}  # messages/s in the window, of every exchanger that takes mail
    each_second: tuple[int, ...] = ()  # arrivals at the counted exchangers since the load began
    load_average: float | None = None  # just before


class DeadSummary(Struct, frozen=True, kw_only=True):
    """Medians over the rounds of one system in one scenario; `share` is the median of the rounds' own ratios."""

    system: str
    way: str
    rounds: int
    learning_rate: float | None
    rate: float | None
    share: float | None  # of what the same system did in the same round with all alive; None for that itself


class DeadReport(Struct, frozen=True, kw_only=True):
    """Everything of one benchmark; the JSON file."""

    surroundings: Surroundings
    learning_s: float
    window_s: float
    octets: int
    sessions: int
    ceiling_rate: float  # one smtp-source straight into one smtp-sink
    summaries: tuple[DeadSummary, ...]
    runs: tuple[DeadRun, ...]
    verdicts: tuple[Verdict, ...]


def rates(samples: Sequence[Sample], since_s: float, until_s: float) -> tuple[float, ...]:
    """Give messages/s between the first sample not before `since_s` and the last up to `until_s`.

    By exchanger; then what the relay accepted, then its CPU time per second.

    Raises: ValueError: there are no two samples in this window.
    """
    inside = [sample for sample in samples if since_s <= sample.at_s <= until_s]
    if len(inside) < 2:
        raise ValueError(f"{len(inside)} samples between {since_s:g} and {until_s:g} s")
    first, last = inside[0], inside[-1]
    span = last.at_s - first.at_s
    pairs = zip((*first.arrived, first.accepted, first.cpu_s), (*last.arrived, last.accepted, last.cpu_s), strict=True)
    return tuple((late - early) / span for early, late in pairs)


def each_second(samples: Sequence[Sample]) -> tuple[int, ...]:
    """Give how many arrived in each whole second, all exchangers together; of a second, its last sample counts."""
    moments = [sample.at_s for sample in samples]
    totals = [0]
    for second in range(1, int(moments[-1] if moments else 0) + 1):
        after = bisect_left(moments, second)
        totals.append(sum(samples[min(after, len(samples) - 1)].arrived))
    return tuple(late - early for early, late in pairwise(totals))
