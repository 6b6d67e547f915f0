# SPDX-License-Identifier: MIT
"""Databases of older releases: brought to the newest schema at the start, wholly or not at all, with their mail."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from msgspec.structs import replace
from tests.backends.forked import interrupted_at

from smarthost.backends.sqlite import database, kept
from smarthost.backends.sqlite.store import SqliteStore
from smarthost.mail.envelope import Notify, SenderTls
from smarthost.mail.errors import StoreError
from smarthost.mail.identity import decode_id, encode_id
from smarthost.mail.record import Kind
from smarthost.mail.result import DsnDuty
from smarthost.mail.settlement import State
from smarthost.queue.store import DueDomain, DueScan
from smarthost.testing.stores.trial import HOUR, NOW, StoreMaker, Trial, content_of, numbers

FIRST_SCHEMA = """
CREATE TABLE migration (version INTEGER PRIMARY KEY, what TEXT NOT NULL) STRICT;
INSERT INTO migration VALUES (1, 'first schema');
CREATE TABLE message (
    key INTEGER PRIMARY KEY,
    tag INTEGER NOT NULL,
    received_at REAL NOT NULL,
    reverse_path TEXT NOT NULL,
    body TEXT NOT NULL,
    smtputf8 INTEGER NOT NULL,
    client TEXT NOT NULL,
    sender TEXT NOT NULL,
    octets INTEGER NOT NULL,
    in_file INTEGER NOT NULL,
    prefix BLOB NOT NULL
) STRICT;
CREATE INDEX message_received ON message (received_at);
CREATE TABLE content (key INTEGER PRIMARY KEY, octets BLOB NOT NULL) STRICT;
CREATE TABLE recipient (
    message INTEGER NOT NULL,
    n INTEGER NOT NULL,
    address TEXT NOT NULL,
    domain TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'deferred',
    due REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    last_reply TEXT NOT NULL DEFAULT '',
    status TEXT NOT NULL DEFAULT '',
    why TEXT NOT NULL DEFAULT '',
    host TEXT NOT NULL DEFAULT '',
    owed_at REAL,
    PRIMARY KEY (message, n)
) STRICT, WITHOUT ROWID;
CREATE INDEX recipient_domain ON recipient (domain, due) WHERE state = 'deferred';
CREATE INDEX recipient_due ON recipient (due, domain) WHERE state = 'deferred';
CREATE INDEX recipient_held ON recipient (due) WHERE state = 'held';
CREATE INDEX recipient_owed ON recipient (owed_at, message) WHERE owed_at IS NOT NULL;
CREATE TABLE note (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE highest (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL) STRICT;
INSERT INTO highest VALUES (1, 0);
"""
FIRST_MAIL = """
INSERT INTO message VALUES
    (1001, 5, 1800000000.25, 'sender@origin.example', '8BITMIME', 0, '192.0.2.7', 's', 5, 0, x''),
    (2001, 5, 1800000000.25, 'sender@origin.example', '7BIT', 1, '192.0.2.7', 's', 5, 0, x'');
INSERT INTO content VALUES (1001, CAST('first' AS BLOB)), (2001, CAST('other' AS BLOB));
INSERT INTO recipient (message, n, address, domain, due)
    VALUES (1001, 0, 'new@dest.example', 'dest.example', 1800000000.25);
INSERT INTO recipient VALUES
    (1001, 1, 'late@dest.example', 'dest.example', 'deferred', 1800003600.25, 3, '450 later', '4.7.1', 'y', '', NULL),
    (2001, 0, 'gone@dest.example', 'dest.example', 'bounced', 0.0, 1, '550 no', '5.1.1', 'x', 'mx', 1800000000.25);
INSERT INTO note VALUES ('kept', x'00ff');
UPDATE highest SET number = 5001;
CREATE TABLE record_20270115
    (seq INTEGER PRIMARY KEY, message INTEGER NOT NULL, at REAL NOT NULL, body TEXT NOT NULL) STRICT;
INSERT INTO record_20270115 VALUES (5001, 2001, 1800000000.25, '{"seq":5001,"kind":"bounced","at":1800000000.25}');
"""
SECOND_STEP = """
ALTER TABLE recipient ADD COLUMN awaits_host INTEGER NOT NULL DEFAULT 0;
CREATE INDEX recipient_awaiting ON recipient (domain, due) WHERE awaits_host = 1 AND state = 'deferred';
INSERT INTO migration VALUES (2, 'recipients that await a host');
"""
STEPS = (FIRST_SCHEMA + FIRST_MAIL, SECOND_STEP)
NEW_FIELDS = {1: (0, 0, "", "", 0, None), 2: (0, "", "", 0, None)}  # of a recipient of that version
FIRST, SECOND = encode_id(1001, 5), encode_id(2001, 5)
COMPATIBLE = database.compatible_with(database.SCHEMA_VERSION)  # what `user_version` says


class NoMaker:
    """These tests open by themselves."""

    make = crash = restart = set_full = None


@pytest.fixture(params=[1, 2], ids=["first release", "second release"])
def version(request: pytest.FixtureRequest) -> int:
    """Of the release that is upgraded."""
    assert isinstance(request.param, int)
    return request.param


@pytest.fixture
def path(tmp_path: Path, version: int) -> Path:
    """A state directory's database as that release left it."""
    path = tmp_path / "queue.db"
    db = apsw.Connection(str(path))
    db.pragma("journal_mode", "wal")
    with db:
        for step in STEPS[:version]:
            db.execute(step)
        db.pragma("application_id", database.APPLICATION_ID)
        db.pragma("user_version", version)
    db.close()
    return path


def tables(db: apsw.Connection) -> dict[str, list[object]]:
    """What SQLite knows of each table and index: columns in order, and what an index is restricted to."""
    found: dict[str, list[object]] = {}
    schema = "SELECT type, name, coalesce(sql, '') FROM sqlite_schema WHERE name NOT GLOB 'record_*'"
    for kind, name, sql in db.execute(schema).fetchall():
        found[str(name)] = [kind, *db.execute(f"PRAGMA {kind}_xinfo({name})").fetchall()]
        if kind == "index":
            found[str(name)].append(" ".join(str(sql).split()))
    return found


def rows(path: Path) -> dict[str, list[object]]:
    """Everything in a database, read without changing it."""
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    names = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()]
    found: dict[str, list[object]] = {str(name): [*db.execute(f"SELECT * FROM {name}")] for name in names}
    found["version"] = [db.pragma("user_version"), db.pragma("integrity_check")]
    db.close()
    return found


