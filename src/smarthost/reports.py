# SPDX-License-Identifier: MIT
"""The reports that follow a journey: each DSN that is owed becomes a message of its own, within a bound an hour.

Joins the store's debts with settle.dsn; relay.py says when a debt was made and takes what was filed on its way. Filing
a report and clearing its debt is one transaction, so a crash at worst has it written again.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from msgspec import Struct
from msgspec.structs import replace

from smarthost.mail.errors import StoreError
from smarthost.mail.settlement import OwedReport
from smarthost.ports import Clock, Sink
from smarthost.queue.store import Store
from smarthost.settle import dsn
from smarthost.settle.record import record_acceptance

REPORT_WAIT_S = 60.0  # reports wait that long for leased recipients of their message (queue.store)
PAUSE_S = 60.0  # after a failure of ours that should not be repeated at once
REPORTS_PER_HOUR = 100  # to one reverse-path: whoever forges it must not bury its owner
RETRY_STORE_S = 5.0  # a store in trouble mostly is back in seconds; a line in the log each time
HOUR_S = 3600.0
NAMES_COUNTED = 100_000  # reverse-paths of an hour, ~200 octets each; beyond it all are counted anew


async def _at_once() -> None:
    """Wait for nothing."""


class ReportTerms(Struct, frozen=True):
    """`left_behind` is told the domain to which a report was filed; `expires_at`: until when a message is tried.

    `until_wanted` waits while none may be filed. `per_hour`: how many reports one reverse-path gets in an hour: so many
    of failures, and as many of all else.
    """

    store: Store
    clock: Clock
    sink: Sink
    next_id: Callable[[], str]
    next_seq: Callable[[], int]
    hostname: str
    left_behind: Callable[[str], None]
    expires_at: Callable[[float], float]
    per_hour: int = REPORTS_PER_HOUR
    until_wanted: Callable[[], Awaitable[None]] = _at_once


class Allowance:
    """How many reports each reverse-path had this hour. Memory only: a restart begins a new hour.

    Reports of failure are counted apart: a warning too many must not cost somebody the word that mail was lost.
    """

    def __init__(self, clock: Clock, per_hour: int) -> None:
        self._clock = clock
        self._per_hour = per_hour
        self._hour_began = clock.monotonic()
        self._counts: Counter[tuple[str, bool]] = Counter()

    def take(self, reverse_path: str, is_failure: bool) -> bool:
        """May one more report go there now? Counts it."""
        now = self._clock.monotonic()
        if now - self._hour_began >= HOUR_S or len(self._counts) >= NAMES_COUNTED:
            self._hour_began = now
            self._counts.clear()
        key = (reverse_path, is_failure)
        if self._counts[key] >= self._per_hour:
            return False
        self._counts[key] += 1
        return True


class Reports:
    """Files reports as they become due. One event loop."""

    def __init__(self, terms: ReportTerms) -> None:
        self._terms = terms
        self._owing: set[str] = set()  # ids of messages that owe a report
        self._bell = asyncio.Event()
        self._allowance = Allowance(terms.clock, terms.per_hour)

    def adopt(self, *, hostname: str, expires_at: Callable[[float], float]) -> None:
        """Write reports by other terms from now on."""
        self._terms = replace(self._terms, hostname=hostname, expires_at=expires_at)

    def owe(self, id: str) -> None:
        """A settlement of this message made a debt."""
        self._owing.add(id)

    def settled(self, id: str) -> None:
        """A settlement of this message was committed: what it owes may be due now."""
        if id in self._owing:
            self._bell.set()

    def look_again(self) -> None:
        """What is owed may be due now: leases were given back."""
        self._bell.set()

    async def file_for_ever(self) -> None:
        """Write the reports that are owed until none is left; then wait for the next."""
        terms = self._terms  # of which all that is used here stays
        alarm = terms.clock.deadline(REPORT_WAIT_S, self._bell.set)
        while True:
            self._bell.clear()
            await terms.until_wanted()
            try:
                owed = await terms.store.lease_report(terms.clock.wall())
                if owed is not None:
                    await self._file(owed)
                    continue
            except StoreError as failure:
                terms.sink.note("error", "reports wait for the store", why=str(failure))
                await terms.clock.sleep(RETRY_STORE_S)
                continue
            except Exception as failure:  # noqa: BLE001 - around a report: a bug in a DSN must not stop the mail
                terms.sink.note("error", "report not filed", why=repr(failure))
                await terms.clock.sleep(PAUSE_S)
            alarm.restart(REPORT_WAIT_S)
            await self._bell.wait()

    async def _file(self, owed: OwedReport) -> None:
        terms, now = self._terms, self._terms.clock.wall()
        try:
            report = dsn.report_message(
                owed,
                id=terms.next_id(),
                now=now,
                reporting_mta=terms.hostname,
                expires_at=terms.expires_at(owed.received_at),
            )
            why_not = ""
            if report is not None and not self._allowance.take(
                owed.reverse_path, dsn.is_about_failure(dsn.select_due(owed))
            ):
                report = None
                why_not = f"<{owed.reverse_path}> had {terms.per_hour} such reports in this hour"
            records = dsn.report_records(owed, report, now=now, next_seq=terms.next_seq, why_not=why_not)
        except Exception as failure:  # noqa: BLE001 - it stays leased for a while, and others have their turn at once
            terms.sink.note("error", "report not written", id=owed.id, why=repr(failure))
            return
        if report is not None:
            records = (*records, record_acceptance(report, terms.next_seq()))
        await terms.store.file_report(owed, report, records)
        self._owing.discard(owed.id)
        for record in records:
            terms.sink.record(record)
        if report is not None:
            terms.left_behind(report.envelope.recipients[0].domain)
