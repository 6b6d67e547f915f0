# SPDX-License-Identifier: MIT
"""The look at a stopped daemon's state directory: what is wrong is named, leftovers are noted, nothing is changed."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from tests.backends.test_sqlite_store import LARGE, opened

from smarthost.backends.sqlite.database import SCHEMA_VERSION
from smarthost.backends.sqlite.inspect import FINDINGS, Inspection, NoQueue, TooNew, inspect
from smarthost.mail.identity import decode_id
from smarthost.mail.settlement import State
from smarthost.testing.stores.trial import HOUR, NOW, Trial

pytestmark = pytest.mark.asyncio


async def fill(directory: Path) -> dict[str, str]:
    """Leave a sound queue behind; gives ids by what they are."""
    async with opened(directory) as trial:
        due = await trial.add("due@dest.example", "also@dest.example")
        large = trial.message("large@dest.example", content=LARGE)
        await trial.store.add(large, ())
        _, (lease,) = await trial.add_leased("bounced@dest.example", "waits@dest.example")
        await trial.store.settle(
            [
                trial.settlement(lease, State.BOUNCED, owed=True, only={0}),
                trial.settlement(lease, State.DEFERRED, due=NOW + HOUR, only={1}),
            ]
        )
        _, gone = await trial.add_leased("relayed@dest.example")
        await trial.store.settle(trial.relayed(gone))
        return {"due": due.id, "large": large.id, "reported": lease.id}


def sqlite(directory: Path, *statements: str) -> None:
    """Break the database by hand."""
    db = apsw.Connection(str(directory / "queue.db"))
    for statement in statements:
        db.execute(statement)
    db.close()


def look(directory: Path) -> Inspection:
    return inspect(directory, NOW + 1)


def faults(directory: Path) -> list[tuple[str, str, str]]:
    return [(damage.fault, damage.id, damage.recipient) for damage in look(directory).damages]


def key(id: str) -> int:
    return decode_id(id)[0]


async def test_a_sound_queue_is_counted(tmp_path: Path) -> None:
    """How much waits, how much of it is due, what is owed; and no finding."""
    await fill(tmp_path)

    found = look(tmp_path)

    assert (found.damages, found.notes, found.schema) == ((), (), SCHEMA_VERSION)
    assert (found.messages, found.unfinished, found.due, found.reports_owed) == (3, 4, 3, 1)


async def test_an_empty_queue_is_sound(tmp_path: Path) -> None:
    """A daemon that never had mail."""
    async with opened(tmp_path):
        pass

    assert look(tmp_path) == Inspection(SCHEMA_VERSION, (), ())


async def test_what_a_killed_daemon_left_in_its_wal_is_seen_and_nothing_is_changed(tmp_path: Path) -> None:
    """Committed mail may lie in the WAL alone; looking neither loses nor moves it."""
    async with opened(tmp_path) as trial:
        await trial.add("a@dest.example")
        trial.store.kill()  # type: ignore[attr-defined]
    before = digests(tmp_path)
    assert before["queue.db-wal"] != hashlib.sha256().hexdigest()

    found = look(tmp_path)

    assert (found.messages, found.due, found.damages) == (1, 1, ())
    assert digests(tmp_path) == before
    async with opened(tmp_path) as trial:
        assert await trial.store.count() == (1, 1)


def digests(directory: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.iterdir())
        if path.is_file() and not path.name.endswith("-shm")
    }


@pytest.mark.parametrize(
    ("breaks", "fault"),
    [
        (lambda ids: f"DELETE FROM message WHERE key = {key(ids['due'])}", "recipient without message"),
        (lambda ids: f"DELETE FROM recipient WHERE message = {key(ids['due'])}", "message without recipients"),
        (lambda ids: f"DELETE FROM content WHERE key = {key(ids['due'])}", "content missing"),
        (lambda ids: f"UPDATE content SET octets = x'00' WHERE key = {key(ids['due'])}", "content of another length"),
        (lambda ids: f"UPDATE recipient SET state = 'lost' WHERE message = {key(ids['due'])}", "unknown state"),
        (lambda ids: f"UPDATE recipient SET state = 'relayed' WHERE message = {key(ids['due'])}", "finished"),
        (lambda ids: f"UPDATE recipient SET due = 9e999 WHERE message = {key(ids['due'])}", "too far"),
        (lambda ids: f"UPDATE recipient SET due = {NOW + 40 * 86400} WHERE message = {key(ids['due'])}", "too far"),
        (lambda ids: f"UPDATE recipient SET due = -9e999 WHERE message = {key(ids['due'])}", "no next event"),
    ],
)
async def test_each_damage_is_named(tmp_path: Path, breaks: Callable[[dict[str, str]], str], fault: str) -> None:
    """Whatever would keep mail from its end is a finding of its own."""
    ids = await fill(tmp_path)
    sqlite(tmp_path, breaks(ids))

    found = {each for each, _, _ in faults(tmp_path)}

    assert found == {fault}


async def test_a_finding_says_whose_it_is(tmp_path: Path) -> None:
    """Message and recipient, so that somebody can do something about it."""
    ids = await fill(tmp_path)
    sqlite(tmp_path, "UPDATE recipient SET state = 'lost' WHERE address = 'also@dest.example'")

    assert faults(tmp_path) == [("unknown state", ids["due"], "also@dest.example")]


async def test_content_files_are_compared_with_their_rows(tmp_path: Path) -> None:
    """A file that is short, and one that is not there."""
    ids = await fill(tmp_path)
    file = tmp_path / "content" / ids["large"]
    os.truncate(file, 1000)
    short = faults(tmp_path)
    file.unlink()

    assert short == [("content of another length", ids["large"], "")]
    assert faults(tmp_path) == [("content missing", ids["large"], "")]


async def test_leftovers_are_notes_and_no_findings(tmp_path: Path) -> None:
    """What the next start sweeps anyway worries nobody."""
    await fill(tmp_path)
    (tmp_path / "content" / "7.draft").write_bytes(b"x")
    (tmp_path / "content" / ("0" * 16)).write_bytes(b"x")
    (tmp_path / "content" / "notes of the operator").write_bytes(b"x")
    sqlite(tmp_path, "INSERT INTO content VALUES (5, x'00')")

    found = look(tmp_path)

    assert found.damages == ()
    assert [note.split()[:3] for note in found.notes] == [
        ["1", "contents", "in"], ["1", "content", "files"], ["1", "drafts", "of"],
    ]  # fmt: skip


async def settle_again(trial: Trial, state: State, at: float) -> None:
    """Write a second terminal record for the same recipient, as no store of ours would."""
    _, (lease,) = await trial.add_leased("twice@dest.example")
    settlement = trial.settlement(lease, state, owed=True)
    await trial.store.settle([settlement])
    (record,) = [each for each in await trial.all_records() if each.recipient == "twice@dest.example"]
    table = f"record_{wall_day(at)}"
    db = apsw.Connection(str(trial.store._path / "queue.db"))  # type: ignore[attr-defined]
    db.execute(f"INSERT INTO {table} SELECT seq + 1, message, ?, body FROM {table} WHERE seq = ?", (at, record.seq))
    db.close()


def wall_day(at: float) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(at, UTC):%Y%m%d}"


async def test_who_ended_twice_is_found_in_the_records(tmp_path: Path) -> None:
    """Exactly one terminal record for each recipient is the promise."""
    async with opened(tmp_path) as trial:
        await settle_again(trial, State.BOUNCED, NOW + 60)

    assert [(fault, whom) for fault, _, whom in faults(tmp_path)] == [("ended twice", "twice@dest.example")]


async def test_an_address_that_was_named_twice_may_end_twice_in_one_attempt(tmp_path: Path) -> None:
    """Some clients give the same recipient twice: that is two recipients."""
    async with opened(tmp_path) as trial:
        _, leases = await trial.add_leased("a@dest.example", "a@dest.example")
        await trial.store.settle(trial.relayed(leases))

    assert faults(tmp_path) == []


async def test_who_ended_and_still_waits_is_found(tmp_path: Path) -> None:
    """A recipient that the records call relayed would be sent to again."""
    ids = await fill(tmp_path)
    sqlite(tmp_path, "UPDATE recipient SET state = 'deferred', owed_at = NULL WHERE address = 'bounced@dest.example'")

    assert faults(tmp_path) == [("ended and open", ids["reported"], "bounced@dest.example")]


async def test_many_of_a_kind_are_counted(tmp_path: Path) -> None:
    """A thousand damaged rows do not bury the rest."""
    async with opened(tmp_path) as trial:
        await trial.store.add(trial.message(*[f"user{n}@dest.example" for n in range(FINDINGS + 50)]), ())
    sqlite(tmp_path, "UPDATE recipient SET state = 'lost'")

    found = look(tmp_path).damages

    assert FINDINGS + 1 == len(found)
    assert found[-1].why == "and 50 more like these"


async def test_a_database_that_is_damaged_says_where(tmp_path: Path) -> None:
    """Pages that make no sense are findings, and do not end the look."""
    await fill(tmp_path)
    with (tmp_path / "queue.db").open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        for page in range(2, size // 4096):
            file.seek(page * 4096)
            file.write(b"\xa5" * 600)

    found = look(tmp_path)

    assert {damage.fault for damage in found.damages} & {"damaged database", "not readable"}


async def test_an_index_that_misses_rows_is_found(tmp_path: Path) -> None:
    """What every single row looks fine beside: only the database's own check sees it."""
    await fill(tmp_path)
    sqlite(
        tmp_path,
        "PRAGMA writable_schema = 1",
        "UPDATE sqlite_schema SET sql = replace(sql, '''held''', '''deferred''') WHERE name = 'recipient_held'",
    )

    found = faults(tmp_path)

    assert found
    assert {fault for fault, _, _ in found} == {"damaged database"}