@pytest.mark.asyncio
async def test_mail_of_an_older_release_is_delivered_after_an_upgrade(path: Path) -> None:
    """Whoever upgrades finds the queue as it was: what is due is due, what is owed is owed, and it can await hosts."""
    store = SqliteStore(path.parent)
    await store.open()
    maker: StoreMaker = NoMaker()  # type: ignore[assignment]
    trial = Trial(maker, store)
    try:
        assert store.last_number >= 5001
        assert await store.count() == (2, 2)
        assert await store.due(NOW, 10) == DueScan((DueDomain("dest.example", NOW),), NOW + HOUR)
        assert await store.load_notes("k") == {"kept": b"\x00\xff"}
        assert [record.seq for record in await trial.all_records()] == [5001]
        owed = await store.lease_report(NOW)
        assert owed is not None
        assert (owed.id, owed.recipients[0].host, owed.recipients[0].awaits_host) == (SECOND, "mx", False)
        assert (owed.ret, owed.envid, owed.tls, owed.octets) == ("", "", SenderTls.DEFAULT, 5)
        assert owed.recipients[0] == replace(owed.recipients[0], notify=Notify.UNSET, orcpt="", dsn=DsnDuty.RELAYED)

        assert await store.awaiting(NOW, 10) == ()
        assert await store.release(["dest.example"], NOW) == 0
        (lease,) = await store.lease(["dest.example"], NOW, 10)
        assert numbers([lease]) == [(FIRST, 0)]
        assert content_of(await store.content(FIRST)) == b"first"
        await store.settle(trial.relayed([lease]))
        (lease,) = await store.lease(["dest.example"], NOW + HOUR, 10)
        assert lease.recipients[0].attempts == 3
        await store.settle([trial.settlement(lease, State.DEFERRED, due=NOW + 2 * HOUR, awaits=True)])

        assert await store.awaiting(NOW, 10) == ("dest.example",)
        assert await store.release(["dest.example"], NOW) == 1
        assert (await trial.kinds())[1:] == [Kind.RELAYED, Kind.DEFERRED]
    finally:
        await store.close()


