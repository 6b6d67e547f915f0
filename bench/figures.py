# SPDX-License-Identifier: MIT
"""What was measured, as frozen values; report.py shows them and writes them as JSON."""

from msgspec import Struct

from bench.latency import Latency
from bench.tree import Memory


class Run(Struct, frozen=True, kw_only=True):
    """One system, one mode, one round. With `failed` nothing else counts, and no figure is given."""

    system: str
    mode: str
    round: int  # from 1
    failed: str | None = None
    messages: int = 0
    accept_rate: float | None = None  # messages/s until smtp-source had its last 250
    end_to_end_rate: float | None = None  # messages/s until the sink had them all
    idle: Latency | None = None
    saturated: Latency | None = None
    saturated_accept_rate: float | None = None  # of the load beside which `saturated` was measured
    memory: Memory | None = None
    fdatasync_us: float | None = None  # as in Surroundings, just before this run
    load_average: float | None = None
    cpu_us_per_message: float | None = None  # of the relay's whole process tree, in the timed load


class Stage(Struct, frozen=True, kw_only=True):
    """One stage of the journey, timed in-process; `us` is None where `note` says why."""

    name: str
    us: float | None
    note: str = ""


class Surroundings(Struct, frozen=True, kw_only=True):
    """Where and with what it was measured."""

    at: str  # UTC
    commit: str
    python: str
    postfix: str
    kernel: str
    cpu: str
    cores: int
    load_average: float  # at the start; other work on the box spoils the figures
    file_system: str
    fdatasync_us: float  # median of a 5 KiB append and fdatasync in the scratch directory


class Verdict(Struct, frozen=True, kw_only=True):
    """One thing the gate looked at."""

    what: str
    passed: bool


class Summary(Struct, frozen=True, kw_only=True):
    """Medians over the rounds of one system and mode, and its ratios, each the median of the rounds' own ratios."""

    system: str
    mode: str
    rounds: int
    accept_rate: float | None
    end_to_end_rate: float | None
    idle_p50_us: float | None
    idle_p99_us: float | None
    saturated_p50_us: float | None
    saturated_p99_us: float | None
    peak_rss_mib: float | None  # the highest of the rounds, not the median
    peak_pss_mib: float | None
    cpu_us_per_message: float | None
    to_postfix: float | None
    to_ceiling: float | None


class Storm(Struct, frozen=True, kw_only=True):
    """One system, one round: a good client's 250 beside a kept load, before a storm of handshakes and amid it."""

    system: str
    round: int
    failed: str | None = None
    clients: int = 0
    handshake_rate: float = 0.0  # a second, done
    refused: int = 0  # connections of the storm that came to nothing
    calm: Latency | None = None
    amid: Latency | None = None
    calm_accept_rate: float | None = None  # messages/s of the load beside it
    amid_accept_rate: float | None = None


class Report(Struct, frozen=True, kw_only=True):
    """Everything of one benchmark; the JSON file."""

    surroundings: Surroundings
    messages: int
    octets: int
    sessions: int
    audits: tuple[str, ...]
    summaries: tuple[Summary, ...]
    budget: tuple[Stage, ...]
    runs: tuple[Run, ...]
    verdicts: tuple[Verdict, ...]
    storms: tuple[Storm, ...] = ()
