# SPDX-License-Identifier: MIT
"""The questions the child answers, on a read-only connection of its own, so that no read ever delays a commit.

Runs in a thread of the child. Every answer is bounded: by the n asked for, and where a filter could match rarely by
SCAN_MESSAGES, after which it gives what it has with a cursor. Knows no leases: the question names them.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any
from zlib import crc32

import apsw
import msgspec
from msgspec.structs import replace

from smarthost.backends.sqlite import checksums, flaws, wire
from smarthost.backends.sqlite.judged import Judged, Unreadable
from smarthost.mail.identity import encode_id

LEASE_RECIPIENTS = 100  # mail.lease, not imported here: the child stays small
SEQUENCE_BITS = 21  # mail.identity
SCAN_MESSAGES = 20_000  # rows a filter looks at in one answer: ~20 ms
SCAN_DELAYED = 5_000  # messages looked through for untold delays in one answer
SCAN_ROWS = 5_000  # rows in order of due time read before the loose scan over domains takes over: ~5 ms
PAGE_RECIPIENTS = 10_000  # a page of find ends early beyond this
DEBTS = 100

# The first due time of each domain without reading its rows: a loose index scan, two seeks a domain.
LOOSE_SCAN = """
WITH RECURSIVE each (domain) AS (
    SELECT min(domain) FROM recipient WHERE state = 'deferred'
    UNION ALL
    SELECT (SELECT min(domain) FROM recipient WHERE state = 'deferred' AND domain > each.domain)
    FROM each WHERE each.domain IS NOT NULL)
SELECT domain, (SELECT min(due) FROM recipient AS r WHERE r.state = 'deferred' AND r.domain = each.domain) AS first
FROM each WHERE domain IS NOT NULL AND first <= ? ORDER BY first
"""
IN_DUE_ORDER = "SELECT due, message, n, domain FROM recipient WHERE state = 'deferred' AND due {} ? ORDER BY due"
DOMAIN_IN_DUE_ORDER = """
SELECT due, message, n FROM recipient WHERE state = 'deferred' AND domain = ? AND due <= ? ORDER BY due, message, n"""
# One domain after the other, as above, each with one look at its latest due time.
AWAITING = """
WITH RECURSIVE each (domain) AS (
    SELECT min(domain) FROM recipient WHERE awaits_host = 1 AND state = 'deferred'
    UNION ALL
    SELECT (SELECT min(domain) FROM recipient
        WHERE awaits_host = 1 AND state = 'deferred' AND domain > each.domain)
    FROM each WHERE each.domain IS NOT NULL)
SELECT domain FROM each WHERE EXISTS (
    SELECT 1 FROM recipient AS r
    WHERE r.awaits_host = 1 AND r.state = 'deferred' AND r.domain = each.domain AND r.due > ?)
"""
OLD_MESSAGES = """
SELECT key FROM message WHERE received_at < ? AND EXISTS (
    SELECT 1 FROM recipient WHERE message = key AND state = 'deferred') ORDER BY received_at, key"""
# What is told is passed over here, in SQL: behind the parent's cursor there may be a million of it.
DELAYED_MESSAGES = """
SELECT received_at, key FROM message
WHERE (received_at, key) > (?, ?) AND (received_at, key) <= (?, ?) AND EXISTS (
    SELECT 1 FROM recipient WHERE message = key AND state = 'deferred' AND delay_told = 0) ORDER BY received_at, key"""
DELAYED_END = """
SELECT received_at, key FROM message
WHERE (received_at, key) > (?, ?) AND received_at < ? ORDER BY received_at, key LIMIT 1 OFFSET ?"""
DEFERRED_OF = """
SELECT checksum, n, address, domain, attempts, last_reply, status, notify, orcpt, delay_told, due, awaits_host, why,
    host
FROM recipient WHERE message = ? AND state = 'deferred' ORDER BY n"""
UNFINISHED_OF = """
SELECT checksum, n, address, domain, attempts, last_reply, status, notify, orcpt, delay_told, due, awaits_host, why,
    host, state = 'held'
