# SPDX-License-Identifier: MIT
"""The metrics page: what is counted, that the manual lists it, that a scraper reads it, and what it must not hold."""

import asyncio
import re
import timeit
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.ops.rig import CollectingSink

from smarthost import Relay
from smarthost.mail.errors import StoreError
from smarthost.mail.record import Kind, Record
from smarthost.ops.metrics import Metrics
from smarthost.ops.metrics_counts import STEP_BOUNDS, TOGETHER, Counts
from smarthost.ops.metrics_table import METRICS, PREFIX

MANUAL = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
RELAYED: dict[str, Any] = {
    "id": "0123456789abcdef",
    "recipient": "bob@example.net",
    "status": "2.0.0",
    "octets": 5000,
    "queued_s": 0.02,
    "connect_s": 0.003,
    "handshake_s": 0.2,
    "transfer_s": 0.004,
    "tls": "TLSv1.3 TLS_AES_256_GCM_SHA384 verified",
}


class Stopped:
    """A relay that is not started."""

    @property
    def audit_figures(self) -> Any:
        raise StoreError("the relay is not started")

    store = refusal = paused = figures = audit_figures


class Outbox:
    name = "webhook:hooks.example.org:0123abcd"
    delivered, failures, behind_s, is_stopped, losses = 7, 2, 1.5, True, 1


def samples(page: bytes) -> dict[tuple[str, ...], float]:
    """Give the page as (name, label values...) -> value; fails if it is not what a scraper reads."""
    found: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(page.decode()):
        assert family.documentation
        for sample in family.samples:
            key = (sample.name, *sample.labels.values())
            assert key not in found, "each series once"
            found[key] = sample.value
    return found


def counted(*records: Record) -> Counts:
    counts = Counts(CollectingSink())
    for record in records:
        counts.record(record)
    return counts


def page(counts: Counts) -> dict[tuple[str, ...], float]:
    return samples(Metrics(counts, Stopped(), outboxes=lambda: [Outbox()]).render_metrics())


def test_what_becomes_of_recipients_is_counted_by_kind_and_reason() -> None:
    """A postmaster sees bounces for bad addresses apart from those for policy, and deferrals of the network."""
    found = page(
        counted(
            Record(1, Kind.RELAYED, 1.0, **RELAYED),
            Record(2, Kind.DEFERRED, 1.0, status="4.4.1"),
            Record(3, Kind.DEFERRED, 1.0, status="4.4.7"),
            Record(4, Kind.BOUNCED, 1.0, status="5.1.1", ambiguous=True),
            Record(5, Kind.EXPIRED, 1.0, status="4.4.7"),
            Record(6, Kind.REPORTED, 1.0),
            Record(7, Kind.HOST_OPEN, 1.0),
        )
    )

    assert 2 == found["smarthost_recipients_total", "deferred", "4.4"]
    assert 1 == found["smarthost_recipients_total", "bounced", "5.1"]
    assert 1 == found["smarthost_recipients_total", "relayed", "2.0"]
    assert 0 == found["smarthost_recipients_total", "cancelled", "none"]
    assert (1, 1, 1) == (
        found["smarthost_reports_total",],
        found["smarthost_ambiguous_total",],
        found["smarthost_host_changes_total", "open"],
    )
    assert 5000 == found["smarthost_relayed_bytes_total",]
    assert 1 == found["smarthost_relayed_tls_total", "yes", "TLSv1.3"]


def test_what_is_taken_is_counted_by_who_handed_it_in() -> None:
    """A message of three recipients is one message and three recipients."""
    found = page(
        counted(
            Record(1, Kind.ACCEPTED, 1.0, octets=100, client="192.0.2.1", recipients=("a@x", "b@x", "c@x")),
            Record(2, Kind.ACCEPTED, 1.0, octets=10, client="192.0.2.1", user="ann", recipient="a@x"),
            Record(3, Kind.ACCEPTED, 1.0, octets=1, client="local", recipient="a@x"),
        )
    )

    for entry, messages, recipients in (("network", 1, 3), ("user", 1, 1), ("local", 1, 1)):
        assert messages == found["smarthost_accepted_messages_total", entry]
        assert recipients == found["smarthost_accepted_recipients_total", entry]
    assert 111 == found["smarthost_accepted_bytes_total",]


