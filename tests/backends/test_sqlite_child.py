# SPDX-License-Identifier: MIT
"""The database process's writer, run in this process: what SQLite's answers become, and the tidying of old things."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import msgspec
import pytest

from smarthost.backends.sqlite import child, database, wire
from smarthost.backends.sqlite.backup import Deletions
from smarthost.backends.sqlite.ballast import Ballast
from smarthost.backends.sqlite.batch import Batch, day_of
from smarthost.mail.address import Address, Domain
from smarthost.mail.content import InlineContent
from smarthost.mail.envelope import Envelope
from smarthost.mail.identity import encode_id
from smarthost.mail.message import Message
from smarthost.mail.record import Kind, Record
from smarthost.mail.settlement import SettledRecipient, Settlement, State

DAY = 86_400.0
NOW = 1_800_000_000.0


class Rig:
    """A writer on a database of its own."""

    def __init__(self, directory: Path, record_days: int = 30, disk_octets: int = 1 << 40) -> None:
        self.path = directory / "queue.db"
        self.db = database.open_writer(self.path)
        self.writer = child.Writer(self.db, record_days, Ballast(directory), disk_octets)
        self.number = 0

    def commit(self, batch: Batch, now: float = NOW) -> wire.Outcome:
        self.number += 1
        return self.writer.commit(memoryview(b"".join(batch.encode(self.number, now))))

    def add(self, key: int, octets: int = 10, received_at: float = NOW) -> wire.Outcome:
        batch = Batch()
        envelope = Envelope("a@b.example", (Address("x@dest.example", Domain("dest.example")),))
        content = InlineContent(b"x" * octets)
        message = Message(encode_id(key, 5), received_at, envelope, b"P: 1\r\n", content, "", "")
        batch.add(message, key, 5, content.body)
        return self.commit(batch)

    def relay(self, key: int, at: float) -> wire.Outcome:
        batch = Batch()
        settled = SettledRecipient(0, "x@dest.example", "dest.example", State.RELAYED, 0.0, 1, "", "", "")
        record = Record(key + 1, Kind.RELAYED, at, encode_id(key, 5), "x@dest.example")
        batch.settle(Settlement(encode_id(key, 5), (settled,), (record,)), key)
        batch.day = day_of(at)
        return self.commit(batch)

    def defer(self, key: int, due: float, awaits_host: bool) -> wire.Outcome:
        batch = Batch()
        settled = SettledRecipient(
            0, "x@dest.example", "dest.example", State.DEFERRED, due, 0, "", "", "", awaits_host=awaits_host
        )
        record = Record(key + 1, Kind.POSTPONED, NOW, encode_id(key, 5), "x@dest.example")
        batch.settle(Settlement(encode_id(key, 5), (settled,), (record,)), key)
        return self.commit(batch)

    def release(self, domain: str, now: float) -> wire.Outcome:
        batch = Batch()
        batch.release([domain], now)
        return self.commit(batch)

    def column(self, sql: str) -> list[object]:
        return [row[0] for row in self.db.execute(sql).fetchall()]

    def record_tables(self) -> list[object]:
        return self.column("SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'record_*' ORDER BY 1")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.db.close()


def test_database_is_as_durable_as_promised(rig: Rig) -> None:
    """A commit is on the disk when it is told; the figures that this rests on are asserted."""
    pragmas = {name: rig.db.pragma(name) for name in ("journal_mode", "synchronous", "mmap_size", "wal_autocheckpoint")}

    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "mmap_size": 0, "wal_autocheckpoint": 0}
    assert rig.db.pragma("application_id") == database.APPLICATION_ID
    assert rig.db.pragma("user_version") == database.compatible_with(database.SCHEMA_VERSION)
    assert rig.column("SELECT version FROM migration") == [database.SCHEMA_VERSION]
    strict = rig.column(
        "SELECT strict FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite_%'"
    )
    assert strict
    assert all(strict)


def test_no_space_is_told_apart_and_leaves_nothing(rig: Rig) -> None:
    """When the database may not grow, the batch is wholly undone, and smaller ones still work."""
    assert rig.add(1).code == wire.OK
    rig.db.pragma("max_page_count", rig.db.pragma("page_count"))

    outcome = rig.add(2, octets=100_000)

    assert outcome.code == wire.FULL
    assert rig.column("SELECT key FROM message") == [1]
    assert rig.relay(1, NOW).code in (wire.OK, wire.FULL)


def test_room_within_the_file_is_told(rig: Rig) -> None:
    """What was deleted is room for new mail, and the parent is told how much."""
    before = rig.add(1, octets=400_000).spare_octets

    after = rig.relay(1, NOW).spare_octets

    assert after - before >= 390_000, "pages, less those still in use"
    assert rig.writer.spare_octets() == after


def test_wrong_row_is_told_apart_and_leaves_nothing(rig: Rig) -> None:
    """A row that breaks a constraint undoes its batch and no more; the next one works."""
    outcome = rig.add(1, received_at=float("nan"))

    assert outcome.code == wire.FAULTY
    assert "NOT NULL" in outcome.text
    assert rig.column("SELECT count(*) FROM recipient") == [0]
    assert rig.add(2).code == wire.OK


def test_broken_json_is_told_apart(rig: Rig) -> None:
    """A batch that is not what it says is refused as a whole."""
    rig.add(1)
    octets = b"".join(Batch().encode(9, NOW))

    outcome = rig.writer.commit(memoryview(octets.replace(b"[]", b"[x", 1)))

    assert (outcome.number, outcome.code) == (9, wire.FAULTY)


def test_locked_database_is_fatal(rig: Rig) -> None:
    """Another writer in our database is an error that ends the connection, not one that is waited out for ever."""
    rig.add(1)
    rig.db.set_busy_timeout(0)
    other = apsw.Connection(str(rig.path))
    other.execute("BEGIN IMMEDIATE")

    assert rig.add(2).code == wire.FATAL

    other.close()


def test_failed_connection_takes_no_further_batch(rig: Rig) -> None:
    """After an error of the disk nothing more is committed on that connection, whatever waits."""
    rig.add(1)
    rig.db.set_busy_timeout(0)
    other = apsw.Connection(str(rig.path))
    other.execute("BEGIN IMMEDIATE")
    ours, theirs = socket.socketpair()
    for number in (7, 8):
        ours.sendall(wire.frame(b"".join(Batch().encode(number, NOW))))

    child.serve_batches(rig.writer, theirs)

    outcome, unread = wire.read_frame(ours), wire.read_frame(theirs)
    assert outcome is not None
    assert msgspec.msgpack.decode(outcome, type=wire.Outcome).code == wire.FATAL
    assert unread is not None
    assert wire.BatchHead(*wire.BATCH_HEAD.unpack_from(unread)).number == 8
    for end in (ours, theirs, other):
        end.close()


def test_what_awaits_a_host_is_released_in_portions(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release of a long queue leaves room for mail between its portions, earliest due first, and ends."""
    monkeypatch.setattr(wire, "RELEASE_ROWS", 4)
    for number in range(1, 11):
        rig.add(10 * number)
        rig.defer(10 * number, NOW + 100 - number, awaits_host=number != 5)

    released = []
    for _ in range(4):
        released.append(rig.release("dest.example", NOW).released)
        if len(released) == 1:
            assert rig.column(f"SELECT message FROM recipient WHERE due = {NOW} ORDER BY 1") == [70, 80, 90, 100]

    assert released == [4, 4, 1, 0]
    assert rig.column(f"SELECT message FROM recipient WHERE due > {NOW}") == [50]
    assert rig.column("SELECT DISTINCT awaits_host FROM recipient") == [0]