FROM recipient WHERE message = ? AND state IN ('deferred', 'held') AND owed_at IS NULL ORDER BY n"""
HELD_OVER = """
SELECT DISTINCT message FROM recipient
WHERE state = 'held' AND due <= ? AND owed_at IS NULL AND why NOT GLOB 'damaged:*' LIMIT 10000"""
CONTENT = """
SELECT m.octets, m.in_file, m.checksum, c.octets FROM message AS m LEFT JOIN content AS c ON c.key = m.key
WHERE m.key = ? AND m.tag = ?"""
OWED = """
SELECT checksum, n, address, domain, state, due, attempts, last_reply, status, why, host, awaits_host, dsn, notify,
    orcpt, delay_told
FROM recipient WHERE message = ? AND owed_at IS NOT NULL ORDER BY n"""
# :scoped and :via: behind them are those of a domain that have a sender, or a way, in them (mail.address).
# +m.key: a plain one would be taken for the range of the scan, instead of :first.
MATCH = """
SELECT m.key, m.tag, m.received_at, m.reverse_path, m.client, m.sender, m.octets,
    r.n, r.address, r.domain, r.state, r.due, r.attempts, r.last_reply, r.status, r.why, r.host, r.awaits_host
FROM message AS m CROSS JOIN recipient AS r ON r.message = m.key
WHERE m.key >= :first AND m.key <= :last AND (+m.key, r.n) > (:after_key, :after_n)
    AND (:key = -1 OR m.tag = :tag)
    AND (:reverse_path = '' OR m.reverse_path = iif(:reverse_path = '<>', '', :reverse_path) COLLATE NOCASE)
    AND (:recipient = '' OR r.address = :recipient COLLATE NOCASE)
    AND (:domain = '' OR r.domain = :domain COLLATE NOCASE
        OR (r.domain > :scoped COLLATE NOCASE AND r.domain < :scoped_end COLLATE NOCASE)
        OR (r.domain > :via COLLATE NOCASE AND r.domain < :via_end COLLATE NOCASE))
    AND (NOT :unfinished OR r.state IN ('deferred', 'held'))
    AND (:sender = '' OR m.sender = :sender COLLATE NOCASE)
    AND (:sender_domain = '' OR lower(m.reverse_path) LIKE '%@' || :sender_domain ESCAPE char(92))
    AND (:state = '' OR r.state = :state)
    AND (:received_before = 0.0 OR m.received_at < :received_before)
    AND (:reply = '' OR instr(lower(r.last_reply || char(10) || r.why), :reply) > 0)
    AND (:domains = '[]' OR r.domain IN (SELECT value FROM json_each(:domains)))
ORDER BY m.key, r.n
"""
SUSPECTS_END = """
SELECT message, n FROM recipient WHERE (message, n) > (?, ?) ORDER BY message, n LIMIT 1 OFFSET ?"""
# queue.audit.is_suspect, in SQL: what is innocent crosses no process.
SUSPECTS = """
SELECT r.message, r.n, m.tag, r.address, r.domain, r.state, r.due, m.received_at, r.owed_at
FROM recipient AS r LEFT JOIN message AS m ON m.key = r.message
WHERE (r.message, r.n) > (:key, :n) AND (r.message, r.n) <= (:last_key, :last_n) AND (
    m.key IS NULL OR r.owed_at < :owed_before
    OR r.state IN ('deferred', 'held') AND r.due NOT BETWEEN :due_before AND :due_after
    OR r.state = 'deferred' AND m.received_at < :received_before
    OR r.state NOT IN ('deferred', 'held') AND r.owed_at IS NULL
    OR r.state NOT IN ('deferred', 'held', 'relayed', 'bounced', 'expired', 'cancelled'))