@pytest.mark.asyncio
async def test_delays_of_an_older_release_are_told_after_an_upgrade(path: Path) -> None:
    """Of what has waited for long already nobody was told: it is, once, and asks for nothing else."""
    store = SqliteStore(path.parent)
    await store.open()
    trial = Trial(NoMaker(), store)  # type: ignore[arg-type]
    try:
        (lease,) = await store.sweep_delayed(NOW + 1, 10)
        assert numbers([lease]) == [(FIRST, 0), (FIRST, 1)]
        assert (lease.ret, lease.envid, lease.tls) == ("", "", SenderTls.DEFAULT)
        assert {(each.notify, each.orcpt, each.is_delay_told) for each in lease.recipients} == {
            (Notify.UNSET, "", False)
        }

        await store.settle([trial.settlement(lease, State.DEFERRED, counted=False, told=True)])

        assert await store.sweep_delayed(NOW + 1, 10) == ()
    finally:
        await store.close()


def test_migrated_database_is_like_a_new_one(path: Path, tmp_path: Path) -> None:
    """However old a queue is, it ends with the very tables and indices of a new one, and says what it went through."""
    (tmp_path / "new").mkdir()
    new = database.open_writer(tmp_path / "new" / "queue.db")
    migrated = database.open_writer(path)

    assert tables(migrated) == tables(new)
    assert migrated.pragma("user_version") == new.pragma("user_version") == COMPATIBLE
    assert new.execute("SELECT version FROM migration").fetchall() == [(database.SCHEMA_VERSION,)]
    assert migrated.execute("SELECT * FROM migration ORDER BY version").fetchall() == [
        (1, "first schema"),
        *[(version, step.what) for version, step in sorted(database.MIGRATIONS.items())],
    ]
    assert sorted(database.MIGRATIONS) == list(range(2, database.SCHEMA_VERSION + 1))
    new.close()
    migrated.close()


def test_migration_happens_once_and_is_durable(path: Path) -> None:
    """The next start finds the newest version, and nothing of it depends on memory."""
    database.open_writer(path).close()
    found = rows(path)

    database.open_writer(path).close()

    assert found["version"] == [COMPATIBLE, "ok"]
    assert rows(path) == found


ROWS = 20_000


def test_large_queue_is_upgraded_without_rewriting_it(path: Path) -> None:
    """Mail of a release before waits for the upgrade of a million rows for a second, since none is written anew."""
    db = apsw.Connection(str(path))
    with db:
        db.execute(
            f"WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < {ROWS})"
            " INSERT INTO recipient (message, n, address, domain, due) SELECT i, 9, 'user@x.example', 'x', i FROM k"
        )
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    pages = db.pragma("page_count")
    db.close()

    migrated = database.open_writer(path)
    written = path.with_name("queue.db-wal").stat().st_size // database.PAGE_OCTETS
    migrated.close()

    assert 0 < written < 100 < pages