def test_release_that_shares_a_batch_sees_its_settlements(rig: Rig) -> None:
    """What is deferred for want of a host in the moment in which the host comes back is released with the rest."""
    rig.add(10)
    batch = Batch()
    settled = SettledRecipient(
        0, "x@dest.example", "d.example", State.DEFERRED, NOW + 9, 0, "", "", "", awaits_host=True
    )
    record = Record(11, Kind.POSTPONED, NOW, encode_id(10, 5), "x@dest.example")
    batch.settle(Settlement(encode_id(10, 5), (settled,), (record,)), 10)
    batch.release(["dest.example"], NOW)

    outcome = rig.commit(batch)

    assert (outcome.code, outcome.released) == (wire.OK, 1)
    assert rig.column("SELECT due FROM recipient") == [NOW]


def test_refused_batch_releases_and_notes_nothing(rig: Rig) -> None:
    """A wrong row undoes all else in its batch, and the next release does not count what was undone."""
    rig.add(10)
    rig.defer(10, NOW + 9, awaits_host=True)
    batch = Batch()
    batch.release(["dest.example"], NOW)
    batch.note("host", b"open")
    batch.record(Record(1 << 40, Kind.HOST_OPEN, float("nan")))

    outcome = rig.commit(batch)

    assert (outcome.code, outcome.released) == (wire.FAULTY, 0)
    assert rig.column("SELECT count(*) FROM note") == [0]
    assert rig.writer.last_number() == 11
    assert rig.release("dest.example", NOW).released == 1
    assert rig.add(20).released == 0


