# SPDX-License-Identifier: MIT
"""The SQLite store with its real child process: crashes, poison, files, and who may use the directory."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from smarthost.backends.sqlite.store import SqliteStore
from smarthost.mail.content import Content
from smarthost.mail.errors import StoreError, StoreLocked
from smarthost.mail.identity import decode_id
from smarthost.mail.lease import Lease
from smarthost.mail.message import Message
from smarthost.mail.record import Kind, Record
from smarthost.mail.settlement import State
from smarthost.queue.store import DueDomain, Filter
from smarthost.testing.stores.trial import NOW, StoreMaker, Trial, content_of, numbers

pytestmark = pytest.mark.asyncio

LARGE = bytes(range(256)) * 1024


class NoMaker:
    """These tests crash and restart by themselves."""

    async def make(self) -> SqliteStore:
        raise NotImplementedError

    crash = restart = set_full = make


@asynccontextmanager
async def opened(directory: Path, **options: object) -> AsyncIterator[Trial]:
    """Give a trial of a store in the directory, closed afterwards."""
    store = SqliteStore(directory, **options)  # type: ignore[arg-type]
    await store.open()
    maker: StoreMaker = NoMaker()  # type: ignore[assignment]
    try:
        yield Trial(maker, store)
    finally:
        await store.close()


def sqlite(trial: Trial) -> SqliteStore:
    assert isinstance(trial.store, SqliteStore)
    return trial.store


def kill_child(trial: Trial) -> None:
    pid = sqlite(trial).child_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


async def until_reopened(trial: Trial) -> None:
    """Wait until the store has noticed and mended the death of its child."""
    while trial.store.refusal is None:
        await asyncio.sleep(0.001)
    while trial.store.refusal is not None:
        await asyncio.sleep(0.005)


def large_message(trial: Trial, content: bytes = LARGE) -> Message:
    return trial.message("a@dest.example", content=content)


def files(directory: Path) -> list[str]:
    return sorted([entry.name for entry in (directory / "content").iterdir()])


# -- crashes ----------------------------------------------------------------------------------------------------------


async def test_child_that_dies_is_replaced_and_nothing_acknowledged_is_missing(tmp_path: Path) -> None:
    """When the database process is killed, mail is refused for a moment, and what was acknowledged is still there."""
    troubles: list[str] = []
    async with opened(tmp_path / "s", on_trouble=troubles.append) as trial:
        kept = await trial.add("kept@dest.example")
        kill_child(trial)
        acknowledged = {kept.id}
        while trial.store.refusal is None:
            message = trial.message("b@dest.example")
            try:
                await trial.store.add(message, ())
                acknowledged.add(message.id)
            except StoreError:
                break
        while trial.store.refusal is not None:
            await asyncio.sleep(0.005)
        after = await trial.add("after@dest.example")

        page = await trial.store.find(Filter(), None, 1000)

        assert acknowledged | {after.id} <= {message.id for message in page.messages}
        assert troubles == ["the store's process ended unexpectedly", "the store's database is open again"]


async def test_settlement_heard_during_an_outage_is_committed_afterwards(tmp_path: Path) -> None:
    """What a host has said is not forgotten because the database process died; nobody delivers it again."""
    async with opened(tmp_path / "s") as trial:
        _, leases = await trial.add_leased("a@dest.example")
        kill_child(trial)
        with pytest.raises(StoreError):
            await trial.store.settle(trial.relayed(leases))

        while trial.store.refusal is not None:
            await asyncio.sleep(0.005)
        assert await trial.store.lease(["dest.example"], NOW, 10) == ()
        await trial.store.save_notes({"behind": b"x"})

        assert await trial.store.count() == (0, 0)
        assert await trial.kinds() == [Kind.RELAYED]


async def test_notes_of_an_outage_are_saved_again_with_the_same_records(tmp_path: Path) -> None:
    """When the database process dies, whoever saves notes is told; saved again, no record is lost or doubled."""
    async with opened(tmp_path / "s") as trial:
        _, (lease,) = await trial.add_leased("a@dest.example")
        await trial.store.settle([trial.settlement(lease, State.DEFERRED, due=NOW + 9, awaits=True)])
        records = [Record(trial.next_seq(), Kind.HOST_CLOSED, NOW + n, host="mx.dest.example") for n in range(3)]
        kill_child(trial)
        with pytest.raises(StoreError):
            await trial.store.save_notes({"host": b"closed"}, records)
        with pytest.raises(StoreError):
            await trial.store.release(["dest.example"], NOW)
        while trial.store.refusal is not None:
            await asyncio.sleep(0.005)

        await trial.store.save_notes({"host": b"closed"}, records)
        released = await trial.store.release(["dest.example"], NOW)

        assert released == 1
        assert await trial.store.load_notes("host") == {"host": b"closed"}
        assert (await trial.all_records())[1:] == records


async def test_reads_fail_when_the_child_dies_and_work_afterwards(tmp_path: Path) -> None:
    """A question that the database process cannot answer any more is an error, not a wait without end."""
    async with opened(tmp_path / "s") as trial:
        await trial.add("a@dest.example")
        kill_child(trial)
        with pytest.raises(StoreError):
            await trial.store.count()
        await until_reopened(trial)

        assert await trial.store.count() == (1, 1)


async def test_write_error_ends_the_connection_and_the_store_recovers(tmp_path: Path) -> None:
    """When the disk refuses a write, the mail in hand is refused, and the database is reopened and verified."""
    troubles: list[str] = []
    async with opened(tmp_path / "s", on_trouble=troubles.append) as trial:
        await trial.add("a@dest.example")
        pid = sqlite(trial).child_pid
        assert pid is not None
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, 4096))  # EFBIG stands for any error of the disk

        with pytest.raises(StoreError, match="IOError"):
            await trial.store.add(trial.message("b@dest.example", content=b"x" * 50_000), ())
        assert trial.store.refusal is not None
        while trial.store.refusal is not None:
            await asyncio.sleep(0.005)
        await trial.add("c@dest.example")

        assert await trial.states() == {"a@dest.example": "deferred", "c@dest.example": "deferred"}
        assert len(troubles) == 2


class Daemon:
    """A process that adds mail until it is killed; its child is the one that owns the database."""

    def __init__(self, directory: Path) -> None:
        program = Path(__file__).with_name("add_until_killed.py")
        command = [sys.executable, str(program), str(directory)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self._running = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        assert self._running.stdout is not None
        self._output = self._running.stdout
        self.child_pid = int(self._output.readline())
        self._first = self._output.readline()

    def kill(self) -> set[str]:
        """kill -9; gives the ids that were acknowledged."""
        self._running.kill()
        self._running.wait()
        lines = [self._first, *self._output.read().splitlines(keepends=True)]
        self._output.close()
        return {line.decode().strip() for line in lines if line.endswith(b"\n")}


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0.05, 0.15, 0.3])
async def test_kill_9_of_the_whole_daemon_loses_nothing_acknowledged(tmp_path: Path, delay_s: float) -> None:
    """Mail that was acknowledged before kill -9 is there afterwards, with its content."""
    daemon = Daemon(tmp_path / "s")
    await asyncio.sleep(delay_s)
    acknowledged = daemon.kill()

    async with opened(tmp_path / "s") as trial:
        leases: list[Lease] = []
        while more := await trial.store.lease(["dest.example"], NOW + 1, 500):
            leases += more
        assert len(acknowledged) > 1
        assert acknowledged <= {lease.id for lease in leases}
        for lease in leases:
            body = content_of(await trial.store.content(lease.id))
            assert body.startswith(lease.id.encode())
            assert len(body) == lease.octets


@pytest.mark.slow
async def test_new_daemon_waits_for_the_child_of_a_killed_one(tmp_path: Path) -> None:
    """The database process of a killed daemon finishes its batch before anybody else opens the database."""
    daemon = Daemon(tmp_path / "s")
    os.kill(daemon.child_pid, signal.SIGSTOP)  # a disk that takes its time
    daemon.kill()
    store = SqliteStore(tmp_path / "s")
    opening = asyncio.ensure_future(store.open())
    await asyncio.sleep(0.2)
    assert not opening.done()

    os.kill(daemon.child_pid, signal.SIGCONT)

    await opening
    await store.close()


# -- poison -----------------------------------------------------------------------------------------------------------


async def test_impossible_message_fails_alone(tmp_path: Path) -> None:
    """A message that the database cannot hold is refused; its neighbours in the same batch are filed."""
    troubles: list[str] = []
    async with opened(tmp_path / "s", on_trouble=troubles.append) as trial:
        messages = [trial.message("a@dest.example"), trial.message("b@dest.example", received_at=float("nan"))]
        messages += [trial.message("\ud800@dest.example"), trial.message("c@dest.example")]

        adds = [trial.store.add(message, ["dest.example"]) for message in messages]
        results = await asyncio.gather(*adds, return_exceptions=True)

        assert [isinstance(result, StoreError) for result in results] == [False, True, True, False]
        assert sorted(await trial.states()) == ["a@dest.example", "c@dest.example"]
        assert trial.store.refusal is None
        assert len(troubles) == 2


async def test_reused_number_with_another_tag_is_refused(tmp_path: Path) -> None:
    """Two messages never share a row: the second is refused instead of being lost in silence."""
    async with opened(tmp_path / "s") as trial:
        message = await trial.add("a@dest.example")
        twin = trial.message("b@dest.example")
        twin = Message(message.id[:-1] + "0", NOW, twin.envelope, twin.prefix, twin.content, "", "")

        with pytest.raises(StoreError):
            await trial.store.add(twin, ())

        assert await trial.states() == {"a@dest.example": "deferred"}


async def test_impossible_settlement_is_told_and_its_lease_given_back(tmp_path: Path) -> None:
    """A settlement that the database cannot hold is reported, and its recipient is tried again instead of lost."""
    troubles: list[str] = []
    async with opened(tmp_path / "s", on_trouble=troubles.append) as trial:
        poisoned, (bad,) = await trial.add_leased("a@dest.example")
        _, (good,) = await trial.add_leased("b@dest.example")
        settlements = [
            trial.settlement(bad, State.DEFERRED, due=float("nan")),
            trial.settlement(good, State.RELAYED),
        ]

        with pytest.raises(StoreError):
            await trial.store.settle(settlements)
        await trial.store.save_notes({"behind": b"x"})

        assert await trial.states() == {"a@dest.example": "deferred"}
        assert numbers(await trial.store.lease(["dest.example"], NOW, 10)) == [(poisoned.id, 0)]
        assert len(troubles) == 1
        assert poisoned.id in troubles[0]


async def test_adder_that_stops_waiting_holds_no_lease(tmp_path: Path) -> None:
    """When nobody waits for an add any more, its message is filed all the same, and its recipients are due."""
    async with opened(tmp_path / "s") as trial:
        adding = trial.store.add(trial.message("a@dest.example"), ["dest.example"])
        assert isinstance(adding, asyncio.Future)
        adding.cancel()
        await trial.store.save_notes({"behind": b"x"})

        assert (await trial.store.due(NOW, 10)).domains == (DueDomain("dest.example", NOW),)


async def test_notes_beside_an_impossible_message_are_saved_in_order(tmp_path: Path) -> None:
    """A wrong neighbour in the batch costs notes neither their order nor a record."""
    async with opened(tmp_path / "s") as trial:
        records = [Record(trial.next_seq(), Kind.HOST_OPEN, NOW, host="mx.dest.example") for _ in range(2)]
        saves = [
            trial.store.save_notes({"host": b"1"}, records[:1]),
            trial.store.add(trial.message("\ud800@dest.example"), ()),
            trial.store.save_notes({"host": b"2"}, records[1:]),
        ]

        results = await asyncio.gather(*saves, return_exceptions=True)

        assert [isinstance(result, StoreError) for result in results] == [False, True, False]
        assert await trial.store.load_notes("host") == {"host": b"2"}
        assert await trial.all_records() == records


async def test_impossible_note_fails_alone_with_its_records(tmp_path: Path) -> None:
    """Notes that the database cannot hold are refused with their records, and their neighbours are saved."""
    async with opened(tmp_path / "s") as trial:
        records = [Record(trial.next_seq(), Kind.HOST_OPEN, NOW, host=host) for host in ("mx", "\ud800")]
        saves = [
            trial.store.save_notes({"good": b"1"}, records[:1]),
            trial.store.save_notes({"bad": b"1"}, records[1:]),
        ]

        results = await asyncio.gather(*saves, return_exceptions=True)

        assert [isinstance(result, StoreError) for result in results] == [False, True]
        assert await trial.store.load_notes("bad") == {}
        assert await trial.all_records() == records[:1]


# -- content files ----------------------------------------------------------------------------------------------------


async def test_large_content_lives_in_a_file_until_its_message_goes(tmp_path: Path) -> None:
    """Large content is a file named by its message, and is deleted with it."""
    async with opened(tmp_path / "s") as trial:
        message = large_message(trial)
        (lease,) = await trial.store.add(message, ["dest.example"])

        assert lease.content is None
        assert files(tmp_path / "s") == [message.id]
        assert content_of(await trial.store.content(message.id)) == LARGE
        await trial.store.settle(trial.relayed([lease]))
        while files(tmp_path / "s"):
            await asyncio.sleep(0.001)


async def test_refused_large_message_leaves_no_file(tmp_path: Path) -> None:
    """A message that could not be filed leaves its content nowhere."""
    async with opened(tmp_path / "s") as trial:
        message = trial.message("a@dest.example", content=LARGE, received_at=float("nan"))

        with pytest.raises(StoreError):
            await trial.store.add(message, ())

        while files(tmp_path / "s"):
            await asyncio.sleep(0.001)


async def test_files_without_a_message_are_swept_at_start(tmp_path: Path) -> None:
    """What a crash left between a file and its row is deleted at the next start; nothing else is."""
    async with opened(tmp_path / "s") as trial:
        message = large_message(trial)
        await trial.store.add(message, ())
        orphan = trial.message("x@y.example").id
    for name in (orphan, "7.draft", "a file of the operator"):
        (tmp_path / "s" / "content" / name).write_bytes(b"x")

    async with opened(tmp_path / "s") as trial:
        assert files(tmp_path / "s") == sorted([message.id, "a file of the operator"])
        assert content_of(await trial.store.content(message.id)) == LARGE


async def test_draft_survives_the_death_of_the_child(tmp_path: Path) -> None:
    """Content that is being received when the database process dies is not swept away as an orphan."""
    async with opened(tmp_path / "s") as trial:
        draft = trial.store.draft()
        draft.write(LARGE)
        kill_child(trial)
        await until_reopened(trial)
        draft.write(LARGE)
        message = trial.message("a@dest.example", content=draft.finish())
        await trial.store.add(message, ())

        assert content_of(await trial.store.content(message.id)) == LARGE * 2


async def test_missing_content_file_is_an_error_with_its_path(tmp_path: Path) -> None:
    """When a content file is gone or short, whoever reads it is told which."""
    async with opened(tmp_path / "s") as trial:
        message = large_message(trial)
        await trial.store.add(message, ())
        path = tmp_path / "s" / "content" / message.id

        os.truncate(path, 1000)
        with pytest.raises(StoreError, match=rf"cut off: {path}"):
            await trial.store.content(message.id)
        path.unlink()
        with pytest.raises(StoreError, match=str(path)):
            content_of(await trial.store.content(message.id))


async def test_content_just_below_the_threshold_makes_no_file(tmp_path: Path) -> None:
    """Small content stays in the database, where many messages share one fsync."""
    async with opened(tmp_path / "s", inline_octets=1000) as trial:
        await trial.store.add(large_message(trial, b"x" * 1000), ())
        assert files(tmp_path / "s") == []
        draft = trial.store.draft()
        draft.write(b"x" * 500)
        draft.write(b"x" * 500)
        content: Content = draft.finish()
        await trial.store.add(trial.message("a@dest.example", content=content), ())
        assert files(tmp_path / "s") == []

        await trial.store.add(large_message(trial, b"x" * 1001), ())

        assert len(files(tmp_path / "s")) == 1


# -- whose directory --------------------------------------------------------------------------------------------------


async def test_second_daemon_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    """Two daemons never share a state directory."""
    async with opened(tmp_path / "s"):
        second = SqliteStore(tmp_path / "s")
        with pytest.raises(StoreLocked, match=f"in use by process {os.getpid()}"):
            await second.open()

    async with opened(tmp_path / "s"):
        pass


async def test_directory_with_files_of_others_is_refused(tmp_path: Path) -> None:
    """A mistyped state directory is not filled with a queue."""
    (tmp_path / "photo.jpg").write_bytes(b"x")

    with pytest.raises(StoreLocked, match=r"photo\.jpg"):
        await SqliteStore(tmp_path).open()

    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["photo.jpg"]


async def test_new_directory_is_for_our_eyes_only(tmp_path: Path) -> None:
    """Mail is private: directory, database and content files belong to one user."""
    async with opened(tmp_path / "deep" / "s") as trial:
        await trial.store.add(large_message(trial), ())

        modes = {entry.name: entry.stat().st_mode & 0o077 for entry in (tmp_path / "deep" / "s").rglob("*")}

    assert (tmp_path / "deep" / "s").stat().st_mode & 0o777 == 0o700
    assert {name for name, mode in modes.items() if mode} == set()


async def test_database_of_another_program_is_refused(tmp_path: Path) -> None:
    """A database that is not a queue is not touched."""
    (tmp_path / "s").mkdir()
    db = apsw.Connection(str(tmp_path / "s" / "queue.db"))
    db.execute("CREATE TABLE recipes (name)")
    db.close()

    with pytest.raises(StoreError, match="another program"):
        await SqliteStore(tmp_path / "s").open()


async def test_newer_schema_is_refused(tmp_path: Path) -> None:
    """A queue written by a newer release is not damaged by an older one."""
    async with opened(tmp_path / "s"):
        pass
    db = apsw.Connection(str(tmp_path / "s" / "queue.db"))
    db.pragma("user_version", 99)
    db.close()

    with pytest.raises(StoreError, match="newer smarthost"):
        await SqliteStore(tmp_path / "s").open()


async def test_database_of_which_nothing_is_left_is_a_clear_error(tmp_path: Path) -> None:
    """What holds nothing of a queue is neither overwritten nor ignored: the error says which file, and what to do."""
    async with opened(tmp_path / "s") as trial:
        await trial.add("a@dest.example")
    path = tmp_path / "s" / "queue.db"
    for damage in (b"garbage, garbage, garbage", b"SQLite format 3\0" + b"\xff" * 84):
        octets = damage.ljust(path.stat().st_size, b"\xa5")
        path.write_bytes(octets)

        with pytest.raises(StoreError, match=r"queue\.db.* Put a backup in its place"):
            await SqliteStore(tmp_path / "s").open()
        assert path.read_bytes() == octets


async def test_opening_again_after_a_failure_works(tmp_path: Path) -> None:
    """A start that failed leaves no lock behind."""
    (tmp_path / "s").mkdir()
    path = tmp_path / "s" / "queue.db"
    path.write_bytes(b"not a database at all")
    store = SqliteStore(tmp_path / "s")
    with pytest.raises(StoreError):
        await store.open()
    path.unlink()

    await store.open()
    await store.close()


async def test_child_ignores_signals_meant_for_the_daemon(tmp_path: Path) -> None:
    """Ctrl-C in the terminal, or a service manager's SIGTERM to the group, is the daemon's to decide about."""
    async with opened(tmp_path / "s") as trial:
        pid = sqlite(trial).child_pid
        assert pid is not None
        assert os.getpgid(pid) != os.getpgid(0)
        for sent in (signal.SIGINT, signal.SIGTERM):
            os.kill(pid, sent)
        await trial.add("a@dest.example")

        assert sqlite(trial).child_pid == pid


async def test_child_is_small(tmp_path: Path) -> None:
    """The database process does not load the relay a second time."""
    async with opened(tmp_path / "s") as trial:
        await trial.add("a@dest.example")
        status = Path(f"/proc/{sqlite(trial).child_pid}/status").read_text()

    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    assert int(resident.split()[1]) < 30 * 1024


async def test_lease_that_ends_during_a_read_is_read_again(tmp_path: Path) -> None:
    """What is given back while others ask for leases is neither given out on old evidence nor asked for in circles."""
    async with opened(tmp_path / "s") as trial:
        message, (lease,) = await trial.add_leased("a@dest.example")
        other = await trial.add("b@dest.example")
        store = sqlite(trial)
        asked = []
        ask = store._keeper.ask

        async def ask_slowly(question: Any, answer: Any) -> Any:
            reply = await ask(question, answer)
            asked.append(question)
            if len(asked) == 1:
                early = [row.key for row in reply.messages]
                trial.store.give_back(lease)
                assert early == [decode_id(other.id)[0]]
            return reply

        store._keeper.ask = ask_slowly  # type: ignore[method-assign]
        first = await trial.store.lease(["dest.example"], NOW, 10)
        second = await trial.store.lease(["dest.example"], NOW, 10)

        assert numbers(first) == [(other.id, 0)]
        assert numbers(second) == [(message.id, 0)]
        assert len(asked) == 2


async def test_row_older_than_its_settlement_is_not_leased(tmp_path: Path) -> None:
    """A recipient that was added, delivered and settled while a read was under way is not delivered again."""
    async with opened(tmp_path / "s") as trial:
        store = sqlite(trial)
        ask = store._keeper.ask
        message = trial.message("a@dest.example")
        is_first = True

        async def ask_slowly(question: Any, answer: Any) -> Any:
            nonlocal is_first
            if not is_first:
                return await ask(question, answer)
            is_first = False
            (lease,) = await trial.store.add(message, ["dest.example"])
            reply = await ask(question, answer)  # the question does not know the lease
            await trial.store.settle([trial.settlement(lease, State.RELAYED)])
            assert [row.key for row in reply.messages] == [decode_id(message.id)[0]]
            return reply

        store._keeper.ask = ask_slowly  # type: ignore[method-assign]

        assert await trial.store.lease(["dest.example"], NOW, 10) == ()


async def test_leases_that_nobody_gets_are_given_back(tmp_path: Path) -> None:
    """When a read for leases must be repeated and then fails, what it had leased already is not lost."""
    async with opened(tmp_path / "s") as trial:
        message, (lease,) = await trial.add_leased("a@dest.example", "b@dest.example")
        trial.store.give_back(lease)
        store = sqlite(trial)
        ask = store._keeper.ask
        asked = 0

        async def ask_and_fail(question: Any, answer: Any) -> Any:
            nonlocal asked
            asked += 1
            if asked == 2:
                raise StoreError("the child died")
            reply = await ask(question, answer)
            store._leases.take(message.id, decode_id(message.id)[0], 0, "dest.example")  # somebody was faster
            return reply

        store._keeper.ask = ask_and_fail  # type: ignore[method-assign]
        with pytest.raises(StoreError):
            await trial.store.lease(["dest.example"], NOW, 10)
        store._keeper.ask = ask  # type: ignore[method-assign]

        assert numbers(await trial.store.lease(["dest.example"], NOW, 10)) == [(message.id, 1)]


async def test_a_queue_older_than_its_records_is_told_from_one_that_is_remembered(tmp_path: Path) -> None:
    """Who looks for an address looks through the queue itself only where records do not reach back."""
    async with opened(tmp_path / "s") as trial:
        assert await trial.store.remembers_all()
        message = trial.message("a@dest.example")
        await trial.store.add(message, (), Record(1, Kind.ACCEPTED, NOW, message.id, "a@dest.example"))
        assert await trial.store.remembers_all()
    db = apsw.Connection(str(tmp_path / "s" / "queue.db"))
    (day,) = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE name GLOB 'about_*'").fetchall()]
    db.execute(f"ALTER TABLE {day} RENAME TO about_29990101")
    db.close()

    async with opened(tmp_path / "s") as trial:
        assert not await trial.store.remembers_all()
