# SPDX-License-Identifier: MIT
"""The metrics page: what `Counts` counted and what the relay says of itself, in Prometheus' text format.

Counters and what lies in memory are as they are at the scrape. What only the store knows is asked in the background,
at most every `GATHER_S` and hardly ever when that takes long, so that no scrape waits for the disk or costs more than
another. A registry of its own. Needs the extra `http`. A crash leaves nothing of it.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from smarthost.config import Mode
from smarthost.mail.errors import SmarthostError, StoreError
from smarthost.mail.record import Kind
from smarthost.ops import metrics_process as process
from smarthost.ops.metrics_counts import LOGINS, REFUSALS, Counts, Histogram
from smarthost.ops.metrics_table import METRICS, PREFIX
from smarthost.queue.audit import AuditFigures, Fault
from smarthost.queue.store import Store

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

GATHER_S = 10.0
GATHER_REST = 100.0  # times what it took: below 1 % of a core, whatever the queue
LAG_S = 0.5  # between two looks how late the loop is
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_NOT_OF_RECIPIENTS = frozenset(
    {"accepted", "reported", "host-open", "host-half-open", "host-closed", "suspended", "resumed"}
)
_HOST_KINDS = {Kind.HOST_OPEN: "open", Kind.HOST_HALF_OPEN: "half-open", Kind.HOST_CLOSED: "closed"}

Samples = list[tuple[tuple[str, ...], float]]


class Lag(Protocol):
    """How far one outbox is."""

    @property
    def name(self) -> str: ...
    @property
    def delivered(self) -> int: ...
    @property
    def failures(self) -> int: ...
    @property
    def behind_s(self) -> float: ...
    @property
    def is_stopped(self) -> bool: ...
    @property
    def losses(self) -> int: ...


class Watched(Protocol):
    """What is asked of a relay; assemble.Relay answers."""

    @property
    def store(self) -> Store: ...
    @property
    def refusal(self) -> Exception | None: ...
    @property
    def paused(self) -> bool: ...
    @property
    def audit_figures(self) -> AuditFigures: ...
    def figures(self) -> dict[str, float]: ...


class QueueFigures(Struct, frozen=True):
    """What the store said last, and when (wall seconds, 0.0: never)."""

    messages: int = 0
    deferred: int = 0
    held: int = 0
    due: int = 0
    oldest_at: float = 0.0
    took_s: float = 0.0
    at: float = 0.0


class Metrics:
    """Renders the page; while it is open it gathers what the store knows, and how late the loop is."""

    def __init__(
        self,
        counts: Counts,
        relay: Watched,
        *,
        outboxes: Callable[[], Iterable[Lag]] = tuple,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._counts = counts
        self._relay = relay
        self._outboxes = outboxes
        self._now = now
        self._queue = QueueFigures()
        self._lag_s = 0.0
        self._registry: CollectorRegistry | None = None
        self._started_at = now()

    @contextlib.asynccontextmanager
    async def gathering(self) -> AsyncIterator[None]:
        """Gather in the background."""
        tasks = [asyncio.ensure_future(loop()) for loop in (self._gather_for_ever, self._watch_loop)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def totals(self) -> dict[str, float]:
        """Give how many records of each kind there were since the start."""
        self._counts.fold()
        return {kind: float(sum(reasons.values())) for kind, reasons in self._counts.kinds.items()}

    def render_metrics(self) -> bytes:
        """Give the page. Raises: SmarthostError: the extra is not installed."""
        try:
            from prometheus_client import CollectorRegistry, generate_latest
        except ImportError as error:
            raise SmarthostError("metrics need prometheus-client: pip install 'smarthost[http]'") from error
        if self._registry is None:
            self._registry = CollectorRegistry()
            self._registry.register(self)
        return generate_latest(self._registry)

    def describe(self) -> "Iterable[Metric]":
        """Give what there may be, without values: for the registry, which looks for names that are taken."""
        for name in METRICS:
            yield _family(name, [])

    def collect(self) -> "Iterator[Metric]":
        """Give all metrics as they are now; for the registry."""
        counts = self._counts
        counts.fold()
        for name, samples in {**self._counted(), **self._seen(), **_of_process(self._started_at)}.items():
            yield _family(name, samples)
        for name in ("queue", "connect", "handshake", "transfer"):
            yield _histogram(f"{name}_seconds", getattr(counts, name))
        self._lag_s = 0.0

    def _counted(self) -> dict[str, Samples]:
        counts = self._counts
        return {
            "accepted_messages": _by_name(counts.accepted),
            "accepted_recipients": _by_name(counts.accepted_recipients),
            "accepted_bytes": _one(counts.accepted_octets),
            "recipients": [
                ((kind.value, reason), number)
                for kind in Kind
                if kind.value not in _NOT_OF_RECIPIENTS
                for reason, number in sorted((counts.kinds[kind.value] or {"none": 0}).items())
            ],
            "relayed_bytes": _one(counts.relayed_octets),
            "relayed_tls": _by_tls(counts.tls),
            "ambiguous": _one(counts.ambiguous),
            "reports": _one(sum(counts.kinds[Kind.REPORTED.value].values())),
            "host_changes": [((state,), sum(counts.kinds[kind.value].values())) for kind, state in _HOST_KINDS.items()],
            "refusals": [((what,), counts.refusals[what]) for what in REFUSALS],
            "logins_refused": [((what,), counts.refusals[what]) for what in LOGINS],
            "notes": _by_name(counts.notes),
        }

    def _seen(self) -> dict[str, Samples]:
        queue, now = self._queue, self._now()
        seen: dict[str, Samples] = {
            "queue_messages": _one(queue.messages),
            "queue_recipients": [(("deferred",), queue.deferred), (("held",), queue.held)],
            "queue_due_recipients": _one(queue.due),
            "queue_oldest_age_seconds": _one(max(0.0, now - queue.oldest_at) if queue.oldest_at else 0.0),
            "queue_gathered_timestamp_seconds": _one(queue.at),
            "store_read_seconds": _one(queue.took_s),
            "loop_lag_seconds": _one(self._lag_s),
            **self._delivered(),
        }
        try:
            seen |= self._of_relay()
        except StoreError:  # it is not started, or stopping
            seen |= {"accepting": _one(0)}
        return seen

    def _of_relay(self) -> dict[str, Samples]:
        relay, audit = self._relay, self._relay.audit_figures
        figures = relay.figures()
        sessions = [(mode.value, figures[f"sessions_in_{mode.value}"]) for mode in Mode]
        named = ("attempts", "lanes", "leases", "unsettled", "destinations_asleep")
        return {
            "sessions_in": [((mode,), number) for mode, number in sessions],
            **{name: _one(figures[name]) for name in named},
            "store_commits": _one(figures["commits"]),
            "store_commit_seconds": _one(figures["commits_s"]),
            "store_slowest_commit_seconds": _one(figures["slowest_commit_s"]),
            "hosts": [(("open",), figures["hosts_open"]), (("half-open",), figures["hosts_half_open"])],
            "accepting": _one(relay.refusal is None),
            "paused": _one(relay.paused),
            "audit_rounds": _one(audit.rounds),
            "audit_findings": [((fault.value,), audit.findings.get(fault.value, 0)) for fault in Fault],
            "audit_repaired": _one(audit.repaired),
            "audit_ended_timestamp_seconds": _one(audit.ended_at),
        }

    def _delivered(self) -> dict[str, Samples]:
        lags = tuple(self._outboxes())
        return {
            "outbox_delivered": [((each.name,), each.delivered) for each in lags],
            "outbox_failures": [((each.name,), each.failures) for each in lags],
            "outbox_lag_seconds": [((each.name,), each.behind_s) for each in lags],
            "outbox_stopped": [((each.name,), each.is_stopped) for each in lags],
            "outbox_losses": [((each.name,), each.losses) for each in lags],
        }

    async def _gather_for_ever(self) -> None:
        while True:
            began = time.monotonic()
            with contextlib.suppress(StoreError):  # the age of the figures says so
                self._queue = await self._gather()
            took_s = time.monotonic() - began
            await asyncio.sleep(max(GATHER_S, GATHER_REST * took_s))

    async def _gather(self) -> QueueFigures:
        """Ask the store, in parts between which others have their turn."""
        store, now, began = self._relay.store, self._now(), time.monotonic()
        messages, _ = await store.count()
        took_s = time.monotonic() - began
        recipients = held = due = 0
        oldest_at = float("inf")
        cursor: str | None = None
        while True:
            tally = await store.tally(cursor, now)
            for each in tally.by_domain.values():
                recipients, held, due = recipients + each.recipients, held + each.held, due + each.due
                oldest_at = min(oldest_at, each.oldest_at)
            if (cursor := tally.cursor) is None:
                break
        oldest_at = oldest_at if recipients else 0.0
        return QueueFigures(messages, recipients - held, held, due, oldest_at, took_s, now)

    async def _watch_loop(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(LAG_S)
            self._lag_s = max(self._lag_s, time.monotonic() - began - LAG_S)


def _one(value: float) -> Samples:
    return [((), value)]


def _by_name(values: Mapping[str, float]) -> Samples:
    return [((name,), value) for name, value in values.items()]


def _by_tls(texts: Mapping[str, int]) -> Samples:
    """Add up by version and "verified", whatever else the descriptions say (settle.record.describe_tls)."""
    found: dict[tuple[str, ...], float] = {("none", "no"): 0}
    for text, number in texts.items():
        known = text.partition(" ")[0] if text else "none"
        version = known if known in ("none", "TLSv1.2", "TLSv1.3") else "other"
        labels = version, "yes" if text.endswith(" verified") else "no"
        found[labels] = found.get(labels, 0) + number
    return list(found.items())


def _of_process(started_at: float) -> dict[str, Samples]:
    return {
        "process_cpu_seconds": _one(time.process_time()),
        "process_resident_memory_bytes": _one(process.resident_octets()),
        "process_open_fds": _one(process.open_descriptors()),
        "process_max_fds": _one(process.most_descriptors()),
        "process_start_time_seconds": _one(started_at),
        "gc_collections": [((str(number),), each) for number, each in enumerate(process.collections())],
        "build_info": [((version("smarthost"),), 1)],
    }


def _family(name: str, samples: Samples) -> "Metric":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
    entry = METRICS[name]
    family: Metric = kinds[entry.kind](PREFIX + name, entry.told, labels=entry.labels)
    for labels, value in samples:
        family.add_metric(labels, float(value))  # type: ignore[attr-defined]
    return family


def _histogram(name: str, histogram: Histogram) -> "Metric":
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(PREFIX + name, METRICS[name].told)
    total = 0
    buckets = []
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else repr(bound), total))
    family.add_metric((), buckets, histogram.sum_s)
    return family