def test_times_go_into_histograms_and_a_session_used_again_does_not_count_as_a_connect_of_0_s() -> None:
    """Buckets are cumulative, their last is the count, and the sum is that of all."""
    found = page(
        counted(
            Record(1, Kind.RELAYED, 1.0, **RELAYED),
            Record(2, Kind.RELAYED, 1.0, **{**RELAYED, "connect_s": 0.0, "handshake_s": 0.0, "transfer_s": 1000.0}),
        )
    )

    assert 1 == found["smarthost_connect_seconds_count",]
    assert 2 == found["smarthost_transfer_seconds_count",] == found["smarthost_transfer_seconds_bucket", "+Inf"]
    assert pytest.approx(1000.004) == found["smarthost_transfer_seconds_sum",]
    assert 0 == found["smarthost_transfer_seconds_bucket", "0.0025"]
    assert (
        1 == found["smarthost_transfer_seconds_bucket", "0.005"] == found["smarthost_transfer_seconds_bucket", "300.0"]
    )
    edge = page(counted(Record(1, Kind.RELAYED, 1.0, **{**RELAYED, "transfer_s": STEP_BOUNDS[3]})))
    assert 1 == edge["smarthost_transfer_seconds_bucket", repr(STEP_BOUNDS[3])], "a bound is within its bucket"


def test_refusals_at_the_door_and_logins_are_counted_from_the_log() -> None:
    """What clients are refused for has a name of ours; other notes count by level."""
    counts = counted()
    counts.note("warning", "recipient refused", recipient="x@hostile.example")
    counts.note("warning", "login failed", user="root")
    counts.note("error", "store in trouble")
    counts.note("nonsense", "what")

    found = page(counts)

    assert 1 == found["smarthost_refusals_total", "recipient refused"]
    assert 1 == found["smarthost_logins_refused_total", "login failed"]
    assert (2, 1) == (found["smarthost_notes_total", "warning"], found["smarthost_notes_total", "error"])


def test_strangers_choose_no_label() -> None:
    """Whatever domains, replies, statuses and TLS texts come, the page has the same series as before."""
    plain = page(counted(Record(1, Kind.BOUNCED, 1.0, status="5.1.1"), Record(2, Kind.BOUNCED, 1.0, status="9.9.9")))
    hostile = counted(
        *[
            Record(
                n, Kind.BOUNCED, 1.0, status=f"5.{n}.{n}" if n % 2 else f"x{n}", reply=f"evil {n}", host=f"h{n}.evil",
                recipient=f"{n}@d{n}.example", reverse_path=f"evil{n}",
            )
            for n in range(2000)
        ],
        *[Record(n, Kind.RELAYED, 1.0, **{**RELAYED, "tls": f"evil{n} verified"}) for n in range(2000)],
    )  # fmt: skip

    found = page(hostile)

    assert len(found) <= len(plain) + 12
    assert "evil" not in "".join("".join(key) for key in found)
    assert len(hostile.tls) <= 501


def test_everything_is_handed_on() -> None:
    """The log gets each record and note, at once and in order."""
    sink = CollectingSink()
    counts = Counts(sink)
    records = [Record(n, Kind.RELAYED, 1.0, **RELAYED) for n in range(TOGETHER + 3)]
    for record in records:
        counts.record(record)
    counts.note("info", "what", a=1)

    assert records == sink.records
    assert [("info", "what", {"a": 1})] == sink.notes
    assert TOGETHER + 3 == page(counts)["smarthost_recipients_total", "relayed", "2.0"]


def test_counting_is_cheap() -> None:
    """A record costs about a microsecond: here below 10, on whatever machine this is."""
    counts = Counts(CollectingSink())
    record = Record(1, Kind.RELAYED, 1.0, **RELAYED)

    each_s = min(timeit.repeat(lambda: counts.record(record), number=5_000, repeat=5)) / 5_000

    assert each_s < 10e-6