async def test_a_file_that_is_no_database_is_a_finding(tmp_path: Path) -> None:
    """The first page is gone: there is a queue, but nobody can read it."""
    await fill(tmp_path)
    (tmp_path / "queue.db").write_bytes(b"nonsense" * 1000)

    assert [fault for fault, _, _ in faults(tmp_path)] == ["not a database"]


async def test_a_directory_that_is_none_says_so(tmp_path: Path) -> None:
    """Not there, a file, empty, or another program's: what to do is in the text."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    sqlite(tmp_path / "other", "CREATE TABLE t (x)")
    (tmp_path / "half").mkdir()
    (tmp_path / "half/queue.db").write_bytes(bytes(4096))
    (tmp_path / "half/queue.db-journal").write_bytes(bytes.fromhex("d9d505f920a163d7"))

    for name, text in (
        ("nowhere", "does not exist"),
        ("file", "is no directory"),
        ("empty", "holds no queue"),
        ("other", "another program"),
        ("half", "its first start was cut off"),
    ):
        with pytest.raises(NoQueue, match=text):
            look(tmp_path / name)


async def test_what_a_newer_release_wrote_is_left_to_it(tmp_path: Path) -> None:
    """This release cannot say what is right there."""
    await fill(tmp_path)
    sqlite(tmp_path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")

    with pytest.raises(TooNew, match=f"schema {SCHEMA_VERSION + 1}"):
        look(tmp_path)


async def test_an_older_queue_is_looked_at_and_not_migrated(tmp_path: Path) -> None:
    """It says that the next start brings it up to date, and leaves that to it."""
    await fill(tmp_path)
    sqlite(tmp_path, f"DELETE FROM migration WHERE version = {SCHEMA_VERSION}", "PRAGMA user_version = 2")

    found = look(tmp_path)

    assert found.damages == ()
    assert [note for note in found.notes if "the next start" in note]
    assert look(tmp_path).schema == 2