def test_records_of_no_message_stand_with_the_others_of_their_day(rig: Rig) -> None:
    """Records of hosts are told apart by a message number that no message has."""
    rig.add(10)
    rig.relay(10, NOW)
    batch = Batch()
    batch.record(Record(12, Kind.HOST_OPEN, NOW))

    assert rig.commit(batch).code == wire.OK

    assert rig.column("SELECT message FROM record_20270115 ORDER BY seq") == [10, 0]
    assert rig.writer.last_number() == 12


def test_no_batch_reads_a_whole_table(rig: Rig) -> None:
    """What a commit costs does not grow with the queue: it scans only what it brought, and searches the rest."""
    rig.add(1)
    rig.db.config(apsw.SQLITE_DBCONFIG_TRIGGER_EQP, 1)

    plan = rig.db.execute(
        "EXPLAIN QUERY PLAN INSERT INTO batch VALUES ('', '', x'', '', '', '', '', 1, '', '')"
    ).fetchall()

    steps = [str(step) for _, _, _, step in plan]
    scanned = {step.split()[1] for step in steps if step.startswith("SCAN")}
    assert scanned == {"jsonb_each", "settled", "s", "released", "highest"}
    assert "SEARCH r USING COVERING INDEX recipient_awaiting (domain=? AND due>?)" in steps
    assert {"-- TRIGGER pay_debts", "-- TRIGGER apply_parameters", "-- TRIGGER apply_extras"} < set(steps)
    told = steps[steps.index("-- TRIGGER apply_parameters") : steps.index("-- TRIGGER apply_extras")][-3:]
    assert told[0].startswith("SCAN jsonb_each"), "what few settlements say is not looked for once for each of all"


def test_mail_that_awaits_no_host_is_not_in_the_index_of_what_does(rig: Rig) -> None:
    """Mail that goes through, or is merely deferred, costs nothing there."""
    for number in range(1, 200):
        rig.add(10 * number)
        rig.defer(10 * number, NOW + 9, awaits_host=False)
    pages = "SELECT count(*) FROM dbstat WHERE name = 'recipient_awaiting'"

    assert rig.column(
        "SELECT count(*) FROM recipient INDEXED BY recipient_awaiting WHERE awaits_host = 1 AND state = 'deferred'"
    ) == [0]
    assert rig.column(pages) == [1], "its root"


def test_highest_number_is_kept(rig: Rig) -> None:
    """The highest number ever committed does not go with its message."""
    assert rig.writer.last_number() == 0
    rig.add(1 << 40)
    rig.relay(1 << 40, NOW)

    rig.add(1 << 30)

    assert rig.writer.last_number() == (1 << 40) + 1


def test_records_go_to_the_table_of_their_day(rig: Rig) -> None:
    """Records of a day share a table, so that forgetting them later is cheap."""
    for number, at in enumerate([NOW, NOW + DAY, NOW]):
        rig.add(10 * number + 10)
        assert rig.relay(10 * number + 10, at).code == wire.OK

    assert rig.record_tables() == ["record_20270115", "record_20270116"]
    assert rig.column("SELECT count(*) FROM record_20270115") == [2]


def test_outdated_records_are_forgotten_while_idle(tmp_path: Path) -> None:
    """Records older than they are to be kept go bit by bit, when nothing else waits, and never a younger one."""
    rig = Rig(tmp_path, record_days=2)
    for day in range(4):
        for number in range(3):
            key = 1000 * day + 10 * number + 10
            rig.add(key)
            rig.relay(key, NOW + day * DAY)
    assert len(rig.record_tables()) == 4

    assert rig.writer.tidy(is_idle=False)
    assert len(rig.record_tables()) == 4
    while rig.writer.tidy(is_idle=True):
        pass

    assert rig.record_tables() == ["record_20270117", "record_20270118"]
    assert rig.add(9999).code == wire.OK
    rig.db.close()


