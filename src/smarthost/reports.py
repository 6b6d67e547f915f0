# SPDX-License-Identifier: MIT
"""The reports that follow a journey: each DSN that is owed becomes a message of its own.

Joins the store's debts with settle.dsn; relay.py says when a debt was made and takes what was filed on its way. Filing
a report and clearing its debt is one transaction, so a crash at worst has it written again.
"""

import asyncio
from collections.abc import Callable

from msgspec import Struct

from smarthost.mail.settlement import OwedReport
from smarthost.ports import Clock, Sink
from smarthost.queue.store import Store
from smarthost.settle import dsn

REPORT_WAIT_S = 60.0  # reports wait that long for leased recipients of their message (queue.store)
PAUSE_S = 60.0  # after a failure of ours that should not be repeated at once


class ReportTerms(Struct, frozen=True):
    """`left_behind` is told the domain to which a report was filed."""

    store: Store
    clock: Clock
    sink: Sink
    next_id: Callable[[], str]
    next_seq: Callable[[], int]
    hostname: str
    left_behind: Callable[[str], None]


class Reports:
    """Files reports as they become due. One event loop."""

    def __init__(self, terms: ReportTerms) -> None:
        self._terms = terms
        self._owing: set[str] = set()  # ids of messages that owe a report
        self._bell = asyncio.Event()

    def owe(self, id: str) -> None:
        """A settlement of this message made a debt."""
        self._owing.add(id)

    def settled(self, id: str) -> None:
        """A settlement of this message was committed: what it owes may be due now."""
        if id in self._owing:
            self._bell.set()

    async def file_for_ever(self) -> None:
        """Write the reports that are owed until none is left; then wait for the next."""
        terms = self._terms
        alarm = terms.clock.deadline(REPORT_WAIT_S, self._bell.set)
        while True:
            self._bell.clear()
            try:
                owed = await terms.store.lease_report(terms.clock.wall())
                if owed is not None:
                    await self._file(owed)
                    continue
            except Exception as failure:  # noqa: BLE001 - around a report: a bug in a DSN must not stop the mail
                terms.sink.note("error", "report not filed", why=repr(failure))
                await terms.clock.sleep(PAUSE_S)
            alarm.restart(REPORT_WAIT_S)
            await self._bell.wait()

    async def _file(self, owed: OwedReport) -> None:
        terms, now = self._terms, self._terms.clock.wall()
        try:
            report = dsn.report_message(owed, id=terms.next_id(), now=now, reporting_mta=terms.hostname)
            records = dsn.report_records(owed, report, now=now, next_seq=terms.next_seq)
        except Exception as failure:  # noqa: BLE001 - it stays leased for a while, and others have their turn at once
            terms.sink.note("error", "report not written", id=owed.id, why=repr(failure))
            return
        await terms.store.file_report(owed, report, records)
        self._owing.discard(owed.id)
        for record in records:
            terms.sink.record(record)
        if report is not None:
            terms.left_behind(report.envelope.recipients[0].domain)
