# SPDX-License-Identifier: MIT
"""Which metrics there are: name, kind, what each says, its labels. Values only; docs/metrics.md has the same list."""

from collections.abc import Mapping
from typing import NamedTuple


class Metric(NamedTuple):
    """One metric: its kind, what it says, its labels."""

    kind: str  # "counter", "gauge", "histogram"
    told: str
    labels: tuple[str, ...] = ()


# In the order of the page. Names without the prefix, and for counters without _total.
METRICS: Mapping[str, Metric] = {
    "accepted_messages": Metric("counter", "Messages taken, by who handed them in", ("entry",)),
    "accepted_recipients": Metric("counter", "Recipients of them", ("entry",)),
    "accepted_bytes": Metric("counter", "Octets of content taken"),
    "recipients": Metric("counter", "What became of recipients, attempt by attempt", ("kind", "reason")),
    "relayed_bytes": Metric("counter", "Octets relayed, counted for each recipient"),
    "relayed_tls": Metric("counter", "Recipients relayed, by the TLS of the session", ("version", "verified")),
    "ambiguous": Metric("counter", "Attempts that a host may have taken although we did not hear so"),
    "reports": Metric("counter", "Delivery reports filed or withheld"),
    "host_changes": Metric("counter", "Changes in what is known of hosts", ("state",)),
    "refusals": Metric("counter", "Log lines about clients that were refused; repetitions are left out", ("what",)),
    "logins_refused": Metric("counter", "Log lines about logins that failed or were not looked at", ("what",)),
    "notes": Metric("counter", "Log lines that are not about one recipient, by level", ("level",)),
    "queue_seconds": Metric("histogram", "Time from acceptance to the end of the attempt that relayed"),
    "connect_seconds": Metric("histogram", "Time to connect, of sessions that were not used again"),
    "handshake_seconds": Metric("histogram", "Time from connected to ready, TLS and login included"),
    "transfer_seconds": Metric("histogram", "Time from MAIL to the reply after the content"),
    "queue_messages": Metric("gauge", "Messages in the queue"),
    "queue_recipients": Metric("gauge", "Unfinished recipients in the queue", ("state",)),
    "queue_due_recipients": Metric("gauge", "Deferred recipients whose time has come"),
    "queue_oldest_age_seconds": Metric("gauge", "Age of the oldest message with unfinished recipients; 0: none"),
    "queue_gathered_timestamp_seconds": Metric("gauge", "When the queue's figures were taken; 0: not yet"),
    "sessions_in": Metric("gauge", "Open sessions with clients, by the listener's mode", ("mode",)),
    "attempts": Metric("gauge", "Attempts under way, each a session with a host"),
    "lanes": Metric("gauge", "Sets of hosts in use"),
    "leases": Metric("gauge", "Recipients in somebody's hands"),
    "unsettled": Metric("gauge", "Settlements not durable yet"),
    "destinations_asleep": Metric("gauge", "Destinations all of whose hosts are known as broken"),
    "hosts": Metric("gauge", "Hosts known as broken, by state", ("state",)),
    "accepting": Metric("gauge", "1: new mail is taken"),
    "paused": Metric("gauge", "1: all delivery is paused"),
    "audit_rounds": Metric("counter", "Whole rounds of the auditor"),
    "audit_findings": Metric("counter", "Violations of the progress invariant, by fault", ("fault",)),
    "audit_repaired": Metric("counter", "Violations that the auditor repaired"),
    "audit_ended_timestamp_seconds": Metric("gauge", "When the auditor's last whole round ended; 0: not yet"),
    "store_commits": Metric("counter", "Commits of the store; each takes all that waits"),
    "store_commit_seconds": Metric("counter", "How long they lasted in all"),
    "store_slowest_commit_seconds": Metric("gauge", "The slowest commit of the last minute or two"),
    "store_read_seconds": Metric("gauge", "How long the store took to say how much it holds, last time"),
    "outbox_delivered": Metric("counter", "Records delivered to webhooks, file and syslog", ("outbox",)),
    "outbox_failures": Metric("counter", "Deliveries of records that failed", ("outbox",)),
    "outbox_lag_seconds": Metric("gauge", "Age of the oldest record not delivered; 0: none", ("outbox",)),
    "outbox_stopped": Metric("gauge", "1: the receiver said that it is gone for good", ("outbox",)),
    "outbox_losses": Metric("counter", "Times that records were forgotten before they were delivered", ("outbox",)),
    "loop_lag_seconds": Metric("gauge", "How late the event loop was, at worst, since the last scrape"),
    "process_cpu_seconds": Metric("counter", "Processor time used by the daemon, without the store's process"),
    "process_resident_memory_bytes": Metric("gauge", "Memory in use"),
    "process_open_fds": Metric("gauge", "Open files"),
    "process_max_fds": Metric("gauge", "Open files that are allowed"),
    "process_start_time_seconds": Metric("gauge", "When the daemon started"),
    "gc_collections": Metric("counter", "Python's collections, by generation", ("generation",)),
    "build_info": Metric("gauge", "1; the release", ("version",)),
}
PREFIX = "smarthost_"