def test_long_wal_is_checkpointed_and_begun_anew(tmp_path: Path) -> None:
    """The write-ahead log does not grow without bound under steady load, and least of all on a small file system."""
    rig = Rig(tmp_path, disk_octets=16 * 50 * 4096)
    wal = Path(f"{rig.path}-wal")

    sizes = []
    for number in range(40):
        rig.add(10 * number + 10, octets=20_000)
        rig.writer.tidy(is_idle=False)
        sizes.append(wal.stat().st_size)

    assert max(sizes) < 300_000, "0.8 MB went through it"


def test_close_leaves_one_file(rig: Rig) -> None:
    """A queue that was closed properly can be copied as a single file."""
    rig.add(1)
    rig.writer.close()

    assert Path(f"{rig.path}-wal").stat().st_size == 0


def test_verify_passes_a_sound_database_and_names_a_damaged_one(rig: Rig) -> None:
    """After a failure the database is looked at before mail is trusted to it again."""
    for number in range(50):
        rig.add(10 * number + 10, octets=3000)
    database.verify(rig.db, rig.path)
    rig.db.close()
    with rig.path.open("r+b") as file:
        file.seek(4096 * 12)
        file.write(b"\xff" * 4096 * 3)

    db = database.open_writer(rig.path)
    with pytest.raises(database.Unusable, match="is damaged"):
        database.verify(db, rig.path)
    db.close()


def test_foreign_names_among_contents_are_left_alone(rig: Rig, tmp_path: Path) -> None:
    """The sweep deletes content without a message, drafts only when nobody can be writing them."""
    content = tmp_path / "content"
    content.mkdir()
    for name in ("1.draft", encode_id(1 << 40, 5), "notes.txt"):
        (content / name).write_bytes(b"x")

    child.sweep_files(rig.db, content, keep_drafts=True)
    assert sorted(entry.name for entry in content.iterdir()) == ["1.draft", "notes.txt"]
    child.sweep_files(rig.db, content, keep_drafts=False)
    assert sorted(entry.name for entry in content.iterdir()) == ["notes.txt"]


def test_file_orders_are_answered_with_what_the_system_said(tmp_path: Path) -> None:
    """A content file is durable under its name before its row is written; if not, the errno says why."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=child.serve_files, args=(tmp_path, Deletions(tmp_path), theirs))
    thread.start()
    (tmp_path / "1.draft").write_bytes(b"x")

    answers = []
    for order in (wire.Keep("1.draft", "final"), wire.Keep("2.draft", "other"), wire.Drop(["final", "gone"])):
        ours.sendall(wire.frame(msgspec.msgpack.encode(order)))
        reply = wire.read_frame(ours)
        assert reply is not None
        answers.append(msgspec.msgpack.decode(reply[1:], type=wire.FileOutcome))
        if len(answers) == 1:
            assert [entry.name for entry in tmp_path.iterdir()] == ["final"]

    ours.close()
    thread.join()
    theirs.close()
    assert [answer.errno for answer in answers] == [0, 2, 0]
    assert list(tmp_path.iterdir()) == []


def test_keeping_a_file_syncs_octets_before_name_and_name_before_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut never leaves a row without its content: the order of syncs is content, name, directory."""
    (tmp_path / "1.draft").write_bytes(b"x")
    directory = os.open(tmp_path, os.O_RDONLY)
    steps: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def note_fsync(fd: int) -> None:
        steps.append("fsync directory" if fd == directory else "fsync content")
        fsync(fd)

    def note_rename(self: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "rename", note_rename)

    child._keep(tmp_path, directory, "1.draft", "final")

    os.close(directory)
    assert steps == ["fsync content", "rename", "fsync directory"]


def test_parent_that_was_killed_is_an_end_like_any_other(rig: Rig, tmp_path: Path) -> None:
    """When the daemon is killed with answers unread, the database process ends in order."""
    ours, theirs = socket.socketpair()
    theirs.sendall(b"unread")
    ours.close()

    assert wire.read_frame(theirs) is None
    child.serve_batches(rig.writer, theirs)
    child.serve_files(tmp_path, Deletions(tmp_path), theirs)

    theirs.close()