ORDER BY r.message, r.n
"""
TALLY_END = "SELECT message FROM recipient WHERE message > ? ORDER BY message, n LIMIT 1 OFFSET ?"
TALLY_BEFORE = "SELECT max(message) FROM recipient WHERE message > ? AND message < ?"
# The key and the tag are those of the oldest: what stands bare beside a single min() comes from its row.
TALLY = """
SELECT substr({}, 1, 200), count(*), sum(r.state = 'deferred' AND r.due <= :now), sum(r.state = 'held'),
    min(m.received_at), m.key, m.tag
FROM message AS m CROSS JOIN recipient AS r ON r.message = m.key
WHERE m.key > :after AND m.key <= :last AND r.state IN ('deferred', 'held')
GROUP BY 1
"""
NOTES = "SELECT name, value FROM note WHERE name >= ? ORDER BY name"
COUNTS = (
    "SELECT count(*) FROM message",
    "SELECT count(*) FROM recipient WHERE state = 'deferred'",
    "SELECT count(*) FROM recipient WHERE state = 'held'",
)
END_OF_KEYS = (1 << 63) - 1


class Contradiction(Exception):
    """The database says one thing here and another there."""


class Reads(Judged):
    """Answers questions from one read-only connection; used by one thread."""

    def __init__(self, db: apsw.Connection, content: Path) -> None:
        super().__init__(db, content)
        self._answers: dict[type, Callable[[Any], object]] = {
            wire.AskDue: self._due,
            wire.AskLease: self._lease,
            wire.AskSweep: self._sweep,
            wire.AskDelayed: self._delayed,
            wire.AskUntold: self._untold,
            wire.AskAll: self._all,
            wire.AskHeldOver: self._held_over,
            wire.AskContent: self._read_content,
            wire.AskFind: self._find,
            wire.AskChangeable: self._changeable,
            wire.AskDebts: self._debts,
            wire.AskDebt: self._debt,
            wire.AskRecords: self._records,
            wire.AskHistory: self._history,
            wire.AskAccepted: self._accepted,
            wire.AskTally: self._tally,
            wire.AskRemembered: self._remembered,
            wire.AskCount: self._count,
            wire.AskAwaiting: self._awaiting,
            wire.AskNotes: self._notes,
            wire.AskRecall: self._recall,
            wire.AskSuspects: self._suspects,
        }

    def answer(self, question: wire.Question) -> object:
        """Answer from one consistent snapshot. Raises: Unreadable, Contradiction, UnicodeDecodeError, apsw.Error."""
        self._db.execute("BEGIN")
        try:
            return self._answers[type(question)](question)
        finally:
            self._db.execute("COMMIT")

    def _due(self, ask: wire.AskDue) -> wire.DueRows:
        leased = {(key, n) for key, n, _ in ask.leased}
        later = self._db.execute(IN_DUE_ORDER.format(">"), (ask.now,))
        next_at = next((due for due, key, n, _ in later if (key, n) not in leased), None)
        later.close()
        first: dict[str, float] = {}
        limit = SCAN_ROWS + len(leased)
        rows = self.rows(f"{IN_DUE_ORDER.format('<=')} LIMIT {limit}", ask.now)
        for due, key, n, domain in rows:
            if domain not in first and (key, n) not in leased:
                if len(first) == ask.n:
                    return wire.DueRows(list(first.items()), due)
                first[domain] = due
        if len(rows) == limit:
            first = self._first_of_domains(ask, leased)
            if len(first) > ask.n:
                ordered = list(first.items())
                return wire.DueRows(ordered[: ask.n], ordered[ask.n][1])
        return wire.DueRows(list(first.items()), next_at)

    def _first_of_domains(self, ask: wire.AskDue, leased: set[tuple[int, int]]) -> dict[str, float]:
        crowded = {domain for _, _, domain in ask.leased}
        found = []
        for domain, due in self.rows(f"{LOOSE_SCAN} LIMIT {ask.n + 1 + len(crowded)}", ask.now):
            if domain not in crowded:
                found.append((due, domain))
                continue
            rows = self._db.execute(DOMAIN_IN_DUE_ORDER, (domain, ask.now))
            free = next((due for due, key, n in rows if (key, n) not in leased), None)
            rows.close()
            if free is not None:
                found.append((free, domain))
        return {domain: due for due, domain in sorted(found)}

    def _lease(self, ask: wire.AskLease) -> wire.LeaseRows:
        leased = set(ask.leased)
        domains = set(ask.domains)

        def is_wanted(key: int, each: wire.LeasedRow) -> bool:
            return (key, each.n) not in leased and each.domain in domains and each.due <= ask.now

        found: list[wire.LeaseRow] = []
        is_cut = False
        for key in self._earliest(ask, leased):
            before = len(self.damaged)
            leases = self._leases_of(key, is_wanted)
            if not leases and len(self.damaged) == before:
                raise Contradiction(f"an index speaks of recipients of message {key} that it does not have")
            is_cut = is_cut or not leases
            found += leases
            if len(found) >= ask.n:
                return wire.LeaseRows(found[: ask.n], False)
        return wire.LeaseRows(found, is_cut)

    def _earliest(self, ask: wire.AskLease, leased: set[tuple[int, int]]) -> list[int]:
        """Give the n messages with the earliest due recipients, in that order."""
        earliest: dict[int, float] = {}
        bound = ask.now
        for domain in ask.domains:
            of_domain: set[int] = set()
            rows = self._db.execute(DOMAIN_IN_DUE_ORDER, (domain, bound))
            for due, key, n in rows:
                if (key, n) not in leased:
                    of_domain.add(key)
                    earliest[key] = min(due, earliest.get(key, due))
                    if len(of_domain) == ask.n:
                        break
            rows.close()
            if len(earliest) >= 2 * ask.n:  # what is later than the n earliest need not be read
                earliest = dict(sorted(earliest.items(), key=_by_due)[: ask.n])
                bound = max(earliest.values())
        return [key for key, _ in sorted(earliest.items(), key=_by_due)[: ask.n]]

    def _sweep(self, ask: wire.AskSweep) -> list[wire.LeaseRow]:
        leased = set(ask.leased)
        found: list[wire.LeaseRow] = []
        messages = 0
        rows = self._db.execute(OLD_MESSAGES, (ask.received_before,))
        for (key,) in rows:
            leases = self._leases_of(key, lambda key, each: (key, each.n) not in leased)
            found += leases
            messages += bool(leases)
            if messages == ask.n:
                break
        rows.close()
        return found

    def _delayed(self, ask: wire.AskDelayed) -> wire.DelayedRows:
        """Give what is delayed and untold of at most SCAN_DELAYED messages, leased or not."""
        start = ask.at, ask.key
        more = self.rows(DELAYED_END, *start, ask.received_before, SCAN_DELAYED - 1)
        end = more[0] if more else (ask.received_before, -1)
        found: list[wire.LeaseRow] = []
        rows = self.rows(f"{DELAYED_MESSAGES} LIMIT {ask.n}", *start, *end)
        for _, key in rows:
            found += self._leases_of(key, _is_untold)
        if len(rows) == ask.n:
            end = rows[-1]
        is_end = not more and len(rows) < ask.n
        return wire.DelayedRows(found, end[0], end[1], is_end)

    def _untold(self, ask: wire.AskUntold) -> list[wire.LeaseRow]:
        found = [lease for key in ask.keys for lease in self._leases_of(key, _is_untold)]
        return sorted(found, key=lambda lease: (lease.received_at, lease.key))

    def _all(self, ask: wire.AskAll) -> wire.AllRows:
        """Look at SCAN_MESSAGES messages at most: there may be a million that owe a report."""
        leased = set(ask.leased)
        found: list[wire.LeaseRow] = []
        last = None
        rows = self._db.execute("SELECT key FROM message WHERE key > ? ORDER BY key", (ask.after,))
        for count, (key,) in enumerate(rows, 1):
            rows_of = self.rows(UNFINISHED_OF, key)
            lease = self.to_lease(key, rows_of, lambda key, each: (key, each.n) not in leased)
            if lease is not None:
                found.append(lease)
            if len(found) == ask.n or count == SCAN_MESSAGES:
                last = key
                break
        rows.close()
        return wire.AllRows(found, last)

    def _held_over(self, ask: wire.AskHeldOver) -> list[wire.LeaseRow]:
        leased = set(ask.leased)
        found: list[wire.LeaseRow] = []
        for (key,) in self.rows(HELD_OVER, ask.now):
            rows = self.rows(UNFINISHED_OF, key)
            lease = self.to_lease(
                key, rows, lambda key, each: bool(each.is_held) and each.due <= ask.now and (key, each.n) not in leased
            )
            if lease is not None:
                found.append(lease)
            if len(found) == ask.n:
                break
        return found

    def _leases_of(self, key: int, is_wanted: Callable[[int, wire.LeasedRow], bool]) -> list[wire.LeaseRow]:
        whole = self.to_lease(key, self.rows(DEFERRED_OF, key), is_wanted)
        if whole is None or len(whole.recipients) <= LEASE_RECIPIENTS:
            return [] if whole is None else [whole]
        return [
            replace(whole, recipients=whole.recipients[start : start + LEASE_RECIPIENTS])
            for start in range(0, len(whole.recipients), LEASE_RECIPIENTS)
        ]

    def _read_content(self, ask: wire.AskContent) -> wire.ContentRow:
        rows = self.rows(CONTENT, ask.key, ask.tag)
        if not rows:
            raise Unreadable(f"message {encode_id(ask.key, ask.tag)} is not in the queue")
        octets, in_file, checksum, body = rows[0]
        if in_file:
            why = "" if ask.is_fresh else self.judge_file(ask.key, ask.tag, octets, checksum)
        elif body is None:
            why = flaws.NO_CONTENT
        else:
            is_right = checksum is None or checksums.is_content(checksum, crc32(body))
            why = "" if len(body) == octets and is_right else flaws.CONTENT
        if why:
            self.report(ask.key, ask.tag, why)
            where = f": {self._content / encode_id(ask.key, ask.tag)}" if in_file else ""
            raise Unreadable(f"message {encode_id(ask.key, ask.tag)} is damaged: {why}{where}")
        return wire.ContentRow(octets, body)

    def _matches(self, ask: wire.AskFind, unfinished: bool) -> tuple[Iterator[Any], int | None]:
        """Give matching rows, and the last key looked at when that is not the end of the queue."""
        first, last, stopped = max(ask.after_key, 0), END_OF_KEYS, None
        if ask.key != -1:
            first = max(first, ask.key)
            last = ask.key
        else:
            for (key,) in self.rows("SELECT key FROM message WHERE key >= ? LIMIT 1 OFFSET ?", first, SCAN_MESSAGES):
                last = stopped = key
        bindings = {
            "first": first,
            "last": last,
            "after_key": ask.after_key,
            "after_n": ask.after_n,
            "key": ask.key,
            "tag": ask.tag,
            "reverse_path": ask.reverse_path,
            "recipient": ask.recipient,
            "domain": ask.domain,
            "scoped": f"{ask.domain} from ",
            "scoped_end": f"{ask.domain} from!",  # the character after the blank
            "via": f"{ask.domain} via ",
            "via_end": f"{ask.domain} via!",
            "unfinished": unfinished,
            "sender": ask.sender,
            "sender_domain": _like(ask.sender_domain),
            "reply": ask.reply,
            "state": ask.state,
            "received_before": ask.received_before,
            "domains": msgspec.json.encode(ask.domains).decode(),
        }
        rows: Iterator[Any] = self._db.execute(MATCH, bindings)
        return rows, stopped

    def _find(self, ask: wire.AskFind) -> wire.FoundRows:
        rows, stopped = self._matches(ask, unfinished=False)
        found: list[wire.MessageRow] = []
        for count, row in enumerate(rows):
            if not found or found[-1].key != row[0]:
                if len(found) == ask.n or count >= PAGE_RECIPIENTS:
                    return wire.FoundRows(found, (found[-1].key, END_OF_KEYS))
                found.append(wire.MessageRow(*[*row[:7], []]))
            found[-1].recipients.append(wire.RecipientRow(*row[7:]))
        return wire.FoundRows(found, None if stopped is None else (stopped, END_OF_KEYS))

    def _changeable(self, ask: wire.AskChangeable) -> wire.FoundRows:
        rows, stopped = self._matches(ask, unfinished=True)
        found: list[wire.MessageRow] = []
        for count, row in enumerate(rows):
            if count == ask.n:
                return wire.FoundRows(found, (found[-1].key, found[-1].recipients[-1].n))
            if not found or found[-1].key != row[0]:
                found.append(wire.MessageRow(*[*row[:7], []]))
            found[-1].recipients.append(wire.RecipientRow(*row[7:]))
        return wire.FoundRows(found, None if stopped is None else (stopped, END_OF_KEYS))

    def _debts(self, ask: wire.AskDebts) -> list[tuple[int, int, float]]:
        """Give (key, tag, oldest debt) of messages that owe a report, oldest debt first."""
        exclude = set(ask.exclude)
        oldest: dict[int, float] = {}
        rows = self._db.execute("SELECT message, owed_at FROM recipient WHERE owed_at IS NOT NULL ORDER BY owed_at")
        for key, owed_at in rows:
            if key not in exclude and key not in oldest:
                oldest[key] = owed_at
                if len(oldest) == DEBTS:
                    break
        rows.close()
        found = []
        for key, owed_at in oldest.items():
            tags = self.rows("SELECT tag FROM message WHERE key = ?", key)
            if tags:
                found.append((key, tags[0][0], owed_at))
            else:
                self.report(key, -1, flaws.NO_MESSAGE)
        return found

    def _debt(self, ask: wire.AskDebt) -> wire.DebtRow | None:
        owed = self.rows(OWED, ask.key)
        message = self.message(ask.key) if owed else None
        if message is None:
            return None
        debtors = []
        for checksum, *row in owed:
            debtor = wire.DebtorRow(*row)
            why = flaws.of_recipient(
                debtor.n, debtor.address, debtor.domain, debtor.notify, debtor.orcpt, checksum, message[14]
            )
            if why:
                self.damaged.append(wire.DamagedRow(ask.key, message[1], debtor.n, debtor.address, debtor.domain, why))
            else:
                debtors.append(debtor)
        if not debtors:
            return None
        key, tag, received_at, reverse_path, _, smtputf8, _, _, octets, in_file, prefix, ret, envid, tls = message[:14]
        header = self.file_header(key, tag) if in_file else self.inline_header(key, message[14])
        return wire.DebtRow(
            key, tag, received_at, reverse_path, smtputf8, prefix, octets, ret, envid, tls, header, debtors
        )

    def _records(self, ask: wire.AskRecords) -> list[bytes]:
        tables = self.rows("SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'record_[0-9]*'")
        found: list[tuple[int, str]] = []
        for (table,) in tables:
            found += self.rows(f"SELECT seq, body FROM {table} WHERE seq > ? ORDER BY seq LIMIT ?", ask.after, ask.n)  # noqa: S608
        found.sort()
        return [body.encode() for _, body in found[: ask.n]]

    def _days(self, kind: str) -> list[str]:
        """Give the days that have such tables, the last one first."""
        names = self.rows("SELECT name FROM sqlite_schema WHERE name GLOB ? ORDER BY name DESC", f"{kind}_[0-9]*")
        return [name.rpartition("_")[2] for (name,) in names]

    def _history(self, ask: wire.AskHistory) -> list[bytes]:
        """Read by the index of each day: a table of a salvage, or of an older release, has none and is passed over."""
        found: list[tuple[int, str]] = []
        for day in self._days("of"):
            rows = f"SELECT seq, body FROM record_{day} INDEXED BY of_{day} WHERE message = ?"  # noqa: S608
            found += self.rows(f"{rows} ORDER BY seq DESC LIMIT ?", ask.key, ask.n - len(found))
            if len(found) >= ask.n:
                break
        found.sort()
        return [body.encode() for _, body in found]

    def _accepted(self, ask: wire.AskAccepted) -> list[bytes]:
        found: list[bytes] = []
        for day in self._days("about"):
            keys = f"SELECT message FROM about_{day} WHERE number = ? ORDER BY message DESC LIMIT ?"  # noqa: S608
            for (key,) in self.rows(keys, ask.about, ask.n - len(found)):
                first = f"SELECT body FROM record_{day} INDEXED BY of_{day} WHERE message = ? ORDER BY seq LIMIT 1"  # noqa: S608
                found += [body.encode() for (body,) in self.rows(first, key)]
            if len(found) >= ask.n:
                break
        return found

    def _remembered(self, ask: wire.AskRemembered) -> bool:
        """Compare the oldest message with the oldest day that is kept; keys begin with their time (mail.identity)."""
        oldest = self.rows("SELECT min(key) FROM message")[0][0]
        days = self._days("about")
        if oldest is None or not days:
            return oldest is None
        began = datetime.strptime(days[-1], "%Y%m%d").replace(tzinfo=UTC).timestamp()
        return bool(oldest >= int(began * 1000) << SEQUENCE_BITS)

    def _tally(self, ask: wire.AskTally) -> wire.TallyRows:
        more = self.rows(TALLY_END, ask.after, SCAN_MESSAGES)
        last = None
        if more:  # up to the message before that one, unless that would be none
            before = self.rows(TALLY_BEFORE, ask.after, more[0][0])[0][0]
            last = more[0][0] if before is None else before
        bindings = {"after": ask.after, "last": END_OF_KEYS if last is None else last, "now": ask.now}
        by_name = [
            {name: tuple(row) for name, *row in self._db.execute(TALLY.format(column), bindings)}
            for column in ("r.domain", "m.sender", "coalesce(nullif(r.last_reply, ''), r.why)")
        ]
        domains, senders, reasons = by_name
        return wire.TallyRows(domains, senders, reasons, last)

    def _count(self, ask: wire.AskCount) -> tuple[int, int]:
        counts = [self.rows(count)[0][0] for count in COUNTS]
        return counts[0], counts[1] + counts[2]

    def _awaiting(self, ask: wire.AskAwaiting) -> list[str]:
        return [domain for (domain,) in self.rows(f"{AWAITING} LIMIT {ask.n}", ask.now)]

    def _recall(self, ask: wire.AskRecall) -> wire.LeaseRow | None:
        return next(iter(self._leases_of(ask.key, lambda key, each: each.n == ask.n)), None)

    def _suspects(self, ask: wire.AskSuspects) -> wire.SuspectRows:
        more = self.rows(SUSPECTS_END, ask.key, ask.n, ask.rows - 1)
        last = more[0] if more else (END_OF_KEYS, END_OF_KEYS)
        checked = ask.rows
        if not more:
            checked = self.rows("SELECT count(*) FROM recipient WHERE (message, n) > (?, ?)", ask.key, ask.n)[0][0]
        bindings = {
            "key": ask.key,
            "n": ask.n,
            "last_key": last[0],
            "last_n": last[1],
            "due_before": ask.due_before,
            "due_after": ask.due_after,
            "received_before": ask.received_before,
            "owed_before": ask.owed_before,
        }
        found = [wire.SuspectRow(*row) for row in self._db.execute(SUSPECTS, bindings)]
        return wire.SuspectRows(found, checked, more[0] if more else None)

    def _notes(self, ask: wire.AskNotes) -> dict[str, bytes]:
        rows = self._db.execute(NOTES, (ask.prefix,))
        found = dict(takewhile(lambda row: row[0].startswith(ask.prefix), rows))
        rows.close()
        return found


def _like(text: str) -> str:
    """Give a text that LIKE takes literally."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _is_untold(key: int, each: wire.LeasedRow) -> bool:
    return not each.delay_told


def _by_due(item: tuple[int, float]) -> tuple[float, int]:
    return item[1], item[0]
