# SPDX-License-Identifier: MIT
"""Backups of a state directory: consistent while mail goes on, whole or not there, and state directories themselves."""

import asyncio
import errno
import itertools
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import msgspec
import pytest
import pytest_asyncio
from tests.backends.forked import interrupted_at

from smarthost.backends.sqlite import kept
from smarthost.backends.sqlite.backup import Deletions, NotBackedUp, back_up
from smarthost.backends.sqlite.store import SqliteStore
from smarthost.mail.backup import NOTE, Backup, BackupNote
from smarthost.mail.errors import StoreError, StoreLocked
from smarthost.mail.settlement import State
from smarthost.testing.stores.trial import NOW, Trial, content_of

LARGE = b"Subject: large\r\n\r\n" + b"z" * 300_000  # in a file
TAKEN = BackupNote(NOW, "1.2.3")


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """An open store in `state`."""
    store = SqliteStore(tmp_path / "state")
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def trial_of(store: SqliteStore) -> Trial:
    return Trial(None, store)  # type: ignore[arg-type]


async def fill(store: SqliteStore, n: int = 5, trial: Trial | None = None) -> list[str]:
    """Add as many small and large messages, and give their ids; `trial` numbers them, and those that follow."""
    trial = trial or trial_of(store)
    messages = [
        trial.message(f"u{k}@dest.example", "other@dest.example", content=content)
        for k in range(n)
        for content in (b"small %d" % k, LARGE + b"%d" % k)
    ]
    for message in messages:
        await store.add(message, ())
    return [message.id for message in messages]


async def contents(directory: Path) -> dict[str, bytes]:
    """Open a state directory and read everything that is due there."""
    store = SqliteStore(directory)
    await store.open()
    try:
        leases = await store.lease(["dest.example"], NOW + 1, 1000)
        return {lease.id: content_of(await store.content(lease.id)) for lease in leases}
    finally:
        await store.close()