BROKEN = "CREATE TABLE half (done) STRICT"  # no type: refused


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    step = database.MIGRATIONS[database.SCHEMA_VERSION]
    with monkeypatch.context() as patch:
        patch.setitem(database.MIGRATIONS, database.SCHEMA_VERSION, step._replace(sql=f"{step.sql}; {BROKEN};"))
        yield


@pytest.mark.usefixtures("broken")
def test_migration_that_fails_leaves_the_old_version_whole(path: Path) -> None:
    """When the disk or anything else refuses the change, the queue is what it was."""
    before = rows(path)

    with pytest.raises(apsw.Error):
        database.open_writer(path)

    assert rows(path) == before


DIE = """
import os, signal, sys
from pathlib import Path
import apsw
from smarthost.backends.sqlite import database

def give_function(db):
    db.create_scalar_function("die", lambda: os.kill(os.getpid(), signal.SIGKILL))

apsw.connection_hooks.append(give_function)
newest = database.SCHEMA_VERSION
step = database.MIGRATIONS[newest]
sql = f"PRAGMA cache_spill = 1; PRAGMA cache_size = 1; {step.sql}; SELECT die();"
database.MIGRATIONS[newest] = step._replace(sql=sql)
database.open_writer(Path(sys.argv[1]))
"""


