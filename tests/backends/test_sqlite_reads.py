# SPDX-License-Identifier: MIT
"""Questions about large queues: every answer is right at any size, and bounded in what it reads."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from smarthost.backends.sqlite import database, reads, wire
from smarthost.backends.sqlite.reads import Reads

NOW = 1_800_000_000.0
MESSAGES = 3_000
DOMAINS = 30


FIELDS = "(key, tag, received_at, reverse_path, body, smtputf8, client, sender, octets, in_file, prefix)"


def message_row(received_at: str = f"{NOW} + i") -> str:
    """The row of message number i."""
    return f"i, 5, {received_at}, 'a@b', '7BIT', 0, '', '', 9, 0, x''"


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reads]:
    """A queue of 3,000 messages for 30 domains: due from NOW - 3000 on, one a second, in key order."""
    path = tmp_path_factory.mktemp("reads") / "queue.db"
    db = database.open_writer(path)
    numbers = f"WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < {MESSAGES})"
    with db:
        db.execute(f"{numbers} INSERT INTO message {FIELDS} SELECT {message_row()} FROM k")
        db.execute(
            f"{numbers} INSERT INTO recipient (message, n, address, domain, due)"
            f" SELECT i, 0, 'user' || i || '@x', 'd' || (i % {DOMAINS}), {NOW} - {MESSAGES} + i FROM k"
        )
    yield Reads(database.open_reader(path), path.parent)
    db.close()


def ask_due(queue: Reads, now: float, n: int, leased: list[tuple[int, int, str]] | None = None) -> wire.DueRows:
    found = queue.answer(wire.AskDue(now, n, leased or []))
    assert isinstance(found, wire.DueRows)
    return found


def first_due(domain: int) -> float:
    return NOW - MESSAGES + (domain or DOMAINS)


@pytest.mark.parametrize("scan_rows", [10, 100, 5_000])
@pytest.mark.parametrize("n", [7, 30, 100])
def test_due_is_the_same_however_it_is_found(
    queue: Reads, monkeypatch: pytest.MonkeyPatch, scan_rows: int, n: int
) -> None:
    """Reading in order of due time and jumping from domain to domain give the same answer."""
    monkeypatch.setattr(reads, "SCAN_ROWS", scan_rows)

    found = ask_due(queue, NOW, n)

    expected = [(f"d{domain % DOMAINS}", first_due(domain % DOMAINS)) for domain in range(1, DOMAINS + 1)]
    assert found.domains == expected[:n]
    assert found.next_at == (expected[n][1] if n < DOMAINS else None)


@pytest.mark.parametrize("scan_rows", [10, 5_000])
def test_due_passes_over_what_is_leased(queue: Reads, monkeypatch: pytest.MonkeyPatch, scan_rows: int) -> None:
    """A domain whose first recipients are leased is due with its first free one; one wholly leased is not."""
    monkeypatch.setattr(reads, "SCAN_ROWS", scan_rows)
    all_of_3 = [(i, 0, "d3") for i in range(1, MESSAGES + 1) if i % DOMAINS == 3]
    start_of_4 = [(i, 0, "d4") for i in range(1, 500) if i % DOMAINS == 4]

    found = dict(ask_due(queue, NOW, 100, all_of_3 + start_of_4).domains)

    assert "d3" not in found
    assert found["d4"] == NOW - MESSAGES + 514
    assert len(found) == DOMAINS - 1


def test_next_time_is_that_of_the_first_free_recipient(queue: Reads) -> None:
    """What is leased does not wake anybody."""
    now = NOW - MESSAGES
    assert ask_due(queue, now, 10).next_at == now + 1

    assert ask_due(queue, now, 10, [(1, 0, "d1"), (2, 0, "d2")]).next_at == now + 3


@pytest.mark.parametrize("n", [1, 10, 250])
def test_lease_over_many_domains_takes_the_earliest(queue: Reads, n: int) -> None:
    """Of a thousand domains of one destination, what waited longest goes first, and nothing leased is given again."""
    domains = [f"d{domain}" for domain in range(DOMAINS)]
    leased = [(i, 0) for i in range(1, 50)]

    found = queue.answer(wire.AskLease(domains, NOW, n, leased))

    assert isinstance(found, wire.LeaseRows)
    assert [row.key for row in found.messages] == list(range(50, 50 + n))


def test_rare_match_is_found_in_bounded_steps(queue: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that hardly matches reads a bounded part of the queue a call, and finds everything in the end."""
    monkeypatch.setattr(reads, "SCAN_MESSAGES", 1_000)
    seen: list[int] = []
    calls = 0
    after = (-1, -1)
    while True:
        found = queue.answer(wire.AskFind(-1, -1, "", "USER2500@x", "", *after, 10))
        assert isinstance(found, wire.FoundRows)
        calls += 1
        seen += [message.key for message in found.messages]
        if found.cursor is None:
            break
        after = found.cursor

    assert seen == [2500]
    assert calls == 3