def test_the_page_and_the_manual_list_the_same() -> None:
    """What can be scraped is explained, with its kind and labels, and what is explained can be scraped."""
    rows = re.findall(r"^\| `(smarthost_[a-z_]+)` \| (\w+) \|(.*?)\| (.+) \|$", MANUAL, re.MULTILINE)
    documented = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows}
    real = {
        PREFIX + name + ("_total" if each.kind == "counter" else ""): (each.kind, each.labels)
        for name, each in METRICS.items()
    }

    assert real == documented
    assert all(told.strip() for *_, told in rows)
    described = {family.name for family in Metrics(counted(), Stopped()).describe()}
    assert {PREFIX + name for name in METRICS} == described


def test_alerts_of_the_manual_name_what_there_is() -> None:
    """An alert that is copied from the manual is about a series that exists."""
    names = set(re.findall(r"smarthost_[a-z_]+", MANUAL.partition("## Alerts")[2].partition("\n## ")[0]))
    scraped = {key[0] for key in page(counted())} | {"smarthost_paused", "smarthost_audit_findings_total"}
    names.discard("smarthost_")

    assert names <= scraped


def test_how_far_outboxes_are_is_shown() -> None:
    """A webhook that lags, has failed or has stopped is to be alerted on."""
    found = page(counted())

    name = Outbox.name
    assert (7, 2) == (found["smarthost_outbox_delivered_total", name], found["smarthost_outbox_failures_total", name])
    assert (1.5, 1) == (found["smarthost_outbox_lag_seconds", name], found["smarthost_outbox_stopped", name])


def test_a_relay_that_is_stopping_gives_a_page_all_the_same() -> None:
    """The last scrape of a daemon says that it takes no mail."""
    assert 0 == page(counted())["smarthost_accepting",]


@pytest.mark.slow
@pytest.mark.asyncio
async def test_a_real_relay_says_what_is_in_its_queue(tmp_path: Path) -> None:
    """Queue, hosts, sessions and the process itself, as they are; every metric of the table is on the page."""
    counts = Counts(CollectingSink())
    relay = Relay(state_dir=tmp_path / "s", next_hop="127.0.0.1:1", hostname="relay.example.org", sink=counts)
    async with relay:
        await relay.submit(b"Subject: x\r\n\r\nx\r\n", "ann@example.org", ["bob@example.net", "eve@example.net"])
        while not relay.figures()["hosts_open"] or relay.figures()["unsettled"]:
            await asyncio.sleep(0.01)
        metrics = Metrics(counts, relay)
        async with metrics.gathering():
            while not (found := samples(metrics.render_metrics()))["smarthost_queue_gathered_timestamp_seconds",]:
                await asyncio.sleep(0.01)
        await relay.pause()
        paused = samples(metrics.render_metrics())

    assert 1 == found["smarthost_queue_messages",]
    assert (2, 0) == (found["smarthost_queue_recipients", "deferred"], found["smarthost_queue_recipients", "held"])
    assert 0 < found["smarthost_queue_oldest_age_seconds",] < 60
    assert 1 == found["smarthost_hosts", "open"]
    assert (1, 0) == (found["smarthost_accepting",], found["smarthost_paused",])
    assert 1 == paused["smarthost_paused",]
    assert found["smarthost_process_resident_memory_bytes",] > 10 << 20
    assert found["smarthost_process_open_fds",] > 3
    assert found["smarthost_store_commits_total",] >= 2  # the message, and what its attempt came to
    assert 0 < found["smarthost_store_slowest_commit_seconds",] <= found["smarthost_store_commit_seconds_total",] < 60
    shown = {key[0].removeprefix(PREFIX).removesuffix("_total").removesuffix("_count") for key in found}
    assert {name for name in METRICS if not name.startswith("outbox_")} <= shown
    assert 0 == found["smarthost_audit_findings_total", "no owner"], "an alert on its increase needs the zero"