def left(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


@pytest.mark.asyncio
async def test_copy_of_a_live_queue_is_a_state_directory_with_all_its_mail(store: SqliteStore, tmp_path: Path) -> None:
    """What was in the queue is in the copy, content in files too, and the queue itself goes on."""
    ids = await fill(store)

    made = await store.back_up(tmp_path / "copy", "1.2.3")

    assert (made.directory, made.messages, made.recipients) == (str(tmp_path / "copy"), len(ids), 2 * len(ids))
    files = [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]
    assert made.octets == sum(path.stat().st_size for path in files)
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    found = await contents(tmp_path / "copy")
    assert sorted(found) == sorted(ids)
    assert sorted(len(content) for content in found.values()) == [7] * 5 + [len(LARGE) + 1] * 5
    assert await store.count() == (len(ids), 2 * len(ids))


@pytest.mark.asyncio
async def test_copy_knows_that_it_is_one(store: SqliteStore, tmp_path: Path) -> None:
    """The start on a copy can tell when it was taken, by which release, and how much was unfinished then."""
    await fill(store)

    await store.back_up(tmp_path / "copy", "1.2.3")

    assert await store.load_notes(NOTE) == {}
    copy = SqliteStore(tmp_path / "copy")
    await copy.open()
    try:
        note = msgspec.json.decode((await copy.load_notes(NOTE))[NOTE], type=BackupNote)
    finally:
        await copy.close()
    assert (note.version, note.messages, note.recipients) == ("1.2.3", 10, 20)


@pytest.mark.asyncio
async def test_mail_goes_on_while_a_backup_is_made(store: SqliteStore, tmp_path: Path) -> None:
    """Mail is taken, read and settled meanwhile; the copy is the queue as it was at one moment in between."""
    trial = trial_of(store)
    before = await fill(store, trial=trial)
    making = asyncio.ensure_future(store.back_up(tmp_path / "copy", "1.2.3"))
    while not making.done():
        message = trial.message("late@dest.example", content=LARGE)
        (lease,) = await store.add(message, ["dest.example"])
        await store.content(message.id)
        await store.settle([trial.settlement(lease, State.RELAYED)])
    made = await making

    found = await contents(tmp_path / "copy")

    assert set(before) <= set(found)
    assert len(found) == made.messages
    assert all(content.startswith((b"small", LARGE)) for content in found.values())


@pytest.mark.asyncio
async def test_content_that_is_deleted_meanwhile_is_in_the_copy(store: SqliteStore, tmp_path: Path) -> None:
    """What was delivered while the database was copied is in it as it was before: its content is there too."""
    ids = await fill(store)
    state = tmp_path / "state"
    deletions = Deletions(state / "content")
    names = [path.name for path in (state / "content").iterdir()]

    made = back_up(state, tmp_path / "copy", TAKEN, deletions, lambda done, total: deletions.drop(names))

    assert list((state / "content").iterdir()) == [], "deleted once the copy was made"
    assert made.missing == 0
    assert sorted(await contents(tmp_path / "copy")) == sorted(ids)


def test_content_that_cannot_be_deleted_is_tried_again_with_the_next(tmp_path: Path) -> None:
    """An error of the disk ends, the daemon goes on: nothing lies there until the next start; others do not wait."""
    deletions = Deletions(tmp_path)
    (tmp_path / "stuck").mkdir()  # no file to unlink
    (tmp_path / "other").touch()

    with pytest.raises(OSError, match="stuck"):
        deletions.drop(["stuck", "other"])
    left = [path.name for path in tmp_path.iterdir()]
    (tmp_path / "stuck").rmdir()
    (tmp_path / "stuck").touch()
    (tmp_path / "third").touch()
    deletions.drop(["third"])

    assert ["stuck"] == left
    assert [] == list(tmp_path.iterdir())


@pytest.mark.asyncio
async def test_copy_to_another_file_system_has_the_octets(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no hard link is possible content is copied."""
    ids = await fill(store)

    def no_link(file: Path, link: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    back_up(tmp_path / "state", tmp_path / "copy", TAKEN, Deletions(tmp_path / "state/content"))

    assert {path.stat().st_nlink for path in (tmp_path / "copy/content").iterdir()} == {1}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "copy/content").iterdir()} == {0o600}
    assert sorted(await contents(tmp_path / "copy")) == sorted(ids)


@pytest.mark.asyncio
async def test_content_the_queue_has_lost_does_not_cost_the_rest(store: SqliteStore, tmp_path: Path) -> None:
    """A damaged queue can be backed up too; how much of it is missing is said."""
    await fill(store)
    next((tmp_path / "state/content").iterdir()).unlink()

    made = await store.back_up(tmp_path / "copy", "1.2.3")

    assert (made.messages, made.missing) == (10, 1)


@pytest.mark.asyncio
async def test_directory_must_be_empty_or_not_exist(store: SqliteStore, tmp_path: Path) -> None:
    """No backup is overwritten, and none is mixed with anything."""
    await fill(store, 1)
    (tmp_path / "empty").mkdir(mode=0o755)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/note.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")

    await store.back_up(tmp_path / "empty", "1.2.3")

    assert (tmp_path / "empty").stat().st_mode & 0o777 == 0o700
    for name in ("empty", "full", "file"):
        with pytest.raises(StoreError, match=f"{name} is not empty: name a directory that is"):
            await store.back_up(tmp_path / name, "1.2.3")
    with pytest.raises(StoreError, match=r"cannot be copied to .*No such file or directory"):
        await store.back_up(tmp_path / "nowhere/copy", "1.2.3")
    assert left(tmp_path / "full") == ["note.txt"]


@pytest.mark.asyncio
async def test_backup_that_would_fill_the_disk_is_not_begun(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup must not be what stops the mail; the operator learns how much room it takes."""
    monkeypatch.setattr(kept, "free_octets", lambda directory: 2 << 20)

    with pytest.raises(NotBackedUp, match="17 MiB are needed there, and 2 MiB are free"):
        back_up(tmp_path / "state", tmp_path / "copy", TAKEN, Deletions(tmp_path / "state/content"))

    assert not (tmp_path / "copy").exists()


@pytest.mark.asyncio
async def test_one_backup_at_a_time_and_nothing_is_left_of_one_given_up(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever interrupts a backup can begin another at once, in the same place."""
    await fill(store)
    making = asyncio.ensure_future(store.back_up(tmp_path / "copy", "1.2.3"))
    await asyncio.sleep(0)
    with pytest.raises(StoreError, match=f"a backup to {tmp_path / 'copy'} is under way: wait for its end"):
        await store.back_up(tmp_path / "other", "1.2.3")

    making.cancel()
    await asyncio.gather(making, return_exceptions=True)
    async with asyncio.timeout(10):
        while True:
            try:
                made = await store.back_up(tmp_path / "again", "1.2.3")
                break
            except StoreError:  # the one that was given up ends at its next step, if it had not come to its end
                await asyncio.sleep(0.01)

    assert made.messages == 10
    if (tmp_path / "copy").exists():
        assert len(await contents(tmp_path / "copy")) == 10


def test_backup_given_up_leaves_nothing(tmp_path: Path) -> None:
    """When nobody wants it any more, a backup ends at its next step and takes everything away."""
    asyncio.run(_stopped_queue(tmp_path / "state"))
    (tmp_path / "empty").mkdir()

    def give_up(done: int, total: int) -> None:
        raise NotBackedUp("the backup was given up")

    for name in ("new", "empty"):
        with pytest.raises(NotBackedUp, match="given up"):
            back_up(tmp_path / "state", tmp_path / name, TAKEN, Deletions(tmp_path / "state/content"), give_up)

    assert not (tmp_path / "new").exists()
    assert left(tmp_path / "empty") == []


async def _stopped_queue(directory: Path, crash: bool = False) -> list[str]:
    """Leave a queue without its daemon; after a `crash` most of it is in the WAL."""
    store = SqliteStore(directory)
    await store.open()
    ids = await fill(store)
    if crash:
        store.kill()
    else:
        await store.close()
    return ids


@pytest.mark.asyncio
async def test_queue_of_a_killed_daemon_can_be_backed_up(tmp_path: Path) -> None:
    """What a crash left in the WAL is in the copy, and the queue itself is as it was."""
    ids = await _stopped_queue(tmp_path / "state", crash=True)
    wal = (tmp_path / "state/queue.db-wal").read_bytes()
    assert wal

    back_up(tmp_path / "state", tmp_path / "copy", TAKEN, Deletions(tmp_path / "state/content"))

    assert (tmp_path / "state/queue.db-wal").read_bytes() == wal
    assert left(tmp_path / "copy")[-1] == "queue.db", "one file"
    assert sorted(await contents(tmp_path / "copy")) == sorted(ids)
    assert sorted(await contents(tmp_path / "state")) == sorted(ids)


@pytest.mark.parametrize("made", ["nothing", "other"], ids=["no queue", "another program's"])
def test_what_is_no_queue_is_not_backed_up(tmp_path: Path, made: str) -> None:
    """A wrong directory is noticed, and nothing is left where the copy would have been."""
    (tmp_path / "state").mkdir()
    if made == "other":
        apsw.Connection(str(tmp_path / "state/queue.db")).execute("CREATE TABLE t (x)")

    with pytest.raises(NotBackedUp):
        back_up(tmp_path / "state", tmp_path / "copy", TAKEN, Deletions(tmp_path / "state/content"))

    assert not (tmp_path / "copy").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "failure",
    [None, apsw.FullError("database or disk is full"), OSError(errno.ENOSPC, "No space left on device")],
    ids=["kill -9", "SQLite has no room", "there is no room"],
)
def test_backup_interrupted_at_any_step_is_whole_or_none(
    tmp_path: Path, failure: Exception | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Killed or failing wherever, it leaves a whole backup or what no start takes for a queue; failing, nothing."""
    state = tmp_path / "state"
    ids = asyncio.run(_stopped_queue(state))
    before = {path.name: path.read_bytes() for path in (state / "content").iterdir()}

    for step in itertools.count(1):
        place = tmp_path_factory.mktemp("step")
        target = place / "copy"

        def work(target: Path = target) -> Backup:
            return back_up(state, target, TAKEN, Deletions(state / "content"))

        if not interrupted_at(step, work, failure):
            break
        if (target / "queue.db").exists():
            assert sorted(asyncio.run(contents(target))) == sorted(ids), f"at step {step}"
            assert failure is None
        elif failure is not None:
            assert not target.exists(), f"at step {step}: {left(target)}"
        elif target.exists() and left(target):
            with pytest.raises(StoreLocked, match="not ours"):
                asyncio.run(contents(target))
            with pytest.raises(NotBackedUp, match="interrupted: remove it"):
                work()
        shutil.rmtree(place)

    assert step > 20
    assert {path.name: path.read_bytes() for path in (state / "content").iterdir()} == before
    assert sorted(asyncio.run(contents(state))) == sorted(ids)