def test_kill_9_in_the_middle_of_a_migration_leaves_the_old_version_whole(path: Path, version: int) -> None:
    """An upgrade that is interrupted has not begun: the old release could still serve, and the next start upgrades."""
    before = rows(path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    died = subprocess.run([sys.executable, "-c", DIE, str(path)], env=environment, check=False)

    assert died.returncode == -signal.SIGKILL
    assert rows(path) == before
    database.open_writer(path).close()
    after = rows(path)
    assert after["version"] == [COMPATIBLE, "ok"]
    assert after["recipient"] == [(*row, *NEW_FIELDS[version]) for row in before["recipient"]]  # type: ignore[misc]
    assert after["message"] == [(*row, "", "", "", None, None) for row in before["message"]]  # type: ignore[misc]


@pytest.mark.asyncio
async def test_database_of_ours_without_a_version_is_refused(path: Path) -> None:
    """A database that says it is ours, but not what it holds, is not guessed at."""
    db = apsw.Connection(str(path))
    db.pragma("user_version", 0)
    db.close()

    with pytest.raises(StoreError, match="another program"):
        await SqliteStore(path.parent).open()


# What is kept of an older queue


def copies(directory: Path) -> list[Path]:
    """The copies from before migrations, oldest first."""
    return sorted(directory.glob("queue.db.schema*Z"), key=lambda path: path.name[-16:])


def test_older_queue_is_copied_before_it_is_migrated(path: Path, version: int) -> None:
    """Whoever must go back finds the queue as it was before the upgrade, and the start says where."""
    before, news = rows(path), list[str]()

    database.open_writer(path, news.append).close()

    (copy,) = copies(path.parent)
    assert re.fullmatch(rf"queue\.db\.schema{version}-20\d{{6}}T\d{{6}}Z", copy.name)
    assert copy.stat().st_mode & 0o777 == 0o600
    assert rows(copy) == before
    assert len(news) == 2
    assert str(copy) in news[1]
    database.open_writer(path, news.append).close()
    assert copies(path.parent) == [copy], "a queue that is up to date is not copied"


def test_copy_has_what_is_still_in_the_wal(path: Path) -> None:
    """After a crash much of the queue may be in the WAL alone: the copy has it."""
    writer = apsw.Connection(str(path))
    writer.pragma("wal_autocheckpoint", 0)
    writer.execute("INSERT INTO note VALUES ('late', x'01')")

    database.open_writer(path).close()
    writer.close()

    (copy,) = copies(path.parent)
    assert ("late", b"\x01") in rows(copy)["note"]


def test_newest_two_copies_are_kept(path: Path, version: int) -> None:
    """Upgrades do not fill the disk with copies."""
    olds = [path.with_name(f"queue.db.schema1-2025010{day}T000000Z") for day in (3, 1, 2)]
    for old in olds:
        old.write_bytes(b"old")
    path.with_name("queue.db.schema1-20250101T000000Z.part").write_bytes(b"of an interrupted start")

    database.open_writer(path).close()

    assert [copy.name[:18] for copy in copies(path.parent)] == ["queue.db.schema1-2", f"queue.db.schema{version}-2"]
    assert olds[0].exists(), "the newest of the old ones"


def test_upgrade_without_room_for_the_copy_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room, no upgrade: the text says how much is needed and where, and the queue is what it was."""
    before = rows(path)
    monkeypatch.setattr(kept, "free_octets", lambda directory: 3 << 20)

    with pytest.raises(database.Unusable, match=rf"needs 17 MiB in {path.parent}, and 3 MiB are free: make room"):
        database.open_writer(path)

    assert rows(path) == before
    assert copies(path.parent) == []


@pytest.mark.slow
@pytest.mark.parametrize("version", [2], indirect=True, ids=["second release"])
@pytest.mark.parametrize(
    "failure",
    [None, apsw.FullError("database or disk is full"), OSError(28, "No space left on device"), apsw.IOError("fsync")],
    ids=["kill -9", "SQLite has no room", "there is no room", "a disk in trouble"],
)
def test_upgrade_interrupted_at_any_step_leaves_the_old_queue_or_the_new(
    path: Path, failure: Exception | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Killed or failing at whatever step, the queue is the old one or the new one, and the next start upgrades it."""
    for suffix in ("-wal", "-shm"):
        assert not path.with_name(path.name + suffix).exists(), "the template is one file"
    before, template = rows(path), path.read_bytes()
    database.open_writer(path).close()
    after = rows(path)

    for step in itertools.count(1):
        place = tmp_path_factory.mktemp("step") / "queue.db"
        place.write_bytes(template)
        if not interrupted_at(step, lambda place=place: database.open_writer(place), failure):  # type: ignore[misc]
            break
        found = rows(place)
        assert found in (before, after), f"at step {step}"
        if found == after:
            assert [rows(copy) for copy in copies(place.parent)] == [before]
        for copy in copies(place.parent):
            assert rows(copy) == before
        database.open_writer(place).close()
        assert rows(place) == after
        assert not list(place.parent.glob("*.part*"))

    assert step > 25


# The release before


OLD = Path(__file__).parent / "schema3"  # batch.sql and schema.sql of the last release that knew schema 3, as they were
OLD_DAY = "20270115"


def old_release(path: Path) -> apsw.Connection:
    """Open a queue as the release of schema 3 did: it looked at `user_version` alone."""
    db = apsw.Connection(str(path))
    assert 1 <= db.pragma("user_version") <= 3, "written by a newer smarthost"
    assert db.pragma("user_version") == 3, "it would be migrated"
    db.pragma("journal_mode", "wal")
    table = (
        f"record_{OLD_DAY} (seq INTEGER PRIMARY KEY, message INTEGER NOT NULL, at REAL NOT NULL, body TEXT NOT NULL)"
    )
    db.execute(f"CREATE TABLE IF NOT EXISTS {table} STRICT")
    db.execute((OLD / "batch.sql").read_text().replace("{day}", OLD_DAY).replace("{release_rows}", "500"))
    return db


def old_batch(
    db: apsw.Connection, messages: object = (), recipients: object = (), octets: bytes = b"\0", settles: object = ()
) -> None:
    """Commit what the release of schema 3 would."""
    rows = [json.dumps(each) for each in (messages, recipients)]
    nothing = "{}"
    parts = (*rows, octets, json.dumps(settles), nothing, nothing, nothing, 9001)
    db.execute("INSERT INTO batch VALUES (?, ?, ?, ?, ?, ?, ?, ?)", parts)


@pytest.mark.asyncio
async def test_release_before_works_on_an_upgraded_queue_and_the_new_one_goes_on(tmp_path: Path) -> None:
    """Whoever puts the release before back loses no mail: it delivers, defers and adds; then the new one goes on."""
    assert database.MIGRATIONS[4].is_additive
    store = SqliteStore(tmp_path)
    await store.open()
    trial = Trial(NoMaker(), store)  # type: ignore[arg-type]
    message = await trial.add("first@dest.example", "second@dest.example", "third@dest.example")
    key = decode_id(message.id)[0]
    await store.close()

    db = old_release(tmp_path / "queue.db")
    found = db.execute("SELECT n, address FROM recipient WHERE message = ? AND state = 'deferred' ORDER BY n", (key,))
    assert found.fetchall() == [(0, "first@dest.example"), (1, "second@dest.example"), (2, "third@dest.example")]
    relayed = [key, 0, 1, "relayed", 0.0, "250 ok", "2.0.0", "", "", None, False, 9000, NOW, {"seq": 9000}]
    deferred = [key, 1, 1, "deferred", NOW + HOUR, "450 no", "4.2.0", "y", "", None, False, 9001, NOW, {"seq": 9001}]
    old_batch(db, settles=[relayed, deferred])
    added = decode_id(encode_id(key + 100, 7))
    old_batch(
        db,
        messages=[[*added, NOW, "a@b.example", "8BITMIME", 0, "192.0.2.7", "a", 5, 0, 3, 3]],
        recipients=[[added[0], 0, "new@dest.example", "dest.example", NOW]],
        octets=b"P: fresh",
    )
    assert db.pragma("user_version") == 3
    db.close()

    troubles: list[str] = []
    store = SqliteStore(tmp_path, on_trouble=troubles.append)
    await store.open()
    trial = Trial(NoMaker(), store)  # type: ignore[arg-type]
    try:
        assert await store.count() == (2, 3)
        leases = await store.lease(["dest.example"], NOW + HOUR, 10)
        left = {(lease.id, each.address): each.attempts for lease in leases for each in lease.recipients}
        assert left == {
            (message.id, "second@dest.example"): 1,
            (message.id, "third@dest.example"): 0,
            (encode_id(*added), "new@dest.example"): 0,
        }
        for lease in leases:
            whole = message.content.body if lease.id == message.id else b"fresh"  # type: ignore[attr-defined]
            assert content_of(await store.content(lease.id)) == whole
        await store.settle(trial.relayed(leases))
        assert await store.count() == (0, 0)
        assert troubles == []
    finally:
        await store.close()


def test_queue_of_a_newer_release_that_we_understand_is_used_as_it_is(tmp_path: Path) -> None:
    """A later additive migration keeps `user_version`: this release works on the file, and leaves its version alone."""
    path = tmp_path / "queue.db"
    db = database.open_writer(path)
    with db:
        db.execute("ALTER TABLE message ADD COLUMN later INTEGER")
        db.execute("INSERT INTO migration VALUES (?, 'of a later release')", (database.SCHEMA_VERSION + 1,))
    db.close()
    before = rows(path)

    database.open_writer(path).close()

    assert rows(path) == before
    assert copies(tmp_path) == []


@pytest.mark.asyncio
async def test_queue_of_a_newer_release_is_refused_with_both_versions_and_what_to_do(tmp_path: Path) -> None:
    """A file that only newer code can read is not touched, and the operator learns which release it takes."""
    path = tmp_path / "queue.db"
    db = database.open_writer(path)
    db.pragma("user_version", database.SCHEMA_VERSION + 2)
    db.close()
    before = rows(path)

    with pytest.raises(StoreError) as refused:
        await SqliteStore(tmp_path).open()

    told = str(refused.value)
    assert f"needs one that knows schema {database.SCHEMA_VERSION + 2}" in told
    assert f"this one knows schema {database.SCHEMA_VERSION}" in told
    assert "install that release again" in told
    assert rows(path) == before