def test_full_page_of_recipients_ends_early(queue: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page never holds more recipients than memory should, and the next one goes on behind it."""
    monkeypatch.setattr(reads, "PAGE_RECIPIENTS", 10)

    found = queue.answer(wire.AskFind(-1, -1, "", "", "", -1, -1, 1000))

    assert isinstance(found, wire.FoundRows)
    assert len(found.messages) == 10
    assert found.cursor is not None
    assert found.cursor[0] == found.messages[-1].key


def test_domains_that_await_a_host_are_found_without_reading_their_recipients(tmp_path: Path) -> None:
    """A host with a hundred thousand recipients behind it is looked for in as many steps as one with a hundred."""
    steps = []
    for directory, count in (("few", 300), ("many", 30_000)):
        (tmp_path / directory).mkdir()
        path = tmp_path / directory / "queue.db"
        db = database.open_writer(path)
        numbers = f"WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < {count})"
        with db:
            db.execute(
                f"{numbers} INSERT INTO recipient (message, n, address, domain, due, awaits_host)"
                f" SELECT i, 0, 'user@x', 'd' || (i % 3), {NOW} + i * (i % 3 < 2), i % 3 FROM k"
            )
        asked = Reads(database.open_reader(path), tmp_path)
        steps.append(0)

        def count_step() -> bool:
            steps[-1] += 1
            return False

        asked._db.set_progress_handler(count_step, 1)
        assert asked.answer(wire.AskAwaiting(NOW, 10)) == ["d1"]
        asked._db.close()
        db.close()

    few, many = steps
    assert few == many < 200


def ask_delayed(queue: Reads, until: float, n: int, at: float, key: int) -> wire.DelayedRows:
    found = queue.answer(wire.AskDelayed(until, n, at, key))
    assert isinstance(found, wire.DelayedRows)
    return found


@pytest.mark.parametrize("scan", [1, 7, 1_000, 5_000])
@pytest.mark.parametrize("n", [1, 40, 5_000])
def test_untold_delays_are_found_once_each_in_bounded_steps(
    queue: Reads, monkeypatch: pytest.MonkeyPatch, scan: int, n: int
) -> None:
    """Whatever the portions, the sweep comes by each old message once, in order, and goes on where it stopped."""
    monkeypatch.setattr(reads, "SCAN_DELAYED", scan)
    seen: list[int] = []
    at, key, is_end = float("-inf"), -1, False
    for until in (NOW + 101, NOW + 201, NOW + 201, NOW + 100):
        is_end = False
        while not is_end:
            found = ask_delayed(queue, until, n, at, key)
            assert len(found.messages) <= min(n, scan)
            at, key, is_end = found.at, found.key, found.is_end
            seen += [row.key for row in found.messages]
        assert seen == list(range(1, 101 if until == NOW + 101 else 201))
        at, key = max((at, key), (NOW + 101.0, -1))


def test_delays_told_long_ago_are_not_read_each_time(tmp_path: Path) -> None:
    """With thirty thousand told recipients in the queue a sweep takes as many steps as with three hundred."""
    steps = []
    for directory, count in (("empty", 0), ("few", 300), ("many", 30_000)):
        (tmp_path / directory).mkdir()
        path = tmp_path / directory / "queue.db"
        db = database.open_writer(path)
        numbers = f"WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < {count})"
        with db:
            if count:
                db.execute(f"{numbers} INSERT INTO message {FIELDS} SELECT {message_row(f'{NOW} - i')} FROM k")
                db.execute(
                    f"{numbers} INSERT INTO recipient (message, n, address, domain, due, delay_told)"
                    f" SELECT i, 0, 'user@x', 'x', {NOW}, 1 FROM k"
                )
        asked = Reads(database.open_reader(path), tmp_path)
        at, key, is_end, rounds = float("-inf"), -1, False, 0
        while not is_end:
            first = ask_delayed(asked, NOW, 100, at, key)
            at, key, is_end, rounds = first.at, first.key, first.is_end, rounds + 1
            assert first.messages == []
        assert rounds == 1 + count // reads.SCAN_DELAYED
        steps.append(0)

        def count_step() -> bool:
            steps[-1] += 1
            return False

        asked._db.set_progress_handler(count_step, 1)
        assert ask_delayed(asked, NOW + 60, 100, at, key) == wire.DelayedRows([], NOW + 60, -1, True)
        asked._db.close()
        db.close()

    empty, few, many = steps
    assert empty == few == many < 100


@pytest.mark.parametrize(
    "sql",
    [
        reads.LOOSE_SCAN,
        reads.IN_DUE_ORDER.format("<="),
        reads.IN_DUE_ORDER.format(">"),
        reads.DOMAIN_IN_DUE_ORDER,
        reads.AWAITING,
        reads.OLD_MESSAGES,
        reads.DELAYED_MESSAGES,
        reads.DELAYED_END,
        reads.DEFERRED_OF,
        reads.MATCH,
        reads.OWED,
    ],
)
def test_no_question_reads_a_whole_table(queue: Reads, sql: str) -> None:
    """Cost per message is flat with queue depth: each query is a search in an index, in its order."""
    bindings: object = [0] * sql.count("?")
    if ":first" in sql:
        bindings = dict.fromkeys(
            [
                "first",
                "last",
                "after_key",
                "after_n",
                "key",
                "tag",
                "reverse_path",
                "recipient",
                "domain",
                "scoped",
                "scoped_end",
                "via",
                "via_end",
                "sender",
                "sender_domain",
                "reply",
                "state",
                "received_before",
                "domains",
                "unfinished",
            ],
            0,
        )
    plan = [str(row[3]) for row in queue._db.execute(f"EXPLAIN QUERY PLAN {sql}", bindings).fetchall()]  # type: ignore[arg-type]

    assert [step for step in plan if step.startswith("SCAN") and step != "SCAN each" and "json_each" not in step] == []
    assert sql != reads.AWAITING or sum("COVERING INDEX recipient_awaiting" in step for step in plan) == 3
    assert sql is reads.LOOSE_SCAN or not any("TEMP B-TREE" in step for step in plan)
